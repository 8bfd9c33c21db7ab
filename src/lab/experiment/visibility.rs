//! How probably a read sees a write t after its acknowledgement, for each (R, W) with R + W at most N: measured, beside what the
//! WARS model predicts for the same distributions (`crate::lab::pbs`); and how far the two are apart over nine of them.

use std::collections::{BTreeMap, HashMap};

use pixii::emulation::{Delay, parse_delay};
use pixii::message::{Request, Response};
use pixii::rng::Rng;
use pixii::sim::cluster::{Setup, Ways};
use pixii::types::{Key, MILLI, Micros};

use super::Step;
use super::driver::{Simulated, TIMEOUT_MS, quorum};
use super::report::{Report, Table};
use crate::lab::pbs::{Leg, Prediction, Reads, Wars, predict};
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

/// A read that is to be made.
struct Due {
    key: Key,
    pair: (u8, u8),
    t_ms: u64,
}

/// What was measured and predicted for one (R, W) and one time.
struct Point {
    pair: (u8, u8),
    t_ms: u64,
    reads: u64,
    /// The share of reads that showed the write.
    fresh: f64,
    predicted: f64,
}

/// For each (R, W) and each time: reads, and those that showed the write.
type Counts = BTreeMap<(u8, u8, u64), (u64, u64)>;

fn exponential(mean_ms: u64) -> Result<Delay, String> {
    parse_delay(&format!("exponential {mean_ms}ms"))
}

/// Measures with so many puts of each (R, W), and predicts.
fn compare(
    w_ms: u64,
    others_ms: u64,
    puts: u64,
    seed: u64,
) -> Result<(Counts, Prediction), String> {
    let (w, other) = (exponential(w_ms)?, exponential(others_ms)?);
    let ways = Ways { w: w.clone(), a: other.clone(), r: other.clone(), s: other.clone() };
    let wars = Wars {
        w: Leg::Drawn(w),
        a: Leg::Drawn(other.clone()),
        r: Leg::Drawn(other.clone()),
        s: Leg::Drawn(other),
    };
    let told = predict(&wars, N, Reads::Home, TRIALS, seed);
    Ok((measure(&ways, puts, seed)?, told))
}

/// Puts of new keys at a home drawn for each, and after each acknowledgement reads at homes drawn for each. No reads repair, no
/// hints, no comparisons.
fn measure(ways: &Ways, puts: u64, seed: u64) -> Result<Counts, String> {
    let setup = Setup::new(usize::from(N), N, seed).without_healing();
    let mut simulated = Simulated::found(&setup)?;
    simulated.cluster.set_ways(ways.clone());
    let (mut rng, mut counts) = (Rng::new(seed), Counts::new());
    let mut writes: HashMap<u64, (Key, (u8, u8))> = HashMap::new();
    let mut reads: HashMap<u64, (u8, u8, u64)> = HashMap::new();
    let mut due: BTreeMap<(Micros, u64), Due> = BTreeMap::new();
    let (begun, mut issued, all) = (simulated.cluster.now(), 0, puts * PAIRS.len() as u64);
    loop {
        let next_put = (issued < all).then_some(begun + issued * PACE);
        let next_read = due.first_key_value().map(|((at, _), _)| *at);
        let until = [next_put, next_read].into_iter().flatten().min();
        if until.is_none() && writes.is_empty() && reads.is_empty() {
            return Ok(counts);
        }
        let far = simulated.cluster.now() + Micros::from(TIMEOUT_MS) * 2 * MILLI;
        let answer = simulated.cluster.next(until.unwrap_or(far));
        if let Some(answer) = answer {
            if let Some((key, pair)) = writes.remove(&answer.call) {
                let Response::Written { .. } = answer.response else {
                    return Err(format!("a put was not acknowledged: {:?}", answer.response));
                };
                for t in TIMES_MS {
                    let at = (answer.ended + t * MILLI, answer.call * 100 + t);
                    due.insert(at, Due { key: key.clone(), pair, t_ms: t });
                }
            } else if let Some((r, w, t)) = reads.remove(&answer.call) {
                let Response::Found { values, .. } = answer.response else {
                    return Err(format!("a read was not answered: {:?}", answer.response));
                };
                let (asked, seen) = counts.entry((r, w, t)).or_default();
                *asked += 1;
                *seen += u64::from(!values.is_empty());
            }
        } else if next_read.is_some() && next_read == until {
            let Some((_, Due { key, pair: (r, w), t_ms: t })) = due.pop_first() else { continue };
            let home = simulated.home(&key, rng.below(N.into()) as usize);
            let request = Request::Get { key, r: quorum(r, true) };
            reads.insert(simulated.cluster.ask(1, home, request, TIMEOUT_MS), (r, w, t));
        } else if next_put.is_some() {
            let pair = PAIRS[(issued % PAIRS.len() as u64) as usize];
            let key = Key::new(format!("visible/{issued:08}").into_bytes());
            let key = key.map_err(|error| error.to_string())?;
            let home = simulated.home(&key, rng.below(N.into()) as usize);
            let request = simulated.put(key.clone(), pair.1);
            writes.insert(simulated.cluster.ask(0, home, request, TIMEOUT_MS), (key, pair));
            issued += 1;
        } else {
            return Err("a request was never answered".into());
        }
    }
}

