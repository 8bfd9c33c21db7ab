//! Values and keys at their limits, and siblings.

use pixii_testkit::cluster::{Finished, TestCluster};
use serde_json::json;

/// Bytes that no text has, different for each seed.
fn noise(size: usize, seed: usize) -> Vec<u8> {
    (0..size).map(|at| ((at * 31 + seed * 7) % 251) as u8).collect()
}

#[test]
fn values_and_keys_of_all_sizes_survive_restarts() {
    let mut cluster = TestCluster::start(3);
    let hex = |bytes: Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let keys = [(0..=255).collect(), noise(1_024, 1), vec![0], b"plain".to_vec()].map(hex);
    let sizes = [0, 64 << 10, (64 << 10) + 1, 1 << 20];
    let get = |cluster: &TestCluster, key: &str| cluster.run(&["get", "--hex-key", key]);
    let check = |cluster: &TestCluster, seed: usize| {
        for (at, key) in keys.iter().enumerate() {
            let reported = get(cluster, key);
            assert_eq!((reported.code, &*reported.err), (0, ""));
            // Every key has had every size in the end.
            assert!(reported.bytes == noise(sizes[(at + seed) % 4], seed), "{key}, round {seed}");
        }
    };
    for round in 0..4 {
        for (at, key) in keys.iter().enumerate() {
            let context = cluster.run(&["get", "--hex-key", key, "--print-context"]);
            let context = context.out.trim();
            let arguments = ["put", "--hex-key", key, "-", "--context", context, "-w", "3"];
            cluster.fed(&arguments, &noise(sizes[(at + round) % 4], round)).done();
        }
        check(&cluster, round);
        cluster.restart(round % 2 == 0);
        check(&cluster, round);
    }
    for key in &keys {
        cluster.run(&["delete", "--hex-key", key]).done();
        assert_eq!(get(&cluster, key).code, 3);
    }
    cluster.restart(false);
    assert!(keys.iter().all(|key| get(&cluster, key).code == 3), "what was deleted stays so");
    assert_eq!(cluster.run(&["dump"]).done(), "");
}

fn context(reported: &Finished) -> String {
    reported.out.trim().to_string()
}

#[test]
fn siblings_are_shown_merged_and_deleted_by_context() {
    let cluster = TestCluster::start(3);
    for value in ["milk", "bread"] {
        assert_eq!(cluster.run(&["put", "cart", value, "--sibling"]).code, 0);
    }
    let reported = cluster.run(&["get", "cart"]);
    let sentence = "pixii: \"cart\" has 2 siblings: see them with --all --save-context FILE, then \
                    put one value with --context @FILE\n";
    assert_eq!(reported.stated(), (6, sentence));
    let all = cluster.run(&["get", "cart", "--all"]);
    let mut shown: Vec<&str> = all.out.lines().collect();
    shown.sort_unstable();
    assert_eq!((all.code, shown), (6, vec!["bread", "milk"]));
    let reported = cluster.run(&["get", "cart", "--json"]);
    let (code, read) = (reported.code, reported.json());
    assert_eq!((code, read["values"].as_array().unwrap().len()), (6, 2));

    let seen = read["context"].as_str().unwrap();
    let put = cluster.run(&["put", "cart", "both", "--context", seen, "--json"]);
    assert_eq!((put.code, &put.json()["siblings"]), (0, &json!(1)));
    assert_eq!(cluster.run(&["get", "cart"]).done(), "both");

    // What the old context covers is gone already; what came after it stays.
    cluster.run(&["delete", "cart", "--context", seen]).done();
    assert_eq!(cluster.run(&["get", "cart"]).done(), "both");
    let seen = context(&cluster.run(&["get", "cart", "--print-context"]));
    assert_eq!(cluster.run(&["put", "cart", "newer"]).code, 0);
    cluster.run(&["delete", "cart", "--context", &seen]).done();
    assert_eq!(cluster.run(&["get", "cart"]).done(), "newer");
    cluster.run(&["delete", "cart"]).done();
    let absent = (3, "pixii: no value under \"cart\"\n");
    assert_eq!(cluster.run(&["get", "cart"]).stated(), absent);
    assert_eq!(cluster.run(&["delete", "cart"]).stated(), absent);
}

#[test]
fn the_33rd_sibling_is_refused_with_advice_and_nothing_is_lost() {
    let cluster = TestCluster::start(1);
    for number in 1..=32 {
        let reported = cluster.run(&["put", "crowd", &number.to_string(), "--sibling", "--json"]);
        assert_eq!((reported.code, &reported.json()["siblings"]), (0, &json!(number)));
    }
    let sentence = "pixii: the key has 32 siblings and the limit is 32: read first, then put with \
        the \
                    context that the read gave\n";
    assert_eq!(cluster.run(&["put", "crowd", "33", "--sibling"]).stated(), (1, sentence));
    assert_eq!(cluster.run(&["get", "crowd", "--all"]).out.lines().count(), 32);
    let seen = context(&cluster.run(&["get", "crowd", "--print-context"]));
    cluster.run(&["put", "crowd", "one", "--context", &seen]).done();
    assert_eq!(cluster.run(&["get", "crowd"]).done(), "one");
}
