//! The changes to this node's records that a change of GC epoch requires: key by key, by the
//! replica, a few at a time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::gc_epoch::{GcState, PurgeableKey};
use crate::message::{Body, NotYet, Rejection};
use crate::node::ids::{RequestId, RequestIds, ScanPurpose, ScanToken, SyncSeq};
use crate::node::io::Io;
use crate::store::Span;
use crate::types::{Key, Micros, NodeId, Partition, Time};

/// Keys at a time, while no client waits for this node and while some do.
const MAX_OPEN: usize = 32;
const MAX_OPEN_BESIDE_CLIENTS: usize = 8;
/// While clients wait, each batch of keys is followed by a pause of this many times the time that
/// it took.
const PAUSE_PER_BATCH: u64 = 9;
/// Bounds of such a pause: a proposer waits for all the keys of its round, and gives up after a
/// while.
const MIN_PAUSE: Micros = Micros::from_millis(5);
const MAX_PAUSE: Micros = Micros::from_millis(25);
/// Bytes of records read at a time.
const PAGE_BYTES: usize = 256 << 10;

/// What a task is for.
#[derive(Clone, Debug)]
pub(super) enum Purpose {
    /// Marks purgeable events dead, to agree to a proposal.
    Agree { to: NodeId, request_id: RequestId },
    /// The same, to adopt a later GC epoch, or to begin one and send it to all; before that, old
    /// records are discarded.
    Adopt { gc_epoch: GcState, discard: bool, report: bool },
    /// Removes purged events.
    Clear,
}

/// How a task has ended.
pub(super) enum Ended {
    Agreed { to: NodeId, request_id: RequestId },
    Refused { to: NodeId, request_id: RequestId, why: NotYet },
    Adopted { gc_epoch: GcState, report: bool },
    Nothing,
}

/// At most one task for each partition.
#[derive(Clone, Debug, Default)]
pub(super) struct Tasks {
    all: BTreeMap<Partition, Task>,
}

#[derive(Clone, Debug)]
struct Task {
    purpose: Purpose,
    purgeable_keys: VecDeque<PurgeableKey>,
    /// Keys to be discarded.
    old: VecDeque<Key>,
    reading: Reading,
    open: BTreeSet<RequestId>,
    /// When the first of the open ones was given to the replica, and when further ones may follow
    /// beside clients.
    since: Time,
    paused_until: Time,
    failed: Option<Rejection>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Reading {
    /// From the first key, once this write is durable: changes made before the task began are on
    /// the disk then.
    After(SyncSeq),
    /// Behind this key; `None`: from the first key of the partition.
    Next(Option<Key>),
    Under(ScanToken),
    Over,
}

impl Tasks {
    /// True if a partition has one.
    pub(super) fn has(&self, partition: Partition) -> bool {
        self.all.contains_key(&partition)
    }

    /// True if a later GC epoch is being taken over.
    pub(super) fn is_adopting(&self, partition: Partition) -> bool {
        let task = self.all.get(&partition);
        task.is_some_and(|task| matches!(task.purpose, Purpose::Adopt { .. }))
    }

    /// Begins a task, in the place of another one of the partition; `seq` is the newest write.
    pub(super) fn begin(
        &mut self,
        partition: Partition,
        purpose: Purpose,
        purgeable_keys: Vec<PurgeableKey>,
        seq: SyncSeq,
    ) {
        let reading = match purpose {
            Purpose::Adopt { discard: true, .. } => Reading::After(seq),
            _ => Reading::Over,
        };
        let (purgeable_keys, old, open) = (purgeable_keys.into(), VecDeque::new(), BTreeSet::new());
        let (since, paused_until) = (Time::START, Time::START);
        let task =
            Task { purpose, purgeable_keys, old, reading, open, since, paused_until, failed: None };
        self.all.insert(partition, task);
    }

    /// How many proposals of other members are being prepared for.
    pub(super) fn agreeing_to_others(&self, me: NodeId) -> usize {
        let agrees = |task: &&Task| matches!(task.purpose, Purpose::Agree { to, .. } if to != me);
        self.all.values().filter(agrees).count()
    }

    /// When the next keys are due, where a task rests.
    pub(super) fn next_wake(&self) -> Option<Time> {
        self.all.values().filter(|task| task.pauses()).map(|task| task.paused_until).min()
    }

    /// The partitions whose task waits for a write to be durable, or for its time.
    pub(super) fn waiting(&self) -> Vec<Partition> {
        let waits = |task: &Task| matches!(task.reading, Reading::After(_)) || task.pauses();
        self.all.iter().filter(|(_, task)| waits(task)).map(|(partition, _)| *partition).collect()
    }

    /// The partition that a scan was for.
    pub(super) fn reads(&self, token: ScanToken) -> Option<Partition> {
        let found = self.all.iter().find(|(_, task)| task.reading == Reading::Under(token));
        found.map(|(partition, _)| *partition)
    }

    /// The keys of a part of a partition that is to be discarded.
    pub(super) fn found(&mut self, partition: Partition, keys: VecDeque<Key>, next: Option<Key>) {
        if let Some(task) = self.all.get_mut(&partition) {
            task.old = keys;
            task.reading = next.map_or(Reading::Over, |next| Reading::Next(Some(next)));
        }
    }

