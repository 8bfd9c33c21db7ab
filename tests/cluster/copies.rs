//! Copies of data directories do not serve, and nodes that move are found.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pixii_testkit::cluster::{Finished, Run, TestCluster, pixii};
use pixii_testkit::{free_address, until};

const KEYS: usize = 30;

static PUTS: AtomicUsize = AtomicUsize::new(0);

fn fill(cluster: &TestCluster) {
    let text: String = (0..KEYS).map(|number| format!("key-{number}\tv{number}\n")).collect();
    cluster.fed(&["load", "-", "-w", "2"], text.as_bytes()).done();
}

/// All keys are what they were, and puts go well.
fn expect_untouched(cluster: &TestCluster) {
    for number in 0..KEYS {
        let key = format!("key-{number}");
        assert_eq!(cluster.run(&["get", &key]).done(), format!("v{number}"), "{key}");
        // Each has a key of its own, or they would be siblings.
        let other = format!("other-{}", PUTS.fetch_add(1, Ordering::Relaxed));
        cluster.run(&["put", &other, "value"]).done();
    }
}

/// Gives the configuration of a node other addresses, each for one that it has.
fn readdress(cluster: &TestCluster, name: &str, changes: &[(&str, &str)]) {
    let path = cluster.path(&format!("{name}.toml"));
    let mut text = fs::read_to_string(&path).unwrap();
    // In two steps, for those that change places.
    for (at, (from, _)) in changes.iter().enumerate() {
        assert!(text.contains(from), "{from} in {text}");
        text = text.replace(&format!("\"{from}\""), &format!("\"<{at}>\""));
    }
    for (at, (_, to)) in changes.iter().enumerate() {
        text = text.replace(&format!("\"<{at}>\""), &format!("\"{to}\""));
    }
    fs::write(path, text).unwrap();
}

/// The end of a daemon with this configuration, which must not serve: its one sentence.
fn refused(cluster: &TestCluster, file: &str, more: &[&str]) -> String {
    let path = cluster.path(file).display().to_string();
    let arguments = [&["server", "--config", &*path][..], more].concat();
    let Finished { code, err, .. } = Run::start(pixii(&arguments), b"").end();
    assert_eq!(code, 2, "{err}");
    err.lines().last().unwrap().strip_prefix("pixii: ").unwrap().to_owned()
}

/// Waits until one node is linked with another one at this address.
fn wait_for_link(cluster: &TestCluster, node: &str, peer: &str, address: &str) {
    let answers = || {
        let reported = cluster.run(&["--connect", cluster.address(node), "status"]);
        (reported.code == 0).then_some(())
    };
    until("it listens", answers);
    until(&format!("{node} finds {peer} at {address}"), || {
        let status = cluster.status(node);
        let found = status.peers.iter().find(|other| other.name == peer)?;
        (found.up && found.address == address).then_some(())
    });
}

#[test]
fn a_copy_of_a_cluster_does_not_serve_and_the_original_notices_nothing() {
    let mut cluster = TestCluster::start(3);
    fill(&cluster);
    cluster.cluster.stop_all().unwrap();
    let copy = cluster.copied();
    cluster.start_all();
    for _ in 0..2 {
        for name in ["n1", "n2", "n3"] {
            let stated = refused(&copy, &format!("{name}.toml"), &[]);
            let runs = format!("a daemon with the same data runs at {}; ", cluster.address(name));
            assert!(
                stated.starts_with(&format!(
                    "the data of node {name} is a \
                copy: "
                )),
                "{stated}"
            );
            assert!(stated.contains(&runs) && stated.contains("--new-identity"), "{stated}");
        }
        expect_untouched(&cluster);
    }
    // While one of the originals is down, its copy finds that the others have not moved.
    cluster.cluster.stop("n1").unwrap();
    let stated = refused(&copy, "n1.toml", &[]);
    let begin = format!("node n1, which was at {}, is configured at ", cluster.address("n1"));
    assert!(stated.starts_with(&begin) && stated.contains("--new-identity"), "{stated}");
    for name in ["n2", "n3"] {
        assert!(refused(&copy, &format!("{name}.toml"), &[]).contains("is a copy"));
    }
    expect_untouched(&cluster);
    cluster.start_all();
    expect_untouched(&cluster);
    assert!(!cluster.log("n1").contains("is a copy") && !cluster.log("n2").contains("is a copy"));
}

#[test]
fn a_copy_of_one_node_does_not_serve_wherever_it_listens() {
    let mut cluster = TestCluster::start(3);
    fill(&cluster);
    cluster.cluster.stop("n3").unwrap();
    let copy = cluster.copied();
    cluster.start_all();
    let (own, elsewhere) = (cluster.address("n3").to_owned(), free_address());
    let original = fs::read_to_string(cluster.path("n3.toml")).unwrap();
    let data = |cluster: &TestCluster| {
        format!("{}\"", cluster.path("n3").canonicalize().unwrap().display())
    };
    let moved = original.replace(&data(&cluster), &data(&copy));
    fs::write(copy.path("n3.toml"), &moved).unwrap();
    readdress(&copy, "n3", &[(&own, &elsewhere)]);
    // As if it were where the other one is, behind another port.
    let listen = |address: &str| format!("listen = \"{address}\"");
    let behind = moved.replace(&listen(&own), &listen(&elsewhere));
    fs::write(copy.path("behind.toml"), behind).unwrap();
    for file in ["n3.toml", "behind.toml"] {
        let stated = refused(&copy, file, &[]);
        assert!(stated.contains(&format!("a daemon with the same data runs at {own}")), "{stated}");
    }
    expect_untouched(&cluster);
}

