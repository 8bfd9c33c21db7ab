//! Read latency with 0, 1 and 2 of 10 daemons failed (figure 4 of the study), N = 5, beside what theory gives for the live
//! replicas.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pixii::client::{Client, Failure, Options, Put};
use pixii::members::Opinion;
use pixii::message::Quorum;
use pixii::rng::Rng;
use pixii::types::{Key, NodeId};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::Mean;
use super::driver::{KEYS, read_key};
use super::real::{connect, emulate, load};
use super::theory::largest_round_trip;
use crate::cli::cluster::{Cluster, Shape};

const NODES: usize = 10;
const N: u8 = 5;
/// The study's (R, W), and what it read with one and with two failed, in milliseconds.
const STUDY: [(u8, u8, [f64; 2]); 7] = [
    (1, 1, [15.0, 13.0]),
    (1, 2, [15.0, 14.0]),
    (2, 2, [30.0, 38.0]),
    (2, 3, [31.0, 39.0]),
    (3, 3, [46.0, 50.0]),
    (3, 4, [46.0, 63.0]),
    (4, 4, [70.0, 140.0]),
];
const FAILED: [usize; 3] = [0, 1, 2];
/// How many points there are.
pub(crate) const POINTS: usize = FAILED.len() * STUDY.len();
/// So many reads for each put.
const READS_PER_PUT: u64 = 8;
/// Reads of each client that are not measured.
const WARM_UP: usize = 20;
const TIMEOUT_MS: u32 = 10_000;
const READY_WAIT: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(100);
/// A mean may be so many times what theory gives.
pub(crate) const MOST: f64 = 1.3;

/// What the experiment is told.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The path of `pixii`.
    pub(crate) program: PathBuf,
    /// An empty directory for the daemons.
    pub(crate) dir: PathBuf,
    /// The mean of the emulated delay of each message, in milliseconds.
    pub(crate) delay_ms: f64,
    /// Reads in each cell.
    pub(crate) samples: u64,
    /// Clients at a time.
    pub(crate) clients: u64,
    /// Keys and victims follow from it.
    pub(crate) seed: u64,
}

/// One (R, W) with so many failed.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    /// R.
    pub(crate) r: u8,
    /// W.
    pub(crate) w: u8,
    /// Daemons killed.
    pub(crate) failed: usize,
    /// Reads of keys with at least R live homes, in milliseconds.
    pub(crate) reads: Vec<f64>,
    /// Puts, in milliseconds.
    pub(crate) puts: Vec<f64>,
    /// What theory gives for a read, in milliseconds.
    pub(crate) theory: f64,
    /// What the study read, where it did.
    pub(crate) study: Option<f64>,
    /// Keys drawn with fewer than R live homes, and reads of them that were refused.
    pub(crate) weak: u64,
    /// See `weak`.
    pub(crate) refused: u64,
    /// The share of all keys with fewer than R live homes, by the ring.
    pub(crate) weak_share: f64,
    /// Requests that failed though they should not have, and why the first did.
    pub(crate) faults: Vec<String>,
}

impl Cell {
    /// Mean of the reads, and how many times the theory it is.
    pub(crate) fn ratio(&self) -> (Mean, f64) {
        let mean = Mean::of(&self.reads);
        (mean, mean.mean / self.theory)
    }
}

/// Runs all cells; `progress` is called after each. What was measured so far is in `cells`, also when the error says why it
/// could not go on.
pub(crate) async fn run(
    plan: &Plan,
    cells: &mut Vec<Cell>,
    progress: &mut dyn FnMut(&Cell) -> Result<(), String>,
) -> Result<(), String> {
    let shape = Shape { cluster: "lab".into(), nodes: NODES, n: N, r: 3, w: 3, partitions: 64 };
    let mut cluster = Cluster::create(plan.program.clone(), &plan.dir, &shape, None)?;
    cluster.allow_emulation()?;
    cluster.start_all()?;
    cluster.ready(READY_WAIT).await?;
    let mut rng = Rng::new(plan.seed);
    let client = connect(&cluster).await?;
    load(&client, N).await?;
    let keys = Arc::new((0..KEYS).map(read_key).collect());
    emulate(&client, plan.delay_ms).await?;
    let mut dead: Vec<String> = Vec::new();
    for failed in FAILED {
        while dead.len() < failed {
            let live = cluster.daemons().iter().filter(|daemon| daemon.is_running());
            let live: Vec<String> = live.map(|daemon| daemon.name.clone()).collect();
            let victim = rng.pick(&live).cloned().unwrap_or_default();
            cluster.kill(&victim)?;
            dead.push(victim);
        }
        await_down(&cluster, &dead).await?;
        let client = connect(&cluster).await?;
        for (r, w, study) in STUDY {
            let study = failed.checked_sub(1).map(|at| study[at]);
            let cell = measure(plan, &client, &keys, &dead, (r, w, study), rng.next_u64()).await?;
            if let Some((name, how)) = cluster.ended().pop() {
                return Err(format!("{name} {how}: the run is incomplete"));
            }
            progress(&cell)?;
            cells.push(cell);
        }
    }
    cluster.stop_all()
}

