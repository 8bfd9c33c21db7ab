//! Load: clients in closed loops, each a task that makes its next request when the last one is
//! answered, or requests that begin when they are due, whatever has become of those before. With a
//! [`Ledger`], every write is noted before it is sent and after it is answered.

pub(crate) mod arrivals;
pub(crate) mod choice;
mod open;
mod population;
pub(crate) mod repeated;
pub(crate) mod trace;
mod worker;
pub(crate) mod ycsb;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use pixii_client::{Client, ClientError};
use tokio::task::JoinSet;

use super::ledger::Ledger;
use arrivals::Arrivals;
use choice::{Choice, Sizes};
use population::Population;
use trace::Trace;
use worker::Worker;

/// Most different reasons that are counted apart; the others are counted together.
const MAX_REASONS: usize = 32;
/// Latencies are reported with this many significant digits, up to this many microseconds.
const DIGITS: u8 = 3;
const MAX_LATENCY_US: u64 = 600_000_000;

/// The kinds of operation that are measured apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A read.
    Get,
    /// A put that replaces what its client last read or wrote of the key.
    Put,
    /// A put without a context: it adds a sibling to what is there.
    Blind,
    /// A delete of what its client last read or wrote.
    Delete,
    /// A put of a key that was not there.
    Insert,
    /// A read, and a put that replaces what it showed, as one operation.
    Modify,
    /// A listing of some keys of a partition, without their values.
    List,
}

impl Kind {
    /// In a word.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Get => "get",
            Kind::Put => "put",
            Kind::Blind => "blind put",
            Kind::Delete => "delete",
            Kind::Insert => "insert",
            Kind::Modify => "modify",
            Kind::List => "list",
        }
    }
}

/// Shares of the kinds of operation; only their proportions count.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Mix {
    /// Of [`Kind::Get`].
    pub(crate) get: f64,
    /// Of [`Kind::Put`].
    pub(crate) put: f64,
    /// Of [`Kind::Blind`].
    pub(crate) blind: f64,
    /// Of [`Kind::Delete`].
    pub(crate) delete: f64,
    /// Of [`Kind::Insert`].
    pub(crate) insert: f64,
    /// Of [`Kind::Modify`].
    pub(crate) modify: f64,
    /// Of [`Kind::List`].
    pub(crate) list: f64,
}

/// What a load is like.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    /// How many clients: operations in progress at a time; with `arrivals`, at most.
    pub(crate) clients: usize,
    /// When operations begin; none: each client's next one when its last one has ended.
    pub(crate) arrivals: Option<Arrivals>,
    /// What they do. A put or delete of a key whose context its client does not remember reads it
    /// first; that read counts as a get.
    pub(crate) mix: Mix,
    /// The beginning of every key; a number follows.
    pub(crate) prefix: String,
    /// How many keys there are.
    pub(crate) keys: u64,
    /// Which of them is next.
    pub(crate) choice: Choice,
    /// Sizes of the values.
    pub(crate) sizes: Sizes,
    /// Replicas asked by a read; the cluster's default if none.
    pub(crate) r: Option<u8>,
    /// Replicas that must hold a write; the cluster's default if none.
    pub(crate) w: Option<u8>,
    /// Deadline of each request, in milliseconds.
    pub(crate) timeout_ms: u32,
    /// Ends by itself after this many operations, all clients together.
    pub(crate) operations: Option<u64>,
    /// Ends by itself after this time, behind the warm-up.
    pub(crate) duration: Option<Duration>,
    /// What begins in this time is carried out and not counted.
    pub(crate) warm_up: Duration,
    /// So many operations are reported one by one, too.
    pub(crate) samples: usize,
    /// Every choice of keys, kinds and sizes follows from it and the client's number.
    pub(crate) seed: u64,
}

/// What became of the operations of one kind.
#[derive(Clone, Debug)]
pub(crate) struct Totals {
    /// Microseconds from request to answer, of those that were done.
    pub(crate) latency: Histogram<u64>,
    /// Refused, or (a read) not answered: nothing was done.
    pub(crate) refused: u64,
    /// Those of them because a quorum is missing.
    pub(crate) no_quorum: u64,
    /// Writes with an unknown outcome.
    pub(crate) unknown: u64,
    /// Reads that were done and showed no value.
    pub(crate) absent: u64,
    /// Why, and how often.
    pub(crate) reasons: BTreeMap<String, u64>,
}

