//! Writes that their issuer decides: what they cover, what they are refused for, and when they are
//! void.

use pixii_core::causal::{Context, Object};
use pixii_core::gc_epoch::GcEpoch;
use pixii_core::message::{
    Body, Quorum, Rejection, Request, RequestId, Resource, Response, WriteRule,
};
use pixii_core::node::{Done, Input, Output, Work};
use pixii_core::store::memory::MemoryStore;
use pixii_core::store::{Change, Record, Store};
use pixii_core::types::{Blob, Key, MILLI, NodeId, WriteId};
use pixii_core::wire;

use super::bench::{Bench, object, rejection};

fn decide(key: &Key, write: u128, rule: WriteRule) -> Request {
    let value = Some(Blob(bytes::Bytes::from_static(b"v")));
    let (again, r, w) = (false, None, None.into());
    Request::Decide { key: key.clone(), value, rule, write: WriteId(write), again, r, w }
}

fn strictly(request: Request) -> Request {
    let Request::Decide { key, value, rule, write, again, r, .. } = request else { panic!() };
    let w = Quorum { replicas: None, strict: Some(true) };
    Request::Decide { key, value, rule, write, again, r, w }
}

fn erase(key: &Key) -> Request {
    let Request::Decide { key, rule, write, again, r, w, .. } = decide(key, 9, WriteRule::Cover)
    else {
        panic!()
    };
    Request::Decide { key, value: None, rule, write, again, r, w }
}

/// A key of which this node is the owner at this place.
fn key_at(bench: &Bench, place: usize) -> Key {
    let mut keys = (0..1_000).map(|at| Key::new(format!("d{at}").into_bytes()).unwrap());
    keys.find(|key| bench.owners(key)[place] == bench.me).unwrap()
}

fn copy(object: Object) -> Body {
    let (authoritative, kept_for, gc_epoch) = (true, Vec::new(), GcEpoch::FIRST);
    Body::Copy { object, authoritative, kept_for, gc_epoch }
}

/// A disk that holds this object of a key.
fn disk_with(bench: &Bench, key: &Key, object: Object) -> MemoryStore {
    let disk = MemoryStore::default();
    let partition = bench.ring.partition(key);
    let record = Record { object, ..Record::default() };
    disk.apply(&[Change::Record { partition, key: key.clone(), record }]).unwrap();
    disk.sync().unwrap();
    disk
}

/// The owner that was asked for its copy, with the id of the question.
fn asked(out: &[Output]) -> (NodeId, u64) {
    let read = out.iter().find_map(|output| match output {
        Output::Send { to, message } if matches!(message.body, Body::Read { .. }) => {
            Some((to[0], message.request_id.wire()))
        }
        _ => None,
    });
    read.unwrap_or_else(|| panic!("{out:?}"))
}

fn merged(out: &[Output]) -> &Object {
    let merge = out.iter().find_map(|output| match output {
        Output::Send { message, .. } => match &message.body {
            Body::Merge { object, .. } => Some(object),
            _ => None,
        },
        _ => None,
    });
    merge.unwrap_or_else(|| panic!("{out:?}"))
}

/// Sends a request of a client, has the own disk answer, and the other owner that is asked.
fn survey(bench: &mut Bench, disk: &MemoryStore, request: Request, other: Object) -> Vec<Output> {
    let out = bench.query(request);
    let (peer, request_id) = asked(&out);
    let rest = bench.carry(out, disk);
    let early = |output: &Output| matches!(output, Output::Reply { .. });
    assert!(!rest.iter().any(early), "R owners have not answered: {rest:?}");
    let out = bench.peer(peer, request_id, copy(other));
    bench.carry(out, disk)
}

