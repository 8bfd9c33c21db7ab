//! `pixii lab run`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use pixii::sim::cluster::Setup;
use pixii::types::{MILLI, Micros};
use serde_json::json;

use super::{check_out, failures};
use crate::cli::signals::Interrupt;
use crate::cli::{Exit, Outcome, Shared, Trouble, complain, emit, emit_json};
use crate::lab::experiment::driver::{Driver, Simulated};
use crate::lab::experiment::grid::{self, Which};
use crate::lab::experiment::real::Real;
use crate::lab::experiment::report::Report;
use crate::lab::experiment::{Plan, recovery, scale, staleness, visibility};

/// Name, what can carry it out (the first one does by default), and what it shows.
pub(super) const EXPERIMENTS: [(&str, &str, &str); 9] = [
    (
        "read-latency",
        "sim, real",
        "reads over R at 5 delays, N=5 on 10 nodes (the study's figure 1)",
    ),
    ("write-latency", "sim, real", "puts over W at 5 delays (its figure 2)"),
    ("throughput", "sim, real", "requests per second over the delay (its figure 3)"),
    ("failures", "real", "reads with 0, 1 and 2 of 10 daemons dead (its figure 4)"),
    (
        "staleness",
        "sim",
        "reads that miss an acknowledged put, 0 to 10 % of messages lost (its figure 5), and what each \
         mechanism removes",
    ),
    ("visibility", "sim", "how probably a read sees a write t ms after its acknowledgement"),
    (
        "scale",
        "sim",
        "3 to 1,000 nodes: latency, balance, and what each node sends while nothing happens",
    ),
    ("recovery", "sim", "time to identical replicas after a death, a partition, a lost disk"),
    (
        "validate",
        "sim",
        "the model's prediction beside measured staleness, over nine distributions",
    ),
];

/// Everything, each on its first driver.
const ALL: &str = "all";

/// What a run costs, for the samples of each point: full, quick.
const SAMPLES: [(&str, u64, u64); 9] = [
    ("read-latency", 2_000, 400),
    ("write-latency", 2_000, 400),
    ("throughput", 2_000, 400),
    ("failures", 400, 200),
    ("staleness", 2_000, 200),
    ("visibility", 20_000, 4_000),
    ("scale", 2_000, 400),
    ("recovery", 1_000, 100),
    ("validate", 10_000, 2_500),
];

/// Quick is at most so many samples of a point where time is real.
const QUICK_REAL: u64 = 104;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum On {
    /// Virtual time: exact, and the same again by its seed
    Sim,
    /// Processes on loopback, on an emulated network
    Real,
}

/// Run one experiment, or all
#[derive(Args)]
#[command(after_help = "\
The folder gets, for each experiment, its samples and its table as CSV, its figure as SVG and PNG, and index.html shows all of \
them beside the study's numbers. A file INCOMPLETE is there until the run has come to its end.

Exit code 1: something was not as it should be (it is told), or the run did not come to its end.

Examples:
  pixii lab run all --quick
  pixii lab run read-latency --on real --out figure-1
  pixii lab run failures --delay 20 --samples 2000 --out figure-4
  pixii lab run validate --seed 7 --out wars")]
pub(super) struct Run {
    /// Its name, as `pixii lab list` gives it, or all
    name: String,
    /// What carries it out [default: the first that can]
    #[arg(long, value_enum)]
    on: Option<On>,
    /// Fewer samples: minutes
    #[arg(long)]
    quick: bool,
    /// Samples of each point [default: by experiment]
    #[arg(long, value_parser = clap::value_parser!(u64).range(10..=1_000_000))]
    samples: Option<u64>,
    /// Clients at a time, each in a closed loop
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=64))]
    clients: u64,
    /// Mean delay of a message where the experiment has only one, in milliseconds
    #[arg(long, default_value_t = 5.0, value_parser = delay)]
    delay: f64,
    /// Everything random follows from it
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The folder
    #[arg(long, value_name = "DIR", default_value = "pixii-lab")]
    out: PathBuf,
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

