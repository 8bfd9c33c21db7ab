//! Taking a node out before maintenance, in words.

use bincode::{BorrowDecode, Encode};
use bytes::Bytes;

/// What is asked of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub enum DrainOrder {
    /// Nothing: tell how far it is.
    Show,
    /// Take no request from now on, finish those in progress, deliver the hints, and then close the
    /// links to all peers.
    Begin {
        /// So long this may take, in milliseconds; then the links are closed with what is left.
        timeout_ms: u32,
    },
    /// Take part again.
    End,
}

/// How far a drain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub enum DrainState {
    /// There is none.
    Serving,
    /// It is in progress.
    Draining,
    /// It is done: the node has no links.
    Drained,
}

/// What a node reports of its drain.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct DrainReport {
    /// The node's name.
    pub name: String,
    /// How far it is.
    pub state: DrainState,
    /// Requests that it coordinates or has forwarded.
    pub requests: u64,
    /// What it keeps for other members; nothing for those that are not named.
    pub hints: Vec<KeptHints>,
}

/// What a node keeps for one member.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct KeptHints {
    /// The member's name.
    pub name: String,
    /// So many hints.
    pub count: u64,
    /// Their size, in bytes.
    pub bytes: u64,
    /// True if they can be delivered now.
    pub reachable: bool,
}
