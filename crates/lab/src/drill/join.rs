//! A daemon joins a cluster with data, and one that has lost its disk is filled again, as fast as
//! the machine can: how many bytes that moves, and in which time. With an older program, the same
//! loss is measured there, on the same data.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use super::disk_loss::refill;
use super::testbed::{N, PARTITIONS, Testbed, await_equal, reported_of_differing};
use super::timeline::{EventKind, Phase};
use super::{Ending, Plan, Print};
use crate::workload::choice::Sizes;

const NODES: usize = 3;
/// Name of the newcomer.
const NEW: &str = "n4";
/// The daemon that loses its disk.
const VICTIM: &str = "n2";
/// Maximum time for a change to come to its end.
const WAIT: Duration = Duration::from_secs(600);
/// Maximum of (bytes moved by the join / bytes of the values that the newcomer holds).
const MOST: f64 = 1.15;
const BLOCK: usize = 1 << 20;

/// How fast data was brought to a daemon.
#[derive(Clone, Copy)]
struct Rate {
    bytes: u64,
    took: Duration,
}

impl Rate {
    /// MiB a second.
    fn mib(self) -> f64 {
        self.bytes as f64 / f64::from(1 << 20) / self.took.as_secs_f64()
    }
}

/// Fills the cluster, takes a disk away, waits, lets a daemon join, and compares. The error says
/// why the drill could not go on.
pub(crate) async fn run(
    plan: &Plan,
    value_bytes: usize,
    old: Option<&Path>,
    print: Print<'_>,
) -> Result<Ending, String> {
    let before = match old {
        Some(program) => {
            let dir = plan.dir.join("older");
            let older = Plan { program: program.into(), dir, ..plan.clone() };
            let mut testbed = filled(&older, value_bytes, false).await?;
            let rate = lose_disk(&mut testbed, plan.keys, value_bytes).await?;
            testbed.cluster.kill_all()?;
            print(&format!("the older program fills {VICTIM} again at {:.1} MiB/s", rate.mib()))?;
            Some(rate)
        }
        None => None,
    };
    let newer = Plan { dir: plan.dir.join("newer"), ..plan.clone() };
    let mut testbed = filled(&newer, value_bytes, true).await?;
    print(&format!("{NODES} daemons hold {} keys; seed {}", plan.keys, plan.seed))?;
    testbed.enter(Phase::During);
    let refilled = lose_disk(&mut testbed, plan.keys, value_bytes).await?;
    print(&format!("{VICTIM}, without its disk, is filled again at {:.1} MiB/s", refilled.mib()))?;
    let (joined, moved) = join(&mut testbed).await?;
    testbed.enter(None);

    let names = testbed.names();
    testbed.await_no_hints(WAIT).await?;
    await_equal(&testbed.client().await?, &names, WAIT).await?;
    testbed.cluster.stop_all()?;
    let stores = testbed.check_all()?;
    let new = pixii_core::types::NodeId::of(NEW);
    let held = stores.iter().find(|(id, _)| *id == new).map_or(0, |(_, report)| report.live_keys);
    let joined = Rate { bytes: held * value_bytes as u64, took: joined };
    let differ = testbed.differing(&stores);
    let copied = copy(&plan.dir, joined.bytes)?;
    testbed.open(&names).await?;
    testbed.judge(&testbed.client().await?, false).await?;
    testbed.cluster.stop_all()?;
    let share = moved as f64 / joined.bytes.max(1) as f64;
    let measured = Measured { before, refilled, joined, share, copied, differ };
    Ok(measured.ending(&testbed, plan, value_bytes))
}

struct Measured {
    before: Option<Rate>,
    refilled: Rate,
    joined: Rate,
    /// Bytes that the join moved, for each byte that the newcomer holds.
    share: f64,
    copied: Rate,
    differ: usize,
}

