//! The incarnation of a daemon, from its open store to the end of its engine.

use std::sync::Arc;

use pixii_core::members::{Incarnation, Member, Members};
use pixii_core::merkle::KeptTree;
use pixii_core::node::{self, Limits, Node};
use pixii_core::ring::Ring;
use pixii_core::secret::Nonces;
use pixii_core::store::{
    self, Change, IncarnationError, Meta, Process, Store, StoreError, StoreIdentity, begin_anew,
    begin_incarnation, end_incarnation,
};
use pixii_core::types::MILLI;
use pixii_transport::random;
use sd_notify::NotifyState;
use tokio::runtime::Builder;
use tokio::sync::mpsc::{Receiver, unbounded_channel};
use tracing::{info, warn};

use super::binding;
use super::emulated::Alarm;
use super::ending::Ending;
use super::gauges::Gauges;
use super::health::StatusServer;
use super::notifier::{self, SystemdNotifier, TimeoutExtension};
use super::origin::{self, Conflict, Remembered};
use super::reload::RuntimeConfig;
use super::scrub::Scrubber;
use super::storage::Storage;
use super::{Ended, Engine, EngineParts, Order, ServeError, configured, trees};
use crate::config::Config;
use crate::net::Access;

/// Runs a daemon on an open store until `orders` receives an order to stop.
pub fn run(
    config: &Config,
    store: Arc<dyn Store>,
    mut orders: Receiver<Order>,
) -> Result<(), ServeError> {
    match StatusServer::start(config, &mut orders)? {
        Some(status_server) => run_watched(config, store, &mut orders, &status_server).map(drop),
        None => Ok(()),
    }
}

/// Why a daemon lets go of its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// An order came to stop the daemon.
    Stop,
    /// The store is damaged and has to be made anew before the next incarnation.
    Rebuild,
}

/// Runs a daemon with a status server that was there before the store.
pub(super) fn run_watched(
    config: &Config,
    store: Arc<dyn Store>,
    orders: &mut Receiver<Order>,
    status_server: &StatusServer,
) -> Result<Outcome, ServeError> {
    let ended = live(config, &mut RuntimeConfig::of(config), &store, orders, status_server);
    if ended.is_err() {
        status_server.fail();
    }
    match ended? {
        Ending::Stop => Ok(Outcome::Stop),
        Ending::Rebuild => Ok(Outcome::Rebuild),
        Ending::Duplicate(why) => Err(Conflict::Duplicate(why).into()),
        Ending::Removed(why) => Err(ServeError::Removed(why, config.data_dir.clone())),
    }
}

