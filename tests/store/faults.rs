//! What only a disk can do wrong: other owners, damage, sudden ends.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use pixii::disk::{CheckReport, DiskStore, OpenError, check};
use pixii_core::causal::ActorEpoch;
use pixii_core::rng::Rng;
use pixii_core::store::{Change, Found, Process, Record, Store, StoreError, begin_incarnation};
use pixii_core::types::{Key, Partition, hash64};
use tempfile::TempDir;

use crate::{CACHE, KILO, Model, assert_holds, key, open, owner, put, record, scratch};

/// sled without the store around it, as the store configures it.
pub(super) fn raw(dir: &Path) -> sled::Db {
    let config = sled::Config::new().path(dir.join("sled")).segment_size(8 << 20);
    let config = config.flush_every_ms(None);
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match config.open() {
            // The threads of the store before it, or a child of another test, still have the file.
            Err(sled::Error::Io(_)) if Instant::now() < deadline => thread::yield_now(),
            outcome => return outcome.unwrap(),
        }
    }
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
    begin_incarnation(&store, &owner("n1"), Process(1)).unwrap();
    store.close().unwrap();
    (dir, model)
}

/// The one sentence with which opening fails.
fn rejection(dir: &Path) -> (OpenError, String) {
    let error = DiskStore::open(dir, CACHE).unwrap_err();
    let text = error.to_string();
    println!("{text}");
    assert!(!text.contains('\n') && text.len() < 500, "{text}");
    (error, text)
}

#[test]
fn a_second_opener_sees_who_has_it() {
    let (dir, model) = filled();
    let store = open(dir.path());
    let (error, text) = rejection(dir.path());
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
    let next: &[u8] = b"pixii data 2, sled 0.34\n";
    for other in [b"pixii data 2, sled 1\n", next, b"rocks 9\n", &[0xff; 5_000]] {
        fs::write(&format, other).unwrap();
        let (error, text) = rejection(dir.path());
        assert!(matches!(error, OpenError::Format { .. }), "{text}");
        assert_eq!(fs::read(&format).unwrap(), other, "nothing was touched");
    }
    fs::write(&format, &ours).unwrap();
    assert_holds(&open(dir.path()), &model);
    // Without a second copy, what is no FORMAT of ours is foreign.
    fs::remove_file(dir.path().join("MARK")).unwrap();
    for other in [&b"pixih data 1, sled 0.34\n"[..], b""] {
        fs::write(&format, other).unwrap();
        let (error, text) = rejection(dir.path());
        assert!(matches!(error, OpenError::Format { .. }), "{text}");
    }
    fs::remove_file(&format).unwrap();
    let (error, text) = rejection(dir.path());
    assert!(matches!(error, OpenError::Foreign { .. }) && text.contains("\"sled\""), "{text}");
    fs::write(&format, ours).unwrap();
    assert_holds(&open(dir.path()), &model);

    let foreign = tempfile::tempdir().unwrap();
    fs::write(foreign.path().join("thesis.tex"), "x").unwrap();
    let (_, text) = rejection(foreign.path());
    assert!(text.contains("\"thesis.tex\""), "{text}");
    assert_eq!(fs::read_dir(foreign.path()).unwrap().count(), 1, "nothing was written");
    let (error, text) = rejection(&foreign.path().join("thesis.tex"));
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
    let (error, text) = rejection(dir.path());
    assert!(matches!(error, OpenError::Damaged { .. }), "{text}");
}

/// A small record as schema 1 has it.
pub(super) fn seal(name: &str, content: &[u8]) -> Vec<u8> {
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
    let ours = set(Some(seal("schema", &5u32.to_be_bytes())));
    assert_eq!(ours, seal("schema", &4u32.to_be_bytes()));
    let (error, text) = rejection(dir.path());
    assert!(matches!(error, OpenError::NewerSchema { found: 5, .. }), "{text}");
    set(Some(ours.clone()));
    assert_holds(&open(dir.path()), &model);
    for bad in [vec![], vec![1], seal("schema", b""), seal("schema", &[0; 4]), vec![7; 13]] {
        set(Some(bad));
        let (error, text) = rejection(dir.path());
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
    let (error, text) = rejection(dir.path());
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
                println!("{name} cut to {length}: opened");
                assert_holds(&store, &model);
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
    // sled opens most of these, as if after a crash; the mark reports.
    for length in [0, 10, 30, 1_000, 30_000, 100_000, 400_000] {
        cut("db", length);
    }
}

#[test]
fn flipped_bits_in_the_log_never_escape_as_a_panic_or_a_wrong_value() {
    let seed = 5;
    println!("seed {seed}");
    let mut rng = Rng::new(seed);
    for round in 0..16 {
        let (dir, model) = filled();
        if round % 2 == 0 {
            // With a snapshot sled trusts the log before it; without one it reads all of it.
            drop(raw(dir.path()));
        } else {
            snapshots(dir.path()).iter().for_each(|path| fs::remove_file(path).unwrap());
        }
        let db = dir.path().join("sled/db");
        let mut bytes = fs::read(&db).unwrap();
        let used = bytes.iter().rposition(|byte| byte != bytes.last().unwrap()).unwrap();
        bytes[rng.below(used as u64) as usize] ^= 1 << rng.below(8);
        fs::write(&db, &bytes).unwrap();
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
                (Ok(found), None) => assert_eq!(found, Found::Damaged, "lost, and not noticed"),
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
        }
    }
}

