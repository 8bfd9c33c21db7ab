//! How the descriptors of a process are divided: a reserve for the store, the links to peers and
//! the HTTP port, and places for clients from what is left.

use std::fmt::{self, Display, Formatter};

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
/// Most nodes without a place in the ring that are listened to.
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
    /// Connections that read why they are refused.
    pub(crate) rejections: usize,
    /// Nodes without a place in the ring.
    pub(crate) strangers: usize,
    /// Commands of the operator, over the limits of clients.
    pub(crate) operators: usize,
    /// Connections of the HTTP port.
    pub(crate) http: usize,
    /// Clients.
    pub(crate) clients: usize,
    /// All sockets that are accepted on the port of clients and peers.
    pub(crate) sockets: usize,
}

impl Places {
    /// Those of a node with so many peers, in a process with this limit of descriptors.
    pub(crate) fn of(limit: usize, peers: usize) -> Self {
        let left = limit.saturating_sub(BASE + PER_PEER * peers);
        let share = |divisor: usize, least: usize, most: usize| (left / divisor).clamp(least, most);
        let handshakes = share(4, 4, MAX_HANDSHAKES);
        let rejections = share(8, 2, MAX_REJECTIONS);
        let http = share(8, 2, MAX_HTTP);
        let strangers = share(32, 1, MAX_STRANGERS);
        let operators = share(16, 2, MAX_OPERATORS);
        let taken = handshakes + rejections + http + strangers + operators;
        let clients = left.saturating_sub(taken).clamp(1, MAX_CLIENTS);
        let accepted = ACCEPTED_PER_PEER * peers;
        let sockets = handshakes + rejections + strangers + operators + clients + accepted;
        Places { limit, handshakes, rejections, strangers, operators, http, clients, sockets }
    }

    /// False if the limit is too low even for the reserve and one client.
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
