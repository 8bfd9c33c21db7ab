//! Log, tables and tree together: a real tree, and a log on a disk that fails and forgets.

use std::collections::BTreeMap;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use pixii_core::rng::Rng;
use tempfile::TempDir;

use super::super::device::twin::Twin;
use super::*;

const ID: u64 = 77;
const LIMITS: Limits = Limits {
    segment_bytes: 4 << 10,
    min_segments: 4,
    max_segments: 8,
    table_bytes: 8 << 10,
    step_changes: 4,
    rest: 1,
};
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

type Model = BTreeMap<Vec<u8>, Bytes>;

/// A store whose log is in memory, and what must be in it.
struct Store {
    dir: TempDir,
    device: Arc<Twin>,
    tree: LoggedTree,
    model: Model,
    seq: u64,
}

fn sled(dir: &TempDir) -> Sled {
    Sled::open(dir.path(), 1 << 20).unwrap()
}

impl Store {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let sled = sled(&dir);
        let mut batch = Batch::default();
        batch.insert(meta_key(LAST_WRITE), seal(LAST_WRITE, &0u64.to_be_bytes()));
        sled.apply(batch).unwrap();
        sled.sync().unwrap();
        let device = Arc::new(Twin::default());
        CommitLog::create(&*device, ID, &LIMITS, 0).unwrap();
        let tree = LoggedTree::attach(sled, device.clone(), ID, LIMITS).unwrap();
        Store { dir, device, tree, model: Model::new(), seq: 0 }
    }

    fn apply(&mut self, edits: Vec<Edit>) -> Result<(), StoreFault> {
        self.seq += 1;
        self.tree.apply(edits.clone(), self.seq)?;
        for (place, value) in edits {
            match value {
                Some(value) => drop(self.model.insert(place, value)),
                None => drop(self.model.remove(&place)),
            }
        }
        Ok(())
    }

    /// Ends without a close, as a kill does or a power cut of the log's disk, and opens again.
    fn crash(self, device: Twin) -> Self {
        let Store { dir: old, tree, model, .. } = self;
        drop(tree);
        // After an error the old one still has its files.
        let dir = tempfile::tempdir().unwrap();
        let from = old.path().join(".");
        let copied = Command::new("cp").arg("-a").arg(from).arg(dir.path()).status();
        assert!(copied.unwrap().success());
        let device = Arc::new(device);
        let tree = LoggedTree::attach(sled(&dir), device.clone(), ID, LIMITS).unwrap();
        Store { dir, device, seq: tree.last_write(), tree, model }
    }

    fn held(&self) -> Model {
        let mut held = Model::new();
        let add = |place: &[u8], value| {
            if !place.starts_with(&[1]) {
                held.insert(place.to_vec(), value);
            }
            Ok(true)
        };
        self.tree.range(&[], None, add).unwrap();
        held
    }

    fn assert_holds(&self) {
        assert!(self.held() == self.model, "the range shows something else");
        for number in 0..60 {
            assert_eq!(
                self.tree.get(&place(number)).unwrap().as_ref(),
                self.model.get(&place(number))
            );
        }
    }
}

fn place(number: u64) -> Vec<u8> {
    // Some are chunks, which go to the tree in an order of their own.
    let space = if number.is_multiple_of(5) { 3 } else { 2 };
    [&[space], format!("place {number}").as_bytes()].concat()
}

fn edits(rng: &mut Rng) -> Vec<Edit> {
    let edit = |rng: &mut Rng| {
        let longest = if rng.chance(0.05) { 1_500 } else { 90 };
        let length = rng.below(longest);
        let value = Bytes::from(vec![rng.below(256) as u8; length as usize]);
        (place(rng.below(60)), (!rng.chance(0.2)).then_some(value))
    };
    (0..=rng.below(4)).map(|_| edit(rng)).collect()
}

