//! What a node keeps of its latest round trips.

use pixii_core::causal::Object;
use pixii_core::gc_epoch::GcEpoch;
use pixii_core::message::{Body, RecentTrips, Request};
use pixii_core::node::{Done, Input, Output, Work};
use pixii_core::store::{Found, Record};
use pixii_core::types::Micros;

use super::bench::{Bench, put};

#[test]
fn round_trips_are_kept_by_replica_and_kind_the_own_disk_among_them() {
    let mut bench = Bench::new();
    let key = bench.key(true);
    let (near, far) = (bench.others(&key)[0], bench.others(&key)[1]);
    assert!(bench.node.recent_trips().is_empty());
    let out = bench.query(put(&key, 1));
    let [Output::Store(Work::Read { token, .. })] = out[..] else { panic!("{out:?}") };
    let found = Found::Nothing;
    let out = bench.give(Input::Store(Done::Read { token, found, hints: Vec::new() }));
    let [Output::Store(Work::Write { seq, .. }), Output::Send { message, .. }] = &out[..] else {
        panic!("{out:?}")
    };
    let begun = bench.now;
    for (after, from) in [(2_000, Some(near)), (7_000, None), (9_000, Some(far))] {
        bench.now = begun + Micros(after);
        match from {
            Some(from) => drop(bench.peer(from, message.request_id.wire(), Body::Ack)),
            None => drop(bench.give(Input::Store(Done::Synced { seq: *seq }))),
        }
    }
    // Its second word is no round trip.
    bench.peer(near, message.request_id.wire(), Body::Ack);

    let out = bench.query(Request::Get { key: key.clone(), r: Some(3).into() });
    let request_id = out.iter().find_map(|output| match output {
        Output::Send { message, .. } => Some(message.request_id.wire()),
        _ => None,
    });
    bench.disk(out, &Record::default());
    let begun = bench.now;
    for (after, from) in [(4_000, near), (5_000, far)] {
        bench.now = begun + Micros(after);
        let (object, kept_for) = (Object::default(), Vec::new());
        let copy = Body::Copy { object, authoritative: true, kept_for, gc_epoch: GcEpoch::FIRST };
        bench.peer(from, request_id.unwrap(), copy);
    }

    let mut reported = bench.node.recent_trips();
    reported.sort_by_key(|trips| trips.writes_us.clone());
    let trips =
        |node, read, write| RecentTrips { node, reads_us: vec![read], writes_us: vec![write] };
    let wanted = [trips(near, 4_000, 2_000), trips(bench.me, 0, 7_000), trips(far, 5_000, 9_000)];
    assert_eq!(reported, wanted);
}
