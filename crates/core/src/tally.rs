//! Counting answers towards a quorum: a home replica and those that stand in for it are one slot, and a node
//! counts for one slot only, however many members it stands in for.
//!
//! While a ring is in a change, a write counts in two tables of N slots each. An owner that stays
//! fills a slot of both; an owner that goes and the one that comes in its place are a pair, one in
//! each table, so that a pair adds no slot: a quorum is reached when it is in both tables.

use std::collections::BTreeSet;

use crate::types::NodeId;

/// Who has been asked and who has answered, for the slots of one preference list, or of the two of a
/// ring in a change.
#[derive(Clone, Debug)]
pub struct Tally {
    homes: Vec<(NodeId, Answer)>,
    /// The slots of each table, by the place of their owner in `homes`.
    tables: Vec<Vec<usize>>,
    stand_ins: Vec<StandIn>,
    needed: u8,
    strict: bool,
}

/// What is known of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nobody asked it yet.
    Unasked,
    /// It was asked.
    Asked,
    /// It was asked in the place of a home, and is late: others may be asked in its place.
    Late,
    /// Its answer counts.
    Counted,
    /// It answered with nothing that counts.
    Uncounted,
    /// It cannot be reached, or refused.
    Failed,
}

#[derive(Clone, Debug)]
struct StandIn {
    node: NodeId,
    answer: Answer,
    /// The owners that it may count for, by their place in the list of homes.
    slots: Vec<usize>,
}

impl Tally {
    /// A tally over `homes` that is reached when `needed` slots have counted. With `strict` only home
    /// replicas count.
    pub fn new(homes: &[NodeId], needed: u8, strict: bool) -> Self {
        let tables = vec![(0..homes.len()).collect()];
        let homes = homes.iter().map(|home| (*home, Answer::Unasked)).collect();
        Tally { homes, tables, stand_ins: Vec::new(), needed, strict }
    }

    /// The same, of a write while the ring is in a change: `also` are the owners of its other table,
    /// and `needed` slots of each table have to count.
    #[must_use]
    pub fn with(mut self, also: &[NodeId]) -> Self {
        let mut slots = Vec::with_capacity(also.len());
        for owner in also {
            let known = self.homes.iter().position(|(home, _)| home == owner);
            slots.push(known.unwrap_or(self.homes.len()));
            if known.is_none() {
                self.homes.push((*owner, Answer::Unasked));
            }
        }
        self.tables.push(slots);
        self
    }

    /// Notes that a home has been asked.
    pub fn ask(&mut self, home: NodeId) {
        debug_assert!(self.is_home(home), "only an owner is asked as one");
        self.set(home, Answer::Asked);
    }

    /// Notes that `node`, which is no home, has been asked in the place of these homes.
    pub fn ask_stand_in(&mut self, node: NodeId, homes: &[NodeId]) {
        debug_assert!(!self.is_home(node), "an owner stands in for nobody");
        let slots = self.slots(homes);
        self.stand_ins.push(StandIn { node, answer: Answer::Asked, slots });
    }

    fn slots(&self, homes: &[NodeId]) -> Vec<usize> {
        let slot = |home: &NodeId| self.homes.iter().position(|(known, _)| known == home);
        homes.iter().filter_map(slot).collect()
    }

    /// Counts an answer of `node`; true if it is the first one that this node gives to this tally.
    pub fn count(&mut self, node: NodeId) -> bool {
        self.set(node, Answer::Counted)
    }

    /// Counts the answer of a stand-in that speaks for these homes, or for none; true if it is its first.
    pub fn count_for(&mut self, node: NodeId, homes: &[NodeId]) -> bool {
        let slots = self.slots(homes);
        if slots.is_empty() {
            return self.answer(node, false);
        }
        if let Some(stand_in) = self.stand_ins.iter_mut().find(|stand_in| stand_in.node == node) {
            stand_in.slots = slots;
        }
        self.count(node)
    }

    /// Takes an answer that counts, or one that does not; true if it is the node's first.
    pub fn answer(&mut self, node: NodeId, counts: bool) -> bool {
        self.set(node, if counts { Answer::Counted } else { Answer::Uncounted })
    }

    /// Notes that `node` is late: the homes, not counted yet, that somebody else may now be asked for. A late
    /// answer still counts.
    pub fn pass_over(&mut self, node: NodeId) -> Vec<NodeId> {
        let Some(stand_in) = self.stand_ins.iter_mut().find(|stand_in| stand_in.node == node)
        else {
            let open =
                |(home, state): &&(NodeId, Answer)| *home == node && *state != Answer::Counted;
            return self.homes.iter().filter(open).map(|(home, _)| *home).collect();
        };
        if stand_in.answer == Answer::Counted {
            return Vec::new();
        }
        if stand_in.answer == Answer::Asked {
            stand_in.answer = Answer::Late;
        }
        let slots = stand_in.slots.iter().map(|slot| self.homes[*slot]);
        let open = slots.filter(|(_, state)| *state != Answer::Counted);
        open.map(|(home, _)| home).collect()
    }

