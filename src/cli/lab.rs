//! `pixii lab`: experiments, beside what theory and the study say.

mod predict;

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::signals::Interrupt;
use super::text::{row, table};
use super::{Exit, Outcome, Shared, Trouble, block_on, complain, emit, emit_json};
use crate::lab::experiment::failures::{self, Cell, MOST};
use crate::lab::experiment::{Mean, Plan};

const EXPERIMENTS: [(&str, &str); 1] = [(
    "failures",
    "read latency with 0, 1 and 2 of 10 daemons dead, N=5, for each (R,W) of the study (its figure 4)",
)];

/// Measure what delays and failures do, beside theory and the study that Pixii starts from
#[derive(Args)]
#[command(after_help = "\
Daemons run in a temporary directory, on an emulated network: each message between nodes, and to and from clients, takes an \
exponentially distributed time with the mean that --delay gives, independently.

Theory: a read asked at a live home costs two client hops, 2d, and the largest of R-1 round trips of two messages each, \
E[max] = integral of 1 - (1 - (1 + t/d) exp(-t/d))^(R-1) dt. A mean over 1.3 times that is a fault (exit code 1).

Examples:
  pixii lab list
  pixii lab run failures
  pixii lab run failures --delay 20 --samples 2000 --out figure-4")]
pub(crate) struct Lab {
    #[command(subcommand)]
    order: Order,
}

#[derive(Subcommand)]
enum Order {
    /// Say what experiments there are
    List,
    /// Run one
    Run(Run),
    /// Say how stale reads can be, by model, for every (R, W)
    Predict(predict::Predict),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Driver {
    /// Processes on loopback.
    Real,
}

#[derive(Args)]
struct Run {
    /// Its name, as `pixii lab list` gives it
    name: String,
    /// What carries it out
    #[arg(long, value_enum, default_value_t = Driver::Real)]
    on: Driver,
    /// Mean delay of a message, in milliseconds
    #[arg(long, default_value_t = 5.0, value_parser = delay)]
    delay: f64,
    /// Requests for each figure
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u64).range(10..=1_000_000))]
    samples: u64,
    /// Clients at a time, each in a closed loop
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=64))]
    clients: u64,
    /// Keys and victims follow from it
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write samples and table as CSV in this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Write into a folder that exists
    #[arg(long)]
    force: bool,
}

/// A delay in milliseconds.
fn delay(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(delay) if (0.1..=1_000.0).contains(&delay) => Ok(delay),
        _ => Err("a delay is 0.1 to 1000 ms".to_owned()),
    }
}

impl Lab {
    /// Lists or runs.
    pub(crate) fn run(self, shared: &Shared) -> Outcome {
        match self.order {
            Order::List => list(shared),
            Order::Run(run) => run.run(shared),
            Order::Predict(predict) => predict.run(shared),
        }
    }
}

/// Refuses a folder that exists, unless it is to be written into.
fn check_out(out: &Option<PathBuf>, force: bool) -> Result<(), Trouble> {
    match out {
        Some(out) if out.exists() && !force => {
            let out = out.display();
            Err(Trouble::usage(format!("{out} exists: name another, or say --force")))
        }
        _ => Ok(()),
    }
}

fn list(shared: &Shared) -> Outcome {
    if shared.json() {
        let one = |(name, what)| json!({ "name": name, "what": what });
        emit_json(&EXPERIMENTS.map(one).into())?;
    } else {
        let rows: Vec<_> = EXPERIMENTS.iter().map(|(name, what)| row([name, what])).collect();
        emit(table(&rows))?;
    }
    Ok(Exit::Done)
}

impl Run {
    fn run(self, shared: &Shared) -> Outcome {
        if !EXPERIMENTS.iter().any(|(name, _)| *name == self.name) {
            let names: Vec<&str> = EXPERIMENTS.iter().map(|(name, _)| *name).collect();
            return Err(Trouble::usage(format!(
                "no experiment is called \"{}\"; there are {}",
                self.name.escape_debug(),
                names.join(", ")
            )));
        }
        check_out(&self.out, self.force)?;
        let program = std::env::current_exe().map_err(|error| Trouble::error(error.to_string()))?;
        let interrupt = Interrupt::listen(false)?;
        // Declared first, so that it outlives what runs in it on every way out.
        let scratch = tempfile::Builder::new()
            .prefix("pixii-lab-")
            .tempdir()
            .map_err(|error| Trouble::error(format!("no temporary directory: {error}")))?;
        let dir = scratch.path().to_path_buf();
        let Run { delay, samples, clients, seed, .. } = self;
        let plan = Plan { program, dir, delay_ms: delay, samples, clients, seed };
        let mut cells = Vec::new();
        let as_json = shared.json();
        let mut progress = |cell: &Cell| {
            let told = if as_json { Ok(()) } else { emit(format!("{}\n", line(cell))) };
            told.map_err(|trouble| trouble.message)
        };
        let ended = block_on(async {
            tokio::select! {
                ended = failures::run(&plan, &mut cells, &mut progress) => Ok(ended),
                () = interrupt.wait() => Ok(Err("interrupted: the run is incomplete".to_owned())),
            }
        })?;
        if let Some(out) = &self.out {
            write(out, &cells, ended.is_ok()).map_err(Trouble::error)?;
        }
        let faults = faults(&cells);
        if as_json {
            let figures: Vec<_> = cells.iter().map(Cell::figures).collect();
            emit_json(&json!({
                "experiment": "failures", "delay_ms": delay, "seed": seed, "complete": ended.is_ok(), "cells": figures,
                "faults": faults,
            }))?;
        } else {
            emit(format!("\n{}", summary(&cells)))?;
        }
        ended.map_err(Trouble::error)?;
        faults.iter().for_each(|fault| complain(fault));
        Ok(if faults.is_empty() { Exit::Done } else { Exit::Error })
    }
}

