//! When each operation of some loads ended, how long it took and how it ended: the data for the
//! figures over time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pixii_client::ClientError;

use super::Kind;

/// Maximum number of operations that are kept one by one; further ones are only in the reports of
/// the loads.
const MAX_SAMPLES: usize = 8_000_000;
/// Maximum number of classes of failures; further ones are counted together.
const MAX_WHYS: usize = 32;

/// The outcome of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Carried out and acknowledged, or, for a read, answered.
    Done,
    /// Refused, or a read that was not answered.
    Refused,
    /// A write with an unknown outcome.
    Unknown,
}

/// One operation that has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// When it ended, since the beginning of the trace.
    pub(crate) at: Duration,
    /// Duration of the operation in microseconds; `u32::MAX` if it was longer.
    pub(crate) spent_us: u32,
    /// How it ended; `spent_us` includes operations that failed.
    pub(crate) end: End,
    /// True for a read that was done and returned no value.
    pub(crate) is_absent: bool,
}

/// Operations of the same kind that failed for the same reason, ignoring numbers in the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Why {
    /// Number of such operations.
    pub(crate) times: u64,
    /// The message of the first of them.
    pub(crate) first: String,
}

/// The operations of some loads; clones share the same data.
#[derive(Clone, Debug)]
pub(crate) struct Trace(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    begun: Instant,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    samples: Vec<Sample>,
    whys: BTreeMap<String, Why>,
}

impl Trace {
    /// An empty trace, whose time begins now.
    pub(crate) fn begin() -> Self {
        Trace(Arc::new(Inner { begun: Instant::now(), kept: Mutex::default() }))
    }

    /// The time since the beginning of the trace.
    pub(crate) fn elapsed(&self) -> Duration {
        self.0.begun.elapsed()
    }

    /// The operations so far, in the order of their ends.
    pub(crate) fn samples(&self) -> Vec<Sample> {
        self.kept().samples.clone()
    }

    /// The failures so far, by kind and reason.
    pub(crate) fn whys(&self) -> BTreeMap<String, Why> {
        self.kept().whys.clone()
    }

    /// Notes an operation that was done.
    pub(super) fn done(&self, spent: Duration, is_absent: bool) {
        self.add(&mut self.kept(), spent, End::Done, is_absent);
    }

    /// Notes an operation that failed.
    pub(super) fn failed(&self, kind: Kind, spent: Duration, failure: &ClientError) {
        let (end, how) = match failure {
            ClientError::Refused(_) => (End::Refused, "refused"),
            ClientError::Timeout(_) | ClientError::Error(_) | ClientError::NobodyListens(_) => {
                (End::Refused, "not answered")
            }
            ClientError::Unknown(_) => (End::Unknown, "unknown"),
        };
        let reported = failure.to_string();
        let mut kept = self.kept();
        self.add(&mut kept, spent, end, false);
        let class = format!("{} {how}: {}", kind.name(), unnumbered(&reported));
        let known = kept.whys.len() < MAX_WHYS || kept.whys.contains_key(&class);
        let class = if known { class } else { "others".into() };
        kept.whys.entry(class).or_insert(Why { times: 0, first: reported }).times += 1;
    }

    fn add(&self, kept: &mut Kept, spent: Duration, end: End, is_absent: bool) {
        if kept.samples.len() < MAX_SAMPLES {
            let spent_us = u32::try_from(spent.as_micros()).unwrap_or(u32::MAX);
            kept.samples.push(Sample { at: self.elapsed(), spent_us, end, is_absent });
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The common part of similar messages: the text before a semicolon, without parentheses, and with
/// `#` for any number.
fn unnumbered(sentence: &str) -> String {
    let (mut text, mut depth) = (String::with_capacity(sentence.len()), 0_u32);
    for c in sentence.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ if depth > 0 => {}
            ';' => break,
            '0'..='9' if text.ends_with('#') => {}
            '0'..='9' => text.push('#'),
            // After parentheses that were left out.
            ' ' | ':' if text.ends_with(' ') => {
                text.pop();
                text.push(c);
            }
            _ => text.push(c),
        }
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_one_kind_are_counted_together_whatever_their_numbers() {
        let trace = Trace::begin();
        for number in 1..=3 {
            let why = format!("n{number} (h:{number}): no word in {number}00 ms (n7; n8); or so");
            let why = ClientError::Unknown(why);
            trace.failed(Kind::Blind, Duration::from_millis(7), &why);
        }
        trace.done(Duration::from_micros(900), true);
        let whys: Vec<_> = trace.whys().into_iter().collect();
        let [(class, why)] = &whys[..] else { panic!("{whys:?}") };
        assert_eq!(class, "blind put unknown: unknown outcome: n#: no word in # ms");
        assert_eq!(why.times, 3);
        assert!(why.first.contains("n1 (h:1): no word in 100 ms (n7; n8); or so"), "{why:?}");
        let samples = trace.samples();
        assert_eq!(samples.len(), 4);
        assert_eq!((samples[0].spent_us, samples[0].end), (7_000, End::Unknown));
        assert!(samples[3].is_absent && samples[3].end == End::Done);
        assert!(samples.windows(2).all(|pair| pair[0].at <= pair[1].at));
    }
}
