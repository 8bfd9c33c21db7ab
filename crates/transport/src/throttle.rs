//! Limits of the log: each line that a peer or a client can cause passes here, so that the log has
//! some of its kind and a count of the others, whatever the other side does.

use std::collections::HashMap;
use std::fmt::{self, Display, Formatter};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::locked;

/// Sources that are remembered. Beyond it, lines of new sources count against their kind alone.
const MAX_REMEMBERED: usize = 1_024;
/// The same reason of the same source is logged again after this time, if it still holds,
const SAME_REASON: Duration = Duration::from_secs(600);
/// and another one after this time: the source may be a stranger, whose bytes are in the reason.
const OTHER_REASON: Duration = Duration::from_secs(10);
/// Lines of one kind and source that may follow each other; one more for each `OTHER_REASON`.
const BURST: u32 = 5;
/// Lines of one kind that may follow each other, of all sources together; one more a second.
const KIND_BURST: u32 = 64;
/// Lines that were left out are reported after this time even if no line of their kind follows.
const REPORT_AFTER: Duration = Duration::from_secs(60);
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

/// Logs a line if the throttle permits it, with the count of lines that were left out before.
#[macro_export]
macro_rules! limited {
    ($permit:expr, $level:ident, [$($field:tt)*], $($text:tt)+) => {
        if let Some(omitted) = $permit {
            tracing::$level!($($field)* "{}{omitted}", format_args!($($text)+));
        }
    };
}

/// Lines of the same kind and source that were left out since the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Omitted(u64);

impl Display for Omitted {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            1 => f.write_str(" (1 line like this was left out before)"),
            count => write!(f, " ({count} lines like this were left out before)"),
        }
    }
}

/// Remembers what was logged.
#[derive(Debug, Default)]
pub struct LogThrottle(Mutex<Logged>);

#[derive(Debug, Default)]
struct Logged {
    sources: HashMap<(&'static str, String), Source>,
    kinds: HashMap<&'static str, Tokens>,
    swept: Option<Instant>,
}

#[derive(Debug)]
struct Source {
    tokens: Tokens,
    reason: String,
    at: Instant,
    omitted: u64,
}

/// Lines that may be logged at once.
#[derive(Debug)]
struct Tokens {
    left: u32,
    filled: Instant,
}

impl Tokens {
    fn full(burst: u32, now: Instant) -> Self {
        Tokens { left: burst, filled: now }
    }

    fn take(&mut self, now: Instant, burst: u32, interval: Duration) -> bool {
        let intervals = now.saturating_duration_since(self.filled).as_nanos() / interval.as_nanos();
        let more = u32::try_from(intervals).unwrap_or(u32::MAX);
        if more > 0 {
            let left = self.left.saturating_add(more).min(burst);
            *self = Tokens { left, filled: now };
        }
        let permitted = self.left > 0;
        self.left = self.left.saturating_sub(1);
        permitted
    }
}

impl LogThrottle {
    /// For lines with a `reason`: one for each reason of a source, which is not repeated.
    pub fn once(&self, kind: &'static str, source: &str, reason: &str) -> Option<Omitted> {
        locked(&self.0).permit(Instant::now(), kind, source, Some(reason))
    }

    /// For lines that may follow each other: some of a source, then one now and then.
    pub fn several(&self, kind: &'static str, source: &str) -> Option<Omitted> {
        locked(&self.0).permit(Instant::now(), kind, source, None)
    }

    /// The next line of this kind and source is logged, whatever was logged before.
    pub fn forget(&self, kind: &'static str, source: &str) {
        locked(&self.0).sources.remove(&(kind, source.to_owned()));
    }

