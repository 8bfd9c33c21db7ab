//! The commit log of a real store: processes that are killed at any of its calls, damage of a
//! stopped store's log, and what a store has behind its last checkpoint.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use pixii::disk::{DiskStore, Limits, OpenError, check};
use pixii_core::store::{Change, Found, Process, Record, Store, begin_incarnation};
use pixii_core::types::{Key, NodeId, Partition};
use tempfile::TempDir;

use crate::{CACHE, KILO, Model, assert_holds, key, open, owner, put, record, scratch};

/// Checkpoints every few writes.
const SMALL: Limits = Limits {
    segment_bytes: 4 << 10,
    min_segments: 4,
    max_segments: 8,
    table_bytes: 8 << 10,
    step_changes: 3,
    rest: 0,
};
const WRITES: u64 = 40;

fn small(dir: &Path) -> DiskStore {
    DiskStore::open_with(dir, CACHE, SMALL).unwrap()
}

/// The write `n`: a record of its own, and one that is overwritten each time; some go past the log.
fn written(n: u64) -> [(Key, Record); 2] {
    let size = if n % 9 == 8 { 40 * KILO } else { 40 + 150 * (n as usize % 7) };
    [(key(format!("own {n}")), record(n, &[size])), (key("hot"), record(n, &[300]))]
}

const WRITER: &str = "PIXII_TEST_LOG_WRITER";

/// Not a test of its own: what the next ones run and kill. Writes from a number on, and closes the
/// store.
#[test]
fn log_writer_to_be_killed() {
    let Ok(arguments) = std::env::var(WRITER) else { return };
    let (first, dir) = arguments.split_once(' ').unwrap();
    let store = small(Path::new(dir));
    for n in first.parse().unwrap()..WRITES {
        let changes = written(n).map(|(key, record)| put(1, &key, &record));
        store.apply(&changes).unwrap();
        store.sync().unwrap();
        println!("\nsynced {n}");
    }
    store.close().unwrap();
    println!("\nclosed");
}

/// Runs the writer below `tracer`.
fn write(tracer: &[&str], first: u64, dir: &Path) -> Output {
    let own = std::env::current_exe().unwrap();
    let words: Vec<&str> = tracer.iter().copied().chain([own.to_str().unwrap()]).collect();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).args([
        "--exact",
        "commit_log::log_writer_to_be_killed",
        "--nocapture",
    ]);
    command.env(WRITER, format!("{first} {}", dir.display())).output().unwrap()
}

fn stated(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// How many writes were announced.
fn announced(output: &Output) -> u64 {
    let stated = stated(output);
    let numbers =
        stated.lines().filter_map(|line| line.strip_prefix("synced ")?.parse::<u64>().ok());
    numbers.max().map_or(0, |n| n + 1)
}

/// All writes before `count` are there, and the one after them is there whole or not at all.
fn assert_written(store: &DiskStore, count: u64, when: &str) {
    let found = |key: &Key| store.read(Partition(1), key).unwrap();
    for n in 0..count {
        let [(own, record), _] = written(n);
        assert!(found(&own) == Found::Record(record), "{when}: write {n} of {count}");
    }
    let [(own, record), (hot, newer)] = written(count);
    let older = count.checked_sub(1).map(|n| Found::Record(written(n)[1].1.clone()));
    match found(&own) {
        Found::Nothing => assert!(found(&hot) == older.unwrap_or(Found::Nothing), "{when}"),
        other => {
            assert!(other == Found::Record(record), "{when}");
            assert!(found(&hot) == Found::Record(newer), "{when}: half a write");
        }
    }
}

fn strace_works(test: &str) -> bool {
    let works = Command::new("strace").args(["-f", "-qq", "-o", "/dev/null", "true"]).output();
    let works = works.is_ok_and(|output| output.status.success());
    assert!(works || std::env::var_os("CI").is_none(), "strace must work under CI");
    if !works {
        println!("{test}: SKIPPED, because strace cannot trace here");
    }
    works
}

/// The words that kill a process at the nth call of a kind on a file.
fn killing<'a>(call: &'a str, inject: &'a str, path: &'a str) -> Vec<&'a str> {
    let mut words = vec!["strace", "-f", "-qq", "-o", "/dev/null", "-e", call, "-e", inject];
    words.extend(["-P", path]);
    words
}

