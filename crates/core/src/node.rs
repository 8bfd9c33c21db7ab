//! The machine: a node as a state machine without sockets, disk, clock or threads. A driver gives
//! it inputs and the time, and carries out its outputs.

mod catching_up;
mod coordinator;
mod experiment;
mod gc_epochs;
mod gossip;
mod handoff;
mod hints;
mod identity;
mod ids;
mod interface;
mod io;
mod local_state;
mod merkle_trees;
mod outbox;
mod placement;
mod reach;
mod repair;
mod replica;
pub mod rules;
mod tombstone_gc;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::gc_epoch::{GcEpoch, PurgeableKey};
use crate::members::Members;
use crate::merkle::KeptTree;
use crate::message::{
    Blocked, Body, Counter, NotYet, PeerMessage, RecentTrips, Rejection, Request,
};
use crate::ring::{Ring, RingId};
use crate::store::{HintTotal, Meta, ScanPage};
use crate::types::{Key, Micros, NodeId, Partition, Time};
use catching_up::CatchUp;
use coordinator::{Coordinator, Origin};
pub use experiment::Experiment;
use gc_epochs::Stamped;
use gossip::Gossip;
use handoff::Handoff;
use identity::Identity;
pub use ids::{ReadToken, ScanToken, SyncSeq};
use ids::{RequestId, Role, ScanPurpose, role_of};
pub use interface::{
    ClientId, Config, Done, EXPLORE, Hindrance, Input, LATE_READ, Limits, Notice, Output, Oversize,
    PeerView, RingChange, RingOrder, Shortage, Stall, Work,
};
use io::Io;
pub use merkle_trees::own_partitions;
use placement::{Placement, Verdict};
pub use repair::PairView;
use repair::Repair;
use replica::Replica;
use tombstone_gc::TombstoneGc;

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
    tombstone_gc: TombstoneGc,
    catching_up: CatchUp,
    io: Io,
    /// Time between two rounds of gossip.
    interval: Micros,
    last_input: Option<Time>,
    /// The nodes with a link that is up, whether they belong to the cluster or not, and those of
    /// them that the roles know of.
    links: BTreeSet<NodeId>,
    peers: BTreeSet<NodeId>,
    /// Until when writes are refused, and how long this process did not run.
    stale: (Time, Micros),
    /// True from an operator's order to another one: requests and hints go elsewhere.
    drained: bool,
}

/// A node wants to be woken at least as often as this, so that it notices that its process did not
/// run.
const TICK_INTERVAL: Micros = Micros::from_millis(100);
/// A gap between inputs of this length is a pause. Shorter than any timeout of clients: what they
/// asked before it they may have asked elsewhere since.
const PAUSE: Micros = Micros::from_millis(250);
/// What reached a paused process has been read by this time after the pause.
const STALE_AFTER: Micros = Micros::from_millis(1_000);

impl Node {
    /// A node at the start of an incarnation of its store (`store::begin_incarnation`).
    pub fn new(config: Config, meta: Meta, seed: u64) -> Self {
        let mut io = Io::new(&config, meta);
        Node {
            replica: Replica::new(&config),
            identity: Identity::new(&config),
            placement: Placement::new(&config),
            gossip: Gossip::new(&config, seed, &mut io),
            handoff: Handoff::new(&config, seed),
            repair: Repair::new(&config, seed, &io),
            tombstone_gc: TombstoneGc::new(&config, seed),
            catching_up: CatchUp::new(config.boot_nonce, config.ring.members().len() - 1),
            io,
            interval: config.gossip_interval,
            last_input: None,
            links: BTreeSet::new(),
            peers: BTreeSet::new(),
            stale: (Time::START, Micros::ZERO),
            drained: false,
            coordinator: Coordinator::new(config, seed),
        }
    }

    /// The same node, as an experiment wants it. Before its first input.
    pub fn with_experiment(mut self, experiment: Experiment) -> Self {
        debug_assert!(self.last_input.is_none(), "an experiment is of a whole incarnation");
        self.io.out.carry_own(experiment.own_link);
        self.coordinator.experiment(experiment);
        self
    }

