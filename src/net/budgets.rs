//! Memory of connections: the budgets of frames that arrive and of frames that wait to leave. They
//! follow the memory limit of the process.

use std::fmt::{self, Display, Formatter};

use pixii_core::types::{MAX_KEY_BYTES, MAX_MERGED_BYTES, MAX_OBJECT_BYTES};
use pixii_core::wire::MAX_FRAME_BYTES;
use pixii_transport::frames::Limits;
use pixii_transport::inflow::Sizes;

use crate::table::{Table, size};

const MIB: usize = 1 << 20;
/// Largest frame of a client. It is well over what a call may carry, so that a value over the limit
/// is refused with the reason.
pub(crate) const MAX_CALL_BYTES: usize = MAX_OBJECT_BYTES;
/// Bytes of the length that a frame begins with.
const LENGTH_BYTES: usize = 4;
/// Largest frame of a client.
const CLIENT_FRAME: usize = MAX_CALL_BYTES + LENGTH_BYTES;
/// Largest frame that a peer of this version sends: two merged objects and their envelope.
const PEER_FRAME: usize = 2 * MAX_MERGED_BYTES + MAX_KEY_BYTES + MIB;
/// Largest frame of any peer. Where memory is short, one goes over the budget at a time.
const ANY_PEER_FRAME: usize = MAX_FRAME_BYTES + LENGTH_BYTES;
/// Memory of a daemon without connections, excluding the cache of the store.
const BASE: usize = 32 * MIB;

/// Least and most bytes of a budget. The least permits the largest frame and some bytes beside it.
#[derive(Clone, Copy, Debug)]
struct Span {
    least: usize,
    most: usize,
}

/// Large frames of all clients that arrive or are being handled.
const CLIENT_FRAMES: Span = Span { least: 24 * MIB, most: 256 * MIB };
/// Large frames of all peers that arrive or are being handled.
const PEER_FRAMES: Span = Span { least: 38 * MIB, most: 256 * MIB };
/// Replies that clients have not read: the largest one fits when it is alone.
const REPLIES: Span = Span { least: 17 * MIB, most: 512 * MIB };
/// Messages that wait to leave, for all peers. A larger one may leave when it is alone.
const PEER_QUEUES: Span = Span { least: 8 * MIB, most: 512 * MIB };
/// The sum of these budgets.
const ALL: Span = Span {
    least: CLIENT_FRAMES.least + PEER_FRAMES.least + REPLIES.least + PEER_QUEUES.least,
    most: CLIENT_FRAMES.most + PEER_FRAMES.most + REPLIES.most + PEER_QUEUES.most,
};
const _: () = assert!(CLIENT_FRAMES.least > 2 * CLIENT_FRAME && PEER_FRAMES.least > PEER_FRAME);
const _: () = assert!(REPLIES.least > MAX_MERGED_BYTES + MAX_KEY_BYTES);

/// Most bytes of each budget for the clients of one address, or for one peer.
const CLIENT_SHARE: usize = 64 * MIB;
const PEER_SHARE: usize = 160 * MIB;
const ADDRESS_REPLIES: usize = 112 * MIB;
/// Most bytes in one outgoing queue.
const QUEUE_BYTES: usize = 64 * MIB;

/// The table of the reference.
pub(crate) fn reference() -> Table {
    let (wait, busy) = ("they wait", "large replies are refused as busy");
    let mut table = Table::new(["what", "limit", "at the limit"]);
    for (what, bytes, then) in [
        ("frames of all clients that arrive or are worked on", CLIENT_FRAMES.most, wait),
        ("the same, of the clients of one address", CLIENT_SHARE, wait),
        ("frames of all peers", PEER_FRAMES.most, wait),
        ("the same, of one peer", PEER_SHARE, wait),
        ("replies that clients have not read", REPLIES.most, busy),
        ("the same, of the clients of one address", ADDRESS_REPLIES, busy),
        ("the same, of one client", QUEUE_BYTES, busy),
        (
            "messages that wait to leave for all peers",
            PEER_QUEUES.most,
            "they are dropped and counted",
        ),
    ] {
        table = table.row([what, &size(bytes), then]);
    }
    table
}

/// The memory that connections may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budgets {
    /// The memory limit of the process that this was computed from, if it has one, and the cache.
    limit: Option<usize>,
    cache: usize,
    /// Large frames of clients that arrive or are being handled.
    pub(crate) client_frames: Sizes,
    /// Large frames of peers that arrive or are being handled.
    pub(crate) peer_frames: Sizes,
    /// Replies that one client, and all of them, have not read.
    pub(crate) replies: Limits,
    /// Messages that wait to leave for one peer, and for all of them.
    pub(crate) peer_queues: Limits,
}

