//! The simulator: the production machine on a simulated network and simulated disks, in virtual
//! time, from one seed. A run has a phase of load and faults, then healing, then a final judgement.
//! Every acknowledgement is judged at the moment it is given.

mod clients;
pub mod cluster;
pub mod detection;
mod judge;
mod scenario;
mod timeline;
mod world;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use pixii_core::node::{Done, Work};
use pixii_core::store::memory::MemoryStore;
use pixii_core::store::{Found, Store};

use judge::Broken;
use scenario::Scenario;
use world::World;

/// Events that have to occur at least once in a long enough batch; without them the batch proves
/// little.
const EXPECTED: &[&str] = &[
    "clean stops",
    "clusters restored from copies",
    "clusters stopped",
    "copied disks refused",
    "cuts both ways",
    "cuts one way",
    "damaged records",
    "crashes",
    "deletes acknowledged",
    "calls given up",
    "decided writes acknowledged",
    "aged_hints_offered",
    "read_eligibility_regained",
    "damaged_records_restored",
    "full disks",
    "gets answered",
    "gets finding nothing",
    "gets finding siblings",
    "hints_changed_in_flight",
    "hints_declined",
    "losses accepted",
    "oversized keys settled",
    "hints_deleted",
    "hints_kept",
    "hints_refused",
    "keys_purged",
    "links flapping",
    "changes of the ring cancelled",
    "changes of the ring over",
    "members that left",
    "messages_of_other_rings",
    "orders about the ring carried out",
    "partitions_released",
    "records_erased",
    "rings_taken",
    "listings answered",
    "members marked down",
    "members replaced",
    "members suspected",
    "lost disks",
    "messages cut",
    "messages dropped",
    "messages duplicated",
    "messages overtaken",
    "nodes reborn",
    "objects_pulled",
    "objects_pushed",
    "old_disks_discarded",
    "outdated incarnations noticed",
    "own_incarnation_raised",
    "own_pauses_noticed",
    "partitions",
    "pauses",
    "power cuts",
    "puts acknowledged",
    "refused: altered context",
    "refused: conflict",
    "refused: delete of nothing",
    "refused: key changed",
    "refused: key exists",
    "refused: delete without context",
    "refused: damaged copy",
    "refused: full disk",
    "refused: no quorum answered",
    "refused: no quorum reachable",
    "refused: sibling limit",
    "reads_of_fallbacks",
    "requests forwarded",
    "refused: starting",
    "restarts",
    "retries acknowledged",
    "rolled-back disks",
    "stores made anew",
    "slow disks",
    "stalls noticed",
    "trees_taken_over",
    "unsynced batches lost",
    "writes that arrive late",
    "writes unknown",
    "writes_coordinated_by_a_fallback",
    "writes_hedged",
    "writes_withdrawn",
];

/// Maximum number of runs that are spent on shortening a failure.
const MAX_SHRINKS: usize = 400;
/// A batch with at least this many runs has to show every event in [`EXPECTED`].
const LONG_BATCH: u64 = 500;

/// The counts of one run or of a batch, by name.
pub type Counts = BTreeMap<&'static str, u64>;

/// A run that broke a promise.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed of the run; the same seed breaks the same promise again.
    pub seed: u64,
    /// The promise, and how it was broken.
    pub what: String,
    /// The faults of the shortest run that still breaks a promise, and all events of the key
    /// concerned, one line each.
    pub trace: Vec<String>,
    /// The shortest run as JSON, for [`replay`].
    pub schedule: String,
}

/// The result of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How often each event occurred, by name.
    pub counts: Counts,
    /// Digest of all deliveries and their times; the same seed gives the same digest.
    pub digest: u64,
    /// The promise that was broken; `None` if all were kept.
    pub failure: Option<Failure>,
}

/// Runs one seed with `operations` requests of clients.
pub fn run(seed: u64, operations: u32) -> Outcome {
    run_scenario(&Scenario::draw(seed, operations))
}

/// Runs the schedule of a [`Failure`] again. The error says why the text is not a schedule.
pub fn replay(schedule: &str) -> Result<Outcome, String> {
    let scenario: Scenario = serde_json::from_str(schedule).map_err(|error| error.to_string())?;
    scenario.check()?;
    Ok(run_scenario(&scenario))
}

fn run_scenario(scenario: &Scenario) -> Outcome {
    let mut world = World::new(scenario.clone(), None);
    let failure = world.run().map(|broken| report(scenario, broken));
    Outcome { counts: world.counts().clone(), digest: world.digest(), failure }
}

