//! Latency and throughput over delays and quorums (figures 1 to 3 of the study), N = 5 on 10 nodes,
//! in closed loops, beside the values that order statistics predict.

use pixii_core::types::Micros;
use pixii_sim::cluster::Setup;

use super::Step;
use super::driver::{Driver, Loops, delays};
use super::report::Report;
use super::site::Site;
use super::theory::nth_round_trip;
use crate::mean::Mean;
use crate::plot::{Axis, Figure, Line, Style};

/// Number of nodes in the study.
pub(super) const NODES: usize = 10;
/// Replicas of each key in the study.
pub(super) const N: u8 = 5;
const DELAYS: [f64; 5] = [5.0, 10.0, 20.0, 50.0, 80.0];

/// One of the three figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    /// Latency of reads over R, with W = 1.
    Read,
    /// Latency of puts over W, with R = 1.
    Write,
    /// Requests per second over the mean delay.
    Throughput,
}

/// Latencies of the study for 1 to 5 replicas, in milliseconds, read off its figures.
const STUDY_READS: [(f64, [f64; 5]); 3] = [
    (20.0, [60.0, 270.0, 450.0, 660.0, 1650.0]),
    (50.0, [150.0, 650.0, 1150.0, 1600.0, 4300.0]),
    (80.0, [240.0, 1200.0, 1580.0, 2880.0, 6700.0]),
];
const STUDY_WRITES: [(f64, [f64; 5]); 1] = [(80.0, [225.0, 233.0, 238.0, 270.0, 325.0])];
/// Throughput of the study over the delays; it gives no unit.
const STUDY_THROUGHPUT: [((u8, u8), [f64; 5]); 3] = [
    ((1, 1), [2.13, 1.05, 0.55, 0.21, 0.14]),
    ((2, 1), [0.57, 0.31, 0.17, 0.07, 0.04]),
    ((5, 1), [0.08, 0.04, 0.02, 0.01, 0.01]),
];

/// Mean duration of a request at a live owner: two messages of the client, and the slowest of the
/// other replicas that a read queries, or the last acknowledgement that a put needs of the replicas
/// it is sent to.
fn theory(reads: bool, replicas: u8, delay_ms: f64) -> f64 {
    let others = u32::from(replicas) - 1;
    let count = if reads { others } else { u32::from(N) - 1 };
    2.0 * delay_ms + nth_round_trip(others, count, delay_ms)
}

/// The load of one cell.
fn loops(which: Which, (r, w): (u8, u8), samples: u64, clients: u64, seed: u64) -> Loops {
    let reads_of_ten = match which {
        Which::Read => 10,
        Which::Write => 0,
        Which::Throughput => 5,
    };
    let requests = samples.div_ceil(clients);
    Loops { r, w, clients, requests, warm_up: (requests / 8).clamp(2, 20), reads_of_ten, seed }
}

/// Number of points of a figure.
pub(crate) fn points(which: Which) -> usize {
    DELAYS.len() * if which == Which::Throughput { STUDY_THROUGHPUT.len() } else { N.into() }
}

/// A row of the table, in the order of its head.
fn row(delay: f64, replicas: u8, mean: Mean, theory: f64, study: Option<f64>) -> [String; 8] {
    [
        delay.to_string(),
        replicas.to_string(),
        mean.count.to_string(),
        format!("{:.3}", mean.mean),
        format!("{:.3}", mean.half),
        format!("{theory:.3}"),
        format!("{:.3}", mean.mean / theory),
        study.map_or(String::new(), |study| study.to_string()),
    ]
}

/// The lines of one delay. A point is R or W, the time in milliseconds, and half the width of its
/// confidence interval.
fn lines_of(
    delay: f64,
    colour: usize,
    measured: Vec<(f64, f64, f64)>,
    expected: Vec<(f64, f64, f64)>,
    study: Option<&[f64; 5]>,
) -> Vec<Line> {
    let line = |name: String, points, style| Line { name, points, style, colour };
    let mut lines = vec![
        line(format!("{delay} ms"), measured, Style::Measured),
        line(format!("{delay} ms, theory"), expected, Style::Theory),
    ];
    if let Some(figures) = study {
        let points = (1..).zip(figures).map(|(replicas, ms)| (f64::from(replicas), *ms, 0.0));
        lines.push(line(format!("{delay} ms, study"), points.collect(), Style::Study));
    }
    lines
}

/// Runs the measurements of one figure; `step` is called after each point.
pub(crate) fn run(
    which: Which,
    site: Site<'_>,
    report: &mut Report,
    step: Step<'_>,
) -> Result<(), String> {
    let mut driver = site.found(&Setup::new(NODES, N, report.seed))?;
    driver.load()?;
    match which {
        Which::Throughput => throughput(&mut *driver, report, step)?,
        Which::Read | Which::Write => latency(which, &mut *driver, report, step)?,
    }
    driver.stop()
}