#[test]
fn a_covering_put_covers_the_answers_of_r_owners_and_its_own_record() {
    let mut bench = Bench::new();
    let key = key_at(&bench, 0);
    // The own record knows that the value which the other still has was replaced.
    let old = object(11);
    let (dot, _) = old.values().next().unwrap();
    let own = object(12).discard(&Context::new(vec![dot]));
    let disk = disk_with(&bench, &key, own.clone());
    let out = survey(&mut bench, &disk, decide(&key, 7, WriteRule::Cover), old);
    let after = merged(&out);
    assert_eq!(after.len(), 1, "{after:?}");
    assert_eq!(after.values().next().unwrap().1.write, WriteId(7));
    let issued = after.values().next().unwrap().0;
    let covered = own.context().dots().iter().copied().chain([issued]).collect();
    assert_eq!(after.context(), Context::new(covered), "it covers all of it and nothing else");
    let Output::Send { to, message } = &out[0] else { panic!("{out:?}") };
    let out = bench.peer(to[0], message.request_id.wire(), Body::Ack);
    let [Output::Reply { response: Response::Written { context, siblings: 1, .. }, .. }] = &out[..]
    else {
        panic!("{out:?}")
    };
    assert_eq!(wire::unseal(&key, context).unwrap().dots().len(), 3);
}

#[test]
fn more_than_one_live_value_is_a_conflict_and_nothing_is_written() {
    let mut bench = Bench::new();
    let key = key_at(&bench, 0);
    let disk = disk_with(&bench, &key, object(1));
    for request in [decide(&key, 7, WriteRule::Cover), erase(&key)] {
        let out = survey(&mut bench, &disk, request, object(2));
        assert_eq!(rejection(&out), &Rejection::Conflict(2));
    }
}

#[test]
fn puts_at_once_at_one_issuer_are_ordered() {
    let mut bench = Bench::new();
    let (key, disk) = (key_at(&bench, 0), MemoryStore::default());
    let first = bench.query(decide(&key, 1, WriteRule::Cover));
    let second = bench.query(decide(&key, 2, WriteRule::Cover));
    let questions = [asked(&first), asked(&second)];
    bench.carry(first, &disk);
    bench.carry(second, &disk);
    let mut last = Object::default();
    for (peer, request_id) in questions {
        let out = bench.peer(peer, request_id, copy(Object::default()));
        let out = bench.carry(out, &disk);
        last = merged(&out).clone();
    }
    let writes: Vec<WriteId> = last.values().map(|(_, version)| version.write).collect();
    assert_eq!(writes, [WriteId(2)], "the second has seen what the first made here");
}

#[test]
fn the_first_owner_in_reach_is_the_issuer_whichever_node_is_asked() {
    let mut bench = Bench::new();
    let key = key_at(&bench, 1);
    let first = bench.owners(&key)[0];
    let out = bench.query(decide(&key, 1, WriteRule::Cover));
    let [Output::Send { to, message }] = &out[..] else { panic!("{out:?}") };
    assert_eq!(to[..], [first]);
    assert!(matches!(message.body, Body::Coordinate { request: Request::Decide { .. }, .. }));
    // It refuses for reasons of its own: this node, the next owner, is the issuer.
    let refused = Body::Coordinated(Response::Refused(Rejection::Stopping));
    let out = bench.peer(first, message.request_id.wire(), refused);
    asked(&out);
    // Or it cannot be reached.
    bench.give(Input::Link { peer: first, up: false });
    asked(&bench.query(decide(&key, 2, WriteRule::Cover)));
    // Who is asked by another node never hands it on.
    bench.give(Input::Link { peer: first, up: true });
    let request = decide(&key, 3, WriteRule::Cover);
    let from = bench.others(&key)[1];
    asked(&bench.peer(from, 5, Body::Coordinate { request, timeout_ms: 100 }));
    // A put with a context is coordinated where it comes to.
    let out = Bench::new().query(super::put(&key, 4));
    assert!(matches!(out[..], [Output::Store(Work::Read { .. })]), "{out:?}");
}

#[test]
fn a_condition_is_checked_on_the_answers_of_r_owners() {
    let mut bench = Bench::new();
    let (key, disk) = (key_at(&bench, 0), MemoryStore::default());
    let absent = || decide(&key, 7, WriteRule::IfAbsent);
    let out = survey(&mut bench, &disk, absent(), object(2));
    assert_eq!(rejection(&out), &Rejection::Exists, "the other owner has a value");
    let out = survey(&mut bench, &disk, absent(), Object::default());
    assert_eq!(merged(&out).len(), 1);
    let seen = wire::seal(&key, &object(2).context());
    let unchanged = || decide(&key, 8, WriteRule::IfContext(seen.clone()));
    let disk = disk_with(&bench, &key, object(2));
    let mut bench = Bench::new();
    let out = survey(&mut bench, &disk, unchanged(), object(3));
    assert_eq!(rejection(&out), &Rejection::Changed);
    let out = survey(&mut bench, &disk, unchanged(), object(2));
    assert_eq!(merged(&out).len(), 1);
    assert!(
        rejection(&{
            let odd = decide(
                &key,
                9,
                WriteRule::IfContext(wire::seal(&key_at(&bench, 1), &Context::default())),
            );
            bench.query(odd)
        }) == &Rejection::BadContext
    );
}

