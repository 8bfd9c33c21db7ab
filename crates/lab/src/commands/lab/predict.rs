//! `pixii lab predict`.

mod live;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::pbs::MILLI;
use clap::Args;
use pixii_core::emulation::parse_delay;
use pixii_kit::arguments::Shared;
use pixii_kit::outcome::{CommandError, CommandResult, Exit, emit, emit_json};
use pixii_kit::text::{row, table};
use serde_json::{Value, json};

use super::check_out;
use crate::pbs::{Cell, Leg, Prediction, Reads, Wars, misses_last, ms, predict, predict_links};
use crate::plot::{Axis, Figure, Line, Style};
use live::Live;

/// Shares of fresh reads whose time is reported.
const SHARES: [f64; 3] = [0.99, 0.999, 0.9999];
/// Versions back whose staleness is reported.
const VERSIONS: [u32; 4] = [1, 2, 5, 10];
/// Points of a curve.
const POINTS: u64 = 120;
/// More samples than this in a file are of no use.
const MAX_SAMPLES: usize = 10_000_000;

/// Says how stale reads can be, by model
#[derive(Args)]
#[command(after_help = "\
The WARS model of probabilistically bounded staleness (Bailis et al., VLDB 2012): a write takes W \
    to each replica and A back, a \
read R there and S back, each drawn anew; a write is acknowledged with the W-th confirmation, and \
    a read that begins t later \
is fresh if one of the R replicas that it counts had the write when it was asked. No failures, no \
    repair.

A distribution is written as in `pixii emulate`: \"exponential 5ms\", \"pareto 1ms 2.5\", \"mix 9 \
    fixed 1ms + 1 exponential \
20ms\"; or @FILE, with measured times in milliseconds, one a line.

With --reads owner it is Pixii's own way: an owner coordinates, its own copy costs nothing, and a \
    read asks as many as it needs; with \
--reads hedged, one more for each answer that is later than the mean and four deviations of its \
    replica (5 to 250 ms). With \
--reads owners a read asks all owners, the own copy too over the network, as `pixii lab run \
    validate` has it. With --reads all it is \
the paper's: the coordinator is no replica, and a read asks all.

--live asks a running cluster (--connect). Each daemon keeps the latest 1024 round trips of reads \
    and of writes to each replica, \
itself among them, as requests met them. A one-way time is half of the shortest round trip of its \
    link, and an even share, drawn, of \
what another one took beyond that: right where a way takes a constant and an exponential time, \
    and wrong by half the difference where \
the two ways differ. A confirmation of a write includes the fsync, its arrival does not: a \
    replica shows what it has received, and \
answers once it is synced. So a write is there after one way, and confirmed after that, what \
    writes take at that replica's own \
disk, and the way back; the table shows what that comes to beside what was measured. Write and \
    read are coordinated by owners drawn \
at random, and the quickest are asked first; Pixii's own clients come to a key's first owner as \
    long as it answers, and see fresher \
values than this. Clients' own ways, fallbacks and failures are not in it.

Examples:
  pixii lab predict --fit LNKD-DISK --reads all
  pixii lab predict --fit LNKD-DISK --reads all --wan \"fixed 75ms\"     the paper's WAN
  pixii lab predict --way \"exponential 5ms\" --n 5
  pixii lab predict --way @one-way.txt --fresh 99.9 --within 10 --read-p99 5
  pixii lab predict --live --connect 127.0.0.1:7432 --fresh 99.9 --within 10 --read-p99 5
  pixii lab predict --fit YMMR --out ymmr              predict.csv and predict.svg")]
