//! What the commit log has and the tree may not have, in memory, by place.
//!
//! There are two tables: the active one takes new changes, the frozen one is on its way to the
//! tree. What is at a place is in the active table, else in the frozen one, else in the tree.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::format::Edit;
use crate::disk::layout::{CHUNKS, HINTS};

/// What an entry takes beside its place and value, in bytes: the nodes of the map and what the
/// allocator adds.
const ENTRY_BYTES: usize = 128;

/// Changes by place: the newest of each.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    entries: BTreeMap<Vec<u8>, Option<Bytes>>,
    bytes: usize,
}

/// About how much memory so many changes take, in bytes, if none replaces another one.
pub(super) fn memory_of(edits: &[Edit]) -> usize {
    edits.iter().map(|(place, value)| entry_bytes(place, value.as_ref())).sum()
}

/// The same of one change.
pub(super) fn entry_bytes(place: &[u8], value: Option<&Bytes>) -> usize {
    ENTRY_BYTES + place.len() + value.map_or(0, Bytes::len)
}

impl Table {
    pub(super) fn insert(&mut self, edits: Vec<Edit>) {
        for (place, value) in edits {
            self.bytes += entry_bytes(&place, value.as_ref());
            let length = place.len();
            if let Some(old) = self.entries.insert(place, value) {
                self.bytes -= ENTRY_BYTES + length + old.map_or(0, |old| old.len());
            }
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The changes in the order in which a tree may get them one by one: at each moment between,
    /// every record in it is an old one or a new one. Chunks come before the heads that name them,
    /// and go after these.
    pub(super) fn in_order(&self) -> impl Iterator<Item = (&Vec<u8>, &Option<Bytes>)> {
        let chunks = |is_there: bool| {
            let entries = self.entries.range(CHUNKS.to_vec()..HINTS.to_vec());
            entries.filter(move |(_, value)| value.is_some() == is_there)
        };
        let others = self.entries.iter().filter(|(place, _)| !place.starts_with(&CHUNKS));
        chunks(true).chain(others).chain(chunks(false))
    }
}

/// Both tables.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pub(super) active: Table,
    pub(super) frozen: Option<Arc<Frozen>>,
}

/// A table that nothing is added to any more.
#[derive(Debug)]
pub(super) struct Frozen {
    pub(super) table: Table,
    /// The last write in it. All before it are in this table or in the tree.
    pub(super) seq: u64,
}

/// Entries of both tables within a range.
pub(super) struct Page {
    pub(super) entries: Vec<Edit>,
    /// True if there may be more behind the last one.
    pub(super) is_cut: bool,
}

impl Tables {
    /// What the tables have of a place; `None` if the tree is to be asked.
    pub(super) fn get(&self, place: &[u8]) -> Option<Option<Bytes>> {
        let frozen = || self.frozen.as_ref().and_then(|frozen| frozen.table.entries.get(place));
        self.active.entries.get(place).or_else(frozen).cloned()
    }

    /// Memory that both take, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.active.bytes + self.frozen.as_ref().map_or(0, |frozen| frozen.table.bytes)
    }

    /// The first `limit` places or so from `from` to before `to`, removed ones among them.
    pub(super) fn page(&self, from: &[u8], to: Option<&[u8]>, limit: usize) -> Page {
        let to = to.map_or(Bound::Unbounded, Bound::Excluded);
        if matches!(to, Bound::Excluded(to) if to <= from) {
            return Page { entries: Vec::new(), is_cut: false };
        }
        let bounds = (Bound::Included(from), to);
        let mut entries = BTreeMap::new();
        let mut ends: Vec<&Vec<u8>> = Vec::new();
        let frozen = self.frozen.as_ref().map(|frozen| &frozen.table);
        for table in frozen.into_iter().chain([&self.active]) {
            let mut count = 0;
            for (place, value) in table.entries.range::<[u8], _>(bounds) {
                entries.insert(place, value);
                count += 1;
                if count == limit {
                    ends.push(place);
                    break;
                }
            }
        }
        // A table that was cut says nothing of what is behind.
        let end = ends.into_iter().min();
        let shown =
            entries.into_iter().take_while(|(place, _)| end.is_none_or(|end| *place <= end));
        let entries = shown.map(|(place, value)| (place.clone(), value.clone())).collect();
        Page { entries, is_cut: end.is_some() }
    }

