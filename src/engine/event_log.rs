//! The event log: one line per decision, as a sentence for operators and with the same content as
//! fields for machines.

use std::collections::BTreeMap;
use std::mem;
use std::time::{Duration, Instant};

use pixii_core::members::{Liveness, Members};
use pixii_core::message::Complaint;
use pixii_core::node::{Notice, Oversize, Shortage, Stall};
use pixii_core::ring::{Ring, Step};
use pixii_core::types::{Micros, NodeId};
use pixii_transport::limited;
use pixii_transport::throttle::LogThrottle;
use tracing::{debug, error, info, warn};

use crate::config::Config;
use crate::disk::Salvage;
use crate::metrics::MetricsSnapshot;

/// Comparisons that transferred something or failed are logged together, this long after the first
/// one. After a recovery there are as many as partitions times peers.
const TOGETHER: Duration = Duration::from_secs(2);

/// Comparisons with other owners that are not logged yet, by peer.
#[derive(Debug, Default)]
pub(super) struct Comparisons {
    since: Option<Instant>,
    peers: BTreeMap<NodeId, Compared>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Compared {
    differed: u64,
    pulled: u64,
    pushed: u64,
    failed: u64,
}

impl Comparisons {
    /// Counts a comparison, if the notice is of one.
    pub(super) fn note(&mut self, notice: &Notice, now: Instant) {
        let (peer, compared) = match notice {
            Notice::Repaired(_, peer, pulled, pushed) => {
                (peer, Compared { differed: 1, pulled: *pulled, pushed: *pushed, failed: 0 })
            }
            Notice::RepairFailed(_, peer) => (peer, Compared { failed: 1, ..Compared::default() }),
            _ => return,
        };
        self.since.get_or_insert(now);
        let sum = self.peers.entry(*peer).or_default();
        sum.differed += compared.differed;
        sum.pulled += compared.pulled;
        sum.pushed += compared.pushed;
        sum.failed += compared.failed;
    }

    /// Logs one line for each peer once [`TOGETHER`] has passed since the first comparison.
    pub(super) fn report(&mut self, now: Instant, members: &Members) {
        if self.since.is_some_and(|since| now.saturating_duration_since(since) >= TOGETHER) {
            self.report_all(members);
        }
    }

