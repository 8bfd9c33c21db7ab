//! What a load came to, for people, as JSON and as CSV.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::Path;

use pixii_kit::text::{count, row, table};
use serde_json::{Value, json};

use super::LoadArgs;
use crate::mean::Mean;
use crate::workload::choice::Choice;
use crate::workload::repeated::Figures;
use crate::workload::{End, Report, Spec};

/// The file that marks a run that did not finish.
const INCOMPLETE: &str = "INCOMPLETE";
/// Reasons of failures that are reported.
const REASONS: usize = 5;

/// What is reported.
pub(super) struct LoadReport<'a> {
    /// The command line.
    pub(super) args: &'a LoadArgs,
    /// The load.
    pub(super) spec: &'a Spec,
    /// Its repetitions, one at least.
    pub(super) reports: &'a [Report],
}

/// A repetition in a line.
pub(super) fn progress(number: u64, of: u64, report: &Report) -> String {
    let all = Figures::of(std::slice::from_ref(report));
    let Some(all) = all.last() else { return format!("{number} of {of}: nothing was done") };
    format!(
        "{number} of {of}: {} done, {:.0} a second, p50 {:.2} ms, p99 {:.2} ms",
        all.done, all.rate.mean, all.p50.mean, all.p99.mean
    )
}

impl LoadReport<'_> {
    fn overdue(&self) -> u64 {
        self.reports.iter().map(|report| report.overdue).sum()
    }

    /// Why operations failed, the most frequent first.
    fn reasons(&self) -> Vec<(String, u64)> {
        let mut sums: BTreeMap<&String, u64> = BTreeMap::new();
        let totals = self.reports.iter().flat_map(|report| report.kinds.values());
        for (why, times) in totals.flat_map(|totals| &totals.reasons) {
            *sums.entry(why).or_default() += times;
        }
        let mut all: Vec<_> = sums.into_iter().map(|(why, times)| (why.clone(), times)).collect();
        all.sort_by_key(|(_, times)| std::cmp::Reverse(*times));
        all
    }

    /// What the load was, in two lines.
    fn head(&self) -> String {
        let LoadArgs { workload, keys, bytes, seconds, warm_up, repetitions, .. } = self.args;
        let choice = match self.spec.choice {
            Choice::Zipf(exponent) => format!("by Zipf's law ({exponent})"),
            Choice::Latest(exponent) => format!("newest first by Zipf's law ({exponent})"),
            _ => "all alike".into(),
        };
        let pace = match self.spec.arrivals {
            None => format!("closed loop, {}", count(self.spec.clients as u64, "client")),
            Some(arrivals) => {
                let evenly = if arrivals.is_random { "as chance has it" } else { "evenly" };
                let burst = arrivals.burst.map_or_else(String::new, |burst| {
                    let [length, period] =
                        [burst.length, burst.period].map(|time| time.as_secs_f64());
                    format!(", {} times as many for {length} s of every {period} s", burst.factor)
                });
                let most = self.spec.clients;
                format!(
                    "open loop, {} a second {evenly}{burst}, at most {most} in progress",
                    arrivals.rate
                )
            }
        };
        format!(
            "workload {} ({}) over {keys} keys of {bytes} bytes, {choice}\n{pace}; {} of \
             {seconds} s, each behind \
             {warm_up} s of warm-up; seed {}\n",
            workload.name,
            workload.what,
            count(*repetitions, "repetition"),
            self.spec.seed
        )
    }

    /// A table, and what is to be said to it.
    pub(super) fn as_text(&self) -> String {
        let mut rows = vec![row([
            "",
            "done",
            "a second",
            "mean ms",
            "p50",
            "p99",
            "p99.9",
            "max",
            "refused",
            "no quorum",
            "unknown",
        ])];
        let with_interval = |mean: &Mean, digits: usize| match mean.count {
            0 => "-".into(),
            1 => format!("{:.digits$}", mean.mean),
            _ => format!("{:.digits$} \u{b1} {:.digits$}", mean.mean, mean.half),
        };
        let figures = Figures::of(self.reports);
        for one in &figures {
            rows.push(vec![
                one.kind.map_or("all", |kind| kind.name()).into(),
                one.done.to_string(),
                with_interval(&one.rate, 0),
                with_interval(&one.mean, 2),
                with_interval(&one.p50, 2),
                with_interval(&one.p99, 2),
                format!("{:.2}", one.p999),
                format!("{:.2}", one.max),
                one.refused.to_string(),
                one.no_quorum.to_string(),
                one.unknown.to_string(),
            ]);
        }
        let mut text = format!("\n{}\n{}", self.head(), table(&rows));
        if self.overdue() > 0 {
            let (overdue, most) = (count(self.overdue(), "request"), self.spec.clients);
            let _ =
                writeln!(text, "\n{overdue} not sent: {most} were in progress when they were due");
        }
        if figures.iter().any(|one| one.absent > 0) {
            let absent = figures.iter().filter(|one| one.kind.is_some()).map(|one| one.absent);
            let _ = writeln!(text, "\n{} found no value", count(absent.sum(), "get"));
        }
        for (why, times) in self.reasons().iter().take(REASONS) {
            let _ = writeln!(text, "\n{times} times: {why}");
        }
        text
    }

    /// The same, unrounded.
    pub(super) fn as_json(&self) -> Value {
        let mean = |mean: &Mean| json!({ "mean": mean.mean, "half": mean.half });
        let figures = |one: &Figures| {
            json!({
                "kind": one.kind.map_or("all", |kind| kind.name()), "done": one.done,
                "per_second": mean(&one.rate), "mean_ms": mean(&one.mean), "p50_ms": mean(&one.p50),
                "p99_ms": mean(&one.p99), "p99_9_ms": one.p999, "max_ms": one.max,
                "refused": one.refused, "no_quorum": one.no_quorum, "unknown": one.unknown,
                "absent": one.absent,
            })
        };
        let reasons = self.reasons();
        let reasons = reasons.iter().map(|(why, times)| json!({ "why": why, "times": times }));
        json!({
            "workload": self.args.workload.name, "seed": self.spec.seed,
            "repetitions": self.reports.len(), "seconds": self.args.seconds,
            "rate": self.spec.arrivals.map(|arrivals| arrivals.rate),
            "clients": self.spec.clients, "not_sent": self.overdue(),
            "figures": Figures::of(self.reports).iter().map(figures).collect::<Vec<_>>(),
            "failures": reasons.collect::<Vec<_>>(),
        })
    }

    /// Writes samples and table to a folder, marked if the run has not come to its end.
    pub(super) fn write(&self, out: &Path, is_incomplete: bool) -> Result<(), String> {
        let fault = |error: std::io::Error| format!("{}: {error}", out.display());
        fs::create_dir_all(out).map_err(fault)?;
        let mark = out.join(INCOMPLETE);
        if is_incomplete {
            fs::write(mark, "the run has not come to its end\n").map_err(fault)?;
        } else if mark.exists() {
            fs::remove_file(mark).map_err(fault)?;
        }
        let mut file = BufWriter::new(File::create(out.join("samples.csv")).map_err(fault)?);
        writeln!(file, "repetition,kind,due_ms,took_ms,end").map_err(fault)?;
        for (number, report) in (1..).zip(self.reports) {
            for sample in &report.samples {
                let [due, took] = [sample.due_us, sample.took_us].map(|us| us as f64 / 1e3);
                let (kind, end) = (sample.kind.name(), end(sample.end));
                writeln!(file, "{number},{kind},{due:.3},{took:.3},{end}").map_err(fault)?;
            }
        }
        file.flush().map_err(fault)?;
        let mut csv = String::from(
            "kind,done,per_second,per_second_half,mean_ms,mean_half,p50_ms,p50_half,p99_ms,\
             p99_half,p99_9_ms,max_ms,\
             refused,no_quorum,unknown\n",
        );
        for one in Figures::of(self.reports) {
            let kind = one.kind.map_or("all", |kind| kind.name());
            let _ = write!(csv, "{kind},{}", one.done);
            for Mean { mean, half, .. } in [one.rate, one.mean, one.p50, one.p99] {
                let _ = write!(csv, ",{mean:.3},{half:.3}");
            }
            let (p999, max) = (one.p999, one.max);
            let (refused, no_quorum, unknown) = (one.refused, one.no_quorum, one.unknown);
            let _ = writeln!(csv, ",{p999:.3},{max:.3},{refused},{no_quorum},{unknown}");
        }
        fs::write(out.join("load.csv"), csv).map_err(fault)
    }
}

fn end(end: End) -> &'static str {
    match end {
        End::Done => "done",
        End::Refused => "refused",
        End::NoQuorum => "no quorum",
        End::Unknown => "unknown",
    }
}
