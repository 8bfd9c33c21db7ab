//! Counting answers towards a quorum: an owner and those that act as a fallback for it are one
//! slot, and a node counts for one slot only, however many members it acts as a fallback for.
//!
//! While a ring is in a change, a write counts in two tables of N slots each. An owner that stays
//! fills a slot of both; an owner that goes and the one that comes in its place are a pair, one in
//! each table, so that a pair adds no slot: a quorum is reached when it is in both tables.

use std::collections::BTreeSet;

use crate::types::NodeId;

/// The state of each queried node, for the slots of one preference list, or of the two of a ring in
/// a change.
#[derive(Clone, Debug)]
pub struct QuorumTracker {
    owners: Vec<(NodeId, Answer)>,
    /// The slots of each table, by the place of their owner in `owners`.
    tables: Vec<Vec<usize>>,
    fallbacks: Vec<Fallback>,
    needed: u8,
    strict: bool,
}

/// The state of the query to one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It has not been queried yet.
    Unasked,
    /// It was queried and has not answered yet.
    Queried,
    /// It was asked in the place of an owner, and is late: others may be asked in its place.
    Late,
    /// Its answer counts towards the quorum.
    Counted,
    /// Its answer does not count towards the quorum.
    Uncounted,
    /// It cannot be reached, or refused.
    Failed,
}

#[derive(Clone, Debug)]
struct Fallback {
    node: NodeId,
    answer: Answer,
    /// The owners that it may count for, by their place in the list of owners.
    slots: Vec<usize>,
}

impl QuorumTracker {
    /// A quorum tracker over `owners` that is reached when `needed` slots have counted. With
    /// `strict` only owner replicas count.
    pub fn new(owners: &[NodeId], needed: u8, strict: bool) -> Self {
        let tables = vec![(0..owners.len()).collect()];
        let owners = owners.iter().map(|owner| (*owner, Answer::Unasked)).collect();
        QuorumTracker { owners, tables, fallbacks: Vec::new(), needed, strict }
    }

    /// The same, of a write while the ring is in a change: `also` are the owners of its other
    /// table, and `needed` slots of each table have to count.
    #[must_use]
    pub fn with(mut self, also: &[NodeId]) -> Self {
        let mut slots = Vec::with_capacity(also.len());
        for owner in also {
            let known = self.owners.iter().position(|(known, _)| known == owner);
            slots.push(known.unwrap_or(self.owners.len()));
            if known.is_none() {
                self.owners.push((*owner, Answer::Unasked));
            }
        }
        self.tables.push(slots);
        self
    }

    /// Goes on with these owners, and with `also` as those of the other table: the ring has
    /// changed. What counted counts, as far as its node has a place; all others are to be asked
    /// again. A fallback that is an owner now holds a hint and no copy.
    pub fn move_to(&mut self, owners: &[NodeId], also: Option<&[NodeId]>) {
        let mut moved = QuorumTracker::new(owners, self.needed, self.strict);
        if let Some(also) = also {
            moved = moved.with(also);
        }
        for (owner, state) in &mut moved.owners {
            let counted = (*owner, Answer::Counted);
            if self.owners.contains(&counted) {
                *state = Answer::Counted;
            }
        }
        for Fallback { node, answer, slots } in std::mem::take(&mut self.fallbacks) {
            let ids: Vec<NodeId> = slots.iter().map(|slot| self.owners[*slot].0).collect();
            let slots = moved.slots(&ids);
            if answer == Answer::Counted && !slots.is_empty() && !moved.is_owner(node) {
                moved.fallbacks.push(Fallback { node, answer, slots });
            }
        }
        *self = moved;
    }

    /// Notes that an owner has been asked.
    pub fn query(&mut self, owner: NodeId) {
        debug_assert!(self.is_owner(owner), "only an owner is asked as one");
        self.set(owner, Answer::Queried);
    }

