//! The machine by itself: inputs in, the exact list of outputs out.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use pixii_core::causal::{ActorEpoch, Object};
use pixii_core::gc_epoch::{GcEpoch, GcState};
use pixii_core::members::{Cluster, Heartbeat, Incarnation, IncarnationId, Liveness, Member};
use pixii_core::message::{Body, Gossip, Quorum, QuorumName, Rejection, Request, Response};
use pixii_core::node::{Done, Input, Notice, Output, Work};
use pixii_core::store::{Change, Found, Record};
use pixii_core::types::{
    Blob, MAX_MEMBERS, MAX_SIBLINGS, MAX_VALUE_BYTES, MILLI, NodeId, SizeError,
};

#[path = "machine/ballot.rs"]
mod ballot;
#[path = "machine/bench.rs"]
mod bench;
#[path = "machine/changes.rs"]
mod changes;
#[path = "machine/decisions.rs"]
mod decisions;
#[path = "machine/experiment.rs"]
mod experiment;
#[path = "machine/gossip.rs"]
mod gossip;
#[path = "machine/hints.rs"]
mod hints;
#[path = "machine/limits.rs"]
mod limits;
#[path = "machine/placement.rs"]
mod placement;
#[path = "machine/release.rs"]
mod release;
#[path = "machine/repair.rs"]
mod repair;
#[path = "machine/repeats.rs"]
mod repeats;
#[path = "machine/stalls.rs"]
mod stalls;
#[path = "machine/streaming.rs"]
mod streaming;
#[path = "machine/tombstone_gc.rs"]
mod tombstone_gc;
#[path = "machine/trips.rs"]
mod trips;

use bench::{Bench, object, put, rejection};

#[test]
fn a_put_sends_before_its_sync_and_acknowledges_after_it() {
    let mut bench = Bench::new();
    let key = bench.key(true);
    let out = bench.query(put(&key, 1));
    let [Output::Store(Work::Read { token, .. })] = out[..] else { panic!("{out:?}") };
    let out =
        bench.give(Input::Store(Done::Read { token, found: Found::Nothing, hints: Vec::new() }));
    let [Output::Store(Work::Write { seq, changes }), Output::Send { to, message }] = &out[..]
    else {
        panic!("{out:?}")
    };
    let [Change::Record { record, .. }] = &changes[..] else { panic!("{changes:?}") };
    assert_eq!(record.own_epoch, Some(ActorEpoch(1)));
    assert_eq!(to[..], bench.others(&key));
    assert!(matches!(&message.body, Body::Merge { object, .. } if *object == record.object));
    let request_id = message.request_id.wire();
    // One peer holds it; the own replica does not count before its sync.
    assert!(bench.peer(to[0], request_id, Body::Ack).is_empty());
    assert!(bench.peer(to[0], request_id, Body::Ack).is_empty(), "a replica counts once");
    let out = bench.give(Input::Store(Done::Synced { seq: *seq }));
    let [Output::Reply { client: 7, id: 9, response: Response::Written { dot, siblings, .. } }] =
        &out[..]
    else {
        panic!("{out:?}")
    };
    assert_eq!((dot.unwrap().counter, *siblings), (1, 1));
    assert!(bench.node.is_idle());
}

#[test]
fn a_request_is_forwarded_once_to_an_owner() {
    let mut bench = Bench::new();
    let key = bench.key(false);
    let out = bench.query(put(&key, 1));
    let [Output::Send { to, message }] = &out[..] else { panic!("{out:?}") };
    assert_eq!(to[..], bench.owners(&key)[..1]);
    let Body::Coordinate { request, timeout_ms: 450 } = &message.body else {
        panic!("{message:?}")
    };
    assert_eq!(*request, put(&key, 1));
    let response = Response::Unknown { acknowledged: 1, needed: 2, timeout_ms: 450 };
    let out = bench.peer(to[0], message.request_id.wire(), Body::Coordinated(response.clone()));
    assert!(matches!(&out[..], [Output::Reply { response: r, .. }] if *r == response));
    // What was forwarded here goes no further.
    let request = put(&key, 2);
    let out = bench.peer(to[0], 5, Body::Coordinate { request, timeout_ms: 100 });
    let [Output::Send { message, .. }] = &out[..] else { panic!("{out:?}") };
    assert_eq!(message.body, Body::Coordinated(Response::Refused(Rejection::NotOwner)));
}

