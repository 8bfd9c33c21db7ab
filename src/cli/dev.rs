//! `pixii dev`: a cluster of real daemons in the foreground.

mod orders;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use pixii_core::members::check_name;
use pixii_kit::arguments::DEFAULT_CONNECT;
use pixii_kit::cluster::{Cluster, Shape};
use pixii_kit::outcome::{CommandError, CommandResult, Exit, block_on, complain, emit};
use pixii_kit::signals::Interrupt;
use pixii_kit::text::{row, table};

use self::orders::Orders;

/// How long a daemon may take until it answers.
const READY_WAIT: Duration = Duration::from_secs(60);
/// How often children and signals are looked at.
const POLL: Duration = Duration::from_millis(100);
const DEFAULT_DIR: &str = "pixii-dev";
const ORDERS: &str =
    "start NAME, kill NAME (kill -9), stop NAME, freeze NAME (SIGSTOP), resume NAME, quit";

/// Run a cluster of real daemons in the foreground
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "\
Each daemon is a process of its own with a configuration, a log and data in DIR; started again \
    with the \
same numbers, the cluster has its data back. Orders are read from standard input: start NAME, \
    kill NAME \
(kill -9), stop NAME, freeze NAME (SIGSTOP), resume NAME, quit. Ctrl-C stops all. All but quit \
    can be given \
from another terminal too, as in `pixii dev kill n3`, with the same DIR.

Examples:
  pixii dev
  pixii dev --nodes 3 --dir /tmp/three
  pixii dev kill n3 --dir /tmp/three    in another terminal
  pixii dev --nodes 5 --n 5 -r 1 -w 3 --port 9000
  pixii dev --allow-emulation           and then, in another terminal: pixii emulate --help")]
pub(crate) struct Dev {
    #[command(subcommand)]
    order: Option<Order>,
    /// Number of daemons
    #[arg(long, default_value_t = 5)]
    nodes: usize,
    /// Replicas of each key
    #[arg(long, default_value_t = 3)]
    n: u8,
    /// Default R: replicas that answer a read [default: the majority of N]
    #[arg(short)]
    r: Option<u8>,
    /// Default W: replicas that hold a write [default: the majority of N]
    #[arg(short)]
    w: Option<u8>,
    /// Number of partitions
    #[arg(long, default_value_t = 256)]
    partitions: u16,
    /// Configurations, logs and data
    #[arg(long, global = true, default_value = DEFAULT_DIR)]
    dir: PathBuf,
    /// Port of the first daemon; the others follow (0: the kernel chooses all)
    #[arg(long, default_value_t = 7432)]
    port: u16,
    /// Let `pixii emulate` make the network slow, lossy or cut
    #[arg(long)]
    allow_emulation: bool,
}

/// An order to the cluster that runs in DIR.
#[derive(Subcommand)]
enum Order {
    /// Start a daemon that does not run
    #[command(after_help = "Examples:\n  pixii dev start n3")]
    Start(Named),
    /// Kill a daemon with kill -9
    #[command(after_help = "Examples:\n  pixii dev kill n3")]
    Kill(Named),
    /// Stop a daemon cleanly
    #[command(after_help = "Examples:\n  pixii dev stop n3")]
    Stop(Named),
    /// Freeze a daemon with SIGSTOP: it is there and does nothing
    #[command(after_help = "Examples:\n  pixii dev freeze n3")]
    Freeze(Named),
    /// Let a frozen daemon go on, with SIGCONT
    #[command(after_help = "Examples:\n  pixii dev resume n3")]
    Resume(Named),
}

#[derive(Args)]
struct Named {
    /// The daemon's name
    #[arg(value_parser = daemon_name)]
    name: String,
}

/// An order is a line of words, so a name is one word.
fn daemon_name(name: &str) -> Result<String, String> {
    check_name("a daemon", name).map(|()| name.into())
}

impl Order {
    /// As it is typed where the cluster runs.
    fn line(&self) -> String {
        let (verb, Named { name }) = match self {
            Order::Start(named) => ("start", named),
            Order::Kill(named) => ("kill", named),
            Order::Stop(named) => ("stop", named),
            Order::Freeze(named) => ("freeze", named),
            Order::Resume(named) => ("resume", named),
        };
        format!("{verb} {name}")
    }
}

impl Dev {
    /// Gives the order, or runs the cluster until ordered to stop.
    pub(crate) fn run(self) -> CommandResult {
        let Some(order) = &self.order else { return self.serve() };
        let done = orders::give(&self.dir, &order.line()).map_err(CommandError::error)?;
        emit(format!("{done}\n"))?;
        Ok(Exit::Done)
    }

