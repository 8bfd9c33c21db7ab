//! Single requests by the command: output, exit codes, sentences.

use std::fs;
use std::io::Write;
use std::process::{Command, Output, Stdio};

use pixii_core::message::{Rejection, ReplicaOutcomes};
use pixii_core::types::Key;
use pixii_testkit::fake::{Behaviour, Fake};
use pixii_testkit::reported;
use serde_json::Value;

/// The command, talking to the fake cluster.
pub fn pixii(fake: &Fake, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pixii"));
    command.args(arguments).env("PIXII_CONNECT", fake.address(0)).stdin(Stdio::null());
    command
}

/// Runs the command to its end.
pub fn run(fake: &Fake, arguments: &[&str]) -> (i32, String, String) {
    reported(&pixii(fake, arguments).output().unwrap())
}

/// Runs the command with this standard input.
pub fn fed(fake: &Fake, arguments: &[&str], input: &[u8]) -> Output {
    let mut command = pixii(fake, arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // The command may end before it has read everything.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn done(output: &str) -> (i32, String, String) {
    (0, output.into(), String::new())
}

#[test]
fn a_read_writes_its_context_to_a_file_that_a_write_takes() {
    let (fake, dir) = (Fake::start(3, 2), tempfile::tempdir().unwrap());
    let path = dir.path().join("seen").display().to_string();
    let at = format!("@{path}");
    run(&fake, &["put", "k", "one"]);
    let saved = run(&fake, &["get", "k", "--all", "--save-context", &path]);
    assert_eq!(saved, done("one\n"));
    let (_, printed, _) = run(&fake, &["get", "k", "--print-context"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), printed);
    assert_eq!(run(&fake, &["put", "k", "two", "--context", &at]), done(""));
    assert_eq!(run(&fake, &["get", "k"]), done("two"));
    fs::write(&path, "no context").unwrap();
    let odd = run(&fake, &["delete", "k", "--context", &at]);
    assert_eq!(odd.0, 2);
    assert!(odd.2.contains(&format!("context file {path}")), "{odd:?}");
    fs::remove_file(&path).unwrap();
    let absent = run(&fake, &["delete", "k", "--context", &at]);
    let sentence = format!("pixii: context file {path}: No such file or directory (os error 2)\n");
    assert_eq!(absent, (1, String::new(), sentence));
}

#[test]
fn a_value_is_put_read_replaced_and_deleted() {
    let fake = Fake::start(3, 2);
    assert_eq!(run(&fake, &["put", "k", "one"]), done(""));
    assert_eq!(run(&fake, &["get", "k"]), done("one"));
    let (code, context, _) = run(&fake, &["get", "k", "--print-context"]);
    assert_eq!(code, 0);
    assert_eq!(run(&fake, &["put", "k", "two", "--context", context.trim()]), done(""));
    assert_eq!(run(&fake, &["get", "k"]), done("two"));
    assert_eq!(run(&fake, &["get", "k", "--all"]), done("two\n"));
    assert_eq!(run(&fake, &["delete", "k"]), done(""));
    let absent = (3, String::new(), "pixii: no value under \"k\"\n".to_string());
    assert_eq!(run(&fake, &["get", "k"]), absent);
    assert_eq!(run(&fake, &["delete", "k"]), absent);
    let (code, json, _) = run(&fake, &["get", "k", "--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &json["values"]), (3, &serde_json::json!([])));
}

#[test]
fn siblings_are_shown_only_on_request_and_merged_with_their_context() {
    let fake = Fake::start(1, 1);
    assert_eq!(run(&fake, &["put", "k", "one"]), done(""));
    let (code, out, err) = run(&fake, &["put", "k", "two", "--sibling"]);
    assert_eq!((code, out.as_str()), (0, ""));
    assert!(err.starts_with("pixii: \"k\" has 2 siblings now: a put replaces only what "), "{err}");
    let (code, out, err) = run(&fake, &["get", "k"]);
    assert_eq!((code, out.as_str()), (6, ""));
    assert!(err.starts_with("pixii: \"k\" has 2 siblings"), "{err}");
    let (code, out, err) = run(&fake, &["get", "k", "--all"]);
    assert_eq!((code, out.lines().count(), err.as_str()), (6, 2, ""));
    assert_eq!(run(&fake, &["get", "k", "--all", "--json"]), run(&fake, &["get", "k", "--json"]));
    let (code, out, err) = run(&fake, &["get", "k", "--json"]);
    assert_eq!((code, err.as_str()), (6, ""));
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["values"].as_array().unwrap().len(), 2);
    assert_eq!(json["key"]["text"], "k");
    let (code, context, _) = run(&fake, &["get", "k", "--print-context"]);
    assert_eq!((code, context.trim()), (6, json["context"].as_str().unwrap()));
    let (_, out, _) = run(&fake, &["put", "k", "both", "--context", context.trim(), "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["siblings"], 1);
    assert_eq!(run(&fake, &["get", "k"]), done("both"));
    let (code, _, err) = run(&fake, &["put", "other", "x", "--context", context.trim()]);
    assert_eq!(code, 1);
    assert!(err.starts_with("pixii: the context does not belong to this key"), "{err}");
}

#[test]
fn keys_and_values_have_any_bytes() {
    let fake = Fake::start(1, 1);
    let every: Vec<u8> = (0..=255).collect();
    let hex: String = every.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(reported(&fed(&fake, &["put", "--hex-key", &hex, "-"], &every)), done(""));
    assert_eq!(fed(&fake, &["get", "--hex-key", &hex], b"").stdout, every);
    let (_, out, _) = run(&fake, &["get", "--hex-key", &hex, "--json"]);
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&json["key"]["hex"], &json["values"][0]["hex"]),
        (&Value::from(hex.clone()), &Value::from(hex))
    );

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("value");
    let path = file.to_str().unwrap();
    for size in [0, 65_536, 65_537, 1 << 20] {
        let value: Vec<u8> = (0..size).map(|at| at as u8).collect();
        std::fs::write(&file, &value).unwrap();
        let key = format!("sized {size}");
        assert_eq!(run(&fake, &["put", &key, "--file", path]), done(""));
        assert!(pixii(&fake, &["get", &key]).output().unwrap().stdout == value);
    }
    std::fs::write(&file, vec![0; (1 << 20) + 1]).unwrap();
    let (code, _, err) = run(&fake, &["put", "k", "--file", path]);
    assert_eq!(code, 1);
    assert!(err.ends_with("has more than 1048576 bytes; a value has at most 1048576\n"), "{err}");
    let long = "k".repeat(1_025);
    let sentence = "pixii: the key has 1025 bytes; a key has 1 to 1024\n".to_string();
    assert_eq!(run(&fake, &["get", &long]), (1, String::new(), sentence));
}

#[test]
fn rejections_unknown_outcomes_and_dead_ends_have_codes_of_their_own() {
    let fake = Fake::start(2, 2);
    fake.all_behave(&Behaviour::Refuse(Rejection::NoQuorum {
        answered: 1,
        outcomes: ReplicaOutcomes::default(),
        needed: 2,
        timeout_ms: 500,
    }));
    let sentence = "pixii: no quorum: 1 of 2 replicas answered in 500 ms\n".to_string();
    for arguments in [&["get", "k"][..], &["put", "k", "v"], &["delete", "k"]] {
        let (code, out, err) = run(&fake, arguments);
        assert_eq!((code, out.as_str()), (4, ""), "{arguments:?}");
        assert!(err.starts_with(sentence.trim_end()), "{err}");
    }
    let (code, out, err) = run(&fake, &["dump"]);
    assert_eq!((code, out.as_str()), (4, ""));
    assert!(
        err.starts_with("pixii: 16 partitions could not be read or not wholly (0, 1,"),
        "{err}"
    );
    fake.all_behave(&Behaviour::Unknown);
    let (code, _, err) = run(&fake, &["put", "k", "v"]);
    assert_eq!(code, 5);
    assert!(err.starts_with("pixii: unknown outcome: 0 of 1 replicas"), "{err}");
    let size = Rejection::Object(9_000_000);
    fake.all_behave(&Behaviour::Refuse(size));
    assert_eq!(run(&fake, &["put", "k", "v"]).0, 1);
    fake.all_behave(&Behaviour::Silent);
    assert_eq!(run(&fake, &["get", "k", "--timeout", "50"]).0, 1);

    let address = fake.address(0);
    fake.kill(0);
    let stated = format!(
        "pixii: cannot connect to {address}: connection refused: check that the daemon runs there \
         (`systemctl status 'pixii@*'`), or name another node with --connect; `pixii dev` starts a \
         cluster to try on this machine\n"
    );
    assert_eq!(run(&fake, &["get", "k"]), (1, String::new(), stated));
    let both = format!("{address},{}", fake.address(1));
    assert_eq!(run(&fake, &["--connect", &both, "status"]).0, 0);
}

#[test]
fn nonsense_is_a_usage_error() {
    let fake = Fake::start(1, 1);
    let nonsense = [
        &["get"][..],
        &["put", "k"],
        &["put", "k", "v", "--file", "f"],
        &["get", "k", "-r", "many"],
        &["get", "k", "--connect", "nowhere"],
        &["get", "k", "--connect", "host:99999"],
        &["get", "--hex-key", "abc"],
        &["put", "k", "v", "--context", "xyz"],
        &["load", "-", "--resume"],
        &["load", "f", "--in-flight", "0"],
        &["load", "f", "--timeout", "0"],
        &["get", "k", "--timeout", "0"],
        &["dump", "--timeout", "600001"],
        &["dev", "--json"],
        &["demo", "--connect", "127.0.0.1:7432"],
        &["node"],
        &["frobnicate"],
    ];
    for arguments in nonsense {
        let (code, out, err) = run(&fake, arguments);
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}: {err}");
    }
}

#[test]
fn every_verb_has_help_with_examples() {
    let fake = Fake::start(1, 1);
    let (code, help, _) = run(&fake, &["--help"]);
    assert_eq!(code, 0);
    assert!(help.contains("Examples:") && help.contains("Exit codes:"), "{help}");
    let verbs = [
        "server",
        "get",
        "put",
        "delete",
        "load",
        "dump",
        "status",
        "hints",
        "repair",
        "ring",
        "node",
        "emulate",
        "dev",
        "demo",
        "check",
        "migrate",
        "completions",
    ];
    for verb in verbs {
        assert!(help.contains(&format!("  {verb} ")), "{verb} in {help}");
        let (code, help, _) = run(&fake, &[verb, "--help"]);
        assert_eq!(code, 0);
        assert!(help.contains("Examples:\n  "), "{verb}: {help}");
        assert!(help.contains("--connect <HOST:PORT[,HOST:PORT...]>"), "{verb}: {help}");
        assert!(help.lines().all(|line| line.chars().count() <= 100), "{verb}: {help}");
        // Paragraphs are wrapped once, by the terminal's width: no short lines in their middle.
        let prose = |line: &&str| line.starts_with(|c: char| c.is_alphabetic() || c == '-');
        let lines: Vec<&str> = help.lines().collect();
        let whole = |pair: &[&str]| !pair.iter().all(prose) || pair[0].len() > 70;
        assert!(lines.windows(2).all(whole), "{verb}: {help}");
    }
}

#[test]
fn members_and_places_are_reported() {
    let fake = Fake::start(3, 2);
    let (code, out, _) = run(&fake, &["ring"]);
    assert_eq!(code, 0);
    assert!(out.starts_with("cluster fake: 16 partitions, n = 2, r = 1, w = 1\n\nmember"), "{out}");
    let (_, out, _) = run(&fake, &["ring", "--json"]);
    let json: Value = serde_json::from_str(&out).unwrap();
    let shares =
        json["members"].as_array().unwrap().iter().map(|m| m["partitions"].as_u64().unwrap());
    assert_eq!(shares.sum::<u64>(), 32);

    let key = Key::new(&b"k\t1"[..]).unwrap();
    let owners: Vec<String> = fake.owners(&key).iter().map(|at| format!("n{}", at + 1)).collect();
    let (_, out, _) = run(&fake, &["ring", "k\t1", "--json"]);
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["owners"], serde_json::json!(owners));
    let (_, out, _) = run(&fake, &["ring", "k\t1"]);
    assert!(out.contains(&format!("owners     {}\n", owners.join(" "))), "{out}");
    let found = reported(&fed(&fake, &["ring", "--stdin", "--json"], b"k\\t1\n"));
    assert_eq!(serde_json::from_str::<Value>(&found.1).unwrap(), json);
    assert_eq!(json["fallbacks"].as_array().unwrap().len(), 1);
    let line = format!("k\\t1\t{}\t{}\n", json["partition"], owners.join(","));
    assert_eq!(reported(&fed(&fake, &["ring", "--stdin"], b"k\\t1\n")), done(&line));
    let (code, _, err) = reported(&fed(&fake, &["ring", "--stdin"], b"fine\n\n"));
    let sentence = "pixii: standard input, line 2: the key has 0 bytes; a key has 1 to 1024\n";
    assert_eq!((code, err.as_str()), (1, sentence));
}

