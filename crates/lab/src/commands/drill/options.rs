//! The drills as the command line names them, and what each can be reported.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::drill::deletes::Fate;
use crate::drill::failover::How;
use crate::drill::units::UnitAction;

const KILL_ROUNDS: u64 = 10;
const KILL_KEYS: u64 = 5_000;
const POWER_CUT_ROUNDS: u64 = 5;
const POWER_CUT_KEYS: u64 = 300;
const EXERCISE_KEYS: u64 = 2_000;
const EXERCISE_SECONDS: u64 = 10;

#[derive(Subcommand)]
pub(super) enum Name {
    /// Say what drills there are, what each proves, and what it needs
    List,
    /// kill -9 of a daemon, or of all on slow disks, at a random moment, often before it is ready
    Kill(Kill),
    /// The power of all disks cut at once (root)
    PowerCut(PowerCut),
    /// A daemon stopped on purpose and started later
    Restart(Restart),
    /// All daemons restarted one after the other
    RollingRestart(Restart),
    /// A daemon that hangs for a while
    Freeze(Exercise),
    /// A daemon whose disk takes long for everything
    SlowDisk(Exercise),
    /// A daemon loses its disk under load: how soon it has all again, by itself
    DiskLoss(DiskLoss),
    /// The disks of all daemons run full, and there is room again (root)
    DiskFull(Exercise),
    /// Two of five daemons cut off from the others
    Partition(Exercise),
    /// Daemons whose wall clocks are a day wrong
    ClockSkew(Exercise),
    /// Daemons of an older program replaced one after the other
    Upgrade(Upgrade),
    /// A daemon joins, and one without its disk is filled again: how fast
    Join(Join),
    /// A member leaves under load
    Leave(Exercise),
    /// Members join and leave while daemons are killed, and some are turned back
    JoinUnderKill(JoinUnderKill),
    /// 3, 5, 8, 4 and 3 members under an open loop
    Scale(Scale),
    /// Two of five daemons dead: what is read and written, and what is refused
    FailedNodes(FailedNodes),
    /// A daemon killed or frozen under 8 clients: who notices
    Failover(Failover),
    /// A daemon away for many puts, and back: how soon it has them
    Handoff(Handoff),
    /// One message in a hundred lost, and no hints: how soon all replicas are the same
    DroppedMessages(DroppedMessages),
    /// Keys deleted while a daemon is away: nothing comes back, and in the end nothing shows
    /// them
    Deletes(Deletes),
    /// How long until a dead, frozen or cut-off daemon is marked down
    Detection(Detection),
    #[command(external_subcommand)]
    Unknown(Vec<OsString>),
}

