//! `pixii hints`.

use std::collections::BTreeMap;

use clap::Args;
use pixii_client::ClientError;
use pixii_core::message::StatusReport;
use pixii_kit::arguments::Shared;
use pixii_kit::outcome::{CommandError, CommandResult, Exit, block_on, complain, emit, emit_json};
use pixii_kit::text::{bytes, count, duration, row, table};
use serde_json::json;
use tokio::task::JoinSet;

/// Show what is kept for members that were not there
#[derive(Args)]
#[command(after_help = "\
A member that cannot be reached when a key is written is pending that write. Another one keeps it \
    as a hint, and \
hands it over when the member is back. The age says for how long the fallback has had hints for \
    the member \
without a break.

Examples:
  pixii hints                   what every member keeps, and for whom
  pixii hints --node n3         what n3 keeps
  pixii hints --json            for scripts")]
pub(crate) struct Hints {
    /// Ask this member only
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
}

/// What a member keeps for another one.
struct Kept {
    fallback: String,
    target: String,
    hints: u64,
    bytes: u64,
    age_ms: u64,
}

/// What all of them keep for a member.
#[derive(Default)]
struct Total {
    fallbacks: u64,
    hints: u64,
    bytes: u64,
    age_ms: u64,
}

type Answer = (String, Result<StatusReport, ClientError>);

impl Hints {
    /// Asks and prints.
    pub(crate) fn run(self, shared: &Shared) -> CommandResult {
        let reported = block_on(query(shared, self.node))?;
        let answered = reported.iter().filter(|(_, report)| report.is_ok()).count();
        if let ([(_, Err(failure))], 0) = (reported.as_slice(), answered) {
            return Err(failure.clone().into());
        }
        for (_, report) in &reported {
            if let Err(failure) = report {
                complain(&format!("{failure}; what it keeps is not shown"));
            }
        }
        if answered == 0 {
            return Err(CommandError::error("no member reports what it keeps"));
        }
        if shared.json() {
            emit_json(&as_json(&reported))?;
        } else {
            emit(as_text(&reported, answered))?;
        }
        Ok(Exit::Done)
    }
}

/// The accounts of all members, or of one, in the order of the members. They are asked at the same
/// time, so a silent one costs its own timeout and no more.
async fn query(shared: &Shared, node: Option<String>) -> Result<Vec<Answer>, CommandError> {
    let client = shared.client().await?;
    let members = client.members().map(|member| member.name.clone());
    let names: Vec<String> = node.map_or_else(|| members.collect(), |name| vec![name]);
    let mut calls = JoinSet::new();
    for (place, name) in names.into_iter().enumerate() {
        let client = client.clone();
        calls.spawn(async move {
            let report = client.status(Some(&name)).await;
            (place, (name, report))
        });
    }
    let mut reported = calls.join_all().await;
    reported.sort_by_key(|(place, _)| *place);
    Ok(reported.into_iter().map(|(_, reported)| reported).collect())
}

/// What is kept, by fallback and target.
fn kept(reported: &[Answer]) -> Vec<Kept> {
    let mut all = Vec::new();
    for (fallback, report) in reported {
        let peers = report.iter().flat_map(|report| &report.peers);
        all.extend(peers.filter(|peer| peer.hints > 0).map(|peer| Kept {
            fallback: fallback.clone(),
            target: peer.name.clone(),
            hints: peer.hints,
            bytes: peer.hint_bytes,
            age_ms: peer.hint_age_ms,
        }));
    }
    all
}

fn totals(kept: &[Kept]) -> BTreeMap<&str, Total> {
    let mut totals: BTreeMap<&str, Total> = BTreeMap::new();
    for one in kept {
        let total = totals.entry(&one.target).or_default();
        total.fallbacks += 1;
        total.hints += one.hints;
        total.bytes += one.bytes;
        total.age_ms = total.age_ms.max(one.age_ms);
    }
    totals
}

fn as_json(reported: &[Answer]) -> serde_json::Value {
    let kept = kept(reported);
    let one = |one: &Kept| {
        json!({
            "fallback": one.fallback,
            "target": one.target,
            "hints": one.hints,
            "hint_bytes": one.bytes,
            "hint_age_ms": one.age_ms,
        })
    };
    let total = |(target, total): (&str, Total)| {
        json!({
            "target": target,
            "fallbacks": total.fallbacks,
            "hints": total.hints,
            "hint_bytes": total.bytes,
            "hint_age_ms": total.age_ms,
        })
    };
    let silent = |(name, report): &Answer| {
        let failure = report.as_ref().err()?;
        Some(json!({ "name": name, "error": failure.to_string() }))
    };
    json!({
        "kept": kept.iter().map(one).collect::<Vec<_>>(),
        "totals": totals(&kept).into_iter().map(total).collect::<Vec<_>>(),
        "unreachable": reported.iter().filter_map(silent).collect::<Vec<_>>(),
    })
}

fn as_text(reported: &[Answer], answered: usize) -> String {
    let kept = kept(reported);
    if kept.is_empty() {
        // Whoever did not answer may keep some.
        return match reported {
            [(name, _)] => format!("no hints are kept by {name}\n"),
            _ if answered < reported.len() => {
                format!(
                    "no hints are kept by the {} that answered\n",
                    count(answered as u64, "member")
                )
            }
            _ => "no hints are kept\n".into(),
        };
    }
    let mut rows = vec![row(["fallback", "target", "hints", "size", "age"])];
    rows.extend(kept.iter().map(|one| {
        row([
            &one.fallback,
            &one.target,
            &one.hints.to_string(),
            &bytes(one.bytes),
            &duration(one.age_ms),
        ])
    }));
    let mut sums = vec![row(["total for", "fallbacks", "hints", "size", "age"])];
    sums.extend(totals(&kept).into_iter().map(|(target, total)| {
        row([
            target,
            &total.fallbacks.to_string(),
            &total.hints.to_string(),
            &bytes(total.bytes),
            &duration(total.age_ms),
        ])
    }));
    format!("{}\n{}", table(&rows), table(&sums))
}
