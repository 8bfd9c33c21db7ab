//! The machine: a node as a state machine without sockets, disk, clock or threads. A driver gives it
//! inputs and the time, and carries out its outputs.

mod collection;
mod coordinator;
mod effects;
mod forest;
mod generations;
mod gossip;
mod handoff;
mod identity;
mod repair;
mod replica;
mod returning;

use std::collections::BTreeMap;
use std::sync::Arc;

use collection::Collection;
use coordinator::{Coordinator, Origin};
use effects::Effects;
use gossip::Gossip;
use handoff::Handoff;
use identity::Identity;
pub use repair::PairView;
use repair::Repair;
use replica::Replica;
use returning::Returning;

use crate::generation::Generation;
use crate::members::{Members, Opinion};
use crate::message::{Body, PeerMessage, Refusal, Request, Response};
use crate::ring::Ring;
use crate::store::{Change, Found, HintPage, HintTotal, Kept, Listing, Meta, ScanPage, Span};
use crate::types::{Key, MILLI, Micros, NodeId, Partition};

/// What a node is told when it starts.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who it is.
    pub me: NodeId,
    /// Where keys live.
    pub ring: Arc<Ring>,
    /// R of requests that name none, 1 to N.
    pub r: u8,
    /// W of requests that name none, 1 to N.
    pub w: u8,
    /// True if only home replicas count for requests that do not say.
    pub strict: bool,
    /// Every member, this node among them: what is configured, and what the store remembers better.
    pub members: Members,
    /// Time between two rounds of gossip.
    pub gossip_interval: Micros,
    /// A member that was silent for so long, and for surprisingly long, is believed to be down.
    pub gossip_timeout: Micros,
    /// Most bytes of hints that are kept for other members.
    pub hint_limit_bytes: u64,
    /// A hint of this age is also offered to the other home replicas.
    pub hint_age: Micros,
    /// Each partition is compared with every other home of it about as often as this.
    pub repair_interval: Micros,
    /// All that is on disk is read once in this time.
    pub scrub_interval: Micros,
    /// A generation of a partition lasts at least this long: longer than most requests.
    pub generation_pause: Micros,
    /// What the store keeps for other members at the start.
    pub hints: Kept,
    /// The generations of partitions that the store knows at the start.
    pub generations: Vec<(Partition, Generation)>,
    /// Drawn at random at each start.
    pub boot_nonce: u64,
    /// True if the operator says that this is a new cluster: it is founded by the members that answer,
    /// not only by all.
    pub bootstrap: bool,
    /// Serials reserved at a time, at least 1: a crash wastes at most this many of 2^64.
    pub serial_block: u64,
}

/// Names a client's connection; the driver never uses one twice.
pub type ClientId = u64;

/// What happens to a node.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time has passed: due after [`Node::next_wake`].
    Tick,
    /// The link to a peer came up or went down. All links are down at the start.
    Link {
        /// The peer.
        peer: NodeId,
        /// Whether messages can be sent to it now.
        up: bool,
    },
    /// A peer sent a message.
    Peer {
        /// Who.
        from: NodeId,
        /// What.
        message: PeerMessage,
    },
    /// A client made a request; exactly one [`Output::Reply`] follows.
    Client {
        /// Its connection.
        client: ClientId,
        /// The call's id on this connection.
        id: u64,
        /// What it asks.
        request: Request,
        /// How long it may take, in milliseconds.
        timeout_ms: u32,
    },
    /// The store has done something.
    Store(Done),
    /// Compare at once: this partition, or all, with this home, or all.
    Repair {
        /// The partition.
        partition: Option<Partition>,
        /// The other home.
        peer: Option<NodeId>,
    },
    /// The disk's free space went below the reserve, or there is room again.
    Space(Option<Shortage>),
}

/// A disk that has less free space than its reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// Bytes that are free.
    pub free_bytes: u64,
    /// The configured reserve.
    pub reserve_bytes: u64,
}

