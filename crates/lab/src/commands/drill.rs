//! `pixii drill`: real faults, and a ledger that says what was lost.

mod options;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Args;
use pixii_kit::arguments::{Shared, drawn_seed};
use pixii_kit::outcome::{CommandError, CommandResult, Exit, block_on, complain, emit, emit_json};
use pixii_kit::signals::Interrupt;
use pixii_kit::text::{row, table};
use serde_json::json;

use self::options::{DiskLoss, Name, Place};
use crate::daemon;
use crate::drill::catalog::{DRILLS, Drill as Listed, drill};
use crate::drill::page::page;
use crate::drill::report::Report;
use crate::drill::timeline::Timeline;
use crate::drill::{
    Ending, Plan, Print, clock_skew, deletes, detection, disk_full, disk_loss, dropped_messages,
    failed_nodes, failover, freeze, handoff, join, join_under_kill, kill, leave, partition,
    power_cut, restart, scale, slow_disk, units,
};

/// Try real daemons under real faults, and see whether anything acknowledged is lost
#[derive(Args)]
#[command(after_help = "\
Daemons (N = 3, R = W = 2) run in a temporary directory that is removed at the end, unless --dir \
    names one. Where writes \
may be lost, every one is noted in a ledger before it is sent and after it is answered, and all \
    keys are read from all \
replicas and judged.

The report says what happened and when, what clients saw, their p50 and p99 before, \
    during and after, how soon all \
was well again, and what was lost; --json has all of it, and --out DIR draws it. The last line \
    says how it went. Exit \
code 0: nothing acknowledged was lost, nothing was shown that should not be, and what the drill \
    is about held.

restart, rolling-restart and kill can also be done to units of systemd on this machine \
    (--systemd), if nobody uses their \
cluster: it holds no key with a value but a drill's, and nobody asks it for anything within a \
    second.

Examples:
  pixii drill list
  pixii drill kill --rounds 20
  pixii drill freeze --seconds 30 --out report
  pixii drill power-cut --rounds 3 --seed 7      as root")]
pub(crate) struct Drill {
    #[command(subcommand)]
    name: Name,
}

impl Drill {
    /// Runs the drill.
    pub(crate) fn run(self, shared: &Shared) -> CommandResult {
        let Some((name, effort, place)) = self.name.plan() else {
            return match &self.name {
                Name::Unknown(words) => Err(unknown(words)),
                _ => list(shared),
            };
        };
        let listed = drill(name).ok_or_else(|| {
            CommandError::error(format!(
                "{name} is not \
            listed"
            ))
        })?;
        listed.check().map_err(CommandError::error)?;
        let program = daemon::program()?;
        let interrupt = Interrupt::listen(false)?;
        // Declared first, so that it outlives what runs in it on every way out.
        let scratch = tempfile::Builder::new()
            .prefix("pixii-drill-")
            .tempdir()
            .map_err(|error| CommandError::error(format!("no temporary directory: {error}")))?;
        let dir = match &place.dir {
            Some(dir) => empty(dir)?,
            None => scratch.path().to_path_buf(),
        };
        let seed = place.seed.unwrap_or_else(drawn_seed);
        let options::Effort { rounds, keys, length } = effort;
        let timeline = Timeline::begin();
        let plan = Plan { program, dir, rounds, keys, seed, length, timeline };
        let as_json = shared.json();
        let mut print = |line: &str| {
            let reported = if as_json { Ok(()) } else { emit(format!("{line}\n")) };
            reported.map_err(|error| error.message)
        };
        let on_units = match self.name.on_units() {
            Some((act, allow_in_use)) => {
                Some((act, shared.addresses()?, shared.options()?, allow_in_use))
            }
            None => None,
        };
        let ending = block_on(async {
            let drill = async {
                match &on_units {
                    Some((act, addresses, options, allow_in_use)) => {
                        let cluster = (&addresses[..], options);
                        units::run(&plan, *act, cluster, *allow_in_use, &mut print).await
                    }
                    None => carry_out(&self.name, &plan, &mut print).await,
                }
            };
            tokio::select! {
                ending = drill => ending.map_err(CommandError::error),
                () = interrupt.wait() => {
                    Err(CommandError::error(format!("interrupted; the seed was {seed}")))
                }
            }
        })?;
        report(&Report::new(listed, seed, &ending, &plan.timeline), place, as_json)
    }
}

