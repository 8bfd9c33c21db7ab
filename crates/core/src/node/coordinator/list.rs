//! Listings: pages of keys from as many homes as are needed, merged.

use super::common::{Common, Heard};
use super::env::Env;
use crate::message::{Body, Counter, Response};
use crate::node::effects::Effects;
use crate::store::Listing;
use crate::types::{Key, NodeId, Partition, Time};

/// A listing under way. Nobody lists the keys of hints, so nobody stands in for a home.
#[derive(Clone, Debug)]
pub(super) struct ListOp {
    pub(super) common: Common,
    pub(super) partition: Partition,
    pub(super) after: Option<Key>,
    pub(super) limit_bytes: u32,
    pub(super) pages: Vec<Listing>,
}

impl ListOp {
    /// Puts the question to up to `count` further homes.
    pub(super) fn ask_more(&mut self, now: Time, count: u8, env: &mut Env, fx: &mut Effects) {
        let (to, _) = self.common.pick(now, count, env);
        self.common.expect_copies(now, &to, env);
        let (partition, after, limit_bytes) =
            (self.partition, self.after.clone(), self.limit_bytes);
        fx.out.send(to, self.common.op, Body::List { partition, after, limit_bytes });
    }

    /// Takes what a node has said.
    pub(super) fn answer(&mut self, from: NodeId, body: Body) -> Heard {
        match body {
            Body::Listed { keys, more, authoritative } => {
                if self.common.tally.answer(from, authoritative) {
                    self.pages.push(Listing { keys, more });
                }
                Heard::Progress
            }
            Body::Failed(refusal) => Heard::Lost(refusal),
            _ => Heard::Nothing,
        }
    }

    /// Answers when enough have; asks as many more as are missing.
    pub(super) fn advance(
        &mut self,
        now: Time,
        env: &mut Env,
        fx: &mut Effects,
    ) -> Option<Response> {
        if self.common.tally.reached() {
            let Listing { keys, more } = merge_pages(&self.pages);
            return Some(Response::Keys { keys, more });
        }
        let missing = self.common.tally.missing();
        if missing > 0 {
            self.ask_more(now, missing, env, fx);
        }
        self.common.is_hopeless().then(|| {
            env.explain_loss(self.partition, self.common.unreachable(&env.config.members), fx)
        })
    }

    /// Asks one home more for each answer that is late.
    pub(super) fn hedge(&mut self, now: Time, env: &mut Env, fx: &mut Effects) {
        let late = self.common.mark_late(now).len();
        if late > 0 && !self.common.answered && self.common.tally.unasked().next().is_some() {
            fx.out.count(Counter::ReadsHedged);
            self.ask_more(now, late as u8, env, fx);
        }
    }

    /// The answer at the deadline.
    pub(super) fn expire(&self, env: &Env, fx: &Effects) -> Response {
        env.explain_loss(self.partition, self.common.no_quorum(&env.config.members), fx)
    }
}

/// One page from those of several replicas: all keys up to where the shortest page ends.
fn merge_pages(pages: &[Listing]) -> Listing {
    let horizon = pages.iter().filter(|page| page.more).filter_map(|page| page.keys.last()).min();
    let mut keys: Vec<Key> = pages.iter().flat_map(|page| page.keys.iter().cloned()).collect();
    keys.retain(|key| horizon.is_none_or(|horizon| key <= horizon));
    keys.sort_unstable();
    keys.dedup();
    Listing { keys, more: horizon.is_some() }
}
