//! Draining a node before maintenance: it finishes its requests, delivers the hints that it keeps,
//! and closes its links. Its peers then use fallbacks.

use std::time::{Duration, Instant};

use pixii_core::members::Liveness;
use pixii_core::message::{DrainOrder, DrainRejection, DrainReport, DrainState, KeptHints};
use pixii_core::node::Input;
use pixii_core::types::MAX_TIMEOUT_MS;
use pixii_transport::limited;

use super::Engine;

/// The progress of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drain {
    /// The node is not drained and takes requests.
    No,
    /// It takes no requests, and waits until its work is done, at most until this instant.
    Until(Instant),
    /// Its links are closed; it stays so until the operator ends the drain.
    Done,
}

impl Engine<'_> {
    /// Carries out an order, and returns the state of the drain afterwards.
    pub(super) fn order_drain(&mut self, order: DrainOrder) -> Result<DrainReport, DrainRejection> {
        let name = &self.config.name;
        match order {
            DrainOrder::Show => {}
            DrainOrder::Begin { timeout_ms } => {
                if timeout_ms > MAX_TIMEOUT_MS {
                    return Err(DrainRejection::Timeout { timeout_ms });
                }
                if self.finish_by.is_some() {
                    return Err(DrainRejection::Stopping { node: name.clone() });
                }
                if self.runtime_config.drain == Drain::No {
                    let permit = self.hub.log.several("drain", "");
                    limited!(
                        permit,
                        info,
                        [],
                        "node {name} is drained: it takes no requests from now on"
                    );
                    let timeout = Duration::from_millis(timeout_ms.into());
                    self.runtime_config.drain = Drain::Until(Instant::now() + timeout);
                    self.input(Input::Drain(true));
                }
            }
            DrainOrder::End => {
                if self.runtime_config.drain != Drain::No && self.finish_by.is_none() {
                    let permit = self.hub.log.several("drain", "");
                    limited!(permit, info, [], "node {name} takes requests again");
                    self.runtime_config.drain = Drain::No;
                    self.hub.set_apart(false);
                    self.input(Input::Drain(false));
                }
            }
        }
        self.notifier.look_again();
        Ok(self.drain_report())
    }

    /// Continues a drain that an earlier incarnation of this process began.
    pub(super) fn take_up_drain(&mut self) {
        if self.runtime_config.drain != Drain::No {
            self.hub.set_apart(self.runtime_config.drain == Drain::Done);
            self.input(Input::Drain(true));
        }
    }

    /// Closes the links when the requests are finished and no hint can be delivered, or at the
    /// deadline.
    pub(super) fn go_on_draining(&mut self) {
        let Drain::Until(end) = self.runtime_config.drain else { return };
        let report = self.drain_report();
        let deliverable = report.hints.iter().any(|hints| hints.reachable);
        if Instant::now() < end && (report.requests > 0 || deliverable) {
            return;
        }
        self.runtime_config.drain = Drain::Done;
        self.notifier.look_again();
        self.hub.set_apart(true);
        let left: u64 = report.hints.iter().map(|hints| hints.count).sum();
        let (permit, name) = (self.hub.log.several("drain", ""), report.name);
        limited!(
            permit,
            info,
            [],
            "node {name} is drained: {left} hints stay with it, its links are closed"
        );
    }

    /// The state of the drain, and the requests and hints that are left.
    pub(super) fn drain_report(&self) -> DrainReport {
        let now = self.now();
        let peers = self.hub.peers();
        let kept = peers.values().filter_map(|peer| {
            let view = self.node.peer_view(now, peer.id);
            let reachable = peer.outbox.is_open() && view.liveness != Liveness::Down;
            let (count, bytes) = (view.hints.count, view.hints.bytes);
            (count > 0).then(|| KeptHints { name: peer.name.clone(), count, bytes, reachable })
        });
        DrainReport {
            name: self.config.name.clone(),
            state: match self.runtime_config.drain {
                Drain::No => DrainState::Serving,
                Drain::Until(_) => DrainState::Draining,
                Drain::Done => DrainState::Drained,
            },
            requests: self.node.requests() as u64,
            hints: kept.collect(),
        }
    }
}
