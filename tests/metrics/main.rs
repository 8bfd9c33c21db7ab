//! Those who only look: metrics and health over HTTP, and what they may not disturb.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod openmetrics;
mod stalls;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use pixii::config::Config;
use pixii_core::message::Request;
use pixii_core::store::Store;
use pixii_core::store::memory::MemoryStore;
use pixii_testkit::daemon::{Daemon, Faulty, config_text, get, key, put};
use pixii_testkit::{free_port, until};

use openmetrics::Samples;

/// A daemon with an HTTP port; the other members of `nodes` are not there.
struct Watched {
    daemon: Daemon,
    http: u16,
}

impl Watched {
    fn start(nodes: usize, lines: &str, bootstrap: bool, store: Arc<dyn Store>) -> Self {
        let ports: Vec<u16> = (0..nodes).map(|_| free_port()).collect();
        Watched::with(&ports, lines, bootstrap, store)
    }

    /// The first of the members on these ports.
    fn on(ports: &[u16]) -> Self {
        Watched::with(ports, "", false, Arc::new(MemoryStore::default()))
    }

    fn with(ports: &[u16], lines: &str, bootstrap: bool, store: Arc<dyn Store>) -> Self {
        let http = free_port();
        let text =
            format!("http_listen = \"127.0.0.1:{http}\"\n{lines}\n{}", config_text("n0", ports, 0));
        let mut config = Config::parse(&text, Path::new("test.toml")).unwrap();
        config.bootstrap = bootstrap;
        Watched { daemon: Daemon::with(config, ports[0], store), http }
    }

    /// Alone, and ready.
    fn alone(store: Arc<dyn Store>) -> Self {
        let watched = Watched::start(1, "", false, store);
        until("a node that is ready", || (watched.look("/readyz").0 == 200).then_some(()));
        watched
    }

    fn say(&self, bytes: &[u8]) -> TcpStream {
        let connect = || TcpStream::connect(("127.0.0.1", self.http)).ok();
        let mut stream = until("the port", connect);
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(bytes).unwrap();
        stream
    }

    fn answer(&self, bytes: &[u8]) -> String {
        let mut answer = String::new();
        self.say(bytes).read_to_string(&mut answer).unwrap();
        answer
    }

