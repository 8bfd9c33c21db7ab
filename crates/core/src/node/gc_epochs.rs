//! What this node knows of the GC epochs of all partitions, and which objects it may take.

use std::collections::BTreeMap;

use crate::causal::Object;
use crate::gc_epoch::{GcEpoch, GcState};
use crate::message::Rejection;
use crate::types::{Partition, hash64};

/// An object, and the GC epoch that it was issued or read in.
#[derive(Clone, Debug)]
pub(super) struct Stamped {
    pub(super) object: Object,
    pub(super) gc_epoch: GcEpoch,
}

/// The GC epoch of each partition.
#[derive(Clone, Debug, Default)]
pub(super) struct GcEpochs {
    known: BTreeMap<Partition, GcState>,
    first: GcState,
    /// The GC epoch in which this incarnation has agreed to the next one: it is as new as
    /// everybody's.
    agreed: BTreeMap<Partition, GcEpoch>,
    /// The later GC epoch that is being taken over, where this disk turned out to be an old one.
    adopting: BTreeMap<Partition, GcEpoch>,
}

impl GcEpochs {
    /// As the store has them.
    pub(super) fn new(known: &[(Partition, GcState)]) -> Self {
        GcEpochs { known: known.iter().cloned().collect(), ..GcEpochs::default() }
    }

    /// The GC epoch of a partition.
    pub(super) fn of(&self, partition: Partition) -> &GcState {
        self.known.get(&partition).unwrap_or(&self.first)
    }

    /// Its number: the stamp of what is issued or read now.
    pub(super) fn number(&self, partition: Partition) -> GcEpoch {
        self.of(partition).number
    }

    /// Replaces it.
    pub(super) fn set(&mut self, partition: Partition, gc_epoch: GcState) {
        debug_assert!(
            gc_epoch.number > self.number(partition),
            "a GC epoch is followed by a later one only"
        );
        self.adopting.remove(&partition);
        self.known.insert(partition, gc_epoch);
    }

    /// A much later GC epoch is about to be taken over, and what is old here discarded: objects
    /// that would be refused under it are refused from now on, or one could come behind the reading
    /// of the records.
    pub(super) fn begin_adopting(&mut self, partition: Partition, number: GcEpoch) {
        let known = self.adopting.entry(partition).or_default();
        *known = number.max(*known);
    }

    /// This node has agreed that the partition's GC epoch ends.
    pub(super) fn agree(&mut self, partition: Partition) {
        self.agreed.insert(partition, self.number(partition));
    }

    /// Refuses an object that is older than the GC epoch before this one: what it shows alive may
    /// be purged. One of a later GC epoch is taken only if this node has agreed to that; otherwise
    /// its disk may be an old one, and it has to learn the GC epoch first.
    pub(super) fn check(&self, partition: Partition, given: GcEpoch) -> Result<(), Rejection> {
        let own = self.of(partition);
        let floor = self.adopting.get(&partition).copied().unwrap_or_default();
        if given.next() < floor {
            return Err(Rejection::GcState { given, own: floor });
        }
        let follows = own.number < given
            && own.number.next() == given
            && self.agreed.get(&partition) == Some(&own.number);
        if own.takes(given) || follows {
            return Ok(());
        }
        Err(Rejection::GcState { given, own: own.number })
    }

    /// Refuses an object that is to be kept for another node and is older than the present GC
    /// epoch: the members agree to the next one only when no such hint is left.
    pub(super) fn check_hint(&self, partition: Partition, given: GcEpoch) -> Result<(), Rejection> {
        let own = self.number(partition);
        if given < own {
            return Err(Rejection::GcState { given, own });
        }
        self.check(partition, given)
    }

    /// The numbers of all that are not the first one.
    pub(super) fn numbers(&self) -> Vec<(Partition, GcEpoch)> {
        let numbers = self.known.iter().map(|(partition, known)| (*partition, known.number));
        numbers.filter(|(_, number)| *number > GcEpoch::FIRST).collect()
    }

    /// Equal where two nodes know the same numbers.
    pub(super) fn digest(&self) -> u64 {
        let numbers = self.numbers().into_iter();
        let bytes: Vec<u8> = numbers
            .flat_map(|(partition, number)| {
                [&partition.0.to_be_bytes()[..], &number.0.to_be_bytes()].concat()
            })
            .collect();
        hash64(&[b"generations", &bytes])
    }
}
