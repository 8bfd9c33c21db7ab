//! The minimal cost of durability: plain appends with fdatasync, and the store by itself, without a
//! cluster.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pixii::disk::DiskStore;
use pixii_core::causal::{Actor, ActorEpoch, Context, Object, Version};
use pixii_core::rng::Rng;
use pixii_core::store::{Change, Record, Store};
use pixii_core::types::{Blob, Key, Partition, WriteId};

use super::usage::Machine;

/// Number of partitions over which the records are spread.
const PARTITIONS: u64 = 64;
const CACHE_BYTES: u64 = 32 << 20;
/// Number of reads between two readings of the clock.
const READS: u64 = 256;

/// The cost of records of one size if `batch` of them share a sync, or of reads from the cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// Bytes of each value.
    pub(crate) size: usize,
    /// Number of records for each sync; 1 for reads.
    pub(crate) batch: usize,
    /// Records written or read per second.
    pub(crate) rate: f64,
    /// CPU time of one record, in microseconds.
    pub(crate) cpu_us: f64,
}

/// Measures `work`, which does `batch` records at a time, for `duration`.
fn repeat(
    machine: &Machine,
    (size, batch): (usize, usize),
    duration: Duration,
    mut work: impl FnMut() -> Result<(), String>,
) -> Result<Cost, String> {
    let me = std::process::id();
    let (before, begun, mut rounds) = (machine.usage(me)?, Instant::now(), 0_u64);
    while begun.elapsed() < duration {
        work()?;
        rounds += 1;
    }
    let (after, spent) = (machine.usage(me)?, begun.elapsed());
    let records = (rounds * batch as u64).max(1) as f64;
    let cpu = after.cpu.saturating_sub(before.cpu).as_secs_f64();
    let (rate, cpu_us) = (records / spent.as_secs_f64(), cpu * 1e6 / records);
    Ok(Cost { size, batch, rate, cpu_us })
}

/// Appends to a file in `dir`, with an fdatasync for each batch.
pub(crate) fn appends(
    machine: &Machine,
    dir: &Path,
    size: usize,
    batch: usize,
    duration: Duration,
) -> Result<Cost, String> {
    let path = dir.join("appends");
    let fault = |error: std::io::Error| format!("{}: {error}", path.display());
    let mut file = File::create(&path).map_err(fault)?;
    let bytes = vec![7; size * batch];
    let cost = repeat(machine, (size, batch), duration, || {
        file.write_all(&bytes).and_then(|()| file.sync_data()).map_err(fault)
    })?;
    std::fs::remove_file(&path).map_err(fault)?;
    Ok(cost)
}

/// The store by itself, in an empty directory: batches of each of these sizes with a sync each,
/// over `keys` keys, and then reads from its cache.
pub(crate) fn store(
    machine: &Machine,
    dir: &Path,
    (size, keys): (usize, u64),
    batches: &[usize],
    duration: Duration,
) -> Result<(Vec<Cost>, Cost), String> {
    let store = DiskStore::open(dir, CACHE_BYTES).map_err(|error| error.to_string())?;
    let fault = |error: pixii_core::store::StoreError| error.to_string();
    let mut rng = Rng::new(1);
    let mut costs = Vec::new();
    for number in 0..keys {
        store.apply(&[change(number, size)?]).map_err(fault)?;
    }
    store.sync().map_err(fault)?;
    for batch in batches {
        costs.push(repeat(machine, (size, *batch), duration, || {
            let changes: Vec<Change> =
                (0..*batch).map(|_| change(rng.below(keys), size)).collect::<Result<_, _>>()?;
            store.apply(&changes).and_then(|()| store.sync()).map_err(fault)
        })?);
    }
    let batch = READS as usize;
    let read = repeat(machine, (size, batch), duration, || {
        for _ in 0..READS {
            let (partition, key) = place(rng.below(keys))?;
            std::hint::black_box(store.read(partition, &key).map_err(fault)?);
        }
        Ok(())
    })?;
    store.close().map_err(fault)?;
    Ok((costs, Cost { batch: 1, ..read }))
}

fn place(number: u64) -> Result<(Partition, Key), String> {
    let key = Key::new(format!("bench/{number:08}").into_bytes()).map_err(|e| e.to_string())?;
    Ok((Partition((number % PARTITIONS) as u16), key))
}

fn change(number: u64, size: usize) -> Result<Change, String> {
    let value = Blob(Bytes::from(vec![number as u8; size]));
    let actor = Actor { store: 1 << 60, actor_epoch: ActorEpoch(number + 1) };
    let version = Version { write: WriteId(number.into()), value };
    let (object, _) = Object::default().update(&Context::default(), actor, version);
    let (partition, key) = place(number)?;
    Ok(Change::Record {
        partition,
        key,
        record: Record { own_epoch: Some(ActorEpoch(1)), object, ..Default::default() },
    })
}
