//! What a drill has to tell: what happened, what clients noticed before, during and after, how soon
//! all was well, and whether anything was lost; as text and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use pixii_kit::text::{row, table};
use serde_json::{Value, json};

use super::Ending;
use super::catalog::Drill;
use super::timeline::{Phase, Recorded, Timeline};
use crate::workload::trace::{End, Sample, Why};

/// About so many intervals are distinguished, none shorter than the least.
const INTERVALS: u32 = 150;
const LEAST: Duration = Duration::from_millis(100);

/// What some operations were like.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Stretch {
    /// Its length in seconds.
    pub(crate) seconds: f64,
    /// Operations that were done.
    pub(crate) done: u64,
    /// Refused, or (a read) not answered.
    pub(crate) refused: u64,
    /// Writes with an unknown outcome.
    pub(crate) unknown: u64,
    /// Reads that were done and showed no value.
    pub(crate) absent: u64,
    /// The time in which half of those that were done took, in microseconds.
    pub(crate) p50_us: u32,
    /// The time in which 99 of 100 of them took, in microseconds.
    pub(crate) p99_us: u32,
}

/// The report of one drill.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    /// Which drill.
    pub(crate) drill: &'a Drill,
    /// Its seed.
    pub(crate) seed: u64,
    /// How it went.
    pub(crate) ending: &'a Ending,
    /// What happened.
    pub(crate) reported: Recorded,
    /// What clients noticed in each phase that had any.
    pub(crate) phases: Vec<(Phase, Stretch)>,
    /// What they noticed over time: the beginning of each interval in seconds, and what it was
    /// like.
    pub(crate) intervals: Vec<(f64, Stretch)>,
    /// Why operations failed.
    pub(crate) whys: BTreeMap<String, Why>,
}

impl Stretch {
    fn of(samples: &[Sample], length: Duration) -> Self {
        let mut stretch = Stretch { seconds: length.as_secs_f64(), ..Stretch::default() };
        let mut times = Vec::with_capacity(samples.len());
        for sample in samples {
            match sample.end {
                End::Done => times.push(sample.spent_us),
                End::Refused => stretch.refused += 1,
                End::Unknown => stretch.unknown += 1,
            }
            stretch.absent += u64::from(sample.is_absent);
        }
        times.sort_unstable();
        stretch.done = times.len() as u64;
        let quantile = |share: usize| times.get(times.len().saturating_sub(1) * share / 100);
        stretch.p50_us = quantile(50).copied().unwrap_or_default();
        stretch.p99_us = quantile(99).copied().unwrap_or_default();
        stretch
    }

    /// Operations that were done per second.
    pub(crate) fn rate(&self) -> f64 {
        if self.seconds > 0.0 { self.done as f64 / self.seconds } else { 0.0 }
    }

    fn json(&self) -> Value {
        json!({
            "seconds": rounded(self.seconds), "done": self.done, "refused": self.refused,
            "unknown": self.unknown,
            "absent": self.absent, "p50_us": self.p50_us, "p99_us": self.p99_us,
        })
    }
}

impl<'a> Report<'a> {
    /// The report of a drill that has come to its end.
    pub(crate) fn new(
        drill: &'a Drill,
        seed: u64,
        ending: &'a Ending,
        timeline: &Timeline,
    ) -> Self {
        let (reported, samples) = (timeline.read(), timeline.trace().samples());
        let mut phases = Vec::new();
        for phase in Phase::ALL {
            let of = |sample: &&Sample| reported.phase_at(sample.at) == Some(phase);
            let of: Vec<Sample> = samples.iter().filter(of).copied().collect();
            if !of.is_empty() {
                phases.push((phase, Stretch::of(&of, reported.length(phase))));
            }
        }
        let width = (reported.ended / INTERVALS).max(LEAST);
        let mut intervals = Vec::new();
        let mut rest = &samples[..];
        let (first, last) = (samples.first().map(|s| s.at), samples.last().map(|s| s.at));
        let mut from = first.unwrap_or_default();
        while last.is_some_and(|last| from <= last) {
            let (of, behind) = rest.split_at(rest.partition_point(|s| s.at < from + width));
            let length = if behind.is_empty() { last.map(|last| last - from) } else { None };
            intervals.push((from.as_secs_f64(), Stretch::of(of, length.unwrap_or(width))));
            (rest, from) = (behind, from + width);
        }
        let whys = timeline.trace().whys();
        Report { drill, seed, ending, reported, phases, intervals, whys }
    }

    /// The longest recovery, in seconds.
    pub(crate) fn recovery(&self) -> Option<f64> {
        self.reported.recoveries.iter().max().map(Duration::as_secs_f64)
    }

    /// How soon all was well again, in a sentence.
    pub(crate) fn recovery_reported(&self) -> Option<String> {
        let longest = self.recovery()?;
        let what = self.drill.recovery;
        Some(match self.reported.recoveries.len() {
            1 => format!("recovered in {longest:.2} s: {what}"),
            times => format!("recovered {times} times, in {longest:.2} s at most: {what}"),
        })
    }

