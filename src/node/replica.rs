//! The replica: one store's copies. Everything that happens to one key is serialised here; dots are
//! minted here, under the actor rules that keep them unique.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::Shortage;
use super::effects::Effects;
use crate::causal::{Actor, Context, Dot, Object, Version};
use crate::message::{self, Body, Refusal};
use crate::ring::Ring;
use crate::store::{Change, Found, Listing, Meta, Record};
use crate::types::{Key, MAX_OBJECT_BYTES, MAX_SIBLINGS, NodeId, Partition};

/// Most operations waiting for one key.
const MAX_KEY_QUEUE: usize = 128;
/// Most operations waiting in all.
const MAX_QUEUE: usize = 16_384;
/// Largest page of keys, in bytes.
const MAX_LIST_BYTES: u32 = 1 << 20;

/// The copies of one store and the operations on them.
#[derive(Debug)]
pub(super) struct Replica {
    ring: Arc<Ring>,
    serials: Serials,
    keys: HashMap<Key, KeyState>,
    reads: HashMap<u64, Key>,
    lists: HashMap<u64, (NodeId, u64, Partition)>,
    unsynced: VecDeque<(u64, Key)>,
    starved: Vec<Key>,
    queued: usize,
    shortage: Option<Shortage>,
}

/// A key with something under way: a read of the disk, or a write that is not synced yet.
#[derive(Debug, Default)]
struct KeyState {
    /// The newest copy, ahead of the disk; `None` while it is being read.
    copy: Option<Copy>,
    /// The newest write of this key that is not synced.
    mark: Option<u64>,
    work: VecDeque<Work>,
}

#[derive(Debug)]
enum Copy {
    Record(Record),
    Damaged,
}

/// An operation on one key, and who waits for its answer.
#[derive(Debug)]
struct Work {
    from: NodeId,
    op: u64,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Update { context: Context, change: message::Change },
    Merge(Object),
    Read,
}

/// The store's durable counter of serials, reserved in blocks that are synced before use.
#[derive(Debug)]
struct Serials {
    next: u64,
    usable_end: u64,
    block: u64,
    /// A reservation that is not synced yet: its mark and its end.
    pending: Option<(u64, u64)>,
}

/// What an update made of a record.
enum Updated {
    Done(Record, Option<Dot>),
    Refused(Refusal),
    /// No serial is left: wait for the next block.
    Starved,
}

impl Replica {
    /// The replica at the start of a life; serials begin where the last reservation ended.
    pub(super) fn new(ring: Arc<Ring>, meta: &Meta, block: u64) -> Self {
        let (next, usable_end) = (meta.serial_end, meta.serial_end);
        let serials = Serials { next, usable_end, block, pending: None };
        Replica {
            ring,
            serials,
            keys: HashMap::new(),
            reads: HashMap::new(),
            lists: HashMap::new(),
            unsynced: VecDeque::new(),
            starved: Vec::new(),
            queued: 0,
            shortage: None,
        }
    }

    /// Takes a question of a coordinator: an update, a merge, a read or a listing.
    pub(super) fn ask(&mut self, from: NodeId, op: u64, body: Body, fx: &mut Effects) {
        let (key, kind) = match body {
            Body::Update { key, context, change } => (key, Kind::Update { context, change }),
            Body::Merge { key, object } => (key, Kind::Merge(object)),
            Body::Read { key } => (key, Kind::Read),
            Body::List { partition, after, limit_bytes } => {
                let limit_bytes = limit_bytes.min(MAX_LIST_BYTES) as usize;
                let token = fx.list(partition, after, limit_bytes);
                self.lists.insert(token, (from, op, partition));
                return;
            }
            _ => return,
        };
        if let Err(refusal) = self.admit(&key, &kind) {
            fx.count("replica_operations_refused");
            fx.send(vec![from], op, Body::Failed(refusal));
            return;
        }
        self.queued += 1;
        let state = self.keys.entry(key.clone()).or_default();
        let reading = !state.work.is_empty();
        state.work.push_back(Work { from, op, kind });
        if state.copy.is_some() {
            self.run(&key, fx);
        } else if !reading {
            let token = fx.read(self.ring.partition(&key), key.clone());
            self.reads.insert(token, key);
        }
    }

