//! What all kinds of requests under way have in common.

use std::collections::{BTreeSet, VecDeque};

use super::Origin;
use super::env::Env;
use crate::causal::Object;
use crate::members::Members;
use crate::message::{Refusal, Response, Roll};
use crate::node::ids::RequestId;
use crate::tally::{Answer, Tally};
use crate::types::{Blob, MILLI, NodeId, Time};

/// What every request under way has.
#[derive(Clone, Debug)]
pub(super) struct Common {
    pub(super) op: RequestId,
    pub(super) origin: Origin,
    pub(super) deadline: Time,
    pub(super) timeout_ms: u32,
    pub(super) tally: Tally,
    /// Who was asked and has not answered.
    pub(super) open: Vec<Question>,
    /// True once the answer has left.
    pub(super) answered: bool,
    /// Bytes of values that it has kept in memory since.
    pub(super) lingering_bytes: usize,
}

/// A question to a replica.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    pub(super) to: NodeId,
    pub(super) since: Time,
    /// When the answer is late.
    pub(super) due: Time,
    /// True once another replica was asked in its place.
    pub(super) late: bool,
}

/// What an answer is to the request that it belongs to.
pub(super) enum Heard {
    /// Nothing.
    Nothing,
    /// A step towards its quorum, or after it.
    Progress,
    /// The answer to the request itself.
    Done(Response),
    /// Its sender will not do what it was asked to.
    Lost(Refusal),
    /// A coordinator has done nothing, for reasons of its own: another one may.
    Elsewhere(Refusal),
}

impl Common {
    /// Waits for an answer until it is `due`.
    pub(super) fn expect(&mut self, now: Time, to: NodeId, due: Time, env: &mut Env) {
        self.open.push(Question { to, since: now, due, late: false });
        env.timers.insert((due, self.op));
    }

    /// Closes the question that is open to a node, and forgets its timer.
    pub(super) fn close(&mut self, node: NodeId, env: &mut Env) -> Option<Question> {
        let at = self.open.iter().position(|question| question.to == node)?;
        let question = self.open.swap_remove(at);
        // Questions that left together share a timer, and one may fall on the deadline.
        let shared = self.open.iter().any(|other| other.due == question.due);
        if !shared && question.due != self.deadline {
            env.timers.remove(&(question.due, self.op));
        }
        Some(question)
    }

    /// Marks the questions that are late now and were not before; whom they were put to.
    pub(super) fn mark_late(&mut self, now: Time) -> Vec<NodeId> {
        let overdue = |question: &&mut Question| question.due <= now && !question.late;
        let late = self.open.iter_mut().filter(overdue);
        late.map(|question| {
            question.late = true;
            question.to
        })
        .collect()
    }

    /// Picks up to `count` further homes to ask, the fastest first; and how many are missing to
    /// that.
    pub(super) fn pick(&mut self, now: Time, count: u8, env: &mut Env) -> (Vec<NodeId>, usize) {
        let mut to: Vec<NodeId> = self.tally.unasked().collect();
        env.sort(now, self.op, &mut to);
        // Whoever is suspected is asked beside another one, not in its place.
        to.sort_by_key(|node| env.view.doubts(*node));
        let count = usize::from(count);
        let doubted = to.iter().take(count).filter(|node| env.view.doubts(**node)).count();
        let missing = count.saturating_sub(to.len() - doubted.min(to.len()));
        to.truncate(count);
        for node in &to {
            self.tally.ask(*node);
        }
        (to, missing)
    }

    /// Notes that these are asked for a copy or a listing.
    pub(super) fn expect_copies(&mut self, now: Time, to: &[NodeId], env: &mut Env) {
        for node in to {
            env.reads.asked(now, *node);
            self.expect(now, *node, now + env.reads.patience(*node), env);
        }
    }

    /// The milliseconds that are left until the deadline.
    pub(super) fn left_ms(&self, now: Time) -> u32 {
        (self.deadline.saturating_since(now) / MILLI) as u32
    }

    /// True if too few are left that may answer.
    pub(super) fn is_hopeless(&self) -> bool {
        self.tally.hopeful() < self.tally.needed()
    }

    /// The answer to a write of which too few confirmed that they hold it: it may happen.
    pub(super) fn unknown(&self) -> Response {
        let (acknowledged, needed) = (self.tally.counted(), self.tally.needed());
        Response::Unknown { acknowledged, needed, timeout_ms: self.timeout_ms }
    }

    /// The answer before the deadline, when too few replicas are left to answer.
    pub(super) fn unreachable(&self, members: &Members) -> Response {
        let (reachable, needed) = (self.tally.hopeful(), self.tally.needed());
        // Who can still answer would have counted.
        let roll = self.roll(members, true);
        Response::Refused(Refusal::Unreachable { reachable, needed, roll })
    }

    /// The answer at the deadline to what changes nothing.
    pub(super) fn no_quorum(&self, members: &Members) -> Response {
        let (answered, needed) = (self.tally.counted(), self.tally.needed());
        let (roll, timeout_ms) = (self.roll(members, false), self.timeout_ms);
        Response::Refused(Refusal::NoQuorum { answered, roll, needed, timeout_ms })
    }

    /// Who took part and who did not.
    fn roll(&self, members: &Members, early: bool) -> Roll {
        let mut roll = Roll::default();
        for (node, answer) in self.tally.nodes() {
            let home = self.tally.is_home(node);
            match answer {
                Answer::Counted => &mut roll.counted,
                Answer::Unasked | Answer::Asked if home && early => &mut roll.counted,
                // That a stand-in has nothing is no news.
                Answer::Uncounted if home => &mut roll.uncounted,
                Answer::Unasked | Answer::Asked | Answer::Failed if home => &mut roll.silent,
                _ => continue,
            }
            .push(members.name(node));
        }
        roll.sort();
        roll
    }
}

/// The siblings of an object; a write that was repeated at two replicas is still one write.
pub(super) fn live_values(object: &Object) -> Vec<Blob> {
    let mut writes = BTreeSet::new();
    object
        .values()
        .filter(|(_, version)| writes.insert(version.write))
        .map(|(_, version)| version.value.clone())
        .collect()
}

/// Who may stand in for a home, in order of preference; nobody if only homes count.
pub(super) type StandIns = VecDeque<NodeId>;
