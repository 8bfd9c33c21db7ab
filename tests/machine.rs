//! The machine by itself: inputs in, the exact list of outputs out.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use bytes::Bytes;
use pixii::causal::Object;
use pixii::message::{Body, PeerMessage, Refusal, Request, Response};
use pixii::node::{Config, Done, Input, Node, Output, Work};
use pixii::ring::Ring;
use pixii::store::{Change, Found, Meta, Owner, Record};
use pixii::types::{Blob, Key, MAX_SIBLINGS, MAX_VALUE_BYTES, MILLI, NodeId, SizeError, WriteId};

/// A node of a cluster of four with N=3, and what it wants done.
struct Bench {
    node: Node,
    ring: Arc<Ring>,
    me: NodeId,
    now: u64,
}

impl Bench {
    fn new() -> Self {
        let ids: Vec<NodeId> = (0..4).map(|at| NodeId::of(&format!("n{at}"))).collect();
        let ring = Arc::new(Ring::new(&ids, 3, 16).unwrap());
        let me = ids[0];
        let owner = Owner { cluster: "c".into(), name: "n0".into(), ring: ring.digest() };
        let meta = Meta { incarnation: 1, clean: false, ..Meta::new(owner, 1) };
        let config = Config {
            me,
            ring: ring.clone(),
            r: 2,
            w: 2,
            boot_nonce: 5,
            bootstrap: false,
            serial_block: 100,
        };
        let mut bench = Bench { node: Node::new(config, meta, 1), ring, me, now: 0 };
        for (peer, birth) in ids[1..].iter().zip(2..) {
            let refused = bench.ask(Request::Get { key: bench.key(true), r: None });
            assert!(matches!(refusal(&refused), Refusal::Starting { peers: 3, .. }));
            let out = bench.give(Input::Link { peer: *peer, up: true });
            let [Output::Send { message, .. }] = &out[..] else { panic!("{out:?}") };
            let Body::Introduce { life, cluster: None } = message.body else { panic!() };
            assert_eq!((life.incarnation, life.nonce, message.op), (1, 5, 5));
            let answer = Body::Known { seen: None, birth, cluster: None };
            let out = bench.peer(*peer, 5, answer);
            bench.disk(out, &Record::default());
        }
        assert!(bench.node.is_settled());
        assert_eq!(bench.node.meta().cluster.as_ref().unwrap().founders.len(), 4);
        bench
    }

    fn give(&mut self, input: Input) -> Vec<Output> {
        let mut out = Vec::new();
        self.node.handle(self.now, input, &mut out);
        out
    }

    fn ask(&mut self, request: Request) -> Vec<Output> {
        self.give(Input::Client { client: 7, id: 9, request, timeout_ms: 500 })
    }

    fn peer(&mut self, from: NodeId, op: u64, body: Body) -> Vec<Output> {
        self.give(Input::Peer { from, message: PeerMessage { op, body } })
    }

    fn tick(&mut self, ms: u64) -> Vec<Output> {
        self.now += ms * MILLI;
        self.give(Input::Tick)
    }

    /// Does everything that the node asks its store for; the disk holds `record`.
    fn disk(&mut self, out: Vec<Output>, record: &Record) -> Vec<Output> {
        let mut rest = Vec::new();
        let mut todo = out;
        while !todo.is_empty() {
            let mut next = Vec::new();
            for output in todo {
                match output {
                    Output::Store(Work::Read { token, .. }) => {
                        let found = Found::Record(record.clone());
                        next.extend(self.give(Input::Store(Done::Read { token, found })));
                    }
                    Output::Store(Work::Write { mark, .. }) => {
                        next.extend(self.give(Input::Store(Done::Synced { mark })));
                    }
                    other => rest.push(other),
                }
            }
            todo = next;
        }
        rest
    }

    /// A key whose homes include this node, or do not.
    fn key(&self, held: bool) -> Key {
        let mut keys = (0..100).map(|at| Key::new(format!("k{at}").into_bytes()).unwrap());
        keys.find(|key| self.homes(key).contains(&self.me) == held).unwrap()
    }

    fn homes(&self, key: &Key) -> Vec<NodeId> {
        self.ring.homes(self.ring.partition(key)).to_vec()
    }

    fn others(&self, key: &Key) -> Vec<NodeId> {
        self.homes(key).into_iter().filter(|home| *home != self.me).collect()
    }
}

fn put(key: &Key, write: u128) -> Request {
    let value = Blob(Bytes::from_static(b"v"));
    Request::Put { key: key.clone(), value, context: None, write: WriteId(write), w: None }
}

fn refusal(out: &[Output]) -> &Refusal {
    match out {
        [Output::Reply { client: 7, id: 9, response: Response::Refused(refusal) }] => refusal,
        other => panic!("not one refusal: {other:?}"),
    }
}