fn line(cell: &Cell) -> String {
    let (Mean { count, mean, half }, ratio) = cell.ratio();
    format!(
        "{} failed, (R,W) = ({},{}): {count} reads, {mean:.1} ms +- {half:.1}, theory {:.1}, ratio {ratio:.2}",
        cell.failed, cell.r, cell.w, cell.theory
    )
}

fn faults(cells: &[Cell]) -> Vec<String> {
    let mut faults = Vec::new();
    for cell in cells {
        let place = format!("{} failed, (R,W) = ({},{})", cell.failed, cell.r, cell.w);
        let (_, ratio) = cell.ratio();
        if ratio > MOST {
            faults.push(format!(
                "{place}: {ratio:.2} times what theory gives, and {MOST} is the limit"
            ));
        }
        if let Some(first) = cell.faults.first() {
            faults.push(format!(
                "{place}: {} requests failed, the first: {first}",
                cell.faults.len()
            ));
        }
        if cell.refused < cell.weak {
            let answered = cell.weak - cell.refused;
            faults.push(format!(
                "{place}: {answered} reads were answered by fewer than R live homes"
            ));
        }
    }
    faults
}

/// A row for each (R, W), the failed side by side.
fn summary(cells: &[Cell]) -> String {
    let mut rows = vec![row([
        "(R,W)",
        "failed",
        "mean ms",
        "theory",
        "ratio",
        "study",
        "put ms",
        "refused of all",
        "by the ring",
    ])];
    let mut sorted: Vec<&Cell> = cells.iter().collect();
    sorted.sort_by_key(|cell| (cell.r, cell.w, cell.failed));
    for cell in sorted {
        let (mean, ratio) = cell.ratio();
        let all = (mean.count as u64 + cell.weak).max(1) as f64;
        rows.push(row([
            &format!("({},{})", cell.r, cell.w),
            &cell.failed.to_string(),
            &format!("{:.1} +- {:.1}", mean.mean, mean.half),
            &format!("{:.1}", cell.theory),
            &format!("{ratio:.2}"),
            &cell.study.map_or("-".into(), |study| format!("{study:.0}")),
            &format!("{:.1}", Mean::of(&cell.puts).mean),
            &format!("{:.1} %", 100.0 * cell.refused as f64 / all),
            &format!("{:.1} %", 100.0 * cell.weak_share),
        ]));
    }
    table(&rows)
}

/// Samples and table; a mark where the run is incomplete.
fn write(out: &Path, cells: &[Cell], complete: bool) -> Result<(), String> {
    let fault = |error: std::io::Error| format!("{}: {error}", out.display());
    fs::create_dir_all(out).map_err(fault)?;
    let mut samples = String::from("r,w,failed,kind,ms\n");
    let mut rows =
        String::from("r,w,failed,reads,mean_ms,confidence_ms,theory_ms,ratio,study_ms\n");
    for cell in cells {
        let Cell { r, w, failed, theory, .. } = cell;
        for (kind, times) in [("get", &cell.reads), ("put", &cell.puts)] {
            for ms in times {
                samples += &format!("{r},{w},{failed},{kind},{ms:.3}\n");
            }
        }
        let (mean, ratio) = cell.ratio();
        let study = cell.study.map_or(String::new(), |study| study.to_string());
        let Mean { count, mean, half } = mean;
        rows += &format!(
            "{r},{w},{failed},{count},{mean:.3},{half:.3},{theory:.3},{ratio:.3},{study}\n"
        );
    }
    fs::write(out.join("failures-samples.csv"), samples).map_err(fault)?;
    fs::write(out.join("failures.csv"), rows).map_err(fault)?;
    if !complete {
        fs::write(out.join("INCOMPLETE"), "the run ended early\n").map_err(fault)?;
    }
    Ok(())
}
