//! Mistakes of an operator that a daemon or the command names.

use std::fs;
use std::net::TcpListener;

use pixii_testkit::cluster::TestCluster;
use pixii_testkit::until;

use crate::exhaustion::with_http;

#[test]
fn a_command_that_is_given_the_http_port_names_what_answers_there() {
    let mut cluster = TestCluster::create(1);
    let http = with_http(&cluster);
    cluster.start_all();
    let reported = cluster.run(&["get", "k", "--connect", &format!("127.0.0.1:{http}")]);
    let stated = format!("pixii: cannot connect to 127.0.0.1:{http}: an HTTP server answers there");
    assert!(reported.code == 1 && reported.err.starts_with(&stated), "{reported:?}");
}

#[test]
fn a_member_with_a_wrong_port_in_its_own_entry_says_that_nobody_can_dial_it() {
    let mut cluster = TestCluster::create(2);
    // Taken as long as this lives, and nobody answers there.
    let wrong = TcpListener::bind("127.0.0.1:0").unwrap();
    let wrong = format!("127.0.0.1:{}", wrong.local_addr().unwrap().port());
    let (path, right) = (cluster.path("n1.toml"), cluster.address("n1").to_owned());
    let text = fs::read_to_string(&path).unwrap();
    fs::write(
        &path,
        text.replace(&format!("address = \"{right}\""), &format!("address = \"{wrong}\"")),
    )
    .unwrap();
    cluster.cluster.start("n1").unwrap();
    cluster.cluster.start("n2").unwrap();
    let stated = format!("node n1 cannot be dialed at {wrong}, its address among the members");
    until("n1 says so", || cluster.log("n1").contains(&stated).then_some(()));
    let reported = cluster.run(&["status", "--connect", &right]);
    assert!(reported.out.contains(&stated), "{reported:?}");
    assert!(!cluster.log("n2").contains("cannot be dialed"), "{}", cluster.log("n2"));
}