#[test]
fn a_log_that_ends_anywhere_has_the_old_long_record_or_the_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (old, new) = (record(1, &[100 * KILO]), record(2, &[60 * KILO]));
    let log = |dir: &Path| dir.join("sled/COMMITS");
    let end = || {
        let bytes = fs::read(log(dir.path())).unwrap();
        bytes.len() - bytes.iter().rev().take_while(|byte| **byte == 0).count()
    };
    store.apply(&[put(0, &key("long"), &old)]).unwrap();
    store.sync().unwrap();
    let before = end();
    store.apply(&[put(0, &key("long"), &new)]).unwrap();
    store.sync().unwrap();
    let after = end();
    assert!(after > before + 60 * KILO, "{before} to {after}");
    let mut seen = [0, 0];
    // Closer at the end, where the head is.
    let cuts = (before..=after).step_by(4 * KILO).chain((after - 400..=after).step_by(20));
    for cut in cuts {
        let copy = tempfile::tempdir().unwrap();
        let mut cp = Command::new("cp");
        assert!(
            cp.arg("-a").arg(dir.path().join(".")).arg(copy.path()).status().unwrap().success()
        );
        // A power cut may leave no mark.
        fs::remove_file(copy.path().join("MARK")).unwrap();
        let mut bytes = fs::read(log(copy.path())).unwrap();
        bytes[cut..].fill(0);
        fs::write(log(copy.path()), bytes).unwrap();
        let found = open(copy.path()).read(Partition(0), &key("long")).unwrap();
        let which = [&old, &new].iter().position(|r| found == Found::Record((*r).clone()));
        seen[which.unwrap_or_else(|| panic!("cut at {cut}: {found:?}"))] += 1;
    }
    assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
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
        command.args(["--exact", "faults::writer_to_be_killed", "--nocapture"]);
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
        assert!(hot.own_epoch >= Some(ActorEpoch(announced)));
        assert_eq!(hot, record(hot.own_epoch.unwrap().0, &[150 * KILO]));
        // The one that was in progress is there whole or not at all, together with its neighbour.
        let (_, partition, key, in_flight) = written(announced + 1);
        let expected = if hot.own_epoch > Some(ActorEpoch(announced)) {
            Found::Record(in_flight)
        } else {
            Found::Nothing
        };
        assert_eq!(store.read(partition, &key).unwrap(), expected);
        next = announced + 1;
        store.close().unwrap();
    }
}

const PANICKER: &str = "PIXII_TEST_PANICKER";

/// Not a test of its own: what the next one runs.
#[test]
fn panicker_to_be_ended() {
    let Ok(dir) = std::env::var(PANICKER) else { return };
    let _store = open(Path::new(&dir));
    let thread = thread::Builder::new().name("sled-io-7".into());
    let panicked = thread.spawn(|| panic!("a page\nis gone")).unwrap().join();
    panic!("still here after {panicked:?}");
}

#[test]
fn a_panic_behind_an_open_store_ends_the_process_with_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "faults::panicker_to_be_ended", "--nocapture"]);
    let output = command.env(PANICKER, dir.path()).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text, "the store failed: sled panicked in the background: a page\n");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_store_creates_the_directories_above_it() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("var/lib/node");
    open(&deep).close().unwrap();
    assert!(File::open(deep.join("FORMAT")).is_ok());
    open(&deep).close().unwrap();
}

/// What a check says of each damaged place, and its report.
fn checked(dir: &Path) -> (CheckReport, Vec<String>) {
    let mut stated = Vec::new();
    let report =
        check(dir, &scratch(), CACHE, &mut |damage| stated.push(damage.to_string())).unwrap();
    assert_eq!(report.damages as usize, stated.len());
    (report, stated)
}

