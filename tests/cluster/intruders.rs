//! Bad input from all sides: one sentence each, and the daemon goes on, or does not start.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use bytes::BytesMut;
use pixii_core::members::Incarnation;
use pixii_core::ring::RingId;
use pixii_core::types::NodeId;
use pixii_core::wire::{self, Hello, MAX_FRAME_BYTES, PREAMBLE_BYTES, Welcome};
use pixii_testkit::cluster::{Finished, Run, TestCluster, pixii};
use pixii_testkit::{DEADLINE, until};

/// What a daemon answers to these first bytes; `None` when it closes without an answer.
fn welcome(cluster: &TestCluster, bytes: &[u8]) -> Option<Welcome> {
    let mut stream = TcpStream::connect(cluster.address("n1")).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    let _ = stream.shutdown(std::net::Shutdown::Write);
    // Cut or closed, what came before counts.
    let _ = stream.read_to_end(&mut answer);
    let mut rest = BytesMut::from(answer.get(PREAMBLE_BYTES..)?);
    let frame = wire::take_frame(&mut rest, MAX_FRAME_BYTES).unwrap()?;
    Some(wire::decode(&frame).unwrap())
}

fn rejection(cluster: &TestCluster, bytes: &[u8]) -> String {
    match welcome(cluster, bytes) {
        Some(Welcome::Refused(why)) => why,
        other => panic!("{other:?}"),
    }
}

fn opening(hello: &Hello) -> Vec<u8> {
    [&wire::preamble()[..], &wire::frame(hello)].concat()
}

