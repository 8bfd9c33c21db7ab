//! Requests to real daemons: closed loops, and puts with the reads that follow them.

use std::sync::Arc;
use std::time::Duration;

use pixii_client::Client;
use pixii_core::message::{Request, Response};
use pixii_core::rng::Rng;
use pixii_core::types::{Key, NodeId};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::experiment::driver::{
    Followed, KEYS, Loops, Measured, Puts, Read, Reading, Sample, Scenario, Seen, TIMEOUT_MS,
    followed_key, fresh_key, put, quorum, read_key,
};

/// Puts at a time while the keys are loaded.
const WINDOW: u64 = 32;

/// Who is asked, as a client does that knows who lives. Nobody else is, so that a latency is that
/// of the node's own plan.
#[derive(Clone)]
pub(super) struct Queried {
    client: Client,
    dead: Arc<Vec<NodeId>>,
}

impl Queried {
    /// All but the dead.
    pub(super) fn new(client: Client, dead: &[String]) -> Self {
        let dead = dead.iter().map(|name| NodeId::of(name)).collect();
        Queried { client, dead: Arc::new(dead) }
    }

    /// Asks the first owner of the key that lives. The error says why it was not answered as it
    /// should be.
    async fn first(&self, key: &Key, request: Request) -> Result<(), String> {
        let ring = self.client.ring();
        let mut owners = ring.owners(ring.partition(key)).iter();
        let owner = owners.find(|owner| !self.dead.contains(owner)).ok_or("no owner lives")?;
        let name = self.client.ring_report().members.name(*owner);
        match self.client.query(&name, request, TIMEOUT_MS).await {
            Ok(Response::Found { values, .. }) if values.is_empty() => {
                Err("a key was called absent".into())
            }
            Ok(Response::Found { .. } | Response::Written { .. }) => Ok(()),
            Ok(other) => Err(format!("{other:?}")),
            Err(failure) => Err(failure.to_string()),
        }
    }

    async fn put(&self, key: Key, w: u8) -> Result<(), String> {
        self.first(&key, put(key.clone(), w, self.client.write_id())).await
    }

    async fn get(&self, number: u64, r: u8) -> Result<(), String> {
        let (key, r) = (read_key(number), quorum(r, true));
        self.first(&key, Request::Get { key: key.clone(), r }).await
    }
}

fn ended(error: &tokio::task::JoinError) -> String {
    format!("a client ended: {error}")
}

/// Puts every key that loops read at all its owners.
pub(super) async fn fill(queried: Queried) -> Result<(), String> {
    let mut workers = JoinSet::new();
    for number in 0..WINDOW {
        let queried = queried.clone();
        workers.spawn(async move {
            for key in (number..KEYS).step_by(WINDOW as usize) {
                queried.put(read_key(key), queried.client.ring().n()).await?;
            }
            Ok::<(), String>(())
        });
    }
    while let Some(done) = workers.join_next().await {
        done.map_err(|error| ended(&error))??;
    }
    Ok(())
}

/// Runs closed loops.
pub(super) async fn run(queried: Queried, loops: Loops) -> Result<Measured, String> {
    let mut workers = JoinSet::new();
    for number in 0..loops.clients {
        workers.spawn(work(queried.clone(), loops, number));
    }
    let (mut all, mut first, mut last) = (Measured::default(), None, None);
    while let Some(done) = workers.join_next().await {
        let (part, begun) = done.map_err(|error| ended(&error))?;
        all.samples.extend(part.samples);
        all.failed += part.failed;
        all.refused.extend(part.refused);
        all.why = all.why.or(part.why);
        first = Some(first.map_or(begun, |first: Instant| first.min(begun)));
        last = Some(Instant::now());
    }
    let spent = first.zip(last).map_or(Duration::ZERO, |(first, last)| last - first);
    all.spent = spent.into();
    Ok(all)
}

/// One client's loop: what it measured, and when it began to.
async fn work(queried: Queried, loops: Loops, number: u64) -> (Measured, Instant) {
    let mut rng = Rng::new(loops.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let (mut measured, mut first) = (Measured::default(), Instant::now());
    for turn in 0..loops.warm_up + loops.requests {
        let read = (rng.below(10) < loops.reads_of_ten).then(|| rng.below(KEYS));
        let begun = Instant::now();
        if turn == loops.warm_up {
            first = begun;
        }
        let done = match read {
            Some(key) => queried.get(key, loops.r).await,
            None => queried.put(fresh_key(&loops, number, turn), loops.w).await,
        };
        let took = begun.elapsed().into();
        match done {
            _ if turn < loops.warm_up => {}
            Ok(()) => {
                let (is_read, key) = (read.is_some(), read.unwrap_or_default());
                measured.samples.push(Sample { is_read, key, took });
            }
            Err(why) => measured.fail(read, why),
        }
    }
    (measured, first)
}

/// Puts at a pace, and the reads that follow each.
pub(super) async fn follow(
    client: Client,
    puts: Puts,
    series: u64,
    courses: Vec<Scenario>,
) -> Result<Followed, String> {
    let (begun, mut followed, mut in_flight) =
        (Instant::now(), Followed::default(), JoinSet::new());
    let client = Arc::new(client);
    for (nth, scenario) in (0..).zip(courses) {
        sleep_until(begun + Duration::from(nth * puts.pace)).await;
        let (client, key) = (Arc::clone(&client), followed_key(series, nth));
        in_flight.spawn(one(client, key, nth, scenario, puts.timeout_ms));
    }
    while let Some(done) = in_flight.join_next().await {
        let (acknowledged, reads) = done.map_err(|error| ended(&error))?;
        followed.acknowledged.extend(acknowledged);
        followed.reads.extend(reads);
    }
    Ok(followed)
}

/// A put, and its reads if it is acknowledged: its number then, and what they came to.
async fn one(
    client: Arc<Client>,
    key: Key,
    nth: u64,
    scenario: Scenario,
    timeout_ms: u32,
) -> (Option<u64>, Vec<Reading>) {
    let request = put(key.clone(), scenario.w, client.write_id());
    let first = owner(&client, &key, scenario.owner);
    if !matches!(client.query(&first, request, timeout_ms).await, Ok(Response::Written { .. })) {
        return (None, Vec::new());
    }
    let (acknowledged, mut reads) = (Instant::now(), JoinSet::new());
    for (which, Read { after, owner: at, r }) in scenario.reads.into_iter().enumerate() {
        let (client, key) = (Arc::clone(&client), key.clone());
        reads.spawn(async move {
            sleep_until(acknowledged + Duration::from(after)).await;
            let (owner, r) = (owner(&client, &key, at), quorum(r, true));
            let after = acknowledged.elapsed().into();
            let seen = match client.query(&owner, Request::Get { key, r }, timeout_ms).await {
                Ok(Response::Found { values, .. }) if values.is_empty() => Seen::Missed,
                Ok(Response::Found { .. }) => Seen::Shown,
                _ => Seen::Refused,
            };
            Reading { put: nth, which, after, seen }
        });
    }
    (Some(nth), reads.join_all().await)
}

/// The name of the owner of a key with this number, counted round.
fn owner(client: &Client, key: &Key, number: usize) -> String {
    let ring = client.ring();
    let owners = ring.owners(ring.partition(key));
    client.ring_report().members.name(owners[number % owners.len()])
}
