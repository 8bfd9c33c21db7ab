//! How probably a read sees a write t after its acknowledgement, for each (R, W) with R + W at most N: measured, beside what the
//! WARS model predicts for the same distributions (`crate::lab::pbs`); and how far the two are apart over nine of them.

use std::collections::BTreeMap;

use pixii::emulation::{Delay, parse_delay};
use pixii::rng::Rng;
use pixii::sim::cluster::{Setup, Ways};
use pixii::types::{MILLI, Micros};

use super::Step;
use super::after::{Course, Puts, Read, Seen, follow};
use super::driver::{Simulated, TIMEOUT_MS};
use super::report::{Report, Table};
use crate::lab::pbs::live::Links;
use crate::lab::pbs::{Leg, Prediction, Reads, Wars, predict, predict_links};
use crate::lab::plot::{Figure, Line};

const N: u8 = 3;
/// (R, W) whose reads may be stale.
pub(crate) const PAIRS: [(u8, u8); 3] = [(1, 1), (1, 2), (2, 1)];
/// When reads begin after the acknowledgement, in milliseconds.
const TIMES_MS: [u64; 9] = [0, 1, 2, 5, 10, 15, 20, 40, 80];
/// Between two puts.
const PACE: Micros = 7 * MILLI;
const TRIALS: u64 = 200_000;
/// The paper's validation: means of W, and of A, R and S, in milliseconds.
pub(crate) const MEANS: [(u64, u64); 9] =
    [(20, 10), (20, 5), (20, 2), (10, 10), (10, 5), (10, 2), (5, 10), (5, 5), (5, 2)];
/// Most that prediction and measurement may be apart, as a root mean square over all points.
const MOST_RMSE: f64 = 0.01;

/// What was measured and predicted for one (R, W) and one time.
struct Point {
    pair: (u8, u8),
    t_ms: u64,
    reads: u64,
    /// The share of reads that showed the write.
    fresh: f64,
    predicted: f64,
    /// By the round trips that the nodes had sampled.
    by_samples: Option<f64>,
}

/// What was measured, what the distributions say of it, and what the nodes' own samples do if there are enough.
struct Compared {
    counts: Counts,
    told: Prediction,
    by_samples: Option<Prediction>,
}

/// For each (R, W) and each time: reads, and those that showed the write.
type Counts = BTreeMap<(u8, u8, u64), (u64, u64)>;

fn exponential(mean_ms: u64) -> Result<Delay, String> {
    parse_delay(&format!("exponential {mean_ms}ms"))
}

/// Measures with so many puts of each (R, W), and predicts.
fn compare(w_ms: u64, others_ms: u64, puts: u64, seed: u64) -> Result<Compared, String> {
    let (w, other) = (exponential(w_ms)?, exponential(others_ms)?);
    let ways = Ways { w: w.clone(), a: other.clone(), r: other.clone(), s: other.clone() };
    let wars = Wars {
        w: Leg::Drawn(w),
        a: Leg::Drawn(other.clone()),
        r: Leg::Drawn(other.clone()),
        s: Leg::Drawn(other),
    };
    let told = predict(&wars, N, Reads::Home, TRIALS, seed);
    let (counts, links) = measure(&ways, puts, seed)?;
    // A link carries writes as it carries reads, in the real world.
    let links = links.filter(|_| w_ms == others_ms);
    let by_samples = links.map(|links| predict_links(&links, Reads::Hedged, TRIALS, seed));
    Ok(Compared { counts, told, by_samples })
}

