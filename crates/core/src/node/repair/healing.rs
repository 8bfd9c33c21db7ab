//! Records that fail their checksum: what the other owners have is fetched and put in their place.

use std::collections::{BTreeMap, BTreeSet};

use super::InFlight;
use crate::causal::Object;
use crate::message::{Body, Counter, Rejection};
use crate::node::Notice;
use crate::node::ids::RequestId;
use crate::node::io::Io;
use crate::types::{Key, Micros, NodeId, Partition, Time};

/// Damaged records that are known at a time; more are found when they are read again.
const MAX_KNOWN: usize = 100_000;
/// Damaged records that are fetched at a time.
const MAX_FETCHES: usize = 16;
/// A fetch that has not succeeded in this time is tried again.
const TIMEOUT: Micros = Micros::from_millis(5_000);
const RETRY_BACKOFF: Micros = Micros::from_millis(1_000);

/// Damaged records, and what was heard of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Healing {
    waiting: BTreeSet<(Partition, Key)>,
    fetches: BTreeMap<RequestId, Fetch>,
    paused_until: Time,
}

#[derive(Clone, Debug)]
struct Fetch {
    partition: Partition,
    key: Key,
    queried: Vec<NodeId>,
    merged: Object,
    /// True once somebody has reported what it has.
    reported: bool,
    due: Time,
}

impl Healing {
    /// How many damaged records are known.
    pub(super) fn known(&self) -> usize {
        self.waiting.len() + self.fetches.len()
    }

    /// A damaged record was found.
    pub(super) fn find(&mut self, partition: Partition, key: Key, io: &mut Io) {
        let known = self.fetches.values().any(|fetch| fetch.key == key);
        if !known && self.known() < MAX_KNOWN && self.waiting.insert((partition, key)) {
            io.out.count(Counter::DamagedRecordsFound);
            io.out.notice(Notice::Damaged(partition));
        }
    }

    /// Fetches what can be fetched: a record whose other owners can all be reached, for each may
    /// have what no other has.
    pub(super) fn tick(
        &mut self,
        now: Time,
        others: &dyn Fn(Partition) -> Option<Vec<NodeId>>,
        in_flight: &mut InFlight,
        io: &mut Io,
    ) {
        let late: Vec<RequestId> = self
            .fetches
            .iter()
            .filter(|(_, f)| f.due <= now)
            .map(|(request_id, _)| *request_id)
            .collect();
        for request_id in late {
            self.fail(now, request_id);
        }
        if now < self.paused_until {
            return;
        }
        let mut put_off = Vec::new();
        while self.fetches.len() < MAX_FETCHES
            && let Some((partition, key)) = self.waiting.pop_first()
        {
            let Some(queried) = others(partition).filter(|others| !others.is_empty()) else {
                put_off.push((partition, key));
                continue;
            };
            let request_id = in_flight.question();
            io.out.send(queried.clone(), request_id, Body::Read { key: key.clone() });
            let (merged, due) = (Object::default(), now + TIMEOUT);
            self.fetches.insert(
                request_id,
                Fetch { partition, key, queried, merged, reported: false, due },
            );
        }
        if !put_off.is_empty() {
            self.paused_until = now + RETRY_BACKOFF;
        }
        self.waiting.extend(put_off);
    }

    fn fail(&mut self, now: Time, request_id: RequestId) {
        if let Some(Fetch { partition, key, .. }) = self.fetches.remove(&request_id) {
            self.waiting.insert((partition, key));
            self.paused_until = now + RETRY_BACKOFF;
        }
    }

    /// An owner has reported what it has, or that its copy is damaged too, or nothing; the node
    /// itself that the record is whole again. False if this was about something else.
    pub(super) fn hear(
        &mut self,
        now: Time,
        from: NodeId,
        request_id: RequestId,
        body: &Body,
        io: &mut Io,
    ) -> bool {
        let Some(fetch) = self.fetches.get_mut(&request_id) else { return false };
        if from == io.local.me() {
            // It is restored; or a full disk, say, forbids it.
            match body {
                Body::Ack => drop(self.fetches.remove(&request_id)),
                // Too large to be taken: it is found again when it is read, and until its key is
                // settled elsewhere there is no use in trying.
                Body::Failed(Rejection::Limit { .. }) => drop(self.fetches.remove(&request_id)),
                _ => self.fail(now, request_id),
            }
            return true;
        }
        let Some(at) = fetch.queried.iter().position(|node| *node == from) else { return true };
        match body {
            Body::Copy { object, gc_epoch, .. } => {
                if io.local.gc_epochs.check(fetch.partition, *gc_epoch).is_err() {
                    self.fail(now, request_id);
                    return true;
                }
                fetch.merged = fetch.merged.sync(object);
                fetch.reported = true;
            }
            Body::Failed(Rejection::Damaged) => {}
            _ => {
                self.fail(now, request_id);
                return true;
            }
        }
        fetch.queried.swap_remove(at);
        if fetch.queried.is_empty() && fetch.reported {
            let (key, object) = (fetch.key.clone(), std::mem::take(&mut fetch.merged));
            io.out.send(vec![io.local.me()], request_id, Body::Restore { key, object });
        }
        true
    }
}
