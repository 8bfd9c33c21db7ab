//! The machine: a node as a state machine without sockets, disk, clock or threads. A driver gives
//! it inputs and the time, and carries out its outputs.

mod collection;
mod coordinator;
mod effects;
mod experiment;
mod forest;
mod generations;
mod gossip;
mod handoff;
mod hints;
mod identity;
mod ids;
mod local;
mod outbox;
mod placement;
mod reach;
mod repair;
mod replica;
mod returning;
mod words;

use std::cmp::Ordering;
use std::collections::BTreeMap;

use crate::generation::{GcEpoch, Grave};
use crate::members::Members;
use crate::merkle::KeptTree;
use crate::message::{Body, Counter, HeldBack, NotYet, PeerMessage, RecentTrips, Refusal, Request};
use crate::store::{HintTotal, Meta, ScanPage};
use crate::types::{Key, Micros, NodeId, Partition, Time};
use collection::Collection;
use coordinator::{Coordinator, Origin};
use effects::Effects;
pub use experiment::Experiment;
pub use forest::own_partitions;
use generations::Stamped;
use gossip::Gossip;
use handoff::Handoff;
use identity::Identity;
pub use ids::{ReadToken, ScanToken, SyncSeq};
use ids::{RequestId, Role, ScanPurpose};
use placement::Placement;
pub use placement::reconcile;
pub use repair::PairView;
use repair::Repair;
use replica::Replica;
use returning::Returning;
pub use words::{
    ClientId, Config, Done, EXPLORE, Hindrance, Input, LATE_READ, Limits, Notice, Output, Oversize,
    PeerView, RingChange, Shortage, Stall, Work,
};

/// A node: its roles, and what they want done. No role sees another's state.
#[derive(Clone, Debug)]
pub struct Node {
    coordinator: Coordinator,
    replica: Replica,
    identity: Identity,
    placement: Placement,
    gossip: Gossip,
    handoff: Handoff,
    repair: Repair,
    collection: Collection,
    returning: Returning,
    effects: Effects,
    /// Time between two rounds of gossip.
    interval: Micros,
    last_input: Option<Time>,
    /// Until when writes are refused, and how long this process did not run.
    stale: (Time, Micros),
    /// True from an operator's order to another one: requests and hints go elsewhere.
    drained: bool,
}

/// A node wants to be woken at least as often as this, so that it notices that its process did not
/// run.
const PULSE: Micros = Micros::from_millis(100);
/// A gap between inputs of this length is a pause. Shorter than any patience of clients: what they
/// asked before it they may have asked elsewhere since.
const PAUSE: Micros = Micros::from_millis(250);
/// What reached a paused process has been read by this time after the pause.
const STALE: Micros = Micros::from_millis(1_000);

impl Node {
    /// A node at the start of a life of its store (`store::begin_life`).
    pub fn new(config: Config, meta: Meta, seed: u64) -> Self {
        Node {
            replica: Replica::new(&config),
            identity: Identity::new(&config),
            placement: Placement::new(&config),
            gossip: Gossip::new(&config, seed),
            handoff: Handoff::new(&config, seed),
            repair: Repair::new(&config, seed),
            collection: Collection::new(&config, seed),
            returning: Returning::new(config.boot_nonce, config.ring.members().len() - 1),
            effects: Effects::new(&config, meta),
            interval: config.gossip_interval,
            last_input: None,
            stale: (Time::START, Micros::ZERO),
            drained: false,
            coordinator: Coordinator::new(config, seed),
        }
    }

    /// The same node, as an experiment wants it. Before its first input.
    pub fn with_experiment(mut self, experiment: Experiment) -> Self {
        debug_assert!(self.last_input.is_none(), "an experiment is of a whole life");
        self.effects.out.carry_own(experiment.own_link);
        self.coordinator.experiment(experiment);
        self
    }

