//! What an operator would ask about, in words.

use tracing::{error, info, warn};

use crate::config::Config;
use crate::members::{Members, Opinion};
use crate::message::StatusReport;
use crate::node::Notice;

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

/// Logs an account of the node: what it does, its peers, and what it has counted.
pub(super) fn tell_account(status: &StatusReport) {
    let StatusReport { name, cluster, incarnation, uptime_ms, partitions, disk_bytes, .. } = status;
    let serving = if status.serving { "serves" } else { "does not serve" };
    info!(
        "node {name} of cluster {cluster} {serving}: incarnation {incarnation}, up for {uptime_ms} ms, {partitions} \
         partitions, {} without authority, {} unread, {disk_bytes} bytes on disk",
        status.without_authority, status.repair.unread,
    );
    for peer in &status.peers {
        let link = if peer.up { "linked" } else { "not linked" };
        info!(
            "node {name} on peer {} at {}: {link}, {:?}, {} hints of {} bytes, {} of {} partitions equal, {} messages \
             dropped",
            peer.name,
            peer.address,
            peer.opinion,
            peer.hints,
            peer.hint_bytes,
            peer.repair.equal,
            peer.repair.shared,
            peer.dropped,
        );
    }
    let counted = status.counters.iter().filter(|(_, count)| *count > 0);
    let counted: Vec<String> = counted.map(|(what, count)| format!("{what} {count}")).collect();
    info!("node {name} has counted: {}", counted.join(", "));
}
