//! What a start costs the clients of a cluster: three daemons with many keys are killed and started
//! again, and gets and puts of 64 clients are measured while every partition is read anew.
//! `cargo bench --bench starts [-- KEYS [SECONDS [RUNS]]]` (default 1,000,000 keys, 5 s, 3 runs).
//!
//! Each run measures gets and puts before, and again beside the start. The median of the ratios is
//! to be at least 0.8, and no comparison may have failed for lateness; the process ends with 1 if
//! not. After a clean stop no partition may be read at all.

#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pixii_client::{Client, Options};
use pixii_core::message::{Counter, StatusReport};
use pixii_core::types::Key;
use pixii_kit::cluster::{Cluster, Shape};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

const LEAST_RATIO: f64 = 0.8;
const DEADLINE: Duration = Duration::from_secs(600);
const CLIENTS: u64 = 64;
const TIMEOUT_MS: u32 = 5_000;
const KINDS: [&str; 2] = ["get", "put"];

struct Bench {
    cluster: Cluster,
    runtime: Runtime,
    seconds: u64,
    keys: u64,
}

/// Reads loaded keys until `end`; how many were read.
async fn get(client: Client, number: u64, keys: u64, end: Instant) -> u64 {
    let mut done = 0;
    let mut at = number * 7_919;
    while Instant::now() < end {
        at = (at + 104_729) % keys;
        let key = Key::new(format!("key{at:09}").into_bytes()).unwrap();
        done += u64::from(client.get(&key).deadline_ms(TIMEOUT_MS).await.is_ok());
    }
    done
}

/// Overwrites a few keys of its own until `end`; how many writes were acknowledged.
async fn put(client: Client, number: u64, end: Instant) -> u64 {
    let mut done = 0;
    let mut contexts = vec![None; 16];
    while Instant::now() < end {
        let at = done as usize % contexts.len();
        let key = Key::new(format!("bench/{number}/{at}").into_bytes()).unwrap();
        if contexts[at].is_none() {
            contexts[at] =
                client.get(&key).deadline_ms(TIMEOUT_MS).await.ok().map(|found| found.context);
        }
        let put = client.put(&key, vec![7; 100]).seen(contexts[at].clone());
        let Ok(written) = put.deadline_ms(TIMEOUT_MS).await else { continue };
        contexts[at] = Some(written.context);
        done += 1;
    }
    done
}

impl Bench {
    fn command(&self, arguments: &[&str]) -> Command {
        let daemons = self.cluster.daemons().iter();
        let all: Vec<&str> = daemons.map(|daemon| daemon.address.as_str()).collect();
        let mut command = Command::new(env!("CARGO_BIN_EXE_pixii"));
        command.args(arguments).env("PIXII_CONNECT", all.join(",")).env_remove("PIXII_SECRET_FILE");
        command
    }

    fn load(&self, keys: u64) {
        let mut load = self.command(&["load", "-", "--sibling"]);
        let mut child = load.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut lines = std::io::BufWriter::new(child.stdin.take().unwrap());
        for at in 0..keys {
            writeln!(lines, "key{at:09}\t{at:0100}").unwrap();
        }
        drop(lines);
        assert!(child.wait().unwrap().success(), "the load");
    }

    /// Operations a second of clients that begin at once, each on keys of its own.
    fn rate(&self, kind: &str) -> f64 {
        let daemons = self.cluster.daemons().iter();
        let all: Vec<String> = daemons.map(|daemon| daemon.address.clone()).collect();
        let (seconds, keys) = (Duration::from_secs(self.seconds), self.keys);
        let done = self.runtime.block_on(async {
            let client = Client::connect(&all, Options::default()).await.unwrap();
            let end = Instant::now() + seconds;
            let mut clients = JoinSet::new();
            for number in 0..CLIENTS {
                let client = client.clone();
                match kind {
                    "get" => clients.spawn(get(client, number, keys, end)),
                    _ => clients.spawn(put(client, number, end)),
                };
            }
            clients.join_all().await.into_iter().sum::<u64>()
        });
        done as f64 / self.seconds as f64
    }

    fn statuses(&self) -> Vec<StatusReport> {
        let status = |address: String| async move {
            Client::connect(&[address], Options::default())
                .await
                .unwrap()
                .status(None)
                .await
                .unwrap()
        };
        let daemons = self.cluster.daemons().iter();
        daemons.map(|daemon| self.runtime.block_on(status(daemon.address.clone()))).collect()
    }

    fn sum(&self, of: impl Fn(&StatusReport) -> u64) -> u64 {
        self.statuses().iter().map(of).sum()
    }

    fn unread(&self) -> u64 {
        self.sum(|status| status.repair.unread.into())
    }

    fn start(&mut self) {
        self.cluster.start_all().unwrap();
        self.runtime.block_on(self.cluster.ready(DEADLINE)).unwrap();
    }

    fn wait_for_trees(&self) {
        let begun = Instant::now();
        while self.unread() > 0 {
            assert!(begun.elapsed() < DEADLINE, "the partitions are read");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// The ratio of each kind beside a start to the same before it.
    fn run(&mut self) -> [f64; 2] {
        let before = KINDS.map(|kind| self.rate(kind));
        self.cluster.kill_all().unwrap();
        let begun = Instant::now();
        self.start();
        let unread = self.unread();
        let beside = KINDS.map(|kind| self.rate(kind));
        let left = self.unread();
        self.wait_for_trees();
        let (took, failed) = (begun.elapsed(), self.sum(|s| s.count(Counter::ExchangesFailed)));
        println!(
            "before: {:.0} gets/s, {:.0} puts/s; beside the start: {:.0} gets/s, {:.0} puts/s; \
             {unread} partitions unread before that and {left} after it, all read after {:.1} s; \
             {failed} comparisons failed",
            before[0],
            before[1],
            beside[0],
            beside[1],
            took.as_secs_f64(),
        );
        assert_eq!(failed, 0, "no comparison fails for lateness");
        [beside[0] / before[0], beside[1] / before[1]]
    }
}

fn main() {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    let given = |at: usize, default: u64| numbers.get(at).copied().unwrap_or(default);
    let (keys, seconds, runs) = (given(0, 1_000_000), given(1, 5), given(2, 3));
    let dir = tempfile::tempdir().unwrap();
    let shape = Shape { cluster: "starts".into(), nodes: 3, n: 3, r: 2, w: 2, partitions: 64 };
    let program = env!("CARGO_BIN_EXE_pixii").into();
    let cluster = Cluster::create(program, dir.path(), &shape, None).unwrap();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let mut bench = Bench { cluster, runtime, seconds, keys };
    bench.start();
    bench.load(keys);
    bench.wait_for_trees();
    let mut ratios = [Vec::new(), Vec::new()];
    for _ in 0..runs.max(1) {
        let run = bench.run();
        ratios.iter_mut().zip(run).for_each(|(all, ratio)| all.push(ratio));
    }
    bench.cluster.stop_all().unwrap();
    bench.start();
    let read = bench.sum(|status| status.count(Counter::PartitionsReadAtStart));
    println!("after a clean stop: {read} partitions read, {} unread", bench.unread());
    let medians = ratios.map(|mut all| {
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    });
    println!("{keys} keys: median ratios: gets {:.2}, puts {:.2}", medians[0], medians[1]);
    assert_eq!(read, 0);
    if medians.iter().any(|ratio| *ratio < LEAST_RATIO) {
        println!("FAILED: at least {LEAST_RATIO} is due");
        std::process::exit(1);
    }
}
