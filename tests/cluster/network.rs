//! An emulated network between real daemons: delays, a cut, and the end of both.

use std::time::{Duration, Instant};

use pixii_core::message::Counter;
use pixii_testkit::cluster::TestCluster;
use pixii_testkit::until;

fn counter(cluster: &TestCluster, node: &str, counter: Counter) -> u64 {
    cluster.status(node).count(counter)
}

#[test]
fn a_network_is_made_late_cut_and_whole_again_while_nodes_run() {
    let mut cluster = TestCluster::create(3);
    cluster.cluster.allow_emulation().unwrap();
    cluster.start_all();
    let key = &*cluster.key_of(["n1", "n2", "n3"]);
    cluster.run(&["put", key, "one", "-w", "3"]).done();
    assert_eq!(counter(&cluster, "n1", Counter::EmulatedDelayed), 0);

    // Late: the second replica hears and is heard 50 ms later.
    let reported = cluster.run(&["emulate", "set", "n1 <-> n2 delay fixed 50ms"]);
    let each = |node| format!("{node}: 1 rule\n  n1 <-> n2 delay fixed 50ms\n");
    assert_eq!(reported.done(), ["n1", "n2", "n3"].map(each).concat());
    let begun = Instant::now();
    let reported = cluster.run(&["put", key, "two", "-w", "3"]);
    assert_eq!(reported.code, 0, "{reported:?}");
    assert!(begun.elapsed() >= Duration::from_millis(99), "{:?}", begun.elapsed());
    assert!(counter(&cluster, "n1", Counter::EmulatedDelayed) > 0);
    assert!(counter(&cluster, "n2", Counter::EmulatedDelayed) > 0);
    assert!(cluster.log("n1").contains("the network is EMULATED from now on: n1 <-> n2 delay"));

    // Cut: nobody hears n1 and n1 hears nobody, though all links are up.
    let reported = cluster.run(&[
        "emulate",
        "set",
        "* -> * delay fixed 1ms; n1 <-> *  \
        cut",
        "--json",
    ]);
    let rules = serde_json::json!(["* -> * delay fixed 1ms", "n1 <-> * cut"]);
    assert_eq!(reported.json()["nodes"]["n3"]["rules"], rules);
    let status = cluster.run(&["status", "--node", "n1"]);
    assert!(status.done().contains("NETWORK IS EMULATED here: * -> * delay"), "{status:?}");
    assert_eq!(cluster.run(&["status", "--json"]).json()["emulated"], rules);
    let reported = cluster.run(&["get", key, "-r", "3", "--timeout", "500"]);
    assert_eq!(reported.code, 4, "{reported:?}");
    let reported = cluster.run(&["put", key, "three", "-w", "3", "--timeout", "500"]);
    assert!([4, 5].contains(&reported.code), "{reported:?}");
    assert!(counter(&cluster, "n1", Counter::EmulatedCut) > 0);

    // One member's alone, and whole again.
    cluster.run(&["emulate", "clear", "--node", "n2"]).done();
    let reported = cluster.run(&["emulate", "show"]);
    assert!(reported.done().contains("n2: nothing is emulated\nn3: 2 rules\n"), "{reported:?}");
    let reported = cluster.run(&["emulate", "clear"]);
    let each = |node| format!("{node}: nothing is emulated\n");
    assert_eq!(reported.done(), ["n1", "n2", "n3"].map(each).concat());
    until("all replicas answer", || {
        (cluster.run(&["put", key, "four", "-w", "3", "--timeout", "500"]).code == 0).then_some(())
    });
    assert!(!cluster.run(&["status"]).done().contains("EMULATED"));
    assert!(cluster.log("n1").contains("the network is no longer emulated"));
}

#[test]
fn mistakes_and_members_that_do_not_allow_it_are_recognised_by_name() {
    let mut cluster = TestCluster::start(2);
    let reported = cluster.run(&["emulate", "set", "* -> * cut"]);
    let (code, err) = reported.stated();
    let lines: Vec<&str> = err.lines().collect();
    assert_eq!((code, lines.len()), (1, 2), "{err}");
    let stated = "pixii: n2 emulates nothing new: the configuration of n2 does not say \
        allow_emulation = true, so";
    assert!(lines[1].starts_with(stated), "{err}");
    // A mistake is found before anybody is reported.
    let reported = cluster.run(&["emulate", "set", "* -> * drop 0.5", "n1 -> n7 cut"]);
    let (code, err) = reported.stated();
    assert_eq!(code, 2);
    assert!(
        err.starts_with("pixii: the rule \"n1 -> n7 cut\": no member is called \"n7\""),
        "{err}"
    );
    cluster.cluster.kill("n2").unwrap();
    let json = cluster.run(&["emulate", "show", "--json"]).json();
    let why = json["nodes"]["n2"]["error"].as_str().unwrap();
    assert!(why.starts_with("n2 (127.0.0.1:"), "{why}");
    assert_eq!(cluster.run(&["emulate", "set"]).code, 2);
}
