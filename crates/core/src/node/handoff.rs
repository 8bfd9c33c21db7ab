//! Hinted handoff: hints for a member are sent to it as soon as it can be reached, several in
//! flight, in the order of their keys. A hint is removed only when the member has synced exactly
//! its object.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::gc_epochs::Stamped;
use super::ids::{ReadToken, RequestId, RequestIds, Role};
use super::io::Io;
use super::reach::Reach;
use super::{Config, Notice};
use crate::causal::Object;
use crate::gc_epoch::GcEpoch;
use crate::members::Liveness;
use crate::message::{Body, Counter, Rejection};
use crate::store::{Found, HintPage, Record};
use crate::types::{Key, Micros, NodeId, Time};

/// Hints in flight to one member while no client waits for this node.
const MAX_FLIGHTS: usize = 256;
/// The same while clients wait: they get the rest of the disks and links.
const MAX_FLIGHTS_BESIDE_CLIENTS: usize = 48;
/// Hints of an absent member that are in flight to the other owners.
const MAX_AGED_FLIGHTS: usize = 8;
/// Bytes in flight to one member.
const MAX_FLIGHT_BYTES: usize = 8 << 20;
/// Bytes of hints read at a time.
const PAGE_BYTES: usize = 256 << 10;
/// Most damaged hints that are rebuilt at a time.
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
/// Rest after a pass that removed nothing, and after a rejection.
const RETRY_BACKOFF: Micros = Micros::from_millis(1_000);

/// Hints in progress, and the members that they are for.
#[derive(Clone, Debug)]
pub(super) struct Handoff {
    me: NodeId,
    max_age: Micros,
    reach: Reach,
    /// Members that were out of reach and have not been sent the number of their hints: they need
    /// not know that they were away. A member that was only slow is not among them.
    absent: BTreeSet<NodeId>,
    /// Members that are back, and of whose handoff the operator was notified.
    announced: BTreeSet<NodeId>,
    sweeps: BTreeMap<NodeId, Sweep>,
    lists: BTreeMap<ReadToken, NodeId>,
    deliveries: BTreeMap<RequestId, Delivery>,
    fetches: BTreeMap<RequestId, Fetch>,
    timeouts: VecDeque<(Time, RequestId)>,
    ids: RequestIds,
    /// Hints that their target refused because its own copy is damaged, and so does not count
    /// towards a quorum, or because the key would outgrow a limit there.
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
    /// True if it may have filled the target's slot: the fallback is no owner of the key.
    pending: bool,
}

/// One way through all hints for a member.
#[derive(Clone, Debug, Default)]
struct Sweep {
    /// True if the member is absent and its aged hints are offered to the other owners.
    aged: bool,
    after: Option<Key>,
    page: VecDeque<(Key, Record)>,
    listing: bool,
    /// True when the last page has been read.
    ended: bool,
    deliveries: usize,
    bytes: usize,
    removed: u64,
    paused_until: Time,
}

/// A hint that was sent to its target, or, aged, to other owners.
#[derive(Clone, Debug)]
struct Delivery {
    target: NodeId,
    key: Key,
    object: Object,
    gc_epoch: GcEpoch,
    bytes: usize,
    waiting: Vec<NodeId>,
    needed: usize,
    /// False if it went to other owners: its target has been absent for long, or has no place.
    to_target: bool,
    /// True if the hint goes when they have it. A hint that only the other owners took stays: a
    /// write with W = N needs it.
    goes: bool,
}

/// How a flight has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Landing {
    /// All that it needed have confirmed it.
    Taken,
    /// Its target would not take it, as the key would outgrow a limit there: others may follow.
    Declined,
    /// It was refused for another reason, or no answer has come: the pass rests.
    Lost,
}

/// A damaged hint, which is rebuilt from the copies of the other owners of its key.
#[derive(Clone, Debug)]
struct Fetch {
    target: NodeId,
    key: Key,
    waiting: Vec<NodeId>,
    merged: Object,
    /// The oldest GC epoch of what was merged.
    gc_epoch: GcEpoch,
}

