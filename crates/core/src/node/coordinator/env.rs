//! What the operations of a coordinator share: the configuration, who can be used, how long answers
//! take, and when something is due.

use std::collections::BTreeSet;

use super::pace::{Paces, READS, WRITES};
use super::recent::Recent;
use super::view::View;
use crate::message::{Refusal, Response, Roll};
use crate::node::effects::Effects;
use crate::node::ids::RequestId;
use crate::node::words::EXPLORE;
use crate::node::{Config, Experiment};
use crate::types::{NodeId, Partition, Time};

/// What operations share.
#[derive(Clone, Debug)]
pub(super) struct Env {
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

    /// Sorts replicas by how soon they are expected to answer, but for one read in so many.
    pub(super) fn sort(&mut self, now: Time, op: RequestId, to: &mut [NodeId]) {
        if !op.wire().is_multiple_of(EXPLORE) {
            self.reads.sort(now, to);
        }
    }

    /// Says in a refusal why this node's own answer does not count, if it has lost its disk and
    /// nobody else has what was on it.
    pub(super) fn explain_loss(
        &self,
        partition: Partition,
        response: Response,
        fx: &Effects,
    ) -> Response {
        let me = self.config.me;
        let alone = *self.config.ring.homes(partition) == [me];
        if !alone || fx.local.meta().without_authority.binary_search(&partition).is_err() {
            return response;
        }
        let name = self.config.members.name(me);
        let explained = |mut roll: Roll| {
            for uncounted in roll.uncounted.iter_mut().filter(|uncounted| **uncounted == name) {
                uncounted.push_str(&format!(
                    ", whose disk was lost: acknowledged writes may be missing, and no other \
                     node has them; `pixii repair --node {name} --accept-loss` has it answer \
                     with what it has"
                ));
            }
            roll
        };
        match response {
            Response::Refused(Refusal::Unreachable { reachable, needed, roll }) => {
                let roll = explained(roll);
                Response::Refused(Refusal::Unreachable { reachable, needed, roll })
            }
            Response::Refused(Refusal::NoQuorum { answered, roll, needed, timeout_ms }) => {
                let roll = explained(roll);
                Response::Refused(Refusal::NoQuorum { answered, roll, needed, timeout_ms })
            }
            other => other,
        }
    }
}