/// Work for the store. Writes are carried out in order; reads and lists at any time.
#[derive(Clone, Debug)]
pub enum Work {
    /// Read a record; answered by [`Done::Read`].
    Read {
        /// Names this read.
        token: u64,
        /// The key's partition.
        partition: Partition,
        /// The key.
        key: Key,
        /// Also read what is kept of the key for these members.
        hints_for: Vec<NodeId>,
    },
    /// List the hints for a member; answered by [`Done::Hints`].
    Hints {
        /// Names this list.
        token: u64,
        /// The member.
        target: NodeId,
        /// Start behind this key.
        after: Option<Key>,
        /// Stop after about this many bytes of hints.
        limit_bytes: usize,
    },
    /// Read a span of a partition, behind everything else; answered by [`Done::Scan`].
    Scan {
        /// Names this scan.
        token: u64,
        /// The partition.
        partition: Partition,
        /// Which part of it.
        span: Span,
    },
    /// List keys; answered by [`Done::List`].
    List {
        /// Names this list.
        token: u64,
        /// The partition.
        partition: Partition,
        /// Start behind this key.
        after: Option<Key>,
        /// Stop after about this many bytes of keys.
        limit_bytes: usize,
    },
    /// Apply these changes as one batch and sync; answered by [`Done::Synced`] with this or a later mark.
    Write {
        /// Higher than that of every write before.
        mark: u64,
        /// The batch.
        changes: Vec<Change>,
    },
}

/// What the store has done.
#[derive(Clone, Debug)]
pub enum Done {
    /// A read.
    Read {
        /// The read's name.
        token: u64,
        /// What was there.
        found: Found,
        /// What is kept for each member that was asked about.
        hints: Vec<(NodeId, Found)>,
    },
    /// A list of hints.
    Hints {
        /// The list's name.
        token: u64,
        /// The hints.
        page: HintPage,
    },
    /// A scan.
    Scan {
        /// The scan's name.
        token: u64,
        /// What the span holds.
        page: ScanPage,
    },
    /// A list.
    List {
        /// The list's name.
        token: u64,
        /// The keys.
        listing: Listing,
    },
    /// Every write up to this mark is durable.
    Synced {
        /// The mark.
        mark: u64,
    },
}

/// What a node wants done.
#[derive(Clone, Debug)]
pub enum Output {
    /// Send a message to these peers (never to itself); it may be lost.
    Send {
        /// To whom: the message is encoded once for all.
        to: Vec<NodeId>,
        /// What.
        message: PeerMessage,
    },
    /// Answer a client.
    Reply {
        /// Its connection.
        client: ClientId,
        /// The call's id.
        id: u64,
        /// The answer.
        response: Response,
    },
    /// Give work to the store.
    Store(Work),
    /// From now on this member is to be reached at this address.
    Address {
        /// The member.
        peer: NodeId,
        /// `host:port`.
        address: String,
    },
    /// Tell the operator.
    Notice(Notice),
}

/// What an operator would ask about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The cluster was founded, this node among its founders.
    Founded,
    /// The node joined a cluster that knew it with another store: it has lost its disk.
    Reborn,
    /// A peer has seen a later life of this store: its disk was rolled back, or copied.
    Outdated(NodeId),
    /// A peer that was heard late has seen a later life of this store: the disk is an old one after all,
    /// or a copy of it runs elsewhere. The store goes on under a new id, without authority.
    Copied(NodeId),
    /// No peer could say whether the disk is the newest: the store goes on under a new id.
    Alone,
    /// A peer belongs to another cluster of the same name; nothing is exchanged with it.
    Foreign(NodeId),
    /// The node serves.
    Settled,
    /// The node's opinion of a member has changed.
    Opined(NodeId, Opinion),
    /// A member that was out of reach is back, and so many hints are offered to it.
    HandoffBegun(NodeId, u64),
    /// It has taken all of them.
    HandoffDone(NodeId),
    /// A member told of a later life of this node, with so high a number that it cannot be: not believed.
    Forged(NodeId),
}

