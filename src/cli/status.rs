//! `pixii status`.

use clap::Args;
use pixii_core::members::Liveness;
use pixii_core::message::{
    LinksReport, PairStatus, PeerRepair, PeerStatus, RepairReport, StatusReport, TombstoneGcStatus,
};
use pixii_core::types::NodeId;
use pixii_kit::arguments::Shared;
use pixii_kit::outcome::{CommandResult, Exit, block_on, emit, emit_json};
use pixii_kit::text::{bytes, count, duration, row, table};
use serde_json::{Value, json};

use super::repair::pair_json;

/// Show the state of a node
#[derive(Args)]
#[command(after_help = "\
Examples:
  pixii status                  the node that --connect names
  pixii status --node n3        another member
  pixii status --partitions     each of its partitions, and when it was last found equal at each \
    other owner
  pixii status --json           for scripts")]
pub(crate) struct Status {
    /// Ask this member instead
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Show how each partition compares with its other owners
    #[arg(long)]
    partitions: bool,
}

impl Status {
    /// Asks and prints.
    pub(crate) fn run(self, shared: &Shared) -> CommandResult {
        let (report, compared, links) = block_on(async {
            let (client, node) = (shared.client().await?, self.node.as_deref());
            let compared = match self.partitions {
                true => Some(client.repair(node, false, None, None).await?),
                false => None,
            };
            // A node of an older program does not know.
            Ok((client.status(node).await?, compared, client.links(node).await.ok()))
        })?;
        let name = |id: NodeId| name(&report, id);
        match (compared, shared.json()) {
            (None, false) => emit(as_text(&report, links.as_ref()))?,
            (Some(compared), false) => emit(pairs(&compared, &name))?,
            (compared, true) => {
                let mut all = as_json(&report);
                if let Some(links) = &links {
                    all["links"] = links_json(links, &name);
                }
                if let Some(compared) = compared {
                    let pair = |pair: &PairStatus| pair_json(pair, &name);
                    all["pairs"] = compared.pairs.iter().map(pair).collect();
                }
                emit_json(&all)?;
            }
        }
        Ok(Exit::Done)
    }
}

fn name(report: &StatusReport, id: NodeId) -> String {
    let peer = report.peers.iter().find(|peer| peer.id == id);
    peer.map_or_else(|| format!("{id:?}"), |peer| peer.name.clone())
}

/// A line for each partition and other owner.
fn pairs(compared: &RepairReport, name: &dyn Fn(NodeId) -> String) -> String {
    let mut rows = vec![row(["partition", "peer", "last found equal", "now", "last moved"])];
    rows.extend(compared.pairs.iter().map(|pair| {
        let equal = pair.equal_ms.map_or("not yet".into(), |ms| format!("{} ago", duration(ms)));
        let now = match (&pair.failing, pair.pending) {
            (Some(why), _) => format!("failing: {why}"),
            (None, true) => "pending".into(),
            (None, false) => "-".into(),
        };
        let moved = match (pair.pulled, pair.pushed) {
            (0, 0) => "-".into(),
            (pulled, pushed) => {
                format!("{pulled} received, {pushed} sent, {}", bytes(pair.bytes))
            }
        };
        row([&pair.partition.0.to_string(), &name(pair.peer), &equal, &now, &moved])
    }));
    table(&rows)
}

