//! Hinted handoff: what is kept for a member is offered to it the moment it can be reached, several
//! hints in flight, in the order of their keys, and removed only when the member has synced just
//! that.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::effects::Effects;
use super::generations::Stamped;
use super::ids::{ReadToken, RequestId, RequestIds, Role};
use super::reach::Reach;
use super::{Config, Notice};
use crate::causal::Object;
use crate::generation::GcEpoch;
use crate::members::Opinion;
use crate::message::{Body, Counter, Refusal};
use crate::ring::Ring;
use crate::store::{Found, HintPage, Record};
use crate::types::{Key, Micros, NodeId, Time};

/// Hints in flight to one member while no client waits for this node.
const MAX_FLIGHTS: usize = 256;
/// And while clients do: what is left of the disks and links is theirs.
const MAX_FLIGHTS_BESIDE_CLIENTS: usize = 48;
/// Hints of an absent member that are in flight to the other homes.
const MAX_AGED_FLIGHTS: usize = 8;
/// Bytes in flight to one member.
const MAX_FLIGHT_BYTES: usize = 8 << 20;
/// Bytes of hints read at a time.
const PAGE_BYTES: usize = 256 << 10;
/// Damaged hints that are made anew at a time.
const MAX_FETCHES: usize = 64;
/// Hints to one member that are known to be of no use to it now.
const MAX_STUCK: usize = 10_000;
/// A hint that is not confirmed after this time is sent again, in a later pass: confirmations are
/// lost where the link back comes up later than the one there.
const TIMEOUT: Micros = Micros::from_millis(2_000);
/// A hint that its target declined, because the key would outgrow a limit there, is offered again
/// after this time, then after twice it, and so on up to the second: only a client that settles the
/// key helps.
const DECLINED: (Micros, Micros) = (Micros::from_millis(5_000), Micros::from_millis(40_000));
/// Rest after a pass that removed nothing, and after a refusal.
const REST: Micros = Micros::from_millis(1_000);

/// Hints under way, and whom they are for.
#[derive(Clone, Debug)]
pub(super) struct Handoff {
    me: NodeId,
    ring: Arc<Ring>,
    max_age: Micros,
    reach: Reach,
    /// Members that were out of reach and have not been told what is kept for them: they need not
    /// know that they were away. One that was only slow was not.
    absent: BTreeSet<NodeId>,
    /// Members that are back, and that the operator was told are offered hints.
    announced: BTreeSet<NodeId>,
    passes: BTreeMap<NodeId, Pass>,
    lists: BTreeMap<ReadToken, NodeId>,
    flights: BTreeMap<RequestId, Flight>,
    fetches: BTreeMap<RequestId, Fetch>,
    timeouts: VecDeque<(Time, RequestId)>,
    ids: RequestIds,
    /// Hints that their target refused because its own copy is damaged, which counts for nothing
    /// anyway, or because the key would outgrow a limit there.
    stuck: BTreeMap<NodeId, BTreeMap<Key, Stuck>>,
    /// When a member that rests is tried again.
    next_look: Option<Time>,
}

/// A hint that is of no use to its target now.
#[derive(Clone, Copy, Debug, Default)]
struct Stuck {
    /// It is not offered before this time.
    until: Time,
    /// How often in a row it was declined.
    declined: u32,
    /// True if it may have filled the target's slot: the keeper is no owner of the key.
    owed: bool,
}

/// One way through all hints for a member.
#[derive(Clone, Debug, Default)]
struct Pass {
    /// True if the member is absent and its aged hints are offered to the other homes.
    aged: bool,
    after: Option<Key>,
    page: VecDeque<(Key, Record)>,
    listing: bool,
    /// True when the last page has been read.
    ended: bool,
    flights: usize,
    bytes: usize,
    removed: u64,
    rest_until: Time,
}

/// A hint that was sent to its target, or, aged, to other homes.
#[derive(Clone, Debug)]
struct Flight {
    target: NodeId,
    key: Key,
    object: Object,
    generation: GcEpoch,
    bytes: usize,
    waiting: Vec<NodeId>,
    needed: usize,
    /// False if it went to other homes because its target has been absent for long.
    to_target: bool,
}

