//! A request under way: whom it waits for, and what it answers in each way that it may end.

use std::collections::{BTreeSet, VecDeque};

use super::Origin;
use crate::causal::{Context, Dot, Object};
use crate::members::Members;
use crate::message::{Refusal, Request, Response, Roll};
use crate::store::Listing;
use crate::tally::{Answer, Tally};
use crate::types::{Blob, Key, Micros, NodeId, Partition};
use crate::wire;

/// A request under way.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    pub(super) origin: Origin,
    pub(super) deadline: Micros,
    pub(super) timeout_ms: u32,
    pub(super) tally: Tally,
    pub(super) kind: Kind,
    /// Who may stand in for a home, in order of preference; nobody if only homes count.
    pub(super) stand_ins: VecDeque<NodeId>,
    /// Homes that this node keeps a write for itself, for want of stand-ins.
    pub(super) kept_here: BTreeSet<NodeId>,
    /// Who was asked and has not answered.
    pub(super) open: Vec<Question>,
    /// True once the answer has left.
    pub(super) answered: bool,
    /// Bytes of values that it has kept in memory since.
    pub(super) lingering_bytes: usize,
}

/// A question to a replica.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    pub(super) to: NodeId,
    pub(super) since: Micros,
    /// When the answer is late.
    pub(super) due: Micros,
    /// True once another replica was asked in its place.
    pub(super) late: bool,
}

/// What is asked, and what has come of it.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    Write {
        key: Key,
        seen: Context,
        minted: Option<Minted>,
    },
    Get {
        key: Key,
        merged: Merged,
    },
    Keys {
        partition: Partition,
        after: Option<Key>,
        limit_bytes: u32,
        pages: Vec<Listing>,
    },
    /// The homes that may coordinate it get it in turn if it reads. If it writes, only one has it at a time, and
    /// the next of `others` only when that one has refused it.
    Forwarded {
        request: Request,
        writes: bool,
        others: VecDeque<NodeId>,
    },
}

/// What the replica that coordinates a write has made.
#[derive(Clone, Debug, Default)]
pub(super) struct Minted {
    pub(super) object: Object,
    pub(super) dot: Option<Dot>,
    /// The generation of the object.
    pub(super) generation: u64,
    /// When it was made.
    pub(super) at: Micros,
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
    generation: u64,
}

impl Merged {
    /// Takes a copy, the first one of each node.
    pub(super) fn add(&mut self, node: NodeId, object: Object, generation: u64) {
        if self.copies.iter().any(|copy| copy.node == node) {
            return;
        }
        // Replicas mostly have the same values: each is kept in memory once.
        let object = object.share(&self.object);
        self.copies.push(Copied { node, object, generation });
        self.object = self.current().fold(Object::default(), |all, copy| all.sync(&copy.object));
    }

    /// Copies of the newest generation among them and of the one before: an older one, of a disk that was rolled back, may
    /// show alive what is collected since.
    fn current(&self) -> impl Iterator<Item = &Copied> {
        let newest = self.copies.iter().map(|copy| copy.generation).max().unwrap_or(0);
        self.copies.iter().filter(move |copy| copy.generation.saturating_add(1) >= newest)
    }

    /// The oldest generation that went into the join.
    pub(super) fn generation(&self) -> u64 {
        self.current().map(|copy| copy.generation).min().unwrap_or(0)
    }

    /// Those among `homes` whose copy is not the join of all.
    pub(super) fn behind(&self, homes: impl Fn(NodeId) -> bool) -> Vec<NodeId> {
        let behind = self.copies.iter().filter(|copy| copy.object != self.object);
        behind.map(|copy| copy.node).filter(|node| homes(*node)).collect()
    }
}

impl Operation {
    /// Notes that `from` has answered or never will; the question that was open to it.
    pub(super) fn close(&mut self, from: NodeId) -> Option<Question> {
        let at = self.open.iter().position(|question| question.to == from)?;
        Some(self.open.swap_remove(at))
    }

