//! A daemon is away during many writes, and comes back: how soon the hints arrive, with and without
//! an observer that polls the status.

use std::fs;
use std::path::Path;
use std::time::Duration;

use pixii_client::Client;
use serde_json::{Value, json};
use tokio::task::AbortHandle;
use tokio::time::{interval, sleep};

use super::testbed::{PARTITIONS, Testbed, reported_of_differing};
use super::{Ending, Plan, Print};
use crate::workload::choice::{Choice, Sizes};
use crate::workload::{Kind, Load, Mix, Report, Spec};

const NODES: usize = 5;
const IN_FLIGHT: usize = 64;
const CLIENTS: usize = 8;
const SIZES: Sizes = Sizes { usual: 100, large: 0, large_share: 0.0 };
/// Maximum time in seconds until all hints have arrived, and until the first of them has.
const ALL_WITHIN: f64 = 30.0;
const FIRST_WITHIN: f64 = 1.0;
/// Maximum time that the drill waits for them.
const WAIT: Duration = Duration::from_secs(300);
const POLL_INTERVAL: Duration = Duration::from_millis(200);
const WATCH: Duration = Duration::from_millis(100);
const DAY: f64 = 86_400.0;

/// The same twice, the second time with an observer that polls the status of every daemon. The
/// error says why the drill could not go on.
pub(crate) async fn run(plan: &Plan, print: Print<'_>) -> Result<Ending, String> {
    let mut testbed = Testbed::prepare(plan, NODES)?;
    let names = testbed.names();
    if testbed.open(&names).await?.is_none() {
        return Ok(testbed.give_up(None).await?.into());
    }
    let (mut complaints, mut figures) = (Vec::new(), Vec::new());
    for watched in [false, true] {
        let reported = once(&mut testbed, plan, watched, print, &mut complaints).await?;
        figures.push(reported);
    }
    testbed.cluster.stop_all()?;
    let (held, differ) = testbed.compare()?;
    complaints.extend(reported_of_differing(differ));
    // Reads repair differences, so the stores are compared before all keys are read.
    testbed.open(&testbed.names()).await?;
    testbed.judge(&testbed.client().await?, false).await?;
    testbed.cluster.stop_all()?;
    let score = &testbed.score;
    if !score.is_clean() {
        complaints.extend(score.complaints());
    }
    let summary = format!(
        "{} puts twice while a daemon was away: all delivered after {} s, and {} s while polled; \
         {} writes acknowledged, {} \
         lost, {differ} of {PARTITIONS} partitions differ between their owners ({held} records in \
         all)",
        plan.keys, figures[0]["all_s"], figures[1]["all_s"], score.counts.acknowledged, score.lost
    );
    Ok(Ending {
        summary,
        complaints,
        figures: json!({ "runs": figures, "partitions_differ": differ, "lost": score.lost }),
    })
}

async fn once(
    testbed: &mut Testbed,
    plan: &Plan,
    watched: bool,
    print: Print<'_>,
    complaints: &mut Vec<String>,
) -> Result<Value, String> {
    let names = testbed.names();
    let victim = testbed.rng.pick(&names).cloned().unwrap_or_default();
    testbed.kill(&victim)?;
    let client = testbed.client().await?;
    let spec = Spec {
        clients: IN_FLIGHT,
        mix: Mix { blind: 1.0, ..Mix::default() },
        prefix: format!("away-{watched}/"),
        operations: Some(plan.keys),
        ..testbed.spec(plan.keys, Choice::Sweep, SIZES)
    };
    let loaded = Load::start(&client, spec, Some(&testbed.ledger)).finish().await?;
    let done = loaded.kind(Kind::Blind).map_or(0, crate::workload::Totals::done);
    if done < plan.keys {
        let missing = plan.keys - done;
        complaints.push(format!("{missing} of {} puts were not acknowledged", plan.keys));
    }
    let waiting = testbed.hints_for(&victim).await?;

    let mix = Mix { get: 0.5, put: 0.5, ..Mix::default() };
    let spec = Spec {
        clients: CLIENTS,
        mix,
        prefix: "beside/".into(),
        ..testbed.spec(10_000, Choice::Uniform, SIZES)
    };
    let load = Load::start(&client, spec, Some(&testbed.ledger));
    let watch = if watched { Some(watch(testbed).await?) } else { None };
    let logs: Vec<(String, usize)> =
        names.iter().map(|name| (name.clone(), text(&testbed.logs, name).len())).collect();
    testbed.cluster.start(&victim)?;
    // The logs contain the times, so that no daemon is queried.
    let deadline = std::time::Instant::now() + WAIT;
    let times = loop {
        if let Some(times) = moments(&testbed.logs, &logs, &victim) {
            break times;
        }
        if std::time::Instant::now() > deadline {
            return Err(format!(
                "the hints for {victim} were not delivered in {} s",
                WAIT.as_secs()
            ));
        }
        sleep(POLL_INTERVAL).await;
    };
    let report = load.stop().await?;
    if let Some(watch) = watch {
        watch.abort();
    }
    testbed.cluster.ready(WAIT).await?;
    testbed.await_no_hints(WAIT).await?;
    let (first, last) = times;
    testbed.recovered(Duration::from_secs_f64(last), &format!("{victim} has all hints"));
    let beside = beside(&report);
    print(&format!(
        "{}: {victim} was away for {} puts and has {waiting} hints waiting; the first are offered \
         {first:.2} s after its first link, all are there after {last:.2} s; beside it {beside}",
        if watched { "polled every 100 ms" } else { "not polled" },
        plan.keys,
    ))?;
    if first > FIRST_WITHIN {
        complaints.push(format!("the first hints came after {first:.2} s"));
    }
    if last > ALL_WITHIN {
        complaints.push(format!("the last hints came after {last:.2} s"));
    }
    Ok(json!({
        "watched": watched, "victim": victim, "hints": waiting, "first_s": round(first),
        "all_s": round(last), "beside": beside,
    }))
}

