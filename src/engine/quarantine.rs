//! A store that does not open: set aside for damage only, and only when somebody else has what it held.

use std::sync::Arc;
use std::time::Duration;
use std::{fs, slice};

use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tracing::warn;

use super::ServeError;
use crate::client::{Client, Options};
use crate::config::Config;
use crate::members::Member;
use crate::ring::Ring;
use crate::store::disk::{DiskStore, OpenError};
use crate::store::{LifeError, Store};
use crate::types::{NodeId, Partition};

/// How long a peer may take to answer.
const PATIENCE: Duration = Duration::from_millis(2_000);

/// Opens the node's store. A damaged one is set aside, kept, and replaced by an empty one, if every one of
/// its partitions has another replica that can be reached and has its authority; else it stays as it is.
pub(super) fn open(config: &Config) -> Result<DiskStore, ServeError> {
    let open = || DiskStore::open(&config.data_dir, config.cache_mib << 20);
    if config.new_identity {
        let mut entries = fs::read_dir(&config.data_dir).into_iter().flatten();
        if entries.next().is_none() {
            let nothing = LifeError::Nothing(config.name.clone());
            return Err(ServeError::Life(config.data_dir.clone(), nothing));
        }
        // Set aside, there would be nothing left to give one to.
        return Ok(open()?);
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
        opened => return Ok(opened?),
    };
    if let Some(partition) = unwitnessed(config)? {
        return Err(ServeError::Shut(damage, partition.0));
    }
    let aside = DiskStore::set_aside(&config.data_dir, false)?;
    warn!(
        "{damage}; it was set aside in {}, and node {} begins anew",
        aside.display(),
        config.name
    );
    Ok(open()?)
}

/// Sets aside a store that is of another name than the configured one.
fn leave_behind(config: &Config, store: DiskStore) -> Result<(), ServeError> {
    let owner = store.meta()?.map(|meta| meta.owner.name);
    store.close()?;
    if let Some(owner) = owner.filter(|owner| *owner != config.name) {
        let aside = DiskStore::set_aside(&config.data_dir, true)?;
        warn!("what {owner} held is left in {}, and {} begins anew", aside.display(), config.name);
    }
    Ok(())
}

/// A partition of this node that no other authoritative replica answers for, if there is one.
fn unwitnessed(config: &Config) -> Result<Option<Partition>, ServeError> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| ServeError::System("event loop", error))?;
    // All at once: a start has no time for many that are silent one after the other.
    let shared = Arc::new(config.clone());
    let answers = runtime.block_on(async {
        let mut asked = JoinSet::new();
        for member in config.members.iter().filter(|member| member.id() != config.me()) {
            let (config, member) = (shared.clone(), member.clone());
            asked.spawn(async move { Some((member.id(), witness(&config, &member).await?)) });
        }
        asked.join_all().await
    });
    let (witnesses, rings): (Vec<NodeId>, Vec<Ring>) = answers.into_iter().flatten().unzip();
    let ring = Ring::latest(config.ring.clone(), rings);
    let own = |p: &Partition| ring.homes(*p).contains(&config.me());
    let bare = |p: &Partition| !ring.homes(*p).iter().any(|home| witnesses.contains(home));
    Ok((0..ring.partitions()).map(Partition).filter(own).find(bare))
}

/// The ring of a member that answers, serves, and has lost nothing itself.
async fn witness(config: &Config, member: &Member) -> Option<Ring> {
    let connect_timeout_ms = PATIENCE.as_millis() as u32;
    let secret = config.secrets.get().map(|secrets| secrets.clients.first().clone());
    let options = Options { connect_timeout_ms, secret, ..Options::default() };
    let ask = async {
        let client = Client::connect(slice::from_ref(&member.address), options).await.ok()?;
        let status = client.status(None).await.ok()?;
        let same = client.cluster() == config.cluster && status.name == member.name;
        let whole = status.serving && status.without_authority == 0;
        (same && whole).then(|| client.ring().clone())
    };
    tokio::time::timeout(2 * PATIENCE, ask).await.ok().flatten()
}