    /// Notes that `node`, which is no owner, has been asked in the place of these owners.
    pub fn query_fallback(&mut self, node: NodeId, owners: &[NodeId]) {
        debug_assert!(!self.is_owner(node), "an owner acts as a fallback for nobody");
        let slots = self.slots(owners);
        self.fallbacks.push(Fallback { node, answer: Answer::Queried, slots });
    }

    /// Notes that this node itself, which is no owner, has been asked in the place of the first
    /// owner of each table.
    pub fn query_own_fallback(&mut self, me: NodeId) {
        let firsts = self.tables.iter().filter_map(|table| table.first());
        let firsts: Vec<NodeId> = firsts.map(|slot| self.owners[*slot].0).collect();
        self.query_fallback(me, &firsts);
    }

    fn slots(&self, owners: &[NodeId]) -> Vec<usize> {
        let slot = |owner: &NodeId| self.owners.iter().position(|(known, _)| known == owner);
        owners.iter().filter_map(slot).collect()
    }

    /// Counts an answer of `node`; true if it is the first one that this node gives to this quorum
    /// tracker.
    pub fn count(&mut self, node: NodeId) -> bool {
        self.set(node, Answer::Counted)
    }

    /// Counts the answer of a fallback that speaks for these owners, or for none; true if it is its
    /// first.
    pub fn count_for(&mut self, node: NodeId, owners: &[NodeId]) -> bool {
        let slots = self.slots(owners);
        if slots.is_empty() {
            return self.answer(node, false);
        }
        if let Some(fallback) = self.fallbacks.iter_mut().find(|fallback| fallback.node == node) {
            fallback.slots = slots;
        }
        self.count(node)
    }

    /// Takes an answer that counts, or one that does not; true if it is the node's first.
    pub fn answer(&mut self, node: NodeId, counts: bool) -> bool {
        self.set(node, if counts { Answer::Counted } else { Answer::Uncounted })
    }

    /// Notes that `node` is late: the owners, not counted yet, that somebody else may now be asked
    /// for. A late answer still counts.
    pub fn pass_over(&mut self, node: NodeId) -> Vec<NodeId> {
        let Some(fallback) = self.fallbacks.iter_mut().find(|fallback| fallback.node == node)
        else {
            let open =
                |(owner, state): &&(NodeId, Answer)| *owner == node && *state != Answer::Counted;
            return self.owners.iter().filter(open).map(|(owner, _)| *owner).collect();
        };
        if fallback.answer == Answer::Counted {
            return Vec::new();
        }
        if fallback.answer == Answer::Queried {
            fallback.answer = Answer::Late;
        }
        let slots = fallback.slots.iter().map(|slot| self.owners[*slot]);
        let open = slots.filter(|(_, state)| *state != Answer::Counted);
        open.map(|(owner, _)| owner).collect()
    }

    /// Notes that `node` can no longer answer, or refused; true if it is in this quorum tracker and
    /// has not counted.
    pub fn fail(&mut self, node: NodeId) -> bool {
        self.set(node, Answer::Failed)
    }

    fn set(&mut self, node: NodeId, answer: Answer) -> bool {
        let owners = self.owners.iter_mut().map(|(owner, state)| (*owner, state));
        let fallbacks = self.fallbacks.iter_mut();
        let fallbacks = fallbacks.map(|fallback| (fallback.node, &mut fallback.answer));
        let found = owners.chain(fallbacks).find(|(known, _)| *known == node);
        match found.map(|(_, state)| state) {
            Some(state) if *state != Answer::Counted => {
                *state = answer;
                true
            }
            _ => false,
        }
    }

