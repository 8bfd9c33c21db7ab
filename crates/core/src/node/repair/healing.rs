//! Records that fail their checksum: what the other homes have is fetched and put in their place.

use std::collections::{BTreeMap, BTreeSet};

use super::Lane;
use crate::causal::Object;
use crate::message::{Body, Counter, Refusal};
use crate::node::Notice;
use crate::node::effects::Effects;
use crate::node::ids::RequestId;
use crate::types::{Key, Micros, NodeId, Partition, Time};

/// Damaged records that are known at a time; more are found when they are read again.
const MAX_KNOWN: usize = 100_000;
/// Damaged records that are fetched at a time.
const MAX_FETCHES: usize = 16;
/// A fetch that has not succeeded in this time is tried again.
const PATIENCE: Micros = Micros::from_millis(5_000);
const REST: Micros = Micros::from_millis(1_000);

/// Damaged records, and what was heard of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Healing {
    waiting: BTreeSet<(Partition, Key)>,
    fetches: BTreeMap<RequestId, Fetch>,
    rest_until: Time,
}

#[derive(Clone, Debug)]
struct Fetch {
    partition: Partition,
    key: Key,
    asked: Vec<NodeId>,
    merged: Object,
    /// True once somebody has told what it has.
    told: bool,
    due: Time,
}

impl Healing {
    /// How many damaged records are known.
    pub(super) fn known(&self) -> usize {
        self.waiting.len() + self.fetches.len()
    }

    /// A damaged record was found.
    pub(super) fn find(&mut self, partition: Partition, key: Key, fx: &mut Effects) {
        let known = self.fetches.values().any(|fetch| fetch.key == key);
        if !known && self.known() < MAX_KNOWN && self.waiting.insert((partition, key)) {
            fx.out.count(Counter::DamagedRecordsFound);
            fx.out.notice(Notice::Damaged(partition));
        }
    }

    /// Fetches what can be fetched: a record whose other homes can all be reached, for each may
    /// have what no other has.
    pub(super) fn tick(
        &mut self,
        now: Time,
        others: &dyn Fn(Partition) -> Option<Vec<NodeId>>,
        lane: &mut Lane,
        fx: &mut Effects,
    ) {
        let late: Vec<RequestId> =
            self.fetches.iter().filter(|(_, f)| f.due <= now).map(|(op, _)| *op).collect();
        for op in late {
            self.fail(now, op);
        }
        if now < self.rest_until {
            return;
        }
        let mut put_off = Vec::new();
        while self.fetches.len() < MAX_FETCHES
            && let Some((partition, key)) = self.waiting.pop_first()
        {
            let Some(asked) = others(partition).filter(|others| !others.is_empty()) else {
                put_off.push((partition, key));
                continue;
            };
            let op = lane.question();
            fx.out.send(asked.clone(), op, Body::Read { key: key.clone() });
            let (merged, due) = (Object::default(), now + PATIENCE);
            self.fetches.insert(op, Fetch { partition, key, asked, merged, told: false, due });
        }
        if !put_off.is_empty() {
            self.rest_until = now + REST;
        }
        self.waiting.extend(put_off);
    }

    fn fail(&mut self, now: Time, op: RequestId) {
        if let Some(Fetch { partition, key, .. }) = self.fetches.remove(&op) {
            self.waiting.insert((partition, key));
            self.rest_until = now + REST;
        }
    }

    /// A home has told what it has, or that its copy is damaged too, or nothing; the node itself
    /// that the record is whole again. False if this was about something else.
    pub(super) fn hear(
        &mut self,
        now: Time,
        from: NodeId,
        op: RequestId,
        body: &Body,
        fx: &mut Effects,
    ) -> bool {
        let Some(fetch) = self.fetches.get_mut(&op) else { return false };
        if from == fx.local.me() {
            // It is restored; or a full disk, say, forbids it.
            match body {
                Body::Held => drop(self.fetches.remove(&op)),
                // Too large to be taken: it is found again when it is read, and until its key is
                // settled elsewhere there is no use in trying.
                Body::Failed(Refusal::Limit { .. }) => drop(self.fetches.remove(&op)),
                _ => self.fail(now, op),
            }
            return true;
        }
        let Some(at) = fetch.asked.iter().position(|node| *node == from) else { return true };
        match body {
            Body::Copy { object, generation, .. } => {
                if fx.local.generations.check(fetch.partition, *generation).is_err() {
                    self.fail(now, op);
                    return true;
                }
                fetch.merged = fetch.merged.sync(object);
                fetch.told = true;
            }
            Body::Failed(Refusal::Damaged) => {}
            _ => {
                self.fail(now, op);
                return true;
            }
        }
        fetch.asked.swap_remove(at);
        if fetch.asked.is_empty() && fetch.told {
            let (key, object) = (fetch.key.clone(), std::mem::take(&mut fetch.merged));
            fx.out.send(vec![fx.local.me()], op, Body::Restore { key, object });
        }
        true
    }
}
