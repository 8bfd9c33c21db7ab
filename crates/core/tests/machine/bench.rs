//! A machine by itself: what it is given, and what it wants done.

use std::sync::Arc;

use bytes::Bytes;
use pixii_core::causal::{Actor, ActorEpoch, Context, Object, Version};
use pixii_core::members::{Incarnation, Liveness, Member, Members};
use pixii_core::message::{Body, PeerMessage, Rejection, Request, RequestId, Response};
use pixii_core::node::{Config, Done, Input, Node, Notice, Output, Work};
use pixii_core::ring::{Ring, RingId};
use pixii_core::store::memory::MemoryStore;
use pixii_core::store::{Change, Found, Kept, Meta, Record, Store, StoreIdentity};
use pixii_core::types::{Blob, Key, MILLI, NodeId, Partition, Time, WriteId};

/// A node of a cluster of four with N=3, and what it wants done.
pub(crate) struct Bench {
    pub(crate) node: Node,
    pub(crate) ring: Arc<Ring>,
    pub(crate) me: NodeId,
    pub(crate) now: Time,
}

impl Bench {
    /// A node at its start, in this `incarnation`.
    pub(crate) fn at_start(incarnation: u64) -> Self {
        Bench::keeping(incarnation, Kept::default())
    }

    /// The same, with these hints on its disk.
    pub(crate) fn keeping(incarnation: u64, hints: Kept) -> Self {
        Bench::configured(incarnation, |config| Config { hints, ..config })
    }

    /// A node at its start that is configured like this.
    pub(crate) fn configured(incarnation: u64, configure: impl FnOnce(Config) -> Config) -> Self {
        Bench::with_meta(incarnation, configure, |meta| meta)
    }

    /// The same, with this metadata on its disk.
    pub(crate) fn with_meta(
        incarnation: u64,
        configure: impl FnOnce(Config) -> Config,
        of_disk: impl FnOnce(Meta) -> Meta,
    ) -> Self {
        let ids: Vec<NodeId> = (0..4).map(|at| NodeId::of(&format!("n{at}"))).collect();
        let ring = Arc::new(Ring::new(&ids, 3, 16).unwrap());
        let me = ids[0];
        let owner = StoreIdentity { cluster: "c".into(), name: "n0".into(), ring: ring.digest() };
        let meta =
            Meta { incarnation: Incarnation(incarnation), clean: false, ..Meta::new(owner, 1) };
        let members = (0..4).map(|at| Member::configured(format!("n{at}"), "host:1"));
        let config = Config {
            hint_limit_bytes: 1 << 20,
            hint_age: 3_600_000 * MILLI,
            boot_nonce: 5,
            ..Config::new(me, ring.clone(), Members::new(members.collect()))
        };
        Bench { node: Node::new(configure(config), of_disk(meta), 1), ring, me, now: Time::START }
    }

    /// The other members.
    pub(crate) fn peers(&self) -> Vec<NodeId> {
        (1..4).map(|at| NodeId::of(&format!("n{at}"))).collect()
    }

    /// A node that serves.
    pub(crate) fn new() -> Self {
        Bench::serving(Bench::at_start(1))
    }

    /// The same, once all others have answered.
    pub(crate) fn serving(mut bench: Bench) -> Self {
        for (peer, birth) in bench.peers().iter().zip(2..) {
            let refused = bench.query(Request::Get { key: bench.key(true), r: None.into() });
            assert!(matches!(rejection(&refused), Rejection::Starting { peers: 3, .. }));
            let out = bench.give(Input::Link { peer: *peer, up: true });
            let [Output::Send { message, .. }] = &out[..] else { panic!("{out:?}") };
            let Body::Introduce { incarnation, cluster: None, .. } = message.body else { panic!() };
            assert_eq!(
                (incarnation.incarnation, incarnation.nonce, message.request_id.wire()),
                (Incarnation(1), 5, bench.introduction())
            );
            let answer = Body::Known { seen: None, birth, cluster: None };
            let out = bench.peer(*peer, bench.introduction(), answer);
            bench.disk(out, &Record::default());
            assert!(bench.peer(*peer, 5, Body::Hints(0)).is_empty());
        }
        assert!(bench.node.is_settled());
        assert_eq!(bench.node.meta().cluster.as_ref().unwrap().founders.len(), 4);
        bench
    }

    pub(crate) fn give(&mut self, input: Input) -> Vec<Output> {
        let mut out = Vec::new();
        self.node.handle(self.now, input, &mut out);
        // Gossip, questions about hints and comparisons go on beside everything else.
        out.retain(|output| match output {
            Output::Send { message, .. } => {
                let body = &message.body;
                let gossip = matches!(body, Body::Gossip(_) | Body::QueryHints | Body::Hints(_));
                !gossip && !matches!(body, Body::Compare { .. } | Body::GcEpochs { .. })
            }
            Output::Store(Work::Scan { .. }) | Output::Members(_) => false,
            Output::Store(Work::Write { changes, .. }) => {
                !matches!(changes[..], [Change::Members(_)])
            }
            Output::Notice(notice) => !matches!(notice, Notice::LivenessChanged(..)),
            _ => true,
        });
        out
    }

    pub(crate) fn query(&mut self, request: Request) -> Vec<Output> {
        self.give(Input::Client { client: 7, id: 9, request, timeout_ms: 500 })
    }

    /// A peer sends a message under the ring that is in force here.
    pub(crate) fn peer(&mut self, from: NodeId, request_id: u64, body: Body) -> Vec<Output> {
        self.peer_under(self.node.ring_id(), from, request_id, body)
    }