#[derive(Args)]
pub(super) struct Exercise {
    /// How long clients work, in seconds: a quarter of it before the fault, half of it beside, a
    /// quarter after the recovery
    #[arg(long, default_value_t = EXERCISE_SECONDS,
        value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
    /// Keys that are read and written
    #[arg(long, default_value_t = EXERCISE_KEYS,
        value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    keys: u64,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
pub(super) struct Restart {
    #[command(flatten)]
    exercise: Exercise,
    #[command(flatten)]
    pub(super) units: Units,
}

/// Whether it is done to a cluster that is there already.
#[derive(Args)]
pub(super) struct Units {
    /// Do it to the units pixii@NAME of systemd on this machine, of the cluster that --connect
    /// names, if nobody uses it
    #[arg(long)]
    pub(super) systemd: bool,
    /// With --systemd: even if the cluster holds other keys or has other clients
    #[arg(long, alias = "despite-use", requires = "systemd")]
    pub(super) allow_in_use: bool,
}

#[derive(Args)]
pub(super) struct Upgrade {
    /// The older program
    #[arg(long, value_name = "PATH")]
    pub(super) old: PathBuf,
    #[command(flatten)]
    exercise: Exercise,
}

#[derive(Args)]
pub(super) struct Deletes {
    /// Keys that are put and deleted
    #[arg(long, default_value_t = 10_000,
        value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    keys: u64,
    /// Bytes of each value
    #[arg(long, default_value_t = 100,
        value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    pub(super) value_bytes: u64,
    /// What becomes of the daemon that was away
    #[arg(long, value_enum, default_value_t = Fate::Return)]
    pub(super) fate: Fate,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
pub(super) struct FailedNodes {
    /// How many pairs of dead daemons are tried
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    rounds: u64,
    /// Keys that are loaded at all their owners
    #[arg(long, default_value_t = 10_000,
        value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    keys: u64,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
pub(super) struct Failover {
    /// What befalls the daemon
    #[arg(long, value_enum, default_value_t = How::Kill)]
    pub(super) how: How,
    /// How often
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    rounds: u64,
    /// Keys that are read and written
    #[arg(long, default_value_t = 10_000,
        value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    keys: u64,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
pub(super) struct Handoff {
    /// Puts while the daemon is away
    #[arg(long, default_value_t = 100_000,
        value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    keys: u64,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
pub(super) struct DiskLoss {
    /// Keys that are loaded before
    #[arg(long, default_value_t = 20_000,
        value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    keys: u64,
    /// Bytes of each value
    #[arg(long, default_value_t = 100,
        value_parser = clap::value_parser!(u64).range(16..=1_048_576))]
    pub(super) value_bytes: u64,
    /// Clients that read and write all the while
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub(super) clients: u64,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
pub(super) struct Join {
    /// Keys that are loaded before
    #[arg(long, default_value_t = 20_000,
        value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    keys: u64,
    /// Bytes of each value
    #[arg(long, default_value_t = 1_024,
        value_parser = clap::value_parser!(u64).range(16..=1_048_576))]
    pub(super) value_bytes: u64,
    /// An older program, whose refill of a lost disk is measured, too
    #[arg(long, value_name = "PATH")]
    pub(super) old: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
pub(super) struct JoinUnderKill {
    /// How many changes
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    rounds: u64,
    /// Keys that are read and written
    #[arg(long, default_value_t = 5_000,
        value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    keys: u64,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
pub(super) struct Scale {
    /// How often, each time on an empty cluster
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    rounds: u64,
    /// Keys that are read and written, of 1,000 bytes each
    #[arg(long, default_value_t = 10_000,
        value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    keys: u64,
    /// Length of the calm behind each change, in seconds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
    /// Only owners count
    #[arg(long)]
    pub(super) strict: bool,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
pub(super) struct DroppedMessages {
    /// Puts while messages are lost
    #[arg(long, default_value_t = 100_000,
        value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    puts: u64,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
pub(super) struct Detection {
    /// How many daemons
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(3..=50))]
    pub(super) nodes: u64,
    /// How often each way
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    rounds: u64,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
pub(super) struct Kill {
    /// How many rounds
    #[arg(long, default_value_t = KILL_ROUNDS,
        value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rounds: u64,
    /// Keys that every store holds
    #[arg(long, default_value_t = KILL_KEYS,
        value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    keys: u64,
    #[command(flatten)]
    pub(super) units: Units,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
pub(super) struct PowerCut {
    /// How many rounds
    #[arg(long, default_value_t = POWER_CUT_ROUNDS,
        value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rounds: u64,
    /// Keys, all overwritten at least three times before each cut
    #[arg(long, default_value_t = POWER_CUT_KEYS,
        value_parser = clap::value_parser!(u64).range(1..=20_000))]
    keys: u64,
    /// Bytes of each value [default: 1000, and 1 MiB for two in a hundred]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    pub(super) value_bytes: Option<u64>,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
pub(super) struct Place {
    /// Victims, moments and load follow from it [default: drawn]
    #[arg(long)]
    pub(super) seed: Option<u64>,
    /// An empty directory; what is made there stays
    #[arg(long)]
    pub(super) dir: Option<PathBuf>,
    /// A directory for report.html, with a timeline of the drill, and report.json; what is
    /// there is overwritten
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
}

/// How much a drill has to do.
#[derive(Clone, Copy)]
pub(super) struct Effort {
    /// How often.
    pub(super) rounds: u64,
    /// With how many keys.
    pub(super) keys: u64,
    /// How long clients work, in the drills that go by time.
    pub(super) length: Duration,
}

impl Effort {
    fn rounds(rounds: u64, keys: u64) -> Self {
        Effort { rounds, keys, length: Duration::ZERO }
    }
}

impl Name {
    /// What is done to the units of systemd, if it is to be done to them, and whether others may
    /// use their cluster.
    pub(super) fn on_units(&self) -> Option<(UnitAction, bool)> {
        let (act, units) = match self {
            Name::Restart(of) => (UnitAction::Restart, &of.units),
            Name::RollingRestart(of) => (UnitAction::RollingRestart, &of.units),
            Name::Kill(of) => (UnitAction::Kill, &of.units),
            _ => return None,
        };
        units.systemd.then_some((act, units.allow_in_use))
    }

