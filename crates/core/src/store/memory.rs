//! The in-memory twin of the disk: what is live beside what would survive a power cut.
//!
//! As on a real disk, what is synced is in a log that is ahead of a tree, and a checkpoint brings
//! it there change by change. A power cut finds the tree in any state of that, and the log makes it
//! whole.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{
    Change, Found, HintPage, Kept, Listing, Meta, ScanPage, Span, Store, StoreError, Taken,
    decode_hint, decode_record, encode_hint, encode_record,
};
use crate::gc_epoch::GcState;
use crate::members::Members;
use crate::ring::Ring;
use crate::rng::Rng;
use crate::types::{Key, NodeId, Partition};

/// Synced batches that the log has before a checkpoint begins.
const LOG_BATCHES: usize = 12;
/// Changes that a checkpoint brings to the tree with each sync.
const STEP_CHANGES: usize = 5;

/// A store in memory. Records go through their bytes on disk, so that the twin notifies the same
/// lies.
#[derive(Debug, Default)]
pub struct MemoryStore(Mutex<State>);

#[derive(Clone, Debug, Default)]
struct Image {
    meta: Option<Meta>,
    members: Option<Members>,
    ring: Option<Ring>,
    records: BTreeMap<Partition, BTreeMap<Key, Bytes>>,
    hints: BTreeMap<NodeId, BTreeMap<Key, Bytes>>,
    gc_epochs: BTreeMap<Partition, GcState>,
}

#[derive(Debug, Default)]
struct State {
    live: Image,
    /// What a power cut leaves: what tree and log are together.
    durable: Image,
    unsynced: Vec<Vec<Stored>>,
    tree: Image,
    /// What was synced since the last checkpoint ended, in order.
    log: Vec<Vec<Stored>>,
    /// How many batches of the log a checkpoint brings to the tree, if there is one, and what of
    /// them it has still to bring.
    checkpoint: (usize, VecDeque<Stored>),
    /// What is kept for the next start; nothing once something is applied.
    trees: Option<Vec<u8>>,
}

#[derive(Clone, Debug)]
enum Stored {
    Meta(Meta),
    Members(Members),
    Ring(Ring),
    Record(Partition, Key, Bytes),
    Forget(Partition, Key),
    GcState(Partition, GcState),
    Hint(NodeId, Key, Option<Bytes>),
}

impl Image {
    fn apply(&mut self, batch: &[Stored]) {
        for change in batch {
            match change.clone() {
                Stored::Meta(meta) => self.meta = Some(meta),
                Stored::Members(members) => self.members = Some(members),
                Stored::Ring(ring) => self.ring = Some(ring),
                Stored::Record(partition, key, bytes) => {
                    self.records.entry(partition).or_default().insert(key, bytes);
                }
                Stored::Forget(partition, key) => {
                    if let Some(records) = self.records.get_mut(&partition) {
                        records.remove(&key);
                    }
                }
                Stored::GcState(partition, gc_epoch) => {
                    self.gc_epochs.insert(partition, gc_epoch);
                }
                Stored::Hint(target, key, Some(bytes)) => {
                    self.hints.entry(target).or_default().insert(key, bytes);
                }
                Stored::Hint(target, key, None) => {
                    if let Some(hints) = self.hints.get_mut(&target) {
                        hints.remove(&key);
                    }
                }
            }
        }
    }

    fn read(&self, partition: Partition, key: &Key) -> Found {
        let bytes = self.records.get(&partition).and_then(|records| records.get(key));
        bytes.map_or(Found::Nothing, |bytes| decode_record(partition, key, bytes.clone()))
    }

    fn read_hint(&self, target: NodeId, key: &Key) -> Found {
        let bytes = self.hints.get(&target).and_then(|hints| hints.get(key));
        bytes.map_or(Found::Nothing, |bytes| decode_hint(target, key, bytes.clone()))
    }
}