    /// All that is in them, the newest of each place.
    pub(super) fn all(&self) -> Table {
        let mut all = self.frozen.as_ref().map(|frozen| frozen.table.clone()).unwrap_or_default();
        let edits = self.active.entries.iter();
        all.insert(edits.map(|(place, value)| (place.clone(), value.clone())).collect());
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(place: &str, value: Option<&str>) -> Edit {
        (place.into(), value.map(|value| Bytes::copy_from_slice(value.as_bytes())))
    }

    #[test]
    fn the_newest_change_of_a_place_counts_and_memory_is_that_of_what_is_kept() {
        let mut tables = Tables::default();
        tables.active.insert(vec![edit("a", Some("old")), edit("b", Some("old"))]);
        let frozen = std::mem::take(&mut tables.active);
        tables.frozen = Some(Arc::new(Frozen { table: frozen, seq: 1 }));
        tables.active.insert(vec![edit("a", Some("n")), edit("b", None), edit("c", Some(""))]);
        assert_eq!(tables.get(b"a"), Some(Some("n".into())));
        assert_eq!(tables.get(b"b"), Some(None), "removed, whatever the tree has");
        assert_eq!((tables.get(b"c"), tables.get(b"d")), (Some(Some("".into())), None));
        assert_eq!(tables.bytes(), 2 * (ENTRY_BYTES + 4) + 3 * (ENTRY_BYTES + 1) + 1);
        let active = tables.active.bytes();
        tables.active.insert(vec![edit("a", None), edit("a", Some("n"))]);
        assert_eq!(tables.active.bytes(), active);
        let mut all = Table::default();
        all.insert(vec![edit("a", Some("n")), edit("b", None), edit("c", Some(""))]);
        assert_eq!(tables.all().entries, all.entries);
    }

    #[test]
    fn pages_show_each_place_of_either_table_once_and_in_order() {
        let mut tables = Tables::default();
        let places: Vec<String> = (0..100).map(|n| format!("{n:03}")).collect();
        let of = |step: usize| places.iter().step_by(step).map(|place| edit(place, Some("v")));
        tables.active.insert(of(3).collect());
        let frozen = std::mem::take(&mut tables.active);
        tables.frozen = Some(Arc::new(Frozen { table: frozen, seq: 1 }));
        tables.active.insert(of(2).collect());
        let expected: Vec<&String> = places
            .iter()
            .enumerate()
            .filter(|(n, _)| n % 2 == 0 || n % 3 == 0)
            .map(|p| p.1)
            .collect();
        for limit in [1, 2, 7, 1_000] {
            let (mut seen, mut from) = (Vec::new(), Vec::new());
            loop {
                let page = tables.page(&from, Some(b"090"), limit);
                seen.extend(page.entries.into_iter().map(|(place, _)| place));
                if !page.is_cut {
                    break;
                }
                from = [&seen.last().unwrap()[..], &[0]].concat();
            }
            let seen: Vec<String> =
                seen.into_iter().map(|p| String::from_utf8(p).unwrap()).collect();
            let wanted: Vec<&String> =
                expected.iter().copied().filter(|p| p.as_str() < "090").collect();
            assert_eq!(seen.iter().collect::<Vec<_>>(), wanted, "limit {limit}");
        }
        assert!(tables.page(b"5", Some(b"5"), 9).entries.is_empty());
    }

    #[test]
    fn a_tree_gets_chunks_before_their_head_and_loses_them_after_it() {
        let mut table = Table::default();
        let chunk = |id: u8| vec![3, 0, 0, 0, 0, 0, 0, 0, id, 0, 0, 0, 0];
        let value = || Some(Bytes::from("v"));
        table.insert(vec![
            (chunk(1), None),
            (chunk(2), value()),
            (b"\x02\0\0key".to_vec(), value()),
            (b"\x04hint".to_vec(), None),
        ]);
        let order: Vec<Vec<u8>> = table.in_order().map(|(place, _)| place.clone()).collect();
        assert_eq!(order, [chunk(2), b"\x02\0\0key".to_vec(), b"\x04hint".to_vec(), chunk(1)]);
    }
}
