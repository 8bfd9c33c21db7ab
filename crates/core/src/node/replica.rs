//! The replica: one store's copies. Everything that happens to one key is serialised here; dots are
//! issued here, under the actor rules that keep them unique.

mod key_transaction;
mod update;

use std::collections::{BTreeMap, HashMap, VecDeque};

use smallvec::SmallVec;

use self::key_transaction::{KeyTransaction, Places};
use self::update::{Basis, Made, make, merge};
use super::gc_epochs::Stamped;
use super::ids::{ReadToken, RequestId, Role, SyncSeq, role_of};
use super::io::Io;
use super::local_state::stalled;
use super::merkle_trees::TreeEntry;
use super::{Config, Shortage, Stall};
use crate::causal::{Context, Object};
use crate::gc_epoch::{GcEpoch, PurgeableKey};
use crate::merkle::Digest;
use crate::message::{self, Body, Counter, Premise, Rejection, Resource};
use crate::ring::RingId;
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

/// A key with something in progress: a read of the disk, or a write that is not synced yet.
#[derive(Clone, Debug, Default)]
struct KeyState {
    /// The newest copy, ahead of the disk; `None` while it is being read.
    copies: Option<Copies>,
    /// The newest write of this key that is not synced.
    seq: Option<SyncSeq>,
    work: SmallVec<[Work; 1]>,
}

/// The copies of a key in this store: its own record, and the hints for other members.
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
    fn of(found: Found, io: &mut Io) -> Option<Self> {
        match found {
            Found::Nothing => None,
            Found::Record(record) => Some(Copy::Record(record)),
            Found::Damaged => {
                io.out.count(Counter::DamagedRecordsRead);
                Some(Copy::Damaged)
            }
        }
    }
}

/// An operation on one key, and the node that waits for its answer.
#[derive(Clone, Debug)]
struct Work {
    from: NodeId,
    request_id: RequestId,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Update {
        context: Context,
        change: message::Change,
        hint_for: Vec<NodeId>,
    },
    Decide {
        premise: Premise,
        answers: Stamped,
        change: message::Change,
        hint_for: Vec<NodeId>,
    },
    Merge {
        object: Object,
        gc_epoch: GcEpoch,
        hint: bool,
    },
    StoreHint {
        object: Object,
        hint_for: Vec<NodeId>,
        gc_epoch: GcEpoch,
    },
    DeleteHint {
        target: NodeId,
        object: Object,
    },
    Restore(Object),
    MarkDead(Context),
    Purge,
    Discard(Option<NodeId>),
    /// What every owner holds under this ring.
    Erase(Option<Digest>, RingId),
    Read,
    /// An update that no client waits for any more.
    Withdrawn,
}

/// When an answer may leave.
enum Answer {
    /// When everything of the key is synced.
    Synced(Body),
    /// At once: it reports nothing that has to be synced.
    Now(Body),
}

