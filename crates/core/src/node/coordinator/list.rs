//! Listings: pages of keys from as many owners as are needed, merged.

use super::common::{Common, Heard};
use super::env::Env;
use crate::message::{Body, Counter, Response};
use crate::node::io::Io;
use crate::store::Listing;
use crate::types::{Key, NodeId, Partition, Time};

/// A listing in progress. Nobody lists the keys of hints, so nobody acts as a fallback for an
/// owner.
#[derive(Clone, Debug)]
pub(super) struct ListOp {
    pub(super) common: Common,
    pub(super) partition: Partition,
    pub(super) after: Option<Key>,
    pub(super) limit_bytes: u32,
    pub(super) pages: Vec<Listing>,
}

impl ListOp {
    /// Puts the question to up to `count` further owners.
    pub(super) fn query_more(&mut self, now: Time, count: u8, env: &mut Env, io: &mut Io) {
        let (to, _) = self.common.pick(now, count, env);
        self.common.expect_copies(now, &to, env);
        let (partition, after, limit_bytes) =
            (self.partition, self.after.clone(), self.limit_bytes);
        io.out.send(to, self.common.request_id, Body::List { partition, after, limit_bytes });
    }

    /// Takes what a node has said.
    pub(super) fn answer(&mut self, from: NodeId, body: Body) -> Heard {
        match body {
            Body::Listed { keys, more, authoritative } => {
                if self.common.quorum_tracker.answer(from, authoritative) {
                    self.pages.push(Listing { keys, more });
                }
                Heard::Progress
            }
            Body::Failed(rejection) => Heard::Lost(rejection),
            _ => Heard::Nothing,
        }
    }

    /// Answers when enough have; asks as many more as are missing.
    pub(super) fn advance(&mut self, now: Time, env: &mut Env, io: &mut Io) -> Option<Response> {
        if self.common.quorum_tracker.reached() {
            let Listing { keys, more } = merge_pages(&self.pages);
            return Some(Response::Keys { keys, more });
        }
        let missing = self.common.quorum_tracker.missing();
        if missing > 0 {
            self.query_more(now, missing, env, io);
        }
        self.common.is_hopeless().then(|| {
            env.explain_loss(self.partition, self.common.unreachable(&env.config.members), io)
        })
    }

    /// Asks one owner more for each answer that is late.
    pub(super) fn hedge(&mut self, now: Time, env: &mut Env, io: &mut Io) {
        let late = self.common.mark_late(now).len();
        if late > 0
            && !self.common.answered
            && self.common.quorum_tracker.unasked().next().is_some()
        {
            io.out.count(Counter::ReadsHedged);
            self.query_more(now, late as u8, env, io);
        }
    }

    /// The answer at the deadline.
    pub(super) fn expire(&self, env: &Env, io: &Io) -> Response {
        env.explain_loss(self.partition, self.common.no_quorum(&env.config.members), io)
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