/// Puts of new keys at a home drawn for each, and after each acknowledgement reads at homes drawn for each. No reads repair, no
/// hints, no comparisons. The nodes' links as they have sampled them, if they have enough.
fn measure(ways: &Ways, puts: u64, seed: u64) -> Result<(Counts, Option<Links>), String> {
    let setup = Setup::new(usize::from(N), N, seed).without_healing();
    let mut simulated = Simulated::found(&setup)?;
    simulated.cluster.set_ways(ways.clone());
    let mut rng = Rng::new(seed);
    let puts = Puts { count: puts * PAIRS.len() as u64, pace: PACE, timeout_ms: TIMEOUT_MS };
    let pair = |nth: u64| PAIRS[(nth % PAIRS.len() as u64) as usize];
    let mut course = |nth: u64| {
        let (r, w) = pair(nth);
        let mut home = || rng.below(N.into()) as usize;
        let put = home();
        let reads = TIMES_MS.map(|t| Read { after: t * MILLI, home: home(), r });
        Course { home: put, w, reads: reads.to_vec() }
    };
    let followed = follow(&mut simulated, &puts, &mut course)?;
    if followed.acknowledged < puts.count {
        let (all, done) = (puts.count, followed.acknowledged);
        return Err(format!("{done} of {all} puts were acknowledged, and nothing is lost here"));
    }
    let mut counts = Counts::new();
    for (nth, which, seen) in followed.reads {
        if seen == Seen::Refused {
            return Err("a read was refused, and all homes are there".into());
        }
        let (r, w) = pair(nth);
        let (asked, shown) = counts.entry((r, w, TIMES_MS[which])).or_default();
        *asked += 1;
        *shown += u64::from(seen == Seen::Shown);
    }
    let cluster = &simulated.cluster;
    let links = Links::new(cluster.ring(), &cluster.samples(), |id| format!("{id:?}"));
    Ok((counts, links.ok()))
}

/// What was measured and predicted, point by point.
fn points(compared: &Compared) -> Vec<Point> {
    let fresh = |told: &Prediction, r: u8, w: u8, t_ms: u64| {
        let cell = told.cells.iter().find(|cell| (cell.r, cell.w) == (r, w));
        cell.map_or(0.0, |cell| cell.fresh_at(t_ms * MILLI))
    };
    let Compared { counts, told, by_samples } = compared;
    let point = |((r, w, t_ms), (reads, seen)): (&(u8, u8, u64), &(u64, u64))| Point {
        pair: (*r, *w),
        t_ms: *t_ms,
        reads: *reads,
        fresh: *seen as f64 / (*reads).max(1) as f64,
        predicted: fresh(told, *r, *w, *t_ms),
        by_samples: by_samples.as_ref().map(|told| fresh(told, *r, *w, *t_ms)),
    };
    counts.iter().map(point).collect()
}

/// The figure of one distribution.
pub(crate) fn visibility(report: &mut Report, step: Step<'_>) -> Result<(), String> {
    let name = "visibility";
    let compared = compare(20, 10, report.samples, report.seed)?;
    let mut table = Table::new(name, &["r", "w", "t_ms", "reads", "fresh", "predicted"]);
    let mut lines: Vec<Line> = Vec::new();
    for (colour, (r, w)) in PAIRS.into_iter().enumerate() {
        let (mut measured, mut predicted) = (Vec::new(), Vec::new());
        let points = points(&compared);
        for point in points.into_iter().filter(|point| point.pair == (r, w)) {
            let Point { t_ms: t, reads, fresh, predicted: model, .. } = point;
            let half = 1.96 * (fresh * (1.0 - fresh) / reads.max(1) as f64).sqrt();
            measured.push((t as f64, 100.0 * fresh, 100.0 * half));
            predicted.push((t as f64, 100.0 * model, 0.0));
            table.row(&[
                r.to_string(),
                w.to_string(),
                t.to_string(),
                reads.to_string(),
                format!("{fresh:.5}"),
                format!("{model:.5}"),
            ]);
        }
        let line = |name: String, points, is_beside| Line { name, points, is_beside, colour };
        lines.push(line(format!("({r},{w})"), measured, false));
        lines.push(line(format!("({r},{w}), model"), predicted, true));
        step()?;
    }
    report.figure(Figure {
        name: name.into(),
        title: "How probably a read sees a write, N=3".into(),
        caption: "Writes take 20 ms on average to a replica, all else 10 ms, exponentially distributed. Each put and each read at a \
                  home drawn for it, whose own copy costs no way. No repair, no hints. (R,W) with R+W > 3 always see it."
            .into(),
        x: "time from the acknowledgement to the read (ms)".into(),
        y: "reads that see the write (%)".into(),
        is_log: false,
        lines,
    })?;
    report.note(
        name,
        "The study's reads came a second or more after the put, so that this race never showed in its figures.",
    );
    report.table(table)
}

