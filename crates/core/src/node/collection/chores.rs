//! What a change of generation asks of the own records: key by key, by the replica, a few at a
//! time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::generation::{Generation, Grave};
use crate::message::{Body, NotYet, Refusal};
use crate::node::effects::Effects;
use crate::node::ids::{RequestId, RequestIds, ScanPurpose, ScanToken, SyncSeq};
use crate::store::Span;
use crate::types::{Key, Micros, NodeId, Partition, Time};

/// Keys at a time, while no client waits for this node and while some do.
const MAX_OPEN: usize = 32;
const MAX_OPEN_BESIDE_CLIENTS: usize = 8;
/// While clients wait, so many keys are followed by a pause of so many times what they took,
const REST_PER_BATCH: u64 = 9;
/// within these bounds: a proposer waits for all the keys of its round, and gives it up after a
/// while.
const LEAST_REST: Micros = Micros::from_millis(5);
const MOST_REST: Micros = Micros::from_millis(25);
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
    /// When the first of the open ones was given to the replica, and when further ones may follow
    /// beside clients.
    since: Time,
    rest_until: Time,
    failed: Option<Refusal>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Reading {
    /// From the beginning, once this write is durable: what was taken before the chore began is on
    /// the disk then.
    After(SyncSeq),
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
        mark: SyncSeq,
    ) {
        let reading = match purpose {
            Purpose::Adopt { renounce: true, .. } => Reading::After(mark),
            _ => Reading::Over,
        };
        let (graves, old, open) = (graves.into(), VecDeque::new(), BTreeSet::new());
        let (since, rest_until) = (Time::START, Time::START);
        let chore = Chore { purpose, graves, old, reading, open, since, rest_until, failed: None };
        self.all.insert(partition, chore);
    }

    /// How many proposals of other members are being prepared for.
    pub(super) fn agreeing_to_others(&self, me: NodeId) -> usize {
        let agrees =
            |chore: &&Chore| matches!(chore.purpose, Purpose::Agree { to, .. } if to != me);
        self.all.values().filter(agrees).count()
    }

    /// When the next keys are due, where a chore rests.
    pub(super) fn next_wake(&self) -> Option<Time> {
        self.all.values().filter(|chore| chore.rests()).map(|chore| chore.rest_until).min()
    }

    /// The partitions whose chore waits for a write to be durable, or for its time.
    pub(super) fn waiting(&self) -> Vec<Partition> {
        let waits = |chore: &Chore| matches!(chore.reading, Reading::After(_)) || chore.rests();
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
    pub(super) fn done(&mut self, now: Time, op: RequestId, body: &Body) -> Option<Partition> {
        let found = self.all.iter_mut().find(|(_, chore)| chore.open.contains(&op));
        let (partition, chore) = found?;
        chore.open.remove(&op);
        if chore.open.is_empty() {
            let rest = REST_PER_BATCH * now.saturating_since(chore.since);
            chore.rest_until = now + rest.clamp(LEAST_REST, MOST_REST);
        }
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
        let open = self.all.values().map(|chore| chore.open.len()).sum();
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
        let now = fx.local.now();
        let most = if fx.local.is_busy() { chore.most_beside_clients(now, open) } else { MAX_OPEN };
        if most == 0 && chore.rests() {
            return None;
        }
        if chore.open.is_empty() {
            chore.since = now;
        }
        while chore.open.len() < most
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
    /// True if nothing is being done, and there is more to do.
    fn rests(&self) -> bool {
        let has_more = !self.graves.is_empty() || !self.old.is_empty();
        let reads = matches!(self.reading, Reading::Under(_) | Reading::After(_));
        self.open.is_empty() && has_more && !reads
    }

    /// How many keys may be open beside clients, where `open` are in all partitions.
    fn most_beside_clients(&mut self, now: Time, open: usize) -> usize {
        match self.purpose {
            // Members of two generations refuse hints of each other, so it does not rest. What it
            // is to bury is dead here already, or this disk is an old one.
            Purpose::Adopt { .. } => return MAX_OPEN,
            // Nobody waits for what is cleared, and after a start all partitions are at once.
            Purpose::Clear if open >= MAX_OPEN_BESIDE_CLIENTS && now >= self.rest_until => {
                self.rest_until = now + MOST_REST;
            }
            Purpose::Clear | Purpose::Agree { .. } => {}
        }
        // What is open is waited for, and rested after.
        let may_begin = self.open.is_empty() && now >= self.rest_until;
        if may_begin { MAX_OPEN_BESIDE_CLIENTS } else { 0 }
    }

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
