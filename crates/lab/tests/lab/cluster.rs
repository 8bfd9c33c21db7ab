//! The laboratory on a running cluster.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use pixii_testkit::cluster::TestCluster;
use pixii_testkit::until;
use serde_json::Value;

#[test]
fn live_predictions_find_the_delays_that_were_emulated() {
    let mut cluster = TestCluster::create(3);
    cluster.cluster.allow_emulation().unwrap();
    cluster.start_all();
    let why = cluster.run(&["lab", "predict", "--live"]);
    assert_eq!((why.code, why.out.as_str()), (1, ""));
    assert!(why.err.starts_with("pixii: too little is known of the way from n"), "{}", why.err);
    assert_eq!(why.err.lines().count(), 1);

    let far = "n1 <-> n3 delay exponential 40ms";
    cluster.run(&["emulate", "set", "* -> * delay exponential 10ms", far]).done();
    let base = ["lab", "load", "--clients", "64", "--keys", "300", "--bytes", "100", "--json"];
    let times = ["--seconds", "4", "--warm-up", "1", "--repetitions", "1", "--seed", "3"];
    cluster.run(&[&base[..], &times].concat()).done();

    let wish = ["--fresh", "99.9", "--within", "600000", "--trials", "20000", "--json"];
    let reported = cluster.run(&[&["lab", "predict", "--live"][..], &wish].concat());
    let reported: Value = serde_json::from_str(reported.done()).unwrap();
    let links = reported["live"]["links"].as_array().unwrap();
    assert_eq!(links.len(), 9, "{reported}");
    for link in links {
        let ends = [&link["from"], &link["to"]].map(|end| end.as_str().unwrap());
        let way = link["one_way_mean_ms"].as_f64().unwrap();
        let emulated = match ends {
            [from, to] if from == to => 0.0,
            ["n1", "n3"] | ["n3", "n1"] => 40.0,
            _ => 10.0,
        };
        // Never much less; a busy machine and its disk add to it.
        assert!((0.75 * emulated..=1.4 * emulated + 5.0).contains(&way), "{ends:?}: {link}");
        // The model puts writes together from what reads and disks take.
        let [measured, modelled] =
            ["write_mean_ms", "write_mean_by_model_ms"].map(|name| link[name].as_f64().unwrap());
        assert!((0.5..2.0).contains(&(modelled / measured)), "{ends:?}: {link}");
    }
    assert_eq!(reported["meet"].as_array().unwrap().len(), 9, "all are fresh in the end");
}

#[test]
fn a_load_proves_that_it_knows_the_secret() {
    let mut cluster = TestCluster::create(1);
    let file = |name: &str, secret: &str| {
        let path = cluster.path(name);
        fs::write(&path, secret).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let peers = file("peers", "the secret of the peers");
    let clients = file("clients", "the secret of the clients");
    let lines = format!("secret_file = \"{peers}\"\nclient_secret_file = \"{clients}\"");
    cluster.cluster.configure(&lines).unwrap();
    cluster.cluster.start_all().unwrap();
    let with = ["--secret-file", &clients];
    let absent = [&["get", "absent"], &with[..]].concat();
    until("it serves", || (cluster.run(&absent).code == 3).then_some(()));
    let load = ["lab", "load", "--keys", "10", "--bytes", "16", "--repetitions", "1"];
    let brief = ["--seconds", "1", "--warm-up", "0"];
    let reported = cluster.run(&[&load[..], &brief, &with[..]].concat());
    assert_eq!((reported.code, reported.err.as_str()), (0, ""), "{reported:?}");
}