    /// Notes that `node` can no longer answer, or refused; true if it is in this tally and has not counted.
    pub fn fail(&mut self, node: NodeId) -> bool {
        self.set(node, Answer::Failed)
    }

    fn set(&mut self, node: NodeId, answer: Answer) -> bool {
        let homes = self.homes.iter_mut().map(|(home, state)| (*home, state));
        let stand_ins = self.stand_ins.iter_mut();
        let stand_ins = stand_ins.map(|stand_in| (stand_in.node, &mut stand_in.answer));
        let found = homes.chain(stand_ins).find(|(known, _)| *known == node);
        match found.map(|(_, state)| state) {
            Some(state) if *state != Answer::Counted => {
                *state = answer;
                true
            }
            _ => false,
        }
    }

    /// Every node of this tally and what is known of it, homes first.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, Answer)> {
        let stand_ins = self.stand_ins.iter().map(|stand_in| (stand_in.node, stand_in.answer));
        self.homes.iter().copied().chain(stand_ins)
    }

    /// The homes, in order of preference.
    pub fn homes(&self) -> impl Iterator<Item = NodeId> {
        self.homes.iter().map(|(node, _)| *node)
    }

    /// True if the node is a home replica.
    pub fn is_home(&self, node: NodeId) -> bool {
        self.homes.iter().any(|(home, _)| *home == node)
    }

    /// The homes that nobody has been asked for yet, in order of preference.
    pub fn unasked(&self) -> impl Iterator<Item = NodeId> {
        let unasked = self.homes.iter().filter(|(_, state)| *state == Answer::Unasked);
        unasked.map(|(node, _)| *node)
    }

    /// The homes whose word is still out, and for which no stand-in has answered or is asked.
    pub fn uncovered(&self) -> impl Iterator<Item = NodeId> {
        let all = 0..self.homes.len();
        all.filter(|home| self.is_open(*home)).map(|home| self.homes[home].0)
    }

    fn is_open(&self, home: usize) -> bool {
        let hopeful = |stand_in: &StandIn| {
            matches!(stand_in.answer, Answer::Asked | Answer::Counted)
                && stand_in.slots.contains(&home)
        };
        self.homes[home].1 != Answer::Counted && !self.stand_ins.iter().any(hopeful)
    }

    /// The homes that somebody has to be asked for in their place, should all that have been asked
    /// answer: as many of those without anybody as each table lacks slots.
    pub fn wanting(&self) -> Vec<NodeId> {
        let mut wanting = Vec::new();
        for table in &self.tables {
            let filled = self.fill(table, hopeful, !self.strict);
            let missing = usize::from(self.needed).saturating_sub(filled);
            let open = table.iter().filter(|home| self.is_open(**home)).take(missing);
            wanting.extend(open.map(|home| self.homes[*home].0));
        }
        // One that stays may be wanting in both.
        let mut seen = BTreeSet::new();
        wanting.retain(|home| seen.insert(*home));
        wanting
    }

    /// True when every slot has counted, by its home or by a stand-in; strict or not.
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

    /// The most slots of a table that can be filled by nodes in such a state, each by one node and each node
    /// filling one: a maximum matching by augmenting paths. A home fills only its own slot, so it comes first.
    fn fill(&self, table: &[usize], with: impl Fn(Answer) -> bool, stand_ins: bool) -> usize {
        let filled =
            |home: &usize| if with(self.homes[*home].1) { Filled::Home } else { Filled::Empty };
        let mut filled: Vec<Filled> = table.iter().map(filled).collect();
        if stand_ins {
            for at in 0..self.stand_ins.len() {
                if with(self.stand_ins[at].answer) {
                    self.place(at, table, &mut filled, &mut vec![false; table.len()]);
                }
            }
        }
        filled.iter().filter(|slot| !matches!(slot, Filled::Empty)).count()
    }

    /// Finds a slot for a stand-in, moving others if that helps.
    fn place(&self, at: usize, table: &[usize], filled: &mut [Filled], tried: &mut [bool]) -> bool {
        for (slot, home) in table.iter().enumerate() {
            if !self.stand_ins[at].slots.contains(home) || std::mem::replace(&mut tried[slot], true)
            {
                continue;
            }
            let free = match filled[slot] {
                Filled::Home => false,
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
    matches!(state, Answer::Asked | Answer::Counted)
}

/// Who fills a slot.
#[derive(Clone, Copy)]
enum Filled {
    Empty,
    Home,
    /// A stand-in, by its place in the list.
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
        let mut tally = Tally::new(&[A, B, C], 2, false);
        tally.ask(A);
        assert_eq!(tally.unasked().collect::<Vec<_>>(), [B, C]);
        assert!(tally.count(A));
        assert!(!tally.count(A));
        assert!(!tally.count(S));
        assert!(!tally.reached());
        tally.fail(A);
        assert_eq!(tally.counted(), 1, "what counted stays counted");
        tally.fail(B);
        assert_eq!(tally.hopeful(), 2);
        tally.fail(C);
        assert_eq!(tally.hopeful(), 1);
        assert!(tally.count(C), "a late answer still counts");
        assert!(tally.reached());
    }

    #[test]
    fn a_home_and_its_stand_in_are_one_slot() {
        let mut tally = Tally::new(&[A, B, C], 2, false);
        tally.ask(A);
        tally.ask_stand_in(S, &[A]);
        assert_eq!(tally.missing(), 1);
        assert!(tally.count(S));
        assert!(tally.count(A));
        assert_eq!(tally.counted(), 1);
        assert!(tally.count(B));
        assert!(tally.reached());
        assert!(!tally.is_full());
        tally.ask_stand_in(T, &[C]);
        assert!(tally.count(T));
        assert!(tally.is_full());
    }

    #[test]
    fn a_node_that_stands_in_for_several_fills_one_slot_where_it_helps() {
        let mut tally = Tally::new(&[A, B, C], 3, false);
        for node in [S, T] {
            tally.ask_stand_in(node, &[A, B, C]);
        }
        assert!(tally.count_for(S, &[A, B]));
        assert_eq!(tally.counted(), 1);
        assert!(tally.count_for(T, &[A]));
        assert_eq!(tally.counted(), 2, "S moves to B's slot");
        assert!(tally.count(B));
        assert_eq!(tally.counted(), 2, "A's slot is left for one of the two");
        assert!(tally.count(C));
        assert!(tally.reached());
        let mut strict = Tally::new(&[A, B, C], 1, true);
        strict.ask_stand_in(S, &[A]);
        assert!(strict.count_for(S, &[A]));
        assert_eq!(strict.counted(), 0);
        assert_eq!(strict.uncovered().collect::<Vec<_>>(), [B, C]);
    }

    #[test]
    fn a_stand_in_that_has_nothing_says_nothing() {
        let mut tally = Tally::new(&[A, B], 1, false);
        tally.ask_stand_in(S, &[A, B]);
        assert!(tally.count_for(S, &[]));
        assert_eq!(tally.counted(), 0);
        tally.fail(A);
        tally.fail(B);
        assert_eq!(tally.hopeful(), 0);
    }

    #[test]
    fn a_pair_adds_no_slot_and_counts_in_each_table_by_its_own_half() {
        // A and B stay, C gives its place to D.
        let mut tally = Tally::new(&[A, B, C], 2, true).with(&[A, B, D]);
        assert_eq!(tally.homes().collect::<Vec<_>>(), [A, B, C, D]);
        for home in [A, B, C, D] {
            tally.ask(home);
        }
        tally.count(C);
        tally.count(B);
        assert_eq!(tally.counted(), 1, "the new table has B only");
        tally.count(D);
        assert!(tally.reached(), "B, and the pair");
        assert!(!tally.is_full());
        tally.count(A);
        assert!(tally.is_full());
        let mut stays = Tally::new(&[A, B, C], 2, true).with(&[A, B, D]);
        stays.count(A);
        stays.count(B);
        assert!(stays.reached(), "those that stay count in both");
    }

    #[test]
    fn halves_of_a_pair_have_stand_ins_of_their_own_or_share_one() {
        let mut tally = Tally::new(&[A, B, C], 2, false).with(&[A, B, D]);
        tally.count(A);
        tally.fail(B);
        tally.fail(D);
        tally.ask(C);
        assert_eq!(tally.missing(), 1);
        assert_eq!(tally.wanting(), [B], "one more slot of the new table, and B comes first");
        tally.ask_stand_in(S, &[D]);
        assert_eq!(tally.wanting(), []);
        tally.count(S);
        assert_eq!(tally.counted(), 1);
        tally.count(C);
        assert!(tally.reached());
        let mut shared = Tally::new(&[A, B, C], 1, false).with(&[A, B, D]);
        shared.ask_stand_in(S, &[C, D]);
        shared.count(S);
        assert!(shared.reached(), "one node keeps it for the slot of either table");
        let mut strict = Tally::new(&[A, B, C], 1, true).with(&[A, B, D]);
        strict.ask_stand_in(S, &[C, D]);
        strict.count(S);
        assert!(!strict.reached());
    }
}