    /// Takes one input at the time `now` and appends what is to be done to `out`.
    pub fn handle(&mut self, now: Time, input: Input, out: &mut Vec<Output>) {
        self.begin(now);
        let fx = &mut self.effects;
        match input {
            Input::Tick => {
                if let Some(silent) = self.identity.tick(now, fx) {
                    self.placement.tell_silent(now, silent, fx);
                }
                self.placement.tick(now, fx);
                self.coordinator.tick(now, fx);
                self.gossip.tick(now, fx);
                self.returning.tick(now, fx);
                self.handoff.tick(now, fx);
                self.repair.tick(now, fx);
                self.collection.tick(now, fx);
            }
            // One that has no place in the ring is no peer.
            Input::Link { peer, .. } if !self.placement.has(peer) => {}
            Input::Link { peer, up } => {
                self.identity.link(now, peer, up, fx);
                self.placement.link(peer, up);
                let usable = up && !self.identity.is_foreign(peer);
                self.link(now, peer, usable);
            }
            Input::Peer { from, message } => self.dispatch(now, from, message),
            Input::Client { client, id, request, timeout_ms } => {
                self.request(now, Origin::Client { client, id }, request, timeout_ms);
            }
            Input::Repair { partition, peer } => self.repair.order(now, partition, peer),
            Input::AcceptLoss => self.repair.accept_loss(fx),
            Input::Replace { old, new } => {
                self.placement.replace(now, old, new, fx);
            }
            Input::Space(shortage) => self.replica.space(shortage),
            Input::Stalled(stall) => {
                fx.local.set_stall(stall);
                self.replica.stalled(fx);
            }
            Input::Drain(drained) => self.drained = drained,
            Input::Limits(limits) => {
                fx.local.hints.set_limit(limits.hint_limit_bytes);
                self.handoff.limit_age(limits.hint_age);
                self.repair.pace(now, limits.repair_interval, limits.scrub_interval);
            }
            Input::Store(Done::Read { token, found, hints }) => {
                self.replica.read_done(token, found, hints, fx);
            }
            Input::Store(Done::Hints { token, page }) => self.handoff.listed(now, token, page, fx),
            Input::Store(Done::Scan { token, page }) => {
                self.scanned(now, token, page);
            }
            Input::Store(Done::List { token, listing }) => {
                self.replica.list_done(token, listing, fx);
            }
            Input::Store(Done::Synced { mark }) => {
                fx.release(mark);
                self.replica.synced(mark);
                self.identity.synced(fx);
                self.placement.synced(fx);
                self.repair.synced(fx);
                self.collection.settled(now, fx);
            }
        }
        self.settle(now);
        self.effects.out.drain_into(out);
    }

    /// Notices when this process did not run for a while: what it believes of others is stale.
    fn begin(&mut self, now: Time) {
        self.effects.local.begin(now);
        let gap = now.saturating_since(self.last_input.unwrap_or(now));
        self.last_input = Some(now);
        if gap > PAUSE {
            self.effects.out.count(Counter::OwnPausesNoticed);
            self.stale = (now + STALE, gap);
        }
        if gap > 2 * self.interval {
            self.gossip.forgive(gap);
            self.returning.doubt(now, &mut self.effects);
        }
    }

    /// Hands around what the roles have for each other until there is nothing left.
    fn settle(&mut self, now: Time) {
        loop {
            if !self.coordinator.is_idle() {
                self.effects.local.set_busy();
            }
            if let Some(message) = self.effects.out.next_local() {
                self.dispatch(now, self.effects.local.me(), message);
            } else if let Some((peer, opinion)) = self.effects.out.next_opinion() {
                let fx = &mut self.effects;
                self.coordinator.opine(now, peer, opinion, fx);
                self.returning.opine(now, peer, opinion, fx);
                self.handoff.opine(now, peer, opinion, fx);
                self.repair.opine(now, peer, opinion);
                self.collection.opine(peer, opinion);
            } else if let Some((partition, key)) = self.effects.out.next_damaged() {
                self.repair.find_damaged(partition, key, &mut self.effects);
            } else if let Some((from, incarnation)) = self.effects.out.next_own_life() {
                self.identity.hear_of_own_life(from, incarnation, &mut self.effects);
            } else {
                break;
            }
        }
        self.handoff.notice_changes(now, &mut self.effects);
    }

    /// A peer can be sent to from now on, or no more.
    fn link(&mut self, now: Time, peer: NodeId, usable: bool) {
        let fx = &mut self.effects;
        self.coordinator.link(now, peer, usable, fx);
        self.gossip.link(peer, usable);
        self.returning.link(now, peer, usable, fx);
        self.handoff.link(now, peer, usable, fx);
        self.repair.link(now, peer, usable);
        self.collection.link(peer, usable, fx);
    }

    /// A peer says who it is, or who it knows this node to be.
    fn identify(&mut self, now: Time, from: NodeId, op: RequestId, body: Body) {
        let was_foreign = self.identity.is_foreign(from);
        self.identity.hear(now, from, op, body, &mut self.effects);
        if self.identity.is_foreign(from) {
            self.link(now, from, false);
        } else if was_foreign && self.identity.is_linked(from) {
            self.link(now, from, true);
        }
    }