    /// Takes one input at the time `now` and appends what is to be done to `out`.
    pub fn handle(&mut self, now: Time, input: Input, out: &mut Vec<Output>) {
        self.begin(now);
        let io = &mut self.io;
        match input {
            Input::Tick => {
                if let Some(silent) = self.identity.tick(now, io) {
                    self.placement.report_silent(now, silent, io);
                }
                self.placement.tick(now, io);
                self.coordinator.tick(now, io);
                self.gossip.tick(now, io);
                self.catching_up.tick(now, io);
                self.handoff.tick(now, io);
                self.repair.tick(now, io);
                self.tombstone_gc.tick(now, io);
            }
            Input::Link { peer, up } => {
                if up {
                    self.links.insert(peer);
                } else {
                    self.links.remove(&peer);
                }
                // One that does not belong to the cluster is no peer.
                if io.local.is_peer(peer) || self.peers.contains(&peer) {
                    self.meet(now, peer, up);
                }
            }
            Input::Peer { from, message } => self.dispatch(now, from, message),
            Input::Client { client, id, request, timeout_ms } => {
                self.request(now, Origin::Client { client, id }, request, timeout_ms);
            }
            Input::GiveUp { client, call } => self.coordinator.give_up(client, call, io),
            Input::Repair { partition, peer } => self.repair.order(now, partition, peer),
            Input::AcceptLoss => self.repair.accept_loss(io),
            Input::Ring(order) => self.placement.order(now, order, io),
            Input::Space(shortage) => self.replica.space(shortage),
            Input::Stalled(stall) => {
                io.local.set_stall(stall);
                self.replica.stalled(io);
            }
            Input::Drain(drained) => self.drained = drained,
            Input::Limits(limits) => {
                io.local.hints.set_limit(limits.hint_limit_bytes);
                self.handoff.limit_age(limits.hint_age);
                self.repair.pace(now, &limits);
            }
            Input::Store(Done::Read { token, found, hints }) => {
                self.replica.read_done(token, found, hints, io);
            }
            Input::Store(Done::Hints { token, page }) => self.handoff.listed(now, token, page, io),
            Input::Store(Done::Scan { token, page }) => {
                self.scanned(now, token, page);
            }
            Input::Store(Done::List { token, listing }) => {
                self.replica.list_done(token, listing, io);
            }
            Input::Store(Done::Synced { seq }) => {
                io.release(seq);
                self.replica.synced(seq);
                self.identity.synced(io);
                if let Some(ring) = self.placement.synced(io) {
                    self.change_ring(now, ring);
                }
                let io = &mut self.io;
                self.repair.synced(io);
                self.tombstone_gc.settled(now, io);
            }
        }
        self.settle(now);
        self.io.out.drain_into(out);
    }

    /// Notices when this process did not run for a while: its view of others is stale then.
    fn begin(&mut self, now: Time) {
        self.io.local.begin(now);
        let gap = now.saturating_since(self.last_input.unwrap_or(now));
        self.last_input = Some(now);
        if gap > PAUSE {
            self.io.out.count(Counter::OwnPausesNoticed);
            self.stale = (now + STALE_AFTER, gap);
            // Newer writes may have been made elsewhere since: what was not decided before the
            // pause must not cover them.
            self.coordinator.give_up_all(&mut self.io);
            self.settle(now);
        }
        if gap > 2 * self.interval {
            self.gossip.forgive(gap);
            self.catching_up.doubt(now, &mut self.io);
        }
    }