    /// The replica has changed one key, or could not. Returns the partition.
    pub(super) fn done(
        &mut self,
        now: Time,
        request_id: RequestId,
        body: &Body,
    ) -> Option<Partition> {
        let found = self.all.iter_mut().find(|(_, task)| task.open.contains(&request_id));
        let (partition, task) = found?;
        task.open.remove(&request_id);
        if task.open.is_empty() {
            let rest = PAUSE_PER_BATCH * now.saturating_since(task.since);
            task.paused_until = now + rest.clamp(MIN_PAUSE, MAX_PAUSE);
        }
        // A damaged record shows nothing alive, and what replaces it is rid of what is purgeable.
        let adopting = matches!(task.purpose, Purpose::Adopt { .. });
        match body {
            Body::Failed(Rejection::Damaged) if adopting => {}
            Body::Failed(rejection) => task.failed = Some(rejection.clone()),
            _ => {}
        }
        Some(*partition)
    }

    /// Passes as many keys to the replica as it may have at a time; returns how the task has ended,
    /// if it has. Only where there are records is
    /// anything to be changed.
    pub(super) fn go_on(
        &mut self,
        partition: Partition,
        has_records: bool,
        ids: &mut RequestIds,
        io: &mut Io,
    ) -> Option<Ended> {
        let open = self.all.values().map(|task| task.open.len()).sum();
        let task = self.all.get_mut(&partition)?;
        if !has_records || task.failed.is_some() {
            task.purgeable_keys.clear();
            task.old.clear();
            task.reading = Reading::Over;
        }
        if let Reading::After(seq) = task.reading {
            if !io.out.is_durable(seq) {
                return None;
            }
            task.reading = Reading::Next(None);
        }
        let now = io.local.now();
        let most = if io.local.is_busy() { task.most_beside_clients(now, open) } else { MAX_OPEN };
        if most == 0 && task.pauses() {
            return None;
        }
        if task.open.is_empty() {
            task.since = now;
        }
        while task.open.len() < most
            && let Some(body) = task.next()
        {
            let request_id = ids.next();
            task.open.insert(request_id);
            io.out.send(vec![io.local.me()], request_id, body);
        }
        if !task.open.is_empty() || matches!(task.reading, Reading::Under(_)) {
            return None;
        }
        if let Reading::Next(after) = &task.reading {
            let span = Span { after: after.clone(), limit_bytes: PAGE_BYTES, ..Span::default() };
            task.reading = Reading::Under(io.out.scan(ScanPurpose::Task, partition, span));
            return None;
        }
        let Task { purpose, failed, .. } = self.all.remove(&partition)?;
        Some(match (purpose, failed) {
            (Purpose::Agree { to, request_id }, None) => Ended::Agreed { to, request_id },
            (Purpose::Agree { to, request_id }, Some(rejection)) => {
                Ended::Refused { to, request_id, why: NotYet::Refused { rejection } }
            }
            (Purpose::Adopt { gc_epoch, report, .. }, None) => Ended::Adopted { gc_epoch, report },
            // The next report of this GC epoch starts it again.
            (Purpose::Adopt { .. }, Some(_)) | (Purpose::Clear, _) => Ended::Nothing,
        })
    }
}

impl Task {
    /// True if nothing is being done, and there is more to do.
    fn pauses(&self) -> bool {
        let has_more = !self.purgeable_keys.is_empty() || !self.old.is_empty();
        let reads = matches!(self.reading, Reading::Under(_) | Reading::After(_));
        self.open.is_empty() && has_more && !reads
    }

    /// How many keys may be open beside clients, where `open` are in all partitions.
    fn most_beside_clients(&mut self, now: Time, open: usize) -> usize {
        match self.purpose {
            // Members of two GC epochs refuse hints of each other, so it does not rest. What it
            // is to marks dead is dead here already, or this disk is an old one.
            Purpose::Adopt { .. } => return MAX_OPEN,
            // Nobody waits for what is cleared, and after a start all partitions are at once.
            Purpose::Clear if open >= MAX_OPEN_BESIDE_CLIENTS && now >= self.paused_until => {
                self.paused_until = now + MAX_PAUSE;
            }
            Purpose::Clear | Purpose::Agree { .. } => {}
        }
        // Waits for the open keys, and rests after them.
        let may_begin = self.open.is_empty() && now >= self.paused_until;
        if may_begin { MAX_OPEN_BESIDE_CLIENTS } else { 0 }
    }

    /// The next thing to be done to a key: nothing is marked dead before all that is old is
    /// discarded.
    fn next(&mut self) -> Option<Body> {
        if let Some(key) = self.old.pop_front() {
            return Some(Body::Discard { key, target: None });
        }
        if self.reading != Reading::Over {
            return None;
        }
        let purgeable_key = self.purgeable_keys.pop_front()?;
        Some(match self.purpose {
            Purpose::Clear => Body::Purge { key: purgeable_key.key },
            _ => Body::MarkDead(purgeable_key),
        })
    }
}
