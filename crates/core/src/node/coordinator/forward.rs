//! Forwards: a client's request goes to a home of its key, which coordinates it.

use std::collections::VecDeque;

use super::common::{Common, Heard};
use super::env::Env;
use crate::message::{Body, Counter, Refusal, Request, Response};
use crate::node::effects::Effects;
use crate::tally::Tally;
use crate::types::{NodeId, Time};

/// A request that another node coordinates. The homes that may coordinate it get it in turn if it
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
    /// Sends the request to the next home that may coordinate it.
    pub(super) fn send_on(&mut self, now: Time, env: &mut Env, fx: &mut Effects) {
        let Some(to) = self.common.tally.unasked().next() else { return };
        self.common.tally.ask(to);
        // Two messages and all that a home does lie between.
        self.common.expect(now, to, now + 2 * env.reads.patience(to), env);
        // The coordinator's deadline comes first, so that its answer can still be passed on.
        let left_ms = self.common.left_ms(now);
        let timeout_ms = (left_ms - left_ms / 10).max(1);
        let request = self.request.clone();
        fx.out.send(vec![to], self.common.op, Body::Coordinate { request, timeout_ms });
    }

    /// Takes what a node has said.
    pub(super) fn answer(&mut self, from: NodeId, body: Body) -> Heard {
        match body {
            Body::Coordinated(response) if self.common.tally.is_home(from) => match response {
                Response::Refused(why) if another_may_do(&why) => Heard::Elsewhere(why),
                response => Heard::Done(response),
            },
            Body::Failed(refusal) => Heard::Lost(refusal),
            _ => Heard::Nothing,
        }
    }

    /// A home has refused it for reasons of its own, and so did nothing: the next one gets it.
    /// False if there is none left, and no other one has it.
    pub(super) fn go_on(
        &mut self,
        now: Time,
        from: NodeId,
        env: &mut Env,
        fx: &mut Effects,
    ) -> bool {
        if let Some(next) = self.others.pop_front() {
            self.common.tally = Tally::new(&[next], 1, true);
        } else {
            self.common.tally.fail(from);
        }
        if self.common.tally.unasked().next().is_some() {
            self.send_on(now, env, fx);
            return true;
        }
        !self.common.open.is_empty()
    }

    /// Sends it to another home if nobody has it who may answer.
    pub(super) fn advance(
        &mut self,
        now: Time,
        env: &mut Env,
        fx: &mut Effects,
    ) -> Option<Response> {
        if self.common.tally.missing() > 0 {
            self.send_on(now, env, fx);
        }
        self.common.is_hopeless().then(|| match self.writes {
            true => self.common.unknown(),
            false => self.common.unreachable(&env.config.members),
        })
    }

    /// Sends a read to another home beside one that is late.
    pub(super) fn hedge(&mut self, now: Time, env: &mut Env, fx: &mut Effects) {
        if self.writes {
            return;
        }
        let late = self.common.mark_late(now).len();
        if late > 0 && !self.common.answered && self.common.tally.unasked().next().is_some() {
            fx.out.count(Counter::ReadsHedged);
            self.send_on(now, env, fx);
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

/// True if a request that a home has refused like this may be carried out elsewhere.
fn another_may_do(why: &Refusal) -> bool {
    why.is_about_node() || matches!(why, Refusal::Unreachable { .. })
}