/// How a flight has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Landing {
    /// All that it needed have confirmed it.
    Taken,
    /// Its target would not take it, as the key would outgrow a limit there: others may follow.
    Declined,
    /// It was refused otherwise, or nobody has answered: the pass rests.
    Lost,
}

/// A damaged hint, which is made anew from what the other homes of its key have.
#[derive(Clone, Debug)]
struct Fetch {
    target: NodeId,
    key: Key,
    waiting: Vec<NodeId>,
    merged: Object,
    /// The oldest generation of what was merged.
    generation: GcEpoch,
}

impl Handoff {
    /// Nothing is under way at first.
    pub(super) fn new(config: &Config, seed: u64) -> Self {
        Handoff {
            me: config.me,
            ring: config.ring.clone(),
            max_age: config.hint_age,
            reach: Reach::default(),
            absent: BTreeSet::new(),
            announced: BTreeSet::new(),
            passes: BTreeMap::new(),
            lists: BTreeMap::new(),
            flights: BTreeMap::new(),
            fetches: BTreeMap::new(),
            timeouts: VecDeque::new(),
            ids: RequestIds::new(Role::Handoff, seed),
            stuck: BTreeMap::new(),
            next_look: None,
        }
    }

    /// The age from which on a hint is also offered to the other homes.
    pub(super) fn limit_age(&mut self, max_age: Micros) {
        self.max_age = max_age;
    }

    /// When something of this role is due.
    pub(super) fn next_wake(&self) -> Option<Time> {
        let timeout = self.timeouts.front().map(|(due, _)| *due);
        [timeout, self.next_look].into_iter().flatten().min()
    }

    /// A link came up or went down.
    pub(super) fn link(&mut self, now: Time, peer: NodeId, up: bool, fx: &mut Effects) {
        self.reach.link(peer, up);
        if !up {
            self.absent.insert(peer);
        }
        self.begin_anew(now, peer, fx);
    }

    /// This node's opinion of a peer has changed.
    pub(super) fn opine(&mut self, now: Time, peer: NodeId, opinion: Opinion, fx: &mut Effects) {
        if opinion == Opinion::Down {
            self.absent.insert(peer);
        }
        if self.reach.opine(peer, opinion) {
            self.begin_anew(now, peer, fx);
        }
    }

    /// Whatever was under way for a member is given up, and begun anew if it can be reached.
    fn begin_anew(&mut self, now: Time, target: NodeId, fx: &mut Effects) {
        self.flights.retain(|_, flight| flight.target != target);
        self.lists.retain(|_, of| *of != target);
        self.stuck.remove(&target);
        self.announced.remove(&target);
        self.passes.remove(&target);
        self.look(now, fx);
        if self.reach.has(target) && fx.local.hints.of(target).is_none() {
            self.absent.remove(&target);
        }
    }

    /// Answers a member that asks how many hints it is owed; that there are none is told when it is
    /// synced.
    pub(super) fn tell(&self, from: NodeId, op: RequestId, fx: &mut Effects) {
        let count = self.owed(from, fx);
        let mark = fx.out.last_mark();
        fx.out.send_synced(Some(mark), from, op, Body::Hints(count));
    }

    /// How many hints a member is owed that are of use to it now.
    fn owed(&self, target: NodeId, fx: &Effects) -> u64 {
        let stuck = self.stuck.get(&target);
        let stuck = stuck.map_or(0, |keys| keys.values().filter(|stuck| stuck.owed).count() as u64);
        fx.local.hints.owed(target).saturating_sub(stuck)
    }

    /// True if all that is kept for a member was declined, and none of it is to be offered again
    /// yet.
    fn all_wait(&self, now: Time, target: NodeId, fx: &Effects) -> bool {
        let count = fx.local.hints.of(target).map_or(0, |(total, _)| total.count);
        let waits = |stuck: &&Stuck| stuck.until > now;
        let waiting = self.stuck.get(&target).map_or(0, |keys| keys.values().filter(waits).count());
        waiting as u64 >= count
    }

