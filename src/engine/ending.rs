//! How an incarnation ends: what is in progress is finished, replies leave, and then the store is
//! closed.

use std::time::{Duration, Instant};

use pixii_core::node::Input;
use sd_notify::NotifyState;
use tokio::time::timeout_at;
use tracing::info;

use super::{Engine, event_log, notifier};
use crate::net::Event;

/// At a stop, requests in progress have this long to finish.
const FINISH: Duration = Duration::from_secs(5);
/// Where another incarnation follows they have this long: their clients try again elsewhere.
pub(super) const FINISH_BEFORE_NEXT: Duration = Duration::from_millis(300);
/// A node that is to make its store anew waits so long for each one before it in the ring,
const REBUILD_STAGGER: Duration = Duration::from_millis(1_500);
/// and so long for members that are away.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Then their replies have this long to leave.
const FLUSH: Duration = Duration::from_secs(1);

/// Why an incarnation ends.
#[derive(Debug)]
pub(super) enum Ending {
    /// The daemon stops.
    Stop,
    /// Another incarnation follows, with a later ring.
    BeginIncarnation,
    /// The store is to be made anew.
    Rebuild,
    /// An operator has removed the node, as a peer says.
    Removed(String),
    /// Another daemon is this node, as a peer says.
    Duplicate(String),
}

impl Engine<'_> {
    pub(super) fn may_stop(&self) -> bool {
        self.finish_by.is_none()
            || matches!(self.ending, Ending::BeginIncarnation | Ending::Rebuild)
    }

    /// The daemon is to stop.
    pub(super) fn stop(&mut self, why: &str) {
        if self.may_stop() {
            info!("node {} stops: {why}", self.config.name);
            notifier::notify(&NotifyState::Stopping);
            self.notifier.look_again();
            self.ending = Ending::Stop;
            self.begin_end(FINISH);
        }
    }

    /// What is on the disk is not what was written there.
    pub(super) fn damaged(&mut self, what: &str) {
        event_log::report_damage(&self.config.name, what);
        self.damaged.get_or_insert_with(Instant::now);
        self.notifier.look_again();
    }

    /// Ends this incarnation for a store that is to be made anew, when the other members can be
    /// reached: one node at a time, as far as they find it at different times. A member that is
    /// away is not waited for for ever.
    pub(super) fn consider_rebuilding(&mut self) {
        let Some(since) = self.damaged.filter(|_| self.finish_by.is_none()) else { return };
        let place = self.ring.members().iter().position(|member| member.id == self.config.me());
        let turn = REBUILD_STAGGER * place.unwrap_or(0) as u32;
        let all_linked = self.hub.peers.values().all(|peer| peer.outbox.is_open());
        let waited = since.elapsed();
        if (waited >= turn && all_linked) || waited >= turn + TIMEOUT {
            self.ending = Ending::Rebuild;
            self.begin_end(FINISH_BEFORE_NEXT);
        }
    }

    /// From now on nobody new is let in, and no request is taken; those in progress have so long.
    pub(super) fn begin_end(&mut self, timeout: Duration) {
        self.finish_by.get_or_insert(Instant::now() + timeout);
        self.input(Input::Drain(true));
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
        }
    }

    pub(super) fn is_finished(&self) -> bool {
        let over = |deadline| self.node.is_idle() || Instant::now() >= deadline;
        self.finish_by.is_some_and(over)
    }

    /// Notifies every connection to end when its outbox is empty; false when all have ended.
    fn finish_connections(&self) -> bool {
        self.clients.values().for_each(|client| client.outbox.finish());
        !self.clients.is_empty() || self.hub.peers.values().any(|peer| peer.outbox.is_open())
    }

    /// Lets replies and messages leave, as far as they do in time.
    pub(super) async fn flush(&mut self) {
        let deadline = Instant::now() + FLUSH;
        self.hub.set_apart(true);
        while self.finish_connections() {
            // Each connection that ends is an event.
            match timeout_at(deadline.into(), self.events.recv()).await {
                Ok(Some(Event::Left { client })) => drop(self.clients.remove(&client)),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }
}
