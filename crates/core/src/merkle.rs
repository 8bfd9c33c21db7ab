//! Merkle trees over the keys of a partition (Merkle 1987; as Dynamo's anti-entropy uses them).
//!
//! A leaf is a bucket of keys, chosen by their hash. Its digest is the sum, modulo 2^128, of one
//! 128-bit blake3 hash for each key, of the key and its canonical object: so a write changes it in
//! constant time, the old hash taken out and the new one put in, and the order of writes leaves no
//! trace (the additive combination of Bellare and Micciancio, "A new paradigm for collision-free
//! hashing", 1997). Sums of different sets agree with a chance of 2^-128. That is sound against
//! accidents. A client that chose its values to forge a sum would need both replicas to hold what
//! it wrote, while their difference, not its own, is what a comparison looks for; and what it could
//! hide is its own data.
//!
//! An inner node is the sum of its children, so every level costs one addition for each write.

mod kept;

use bincode::{BorrowDecode, Encode};
use bytes::Bytes;

pub use self::kept::{Binding, KeptTree, KeptTrees};
use crate::causal::Object;
use crate::types::{Key, hash64};

/// Children of each inner node.
pub const FANOUT: usize = 16;
/// Levels below the root; the last one are the leaves.
pub const GAUGES: u8 = 3;
/// Leaves of a tree.
pub const LEAVES: usize = 4_096;
/// Names the shape and the digests: two trees of different shapes cannot be compared.
pub const SHAPE: u32 = 0x0101_1003;

/// The hash of one key with its object, or a sum of such hashes. Nothing at all is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct Digest(pub u128);

impl Digest {
    /// The digest of what a replica holds of a key: its clock and values, nothing that is local to
    /// a store. Zero for a clock that knows of no event, which is the same as no record.
    pub fn of(key: &Key, object: &Object) -> Self {
        if object.is_empty() {
            return Digest(0);
        }
        let mut hasher = blake3::Hasher::new();
        let mut part = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_be_bytes());
            hasher.update(bytes);
        };
        part(key.as_bytes());
        for entry in object.entries() {
            let mut head = [0; 32];
            let numbers = [
                entry.actor.store,
                entry.actor.actor_epoch.0,
                entry.counter,
                entry.values.len() as u64,
            ];
            for (place, number) in head.chunks_mut(8).zip(numbers) {
                place.copy_from_slice(&number.to_be_bytes());
            }
            part(&head);
            for version in &entry.values {
                part(&version.write.0.to_be_bytes());
                part(&version.value.0);
            }
        }
        let mut first = [0; 16];
        first.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Digest(u128::from_be_bytes(first))
    }

    /// A short form of it for the wire, `width` bytes (1 to 8). Under another salt other digests
    /// collide, so what one comparison overlooks the next one finds.
    pub fn summary(self, salt: u64, width: usize) -> u64 {
        let hash = hash64(&[&salt.to_be_bytes(), &self.0.to_be_bytes()]);
        hash >> (64 - 8 * width.clamp(1, 8))
    }
}

/// The leaf of a key, 0 to [`LEAVES`] - 1.
pub fn leaf_of(key: &Key) -> u16 {
    (hash64(&[b"leaf", key.as_bytes()]) % LEAVES as u64) as u16
}

/// How many nodes the level has; level 0 is the root.
pub fn width_of(level: u8) -> usize {
    FANOUT.pow(u32::from(level.min(GAUGES)))
}

/// Some of a tree's leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafSet(Vec<u64>);

impl LeafSet {
    /// These leaves; numbers that are no leaf's are left out.
    pub fn new(leaves: impl IntoIterator<Item = u16>) -> Self {
        let mut bits = vec![0; LEAVES / 64];
        for leaf in leaves.into_iter().map(usize::from).filter(|leaf| *leaf < LEAVES) {
            bits[leaf / 64] |= 1 << (leaf % 64);
        }
        LeafSet(bits)
    }

    /// True if the leaf is one of them.
    pub fn has(&self, leaf: u16) -> bool {
        self.0.get(usize::from(leaf) / 64).is_some_and(|bits| bits >> (leaf % 64) & 1 == 1)
    }
}

/// The tree of one partition. It takes 70 kB once it holds a key, and next to nothing before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// Every level behind the one above, the root first; empty until there is a key.
    nodes: Vec<Digest>,
}

impl Tree {
    /// The root: equal where two replicas hold the same.
    pub fn root(&self) -> Digest {
        self.nodes.first().copied().unwrap_or_default()
    }

