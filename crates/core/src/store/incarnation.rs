//! The start and the stop of a store's incarnation.

use super::{Change, Meta, Store, StoreError, StoreIdentity};
use crate::members::{Member, Members, MembershipStatus};

/// The reason why this node cannot use a store. The store is unchanged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IncarnationError {
    /// The store failed while its own state was read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It belongs to another node or cluster.
    #[error("the data belongs to node {0} of cluster {1}, not to node {2} of cluster {3}")]
    Identity(String, String, String, String),
    /// It was written under another placement.
    #[error(
        "the data was placed by other members, n or partitions than the configuration has; they \
         are fixed when a cluster is created"
    )]
    Ring,
    /// There is no data that could be of another node.
    #[error("there is no data of node {0}: only a copy of a node's data gets a new identity")]
    Nothing(String),
    /// A member of the ring in force is not configured.
    #[error(
        "member {0} is not configured, and was in the cluster that this is a copy of: say where \
         the copy has it"
    )]
    Unplaced(String),
}

/// The id of a process that opens a store, drawn at random: it issues dots under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process(pub u64);

/// Begins an incarnation of the store: consumes the clean-stop marker, and draws the id that this
/// process issues dots with. Synced before it returns, so before the node's first input. Waits for
/// nobody.
pub fn begin_incarnation(
    store: &dyn Store,
    identity: &StoreIdentity,
    process: Process,
) -> Result<Meta, IncarnationError> {
    let known = store.meta()?;
    let mut meta = known.unwrap_or_else(|| Meta::new(identity.clone(), process.0));
    if (&meta.identity.name, &meta.identity.cluster) != (&identity.name, &identity.cluster) {
        let (theirs, ours) = (meta.identity, identity.clone());
        return Err(IncarnationError::Identity(
            theirs.name,
            theirs.cluster,
            ours.name,
            ours.cluster,
        ));
    }
    // A later table has taken the place of the one that the configuration makes.
    if store.ring()?.is_none() && meta.identity.ring != identity.ring {
        return Err(IncarnationError::Ring);
    }
    meta.draw(process.0);
    // After an unclean stop the disk may have forgotten what peers know, and may even be a copy
    // that was made while the node ran. A clean one that was in doubt before still is.
    if !meta.clean || !meta.fresh.is_empty() {
        meta.suspect();
    }
    meta.clean = false;
    meta.incarnation = meta.incarnation.next();
    store.apply(&[Change::Meta(meta.clone())])?;
    store.sync()?;
    Ok(meta)
}

/// Makes a copied store one of a new cluster, which has not been founded yet: under a new birth,
/// `fresh_id`, and knowing the members where `configured` says they are. What it holds, and what of
/// it counts, stays. Synced before it returns.
pub fn begin_anew(
    store: &dyn Store,
    identity: &StoreIdentity,
    configured: &Members,
    fresh_id: u64,
) -> Result<(), IncarnationError> {
    let nothing = || IncarnationError::Nothing(identity.name.clone());
    let mut meta = store.meta()?.ok_or_else(nothing)?;
    let placed = store.ring()?;
    if meta.identity.name != identity.name {
        let (theirs, ours) = (meta.identity, identity.clone());
        return Err(IncarnationError::Identity(
            theirs.name,
            theirs.cluster,
            ours.name,
            ours.cluster,
        ));
    }
    if placed.is_none() && meta.identity.ring != identity.ring {
        return Err(IncarnationError::Ring);
    }
    let mut members = Vec::new();
    for member in store.members()?.iter().flat_map(Members::iter) {
        let address = match configured.get(member.id()) {
            Some(configured) => configured.address.clone(),
            None if member.membership == MembershipStatus::Removed => member.address.clone(),
            None => return Err(IncarnationError::Unplaced(member.name.clone())),
        };
        members.push(Member { address, ..member.clone() });
    }
    meta.draw(fresh_id);
    meta.suspect();
    meta.birth = fresh_id;
    meta.identity.cluster.clone_from(&identity.cluster);
    meta.cluster = None;
    meta.peer_incarnations.clear();
    store.apply(&[Change::Meta(meta), Change::Members(Members::new(members))])?;
    store.sync()?;
    Ok(())
}

/// Ends an incarnation cleanly: everything applied is synced first, the marker after it.
pub fn end_incarnation(store: &dyn Store, meta: &Meta) -> Result<(), StoreError> {
    store.sync()?;
    store.apply(&[Change::Meta(Meta { clean: true, ..meta.clone() })])?;
    store.sync()
}