#[test]
fn noise_on_the_port_is_refused_or_cut_off_and_the_daemon_goes_on() {
    let cluster = TestCluster::start(1);
    cluster.run(&["put", "k", "v"]).done();
    let pid = cluster.pid("n1");

    let http = rejection(&cluster, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(http, "not a Pixii connection: it begins with \"GET / HT\"");
    let future = [&wire::MAGIC[..], &[0, 10, 0, 11], &wire::frame(&Hello::Client)].concat();
    let sentence = "protocol versions 10 to 11 are offered; this node speaks 6 to 9";
    assert_eq!(rejection(&cluster, &future), sentence);
    let huge = [&wire::preamble()[..], &u32::MAX.to_be_bytes()].concat();
    assert_eq!(rejection(&cluster, &huge), "a frame of 4294967295 bytes; the limit here is 1024");
    let peer = |cluster: &str| Hello::Member {
        cluster: cluster.into(),
        ring: RingId { version: 1, digest: 1 },
        node: NodeId::of("n2"),
        to: NodeId::of("n1"),
        incarnation: Incarnation(1),
        boot_nonce: 1,
        birth: 1,
        address: "127.0.0.1:9".into(),
    };
    let sentence = "node n1 is of cluster \"test\", not \"other\"";
    assert_eq!(rejection(&cluster, &opening(&peer("other"))), sentence);
    assert!(rejection(&cluster, &opening(&peer("test"))).contains("is not among the members"));

    // Behind a good handshake there is nobody to tell but the log.
    let frame = wire::frame(&Hello::Client);
    let mut altered = frame.to_vec();
    *altered.last_mut().unwrap() ^= 1;
    let noises: [(&[u8], &str); 5] = [
        (&[0xff; 64], "a frame of 4294967295 bytes; the limit here is 8388608"),
        (&[0, 0, 0, 3], "a frame of 3 bytes; the limit here is 8388608"),
        (&[0, 0, 4, 0, 1, 2, 3], "it ended inside a frame, after 7 bytes of it"),
        (&altered, "fails its checksum"),
        (&frame, "is not a message: "),
    ];
    for (noise, sentence) in noises {
        let answer = welcome(&cluster, &[&opening(&Hello::Client)[..], noise].concat());
        assert!(matches!(answer, Some(Welcome::Accepted { .. })), "{answer:?}");
        until(sentence, || cluster.log("n1").contains(sentence).then_some(()));
    }
    let mut random = pixii_core::rng::Rng::new(4_711);
    for _ in 0..50 {
        let noise: Vec<u8> = (0..40).flat_map(|_| random.next_u64().to_be_bytes()).collect();
        assert!(matches!(welcome(&cluster, &noise), Some(Welcome::Refused(_))), "seed 4711");
    }
    assert_eq!((cluster.run(&["get", "k"]).done(), cluster.pid("n1")), ("v", pid));
}

#[test]
fn bad_requests_are_refused_with_the_limit() {
    let cluster = TestCluster::start(3);
    cluster.run(&["put", "k", "v"]).done();
    let context = cluster.run(&["get", "k", "--print-context"]).done().trim().to_string();
    let last = if context.ends_with('0') { "1" } else { "0" };
    let tampered = &*format!("{}{last}", &context[..context.len() - 1]);
    let altered =
        "the context does not belong to this key or was altered: read the key for a new one";
    let long = &*"k".repeat(1_025);
    let key = "the key has 1025 bytes; a key has 1 to 1024";
    let refused: [(&[&str], &str); 12] = [
        (&["put", "k", "x", "--context", tampered], altered),
        (&["put", "k", "x", "--context", &context[..8]], altered),
        (&["put", "k", "x", "--context", ""], altered),
        (&["delete", "k", "--context", tampered], altered),
        (&["put", "other", "x", "--context", &context], altered),
        (&["put", long, "x"], key),
        (&["get", long], key),
        (&["get", ""], "the key has 0 bytes; a key has 1 to 1024"),
        (&["put", "k", "x", "-w", "4"], "w = 4: n is 3 in this cluster, so w is 1 to 3"),
        (&["get", "k", "-r", "4"], "r = 4: n is 3 in this cluster, so r is 1 to 3"),
        (&["get", "k", "-r", "0"], "r = 0: n is 3 in this cluster, so r is 1 to 3"),
        (&["delete", "k", "-w", "9"], "w = 9: n is 3 in this cluster, so w is 1 to 3"),
    ];
    for (arguments, sentence) in refused {
        let reported = cluster.run(arguments);
        assert_eq!(reported.stated(), (1, &*format!("pixii: {sentence}\n")), "{arguments:?}");
    }
    let reported = cluster.fed(&["put", "k", "-"], &vec![0; (1 << 20) + 1]);
    let sentence =
        "pixii: standard input has more than 1048576 bytes; a value has at most 1048576\n";
    assert_eq!(reported.stated(), (1, sentence));
    let line = [b"k\t", &vec![b'x'; (1 << 20) + 1][..]].concat();
    let reported = cluster.fed(&["load", "-"], &line);
    let sentence = "refused 1: the value has 1048577 bytes; a value has at most 1048576\n";
    assert!(reported.code == 1 && reported.out.contains(sentence), "{reported:?}");
    assert_eq!(cluster.run(&["get", "k"]).done(), "v", "nothing has changed");
}

/// Tries to start a daemon with this configuration, and gives its last words. Exit code 2 says that
/// only an operator can help, 1 that a later start may go well.
fn refuses_to_start(cluster: &TestCluster, text: &str, exit: i32) -> String {
    let path = cluster.path("try.toml");
    fs::write(&path, text).unwrap();
    let command = pixii(&["server", "--config", path.to_str().unwrap()]);
    let Finished { code, out, err, .. } = Run::start(command, b"").end();
    assert_eq!((code, &*out), (exit, ""), "{err}");
    let last = err.lines().last().unwrap();
    let stated = err.lines().filter(|line| line.starts_with("pixii: ")).count();
    assert_eq!(stated, 1, "one sentence: {err}");
    assert!(!err.contains("panicked"), "{err}");
    last.strip_prefix("pixii: ").unwrap_or_else(|| panic!("{err}")).to_string()
}

#[test]
fn a_daemon_that_cannot_start_says_why_and_touches_nothing() {
    let mut cluster = TestCluster::start(1);
    cluster.run(&["put", "k", "v"]).done();
    let good = fs::read_to_string(cluster.path("n1.toml")).unwrap();
    let data = fs::canonicalize(cluster.path("n1")).unwrap().display().to_string();
    let with = |from: &str, to: &str| {
        assert!(good.contains(from), "{from} in {good}");
        good.replace(from, to)
    };
    let config = cluster.path("try.toml").display().to_string();

    let typo = refuses_to_start(&cluster, &with("partitions = ", "partitons = "), 2);
    let begin = format!("{config}, line 8: unknown field `partitons`, expected one of `name`, ");
    assert!(typo.starts_with(&begin), "{typo}");
    let in_use = refuses_to_start(&cluster, &good, 1);
    let sentence = format!("the data directory {data} is in use by process {}", cluster.pid("n1"));
    assert_eq!(in_use, sentence);
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let held = port.local_addr().unwrap().to_string();
    let busy = with(cluster.address("n1"), &held).replace(&data, &format!("{data}-new"));
    let stated = refuses_to_start(&cluster, &busy, 1);
    assert!(stated.starts_with(&format!("cannot listen on {held}: ")), "{stated}");
    drop(port);
    assert_eq!(cluster.run(&["get", "k"]).done(), "v", "the daemon that runs has noticed nothing");

    cluster.cluster.stop("n1").unwrap();
    let foreign = cluster.path("letters");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("letter.txt"), "dear").unwrap();
    let stated = refuses_to_start(&cluster, &with(&data, foreign.to_str().unwrap()), 2);
    assert!(
        stated.ends_with(
            "holds \"letter.txt\" and no FORMAT file: it is no data directory, and a new one is \
             made only where there is nothing"
        ),
        "{stated}"
    );
    assert_eq!(fs::read_dir(&foreign).unwrap().count(), 1);
    let other = refuses_to_start(&cluster, &with("cluster = \"test\"", "cluster = \"best\""), 2);
    let sentence = "the data belongs to node n1 of cluster test, not to node n1 of cluster best";
    assert!(other.ends_with(sentence), "{other}");
    let partitions = refuses_to_start(&cluster, &with("partitions = 64", "partitions = 32"), 2);
    assert!(partitions.contains("are fixed when a cluster is created"), "{partitions}");
    let format = cluster.path("n1").join("FORMAT");
    let ours = fs::read(&format).unwrap();
    fs::write(&format, "rocks 9\n").unwrap();
    let stated = refuses_to_start(&cluster, &good, 2);
    let begin =
        format!("the data directory {data} has the format \"rocks 9\"; this program reads ");
    assert!(stated.starts_with(&begin), "{stated}");
    fs::write(&format, ours).unwrap();

    cluster.start_all();
    assert_eq!(cluster.run(&["get", "k"]).done(), "v", "nothing is lost");
    assert!(!cluster.status("n1").recovered, "a start that failed is not an incarnation");
}

