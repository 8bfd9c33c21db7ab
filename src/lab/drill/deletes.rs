//! Keys are deleted while a daemon is away, and it comes back: nothing returns, and in the end no disk tells of them.

use std::time::{Duration, Instant};

use bytes::Bytes;
use pixii::client::{Client, Options, Put};
use pixii::message::StatusReport;
use pixii::store::disk::check;
use pixii::types::Key;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::ground::{Ground, N, PARTITIONS};
use super::{Ending, Plan, Say};

const NODES: usize = 5;
/// Requests at a time.
const LANES: u64 = 64;
const TIMEOUT_MS: u32 = 10_000;
/// Tombstones are gone in this time after the daemon is back.
const WAIT: Duration = Duration::from_secs(120);
/// The collection has had time to begin if nothing holds it back.
const HELD: Duration = Duration::from_secs(8);
const LOOK: Duration = Duration::from_millis(200);
/// Page cache while a stopped store is read.
const CACHE_BYTES: u64 = 64 << 20;

/// What was seen at one moment.
struct Seen {
    /// Keys that tell of what is gone, at all daemons together.
    keys: u64,
    /// What holds the collection back, as far as it is told.
    why: Option<String>,
}

/// Fills, deletes with a daemon away, brings it back, waits, checks. The error says why the drill could not go on.
pub(crate) async fn run(plan: &Plan, value_bytes: usize, say: Say<'_>) -> Result<Ending, String> {
    let mut ground = Ground::prepare(plan, NODES)?;
    let names = ground.names();
    if ground.open(&names).await?.is_none() {
        return Ok(ground.give_up(None).await?.into());
    }
    let client = ground.client().await?;
    let mut complaints = Vec::new();
    put_all(&client, plan.keys, value_bytes, 1).await?;
    let victim = ground.rng.pick(&names).cloned().unwrap_or_default();
    ground.kill(&victim)?;
    delete_all(&client, plan.keys).await?;
    sleep(HELD).await;
    let held = look(&ground).await?;
    let why = held.why.clone().unwrap_or_else(|| "nothing".into());
    say(&format!(
        "{} keys are put, and deleted while {victim} is away: {} copies tell of it, {} s later still; what holds their \
         collection back: {why}",
        plan.keys,
        held.keys,
        HELD.as_secs()
    ))?;
    if held.keys == 0 || !why.contains(&victim) {
        complaints.push(format!("tombstones are collected although {victim} is away ({why})"));
    }

    ground.open(std::slice::from_ref(&victim)).await?;
    let begun = Instant::now();
    let client = ground.client().await?;
    let back = present(&client, plan.keys).await?;
    let left = loop {
        let seen = look(&ground).await?;
        if seen.keys == 0 || begun.elapsed() > WAIT {
            break seen.keys;
        }
        sleep(LOOK).await;
    };
    let took = begun.elapsed().as_secs_f64();
    ground.await_no_hints(WAIT).await?;
    let back = back + present(&client, plan.keys).await?;
    say(&format!(
        "{victim} is back: {back} keys came back, {left} copies tell of them {took:.1} s later"
    ))?;

    ground.cluster.stop_all()?;
    let tombstones = tombstones(&ground)?;
    let (held, differ) = ground.compare()?;
    ground.open(&names).await?;
    let client = ground.client().await?;
    put_all(&client, plan.keys, value_bytes, 2).await?;
    let again = present(&client, plan.keys).await?;
    say(&format!(
        "{held} records are on the stopped disks; {again} of the keys are put again, and read"
    ))?;
    ground.cluster.stop_all()?;

    for (count, what) in [
        (back, "deleted keys came back"),
        (left, "copies still tell of what was deleted"),
        (tombstones, "tombstones are on the disks"),
        (differ as u64, "partitions differ between their homes"),
        (plan.keys - again, "keys that were put again are not there"),
    ] {
        if count > 0 {
            complaints.push(format!("{count} {what}"));
        }
    }
    let summary = format!(
        "{} keys deleted with {victim} away: {back} came back, {tombstones} tombstones left on the disks {took:.1} s after its return, \
         {differ} of {PARTITIONS} partitions differ",
        plan.keys
    );
    let figures = json!({
        "victim": victim, "came_back": back, "tombstones": tombstones, "collected_s": took, "partitions_differ": differ,
        "put_again": again,
    });
    Ok(Ending { summary, complaints, figures })
}

fn key(number: u64) -> Result<Key, String> {
    Key::new(format!("deletes/{number:08}")).map_err(|error| error.to_string())
}

/// Does something to all keys, several at a time; the sum of what each gave.
async fn all<F>(client: &Client, keys: u64, each: impl Fn(Client, Key) -> F) -> Result<u64, String>
where
    F: Future<Output = Result<u64, String>> + Send + 'static,
{
    let (mut lanes, mut sum) = (JoinSet::new(), 0);
    for number in 0..keys {
        if lanes.len() as u64 >= LANES
            && let Some(done) = lanes.join_next().await
        {
            sum += done.map_err(|error| error.to_string())??;
        }
        lanes.spawn(each(client.clone(), key(number)?));
    }
    while let Some(done) = lanes.join_next().await {
        sum += done.map_err(|error| error.to_string())??;
    }
    Ok(sum)
}

async fn put_all(client: &Client, keys: u64, bytes: usize, round: u8) -> Result<u64, String> {
    all(client, keys, |client, key| async move {
        let (value, write) = (Bytes::from(vec![round; bytes]), client.write_id());
        let put = Put { key, value, context: None, write, w: Some(N).into() };
        client.put(put, TIMEOUT_MS).await.map(|_| 1).map_err(|failure| failure.to_string())
    })
    .await
}

async fn delete_all(client: &Client, keys: u64) -> Result<u64, String> {
    all(client, keys, |client, key| async move {
        let found = client.get(&key, None, TIMEOUT_MS).await.map_err(|f| f.to_string())?;
        let deleted = client.delete(&key, Some(found.context), None, TIMEOUT_MS).await;
        deleted.map(|_| 1).map_err(|failure| failure.to_string())
    })
    .await
}

/// How many of the keys have a value at any home.
async fn present(client: &Client, keys: u64) -> Result<u64, String> {
    all(client, keys, |client, key| async move {
        let found = client.get(&key, Some(N), TIMEOUT_MS).await.map_err(|f| f.to_string())?;
        Ok(u64::from(!found.values.is_empty()))
    })
    .await
}

/// What the daemons that run tell of their tombstones.
async fn look(ground: &Ground) -> Result<Seen, String> {
    let mut seen = Seen { keys: 0, why: None };
    for daemon in ground.cluster.daemons().iter().filter(|daemon| daemon.is_running()) {
        let address = [daemon.address.clone()];
        let client = Client::connect(&address, Options::default()).await;
        let report = async { client?.status(None).await }.await;
        let StatusReport { collection, .. } = report.map_err(|failure| failure.to_string())?;
        seen.keys += collection.keys;
        seen.why = seen.why.or(collection.example.map(|(_, why)| why));
    }
    Ok(seen)
}

/// Tombstones and hints on the disks of the stopped daemons.
fn tombstones(ground: &Ground) -> Result<u64, String> {
    let mut count = 0;
    for name in ground.names() {
        let report = check(&ground.logs.join(&name), CACHE_BYTES, &mut |_| {});
        let report = report.map_err(|error| error.to_string())?;
        count += report.tombstones + report.hints.values().map(|total| total.count).sum::<u64>();
    }
    Ok(count)
}