fn as_json(report: &StatusReport) -> Value {
    let peer = |peer: &PeerStatus| {
        json!({
            "name": peer.name,
            "address": peer.address,
            "up": peer.up,
            "liveness": liveness(peer.liveness),
            "phi": f64::from(peer.phi_hundredths) / 100.0,
            "latency_us": peer.latency_us,
            "hints": peer.hints,
            "hint_bytes": peer.hint_bytes,
            "hint_age_ms": peer.hint_age_ms,
            "dropped": peer.dropped,
            "shared_partitions": peer.repair.shared,
            "equal_partitions": peer.repair.equal,
            "oldest_equal_ms": peer.repair.oldest_ms,
            "pending_partitions": peer.repair.pending,
            "failing_partitions": peer.repair.failing,
        })
    };
    let counted = report.counters.iter();
    let counters: serde_json::Map<String, Value> =
        counted.map(|(counter, count)| (counter.name().to_owned(), (*count).into())).collect();
    let rings = report.other_rings.iter();
    let rings: serde_json::Map<String, Value> =
        rings.map(|(name, version)| (name.clone(), (*version).into())).collect();
    let gauges = &report.gauges;
    let complaints: Vec<String> = report.complaints.iter().map(ToString::to_string).collect();
    let example = report.repair.example.as_ref().map(|(partition, peer, why)| {
        json!({ "partition": partition.0, "peer": name(report, *peer), "why": why.to_string() })
    });
    json!({
        "cluster": report.cluster,
        "name": report.name,
        "version": report.version,
        "store": format!("{:016x}", report.store),
        "incarnation": report.incarnation.0,
        "recovered": report.recovered,
        "serving": report.serving,
        "read_ineligible": report.read_ineligible,
        "drained": gauges.drained,
        "changing_ring": gauges.changing_ring,
        "other_rings": rings,
        "partitions_lost": gauges.partitions_lost,
        "oversized_keys": gauges.oversized_keys,
        "unservable_partitions": gauges.unservable_partitions,
        "store_stalled_seconds": gauges.store_stalled_seconds,
        "uptime_ms": report.uptime_ms,
        "partitions": report.partitions,
        "disk_bytes": report.disk_bytes,
        "hint_limit_bytes": report.hint_limit_bytes,
        "peers": report.peers.iter().map(peer).collect::<Vec<_>>(),
        "collection": {
            "keys": report.tombstone_gc.keys,
            "blocked_partitions": report.tombstone_gc.blocked,
            "example": report.tombstone_gc.example.as_ref().map(|(partition, why)| {
                json!({ "partition": partition.0, "why": why.to_string() })
            }),
        },
        "repair": {
            "unread_partitions": report.repair.unread,
            "damaged_records": report.repair.damaged,
            "pending_pairs": report.repair.pending,
            "failing_pairs": report.repair.failing,
            "failing_example": example,
        },
        "emulated": report.emulated,
        "troubles": complaints,
        "counters": counters,
    })
}

fn links_json(links: &LinksReport, name: &dyn Fn(NodeId) -> String) -> Value {
    let protocols: serde_json::Map<String, Value> =
        links.peers.iter().map(|(id, protocol)| (name(*id), (*protocol).into())).collect();
    json!({ "secret": links.secret, "protocol": links.protocol, "peers": protocols })
}

/// Which protocol is spoken, and who may speak, in words.
fn spoken(links: &LinksReport, report: &StatusReport) -> String {
    let older = links.peers.iter().filter_map(|(id, protocol)| match protocol {
        Some(protocol) if *protocol < links.protocol => {
            Some(format!("{protocol} with {}", name(report, *id)))
        }
        _ => None,
    });
    let mut protocols: Vec<String> = older.collect();
    protocols.sort_unstable();
    protocols.insert(0, links.protocol.to_string());
    let whom = if links.secret { "with those who know the secret" } else { "with anybody" };
    format!("{}, {whom}", protocols.join(", "))
}

fn as_text(report: &StatusReport, links: Option<&LinksReport>) -> String {
    let last_stop = if report.recovered { "an unclean stop" } else { "a clean stop or none" };
    let mut out = format!(
        "{} of cluster {}, pixii {}, up for {}\n",
        report.name,
        report.cluster,
        report.version,
        duration(report.uptime_ms)
    );
    if !report.emulated.is_empty() {
        out += &format!("THE NETWORK IS EMULATED here: {}\n", report.emulated.join("; "));
    }
    for error in &report.complaints {
        out += &format!("NEEDS ATTENTION: {error}\n");
    }
    let owned = match report.read_ineligible {
        0 => count(report.partitions.into(), "partition"),
        lost => format!(
            "{}, {lost} of them read-ineligible: what it does not find there does not count",
            count(report.partitions.into(), "partition")
        ),
    };
    let gauges = &report.gauges;
    let serving = match (report.serving, gauges.drained) {
        (true, _) => "yes",
        (false, _) if gauges.store_stalled_seconds > 0 => "no: its disk hangs",
        (false, false) => "not yet: it waits for its peers",
        (false, true) => "no: it is drained, until `pixii node undrain` or a start",
    };
    let mut rows = vec![
        row(["serving", serving]),
        row(["cluster", report.unservable().as_deref().unwrap_or("enough other owners are up")]),
        row(["store", &format!("{:016x}", report.store)]),
        row(["incarnation", &format!("{}, after {last_stop}", report.incarnation)]),
        row(["owns", &owned]),
        row(["on disk", &bytes(report.disk_bytes)]),
        row(["compared", &compared(report)]),
        row(["deleted", &deleted(&report.tombstone_gc)]),
    ];
    if let seconds @ 1.. = gauges.store_stalled_seconds {
        let text = format!(
            "its disk has made no progress for {}: what needs it is refused, and other nodes serve",
            duration(1_000 * seconds)
        );
        rows.push(row(["STALLED", &text]));
    }
    for unfinished in report.unfinished_ring() {
        rows.push(row(["ring", &unfinished]));
    }
    if let lost @ 1.. = gauges.partitions_lost {
        let (lost, name) = (count(lost, "partition"), &report.name);
        let text = format!(
            "acknowledged writes of {lost} may be missing: the disk was lost, and no other node \
             has them; \
             reads are refused until `pixii repair --node {name} --accept-loss`"
        );
        rows.push(row(["LOST", &text]));
    }
    if let keys @ 1.. = gauges.oversized_keys {
        let text =
            format!("{}: read them, and write or delete with the context", count(keys, "key"));
        rows.push(row(["over the limit", &text]));
    }
    if let Some(links) = links {
        rows.push(row(["protocol", &spoken(links, report)]));
    }
    out += &table(&rows);
    if !report.peers.is_empty() {
        out += &format!("\n{}", peers(report));
    }
    let mut counters = vec![row(["counter", "since the start"])];
    let counted = report.counters.iter();
    counters.extend(counted.map(|(counter, count)| row([counter.name(), &count.to_string()])));
    if counters.len() > 1 {
        out += "\n";
        out += &table(&counters);
    }
    out
}

