//! Virtual time, and what is to come in it.

use std::collections::BTreeMap;

use crate::types::Micros;

/// Events by their time, and among those of one time in the order in which they were scheduled.
#[derive(Clone, Debug)]
pub(super) struct Timeline<E> {
    now: Micros,
    events: BTreeMap<(Micros, u64), E>,
    sequence: u64,
}

impl<E> Default for Timeline<E> {
    fn default() -> Self {
        Timeline { now: 0, events: BTreeMap::new(), sequence: 0 }
    }
}

impl<E> Timeline<E> {
    /// The virtual time, in microseconds.
    pub(super) fn now(&self) -> Micros {
        self.now
    }

    /// Puts an event at a time; one that has passed is now.
    pub(super) fn schedule(&mut self, at: Micros, event: E) {
        self.sequence += 1;
        self.events.insert((at.max(self.now), self.sequence), event);
    }

    /// The next event that is due by `end`, at whose time it is then; with none it is `end`.
    pub(super) fn next(&mut self, end: Micros) -> Option<E> {
        match self.events.first_entry() {
            Some(first) if first.key().0 <= end => {
                self.now = first.key().0;
                Some(first.remove())
            }
            _ => {
                self.now = self.now.max(end);
                None
            }
        }
    }
}
