//! `load` and `dump`.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pixii_core::message::{Rejection, ReplicaOutcomes};
use pixii_core::types::SizeError;
use pixii_testkit::fake::{Behaviour, Fake};
use pixii_testkit::reported;
use serde_json::Value;

use crate::command::{fed, pixii, run};

/// A few hundred lines, not in order, with everything that needs an escape.
fn lines() -> Vec<String> {
    let mut lines: Vec<String> =
        (0..300).map(|i| format!("key {}\tvalue\\t{i}", i * 7_919 % 1_000)).collect();
    lines.push("back\\\\slash\ta\\nb\\r".into());
    lines.push("é\t".into());
    lines
}

fn text(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

#[test]
fn what_was_loaded_is_dumped_in_order_and_loading_twice_leaves_no_siblings() {
    let fake = Fake::start(5, 3);
    let mut lines = lines();
    let input = text(&lines);
    lines.sort();
    for _ in 0..2 {
        let (code, out, err) = reported(&fed(&fake, &["load", "-"], input.as_bytes()));
        assert_eq!((code, err.as_str()), (0, ""));
        assert!(out.starts_with("loaded 302 of 302 lines in "), "{out}");
    }
    assert_eq!(run(&fake, &["dump"]), (0, text(&lines), String::new()));
    let keys: Vec<String> =
        lines.iter().map(|line| line.split('\t').next().unwrap().to_string()).collect();
    assert_eq!(run(&fake, &["dump", "--keys"]).1, text(&keys));
    let (_, out, _) = run(&fake, &["dump", "--keys", "--json"]);
    assert_eq!(out.lines().next(), Some("{\"key\":{\"text\":\"back\\\\slash\"}}"));
    run(&fake, &["delete", "é"]);
    assert_eq!(run(&fake, &["dump"]).1, text(&lines[..301]));
    assert!(run(&fake, &["dump", "--raw"]).1.contains("back\\slash\ta\nb\r\n"));
    let (_, out, _) = run(&fake, &["dump", "--json"]);
    let last: Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    assert_eq!((&last["key"]["text"], out.lines().count()), (&keys[300].as_str().into(), 301));
}

#[test]
fn loads_that_replace_nothing_leave_siblings_and_dumps_mark_them() {
    let fake = Fake::start(1, 1);
    for value in ["one", "two"] {
        let line = format!("k\t{value}\n");
        assert_eq!(fed(&fake, &["load", "-", "--sibling"], line.as_bytes()).status.code(), Some(0));
    }
    let (code, out, err) = run(&fake, &["dump"]);
    let refused = "pixii: 1 key has siblings, in 2 lines of this dump that `pixii load` refuses: ";
    assert!(code == 6 && err.starts_with(refused) && err.lines().count() == 1, "{err}");
    let (_, help, _) = run(&fake, &["dump", "--help"]);
    assert!(help.contains("A dump is no backup") && !help.contains("backup.tsv"), "{help}");
    assert_eq!(fed(&fake, &["load", "-"], out.as_bytes()).status.code(), Some(1));
    for other in ["--keys", "--json"] {
        let (code, _, err) = run(&fake, &["dump", other]);
        assert_eq!((code, err.as_str()), (0, ""), "{other} has no such lines");
    }
    let columns: Vec<Vec<&str>> = out.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!([columns[0][2], columns[1][2]], ["sibling 1/2", "sibling 2/2"]);
    // A value that has not seen them erases none of them.
    let (code, _, err) = reported(&fed(&fake, &["load", "-"], b"k\tv\n"));
    assert!(code == 1 && err.contains("line 1: the key has 2 siblings"), "{err}");
    assert_eq!(run(&fake, &["get", "k", "--print-context"]).0, 6);
    let context = run(&fake, &["get", "k", "--print-context"]).1;
    assert_eq!(run(&fake, &["put", "k", "v", "--context", context.trim()]).0, 0);
    // Lines of one key are written one after the other, and the last one stays.
    let many: String = (0..50).map(|number| format!("k\t{number}\n")).collect();
    assert_eq!(fed(&fake, &["load", "-"], many.as_bytes()).status.code(), Some(0));
    assert_eq!(run(&fake, &["dump"]), (0, "k\t49\n".into(), String::new()));
}

#[test]
fn lines_that_are_not_loaded_are_named_counted_and_kept() {
    let fake = Fake::start(3, 1);
    let dir = tempfile::tempdir().unwrap();
    let (input, failed) = (dir.path().join("in.tsv"), dir.path().join("failed.tsv"));
    let [input_path, failed_path] = [&input, &failed].map(|path| path.to_str().unwrap());
    let refused = Rejection::NoQuorum {
        answered: 0,
        outcomes: ReplicaOutcomes::default(),
        needed: 1,
        timeout_ms: 9,
    };
    fake.behave(1, Behaviour::Refuse(refused));
    let key = |number: u64| pixii_core::types::Key::new(format!("k{number}").into_bytes()).unwrap();
    let lost: Vec<u64> = (0..100).filter(|number| fake.owners(&key(*number)) == [1]).collect();
    let good: String = (0..100).map(|number| format!("k{number}\tv\n")).collect();
    fs::write(&input, &good).unwrap();
    let arguments = ["load", input_path, "--failed", failed_path, "--json"];
    let (code, out, err) = run(&fake, &arguments);
    assert_eq!(code, 4, "{err}");
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&json["lines"], &json["refused"]), (&100.into(), &lost.len().into()));
    assert_eq!(
        json["refused_by_reason"]["no quorum: 0 of 1 replicas answered in 9 ms"],
        lost.len()
    );
    let mut kept: Vec<String> =
        fs::read_to_string(&failed).unwrap().lines().map(String::from).collect();
    kept.sort();
    let mut expected: Vec<String> = lost.iter().map(|number| format!("k{number}\tv")).collect();
    expected.sort();
    assert_eq!(kept, expected);
    fake.behave(1, Behaviour::Serve);
    assert_eq!(run(&fake, &["load", failed_path]).0, 0);
    assert_eq!(run(&fake, &["dump"]).1.lines().count(), 100);

    fs::write(&input, "fine\tv\nno tab\nbad\\escape\tv\n").unwrap();
    let (code, out, err) = run(&fake, &["load", input_path]);
    assert_eq!(code, 1);
    assert!(err.contains("pixii: line 2: 0 tabs"), "{err}");
    assert!(err.contains("pixii: line 3: unknown escape \"\\e\""), "{err}");
    assert!(out.contains("refused 2: not a line of key, tab and value\n"), "{out}");
    assert_eq!(run(&fake, &["load", input_path, "--failed", input_path]).0, 2);

    let refused = Rejection::Size(SizeError::Value(2_000_000));
    (0..3).for_each(|node| fake.behave(node, Behaviour::Refuse(refused.clone())));
    let (code, _, err) = reported(&fed(&fake, &["load", "-"], b"one\t1\n"));
    let stated = "pixii: line 1: the value has 2000000 bytes; a value has at most 1048576\n";
    assert_eq!((code, err.as_str()), (1, stated));
    (0..3).for_each(|node| fake.behave(node, Behaviour::Serve));

    let folder = dir.path().to_str().unwrap();
    let stated = format!("pixii: {folder}: Is a directory (os error 21)\n");
    assert_eq!(run(&fake, &["load", folder]), (1, String::new(), stated));
    let (code, _, err) = reported(&fed(&fake, &["load", "-"], b"a\t1\nb\t2\r\nc\t3\r\nd\t4"));
    let stated = "pixii: line 2 ends with a carriage return, which is taken as part of the value, \
        here and \
                in later lines\n";
    assert_eq!((code, err.as_str()), (0, stated));
    assert_eq!(run(&fake, &["get", "b"]).1, "2\r");
    assert_eq!(run(&fake, &["get", "d"]).1, "4");
}

