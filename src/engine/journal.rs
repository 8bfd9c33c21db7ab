//! What an operator would ask about, in words.

use std::time::Duration;

use tracing::{error, info, warn};

use crate::config::Config;
use crate::members::{Members, Opinion};
use crate::node::Notice;

/// A sync that takes longer than this is told of: clients wait for it.
const SLOW: Duration = Duration::from_secs(1);

/// Logs a slow write of the disk.
pub(super) fn tell_sync(changes: usize, took: Duration) {
    if took > SLOW {
        let ms = took.as_millis();
        warn!("the disk took {ms} ms to write and sync {changes} changes");
    }
}

/// Logs what the node decided about itself: a line per decision.
pub(super) fn tell(notice: Notice, config: &Config, members: &Members) {
    let peer = |id| members.name(id);
    let name = &config.name;
    match notice {
        Notice::Founded => info!("a new cluster {} is founded", config.cluster),
        Notice::Reborn => warn!(
            "the cluster knows node {name} with another store: its disk was lost, and what it does \
             not find does not count"
        ),
        Notice::Outdated(witness) => warn!(
            "peer {} has seen a later life of this store: the disk was rolled back or copied; node \
             {name} goes on under a new store id, and what it does not find does not count",
            peer(witness)
        ),
        Notice::Copied(witness) => error!(
            "peer {} has seen a later life of node {name}: its disk was rolled back, or a copy of it \
             runs elsewhere; it goes on under a new store id, and what it does not find does not count",
            peer(witness)
        ),
        Notice::Alone => {
            warn!("no peer answers: node {name} serves under a new store id");
        }
        Notice::Foreign(other) => error!(
            "peer {} belongs to another cluster {}: nothing is exchanged with it",
            peer(other),
            config.cluster
        ),
        Notice::Settled => info!("node {name} serves"),
        Notice::Opined(other, Opinion::Up) => info!("peer {} is heard again", peer(other)),
        Notice::Opined(other, Opinion::Suspect) => {
            info!("peer {} has been silent for surprisingly long", peer(other));
        }
        Notice::Opined(other, Opinion::Down) => {
            warn!("peer {} is believed to be down: stand-ins take its place", peer(other));
        }
        Notice::HandoffBegun(other, hints) => {
            info!("peer {} is back: it is offered {hints} hints", peer(other));
        }
        Notice::HandoffDone(other) => info!("peer {} has all that was kept for it", peer(other)),
        Notice::Misplaced(other) => error!(
            "peer {} tells of a later ring with another n or other partitions: node {name} does not take it",
            peer(other)
        ),
        Notice::Forged(other) => error!(
            "peer {} tells of a life of node {name} that cannot have been: not believed",
            peer(other)
        ),
    }
}
