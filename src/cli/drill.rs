//! `pixii drill`: real faults, and a ledger that says what was lost.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use serde_json::json;

use super::signals::Interrupt;
use super::text::{row, table};
use super::{Exit, Outcome, Shared, Trouble, block_on, complain, emit, emit_json};
use crate::lab::drill::{Plan, Score, kill, power_cut};

/// As many rows as a Unicode character table has: every store is that large at least.
const KILL_KEYS: u64 = 34_924;
const POWER_CUT_KEYS: u64 = 300;

/// Try real daemons under real faults, and see whether anything acknowledged is lost
#[derive(Args)]
#[command(after_help = "\
Three daemons (N = 3, R = W = 2) run under a load whose every write is noted in a ledger before it is sent \
and after it is answered. After each fault all keys are read from all replicas and judged. Everything is in \
a temporary directory that is removed at the end, unless --dir names one.

The last line says how it went. Exit code 0: nothing acknowledged was lost, nothing was shown that should \
not be, and every store opens again.

Examples:
  pixii drill list
  pixii drill kill --rounds 20
  pixii drill power-cut --rounds 3 --seed 7      as root")]
pub(crate) struct Drill {
    #[command(subcommand)]
    name: Name,
}

#[derive(Subcommand)]
enum Name {
    /// Say what drills there are
    List,
    /// kill -9 of a random daemon at a random moment, often before it is ready
    Kill(Kill),
    /// The power of all disks cut at once (root)
    PowerCut(PowerCut),
}

#[derive(Args)]
struct Kill {
    /// How many rounds
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rounds: u64,
    /// Keys that every store holds
    #[arg(long, default_value_t = KILL_KEYS, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    keys: u64,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
struct PowerCut {
    /// How many rounds
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rounds: u64,
    /// Keys, all overwritten at least three times before each cut; two in a hundred values have 1 MiB
    #[arg(long, default_value_t = POWER_CUT_KEYS, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    keys: u64,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
struct Place {
    /// Victims, moments and load follow from it [default: drawn]
    #[arg(long)]
    seed: Option<u64>,
    /// An empty directory; what is made there stays
    #[arg(long)]
    dir: Option<PathBuf>,
}

impl Drill {
    /// Runs the drill.
    pub(crate) fn run(self, shared: &Shared) -> Outcome {
        let (name, rounds, keys, place) = match self.name {
            Name::List => return list(shared),
            Name::Kill(Kill { rounds, keys, place }) => ("kill", rounds, keys, place),
            Name::PowerCut(PowerCut { rounds, keys, place }) => ("power-cut", rounds, keys, place),
        };
        let program = std::env::current_exe().map_err(|error| Trouble::error(error.to_string()))?;
        let interrupt = Interrupt::listen(false)?;
        // Declared first, so that it outlives what runs in it on every way out.
        let scratch = tempfile::Builder::new()
            .prefix("pixii-drill-")
            .tempdir()
            .map_err(|error| Trouble::error(format!("no temporary directory: {error}")))?;
        let dir = match &place.dir {
            Some(dir) => empty(dir)?,
            None => scratch.path().to_path_buf(),
        };
        let seed = place.seed.unwrap_or_else(drawn);
        let plan = Plan { program, dir, rounds, keys, seed };
        let as_json = shared.json();
        let mut say = |line: &str| {
            let told = if as_json { Ok(()) } else { emit(format!("{line}\n")) };
            told.map_err(|trouble| trouble.message)
        };
        let score = block_on(async {
            let drill = async {
                match name {
                    "kill" => kill::run(&plan, &mut say).await,
                    _ => power_cut::run(&plan, &mut say).await,
                }
            };
            tokio::select! {
                score = drill => score.map_err(Trouble::error),
                () = interrupt.wait() => {
                    Err(Trouble::error(format!("interrupted; the seed was {seed}")))
                }
            }
        })?;
        report(name, seed, &score, as_json)
    }
}

/// A seed that differs from run to run.
fn drawn() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(1, |since| u64::from(since.subsec_nanos()))
}

fn empty(dir: &PathBuf) -> Result<PathBuf, Trouble> {
    let fault = |error: std::io::Error| Trouble::error(format!("{}: {error}", dir.display()));
    std::fs::create_dir_all(dir).map_err(fault)?;
    if std::fs::read_dir(dir).map_err(fault)?.next().is_some() {
        return Err(Trouble::error(format!("{} is not empty", dir.display())));
    }
    std::fs::canonicalize(dir).map_err(fault)
}

fn list(shared: &Shared) -> Outcome {
    let drills = [
        ("kill", "kill -9 of a random daemon at a random moment, often before it is ready"),
        ("power-cut", "the power of all disks cut at once under load; root, e2fsprogs, xfsprogs"),
    ];
    if shared.json() {
        let drill = |(name, what)| json!({ "name": name, "what": what });
        emit_json(&drills.map(drill).into())?;
    } else {
        let rows: Vec<_> = drills.iter().map(|(name, what)| row([name, what])).collect();
        emit(table(&rows))?;
    }
    Ok(Exit::Done)
}

fn report(name: &str, seed: u64, score: &Score, as_json: bool) -> Outcome {
    if as_json {
        emit_json(&json!({
            "drill": name,
            "seed": seed,
            "rounds": score.rounds,
            "kills": score.kills,
            "before_ready": score.before_ready,
            "failed_starts": score.failed_starts,
            "issued": score.counts.issued,
            "acknowledged": score.counts.acknowledged,
            "refused": score.counts.refused,
            "unknown": score.counts.unknown,
            "keys_verified": score.verified,
            "lost": score.lost,
            "faults": score.faults,
            "stores_shut": score.shut,
            "complaints": score.complaints(),
        }))?;
    } else {
        let counts = score.counts;
        emit(format!(
            "seed {seed}; {} writes issued, {} refused, {} unknown; {} reads of keys judged; {} starts \
             failed and went well when tried again\n{}\n",
            counts.issued,
            counts.refused,
            counts.unknown,
            score.verified,
            score.failed_starts,
            score.summary()
        ))?;
    }
    if score.is_clean() {
        return Ok(Exit::Done);
    }
    if !as_json {
        score.complaints().iter().for_each(|line| complain(line));
    }
    Err(Trouble::error(format!("the drill found faults; the seed was {seed}")))
}