#[test]
fn a_node_reports_how_it_is_and_can_be_stopped() {
    let fake = Fake::start(3, 2);
    let (code, out, _) = run(&fake, &["status"]);
    assert_eq!(code, 0);
    assert!(out.starts_with("n1 of cluster fake, pixii 0.0.0, up for 1.2 s\n"), "{out}");
    assert!(
        out.contains("on disk      4.0 KiB\n") && out.contains("puts_acknowledged  3\n"),
        "{out}"
    );
    let compared = "compared     16 of 16 pairs with other owners found equal, 1 partition not \
        yet read, 3 pending, 4 failing \
                    (partition 7 with n2: no answer in 10000 ms), 2 damaged records to be \
        fetched\n";
    assert!(out.contains(compared) && out.contains("  8 of 8 in 42.0 s  "), "{out}");
    let (code, out, _) = run(&fake, &["status", "--partitions"]);
    let table = "\
partition  peer  last found equal  now      last moved
";
    assert!(code == 0 && out.starts_with(table), "{out}");
    let line = |out: &str| out.lines().nth(1).map(|line| line[11..].to_string()).unwrap();
    assert!(
        line(&out).ends_with("not yet           pending  1 received, 0 sent, 100 bytes"),
        "{out}"
    );
    let (_, out, _) = run(&fake, &["status", "--partitions"]);
    assert!(
        line(&out).ends_with("1.2 s ago         -        1 received, 0 sent, 100 bytes"),
        "{out}"
    );
    let (_, out, _) = run(&fake, &["status", "--node", "n2", "--json", "--partitions"]);
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["repair"]["failing_example"]["why"], "no answer in 10000 ms");
    assert!(json["pairs"][0]["peer"].is_string() && json["peers"][0]["oldest_equal_ms"] == 42_000);
    assert_eq!((&json["name"], &json["peers"][0]["name"]), (&"n2".into(), &"n1".into()));
    let (code, _, err) = run(&fake, &["status", "--node", "n7"]);
    let sentence = "pixii: no member is called \"n7\"; the members are n1, n2, n3\n";
    assert_eq!((code, err.as_str()), (1, sentence));
    assert_eq!(run(&fake, &["node", "stop", "n2"]), done("n2 is stopping\n"));
    assert!(fake.is_stopped(1));
}

