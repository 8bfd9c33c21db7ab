//! What an operator would ask about: a line per decision, in words, with the same as fields for machines.

use std::time::Duration;

use tracing::{error, info, warn};

use crate::config::Config;
use crate::members::{Members, Opinion};
use crate::metrics::Account;
use crate::node::{Notice, Oversize, Shortage, Stall};
use crate::types::{MILLI, Micros};

/// A sync that takes longer than this is told of: clients wait for it.
const SLOW: Duration = Duration::from_secs(1);

/// Logs a write of the disk that was slow.
pub(super) fn tell_sync(changes: usize, took: Duration) {
    if took > SLOW {
        let ms = took.as_millis() as u64;
        warn!(
            event = "slow_sync",
            ms, changes, "the disk took {ms} ms to write and sync {changes} changes"
        );
    }
}

/// Logs that a node has run short of disk space; `None`: it has room again.
pub(super) fn tell_space(name: &str, shortage: Option<Shortage>) {
    match shortage {
        Some(Shortage { free_bytes, reserve_bytes }) => warn!(
            event = "disk_short",
            free_bytes,
            reserve_bytes,
            "node {name} refuses writes: its disk has {free_bytes} bytes left and keeps {reserve_bytes} in reserve"
        ),
        None => {
            info!(event = "disk_room", "node {name} takes writes again: its disk has room");
        }
    }
}

/// Logs that the disk of a node makes no progress, or does again after so long.
pub(super) fn tell_stall(name: &str, stall: Option<Stall>, lasts: Duration) {
    let ms = lasts.as_millis() as u64;
    let Some(stall) = stall else {
        info!(
            event = "disk_resumed",
            ms, "the disk of node {name} works again: it made no progress for {ms} ms"
        );
        return;
    };
    let what = match stall {
        Stall::Writes => "writes and listings",
        Stall::All => "every request that needs it",
    };
    warn!(
        event = "disk_stalled",
        ms,
        "the disk of node {name} has made no progress for {ms} ms: the node refuses {what}, \
         and other nodes take its place, until the disk works again"
    );
}

/// Logs what the node decided.
pub(super) fn tell(notice: Notice, config: &Config, members: &Members) {
    let name = &config.name;
    match notice {
        Notice::Founded => {
            info!(event = "founded", "a new cluster {} is founded", config.cluster);
        }
        Notice::Reborn => warn!(
            event = "disk_lost",
            "the cluster does not know this store of node {name}: it is a new member's, or the disk was lost; what it \
             does not find does not count until it has all from the other homes"
        ),
        Notice::Alone => {
            warn!(event = "alone", "no peer answers: node {name} serves under a new store id");
        }
        Notice::Settled => info!(event = "serves", "node {name} serves"),
        Notice::Recovered => info!(
            event = "recovered",
            "node {name} has all that it had lost: what it does not find counts again"
        ),
        Notice::Damaged(partition) => warn!(
            event = "record_damaged",
            partition = partition.0,
            "a record of partition {} fails its checksum: it is fetched from the other homes",
            partition.0
        ),
        Notice::Declined(oversize) => tell_declined(&oversize),
        Notice::Lost(partitions) => warn!(
            event = "writes_lost",
            partitions,
            "node {name} has lost its disk, and is the only owner of {partitions} partitions: writes that were \
             acknowledged may be missing, and no other node has them; reads of these partitions are refused until \
             `pixii repair --node {name} --accept-loss`"
        ),
        Notice::LossAccepted(partitions) => warn!(
            event = "loss_accepted",
            partitions,
            "an operator has accepted that acknowledged writes of {partitions} partitions are gone: node {name} answers \
             reads of them with what it has"
        ),
        Notice::Awaited(peer)
        | Notice::Outdated(peer)
        | Notice::Copied(peer)
        | Notice::Foreign(peer, _)
        | Notice::Opined(peer, ..)
        | Notice::HandoffBegun(peer, _)
        | Notice::HandoffDone(peer)
        | Notice::Repaired(_, peer, ..)
        | Notice::RepairFailed(_, peer)
        | Notice::Misplaced(peer)
        | Notice::Forged(peer) => tell_of_peer(notice, &members.name(peer), config),
    }
}