#[test]
fn an_unknown_put_is_sent_again_with_its_id() {
    for load in [&["load", "-"][..], &["load", "-", "--sibling"]] {
        let fake = Fake::start(1, 1);
        fake.behave(0, Behaviour::CutOnce(true));
        let output = fed(&fake, load, b"k\tv\n");
        assert_eq!(output.status.code(), Some(0));
        assert_eq!((fake.repeats(), run(&fake, &["get", "k"]).1.as_str()), (vec![2], "v"));
        fake.behave(0, Behaviour::Unknown);
        let load = [load, &["--timeout", "200"]].concat();
        let (code, out, _) = reported(&fed(&fake, &load, b"k\tv\n"));
        assert_eq!(code, 5);
        assert!(out.contains("unknown 1: they may or may not be written\n"), "{out}");
    }
}

#[test]
fn an_interrupted_load_goes_on_where_it_stopped() {
    const LINES: usize = 30_000;
    let fake = Fake::start(1, 1);
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in.tsv");
    let path = input.to_str().unwrap();
    let kept = dir.path().join("in.tsv.pixii-load");
    fs::write(&input, (0..LINES).map(|i| format!("k{i}\tv\n")).collect::<String>()).unwrap();
    let arguments = ["load", path, "--sibling", "--resume", "--in-flight", "2"];
    let mut command = pixii(&fake, &arguments);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while fake.queried(0) < 1_000 {
        assert!(Instant::now() < deadline, "the load does not begin");
        std::thread::yield_now();
    }
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let (code, _, err) = reported(&child.wait_with_output().unwrap());
    assert_eq!(code, 1);
    let advice = format!("go on with `pixii load {path} --resume`\n");
    assert!(err.starts_with("pixii: interrupted; the first ") && err.ends_with(&advice), "{err}");
    let before: Value = serde_json::from_slice(&fs::read(&kept).unwrap()).unwrap();
    let settled = before["lines"].as_u64().unwrap();
    assert_eq!(settled, fake.queried(0), "all that was sent is settled");

    let original = fs::read(&input).unwrap();
    fs::write(&input, "other\tv\n").unwrap();
    let (code, _, err) = run(&fake, &arguments);
    assert_eq!(code, 1);
    assert!(err.contains("are not those that were loaded before; remove "), "{err}");
    fs::write(&input, original).unwrap();
    let (code, out, err) = run(&fake, &arguments);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.starts_with(&format!("loaded {LINES} of {LINES} lines")), "{out}");
    assert!(!kept.exists(), "a run that ends leaves nothing");
    assert_eq!(fake.queried(0), LINES as u64, "no line is sent twice");
}

