//! Requests to real daemons: closed loops, and puts with the reads that follow them.

use std::sync::Arc;
use std::time::Duration;

use pixii::client::{Client, Failure, Put};
use pixii::message::{Request, Response};
use pixii::rng::Rng;
use pixii::types::{Blob, Key, Micros};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::lab::experiment::driver::{
    Course, Followed, KEYS, Loops, Measured, Puts, Read, Reading, Sample, Seen, TIMEOUT_MS,
    followed_key, fresh_key, quorum, read_key, value,
};

/// Puts at a time while the keys are loaded.
const WINDOW: u64 = 32;

fn put(client: &Client, key: Key, w: u8) -> Put {
    Put { key, value: value(), context: None, write: client.write_id(), w: quorum(w, false) }
}

fn ended(error: &tokio::task::JoinError) -> String {
    format!("a client ended: {error}")
}

/// Puts every key that loops read at all its homes.
pub(super) async fn fill(client: Client) -> Result<(), String> {
    let mut workers = JoinSet::new();
    for number in 0..WINDOW {
        let client = client.clone();
        workers.spawn(async move {
            for key in (number..KEYS).step_by(WINDOW as usize) {
                let put = put(&client, read_key(key), client.ring().n());
                client.put(put, TIMEOUT_MS).await.map_err(|failure| failure.to_string())?;
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
pub(super) async fn run(client: Client, loops: Loops) -> Result<Measured, String> {
    let mut workers = JoinSet::new();
    for number in 0..loops.clients {
        workers.spawn(work(client.clone(), loops, number));
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
    all.spent = spent.as_micros() as Micros;
    Ok(all)
}

/// One client's loop: what it measured, and when it began to.
async fn work(client: Client, loops: Loops, number: u64) -> (Measured, Instant) {
    let mut rng = Rng::new(loops.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let (mut measured, mut first) = (Measured::default(), Instant::now());
    for turn in 0..loops.warm_up + loops.requests {
        let read = (rng.below(10) < loops.reads_of_ten).then(|| rng.below(KEYS));
        let begun = Instant::now();
        if turn == loops.warm_up {
            first = begun;
        }
        let done = match read {
            Some(key) => look(&client, key, loops.r).await,
            None => {
                let put = put(&client, fresh_key(&loops, number, turn), loops.w);
                client.put(put, TIMEOUT_MS).await.map(drop)
            }
        };
        let took = begun.elapsed().as_micros() as Micros;
        match done {
            _ if turn < loops.warm_up => {}
            Ok(()) => {
                let (is_read, key) = (read.is_some(), read.unwrap_or_default());
                measured.samples.push(Sample { is_read, key, took });
            }
            Err(failure) => measured.fail(read, failure.to_string()),
        }
    }
    (measured, first)
}

/// Reads a key that was loaded.
async fn look(client: &Client, number: u64, r: u8) -> Result<(), Failure> {
    let found = client.get(&read_key(number), quorum(r, true), TIMEOUT_MS).await?;
    match found.values.is_empty() {
        true => Err(Failure::Error("a key was called absent".into())),
        false => Ok(()),
    }
}

/// Puts at a pace, and the reads that follow each.
pub(super) async fn follow(
    client: Client,
    puts: Puts,
    series: u64,
    courses: Vec<Course>,
) -> Result<Followed, String> {
    let (begun, mut followed, mut under_way) =
        (Instant::now(), Followed::default(), JoinSet::new());
    let client = Arc::new(client);
    for (nth, course) in (0..).zip(courses) {
        sleep_until(begun + Duration::from_micros(nth * puts.pace)).await;
        let (client, key) = (Arc::clone(&client), followed_key(series, nth));
        under_way.spawn(one(client, key, nth, course, puts.timeout_ms));
    }
    while let Some(done) = under_way.join_next().await {
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
    course: Course,
    timeout_ms: u32,
) -> (Option<u64>, Vec<Reading>) {
    let (value, write) = (Blob(value()), client.write_id());
    let (context, w) = (None, quorum(course.w, false));
    let request = Request::Put { key: key.clone(), value, context, write, w };
    let first = home(&client, &key, course.home);
    if !matches!(client.ask(&first, request, timeout_ms).await, Ok(Response::Written { .. })) {
        return (None, Vec::new());
    }
    let (acknowledged, mut reads) = (Instant::now(), JoinSet::new());
    for (which, Read { after, home: at, r }) in course.reads.into_iter().enumerate() {
        let (client, key) = (Arc::clone(&client), key.clone());
        reads.spawn(async move {
            sleep_until(acknowledged + Duration::from_micros(after)).await;
            let (home, r) = (home(&client, &key, at), quorum(r, true));
            let after = acknowledged.elapsed().as_micros() as Micros;
            let seen = match client.ask(&home, Request::Get { key, r }, timeout_ms).await {
                Ok(Response::Found { values, .. }) if values.is_empty() => Seen::Missed,
                Ok(Response::Found { .. }) => Seen::Shown,
                _ => Seen::Refused,
            };
            Reading { put: nth, which, after, seen }
        });
    }
    (Some(nth), reads.join_all().await)
}

/// The name of the home of a key with this number, counted round.
fn home(client: &Client, key: &Key, number: usize) -> String {
    let ring = client.ring();
    let homes = ring.homes(ring.partition(key));
    client.ring_report().members.name(homes[number % homes.len()])
}