/// Logs that a key would have outgrown a limit.
fn tell_declined(Oversize { key, hint, bytes, limit }: &Oversize) {
    let what = if *hint { "a hint" } else { "a merge" };
    let rest = if *hint { "; the node that keeps it goes on keeping it" } else { "" };
    warn!(
        event = "oversized_key",
        key = %key.as_bytes().escape_ascii(),
        bytes,
        limit,
        "{what} of the key {key:?} was declined: it would have {bytes} bytes in all its siblings, and the limit is \
         {limit}{rest}; read the key and write it with the context of the read, or delete it"
    );
}

/// Logs what concerns a `peer`.
fn tell_of_peer(notice: Notice, peer: &str, config: &Config) {
    let name = &config.name;
    match notice {
        Notice::Awaited(_) => warn!(
            event = "awaited",
            peer,
            "node {name} waits for {peer}: a new cluster is founded when all of its members have answered, or, by \
             `pixii server --bootstrap`, by those that have"
        ),
        Notice::Outdated(_) => warn!(
            event = "disk_rolled_back",
            peer,
            "peer {peer} has seen a later life of this store: the disk was rolled back or copied; node \
             {name} goes on under a new store id, and what it does not find does not count"
        ),
        Notice::Copied(_) => error!(
            event = "disk_copied",
            peer,
            "peer {peer} has seen a later life of node {name}: its disk was rolled back, or a copy of it \
             runs elsewhere; it goes on under a new store id, and what it does not find does not count"
        ),
        Notice::Foreign(_, [ours, theirs]) => error!(
            event = "foreign_peer",
            peer,
            "{}: nothing is exchanged with it",
            foreign(peer, &config.cluster, ours, theirs)
        ),
        Notice::Opined(_, opinion, silence) => tell_opinion(peer, opinion, silence),
        Notice::HandoffBegun(_, hints) => info!(
            event = "handoff_begun",
            peer, hints, "peer {peer} is back: it is offered {hints} hints"
        ),
        Notice::HandoffDone(_) => {
            info!(event = "handoff_done", peer, "peer {peer} has all that was kept for it");
        }
        Notice::Repaired(partition, _, pulled, pushed) => info!(
            event = "repaired",
            peer,
            partition = partition.0,
            pulled,
            pushed,
            "partition {} differed from that of peer {peer}: {pulled} objects came, {pushed} went",
            partition.0
        ),
        Notice::RepairFailed(partition, _) => info!(
            event = "repair_failed",
            peer,
            partition = partition.0,
            "partition {} could not be compared with that of peer {peer}: it is tried again",
            partition.0
        ),
        Notice::Misplaced(_) => error!(
            event = "ring_refused",
            peer,
            "peer {peer} tells of a later ring with another n or other partitions: node {name} does not take it",
        ),
        Notice::Forged(_) => error!(
            event = "life_refused",
            peer, "peer {peer} tells of a life of node {name} that cannot have been: not believed"
        ),
        _ => {}
    }
}

/// What is to be said of a peer of another cluster of the same name.
pub(super) fn foreign(peer: &str, cluster: &str, ours: u64, theirs: u64) -> String {
    format!(
        "peer {peer} belongs to another cluster called {cluster}, which was founded apart from this one (its id is \
         {theirs:016x}, this one's {ours:016x}), by `pixii server --bootstrap` for example: only one of them can stay, and \
         the nodes of the other one begin anew with empty data directories"
    )
}

fn tell_opinion(peer: &str, opinion: Opinion, silence: Micros) {
    let silent_ms = silence / MILLI;
    let seconds = silence as f64 / 1e6;
    match opinion {
        Opinion::Up => info!(
            event = "peer_up",
            peer, silent_ms, "peer {peer} is heard again after {seconds:.1} s"
        ),
        Opinion::Suspect => info!(
            event = "peer_suspect",
            peer, silent_ms, "peer {peer} has been silent for surprisingly long: {seconds:.1} s"
        ),
        Opinion::Down => warn!(
            event = "peer_down",
            peer,
            silent_ms,
            "peer {peer} has been silent for {seconds:.1} s and is believed to be down: stand-ins take its place"
        ),
    }
}

/// Logs an account of the node, a line for each part of it.
pub(super) fn tell_account(account: &Account) {
    for line in account.lines() {
        info!(event = "account", "{line}");
    }
}
