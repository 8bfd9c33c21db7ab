//! Virtual time, and what is to come in it.

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
    /// The virtual time.
    pub(super) fn now(&self) -> Time {
        self.now
    }

    /// Puts an event at a time; one that has passed is now.
    pub(super) fn schedule(&mut self, at: Time, event: E) {
        self.sequence += 1;
        self.events.insert((at.max(self.now), self.sequence), event);
    }

    /// How many events have been scheduled so far.
    pub(super) fn scheduled(&self) -> u64 {
        self.sequence
    }

    /// The next event, at whose time it is then.
    pub(super) fn pop(&mut self) -> Option<E> {
        let ((at, _), event) = self.events.pop_first()?;
        self.now = at;
        Some(event)
    }

    /// The next event that is due by `end`, at whose time it is then; with none it is `end`.
    pub(super) fn next(&mut self, end: Time) -> Option<E> {
        if self.events.first_key_value().is_some_and(|((at, _), _)| *at <= end) {
            return self.pop();
        }
        self.now = self.now.max(end);
        None
    }
}
