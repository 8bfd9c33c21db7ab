//! From 3 to 10 real daemons, and to 1,000 nodes in virtual time: latency, balance, and the cost of
//! gossip and comparisons for each node without load.

use pixii_core::message::Kind;
use pixii_core::types::{MILLI, Micros};
use pixii_sim::cluster::Setup;

use super::Step;
use super::driver::{Loops, Sent, delays};
use super::report::Report;
use super::site::Site;
use crate::mean::Mean;
use crate::plot::{Axis, Figure, Line, Style};

const NAME: &str = "scale";
const N: u8 = 3;
const QUORUM: u8 = 2;
const DELAY_MS: f64 = 5.0;
/// Numbers of nodes in virtual time; the last one only in a full run.
const NODES: [usize; 4] = [3, 10, 100, 1_000];
/// Numbers of real daemons, also in a quick run.
const DAEMONS: [usize; 3] = [3, 5, 10];
/// Minimum number of samples of a full run. Others leave out the last number of nodes, and give
/// real daemons less time to settle and without load.
const FULL: u64 = 1_000;
/// Partitions of the ring, more than the largest number of nodes.
const PARTITIONS: u16 = 1_024;
/// Length of the measurement without load. Gossip settles in a third of it before. It is as long as
/// one comparison of all partitions takes by default.
const QUIET: Micros = Micros::from_millis(60_000);
/// Divisor of that length in a quick run on real daemons.
const QUICK: u64 = 4;

fn sizes(is_real: bool, samples: u64) -> &'static [usize] {
    match (is_real, samples < FULL) {
        (true, _) => &DAEMONS,
        (false, true) => &NODES[..NODES.len() - 1],
        (false, false) => &NODES,
    }
}

/// Number of points of a run with this many samples.
pub(crate) fn points(is_real: bool, samples: u64) -> usize {
    sizes(is_real, samples).len()
}

/// Length of the measurement without load.
fn quiet(site: Site<'_>, samples: u64) -> Micros {
    if site.is_real() && samples < FULL { QUIET / QUICK } else { QUIET }
}

/// The results of one size of the cluster.
struct Size {
    reads: Mean,
    puts: Mean,
    /// The most partitions that one node owns, divided by the mean.
    largest: f64,
    /// Bytes sent per second and node without load: all, those of gossip, and those of comparisons.
    quiet: [f64; 3],
}

/// Runs all sizes; `step` is called after each.
pub(crate) fn run(site: Site<'_>, report: &mut Report, step: Step<'_>) -> Result<(), String> {
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
        "of_gossip",
        "of_comparisons",
    ];
    let mut table = report.table(NAME, &head)?;
    let (mut reads, mut puts, mut traffic) = (Vec::new(), Vec::new(), [const { Vec::new() }; 3]);
    let sizes = sizes(site.is_real(), report.samples);
    for (at, nodes) in sizes.iter().copied().enumerate() {
        let size = measure(site, nodes, report)?;
        table.row(&[
            nodes.to_string(),
            size.reads.count.to_string(),
            format!("{:.3}", size.reads.mean),
            format!("{:.3}", size.reads.half),
            size.puts.count.to_string(),
            format!("{:.3}", size.puts.mean),
            format!("{:.3}", size.puts.half),
            format!("{:.4}", size.largest),
            format!("{:.1}", size.quiet[0]),
            format!("{:.1}", size.quiet[1]),
            format!("{:.1}", size.quiet[2]),
        ]);
        let x = at as f64;
        reads.push((x, size.reads.mean, size.reads.half));
        puts.push((x, size.puts.mean, size.puts.half));
        for (line, bytes) in traffic.iter_mut().zip(size.quiet) {
            line.push((x, bytes / 1e3, 0.0));
        }
        step()?;
    }
    let line = |name: &str, points, colour| Line {
        name: name.into(),
        points,
        style: Style::Measured,
        colour,
    };
    let [all, gossip, comparisons] = traffic;
    report.figure(Figure {
        name: NAME.into(),
        title: "Latency and quiet traffic over the size of a cluster, N=3".into(),
        caption: format!(
            "Closed loops, {} clients, R = W = {QUORUM}, {DELAY_MS} ms a message on average; then \
             {} s without requests, in which what \
             nodes send is counted, each comparison once.",
            report.clients,
            quiet(site, report.samples) / (1_000 * MILLI)
        ),
        x: "nodes".into(),
        y: "mean latency (ms), and kB/s sent by each node".into(),
        axis: Axis::Sizes(sizes.iter().map(usize::to_string).collect()),
        is_log: false,
        lines: vec![
            line("a read (ms)", reads, 0),
            line("a put (ms)", puts, 1),
            line("quiet, all (kB/s)", all, 2),
            line("  gossip (kB/s)", gossip, 3),
            line("  comparisons (kB/s)", comparisons, 4),
        ],
    })?;
    report.note(
        NAME,
        "A request asks as many nodes in a large cluster as in a small one, so its latency does \
         not grow; a digest of gossip names every \
         member, so that quiet traffic does. The study has one size, 10 processes.",
    );
    report.show(table)
}

fn measure(site: Site<'_>, nodes: usize, report: &mut Report) -> Result<Size, String> {
    let seed = report.seed ^ (nodes as u64) << 32;
    let quiet = quiet(site, report.samples);
    // As many comparisons in that time as in a minute by default, when that is as long.
    let setup =
        Setup { partitions: PARTITIONS, repair_interval: quiet, ..Setup::new(nodes, N, seed) };
    let mut driver = site.found(&setup)?;
    driver.load()?;
    driver.emulate(&delays(DELAY_MS))?;
    let done = driver.run(&Loops {
        r: QUORUM,
        w: QUORUM,
        clients: report.clients,
        requests: report.samples.div_ceil(report.clients),
        warm_up: 10,
        reads_of_ten: 5,
        seed: report.seed ^ nodes as u64,
    })?;
    report.failures(&format!("{NAME}, {nodes} nodes"), &done);
    driver.wait(quiet / 3)?;
    let before = driver.sent()?;
    driver.wait(quiet)?;
    let after = driver.sent()?;
    let ring = driver.ring();
    let shares = ring.members().iter().map(|member| ring.share(member.id));
    let largest = shares.max().unwrap_or(0) as f64;
    let mean_share = f64::from(PARTITIONS) * f64::from(N) / nodes as f64;
    let per_second = |kinds: &[Kind]| {
        let of = |sent: &Sent| kinds.iter().filter_map(|kind| sent.get(kind)).sum::<u64>();
        let bytes = of(&after).saturating_sub(of(&before)) as f64;
        bytes / quiet.as_f64() * 1e6 / nodes as f64
    };
    let traffic = [&Kind::ALL[..], &[Kind::Gossip], &[Kind::Repair]].map(per_second);
    driver.stop()?;
    Ok(Size {
        reads: Mean::of(&done.latencies(true)),
        puts: Mean::of(&done.latencies(false)),
        largest: largest / mean_share,
        quiet: traffic,
    })
}
