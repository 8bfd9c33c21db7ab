//! Daemons that die or stop while writes go on: nothing acknowledged is lost, no rejection is a
//! lie.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use pixii_core::message::Counter;
use pixii_testkit::cluster::{Finished, Run, TestCluster, lines, signal};
use pixii_testkit::until;
use serde_json::Value;

pub fn file(cluster: &TestCluster, name: &str, value: &str, count: usize) -> String {
    let text: String = (0..count).map(|number| format!("key-{number}\t{value}\n")).collect();
    fs::write(cluster.path(name), &text).unwrap();
    text
}

fn number(report: &Value, name: &str) -> usize {
    report[name].as_u64().unwrap() as usize
}

/// Every line of a dump, read from `r` replicas. Some keys may have siblings.
fn dumped(cluster: &TestCluster, r: &str) -> String {
    let dump = cluster.run(&["dump", "-r", r]);
    assert!(matches!(dump.code, 0 | 6), "{dump:?}");
    dump.out
}

/// The lines that a load kept as refused or unknown.
fn failed(cluster: &TestCluster, reported: &Finished) -> BTreeSet<String> {
    let report = reported.json();
    let kept: Vec<String> =
        fs::read_to_string(cluster.path("failed")).unwrap().lines().map(String::from).collect();
    let lost = number(&report, "refused") + number(&report, "unknown");
    assert_eq!((lost, &report["complete"]), (kept.len(), &Value::Bool(true)), "{reported:?}");
    kept.into_iter().collect()
}

#[test]
fn two_of_five_killed_during_a_load() {
    const COUNT: usize = 6_000;
    /// Lines that a load has in progress, unless it is reported otherwise.
    const IN_FLIGHT: usize = 64;
    let mut cluster = TestCluster::start(5);
    let first = file(&cluster, "first", "one", COUNT);
    let second = file(&cluster, "second", "two", COUNT);
    let names: Vec<&str> = first.lines().map(|line| line.split('\t').next().unwrap()).collect();
    let owners = cluster.owners(&names);
    let dead = ["n2", "n4"];
    let weak: BTreeSet<&str> = names
        .iter()
        .zip(&owners)
        .filter(|(_, owners)| {
            owners.iter().filter(|owner| !dead.contains(&owner.as_str())).count() < 2
        })
        .map(|(name, _)| *name)
        .collect();
    assert!(!weak.is_empty() && weak.len() < COUNT);

    let arguments =
        |file| ["load", file, "-w", "2", "--failed", "failed", "--json", "--timeout", "3000"];
    let load = Run::start(cluster.command(&arguments("first")), b"");
    cluster.wait_for_puts("n1", 100);
    dead.iter().for_each(|name| cluster.cluster.kill(name).unwrap());
    let reported = load.end();
    let lost = failed(&cluster, &reported);
    let unknown = number(&reported.json(), "unknown");
    let strong = lost.iter().filter(|line| !weak.contains(line.split('\t').next().unwrap()));
    // Of a key with W live owners a put may be unknown, never refused.
    assert!(strong.count() <= unknown, "{reported:?}");

    // With both known to be down, exactly the keys without W live owners are refused where only
    // owners count, and none is unknown. Fallbacks take all of them.
    let reported = cluster.run(&[&arguments("second")[..], &["--strict"]].concat());
    let refused = failed(&cluster, &reported);
    let keys: BTreeSet<&str> =
        refused.iter().map(|line| line.split('\t').next().unwrap()).collect();
    assert_eq!((reported.code, number(&reported.json(), "unknown")), (4, 0), "{reported:?}");
    assert_eq!(keys, weak);
    cluster.run(&["load", "failed", "-w", "2", "--sloppy", "--sibling"]).done();

    // What fallbacks took, reads are promised once it has been delivered.
    cluster.start_all();
    cluster.wait_for_no_hints();
    let dump = dumped(&cluster, "2");
    let there = lines(&dump);
    let beside = |line: &str| {
        let beside = format!("{line}\tsibling ");
        there.range(&*beside..).next().is_some_and(|one| one.starts_with(&beside))
    };
    for line in first.lines().filter(|line| !lost.contains(*line)) {
        let key = line.split('\t').next().unwrap();
        // Alone or, if a write before it was unknown, as a sibling; or replaced by the second load.
        let held = there.contains(line) || beside(line);
        assert!(!weak.contains(key) || held, "{line} was acknowledged and is lost");
    }
    // A put of the first load that was in progress at the deaths may have been sent to two nodes:
    // the trace that a dead one kept of it stands beside what replaced it.
    let mut repeated = 0;
    for line in second.lines().filter(|line| !refused.contains(*line)) {
        repeated += usize::from(beside(line));
        let held = there.contains(line) || beside(line);
        assert!(held, "{line} was acknowledged and is lost");
    }
    assert!(repeated <= IN_FLIGHT, "{repeated} keys have what was replaced beside what is there");
}

