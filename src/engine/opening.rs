//! From the configuration to a store that is served, and to one that takes its place when it is
//! damaged.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tokio::sync::mpsc::{Receiver, channel};
use tracing::{error, warn};

use super::error::ServeError;
use super::health::StatusServer;
use super::incarnation::{Outcome, run_watched};
use super::notifier::{self, TimeoutExtension};
use super::process::{self, Order};
use super::quarantine;
use crate::config::{Config, ConfigError};
use crate::disk::DiskStore;

/// Threads of a store that has failed are waited for so long.
const LETTING_GO: Duration = Duration::from_secs(2);

/// Runs a daemon until a signal, a client, or with `follow_stdin` the end of standard input, stops
/// it. At a SIGHUP `read` reads the configuration again, and sees to what is logged. Returns when
/// the store is closed.
pub fn serve(
    config: &Config,
    follow_stdin: bool,
    read: impl Fn() -> Result<Config, ConfigError> + Send + Sync + 'static,
) -> Result<(), ServeError> {
    let (sender, orders) = channel(process::MAX_ORDERS);
    let watch = process::watch_signals(sender.clone(), read);
    let _watch = watch.map_err(|error| ServeError::System("signal handlers", error))?;
    if follow_stdin {
        process::watch_stdin(sender.clone())
            .map_err(|error| ServeError::System("thread", error))?;
    }
    process::raise_descriptors();
    open_and_run(config, orders)
}

fn open_and_run(config: &Config, mut orders: Receiver<Order>) -> Result<(), ServeError> {
    let timeout = || TimeoutExtension::begin().map_err(|error| ServeError::System("thread", error));
    notifier::notify(&NotifyState::Status("opening the store"));
    let Some(status_server) = StatusServer::start(config, &mut orders)? else { return Ok(()) };
    let opening = timeout()?;
    let Some(mut store) = quarantine::open(config, &mut orders)? else { return Ok(()) };
    drop(opening);
    let within = |error| ServeError::StoreIn { dir: config.data_dir.clone(), error };
    loop {
        let shared = Arc::new(store);
        let served = run_watched(config, shared.clone(), &mut orders, &status_server);
        notifier::notify(&NotifyState::Status("closing the store"));
        let _closing = timeout()?;
        let own = own_again(shared);
        let failed = matches!(served, Err(ServeError::Store(_)));
        store = match (served, own) {
            (Ok(Outcome::Rebuild), Some(own)) => rebuilt(config, own)?,
            (Err(error), Some(own)) if failed && own.is_damaged() => {
                error!(event = "store_damaged", "{error}");
                rebuilt(config, own)?
            }
            // Only a thread that is stuck in a failed store still has it otherwise.
            (served, own) => {
                let closed = own.map_or(Ok(()), DiskStore::close);
                return match served {
                    Err(ServeError::Store(error)) => Err(within(error)),
                    Err(error) => Err(error),
                    Ok(_) => closed.map_err(within),
                };
            }
        };
    }
}

/// The store, once the threads that had it have ended.
fn own_again(mut shared: Arc<DiskStore>) -> Option<DiskStore> {
    let deadline = Instant::now() + LETTING_GO;
    loop {
        match Arc::try_unwrap(shared) {
            Ok(own) => return Some(own),
            Err(_) if Instant::now() >= deadline => return None,
            Err(still) => shared = still,
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// A store that takes the place of a damaged one; the damaged one if none can be made now.
fn rebuilt(config: &Config, damaged: DiskStore) -> Result<DiskStore, ServeError> {
    let failed = damaged.is_damaged();
    match quarantine::rebuild(config, damaged)? {
        (_, Some(why)) if failed => Err(why.into()),
        (store, Some(why)) => {
            warn!(event = "store_kept", "no new store was made, and the old one goes on: {why}");
            Ok(store)
        }
        (store, None) => Ok(store),
    }
}
