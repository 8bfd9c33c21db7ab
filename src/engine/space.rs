//! The disk's reserve: when free space counts as too little, and when as enough again.

use pixii_core::node::Shortage;

/// There is room again with this part of the reserve, one in so many, on top of it: a node at the
/// edge does not change its mind with every write.
const SLACK: u64 = 16;

/// What was last said of the free space.
#[derive(Debug)]
pub(super) struct Space {
    reserve_bytes: u64,
    shortage: Option<Shortage>,
}

impl Space {
    /// Nothing has been said yet. With a reserve of 0, too little is nothing at all.
    pub(super) fn new(reserve_bytes: u64) -> Self {
        Space { reserve_bytes, shortage: None }
    }

    /// True from a shortage to its end.
    pub(super) fn is_short(&self) -> bool {
        self.shortage.is_some()
    }

    /// Takes the bytes that are free: what is to be said now, if anything.
    pub(super) fn look(&mut self, free_bytes: u64) -> Option<Option<Shortage>> {
        let slack = if self.is_short() { self.reserve_bytes / SLACK } else { 0 };
        let short = free_bytes < self.reserve_bytes.saturating_add(slack).max(1);
        let reserve_bytes = self.reserve_bytes;
        let shortage = short.then_some(Shortage { free_bytes, reserve_bytes });
        let changed = shortage != self.shortage;
        self.shortage = shortage;
        changed.then_some(shortage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_ends_a_little_above_the_reserve() {
        let mut space = Space::new(160);
        let short = |free_bytes| Some(Some(Shortage { free_bytes, reserve_bytes: 160 }));
        assert_eq!(space.look(160), None);
        assert_eq!(space.look(159), short(159));
        assert_eq!(space.look(159), None, "nothing new");
        assert_eq!(space.look(169), short(169));
        assert!(space.is_short());
        assert_eq!(space.look(170), Some(None));
        assert_eq!(space.look(160), None);
        assert_eq!(Space::new(0).look(1), None);
        let none = Shortage { free_bytes: 0, reserve_bytes: 0 };
        assert_eq!(Space::new(0).look(0), Some(Some(none)));
    }
}
