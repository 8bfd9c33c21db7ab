//! Staleness under lost messages (figure 5 of the study), N = 5 on 10 nodes: each put is followed by a read at every home. What
//! a read misses of an acknowledged put, and what was never acknowledged, apart; and what each mechanism that heals removes.

use pixii::sim::cluster::Setup;
use pixii::types::{MILLI, Micros};

use super::Step;
use super::after::{Course, Puts, Read, Seen, follow};
use super::driver::Simulated;
use super::grid::{N, NODES};
use super::report::{Report, Table};
use crate::lab::plot::{Figure, Line};

/// Mean delay of a message, in milliseconds.
const DELAY_MS: f64 = 5.0;
/// Between two puts.
const PACE: Micros = 20 * MILLI;
/// A read comes so long after the acknowledgement: about as late as the study's.
const LATER: Micros = 1_000 * MILLI;
/// Puts have this long to be acknowledged.
const PUT_MS: u32 = 2_000;
/// The study's (R, W), and the share of stale reads that it saw with 1, 5 and 10 % of messages lost.
const STUDY: [((u8, u8), [f64; 3]); 7] = [
    ((1, 1), [0.0, 0.10, 0.17]),
    ((1, 2), [0.0, 0.10, 0.14]),
    ((2, 1), [0.0, 0.05, 0.11]),
    ((2, 2), [0.0, 0.01, 0.10]),
    ((3, 1), [0.0, 0.01, 0.08]),
    ((3, 2), [0.0, 0.0, 0.08]),
    ((4, 2), [0.0, 0.0, 0.02]),
];
/// Shares of messages that are lost, in percent; the study's are the last three.
const DROPS: [u64; 4] = [0, 1, 5, 10];

/// Which mechanisms heal.
#[derive(Clone, Copy)]
struct Healing {
    name: &'static str,
    read_repair: bool,
    hints: bool,
    anti_entropy: bool,
}

const HEALING: [Healing; 5] = [
    Healing { name: "nothing", read_repair: false, hints: false, anti_entropy: false },
    Healing { name: "read repair", read_repair: true, hints: false, anti_entropy: false },
    Healing { name: "hints", read_repair: false, hints: true, anti_entropy: false },
    Healing { name: "anti-entropy", read_repair: false, hints: false, anti_entropy: true },
    Healing { name: "all", read_repair: true, hints: true, anti_entropy: true },
];
/// The mechanisms are told apart at this loss, in percent.
const APART: u64 = 10;

/// What one cell came to.
#[derive(Clone, Copy, Default)]
struct Stale {
    puts: u64,
    acknowledged: u64,
    reads: u64,
    stale: u64,
    refused: u64,
}

impl Stale {
    fn share(self) -> f64 {
        self.stale as f64 / self.reads.max(1) as f64
    }

    /// Half the width of the 95 % interval of the share, by the normal approximation.
    fn half(self) -> f64 {
        let share = self.share();
        1.96 * (share * (1.0 - share) / self.reads.max(1) as f64).sqrt()
    }
}

/// How many points there are.
pub(crate) const POINTS: usize = STUDY.len() * (DROPS.len() + HEALING.len());