#[test]
fn a_load_stops_when_no_node_is_left() {
    let fake = Fake::start(1, 1);
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in.tsv");
    fs::write(&input, "k\tv\n".repeat(100)).unwrap();
    // The node answers the question for the ring and then closes every connection.
    fake.behave(0, Behaviour::Silent);
    let arguments = ["load", input.to_str().unwrap(), "--timeout", "100"];
    let (code, out, err) = run(&fake, &arguments);
    assert_eq!(code, 1, "{err}");
    assert!(out.starts_with("loaded 0 of 0 lines"), "{out}");
    assert!(err.contains("no node could answer: n1 ("), "{err}");
}

#[test]
fn keys_are_listed_dumped_and_deleted_by_prefix_from_a_key_on_and_up_to_a_limit() {
    let fake = Fake::start(5, 3);
    let names = ["u", "user", "user/", "user/\\\\1", "user/a", "user/b", "user0", "v"];
    let input: String = names.iter().map(|name| format!("{name}\tof {name}\n")).collect();
    assert_eq!(fed(&fake, &["load", "-"], input.as_bytes()).status.code(), Some(0));
    let listed = |arguments: &[&str]| {
        let (code, out, err) = run(&fake, &[&["keys"], arguments].concat());
        assert_eq!((code, err.as_str()), (0, ""), "{arguments:?}");
        out.lines().map(String::from).collect::<Vec<_>>()
    };
    assert_eq!(listed(&[]), names);
    assert_eq!(listed(&["--prefix", "user/"]), names[2..6], "the prefix may be a key");
    assert_eq!(listed(&["--prefix", "user/", "--raw"])[1], "user/\\1");
    assert_eq!(listed(&["--prefix", "user/", "--limit", "2"]), names[2..4]);
    assert_eq!(listed(&["--prefix", "user/", "--after", "user/\\1"]), names[4..6]);
    assert_eq!(listed(&["--prefix", "user/", "--after", "a"]), names[2..6]);
    assert_eq!(listed(&["--prefix", "user/", "--after", "user0"]), [""; 0]);
    assert_eq!(listed(&["--after", "user/b", "--limit", "1"]), ["user0"]);
    assert_eq!(listed(&["--limit", "0"]), [""; 0]);
    assert_eq!(listed(&["--prefix", "757365722f61", "--hex-key"]), ["user/a"]);
    assert_eq!(listed(&["--prefix", "x"]), [""; 0]);
    assert_eq!(listed(&["--prefix", "user/b", "--json"]), ["{\"key\":{\"text\":\"user/b\"}}"]);
    let dumped = run(&fake, &["dump", "--prefix", "user/a"]);
    assert_eq!(dumped, (0, "user/a\tof user/a\n".into(), String::new()));

    // Nothing is deleted that was not asked for.
    let (code, out, err) = run(&fake, &["delete", "--prefix", "user/"]);
    let why = "pixii: 4 keys begin with \"user/\": nothing is deleted without --yes\n";
    assert_eq!((code, out.as_str(), err.as_str()), (2, "", why));
    assert_eq!(run(&fake, &["put", "user/b", "a sibling", "--sibling"]).0, 0);
    let deleted = run(&fake, &["delete", "--prefix", "user/", "--yes"]);
    assert_eq!(deleted, (0, "deleted 4 keys that began with \"user/\"\n".into(), String::new()));
    assert_eq!(listed(&[]), ["u", "user", "user0", "v"]);
    let (_, out, _) = run(&fake, &["delete", "--prefix", "user/", "--yes", "--json"]);
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&json["deleted"], &json["complete"]), (&0.into(), &true.into()));
    let long = "x".repeat(1_025);
    for (odd, why) in [
        (&["delete", "k", "--prefix", "p"][..], "cannot be used with"),
        (&["delete", "k", "--yes"], "cannot be used with"),
        (&["delete", "--yes"], "--prefix"),
        (&["delete", "--prefix", "p", "--yes", "--context", "00"], "cannot be used with"),
        (&["keys", "--prefix", ""], "the prefix has 0 bytes; a prefix has 1 to 1024"),
        (&["keys", "--prefix", &long], "the prefix has 1025 bytes; a prefix has 1 to 1024"),
        (&["keys", "--prefix", "0g", "--hex-key"], "the prefix has \"g\" where a hexadecimal"),
        (&["keys", "--limit", "-1"], "unexpected argument '-1'"),
    ] {
        let (code, out, err) = run(&fake, odd);
        assert!(code == 2 && out.is_empty() && err.contains(why), "{odd:?}: {err}");
    }
}
