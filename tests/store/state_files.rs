//! The small files of a data directory: a flipped bit, a torn file or a lost one is healed at the
//! next opening, and nothing else is taken for one.

use std::fs;
use std::path::Path;

use pixii::disk::{DiskStore, OpenError, check};
use pixii_core::store::{Process, Store, begin_incarnation};
use pixii_core::types::Partition;
use tempfile::TempDir;

use crate::{CACHE, Model, assert_holds, key, open, owner, put, record, scratch};

/// A closed store with some records, and what is in it.
fn filled() -> (TempDir, Model) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut model = Model::new();
    for n in 0..8 {
        let record = record(n, &[100]);
        store.apply(&[put(0, &key(format!("{n}")), &record)]).unwrap();
        model.insert((Partition(0), key(format!("{n}"))), record);
    }
    begin_incarnation(&store, &owner("n1"), Process(1)).unwrap();
    store.close().unwrap();
    (dir, model)
}

fn flip(path: &Path, byte: usize, bit: u8) {
    let mut bytes = fs::read(path).unwrap();
    bytes[byte] ^= 1 << bit;
    fs::write(path, bytes).unwrap();
}

/// What a check says is damaged.
fn damages(dir: &Path) -> Vec<String> {
    let mut stated = Vec::new();
    check(dir, &scratch(), CACHE, &mut |damage| stated.push(damage.to_string())).unwrap();
    stated
}

#[test]
fn a_flipped_bit_in_any_byte_of_format_is_healed_at_the_next_opening() {
    let (dir, model) = filled();
    let format = dir.path().join("FORMAT");
    let ours = fs::read(&format).unwrap();
    assert_eq!(ours.len(), 24);
    for byte in 0..24 {
        flip(&format, byte, (byte % 8) as u8);
        assert_holds(&open(dir.path()), &model);
        assert_eq!(fs::read(&format).unwrap(), ours, "byte {byte}");
    }
    for torn in [&b""[..], b"pixii", &[0; 24]] {
        fs::write(&format, torn).unwrap();
        assert_holds(&open(dir.path()), &model);
        assert_eq!(fs::read(&format).unwrap(), ours);
    }
    fs::remove_file(&format).unwrap();
    assert_holds(&open(dir.path()), &model);
    assert_eq!(fs::read(&format).unwrap(), ours);
}

#[test]
fn a_directory_of_the_version_before_gets_its_second_copies_at_the_next_opening() {
    let (dir, model) = filled();
    let mark = dir.path().join("MARK");
    // As the version before leaves it: one mark, and nothing behind it.
    let first = fs::read(&mark).unwrap()[..16].to_vec();
    fs::write(&mark, first).unwrap();
    open(dir.path()).close().unwrap();
    flip(&dir.path().join("FORMAT"), 4, 0);
    assert_holds(&open(dir.path()), &model);
}

#[test]
fn a_damaged_mark_still_reports_that_synced_writes_are_missing() {
    let (dir, model) = filled();
    let logs = ["sled/db", "sled/COMMITS"].map(|log| dir.path().join(log));
    let both = || logs.clone().map(|log| fs::read(log).unwrap());
    let put_back = |both: &[Vec<u8>; 2]| {
        logs.iter().zip(both).for_each(|(log, bytes)| fs::write(log, bytes).unwrap());
    };
    let old = both();
    let store = open(dir.path());
    store.apply(&[put(0, &key("late"), &record(9, &[100]))]).unwrap();
    store.close().unwrap();
    let new = both();
    for byte in [3, 12, 64 + 7, 64 + 15] {
        let mark = dir.path().join("MARK");
        let whole = fs::read(&mark).unwrap();
        flip(&mark, byte, 1);
        put_back(&old);
        for entry in fs::read_dir(dir.path().join("sled")).unwrap() {
            let path = entry.unwrap().path();
            if path.to_string_lossy().contains("/snap.") {
                fs::remove_file(path).unwrap();
            }
        }
        let error = DiskStore::open(dir.path(), CACHE).unwrap_err();
        assert!(matches!(error, OpenError::Damaged { .. }), "byte {byte}: {error}");
        assert!(error.to_string().contains("was synced"), "byte {byte}: {error}");
        put_back(&new);
        fs::write(&mark, whole).unwrap();
    }
    let store = open(dir.path());
    for ((partition, key), record) in &model {
        let found = store.read(*partition, key).unwrap();
        assert_eq!(found, pixii_core::store::Found::Record(record.clone()));
    }
}

#[test]
fn a_store_that_is_set_aside_takes_its_second_copies_with_it() {
    let (dir, model) = filled();
    flip(&dir.path().join("FORMAT"), 0, 0);
    let aside = DiskStore::set_aside(dir.path(), false).unwrap();
    assert_eq!(fs::read(aside.join("FORMAT")).unwrap(), b"pixii data 1, sled 0.34\n");
    flip(&aside.join("FORMAT"), 9, 3);
    assert_holds(&open(&aside), &model);
    assert_holds(&open(dir.path()), &Model::new());
    flip(&dir.path().join("FORMAT"), 9, 3);
    assert_holds(&open(dir.path()), &Model::new());
}

#[test]
fn a_check_names_the_small_file_that_is_damaged() {
    let (dir, _) = filled();
    assert_eq!(damages(dir.path()), Vec::<String>::new());
    flip(&dir.path().join("FORMAT"), 4, 0);
    flip(&dir.path().join("MARK"), 64, 0);
    let stated = damages(dir.path()).join("\n");
    assert!(
        stated.contains(
            "the file FORMAT was damaged, \"pixih data 1, sled \
        0.34\""
        ),
        "{stated}"
    );
    assert!(stated.contains("the file MARK: 1 of its 2 marks is damaged"), "{stated}");
    assert_eq!(fs::read(dir.path().join("FORMAT")).unwrap(), b"pixih data 1, sled 0.34\n");
}