    /// Begins passes for members that something is kept for, and goes on with those under way.
    pub(super) fn look(&mut self, now: Time, fx: &mut Effects) {
        let targets: Vec<NodeId> = fx.local.hints.targets().collect();
        self.next_look = (!targets.is_empty()).then_some(now + REST);
        for target in targets {
            let Some((total, since)) = fx.local.hints.of(target) else { continue };
            let reachable = self.reach.has(target);
            if !reachable && self.ring.has(target) && now < since + self.max_age {
                continue;
            }
            if !self.passes.contains_key(&target) && reachable {
                fx.out.count(Counter::HandoffsBegun);
                if self.absent.remove(&target) {
                    let owed = self.owed(target, fx);
                    if owed > 0 {
                        fx.out.send(vec![target], RequestId::NONE, Body::Hints(owed));
                    }
                    fx.out.notice(Notice::HandoffBegun(target, total.count));
                    self.announced.insert(target);
                }
            }
            let aged = !reachable;
            self.passes.entry(target).or_insert(Pass { aged, ..Pass::default() });
            self.go_on(now, target, fx);
        }
    }

    /// Looks for hints if there were none when it looked last, and says whose are all delivered.
    pub(super) fn notice_changes(&mut self, now: Time, fx: &mut Effects) {
        let drained = |target: &NodeId| fx.local.hints.of(*target).is_none();
        let done: Vec<NodeId> = self.announced.iter().copied().filter(drained).collect();
        for target in done {
            self.announced.remove(&target);
            fx.out.notice(Notice::HandoffDone(target));
        }
        if self.next_look.is_none() && fx.local.hints.targets().next().is_some() {
            self.look(now, fx);
        }
        tell_drained(fx);
    }

    /// Time has passed: what was not confirmed will be sent again.
    pub(super) fn tick(&mut self, now: Time, fx: &mut Effects) {
        while let Some((due, op)) = self.timeouts.front().copied() {
            if due > now {
                break;
            }
            self.timeouts.pop_front();
            self.fetches.remove(&op);
            if let Some(flight) = self.flights.remove(&op) {
                self.land(now, &flight, Landing::Lost, fx);
            }
        }
        if self.next_look.is_some_and(|due| due <= now) {
            self.look(now, fx);
        }
    }

    /// Sends as many hints to a member as may be in flight.
    fn go_on(&mut self, now: Time, target: NodeId, fx: &mut Effects) {
        let Some(mut pass) = self.passes.remove(&target) else { return };
        // What is kept for a member that was removed is the other homes' now.
        let absent = pass.aged && self.ring.has(target);
        let window = match (absent, fx.local.is_busy()) {
            (true, _) => MAX_AGED_FLIGHTS,
            (false, false) => MAX_FLIGHTS,
            (false, true) => MAX_FLIGHTS_BESIDE_CLIENTS,
        };
        while now >= pass.rest_until && pass.flights < window && pass.bytes < MAX_FLIGHT_BYTES {
            let Some((key, hint)) = pass.page.pop_front() else { break };
            let stuck = self.stuck.get(&target).and_then(|keys| keys.get(&key));
            if stuck.is_some_and(|stuck| stuck.until > now) {
                continue;
            }
            self.send(now, target, &mut pass, key, hint, fx);
        }
        let begins = pass.after.is_none() && pass.flights == 0;
        let rests = now < pass.rest_until || (begins && self.all_wait(now, target, fx));
        if pass.page.is_empty() && !pass.ended && !pass.listing && !rests {
            pass.listing = true;
            let token = fx.out.list_hints(target, pass.after.clone(), PAGE_BYTES);
            self.lists.insert(token, target);
        }
        if pass.ended && pass.page.is_empty() && pass.flights == 0 {
            // What came or changed meanwhile is met in the next pass.
            let rest = match (absent, pass.removed) {
                (true, _) => self.max_age,
                (false, 0) => REST,
                (false, _) => Micros::ZERO,
            };
            let aged = pass.aged;
            pass = Pass { aged, rest_until: now + rest, ..Pass::default() };
            if rest == Micros::ZERO && !self.all_wait(now, target, fx) {
                pass.listing = true;
                let token = fx.out.list_hints(target, None, PAGE_BYTES);
                self.lists.insert(token, target);
            }
        }
        if fx.local.hints.of(target).is_some() || pass.flights > 0 {
            self.passes.insert(target, pass);
        }
    }