impl State {
    /// Makes this batch the last one that a power cut leaves.
    fn sync_batch(&mut self, batch: Vec<Stored>) {
        self.durable.apply(&batch);
        self.log.push(batch);
    }

    /// Goes on with a checkpoint by so many changes. What the log holds of it is let go of when the
    /// tree has all.
    fn go_on(&mut self, changes: usize) {
        let (batches, rest) = &mut self.checkpoint;
        if *batches == 0 && self.log.len() >= LOG_BATCHES {
            *batches = self.log.len();
            rest.extend(self.log.iter().flatten().cloned());
        }
        let step: Vec<Stored> = rest.drain(..changes.min(rest.len())).collect();
        self.tree.apply(&step);
        if rest.is_empty() {
            self.log.drain(..std::mem::take(batches));
        }
    }

    /// What a start finds: a checkpoint was at any place, and the whole log is applied again.
    fn replay(&mut self, rng: &mut Rng) {
        let left = self.checkpoint.1.len();
        self.go_on(rng.below(left as u64 + 1) as usize);
        self.checkpoint = Default::default();
        for batch in std::mem::take(&mut self.log) {
            self.tree.apply(&batch);
        }
        self.durable = self.tree.clone();
    }

    /// The tree has all that is durable.
    fn settle(&mut self) {
        self.tree = self.durable.clone();
        self.log.clear();
        self.checkpoint = Default::default();
    }
}

impl MemoryStore {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pulls the plug: of the unsynced batches, some number of the oldest survive, as on a real
    /// disk. Returns how many did not.
    pub fn power_cut(&self, rng: &mut Rng) -> usize {
        let state = &mut *self.state();
        let survive = rng.below(state.unsynced.len() as u64 + 1) as usize;
        let lost = state.unsynced.len() - survive;
        let mut unsynced = std::mem::take(&mut state.unsynced);
        unsynced.truncate(survive);
        unsynced.into_iter().for_each(|batch| state.sync_batch(batch));
        // Numbers of its own: where a checkpoint was must not change what else is drawn.
        state.replay(&mut Rng::new((survive + state.log.len()) as u64));
        state.live = state.durable.clone();
        lost
    }

    /// A copy of what would survive a power cut: what a backup of the disk has.
    pub fn backup(&self) -> MemoryStore {
        let durable = self.state().durable.clone();
        let (live, tree) = (durable.clone(), durable.clone());
        MemoryStore(Mutex::new(State { live, durable, tree, ..State::default() }))
    }

    /// Flips a bit in some record on the disk. Returns the key, or `None` if there is no record.
    pub fn damage(&self, rng: &mut Rng) -> Option<Key> {
        let state = &mut *self.state();
        let places = |image: &Image| {
            let keys = |(p, records): (&Partition, &BTreeMap<Key, Bytes>)| {
                records.keys().map(|key| (*p, key.clone())).collect::<Vec<_>>()
            };
            image.records.iter().flat_map(keys).collect::<Vec<_>>()
        };
        let (partition, key) = rng.pick(&places(&state.durable)).cloned()?;
        for image in [&mut state.durable, &mut state.live] {
            let bytes = image.records.get_mut(&partition)?.get_mut(&key)?;
            let mut changed = bytes.to_vec();
            let at = rng.below(changed.len() as u64) as usize;
            *changed.get_mut(at)? ^= 1 << rng.below(8);
            *bytes = changed.into();
        }
        state.settle();
        Some(key)
    }

    /// Takes some of the records and hints, as a store that is made anew of what a damaged one
    /// still shows: where records are missing it has no read eligibility.
    pub fn lose_some(&self, rng: &mut Rng) {
        let state = &mut *self.state();
        let image = &mut state.durable;
        let mut lost = Vec::new();
        for (partition, records) in &mut image.records {
            let before = records.len();
            records.retain(|_, _| rng.chance(0.7));
            if records.len() < before {
                lost.push(*partition);
            }
        }
        image.hints.values_mut().for_each(|hints| hints.retain(|_, _| rng.chance(0.7)));
        if let Some(meta) = &mut image.meta {
            meta.read_ineligible.extend(lost);
            meta.read_ineligible.sort_unstable();
            meta.read_ineligible.dedup();
        }
        state.live = state.durable.clone();
        state.unsynced.clear();
        state.settle();
    }