/// Runs one incarnation.
fn live(
    config: &Config,
    runtime_config: &mut RuntimeConfig,
    store: &Arc<dyn Store>,
    orders: &mut Receiver<Order>,
    status_server: &StatusServer,
) -> Result<Ending, ServeError> {
    let system = |what| move |error| ServeError::System(what, error);
    let notifier = SystemdNotifier::new(TimeoutExtension::begin().map_err(system("thread"))?);
    let number = || random().map(u64::from_be_bytes).map_err(system("random bits"));
    let (fresh_id, boot_nonce, seed) = (number()?, number()?, number()?);
    let nonces = Nonces::new(random().map_err(system("random bits"))?);
    let runtime =
        Builder::new_current_thread().enable_all().build().map_err(system("event loop"))?;

    let unusable = |error| ServeError::IncarnationId(config.data_dir.clone(), error);
    let ring = Arc::new(ring_in_force(config, &**store).map_err(unusable)?);
    let (cluster, name) = (config.cluster.clone(), config.name.clone());
    let identity = StoreIdentity { cluster, name, ring: config.ring.digest() };
    let is_moved = runtime.block_on(judge(config, &**store, &identity, number()?))?;
    let process = Process(fresh_id);
    let Begun { meta, recovered, trees } = begin(config, &**store, &ring, &identity, process)?;
    let listener = match runtime.block_on(binding::bind(&config.listen, orders)) {
        Ok(Some(listener)) => listener,
        without => {
            // A look-up may still hang.
            runtime.shutdown_background();
            end_incarnation(&**store, &meta)?;
            let failed = |error| ServeError::Listen(config.listen.clone(), error);
            return without.map(|_| Ending::Stop).map_err(failed);
        }
    };
    notifier::notify(&NotifyState::Status("counting what is kept for other members"));
    let hints = store.hint_totals(&|key| ring.partition(key))?;
    let held = store::held(&**store, ring.partitions())?;
    let members = remembered_members(config, &**store, &ring, meta.incarnation, is_moved)?;
    // The node's own address goes into the store: a copy of this directory recognises by it that it
    // is a copy. It is durable with the next sync, and so before anything is acknowledged.
    store.apply(&[Change::Members(members.clone())])?;
    let gc_epochs = store.gc_epochs()?;
    let (reports, reported) = unbounded_channel();
    let reserve_bytes = config.disk_reserve_mib << 20;
    let gauges = Gauges::measure(&**store)?;
    let storage = Storage::start(store, gauges, reserve_bytes, reports.clone());
    let storage = storage.map_err(system("threads"))?;
    let scrubber = Scrubber::start(store.clone(), runtime_config.scrub_interval_ms, reports);
    let scrubber = scrubber.map_err(system("thread"))?;
    let served = runtime.block_on(async {
        let config_of_node = node::Config {
            boot_nonce,
            hints,
            gc_epochs,
            trees,
            held,
            ..machine_config(config, runtime_config, ring.clone(), members)
        };
        let node = Node::new(config_of_node, meta, seed).with_experiment(config.experiment);
        let alarm = Alarm::new().map_err(system("timer"))?;
        let engine = Engine::new(EngineParts {
            config,
            runtime_config,
            recovered,
            boot_nonce,
            seed,
            access: access(config, nonces),
            node,
            storage,
            reports: reported,
            notifier,
            alarm,
            scrubber,
        });
        Ok::<_, ServeError>(engine.run(listener, orders, status_server.begin()).await?)
    });
    // A look-up of a peer's host name may still be waiting for an answer.
    runtime.shutdown_background();
    end(config, &**store, status_server, served?)
}

/// What a connection has to prove, and how many a client address may have.
fn access(config: &Config, nonces: Nonces) -> Access {
    let (secrets, per_address) = (config.secrets.clone(), config.max_connections_per_address);
    Access { secrets, per_address, nonces }
}

/// Closes an incarnation: nothing is written to the store after it.
fn end(
    config: &Config,
    store: &dyn Store,
    status_server: &StatusServer,
    ended: Ended,
) -> Result<Ending, ServeError> {
    let system = |error| ServeError::System("thread", error);
    let Ended { ending, storage, meta, ring, trees } = ended;
    status_server.end(&ending);
    let _writing = TimeoutExtension::begin().map_err(system)?;
    storage.finish()?;
    end_incarnation(store, &meta)?;
    // The next incarnation has another store, so its trees are read anew.
    if !matches!(ending, Ending::Rebuild) {
        trees::keep(store, &meta, config, &ring, trees)?;
    }
    info!("node {} has stopped", config.name);
    Ok(ending)
}

/// How an incarnation has begun.
struct Begun {
    meta: Meta,
    /// True if the stop before it was not a clean one.
    recovered: bool,
    /// The trees of a clean stop, if there are any.
    trees: Vec<KeptTree>,
}

fn begin(
    config: &Config,
    store: &dyn Store,
    ring: &Ring,
    identity: &StoreIdentity,
    process: Process,
) -> Result<Begun, ServeError> {
    let unusable = |error| ServeError::IncarnationId(config.data_dir.clone(), error);
    let last = store.meta().map_err(|error| unusable(error.into()))?;
    // Taken before anything is written.
    let trees = match &last {
        Some(last) => trees::take(store, last, config, ring)?,
        None => Vec::new(),
    };
    let recovered = last.is_some_and(|meta| !meta.clean);
    let meta = begin_incarnation(store, identity, process).map_err(unusable)?;
    info!(
        "node {} of cluster {} starts: incarnation {}, {}, with ring version {}",
        config.name,
        config.cluster,
        meta.incarnation,
        match recovered {
            true => "recovered from an unclean stop",
            false => "after a clean stop or new",
        },
        ring.version(),
    );
    Ok(Begun { meta, recovered, trees })
}