pub(super) struct Predict {
    /// A fit of the paper: LNKD-SSD, LNKD-DISK or YMMR
    #[arg(long, conflicts_with_all = ["way", "w", "a", "r", "s"])]
    fit: Option<String>,
    /// What a running cluster's daemons have sampled
    #[arg(long, conflicts_with_all = ["fit", "way", "w", "a", "r", "s", "n"])]
    live: bool,
    /// How long every message takes
    #[arg(long, value_name = "DISTRIBUTION", required_unless_present_any = ["fit", "live"])]
    way: Option<String>,
    /// How long a write takes to a replica, if not as --way
    #[arg(long, value_name = "DISTRIBUTION")]
    w: Option<String>,
    /// Its acknowledgement
    #[arg(long, value_name = "DISTRIBUTION")]
    a: Option<String>,
    /// A read's question
    #[arg(long, value_name = "DISTRIBUTION")]
    r: Option<String>,
    /// Its answer
    #[arg(long, value_name = "DISTRIBUTION")]
    s: Option<String>,
    /// What every way takes besides, except those to one replica, drawn at random for each
    /// operation: the others are in other datacentres
    #[arg(long, value_name = "DISTRIBUTION", conflicts_with = "live")]
    wan: Option<String>,
    /// Replicas of each key; Pixii has at most 7
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=16))]
    n: u8,
    /// Whom a read asks [default: hedged with --live, else owner]
    #[arg(long, value_enum)]
    reads: Option<Reads>,
    /// Trials
    #[arg(long, default_value_t = 1_000_000,
        value_parser = clap::value_parser!(u64).range(1_000..=100_000_000))]
    trials: u64,
    /// Chance follows from it
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A wish: this share of reads is fresh, in percent
    #[arg(long, requires = "within", value_parser = percent)]
    fresh: Option<f64>,
    /// ... so many milliseconds after the acknowledgement
    #[arg(long, requires = "fresh", value_parser = milliseconds)]
    within: Option<f64>,
    /// ... and 99 % of reads take at most so many milliseconds
    #[arg(long, requires = "fresh", value_parser = milliseconds)]
    read_p99: Option<f64>,
    /// Write table and figure in this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Write into a folder that exists
    #[arg(long)]
    force: bool,
}

fn percent(text: &str) -> Result<f64, String> {
    let parsed = text.parse().ok().filter(|share| (0.0..=100.0).contains(share));
    parsed.ok_or_else(|| "a share is 0 to 100, in percent".to_owned())
}

fn milliseconds(text: &str) -> Result<f64, String> {
    let parsed = text.parse().ok().filter(|time| (0.0..=600_000.0).contains(time));
    parsed.ok_or_else(|| "a time is 0 to 600000, in milliseconds".to_owned())
}

/// A distribution, or the samples of a file.
fn leg(text: &str) -> Result<Leg, CommandError> {
    let Some(file) = text.strip_prefix('@') else {
        return parse_delay(text).map(Leg::Drawn).map_err(CommandError::usage);
    };
    let content = fs::read_to_string(file)
        .map_err(|error| CommandError::error(format!("{file}: {error}")))?;
    let mut samples = Vec::new();
    for (number, line) in content.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let time = milliseconds(line.trim()).map_err(|why| {
            let line = line.escape_debug();
            CommandError::usage(format!("{file}, line {}: \"{line}\": {why}", number + 1))
        })?;
        samples.push((time * MILLI as f64).round() as u64);
    }
    match samples.len() {
        0 => Err(CommandError::usage(format!("{file} has no samples"))),
        count if count > MAX_SAMPLES => Err(CommandError::usage(format!(
            "{file} has {count} samples; at most {MAX_SAMPLES} are read"
        ))),
        _ => Ok(Leg::Measured(samples)),
    }
}

