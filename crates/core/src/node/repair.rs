//! Anti-entropy (DeCandia et al., "Dynamo", 2007, section 4.7): each partition is compared with
//! every other owner of it, over and over, and at once when something may be missing; what differs
//! is moved. Here is decided when; `exchange` is one comparison, `answers` the other end of it,
//! `reading` brings the trees from the disk, `healing` mends damaged records, `eligibility` says
//! what does not count meanwhile.
//!
//! A node that has lost its read eligibility for a partition regains it here: once it has taken
//! over all that each other owner has.

mod answers;
mod difference;
mod eligibility;
mod exchange;
mod healing;
mod reading;
mod release;
mod stream;

use std::collections::{BTreeMap, BTreeSet};

use self::answers::Answers;
use self::difference::Direction;
use self::eligibility::Loss;
use self::exchange::{Exchange, Moved, Purpose, Step, Stop};
use self::healing::Healing;
use self::reading::Reader;
use self::release::Release;
use self::stream::Pace;
use super::gc_epochs::Stamped;
use super::ids::{RequestId, RequestIds, Role, ScanToken};
use super::io::Io;
use super::reach::Reach;
use super::{Config, Limits, Notice};
use crate::members::Liveness;
use crate::message::{Body, ComparisonFault, Counter};
use crate::rng::Rng;
use crate::store::ScanPage;
use crate::types::{Key, Micros, NodeId, Partition, Time, hash64};

/// Exchanges in progress while no client waits for this node, and while some do.
const MAX_EXCHANGES: usize = 8;
const MAX_EXCHANGES_BESIDE_CLIENTS: usize = 2;
/// An exchange that moved something is followed by another one after this time, until the roots are
/// the same; one that failed is tried again after it, then twice it, and so on.
const RETRY_INTERVAL: Micros = Micros::from_millis(1_000);
/// Scheduler interval. A finer resolution is not needed.
const CHECK_INTERVAL: Micros = Micros::from_millis(100);
/// While clients wait for this node, an exchange that has read records is followed by a pause of
/// this many times its duration, up to `MAX_PAUSE`.
const PAUSE_PER_EXCHANGE: u64 = 3;
const MAX_PAUSE: Micros = Micros::from_millis(2_000);
/// Exchanges with a peer that is back begin within this time.
const SPREAD: Micros = Micros::from_millis(500);

/// What is to be compared, when, and what is in progress.
#[derive(Clone, Debug)]
pub(super) struct Repair {
    me: NodeId,
    interval: Micros,
    rng: Rng,
    reach: Reach,
    pairs: BTreeMap<(Partition, NodeId), Pair>,
    exchanges: Vec<Exchange>,
    look_at: Time,
    /// No exchange begins beside clients before.
    paused_until: Time,
    in_flight: InFlight,
    answers: Answers,
    reader: Reader,
    healing: Healing,
    release: Release,
    /// Partitions read-ineligible, each with the owners that have nothing any more that is missing
    /// here.
    lacking: BTreeMap<Partition, BTreeSet<NodeId>>,
    /// The id of the store that lacks it.
    store: u64,
    loss: Loss,
}

/// A partition and another owner of it.
#[derive(Clone, Debug, Default)]
struct Pair {
    /// When they are to be compared; `None` if that is up to the other one.
    due: Option<Time>,
    equal_at: Option<Time>,
    /// Why the last exchange failed, and how many have in a row.
    failing: Option<(ComparisonFault, u32)>,
    moved: Moved,
}

/// What an object in flight belongs to.
#[derive(Clone, Debug)]
pub(super) struct Transfer {
    peer: NodeId,
    partition: Partition,
    key: Key,
    direction: Direction,
}

/// The ids of questions, the objects in transfer, and how fast records may be taken over.
#[derive(Clone, Debug)]
pub(super) struct InFlight {
    ids: RequestIds,
    transfers: BTreeMap<RequestId, Transfer>,
    pace: Pace,
}

impl InFlight {
    fn question(&mut self) -> RequestId {
        self.ids.next()
    }

    fn fly(
        &mut self,
        peer: NodeId,
        partition: Partition,
        key: Key,
        direction: Direction,
    ) -> RequestId {
        let request_id = self.question();
        self.transfers.insert(request_id, Transfer { peer, partition, key, direction });
        request_id
    }

    /// An object did not have to be moved.
    fn land(&mut self, request_id: RequestId) {
        self.transfers.remove(&request_id);
    }
}