fn copied(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

#[test]
fn a_kill_at_any_call_of_the_log_or_of_a_checkpoint_loses_nothing() {
    if !strace_works("a_kill_at_any_call_of_the_log") {
        return;
    }
    let mut kills = 0;
    for (file, calls) in [
        ("db", &["pwrite64", "fdatasync", "sync_file_range", "fallocate"][..]),
        ("COMMITS", &["pwrite64", "fdatasync"]),
    ] {
        for call in calls {
            // The log has several calls for each write; the first ones are its creation.
            let step = if file == "COMMITS" { 3 } else { 1 };
            for nth in (1..).step_by(step) {
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join("sled").join(file);
                small(dir.path()).close().unwrap();
                let (trace, inject) =
                    (format!("trace={call}"), format!("inject={call}:signal=SIGKILL:when={nth}"));
                let tracer = killing(&trace, &inject, path.to_str().unwrap());
                let output = write(&tracer, 0, dir.path());
                let (when, count) = (format!("{call} {nth} of {file}"), announced(&output));
                let store = small(dir.path());
                assert_written(&store, count, &when);
                drop(store);
                if stated(&output).contains("\nclosed") {
                    assert_eq!(count, WRITES, "{when}");
                    break;
                }
                // It goes on, and is whole to its end.
                kills += 1;
                let output = write(&[], count, dir.path());
                assert!(stated(&output).contains("\nclosed"), "{when}: {output:?}");
                assert_written(&open(dir.path()), WRITES, &when);
            }
        }
    }
    println!("killed {kills} times");
    assert!(kills >= 25, "only {kills} calls were there to be killed at");
}

/// A store with writes in its log that the tree does not have.
fn with_a_log(writes: u64) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    begin_incarnation(&store, &owner("n1"), Process(1)).unwrap();
    store.close().unwrap();
    let store = open(dir.path());
    for n in 0..writes {
        let changes = written(n).map(|(key, record)| put(1, &key, &record));
        store.apply(&changes).unwrap();
        store.sync().unwrap();
    }
    drop(store);
    dir
}

#[test]
fn a_kill_at_any_call_of_a_replay_and_of_the_close_behind_it_loses_nothing() {
    if !strace_works("a_kill_at_any_call_of_a_replay") {
        return;
    }
    let dir = with_a_log(WRITES);
    let place = tempfile::tempdir().unwrap();
    let copy = place.path().join("copy");
    let mut kills = 0;
    for call in
        ["pwrite64", "write", "fdatasync", "fsync", "sync_file_range", "fallocate", "unlink"]
    {
        for nth in 1.. {
            copied(dir.path(), &copy);
            let (trace, inject) =
                (format!("trace={call}"), format!("inject={call}:signal=SIGKILL:when={nth}"));
            let tracer = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
            let output = write(&tracer, WRITES, &copy);
            assert_written(&open(&copy), WRITES, &format!("{call} {nth}"));
            if stated(&output).contains("\nclosed") {
                break;
            }
            kills += 1;
        }
    }
    println!("killed {kills} times");
    assert!(kills >= 15, "only {kills} calls were there to be killed at");
}

/// Where the log of a store is, and where what is in it ends.
fn log_of(dir: &Path) -> (PathBuf, Vec<u8>, usize) {
    let path = dir.join("sled/COMMITS");
    let bytes = fs::read(&path).unwrap();
    let end = bytes.len() - bytes.iter().rev().take_while(|byte| **byte == 0).count();
    (path, bytes, end)
}

#[test]
fn a_flip_in_the_log_of_a_stopped_store_is_damage_and_a_salvage_has_all_the_rest() {
    // Few enough for one segment: what is in others may have come to the tree meanwhile.
    let dir = with_a_log(8);
    let place = tempfile::tempdir().unwrap();
    let copy = place.path().join("copy");
    let (path, bytes, end) = log_of(dir.path());
    let name = path.strip_prefix(dir.path()).unwrap();
    let mut salvaged = 0;
    let flips = [5, 20, 4_096 + 30, 4_096 + 64 + 10];
    for at in flips.into_iter().chain((4_096 + 200..end).step_by(1_900)).chain([end - 1]) {
        copied(dir.path(), &copy);
        let mut bad = bytes.clone();
        bad[at] ^= 1 << (at % 8);
        fs::write(copy.join(name), bad).unwrap();
        let Err(error) = DiskStore::open(&copy, CACHE) else { panic!("a flip at {at} of {end}") };
        assert!(matches!(error, OpenError::Damaged { .. }), "a flip at {at}: {error}");
        let (store, _) = DiskStore::salvage(&copy, CACHE, &|_, _, _| {}).unwrap();
        let is_there = |n: &u64| {
            let [(own, record), _] = written(*n);
            store.read(Partition(1), &own).unwrap() == Found::Record(record)
        };
        let there = (0..8).filter(is_there).count();
        // Behind a damaged segment head nothing is known to be a record.
        assert!(there >= 7 || at == 4_096 + 30, "a flip at {at}: {there} of 8");
        salvaged += 1;
        store.close().unwrap();
        assert!(copy.join("damaged-1/sled/COMMITS").exists(), "kept as it was found");
        check(&copy, &scratch(), CACHE, &mut |damage| panic!("{damage}")).unwrap();
    }
    assert!(salvaged > 5);
    // Nothing is known of a log without its file.
    copied(dir.path(), &copy);
    fs::remove_file(copy.join(name)).unwrap();
    let error = DiskStore::open(&copy, CACHE).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
}

