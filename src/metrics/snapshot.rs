//! A daemon's account of itself at a moment.

use std::time::Duration;

use pixii_core::members::Liveness;
use pixii_core::message::{Counter, PeerStatus, StatusReport};
use pixii_transport::inflow::Usage;

use super::Meter;
use super::text::{self, Labels, Page};

const MILLI: f64 = 1e3;
const MICRO: f64 = 1e6;
const KIB: f64 = 1_024.0;

/// Counts that have a family of their own: which, its name, help.
const COUNTED: [(Counter, &str, &str); 5] = [
    (
        Counter::MergesDeclined,
        "pixii_merges_declined",
        "Merges between nodes that were declined because the key would have outgrown a limit.",
    ),
    (
        Counter::HintsDeclined,
        "pixii_hints_declined",
        "Hints that this node declined because the key would have outgrown a limit; their \
         fallbacks keep them.",
    ),
    (
        Counter::ReadsRepaired,
        "pixii_reads_repaired",
        "Reads that saw an owner behind, which was sent what it lacked.",
    ),
    (
        Counter::StaleObjectsRefused,
        "pixii_stale_objects_refused",
        "Objects and hints of peers that were refused because they were of an older GC epoch of \
         their partition.",
    ),
    (Counter::PeerBytesSent, "pixii_peer_sent_bytes", "Bytes of messages to other members."),
];