#[test]
fn an_unreachable_quorum_is_refused_before_anything_is_done() {
    let mut bench = Bench::new();
    let key = bench.key(true);
    for peer in bench.others(&key) {
        bench.give(Input::Link { peer, up: false });
    }
    let strict = Quorum { replicas: None, strict: Some(true) };
    let blind = put(&key, 1);
    let Request::Put { key, value, context, write, .. } = blind.clone() else { panic!() };
    let get = Request::Get { key: key.clone(), r: strict };
    let put = Request::Put { key: key.clone(), value, context, write, w: strict };
    for request in [put, get] {
        let out = bench.query(request);
        let Rejection::Unreachable { reachable: 1, needed: 2, outcomes } = rejection(&out) else {
            panic!("{out:?}")
        };
        assert_eq!((&outcomes.counted[..], outcomes.silent.len()), (&["n0".to_string()][..], 2));
    }
    // Without the fourth node, nobody can stand in either.
    bench.give(Input::Link { peer: bench.fallback(&key), up: false });
    let out = bench.query(blind);
    assert!(matches!(rejection(&out), Rejection::Unreachable { reachable: 1, needed: 2, .. }));
}

#[test]
fn a_drained_node_refuses_requests_and_hints_and_goes_on_as_a_replica() {
    let mut bench = Bench::new();
    let (key, peer) = (bench.key(true), bench.peers()[0]);
    bench.give(Input::Drain(true));
    assert_eq!(rejection(&bench.query(put(&key, 1))), &Rejection::Stopping);
    let get = || Request::Get { key: key.clone(), r: None.into() };
    assert_eq!(rejection(&bench.query(get())), &Rejection::Stopping);
    let sent = |out: Vec<Output>| match &out[..] {
        [Output::Send { message, .. }] => message.body.clone(),
        _ => panic!("{out:?}"),
    };
    let out = bench.peer(peer, 8, Body::Coordinate { request: get(), timeout_ms: 500 });
    assert_eq!(sent(out), Body::Coordinated(Response::Refused(Rejection::Stopping)));
    let object = Object::default();
    let hint_for = bench.others(&key)[..1].to_vec();
    let keep = Body::StoreHint {
        key: key.clone(),
        object: object.clone(),
        hint_for,
        gc_epoch: GcEpoch::FIRST,
    };
    let out = bench.peer(peer, 9, keep);
    assert_eq!(sent(out), Body::Failed(Rejection::Stopping));
    let out =
        bench.peer(peer, 10, Body::Merge { key: key.clone(), object, gc_epoch: GcEpoch::FIRST });
    let out = bench.disk(out, &Record::default());
    assert_eq!(sent(out), Body::Ack);
    bench.give(Input::Drain(false));
    assert!(matches!(bench.query(get())[..], [.., Output::Store(Work::Read { .. })]));
}

