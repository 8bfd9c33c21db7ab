//! What is kept for homes that are out of reach or late.

use bytes::Bytes;
use pixii_core::causal::{Actor, Context, Object, Version};
use pixii_core::generation::{GcEpoch, Generation};
use pixii_core::message::{Body, Refusal, Response};
use pixii_core::node::{Input, Output};
use pixii_core::store::memory::MemoryStore;
use pixii_core::store::{Found, Record, Store};
use pixii_core::types::{Blob, NodeId, WriteId};

use super::bench::{Bench, object, put};

#[test]
fn a_stand_in_takes_the_place_of_a_home_that_is_gone_or_late_and_is_one_slot_with_it() {
    let mut bench = Bench::new();
    let key = bench.key(true);
    let (gone, late) = (bench.others(&key)[0], bench.others(&key)[1]);
    let stand_in = bench.stand_in(&key);
    bench.give(Input::Link { peer: gone, up: false });
    let disk = MemoryStore::default();
    let out = bench.ask(put(&key, 1));
    let out = bench.carry(out, &disk);
    let [Output::Send { to: merged, message: merge }, Output::Send { to: kept, message: keep }] =
        &out[..]
    else {
        panic!("{out:?}")
    };
    assert_eq!((merged, kept), (&vec![late], &vec![stand_in]));
    assert!(matches!(merge.body, Body::Merge { .. }));
    let Body::Keep { keep_for, .. } = &keep.body else { panic!("{keep:?}") };
    assert_eq!(*keep_for, [gone]);
    let (op, body) = (keep.op, Body::Held);
    let out = bench.peer(stand_in, op, body);
    assert!(matches!(out[..], [Output::Reply { response: Response::Written { .. }, .. }]));
    // The late one gets its hint when it is really late: here, for want of others.
    let out = bench.tick(600);
    let out = bench.carry(out, &disk);
    let [Output::Send { to, message }] = &out[..] else { panic!("{out:?}") };
    assert_eq!(*to, [late], "its link is up: the hint is offered at once");
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
    let homes = bench.homes(&key);
    let (target, other) = (homes[0], homes[1]);
    bench.give(Input::Link { peer: target, up: false });
    let keep = |write: u128| {
        let version = Version { write: WriteId(write), value: Blob(Bytes::from_static(b"v")) };
        let actor = Actor { store: write as u64, serial: 1 };
        let (object, _) = Object::default().update(&Context::default(), actor, version);
        Body::Keep { key: key.clone(), object, keep_for: vec![target], generation: GcEpoch::FIRST }
    };
    let out = bench.peer(other, 70, keep(1));
    let held = bench.carry(out, &disk);
    assert!(matches!(&held[..], [Output::Send { message, .. }] if message.body == Body::Held));
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
        Some(Output::Send { to, message }) if *to == [target] => (message.op, message.body.clone()),
        _ => panic!("{out:?}"),
    };
    let (op, offered) = offer(&out);
    assert_eq!(offered, Body::Merge { key: key.clone(), object, generation: GcEpoch::FIRST });
    // It changes while it is in flight: the confirmation of the old one removes nothing.
    let out = bench.peer(other, 72, keep(2));
    bench.carry(out, &disk);
    let out = bench.peer(target, op, Body::Held);
    let out = bench.carry(out, &disk);
    assert_eq!(bench.node.peer_view(bench.now, target).hints.count, 1);
    let (op, offered) = offer(&out);
    assert!(matches!(offered, Body::Merge { object, .. } if object.len() == 2));
    // Somebody else cannot have it removed.
    let Body::Copy { object, .. } = read(&mut bench) else { panic!() };
    let out = bench.peer(other, 73, Body::Discharge { key: key.clone(), target, object });
    bench.carry(out, &disk);
    assert_eq!(bench.node.peer_view(bench.now, target).hints.count, 1);
    let out = bench.peer(target, op, Body::Held);
    bench.carry(out, &disk);
    assert_eq!(bench.node.peer_view(bench.now, target).hints.count, 0);
    assert!(disk.hints_durable(&key).is_empty());
    let Body::Copy { kept_for, .. } = read(&mut bench) else { panic!() };
    assert!(kept_for.is_empty(), "it says nothing of what it does not keep");
}

