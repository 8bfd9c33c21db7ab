//! What is kept for owners that are out of reach or late.

use bytes::Bytes;
use pixii_core::causal::{Actor, ActorEpoch, Context, Object, Version};
use pixii_core::gc_epoch::{GcEpoch, GcState};
use pixii_core::message::{Body, Rejection, Response};
use pixii_core::node::{Input, Output};
use pixii_core::store::memory::MemoryStore;
use pixii_core::store::{Found, Record, Store};
use pixii_core::types::{Blob, NodeId, WriteId};

use super::bench::{Bench, object, put};

#[test]
fn a_fallback_takes_the_place_of_an_owner_that_is_gone_or_late_and_is_one_slot_with_it() {
    let mut bench = Bench::new();
    let key = bench.key(true);
    let (gone, late) = (bench.others(&key)[0], bench.others(&key)[1]);
    let fallback = bench.fallback(&key);
    bench.give(Input::Link { peer: gone, up: false });
    let disk = MemoryStore::default();
    let out = bench.query(put(&key, 1));
    let out = bench.carry(out, &disk);
    let [Output::Send { to: merged, message: merge }, Output::Send { to: kept, message: keep }] =
        &out[..]
    else {
        panic!("{out:?}")
    };
    assert_eq!((&merged[..], &kept[..]), (&[late][..], &[fallback][..]));
    assert!(matches!(merge.body, Body::Merge { .. }));
    let Body::StoreHint { hint_for, .. } = &keep.body else { panic!("{keep:?}") };
    assert_eq!(*hint_for, [gone]);
    let (request_id, body) = (keep.request_id.wire(), Body::Ack);
    let out = bench.peer(fallback, request_id, body);
    assert!(matches!(out[..], [Output::Reply { response: Response::Written { .. }, .. }]));
    // The late one gets its hint when it is really late: here, because others are missing.
    let out = bench.tick(600);
    let out = bench.carry(out, &disk);
    let [Output::Send { to, message }] = &out[..] else { panic!("{out:?}") };
    assert_eq!(to[..], [late], "its link is up: the hint is offered at once");
    assert!(matches!(message.body, Body::Merge { .. }));
    let kept = disk.hints_durable(&key);
    assert!(matches!(&kept[..], [(target, Found::Record(_))] if *target == late), "{kept:?}");
    assert!(bench.node.is_idle());
}

#[test]
fn a_hint_is_kept_offered_and_removed_only_if_it_is_what_its_target_has() {
    let mut bench = Bench::new();
    let key = bench.key(false);
    let disk = MemoryStore::default();
    let owners = bench.owners(&key);
    let (target, other) = (owners[0], owners[1]);
    bench.give(Input::Link { peer: target, up: false });
    let keep = |write: u128| {
        let version = Version { write: WriteId(write), value: Blob(Bytes::from_static(b"v")) };
        let actor = Actor { store: write as u64, actor_epoch: ActorEpoch(1) };
        let (object, _) = Object::default().update(&Context::default(), actor, version);
        Body::StoreHint {
            key: key.clone(),
            object,
            hint_for: vec![target],
            gc_epoch: GcEpoch::FIRST,
        }
    };
    let out = bench.peer(other, 70, keep(1));
    let held = bench.carry(out, &disk);
    assert!(matches!(&held[..], [Output::Send { message, .. }] if message.body == Body::Ack));
    let read = |bench: &mut Bench| {
        let out = bench.peer(other, 71, Body::Read { key: key.clone() });
        match &bench.carry(out, &disk)[..] {
            [Output::Send { message, .. }] => message.body.clone(),
            out => panic!("{out:?}"),
        }
    };
    let Body::Copy { object, kept_for, .. } = read(&mut bench) else { panic!() };
    assert_eq!((object.len(), kept_for), (1, vec![target]));
    assert_eq!(bench.node.peer_view(bench.now, target).hints.count, 1);

    let out = bench.give(Input::Link { peer: target, up: true });
    let out = bench.carry(out, &disk);
    let offer = |out: &[Output]| match out.last() {
        Some(Output::Send { to, message }) if to[..] == [target] => {
            (message.request_id.wire(), message.body.clone())
        }
        _ => panic!("{out:?}"),
    };
    let (request_id, offered) = offer(&out);
    assert_eq!(offered, Body::Merge { key: key.clone(), object, gc_epoch: GcEpoch::FIRST });
    // It changes while it is in flight: the confirmation of the old one removes nothing.
    let out = bench.peer(other, 72, keep(2));
    bench.carry(out, &disk);
    let out = bench.peer(target, request_id, Body::Ack);
    let out = bench.carry(out, &disk);
    assert_eq!(bench.node.peer_view(bench.now, target).hints.count, 1);
    let (request_id, offered) = offer(&out);
    assert!(matches!(offered, Body::Merge { object, .. } if object.len() == 2));
    // Somebody else cannot have it removed.
    let Body::Copy { object, .. } = read(&mut bench) else { panic!() };
    let out = bench.peer(other, 73, Body::DeleteHint { key: key.clone(), target, object });
    bench.carry(out, &disk);
    assert_eq!(bench.node.peer_view(bench.now, target).hints.count, 1);
    let out = bench.peer(target, request_id, Body::Ack);
    bench.carry(out, &disk);
    assert_eq!(bench.node.peer_view(bench.now, target).hints.count, 0);
    assert!(disk.hints_durable(&key).is_empty());
    let Body::Copy { kept_for, .. } = read(&mut bench) else { panic!() };
    assert!(kept_for.is_empty(), "it says nothing of what it does not keep");
}

