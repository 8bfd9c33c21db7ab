//! A request under way: what all kinds of it have in common, and which kind it is.

use std::collections::{BTreeSet, VecDeque};

use super::Origin;
use super::env::Env;
use super::forward::ForwardOp;
use super::list::ListOp;
use super::read::ReadOp;
use super::write::WriteOp;
use crate::causal::Object;
use crate::members::Members;
use crate::message::{Refusal, Response, Roll};
use crate::node::effects::Effects;
use crate::node::ids::RequestId;
use crate::tally::{Answer, Tally};
use crate::types::{Blob, Key, MILLI, Micros, NodeId};

/// A request under way, by what it does.
#[derive(Clone, Debug)]
pub(super) enum Operation {
    Read(ReadOp),
    List(ListOp),
    Write(WriteOp),
    Forward(ForwardOp),
}

/// What every request under way has.
#[derive(Clone, Debug)]
pub(super) struct Common {
    pub(super) op: RequestId,
    pub(super) origin: Origin,
    pub(super) deadline: Micros,
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
    pub(super) since: Micros,
    /// When the answer is late.
    pub(super) due: Micros,
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

impl Operation {
    pub(super) fn common(&self) -> &Common {
        match self {
            Operation::Read(read) => &read.common,
            Operation::List(list) => &list.common,
            Operation::Write(write) => &write.common,
            Operation::Forward(forward) => &forward.common,
        }
    }

    pub(super) fn common_mut(&mut self) -> &mut Common {
        match self {
            Operation::Read(read) => &mut read.common,
            Operation::List(list) => &mut list.common,
            Operation::Write(write) => &mut write.common,
            Operation::Forward(forward) => &mut forward.common,
        }
    }

    /// A node will not answer any more.
    pub(super) fn lose(&mut self, now: Micros, node: NodeId, env: &mut Env, fx: &mut Effects) {
        match self {
            Operation::Write(write) => write.lose(now, node, env, fx),
            Operation::Read(ReadOp { common, .. })
            | Operation::List(ListOp { common, .. })
            | Operation::Forward(ForwardOp { common, .. }) => drop(common.tally.fail(node)),
        }
    }

    /// Asks on for what is missing of the quorum. Gives the answer once the quorum is reached, or
    /// cannot be reached any more.
    pub(super) fn advance(
        &mut self,
        now: Micros,
        env: &mut Env,
        fx: &mut Effects,
    ) -> Option<Response> {
        match self {
            Operation::Read(read) => read.advance(now, env, fx),
            Operation::List(list) => list.advance(now, env, fx),
            Operation::Write(write) => write.advance(now, env, fx),
            Operation::Forward(forward) => forward.advance(now, env, fx),
        }
    }

    /// Asks others beside those that are late now.
    pub(super) fn hedge(&mut self, now: Micros, env: &mut Env, fx: &mut Effects) {
        match self {
            Operation::Read(read) => read.hedge(now, env, fx),
            Operation::List(list) => list.hedge(now, env, fx),
            Operation::Write(write) => write.chase(now, env, fx),
            Operation::Forward(forward) => forward.hedge(now, env, fx),
        }
    }

    /// The answer at the deadline: a write that was sent may still happen.
    pub(super) fn expire(&self, env: &Env, fx: &Effects) -> Response {
        match self {
            Operation::Read(read) => read.expire(env, fx),
            Operation::List(list) => list.expire(env, fx),
            Operation::Write(write) => write.common.unknown(),
            Operation::Forward(forward) => forward.expire(env),
        }
    }

    /// True if it waits for nothing any more, once it is answered.
    pub(super) fn is_over(&self) -> bool {
        match self {
            Operation::Read(read) => read.common.open.is_empty(),
            Operation::Write(write) => write.is_over(),
            Operation::List(_) | Operation::Forward(_) => true,
        }
    }

    /// Bytes of values that it keeps in memory.
    pub(super) fn bytes(&self) -> usize {
        let object = match self {
            Operation::Read(read) => Some(&read.merged.object),
            Operation::Write(write) => write.minted.as_ref().map(|minted| &minted.object),
            Operation::List(_) | Operation::Forward(_) => None,
        };
        let values = object.into_iter().flat_map(|object| object.values());
        values.map(|(_, version)| version.value.0.len()).sum()
    }

    /// True if it is a write of the key that may not have been carried out yet.
    pub(super) fn may_write(&self, key: &Key) -> bool {
        match self {
            Operation::Write(write) => write.key == *key && write.minted.is_none(),
            Operation::Forward(forward) => forward.writes && forward.request.key() == Some(key),
            Operation::Read(_) | Operation::List(_) => false,
        }
    }
}

impl Common {
    /// Waits for an answer until it is `due`.
    pub(super) fn expect(&mut self, now: Micros, to: NodeId, due: Micros, env: &mut Env) {
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
    pub(super) fn mark_late(&mut self, now: Micros) -> Vec<NodeId> {
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
    pub(super) fn pick(&mut self, now: Micros, count: u8, env: &mut Env) -> (Vec<NodeId>, usize) {
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
    pub(super) fn expect_copies(&mut self, now: Micros, to: &[NodeId], env: &mut Env) {
        for node in to {
            env.reads.asked(now, *node);
            self.expect(now, *node, now + env.reads.patience(*node), env);
        }
    }

    /// The milliseconds that are left until the deadline.
    pub(super) fn left_ms(&self, now: Micros) -> u32 {
        (self.deadline.saturating_sub(now) / MILLI) as u32
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