/// How far the node's partitions are known to be the same as at their other owners, in words.
fn compared(report: &StatusReport) -> String {
    let sum = |of: fn(&PeerRepair) -> u32| report.peers.iter().map(|peer| of(&peer.repair)).sum();
    let (shared, equal): (u32, u32) = (sum(|peer| peer.shared), sum(|peer| peer.equal));
    let repair = &report.repair;
    let mut parts =
        vec![format!("{equal} of {} with other owners found equal", count(shared.into(), "pair"))];
    if repair.unread > 0 {
        parts.push(format!("{} not yet read", count(repair.unread.into(), "partition")));
    }
    if repair.pending > 0 {
        parts.push(format!("{} pending", repair.pending));
    }
    if let Some((partition, peer, why)) = &repair.example {
        let peer = name(report, *peer);
        parts.push(format!(
            "{} failing (partition {} with {peer}: {why})",
            repair.failing, partition.0
        ));
    }
    if repair.damaged > 0 {
        parts.push(format!("{} to be fetched", count(repair.damaged, "damaged record")));
    }
    parts.join(", ")
}

/// What is left of what was deleted or overwritten, in words.
fn deleted(tombstone_gc: &TombstoneGcStatus) -> String {
    let mut text = match tombstone_gc.keys {
        0 => "nothing is left to collect".to_owned(),
        keys => format!("{} with something to collect", count(keys, "key")),
    };
    if let Some((partition, why)) = &tombstone_gc.example {
        let of = count(tombstone_gc.blocked.into(), "partition");
        text += &format!("; collection of {of} is held back (partition {}: {why})", partition.0);
    }
    text
}

/// How much of what is shared with a peer is known to be the same, in words.
fn equal(peer: &PeerRepair) -> String {
    let all = format!("{} of {}", peer.equal, peer.shared);
    match peer.oldest_ms {
        Some(ms) => format!("{all} in {}", duration(ms)),
        None => all,
    }
}

fn peers(report: &StatusReport) -> String {
    let mut peers = vec![row([
        "peer",
        "address",
        "link",
        "liveness",
        "phi",
        "latency",
        "hints",
        "found equal",
        "dropped messages",
    ])];
    for peer in &report.peers {
        let link = if peer.up { "up" } else { "down" };
        let latency = peer.latency_us.map_or("-".into(), |us| format!("{:.1} ms", us as f64 / 1e3));
        peers.push(row([
            &peer.name,
            &peer.address,
            link,
            liveness(peer.liveness),
            &format!("{:.1}", f64::from(peer.phi_hundredths) / 100.0),
            &latency,
            &hints(peer),
            &equal(&peer.repair),
            &peer.dropped.to_string(),
        ]));
    }
    table(&peers)
}

/// What is kept for a member, in words.
fn hints(peer: &PeerStatus) -> String {
    if peer.hints == 0 {
        return "none".into();
    }
    format!("{}, {}, for {}", peer.hints, bytes(peer.hint_bytes), duration(peer.hint_age_ms))
}

fn liveness(liveness: Liveness) -> &'static str {
    match liveness {
        Liveness::Up => "up",
        Liveness::Suspect => "suspect",
        Liveness::Down => "down",
    }
}