    fn send(
        &mut self,
        now: Time,
        target: NodeId,
        pass: &mut Pass,
        key: Key,
        Record { object, generation, .. }: Record,
        fx: &mut Effects,
    ) {
        let to_target = !pass.aged;
        let (waiting, needed) = if pass.aged {
            let homes = self.ring.homes(self.ring.partition(&key)).iter().copied();
            let homes: Vec<NodeId> = homes
                .filter(|home| *home != target && (*home == self.me || self.reach.has(*home)))
                .collect();
            // What was kept for a removed member goes when all homes have it, which takes all of
            // them.
            let enough = if self.ring.has(target) { 1 } else { self.ring.n().into() };
            if homes.len() < enough {
                return;
            }
            let needed = homes.len();
            (homes, needed)
        } else {
            (vec![target], 1)
        };
        let op = self.ids.next();
        let bytes = key.as_bytes().len()
            + object.values().map(|(_, version)| version.value.0.len()).sum::<usize>();
        fx.out.count(if pass.aged { Counter::AgedHintsOffered } else { Counter::HintsSent });
        let merge = Body::Merge { key: key.clone(), object: object.clone(), generation };
        fx.out.send(waiting.clone(), op, merge);
        let flight = Flight { target, key, object, generation, bytes, waiting, needed, to_target };
        self.flights.insert(op, flight);
        self.timeouts.push_back((now + TIMEOUT, op));
        pass.flights += 1;
        pass.bytes += bytes;
    }

    /// A page of hints has been read.
    pub(super) fn listed(&mut self, now: Time, token: ReadToken, page: HintPage, fx: &mut Effects) {
        let Some(target) = self.lists.remove(&token) else { return };
        let Some(pass) = self.passes.get_mut(&target) else { return };
        pass.listing = false;
        pass.ended = !page.more;
        pass.after = page.hints.last().map(|(key, _)| key.clone());
        let mut damaged = Vec::new();
        for (key, found) in page.hints {
            match found {
                Found::Record(record) => pass.page.push_back((key, record)),
                Found::Damaged => damaged.push(key),
                Found::Nothing => {}
            }
        }
        for key in damaged {
            self.fetch(now, target, key, fx);
        }
        self.go_on(now, target, fx);
    }

    /// Asks the other homes for what a damaged hint may have held: all of them, or it has to wait.
    fn fetch(&mut self, now: Time, target: NodeId, key: Key, fx: &mut Effects) {
        fx.out.count(Counter::DamagedHintsRead);
        let known = self.fetches.values().any(|fetch| fetch.target == target && fetch.key == key);
        let homes = self.ring.homes(self.ring.partition(&key)).iter().copied();
        let waiting: Vec<NodeId> = homes.filter(|home| *home != target).collect();
        let reachable = |home: &NodeId| *home == self.me || self.reach.has(*home);
        if known || self.fetches.len() >= MAX_FETCHES || !waiting.iter().all(reachable) {
            return;
        }
        let op = self.ids.next();
        fx.out.send(waiting.clone(), op, Body::Read { key: key.clone() });
        let (merged, generation) = (Object::default(), GcEpoch(u64::MAX));
        self.fetches.insert(op, Fetch { target, key, waiting, merged, generation });
        self.timeouts.push_back((now + TIMEOUT, op));
    }

    /// A home has told what it has of a key whose hint is damaged.
    pub(super) fn fetched(
        &mut self,
        op: RequestId,
        from: NodeId,
        Stamped { object, generation }: Stamped,
        fx: &mut Effects,
    ) {
        let Some(fetch) = self.fetches.get_mut(&op) else { return };
        let Some(at) = fetch.waiting.iter().position(|node| *node == from) else { return };
        fetch.waiting.swap_remove(at);
        fetch.merged = fetch.merged.sync(&object);
        fetch.generation = fetch.generation.min(generation);
        if !fetch.waiting.is_empty() {
            return;
        }
        if let Some(Fetch { target, key, merged: object, generation, .. }) =
            self.fetches.remove(&op)
        {
            let keep_for = vec![target];
            fx.out.count(Counter::DamagedHintsMadeAnew);
            fx.out.send(
                vec![self.me],
                RequestId::NONE,
                Body::Keep { key, object, keep_for, generation },
            );
        }
    }