/// The state of a pair: a partition of this node, and another owner of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairView {
    /// A partition that this node owns.
    pub partition: Partition,
    /// Another owner of the partition.
    pub peer: NodeId,
    /// For how long nothing else is known than that they hold the same; `None` before they were
    /// compared.
    pub equal_for: Option<Micros>,
    /// True while they are being compared, or are to be at once.
    pub is_pending: bool,
    /// Why the last exchange failed.
    pub failing: Option<ComparisonFault>,
    /// Objects that the last exchange with a difference fetched.
    pub pulled: u64,
    /// Objects that it sent.
    pub pushed: u64,
    /// Bytes of the values of both.
    pub bytes: u64,
}

impl Repair {
    /// Every pair that this node is to begin with is due.
    pub(super) fn new(config: &Config, seed: u64, io: &Io) -> Self {
        let mut rng = Rng::new(seed ^ Role::Repair.tag());
        let ids = RequestIds::new(Role::Repair, rng.next_u64());
        let mut repair = Repair {
            me: config.me,
            interval: config.repair_interval,
            rng,
            reach: Reach::default(),
            pairs: BTreeMap::new(),
            exchanges: Vec::new(),
            look_at: Time::START,
            paused_until: Time::START,
            in_flight: InFlight {
                ids,
                transfers: BTreeMap::new(),
                pace: Pace::new(config.transfer_bytes_per_second),
            },
            answers: Answers::new(config.transfer_page_bytes),
            reader: Reader::new(io.local.held(), config.scrub_interval),
            healing: Healing::default(),
            release: Release::default(),
            lacking: BTreeMap::new(),
            store: 0,
            loss: Loss::default(),
        };
        repair.make_pairs(Time::START, io);
        repair
    }

    /// Each partition of this node is compared with every other owner of it. What is known of pairs
    /// that stay is kept.
    fn make_pairs(&mut self, now: Time, io: &Io) {
        let mut known = std::mem::take(&mut self.pairs);
        let ring = io.local.ring();
        for partition in io.local.own().iter().copied() {
            for peer in ring.all_owners(partition).into_iter().filter(|owner| *owner != self.me) {
                let pair = known.remove(&(partition, peer)).unwrap_or_default();
                // One of the two begins.
                let begins = self.initiates(partition, peer, io);
                let due = begins.then_some(pair.due.unwrap_or(now));
                self.pairs.insert((partition, peer), Pair { due, ..pair });
            }
        }
    }

    /// Another ring is in force: what was compared under the one before proves nothing any more.
    pub(super) fn set_ring(&mut self, now: Time, io: &mut Io) {
        self.exchanges.clear();
        self.in_flight.transfers.clear();
        self.release.begin_anew();
        self.make_pairs(now, io);
        self.reader.set_partitions(now, io.local.held());
        // Eligibility is regained under the ring in force only.
        self.lacking.clear();
        self.store = 0;
    }

    /// Other limits are in force.
    pub(super) fn pace(&mut self, now: Time, limits: &Limits) {
        let (interval, round) = (limits.repair_interval, limits.scrub_interval);
        self.interval = interval;
        self.in_flight.pace.limit(now, limits.transfer_bytes_per_second);
        for pair in self.pairs.values_mut() {
            pair.due = pair.due.map(|due| due.min(now + interval));
        }
        self.reader.pace(now, round);
    }

    /// When the next page of the disk is to be read, or the next one of a peer to be asked for. The
    /// node's periodic wake-up does the rest.
    pub(super) fn next_wake(&self) -> Option<Time> {
        let free_at = self.in_flight.pace.free_at();
        let pages = self.exchanges.iter().filter_map(Exchange::wants_page_at);
        pages.map(|at| at.max(free_at)).chain(self.reader.next_wake()).min()
    }

    /// A link came up or went down.
    pub(super) fn link(&mut self, now: Time, peer: NodeId, up: bool) {
        self.reach.link(peer, up);
        self.reached(now, peer);
    }

    /// This node's view of the liveness of a peer has changed.
    pub(super) fn set_liveness(&mut self, now: Time, peer: NodeId, liveness: Liveness) {
        if self.reach.set_liveness(peer, liveness) {
            self.reached(now, peer);
        }
    }

