//! What messages are about, as an emulated network and accounts of traffic tell them apart.

use super::{Body, Request, Response};

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// What is to be stored, from a client or for a replica.
    Write,
    /// That it is.
    Ack,
    /// The question of a read.
    Read,
    /// What is there.
    Answer,
    /// Who is alive, and who belongs to the cluster.
    Gossip,
    /// The comparison of replicas.
    Repair,
    /// Anything else.
    Other,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 7] =
        [Kind::Write, Kind::Ack, Kind::Read, Kind::Answer, Kind::Gossip, Kind::Repair, Kind::Other];

    /// Its name, in rules and accounts.
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
    /// What the message is about. What a node says to itself of a write is `Other`, up to the
    /// confirmation.
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
            | Body::Items { .. } => Kind::Repair,
            _ => Kind::Other,
        }
    }
}
