//! Keys are deleted while a daemon is away, which then comes back or is replaced. No deleted value
//! returns, in the end no disk holds the keys, and new values of the same keys are not hidden by
//! knowledge of the old ones.

mod replaced;

use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::ValueEnum;
use pixii::disk::CheckReport;
use pixii_client::{Client, ClientError, Options};
use pixii_core::message::StatusReport;
use pixii_core::types::Key;
use serde_json::{Map, Value};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::testbed::{N, PARTITIONS, Testbed};
use super::{Ending, Plan, Print};

const NODES: usize = 5;
/// Number of requests in flight.
const LANES: usize = 64;
const TIMEOUT_MS: u32 = 10_000;
/// Maximum time from the start of the daemon until all tombstones are gone.
const WAIT: Duration = Duration::from_secs(120);
/// Time within which tombstone GC would begin if nothing held it back.
const BLOCKED_WAIT: Duration = Duration::from_secs(8);
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// The byte that the values of each phase consist of.
const OLD: u8 = 1;
const NEW: u8 = 2;

/// What becomes of the daemon that was away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fate {
    /// It comes back
    Return,
    /// It is replaced for good, and started again all the same
    Replaced,
}

/// A drill in progress. Dropping it kills the daemons.
struct Scenario<'a> {
    testbed: Testbed,
    keys: u64,
    value_bytes: usize,
    print: Print<'a>,
    complaints: Vec<String>,
    figures: Map<String, Value>,
}

/// The report of one daemon about its tombstones.
struct NodeKeys {
    name: String,
    /// Number of keys with pending tombstones.
    keys: u64,
    /// Number of partitions whose tombstone GC is held back, and the reason of one of them.
    blocked: u32,
    why: Option<String>,
    hints: u64,
    /// Number of partitions that it has yet to read after its start.
    unread: u64,
}

/// Fills the cluster, deletes all keys with a daemon away, brings it back, waits, checks, and puts
/// the keys again. The error says why the drill could not go on.
pub(crate) async fn run(
    plan: &Plan,
    value_bytes: usize,
    fate: Fate,
    print: Print<'_>,
) -> Result<Ending, String> {
    let mut testbed = Testbed::prepare(plan, NODES)?;
    let names = testbed.names();
    if testbed.open(&names).await?.is_none() {
        return Ok(testbed.give_up(None).await?.into());
    }
    let victim = testbed.rng.pick(&names).cloned().unwrap_or_default();
    let (complaints, figures) = (Vec::new(), Map::new());
    let mut scenario =
        Scenario { testbed, keys: plan.keys, value_bytes, print, complaints, figures };
    scenario.note("victim", victim.clone());
    scenario.put().await?;
    let contexts = scenario.delete_without(&victim).await?;
    scenario.expect_blocked(&victim).await?;
    match fate {
        Fate::Return => scenario.bring_back(&victim).await?,
        Fate::Replaced => scenario.replace(&victim).await?,
    }
    scenario.testbed.cluster.stop_all()?;
    scenario.check_disks()?;
    scenario.testbed.open(&scenario.testbed.names()).await?;
    scenario.put_again(contexts).await?;
    scenario.testbed.cluster.stop_all()?;

    let Scenario { complaints, figures, .. } = scenario;
    let summary = format!(
        "{} keys deleted with {victim} away: {} came back, {} tombstones left on the disks {} s \
         after its {}, {} of \
         {PARTITIONS} partitions differ; put again, {} reads were not as they should be",
        plan.keys,
        figures["came_back"],
        figures["tombstones"],
        figures["collected_s"],
        if fate == Fate::Return { "start" } else { "replacement" },
        figures["partitions_differ"],
        figures["hidden"]
    );
    Ok(Ending { summary, complaints, figures: figures.into() })
}

