//! What all kinds of requests in progress have in common.

use std::collections::{BTreeSet, VecDeque};

use smallvec::SmallVec;

use super::Origin;
use super::env::Env;
use crate::causal::Object;
use crate::members::Members;
use crate::message::{Rejection, ReplicaOutcomes, Response};
use crate::node::ids::RequestId;
use crate::quorum::{Answer, QuorumTracker};
use crate::types::{Blob, MILLI, NodeId, Time};

/// What every request in progress has.
#[derive(Clone, Debug)]
pub(super) struct Common {
    pub(super) request_id: RequestId,
    pub(super) origin: Origin,
    pub(super) deadline: Time,
    pub(super) timeout_ms: u32,
    pub(super) quorum_tracker: QuorumTracker,
    /// Questions without an answer so far.
    pub(super) open: SmallVec<[Question; 2]>,
    /// True once the answer has left.
    pub(super) answered: bool,
    /// Bytes of values that it has kept in memory since then.
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

/// The effect of an answer on the request that it belongs to.
pub(super) enum Heard {
    /// The answer changes nothing: no request of this kind expects it.
    Nothing,
    /// A step towards its quorum, or after it.
    Progress,
    /// The answer to the request itself.
    Done(Response),
    /// Its sender has rejected the query.
    Lost(Rejection),
    /// A coordinator has rejected the request for reasons of its own: another one may accept it.
    Elsewhere(Rejection),
}

impl Common {
    /// Waits for an answer until it is `due`.
    pub(super) fn expect(&mut self, now: Time, to: NodeId, due: Time, env: &mut Env) {
        self.open.push(Question { to, since: now, due, late: false });
        env.timers.insert((due, self.request_id));
    }

    /// True if an answer of this node is waited for.
    pub(super) fn is_open(&self, node: NodeId) -> bool {
        self.open.iter().any(|question| question.to == node)
    }

    /// Closes the question that is open to a node, and forgets its timer.
    pub(super) fn close(&mut self, node: NodeId, env: &mut Env) -> Option<Question> {
        let at = self.open.iter().position(|question| question.to == node)?;
        let question = self.open.swap_remove(at);
        // Questions that left together share a timer, and one may fall on the deadline.
        let shared = self.open.iter().any(|other| other.due == question.due);
        if !shared && question.due != self.deadline {
            env.timers.remove(&(question.due, self.request_id));
        }
        Some(question)
    }

    /// Marks the questions that are late now and were not before; returns the nodes that they went
    /// to.
    pub(super) fn mark_late(&mut self, now: Time) -> Vec<NodeId> {
        let overdue = |question: &&mut Question| question.due <= now && !question.late;
        let late = self.open.iter_mut().filter(overdue);
        late.map(|question| {
            question.late = true;
            question.to
        })
        .collect()
    }

    /// Picks up to `count` further owners to query, the fastest first; also returns how many are
    /// missing.
    pub(super) fn pick(&mut self, now: Time, count: u8, env: &mut Env) -> (Vec<NodeId>, usize) {
        let mut to: Vec<NodeId> = self.quorum_tracker.unasked().collect();
        env.sort(now, self.request_id, &mut to);
        // Whoever is suspected is asked beside another one, not in its place.
        to.sort_by_key(|node| env.view.doubts(*node));
        let count = usize::from(count);
        let doubted = to.iter().take(count).filter(|node| env.view.doubts(**node)).count();
        let missing = count.saturating_sub(to.len() - doubted.min(to.len()));
        to.truncate(count);
        for node in &to {
            self.quorum_tracker.query(*node);
        }
        (to, missing)
    }

    /// Notes that these nodes are queried for a copy or a listing.
    pub(super) fn expect_copies(&mut self, now: Time, to: &[NodeId], env: &mut Env) {
        for node in to {
            env.reads.queried(now, *node);
            self.expect(now, *node, now + env.reads.timeout(*node), env);
        }
    }

    /// The milliseconds that are left until the deadline.
    pub(super) fn left_ms(&self, now: Time) -> u32 {
        (self.deadline.saturating_since(now) / MILLI) as u32
    }

    /// True if too few are left that may answer.
    pub(super) fn is_hopeless(&self) -> bool {
        self.quorum_tracker.hopeful() < self.quorum_tracker.needed()
    }

    /// The answer to a write of which too few confirmed that they hold it: it may happen.
    pub(super) fn unknown(&self) -> Response {
        let (acknowledged, needed) = (self.quorum_tracker.counted(), self.quorum_tracker.needed());
        Response::Unknown { acknowledged, needed, timeout_ms: self.timeout_ms }
    }

    /// The answer before the deadline, when too few replicas are left to answer.
    pub(super) fn unreachable(&self, members: &Members) -> Response {
        let (reachable, needed) = (self.quorum_tracker.hopeful(), self.quorum_tracker.needed());
        // Who can still answer would have counted.
        let outcomes = self.outcomes(members, true);
        Response::Refused(Rejection::Unreachable { reachable, needed, outcomes })
    }

    /// The answer at the deadline to what changes nothing.
    pub(super) fn no_quorum(&self, members: &Members) -> Response {
        let (answered, needed) = (self.quorum_tracker.counted(), self.quorum_tracker.needed());
        let (outcomes, timeout_ms) = (self.outcomes(members, false), self.timeout_ms);
        Response::Refused(Rejection::NoQuorum { answered, outcomes, needed, timeout_ms })
    }

    /// The nodes that took part, and those that did not.
    fn outcomes(&self, members: &Members, early: bool) -> ReplicaOutcomes {
        let mut outcomes = ReplicaOutcomes::default();
        for (node, answer) in self.quorum_tracker.nodes() {
            let owner = self.quorum_tracker.is_owner(node);
            match answer {
                Answer::Counted => &mut outcomes.counted,
                Answer::Unasked | Answer::Queried if owner && early => &mut outcomes.counted,
                // That a fallback has nothing is no news.
                Answer::Uncounted if owner => &mut outcomes.uncounted,
                Answer::Unasked | Answer::Queried | Answer::Failed if owner => &mut outcomes.silent,
                _ => continue,
            }
            .push(members.name(node));
        }
        outcomes.sort();
        outcomes
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

/// How many siblings those are.
pub(super) fn count_live(object: &Object) -> usize {
    // A single value is no repetition.
    if object.len() <= 1 { object.len() } else { live_values(object).len() }
}

/// The nodes that may act as a fallback for an owner, in order of preference; none if only owners
/// count.
pub(super) type Fallbacks = VecDeque<NodeId>;