#[test]
fn gossip_of_an_older_life_raises_the_own_one_and_a_forged_one_does_nothing() {
    let mut bench = Bench::new();
    let (peer, me) = (bench.others(&bench.key(true))[0], bench.me);
    let heartbeats = |node: NodeId, incarnation: u64| {
        let incarnation = Incarnation(incarnation);
        let heartbeats = vec![(node, Heartbeat { incarnation, count: 9 })];
        let members = vec![Member { incarnation, ..Member::configured("n1", "elsewhere:1") }];
        Body::Gossip(Gossip::News { heartbeats, members, digest: 0, wanted: Vec::new() })
    };
    for absurd in [1 << 40, u64::MAX] {
        bench.peer(peer, 1, heartbeats(me, absurd));
        assert_eq!(bench.node.meta().incarnation.0, 1, "no incarnation is that high");
        bench.peer(peer, 1, heartbeats(peer, absurd));
        bench.peer(peer, 1, heartbeats(peer, 3));
    }
    let endless = vec![(me, Heartbeat { incarnation: Incarnation(1), count: u64::MAX })];
    let (members, wanted) = (Vec::new(), Vec::new());
    let endless = Gossip::News { heartbeats: endless, members, digest: 0, wanted };
    bench.peer(peer, 1, Body::Gossip(endless));
    bench.tick(1_000);
    // An incarnation that others have seen and this disk has not: it is an old one, as when a peer
    // says so itself.
    let store = bench.node.meta().store;
    let out = bench.peer(peer, 1, heartbeats(me, 7));
    assert!(out.iter().any(|one| matches!(one, Output::Notice(Notice::Copied(_)))), "{out:?}");
    assert_eq!(bench.node.meta().incarnation.0, 8);
    assert_eq!(bench.node.meta().fresh, [store], "what this process issues is not old");
    assert!(!bench.node.meta().read_ineligible.is_empty());
    bench.peer(peer, 1, heartbeats(me, 3));
    assert_eq!(bench.node.meta().incarnation.0, 8);
    // Who is no member does not become one by being talked about, and a list over the limit is not
    // read.
    bench.peer(peer, 1, heartbeats(NodeId(77), 3));
    let members = vec![Member::configured("n1", "elsewhere:2"); MAX_MEMBERS + 1];
    let long = Gossip::News { heartbeats: Vec::new(), members, digest: 0, wanted: Vec::new() };
    bench.peer(peer, 1, Body::Gossip(long));
    let counters: Vec<&str> =
        bench.node.counters().into_iter().map(|(counter, _)| counter.name()).collect();
    for name in ["forged_incarnations_refused", "gossip_of_strangers", "gossip_over_the_limit"] {
        assert!(counters.contains(&name), "{name} of {counters:?}");
    }
    // A member that reports of another address is the same member.
    let member = bench.node.members().get(NodeId::of("n1")).unwrap();
    assert_eq!(member.address, "elsewhere:1");
    assert_eq!(bench.node.members().ids().len(), 4);
}

#[test]
fn gossip_of_members_with_a_later_incarnation_of_the_node_raises_the_own_one() {
    let mut bench = Bench::new();
    let (peer, me) = (bench.peers()[0], bench.me);
    let list = |incarnation: u64| {
        let own = Member::configured("n0", "host:1");
        assert_eq!(own.id(), me);
        let members = vec![Member { incarnation: Incarnation(incarnation), ..own }];
        Body::Gossip(Gossip::News {
            heartbeats: Vec::new(),
            members,
            digest: 0,
            wanted: Vec::new(),
        })
    };
    bench.peer(peer, 1, list(1 << 40));
    assert_eq!(bench.node.meta().incarnation.0, 1, "no incarnation is that high");
    bench.peer(peer, 1, list(7));
    assert_eq!(bench.node.meta().incarnation.0, 8, "no heartbeat of that incarnation is left");
}

#[test]
fn an_old_disk_is_noticed_though_gossip_speaks_before_the_peers_have_answered() {
    let mut bench = Bench::at_start(4);
    let peers = bench.peers();
    for peer in &peers {
        bench.give(Input::Link { peer: *peer, up: true });
    }
    let heartbeats = vec![(bench.me, Heartbeat { incarnation: Incarnation(6), count: 9 })];
    let (members, wanted) = (Vec::new(), Vec::new());
    bench.peer(peers[0], 1, Body::Gossip(Gossip::News { heartbeats, members, digest: 0, wanted }));
    let founders = peers.iter().chain([&bench.me]).zip(1..).map(|(id, birth)| (*id, birth));
    let cluster = Cluster::found("c", founders.collect());
    let mut notices = Vec::new();
    for peer in &peers {
        let seen = Some(IncarnationId { incarnation: Incarnation(6), nonce: 77 });
        let known = Body::Known { seen, birth: 9, cluster: Some(cluster.clone()) };
        let out = bench.peer(*peer, bench.introduction(), known);
        notices.extend(bench.disk(out, &Record::default()));
    }
    assert!(bench.node.is_settled());
    let meta = bench.node.meta();
    assert!(meta.incarnation.0 > 6 && meta.fresh == [meta.store], "{meta:?}");
    assert!(!meta.read_ineligible.is_empty(), "{notices:?}");
}

