//! How much of the node's time the collection has while clients wait for it.

use crate::node::effects::Effects;
use crate::types::{MILLI, Micros};

/// While clients wait, a step is followed by a pause of so many times what it took: the steps of
/// the own rounds have a twentieth of the node's time then,
const REST_PER_STEP: Micros = 19;
/// within these bounds: it goes on under lasting load, too.
const LEAST_REST: Micros = 20 * MILLI;
const MOST_REST: Micros = 1_000 * MILLI;

/// When the next step of a round may be taken beside clients: a page to be read, or a round to be
/// begun.
#[derive(Clone, Debug, Default)]
pub(super) struct Pace {
    rest_until: Micros,
}

impl Pace {
    /// A step has ended that began at `since`.
    pub(super) fn worked(&mut self, now: Micros, since: Micros) {
        let took = now.saturating_sub(since);
        self.rest_until = now + (REST_PER_STEP * took).clamp(LEAST_REST, MOST_REST);
    }

    /// True if clients wait, and the next step has to wait for them.
    pub(super) fn rests(&self, now: Micros, fx: &Effects) -> bool {
        fx.local.is_busy() && now < self.rest_until
    }

    /// When the next step may be taken, whatever clients do.
    pub(super) fn rest_until(&self) -> Micros {
        self.rest_until
    }
}