#[test]
fn two_daemons_of_one_name_are_distinguished_and_the_one_that_runs_is_heard() {
    let cluster = TestCluster::start(2);
    let (text, dir) = (fs::read_to_string(cluster.path("n1.toml")).unwrap(), cluster.dir.path());
    let listen = format!("listen = \"{}\"", cluster.address("n1"));
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let copy = text.replacen(&listen, &format!("listen = \"{port}\""), 1);
    let copy = copy.replacen("/n1\"", "/copy\"", 1);
    assert!(copy.contains(&port.to_string()) && copy.contains("/copy\""), "{copy}");
    fs::write(dir.join("copy.toml"), copy).unwrap();
    let path = cluster.path("copy.toml");
    let other = Run::start(pixii(&["server", "--config", path.to_str().unwrap()]), b"").end();
    let stated = format!("node n1 runs at {} and answers there", cluster.address("n1"));
    assert!(other.code == 2 && other.err.contains(&stated), "{other:?}");
    until("n2 reports it", || cluster.log("n2").contains(&stated).then_some(()));
    assert!(cluster.status("n1").peers[0].up && cluster.status("n2").peers[0].up);
    cluster.run(&["put", "k", "v", "-w", "2"]).done();
    assert!(!cluster.log("n1").contains("peer n2 is down"), "{}", cluster.log("n1"));
}