#[test]
fn a_node_that_did_not_run_for_a_while_takes_no_write_that_may_be_out_of_date() {
    let mut bench = Bench::new();
    let key = bench.key(true);
    bench.tick(200);
    bench.now += 300 * MILLI;
    assert_eq!(rejection(&bench.query(put(&key, 1))), &Rejection::Paused(300));
    let peer = bench.peers()[0];
    let out = bench.peer(peer, 8, Body::Coordinate { request: put(&key, 2), timeout_ms: 500 });
    let paused = Response::Refused(Rejection::Paused(300));
    assert!(
        matches!(&out[..], [Output::Send { message, .. }]
            if message.body == Body::Coordinated(paused)),
        "{out:?}"
    );
    let out = bench.query(Request::Get { key: key.clone(), r: None.into() });
    assert!(matches!(out[..], [.., Output::Store(Work::Read { .. })]), "reads are served: {out:?}");
    bench.disk(out, &Record::default());
    bench.tick(1_000);
    let out = bench.query(put(&key, 3));
    assert!(matches!(out[..], [Output::Store(Work::Read { .. })]), "{out:?}");
}

#[test]
fn what_others_may_keep_for_a_node_is_not_absent_there() {
    let mut bench = Bench::new();
    let (key, peer) = (bench.key(true), bench.peers()[0]);
    let counts = |bench: &mut Bench| {
        let out = bench.peer(peer, 30, Body::Read { key: key.clone() });
        match &bench.disk(out, &Record::default())[..] {
            [Output::Send { message, .. }] => match message.body {
                Body::Copy { authoritative, .. } => authoritative,
                ref body => panic!("{body:?}"),
            },
            out => panic!("{out:?}"),
        }
    };
    assert!(counts(&mut bench));
    bench.peer(peer, 0, Body::Hints(3));
    assert!(!counts(&mut bench));
    bench.peer(peer, 5, Body::Hints(0));
    assert!(counts(&mut bench));
}

#[test]
fn a_write_whose_replicas_fall_silent_is_unknown_at_its_deadline() {
    let mut bench = Bench::new();
    let key = bench.key(true);
    let out = bench.query(put(&key, 1));
    bench.disk(out, &Record::default());
    let out = bench.tick(100);
    assert!(
        matches!(&out[..], [Output::Send { message, .. }, ..]
            if matches!(message.body, Body::StoreHint { .. })),
        "a fallback is asked when the owners are late: {out:?}"
    );
    bench.disk(out, &Record::default());
    let out = bench.tick(400);
    let unknown = Response::Unknown { acknowledged: 1, needed: 2, timeout_ms: 500 };
    assert!(
        matches!(&out[..], [.., Output::Reply { response, .. }] if *response == unknown),
        "{out:?}"
    );
}

#[test]
fn a_read_asks_as_many_as_it_needs_and_one_more_when_late() {
    let mut bench = Bench::new();
    let key = bench.key(true);
    let out = bench.query(Request::Get { key: key.clone(), r: None.into() });
    let [Output::Send { to, message }, Output::Store(Work::Read { .. })] = &out[..] else {
        panic!("{out:?}")
    };
    assert_eq!((to.len(), message.body.clone()), (1, Body::Read { key: key.clone() }));
    let (first, request_id) = (to[0], message.request_id.wire());
    let out = bench.disk(out, &Record::default());
    assert!(matches!(out[..], [Output::Send { .. }]), "no reply: one of two has answered");
    let out = bench.tick(25);
    let [Output::Send { to, .. }] = &out[..] else { panic!("{out:?}") };
    assert_ne!(to[0], first);
    let out = bench.peer(
        to[0],
        request_id,
        Body::Copy {
            object: Object::default(),
            authoritative: true,
            kept_for: vec![],
            gc_epoch: GcEpoch::FIRST,
        },
    );
    let [Output::Reply { response: Response::Found { values, answered: 2, .. }, .. }] = &out[..]
    else {
        panic!("{out:?}")
    };
    assert!(values.is_empty());
}

