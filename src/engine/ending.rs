//! How an incarnation ends: requests in progress are finished, replies leave, and then the store is
//! closed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pixii_core::members::{Members, MembershipStatus};
use pixii_core::node::Input;
use pixii_core::ring::Ring;
use sd_notify::NotifyState;
use tokio::time::timeout_at;
use tracing::info;

use super::{Engine, event_log, notifier};
use crate::net::Event;

/// Time for requests in progress at a stop.
const FINISH: Duration = Duration::from_secs(5);
/// Time for requests in progress where another incarnation follows: clients retry elsewhere.
const FINISH_BEFORE_NEXT: Duration = Duration::from_millis(300);
/// A node that has to make its store anew waits this long for each member before it in the ring.
const REBUILD_STAGGER: Duration = Duration::from_millis(1_500);
/// Most time that such a node waits for members that are away.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Time for replies to leave after that.
const FLUSH: Duration = Duration::from_secs(1);

/// Why an incarnation ends.
#[derive(Debug)]
pub(super) enum Ending {
    /// The daemon stops, by a signal or a client's call.
    Stop,
    /// The store is damaged and has to be made anew.
    Rebuild,
    /// An operator has removed the node; a peer reports it with this reason.
    Removed(String),
    /// Another daemon runs as this node; a peer reports it with this reason.
    Duplicate(String),
}

impl Engine<'_> {
    pub(super) fn may_stop(&self) -> bool {
        self.finish_by.is_none() || matches!(self.ending, Ending::Rebuild)
    }

    /// Begins a stop for this reason, which is logged.
    pub(super) fn stop(&mut self, why: &str) {
        if self.may_stop() {
            info!("node {} stops: {why}", self.config.name);
            notifier::notify(&NotifyState::Stopping);
            self.notifier.look_again();
            self.ending = Ending::Stop;
            self.begin_end(FINISH);
        }
    }

    /// Takes note that the store does not hold what was written to it.
    pub(super) fn damaged(&mut self, what: &str) {
        event_log::report_damage(&self.config.name, what);
        self.damaged.get_or_insert_with(Instant::now);
        self.notifier.look_again();
    }

    /// Ends this incarnation so that the store can be made anew, when the other members can be
    /// reached. The waits differ by node, so that mostly one node is away at a time. A member that
    /// is away is waited for no longer than [`TIMEOUT`].
    pub(super) fn consider_rebuilding(&mut self) {
        let Some(since) = self.damaged.filter(|_| self.finish_by.is_none()) else { return };
        let place = self.ring.members().iter().position(|member| member.id == self.config.me());
        let turn = REBUILD_STAGGER * place.unwrap_or(0) as u32;
        let peers = self.hub.peers();
        let all_linked = peers.values().all(|peer| peer.outbox.is_open());
        let waited = since.elapsed();
        if (waited >= turn && all_linked) || waited >= turn + TIMEOUT {
            self.ending = Ending::Rebuild;
            self.begin_end(FINISH_BEFORE_NEXT);
        }
    }

    /// Another ring is in force.
    pub(super) fn take_ring(&mut self, ring: Arc<Ring>, members: &Members) {
        event_log::report_ring(&self.config.name, &ring, &self.hub.log);
        self.notifier.look_again();
        self.ring = ring;
        self.learn(members);
    }

    /// Members have come, or are removed: connections with them begin and end. A node that has left
    /// the cluster ends.
    pub(super) fn learn(&mut self, members: &Members) {
        let gone = self.hub.learn(members, self.ring.id());
        self.hub.dial(&mut self.rng);
        for peer in gone {
            self.input(Input::Link { peer, up: false });
        }
        let own = members.get(self.config.me());
        if own.is_some_and(|own| own.membership == MembershipStatus::Removed) {
            let name = &self.config.name;
            self.ending = Ending::Removed(format!("node {name} has left the cluster"));
            self.begin_end(FINISH);
        }
    }

    /// Closes the node to new connections and requests; those in progress have this long to finish.
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

    /// Orders every connection to end when its outbox is empty. Returns false when all have ended.
    fn finish_connections(&self) -> bool {
        self.clients.values().for_each(|client| client.outbox.finish());
        !self.clients.is_empty() || self.hub.peers().values().any(|peer| peer.outbox.is_open())
    }

    /// Lets queued replies and messages leave, for at most [`FLUSH`].
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