impl Run {
    /// Runs what is asked for, and tells where it is.
    pub(super) fn run(self, shared: &Shared) -> Outcome {
        let names = self.names()?;
        check_out(&Some(self.out.clone()), self.force)?;
        let interrupt = Interrupt::listen(false)?;
        let on = match self.on {
            Some(On::Real) => "real daemons",
            Some(On::Sim) => "virtual time",
            None if names == ["failures"] => "real daemons",
            None if names.contains(&"failures") => "virtual time (failures: real daemons)",
            None => "virtual time",
        };
        let mut report =
            Report::begin(&self.out, on, self.seed, self.clients).map_err(Trouble::error)?;
        let mut ended = Ok(());
        for name in &names {
            let samples = SAMPLES.iter().find(|(of, _, _)| of == name);
            let (full, quick) = samples.map_or((400, 100), |(_, full, quick)| (*full, *quick));
            // In real time every point takes its time.
            let quick = if self.on == Some(On::Real) { quick.min(QUICK_REAL) } else { quick };
            report.samples = self.samples.unwrap_or(if self.quick { quick } else { full });
            let bar = ProgressBar::new(steps(name, report.samples));
            let style = ProgressStyle::with_template("{prefix} [{bar:30}] {pos}/{len} {eta} left");
            bar.set_style(style.map_err(|error| Trouble::error(error.to_string()))?);
            bar.set_prefix((*name).to_owned());
            ended = self.one(name, &mut report, &interrupt, &bar, shared);
            bar.finish_and_clear();
            if ended.is_err() {
                break;
            }
        }
        let complete = ended.is_ok();
        if complete {
            report.finish().map_err(Trouble::error)?;
        }
        let out = self.out.display();
        if shared.json() {
            emit_json(&json!({
                "experiments": names, "seed": self.seed, "complete": complete, "faults": report.faults,
                "out": self.out.to_string_lossy(),
            }))?;
        } else {
            emit(match complete {
                true => format!("all of it is in {out}; {out}/index.html shows it\n"),
                false => format!("INCOMPLETE: what was measured so far is in {out}\n"),
            })?;
        }
        ended.map_err(Trouble::error)?;
        report.faults.iter().for_each(|fault| complain(fault));
        Ok(if report.faults.is_empty() { Exit::Done } else { Exit::Error })
    }

    /// What is to be run.
    fn names(&self) -> Result<Vec<&'static str>, Trouble> {
        let known = || EXPERIMENTS.iter().map(|(name, _, _)| *name);
        let wanted = match self.on {
            Some(On::Real) => "real",
            Some(On::Sim) => "sim",
            None => "",
        };
        let can =
            |name: &&str| EXPERIMENTS.iter().any(|(of, on, _)| of == name && on.contains(wanted));
        if self.name == ALL {
            return Ok(known().filter(can).collect());
        }
        let Some(name) = known().find(|name| *name == self.name) else {
            let (name, known) = (self.name.escape_debug(), known().collect::<Vec<_>>().join(", "));
            return Err(Trouble::usage(format!(
                "no experiment is called \"{name}\"; there are {known}, and all"
            )));
        };
        if !can(&name) {
            return Err(Trouble::usage(format!("{name} does not run on {wanted}")));
        }
        Ok(vec![name])
    }

    fn one(
        &self,
        name: &str,
        report: &mut Report,
        interrupt: &Interrupt,
        bar: &ProgressBar,
        shared: &Shared,
    ) -> Result<(), String> {
        let mut step = || {
            bar.inc(1);
            match interrupt.asked() {
                true => Err("interrupted: the run is incomplete".to_owned()),
                false => Ok(()),
            }
        };
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let scratch = tempfile::Builder::new().prefix("pixii-lab-").tempdir();
        let scratch = scratch.map_err(|error| format!("no temporary directory: {error}"))?;
        let dir = scratch.path().to_path_buf();
        match name {
            "staleness" => return staleness::run(report, &mut step),
            "recovery" => return recovery::run(report, &mut step),
            "scale" => return scale::run(report, &mut step),
            "visibility" => return visibility::visibility(report, &mut step),
            "validate" => return visibility::validate(report, &mut step),
            "failures" => {
                let (delay_ms, seed) = (self.delay, self.seed);
                let (samples, clients) = (report.samples, self.clients);
                let plan = Plan { program, dir, delay_ms, samples, clients, seed };
                return failures::run(&plan, report, interrupt, &mut step, shared);
            }
            _ => {}
        }
        if self.on != Some(On::Real) {
            let mut driver = Simulated::found(&Setup {
                nodes: grid::NODES,
                n: grid::N,
                partitions: 64,
                hint_limit_bytes: 1 << 30,
                repair_interval: Micros::from(60_000_u64) * MILLI,
                read_repair: true,
                seed: self.seed,
            })?;
            return figure(name, &mut driver, report, &mut step);
        }
        let mut driver = Real::start(program, dir, (grid::NODES, grid::N), interrupt)?;
        figure(name, &mut driver, report, &mut step)?;
        driver.stop()
    }
}

fn figure(
    name: &str,
    driver: &mut dyn Driver,
    report: &mut Report,
    step: &mut dyn FnMut() -> Result<(), String>,
) -> Result<(), String> {
    match name {
        "read-latency" => grid::latency(Which::Read, driver, report, step),
        "write-latency" => grid::latency(Which::Write, driver, report, step),
        _ => grid::throughput(driver, report, step),
    }
}

/// Points of an experiment.
fn steps(name: &str, samples: u64) -> u64 {
    match name {
        "read-latency" | "write-latency" => 25,
        "throughput" => 15,
        "failures" => 21,
        "staleness" => 63,
        "visibility" => 3,
        "recovery" => recovery::points(samples) as u64,
        "scale" => scale::points(samples) as u64,
        _ => 9,
    }
}