#[test]
fn a_silent_replica_costs_one_hedge_and_is_not_queried_again_at_once() {
    let mut bench = Bench::new();
    let key = bench.key(true);
    let queried = |out: &[Output]| match out {
        [Output::Send { to, message }, ..] => (to[0], message.request_id.wire()),
        _ => panic!("{out:?}"),
    };
    let get = || Request::Get { key: key.clone(), r: None.into() };
    let copy = || Body::Copy {
        object: Object::default(),
        authoritative: true,
        kept_for: vec![],
        gc_epoch: GcEpoch::FIRST,
    };
    let out = bench.query(get());
    let (frozen, request_id) = queried(&out);
    bench.disk(out, &Record::default());
    let (live, _) = queried(&bench.tick(25));
    let out = bench.peer(live, request_id, copy());
    assert!(matches!(out[..], [Output::Reply { .. }]), "{out:?}");
    let out = bench.query(get());
    let (second, request_id) = queried(&out);
    assert_eq!(second, live, "the one that left a question open comes last");
    bench.disk(out, &Record::default());
    bench.peer(live, request_id, copy());
    bench.tick(1_000);
    let (third, _) = queried(&bench.query(get()));
    assert_eq!(third, frozen, "it may be back");
}

#[test]
fn a_replica_seen_to_be_behind_is_repaired_after_the_answer() {
    let mut bench = Bench::new();
    let key = bench.key(true);
    let out = bench.query(put(&key, 1));
    let out = bench.disk(out, &Record::default());
    let [Output::Send { message, .. }] = &out[..] else { panic!("{out:?}") };
    let Body::Merge { object, .. } = message.body.clone() else { panic!("{message:?}") };
    let record =
        Record { own_epoch: Some(ActorEpoch(1)), object: object.clone(), gc_epoch: GcEpoch::FIRST };
    // All three are asked: one is late, and its copy comes after the answer.
    let out = bench.query(Request::Get { key: key.clone(), r: None.into() });
    let [Output::Send { to, message }, ..] = &out[..] else { panic!("{out:?}") };
    let (late, request_id) = (to[0], message.request_id.wire());
    bench.disk(out, &record);
    let out = bench.tick(25);
    let [Output::Send { to, .. }] = &out[..] else { panic!("{out:?}") };
    let behind = to[0];
    let empty = || Body::Copy {
        object: Object::default(),
        authoritative: true,
        kept_for: vec![],
        gc_epoch: GcEpoch::FIRST,
    };
    let out = bench.peer(behind, request_id, empty());
    let [Output::Reply { response: Response::Found { values, .. }, .. }] = &out[..] else {
        panic!("{out:?}")
    };
    assert_eq!(values.len(), 1);
    let out = bench.peer(late, request_id, empty());
    let [Output::Send { to, message }] = &out[..] else { panic!("{out:?}") };
    assert_eq!(to[..], [behind, late]);
    assert_eq!(message.body, Body::Merge { key, object, gc_epoch: GcEpoch::FIRST });
}

