//! What homes hold of a partition, compared on their stopped disks.

use pixii::disk::{CheckReport, check, differences};
use pixii_core::causal::{Actor, Context, Object, Version};
use pixii_core::generation::{GcEpoch, Generation, Grave};
use pixii_core::ring::Ring;
use pixii_core::store::{Change, Record, Store};
use pixii_core::types::{Blob, Key, NodeId, Partition, WriteId};
use tempfile::TempDir;

use crate::{CACHE, key, open, put, scratch};

const NAMES: [&str; 3] = ["n1", "n2", "n3"];
const PARTITION: u16 = 0;

/// A write of each store, with the events of stores 1 to `seen` seen by it.
fn written(seen: u64, stores: impl IntoIterator<Item = u64>) -> Object {
    stores.into_iter().fold(Object::default(), |object, store| {
        let version = Version { write: WriteId(store.into()), value: Blob("v".into()) };
        let context = if store <= seen { object.context() } else { Context::default() };
        object.update(&context, Actor { store, serial: 1 }, version).0
    })
}

/// Three homes, each with a directory.
struct Homes(Vec<TempDir>);

impl Homes {
    fn new() -> Self {
        Homes(NAMES.iter().map(|_| tempfile::tempdir().unwrap()).collect())
    }

    fn apply(&self, home: usize, changes: &[Change]) {
        let store = open(self.0[home].path());
        store.apply(changes).unwrap();
        store.close().unwrap();
    }

    fn begin(&self, home: usize, generation: &Generation) {
        let (partition, generation) = (Partition(PARTITION), generation.clone());
        self.apply(home, &[Change::Generation { partition, generation }]);
    }

    fn hold(&self, home: usize, key: &Key, object: Object) {
        let record = Record { own_serial: None, object, generation: GcEpoch::FIRST };
        self.apply(home, &[put(PARTITION, key, &record)]);
    }

    /// The keys of the two homes of each partition that differs.
    fn differing(&self) -> Vec<(Partition, [u64; 2])> {
        let ids = NAMES.map(NodeId::of);
        let ring = Ring::new(&ids, 3, 8).unwrap();
        let reports =
            self.0.iter().map(|dir| check(dir.path(), &scratch(), CACHE, &mut |_| {}).unwrap());
        let stores: Vec<(NodeId, CheckReport)> = ids.into_iter().zip(reports).collect();
        let found = differences(&ring, &stores);
        found.iter().map(|found| (found.partition, found.homes.map(|(_, keys)| keys))).collect()
    }
}

#[test]
fn homes_that_are_stopped_in_the_midst_of_a_collection_hold_the_same() {
    let homes = Homes::new();
    let (deleted, replaced) = (key("deleted"), key("replaced"));
    let tombstone = written(0, [1]).discard(&written(0, [1]).context());
    let overwritten = written(2, [1, 2]);
    let grave = |key: &Key, object: &Object| Grave { key: key.clone(), dead: object.dead() };
    let first = Generation::default().next(vec![grave(&deleted, &tombstone)]);
    let second = first.next(vec![grave(&replaced, &overwritten)]);
    let third = second.next(Vec::new());
    for home in 0..3 {
        homes.hold(home, &deleted, tombstone.clone());
        homes.hold(home, &replaced, overwritten.clone());
        homes.begin(home, &first);
    }
    assert_eq!(homes.differing(), []);

    // One after the other begins the second generation; one has taken out what is collected in it.
    homes.begin(0, &second);
    assert_eq!(homes.differing(), []);
    homes.apply(0, &[Change::Forget { partition: Partition(PARTITION), key: deleted.clone() }]);
    assert_eq!(homes.differing(), []);
    homes.begin(1, &second);
    assert_eq!(homes.differing(), []);

    // The third is behind, and does not hold what the others do.
    homes.hold(2, &replaced, written(0, [1, 2]));
    assert_eq!(homes.differing(), [(Partition(PARTITION), [1, 2])]);
    homes.hold(2, &replaced, overwritten.clone());
    homes.hold(2, &key("alone"), written(0, [3]));
    assert_eq!(homes.differing(), [(Partition(PARTITION), [1, 3])]);
    homes.apply(2, &[Change::Forget { partition: Partition(PARTITION), key: key("alone") }]);
    assert_eq!(homes.differing(), []);

    // Two behind: what it has of the collected key is no longer told by anybody.
    homes.begin(0, &third);
    homes.begin(1, &third);
    assert_eq!(homes.differing(), [(Partition(PARTITION), [1, 2])]);
}

#[test]
fn an_event_that_only_one_home_knows_to_be_dead_is_a_difference() {
    let homes = Homes::new();
    for home in 0..3 {
        homes.hold(home, &key("k"), written(2, [1, 2]));
    }
    assert_eq!(homes.differing(), []);
    homes.hold(1, &key("k"), written(0, [2]));
    assert_eq!(homes.differing(), [(Partition(PARTITION), [1, 1])]);
}
