//! A daemon loses its disk under load: how soon it holds all its data again, without a command, and
//! what clients notice.

use std::fs;
use std::time::{Duration, Instant};

use pixii_client::{Client, Options};
use pixii_core::message::{Counter, StatusReport};
use serde_json::json;
use tokio::time::sleep;

use super::expectations::reported_of_absent;
use super::testbed::{PARTITIONS, Testbed, await_equal, reported_of_differing};
use super::timeline::{EventKind, Phase};
use super::{Ending, Plan, Print};
use crate::workload::choice::{Choice, Sizes};
use crate::workload::{Kind, Load, Mix, Report, Spec};

const NODES: usize = 5;
/// An unmeasured load warms up what the filling left cold.
const WARM_UP: Duration = Duration::from_secs(1);
/// Length of the measurement before the loss.
const BEFORE: Duration = Duration::from_secs(5);
/// Length of the measurement after the disk is full again.
const AFTER: Duration = Duration::from_secs(3);
/// The disk has to hold everything again within this time.
const REFILLED_WITHIN: Duration = Duration::from_secs(60);
/// Maximum time that the drill waits for it.
const WAIT: Duration = Duration::from_secs(300);
/// Maximum of (p99 from the loss to the last record / p99 before).
const MOST: f64 = 2.0;
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The recovery of the daemon without a disk.
pub(super) struct Refill {
    /// From its start until it had all again.
    pub(super) took: Duration,
    /// From its start until it served, as precisely as its status was polled.
    served: Duration,
    status: StatusReport,
}

/// Fills the cluster, measures, takes a disk away, waits, compares. The error says why the drill
/// could not go on.
pub(crate) async fn run(
    plan: &Plan,
    value_bytes: usize,
    clients: usize,
    print: Print<'_>,
) -> Result<Ending, String> {
    let mut testbed = Testbed::prepare(plan, NODES)?;
    let names = testbed.names();
    if testbed.open(&names).await?.is_none() {
        return Ok(testbed.give_up(None).await?.into());
    }
    let (client, sizes) = (testbed.client().await?, Sizes::fixed(value_bytes));
    let begun = Instant::now();
    testbed.fill(&client, plan.keys, sizes).await?;
    print(&format!(
        "{} keys with values of {value_bytes} bytes are loaded in {:.1} s",
        plan.keys,
        begun.elapsed().as_secs_f64()
    ))?;
    load(&mut testbed, plan, sizes, clients, Some(WARM_UP)).await?.end().await?;
    testbed.enter(Phase::Before);
    let before = load(&mut testbed, plan, sizes, clients, Some(BEFORE)).await?.end().await?;

    let beside = load(&mut testbed, plan, sizes, clients, None).await?;
    let victim = testbed.rng.pick(&names).cloned().unwrap_or_default();
    testbed.enter(Phase::During);
    testbed.kill(&victim)?;
    let dir = testbed.logs.join(&victim);
    fs::remove_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    testbed.timeline.note(EventKind::Fault, &format!("the disk of {victim} is empty"));
    let refill = refill(&mut testbed, &victim).await?;
    testbed.recovered(refill.took, &format!("{victim} has all again"));
    let during = beside.end().await?;
    testbed.enter(Phase::After);
    let after = load(&mut testbed, plan, sizes, clients, Some(AFTER)).await?.end().await?;
    testbed.enter(None);
    print(&reported(&victim, &refill, &before, &during))?;

    testbed.await_no_hints(WAIT).await?;
    // Differences left by the last writes are compared now, instead of within the usual minute.
    await_equal(&testbed.client().await?, &names, WAIT).await?;
    testbed.cluster.stop_all()?;
    let (held, differ) = testbed.compare()?;
    // Reads repair differences, so the stores are compared before all keys are read.
    testbed.open(&names).await?;
    testbed.judge(&testbed.client().await?, false).await?;
    testbed.cluster.stop_all()?;
    Ok(ending(testbed, plan, &victim, &refill, [&before, &during, &after], (held, differ)))
}