#[test]
fn siblings_are_limited_where_a_write_is_accepted_and_a_retry_is_one_event() {
    let mut bench = Bench::new();
    let key = bench.key(true);
    let mut record = Record::default();
    for write in (0..MAX_SIBLINGS as u128).chain([5]) {
        let out = bench.query(put(&key, write));
        let out = bench.disk(out, &record);
        let [Output::Send { to, message }] = &out[..] else { panic!("{out:?}") };
        let Body::Merge { object, .. } = &message.body else { panic!("{message:?}") };
        let out = bench.peer(to[0], message.request_id.wire(), Body::Ack);
        let [Output::Reply { response: Response::Written { dot, .. }, .. }] = &out[..] else {
            panic!("{out:?}")
        };
        // Beside a sibling that its writer has not seen, a write has an actor of its own.
        assert_eq!(u128::from(dot.unwrap().actor.actor_epoch.0), write + 1);
        record = Record {
            own_epoch: Some(ActorEpoch(1)),
            object: object.clone(),
            gc_epoch: GcEpoch::FIRST,
        };
    }
    assert_eq!(record.object.len(), MAX_SIBLINGS, "the repeated write issued nothing");
    let out = bench.query(put(&key, 999));
    let out = bench.disk(out, &record);
    assert_eq!(*rejection(&out), Rejection::Siblings(MAX_SIBLINGS as u32));
}

#[test]
fn a_node_that_lost_its_disk_shows_absent_keys_read_ineligible() {
    let mut bench = Bench::at_start(1);
    let founders = bench.peers().into_iter().zip(2..).chain([(bench.me, 99)]).collect();
    let cluster = Cluster::found("c", founders);
    for (peer, birth) in bench.peers().into_iter().zip(2..) {
        bench.give(Input::Link { peer, up: true });
        let known = Body::Known { seen: None, birth, cluster: Some(cluster.clone()) };
        let out = bench.peer(peer, bench.introduction(), known);
        bench.disk(out, &Record::default());
        bench.peer(peer, 5, Body::Hints(0));
    }
    assert!(bench.node.is_settled());
    let key = bench.key(true);
    let out = bench.peer(bench.others(&key)[0], 70, Body::Read { key });
    let out = bench.disk(out, &Record::default());
    let copy = out.iter().find_map(|output| match output {
        Output::Send { message, .. } if message.request_id.wire() == 70 => {
            Some(message.body.clone())
        }
        _ => None,
    });
    assert!(matches!(copy, Some(Body::Copy { authoritative: false, .. })), "{copy:?}");
    // It does not know yet what is purged elsewhere, so it issues nothing. Where nobody answers, it
    // waits for three seconds.
    let refused = bench.query(put(&bench.key(true), 1));
    assert!(matches!(rejection(&refused), Rejection::Starting { .. }), "{refused:?}");
    bench.tick(4_000);
    let out = bench.query(put(&bench.key(true), 1));
    assert!(matches!(out[..], [Output::Store(Work::Read { .. })]), "{out:?}");
}

#[test]
fn whom_the_founding_of_a_cluster_waits_for_is_said_once() {
    let mut bench = Bench::at_start(1);
    let mut others = bench.peers();
    bench.give(Input::Link { peer: others[0], up: true });
    let waits_for = |out: Vec<Output>| -> Vec<NodeId> {
        let named = out.into_iter().filter_map(|output| match output {
            Output::Notice(Notice::WaitsFor(peer)) => Some(peer),
            _ => None,
        });
        named.collect()
    };
    assert_eq!(waits_for(bench.tick(900)), []);
    let mut named = waits_for(bench.tick(300));
    named.sort_unstable();
    others.sort_unstable();
    assert_eq!(named, others, "nobody has answered yet");
    assert_eq!(waits_for(bench.tick(30_000)), []);
}

#[test]
fn a_silent_member_is_reported_down_once_there_is_a_cluster() {
    let mut bench = Bench::at_start(1);
    let others = bench.peers();
    bench.tick_for_liveness(30_000, |_, liveness| {
        panic!("{liveness:?} is reported of a member of a cluster that is not founded");
    });
    // It joins the cluster of the one that answers; the other two are silent as before.
    let cluster = Cluster::found("c", others.iter().copied().zip(2..).collect());
    bench.give(Input::Link { peer: others[0], up: true });
    let out = bench.peer(
        others[0],
        bench.introduction(),
        Body::Known { seen: None, birth: 2, cluster: Some(cluster) },
    );
    bench.disk(out, &Record::default());
    let mut down = Vec::new();
    bench.tick_for_liveness(1_000, |peer, liveness| down.push((peer, liveness)));
    down.sort_unstable_by_key(|(peer, _)| *peer);
    let mut silent = others[1..].to_vec();
    silent.sort_unstable();
    assert_eq!(down, silent.into_iter().map(|peer| (peer, Liveness::Down)).collect::<Vec<_>>());
}

