//! How a life ends: what is under way is finished, replies leave, and then the store is closed.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tokio::time::timeout_at;
use tracing::info;

use super::{Engine, manager};
use crate::net::Event;
use crate::node::Input;

/// At a stop, requests under way have this long to finish.
const FINISH: Duration = Duration::from_secs(5);
/// Where another life follows they have this long: their clients try again elsewhere.
pub(super) const FINISH_BEFORE_NEXT: Duration = Duration::from_millis(300);
/// Then their replies have this long to leave.
const FLUSH: Duration = Duration::from_secs(1);

/// Why a life ends.
#[derive(Debug)]
pub(super) enum Ending {
    /// The daemon stops.
    Stop,
    /// Another life follows, with a later ring.
    Relive,
    /// An operator has removed the node, as a peer says.
    Removed(String),
    /// Another daemon is this node, as a peer says.
    Duplicate(String),
}

impl Engine<'_> {
    pub(super) fn may_stop(&self) -> bool {
        self.finish_by.is_none() || matches!(self.ending, Ending::Relive)
    }

    /// The daemon is to stop.
    pub(super) fn stop(&mut self, why: &str) {
        if self.may_stop() {
            info!("node {} stops: {why}", self.config.name);
            manager::notify(&NotifyState::Stopping);
            self.manager.look_again();
            self.ending = Ending::Stop;
            self.begin_end(FINISH);
        }
    }

    /// From now on nobody new is let in, and no request is taken; those under way have so long.
    pub(super) fn begin_end(&mut self, patience: Duration) {
        self.finish_by.get_or_insert(Instant::now() + patience);
        self.input(Input::Drain(true));
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
        }
    }

    pub(super) fn is_finished(&self) -> bool {
        let over = |deadline| self.node.is_idle() || Instant::now() >= deadline;
        self.finish_by.is_some_and(over)
    }

    /// Tells every connection to end when its outbox is empty; false when all have ended.
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