#[test]
fn log_tables_and_tree_are_one_map_that_survives_every_end() {
    let seed = 20_261_130;
    println!("seed {seed}");
    let mut rng = Rng::new(seed);
    let mut store = Store::new();
    let (mut from_log, mut checkpoints) = (0, 0);
    for round in 0..1_500 {
        store.apply(edits(&mut rng)).unwrap();
        let (a, b) = (place(rng.below(60)), place(rng.below(60)));
        let (from, to) = if a < b { (a, b) } else { (b, a) };
        let mut shown = Vec::new();
        let limit = rng.below(20) as usize;
        let visit = |place: &[u8], value| {
            shown.push((place.to_vec(), value));
            Ok(shown.len() <= limit)
        };
        store.tree.range(&from, Some(&to), visit).unwrap();
        let expected = store.model.range(from..to).take(limit + 1);
        assert!(shown.iter().map(|(place, value)| (place, value)).eq(expected), "round {round}");
        if rng.chance(0.5) {
            store.tree.sync().unwrap();
        }
        if round % 100 == 99 {
            store.assert_holds();
            assert_eq!(store.tree.sync().unwrap(), store.seq);
            checkpoints += u64::from(store.tree.applied() > 0);
            from_log += store.seq - store.tree.applied();
            let device = match round % 200 {
                99 => store.device.after_kill(),
                _ => store.device.after_power_cut(&mut rng),
            };
            store = store.crash(device);
            store.assert_holds();
        }
    }
    assert!(from_log > 100 && checkpoints > 5, "{from_log} writes replayed, {checkpoints}");
    // A close brings all of it to the tree.
    store.tree.sync().unwrap();
    let Store { dir, tree, model, seq, .. } = store;
    tree.close().unwrap();
    let sled = sled(&dir);
    assert_eq!(last_write(&sled).unwrap(), seq);
    let mut held = Model::new();
    sled.range(&[2], None, |place, value| Ok(held.insert(place.to_vec(), value).is_none()))
        .unwrap();
    assert!(held == model);
}

#[test]
fn an_error_at_any_call_of_the_log_is_the_last_thing_and_loses_nothing() {
    let mut ended = 0;
    for at in 0..70 {
        for error in [EIO, ENOSPC] {
            let mut rng = Rng::new(at);
            let mut store = Store::new();
            store.device.fail_at(store.device.calls() + at as usize, error);
            let (mut before, mut acknowledged) = (Model::new(), 0);
            let mut failed = None;
            for _ in 0..120 {
                let model = store.model.clone();
                let done = store.apply(edits(&mut rng)).and_then(|()| store.tree.sync());
                match done {
                    Ok(synced) => (before, acknowledged) = (store.model.clone(), synced),
                    Err(fault) => {
                        // What was in progress may be there or not.
                        before = if store.model == model { before } else { model };
                        failed = Some(fault);
                        break;
                    }
                }
            }
            let Some(fault) = failed else { continue };
            ended += 1;
            assert!(matches!(fault, StoreFault::Io(_)), "{fault:?}");
            assert_eq!(store.tree.sync(), Err(fault.clone()));
            assert_eq!(store.tree.apply(Vec::new(), 9_999), Err(fault.clone()));
            assert_eq!(store.tree.get(&place(1)), Err(fault.clone()));
            assert_eq!(store.tree.range(&[], None, |_, _| Ok(true)), Err(fault.clone()));
            let device = if at % 2 == 0 {
                store.device.after_kill()
            } else {
                store.device.after_power_cut(&mut rng)
            };
            let in_flight = store.model.clone();
            store = store.crash(device);
            let held = store.held();
            assert!(store.seq >= acknowledged, "call {at}");
            assert!(held == before || held == in_flight, "call {at}, error {error}");
        }
    }
    assert!(ended > 100, "only {ended} errors were met");
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn nothing_of_the_log_is_written_over_before_the_sync_of_the_tree() {
    let mut rng = Rng::new(4);
    let mut store = Store::new();
    let shared = store.tree.shared.clone();
    let held = shared.sled.hold_syncs();
    while store.tree.shared.tables().frozen.is_none() {
        store.apply(edits(&mut rng)).unwrap();
        store.tree.sync().unwrap();
    }
    let frozen = store.tree.shared.tables().frozen.as_ref().map(|frozen| frozen.seq).unwrap();
    // The tree has it all, and has not synced it.
    until("all steps of the checkpoint are done", || {
        last_write(store.tree.tree()).unwrap() == frozen
    });
    thread::sleep(Duration::from_millis(100));
    assert_eq!(store.tree.applied(), 0);
    // Clients go on as long as there is room.
    for _ in 0..5 {
        store.apply(edits(&mut rng)).unwrap();
        store.tree.sync().unwrap();
    }
    assert!(store.tree.shared.tables().frozen.is_some());
    // A power cut that takes all that the tree has not synced: the log has it.
    let mut first = None;
    let device = Arc::new(store.device.after_power_cut(&mut rng));
    let visit = &mut |seq, _| {
        first.get_or_insert(seq);
    };
    let log = CommitLog::open(device, ID, 0, 0, visit).unwrap();
    assert_eq!((first, log.seq), (Some(1), store.seq));
    drop(held);
    until("the checkpoint is done", || store.tree.applied() == frozen);
    store.assert_holds();
}

#[test]
fn the_tables_take_no_more_memory_than_they_may_and_writers_wait() {
    let mut store = Store::new();
    let shared = store.tree.shared.clone();
    let held = shared.sled.hold_syncs();
    let most = 2 * LIMITS.table_bytes;
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut rng = Rng::new(5);
            for _ in 0..500 {
                store.apply(edits(&mut rng)).unwrap();
                store.tree.sync().unwrap();
                let bytes = store.tree.shared.tables().bytes();
                assert!(bytes <= most, "{bytes} bytes");
            }
        });
        let mut before = 0;
        until("the writer waits", || {
            thread::sleep(Duration::from_millis(50));
            let now = shared.tables().bytes();
            std::mem::replace(&mut before, now) == now && now > LIMITS.table_bytes / 2
        });
        assert!(!writer.is_finished());
        drop(held);
        writer.join().unwrap();
    });
    store.assert_holds();
}

