//! Read latency with 0, 1 and 2 of 10 nodes failed (figure 4 of the study), N = 5, beside what
//! theory gives for the live replicas.

use pixii_core::rng::Rng;
use pixii_sim::cluster::Setup;

use super::Step;
use super::driver::{Driver, KEYS, Loops, Measured, delays, read_key};
use super::grid::{N, NODES};
use super::report::Report;
use super::site::Site;
use super::theory::largest_round_trip;
use crate::mean::Mean;
use crate::plot::{Axis, Figure, Line, Style};

const NAME: &str = "failures";
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
/// Most requests are reads, whose latency is what it is about.
const READS_OF_TEN: u64 = 9;
/// A mean may be so many times what theory gives.
const MOST: f64 = 1.3;

/// One (R, W) with so many failed.
struct Cell {
    r: u8,
    w: u8,
    failed: usize,
    measured: Measured,
    /// What theory gives for a read, in milliseconds.
    theory: f64,
    /// What the study read, where it did.
    study: Option<f64>,
    /// Keys with fewer than R live owners, and the share of all that they are, by the ring.
    weak: Vec<u64>,
    weak_share: f64,
}

/// Runs all cells, a message takes `delay_ms` on average; `step` is called after each.
pub(crate) fn run(
    site: Site<'_>,
    delay_ms: f64,
    report: &mut Report,
    step: Step<'_>,
) -> Result<(), String> {
    let head = [
        "r",
        "w",
        "failed",
        "reads",
        "mean_ms",
        "confidence_ms",
        "theory_ms",
        "ratio",
        "study_ms",
        "puts",
        "put_ms",
        "refused_share",
        "refused_by_the_ring",
    ];
    let mut table = report.table(NAME, &head)?;
    let line = |colour: usize, name, style| Line { name, points: Vec::new(), style, colour };
    let mut lines: Vec<Line> = STUDY
        .into_iter()
        .enumerate()
        .flat_map(|(at, (r, w, _))| {
            [
                line(at, format!("({r},{w})"), Style::Measured),
                line(at, format!("({r},{w}), study"), Style::Study),
            ]
        })
        .collect();
    let (mut rng, mut dead) = (Rng::new(report.seed), Vec::new());
    let mut driver = site.found(&Setup::new(NODES, N, report.seed))?;
    driver.load()?;
    driver.emulate(&delays(delay_ms))?;
    for failed in FAILED {
        while dead.len() < failed {
            let victim = rng.below(NODES as u64) as usize;
            if !dead.contains(&victim) {
                driver.kill(victim)?;
                dead.push(victim);
            }
        }
        for (nth, (r, w, study)) in STUDY.into_iter().enumerate() {
            let cell = measure(&mut *driver, report, &dead, (r, w), delay_ms)?;
            let study = failed.checked_sub(1).map(|at| study[at]);
            let cell = Cell { study, ..cell };
            let reads = Mean::of(&cell.measured.latencies(true));
            table.row(&cell.row());
            cell.judge(report);
            for (kind, is_read) in [("get", true), ("put", false)] {
                let times = cell.measured.latencies(is_read);
                report.samples(
                    NAME,
                    "r,w,failed,kind",
                    &format!("{r},{w},{failed},{kind}"),
                    &times,
                );
            }
            lines[2 * nth].points.push((failed as f64, reads.mean, reads.half));
            lines[2 * nth + 1].points.extend(study.map(|reported| (failed as f64, reported, 0.0)));
            step()?;
        }
    }
    driver.stop()?;
    report.figure(figure(lines, delay_ms, report.clients))?;
    report.note(
        NAME,
        "The study has no figures without failures, so what it shows at one and two failed is \
         mostly R; here the lines are flat, as a \
         read asks live owners only. Reads of keys with fewer than R live owners are refused, and \
         counted beside.",
    );
    report.show(table)
}

