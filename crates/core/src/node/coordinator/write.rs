//! Writes: from the replica that issues to all owners at once; an owner that cannot be reached or
//! is late is replaced by a fallback, which keeps the object as a hint for it.

use std::collections::BTreeSet;

use super::common::{Common, Fallbacks, Heard, live_values};
use super::env::Env;
use crate::causal::{Context, Dot, Object};
use crate::gc_epoch::GcEpoch;
use crate::message::{Body, Counter, Response};
use crate::node::io::Io;
use crate::types::{Key, Micros, NodeId, Time};
use crate::wire;

/// An owner that is late after the client was answered gets a hint after so many times its timeout,
const STRAGGLER: u64 = 4;
/// and not before this time has passed.
const MIN_STRAGGLE: Micros = Micros::from_millis(500);

/// A write in progress.
#[derive(Clone, Debug)]
pub(super) struct WriteOp {
    pub(super) common: Common,
    pub(super) key: Key,
    pub(super) seen: Context,
    /// `None` until the own replica has issued.
    pub(super) issued: Option<Issued>,
    pub(super) fallbacks: Fallbacks,
    /// Owners that this node keeps the write for itself, because fallbacks is missing.
    pub(super) kept_here: BTreeSet<NodeId>,
}

/// What the replica that coordinates a write has made.
#[derive(Clone, Debug)]
pub(super) struct Issued {
    pub(super) object: Object,
    dot: Option<Dot>,
    /// The GC epoch of the object.
    gc_epoch: GcEpoch,
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
        io: &mut Io,
    ) -> Heard {
        let own = from == env.config.me;
        match (&self.issued, body) {
            (None, Body::Updated { object, dot, gc_epoch }) if own => {
                self.spread(now, Issued { object, dot, gc_epoch, at: now }, env, io);
                Heard::Progress
            }
            (None, Body::Failed(rejection)) if own => Heard::Done(Response::Refused(rejection)),
            (Some(issued), Body::Ack) => {
                let is_first = self.common.quorum_tracker.count(from);
                let own = own && is_first;
                if let Some(took) = took.or(own.then(|| now.saturating_since(issued.at))) {
                    env.recent.wrote(from, took);
                }
                Heard::Progress
            }
            // What was issued here is held here; only a hint beside it can have been refused.
            (Some(_), Body::Failed(_)) if own => Heard::Nothing,
            (_, Body::Failed(rejection)) => Heard::Lost(rejection),
            _ => Heard::Nothing,
        }
    }

    /// The own replica has issued: the object goes to the other owners at once, and to fallbacks
    /// for those that cannot be reached or may not answer.
    fn spread(&mut self, now: Time, made: Issued, env: &mut Env, io: &mut Io) {
        let (key, gc_epoch) = (self.key.clone(), made.gc_epoch);
        let merge = Body::Merge { key, object: made.object.clone(), gc_epoch };
        self.issued = Some(made);
        let quorum_tracker = &mut self.common.quorum_tracker;
        let owners: Vec<NodeId> = quorum_tracker.unasked().collect();
        let (to, lost): (Vec<NodeId>, Vec<NodeId>) =
            owners.into_iter().partition(|owner| env.view.can_use(*owner));
        for owner in lost {
            quorum_tracker.fail(owner);
        }
        let gone: Vec<NodeId> =
            quorum_tracker.uncovered().filter(|owner| !to.contains(owner)).collect();
        for owner in &to {
            quorum_tracker.query(*owner);
        }
        let quiet = |owner: &NodeId| env.view.doubts(*owner) || env.writes.is_silent(now, *owner);
        let quiet: Vec<NodeId> = to.iter().copied().filter(quiet).collect();
        let sure = quorum_tracker.hopeful().saturating_sub(quiet.len() as u8);
        let short = usize::from(quorum_tracker.needed().saturating_sub(sure));
        io.out.send(to.clone(), self.common.request_id, merge);
        for owner in to {
            self.expect_ack(now, owner, env);
        }
        // Those that may not answer are replaced as far as the client would have to wait for them.
        for owner in gone.into_iter().chain(quiet.into_iter().take(short)) {
            self.replace(now, owner, env, io);
        }
    }

    /// Waits for a node's confirmation.
    fn expect_ack(&mut self, now: Time, to: NodeId, env: &mut Env) {
        env.writes.queried(now, to);
        self.common.expect(now, to, now + env.writes.timeout(to), env);
    }

    /// Has the next fallback keep the object for this owner. When there is none left, this node
    /// keeps it itself, which counts for nothing more. Nothing is kept before it is made.
    fn replace(&mut self, now: Time, owner: NodeId, env: &mut Env, io: &mut Io) {
        let Some(issued) = &self.issued else { return };
        let is_open = self.common.quorum_tracker.uncovered().any(|open| open == owner);
        if owner == env.config.me || !is_open {
            return;
        }
        while let Some(node) = self.fallbacks.pop_front() {
            if env.view.can_use(node) {
                io.out.count(Counter::FallbacksQueried);
                self.common.quorum_tracker.query_fallback(node, &[owner]);
                io.out.send(vec![node], self.common.request_id, hint(&self.key, issued, owner));
                return self.expect_ack(now, node, env);
            }
        }
        self.hint_here(owner, env, io);
    }

    /// Keeps the object for this owner at this node, which may have it from its own record should
    /// it have grown too old.
    fn hint_here(&mut self, owner: NodeId, env: &Env, io: &mut Io) {
        let me = env.config.me;
        let Some(issued) = &self.issued else { return };
        // A fallback that coordinates keeps it for all owners already.
        if owner != me && self.common.quorum_tracker.is_owner(me) && self.kept_here.insert(owner) {
            io.out.send(vec![me], self.common.request_id, hint(&self.key, issued, owner));
        }
    }

    /// Answers when enough have confirmed it; asks fallbacks for as many slots as are missing,
    /// should all that were asked answer.
    pub(super) fn advance(&mut self, now: Time, env: &mut Env, io: &mut Io) -> Option<Response> {
        let issued = self.issued.as_ref()?;
        if self.common.quorum_tracker.reached() {
            return Some(self.written(issued));
        }
        let missing = usize::from(self.common.quorum_tracker.missing());
        let owners: Vec<NodeId> = self.common.quorum_tracker.uncovered().take(missing).collect();
        for owner in owners {
            self.replace(now, owner, env, io);
        }
        let hopeless = self.common.is_hopeless() && self.fallbacks.is_empty();
        hopeless.then(|| self.common.unknown())
    }

    /// The answer once the quorum is reached.
    fn written(&self, issued: &Issued) -> Response {
        let Issued { object, dot, .. } = issued;
        let context = match *dot {
            Some(dot) => object.context_of_writer(&self.seen, dot),
            None => self.seen.clone(),
        };
        let siblings = live_values(object).len() as u32;
        Response::Written { dot: *dot, context: wire::seal(&self.key, &context), siblings }
    }

    /// Replaces the owners that are late: at once while the client waits for them, and later when
    /// only the copies are incomplete.
    pub(super) fn chase(&mut self, now: Time, env: &mut Env, io: &mut Io) {
        let mut replaced = self.common.mark_late(now);
        if self.common.answered {
            for question in &mut self.common.open {
                let timeout = (STRAGGLER * env.writes.timeout(question.to)).max(MIN_STRAGGLE);
                let due = question.since + timeout;
                if replaced.contains(&question.to) && due > now {
                    (question.due, question.late) = (due, false);
                    env.timers.insert((due, self.common.request_id));
                    replaced.retain(|owner| *owner != question.to);
                }
            }
        } else if !replaced.is_empty() {
            io.out.count(Counter::WritesHedged);
        }
        // Others act as a fallback for the owner that a late node is, or for those that it acts as
        // a fallback for.
        for node in replaced {
            for owner in self.common.quorum_tracker.pass_over(node) {
                self.replace(now, owner, env, io);
            }
        }
    }

    /// A node will not answer any more: others act as a fallback for the owner it was, or for the
    /// owners that it acted as a fallback for.
    pub(super) fn lose(&mut self, now: Time, node: NodeId, env: &mut Env, io: &mut Io) {
        let its = self.common.quorum_tracker.pass_over(node);
        self.common.quorum_tracker.fail(node);
        let lost = |owner: &NodeId| its.contains(owner) || !env.view.can_use(*owner);
        let open: Vec<NodeId> = self.common.quorum_tracker.uncovered().filter(lost).collect();
        for owner in open {
            self.replace(now, owner, env, io);
        }
    }

    /// True if it waits for nothing any more, once it is answered.
    pub(super) fn is_over(&self) -> bool {
        self.issued.is_none() || self.common.open.is_empty() || self.common.quorum_tracker.is_full()
    }

    /// Voids its update if that has not been carried out by the deadline: nobody waits for it any
    /// more.
    pub(super) fn withdraw(&self, env: &Env, io: &mut Io) {
        if self.issued.is_none() {
            io.out.count(Counter::WritesWithdrawn);
            let withdraw = Body::Withdraw { key: self.key.clone() };
            io.out.send(vec![env.config.me], self.common.request_id, withdraw);
        }
    }

    /// Ends it: for whoever has not confirmed it this node keeps a hint, whether or not it will
    /// yet. A fallback could refuse, and nobody would listen any more.
    pub(super) fn leave_hints(mut self, env: &Env, io: &mut Io) {
        for question in &self.common.open {
            self.common.quorum_tracker.pass_over(question.to);
        }
        let owners: Vec<NodeId> = self.common.quorum_tracker.uncovered().collect();
        for owner in owners {
            self.hint_here(owner, env, io);
        }
    }
}

/// The order to keep what was issued for this owner.
fn hint(key: &Key, issued: &Issued, owner: NodeId) -> Body {
    let Issued { object, gc_epoch, .. } = issued.clone();
    Body::StoreHint { key: key.clone(), object, hint_for: vec![owner], gc_epoch }
}