    /// What the ledger says, in a sentence.
    pub(crate) fn ledger_reported(&self) -> Option<String> {
        let (counts, lost) = self.reported.judged?;
        Some(format!(
            "{} writes acknowledged, {lost} lost; {} refused, {} unknown",
            counts.acknowledged, counts.refused, counts.unknown
        ))
    }

    /// The tables and sentences at the end, for people; the last line says how it went.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        if !self.phases.is_empty() {
            let head =
                row(["", "length", "done", "per second", "p50", "p99", "refused", "unknown"]);
            let rows = self.phases.iter().map(|(phase, of)| {
                row([
                    phase.name(),
                    &format!("{:.1} s", of.seconds),
                    &of.done.to_string(),
                    &format!("{:.0}", of.rate()),
                    &format!("{:.2} ms", f64::from(of.p50_us) / 1e3),
                    &format!("{:.2} ms", f64::from(of.p99_us) / 1e3),
                    &of.refused.to_string(),
                    &of.unknown.to_string(),
                ])
            });
            text += &table(&[head].into_iter().chain(rows).collect::<Vec<_>>());
        }
        for (kind, Why { times, first }) in &self.whys {
            let _ = writeln!(text, "{times} times {kind}\n  the first: {first}");
        }
        for line in [self.recovery_reported(), self.ledger_reported()].into_iter().flatten() {
            let _ = writeln!(text, "{line}");
        }
        let _ = writeln!(text, "seed {}; {}", self.seed, self.ending.summary);
        text
    }

    /// Everything, for programs.
    pub(crate) fn json(&self) -> Value {
        let Ending { complaints, figures, summary } = self.ending;
        let seconds = |at: Duration| rounded(at.as_secs_f64());
        let events: Vec<Value> = self.reported.events.iter().map(|event| {
            json!({ "at_s": seconds(event.at), "mark": event.mark.name(), "what": event.what })
        }).collect();
        let phases = self.phases.iter().map(|(phase, of)| (phase.name().to_owned(), of.json()));
        let intervals = self.intervals.iter().map(|(from, of)| {
            let mut reported = of.json();
            reported["from_s"] = rounded(*from).into();
            reported
        });
        let whys = self.whys.iter();
        let whys =
            whys.map(|(kind, why)| json!({ "kind": kind, "times": why.times, "first": why.first }));
        let judged = self.reported.judged;
        let mut reported = json!({
            "drill": self.drill.name, "proves": self.drill.proves, "seed": self.seed,
            "passed": complaints.is_empty(),
            "summary": summary, "complaints": complaints, "events": events,
            "phases": phases.collect::<serde_json::Map<_, _>>(),
            "intervals": intervals.collect::<Vec<_>>(),
            "errors": whys.collect::<Vec<_>>(), "recovery": self.drill.recovery,
            "recovered_s": self.reported.recoveries.iter().map(|took|
            seconds(*took)).collect::<Vec<_>>(),
            "writes_acknowledged": judged.map(|(counts, _)| counts.acknowledged),
            "writes_lost": judged.map(|(_, lost)| lost),
        });
        if let (Some(reported), Some(figures)) = (reported.as_object_mut(), figures.as_object()) {
            reported.extend(figures.clone());
        }
        reported
    }
}

fn rounded(seconds: f64) -> f64 {
    (seconds * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drill::catalog::drill;
    use crate::drill::timeline::EventKind;

    fn sample(at_ms: u64, spent_us: u32, end: End) -> Sample {
        Sample { at: Duration::from_millis(at_ms), spent_us, end, is_absent: false }
    }

    #[test]
    fn a_stretch_counts_by_end_and_times_only_what_was_done() {
        let done = (1..=200).map(|n| sample(n, n as u32, End::Done));
        let failed = [sample(7, 9_999, End::Refused), sample(8, 9_999, End::Unknown)];
        let all: Vec<Sample> = done.chain(failed).collect();
        let of = Stretch::of(&all, Duration::from_secs(2));
        assert_eq!((of.done, of.refused, of.unknown), (200, 1, 1));
        assert_eq!((of.p50_us, of.p99_us, of.rate()), (100, 198, 100.0));
        assert_eq!(Stretch::of(&[], Duration::ZERO).rate(), 0.0);
    }

    #[test]
    fn a_drill_of_which_nothing_was_noted_has_a_report() {
        let timeline = Timeline::begin();
        timeline.note(EventKind::Fault, "n1 is <killed>");
        let ending = Ending {
            summary: "nothing was asked".into(),
            complaints: vec!["n1 is \"shut\"".into()],
            figures: json!({ "kills": 1 }),
        };
        let report = Report::new(drill("kill").unwrap(), 7, &ending, &timeline);
        assert_eq!(report.text(), "seed 7; nothing was asked\n");
        let reported = report.json();
        assert_eq!((&reported["passed"], &reported["kills"]), (&false.into(), &1.into()));
        assert_eq!(
            (&reported["writes_lost"], &reported["events"][0]["mark"]),
            (&Value::Null, &"fault".into())
        );
        let page = super::super::page::page(&report);
        assert!(page.contains("n1 is &lt;killed&gt;") && page.contains("<b>Failed</b>"), "{page}");
        assert!(!page.contains("<svg"), "there is nothing to draw");
    }
}
