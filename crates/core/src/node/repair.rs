//! Anti-entropy (DeCandia et al., "Dynamo", 2007, section 4.7): each partition is compared with
//! every other home of it, over and over, and at once when something may be missing; what differs
//! is moved. Here is decided when; `exchange` is one comparison, `answers` the other end of it,
//! `reading` brings the trees from the disk, `healing` mends damaged records, `authority` says what
//! does not count meanwhile.
//!
//! A node that has lost its authority for a partition regains it here: once it has taken over all
//! that each other home has.

mod answers;
mod authority;
mod exchange;
mod healing;
mod reading;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use self::answers::Answers;
use self::authority::Loss;
use self::exchange::{Exchange, Moved, Step, Stop, Way};
use self::healing::Healing;
use self::reading::Reader;
use super::effects::Effects;
use super::forest::own_partitions;
use super::generations::Stamped;
use super::ids::{RequestId, RequestIds, Role, ScanToken};
use super::reach::Reach;
use super::{Config, Notice};
use crate::members::Opinion;
use crate::message::{Body, ComparisonFault, Counter};
use crate::ring::Ring;
use crate::rng::Rng;
use crate::store::ScanPage;
use crate::types::{Key, Micros, NodeId, Partition, Time};

/// Exchanges under way while no client waits for this node, and while some do.
const MAX_EXCHANGES: usize = 8;
const MAX_EXCHANGES_BESIDE_CLIENTS: usize = 2;
/// An exchange that moved something is followed by another one after this time, until the roots are
/// the same; one that failed is tried again after it, then twice it, and so on.
const AGAIN: Micros = Micros::from_millis(1_000);
/// What is due is looked for so often; it is no matter of less.
const LOOK: Micros = Micros::from_millis(100);
/// While clients wait for this node, an exchange that has read records is followed by a pause of so
/// many times what it took, and of this at most.
const REST_PER_EXCHANGE: u64 = 3;
const MOST_REST: Micros = Micros::from_millis(2_000);
/// Exchanges with a peer that is back begin within this time.
const SPREAD: Micros = Micros::from_millis(500);

/// What is to be compared, when, and what is under way.
#[derive(Clone, Debug)]
pub(super) struct Repair {
    me: NodeId,
    ring: Arc<Ring>,
    interval: Micros,
    rng: Rng,
    reach: Reach,
    pairs: BTreeMap<(Partition, NodeId), Pair>,
    exchanges: Vec<Exchange>,
    look_at: Time,
    /// No exchange begins beside clients before.
    rest_until: Time,
    lane: Lane,
    answers: Answers,
    reader: Reader,
    healing: Healing,
    /// Partitions without authority, each with the homes that have nothing any more that is missing
    /// here.
    lacking: BTreeMap<Partition, BTreeSet<NodeId>>,
    /// The id of the store that lacks it.
    store: u64,
    loss: Loss,
}

/// A partition and another home of it.
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
pub(super) struct Flight {
    peer: NodeId,
    partition: Partition,
    key: Key,
    way: Way,
}

/// The ids of questions, and the objects in flight.
#[derive(Clone, Debug)]
pub(super) struct Lane {
    ids: RequestIds,
    flights: BTreeMap<RequestId, Flight>,
}

impl Lane {
    fn question(&mut self) -> RequestId {
        self.ids.next()
    }

    fn fly(&mut self, peer: NodeId, partition: Partition, key: Key, way: Way) -> RequestId {
        let op = self.question();
        self.flights.insert(op, Flight { peer, partition, key, way });
        op
    }
}

/// A partition and another home of it, as this node knows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairView {
    /// The partition.
    pub partition: Partition,
    /// The other home.
    pub peer: NodeId,
    /// For how long nothing else is known than that they hold the same; `None` before they were
    /// compared.
    pub equal_for: Option<Micros>,
    /// True while they are being compared, or are to be at once.
    pub is_pending: bool,
    /// Why the last exchange failed.
    pub failing: Option<ComparisonFault>,
    /// Objects that the last exchange with a difference brought here, took there, and the bytes of
    /// their values.
    pub moved: (u64, u64, u64),
}