    /// A home has synced a hint, or refused it.
    pub(super) fn answer(
        &mut self,
        now: Time,
        op: RequestId,
        from: NodeId,
        refused: Option<Refusal>,
        fx: &mut Effects,
    ) {
        let Some(flight) = self.flights.get_mut(&op) else { return };
        // The members have agreed that no hint as old as this one is left: it is of a disk that was
        // rolled back.
        let own = fx.local.generations.number(self.ring.partition(&flight.key));
        if flight.generation.next() < own && matches!(refused, Some(Refusal::Generation { .. })) {
            let (key, target) = (flight.key.clone(), Some(flight.target));
            fx.out.send(vec![self.me], RequestId::NONE, Body::Renounce { key, target });
        }
        let held = refused.is_none();
        let waited = flight.waiting.len();
        flight.waiting.retain(|node| *node != from);
        if flight.waiting.len() == waited {
            return;
        }
        if held {
            flight.needed -= 1;
        }
        let (target, key, to_target) = (flight.target, flight.key.clone(), flight.to_target);
        let (done, hopeless) = (flight.needed == 0, flight.waiting.len() < flight.needed);
        self.note_stuck(now, target, &key, to_target, refused.as_ref());
        if (done || hopeless)
            && let Some(flight) = self.flights.remove(&op)
        {
            let landing = match refused {
                _ if done => Landing::Taken,
                Some(Refusal::Limit { .. }) => Landing::Declined,
                _ => Landing::Lost,
            };
            self.land(now, &flight, landing, fx);
        }
    }

    /// Notes whether a hint is of use to whom it was offered now.
    fn note_stuck(
        &mut self,
        now: Time,
        target: NodeId,
        key: &Key,
        to_target: bool,
        refused: Option<&Refusal>,
    ) {
        let is_owner = self.ring.homes(self.ring.partition(key)).contains(&self.me);
        let keys = self.stuck.entry(target).or_default();
        let before = keys.get(key).map_or(0, |stuck| stuck.declined);
        let stuck = match refused {
            Some(Refusal::Limit { .. }) => {
                let (first, last) = DECLINED;
                let wait = (first * (1 << before.min(8))).min(last);
                Stuck { until: now + wait, declined: before + 1, owed: to_target && !is_owner }
            }
            Some(Refusal::Damaged) if to_target && !is_owner => {
                Stuck { owed: true, ..Stuck::default() }
            }
            _ => {
                keys.remove(key);
                return;
            }
        };
        if keys.len() < MAX_STUCK || keys.contains_key(key) {
            keys.insert(key.clone(), stuck);
        }
    }

    /// Ends a flight; a confirmed hint goes, if it is still the one that was sent.
    fn land(&mut self, now: Time, flight: &Flight, landing: Landing, fx: &mut Effects) {
        let Flight { target, key, object, bytes, to_target, .. } = flight;
        let to_target = *to_target;
        if let Some(pass) = self.passes.get_mut(target) {
            pass.flights -= 1;
            pass.bytes -= bytes;
            match landing {
                Landing::Taken => pass.removed += 1,
                Landing::Declined => {}
                Landing::Lost => pass.rest_until = now + REST,
            }
        }
        // One that only the other homes took stays, unless its target is gone: a write with W = N
        // counts on it.
        let is_taken = landing == Landing::Taken;
        if is_taken && (to_target || !self.ring.has(*target)) {
            let (key, target, object) = (key.clone(), *target, object.clone());
            fx.out.send(vec![self.me], RequestId::NONE, Body::Discharge { key, target, object });
        }
        self.go_on(now, *target, fx);
    }
}

/// Tells each member that nothing is kept for any more, when that is synced.
fn tell_drained(fx: &mut Effects) {
    for target in fx.local.hints.take_drained() {
        let life = fx.local.meta().lives.iter().find(|(node, _)| *node == target);
        if let (Some((_, life)), 0) = (life, fx.local.hints.owed(target)) {
            let (op, mark) = (RequestId::of_wire(life.nonce), fx.out.last_mark());
            fx.out.send_synced(Some(mark), target, op, Body::Hints(0));
        }
    }
}
