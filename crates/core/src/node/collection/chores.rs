//! What a change of generation asks of the own records: key by key, by the replica, a few at a
//! time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::generation::{Generation, Grave};
use crate::message::{Body, NotYet, Refusal};
use crate::node::effects::Effects;
use crate::node::ids::{RequestId, RequestIds, ScanPurpose, ScanToken};
use crate::store::Span;
use crate::types::{Key, NodeId, Partition};

/// Keys at a time.
const MAX_OPEN: usize = 32;
/// Bytes of records read at a time.
const PAGE_BYTES: usize = 256 << 10;

/// What a chore is for.
#[derive(Clone, Debug)]
pub(super) enum Purpose {
    /// What is condemned is buried, to agree to a proposal.
    Agree { to: NodeId, op: RequestId },
    /// The same, to take over a later generation, or to begin it and tell all; before it, an old
    /// record is renounced.
    Adopt { generation: Generation, renounce: bool, tell: bool },
    /// What is collected is taken out.
    Clear,
}

/// How a chore has ended.
pub(super) enum Ended {
    Agreed { to: NodeId, op: RequestId },
    Refused { to: NodeId, op: RequestId, why: NotYet },
    Adopted { generation: Generation, tell: bool },
    Nothing,
}

/// At most one chore for each partition.
#[derive(Clone, Debug, Default)]
pub(super) struct Chores {
    all: BTreeMap<Partition, Chore>,
}

#[derive(Clone, Debug)]
struct Chore {
    purpose: Purpose,
    graves: VecDeque<Grave>,
    /// Keys to be renounced, and where to read on for more.
    old: VecDeque<Key>,
    reading: Reading,
    open: BTreeSet<RequestId>,
    failed: Option<Refusal>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Reading {
    /// From the beginning, once this write is durable: what was taken before the chore began is on
    /// the disk then.
    After(u64),
    /// Behind this key.
    Next(Option<Key>),
    Under(ScanToken),
    Over,
}

impl Chores {
    /// True if a partition has one.
    pub(super) fn has(&self, partition: Partition) -> bool {
        self.all.contains_key(&partition)
    }

    /// True if a later generation is being taken over.
    pub(super) fn is_adopting(&self, partition: Partition) -> bool {
        let chore = self.all.get(&partition);
        chore.is_some_and(|chore| matches!(chore.purpose, Purpose::Adopt { .. }))
    }

    /// Begins a chore, in the place of another one of the partition; `mark` is the newest write.
    pub(super) fn begin(
        &mut self,
        partition: Partition,
        purpose: Purpose,
        graves: Vec<Grave>,
        mark: u64,
    ) {
        let reading = match purpose {
            Purpose::Adopt { renounce: true, .. } => Reading::After(mark),
            _ => Reading::Over,
        };
        let (graves, old, open) = (graves.into(), VecDeque::new(), BTreeSet::new());
        let chore = Chore { purpose, graves, old, reading, open, failed: None };
        self.all.insert(partition, chore);
    }

    /// The partitions whose chore waits for a write to be durable.
    pub(super) fn waiting(&self) -> Vec<Partition> {
        let waits = |chore: &Chore| matches!(chore.reading, Reading::After(_));
        self.all.iter().filter(|(_, chore)| waits(chore)).map(|(partition, _)| *partition).collect()
    }

    /// The partition that a scan was for.
    pub(super) fn reads(&self, token: ScanToken) -> Option<Partition> {
        let found = self.all.iter().find(|(_, chore)| chore.reading == Reading::Under(token));
        found.map(|(partition, _)| *partition)
    }

    /// The keys of a part of a partition that is to be renounced.
    pub(super) fn found(&mut self, partition: Partition, keys: VecDeque<Key>, next: Option<Key>) {
        if let Some(chore) = self.all.get_mut(&partition) {
            chore.old = keys;
            chore.reading = next.map_or(Reading::Over, |next| Reading::Next(Some(next)));
        }
    }

    /// The replica has done one thing, or could not. Gives the partition.
    pub(super) fn done(&mut self, op: RequestId, body: &Body) -> Option<Partition> {
        let found = self.all.iter_mut().find(|(_, chore)| chore.open.contains(&op));
        let (partition, chore) = found?;
        chore.open.remove(&op);
        // A damaged record shows nothing alive, and what replaces it is rid of what is condemned.
        let adopting = matches!(chore.purpose, Purpose::Adopt { .. });
        match body {
            Body::Failed(Refusal::Damaged) if adopting => {}
            Body::Failed(refusal) => chore.failed = Some(refusal.clone()),
            _ => {}
        }
        Some(*partition)
    }

    /// Gives the replica as much as it may have at a time; says how the chore has ended, if it has.
    /// Only a home has records to see to.
    pub(super) fn go_on(
        &mut self,
        partition: Partition,
        is_home: bool,
        ids: &mut RequestIds,
        fx: &mut Effects,
    ) -> Option<Ended> {
        let chore = self.all.get_mut(&partition)?;
        if !is_home || chore.failed.is_some() {
            chore.graves.clear();
            chore.old.clear();
            chore.reading = Reading::Over;
        }
        if let Reading::After(mark) = chore.reading {
            if !fx.out.is_durable(mark) {
                return None;
            }
            chore.reading = Reading::Next(None);
        }
        while chore.open.len() < MAX_OPEN
            && let Some(body) = chore.next()
        {
            let op = ids.next();
            chore.open.insert(op);
            fx.out.send(vec![fx.local.me()], op, body);
        }
        if !chore.open.is_empty() || matches!(chore.reading, Reading::Under(_)) {
            return None;
        }
        if let Reading::Next(after) = &chore.reading {
            let span = Span { after: after.clone(), limit_bytes: PAGE_BYTES, ..Span::default() };
            chore.reading = Reading::Under(fx.out.scan(ScanPurpose::Chore, partition, span));
            return None;
        }
        let Chore { purpose, failed, .. } = self.all.remove(&partition)?;
        Some(match (purpose, failed) {
            (Purpose::Agree { to, op }, None) => Ended::Agreed { to, op },
            (Purpose::Agree { to, op }, Some(refusal)) => {
                Ended::Refused { to, op, why: NotYet::Refused { refusal } }
            }
            (Purpose::Adopt { generation, tell, .. }, None) => Ended::Adopted { generation, tell },
            // It is met again when somebody tells of the generation.
            (Purpose::Adopt { .. }, Some(_)) | (Purpose::Clear, _) => Ended::Nothing,
        })
    }
}

impl Chore {
    /// The next thing to be done to a key: nothing is buried before all that is old is renounced.
    fn next(&mut self) -> Option<Body> {
        if let Some(key) = self.old.pop_front() {
            return Some(Body::Renounce { key, target: None });
        }
        if self.reading != Reading::Over {
            return None;
        }
        let grave = self.graves.pop_front()?;
        Some(match self.purpose {
            Purpose::Clear => Body::Collect { key: grave.key },
            _ => Body::Bury(grave),
        })
    }
}
