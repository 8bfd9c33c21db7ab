//! A load several times over: what differs between the repetitions says how far a figure can be
//! trusted.

use std::time::Duration;

use hdrhistogram::Histogram;
use pixii_client::Client;

use super::choice::Choice;
use super::{Kind, Load, Mix, Report, Spec, Totals};
use crate::mean::Mean;

/// Clients that write the keys first.
pub(crate) const FILL_CLIENTS: usize = 64;

/// Writes all keys of a load. The error reports why some could not be.
pub(crate) async fn fill(client: &Client, spec: &Spec) -> Result<(), String> {
    let spec = Spec {
        clients: FILL_CLIENTS,
        arrivals: None,
        mix: Mix { blind: 1.0, ..Mix::default() },
        choice: Choice::Sweep,
        operations: Some(spec.keys),
        duration: None,
        warm_up: Duration::ZERO,
        samples: 0,
        ..spec.clone()
    };
    let (wanted, report) = (spec.keys, Load::start(client, spec, None).finish().await?);
    let totals = report.kind(Kind::Blind);
    match totals.map_or(0, Totals::done) {
        done if done == wanted => Ok(()),
        done => {
            let why = totals.and_then(|totals| totals.reasons.keys().next());
            let why = why.map_or("no answer came", String::as_str);
            Err(format!("only {done} of the {wanted} keys could be written first: {why}"))
        }
    }
}

/// The repetition with this number: the same load, with other choices, over the keys that the last
/// one has left.
pub(crate) async fn repeat(
    client: &Client,
    spec: &Spec,
    number: u64,
    keys: u64,
) -> Result<Report, String> {
    let seed = spec.seed.wrapping_add(number.wrapping_mul(0xd134_2543_de82_ef95));
    Load::start(client, Spec { seed, keys, ..spec.clone() }, None).finish().await
}

/// What all repetitions came to, for one kind of operation or all. Means are over the repetitions;
/// times are in milliseconds.
pub(crate) struct Figures {
    /// What; `None` for all.
    pub(crate) kind: Option<Kind>,
    /// Operations done.
    pub(crate) done: u64,
    /// Done in a second.
    pub(crate) rate: Mean,
    /// The mean latency,
    pub(crate) mean: Mean,
    /// the median,
    pub(crate) p50: Mean,
    /// and what 99 of 100 were at least as fast as.
    pub(crate) p99: Mean,
    /// What 999 of 1,000 were at least as fast as, of all repetitions together.
    pub(crate) p999: f64,
    /// The slowest.
    pub(crate) max: f64,
    /// Refused for other reasons than a quorum.
    pub(crate) refused: u64,
    /// Without a quorum.
    pub(crate) no_quorum: u64,
    /// With an unknown outcome.
    pub(crate) unknown: u64,
    /// Gets that showed no value.
    pub(crate) absent: u64,
}

impl Figures {
    /// Of each kind that occurred, and of all where there are several.
    pub(crate) fn of(reports: &[Report]) -> Vec<Figures> {
        let mut kinds: Vec<Kind> = reports.iter().flat_map(|r| r.kinds.keys().copied()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let mut wanted: Vec<Option<Kind>> = kinds.into_iter().map(Some).collect();
        if wanted.len() > 1 {
            wanted.push(None);
        }
        wanted.into_iter().map(|kind| figures(kind, reports)).collect()
    }
}

fn figures(kind: Option<Kind>, reports: &[Report]) -> Figures {
    let ms = |micros: f64| micros / 1e3;
    let (mut all, [mut rates, mut means, mut medians, mut tails]) =
        (Totals::new(), [const { Vec::new() }; 4]);
    for report in reports {
        let one = merged(kind, report);
        rates.push(one.done() as f64 / report.spent.as_secs_f64());
        // A repetition in which nothing was done has no latency.
        if one.done() > 0 {
            let quantile = |of: &Histogram<u64>, share| ms(of.value_at_quantile(share) as f64);
            means.push(ms(one.latency.mean()));
            medians.push(quantile(&one.latency, 0.5));
            tails.push(quantile(&one.latency, 0.99));
        }
        all.add(one);
    }
    let [rate, mean, p50, p99] = [rates, means, medians, tails].map(|samples| Mean::of(&samples));
    Figures {
        kind,
        done: all.done(),
        rate,
        mean,
        p50,
        p99,
        p999: ms(all.latency.value_at_quantile(0.999) as f64),
        max: ms(all.latency.max() as f64),
        refused: all.refused - all.no_quorum,
        no_quorum: all.no_quorum,
        unknown: all.unknown,
        absent: all.absent,
    }
}

fn merged(kind: Option<Kind>, report: &Report) -> Totals {
    let mut merged = Totals::new();
    let wanted = report.kinds.iter().filter(|(of, _)| kind.is_none_or(|kind| kind == **of));
    wanted.for_each(|(_, totals)| merged.add(totals.clone()));
    merged
}

#[cfg(test)]
mod tests {
    use pixii_client::ClientError;
    use pixii_core::message::{Rejection, ReplicaOutcomes};

    use super::*;

    #[test]
    fn figures_are_means_over_repetitions() {
        let report = |millis: [u64; 2], seconds| {
            let mut report = Report { spent: Duration::from_secs(seconds), ..Report::default() };
            for (kind, millis) in [Kind::Get, Kind::Put].into_iter().zip(millis) {
                for _ in 0..100 {
                    report.totals(kind).note(Duration::from_millis(millis), Ok(()));
                }
            }
            report
        };
        let reported = Figures::of(&[report([10, 30], 10), report([20, 40], 20)]);
        let kinds: Vec<Option<Kind>> = reported.iter().map(|one| one.kind).collect();
        assert_eq!(kinds, [Some(Kind::Get), Some(Kind::Put), None]);
        assert_eq!([reported[0].done, reported[1].done, reported[2].done], [200, 200, 400]);
        let near =
            |found: f64, wanted: f64| assert!((found - wanted).abs() < 0.002 * wanted, "{found}");
        near(reported[0].rate.mean, 7.5);
        near(reported[0].p50.mean, 15.0);
        // Two repetitions 10 ms apart: 12.706 * 10 / 2.
        near(reported[0].p50.half, 63.53);
        near(reported[2].mean.mean, 25.0);
        near(reported[2].rate.mean, 15.0);
        near(reported[2].max, 40.0);
    }
    #[test]
    fn failures_are_counted_by_kind_and_have_no_latency() {
        let mut report = Report { spent: Duration::from_secs(1), ..Report::default() };
        let outcomes = ReplicaOutcomes::default();
        let no_quorum = Rejection::NoQuorum { answered: 0, needed: 2, timeout_ms: 9, outcomes };
        for failure in [
            ClientError::Refused(no_quorum),
            ClientError::Refused(Rejection::Stopping),
            ClientError::Error("no node".into()),
            ClientError::Unknown("late".into()),
        ] {
            report.totals(Kind::Put).note(Duration::from_secs(9), Err(&failure));
        }
        let reported = &Figures::of(&[report])[0];
        assert_eq!((reported.done, reported.p50.count), (0, 0));
        assert_eq!([reported.no_quorum, reported.refused, reported.unknown], [1, 2, 1]);
    }
}