    /// Every node of this quorum tracker and the state of its query, owners first.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, Answer)> {
        let fallbacks = self.fallbacks.iter().map(|fallback| (fallback.node, fallback.answer));
        self.owners.iter().copied().chain(fallbacks)
    }

    /// True if only owner replicas count.
    pub fn is_strict(&self) -> bool {
        self.strict
    }

    /// True if the answer of this node has counted.
    pub fn has_counted(&self, node: NodeId) -> bool {
        self.nodes().any(|known| known == (node, Answer::Counted))
    }

    /// The owners, in order of preference.
    pub fn owners(&self) -> impl Iterator<Item = NodeId> {
        self.owners.iter().map(|(node, _)| *node)
    }

    /// True once every owner has answered, whether that counts or not.
    pub fn has_heard_all(&self) -> bool {
        let heard = |state: &Answer| matches!(state, Answer::Counted | Answer::Uncounted);
        self.owners.iter().all(|(_, state)| heard(state))
    }

    /// True if the node is an owner.
    pub fn is_owner(&self, node: NodeId) -> bool {
        self.owners.iter().any(|(owner, _)| *owner == node)
    }

    /// The owners that have not been queried yet, in order of preference.
    pub fn unasked(&self) -> impl Iterator<Item = NodeId> {
        let unasked = self.owners.iter().filter(|(_, state)| *state == Answer::Unasked);
        unasked.map(|(node, _)| *node)
    }

    /// The owners whose answer has not counted, and for which no fallback has answered or is
    /// queried.
    pub fn uncovered(&self) -> impl Iterator<Item = NodeId> {
        let all = 0..self.owners.len();
        all.filter(|owner| self.is_open(*owner)).map(|owner| self.owners[owner].0)
    }

    fn is_open(&self, owner: usize) -> bool {
        let hopeful = |fallback: &Fallback| {
            matches!(fallback.answer, Answer::Queried | Answer::Counted)
                && fallback.slots.contains(&owner)
        };
        self.owners[owner].1 != Answer::Counted && !self.fallbacks.iter().any(hopeful)
    }

    /// The owners that somebody has to be asked for in their place, should all that have been asked
    /// answer: as many of those without anybody as each table lacks slots.
    pub fn wanting(&self) -> Vec<NodeId> {
        let mut wanting = Vec::new();
        for table in &self.tables {
            let filled = self.fill(table, hopeful, !self.strict);
            let missing = usize::from(self.needed).saturating_sub(filled);
            let open = table.iter().filter(|owner| self.is_open(**owner)).take(missing);
            wanting.extend(open.map(|owner| self.owners[*owner].0));
        }
        // One that stays may be wanting in both.
        let mut seen = BTreeSet::new();
        wanting.retain(|owner| seen.insert(*owner));
        wanting
    }

    /// True when every slot has counted, by its owner or by a fallback; strict or not.
    pub fn is_full(&self) -> bool {
        let full = |table: &Vec<usize>| {
            self.fill(table, |state| state == Answer::Counted, true) == table.len()
        };
        self.tables.iter().all(full)
    }

    /// How many slots counted, in the table where fewer did.
    pub fn counted(&self) -> u8 {
        self.least(|state| state == Answer::Counted)
    }

    /// How many have to count.
    pub fn needed(&self) -> u8 {
        self.needed
    }

    /// How many further slots have to be asked for, should all that have been asked answer.
    pub fn missing(&self) -> u8 {
        self.needed.saturating_sub(self.least(hopeful))
    }

    /// True once enough slots counted.
    pub fn reached(&self) -> bool {
        self.counted() >= self.needed
    }

    /// How many slots may still count, of those that have been asked for or can be.
    pub fn hopeful(&self) -> u8 {
        self.least(|state| !matches!(state, Answer::Failed | Answer::Uncounted))
    }

    /// The slots that are filled in the table where fewest are.
    fn least(&self, with: impl Fn(Answer) -> bool + Copy) -> u8 {
        let filled = self.tables.iter().map(|table| self.fill(table, with, !self.strict));
        filled.min().unwrap_or(0) as u8
    }

    /// The most slots of a table that can be filled by nodes in such a state, each by one node and
    /// each node filling one: a maximum matching by augmenting paths. An owner fills only its own
    /// slot, so it comes first.
    fn fill(&self, table: &[usize], with: impl Fn(Answer) -> bool, fallbacks: bool) -> usize {
        if !fallbacks || self.fallbacks.is_empty() {
            return table.iter().filter(|owner| with(self.owners[**owner].1)).count();
        }
        let filled =
            |owner: &usize| if with(self.owners[*owner].1) { Filled::Owner } else { Filled::Empty };
        let mut filled: Vec<Filled> = table.iter().map(filled).collect();
        if fallbacks {
            for at in 0..self.fallbacks.len() {
                if with(self.fallbacks[at].answer) {
                    self.place(at, table, &mut filled, &mut vec![false; table.len()]);
                }
            }
        }
        filled.iter().filter(|slot| !matches!(slot, Filled::Empty)).count()
    }

    /// Finds a slot for a fallback, moving others if that helps.
    fn place(&self, at: usize, table: &[usize], filled: &mut [Filled], tried: &mut [bool]) -> bool {
        for (slot, owner) in table.iter().enumerate() {
            if !self.fallbacks[at].slots.contains(owner)
                || std::mem::replace(&mut tried[slot], true)
            {
                continue;
            }
            let free = match filled[slot] {
                Filled::Owner => false,
                Filled::Empty => true,
                Filled::By(other) => self.place(other, table, filled, tried),
            };
            if free {
                filled[slot] = Filled::By(at);
                return true;
            }
        }
        false
    }
}