    /// What a read would find after a power cut now that loses everything unsynced.
    pub fn read_durable(&self, partition: Partition, key: &Key) -> Found {
        self.state().durable.read(partition, key)
    }

    /// What would be kept of a key for others after a power cut now that loses everything unsynced.
    pub fn hints_durable(&self, key: &Key) -> Vec<(NodeId, Found)> {
        let state = self.state();
        let hints = state.durable.hints.iter().filter(|(_, hints)| hints.contains_key(key));
        hints.map(|(target, _)| (*target, state.durable.read_hint(*target, key))).collect()
    }
}

impl Store for MemoryStore {
    fn meta(&self) -> Result<Option<Meta>, StoreError> {
        Ok(self.state().live.meta.clone())
    }

    fn read(&self, partition: Partition, key: &Key) -> Result<Found, StoreError> {
        Ok(self.state().live.read(partition, key))
    }

    fn list(
        &self,
        partition: Partition,
        after: Option<&Key>,
        limit_bytes: usize,
    ) -> Result<Listing, StoreError> {
        let state = self.state();
        let mut listing = Listing::default();
        let Some(records) = state.live.records.get(&partition) else { return Ok(listing) };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = records.range((from, Bound::Unbounded)).map(|(key, _)| key);
        let mut bytes = 0;
        for key in rest.by_ref() {
            bytes += key.as_bytes().len();
            listing.keys.push(key.clone());
            if bytes >= limit_bytes {
                listing.more = rest.next().is_some();
                break;
            }
        }
        Ok(listing)
    }

    fn scan(&self, partition: Partition, span: &Span) -> Result<ScanPage, StoreError> {
        let state = self.state();
        let mut page = ScanPage::default();
        let Some(records) = state.live.records.get(&partition) else { return Ok(page) };
        let from = span.after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut bytes = 0;
        for (key, stored) in records.range((from, Bound::Unbounded)) {
            if span.until.as_ref().is_some_and(|until| key > until) {
                break;
            }
            if span.wants(key) {
                page.add(key.clone(), decode_record(partition, key, stored.clone()), span);
            }
            bytes += stored.len();
            if bytes >= span.limit_bytes {
                page.next = Some(key.clone());
                break;
            }
        }
        Ok(page)
    }

    fn members(&self) -> Result<Option<Members>, StoreError> {
        Ok(self.state().live.members.clone())
    }

    fn ring(&self) -> Result<Option<Ring>, StoreError> {
        Ok(self.state().live.ring.clone())
    }

    fn read_hint(&self, target: NodeId, key: &Key) -> Result<Found, StoreError> {
        Ok(self.state().live.read_hint(target, key))
    }

    fn list_hints(
        &self,
        target: NodeId,
        after: Option<&Key>,
        limit_bytes: usize,
    ) -> Result<HintPage, StoreError> {
        let state = self.state();
        let mut page = HintPage::default();
        let Some(hints) = state.live.hints.get(&target) else { return Ok(page) };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = hints.range((from, Bound::Unbounded));
        let mut bytes = 0;
        for (key, stored) in rest.by_ref() {
            bytes += stored.len();
            page.hints.push((key.clone(), decode_hint(target, key, stored.clone())));
            if bytes >= limit_bytes {
                page.more = rest.next().is_some();
                break;
            }
        }
        Ok(page)
    }

    fn gc_epochs(&self) -> Result<Vec<(Partition, GcState)>, StoreError> {
        Ok(self.state().live.gc_epochs.clone().into_iter().collect())
    }