/// What was measured and predicted, point by point.
fn points(counts: &Counts, told: &Prediction) -> Vec<Point> {
    let cell = |r: u8, w: u8| told.cells.iter().find(|cell| (cell.r, cell.w) == (r, w));
    let point = |((r, w, t_ms), (reads, seen)): (&(u8, u8, u64), &(u64, u64))| Point {
        pair: (*r, *w),
        t_ms: *t_ms,
        reads: *reads,
        fresh: *seen as f64 / (*reads).max(1) as f64,
        predicted: cell(*r, *w).map_or(0.0, |cell| cell.fresh_at(*t_ms * MILLI)),
    };
    counts.iter().map(point).collect()
}

/// The figure of one distribution.
pub(crate) fn visibility(report: &mut Report, step: Step<'_>) -> Result<(), String> {
    let name = "visibility";
    let (counts, told) = compare(20, 10, report.samples, report.seed)?;
    let mut table = Table::new(name, &["r", "w", "t_ms", "reads", "fresh", "predicted"]);
    let mut lines: Vec<Line> = Vec::new();
    for (colour, (r, w)) in PAIRS.into_iter().enumerate() {
        let (mut measured, mut predicted) = (Vec::new(), Vec::new());
        let points = points(&counts, &told);
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

/// Prediction and measurement over the nine pairs of the paper's validation.
pub(crate) fn validate(report: &mut Report, step: Step<'_>) -> Result<(), String> {
    let name = "validate";
    let head = ["w_ms", "others_ms", "r", "w", "t_ms", "reads", "fresh", "predicted"];
    let mut table = Table::new(name, &head);
    let (mut squares, mut count) = (0.0, 0.0);
    let mut lines = Vec::new();
    for (colour, (w_ms, others_ms)) in MEANS.into_iter().enumerate() {
        let seed = report.seed ^ (colour as u64 + 1) << 32;
        let (counts, told) = compare(w_ms, others_ms, report.samples, seed)?;
        let mut apart = Vec::new();
        for Point { pair: (r, w), t_ms: t, reads, fresh, predicted } in points(&counts, &told) {
            squares += (fresh - predicted).powi(2);
            count += 1.0;
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
            ]);
        }
        let name = format!("W {w_ms} ms, A=R=S {others_ms} ms");
        lines.push(Line { name, points: apart, is_beside: false, colour });
        step()?;
    }
    let rmse = f64::sqrt(squares / f64::max(count, 1.0));
    if rmse > MOST_RMSE {
        let (rmse, most) = (100.0 * rmse, 100.0 * MOST_RMSE);
        report.faults.push(format!("validate: the RMSE is {rmse:.2} %, and {most} % is the limit"));
    }
    let told = format!(
        "The RMSE between prediction and measurement is {:.2} % over {count} points (9 distributions, 3 (R,W), 9 times).",
        100.0 * rmse
    );
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
