//! Writes: from the replica that mints to all homes at once; a home that cannot be reached or is
//! late is replaced by a stand-in, which keeps the object as a hint for it.

use std::collections::BTreeSet;

use super::common::{Common, Heard, StandIns, live_values};
use super::env::Env;
use crate::causal::{Context, Dot, Object};
use crate::generation::GcEpoch;
use crate::message::{Body, Counter, Response};
use crate::node::effects::Effects;
use crate::types::{Key, Micros, NodeId, Time};
use crate::wire;

/// A home that is late after the client was answered gets a hint after so many times its patience,
const STRAGGLER: u64 = 4;
/// and not before this time has passed.
const MIN_STRAGGLE: Micros = Micros::from_millis(500);

/// A write under way.
#[derive(Clone, Debug)]
pub(super) struct WriteOp {
    pub(super) common: Common,
    pub(super) key: Key,
    pub(super) seen: Context,
    /// `None` until the own replica has minted.
    pub(super) minted: Option<Minted>,
    pub(super) stand_ins: StandIns,
    /// Homes that this node keeps the write for itself, for want of stand-ins.
    pub(super) kept_here: BTreeSet<NodeId>,
}

/// What the replica that coordinates a write has made.
#[derive(Clone, Debug)]
pub(super) struct Minted {
    pub(super) object: Object,
    dot: Option<Dot>,
    /// The generation of the object.
    generation: GcEpoch,
    /// When it was made.
    at: Time,
}

impl WriteOp {
    /// Takes what a node has said, `took` after it was asked.
    pub(super) fn answer(
        &mut self,
        now: Time,
        from: NodeId,
        took: Option<Micros>,
        body: Body,
        env: &mut Env,
        fx: &mut Effects,
    ) -> Heard {
        let own = from == env.config.me;
        match (&self.minted, body) {
            (None, Body::Updated { object, dot, generation }) if own => {
                self.spread(now, Minted { object, dot, generation, at: now }, env, fx);
                Heard::Progress
            }
            (None, Body::Failed(refusal)) if own => Heard::Done(Response::Refused(refusal)),
            (Some(minted), Body::Held) => {
                let is_first = self.common.tally.count(from);
                let own = own && is_first;
                if let Some(took) = took.or(own.then(|| now.saturating_since(minted.at))) {
                    env.recent.wrote(from, took);
                }
                Heard::Progress
            }
            // What was minted here is held here; only a hint beside it can have been refused.
            (Some(_), Body::Failed(_)) if own => Heard::Nothing,
            (_, Body::Failed(refusal)) => Heard::Lost(refusal),
            _ => Heard::Nothing,
        }
    }

    /// The own replica has minted: the object goes to the other homes at once, and to stand-ins for
    /// those that cannot be reached or may not answer.
    fn spread(&mut self, now: Time, made: Minted, env: &mut Env, fx: &mut Effects) {
        let (key, generation) = (self.key.clone(), made.generation);
        let merge = Body::Merge { key, object: made.object.clone(), generation };
        self.minted = Some(made);
        let tally = &mut self.common.tally;
        let homes: Vec<NodeId> = tally.unasked().collect();
        let (to, lost): (Vec<NodeId>, Vec<NodeId>) =
            homes.into_iter().partition(|home| env.view.can_use(*home));
        for home in lost {
            tally.fail(home);
        }
        let gone: Vec<NodeId> = tally.uncovered().filter(|home| !to.contains(home)).collect();
        for home in &to {
            tally.ask(*home);
        }
        let quiet = |home: &NodeId| env.view.doubts(*home) || env.writes.is_silent(now, *home);
        let quiet: Vec<NodeId> = to.iter().copied().filter(quiet).collect();
        let sure = tally.hopeful().saturating_sub(quiet.len() as u8);
        let short = usize::from(tally.needed().saturating_sub(sure));
        fx.out.send(to.clone(), self.common.op, merge);
        for home in to {
            self.expect_held(now, home, env);
        }
        // Those that may not answer are replaced as far as the client would have to wait for them.
        for home in gone.into_iter().chain(quiet.into_iter().take(short)) {
            self.replace(now, home, env, fx);
        }
    }

    /// Waits for a node's confirmation.
    fn expect_held(&mut self, now: Time, to: NodeId, env: &mut Env) {
        env.writes.asked(now, to);
        self.common.expect(now, to, now + env.writes.patience(to), env);
    }

    /// Has the next stand-in keep the object for this home. When there is none left, this node
    /// keeps it itself, which counts for nothing more. Nothing is kept before it is made.
    fn replace(&mut self, now: Time, home: NodeId, env: &mut Env, fx: &mut Effects) {
        let Some(minted) = &self.minted else { return };
        let is_open = self.common.tally.uncovered().any(|open| open == home);
        if home == env.config.me || !is_open {
            return;
        }
        while let Some(node) = self.stand_ins.pop_front() {
            if env.view.can_use(node) {
                fx.out.count(Counter::StandInsAsked);
                self.common.tally.ask_stand_in(node, &[home]);
                fx.out.send(vec![node], self.common.op, hint(&self.key, minted, home));
                return self.expect_held(now, node, env);
            }
        }
        self.keep_here(home, env, fx);
    }

