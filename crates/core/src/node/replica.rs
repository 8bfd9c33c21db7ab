//! The replica: one store's copies. Everything that happens to one key is serialised here; dots are
//! minted here, under the actor rules that keep them unique.

mod turn;
mod update;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use self::turn::Turn;
use self::update::{Made, make, merge};
use super::effects::Effects;
use super::forest::Held;
use super::generations::Stamped;
use super::ids::{ReadToken, RequestId, Role, SyncSeq};
use super::local::stalled;
use super::{Config, Shortage, Stall};
use crate::causal::{Context, Object};
use crate::generation::{GcEpoch, Grave};
use crate::message::{self, Body, Counter, Refusal, Resource};
use crate::ring::Ring;
use crate::store::{Change, Found, Listing, Record};
use crate::types::{Key, NodeId, ObjectLimits, Partition};

/// Most operations waiting for one key.
const MAX_KEY_QUEUE: usize = 128;
/// Most operations waiting in all.
const MAX_QUEUE: usize = 16_384;
/// Most writes, and bytes of them, that wait for the disk: a slow one does not fill the memory.
const MAX_UNSYNCED: usize = 32_768;
const MAX_UNSYNCED_BYTES: usize = 128 << 20;
/// Largest page of keys, in bytes.
const MAX_LIST_BYTES: u32 = 1 << 20;

/// The copies of one store and the operations on them.
#[derive(Clone, Debug)]
pub(super) struct Replica {
    ring: Arc<Ring>,
    limits: ObjectLimits,
    keys: HashMap<Key, KeyState>,
    reads: HashMap<ReadToken, Key>,
    lists: HashMap<ReadToken, (NodeId, RequestId, Partition)>,
    /// Writes that are not synced: the mark, the key, and about how many bytes.
    unsynced: VecDeque<(SyncSeq, Key, usize)>,
    unsynced_bytes: usize,
    queued: usize,
    shortage: Option<Shortage>,
}

/// A key with something under way: a read of the disk, or a write that is not synced yet.
#[derive(Clone, Debug, Default)]
struct KeyState {
    /// The newest copy, ahead of the disk; `None` while it is being read.
    copies: Option<Copies>,
    /// The newest write of this key that is not synced.
    mark: Option<SyncSeq>,
    work: VecDeque<Work>,
}

/// What this store has of a key: its own record, and what it keeps for other members.
#[derive(Clone, Debug)]
struct Copies {
    own: Copy,
    hints: BTreeMap<NodeId, Copy>,
}

#[derive(Clone, Debug)]
enum Copy {
    Record(Record),
    Damaged,
}

impl Copy {
    /// What was found at a place; `None` if nothing was.
    fn of(found: Found, fx: &mut Effects) -> Option<Self> {
        match found {
            Found::Nothing => None,
            Found::Record(record) => Some(Copy::Record(record)),
            Found::Damaged => {
                fx.out.count(Counter::DamagedRecordsRead);
                Some(Copy::Damaged)
            }
        }
    }
}

/// An operation on one key, and who waits for its answer.
#[derive(Clone, Debug)]
struct Work {
    from: NodeId,
    op: RequestId,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Update {
        context: Context,
        change: message::Change,
        keep_for: Vec<NodeId>,
    },
    Merge {
        object: Object,
        generation: GcEpoch,
        hint: bool,
    },
    Keep {
        object: Object,
        keep_for: Vec<NodeId>,
        generation: GcEpoch,
    },
    Discharge {
        target: NodeId,
        object: Object,
    },
    Restore(Object),
    Bury(Context),
    Collect,
    Renounce(Option<NodeId>),
    Read,
    /// An update that nobody waits for any more.
    Withdrawn,
}

/// When an answer leaves.
enum Answer {
    /// When everything of the key is synced.
    Synced(Body),
    /// At once: it tells nothing of what is held here.
    Now(Body),
}