    /// The disk is nearly full, or no longer: nothing is written below the reserve.
    pub(super) fn space(&mut self, shortage: Option<Shortage>) {
        self.shortage = shortage;
    }

    fn admit(&self, key: &Key, kind: &Kind) -> Result<(), Refusal> {
        if let (Some(shortage), Kind::Update { .. } | Kind::Merge(_)) = (self.shortage, kind) {
            let Shortage { free_bytes, reserve_bytes } = shortage;
            return Err(Refusal::NoSpace { free_bytes, reserve_bytes });
        }
        let busy =
            |what: &str, limit: usize| Refusal::Busy { what: what.into(), limit: limit as u32 };
        if self.queued >= MAX_QUEUE {
            return Err(busy("the node's queue", MAX_QUEUE));
        }
        if self.keys.get(key).is_some_and(|state| state.work.len() >= MAX_KEY_QUEUE) {
            return Err(busy("the key's queue", MAX_KEY_QUEUE));
        }
        Ok(())
    }

    /// The disk has answered a read: what waited for it can go on.
    pub(super) fn read_done(&mut self, token: u64, found: Found, fx: &mut Effects) {
        let Some(key) = self.reads.remove(&token) else { return };
        let Some(state) = self.keys.get_mut(&key) else { return };
        state.copy = Some(match found {
            Found::Nothing => Copy::Record(Record::default()),
            Found::Record(record) => Copy::Record(record),
            Found::Damaged => {
                fx.count("damaged_records_read");
                Copy::Damaged
            }
        });
        self.run(&key, fx);
    }

    /// The disk has listed keys.
    pub(super) fn list_done(&mut self, token: u64, listing: Listing, fx: &mut Effects) {
        let Some((to, op, partition)) = self.lists.remove(&token) else { return };
        let Listing { keys, more } = listing;
        let authoritative = fx.is_authoritative(partition);
        // A listing may show unsynced keys, never miss synced ones: names alone promise nothing.
        fx.send(vec![to], op, Body::Listed { keys, more, authoritative });
    }

    /// Every write up to `mark` is durable: the disk is as new as the copies of those keys.
    pub(super) fn synced(&mut self, mark: u64, fx: &mut Effects) {
        while self.unsynced.front().is_some_and(|(written, _)| *written <= mark) {
            let Some((_, key)) = self.unsynced.pop_front() else { return };
            if let Some(state) = self.keys.get_mut(&key)
                && state.mark.is_some_and(|newest| newest <= mark)
            {
                state.mark = None;
                if state.work.is_empty() {
                    self.keys.remove(&key);
                }
            }
        }
        if let Some((reserved, end)) = self.serials.pending
            && reserved <= mark
        {
            self.serials.pending = None;
            self.serials.usable_end = end;
            for key in std::mem::take(&mut self.starved) {
                self.run(&key, fx);
            }
        }
    }