/// A member as this node sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PeerView {
    /// What this node believes of it.
    pub opinion: Opinion,
    /// How surprising its silence is: the phi of the failure detector.
    pub phi: f64,
    /// How long it takes to answer a read; `None` before it ever did.
    pub latency: Option<Micros>,
    /// The hints that are kept for it.
    pub hints: HintTotal,
    /// For how long there have been any, in this life.
    pub hint_age: Micros,
}

/// A node: its roles, and what they want done. No role sees another's state.
#[derive(Clone, Debug)]
pub struct Node {
    coordinator: Coordinator,
    replica: Replica,
    identity: Identity,
    gossip: Gossip,
    handoff: Handoff,
    repair: Repair,
    collection: Collection,
    returning: Returning,
    effects: Effects,
    /// Time between two rounds of gossip.
    interval: Micros,
    last_input: Option<Micros>,
    /// Until when writes are refused, and how long this process did not run.
    stale: (Micros, Micros),
}

/// A node wants to be woken at least as often as this, so that it notices that its process did not run.
const PULSE: Micros = 100 * MILLI;
/// A gap between inputs of this length is a pause. Shorter than any patience of clients: what they asked before it
/// they may have asked elsewhere since.
const PAUSE: Micros = 250 * MILLI;
/// What reached a paused process has been read by this time after the pause.
const STALE: Micros = 1_000 * MILLI;

impl Node {
    /// A node at the start of a life of its store (`store::begin_life`).
    pub fn new(config: Config, meta: Meta, seed: u64) -> Self {
        Node {
            replica: Replica::new(config.ring.clone(), &meta, config.serial_block),
            identity: Identity::new(&config),
            gossip: Gossip::new(&config, seed),
            handoff: Handoff::new(&config, seed),
            repair: Repair::new(&config, seed),
            collection: Collection::new(&config, seed),
            returning: Returning::new(config.boot_nonce, config.ring.members().len() - 1),
            effects: Effects::new(&config, meta),
            interval: config.gossip_interval,
            last_input: None,
            stale: (0, 0),
            coordinator: Coordinator::new(config, seed),
        }
    }

    /// Takes one input at the time `now` and appends what is to be done to `out`.
    pub fn handle(&mut self, now: Micros, input: Input, out: &mut Vec<Output>) {
        self.begin(now);
        let fx = &mut self.effects;
        match input {
            Input::Tick => {
                self.identity.tick(now, fx);
                self.coordinator.tick(now, fx);
                self.gossip.tick(now, fx);
                self.returning.tick(now, fx);
                self.handoff.tick(now, fx);
                self.repair.tick(now, fx);
                self.collection.tick(now, fx);
            }
            Input::Link { peer, up } => {
                self.identity.link(now, peer, up, fx);
                let usable = up && !self.identity.is_foreign(peer);
                self.link(now, peer, usable);
            }
            Input::Peer { from, message } => self.dispatch(now, from, message),
            Input::Client { client, id, request, timeout_ms } => {
                self.request(now, Origin::Client { client, id }, request, timeout_ms);
            }
            Input::Repair { partition, peer } => self.repair.order(now, partition, peer),
            Input::Space(shortage) => self.replica.space(shortage),
            Input::Store(Done::Read { token, found, hints }) => {
                self.replica.read_done(token, found, hints, fx);
            }
            Input::Store(Done::Hints { token, page }) => self.handoff.listed(now, token, page, fx),
            Input::Store(Done::Scan { token, page }) => {
                if !self.collection.scanned(now, token, &page, fx) {
                    self.repair.scanned(now, token, page, fx);
                }
            }
            Input::Store(Done::List { token, listing }) => {
                self.replica.list_done(token, listing, fx);
            }
            Input::Store(Done::Synced { mark }) => {
                fx.release(mark);
                self.replica.synced(mark, fx);
                self.identity.synced(fx);
            }
        }
        self.settle(now);
        self.effects.drain_into(out);
    }

