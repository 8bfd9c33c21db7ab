//! What is left of partitions of others.

use pixii_core::gc_epoch::GcEpoch;
use pixii_core::message::Body;
use pixii_core::ring::RingId;
use pixii_core::store::{Found, Store};

use super::bench::object;
use super::repair::Bout;

#[test]
fn what_came_under_a_later_ring_is_not_erased_under_an_earlier_one() {
    for behind in [false, true] {
        let mut bout = Bout::empty(|config| config);
        let key = bout.bench.key(false);
        let partition = bout.bench.ring.partition(&key);
        if behind {
            // The sender's ring gives the key a place here, and has not come here yet.
            let RingId { version, digest } = bout.bench.node.ring_id();
            bout.under = Some(RingId { version: version + 1, digest });
        }
        let merge = Body::Merge { key: key.clone(), object: object(2), gc_epoch: GcEpoch::FIRST };
        let acked = bout.hear(bout.peer, 1, merge);
        assert_eq!(acked, [(bout.peer, 1, Body::Ack)]);
        bout.under = None;
        // Its owners hold all of it.
        bout.tick(5_000);
        let is_there = bout.disk.read(partition, &key).unwrap() != Found::Nothing;
        assert_eq!(is_there, behind);
    }
}
