//! Kill -9 of a daemon, or of all at once, at any moment of their lives, under load.

use std::time::Duration;

use pixii_client::Client;
use tokio::time::sleep;

use super::chronicle::Phase;
use super::ground::{Ground, N};
use super::unsynced::begin_unsynced;
use super::{Plan, Say, Score};
use crate::workload::choice::{Choice, Sizes};

/// The share of rounds in which the daemon is also killed between exec and ready; at least 0.4 is promised.
const EARLY_SHARE: f64 = 0.5;
const EARLY_PROMISED: f64 = 0.4;
/// In every so many rounds, the first among them, all daemons are killed at once: what was acknowledged is then nowhere but
/// on the disks.
const ALL_EVERY: u64 = 4;
/// How often one round tries to hit the time before ready.
const EARLY_TRIES: u32 = 20;
/// The load runs this long before the kill, at least and at most.
const BEFORE_MS: (u64, u64) = (50, 600);
/// And this long at most after the daemon is back.
const AFTER_MS: u64 = 300;
const SIZES: Sizes = Sizes { usual: 100, large: 20_000, large_share: 0.01 };

/// Rounds of: load, kill -9, perhaps another kill before it is ready, restart, verification. The error
/// says why the drill could not go on; faults of the daemons are in the score.
pub(crate) async fn run(plan: &Plan, say: Say<'_>) -> Result<Score, String> {
    let mut ground = Ground::prepare(plan, N.into())?;
    ground.cluster.allow_emulation()?;
    let names = ground.names();
    let Some(mut startup) = ground.open(&names).await? else {
        return ground.give_up(None).await;
    };
    let client = ground.client().await?;
    ground.fill(&client, plan.keys, SIZES).await?;
    say(&format!("3 daemons hold {} keys; seed {}", plan.keys, plan.seed))?;
    for round in 1..=plan.rounds {
        let Some(told) = kill_one(&mut ground, &client, plan, &mut startup).await? else {
            return ground.give_up(Some(&client)).await;
        };
        let judged = ground.judge(&client, true).await?;
        ground.score.rounds = round;
        say(&format!("round {round}: {told}; {judged}"))?;
    }
    ground.judge(&client, false).await?;
    ground.cluster.stop_all()?;
    Ok(ground.score)
}

/// One round; `startup` is how long a daemon takes to be ready. `None` when a store stays shut.
async fn kill_one(
    ground: &mut Ground,
    client: &Client,
    plan: &Plan,
    startup: &mut Duration,
) -> Result<Option<String>, String> {
    let choice = if ground.rng.chance(0.5) { Choice::Uniform } else { Choice::Zipf(0.99) };
    let spec = ground.spec(plan.keys, choice, SIZES);
    let names = ground.names();
    let victim = ground.rng.pick(&names).cloned().unwrap_or_default();
    let behind =
        (ground.score.before_ready as f64) < EARLY_PROMISED * (ground.score.rounds + 1) as f64;
    let early = ground.rng.chance(EARLY_SHARE) || behind;
    let load = ground.load(client, spec);
    ground.enter(Phase::Before);
    let before = BEFORE_MS.0 + ground.rng.below(BEFORE_MS.1 - BEFORE_MS.0);
    sleep(Duration::from_millis(before)).await;
    ground.enter(Phase::During);
    let (dead, mut told) = if ground.score.rounds.is_multiple_of(ALL_EVERY) {
        let hot = begin_unsynced(ground, client).await?;
        ground.note_ended();
        ground.kill_all()?;
        hot.stop().await?;
        (names, format!("all killed, their disks slow, after {before} ms of load"))
    } else {
        ground.kill(&victim)?;
        (vec![victim.clone()], format!("{victim} killed after {before} ms of load"))
    };
    if early && let Some(moment) = kill_before_ready(ground, &victim, *startup).await? {
        told += &format!(", {victim} again {} ms after exec", moment.as_millis());
    }
    let Some(spent) = ground.open(&dead).await? else { return Ok(None) };
    ground.recovered(spent, "all serve");
    ground.enter(Phase::After);
    if dead.len() == 1 {
        *startup = spent;
    }
    told += &format!(", ready in {} ms", spent.as_millis());
    let after = ground.rng.below(AFTER_MS);
    sleep(Duration::from_millis(after)).await;
    load.stop().await?;
    ground.enter(None);
    Ok(Some(told))
}

/// Starts the daemon and kills it at a random moment before it is ready, or tries again. Gives the
/// moment, counted from exec.
async fn kill_before_ready(
    ground: &mut Ground,
    victim: &str,
    startup: Duration,
) -> Result<Option<Duration>, String> {
    let mut latest = startup;
    for _ in 0..EARLY_TRIES {
        let moment = latest.mul_f64(ground.rng.unit());
        let log = ground.log(victim);
        ground.cluster.start(victim)?;
        sleep(moment).await;
        ground.kill(victim)?;
        // Said by the log of a dead process, so that nothing can change any more.
        if !log.says_ready() {
            ground.score.before_ready += 1;
            return Ok(Some(moment));
        }
        latest = moment;
    }
    Ok(None)
}