impl Handoff {
    /// Nothing is in progress at first.
    pub(super) fn new(config: &Config, seed: u64) -> Self {
        Handoff {
            me: config.me,
            max_age: config.hint_age,
            reach: Reach::default(),
            absent: BTreeSet::new(),
            announced: BTreeSet::new(),
            sweeps: BTreeMap::new(),
            lists: BTreeMap::new(),
            deliveries: BTreeMap::new(),
            fetches: BTreeMap::new(),
            timeouts: VecDeque::new(),
            ids: RequestIds::new(Role::Handoff, seed),
            stuck: BTreeMap::new(),
            next_look: None,
        }
    }

    /// The age from which on a hint is also offered to the other owners.
    pub(super) fn limit_age(&mut self, max_age: Micros) {
        self.max_age = max_age;
    }

    /// When something of this role is due.
    pub(super) fn next_wake(&self) -> Option<Time> {
        let timeout = self.timeouts.front().map(|(due, _)| *due);
        [timeout, self.next_look].into_iter().flatten().min()
    }

    /// Another ring is in force: hints go to those who own their keys now.
    pub(super) fn set_ring(&mut self, now: Time, io: &mut Io) {
        self.deliveries.clear();
        self.lists.clear();
        self.stuck.clear();
        self.sweeps.clear();
        self.fetches.clear();
        self.look(now, io);
    }

    /// A link came up or went down.
    pub(super) fn link(&mut self, now: Time, peer: NodeId, up: bool, io: &mut Io) {
        self.reach.link(peer, up);
        if !up {
            self.absent.insert(peer);
        }
        self.begin_anew(now, peer, io);
    }

    /// This node's view of the liveness of a peer has changed.
    pub(super) fn set_liveness(
        &mut self,
        now: Time,
        peer: NodeId,
        liveness: Liveness,
        io: &mut Io,
    ) {
        if liveness == Liveness::Down {
            self.absent.insert(peer);
        }
        if self.reach.set_liveness(peer, liveness) {
            self.begin_anew(now, peer, io);
        }
    }

    /// Gives up the deliveries to a member, and begins them again if it can be reached.
    fn begin_anew(&mut self, now: Time, target: NodeId, io: &mut Io) {
        self.deliveries.retain(|_, delivery| delivery.target != target);
        self.lists.retain(|_, of| *of != target);
        self.stuck.remove(&target);
        self.announced.remove(&target);
        self.sweeps.remove(&target);
        self.look(now, io);
        if self.reach.has(target) && io.local.hints.of(target).is_none() {
            self.absent.remove(&target);
        }
    }

    /// Answers a member's query for the number of its pending hints. A 0 is sent only when it is
    /// synced.
    pub(super) fn report(&self, from: NodeId, request_id: RequestId, io: &mut Io) {
        let count = self.pending(from, io);
        let seq = io.out.last_mark();
        io.out.send_synced(Some(seq), from, request_id, Body::Hints(count));
    }

    /// The number of a member's pending hints that are of use to it now.
    fn pending(&self, target: NodeId, io: &Io) -> u64 {
        let stuck = self.stuck.get(&target);
        let stuck =
            stuck.map_or(0, |keys| keys.values().filter(|stuck| stuck.pending).count() as u64);
        io.local.hints.pending(target).saturating_sub(stuck)
    }

    /// True if all that is kept for a member was declined, and none of it is to be offered again
    /// yet.
    fn all_wait(&self, now: Time, target: NodeId, io: &Io) -> bool {
        if io.local.is_leaving() {
            return false;
        }
        let count = io.local.hints.of(target).map_or(0, |(total, _)| total.count);
        let waits = |stuck: &&Stuck| stuck.until > now;
        let waiting = self.stuck.get(&target).map_or(0, |keys| keys.values().filter(waits).count());
        waiting as u64 >= count
    }

