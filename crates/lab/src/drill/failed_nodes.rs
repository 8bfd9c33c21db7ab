//! Two of five daemons are dead: which keys can still be read and written, and which requests are
//! refused.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pixii_client::{Client, ClientError};
use pixii_core::message::Quorum;
use pixii_core::types::{Key, NodeId};
use serde_json::json;
use tokio::task::JoinSet;

use super::testbed::Testbed;
use super::{Ending, Plan, Print};

const NODES: usize = 5;
/// Number of requests in flight.
const IN_FLIGHT: usize = 64;
const TIMEOUT_MS: u32 = 5_000;
/// Maximum time until the hints are delivered once the dead daemons are back.
const HINTS_WAIT: Duration = Duration::from_secs(60);

/// The outcome of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Got {
    /// A read returned these values; none if the key is absent.
    Values(Vec<Bytes>),
    /// A put was acknowledged.
    Done,
    /// The request was refused because too few replicas answered.
    NoQuorum,
    /// The request failed for another reason, given as text.
    Other(String),
}

/// The request that a phase sends for every key.
#[derive(Clone, Copy)]
enum Query {
    Get { r: u8, strict: Option<bool> },
    Put { w: u8, strict: bool, value: &'static str },
}

/// Loads keys at all their owners, kills two daemons, and reads and writes every key in each way;
/// each round has other victims. The error says why the drill could not go on.
pub(crate) async fn run(plan: &Plan, print: Print<'_>) -> Result<Ending, String> {
    let mut testbed = Testbed::prepare(plan, NODES)?;
    let names = testbed.names();
    if testbed.open(&names).await?.is_none() {
        return Ok(testbed.give_up(None).await?.into());
    }
    let mut complaints = Vec::new();
    let mut figures = Vec::new();
    for round in 1..=plan.rounds {
        let first = testbed.rng.below(NODES as u64) as usize;
        let second = (first + 1 + testbed.rng.below(NODES as u64 - 1) as usize) % NODES;
        let dead = [names[first].clone(), names[second].clone()];
        let reported = one(&mut testbed, plan, round, &dead, print, &mut complaints).await?;
        figures.push(reported);
    }
    testbed.cluster.stop_all()?;
    let summary = format!(
        "{} rounds of {} keys with two of five daemons dead: {} promises broken. (Riak 3.2.1 \
         said \"not found\" of \
         27 % of existing keys at r=1 and of 10 % at r=2.)",
        plan.rounds,
        plan.keys,
        complaints.len()
    );
    Ok(Ending { summary, complaints, figures: json!({ "rounds": figures }) })
}

/// The requests while the daemons are down, and how many live owners a key needs for each.
const PHASES: [(&str, Query, usize); 5] = [
    ("get r=1", Query::Get { r: 1, strict: None }, 1),
    ("get r=2", Query::Get { r: 2, strict: None }, 2),
    ("get r=2, strict", Query::Get { r: 2, strict: Some(true) }, 2),
    ("put w=2, strict", Query::Put { w: 2, strict: true, value: "strict" }, 2),
    ("put w=2, sloppy", Query::Put { w: 2, strict: false, value: "sloppy" }, 0),
];

async fn one(
    testbed: &mut Testbed,
    plan: &Plan,
    round: u64,
    dead: &[String],
    print: Print<'_>,
    complaints: &mut Vec<String>,
) -> Result<serde_json::Value, String> {
    let client = testbed.client().await?;
    let keys = (0..plan.keys).map(|at| Key::new(format!("round-{round}/{at:06}").into_bytes()));
    let keys: Arc<Vec<Key>> = Arc::new(keys.collect::<Result<_, _>>().map_err(|e| e.to_string())?);
    let loaded = all(&client, &keys, Query::Put { w: 3, strict: true, value: "loaded" }).await?;
    if let Some(odd) = loaded.iter().find(|got| **got != Got::Done) {
        return Err(format!("a first write was not acknowledged by all owners: {odd:?}"));
    }
    // An owner that was only slow has a hint somewhere, and a hint is a copy, too.
    testbed.await_no_hints(HINTS_WAIT).await?;
    for name in dead {
        testbed.kill(name)?;
    }
    let lost: Vec<NodeId> = dead.iter().map(|name| NodeId::of(name)).collect();
    let live: Vec<usize> = keys.iter().map(|key| live_owners(&client, key, &lost)).collect();
    let strong = live.iter().filter(|live| **live >= 2).count();
    let client = testbed.client().await?;
    let mut table = BTreeMap::new();
    let loaded = vec![Bytes::from_static(b"loaded")];
    for (name, query, needed) in PHASES {
        let got = all(&client, &keys, query).await?;
        let right = match query {
            Query::Get { .. } => Got::Values(loaded.clone()),
            Query::Put { .. } => Got::Done,
        };
        let absent = got.iter().filter(|got| **got == Got::Values(Vec::new())).count();
        let done = got.iter().filter(|got| **got == right).count();
        let refused = got.iter().filter(|got| **got == Got::NoQuorum).count();
        let expected = |live: &usize| if *live >= needed { &right } else { &Got::NoQuorum };
        let odd = got.iter().zip(&live).filter(|(got, live)| *got != expected(live));
        let odd: Vec<&Got> = odd.map(|(got, _)| got).collect();
        print(&format!(
            "  {name}: {done} done, {refused} refused, {absent} \"absent\", {} not as they should \
             be",
            odd.len()
        ))?;
        if let Some(first) = odd.first() {
            complaints.push(format!("{name}: {} keys, the first {first:?}", odd.len()));
        }
        table.insert(
            name,
            json!({ "done": done, "refused": refused, "absent": absent, "odd": odd.len() }),
        );
    }
    let healed = Instant::now();
    testbed.open(dead).await?;
    testbed.await_no_hints(HINTS_WAIT).await?;
    testbed.recovered(healed.elapsed(), "no hint is left");
    // The last write had an empty context: it is a sibling of the others, and none of them is gone.
    let got = all(&client, &keys, Query::Get { r: 3, strict: Some(true) }).await?;
    let kept = |(got, live): &(&Got, &usize)| {
        let Got::Values(values) = got else { return false };
        let has = |value: &str| values.iter().any(|one| one == value.as_bytes());
        has("sloppy") && has("loaded") && (has("strict") || **live < 2)
    };
    let lost = got.iter().zip(&live).filter(|pair| !kept(pair)).count();
    print(&format!(
        "round {round}: {} killed, {strong} of {} keys with two live owners; back again, {lost} \
         keys lack a write",
        dead.join(" and "),
        keys.len()
    ))?;
    if lost > 0 {
        complaints.push(format!("round {round}: {lost} keys lack an acknowledged write"));
    }
    Ok(json!({ "dead": dead, "keys": keys.len(), "two_live_owners": strong, "asked": table,
            "lost": lost }))
}

fn live_owners(client: &Client, key: &Key, dead: &[NodeId]) -> usize {
    let ring = client.ring();
    let owners = ring.owners(ring.partition(key));
    owners.iter().filter(|owner| !dead.contains(owner)).count()
}

/// Sends the same request for every key; the outcomes are in the order of the keys.
async fn all(client: &Client, keys: &Arc<Vec<Key>>, query: Query) -> Result<Vec<Got>, String> {
    let mut tasks = JoinSet::new();
    for first in 0..IN_FLIGHT {
        let (client, keys) = (client.clone(), Arc::clone(keys));
        tasks.spawn(async move {
            let mut got = Vec::new();
            for at in (first..keys.len()).step_by(IN_FLIGHT) {
                got.push((at, one_request(&client, &keys[at], query).await));
            }
            got
        });
    }
    let mut got = vec![Got::NoQuorum; keys.len()];
    while let Some(done) = tasks.join_next().await {
        for (at, one) in done.map_err(|error| format!("a client ended: {error}"))? {
            got[at] = one;
        }
    }
    Ok(got)
}

async fn one_request(client: &Client, key: &Key, query: Query) -> Got {
    let failed = |failure: ClientError| match failure {
        ClientError::Refused(why) if why.is_no_quorum() => Got::NoQuorum,
        other => Got::Other(other.to_string()),
    };
    match query {
        Query::Get { r, strict } => {
            let quorum = Quorum { replicas: Some(r), strict };
            let found = client.get(key).r(quorum).deadline_ms(TIMEOUT_MS).await;
            found.map_or_else(failed, |found| Got::Values(found.values))
        }
        Query::Put { w, strict, value } => {
            let w = Quorum { replicas: Some(w), strict: Some(strict) };
            let put = client.put(key, value).sibling().w(w).deadline_ms(TIMEOUT_MS);
            put.await.map_or_else(failed, |_| Got::Done)
        }
    }
}
