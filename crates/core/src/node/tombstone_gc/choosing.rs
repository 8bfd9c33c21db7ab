//! What a round proposes: the first keys of a partition, in byte order, that hold something dead.

use std::collections::BTreeSet;

use super::{Round, TombstoneGc};
use crate::gc_epoch::{MAX_PURGEABLE_KEYS, PURGEABLE_KEYS_BYTES, PurgeableKey};
use crate::node::ids::{ScanPurpose, ScanToken};
use crate::node::io::Io;
use crate::store::{Detail, ScanPage, Scanned, Span};
use crate::types::{Key, Partition, Time};

/// Bytes of records read at a time, while no client waits for this node and while some do.
const PAGE_BYTES: usize = 256 << 10;
const PAGE_BYTES_BESIDE_CLIENTS: usize = 64 << 10;
/// Keys of one round while clients wait: every owner of the partition reads and writes each of them
/// twice.
const MAX_PURGEABLE_KEYS_BESIDE_CLIENTS: usize = 128;

/// The pages that are read for a round.
#[derive(Clone, Debug, Default)]
pub(super) struct Choosing {
    /// The page that is being read, and since when; `None` while the reading rests.
    page: Option<(ScanToken, Time)>,
    /// The last key that has been read.
    after: Option<Key>,
    purgeable_keys: Vec<PurgeableKey>,
}

impl Choosing {
    /// True if the next page waits for its time.
    pub(super) fn pauses(&self) -> bool {
        self.page.is_none()
    }
}

impl TombstoneGc {
    /// Requests the next page of each round that has none, unless clients come first.
    pub(super) fn read_on(&mut self, now: Time, io: &mut Io) {
        for (partition, round) in &mut self.rounds {
            let Round::Choosing(choosing) = round else { continue };
            if choosing.pauses() && !self.pace.pauses(now, io) {
                let is_busy = io.local.is_busy();
                let limit_bytes = if is_busy { PAGE_BYTES_BESIDE_CLIENTS } else { PAGE_BYTES };
                let after = choosing.after.clone();
                let span = Span { after, limit_bytes, detail: Detail::Digests, ..Span::default() };
                let token = io.out.scan(ScanPurpose::PurgeableKeys, *partition, span);
                choosing.page = Some((token, now));
            }
        }
    }

    /// A page has been read to choose what goes, in a round that may have been given up meanwhile.
    pub(in crate::node) fn purgeable_keys_scanned(
        &mut self,
        now: Time,
        token: ScanToken,
        page: &ScanPage,
        io: &mut Io,
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
        let going: BTreeSet<&Key> = io
            .local
            .gc_epochs
            .of(partition)
            .purgeable
            .iter()
            .map(|purgeable_key| &purgeable_key.key)
            .collect();
        for Scanned { key, dead, .. } in page.items.iter().filter(|item| !going.contains(&item.key))
        {
            let dead = self.repeats.purgeable(now, key, dead);
            if !dead.is_empty() {
                choosing.purgeable_keys.push(PurgeableKey { key: key.clone(), dead });
            }
        }
        let most =
            if io.local.is_busy() { MAX_PURGEABLE_KEYS_BESIDE_CLIENTS } else { MAX_PURGEABLE_KEYS };
        let is_full = bound(&mut choosing.purgeable_keys, most);
        if page.next.is_some() && !is_full {
            return self.read_on(now, io);
        }
        let purgeable_keys = std::mem::take(&mut choosing.purgeable_keys);
        self.rounds.remove(&partition);
        self.chosen(now, partition, purgeable_keys, going.is_empty(), io);
    }

    /// All that a round proposes has been found.
    fn chosen(
        &mut self,
        now: Time,
        partition: Partition,
        purgeable_keys: Vec<PurgeableKey>,
        is_first: bool,
        io: &mut Io,
    ) {
        if purgeable_keys.is_empty() && is_first {
            // All that is dead there is kept for a while yet.
            self.rest.insert(partition, now + self.pause);
        } else {
            self.propose(now, partition, purgeable_keys, io);
        }
    }
}

/// Leaves no more than `most` keys, and no more than may be purgeable at a time, one at least; true
/// if that is all there is room for.
fn bound(purgeable_keys: &mut Vec<PurgeableKey>, most: usize) -> bool {
    let mut bytes = 0;
    let mut fits = |purgeable_key: &PurgeableKey| {
        let first = bytes == 0;
        bytes += purgeable_key.bytes();
        first || bytes <= PURGEABLE_KEYS_BYTES
    };
    let fitting =
        purgeable_keys.iter().take(most).take_while(|purgeable_key| fits(purgeable_key)).count();
    let is_full = fitting < purgeable_keys.len() || fitting == most;
    purgeable_keys.truncate(fitting);
    is_full
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::causal::{Actor, ActorEpoch, Context, Dot};

    #[test]
    fn as_many_are_purgeable_as_fit_and_always_one() {
        let purgeable_keys = |count: usize, key_bytes: usize, dots: u64| -> Vec<PurgeableKey> {
            let actor = |number| Actor { store: 1, actor_epoch: ActorEpoch(number) };
            let dot = |number| Dot { actor: actor(number), counter: 1 };
            let dead = Context::new((0..dots).map(dot).collect());
            let key = |number: usize| Key::new(format!("{number:0key_bytes$}").into_bytes());
            (0..count).map(|n| PurgeableKey { key: key(n).unwrap(), dead: dead.clone() }).collect()
        };
        let left = |mut purgeable_keys: Vec<PurgeableKey>, most: usize| {
            let is_full = bound(&mut purgeable_keys, most);
            (purgeable_keys.len(), is_full)
        };
        assert_eq!(left(purgeable_keys(10, 10, 1), MAX_PURGEABLE_KEYS), (10, false));
        assert_eq!(left(purgeable_keys(10, 10, 1), 9), (9, true));
        assert_eq!(
            left(purgeable_keys(MAX_PURGEABLE_KEYS + 1, 10, 1), MAX_PURGEABLE_KEYS),
            (MAX_PURGEABLE_KEYS, true)
        );
        assert_eq!(
            left(purgeable_keys(100, 1_000, 1), MAX_PURGEABLE_KEYS),
            (PURGEABLE_KEYS_BYTES / 1_024, true)
        );
        assert_eq!(left(purgeable_keys(3, 1_000, 5_000), MAX_PURGEABLE_KEYS), (1, true));
    }
}
