//! Generations of a partition: how events without a value leave the clocks by proof, not by timers.
//!
//! Every object on its way is stamped with the generation at which it was minted or read, and a
//! node at generation g takes those of g and g - 1 only. To advance from g to g + 1, every member
//! confirms from synced state that it keeps no hint of before g, and every home that it holds the
//! events that are condemned next as dead. What was condemned before is then collected: at g + 1 no
//! copy, hint or message that is still taken shows it alive (docs/internals/tombstone-gc.md).

use std::fmt;

use bincode::{BorrowDecode, Encode};
use bytes::Bytes;

use crate::causal::Context;
use crate::types::Key;

/// Most keys that are condemned at a time.
pub const MAX_GRAVES: usize = 1_000;
/// Whoever proposes condemns no more than about so many bytes at a time: a generation is one value
/// on disk, and written anew with each proposal.
pub const GRAVES_BYTES: usize = 64 << 10;
/// About what an event takes.
const DOT_BYTES: usize = 24;
/// A number that is so far ahead is forged: generations last seconds.
const MAX_AHEAD: u64 = 1 << 32;

/// Events of a key that have no value any more at any home.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct Grave {
    /// The key.
    pub key: Key,
    /// The events: all of each actor up to a counter.
    pub dead: Context,
}

/// The number of a generation of one partition, from 0; also the stamp of what was minted or read
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

/// A generation of a partition, as every member keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct Generation {
    /// Its number.
    pub number: GcEpoch,
    /// What every home held as dead when it began, sorted by key: collected when the next one
    /// begins.
    pub condemned: Vec<Grave>,
    /// What was condemned in the one before, sorted by key: no home keeps it any longer.
    pub collected: Vec<Grave>,
}

impl Grave {
    /// About how many bytes it takes.
    pub fn bytes(&self) -> usize {
        self.key.as_bytes().len() + DOT_BYTES * self.dead.dots().len()
    }
}

impl Generation {
    /// About how many bytes it takes.
    pub fn bytes(&self) -> usize {
        self.condemned.iter().chain(&self.collected).map(Grave::bytes).sum()
    }

    /// True if a node at generation `own` may take this one over from a peer: what it lists is in
    /// order and bounded, and its number is one that can have been reached.
    pub fn is_sound(&self, own: GcEpoch) -> bool {
        let sorted = |graves: &[Grave]| {
            graves.len() <= MAX_GRAVES && graves.windows(2).all(|pair| pair[0].key < pair[1].key)
        };
        self.number.0 <= own.0.saturating_add(MAX_AHEAD)
            && sorted(&self.condemned)
            && sorted(&self.collected)
    }

    /// The one that follows when every member has confirmed that `condemned` is dead.
    pub fn next(&self, mut condemned: Vec<Grave>) -> Self {
        condemned.sort_by(|a, b| a.key.cmp(&b.key));
        Generation { number: self.number.next(), condemned, collected: self.condemned.clone() }
    }

    /// True if an object with this stamp is of this generation or the one before.
    pub fn takes(&self, stamp: GcEpoch) -> bool {
        stamp <= self.number && stamp.next() >= self.number
    }

    /// What is collected of a key.
    pub fn collected_of(&self, key: &Key) -> Option<&Context> {
        of(&self.collected, key)
    }

    /// What is condemned of a key.
    pub fn condemned_of(&self, key: &Key) -> Option<&Context> {
        of(&self.condemned, key)
    }
}

fn of<'a>(graves: &'a [Grave], key: &Key) -> Option<&'a Context> {
    let at = graves.binary_search_by(|grave| grave.key.cmp(key)).ok()?;
    graves.get(at).map(|grave| &grave.dead)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::causal::{Actor, Dot};

    fn grave(key: &str, counter: u64) -> Grave {
        let actor = Actor { store: 1, serial: 2 };
        let key = Key::new(key.as_bytes().to_vec()).unwrap();
        Grave { key, dead: Context::new(vec![Dot { actor, counter }]) }
    }

    #[test]
    fn what_is_condemned_is_collected_next_and_only_two_generations_are_taken() {
        let first = Generation::default();
        let second = first.next(vec![grave("b", 1), grave("a", 2)]);
        assert_eq!(second.condemned_of(&grave("a", 0).key), Some(&grave("a", 2).dead));
        assert_eq!(second.collected_of(&grave("a", 0).key), None);
        let third = second.next(Vec::new());
        assert_eq!(third.collected_of(&grave("b", 0).key), Some(&grave("b", 1).dead));
        assert_eq!((third.number.0, third.condemned.len()), (2, 0));
        let taken: Vec<u64> = (0..5).filter(|stamp| third.takes(GcEpoch(*stamp))).collect();
        assert_eq!(taken, [1, 2]);
        assert!(third.is_sound(GcEpoch::FIRST) && !third.takes(GcEpoch(u64::MAX)));
    }

    #[test]
    fn a_forged_generation_is_not_sound() {
        let sound = Generation::default().next(vec![grave("a", 1), grave("b", 1)]);
        let swapped = vec![grave("b", 1), grave("a", 1)];
        let many = (0..=MAX_GRAVES).map(|at| grave(&format!("{at:05}"), 1)).collect();
        for forged in [
            Generation { number: GcEpoch(u64::MAX), ..sound.clone() },
            Generation { condemned: swapped, ..sound.clone() },
            Generation { collected: many, ..sound },
        ] {
            assert!(!forged.is_sound(GcEpoch(1)), "{}", forged.number);
        }
    }
}
