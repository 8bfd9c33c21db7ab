//! GC epochs of a partition: how events without a value leave the clocks by proof, not by timers.
//!
//! Every object on its way is stamped with the GC epoch at which it was issued or read, and a
//! node at GC epoch g takes those of g and g - 1 only. To advance from g to g + 1, every member
//! confirms from synced state that it keeps no hint of before g, and every owner that it holds the
//! events that are purgeable next as dead. What was purgeable before is then purged: at g + 1 no
//! copy, hint or message that is still taken shows it alive (docs/internals/tombstone-gc.md).

use std::fmt;

use bincode::{BorrowDecode, Encode};
use bytes::Bytes;

use crate::causal::Context;
use crate::types::Key;

/// Most keys that are purgeable at a time.
pub const MAX_PURGEABLE_KEYS: usize = 1_000;
/// Most bytes of purgeable keys in a proposal, approximately. A GC epoch is one value on disk,
/// rewritten with each proposal.
pub const PURGEABLE_KEYS_BYTES: usize = 64 << 10;
/// Approximate size of an event, in bytes.
const DOT_BYTES: usize = 24;
/// A number that is so far ahead is forged: GC epochs last seconds.
const MAX_AHEAD: u64 = 1 << 32;

/// Events of a key that have no value any more at any owner.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct PurgeableKey {
    /// The key whose clock has the events.
    pub key: Key,
    /// The events: all of each actor up to a counter.
    pub dead: Context,
}

/// The number of a GC epoch of one partition, from 0; also the stamp of what was issued or read
/// in it. It is the same at all members once they have heard of it, and never falls on one disk.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, BorrowDecode,
)]
#[bincode(decode_context = "Bytes")]
pub struct GcEpoch(pub u64);

impl GcEpoch {
    /// The first one of every partition.
    pub const FIRST: GcEpoch = GcEpoch(0);

    /// The one that follows. The highest number, which only a peer can have made up, follows
    /// itself.
    #[must_use]
    pub const fn next(self) -> Self {
        GcEpoch(self.0.saturating_add(1))
    }
}

impl fmt::Display for GcEpoch {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A GC epoch of a partition, as every member keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct GcState {
    /// The number of the GC epoch; it never falls.
    pub number: GcEpoch,
    /// What every owner held as dead when it began, sorted by key: purged when the next one
    /// begins.
    pub purgeable: Vec<PurgeableKey>,
    /// What was purgeable in the one before, sorted by key: no owner keeps it any longer.
    pub purged: Vec<PurgeableKey>,
}

impl PurgeableKey {
    /// About how many bytes it takes.
    pub fn bytes(&self) -> usize {
        self.key.as_bytes().len() + DOT_BYTES * self.dead.dots().len()
    }
}

impl GcState {
    /// About how many bytes it takes.
    pub fn bytes(&self) -> usize {
        self.purgeable.iter().chain(&self.purged).map(PurgeableKey::bytes).sum()
    }

    /// True if a node at GC epoch `own` may take this one over from a peer: what it lists is in
    /// order and bounded, and its number is one that can have been reached.
    pub fn is_sound(&self, own: GcEpoch) -> bool {
        let sorted = |purgeable_keys: &[PurgeableKey]| {
            purgeable_keys.len() <= MAX_PURGEABLE_KEYS
                && purgeable_keys.windows(2).all(|pair| pair[0].key < pair[1].key)
        };
        self.number.0 <= own.0.saturating_add(MAX_AHEAD)
            && sorted(&self.purgeable)
            && sorted(&self.purged)
    }

    /// The one that follows when every member has confirmed that `purgeable` is dead.
    pub fn next(&self, mut purgeable: Vec<PurgeableKey>) -> Self {
        purgeable.sort_by(|a, b| a.key.cmp(&b.key));
        GcState { number: self.number.next(), purgeable, purged: self.purgeable.clone() }
    }

    /// True if an object with this stamp is of this GC epoch or the one before.
    pub fn takes(&self, stamp: GcEpoch) -> bool {
        stamp <= self.number && stamp.next() >= self.number
    }

    /// The purged events of a key.
    pub fn purged_of(&self, key: &Key) -> Option<&Context> {
        of(&self.purged, key)
    }

    /// The purgeable events of a key.
    pub fn purgeable_of(&self, key: &Key) -> Option<&Context> {
        of(&self.purgeable, key)
    }
}

fn of<'a>(purgeable_keys: &'a [PurgeableKey], key: &Key) -> Option<&'a Context> {
    let at = purgeable_keys.binary_search_by(|purgeable_key| purgeable_key.key.cmp(key)).ok()?;
    purgeable_keys.get(at).map(|purgeable_key| &purgeable_key.dead)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::causal::{Actor, ActorEpoch, Dot};

    fn purgeable_key(key: &str, counter: u64) -> PurgeableKey {
        let actor = Actor { store: 1, actor_epoch: ActorEpoch(2) };
        let key = Key::new(key.as_bytes().to_vec()).unwrap();
        PurgeableKey { key, dead: Context::new(vec![Dot { actor, counter }]) }
    }

    #[test]
    fn what_is_purgeable_is_purged_next_and_only_two_gc_epochs_are_taken() {
        let first = GcState::default();
        let second = first.next(vec![purgeable_key("b", 1), purgeable_key("a", 2)]);
        assert_eq!(
            second.purgeable_of(&purgeable_key("a", 0).key),
            Some(&purgeable_key("a", 2).dead)
        );
        assert_eq!(second.purged_of(&purgeable_key("a", 0).key), None);
        let third = second.next(Vec::new());
        assert_eq!(third.purged_of(&purgeable_key("b", 0).key), Some(&purgeable_key("b", 1).dead));
        assert_eq!((third.number.0, third.purgeable.len()), (2, 0));
        let taken: Vec<u64> = (0..5).filter(|stamp| third.takes(GcEpoch(*stamp))).collect();
        assert_eq!(taken, [1, 2]);
        assert!(third.is_sound(GcEpoch::FIRST) && !third.takes(GcEpoch(u64::MAX)));
    }

    #[test]
    fn a_forged_gc_epoch_is_not_sound() {
        let sound = GcState::default().next(vec![purgeable_key("a", 1), purgeable_key("b", 1)]);
        let swapped = vec![purgeable_key("b", 1), purgeable_key("a", 1)];
        let many =
            (0..=MAX_PURGEABLE_KEYS).map(|at| purgeable_key(&format!("{at:05}"), 1)).collect();
        for forged in [
            GcState { number: GcEpoch(u64::MAX), ..sound.clone() },
            GcState { purgeable: swapped, ..sound.clone() },
            GcState { purged: many, ..sound },
        ] {
            assert!(!forged.is_sound(GcEpoch(1)), "{}", forged.number);
        }
    }
}
