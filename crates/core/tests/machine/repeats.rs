//! Puts that were sent to several nodes, and what is late: none of it brings back a value that was
//! replaced.

use pixii_core::causal::{Actor, ActorEpoch, Context, Dot, Object, Version};
use pixii_core::gc_epoch::{GcEpoch, GcState, PurgeableKey};
use pixii_core::members::Cluster;
use pixii_core::message::{Body, Rejection, Request, Response};
use pixii_core::node::{Done, Input, Output, Work};
use pixii_core::store::{Change, Found, Record};
use pixii_core::types::{Blob, Key, WriteId};

use crate::bench::{Bench, object, put, rejection};

const WRITE: u128 = 3;

/// What a node knows of the put of [`WRITE`] that was sent to several nodes and replaced since.
fn replaced() -> Object {
    let dot = Dot { actor: Actor::of_write(WriteId(WRITE)), counter: 1 };
    Object::default().discard(&Context::new(vec![dot]))
}

/// What a node has that has carried out the put of [`WRITE`], and the dot that it issued.
fn carried_out() -> (Record, Dot) {
    let version = Version { write: WriteId(WRITE), value: Blob(bytes::Bytes::from_static(b"v")) };
    let actor = Actor { store: 1, actor_epoch: ActorEpoch(1) };
    let (object, dot) = Object::default().update(&Context::default(), actor, version);
    (Record { own_epoch: Some(ActorEpoch(1)), object, gc_epoch: GcEpoch::FIRST }, dot)
}

/// A merge that the node is asked for, as a message of another owner.
fn merge(key: &Key, object: Object, gc_epoch: GcEpoch) -> Body {
    Body::Merge { key: key.clone(), object, gc_epoch }
}

/// The records that are written for the key.
fn records(out: &[Output]) -> Vec<&Record> {
    let changes = out.iter().filter_map(|output| match output {
        Output::Store(Work::Write { changes, .. }) => Some(changes),
        _ => None,
    });
    let records = changes.flatten().filter_map(|change| match change {
        Change::Record { record, .. } => Some(record),
        _ => None,
    });
    records.collect()
}

#[test]
fn a_late_attempt_of_a_put_that_was_replaced_issues_nothing_and_is_acknowledged() {
    let mut bench = Bench::new();
    let key = bench.key(true);
    let record = Record { object: replaced(), ..Record::default() };
    for request in [put(&key, WRITE), put(&key, WRITE).again()] {
        let out = bench.query(request);
        let out = bench.disk(out, &record);
        let [Output::Send { to, message }] = &out[..] else { panic!("{out:?}") };
        let Body::Merge { object, .. } = &message.body else { panic!("{message:?}") };
        assert_eq!(object.len(), 0, "the value stays dead");
        let out = bench.peer(to[0], message.request_id.wire(), Body::Ack);
        let [Output::Reply { response: Response::Written { dot, .. }, .. }] = &out[..] else {
            panic!("{out:?}")
        };
        assert_eq!(dot.unwrap().actor, Actor::of_write(WriteId(WRITE)));
    }
}

#[test]
fn whoever_learns_that_a_put_was_replaced_drops_the_copy_that_it_issued_itself() {
    let mut bench = Bench::new();
    let key = bench.key(true);
    let out = bench.query(put(&key, WRITE));
    let out = bench.disk(out, &Record::default());
    let [Output::Send { to, message }] = &out[..] else { panic!("{out:?}") };
    let Body::Merge { object, .. } = message.body.clone() else { panic!("{message:?}") };
    assert_eq!(object.len(), 1);
    let record = Record { own_epoch: Some(ActorEpoch(1)), object, gc_epoch: GcEpoch::FIRST };
    let out = bench.peer(to[0], 77, merge(&key, replaced(), GcEpoch::FIRST));
    let [Output::Store(Work::Read { token, .. })] = out[..] else { panic!("{out:?}") };
    let found = Found::Record(record);
    let out = bench.give(Input::Store(Done::Read { token, found, hints: Vec::new() }));
    let [record] = records(&out)[..] else { panic!("{out:?}") };
    assert_eq!(record.object.len(), 0);
}

