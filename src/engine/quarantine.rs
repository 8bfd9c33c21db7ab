//! A damaged store: what can be read of it goes on, as that of an old disk. Where too little can
//! be, it is set aside, once somebody else has what it held.

use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fs, slice, thread};

use pixii_client::{Client, Options};
use pixii_core::members::Member;
use pixii_core::node::own_partitions;
use pixii_core::ring::Ring;
use pixii_core::store::{IncarnationError, Meta, Store};
use pixii_core::types::{NodeId, Partition};
use sd_notify::NotifyState;
use tokio::runtime::Builder;
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::{Order, ServeError, event_log, notifier};
use crate::config::Config;
use crate::disk::{DiskStore, Lost, OpenError};

/// How long a peer may take to answer.
const TIMEOUT: Duration = Duration::from_millis(2_000);
/// Who is waited for is asked so often,
const PAUSE: Duration = Duration::from_secs(1);
/// and the log says it again after this time.
const REMIND: Duration = Duration::from_secs(60);

/// Opens the node's store. Of a damaged one all that can be read is kept, and it counts as an old
/// disk: it has no read eligibility before it has heard from the other owners. One that shows too
/// little is set aside, kept, and replaced by an empty one, once every one of its partitions has
/// another replica that can be reached and has its read eligibility; the daemon waits for that.
/// `None` if it was stopped meanwhile.
pub(super) fn open(
    config: &Config,
    orders: &mut Receiver<Order>,
) -> Result<Option<DiskStore>, ServeError> {
    let open = || DiskStore::open(&config.data_dir, config.cache_mib << 20);
    if config.new_identity {
        let mut entries = fs::read_dir(&config.data_dir).into_iter().flatten();
        if entries.next().is_none() {
            let nothing = IncarnationError::Nothing(config.name.clone());
            return Err(ServeError::IncarnationId(config.data_dir.clone(), nothing));
        }
        // Set aside, there would be nothing left to give one to.
        return Ok(Some(open()?));
    }
    if config.rejoin_empty && config.data_dir.exists() {
        match open() {
            Ok(store) => leave_behind(config, store)?,
            // As one is that a kill has left half set aside: whose it was matters no more.
            Err(OpenError::Damaged { .. }) => {}
            Err(other) => return Err(other.into()),
        }
    }
    let damage = match open() {
        Err(damage @ OpenError::Damaged { .. }) => damage,
        opened => return Ok(Some(opened?)),
    };
    // One that is to begin anew beside another member's store has no use for what is left of it.
    if !config.rejoin_empty
        && let Some(store) = salvage(config, &damage)?
    {
        return Ok(Some(store));
    }
    if !await_witnesses(config, &damage, orders)? {
        return Ok(None);
    }
    let aside = DiskStore::set_aside(&config.data_dir, false)?;
    warn!(
        "{damage}; it was set aside in {}, and node {} begins anew",
        aside.display(),
        config.name
    );
    Ok(Some(open()?))
}

/// Makes a new store of what a damaged one still shows; `None` if that is too little.
fn salvage(config: &Config, damage: &OpenError) -> Result<Option<DiskStore>, ServeError> {
    notifier::notify(&NotifyState::Status("making a new store of what a damaged one still shows"));
    let as_old = |meta: &mut Meta, ring: Option<&Ring>, _: &Lost| {
        // What this process issues is not old, whatever else is.
        meta.clean = false;
        meta.read_ineligible = own_partitions(ring.unwrap_or(&config.ring), config.me());
    };
    match DiskStore::salvage(&config.data_dir, config.cache_mib << 20, &as_old) {
        Ok((store, salvage)) => {
            warn!(
                event = "store_rebuilt",
                "{damage}; node {} goes on as with an old disk", config.name
            );
            event_log::report_salvage(&config.name, &salvage);
            Ok(Some(store))
        }
        Err(OpenError::Damaged { reason, .. }) => {
            warn!(event = "store_unreadable", "no new store can be made of it: {reason}");
            Ok(None)
        }
        Err(other) => Err(other.into()),
    }
}