    /// Gives a message to the role that it is for.
    fn dispatch(&mut self, now: Time, from: NodeId, message: PeerMessage) {
        let PeerMessage { op, body } = message;
        let op = RequestId::of_wire(op);
        let fx = &mut self.effects;
        let own = from == fx.local.me();
        if !own && !self.placement.has(from) {
            return self.placement.hear_stranger(from, body, fx);
        }
        if !own && !self.identity.is_foreign(from) {
            self.gossip.heard(now, from, fx);
        }
        if let Body::Propose { condemned, .. } = &body
            && !self.identity.is_foreign(from)
            && self.may_issue_again(condemned)
        {
            return self.effects.out.send(vec![from], op, Body::NotYet(NotYet::RepeatedPut));
        }
        let fx = &mut self.effects;
        match body {
            Body::Introduce { ring, cluster, .. } => {
                match self.placement.meet(from, op, ring, cluster, fx) {
                    Ordering::Less => {}
                    Ordering::Equal => self.identify(now, from, op, body),
                    // It is told of this node's ring, and answers with its own.
                    Ordering::Greater => self.identity.introduce(vec![from], fx),
                }
            }
            Body::Known { .. } => self.identify(now, from, op, body),
            Body::Placement { ring, members } => {
                self.placement.hear(from, ring, &members, fx);
            }
            _ if self.identity.is_foreign(from) => {}
            body => self.deliver(now, from, op, body),
        }
    }

    /// Gives a message of a peer of the same cluster, or of the node itself, to the role that it is
    /// for.
    fn deliver(&mut self, now: Time, from: NodeId, op: RequestId, body: Body) {
        let fx = &mut self.effects;
        let own = from == fx.local.me();
        match body {
            Body::Introduce { .. } | Body::Known { .. } | Body::Placement { .. } => {
                debug_assert!(false, "who a peer is has been heard before what it says");
            }
            Body::Coordinate { request, timeout_ms } => {
                self.request(now, Origin::Peer { node: from, op }, request, timeout_ms);
            }
            Body::Propose { .. }
            | Body::Agreed
            | Body::NotYet(_)
            | Body::Generations { .. }
            | Body::GenerationNumbers(_)
            | Body::AskGeneration(_)
            | Body::Generation { .. } => self.collection.hear(now, from, op, body, fx),
            Body::Equal | Body::Summaries(_) | Body::Items { .. } => {
                self.repair.hear(now, from, op, body, fx);
            }
            Body::Compare { .. } | Body::Descend { .. } | Body::Leaves { .. } => {
                self.repair.ask(now, from, op, body, fx);
            }
            Body::Coordinated(_)
            | Body::Updated { .. }
            | Body::Held
            | Body::Copy { .. }
            | Body::Listed { .. }
            | Body::Failed(_) => self.answer(now, op, from, body),
            Body::AskHints => self.handoff.tell(from, op, fx),
            Body::Hints(count) => self.returning.hear(now, from, op, count, fx),
            Body::Gossip(word) => self.gossip.hear(now, from, op, word, fx),
            // Only this node itself knows that a hint has arrived.
            Body::Discharge { .. }
            | Body::Restore { .. }
            | Body::Bury(_)
            | Body::Collect { .. }
            | Body::Renounce { .. }
            | Body::Withdraw { .. } => match own {
                true => self.replica.ask(from, op, body, fx),
                false => fx.out.count(Counter::OrdersOfOthersIgnored),
            },
            Body::Keep { .. } => match self.drained && !own {
                true => fx.out.send(vec![from], op, Body::Failed(Refusal::Stopping)),
                false => self.replica.ask(from, op, body, fx),
            },
            Body::Update { .. } | Body::Merge { .. } | Body::Read { .. } | Body::List { .. } => {
                self.replica.ask(from, op, body, fx);
            }
            Body::AskRing { .. } | Body::RingGranted | Body::RingDenied { .. } => {
                self.placement.vote(now, from, op, body, fx);
            }
        }
    }