fn figure(lines: Vec<Line>, delay_ms: f64, clients: u64) -> Figure {
    Figure {
        name: NAME.into(),
        title: "Reads with failed nodes, N=5 on 10 nodes (the study's figure 4)".into(),
        caption: format!(
            "Strict reads of keys with at least R live owners; a message takes {delay_ms} ms on \
             average; {clients} clients in closed \
             loops."
        ),
        x: "nodes that failed".into(),
        y: "mean latency of a read (ms)".into(),
        axis: Axis::Numbers,
        is_log: false,
        lines,
    }
}

fn measure(
    driver: &mut dyn Driver,
    report: &Report,
    dead: &[usize],
    (r, w): (u8, u8),
    delay_ms: f64,
) -> Result<Cell, String> {
    let live_owners = |number: &u64| {
        let (ring, key) = (driver.ring(), read_key(*number));
        let owners = ring.owners(ring.partition(&key)).iter();
        owners.filter(|owner| !dead.contains(&driver.place(**owner))).count()
    };
    let weak: Vec<u64> = (0..KEYS).filter(|key| live_owners(key) < usize::from(r)).collect();
    let weak_share = weak.len() as f64 / KEYS as f64;
    let requests = report.samples.div_ceil(report.clients);
    let place = (dead.len() as u64) << 32 | u64::from(r) << 16 | u64::from(w) << 8;
    let loops = Loops {
        r,
        w,
        clients: report.clients,
        requests,
        // Connections are made, and paces learned.
        warm_up: (requests / 8).clamp(4, 20),
        reads_of_ten: READS_OF_TEN,
        seed: report.seed ^ place,
    };
    let theory = 2.0 * delay_ms + largest_round_trip(u32::from(r) - 1, delay_ms);
    let (failed, measured) = (dead.len(), driver.run(&loops)?);
    Ok(Cell { r, w, failed, measured, theory, study: None, weak, weak_share })
}

impl Cell {
    fn row(&self) -> [String; 13] {
        let (reads, puts) = (self.measured.latencies(true), self.measured.latencies(false));
        let (of_reads, of_puts) = (Mean::of(&reads), Mean::of(&puts));
        let refused = self.measured.refused.len();
        let all = (reads.len() + refused).max(1) as f64;
        [
            self.r.to_string(),
            self.w.to_string(),
            self.failed.to_string(),
            reads.len().to_string(),
            format!("{:.3}", of_reads.mean),
            format!("{:.3}", of_reads.half),
            format!("{:.3}", self.theory),
            format!("{:.3}", of_reads.mean / self.theory),
            self.study.map_or(String::new(), |study| study.to_string()),
            puts.len().to_string(),
            format!("{:.3}", of_puts.mean),
            format!("{:.4}", refused as f64 / all),
            format!("{:.4}", self.weak_share),
        ]
    }

    /// Notes what is not as it should be.
    fn judge(&self, report: &mut Report) {
        let Cell { r, w, failed, measured, weak, .. } = self;
        let place = format!("{NAME}, {failed} failed, (R,W) = ({r},{w})");
        let ratio = Mean::of(&measured.latencies(true)).mean / self.theory;
        if ratio > MOST {
            report.fault(&format!(
                "{place}: {ratio:.2} times what theory gives, and {MOST} is the limit"
            ));
        }
        let refused = measured.refused.iter().filter(|key| weak.contains(key)).count() as u64;
        if let Some(why) = measured.why.as_ref().filter(|_| refused < measured.failed) {
            let others = measured.failed - refused;
            report.fault(&format!(
                "{place}: {others} requests failed that had enough owners; the first failure: {why}"
            ));
        }
        let reads = measured.samples.iter().filter(|sample| sample.is_read);
        let answered = reads.filter(|sample| weak.contains(&sample.key)).count();
        if answered > 0 {
            report.fault(&format!(
                "{place}: {answered} reads were answered by fewer than R live owners"
            ));
        }
    }
}
