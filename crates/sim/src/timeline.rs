//! Virtual time and the events scheduled in it.

use std::collections::BTreeMap;

use pixii_core::types::Time;

/// Events by their time, and among those of one time in the order in which they were scheduled.
#[derive(Clone, Debug)]
pub(super) struct Timeline<E> {
    now: Time,
    events: BTreeMap<(Time, u64), E>,
    sequence: u64,
}

impl<E> Default for Timeline<E> {
    fn default() -> Self {
        Timeline { now: Time::START, events: BTreeMap::new(), sequence: 0 }
    }
}

impl<E> Timeline<E> {
    /// The virtual time, the time of the event that was taken last; it never goes back.
    pub(super) fn now(&self) -> Time {
        self.now
    }

    /// Schedules an event at a time, or now if that time has passed.
    pub(super) fn schedule(&mut self, at: Time, event: E) {
        self.sequence += 1;
        self.events.insert((at.max(self.now), self.sequence), event);
    }

    /// Number of events scheduled so far.
    pub(super) fn scheduled(&self) -> u64 {
        self.sequence
    }

    /// Takes the next event and advances the time to it; `None` if no event is left.
    pub(super) fn pop(&mut self) -> Option<E> {
        let ((at, _), event) = self.events.pop_first()?;
        self.now = at;
        Some(event)
    }

    /// Takes the next event that is due by `end`, and advances the time to it, or to `end` if there
    /// is none.
    pub(super) fn next(&mut self, end: Time) -> Option<E> {
        if self.events.first_key_value().is_some_and(|((at, _), _)| *at <= end) {
            return self.pop();
        }
        self.now = self.now.max(end);
        None
    }
}