    /// Notices when this process did not run for a while: what it believes of others is stale.
    fn begin(&mut self, now: Micros) {
        self.effects.begin(now);
        let gap = now.saturating_sub(self.last_input.unwrap_or(now));
        self.last_input = Some(now);
        if gap > PAUSE {
            self.effects.count("own_pauses_noticed");
            self.stale = (now + STALE, gap);
        }
        if gap > 2 * self.interval {
            self.gossip.forgive(gap);
            self.returning.doubt(now, &mut self.effects);
        }
    }

    /// Hands around what the roles have for each other until there is nothing left.
    fn settle(&mut self, now: Micros) {
        loop {
            self.effects.set_load(self.coordinator.load());
            if let Some(message) = self.effects.next_local() {
                self.dispatch(now, self.effects.me(), message);
            } else if let Some((peer, opinion)) = self.effects.next_opinion() {
                let fx = &mut self.effects;
                self.coordinator.opine(now, peer, opinion, fx);
                self.returning.opine(now, peer, opinion, fx);
                self.handoff.opine(now, peer, opinion, fx);
                self.repair.opine(now, peer, opinion);
                self.collection.opine(peer, opinion);
            } else if let Some((partition, key)) = self.effects.next_damaged() {
                self.repair.find_damaged(partition, key, &mut self.effects);
            } else if let Some((from, incarnation)) = self.effects.next_own_life() {
                self.identity.hear_of_own_life(from, incarnation, &mut self.effects);
            } else {
                break;
            }
        }
        self.handoff.notice_changes(now, &mut self.effects);
        self.effects.tell_drained();
    }

    /// A peer can be sent to from now on, or no more.
    fn link(&mut self, now: Micros, peer: NodeId, usable: bool) {
        let fx = &mut self.effects;
        self.coordinator.link(now, peer, usable, fx);
        self.gossip.link(peer, usable);
        self.returning.link(now, peer, usable, fx);
        self.handoff.link(now, peer, usable, fx);
        self.repair.link(now, peer, usable);
        self.collection.link(peer, usable, fx);
    }

