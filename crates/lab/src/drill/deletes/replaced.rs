//! The daemon that was away is replaced by a new one, and then started again with its old disk.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use pixii::disk::{CheckReport, check};
use pixii_core::types::NodeId;
use tokio::time::sleep;

use super::super::testbed::CACHE_BYTES;
use super::{PARTITIONS, POLL_INTERVAL, Scenario, seconds};

/// Name of the newcomer.
const NEW: &str = "n6";
/// A removed daemon has to end within this time.
const REFUSED: Duration = Duration::from_secs(20);
/// A silent member has to be marked down within this time.
const BELIEVED: Duration = Duration::from_secs(20);

impl Scenario<'_> {
    /// Gives the daemon's places to a new one, waits until no daemon has tombstones of the deleted
    /// keys, and starts the old one.
    pub(super) async fn replace(&mut self, victim: &str) -> Result<(), String> {
        let begun = Instant::now();
        let address = self.testbed.cluster.add(NEW, victim)?;
        self.give_places(victim, &address).await?;
        self.testbed.ring = self
            .testbed
            .ring
            .replace(NodeId::of(victim), NodeId::of(NEW))
            .map_err(|why| why.to_string())?;
        self.testbed.open(&[NEW.to_string()]).await?;
        let client = self.testbed.client().await?;
        let first = self.present(&client, true).await?;
        let (read, calm) = (seconds(begun), self.await_calm(begun).await?);
        self.testbed.recovered(Duration::from_secs_f64(calm), "no node reports a deleted key");
        self.note("collected_s", calm);
        (self.print)(&format!(
            "{NEW} has the places of {victim}: {read} s later {first} of the keys were present; \
             nobody holds them after \
             {calm} s"
        ))?;
        self.start_removed(victim).await?;
        let last = self.present(&client, false).await?;
        self.expect_none("came_back", first + last, "deleted keys came back");
        (self.print)(&format!("{last} of the keys are present"))
    }

    /// Repeats the command until it is accepted: the others must have marked the old daemon down.
    async fn give_places(&mut self, victim: &str, address: &str) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            let client = self.testbed.client().await?;
            match client.replace(victim, NEW, address, true).await {
                Ok(_) => return Ok(()),
                Err(failure) if begun.elapsed() > BELIEVED => return Err(failure.to_string()),
                Err(_) => sleep(POLL_INTERVAL).await,
            }
        }
    }

    /// Starts the removed daemon on its old disk: it has to end, report the reason, and leave the
    /// disk unchanged.
    async fn start_removed(&mut self, victim: &str) -> Result<(), String> {
        let disk = self.testbed.logs.join(victim);
        let before = on_disk(disk.clone())?;
        if before.values < self.keys / 2 * u64::from(super::N) / super::NODES as u64 {
            let values = before.values;
            self.complaints.push(format!("{victim} holds {values} values: too few to bring back"));
        }
        let begun = Instant::now();
        self.testbed.cluster.start(victim)?;
        let how = loop {
            if let Some(how) = self.testbed.cluster.end_of(victim) {
                break how;
            }
            if begun.elapsed() > REFUSED {
                self.complaints.push(format!("{victim}, which was removed, still runs"));
                self.testbed.cluster.kill(victim)?;
                break "did not end".into();
            }
            sleep(POLL_INTERVAL).await;
        };
        if !how.contains("exit code 2") || !how.contains("removed") {
            self.complaints.push(format!("{victim} should say that it was removed, and {how}"));
        }
        self.testbed.cluster.retire(victim)?;
        let same = on_disk(disk)?.by_partition == before.by_partition;
        if !same {
            self.complaints.push(format!("the data of {victim} is not what it was"));
        }
        self.note("refused", how.clone());
        self.note("old_values", before.values);
        let kept = if same { "as they were" } else { "CHANGED" };
        (self.print)(&format!(
            "{victim} is started with the {} values and {PARTITIONS} partitions of its disk, and \
             after {} s {how}; they are \
             {kept}",
            before.values,
            seconds(begun)
        ))
    }
}

fn on_disk(dir: PathBuf) -> Result<CheckReport, String> {
    let beside = dir.parent().unwrap_or(&dir);
    check(&dir, beside, CACHE_BYTES, &mut |_| {}).map_err(|error| error.to_string())
}
