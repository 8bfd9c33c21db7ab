//! One suite for both stores; what only a disk can do wrong is in `faults`.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use bytes::Bytes;
use pixii::disk::DiskStore;
use pixii_core::causal::{Actor, ActorEpoch, Context, Dot, Object, Version};
use pixii_core::gc_epoch::{GcEpoch, GcState, PurgeableKey};
use pixii_core::members::{Incarnation, Member, Members};
use pixii_core::merkle::LeafSet;
use pixii_core::rng::Rng;
use pixii_core::store::memory::MemoryStore;
use pixii_core::store::{
    Change, Detail, Found, HintTotal, IncarnationError, Meta, Process, Record, Scanned, Span,
    Store, StoreIdentity, begin_incarnation, end_incarnation, hint_bytes,
};
use pixii_core::types::{Blob, Key, MAX_VALUE_BYTES, NodeId, Partition, WriteId};
use tempfile::TempDir;

#[path = "store/commit_log.rs"]
mod commit_log;
#[path = "store/comparisons.rs"]
mod comparisons;
#[path = "store/faults.rs"]
mod faults;
#[path = "store/migrations.rs"]
mod migrations;
#[path = "store/reading.rs"]
mod reading;
#[path = "store/state_files.rs"]
mod state_files;

const CACHE: u64 = 16 << 20;
const KILO: usize = 1 << 10;

fn key(bytes: impl Into<Bytes>) -> Key {
    Key::new(bytes).unwrap()
}

/// A record with one sibling of each size; equal seeds give equal bytes.
fn record(seed: u64, sizes: &[usize]) -> Record {
    let mut rng = Rng::new(seed);
    let mut object = Object::default();
    for (at, size) in sizes.iter().enumerate() {
        let mut value: Vec<u8> = Vec::with_capacity(size + 8);
        while value.len() < *size {
            value.extend(rng.next_u64().to_le_bytes());
        }
        value.truncate(*size);
        let version = Version { write: WriteId(rng.next_u128()), value: Blob(value.into()) };
        let actor = Actor { store: at as u64, actor_epoch: ActorEpoch(1) };
        object = object.update(&Context::default(), actor, version).0;
    }
    Record { own_epoch: Some(ActorEpoch(seed)), object, gc_epoch: GcEpoch::FIRST }
}

fn put(partition: u16, key: &Key, record: &Record) -> Change {
    let (partition, key) = (Partition(partition), key.clone());
    Change::Record { partition, key, record: record.clone() }
}

fn owner(name: &str) -> StoreIdentity {
    StoreIdentity { cluster: "c".into(), name: name.into(), ring: 7 }
}

/// A store that can be stopped and started again.
trait Bench: Sized {
    type Store: Store;
    fn new() -> Self;
    fn store(&self) -> &Self::Store;
    /// Starts again; what was not synced may be gone.
    fn reopen(self) -> Self;
}

struct Memory(MemoryStore);

impl Bench for Memory {
    type Store = MemoryStore;
    fn new() -> Self {
        Memory(MemoryStore::default())
    }
    fn store(&self) -> &MemoryStore {
        &self.0
    }
    fn reopen(self) -> Self {
        self.0.power_cut(&mut Rng::new(1));
        self
    }
}

struct Disk {
    store: DiskStore,
    dir: TempDir,
}

impl Bench for Disk {
    type Store = DiskStore;
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Disk { store: open(dir.path()), dir }
    }
    fn store(&self) -> &DiskStore {
        &self.store
    }
    fn reopen(self) -> Self {
        self.store.close().unwrap();
        Disk { store: open(self.dir.path()), dir: self.dir }
    }
}

fn open(dir: &Path) -> DiskStore {
    DiskStore::open(dir, CACHE).unwrap()
}

/// Where checks make their private copies.
fn scratch() -> PathBuf {
    std::env::temp_dir()
}