fn latency(
    which: Which,
    driver: &mut dyn Driver,
    report: &mut Report,
    step: Step<'_>,
) -> Result<(), String> {
    let reads = which == Which::Read;
    let (name, kind, of) =
        if reads { ("read-latency", "read", "R") } else { ("write-latency", "put", "W") };
    let head =
        ["delay_ms", of, "samples", "mean_ms", "confidence_ms", "theory_ms", "ratio", "study_ms"];
    let mut table = report.table(name, &head)?;
    let studies: &[(f64, [f64; 5])] = if reads { &STUDY_READS } else { &STUDY_WRITES };
    let mut lines = Vec::new();
    for (colour, delay) in DELAYS.into_iter().enumerate() {
        driver.emulate(&delays(delay))?;
        let (mut measured, mut expected) = (Vec::new(), Vec::new());
        for replicas in 1..=N {
            let quorums = if reads { (replicas, 1) } else { (1, replicas) };
            let seed = report.seed ^ ((delay as u64) << 32) ^ u64::from(replicas) << 16;
            let loops = loops(which, quorums, report.samples, report.clients, seed);
            let done = driver.run(&loops)?;
            report.failures(&format!("{name}, delay {delay} ms, {of} = {replicas}"), &done);
            let times = done.latencies(reads);
            report.samples(name, &format!("delay_ms,{of}"), &format!("{delay},{replicas}"), &times);
            let (mean, theory) = (Mean::of(&times), theory(reads, replicas, delay));
            let study = studies.iter().find(|(of, _)| *of == delay);
            let study = study.map(|(_, figures)| figures[usize::from(replicas) - 1]);
            table.row(&row(delay, replicas, mean, theory, study));
            let (share, ms) = driver.tolerance();
            if mean.mean > theory * (1.0 + share) + ms {
                let (times, place) =
                    (mean.mean / theory, format!("delay {delay} ms, {of} = {replicas}"));
                report.fault(&format!("{name}, {place}: {times:.2} times what theory gives"));
            }
            measured.push((f64::from(replicas), mean.mean, mean.half));
            expected.push((f64::from(replicas), theory, 0.0));
            step()?;
        }
        let study = studies.iter().find(|(of, _)| *of == delay).map(|(_, figures)| figures);
        lines.extend(lines_of(delay, colour, measured, expected, study));
    }
    let number = if reads { 1 } else { 2 };
    report.figure(Figure {
        name: name.into(),
        title: format!(
            "Latency of a {kind} over {of}, N=5 on 10 nodes (the study's figure {number})"
        ),
        caption: format!(
            "Closed loops, {} clients. Theory: 2 ways of the client, and {}.",
            report.clients,
            match reads {
                true => "the slowest of R-1 round trips",
                false => "the (W-1)th of the 4 round trips that begin at once",
            }
        ),
        x: format!("{of}: replicas that have to answer"),
        y: format!("mean latency of a {kind} (ms)"),
        axis: Axis::Numbers,
        // The reads of the study take up to 15 times as long.
        is_log: reads,
        lines,
    })?;
    report.note(
        name,
        match reads {
            true => {
                "The study's reads grow to 6.7 s at R=5 and 80 ms, because bursts met a \
                 coordinator that served one client at a time; here a read asks R replicas at \
                 once, and takes what the slowest of R-1 round trips takes."
            }
            false => {
                "The study's puts wait for one way and a redirect (3 delays at W=1) and \
                 hardly for their replicas; here a put is confirmed by W synced replicas, of all \
                 that it is sent to at once: it grows with W, and less than a read."
            }
        },
    );
    report.show(table)
}

fn throughput(driver: &mut dyn Driver, report: &mut Report, step: Step<'_>) -> Result<(), String> {
    let name = "throughput";
    let head =
        ["r", "w", "delay_ms", "samples", "requests_per_second", "relative", "study_relative"];
    let mut table = report.table(name, &head)?;
    let mut lines = Vec::new();
    for (colour, ((r, w), study)) in STUDY_THROUGHPUT.into_iter().enumerate() {
        let mut points = Vec::new();
        for (at, delay) in DELAYS.into_iter().enumerate() {
            driver.emulate(&delays(delay))?;
            let seed = report.seed ^ ((delay as u64) << 32) ^ u64::from(r) << 8;
            let loops = loops(Which::Throughput, (r, w), report.samples, report.clients, seed);
            let done = driver.run(&loops)?;
            report.failures(&format!("{name}, delay {delay} ms, (R,W) = ({r},{w})"), &done);
            let per_second = done.samples.len() as f64 / (done.spent.max(Micros(1)).as_f64() / 1e6);
            points.push((delay, per_second, 0.0));
            let relative = per_second / points[0].1;
            table.row(&[
                r.to_string(),
                w.to_string(),
                delay.to_string(),
                done.samples.len().to_string(),
                format!("{per_second:.3}"),
                format!("{relative:.4}"),
                format!("{:.4}", study[at] / study[0]),
            ]);
            step()?;
        }
        let expected = points.iter().map(|(delay, first, _)| (*delay, *first, 0.0));
        let base = expected.clone().next().map_or(0.0, |(_, first, _)| first);
        let study = DELAYS
            .iter()
            .zip(study)
            .map(|(delay, reported)| (*delay, base * reported / study[0], 0.0));
        let line = |name: String, points, style| Line { name, points, style, colour };
        lines.push(line(format!("({r},{w})"), points, Style::Measured));
        lines.push(line(format!("({r},{w}), study"), study.collect(), Style::Study));
    }
    report.figure(Figure {
        name: name.into(),
        title: "Requests per second over delay, N=5 on 10 nodes (the study's figure 3)".into(),
        caption: format!(
            "Closed loops, {} clients, reads and puts half and half. The study gives no unit: its \
             lines begin where ours do.",
            report.clients
        ),
        x: "mean delay of a message (ms)".into(),
        y: "requests per second of all clients".into(),
        axis: Axis::Numbers,
        is_log: true,
        lines,
    })?;
    report.note(
        name,
        "Like the study's, throughput of closed loops falls as one over the delay; unlike the \
         study's, a higher R costs only what \
         its reads wait longer, not a factor of 25.",
    );
    report.show(table)
}
