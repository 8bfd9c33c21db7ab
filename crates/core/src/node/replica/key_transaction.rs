//! One transaction of a key: its copies, the changes, and the nodes to notify when they are synced.

use std::collections::BTreeMap;

use smallvec::SmallVec;

use super::{Copies, Copy};
use crate::causal::{Actor, Context, Object};
use crate::gc_epoch::GcEpoch;
use crate::merkle::Digest;
use crate::message::{Body, Counter, Rejection};
use crate::node::Oversize;
use crate::node::hints::{HintPlace, HintSize};
use crate::node::ids::RequestId;
use crate::node::io::Io;
use crate::node::merkle_trees::TreeEntry;
use crate::store::{Change, Record};
use crate::types::{Key, NodeId, ObjectLimits, Partition};
use crate::wire;

/// Places of a key, each once, in no order. Most turns change one.
#[derive(Debug, Default)]
pub(super) struct Places(SmallVec<[Option<NodeId>; 2]>);

impl Places {
    pub(super) fn insert(&mut self, place: Option<NodeId>) {
        if !self.contains(place) {
            self.0.push(place);
        }
    }

    pub(super) fn contains(&self, place: Option<NodeId>) -> bool {
        self.0.contains(&place)
    }

    /// All of them, the own record first, then by member: the same in every run.
    pub(super) fn into_sorted(mut self) -> SmallVec<[Option<NodeId>; 2]> {
        self.0.sort_unstable();
        self.0
    }
}

/// All changes to one key in one step: the copies, and the answers that depend on them.
pub(super) struct KeyTransaction<'a> {
    pub(super) key: &'a Key,
    pub(super) partition: Partition,
    /// True if this node is no owner of the key: its hints may have filled their targets' slots.
    pub(super) pending: bool,
    pub(super) limits: ObjectLimits,
    pub(super) copies: Copies,
    /// Events of the key that are purgeable in this GC epoch: every owner had them as dead when it
    /// began. An owner that has lost the record since may be sent an older copy.
    pub(super) purgeable: Option<Context>,
    /// Events of the key that are purged: they are not accepted again, neither from another owner
    /// nor in a client's context.
    pub(super) purged: Option<Context>,
    /// The store id that dots are issued with, as in [`crate::store::Meta::store`].
    pub(super) store: u64,
    /// The own record before this transaction; `None` while it has not changed, or if it was
    /// damaged.
    pub(super) before: Option<TreeEntry>,
    /// The places that have changed: the own record (`None`) or the hint for a member.
    pub(super) changed: Places,
    pub(super) answers: SmallVec<[(NodeId, RequestId, Body); 1]>,
}

impl Copies {
    /// The change that brings a place on disk up to date.
    pub(super) fn change(
        &self,
        partition: Partition,
        key: &Key,
        place: Option<NodeId>,
    ) -> Option<Change> {
        let key = key.clone();
        let Some(target) = place else {
            let Copy::Record(record) = &self.own else { return None };
            if record.object.is_empty() {
                return Some(Change::Forget { partition, key });
            }
            return Some(Change::Record { partition, key, record: record.clone() });
        };
        let record = match self.hints.get(&target) {
            Some(Copy::Record(record)) => Some(record.clone()),
            Some(Copy::Damaged) => return None,
            None => None,
        };
        Some(Change::Hint { target, key, record })
    }

    /// The store's own record of the key (of GC epoch `now`), merged with its hints for others;
    /// `None` if any of them is damaged.
    pub(super) fn joined(&self, now: GcEpoch) -> Option<Record> {
        let Copy::Record(own) = &self.own else { return None };
        let own = Record { gc_epoch: now, ..own.clone() };
        self.hints.values().try_fold(own, |all, hint| match hint {
            Copy::Damaged => None,
            Copy::Record(hint) => Some(Record {
                own_epoch: all.own_epoch.max(hint.own_epoch),
                object: all.object.sync(&hint.object),
                gc_epoch: all.gc_epoch.min(hint.gc_epoch),
            }),
        })
    }
}