    /// Begins passes for members that there are hints for, and continues those in progress.
    pub(super) fn look(&mut self, now: Time, io: &mut Io) {
        let targets: Vec<NodeId> = io.local.hints.targets().collect();
        self.next_look = (!targets.is_empty()).then_some(now + RETRY_BACKOFF);
        for target in targets {
            let Some((total, since)) = io.local.hints.of(target) else { continue };
            let reachable = self.reach.has(target);
            let waits = io.local.ring().has(target) && now < since + self.max_age;
            if !reachable && waits && !io.local.is_leaving() {
                continue;
            }
            if !self.sweeps.contains_key(&target) && reachable {
                io.out.count(Counter::HandoffsBegun);
                if self.absent.remove(&target) {
                    let pending = self.pending(target, io);
                    if pending > 0 {
                        io.out.send(vec![target], RequestId::NONE, Body::Hints(pending));
                    }
                    io.out.notice(Notice::HandoffBegun(target, total.count));
                    self.announced.insert(target);
                }
            }
            let aged = !reachable;
            self.sweeps.entry(target).or_insert(Sweep { aged, ..Sweep::default() });
            self.go_on(now, target, io);
        }
    }

    /// Looks for hints if there were none when it looked last, and says whose are all delivered.
    pub(super) fn notice_changes(&mut self, now: Time, io: &mut Io) {
        let drained = |target: &NodeId| io.local.hints.of(*target).is_none();
        let done: Vec<NodeId> = self.announced.iter().copied().filter(drained).collect();
        for target in done {
            self.announced.remove(&target);
            io.out.notice(Notice::HandoffDone(target));
        }
        if self.next_look.is_none() && io.local.hints.targets().next().is_some() {
            self.look(now, io);
        }
        report_drained(io);
    }

    /// Sends hints again that were not acknowledged in time.
    pub(super) fn tick(&mut self, now: Time, io: &mut Io) {
        while let Some((due, request_id)) = self.timeouts.front().copied() {
            if due > now {
                break;
            }
            self.timeouts.pop_front();
            self.fetches.remove(&request_id);
            if let Some(delivery) = self.deliveries.remove(&request_id) {
                self.land(now, &delivery, Landing::Lost, io);
            }
        }
        if self.next_look.is_some_and(|due| due <= now) {
            self.look(now, io);
        }
    }

    /// Sends as many hints to a member as may be in flight.
    fn go_on(&mut self, now: Time, target: NodeId, io: &mut Io) {
        let Some(mut sweep) = self.sweeps.remove(&target) else { return };
        // What is kept for a member that was removed is the other owners' now.
        let absent = sweep.aged && io.local.ring().has(target) && !io.local.is_leaving();
        let window = match (absent, io.local.is_busy()) {
            (true, _) => MAX_AGED_FLIGHTS,
            (false, false) => MAX_FLIGHTS,
            (false, true) => MAX_FLIGHTS_BESIDE_CLIENTS,
        };
        while now >= sweep.paused_until
            && sweep.deliveries < window
            && sweep.bytes < MAX_FLIGHT_BYTES
        {
            let Some((key, hint)) = sweep.page.pop_front() else { break };
            let stuck = self.stuck.get(&target).and_then(|keys| keys.get(&key));
            if !io.local.is_leaving() && stuck.is_some_and(|stuck| stuck.until > now) {
                continue;
            }
            self.send(now, target, &mut sweep, key, hint, io);
        }
        let begins = sweep.after.is_none() && sweep.deliveries == 0;
        let pauses = now < sweep.paused_until || (begins && self.all_wait(now, target, io));
        if sweep.page.is_empty() && !sweep.ended && !sweep.listing && !pauses {
            sweep.listing = true;
            let token = io.out.list_hints(target, sweep.after.clone(), PAGE_BYTES);
            self.lists.insert(token, target);
        }
        if sweep.ended && sweep.page.is_empty() && sweep.deliveries == 0 {
            // What came or changed meanwhile is met in the next pass.
            let rest = match (absent, sweep.removed) {
                (true, _) => self.max_age,
                (false, 0) => RETRY_BACKOFF,
                (false, _) => Micros::ZERO,
            };
            let aged = sweep.aged;
            sweep = Sweep { aged, paused_until: now + rest, ..Sweep::default() };
            if rest == Micros::ZERO && !self.all_wait(now, target, io) {
                sweep.listing = true;
                let token = io.out.list_hints(target, None, PAGE_BYTES);
                self.lists.insert(token, target);
            }
        }
        if io.local.hints.of(target).is_some() || sweep.deliveries > 0 {
            self.sweeps.insert(target, sweep);
        }
    }