    fn serve(&self) -> CommandResult {
        let majority = self.n / 2 + 1;
        let shape = Shape {
            cluster: "dev".into(),
            nodes: self.nodes,
            n: self.n,
            r: self.r.unwrap_or(majority),
            w: self.w.unwrap_or(majority),
            partitions: self.partitions,
        };
        let program =
            std::env::current_exe().map_err(|error| CommandError::error(error.to_string()))?;
        let interrupt = Interrupt::listen(false)?;
        let begun = Instant::now();
        let first_port = Some(self.port).filter(|port| *port != 0);
        let mut cluster =
            Cluster::create(program, &self.dir, &shape, first_port).map_err(CommandError::error)?;
        if self.allow_emulation {
            cluster.allow_emulation().map_err(CommandError::error)?;
        }
        let orders = Orders::listen(&self.dir);
        cluster.start_all().map_err(CommandError::error)?;
        let ready = block_on(async {
            tokio::select! {
                ready = cluster.ready(READY_WAIT) => ready.map(|()|
                    true).map_err(CommandError::error),
                () = interrupt.wait() => Ok(false),
            }
        });
        // What no later start can help is reported as a daemon reports it.
        let ready = ready.map_err(|error| match cluster.last_exit() {
            Some(2) => CommandError::usage(error.message),
            _ => error,
        });
        let reported = match ready {
            Ok(true) => emit(self.welcome(&cluster, begun.elapsed()))
                .and_then(|()| attend(&mut cluster, &interrupt, &orders)),
            Ok(false) => Ok(()),
            Err(error) => Err(error),
        };
        // Nobody who orders something now waits for a cluster that is going.
        drop(orders);
        // Whatever happened, the daemons stop in order; the first fault is the one worth telling.
        let stopped = cluster.stop_all();
        reported?;
        stopped.map_err(CommandError::error)?;
        emit(format!("all daemons have stopped; the data stays in {}\n", self.dir.display()))?;
        Ok(Exit::Done)
    }

    fn welcome(&self, cluster: &Cluster, spent: Duration) -> String {
        let mut rows = vec![row(["name", "address", "pid"])];
        for daemon in cluster.daemons() {
            let pid = daemon.pid().map_or_else(String::new, |pid| pid.to_string());
            rows.push(row([&daemon.name, &daemon.address, &pid]));
        }
        let dir = match self.dir == Path::new(DEFAULT_DIR) {
            true => String::new(),
            false => format!(" --dir {}", self.dir.display()),
        };
        let first = cluster.daemons().first().map(|daemon| daemon.address.as_str());
        let connect = match first.filter(|address| *address != DEFAULT_CONNECT) {
            Some(address) => format!("  export PIXII_CONNECT={address}\n"),
            None => String::new(),
        };
        format!(
            "{0} {4} up after {1:.1} s; configurations, logs and data are in {2}\n\n{3}\n\
             Try in another terminal:\n{connect}  pixii put greeting hello\n  pixii get \
             greeting\n  \
             pixii ring greeting\n  pixii status\n  pixii dev kill n{0}{dir}\n  pixii hints\n\n\
             Orders here: {ORDERS}. Ctrl-C stops all.\n",
            self.nodes,
            spent.as_secs_f64(),
            self.dir.display(),
            table(&rows),
            if self.nodes == 1 { "daemon is" } else { "daemons are" }
        )
    }
}

/// Carries out orders and reports deaths, until ordered to stop.
fn attend(
    cluster: &mut Cluster,
    interrupt: &Interrupt,
    orders: &Orders,
) -> Result<(), CommandError> {
    while !interrupt.queried() {
        let order = orders.next(POLL);
        // Before the order, which may be about one that has ended.
        for (name, how) in cluster.ended() {
            complain(&format!("{name} {how}; type `start {name}` to start it again"));
        }
        let Some(order) = order else { continue };
        let (from_here, line) = (order.is_from_here(), order.line.trim().to_string());
        if from_here && line.is_empty() {
            continue;
        }
        match obey(cluster, interrupt, &line) {
            Ok(None) => {
                order.answer(&Ok("all daemons are being stopped"));
                return Ok(());
            }
            Ok(Some(Done { what, next })) => {
                order.answer(&Ok(&what));
                let reported = emit(if next.is_empty() {
                    format!("{what}\n")
                } else {
                    format!("{what}; {next}\n")
                });
                // Another terminal's order ends nothing because nobody reads this one.
                if from_here {
                    reported?;
                }
            }
            Err(why) => {
                order.answer(&Err(&why));
                complain(&why);
            }
        }
    }
    Ok(())
}

/// What an order did, and what may be done next where the cluster runs.
struct Done {
    what: String,
    next: String,
}

/// What was done, or `None` to stop.
fn obey(cluster: &mut Cluster, interrupt: &Interrupt, line: &str) -> Result<Option<Done>, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (what, next) = match *words.as_slice() {
        ["quit"] => return Ok(None),
        ["kill", name] => {
            cluster.kill(name)?;
            (format!("{name} is killed"), format!("type `start {name}` to start it again"))
        }
        ["stop", name] => {
            cluster.stop(name)?;
            (format!("{name} has stopped"), format!("type `start {name}` to start it again"))
        }
        ["freeze", name] => {
            cluster.freeze(name)?;
            (format!("{name} is frozen"), format!("type `resume {name}` to let it go on"))
        }
        ["resume", name] => {
            cluster.resume(name)?;
            (format!("{name} goes on"), String::new())
        }
        ["start", name] => {
            let begun = Instant::now();
            cluster.start(name)?;
            let ready = async {
                tokio::select! {
                    ready = cluster.ready(READY_WAIT) => ready.map_err(CommandError::error),
                    () = interrupt.wait() => Ok(()),
                }
            };
            block_on(ready).map_err(|error| error.message)?;
            (format!("{name} is up after {:.1} s", begun.elapsed().as_secs_f64()), String::new())
        }
        _ => return Err(format!("\"{}\" is no order; orders are {ORDERS}", line.escape_debug())),
    };
    Ok(Some(Done { what, next }))
}