impl KeyTransaction<'_> {
    /// Where hints of the key belong.
    fn place(&self) -> HintPlace {
        HintPlace { partition: self.partition, pending: self.pending }
    }

    /// Answers `to` when all changes of this transaction are synced.
    pub(super) fn answer(&mut self, to: NodeId, request_id: RequestId, body: Body) {
        self.answers.push((to, request_id, body));
    }

    /// Replaces the own record, less what is purged. What is purgeable or purged is dead, whatever
    /// an older copy shows of it. A store whose own events go does not go on counting them.
    pub(super) fn set_own(&mut self, new: Record) {
        let Record { own_epoch, mut object, .. } = new;
        if let Some(purgeable) = &self.purgeable {
            object = object.discard(purgeable);
        }
        if let Some(purged) = &self.purged {
            object = object.discard(purged).forget(purged);
        }
        let actor = |actor_epoch| Actor { store: self.store, actor_epoch };
        let own_epoch = own_epoch.filter(|actor_epoch| object.counter(actor(*actor_epoch)) > 0);
        let new = Record { own_epoch, object, gc_epoch: GcEpoch::FIRST };
        if let Copy::Record(old) = &self.copies.own {
            if *old == new {
                return;
            }
            if !self.changed.contains(None) {
                self.before = Some(TreeEntry::of(self.key, &old.object));
            }
        }
        self.copies.own = Copy::Record(new);
        self.changed.insert(None);
    }

    /// Notes that these events of the key are dead; false if the record is damaged.
    pub(super) fn mark_dead(&mut self, dead: &Context) -> bool {
        let Copy::Record(old) = &self.copies.own else { return false };
        let object = old.object.discard(dead);
        self.set_own(Record { object, ..old.clone() });
        true
    }

    /// Takes events that are purged out of the clock.
    pub(super) fn collect(&mut self) {
        if let Copy::Record(old) = &self.copies.own {
            self.set_own(old.clone());
        }
    }

    /// Takes out of an old record what others have issued. One that is damaged has nothing to be
    /// discarded.
    pub(super) fn discard(&mut self, fresh: &[u64]) {
        if let Copy::Record(old) = &self.copies.own {
            let object = old.object.discard_others(fresh);
            self.set_own(Record { object, ..old.clone() });
        }
    }

    /// The same for an old hint, which is of the GC epoch `now` then, or goes.
    pub(super) fn discard_hint(
        &mut self,
        target: NodeId,
        fresh: &[u64],
        now: GcEpoch,
        io: &mut Io,
    ) {
        let Some(Copy::Record(old)) = self.copies.hints.get(&target) else { return };
        if old.gc_epoch.next() >= now {
            return;
        }
        let object = old.object.discard_others(fresh);
        if object.values().next().is_none() {
            let object = old.object.clone();
            io.out.count(Counter::OutlivedHintsDropped);
            return self.delete_hint(target, &object, io);
        }
        let new = Record { object, gc_epoch: now, ..old.clone() };
        let place = self.place();
        let before = HintSize::of(self.key, Some(old));
        io.local.count_hint(target, place, Some(before), Some(HintSize::of(self.key, Some(&new))));
        self.copies.hints.insert(target, Copy::Record(new));
        self.changed.insert(Some(target));
    }

    /// The same for every old hint of the key. What is joined with one would be as old, and go with
    /// it.
    pub(super) fn discard_hints(&mut self, io: &mut Io) {
        let (fresh, now) =
            (io.local.meta().fresh.clone(), io.local.gc_epochs.number(self.partition));
        let targets: Vec<NodeId> = self.copies.hints.keys().copied().collect();
        for target in targets {
            self.discard_hint(target, &fresh, now, io);
        }
    }

    /// Puts what the other owners have in the place of a record that is damaged. It has lost its
    /// actor epoch: the next dot is issued under a fresh one.
    pub(super) fn restore(&mut self, object: &Object, io: &mut Io) -> Result<(), Rejection> {
        let (before, new) = match &self.copies.own {
            Copy::Damaged => (None, Record { object: object.clone(), ..Record::default() }),
            Copy::Record(old) => {
                (Some(&old.object), Record { object: old.object.sync(object), ..old.clone() })
            }
        };
        let limit = self.limits.merged;
        if let Some(bytes) = outgrows(limit, before, &new.object) {
            let key = self.key.clone();
            return Err(io.decline(Oversize { key, hint: false, bytes, limit }));
        }
        if before.is_none() {
            io.out.count(Counter::DamagedRecordsRestored);
        }
        self.set_own(new);
        Ok(())
    }

    /// What is to be kept of a write that `from` has made. If it is this node itself, an owner, and
    /// the GC epoch has changed since, then its own record has all of that write that still
    /// counts.
    pub(super) fn current(
        &self,
        from: NodeId,
        object: Object,
        gc_epoch: GcEpoch,
        io: &Io,
    ) -> (Object, GcEpoch) {
        let now = io.local.gc_epochs.number(self.partition);
        match &self.copies.own {
            Copy::Record(own) if from == io.local.me() && !self.pending && gc_epoch < now => {
                (own.object.clone(), now)
            }
            _ => (object, gc_epoch),
        }
    }

    /// Replaces the hints for these members by what `make` makes of each, or none of them if they
    /// would take more bytes than the node may keep. A damaged hint is replaced as if it were not
    /// there.
    pub(super) fn set_hints(
        &mut self,
        mut targets: Vec<NodeId>,
        make: impl Fn(Record) -> Record,
        io: &mut Io,
    ) -> Result<(), Rejection> {
        targets.sort_unstable();
        targets.dedup();
        let mut news = Vec::new();
        let mut more_bytes = 0;
        for target in targets {
            let old = match self.copies.hints.get(&target) {
                Some(Copy::Record(record)) => Some(record.clone()),
                Some(Copy::Damaged) | None => None,
            };
            let new = make(old.clone().unwrap_or_default());
            if old.as_ref() == Some(&new) {
                continue;
            }
            let known = self.copies.hints.contains_key(&target);
            let before = HintSize::of(self.key, old.as_ref());
            let after = HintSize::of(self.key, Some(&new));
            more_bytes += after.bytes.saturating_sub(before.bytes);
            news.push((target, new, known.then_some(before), after));
        }
        if more_bytes > 0
            && let Some(limit) = io.local.hints.refuses(more_bytes)
        {
            io.out.count(Counter::HintsRefused);
            return Err(Rejection::Hints(limit));
        }
        let limit = self.limits.merged;
        if let Some(bytes) =
            self.kept_outgrows(limit, news.iter().map(|(target, new, ..)| (target, new)))
        {
            let key = self.key.clone();
            return Err(io.decline(Oversize { key, hint: false, bytes, limit }));
        }
        for (target, new, before, after) in news {
            io.local.count_hint(target, self.place(), before, Some(after));
            io.out.count(Counter::HintsKept);
            self.copies.hints.insert(target, Copy::Record(new));
            self.changed.insert(Some(target));
        }
        Ok(())
    }

    /// The encoded bytes of all that would be kept of the key, joined, if that is over the limit
    /// and more than now: a read is answered with the join, and a write here begins with it.
    fn kept_outgrows<'a>(
        &'a self,
        limit: usize,
        news: impl Iterator<Item = (&'a NodeId, &'a Record)>,
    ) -> Option<usize> {
        let kept = self.copies.hints.iter().filter_map(|(target, hint)| match hint {
            Copy::Record(record) => Some((target, record)),
            Copy::Damaged => None,
        });
        let mut all: BTreeMap<&NodeId, &Record> = kept.collect();
        let join = |all: &BTreeMap<&NodeId, &Record>| {
            let objects = all.values().map(|record| &record.object);
            objects.fold(Object::default(), |joined, object| joined.sync(object))
        };
        let before = all.clone();
        all.extend(news);
        // Usually all of it together is far from the limit.
        if all.values().map(|record| wire::encoded_len(&record.object)).sum::<usize>() <= limit {
            return None;
        }
        outgrows(limit, Some(&join(&before)), &join(&all))
    }

    /// Removes a hint that equals what its target has synced; one that changed meanwhile stays.
    pub(super) fn delete_hint(&mut self, target: NodeId, object: &Object, io: &mut Io) {
        match self.copies.hints.get(&target) {
            Some(Copy::Record(hint)) if hint.object == *object => {
                let size = HintSize::of(self.key, Some(hint));
                io.local.count_hint(target, self.place(), Some(size), None);
                io.out.count(Counter::HintsDeleted);
                self.copies.hints.remove(&target);
                self.changed.insert(Some(target));
            }
            Some(_) => io.out.count(Counter::HintsChangedInFlight),
            None => {}
        }
    }

    /// Erases the own record, which every owner of the key holds, unless it is not the one with
    /// this digest, or one that cannot be read, any more.
    pub(super) fn erase(&mut self, digest: Option<Digest>, io: &mut Io) {
        let present = match &self.copies.own {
            Copy::Record(record) => Some(Digest::of(self.key, &record.object)),
            Copy::Damaged => None,
        };
        if present == digest {
            io.out.count(Counter::RecordsErased);
            // Not even what is purgeable stays, as a record that goes on would have it.
            if !self.changed.contains(None)
                && let Copy::Record(old) = &self.copies.own
            {
                self.before = Some(TreeEntry::of(self.key, &old.object));
            }
            self.copies.own = Copy::Record(Record::default());
            self.changed.insert(None);
        }
    }

    /// The store's copy of the key: the record at an owner, the merged hints elsewhere.
    pub(super) fn read(&self, is_owner: bool, io: &mut Io) -> Body {
        let mut gc_epoch = io.local.gc_epochs.number(self.partition);
        if is_owner {
            let Copy::Record(Record { object, .. }) = &self.copies.own else {
                return Body::Failed(Rejection::Damaged);
            };
            // What is not here may be kept elsewhere for this node.
            let missed = io.local.is_catching_up() && object.entries().is_empty();
            let authoritative = io.local.is_authoritative(self.partition) && !missed;
            let (object, kept_for) = (object.clone(), Vec::new());
            return Body::Copy { object, authoritative, kept_for, gc_epoch };
        }
        let mut object = Object::default();
        let mut kept_for = Vec::new();
        for (target, hint) in &self.copies.hints {
            // A delete of nothing leaves nothing: that is no word for an owner.
            if let Copy::Record(hint) = hint
                && !hint.object.is_empty()
            {
                object = object.sync(&hint.object);
                gc_epoch = gc_epoch.min(hint.gc_epoch);
                kept_for.push(*target);
            }
        }
        Body::Copy { object, authoritative: false, kept_for, gc_epoch }
    }
}

/// The encoded bytes of an object, if it is over the limit and larger than it was; `None` for what
/// was there if nothing could be read.
pub(super) fn outgrows(limit: usize, before: Option<&Object>, after: &Object) -> Option<usize> {
    let bytes = wire::encoded_len(after);
    let grows = || before.is_none_or(|before| bytes > wire::encoded_len(before));
    (bytes > limit && grows()).then_some(bytes)
}