impl Predict {
    /// Computes and reports.
    pub(super) fn run(self, shared: &Shared) -> CommandResult {
        check_out(&self.out, self.force)?;
        let live = if self.live { Some(live::fetch(shared)?) } else { None };
        let reported = match &live {
            Some(live) => predict_links(&live.links, self.reads(), self.trials, self.seed),
            None => predict(&self.wars()?, self.n, self.reads(), self.trials, self.seed),
        };
        if let Some(out) = &self.out {
            self.write(out, &reported, live.as_ref()).map_err(CommandError::error)?;
        }
        if shared.json() {
            let cells: Vec<_> =
                reported.cells.iter().map(|cell| figures(&reported, cell)).collect();
            let mut all = json!({ "n": reported.n, "trials": self.trials, "seed": self.seed,
                    "cells": cells });
            if self.fresh.is_some() {
                let meets = reported.cells.iter().filter(|cell| self.meets(&reported, cell));
                all["meet"] = meets.map(|cell| json!([cell.r, cell.w])).collect();
            }
            if let Some(live) = &live {
                all["live"] = live.as_json();
            }
            emit_json(&all)?;
        } else {
            let measured = live.as_ref().map_or_else(String::new, Live::as_text);
            emit(format!("{measured}{}\n{}", as_table(&reported), self.verdict(&reported)))?;
        }
        let met =
            self.fresh.is_none() || reported.cells.iter().any(|cell| self.meets(&reported, cell));
        Ok(if met { Exit::Done } else { Exit::Error })
    }

    fn reads(&self) -> Reads {
        self.reads.unwrap_or(if self.live { Reads::Hedged } else { Reads::Owner })
    }

    fn wars(&self) -> Result<Wars, CommandError> {
        let wan = self.wan.as_deref().map(leg).transpose()?;
        if let Some(fit) = &self.fit {
            return Wars::fit(fit).map(|wars| Wars { wan, ..wars }).map_err(CommandError::usage);
        }
        let way = self.way.clone().unwrap_or_default();
        let of = |own: &Option<String>| leg(own.as_ref().unwrap_or(&way));
        Ok(Wars { w: of(&self.w)?, a: of(&self.a)?, r: of(&self.r)?, s: of(&self.s)?, wan })
    }

    /// True if this (R, W) is what is wished for.
    fn meets(&self, reported: &Prediction, cell: &Cell) -> bool {
        let (Some(fresh), Some(within)) = (self.fresh, self.within) else { return false };
        let within = (within * MILLI as f64) as u64;
        let quick = self.read_p99.is_none_or(|most| ms(read(reported, cell, 0.99)) <= most);
        quick && 100.0 * cell.fresh_at(within) >= fresh
    }

    /// A sentence about the wish, and one on what the figures are.
    fn verdict(&self, reported: &Prediction) -> String {
        let plan = match self.reads() {
            Reads::Owner => "an owner coordinates, and a read asks as many as it needs",
            Reads::Hedged => {
                "an owner coordinates, and a read asks as many as it needs and one more for each \
                 late answer"
            }
            Reads::Owners => {
                "an owner coordinates the write, and a read asks all owners, itself over the \
                 network"
            }
            Reads::All => "the coordinator is no replica, and a read asks all",
        };
        let trials = self.trials;
        let mut text = format!("{trials} trials with seed {}; {plan}\n", self.seed);
        if let (Some(fresh), Some(within)) = (self.fresh, self.within) {
            let met = reported.cells.iter().filter(|cell| self.meets(reported, cell));
            let met: Vec<String> = met.map(|cell| format!("({},{})", cell.r, cell.w)).collect();
            let quick = self.read_p99.map(|most| format!(" at a p99 read of at most {most} ms"));
            let wish = format!("{fresh} % fresh within {within} ms{}", quick.unwrap_or_default());
            let _ = match met.is_empty() {
                true => writeln!(text, "{wish}: no (R,W)"),
                false => writeln!(text, "{wish}: (R,W) = {}", met.join(" ")),
            };
        }
        text
    }

