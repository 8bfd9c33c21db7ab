//! What a merge and an update of a clock cost: they run once per replica and operation.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion};
use pixii_core::causal::{Actor, ActorEpoch, Clock, Context};

/// A clock that `actors` stores have written, a live value of each.
fn siblings(actors: u64) -> Clock<u64> {
    (0..actors).fold(Clock::default(), |clock, store| {
        clock.update(&Context::default(), Actor { store, actor_epoch: ActorEpoch(1) }, store).0
    })
}

fn clocks(c: &mut Criterion) {
    let mut group = c.benchmark_group("clock");
    for actors in [1, 3, 32] {
        let old = siblings(actors);
        let actor = Actor { store: 0, actor_epoch: ActorEpoch(1) };
        let (new, _) = old.update(&old.context(), actor, 99);
        let id = |name| BenchmarkId::new(name, actors);
        group.bench_function(id("sync"), |b| b.iter(|| black_box(&old).sync(black_box(&new))));
        group.bench_function(id("update"), |b| {
            let seen = old.context();
            b.iter(|| black_box(&old).update(black_box(&seen), actor, 99));
        });
        group.bench_function(id("context"), |b| b.iter(|| black_box(&old).context()));
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    clocks(&mut criterion);
    criterion.final_summary();
}