impl Scenario<'_> {
    fn note(&mut self, name: &str, value: impl Into<Value>) {
        self.figures.insert(name.into(), value.into());
    }

    /// Notes a figure that has to be 0.
    fn expect_none(&mut self, name: &str, count: u64, what: &str) {
        self.note(name, count);
        if count > 0 {
            self.complaints.push(format!("{count} {what}"));
        }
    }

    async fn put(&mut self) -> Result<(), String> {
        let (client, begun) = (self.testbed.client().await?, Instant::now());
        put_all(&client, vec![None; self.keys as usize], vec![OLD; self.value_bytes]).await?;
        (self.print)(&format!(
            "{} keys are put at all their owners in {} s",
            self.keys,
            seconds(begun)
        ))
    }

    /// Kills a daemon, reads all keys and deletes them. Returns the contexts of the reads.
    async fn delete_without(&mut self, victim: &str) -> Result<Vec<Option<Bytes>>, String> {
        self.testbed.kill(victim)?;
        let (client, begun) = (self.testbed.client().await?, Instant::now());
        let old = Bytes::from(vec![OLD; self.value_bytes]);
        let read = all(&client, vec![(); self.keys as usize], |client, key, ()| async move {
            let found =
                client.get(&key).deadline_ms(TIMEOUT_MS).await.map_err(|f| f.to_string())?;
            Ok((found.values, found.context))
        });
        let (values, contexts): (Vec<_>, Vec<_>) = read.await?.into_iter().unzip();
        let unseen = values.iter().filter(|values| **values != [old.clone()]).count();
        self.expect_none(
            "unseen",
            unseen as u64,
            "keys did not show their value before the delete",
        );
        delete_all(&client, contexts.clone()).await?;
        let took = seconds(begun);
        (self.print)(&format!("{victim} is killed; all keys are read and deleted in {took} s"))?;
        Ok(contexts.into_iter().map(Some).collect())
    }

    /// Checks that nothing is purged while a daemon is away, and that the others name it as the
    /// reason.
    async fn expect_blocked(&mut self, victim: &str) -> Result<(), String> {
        sleep(BLOCKED_WAIT).await;
        let reported = look(&self.testbed).await?;
        let (mut keys, mut naming) = (0, 0);
        for NodeKeys { name, keys: held, blocked, why, .. } in reported {
            keys += held;
            let names_it = why.as_ref().is_some_and(|why| why.contains(victim));
            naming += u64::from(names_it);
            let why = why.unwrap_or_else(|| "nothing".into());
            (self.print)(&format!(
                "{} s later {name} still has {held} deleted keys; {blocked} partitions are held \
                 back: {why}",
                BLOCKED_WAIT.as_secs()
            ))?;
            if blocked > 0 && !names_it {
                self.complaints.push(format!("{name} says that {why}, and it is {victim}"));
            }
        }
        self.note("held", keys);
        self.note("naming", naming);
        // At least every owner of each key but one has a tombstone.
        if keys < u64::from(N - 1) * self.keys {
            self.complaints.push(format!("only {keys} copies show it although {victim} is away"));
        }
        if naming == 0 {
            self.complaints.push(format!("nobody says that {victim} holds the tombstone GC back"));
        }
        Ok(())
    }

    /// Starts the daemon, and waits until no daemon has tombstones of the deleted keys.
    async fn bring_back(&mut self, victim: &str) -> Result<(), String> {
        let begun = Instant::now();
        self.testbed.open(&[victim.to_string()]).await?;
        let client = self.testbed.client().await?;
        // Hints for it may still be pending.
        let first = self.present(&client, true).await?;
        let (read, calm) = (seconds(begun), self.await_calm(begun).await?);
        self.testbed.recovered(Duration::from_secs_f64(calm), "no node reports a deleted key");
        let last = self.present(&client, false).await?;
        self.note("collected_s", calm);
        self.expect_none("came_back", first + last, "deleted keys came back");
        (self.print)(&format!(
            "{victim} is started: {read} s later {first} of the keys were present; no node reports \
             them after {calm} s, and \
             {last} are present"
        ))
    }

    /// Waits until no daemon has tombstones, hints or partitions to read. Returns the seconds since
    /// `begun`, and notes a complaint if they are too many.
    async fn await_calm(&mut self, begun: Instant) -> Result<f64, String> {
        let deadline = Instant::now() + WAIT;
        loop {
            let reported = look(&self.testbed).await?;
            let sum = |of: fn(&NodeKeys) -> u64| reported.iter().map(of).sum::<u64>();
            let [keys, hints, unread] = [sum(|t| t.keys), sum(|t| t.hints), sum(|t| t.unread)];
            if keys + hints + unread == 0 {
                return Ok(seconds(begun));
            }
            if Instant::now() > deadline {
                let why: Vec<String> =
                    reported.into_iter().filter_map(|reported| reported.why).collect();
                self.complaints.push(format!(
                    "after {} s {keys} copies still show what is gone, with {hints} hints and \
                     {unread} partitions to be \
                     read: {}",
                    WAIT.as_secs(),
                    why.join("; ")
                ));
                return Ok(seconds(begun));
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Number of keys that have a value at any owner.
    async fn present(&self, client: &Client, yielding: bool) -> Result<u64, String> {
        let found = read_all(client, self.keys, yielding).await?;
        Ok(found.iter().filter(|values| !values.is_empty()).count() as u64)
    }

    /// Checks that the stopped disks hold none of the keys.
    fn check_disks(&mut self) -> Result<(), String> {
        let begun = Instant::now();
        let stores = self.testbed.check_all()?;
        let differ = self.testbed.differing(&stores) as u64;
        let sum = |of: fn(&CheckReport) -> u64| stores.iter().map(|(_, r)| of(r)).sum::<u64>();
        let tombstones = sum(|report| report.tombstones);
        let values = sum(|report| report.values);
        let hints = sum(|report| report.hints.values().map(|total| total.count).sum());
        let damages = sum(|report| report.damages + u64::from(!report.complete));
        self.expect_none("tombstones", tombstones, "tombstones are on the disks");
        self.expect_none("values", values, "values are on the disks");
        self.expect_none("hints", hints, "hints are on the disks");
        self.expect_none("damages", damages, "places of the disks are damaged");
        self.expect_none("partitions_differ", differ, "partitions differ between their owners");
        (self.print)(&format!(
            "all are stopped: {tombstones} tombstones, {values} values and {hints} hints are on \
             the {} disks, {differ} of \
             {PARTITIONS} partitions differ (checked in {} s)",
            stores.len(),
            seconds(begun)
        ))
    }

    /// Puts the same keys with new values, every other one with the context of the old value. Then
    /// deletes all keys with these contexts, which cover nothing new. Tombstones that this causes
    /// are purged again.
    async fn put_again(&mut self, contexts: Vec<Option<Bytes>>) -> Result<(), String> {
        let (client, begun) = (self.testbed.client().await?, Instant::now());
        let every_other = contexts.iter().enumerate();
        let every_other = every_other.map(|(at, old)| old.clone().filter(|_| at % 2 == 1));
        put_all(&client, every_other.collect(), vec![NEW; self.value_bytes]).await?;
        delete_all(&client, contexts.into_iter().flatten().collect()).await?;
        let hidden = self.hidden(&client).await?;
        let (read, calm) = (seconds(begun), self.await_calm(begun).await?);
        let hidden_later = self.hidden(&client).await?;
        self.note("collected_again_s", calm);
        let what = "reads of keys that were put again did not show the new value and no other";
        self.expect_none("hidden", hidden + hidden_later, what);
        (self.print)(&format!(
            "all keys are put again, half of them with old contexts, and deleted with old \
             contexts: {read} s later {hidden} are \
             not as they should be; no node reports an old event after {calm} s, and \
             {hidden_later} are not as they should be"
        ))
    }

    /// Number of keys that show anything but the new value.
    async fn hidden(&self, client: &Client) -> Result<u64, String> {
        let new = Bytes::from(vec![NEW; self.value_bytes]);
        let found = read_all(client, self.keys, false).await?;
        Ok(found.iter().filter(|values| **values != [new.clone()]).count() as u64)
    }
}

fn seconds(since: Instant) -> f64 {
    (since.elapsed().as_secs_f64() * 10.0).round() / 10.0
}

/// Carries out an operation on each key with its argument, several at a time. Returns the results
/// in the order of the keys.
async fn all<I, O, F>(
    client: &Client,
    given: Vec<I>,
    each: impl Fn(Client, Key, I) -> F,
) -> Result<Vec<O>, String>
where
    F: Future<Output = Result<O, String>> + Send + 'static,
    O: Send + 'static,
{
    let (mut lanes, mut done) = (JoinSet::new(), Vec::with_capacity(given.len()));
    for (number, given) in given.into_iter().enumerate() {
        if lanes.len() >= LANES
            && let Some(one) = lanes.join_next().await
        {
            done.push(one.map_err(|error| error.to_string())?);
        }
        let key = Key::new(format!("deletes/{number:08}")).map_err(|error| error.to_string())?;
        let doing = each(client.clone(), key, given);
        lanes.spawn(async move { (number, doing.await) });
    }
    while let Some(one) = lanes.join_next().await {
        done.push(one.map_err(|error| error.to_string())?);
    }
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, came)| came).collect()
}

