//! What messages are about, as an emulated network and accounts of traffic tell them apart.

use super::{Body, Request, Response};
use crate::emulation::Kind;

impl Request {
    /// A write or a read.
    pub fn kind(&self) -> Kind {
        if self.is_write() { Kind::Write } else { Kind::Read }
    }
}

impl Response {
    /// The answer to a read or the acknowledgement of a write; a refusal may be to either.
    pub fn kind(&self) -> Kind {
        match self {
            Response::Found { .. } | Response::Keys { .. } => Kind::Answer,
            Response::Written { .. } | Response::Unknown { .. } => Kind::Ack,
            Response::Refused(_) => Kind::Other,
        }
    }
}

impl Body {
    /// What the message is about. What a node says to itself of a write is `Other`, up to the confirmation.
    pub fn kind(&self) -> Kind {
        match self {
            Body::Merge { .. } | Body::Keep { .. } => Kind::Write,
            Body::Held => Kind::Ack,
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
