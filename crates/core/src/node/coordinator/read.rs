//! Reads: as many replicas as are needed, the fastest first, one more for each answer that is late,
//! fallbacks when the owners do not suffice; afterwards the repair of those that were behind.

use std::collections::BTreeSet;

use super::common::{Common, Fallbacks, Heard, live_values};
use super::env::Env;
use crate::causal::{Context, Object};
use crate::gc_epoch::GcEpoch;
use crate::message::{Body, Counter, Response};
use crate::node::io::Io;
use crate::types::{Blob, Key, Micros, NodeId, Time};
use crate::wire;

/// A read in progress.
#[derive(Clone, Debug)]
pub(super) struct ReadOp {
    pub(super) common: Common,
    pub(super) key: Key,
    pub(super) merged: Merged,
    pub(super) fallbacks: Fallbacks,
}

/// The copies that a read was answered with.
#[derive(Clone, Debug, Default)]
pub(super) struct Merged {
    copies: Vec<Copied>,
    /// The join of those that are not too old.
    pub(super) object: Object,
}

#[derive(Clone, Debug)]
struct Copied {
    node: NodeId,
    object: Object,
    gc_epoch: GcEpoch,
}

impl Merged {
    /// Takes a copy, the first one of each node.
    pub(super) fn add(&mut self, node: NodeId, object: Object, gc_epoch: GcEpoch) {
        if self.copies.iter().any(|copy| copy.node == node) {
            return;
        }
        // Replicas mostly have the same values: each is kept in memory once.
        let object = object.share(&self.object);
        self.copies.push(Copied { node, object, gc_epoch });
        self.object = self.current().fold(Object::default(), |all, copy| all.sync(&copy.object));
    }

    /// Forgets the copies of nodes whose answer did not count: they are asked again.
    pub(super) fn keep(&mut self, is_kept: impl Fn(NodeId) -> bool) {
        self.copies.retain(|copy| is_kept(copy.node));
        self.object = self.current().fold(Object::default(), |all, copy| all.sync(&copy.object));
    }

    /// Copies of the newest GC epoch among them and of the one before: an older one, of a disk
    /// that was rolled back, may show alive what is purged since.
    fn current(&self) -> impl Iterator<Item = &Copied> {
        let newest = self.copies.iter().map(|copy| copy.gc_epoch).max().unwrap_or_default();
        self.copies.iter().filter(move |copy| copy.gc_epoch.next() >= newest)
    }

    /// The oldest GC epoch that went into the join.
    pub(super) fn gc_epoch(&self) -> GcEpoch {
        self.current().map(|copy| copy.gc_epoch).min().unwrap_or_default()
    }

    /// Those among `owners` whose copy is not the join of all.
    fn behind(&self, owners: impl Fn(NodeId) -> bool) -> Vec<NodeId> {
        let behind = self.copies.iter().filter(|copy| copy.object != self.object);
        behind.map(|copy| copy.node).filter(|node| owners(*node)).collect()
    }
}

impl ReadOp {
    /// Puts the question to up to `count` further replicas: owners, and when they are used up, all
    /// fallbacks.
    pub(super) fn query_more(&mut self, now: Time, count: u8, env: &mut Env, io: &mut Io) {
        let (mut to, missing) = self.common.pick(now, count, env);
        if missing > 0 && !self.fallbacks.is_empty() {
            let owners: Vec<NodeId> = self.common.quorum_tracker.owners().collect();
            io.out.count(Counter::ReadsOfFallbacks);
            for node in std::mem::take(&mut self.fallbacks) {
                if !env.view.can_use(node) {
                    continue;
                }
                self.common.quorum_tracker.query_fallback(node, &owners);
                to.push(node);
            }
        }
        self.common.expect_copies(now, &to, env);
        io.out.send(to, self.common.request_id, Body::Read { key: self.key.clone() });
    }

    /// Handles a node's answer, which came `took` after the query.
    pub(super) fn answer(
        &mut self,
        from: NodeId,
        took: Option<Micros>,
        body: Body,
        env: &mut Env,
    ) -> Heard {
        match body {
            Body::Copy { object, authoritative, kept_for, gc_epoch } => {
                if let Some(took) = took {
                    env.recent.read(from, took);
                }
                // What a replica read-ineligible still has is shown; that it lacks something is
                // no word.
                self.merged.add(from, object, gc_epoch);
                if self.common.quorum_tracker.is_owner(from) {
                    self.common.quorum_tracker.answer(from, authoritative);
                } else {
                    self.common.quorum_tracker.count_for(from, &kept_for);
                }
                Heard::Progress
            }
            Body::Failed(rejection) => Heard::Lost(rejection),
            _ => Heard::Nothing,
        }
    }

