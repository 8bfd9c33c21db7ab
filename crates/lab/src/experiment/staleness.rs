//! Staleness under lost messages (figure 5 of the study), N = 5 on 10 nodes: each put is followed
//! by a read at every owner. What a read misses of an acknowledged put, and what was never
//! acknowledged, apart; and what each mechanism that heals removes.

use pixii_core::node::Experiment;
use pixii_core::types::{MILLI, Micros};
use pixii_sim::cluster::Setup;

use super::Step;
use super::driver::{Driver, Followed, Puts, Read, Scenario, Seen, delays};
use super::grid::{N, NODES};
use super::report::Report;
use super::site::Site;
use crate::plot::{Axis, Figure, Line, Style};

/// Mean delay of a message, in milliseconds.
const DELAY_MS: f64 = 5.0;
/// Between two puts.
const PACE: Micros = Micros::from_millis(10);
/// Reads come so many seconds after the acknowledgement: about as late as the study's, and when
/// what heals has had its time.
const LATER_S: [u64; 2] = [1, 5];
/// Puts have this long to be acknowledged, and reads to be answered.
const TIMEOUT_MS: u32 = 2_000;
/// The study's (R, W), and the share of stale reads that it saw with 1, 5 and 10 % of messages
/// lost.
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
/// The mechanisms are distinguished at this loss, in percent.
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
pub(crate) const POINTS: usize = DROPS.len() + HEALING.len() - 1;
const NAME: &str = "staleness";

