//! The outcomes that clients saw in a drill, and which of them are allowed.

use crate::workload::trace::{End, Trace};

/// The failures that clients may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Allowed {
    /// None: every request is carried out.
    Nothing,
    /// Puts may be refused or have an unknown outcome, but every read is answered.
    FailedPuts,
    /// Any request may fail, but nothing that was acknowledged is lost.
    Failures,
}

/// The outcomes of requests on keys that have a value and are never deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Expectations {
    /// Number of requests that were carried out.
    pub(super) done: u64,
    /// Number of requests that were refused, and of reads that were not answered.
    pub(super) refused: u64,
    /// Number of writes with an unknown outcome.
    pub(super) unknown: u64,
    /// Number of reads that returned no value, although every key has one.
    pub(super) absent: u64,
    /// Number of reads that were refused or not answered; also part of `refused`.
    pub(super) failed_gets: u64,
}

impl Expectations {
    /// Counts the outcomes of a trace.
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

    /// The outcomes that are not `allowed`, one sentence each.
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

/// A complaint about reads that returned no value of a key that has one; `None` if there were none.
pub(super) fn reported_of_absent(absent: u64) -> Option<String> {
    (absent > 0).then(|| format!("{absent} reads of keys that have a value showed none"))
}
