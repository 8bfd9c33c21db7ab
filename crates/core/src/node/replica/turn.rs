//! One turn of a key: what it has, what changes, and who is to be told when that is synced.

use std::collections::{BTreeMap, BTreeSet};

use super::{Copies, Copy};
use crate::causal::{Actor, Context, Object};
use crate::generation::GcEpoch;
use crate::message::{Body, Counter, Refusal};
use crate::node::Oversize;
use crate::node::effects::Effects;
use crate::node::forest::Held;
use crate::node::hints::{HintPlace, HintSize};
use crate::node::ids::RequestId;
use crate::store::{Change, Record};
use crate::types::{Key, NodeId, ObjectLimits, Partition};
use crate::wire;

/// Everything that happens to a key at once.
pub(super) struct Turn<'a> {
    pub(super) key: &'a Key,
    pub(super) partition: Partition,
    /// True if this node is no home of the key: what it keeps for others may have filled their
    /// slots.
    pub(super) owed: bool,
    pub(super) limits: ObjectLimits,
    pub(super) copies: Copies,
    /// What is collected of the key: whoever tells of it, the last home to collect it or a client's
    /// context, it is not taken back.
    pub(super) collected: Option<Context>,
    /// The store's id.
    pub(super) store: u64,
    /// What the own record was before this turn; `None` while it has not changed, or if it was
    /// damaged.
    pub(super) before: Option<Held>,
    /// The places that have changed: the own record (`None`) or the hint for a member.
    pub(super) changed: BTreeSet<Option<NodeId>>,
    pub(super) answers: Vec<(NodeId, RequestId, Body)>,
}

impl Copies {
    /// The change that brings a place on disk to what it is here.
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

    /// All that this store has of the key, its own (of generation `now`) and what it keeps for
    /// others; `None` if any of it is damaged.
    pub(super) fn joined(&self, now: GcEpoch) -> Option<Record> {
        let Copy::Record(own) = &self.own else { return None };
        let own = Record { generation: now, ..own.clone() };
        self.hints.values().try_fold(own, |all, hint| match hint {
            Copy::Damaged => None,
            Copy::Record(hint) => Some(Record {
                own_serial: all.own_serial.max(hint.own_serial),
                object: all.object.sync(&hint.object),
                generation: all.generation.min(hint.generation),
            }),
        })
    }
}