    /// Keeps the object for this home at this node, which may have it from its own record should it
    /// have grown too old.
    fn keep_here(&mut self, home: NodeId, env: &Env, fx: &mut Effects) {
        let me = env.config.me;
        let Some(minted) = &self.minted else { return };
        // A stand-in that coordinates keeps it for all homes already.
        if home != me && self.common.tally.is_home(me) && self.kept_here.insert(home) {
            fx.out.send(vec![me], self.common.op, hint(&self.key, minted, home));
        }
    }

    /// Answers when enough have confirmed it; asks stand-ins for as many slots as are missing,
    /// should all that were asked answer.
    pub(super) fn advance(
        &mut self,
        now: Time,
        env: &mut Env,
        fx: &mut Effects,
    ) -> Option<Response> {
        let minted = self.minted.as_ref()?;
        if self.common.tally.reached() {
            return Some(self.written(minted));
        }
        let missing = usize::from(self.common.tally.missing());
        let homes: Vec<NodeId> = self.common.tally.uncovered().take(missing).collect();
        for home in homes {
            self.replace(now, home, env, fx);
        }
        let hopeless = self.common.is_hopeless() && self.stand_ins.is_empty();
        hopeless.then(|| self.common.unknown())
    }

    /// The answer once the quorum is reached.
    fn written(&self, minted: &Minted) -> Response {
        let Minted { object, dot, .. } = minted;
        let context = match *dot {
            Some(dot) => object.context_of_writer(&self.seen, dot),
            None => self.seen.clone(),
        };
        let siblings = live_values(object).len() as u32;
        Response::Written { dot: *dot, context: wire::seal(&self.key, &context), siblings }
    }

    /// Replaces the homes that are late: at once while the client waits for them, and later when
    /// only the copies are incomplete.
    pub(super) fn chase(&mut self, now: Time, env: &mut Env, fx: &mut Effects) {
        let mut replaced = self.common.mark_late(now);
        if self.common.answered {
            for question in &mut self.common.open {
                let patience = (STRAGGLER * env.writes.patience(question.to)).max(MIN_STRAGGLE);
                let due = question.since + patience;
                if replaced.contains(&question.to) && due > now {
                    (question.due, question.late) = (due, false);
                    env.timers.insert((due, self.common.op));
                    replaced.retain(|home| *home != question.to);
                }
            }
        } else if !replaced.is_empty() {
            fx.out.count(Counter::WritesHedged);
        }
        // Others stand in for the home that a late node is, or for those that it stands in for.
        for node in replaced {
            for home in self.common.tally.pass_over(node) {
                self.replace(now, home, env, fx);
            }
        }
    }

    /// A node will not answer any more: others stand in for the home it was, or for the homes that
    /// it stood in for.
    pub(super) fn lose(&mut self, now: Time, node: NodeId, env: &mut Env, fx: &mut Effects) {
        let its = self.common.tally.pass_over(node);
        self.common.tally.fail(node);
        let lost = |home: &NodeId| its.contains(home) || !env.view.can_use(*home);
        let open: Vec<NodeId> = self.common.tally.uncovered().filter(lost).collect();
        for home in open {
            self.replace(now, home, env, fx);
        }
    }

    /// True if it waits for nothing any more, once it is answered.
    pub(super) fn is_over(&self) -> bool {
        self.minted.is_none() || self.common.open.is_empty() || self.common.tally.is_full()
    }

    /// Voids its update if that has not been carried out by the deadline: nobody waits for it any
    /// more.
    pub(super) fn withdraw(&self, env: &Env, fx: &mut Effects) {
        if self.minted.is_none() {
            fx.out.count(Counter::WritesWithdrawn);
            let withdraw = Body::Withdraw { key: self.key.clone() };
            fx.out.send(vec![env.config.me], self.common.op, withdraw);
        }
    }

    /// Ends it: for whoever has not confirmed it this node keeps a hint, whether or not it will
    /// yet. A stand-in could refuse, and nobody would listen any more.
    pub(super) fn leave_hints(mut self, env: &Env, fx: &mut Effects) {
        for question in &self.common.open {
            self.common.tally.pass_over(question.to);
        }
        let homes: Vec<NodeId> = self.common.tally.uncovered().collect();
        for home in homes {
            self.keep_here(home, env, fx);
        }
    }
}

/// The order to keep what was minted for this home.
fn hint(key: &Key, minted: &Minted, home: NodeId) -> Body {
    let Minted { object, generation, .. } = minted.clone();
    Body::Keep { key: key.clone(), object, keep_for: vec![home], generation }
}