    /// Answers when enough replicas have; queries as many more as are missing.
    pub(super) fn advance(&mut self, now: Time, env: &mut Env, io: &mut Io) -> Option<Response> {
        if self.common.quorum_tracker.reached() || self.is_beyond_merging(env) {
            return Some(self.found(env.config.object_limits.merged, io));
        }
        let missing = self.common.quorum_tracker.missing();
        if missing > 0 {
            self.query_more(now, missing, env, io);
        }
        let hopeless = self.common.is_hopeless() && self.fallbacks.is_empty();
        hopeless.then(|| {
            let partition = env.config.ring.partition(&self.key);
            env.explain_loss(partition, self.common.unreachable(&env.config.members), io)
        })
    }

    /// True if every owner has answered, and what they have together is more than a merge may make:
    /// none of them can take over what it lacks, so there is nothing to wait for. A client has to
    /// see it to settle it, though all of them are read-ineligible.
    fn is_beyond_merging(&self, env: &Env) -> bool {
        self.common.quorum_tracker.has_heard_all()
            && wire::encoded_len(&self.merged.object) > env.config.object_limits.merged
    }

    /// The answer once the quorum is reached: not many more bytes than `limit_bytes`, as many
    /// siblings as fit if not all do.
    fn found(&self, limit_bytes: usize, io: &mut Io) -> Response {
        if wire::encoded_len(&self.merged.object) > limit_bytes {
            io.out.count(Counter::ReadsCutShort);
        }
        let (values, context) = shown(&self.merged.object, limit_bytes);
        let context = wire::seal(&self.key, &context);
        Response::Found { values, context, answered: self.common.quorum_tracker.counted() }
    }

    /// Queries one more replica for each answer that is late.
    pub(super) fn hedge(&mut self, now: Time, env: &mut Env, io: &mut Io) {
        let late = self.common.mark_late(now).len();
        let unasked = self.common.quorum_tracker.unasked().next().is_some();
        let more = unasked || !self.fallbacks.is_empty();
        if late > 0 && !self.common.answered && more {
            io.out.count(Counter::ReadsHedged);
            self.query_more(now, late as u8, env, io);
        }
    }

    /// The answer at the deadline.
    pub(super) fn expire(&self, env: &Env, io: &Io) -> Response {
        let partition = env.config.ring.partition(&self.key);
        env.explain_loss(partition, self.common.no_quorum(&env.config.members), io)
    }

    /// Sends what the others had to the replicas that it has seen to be behind, when it is over.
    pub(super) fn repair(self, env: &Env, io: &mut Io) {
        let ReadOp { common, key, merged, .. } = self;
        // Everybody who lacks some of it would decline it.
        if wire::encoded_len(&merged.object) > env.config.object_limits.merged {
            return;
        }
        let behind = merged.behind(|node| common.quorum_tracker.is_owner(node));
        if !env.experiment.no_read_repair && !behind.is_empty() {
            io.out.count(Counter::ReadsRepaired);
            let gc_epoch = merged.gc_epoch();
            let merge = Body::Merge { key, object: merged.object, gc_epoch };
            io.out.send(behind, common.request_id, merge);
        }
    }
}

/// What a reader is shown of an object, and a context that covers just that: everything, or, of an
/// object over the limit, as many siblings as fit, and one at least. The others are shown once
/// these are settled.
fn shown(object: &Object, limit_bytes: usize) -> (Vec<Blob>, Context) {
    if wire::encoded_len(object) <= limit_bytes {
        return (live_values(object), object.context());
    }
    let (mut writes, mut bytes) = (BTreeSet::new(), 0);
    let (values, context) = object.shown(|version| {
        // A write that was repeated at two replicas is shown once.
        if writes.contains(&version.write) {
            return true;
        }
        let size = wire::encoded_len(version);
        if bytes + size > limit_bytes && bytes > 0 {
            return false;
        }
        bytes += size;
        writes.insert(version.write)
    });
    let mut writes = BTreeSet::new();
    let firsts = values.into_iter().filter(|version| writes.insert(version.write));
    (firsts.map(|version| version.value.clone()).collect(), context)
}
