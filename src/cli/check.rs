//! `pixii check`: the data of stopped nodes, read whole and compared.

use std::path::{Path, PathBuf};

use clap::Args;
use pixii::config::Config;
use pixii::disk::{CheckReport, Damage, Difference, check, differences};
use pixii_core::ring::Ring;
use pixii_core::store::Meta;
use pixii_core::types::{NodeId, Partition};
use pixii_kit::arguments::Shared;
use pixii_kit::outcome::{CommandError, CommandResult, Exit, emit, emit_json};
use pixii_kit::text;
use serde_json::{Value, json};

use super::scratch::ScratchArgs;

/// Damages that `--json` lists; all are counted.
const MAX_LISTED: usize = 1_000;
const CACHE_BYTES: u64 = 64 << 20;

/// Read the data of stopped nodes whole, say what is damaged, and compare replicas
#[derive(Args)]
#[command(after_help = "\
Reads every record, hint, checksum, chunk and head. It is refused while a daemon has the data. A \
    line on standard \
output names each damaged key; then come the counts. The digest covers keys, clocks and values, \
    not hints: where two \
nodes that hold the same keys have the same digest, they hold the same.

With the configuration of one of the nodes, it also says which partitions differ between their \
    owners, as far as \
these are among the DIRs; a partition with fewer than two is not compared. Tombstones that are \
    being purged make no difference: owners take them out one after the \
other, and those that were stopped meanwhile go on when they start.

Nothing in a DIR is changed, so that it may be a read-only mount: a private copy is read, and \
removed afterwards. The copy takes as much space as the data, or none where the file system shares \
blocks (btrfs, XFS) and --scratch names a place on the same one. A daemon may be started once the \
copy is made.

Exit codes: 0 clean and equal, 1 damaged, different, or not readable at all.

Examples:
  pixii check /var/lib/pixii/n1
  pixii check /var/lib/pixii/n1 --json | jq .damaged
  pixii check pixii-dev/n1 pixii-dev/n2 pixii-dev/n3 --config pixii-dev/n1.toml")]
pub(crate) struct Check {
    /// The nodes' data directories
    #[arg(required = true, value_name = "DIR")]
    dirs: Vec<PathBuf>,
    /// Compare the DIRs as the replicas of this configuration's ring, or of a later one that they
    /// have
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    scratch: ScratchArgs,
}

impl Check {
    /// Reads, reports, and compares.
    pub(crate) fn run(self, shared: &Shared) -> CommandResult {
        let config = match &self.config {
            Some(file) => Some(Config::load(file).map_err(|e| CommandError::usage(e.to_string()))?),
            None if self.dirs.len() > 1 => {
                return Err(CommandError::usage(
                    "several directories are compared with --config \
                    FILE",
                ));
            }
            None => None,
        };
        let mut stores = Vec::new();
        let mut reported = Vec::new();
        let scratch = self.scratch.folder()?;
        for dir in &self.dirs {
            let (report, json) = read(dir, scratch.path(), shared.json())?;
            reported.push(json);
            if config.is_some() && report.meta.is_none() {
                let dir = dir.display();
                return Err(CommandError::error(format!(
                    "{dir} is the store of no node yet: it cannot be compared"
                )));
            }
            if let Some(meta) = &report.meta {
                let node = meta.identity.node();
                if stores.iter().any(|(other, _)| *other == node) {
                    let name = &meta.identity.name;
                    return Err(CommandError::error(format!(
                        "two of the DIRs hold data of {name}"
                    )));
                }
                stores.push((node, report));
            }
        }
        let ring = config.map(|config| common_ring(&config, &stores)).transpose()?;
        let damaged = stores.iter().any(|(_, report)| report.damages > 0);
        let Some(ring) = ring else {
            if shared.json() {
                reported.iter().try_for_each(emit_json)?;
            }
            return Ok(if damaged { Exit::Error } else { Exit::Done });
        };
        let differences = differences(&ring, &stores);
        let given = |owner: &&NodeId| stores.iter().any(|(node, _)| node == *owner);
        let owners = |partition| ring.owners(Partition(partition)).iter().filter(given).count();
        let compared = (0..ring.partitions()).filter(|partition| owners(*partition) > 1).count();
        let name = |node: NodeId| stores.iter().find(|(id, _)| *id == node);
        let name = |node| name(node).and_then(|(_, report)| report.meta.as_ref()).map(identity);
        let differing: Vec<String> = differences
            .iter()
            .map(|Difference { partition, owners }| {
                let owner = |(node, keys): (NodeId, u64)| {
                    format!("{} {}", name(node).unwrap_or_default(), text::count(keys, "key"))
                };
                format!("partition {}: {}", partition.0, owners.map(owner).join(", "))
            })
            .collect();
        if shared.json() {
            emit_json(&json!({
                "stores": reported,
                "partitions": ring.partitions(),
                "compared": compared,
                "differ": differing,
            }))?;
        } else {
            let lines: String = differing.iter().map(|line| format!("differs: {line}\n")).collect();
            let equal = compared - differing.len();
            let all = ring.partitions();
            let alone = match usize::from(all) - compared {
                0 => String::new(),
                alone => format!(
                    "; {alone} have fewer than two owners among the DIRs, and are not compared"
                ),
            };
            emit(format!("{lines}{equal} of {all} partitions are equal at their owners{alone}\n"))?;
        }
        Ok(if damaged || !differing.is_empty() { Exit::Error } else { Exit::Done })
    }
}