impl Budgets {
    /// The budgets of a process with this memory limit, whose store has a cache of `cache` bytes.
    /// Together they take at most half of what the cache and the rest of the daemon leave, unless
    /// that is less than they need.
    pub(crate) fn of(limit: Option<usize>, cache: usize) -> Self {
        let room = limit.map_or(ALL.most, |limit| limit.saturating_sub(cache + BASE) / 2);
        let over = room.clamp(ALL.least, ALL.most) - ALL.least;
        let part = |Span { least, most }: Span| {
            let more = (most - least) as u64 * over as u64 / (ALL.most - ALL.least) as u64;
            least + more as usize
        };
        let (clients, peers) = (part(CLIENT_FRAMES), part(PEER_FRAMES));
        let (replies, queues) = (part(REPLIES), part(PEER_QUEUES));
        Budgets {
            limit,
            cache,
            client_frames: Sizes {
                total: clients,
                share: CLIENT_SHARE.min(clients * 3 / 4),
                frame: CLIENT_FRAME,
            },
            peer_frames: Sizes {
                total: peers,
                share: PEER_SHARE.min(peers),
                frame: ANY_PEER_FRAME.min(PEER_FRAME.max(peers / 2)),
            },
            replies: Limits {
                messages: 4_096,
                bytes: QUEUE_BYTES.min(replies),
                total_bytes: replies,
                address_bytes: Some(ADDRESS_REPLIES.min(replies * 3 / 4)),
            },
            peer_queues: Limits {
                messages: 8_192,
                bytes: QUEUE_BYTES.min(queues),
                total_bytes: queues,
                address_bytes: None,
            },
        }
    }

    /// The sum of the budgets, in bytes.
    fn sum(&self) -> usize {
        let frames = self.client_frames.total + self.peer_frames.total;
        frames + self.replies.total_bytes + self.peer_queues.total_bytes
    }

    /// The limit and the need, in MiB, where the limit is too low.
    pub(crate) fn lack(&self) -> Option<(usize, usize)> {
        let needed = self.cache + BASE + 2 * ALL.least;
        self.limit.filter(|limit| *limit < needed).map(|limit| (limit / MIB, needed.div_ceil(MIB)))
    }
}

impl Display for Budgets {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "at most {} MiB for connections (frames of clients {}, of peers {}, unread replies {}, \
             queues to peers {}) and a cache of {} MiB ",
            self.sum() / MIB,
            self.client_frames.total / MIB,
            self.peer_frames.total / MIB,
            self.replies.total_bytes / MIB,
            self.peer_queues.total_bytes / MIB,
            self.cache / MIB,
        )?;
        match self.limit {
            Some(limit) => write!(f, "with a memory limit of {} MiB", limit / MIB),
            None => f.write_str("without a memory limit"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CACHE: usize = 32 * MIB;

    #[test]
    fn all_budgets_together_take_half_of_what_a_memory_limit_leaves() {
        let limits = (64..8_192).step_by(16).map(|mib| Some(mib * MIB)).chain([None]);
        for (limit, cache) in limits.flat_map(|limit| [(limit, 0), (limit, CACHE)]) {
            let budgets = Budgets::of(limit, cache);
            let room = limit.map_or(ALL.most, |limit| limit.saturating_sub(cache + BASE) / 2);
            assert!(budgets.sum() <= room.clamp(ALL.least, ALL.most), "{limit:?}: {budgets}");
            assert_eq!(budgets.lack().is_some(), room < ALL.least, "{limit:?}: {budgets}");
            let Budgets { client_frames, peer_frames, replies, peer_queues, .. } = budgets;
            for (bytes, span) in [
                (client_frames.total, CLIENT_FRAMES),
                (peer_frames.total, PEER_FRAMES),
                (replies.total_bytes, REPLIES),
                (peer_queues.total_bytes, PEER_QUEUES),
            ] {
                assert!((span.least..=span.most).contains(&bytes), "{limit:?}: {budgets}");
            }
            // The largest frame fits, with room beside it.
            for Sizes { total, share, frame } in [client_frames, peer_frames] {
                assert!(share > frame && total >= share, "{limit:?}: {budgets}");
            }
            assert!(client_frames.frame == CLIENT_FRAME && peer_frames.frame >= PEER_FRAME);
            assert!(replies.address_bytes < Some(replies.total_bytes));
        }
    }

    #[test]
    fn the_default_unit_of_256_mib_has_room_and_a_process_without_a_limit_has_all() {
        let small = Budgets::of(Some(256 * MIB), CACHE);
        assert_eq!((small.lack(), small.sum() / MIB), (None, 95), "{small}");
        assert_eq!(Budgets::of(Some(128 * MIB), CACHE).lack(), Some((128, 238)));
        let all = Budgets::of(None, CACHE);
        assert_eq!(all.sum(), ALL.most);
        assert_eq!((all.client_frames.share, all.peer_frames.share), (CLIENT_SHARE, PEER_SHARE));
        assert_eq!(all.peer_frames.frame, ANY_PEER_FRAME);
        assert_eq!(all.replies.address_bytes, Some(ADDRESS_REPLIES));
    }
}