    /// True if it waits for nothing any more, once it is answered.
    pub(super) fn is_over(&self) -> bool {
        match &self.kind {
            Kind::Get { .. } => self.open.is_empty(),
            Kind::Write { minted, .. } => {
                minted.is_none() || self.open.is_empty() || self.tally.is_full()
            }
            Kind::Keys { .. } | Kind::Forwarded { .. } => true,
        }
    }

    /// Bytes of values that it keeps in memory.
    pub(super) fn bytes(&self) -> usize {
        let object = match &self.kind {
            Kind::Write { minted: Some(minted), .. } => &minted.object,
            Kind::Get { merged, .. } => &merged.object,
            _ => return 0,
        };
        object.values().map(|(_, version)| version.value.0.len()).sum()
    }

    /// True for a read whose answer shows as many siblings as fit, and not all.
    pub(super) fn is_cut_short(&self, limit_bytes: usize) -> bool {
        match &self.kind {
            Kind::Get { merged, .. } => wire::encoded_len(&merged.object) > limit_bytes,
            _ => false,
        }
    }

    /// The answer once the quorum is reached; one to a read shows not many more bytes than
    /// `limit_bytes`.
    pub(super) fn success(&self, limit_bytes: usize) -> Response {
        match &self.kind {
            Kind::Write { key, seen, minted } => {
                let Minted { object, dot, .. } = minted.clone().unwrap_or_default();
                let context = match dot {
                    Some(dot) => object.context_of_writer(seen, dot),
                    None => seen.clone(),
                };
                let siblings = live_values(&object).len() as u32;
                Response::Written { dot, context: wire::seal(key, &context), siblings }
            }
            Kind::Get { key, merged, .. } => {
                let (values, context) = shown(&merged.object, limit_bytes);
                let (context, answered) = (wire::seal(key, &context), self.tally.counted());
                Response::Found { values, context, answered }
            }
            Kind::Keys { pages, .. } => {
                let Listing { keys, more } = merge_pages(pages);
                Response::Keys { keys, more }
            }
            Kind::Forwarded { .. } => self.failure(&Members::default()),
        }
    }

    /// The answer before the deadline, when too few replicas are left to answer.
    pub(super) fn hopeless(&self, members: &Members) -> Response {
        let (reachable, needed) = (self.tally.hopeful(), self.tally.needed());
        match self.failure(members) {
            Response::Refused(_) => {
                // Who can still answer would have counted.
                let roll = self.roll(members, true);
                Response::Refused(Refusal::Unreachable { reachable, needed, roll })
            }
            unknown => unknown,
        }
    }

    /// The answer at the deadline: a write that was sent may still happen.
    pub(super) fn failure(&self, members: &Members) -> Response {
        let (counted, needed) = (self.tally.counted(), self.tally.needed());
        let timeout_ms = self.timeout_ms;
        match &self.kind {
            Kind::Write { .. } | Kind::Forwarded { writes: true, .. } => {
                Response::Unknown { acknowledged: counted, needed, timeout_ms }
            }
            Kind::Get { .. } | Kind::Keys { .. } | Kind::Forwarded { writes: false, .. } => {
                let (answered, roll) = (counted, self.roll(members, false));
                Response::Refused(Refusal::NoQuorum { answered, roll, needed, timeout_ms })
            }
        }
    }

    /// Who took part and who did not.
    fn roll(&self, members: &Members, early: bool) -> Roll {
        let mut roll = Roll::default();
        for (node, answer) in self.tally.nodes() {
            let home = self.tally.is_home(node);
            match answer {
                Answer::Counted => &mut roll.counted,
                Answer::Unasked | Answer::Asked if home && early => &mut roll.counted,
                // That a stand-in has nothing is no news.
                Answer::Uncounted if home => &mut roll.uncounted,
                Answer::Unasked | Answer::Asked | Answer::Failed if home => &mut roll.silent,
                _ => continue,
            }
            .push(members.name(node));
        }
        roll.sort();
        roll
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

/// The siblings of an object; a write that was repeated at two replicas is still one write.
fn live_values(object: &Object) -> Vec<Blob> {
    let mut writes = BTreeSet::new();
    object
        .values()
        .filter(|(_, version)| writes.insert(version.write))
        .map(|(_, version)| version.value.clone())
        .collect()
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