    /// Hands around what the roles have for each other until there is nothing left.
    fn settle(&mut self, now: Time) {
        loop {
            if !self.coordinator.is_idle() {
                self.io.local.set_busy();
            }
            if let Some(message) = self.io.out.next_local() {
                self.dispatch(now, self.io.local.me(), message);
            } else if let Some((peer, liveness)) = self.io.out.next_liveness() {
                let io = &mut self.io;
                self.coordinator.set_liveness(now, peer, liveness, io);
                self.catching_up.set_liveness(now, peer, liveness, io);
                self.handoff.set_liveness(now, peer, liveness, io);
                self.repair.set_liveness(now, peer, liveness);
                self.tombstone_gc.set_liveness(peer, liveness);
                self.placement.set_liveness(peer, liveness);
            } else if self.io.local.take_membership_changed() {
                self.io.out.set_members(self.io.local.members().clone());
                self.change_members(now);
            } else if let Some((partition, key)) = self.io.out.next_damaged() {
                self.repair.find_damaged(partition, key, &mut self.io);
            } else if let Some((from, incarnation)) = self.io.out.next_own_incarnation() {
                self.identity.hear_of_own_incarnation(from, incarnation, &mut self.io);
            } else if self.placement.make_next(now, &self.links, &mut self.io) {
                // It is on its way to the disk.
            } else {
                break;
            }
        }
        self.handoff.notice_changes(now, &mut self.io);
        let is_idle = self.coordinator.is_idle();
        self.placement.advance(now, is_idle, &mut self.io);
    }

    /// A link with a peer came up or went down, or the node at its other end becomes a peer or
    /// ceases to be one.
    fn meet(&mut self, now: Time, peer: NodeId, up: bool) {
        let io = &mut self.io;
        if up {
            self.peers.insert(peer);
        } else {
            self.peers.remove(&peer);
            io.local.lose(peer);
        }
        self.identity.link(now, peer, up, io);
        self.placement.link(peer, up, io);
        let usable = up && !self.identity.is_foreign(peer);
        self.link(now, peer, usable);
    }

    /// A later ring is durable: it is in force from now on.
    fn change_ring(&mut self, now: Time, ring: Arc<Ring>) {
        let io = &mut self.io;
        let before = io.local.ring().clone();
        io.local.set_ring(ring.clone());
        io.out.count(Counter::RingsTaken);
        io.out.set_ring(ring, io.local.members().clone());
        self.change_members(now);
        let io = &mut self.io;
        self.coordinator.set_ring(now, io);
        self.repair.set_ring(now, io);
        self.tombstone_gc.set_ring(io);
        self.handoff.set_ring(now, io);
        self.placement.set_ring(&before, io);
        self.identity.set_ring(now, io);
    }

    /// Another node belongs to the cluster from now on, or one does no more.
    fn change_members(&mut self, now: Time) {
        let io = &mut self.io;
        self.gossip.set_members(io);
        self.catching_up.set_peers(io.local.ring().members().len().saturating_sub(1));
        let gone: Vec<NodeId> =
            self.peers.iter().copied().filter(|peer| !self.io.local.is_peer(*peer)).collect();
        for peer in gone {
            self.meet(now, peer, false);
        }
        let come = self.links.difference(&self.peers).copied();
        let come: Vec<NodeId> = come.filter(|peer| self.io.local.is_peer(*peer)).collect();
        for peer in come {
            self.meet(now, peer, true);
        }
    }

    /// A peer can be sent to from now on, or no more.
    fn link(&mut self, now: Time, peer: NodeId, usable: bool) {
        let io = &mut self.io;
        self.coordinator.link(now, peer, usable, io);
        self.gossip.link(peer, usable);
        self.catching_up.link(now, peer, usable, io);
        self.handoff.link(now, peer, usable, io);
        self.repair.link(now, peer, usable);
        self.tombstone_gc.link(peer, usable, io);
    }

    /// A peer has introduced itself, or reported what it knows of this node.
    fn identify(&mut self, now: Time, from: NodeId, request_id: RequestId, body: Body) {
        let was_foreign = self.identity.is_foreign(from);
        self.identity.hear(now, from, request_id, body, &mut self.io);
        if self.identity.is_foreign(from) {
            self.link(now, from, false);
        } else if was_foreign && self.identity.is_linked(from) {
            self.link(now, from, true);
        }
    }