#[test]
fn a_repair_ends_when_all_are_equal_and_names_whom_it_cannot_reach() {
    let fake = Fake::start(3, 3);
    let (code, out, err) = run(&fake, &["repair", "--node", "n2", "--partition", "7"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let table = "\
peer  partitions  found equal  not compared
n1    1           1            0
n3    1           1            0

n2 received  2 objects, 200 bytes
n2 sent      0 objects, 0 bytes
in           ";
    assert!(out.starts_with(table), "{out}");
    let (_, out, _) = run(&fake, &["repair", "--peer", "n3", "--json"]);
    let json: Value = serde_json::from_str(&out).unwrap();
    let peers = serde_json::json!([
        { "name": "n3", "partitions": 16, "equal": 16, "not_compared": 0 }
    ]);
    assert_eq!((&json["complete"], &json["peers"]), (&true.into(), &peers));
    assert_eq!(json["pairs"].as_array().unwrap().len(), 16);
    assert_eq!(json["received"], serde_json::json!({ "objects": 16, "bytes": 1_600 }));
    let (code, out, err) = run(&fake, &["repair", "--partition", "16"]);
    let sentence = "pixii: partition = 16: this cluster has 16, so a partition is 0 to 15\n";
    assert_eq!((code, out.as_str(), err.as_str()), (1, "", sentence));
    let (code, _, err) = run(&fake, &["repair", "--peer", "n7"]);
    let sentence = "pixii: no member is called \"n7\"; the members are n1, n2, n3\n";
    assert_eq!((code, err.as_str()), (1, sentence));
    fake.kill(2);
    let (code, out, err) = run(&fake, &["repair"]);
    assert_eq!(code, 1);
    assert!(
        out.contains("\nn2    16          16           0\nn3    16          0            16\n"),
        "{out}"
    );
    let sentence = "pixii: n1 cannot reach n3: partitions 0, 1, 2, 3, 4 and 11 others could not \
        be compared with it\n";
    assert_eq!(err, sentence);
    let alone = Fake::start(1, 1);
    let (code, out, _) = run(&alone, &["repair"]);
    let nothing = "n1 has no partition with another owner: nothing to compare\n";
    assert_eq!((code, out.as_str()), (0, nothing));
}

#[test]
fn what_is_kept_for_whom_is_reported_over_the_whole_cluster() {
    let fake = Fake::start(3, 2);
    assert_eq!(run(&fake, &["hints"]), done("no hints are kept\n"));
    let none = serde_json::json!({ "kept": [], "totals": [], "unreachable": [] });
    let (_, out, _) = run(&fake, &["hints", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), none);
    fake.keeps(0, "n3", [12, 3_482, 900]);
    fake.keeps(1, "n3", [3, 700, 65_000]);
    fake.keeps(1, "n1", [1, 20, 100]);
    let table = "\
fallback  target  hints  size       age
n1        n3      12     3.4 KiB    0.9 s
n2        n1      1      20 bytes   0.1 s
n2        n3      3      700 bytes  1 min 5 s

total for  fallbacks  hints  size      age
n1         1          1      20 bytes  0.1 s
n3         2          15     4.1 KiB   1 min 5 s
";
    assert_eq!(run(&fake, &["hints"]), done(table));
    let (_, out, _) = run(&fake, &["hints", "--node", "n1"]);
    assert!(out.contains("n1        n3      12 ") && !out.contains("n2"), "{out}");
    let nothing = done("no hints are kept by n3\n");
    assert_eq!(run(&fake, &["hints", "--node", "n3"]), nothing);
    let (code, _, err) = run(&fake, &["hints", "--node", "n7"]);
    let sentence = "pixii: no member is called \"n7\"; the members are n1, n2, n3\n";
    assert_eq!((code, err.as_str()), (1, sentence));

    // One that cannot be reached is named; what the others keep is shown.
    fake.kill(1);
    let (code, out, err) = run(&fake, &["hints"]);
    assert!(code == 0 && out.contains("n3         1          12 "), "{out}");
    let begin = format!("pixii: n2 ({}): ", fake.address(1));
    assert!(err.starts_with(&begin) && err.lines().count() == 1, "{err}");
    let (code, out, _) = run(&fake, &["hints", "--json"]);
    let json: Value = serde_json::from_str(&out).unwrap();
    let kept = serde_json::json!([{
        "fallback": "n1", "target": "n3", "hints": 12, "hint_bytes": 3_482, "hint_age_ms": 900,
    }]);
    assert_eq!((code, &json["kept"]), (0, &kept));
    assert_eq!(json["unreachable"][0]["name"], "n2");
    fake.keeps(0, "n3", [0, 0, 0]);
    assert_eq!(run(&fake, &["hints"]).1, "no hints are kept by the 2 members that answered\n");
    let (code, out, err) = run(&fake, &["hints", "--node", "n2"]);
    assert_eq!((code, out.as_str(), err.lines().count()), (1, "", 1), "{err}");
}

#[test]
fn shells_complete_what_there_is() {
    let fake = Fake::start(1, 1);
    for shell in ["bash", "zsh", "fish"] {
        let (code, script, _) = run(&fake, &["completions", shell]);
        assert!(code == 0 && script.contains("drain") && script.contains("drill"), "{shell}");
    }
}

#[test]
fn a_migration_says_what_it_would_do_and_does_it() {
    let dir = tempfile::tempdir().unwrap();
    let archive = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/v2.tar.gz");
    let mut tar = Command::new("tar");
    assert!(tar.arg("xzf").arg(archive).arg("-C").arg(dir.path()).status().unwrap().success());
    let data = dir.path().join("v2");
    let migrate = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pixii"));
        reported(&command.arg("migrate").args(words).arg(&data).output().unwrap())
    };
    let place = data.display().to_string();
    let steps = "3 (GC epochs of partitions), then 4 (a commit log)";
    let would = format!("schema 2; the start of a daemon brings it to schema {steps}");
    for _ in 0..2 {
        assert_eq!(migrate(&["--check"]), (0, format!("{place}: {would}\n"), String::new()));
    }
    let (code, json, _) = migrate(&["--check", "--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &json["found"], &json["newest"]), (0, &2.into(), &4.into()));
    assert_eq!((&json["steps"][0]["to"], &json["steps"][1]["to"]), (&3.into(), &4.into()));
    let did = format!("had schema 2, and has schema 4 now: {steps}");
    assert_eq!(migrate(&[]), (0, format!("{place}: {did}\n"), String::new()));
    let nothing = "schema 4, the newest that this program knows: nothing to do";
    assert_eq!(migrate(&[]), (0, format!("{place}: {nothing}\n"), String::new()));
    let (code, out, why) = migrate(&["--check", "/no/such/place"]);
    assert_eq!((code, out), (1, format!("{place}: {nothing}\n")));
    assert!(why.starts_with("pixii: ") && why.lines().count() == 1, "{why}");
}

#[test]
fn a_check_needs_a_store_that_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let check = |options: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pixii"));
        reported(&command.arg("check").arg(dir.path()).args(options).output().unwrap())
    };
    let stated = format!(
        "pixii: the data directory {} cannot be used: there is no store in it\n",
        dir.path().display()
    );
    assert_eq!(check(&[]), (1, String::new(), stated));
    let store = pixii::disk::DiskStore::open(dir.path(), 1 << 20).unwrap();
    let (code, out, err) = check(&["--json"]);
    let holder = format!("is in use by process {}\n", std::process::id());
    assert!(code == 1 && out.is_empty() && err.ends_with(&holder), "{err}");
    store.close().unwrap();
    let (code, out, err) = check(&[]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.starts_with("the store of no node yet\nlive keys") && out.ends_with("clean\n"));
    let (code, out, _) = check(&["--json"]);
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &json["clean"], &json["damaged"]), (0, &true.into(), &serde_json::json!([])));
}