/// What a load did.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    /// From its start, or the end of the warm-up, to the end of its last client.
    pub(crate) spent: Duration,
    /// By kind; a kind that never occurred is missing.
    pub(crate) kinds: BTreeMap<Kind, Totals>,
    /// Operations that were due while as many as may be were in progress, and were not begun.
    pub(crate) overdue: u64,
    /// Keys that there are in the end.
    pub(crate) keys: u64,
    /// Operations one by one, as they ended, as many as were to be reported.
    pub(crate) samples: Vec<Sample>,
}

/// One operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    /// What it was.
    pub(crate) kind: Kind,
    /// When it was to begin, in microseconds since the end of the warm-up.
    pub(crate) due_us: u64,
    /// How long it took from then, in microseconds.
    pub(crate) took_us: u64,
    /// How it ended.
    pub(crate) end: End,
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Done.
    Done,
    /// Refused, or a read that nobody could answer.
    Refused,
    /// The same, because a quorum is missing.
    NoQuorum,
    /// A write with an unknown outcome.
    Unknown,
}

/// What the clients of one load share.
struct Shared {
    client: Client,
    spec: Spec,
    ledger: Option<Ledger>,
    population: Population,
    report: Mutex<Report>,
    trace: Option<Trace>,
    /// Raised to end the load.
    stop: AtomicBool,
    /// Operations begun.
    begun: AtomicU64,
    /// Keys handed out by [`Choice::Sweep`].
    swept: AtomicU64,
    /// When the warm-up ends.
    counted_from: Instant,
    until: Option<Instant>,
}

/// A load in progress. Dropping it ends its clients at once; the outcome of their requests stays
/// unknown.
pub(crate) struct Load {
    shared: Arc<Shared>,
    workers: JoinSet<Result<(), String>>,
}

impl Load {
    /// Starts the clients, on the runtime of the caller.
    pub(crate) fn start(client: &Client, spec: Spec, ledger: Option<&Ledger>) -> Self {
        Load::traced(client, spec, ledger, None)
    }

    /// The same; each operation is also noted in `trace` when it ends.
    pub(crate) fn traced(
        client: &Client,
        spec: Spec,
        ledger: Option<&Ledger>,
        trace: Option<&Trace>,
    ) -> Self {
        let counted_from = Instant::now() + spec.warm_up;
        let shared = Arc::new(Shared {
            client: client.clone(),
            population: Population::new(spec.keys),
            report: Mutex::default(),
            ledger: ledger.cloned(),
            trace: trace.cloned(),
            stop: AtomicBool::new(false),
            begun: AtomicU64::new(0),
            swept: AtomicU64::new(0),
            counted_from,
            until: spec.duration.map(|duration| counted_from + duration),
            spec,
        });
        let mut workers = JoinSet::new();
        if let Some(arrivals) = shared.spec.arrivals {
            workers.spawn(open::run(Arc::clone(&shared), arrivals));
        } else {
            for number in 0..shared.spec.clients {
                workers.spawn(Worker::new(Arc::clone(&shared), number as u64).run());
            }
        }
        Load { shared, workers }
    }

    /// Operations begun so far.
    pub(crate) fn begun(&self) -> u64 {
        self.shared.begun.load(Ordering::Relaxed)
    }

    /// Ends the load: each client finishes the request that it has in progress (an open loop: once
    /// the next one is due). The error is the ledger's.
    pub(crate) async fn stop(self) -> Result<Report, String> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.finish().await
    }

    /// Waits until the load ends by itself. The error is the ledger's.
    pub(crate) async fn finish(mut self) -> Result<Report, String> {
        let mut fault = None;
        while let Some(ended) = self.workers.join_next().await {
            match ended {
                Ok(Ok(())) => {}
                Ok(Err(why)) => fault = Some(why),
                Err(error) => fault = Some(format!("a client ended: {error}")),
            }
        }
        if let Some(why) = fault {
            return Err(why);
        }
        let mut report = std::mem::take(&mut *self.shared.report());
        report.spent = self.shared.counted_from.elapsed();
        report.keys = self.shared.population.count();
        Ok(report)
    }
}