impl Repair {
    /// Every pair that this node is to begin with is due.
    pub(super) fn new(config: &Config, seed: u64) -> Self {
        let me = config.me;
        let mut rng = Rng::new(seed ^ Role::Repair.tag());
        let own = own_partitions(&config.ring, me);
        let mut pairs = BTreeMap::new();
        for partition in &own {
            let homes = config.ring.homes(*partition);
            let place = homes.iter().position(|home| *home == me);
            for (at, peer) in homes.iter().enumerate().filter(|(_, home)| **home != me) {
                // One of the two begins.
                let due = (Some(at) > place).then_some(Time::START);
                pairs.insert((*partition, *peer), Pair { due, ..Pair::default() });
            }
        }
        let ids = RequestIds::new(Role::Repair, rng.next_u64());
        Repair {
            me,
            ring: config.ring.clone(),
            interval: config.repair_interval,
            rng,
            reach: Reach::default(),
            pairs,
            exchanges: Vec::new(),
            look_at: Time::START,
            rest_until: Time::START,
            lane: Lane { ids, flights: BTreeMap::new() },
            answers: Answers::default(),
            reader: Reader::new(own, config.scrub_interval),
            healing: Healing::default(),
            lacking: BTreeMap::new(),
            store: 0,
            loss: Loss::default(),
        }
    }

    /// Each pair is compared about every `interval`, and all that is on disk read once in the time
    /// `round`.
    pub(super) fn pace(&mut self, now: Time, interval: Micros, round: Micros) {
        self.interval = interval;
        for pair in self.pairs.values_mut() {
            pair.due = pair.due.map(|due| due.min(now + interval));
        }
        self.reader.pace(now, round);
    }

    /// When the disk is to be read on. Everything else is looked after at the node's pulse.
    pub(super) fn next_wake(&self) -> Option<Time> {
        self.reader.next_wake()
    }

    /// A link came up or went down.
    pub(super) fn link(&mut self, now: Time, peer: NodeId, up: bool) {
        self.reach.link(peer, up);
        self.reached(now, peer);
    }

    /// This node's opinion of a peer has changed.
    pub(super) fn opine(&mut self, now: Time, peer: NodeId, opinion: Opinion) {
        if self.reach.opine(peer, opinion) {
            self.reached(now, peer);
        }
    }

