//! Reads: as many replicas as are needed, the fastest first, one more for each answer that is late, stand-ins when
//! the homes do not suffice; afterwards the repair of those that were behind.

use super::Coordinator;
use super::operation::{Kind, Operation, Question};
use crate::causal::Object;
use crate::message::{Body, Counter};
use crate::node::effects::Effects;
use crate::node::words::EXPLORE;
use crate::types::{Micros, NodeId};
use crate::wire;

impl Coordinator {
    /// Puts a read's question to up to `count` further replicas: homes, and when they are used up, all
    /// stand-ins.
    pub(super) fn ask_more(&mut self, now: Micros, op: u64, count: u8, fx: &mut Effects) {
        let Some(operation) = self.operations.get_mut(&op) else { return };
        let body = match &operation.kind {
            Kind::Get { key, .. } => Body::Read { key: key.clone() },
            Kind::Keys { partition, after, limit_bytes, .. } => Body::List {
                partition: *partition,
                after: after.clone(),
                limit_bytes: *limit_bytes,
            },
            Kind::Forwarded { .. } => return self.forward_on(now, op, fx),
            Kind::Write { .. } => return,
        };
        let mut to: Vec<NodeId> = operation.tally.unasked().collect();
        if !op.is_multiple_of(EXPLORE) {
            self.reads.sort(now, &mut to);
        }
        // Whoever is suspected is asked beside another one, not in its place.
        to.sort_by_key(|node| self.view.doubts(*node));
        let count = usize::from(count);
        let doubted = to.iter().take(count).filter(|node| self.view.doubts(**node)).count();
        let missing = count.saturating_sub(to.len() - doubted.min(to.len()));
        to.truncate(count);
        for node in &to {
            operation.tally.ask(*node);
        }
        if missing > 0 && !operation.stand_ins.is_empty() {
            let homes: Vec<NodeId> = operation.tally.homes().collect();
            fx.count(Counter::ReadsOfStandIns);
            for node in std::mem::take(&mut operation.stand_ins) {
                if !self.view.can_use(node) {
                    continue;
                }
                operation.tally.ask_stand_in(node, &homes);
                to.push(node);
            }
        }
        for node in &to {
            self.reads.asked(now, *node);
            let due = now + self.reads.patience(*node);
            operation.open.push(Question { to: *node, since: now, due, late: false });
            self.timers.insert((due, op));
        }
        fx.send(to, op, body);
    }

    /// Asks one replica more for each answer that is late.
    pub(super) fn hedge(&mut self, now: Micros, op: u64, fx: &mut Effects) {
        let Some(operation) = self.operations.get_mut(&op) else { return };
        let late = mark_late(operation, now).len();
        let more = operation.tally.unasked().next().is_some() || !operation.stand_ins.is_empty();
        if late > 0 && !operation.answered && more {
            fx.count(Counter::ReadsHedged);
            self.ask_more(now, op, late as u8, fx);
        }
    }

    /// Takes a copy; false if it changes nothing for the tally.
    pub(super) fn take_copy(
        operation: &mut Operation,
        from: NodeId,
        (object, generation): (Object, u64),
        authoritative: bool,
        kept_for: &[NodeId],
    ) -> bool {
        let Operation { tally, kind, .. } = operation;
        let Kind::Get { merged, .. } = kind else { return false };
        // What a replica without authority still has is shown; that it lacks something is no word.
        merged.add(from, object, generation);
        if !tally.is_home(from) {
            return tally.count_for(from, kept_for);
        }
        tally.answer(from, authoritative)
    }

    /// Sends what the others had to the replicas that an answered read has seen to be behind.
    pub(super) fn repair(&mut self, op: u64, operation: Operation, fx: &mut Effects) {
        let Operation { tally, kind, .. } = operation;
        let Kind::Get { key, merged } = kind else { return };
        // Everybody who lacks some of it would decline it.
        if wire::encoded_len(&merged.object) > self.config.object_limits.merged {
            return;
        }
        let behind = merged.behind(|node| tally.is_home(node));
        if !self.config.experiment.no_read_repair && !behind.is_empty() {
            fx.count(Counter::ReadsRepaired);
            let generation = merged.generation();
            fx.send(behind, op, Body::Merge { key, object: merged.object, generation });
        }
    }
}

/// Marks the questions that are late now and were not before; whom they were put to.
pub(super) fn mark_late(operation: &mut Operation, now: Micros) -> Vec<NodeId> {
    let overdue = |question: &&mut Question| question.due <= now && !question.late;
    let late = operation.open.iter_mut().filter(overdue);
    late.map(|question| {
        question.late = true;
        question.to
    })
    .collect()
}
