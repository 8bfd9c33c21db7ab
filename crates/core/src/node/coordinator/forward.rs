//! Forwards: a client's request goes to an owner of its key, which coordinates it.

use std::collections::VecDeque;

use super::common::{Common, Heard};
use super::env::Env;
use crate::message::{Body, Counter, Rejection, Request, Response, WriteRule};
use crate::node::io::Io;
use crate::quorum::QuorumTracker;
use crate::types::{MILLI, Micros, NodeId, Nodes, Time};

/// An issuer asks at once whether the client of a write waits. One that has not done so after this
/// share of the time that is left, as a divisor, and within these bounds, is taken to hang: the
/// next owner gets the write. A network that is only slow, or a process that stops for a moment,
/// should not have two issuers, since their puts become siblings.
const SIGN_SHARE: u64 = 4;
const SIGN: (Micros, Micros) = (Micros::from_millis(100), Micros::from_millis(500));

/// A request that another node coordinates. A read is sent to the owners one after the other. Only
/// one owner has a write at a time; the next of `others` gets it when that one has refused it.
#[derive(Clone, Debug)]
pub(super) struct ForwardOp {
    pub(super) common: Common,
    pub(super) request: Request,
    pub(super) writes: bool,
    /// Replicas that must hold a write.
    pub(super) needed: u8,
    pub(super) others: VecDeque<NodeId>,
    /// True once the node that has a write to decide has the answer that its client waits. Before,
    /// it decides nothing.
    pub(super) is_confirmed: bool,
}

impl ForwardOp {
    /// Sends the request to the next owner that may coordinate it.
    pub(super) fn send_on(&mut self, now: Time, env: &mut Env, io: &mut Io) {
        let Some(to) = self.common.quorum_tracker.unasked().next() else { return };
        self.common.quorum_tracker.query(to);
        let left_ms = self.common.left_ms(now);
        let left = u64::from(left_ms) * MILLI;
        let due = match self.decides() {
            // The next owner needs time, too.
            true => (left / SIGN_SHARE).clamp(SIGN.0, SIGN.1).min(left / 2),
            // Two messages and all that an owner does lie between.
            false => 2 * env.reads.timeout(to),
        };
        self.common.expect(now, to, now + due, env);
        self.is_confirmed = false;
        // The coordinator's deadline comes first, so that its answer can still be passed on.
        let timeout_ms = (left_ms - left_ms / 10).max(1);
        let request = self.request.clone();
        io.out.send_to(to, self.common.request_id, Body::Coordinate { request, timeout_ms });
    }

    /// Handles a node's answer.
    pub(super) fn answer(&mut self, from: NodeId, body: Body) -> Heard {
        match body {
            Body::Coordinated(response) if self.common.quorum_tracker.is_owner(from) => {
                match response {
                    // As a node of protocol 7 answers to what it has nothing like.
                    Response::Refused(Rejection::NoContext) if self.decides() => {
                        Heard::Done(Response::Refused(Rejection::OldIssuer))
                    }
                    // The issuer goes on deciding the key: a second one beside it would make
                    // siblings of puts that it could have ordered. The client waits a moment.
                    Response::Refused(why) if self.decides() && why.is_overload() => {
                        Heard::Done(Response::Refused(why))
                    }
                    Response::Refused(why) if another_may_do(&why) => Heard::Elsewhere(why),
                    response => Heard::Done(response),
                }
            }
            Body::Failed(rejection) => Heard::Lost(rejection),
            _ => Heard::Nothing,
        }
    }

    /// Notifies the node that has a write to decide that nobody waits for it any more. It is void
    /// there then, even if it comes only after this.
    pub(super) fn abandon(&self, io: &mut Io) {
        let to: Nodes = self.common.open.iter().map(|question| question.to).collect();
        if self.decides() && !to.is_empty() {
            io.out.send(to, self.common.request_id, Body::Abandon);
        }
    }

    /// The issuer of a write that has not asked in time whether its client waits: it may hang. The
    /// write is void there from now on, so another owner may get it.
    pub(super) fn leave_quiet_issuer(
        &mut self,
        now: Time,
        env: &mut Env,
        io: &mut Io,
    ) -> Option<NodeId> {
        if !self.decides() || self.common.answered || self.is_confirmed {
            return None;
        }
        let issuer = *self.common.mark_late(now).first()?;
        self.abandon(io);
        self.common.close(issuer, env);
        env.view.note_quiet(now, issuer);
        // A node of protocol 7 does not ask: the put is the same one, however often it is made.
        if let Request::Decide { value: Some(_), rule: WriteRule::Cover, again, .. } =
            &mut self.request
        {
            *again = true;
        }
        Some(issuer)
    }

    /// No replica is known to hold the write, and each may.
    pub(super) fn unknown(&self) -> Response {
        let (needed, timeout_ms) = (self.needed, self.common.timeout_ms);
        Response::Unknown { acknowledged: 0, needed, timeout_ms }
    }

    /// True for a write that the other node decides.
    pub(super) fn decides(&self) -> bool {
        matches!(self.request, Request::Decide { .. })
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

    /// Sends it to another owner if no node that may answer has it.
    pub(super) fn advance(&mut self, now: Time, env: &mut Env, io: &mut Io) -> Option<Response> {
        if self.common.quorum_tracker.missing() > 0 {
            self.send_on(now, env, io);
        }
        self.common.is_hopeless().then(|| match self.writes {
            true => self.unknown(),
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
            true => self.unknown(),
            false => self.common.no_quorum(&env.config.members),
        }
    }
}

/// True if a request that an owner has refused like this may be carried out elsewhere.
fn another_may_do(why: &Rejection) -> bool {
    why.is_about_node() || matches!(why, Rejection::Unreachable { .. })
}
