//! The examples do what they say, against a daemon in this process.

#![allow(clippy::unwrap_used)]

use std::process::Command;
use std::sync::Arc;

use pixii_core::store::memory::MemoryStore;
use pixii_testkit::daemon::Daemon;
use pixii_testkit::reported;

fn run(name: &str) -> String {
    let daemon = Daemon::alone(Arc::new(MemoryStore::default()));
    let test = std::env::current_exe().unwrap();
    let program = test.parent().unwrap().parent().unwrap().join("examples").join(name);
    let mut command = Command::new(program);
    let output = command.arg(format!("127.0.0.1:{}", daemon.port)).output().unwrap();
    let (code, out, err) = reported(&output);
    assert_eq!((code, err.as_str()), (0, ""));
    out
}

#[test]
fn a_value_is_written_read_replaced_and_deleted() {
    assert_eq!(run("put_get"), "read hello\nread good morning\n0 values are left\n");
}

#[test]
fn siblings_are_merged_by_who_has_seen_both() {
    assert_eq!(run("siblings"), "2 siblings\nrefused: true\n1 value: bread,milk,tea\n");
}

#[test]
fn a_write_that_is_made_again_happens_once() {
    assert_eq!(run("unknown_outcome"), "1 value\n");
}

#[test]
fn a_condition_that_does_not_hold_is_an_error_of_its_own_kind() {
    assert_eq!(run("conditions"), "a second one: Some(Condition)\nchanged since\n");
}

#[test]
fn keys_that_begin_with_a_prefix_are_listed_in_pages() {
    let listed = run("listing");
    let expected = "\"user/ann\": 1 values\n\"user/bob\": 1 values\nnext page\n\
        \"user/cleo\": 1 values\n";
    assert_eq!(listed, expected);
}
