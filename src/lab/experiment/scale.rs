//! From 3 to 1,000 nodes in virtual time: latency, balance, and what gossip and comparisons cost each node while nothing happens.

use pixii::sim::cluster::Setup;
use pixii::types::{MILLI, Micros};

use super::driver::{Driver, Loops, Simulated};
use super::report::{Report, Table};
use super::{Mean, Step};
use crate::lab::plot::{Figure, Line};

const N: u8 = 3;
const QUORUM: u8 = 2;
const DELAY_MS: f64 = 5.0;
/// How many nodes; the last one only in a full run.
const NODES: [usize; 4] = [3, 10, 100, 1_000];
/// A run with fewer samples leaves the last one out.
const FULL: u64 = 1_000;
/// Partitions: more than nodes.
const PARTITIONS: u16 = 1_024;
/// Gossip has calmed down after this time, and is measured for that long.
const CALM: Micros = 20_000 * MILLI;
const QUIET: Micros = 60_000 * MILLI;

/// How many points a run with so many samples has.
pub(crate) fn points(samples: u64) -> usize {
    NODES.len() - usize::from(samples < FULL)
}

/// Runs all sizes; `step` is called after each.
pub(crate) fn run(report: &mut Report, step: Step<'_>) -> Result<(), String> {
    let name = "scale";
    let head = [
        "nodes",
        "reads",
        "read_ms",
        "read_confidence_ms",
        "puts",
        "put_ms",
        "put_confidence_ms",
        "largest_share_of_mean",
        "quiet_bytes_per_second_and_node",
    ];
    let mut table = Table::new(name, &head);
    let (mut reads, mut puts, mut quiet) = (Vec::new(), Vec::new(), Vec::new());
    for nodes in NODES.into_iter().take(points(report.samples)) {
        let seed = report.seed ^ (nodes as u64) << 32;
        let setup = Setup { partitions: PARTITIONS, ..Setup::new(nodes, N, seed) };
        let mut simulated = Simulated::found(&setup)?;
        simulated.delay(DELAY_MS)?;
        let done = simulated.run(&Loops {
            r: QUORUM,
            w: QUORUM,
            clients: report.clients,
            requests: report.samples.div_ceil(report.clients),
            warm_up: 10,
            reads_of_ten: 5,
            seed: report.seed ^ nodes as u64,
        })?;
        report.failures(&format!("{name}, {nodes} nodes"), &done);
        let cluster = &mut simulated.cluster;
        cluster.run_to(cluster.now() + CALM);
        let before = cluster.bytes();
        cluster.run_to(cluster.now() + QUIET);
        let bytes = (cluster.bytes() - before) as f64;
        let per_second = bytes / (QUIET / (1_000 * MILLI)) as f64 / nodes as f64;
        let ring = cluster.ring();
        let shares = ring.members().iter().map(|member| ring.share(member.id));
        let largest = shares.max().unwrap_or(0) as f64;
        let mean_share = f64::from(PARTITIONS) * f64::from(N) / nodes as f64;
        let (of_reads, of_puts) =
            (Mean::of(&done.latencies(true)), Mean::of(&done.latencies(false)));
        table.row(&[
            nodes.to_string(),
            of_reads.count.to_string(),
            format!("{:.3}", of_reads.mean),
            format!("{:.3}", of_reads.half),
            of_puts.count.to_string(),
            format!("{:.3}", of_puts.mean),
            format!("{:.3}", of_puts.half),
            format!("{:.4}", largest / mean_share),
            format!("{per_second:.1}"),
        ]);
        // Each size is ten times the one before, about: the axis shows the exponent.
        let x = (nodes as f64).log10();
        reads.push((x, of_reads.mean, of_reads.half));
        puts.push((x, of_puts.mean, of_puts.half));
        quiet.push((x, per_second / 1e3, 0.0));
        step()?;
    }
    let line =
        |name: &str, points, colour| Line { name: name.into(), points, is_beside: false, colour };
    report.figure(Figure {
        name: name.into(),
        title: "Latency and quiet traffic over the size of a cluster, N=3".into(),
        caption: format!(
            "Closed loops, {} clients, R = W = {QUORUM}, {DELAY_MS} ms a message on average; then a minute without requests, in which \
             gossip and comparisons are counted.",
            report.clients
        ),
        x: "nodes, as a power of ten: 1 is 10, 2 is 100".into(),
        y: "mean latency (ms), and kB/s sent by each node".into(),
        is_log: false,
        lines: vec![
            line("a read (ms)", reads, 0),
            line("a put (ms)", puts, 1),
            line("quiet traffic (kB/s)", quiet, 2),
        ],
    })?;
    report.note(
        name,
        "A request asks as many nodes in a large cluster as in a small one, so its latency does not grow; a digest of gossip names every \
         member, so that quiet traffic does.",
    );
    report.table(table)
}