    fn hint_totals(&self, place: &dyn Fn(&Key) -> Partition) -> Result<Kept, StoreError> {
        let state = self.state();
        let mut kept = Kept::default();
        for (target, hints) in &state.live.hints {
            for (key, bytes) in hints {
                kept.add(*target, key, &decode_hint(*target, key, bytes.clone()), place(key));
            }
        }
        Ok(kept)
    }

    fn apply(&self, changes: &[Change]) -> Result<(), StoreError> {
        let store = |change: &Change| match change {
            Change::Meta(meta) => Stored::Meta(meta.clone()),
            Change::Members(members) => Stored::Members(members.clone()),
            Change::Ring(ring) => Stored::Ring(ring.clone()),
            Change::Forget { partition, key } => Stored::Forget(*partition, key.clone()),
            Change::GcState { partition, gc_epoch } => {
                Stored::GcState(*partition, gc_epoch.clone())
            }
            Change::Hint { target, key, record } => {
                let bytes = record.as_ref().map(|record| encode_hint(*target, key, record).into());
                Stored::Hint(*target, key.clone(), bytes)
            }
            Change::Record { partition, key, record } => {
                let bytes = encode_record(*partition, key, record);
                Stored::Record(*partition, key.clone(), bytes.into())
            }
        };
        let batch: Vec<Stored> = changes.iter().map(store).collect();
        let state = &mut *self.state();
        state.live.apply(&batch);
        state.unsynced.push(batch);
        state.trees = None;
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        let state = &mut *self.state();
        for batch in std::mem::take(&mut state.unsynced) {
            state.sync_batch(batch);
        }
        state.go_on(STEP_CHANGES);
        Ok(())
    }

    fn save_trees(&self, trees: &[u8]) -> Result<(), StoreError> {
        self.state().trees = Some(trees.to_vec());
        Ok(())
    }

    fn take_trees(&self) -> Result<Taken, StoreError> {
        Ok(self.state().trees.take().map_or(Taken::Nothing, Taken::Whole))
    }

    fn disk_bytes(&self) -> Result<u64, StoreError> {
        Ok(self.state().live.records.values().map(|bytes| bytes.len() as u64).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::causal::{Actor, ActorEpoch, Context, Object, Version};
    use crate::store::Record;
    use crate::types::{Blob, WriteId};

    /// A change of one of a few keys; some remove it.
    fn change(number: u64, rng: &mut Rng) -> Change {
        let key = Key::new(format!("{}", rng.below(9)).into_bytes()).unwrap();
        let partition = Partition(0);
        if rng.chance(0.2) {
            return Change::Forget { partition, key };
        }
        let version = Version { write: WriteId(number.into()), value: Blob("v".into()) };
        let actor = Actor { store: 1, actor_epoch: ActorEpoch(1) };
        let object = Object::default().update(&Context::default(), actor, version).0;
        Change::Record { partition, key, record: Record { object, ..Record::default() } }
    }

    #[test]
    fn a_power_cut_in_any_state_of_a_checkpoint_leaves_what_was_synced() {
        let (mut with_log, mut within) = (0, 0);
        for seed in 0..300 {
            let mut rng = Rng::new(seed);
            let (store, model) = (MemoryStore::default(), MemoryStore::default());
            for number in 0..rng.below(60) {
                let change = change(number, &mut rng);
                store.apply(std::slice::from_ref(&change)).unwrap();
                model.apply(&[change]).unwrap();
                store.sync().unwrap();
            }
            with_log += usize::from(!store.state().log.is_empty());
            within += usize::from(store.state().checkpoint.0 > 0);
            store.power_cut(&mut rng);
            assert!(store.state().log.is_empty());
            for key in 0..9 {
                let key = Key::new(format!("{key}").into_bytes()).unwrap();
                let found = store.read(Partition(0), &key).unwrap();
                assert_eq!(found, model.read(Partition(0), &key).unwrap(), "seed {seed}");
            }
        }
        assert!(with_log > 100 && within > 30, "{with_log} {within}");
    }
}
