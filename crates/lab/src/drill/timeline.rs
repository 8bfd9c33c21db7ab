//! The scenario of a drill: what was done to the daemons and when, in which phase clients were, and
//! how each of their operations ended.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::super::ledger::Counts;
use super::super::workload::trace::Trace;

/// Most events that are kept; beyond it they are counted.
const MAX_EVENTS: usize = 10_000;

/// What clients live through. Between two rounds there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// All is well.
    Before,
    /// From the fault until all is well again.
    During,
    /// All is well again.
    After,
}

impl Phase {
    /// All of them, in their order.
    pub(crate) const ALL: [Phase; 3] = [Phase::Before, Phase::During, Phase::After];

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Phase::Before => "before",
            Phase::During => "during",
            Phase::After => "after",
        }
    }
}

/// What an event is in the scenario of things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventKind {
    /// The fault, or a further one.
    Fault,
    /// It ends: from here the time to recover is counted.
    Heal,
    /// All is well again.
    Recovered,
    /// Anything else.
    Step,
}

impl EventKind {
    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            EventKind::Fault => "fault",
            EventKind::Heal => "heal",
            EventKind::Recovered => "recovered",
            EventKind::Step => "step",
        }
    }
}

/// Something that happened.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    /// When, from the beginning of the drill.
    pub(crate) at: Duration,
    /// What it is.
    pub(crate) mark: EventKind,
    /// What happened, in a few words.
    pub(crate) what: String,
}

/// All that was noted by a drill.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recorded {
    /// What happened, in its order.
    pub(crate) events: Vec<Event>,
    /// From when on clients were in which phase.
    pub(crate) phases: Vec<(Duration, Option<Phase>)>,
    /// How long each recovery took.
    pub(crate) recoveries: Vec<Duration>,
    /// What the ledger had at the last judgement, and how many acknowledged writes were lost in
    /// all; `None` without a ledger.
    pub(crate) judged: Option<(Counts, u64)>,
    /// The end.
    pub(crate) ended: Duration,
}

/// A timeline in progress; clones are the same one.
#[derive(Clone, Debug)]
pub(crate) struct Timeline {
    trace: Trace,
    reported: Arc<Mutex<Recorded>>,
}

impl Timeline {
    /// An empty one, whose time begins now.
    pub(crate) fn begin() -> Self {
        Timeline { trace: Trace::begin(), reported: Arc::default() }
    }

    /// Where loads note their operations.
    pub(crate) fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Notes what happened just now; gives when.
    pub(super) fn note(&self, mark: EventKind, what: &str) -> Duration {
        let at = self.trace.elapsed();
        let mut reported = self.reported();
        if reported.events.len() < MAX_EVENTS {
            reported.events.push(Event { at, mark, what: what.into() });
        }
        at
    }

    /// From now on clients are in this phase.
    pub(super) fn enter(&self, phase: Option<Phase>) {
        let now = self.trace.elapsed();
        self.reported().phases.push((now, phase));
    }

    /// Notes how long a recovery took.
    pub(super) fn recovered(&self, took: Duration) {
        self.reported().recoveries.push(took);
    }

    /// Notes what the ledger has, and how many of its acknowledged writes were lost in all.
    pub(super) fn judged(&self, counts: Counts, lost: u64) {
        self.reported().judged = Some((counts, lost));
    }

    /// All that was noted until now.
    pub(crate) fn read(&self) -> Recorded {
        Recorded { ended: self.trace.elapsed(), ..self.reported().clone() }
    }

    fn reported(&self) -> MutexGuard<'_, Recorded> {
        self.reported.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recorded {
    /// The phase at a time.
    pub(crate) fn phase_at(&self, at: Duration) -> Option<Phase> {
        let next = self.phases.partition_point(|(from, _)| *from <= at);
        self.phases.get(next.checked_sub(1)?).and_then(|(_, phase)| *phase)
    }

    /// How long clients were in a phase, all its times together.
    pub(crate) fn length(&self, phase: Phase) -> Duration {
        let ends = self.phases.iter().skip(1).map(|(from, _)| *from).chain([self.ended]);
        let spans = self.phases.iter().zip(ends).filter(|((_, of), _)| *of == Some(phase));
        spans.map(|((from, _), to)| to.saturating_sub(*from)).sum()
    }
}