#[test]
fn hints_have_a_limit_and_are_for_owners_only() {
    let mut bench = Bench::new();
    let key = bench.key(false);
    let (other, disk) = (bench.owners(&key)[0], MemoryStore::default());
    let refused = |bench: &mut Bench, bytes: usize, hint_for: Vec<NodeId>| {
        let version = Version { write: WriteId(1), value: Blob(vec![7; bytes].into()) };
        let actor = Actor { store: 1, actor_epoch: ActorEpoch(1) };
        let (object, _) = Object::default().update(&Context::default(), actor, version);
        let out = bench.peer(
            other,
            70,
            Body::StoreHint { key: key.clone(), object, hint_for, gc_epoch: GcEpoch::FIRST },
        );
        match bench.carry(out, &disk).first() {
            Some(Output::Send { message, .. }) => message.body.clone(),
            out => panic!("{out:?}"),
        }
    };
    let me = bench.me;
    let answer = refused(&mut bench, 1, vec![me]);
    assert_eq!(answer, Body::Failed(Rejection::Stranger(me)));
    // One that this node does not know may be a newcomer of a ring that it does not have yet.
    assert_eq!(refused(&mut bench, 1, vec![NodeId(1)]), Body::Ack);
    let held = bench.key(true);
    let (member, object) = (bench.fallback(&held), object(1));
    let hint_for = vec![member];
    let hint = Body::StoreHint { key: held, object, hint_for, gc_epoch: GcEpoch::FIRST };
    let out = bench.peer(other, 70, hint);
    let answer = Body::Failed(Rejection::Stranger(member));
    let is_answer = |output: &Output| match output {
        Output::Send { message, .. } => message.body == answer,
        _ => false,
    };
    assert!(bench.carry(out, &disk).iter().any(is_answer), "a member that is no owner");
    let answer = refused(&mut bench, 1 << 20, vec![other]);
    assert_eq!(answer, Body::Failed(Rejection::Hints(1 << 20)));
    assert_eq!(refused(&mut bench, 1 << 19, vec![other]), Body::Ack);
}

#[test]
fn a_write_that_an_owner_has_not_confirmed_is_kept_for_it_though_the_gc_epoch_has_changed() {
    for fallback_refuses in [true, false] {
        let (mut bench, disk) = (Bench::new(), MemoryStore::default());
        let key = bench.key(true);
        let (partition, owner) = (bench.ring.partition(&key), bench.others(&key)[0]);
        let out = bench.query(put(&key, 1));
        let out = bench.carry(out, &disk);
        let [Output::Send { message, .. }] = &out[..] else { panic!("{out:?}") };
        let request_id = message.request_id.wire();
        let gc_epoch = GcState { number: GcEpoch(1), ..GcState::default() };
        let out = bench.peer(owner, 80, Body::GcState { partition, gc_epoch });
        bench.carry(out, &disk);
        let out = bench.tick(100);
        let out = bench.carry(out, &disk);
        let queried = |output: &Output| match output {
            Output::Send { to, message } => {
                matches!(message.body, Body::StoreHint { .. }) && to[..] == [bench.fallback(&key)]
            }
            _ => false,
        };
        assert!(out.iter().any(queried), "{out:?}");
        if fallback_refuses {
            let rejection = Rejection::GcState { given: GcEpoch::FIRST, own: GcEpoch(1) };
            let out = bench.peer(bench.fallback(&key), request_id, Body::Failed(rejection));
            bench.carry(out, &disk);
        } else {
            let out = bench.tick(400);
            bench.carry(out, &disk);
        }
        let own = disk.read(partition, &key).unwrap();
        let Found::Record(Record { object, .. }) = own else { panic!("{own:?}") };
        let kept = bench.others(&key).into_iter().filter_map(|owner| {
            match disk.read_hint(owner, &key).unwrap() {
                Found::Record(hint) => Some((hint.object, hint.gc_epoch)),
                _ => None,
            }
        });
        let kept: Vec<(Object, GcEpoch)> = kept.collect();
        assert_eq!(kept, vec![(object, GcEpoch(1)); 2]);
    }
}

#[test]
fn a_new_hint_is_not_joined_with_one_that_is_too_old() {
    let (mut bench, disk) = (Bench::new(), MemoryStore::default());
    let key = bench.key(false);
    let (partition, owner) = (bench.ring.partition(&key), bench.owners(&key)[0]);
    let keep = |number: u128, gc_epoch: GcEpoch| {
        let (key, object) = (key.clone(), object(number));
        Body::StoreHint { key, object, hint_for: vec![owner], gc_epoch }
    };
    let out = bench.peer(owner, 80, keep(1, GcEpoch::FIRST));
    bench.carry(out, &disk);
    for number in [1, 2].map(GcEpoch) {
        let gc_epoch = GcState { number, ..GcState::default() };
        let out = bench.peer(owner, 81, Body::GcState { partition, gc_epoch });
        bench.carry(out, &disk);
    }
    let out = bench.peer(owner, 82, keep(2, GcEpoch(2)));
    bench.carry(out, &disk);
    let hint = disk.read_hint(owner, &key).unwrap();
    let Found::Record(Record { object: kept, gc_epoch, .. }) = hint else { panic!("{hint:?}") };
    assert_eq!(gc_epoch, GcEpoch(2), "it does not go with the old one");
    let held = kept.context();
    assert!(object(2).values().all(|(dot, _)| held.covers(dot)), "{kept:?}");
}
