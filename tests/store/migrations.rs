//! Data that older programs wrote, brought to today's schema.
//!
//! `tests/fixtures/vN.tar.gz` was written by a program that knew schemas up to N only, and holds
//! one node's data: some keys, two of them with siblings, one long, tombstones; from schema 2 on
//! with hints for a member that was away, from schema 3 on with GC epochs. `v3-killed` is of a
//! daemon that was killed. The numbers are what that program's own `pixii check` said.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use pixii::disk::{CheckReport, DiskStore, OpenError, check, migrate, schema_of};
use pixii_core::store::{Change, Found, Store};
use pixii_core::types::Partition;
use tempfile::TempDir;

use crate::faults::{raw, seal};
use crate::{CACHE, key, open, put, record, scratch};

struct Fixture {
    name: &'static str,
    schema: u32,
    live_keys: u64,
    tombstones: u64,
    hints: u64,
    digest: &'static str,
}

const FIXTURES: [Fixture; 3] = [
    Fixture {
        name: "v1",
        schema: 1,
        live_keys: 24,
        tombstones: 1,
        hints: 0,
        digest: "b78b15f64d80ba17",
    },
    Fixture {
        name: "v2",
        schema: 2,
        live_keys: 30,
        tombstones: 3,
        hints: 2,
        digest: "47ee718084a9aef6",
    },
    Fixture {
        name: "v3",
        schema: 3,
        live_keys: 30,
        tombstones: 1,
        hints: 2,
        digest: "3d77610bef31747a",
    },
];
/// A daemon of schema 3 that was killed.
const KILLED: Fixture = Fixture {
    name: "v3-killed",
    schema: 3,
    live_keys: 30,
    tombstones: 1,
    hints: 0,
    digest: "e2929f735bc374f3",
};
const NEWEST: u32 = 4;

impl Fixture {
    fn unpack(&self) -> (TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let name = self.name;
        let archive = format!("{}/tests/fixtures/{name}.tar.gz", env!("CARGO_MANIFEST_DIR"));
        let mut tar = Command::new("tar");
        assert!(tar.arg("xzf").arg(archive).arg("-C").arg(dir.path()).status().unwrap().success());
        let data = dir.path().join(name);
        (dir, data)
    }

    /// All of it is in the store, which has today's schema.
    fn assert_whole(&self, data: &Path, when: &str) -> CheckReport {
        let report =
            check(data, &scratch(), CACHE, &mut |damage| panic!("{when}: {damage}")).unwrap();
        let hints = report.hints.values().map(|total| total.count).sum::<u64>();
        let counts = (report.live_keys, report.siblings, report.tombstones, hints);
        assert_eq!(counts, (self.live_keys, 2, self.tombstones, self.hints), "{when}");
        assert_eq!(format!("{:016x}", report.digest), self.digest, "{when}");
        report
    }
}

#[test]
fn data_of_every_schema_is_reported_migrated_and_all_there() {
    for fixture in &FIXTURES {
        let (_dir, data) = fixture.unpack();
        let schema = fixture.schema;
        let reported = schema_of(&data, &scratch(), CACHE).unwrap();
        assert_eq!((reported.found, reported.newest), (schema, NEWEST));
        let leads: Vec<u32> = reported.steps.iter().map(|(to, _)| *to).collect();
        assert_eq!(leads, (schema + 1..=NEWEST).collect::<Vec<_>>());
        if schema < NEWEST {
            let refused = check(&data, &scratch(), CACHE, &mut |_| {}).unwrap_err().to_string();
            let stated = format!("has schema {schema} and this reads schema {NEWEST}");
            assert!(refused.contains(&stated), "{refused}");
        }
        assert_eq!(
            migrate(&data, CACHE).unwrap(),
            reported,
            "being notified of it has changed \
            nothing"
        );
        let report = fixture.assert_whole(&data, "migrated");
        assert!(report.meta.is_some_and(|meta| meta.clean), "no incarnation has begun");
        assert_eq!(report.members.is_some(), schema >= 2);
        assert_eq!(migrate(&data, CACHE).unwrap().steps, []);
        let store = open(&data);
        assert_eq!(!store.gc_epochs().unwrap().is_empty(), schema >= 3);
        assert!(store.meta().unwrap().unwrap().fresh.len() <= 1);
        store.close().unwrap();
    }
}

