//! State that the operations of a coordinator share: the configuration, the usable nodes, how long
//! answers take, and when something is due.

use std::collections::BTreeSet;

use super::pace::{Paces, READS, WRITES};
use super::plan::Plan;
use super::recent::Recent;
use super::view::View;
use crate::message::{Rejection, ReplicaOutcomes, Response};
use crate::node::ids::RequestId;
use crate::node::interface::EXPLORE;
use crate::node::io::Io;
use crate::node::{Config, Experiment};
use crate::quorum::QuorumTracker;
use crate::types::{NodeId, Partition, Time};

/// State that all operations of a coordinator share.
#[derive(Clone, Debug)]
pub(super) struct Env {
    /// With the ring in force, and the members as they are known with it.
    pub(super) config: Config,
    pub(super) experiment: Experiment,
    pub(super) view: View,
    /// Deadlines, and when answers are late.
    pub(super) timers: BTreeSet<(Time, RequestId)>,
    /// How long copies take, and how long confirmations take.
    pub(super) reads: Paces,
    pub(super) writes: Paces,
    pub(super) recent: Recent,
}

impl Env {
    pub(super) fn new(config: Config) -> Self {
        Env {
            view: View::new(config.me),
            config,
            experiment: Experiment::default(),
            timers: BTreeSet::new(),
            reads: Paces::new(READS),
            writes: Paces::new(WRITES),
            recent: Recent::default(),
        }
    }

    /// A quorum tracker over these owners, in which those that cannot be used have failed.
    pub(super) fn tracker(&self, owners: &[NodeId], needed: u8, strict: bool) -> QuorumTracker {
        let mut quorum_tracker = QuorumTracker::new(&self.own_first(owners), needed, strict);
        self.fail_unusable(&mut quorum_tracker);
        quorum_tracker
    }

    /// The same for a write, which goes to `also` too while the ring is in a change.
    pub(super) fn write_tracker(&self, plan: &Plan) -> QuorumTracker {
        let owners = self.own_first(&plan.owners);
        let mut quorum_tracker = QuorumTracker::new(&owners, plan.needed, plan.strict);
        if let Some(also) = &plan.also {
            quorum_tracker = quorum_tracker.with(also);
        }
        self.fail_unusable(&mut quorum_tracker);
        quorum_tracker
    }

    /// The own replica is asked first: it costs no message.
    pub(super) fn own_first(&self, owners: &[NodeId]) -> Vec<NodeId> {
        let mut owners = owners.to_vec();
        owners.sort_by_key(|owner| *owner != self.config.me);
        owners
    }

    pub(super) fn fail_unusable(&self, quorum_tracker: &mut QuorumTracker) {
        let unusable = quorum_tracker.owners().filter(|owner| !self.view.can_use(*owner));
        for owner in unusable.collect::<Vec<_>>() {
            quorum_tracker.fail(owner);
        }
    }

    /// Sorts replicas by how soon they are expected to answer, except for one read in [`EXPLORE`].
    pub(super) fn sort(&mut self, now: Time, request_id: RequestId, to: &mut [NodeId]) {
        if !request_id.wire().is_multiple_of(EXPLORE) {
            self.reads.sort(now, to);
        }
    }

    /// Adds to a rejection why this node's own answer does not count, if it has lost its disk and
    /// no other node has the data.
    pub(super) fn explain_loss(
        &self,
        partition: Partition,
        response: Response,
        io: &Io,
    ) -> Response {
        let me = self.config.me;
        let alone = self.config.ring.all_owners(partition) == [me];
        if !alone || io.local.meta().read_ineligible.binary_search(&partition).is_err() {
            return response;
        }
        let name = self.config.members.name(me);
        let explained = |mut outcomes: ReplicaOutcomes| {
            for uncounted in outcomes.uncounted.iter_mut().filter(|uncounted| **uncounted == name) {
                uncounted.push_str(&format!(
                    ", whose disk was lost: acknowledged writes may be missing, and no other \
                     node has them; `pixii repair --node {name} --accept-loss` has it answer \
                     with what it has"
                ));
            }
            outcomes
        };
        match response {
            Response::Refused(Rejection::Unreachable { reachable, needed, outcomes }) => {
                let outcomes = explained(outcomes);
                Response::Refused(Rejection::Unreachable { reachable, needed, outcomes })
            }
            Response::Refused(Rejection::NoQuorum { answered, outcomes, needed, timeout_ms }) => {
                let outcomes = explained(outcomes);
                Response::Refused(Rejection::NoQuorum { answered, outcomes, needed, timeout_ms })
            }
            other => other,
        }
    }
}
