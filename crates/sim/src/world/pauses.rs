//! The hosts' clocks, and what comes to a host while it is paused.

use pixii_core::types::{Micros, Time};

use super::{Event, Host, World};

impl Event {
    /// The host that has to run for this event; `None` if none has to.
    pub(super) fn handled_by(&self) -> Option<usize> {
        match self {
            Event::Peer { to: at, .. }
            | Event::ToHost { to: at, .. }
            | Event::GiveUp { to: at, .. }
            | Event::Link { at, .. }
            | Event::Wake { at, .. }
            | Event::Stall { at, .. }
            | Event::Resume { at }
            | Event::Stop { at, .. }
            | Event::Disk { at, .. } => Some(*at),
            _ => None,
        }
    }
}

impl World {
    /// The initial value of the host's clock, and its speed in thousandths.
    pub(super) fn pace(&self, at: usize) -> (Micros, u64) {
        self.plan.clocks.get(at).copied().unwrap_or((Micros::ZERO, 1_000))
    }

    /// The present reading of the host's own clock.
    pub(super) fn clock(&self, at: usize) -> Time {
        let (offset, rate) = self.pace(at);
        Time::START + offset + (self.now() - Time::START) * rate / 1_000
    }

    /// Keeps an event for the end of a host's pause. They keep their order when a later pause
    /// extends it: a link that came up must not go down afterwards.
    pub(super) fn hold(&mut self, at: usize, event: Event) {
        let Host { paused_until, held, .. } = &mut self.hosts[at];
        let (until, is_first) = (*paused_until, held.is_empty());
        held.push_back(event);
        if is_first {
            self.schedule(until, Event::Continue { at });
        }
    }

    /// A host finds what came while it was paused, unless it is paused again.
    pub(super) fn go_on(&mut self, at: usize) {
        let until = self.hosts[at].paused_until;
        if until > self.now() {
            return self.schedule(until, Event::Continue { at });
        }
        for event in std::mem::take(&mut self.hosts[at].held) {
            self.step(event);
        }
    }
}
