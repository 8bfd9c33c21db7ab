//! The daemon's drivers, in this process: configuration, handshakes, noise, links, limits, stops.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "drivers/checksums.rs"]
mod checksums;
#[path = "drivers/identity.rs"]
mod identity;
#[path = "drivers/secrets.rs"]
mod secrets;

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pixii::config::Config;
use pixii::engine::{self, ServeError};
use pixii_core::members::Incarnation;
use pixii_core::message::{
    Call, CallBody, Counter, Rejection, Reply, ReplyBody, Resource, Response, RingReport,
};
use pixii_core::ring::RingId;
use pixii_core::store::Store;
use pixii_core::store::memory::MemoryStore;
use pixii_core::types::{Blob, NodeId};
use pixii_core::wire::{self, Hello, Welcome};
use pixii_testkit::daemon::{Daemon, Faulty, Raw, config, config_text, get, put, values};
use pixii_testkit::{free_port, until};

// --- configuration ---

#[test]
fn a_configuration_has_defaults() {
    let config = Config::parse(
        "name = \"a\"\ncluster = \"c\"\ndata_dir = \"d\"\n\
         members = [{ name = \"a\", address = \"h:1\" }, { name = \"b\", address = \"h:2\" },\n\
         { name = \"x\", address = \"[::1]:3\" }]",
        Path::new("p.toml"),
    )
    .unwrap();
    assert_eq!((config.ring.n(), config.r, config.w, config.ring.partitions()), (3, 2, 2, 256));
    assert_eq!((config.cache_mib, &*config.log, &*config.listen), (None, "info", "127.0.0.1:7432"));
    assert_eq!(config.disk_reserve_mib, 256);
}

#[test]
fn the_example_configuration_is_one_and_shows_the_defaults() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("systemd/pixii.toml.example")).unwrap();
    let parse = |text: &str| format!("{:?}", Config::parse(text, Path::new("p.toml")).unwrap());
    let defaults = text.lines().map(|line| match line.strip_prefix('#') {
        Some(key) if !key.starts_with(' ') => key,
        _ => line,
    });
    let defaults: Vec<&str> = defaults.collect();
    assert!(defaults.len() > 20 && text.contains("#disk_reserve_mib"));
    assert_eq!(parse(&text), parse(&defaults.join("\n")));
}

#[test]
fn renamed_keys_are_taken_for_one_version_with_a_warning() {
    let good = config_text("n0", &[1, 2, 3], 0);
    let parse = |lines: &str| Config::parse(&format!("{lines}\n{good}"), Path::new("p.toml"));
    assert!(parse("allow_insecure_network = true").unwrap().warnings.is_empty());
    let old = parse("trusted_network = true\nhttp_beyond_loopback = true").unwrap();
    let sentence = "p.toml: trusted_network is called allow_insecure_network now";
    assert!(old.warnings[0].starts_with(sentence), "{:?}", old.warnings);
    assert_eq!(old.warnings.len(), 2);
    let both = parse("trusted_network = true\nallow_insecure_network = true").unwrap_err();
    assert!(both.to_string().contains("duplicate field"), "{both}");
    let open = good.replace("127.0.0.1:1", "0.0.0.0:1");
    let old = format!("trusted_network = true\n{open}");
    assert!(Config::parse(&old, Path::new("p.toml")).is_ok(), "it permits what it did");
}