#[test]
fn a_write_that_is_longer_than_the_log_takes_goes_to_the_tree_and_keeps_its_place() {
    let mut rng = Rng::new(6);
    let mut store = Store::new();
    for round in 0..6 {
        for _ in 0..rng.below(30) {
            store.apply(edits(&mut rng)).unwrap();
        }
        let long = Bytes::from(vec![round; 30_000]);
        let removed = (place(rng.below(60)), None);
        store.apply(vec![(place(rng.below(60)), Some(long)), removed]).unwrap();
        assert_eq!(store.tree.applied(), store.seq, "synced at once");
        store.assert_holds();
        if round % 2 == 0 {
            store.apply(edits(&mut rng)).unwrap();
        }
        store.tree.sync().unwrap();
        let device = store.device.after_power_cut(&mut rng);
        store = store.crash(device);
        store.assert_holds();
    }
}

#[test]
fn the_log_grows_while_it_is_too_short_for_a_table() {
    let mut rng = Rng::new(7);
    let mut store = Store::new();
    assert_eq!(store.tree.shared.segments(), 4);
    // Overwrites of few places: the table stays small, and the log fills.
    for _ in 0..400 {
        let value = Bytes::from(vec![7; 300]);
        store.apply(vec![(place(rng.below(3)), Some(value))]).unwrap();
        store.tree.sync().unwrap();
    }
    until("it has grown", || store.tree.shared.segments() == LIMITS.max_segments);
    let device = store.device.after_kill();
    let store = store.crash(device);
    store.assert_holds();
    assert_eq!(store.tree.shared.segments(), LIMITS.max_segments, "as found");
}

#[test]
fn damage_of_the_log_under_an_open_store_is_found() {
    let mut rng = Rng::new(8);
    let mut store = Store::new();
    for _ in 0..12 {
        store.apply(edits(&mut rng)).unwrap();
        store.tree.sync().unwrap();
        assert_eq!(store.tree.look_at_log(), Ok(Some(Ok(()))));
    }
    let at = 4_096 + 64 + 20;
    store.device.flip(at, 2);
    let found = store.tree.look_at_log().unwrap();
    assert!(found.is_some_and(|found| found.unwrap_err().contains("is damaged")));
    store.device.flip(at, 2);
    assert_eq!(store.tree.look_at_log(), Ok(Some(Ok(()))));
    store.device.flip(9, 0);
    assert!(store.tree.look_at_log().unwrap().unwrap().is_err(), "the head of the file");
    store.device.flip(9, 0);
    // The last record: nothing behind it reports, but what is known to be synced.
    let end = {
        let log = store.tree.shared.log();
        4_096 + log.used[0].slot as usize * 4_096 + log.at.unwrap()
    };
    store.device.flip(end - 1, 7);
    assert!(store.tree.look_at_log().unwrap().unwrap().is_err());
    // What the tables hold is whole: a new store can be made of it.
    assert_eq!(store.tree.newer().seq, store.seq);
}

#[test]
fn a_look_that_a_checkpoint_overtakes_shows_no_damage() {
    let mut rng = Rng::new(9);
    let mut store = Store::new();
    let shared = store.tree.shared.clone();
    let first = shared.log().next_number;
    while shared.log().next_number - first < 12 {
        store.apply(edits(&mut rng)).unwrap();
        store.tree.sync().unwrap();
    }
    // What was behind the beginning of the log was written over.
    assert!(store.tree.damage_of_log(0).unwrap().is_some());
    let tree = LoggedTree { shared, thread: None };
    let (mut whole, mut overtaken) = (0, 0);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for _ in 0..1_500 {
                store.apply(edits(&mut rng)).unwrap();
                store.tree.sync().unwrap();
            }
        });
        while !writer.is_finished() {
            match tree.look_at_log().unwrap() {
                Some(found) => {
                    assert_eq!(found, Ok(()));
                    whole += 1;
                }
                None => overtaken += 1,
            }
        }
    });
    println!("{whole} looks found a whole log, {overtaken} were overtaken");
    assert!(whole > 0);
}

#[test]
fn two_openings_of_one_log_number_its_segments_differently() {
    let store = Store::new();
    let number = store.tree.shared.log().next_number;
    let device = store.device.after_kill();
    let store = store.crash(device);
    assert_ne!(store.tree.shared.log().next_number, number);
}