/// Waits until every daemon that runs believes the dead, and nobody else, to be down.
async fn await_down(cluster: &Cluster, dead: &[String]) -> Result<(), String> {
    let begun = Instant::now();
    loop {
        let mut well = true;
        for daemon in cluster.daemons().iter().filter(|daemon| daemon.is_running()) {
            let address = [daemon.address.clone()];
            let client = Client::connect(&address, Options::default()).await;
            let report = async { client?.status(None).await }.await.map_err(|e| e.to_string())?;
            well &= report.peers.iter().all(|peer| {
                let down = dead.contains(&peer.name);
                (peer.opinion == Opinion::Down) == down && (down || peer.up)
            });
        }
        if well {
            return Ok(());
        }
        if begun.elapsed() > READY_WAIT {
            return Err("the daemons do not agree on who is down".into());
        }
        sleep(LOOK).await;
    }
}

fn live_homes(client: &Client, key: &Key, dead: &[NodeId]) -> usize {
    let ring = client.ring();
    ring.homes(ring.partition(key)).iter().filter(|home| !dead.contains(home)).count()
}

async fn measure(
    plan: &Plan,
    client: &Client,
    keys: &Arc<Vec<Key>>,
    dead: &[String],
    (r, w, study): (u8, u8, Option<f64>),
    seed: u64,
) -> Result<Cell, String> {
    let dead: Arc<Vec<NodeId>> = Arc::new(dead.iter().map(|name| NodeId::of(name)).collect());
    let weak = keys.iter().filter(|key| live_homes(client, key, &dead) < usize::from(r)).count();
    let hops = 2.0 * plan.delay_ms;
    let mut cell = Cell {
        r,
        w,
        failed: dead.len(),
        reads: Vec::new(),
        puts: Vec::new(),
        theory: hops + largest_round_trip(u32::from(r) - 1, plan.delay_ms),
        study,
        weak: 0,
        refused: 0,
        weak_share: weak as f64 / keys.len() as f64,
        faults: Vec::new(),
    };
    let mut readers = JoinSet::new();
    for number in 0..plan.clients {
        let (client, keys, dead) = (client.clone(), Arc::clone(keys), Arc::clone(&dead));
        let mut part = cell.clone();
        let samples = plan.samples.div_ceil(plan.clients);
        let mut rng = Rng::new(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        readers.spawn(async move {
            // Connections are made, and paces learned.
            for key in keys.iter().take(WARM_UP) {
                let _ = client.get(key, Some(part.r), TIMEOUT_MS).await;
            }
            for turn in 0..samples {
                let Some(key) = rng.pick(&keys) else { break };
                let strong = live_homes(&client, key, &dead) >= usize::from(part.r);
                one(&client, key, strong, turn % READS_PER_PUT == 0, &mut part).await;
            }
            part
        });
    }
    while let Some(part) = readers.join_next().await {
        let part = part.map_err(|error| format!("a client ended: {error}"))?;
        cell.reads.extend(part.reads);
        cell.puts.extend(part.puts);
        cell.weak += part.weak;
        cell.refused += part.refused;
        cell.faults.extend(part.faults);
    }
    Ok(cell)
}

/// One read, and now and then a put.
async fn one(client: &Client, key: &Key, strong: bool, write: bool, cell: &mut Cell) {
    let ms = |begun: Instant| begun.elapsed().as_secs_f64() * 1e3;
    // Strict, so that the ring says who can answer: what earlier puts left as hints would count too.
    let r = Quorum { replicas: Some(cell.r), strict: Some(true) };
    let begun = Instant::now();
    match (strong, client.get(key, r, TIMEOUT_MS).await) {
        (true, Ok(found)) if !found.values.is_empty() => cell.reads.push(ms(begun)),
        (true, Ok(_)) => cell.faults.push(format!("{key:?} was called absent")),
        (true, Err(failure)) => cell.faults.push(failure.to_string()),
        (false, answer) => {
            cell.weak += 1;
            cell.refused += u64::from(matches!(answer, Err(Failure::Refused(_))));
        }
    }
    // A put of a weak key leaves hints, and those are copies too.
    if write && strong {
        let context = client.get(key, Some(1), TIMEOUT_MS).await.ok().map(|found| found.context);
        let (value, write) = (Bytes::from_static(&[8; 100]), client.write_id());
        let w = Quorum { replicas: Some(cell.w), strict: None };
        let begun = Instant::now();
        match client.put(Put { key: key.clone(), value, context, write, w }, TIMEOUT_MS).await {
            Ok(_) => cell.puts.push(ms(begun)),
            Err(failure) => cell.faults.push(failure.to_string()),
        }
    }
}
