//! The Merkle trees of the partitions that this node owns: derived from the records, changed by the
//! same step that changes a record, and read again from the disk after a start and in each scrub.

use std::collections::{BTreeMap, VecDeque};

use super::ids::SyncSeq;
use crate::causal::Object;
use crate::merkle::{Digest, KeptTree, Tree, leaf_of};
use crate::ring::Ring;
use crate::store::ScanPage;
use crate::types::{Key, NodeId, Partition};
use crate::wire;

/// The part of a record that a tree and its counts depend on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct TreeEntry {
    digest: Digest,
    has_dead: bool,
    /// Encoded bytes of the object.
    bytes: usize,
}

impl TreeEntry {
    /// The entry of a key's object.
    pub(super) fn of(key: &Key, object: &Object) -> Self {
        let has_dead = object.entries().iter().any(|entry| entry.values.is_empty());
        TreeEntry { digest: Digest::of(key, object), has_dead, bytes: wire::encoded_len(object) }
    }
}

/// The trees of all partitions that this node holds records of.
#[derive(Clone, Debug, Default)]
pub(super) struct MerkleTrees {
    stands: BTreeMap<Partition, Stand>,
    /// Changes that are not synced yet: a scan that begins now need not see them.
    recent: VecDeque<(SyncSeq, Partition, Key, TreeEntry)>,
    synced: SyncSeq,
    /// Objects over this size, in encoded bytes, are counted.
    limit: usize,
}

/// The tree of one partition.
#[derive(Clone, Debug, Default)]
struct Stand {
    crop: Crop,
    /// False until all of the partition has been read once.
    is_built: bool,
    reading: Option<Reading>,
    changes: u64,
    /// True if the tree may be wrong: a record was replaced that could not be read.
    is_doubtful: bool,
}

/// A tree, how many of its keys have events without a value, and how many are over the limit.
#[derive(Clone, Debug, Default)]
struct Crop {
    tree: Tree,
    dead: u64,
    oversized: u64,
}

impl Crop {
    fn replace(&mut self, key: &Key, old: TreeEntry, new: TreeEntry, limit: usize) {
        let over = |held: TreeEntry| u64::from(held.bytes > limit);
        self.oversized = (self.oversized + over(new)).saturating_sub(over(old));
        self.tree.replace(leaf_of(key), old.digest, new.digest);
        self.dead = (self.dead + u64::from(new.has_dead)).saturating_sub(u64::from(old.has_dead));
    }
}

/// A partition that is being read from the disk.
#[derive(Clone, Debug, Default)]
struct Reading {
    crop: Crop,
    /// All keys up to this one are in the tree.
    read_to: Option<Key>,
    /// What was written behind it that the next scan need not see, with the mark of the write.
    flux: BTreeMap<Key, (SyncSeq, TreeEntry)>,
    /// True if the tree may be wrong for a known reason: it was doubted, or records were met that
    /// fail their checksum.
    is_doubted: bool,
}

/// What a partition that has been read to its end came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It was read for the first time.
    Built,
    /// The tree in memory was right.
    Confirmed,
    /// It was not, for a known reason or none; it is now.
    Corrected { known: bool },
}

impl MerkleTrees {
    /// The trees of these partitions, none of them read yet.
    pub(super) fn new(held: impl Iterator<Item = Partition>, limit: usize) -> Self {
        let mut trees = MerkleTrees { limit, ..MerkleTrees::default() };
        trees.hold(held);
        trees
    }

    /// These partitions have trees from now on: those that had none have to be read.
    pub(super) fn hold(&mut self, partitions: impl Iterator<Item = Partition>) {
        for partition in partitions {
            self.stands.entry(partition).or_default();
        }
    }

    /// Nothing is left of a partition here: it has no tree any more.
    pub(super) fn drop(&mut self, partition: Partition) {
        self.stands.remove(&partition);
    }

    /// Takes over the trees of a clean stop: they need not be built.
    pub(super) fn take_over(&mut self, kept: &[KeptTree]) {
        for KeptTree { partition, dead, oversized, tree } in kept {
            if let Some(stand) = self.stands.get_mut(partition) {
                let (dead, oversized) = (*dead, *oversized);
                stand.crop = Crop { tree: tree.clone(), dead, oversized };
                stand.is_built = true;
            }
        }
    }

    /// The trees that are known to be right, for the next start.
    pub(super) fn kept(&self) -> Vec<KeptTree> {
        let doubted = |stand: &Stand| {
            stand.is_doubtful || stand.reading.as_ref().is_some_and(|reading| reading.is_doubted)
        };
        let right = self.stands.iter().filter(|(_, stand)| stand.is_built && !doubted(stand));
        let kept = right.map(|(partition, stand)| {
            let Crop { tree, dead, oversized } = stand.crop.clone();
            KeptTree { partition: *partition, dead, oversized, tree }
        });
        kept.collect()
    }

    /// A partition that has not been read to its end; `None` if there is none.
    pub(super) fn first_unbuilt(&self) -> Option<Partition> {
        let unbuilt = |(_, stand): &(&Partition, &Stand)| !stand.is_built;
        self.stands.iter().find(unbuilt).map(|(partition, _)| *partition)
    }

    /// The partition's tree, once it is built.
    pub(super) fn tree(&self, partition: Partition) -> Option<&Tree> {
        let stand = self.stands.get(&partition)?;
        stand.is_built.then_some(&stand.crop.tree)
    }

