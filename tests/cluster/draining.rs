//! Nodes that are taken out before maintenance, and what a daemon reports its service manager and
//! its operator.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use pixii_client::{Client, Options};
use pixii_core::message::Quorum;
use pixii_core::types::Key;
use pixii_testkit::cluster::{Run, TestCluster, pixii, signal};
use pixii_testkit::{DEADLINE, until};
use tokio::runtime::Builder;

/// Writers and readers that go on until they are ordered to stop.
struct Load {
    ends: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Drained>>,
}

/// What one of them acknowledged, and what failed.
#[derive(Default)]
struct Drained {
    written: Vec<String>,
    reads: usize,
    failed: Vec<String>,
}

impl Load {
    fn start(cluster: &TestCluster, clients: usize) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let daemons = cluster.cluster.daemons().iter();
        let addresses: Vec<String> = daemons.map(|daemon| daemon.address.clone()).collect();
        let client = |number: usize| {
            let (ends, mut addresses) = (ends.clone(), addresses.clone());
            let others = number % addresses.len();
            addresses.rotate_left(others);
            thread::spawn(move || {
                let runtime = Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(load(number, &addresses, &ends))
            })
        };
        let threads = (0..clients).map(client).collect();
        Load { ends, threads }
    }

    fn end(self) -> Vec<Drained> {
        self.ends.store(true, Ordering::SeqCst);
        self.threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    }
}

async fn load(number: usize, addresses: &[String], ends: &AtomicBool) -> Drained {
    let client = Client::connect(addresses, Options::default()).await.unwrap();
    let mut reported = Drained::default();
    let sloppy = Quorum { replicas: None, strict: Some(false) };
    while !ends.load(Ordering::SeqCst) {
        let name = format!("key-{number}-{}", reported.written.len() + reported.failed.len());
        let key = Key::new(name.clone().into_bytes()).unwrap();
        match client.put(&key, name.clone()).w(sloppy).deadline_ms(10_000).await {
            Ok(_) => reported.written.push(name),
            Err(why) => reported.failed.push(format!("put {name}: {why}")),
        }
        match client.get(&key).r(sloppy).deadline_ms(10_000).await {
            Ok(_) => reported.reads += 1,
            Err(why) => reported.failed.push(format!("get {key:?}: {why}")),
        }
    }
    reported
}

#[test]
fn no_request_fails_while_each_node_is_drained_stopped_and_started() {
    let mut cluster = TestCluster::start(4);
    let load = Load::start(&cluster, 4);
    for name in ["n1", "n2", "n3", "n4"] {
        cluster.wait_for_puts(name, 20);
        let reported = cluster.run(&["node", "drain", name]);
        let first = format!("{name} is drained: clients and peers use other nodes\n");
        assert!(reported.done().starts_with(&first), "{reported:?}");
        assert!(!cluster.status(name).serving);
        signal("TERM", cluster.pid(name));
        let ended = until("a stop", || cluster.cluster.ended().pop());
        assert_eq!(ended, (name.to_string(), "ended: it stopped cleanly".to_string()));
        cluster.start_all();
    }
    let reported = load.end();
    let failed: Vec<&String> = reported.iter().flat_map(|reported| &reported.failed).collect();
    assert!(failed.is_empty(), "{} requests failed: {:?}", failed.len(), &failed[..1]);
    assert!(reported.iter().all(|reported| reported.reads > 0));
    cluster.wait_for_no_hints();
    let dump = cluster.run(&["dump", "-r", "2"]);
    let there: BTreeMap<&str, &str> =
        dump.done().lines().filter_map(|line| line.split_once('\t')).collect();
    for name in reported.iter().flat_map(|reported| &reported.written) {
        assert_eq!(there.get(name.as_str()), Some(&name.as_str()), "{name} was acknowledged");
    }
}

#[test]
fn a_drained_node_reports_what_is_left_and_takes_part_again() {
    let mut cluster = TestCluster::start(4);
    cluster.cluster.kill("n4").unwrap();
    let text: String = (0..200).map(|number| format!("key-{number}\tv\n")).collect();
    fs::write(cluster.path("in"), text).unwrap();
    // Within a second of its start a node that misses a peer does not know yet that nothing is kept
    // for it.
    until("all is written", || (cluster.run(&["load", "in"]).code == 0).then_some(()));
    let kept = until("n1 keeps something for n4", || {
        let status = cluster.status("n1");
        let peer = status.peers.into_iter().find(|peer| peer.name == "n4").unwrap();
        (peer.hints > 0).then_some(peer.hints)
    });
    let reported = cluster.run(&["node", "drain", "n1", "--timeout", "20000", "--json"]);
    let left = &reported.json()["hints_left"][0];
    assert_eq!((reported.code, left["for"].as_str()), (0, Some("n4")), "{reported:?}");
    assert!(left["hints"].as_u64().unwrap() >= kept, "nothing more is kept, or less: {reported:?}");
    // Twice is once, and the others do without it.
    assert!(cluster.run(&["node", "drain", "n1"]).done().contains("for n4"));
    let alone = cluster.address("n1").to_string();
    let reported = pixii(&["get", "key-1", "--connect", &alone]).output().unwrap();
    assert_eq!(
        reported.stdout, b"v",
        "a client that knows only this node learns of the others from it"
    );
    let status = pixii(&["status", "--connect", &alone]).output().unwrap();
    let status = String::from_utf8(status.stdout).unwrap();
    assert!(status.contains("no: it is drained"), "{status}");

    assert_eq!(cluster.run(&["node", "undrain", "n1"]).done(), "n1 takes part again\n");
    cluster.start_all();
    cluster.wait_for_no_hints();
    assert!(cluster.status("n1").serving);
    let reported = cluster.run(&["node", "drain", "n7"]);
    let stated = "pixii: no member is called \"n7\"; the members are n1, n2, n3, n4\n";
    assert_eq!(reported.stated(), (1, stated));
}