#[test]
fn with_fewer_than_r_owners_in_reach_a_sloppy_put_covers_what_it_can_read() {
    let mut bench = Bench::new();
    let key = key_at(&bench, 0);
    for peer in bench.others(&key) {
        bench.give(Input::Link { peer, up: false });
    }
    let unreachable = |out: Vec<Output>| {
        assert!(
            matches!(rejection(&out), Rejection::Unreachable { reachable: 1, needed: 2, .. }),
            "{out:?}"
        );
    };
    unreachable(bench.query(strictly(decide(&key, 1, WriteRule::Cover))));
    unreachable(bench.query(decide(&key, 2, WriteRule::IfAbsent)));
    let disk = disk_with(&bench, &key, object(5));
    let out = bench.query(decide(&key, 3, WriteRule::Cover));
    let out = bench.carry(out, &disk);
    let [Output::Send { message, .. }, ..] = &out[..] else { panic!("{out:?}") };
    let Body::StoreHint { object, .. } = &message.body else { panic!("{message:?}") };
    assert_eq!(object.len(), 1, "it covers its own record: {object:?}");
}

#[test]
fn a_sloppy_put_does_not_wait_for_silent_owners_until_its_deadline() {
    let mut bench = Bench::new();
    let (key, disk) = (key_at(&bench, 0), MemoryStore::default());
    let out = bench.query(decide(&key, 1, WriteRule::Cover));
    bench.carry(out, &disk);
    let out = bench.tick(150);
    let out = bench.carry(out, &disk);
    assert_eq!(merged(&out).len(), 1, "after a quarter of its time");
    // A strict one, and one with a condition, do; then nothing has happened.
    for request in
        [strictly(decide(&key, 2, WriteRule::Cover)), decide(&key, 3, WriteRule::IfAbsent)]
    {
        let out = bench.query(request);
        bench.carry(out, &disk);
        let out = bench.tick(500);
        let refused = out.iter().any(|output| {
            let refused = Rejection::NoQuorum {
                answered: 1,
                outcomes: Default::default(),
                needed: 2,
                timeout_ms: 500,
            };
            matches!(output, Output::Reply { response: Response::Refused(why), .. }
                if std::mem::discriminant(why) == std::mem::discriminant(&refused))
        });
        assert!(refused, "{out:?}");
        assert!(!out.iter().any(|output| matches!(output, Output::Store(Work::Write { .. }))));
    }
}

#[test]
fn a_delete_without_a_context_removes_the_one_value_that_is_there() {
    let mut bench = Bench::new();
    let key = key_at(&bench, 0);
    let disk = disk_with(&bench, &key, object(1));
    let out = survey(&mut bench, &disk, erase(&key), object(1));
    assert_eq!((merged(&out).len(), merged(&out).entries().len()), (0, 1));
    let out = survey(&mut bench, &disk, erase(&key), Object::default());
    assert_eq!(rejection(&out), &Rejection::Absent);
}

/// A write that is decided and waits for the answer of another owner, which is returned.
fn waiting(bench: &mut Bench, disk: &MemoryStore, input: Input) -> (NodeId, u64) {
    let out = bench.give(input);
    let question = asked(&out);
    bench.carry(out, disk);
    question
}

/// A write of client 7 that is decided, and waits for the own disk to be read.
fn being_read(bench: &mut Bench, disk: &MemoryStore) -> Vec<Output> {
    let request = decide(&key_at(bench, 0), 1, WriteRule::Cover);
    let input = Input::Client { client: 7, id: 9, request, timeout_ms: 500 };
    let (peer, request_id) = waiting(bench, disk, input);
    let reading = bench.peer(peer, request_id, copy(Object::default()));
    assert!(matches!(reading[..], [Output::Store(Work::Read { .. })]), "{reading:?}");
    reading
}