impl Replica {
    /// The replica at the start of a life.
    pub(super) fn new(config: &Config) -> Self {
        Replica {
            ring: config.ring.clone(),
            limits: config.object_limits,
            keys: HashMap::new(),
            reads: HashMap::new(),
            lists: HashMap::new(),
            unsynced: VecDeque::new(),
            unsynced_bytes: 0,
            queued: 0,
            shortage: None,
        }
    }

    /// Takes a question of a coordinator: an update, a merge, a read or a listing.
    pub(super) fn ask(&mut self, from: NodeId, op: RequestId, body: Body, fx: &mut Effects) {
        let (key, kind) = match body {
            Body::Update { key, context, change, keep_for } => {
                (key, Kind::Update { context, change, keep_for })
            }
            Body::Merge { key, object, generation } => {
                let hint = op.role() == Role::Handoff;
                (key, Kind::Merge { object, generation, hint })
            }
            Body::Keep { key, object, keep_for, generation } => {
                (key, Kind::Keep { object, keep_for, generation })
            }
            Body::Bury(Grave { key, dead }) => (key, Kind::Bury(dead)),
            Body::Collect { key } => (key, Kind::Collect),
            Body::Renounce { key, target } => (key, Kind::Renounce(target)),
            Body::Discharge { key, target, object } => (key, Kind::Discharge { target, object }),
            Body::Restore { key, object } => (key, Kind::Restore(object)),
            Body::Read { key } => (key, Kind::Read),
            Body::List { partition, after, limit_bytes } => {
                if fx.local.stall().is_some() {
                    return refuse(from, op, stalled(), fx);
                }
                let limit_bytes = limit_bytes.min(MAX_LIST_BYTES) as usize;
                let token = fx.out.list(partition, after, limit_bytes);
                self.lists.insert(token, (from, op, partition));
                return;
            }
            Body::Withdraw { key } => return self.withdraw(&key, from, op),
            _ => return,
        };
        if let Err(refusal) = self.admit(&key, &kind, fx) {
            return refuse(from, op, refusal, fx);
        }
        self.queued += 1;
        let state = self.keys.entry(key.clone()).or_default();
        let reading = !state.work.is_empty();
        state.work.push_back(Work { from, op, kind });
        if state.copies.is_some() {
            self.run(&key, fx);
        } else if !reading {
            let partition = self.ring.partition(&key);
            // Only homes are kept for, and those that were it before they were removed; where
            // nothing is kept for anybody, there is nothing to look up.
            let homes = self.ring.homes(partition);
            let is_due = |target: &NodeId| homes.contains(target) || !self.ring.has(*target);
            let hints_for = fx.local.hints.targets().filter(is_due).collect();
            let token = fx.out.read(partition, key.clone(), hints_for);
            self.reads.insert(token, key);
        }
    }

    /// Voids an update that has not been carried out. Its place in the queue stays: it may be what
    /// a read of the disk waits for.
    fn withdraw(&mut self, key: &Key, from: NodeId, op: RequestId) {
        let Some(state) = self.keys.get_mut(key) else { return };
        let its = |work: &&mut Work| {
            work.from == from && work.op == op && matches!(work.kind, Kind::Update { .. })
        };
        for work in state.work.iter_mut().filter(its) {
            work.kind = Kind::Withdrawn;
        }
    }

    /// True if an update of the key has not been carried out yet.
    pub(super) fn has_updates(&self, key: &Key) -> bool {
        let updates = |work: &Work| matches!(work.kind, Kind::Update { .. });
        self.keys.get(key).is_some_and(|state| state.work.iter().any(updates))
    }

    /// The disk is nearly full, or no longer: nothing is written below the reserve.
    pub(super) fn space(&mut self, shortage: Option<Shortage>) {
        self.shortage = shortage;
    }