    /// Gives an answer to the role that has asked.
    fn answer(&mut self, now: Time, op: RequestId, from: NodeId, body: Body) {
        let fx = &mut self.effects;
        match (op.role(), body) {
            (Role::Coordinator, body) => self.coordinator.answer(now, op, from, body, fx),
            (Role::Handoff, Body::Held) => self.handoff.answer(now, op, from, None, fx),
            (Role::Handoff, Body::Failed(why)) => {
                self.handoff.answer(now, op, from, Some(why), fx);
            }
            (Role::Handoff, Body::Copy { object, generation, .. }) => {
                self.handoff.fetched(op, from, Stamped { object, generation }, fx);
            }
            (Role::Repair, body @ (Body::Held | Body::Failed(_) | Body::Copy { .. })) => {
                self.repair.hear(now, from, op, body, fx);
            }
            // It asks the own replica only.
            (Role::Collection, body @ (Body::Held | Body::Failed(_))) if from == fx.local.me() => {
                self.collection.done(op, &body, fx);
            }
            // An answer to a question that the role does not put.
            (Role::Handoff | Role::Repair | Role::Collection, _) => {}
        }
    }

    /// Gives what was read to whom it was read for.
    fn scanned(&mut self, now: Time, token: ScanToken, page: ScanPage) {
        let fx = &mut self.effects;
        match token.purpose() {
            ScanPurpose::Trees => self.repair.trees_scanned(now, token, &page, fx),
            ScanPurpose::Exchange => self.repair.exchange_scanned(now, token, page, fx),
            ScanPurpose::PeerList => self.repair.peer_list_scanned(token, &page, fx),
            ScanPurpose::Graves => self.collection.graves_scanned(now, token, &page, fx),
            ScanPurpose::Chore => self.collection.chore_scanned(token, &page, fx),
        }
    }

    /// True if a repetition of a write whose event is to be purged may yet be carried out here.
    fn may_issue_again(&self, condemned: &[Grave]) -> bool {
        let repeated = |grave: &&Grave| grave.dead.dots().iter().any(|dot| dot.actor.is_of_write());
        let waits = |key: &Key| self.replica.has_updates(key) || self.coordinator.has_writes(key);
        condemned.iter().filter(repeated).any(|grave| waits(&grave.key))
    }

    /// Gives a request to the coordinator, once the node may mint and answer.
    fn request(&mut self, now: Time, origin: Origin, request: Request, timeout_ms: u32) {
        if !self.coordinator.is_first(origin) {
            return;
        }
        let (until, gap) = self.stale;
        let stale = now < until && request.is_write();
        let paused = || Refusal::Paused(gap.as_millis().min(u32::MAX.into()) as u32);
        let refusal = self.refusal(now, request.is_write());
        let fx = &mut self.effects;
        match refusal.or_else(|| stale.then(paused)) {
            Some(refusal) => self.coordinator.refuse(origin, refusal, fx),
            None => self.coordinator.request(now, origin, request, timeout_ms, fx),
        }
    }

    /// Why this node carries out no request now, or no write if `writes`, because it is starting or
    /// drained; `None` while it serves.
    pub fn refusal(&self, now: Time, writes: bool) -> Option<Refusal> {
        let fx = &self.effects;
        let unsure = || writes && !self.collection.is_ready(now, fx);
        let refusal = self.drained.then_some(Refusal::Stopping);
        let refusal = refusal.or_else(|| self.identity.refusal(fx));
        refusal.or_else(|| unsure().then(|| self.identity.starting()))
    }

    /// When the node wants an [`Input::Tick`] if nothing else happens before.
    pub fn next_wake(&self) -> Option<Time> {
        let wakes = [
            self.coordinator.next_wake(),
            self.identity.next_wake(),
            self.placement.next_wake(),
            self.gossip.next_wake(),
            self.returning.next_wake(),
            self.handoff.next_wake(),
            self.repair.next_wake(),
            self.collection.next_wake(),
            self.last_input.map(|last| last + PULSE),
        ];
        wakes.into_iter().flatten().min()
    }

    /// True when nothing that a client waits for is under way and every write is synced.
    pub fn is_idle(&self) -> bool {
        self.coordinator.is_idle() && self.effects.out.is_synced()
    }

    /// Requests that somebody waits for.
    pub fn requests(&self) -> usize {
        self.coordinator.load()
    }

    /// How many of the other members have told what they know of this node, and how many there are.
    pub fn heard(&self) -> (u32, u32) {
        self.identity.heard()
    }

    /// The peers that belong to another cluster of the same name, and its id.
    pub fn foreign(&self) -> &BTreeMap<NodeId, u64> {
        self.identity.foreign()
    }

