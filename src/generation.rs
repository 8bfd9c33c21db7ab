//! Generations of a partition: how events without a value leave the clocks by proof, not by timers.
//!
//! Every object on its way is stamped with the generation at which it was minted or read, and a node at generation g takes
//! those of g and g - 1 only. To advance from g to g + 1, every member confirms from synced state that it keeps no hint of
//! before g, and every home that it holds the events that are condemned next as dead. What was condemned before is then
//! collected: at g + 1 no copy, hint or message that is still taken shows it alive. ARCHITECTURE.md has the argument.

use bincode::{BorrowDecode, Encode};
use bytes::Bytes;

use crate::causal::Context;
use crate::types::Key;

/// Events of a key that have no value any more at any home.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct Grave {
    /// The key.
    pub key: Key,
    /// The events: all of each actor up to a counter.
    pub dead: Context,
}

/// A generation of a partition, as every member keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct Generation {
    /// Its number, 0 at first.
    pub number: u64,
    /// What every home held as dead when it began, sorted by key: collected when the next one begins.
    pub condemned: Vec<Grave>,
    /// What was condemned in the one before, sorted by key: no home keeps it any longer.
    pub collected: Vec<Grave>,
}

impl Generation {
    /// The one that follows when every member has confirmed that `condemned` is dead.
    pub fn next(&self, mut condemned: Vec<Grave>) -> Self {
        condemned.sort_by(|a, b| a.key.cmp(&b.key));
        Generation { number: self.number + 1, condemned, collected: self.condemned.clone() }
    }

    /// True if an object with this stamp is of this generation or the one before.
    pub fn takes(&self, stamp: u64) -> bool {
        stamp <= self.number && stamp + 1 >= self.number
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