/// Runs all cells; `step` is called after each loss with each way to heal.
pub(crate) fn run(site: Site<'_>, report: &mut Report, step: Step<'_>) -> Result<(), String> {
    let head = [
        "healing",
        "drop_percent",
        "after_s",
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
    let mut table = report.table(NAME, &head)?;
    let name = |(r, w): (u8, u8)| format!("({r},{w})");
    let line = |colour: usize, name, style| Line { name, points: Vec::new(), style, colour };
    let each = || STUDY.into_iter().map(|(pair, _)| pair).enumerate();
    let mut over_drops: Vec<Line> = each()
        .flat_map(|(at, pair)| {
            [
                line(at, name(pair), Style::Measured),
                line(at, format!("{}, study", name(pair)), Style::Study),
            ]
        })
        .collect();
    let mut by_healing = LATER_S.map(|_| {
        each().map(|(at, pair)| line(at, name(pair), Style::Measured)).collect::<Vec<_>>()
    });
    for (place, healing) in HEALING.into_iter().enumerate() {
        let is_all = place + 1 == HEALING.len();
        let setup = healing.setup(report.seed);
        let mut driver = site.found(&setup)?;
        for (at, drop) in DROPS.into_iter().enumerate().filter(|(_, drop)| is_all || *drop == APART)
        {
            let cells = measure(&mut *driver, drop, report.samples)?;
            for (nth, (later, cell)) in each_later(&cells) {
                let (pair, study) = STUDY[nth];
                let is_first = later == 0;
                let reported = at.checked_sub(1).map(|at| study[at]).filter(|_| is_first);
                table.row(&row(healing, (drop, LATER_S[later]), pair, cell, reported));
                let (share, half) = (100.0 * cell.share(), 100.0 * cell.half());
                if is_all && is_first {
                    over_drops[2 * nth].points.push((drop as f64, share, half));
                    let beside = reported.map(|reported| (drop as f64, 100.0 * reported, 0.0));
                    over_drops[2 * nth + 1].points.extend(beside);
                }
                if drop == APART {
                    by_healing[later][nth].points.push((place as f64, share, half));
                }
            }
            step()?;
        }
        driver.stop()?;
    }
    figures(report, over_drops, by_healing)?;
    report.show(table)
}

/// The cells of each (R, W), by its number, and of each time of reads, by its own.
fn each_later(cells: &[[Stale; LATER_S.len()]]) -> impl Iterator<Item = (usize, (usize, Stale))> {
    let each = cells.iter().enumerate();
    each.flat_map(|(nth, cells)| cells.iter().copied().enumerate().map(move |cell| (nth, cell)))
}

/// Both figures, and what is to be said of them.
fn figures(
    report: &mut Report,
    over_drops: Vec<Line>,
    [early, late]: [Vec<Line>; LATER_S.len()],
) -> Result<(), String> {
    let caption = |later: u64| {
        format!(
            "Each put of a new key, then {later} s after its acknowledgement one strict read at \
             each of the 5 owners; only \
             acknowledged puts count. Messages between nodes take {DELAY_MS} ms on average and \
             are lost as often as is said; lines \
             of clients lose nothing."
        )
    };
    let [first, second] = LATER_S;
    report.figure(Figure {
        name: NAME.into(),
        title: "Stale reads over lost messages, all mechanisms on (the study's figure 5)".into(),
        caption: caption(first),
        x: "messages lost (%)".into(),
        y: "reads that miss an acknowledged put (%)".into(),
        axis: Axis::Numbers,
        is_log: false,
        lines: over_drops,
    })?;
    let names = HEALING.iter().map(|healing| healing.name.to_owned()).collect();
    let (removed_early, removed_late) = (removed(&early), removed(&late));
    report.figure(Figure {
        name: "staleness-healing".into(),
        title: format!("What each mechanism removes, {APART} % of messages lost"),
        caption: caption(second),
        x: "what heals".into(),
        y: "reads that miss an acknowledged put (%)".into(),
        axis: Axis::Kinds(names),
        is_log: false,
        lines: late,
    })?;
    report.note(
        NAME,
        "The study counts puts that never reached a coordinator as stale; here they are counted \
         apart (not_acknowledged). What is \
         left at R=1 are owners that a lost message has passed by, and that a hint has not \
         reached within a second.",
    );
    report.note(
        "staleness-healing",
        &format!(
            "Of the stale reads of all (R,W) with nothing that heals are removed {first} s after \
             the put: {removed_early}; {second} s \
             after it: {removed_late}. (A read repairs what it sees, so that it helps later ones, \
             and only with R of 2 or more; what \
             heals loses messages too. A little, or less than nothing, is chance.)"
        ),
    );
    Ok(())
}

/// What each mechanism removes of the stale reads that there are without any, in words.
fn removed(by_healing: &[Line]) -> String {
    let stale = |at: usize| by_healing.iter().map(|line| line.points[at].1).sum::<f64>();
    let nothing = stale(0);
    let part = |(at, healing): (usize, &Healing)| {
        let removed = 100.0 * (1.0 - stale(at) / nothing.max(f64::MIN_POSITIVE));
        format!("{} {removed:.0} %", healing.name)
    };
    let parts: Vec<String> = HEALING.iter().enumerate().skip(1).map(part).collect();
    parts.join(", ")
}

fn row(
    healing: Healing,
    (drop, after_s): (u64, u64),
    (r, w): (u8, u8),
    cell: Stale,
    study: Option<f64>,
) -> Vec<String> {
    let Stale { puts, acknowledged, reads, stale, refused } = cell;
    vec![
        healing.name.into(),
        drop.to_string(),
        after_s.to_string(),
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

impl Healing {
    /// The study's cluster, that heals like this.
    fn setup(self, seed: u64) -> Setup {
        let all = Setup::new(NODES, N, seed);
        let none = all.without_healing();
        Setup {
            hint_limit_bytes: if self.hints { all } else { none }.hint_limit_bytes,
            repair_interval: if self.anti_entropy { 1_000 * MILLI } else { none.repair_interval },
            experiment: Experiment { no_read_repair: !self.read_repair, ..all.experiment },
            ..all
        }
    }
}

/// Puts and reads of each of the study's (R, W), one after the other, with so many percent of
/// messages lost: for each (R, W) and each time of reads.
fn measure(
    driver: &mut dyn Driver,
    drop: u64,
    samples: u64,
) -> Result<Vec<[Stale; LATER_S.len()]>, String> {
    let share = drop as f64 / 100.0;
    driver.emulate(&format!("{}; * -> * drop {share}", delays(DELAY_MS)))?;
    let (pairs, owners) = (STUDY.len() as u64, usize::from(N));
    let puts = Puts { count: samples * pairs, pace: PACE, timeout_ms: TIMEOUT_MS };
    let mut scenario = |nth: u64| {
        let (r, w) = STUDY[(nth % pairs) as usize].0;
        let read = |after_s: u64, owner| Read { after: after_s * 1_000 * MILLI, owner, r };
        let reads =
            LATER_S.into_iter().flat_map(|later| (0..owners).map(move |owner| read(later, owner)));
        Scenario { owner: (nth / pairs) as usize, w, reads: reads.collect() }
    };
    let Followed { acknowledged, reads } = driver.follow(&puts, &mut scenario)?;
    let mut cells = vec![[Stale { puts: samples, ..Stale::default() }; 2]; STUDY.len()];
    for put in acknowledged {
        cells[(put % pairs) as usize].iter_mut().for_each(|cell| cell.acknowledged += 1);
    }
    for reading in reads {
        let cell = &mut cells[(reading.put % pairs) as usize][reading.which / owners];
        cell.reads += u64::from(reading.seen != Seen::Refused);
        cell.stale += u64::from(reading.seen == Seen::Missed);
        cell.refused += u64::from(reading.seen == Seen::Refused);
    }
    Ok(cells)
}
