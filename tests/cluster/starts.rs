//! How a daemon begins, what it says of that, and what it makes of a configuration.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use pixii_testkit::cluster::{Run, TestCluster, pixii, signal};
use pixii_testkit::until;

/// A configuration of the node `n1` alone.
fn alone(data_dir: &str, listen: &str) -> String {
    format!(
        "name = \"n1\"\ncluster = \"test\"\ndata_dir = \"{data_dir}\"\nlisten = \"{listen}\"\n\
         n = 1\n\
         partitions = 8\ncache_mib = 8\ntrusted_network = true\n[[members]]\nname = \"n1\"\n\
         address = \"{listen}\"\n"
    )
}

#[test]
fn the_first_line_names_program_cluster_data_and_addresses() {
    let cluster = TestCluster::start(1);
    let log = cluster.log("n1");
    let first = log.lines().next().unwrap();
    let version = format!("pixii {} begins with ", env!("CARGO_PKG_VERSION"));
    let data = fs::canonicalize(cluster.path("n1")).unwrap();
    for what in [&version, "node n1 of cluster test", cluster.address("n1"), data.to_str().unwrap()]
    {
        assert!(first.contains(what), "{what}: {first}");
    }
}

#[test]
fn a_relative_data_directory_begins_at_that_of_the_configuration() {
    let cluster = TestCluster::create(1);
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(cluster.path("rel.toml"), alone("data", cluster.address("n1"))).unwrap();
    let config = cluster.path("rel.toml");
    let start = || {
        let mut command = pixii(&["server", "--config", config.to_str().unwrap()]);
        command.current_dir(elsewhere.path());
        Run::start(command, b"")
    };
    let daemon = start();
    until("a store beside the configuration", || {
        cluster.path("data/FORMAT").exists().then_some(())
    });
    drop(daemon);
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);

    // Data that the version before has made at its working directory is not left behind silently.
    fs::rename(cluster.path("data"), elsewhere.path().join("data")).unwrap();
    let reported = start().end();
    assert_eq!(reported.code, 2, "{}", reported.err);
    assert!(reported.err.contains("write the directory in full"), "{}", reported.err);
    assert!(!cluster.path("data").exists());
}

#[test]
fn what_no_configuration_can_mean_is_refused_in_the_terms_of_toml() {
    let cluster = TestCluster::create(1);
    let good = alone("/nonexistent/data", "127.0.0.1:7432");
    let cases = [
        ("\"/nonexistent/data\"", "\"~/x\"", "no shell replaces the ~ here"),
        ("address = \"127.0.0.1:7432\"", "address = \"fd00::2\"", "an IPv6 address is in brackets"),
        ("listen = \"127.0.0.1:7432\"", "listen = \"::1:7432\"", "as in [fd00::2]:7432"),
        ("n = 1\n", "n = \"three\"\n", "expected an integer"),
        ("n = 1\n", "n = { a = 1 }\n", "invalid type: a table, expected an integer"),
    ];
    for (from, to, stated) in cases {
        assert!(good.contains(from), "{from}");
        fs::write(cluster.path("try.toml"), good.replace(from, to)).unwrap();
        let path = cluster.path("try.toml");
        let reported =
            Run::start(pixii(&["server", "--config", path.to_str().unwrap()]), b"").end();
        assert_eq!(reported.code, 2, "{to}: {}", reported.err);
        assert!(reported.err.contains(stated), "{to}: {}", reported.err);
        assert!(
            !reported.err.contains("i64") && !reported.err.contains(" map"),
            "{}",
            reported.err
        );
    }
}

#[test]
fn a_reload_of_a_pipe_is_refused_and_the_next_one_works() {
    let cluster = TestCluster::start(1);
    let (config, kept) = (cluster.path("n1.toml"), cluster.path("kept.toml"));
    fs::rename(&config, &kept).unwrap();
    assert!(Command::new("mkfifo").arg(&config).status().unwrap().success());
    signal("HUP", cluster.pid("n1"));
    until("the pipe is refused", || {
        cluster.log("n1").contains("read again is a file, and this is none").then_some(())
    });
    fs::rename(&kept, &config).unwrap();
    signal("HUP", cluster.pid("n1"));
    until("the file is read", || {
        cluster.log("n1").contains("finds nothing new in its configuration").then_some(())
    });
}

#[test]
fn an_interrupted_dump_ends_with_a_whole_line_and_says_how_many_there_are() {
    let cluster = TestCluster::start(1);
    let value = "v".repeat(200);
    let text: String = (0..20_000).map(|number| format!("key-{number}\t{value}\n")).collect();
    cluster.fed(&["load", "-"], text.as_bytes()).done();
    let mut command = cluster.command(&["dump"]);
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut dump = command.spawn().unwrap();
    let mut out = BufReader::new(dump.stdout.take().unwrap());
    let mut first = String::new();
    out.read_line(&mut first).unwrap();
    // Its output is more than a pipe takes, so that it waits here.
    signal("INT", dump.id());
    thread::sleep(Duration::from_millis(300));
    let (mut rest, mut stated) = (String::new(), String::new());
    out.read_to_string(&mut rest).unwrap();
    dump.stderr.take().unwrap().read_to_string(&mut stated).unwrap();
    assert_eq!(dump.wait().unwrap().code(), Some(1), "{stated}");
    let lines = 1 + rest.lines().count();
    assert!(rest.is_empty() || rest.ends_with('\n'), "the last line is whole");
    assert!(lines < 20_000, "it was interrupted");
    assert!(stated.contains(&format!("interrupted; {lines} lines printed")), "{lines}: {stated}");
}

#[test]
fn an_address_that_comes_later_is_waited_for() {
    let works = Command::new("unshare").args(["-rn", "ip", "link", "set", "lo", "up"]).status();
    if !works.is_ok_and(|status| status.success()) {
        println!("skipped: no network name space can be made here");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (config, log) = (dir.path().join("n1.toml"), dir.path().join("log"));
    let data = dir.path().join("data");
    fs::write(&config, alone(data.to_str().unwrap(), "10.77.0.1:7432")).unwrap();
    // The address appears when the daemon has said that it waits for it.
    let script = format!(
        "ip link set lo up; (for _ in $(seq 400); do sleep 0.05; \
         grep -q 'is not there yet' {1} && break; done; ip addr add 10.77.0.1/32 dev lo) & exec \
         {2} server --config {0}",
        config.display(),
        log.display(),
        env!("CARGO_BIN_EXE_pixii")
    );
    let mut command = Command::new("unshare");
    command.args(["-rn", "sh", "-c", &script]);
    let mut daemon = command.stderr(File::create(&log).unwrap()).spawn().unwrap();
    let stated = || fs::read_to_string(&log).unwrap();
    let heard = std::panic::catch_unwind(|| {
        until("it listens", || stated().contains(" listens on 10.77.0.1:7432").then_some(()));
    });
    signal("TERM", daemon.id());
    daemon.wait().unwrap();
    assert!(heard.is_ok(), "{}", stated());
}
