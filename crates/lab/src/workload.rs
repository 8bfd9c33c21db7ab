//! Load on a cluster, in one of two forms. In a closed loop, each client sends its next request
//! when the last one is answered. In an open loop, requests begin when they are due, whatever the
//! state of the earlier ones. With a [`Ledger`], every write is noted before it is sent and after
//! it is answered.

pub(crate) mod arrivals;
pub(crate) mod choice;
mod open;
pub(crate) mod peer;
mod population;
pub(crate) mod repeated;
pub(crate) mod target;
pub(crate) mod trace;
mod worker;
pub(crate) mod ycsb;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use pixii_client::ClientError;
use tokio::task::JoinSet;

use super::ledger::Ledger;
use arrivals::Arrivals;
use choice::{Choice, Sizes};
use population::Population;
use target::Target;
use trace::Trace;
use worker::Worker;

/// Maximum number of reasons that are counted separately; all others are counted together.
const MAX_REASONS: usize = 32;
/// Latencies are reported with this many significant digits, up to this many microseconds.
const DIGITS: u8 = 3;
const MAX_LATENCY_US: u64 = 600_000_000;

/// The kinds of operation that are measured separately.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A read of one key.
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
    /// Its name in tables and reports.
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
    /// Share of [`Kind::Get`].
    pub(crate) get: f64,
    /// Share of [`Kind::Put`].
    pub(crate) put: f64,
    /// Share of [`Kind::Blind`].
    pub(crate) blind: f64,
    /// Share of [`Kind::Delete`].
    pub(crate) delete: f64,
    /// Share of [`Kind::Insert`].
    pub(crate) insert: f64,
    /// Share of [`Kind::Modify`].
    pub(crate) modify: f64,
    /// Share of [`Kind::List`].
    pub(crate) list: f64,
}

/// The parameters of a load.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    /// Number of clients, which is the number of operations in flight; with `arrivals`, their
    /// maximum.
    pub(crate) clients: usize,
    /// When operations begin; `None`: each client begins the next one when its last one has ended.
    pub(crate) arrivals: Option<Arrivals>,
    /// Shares of the kinds of operation. A put or delete of a key whose context its client does not
    /// remember reads the key first; that read counts as a get.
    pub(crate) mix: Mix,
    /// The beginning of every key; the number of the key follows.
    pub(crate) prefix: String,
    /// Number of keys at the beginning.
    pub(crate) keys: u64,
    /// How the key of the next operation is chosen.
    pub(crate) choice: Choice,
    /// Sizes of the values, in bytes.
    pub(crate) sizes: Sizes,
    /// R of reads; `None` for the default of the cluster.
    pub(crate) r: Option<u8>,
    /// W of writes; `None` for the default of the cluster.
    pub(crate) w: Option<u8>,
    /// Deadline of each request, in milliseconds.
    pub(crate) timeout_ms: u32,
    /// The load ends after this many operations of all clients together; `None` for no limit.
    pub(crate) operations: Option<u64>,
    /// The load ends this long after the warm-up; `None` for no limit.
    pub(crate) duration: Option<Duration>,
    /// Operations that are due in this time are carried out and not counted.
    pub(crate) warm_up: Duration,
    /// Maximum number of operations that are also reported one by one.
    pub(crate) samples: usize,
    /// Seed of all choices of keys, kinds and sizes, together with the number of the client.
    pub(crate) seed: u64,
}

/// The outcomes of the operations of one kind.
#[derive(Clone, Debug)]
pub(crate) struct Totals {
    /// Microseconds from request to answer, of the operations that were done.
    pub(crate) latency: Histogram<u64>,
    /// Operations that were refused, and reads that were not answered: nothing was done.
    pub(crate) refused: u64,
    /// The part of `refused` that had no quorum.
    pub(crate) no_quorum: u64,
    /// Writes with an unknown outcome.
    pub(crate) unknown: u64,
    /// Reads that were done and returned no value.
    pub(crate) absent: u64,
    /// The reasons of failures, with their number.
    pub(crate) reasons: BTreeMap<String, u64>,
}

/// The result of a load.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    /// From its start, or from the end of the warm-up, to the end of its last client.
    pub(crate) spent: Duration,
    /// The outcomes by kind; a kind that never occurred is missing.
    pub(crate) kinds: BTreeMap<Kind, Totals>,
    /// Operations that were due while the maximum was in flight, and so were not begun.
    pub(crate) overdue: u64,
    /// Number of keys at the end.
    pub(crate) keys: u64,
    /// The first operations in the order of their ends, at most as many as were to be reported.
    pub(crate) samples: Vec<Sample>,
}