    /// Does all that waits for a key whose copy is known, in order, as one write.
    fn run(&mut self, key: &Key, fx: &mut Effects) {
        let Some(KeyState { copy, mut mark, mut work }) = self.keys.remove(key) else { return };
        let Some(mut copy) = copy else { return };
        let mut changed = false;
        let mut answers = Vec::new();
        let waiting = work.len();
        let partition = self.ring.partition(key);
        while let Some(Work { from, op, kind }) = work.pop_front() {
            let Copy::Record(record) = &mut copy else {
                answers.push((from, op, Body::Failed(Refusal::Damaged)));
                continue;
            };
            match kind {
                Kind::Update { context, change } => {
                    match self.update(record, &context, &change, fx.meta()) {
                        Updated::Done(new, dot) => {
                            changed |= *record != new;
                            *record = new;
                            let object = record.object.clone();
                            fx.send(vec![from], op, Body::Updated { object, dot });
                            answers.push((from, op, Body::Held));
                        }
                        Updated::Refused(refusal) => {
                            fx.send(vec![from], op, Body::Failed(refusal));
                        }
                        Updated::Starved => {
                            let kind = Kind::Update { context, change };
                            work.push_front(Work { from, op, kind });
                            self.starved.push(key.clone());
                            break;
                        }
                    }
                }
                Kind::Merge(object) => {
                    let merged = record.object.sync(&object);
                    changed |= record.object != merged;
                    record.object = merged;
                    answers.push((from, op, Body::Held));
                }
                Kind::Read => {
                    let object = record.object.clone();
                    let authoritative = fx.is_authoritative(partition);
                    answers.push((from, op, Body::Copy { object, authoritative }));
                }
            }
        }
        self.queued -= waiting - work.len();
        if changed && let Copy::Record(record) = &copy {
            let change = Change::Record { partition, key: key.clone(), record: record.clone() };
            let written = fx.write(vec![change]);
            self.unsynced.push_back((written, key.clone()));
            mark = Some(written);
        }
        for (to, op, body) in answers {
            fx.send_synced(mark, to, op, body);
        }
        if mark.is_some() || !work.is_empty() {
            self.keys.insert(key.clone(), KeyState { copy: Some(copy), mark, work });
        }
        self.reserve_serials(fx);
    }

    /// What a client's change makes of a record. Limits hold here and nowhere else.
    fn update(
        &mut self,
        record: &Record,
        context: &Context,
        change: &message::Change,
        meta: &Meta,
    ) -> Updated {
        let message::Change::Put { write, value } = change else {
            let object = record.object.discard(context);
            return Updated::Done(Record { object, ..record.clone() }, None);
        };
        let known = record.object.values().find(|(_, version)| version.write == *write);
        if let Some((dot, _)) = known {
            return Updated::Done(record.clone(), Some(dot));
        }
        // A serial of before an unclean start may have minted dots that this disk has forgotten.
        self.serials.next = self.serials.next.max(meta.serial_floor);
        let continued = record.own_serial.filter(|serial| *serial >= meta.serial_floor);
        let Some(serial) = continued.or_else(|| self.serials.peek()) else {
            return Updated::Starved;
        };
        let actor = Actor { store: meta.store, serial };
        let version = Version { write: *write, value: value.clone() };
        let (object, dot) = record.object.update(context, actor, version);
        let siblings = object.len();
        if siblings > MAX_SIBLINGS && siblings > record.object.len() {
            return Updated::Refused(Refusal::Siblings(record.object.len() as u32));
        }
        let bytes = object_bytes(&object);
        if bytes > MAX_OBJECT_BYTES && bytes > object_bytes(&record.object) {
            return Updated::Refused(Refusal::Object(bytes as u64));
        }
        if continued.is_none() {
            self.serials.next += 1;
        }
        Updated::Done(Record { own_serial: Some(serial), object }, Some(dot))
    }

    /// Keeps half a block of serials in hand.
    fn reserve_serials(&mut self, fx: &mut Effects) {
        let left = self.serials.usable_end.saturating_sub(self.serials.next);
        if self.serials.pending.is_none() && left <= self.serials.block / 2 {
            let end = self.serials.usable_end + self.serials.block;
            let mark = fx.change_meta(|meta| meta.serial_end = end);
            self.serials.pending = Some((mark, end));
        }
    }
}

impl Serials {
    /// The next serial, if one is reserved and synced.
    fn peek(&self) -> Option<u64> {
        (self.next < self.usable_end).then_some(self.next)
    }
}

/// About how many bytes an object takes, encoded.
fn object_bytes(object: &Object) -> usize {
    let values: usize = object.values().map(|(_, version)| version.value.0.len() + 20).sum();
    values + object.entries().len() * 24
}