    /// The store has stalled, or gets on again: who waits for it here is told to ask elsewhere.
    /// What was written and waits for its sync may yet become durable, so nothing is said of that.
    pub(super) fn stalled(&mut self, fx: &mut Effects) {
        let Some(stall) = fx.local.stall() else { return };
        // In an order that is the same in every run, whatever it is in memory.
        let mut lists: Vec<_> = std::mem::take(&mut self.lists).into_iter().collect();
        lists.sort_unstable();
        for (_, (to, op, _)) in lists {
            refuse(to, op, stalled(), fx);
        }
        if stall != Stall::All {
            return;
        }
        let mut keys: Vec<Key> = self.reads.values().cloned().collect();
        keys.sort_unstable();
        for key in keys {
            let Some(state) = self.keys.get_mut(&key) else { continue };
            for work in state.work.iter_mut().filter(|work| waits_for_disk(&work.kind)) {
                // Its place stays: the read that it waits for is still to come.
                work.kind = Kind::Withdrawn;
                refuse(work.from, work.op, stalled(), fx);
            }
        }
    }

    fn admit(&self, key: &Key, kind: &Kind, fx: &Effects) -> Result<(), Refusal> {
        if let Kind::Update { keep_for, .. } | Kind::Keep { keep_for, .. } = kind {
            let homes = self.ring.homes(self.ring.partition(key));
            let odd = |target: &&NodeId| !homes.contains(target) || **target == fx.local.me();
            if let Some(stranger) = keep_for.iter().find(odd) {
                return Err(Refusal::Stranger(*stranger));
            }
        }
        let writes = matches!(kind, Kind::Update { .. } | Kind::Merge { .. } | Kind::Keep { .. });
        // A read of what is not synced waits for the sync.
        let unsynced = || self.keys.get(key).is_some_and(|state| state.mark.is_some());
        let held_up = match fx.local.stall() {
            None => false,
            Some(Stall::Writes) => writes || matches!(kind, Kind::Read) && unsynced(),
            Some(Stall::All) => waits_for_disk(kind),
        };
        if held_up {
            return Err(stalled());
        }
        if let (Some(shortage), true) = (self.shortage, writes) {
            let Shortage { free_bytes, reserve_bytes } = shortage;
            return Err(Refusal::NoSpace { free_bytes, reserve_bytes });
        }
        let busy = |what: Resource, limit: usize| Refusal::Busy { what, limit: limit as u32 };
        if writes && self.unsynced.len() >= MAX_UNSYNCED {
            return Err(busy(Resource::UnsyncedWrites, MAX_UNSYNCED));
        }
        if writes && self.unsynced_bytes >= MAX_UNSYNCED_BYTES {
            return Err(busy(Resource::UnsyncedBytes, MAX_UNSYNCED_BYTES));
        }
        if self.queued >= MAX_QUEUE {
            return Err(busy(Resource::NodeQueue, MAX_QUEUE));
        }
        if self.keys.get(key).is_some_and(|state| state.work.len() >= MAX_KEY_QUEUE) {
            return Err(busy(Resource::KeyQueue, MAX_KEY_QUEUE));
        }
        Ok(())
    }

    /// The disk has answered a read: what waited for it can go on.
    pub(super) fn read_done(
        &mut self,
        token: ReadToken,
        found: Found,
        hints: Vec<(NodeId, Found)>,
        fx: &mut Effects,
    ) {
        let Some(key) = self.reads.remove(&token) else { return };
        let Some(state) = self.keys.get_mut(&key) else {
            debug_assert!(false, "a key that is being read is not forgotten");
            return;
        };
        debug_assert!(state.copies.is_none(), "a key is read once, and then ahead of the disk");
        let partition = self.ring.partition(&key);
        if found == Found::Damaged && self.ring.homes(partition).contains(&fx.local.me()) {
            fx.out.find_damaged(partition, key.clone());
        }
        let own = Copy::of(found, fx).unwrap_or_else(|| Copy::Record(Record::default()));
        let hints =
            hints.into_iter().filter_map(|(target, hint)| Some((target, Copy::of(hint, fx)?)));
        let hints = hints.collect();
        state.copies = Some(Copies { own, hints });
        self.run(&key, fx);
    }

