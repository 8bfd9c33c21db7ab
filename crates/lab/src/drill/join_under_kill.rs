//! Members join and leave under load while daemons are killed, the newcomer and the leaver among
//! them, and some of the changes are taken back. Every change comes to an end, and nothing that was
//! acknowledged is lost.

use std::time::Duration;

use pixii_client::Client;
use pixii_core::message::Staged;
use serde_json::json;
use tokio::time::sleep;

use super::changes::spare;
use super::testbed::{N, PARTITIONS, Testbed, await_equal, reported_of_differing};
use super::timeline::Phase;
use super::{Ending, Plan, Print};
use crate::workload::choice::{Choice, Sizes};

/// A change comes to its end within this time once nobody is killed any more.
const WAIT: Duration = Duration::from_secs(120);
/// Minimum and maximum time before each kill, and from it to the start, in milliseconds.
const BEFORE_MS: (u64, u64) = (20, 700);
const DEAD_MS: (u64, u64) = (20, 500);
/// Maximum number of kills in one change.
const MAX_KILLS: u64 = 3;
/// Share of the changes that are taken back.
const CANCELLED: f64 = 0.3;
const SIZES: Sizes = Sizes { usual: 100, large: 20_000, large_share: 0.01 };

/// Counts of the changes.
#[derive(Default)]
struct Changes {
    joined: u64,
    left: u64,
    taken_back: u64,
}

/// Rounds of: a change, kills, perhaps a cancel, its end, verification. The error says why the
/// drill could not go on.
pub(crate) async fn run(plan: &Plan, print: Print<'_>) -> Result<Ending, String> {
    let mut testbed = Testbed::prepare(plan, usize::from(N) + 1)?;
    let names = testbed.names();
    if testbed.open(&names).await?.is_none() {
        return Ok(testbed.give_up(None).await?.into());
    }
    testbed.fill(&testbed.client().await?, plan.keys, SIZES).await?;
    print(&format!("{} daemons hold {} keys; seed {}", names.len(), plan.keys, plan.seed))?;
    let (mut changes, mut number) = (Changes::default(), names.len());
    for round in 1..=plan.rounds {
        // A client of the members that there are now.
        let client = testbed.client().await?;
        let reported = match testbed.names().len() {
            members if spare(members) <= 1 => {
                number += 1;
                join(&mut testbed, &client, plan, &format!("n{number}"), &mut changes).await?
            }
            _ => leave(&mut testbed, &client, plan, &mut changes).await?,
        };
        let judged = testbed.judge(&testbed.client().await?, true).await?;
        testbed.score.rounds = round;
        print(&format!("round {round}: {reported}; {judged}"))?;
    }
    testbed.await_no_hints(WAIT).await?;
    let names = testbed.names();
    await_equal(&testbed.client().await?, &names, WAIT).await?;
    testbed.cluster.stop_all()?;
    let (_, differ) = testbed.compare()?;
    testbed.open(&names).await?;
    testbed.judge(&testbed.client().await?, false).await?;
    testbed.cluster.stop_all()?;
    let Changes { joined, left, taken_back } = changes;
    let mut ending = Ending::from(testbed.score);
    ending.summary += &format!(
        "\n{joined} joined, {left} left, {taken_back} changes were taken back, {differ} of \
         {PARTITIONS} partitions differ"
    );
    ending.complaints.extend(reported_of_differing(differ));
    ending.figures["joined"] = json!(joined);
    ending.figures["left"] = json!(left);
    ending.figures["taken_back"] = json!(taken_back);
    ending.figures["partitions_differ"] = json!(differ);
    Ok(ending)
}

/// A daemon joins; if that is taken back, it joins in the next attempt of the same round.
async fn join(
    testbed: &mut Testbed,
    client: &Client,
    plan: &Plan,
    name: &str,
    changes: &mut Changes,
) -> Result<String, String> {
    let members = testbed.names();
    let staged = testbed.newcomer(name).await?;
    let mut all = members.clone();
    all.push(name.into());
    let mut reported = format!("{name} joins");
    loop {
        let back = disturb(testbed, client, plan, &staged, &all, &members).await?;
        if !back {
            changes.joined += 1;
            return Ok(reported);
        }
        changes.taken_back += 1;
        reported += ", is turned back, joins";
    }
}

/// A member leaves; if that is taken back, it leaves in the next attempt of the same round.
async fn leave(
    testbed: &mut Testbed,
    client: &Client,
    plan: &Plan,
    changes: &mut Changes,
) -> Result<String, String> {
    let members = testbed.names();
    let name = testbed.rng.pick(&members).cloned().unwrap_or_default();
    let mut others = members.clone();
    others.retain(|member| *member != name);
    let staged = Staged::Leave { name: name.clone() };
    let mut reported = format!("{name} leaves");
    while disturb(testbed, client, plan, &staged, &others, &members).await? {
        changes.taken_back += 1;
        reported += ", stays, leaves";
    }
    changes.left += 1;
    testbed.await_left(&name).await?;
    Ok(reported)
}

/// Begins a change of the `before` members to the `after` ones, kills daemons beside it, and waits
/// for its end. True if it was taken back.
async fn disturb(
    testbed: &mut Testbed,
    client: &Client,
    plan: &Plan,
    staged: &Staged,
    after: &[String],
    before: &[String],
) -> Result<bool, String> {
    let stays: Vec<String> = before.iter().filter(|name| after.contains(name)).cloned().collect();
    let at = testbed.rng.pick(&stays).cloned().unwrap_or_default();
    let version = testbed.ring.version();
    let spec = testbed.spec(plan.keys, Choice::Uniform, SIZES);
    testbed.enter(Phase::Before);
    let load = testbed.load(client, spec);
    testbed.begin_change(&at, std::slice::from_ref(staged)).await?;
    testbed.enter(Phase::During);
    let cancels = testbed.rng.chance(CANCELLED);
    let kills = testbed.rng.below(MAX_KILLS + 1);
    let mut taken_back = false;
    for _ in 0..kills {
        pause(testbed, BEFORE_MS).await;
        let running = testbed.cluster.daemons().iter().filter(|daemon| daemon.is_running());
        let running: Vec<String> = running.map(|daemon| daemon.name.clone()).collect();
        let victim = testbed.rng.pick(&running).cloned().unwrap_or_default();
        // A leaver may just have ended by itself.
        if testbed.cluster.end_of(&victim).is_some_and(|how| !how.contains("exit code 2")) {
            return Err(format!("{victim} has ended"));
        }
        let mut daemons = testbed.cluster.daemons().iter();
        if !daemons.any(|daemon| daemon.name == victim && daemon.is_running()) {
            continue;
        }
        testbed.kill(&victim)?;
        if cancels && !taken_back {
            taken_back = testbed.cancel_change(&at).await.unwrap_or(false);
        }
        pause(testbed, DEAD_MS).await;
        testbed.cluster.start(&victim)?;
    }
    if cancels && !taken_back {
        taken_back = testbed.cancel_change(&at).await.unwrap_or(false);
    }
    let end = if taken_back { before } else { after };
    testbed.await_settled(end, version, WAIT).await?;
    testbed.enter(Phase::After);
    load.stop().await?;
    testbed.enter(None);
    Ok(taken_back)
}

async fn pause(testbed: &mut Testbed, (least, most): (u64, u64)) {
    let ms = least + testbed.rng.below(most - least);
    sleep(Duration::from_millis(ms)).await;
}