#[test]
fn a_repetition_takes_the_place_of_the_copy_that_the_same_node_issued() {
    let mut bench = Bench::new();
    let key = bench.key(true);
    let (record, dot) = carried_out();
    let out = bench.query(put(&key, WRITE).again());
    let out = bench.disk(out, &record);
    let [Output::Send { message, .. }] = &out[..] else { panic!("{out:?}") };
    let Body::Merge { object, .. } = &message.body else { panic!("{message:?}") };
    let dots: Vec<Actor> = object.values().map(|(dot, _)| dot.actor).collect();
    assert_eq!(dots, [Actor::of_write(WriteId(WRITE))]);
    assert_eq!(object.counter(dot.actor), 1, "the first dot is known, and has no value");
}

#[test]
fn a_put_that_comes_twice_to_a_node_is_one_event() {
    let mut bench = Bench::new();
    let key = bench.key(true);
    let (record, dot) = carried_out();
    let out = bench.query(put(&key, WRITE));
    let out = bench.disk(out, &record);
    let [Output::Send { message, .. }] = &out[..] else { panic!("{out:?}") };
    let Body::Merge { object, .. } = &message.body else { panic!("{message:?}") };
    let dots: Vec<Dot> = object.values().map(|(dot, _)| dot).collect();
    assert_eq!(dots, [dot]);
}

#[test]
fn a_put_that_is_ordered_to_be_unknown_is_not_carried_out_afterwards() {
    let mut bench = Bench::new();
    let key = bench.key(true);
    let out = bench.query(put(&key, WRITE));
    let [Output::Store(Work::Read { token, .. })] = out[..] else { panic!("{out:?}") };
    let out = bench.tick(600);
    let unknown = |output: &Output| {
        matches!(output, Output::Reply { response: Response::Unknown { .. }, .. })
    };
    assert!(out.iter().any(unknown), "{out:?}");
    let found = Found::Nothing;
    let out = bench.give(Input::Store(Done::Read { token, found, hints: Vec::new() }));
    assert_eq!(records(&out), Vec::<&Record>::new(), "nobody waits for it any more");
    // The key itself goes on.
    let out = bench.query(put(&key, 8));
    let out = bench.disk(out, &Record::default());
    assert!(matches!(&out[..], [Output::Send { .. }]), "{out:?}");
}

#[test]
fn a_writer_that_chains_on_its_own_context_leaves_no_siblings_behind() {
    let mut bench = Bench::new();
    let key = bench.key(true);
    // Somebody else's value, which this writer never reads.
    let mut record = Record { object: object(900), ..Record::default() };
    let mut context = None;
    for write in 1..=40 {
        let Request::Put { key, value, write, w, .. } = put(&key, write) else { unreachable!() };
        let out = bench.query(Request::Put { key, value, context: context.take(), write, w });
        let out = bench.disk(out, &record);
        let [Output::Send { to, message }] = &out[..] else { panic!("{out:?}") };
        let Body::Merge { object, .. } = message.body.clone() else { panic!("{message:?}") };
        assert_eq!(object.len(), 2, "its own newest value and the unread one");
        let out = bench.peer(to[0], message.request_id.wire(), Body::Ack);
        let [Output::Reply { response: Response::Written { dot, context: sealed, .. }, .. }] =
            &out[..]
        else {
            panic!("{out:?}")
        };
        context = Some(sealed.clone());
        let own_epoch = dot.map(|dot| dot.actor.actor_epoch);
        record = Record { own_epoch, object, gc_epoch: GcEpoch::FIRST };
    }
}

/// A node that lost its disk, in a cluster that others have founded, whose peers have reported it
/// all.
fn reborn() -> Bench {
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
    bench
}

