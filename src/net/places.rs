//! How the descriptors of a process are divided: a reserve for the store, the links to peers and
//! the HTTP port, and places for clients from what is left.

use std::fmt::{self, Display, Formatter};

use crate::table::{Table, number};

/// Descriptors of any daemon: standard streams, event loops, timers, listening sockets and the
/// store's files take 21 at rest; the others are for files that are open for a moment, such as
/// large records, the configuration and secrets.
const BASE: usize = 32;
/// Descriptors of each peer: the link to it, the link from it, and one for a probe, a look-up of
/// its name or a link that replaces another one.
const PER_PEER: usize = 3;
/// Accepted sockets of each peer, out of [`PER_PEER`].
const ACCEPTED_PER_PEER: usize = 2;
/// Most clients, whatever the limit of descriptors is.
const MAX_CLIENTS: usize = 1_024;
/// Most connections whose handshake is in progress.
const MAX_HANDSHAKES: usize = 256;
/// Most refused connections that are kept open until the other side has read the reason.
const MAX_REJECTIONS: usize = 256;
/// Most connections of the HTTP port.
const MAX_HTTP: usize = 64;
/// Most nodes without a place in the ring whose messages are accepted.
const MAX_STRANGERS: usize = 16;
/// Most connections over the limits of clients, for commands of the operator.
const MAX_OPERATORS: usize = 4;

/// How many connections of each kind there may be at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Places {
    /// The limit of descriptors that this was computed from.
    limit: usize,
    /// Connections whose handshake is in progress.
    pub(crate) handshakes: usize,
    /// Refused connections that still read the reason.
    pub(crate) rejections: usize,
    /// Nodes without a place in the ring whose messages are accepted.
    pub(crate) strangers: usize,
    /// Commands of the operator, over the limits of clients.
    pub(crate) operators: usize,
    /// Connections of the HTTP port.
    pub(crate) http: usize,
    /// Connections of clients, at most 1,024.
    pub(crate) clients: usize,
    /// All accepted sockets on the port of clients and peers.
    pub(crate) sockets: usize,
}

/// The shares of what is left, as divisors, with the least number of each.
const HANDSHAKES: (usize, usize) = (4, 4);
const REJECTIONS: (usize, usize) = (8, 2);
const HTTP: (usize, usize) = (8, 2);
const STRANGERS: (usize, usize) = (32, 1);
const OPERATORS: (usize, usize) = (16, 2);

/// The table of the reference.
pub(crate) fn reference() -> Table {
    let share = |(divisor, least): (usize, usize), most: usize| {
        format!("1/{divisor} of the rest, {least} to {most}")
    };
    let clients = format!("what is left, at most {}", number(MAX_CLIENTS as u64));
    Table::new(["descriptors for", "how many"])
        .row(["the store, event loops, timers, listening sockets", &BASE.to_string()])
        .row(["each peer", &PER_PEER.to_string()])
        .row(["the HTTP port", &share(HTTP, MAX_HTTP)])
        .row(["connections in their handshake", &share(HANDSHAKES, MAX_HANDSHAKES)])
        .row(["refused connections that still read the reason", &share(REJECTIONS, MAX_REJECTIONS)])
        .row(["nodes that are not among the members", &share(STRANGERS, MAX_STRANGERS)])
        .row(["commands of the operator", &share(OPERATORS, MAX_OPERATORS)])
        .row(["clients", &clients])
}

impl Places {
    /// The places of a node with `peers` peers, in a process with this limit of descriptors.
    pub(crate) fn of(limit: usize, peers: usize) -> Self {
        let left = limit.saturating_sub(BASE + PER_PEER * peers);
        let share = |(divisor, least): (usize, usize), most| (left / divisor).clamp(least, most);
        let handshakes = share(HANDSHAKES, MAX_HANDSHAKES);
        let rejections = share(REJECTIONS, MAX_REJECTIONS);
        let http = share(HTTP, MAX_HTTP);
        let strangers = share(STRANGERS, MAX_STRANGERS);
        let operators = share(OPERATORS, MAX_OPERATORS);
        let taken = handshakes + rejections + http + strangers + operators;
        let clients = left.saturating_sub(taken).clamp(1, MAX_CLIENTS);
        let accepted = ACCEPTED_PER_PEER * peers;
        let sockets = handshakes + rejections + strangers + operators + clients + accepted;
        Places { limit, handshakes, rejections, strangers, operators, http, clients, sockets }
    }

    /// False if the limit is too low for the reserve and one client.
    pub(crate) fn fit(&self, peers: usize) -> bool {
        BASE + PER_PEER * peers + self.http + self.sockets - ACCEPTED_PER_PEER * peers <= self.limit
    }
}

impl Display for Places {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Places { limit, clients, .. } = self;
        write!(f, "at most {clients} clients with a limit of {limit} descriptors")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_limit_from_64_upwards_is_exceeded_and_clients_get_what_is_left() {
        for limit in (64..4_096).chain([1 << 20]) {
            for peers in 0..=6 {
                let places = Places::of(limit, peers);
                assert!(places.fit(peers) && places.clients >= 1, "{limit}, {peers}: {places:?}");
            }
        }
        assert!(!Places::of(64, 20).fit(20), "20 peers need more than 64 descriptors");
        let clients = [64, 256, 1_024, 4_096].map(|limit| Places::of(limit, 2).clients);
        assert_eq!(clients, [11, 100, 533, 1_024]);
    }
}
