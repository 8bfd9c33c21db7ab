//! The machine: a node as a state machine without sockets, disk, clock or threads. A driver gives it
//! inputs and the time, and carries out its outputs.

mod coordinator;
mod effects;
mod identity;
mod replica;

use std::sync::Arc;

use coordinator::{Coordinator, Origin};
use effects::Effects;
use identity::Identity;
use replica::Replica;

use crate::message::{Body, PeerMessage, Request, Response};
use crate::ring::Ring;
use crate::store::{Change, Found, Listing, Meta};
use crate::types::{Key, Micros, NodeId, Partition};

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
}

/// A node: its roles, and what they want done. No role sees another's state.
#[derive(Debug)]
pub struct Node {
    coordinator: Coordinator,
    replica: Replica,
    identity: Identity,
    effects: Effects,
}

impl Node {
    /// A node at the start of a life of its store (`store::begin_life`).
    pub fn new(config: Config, meta: Meta, seed: u64) -> Self {
        Node {
            replica: Replica::new(config.ring.clone(), &meta, config.serial_block),
            identity: Identity::new(&config, &meta),
            effects: Effects::new(config.me, meta),
            coordinator: Coordinator::new(config, seed),
        }
    }

    /// Takes one input at the time `now` and appends what is to be done to `out`.
    pub fn handle(&mut self, now: Micros, input: Input, out: &mut Vec<Output>) {
        let fx = &mut self.effects;
        match input {
            Input::Tick => {
                self.identity.tick(now, fx);
                self.coordinator.tick(now, fx);
            }
            Input::Link { peer, up } => {
                self.identity.link(now, peer, up, fx);
                let usable = up && !self.identity.is_foreign(peer);
                self.coordinator.link(now, peer, usable, fx);
            }
            Input::Peer { from, message } => self.dispatch(now, from, message),
            Input::Client { client, id, request, timeout_ms } => {
                self.request(now, Origin::Client { client, id }, request, timeout_ms);
            }
            Input::Space(shortage) => self.replica.space(shortage),
            Input::Store(Done::Read { token, found }) => self.replica.read_done(token, found, fx),
            Input::Store(Done::List { token, listing }) => {
                self.replica.list_done(token, listing, fx);
            }
            Input::Store(Done::Synced { mark }) => {
                fx.release(mark);
                self.replica.synced(mark, fx);
                self.identity.synced(fx);
            }
        }
        while let Some(message) = self.effects.next_local() {
            self.dispatch(now, self.effects.me(), message);
        }
        self.effects.drain_into(out);
    }

    /// Gives a message to the role that it is for.
    fn dispatch(&mut self, now: Micros, from: NodeId, message: PeerMessage) {
        let PeerMessage { op, body } = message;
        let fx = &mut self.effects;
        match body {
            Body::Introduce { .. } | Body::Known { .. } => {
                self.identity.hear(now, from, op, body, fx);
                if self.identity.is_foreign(from) {
                    self.coordinator.link(now, from, false, fx);
                }
            }
            _ if self.identity.is_foreign(from) => {}
            Body::Coordinate { request, timeout_ms } => {
                self.request(now, Origin::Peer { node: from, op }, request, timeout_ms);
            }
            Body::Coordinated(_)
            | Body::Updated { .. }
            | Body::Held
            | Body::Copy { .. }
            | Body::Listed { .. }
            | Body::Failed(_) => self.coordinator.answer(now, op, from, body, fx),
            Body::Update { .. } | Body::Merge { .. } | Body::Read { .. } | Body::List { .. } => {
                self.replica.ask(from, op, body, fx);
            }
        }
    }

    /// Gives a request to the coordinator, once the node may mint and answer.
    fn request(&mut self, now: Micros, origin: Origin, request: Request, timeout_ms: u32) {
        let fx = &mut self.effects;
        if !self.coordinator.is_first(origin) {
            return;
        }
        match self.identity.refusal(fx) {
            Some(refusal) => self.coordinator.refuse(origin, refusal, fx),
            None => self.coordinator.request(now, origin, request, timeout_ms, fx),
        }
    }

    /// When the node wants an [`Input::Tick`] if nothing else happens before.
    pub fn next_wake(&self) -> Option<Micros> {
        let wakes = [self.coordinator.next_wake(), self.identity.next_wake()];
        wakes.into_iter().flatten().min()
    }

    /// True when nothing that a client waits for is under way and every write is synced.
    pub fn is_idle(&self) -> bool {
        self.coordinator.is_idle() && self.effects.is_synced()
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