fn ending(
    testbed: Testbed,
    plan: &Plan,
    victim: &str,
    refill: &Refill,
    [before, during, after]: [&Report; 3],
    (held, differ): (u64, usize),
) -> Ending {
    let score = &testbed.score;
    let mut complaints = if score.is_clean() { Vec::new() } else { score.complaints() };
    let (took, absent) =
        (refill.took.as_secs_f64(), before.absent() + during.absent() + after.absent());
    let p99 = [before, during].map(|report| report.quantile(0.99));
    let ratio = p99[1] as f64 / p99[0].max(1) as f64;
    if refill.took > REFILLED_WITHIN {
        complaints.push(format!("{victim} had all again after {took:.1} s"));
    }
    // With few requests in that time, p99 has no meaning.
    if ratio > MOST && refill.took >= BEFORE {
        complaints.push(format!("p99 grew {ratio:.2} times, and {MOST} is the limit"));
    }
    // Every key has a value, and no client deletes any.
    complaints.extend(reported_of_absent(absent));
    complaints.extend(reported_of_differing(differ));
    let summary = format!(
        "{} keys: {victim} lost its disk and had all again {took:.1} s after its start; p99 \
         {ratio:.2} times that before (at \
         most {MOST}); {absent} false absents, {} acknowledged writes lost, {differ} of \
         {PARTITIONS} partitions differ \
         between their owners ({held} records in all)",
        plan.keys, score.lost
    );
    let figures = json!({
        "victim": victim, "refilled_s": took, "served_s": refill.served.as_secs_f64(),
        "p99_us_before": p99[0], "p99_us_during": p99[1], "ratio": ratio, "absent": absent,
        "lost": score.lost,
        "partitions_differ": differ, "records": held,
    });
    Ending { summary, complaints, figures }
}

/// Starts the daemon with an empty disk. Waits until it is read-eligible for all of its partitions,
/// and each was found equal to that of every other owner since the start.
pub(super) async fn refill(testbed: &mut Testbed, victim: &str) -> Result<Refill, String> {
    let begun = Instant::now();
    testbed.timeline.note(EventKind::Heal, &format!("{victim} is started"));
    testbed.cluster.start(victim)?;
    let daemon = testbed.cluster.daemons().iter().find(|daemon| daemon.name == victim);
    let address = [daemon.map(|daemon| daemon.address.clone()).unwrap_or_default()];
    let mut served = None;
    loop {
        let report =
            async { Client::connect(&address, Options::default()).await?.status(None).await };
        // It does not answer before it listens.
        if let Ok(status) = report.await
            && status.serving
        {
            let served = *served.get_or_insert(begun.elapsed());
            if is_full(&status) {
                return Ok(Refill { took: begun.elapsed(), served, status });
            }
        }
        if let Some(how) = testbed.cluster.end_of(victim) {
            return Err(format!("{victim} {how}"));
        }
        if begun.elapsed() > WAIT {
            return Err(format!("{victim} did not have all again in {} s", WAIT.as_secs()));
        }
        sleep(POLL_INTERVAL).await;
    }
}

fn is_full(status: &StatusReport) -> bool {
    let same = status.peers.iter().all(|peer| peer.repair.equal == peer.repair.shared);
    status.read_ineligible == 0 && status.repair.unread == 0 && same
}

fn reported(victim: &str, refill: &Refill, before: &Report, during: &Report) -> String {
    let count = |counter| refill.status.count(counter);
    let share = |kind| {
        let of = |report: &Report| {
            let done = report.kind(kind).map_or(0, crate::workload::Totals::done);
            done as f64 / report.spent.as_secs_f64()
        };
        format!("{:.0} -> {:.0}/s", of(before), of(during))
    };
    let failed: u64 = during.kinds.values().map(|totals| totals.refused + totals.unknown).sum();
    format!(
        "{victim} serves {:.1} s after its start with an empty disk, and has all again after \
         {:.1} s: {} objects fetched in {} \
         comparisons of its own, {} of them failed; beside it gets {}, puts {}, {failed} refused, \
         failed or unknown, p99 {:.1} -> {:.1} ms",
        refill.served.as_secs_f64(),
        refill.took.as_secs_f64(),
        count(Counter::ObjectsPulled),
        count(Counter::Exchanges),
        count(Counter::ExchangesFailed),
        share(Kind::Get),
        share(Kind::Put),
        before.quantile(0.99) as f64 / 1e3,
        during.quantile(0.99) as f64 / 1e3,
    )
}

/// Clients of a load in progress, each with its own connections.
struct Clients {
    loads: Vec<Load>,
    /// True if they end by themselves.
    timed: bool,
}

impl Clients {
    /// Ends the clients, or waits until they end; returns the report of all of them.
    async fn end(self) -> Result<Report, String> {
        let mut report = Report::default();
        for load in self.loads {
            report.add(if self.timed { load.finish().await? } else { load.stop().await? });
        }
        Ok(report)
    }
}

async fn load(
    testbed: &mut Testbed,
    plan: &Plan,
    sizes: Sizes,
    clients: usize,
    duration: Option<Duration>,
) -> Result<Clients, String> {
    let mix = Mix { get: 0.5, put: 0.5, ..Mix::default() };
    let mut connected = Vec::new();
    for _ in 0..clients {
        let spec = testbed.spec(plan.keys, Choice::Uniform, sizes);
        let spec = Spec { clients: 1, mix, duration, ..spec };
        connected.push((testbed.client().await?, spec));
    }
    let start = |(client, spec): (Client, Spec)| testbed.load(&client, spec);
    let loads = connected.into_iter().map(start).collect();
    Ok(Clients { loads, timed: duration.is_some() })
}