    /// The status and the body.
    fn look(&self, path: &str) -> (u16, String) {
        let answer =
            self.answer(format!("GET {path} HTTP/1.1\r\nHost: here\r\n{ACCEPT}\r\n").as_bytes());
        let (head, body) = answer.split_once("\r\n\r\n").expect(&answer);
        let length = format!("Content-Length: {}\r\n", body.len());
        assert!(head.contains(&length) && head.contains("Connection: close"), "{head}");
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    fn samples(&self) -> Samples {
        let (status, text) = self.look("/metrics");
        assert_eq!(status, 200, "{text}");
        openmetrics::read(&text).unwrap_or_else(|fault| panic!("{fault}\nin\n{text}"))
    }

    /// Waits until the metrics are like this.
    fn wait(&self, what: &str, holds: impl Fn(&Samples) -> bool) -> Samples {
        until(what, || Some(self.samples()).filter(&holds))
    }
}

/// What Prometheus says that it reads.
const ACCEPT: &str = "ACCEPT: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n";

fn requests(kind: &str, outcome: &str) -> String {
    format!("pixii_request_duration_seconds_count{{kind={kind:?},outcome={outcome:?}}}")
}

#[test]
fn who_does_not_query_for_openmetrics_gets_the_text_of_prometheus() {
    let watched = Watched::alone(Arc::new(Faulty::default()));
    for accept in ["", "Accept: */*\r\n", "Accept: text/plain;version=0.0.4\r\n"] {
        let answer = watched.answer(format!("GET /metrics HTTP/1.1\r\n{accept}\r\n").as_bytes());
        let (head, body) = answer.split_once("\r\n\r\n").expect(&answer);
        assert!(head.contains("Content-Type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
        assert!(body.contains("# TYPE pixii_build_info gauge\n"), "{body}");
        assert!(!body.contains("# EOF") && !body.contains("# UNIT"), "{body}");
        let counter = "# TYPE pixii_peer_messages_dropped_total counter\n";
        assert!(body.contains(counter), "{body}");
    }
}

#[test]
fn the_metrics_are_well_formed_and_move_with_requests() {
    let store = Arc::new(Faulty::default());
    store.has_free(300 << 20);
    let watched = Watched::alone(store);
    let answer = watched.answer(format!("GET /metrics?x HTTP/1.1\r\n{ACCEPT}\r\n").as_bytes());
    let kind = "Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n";
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains(kind), "{answer}");
    let before = watched.samples();
    assert_eq!(before.of("pixii_ready"), 1.0);
    assert_eq!(before.of("pixii_store_size_bytes"), 4_711.0);
    assert_eq!(before.of("pixii_disk_free_bytes"), f64::from(300 << 20));
    assert_eq!(before.of("pixii_node_info{cluster=\"test\",name=\"n0\"}"), 1.0);
    assert!(before.0.keys().any(|name| name.starts_with("pixii_build_info{commit=")));
    assert_eq!(before.of(&requests("put", "done")), 0.0);

    let mut client = watched.daemon.client();
    for name in ["a", "b", "c"] {
        client.query(put(name, b"1"));
    }
    client.query(get("a"));
    client.query(get("nowhere"));
    client.query(Request::Delete { key: key("a"), context: None, w: None.into() });
    client.query(Request::Get { key: key("a"), r: Some(9).into() });
    let after = watched.wait("the requests", |now| now.of(&requests("get", "refused")) > 0.0);
    for (kind, outcome, count) in [
        ("put", "done", 3.0),
        ("get", "done", 1.0),
        ("get", "absent", 1.0),
        ("get", "refused", 1.0),
        ("delete", "refused", 1.0),
    ] {
        assert_eq!(after.of(&requests(kind, outcome)), count, "{kind} {outcome}");
    }
    assert_eq!(after.of("pixii_requests_refused_total{kind=\"delete\",reason=\"request\"}"), 1.0);
    assert_eq!(after.of("pixii_get_siblings_count"), 2.0);
    assert_eq!(after.of("pixii_get_siblings_sum"), 1.0);
    assert_eq!(after.of("pixii_clients"), 1.0);
    let synced = "pixii_store_sync_duration_seconds_count";
    assert!(after.of(synced) >= before.of(synced) + 3.0);
    assert_eq!(after.of("pixii_events_total{event=\"puts_acknowledged\"}"), 3.0);
    let (status, text) = watched.look("/");
    assert_eq!(status, 200);
    assert!(text.starts_with("node n0 of cluster test, incarnation 1, up for "), "{text}");
    assert!(text.contains(": ready\n") && text.contains("; answered since the start: "), "{text}");
    assert!(text.contains("3 put done ("), "{text}");
}

#[test]
fn what_is_kept_for_a_member_that_is_away_shows_and_it_is_not_marked_up() {
    let store = Arc::new(MemoryStore::default());
    let lines = "w = 1\nr = 1\ngossip_interval_ms = 10";
    let watched = Watched::start(2, lines, true, store);
    until("a node that serves", || watched.daemon.status().serving.then_some(()));
    let mut client = watched.daemon.client();
    for number in 0..10 {
        client.query(put(&format!("k{number}"), b"some bytes"));
    }
    let of_n1 = |name: &str| format!("{name}{{peer=\"n1\"}}");
    let down = "pixii_peer_liveness{peer=\"n1\",pixii_peer_liveness=\"down\"}";
    let now = watched.wait("hints for n1, which is down", |now| {
        now.of(&of_n1("pixii_hints")) == 10.0 && now.of(down) == 1.0
    });
    assert!(now.of(&of_n1("pixii_hint_bytes")) > 100.0);
    assert_eq!(now.of(&of_n1("pixii_peer_link_up")), 0.0);
    assert_eq!(now.of(&of_n1("pixii_shared_partitions")), 16.0);
    assert_eq!(now.of(&of_n1("pixii_equal_partitions")), 0.0);
    assert!(
        !now.0.contains_key(&of_n1("pixii_repair_last_success_timestamp_seconds")),
        "they were never equal"
    );
    let older = of_n1("pixii_hint_age_seconds");
    let first = now.of(&older);
    watched.wait("hints get older", |now| now.of(&older) > first);
    let (_, text) = watched.look("/");
    assert!(text.contains("peer n1: link down, marked down, 10 hints of "), "{text}");
}

#[test]
fn readiness_says_why_not() {
    // Two members, one of which never answers, and no founding without it.
    let watched = Watched::start(2, "", false, Arc::new(MemoryStore::default()));
    let cluster = "\ncluster: 16 of 16 partitions of this node cannot be read and written: too few \
                   of their other owners are up\n";
    let with_cluster = |why: &str| format!("not ready: {why}{cluster}");
    let why = with_cluster("the node is starting: it has heard from 0 of 1 other members");
    until("a node that starts", || (watched.look("/readyz") == (503, why.clone())).then_some(()));
    assert_eq!(watched.look("/livez"), (200, "alive\n".into()));
    assert_eq!(watched.samples().of("pixii_ready"), 0.0);

    // Founded without the other one, it takes writes, and nobody can say whether its disk is the
    // newest.
    let watched = Watched::start(2, "", true, Arc::new(MemoryStore::default()));
    let why =
        with_cluster("no other member has answered since the start: it counts in no read before");
    until("a node on its own", || (watched.look("/readyz") == (503, why.clone())).then_some(()));

    let store = Arc::new(Faulty::default());
    store.has_free(1 << 40);
    let watched = Watched::alone(store.clone());
    assert_eq!(watched.look("/readyz"), (200, "ready\n".into()));
    store.has_free(3);
    let mut client = watched.daemon.client();
    let why =
        "not ready: serving reads only: its disk has 3 bytes left and keeps 268435456 in reserve\n";
    until("a short disk", || {
        client.query(put("k", b"v"));
        (watched.look("/readyz") == (503, why.into())).then_some(())
    });
    assert_eq!(watched.look("/livez").0, 200);
    store.has_free(1 << 40);
    until("room", || (watched.look("/readyz").0 == 200).then_some(()));

    // A request in progress holds up a stop, and the port says so as long as it lasts.
    store.hold(true);
    client.data(get("elsewhere"));
    watched.wait("the request", |now| now.of("pixii_requests_in_flight") == 1.0);
    watched.daemon.query_to_stop();
    let why = "not ready: stopping\n";
    until("the stop", || (watched.look("/readyz") == (503, why.into())).then_some(()));
    store.hold(false);
    watched.daemon.ended().unwrap();
}

#[test]
fn looking_waits_for_no_thread_of_the_store() {
    let store = Arc::new(Faulty::default());
    let watched = Watched::alone(store.clone());
    store.hold(true);
    let mut client = watched.daemon.client();
    let waiting = client.data(get("k"));
    let now = watched.wait("the read", |now| now.of("pixii_requests_in_flight") == 1.0);
    assert_eq!(now.of("pixii_queue_length{queue=\"store_reads\"}"), 1.0);
    // The read waits for its thread, and a status does not wait for the read.
    assert_eq!(watched.daemon.status().disk_bytes, 4_711);
    assert_eq!(watched.look("/livez").0, 200);
    store.hold(false);
    assert_eq!(client.reply().unwrap().id, waiting);
}

#[test]
fn odd_requests_are_answered_and_slow_ones_hold_up_nobody() {
    let watched = Watched::alone(Arc::new(MemoryStore::default()));
    let line = "x".repeat(9_000);
    for (request, status, stated) in [
        ("GET /nowhere HTTP/1.1\r\n\r\n", 404, "there are /, /metrics, /livez and /readyz"),
        ("POST /metrics HTTP/1.1\r\n\r\n", 405, "GET and HEAD only"),
        ("GET /metrics HTTP/2.0\r\n\r\n", 505, "HTTP/1.1 is spoken here"),
        ("GET http://h/metrics HTTP/1.1\r\n\r\n", 400, "a path begins with a slash"),
        ("GET /metrics\r\n\r\n", 400, "a request line is METHOD PATH HTTP/1.1"),
        ("PIXII\r\n\x1a\r\n\r\n", 400, "a request line is METHOD PATH HTTP/1.1"),
        ("\x16\x03\x01", 400, "printable ASCII only, not byte 0x16"),
        (&format!("GET /{line}"), 431, "the head of a request has at most 8192 bytes"),
        (&format!("GET / HTTP/1.1\r\nx: {line}\r\n\r\n"), 431, "at most 8192 bytes"),
    ] {
        let answer = watched.answer(request.as_bytes());
        let begin = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&begin) && answer.contains(stated), "{request}: {answer}");
    }
    let head = watched.answer(b"HEAD /readyz HTTP/1.0\r\n\r\n");
    let expected = "Content-Length: 6\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n";
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with(expected), "{head}");

    // More than the port has places for, and all of one address.
    let slow: Vec<TcpStream> = (0..200).map(|_| watched.say(b"GET /metr")).collect();
    assert_eq!(watched.look("/readyz").0, 200);
    // The oldest was cut to make room; one that is only late is notified.
    let mut reported = Vec::new();
    let _ = (&slow[0]).read_to_end(&mut reported);
    assert!(reported.is_empty(), "{}", String::from_utf8_lossy(&reported));
}