    /// Passes a message to the role that it is for.
    fn dispatch(&mut self, now: Time, from: NodeId, message: PeerMessage) {
        let PeerMessage { ring, request_id, body } = message;
        let io = &mut self.io;
        let own = from == io.local.me();
        if !own && !io.local.is_peer(from) {
            return self.placement.hear_stranger(from, body, io);
        }
        if !own && !self.identity.is_foreign(from) {
            self.gossip.heard(now, from, io);
        }
        if let Body::Propose { purgeable, .. } = &body
            && !self.identity.is_foreign(from)
            && self.may_issue_again(purgeable)
        {
            return self.io.out.send(vec![from], request_id, Body::NotYet(NotYet::RepeatedPut));
        }
        let io = &mut self.io;
        if !own && ring != RingId::UNSAID {
            io.local.hear_of_ring(from, ring);
        }
        match body {
            Body::Introduce { incarnation, ring, cluster } => {
                match self.placement.meet(now, from, (incarnation, ring), cluster, io) {
                    Ordering::Less => {}
                    Ordering::Equal => self.identify(now, from, request_id, body),
                    // It is notified of this node's ring, and answers with its own.
                    Ordering::Greater => self.identity.introduce(vec![from], io),
                }
            }
            Body::Known { .. } => {
                if self.identity.is_own(request_id, io) {
                    self.placement.confirm(from, io);
                }
                self.identify(now, from, request_id, body);
            }
            Body::Placement { ring, members } => {
                self.placement.hear(from, ring, &members, io);
            }
            _ if self.identity.is_foreign(from) => {}
            body if own => self.deliver(now, from, request_id, body),
            body => match self.placement.judge(from, ring, &body, io) {
                Verdict::Taken => self.deliver(now, from, request_id, body),
                verdict => self.turn_away(now, from, (request_id, ring), &body, verdict),
            },
        }
    }

    /// A message of another ring does not count: who waits for an answer is refused, and who has
    /// the older ring is sent the later one.
    fn turn_away(
        &mut self,
        now: Time,
        from: NodeId,
        (request_id, ring): (RequestId, RingId),
        body: &Body,
        verdict: Verdict,
    ) {
        let io = &mut self.io;
        io.out.count(Counter::MessagesOfOtherRings);
        let (given, own) = (ring.version, io.local.ring_id().version);
        match body {
            Body::Equal | Body::Summaries(_) | Body::Items { .. } | Body::Records { .. } => {}
            Body::Agreed | Body::NotYet(_) | Body::Progress(_) => {}
            Body::Propose { .. } => {
                io.out.send(vec![from], request_id, Body::NotYet(NotYet::Members));
            }
            _ => {
                let refused = Body::Failed(Rejection::OtherRing { given, own });
                io.out.send(vec![from], request_id, refused);
            }
        }
        match verdict {
            Verdict::Older => self.placement.correct(now, from, io),
            Verdict::Other => self.identity.introduce(vec![from], io),
            Verdict::Taken => debug_assert!(false, "what is taken is not turned away"),
        }
    }