#[test]
fn a_write_is_void_once_its_client_gives_it_up_or_its_connection_ends() {
    for call in [Some(9), None] {
        let (mut bench, disk) = (Bench::new(), MemoryStore::default());
        let request = decide(&key_at(&bench, 0), 1, WriteRule::Cover);
        let input = Input::Client { client: 7, id: 9, request, timeout_ms: 500 };
        let (peer, request_id) = waiting(&mut bench, &disk, input);
        assert!(bench.give(Input::GiveUp { client: 8, call }).is_empty(), "another client");
        assert!(bench.give(Input::GiveUp { client: 7, call: Some(1) }).is_empty(), "another call");
        let out = bench.give(Input::GiveUp { client: 7, call });
        assert_eq!(rejection(&out), &Rejection::GivenUp);
        let out = bench.peer(peer, request_id, copy(Object::default()));
        assert!(out.is_empty(), "nothing is written: {out:?}");
        assert!(bench.node.is_idle());
    }
}

#[test]
fn a_decided_write_is_void_too_while_its_disk_is_read() {
    let (mut bench, disk) = (Bench::new(), MemoryStore::default());
    let reading = being_read(&mut bench, &disk);
    let out = bench.give(Input::GiveUp { client: 7, call: None });
    assert_eq!(rejection(&out), &Rejection::GivenUp);
    assert!(bench.carry(reading, &disk).is_empty(), "nothing is written");
}

#[test]
fn at_the_deadline_a_write_that_was_not_decided_is_refused_and_stays_undone() {
    let (mut bench, disk) = (Bench::new(), MemoryStore::default());
    let reading = being_read(&mut bench, &disk);
    let out = bench.tick(500);
    assert!(matches!(rejection(&out), Rejection::NoQuorum { answered: 0, .. }), "{out:?}");
    assert!(bench.carry(reading, &disk).is_empty(), "nothing is written");
}

#[test]
fn a_forwarded_write_is_void_when_the_node_that_forwarded_it_says_so_or_is_gone() {
    for says_so in [true, false] {
        let (mut bench, disk) = (Bench::new(), MemoryStore::default());
        let key = key_at(&bench, 0);
        let (from, other) = (bench.fallback(&key), bench.others(&key)[0]);
        let request = decide(&key, 1, WriteRule::Cover);
        let out = bench.peer(from, 5, Body::Coordinate { request, timeout_ms: 400 });
        let (peer, request_id) = asked(&out);
        bench.carry(out, &disk);
        assert!(bench.peer(other, 5, Body::Abandon).is_empty(), "it is not that node's");
        match says_so {
            true => bench.peer(from, 5, Body::Abandon),
            false => bench.give(Input::Link { peer: from, up: false }),
        };
        let out = bench.peer(peer, request_id, copy(Object::default()));
        assert!(out.is_empty(), "nothing is written: {out:?}");
    }
    // And the node that forwarded it says so when its client is gone.
    let mut bench = Bench::new();
    let key = key_at(&bench, 1);
    let out = bench.query(decide(&key, 1, WriteRule::Cover));
    let [Output::Send { to, message }] = &out[..] else { panic!("{out:?}") };
    let (issuer, request_id) = (to[0], message.request_id);
    let out = bench.give(Input::GiveUp { client: 7, call: None });
    let [Output::Send { to, message }, Output::Reply { response, .. }] = &out[..] else {
        panic!("{out:?}")
    };
    assert_eq!((to[0], message.request_id, &message.body), (issuer, request_id, &Body::Abandon));
    assert!(matches!(response, Response::Unknown { .. }), "{response:?}");
    // Or when its deadline has passed.
    bench.query(decide(&key, 2, WriteRule::Cover));
    let out = bench.tick(500);
    let says = |output: &Output| {
        matches!(output, Output::Send { to, message }
            if to[..] == [issuer] && message.body == Body::Abandon)
    };
    assert!(out.iter().any(says), "{out:?}");
}