    /// The disk has listed keys.
    pub(super) fn list_done(&mut self, token: ReadToken, listing: Listing, fx: &mut Effects) {
        let Some((to, op, partition)) = self.lists.remove(&token) else { return };
        let Listing { keys, more } = listing;
        // Hints that are still to come do not matter: on a full disk they could not, and nothing
        // were listed.
        let authoritative = fx.local.is_authoritative(partition);
        // A listing may show unsynced keys, never miss synced ones: names alone promise nothing.
        fx.out.send(vec![to], op, Body::Listed { keys, more, authoritative });
    }

    /// Every write up to `mark` is durable: the disk is as new as the copies of those keys.
    pub(super) fn synced(&mut self, mark: SyncSeq) {
        while self.unsynced.front().is_some_and(|(written, ..)| *written <= mark) {
            let Some((_, key, bytes)) = self.unsynced.pop_front() else {
                debug_assert!(false, "the first one was just looked at");
                return;
            };
            self.unsynced_bytes -= bytes;
            if let Some(state) = self.keys.get_mut(&key)
                && state.mark.is_some_and(|newest| newest <= mark)
            {
                state.mark = None;
                if state.work.is_empty() {
                    self.keys.remove(&key);
                }
            }
        }
    }

    /// Does all that waits for a key whose copies are known, in order, as one write.
    fn run(&mut self, key: &Key, fx: &mut Effects) {
        let Some(KeyState { copies: Some(copies), mut mark, mut work }) = self.keys.remove(key)
        else {
            debug_assert!(false, "work is done on a key whose copies are known");
            return;
        };
        let waiting = work.len();
        let partition = self.ring.partition(key);
        let owed = !self.ring.homes(partition).contains(&fx.local.me());
        let (before, changed, answers) = (None, BTreeSet::new(), Vec::new());
        let collected = fx.local.generations.of(partition).collected_of(key).cloned();
        let store = fx.local.meta().store;
        let limits = self.limits;
        let mut turn = Turn {
            key,
            partition,
            owed,
            limits,
            copies,
            collected,
            store,
            before,
            changed,
            answers,
        };
        while let Some(Work { from, op, kind }) = work.pop_front() {
            self.take(&mut turn, from, op, kind, fx);
        }
        self.queued -= waiting;
        let Turn { copies, before, changed, answers, .. } = turn;
        let changes: Vec<Change> =
            changed.iter().filter_map(|place| copies.change(partition, key, *place)).collect();
        if !changes.is_empty() {
            let bytes = changes.iter().map(change_bytes).sum();
            let written = fx.out.write(changes);
            if let (true, Copy::Record(own)) = (changed.contains(&None), &copies.own) {
                let after = Held::of(key, &own.object);
                fx.local.forest.changed(partition, key, before, after, written);
            }
            self.unsynced.push_back((written, key.clone(), bytes));
            self.unsynced_bytes += bytes;
            mark = Some(written);
        }
        for (to, op, body) in answers {
            fx.out.send_synced(mark, to, op, body);
        }
        if mark.is_some() {
            self.keys.insert(key.clone(), KeyState { copies: Some(copies), mark, work });
        }
    }