    /// Gives up the exchanges with a peer, and begins them again if it can be reached.
    fn reached(&mut self, now: Time, peer: NodeId) {
        self.exchanges.retain(|exchange| exchange.peer != peer);
        self.in_flight.transfers.retain(|_, transfer| transfer.peer != peer);
        if !self.reach.has(peer) {
            return;
        }
        for ((_, other), pair) in &mut self.pairs {
            if *other == peer
                && let Some(due) = &mut pair.due
            {
                *due = (*due).min(now + self.rng.within(SPREAD));
                pair.failing = None;
            }
        }
    }

    /// The operator wants these compared at once; all partitions, or all peers, if none is named.
    pub(super) fn order(&mut self, now: Time, partition: Option<Partition>, peer: Option<NodeId>) {
        for ((of, with), pair) in &mut self.pairs {
            if partition.is_none_or(|wanted| wanted == *of)
                && peer.is_none_or(|wanted| wanted == *with)
            {
                pair.due = Some(now);
                pair.equal_at = None;
                pair.failing = None;
            }
        }
    }

    /// Notes that an own record is damaged, to be fetched from the other owners.
    pub(super) fn find_damaged(&mut self, partition: Partition, key: Key, io: &mut Io) {
        self.healing.find(partition, key, io);
    }

    /// Continues reading, exchanges and healing as far as they are due at `now`.
    pub(super) fn tick(&mut self, now: Time, io: &mut Io) {
        self.reader.tick(now, io);
        let mut at = 0;
        while at < self.exchanges.len() {
            let step = self.exchanges[at].tick(now, &mut self.in_flight, io);
            if !self.end_if_over(now, at, step, io) {
                at += 1;
            }
        }
        if !io.local.is_settled() || now < self.look_at {
            return;
        }
        self.look_at = now + CHECK_INTERVAL;
        self.check_read_eligibility(now, io);
        self.begin_exchanges(now, io);
        self.release_surplus(now, io);
        let (ring, reach, me) = (io.local.ring().clone(), &self.reach, self.me);
        let others = |partition: Partition| {
            let mut others = ring.all_owners(partition);
            others.retain(|owner| *owner != me);
            others.iter().all(|peer| reach.has(*peer)).then_some(others)
        };
        self.healing.tick(now, &others, &mut self.in_flight, io);
    }

    fn begin_exchanges(&mut self, now: Time, io: &mut Io) {
        let most = if io.local.is_busy() { MAX_EXCHANGES_BESIDE_CLIENTS } else { MAX_EXCHANGES };
        if self.exchanges.len() >= most {
            return;
        }
        let due =
            |(_, pair): &(&(Partition, NodeId), &Pair)| pair.due.is_some_and(|due| due <= now);
        // Those that wait longest first, with those that read eligibility depends on before all.
        let mut due: Vec<(bool, Time, Partition, u64, NodeId)> = self
            .pairs
            .iter()
            .filter(due)
            .filter(|((_, peer), _)| self.reach.has(*peer))
            .map(|((partition, peer), pair)| {
                let is_read_eligible = !self.lacking.contains_key(partition);
                // Any of a partition's owners is the first source, so that all of them send.
                let turn = hash64(&[&partition.0.to_be_bytes(), &peer.0.to_be_bytes()]);
                (is_read_eligible, pair.due.unwrap_or(now), *partition, turn, *peer)
            })
            .collect();
        due.sort_unstable();
        // What read eligibility depends on does not rest: reads are refused meanwhile.
        let pauses = io.local.is_busy() && now < self.paused_until;
        for (is_read_eligible, _, partition, _, peer) in due {
            if self.exchanges.len() >= most || (pauses && is_read_eligible) {
                break;
            }
            // What would prove nothing yet waits, and so is moved once.
            if !is_read_eligible && !io.local.may_prove() {
                continue;
            }
            // One sender at a time for what may be missing.
            if self.exchanges.iter().any(|exchange| exchange.partition == partition) {
                continue;
            }
            let in_flight = &mut self.in_flight;
            let purpose = if is_read_eligible { Purpose::Upkeep } else { Purpose::Proof };
            let begun = Exchange::begin(now, partition, peer, purpose, in_flight, io);
            self.exchanges.extend(begun);
        }
    }

    /// Handles a peer's question about a tree.
    pub(super) fn query(
        &mut self,
        now: Time,
        from: NodeId,
        request_id: RequestId,
        body: Body,
        io: &mut Io,
    ) {
        if let Some(partition) = self.answers.query(from, request_id, body, io)
            && let Some(pair) = self.pairs.get_mut(&(partition, from))
        {
            pair.equal_at = Some(now);
        }
    }