    /// What was under way with a peer is given up, and begun anew if it can be reached.
    fn reached(&mut self, now: Time, peer: NodeId) {
        self.exchanges.retain(|exchange| exchange.peer != peer);
        self.lane.flights.retain(|_, flight| flight.peer != peer);
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

    /// An own record is damaged.
    pub(super) fn find_damaged(&mut self, partition: Partition, key: Key, fx: &mut Effects) {
        self.healing.find(partition, key, fx);
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Time, fx: &mut Effects) {
        self.reader.tick(now, fx);
        let mut at = 0;
        while at < self.exchanges.len() {
            let step = self.exchanges[at].tick(now, &mut self.lane, fx);
            if !self.end_if_over(now, at, step, fx) {
                at += 1;
            }
        }
        if !fx.local.is_settled() || now < self.look_at {
            return;
        }
        self.look_at = now + LOOK;
        self.look_after_authority(now, fx);
        self.begin_exchanges(now, fx);
        let (ring, reach, me) = (&self.ring, &self.reach, self.me);
        let others = |partition: Partition| {
            let others = ring.homes(partition).iter().copied().filter(|home| *home != me);
            let others: Vec<NodeId> = others.collect();
            others.iter().all(|peer| reach.has(*peer)).then_some(others)
        };
        self.healing.tick(now, &others, &mut self.lane, fx);
    }

    fn begin_exchanges(&mut self, now: Time, fx: &mut Effects) {
        let most = if fx.local.is_busy() { MAX_EXCHANGES_BESIDE_CLIENTS } else { MAX_EXCHANGES };
        if self.exchanges.len() >= most {
            return;
        }
        let due =
            |(_, pair): &(&(Partition, NodeId), &Pair)| pair.due.is_some_and(|due| due <= now);
        // Those that wait longest first, with those that authority depends on before all.
        let mut due: Vec<(bool, Time, Partition, NodeId)> = self
            .pairs
            .iter()
            .filter(due)
            .filter(|((_, peer), _)| self.reach.has(*peer))
            .map(|((partition, peer), pair)| {
                (!self.lacking.contains_key(partition), pair.due.unwrap_or(now), *partition, *peer)
            })
            .collect();
        due.sort_unstable();
        // What authority depends on does not rest: reads are refused meanwhile.
        let rests = fx.local.is_busy() && now < self.rest_until;
        for (has_authority, _, partition, peer) in due {
            if self.exchanges.len() >= most || (rests && has_authority) {
                break;
            }
            // One sender at a time for what may be missing.
            if self.exchanges.iter().any(|exchange| exchange.partition == partition) {
                continue;
            }
            let lane = &mut self.lane;
            let begun = Exchange::begin(now, partition, peer, !has_authority, lane, fx);
            self.exchanges.extend(begun);
        }
    }

    /// A peer asks about a tree.
    pub(super) fn ask(
        &mut self,
        now: Time,
        from: NodeId,
        op: RequestId,
        body: Body,
        fx: &mut Effects,
    ) {
        if let Some(partition) = self.answers.ask(from, op, body, &self.ring, fx)
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
        op: RequestId,
        body: Body,
        fx: &mut Effects,
    ) {
        if self.healing.hear(now, from, op, &body, fx) {
            return;
        }
        if self.lane.flights.contains_key(&op) {
            self.fly_on(now, from, op, body, fx);
            return;
        }
        let awaited = |e: &Exchange| e.awaits(op) && e.peer == from;
        let Some(at) = self.exchanges.iter().position(awaited) else { return };
        let step = self.exchanges[at].hear(now, body, &mut self.lane, fx);
        self.end_if_over(now, at, step, fx);
    }

    /// Something has become of an object in flight.
    fn fly_on(&mut self, now: Time, from: NodeId, op: RequestId, body: Body, fx: &mut Effects) {
        let Some(mut flight) = self.lane.flights.remove(&op) else {
            debug_assert!(false, "the flight was found by its id");
            return;
        };
        let belongs = |e: &Exchange| e.peer == flight.peer && e.partition == flight.partition;
        let Some(at) = self.exchanges.iter().position(belongs) else {
            debug_assert!(false, "the flights of an exchange end with it");
            return;
        };
        let exchange = &mut self.exchanges[at];
        let own = from == self.me;
        // From where it is read to where it goes: in a push both are the other way round.
        let (read, written) = match flight.way {
            Way::Push => (own, !own),
            Way::Pull | Way::Both => (!own, own),
        };
        let (over, failed) = match (body, flight.way) {
            (Body::Failed(_), _) => (true, true),
            (Body::Copy { object, generation, .. }, way) if read => {
                let copy = Stamped { object, generation };
                (exchange.carry(op, &flight.key, way, copy, fx), false)
            }
            (Body::Held, Way::Both) if written => {
                flight.way = Way::Push;
                fx.out.send(vec![self.me], op, Body::Read { key: flight.key.clone() });
                (false, false)
            }
            (Body::Held, _) if written => (true, false),
            // A repeated answer to an earlier step.
            _ => (false, false),
        };
        if !over {
            self.lane.flights.insert(op, flight);
            return;
        }
        let step = exchange.landed(now, failed, &mut self.lane, fx);
        self.end_if_over(now, at, step, fx);
    }

    /// A page has been read for the trees.
    pub(super) fn trees_scanned(
        &mut self,
        now: Time,
        token: ScanToken,
        page: &ScanPage,
        fx: &mut Effects,
    ) {
        if let Some((partition, damaged)) = self.reader.scanned(now, token, page, fx) {
            for key in damaged {
                self.healing.find(partition, key, fx);
            }
        }
    }

    /// A page has been read for an exchange, which may have been given up meanwhile.
    pub(super) fn exchange_scanned(
        &mut self,
        now: Time,
        token: ScanToken,
        page: ScanPage,
        fx: &mut Effects,
    ) {
        let Some(at) = self.exchanges.iter().position(|e| e.awaits_scan(token)) else { return };
        let step = self.exchanges[at].scanned(now, page, &mut self.lane, fx);
        self.end_if_over(now, at, step, fx);
    }

    /// A page has been read for a peer's comparison.
    pub(super) fn peer_list_scanned(
        &mut self,
        token: ScanToken,
        page: &ScanPage,
        fx: &mut Effects,
    ) {
        self.answers.scanned(token, page, fx);
    }

    /// Takes note of an exchange that has ended; true if it has.
    fn end_if_over(&mut self, now: Time, at: usize, step: Step, fx: &mut Effects) -> bool {
        let ended = match step {
            Ok(None) => return false,
            Ok(Some(())) => Ok(()),
            Err(why) => Err(why),
        };
        let exchange = self.exchanges.swap_remove(at);
        let proves = exchange.proves(fx);
        let Exchange { peer, partition, moved, begun, has_read, .. } = exchange;
        self.lane.flights.retain(|_, f| f.peer != peer || f.partition != partition);
        if has_read {
            let rest = REST_PER_EXCHANGE * now.saturating_since(begun);
            self.rest_until = now + rest.min(MOST_REST);
        }
        let ended = match ended {
            Err(Stop::NotYet) => {
                fx.out.count(Counter::ExchangesPutOff);
                if let Some(pair) = self.pairs.get_mut(&(partition, peer)) {
                    pair.due = Some(now + 2 * AGAIN);
                }
                return true;
            }
            Err(Stop::Failed(why)) => Err(why),
            Ok(()) => Ok(()),
        };
        let (interval, half) = (self.interval, self.rng.within(self.interval / 2 + Micros(1)));
        let initiates = self.initiates(partition, peer);
        let Some(pair) = self.pairs.get_mut(&(partition, peer)) else {
            debug_assert!(false, "only pairs are compared, and none is forgotten");
            return true;
        };
        let failed = moved.failed > 0;
        let objects = ComparisonFault::Objects { objects: moved.failed };
        let why = ended.err().or_else(|| failed.then_some(objects));
        fx.out.count(Counter::Exchanges);
        fx.out.count_many(Counter::ObjectsPulled, moved.pulled);
        fx.out.count_many(Counter::ObjectsPushed, moved.pushed);
        if moved.pulled + moved.pushed > 0 {
            pair.moved = moved;
            fx.out.notice(Notice::Repaired(partition, peer, moved.pulled, moved.pushed));
        }
        match why {
            Some(why) => {
                fx.out.count(Counter::ExchangesFailed);
                if pair.failing.is_none() {
                    fx.out.notice(Notice::RepairFailed(partition, peer));
                }
                let tries = pair.failing.take().map_or(0, |(_, tries)| tries) + 1;
                pair.due = Some(now + (AGAIN * (1 << tries.min(10))).min(interval.max(AGAIN)));
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
                    fx.out.count(Counter::DifferencesUnexplained);
                    fx.local.forest.doubt(partition);
                }
                pair.due = Some(now + if moved_something { AGAIN } else { 2 * AGAIN });
            }
        }
        if self.lacking.contains_key(&partition) {
            // Authority depends on it, whoever is to begin otherwise.
            pair.due = Some(pair.due.map_or(now + AGAIN, |due| due.min(now + AGAIN)));
        }
        if pair.failing.is_none() && proves {
            self.count_proof(now, partition, peer, fx);
        }
        self.begin_exchanges(now, fx);
        true
    }