/// Waits until another replica has each partition; false if the daemon is to stop.
fn await_witnesses(
    config: &Config,
    damage: &OpenError,
    orders: &mut Receiver<Order>,
) -> Result<bool, ServeError> {
    let mut stated = None;
    while let Some(partition) = unwitnessed(config)? {
        if config.ring.n() == 1 {
            return Err(ServeError::Shut(damage.clone(), partition.0));
        }
        let condition = format!(
            "its store is damaged: waits for a replica of partition {} that serves",
            partition.0
        );
        notifier::notify(&NotifyState::Status(&condition));
        notifier::notify(&NotifyState::ExtendTimeoutUsec(2 * REMIND.as_micros() as u32));
        if stated.is_none_or(|stated: Instant| stated.elapsed() >= REMIND) {
            stated = Some(Instant::now());
            warn!(event = "witness_awaited", "{damage}; node {} {condition}", config.name);
        }
        thread::sleep(PAUSE);
        while let Ok(order) = orders.try_recv() {
            if let Order::Stop(why) = order {
                info!("node {} stops: {why}", config.name);
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Makes a store anew that was found to be damaged while it was open. Where a new one cannot be
/// made, the old one is given back, with the reason.
pub(super) fn rebuild(
    config: &Config,
    store: DiskStore,
) -> Result<(DiskStore, Option<OpenError>), ServeError> {
    let lacking = |meta: &mut Meta, ring: Option<&Ring>, lost: &Lost| {
        let own = own_partitions(ring.unwrap_or(&config.ring), config.me());
        let is_lost = |partition: &Partition| lost.partitions.binary_search(partition).is_ok();
        meta.read_ineligible.extend(own.into_iter().filter(is_lost));
        meta.read_ineligible.sort_unstable();
        meta.read_ineligible.dedup();
    };
    let cache_bytes = config.cache_mib << 20;
    let prepared = match store.prepare(cache_bytes, &lacking) {
        Ok(prepared) => prepared,
        Err(error) => return Ok((store, Some(error))),
    };
    let (store, salvage) = store.exchange(prepared, cache_bytes)?;
    event_log::report_salvage(&config.name, &salvage);
    Ok((store, None))
}

/// Sets aside a store that is of another name than the configured one.
fn leave_behind(config: &Config, store: DiskStore) -> Result<(), ServeError> {
    let owner = store.meta()?.map(|meta| meta.identity.name);
    store.close()?;
    if let Some(owner) = owner.filter(|owner| *owner != config.name) {
        let aside = DiskStore::set_aside(&config.data_dir, true)?;
        warn!("what {owner} held is left in {}, and {} begins anew", aside.display(), config.name);
    }
    Ok(())
}

/// A partition of this node that no other read-eligible replica answers for, if there is one.
fn unwitnessed(config: &Config) -> Result<Option<Partition>, ServeError> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| ServeError::System("event loop", error))?;
    // All at once: a start has no time for many that are silent one after the other.
    let shared = Arc::new(config.clone());
    let answers = runtime.block_on(async {
        let mut queried = JoinSet::new();
        for member in config.members.iter().filter(|member| member.id() != config.me()) {
            let (config, member) = (shared.clone(), member.clone());
            queried.spawn(async move { Some((member.id(), witness(&config, &member).await?)) });
        }
        queried.join_all().await
    });
    let (witnesses, rings): (Vec<NodeId>, Vec<Ring>) = answers.into_iter().flatten().unzip();
    let ring = Ring::latest(config.ring.clone(), rings);
    let own = |p: &Partition| ring.owners(*p).contains(&config.me());
    let bare = |p: &Partition| !ring.owners(*p).iter().any(|owner| witnesses.contains(owner));
    Ok((0..ring.partitions()).map(Partition).filter(own).find(bare))
}

/// The ring of a member that answers, serves, and has lost nothing itself.
async fn witness(config: &Config, member: &Member) -> Option<Ring> {
    let connect_timeout_ms = TIMEOUT.as_millis() as u32;
    let secret = config.secrets.get().map(|secrets| secrets.clients.first().clone());
    let options = Options { connect_timeout_ms, secret, ..Options::default() };
    let query = async {
        let client = Client::connect(slice::from_ref(&member.address), options).await.ok()?;
        let status = client.status(None).await.ok()?;
        let same = client.cluster() == config.cluster && status.name == member.name;
        let whole = status.serving && status.read_ineligible == 0;
        (same && whole).then(|| client.ring().clone())
    };
    tokio::time::timeout(2 * TIMEOUT, query).await.ok().flatten()
}
