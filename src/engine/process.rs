//! What a daemon has of its process: signals, standard input, randomness.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use rustix::process::{
    Resource, Rlimit, Signal, getrlimit, set_parent_process_death_signal, setrlimit,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::{Handle, Signals};
use signal_hook::low_level;
use tokio::sync::mpsc::Sender;
use tracing::{info, warn};

use super::memory;
use crate::config::{Config, ConfigError};
use crate::net::budgets::Budgets;
use crate::net::places::Places;

/// Added to a signal's number, this is the exit code of a process that it ended.
const EXIT_BY_SIGNAL: i32 = 128;
/// Orders that may wait: no other order takes the last places, so that there is always room for one
/// to stop.
pub(super) const MAX_ORDERS: usize = 8;
const PLACES_FOR_STOPS: usize = 4;
/// What counts as the limit of descriptors where there is none, or a larger one.
const MAX_DESCRIPTORS: usize = 1 << 20;

/// How long a configuration may take to be read before that is logged.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(5);

/// What a daemon is distinguished from outside of its connections.
#[derive(Debug)]
pub enum Order {
    /// To stop, and why.
    Stop(String),
    /// To take over what can change from a configuration that was read again; or why it cannot be
    /// read.
    Reload(Result<Box<Config>, ConfigError>),
    /// To log an account of itself.
    MetricsSnapshot,
}

impl From<&str> for Order {
    fn from(why: &str) -> Self {
        Order::Stop(why.to_owned())
    }
}

/// The thread that waits for signals; it ends with this value.
#[derive(Debug)]
pub(super) struct SignalWatch {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Drop for SignalWatch {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Makes orders of signals: the first SIGTERM or SIGINT stops, SIGHUP has the configuration read
/// again by `read`, SIGUSR1 asks for an account. A second SIGTERM or SIGINT ends the process at
/// once, without the mark of a clean stop, as a crash would.
pub(super) fn watch_signals(
    orders: Sender<Order>,
    read: impl Fn() -> Result<Config, ConfigError> + Send + Sync + 'static,
) -> io::Result<SignalWatch> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1])?;
    let handle = signals.handle();
    let reloads = watch_reloads(orders.clone(), read)?;
    let thread = Builder::new().name("signals".to_owned()).spawn(move || {
        let mut stops = false;
        for signal in signals.forever() {
            let name = low_level::signal_name(signal).unwrap_or("a signal");
            let stop: Order = match signal {
                SIGHUP => {
                    // One that waits already has not read anything yet.
                    if reloads.try_send(()).is_err() {
                        info!("SIGHUP: the configuration is still to be read for one before");
                    }
                    continue;
                }
                SIGUSR1 => {
                    order(&orders, name, Order::MetricsSnapshot);
                    continue;
                }
                _ if stops => low_level::exit(EXIT_BY_SIGNAL + signal),
                _ => name.into(),
            };
            stops = true;
            let _ = orders.try_send(stop);
        }
    })?;
    Ok(SignalWatch { handle, thread: Some(thread) })
}

/// Reads the configuration each time it is asked to, in a thread of its own, which nobody waits
/// for: a file on a disk that hangs must not keep a signal to stop from being heard. That it hangs
/// is logged.
fn watch_reloads(
    orders: Sender<Order>,
    read: impl Fn() -> Result<Config, ConfigError> + Send + Sync + 'static,
) -> io::Result<SyncSender<()>> {
    let (query, queried) = sync_channel(1);
    let read = Arc::new(read);
    Builder::new().name("reloads".to_owned()).spawn(move || {
        for () in queried {
            let (done, outcome) = sync_channel(1);
            let read = read.clone();
            let reader = move || drop(done.send(read()));
            if let Err(error) = Builder::new().name("reload".to_owned()).spawn(reader) {
                warn!("SIGHUP: the configuration is not read: {error}");
                continue;
            }
            match await_reload(&outcome) {
                Some(read) => order(&orders, "SIGHUP", Order::Reload(read.map(Box::new))),
                None => warn!("SIGHUP: the configuration could not be read"),
            }
        }
    })?;
    Ok(query)
}

/// What was read; says at longer and longer intervals that it is not there yet. `None` if the
/// reader died.
fn await_reload<T>(outcome: &Receiver<T>) -> Option<T> {
    let (mut timeout, mut waited) = (RELOAD_TIMEOUT, Duration::ZERO);
    loop {
        match outcome.recv_timeout(timeout) {
            Ok(read) => return Some(read),
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) => {
                waited += timeout;
                let seconds = waited.as_secs();
                warn!("SIGHUP: the configuration has not been read in {seconds} s: its disk hangs");
                timeout *= 2;
            }
        }
    }
}

/// Passes on what is no order to stop, unless many wait.
fn order(orders: &Sender<Order>, name: &str, order: Order) {
    if orders.capacity() <= PLACES_FOR_STOPS || orders.try_send(order).is_err() {
        warn!("{name} is ignored: too many orders wait");
    }
}

/// Has `orders` stop the daemon when standard input ends.
pub(super) fn watch_stdin(orders: Sender<Order>) -> io::Result<()> {
    // Frozen, it would not notice the end of its parent: SIGCONT wakes it then. Without that it
    // serves as well.
    let _ = set_parent_process_death_signal(Some(Signal::CONT));
    Builder::new().name("stdin".to_owned()).spawn(move || {
        // An input that cannot be read has ended, too.
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        let _ = orders.try_send("the end of standard input".into());
    })?;
    Ok(())
}

/// Raises the limit of descriptors as far as this process may: a login has 1,024.
pub(super) fn raise_descriptors() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // A limit that stays lower has fewer places for clients.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// The connections that a node with this configuration may have, by the limit of descriptors.
pub(super) fn places(config: &Config) -> Places {
    let limit = getrlimit(Resource::Nofile)
        .current
        .map_or(MAX_DESCRIPTORS, |limit| usize::try_from(limit).unwrap_or(MAX_DESCRIPTORS));
    Places::of(limit.min(MAX_DESCRIPTORS), peers(config))
}

/// The memory that connections of a node with this configuration may take, by the memory limit.
pub(super) fn budgets(config: &Config) -> Budgets {
    let cache = usize::try_from(config.cache_mib << 20).unwrap_or(usize::MAX / 4);
    Budgets::of(memory::limit(), cache)
}

/// Members that a node with this configuration has a link to.
pub(super) fn peers(config: &Config) -> usize {
    config.members.iter().count().saturating_sub(1)
}