impl Shared {
    fn report(&self) -> std::sync::MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the next operation, which is due at `at`, unless the load is at its end.
    fn begin(&self, at: Instant) -> bool {
        if self.stop.load(Ordering::Relaxed) || self.until.is_some_and(|end| at >= end) {
            return false;
        }
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        let more = self.spec.operations.is_none_or(|most| number < most);
        if !more {
            self.begun.fetch_sub(1, Ordering::Relaxed);
        }
        more
    }

    /// Notes how an operation ended that was due at `due`, unless that was in the warm-up.
    fn note(&self, kind: Kind, due: Instant, took: Duration, end: Result<(), &ClientError>) {
        let Some(since) = due.checked_duration_since(self.counted_from) else { return };
        let mut report = self.report();
        let end = report.totals(kind).note(took, end);
        if report.samples.len() < self.spec.samples {
            let [due_us, took_us] = [since, took].map(|time| time.as_micros() as u64);
            report.samples.push(Sample { kind, due_us, took_us, end });
        }
    }
}

impl Totals {
    fn new() -> Self {
        let latency = Histogram::new_with_max(MAX_LATENCY_US, DIGITS)
            .unwrap_or_else(|_| unreachable!("constant bounds that are allowed"));
        let reasons = BTreeMap::new();
        Totals { latency, refused: 0, no_quorum: 0, unknown: 0, absent: 0, reasons }
    }

    /// How many were done.
    pub(crate) fn done(&self) -> u64 {
        self.latency.len()
    }

    fn note(&mut self, took: Duration, end: Result<(), &ClientError>) -> End {
        let Err(failure) = end else {
            self.latency.saturating_record(took.as_micros() as u64);
            return End::Done;
        };
        self.reason(failure.to_string(), 1);
        match failure {
            ClientError::Unknown(_) => {
                self.unknown += 1;
                return End::Unknown;
            }
            ClientError::Refused(_) | ClientError::Error(_) | ClientError::NobodyListens(_) => {
                self.refused += 1;
            }
        }
        if matches!(failure, ClientError::Refused(rejection) if rejection.is_no_quorum()) {
            self.no_quorum += 1;
            return End::NoQuorum;
        }
        End::Refused
    }

    /// Takes over what another quorum tracker counted.
    fn add(&mut self, other: Totals) {
        // All have the same bounds.
        let _ = self.latency.add(&other.latency);
        self.refused += other.refused;
        self.no_quorum += other.no_quorum;
        self.unknown += other.unknown;
        self.absent += other.absent;
        for (why, times) in other.reasons {
            self.reason(why, times);
        }
    }

    fn reason(&mut self, why: String, times: u64) {
        let known = self.reasons.len() < MAX_REASONS || self.reasons.contains_key(&why);
        let why = if known { why } else { "other reasons".into() };
        *self.reasons.entry(why).or_default() += times;
    }
}

impl Report {
    /// What became of one kind.
    pub(crate) fn kind(&self, kind: Kind) -> Option<&Totals> {
        self.kinds.get(&kind)
    }

    /// Reads that showed no value.
    pub(crate) fn absent(&self) -> u64 {
        self.kind(Kind::Get).map_or(0, |totals| totals.absent)
    }

    /// The time in which this share of the operations of all kinds was done, in microseconds.
    pub(crate) fn quantile(&self, share: f64) -> u64 {
        let mut all = Totals::new().latency;
        for totals in self.kinds.values() {
            // All have the same bounds.
            let _ = all.add(&totals.latency);
        }
        all.value_at_quantile(share)
    }

    fn totals(&mut self, kind: Kind) -> &mut Totals {
        self.kinds.entry(kind).or_insert_with(Totals::new)
    }

    /// Takes over what another load did beside this one.
    pub(crate) fn add(&mut self, other: Report) {
        self.spent = self.spent.max(other.spent);
        self.overdue += other.overdue;
        for (kind, part) in other.kinds {
            self.totals(kind).add(part);
        }
    }
}
