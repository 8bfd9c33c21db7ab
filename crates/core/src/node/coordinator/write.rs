//! Writes: from the replica that mints to all homes at once; a home that cannot be reached or is late is replaced by
//! a stand-in, which keeps the object as a hint for it.

use super::Coordinator;
use super::operation::{Kind, Minted, Question};
use super::read::mark_late;
use crate::message::{Body, Counter};
use crate::node::effects::Effects;
use crate::types::{Key, MILLI, Micros, NodeId};

/// A home that is late after the client was answered gets a hint after so many times its patience,
const STRAGGLER: u64 = 4;
/// and not before this time has passed.
const MIN_STRAGGLE: Micros = 500 * MILLI;

impl Coordinator {
    /// The own replica has minted: the object goes to the other homes at once, and to stand-ins for those that
    /// cannot be reached or may not answer.
    pub(super) fn spread(&mut self, now: Micros, op: u64, made: Minted, fx: &mut Effects) {
        let Some(operation) = self.operations.get_mut(&op) else { return };
        let Kind::Write { key, minted, .. } = &mut operation.kind else { return };
        let (key, generation) = (key.clone(), made.generation);
        let merge = Body::Merge { key, object: made.object.clone(), generation };
        *minted = Some(made);
        let homes: Vec<NodeId> = operation.tally.unasked().collect();
        let (to, lost): (Vec<NodeId>, Vec<NodeId>) =
            homes.into_iter().partition(|home| self.view.can_use(*home));
        for home in lost {
            operation.tally.fail(home);
        }
        let gone: Vec<NodeId> =
            operation.tally.uncovered().filter(|home| !to.contains(home)).collect();
        for home in &to {
            operation.tally.ask(*home);
        }
        let quiet = |home: &NodeId| self.view.doubts(*home) || self.writes.is_silent(now, *home);
        let quiet: Vec<NodeId> = to.iter().copied().filter(quiet).collect();
        let sure = operation.tally.hopeful().saturating_sub(quiet.len() as u8);
        let short = usize::from(operation.tally.needed().saturating_sub(sure));
        fx.send(to.clone(), op, merge);
        for home in to {
            self.expect_held(now, op, home);
        }
        // Those that may not answer are replaced as far as the client would have to wait for them.
        for home in gone.into_iter().chain(quiet.into_iter().take(short)) {
            self.replace(now, op, home, fx);
        }
    }

    /// Waits for a node's confirmation.
    fn expect_held(&mut self, now: Micros, op: u64, to: NodeId) {
        let Some(operation) = self.operations.get_mut(&op) else { return };
        self.writes.asked(now, to);
        let due = now + self.writes.patience(to);
        operation.open.push(Question { to, since: now, due, late: false });
        self.timers.insert((due, op));
    }

    /// Has the next stand-in keep the object for this home. When there is none left, this node keeps it itself,
    /// which counts for nothing more.
    pub(super) fn replace(&mut self, now: Micros, op: u64, home: NodeId, fx: &mut Effects) {
        let Some(operation) = self.operations.get_mut(&op) else { return };
        let Kind::Write { key, minted: Some(minted), .. } = &operation.kind else { return };
        if home == self.config.me || !operation.tally.uncovered().any(|open| open == home) {
            return;
        }
        while let Some(node) = operation.stand_ins.pop_front() {
            if self.view.can_use(node) {
                fx.count(Counter::StandInsAsked);
                operation.tally.ask_stand_in(node, &[home]);
                fx.send(vec![node], op, hint(key, minted, home));
                return self.expect_held(now, op, node);
            }
        }
        self.keep_here(op, home, fx);
    }

    /// Keeps the object for this home at this node, which may have it from its own record should it have grown too old.
    fn keep_here(&mut self, op: u64, home: NodeId, fx: &mut Effects) {
        let me = self.config.me;
        let Some(operation) = self.operations.get_mut(&op) else { return };
        let Kind::Write { key, minted: Some(minted), .. } = &operation.kind else { return };
        // A stand-in that coordinates keeps it for all homes already.
        if home != me && operation.tally.is_home(me) && operation.kept_here.insert(home) {
            fx.send(vec![me], op, hint(key, minted, home));
        }
    }

    /// Asks stand-ins for as many slots as are missing, should all that were asked answer.
    pub(super) fn fill_up(&mut self, now: Micros, op: u64, fx: &mut Effects) {
        let Some(operation) = self.operations.get(&op) else { return };
        let missing = usize::from(operation.tally.missing());
        let homes: Vec<NodeId> = operation.tally.uncovered().take(missing).collect();
        for home in homes {
            self.replace(now, op, home, fx);
        }
    }

    /// Replaces the homes that are late: at once while the client waits for them, and later when only the copies
    /// are incomplete.
    pub(super) fn chase(&mut self, now: Micros, op: u64, fx: &mut Effects) {
        let Some(operation) = self.operations.get_mut(&op) else { return };
        let mut replaced = mark_late(operation, now);
        if operation.answered {
            let patience =
                |home: NodeId| (STRAGGLER * self.writes.patience(home)).max(MIN_STRAGGLE);
            for question in &mut operation.open {
                let due = question.since + patience(question.to);
                if replaced.contains(&question.to) && due > now {
                    (question.due, question.late) = (due, false);
                    self.timers.insert((due, op));
                    replaced.retain(|home| *home != question.to);
                }
            }
        } else if !replaced.is_empty() {
            fx.count(Counter::WritesHedged);
        }
        for node in replaced {
            self.pass_over(now, op, node, fx);
        }
    }

    /// Does not wait for a node any longer: others stand in for the home it is, or for those that it stands in for.
    fn pass_over(&mut self, now: Micros, op: u64, node: NodeId, fx: &mut Effects) {
        let Some(operation) = self.operations.get_mut(&op) else { return };
        for home in operation.tally.pass_over(node) {
            self.replace(now, op, home, fx);
        }
    }

    /// Ends a write: for whoever has not confirmed it this node keeps a hint, whether or not it will yet. A stand-in could
    /// refuse, and nobody would listen any more.
    pub(super) fn leave_hints(&mut self, op: u64, fx: &mut Effects) {
        let Some(operation) = self.operations.get_mut(&op) else { return };
        let open: Vec<NodeId> = operation.open.iter().map(|question| question.to).collect();
        for node in open {
            operation.tally.pass_over(node);
        }
        let homes: Vec<NodeId> = operation.tally.uncovered().collect();
        for home in homes {
            self.keep_here(op, home, fx);
        }
    }
}

/// The order to keep what was minted for this home.
fn hint(key: &Key, minted: &Minted, home: NodeId) -> Body {
    let Minted { object, generation, .. } = minted.clone();
    Body::Keep { key: key.clone(), object, keep_for: vec![home], generation }
}