    /// How many changes the partition has seen in this incarnation.
    pub(super) fn changes(&self, partition: Partition) -> u64 {
        self.stands.get(&partition).map_or(0, |stand| stand.changes)
    }

    /// Keys of the partition that know of events without a value.
    pub(super) fn dead(&self, partition: Partition) -> u64 {
        self.stands.get(&partition).map_or(0, |stand| stand.crop.dead)
    }

    /// Keys of all partitions that know of events without a value.
    pub(super) fn all_dead(&self) -> u64 {
        self.stands.values().map(|stand| stand.crop.dead).sum()
    }

    /// Keys of all partitions whose object is over the limit.
    pub(super) fn all_oversized(&self) -> u64 {
        self.stands.values().map(|stand| stand.crop.oversized).sum()
    }

    /// Partitions that are not read to the end.
    pub(super) fn unbuilt(&self) -> usize {
        self.stands.values().filter(|stand| !stand.is_built).count()
    }

    /// A partition whose tree may be wrong.
    pub(super) fn doubtful(&self) -> Option<Partition> {
        let doubtful = |(_, stand): &(&Partition, &Stand)| stand.is_doubtful && stand.is_built;
        self.stands.iter().find(doubtful).map(|(partition, _)| *partition)
    }

    /// The tree does not explain what a comparison showed.
    pub(super) fn doubt(&mut self, partition: Partition) {
        if let Some(stand) = self.stands.get_mut(&partition) {
            stand.is_doubtful = true;
        }
    }

    /// A record was replaced by the write with this mark; `before` is `None` if it could not be
    /// read.
    pub(super) fn changed(
        &mut self,
        partition: Partition,
        key: &Key,
        before: Option<TreeEntry>,
        after: TreeEntry,
        seq: SyncSeq,
    ) {
        let Some(stand) = self.stands.get_mut(&partition) else { return };
        stand.changes += 1;
        stand.is_doubtful |= before.is_none();
        let before = before.unwrap_or_default();
        if stand.is_built {
            stand.crop.replace(key, before, after, self.limit);
        }
        if let Some(reading) = &mut stand.reading {
            if reading.read_to.as_ref().is_some_and(|read| key <= read) {
                reading.crop.replace(key, before, after, self.limit);
            } else {
                reading.flux.insert(key.clone(), (seq, after));
            }
        }
        self.recent.push_back((seq, partition, key.clone(), after));
    }

    /// Every write up to `seq` is on disk.
    pub(super) fn synced(&mut self, seq: SyncSeq) {
        self.synced = self.synced.max(seq);
        while self.recent.front().is_some_and(|(written, ..)| *written <= seq) {
            self.recent.pop_front();
        }
    }

    /// Notes that a scan of the partition is about to begin; returns the key that it begins behind.
    pub(super) fn begin_page(&mut self, partition: Partition) -> Option<Key> {
        let stand = self.stands.get_mut(&partition)?;
        let recent = &self.recent;
        let reading = stand.reading.get_or_insert_with(|| {
            let is_doubted = std::mem::take(&mut stand.is_doubtful);
            let of = recent.iter().filter(|(_, of, ..)| *of == partition);
            let flux = of.map(|(seq, _, key, held)| (key.clone(), (*seq, *held))).collect();
            Reading { flux, is_doubted, ..Reading::default() }
        });
        // What is on disk will be seen.
        let synced = self.synced;
        reading.flux.retain(|_, (seq, _)| *seq > synced);
        reading.read_to.clone()
    }

    /// A page of the partition has been read; says what came of it if it was the last one.
    pub(super) fn page(&mut self, partition: Partition, page: &ScanPage) -> Option<Verdict> {
        let stand = self.stands.get_mut(&partition)?;
        let reading = stand.reading.as_mut()?;
        reading.is_doubted |= !page.damaged.is_empty();
        for item in &page.items {
            let (digest, has_dead) = (item.digest, !item.dead.is_empty());
            let found = TreeEntry { digest, has_dead, bytes: item.bytes };
            let held = reading.flux.remove(&item.key).map_or(found, |(_, newer)| newer);
            reading.crop.replace(&item.key, TreeEntry::default(), held, self.limit);
        }
        let is_read = |key: &Key| page.next.as_ref().is_none_or(|end| key <= end);
        let missed: Vec<Key> = reading.flux.keys().filter(|key| is_read(key)).cloned().collect();
        for key in missed {
            if let Some((_, held)) = reading.flux.remove(&key) {
                reading.crop.replace(&key, TreeEntry::default(), held, self.limit);
            }
        }
        if page.next.is_some() {
            reading.read_to.clone_from(&page.next);
            return None;
        }
        let Reading { crop, is_doubted, .. } = stand.reading.take()?;
        let verdict = match (stand.is_built, crop.tree.root() == stand.crop.tree.root()) {
            (false, _) => Verdict::Built,
            (true, true) => Verdict::Confirmed,
            (true, false) => Verdict::Corrected { known: stand.is_doubtful || is_doubted },
        };
        stand.crop = crop;
        stand.is_built = true;
        Some(verdict)
    }
}

/// The partitions that a node owns, in either table of a ring in a change; sorted.
pub fn own_partitions(ring: &Ring, me: NodeId) -> Vec<Partition> {
    let all = (0..ring.partitions()).map(Partition);
    all.filter(|partition| ring.is_owner(*partition, me)).collect()
}