#[test]
fn a_disk_that_is_an_old_one_takes_nothing_old_while_it_takes_over_what_is_new() {
    let mut bench = reborn();
    let key = bench.key(true);
    let partition = bench.ring.partition(&key);
    let from = bench.others(&key)[0];
    // An old hint is accepted before it is known to be old,
    let out = bench.peer(from, 70, merge(&key, object(1), GcEpoch::FIRST));
    let [Output::Store(Work::Read { token, .. })] = out[..] else { panic!("{out:?}") };
    let out =
        bench.give(Input::Store(Done::Read { token, found: Found::Nothing, hints: Vec::new() }));
    let [Output::Store(Work::Write { seq, .. })] = out[..] else { panic!("{out:?}") };
    let gc_epoch = GcState { number: GcEpoch(2), ..GcState::default() };
    bench.peer(from, 71, Body::GcState { partition, gc_epoch });
    // and not from then on, although the records are yet to be read.
    let other = bench.keys_of(partition, &key);
    let out = bench.peer(from, 72, merge(&other, object(2), GcEpoch::FIRST));
    let out = bench.disk(out, &Record::default());
    let failed = |output: &Output| match output {
        Output::Send { message, .. } => {
            message.request_id.wire() == 72
                && matches!(
                    message.body,
                    Body::Failed(Rejection::GcState { given: GcEpoch(0), own: GcEpoch(2) })
                )
        }
        _ => false,
    };
    assert!(out.iter().any(failed), "{out:?}");
    assert_eq!(bench.node.gc_epoch(partition), GcEpoch::FIRST, "it has not begun");
    bench.give(Input::Store(Done::Synced { seq }));
}

#[test]
fn a_gc_epoch_begins_when_it_is_durable_and_stamps_nothing_before() {
    let mut bench = Bench::new();
    let key = bench.key(true);
    let partition = bench.ring.partition(&key);
    let from = bench.others(&key)[0];
    let dead = Context::new(vec![Dot {
        actor: Actor { store: 9, actor_epoch: ActorEpoch(1) },
        counter: 1,
    }]);
    let purgeable = vec![PurgeableKey { key: bench.keys_of(partition, &key), dead }];
    let gc_epoch = GcState { number: GcEpoch(1), purgeable, ..GcState::default() };
    let out = bench.peer(from, 71, Body::GcState { partition, gc_epoch });
    // What is purgeable is noted as dead first, then the GC epoch is written.
    let [Output::Store(Work::Read { token, .. })] = out[..] else { panic!("{out:?}") };
    let found = Found::Nothing;
    let out = bench.give(Input::Store(Done::Read { token, found, hints: Vec::new() }));
    let [Output::Store(Work::Write { seq, .. })] = out[..] else { panic!("{out:?}") };
    let out = bench.give(Input::Store(Done::Synced { seq }));
    let [Output::Store(Work::Write { seq, changes })] = &out[..] else { panic!("{out:?}") };
    assert!(matches!(changes[..], [Change::GcState { .. }]), "{changes:?}");
    let out = bench.query(put(&key, 5));
    let [Output::Store(Work::Read { token, .. })] = out[..] else { panic!("{out:?}") };
    let found = Found::Nothing;
    let out = bench.give(Input::Store(Done::Read { token, found, hints: Vec::new() }));
    let stamps = |out: &[Output]| -> Vec<GcEpoch> {
        let stamp = |output: &Output| match output {
            Output::Send { message, .. } => match message.body {
                Body::Merge { gc_epoch, .. } => Some(gc_epoch),
                _ => None,
            },
            _ => None,
        };
        out.iter().filter_map(stamp).collect()
    };
    assert_eq!(stamps(&out), [GcEpoch::FIRST], "a crash now would undo the GC epoch");
    bench.give(Input::Store(Done::Synced { seq: *seq }));
    assert_eq!(bench.node.gc_epoch(partition), GcEpoch(1));
}

#[test]
fn the_clock_of_a_key_is_limited_where_a_write_is_accepted() {
    let mut bench = Bench::new();
    let key = bench.key(true);
    let dots = (0..pixii_core::types::MAX_CLOCK_ENTRIES as u64).map(|store| Dot {
        actor: Actor { store: store + 10, actor_epoch: ActorEpoch(1) },
        counter: 1,
    });
    let object = Object::default().discard(&Context::new(dots.collect()));
    let record = Record { object, ..Record::default() };
    let out = bench.query(put(&key, 1));
    let out = bench.disk(out, &record);
    let Rejection::Limit { given, limit, .. } = rejection(&out) else { panic!("{out:?}") };
    assert_eq!((*given, *limit), (1_025, 1_024));
}
