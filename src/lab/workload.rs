//! Load: clients in closed loops, each a task that makes its next request when the last one is answered.
//! With a [`Ledger`], every write is noted before it is sent and after it is answered.

pub(crate) mod choice;
pub(crate) mod trace;
mod worker;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use pixii::client::Client;
use tokio::task::JoinSet;

use super::ledger::Ledger;
use choice::{Choice, Sizes, Zipf};
use trace::Trace;
use worker::Worker;

/// Most different reasons that are counted apart; the others are counted together.
const MAX_REASONS: usize = 32;
/// Latencies are told with this many significant digits, up to this many microseconds.
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
}

/// What a load is like.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    /// How many clients: requests under way at a time.
    pub(crate) clients: usize,
    /// What they do. A put or delete of a key whose context its client does not remember reads it first;
    /// that read counts as a get.
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
    /// Ends by itself after this time.
    pub(crate) duration: Option<Duration>,
    /// Every choice of keys, kinds and sizes follows from it and the client's number.
    pub(crate) seed: u64,
}

/// What became of the operations of one kind.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    /// Microseconds from request to answer, of those that were done.
    pub(crate) latency: Histogram<u64>,
    /// Refused, or (a read) not answered: nothing was done.
    pub(crate) refused: u64,
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
    /// From its start to the end of its last client.
    pub(crate) spent: Duration,
    /// By kind; a kind that never occurred is missing.
    pub(crate) kinds: BTreeMap<Kind, Tally>,
}

/// What the clients of one load share.
struct Shared {
    client: Client,
    spec: Spec,
    ledger: Option<Ledger>,
    trace: Option<Trace>,
    zipf: Option<Zipf>,
    /// Raised to end the load.
    stop: AtomicBool,
    /// Operations begun.
    begun: AtomicU64,
    /// Keys handed out by [`Choice::Sweep`].
    swept: AtomicU64,
    until: Option<Instant>,
}

/// A load under way. Dropping it ends its clients at once; the outcome of their requests stays unknown.
pub(crate) struct Load {
    shared: Arc<Shared>,
    workers: JoinSet<Result<Report, String>>,
    started: Instant,
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
        let zipf = match spec.choice {
            Choice::Zipf(exponent) => Some(Zipf::new(spec.keys, exponent)),
            _ => None,
        };
        let started = Instant::now();
        let shared = Arc::new(Shared {
            client: client.clone(),
            zipf,
            ledger: ledger.cloned(),
            trace: trace.cloned(),
            stop: AtomicBool::new(false),
            begun: AtomicU64::new(0),
            swept: AtomicU64::new(0),
            until: spec.duration.map(|duration| started + duration),
            spec,
        });
        let mut workers = JoinSet::new();
        for number in 0..shared.spec.clients {
            workers.spawn(Worker::new(Arc::clone(&shared), number as u64).run());
        }
        Load { shared, workers, started }
    }

    /// Operations begun so far.
    pub(crate) fn begun(&self) -> u64 {
        self.shared.begun.load(Ordering::Relaxed)
    }

    /// Ends the load: each client finishes the request that it has under way. The error is the ledger's.
    pub(crate) async fn stop(self) -> Result<Report, String> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.finish().await
    }

    /// Waits until the load ends by itself. The error is the ledger's.
    pub(crate) async fn finish(mut self) -> Result<Report, String> {
        let mut report = Report::default();
        let mut fault = None;
        while let Some(ended) = self.workers.join_next().await {
            match ended {
                Ok(Ok(part)) => report.add(part),
                Ok(Err(why)) => fault = Some(why),
                Err(error) => fault = Some(format!("a client ended: {error}")),
            }
        }
        report.spent = self.started.elapsed();
        fault.map_or(Ok(report), Err)
    }
}

impl Shared {
    /// Takes the next operation, unless the load is at its end.
    fn begin(&self) -> bool {
        if self.stop.load(Ordering::Relaxed) || self.until.is_some_and(|end| Instant::now() >= end)
        {
            return false;
        }
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        let more = self.spec.operations.is_none_or(|most| number < most);
        if !more {
            self.begun.fetch_sub(1, Ordering::Relaxed);
        }
        more
    }
}

impl Tally {
    fn new() -> Self {
        let latency = Histogram::new_with_max(MAX_LATENCY_US, DIGITS)
            .unwrap_or_else(|_| unreachable!("constant bounds that are allowed"));
        Tally { latency, refused: 0, unknown: 0, absent: 0, reasons: BTreeMap::new() }
    }

    /// How many were done.
    pub(crate) fn done(&self) -> u64 {
        self.latency.len()
    }

    fn reason(&mut self, why: String, times: u64) {
        let known = self.reasons.len() < MAX_REASONS || self.reasons.contains_key(&why);
        let why = if known { why } else { "other reasons".into() };
        *self.reasons.entry(why).or_default() += times;
    }
}

impl Report {
    /// What became of one kind.
    pub(crate) fn kind(&self, kind: Kind) -> Option<&Tally> {
        self.kinds.get(&kind)
    }

    /// The time in which this share of the operations of all kinds was done, in microseconds.
    pub(crate) fn quantile(&self, share: f64) -> u64 {
        let mut all = Tally::new().latency;
        for tally in self.kinds.values() {
            // All have the same bounds.
            let _ = all.add(&tally.latency);
        }
        all.value_at_quantile(share)
    }

    fn tally(&mut self, kind: Kind) -> &mut Tally {
        self.kinds.entry(kind).or_insert_with(Tally::new)
    }

    /// Takes over what another load did beside this one.
    pub(crate) fn add(&mut self, other: Report) {
        self.spent = self.spent.max(other.spent);
        for (kind, part) in other.kinds {
            let tally = self.tally(kind);
            // Both have the same bounds.
            let _ = tally.latency.add(&part.latency);
            tally.refused += part.refused;
            tally.unknown += part.unknown;
            tally.absent += part.absent;
            for (why, times) in part.reasons {
                tally.reason(why, times);
            }
        }
    }
}
