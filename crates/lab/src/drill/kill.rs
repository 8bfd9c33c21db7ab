//! Kill -9 of a daemon, or of all at once, at any moment of their incarnations, under load.

use std::time::Duration;

use pixii_client::Client;
use tokio::time::sleep;

use super::testbed::{N, Testbed};
use super::timeline::Phase;
use super::unsynced::begin_unsynced;
use super::{Plan, Print, Score};
use crate::workload::choice::{Choice, Sizes};

/// The share of rounds in which the daemon is also killed between exec and ready; at least 0.4 is
/// promised.
const EARLY_SHARE: f64 = 0.5;
const EARLY_PROMISED: f64 = 0.4;
/// In every so many rounds, the first among them, all daemons are killed at once: what was
/// acknowledged is then nowhere but on the disks.
const ALL_EVERY: u64 = 4;
/// How often one round tries to hit the time before ready.
const EARLY_TRIES: u32 = 20;
/// The load runs this long before the kill, at least and at most.
const BEFORE_MS: (u64, u64) = (50, 600);
/// And this long at most after the daemon is back.
const AFTER_MS: u64 = 300;
const SIZES: Sizes = Sizes { usual: 100, large: 20_000, large_share: 0.01 };

/// Rounds of: load, kill -9, perhaps another kill before it is ready, restart, verification. The
/// error says why the drill could not go on; faults of the daemons are in the score.
pub(crate) async fn run(plan: &Plan, print: Print<'_>) -> Result<Score, String> {
    let mut testbed = Testbed::prepare(plan, N.into())?;
    testbed.cluster.allow_emulation()?;
    let names = testbed.names();
    let Some(mut startup) = testbed.open(&names).await? else {
        return testbed.give_up(None).await;
    };
    let client = testbed.client().await?;
    testbed.fill(&client, plan.keys, SIZES).await?;
    print(&format!("3 daemons hold {} keys; seed {}", plan.keys, plan.seed))?;
    for round in 1..=plan.rounds {
        let Some(reported) = kill_one(&mut testbed, &client, plan, &mut startup).await? else {
            return testbed.give_up(Some(&client)).await;
        };
        let judged = testbed.judge(&client, true).await?;
        testbed.score.rounds = round;
        print(&format!("round {round}: {reported}; {judged}"))?;
    }
    testbed.judge(&client, false).await?;
    testbed.cluster.stop_all()?;
    Ok(testbed.score)
}

/// One round; `startup` is how long a daemon takes to be ready. `None` when a store stays shut.
async fn kill_one(
    testbed: &mut Testbed,
    client: &Client,
    plan: &Plan,
    startup: &mut Duration,
) -> Result<Option<String>, String> {
    let choice = if testbed.rng.chance(0.5) { Choice::Uniform } else { Choice::Zipf(0.99) };
    let spec = testbed.spec(plan.keys, choice, SIZES);
    let names = testbed.names();
    let victim = testbed.rng.pick(&names).cloned().unwrap_or_default();
    let behind =
        (testbed.score.before_ready as f64) < EARLY_PROMISED * (testbed.score.rounds + 1) as f64;
    let early = testbed.rng.chance(EARLY_SHARE) || behind;
    let load = testbed.load(client, spec);
    testbed.enter(Phase::Before);
    let before = BEFORE_MS.0 + testbed.rng.below(BEFORE_MS.1 - BEFORE_MS.0);
    sleep(Duration::from_millis(before)).await;
    testbed.enter(Phase::During);
    let (dead, mut reported) = if testbed.score.rounds.is_multiple_of(ALL_EVERY) {
        let hot = begin_unsynced(testbed, client).await?;
        testbed.note_ended();
        testbed.kill_all()?;
        hot.stop().await?;
        (names, format!("all killed, their disks slow, after {before} ms of load"))
    } else {
        testbed.kill(&victim)?;
        (vec![victim.clone()], format!("{victim} killed after {before} ms of load"))
    };
    if early && let Some(moment) = kill_before_ready(testbed, &victim, *startup).await? {
        reported += &format!(", {victim} again {} ms after exec", moment.as_millis());
    }
    let Some(spent) = testbed.open(&dead).await? else { return Ok(None) };
    testbed.recovered(spent, "all serve");
    testbed.enter(Phase::After);
    if dead.len() == 1 {
        *startup = spent;
    }
    reported += &format!(", ready in {} ms", spent.as_millis());
    let after = testbed.rng.below(AFTER_MS);
    sleep(Duration::from_millis(after)).await;
    load.stop().await?;
    testbed.enter(None);
    Ok(Some(reported))
}

/// Starts the daemon and kills it at a random moment before it is ready, or tries again. Gives the
/// moment, counted from exec.
async fn kill_before_ready(
    testbed: &mut Testbed,
    victim: &str,
    startup: Duration,
) -> Result<Option<Duration>, String> {
    let mut latest = startup;
    for _ in 0..EARLY_TRIES {
        let moment = latest.mul_f64(testbed.rng.unit());
        let log = testbed.log(victim);
        testbed.cluster.start(victim)?;
        sleep(moment).await;
        testbed.kill(victim)?;
        // Said by the log of a dead process, so that nothing can change any more.
        if !log.says_ready() {
            testbed.score.before_ready += 1;
            return Ok(Some(moment));
        }
        latest = moment;
    }
    Ok(None)
}
