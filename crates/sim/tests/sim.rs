//! Schedules that once broke a promise, kept by `pixii sim --save crates/sim/tests/regressions`:
//! they hold now.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use pixii_sim::replay;

#[test]
fn regressions_hold() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/regressions");
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let outcome = replay(&fs::read_to_string(&file).unwrap()).unwrap();
        if let Some(failure) = outcome.failure {
            panic!("{}: {}\n{}", file.display(), failure.what, failure.trace.join("\n"));
        }
        assert!(outcome.counts["messages overtaken"] > 0, "{}: nothing happened", file.display());
    }
}

#[test]
fn a_schedule_that_is_none_is_refused() {
    assert!(replay("{}").is_err());
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/regressions");
    let file = fs::read_dir(file).unwrap().next().unwrap().unwrap().path();
    let text = fs::read_to_string(file).unwrap();
    let wrong = text.replacen("\"hosts\": ", "\"hosts\": 1", 1);
    assert!(replay(&wrong).is_err(), "there are not that many clocks");
}