/// One operation that was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    /// The kind of the operation.
    pub(crate) kind: Kind,
    /// When it was due, in microseconds since the end of the warm-up.
    pub(crate) due_us: u64,
    /// The time from then to its end, in microseconds.
    pub(crate) took_us: u64,
    /// How it ended; the times include operations that failed.
    pub(crate) end: End,
}

/// The outcome of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Carried out and acknowledged, or, for a read, answered.
    Done,
    /// Refused, or a read that no node answered.
    Refused,
    /// Refused because there was no quorum.
    NoQuorum,
    /// A write with an unknown outcome.
    Unknown,
}

/// State that the clients of one load share.
struct Shared {
    target: Target,
    spec: Spec,
    ledger: Option<Ledger>,
    population: Population,
    report: Mutex<Report>,
    trace: Option<Trace>,
    /// Set to end the load.
    stop: AtomicBool,
    /// Operations begun, those of the warm-up included.
    begun: AtomicU64,
    /// Number of keys that [`Choice::Sweep`] has handed out.
    swept: AtomicU64,
    /// End of the warm-up; operations that are due before it are not counted.
    counted_from: Instant,
    until: Option<Instant>,
}

/// A load in progress. Dropping it stops its clients at once, so that the outcome of their requests
/// stays unknown.
pub(crate) struct Load {
    shared: Arc<Shared>,
    workers: JoinSet<Result<(), String>>,
}

impl Load {
    /// Starts the clients on the runtime of the caller.
    pub(crate) fn start(target: impl Into<Target>, spec: Spec, ledger: Option<&Ledger>) -> Self {
        Load::traced(target, spec, ledger, None)
    }

    /// Starts the clients; each operation is also noted in `trace` when it ends.
    pub(crate) fn traced(
        target: impl Into<Target>,
        spec: Spec,
        ledger: Option<&Ledger>,
        trace: Option<&Trace>,
    ) -> Self {
        let counted_from = Instant::now() + spec.warm_up;
        let shared = Arc::new(Shared {
            target: target.into(),
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

    /// Number of operations begun so far.
    pub(crate) fn begun(&self) -> u64 {
        self.shared.begun.load(Ordering::Relaxed)
    }

    /// Ends the load. In a closed loop, each client finishes the request that it has in flight; an
    /// open loop ends when the next request is due. The error is the one of the ledger.
    pub(crate) async fn stop(self) -> Result<Report, String> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.finish().await
    }

    /// Waits until the load ends by itself. The error is the one of the ledger, or says why the
    /// connection to another store broke.
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

    /// Takes the next operation, due at `at`; false if the load has ended.
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

    /// Notes the outcome of an operation that was due at `due`, unless that was in the warm-up.
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

    /// Number of operations that were done.
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
            _ => self.refused += 1,
        }
        if matches!(failure, ClientError::Refused(rejection) if rejection.is_no_quorum()) {
            self.no_quorum += 1;
            return End::NoQuorum;
        }
        End::Refused
    }

    /// Adds the outcomes of another load.
    fn add(&mut self, other: Totals) {
        // All histograms have the same bounds.
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
    /// The outcomes of one kind; `None` if it never occurred.
    pub(crate) fn kind(&self, kind: Kind) -> Option<&Totals> {
        self.kinds.get(&kind)
    }

    /// Number of reads that returned no value.
    pub(crate) fn absent(&self) -> u64 {
        self.kind(Kind::Get).map_or(0, |totals| totals.absent)
    }

    /// The latency below which this share (0 to 1) of all operations was done, in microseconds.
    pub(crate) fn quantile(&self, share: f64) -> u64 {
        let mut all = Totals::new().latency;
        for totals in self.kinds.values() {
            // All histograms have the same bounds.
            let _ = all.add(&totals.latency);
        }
        all.value_at_quantile(share)
    }

    fn totals(&mut self, kind: Kind) -> &mut Totals {
        self.kinds.entry(kind).or_insert_with(Totals::new)
    }

    /// Adds the result of another load that ran at the same time.
    pub(crate) fn add(&mut self, other: Report) {
        self.spent = self.spent.max(other.spent);
        self.overdue += other.overdue;
        for (kind, part) in other.kinds {
            self.totals(kind).add(part);
        }
    }
}