    /// Logs one line for each peer at once.
    pub(super) fn report_all(&mut self, members: &Members) {
        self.since = None;
        for (peer, compared) in mem::take(&mut self.peers) {
            let peer = members.name(peer);
            let Compared { differed, pulled, pushed, failed } = compared;
            if differed > 0 {
                info!(
                    event = "repaired",
                    peer,
                    differed,
                    pulled,
                    pushed,
                    "{differed} comparisons of a partition with peer {peer} found differences: \
                     {pulled} objects came, {pushed} went"
                );
            }
            if failed > 0 {
                info!(
                    event = "repair_failed",
                    peer,
                    failed,
                    "{failed} partitions could not be compared with peer {peer}: they are tried \
                     again"
                );
            }
        }
    }
}

/// A sync that takes longer than this is logged, because clients wait for it.
const SLOW: Duration = Duration::from_secs(1);

/// Logs a sync that was slow.
pub(super) fn report_sync(changes: usize, took: Duration) {
    if took > SLOW {
        let ms = took.as_millis() as u64;
        warn!(
            event = "slow_sync",
            ms, changes, "the disk took {ms} ms to write and sync {changes} changes"
        );
    }
}

/// Logs that a node is short of disk space, or with `None` that there is room again.
pub(super) fn report_space(name: &str, shortage: Option<Shortage>) {
    match shortage {
        Some(Shortage { free_bytes, reserve_bytes }) => warn!(
            event = "disk_short",
            free_bytes,
            reserve_bytes,
            "node {name} refuses writes: its disk has {free_bytes} bytes left and keeps \
             {reserve_bytes} in reserve"
        ),
        None => {
            info!(event = "disk_room", "node {name} takes writes again: its disk has room");
        }
    }
}

/// Logs that the store was found to be damaged while it is open.
pub(super) fn report_damage(name: &str, what: &str) {
    error!(
        event = "store_damaged",
        "the store of node {name} is damaged on its disk: {what}; a new one is made of what can be \
         read, when the other members can be reached"
    );
}

/// Logs what was copied and what was lost when a store was made anew.
pub(super) fn report_salvage(name: &str, Salvage { copied, lost, aside, .. }: &Salvage) {
    let kept = aside.as_ref().map(|aside| format!("the damaged one is in {}", aside.display()));
    let kept = kept.unwrap_or_else(|| "the damaged one is removed".to_owned());
    if lost.count == 0 {
        info!(
            event = "store_made_anew",
            copied, "node {name} has made its store anew of all that could be read; {kept}"
        );
        return;
    }
    for range in &lost.ranges {
        warn!(event = "records_unreadable", "damaged and not readable: {range}");
    }
    warn!(
        event = "store_made_anew",
        copied,
        ranges = lost.count,
        "node {name} has made its store anew without {} ranges that could not be read: the other \
         owners have what was in them; {kept}",
        lost.count
    );
}

/// Logs that a node's disk makes no progress, or with `None` that it does again after this time.
pub(super) fn report_stall(name: &str, stall: Option<Stall>, lasts: Duration) {
    let ms = lasts.as_millis() as u64;
    let Some(stall) = stall else {
        info!(
            event = "disk_resumed",
            ms, "the disk of node {name} works again: it made no progress for {ms} ms"
        );
        return;
    };
    let what = match stall {
        Stall::Writes => "writes and listings",
        Stall::All => "every request that needs it",
    };
    warn!(
        event = "disk_stalled",
        ms,
        "the disk of node {name} has made no progress for {ms} ms: the node refuses {what}, \
         and other nodes take its place, until the disk works again"
    );
}

/// Logs a decision of the node.
pub(super) fn report(notice: Notice, config: &Config, members: &Members, log: &LogThrottle) {
    let name = &config.name;
    match notice {
        Notice::Founded => {
            info!(event = "founded", "a new cluster {} is founded", config.cluster);
        }
        Notice::Reborn => warn!(
            event = "disk_lost",
            "the cluster does not know this store of node {name}: it is a new member's, or the \
             disk was lost; what it \
             does not find does not count until it has all from the other owners"
        ),
        Notice::Alone => {
            warn!(event = "alone", "no peer answers: node {name} serves under a new store id");
        }
        Notice::Settled => info!(event = "serves", "node {name} serves"),
        Notice::Recovered => info!(
            event = "recovered",
            "node {name} has all that it had lost: what it does not find counts again"
        ),
        Notice::Damaged(partition) => limited!(
            log.several("record_damaged", ""),
            warn,
            [event = "record_damaged", partition = partition.0,],
            "a record of partition {} fails its checksum: it is fetched from the other owners",
            partition.0
        ),
        Notice::Declined(oversize) => report_declined(&oversize, log),
        Notice::Lost(partitions) => warn!(
            event = "writes_lost",
            partitions,
            "node {name} has lost its disk, and is the only owner of {partitions} partitions: \
             writes that were \
             acknowledged may be missing, and no other node has them; reads of these partitions \
             are refused until \
             `pixii repair --node {name} --accept-loss`"
        ),
        Notice::LossAccepted(partitions) => warn!(
            event = "loss_accepted",
            partitions,
            "an operator has accepted that acknowledged writes of {partitions} partitions are \
             gone: node {name} answers \
             reads of them with what it has"
        ),
        Notice::WaitsFor(peer)
        | Notice::Outdated(peer)
        | Notice::Copied(peer)
        | Notice::Foreign(peer, _)
        | Notice::LivenessChanged(peer, ..)
        | Notice::HandoffBegun(peer, _)
        | Notice::HandoffDone(peer)
        | Notice::Repaired(_, peer, ..)
        | Notice::RepairFailed(_, peer)
        | Notice::Misplaced(peer)
        | Notice::Forged(peer) => report_of_peer(notice, &members.name(peer), config, log),
    }
}

/// Logs that a key would have outgrown a limit.
fn report_declined(Oversize { key, hint, bytes, limit }: &Oversize, log: &LogThrottle) {
    let what = if *hint { "a hint" } else { "a merge" };
    let rest = if *hint { "; the node that keeps it goes on keeping it" } else { "" };
    limited!(
        log.several("oversized_key", ""),
        warn,
        [event = "oversized_key", key = %key.as_bytes().escape_ascii(), bytes, limit,],
        "{what} of the key {key:?} was declined: it would have {bytes} bytes in all its siblings, \
         and the limit is \
         {limit}{rest}; read the key and write it with the context of the read, or delete it"
    );
}

/// Logs a decision that concerns a `peer`.
fn report_of_peer(notice: Notice, peer: &str, config: &Config, log: &LogThrottle) {
    let name = &config.name;
    match notice {
        Notice::WaitsFor(_) => limited!(
            log.several("founding_waits", peer),
            warn,
            [event = "founding_waits", peer,],
            "node {name} waits for {peer}: a new cluster is founded when all of its members have \
             answered, or, by \
             `pixii server --bootstrap`, by those that have"
        ),
        Notice::Outdated(_) => limited!(
            log.several("disk_rolled_back", peer),
            warn,
            [event = "disk_rolled_back", peer,],
            "peer {peer} has seen a later incarnation of this store: the disk was rolled back or \
             copied; node \
             {name} goes on under a new store id, and what it does not find does not count"
        ),
        Notice::Copied(_) => limited!(
            log.several("disk_copied", peer),
            error,
            [event = "disk_copied", peer,],
            "peer {peer} has seen a later incarnation of node {name}: its disk was rolled back, \
             or a copy of it \
             runs elsewhere; it goes on under a new store id, and what it does not find does not \
             count"
        ),
        Notice::Foreign(_, [ours, theirs]) => limited!(
            log.several("foreign_peer", peer),
            error,
            [event = "foreign_peer", peer,],
            "{}: nothing is exchanged with it",
            Complaint::Foreign {
                peer: peer.to_owned(),
                cluster: config.cluster.clone(),
                ours,
                theirs
            }
        ),
        Notice::LivenessChanged(_, liveness, silence) => {
            report_liveness(peer, liveness, silence, log);
        }
        Notice::HandoffBegun(_, hints) => limited!(
            log.several("handoff_begun", peer),
            info,
            [event = "handoff_begun", peer, hints,],
            "peer {peer} is back: it is offered {hints} hints"
        ),
        Notice::HandoffDone(_) => {
            limited!(
                log.several("handoff_done", peer),
                info,
                [event = "handoff_done", peer,],
                "peer {peer} has all that was kept for it"
            );
        }
        Notice::Repaired(partition, _, pulled, pushed) => debug!(
            event = "repaired",
            peer,
            partition = partition.0,
            pulled,
            pushed,
            "partition {} differed from that of peer {peer}: {pulled} objects came, {pushed} went",
            partition.0
        ),
        Notice::RepairFailed(partition, _) => debug!(
            event = "repair_failed",
            peer,
            partition = partition.0,
            "partition {} could not be compared with that of peer {peer}: it is tried again",
            partition.0
        ),
        notice => report_of_refused_peer(&notice, peer, config, log),
    }
}

/// Logs a peer's claim about rings or incarnations that this node does not accept.
fn report_of_refused_peer(notice: &Notice, peer: &str, config: &Config, log: &LogThrottle) {
    let name = &config.name;
    match notice {
        Notice::Misplaced(_) => limited!(
            log.several("ring_refused", peer),
            error,
            [event = "ring_refused", peer,],
            "peer {peer} reports a later ring with another n or other partitions: node {name} \
             does not take it",
        ),
        Notice::Forged(_) => limited!(
            log.several("incarnation_refused", peer),
            error,
            [event = "incarnation_refused", peer,],
            "peer {peer} reports an incarnation of node {name} that cannot have been: not \
             believed"
        ),
        _ => {}
    }
}

fn report_liveness(peer: &str, liveness: Liveness, silence: Micros, log: &LogThrottle) {
    let silent_ms = silence.as_millis();
    let seconds = silence.as_f64() / 1e6;
    match liveness {
        Liveness::Up => limited!(
            log.several("peer_up", peer),
            info,
            [event = "peer_up", peer, silent_ms,],
            "peer {peer} is heard again after {seconds:.1} s"
        ),
        Liveness::Suspect => limited!(
            log.several("peer_suspect", peer),
            info,
            [event = "peer_suspect", peer, silent_ms,],
            "peer {peer} has been silent for surprisingly long: {seconds:.1} s"
        ),
        Liveness::Down => limited!(
            log.several("peer_down", peer),
            warn,
            [event = "peer_down", peer, silent_ms,],
            "peer {peer} has been silent for {seconds:.1} s and is marked down: fallbacks take \
             its place"
        ),
    }
}

/// Logs a metrics snapshot of the node, one line for each part of it.
pub(super) fn report_snapshot(snapshot: &MetricsSnapshot) {
    for line in snapshot.lines() {
        info!(event = "snapshot", "{line}");
    }
}

/// Logs that another ring is in force.
pub(super) fn report_ring(name: &str, ring: &Ring, log: &LogThrottle) {
    let version = ring.version();
    let step = match ring.step() {
        None => "settled",
        Some(Step::Fill) => "new owners are filled",
        Some(Step::Turn) => "new owners are read from",
        Some(Step::End) => "all read from the new owners",
        Some(Step::Undo) => "the change is taken back",
    };
    let permit = log.several("ring", "");
    limited!(
        permit,
        info,
        [event = "ring", version,],
        "node {name} uses ring version {version}: {step}"
    );
}

#[cfg(test)]
mod tests {
    use pixii_core::types::Partition;

    use super::*;

    #[test]
    fn comparisons_of_many_partitions_are_one_entry_for_each_peer() {
        let (mut comparisons, now) = (Comparisons::default(), Instant::now());
        let peers = [NodeId::of("n2"), NodeId::of("n3")];
        for partition in (0..256).map(Partition) {
            comparisons.note(&Notice::Repaired(partition, peers[0], 3, 1), now);
            comparisons.note(&Notice::RepairFailed(partition, peers[1]), now);
        }
        comparisons.note(&Notice::Settled, now);
        let sum = Compared { differed: 256, pulled: 768, pushed: 256, failed: 0 };
        assert_eq!(comparisons.peers.get(&peers[0]), Some(&sum));
        let sum = Compared { failed: 256, ..Compared::default() };
        assert_eq!(comparisons.peers.get(&peers[1]), Some(&sum));
        let members = Members::default();
        comparisons.report(now + TOGETHER / 2, &members);
        assert_eq!(comparisons.peers.len(), 2, "it is reported later");
        comparisons.report(now + TOGETHER, &members);
        assert!(comparisons.peers.is_empty() && comparisons.since.is_none());
    }
}
