//! What a daemon counts of its work, and its account of itself: as OpenMetrics text, and in a few
//! lines for people.

mod snapshot;
mod text;

use std::collections::BTreeMap;
use std::time::Duration;

use pixii_core::message::{Rejection, Request, Response};

pub(crate) use snapshot::{Load, MetricsSnapshot};
use text::Histogram;

/// Bounds of latencies, in seconds.
const LATENCIES: [f64; 16] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];
/// Bounds of counts.
const COUNTS: [f64; 8] = [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];
const BATCHES: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// The kind of a request, as labels say it.
pub(crate) type Kind = &'static str;

/// What is measured as it happens. What a node is, is asked of it instead.
#[derive(Clone, Debug)]
pub(crate) struct Meter {
    /// By kind and outcome.
    requests: BTreeMap<(Kind, &'static str), Histogram>,
    /// By kind and reason.
    refused: BTreeMap<(Kind, &'static str), u64>,
    siblings: Histogram,
    syncs: Histogram,
    batches: Histogram,
}

impl Meter {
    /// Nothing has happened.
    pub(crate) fn new() -> Self {
        let none = |kind| ((kind, "done"), Histogram::new(&LATENCIES));
        Meter {
            // So that a rate can be notified of the first one.
            requests: ["get", "put", "delete", "keys"].map(none).into(),
            refused: BTreeMap::new(),
            siblings: Histogram::new(&COUNTS),
            syncs: Histogram::new(&LATENCIES),
            batches: Histogram::new(&BATCHES),
        }
    }

    /// A client's request was answered, so long after it had come.
    pub(crate) fn answered(&mut self, kind: Kind, response: &Response, took: Duration) {
        if let Response::Found { values, .. } = response {
            self.siblings.observe(values.len() as f64);
        }
        if let Response::Refused(rejection) = response {
            *self.refused.entry((kind, reason(rejection))).or_default() += 1;
        }
        let histogram = self.requests.entry((kind, outcome(response)));
        histogram.or_insert_with(|| Histogram::new(&LATENCIES)).observe(took.as_secs_f64());
    }

    /// A batch of so many changes was written and synced.
    pub(crate) fn synced(&mut self, changes: usize, took: Duration) {
        self.batches.observe(changes as f64);
        self.syncs.observe(took.as_secs_f64());
    }
}

/// What is asked for.
pub(crate) fn kind(request: &Request) -> Kind {
    match request {
        Request::Get { .. } => "get",
        Request::Put { .. } | Request::PutAgain { .. } => "put",
        Request::Delete { .. } => "delete",
        Request::Keys { .. } => "keys",
    }
}

fn outcome(response: &Response) -> &'static str {
    match response {
        Response::Found { values, .. } if values.is_empty() => "absent",
        Response::Found { .. } | Response::Written { .. } | Response::Keys { .. } => "done",
        Response::Refused(rejection) if rejection.is_no_quorum() => "no_quorum",
        Response::Refused(_) => "refused",
        Response::Unknown { .. } => "unknown",
    }
}

/// The class of a rejection.
fn reason(rejection: &Rejection) -> &'static str {
    match rejection {
        rejection if rejection.is_no_quorum() => "no_quorum",
        Rejection::Busy { .. } => "busy",
        Rejection::NoSpace { .. } | Rejection::Hints(_) => "space",
        Rejection::Starting { .. } => "starting",
        Rejection::Stopping => "stopping",
        Rejection::Paused(_) => "paused",
        Rejection::Siblings(_) | Rejection::Object(_) | Rejection::Limit { .. } => "siblings",
        rejection if rejection.is_about_node() => "node",
        _ => "request",
    }
}
