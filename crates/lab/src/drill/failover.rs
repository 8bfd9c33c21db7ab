//! A daemon is killed or frozen under load: no request is refused, nothing is lost, and latencies
//! stay within a bound.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use pixii_client::Client;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::expectations::reported_of_absent;
use super::testbed::{Testbed, await_equal, reported_of_differing};
use super::timeline::{EventKind, Phase};
use super::{Ending, Plan, Print};
use crate::workload::choice::{Choice, Sizes};
use crate::workload::{Kind, Load, Mix, Report, Spec};

const NODES: usize = 5;
const CLIENTS: usize = 8;
/// Length of the load before the fault, and of the load around it.
const WINDOW: Duration = Duration::from_secs(5);
/// Time from the beginning of a window to its fault.
const CALM: Duration = Duration::from_millis(50);
const HINTS_WAIT: Duration = Duration::from_secs(60);
/// Maximum of the median of (p99 around the fault / p99 before).
const MOST: f64 = 2.0;
const SIZES: Sizes = Sizes { usual: 100, large: 0, large_share: 0.0 };
/// Interval of the plain fdatasync calls that run for comparison.
const SYNC_EVERY: Duration = Duration::from_millis(5);

/// What befalls a daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum How {
    /// kill -9.
    Kill,
    /// SIGSTOP.
    Freeze,
}

/// p99 of one window, in microseconds.
#[derive(Clone, Copy)]
struct P99 {
    get: u64,
    put: u64,
    both: u64,
    sync: u64,
}

/// Rounds of: load, the same load with a fault, recovery. The error says why the drill could not go
/// on.
pub(crate) async fn run(plan: &Plan, how: How, print: Print<'_>) -> Result<Ending, String> {
    let mut testbed = Testbed::prepare(plan, NODES)?;
    let names = testbed.names();
    if testbed.open(&names).await?.is_none() {
        return Ok(testbed.give_up(None).await?.into());
    }
    let client = testbed.client().await?;
    testbed.fill(&client, plan.keys, SIZES).await?;
    let (mut rounds, mut ratios) = (Vec::new(), Vec::new());
    let (mut refused, mut unknown, mut absent) = (0, 0, 0);
    for round in 1..=plan.rounds {
        // An unmeasured load warms up what the last round left cold.
        window(&mut testbed, plan, Duration::from_secs(1), None).await?;
        let (before, calm) = window(&mut testbed, plan, WINDOW, None).await?;
        let victim = testbed.rng.pick(&names).cloned().unwrap_or_default();
        let (around, report) = window(&mut testbed, plan, WINDOW, Some((&victim, how))).await?;
        let healed = Instant::now();
        match how {
            How::Kill => drop(testbed.open(std::slice::from_ref(&victim)).await?),
            How::Freeze => testbed.cluster.resume(&victim)?,
        }
        testbed.await_no_hints(HINTS_WAIT).await?;
        testbed.recovered(healed.elapsed(), "no hint is left");
        let ratio = around.both as f64 / before.both.max(1) as f64;
        let (no, maybe) = failures(&report);
        (refused, unknown) = (refused + no, unknown + maybe);
        absent += calm.absent() + report.absent();
        print(&format!(
            "round {round}: {victim}: p99 of gets {}, of puts {}, of both {} ({ratio:.2} times), \
             of a bare fdatasync {}; {no} refused or failed, {maybe} unknown",
            pair(before.get, around.get),
            pair(before.put, around.put),
            pair(before.both, around.both),
            pair(before.sync, around.sync),
        ))?;
        for (why, times) in report.kinds.values().flat_map(|totals| &totals.reasons) {
            print(&format!("  {times} times: {why}"))?;
        }
        if maybe > CLIENTS as u64 {
            testbed.score.notes.push(format!("round {round}: {maybe} puts unknown, of 8 clients"));
        }
        rounds.push(figures(&victim, before, around, ratio, no, maybe));
        ratios.push(ratio);
    }
    await_equal(&client, &names, HINTS_WAIT).await?;
    testbed.cluster.stop_all()?;
    let (_, differ) = testbed.compare()?;
    // Reads repair differences, so the stores are compared before all keys are read.
    testbed.open(&names).await?;
    testbed.judge(&testbed.client().await?, false).await?;
    testbed.cluster.stop_all()?;
    ratios.sort_by(f64::total_cmp);
    let median = (ratios[(ratios.len() - 1) / 2] + ratios[ratios.len() / 2]) / 2.0;
    let score = &testbed.score;
    let summary = format!(
        "{} rounds: {refused} refused or failed, {unknown} unknown, {} writes acknowledged, {} \
         lost; p99 in the 5 s after the fault is {median:.2} times that of the 5 s before, in the \
         median (at most {MOST})",
        plan.rounds, score.counts.acknowledged, score.lost
    );
    let mut complaints = if score.is_clean() { Vec::new() } else { score.complaints() };
    complaints.extend(reported_of_absent(absent));
    complaints.extend(reported_of_differing(differ));
    if refused > 0 {
        complaints.push(format!("{refused} requests were refused or failed"));
    }
    if how == How::Freeze && unknown > 0 {
        complaints.push(format!("{unknown} puts were unknown though no daemon died"));
    }
    if median > MOST {
        complaints
            .push(format!("p99 grew {median:.2} times in the median, and {MOST} is the limit"));
    }
    let figures = json!({
        "rounds": rounds, "median_ratio": median, "refused": refused, "unknown": unknown,
        "lost": score.lost, "absent": absent, "partitions_differ": differ,
    });
    Ok(Ending { summary, complaints, figures })
}

