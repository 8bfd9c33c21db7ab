//! Members join, leave and get other weights, by a plan that is looked at and applied.

use pixii_core::types::NodeId;
use pixii_testkit::cluster::TestCluster;
use pixii_testkit::until;

use crate::replacing::{end_of, expect_all, put_all};

/// Stages, looks, and begins what was staged; returns when it has come to its end.
fn apply(cluster: &TestCluster, at: &str) {
    let plan = cluster.run(&["--connect", at, "node", "plan", "--json"]);
    let digest = plan.json()["plan"]["digest"].as_str().map(str::to_owned);
    let digest = digest.unwrap_or_else(|| panic!("{plan:?}"));
    let order = ["--connect", at, "node", "apply", "--plan", &digest, "--wait", "60"];
    let applied = cluster.run(&order);
    assert!(applied.done().contains("the change has come to its end"), "{applied:?}");
}

#[test]
fn a_node_joins_gets_its_share_and_leaves_again_with_all_keys_there() {
    let mut cluster = TestCluster::start(3);
    put_all(&cluster, "one");
    let n1 = cluster.address("n1").to_owned();
    let place = format!("n4@{}", cluster.cluster.add("n4", "").unwrap());
    let staged = cluster.run(&["--connect", &n1, "node", "join", &place]);
    assert!(staged.done().contains("join n4 at"), "{staged:?}");
    assert!(staged.out.contains("apply it with `pixii node apply --plan "), "{staged:?}");
    assert!(!cluster.ring("n1").has(NodeId::of("n4")), "nothing has changed");

    cluster.cluster.start("n4").unwrap();
    apply(&cluster, &n1);
    cluster.start_all();
    expect_all(&cluster, "one");
    for name in ["n1", "n2", "n3", "n4"] {
        let ring = cluster.ring(name);
        assert_eq!((ring.step(), ring.share(NodeId::of("n4"))), (None, 48), "{name}: {ring:?}");
    }
    put_all(&cluster, "two");

    cluster.run(&["--connect", &n1, "node", "leave", "n4"]).done();
    apply(&cluster, &n1);
    let how = end_of(&mut cluster, "n4");
    assert!(how.contains("exit code 2"), "{how}");
    let log = cluster.log("n4");
    assert!(log.contains("has left the cluster") || log.contains("was removed"), "{log}");
    cluster.cluster.retire("n4").unwrap();
    expect_all(&cluster, "two");
    let ring = cluster.run(&["ring", "--json"]).json();
    let members = ring["members"].as_array().unwrap();
    let left = members.iter().find(|member| member["name"] == "n4").unwrap();
    assert_eq!(left["removed"], true, "{ring}");
    // All that remember the later ring begin with it.
    cluster.restart(false);
    expect_all(&cluster, "two");
}

#[test]
fn a_change_is_taken_back_and_begins_anew_with_the_same_newcomer() {
    let mut cluster = TestCluster::start(3);
    put_all(&cluster, "one");
    let n1 = cluster.address("n1").to_owned();
    let place = format!("n4@{}", cluster.cluster.add("n4", "").unwrap());
    for _ in 0..2 {
        // The newcomer does not run, so the change waits for it.
        cluster.run(&["--connect", &n1, "node", "join", &place]).done();
        let plan = cluster.run(&["--connect", &n1, "node", "plan", "--json"]);
        let digest = plan.json()["plan"]["digest"].as_str().unwrap().to_owned();
        cluster.run(&["--connect", &n1, "node", "apply", "--plan", &digest]).done();
        let again = cluster.run(&["--connect", &n1, "node", "leave", "n2"]);
        assert!(again.done().contains("is in a change"), "{again:?}");
        cluster.run(&["--connect", &n1, "node", "plan", "--clear"]).done();
        let cancelled = cluster.run(&["--connect", &n1, "node", "cancel"]);
        assert!(cancelled.done().contains("the change is taken back"), "{cancelled:?}");
        put_all(&cluster, "two");
        cluster.cluster.start("n4").unwrap();
        let settled = |cluster: &TestCluster| {
            ["n1", "n2", "n3"].iter().all(|name| cluster.ring(name).step().is_none())
        };
        until("the change is over", || settled(&cluster).then_some(()));
        cluster.cluster.kill("n4").unwrap();
    }
    assert!(!cluster.ring("n1").has(NodeId::of("n4")));
    cluster.cluster.start("n4").unwrap();
    cluster.run(&["--connect", &n1, "node", "join", &place]).done();
    apply(&cluster, &n1);
    expect_all(&cluster, "two");
    assert_eq!(cluster.ring("n2").share(NodeId::of("n4")), 48);
}

#[test]
fn what_cannot_be_is_refused_in_one_sentence_and_nothing_changes() {
    let mut cluster = TestCluster::start(3);
    let (n1, n2) = (cluster.address("n1").to_owned(), cluster.address("n2").to_owned());
    let address = cluster.cluster.add("n4", "").unwrap();
    let before = cluster.ring("n1").id();
    let refused = |order: &[&str], part: &str| {
        let order = [&["--connect", &n1, "node"], order].concat();
        let reported = cluster.run(&order);
        assert!(reported.code != 0 && reported.stated().1.contains(part), "{order:?} {reported:?}");
    };
    refused(&["join", &format!("n2@{address}")], "n2 is a member already");
    refused(&["join", &format!("n4@{n2}")], "n2 is at");
    refused(&["join", "n4"], "NAME@HOST:PORT");
    refused(&["join", "n4@nowhere"], "the new member's address");
    refused(&["join", &format!("n4@{address}"), "--weight", "0"], "weight = 0: a member's weight");
    refused(&["join", &format!("n4@{address}"), "--weight", "1001"], "is 1 to 1000");
    let zone = "z".repeat(65);
    refused(&["join", &format!("n4@{address}"), "--zone", &zone], "the zone has 65 bytes");
    refused(&["leave", "n9"], "no member is called \"n9\"");
    refused(&["remove", "n2"], "n2 answers: stop it first");
    refused(&["cancel"], "the ring is in no change");
    refused(&["dismiss", "n2", "--yes"], "n2 has a place in the ring");
    refused(&["dismiss", "n9"], "add --yes to do it");
    refused(&["apply", "--plan", "0"], "nothing is staged at n1");
    refused(&["apply", "--plan", "xyz"], "\"xyz\" is no digest");
    let staged = cluster.run(&["--connect", &n1, "node", "leave", "n2"]);
    let few = "2 members would be left, and n = 3 replicas need as many";
    assert!(staged.done().contains(few), "{staged:?}");
    refused(&["apply", "--plan", "1"], few);
    cluster.run(&["--connect", &n1, "node", "plan", "--clear"]).done();
    cluster.run(&["--connect", &n1, "node", "set", "n2", "--weight", "50"]).done();
    refused(&["apply", "--plan", "1"], "does not name the plan");
    assert_eq!(cluster.ring("n1").id(), before);
}
