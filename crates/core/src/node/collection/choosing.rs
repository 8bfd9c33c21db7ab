//! What a round proposes: the first keys of a partition, in byte order, that hold something dead.

use std::collections::BTreeSet;

use super::{Collection, Round};
use crate::generation::{GRAVES_BYTES, Grave, MAX_GRAVES};
use crate::node::effects::Effects;
use crate::node::ids::{ScanPurpose, ScanToken};
use crate::store::{ScanPage, Scanned, Span};
use crate::types::{Key, Partition, Time};

/// Bytes of records read at a time, while no client waits for this node and while some do.
const PAGE_BYTES: usize = 256 << 10;
const PAGE_BYTES_BESIDE_CLIENTS: usize = 64 << 10;
/// Keys of one round while clients wait: every owner of the partition reads and writes each of them
/// twice.
const MAX_GRAVES_BESIDE_CLIENTS: usize = 128;

/// The pages that are read for a round.
#[derive(Clone, Debug, Default)]
pub(super) struct Choosing {
    /// The page that is being read, and since when; `None` while the reading rests.
    page: Option<(ScanToken, Time)>,
    /// The last key that has been read.
    after: Option<Key>,
    graves: Vec<Grave>,
}

impl Choosing {
    /// True if the next page waits for its time.
    pub(super) fn rests(&self) -> bool {
        self.page.is_none()
    }
}

impl Collection {
    /// Asks for the next page of each round that has none, unless clients come first.
    pub(super) fn read_on(&mut self, now: Time, fx: &mut Effects) {
        for (partition, round) in &mut self.rounds {
            let Round::Choosing(choosing) = round else { continue };
            if choosing.rests() && !self.pace.rests(now, fx) {
                let is_busy = fx.local.is_busy();
                let limit_bytes = if is_busy { PAGE_BYTES_BESIDE_CLIENTS } else { PAGE_BYTES };
                let after = choosing.after.clone();
                let span = Span { after, limit_bytes, without_contexts: true, ..Span::default() };
                let token = fx.out.scan(ScanPurpose::Graves, *partition, span);
                choosing.page = Some((token, now));
            }
        }
    }

    /// A page has been read to choose what goes, in a round that may have been given up meanwhile.
    pub(in crate::node) fn graves_scanned(
        &mut self,
        now: Time,
        token: ScanToken,
        page: &ScanPage,
        fx: &mut Effects,
    ) {
        let found = self.rounds.iter_mut().find_map(|(partition, round)| match round {
            Round::Choosing(choosing) => match choosing.page {
                Some((of, since)) if of == token => Some((*partition, choosing, since)),
                _ => None,
            },
            Round::Asking { .. } => None,
        });
        let Some((partition, choosing, since)) = found else { return };
        self.pace.worked(now, since);
        choosing.page = None;
        choosing.after.clone_from(&page.next);
        let going: BTreeSet<&Key> =
            fx.local.generations.of(partition).condemned.iter().map(|grave| &grave.key).collect();
        for Scanned { key, dead, .. } in page.items.iter().filter(|item| !going.contains(&item.key))
        {
            let dead = self.repeats.purgeable(now, key, dead);
            if !dead.is_empty() {
                choosing.graves.push(Grave { key: key.clone(), dead });
            }
        }
        let most = if fx.local.is_busy() { MAX_GRAVES_BESIDE_CLIENTS } else { MAX_GRAVES };
        let is_full = bound(&mut choosing.graves, most);
        if page.next.is_some() && !is_full {
            return self.read_on(now, fx);
        }
        let graves = std::mem::take(&mut choosing.graves);
        self.rounds.remove(&partition);
        self.chosen(now, partition, graves, going.is_empty(), fx);
    }

    /// All that a round proposes has been found.
    fn chosen(
        &mut self,
        now: Time,
        partition: Partition,
        graves: Vec<Grave>,
        is_first: bool,
        fx: &mut Effects,
    ) {
        if graves.is_empty() && is_first {
            // All that is dead there is kept for a while yet.
            self.rest.insert(partition, now + self.pause);
        } else {
            self.propose(now, partition, graves, fx);
        }
    }
}

/// Leaves no more than `most` keys, and no more than may be condemned at a time, one at least; true
/// if that is all there is room for.
fn bound(graves: &mut Vec<Grave>, most: usize) -> bool {
    let mut bytes = 0;
    let mut fits = |grave: &Grave| {
        let first = bytes == 0;
        bytes += grave.bytes();
        first || bytes <= GRAVES_BYTES
    };
    let fitting = graves.iter().take(most).take_while(|grave| fits(grave)).count();
    let is_full = fitting < graves.len() || fitting == most;
    graves.truncate(fitting);
    is_full
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::causal::{Actor, Context, Dot};

    #[test]
    fn as_many_are_condemned_as_fit_and_always_one() {
        let graves = |count: usize, key_bytes: usize, dots: u64| -> Vec<Grave> {
            let dot = |serial| Dot { actor: Actor { store: 1, serial }, counter: 1 };
            let dead = Context::new((0..dots).map(dot).collect());
            let key = |number: usize| Key::new(format!("{number:0key_bytes$}").into_bytes());
            (0..count).map(|n| Grave { key: key(n).unwrap(), dead: dead.clone() }).collect()
        };
        let left = |mut graves: Vec<Grave>, most: usize| {
            let is_full = bound(&mut graves, most);
            (graves.len(), is_full)
        };
        assert_eq!(left(graves(10, 10, 1), MAX_GRAVES), (10, false));
        assert_eq!(left(graves(10, 10, 1), 9), (9, true));
        assert_eq!(left(graves(MAX_GRAVES + 1, 10, 1), MAX_GRAVES), (MAX_GRAVES, true));
        assert_eq!(left(graves(100, 1_000, 1), MAX_GRAVES), (GRAVES_BYTES / 1_024, true));
        assert_eq!(left(graves(3, 1_000, 5_000), MAX_GRAVES), (1, true));
    }
}