    /// A key of this leaf was `old` and is `new`.
    pub fn replace(&mut self, leaf: u16, old: Digest, new: Digest) {
        if old == new {
            return;
        }
        if self.nodes.is_empty() {
            let all = (0..=GAUGES).map(width_of).sum();
            self.nodes = vec![Digest(0); all];
        }
        let mut first = 0;
        for level in 0..=GAUGES {
            let below = LEAVES / width_of(level);
            if let Some(node) = self.nodes.get_mut(first + usize::from(leaf) / below) {
                node.0 = node.0.wrapping_sub(old.0).wrapping_add(new.0);
            }
            first += width_of(level);
        }
    }

    /// The node `at` of a level; zero where there is none.
    pub fn node(&self, level: u8, at: u16) -> Digest {
        let first: usize = (0..level).map(width_of).sum();
        self.nodes.get(first + usize::from(at)).copied().unwrap_or_default()
    }

    /// The leaves that are not zero, each with its place.
    pub fn leaves(&self) -> impl Iterator<Item = (u16, Digest)> {
        let all = (0..LEAVES as u16).map(|leaf| (leaf, self.node(GAUGES, leaf)));
        all.filter(|(_, digest)| *digest != Digest(0))
    }

    /// The children of node `at` of a level above the leaves.
    pub fn children(&self, level: u8, at: u16) -> impl Iterator<Item = Digest> {
        let first = usize::from(at) * FANOUT;
        (first..first + FANOUT).map(move |child| self.node(level + 1, child as u16))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::causal::{Actor, ActorEpoch, Clock, Context, Version};
    use crate::rng::Rng;
    use crate::types::{Blob, WriteId};

    fn key(number: u64) -> Key {
        Key::new(format!("key {number}").into_bytes()).unwrap()
    }

    fn object(write: u128) -> Object {
        let version = Version { write: WriteId(write), value: Blob(Bytes::from_static(b"v")) };
        let actor = Actor { store: 1, actor_epoch: ActorEpoch(1) };
        Clock::default().update(&Context::default(), actor, version).0
    }

    #[test]
    fn a_tree_is_what_it_holds_whatever_the_order_of_the_writes() {
        let mut rng = Rng::new(7);
        let mut held: Vec<u128> = vec![0; 500];
        let mut tree = Tree::default();
        let digest = |at: usize, write: u128| match write {
            0 => Digest(0),
            _ => Digest::of(&key(at as u64), &object(write)),
        };
        for _ in 0..5_000 {
            let at = rng.below(500) as usize;
            let new = u128::from(rng.below(4));
            tree.replace(leaf_of(&key(at as u64)), digest(at, held[at]), digest(at, new));
            held[at] = new;
        }
        let mut anew = Tree::default();
        for (at, write) in held.iter().enumerate().rev() {
            anew.replace(leaf_of(&key(at as u64)), Digest(0), digest(at, *write));
        }
        assert_eq!(tree, anew);
        for level in 0..GAUGES {
            for at in 0..width_of(level) as u16 {
                let sum = tree.children(level, at).fold(0, |sum: u128, d| sum.wrapping_add(d.0));
                assert_eq!(tree.node(level, at).0, sum);
            }
        }
        for (at, write) in held.iter().enumerate() {
            tree.replace(leaf_of(&key(at as u64)), digest(at, *write), Digest(0));
        }
        assert_eq!(tree.root(), Tree::default().root());
    }

    #[test]
    fn a_digest_covers_key_clock_and_values_and_no_record_is_nothing() {
        let one = Digest::of(&key(1), &object(1));
        assert_ne!(one, Digest::of(&key(2), &object(1)));
        assert_ne!(one, Digest::of(&key(1), &object(2)));
        let deleted = object(1).discard(&object(1).context());
        assert_ne!(one, Digest::of(&key(1), &deleted));
        assert_ne!(Digest(0), Digest::of(&key(1), &deleted));
        assert_eq!(Digest(0), Digest::of(&key(1), &Object::default()));
        assert_ne!(one.summary(1, 2), one.summary(2, 2), "another salt, another summary");
        assert!(one.summary(1, 2) < 1 << 16);
    }

    #[test]
    fn a_set_of_leaves_has_just_those() {
        let set = LeafSet::new([0, 63, 64, 4_095, 4_096, u16::MAX]);
        let has: Vec<u16> = (0..=u16::MAX).filter(|leaf| set.has(*leaf)).collect();
        assert_eq!(has, [0, 63, 64, 4_095]);
    }
}
