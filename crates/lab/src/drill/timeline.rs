//! The timeline of a drill: the faults and when they occurred, the phase of the clients, and the
//! outcome of each of their operations.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::super::ledger::Counts;
use super::super::workload::trace::Trace;

/// Maximum number of events that are kept; further ones are dropped.
const MAX_EVENTS: usize = 10_000;

/// The phase of the clients. Between two rounds there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Before the fault: the cluster is healthy.
    Before,
    /// From the fault until the cluster has recovered.
    During,
    /// After the recovery.
    After,
}

impl Phase {
    /// All phases, in their order.
    pub(crate) const ALL: [Phase; 3] = [Phase::Before, Phase::During, Phase::After];

    /// Its name in tables and in JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Phase::Before => "before",
            Phase::During => "during",
            Phase::After => "after",
        }
    }
}

/// The meaning of an event for the drill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventKind {
    /// The fault, or a further one.
    Fault,
    /// The end of the fault; the time to recover is measured from here.
    Heal,
    /// The cluster has recovered.
    Recovered,
    /// Any other event, such as the start of a daemon.
    Step,
}

impl EventKind {
    /// Its name in JSON and on the page.
    pub(crate) fn name(self) -> &'static str {
        match self {
            EventKind::Fault => "fault",
            EventKind::Heal => "heal",
            EventKind::Recovered => "recovered",
            EventKind::Step => "step",
        }
    }
}

/// An event of the drill.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    /// When it occurred, since the beginning of the drill.
    pub(crate) at: Duration,
    /// Its meaning for the drill.
    pub(crate) mark: EventKind,
    /// The event in a few words.
    pub(crate) what: String,
}

/// Everything that a drill has recorded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recorded {
    /// The events in the order in which they occurred.
    pub(crate) events: Vec<Event>,
    /// The times at which the phase of the clients changed, with the new phase; `None` for no
    /// phase.
    pub(crate) phases: Vec<(Duration, Option<Phase>)>,
    /// The duration of each recovery.
    pub(crate) recoveries: Vec<Duration>,
    /// The counts of the ledger at the last judgement, and the number of acknowledged writes lost
    /// in all; `None` without a ledger.
    pub(crate) judged: Option<(Counts, u64)>,
    /// When the recording was read, since the beginning of the drill.
    pub(crate) ended: Duration,
}

/// A timeline in progress; clones share the same data.
#[derive(Clone, Debug)]
pub(crate) struct Timeline {
    trace: Trace,
    reported: Arc<Mutex<Recorded>>,
}

impl Timeline {
    /// An empty timeline, whose time begins now.
    pub(crate) fn begin() -> Self {
        Timeline { trace: Trace::begin(), reported: Arc::default() }
    }

    /// The trace in which loads note their operations.
    pub(crate) fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Records an event now; returns its time.
    pub(super) fn note(&self, mark: EventKind, what: &str) -> Duration {
        let at = self.trace.elapsed();
        let mut reported = self.reported();
        if reported.events.len() < MAX_EVENTS {
            reported.events.push(Event { at, mark, what: what.into() });
        }
        at
    }

    /// Sets the phase of the clients from now on.
    pub(super) fn enter(&self, phase: Option<Phase>) {
        let now = self.trace.elapsed();
        self.reported().phases.push((now, phase));
    }

    /// Records the duration of a recovery.
    pub(super) fn recovered(&self, took: Duration) {
        self.reported().recoveries.push(took);
    }

    /// Records the counts of the ledger, and the number of its acknowledged writes lost in all.
    pub(super) fn judged(&self, counts: Counts, lost: u64) {
        self.reported().judged = Some((counts, lost));
    }

    /// A copy of everything recorded until now.
    pub(crate) fn read(&self) -> Recorded {
        Recorded { ended: self.trace.elapsed(), ..self.reported().clone() }
    }

    fn reported(&self) -> MutexGuard<'_, Recorded> {
        self.reported.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recorded {
    /// The phase at a time; `None` if there was none.
    pub(crate) fn phase_at(&self, at: Duration) -> Option<Phase> {
        let next = self.phases.partition_point(|(from, _)| *from <= at);
        self.phases.get(next.checked_sub(1)?).and_then(|(_, phase)| *phase)
    }

    /// The total time that clients spent in a phase.
    pub(crate) fn length(&self, phase: Phase) -> Duration {
        let ends = self.phases.iter().skip(1).map(|(from, _)| *from).chain([self.ended]);
        let spans = self.phases.iter().zip(ends).filter(|((_, of), _)| *of == Some(phase));
        spans.map(|((from, _), to)| to.saturating_sub(*from)).sum()
    }
}