impl Measured {
    fn ending(self, testbed: &Testbed, plan: &Plan, value_bytes: usize) -> Ending {
        let Measured { before, refilled, joined, share, copied, differ } = self;
        let score = &testbed.score;
        let mut complaints = if score.is_clean() { Vec::new() } else { score.complaints() };
        complaints.extend(reported_of_differing(differ));
        if share > MOST {
            complaints.push(format!("the join moved {share:.2} times the bytes that it had to"));
        }
        let times =
            before.map(|before| (refilled.mib() / before.mib(), joined.mib() / before.mib()));
        let beside = times.map_or(String::new(), |(refill, join)| {
            format!("; {refill:.1} and {join:.1} times the rate of the older program's refill")
        });
        let summary = format!(
            "{} keys of {value_bytes} bytes: a lost disk was filled again at {:.1} MiB/s, and \
             {NEW} joined in {:.1} s at {:.1} MiB/s{beside}; it moved {share:.2} times the bytes \
             that it had to (at most {MOST}); cp and fsync of as many bytes take {:.2} of the \
             time of the join; {} acknowledged writes lost, {differ} of {PARTITIONS} partitions \
             differ between their owners",
            plan.keys,
            refilled.mib(),
            joined.took.as_secs_f64(),
            joined.mib(),
            copied.took.as_secs_f64() / joined.took.as_secs_f64(),
            score.lost
        );
        let figures = json!({
            "refill_mib_s": refilled.mib(), "join_s": joined.took.as_secs_f64(),
            "join_mib_s": joined.mib(), "moved_share": share, "copy_mib_s": copied.mib(),
            "older_refill_mib_s": before.map(Rate::mib), "lost": score.lost,
            "partitions_differ": differ,
        });
        Ending { summary, complaints, figures }
    }
}

/// Daemons that hold all keys.
async fn filled(plan: &Plan, value_bytes: usize, unlimited: bool) -> Result<Testbed, String> {
    let mut testbed = Testbed::prepare(plan, NODES)?;
    if unlimited {
        testbed.cluster.configure("transfer_mib_per_second = 0")?;
    }
    let names = testbed.names();
    if testbed.open(&names).await?.is_none() {
        return Err(testbed.score.notes.join("; "));
    }
    let client = testbed.client().await?;
    testbed.fill(&client, plan.keys, Sizes::fixed(value_bytes)).await?;
    Ok(testbed)
}

/// Takes the disk of a daemon away; how fast it is filled again. Every daemon owns every key.
async fn lose_disk(testbed: &mut Testbed, keys: u64, value_bytes: usize) -> Result<Rate, String> {
    const { assert!(NODES == N as usize) };
    testbed.kill(VICTIM)?;
    let dir = testbed.logs.join(VICTIM);
    fs::remove_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    testbed.timeline.note(EventKind::Fault, &format!("the disk of {VICTIM} is empty"));
    let took = refill(testbed, VICTIM).await?.took;
    testbed.recovered(took, &format!("{VICTIM} has all again"));
    Ok(Rate { bytes: keys * value_bytes as u64, took })
}

/// Lets a daemon join; how long it took from the order to its end, and the bytes that were moved.
async fn join(testbed: &mut Testbed) -> Result<(Duration, u64), String> {
    let old = testbed.names();
    let staged = testbed.newcomer(NEW).await?;
    let (moved, version) = (testbed.moved_bytes(&old).await?, testbed.ring.version());
    let begun = Instant::now();
    testbed.timeline.note(EventKind::Step, &format!("{NEW} is to join"));
    testbed.begin_change(&old[0], &[staged]).await?;
    testbed.await_settled(&testbed.names(), version, WAIT).await?;
    let took = begun.elapsed();
    testbed.recovered(took, &format!("{NEW} is a member"));
    Ok((took, testbed.moved_bytes(&testbed.names()).await? - moved))
}

/// Copies a file of so many bytes, as `cp` and an fsync do.
fn copy(dir: &Path, bytes: u64) -> Result<Rate, String> {
    let (from, to) = (dir.join("from"), dir.join("to"));
    let fault = |error: std::io::Error| format!("{}: {error}", to.display());
    let mut file = File::create(&from).map_err(fault)?;
    let mut rng = pixii_core::rng::Rng::new(1);
    let block: Vec<u8> = (0..BLOCK / 8).flat_map(|_| rng.next_u64().to_be_bytes()).collect();
    let mut left = bytes;
    while left > 0 {
        let part = left.min(BLOCK as u64) as usize;
        file.write_all(&block[..part]).map_err(fault)?;
        left -= part as u64;
    }
    file.sync_all().map_err(fault)?;
    let begun = Instant::now();
    fs::copy(&from, &to).map_err(fault)?;
    File::open(&to).and_then(|file| file.sync_all()).map_err(fault)?;
    Ok(Rate { bytes, took: begun.elapsed() })
}