#[test]
fn a_port_beyond_loopback_is_a_decision_and_a_taken_one_a_sentence() {
    let good = config_text("n0", &[1, 2, 3], 0);
    let parse = |lines: &str| {
        let parsed = Config::parse(&format!("{lines}\n{good}"), Path::new("p.toml"));
        parsed.map_err(|error| error.to_string())
    };
    assert_eq!(parse("").unwrap().http_listen, None);
    assert!(!parse("").unwrap().log_json);
    assert!(parse("log = \"warn,pixii::net=debug\"").is_ok());
    assert!(parse("http_listen = \"[::1]:7480\"\nlog_format = \"json\"").unwrap().log_json);
    assert!(parse("http_listen = \"0.0.0.0:7480\"\nhttp_beyond_loopback = true").is_ok());
    for (lines, stated) in [
        ("http_listen = \"0.0.0.0:7480\"", "unless http_allow_remote = true says"),
        ("http_listen = \"7480\"", "http_listen = \"7480\": an address is host:port"),
        ("http_listen = \"127.0.0.1:1\"", "that is the port of listen already"),
        (
            "log = \"warning\"",
            "log = \"warning\": \"warning\" is no level; it is error, warn, info,",
        ),
        ("log = \"\"", "log = \"\": \"\" is no level"),
        ("log = \"info,pixii::net=loud\"", "log = \"info,pixii::net=loud\": that is no filter"),
        ("log_format = \"xml\"", "log_format = \"xml\": log_format is \"text\" or \"json\""),
    ] {
        let error = parse(lines).unwrap_err();
        assert!(error.contains(stated) && error.lines().count() == 1, "{error}");
    }

    let watched = Watched::alone(Arc::new(MemoryStore::default()));
    let port = free_port();
    let lines = format!("http_listen = \"127.0.0.1:{}\"\n", watched.http);
    let text = format!("{lines}{}", config_text("n0", &[port], 0));
    let config = Config::parse(&text, Path::new("test.toml")).unwrap();
    let second = Daemon::with(config, port, Arc::new(MemoryStore::default()));
    let error = second.ended().unwrap_err().to_string();
    let stated = format!("cannot listen on 127.0.0.1:{}: Address already in use", watched.http);
    assert!(error.starts_with(&stated), "{error}");
}

