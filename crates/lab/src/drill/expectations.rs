//! What clients have met in a drill, and what of it they may have to bear.

use crate::workload::trace::{End, Trace};

/// What clients may have to bear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Allowed {
    /// Every request is carried out.
    Nothing,
    /// Puts may be refused and left unknown, but every read is answered.
    FailedPuts,
    /// Requests may fail; nothing that was acknowledged is lost all the same.
    Failures,
}

/// Requests of clients on keys that have a value, and are never deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Expectations {
    /// Carried out.
    pub(super) done: u64,
    /// Refused, or reads that were not answered.
    pub(super) refused: u64,
    /// Writes with an unknown outcome.
    pub(super) unknown: u64,
    /// Reads that showed no value.
    pub(super) absent: u64,
    /// Reads that were refused or not answered.
    pub(super) failed_gets: u64,
}

impl Expectations {
    /// What a trace has.
    pub(super) fn of(trace: &Trace) -> Self {
        let samples = trace.samples();
        let count = |end: End| samples.iter().filter(|sample| sample.end == end).count() as u64;
        let whys = trace.whys();
        let of_gets = whys.iter().filter(|(kind, _)| kind.starts_with("get "));
        Expectations {
            done: count(End::Done),
            refused: count(End::Refused),
            unknown: count(End::Unknown),
            absent: samples.iter().filter(|sample| sample.is_absent).count() as u64,
            failed_gets: of_gets.map(|(_, why)| why.times).sum(),
        }
    }

    /// What of it is more than is `allowed`, a sentence each.
    pub(super) fn complaints(&self, allowed: Allowed) -> Vec<String> {
        let Expectations { refused, unknown, absent, failed_gets, .. } = *self;
        let mut complaints = Vec::new();
        if allowed == Allowed::Nothing && refused + unknown > 0 {
            complaints.push(format!("{refused} requests failed, and {unknown} are unknown"));
        }
        if allowed == Allowed::FailedPuts && failed_gets > 0 {
            complaints.push(format!("{failed_gets} reads failed"));
        }
        complaints.extend(reported_of_absent(absent));
        complaints
    }
}

/// What is to be said of reads of keys that have a value, and that showed none.
pub(super) fn reported_of_absent(absent: u64) -> Option<String> {
    (absent > 0).then(|| format!("{absent} reads of keys that have a value showed none"))
}