impl Replica {
    /// The replica at the start of an incarnation.
    pub(super) fn new(config: &Config) -> Self {
        Replica {
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
    pub(super) fn query(&mut self, from: NodeId, request_id: RequestId, body: Body, io: &mut Io) {
        let (key, kind) = match body {
            Body::Update { key, context, change, hint_for } => {
                (key, Kind::Update { context, change, hint_for })
            }
            Body::Decide { key, premise, answers, gc_epoch, change, hint_for } => {
                let answers = Stamped { object: answers, gc_epoch };
                (key, Kind::Decide { premise, answers, change, hint_for })
            }
            Body::Merge { key, object, gc_epoch } => {
                let hint = role_of(request_id) == Role::Handoff;
                (key, Kind::Merge { object, gc_epoch, hint })
            }
            Body::StoreHint { key, object, hint_for, gc_epoch } => {
                (key, Kind::StoreHint { object, hint_for, gc_epoch })
            }
            Body::MarkDead(PurgeableKey { key, dead }) => (key, Kind::MarkDead(dead)),
            Body::Purge { key } => (key, Kind::Purge),
            Body::Discard { key, target } => (key, Kind::Discard(target)),
            Body::DeleteHint { key, target, object } => (key, Kind::DeleteHint { target, object }),
            Body::Restore { key, object } => (key, Kind::Restore(object)),
            Body::Erase { key, digest } => (key, Kind::Erase(digest, io.local.ring_id())),
            Body::Read { key } => (key, Kind::Read),
            Body::List { partition, after, limit_bytes } => {
                if io.local.stall().is_some() {
                    return refuse(from, request_id, stalled(), io);
                }
                let limit_bytes = limit_bytes.min(MAX_LIST_BYTES) as usize;
                let token = io.out.list(partition, after, limit_bytes);
                self.lists.insert(token, (from, request_id, partition));
                return;
            }
            Body::Withdraw { key } => return self.withdraw(&key, from, request_id),
            _ => return,
        };
        if let Err(rejection) = self.admit(&key, &kind, io) {
            return refuse(from, request_id, rejection, io);
        }
        self.queued += 1;
        let state = self.keys.entry(key.clone()).or_default();
        let reading = !state.work.is_empty();
        state.work.push(Work { from, request_id, kind });
        if state.copies.is_some() {
            self.run(&key, io);
        } else if !reading {
            let partition = io.local.ring().partition(&key);
            // Where nothing is kept for anybody, there is nothing to look up.
            let is_due = |target: &NodeId| io.local.hints.has(*target, partition);
            let hints_for = io.local.hints.targets().filter(is_due).collect();
            let token = io.out.read(partition, key.clone(), hints_for);
            self.reads.insert(token, key);
        }
    }

    /// Voids an update that has not been carried out. Its place in the queue stays: it may be what
    /// a read of the disk waits for.
    fn withdraw(&mut self, key: &Key, from: NodeId, request_id: RequestId) {
        let Some(state) = self.keys.get_mut(key) else { return };
        let its = |work: &&mut Work| {
            work.from == from && work.request_id == request_id && issues(&work.kind)
        };
        for work in state.work.iter_mut().filter(its) {
            work.kind = Kind::Withdrawn;
        }
    }

    /// True if an update of the key has not been carried out yet.
    pub(super) fn has_updates(&self, key: &Key) -> bool {
        self.keys.get(key).is_some_and(|state| state.work.iter().any(|work| issues(&work.kind)))
    }

    /// The disk is nearly full, or no longer: nothing is written below the reserve.
    pub(super) fn space(&mut self, shortage: Option<Shortage>) {
        self.shortage = shortage;
    }

    /// The store has stalled, or makes progress again: operations that wait for it are refused, so
    /// that coordinators query other nodes. Writes that wait for their sync may yet become durable,
    /// so they are not answered.
    pub(super) fn stalled(&mut self, io: &mut Io) {
        let Some(stall) = io.local.stall() else { return };
        // In an order that is the same in every run, whatever it is in memory.
        let mut lists: Vec<_> = std::mem::take(&mut self.lists).into_iter().collect();
        lists.sort_unstable();
        for (_, (to, request_id, _)) in lists {
            refuse(to, request_id, stalled(), io);
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
                refuse(work.from, work.request_id, stalled(), io);
            }
        }
    }

    fn admit(&self, key: &Key, kind: &Kind, io: &Io) -> Result<(), Rejection> {
        if let Kind::Update { hint_for, .. }
        | Kind::Decide { hint_for, .. }
        | Kind::StoreHint { hint_for, .. } = kind
        {
            // One that this node does not know may come with a ring that it does not have yet.
            let ring = io.local.ring();
            let partition = ring.partition(key);
            let odd = |target: &&NodeId| {
                let stays = ring.step().is_none() && ring.has(**target);
                **target == io.local.me() || stays && !ring.is_owner(partition, **target)
            };
            if let Some(stranger) = hint_for.iter().find(odd) {
                return Err(Rejection::Stranger(*stranger));
            }
        }
        let writes = issues(kind) || matches!(kind, Kind::Merge { .. } | Kind::StoreHint { .. });
        // A read of what is not synced waits for the sync.
        let unsynced = || self.keys.get(key).is_some_and(|state| state.seq.is_some());
        let blocked = match io.local.stall() {
            None => false,
            Some(Stall::Writes) => writes || matches!(kind, Kind::Read) && unsynced(),
            Some(Stall::All) => waits_for_disk(kind),
        };
        if blocked {
            return Err(stalled());
        }
        if let (Some(shortage), true) = (self.shortage, writes) {
            let Shortage { free_bytes, reserve_bytes } = shortage;
            return Err(Rejection::NoSpace { free_bytes, reserve_bytes });
        }
        let busy = |what: Resource, limit: usize| Rejection::Busy { what, limit: limit as u32 };
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
        io: &mut Io,
    ) {
        let Some(key) = self.reads.remove(&token) else { return };
        let Some(state) = self.keys.get_mut(&key) else {
            debug_assert!(false, "a key that is being read is not forgotten");
            return;
        };
        debug_assert!(state.copies.is_none(), "a key is read once, and then ahead of the disk");
        let partition = io.local.ring().partition(&key);
        if found == Found::Damaged && io.local.holds(partition) {
            io.out.find_damaged(partition, key.clone());
        }
        let own = Copy::of(found, io).unwrap_or_else(|| Copy::Record(Record::default()));
        let hints =
            hints.into_iter().filter_map(|(target, hint)| Some((target, Copy::of(hint, io)?)));
        let hints = hints.collect();
        state.copies = Some(Copies { own, hints });
        self.run(&key, io);
    }

    /// The disk has listed keys.
    pub(super) fn list_done(&mut self, token: ReadToken, listing: Listing, io: &mut Io) {
        let Some((to, request_id, partition)) = self.lists.remove(&token) else { return };
        let Listing { keys, more } = listing;
        // Hints that are still to come do not matter: on a full disk they could not, and nothing
        // were listed.
        let authoritative = io.local.is_authoritative(partition);
        // A listing may show unsynced keys, never miss synced ones: names alone promise nothing.
        io.out.send_to(to, request_id, Body::Listed { keys, more, authoritative });
    }

    /// Every write up to `seq` is durable: the disk is as new as the copies of those keys.
    pub(super) fn synced(&mut self, seq: SyncSeq) {
        while self.unsynced.front().is_some_and(|(written, ..)| *written <= seq) {
            let Some((_, key, bytes)) = self.unsynced.pop_front() else {
                debug_assert!(false, "the first one was just looked at");
                return;
            };
            self.unsynced_bytes -= bytes;
            if let Some(state) = self.keys.get_mut(&key)
                && state.seq.is_some_and(|newest| newest <= seq)
            {
                state.seq = None;
                if state.work.is_empty() {
                    self.keys.remove(&key);
                }
            }
        }
    }

    /// Does all that waits for a key whose copies are known, in order, as one write.
    fn run(&mut self, key: &Key, io: &mut Io) {
        let Some(KeyState { copies: Some(copies), mut seq, mut work }) = self.keys.remove(key)
        else {
            debug_assert!(false, "work is done on a key whose copies are known");
            return;
        };
        let waiting = work.len();
        let partition = io.local.ring().partition(key);
        let pending = !io.local.owns(partition);
        let (before, changed, answers) = (None, Places::default(), SmallVec::new());
        let gc_epoch = io.local.gc_epochs.of(partition);
        let purgeable = gc_epoch.purgeable_of(key).cloned();
        let purged = gc_epoch.purged_of(key).cloned();
        let store = io.local.meta().store;
        let limits = self.limits;
        let mut transaction = KeyTransaction {
            key,
            partition,
            pending,
            limits,
            copies,
            purgeable,
            purged,
            store,
            before,
            changed,
            answers,
        };
        for Work { from, request_id, kind } in work.drain(..) {
            self.take(&mut transaction, from, request_id, kind, io);
        }
        self.queued -= waiting;
        let KeyTransaction { copies, before, changed, answers, .. } = transaction;
        let own_changed = changed.contains(None);
        let changed = changed.into_sorted();
        let mut changes = Vec::with_capacity(changed.len());
        changes.extend(changed.iter().filter_map(|place| copies.change(partition, key, *place)));
        if !changes.is_empty() {
            let bytes = changes.iter().map(change_bytes).sum();
            let written = io.out.write(changes);
            if let (true, Copy::Record(own)) = (own_changed, &copies.own) {
                io.local.note_record(partition);
                let after = TreeEntry::of(key, &own.object);
                io.local.trees.changed(partition, key, before, after, written);
            }
            self.unsynced.push_back((written, key.clone(), bytes));
            self.unsynced_bytes += bytes;
            seq = Some(written);
        }
        for (to, request_id, body) in answers {
            io.out.send_synced(seq, to, request_id, body);
        }
        if seq.is_some() {
            self.keys.insert(key.clone(), KeyState { copies: Some(copies), seq, work });
        }
    }

    /// Does one thing to a key and answers.
    fn take(
        &mut self,
        transaction: &mut KeyTransaction<'_>,
        from: NodeId,
        request_id: RequestId,
        kind: Kind,
        io: &mut Io,
    ) {
        let answer = match kind {
            Kind::Update { context, change, hint_for } => {
                let basis = Basis::Seen(context);
                report(make(transaction, &basis, &change, &hint_for, io), (from, request_id), io)
            }
            Kind::Decide { premise, answers, change, hint_for } => {
                let basis = Basis::Decided { premise, answers };
                report(make(transaction, &basis, &change, &hint_for, io), (from, request_id), io)
            }
            Kind::Merge { object, gc_epoch, hint } => {
                match merge(transaction, &object, gc_epoch, hint, io) {
                    Ok(()) => Answer::Synced(Body::Ack),
                    Err(rejection) => Answer::Now(Body::Failed(rejection)),
                }
            }
            Kind::MarkDead(dead) => match transaction.mark_dead(&dead) {
                true => Answer::Synced(Body::Ack),
                false => Answer::Now(Body::Failed(Rejection::Damaged)),
            },
            Kind::Purge => {
                transaction.collect();
                Answer::Synced(Body::Ack)
            }
            Kind::Discard(None) => {
                transaction.discard(&io.local.meta().fresh);
                Answer::Synced(Body::Ack)
            }
            Kind::Discard(Some(target)) => {
                let (fresh, now) = (
                    io.local.meta().fresh.clone(),
                    io.local.gc_epochs.number(transaction.partition),
                );
                transaction.discard_hint(target, &fresh, now, io);
                Answer::Synced(Body::Ack)
            }
            Kind::Restore(object) => match transaction.restore(&object, io) {
                Ok(()) => Answer::Synced(Body::Ack),
                Err(rejection) => Answer::Now(Body::Failed(rejection)),
            },
            Kind::StoreHint { object, hint_for, gc_epoch } => {
                match keep(transaction, from, Stamped { object, gc_epoch }, hint_for, io) {
                    Ok(()) => Answer::Synced(Body::Ack),
                    Err(rejection) => Answer::Now(Body::Failed(rejection)),
                }
            }
            Kind::DeleteHint { target, object } => {
                return transaction.delete_hint(target, &object, io);
            }
            Kind::Withdrawn => return,
            Kind::Read => {
                // What is left of a partition of others is read to be brought to them, only.
                let brings = from == io.local.me() && role_of(request_id) == Role::Repair;
                let is_owner = io.local.owns(transaction.partition);
                Answer::Synced(transaction.read(is_owner || brings, io))
            }
            Kind::Erase(digest, ring) => {
                let is_surplus = !io.local.owns(transaction.partition) && !io.local.is_behind();
                if ring == io.local.ring_id() && is_surplus {
                    transaction.erase(digest, io);
                }
                Answer::Synced(Body::Ack)
            }
        };
        match answer {
            Answer::Synced(body) => transaction.answer(from, request_id, body),
            Answer::Now(body) => {
                if matches!(body, Body::Failed(Rejection::GcState { .. })) {
                    io.out.count(Counter::StaleObjectsRefused);
                }
                io.out.send_to(from, request_id, body);
            }
        }
    }
}

/// What the coordinator that waits for a client's change hears of it.
fn report(made: Made, (to, request_id): (NodeId, RequestId), io: &mut Io) -> Answer {
    match made {
        Made::Done(object, dot, gc_epoch) => {
            io.out.send_to(to, request_id, Body::Updated { object, dot, gc_epoch });
            Answer::Synced(Body::Ack)
        }
        Made::Refused(rejection) => Answer::Now(Body::Failed(rejection)),
    }
}

/// Keeps what `from` has made of a key for other members.
fn keep(
    transaction: &mut KeyTransaction<'_>,
    from: NodeId,
    Stamped { object, gc_epoch }: Stamped,
    hint_for: Vec<NodeId>,
    io: &mut Io,
) -> Result<(), Rejection> {
    transaction.discard_hints(io);
    let (object, gc_epoch) = transaction.current(from, object, gc_epoch, io);
    io.local.gc_epochs.check_hint(transaction.partition, gc_epoch)?;
    let join = |old: Record| Record {
        gc_epoch: if old.object.is_empty() { gc_epoch } else { old.gc_epoch.min(gc_epoch) },
        object: old.object.sync(&object),
        ..old
    };
    transaction.set_hints(hint_for, join, io)
}

/// True for what a coordinator waits for: it asks elsewhere when it is refused. What the node does
/// to its own records has nowhere else to go.
fn waits_for_disk(kind: &Kind) -> bool {
    issues(kind) || matches!(kind, Kind::Merge { .. } | Kind::StoreHint { .. } | Kind::Read)
}

/// True for a client's change, which is carried out here first.
fn issues(kind: &Kind) -> bool {
    matches!(kind, Kind::Update { .. } | Kind::Decide { .. })
}

fn refuse(to: NodeId, request_id: RequestId, rejection: Rejection, io: &mut Io) {
    io.out.count(Counter::ReplicaOperationsRefused);
    io.out.send_to(to, request_id, Body::Failed(rejection));
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
