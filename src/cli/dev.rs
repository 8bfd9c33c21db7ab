//! `pixii dev`: a cluster of real daemons in the foreground.

use std::io::{self, BufRead, Read};
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;

use super::cluster::{Cluster, Shape};
use super::signals::Interrupt;
use super::text::{row, table};
use super::{DEFAULT_CONNECT, Exit, Outcome, Trouble, block_on, complain, emit};

/// How long a daemon may take until it answers.
const READY_WAIT: Duration = Duration::from_secs(60);
/// How often children and signals are looked at.
const POLL: Duration = Duration::from_millis(100);
/// Longest order; of a longer line, the rest is the next one.
const MAX_ORDER_BYTES: u64 = 1_024;
const ORDERS: &str = "start NAME, kill NAME (kill -9), stop NAME, quit";

/// Run a cluster of real daemons in the foreground
#[derive(Args)]
#[command(after_help = "\
Each daemon is a process of its own with a configuration, a log and data in DIR; started again with the \
same numbers, the cluster has its data back. Orders are read from standard input: start NAME, kill NAME \
(kill -9), stop NAME, quit. Ctrl-C stops all.

Examples:
  pixii dev
  pixii dev --nodes 3 --dir /tmp/three
  pixii dev --nodes 5 --n 5 -r 1 -w 3 --port 9000
  pixii dev --allow-emulation   and then, in another terminal: pixii emulate --help")]
pub(crate) struct Dev {
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
    #[arg(long, default_value = "pixii-dev")]
    dir: PathBuf,
    /// Port of the first daemon; the others follow (0: the kernel chooses all)
    #[arg(long, default_value_t = 7432)]
    port: u16,
    /// Let `pixii emulate` make the network slow, lossy or cut
    #[arg(long)]
    allow_emulation: bool,
}

impl Dev {
    /// Runs the cluster until told to stop.
    pub(crate) fn run(self) -> Outcome {
        let majority = self.n / 2 + 1;
        let shape = Shape {
            cluster: "dev".into(),
            nodes: self.nodes,
            n: self.n,
            r: self.r.unwrap_or(majority),
            w: self.w.unwrap_or(majority),
            partitions: self.partitions,
        };
        let program = std::env::current_exe().map_err(|error| Trouble::error(error.to_string()))?;
        let interrupt = Interrupt::listen(false)?;
        let begun = Instant::now();
        let first_port = Some(self.port).filter(|port| *port != 0);
        let mut cluster =
            Cluster::create(program, &self.dir, &shape, first_port).map_err(Trouble::error)?;
        if self.allow_emulation {
            cluster.allow_emulation().map_err(Trouble::error)?;
        }
        cluster.start_all().map_err(Trouble::error)?;
        let ready = block_on(async {
            tokio::select! {
                ready = cluster.ready(READY_WAIT) => ready.map(|()| true).map_err(Trouble::error),
                () = interrupt.wait() => Ok(false),
            }
        });
        let told = match ready {
            Ok(true) => emit(self.welcome(&cluster, begun.elapsed()))
                .and_then(|()| attend(&mut cluster, &interrupt)),
            Ok(false) => Ok(()),
            Err(trouble) => Err(trouble),
        };
        // Whatever happened, the daemons stop in order; the first fault is the one worth telling.
        let stopped = cluster.stop_all();
        told?;
        stopped.map_err(Trouble::error)?;
        emit(format!("all daemons stopped cleanly; the data stays in {}\n", self.dir.display()))?;
        Ok(Exit::Done)
    }

    fn welcome(&self, cluster: &Cluster, spent: Duration) -> String {
        let mut rows = vec![row(["name", "address", "pid"])];
        for daemon in cluster.daemons() {
            let pid = daemon.pid().map_or_else(String::new, |pid| pid.to_string());
            rows.push(row([&daemon.name, &daemon.address, &pid]));
        }
        let first = cluster.daemons().first().map(|daemon| daemon.address.as_str());
        let connect = match first.filter(|address| *address != DEFAULT_CONNECT) {
            Some(address) => format!("  export PIXII_CONNECT={address}\n"),
            None => String::new(),
        };
        format!(
            "{} daemons are up after {:.1} s; configurations, logs and data are in {}\n\n{}\n\
             Try in another terminal:\n{connect}  pixii put greeting hello\n  pixii get greeting\n  \
             pixii ring greeting\n  pixii status\n\n\
             Orders here: {ORDERS}. Ctrl-C stops all.\n",
            self.nodes,
            spent.as_secs_f64(),
            self.dir.display(),
            table(&rows)
        )
    }
}

/// Carries out orders and reports deaths, until told to stop.
fn attend(cluster: &mut Cluster, interrupt: &Interrupt) -> Result<(), Trouble> {
    let mut orders = Some(orders());
    while !interrupt.asked() {
        for (name, how) in cluster.ended() {
            complain(&format!("{name} {how}; type `start {name}` to start it again"));
        }
        match orders.as_ref().map(|orders| orders.recv_timeout(POLL)) {
            Some(Ok(line)) => match obey(cluster, interrupt, line.trim()) {
                Ok(None) => return Ok(()),
                Ok(Some(done)) => emit(done)?,
                Err(why) => complain(&why),
            },
            Some(Err(RecvTimeoutError::Timeout)) => {}
            Some(Err(RecvTimeoutError::Disconnected)) => orders = None,
            None => thread::sleep(POLL),
        }
    }
    Ok(())
}

/// Lines from standard input, one ahead.
fn orders() -> Receiver<String> {
    let (send, receive) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let mut input = io::stdin().lock();
        loop {
            let mut line = Vec::new();
            match input.by_ref().take(MAX_ORDER_BYTES).read_until(b'\n', &mut line) {
                Ok(1..) if send.send(String::from_utf8_lossy(&line).into()).is_ok() => {}
                _ => return,
            }
        }
    });
    receive
}

/// What was done, or `None` to stop.
fn obey(
    cluster: &mut Cluster,
    interrupt: &Interrupt,
    line: &str,
) -> Result<Option<String>, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match *words.as_slice() {
        [] => Ok(Some(String::new())),
        ["quit"] => Ok(None),
        ["kill", name] => {
            cluster.kill(name)?;
            Ok(Some(format!("{name} is killed; type `start {name}` to start it again\n")))
        }
        ["stop", name] => {
            cluster.stop(name)?;
            Ok(Some(format!("{name} has stopped; type `start {name}` to start it again\n")))
        }
        ["start", name] => {
            let begun = Instant::now();
            cluster.start(name)?;
            let ready = async {
                tokio::select! {
                    ready = cluster.ready(READY_WAIT) => ready.map_err(Trouble::error),
                    () = interrupt.wait() => Ok(()),
                }
            };
            block_on(ready).map_err(|trouble| trouble.message)?;
            Ok(Some(format!("{name} is up after {:.1} s\n", begun.elapsed().as_secs_f64())))
        }
        _ => Err(format!("\"{}\" is no order; orders are {ORDERS}", line.escape_debug())),
    }
}
