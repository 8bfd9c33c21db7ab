//! How large a key may become: what is declined, who keeps it, and what a read shows of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use pixii_core::causal::{Actor, ActorEpoch, Context, Dot, Object, Version};
use pixii_core::gc_epoch::GcEpoch;
use pixii_core::members::Cluster;
use pixii_core::message::{
    Body, Counter, Measure, PeerMessage, Quorum, Rejection, Request, RequestId, Response,
};
use pixii_core::node::{Config, Input, Notice, Output};
use pixii_core::ring::Ring;
use pixii_core::rng::Rng;
use pixii_core::store::memory::MemoryStore;
use pixii_core::store::{Change, Found, Meta, Record, Store};
use pixii_core::types::{Blob, Key, ObjectLimits, Partition, WriteId};
use pixii_core::wire;

use super::bench::{Bench, put, rejection};

/// Set in the ids of handoff's messages.
const HINT: u64 = 1 << 63;
const LIMITS: ObjectLimits = ObjectLimits { accepted: 2_000, merged: 6_000 };

fn bench() -> Bench {
    Bench::serving(Bench::configured(1, |config| Config { object_limits: LIMITS, ..config }))
}

/// An object with one value of `bytes` bytes, made by a store of its own.
fn large(write: u128, bytes: usize) -> Object {
    let version = Version { write: WriteId(write), value: Blob(Bytes::from(vec![7; bytes])) };
    let actor = Actor { store: write as u64, actor_epoch: ActorEpoch(1) };
    Object::default().update(&Context::default(), actor, version).0
}

fn sent(out: &[Output]) -> Vec<&Body> {
    let bodies = out.iter().filter_map(|output| match output {
        Output::Send { message, .. } => Some(&message.body),
        _ => None,
    });
    bodies.collect()
}

fn count(bench: &Bench, counter: Counter) -> u64 {
    let counters = bench.node.counters();
    counters.into_iter().find(|(of, _)| *of == counter).map_or(0, |(_, count)| count)
}

