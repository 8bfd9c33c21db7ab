//! `pixii drill`: real faults, and a ledger that says what was lost.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use serde_json::json;

use super::signals::Interrupt;
use super::text::{row, table};
use super::{Exit, Outcome, Shared, Trouble, block_on, complain, emit, emit_json};
use crate::lab::drill::deletes::Fate;
use crate::lab::drill::failover::{self, How};
use crate::lab::drill::{
    Ending, Plan, deletes, detection, disk_loss, dropped_messages, failed_nodes, handoff, kill,
    power_cut,
};

/// As many rows as a Unicode character table has: every store is that large at least.
const KILL_KEYS: u64 = 34_924;
const POWER_CUT_KEYS: u64 = 300;

/// Try real daemons under real faults, and see whether anything acknowledged is lost
#[derive(Args)]
#[command(after_help = "\
Daemons (N = 3, R = W = 2) run in a temporary directory that is removed at the end, unless --dir names one. Where writes \
may be lost, every one is noted in a ledger before it is sent and after it is answered, and all keys are read from all \
replicas and judged.

The last line says how it went. Exit code 0: nothing acknowledged was lost, nothing was shown that should not be, and what \
the drill is about held.

Examples:
  pixii drill list
  pixii drill kill --rounds 20
  pixii drill failover --how freeze --rounds 3
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
    /// Two of five daemons dead: what is read and written, and what is refused
    FailedNodes(FailedNodes),
    /// A daemon killed or frozen under 8 clients: who notices
    Failover(Failover),
    /// A daemon away for many puts, and back: how soon it has them
    Handoff(Handoff),
    /// A daemon loses its disk under load: how soon it has all again, by itself
    DiskLoss(DiskLoss),
    /// One message in a hundred lost, and no hints: how soon all replicas are the same
    DroppedMessages(DroppedMessages),
    /// Keys deleted while a daemon is away: nothing comes back, and in the end nothing tells of them
    Deletes(Deletes),
    /// How long until a dead, frozen or cut-off daemon is believed to be down
    Detection(Detection),
}

#[derive(Args)]
struct Deletes {
    /// Keys that are put and deleted
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    keys: u64,
    /// Bytes of each value
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    value_bytes: u64,
    /// What becomes of the daemon that was away
    #[arg(long, value_enum, default_value_t = Fate::Return)]
    fate: Fate,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
struct FailedNodes {
    /// How many pairs of dead daemons are tried
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    rounds: u64,
    /// Keys that are loaded at all their homes
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    keys: u64,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
struct Failover {
    /// What befalls the daemon
    #[arg(long, value_enum, default_value_t = How::Kill)]
    how: How,
    /// How often
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    rounds: u64,
    /// Keys that are read and written
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    keys: u64,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
struct Handoff {
    /// Puts while the daemon is away
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    keys: u64,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
struct DiskLoss {
    /// Keys that are loaded before
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    keys: u64,
    /// Bytes of each value
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(16..=1_048_576))]
    value_bytes: u64,
    /// Clients that read and write all the while
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    clients: u64,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
struct DroppedMessages {
    /// Puts while messages are lost
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    puts: u64,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
struct Detection {
    /// How many daemons
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(3..=50))]
    nodes: u64,
    /// How often each way
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    rounds: u64,
    #[command(flatten)]
    place: Place,
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
        if let Name::List = self.name {
            return list(shared);
        }
        let (name, rounds, keys, place) = self.name.plan();
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
        let ending = block_on(async {
            let drill = async {
                match &self.name {
                    Name::List | Name::Kill(_) => {
                        kill::run(&plan, &mut say).await.map(Ending::from)
                    }
                    Name::PowerCut(_) => power_cut::run(&plan, &mut say).await.map(Ending::from),
                    Name::FailedNodes(_) => failed_nodes::run(&plan, &mut say).await,
                    Name::Failover(Failover { how, .. }) => {
                        failover::run(&plan, *how, &mut say).await
                    }
                    Name::Handoff(_) => handoff::run(&plan, &mut say).await,
                    Name::DiskLoss(DiskLoss { value_bytes, clients, .. }) => {
                        let clients = *clients as usize;
                        disk_loss::run(&plan, *value_bytes as usize, clients, &mut say).await
                    }
                    Name::DroppedMessages(_) => dropped_messages::run(&plan, &mut say).await,
                    Name::Deletes(Deletes { value_bytes, fate, .. }) => {
                        deletes::run(&plan, *value_bytes as usize, *fate, &mut say).await
                    }
                    Name::Detection(Detection { nodes, .. }) => {
                        detection::run(&plan, *nodes as usize, &mut say).await
                    }
                }
            };
            tokio::select! {
                ending = drill => ending.map_err(Trouble::error),
                () = interrupt.wait() => {
                    Err(Trouble::error(format!("interrupted; the seed was {seed}")))
                }
            }
        })?;
        report(name, seed, &ending, as_json)
    }
}

impl Name {
    /// The drill's name, rounds, keys and place.
    fn plan(&self) -> (&'static str, u64, u64, &Place) {
        match self {
            Name::List => unreachable!("a list is no drill"),
            Name::Kill(Kill { rounds, keys, place }) => ("kill", *rounds, *keys, place),
            Name::PowerCut(PowerCut { rounds, keys, place }) => {
                ("power-cut", *rounds, *keys, place)
            }
            Name::FailedNodes(FailedNodes { rounds, keys, place }) => {
                ("failed-nodes", *rounds, *keys, place)
            }
            Name::Failover(Failover { rounds, keys, place, .. }) => {
                ("failover", *rounds, *keys, place)
            }
            Name::Handoff(Handoff { keys, place }) => ("handoff", 1, *keys, place),
            Name::DiskLoss(DiskLoss { keys, place, .. }) => ("disk-loss", 1, *keys, place),
            Name::DroppedMessages(DroppedMessages { puts, place }) => {
                ("dropped-messages", 1, *puts, place)
            }
            Name::Deletes(Deletes { keys, place, .. }) => ("deletes", 1, *keys, place),
            Name::Detection(Detection { rounds, place, .. }) => ("detection", *rounds, 0, place),
        }
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
        (
            "failed-nodes",
            "two of five dead: every value is read, \"absent\" is never said, sloppy puts succeed",
        ),
        (
            "failover",
            "one of five killed or frozen under load: nobody is refused, p99 at most doubles",
        ),
        ("handoff", "100,000 puts while one is away: its hints begin in 1 s and are there in 30 s"),
        (
            "disk-loss",
            "one of five loses its disk under load: all is back in 60 s, \"absent\" is never said",
        ),
        (
            "dropped-messages",
            "100,000 puts while messages are lost and no hints are kept: all replicas become the same",
        ),
        (
            "deletes",
            "10,000 keys deleted while a daemon is away: none comes back, no tombstone stays",
        ),
        ("detection", "how long until a dead, frozen or cut-off daemon is down in every view"),
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

fn report(name: &str, seed: u64, ending: &Ending, as_json: bool) -> Outcome {
    let Ending { summary, complaints, figures } = ending;
    if as_json {
        let mut told = json!({ "drill": name, "seed": seed, "complaints": complaints });
        if let (Some(told), Some(figures)) = (told.as_object_mut(), figures.as_object()) {
            told.extend(figures.clone());
        }
        emit_json(&told)?;
    } else {
        emit(format!("seed {seed}; {summary}\n"))?;
    }
    if complaints.is_empty() {
        return Ok(Exit::Done);
    }
    if !as_json {
        complaints.iter().for_each(|line| complain(line));
    }
    Err(Trouble::error(format!("the drill found faults; the seed was {seed}")))
}
