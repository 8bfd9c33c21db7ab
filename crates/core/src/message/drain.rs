//! Orders and reports about draining a node before maintenance.

use bincode::{BorrowDecode, Encode};
use bytes::Bytes;

/// An order about a node's drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub enum DrainOrder {
    /// Changes nothing and reports the progress.
    Show,
    /// Accepts no request from now on, finishes those in progress, delivers the hints, and then
    /// closes the links to all peers.
    Begin {
        /// Time limit in milliseconds; afterwards the links are closed even if hints are left.
        timeout_ms: u32,
    },
    /// Ends the drain: the node accepts requests and links again.
    End,
}

/// The progress of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub enum DrainState {
    /// The node is not being drained.
    Serving,
    /// Requests are being finished, or hints delivered.
    Draining,
    /// The drain is complete: the node has no links to peers.
    Drained,
}

/// What a node reports about its drain.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct DrainReport {
    /// The name of the reporting node.
    pub name: String,
    /// The progress of the drain.
    pub state: DrainState,
    /// Requests that it coordinates or has forwarded.
    pub requests: u64,
    /// The hints that it keeps, one entry per member; members without hints are left out.
    pub hints: Vec<KeptHints>,
}

/// The hints that a node keeps for one member.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct KeptHints {
    /// The name of the member that the hints are for.
    pub name: String,
    /// The number of hints, one per key.
    pub count: u64,
    /// Their size, in bytes.
    pub bytes: u64,
    /// True if they can be delivered now.
    pub reachable: bool,
}