    /// A peer, or the own replica, has answered.
    pub(super) fn hear(
        &mut self,
        now: Time,
        from: NodeId,
        request_id: RequestId,
        body: Body,
        io: &mut Io,
    ) {
        if self.healing.hear(now, from, request_id, &body, io) {
            return;
        }
        if from == self.me && self.release.erased(request_id) {
            return self.release_surplus(now, io);
        }
        if self.in_flight.transfers.contains_key(&request_id) {
            self.fly_on(now, from, request_id, body, io);
            return;
        }
        let waited_for = |e: &Exchange| e.awaits(request_id) && e.peer == from;
        let Some(at) = self.exchanges.iter().position(waited_for) else { return };
        let step = self.exchanges[at].hear(now, body, &mut self.in_flight, io);
        self.end_if_over(now, at, step, io);
    }

    /// Something has become of an object in flight.
    fn fly_on(&mut self, now: Time, from: NodeId, request_id: RequestId, body: Body, io: &mut Io) {
        let Some(mut transfer) = self.in_flight.transfers.remove(&request_id) else {
            debug_assert!(false, "the flight was found by its id");
            return;
        };
        let belongs = |e: &Exchange| e.peer == transfer.peer && e.partition == transfer.partition;
        let Some(at) = self.exchanges.iter().position(belongs) else {
            debug_assert!(false, "the flights of an exchange end with it");
            return;
        };
        let exchange = &mut self.exchanges[at];
        let own = from == self.me;
        // From where it is read to where it goes: in a push both are the other way round.
        let (read, written) = match transfer.direction {
            Direction::Push => (own, !own),
            Direction::Pull | Direction::Both => (!own, own),
        };
        let (over, failed) = match (body, transfer.direction) {
            (Body::Failed(_), _) => (true, true),
            (Body::Copy { object, gc_epoch, .. }, direction) if read => {
                let copy = Stamped { object, gc_epoch };
                (exchange.carry(request_id, &transfer.key, direction, copy, io), false)
            }
            (Body::Ack, Direction::Both) if written => {
                transfer.direction = Direction::Push;
                io.out.send(vec![self.me], request_id, Body::Read { key: transfer.key.clone() });
                (false, false)
            }
            (Body::Ack, _) if written => (true, false),
            // A repeated answer to an earlier step.
            _ => (false, false),
        };
        if !over {
            self.in_flight.transfers.insert(request_id, transfer);
            return;
        }
        let step = exchange.landed(now, failed, &mut self.in_flight, io);
        self.end_if_over(now, at, step, io);
    }

    /// A page has been read for the trees.
    pub(super) fn trees_scanned(
        &mut self,
        now: Time,
        token: ScanToken,
        page: &ScanPage,
        io: &mut Io,
    ) {
        if let Some((partition, damaged)) = self.reader.scanned(now, token, page, io) {
            for key in damaged {
                self.healing.find(partition, key, io);
            }
        }
    }

    /// A page has been read for an exchange, which may have been given up meanwhile.
    pub(super) fn exchange_scanned(
        &mut self,
        now: Time,
        token: ScanToken,
        page: ScanPage,
        io: &mut Io,
    ) {
        let Some(at) = self.exchanges.iter().position(|e| e.awaits_scan(token)) else { return };
        let step = self.exchanges[at].scanned(now, page, &mut self.in_flight, io);
        self.end_if_over(now, at, step, io);
    }

    /// A page has been read for a peer's comparison.
    pub(super) fn peer_list_scanned(&mut self, token: ScanToken, page: ScanPage, io: &mut Io) {
        self.answers.scanned(token, page, io);
    }

