//! A store that makes no progress: the node refuses at once what needs it, and withdraws what waits
//! for it. Nothing that was handed to the store is reported as refused.

use pixii_core::gc_epoch::GcEpoch;
use pixii_core::message::{Body, Quorum, Rejection, Request, Response};
use pixii_core::node::{Done, Input, Output, Stall, Work};
use pixii_core::store::memory::MemoryStore;
use pixii_core::store::{Found, Store};

use super::bench::{Bench, object, put, rejection};

fn failed(out: &[Output], to: pixii_core::types::NodeId) -> bool {
    matches!(out, [Output::Send { to: peers, message }] if peers[..] == [to]
        && matches!(message.body, Body::Failed(Rejection::Busy { limit: 2_000, .. })))
}

#[test]
fn an_owner_whose_store_is_stalled_refuses_what_needs_it_and_serves_again_after_it() {
    let (mut bench, disk) = (Bench::new(), MemoryStore::default());
    let key = bench.key(true);
    let peer = bench.others(&key)[0];
    let merge = || Body::Merge { key: key.clone(), object: object(1), gc_epoch: GcEpoch::FIRST };
    for (stall, reads) in [(Stall::Writes, true), (Stall::All, false)] {
        assert!(bench.give(Input::Stalled(Some(stall))).is_empty());
        let out = bench.peer(peer, 1, merge());
        assert!(failed(&out, peer), "{out:?}");
        assert!(matches!(rejection(&bench.query(put(&key, 2))), Rejection::Busy { .. }));
        let partition = bench.ring.partition(&key);
        let out = bench.peer(peer, 2, Body::List { partition, after: None, limit_bytes: 1 });
        assert!(failed(&out, peer), "{out:?}");
        let out = bench.peer(peer, 3, Body::Read { key: key.clone() });
        assert_eq!(failed(&out, peer), !reads, "{out:?}");
        bench.carry(out, &disk);
        assert!(bench.give(Input::Stalled(None)).is_empty());
    }
    let out = bench.peer(peer, 4, merge());
    let out = bench.carry(out, &disk);
    assert!(matches!(&out[..], [Output::Send { message, .. }] if message.body == Body::Ack));
}

#[test]
fn what_waits_for_a_read_is_refused_and_not_carried_out_when_the_disk_answers() {
    let mut bench = Bench::new();
    let key = bench.key(true);
    let out = bench.query(put(&key, 1));
    let [Output::Store(Work::Read { token, .. })] = out[..] else { panic!("{out:?}") };
    let out = bench.give(Input::Stalled(Some(Stall::All)));
    assert!(matches!(rejection(&out), Rejection::Busy { .. }));
    let (found, hints) = (Found::Nothing, Vec::new());
    let out = bench.give(Input::Store(Done::Read { token, found, hints }));
    assert!(out.is_empty(), "a write that was refused: {out:?}");
}

#[test]
fn what_waits_for_its_sync_is_not_refused() {
    let (mut bench, disk) = (Bench::new(), MemoryStore::default());
    let key = bench.key(true);
    let mut strict = put(&key, 1);
    if let Request::Put { w, .. } = &mut strict {
        *w = Quorum { replicas: Some(1), strict: Some(true) };
    }
    let out = bench.query(strict);
    let [Output::Store(Work::Read { token, .. })] = out[..] else { panic!("{out:?}") };
    let (found, hints) = (Found::Nothing, Vec::new());
    let out = bench.give(Input::Store(Done::Read { token, found, hints }));
    let write = out.into_iter().find(|output| matches!(output, Output::Store(_)));
    let Some(Output::Store(Work::Write { seq, changes })) = write else { panic!() };
    assert!(bench.give(Input::Stalled(Some(Stall::All))).is_empty(), "it may yet be durable");
    disk.apply(&changes).unwrap();
    let out = bench.give(Input::Store(Done::Synced { seq }));
    let written = matches!(&out[..], [Output::Reply { response: Response::Written { .. }, .. }]);
    assert!(written, "{out:?}");
}
