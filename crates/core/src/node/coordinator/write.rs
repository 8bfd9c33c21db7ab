//! Writes: the own replica issues the dot, and the object goes to all owners at once. A fallback
//! takes the place of an owner that cannot be reached or is late, and keeps the object as a hint
//! for it.

use std::collections::BTreeSet;

use super::common::{Common, Fallbacks, Heard, count_live};
use super::env::Env;
use super::plan::{Basis, Decision, Writing};
use super::read::Merged;
use crate::causal::{Context, Dot, Object};
use crate::gc_epoch::GcEpoch;
use crate::message::{Body, Counter, Rejection, Response};
use crate::node::io::Io;
use crate::types::{Key, Micros, NodeId, Nodes, Time};
use crate::wire;

/// An owner that is late after the client was answered gets a hint after this many times its
/// timeout.
const STRAGGLER: u64 = 4;
/// Shortest time after which such an owner gets a hint.
const MIN_STRAGGLE: Micros = Micros::from_millis(500);

/// A write in progress.
#[derive(Clone, Debug)]
pub(super) struct WriteOp {
    pub(super) common: Common,
    pub(super) key: Key,
    pub(super) seen: Context,
    /// True if what it covers is decided with the dot: until then nothing has happened.
    pub(super) is_decided: bool,
    /// What to answer in the place of "absent", if fewer than R owners were read: only those who
    /// know report that.
    pub(super) unread: Option<Response>,
    /// `None` until the own replica has issued.
    pub(super) issued: Option<Issued>,
    pub(super) fallbacks: Fallbacks,
    /// Owners that this node keeps the write for itself, because there are no fallbacks.
    pub(super) kept_here: BTreeSet<NodeId>,
}

/// What the replica that coordinates a write has made.
#[derive(Clone, Debug)]
pub(super) struct Issued {
    pub(super) object: Object,
    dot: Option<Dot>,
    /// The epoch stamp of the object.
    pub(super) gc_epoch: GcEpoch,
    /// When the write was issued.
    at: Time,
}

impl WriteOp {
    /// Has the own replica carry the change out: in its own record, or at a fallback in hints for
    /// all owners. What is decided is decided there, on what the owners have answered.
    pub(super) fn begin(
        mut common: Common,
        mut fallbacks: Fallbacks,
        writing: Writing,
        answers: &Merged,
        env: &Env,
        io: &mut Io,
    ) -> Self {
        let me = env.config.me;
        let hint_for = if common.quorum_tracker.is_owner(me) {
            common.quorum_tracker.query(me);
            Vec::new()
        } else {
            io.out.count(Counter::WritesCoordinatedByAFallback);
            fallbacks.retain(|node| *node != me);
            common.quorum_tracker.query_own_fallback(me);
            common.quorum_tracker.owners().collect()
        };
        let Writing { key, basis, change } = writing;
        let of = key.clone();
        let (seen, is_decided, body) = match basis {
            Basis::Seen(seen) => {
                let context = seen.clone();
                (seen, false, Body::Update { key: of, context, change, hint_for })
            }
            Basis::Decision(Decision { premise, .. }) => {
                let (answers, gc_epoch) = (answers.object.clone(), answers.gc_epoch());
                let body = Body::Decide { key: of, premise, answers, gc_epoch, change, hint_for };
                (Context::default(), true, body)
            }
        };
        io.out.send_to(me, common.request_id, body);
        let (issued, kept_here) = (None, BTreeSet::new());
        let unread = None;
        WriteOp { common, key, seen, is_decided, unread, issued, fallbacks, kept_here }
    }

    /// Handles a node's answer, which came `took` after the query.
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
            (None, Body::Failed(rejection)) if own => Heard::Done(match self.unread.take() {
                Some(unread) if rejection == Rejection::Absent => unread,
                _ => Response::Refused(rejection),
            }),
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