#[test]
fn a_check_counts_everything_names_every_damage_and_changes_nothing() {
    let (dir, mut model) = filled();
    let store = open(dir.path());
    let deleted = Record { own_epoch: Some(ActorEpoch(1)), ..record(1, &[]) };
    let siblings = record(7, &[10, 20, 40 * KILO]);
    store.apply(&[put(1, &key("gone"), &deleted), put(1, &key("both"), &siblings)]).unwrap();
    let before = store.meta().unwrap();
    store.close().unwrap();
    model.insert((Partition(1), key("gone")), deleted);
    model.insert((Partition(1), key("both")), siblings);

    let (report, stated) = checked(dir.path());
    assert!(stated.is_empty() && report.complete, "{stated:?}");
    let CheckReport { live_keys, siblings, values, tombstones, .. } = report;
    assert_eq!((live_keys, siblings, values, tombstones), (61, 1, 63, 1));
    assert_eq!(report.longest_clock, 3);
    assert_eq!((report.clock_entries, report.chunked, report.chunks), (63, 7, 6 * 4 + 2));
    assert!(report.disk_bytes > 600 * KILO as u64);
    let (again, _) = checked(dir.path());
    assert_eq!((again.digest, &again.meta), (report.digest, &before), "no incarnation has begun");
    assert_holds(&open(dir.path()), &model);

    let db = raw(dir.path());
    let mut bytes = db.get([&[2, 0, 0][..], b"1"].concat()).unwrap().unwrap().to_vec();
    bytes[40] ^= 1;
    db.insert([&[2, 0, 0][..], b"1"].concat(), bytes).unwrap();
    db.insert([&[2, 0, 0][..], b"2"].concat(), b"?").unwrap();
    let chunk = db.range([3]..[4]).next().unwrap().unwrap();
    db.remove(&chunk.0).unwrap();
    db.insert([3; 13], b"stray").unwrap();
    db.insert(b"\x01extra", b"unsealed").unwrap();
    db.insert([9], b"").unwrap();
    drop(db);
    let (report, stated) = checked(dir.path());
    let whole = stated.join("\n");
    for what in [
        "key \"1\" (partition 0): the checksum of its record fails",
        "key \"2\" (partition 0): it has neither a record nor a head",
        "(partition 0): its chunks do not fit its head",
        "chunk 50529027 of write 217020518514230019: no record has it",
        "the store's own record \"extra\": its checksum fails",
        "the place \\t: nothing belongs there",
    ] {
        assert!(whole.contains(what), "{what}: {whole}");
    }
    assert_eq!((stated.len(), report.complete, report.live_keys), (6, true, 58));
    assert_ne!(report.digest, again.digest);
}

#[test]
fn a_check_takes_only_a_store_that_nobody_has() {
    let rejection =
        |dir: &Path| check(dir, &scratch(), CACHE, &mut |_| {}).unwrap_err().to_string();
    let (dir, _) = filled();
    let store = open(dir.path());
    let text = rejection(dir.path());
    assert!(text.ends_with(&format!("is in use by process {}", std::process::id())), "{text}");
    drop(store);
    let empty = tempfile::tempdir().unwrap();
    let text = rejection(empty.path());
    assert!(text.ends_with("cannot be used: there is no store in it"), "{text}");
    assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 0);
    let text = rejection(&empty.path().join("none"));
    assert!(text.contains("No such file or directory"), "{text}");
    assert!(!empty.path().join("none").exists());
}

#[test]
fn a_torn_conf_is_made_anew() {
    let (dir, model) = filled();
    let conf = dir.path().join("sled/conf");
    let whole = fs::read(&conf).unwrap();
    let flipped: Vec<u8> = whole.iter().map(|byte| byte ^ 4).collect();
    for bad in [&whole[..whole.len() / 2], b"", &flipped] {
        fs::write(&conf, bad).unwrap();
        assert_holds(&open(dir.path()), &model);
        assert_eq!(fs::read(&conf).unwrap(), whole);
    }
}

#[test]
fn a_salvage_reads_what_lies_behind_a_damaged_message() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for n in 0..400 {
        store.apply(&[put(0, &key(format!("{n}")), &record(n, &[300]))]).unwrap();
        if n % 20 == 0 {
            store.sync().unwrap();
        }
    }
    begin_incarnation(&store, &owner("n1"), Process(1)).unwrap();
    store.close().unwrap();
    // Without a snapshot sled reads the whole log, and would stop at the first damaged message.
    snapshots(dir.path()).iter().for_each(|path| fs::remove_file(path).unwrap());
    // The commit log still has the newest records, and would bring them back.
    fs::remove_file(dir.path().join("sled/COMMITS")).unwrap();
    let db = dir.path().join("sled/db");
    let mut bytes = fs::read(&db).unwrap();
    let damaged = record(100, &[300]);
    let value = damaged.object.values().next().unwrap().1.value.0.clone();
    let at = bytes.windows(value.len()).position(|window| window == value).unwrap();
    bytes[at + 150] ^= 1;
    fs::write(&db, &bytes).unwrap();

    let (store, salvage) = DiskStore::salvage(dir.path(), CACHE, &|_, _, _| {}).unwrap();
    println!("{} places copied, lost: {:?}", salvage.copied, salvage.lost);
    let readable = (0..400).filter(|n| {
        let wanted = Found::Record(record(*n, &[300]));
        store.read(Partition(0), &key(format!("{n}"))).unwrap() == wanted
    });
    let readable = readable.count();
    assert!(readable >= 399, "{readable} of 400");
}
