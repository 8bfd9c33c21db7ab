//! `pixii check`: a stopped node's data, read whole.

use std::path::PathBuf;

use clap::Args;
use pixii::store::disk::{CheckReport, Damage, check};
use pixii::types::NodeId;
use serde_json::{Value, json};

use super::{Exit, Outcome, Shared, Trouble, emit, emit_json, text};

/// Damages that `--json` lists; all are counted.
const MAX_LISTED: usize = 1_000;
const CACHE_BYTES: u64 = 64 << 20;

/// Read a stopped node's data whole and say what is damaged
#[derive(Args)]
#[command(after_help = "\
Reads every record, hint, checksum, chunk and head. It is refused while a daemon has the data. A line on standard \
output names each damaged key; then come the counts. The digest covers keys, clocks and values, not hints: where two \
nodes that hold the same keys have the same digest, they hold the same.

No record is changed and no life of the node begins. But sled writes to its own files when it opens them \
(after a kill it recovers its log, and clears what it finds torn), and torn snapshot files are removed, \
both as at a daemon's start: to keep the evidence of damage, check a copy of DIR.

Exit codes: 0 clean, 1 damaged, or not readable at all.

Examples:
  pixii check /var/lib/pixii/n1
  pixii check /var/lib/pixii/n1 --json | jq .damaged")]
pub(crate) struct Check {
    /// The node's data directory
    dir: PathBuf,
}

impl Check {
    /// Reads and reports.
    pub(crate) fn run(self, shared: &Shared) -> Outcome {
        let mut listed = Vec::new();
        let mut silent: Outcome = Ok(Exit::Done);
        let report = check(&self.dir, CACHE_BYTES, &mut |damage| {
            if !shared.json() && silent.is_ok() {
                silent = emit(format!("damaged: {damage}\n")).map(|()| Exit::Done);
            } else if listed.len() < MAX_LISTED {
                listed.push(as_json(&damage));
            }
        });
        let report = report.map_err(|error| Trouble::error(error.to_string()))?;
        silent?;
        if shared.json() {
            emit_json(&report_json(&report, listed))?;
        } else {
            emit(as_text(&report))?;
        }
        Ok(if report.damages == 0 { Exit::Done } else { Exit::Error })
    }
}

fn as_json(damage: &Damage) -> Value {
    match (&damage.key, &damage.hint) {
        (Some((partition, key)), _) => json!({
            "partition": partition.0,
            "key": text::json_bytes(key.as_bytes()),
            "what": damage.what,
        }),
        (None, Some((target, key))) => json!({
            "hint_for": format!("{target:?}"),
            "key": text::json_bytes(key.as_bytes()),
            "what": damage.what,
        }),
        (None, None) => json!({ "what": damage.what }),
    }
}

fn report_json(report: &CheckReport, damaged: Vec<Value>) -> Value {
    let node = report.meta.as_ref().map(|meta| {
        json!({
            "name": meta.owner.name,
            "cluster": meta.owner.cluster,
            "store": format!("{:016x}", meta.store),
            "incarnation": meta.incarnation,
            "stopped_cleanly": meta.clean,
        })
    });
    let hints: Vec<Value> = report.hints.iter().map(|(target, total)| {
        json!({ "for": member(report, *target), "count": total.count, "bytes": total.bytes })
    }).collect();
    json!({
        "clean": report.damages == 0,
        "node": node,
        "live_keys": report.live_keys,
        "siblings": report.siblings,
        "values": report.values,
        "tombstones": report.tombstones,
        "clock_entries": report.clock_entries,
        "hints": hints,
        "chunked": report.chunked,
        "chunks": report.chunks,
        "disk_bytes": report.disk_bytes,
        "digest": format!("{:016x}", report.digest),
        "complete": report.complete,
        "damages": report.damages,
        "damaged": damaged,
    })
}

/// The name of the member that hints are for, or its id where the store does not know the members.
fn member(report: &CheckReport, target: NodeId) -> String {
    let members = report.members.clone().unwrap_or_default();
    members.name(target)
}

fn as_text(report: &CheckReport) -> String {
    let node = match &report.meta {
        Some(meta) => {
            let stop = if meta.clean { "stopped cleanly" } else { "not stopped cleanly" };
            let (owner, incarnation) = (&meta.owner, meta.incarnation);
            format!(
                "node {} of cluster {}, incarnation {incarnation}, {stop}",
                owner.name, owner.cluster
            )
        }
        None => "the store of no node yet".into(),
    };
    let rows = [
        ("live keys", report.live_keys),
        ("with siblings", report.siblings),
        ("values", report.values),
        ("tombstones", report.tombstones),
        ("clock entries", report.clock_entries),
        ("hints", report.hints.values().map(|total| total.count).sum()),
        ("chunked", report.chunked),
        ("chunks", report.chunks),
        ("bytes on disk", report.disk_bytes),
    ];
    let rows = rows.map(|(name, number)| text::row([name, &number.to_string()]));
    let hints: Vec<Vec<String>> = report
        .hints
        .iter()
        .map(|(target, total)| {
            let what = format!("{} of {} bytes", text::count(total.count, "hint"), total.bytes);
            text::row([&format!("for {}", member(report, *target)), &what])
        })
        .collect();
    let verdict = match report.damages {
        0 => "clean".into(),
        damages => format!("damaged in {}", text::count(damages, "place")),
    };
    let digest = text::row(["digest", &format!("{:016x}", report.digest)]);
    format!("{node}\n{}{verdict}\n", text::table(&[&rows[..], &hints, &[digest]].concat()))
}