#[test]
fn a_forwarded_write_is_decided_only_when_its_forwarder_confirms_that_its_client_waits() {
    let (mut bench, disk) = (Bench::new(), MemoryStore::default());
    let key = key_at(&bench, 0);
    let from = bench.fallback(&key);
    let request = decide(&key, 1, WriteRule::Cover);
    let out = bench.peer(from, 5, Body::Coordinate { request, timeout_ms: 400 });
    let queried = |output: &Output| {
        matches!(output, Output::Send { to, message } if to[..] == [from]
            && message.body == Body::QueryWanted(RequestId::of_wire(5)))
    };
    assert!(out.iter().any(queried), "{out:?}");
    let (peer, survey) = asked(&out);
    bench.carry(out, &disk);
    assert!(bench.peer(peer, survey, copy(Object::default())).is_empty(), "it may be late");
    assert!(bench.peer(peer, survey, Body::Wanted).is_empty(), "that node has not forwarded it");
    let out = bench.peer(from, survey, Body::Wanted);
    assert_eq!(merged(&bench.carry(out, &disk)).len(), 1);
    // Who has forwarded it confirms it while its client waits, and to nobody else.
    let mut bench = Bench::new();
    let key = key_at(&bench, 1);
    let out = bench.query(decide(&key, 1, WriteRule::Cover));
    let [Output::Send { to, message }] = &out[..] else { panic!("{out:?}") };
    let (issuer, forwarded) = (to[0], message.request_id);
    let other = bench.others(&key).into_iter().find(|other| *other != issuer).unwrap();
    let query = || Body::QueryWanted(forwarded);
    assert!(bench.peer(other, 9, query()).is_empty());
    let out = bench.peer(issuer, 9, query());
    assert!(matches!(&out[..], [Output::Send { message, .. }] if message.body == Body::Wanted));
    bench.give(Input::GiveUp { client: 7, call: None });
    assert!(bench.peer(issuer, 9, query()).is_empty());
}

#[test]
fn a_forwarded_write_that_comes_after_it_was_abandoned_is_not_carried_out() {
    let mut bench = Bench::new();
    let key = key_at(&bench, 0);
    let from = bench.fallback(&key);
    bench.peer(from, 5, Body::Abandon);
    let request = decide(&key, 1, WriteRule::Cover);
    assert!(bench.peer(from, 5, Body::Coordinate { request, timeout_ms: 400 }).is_empty());
}

#[test]
fn what_was_not_decided_before_a_pause_of_the_process_is_void_after_it() {
    let (mut bench, disk) = (Bench::new(), MemoryStore::default());
    let key = key_at(&bench, 0);
    let request = decide(&key, 1, WriteRule::Cover);
    let input = Input::Client { client: 7, id: 9, request, timeout_ms: 500 };
    let (peer, request_id) = waiting(&mut bench, &disk, input);
    bench.now += 300 * MILLI;
    let out = bench.peer(peer, request_id, copy(Object::default()));
    assert_eq!(rejection(&out), &Rejection::GivenUp);
    assert!(!out.iter().any(|output| matches!(output, Output::Store(_))), "{out:?}");
}

#[test]
fn a_put_that_is_sent_again_is_one_write_and_covers_what_its_first_attempt_left() {
    let mut bench = Bench::new();
    let key = key_at(&bench, 0);
    let disk = MemoryStore::default();
    // Its first attempt was carried out elsewhere, beside a value that it had not seen.
    let first = object(7).sync(&object(2));
    let out = survey(&mut bench, &disk, decide(&key, 7, WriteRule::Cover).again(), first.clone());
    let after = merged(&out);
    assert_eq!(after.len(), 1, "{after:?}");
    let (dot, version) = after.values().next().unwrap();
    assert!(dot.actor.is_of_write() && version.write == WriteId(7));
    assert_eq!(after.sync(&first).len(), 1, "the first copy, delivered late, brings nothing back");
}

#[test]
fn a_put_that_is_sent_again_has_one_dot_also_where_only_another_owner_knows_it() {
    let mut bench = Bench::new();
    let key = key_at(&bench, 0);
    let again = decide(&key, 7, WriteRule::Cover).again();
    let disk = MemoryStore::default();
    let first = merged(&survey(&mut bench, &disk, again.clone(), object(2))).clone();
    // The disk of this owner has nothing of it.
    let (mut bench, disk) = (Bench::new(), MemoryStore::default());
    let out = survey(&mut bench, &disk, again, first.clone());
    assert_eq!(merged(&out), &first, "the copy is taken over");
}

