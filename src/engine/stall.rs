//! Whether the store makes progress. A disk that hangs returns no error: it never answers, so only
//! a clock can detect it.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use pixii_core::node::Stall;
use pixii_transport::locked;

/// A thread of the store that has worked on one piece of work for this long makes no progress.
pub(super) const STALLED_AFTER: Duration = Duration::from_secs(2);
/// Work that takes less than this is no sign of a disk that hangs.
const QUICK: Duration = Duration::from_millis(500);

/// The piece of work that a thread of the store is doing.
#[derive(Debug, Default)]
pub(super) struct Progress(Mutex<Work>);

#[derive(Clone, Copy, Debug, Default)]
struct Work {
    /// When the current work began; `None` while the thread waits for some.
    since: Option<Instant>,
    /// How long the work before it took.
    last: Duration,
}

impl Progress {
    /// A piece of work begins; the current one, if there is one, has ended.
    pub(super) fn begin(&self) {
        self.end();
        locked(&self.0).since = Some(Instant::now());
    }

    /// The current work has ended.
    pub(super) fn end(&self) {
        let mut work = locked(&self.0);
        if let Some(since) = work.since.take() {
            work.last = since.elapsed();
        }
    }

    /// True if the work before took so long that the disk is to be checked again soon.
    pub(super) fn was_slow(&self) -> bool {
        locked(&self.0).last >= QUICK
    }

    /// When the current work began, if that was at least `limit` ago.
    fn stuck(&self, now: Instant, limit: Duration) -> Option<Instant> {
        let since = locked(&self.0).since;
        since.filter(|since| now.saturating_duration_since(*since) >= limit)
    }
}

/// The threads whose progress is the store's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Threads<'a> {
    pub(super) writer: &'a Progress,
    pub(super) reader: &'a Progress,
}

/// A state of the store that is to be reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StallChange {
    /// What is blocked; `None` at the end of a stall.
    pub(super) stall: Option<Stall>,
    /// How long the store has made no progress, or had made none when it ended.
    pub(super) lasts: Duration,
}

/// The last reported state of the store.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Since when it has made no progress, and what that blocks; `None` while it does.
    stalled: Option<(Instant, Stall)>,
}

impl Watch {
    /// Checks the threads that write and read. Returns what is to be reported now, if anything.
    pub(super) fn look(
        &mut self,
        now: Instant,
        Threads { writer, reader }: Threads<'_>,
    ) -> Option<StallChange> {
        let before = self.stalled;
        let blocked = |stall: Stall| before.is_some_and(|(_, known)| known >= stall);
        // A disk that takes seconds for each sync is not healthy in between.
        let limit = |stall| if blocked(stall) { QUICK } else { STALLED_AFTER };
        let slow = blocked(Stall::Writes) && writer.was_slow();
        let writes = writer.stuck(now, limit(Stall::Writes)).or(slow.then_some(now));
        let reads = reader.stuck(now, limit(Stall::All));
        let stall = match (writes, reads) {
            (_, Some(_)) => Some(Stall::All),
            (Some(_), None) => Some(Stall::Writes),
            (None, None) => None,
        };
        let begun = [writes, reads].into_iter().flatten().min().unwrap_or(now);
        let since = before.map_or(begun, |(since, _)| since);
        self.stalled = stall.map(|stall| (since, stall));
        let changed = before.map(|(_, stall)| stall) != stall;
        changed.then(|| StallChange { stall, lasts: now.saturating_duration_since(since) })
    }

    /// How long the store has made no progress; `None` while it does.
    pub(super) fn lasts(&self, now: Instant) -> Option<Duration> {
        self.stalled.map(|(since, _)| now.saturating_duration_since(since))
    }
}

/// The duration in rounded words, so that a text with it rarely changes.
pub(super) fn about(lasts: Duration) -> String {
    match lasts.as_secs() {
        seconds @ ..10 => format!("more than {} s", seconds.clamp(1, STALLED_AFTER.as_secs())),
        seconds @ 10..60 => format!("more than {} s", seconds / 10 * 10),
        seconds => format!("more than {} min", seconds / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both<'a>(writer: &'a Progress, reader: &'a Progress) -> Threads<'a> {
        Threads { writer, reader }
    }

    fn at(since: Option<Instant>, last: u64) -> Progress {
        Progress(Mutex::new(Work { since, last: Duration::from_millis(last) }))
    }

    #[test]
    fn a_stall_begins_after_two_seconds_and_ends_when_the_disk_is_quick_again() {
        let begun = Instant::now();
        let later = |ms| begun + Duration::from_millis(ms);
        let (idle, mut watch) = (at(None, 0), Watch::default());
        let busy = at(Some(begun), 0);
        assert_eq!(watch.look(later(1_999), both(&busy, &idle)), None);
        let writes =
            |s| Some(StallChange { stall: Some(Stall::Writes), lasts: Duration::from_secs(s) });
        assert_eq!(watch.look(later(2_000), both(&busy, &idle)), writes(2));
        assert_eq!(watch.look(later(2_500), both(&busy, &idle)), None, "nothing new");
        assert_eq!(watch.lasts(later(2_500)), Some(Duration::from_millis(2_500)));
        // It has ended, and was slow: what follows shows whether the disk is well.
        assert_eq!(watch.look(later(3_000), both(&at(None, 3_000), &idle)), None);
        assert_eq!(watch.look(later(3_600), both(&at(Some(later(3_500)), 3_000), &idle)), None);
        let over = watch.look(later(4_000), both(&at(None, 10), &idle));
        assert_eq!(over, Some(StallChange { stall: None, lasts: Duration::from_secs(4) }));
        assert_eq!(watch.lasts(later(4_000)), None);
    }

    #[test]
    fn a_reader_that_hangs_holds_up_everything_until_it_has_answered() {
        let begun = Instant::now();
        let later = |ms| begun + Duration::from_millis(ms);
        let (idle, mut watch) = (at(None, 0), Watch::default());
        let reads = at(Some(begun), 0);
        let reported = watch.look(later(2_100), both(&idle, &reads)).map(|change| change.stall);
        assert_eq!(reported, Some(Some(Stall::All)));
        let writes = at(Some(begun), 0);
        let reported = watch.look(later(2_200), both(&writes, &at(None, 2_200)));
        assert_eq!(reported.map(|change| change.stall), Some(Some(Stall::Writes)));
        assert!(watch.look(later(2_300), both(&at(None, 1), &at(None, 2_200))).is_some());
    }
}