impl Turn<'_> {
    /// Where hints of the key belong.
    fn place(&self) -> HintPlace {
        HintPlace { partition: self.partition, owed: self.owed }
    }

    /// Tells `to` when all of this turn is synced.
    pub(super) fn answer(&mut self, to: NodeId, op: RequestId, body: Body) {
        self.answers.push((to, op, body));
    }

    /// Replaces the own record, less what is collected. A store whose own events go does not go on
    /// counting them.
    pub(super) fn set_own(&mut self, new: Record) {
        let Record { own_serial, object, .. } = new;
        let object = match &self.collected {
            Some(collected) => object.forget(collected),
            None => object,
        };
        let actor = |serial: u64| Actor { store: self.store, serial };
        let own_serial = own_serial.filter(|serial| object.counter(actor(*serial)) > 0);
        let new = Record { own_serial, object, generation: GcEpoch::FIRST };
        if let Copy::Record(old) = &self.copies.own {
            if *old == new {
                return;
            }
            if !self.changed.contains(&None) {
                self.before = Some(Held::of(self.key, &old.object));
            }
        }
        self.copies.own = Copy::Record(new);
        self.changed.insert(None);
    }

    /// Notes that these events of the key are dead; false if the record is damaged.
    pub(super) fn bury(&mut self, dead: &Context) -> bool {
        let Copy::Record(old) = &self.copies.own else { return false };
        let object = old.object.discard(dead);
        self.set_own(Record { object, ..old.clone() });
        true
    }

    /// Takes events that are collected out of the clock.
    pub(super) fn collect(&mut self) {
        if let Copy::Record(old) = &self.copies.own {
            self.set_own(old.clone());
        }
    }

    /// Takes out of an old record what others have minted. One that is damaged has nothing to be
    /// renounced.
    pub(super) fn renounce(&mut self, fresh: &[u64]) {
        if let Copy::Record(old) = &self.copies.own {
            let object = old.object.renounce(fresh);
            self.set_own(Record { object, ..old.clone() });
        }
    }

    /// The same for an old hint, which is of the generation `now` then, or goes.
    pub(super) fn renounce_hint(
        &mut self,
        target: NodeId,
        fresh: &[u64],
        now: GcEpoch,
        fx: &mut Effects,
    ) {
        let Some(Copy::Record(old)) = self.copies.hints.get(&target) else { return };
        if old.generation.next() >= now {
            return;
        }
        let object = old.object.renounce(fresh);
        if object.values().next().is_none() {
            let object = old.object.clone();
            fx.out.count(Counter::OutlivedHintsDropped);
            return self.discharge(target, &object, fx);
        }
        let new = Record { object, generation: now, ..old.clone() };
        let place = self.place();
        let before = HintSize::of(self.key, Some(old));
        fx.local.account_hint(
            target,
            place,
            Some(before),
            Some(HintSize::of(self.key, Some(&new))),
        );
        self.copies.hints.insert(target, Copy::Record(new));
        self.changed.insert(Some(target));
    }

    /// The same for every old hint of the key. What is joined with one would be as old, and go with
    /// it.
    pub(super) fn renounce_hints(&mut self, fx: &mut Effects) {
        let (fresh, now) =
            (fx.local.meta().fresh.clone(), fx.local.generations.number(self.partition));
        let targets: Vec<NodeId> = self.copies.hints.keys().copied().collect();
        for target in targets {
            self.renounce_hint(target, &fresh, now, fx);
        }
    }

    /// Puts what the other homes have in the place of a record that is damaged. It has lost its
    /// serial: the next dot is minted under a fresh one.
    pub(super) fn restore(&mut self, object: &Object, fx: &mut Effects) -> Result<(), Refusal> {
        // Every home has confirmed that what is condemned is dead; a copy may have been read
        // before.
        let generation = fx.local.generations.of(self.partition);
        let object = &match generation.condemned_of(self.key) {
            Some(condemned) => object.discard(condemned),
            None => object.clone(),
        };
        let (before, new) = match &self.copies.own {
            Copy::Damaged => (None, Record { object: object.clone(), ..Record::default() }),
            Copy::Record(old) => {
                (Some(&old.object), Record { object: old.object.sync(object), ..old.clone() })
            }
        };
        let limit = self.limits.merged;
        if let Some(bytes) = outgrows(limit, before, &new.object) {
            let key = self.key.clone();
            return Err(fx.decline(Oversize { key, hint: false, bytes, limit }));
        }
        if before.is_none() {
            fx.out.count(Counter::DamagedRecordsRestored);
        }
        self.set_own(new);
        Ok(())
    }

    /// What is to be kept of a write that `from` has made. If it is this node itself, a home, and
    /// the generation has changed since, then its own record has all of that write that still
    /// counts.
    pub(super) fn current(
        &self,
        from: NodeId,
        object: Object,
        generation: GcEpoch,
        fx: &Effects,
    ) -> (Object, GcEpoch) {
        let now = fx.local.generations.number(self.partition);
        match &self.copies.own {
            Copy::Record(own) if from == fx.local.me() && !self.owed && generation < now => {
                (own.object.clone(), now)
            }
            _ => (object, generation),
        }
    }

    /// Replaces the hints for these members by what `make` makes of each, or none of them if they
    /// would take more bytes than the node may keep. A damaged hint is replaced as if it were not
    /// there.
    pub(super) fn set_hints(
        &mut self,
        mut targets: Vec<NodeId>,
        make: impl Fn(Record) -> Record,
        fx: &mut Effects,
    ) -> Result<(), Refusal> {
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
            && let Some(limit) = fx.local.hints.refuses(more_bytes)
        {
            fx.out.count(Counter::HintsRefused);
            return Err(Refusal::Hints(limit));
        }
        let limit = self.limits.merged;
        if let Some(bytes) =
            self.kept_outgrows(limit, news.iter().map(|(target, new, ..)| (target, new)))
        {
            let key = self.key.clone();
            return Err(fx.decline(Oversize { key, hint: false, bytes, limit }));
        }
        for (target, new, before, after) in news {
            fx.local.account_hint(target, self.place(), before, Some(after));
            fx.out.count(Counter::HintsKept);
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
    pub(super) fn discharge(&mut self, target: NodeId, object: &Object, fx: &mut Effects) {
        match self.copies.hints.get(&target) {
            Some(Copy::Record(hint)) if hint.object == *object => {
                let size = HintSize::of(self.key, Some(hint));
                fx.local.account_hint(target, self.place(), Some(size), None);
                fx.out.count(Counter::HintsDischarged);
                self.copies.hints.remove(&target);
                self.changed.insert(Some(target));
            }
            Some(_) => fx.out.count(Counter::HintsChangedInFlight),
            None => {}
        }
    }

    /// What this store knows of the key: a home tells of its record, anybody else of what it keeps
    /// for homes.
    pub(super) fn read(&self, homes: &[NodeId], fx: &mut Effects) -> Body {
        let mut generation = fx.local.generations.number(self.partition);
        if homes.contains(&fx.local.me()) {
            let Copy::Record(Record { object, .. }) = &self.copies.own else {
                return Body::Failed(Refusal::Damaged);
            };
            // What is not here may be kept elsewhere for this node.
            let missed = fx.local.is_awaiting() && object.entries().is_empty();
            let authoritative = fx.local.is_authoritative(self.partition) && !missed;
            let (object, kept_for) = (object.clone(), Vec::new());
            return Body::Copy { object, authoritative, kept_for, generation };
        }
        let mut object = Object::default();
        let mut kept_for = Vec::new();
        for (target, hint) in &self.copies.hints {
            // A delete of nothing leaves nothing: that is no word for a home.
            if let Copy::Record(hint) = hint
                && !hint.object.is_empty()
            {
                object = object.sync(&hint.object);
                generation = generation.min(hint.generation);
                kept_for.push(*target);
            }
        }
        Body::Copy { object, authoritative: false, kept_for, generation }
    }
}

/// The encoded bytes of an object, if it is over the limit and larger than it was; `None` for what
/// was there if nothing could be read.
pub(super) fn outgrows(limit: usize, before: Option<&Object>, after: &Object) -> Option<usize> {
    let bytes = wire::encoded_len(after);
    let grows = || before.is_none_or(|before| bytes > wire::encoded_len(before));
    (bytes > limit && grows()).then_some(bytes)
}