#[test]
fn a_delete_reports_the_key_as_absent_only_when_r_owners_have_said_so() {
    let (mut bench, disk) = (Bench::new(), MemoryStore::default());
    let key = key_at(&bench, 0);
    for peer in bench.others(&key) {
        bench.give(Input::Link { peer, up: false });
    }
    let out = bench.query(erase(&key));
    let out = bench.carry(out, &disk);
    assert!(matches!(rejection(&out), Rejection::Unreachable { needed: 2, .. }), "{out:?}");
}

#[test]
fn a_first_attempt_that_comes_after_its_repetition_was_replaced_erases_nothing() {
    let mut bench = Bench::new();
    let key = key_at(&bench, 0);
    let again = decide(&key, 7, WriteRule::Cover).again();
    let repeated =
        merged(&survey(&mut bench, &MemoryStore::default(), again, Object::default())).clone();
    // Another write has replaced the repetition, where this owner has heard of neither.
    let version = object(2).values().next().unwrap().1.clone();
    let actor = object(2).values().next().unwrap().0.actor;
    let newer = repeated.update(&repeated.context(), actor, version).0;
    let (mut bench, disk) = (Bench::new(), MemoryStore::default());
    let out = survey(&mut bench, &disk, decide(&key, 7, WriteRule::Cover), newer.clone());
    let writes: Vec<_> = merged(&out).values().map(|(_, version)| version.write).collect();
    assert_eq!(writes, newer.values().map(|(_, version)| version.write).collect::<Vec<_>>());
}

#[test]
fn a_put_under_a_context_that_is_sent_again_does_not_find_itself() {
    let mut bench = Bench::new();
    let key = key_at(&bench, 0);
    let seen = wire::seal(&key, &object(2).context());
    // Its first attempt has replaced what its author saw, under a dot of this owner.
    let version = object(7).values().next().unwrap().1.clone();
    let dot = object(7).values().next().unwrap().0;
    let first = object(2).update(&object(2).context(), dot.actor, version).0;
    let disk = disk_with(&bench, &key, first.clone());
    let request = decide(&key, 7, WriteRule::IfContext(seen));
    let out = survey(&mut bench, &disk, request.again(), first);
    assert_eq!(merged(&out).values().next().unwrap().1.write, WriteId(7));
}

#[test]
fn a_busy_issuer_stays_the_issuer() {
    let mut bench = Bench::new();
    let key = key_at(&bench, 1);
    let first = bench.owners(&key)[0];
    for (what, stays) in [(Resource::KeyQueue, true), (Resource::DiskTime, false)] {
        let out = bench.query(decide(&key, 1, WriteRule::Cover));
        let [Output::Send { message, .. }] = &out[..] else { panic!("{out:?}") };
        let busy = Rejection::Busy { what, limit: 128 };
        let refused = Body::Coordinated(Response::Refused(busy.clone()));
        let out = bench.peer(first, message.request_id.wire(), refused);
        match stays {
            true => assert_eq!(rejection(&out), &busy),
            false => assert!(asked(&out).1 > 0, "a disk that hangs is not waited for"),
        }
    }
}

/// The node that a client's write is forwarded to, and the id of the forward.
fn forwarded(out: &[Output]) -> Option<(NodeId, RequestId)> {
    out.iter().find_map(|output| match output {
        Output::Send { to, message } if matches!(message.body, Body::Coordinate { .. }) => {
            Some((to[0], message.request_id))
        }
        _ => None,
    })
}

#[test]
fn an_issuer_that_does_not_ask_whether_its_client_waits_is_left_for_the_next_owner() {
    let mut bench = Bench::new();
    let key = key_at(&bench, 2);
    let owners = bench.owners(&key);
    let (first, id) = forwarded(&bench.query(decide(&key, 1, WriteRule::Cover))).unwrap();
    assert_eq!(first, owners[0]);
    assert!(forwarded(&bench.tick(120)).is_none(), "it has time for a sign");
    let out = bench.tick(10);
    let abandon = |output: &Output| {
        matches!(output, Output::Send { to, message }
            if to[..] == [first] && message.body == Body::Abandon && message.request_id == id)
    };
    assert!(out.iter().any(abandon), "it is void there: {out:?}");
    let (second, id) = forwarded(&out).unwrap();
    assert_eq!(second, owners[1]);
    // The first one comes too late, the second one asks in time and decides.
    let query = Body::QueryWanted(id);
    assert!(bench.peer(first, 70, query.clone()).is_empty());
    let out = bench.peer(second, 71, query);
    assert!(matches!(&out[..], [Output::Send { message, .. }] if message.body == Body::Wanted));
    let out = bench.tick(300);
    let left = |output: &Output| {
        matches!(output, Output::Send { message, .. }
            if matches!(message.body, Body::Abandon | Body::Read { .. } | Body::Coordinate { .. }))
    };
    assert!(!out.iter().any(left), "what may be decided stays with its issuer: {out:?}");
}