    /// Does one thing to a key and answers.
    fn take(
        &mut self,
        turn: &mut Turn<'_>,
        from: NodeId,
        op: RequestId,
        kind: Kind,
        fx: &mut Effects,
    ) {
        let answer = match kind {
            Kind::Update { context, change, keep_for } => {
                match make(turn, &context, &change, &keep_for, fx) {
                    Made::Done(object, dot, generation) => {
                        fx.out.send(vec![from], op, Body::Updated { object, dot, generation });
                        Answer::Synced(Body::Held)
                    }
                    Made::Refused(refusal) => Answer::Now(Body::Failed(refusal)),
                }
            }
            Kind::Merge { object, generation, hint } => {
                match merge(turn, &object, generation, hint, fx) {
                    Ok(()) => Answer::Synced(Body::Held),
                    Err(refusal) => Answer::Now(Body::Failed(refusal)),
                }
            }
            Kind::Bury(dead) => match turn.bury(&dead) {
                true => Answer::Synced(Body::Held),
                false => Answer::Now(Body::Failed(Refusal::Damaged)),
            },
            Kind::Collect => {
                turn.collect();
                Answer::Synced(Body::Held)
            }
            Kind::Renounce(None) => {
                turn.renounce(&fx.local.meta().fresh);
                Answer::Synced(Body::Held)
            }
            Kind::Renounce(Some(target)) => {
                let (fresh, now) =
                    (fx.local.meta().fresh.clone(), fx.local.generations.number(turn.partition));
                turn.renounce_hint(target, &fresh, now, fx);
                Answer::Synced(Body::Held)
            }
            Kind::Restore(object) => match turn.restore(&object, fx) {
                Ok(()) => Answer::Synced(Body::Held),
                Err(refusal) => Answer::Now(Body::Failed(refusal)),
            },
            Kind::Keep { object, keep_for, generation } => {
                match keep(turn, from, Stamped { object, generation }, keep_for, fx) {
                    Ok(()) => Answer::Synced(Body::Held),
                    Err(refusal) => Answer::Now(Body::Failed(refusal)),
                }
            }
            Kind::Discharge { target, object } => {
                return turn.discharge(target, &object, fx);
            }
            Kind::Withdrawn => return,
            Kind::Read => Answer::Synced(turn.read(self.ring.homes(turn.partition), fx)),
        };
        match answer {
            Answer::Synced(body) => turn.answer(from, op, body),
            Answer::Now(body) => {
                if matches!(body, Body::Failed(Refusal::Generation { .. })) {
                    fx.out.count(Counter::StaleObjectsRefused);
                }
                fx.out.send(vec![from], op, body);
            }
        }
    }
}

/// Keeps what `from` has made of a key for other members.
fn keep(
    turn: &mut Turn<'_>,
    from: NodeId,
    Stamped { object, generation }: Stamped,
    keep_for: Vec<NodeId>,
    fx: &mut Effects,
) -> Result<(), Refusal> {
    turn.renounce_hints(fx);
    let (object, generation) = turn.current(from, object, generation, fx);
    fx.local.generations.check_hint(turn.partition, generation)?;
    let join = |old: Record| Record {
        generation: if old.object.is_empty() { generation } else { old.generation.min(generation) },
        object: old.object.sync(&object),
        ..old
    };
    turn.set_hints(keep_for, join, fx)
}

/// True for what a coordinator waits for: it asks elsewhere when it is refused. What the node does
/// to its own records has nowhere else to go.
fn waits_for_disk(kind: &Kind) -> bool {
    matches!(kind, Kind::Update { .. } | Kind::Merge { .. } | Kind::Keep { .. } | Kind::Read)
}

fn refuse(to: NodeId, op: RequestId, refusal: Refusal, fx: &mut Effects) {
    fx.out.count(Counter::ReplicaOperationsRefused);
    fx.out.send(vec![to], op, Body::Failed(refusal));
}

/// About how many bytes a change of a key takes.
fn change_bytes(change: &Change) -> usize {
    match change {
        Change::Record { record, .. } | Change::Hint { record: Some(record), .. } => {
            object_bytes(&record.object)
        }
        _ => 0,
    }
}

/// About how many bytes an object takes, encoded.
fn object_bytes(object: &Object) -> usize {
    let values: usize = object.values().map(|(_, version)| version.value.0.len() + 20).sum();
    values + object.entries().len() * 24
}
