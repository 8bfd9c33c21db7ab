//! `pixii lab run`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use pixii::sim::cluster::Setup;
use serde_json::json;

use super::{check_out, failures};
use crate::cli::signals::Interrupt;
use crate::cli::{Exit, Outcome, Shared, Trouble, complain, emit, emit_json};
use crate::lab::experiment::driver::Simulated;
use crate::lab::experiment::failures::{POINTS, Plan};
use crate::lab::experiment::grid::{self, Which};
use crate::lab::experiment::real::Real;
use crate::lab::experiment::report::Report;
use crate::lab::experiment::{Step, recovery, scale, staleness, visibility};

/// An experiment, as it is listed and run.
pub(super) struct Experiment {
    /// Its name.
    pub(super) name: &'static str,
    /// What can carry it out; the first one does by default.
    pub(super) on: &'static str,
    /// What it shows.
    pub(super) what: &'static str,
    kind: Kind,
    /// Samples of each point, in full and quick.
    samples: (u64, u64),
}

/// What is run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Grid(Which),
    Failures,
    Staleness,
    Visibility,
    Scale,
    Recovery,
    Validate,
}

/// All of them.
pub(super) static EXPERIMENTS: [Experiment; 9] = [
    Experiment {
        name: "read-latency",
        on: "sim, real",
        what: "reads over R at 5 delays, N=5 on 10 nodes (the study's figure 1)",
        kind: Kind::Grid(Which::Read),
        samples: (2_000, 400),
    },
    Experiment {
        name: "write-latency",
        on: "sim, real",
        what: "puts over W at 5 delays (its figure 2)",
        kind: Kind::Grid(Which::Write),
        samples: (2_000, 400),
    },
    Experiment {
        name: "throughput",
        on: "sim, real",
        what: "requests per second over the delay (its figure 3)",
        kind: Kind::Grid(Which::Throughput),
        samples: (2_000, 400),
    },
    Experiment {
        name: "failures",
        on: "real",
        what: "reads with 0, 1 and 2 of 10 daemons dead (its figure 4)",
        kind: Kind::Failures,
        samples: (400, 200),
    },
    Experiment {
        name: "staleness",
        on: "sim",
        what: "reads that miss an acknowledged put, 0 to 10 % of messages lost (its figure 5), and what each \
               mechanism removes",
        kind: Kind::Staleness,
        samples: (2_000, 200),
    },
    Experiment {
        name: "visibility",
        on: "sim",
        what: "how probably a read sees a write t ms after its acknowledgement",
        kind: Kind::Visibility,
        samples: (20_000, 4_000),
    },
    Experiment {
        name: "scale",
        on: "sim",
        what: "3 to 1,000 nodes: latency, balance, and what each node sends while nothing happens",
        kind: Kind::Scale,
        samples: (2_000, 400),
    },
    Experiment {
        name: "recovery",
        on: "sim",
        what: "time to identical replicas after a death, a partition, a lost disk",
        kind: Kind::Recovery,
        samples: (1_000, 100),
    },
    Experiment {
        name: "validate",
        on: "sim",
        what: "the model's prediction beside measured staleness, over nine distributions",
        kind: Kind::Validate,
        samples: (10_000, 2_500),
    },
];

/// Everything, each on its first driver.
const ALL: &str = "all";

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
        let chosen = self.chosen()?;
        check_out(&Some(self.out.clone()), self.force)?;
        let interrupt = Interrupt::listen(false)?;
        let is_real = |experiment: &&Experiment| self.is_real(experiment);
        let on = match chosen.iter().copied().filter(is_real).count() {
            0 => "virtual time".to_owned(),
            real if real == chosen.len() => "real daemons".to_owned(),
            // The one that has no other driver.
            _ => "virtual time (failures: real daemons)".to_owned(),
        };
        let mut report =
            Report::begin(&self.out, &on, self.seed, self.clients).map_err(Trouble::error)?;
        let mut ended = Ok(());
        for experiment in &chosen {
            let (full, quick) = experiment.samples;
            // In real time every point takes its time.
            let quick = if self.on == Some(On::Real) { quick.min(QUICK_REAL) } else { quick };
            report.samples = self.samples.unwrap_or(if self.quick { quick } else { full });
            let bar = ProgressBar::new(experiment.points(report.samples) as u64);
            let style = ProgressStyle::with_template("{prefix} [{bar:30}] {pos}/{len} {eta} left");
            bar.set_style(style.map_err(|error| Trouble::error(error.to_string()))?);
            bar.set_prefix(experiment.name);
            ended = self.one(experiment, &mut report, &interrupt, &bar, shared);
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
            let names: Vec<&str> = chosen.iter().map(|experiment| experiment.name).collect();
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
    fn chosen(&self) -> Result<Vec<&'static Experiment>, Trouble> {
        let wanted = match self.on {
            Some(On::Real) => "real",
            Some(On::Sim) => "sim",
            None => "",
        };
        let can = |experiment: &&Experiment| experiment.on.contains(wanted);
        if self.name == ALL {
            return Ok(EXPERIMENTS.iter().filter(can).collect());
        }
        match EXPERIMENTS.iter().find(|experiment| experiment.name == self.name) {
            Some(experiment) if can(&experiment) => Ok(vec![experiment]),
            Some(Experiment { name, .. }) => {
                Err(Trouble::usage(format!("{name} does not run on {wanted}")))
            }
            None => {
                let known: Vec<&str> = EXPERIMENTS.iter().map(|known| known.name).collect();
                let (name, known) = (self.name.escape_debug(), known.join(", "));
                Err(Trouble::usage(format!(
                    "no experiment is called \"{name}\"; there are {known}, and all"
                )))
            }
        }
    }

    fn is_real(&self, experiment: &Experiment) -> bool {
        self.on == Some(On::Real) || experiment.on == "real"
    }

    fn one(
        &self,
        experiment: &Experiment,
        report: &mut Report,
        interrupt: &Interrupt,
        bar: &ProgressBar,
        shared: &Shared,
    ) -> Result<(), String> {
        let step: Step<'_> = &mut || {
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
        match experiment.kind {
            Kind::Staleness => staleness::run(report, step),
            Kind::Recovery => recovery::run(report, step),
            Kind::Scale => scale::run(report, step),
            Kind::Visibility => visibility::visibility(report, step),
            Kind::Validate => visibility::validate(report, step),
            Kind::Failures => {
                let (delay_ms, seed) = (self.delay, self.seed);
                let (samples, clients) = (report.samples, self.clients);
                let plan = Plan { program, dir, delay_ms, samples, clients, seed };
                failures::run(&plan, report, interrupt, step, shared)
            }
            Kind::Grid(which) if self.is_real(experiment) => {
                let mut driver = Real::start(program, dir, (grid::NODES, grid::N), interrupt)?;
                grid::run(which, &mut driver, report, step)?;
                driver.stop()
            }
            Kind::Grid(which) => {
                let setup = Setup::new(grid::NODES, grid::N, self.seed);
                grid::run(which, &mut Simulated::found(&setup)?, report, step)
            }
        }
    }
}

impl Experiment {
    /// Points, with so many samples of each.
    fn points(&self, samples: u64) -> usize {
        match self.kind {
            Kind::Grid(which) => grid::points(which),
            Kind::Failures => POINTS,
            Kind::Staleness => staleness::POINTS,
            Kind::Visibility => visibility::PAIRS.len(),
            Kind::Scale => scale::points(samples),
            Kind::Recovery => recovery::points(samples),
            Kind::Validate => visibility::MEANS.len(),
        }
    }
}