/// The latest ring that the configuration and these stores know, if they are all of one cluster and
/// have places in it.
fn common_ring(config: &Config, stores: &[(NodeId, CheckReport)]) -> Result<Ring, CommandError> {
    let stored = stores.iter().filter_map(|(_, report)| report.ring.clone());
    let ring = Ring::latest(config.ring.clone(), stored);
    for (node, report) in stores {
        let Some(Meta { identity, .. }) = &report.meta else { continue };
        let (name, cluster) = (&identity.name, &identity.cluster);
        if *cluster != config.cluster {
            return Err(CommandError::error(format!(
                "one DIR holds data of {name} of cluster {cluster}, and the configuration is of \
                 cluster {}",
                config.cluster
            )));
        }
        if !ring.has(*node) {
            return Err(CommandError::error(format!(
                "{name}, whose data one DIR holds, is no member of that configuration's ring, \
                 version {}",
                ring.version()
            )));
        }
    }
    Ok(ring)
}

fn identity(meta: &Meta) -> String {
    meta.identity.name.clone()
}

/// Reads one store and, unless it is reported as JSON at the end, reports what it is like.
fn read(dir: &Path, scratch: &Path, json: bool) -> Result<(CheckReport, Value), CommandError> {
    let mut listed = Vec::new();
    let mut silent: CommandResult = Ok(Exit::Done);
    let report = check(dir, scratch, CACHE_BYTES, &mut |damage| {
        if !json && silent.is_ok() {
            silent = emit(format!("damaged: {damage}\n")).map(|()| Exit::Done);
        } else if listed.len() < MAX_LISTED {
            listed.push(as_json(&damage));
        }
    });
    let report = report.map_err(|error| CommandError::error(error.to_string()))?;
    silent?;
    if !json {
        emit(as_text(&report))?;
    }
    let value = report_json(&report, listed);
    Ok((report, value))
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
            "name": meta.identity.name,
            "cluster": meta.identity.cluster,
            "store": format!("{:016x}", meta.store),
            "incarnation": meta.incarnation.0,
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
        "longest_clock": report.longest_clock,
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
            let (identity, incarnation) = (&meta.identity, meta.incarnation);
            format!(
                "node {} of cluster {}, incarnation {incarnation}, {stop}",
                identity.name, identity.cluster
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
        ("longest clock", report.longest_clock),
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