    /// Passes a message of a peer of the same cluster, or of the node itself, to the role that it
    /// is for.
    fn deliver(&mut self, now: Time, from: NodeId, request_id: RequestId, body: Body) {
        let io = &mut self.io;
        let own = from == io.local.me();
        match body {
            Body::Introduce { .. } | Body::Known { .. } | Body::Placement { .. } => {
                debug_assert!(false, "who a peer is has been heard before what it says");
            }
            Body::Coordinate { request, timeout_ms } => {
                self.request(now, Origin::Peer { node: from, request_id }, request, timeout_ms);
            }
            Body::Propose { .. }
            | Body::Agreed
            | Body::NotYet(_)
            | Body::GcEpochs { .. }
            | Body::GcEpochNumbers(_)
            | Body::QueryGcEpoch(_)
            | Body::GcState { .. } => self.tombstone_gc.hear(now, from, request_id, body, io),
            Body::Equal | Body::Summaries(_) | Body::Items { .. } | Body::Records { .. } => {
                self.repair.hear(now, from, request_id, body, io);
            }
            Body::Compare { .. }
            | Body::Descend { .. }
            | Body::Leaves { .. }
            | Body::Fetch { .. } => {
                self.repair.query(now, from, request_id, body, io);
            }
            Body::Coordinated(_)
            | Body::Updated { .. }
            | Body::Ack
            | Body::Copy { .. }
            | Body::Listed { .. }
            | Body::Failed(_) => self.answer(now, request_id, from, body),
            Body::QueryHints => self.handoff.report(from, request_id, io),
            Body::Hints(count) => self.catching_up.hear(now, from, request_id, count, io),
            Body::Gossip(word) => self.gossip.hear(now, from, request_id, word, io),
            // Only this node itself knows that a hint has arrived.
            Body::DeleteHint { .. }
            | Body::Restore { .. }
            | Body::MarkDead(_)
            | Body::Purge { .. }
            | Body::Discard { .. }
            | Body::Decide { .. }
            | Body::Withdraw { .. }
            | Body::Erase { .. } => match own {
                true => self.replica.query(from, request_id, body, io),
                false => io.out.count(Counter::OrdersOfOthersIgnored),
            },
            Body::Abandon => self.coordinator.abandon(from, request_id, io),
            Body::QueryWanted(wanted) => self.coordinator.confirm(from, request_id, wanted, io),
            Body::Wanted => self.coordinator.confirmed(now, request_id, from, io),
            // A node that is on its way out keeps nothing more for others.
            Body::StoreHint { .. } => match !own && (self.drained || io.local.is_leaving()) {
                true => io.out.send(vec![from], request_id, Body::Failed(Rejection::Stopping)),
                false => self.replica.query(from, request_id, body, io),
            },
            Body::Update { .. } | Body::Merge { .. } | Body::Read { .. } | Body::List { .. } => {
                self.replica.query(from, request_id, body, io);
            }
            Body::QueryRing { .. }
            | Body::QueryChange { .. }
            | Body::RingGranted
            | Body::RingDenied { .. } => self.placement.vote(now, from, request_id, body, io),
            Body::Progress(progress) => self.placement.hear_progress(from, progress, io),
        }
    }

    /// Passes an answer to the role that sent the query.
    fn answer(&mut self, now: Time, request_id: RequestId, from: NodeId, body: Body) {
        let io = &mut self.io;
        match (role_of(request_id), body) {
            (Role::Coordinator, body) => self.coordinator.answer(now, request_id, from, body, io),
            (Role::Handoff, Body::Ack) => self.handoff.answer(now, request_id, from, None, io),
            (Role::Handoff, Body::Failed(why)) => {
                self.handoff.answer(now, request_id, from, Some(why), io);
            }
            (Role::Handoff, Body::Copy { object, gc_epoch, .. }) => {
                self.handoff.fetched(request_id, from, Stamped { object, gc_epoch }, io);
            }
            (Role::Repair, body @ (Body::Ack | Body::Failed(_) | Body::Copy { .. })) => {
                self.repair.hear(now, from, request_id, body, io);
            }
            // It asks the own replica only.
            (Role::TombstoneGc, body @ (Body::Ack | Body::Failed(_))) if from == io.local.me() => {
                self.tombstone_gc.done(request_id, &body, io);
            }
            // An answer to a question that the role does not put.
            (Role::Handoff | Role::Repair | Role::TombstoneGc, _) => {}
        }
    }

    /// Passes a page to the role that requested the scan.
    fn scanned(&mut self, now: Time, token: ScanToken, page: ScanPage) {
        let io = &mut self.io;
        match token.purpose() {
            ScanPurpose::Trees => self.repair.trees_scanned(now, token, &page, io),
            ScanPurpose::Exchange => self.repair.exchange_scanned(now, token, page, io),
            ScanPurpose::PeerList => self.repair.peer_list_scanned(token, page, io),
            ScanPurpose::PurgeableKeys => {
                self.tombstone_gc.purgeable_keys_scanned(now, token, &page, io);
            }
            ScanPurpose::Task => self.tombstone_gc.task_scanned(token, &page, io),
            ScanPurpose::Surplus => self.repair.surplus_scanned(now, token, &page, io),
        }
    }