    fn write(&self, out: &Path, reported: &Prediction, live: Option<&Live>) -> Result<(), String> {
        let fault = |error: std::io::Error| format!("{}: {error}", out.display());
        fs::create_dir_all(out).map_err(fault)?;
        let end = curve_end(reported);
        let mut csv = String::from("r,w,t_ms,fresh\n");
        let mut lines = Vec::new();
        for cell in reported.cells.iter().filter(|cell| cell.r + cell.w <= reported.n) {
            let name = format!("R={} W={}", cell.r, cell.w);
            let at = |nth: u64| end * nth / POINTS;
            let points: Vec<_> =
                (0..=POINTS).map(|nth| (at(nth), cell.fresh_at(at(nth)))).collect();
            for (t, fresh) in &points {
                let _ = writeln!(csv, "{},{},{:.3},{fresh:.6}", cell.r, cell.w, ms(*t));
            }
            let points = points.into_iter().map(|(t, fresh)| (ms(t), 100.0 * fresh, 0.0)).collect();
            lines.push(Line { name, points, style: Style::Measured, colour: lines.len() });
        }
        fs::write(out.join("predict.csv"), csv).map_err(fault)?;
        let ways = match (live, &self.fit, &self.way) {
            (Some(live), _, _) => format!("cluster {} as it was measured", live.cluster),
            (None, Some(fit), _) => format!("fit {fit}"),
            (None, None, way) => format!("every way {}", way.clone().unwrap_or_default()),
        };
        let ways = match &self.wan {
            Some(wan) => format!("{ways}, and {wan} more to all replicas but one"),
            None => ways,
        };
        let verdict = self.verdict(reported).trim_end().replace('\n', ". ");
        Figure {
            name: "predict".into(),
            title: format!("How probably a read shows a write, N={}", reported.n),
            caption: format!("By the WARS model: {ways}. {verdict}."),
            x: "time since the acknowledgement (ms)".into(),
            y: "reads that show it (%)".into(),
            axis: Axis::Numbers,
            is_log: false,
            lines,
        }
        .write(out)
    }
}

/// Until when curves are drawn: all are nearly at their top by then.
fn curve_end(reported: &Prediction) -> u64 {
    reported.cells.iter().map(|cell| cell.time_to(0.995)).max().unwrap_or(0).max(POINTS)
}

fn read(reported: &Prediction, cell: &Cell, share: f64) -> u64 {
    reported.reads[usize::from(cell.r) - 1].value_at_quantile(share)
}

fn write(reported: &Prediction, cell: &Cell, share: f64) -> u64 {
    reported.writes[usize::from(cell.w) - 1].value_at_quantile(share)
}

fn figures(reported: &Prediction, cell: &Cell) -> Value {
    let times: Vec<_> = SHARES
        .iter()
        .map(|share| json!({ "percent": 100.0 * share, "ms": ms(cell.time_to(*share)) }))
        .collect();
    let versions: Vec<_> = VERSIONS
        .iter()
        .map(|k| json!({ "k": k, "fresh": 1.0 - misses_last(*k, reported.n, cell.r, cell.w) }))
        .collect();
    json!({
        "r": cell.r, "w": cell.w, "fresh_at_once": cell.fresh_at(0), "fresh_within": times,
        "read_p50_ms": ms(read(reported, cell, 0.5)), "read_p99_ms": ms(read(reported, cell, 0.99)),
        "read_p99_9_ms": ms(read(reported, cell, 0.999)), "write_p50_ms": ms(write(reported, cell,
        0.5)),
        "write_p99_9_ms": ms(write(reported, cell, 0.999)), "k_staleness": versions,
    })
}

fn as_table(reported: &Prediction) -> String {
    let head = [
        "(R,W)",
        "fresh at once",
        "99 % in ms",
        "99.9 %",
        "99.99 %",
        "read p50",
        "read p99.9",
        "write p50",
        "write p99.9",
        "of the last 2 versions one",
    ];
    let mut rows = vec![row(head)];
    for cell in &reported.cells {
        let time = |share: f64| format!("{:.2}", ms(cell.time_to(share)));
        let took = |of: fn(&Prediction, &Cell, f64) -> u64, share| {
            format!("{:.2}", ms(of(reported, cell, share)))
        };
        rows.push(row([
            &format!("({},{})", cell.r, cell.w),
            &format!("{:.2} %", 100.0 * cell.fresh_at(0)),
            &time(SHARES[0]),
            &time(SHARES[1]),
            &time(SHARES[2]),
            &took(read, 0.5),
            &took(read, 0.999),
            &took(write, 0.5),
            &took(write, 0.999),
            &format!("{:.1} %", 100.0 * (1.0 - misses_last(2, reported.n, cell.r, cell.w))),
        ]));
    }
    table(&rows)
}