    /// This node has all that a peer had of a partition; it may depend on that whether absent keys
    /// count here.
    fn count_proof(&mut self, now: Time, partition: Partition, peer: NodeId, fx: &mut Effects) {
        if let Some(heard) = self.lacking.get_mut(&partition) {
            heard.insert(peer);
            self.look_after_authority(now, fx);
        }
    }

    /// True if it is up to this node to compare a partition with another home of it.
    fn initiates(&self, partition: Partition, peer: NodeId) -> bool {
        let first =
            self.ring.homes(partition).iter().find(|home| **home == self.me || **home == peer);
        first == Some(&self.me)
    }

    /// Every partition of this node with each other home of it.
    pub(super) fn view(&self, now: Time) -> Vec<PairView> {
        let view = |((partition, peer), pair): (&(Partition, NodeId), &Pair)| PairView {
            partition: *partition,
            peer: *peer,
            equal_for: pair.equal_at.map(|at| now.saturating_since(at)),
            is_pending: pair.due.is_some_and(|due| due <= now)
                || self.exchanges.iter().any(|e| e.partition == *partition && e.peer == *peer),
            failing: pair.failing.as_ref().map(|(why, _)| why.clone()),
            moved: (pair.moved.pulled, pair.moved.pushed, pair.moved.bytes),
        };
        self.pairs.iter().map(view).collect()
    }

    /// Damaged records that wait to be mended.
    pub(super) fn damaged(&self) -> usize {
        self.healing.known()
    }
}