#[test]
fn a_node_of_the_protocol_before_is_understood_word_for_word() {
    let fake = Fake::start(3, 2);
    let stated = || {
        let queried = [
            &["status"][..],
            &["status", "--json"],
            &["repair", "--partition", "16"],
            &["repair", "--accept-loss"],
            &["node", "drain", "n1"],
        ];
        queried.map(|args| run(&fake, args))
    };
    let now = stated();
    assert_eq!(now.each_ref().map(|(code, ..)| *code), [0, 0, 1, 1, 1], "{now:?}");
    fake.behave(0, Behaviour::Old);
    assert_eq!(stated(), now);
}

/// A store of a node, with nothing in it.
fn store_of(dir: &std::path::Path, cluster: &str, name: &str) {
    let store = pixii::disk::DiskStore::open(dir, 1 << 20).unwrap();
    let (cluster, name) = (cluster.to_owned(), name.to_owned());
    let owner = pixii_core::store::StoreIdentity { cluster, name, ring: 0 };
    pixii_core::store::begin_incarnation(&store, &owner, pixii_core::store::Process(1)).unwrap();
    store.close().unwrap();
}

#[test]
fn only_replicas_of_one_cluster_are_compared_and_only_where_there_are_two() {
    let dir = tempfile::tempdir().unwrap();
    let members: String = (1..=4)
        .map(|at| format!("[[members]]\nname = \"n{at}\"\naddress = \"127.0.0.1:{at}\"\n"))
        .collect();
    let config =
        format!("name = \"n1\"\ncluster = \"c\"\ndata_dir = \"d\"\npartitions = 16\n{members}");
    std::fs::write(dir.path().join("n1.toml"), config).unwrap();
    for (place, cluster, name) in
        [("one", "c", "n1"), ("two", "c", "n2"), ("other", "d", "n3"), ("strange", "c", "n9")]
    {
        store_of(&dir.path().join(place), cluster, name);
    }
    drop(pixii::disk::DiskStore::open(&dir.path().join("new"), 1 << 20).unwrap());
    let check = |dirs: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pixii"));
        command.current_dir(dir.path()).arg("check").args(dirs).args(["--config", "n1.toml"]);
        let (code, out, err) = reported(&command.output().unwrap());
        (code, out.lines().last().unwrap_or_default().to_owned(), err)
    };
    let (code, last, err) = check(&["one", "two"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let (equal, alone) = last.split_once(" of 16 partitions are equal at their owners; ").unwrap();
    let (equal, alone): (u32, u32) =
        (equal.parse().unwrap(), alone.split(' ').next().unwrap().parse().unwrap());
    assert!(equal > 0 && alone > 0 && equal + alone == 16, "{last}");
    let none = "0 of 16 partitions are equal at their owners; 16 have fewer than two owners among \
        the DIRs, and are not compared";
    assert_eq!(check(&["one"]), (0, none.to_owned(), String::new()));
    for (dirs, stated) in [
        (["one", "one"], "two of the DIRs hold data of n1"),
        (
            ["one", "other"],
            "one DIR holds data of n3 of cluster d, and the configuration is of cluster c",
        ),
        (
            ["one", "strange"],
            "n9, whose data one DIR holds, is no member of that configuration's ring, version 1",
        ),
        (["one", "new"], "new is the store of no node yet: it cannot be compared"),
    ] {
        let (code, _, err) = check(&dirs);
        assert_eq!((code, err), (1, format!("pixii: {stated}\n")));
    }
}

#[test]
fn damage_that_a_daemon_has_noted_is_recognised_by_whoever_looks_at_the_stopped_store() {
    let dir = tempfile::tempdir().unwrap();
    store_of(dir.path(), "c", "n1");
    std::fs::write(dir.path().join("sled").join("DAMAGED"), "a page was torn").unwrap();
    let noted = "a page was torn (met while the store was open, and noted in sled/DAMAGED)";
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pixii"));
        reported(&command.args(arguments).arg(dir.path()).output().unwrap())
    };
    let (code, out, _) = run(&["check"]);
    let first = format!("damaged: the store as a whole: {noted}; a daemon does not serve it\n");
    assert!(code == 1 && out.starts_with(&first), "{out}");
    let (code, _, err) = run(&["migrate", "--check"]);
    assert!(code == 1 && err.contains(noted) && err.lines().count() == 1, "{err}");
}

