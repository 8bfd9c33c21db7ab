//! The power of all disks is cut at once, under a load that has overwritten every key several
//! times.

use std::os::unix::fs::symlink;
use std::time::Duration;

use pixii_client::Client;
use tokio::time::sleep;

use super::disks::Disks;
use super::testbed::{N, Testbed};
use super::timeline::{EventKind, Phase};
use super::unsynced::begin_unsynced;
use super::{Plan, Print, Score};
use crate::workload::choice::{Choice, Sizes};
use crate::workload::{Kind, Mix, Spec};

/// Minimum number of times that a load overwrites every key before the cut.
const SWEEPS: u64 = 3;
const SIZES: Sizes = Sizes { usual: 1_000, large: 1 << 20, large_share: 0.02 };
/// How long clients work on after a cut, once everything was judged.
const AFTER: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(1);

/// Rounds of: load, cut, kill -9, power back, restart, verification. The error says why the drill
/// could not go on; faults of the daemons are in the score.
/// With `value_bytes` all values have that size.
pub(crate) async fn run(
    plan: &Plan,
    value_bytes: Option<usize>,
    print: Print<'_>,
) -> Result<Score, String> {
    let sizes = value_bytes.map_or(SIZES, Sizes::fixed);
    // Declared before the daemons, so that it is dropped after them on every path.
    let disks = Disks::make(&plan.dir.join("disks"), N.into())?;
    let mut testbed = Testbed::prepare(plan, N.into())?;
    testbed.cluster.allow_emulation()?;
    let names = testbed.names();
    for (name, mount) in names.iter().zip(disks.mounts()) {
        let data = plan.dir.join("cluster").join(name);
        symlink(&mount, &data).map_err(|error| format!("{}: {error}", data.display()))?;
    }
    if testbed.open(&names).await?.is_none() {
        return testbed.give_up(None).await;
    }
    let client = testbed.client().await?;
    print(&format!("3 daemons, a disk each, {} keys; seed {}", plan.keys, plan.seed))?;
    for round in 1..=plan.rounds {
        let (puts, large) = cut_all(&mut testbed, &disks, &client, plan, sizes).await?;
        disks.restore()?;
        let Some(spent) = testbed.open(&names).await? else {
            return testbed.give_up(Some(&client)).await;
        };
        testbed.recovered(spent, "the power is back, and all serve");
        let judged = testbed.judge(&client, false).await?;
        testbed.score.rounds = round;
        work_on(&mut testbed, &client, plan, sizes).await?;
        print(&format!(
            "round {round}: power cut after {puts} puts of {} keys (about {large} MiB); {judged}",
            plan.keys
        ))?;
    }
    testbed.judge(&client, false).await?;
    testbed.cluster.stop_all()?;
    Ok(testbed.score)
}

/// Runs the same load for a while without a fault.
async fn work_on(
    testbed: &mut Testbed,
    client: &Client,
    plan: &Plan,
    sizes: Sizes,
) -> Result<(), String> {
    let mix = Mix { put: 1.0, ..Mix::default() };
    let spec = Spec { mix, duration: Some(AFTER), ..testbed.spec(plan.keys, Choice::Sweep, sizes) };
    testbed.enter(Phase::After);
    testbed.load(client, spec).finish().await?;
    testbed.enter(None);
    Ok(())
}

/// Runs the load, and cuts the power during it. Returns the number of puts acknowledged in this
/// round, and about how many MiB they took.
async fn cut_all(
    testbed: &mut Testbed,
    disks: &Disks,
    client: &Client,
    plan: &Plan,
    sizes: Sizes,
) -> Result<(u64, u64), String> {
    let mix = Mix { put: 1.0, ..Mix::default() };
    let spec = Spec { mix, ..testbed.spec(plan.keys, Choice::Sweep, sizes) };
    // Operations in flight are not done yet.
    let enough = SWEEPS * plan.keys + spec.clients as u64 + testbed.rng.below(plan.keys);
    let load = testbed.load(client, spec);
    testbed.enter(Phase::Before);
    while load.begun() < enough {
        if let Some((name, how)) = testbed.cluster.ended().pop() {
            return Err(format!("{name} {how}, before the power was cut"));
        }
        sleep(POLL).await;
    }
    let hot = begin_unsynced(testbed, client).await?;
    disks.cut()?;
    testbed.enter(Phase::During);
    testbed.timeline.note(EventKind::Fault, "the power of all disks is cut");
    testbed.kill_all()?;
    hot.stop().await?;
    let report = load.stop().await?;
    testbed.enter(None);
    let puts = report.kind(Kind::Put).map_or(0, |totals| totals.done());
    if puts < SWEEPS * plan.keys {
        let keys = plan.keys;
        testbed.score.notes.push(format!("only {puts} puts of {keys} keys before a cut"));
    }
    let bytes = puts as f64 * (sizes.usual as f64 + sizes.large_share * sizes.large as f64);
    Ok((puts, (bytes / f64::from(1 << 20)) as u64))
}