    /// Takes note of an exchange that has ended; true if it has.
    fn end_if_over(&mut self, now: Time, at: usize, step: Step, io: &mut Io) -> bool {
        let Some(ended) = step.transpose() else { return false };
        let exchange = self.exchanges.swap_remove(at);
        if exchange.is_release() {
            return self.end_release(now, &exchange, &ended, io);
        }
        let proves = exchange.proves(io);
        let Exchange { peer, partition, moved, begun, has_read, .. } = exchange;
        self.in_flight.transfers.retain(|_, f| f.peer != peer || f.partition != partition);
        if has_read {
            let rest = PAUSE_PER_EXCHANGE * now.saturating_since(begun);
            self.paused_until = now + rest.min(MAX_PAUSE);
        }
        let ended = match ended {
            Err(Stop::NotYet) => {
                io.out.count(Counter::ExchangesPutOff);
                if let Some(pair) = self.pairs.get_mut(&(partition, peer)) {
                    pair.due = Some(now + 2 * RETRY_INTERVAL);
                }
                return true;
            }
            Err(Stop::Failed(why)) => Err(why),
            Ok(()) => Ok(()),
        };
        let (interval, half) = (self.interval, self.rng.within(self.interval / 2 + Micros(1)));
        let initiates = self.initiates(partition, peer, io);
        let Some(pair) = self.pairs.get_mut(&(partition, peer)) else {
            debug_assert!(false, "only pairs are compared, and none is forgotten");
            return true;
        };
        let failed = moved.failed > 0;
        let objects = ComparisonFault::Objects { objects: moved.failed };
        let why = ended.err().or_else(|| failed.then_some(objects));
        io.out.count(Counter::Exchanges);
        io.out.count_many(Counter::ObjectsPulled, moved.pulled);
        io.out.count_many(Counter::ObjectsPushed, moved.pushed);
        if moved.pulled + moved.pushed > 0 {
            pair.moved = moved;
            io.out.notice(Notice::Repaired(partition, peer, moved.pulled, moved.pushed));
        }
        match why {
            Some(why) => {
                io.out.count(Counter::ExchangesFailed);
                if pair.failing.is_none() {
                    io.out.notice(Notice::RepairFailed(partition, peer));
                }
                let tries = pair.failing.take().map_or(0, |(_, tries)| tries) + 1;
                pair.due = Some(
                    now + (RETRY_INTERVAL * (1 << tries.min(10))).min(interval.max(RETRY_INTERVAL)),
                );
                pair.failing = Some((why, tries));
            }
            None if moved.equal => {
                pair.failing = None;
                pair.equal_at = Some(now);
                pair.due = initiates.then_some(now + interval * 3 / 4 + half);
            }
            None => {
                pair.failing = None;
                let moved_something = moved.pulled + moved.pushed > 0;
                if !moved_something && moved.left == 0 {
                    // The leaves differ and their keys do not: one of the two trees is wrong.
                    io.out.count(Counter::DifferencesUnexplained);
                    io.local.trees.doubt(partition);
                }
                pair.due =
                    Some(now + if moved_something { RETRY_INTERVAL } else { 2 * RETRY_INTERVAL });
            }
        }
        if self.lacking.contains_key(&partition) {
            // ReadEligibility depends on it, whoever is to begin otherwise.
            pair.due =
                Some(pair.due.map_or(now + RETRY_INTERVAL, |due| due.min(now + RETRY_INTERVAL)));
        }
        if pair.failing.is_none() && proves {
            self.count_proof(now, partition, peer, io);
        }
        self.begin_exchanges(now, io);
        true
    }

    /// This node has all that a peer had of a partition; it may depend on that whether absent keys
    /// count here.
    fn count_proof(&mut self, now: Time, partition: Partition, peer: NodeId, io: &mut Io) {
        if let Some(heard) = self.lacking.get_mut(&partition) {
            heard.insert(peer);
            self.check_read_eligibility(now, io);
        }
    }

    /// True if it is up to this node to compare a partition with another owner of it: owners that
    /// are to be filled first, so that what they get comes to them once.
    fn initiates(&self, partition: Partition, peer: NodeId, io: &Io) -> bool {
        let ring = io.local.ring();
        let also = ring.also(partition).unwrap_or(&[]).iter();
        let new = also.filter(|owner| !ring.owners(partition).contains(owner));
        let mut order = new.chain(ring.owners(partition));
        order.find(|owner| **owner == self.me || **owner == peer) == Some(&self.me)
    }

    /// Every partition of this node with each other owner of it.
    pub(super) fn view(&self, now: Time) -> Vec<PairView> {
        let view = |((partition, peer), pair): (&(Partition, NodeId), &Pair)| PairView {
            partition: *partition,
            peer: *peer,
            equal_for: pair.equal_at.map(|at| now.saturating_since(at)),
            is_pending: pair.due.is_some_and(|due| due <= now)
                || self.exchanges.iter().any(|e| e.partition == *partition && e.peer == *peer),
            failing: pair.failing.as_ref().map(|(why, _)| why.clone()),
            pulled: pair.moved.pulled,
            pushed: pair.moved.pushed,
            bytes: pair.moved.bytes,
        };
        self.pairs.iter().map(view).collect()
    }

    /// Damaged records that wait to be mended.
    pub(super) fn damaged(&self) -> usize {
        self.healing.known()
    }
}