    /// True if a repetition of a write whose event is to be purged may yet be carried out here.
    fn may_issue_again(&self, purgeable: &[PurgeableKey]) -> bool {
        let repeated = |purgeable_key: &&PurgeableKey| {
            purgeable_key.dead.dots().iter().any(|dot| dot.actor.is_of_write())
        };
        let waits = |key: &Key| self.replica.has_updates(key) || self.coordinator.has_writes(key);
        purgeable.iter().filter(repeated).any(|purgeable_key| waits(&purgeable_key.key))
    }

    /// Passes a request to the coordinator, once the node may issue dots and answer.
    fn request(&mut self, now: Time, origin: Origin, request: Request, timeout_ms: u32) {
        if !self.coordinator.is_first(origin) {
            return;
        }
        let (until, gap) = self.stale;
        let stale = now < until && request.is_write();
        let paused = || Rejection::Paused(gap.as_millis().min(u32::MAX.into()) as u32);
        let rejection = self.rejection(now, request.is_write());
        let io = &mut self.io;
        match rejection.or_else(|| stale.then(paused)) {
            Some(rejection) => self.coordinator.refuse(origin, rejection, io),
            None => self.coordinator.request(now, origin, request, timeout_ms, io),
        }
    }

    /// Why this node carries out no request now, or no write if `writes`, because it is starting or
    /// drained; `None` while it serves.
    pub fn rejection(&self, now: Time, writes: bool) -> Option<Rejection> {
        let io = &self.io;
        let unsure = || writes && !self.tombstone_gc.is_ready(now, io);
        // Others may have removed a node that is on its way out before it can answer.
        let goes = self.drained || io.local.is_leaving();
        let rejection = goes.then_some(Rejection::Stopping);
        let rejection = rejection.or_else(|| self.identity.rejection(io));
        rejection.or_else(|| unsure().then(|| self.identity.starting(io)))
    }

    /// When the node wants an [`Input::Tick`] if nothing else happens before.
    pub fn next_wake(&self) -> Option<Time> {
        let wakes = [
            self.coordinator.next_wake(),
            self.identity.next_wake(),
            self.placement.next_wake(),
            self.gossip.next_wake(),
            self.catching_up.next_wake(),
            self.handoff.next_wake(),
            self.repair.next_wake(),
            self.tombstone_gc.next_wake(),
            self.last_input.map(|last| last + TICK_INTERVAL),
        ];
        wakes.into_iter().flatten().min()
    }

    /// True when nothing that a client waits for is in progress and every write is synced.
    pub fn is_idle(&self) -> bool {
        self.coordinator.is_idle() && self.io.out.is_synced()
    }

    /// Requests that a client or a node waits for.
    pub fn requests(&self) -> usize {
        self.coordinator.load()
    }

    /// How many of the other members have reported what they know of this node, and how many there
    /// are.
    pub fn heard(&self) -> (u32, u32) {
        self.identity.heard(&self.io)
    }

    /// The peers that belong to another cluster of the same name, and its id.
    pub fn foreign(&self) -> &BTreeMap<NodeId, u64> {
        self.identity.foreign()
    }

    /// What this node makes of another member.
    pub fn peer_view(&self, now: Time, peer: NodeId) -> PeerView {
        let (liveness, phi) = self.gossip.liveness(now, peer);
        let (hints, since) = self.io.local.hints.of(peer).unwrap_or((HintTotal::default(), now));
        let (latency, hint_age) = (self.coordinator.latency(peer), now.saturating_since(since));
        PeerView { liveness, phi, latency, hints, hint_age }
    }

    /// What the latest reads and writes took at each replica, this node itself among them.
    pub fn recent_trips(&self) -> Vec<RecentTrips> {
        self.coordinator.recent()
    }

    /// The members that cannot be used now: unreachable, silent or marked down.
    pub fn avoided(&self, now: Time) -> Vec<NodeId> {
        let mut others = self.members().ids();
        others.retain(|id| *id != self.io.local.me() && self.io.local.ring().has(*id));
        others.into_iter().filter(|peer| self.coordinator.avoids(now, *peer)).collect()
    }

    /// Every partition of this node with each other owner of it: when they were last known to hold
    /// the same.
    pub fn pairs(&self, now: Time) -> Vec<PairView> {
        self.repair.view(now)
    }