#[test]
fn a_quiet_issuer_gets_no_write_for_two_seconds_or_until_it_says_something() {
    let put = |bench: &mut Bench, key: &Key, write| {
        forwarded(&bench.query(decide(key, write, WriteRule::Cover)))
    };
    for is_heard in [false, true] {
        let mut bench = Bench::new();
        let key = key_at(&bench, 1);
        let first = bench.owners(&key)[0];
        assert_eq!(put(&mut bench, &key, 1).map(|(to, _)| to), Some(first));
        asked(&bench.tick(130));
        assert_eq!(put(&mut bench, &key, 2), None, "this node decides in its place");
        if is_heard {
            bench.peer(first, 72, Body::QueryWanted(RequestId::of_wire(72)));
        } else {
            bench.tick(1_900);
            assert_eq!(put(&mut bench, &key, 3), None);
            bench.tick(200);
        }
        assert_eq!(put(&mut bench, &key, 4).map(|(to, _)| to), Some(first), "{is_heard}");
    }
}

#[test]
fn an_issuer_that_was_lost_is_notified_of_what_nobody_waits_for() {
    let abandons = |out: &[Output], issuer: NodeId, request_id: RequestId| {
        out.iter().any(|output| {
            matches!(output, Output::Send { to, message }
                if to[..] == [issuer] && message.body == Body::Abandon
                    && message.request_id == request_id)
        })
    };
    // The link to the issuer ends, and comes up again before the deadline, or after it.
    for (after, is_sent) in [(100, true), (600, false)] {
        let mut bench = Bench::new();
        let key = key_at(&bench, 1);
        let out = bench.query(decide(&key, 1, WriteRule::Cover));
        let [Output::Send { to, message }] = &out[..] else { panic!("{out:?}") };
        let (issuer, request_id) = (to[0], message.request_id);
        let out = bench.give(Input::Link { peer: issuer, up: false });
        assert!(!abandons(&out, issuer, request_id), "nothing can be sent");
        bench.tick(after);
        let out = bench.give(Input::Link { peer: issuer, up: true });
        assert_eq!(abandons(&out, issuer, request_id), is_sent, "after {after} ms: {out:?}");
        bench.give(Input::Link { peer: issuer, up: false });
        let out = bench.give(Input::Link { peer: issuer, up: true });
        assert!(!abandons(&out, issuer, request_id), "once");
    }
}

#[test]
fn what_a_lost_node_has_forwarded_is_void_before_anything_is_decided_without_it() {
    let (mut bench, disk) = (Bench::new(), MemoryStore::default());
    let key = key_at(&bench, 0);
    // The node that forwarded it is the owner that is asked, and no other owner can be.
    let [from, other] = bench.others(&key)[..] else { panic!("three owners") };
    bench.give(Input::Link { peer: other, up: false });
    let request = decide(&key, 1, WriteRule::Cover);
    let out = bench.peer(from, 5, Body::Coordinate { request, timeout_ms: 400 });
    let (_, survey) = asked(&out);
    bench.carry(out, &disk);
    bench.peer(from, survey, Body::Wanted);
    // Another write of the key is on its way to the disk, so the key is in memory meanwhile.
    let out = bench.query(super::put(&key, 3));
    let [Output::Store(Work::Read { token, partition, .. })] = out[..] else { panic!("{out:?}") };
    let found = disk.read(partition, &key).unwrap();
    bench.give(Input::Store(Done::Read { token, found, hints: Vec::new() }));
    let out = bench.give(Input::Link { peer: from, up: false });
    let writes = |output: &Output| match output {
        Output::Store(Work::Write { changes, .. }) => {
            changes.iter().any(|change| matches!(change, Change::Record { .. }))
        }
        _ => false,
    };
    assert!(!out.iter().any(writes), "nothing is written: {out:?}");
}
