//! A request in progress, of one of five kinds.

use super::common::Common;
use super::env::Env;
use super::forward::ForwardOp;
use super::list::ListOp;
use super::read::ReadOp;
use super::survey::SurveyOp;
use super::write::WriteOp;
use crate::message::Response;
use crate::node::io::Io;
use crate::types::{Key, NodeId, Time};

/// A request in progress, by what it does.
#[derive(Clone, Debug)]
pub(super) enum Operation {
    Read(ReadOp),
    List(ListOp),
    Write(WriteOp),
    Survey(Box<SurveyOp>),
    Forward(ForwardOp),
}

impl Operation {
    pub(super) fn common(&self) -> &Common {
        match self {
            Operation::Read(read) => &read.common,
            Operation::List(list) => &list.common,
            Operation::Write(write) => &write.common,
            Operation::Survey(survey) => &survey.common,
            Operation::Forward(forward) => &forward.common,
        }
    }

    pub(super) fn common_mut(&mut self) -> &mut Common {
        match self {
            Operation::Read(read) => &mut read.common,
            Operation::List(list) => &mut list.common,
            Operation::Write(write) => &mut write.common,
            Operation::Survey(survey) => &mut survey.common,
            Operation::Forward(forward) => &mut forward.common,
        }
    }

    /// A node will not answer any more.
    pub(super) fn lose(&mut self, now: Time, node: NodeId, env: &mut Env, io: &mut Io) {
        match self {
            Operation::Write(write) => write.lose(now, node, env, io),
            Operation::Survey(survey) => {
                survey.common.quorum_tracker.fail(node);
            }
            Operation::Read(ReadOp { common, .. })
            | Operation::List(ListOp { common, .. })
            | Operation::Forward(ForwardOp { common, .. }) => {
                common.quorum_tracker.fail(node);
            }
        }
    }

    /// Sends the queries that the quorum still needs. Returns the response once the quorum is
    /// reached, or cannot be reached any more.
    pub(super) fn advance(&mut self, now: Time, env: &mut Env, io: &mut Io) -> Option<Response> {
        match self {
            Operation::Read(read) => read.advance(now, env, io),
            Operation::List(list) => list.advance(now, env, io),
            Operation::Write(write) => write.advance(now, env, io),
            // Its end is no response, but a write.
            Operation::Survey(_) => None,
            Operation::Forward(forward) => forward.advance(now, env, io),
        }
    }

    /// Queries other nodes beside those that are late now.
    pub(super) fn hedge(&mut self, now: Time, env: &mut Env, io: &mut Io) {
        match self {
            Operation::Read(read) => read.hedge(now, env, io),
            Operation::List(list) => list.hedge(now, env, io),
            Operation::Write(write) => write.chase(now, env, io),
            Operation::Survey(survey) => survey.hedge(now, env, io),
            Operation::Forward(forward) => forward.hedge(now, env, io),
        }
    }

    /// The answer at the deadline: a write that was sent may still happen, unless it is one that is
    /// decided here and was not.
    pub(super) fn expire(&self, env: &Env, io: &Io) -> Response {
        match self {
            Operation::Read(read) => read.expire(env, io),
            Operation::List(list) => list.expire(env, io),
            Operation::Write(write) => write.expire(env),
            Operation::Survey(survey) => survey.expire(env),
            Operation::Forward(forward) => forward.expire(env),
        }
    }

    /// True for a write that another node is to decide, and that is not answered.
    pub(super) fn is_forwarded_decision(&self) -> bool {
        match self {
            Operation::Forward(forward) => forward.decides() && !forward.common.answered,
            _ => false,
        }
    }

    /// True if it waits for nothing any more, once it is answered.
    pub(super) fn is_over(&self) -> bool {
        match self {
            Operation::Read(read) => read.common.open.is_empty(),
            Operation::Write(write) => write.is_over(),
            Operation::Survey(_) | Operation::List(_) | Operation::Forward(_) => true,
        }
    }

    /// Bytes of values that it keeps in memory.
    pub(super) fn bytes(&self) -> usize {
        let object = match self {
            Operation::Read(read) => Some(&read.merged.object),
            Operation::Survey(survey) => Some(&survey.merged.object),
            Operation::Write(write) => write.issued.as_ref().map(|issued| &issued.object),
            Operation::List(_) | Operation::Forward(_) => None,
        };
        let values = object.into_iter().flat_map(|object| object.values());
        values.map(|(_, version)| version.value.0.len()).sum()
    }

    /// True if it is a write that is decided, and the client has not been answered.
    pub(super) fn is_to_decide(&self) -> bool {
        let decides = match self {
            Operation::Survey(_) => true,
            Operation::Write(write) => write.is_decided && write.issued.is_none(),
            Operation::Forward(forward) => forward.decides(),
            Operation::Read(_) | Operation::List(_) => false,
        };
        decides && !self.common().answered
    }

    /// True if it is a write of the key that may not have been carried out yet.
    pub(super) fn may_write(&self, key: &Key) -> bool {
        match self {
            Operation::Write(write) => write.key == *key && write.issued.is_none(),
            Operation::Survey(survey) => survey.key == *key,
            Operation::Forward(forward) => forward.writes && forward.request.key() == Some(key),
            Operation::Read(_) | Operation::List(_) => false,
        }
    }
}