    /// Gives a message to the role that it is for.
    fn dispatch(&mut self, now: Micros, from: NodeId, message: PeerMessage) {
        let PeerMessage { op, body } = message;
        let fx = &mut self.effects;
        let own = from == fx.me();
        if !own && !self.identity.is_foreign(from) {
            self.gossip.heard(now, from, fx);
        }
        match body {
            Body::Introduce { .. } | Body::Known { .. } => {
                self.identity.hear(now, from, op, body, fx);
                if self.identity.is_foreign(from) {
                    self.link(now, from, false);
                }
            }
            _ if self.identity.is_foreign(from) => {}
            Body::Coordinate { request, timeout_ms } => {
                self.request(now, Origin::Peer { node: from, op }, request, timeout_ms);
            }
            Body::Held if op & handoff::TAG != 0 => self.handoff.answer(now, op, from, None, fx),
            Body::Failed(why) if op & handoff::TAG != 0 => {
                self.handoff.answer(now, op, from, Some(why), fx);
            }
            Body::Copy { object, generation, .. } if op & handoff::TAG != 0 => {
                self.handoff.fetched(op, from, (&object, generation), fx);
            }
            Body::Held | Body::Failed(_) | Body::Copy { .. } if op & repair::TAG != 0 => {
                self.repair.hear(now, from, op, body, fx);
            }
            Body::Held | Body::Failed(_) if op & collection::TAG != 0 && own => {
                self.collection.done(now, op, &body, fx);
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
            | Body::Failed(_) => self.coordinator.answer(now, op, from, body, fx),
            Body::AskHints => self.handoff.tell(from, op, fx),
            Body::Hints(count) => self.returning.hear(now, from, op, count, fx),
            Body::Gossip(word) => self.gossip.hear(now, from, op, word, fx),
            // Only this node itself knows that a hint has arrived.
            Body::Discharge { .. }
            | Body::Restore { .. }
            | Body::Bury(_)
            | Body::Collect { .. }
            | Body::Renounce { .. }
                if !own =>
            {
                fx.count("discharges_of_others_ignored");
            }
            Body::Update { .. }
            | Body::Merge { .. }
            | Body::Keep { .. }
            | Body::Discharge { .. }
            | Body::Restore { .. }
            | Body::Bury(_)
            | Body::Collect { .. }
            | Body::Renounce { .. }
            | Body::Read { .. }
            | Body::List { .. } => self.replica.ask(from, op, body, fx),
        }
    }

    /// Gives a request to the coordinator, once the node may mint and answer.
    fn request(&mut self, now: Micros, origin: Origin, request: Request, timeout_ms: u32) {
        let fx = &mut self.effects;
        if !self.coordinator.is_first(origin) {
            return;
        }
        let (until, gap) = self.stale;
        let stale = now < until && request.is_write();
        let paused = || Refusal::Paused((gap / MILLI).min(u32::MAX.into()) as u32);
        match self.identity.refusal(fx).or_else(|| stale.then(paused)) {
            Some(refusal) => self.coordinator.refuse(origin, refusal, fx),
            None => self.coordinator.request(now, origin, request, timeout_ms, fx),
        }
    }

    /// When the node wants an [`Input::Tick`] if nothing else happens before.
    pub fn next_wake(&self) -> Option<Micros> {
        let wakes = [
            self.coordinator.next_wake(),
            self.identity.next_wake(),
            self.gossip.next_wake(),
            self.returning.next_wake(),
            self.handoff.next_wake(),
            self.repair.next_wake(),
            self.last_input.map(|last| last + PULSE),
        ];
        wakes.into_iter().flatten().min()
    }

    /// True when nothing that a client waits for is under way and every write is synced.
    pub fn is_idle(&self) -> bool {
        self.coordinator.is_idle() && self.effects.is_synced()
    }

    /// What this node makes of another member.
    pub fn peer_view(&self, now: Micros, peer: NodeId) -> PeerView {
        let (opinion, phi) = self.gossip.opinion(now, peer);
        let (hints, since) = self.effects.hints().of(peer).unwrap_or((HintTotal::default(), now));
        let (latency, hint_age) = (self.coordinator.latency(peer), now.saturating_sub(since));
        PeerView { opinion, phi, latency, hints, hint_age }
    }

    /// The members that cannot be used now: unreachable, silent or believed to be down.
    pub fn avoided(&self, now: Micros) -> Vec<NodeId> {
        let others = self.members().ids().into_iter().filter(|id| *id != self.effects.me());
        others.filter(|peer| self.coordinator.avoids(now, *peer)).collect()
    }

    /// Every partition of this node with each other home of it: when they were last known to hold the same.
    pub fn pairs(&self, now: Micros) -> Vec<PairView> {
        self.repair.view(now)
    }

    /// Keys here whose clock tells of events that have no value any more.
    pub fn dead_keys(&self) -> u64 {
        self.effects.dead_keys()
    }

    /// Partitions whose tombstones this node, their first home, cannot have collected, and why.
    pub fn collection_held_back(&self) -> &BTreeMap<Partition, String> {
        self.collection.holding()
    }

    /// Own records that are known to be damaged, and wait to be fetched again.
    pub fn damaged(&self) -> usize {
        self.repair.damaged()
    }

    /// Own partitions that have not been read to their end since the start, and are not compared before.
    pub fn unread(&self) -> usize {
        self.effects.unread()
    }

    /// True while others may still keep something for this node: what it does not find does not count.
    pub fn is_awaiting(&self) -> bool {
        self.effects.is_awaiting()
    }

    /// The members as this node knows them now.
    pub fn members(&self) -> &Members {
        self.effects.members()
    }

    /// What the store is to know at a clean stop (`store::end_life`).
    pub fn meta(&self) -> &Meta {
        self.effects.meta()
    }

    /// True once the node serves.
    pub fn is_settled(&self) -> bool {
        self.effects.is_settled()
    }

    /// Counts since the start, by name, sorted.
    pub fn counters(&self) -> Vec<(String, u64)> {
        self.effects.counters()
    }
}