#[test]
fn a_clone_gets_a_new_identity_and_an_empty_directory_gets_none() {
    let mut cluster = TestCluster::start(3);
    fill(&cluster);
    cluster.cluster.stop_all().unwrap();
    let mut copy = cluster.copied();
    cluster.start_all();
    let reported = refused(&copy, "n1.toml", &[]);
    assert!(reported.contains("is a copy"), "{reported}");
    let configs = ["n1", "n2", "n3"].map(|name| copy.path(&format!("{name}.toml")));
    let start = |path: &std::path::PathBuf| {
        let path = path.to_str().unwrap();
        Run::start(pixii(&["server", "--config", path, "--new-identity"]), b"")
    };
    let runs: Vec<Run> = configs.iter().map(start).collect();
    until("the clone serves", || (copy.run(&["get", "key-1"]).code == 0).then_some(()));
    copy.run(&["delete", "key-1", "-w", "3"]).done();
    expect_untouched(&cluster);
    for run in runs {
        pixii_testkit::cluster::signal("TERM", run.pid());
        assert_eq!(run.end().code, 0);
    }
    copy.start_all();
    assert_eq!(copy.run(&["get", "key-2", "-r", "3"]).done(), "v2");
    assert_eq!(copy.run(&["get", "key-1"]).code, 3);
    copy.cluster.stop("n1").unwrap();
    fs::remove_dir_all(copy.path("n1")).unwrap();
    let stated = refused(&copy, "n1.toml", &["--new-identity"]);
    assert!(stated.contains("there is no data of node n1"), "{stated}");
    expect_untouched(&cluster);
}

#[test]
fn a_node_that_moves_is_found_by_those_that_do_not_know_and_by_their_next_start() {
    let mut cluster = TestCluster::start(3);
    fill(&cluster);
    let (before, after) = (cluster.address("n3").to_owned(), free_address());
    cluster.cluster.stop("n3").unwrap();
    readdress(&cluster, "n3", &[(&before, &after)]);
    let begun = Instant::now();
    cluster.cluster.start("n3").unwrap();
    for name in ["n1", "n2"] {
        wait_for_link(&cluster, name, "n3", &after);
    }
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}, the start of n3 included");
    until("all three hold a write", || {
        (cluster.run(&["put", "k", "v", "-w", "3"]).code == 0).then_some(())
    });
    // The others are started again with their old configurations.
    for name in ["n1", "n2"] {
        cluster.cluster.stop(name).unwrap();
        cluster.cluster.start(name).unwrap();
        wait_for_link(&cluster, name, "n3", &after);
    }
    expect_untouched(&cluster);
}

#[test]
fn two_nodes_change_places_and_then_all_move_at_once() {
    let mut cluster = TestCluster::start(3);
    fill(&cluster);
    let [one, two, three] = ["n1", "n2", "n3"].map(|name| cluster.address(name).to_owned());
    for name in ["n2", "n3"] {
        cluster.cluster.stop(name).unwrap();
        readdress(&cluster, name, &[(&two, &three), (&three, &two)]);
    }
    for name in ["n2", "n3"] {
        cluster.cluster.start(name).unwrap();
    }
    wait_for_link(&cluster, "n1", "n2", &three);
    wait_for_link(&cluster, "n1", "n3", &two);
    until("all three hold a write", || {
        (cluster.run(&["put", "k", "v", "-w", "3"]).code == 0).then_some(())
    });
    cluster.cluster.stop_all().unwrap();
    let [new_one, new_two, new_three] = [0; 3].map(|_| free_address());
    // n1 has never been reported; what counts is where the members are said to be now.
    readdress(&cluster, "n1", &[(&one, &new_one), (&two, &new_two), (&three, &new_three)]);
    for name in ["n2", "n3"] {
        readdress(&cluster, name, &[(&one, &new_one), (&three, &new_two), (&two, &new_three)]);
    }
    for name in ["n1", "n2", "n3"] {
        cluster.cluster.start(name).unwrap();
    }
    let reported = || pixii(&["--connect", &new_one, "put", "k", "w", "-w", "3"]);
    until("all have met", || (Run::start(reported(), b"").end().code == 0).then_some(()));
}

#[test]
fn a_node_that_is_killed_and_started_at_once_under_load_is_heard_again() {
    let mut cluster = TestCluster::start(3);
    fill(&cluster);
    for round in 0..4 {
        let text: String = (0..2_000).map(|number| format!("load-{number}\t{round}\n")).collect();
        let load = Run::start(cluster.command(&["load", "-", "-w", "2"]), text.as_bytes());
        cluster.cluster.kill("n3").unwrap();
        cluster.cluster.start("n3").unwrap();
        let begun = Instant::now();
        for name in ["n1", "n2"] {
            wait_for_link(&cluster, name, "n3", cluster.address("n3"));
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        assert_eq!(load.end().code, 0);
    }
    cluster.run(&["put", "k", "v", "-w", "3"]).done();
    for name in ["n1", "n2", "n3"] {
        assert!(!cluster.log(name).contains("is a copy of it"), "{}", cluster.log(name));
    }
}
