//! The machine: a node as a state machine without sockets, disk, clock or threads. A driver gives it
//! inputs and the time, and carries out its outputs.

use std::sync::Arc;

use crate::message::{PeerMessage, Request, Response};
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
}

/// A node.
#[derive(Debug)]
pub struct Node {
    meta: Meta,
}

impl Node {
    /// A node at the start of a life of its store (`store::begin_life`).
    pub fn new(config: Config, meta: Meta, seed: u64, now: Micros) -> Self {
        let _ = (config, seed, now);
        Node { meta }
    }

    /// Takes one input at the time `now` and appends what is to be done to `out`.
    pub fn handle(&mut self, now: Micros, input: Input, out: &mut Vec<Output>) {
        let _ = (now, input, out);
    }

    /// When the node wants an [`Input::Tick`] if nothing else happens before.
    pub fn next_wake(&self) -> Option<Micros> {
        None
    }

    /// True when nothing that a client waits for is under way.
    pub fn is_idle(&self) -> bool {
        true
    }

    /// What the store is to know at a clean stop (`store::end_life`).
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Counts since the start, by name.
    pub fn counters(&self) -> Vec<(String, u64)> {
        Vec::new()
    }
}