    /// Logs how many lines were left out of which no later line gives the count. To be called
    /// often; it looks every ten seconds.
    pub fn sweep(&self) {
        for (kind, source, omitted) in locked(&self.0).left_out(Instant::now()) {
            let about = if source.is_empty() { String::new() } else { format!(" about {source}") };
            tracing::info!(
                event = "lines_left_out",
                kind,
                omitted,
                "{omitted} more lines of the kind {kind}{about} were left out"
            );
        }
    }
}

impl Logged {
    fn permit(
        &mut self,
        now: Instant,
        kind: &'static str,
        source: &str,
        reason: Option<&str>,
    ) -> Option<Omitted> {
        let key = (kind, source.to_owned());
        if self.sources.len() >= MAX_REMEMBERED && !self.sources.contains_key(&key) {
            self.make_room();
        }
        let known = self.sources.get_mut(&key);
        let rests = known.as_ref().is_some_and(|known| {
            let passed = now.saturating_duration_since(known.at);
            reason.is_some_and(|reason| {
                passed < if known.reason == reason { SAME_REASON } else { OTHER_REASON }
            })
        });
        let source_permits = match known {
            Some(known) if reason.is_none() => known.tokens.take(now, BURST, OTHER_REASON),
            _ => !rests,
        };
        let all = self.kinds.entry(kind).or_insert_with(|| Tokens::full(KIND_BURST, now));
        let permitted = source_permits && all.take(now, KIND_BURST, Duration::from_secs(1));
        let known = self.sources.entry(key).or_insert_with(|| Source {
            tokens: Tokens::full(BURST - 1, now),
            reason: String::new(),
            at: now,
            omitted: 0,
        });
        if !permitted {
            known.omitted += 1;
            return None;
        }
        known.at = now;
        reason.unwrap_or_default().clone_into(&mut known.reason);
        Some(Omitted(std::mem::take(&mut known.omitted)))
    }

    /// Forgets the half of the sources that was logged longest ago.
    fn make_room(&mut self) {
        let mut times: Vec<Instant> = self.sources.values().map(|known| known.at).collect();
        times.sort_unstable();
        let Some(median) = times.get(times.len() / 2).copied() else { return };
        self.sources.retain(|_, known| known.at > median);
    }

    fn left_out(&mut self, now: Instant) -> Vec<(&'static str, String, u64)> {
        let swept = *self.swept.get_or_insert(now);
        if now.saturating_duration_since(swept) < SWEEP_INTERVAL {
            return Vec::new();
        }
        self.swept = Some(now);
        let mut left_out = Vec::new();
        for ((kind, source), known) in &mut self.sources {
            let passed = now.saturating_duration_since(known.at);
            if known.omitted > 0 && passed >= REPORT_AFTER {
                left_out.push((*kind, source.clone(), std::mem::take(&mut known.omitted)));
            }
        }
        // As many lines as the kind may have; the others are counted again.
        left_out.truncate(KIND_BURST as usize);
        left_out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_logged_once_in_a_while_whatever_its_reasons_are() {
        let (mut logged, begun) = (Logged::default(), Instant::now());
        let mut permit = |after: u64, source: &str, why: &str| {
            let now = begun + Duration::from_secs(after);
            logged.permit(now, "refused", source, Some(why)).map(|Omitted(count)| count)
        };
        assert_eq!(permit(0, "a", "its magic is AAAA"), Some(0));
        assert_eq!(permit(0, "b", "its magic is AAAA"), Some(0), "each source has its lines");
        let varied = (1..1_000).filter_map(|n| permit(0, "a", &format!("its magic is {n}")));
        assert_eq!(varied.count(), 0);
        assert_eq!(permit(11, "a", "its magic is AAAA"), None);
        assert_eq!(permit(11, "a", "its magic is BBBB"), Some(1_000), "with what was left out");
        assert_eq!(permit(600, "a", "its magic is BBBB"), None);
        assert_eq!(permit(611, "a", "its magic is BBBB"), Some(1), "it still holds");
    }

    #[test]
    fn events_of_a_source_have_a_burst_and_many_sources_have_one_of_their_kind() {
        let (mut logged, begun) = (Logged::default(), Instant::now());
        let mut count = |after: u64, kind, source: &dyn Fn(u32) -> String| {
            let now = begun + Duration::from_secs(after);
            let permitted = |n: &u32| logged.permit(now, kind, &source(*n), None).is_some();
            (0..10_000).filter(permitted).count()
        };
        assert_eq!(count(0, "link_up", &|_| "n2".into()), 5);
        assert_eq!(count(10, "link_up", &|_| "n2".into()), 1);
        assert_eq!(count(0, "refused", &|n| format!("10.0.{}.{}", n / 256, n % 256)), 64);
        assert_eq!(count(5, "refused", &|n| format!("10.0.{}.{}", n / 256, n % 256)), 5);
        assert!(logged.sources.len() <= MAX_REMEMBERED);
        assert!(logged.left_out(begun + Duration::from_secs(60)).is_empty(), "the first look");
        let left_out = logged.left_out(begun + Duration::from_secs(100));
        let of_links = left_out.iter().find(|(kind, ..)| *kind == "link_up");
        assert!(of_links.is_none_or(|(_, source, count)| (&**source, *count) == ("n2", 9_999)));
        assert!(!left_out.is_empty());
    }
}