#[test]
fn a_put_sends_before_its_sync_and_acknowledges_after_it() {
    let mut bench = Bench::new();
    let key = bench.key(true);
    let out = bench.ask(put(&key, 1));
    let [Output::Store(Work::Read { token, .. })] = out[..] else { panic!("{out:?}") };
    // The first put waits for the first block of serials to be synced.
    let out = bench.give(Input::Store(Done::Read { token, found: Found::Nothing }));
    let [Output::Store(Work::Write { mark, changes })] = &out[..] else { panic!("{out:?}") };
    assert!(matches!(&changes[..], [Change::Meta(meta)] if meta.serial_end == 101));
    let out = bench.give(Input::Store(Done::Synced { mark: *mark }));
    let [Output::Store(Work::Write { mark, changes }), Output::Send { to, message }] = &out[..]
    else {
        panic!("{out:?}")
    };
    let [Change::Record { record, .. }] = &changes[..] else { panic!("{changes:?}") };
    assert_eq!(record.own_serial, Some(1));
    assert_eq!(*to, bench.others(&key));
    assert!(matches!(&message.body, Body::Merge { object, .. } if *object == record.object));
    let op = message.op;
    // One peer holds it; the own replica does not count before its sync.
    assert!(bench.peer(to[0], op, Body::Held).is_empty());
    assert!(bench.peer(to[0], op, Body::Held).is_empty(), "a replica counts once");
    let out = bench.give(Input::Store(Done::Synced { mark: *mark }));
    let [Output::Reply { client: 7, id: 9, response: Response::Written { dot, siblings, .. } }] =
        &out[..]
    else {
        panic!("{out:?}")
    };
    assert_eq!((dot.unwrap().counter, *siblings), (1, 1));
    assert!(bench.node.is_idle());
}

#[test]
fn a_request_is_forwarded_once_to_a_home() {
    let mut bench = Bench::new();
    let key = bench.key(false);
    let out = bench.ask(put(&key, 1));
    let [Output::Send { to, message }] = &out[..] else { panic!("{out:?}") };
    assert_eq!(*to, bench.homes(&key)[..1]);
    let Body::Coordinate { request, timeout_ms: 450 } = &message.body else {
        panic!("{message:?}")
    };
    assert_eq!(*request, put(&key, 1));
    let response = Response::Unknown { acknowledged: 1, needed: 2, timeout_ms: 450 };
    let out = bench.peer(to[0], message.op, Body::Coordinated(response.clone()));
    assert!(matches!(&out[..], [Output::Reply { response: r, .. }] if *r == response));
    // What was forwarded here goes no further.
    let request = put(&key, 2);
    let out = bench.peer(to[0], 5, Body::Coordinate { request, timeout_ms: 100 });
    let [Output::Send { message, .. }] = &out[..] else { panic!("{out:?}") };
    assert_eq!(message.body, Body::Coordinated(Response::Refused(Refusal::NotHome)));
}

#[test]
fn an_unreachable_quorum_is_refused_before_anything_is_done() {
    let mut bench = Bench::new();
    let key = bench.key(true);
    for peer in bench.others(&key) {
        bench.give(Input::Link { peer, up: false });
    }
    let out = bench.ask(put(&key, 1));
    assert_eq!(*refusal(&out), Refusal::Unreachable { reachable: 1, needed: 2 });
    let out = bench.ask(Request::Get { key, r: Some(2) });
    assert_eq!(*refusal(&out), Refusal::Unreachable { reachable: 1, needed: 2 });
}

#[test]
fn a_write_whose_replicas_fall_silent_is_unknown_at_its_deadline() {
    let mut bench = Bench::new();
    let key = bench.key(true);
    let out = bench.ask(put(&key, 1));
    bench.disk(out, &Record::default());
    assert!(bench.tick(499).is_empty());
    let out = bench.tick(1);
    let unknown = Response::Unknown { acknowledged: 1, needed: 2, timeout_ms: 500 };
    assert!(
        matches!(&out[..], [Output::Reply { response, .. }] if *response == unknown),
        "{out:?}"
    );
}

#[test]
fn a_read_asks_as_many_as_it_needs_and_one_more_when_late() {
    let mut bench = Bench::new();
    let key = bench.key(true);
    let out = bench.ask(Request::Get { key: key.clone(), r: None });
    let [Output::Send { to, message }, Output::Store(Work::Read { .. })] = &out[..] else {
        panic!("{out:?}")
    };
    assert_eq!((to.len(), message.body.clone()), (1, Body::Read { key: key.clone() }));
    let (first, op) = (to[0], message.op);
    let out = bench.disk(out, &Record::default());
    assert!(matches!(out[..], [Output::Send { .. }]), "no reply: one of two has answered");
    let out = bench.tick(25);
    let [Output::Send { to, .. }] = &out[..] else { panic!("{out:?}") };
    assert_ne!(to[0], first);
    let out = bench.peer(to[0], op, Body::Copy { object: Object::default(), authoritative: true });
    let [Output::Reply { response: Response::Found { values, answered: 2, .. }, .. }] = &out[..]
    else {
        panic!("{out:?}")
    };
    assert!(values.is_empty());
}