/// True for a node that has answered or may yet.
fn hopeful(state: Answer) -> bool {
    matches!(state, Answer::Queried | Answer::Counted)
}

/// The node that fills a slot.
#[derive(Clone, Copy)]
enum Filled {
    Empty,
    Owner,
    /// A fallback, by its place in the list.
    By(usize),
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);
    const C: NodeId = NodeId(3);
    const D: NodeId = NodeId(4);
    const S: NodeId = NodeId(8);
    const T: NodeId = NodeId(9);

    #[test]
    fn a_slot_counts_once_and_strangers_never() {
        let mut quorum_tracker = QuorumTracker::new(&[A, B, C], 2, false);
        quorum_tracker.query(A);
        assert_eq!(quorum_tracker.unasked().collect::<Vec<_>>(), [B, C]);
        assert!(quorum_tracker.count(A));
        assert!(!quorum_tracker.count(A));
        assert!(!quorum_tracker.count(S));
        assert!(!quorum_tracker.reached());
        quorum_tracker.fail(A);
        assert_eq!(quorum_tracker.counted(), 1, "what counted stays counted");
        quorum_tracker.fail(B);
        assert_eq!(quorum_tracker.hopeful(), 2);
        quorum_tracker.fail(C);
        assert_eq!(quorum_tracker.hopeful(), 1);
        assert!(quorum_tracker.count(C), "a late answer still counts");
        assert!(quorum_tracker.reached());
    }

    #[test]
    fn an_owner_and_its_fallback_are_one_slot() {
        let mut quorum_tracker = QuorumTracker::new(&[A, B, C], 2, false);
        quorum_tracker.query(A);
        quorum_tracker.query_fallback(S, &[A]);
        assert_eq!(quorum_tracker.missing(), 1);
        assert!(quorum_tracker.count(S));
        assert!(quorum_tracker.count(A));
        assert_eq!(quorum_tracker.counted(), 1);
        assert!(quorum_tracker.count(B));
        assert!(quorum_tracker.reached());
        assert!(!quorum_tracker.is_full());
        quorum_tracker.query_fallback(T, &[C]);
        assert!(quorum_tracker.count(T));
        assert!(quorum_tracker.is_full());
    }

    #[test]
    fn a_node_that_acts_as_a_fallback_for_several_fills_one_slot_where_it_helps() {
        let mut quorum_tracker = QuorumTracker::new(&[A, B, C], 3, false);
        for node in [S, T] {
            quorum_tracker.query_fallback(node, &[A, B, C]);
        }
        assert!(quorum_tracker.count_for(S, &[A, B]));
        assert_eq!(quorum_tracker.counted(), 1);
        assert!(quorum_tracker.count_for(T, &[A]));
        assert_eq!(quorum_tracker.counted(), 2, "S moves to B's slot");
        assert!(quorum_tracker.count(B));
        assert_eq!(quorum_tracker.counted(), 2, "A's slot is left for one of the two");
        assert!(quorum_tracker.count(C));
        assert!(quorum_tracker.reached());
        let mut strict = QuorumTracker::new(&[A, B, C], 1, true);
        strict.query_fallback(S, &[A]);
        assert!(strict.count_for(S, &[A]));
        assert_eq!(strict.counted(), 0);
        assert_eq!(strict.uncovered().collect::<Vec<_>>(), [B, C]);
    }

    #[test]
    fn a_fallback_that_has_nothing_says_nothing() {
        let mut quorum_tracker = QuorumTracker::new(&[A, B], 1, false);
        quorum_tracker.query_fallback(S, &[A, B]);
        assert!(quorum_tracker.count_for(S, &[]));
        assert_eq!(quorum_tracker.counted(), 0);
        quorum_tracker.fail(A);
        quorum_tracker.fail(B);
        assert_eq!(quorum_tracker.hopeful(), 0);
    }

    #[test]
    fn a_pair_adds_no_slot_and_counts_in_each_table_by_its_own_half() {
        // A and B stay, C gives its place to D.
        let mut quorum_tracker = QuorumTracker::new(&[A, B, C], 2, true).with(&[A, B, D]);
        assert_eq!(quorum_tracker.owners().collect::<Vec<_>>(), [A, B, C, D]);
        for owner in [A, B, C, D] {
            quorum_tracker.query(owner);
        }
        quorum_tracker.count(C);
        quorum_tracker.count(B);
        assert_eq!(quorum_tracker.counted(), 1, "the new table has B only");
        quorum_tracker.count(D);
        assert!(quorum_tracker.reached(), "B, and the pair");
        assert!(!quorum_tracker.is_full());
        quorum_tracker.count(A);
        assert!(quorum_tracker.is_full());
        let mut stays = QuorumTracker::new(&[A, B, C], 2, true).with(&[A, B, D]);
        stays.count(A);
        stays.count(B);
        assert!(stays.reached(), "those that stay count in both");
    }

    #[test]
    fn halves_of_a_pair_have_fallbacks_of_their_own_or_share_one() {
        let mut quorum_tracker = QuorumTracker::new(&[A, B, C], 2, false).with(&[A, B, D]);
        quorum_tracker.count(A);
        quorum_tracker.fail(B);
        quorum_tracker.fail(D);
        quorum_tracker.query(C);
        assert_eq!(quorum_tracker.missing(), 1);
        assert_eq!(
            quorum_tracker.wanting(),
            [B],
            "one more slot of the new table, and B comes \
            first"
        );
        quorum_tracker.query_fallback(S, &[D]);
        assert_eq!(quorum_tracker.wanting(), []);
        quorum_tracker.count(S);
        assert_eq!(quorum_tracker.counted(), 1);
        quorum_tracker.count(C);
        assert!(quorum_tracker.reached());
        let mut shared = QuorumTracker::new(&[A, B, C], 1, false).with(&[A, B, D]);
        shared.query_fallback(S, &[C, D]);
        shared.count(S);
        assert!(shared.reached(), "one node keeps it for the slot of either table");
        let mut strict = QuorumTracker::new(&[A, B, C], 1, true).with(&[A, B, D]);
        strict.query_fallback(S, &[C, D]);
        strict.count(S);
        assert!(!strict.reached());
    }
}
