//! What a listing by prefix takes beside a listing of everything: three daemons, many keys, of
//! which 1,000 share a prefix.
//! `cargo bench --bench listing [-- KEYS [RUNS]]` (default 1,000,000 keys, 3 runs).

#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pixii_kit::cluster::{Cluster, Shape};
use tokio::runtime::Builder;

const DEADLINE: Duration = Duration::from_secs(600);
/// Keys that share the prefix.
const SHARED: u64 = 1_000;

fn command(cluster: &Cluster, arguments: &[&str]) -> Command {
    let all: Vec<&str> = cluster.daemons().iter().map(|daemon| daemon.address.as_str()).collect();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pixii"));
    command.args(arguments).env("PIXII_CONNECT", all.join(",")).env_remove("PIXII_SECRET_FILE");
    command
}

fn load(cluster: &Cluster, keys: u64) {
    let mut child = command(cluster, &["load", "-", "--sibling"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufWriter::new(child.stdin.take().unwrap());
    let every = (keys / SHARED).max(1);
    for at in 0..keys {
        let name = if at % every == 0 { "shared" } else { "key" };
        writeln!(lines, "{name}/{at:09}\t{at:0100}").unwrap();
    }
    drop(lines);
    assert!(child.wait().unwrap().success(), "the load");
}

/// How long `pixii keys` takes, and how many lines it prints.
fn listing(cluster: &Cluster, arguments: &[&str]) -> (Duration, usize) {
    let begun = Instant::now();
    let done = command(cluster, &[&["keys"], arguments].concat()).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    (begun.elapsed(), done.stdout.iter().filter(|byte| **byte == b'\n').count())
}

fn main() {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    let given = |at: usize, default: u64| numbers.get(at).copied().unwrap_or(default);
    let (keys, runs) = (given(0, 1_000_000), given(1, 3));
    let dir = tempfile::tempdir().unwrap();
    let shape = Shape { cluster: "listing".into(), nodes: 3, n: 3, r: 2, w: 2, partitions: 256 };
    let program = env!("CARGO_BIN_EXE_pixii").into();
    let mut cluster = Cluster::create(program, dir.path(), &shape, None).unwrap();
    cluster.start_all().unwrap();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(cluster.ready(DEADLINE)).unwrap();
    load(&cluster, keys);
    let mut ratios = Vec::new();
    for _ in 0..runs.max(1) {
        let (part, some) = listing(&cluster, &["--prefix", "shared/"]);
        let (whole, all) = listing(&cluster, &[]);
        assert_eq!(all as u64, keys);
        let ratio = part.as_secs_f64() / whole.as_secs_f64();
        println!(
            "{some} of {all} keys by prefix: {:.0} ms; all of them: {:.2} s; {:.2} %",
            part.as_secs_f64() * 1e3,
            whole.as_secs_f64(),
            ratio * 100.0
        );
        ratios.push(ratio);
    }
    ratios.sort_by(f64::total_cmp);
    println!("{keys} keys: median {:.2} %", ratios[ratios.len() / 2] * 100.0);
    cluster.stop_all().unwrap();
}
