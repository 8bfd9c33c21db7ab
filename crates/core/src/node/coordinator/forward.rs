//! Forwards: a client's request goes to an owner of its key, which coordinates it.

use std::collections::VecDeque;

use super::common::{Common, Heard};
use super::env::Env;
use crate::message::{Body, Counter, Rejection, Request, Response};
use crate::node::io::Io;
use crate::quorum::QuorumTracker;
use crate::types::{NodeId, Time};

/// A request that another node coordinates. The owners that may coordinate it get it in turn if it
/// reads. If it writes, only one has it at a time, and the next of `others` only when that one has
/// refused it.
#[derive(Clone, Debug)]
pub(super) struct ForwardOp {
    pub(super) common: Common,
    pub(super) request: Request,
    pub(super) writes: bool,
    pub(super) others: VecDeque<NodeId>,
}

impl ForwardOp {
    /// Sends the request to the next owner that may coordinate it.
    pub(super) fn send_on(&mut self, now: Time, env: &mut Env, io: &mut Io) {
        let Some(to) = self.common.quorum_tracker.unasked().next() else { return };
        self.common.quorum_tracker.query(to);
        // Two messages and all that an owner does lie between.
        self.common.expect(now, to, now + 2 * env.reads.timeout(to), env);
        // The coordinator's deadline comes first, so that its answer can still be passed on.
        let left_ms = self.common.left_ms(now);
        let timeout_ms = (left_ms - left_ms / 10).max(1);
        let request = self.request.clone();
        io.out.send(vec![to], self.common.request_id, Body::Coordinate { request, timeout_ms });
    }

    /// Takes what a node has said.
    pub(super) fn answer(&mut self, from: NodeId, body: Body) -> Heard {
        match body {
            Body::Coordinated(response) if self.common.quorum_tracker.is_owner(from) => {
                match response {
                    Response::Refused(why) if another_may_do(&why) => Heard::Elsewhere(why),
                    response => Heard::Done(response),
                }
            }
            Body::Failed(rejection) => Heard::Lost(rejection),
            _ => Heard::Nothing,
        }
    }

    /// An owner has refused it for reasons of its own, and so did nothing: the next one gets it.
    /// False if there is none left, and no other one has it.
    pub(super) fn go_on(&mut self, now: Time, from: NodeId, env: &mut Env, io: &mut Io) -> bool {
        if let Some(next) = self.others.pop_front() {
            self.common.quorum_tracker = QuorumTracker::new(&[next], 1, true);
        } else {
            self.common.quorum_tracker.fail(from);
        }
        if self.common.quorum_tracker.unasked().next().is_some() {
            self.send_on(now, env, io);
            return true;
        }
        !self.common.open.is_empty()
    }

    /// Sends it to another owner if nobody has it who may answer.
    pub(super) fn advance(&mut self, now: Time, env: &mut Env, io: &mut Io) -> Option<Response> {
        if self.common.quorum_tracker.missing() > 0 {
            self.send_on(now, env, io);
        }
        self.common.is_hopeless().then(|| match self.writes {
            true => self.common.unknown(),
            false => self.common.unreachable(&env.config.members),
        })
    }

    /// Sends a read to another owner beside one that is late.
    pub(super) fn hedge(&mut self, now: Time, env: &mut Env, io: &mut Io) {
        if self.writes {
            return;
        }
        let late = self.common.mark_late(now).len();
        if late > 0
            && !self.common.answered
            && self.common.quorum_tracker.unasked().next().is_some()
        {
            io.out.count(Counter::ReadsHedged);
            self.send_on(now, env, io);
        }
    }

    /// The answer at the deadline.
    pub(super) fn expire(&self, env: &Env) -> Response {
        match self.writes {
            true => self.common.unknown(),
            false => self.common.no_quorum(&env.config.members),
        }
    }
}

/// True if a request that an owner has refused like this may be carried out elsewhere.
fn another_may_do(why: &Rejection) -> bool {
    why.is_about_node() || matches!(why, Rejection::Unreachable { .. })
}