#[test]
fn the_environment_names_the_cluster_that_is_queried_or_nobody_is_queried() {
    use std::os::unix::ffi::OsStrExt;
    for (given, shown) in [
        (&b"127.0.0.1:1\xff"[..], "127.0.0.1:1\u{fffd}"),
        (&b","[..], ""),
        (&b"127.0.0.1:1,nobody"[..], "nobody"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pixii"));
        command.arg("ring").env("PIXII_CONNECT", std::ffi::OsStr::from_bytes(given));
        let (code, _, err) = reported(&command.output().unwrap());
        let stated =
            format!("pixii: the address \"{shown}\" is not HOST:PORT, as in 127.0.0.1:7432\n");
        assert_eq!((code, err), (2, stated));
    }
}

#[test]
fn what_is_no_hexadecimal_is_said() {
    for (arguments, stated) in [
        (&["get", "--hex-key", "zz"][..], "the key has \"z\" where a hexadecimal digit is due"),
        (
            &["get", "--hex-key", "abc"],
            "the key has 3 hexadecimal digits; there are two for each byte",
        ),
        (
            &["put", "k", "v", "--context", "0 "],
            "the context has \" \" where a hexadecimal digit is due",
        ),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_pixii")).args(arguments).output().unwrap();
        assert_eq!(reported(&output), (2, String::new(), format!("pixii: {stated}\n")));
    }
}