    /// What this node makes of another member.
    pub fn peer_view(&self, now: Time, peer: NodeId) -> PeerView {
        let (opinion, phi) = self.gossip.opinion(now, peer);
        let (hints, since) =
            self.effects.local.hints.of(peer).unwrap_or((HintTotal::default(), now));
        let (latency, hint_age) = (self.coordinator.latency(peer), now.saturating_since(since));
        PeerView { opinion, phi, latency, hints, hint_age }
    }

    /// What the latest reads and writes took at each replica, this node itself among them.
    pub fn recent_trips(&self) -> Vec<RecentTrips> {
        self.coordinator.recent()
    }

    /// The members that cannot be used now: unreachable, silent or believed to be down.
    pub fn avoided(&self, now: Time) -> Vec<NodeId> {
        let mut others = self.members().ids();
        others.retain(|id| *id != self.effects.local.me() && self.placement.has(*id));
        others.into_iter().filter(|peer| self.coordinator.avoids(now, *peer)).collect()
    }

    /// Every partition of this node with each other home of it: when they were last known to hold
    /// the same.
    pub fn pairs(&self, now: Time) -> Vec<PairView> {
        self.repair.view(now)
    }

    /// The number of the generation of a partition that this node is in.
    pub fn generation(&self, partition: Partition) -> GcEpoch {
        self.effects.local.generations.number(partition)
    }

    /// Keys here whose clock tells of events that have no value any more.
    pub fn dead_keys(&self) -> u64 {
        self.effects.local.forest.all_dead()
    }

    /// Keys here whose object is over the limit of what a write may make of one: merges made them.
    pub fn oversized_keys(&self) -> u64 {
        self.effects.local.forest.all_oversized()
    }

    /// Partitions of this node whose tombstones cannot be collected now, and why.
    pub fn collection_held_back(&self) -> &BTreeMap<Partition, HeldBack> {
        self.collection.holding()
    }

    /// Partitions of which this node is the only owner, and that may lack acknowledged writes since
    /// it lost its disk: their reads are refused until [`Input::AcceptLoss`].
    pub fn lost(&self) -> Vec<Partition> {
        self.repair.lost(&self.effects)
    }

    /// Own records that are known to be damaged, and wait to be fetched again.
    pub fn damaged(&self) -> usize {
        self.repair.damaged()
    }

    /// Own partitions that have not been read to their end since the start, and are not compared
    /// before.
    pub fn unread(&self) -> usize {
        self.effects.local.forest.unbuilt()
    }

    /// True once a peer has said what it knows of this store: before, this node counts in no read.
    pub fn is_witnessed(&self) -> bool {
        self.effects.local.is_witnessed()
    }

    /// True while others may still keep something for this node: what it does not find does not
    /// count.
    pub fn is_awaiting(&self) -> bool {
        self.effects.local.is_awaiting()
    }

    /// Own partitions that cannot be read and written with the configured R and W, because too few
    /// other nodes can be reached. Whether this node itself takes requests is another question.
    pub fn unservable(&self) -> usize {
        self.coordinator.unservable(self.effects.local.forest.partitions())
    }

    /// The trees for the next start, if this node stops now and all that it wanted written is; none
    /// while records are known to be damaged: the next start is to find them.
    pub fn kept_trees(&self) -> Vec<KeptTree> {
        if self.damaged() > 0 { Vec::new() } else { self.effects.local.forest.kept() }
    }

    /// The members as this node knows them now.
    pub fn members(&self) -> &Members {
        self.effects.local.members()
    }

    /// What the store is to know at a clean stop (`store::end_life`).
    pub fn meta(&self) -> &Meta {
        self.effects.local.meta()
    }

    /// True while a later ring is on its way to the disk.
    pub fn is_changing_ring(&self) -> bool {
        self.placement.is_changing()
    }

    /// The change of the ring that this node was ordered to make, or has granted to another member.
    pub fn ring_change(&self) -> Option<RingChange> {
        self.placement.under_way()
    }

    /// The members that live with another ring, each with its version, as they introduced
    /// themselves.
    pub fn other_rings(&self) -> impl Iterator<Item = (NodeId, u64)> {
        self.placement.with_other_rings()
    }

    /// True once the node serves.
    pub fn is_settled(&self) -> bool {
        self.effects.local.is_settled()
    }

    /// Counts since the start, in the order of their names; none that is 0.
    pub fn counters(&self) -> Vec<(Counter, u64)> {
        self.effects.out.counters()
    }
}
