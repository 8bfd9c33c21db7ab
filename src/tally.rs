//! Counting answers towards a quorum: each slot (a home replica) counts once, whoever repeats itself.

use crate::types::NodeId;

/// Who has been asked and who has answered, out of the slots of one preference list.
#[derive(Clone, Debug)]
pub struct Tally {
    slots: Vec<(NodeId, Answer)>,
    needed: u8,
}

/// What is known of one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Unasked,
    Asked,
    Counted,
    Failed,
}

impl Tally {
    /// A tally over `homes` that is reached with `needed` counted answers.
    pub fn new(homes: &[NodeId], needed: u8) -> Self {
        Tally { slots: homes.iter().map(|home| (*home, Answer::Unasked)).collect(), needed }
    }

    /// Notes that `node` has been asked.
    pub fn ask(&mut self, node: NodeId) {
        self.set(node, Answer::Asked);
    }

    /// Counts an answer of `node`; true if it is the first one of a slot of this tally.
    pub fn count(&mut self, node: NodeId) -> bool {
        self.set(node, Answer::Counted)
    }

    /// Takes an answer that counts, or one that does not; true if it is the first of a slot.
    pub fn answer(&mut self, node: NodeId, counts: bool) -> bool {
        if counts { self.count(node) } else { self.fail(node) }
    }

    /// Notes that `node` answered with nothing that counts, or can no longer answer; true if it is a
    /// slot of this tally that has not counted.
    pub fn fail(&mut self, node: NodeId) -> bool {
        self.set(node, Answer::Failed)
    }

    fn set(&mut self, node: NodeId, answer: Answer) -> bool {
        match self.slots.iter_mut().find(|(slot, _)| *slot == node) {
            Some((_, state)) if *state != Answer::Counted => {
                *state = answer;
                true
            }
            _ => false,
        }
    }

    /// The slots that nobody has been asked for yet, in order of preference.
    pub fn unasked(&self) -> impl Iterator<Item = NodeId> {
        self.slots.iter().filter(|(_, state)| *state == Answer::Unasked).map(|(node, _)| *node)
    }

    /// How many answers counted.
    pub fn counted(&self) -> u8 {
        self.slots.iter().filter(|(_, state)| *state == Answer::Counted).count() as u8
    }

    /// How many have to count.
    pub fn needed(&self) -> u8 {
        self.needed
    }

    /// How many further slots have to be asked, should all that have been asked answer.
    pub fn missing(&self) -> u8 {
        let hopeful = |state: &Answer| matches!(state, Answer::Asked | Answer::Counted);
        let hopeful = self.slots.iter().filter(|(_, state)| hopeful(state)).count() as u8;
        self.needed.saturating_sub(hopeful)
    }

    /// True once enough answers counted.
    pub fn reached(&self) -> bool {
        self.counted() >= self.needed
    }

    /// How many slots have not failed.
    pub fn hopeful(&self) -> u8 {
        self.slots.iter().filter(|(_, state)| *state != Answer::Failed).count() as u8
    }

    /// True when the slots that have not failed are too few.
    pub fn hopeless(&self) -> bool {
        self.hopeful() < self.needed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_counts_once_and_strangers_never() {
        let (a, b, c) = (NodeId(1), NodeId(2), NodeId(3));
        let mut tally = Tally::new(&[a, b, c], 2);
        tally.ask(a);
        assert_eq!(tally.unasked().collect::<Vec<_>>(), [b, c]);
        assert!(tally.count(a));
        assert!(!tally.count(a));
        assert!(!tally.count(NodeId(9)));
        assert!(!tally.reached());
        tally.fail(a);
        assert_eq!(tally.counted(), 1, "what counted stays counted");
        tally.fail(b);
        assert!(!tally.hopeless());
        tally.fail(c);
        assert!(tally.hopeless());
        assert!(tally.count(c), "a late answer still counts");
        assert!(tally.reached());
    }
}
