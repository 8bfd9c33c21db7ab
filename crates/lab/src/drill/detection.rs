//! How long until a dead, frozen or cut-off daemon is marked down by all others, and what gossip
//! costs.

use std::time::{Duration, Instant};

use pixii_client::{Client, Options};
use pixii_core::members::Liveness;
use pixii_core::message::{Counter, EmulateOrder};
use serde_json::json;
use tokio::time::sleep;

use super::testbed::Testbed;
use super::{Ending, Plan, Print};

const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Everybody has noticed in this time, or never will.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The pace of heartbeats is learned in this time.
const CALM: Duration = Duration::from_secs(10);
/// Gossip is weighed for this time.
const WEIGH: Duration = Duration::from_secs(20);
const WAYS: [&str; 3] = ["kill -9", "SIGSTOP", "cut link"];

/// A daemon as it is watched.
struct Watched {
    name: String,
    client: Client,
}

/// Rounds of each way; the error says why the drill could not go on.
pub(crate) async fn run(plan: &Plan, nodes: usize, print: Print<'_>) -> Result<Ending, String> {
    let mut testbed = Testbed::prepare(plan, nodes)?;
    testbed.cluster.allow_emulation()?;
    let names = testbed.names();
    if testbed.open(&names).await?.is_none() {
        return Ok(testbed.give_up(None).await?.into());
    }
    sleep(CALM).await;
    let watched = watch(&testbed).await?;
    let bytes = gossip_bytes(&watched).await?;
    print(&format!(
        "{nodes} daemons at rest: {bytes:.0} bytes a second sent by each, gossip and pulse"
    ))?;
    let (mut complaints, mut figures) = (Vec::new(), Vec::new());
    for way in WAYS {
        for round in 1..=plan.rounds {
            let victim = testbed.rng.pick(&names).cloned().unwrap_or_default();
            let reported = strike(&mut testbed, way, &victim).await?;
            match reported {
                Some((suspect, first, last)) => {
                    let ms = |time: Duration| time.as_millis() as u64;
                    print(&format!(
                        "{way}, round {round}: {victim} suspected first after {} ms, down in the \
                         first view after {} ms and in \
                         the last after {} ms",
                        ms(suspect),
                        ms(first),
                        ms(last)
                    ))?;
                    figures.push(json!({
                        "way": way, "suspect_ms": ms(suspect), "first_ms": ms(first),
                        "last_ms": ms(last),
                    }));
                }
                None => complaints.push(format!("{way}: somebody did not notice in 60 s")),
            }
            recover(&mut testbed, way, &victim).await?;
        }
    }
    testbed.cluster.stop_all()?;
    let worst = figures.iter().filter_map(|one| one["last_ms"].as_u64()).max().unwrap_or(0);
    let summary = format!(
        "{nodes} daemons, {} rounds of each of {}: down in every view after {worst} ms at most",
        plan.rounds,
        WAYS.join(", ")
    );
    let figures = json!({ "nodes": nodes, "bytes_per_second": bytes, "detected": figures });
    Ok(Ending { summary, complaints, figures })
}

async fn watch(testbed: &Testbed) -> Result<Vec<Watched>, String> {
    let mut watched = Vec::new();
    for daemon in testbed.cluster.daemons() {
        let address = [daemon.address.clone()];
        let client =
            Client::connect(&address, Options::default()).await.map_err(|e| e.to_string())?;
        watched.push(Watched { name: daemon.name.clone(), client });
    }
    Ok(watched)
}

/// Bytes that each daemon sends to others per second, in the mean.
async fn gossip_bytes(watched: &[Watched]) -> Result<f64, String> {
    let mut sums = [0, 0];
    for (at, sum) in sums.iter_mut().enumerate() {
        for one in watched {
            let report = one.client.status(None).await.map_err(|error| error.to_string())?;
            *sum += report.count(Counter::PeerBytesSent);
        }
        if at == 0 {
            sleep(WEIGH).await;
        }
    }
    Ok((sums[1] - sums[0]) as f64 / WEIGH.as_secs_f64() / watched.len() as f64)
}

/// Lets it happen to the victim; how long until the first suspects it, and until the first and the
/// last of the others believe it to be down. `None` if somebody never does.
async fn strike(
    testbed: &mut Testbed,
    way: &str,
    victim: &str,
) -> Result<Option<(Duration, Duration, Duration)>, String> {
    let watched = watch(testbed).await?;
    let begun = Instant::now();
    match way {
        "kill -9" => testbed.kill(victim)?,
        "SIGSTOP" => testbed.cluster.freeze(victim)?,
        _ => emulate(&watched, EmulateOrder::Set(format!("{victim} <-> * cut"))).await?,
    }
    let others: Vec<&Watched> = watched.iter().filter(|one| one.name != victim).collect();
    let (mut suspected, mut down) = (None, vec![None; others.len()]);
    while down.iter().any(Option::is_none) {
        for (other, noticed) in others.iter().zip(&mut down) {
            let report = other.client.status(None).await.map_err(|error| error.to_string())?;
            let liveness =
                report.peers.iter().find(|peer| peer.name == victim).map(|peer| peer.liveness);
            if liveness.is_some_and(|liveness| liveness != Liveness::Up) {
                suspected.get_or_insert(begun.elapsed());
            }
            if liveness == Some(Liveness::Down) {
                noticed.get_or_insert(begun.elapsed());
            }
        }
        if begun.elapsed() > TIMEOUT {
            return Ok(None);
        }
        sleep(POLL_INTERVAL).await;
    }
    let times: Vec<Duration> = down.into_iter().flatten().collect();
    let (first, last) = (times.iter().min().copied(), times.iter().max().copied());
    Ok(suspected.zip(first).zip(last).map(|((suspect, first), last)| (suspect, first, last)))
}

async fn emulate(watched: &[Watched], order: EmulateOrder) -> Result<(), String> {
    for one in watched {
        let done = one.client.emulate(&one.name, order.clone()).await;
        done.map_err(|failure| failure.to_string())?;
    }
    Ok(())
}

/// All is as it was, and everybody believes so.
async fn recover(testbed: &mut Testbed, way: &str, victim: &str) -> Result<(), String> {
    match way {
        "kill -9" => drop(testbed.open(&[victim.to_string()]).await?),
        "SIGSTOP" => testbed.cluster.resume(victim)?,
        _ => emulate(&watch(testbed).await?, EmulateOrder::Clear).await?,
    }
    let watched = watch(testbed).await?;
    let begun = Instant::now();
    loop {
        let mut well = true;
        for one in &watched {
            let report = one.client.status(None).await.map_err(|error| error.to_string())?;
            well &= report.peers.iter().all(|peer| peer.liveness == Liveness::Up && peer.up);
        }
        if well {
            testbed.recovered(begun.elapsed(), &format!("everybody believes {victim} to be up"));
            sleep(CALM).await;
            return Ok(());
        }
        if begun.elapsed() > TIMEOUT {
            return Err(format!("{victim} was not marked up again in 60 s"));
        }
        sleep(POLL_INTERVAL).await;
    }
}
