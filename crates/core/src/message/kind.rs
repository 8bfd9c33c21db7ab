//! Classes of messages, as the emulated network and the traffic counters distinguish them.

use super::{Body, Request, Response};

/// The class of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A write, from a client or for a replica.
    Write,
    /// The confirmation of a write, or that its outcome is unknown.
    Ack,
    /// A read of a key or a listing of keys.
    Read,
    /// The answer to a read or a listing.
    Answer,
    /// Heartbeats and the member list.
    Gossip,
    /// The comparison of replicas.
    Repair,
    /// All other messages, such as introductions, updates, tombstone GC, rings and rejections.
    Other,
}

impl Kind {
    /// Every class once, in the order of declaration.
    pub const ALL: [Kind; 7] =
        [Kind::Write, Kind::Ack, Kind::Read, Kind::Answer, Kind::Gossip, Kind::Repair, Kind::Other];

    /// The name in rules of the emulated network.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Write => "writes",
            Kind::Ack => "acks",
            Kind::Read => "reads",
            Kind::Answer => "answers",
            Kind::Gossip => "gossip",
            Kind::Repair => "repair",
            Kind::Other => "others",
        }
    }
}

impl Request {
    /// A write or a read.
    pub fn kind(&self) -> Kind {
        if self.is_write() { Kind::Write } else { Kind::Read }
    }
}

impl Response {
    /// The answer to a read or the acknowledgement of a write; a rejection may be to either.
    pub fn kind(&self) -> Kind {
        match self {
            Response::Found { .. } | Response::Keys { .. } => Kind::Answer,
            Response::Written { .. } | Response::Unknown { .. } => Kind::Ack,
            Response::Refused(_) => Kind::Other,
        }
    }
}

impl Body {
    /// The class of the message. Messages of a write that a node sends to itself are `Other`,
    /// except for the acknowledgement.
    pub fn kind(&self) -> Kind {
        match self {
            Body::Merge { .. } | Body::StoreHint { .. } => Kind::Write,
            Body::Ack => Kind::Ack,
            Body::Read { .. } | Body::List { .. } => Kind::Read,
            Body::Copy { .. } | Body::Listed { .. } => Kind::Answer,
            Body::Coordinate { request, .. } => request.kind(),
            Body::Coordinated(response) => response.kind(),
            Body::Gossip(_) => Kind::Gossip,
            Body::Compare { .. }
            | Body::Equal
            | Body::Descend { .. }
            | Body::Summaries(_)
            | Body::Leaves { .. }
            | Body::Items { .. }
            | Body::Fetch { .. }
            | Body::Records { .. } => Kind::Repair,
            _ => Kind::Other,
        }
    }
}