/// Shortens a failed run and describes it.
fn report(scenario: &Scenario, broken: Broken) -> Failure {
    let (shortest, broken) = shrink(scenario.clone(), broken);
    // The same scenario gives the same run, so the trace is recorded only now.
    let mut world = World::new(shortest.clone(), Some(broken.key));
    world.run();
    let mut trace = shortest.describe();
    trace.append(&mut world.take_trace());
    let schedule = serde_json::to_string_pretty(&shortest).unwrap_or_default();
    Failure { seed: scenario.seed, what: broken.what, trace, schedule }
}

/// Leaves out faults and operations as long as some promise is still broken.
fn shrink(mut scenario: Scenario, mut broken: Broken) -> (Scenario, Broken) {
    let mut tries = MAX_SHRINKS;
    loop {
        let shorter = scenario.shorter().into_iter().take(tries).find_map(|shorter| {
            tries -= 1;
            let broken = World::new(shorter.clone(), None).run()?;
            Some((shorter, broken))
        });
        match shorter {
            Some(found) => (scenario, broken) = found,
            None => return (scenario, broken),
        }
    }
}

/// The result of a batch of runs.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Number of runs that ended; fewer than requested if the batch stopped at a failure.
    pub runs: u64,
    /// How often each event occurred, over all runs.
    pub counts: Counts,
    /// The wrapping sum of the digests of all runs; equal batches have equal sums.
    pub digest: u64,
    /// The failure with the lowest seed among those found.
    pub failure: Option<Failure>,
    /// Events that a long batch has to show and that never occurred; empty for short batches and
    /// after a failure.
    pub missing: Vec<&'static str>,
}

/// Runs the seeds from `first` on, `runs` of them, on `threads` threads; stops early at a failure.
/// `progress` is called after every run with the number of runs done.
pub fn run_batch(
    first: u64,
    runs: u64,
    operations: u32,
    threads: usize,
    progress: &(dyn Fn(u64) + Sync),
) -> Batch {
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let batch = Mutex::new(Batch::default());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= runs {
                        return;
                    }
                    let outcome = run(first + at, operations);
                    let mut batch = batch.lock().unwrap_or_else(PoisonError::into_inner);
                    batch.add(outcome);
                    stop.fetch_or(batch.failure.is_some(), Ordering::Relaxed);
                    progress(batch.runs);
                }
            });
        }
    });
    let mut batch = batch.into_inner().unwrap_or_else(PoisonError::into_inner);
    if batch.failure.is_none() && runs >= LONG_BATCH {
        let never = |name: &&&str| !batch.counts.contains_key(**name);
        batch.missing = EXPECTED.iter().filter(never).copied().collect();
    }
    batch
}

/// The answer of a store in memory to a read; `None` if `work` is a write.
fn looked_up(store: &MemoryStore, work: Work) -> Option<Done> {
    Some(match work {
        Work::Read { token, partition, key, hints_for } => {
            let found = store.read(partition, &key).unwrap_or(Found::Damaged);
            let hint = |target| (target, store.read_hint(target, &key).unwrap_or(Found::Damaged));
            Done::Read { token, found, hints: hints_for.into_iter().map(hint).collect() }
        }
        Work::Scan { token, partition, span } => {
            Done::Scan { token, page: store.scan(partition, &span).unwrap_or_default() }
        }
        Work::Hints { token, target, after, limit_bytes } => {
            let page = store.list_hints(target, after.as_ref(), limit_bytes);
            Done::Hints { token, page: page.unwrap_or_default() }
        }
        Work::List { token, partition, after, limit_bytes } => {
            let listing = store.list(partition, after.as_ref(), limit_bytes);
            Done::List { token, listing: listing.unwrap_or_default() }
        }
        Work::Write { .. } => return None,
    })
}

impl Batch {
    fn add(&mut self, outcome: Outcome) {
        self.runs += 1;
        self.digest = self.digest.wrapping_add(outcome.digest);
        for (name, count) in outcome.counts {
            *self.counts.entry(name).or_default() += count;
        }
        if let Some(failure) = outcome.failure
            && self.failure.as_ref().is_none_or(|known| failure.seed < known.seed)
        {
            self.failure = Some(failure);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_replays_byte_for_byte() {
        let (one, two) = (run(1, 300), run(1, 300));
        assert_eq!(one.digest, two.digest);
        assert_eq!(one.counts, two.counts);
        assert_ne!(one.digest, run(2, 300).digest);
    }

    #[test]
    fn every_promise_holds_and_every_fault_occurs() {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let first = since.as_micros() as u64;
        println!("seeds from {first} on");
        let batch = run_batch(first, LONG_BATCH, 300, 2, &|_| {});
        if let Some(failure) = &batch.failure {
            let trace = failure.trace.join("\n");
            panic!("seed {}: {}\n{trace}", failure.seed, failure.what);
        }
        assert_eq!(batch.missing, Vec::<&str>::new(), "{:#?}", batch.counts);
    }
}
