//! What owners hold of a partition, compared on their stopped disks.

use pixii::disk::{CheckReport, check, differences};
use pixii_core::causal::{Actor, ActorEpoch, Context, Object, Version};
use pixii_core::gc_epoch::{GcEpoch, GcState, PurgeableKey};
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
        object.update(&context, Actor { store, actor_epoch: ActorEpoch(1) }, version).0
    })
}

/// Three owners, each with a directory.
struct Owners(Vec<TempDir>);

impl Owners {
    fn new() -> Self {
        Owners(NAMES.iter().map(|_| tempfile::tempdir().unwrap()).collect())
    }

    fn apply(&self, owner: usize, changes: &[Change]) {
        let store = open(self.0[owner].path());
        store.apply(changes).unwrap();
        store.close().unwrap();
    }

    fn begin(&self, owner: usize, gc_epoch: &GcState) {
        let (partition, gc_epoch) = (Partition(PARTITION), gc_epoch.clone());
        self.apply(owner, &[Change::GcState { partition, gc_epoch }]);
    }

    fn hold(&self, owner: usize, key: &Key, object: Object) {
        let record = Record { own_epoch: None, object, gc_epoch: GcEpoch::FIRST };
        self.apply(owner, &[put(PARTITION, key, &record)]);
    }

    /// The keys of the two owners of each partition that differs.
    fn differing(&self) -> Vec<(Partition, [u64; 2])> {
        let ids = NAMES.map(NodeId::of);
        let ring = Ring::new(&ids, 3, 8).unwrap();
        let reports =
            self.0.iter().map(|dir| check(dir.path(), &scratch(), CACHE, &mut |_| {}).unwrap());
        let stores: Vec<(NodeId, CheckReport)> = ids.into_iter().zip(reports).collect();
        let found = differences(&ring, &stores);
        found.iter().map(|found| (found.partition, found.owners.map(|(_, keys)| keys))).collect()
    }
}

#[test]
fn owners_that_are_stopped_in_the_midst_of_a_collection_hold_the_same() {
    let owners = Owners::new();
    let (deleted, replaced) = (key("deleted"), key("replaced"));
    let tombstone = written(0, [1]).discard(&written(0, [1]).context());
    let overwritten = written(2, [1, 2]);
    let purgeable_key =
        |key: &Key, object: &Object| PurgeableKey { key: key.clone(), dead: object.dead() };
    let first = GcState::default().next(vec![purgeable_key(&deleted, &tombstone)]);
    let second = first.next(vec![purgeable_key(&replaced, &overwritten)]);
    let third = second.next(Vec::new());
    for owner in 0..3 {
        owners.hold(owner, &deleted, tombstone.clone());
        owners.hold(owner, &replaced, overwritten.clone());
        owners.begin(owner, &first);
    }
    assert_eq!(owners.differing(), []);

    // One after the other begins the second GC epoch; one has taken out what is collected in it.
    owners.begin(0, &second);
    assert_eq!(owners.differing(), []);
    owners.apply(0, &[Change::Forget { partition: Partition(PARTITION), key: deleted.clone() }]);
    assert_eq!(owners.differing(), []);
    owners.begin(1, &second);
    assert_eq!(owners.differing(), []);

    // The third is behind, and does not hold what the others do.
    owners.hold(2, &replaced, written(0, [1, 2]));
    assert_eq!(owners.differing(), [(Partition(PARTITION), [1, 2])]);
    owners.hold(2, &replaced, overwritten.clone());
    owners.hold(2, &key("alone"), written(0, [3]));
    assert_eq!(owners.differing(), [(Partition(PARTITION), [1, 3])]);
    owners.apply(2, &[Change::Forget { partition: Partition(PARTITION), key: key("alone") }]);
    assert_eq!(owners.differing(), []);

    // Two behind: what it has of the purged key is no longer recognised by anybody.
    owners.begin(0, &third);
    owners.begin(1, &third);
    assert_eq!(owners.differing(), [(Partition(PARTITION), [1, 2])]);
}

#[test]
fn an_event_that_only_one_owner_knows_to_be_dead_is_a_difference() {
    let owners = Owners::new();
    for owner in 0..3 {
        owners.hold(owner, &key("k"), written(2, [1, 2]));
    }
    assert_eq!(owners.differing(), []);
    owners.hold(1, &key("k"), written(0, [2]));
    assert_eq!(owners.differing(), [(Partition(PARTITION), [1, 1])]);
}