    /// The node's own replica has issued the dot: sends the object to the other owners at once, and
    /// to fallbacks for those that cannot be reached or may not answer.
    pub(super) fn spread(&mut self, now: Time, made: Issued, env: &mut Env, io: &mut Io) {
        let (key, gc_epoch) = (self.key.clone(), made.gc_epoch);
        let merge = Body::Merge { key, object: made.object.clone(), gc_epoch };
        self.issued = Some(made);
        let quorum_tracker = &mut self.common.quorum_tracker;
        let owners: Nodes = quorum_tracker.unasked().collect();
        let (to, lost): (Nodes, Nodes) =
            owners.into_iter().partition(|owner| env.view.can_use(*owner));
        for owner in lost {
            quorum_tracker.fail(owner);
        }
        let gone: Nodes = quorum_tracker.uncovered().filter(|owner| !to.contains(owner)).collect();
        for owner in &to {
            quorum_tracker.query(*owner);
        }
        let quiet = |owner: &NodeId| env.view.doubts(*owner) || env.writes.is_silent(now, *owner);
        let quiet: Nodes = to.iter().copied().filter(quiet).collect();
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

    /// Sends the object to the next fallback as a hint for this owner. When there is none left,
    /// this node keeps the hint, which fills no further slot. No hint is sent before the object
    /// exists.
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
                io.out.send_to(node, self.common.request_id, hint(&self.key, issued, owner));
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
        // A fallback that coordinates keeps it for all owners already; who has lost its place since
        // gets nothing more.
        let ring = &env.config.ring;
        let is_owner = |node: NodeId| ring.is_owner(ring.partition(&self.key), node);
        let is_due = owner != me && is_owner(owner) && self.common.quorum_tracker.is_owner(me);
        if is_due && self.kept_here.insert(owner) {
            io.out.send_to(me, self.common.request_id, hint(&self.key, issued, owner));
        }
    }

    /// Answers when enough have confirmed it; asks fallbacks for as many slots as are missing,
    /// should all that were asked answer.
    pub(super) fn advance(&mut self, now: Time, env: &mut Env, io: &mut Io) -> Option<Response> {
        let issued = self.issued.as_ref()?;
        if self.common.quorum_tracker.reached() {
            return Some(self.written(issued));
        }
        for owner in self.common.quorum_tracker.wanting() {
            self.replace(now, owner, env, io);
        }
        let hopeless = self.common.is_hopeless() && self.fallbacks.is_empty();
        hopeless.then(|| self.common.unknown())
    }

    /// The answer once the quorum is reached.
    fn written(&self, issued: &Issued) -> Response {
        let Issued { object, dot, .. } = issued;
        // A decided write covers all that its issuer knew of. One that was carried out before may
        // have values beside it that nobody showed its author.
        let covers_all = |dot: Option<Dot>| object.values().all(|(other, _)| Some(other) == dot);
        let context = match *dot {
            dot if self.is_decided && covers_all(dot) => object.context(),
            Some(dot) => object.context_of_writer(&self.seen, dot),
            None => self.seen.clone(),
        };
        let siblings = count_live(object) as u32;
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

    /// The answer at the deadline. A decision that was not made by then is withdrawn, so that
    /// nothing has happened.
    pub(super) fn expire(&self, env: &Env) -> Response {
        match self.is_decided && self.issued.is_none() {
            true => self.common.no_quorum(&env.config.members),
            false => self.common.unknown(),
        }
    }

    /// Withdraws its update if that has not been carried out by the deadline: no client waits for
    /// it any more.
    pub(super) fn withdraw(&self, env: &Env, io: &mut Io) {
        if self.issued.is_none() {
            io.out.count(Counter::WritesWithdrawn);
            let withdraw = Body::Withdraw { key: self.key.clone() };
            io.out.send_to(env.config.me, self.common.request_id, withdraw);
        }
    }

    /// Ends the write: this node keeps a hint for each owner that has not acknowledged it, even if
    /// the acknowledgement may still come. A fallback could refuse the hint, and its rejection
    /// would not be handled any more.
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

/// The message to keep the issued object as a hint for this owner.
fn hint(key: &Key, issued: &Issued, owner: NodeId) -> Body {
    let Issued { object, gc_epoch, .. } = issued.clone();
    Body::StoreHint { key: key.clone(), object, hint_for: vec![owner], gc_epoch }
}
