//! Trees as they are kept from a clean stop to the next start, so that nothing has to be read
//! again.
//!
//! All numbers are big-endian: the shape of the trees (4 bytes), what they are bound to (the
//! store's id, its incarnation, the version and the digest of the ring, the size in bytes from
//! which an object counts as oversized: 8 bytes each), and how many trees there are (4). Then for
//! each tree its partition (2), keys with dead events (8), oversized keys (8), the number of
//! leaves that are not zero (4), and these, each with its place (2) and its digest (16).

use bytes::{Buf, BufMut};

use super::{Digest, LEAVES, SHAPE, Tree};
use crate::members::Incarnation;
use crate::ring::RingId;
use crate::types::Partition;

/// The state that trees are valid for: not for another store, a later incarnation of it, or another
/// ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Binding {
    /// The id of the store, in the incarnation that kept them.
    pub store: u64,
    /// The number of that incarnation.
    pub incarnation: Incarnation,
    /// The version and the digest of the ring.
    pub ring: RingId,
    /// Objects over so many bytes count as oversized.
    pub limit: u64,
}

/// The tree of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptTree {
    /// The partition whose keys the tree covers.
    pub partition: Partition,
    /// Keys that know of events without a value.
    pub dead: u64,
    /// Keys whose object is over the limit.
    pub oversized: u64,
    /// The Merkle tree as it was at the stop.
    pub tree: Tree,
}

/// Trees that were right when the store was closed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeptTrees {
    /// The state that they are valid for.
    pub binding: Binding,
    /// One for each partition, as far as they are known to be right.
    pub trees: Vec<KeptTree>,
}

impl KeptTrees {
    /// Encodes the trees in the format that the module's documentation describes.
    pub fn encode(&self) -> Vec<u8> {
        let Binding { store, incarnation, ring, limit } = self.binding;
        let mut out = Vec::new();
        out.put_u32(SHAPE);
        [store, incarnation.0, ring.version, ring.digest, limit]
            .into_iter()
            .for_each(|n| out.put_u64(n));
        out.put_u32(self.trees.len() as u32);
        for KeptTree { partition, dead, oversized, tree } in &self.trees {
            out.put_u16(partition.0);
            out.put_u64(*dead);
            out.put_u64(*oversized);
            out.put_u32(tree.leaves().count() as u32);
            for (leaf, digest) in tree.leaves() {
                out.put_u16(leaf);
                out.put_u128(digest.0);
            }
        }
        out
    }

    /// The trees in these bytes, if they are bound to just this; else why not.
    pub fn decode(mut bytes: &[u8], binding: Binding) -> Result<Self, &'static str> {
        let bytes = &mut bytes;
        let short = |_| "they end too early";
        if bytes.try_get_u32().map_err(short)? != SHAPE {
            return Err("they are of another shape");
        }
        let mut numbers = [0; 5];
        for number in &mut numbers {
            *number = bytes.try_get_u64().map_err(short)?;
        }
        let [store, incarnation, version, digest, limit] = numbers;
        let incarnation = Incarnation(incarnation);
        let found = Binding { store, incarnation, ring: RingId { version, digest }, limit };
        if (found.store, found.incarnation) != (binding.store, binding.incarnation) {
            return Err("they are of another incarnation of the store");
        }
        if found != binding {
            return Err("they are of another ring");
        }
        let mut trees = Vec::new();
        for _ in 0..bytes.try_get_u32().map_err(short)? {
            let partition = Partition(bytes.try_get_u16().map_err(short)?);
            let dead = bytes.try_get_u64().map_err(short)?;
            let oversized = bytes.try_get_u64().map_err(short)?;
            let mut tree = Tree::default();
            for _ in 0..bytes.try_get_u32().map_err(short)? {
                let leaf = bytes.try_get_u16().map_err(short)?;
                let digest = Digest(bytes.try_get_u128().map_err(short)?);
                if usize::from(leaf) >= LEAVES {
                    return Err("they have a leaf that no tree has");
                }
                tree.replace(leaf, Digest(0), digest);
            }
            trees.push(KeptTree { partition, dead, oversized, tree });
        }
        match bytes.is_empty() {
            true => Ok(KeptTrees { binding, trees }),
            false => Err("there is something behind them"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> KeptTrees {
        let mut tree = Tree::default();
        tree.replace(7, Digest(0), Digest(0x0102));
        tree.replace(4_095, Digest(0), Digest(u128::MAX));
        let one = KeptTree { partition: Partition(3), dead: 1, oversized: 2, tree };
        let none =
            KeptTree { partition: Partition(9), dead: 0, oversized: 0, tree: Tree::default() };
        let binding = Binding {
            store: 0xa1,
            incarnation: Incarnation(5),
            ring: RingId { version: 1, digest: 0xb2 },
            limit: 0xc3,
        };
        KeptTrees { binding, trees: vec![one, none] }
    }

    #[test]
    fn the_bytes_are_these_and_give_the_same_trees() {
        let (trees, mut golden) = (some(), Vec::new());
        golden.extend([1, 1, 0x10, 3]);
        for number in [0xa1u64, 5, 1, 0xb2, 0xc3] {
            golden.extend(number.to_be_bytes());
        }
        golden.extend([0, 0, 0, 2]);
        golden.extend([0, 3, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 2]);
        golden.extend([0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2]);
        golden.extend([0x0f, 0xff]);
        golden.extend([0xff; 16]);
        golden.extend([0, 9]);
        golden.extend([0; 20]);
        assert_eq!(trees.encode(), golden);
        assert_eq!(KeptTrees::decode(&golden, trees.binding), Ok(trees));
    }

    #[test]
    fn what_is_cut_or_of_something_else_is_refused() {
        let (trees, bytes) = (some(), some().encode());
        let own = trees.binding;
        for length in 0..bytes.len() {
            assert!(KeptTrees::decode(&bytes[..length], own).is_err(), "{length}");
        }
        assert!(KeptTrees::decode(&[&bytes[..], &[0]].concat(), own).is_err());
        for other in [
            Binding { store: 1, ..own },
            Binding { incarnation: Incarnation(6), ..own },
            Binding { ring: RingId { version: 2, ..own.ring }, ..own },
            Binding { ring: RingId { digest: 7, ..own.ring }, ..own },
            Binding { limit: 1, ..own },
        ] {
            assert!(KeptTrees::decode(&bytes, other).is_err(), "{other:?}");
        }
    }
}