#[test]
fn a_silent_replica_costs_one_hedge_and_is_not_asked_again_at_once() {
    let mut bench = Bench::new();
    let key = bench.key(true);
    let asked = |out: &[Output]| match out {
        [Output::Send { to, message }, ..] => (to[0], message.op),
        _ => panic!("{out:?}"),
    };
    let get = || Request::Get { key: key.clone(), r: None };
    let copy = || Body::Copy { object: Object::default(), authoritative: true };
    let out = bench.ask(get());
    let (frozen, op) = asked(&out);
    bench.disk(out, &Record::default());
    let (live, _) = asked(&bench.tick(25));
    let out = bench.peer(live, op, copy());
    assert!(matches!(out[..], [Output::Reply { .. }]), "{out:?}");
    let out = bench.ask(get());
    let (second, op) = asked(&out);
    assert_eq!(second, live, "the one that left a question open comes last");
    bench.disk(out, &Record::default());
    bench.peer(live, op, copy());
    bench.tick(1_000);
    let (third, _) = asked(&bench.ask(get()));
    assert_eq!(third, frozen, "it may be back");
}

#[test]
fn a_replica_seen_to_be_behind_is_repaired_after_the_answer() {
    let mut bench = Bench::new();
    let key = bench.key(true);
    let out = bench.ask(put(&key, 1));
    let out = bench.disk(out, &Record::default());
    let [Output::Send { message, .. }] = &out[..] else { panic!("{out:?}") };
    let Body::Merge { object, .. } = message.body.clone() else { panic!("{message:?}") };
    let record = Record { own_serial: Some(1), object: object.clone() };
    // All three are asked: one is late, and its copy comes after the answer.
    let out = bench.ask(Request::Get { key: key.clone(), r: None });
    let [Output::Send { to, message }, ..] = &out[..] else { panic!("{out:?}") };
    let (late, op) = (to[0], message.op);
    bench.disk(out, &record);
    let out = bench.tick(25);
    let [Output::Send { to, .. }] = &out[..] else { panic!("{out:?}") };
    let behind = to[0];
    let empty = || Body::Copy { object: Object::default(), authoritative: true };
    let out = bench.peer(behind, op, empty());
    let [Output::Reply { response: Response::Found { values, .. }, .. }] = &out[..] else {
        panic!("{out:?}")
    };
    assert_eq!(values.len(), 1);
    let out = bench.peer(late, op, empty());
    let [Output::Send { to, message }] = &out[..] else { panic!("{out:?}") };
    assert_eq!(*to, [behind, late]);
    assert_eq!(message.body, Body::Merge { key, object });
}

#[test]
fn siblings_are_limited_where_a_write_is_accepted_and_a_retry_is_one_event() {
    let mut bench = Bench::new();
    let key = bench.key(true);
    let mut record = Record::default();
    for write in (0..MAX_SIBLINGS as u128).chain([5]) {
        let out = bench.ask(put(&key, write));
        let out = bench.disk(out, &record);
        let [Output::Send { to, message }] = &out[..] else { panic!("{out:?}") };
        let Body::Merge { object, .. } = &message.body else { panic!("{message:?}") };
        let out = bench.peer(to[0], message.op, Body::Held);
        let [Output::Reply { response: Response::Written { dot, .. }, .. }] = &out[..] else {
            panic!("{out:?}")
        };
        assert_eq!(u128::from(dot.unwrap().counter), write + 1);
        record = Record { own_serial: Some(1), object: object.clone() };
    }
    assert_eq!(record.object.len(), MAX_SIBLINGS, "the repeated write minted nothing");
    let out = bench.ask(put(&key, 999));
    let out = bench.disk(out, &record);
    assert_eq!(*refusal(&out), Refusal::Siblings(MAX_SIBLINGS as u32));
}

#[test]
fn bad_requests_are_refused_by_name() {
    let mut bench = Bench::new();
    let key = bench.key(true);
    let get = |r| Request::Get { key: key.clone(), r: Some(r) };
    for given in [0, 4] {
        let out = bench.ask(get(given));
        assert_eq!(*refusal(&out), Refusal::Quorum { name: "r".into(), given, n: 3 });
    }
    let delete = |context| Request::Delete { key: key.clone(), context, w: None };
    assert_eq!(*refusal(&bench.ask(delete(None))), Refusal::NoContext);
    let noise = Some(Blob(Bytes::from_static(b"0123456789")));
    assert_eq!(*refusal(&bench.ask(delete(noise))), Refusal::BadContext);
    let Request::Put { key, context, write, w, .. } = put(&key, 1) else { panic!() };
    let value = Blob(vec![0; MAX_VALUE_BYTES + 1].into());
    let out = bench.ask(Request::Put { key: key.clone(), value, context, write, w });
    assert_eq!(*refusal(&out), Refusal::Size(SizeError::Value(MAX_VALUE_BYTES as u64 + 1)));
    for timeout_ms in [0, 600_001] {
        let request = Request::Get { key: key.clone(), r: None };
        let out = bench.give(Input::Client { client: 7, id: 9, request, timeout_ms });
        assert_eq!(*refusal(&out), Refusal::Timeout(timeout_ms));
    }
}