    fn send(
        &mut self,
        now: Time,
        target: NodeId,
        sweep: &mut Sweep,
        key: Key,
        Record { object, gc_epoch, .. }: Record,
        io: &mut Io,
    ) {
        let ring = io.local.ring();
        let partition = ring.partition(&key);
        // Who has lost the place that it was kept for gets nothing: those who have it now do.
        let has_place = ring.is_owner(partition, target);
        let is_stuck = self.stuck.get(&target).is_some_and(|keys| keys.contains_key(&key));
        if io.local.is_leaving() && (is_stuck || sweep.aged && has_place) {
            let hint = Record { object, gc_epoch, ..Record::default() };
            return self.pass_on(now, target, sweep, (key, hint), io);
        }
        let to_target = !sweep.aged && has_place;
        let (waiting, needed) = if to_target {
            (vec![target], 1)
        } else {
            let all = ring.all_owners(partition);
            let usable = |owner: &NodeId| *owner == self.me || self.reach.has(*owner);
            let owners: Vec<NodeId> =
                all.iter().copied().filter(|id| *id != target && usable(id)).collect();
            // It goes when all owners have it, which takes all of them.
            let enough = if has_place { 1 } else { all.len() };
            if owners.len() < enough {
                return;
            }
            let needed = owners.len();
            (owners, needed)
        };
        let request_id = self.ids.next();
        let bytes = key.as_bytes().len()
            + object.values().map(|(_, version)| version.value.0.len()).sum::<usize>();
        io.out.count(if sweep.aged { Counter::AgedHintsOffered } else { Counter::HintsSent });
        let merge = Body::Merge { key: key.clone(), object: object.clone(), gc_epoch };
        io.out.send(waiting.clone(), request_id, merge);
        let goes = to_target || !has_place;
        let delivery =
            Delivery { target, key, object, gc_epoch, bytes, waiting, needed, to_target, goes };
        self.deliveries.insert(request_id, delivery);
        self.timeouts.push_back((now + TIMEOUT, request_id));
        sweep.deliveries += 1;
        sweep.bytes += bytes;
    }

    /// A node on its way out cannot wait until a target is back, or takes what it has declined: it
    /// gives the hint to another fallback, or to another owner if there is none.
    fn pass_on(
        &mut self,
        now: Time,
        target: NodeId,
        sweep: &mut Sweep,
        (key, hint): (Key, Record),
        io: &mut Io,
    ) {
        let ring = io.local.ring();
        let partition = ring.partition(&key);
        let owners = ring.all_owners(partition);
        let (first, others) =
            ring.preference_list(partition).into_iter().partition(|node| !owners.contains(node));
        let (first, others): (Vec<NodeId>, Vec<NodeId>) = (first, others);
        let mut fallbacks = first.into_iter().chain(others);
        let Some(fallback) = fallbacks.find(|node| *node != target && self.reach.has(*node)) else {
            return;
        };
        let Record { object, gc_epoch, .. } = hint;
        let mut hint_for = if owners.contains(&target) { vec![target] } else { owners };
        hint_for.retain(|owner| *owner != fallback);
        let request_id = self.ids.next();
        io.out.count(Counter::HintsSent);
        // Only hints of the present GC epoch are kept anew: what an owner would make of this one
        // is.
        let epoch = io.local.gc_epochs.of(partition);
        let (of, mut copy) = (key.clone(), object.clone());
        for dead in epoch.purgeable_of(&key).into_iter().chain(epoch.purged_of(&key)) {
            copy = copy.discard(dead);
        }
        if let Some(purged) = epoch.purged_of(&key) {
            copy = copy.forget(purged);
        }
        let stamp = if epoch.takes(gc_epoch) { epoch.number } else { gc_epoch };
        let body = Body::StoreHint { key: of, object: copy, hint_for, gc_epoch: stamp };
        io.out.send(vec![fallback], request_id, body);
        let (waiting, needed, bytes) = (vec![fallback], 1, key.as_bytes().len());
        let (to_target, goes) = (false, true);
        let delivery =
            Delivery { target, key, object, gc_epoch, bytes, waiting, needed, to_target, goes };
        self.deliveries.insert(request_id, delivery);
        self.timeouts.push_back((now + TIMEOUT, request_id));
        sweep.deliveries += 1;
        sweep.bytes += bytes;
    }