async fn carry_out(name: &Name, plan: &Plan, print: Print<'_>) -> Result<Ending, String> {
    match name {
        Name::List | Name::Unknown(_) => Err("this is no drill".into()),
        Name::Kill(_) => kill::run(plan, print).await.map(Ending::from),
        Name::PowerCut(of) => {
            let value_bytes = of.value_bytes.map(|bytes| bytes as usize);
            power_cut::run(plan, value_bytes, print).await.map(Ending::from)
        }
        Name::Restart(_) => restart::one(plan, print).await,
        Name::RollingRestart(_) => restart::rolling(plan, print).await,
        Name::Upgrade(of) => restart::upgrade(plan, &of.old, print).await,
        Name::Freeze(_) => freeze::run(plan, print).await,
        Name::SlowDisk(_) => slow_disk::run(plan, print).await,
        Name::DiskFull(_) => disk_full::run(plan, print).await,
        Name::Partition(_) => partition::run(plan, print).await,
        Name::ClockSkew(_) => clock_skew::run(plan, print).await,
        Name::Join(of) => join::run(plan, of.value_bytes as usize, of.old.as_deref(), print).await,
        Name::Leave(_) => leave::run(plan, print).await,
        Name::JoinUnderKill(_) => join_under_kill::run(plan, print).await,
        Name::Scale(of) => scale::run(plan, of.strict, print).await,
        Name::FailedNodes(_) => failed_nodes::run(plan, print).await,
        Name::Failover(of) => failover::run(plan, of.how, print).await,
        Name::Handoff(_) => handoff::run(plan, print).await,
        Name::DiskLoss(DiskLoss { value_bytes, clients, .. }) => {
            disk_loss::run(plan, *value_bytes as usize, *clients as usize, print).await
        }
        Name::DroppedMessages(_) => dropped_messages::run(plan, print).await,
        Name::Deletes(of) => deletes::run(plan, of.value_bytes as usize, of.fate, print).await,
        Name::Detection(of) => detection::run(plan, of.nodes as usize, print).await,
    }
}

fn empty(dir: &PathBuf) -> Result<PathBuf, CommandError> {
    let fault = |error: std::io::Error| CommandError::error(format!("{}: {error}", dir.display()));
    std::fs::create_dir_all(dir).map_err(fault)?;
    if std::fs::read_dir(dir).map_err(fault)?.next().is_some() {
        return Err(CommandError::error(format!("{} is not empty", dir.display())));
    }
    std::fs::canonicalize(dir).map_err(fault)
}

fn unknown(words: &[OsString]) -> CommandError {
    let word = words.first().map(|word| word.to_string_lossy()).unwrap_or_default();
    let names: Vec<&str> = DRILLS.iter().map(|drill| drill.name).collect();
    let all = names.join(", ");
    CommandError::usage(format!("there is no drill \"{}\"; there are {all}", word.escape_debug()))
}

fn list(shared: &Shared) -> CommandResult {
    if shared.json() {
        let one = |drill: &Listed| {
            let Listed { name, proves, recovery, .. } = drill;
            json!({ "name": name, "proves": proves, "recovery": recovery, "needs": drill.needed() })
        };
        emit_json(&DRILLS.iter().map(one).collect())?;
    } else {
        let head = row(["drill", "needs", "proves that"]);
        let rows = DRILLS.iter().map(|drill| row([drill.name, &drill.needed(), drill.proves]));
        emit(table(&[head].into_iter().chain(rows).collect::<Vec<_>>()))?;
    }
    Ok(Exit::Done)
}

fn report(report: &Report, place: &Place, as_json: bool) -> CommandResult {
    if let Some(out) = &place.out {
        write(report, out)?;
    }
    if as_json {
        emit_json(&report.json())?;
    } else {
        emit(report.text())?;
    }
    let complaints = &report.ending.complaints;
    if complaints.is_empty() {
        return Ok(Exit::Done);
    }
    if !as_json {
        complaints.iter().for_each(|line| complain(line));
    }
    Err(CommandError::error(format!("the drill found faults; the seed was {}", report.seed)))
}

fn write(report: &Report, out: &Path) -> Result<(), CommandError> {
    let fault = |path: &Path, error| CommandError::error(format!("{}: {error}", path.display()));
    std::fs::create_dir_all(out).map_err(|error| fault(out, error))?;
    for (name, text) in
        [("report.html", page(report)), ("report.json", format!("{:#}\n", report.json()))]
    {
        let path = out.join(name);
        std::fs::write(&path, text).map_err(|error| fault(&path, error))?;
    }
    Ok(())
}