#[test]
fn a_log_that_is_older_than_what_was_synced_is_damage() {
    let dir = with_a_log(3);
    let (path, older, _) = log_of(dir.path());
    let store = open(dir.path());
    store.apply(&[put(1, &key("late"), &record(1, &[10]))]).unwrap();
    store.sync().unwrap();
    drop(store);
    fs::write(path, older).unwrap();
    let error = DiskStore::open(dir.path(), CACHE).unwrap_err().to_string();
    assert!(error.contains("was synced"), "{error}");
}

#[test]
fn what_a_tree_lost_and_the_log_still_has_is_no_damage() {
    let dir = with_a_log(5);
    let db = dir.path().join("sled/db");
    let older = fs::read(&db).unwrap();
    // The checkpoint of the close is lost, and the log was not written over.
    open(dir.path()).close().unwrap();
    fs::write(&db, older).unwrap();
    for entry in fs::read_dir(dir.path().join("sled")).unwrap() {
        let path = entry.unwrap().path();
        if path.to_string_lossy().contains("/snap.") {
            fs::remove_file(path).unwrap();
        }
    }
    assert_written(&open(dir.path()), 5, "with an older tree");
}

#[test]
fn a_store_made_anew_while_it_is_open_has_what_only_the_log_had() {
    let dir = with_a_log(20);
    let store = open(dir.path());
    let late = [put(1, &key("late"), &record(1, &[50 * KILO]))];
    store.apply(&late).unwrap();
    let gone = Change::Forget { partition: Partition(1), key: key("own 3") };
    store.apply(&[gone]).unwrap();
    store.sync().unwrap();
    let prepared = store.prepare(CACHE, &|_, _, lost| assert_eq!(lost.count, 0)).unwrap();
    let (store, _) = store.exchange(prepared, CACHE).unwrap();
    let mut model = Model::new();
    for n in (0..20).filter(|n| *n != 3) {
        let [(own, record), _] = written(n);
        model.insert((Partition(1), own), record);
    }
    model.insert((Partition(1), key("hot")), written(19)[1].1.clone());
    model.insert((Partition(1), key("late")), record(1, &[50 * KILO]));
    assert_holds(&store, &model);
    // The new store has a commit log of its own.
    store.apply(&[put(1, &key("more"), &record(2, &[10]))]).unwrap();
    store.sync().unwrap();
    drop(store);
    model.insert((Partition(1), key("more")), record(2, &[10]));
    assert_holds(&open(dir.path()), &model);
}

#[test]
fn hints_and_listings_show_what_only_the_log_has() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let hint =
        |n: u64, record| Change::Hint { target: NodeId(9), key: key(format!("{n}")), record };
    for n in 0..6 {
        store
            .apply(&[
                hint(n, Some(record(n, &[50]))),
                put(0, &key(format!("{n}")), &record(n, &[50])),
            ])
            .unwrap();
    }
    store.close().unwrap();
    let store = open(dir.path());
    store
        .apply(&[hint(2, None), hint(4, Some(record(44, &[60]))), hint(7, Some(record(7, &[5])))])
        .unwrap();
    store.apply(&[Change::Forget { partition: Partition(0), key: key("1") }]).unwrap();
    store.apply(&[put(0, &key("05"), &record(5, &[5]))]).unwrap();
    store.sync().unwrap();
    let assert_shown = |store: &DiskStore| {
        let page = store.list_hints(NodeId(9), None, usize::MAX).unwrap();
        let keys: Vec<Key> = page.hints.iter().map(|(key, _)| key.clone()).collect();
        assert_eq!(keys, ["0", "1", "3", "4", "5", "7"].map(key));
        assert_eq!(page.hints[3].1, Found::Record(record(44, &[60])));
        let kept = store.hint_totals(&|_| Partition(0)).unwrap();
        assert_eq!(kept.totals[&NodeId(9)].count, 6);
        let listing = store.list(Partition(0), Some(&key("0")), 3).unwrap();
        assert_eq!((listing.keys, listing.more), (["05", "2"].map(key).to_vec(), true));
    };
    assert_shown(&store);
    drop(store);
    assert_shown(&open(dir.path()));
}

#[test]
fn a_scrub_reads_the_log_and_finds_a_flip_under_an_open_store() {
    let dir = with_a_log(12);
    let store = open(dir.path());
    let scrub = |store: &DiskStore| {
        let parts = store.scrub(0).unwrap().parts;
        (0..parts).filter_map(|part| store.scrub(part).unwrap().damage).collect::<Vec<_>>()
    };
    assert_eq!(scrub(&store), Vec::<String>::new());
    let (path, mut bytes, end) = log_of(dir.path());
    bytes[end / 2 + 2_048] ^= 1;
    fs::write(path, bytes).unwrap();
    let found = scrub(&store);
    assert!(found.len() == 1 && found[0].contains("of the commit log"), "{found:?}");
}
