//! The small records of a store: what it knows of itself, of the members, of the ring, and of the
//! GC epochs.

use bytes::Bytes;
use pixii_core::gc_epoch::GcState;
use pixii_core::members::Members;
use pixii_core::ring::Ring;
use pixii_core::store::Meta;
use pixii_core::types::Partition;

use super::commit_log::LoggedTree;
use super::guarded::{Sled, StoreFault};
use super::layout::{self, INCARNATION, MEMBERS, Place, RING, meta_key};

/// Whatever has values at places: a tree, or one with the log before it.
pub(super) trait Places {
    /// The value at a place.
    fn get(&self, place: &[u8]) -> Result<Option<Bytes>, StoreFault>;
    /// Makes `fault` the last thing that happens.
    fn fail(&self, fault: StoreFault) -> StoreFault;
}

impl Places for Sled {
    fn get(&self, place: &[u8]) -> Result<Option<Bytes>, StoreFault> {
        Sled::get(self, place)
    }

    fn fail(&self, fault: StoreFault) -> StoreFault {
        Sled::fail(self, fault)
    }
}

/// What the store knows of itself; `None` before its first incarnation.
pub(super) fn incarnation(places: &impl Places) -> Result<Option<Meta>, StoreFault> {
    let Some(bytes) = places.get(&meta_key(INCARNATION))? else { return Ok(None) };
    let damage = || StoreFault::Corrupt("what the store knows of itself is not readable".into());
    layout::unseal_incarnation(&bytes).map(Some).ok_or_else(|| places.fail(damage()))
}

/// What it knows of the members; `None` before it was reported.
pub(super) fn members(places: &impl Places) -> Result<Option<Members>, StoreFault> {
    let Some(bytes) = places.get(&meta_key(MEMBERS))? else { return Ok(None) };
    let what = "what the store knows of the members is not readable";
    let damage = || StoreFault::Corrupt(what.into());
    layout::unseal_members(&bytes).map(Some).ok_or_else(|| places.fail(damage()))
}

/// The ring, if it is a later one than what the configuration makes.
pub(super) fn ring(places: &impl Places) -> Result<Option<Ring>, StoreFault> {
    let Some(bytes) = places.get(&meta_key(RING))? else { return Ok(None) };
    let damage = || StoreFault::Corrupt("what the store knows of the ring is not readable".into());
    layout::unseal_ring(&bytes).map(Some).ok_or_else(|| places.fail(damage()))
}

/// The GC epoch of each partition that has had more than one.
pub(super) fn gc_epochs(places: &LoggedTree) -> Result<Vec<(Partition, GcState)>, StoreFault> {
    let (from, to) = layout::gc_epochs();
    let mut all = Vec::new();
    places.range(&from, Some(&to), |place, bytes| {
        let found = match Place::decode(place) {
            Some(Place::Meta(name)) => layout::partition_of(&name).and_then(|partition| {
                Some((partition, layout::unseal_gc_epoch(partition, &bytes)?))
            }),
            _ => None,
        };
        let damage = || StoreFault::Corrupt("the GC epoch of a partition is not readable".into());
        all.push(found.ok_or_else(damage)?);
        Ok(true)
    })?;
    Ok(all)
}