    /// The number of the GC epoch of a partition that this node is in.
    pub fn gc_epoch(&self, partition: Partition) -> GcEpoch {
        self.io.local.gc_epochs.number(partition)
    }

    /// Keys here whose clock has events without a value.
    pub fn dead_keys(&self) -> u64 {
        self.io.local.trees.all_dead()
    }

    /// Keys here whose object is over the limit of what a write may make of one: merges made them.
    pub fn oversized_keys(&self) -> u64 {
        self.io.local.trees.all_oversized()
    }

    /// Partitions of this node whose tombstones cannot be purged now, and why.
    pub fn tombstone_gc_blocked(&self) -> &BTreeMap<Partition, Blocked> {
        self.tombstone_gc.holding()
    }

    /// Partitions of which this node is the only owner, and that may lack acknowledged writes since
    /// it lost its disk: their reads are refused until [`Input::AcceptLoss`].
    pub fn lost(&self) -> Vec<Partition> {
        self.repair.lost(&self.io)
    }

    /// Own records that are known to be damaged, and wait to be fetched again.
    pub fn damaged(&self) -> usize {
        self.repair.damaged()
    }

    /// Own partitions that have not been read to their end since the start, and are not compared
    /// before.
    pub fn unread(&self) -> usize {
        self.io.local.trees.unbuilt()
    }

    /// True once a peer has reported what it knows of this store; before, the node is
    /// read-ineligible.
    pub fn is_witnessed(&self) -> bool {
        self.io.local.is_witnessed()
    }

    /// True while others may still have hints for this node: absent keys do not count then.
    pub fn is_catching_up(&self) -> bool {
        self.io.local.is_catching_up()
    }

    /// Own partitions that cannot be read and written with the configured R and W, because too few
    /// other nodes can be reached. Whether this node itself takes requests is another question.
    pub fn unservable(&self) -> usize {
        self.coordinator.unservable(self.io.local.own())
    }

    /// The trees for the next start, if this node stops now and all that it wanted written is; none
    /// while records are known to be damaged: the next start is to find them.
    pub fn kept_trees(&self) -> Vec<KeptTree> {
        if self.damaged() > 0 { Vec::new() } else { self.io.local.trees.kept() }
    }

    /// The members as this node knows them now.
    pub fn members(&self) -> &Members {
        self.io.local.members()
    }

    /// What the store is to know at a clean stop (`store::end_incarnation`).
    pub fn meta(&self) -> &Meta {
        self.io.local.meta()
    }

    /// True while a later ring is on its way to the disk.
    pub fn is_changing_ring(&self) -> bool {
        self.placement.is_changing()
    }

    /// The change of the ring that this node was ordered to make, or has granted to another member.
    pub fn ring_change(&self) -> Option<RingChange> {
        self.placement.in_flight()
    }

    /// The members that live with another ring, each with its version, as they introduced
    /// themselves.
    pub fn other_rings(&self) -> Vec<(NodeId, u64)> {
        self.placement.with_other_rings(&self.io)
    }

    /// The members that have not confirmed, since this node has its ring, that they have it too:
    /// what they acknowledge may count for members that are removed. The fence behind the ring has
    /// passed when there is none left.
    pub fn unconfirmed(&self) -> Vec<NodeId> {
        self.placement.unconfirmed(&self.io)
    }

    /// The ring in force here, which is durable.
    pub fn ring(&self) -> &Arc<Ring> {
        self.io.local.ring()
    }

    /// The version and digest of that ring.
    pub fn ring_id(&self) -> RingId {
        self.io.local.ring_id()
    }

    /// Partitions that this node does not own and may hold records of, which go to their owners.
    pub fn surplus(&self) -> usize {
        self.io.local.surplus().len()
    }

    /// True once the node serves.
    pub fn is_settled(&self) -> bool {
        self.io.local.is_settled()
    }

    /// Counts since the start, in the order of their names; none that is 0.
    pub fn counters(&self) -> Vec<(Counter, u64)> {
        self.io.out.counters()
    }
}
