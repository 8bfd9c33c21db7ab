//! `pixii lab run`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use pixii_kit::arguments::Shared;
use pixii_kit::outcome::{CommandError, CommandResult, Exit, complain, emit, emit_json};
use pixii_kit::signals::Interrupt;
use serde_json::json;

use super::check_out;
use crate::experiment::grid::{self, Which};
use crate::experiment::report::Report;
use crate::experiment::site::Site;
use crate::experiment::{Step, failures, recovery, scale, staleness, visibility};

/// An experiment, as it is listed and run.
pub(super) struct Experiment {
    /// Its name.
    pub(super) name: &'static str,
    /// What it shows.
    pub(super) what: &'static str,
    kind: Kind,
    /// Samples of each point in virtual time, in full and quick.
    sim: (u64, u64),
    /// And on real daemons.
    real: (u64, u64),
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
        what: "reads over R at 5 delays, N=5 on 10 nodes (the study's figure 1)",
        kind: Kind::Grid(Which::Read),
        sim: (2_000, 400),
        real: (400, 56),
    },
    Experiment {
        name: "write-latency",
        what: "puts over W at 5 delays (its figure 2)",
        kind: Kind::Grid(Which::Write),
        sim: (2_000, 400),
        real: (400, 56),
    },
    Experiment {
        name: "throughput",
        what: "requests per second over the delay (its figure 3)",
        kind: Kind::Grid(Which::Throughput),
        sim: (2_000, 400),
        real: (400, 56),
    },
    Experiment {
        name: "failures",
        what: "reads with 0, 1 and 2 of 10 nodes dead (its figure 4)",
        kind: Kind::Failures,
        sim: (2_000, 400),
        real: (800, 104),
    },
    Experiment {
        name: "staleness",
        what: "reads that miss an acknowledged put, 0 to 10 % of messages lost (its figure 5), \
            and what each \
               mechanism removes",
        kind: Kind::Staleness,
        sim: (2_000, 200),
        real: (500, 50),
    },
    Experiment {
        name: "visibility",
        what: "how probably a read sees a write t ms after its acknowledgement",
        kind: Kind::Visibility,
        sim: (20_000, 4_000),
        real: (2_000, 500),
    },
    Experiment {
        name: "scale",
        what: "3 to 1,000 nodes, 3 to 10 daemons: latency, balance, and what each sends while \
            nothing happens",
        kind: Kind::Scale,
        sim: (2_000, 400),
        real: (2_000, 400),
    },
    Experiment {
        name: "recovery",
        what: "time to identical replicas after a death, a partition, a lost disk",
        kind: Kind::Recovery,
        sim: (1_000, 100),
        real: (1_000, 100),
    },
    Experiment {
        name: "validate",
        what: "the model's prediction beside measured staleness, over nine distributions",
        kind: Kind::Validate,
        sim: (10_000, 2_500),
        real: (1_500, 372),
    },
];

/// Everything.
const ALL: &str = "all";

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
The folder gets, for each experiment, its samples and its table as CSV, its figure as SVG and \
    PNG, and index.html shows all of \
them beside the study's numbers; what real daemons did ends in -real. A file INCOMPLETE is there \
    until the run has come to its end.

Exit code 1: something was not as it should be (it is reported), or the run did not come to its end.

Examples:
  pixii lab run all --quick
  pixii lab run read-latency --on real --out figure-1
  pixii lab run failures --delay 20 --samples 2000 --out figure-4
  pixii lab run validate --seed 7 --out wars")]