/// A root mean square.
#[derive(Default)]
struct Rmse {
    squares: f64,
    count: u32,
}

impl Rmse {
    fn add(&mut self, error: f64) {
        self.squares += error.powi(2);
        self.count += 1;
    }

    fn value(&self) -> f64 {
        (self.squares / f64::from(self.count.max(1))).sqrt()
    }
}

/// Prediction and measurement over the nine pairs of the paper's validation.
pub(crate) fn validate(report: &mut Report, step: Step<'_>) -> Result<(), String> {
    let name = "validate";
    let head = ["w_ms", "others_ms", "r", "w", "t_ms", "reads", "fresh", "predicted", "by_samples"];
    let mut table = Table::new(name, &head);
    let (mut all, mut sampled) = (Rmse::default(), Rmse::default());
    let mut lines = Vec::new();
    for (colour, (w_ms, others_ms)) in MEANS.into_iter().enumerate() {
        let seed = report.seed ^ (colour as u64 + 1) << 32;
        let compared = compare(w_ms, others_ms, report.samples, seed)?;
        let mut apart = Vec::new();
        for point in points(&compared) {
            let Point { pair: (r, w), t_ms: t, reads, fresh, predicted, by_samples } = point;
            all.add(fresh - predicted);
            by_samples.into_iter().for_each(|told| sampled.add(fresh - told));
            if (r, w) == (1, 1) {
                apart.push((t as f64, 100.0 * (fresh - predicted).abs(), 0.0));
            }
            table.row(&[
                w_ms.to_string(),
                others_ms.to_string(),
                r.to_string(),
                w.to_string(),
                t.to_string(),
                reads.to_string(),
                format!("{fresh:.5}"),
                format!("{predicted:.5}"),
                by_samples.map_or_else(String::new, |told| format!("{told:.5}")),
            ]);
        }
        let name = format!("W {w_ms} ms, A=R=S {others_ms} ms");
        lines.push(Line { name, points: apart, is_beside: false, colour });
        step()?;
    }
    let (rmse, count) = (all.value(), all.count);
    if rmse > MOST_RMSE {
        let (rmse, most) = (100.0 * rmse, 100.0 * MOST_RMSE);
        report.faults.push(format!("validate: the RMSE is {rmse:.2} %, and {most} % is the limit"));
    }
    let mut told = format!(
        "The RMSE between prediction and measurement is {:.2} % over {count} points (9 distributions, 3 (R,W), 9 times).",
        100.0 * rmse
    );
    if sampled.count > 0 {
        told += &format!(
            " Predicted from the round trips that the nodes sampled, where a write's way is like all others, it is {:.2} % over {}.",
            100.0 * sampled.value(),
            sampled.count
        );
    }
    report.figure(Figure {
        name: name.into(),
        title: "How far prediction and measurement are apart, (R,W) = (1,1)".into(),
        caption: format!("{told} Virtual time, to the microsecond; no repair, no hints."),
        x: "time from the acknowledgement to the read (ms)".into(),
        y: "difference in points (%)".into(),
        is_log: false,
        lines,
    })?;
    report.note(name, &told);
    report.table(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nodes_have_sampled_predicts_how_stale_their_reads_are() {
        let compared = compare(10, 10, 2_000, 7).unwrap();
        let (mut by_ways, mut by_samples) = (Rmse::default(), Rmse::default());
        for point in points(&compared) {
            by_ways.add(point.fresh - point.predicted);
            by_samples.add(point.fresh - point.by_samples.unwrap());
        }
        let found = [by_ways, by_samples].map(|all| (all.count, all.value()));
        assert!(
            found.iter().all(|(count, rmse)| *count == 27 && *rmse < 0.02),
            "seed 7: {found:?}"
        );
        // A write that takes longer than a read on the same link is no link's doing.
        assert!(compare(20, 10, 100, 7).unwrap().by_samples.is_none());
    }
}