/// The members as the store remembers them, unless this node has moved; where the store knows none,
/// as they are configured.
fn remembered_members(
    config: &Config,
    store: &dyn Store,
    ring: &Ring,
    incarnation: Incarnation,
    is_moved: bool,
) -> Result<Members, StoreError> {
    let remembered = match store.members()? {
        Some(remembered) if is_moved => Some(configured(&remembered, &config.members)),
        remembered => remembered,
    };
    Ok(members(config, incarnation, ring.version() > 1, remembered))
}

/// True if this node has moved; an error if the data is a copy of what another daemon runs on. Data
/// of another identity is refused later. A copy that becomes a cluster of its own gets this
/// `identity` first.
async fn judge(
    config: &Config,
    store: &dyn Store,
    identity: &StoreIdentity,
    new_id: u64,
) -> Result<bool, ServeError> {
    let nonces = random().map_err(|error| ServeError::System("random bits", error))?;
    let nonces = &Arc::new(Nonces::new(nonces));
    if config.new_identity {
        judge_anew(config, store, nonces).await?;
        let unusable = |error| ServeError::IncarnationId(config.data_dir.clone(), error);
        begin_anew(store, identity, &config.members, new_id).map_err(unusable)?;
        warn!(
            "the data of node {} has a new identity: it is of a cluster that is to be founded anew",
            config.name
        );
    }
    let Some(meta) = store.meta()? else { return Ok(false) };
    if (&meta.identity.cluster, &meta.identity.name) != (&identity.cluster, &identity.name) {
        return Ok(false);
    }
    let members = store.members()?.unwrap_or_default();
    Ok(origin::check(config, Remembered { meta: &meta, members: &members }, nonces).await?)
}

/// Returns an error if a copy that becomes a cluster of its own would meet the cluster that it was
/// copied from.
async fn judge_anew(
    config: &Config,
    store: &dyn Store,
    nonces: &Arc<Nonces>,
) -> Result<(), ServeError> {
    let Some(meta) = store.meta()? else { return Ok(()) };
    let members = store.members()?.unwrap_or_default();
    Ok(origin::check_anew(config, Remembered { meta: &meta, members: &members }, nonces).await?)
}

/// The ring in force: the one in the store if it has one, which is a later one, else the ring of
/// the configured members.
fn ring_in_force(config: &Config, store: &dyn Store) -> Result<Ring, IncarnationError> {
    let configured = &config.ring;
    match store.ring()? {
        None => Ok(configured.clone()),
        Some(ring)
            if (ring.n(), ring.partitions()) == (configured.n(), configured.partitions()) =>
        {
            Ok(ring)
        }
        Some(_) => Err(IncarnationError::Ring),
    }
}

/// The members: those configured, and what the store knows better; with a later ring, those of the
/// store alone.
fn members(
    config: &Config,
    incarnation: Incarnation,
    placed: bool,
    remembered: Option<Members>,
) -> Members {
    let members = match remembered {
        Some(remembered) if placed => remembered,
        Some(remembered) => {
            let mut members = config.members.clone();
            members.merge(remembered.iter());
            members
        }
        None => config.members.clone(),
    };
    // From this incarnation on, the address of this node is the configured one, whatever the store
    // remembers.
    let configured = config.members.get(config.me()).map(|own| &own.address);
    let as_configured = |member: &Member| match configured {
        Some(address) if member.id() == config.me() => {
            Member { incarnation, address: address.clone(), ..member.clone() }
        }
        _ => member.clone(),
    };
    Members::new(members.iter().map(as_configured).collect())
}

/// The configuration of the machine, as far as it does not come from the store.
fn machine_config(
    config: &Config,
    runtime_config: &RuntimeConfig,
    ring: Arc<Ring>,
    members: Members,
) -> node::Config {
    let Limits {
        hint_limit_bytes,
        hint_age,
        repair_interval,
        scrub_interval,
        transfer_bytes_per_second,
    } = runtime_config.limits();
    node::Config {
        r: config.r,
        w: config.w,
        strict: config.strict,
        gossip_interval: config.gossip_interval_ms * MILLI,
        gossip_timeout: config.gossip_timeout_ms * MILLI,
        hint_limit_bytes,
        hint_age,
        repair_interval,
        scrub_interval,
        transfer_bytes_per_second,
        bootstrap: config.bootstrap,
        ..node::Config::new(config.me(), ring, members)
    }
}