#[test]
fn hints_have_a_limit_and_are_for_home_replicas_only() {
    let mut bench = Bench::new();
    let key = bench.key(false);
    let (other, disk) = (bench.homes(&key)[0], MemoryStore::default());
    let refused = |bench: &mut Bench, bytes: usize, keep_for: Vec<NodeId>| {
        let version = Version { write: WriteId(1), value: Blob(vec![7; bytes].into()) };
        let actor = Actor { store: 1, serial: 1 };
        let (object, _) = Object::default().update(&Context::default(), actor, version);
        let out = bench.peer(
            other,
            70,
            Body::Keep { key: key.clone(), object, keep_for, generation: GcEpoch::FIRST },
        );
        match bench.carry(out, &disk).first() {
            Some(Output::Send { message, .. }) => message.body.clone(),
            out => panic!("{out:?}"),
        }
    };
    for stranger in [NodeId(1), bench.me] {
        let answer = refused(&mut bench, 1, vec![stranger]);
        assert_eq!(answer, Body::Failed(Refusal::Stranger(stranger)));
    }
    let answer = refused(&mut bench, 1 << 20, vec![other]);
    assert_eq!(answer, Body::Failed(Refusal::Hints(1 << 20)));
    assert_eq!(refused(&mut bench, 1 << 19, vec![other]), Body::Held);
}

#[test]
fn a_write_that_a_home_has_not_confirmed_is_kept_for_it_though_the_generation_has_changed() {
    for stand_in_refuses in [true, false] {
        let (mut bench, disk) = (Bench::new(), MemoryStore::default());
        let key = bench.key(true);
        let (partition, home) = (bench.ring.partition(&key), bench.others(&key)[0]);
        let out = bench.ask(put(&key, 1));
        let out = bench.carry(out, &disk);
        let [Output::Send { message, .. }] = &out[..] else { panic!("{out:?}") };
        let op = message.op;
        let generation = Generation { number: GcEpoch(1), ..Generation::default() };
        let out = bench.peer(home, 80, Body::Generation { partition, generation });
        bench.carry(out, &disk);
        let out = bench.tick(100);
        let out = bench.carry(out, &disk);
        let asked = |output: &Output| match output {
            Output::Send { to, message } => {
                matches!(message.body, Body::Keep { .. }) && *to == [bench.stand_in(&key)]
            }
            _ => false,
        };
        assert!(out.iter().any(asked), "{out:?}");
        if stand_in_refuses {
            let refusal = Refusal::Generation { given: GcEpoch::FIRST, own: GcEpoch(1) };
            let out = bench.peer(bench.stand_in(&key), op, Body::Failed(refusal));
            bench.carry(out, &disk);
        } else {
            let out = bench.tick(400);
            bench.carry(out, &disk);
        }
        let own = disk.read(partition, &key).unwrap();
        let Found::Record(Record { object, .. }) = own else { panic!("{own:?}") };
        let kept = bench.others(&key).into_iter().filter_map(|home| {
            match disk.read_hint(home, &key).unwrap() {
                Found::Record(hint) => Some((hint.object, hint.generation)),
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
    let (partition, home) = (bench.ring.partition(&key), bench.homes(&key)[0]);
    let keep = |number: u128, generation: GcEpoch| {
        let (key, object) = (key.clone(), object(number));
        Body::Keep { key, object, keep_for: vec![home], generation }
    };
    let out = bench.peer(home, 80, keep(1, GcEpoch::FIRST));
    bench.carry(out, &disk);
    for number in [1, 2].map(GcEpoch) {
        let generation = Generation { number, ..Generation::default() };
        let out = bench.peer(home, 81, Body::Generation { partition, generation });
        bench.carry(out, &disk);
    }
    let out = bench.peer(home, 82, keep(2, GcEpoch(2)));
    bench.carry(out, &disk);
    let hint = disk.read_hint(home, &key).unwrap();
    let Found::Record(Record { object: kept, generation, .. }) = hint else { panic!("{hint:?}") };
    assert_eq!(generation, GcEpoch(2), "it does not go with the old one");
    let held = kept.context();
    assert!(object(2).values().all(|(dot, _)| held.covers(dot)), "{kept:?}");
}
