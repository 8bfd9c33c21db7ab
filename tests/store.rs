//! One suite for both stores, and what only a disk can do wrong.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use bytes::Bytes;
use pixii::causal::{Actor, Context, Object, Version};
use pixii::rng::Rng;
use pixii::store::disk::{DiskStore, OpenError};
use pixii::store::memory::MemoryStore;
use pixii::store::{
    Change, Found, LifeError, Meta, Owner, Record, Store, StoreError, begin_life, end_life,
};
use pixii::types::{Blob, Key, MAX_VALUE_BYTES, Partition, WriteId, hash64};
use tempfile::TempDir;

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
        let actor = Actor { store: at as u64, serial: 1 };
        object = object.update(&Context::default(), actor, version).0;
    }
    Record { own_serial: Some(seed), object }
}

fn put(partition: u16, key: &Key, record: &Record) -> Change {
    let (partition, key) = (Partition(partition), key.clone());
    Change::Record { partition, key, record: record.clone() }
}

fn owner(name: &str) -> Owner {
    Owner { cluster: "c".into(), name: name.into(), ring: 7 }
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

macro_rules! conformance {
    ($($test:ident),*) => {
        mod memory { $( #[test] fn $test() { super::$test::<super::Memory>() } )* }
        mod disk { $( #[test] fn $test() { super::$test::<super::Disk>() } )* }
    };
}

conformance!(
    behaves_like_a_map,
    every_size_comes_back,
    any_bytes_are_a_key,
    lists_are_ordered_and_bounded,
    the_last_change_of_a_batch_counts,
    lives_begin_and_end,
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
    let meta = |incarnation| {
        Change::Meta(Meta {
            owner: owner("n1"),
            store: 1,
            incarnation,
            serial_floor: 1,
            serial_end: 1,
            clean: false,
        })
    };
    let batch = [meta(1), put(0, &key, &long), put(0, &key, &other), meta(2)];
    bench.store().apply(&batch).unwrap();
    bench.store().apply(&[]).unwrap();
    bench.store().sync().unwrap();
    let bench = bench.reopen();
    assert_eq!(bench.store().read(Partition(0), &key).unwrap(), Found::Record(other));
    assert_eq!(bench.store().meta().unwrap().map(|meta| meta.incarnation), Some(2));
}

fn lives_begin_and_end<B: Bench>() {
    let bench = B::new();
    assert_eq!(bench.store().meta().unwrap(), None);
    let mut meta = begin_life(bench.store(), &owner("n1"), 42).unwrap();
    assert_eq!((meta.store, meta.incarnation, meta.serial_floor), (42, 1, 1));
    meta.serial_end = 100;
    end_life(bench.store(), &meta).unwrap();
    let bench = bench.reopen();
    let mut meta = begin_life(bench.store(), &owner("n1"), 43).unwrap();
    assert_eq!((meta.store, meta.incarnation), (42, 2), "the id is drawn once");
    assert_eq!((meta.serial_floor, meta.serial_end), (1, 100), "a clean stop voids nothing");
    meta.serial_end = 200;
    bench.store().apply(&[Change::Meta(meta)]).unwrap();
    bench.store().sync().unwrap();
    let bench = bench.reopen();
    let meta = begin_life(bench.store(), &owner("n1"), 44).unwrap();
    assert_eq!((meta.incarnation, meta.serial_floor), (3, 200), "an unclean start voids serials");
    let stranger = begin_life(bench.store(), &owner("n2"), 45);
    assert!(matches!(stranger, Err(LifeError::Owner(..))), "{stranger:?}");
    let moved = begin_life(bench.store(), &Owner { ring: 8, ..owner("n1") }, 45);
    assert_eq!(moved, Err(LifeError::Ring));
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
                    let seed = found.own_serial.unwrap();
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

// What only a disk can do wrong.

/// sled without the store around it, as the store configures it.
fn raw(dir: &Path) -> sled::Db {
    let config = sled::Config::new().path(dir.join("sled")).segment_size(8 << 20);
    config.flush_every_ms(None).open().unwrap()
}

/// A closed store with some records, and what is in it.
fn filled() -> (TempDir, Model) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut model = Model::new();
    for n in 0..60 {
        let record = record(n, &[if n % 10 == 0 { 100 * KILO } else { 500 }]);
        store.apply(&[put(0, &key(format!("{n}")), &record)]).unwrap();
        model.insert((Partition(0), key(format!("{n}"))), record);
    }
    begin_life(&store, &owner("n1"), 1).unwrap();
    store.close().unwrap();
    (dir, model)
}

/// The one sentence with which opening fails.
fn refusal(dir: &Path) -> (OpenError, String) {
    let error = DiskStore::open(dir, CACHE).unwrap_err();
    let text = error.to_string();
    println!("{text}");
    assert!(!text.contains('\n') && text.len() < 500, "{text}");
    (error, text)
}

#[test]
fn a_second_opener_is_told_who_has_it() {
    let (dir, model) = filled();
    let store = open(dir.path());
    let (error, text) = refusal(dir.path());
    let me = std::process::id();
    assert!(matches!(error, OpenError::InUse { holder: Some(holder), .. } if holder == me));
    assert!(text.ends_with(&format!("is in use by process {me}")), "{text}");
    assert_holds(&store, &model);
    store.close().unwrap();
    open(dir.path()).close().unwrap();
}

#[test]
fn another_format_and_a_foreign_directory_are_left_alone() {
    let (dir, model) = filled();
    let format = dir.path().join("FORMAT");
    let ours = fs::read(&format).unwrap();
    assert_eq!(ours, b"pixii data 1, sled 0.34\n");
    for other in [&b"pixii data 2, sled 1\n"[..], b"", &[0xff; 5_000]] {
        fs::write(&format, other).unwrap();
        let (error, text) = refusal(dir.path());
        assert!(matches!(error, OpenError::Format { .. }), "{text}");
    }
    fs::remove_file(&format).unwrap();
    let (error, text) = refusal(dir.path());
    assert!(matches!(error, OpenError::Foreign { .. }) && text.contains("\"sled\""), "{text}");
    fs::write(&format, ours).unwrap();
    assert_holds(&open(dir.path()), &model);

    let foreign = tempfile::tempdir().unwrap();
    fs::write(foreign.path().join("thesis.tex"), "x").unwrap();
    let (_, text) = refusal(foreign.path());
    assert!(text.contains("\"thesis.tex\""), "{text}");
    assert_eq!(fs::read_dir(foreign.path()).unwrap().count(), 1, "nothing was written");
    let (error, text) = refusal(&foreign.path().join("thesis.tex"));
    assert!(matches!(error, OpenError::Directory { .. }), "{text}");
}

#[test]
fn a_creation_that_was_killed_anywhere_is_taken_up_again() {
    // Before anything is whole: LOCK, an unfinished store, an unfinished FORMAT.
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("LOCK"), "1\n").unwrap();
    fs::write(dir.path().join("FORMAT.new"), "pix").unwrap();
    fs::create_dir_all(dir.path().join("creating/blobs")).unwrap();
    fs::write(dir.path().join("creating/conf"), "half").unwrap();
    open(dir.path()).close().unwrap();
    assert!(!dir.path().join("creating").exists());
    // Whole and named by FORMAT, not yet in its place.
    let (dir, model) = filled();
    fs::rename(dir.path().join("sled"), dir.path().join("creating")).unwrap();
    assert_holds(&open(dir.path()), &model);
    // Lost.
    fs::remove_dir_all(dir.path().join("sled")).unwrap();
    let (error, text) = refusal(dir.path());
    assert!(matches!(error, OpenError::Damaged { .. }), "{text}");
}

/// A small record as schema 1 has it.
fn seal(name: &str, content: &[u8]) -> Vec<u8> {
    let body = [&[1], content].concat();
    let sum = hash64(&[b"meta", name.as_bytes(), &body]);
    [&body[..], &sum.to_be_bytes()].concat()
}

#[test]
fn a_newer_schema_is_refused_and_a_lost_one_is_damage() {
    let (dir, model) = filled();
    let set = |value: Option<Vec<u8>>| {
        let db = raw(dir.path());
        let old = db.get(b"\x01schema").unwrap().unwrap();
        match value {
            Some(value) => drop(db.insert(b"\x01schema", value).unwrap()),
            None => drop(db.remove(b"\x01schema").unwrap()),
        }
        old.to_vec()
    };
    let ours = set(Some(seal("schema", &2u32.to_be_bytes())));
    assert_eq!(ours, seal("schema", &1u32.to_be_bytes()));
    let (error, text) = refusal(dir.path());
    assert!(matches!(error, OpenError::NewerSchema { found: 2, .. }), "{text}");
    set(Some(ours.clone()));
    assert_holds(&open(dir.path()), &model);
    for bad in [vec![], vec![1], seal("schema", b""), seal("schema", &[0; 4]), vec![7; 13]] {
        set(Some(bad));
        let (error, text) = refusal(dir.path());
        assert!(matches!(error, OpenError::Damaged { .. }), "{text}");
    }
    set(None);
}

#[test]
fn damage_is_noticed_where_it_is() {
    let (dir, mut model) = filled();
    let place = |key: &str| [&[2, 0, 0], key.as_bytes()].concat();
    let db = raw(dir.path());
    let flip = |place: &[u8], at: usize| {
        let mut bytes = db.get(place).unwrap().unwrap().to_vec();
        bytes[at] ^= 0x10;
        db.insert(place, bytes).unwrap();
    };
    flip(&place("1"), 40);
    let tag = db.get(place("2")).unwrap().unwrap().len() - 1;
    flip(&place("2"), tag);
    flip(&place("10"), 3);
    let chunks: Vec<Vec<u8>> = db.range([3]..[4]).map(|entry| entry.unwrap().0.to_vec()).collect();
    assert_eq!(chunks.len(), 6 * 4);
    let of = |key: &str| {
        let head = db.get(place(key)).unwrap().unwrap();
        [&[3], &head[..8]].concat()
    };
    flip(&[&of("20")[..], &[0, 0, 0, 1]].concat(), 77);
    db.remove([&of("30")[..], &[0, 0, 0, 2]].concat()).unwrap();
    db.insert([&of("40")[..], &[0, 0, 0, 2]].concat(), &[7; 9]).unwrap();
    db.insert(place("1000"), &[0xff; 30]).unwrap();
    // A record in another record's place.
    db.insert(place("5"), db.get(place("6")).unwrap().unwrap()).unwrap();
    db.insert(place("50"), db.get(place("0")).unwrap().unwrap()).unwrap();
    drop(db);
    let store = open(dir.path());
    for damaged in ["1", "2", "5", "10", "20", "30", "40", "50", "1000"] {
        let found = store.read(Partition(0), &key(damaged.to_string())).unwrap();
        assert_eq!(found, Found::Damaged, "{damaged}");
        let record = record(99, &[80 * KILO]);
        store.apply(&[put(0, &key(damaged.to_string()), &record)]).unwrap();
        model.insert((Partition(0), key(damaged.to_string())), record);
    }
    // The head of "50" was the one of "0", whose chunks are its own.
    assert_holds(&store, &model);
    store.close().unwrap();

    raw(dir.path()).insert(b"\x01life", vec![9; 40]).unwrap();
    let (error, text) = refusal(dir.path());
    assert!(matches!(error, OpenError::Damaged { .. }), "{text}");
}

fn snapshots(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.join("sled")).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.to_string_lossy().contains("/snap.")).collect()
}

#[test]
fn bad_snapshots_are_made_anew_and_good_ones_stay() {
    let (dir, model) = filled();
    drop(raw(dir.path()));
    let [snapshot] = &snapshots(dir.path())[..] else { panic!("one snapshot") };
    let whole = fs::read(snapshot).unwrap();
    // Half-written under either name, and changed in one bit.
    fs::write(dir.path().join("sled/snap.FFFFFFFFFFFFFFFF.generating"), &whole[..7]).unwrap();
    assert_holds(&open(dir.path()), &model);
    let [snapshot] = &snapshots(dir.path())[..] else { panic!("one snapshot") };
    let before = fs::read(snapshot).unwrap();
    let mut flipped = before.clone();
    flipped[5] ^= 1;
    for bad in [&flipped[..], &before[..before.len() / 2], b""] {
        fs::write(snapshot, bad).unwrap();
        assert_holds(&open(dir.path()), &model);
    }
    let [snapshot] = &snapshots(dir.path())[..] else { panic!("one snapshot") };
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
    let before = inode(snapshot);
    open(dir.path()).close().unwrap();
    assert_eq!(before, inode(snapshot), "a whole snapshot is kept");
}

#[test]
fn a_cut_file_is_one_sentence_or_a_store() {
    let cut = |name: &str, length: u64| {
        let (dir, model) = filled();
        let file = OpenOptions::new().write(true).open(dir.path().join("sled").join(name)).unwrap();
        file.set_len(length).unwrap();
        match DiskStore::open(dir.path(), CACHE) {
            Ok(store) => {
                // sled takes a cut log for a crash: what is there must still be right.
                for ((partition, key), record) in &model {
                    match store.read(*partition, key).unwrap() {
                        Found::Record(found) => assert_eq!(found, *record),
                        Found::Nothing | Found::Damaged => {}
                    }
                }
                println!("{name} cut to {length}: opened");
            }
            Err(error) => {
                let text = error.to_string();
                println!("{name} cut to {length}: {text}");
                assert!(matches!(error, OpenError::Damaged { .. }), "{text}");
                assert!(!text.contains('\n') && text.len() < 500, "{text}");
            }
        }
    };
    for length in [0, 8, 9, 20, 30, 45] {
        cut("conf", length);
    }
    for length in [0, 10, 30, 1_000, 30_000, 100_000, 700_000] {
        cut("db", length);
    }
}

#[test]
fn flipped_bits_in_the_log_never_escape_as_a_panic_or_a_wrong_value() {
    let seed = 5;
    println!("seed {seed}");
    let mut rng = Rng::new(seed);
    let (dir, model) = filled();
    let db = dir.path().join("sled/db");
    let whole = fs::read(&db).unwrap();
    let used = whole.iter().rposition(|byte| *byte != 0).unwrap() as u64;
    for _ in 0..12 {
        let mut bad = whole.clone();
        bad[rng.below(used) as usize] ^= 1 << rng.below(8);
        fs::write(&db, &bad).unwrap();
        for snapshot in snapshots(dir.path()) {
            fs::remove_file(snapshot).unwrap();
        }
        let store = match DiskStore::open(dir.path(), CACHE) {
            Ok(store) => store,
            Err(error) => {
                println!("{error}");
                continue;
            }
        };
        let mut failed: Option<StoreError> = None;
        for ((partition, key), record) in &model {
            match (store.read(*partition, key), &failed) {
                (Ok(Found::Record(found)), None) => assert_eq!(found, *record),
                (Ok(_), None) => {}
                (Err(error), None) => failed = Some(error),
                (outcome, Some(first)) => assert_eq!(outcome.as_ref(), Err(first)),
            }
        }
        if let Some(first) = failed {
            println!("{first}");
            assert_eq!(store.sync(), Err(first.clone()));
            assert_eq!(store.apply(&[]), Err(first.clone()));
            assert_eq!(store.list(Partition(0), None, 10), Err(first.clone()));
            assert_eq!(store.disk_bytes(), Err(first.clone()));
            assert_eq!(store.close(), Err(first));
            // A poisoned store keeps its file locked until the process ends.
            return;
        }
    }
}

#[test]
fn overwrites_leave_no_chunks_and_no_blobs() {
    let seed = 11;
    println!("seed {seed}");
    let mut rng = Rng::new(seed);
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let blobs = || fs::read_dir(dir.path().join("sled/blobs")).unwrap().count();
    let mut chunks = BTreeMap::new();
    for round in 0..400 {
        let name = format!("{}{}", "k".repeat(1_000), rng.below(60));
        // Mostly the longest value that is not chunked: the heaviest leaves.
        let size = *rng.pick(&[32 * KILO - 100, 32 * KILO - 100, 40 * KILO, 400 * KILO]).unwrap();
        store.apply(&[put(round % 3, &key(name.clone()), &record(1, &[size]))]).unwrap();
        chunks.insert(
            (round % 3, name),
            if size > 32 * KILO { (size + 64).div_ceil(32 * KILO) } else { 0 },
        );
        if round % 20 == 0 {
            store.sync().unwrap();
            assert_eq!(blobs(), 0);
        }
    }
    let last = key(format!("{}{}", "k".repeat(1_000), 0));
    let batch = [400, 500, 10].map(|size| put(0, &last, &record(2, &[size * KILO])));
    store.apply(&batch).unwrap();
    chunks.insert((0, format!("{}{}", "k".repeat(1_000), 0)), 0);
    store.sync().unwrap();
    assert_eq!(blobs(), 0);
    store.close().unwrap();
    let found = raw(dir.path()).range([3]..[4]).count();
    assert_eq!(found, chunks.values().sum::<usize>());
}

/// A process that is killed however the test ends.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const WRITER: &str = "PIXII_TEST_WRITER";

fn written(n: u64) -> (Change, Partition, Key, Record) {
    let sizes = [10, 3 * KILO, 50 * KILO, 200 * KILO];
    let (key, record) = (key(format!("{n}")), record(n, &[sizes[n as usize % 4]]));
    (put(1, &key, &record), Partition(1), key, record)
}

/// Not a test of its own: what `a_killed_writer_loses_nothing_that_it_announced` runs and kills.
#[test]
fn writer_to_be_killed() {
    let Ok(arguments) = std::env::var(WRITER) else { return };
    let (first, dir) = arguments.split_once(' ').unwrap();
    let store = open(Path::new(dir));
    for n in first.parse().unwrap().. {
        // Beside the new record, one that is replaced again and again.
        let hot = put(2, &key("hot"), &record(n, &[150 * KILO]));
        store.apply(&[written(n).0, hot]).unwrap();
        store.sync().unwrap();
        println!("\nsynced {n}");
    }
}

#[test]
fn a_killed_writer_loses_nothing_that_it_announced() {
    let dir = tempfile::tempdir().unwrap();
    let mut next: u64 = 0;
    for round in 0..4 {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "writer_to_be_killed", "--nocapture"]);
        command.env(WRITER, format!("{next} {}", dir.path().display()));
        let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut child = Killed(child);
        let output = BufReader::new(child.0.stdout.take().unwrap());
        let mut announced = None;
        for line in output.lines() {
            let line = line.unwrap();
            if let Some(n) = line.strip_prefix("synced ") {
                announced = Some(n.parse::<u64>().unwrap());
                if announced == Some(next + 5 + 9 * round) {
                    child.0.kill().unwrap();
                }
            }
        }
        drop(child);
        let announced = announced.unwrap();
        assert!(announced >= next + 5 + 9 * round, "the writer ended by itself at {announced}");
        let store = open(dir.path());
        for n in 0..=announced {
            let (_, partition, key, record) = written(n);
            assert_eq!(store.read(partition, &key).unwrap(), Found::Record(record), "{n}");
        }
        let Found::Record(hot) = store.read(Partition(2), &key("hot")).unwrap() else {
            panic!("the hot record is not whole")
        };
        assert!(hot.own_serial >= Some(announced));
        assert_eq!(hot, record(hot.own_serial.unwrap(), &[150 * KILO]));
        // The one that was under way is there whole or not at all, together with its neighbour.
        let (_, partition, key, under_way) = written(announced + 1);
        let expected = if hot.own_serial > Some(announced) {
            Found::Record(under_way)
        } else {
            Found::Nothing
        };
        assert_eq!(store.read(partition, &key).unwrap(), expected);
        next = announced + 1;
        store.close().unwrap();
    }
}

#[test]
fn a_store_creates_the_directories_above_it() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("var/lib/node");
    open(&deep).close().unwrap();
    assert!(File::open(deep.join("FORMAT")).is_ok());
    open(&deep).close().unwrap();
}