#[test]
fn an_owner_declines_what_a_key_would_outgrow_and_takes_what_settles_it() {
    let (mut bench, disk) = (bench(), MemoryStore::default());
    let (key, peer) = (bench.key(true), bench.peers()[0]);
    let merge = |bench: &mut Bench, request_id: u64, object: Object| {
        let merge = Body::Merge { key: key.clone(), object, gc_epoch: GcEpoch::FIRST };
        let out = bench.peer(peer, request_id, merge);
        let out = bench.carry(out, &disk);
        let reported =
            out.iter().any(|output| matches!(output, Output::Notice(Notice::Declined(_))));
        (sent(&out)[0].clone(), reported)
    };
    let declined = |(body, reported): (Body, bool), over: u64| match body {
        Body::Failed(Rejection::Limit { what, given, limit }) => {
            assert_eq!((what, limit), (Measure::SiblingBytes, over));
            assert!(given > limit);
            reported
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(merge(&mut bench, HINT | 1, large(1, 1_500)), (Body::Ack, false));
    let reported = declined(merge(&mut bench, HINT | 2, large(2, 1_500)), 2_000);
    assert!(reported, "the log names the key");
    assert_eq!(merge(&mut bench, HINT | 3, large(1, 1_500)), (Body::Ack, false), "nothing new");
    for write in 2..=3 {
        assert_eq!(merge(&mut bench, write, large(write.into(), 1_900)), (Body::Ack, false));
    }
    let reported = declined(merge(&mut bench, 4, large(4, 1_500)), 6_000);
    assert!(!reported, "once in a minute");
    assert_eq!(
        (count(&bench, Counter::HintsDeclined), count(&bench, Counter::MergesDeclined)),
        (1, 1)
    );
    let settled = [1, 2, 3]
        .map(|store| Dot { actor: Actor { store, actor_epoch: ActorEpoch(1) }, counter: 1 });
    let gone = large(1, 1_500).discard(&Context::new(settled.to_vec()));
    assert_eq!(merge(&mut bench, 5, gone), (Body::Ack, false));
    // Where nothing else is alive, a hint is taken with what is dead beside it.
    assert_eq!(merge(&mut bench, HINT | 6, large(6, 1_980)), (Body::Ack, false));
}

#[test]
fn a_declined_hint_stays_waits_and_holds_up_no_other_one() {
    let (mut bench, disk) = (bench(), MemoryStore::default());
    let key = bench.key(false);
    let (partition, target) = (bench.ring.partition(&key), bench.owners(&key)[0]);
    bench.give(Input::Link { peer: target, up: false });
    let keep = |key: &Key, object: Object| Body::StoreHint {
        key: key.clone(),
        object,
        hint_for: vec![target],
        gc_epoch: GcEpoch::FIRST,
    };
    let out = bench.peer(bench.owners(&key)[1], 80, keep(&key, large(1, 500)));
    assert_eq!(sent(&bench.carry(out, &disk)), [&Body::Ack]);
    let out = bench.give(Input::Link { peer: target, up: true });
    let out = bench.carry(out, &disk);
    let offered = |out: &[Output]| {
        let hint = |output: &Output| match output {
            Output::Send { message, .. } if matches!(message.body, Body::Merge { .. }) => {
                Some(message.request_id.wire())
            }
            _ => None,
        };
        out.iter().find_map(hint)
    };
    let request_id = offered(&out).expect("the hint is offered");
    let limit = Rejection::Limit { what: Measure::SiblingBytes, given: 2_100, limit: 2_000 };
    let out = bench.peer(target, request_id, Body::Failed(limit));
    bench.carry(out, &disk);
    assert!(matches!(disk.read_hint(target, &key).unwrap(), Found::Record(_)), "it stays");
    // What the target can do nothing with now is not pending to it.
    let (mut out, query) = (
        Vec::new(),
        PeerMessage {
            ring: bench.node.ring_id(),
            request_id: RequestId::of_wire(9),
            body: Body::QueryHints,
        },
    );
    bench.node.handle(bench.now, Input::Peer { from: target, message: query }, &mut out);
    assert_eq!(sent(&out), [&Body::Hints(0)]);
    // Another hint passes it.
    let mut keys = (0..1_000).map(|at| Key::new(format!("other{at}").into_bytes()).unwrap());
    let same = |other: &Key| bench.ring.partition(other) == partition;
    let other = keys.find(same).unwrap();
    let out = bench.peer(bench.owners(&key)[1], 81, keep(&other, large(2, 10)));
    bench.carry(out, &disk);
    let out = bench.tick(1_500);
    let out = bench.carry(out, &disk);
    let passed = sent(&out).into_iter().filter_map(|body| match body {
        Body::Merge { key, .. } => Some(key.clone()),
        _ => None,
    });
    assert_eq!(passed.collect::<Vec<_>>(), [other]);
    let request_id = offered(&out).unwrap();
    let out = bench.peer(target, request_id, Body::Ack);
    bench.carry(out, &disk);
    let out = bench.tick(3_000);
    assert_eq!(offered(&bench.carry(out, &disk)), None, "five seconds");
    let out = bench.tick(2_000);
    assert!(offered(&bench.carry(out, &disk)).is_some(), "then it is offered again");
}

#[test]
fn what_is_kept_of_one_key_has_a_limit_for_all_its_owners_together() {
    let (mut bench, disk) = (bench(), MemoryStore::default());
    let key = bench.key(false);
    let owners = bench.owners(&key);
    let keep = |bench: &mut Bench, write: u128, target: usize| {
        let (key, hint_for) = (key.clone(), vec![owners[target]]);
        let body = Body::StoreHint {
            key,
            object: large(write, 1_900),
            hint_for,
            gc_epoch: GcEpoch::FIRST,
        };
        let out = bench.peer(owners[0], 80, body);
        sent(&bench.carry(out, &disk))[0].clone()
    };
    for (write, target) in [(1, 0), (2, 1), (3, 2), (3, 0)] {
        assert_eq!(keep(&mut bench, write, target), Body::Ack);
    }
    let refused = keep(&mut bench, 4, 1);
    assert!(matches!(refused, Body::Failed(Rejection::Limit { limit: 6_000, .. })), "{refused:?}");
}

#[test]
fn a_put_is_held_to_the_limit_of_the_cluster_and_a_delete_of_nothing_too() {
    let (mut bench, disk) = (bench(), MemoryStore::default());
    let key = bench.key(true);
    let (partition, record) =
        (bench.ring.partition(&key), Record { object: large(1, 1_990), ..Record::default() });
    disk.apply(&[Change::Record { partition, key: key.clone(), record }]).unwrap();
    let out = bench.query(put(&key, 2));
    let out = bench.carry(out, &disk);
    assert!(matches!(rejection(&out), Rejection::Object(2_000..)), "{out:?}");
    let dots = (0..3_000)
        .map(|store| Dot { actor: Actor { store, actor_epoch: ActorEpoch(1) }, counter: 1 });
    let context = Some(wire::seal(&key, &Context::new(dots.collect())));
    let out = bench.query(Request::Delete { key: key.clone(), context, w: None.into() });
    let out = bench.carry(out, &disk);
    assert!(matches!(rejection(&out), Rejection::Object(6_000..)));
}

/// An object whose values were written by a few actors, some of them dead.
fn random(rng: &mut Rng) -> Object {
    let mut object = Object::default();
    for write in 0..1 + rng.below(24) {
        let value = Blob(Bytes::from(vec![1; rng.below(400) as usize]));
        // Some writes were repeated at another replica.
        let write = WriteId(u128::from(if rng.chance(0.1) { write / 2 } else { write }));
        let actor = Actor { store: rng.below(5), actor_epoch: ActorEpoch(1) };
        let seen = match rng.chance(0.2) {
            true => object.values().next().map(|(dot, _)| dot).into_iter().collect(),
            false => Vec::new(),
        };
        object = object.update(&Context::new(seen), actor, Version { write, value }).0;
    }
    object
}

#[test]
fn a_context_covers_exactly_what_is_shown_and_what_is_dead() {
    let rng = &mut Rng::new(77);
    for _ in 0..2_000 {
        let object = random(rng);
        let mut room = rng.below(3_000) as i64;
        let (shown, context) = object.shown(|version| {
            room -= version.value.0.len() as i64;
            room >= 0
        });
        let shown: Vec<*const Version> =
            shown.into_iter().map(|version| &raw const *version).collect();
        for (dot, version) in object.values() {
            assert_eq!(context.covers(dot), shown.contains(&&raw const *version));
        }
        for dot in object.dead().dots() {
            assert!(context.covers(*dot));
        }
        assert!(context.dots().iter().all(|dot| object.covers(*dot) && dot.counter > 0));
        let copy = wire::decode::<Object>(&wire::encode(&object).into()).unwrap();
        assert_eq!(copy.share(&object), object);
    }
}

#[test]
fn a_key_over_the_limit_is_read_and_settled_in_parts() {
    let (mut bench, disk) = (bench(), MemoryStore::default());
    let key = bench.key(true);
    let partition = bench.ring.partition(&key);
    // As an older version may have left it.
    let all = (1..=20).fold(Object::default(), |all, write| all.sync(&large(write, 900)));
    let record = Record { object: all, ..Record::default() };
    disk.apply(&[Change::Record { partition, key: key.clone(), record }]).unwrap();
    let (mut seen, mut rounds) = (0, 0);
    loop {
        let one = Quorum { replicas: Some(1), strict: Some(true) };
        let out = bench.query(Request::Get { key: key.clone(), r: one });
        let out = bench.carry(out, &disk);
        let found = out.iter().find_map(|output| match output {
            Output::Reply { response: Response::Found { values, context, .. }, .. } => {
                Some((values.clone(), context.clone()))
            }
            _ => None,
        });
        let Some((values, context)) = found else { panic!("{out:?}") };
        if values.is_empty() {
            break;
        }
        let bytes: usize = values.iter().map(|value| value.0.len()).sum();
        assert!(bytes <= LIMITS.merged, "{bytes}");
        (seen, rounds) = (seen + values.len(), rounds + 1);
        let context = Some(context);
        let out = bench.query(Request::Delete { key: key.clone(), context, w: one });
        bench.carry(out, &disk);
        let out = bench.tick(500);
        bench.carry(out, &disk);
    }
    assert_eq!(seen, 20, "every sibling was shown before it went");
    assert_eq!(rounds, 4);
    assert_eq!(count(&bench, Counter::ReadsCutShort), 3);
}

/// How many values a read shows where every owner is read-ineligible and has one of so many bytes;
/// `None` if it is not answered.
fn read_of_ineligible_owners(bytes: usize) -> Option<usize> {
    let limited = |config| Config { object_limits: LIMITS, ..config };
    let ineligible = |meta| Meta { read_ineligible: (0..16).map(Partition).collect(), ..meta };
    let mut bench = Bench::serving(Bench::with_meta(1, limited, ineligible));
    let (key, disk) = (bench.key(true), MemoryStore::default());
    let partition = bench.ring.partition(&key);
    let record = Record { object: large(1, bytes), ..Record::default() };
    disk.apply(&[Change::Record { partition, key: key.clone(), record }]).unwrap();
    let out = bench.query(Request::Get { key, r: None.into() });
    let (mut todo, mut write) = (out, 1);
    while !todo.is_empty() {
        for output in bench.carry(std::mem::take(&mut todo), &disk) {
            match output {
                Output::Send { to, message } if matches!(message.body, Body::Read { .. }) => {
                    for from in to {
                        write += 1;
                        let (object, authoritative) = (large(write, bytes), false);
                        let (kept_for, gc_epoch) = (Vec::new(), GcEpoch::FIRST);
                        let copy = Body::Copy { object, authoritative, kept_for, gc_epoch };
                        todo.extend(bench.peer(from, message.request_id.wire(), copy));
                    }
                }
                Output::Reply { response: Response::Found { values, .. }, .. } => {
                    return Some(values.len());
                }
                _ => {}
            }
        }
    }
    None
}

#[test]
fn a_key_that_no_owner_can_take_over_is_read_though_all_are_ineligible() {
    assert_eq!(read_of_ineligible_owners(LIMITS.merged / 2), Some(1), "as many as fit");
    // What an owner can take over makes it eligible: until then it may lack an acknowledged write.
    assert_eq!(read_of_ineligible_owners(LIMITS.merged / 10), None);
}

#[test]
fn a_sole_owner_that_lost_its_disk_says_so_until_an_operator_accepts_it() {
    let mut ring = None;
    let mut bench = Bench::configured(1, |config| {
        let ids: Vec<_> = config.ring.members().iter().map(|member| member.id).collect();
        let alone = Arc::new(Ring::new(&ids, 1, 16).unwrap());
        ring = Some(alone.clone());
        Config { ring: alone, r: 1, w: 1, ..config }
    });
    bench.ring = ring.unwrap();
    let disk = MemoryStore::default();
    let founders = bench.peers().into_iter().zip(2..).chain([(bench.me, 99)]).collect();
    let cluster = Cluster::found("c", founders);
    let mut notices = Vec::new();
    for (peer, birth) in bench.peers().into_iter().zip(2..) {
        bench.give(Input::Link { peer, up: true });
        let known = Body::Known { seen: None, birth, cluster: Some(cluster.clone()) };
        let out = bench.peer(peer, bench.introduction(), known);
        notices.extend(bench.carry(out, &disk));
        bench.peer(peer, 5, Body::Hints(0));
    }
    let out = bench.tick(5_000);
    notices.extend(bench.carry(out, &disk));
    let share = bench.ring.share(bench.me);
    let lost = |notices: &[Output]| {
        let reported = notices.iter().filter_map(|output| match output {
            Output::Notice(Notice::Lost(partitions)) => Some(*partitions as usize),
            Output::Notice(Notice::Recovered) => panic!("nobody has what is lost"),
            _ => None,
        });
        reported.collect::<Vec<_>>()
    };
    assert_eq!(lost(&notices), [share], "it is said once");
    assert_eq!((bench.node.lost().len(), bench.node.meta().read_ineligible.len()), (share, share));
    let key = bench.key(true);
    let strict = Quorum { replicas: Some(1), strict: Some(true) };
    let get = || Request::Get { key: key.clone(), r: strict };
    let out = bench.query(get());
    let out = bench.carry(out, &disk);
    let why = rejection(&out).to_string();
    assert!(why.contains("whose disk was lost") && why.contains("--accept-loss"), "{why}");
    let out = bench.query(put(&key, 1));
    let out = bench.carry(out, &disk);
    let written = |output: &Output| {
        matches!(output, Output::Reply { response: Response::Written { .. }, .. })
    };
    assert!(out.iter().any(written), "writes go on: {out:?}");
    let out = bench.give(Input::AcceptLoss);
    assert!(
        !out.iter().any(|output| matches!(output, Output::Notice(_))),
        "not before it is synced"
    );
    let out = bench.carry(out, &disk);
    let accepted = Notice::LossAccepted(share as u32);
    assert!(
        out.iter().any(|output| matches!(output, Output::Notice(n) if *n == accepted)),
        "{out:?}"
    );
    let of_disk = disk.meta().unwrap().unwrap();
    assert_eq!(of_disk.read_ineligible, []);
    let out = bench.query(get());
    let out = bench.carry(out, &disk);
    let found =
        |output: &Output| matches!(output, Output::Reply { response: Response::Found { .. }, .. });
    assert!(out.iter().any(found), "{out:?}");
    let all: BTreeSet<_> = bench.node.lost().into_iter().collect();
    assert!(all.is_empty());
}
