//! `pixii status`.

use clap::Args;
use pixii::members::Opinion;
use pixii::message::{PeerStatus, StatusReport};
use serde_json::json;

use super::text::{bytes, count, duration, row, table};
use super::{Exit, Outcome, Shared, block_on, emit, emit_json};

/// Show how a node is
#[derive(Args)]
#[command(after_help = "\
Examples:
  pixii status                  the node that --connect names
  pixii status --node n3        another member
  pixii status --json           for scripts")]
pub(crate) struct Status {
    /// Ask this member instead
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
}

impl Status {
    /// Asks and prints.
    pub(crate) fn run(self, shared: &Shared) -> Outcome {
        let report =
            block_on(async { Ok(shared.client().await?.status(self.node.as_deref()).await?) })?;
        if shared.json() {
            emit_json(&as_json(&report))?;
        } else {
            emit(as_text(&report))?;
        }
        Ok(Exit::Done)
    }
}

fn as_json(report: &StatusReport) -> serde_json::Value {
    let peer = |peer: &PeerStatus| {
        json!({
            "name": peer.name,
            "address": peer.address,
            "up": peer.up,
            "opinion": opinion(peer.opinion),
            "phi": f64::from(peer.phi_hundredths) / 100.0,
            "latency_us": peer.latency_us,
            "hints": peer.hints,
            "hint_bytes": peer.hint_bytes,
            "hint_age_ms": peer.hint_age_ms,
            "dropped": peer.dropped,
        })
    };
    let counters: serde_json::Map<String, serde_json::Value> =
        report.counters.iter().map(|(name, value)| (name.clone(), (*value).into())).collect();
    json!({
        "cluster": report.cluster,
        "name": report.name,
        "version": report.version,
        "store": format!("{:016x}", report.store),
        "incarnation": report.incarnation,
        "recovered": report.recovered,
        "serving": report.serving,
        "without_authority": report.without_authority,
        "uptime_ms": report.uptime_ms,
        "partitions": report.partitions,
        "disk_bytes": report.disk_bytes,
        "hint_limit_bytes": report.hint_limit_bytes,
        "peers": report.peers.iter().map(peer).collect::<Vec<_>>(),
        "emulated": report.emulated,
        "counters": counters,
    })
}

fn as_text(report: &StatusReport) -> String {
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
    let home_to = match report.without_authority {
        0 => count(report.partitions.into(), "partition"),
        lost => format!(
            "{}, {lost} of them without authority: what it does not find there does not count",
            count(report.partitions.into(), "partition")
        ),
    };
    let serving = if report.serving { "yes" } else { "not yet: it waits for its peers" };
    out += &table(&[
        row(["serving", serving]),
        row(["store", &format!("{:016x}", report.store)]),
        row(["incarnation", &format!("{}, after {last_stop}", report.incarnation)]),
        row(["home to", &home_to]),
        row(["on disk", &bytes(report.disk_bytes)]),
    ]);
    let mut peers = vec![row([
        "peer",
        "address",
        "link",
        "opinion",
        "phi",
        "latency",
        "hints",
        "dropped messages",
    ])];
    for peer in &report.peers {
        let link = if peer.up { "up" } else { "down" };
        let latency = peer.latency_us.map_or("-".into(), |us| format!("{:.1} ms", us as f64 / 1e3));
        peers.push(row([
            &peer.name,
            &peer.address,
            link,
            opinion(peer.opinion),
            &format!("{:.1}", f64::from(peer.phi_hundredths) / 100.0),
            &latency,
            &hints(peer),
            &peer.dropped.to_string(),
        ]));
    }
    if peers.len() > 1 {
        out += "\n";
        out += &table(&peers);
    }
    let mut counters = vec![row(["counter", "since the start"])];
    counters.extend(report.counters.iter().map(|(name, value)| row([name, &value.to_string()])));
    if counters.len() > 1 {
        out += "\n";
        out += &table(&counters);
    }
    out
}

/// What is kept for a member, in words.
fn hints(peer: &PeerStatus) -> String {
    if peer.hints == 0 {
        return "none".into();
    }
    format!("{}, {}, for {}", peer.hints, bytes(peer.hint_bytes), duration(peer.hint_age_ms))
}

fn opinion(opinion: Opinion) -> &'static str {
    match opinion {
        Opinion::Up => "up",
        Opinion::Suspect => "suspect",
        Opinion::Down => "down",
    }
}
