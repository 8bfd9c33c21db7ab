//! The measurements of a daemon, and its metrics snapshot: as OpenMetrics text, and in a few lines
//! for the log.

mod snapshot;
mod text;

use std::collections::BTreeMap;
use std::time::Duration;

use pixii_core::message::{Rejection, Request, Response};

pub(crate) use snapshot::{Load, MetricsSnapshot};
use text::Histogram;

/// Bounds of the histograms of latencies, in seconds.
const LATENCIES: [f64; 16] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];
/// Bounds of the histogram of values per read.
const COUNTS: [f64; 8] = [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];
const BATCHES: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// The kind of a request, as labels have it.
pub(crate) type Kind = &'static str;

/// Measurements made as events happen. The state of a node is read from the node instead.
#[derive(Clone, Debug)]
pub(crate) struct Meter {
    /// Latencies in seconds, by kind and outcome.
    requests: BTreeMap<(Kind, &'static str), Histogram>,
    /// Number of rejections, by kind and class of the reason.
    refused: BTreeMap<(Kind, &'static str), u64>,
    siblings: Histogram,
    syncs: Histogram,
    batches: Histogram,
}

impl Meter {
    /// All counts are 0; the series of successful requests are present from the start.
    pub(crate) fn new() -> Self {
        let none = |kind| ((kind, "done"), Histogram::new(&LATENCIES));
        Meter {
            // Present from the start, so that a rate sees the first request.
            requests: ["get", "put", "delete", "keys"].map(none).into(),
            refused: BTreeMap::new(),
            siblings: Histogram::new(&COUNTS),
            syncs: Histogram::new(&LATENCIES),
            batches: Histogram::new(&BATCHES),
        }
    }

    /// Takes in that a client's request was answered, `took` after it had arrived.
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

    /// Takes in that a batch of `changes` changes was written and synced in `took`.
    pub(crate) fn synced(&mut self, changes: usize, took: Duration) {
        self.batches.observe(changes as f64);
        self.syncs.observe(took.as_secs_f64());
    }
}

/// The kind of a request.
pub(crate) fn kind(request: &Request) -> Kind {
    match request {
        Request::Get { .. } => "get",
        Request::Put { .. } | Request::PutAgain { .. } | Request::Decide { value: Some(_), .. } => {
            "put"
        }
        Request::Delete { .. } | Request::Decide { value: None, .. } => "delete",
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

/// The class of a rejection, as the label `reason` has it.
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