#[test]
fn what_a_node_has_begun_is_finished_before_it_lets_go_of_its_peers() {
    let mut cluster = TestCluster::create(3);
    cluster.cluster.allow_emulation().unwrap();
    cluster.start_all();
    let key = cluster.key_of(["n1", "n2", "n3"]);
    cluster.run(&["emulate", "set", "n2 disk delay 1s; n3 disk delay 1s"]).done();
    let mut command = cluster.command(&["put", &key, "v"]);
    command.env("PIXII_CONNECT", cluster.address("n1"));
    let put = Run::start(command, b"");
    until("n1 has begun it", || (cluster.drain_report("n1").requests > 0).then_some(()));
    cluster.run(&["node", "drain", "n1"]).done();
    assert_eq!(put.end().code, 0);
    cluster.wait_for_puts("n1", 1);
}

/// A daemon that believes to have a service manager.
struct Managed {
    child: Child,
    manager: UnixDatagram,
    heard: Vec<String>,
}

impl Managed {
    fn start(cluster: &TestCluster, name: &str, watchdog_us: u32) -> Self {
        let socket = cluster.path("notify");
        let manager = UnixDatagram::bind(&socket).unwrap();
        manager.set_read_timeout(Some(DEADLINE)).unwrap();
        let config = cluster.path(&format!("{name}.toml"));
        let mut command = pixii(&["server", "--follow-stdin", "--config"]);
        command.arg(config).stdin(Stdio::piped()).env("NOTIFY_SOCKET", &socket);
        command.env("WATCHDOG_USEC", watchdog_us.to_string());
        command.stderr(fs::File::create(cluster.path(&format!("{name}.log"))).unwrap());
        Managed { child: command.spawn().unwrap(), manager, heard: Vec::new() }
    }

    /// Listens until this is said.
    fn hear(&mut self, what: &str) {
        let mut bytes = [0; 4_096];
        while self.heard.last().is_none_or(|last| last != what) {
            let count = self.manager.recv(&mut bytes).unwrap_or_else(|error| {
                panic!("\"{what}\" is not said: {error}; {:?}", self.heard);
            });
            let stated = String::from_utf8(bytes[..count].to_vec()).unwrap();
            self.heard.push(stated.trim_end().to_string());
        }
    }
}

impl Drop for Managed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_manager_sees_what_a_daemon_does_and_an_operator_what_it_takes_over() {
    let cluster = TestCluster::create(1);
    let mut daemon = Managed::start(&cluster, "n1", 200_000);
    let pid = daemon.child.id();
    daemon.hear("READY=1");
    assert_eq!(daemon.heard[0], "STATUS=opening the store");
    daemon.hear("STATUS=serving");
    // It is fed although nothing is written.
    for _ in 0..5 {
        daemon.hear("WATCHDOG=1");
        daemon.heard.clear();
    }

    signal("USR1", pid);
    let logged = |what: &str| until(what, || cluster.log("n1").contains(what).then_some(()));
    logged("node n1 of cluster test, incarnation 1, up for ");
    logged("repair: 0 pending, 0 failing");
    let path = cluster.path("n1.toml");
    let text = fs::read_to_string(&path).unwrap();
    let rest: Vec<&str> = text.lines().filter(|line| !line.starts_with("log")).collect();
    let new = format!("log = \"debug\"\nhint_limit_mib = 7\nstrict = true\n{}", rest.join("\n"));
    fs::write(&path, new).unwrap();
    signal("HUP", pid);
    logged("node n1 goes on with log = \"debug\", hint_limit_mib = 7\n");
    logged("node n1 has to be started again for strict\n");
    assert_eq!(cluster.status("n1").hint_limit_bytes, 7 << 20);
    fs::write(&path, format!("nonsense = 1\n{text}")).unwrap();
    signal("HUP", pid);
    logged("node n1 goes on as it is configured: ");
    logged("unknown field `nonsense`");

    signal("TERM", pid);
    daemon.hear("STOPPING=1");
    daemon.hear("STATUS=closing the store");
    let ended = until("the daemon ends", || daemon.child.try_wait().unwrap());
    assert!(ended.success());
}

#[test]
fn a_configuration_that_cannot_be_read_to_its_end_keeps_no_daemon_from_stopping() {
    let cluster = TestCluster::create(1);
    let mut daemon = Managed::start(&cluster, "n1", 200_000);
    let pid = daemon.child.id();
    daemon.hear("STATUS=serving");
    // Nobody writes to it, so that whoever reads it would wait.
    let path = cluster.path("n1.toml");
    fs::remove_file(&path).unwrap();
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    signal("HUP", pid);
    signal("TERM", pid);
    let ended = until("the daemon ends", || daemon.child.try_wait().unwrap());
    assert!(ended.success());
}
