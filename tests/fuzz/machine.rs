//! A node on a store in memory that is reported whatever some bytes say: by its peers, which it
//! trusts, and by clients.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use pixii_core::members::{Incarnation, Member, Members};
use pixii_core::message::{Body, Call, CallBody, PeerMessage, RequestId};
use pixii_core::node::{Config, Done, Input, Node, Output, Work};
use pixii_core::ring::Ring;
use pixii_core::store::memory::MemoryStore;
use pixii_core::store::{Meta, Store, StoreIdentity};
use pixii_core::types::{MILLI, Micros, NodeId, Time};
use pixii_core::wire;

/// Operations of the node that may be answered.
const MAX_OPEN: usize = 64;
const NONCE: u64 = 5;

/// The node, and what it waits for.
struct Machine {
    node: Node,
    store: MemoryStore,
    peers: Vec<NodeId>,
    now: Time,
    calls: u64,
    open: VecDeque<RequestId>,
}

/// Runs a node through the steps that the bytes tell. A step is `what: u8`, and for a message also
/// its length (two bytes, big-endian) and its bytes. The lowest two bits of `what` say whether it
/// is a peer's message, a peer's answer to an operation of the node, a client's call, or time that
/// passes; the others, which.
pub fn machine(bytes: &[u8]) {
    let mut machine = Machine::new();
    let mut rest = Bytes::copy_from_slice(bytes);
    while let Some((what, after)) = rest.split_first() {
        let (what, way) = (what % 4, usize::from(what / 4));
        let after = rest.slice_ref(after);
        if what == 3 {
            machine.pass(way as u64 * 17 * MILLI);
            rest = after;
            continue;
        }
        let Some(length) = after.first_chunk().map(|length| u16::from_be_bytes(*length)) else {
            return;
        };
        let end = (2 + usize::from(length)).min(after.len());
        machine.hear(what, way, &after.slice(2..end));
        rest = after.slice(end..);
    }
}

impl Machine {
    /// A node of a cluster of four that serves.
    fn new() -> Self {
        let ids: Vec<NodeId> = (0..4).map(|at| NodeId::of(&format!("n{at}"))).collect();
        let ring = Arc::new(Ring::new(&ids, 3, 16).unwrap());
        let owner = StoreIdentity { cluster: "c".into(), name: "n0".into(), ring: ring.digest() };
        let members = (0..4).map(|at| Member::configured(format!("n{at}"), "host:1"));
        let config = Config {
            hint_limit_bytes: 1 << 20,
            boot_nonce: NONCE,
            ..Config::new(ids[0], ring, Members::new(members.collect()))
        };
        let node =
            Node::new(config, Meta { incarnation: Incarnation(1), ..Meta::new(owner, 1) }, 1);
        let (store, peers) = (MemoryStore::default(), ids[1..].to_vec());
        let (calls, open) = (0, VecDeque::new());
        let mut machine =
            Machine { node, store, peers: peers.clone(), now: Time::START, calls, open };
        for (peer, birth) in peers.into_iter().zip(2..) {
            machine.give(Input::Link { peer, up: true });
            let request_id = RequestId::of_wire(NONCE ^ machine.node.ring_id().digest);
            for body in [Body::Known { seen: None, birth, cluster: None }, Body::Hints(0)] {
                let message = PeerMessage { ring: machine.node.ring_id(), request_id, body };
                machine.give(Input::Peer { from: peer, message });
            }
        }
        assert!(machine.node.is_settled());
        machine
    }

    fn hear(&mut self, what: u8, way: usize, bytes: &Bytes) {
        self.now += MILLI;
        let from = self.peers[way % self.peers.len()];
        match (what, wire::decode::<PeerMessage>(bytes), wire::decode::<Call>(bytes)) {
            (0, Ok(message), _) => self.give(Input::Peer { from, message }),
            (1, Ok(mut message), _) => {
                if !self.open.is_empty() {
                    message.request_id = self.open[way % self.open.len()];
                }
                message.ring = self.node.ring_id();
                self.give(Input::Peer { from, message });
            }
            (_, _, Ok(Call { body, .. })) => self.call(body),
            _ => {}
        }
    }

    fn call(&mut self, body: CallBody) {
        if let CallBody::Data { request, timeout_ms } = body {
            self.calls += 1;
            self.give(Input::Client { client: 1, id: self.calls, request, timeout_ms });
        }
    }

    fn pass(&mut self, time: Micros) {
        self.now += time;
        self.give(Input::Tick);
    }

    fn give(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let mut out = Vec::new();
            self.node.handle(self.now, input, &mut out);
            for output in out {
                match output {
                    Output::Store(work) => inputs.push_back(Input::Store(self.work(work))),
                    Output::Send { message, .. } => {
                        self.open.push_back(message.request_id);
                        if self.open.len() > MAX_OPEN {
                            self.open.pop_front();
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    fn work(&self, work: Work) -> Done {
        match work {
            Work::Read { token, partition, key, hints_for } => {
                let hint = |target| (target, self.store.read_hint(target, &key).unwrap());
                let hints = hints_for.into_iter().map(hint).collect();
                Done::Read { token, found: self.store.read(partition, &key).unwrap(), hints }
            }
            Work::Hints { token, target, after, limit_bytes } => {
                let page = self.store.list_hints(target, after.as_ref(), limit_bytes).unwrap();
                Done::Hints { token, page }
            }
            Work::Scan { token, partition, span } => {
                Done::Scan { token, page: self.store.scan(partition, &span).unwrap() }
            }
            Work::List { token, partition, after, limit_bytes } => {
                let listing = self.store.list(partition, after.as_ref(), limit_bytes).unwrap();
                Done::List { token, listing }
            }
            Work::Write { seq, changes } => {
                self.store.apply(&changes).unwrap();
                self.store.sync().unwrap();
                Done::Synced { seq }
            }
        }
    }
}