fn round(seconds: f64) -> f64 {
    (seconds * 100.0).round() / 100.0
}

fn beside(report: &Report) -> String {
    let one = |kind, name| {
        let Some(totals) = report.kind(kind) else { return format!("no {name}") };
        let rate = totals.done() as f64 / report.spent.as_secs_f64();
        let p99 = totals.latency.value_at_quantile(0.99) as f64 / 1e3;
        let failed = totals.refused + totals.unknown;
        format!("{rate:.0} {name}/s (p99 {p99:.1} ms, {failed} failed)")
    };
    format!("{} and {}", one(Kind::Get, "gets"), one(Kind::Put, "puts"))
}

/// Polls the status of every daemon until it is aborted.
async fn watch(testbed: &Testbed) -> Result<AbortHandle, String> {
    let (client, names): (Client, Vec<String>) = (testbed.client().await?, testbed.names());
    let watching = tokio::spawn(async move {
        let mut ticks = interval(WATCH);
        loop {
            ticks.tick().await;
            for name in &names {
                let _ = client.status(Some(name.as_str())).await;
            }
        }
    });
    Ok(watching.abort_handle())
}

fn text(logs: &Path, name: &str) -> String {
    fs::read_to_string(logs.join(format!("{name}.log"))).unwrap_or_default()
}

/// Seconds from the victim's first link until the first daemon offered it hints, and until every
/// daemon that did had delivered them; `None` before that.
fn moments(logs: &Path, from: &[(String, usize)], victim: &str) -> Option<(f64, f64)> {
    let (mut first_link, mut begun, mut done) = (None, Vec::new(), Vec::new());
    for (name, skip) in from {
        let text = text(logs, name);
        for line in text.get(*skip..).unwrap_or_default().lines() {
            let Some(at) = seconds(line) else { continue };
            if name == victim && line.contains("INFO peer ") && line.contains(" is up at ") {
                first_link.get_or_insert(at);
            } else if line.contains(&format!("peer {victim} is back: it is offered")) {
                begun.push((name, at));
            } else if line.contains(&format!("peer {victim} has all that was kept")) {
                done.push((name, at));
            }
        }
    }
    let all = begun.len() + 1 >= from.len()
        && begun.iter().all(|(n, _)| done.iter().any(|(d, _)| d == n));
    let zero = first_link.filter(|_| all && !begun.is_empty())?;
    let since = |at: f64| if at < zero - DAY / 2.0 { at + DAY - zero } else { at - zero };
    let first = begun.iter().map(|(_, at)| since(*at)).fold(f64::INFINITY, f64::min);
    let last = done.iter().map(|(_, at)| since(*at)).fold(0.0, f64::max);
    Some((first, last))
}

/// The time of day of a log line, in seconds.
fn seconds(line: &str) -> Option<f64> {
    let time = line.split_once('T')?.1.split_once('Z')?.0;
    let mut parts = time.split(':').map(|part| part.parse::<f64>().ok());
    let (hours, minutes, seconds) = (parts.next()??, parts.next()??, parts.next()??);
    Some(hours * 3_600.0 + minutes * 60.0 + seconds)
}