    /// A peer sends a message under this ring.
    pub(crate) fn peer_under(
        &mut self,
        ring: RingId,
        from: NodeId,
        request_id: u64,
        body: Body,
    ) -> Vec<Output> {
        let request_id = RequestId::of_wire(request_id);
        self.give(Input::Peer { from, message: PeerMessage { ring, request_id, body } })
    }

    /// The request id of this node's introductions under the ring in force.
    pub(crate) fn introduction(&self) -> u64 {
        5 ^ self.node.ring_id().digest
    }

    /// Lets time pass, in steps that are no pauses.
    pub(crate) fn tick(&mut self, ms: u64) -> Vec<Output> {
        let end = self.now + ms * MILLI;
        let mut out = Vec::new();
        while self.now < end {
            self.now = (self.now + 100 * MILLI).min(end);
            out.extend(self.give(Input::Tick));
        }
        out
    }

    /// Lets time pass, and gives each change of a member's liveness that is reported.
    pub(crate) fn tick_for_liveness(&mut self, ms: u64, mut see: impl FnMut(NodeId, Liveness)) {
        let end = self.now + ms * MILLI;
        while self.now < end {
            self.now = (self.now + 100 * MILLI).min(end);
            let mut out = Vec::new();
            self.node.handle(self.now, Input::Tick, &mut out);
            for output in out {
                if let Output::Notice(Notice::LivenessChanged(peer, liveness, _)) = output {
                    see(peer, liveness);
                }
            }
        }
    }

    /// Does everything that the node asks its store for; the disk holds `record`.
    pub(crate) fn disk(&mut self, out: Vec<Output>, record: &Record) -> Vec<Output> {
        let mut rest = Vec::new();
        let mut todo = out;
        while !todo.is_empty() {
            let mut next = Vec::new();
            for output in todo {
                match output {
                    Output::Store(Work::Read { token, .. }) => {
                        let found = Found::Record(record.clone());
                        next.extend(self.give(Input::Store(Done::Read {
                            token,
                            found,
                            hints: Vec::new(),
                        })));
                    }
                    Output::Store(Work::Write { seq, .. }) => {
                        next.extend(self.give(Input::Store(Done::Synced { seq })));
                    }
                    other => rest.push(other),
                }
            }
            todo = next;
        }
        rest
    }

    /// A key whose owners include this node, or do not.
    pub(crate) fn key(&self, held: bool) -> Key {
        let mut keys = (0..100).map(|at| Key::new(format!("k{at}").into_bytes()).unwrap());
        keys.find(|key| self.owners(key).contains(&self.me) == held).unwrap()
    }

    /// Another key of the partition.
    pub(crate) fn keys_of(&self, partition: Partition, other: &Key) -> Key {
        let mut keys = (0..1_000).map(|at| Key::new(format!("o{at}").into_bytes()).unwrap());
        keys.find(|key| self.ring.partition(key) == partition && key != other).unwrap()
    }

    pub(crate) fn owners(&self, key: &Key) -> Vec<NodeId> {
        self.ring.owners(self.ring.partition(key)).to_vec()
    }

    /// Does everything that the node asks its store for, on a store of its own.
    pub(crate) fn carry(&mut self, out: Vec<Output>, disk: &MemoryStore) -> Vec<Output> {
        let mut rest = Vec::new();
        let mut todo = out;
        while !todo.is_empty() {
            let mut next = Vec::new();
            for output in todo {
                let done = match output {
                    Output::Store(Work::Read { token, partition, key, hints_for }) => {
                        let hint = |target| (target, disk.read_hint(target, &key).unwrap());
                        let hints = hints_for.into_iter().map(hint).collect();
                        Done::Read { token, found: disk.read(partition, &key).unwrap(), hints }
                    }
                    Output::Store(Work::Hints { token, target, after, limit_bytes }) => {
                        let page = disk.list_hints(target, after.as_ref(), limit_bytes).unwrap();
                        Done::Hints { token, page }
                    }
                    Output::Store(Work::Write { seq, changes }) => {
                        disk.apply(&changes).unwrap();
                        disk.sync().unwrap();
                        Done::Synced { seq }
                    }
                    other => {
                        rest.push(other);
                        continue;
                    }
                };
                next.extend(self.give(Input::Store(done)));
            }
            todo = next;
        }
        rest
    }

    /// The one node that is no owner of the key.
    pub(crate) fn fallback(&self, key: &Key) -> NodeId {
        let owners = self.owners(key);
        self.ring.members().iter().map(|m| m.id).find(|id| !owners.contains(id)).unwrap()
    }

    pub(crate) fn others(&self, key: &Key) -> Vec<NodeId> {
        self.owners(key).into_iter().filter(|owner| *owner != self.me).collect()
    }
}

pub(crate) fn put(key: &Key, write: u128) -> Request {
    let value = Blob(Bytes::from_static(b"v"));
    Request::Put { key: key.clone(), value, context: None, write: WriteId(write), w: None.into() }
}

pub(crate) fn rejection(out: &[Output]) -> &Rejection {
    match out {
        [Output::Reply { client: 7, id: 9, response: Response::Refused(rejection) }] => rejection,
        other => panic!("not one rejection: {other:?}"),
    }
}

/// What a write of this number made, for a key that had nothing.
pub(crate) fn object(write: u128) -> Object {
    let version = Version { write: WriteId(write), value: Blob(bytes::Bytes::from_static(b"v")) };
    let actor = Actor { store: write as u64, actor_epoch: ActorEpoch(1) };
    Object::default().update(&Context::default(), actor, version).0
}
