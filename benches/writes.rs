//! What puts without a context take: their CPU beside that of a get and a put with a context, and
//! the rate of 64 clients on one key beside that of 64 clients on keys of their own.
//! `cargo bench --bench writes [-- SECONDS [ROUNDS]]` (default 4 s, 5 rounds, interleaved).

#![allow(clippy::unwrap_used)]

use std::fs;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pixii_client::{Client, ErrorKind, Options};
use pixii_kit::cluster::{Cluster, Shape};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

const DEADLINE: Duration = Duration::from_secs(60);
const CLIENTS: usize = 64;
/// Keys of each client, for the CPU of one operation.
const KEYS: usize = 16;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Get,
    Put,
    Covering,
    HotKey,
    OwnKeys,
}

const KINDS: [Kind; 5] = [Kind::Get, Kind::Put, Kind::Covering, Kind::HotKey, Kind::OwnKeys];

/// What the clients of one run did together.
#[derive(Clone, Copy, Default)]
struct Done {
    operations: u64,
    refused: u64,
    unknown: u64,
}

/// One client until `end`.
async fn operate(client: Client, kind: Kind, number: usize, end: Instant) -> Done {
    let mut done = Done::default();
    let mut contexts: Vec<Option<Bytes>> = vec![None; KEYS];
    let mut at = 0;
    while Instant::now() < end {
        at = (at + 1) % KEYS;
        let key = match kind {
            Kind::HotKey => "hot".to_owned(),
            Kind::OwnKeys => format!("own/{number}"),
            Kind::Get | Kind::Put | Kind::Covering => format!("bench/{number}/{at}"),
        };
        let value = vec![7; 100];
        let failed = match kind {
            Kind::Get => client.get(key).await.err(),
            Kind::Put => {
                if contexts[at].is_none() {
                    contexts[at] = Some(client.get(&*key).await.unwrap().context);
                }
                match client.put(key, value).seen(contexts[at].clone()).await {
                    Ok(written) => {
                        contexts[at] = Some(written.context);
                        None
                    }
                    Err(failed) => Some(failed),
                }
            }
            Kind::Covering | Kind::HotKey | Kind::OwnKeys => client.put(key, value).await.err(),
        };
        match failed {
            None => done.operations += 1,
            Some(failed) if failed.kind() == ErrorKind::Unknown => done.unknown += 1,
            Some(failed) => {
                println!("refused: {failed}");
                done.refused += 1;
            }
        }
    }
    done
}

/// Seconds of CPU that the daemons have used.
fn cpu(cluster: &Cluster) -> f64 {
    let ticks = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let pids = cluster.daemons().iter().filter_map(|daemon| daemon.pid());
    // Linux counts in hundredths of a second, on every machine.
    pids.map(ticks).sum::<u64>() as f64 / 100.0
}

struct Bench {
    cluster: Cluster,
    runtime: Runtime,
    seconds: u64,
}

impl Bench {
    /// Operations a second, and microseconds of CPU for each.
    fn run(&self, kind: Kind) -> (f64, f64) {
        let all: Vec<String> =
            self.cluster.daemons().iter().map(|daemon| daemon.address.clone()).collect();
        let before = cpu(&self.cluster);
        let done = self.runtime.block_on(async {
            let client = Client::connect(&all, Options::default()).await.unwrap();
            let end = Instant::now() + Duration::from_secs(self.seconds);
            let mut clients = JoinSet::new();
            for number in 0..CLIENTS {
                clients.spawn(operate(client.clone(), kind, number, end));
            }
            clients.join_all().await
        });
        let sum = |of: fn(&Done) -> u64| done.iter().map(of).sum::<u64>();
        let operations = sum(|done| done.operations) as f64;
        let (refused, unknown) = (sum(|done| done.refused), sum(|done| done.unknown));
        if refused + unknown > 0 {
            println!("{refused} refused, {unknown} unknown");
        }
        let used = cpu(&self.cluster) - before;
        (operations / self.seconds as f64, used * 1e6 / operations)
    }
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn main() {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    let given = |at: usize, default: u64| numbers.get(at).copied().unwrap_or(default);
    let (seconds, rounds) = (given(0, 4).max(1), given(1, 5).max(1));
    let dir = tempfile::tempdir().unwrap();
    let shape = Shape { cluster: "writes".into(), nodes: 3, n: 3, r: 2, w: 2, partitions: 64 };
    let program = env!("CARGO_BIN_EXE_pixii").into();
    let mut cluster = Cluster::create(program, dir.path(), &shape, None).unwrap();
    cluster.start_all().unwrap();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(cluster.ready(DEADLINE)).unwrap();
    let mut bench = Bench { cluster, runtime, seconds };
    let (mut costs, mut rates) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let [get, put, covering, hot, own] = KINDS.map(|kind| bench.run(kind));
        let (cost, rate) = (covering.1 / (get.1 + put.1), hot.0 / own.0);
        println!(
            "CPU: get {:.0} us, put {:.0} us, put without a context {:.0} us: ratio {cost:.2}; \
             puts/s of {CLIENTS} clients: one key {:.0}, own keys {:.0}: ratio {rate:.2}",
            get.1, put.1, covering.1, hot.0, own.0
        );
        costs.push(cost);
        rates.push(rate);
    }
    println!("medians: CPU {:.2}, one key beside own keys {:.2}", median(costs), median(rates));
    bench.cluster.stop_all().unwrap();
}
