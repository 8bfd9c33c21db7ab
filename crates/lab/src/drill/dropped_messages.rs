//! Messages are lost and nobody keeps hints: how soon anti-entropy alone makes all replicas the
//! same.

use std::time::{Duration, Instant};

use pixii_client::Client;
use pixii_core::message::{Counter, EmulateOrder};
use serde_json::json;
use tokio::time::sleep;

use super::testbed::{PARTITIONS, Testbed, reported_of_differing};
use super::timeline::{EventKind, Phase};
use super::{Ending, Plan, Print};
use crate::workload::choice::{Choice, Sizes};
use crate::workload::{Mix, Spec};

const NODES: usize = 5;
const IN_FLIGHT: usize = 64;
const SIZES: Sizes = Sizes { usual: 100, large: 0, large_share: 0.0 };
const LOSS: &str = "* -> * drop 0.01";
/// Two rounds of comparisons, which begin about every minute, and some time for what they move.
const WAIT: Duration = Duration::from_secs(240);
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// What all daemons have done of anti-entropy.
#[derive(Clone, Copy, Default)]
struct Done {
    exchanges: u64,
    failed: u64,
    objects: u64,
}

/// Puts under loss, then none of either; waits and compares. The error says why the drill could not
/// go on.
pub(crate) async fn run(plan: &Plan, print: Print<'_>) -> Result<Ending, String> {
    let mut testbed = Testbed::prepare(plan, NODES)?;
    testbed.cluster.allow_emulation()?;
    testbed.cluster.configure("hint_limit_mib = 0")?;
    let names = testbed.names();
    if testbed.open(&names).await?.is_none() {
        return Ok(testbed.give_up(None).await?.into());
    }
    let client = testbed.client().await?;
    emulate(&client, &names, &EmulateOrder::Set(LOSS.into())).await?;
    testbed.timeline.note(EventKind::Fault, LOSS);
    testbed.enter(Phase::During);
    let mix = Mix { blind: 1.0, ..Mix::default() };
    let spec = testbed.spec(plan.keys, Choice::Sweep, SIZES);
    let spec = Spec { clients: IN_FLIGHT, mix, operations: Some(plan.keys), ..spec };
    let loaded = testbed.load(&client, spec).finish().await?;
    testbed.enter(None);
    let lost = dropped(&client, &names).await?;
    emulate(&client, &names, &EmulateOrder::Clear).await?;
    testbed.timeline.note(EventKind::Heal, "no message is lost any more");

    let (_, before) = look(&client, &names, Duration::ZERO).await?;
    let failed: u64 = loaded.kinds.values().map(|totals| totals.refused + totals.unknown).sum();
    print(&format!(
        "{} puts in {:.1} s while {lost} messages were lost and no hints kept: {failed} refused, \
         failed or unknown",
        plan.keys,
        loaded.spent.as_secs_f64()
    ))?;
    let (took, after) = all_equal(&client, &names).await?;
    testbed.recovered(Duration::from_secs_f64(took), "all replicas were found equal");
    testbed.cluster.stop_all()?;
    let (held, differ) = testbed.compare()?;
    // Reads mend what they see, so the stores are compared before all keys are read.
    testbed.open(&names).await?;
    testbed.judge(&testbed.client().await?, false).await?;
    testbed.cluster.stop_all()?;

    let score = &testbed.score;
    let mut complaints = if score.is_clean() { Vec::new() } else { score.complaints() };
    complaints.extend(reported_of_differing(differ));
    let exchanges = after.exchanges - before.exchanges;
    let summary = format!(
        "{} puts under loss: all replicas were found equal {took:.1} s after the last message was \
         lost, in {exchanges} \
         comparisons ({} failed; {} objects moved, {} while messages were lost); {} acknowledged \
         writes lost, {differ} of \
         {PARTITIONS} partitions differ between their owners ({held} records in all)",
        plan.keys,
        after.failed - before.failed,
        after.objects - before.objects,
        before.objects,
        score.lost
    );
    let figures = json!({
        "equal_s": took, "exchanges": exchanges, "exchanges_failed": after.failed - before.failed,
        "objects_moved": after.objects - before.objects, "objects_moved_under_loss": before.objects,
        "messages_lost": lost, "puts_failed": failed, "lost": score.lost,
        "partitions_differ": differ, "records": held,
    });
    Ok(Ending { summary, complaints, figures })
}

/// Waits until every pair of every daemon was found equal, from now on: how many seconds, and what
/// was done by then.
async fn all_equal(client: &Client, names: &[String]) -> Result<(f64, Done), String> {
    let begun = Instant::now();
    loop {
        let (left, done) = look(client, names, begun.elapsed()).await?;
        if left == 0 {
            return Ok((begun.elapsed().as_secs_f64(), done));
        }
        if begun.elapsed() > WAIT {
            let pairs = format!("{left} pairs of replicas were not found equal");
            return Err(format!("{pairs} in {} s", WAIT.as_secs()));
        }
        sleep(POLL_INTERVAL).await;
    }
}

async fn emulate(client: &Client, names: &[String], order: &EmulateOrder) -> Result<(), String> {
    for name in names {
        client.emulate(name, order.clone()).await.map_err(|failure| failure.to_string())?;
    }
    Ok(())
}

/// Messages that the daemons have dropped.
async fn dropped(client: &Client, names: &[String]) -> Result<u64, String> {
    let mut sum = 0;
    for name in names {
        let report = client.status(Some(name)).await.map_err(|failure| failure.to_string())?;
        sum += report.count(Counter::EmulatedDropped);
    }
    Ok(sum)
}

/// How many pairs of all daemons were not found equal within this time, and what was done for it.
async fn look(
    client: &Client,
    names: &[String],
    within: Duration,
) -> Result<(usize, Done), String> {
    let (mut left, mut done) = (0, Done::default());
    for name in names {
        let report = client.repair(Some(name), false, None, None).await;
        let report = report.map_err(|failure| failure.to_string())?;
        let within = within.as_millis() as u64;
        let since = |ms: u64| ms < within;
        left += report.pairs.iter().filter(|pair| !pair.equal_ms.is_some_and(since)).count();
        done.exchanges += report.counts.exchanges;
        done.failed += report.counts.exchanges_failed;
        done.objects += report.counts.objects_pulled + report.counts.objects_pushed;
    }
    Ok((left, done))
}