    /// The drill's name, what it has to do, and where; `None` if there is no such drill, or only
    /// the list is wanted.
    pub(super) fn plan(&self) -> Option<(&'static str, Effort, &Place)> {
        let timed = |of: &Exercise| {
            let length = Duration::from_secs(of.seconds);
            Effort { rounds: 1, keys: of.keys, length }
        };
        Some(match self {
            Name::List | Name::Unknown(_) => return None,
            Name::Kill(of) => {
                // Of units each is killed once, beside clients that work a while before and after.
                let length = Duration::from_secs(EXERCISE_SECONDS);
                ("kill", Effort { rounds: of.rounds, keys: of.keys, length }, &of.place)
            }
            Name::PowerCut(of) => ("power-cut", Effort::rounds(of.rounds, of.keys), &of.place),
            Name::Restart(of) => ("restart", timed(&of.exercise), &of.exercise.place),
            Name::RollingRestart(of) => {
                ("rolling-restart", timed(&of.exercise), &of.exercise.place)
            }
            Name::Freeze(of) => ("freeze", timed(of), &of.place),
            Name::SlowDisk(of) => ("slow-disk", timed(of), &of.place),
            Name::DiskLoss(of) => ("disk-loss", Effort::rounds(1, of.keys), &of.place),
            Name::DiskFull(of) => ("disk-full", timed(of), &of.place),
            Name::Partition(of) => ("partition", timed(of), &of.place),
            Name::ClockSkew(of) => ("clock-skew", timed(of), &of.place),
            Name::Upgrade(of) => ("upgrade", timed(&of.exercise), &of.exercise.place),
            Name::Join(of) => ("join", Effort::rounds(1, of.keys), &of.place),
            Name::Leave(of) => ("leave", timed(of), &of.place),
            Name::JoinUnderKill(of) => {
                ("join-under-kill", Effort::rounds(of.rounds, of.keys), &of.place)
            }
            Name::Scale(of) => {
                let length = Duration::from_secs(of.seconds);
                ("scale", Effort { rounds: of.rounds, keys: of.keys, length }, &of.place)
            }
            Name::FailedNodes(of) => {
                ("failed-nodes", Effort::rounds(of.rounds, of.keys), &of.place)
            }
            Name::Failover(of) => ("failover", Effort::rounds(of.rounds, of.keys), &of.place),
            Name::Handoff(of) => ("handoff", Effort::rounds(1, of.keys), &of.place),
            Name::DroppedMessages(of) => {
                ("dropped-messages", Effort::rounds(1, of.puts), &of.place)
            }
            Name::Deletes(of) => ("deletes", Effort::rounds(1, of.keys), &of.place),
            Name::Detection(of) => ("detection", Effort::rounds(of.rounds, 0), &of.place),
        })
    }
}
