//! Bits that flip on the disks of daemons: found while they run, and healed without a command.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use pixii_testkit::cluster::TestCluster;
use pixii_testkit::until;

use crate::deaths::file;

/// Where a node that runs has what it was sent last, and where one has everything that was stopped.
const RUNNING: &str = "sled/COMMITS";
const STOPPED: &str = "sled/db";

/// Flips a bit of `text` in a file of a node, wherever it is there first.
fn flip(cluster: &TestCluster, name: &str, file: &str, text: &str) {
    let path = cluster.path(name).join(file);
    let bytes = fs::read(&path).unwrap();
    let found = bytes.windows(text.len()).position(|window| window == text.as_bytes());
    let at = found.unwrap_or_else(|| panic!("{text} is in {file} of {name}"));
    let log = File::options().write(true).open(&path).unwrap();
    log.write_all_at(&[bytes[at] ^ 1], at as u64).unwrap();
    log.sync_all().unwrap();
}

/// Three daemons that read their disks every ten seconds, and 50 keys.
fn scrubbed() -> TestCluster {
    let mut cluster = TestCluster::create(3);
    for name in ["n1", "n2", "n3"] {
        let path = cluster.path(&format!("{name}.toml"));
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("scrub_interval_ms = 10000\n{text}")).unwrap();
    }
    cluster.start_all();
    let lines: Vec<String> = (0..50).map(|n| format!("key-{n}\tthe-value-of-{n}.")).collect();
    // What is written together is damaged together: one load after the other, so that flips in
    // different loads leave each key whole somewhere.
    for part in lines.chunks(17) {
        fs::write(cluster.path("data"), part.join("\n")).unwrap();
        cluster.run(&["load", "data", "-w", "3"]).done();
    }
    cluster
}

fn expect_all(cluster: &TestCluster) {
    for n in 0..50 {
        let reported = cluster.run(&["get", &format!("key-{n}"), "-r", "3"]);
        assert_eq!(reported.done().trim_end(), format!("the-value-of-{n}."));
    }
}

#[test]
fn flips_on_the_disks_of_running_nodes_are_healed_before_anybody_needs_the_disks() {
    let mut cluster = scrubbed();
    // A stop brings to sled what the commit log has. The others still have it there.
    cluster.cluster.stop("n2").unwrap();
    cluster.start_all();
    for (name, file, key) in [("n1", RUNNING, 7), ("n2", STOPPED, 21), ("n3", RUNNING, 42)] {
        flip(&cluster, name, file, &format!("the-value-of-{key}."));
    }
    for name in ["n1", "n2", "n3"] {
        until("a new store is made", || {
            cluster.log(name).contains("has made its store anew").then_some(())
        });
        until("it serves", || {
            let reported = cluster.run(&["status", "--node", name, "--json"]);
            (reported.code == 0 && reported.json()["serving"] == true).then_some(())
        });
    }
    expect_all(&cluster);
    for name in ["n1", "n2", "n3"] {
        cluster.cluster.stop(name).unwrap();
        cluster.run(&["check", name]).done();
    }
    cluster.start_all();
    expect_all(&cluster);
    for name in ["n1", "n2", "n3"] {
        assert!(!cluster.log(name).contains("an old disk"), "{}", cluster.log(name));
    }
}

#[test]
fn nodes_that_are_all_damaged_while_they_are_stopped_come_up_and_have_everything() {
    let mut cluster = scrubbed();
    for (name, key) in [("n1", 3), ("n2", 30), ("n3", 49)] {
        cluster.cluster.stop(name).unwrap();
        // The commit log still has it, too: what sled alone has lost would be read from there.
        flip(&cluster, name, STOPPED, &format!("the-value-of-{key}."));
        flip(&cluster, name, RUNNING, &format!("the-value-of-{key}."));
    }
    cluster.start_all();
    for name in ["n1", "n2", "n3"] {
        until("all is compared", || (cluster.status(name).read_ineligible == 0).then_some(()));
        let log = cluster.log(name);
        assert!(log.contains("goes on as with an old disk"), "{log}");
    }
    expect_all(&cluster);
}

