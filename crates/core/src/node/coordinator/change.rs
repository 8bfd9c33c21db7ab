//! Requests in progress when another ring comes into force: they go on under it. What has counted
//! counts where its node still has a place; everybody else is asked again, under another request
//! id, so that no answer to the question before is taken for one to this.

use super::common::Fallbacks;
use super::env::Env;
use super::operation::Operation;
use super::write::WriteOp;
use super::{Coordinator, answer};
use crate::message::{Body, Rejection, Response};
use crate::node::ids::RequestId;
use crate::node::io::Io;
use crate::quorum::QuorumTracker;
use crate::types::{NodeId, Partition, Time};

impl Coordinator {
    /// Another ring is in force from now on.
    pub(in crate::node) fn set_ring(&mut self, now: Time, io: &mut Io) {
        self.env.config.ring = io.local.ring().clone();
        self.env.config.members = io.local.members().clone();
        let open = self.operations.iter().filter(|(_, operation)| !operation.common().answered);
        let open: Vec<RequestId> = open.map(|(request_id, _)| *request_id).collect();
        for request_id in open {
            self.go_on_under_ring(now, request_id, io);
        }
    }

    fn go_on_under_ring(&mut self, now: Time, request_id: RequestId, io: &mut Io) {
        let env = &mut self.env;
        let Some(operation) = self.operations.get_mut(&request_id) else { return };
        match operation {
            Operation::Forward(_) => return,
            Operation::Read(read) => {
                let partition = env.config.ring.partition(&read.key);
                if !move_reads(&mut read.common.quorum_tracker, partition, env) {
                    return;
                }
                let tracker = &read.common.quorum_tracker;
                read.merged.keep(|node| tracker.has_counted(node));
                let sloppy = !tracker.is_strict();
                read.fallbacks = fallbacks(tracker, partition, env, sloppy);
            }
            Operation::List(list) => {
                if !move_reads(&mut list.common.quorum_tracker, list.partition, env) {
                    return;
                }
            }
            Operation::Survey(survey) => {
                let partition = env.config.ring.partition(&survey.key);
                let was_owner = survey.plan.owners.contains(&env.config.me);
                env.renew(&mut survey.plan);
                if was_owner && !survey.plan.owners.contains(&env.config.me) {
                    // Another node decides the key from now on.
                    return self.give_up_survey(request_id, io);
                }
                if !move_reads(&mut survey.common.quorum_tracker, partition, env) {
                    return;
                }
                let tracker = &survey.common.quorum_tracker;
                survey.merged.keep(|node| tracker.has_counted(node));
                if let Some(unconfirmed) = &mut survey.unconfirmed {
                    unconfirmed.ask_at = now;
                }
            }
            Operation::Write(write) if write.issued.is_none() => {
                return match write.move_unissued(env) {
                    true => {}
                    false => {
                        write.withdraw(env, io);
                        self.finish(request_id, Response::Refused(Rejection::GivenUp), io);
                    }
                };
            }
            Operation::Write(_) => {}
        }
        let Some(request_id) = self.rename(request_id) else { return };
        if let Some(Operation::Write(write)) = self.operations.get_mut(&request_id) {
            write.move_issued(now, &mut self.env, io);
        }
        self.advance(now, request_id, io);
    }

    /// A write is decided elsewhere from now on: it is void here.
    fn give_up_survey(&mut self, request_id: RequestId, io: &mut Io) {
        if let Some(operation) = self.forget(request_id) {
            let refused = Response::Refused(Rejection::GivenUp);
            answer(operation.common().origin, refused, io);
        }
    }

    /// Goes on with an operation under another request id: answers to the present one are lost.
    fn rename(&mut self, request_id: RequestId) -> Option<RequestId> {
        let mut operation = self.forget(request_id)?;
        let request_id = self.ids.next();
        let common = operation.common_mut();
        common.request_id = request_id;
        common.open.clear();
        self.env.timers.insert((common.deadline, request_id));
        if let Operation::Survey(survey) = &operation {
            let asks = survey.unconfirmed.map(|unconfirmed| unconfirmed.ask_at);
            for at in survey.content_at.into_iter().chain(asks) {
                self.env.timers.insert((at, request_id));
            }
        }
        self.operations.insert(request_id, operation);
        Some(request_id)
    }
}

/// Has a read ask the table of the ring in force. False if that is the one that it asks.
fn move_reads(tracker: &mut QuorumTracker, partition: Partition, env: &Env) -> bool {
    let mut owners = env.config.ring.owners(partition).to_vec();
    let mut known: Vec<NodeId> = tracker.owners().collect();
    known.sort_unstable();
    owners.sort_unstable();
    if known == owners {
        return false;
    }
    tracker.move_to(&env.own_first(env.config.ring.owners(partition)), None);
    env.fail_unusable(tracker);
    true
}

/// The fallbacks under the ring in force, without those that have answered.
fn fallbacks(
    tracker: &QuorumTracker,
    partition: Partition,
    env: &Env,
    may_stand_in: bool,
) -> Fallbacks {
    let all = if may_stand_in { env.fallbacks(partition) } else { Vec::new() };
    all.into_iter().filter(|node| !tracker.has_counted(*node)).collect()
}

impl WriteOp {
    /// Has a write whose dot is not issued yet go to the owners of the ring in force. False if it
    /// was to be kept here for others, and this node is an owner now: it would be kept as a hint,
    /// and counted as a copy.
    fn move_unissued(&mut self, env: &Env) -> bool {
        let me = env.config.me;
        let was_owner = self.common.quorum_tracker.is_owner(me);
        self.move_owners(env);
        let is_owner = self.common.quorum_tracker.is_owner(me);
        match (was_owner, is_owner) {
            (true, true) => self.common.quorum_tracker.query(me),
            (false, false) => {
                self.fallbacks.retain(|node| *node != me);
                self.common.quorum_tracker.query_own_fallback(me);
            }
            (true, false) => {}
            (false, true) => return false,
        }
        true
    }

    /// Sends a write to the owners of the ring in force that have not confirmed it.
    fn move_issued(&mut self, now: Time, env: &mut Env, io: &mut Io) {
        let me = env.config.me;
        self.move_owners(env);
        self.kept_here.clear();
        let Some(issued) = self.issued.take() else { return };
        let tracker = &mut self.common.quorum_tracker;
        if !tracker.is_owner(me) && !tracker.has_counted(me) && self.fallbacks.contains(&me) {
            // It is kept here, for those who own the key now.
            self.fallbacks.retain(|node| *node != me);
            let hint_for = tracker.owners().collect();
            tracker.query_own_fallback(me);
            let (object, gc_epoch) = (issued.object.clone(), issued.gc_epoch);
            let body = Body::StoreHint { key: self.key.clone(), object, hint_for, gc_epoch };
            io.out.send_to(me, self.common.request_id, body);
        }
        self.spread(now, issued, env, io);
    }

    fn move_owners(&mut self, env: &Env) {
        let ring = &env.config.ring;
        let partition = ring.partition(&self.key);
        let owners = env.own_first(ring.owners(partition));
        self.common.quorum_tracker.move_to(&owners, ring.also(partition));
        env.fail_unusable(&mut self.common.quorum_tracker);
        self.fallbacks = fallbacks(&self.common.quorum_tracker, partition, env, true);
    }
}