/// How much is in progress in a daemon.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    /// Clients connected.
    pub(crate) clients: usize,
    /// Requests of clients that the node works on.
    pub(crate) requests: usize,
    /// What connections have brought and the engine has not taken.
    pub(crate) events: usize,
    /// What the store has done and the engine has not taken.
    pub(crate) reports: usize,
    /// Reads that wait for the store.
    pub(crate) reads: u64,
    /// Reads of the background that wait for it.
    pub(crate) scans: u64,
    /// Bytes that are written and not synced.
    pub(crate) unsynced_bytes: u64,
    /// Bytes free on the disk, if it is one.
    pub(crate) free_bytes: Option<u64>,
    /// Bytes that it keeps in reserve.
    pub(crate) reserve_bytes: u64,
    /// For how long the store has made no progress; nothing while it does.
    pub(crate) stalled: Duration,
    /// Segments of the store's log that were read off the device in this incarnation.
    pub(crate) segments_scrubbed: u64,
    /// True while the store is known to be damaged on the device.
    pub(crate) is_damaged: bool,
    /// Messages and bytes that wait to leave for each peer, in the order of the status.
    pub(crate) unsent: Vec<(usize, usize)>,
    /// Most clients that may be connected.
    pub(crate) client_places: usize,
    /// Memory for large frames, by what they come from.
    pub(crate) frame_memory: [(&'static str, Usage); 2],
    /// Bytes of replies that clients have not read, and most of them.
    pub(crate) reply_memory: (usize, usize),
}

/// All that a daemon reports to those who watch it.
#[derive(Clone, Debug)]
pub(crate) struct MetricsSnapshot {
    /// How the node is.
    pub(crate) status: StatusReport,
    /// Why it is not ready to take every request, if so.
    pub(crate) unready: Option<String>,
    /// What it has measured.
    pub(crate) meter: Meter,
    /// What is in progress.
    pub(crate) load: Load,
}

impl MetricsSnapshot {
    /// The metrics and the type of their text: OpenMetrics for those who read it, else the text of
    /// Prometheus, which every tool for either reads.
    pub(crate) fn metrics(&self, openmetrics: bool) -> (&'static str, String) {
        let mut page = Page::default();
        self.put_node(&mut page);
        self.put_requests(&mut page);
        self.put_store(&mut page);
        self.put_queues(&mut page);
        self.put_peers(&mut page);
        self.put_repair(&mut page);
        self.put_counts(&mut page);
        match openmetrics {
            true => (text::OPENMETRICS, page.end()),
            false => (text::PROMETHEUS, text::prometheus(&page.end())),
        }
    }

    fn put_node(&self, page: &mut Page) {
        let status = &self.status;
        page.family("pixii_build", "info", "The program.");
        let commit = crate::COMMIT.unwrap_or("unknown");
        let labels = vec![("version", status.version.as_str()), ("commit", commit)];
        page.sample("_info", &labels, 1);
        page.family("pixii_node", "info", "The node.");
        let labels = vec![("cluster", status.cluster.as_str()), ("name", &status.name)];
        page.sample("_info", &labels, 1);
        let ready = u8::from(self.unready.is_none());
        page.gauge("pixii_ready", "1 if the node takes requests; /readyz says why not.", ready);
        let drained = u8::from(status.gauges.drained);
        page.gauge("pixii_drained", "1 while the node is taken out by its operator.", drained);
        let uptime = status.uptime_ms as f64 / MILLI;
        page.gauge(
            "pixii_uptime_seconds",
            "Time since this incarnation of the node \
            began.",
            uptime,
        );
        let help = "How often the store has been started.";
        page.gauge("pixii_incarnation", help, status.incarnation.0);
        page.gauge("pixii_partitions", "Partitions that the node owns.", status.partitions);
        let help = "Partitions of the node that cannot be served: too few of their owners are up.";
        page.gauge(
            "pixii_cluster_unservable_partitions",
            help,
            status.gauges.unservable_partitions,
        );
        let help = "Partitions whose absent keys do not count here until they are recovered.";
        page.gauge("pixii_partitions_read_ineligible", help, status.read_ineligible);
        let help = "Partitions without another owner where acknowledged writes may be missing, \
            not accepted yet.";
        page.gauge("pixii_partitions_lost", help, status.gauges.partitions_lost);
    }

    fn put_requests(&self, page: &mut Page) {
        let help = "Requests of clients, from their arrival at this node to its answer.";
        page.family("pixii_request_duration_seconds", "histogram", help);
        for ((kind, outcome), histogram) in &self.meter.requests {
            page.histogram(&vec![("kind", kind), ("outcome", outcome)], histogram);
        }
        let help = "Requests of clients that were not carried out.";
        page.family("pixii_requests_refused", "counter", help);
        for ((kind, reason), count) in &self.meter.refused {
            page.sample("_total", &vec![("kind", kind), ("reason", reason)], count);
        }
        page.family("pixii_get_siblings", "histogram", "Values that a get showed.");
        page.histogram(&Vec::new(), &self.meter.siblings);
    }

    fn put_store(&self, page: &mut Page) {
        let help =
            "Own keys whose siblings together are over the limit of what a write may make of one.";
        page.gauge("pixii_oversized_keys", help, self.status.gauges.oversized_keys);
        let help = "Bytes that the store takes on disk, as of a second ago.";
        page.gauge("pixii_store_size_bytes", help, self.status.disk_bytes);
        if let Some(free_bytes) = self.load.free_bytes {
            page.gauge("pixii_disk_free_bytes", "Bytes free on the store's disk.", free_bytes);
        }
        let help = "With less free than this, the node refuses writes.";
        page.gauge("pixii_disk_reserve_bytes", help, self.load.reserve_bytes);
        let help = "For how long the store has made no progress: its disk hangs; 0 while it does.";
        page.gauge("pixii_store_stalled_seconds", help, self.load.stalled.as_secs_f64());
        let help = "Segments of the store's log that were read off the disk, and are whole.";
        page.family("pixii_store_segments_scrubbed", "counter", help);
        page.sample("_total", &Vec::new(), self.load.segments_scrubbed);
        let help = "1 while the store is damaged on its disk, and a new one is not made yet.";
        page.gauge("pixii_store_damaged", help, u8::from(self.load.is_damaged));
        let help = "Batches of writes: the time to write one and sync it.";
        page.family("pixii_store_sync_duration_seconds", "histogram", help);
        page.histogram(&Vec::new(), &self.meter.syncs);
        page.family("pixii_store_batch_changes", "histogram", "Changes that one sync covered.");
        page.histogram(&Vec::new(), &self.meter.batches);
    }

    fn put_queues(&self, page: &mut Page) {
        let load = &self.load;
        page.gauge("pixii_clients", "Clients connected.", load.clients);
        let help = "Most clients that may be connected, by the limit of descriptors.";
        page.gauge("pixii_client_limit", help, load.client_places);
        let help = "Bytes held by large frames that arrive or are worked on.";
        page.family("pixii_frame_memory_bytes", "gauge", help);
        for (from, usage) in &load.frame_memory {
            page.sample("", &vec![("from", from)], usage.held);
        }
        page.family("pixii_frame_memory_limit_bytes", "gauge", "Most of them.");
        for (from, usage) in &load.frame_memory {
            page.sample("", &vec![("from", from)], usage.total);
        }
        let help = "Large frames that waited more than a second for memory.";
        page.family("pixii_frame_memory_waits", "counter", help);
        for (from, usage) in &load.frame_memory {
            page.sample("_total", &vec![("from", from)], usage.waits);
        }
        let help = "Bytes of replies that clients have not read.";
        page.gauge("pixii_reply_memory_bytes", help, load.reply_memory.0);
        page.gauge("pixii_reply_memory_limit_bytes", "Most of them.", load.reply_memory.1);
        let help = "Requests of clients that the node works on.";
        page.gauge("pixii_requests_in_flight", help, load.requests);
        page.family("pixii_queue_length", "gauge", "What waits, by what it waits for.");
        for (queue, length) in [
            ("engine_events", load.events as u64),
            ("engine_reports", load.reports as u64),
            ("store_reads", load.reads),
            ("store_scans", load.scans),
        ] {
            page.sample("", &vec![("queue", queue)], length);
        }
        let help = "Bytes of writes that are not synced yet.";
        page.gauge("pixii_store_unsynced_bytes", help, load.unsynced_bytes);
    }

    fn put_peers(&self, page: &mut Page) {
        let peers = &self.status.peers;
        self.per_peer(page, "pixii_peer_link_up", "1 while this node has a link to it.", |peer| {
            Some(f64::from(u8::from(peer.up)))
        });
        let help = "What this node believes of a member.";
        page.family("pixii_peer_liveness", "stateset", help);
        for peer in peers {
            for liveness in [Liveness::Up, Liveness::Suspect, Liveness::Down] {
                let state = ("pixii_peer_liveness", word(liveness));
                let labels: Labels = vec![("peer", &peer.name), state];
                page.sample("", &labels, u8::from(peer.liveness == liveness));
            }
        }
        let help = "How long a member takes to answer a read.";
        self.per_peer(page, "pixii_peer_latency_seconds", help, |peer| {
            peer.latency_us.map(|us| us as f64 / MICRO)
        });
        self.per_peer(page, "pixii_hints", "Writes kept for a member.", |peer| {
            Some(peer.hints as f64)
        });
        self.per_peer(page, "pixii_hint_bytes", "Their size.", |peer| Some(peer.hint_bytes as f64));
        let help = "For how long writes have been kept for a member without a break, in this \
            incarnation.";
        self.per_peer(page, "pixii_hint_age_seconds", help, |peer| {
            Some(peer.hint_age_ms as f64 / MILLI)
        });
        let help = "Most bytes of hints that the node keeps.";
        page.gauge("pixii_hint_limit_bytes", help, self.status.hint_limit_bytes);
        page.family("pixii_peer_messages_dropped", "counter", "For want of a link or of room.");
        for peer in peers {
            page.sample("_total", &vec![("peer", &peer.name)], peer.dropped);
        }
        page.family("pixii_peer_queue_messages", "gauge", "Messages that wait to leave.");
        for (peer, (messages, _)) in peers.iter().zip(&self.load.unsent) {
            page.sample("", &vec![("peer", &peer.name)], messages);
        }
        page.family("pixii_peer_queue_bytes", "gauge", "Their size.");
        for (peer, (_, bytes)) in peers.iter().zip(&self.load.unsent) {
            page.sample("", &vec![("peer", &peer.name)], bytes);
        }
    }

    fn put_repair(&self, page: &mut Page) {
        self.per_peer(page, "pixii_shared_partitions", "Partitions that both own.", |peer| {
            Some(f64::from(peer.repair.shared))
        });
        let help = "Those of them that were found equal in this incarnation.";
        self.per_peer(page, "pixii_equal_partitions", help, |peer| {
            Some(f64::from(peer.repair.equal))
        });
        let help = "The longest time since a shared partition was last found equal; absent before \
            all were.";
        self.per_peer(page, "pixii_repair_last_success_timestamp_seconds", help, |peer| {
            peer.repair.oldest_ms.map(|ms| ms as f64 / MILLI)
        });
        let repair = &self.status.repair;
        let help = "Comparisons of partitions in progress or due at once.";
        page.gauge("pixii_repair_pending", help, repair.pending);
        let help = "Partitions and owners whose last comparison failed.";
        page.gauge("pixii_repair_failing", help, repair.failing);
        let help = "Partitions not read to their end since the start; they are not compared yet.";
        page.gauge("pixii_partitions_unread", help, repair.unread);
        let help = "Records that failed their checksum and wait to be fetched from other owners.";
        page.gauge("pixii_damaged_records", help, repair.damaged);
        let tombstone_gc = &self.status.tombstone_gc;
        let help = "Keys with tombstones, or other events without a value, that are to be purged.";
        page.gauge("pixii_tombstones_pending", help, tombstone_gc.keys);
        let help = "Partitions whose collection is held back by a member that is away.";
        page.gauge("pixii_tombstone_gc_blocked", help, tombstone_gc.blocked);
    }

    fn put_counts(&self, page: &mut Page) {
        let status = &self.status;
        for (counter, family, help) in COUNTED {
            page.counter(family, help, status.count(counter));
        }
        for (family, help, counters) in [
            (
                "pixii_repaired_objects",
                "Objects that comparisons begun here have moved.",
                [Counter::ObjectsPulled, Counter::ObjectsPushed],
            ),
            (
                "pixii_repaired_bytes",
                "Bytes of their values.",
                [Counter::BytesPulled, Counter::BytesPushed],
            ),
        ] {
            page.family(family, "counter", help);
            for (direction, counter) in ["received", "sent"].into_iter().zip(counters) {
                page.sample("_total", &vec![("direction", direction)], status.count(counter));
            }
        }
        page.family("pixii_events", "counter", "All that the node counts, by its name for it.");
        for (event, count) in &status.counters {
            page.sample("_total", &vec![("event", event.name())], count);
        }
    }

    fn per_peer(
        &self,
        page: &mut Page,
        name: &'static str,
        help: &str,
        value: impl Fn(&PeerStatus) -> Option<f64>,
    ) {
        page.family(name, "gauge", help);
        for peer in &self.status.peers {
            if let Some(value) = value(peer) {
                page.sample("", &vec![("peer", &peer.name)], value);
            }
        }
    }

    /// In short, for people: a line for each subject.
    pub(crate) fn lines(&self) -> Vec<String> {
        let MetricsSnapshot { status, unready, meter, load } = self;
        let ready = unready.as_ref().map_or("ready".to_owned(), |why| format!("not ready: {why}"));
        let mut lines = vec![format!(
            "node {} of cluster {}, incarnation {}, up for {} s: {ready}",
            status.name,
            status.cluster,
            status.incarnation,
            status.uptime_ms / 1_000,
        )];
        lines.extend(status.unservable().map(|what| format!("cluster: {what}")));
        let free = load.free_bytes.map_or("unknown".to_owned(), size);
        lines.push(format!(
            "store: {} on disk, {free} free, {} not synced yet, {} reads and {} scans waiting",
            size(status.disk_bytes),
            size(load.unsynced_bytes),
            load.reads,
            load.scans,
        ));
        let requests = meter.requests.iter().map(|((kind, outcome), histogram)| {
            let (count, sum) = histogram.totals();
            (kind, outcome, count, sum / count.max(1) as f64 * MILLI)
        });
        let requests = requests.filter(|(_, _, count, _)| *count > 0);
        let requests: Vec<String> = requests
            .map(|(kind, outcome, count, ms)| format!("{count} {kind} {outcome} ({ms:.1} ms)"))
            .collect();
        lines.push(format!(
            "clients: {} connected, {} requests in progress; answered since the start: {}",
            load.clients,
            load.requests,
            if requests.is_empty() { "none".to_owned() } else { requests.join(", ") },
        ));
        lines.extend(status.peers.iter().zip(&load.unsent).map(|(peer, unsent)| {
            format!(
                "peer {}: link {}, believed {}, {} hints of {} kept for it, {} messages waiting, \
                 {} of {} \
                 partitions found equal",
                peer.name,
                if peer.up { "up" } else { "down" },
                word(peer.liveness),
                peer.hints,
                size(peer.hint_bytes),
                unsent.0,
                peer.repair.equal,
                peer.repair.shared,
            )
        }));
        let (repair, tombstone_gc) = (&status.repair, &status.tombstone_gc);
        lines.push(format!(
            "repair: {} pending, {} failing, {} partitions unread, {} records damaged; {} keys to \
             collect, held back in \
             {} partitions",
            repair.pending,
            repair.failing,
            repair.unread,
            repair.damaged,
            tombstone_gc.keys,
            tombstone_gc.blocked,
        ));
        lines
    }
}

fn size(bytes: u64) -> String {
    let kib = bytes as f64 / KIB;
    if kib < KIB { format!("{kib:.1} KiB") } else { format!("{:.1} MiB", kib / KIB) }
}

fn word(liveness: Liveness) -> &'static str {
    match liveness {
        Liveness::Up => "up",
        Liveness::Suspect => "suspect",
        Liveness::Down => "down",
    }
}