pub(super) struct Run {
    /// Its name, as `pixii lab list` gives it, or all
    name: String,
    /// What carries it out [default: sim; both one after the other for all]
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
    /// Runs what is asked for, and reports where it is.
    pub(super) fn run(self, shared: &Shared) -> CommandResult {
        let chosen = self.chosen()?;
        check_out(&Some(self.out.clone()), self.force)?;
        let interrupt = Interrupt::listen(false)?;
        let mut report =
            Report::begin(&self.out, self.seed, self.clients).map_err(CommandError::error)?;
        let mut ended = Ok(());
        for (experiment, on) in &chosen {
            let site = if *on == On::Real { Site::Real(&interrupt) } else { Site::Virtual };
            let (full, quick) = if site.is_real() { experiment.real } else { experiment.sim };
            let samples = self.samples.unwrap_or(if self.quick { quick } else { full });
            report.turn(samples, site.is_real());
            let bar = ProgressBar::new(experiment.points(site.is_real(), samples) as u64);
            let style = ProgressStyle::with_template("{prefix} [{bar:30}] {pos}/{len} {eta} left");
            bar.set_style(style.map_err(|error| CommandError::error(error.to_string()))?);
            bar.set_prefix(format!("{} {}", experiment.name, report.on()));
            ended = self.one(experiment, site, &mut report, &interrupt, &bar);
            bar.finish_and_clear();
            if ended.is_err() {
                break;
            }
        }
        let complete = ended.is_ok();
        if complete {
            report.finish().map_err(CommandError::error)?;
        }
        let out = self.out.display();
        if shared.json() {
            let mut names: Vec<&str> =
                chosen.iter().map(|(experiment, _)| experiment.name).collect();
            names.dedup();
            emit_json(&json!({
                "experiments": names, "seed": self.seed, "complete": complete,
                "faults": report.faults,
                "out": self.out.to_string_lossy(),
            }))?;
        } else {
            emit(match complete {
                true => format!("all of it is in {out}; {out}/index.html shows it\n"),
                false => format!("INCOMPLETE: what was measured so far is in {out}\n"),
            })?;
        }
        ended.map_err(CommandError::error)?;
        report.faults.iter().for_each(|fault| complain(fault));
        Ok(if report.faults.is_empty() { Exit::Done } else { Exit::Error })
    }

    /// What is to be run, and on what.
    fn chosen(&self) -> Result<Vec<(&'static Experiment, On)>, CommandError> {
        let on: &[On] = match self.on {
            Some(On::Sim) => &[On::Sim],
            Some(On::Real) => &[On::Real],
            None if self.name == ALL => &[On::Sim, On::Real],
            None => &[On::Sim],
        };
        let wanted = |known: &&Experiment| self.name == ALL || known.name == self.name;
        let each = |known: &'static Experiment| on.iter().map(move |on| (known, *on));
        let chosen: Vec<_> = EXPERIMENTS.iter().filter(wanted).flat_map(each).collect();
        if chosen.is_empty() {
            let known: Vec<&str> = EXPERIMENTS.iter().map(|known| known.name).collect();
            let (name, known) = (self.name.escape_debug(), known.join(", "));
            return Err(CommandError::usage(format!(
                "no experiment is called \"{name}\"; there are {known}, and all"
            )));
        }
        Ok(chosen)
    }

    fn one(
        &self,
        experiment: &Experiment,
        site: Site<'_>,
        report: &mut Report,
        interrupt: &Interrupt,
        bar: &ProgressBar,
    ) -> Result<(), String> {
        let step: Step<'_> = &mut || {
            bar.inc(1);
            match interrupt.queried() {
                true => Err("interrupted: the run is incomplete".to_owned()),
                false => Ok(()),
            }
        };
        match experiment.kind {
            Kind::Grid(which) => grid::run(which, site, report, step),
            Kind::Failures => failures::run(site, self.delay, report, step),
            Kind::Staleness => staleness::run(site, report, step),
            Kind::Visibility => visibility::visibility(site, report, step),
            Kind::Scale => scale::run(site, report, step),
            Kind::Recovery => recovery::run(site, report, step),
            Kind::Validate => visibility::validate(site, report, step),
        }
    }
}

impl Experiment {
    /// Points, with so many samples of each.
    fn points(&self, is_real: bool, samples: u64) -> usize {
        match self.kind {
            Kind::Grid(which) => grid::points(which),
            Kind::Failures => failures::POINTS,
            Kind::Staleness => staleness::POINTS,
            Kind::Visibility => visibility::PAIRS.len(),
            Kind::Scale => scale::points(is_real, samples),
            Kind::Recovery => recovery::points(is_real, samples),
            Kind::Validate => visibility::MEANS.len(),
        }
    }
}
