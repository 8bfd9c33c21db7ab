//! How much of the node's time the tombstone GC has while clients wait for it.

use crate::node::io::Io;
use crate::types::{Micros, Time};

/// While clients wait, a step is followed by a pause of so many times what it took: the steps of
/// the own rounds have a twentieth of the node's time then,
const PAUSE_PER_STEP: u64 = 19;
/// within these bounds: it goes on under lasting load, too.
const MIN_PAUSE: Micros = Micros::from_millis(20);
const MAX_PAUSE: Micros = Micros::from_millis(1_000);

/// When the next step of a round may be taken beside clients: a page to be read, or a round to be
/// begun.
#[derive(Clone, Debug, Default)]
pub(super) struct Pace {
    paused_until: Time,
}

impl Pace {
    /// A step has ended that began at `since`.
    pub(super) fn worked(&mut self, now: Time, since: Time) {
        let took = now.saturating_since(since);
        self.paused_until = now + (PAUSE_PER_STEP * took).clamp(MIN_PAUSE, MAX_PAUSE);
    }

    /// True if clients wait, and the next step has to wait for them.
    pub(super) fn pauses(&self, now: Time, io: &Io) -> bool {
        io.local.is_busy() && now < self.paused_until
    }

    /// When the next step may be taken, whatever clients do.
    pub(super) fn paused_until(&self) -> Time {
        self.paused_until
    }
}