/// Damages every message in the logs of a stopped node's store, so that nothing can be read of it:
/// how far a store wrote what, depends on how the writes of a load met.
fn damage(cluster: &TestCluster, name: &str) {
    for (file, from) in [(STOPPED, 100), (RUNNING, 0)] {
        let log = cluster.path(name).join(file);
        let mut bytes = fs::read(&log).unwrap();
        for at in (from..bytes.len()).step_by(10) {
            bytes[at] ^= 0x55;
        }
        fs::write(&log, bytes).unwrap();
    }
}

#[test]
fn a_store_that_shows_nothing_is_set_aside_when_others_have_what_it_held() {
    let mut cluster = TestCluster::start(3);
    file(&cluster, "data", "value", 500);
    cluster.run(&["load", "data", "-w", "3"]).done();
    cluster.cluster.stop("n2").unwrap();
    damage(&cluster, "n2");
    cluster.start_all();
    assert!(cluster.status("n2").incarnation.0 > 1);
    assert!(cluster.path("n2").join("damaged-1/sled/db").exists());
    assert!(cluster.log("n2").contains("it was set aside in"), "{}", cluster.log("n2"));
    // It takes over what the others hold, and counts again.
    until("n2 has all again", || (cluster.status("n2").read_ineligible == 0).then_some(()));
    assert_eq!(cluster.run(&["dump", "-r", "3"]).done().lines().count(), 500);

    // Without n3, n2 cannot know what is missing: what it does not have does not count.
    for name in ["n2", "n3"] {
        cluster.cluster.stop(name).unwrap();
    }
    damage(&cluster, "n2");
    cluster.cluster.start("n2").unwrap();
    until("n2 serves", || {
        let reported = cluster.run(&["status", "--node", "n2", "--json"]);
        (reported.code == 0 && reported.json()["serving"] == true).then_some(())
    });
    assert_eq!(cluster.status("n2").read_ineligible, 64);
    assert!(cluster.path("n2").join("damaged-2/sled/db").exists());
    let reported = cluster.run(&["get", "key-1", "-r", "2"]);
    let outcomes = "(counted: n1; answered, not counted: n2; silent or unreachable: n3)";
    let sentence = format!("pixii: no quorum: 1 of 2 replicas can answer {outcomes}\n");
    assert_eq!(reported.stated(), (4, &*sentence));

    // n1 is now the only one read-eligible for what n3 held: without it, n3 keeps its files, and
    // waits for it as long as it takes.
    cluster.cluster.stop("n1").unwrap();
    damage(&cluster, "n3");
    cluster.cluster.start("n3").unwrap();
    until("n3 waits", || {
        cluster.log("n3").contains("waits for a replica of partition").then_some(())
    });
    assert!(!cluster.path("n3").join("damaged-1").exists());
    cluster.cluster.start("n1").unwrap();
    until("n3 serves", || cluster.log("n3").contains("it was set aside in").then_some(()));
    for name in ["n2", "n3"] {
        until("it has all again", || {
            let reported = cluster.run(&["status", "--node", name, "--json"]);
            (reported.code == 0 && reported.json()["read_ineligible"] == 0).then_some(())
        });
    }
    assert_eq!(cluster.run(&["dump", "-r", "3"]).done().lines().count(), 500);
}

#[test]
fn an_only_owner_keeps_damaged_data_and_shows_what_is_left_when_the_operator_accepts_that() {
    let mut cluster = TestCluster::start(1);
    file(&cluster, "data", "value", 500);
    cluster.run(&["load", "data"]).done();
    cluster.cluster.stop("n1").unwrap();
    for file in [STOPPED, RUNNING] {
        let path = cluster.path("n1").join(file);
        // Behind what was written, the file is zeros.
        let bytes = fs::read(&path).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        let log = File::options().write(true).open(&path).unwrap();
        log.write_all_at(&vec![0x5a; used / 4], used as u64 / 2).unwrap();
    }
    cluster.start_all();
    let reported = cluster.run(&["get", "key-1"]);
    assert!(reported.code != 0 && reported.err.contains("--accept-loss"), "{reported:?}");
    cluster.run(&["repair", "--node", "n1", "--accept-loss"]).done();
    let left = cluster.run(&["dump"]).done().lines().count();
    assert!((1..500).contains(&left), "{left} of 500");
    assert!(cluster.path("n1").join("damaged-1/sled/db").exists());
}
