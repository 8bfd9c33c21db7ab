//! What is left of partitions that this node does not own: it goes to their owners, and is erased
//! here when every owner holds it, synced. That every member uses the ring is not enough for it: an
//! owner whose disk was put back may lack a write that was acknowledged with W = 1, and the copy
//! here may be the last one.
//!
//! One partition at a time is compared with each of its owners, which are sent what they lack. If
//! nothing has come meanwhile, all records that are here then go, each unless it is another one by
//! then.

use std::collections::BTreeSet;

use super::Repair;
use super::exchange::{Exchange, Purpose, Stop};
use crate::merkle::Digest;
use crate::message::{Body, Counter};
use crate::node::ids::{RequestId, ScanPurpose, ScanToken};
use crate::node::io::Io;
use crate::node::rules;
use crate::store::{Detail, ScanPage, Span};
use crate::types::{Micros, NodeId, Partition, Time};

/// Bytes of records that are looked through at a time.
const PAGE_BYTES: usize = 64 << 10;
/// After a try that came to nothing.
const RETRY_BACKOFF: Micros = Micros::from_millis(500);

/// The partition that is on its way to its owners.
#[derive(Clone, Debug, Default)]
pub(super) struct Release {
    current: Option<Current>,
    /// The partition that was tried last.
    last: Option<Partition>,
    paused_until: Time,
}

#[derive(Clone, Debug)]
struct Current {
    partition: Partition,
    /// Changes that the partition had seen when the first owner was asked.
    changes: u64,
    /// Owners that hold all that was here then.
    proven: BTreeSet<NodeId>,
    stage: Stage,
}

#[derive(Clone, Debug)]
enum Stage {
    Proving,
    Reading(ScanToken),
    /// These records are being erased.
    Erasing(BTreeSet<RequestId>),
}

impl Release {
    /// Another ring is in force: what was proven counts no more.
    pub(super) fn begin_anew(&mut self) {
        self.current = None;
    }

    /// A record was erased, if this request was for that, and all of its page are.
    pub(super) fn erased(&mut self, request_id: RequestId) -> bool {
        let Some(Current { stage: Stage::Erasing(open), .. }) = &mut self.current else {
            return false;
        };
        open.remove(&request_id) && open.is_empty()
    }

    /// Leaves the partition for now.
    fn put_off(&mut self, now: Time) {
        self.current = None;
        self.paused_until = now + RETRY_BACKOFF;
    }
}

impl Repair {
    /// Goes on with what is left of partitions of others.
    pub(super) fn release_surplus(&mut self, now: Time, io: &mut Io) {
        if io.local.is_behind() {
            return self.release.begin_anew();
        }
        if self.release.current.is_none() {
            self.choose_surplus(now, io);
        }
        let reach = &self.reach;
        let Some(current) = &mut self.release.current else { return };
        // Who is out of reach may come back with an older disk.
        current.proven.retain(|owner| reach.has(*owner));
        let partition = current.partition;
        match &current.stage {
            Stage::Reading(_) => {}
            Stage::Erasing(open) if open.is_empty() => self.read_surplus(partition, io),
            Stage::Erasing(_) => {}
            Stage::Proving => {
                let is_paused = now < self.release.paused_until;
                if is_paused || self.exchanges.iter().any(Exchange::is_release) {
                    return;
                }
                let owners = io.local.ring().all_owners(partition);
                match rules::unproven(&owners, &current.proven) {
                    Some(owner) if self.reach.has(owner) => {
                        let (in_flight, purpose) = (&mut self.in_flight, Purpose::Release);
                        let begun = Exchange::begin(now, partition, owner, purpose, in_flight, io);
                        self.exchanges.extend(begun);
                    }
                    Some(_) => self.release.put_off(now),
                    None if current.changes == io.local.trees.changes(partition) => {
                        self.read_surplus(partition, io);
                    }
                    None => self.release.put_off(now),
                }
            }
        }
    }

    /// The next partition, in turn, whose tree is there.
    fn choose_surplus(&mut self, now: Time, io: &mut Io) {
        if now < self.release.paused_until {
            return;
        }
        let is_read = |partition: &&Partition| io.local.trees.tree(**partition).is_some();
        let surplus = io.local.surplus();
        let behind = surplus.iter().filter(|partition| Some(**partition) > self.release.last);
        let next = behind.chain(surplus).find(is_read).copied();
        self.release.last = next;
        self.release.current = next.map(|partition| Current {
            partition,
            changes: io.local.trees.changes(partition),
            proven: BTreeSet::new(),
            stage: Stage::Proving,
        });
    }

    /// A comparison with an owner of a partition that this node does not own has ended.
    pub(super) fn end_release(
        &mut self,
        now: Time,
        exchange: &Exchange,
        ended: &Result<(), Stop>,
        io: &mut Io,
    ) -> bool {
        let (peer, partition) = (exchange.peer, exchange.partition);
        self.in_flight.transfers.retain(|_, f| f.peer != peer || f.partition != partition);
        io.out.count_many(Counter::ObjectsPushed, exchange.moved.pushed);
        match &mut self.release.current {
            Some(current) if current.partition == partition => {
                if ended.is_ok() && exchange.proves(io) {
                    current.proven.insert(peer);
                } else if current.changes == io.local.trees.changes(partition) {
                    // What the other owners hold they go on to hold.
                    self.release.paused_until = now + RETRY_BACKOFF;
                } else {
                    self.release.put_off(now);
                }
            }
            _ => {}
        }
        self.release_surplus(now, io);
        true
    }

    fn read_surplus(&mut self, partition: Partition, io: &mut Io) {
        let span = Span { limit_bytes: PAGE_BYTES, detail: Detail::Digests, ..Span::default() };
        let token = io.out.scan(ScanPurpose::Surplus, partition, span);
        if let Some(current) = &mut self.release.current {
            current.stage = Stage::Reading(token);
        }
    }

    /// A page has been read of what every owner holds: it goes. When nothing is left, the partition
    /// is none of this node's any more.
    pub(in crate::node) fn surplus_scanned(
        &mut self,
        now: Time,
        token: ScanToken,
        page: &ScanPage,
        io: &mut Io,
    ) {
        if io.local.is_behind() {
            return self.release.begin_anew();
        }
        let Some(current) = &mut self.release.current else { return };
        if !matches!(current.stage, Stage::Reading(of) if of == token) {
            return;
        }
        let partition = current.partition;
        let readable = page.items.iter().map(|item| (item.key.clone(), Some(item.digest)));
        let damaged = page.damaged.iter().map(|key| (key.clone(), None));
        let mut open = BTreeSet::new();
        for (key, digest) in readable.chain(damaged) {
            let request_id = self.in_flight.question();
            open.insert(request_id);
            io.out.send(vec![self.me], request_id, Body::Erase { key, digest });
        }
        if !open.is_empty() {
            current.stage = Stage::Erasing(open);
            return;
        }
        let is_empty = io.local.trees.tree(partition).is_none_or(|t| t.root() == Digest::default());
        if is_empty && page.next.is_none() {
            self.release.current = None;
            io.out.count(Counter::PartitionsReleased);
            io.local.release(partition);
            self.release_surplus(now, io);
        } else {
            self.release.put_off(now);
        }
    }
}
