//! The tables of the reference pages that follow from the program: `docs/generate` writes them,
//! and a test holds the pages to them.

mod limits;

use crate::table::Table;
use crate::{config, net};

/// A table of the reference pages: its name, and the function that makes it.
pub type NamedTable = (&'static str, fn() -> Table);

const TABLES: [NamedTable; 11] = [
    ("configuration-node", config::reference::node),
    ("configuration-requests", config::reference::requests),
    ("configuration-background", config::reference::background),
    ("configuration-store", config::reference::store),
    ("configuration-access", config::reference::access),
    ("configuration-logs", config::reference::logs),
    ("configuration-measurements", config::reference::measurements),
    ("limits-cluster", limits::cluster),
    ("limits-objects", limits::objects),
    ("limits-descriptors", net::places::reference),
    ("limits-memory", net::budgets::reference),
];

/// The names of all tables.
pub fn names() -> impl Iterator<Item = &'static str> {
    TABLES.iter().map(|(name, _)| *name)
}

/// The table of this name, as Markdown; `None` if there is none.
pub fn table(name: &str) -> Option<String> {
    TABLES.iter().find(|(known, _)| *known == name).map(|(_, table)| table().markdown())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_has_its_rows() {
        for name in names() {
            let table = table(name).unwrap();
            let bars = table.lines().next().unwrap().matches('|').count();
            assert!(table.lines().count() > 2, "{name}");
            assert!(table.lines().all(|line| line.matches('|').count() == bars), "{table}");
        }
    }
}
