//! What a batch costs on a real disk, synced, and a read from the cache.

#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput};
use pixii::disk::DiskStore;
use pixii_core::causal::{Actor, ActorEpoch, Context, Object, Version};
use pixii_core::gc_epoch::GcEpoch;
use pixii_core::store::{Change, Record, Store};
use pixii_core::types::{Blob, Key, Partition, WriteId};

const KEYS: u32 = 10_000;

fn change(number: u32) -> Change {
    let version = Version { write: WriteId(number.into()), value: Blob(Bytes::from(vec![7; 100])) };
    let actor = Actor { store: 1 << 60, actor_epoch: ActorEpoch(1) };
    let (object, _) = Object::default().update(&Context::default(), actor, version);
    let (partition, key) = place(number);
    Change::Record {
        partition,
        key,
        record: Record { own_epoch: Some(ActorEpoch(1)), object, gc_epoch: GcEpoch::FIRST },
    }
}

fn place(number: u32) -> (Partition, Key) {
    let number = number.wrapping_mul(2_654_435_761) % KEYS;
    (Partition((number % 64) as u16), Key::new(number.to_be_bytes().to_vec()).unwrap())
}

fn batches(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let store = DiskStore::open(dir.path(), 32 << 20).unwrap();
    let mut group = c.benchmark_group("store");
    group.sample_size(10).measurement_time(Duration::from_secs(3));
    let mut number = 0;
    for batch in [1_u32, 8, 64] {
        group.throughput(Throughput::Elements(batch.into()));
        group.bench_function(BenchmarkId::new("apply and sync", batch), |b| {
            b.iter(|| {
                let changes: Vec<Change> = (number..number + batch).map(change).collect();
                number = number.wrapping_add(batch);
                store.apply(&changes).unwrap();
                store.sync().unwrap();
            });
        });
    }
    group.throughput(Throughput::Elements(1));
    group.bench_function("read", |b| {
        b.iter(|| {
            number = number.wrapping_add(1);
            let (partition, key) = place(number);
            black_box(store.read(partition, &key).unwrap())
        });
    });
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    batches(&mut criterion);
    criterion.final_summary();
}