#[test]
fn objects_of_other_gc_epochs_and_forged_ones_are_refused_by_name() {
    let mut bench = Bench::new();
    let (key, record) = (bench.key(true), Record::default());
    let partition = bench.ring.partition(&key);
    let other = bench.others(&key)[0];
    let answer = |bench: &mut Bench, request_id: u64, body: Body| {
        let out = bench.peer(other, request_id, body);
        let out = bench.disk(out, &record);
        let of = |output: &Output| match output {
            Output::Send { message, .. } if message.request_id.wire() == request_id => {
                Some(message.body.clone())
            }
            _ => None,
        };
        out.iter().find_map(of)
    };
    let merge = |gc_epoch| Body::Merge { key: key.clone(), object: object(1), gc_epoch };
    for given in [1, 2, u64::MAX].map(GcEpoch) {
        let refused = answer(&mut bench, 70, merge(given));
        assert_eq!(refused, Some(Body::Failed(Rejection::GcState { given, own: GcEpoch::FIRST })));
    }
    assert_eq!(answer(&mut bench, 71, merge(GcEpoch::FIRST)), Some(Body::Ack));
    let propose = |partition, purgeable| Body::Propose {
        partition,
        gc_epoch: GcEpoch::FIRST,
        members: 0,
        purgeable,
    };
    let first = bench.ring.owners(partition)[0];
    let stranger = bench.peers().into_iter().find(|peer| *peer != first).unwrap();
    for (partition, stated) in
        [(partition, "not up to that node"), (pixii_core::types::Partition(16), "partition 16")]
    {
        let out = bench.peer(stranger, 72, propose(partition, Vec::new()));
        let [Output::Send { message, .. }] = &out[..] else { panic!("{out:?}") };
        let Body::NotYet(why) = &message.body else { panic!("{message:?}") };
        assert!(why.to_string().contains(stated), "{why}");
    }
    let forged = GcState { number: GcEpoch(u64::MAX), ..GcState::default() };
    let out = bench.peer(other, 73, Body::GcState { partition, gc_epoch: forged });
    assert!(out.is_empty(), "{out:?}");
    assert_eq!(answer(&mut bench, 74, merge(GcEpoch::FIRST)), Some(Body::Ack));
}

#[test]
fn bad_requests_are_refused_by_name() {
    let mut bench = Bench::new();
    let key = bench.key(true);
    let get = |r| Request::Get { key: key.clone(), r: Some(r).into() };
    for given in [0, 4] {
        let out = bench.query(get(given));
        assert_eq!(*rejection(&out), Rejection::Quorum { name: QuorumName::Read, given, n: 3 });
    }
    let delete = |context| Request::Delete { key: key.clone(), context, w: None.into() };
    assert_eq!(*rejection(&bench.query(delete(None))), Rejection::NoContext);
    let noise = Some(Blob(Bytes::from_static(b"0123456789")));
    assert_eq!(*rejection(&bench.query(delete(noise))), Rejection::BadContext);
    let Request::Put { key, context, write, w, .. } = put(&key, 1) else { panic!() };
    let value = Blob(vec![0; MAX_VALUE_BYTES + 1].into());
    let out = bench.query(Request::Put { key: key.clone(), value, context, write, w });
    assert_eq!(*rejection(&out), Rejection::Size(SizeError::Value(MAX_VALUE_BYTES as u64 + 1)));
    for timeout_ms in [0, 600_001] {
        let request = Request::Get { key: key.clone(), r: None.into() };
        let out = bench.give(Input::Client { client: 7, id: 9, request, timeout_ms });
        assert_eq!(*rejection(&out), Rejection::Timeout(timeout_ms));
    }
}