/// A process that ends with its test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a daemon logs from its start until it serves; then it is stopped.
fn log(lines: &str) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("n0.toml");
    let data = dir.path().join("data");
    let text = config_text("n0", &[free_port()], 0).replace("unused", &data.to_string_lossy());
    std::fs::write(&file, format!("{lines}\n{text}")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pixii"));
    command.args(["server", "--follow-stdin", "--config"]).arg(&file);
    let child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut process = Process(child);
    let stderr = BufReader::new(process.0.stderr.take().unwrap());
    let mut lines = Vec::new();
    for line in stderr.lines() {
        lines.push(line.unwrap());
        if lines.last().unwrap().contains("node n0 serves") {
            drop(process.0.stdin.take());
        }
    }
    assert!(process.0.wait().unwrap().success(), "{lines:?}");
    lines
}

#[test]
fn the_log_is_sentences_or_objects_with_the_parts_of_them() {
    let text = log("");
    assert!(text.iter().any(|line| line.ends_with(" INFO node n0 serves")), "{text:?}");
    let objects = log("log_format = \"json\"");
    let objects: Vec<serde_json::Value> =
        objects.iter().map(|line| serde_json::from_str(line).expect(line)).collect();
    let serves = objects.iter().find(|object| object["event"] == "serves").unwrap();
    assert_eq!((&serves["message"], &serves["level"]), (&"node n0 serves".into(), &"INFO".into()));
}