/// Runs all cells; `step` is called after each.
pub(crate) fn run(report: &mut Report, step: Step<'_>) -> Result<(), String> {
    let name = "staleness";
    let head = [
        "healing",
        "drop_percent",
        "r",
        "w",
        "puts",
        "not_acknowledged",
        "reads",
        "stale",
        "share",
        "confidence",
        "refused",
        "study",
    ];
    let mut table = Table::new(name, &head);
    let (mut lines, mut bars) = (Vec::new(), Vec::new());
    let [.., all] = HEALING;
    for (colour, ((r, w), study)) in STUDY.into_iter().enumerate() {
        let (mut points, mut beside) = (Vec::new(), Vec::new());
        for (at, drop) in DROPS.into_iter().enumerate() {
            let cell = measure(report, all, drop, (r, w))?;
            let told = at.checked_sub(1).map(|at| study[at]);
            table.row(&row(all, drop, (r, w), cell, told));
            points.push((drop as f64, 100.0 * cell.share(), 100.0 * cell.half()));
            if let Some(told) = told {
                beside.push((drop as f64, 100.0 * told, 0.0));
            }
            step()?;
        }
        let line = |name: String, points, is_beside| Line { name, points, is_beside, colour };
        lines.push(line(format!("({r},{w})"), points, false));
        lines.push(line(format!("({r},{w}), study"), beside, true));
    }
    for (colour, ((r, w), _)) in STUDY.into_iter().enumerate() {
        let mut points = Vec::new();
        for (at, healing) in HEALING.into_iter().enumerate() {
            let cell = measure(report, healing, APART, (r, w))?;
            table.row(&row(healing, APART, (r, w), cell, None));
            points.push((at as f64, 100.0 * cell.share(), 100.0 * cell.half()));
            step()?;
        }
        bars.push(Line { name: format!("({r},{w})"), points, is_beside: false, colour });
    }
    let later = LATER / (1_000 * MILLI);
    let caption = format!(
        "Each put of a new key, then {later} s after its acknowledgement one strict read at each of the 5 homes; only acknowledged \
         puts count. Messages between nodes take {DELAY_MS} ms on average and are lost as often as x says; lines of clients lose \
         nothing."
    );
    report.figure(Figure {
        name: name.into(),
        title: "Stale reads over lost messages, all mechanisms on (the study's figure 5)".into(),
        caption: caption.clone(),
        x: "messages lost (%)".into(),
        y: "reads that miss an acknowledged put (%)".into(),
        is_log: false,
        lines,
    })?;
    let names: Vec<String> =
        HEALING.iter().enumerate().map(|(at, healing)| format!("{at} {}", healing.name)).collect();
    report.figure(Figure {
        name: "staleness-healing".into(),
        title: format!("What each mechanism removes, {APART} % of messages lost"),
        caption,
        x: format!("what heals: {}", names.join(", ")),
        y: "reads that miss an acknowledged put (%)".into(),
        is_log: false,
        lines: bars,
    })?;
    report.note(
        name,
        "The study counts puts that never reached a coordinator as stale; here they are counted apart (not_acknowledged), and a \
         put that is not confirmed is kept as a hint and delivered, so that a second later hardly a read misses it.",
    );
    report.table(table)
}

fn row(
    healing: Healing,
    drop: u64,
    (r, w): (u8, u8),
    cell: Stale,
    study: Option<f64>,
) -> Vec<String> {
    let Stale { puts, acknowledged, reads, stale, refused } = cell;
    vec![
        healing.name.into(),
        drop.to_string(),
        r.to_string(),
        w.to_string(),
        puts.to_string(),
        (puts - acknowledged).to_string(),
        reads.to_string(),
        stale.to_string(),
        format!("{:.5}", cell.share()),
        format!("{:.5}", cell.half()),
        refused.to_string(),
        study.map_or(String::new(), |study| study.to_string()),
    ]
}

fn measure(
    report: &Report,
    healing: Healing,
    drop: u64,
    (r, w): (u8, u8),
) -> Result<Stale, String> {
    let seed = report.seed ^ drop << 40 ^ u64::from(r) << 16 ^ u64::from(w) << 8;
    let bare = Setup::new(NODES, N, seed).without_healing();
    let setup = Setup {
        hint_limit_bytes: if healing.hints { 1 << 30 } else { bare.hint_limit_bytes },
        repair_interval: if healing.anti_entropy { 1_000 * MILLI } else { bare.repair_interval },
        read_repair: healing.read_repair,
        ..bare
    };
    let mut simulated = Simulated::found(&setup)?;
    let delay = (DELAY_MS * 1e3) as u64;
    let share = drop as f64 / 100.0;
    simulated.cluster.emulate(&format!(
        "* -> * delay exponential {delay}us; client -> * delay exponential {delay}us; * -> client delay exponential {delay}us; \
         * -> * drop {share}"
    ))?;
    let puts = Puts { count: report.samples, pace: PACE, timeout_ms: PUT_MS };
    let reads: Vec<Read> = (0..usize::from(N)).map(|home| Read { after: LATER, home, r }).collect();
    let mut course = |nth: u64| Course { home: nth as usize, w, reads: reads.clone() };
    let followed = follow(&mut simulated, &puts, &mut course)?;
    let count =
        |wanted: Seen| followed.reads.iter().filter(|(_, _, seen)| *seen == wanted).count() as u64;
    let stale = count(Seen::Missed);
    Ok(Stale {
        puts: puts.count,
        acknowledged: followed.acknowledged,
        reads: count(Seen::Shown) + stale,
        stale,
        refused: count(Seen::Refused),
    })
}
