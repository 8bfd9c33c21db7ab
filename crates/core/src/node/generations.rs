//! What this node knows of the generations of all partitions, and which objects it may take.

use std::collections::BTreeMap;

use crate::causal::Object;
use crate::generation::{GcEpoch, Generation};
use crate::message::Refusal;
use crate::types::{Partition, hash64};

/// An object, and the generation that it was minted or read in.
#[derive(Clone, Debug)]
pub(super) struct Stamped {
    pub(super) object: Object,
    pub(super) generation: GcEpoch,
}

/// The generation of each partition.
#[derive(Clone, Debug, Default)]
pub(super) struct Generations {
    known: BTreeMap<Partition, Generation>,
    first: Generation,
    /// The generation in which this life has agreed to the next one: it is as new as everybody's.
    agreed: BTreeMap<Partition, GcEpoch>,
    /// The later generation that is being taken over, where this disk turned out to be an old one.
    adopting: BTreeMap<Partition, GcEpoch>,
}

impl Generations {
    /// As the store has them.
    pub(super) fn new(known: &[(Partition, Generation)]) -> Self {
        Generations { known: known.iter().cloned().collect(), ..Generations::default() }
    }

    /// The generation of a partition.
    pub(super) fn of(&self, partition: Partition) -> &Generation {
        self.known.get(&partition).unwrap_or(&self.first)
    }

    /// Its number: the stamp of what is minted or read now.
    pub(super) fn number(&self, partition: Partition) -> GcEpoch {
        self.of(partition).number
    }

    /// Replaces it.
    pub(super) fn set(&mut self, partition: Partition, generation: Generation) {
        debug_assert!(
            generation.number > self.number(partition),
            "a generation is followed by a later one only"
        );
        self.adopting.remove(&partition);
        self.known.insert(partition, generation);
    }

    /// A much later generation is about to be taken over, and what is old here renounced: objects
    /// that would be refused under it are refused from now on, or one could come behind the reading
    /// of the records.
    pub(super) fn begin_adopting(&mut self, partition: Partition, number: GcEpoch) {
        let known = self.adopting.entry(partition).or_default();
        *known = number.max(*known);
    }

    /// This node has agreed that the partition's generation ends.
    pub(super) fn agree(&mut self, partition: Partition) {
        self.agreed.insert(partition, self.number(partition));
    }

    /// Refuses an object that is older than the generation before this one: what it shows alive may be collected. One of a
    /// later generation is taken only if this node has agreed to that; otherwise its disk may be an old one, and it has to
    /// learn the generation first.
    pub(super) fn check(&self, partition: Partition, given: GcEpoch) -> Result<(), Refusal> {
        let own = self.of(partition);
        let floor = self.adopting.get(&partition).copied().unwrap_or_default();
        if given.next() < floor {
            return Err(Refusal::Generation { given, own: floor });
        }
        let follows = own.number < given
            && own.number.next() == given
            && self.agreed.get(&partition) == Some(&own.number);
        if own.takes(given) || follows {
            return Ok(());
        }
        Err(Refusal::Generation { given, own: own.number })
    }

    /// Refuses an object that is to be kept for another node and is older than the present generation: the members agree
    /// to the next one only when no such hint is left.
    pub(super) fn check_hint(&self, partition: Partition, given: GcEpoch) -> Result<(), Refusal> {
        let own = self.number(partition);
        if given < own {
            return Err(Refusal::Generation { given, own });
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