#[test]
fn mistakes_in_a_configuration_are_named_in_one_sentence() {
    let good = config_text("n0", &[1, 2, 3], 0);
    let parse = |text: &str| Config::parse(text, Path::new("p.toml"));
    assert!(parse(&good).is_ok());
    let long = "x".repeat(65);
    let mistakes = [
        (
            "name = \"n0\"",
            "name = \"n9\"",
            "name = \"n9\": the node itself is not among [[members]]",
        ),
        ("name = \"n0\"", "name = \"\"", "name \"\": a name has 1 to 64"),
        ("cluster = \"test\"", &format!("cluster = \"{long}\""), "a name has 1 to 64 letters"),
        ("cluster = \"test\"", "clutter = \"test\"", "p.toml, line 2: unknown field `clutter`"),
        ("cluster = \"test\"\n", "", "missing field `cluster`"),
        ("data_dir = \"unused\"", "data_dir = \"\"", "data_dir = \"\""),
        ("data_dir = \"unused\"", "data_dir = 3", "p.toml, line 3: invalid type: integer `3`"),
        ("n = 3", "n = 8", "p.toml: n = 8: n is 1 to 7"),
        ("n = 3", "n = 300", "p.toml: n = 300: n is 1 to 7"),
        ("n = 3", "n = 5", "n = 5 replicas need as many members, and there are 3"),
        ("n = 3", "n = 3\nr = 0", "r = 0: r is 1 to 3"),
        ("n = 3", "n = 3\nw = 4", "w = 4: w is 1 to 3"),
        ("partitions = 16", "partitions = 5000", "partitions = 5000: partitions is 1 to 4096"),
        ("partitions = 16", "cache_mib = 0", "cache_mib = 0: cache_mib is 1 to 1048576"),
        ("partitions = 16", "disk_reserve_mib = -1", "disk_reserve_mib is 0 to 1048576"),
        ("partitions = 16", "log = \"a=b=c\"", "log = \"a=b=c\": that is no filter"),
        (
            "listen = \"127.0.0.1:1\"",
            "listen = \"0.0.0.0:1\"",
            "unless allow_insecure_network = true says",
        ),
        ("listen = \"127.0.0.1:1\"", "listen = \"[::1]:0\"", "port 1 to 65535"),
        ("listen = \"127.0.0.1:1\"", "listen = \"localhost\"", "an address is host:port"),
        ("name = \"n2\"", "name = \"n1\"", "members: \"n1\" is there twice"),
        ("127.0.0.1:3", "127.0.0.1:2", "members: \"n1\" and \"n2\" both have 127.0.0.1:2"),
        ("127.0.0.1:3", "nowhere", "members.address = \"nowhere\": an address is host:port"),
        ("n = 3", "n = = 3", "p.toml, line 4: "),
    ];
    for (from, to, stated) in mistakes {
        let text = good.replacen(from, to, 1);
        assert_ne!(text, good, "{from}");
        let error = parse(&text).expect_err(to).to_string();
        assert!(error.starts_with("p.toml") && error.contains(stated), "{to}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    let missing = Config::load(Path::new("no-such.toml")).unwrap_err().to_string();
    assert!(missing.starts_with("no-such.toml: No such file"), "{missing}");
}

// --- life ---

#[test]
fn a_daemon_serves_stops_cleanly_and_comes_back() {
    let store = Arc::new(Faulty::default());
    let daemon = Daemon::alone(store.clone());
    let mut client = daemon.client();
    let written = client.query(put("k", b"value"));
    assert!(matches!(written, Response::Written { siblings: 1, .. }), "{written:?}");
    assert_eq!(values(client.query(get("k"))), [Blob(b"value".as_slice().into())]);
    let ReplyBody::Ring(RingReport { members, ring, r: 1, w: 1, .. }) = client.call(CallBody::Ring)
    else {
        panic!("the ring")
    };
    assert_eq!(members.ids(), [NodeId::of("n0")]);
    assert_eq!((ring.version(), ring.n(), ring.partitions()), (1, 1, 16));
    let status = client.status();
    assert_eq!((status.incarnation.0, status.recovered, status.disk_bytes), (1, false, 4_711));
    assert_eq!((status.partitions, status.peers.len()), (16, 0));
    assert_eq!(client.call(CallBody::Stop), ReplyBody::Stopping);
    assert!(client.reply().is_none(), "the connection ends");
    daemon.ended().unwrap();
    assert!(store.meta().unwrap().unwrap().clean);

    let daemon = Daemon::alone(store.clone());
    let mut client = daemon.client();
    assert_eq!(values(client.query(get("k"))).len(), 1);
    let status = client.status();
    assert_eq!((status.incarnation.0, status.recovered), (2, false));
    daemon.query_to_stop();
    daemon.ended().unwrap();
}

#[test]
fn a_taken_port_is_one_sentence_and_leaves_the_store_clean() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let store = Arc::new(MemoryStore::default());
    let error = Daemon::start(&[port], 0, store.clone()).ended().unwrap_err().to_string();
    let stated = format!("cannot listen on 127.0.0.1:{port}: Address already in use");
    assert!(error.starts_with(&stated), "{error}");
    assert!(store.meta().unwrap().unwrap().clean);
}

#[test]
fn a_foreign_store_is_refused_and_left_alone() {
    let store = Arc::new(MemoryStore::default());
    let ports = [free_port(), free_port()];
    let daemon = Daemon::start(&ports, 0, store.clone());
    daemon.status();
    drop(daemon);
    let before = store.meta().unwrap();
    let error = Daemon::start(&ports, 1, store.clone()).ended().unwrap_err().to_string();
    assert!(error.contains("belongs to node n0 of cluster test, not to node n1"), "{error}");
    assert_eq!(store.meta().unwrap(), before);
}

#[test]
fn a_store_error_ends_the_daemon_with_its_reason_and_without_a_reply() {
    let store = Arc::new(Faulty::default());
    let daemon = Daemon::alone(store.clone());
    let mut client = daemon.client();
    client.query(put("a", b"1"));
    store.fail.store(true, Ordering::SeqCst);
    client.data(put("b", b"2"));
    client.send(CallBody::Ring);
    while let Some(reply) = client.reply() {
        assert!(matches!(reply.body, ReplyBody::Ring(_)), "{reply:?}");
    }
    let error = daemon.ended().unwrap_err();
    assert!(matches!(error, ServeError::Store(_)));
    assert_eq!(error.to_string(), "the store failed: fdatasync: Input/output error");
    assert!(!store.meta().unwrap().unwrap().clean);

    store.fail.store(false, Ordering::SeqCst);
    let daemon = Daemon::alone(store.clone());
    assert!(daemon.status().recovered);
    assert_eq!(values(daemon.client().query(get("a"))).len(), 1, "what was acknowledged is there");
}

#[test]
fn a_nearly_full_disk_refuses_writes_by_name_serves_reads_and_resumes_by_itself() {
    let store = Arc::new(Faulty::default());
    let daemon = Daemon::alone(store.clone());
    let mut client = daemon.client();
    client.query(put("a", b"1"));
    // The default reserve is 256 MiB. The writer looks before each batch, so the write that shows
    // the shortage is still taken.
    store.has_free(255 << 20);
    until("a rejection", || match client.query(put("b", b"2")) {
        Response::Refused(rejection) => Some(rejection),
        _ => None,
    });
    store.has_free(3);
    until("the newest number", || {
        let rejection = Rejection::NoSpace { free_bytes: 3, reserve_bytes: 256 << 20 };
        (client.query(put("b", b"2")) == Response::Refused(rejection)).then_some(())
    });
    assert_eq!(values(client.query(get("a"))), [Blob(b"1".as_slice().into())]);
    store.has_free(257 << 20);
    // Not enough: a sixteenth of the reserve on top is.
    assert!(matches!(client.query(put("c", b"3")), Response::Refused(Rejection::NoSpace { .. })));
    store.has_free(272 << 20);
    until("service", || {
        matches!(client.query(put("c", b"3")), Response::Written { .. }).then_some(())
    });

    // Full from the start.
    drop((client, daemon));
    store.has_free(0);
    let daemon = Daemon::alone(store.clone());
    let mut client = daemon.client();
    assert_eq!(values(client.query(get("c"))), [Blob(b"3".as_slice().into())]);
    until("a rejection", || {
        matches!(client.query(put("d", b"4")), Response::Refused(Rejection::NoSpace { .. }))
            .then_some(())
    });
}

#[test]
fn a_stop_lets_requests_finish_and_takes_no_new_ones() {
    let store = Arc::new(Faulty::default());
    let daemon = Daemon::alone(store.clone());
    let mut client = daemon.client();
    client.query(put("k", b"v"));
    store.hold(true);
    let first = client.data(get("k"));
    // Answered from memory, in the order of the calls: the read is in progress. A status would wait
    // behind it.
    client.call(CallBody::Ring);
    daemon.query_to_stop();
    until("the listener's end", || TcpStream::connect(("127.0.0.1", daemon.port)).err());
    let second = client.data(put("late", b"v"));
    let refused =
        Reply { id: second, body: ReplyBody::Data(Response::Refused(Rejection::Stopping)) };
    assert_eq!(client.reply(), Some(refused));
    store.hold(false);
    let reply = client.reply().unwrap();
    assert_eq!(reply.id, first);
    assert!(matches!(reply.body, ReplyBody::Data(Response::Found { .. })));
    assert!(client.reply().is_none());
    daemon.ended().unwrap();
    assert!(store.meta().unwrap().unwrap().clean);
}

// --- limits ---

#[test]
fn calls_in_flight_are_bounded_per_connection() {
    let store = Arc::new(Faulty::default());
    let daemon = Daemon::alone(store.clone());
    let mut client = daemon.client();
    store.hold(true);
    for i in 0..=engine::MAX_CALLS {
        client.data(get(&format!("k{i}")));
    }
    let busy = Rejection::Busy { what: Resource::ConnectionCalls, limit: 1_024 };
    let reply = client.reply().unwrap();
    assert_eq!(reply.body, ReplyBody::Data(Response::Refused(busy)));
    assert_eq!(reply.id, 1_025);
    store.hold(false);
    for _ in 0..engine::MAX_CALLS {
        assert!(matches!(client.reply().unwrap().body, ReplyBody::Data(Response::Found { .. })));
    }
    assert_eq!(client.status().count(Counter::CallsRefusedBusy), 1);
}

#[test]
fn replies_that_nobody_reads_are_bounded() {
    let daemon = Daemon::alone(Arc::new(MemoryStore::default()));
    let mut client = daemon.client();
    client.query(put("large", &vec![7; 1 << 20]));
    for _ in 0..100 {
        client.data(get("large"));
    }
    // Nothing is read before another client sees that the first one has been refused.
    until("a rejection", || (daemon.status().count(Counter::CallsRefusedBusy) > 0).then_some(()));
    let (mut found, mut refused) = (0, 0);
    for _ in 0..100 {
        match client.reply().unwrap().body {
            ReplyBody::Data(Response::Found { .. }) => found += 1,
            ReplyBody::Data(Response::Refused(Rejection::Busy { limit, .. })) => {
                assert_eq!(limit, 64 << 20);
                refused += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(found >= 50 && refused >= 20, "{found} found, {refused} refused");
    assert_eq!(values(client.query(get("large"))).len(), 1, "it is served again");
}

#[test]
fn a_call_id_that_is_in_flight_is_not_taken_twice() {
    let store = Arc::new(Faulty::default());
    let daemon = Daemon::alone(store.clone());
    let mut client = daemon.client();
    store.hold(true);
    client.data(get("k"));
    client.last = 0;
    client.data(get("k"));
    assert!(client.reply().is_none(), "the connection is closed");
    store.hold(false);
    daemon.status();
}

// --- strangers and noise ---

fn peer_hello(ports: &[u16], as_name: &str, to: &str) -> Hello {
    let at = as_name.trim_start_matches('n').parse::<usize>().ok();
    let port = at.and_then(|at| ports.get(at)).copied().unwrap_or(9);
    Hello::Member {
        cluster: "test".into(),
        ring: RingId { version: 1, digest: config(ports, 0).ring.digest() },
        node: NodeId::of(as_name),
        to: NodeId::of(to),
        incarnation: Incarnation(1),
        boot_nonce: 1,
        birth: 1,
        address: format!("127.0.0.1:{port}"),
    }
}

fn rejection(port: u16, bytes: &[u8]) -> String {
    let mut raw = Raw::connect(port);
    raw.send(bytes);
    match raw.welcome() {
        Welcome::Refused(why) => {
            assert!(raw.receive::<Welcome>().is_none(), "the connection ends");
            why
        }
        welcome => panic!("{welcome:?}"),
    }
}

#[test]
fn handshakes_that_do_not_fit_are_refused_with_a_reason() {
    let ports = [free_port(), free_port(), free_port()];
    let daemon = Daemon::start(&ports, 0, Arc::new(MemoryStore::default()));
    let port = ports[0];
    let hello = peer_hello(&ports, "n1", "n0");
    let greeting = |hello: &Hello| [&wire::preamble()[..], &wire::frame(hello)].concat();
    let changed = |change: fn(&mut String, &mut RingId, &mut NodeId)| {
        let mut hello = hello.clone();
        if let Hello::Member { cluster, ring, node, .. } = &mut hello {
            change(cluster, ring, node);
        }
        rejection(port, &greeting(&hello))
    };
    let http = rejection(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(http.contains("not a Pixii connection: it begins with \"GET / HT\""), "{http}");
    let mut future = wire::preamble();
    future[8..].copy_from_slice(&[0, 10, 0, 11]);
    let future = rejection(port, &[&future[..], &wire::frame(&hello)].concat());
    assert!(future.contains("protocol versions 10 to 11 are offered"), "{future}");
    let cluster = changed(|cluster, _, _| *cluster = "o\n".repeat(300));
    assert!(cluster.contains("node n0 is of cluster \"test\", not \"o\\no\\n"), "{cluster}");
    let ring = changed(|_, ring, _| ring.digest += 1);
    assert!(ring.contains("differ between the configurations of n0 and n1"), "{ring}");
    let stranger = changed(|_, _, node| *node = NodeId::of("n9"));
    assert!(stranger.contains("is not among the members that node n0"), "{stranger}");
    let own = changed(|_, _, node| *node = NodeId::of("n0"));
    assert!(own.contains("node n0 was dialed by its own name"), "{own}");
    let other = rejection(port, &greeting(&peer_hello(&ports, "n1", "n2")));
    assert!(other.contains("this is node n0, not the one dialed"), "{other}");
    let long = (2_000u32).to_be_bytes();
    let long = rejection(port, &[&wire::preamble()[..], &long].concat());
    assert!(long.contains("a frame of 2000 bytes; the limit here is 1024"), "{long}");
    assert_eq!(daemon.status().name, "n0");
}

#[test]
fn noise_closes_its_connection_and_nothing_else() {
    let ports = [free_port(), free_port(), free_port()];
    let daemon = Daemon::start(&ports, 0, Arc::new(MemoryStore::default()));
    let mut bystander = daemon.client();
    let call = wire::frame(&Call { id: 1, body: CallBody::Status }).to_vec();
    let mut corrupt = call.clone();
    *corrupt.last_mut().unwrap() ^= 1;
    let oversize = [&u32::MAX.to_be_bytes()[..], &[0; 64]].concat();
    let tiny = [&1u32.to_be_bytes()[..], &[0; 64]].concat();
    let nonsense = wire::frame(&(255u8, 255u8, 255u8)).to_vec();
    let mut rng = pixii_core::rng::Rng::new(11);
    let random: Vec<u8> = (0..4_096).map(|_| rng.next_u64() as u8).collect();
    let mut hellos = vec![Hello::Client, peer_hello(&ports, "n1", "n0")];
    for hello in hellos.drain(..) {
        for noise in [&corrupt, &oversize, &tiny, &nonsense, &random] {
            let mut raw = Raw::connect(ports[0]);
            raw.greet(&hello);
            assert!(matches!(raw.welcome(), Welcome::Accepted { .. }));
            raw.send(noise);
            assert!(raw.receive::<Reply>().is_none(), "the connection is closed");
        }
        // Cut off inside a frame, and inside the handshake.
        let mut raw = Raw::connect(ports[0]);
        raw.greet(&hello);
        assert!(matches!(raw.welcome(), Welcome::Accepted { .. }));
        raw.send(&call[..call.len() / 2]);
        drop(raw);
    }
    Raw::connect(ports[0]).send(&wire::preamble()[..7]);
    drop(Raw::connect(ports[0]));
    assert_eq!(bystander.status().name, "n0", "a client from before is served on");
    assert_eq!(daemon.status().name, "n0", "and so is a new one");
}

// --- links ---

/// Plays the node that is dialed: accepts and lets the daemon in.
fn accept_as(listener: &TcpListener, name: &str) -> Raw {
    let mut raw = Raw::on(listener.accept().unwrap().0);
    raw.preamble();
    let hello: Hello = raw.receive().unwrap();
    assert!(matches!(hello, Hello::Member { to, .. } if to == NodeId::of(name)));
    let welcome = Welcome::Accepted { cluster: "test".into(), name: name.into() };
    raw.send(&[&wire::preamble()[..], &wire::frame(&welcome)].concat());
    raw
}

fn wait_for_link(daemon: &Daemon, name: &str, up: bool) {
    let mut client = daemon.client();
    until(&format!("{name} up: {up}"), || {
        let status = client.status();
        status.peers.iter().any(|peer| peer.name == name && peer.up == up).then_some(())
    });
}

#[test]
fn a_broken_link_is_noticed_and_made_again() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ports = [free_port(), listener.local_addr().unwrap().port()];
    let daemon = Daemon::start(&ports, 0, Arc::new(MemoryStore::default()));
    let link = accept_as(&listener, "n1");
    wait_for_link(&daemon, "n1", true);
    drop(link);
    let mut link = accept_as(&listener, "n1");
    wait_for_link(&daemon, "n1", true);
    link.send(b"this side only listens");
    let link = accept_as(&listener, "n1");
    wait_for_link(&daemon, "n1", true);
    drop((link, listener));
    wait_for_link(&daemon, "n1", false);
    let listener = until("the port", || TcpListener::bind(("127.0.0.1", ports[1])).ok());
    let link = accept_as(&listener, "n1");
    wait_for_link(&daemon, "n1", true);
    // The wrong node at the right address is no link.
    drop(link);
    accept_as_other(&listener);
    wait_for_link(&daemon, "n1", false);
}

fn accept_as_other(listener: &TcpListener) {
    let mut raw = Raw::on(listener.accept().unwrap().0);
    raw.preamble();
    raw.receive::<Hello>().unwrap();
    let welcome = Welcome::Accepted { cluster: "test".into(), name: "n7".into() };
    raw.send(&[&wire::preamble()[..], &wire::frame(&welcome)].concat());
    assert!(raw.receive::<Welcome>().is_none(), "it goes away");
}

#[test]
fn a_newer_connection_of_a_peer_replaces_the_older() {
    let ports = [free_port(), free_port()];
    let daemon = Daemon::start(&ports, 0, Arc::new(MemoryStore::default()));
    let hello = peer_hello(&ports, "n1", "n0");
    let connect = || {
        let mut raw = Raw::connect(ports[0]);
        raw.greet(&hello);
        assert!(matches!(raw.welcome(), Welcome::Accepted { .. }));
        raw
    };
    let (mut older, mut newer) = (connect(), connect());
    assert!(older.receive::<Reply>().is_none(), "the older one is closed");
    newer.stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let mut byte = [0];
    let kept = newer.stream.read(&mut byte).unwrap_err().kind();
    assert_eq!(kept, std::io::ErrorKind::WouldBlock, "the newer one is kept");
    assert_eq!(daemon.status().name, "n0");
}

#[test]
fn three_nodes_serve_with_one_down_and_take_it_back() {
    let ports = [free_port(), free_port(), free_port()];
    let stores: Vec<_> = (0..3).map(|_| Arc::new(MemoryStore::default())).collect();
    let start = |at: usize| Daemon::start(&ports, at, stores[at].clone());
    let (a, b, c) = (start(0), start(1), start(2));
    for (daemon, peer) in [(&a, "n1"), (&a, "n2"), (&b, "n0"), (&b, "n2"), (&c, "n0"), (&c, "n1")] {
        wait_for_link(daemon, peer, true);
    }
    let serves = |daemon: &Daemon| until("it serves", || daemon.status().serving.then_some(()));
    [&a, &b, &c].into_iter().for_each(serves);
    let written = a.client().query(put("k", b"v"));
    assert!(matches!(written, Response::Written { .. }), "{written:?}");
    for daemon in [&a, &b, &c] {
        assert_eq!(values(daemon.client().query(get("k"))).len(), 1);
    }
    c.query_to_stop();
    c.ended().unwrap();
    wait_for_link(&a, "n2", false);
    let large = a.client().query(put("large", &vec![9; 1 << 20]));
    assert!(matches!(large, Response::Written { .. }), "{large:?}");
    assert_eq!(values(b.client().query(get("large")))[0].0.len(), 1 << 20);
    let c = start(2);
    for (daemon, peer) in [(&a, "n2"), (&b, "n2"), (&c, "n0"), (&c, "n1")] {
        wait_for_link(daemon, peer, true);
    }
    serves(&c);
    assert_eq!(values(c.client().query(get("k"))).len(), 1);
    assert_eq!(c.status().incarnation.0, 2);
}

#[test]
fn a_client_that_closes_its_sending_half_still_gets_its_answers() {
    let daemon = Daemon::alone(Arc::new(MemoryStore::default()));
    let mut client = daemon.client();
    let ids: Vec<u64> = (0..20).map(|n| client.data(put(&format!("k{n}"), b"v"))).collect();
    client.close_sending();
    let mut answered: Vec<u64> = ids.iter().map(|_| client.reply().expect("a reply").id).collect();
    answered.sort_unstable();
    assert_eq!(answered, ids);
    assert!(client.reply().is_none(), "and then the connection ends");
    // One that asks nothing more and waits for nothing is let go of at once.
    let mut idle = daemon.client();
    idle.close_sending();
    assert!(idle.reply().is_none());
}
