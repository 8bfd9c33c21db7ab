//! How much of the node's time the collection has while clients wait for it.

use crate::node::effects::Effects;
use crate::types::{Micros, Time};

/// While clients wait, a step is followed by a pause of so many times what it took: the steps of
/// the own rounds have a twentieth of the node's time then,
const REST_PER_STEP: u64 = 19;
/// within these bounds: it goes on under lasting load, too.
const LEAST_REST: Micros = Micros::from_millis(20);
const MOST_REST: Micros = Micros::from_millis(1_000);

/// When the next step of a round may be taken beside clients: a page to be read, or a round to be
/// begun.
#[derive(Clone, Debug, Default)]
pub(super) struct Pace {
    rest_until: Time,
}

impl Pace {
    /// A step has ended that began at `since`.
    pub(super) fn worked(&mut self, now: Time, since: Time) {
        let took = now.saturating_since(since);
        self.rest_until = now + (REST_PER_STEP * took).clamp(LEAST_REST, MOST_REST);
    }

    /// True if clients wait, and the next step has to wait for them.
    pub(super) fn rests(&self, now: Time, fx: &Effects) -> bool {
        fx.local.is_busy() && now < self.rest_until
    }

    /// When the next step may be taken, whatever clients do.
    pub(super) fn rest_until(&self) -> Time {
        self.rest_until
    }
}
