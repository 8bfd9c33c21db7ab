//! Merkle trees from a stop to the next start: kept by a clean one, and taken over once.

use std::fs;

use pixii_core::message::Counter;
use pixii_testkit::cluster::House;
use pixii_testkit::until;

const KEYS: usize = 300;

fn count(house: &House, counter: Counter) -> u64 {
    house.status("n1").count(counter)
}

/// Waits until every partition has a tree; how many were read for it.
fn read_at_start(house: &House) -> u64 {
    until("all trees are there", || {
        let status = house.status("n1");
        let built = status.counters.iter().any(|(of, _)| *of == Counter::PartitionsReadAtStart);
        let unread = !built || status.repair.unread > 0;
        (!unread).then(|| status.count(Counter::PartitionsReadAtStart))
    })
}

#[test]
fn after_a_clean_stop_nothing_is_read_again_and_after_any_other_everything_is() {
    let mut house = House::start(1);
    let lines: String = (0..KEYS).map(|at| format!("key{at}\tvalue\n")).collect();
    house.fed(&["load", "-"], lines.as_bytes());
    assert_eq!(read_at_start(&house), 64);
    house.restart(true);
    assert_eq!(read_at_start(&house), 0);
    assert_eq!(count(&house, Counter::TreesTakenOver), 64);
    assert_eq!(house.run(&["dump", "--keys"]).done().lines().count(), KEYS);

    // What is taken over is gone: an end that is not clean leaves no trees, old ones least of all.
    let file = house.path("n1/sled/TREES");
    assert!(!file.exists());
    house.run(&["put", "one", "more"]).done();
    house.restart(false);
    assert_eq!(read_at_start(&house), 64);

    // The file of an earlier stop, a damaged one, and one of another program are not used.
    house.cluster.stop_all().unwrap();
    let kept = fs::read(&file).unwrap();
    house.start_all();
    assert_eq!(read_at_start(&house), 0);
    house.run(&["put", "two", "more"]).done();
    let mut damaged = kept.clone();
    damaged[40] ^= 1;
    for (bytes, why) in [
        (&kept[..], "the store was written since"),
        (&damaged, "the checksum of the file is wrong"),
        (b"pixii trees 2\n", "they are of another version of Pixii, or no trees"),
    ] {
        house.cluster.stop_all().unwrap();
        fs::write(&file, bytes).unwrap();
        house.start_all();
        assert_eq!(read_at_start(&house), 64, "{why}");
        let log = house.log("n1");
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(why)).collect();
        assert_eq!(lines.len(), 1, "one line says so: {log}");
        assert!(!file.exists());
    }
    assert_eq!(house.run(&["get", "two"]).done(), "more");
}