#[test]
fn a_clean_stop_during_a_load_loses_nothing() {
    let mut cluster = TestCluster::start(3);
    let text = file(&cluster, "in", "one", 20_000);
    // W = 3: every acknowledged line is on the daemon that is to stop.
    let arguments = ["load", "in", "-w", "3", "--sibling", "--failed", "failed", "--json"];
    let load = Run::start(cluster.command(&arguments), b"");
    cluster.wait_for_puts("n1", 200);
    signal("TERM", cluster.pid("n2"));
    let ended = until("n2 stops", || cluster.cluster.ended().pop());
    assert_eq!(ended, ("n2".to_string(), "ended: it stopped cleanly".to_string()));
    let reported = load.end();
    let lost = failed(&cluster, &reported);
    assert!(lost.len() < 20_000 && !lost.is_empty(), "{}", lost.len());

    // It serves by itself once a peer has vouched for its disk; then only it is left to be asked.
    cluster.start_all();
    ["n1", "n3"].iter().for_each(|name| cluster.cluster.kill(name).unwrap());
    let dump = dumped(&cluster, "1");
    let there = lines(&dump);
    let acknowledged = text.lines().filter(|line| !lost.contains(*line));
    for line in acknowledged {
        assert!(there.contains(line), "{line} was acknowledged and is lost");
    }
    assert!(!cluster.status("n2").recovered);
}

#[test]
fn a_second_sigterm_ends_a_daemon_at_once() {
    let mut cluster = TestCluster::start(3);
    let key = cluster.key_of(["n1", "n2", "n3"]);
    cluster.run(&["put", &key, "old", "-w", "3"]).done();
    // A put that cannot end keeps the first stop waiting.
    signal("STOP", cluster.pid("n3"));
    let arguments = ["put", &key, "new", "-w", "3", "--timeout", "8000", "--connect"];
    let put =
        Run::start(cluster.command(&[&arguments[..], &[cluster.address("n1")]].concat()), b"");
    until("the put is in progress", || {
        let reported = cluster.run(&["get", &key, "--all", "-r", "2"]);
        reported.out.contains("new").then_some(())
    });
    signal("TERM", cluster.pid("n1"));
    until("the first signal is heard", || {
        cluster
            .log("n1")
            .contains(
                "stops: \
        SIGTERM",
            )
            .then_some(())
    });
    signal("TERM", cluster.pid("n1"));
    let (_, how) = until("n1 ends", || cluster.cluster.ended().pop());
    assert!(how.starts_with("ended with exit code 143"), "{how}");
    let reported = put.end();
    assert_eq!(reported.code, 5, "{reported:?}");
    assert!(reported.err.starts_with("pixii: unknown outcome: "), "{reported:?}");

    signal("CONT", cluster.pid("n3"));
    cluster.start_all();
    assert!(cluster.status("n1").recovered);
    assert!(cluster.log("n1").contains("incarnation 2, recovered from an unclean stop"));
    assert_eq!(cluster.run(&["get", &key, "-r", "3"]).done(), "new");
    cluster.cluster.stop("n1").unwrap();
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

#[test]
fn a_rolled_back_or_copied_disk_loses_no_write_of_others() {
    let mut cluster = TestCluster::start(3);
    file(&cluster, "first", "one", 400);
    let second = file(&cluster, "second", "two", 400);
    cluster.run(&["load", "first", "-w", "3"]).done();
    cluster.cluster.stop("n1").unwrap();
    let backup = cluster.path("backup");
    copy(&cluster.path("n1"), &backup);
    cluster.start_all();
    cluster.run(&["load", "second", "-w", "3"]).done();
    let before = cluster.status("n1").store;

    // An old copy is put back: a peer has seen a later incarnation.
    cluster.cluster.stop("n1").unwrap();
    copy(&backup, &cluster.path("n1"));
    cluster.start_all();
    assert_ne!(cluster.status("n1").store, before, "it issues under another name");
    // It has lost its word for every partition, and gets it back, which may be done by now.
    until("its read eligibility", || {
        (cluster.status("n1").count(Counter::ReadEligibilityRegained) == 64).then_some(())
    });
    assert!(cluster.log("n1").contains("the disk was rolled back or copied"));
    let dump = |cluster: &TestCluster| {
        let mut lines: Vec<String> =
            cluster.run(&["dump", "-r", "2"]).done().lines().map(String::from).collect();
        lines.sort();
        lines
    };
    let mut expected: Vec<String> = second.lines().map(String::from).collect();
    expected.sort();
    assert_eq!(dump(&cluster), expected, "what it lost, the others have");
    // Writes through the node whose disk is old replace what was read, and nothing comes back.
    let third = file(&cluster, "third", "three", 400);
    cluster.run(&["load", "third", "-w", "2"]).done();
    expected = third.lines().map(String::from).collect();
    expected.sort();
    assert_eq!(dump(&cluster), expected);

    // Another node's disk is refused, and left as it is.
    cluster.cluster.stop("n2").unwrap();
    copy(&cluster.path("n2"), &cluster.path("own"));
    copy(&cluster.path("n3"), &cluster.path("n2"));
    fs::remove_file(cluster.path("n2/LOCK")).unwrap();
    cluster.cluster.start("n2").unwrap();
    until("n2 has given up", || cluster.cluster.ended().pop());
    let log = cluster.log("n2");
    assert!(log.contains("the data belongs to node n3 of cluster test, not to node n2"), "{log}");
    copy(&cluster.path("own"), &cluster.path("n2"));
    cluster.start_all();
    assert_eq!(dump(&cluster), expected);
}
