//! Merkle trees from a stop to the next start: a clean stop keeps them, and one start takes them
//! over.

use std::fs;

use pixii_core::message::Counter;
use pixii_testkit::cluster::TestCluster;
use pixii_testkit::until;

const KEYS: usize = 300;

fn count(cluster: &TestCluster, counter: Counter) -> u64 {
    cluster.status("n1").count(counter)
}

/// Waits until every partition has a tree; how many were read for it.
fn read_at_start(cluster: &TestCluster) -> u64 {
    until("all trees are there", || {
        let status = cluster.status("n1");
        let built = status.counters.iter().any(|(of, _)| *of == Counter::PartitionsReadAtStart);
        let unread = !built || status.repair.unread > 0;
        (!unread).then(|| status.count(Counter::PartitionsReadAtStart))
    })
}

#[test]
fn after_a_clean_stop_nothing_is_read_again_and_after_any_other_everything_is() {
    let mut cluster = TestCluster::start(1);
    let lines: String = (0..KEYS).map(|at| format!("key{at}\tvalue\n")).collect();
    cluster.fed(&["load", "-"], lines.as_bytes());
    assert_eq!(read_at_start(&cluster), 64);
    cluster.restart(true);
    assert_eq!(read_at_start(&cluster), 0);
    assert_eq!(count(&cluster, Counter::TreesTakenOver), 64);
    assert_eq!(cluster.run(&["dump", "--keys"]).done().lines().count(), KEYS);

    // What is taken over is gone: an end that is not clean leaves no trees, old ones least of all.
    let file = cluster.path("n1/sled/TREES");
    assert!(!file.exists());
    cluster.run(&["put", "one", "more"]).done();
    cluster.restart(false);
    assert_eq!(read_at_start(&cluster), 64);

    // The file of an earlier stop, a damaged one, and one of another program are not used.
    cluster.cluster.stop_all().unwrap();
    let kept = fs::read(&file).unwrap();
    cluster.start_all();
    assert_eq!(read_at_start(&cluster), 0);
    cluster.run(&["put", "two", "more"]).done();
    let mut damaged = kept.clone();
    damaged[40] ^= 1;
    for (bytes, why) in [
        (&kept[..], "the store was written since"),
        (&damaged, "the checksum of the file is wrong"),
        (b"pixii trees 2\n", "they are of another version of Pixii, or no trees"),
    ] {
        cluster.cluster.stop_all().unwrap();
        fs::write(&file, bytes).unwrap();
        cluster.start_all();
        assert_eq!(read_at_start(&cluster), 64, "{why}");
        let log = cluster.log("n1");
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(why)).collect();
        assert_eq!(lines.len(), 1, "one line says so: {log}");
        assert!(!file.exists());
    }
    assert_eq!(cluster.run(&["get", "two"]).done(), "more");
}