fn pair(before: u64, around: u64) -> String {
    format!("{:.1} -> {:.1} ms", before as f64 / 1e3, around as f64 / 1e3)
}

fn figures(
    victim: &str,
    before: P99,
    around: P99,
    ratio: f64,
    refused: u64,
    unknown: u64,
) -> Value {
    let p99 = |p99: P99| {
        json!({ "get": p99.get, "put": p99.put, "both": p99.both,
        "fdatasync": p99.sync })
    };
    json!({
        "victim": victim, "p99_us_before": p99(before), "p99_us_around": p99(around),
        "ratio": ratio,
        "refused": refused, "unknown": unknown,
    })
}

fn failures(report: &Report) -> (u64, u64) {
    let sum = |pick: fn(&crate::workload::Totals) -> u64| report.kinds.values().map(pick).sum();
    (sum(|totals| totals.refused), sum(|totals| totals.unknown))
}

/// One window of load by 8 clients with their own connections, with a fault soon after its
/// beginning if there is one.
async fn window(
    testbed: &mut Testbed,
    plan: &Plan,
    length: Duration,
    fault: Option<(&str, How)>,
) -> Result<(P99, Report), String> {
    let mix = Mix { get: 0.5, put: 0.5, ..Mix::default() };
    let mut loads = Vec::new();
    for _ in 0..CLIENTS {
        let client: Client = testbed.client().await?;
        let spec = testbed.spec(plan.keys, Choice::Uniform, SIZES);
        let spec = Spec { clients: 1, mix, duration: Some(length), ..spec };
        loads.push((client, spec));
    }
    let syncs = Syncs::start(&testbed.logs.join("fdatasync"))?;
    let loads: Vec<Load> =
        loads.into_iter().map(|(client, spec)| testbed.load(&client, spec)).collect();
    testbed.enter(Phase::Before);
    if let Some((victim, how)) = fault {
        sleep(CALM).await;
        testbed.enter(Phase::During);
        match how {
            How::Kill => testbed.kill(victim)?,
            How::Freeze => {
                testbed.cluster.freeze(victim)?;
                testbed.timeline.note(EventKind::Fault, &format!("{victim} is frozen"));
            }
        }
    }
    let mut report = Report::default();
    for load in loads {
        report.add(load.finish().await?);
    }
    testbed.enter(None);
    let sync = syncs.stop()?;
    let of = |kind| report.kind(kind).map(|totals| totals.latency.clone());
    let (get, put) = (of(Kind::Get), of(Kind::Put));
    let p99 =
        |one: &Option<Histogram<u64>>| one.as_ref().map_or(0, |one| one.value_at_quantile(0.99));
    let mut both = get.clone();
    if let (Some(both), Some(put)) = (&mut both, &put) {
        both.add(put).map_err(|error| error.to_string())?;
    }
    Ok((P99 { get: p99(&get), put: p99(&put), both: p99(&both), sync }, report))
}

/// A thread that appends and syncs, and the durations of its syncs.
struct Syncs {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<Result<Vec<u64>, std::io::Error>>,
}

impl Syncs {
    fn start(path: &Path) -> Result<Self, String> {
        let mut file =
            File::create(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut times = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let begun = Instant::now();
                file.write_all(&[7; 100])?;
                file.sync_data()?;
                times.push(begun.elapsed().as_micros() as u64);
                thread::sleep(SYNC_EVERY);
            }
            Ok(times)
        });
        Ok(Syncs { stop, thread })
    }

    /// Ends the thread; returns the p99 of its syncs in microseconds.
    fn stop(self) -> Result<u64, String> {
        self.stop.store(true, Ordering::Relaxed);
        let times = self.thread.join().map_err(|_| "the thread of the syncs ended".to_string())?;
        let mut times = times.map_err(|error| format!("a bare fdatasync: {error}"))?;
        times.sort_unstable();
        Ok(times.get(times.len() * 99 / 100).copied().unwrap_or_default())
    }
}