    /// A page of hints has been read.
    pub(super) fn listed(&mut self, now: Time, token: ReadToken, page: HintPage, io: &mut Io) {
        let Some(target) = self.lists.remove(&token) else { return };
        let Some(sweep) = self.sweeps.get_mut(&target) else { return };
        sweep.listing = false;
        sweep.ended = !page.more;
        sweep.after = page.hints.last().map(|(key, _)| key.clone());
        let mut damaged = Vec::new();
        for (key, found) in page.hints {
            match found {
                Found::Record(record) => sweep.page.push_back((key, record)),
                Found::Damaged => damaged.push(key),
                Found::Nothing => {}
            }
        }
        for key in damaged {
            self.fetch(now, target, key, io);
        }
        self.go_on(now, target, io);
    }

    /// Queries the other owners for the content of a damaged hint: all of them, or it has to wait.
    fn fetch(&mut self, now: Time, target: NodeId, key: Key, io: &mut Io) {
        io.out.count(Counter::DamagedHintsRead);
        let known = self.fetches.values().any(|fetch| fetch.target == target && fetch.key == key);
        let mut waiting = io.local.ring().all_owners(io.local.ring().partition(&key));
        waiting.retain(|owner| *owner != target);
        let reachable = |owner: &NodeId| *owner == self.me || self.reach.has(*owner);
        if known || self.fetches.len() >= MAX_FETCHES || !waiting.iter().all(reachable) {
            return;
        }
        let request_id = self.ids.next();
        io.out.send(waiting.clone(), request_id, Body::Read { key: key.clone() });
        let (merged, gc_epoch) = (Object::default(), GcEpoch(u64::MAX));
        self.fetches.insert(request_id, Fetch { target, key, waiting, merged, gc_epoch });
        self.timeouts.push_back((now + TIMEOUT, request_id));
    }

    /// An owner has sent its copy of a key whose hint is damaged.
    pub(super) fn fetched(
        &mut self,
        request_id: RequestId,
        from: NodeId,
        Stamped { object, gc_epoch }: Stamped,
        io: &mut Io,
    ) {
        let Some(fetch) = self.fetches.get_mut(&request_id) else { return };
        let Some(at) = fetch.waiting.iter().position(|node| *node == from) else { return };
        fetch.waiting.swap_remove(at);
        fetch.merged = fetch.merged.sync(&object);
        fetch.gc_epoch = fetch.gc_epoch.min(gc_epoch);
        if !fetch.waiting.is_empty() {
            return;
        }
        if let Some(Fetch { target, key, merged: object, gc_epoch, .. }) =
            self.fetches.remove(&request_id)
        {
            let hint_for = vec![target];
            io.out.count(Counter::DamagedHintsMadeAnew);
            io.out.send(
                vec![self.me],
                RequestId::NONE,
                Body::StoreHint { key, object, hint_for, gc_epoch },
            );
        }
    }

