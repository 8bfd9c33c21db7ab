//! The store alone: writes that go straight to sled, synced, as before there was a commit log,
//! beside writes through the log and its table, checkpoints included.
//!
//! `cargo bench --bench commit_log [-- KEYS GROUP...]`; without arguments 100,000 keys and groups
//! of 1, 8, 20, 64 and 512. For each way: CPU of the process per record in the median of three
//! rounds, with what it takes to bring the rest of the log to the tree; then both write a group in
//! turn, so that both meet the same noise: the time of a group (median, 99th percentile, mean,
//! longest). `TABLE_MIB`, `STEP` and `REST` change the log's limits.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pixii::disk::{DiskStore, Limits};
use pixii_core::causal::{Actor, ActorEpoch, Context, Object, Version};
use pixii_core::gc_epoch::GcEpoch;
use pixii_core::rng::Rng;
use pixii_core::store::{Change, Record, Store, encode_record};
use pixii_core::types::{Blob, Key, Partition, WriteId};
use rustix::time::{ClockId, clock_gettime};

const GROUPS: [u32; 5] = [1, 8, 20, 64, 512];
const CACHE_BYTES: u64 = 32 << 20;
/// A round of a measurement takes so long.
const LONG: Duration = Duration::from_secs(4);
const ROUNDS: u64 = 3;
const VALUE_BYTES: usize = 100;

fn record(number: u32) -> (Partition, Key, Record) {
    let write = WriteId(number.into());
    let version = Version { write, value: Blob(Bytes::from(vec![number as u8; VALUE_BYTES])) };
    let actor = Actor { store: 1 << 60, actor_epoch: ActorEpoch(1) };
    let (object, _) = Object::default().update(&Context::default(), actor, version);
    let scattered = number.wrapping_mul(2_654_435_761);
    let partition = Partition((scattered % 64) as u16);
    let key = Key::new(format!("key-{number:09}").into_bytes()).unwrap();
    (partition, key, Record { own_epoch: Some(ActorEpoch(1)), object, gc_epoch: GcEpoch(0) })
}

/// A way to write a group durably.
trait Way {
    fn write(&mut self, group: &[u32]);
}

/// sled alone: one batch, a flush, and an `fdatasync`.
struct Direct {
    db: sled::Db,
    log: File,
    writes: u64,
}

impl Direct {
    fn new(dir: &Path) -> Self {
        let config = sled::Config::new().path(dir).cache_capacity(CACHE_BYTES);
        let db = config.segment_size(8 << 20).flush_every_ms(None).open().unwrap();
        let log = File::options().write(true).open(dir.join("db")).unwrap();
        Direct { db, log, writes: 0 }
    }
}

impl Way for Direct {
    fn write(&mut self, group: &[u32]) {
        let mut batch = sled::Batch::default();
        for number in group {
            let (partition, key, record) = record(*number);
            let place = [&[2], &partition.0.to_be_bytes()[..], key.as_bytes()].concat();
            // As the store does, to find chunks of the record before.
            let _ = self.db.get(&place).unwrap();
            batch.insert(place, encode_record(partition, &key, &record));
        }
        self.writes += 1;
        batch.insert(&b"\x01write"[..], &self.writes.to_be_bytes());
        self.db.apply_batch(batch).unwrap();
        self.db.flush().unwrap();
        self.log.sync_data().unwrap();
    }
}

/// The store as it is.
struct Logged(DiskStore);

impl Way for Logged {
    fn write(&mut self, group: &[u32]) {
        let change = |number: &u32| {
            let (partition, key, record) = record(*number);
            Change::Record { partition, key, record }
        };
        let changes: Vec<Change> = group.iter().map(change).collect();
        self.0.apply(&changes).unwrap();
        self.0.sync().unwrap();
    }
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn random(rng: &mut Rng, keys: u32, group: u32) -> Vec<u32> {
    (0..group).map(|_| rng.below(keys.into()) as u32).collect()
}

/// Writes groups of random keys for a while; `finish` belongs to it, and its CPU counts. Gives the
/// microseconds of CPU for a record.
fn measure<W: Way>(mut way: W, seed: u64, keys: u32, group: u32, finish: impl FnOnce(W)) -> f64 {
    let mut rng = Rng::new(seed);
    let (begun, before) = (Instant::now(), cpu());
    let mut records = 0;
    while begun.elapsed() < LONG {
        way.write(&random(&mut rng, keys, group));
        records += u64::from(group);
    }
    finish(way);
    (cpu() - before).as_secs_f64() * 1e6 / records as f64
}

/// How long groups took that both wrote in turn.
fn take_turns(mut ways: [&mut dyn Way; 2], keys: u32, group: u32) -> [Vec<Duration>; 2] {
    let (mut rng, begun) = (Rng::new(9), Instant::now());
    let mut took = [Vec::new(), Vec::new()];
    while begun.elapsed() < 3 * LONG {
        let numbers = random(&mut rng, keys, group);
        for (way, took) in ways.iter_mut().zip(&mut took) {
            let at = Instant::now();
            way.write(&numbers);
            took.push(at.elapsed());
        }
    }
    took
}

fn show(name: &str, group: u32, cpu: &mut [f64], took: &mut [Duration]) {
    cpu.sort_unstable_by(f64::total_cmp);
    took.sort_unstable();
    let at = |part: f64| took[(part * (took.len() - 1) as f64) as usize].as_micros();
    let mean = (took.iter().sum::<Duration>() / took.len() as u32).as_micros();
    let (cpu, median, late, longest) = (cpu[cpu.len() / 2], at(0.5), at(0.99), at(1.0));
    println!("{name:>6} {group:>5} {cpu:>8.1} {median:>8} {late:>8} {mean:>8} {longest:>8}");
}

fn limits() -> Limits {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    let mut limits = Limits::default();
    if let Some(mib) = number("TABLE_MIB") {
        limits.table_bytes = (mib as usize) << 20;
        limits.max_segments = 3 * mib * (1 << 20) / limits.segment_bytes;
    }
    limits.step_changes = number("STEP").map_or(limits.step_changes, |step| step as usize);
    limits.rest = number("REST").unwrap_or(limits.rest);
    limits
}

fn main() {
    let numbers: Vec<u32> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let keys = numbers.first().copied().unwrap_or(100_000);
    let groups = if numbers.len() > 1 { &numbers[1..] } else { &GROUPS[..] };
    println!("{keys} keys, {VALUE_BYTES} bytes a value, {:?}", limits());
    println!("   way group   cpu us   p50 us   p99 us  mean us   max us");
    let dir = tempfile::tempdir_in(".").unwrap();
    let (straight, logged) = (dir.path().join("direct"), dir.path().join("logged"));
    let open = || Logged(DiskStore::open_with(&logged, CACHE_BYTES, limits()).unwrap());
    let (mut direct, mut log) = (Direct::new(&straight), open());
    for part in (0..keys).collect::<Vec<u32>>().chunks(1_000) {
        direct.write(part);
        log.write(part);
    }
    drop(direct);
    log.0.close().unwrap();
    for group in groups {
        let (mut of_sled, mut of_log) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            of_sled.push(measure(Direct::new(&straight), round, keys, *group, drop));
            let close = |way: Logged| way.0.close().unwrap();
            of_log.push(measure(open(), round, keys, *group, close));
        }
        let (mut direct, mut log) = (Direct::new(&straight), open());
        let [mut took_sled, mut took_log] = take_turns([&mut direct, &mut log], keys, *group);
        log.0.close().unwrap();
        show("sled", *group, &mut of_sled, &mut took_sled);
        show("log", *group, &mut of_log, &mut took_log);
    }
}
