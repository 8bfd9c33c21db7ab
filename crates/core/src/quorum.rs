//! Counting answers towards a quorum: an owner and those that act as a fallback for it are one
//! slot, and a node counts for one slot only, however many members it acts as a fallback for.

use crate::types::NodeId;

/// Who has been asked and who has answered, for the slots of one preference list.
#[derive(Clone, Debug)]
pub struct QuorumTracker {
    owners: Vec<(NodeId, Answer)>,
    fallbacks: Vec<Fallback>,
    needed: u8,
    strict: bool,
}

/// What is known of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nobody asked it yet.
    Unasked,
    /// It was asked.
    Queried,
    /// It was asked in the place of an owner, and is late: others may be asked in its place.
    Late,
    /// Its answer counts.
    Counted,
    /// It answered with nothing that counts.
    Uncounted,
    /// It cannot be reached, or refused.
    Failed,
}

#[derive(Clone, Debug)]
struct Fallback {
    node: NodeId,
    answer: Answer,
    /// The slots that it may count for, by their place in the list of owners.
    slots: Vec<usize>,
}

impl QuorumTracker {
    /// A quorum tracker over `owners` that is reached when `needed` slots have counted. With
    /// `strict` only owner replicas count.
    pub fn new(owners: &[NodeId], needed: u8, strict: bool) -> Self {
        let owners = owners.iter().map(|owner| (*owner, Answer::Unasked)).collect();
        QuorumTracker { owners, fallbacks: Vec::new(), needed, strict }
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

    /// Every node of this quorum tracker and what is known of it, owners first.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, Answer)> {
        let fallbacks = self.fallbacks.iter().map(|fallback| (fallback.node, fallback.answer));
        self.owners.iter().copied().chain(fallbacks)
    }

    /// The owners, in order of preference.
    pub fn owners(&self) -> impl Iterator<Item = NodeId> {
        self.owners.iter().map(|(node, _)| *node)
    }

    /// True if the node is an owner.
    pub fn is_owner(&self, node: NodeId) -> bool {
        self.owners.iter().any(|(owner, _)| *owner == node)
    }

    /// The owners that nobody has been asked for yet, in order of preference.
    pub fn unasked(&self) -> impl Iterator<Item = NodeId> {
        let unasked = self.owners.iter().filter(|(_, state)| *state == Answer::Unasked);
        unasked.map(|(node, _)| *node)
    }

    /// The owners whose word is still out, and for which no fallback has answered or is asked.
    pub fn uncovered(&self) -> impl Iterator<Item = NodeId> {
        let covers = |slot: usize| {
            let hopeful = |fallback: &Fallback| {
                matches!(fallback.answer, Answer::Queried | Answer::Counted)
                    && fallback.slots.contains(&slot)
            };
            self.fallbacks.iter().any(hopeful)
        };
        let open = move |(slot, (_, state)): &(usize, &(NodeId, Answer))| {
            *state != Answer::Counted && !covers(*slot)
        };
        self.owners.iter().enumerate().filter(open).map(|(_, (node, _))| *node)
    }

    /// True when every slot has counted, by its owner or by a fallback; strict or not.
    pub fn is_full(&self) -> bool {
        self.fill(|state| state == Answer::Counted, true) == self.owners.len()
    }

    /// How many slots counted.
    pub fn counted(&self) -> u8 {
        self.fill(|state| state == Answer::Counted, !self.strict) as u8
    }

    /// How many have to count.
    pub fn needed(&self) -> u8 {
        self.needed
    }

    /// How many further slots have to be asked for, should all that have been asked answer.
    pub fn missing(&self) -> u8 {
        let hopeful = |state| matches!(state, Answer::Queried | Answer::Counted);
        self.needed.saturating_sub(self.fill(hopeful, !self.strict) as u8)
    }

    /// True once enough slots counted.
    pub fn reached(&self) -> bool {
        self.counted() >= self.needed
    }

    /// How many slots may still count, of those that have been asked for or can be.
    pub fn hopeful(&self) -> u8 {
        let lost = |state| matches!(state, Answer::Failed | Answer::Uncounted);
        self.fill(|state| !lost(state), !self.strict) as u8
    }

    /// The most slots that can be filled by nodes in such a state, each by one node and each node
    /// filling one: a maximum matching by augmenting paths. An owner fills only its own slot, so it
    /// comes first.
    fn fill(&self, with: impl Fn(Answer) -> bool, fallbacks: bool) -> usize {
        let mut filled: Vec<Filled> = self
            .owners
            .iter()
            .map(|(_, state)| if with(*state) { Filled::Owner } else { Filled::Empty })
            .collect();
        if fallbacks {
            for at in 0..self.fallbacks.len() {
                if with(self.fallbacks[at].answer) {
                    self.place(at, &mut filled, &mut vec![false; self.owners.len()]);
                }
            }
        }
        filled.iter().filter(|slot| !matches!(slot, Filled::Empty)).count()
    }

    /// Finds a slot for a fallback, moving others if that helps.
    fn place(&self, at: usize, filled: &mut [Filled], tried: &mut [bool]) -> bool {
        for slot in &self.fallbacks[at].slots {
            if std::mem::replace(&mut tried[*slot], true) {
                continue;
            }
            let free = match filled[*slot] {
                Filled::Owner => false,
                Filled::Empty => true,
                Filled::By(other) => self.place(other, filled, tried),
            };
            if free {
                filled[*slot] = Filled::By(at);
                return true;
            }
        }
        false
    }
}

/// Who fills a slot.
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
}