macro_rules! conformance {
    ($($test:ident),*) => {
        mod memory { $( #[test] fn $test() { super::$test::<super::Memory>() } )* }
        mod disk { $( #[test] fn $test() { super::$test::<super::Disk>() } )* }
    };
}

conformance!(
    behaves_like_a_map,
    every_size_comes_back,
    hints_behave_like_maps_of_their_own,
    any_bytes_are_a_key,
    lists_are_ordered_and_bounded,
    the_last_change_of_a_batch_counts,
    incarnations_begin_and_end,
    readers_see_whole_records
);

type Model = BTreeMap<(Partition, Key), Record>;

fn assert_holds(store: &dyn Store, model: &Model) {
    for ((partition, key), record) in model {
        assert_eq!(store.read(*partition, key).unwrap(), Found::Record(record.clone()), "{key:?}");
    }
    for partition in (0..4).map(Partition) {
        let expected: Vec<Key> =
            model.keys().filter(|(p, _)| *p == partition).map(|(_, key)| key.clone()).collect();
        let listing = store.list(partition, None, usize::MAX).unwrap();
        assert_eq!((listing.keys, listing.more), (expected, false));
    }
}

fn behaves_like_a_map<B: Bench>() {
    let seed = 20_240_607;
    println!("seed {seed}");
    let mut rng = Rng::new(seed);
    let mut bench = B::new();
    let mut model = Model::new();
    for round in 0..300 {
        let mut batch = Vec::new();
        for _ in 0..rng.below(6) {
            let partition = rng.below(4) as u16;
            let key = key(rng.below(40).to_string().into_bytes());
            let limit = *rng.pick(&[100, 2 * KILO, 40 * KILO, 150 * KILO]).unwrap();
            let size = rng.below(limit as u64) as usize;
            let record = record(rng.next_u64(), &[size, 3]);
            batch.push(put(partition, &key, &record));
            model.insert((Partition(partition), key), record);
        }
        bench.store().apply(&batch).unwrap();
        let probe = key(rng.below(60).to_string().into_bytes());
        let expected = model.get(&(Partition(1), probe.clone()));
        let found = bench.store().read(Partition(1), &probe).unwrap();
        assert_eq!(found, expected.map_or(Found::Nothing, |r| Found::Record(r.clone())));
        if rng.chance(0.1) {
            bench.store().sync().unwrap();
        }
        if round % 100 == 99 {
            assert_holds(bench.store(), &model);
            bench.store().sync().unwrap();
            bench = bench.reopen();
            assert_holds(bench.store(), &model);
        }
    }
    assert!(bench.store().disk_bytes().unwrap() > 0);
}

fn every_size_comes_back<B: Bench>() {
    let mut model = Model::new();
    let sizes = [0, 1, 64 * KILO - 1, 64 * KILO, 64 * KILO + 1, MAX_VALUE_BYTES];
    // Around the size at which the record, not the value, is cut in chunks.
    for size in sizes.into_iter().chain((32 * KILO - 64)..(32 * KILO)) {
        model.insert((Partition(0), key(format!("{size}"))), record(size as u64, &[size]));
    }
    let siblings = record(1, &[256 * KILO; 32]);
    assert!(siblings.object.len() == 32);
    model.insert((Partition(1), key("8 MiB")), siblings);
    model.insert((Partition(1), key("a merge of seven")), record(2, &[MAX_VALUE_BYTES; 56]));
    model.insert((Partition(2), key("none")), Record::default());
    let bench = B::new();
    for ((partition, key), record) in &model {
        bench.store().apply(&[put(partition.0, key, record)]).unwrap();
    }
    assert_holds(bench.store(), &model);
    bench.store().sync().unwrap();
    let bench = bench.reopen();
    assert_holds(bench.store(), &model);
    for (at, ((partition, key), record)) in model.iter_mut().enumerate() {
        // Long becomes short and short becomes long.
        let size = if at % 2 == 0 { 10 } else { 100 * KILO };
        *record = self::record(at as u64, &[size]);
        bench.store().apply(&[put(partition.0, key, record)]).unwrap();
    }
    assert_holds(bench.store(), &model);
    bench.store().sync().unwrap();
    assert_holds(bench.reopen().store(), &model);
}

fn any_bytes_are_a_key<B: Bench>() {
    let mut model = Model::new();
    let mut keys: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
    keys.extend((0..=255).map(|byte| vec![0xff, byte]));
    keys.extend((1..=64).map(|length| vec![0; length]));
    keys.extend((2..=64).map(|length| vec![0xff; length]));
    keys.extend((2..=1_024).step_by(73).map(|length| vec![b'p'; length]));
    // Long and alike: inner pages of the tree hold long keys too.
    keys.extend((0..400u16).map(|n| [&[b'q'; 1_022][..], &n.to_be_bytes()].concat()));
    for (at, bytes) in keys.into_iter().enumerate() {
        for partition in [0, 1, 3] {
            let size = if at % 50 == 0 { 70 * KILO } else { 5 };
            let record = record(at as u64, &[size]);
            model.insert((Partition(partition), key(bytes.clone())), record);
        }
    }
    let bench = B::new();
    let changes: Vec<Change> =
        model.iter().map(|((partition, key), record)| put(partition.0, key, record)).collect();
    for batch in changes.chunks(100) {
        bench.store().apply(batch).unwrap();
    }
    bench.store().sync().unwrap();
    assert_holds(bench.store(), &model);
    assert_eq!(bench.store().read(Partition(2), &key("p")).unwrap(), Found::Nothing);
    assert_holds(bench.reopen().store(), &model);
}

fn lists_are_ordered_and_bounded<B: Bench>() {
    let bench = B::new();
    let store = bench.store();
    let keys: Vec<Key> = (0..500u32).map(|n| key(format!("k{:03}", n))).collect();
    for batch in keys.chunks(50) {
        let batch: Vec<Change> = batch.iter().map(|key| put(9, key, &record(1, &[9]))).collect();
        store.apply(&batch).unwrap();
    }
    for neighbour in [8, 10] {
        store.apply(&[put(neighbour, &key("k100"), &record(1, &[9]))]).unwrap();
    }
    for limit in [0, 1, 4, 5, 399, 400, 2_000, 2_001, usize::MAX] {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let listing = store.list(Partition(9), after.as_ref(), limit).unwrap();
            assert!(!listing.keys.is_empty());
            assert!(listing.keys.len() <= limit.div_ceil(4).max(1), "limit {limit}");
            seen.extend(listing.keys);
            after = seen.last().cloned();
            if !listing.more {
                break;
            }
        }
        assert_eq!(seen, keys, "limit {limit}");
    }
    let listing = store.list(Partition(9), Some(&key("k1005")), 4).unwrap();
    assert_eq!(listing.keys, [key("k101")], "behind a key that is not there");
    let behind = store.list(Partition(9), keys.last(), 10).unwrap();
    assert!(behind.keys.is_empty() && !behind.more);
    assert!(store.list(Partition(7), None, 10).unwrap().keys.is_empty());
    assert!(store.list(Partition(u16::MAX), None, 10).unwrap().keys.is_empty());
}

fn the_last_change_of_a_batch_counts<B: Bench>() {
    let bench = B::new();
    let (key, long, other) =
        (key("k"), record(1, &[200 * KILO]), record(2, &[90 * KILO, 90 * KILO]));
    let meta =
        |incarnation| Change::Meta(Meta { incarnation, clean: false, ..Meta::new(owner("n1"), 1) });
    let batch =
        [meta(Incarnation(1)), put(0, &key, &long), put(0, &key, &other), meta(Incarnation(2))];
    bench.store().apply(&batch).unwrap();
    bench.store().apply(&[]).unwrap();
    bench.store().sync().unwrap();
    let bench = bench.reopen();
    assert_eq!(bench.store().read(Partition(0), &key).unwrap(), Found::Record(other));
    assert_eq!(bench.store().meta().unwrap().map(|meta| meta.incarnation.0), Some(2));
}

fn incarnations_begin_and_end<B: Bench>() {
    let bench = B::new();
    assert_eq!(bench.store().meta().unwrap(), None);
    let begin = |store: &dyn Store, process| begin_incarnation(store, &owner("n1"), process);
    let mut meta = begin(bench.store(), Process(42)).unwrap();
    assert_eq!((meta.store, meta.incarnation.0, meta.actor_epoch_floor.0), (42, 1, 1));
    meta.actor_epoch_end = ActorEpoch(100);
    end_incarnation(bench.store(), &meta).unwrap();
    let bench = bench.reopen();
    let mut meta = begin(bench.store(), Process(43)).unwrap();
    assert_eq!(
        (meta.birth, meta.store, meta.incarnation.0),
        (42, 43, 2),
        "each process has an id of its own"
    );
    assert_eq!(
        (meta.actor_epoch_floor, &meta.fresh[..]),
        (ActorEpoch(100), &[][..]),
        "a clean stop leaves no doubt"
    );
    meta.actor_epoch_end = ActorEpoch(200);
    bench.store().apply(&[Change::Meta(meta)]).unwrap();
    bench.store().sync().unwrap();
    let bench = bench.reopen();
    let meta = begin(bench.store(), Process(44)).unwrap();
    assert_eq!((meta.store, meta.incarnation.0, meta.actor_epoch_floor.0), (44, 3, 200));
    assert_eq!(meta.fresh, [44], "after an unclean stop the disk may not be the newest");
    let stranger = begin_incarnation(bench.store(), &owner("n2"), Process(45));
    assert!(matches!(stranger, Err(IncarnationError::Identity(..))), "{stranger:?}");
    let moved =
        begin_incarnation(bench.store(), &StoreIdentity { ring: 8, ..owner("n1") }, Process(45));
    assert_eq!(moved, Err(IncarnationError::Ring));
}

fn readers_see_whole_records<B: Bench>() {
    let bench = B::new();
    let store = bench.store();
    let (hot, done) = (key("hot"), AtomicBool::new(false));
    store.apply(&[put(0, &hot, &record(0, &[300 * KILO]))]).unwrap();
    let read = || {
        let mut reads = 0;
        while !done.load(Ordering::SeqCst) || reads == 0 {
            match store.read(Partition(0), &hot).unwrap() {
                Found::Record(found) => {
                    let seed = found.own_epoch.unwrap().0;
                    assert_eq!(found, record(seed, &[300 * KILO]));
                }
                other => panic!("{other:?}"),
            }
            let listing = store.list(Partition(0), None, 100).unwrap();
            assert_eq!(listing.keys[0], hot);
            reads += 1;
        }
    };
    thread::scope(|scope| {
        let readers = [scope.spawn(read), scope.spawn(read)];
        for seed in 1..=60 {
            let other = key(format!("other {}", seed % 7));
            let changes =
                [put(0, &hot, &record(seed, &[300 * KILO])), put(0, &other, &record(seed, &[9]))];
            let outcome = store.apply(&changes).and_then(|()| store.sync());
            if outcome.is_err() || seed == 60 {
                done.store(true, Ordering::SeqCst);
            }
            outcome.unwrap();
        }
        for reader in readers {
            reader.join().unwrap();
        }
    });
}

/// Hints by target and key, beside records of the same keys that they must not touch.
fn hints_behave_like_maps_of_their_own<B: Bench>() {
    let seed = 20_261_124;
    println!("seed {seed}");
    let mut rng = Rng::new(seed);
    let mut bench = B::new();
    let mut model: BTreeMap<(NodeId, Key), Record> = BTreeMap::new();
    let own = record(1, &[100]);
    bench.store().apply(&[put(0, &key("k0"), &own)]).unwrap();
    for round in 0..200u64 {
        let mut changes = Vec::new();
        for _ in 0..=rng.below(5) {
            let target = NodeId(rng.below(3) << 61);
            let key = key(format!("k{}", rng.below(20)).into_bytes());
            let record = (!rng.chance(0.3)).then(|| {
                let size = if rng.chance(0.1) { 100 * KILO } else { rng.below(200) as usize };
                record(round, &[size, 3])
            });
            match &record {
                Some(record) => model.insert((target, key.clone()), record.clone()),
                None => model.remove(&(target, key.clone())),
            };
            changes.push(Change::Hint { target, key, record });
        }
        bench.store().apply(&changes).unwrap();
        if round % 40 == 39 {
            bench.store().sync().unwrap();
            bench = bench.reopen();
        }
    }
    bench.store().sync().unwrap();
    bench = bench.reopen();
    let mut totals: BTreeMap<NodeId, HintTotal> = BTreeMap::new();
    for target in (0..3).map(|number| NodeId(number << 61)) {
        let of_target = model.iter().filter(|((of, _), _)| *of == target);
        let expected: Vec<(Key, Found)> = of_target
            .map(|((_, key), record)| (key.clone(), Found::Record(record.clone())))
            .collect();
        let mut listed = Vec::new();
        loop {
            let after = listed.last().map(|(key, _): &(Key, Found)| key.clone());
            let page = bench.store().list_hints(target, after.as_ref(), 1_000).unwrap();
            assert!(!page.hints.is_empty() || !page.more);
            listed.extend(page.hints);
            if !page.more {
                break;
            }
        }
        assert_eq!(listed, expected);
        for (key, found) in listed {
            assert_eq!(bench.store().read_hint(target, &key).unwrap(), found);
            let Found::Record(record) = found else { panic!("{key:?}") };
            let total = totals.entry(target).or_default();
            total.count += 1;
            total.bytes += hint_bytes(&key, &record);
        }
    }
    let reported = bench.store().hint_totals(&|_| Partition(3)).unwrap();
    assert_eq!(
        reported.stamps.values().sum::<u64>(),
        totals.values().map(|t| t.count).sum::<u64>()
    );
    assert_eq!(reported.totals, totals);
    assert_eq!(bench.store().read(Partition(0), &key("k0")).unwrap(), Found::Record(own));
    assert_eq!(bench.store().read_hint(NodeId(9), &key("k0")).unwrap(), Found::Nothing);

    let members = Members::new(vec![Member::configured("n1", "h:1")]);
    assert_eq!(bench.store().members().unwrap(), None);
    bench.store().apply(&[Change::Members(members.clone())]).unwrap();
    bench.store().sync().unwrap();
    assert_eq!(bench.reopen().store().members().unwrap(), Some(members));
}

#[test]
fn a_scan_shows_what_is_there_and_what_is_forgotten_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let (store, model) = (open(dir.path()), MemoryStore::default());
    let change = |number: u64| Change::Record {
        partition: Partition((number % 2) as u16),
        key: key(format!("k{number:03}")),
        // Some are in chunks.
        record: record(number + 1, &[if number.is_multiple_of(17) { 100_000 } else { 40 }]),
    };
    let mut changes: Vec<Change> = (0..100).map(change).collect();
    changes.push(Change::Forget { partition: Partition(0), key: key("k004") });
    for change in changes {
        store.apply(std::slice::from_ref(&change)).unwrap();
        model.apply(&[change]).unwrap();
    }
    let dead = Context::new(vec![Dot {
        actor: Actor { store: 1, actor_epoch: ActorEpoch(2) },
        counter: 3,
    }]);
    let purgeable = vec![PurgeableKey { key: key("k004"), dead }];
    let gc_epoch = GcState { number: GcEpoch(7), purgeable, purged: Vec::new() };
    let partition = Partition(1);
    let begun = Change::GcState { partition, gc_epoch: gc_epoch.clone() };
    store.apply(&[begun]).unwrap();
    store.sync().unwrap();
    store.close().unwrap();
    let store = open(dir.path());
    assert_eq!(store.gc_epochs().unwrap(), [(partition, gc_epoch)]);
    let even = LeafSet::new((0..2_048).map(|leaf| 2 * leaf));
    for partition in [Partition(0), Partition(1)] {
        for leaves in [None, Some(even.clone())] {
            for (until, limit_bytes) in [(None, 1_000), (Some(key("k050")), 1)] {
                let all = Span {
                    after: None,
                    until,
                    leaves: leaves.clone(),
                    limit_bytes,
                    detail: Detail::Contexts,
                };
                assert_eq!(scan_by_pages(&store, &model, partition, all.clone()), {
                    let whole = Span { limit_bytes: usize::MAX, ..all };
                    model.scan(partition, &whole).unwrap().items.len()
                });
            }
        }
    }
}

/// Reads a span page by page; what each shows is what the model has. Gives how many keys there
/// were.
fn scan_by_pages(
    store: &DiskStore,
    model: &MemoryStore,
    partition: Partition,
    mut span: Span,
) -> usize {
    let mut seen = 0;
    loop {
        let page = store.scan(partition, &span).unwrap();
        assert_eq!(page.damaged, []);
        seen += page.items.len();
        for item in page.items {
            let found = model.read(partition, &item.key).unwrap();
            let Found::Record(record) = found else { panic!("{item:?}") };
            assert_eq!(item, Scanned::of(item.key.clone(), &record.object, &Span::default()));
        }
        match page.next {
            Some(next) => span.after = Some(next),
            None => return seen,
        }
    }
}