    /// An owner has synced a hint, or refused it.
    pub(super) fn answer(
        &mut self,
        now: Time,
        request_id: RequestId,
        from: NodeId,
        refused: Option<Rejection>,
        io: &mut Io,
    ) {
        let Some(delivery) = self.deliveries.get_mut(&request_id) else { return };
        // The members have agreed that no hint as old as this one is left: it is of a disk that was
        // rolled back.
        let partition = io.local.ring().partition(&delivery.key);
        let own = io.local.gc_epochs.number(partition);
        if delivery.gc_epoch.next() < own && matches!(refused, Some(Rejection::GcState { .. })) {
            let (key, target) = (delivery.key.clone(), Some(delivery.target));
            io.out.send(vec![self.me], RequestId::NONE, Body::Discard { key, target });
        }
        let held = refused.is_none();
        let waited = delivery.waiting.len();
        delivery.waiting.retain(|node| *node != from);
        if delivery.waiting.len() == waited {
            return;
        }
        if held {
            delivery.needed -= 1;
        }
        let (target, key, to_target) = (delivery.target, delivery.key.clone(), delivery.to_target);
        let (done, hopeless) = (delivery.needed == 0, delivery.waiting.len() < delivery.needed);
        let is_owner = io.local.owns(partition);
        self.note_stuck(now, (target, &key), to_target, is_owner, refused.as_ref());
        if (done || hopeless)
            && let Some(delivery) = self.deliveries.remove(&request_id)
        {
            let landing = match refused {
                _ if done => Landing::Taken,
                Some(Rejection::Limit { .. }) => Landing::Declined,
                _ => Landing::Lost,
            };
            self.land(now, &delivery, landing, io);
        }
    }

    /// Notes whether a hint is of use to its target now.
    fn note_stuck(
        &mut self,
        now: Time,
        (target, key): (NodeId, &Key),
        to_target: bool,
        is_owner: bool,
        refused: Option<&Rejection>,
    ) {
        let keys = self.stuck.entry(target).or_default();
        let before = keys.get(key).map_or(0, |stuck| stuck.declined);
        let stuck = match refused {
            Some(Rejection::Limit { .. }) => {
                let (first, last) = DECLINED;
                let wait = (first * (1 << before.min(8))).min(last);
                Stuck { until: now + wait, declined: before + 1, pending: to_target && !is_owner }
            }
            Some(Rejection::Damaged) if to_target && !is_owner => {
                Stuck { pending: true, ..Stuck::default() }
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

    /// Ends a delivery; an acknowledged hint is removed, if it is still the one that was sent.
    fn land(&mut self, now: Time, delivery: &Delivery, landing: Landing, io: &mut Io) {
        let Delivery { target, key, object, bytes, goes, .. } = delivery;
        if let Some(sweep) = self.sweeps.get_mut(target) {
            sweep.deliveries -= 1;
            sweep.bytes -= bytes;
            match landing {
                Landing::Taken => sweep.removed += 1,
                Landing::Declined => {}
                Landing::Lost => sweep.paused_until = now + RETRY_BACKOFF,
            }
        }
        if landing == Landing::Taken && *goes {
            let (key, target, object) = (key.clone(), *target, object.clone());
            io.out.send(vec![self.me], RequestId::NONE, Body::DeleteHint { key, target, object });
        }
        self.go_on(now, *target, io);
    }
}

/// Notifies each member that nothing is kept for any more, when that is synced.
fn report_drained(io: &mut Io) {
    for target in io.local.hints.take_drained() {
        let incarnation =
            io.local.meta().peer_incarnations.iter().find(|(node, _)| *node == target);
        if let (Some((_, incarnation)), 0) = (incarnation, io.local.hints.pending(target)) {
            let (request_id, seq) = (RequestId::of_wire(incarnation.nonce), io.out.last_mark());
            io.out.send_synced(Some(seq), target, request_id, Body::Hints(0));
        }
    }
}
