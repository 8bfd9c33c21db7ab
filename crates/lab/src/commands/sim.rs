//! `pixii sim`: many runs of the simulator, or one again.

use std::fmt::Display;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;
use std::time::Instant;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use pixii_kit::arguments::{Shared, drawn_seed};
use pixii_kit::outcome::{CommandError, CommandResult, Exit, complain};
use pixii_kit::text;
use pixii_sim::detection::{End, Noticed, Trial, detect};
use pixii_sim::{Batch, Failure, replay, run_batch};
use serde_json::json;

const MAX_RUNS: u64 = 100_000_000;
const MAX_OPERATIONS: u32 = 1_000_000;

const EXAMPLES: &str = "\
Examples:
  pixii sim                           1,000 clusters, each through its own faults, on fresh seeds
  pixii sim --seed 4711 --runs 1      the run with this seed again, byte for byte
  pixii sim --runs 10000 --json       a long batch, its counts as JSON
  pixii sim --detection 100           how soon 100 nodes notice that one died
  pixii sim --save failures           keep the schedule of a failure
  pixii sim --replay failures/*.json  run such schedules again

Exit code 0: every promise held (and, from 500 runs on, every kind of fault and rejection \
    occurred). \
A run that breaks a promise ends the batch: its seed, its faults and the history of the key are \
    printed.";

/// A share between 0 and 1.
fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("a share is a number from 0 to 1".to_owned()),
    }
}

/// Try Pixii's promises in simulated clusters, under faults drawn from a seed
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Sim {
    /// The first seed; the runs take this one and those that follow [default: drawn from the clock]
    #[arg(long)]
    seed: Option<u64>,
    /// How many runs
    #[arg(long, default_value_t = 1_000,
        value_parser = clap::value_parser!(u64).range(1..=MAX_RUNS))]
    runs: u64,
    /// Run these saved schedules instead of seeds
    #[arg(long, value_name = "FILE", num_args = 1..)]
    replay: Vec<PathBuf>,
    /// Instead: measure failure detection among so many nodes that only gossip
    #[arg(long, value_name = "NODES", value_parser = clap::value_parser!(u64).range(2..=1_000))]
    detection: Option<u64>,
    /// With --detection: the quiet time in which false suspicions are counted, in virtual seconds
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    quiet: u64,
    /// With --detection: the share of messages that is lost
    #[arg(long, default_value_t = 0.01, value_parser = share)]
    loss: f64,
    /// Save the schedule of a run that breaks a promise in this folder
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
    /// Client requests in each run
    #[arg(long, default_value_t = 300,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_OPERATIONS)))]
    operations: u32,
}

impl Sim {
    pub(crate) fn run(&self, shared: &Shared) -> CommandResult {
        if let Some(nodes) = self.detection {
            return self.detect(nodes as usize, shared);
        }
        if !self.replay.is_empty() {
            return self.replay_all();
        }
        // What holds on seeds that have been run before says little.
        let first = self.seed.unwrap_or_else(drawn_seed);
        if first.checked_add(self.runs).is_none() {
            let (seed, runs) = (first, self.runs);
            let most = u64::MAX;
            return Err(CommandError::usage(format!("seed {seed} + {runs} runs is over {most}")));
        }
        let bar = bar(self.runs);
        let threads = available_parallelism().map_or(1, usize::from);
        let start = Instant::now();
        let progress = |done| bar.set_position(done);
        let batch = run_batch(first, self.runs, self.operations, threads, &progress);
        bar.finish_and_clear();
        let seconds = start.elapsed().as_secs_f64();
        let out = &mut io::stdout().lock();
        if shared.json() {
            print_json(out, &batch, first, seconds)?;
        } else {
            self.print(out, &batch, first, seconds)?;
        }
        if let (Some(dir), Some(failure)) = (&self.save, &batch.failure) {
            save(dir, failure)?;
        }
        let held = batch.failure.is_none() && batch.missing.is_empty();
        Ok(if held { Exit::Done } else { Exit::Error })
    }

    /// Measures how long an end of a node goes unnoticed, and what gossip costs.
    fn detect(&self, nodes: usize, shared: &Shared) -> CommandResult {
        let (quiet_ms, loss, seed) = (self.quiet * 1_000, self.loss, self.seed.unwrap_or(1));
        let (interval_ms, timeout_ms) = (500, 5_000);
        let out = &mut io::stdout().lock();
        let trial = Trial { nodes, quiet_ms, loss, interval_ms, timeout_ms, seed };
        let seen = detect(&trial);
        if !shared.json() {
            writeln!(
                out,
                "{nodes} nodes, {} s of virtual time, {} % of messages lost: {} false suspicions, \
                 {} \
                 false deaths, {:.0} bytes of gossip per node and second",
                self.quiet,
                loss * 100.0,
                seen.suspected,
                seen.marked_down,
                seen.bytes_per_second
            )?;
        }
        for (end, Noticed { first_ms, last_ms }) in seen.ends {
            let name = match end {
                End::Killed => "killed",
                End::Frozen => "frozen",
                End::CutOff => "cut off",
            };
            if shared.json() {
                let value = json!({
                    "nodes": nodes, "end": name, "seed": seed, "loss": loss, "quiet_ms": quiet_ms,
                    "suspected": seen.suspected, "marked_down": seen.marked_down,
                    "bytes_per_second": seen.bytes_per_second,
                    "first_ms": first_ms, "last_ms": last_ms,
                });
                writeln!(out, "{value}")?;
                continue;
            }
            let reported = |time: Option<u64>| time.map_or("never".into(), |ms| format!("{ms} ms"));
            let (first, last) = (reported(first_ms), reported(last_ms));
            writeln!(
                out,
                "{name}: down in the first view after {first}, in the last after {last}"
            )?;
        }
        Ok(Exit::Done)
    }

    /// Runs saved schedules; says of each whether every promise holds now.
    fn replay_all(&self) -> CommandResult {
        let out = &mut io::stdout().lock();
        let mut exit = Exit::Done;
        for file in &self.replay {
            let named =
                |error: &dyn Display| CommandError::error(format!("{}: {error}", file.display()));
            let text = fs::read_to_string(file).map_err(|error| named(&error))?;
            match replay(&text).map_err(|error| named(&error))?.failure {
                None => writeln!(out, "{}: every promise held", file.display())?,
                Some(failure) => {
                    exit = Exit::Error;
                    for line in &failure.trace {
                        writeln!(out, "{line}")?;
                    }
                    writeln!(out, "\n{}: a promise is broken: {}", file.display(), failure.what)?;
                }
            }
        }
        Ok(exit)
    }

    fn print(
        &self,
        out: &mut impl Write,
        batch: &Batch,
        first: u64,
        seconds: f64,
    ) -> io::Result<()> {
        if let Some(failure) = &batch.failure {
            for line in &failure.trace {
                writeln!(out, "{line}")?;
            }
            writeln!(out, "\nA promise is broken: {}", failure.what)?;
            let (seed, operations) = (failure.seed, self.operations);
            let again = format!("pixii sim --seed {seed} --runs 1 --operations {operations}");
            return writeln!(out, "To see it again: {again}");
        }
        for (name, count) in &batch.counts {
            writeln!(out, "{count:>12}  {name}")?;
        }
        for name in &batch.missing {
            writeln!(out, "{:>12}  {name}: never happened, so these runs prove too little", 0)?;
        }
        let runs = batch.runs;
        let last = first + runs.saturating_sub(1);
        writeln!(out, "digest {:016x}: the same seeds give it again", batch.digest)?;
        writeln!(
            out,
            "{} (seeds {first} to {last}) in {seconds:.1} s: every promise held",
            text::count(runs, "run")
        )
    }
}

/// Keeps the schedule of a failure.
fn save(dir: &Path, failure: &Failure) -> Result<(), CommandError> {
    let file = dir.join(format!("seed-{}.json", failure.seed));
    let written = fs::create_dir_all(dir).and_then(|()| fs::write(&file, &failure.schedule));
    written.map_err(|error| CommandError::error(format!("{}: {error}", file.display())))?;
    complain(&format!("the schedule is in {}", file.display()));
    Ok(())
}

fn print_json(out: &mut impl Write, batch: &Batch, first: u64, seconds: f64) -> io::Result<()> {
    let failure = batch.failure.as_ref().map(
        |failure| json!({ "seed": failure.seed, "what": failure.what, "trace": failure.trace }),
    );
    let report = json!({
        "first_seed": first,
        "runs": batch.runs,
        "seconds": seconds,
        "digest": format!("{:016x}", batch.digest),
        "counts": batch.counts,
        "missing": batch.missing,
        "failure": failure,
    });
    writeln!(out, "{report}")
}

/// A progress bar on a terminal, nothing elsewhere.
fn bar(runs: u64) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = "{bar:30} {pos}/{len} runs, {eta} left";
    let style = ProgressStyle::with_template(template);
    ProgressBar::new(runs).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