#[test]
fn a_store_of_the_schema_before_that_was_killed_is_migrated_and_goes_on_with_a_log() {
    for is_migrated_before in [false, true] {
        let (_dir, data) = KILLED.unpack();
        if is_migrated_before {
            assert_eq!(migrate(&data, CACHE).unwrap().found, 3);
            let report = KILLED.assert_whole(&data, "migrated");
            assert!(report.meta.is_some_and(|meta| !meta.clean));
        }
        let store = open(&data);
        let record = record(1, &[100]);
        store.apply(&[put(0, &key("later"), &record)]).unwrap();
        store.sync().unwrap();
        // Not closed: the log has it, and the tree has not.
        drop(store);
        let found = open(&data).read(Partition(0), &key("later")).unwrap();
        assert_eq!(found, Found::Record(record));
        let store = open(&data);
        store.apply(&[Change::Forget { partition: Partition(0), key: key("later") }]).unwrap();
        store.sync().unwrap();
        drop(store);
        KILLED.assert_whole(&data, "read through the log");
    }
}

#[test]
fn a_newer_schema_is_refused_by_name_and_left_alone() {
    let (_dir, data) = FIXTURES[2].unpack();
    let ours = {
        let db = raw(&data);
        db.insert(b"\x01schema", seal("schema", &5u32.to_be_bytes())).unwrap().unwrap().to_vec()
    };
    for done in [schema_of(&data, &scratch(), CACHE), migrate(&data, CACHE)] {
        let error = done.unwrap_err();
        assert!(matches!(error, OpenError::NewerSchema { found: 5, .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("has schema 5 and this program knows schemas up to 4"), "{text}");
    }
    raw(&data).insert(b"\x01schema", ours).unwrap();
    migrate(&data, CACHE).unwrap();
    FIXTURES[2].assert_whole(&data, "with its own schema again");
}

/// How many bytes of the log are in use.
fn end(data: &Path) -> usize {
    let bytes = fs::read(data.join("sled/db")).unwrap();
    bytes.len() - bytes.iter().rev().take_while(|byte| **byte == 0).count()
}

#[test]
fn a_power_cut_anywhere_within_a_migration_leaves_one_that_the_next_start_completes() {
    for fixture in &FIXTURES[..3] {
        let (dir, data) = fixture.unpack();
        let before = end(&data);
        migrate(&data, CACHE).unwrap();
        let after = end(&data);
        assert!(after > before, "a migration writes: {before} to {after}");
        let whole = fs::read(data.join("sled/db")).unwrap();
        let mut seen = [0; NEWEST as usize + 1];
        for cut in (before..after).step_by(((after - before) / 60).max(1)).chain([after]) {
            let copy = dir.path().join("copy");
            let mut cp = Command::new("cp");
            assert!(cp.arg("-a").arg(&data).arg(&copy).status().unwrap().success());
            // A snapshot is written after the log that it stands for.
            for entry in fs::read_dir(copy.join("sled")).unwrap() {
                let path = entry.unwrap().path();
                if path.to_string_lossy().contains("/snap.") {
                    fs::remove_file(path).unwrap();
                }
            }
            let mut bytes = whole.clone();
            bytes[cut..].fill(0);
            fs::write(copy.join("sled/db"), bytes).unwrap();
            let found = schema_of(&copy, &scratch(), CACHE).unwrap().found;
            assert!((fixture.schema..=NEWEST).contains(&found), "cut at {cut}: {found}");
            seen[found as usize] += 1;
            DiskStore::open(&copy, CACHE).unwrap().close().unwrap();
            fixture.assert_whole(&copy, &format!("cut at {cut}, found at schema {found}"));
            fs::remove_dir_all(&copy).unwrap();
        }
        println!("from schema {}: found at each schema {seen:?} times", fixture.schema);
        let reached = &seen[fixture.schema as usize..];
        assert!(reached.iter().all(|times| *times > 0), "a cut behind every step: {seen:?}");
    }
}