async fn put_all(client: &Client, given: Vec<Option<Bytes>>, value: Vec<u8>) -> Result<(), String> {
    let value = Bytes::from(value);
    all(client, given, |client, key, context| {
        let value = value.clone();
        async move {
            let put = client.put(key, value).seen(context).w(N).deadline_ms(TIMEOUT_MS);
            put.await.map_err(|failure| failure.to_string())
        }
    })
    .await
    .map(drop)
}

async fn delete_all(client: &Client, contexts: Vec<Bytes>) -> Result<(), String> {
    all(client, contexts, |client, key, context| async move {
        let deleted = client.delete(&key).context(context).deadline_ms(TIMEOUT_MS).await;
        deleted.map_err(|failure| failure.to_string())
    })
    .await
    .map(drop)
}

/// The values of all keys, from all owners. With `yielding`, from the default quorum if one of the
/// owners is not read-eligible yet.
async fn read_all(client: &Client, keys: u64, yielding: bool) -> Result<Vec<Vec<Bytes>>, String> {
    all(client, vec![(); keys as usize], move |client, key, ()| async move {
        let mut found = client.get(&key).r(Some(N)).deadline_ms(TIMEOUT_MS).await;
        if yielding && matches!(&found, Err(ClientError::Refused(why)) if why.is_no_quorum()) {
            found = client.get(&key).deadline_ms(TIMEOUT_MS).await;
        }
        found.map(|found| found.values).map_err(|failure| failure.to_string())
    })
    .await
}

/// The reports of the running daemons about their tombstones.
async fn look(testbed: &Testbed) -> Result<Vec<NodeKeys>, String> {
    let mut reported = Vec::new();
    for daemon in testbed.cluster.daemons().iter().filter(|daemon| daemon.is_running()) {
        let address = [daemon.address.clone()];
        let client = Client::connect(&address, Options::default()).await;
        let report = async { client?.status(None).await }.await;
        let StatusReport { tombstone_gc, peers, repair, .. } =
            report.map_err(|failure| failure.to_string())?;
        reported.push(NodeKeys {
            name: daemon.name.clone(),
            keys: tombstone_gc.keys,
            blocked: tombstone_gc.blocked,
            why: tombstone_gc.example.map(|(_, why)| why.to_string()),
            hints: peers.iter().map(|peer| peer.hints).sum(),
            unread: repair.unread.into(),
        });
    }
    Ok(reported)
}
