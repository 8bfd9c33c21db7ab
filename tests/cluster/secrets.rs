//! A cluster with secrets, as its operator and its users see it; and a flood of connections.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use bytes::BytesMut;
use pixii_core::message::{Call, CallBody, Reply, Request};
use pixii_core::types::Key;
use pixii_core::wire::{self, Hello, MAX_FRAME_BYTES, PREAMBLE_BYTES, PROTOCOL, Welcome};
use pixii_testkit::cluster::{Finished, Run, TestCluster, pixii, signal};
use pixii_testkit::{DEADLINE, until};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

const PEERS: &str = "correct horse battery staple, nodes";
const CLIENTS: &str = "correct horse battery staple, clients";

/// Writes a secret as its owner would.
fn secret(cluster: &TestCluster, name: &str, text: &str, mode: u32) -> String {
    let path = cluster.path(name);
    fs::write(&path, format!("{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Three daemons with secrets, and the file that their clients have.
fn guarded() -> (TestCluster, String) {
    let mut cluster = TestCluster::create(3);
    let peers = secret(&cluster, "peers", PEERS, 0o600);
    let clients = secret(&cluster, "clients", CLIENTS, 0o600);
    let lines = format!("secret_file = \"{peers}\"\nclient_secret_file = \"{clients}\"");
    cluster.cluster.configure(&format!("log = \"trace\"\n{lines}")).unwrap();
    for name in ["n1", "n2", "n3"] {
        let path = cluster.path(&format!("{name}.toml"));
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("log = \"info\"\n", "")).unwrap();
    }
    cluster.cluster.start_all().unwrap();
    let read = ["get", "absent", "-r", "3", "--secret-file", &clients];
    until("the word of all three counts", || (cluster.run(&read).code == 3).then_some(()));
    (cluster, clients)
}

#[test]
fn a_cluster_with_secrets_serves_those_who_have_them_and_shows_them_to_nobody() {
    let (cluster, clients) = guarded();
    let with = ["--secret-file", &clients];
    cluster.run(&[&["put", "k", "v", "-w", "3"], &with[..]].concat()).done();
    assert_eq!(cluster.run(&[&["get", "k", "-r", "3"], &with[..]].concat()).done(), "v");
    let mut command = cluster.command(&["status", "--json"]);
    command.env("PIXII_SECRET_FILE", &clients);
    let status = Run::start(command, b"").end();
    let links = &status.json()["links"];
    let protocol = u64::from(PROTOCOL);
    assert_eq!(
        (links["secret"].as_bool(), links["protocol"].as_u64()),
        (Some(true), Some(protocol))
    );
    let status = cluster.run(&[&["status"], &with[..]].concat());
    let stated = format!("{PROTOCOL}, with those who know the secret");
    assert!(status.out.contains(&stated), "{}", status.out);
    fs::write(cluster.path("data"), "one\t1\ntwo\t2\n").unwrap();
    cluster.run(&[&["load", "data"], &with[..]].concat()).done();

    let without = cluster.run(&["get", "k"]);
    let sentence = "this node has a secret, and takes nobody who does not prove to know it: nodes \
        have secret_file, \
                    clients --secret-file or PIXII_SECRET_FILE";
    assert!(without.code == 1 && without.err.contains(sentence), "{without:?}");
    let peers = cluster.path("peers").to_str().unwrap().to_owned();
    let wrong = cluster.run(&["get", "k", "--secret-file", &peers]);
    let sentence = "the secret is not the one of this cluster's clients (client_secret_file)";
    assert!(wrong.code == 1 && wrong.err.contains(sentence), "{wrong:?}");
    let open = secret(&cluster, "open", CLIENTS, 0o644);
    let open = cluster.run(&["get", "k", "--secret-file", &open]);
    assert!(
        open.code == 2 && open.err.contains("its mode is 0644, so that others may read"),
        "{open:?}"
    );
    let none = cluster.run(&["get", "k", "--secret-file", "none"]);
    assert_eq!(
        none.stated(),
        (2, "pixii: the secret: none: No such file or directory (os error 2)\n")
    );

    // Neither in the logs, at the level that says most, nor in anything that was said.
    let reported = [&status, &without, &wrong, &open]
        .map(|reported: &Finished| format!("{}{}", reported.out, reported.err));
    let logs = ["n1", "n2", "n3"].map(|name| cluster.log(name));
    for text in reported.iter().chain(&logs) {
        assert!(!text.contains("correct horse") && !text.contains("staple"), "{text}");
    }
    assert!(
        logs[0].contains("refused a connection from "),
        "what is refused is logged: {}",
        logs[0]
    );
}

#[test]
fn a_running_cluster_is_given_secrets_and_others_later() {
    let mut cluster = TestCluster::create(3);
    cluster.start_all();
    cluster.run(&["put", "k", "v", "-w", "3"]).done();
    let peers = secret(&cluster, "peers", PEERS, 0o600);
    let clients = secret(&cluster, "clients", CLIENTS, 0o600);
    let lines = format!("secret_file = \"{peers}\"\nclient_secret_file = \"{clients}\"");
    let reload = |times: usize| {
        for name in ["n1", "n2", "n3"] {
            signal("HUP", cluster.pid(name));
            let stated = "goes on with other secrets, those that its files hold now";
            until(stated, || (cluster.log(name).matches(stated).count() == times).then_some(()));
        }
    };
    cluster.cluster.configure(&lines).unwrap();
    reload(1);
    assert_eq!(cluster.run(&["get", "k"]).code, 1, "without a secret");
    let with = ["--secret-file", &clients];
    assert_eq!(cluster.run(&[&["get", "k", "-r", "3"], &with[..]].concat()).done(), "v");
    // The new one is taken beside the old one, and then alone.
    let new = "another horse, another battery";
    let newer = secret(&cluster, "newer", new, 0o600);
    secret(&cluster, "clients", &format!("{new}\n{CLIENTS}"), 0o600);
    reload(2);
    for file in [&clients, &newer] {
        let reported = cluster.run(&["get", "k", "-r", "3", "--secret-file", file]);
        assert_eq!(reported.done(), "v");
    }
    let older = secret(&cluster, "older", CLIENTS, 0o600);
    secret(&cluster, "clients", new, 0o600);
    reload(3);
    assert_eq!(cluster.run(&["get", "k", "--secret-file", &newer]).done(), "v");
    assert_eq!(cluster.run(&["get", "k", "--secret-file", &older]).code, 1);
}

#[test]
fn a_daemon_whose_secrets_are_not_as_they_should_be_does_not_start() {
    let cluster = TestCluster::create(1);
    let text = fs::read_to_string(cluster.path("n1.toml")).unwrap();
    let good = secret(&cluster, "good", PEERS, 0o600);
    let other = secret(&cluster, "other", CLIENTS, 0o600);
    let open = secret(&cluster, "open", PEERS, 0o640 | 0o004);
    let short = secret(&cluster, "short", "swordfish", 0o600);
    let refused = |lines: &str, sentence: &str| {
        fs::write(cluster.path("try.toml"), format!("{lines}\n{text}")).unwrap();
        let command = pixii(&["server", "--config", cluster.path("try.toml").to_str().unwrap()]);
        let Finished { code, err, .. } = Run::start(command, b"").end();
        assert_eq!((code, err.lines().count()), (2, 1), "{err}");
        assert!(
            err.contains(sentence) && !err.contains("horse") && !err.contains("sword"),
            "{err}"
        );
    };
    let both = |peers: &str, clients: &str| {
        format!("secret_file = \"{peers}\"\nclient_secret_file = \"{clients}\"")
    };
    refused(&format!("secret_file = \"{good}\""), "secret_file without client_secret_file");
    refused(&both("/none", &good), "secret_file: /none: No such file or directory");
    refused(&both(&good, &open), "its mode is 0644, so that others may read or change the secret");
    refused(&both(&short, &good), "a secret of 9 bytes: a secret has 16 to 1024");
    refused(&both(&good, &good), "hold the same secret, so that a client could be a node");
    refused(
        &both(cluster.dir.path().to_str().unwrap(), &good),
        "a secret is in a file, and this is none",
    );
    refused("max_connections_per_address = 0", "max_connections_per_address is 1 to 65536");
    let beyond = text.replace(cluster.address("n1"), "0.0.0.0:7432");
    fs::write(cluster.path("try.toml"), beyond).unwrap();
    let command = pixii(&["server", "--config", cluster.path("try.toml").to_str().unwrap()]);
    let Finished { code, err, .. } = Run::start(command, b"").end();
    let sentence = "listen = \"0.0.0.0:7432\": beyond loopback (127.0.0.1, [::1], localhost) a \
        node has secret_file \
                    and client_secret_file, unless allow_insecure_network = true says";
    assert!(code == 2 && err.contains(sentence), "{err}");

    // Credentials are named without a path.
    fs::write(cluster.path("try.toml"), format!("{}\n{text}", both("good", "other"))).unwrap();
    let mut command = pixii(&["server", "--config", cluster.path("try.toml").to_str().unwrap()]);
    command.env("CREDENTIALS_DIRECTORY", cluster.dir.path());
    let daemon = Run::start(command, b"");
    until("the daemon serves", || {
        let reported = cluster.run(&["status", "--secret-file", &other]);
        (reported.code == 0).then_some(())
    });
    drop(daemon);
}

// --- floods ---

/// A connection to n1 from this address.
pub fn connect(cluster: &TestCluster, from: &str) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let from: IpAddr = from.parse().unwrap();
    socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
    let to: SocketAddr = cluster.address("n1").parse().unwrap();
    socket.connect(&to.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// What is said to a connection that introduces itself as a client; `None` if it is cut before.
pub fn greeted(stream: &mut TcpStream) -> Option<Welcome> {
    stream.write_all(&[&wire::preamble()[..], &wire::frame(&Hello::Client)].concat()).ok();
    next(stream, PREAMBLE_BYTES)
}

/// The next frame's message, behind so many bytes.
pub fn next<T: for<'de> bincode::BorrowDecode<'de, bytes::Bytes>>(
    stream: &mut TcpStream,
    skipped: usize,
) -> Option<T> {
    stream.read_exact(&mut vec![0; skipped]).ok()?;
    let mut input = BytesMut::new();
    loop {
        if let Some(frame) = wire::take_frame(&mut input, MAX_FRAME_BYTES).unwrap() {
            return Some(wire::decode(&frame).unwrap());
        }
        let mut bytes = [0; 1_024];
        let read = stream.read(&mut bytes).ok().filter(|read| *read > 0)?;
        input.extend_from_slice(&bytes[..read]);
    }
}

pub fn is_served(stream: &mut TcpStream) -> bool {
    let call = Call { id: 1, body: CallBody::Ring };
    if stream.write_all(&wire::frame(&call)).is_err() {
        return false;
    }
    next::<Reply>(stream, 0).is_some_and(|reply| reply.id == 1)
}

pub fn raise_descriptors() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    assert!(
        maximum.is_none_or(|most| most > 10_500),
        "10,000 connections need as many descriptors"
    );
}

#[test]
fn of_ten_thousand_connections_of_one_address_some_are_served_and_the_others_given_the_reason() {
    raise_descriptors();
    let cluster = TestCluster::start(1);
    cluster.run(&["put", "k", "v"]).done();
    let (mut served, mut refused, mut cut) = (Vec::new(), 0, 0);
    let mut kept = Vec::new();
    let mut neighbour = None;
    for number in 0..10_000 {
        let mut stream = connect(&cluster, "127.0.0.1");
        match greeted(&mut stream) {
            Some(Welcome::Accepted { .. }) => served.push(stream),
            Some(Welcome::Refused(why)) => {
                let end =
                    "clients from 127.0.0.1 are connected: max_connections_per_address is 256";
                assert!(why.ends_with(end), "{why}");
                refused += 1;
                kept.push(stream);
            }
            None => cut += 1,
            other => panic!("{other:?}"),
        }
        // Whoever comes from elsewhere is served as if nothing happened.
        if number % 1_000 == 500 {
            let stream = neighbour.get_or_insert_with(|| {
                let mut stream = connect(&cluster, "127.0.0.2");
                assert!(matches!(greeted(&mut stream), Some(Welcome::Accepted { .. })));
                stream
            });
            assert!(is_served(stream), "at {number}");
        }
    }
    assert_eq!(served.len() + refused + cut, 10_000);
    // Four more are let in at a time, in places for the operator, from which they are sent away.
    served.retain_mut(is_served);
    // Commands that ran before may not have left entirely, and one connection is enough for them.
    assert!((250..=260).contains(&served.len()), "{} are served", served.len());
    assert!(cut <= 10, "{cut} of {refused} were cut before they knew why");
    drop(served);
    until("room again", || (cluster.run(&["get", "k"]).code == 0).then_some(()));
    let warned = cluster.log("n1").matches("refused a connection from").count();
    assert!((1..=3).contains(&warned), "{warned} lines in the log");
}

#[test]
fn connections_that_say_nothing_do_not_keep_others_out() {
    let cluster = TestCluster::create(1);
    cluster.cluster.configure("max_connections_per_address = 1000").unwrap();
    let mut cluster = cluster;
    cluster.start_all();
    cluster.run(&["put", "k", "v"]).done();
    let begun = std::time::Instant::now();
    let mut idle: Vec<TcpStream> = (0..400).map(|_| connect(&cluster, "127.0.0.3")).collect();
    // As many handshakes are in progress as may be: the oldest give way, and whoever speaks is let
    // in at once.
    for from in ["127.0.0.1", "127.0.0.2", "127.0.0.3"] {
        let mut stream = connect(&cluster, from);
        assert!(matches!(greeted(&mut stream), Some(Welcome::Accepted { .. })), "{from}");
        assert!(is_served(&mut stream));
    }
    let in_time = begun.elapsed() < Duration::from_secs(5);
    let reported: Vec<Option<Welcome>> =
        idle.iter_mut().map(|stream| next(stream, PREAMBLE_BYTES)).collect();
    let count = |what: &str| {
        let fits = |reported: &&Option<Welcome>| {
            matches!(reported,
            Some(Welcome::Refused(why)) if why.starts_with(what))
        };
        reported.iter().filter(fits).count()
    };
    let gave_way = count("too many handshakes are in progress, 256 at most");
    let late = count("no handshake within 5 s");
    assert_eq!(gave_way + late, 400, "{gave_way} gave way");
    // A machine that stood still for as long as a handshake may take shows nothing.
    assert!(!in_time || gave_way >= 145, "{gave_way} gave way");
}

#[test]
fn no_number_of_clients_keeps_a_peer_of_their_address_out() {
    let mut cluster = TestCluster::create(2);
    cluster.cluster.configure("max_connections_per_address = 8").unwrap();
    cluster.start_all();
    let enter = |cluster: &TestCluster| {
        let mut stream = connect(cluster, "127.0.0.1");
        let reported = greeted(&mut stream);
        matches!(reported, Some(Welcome::Accepted { .. })).then_some(stream)
    };
    let mut clients: Vec<TcpStream> = std::iter::from_fn(|| enter(&cluster)).collect();
    // Eight, and four in places for the operator.
    assert!((1..=12).contains(&clients.len()), "{} are in", clients.len());
    cluster.cluster.kill("n2").unwrap();
    cluster.cluster.start("n2").unwrap();
    until("n2 is heard by n1", || {
        let mut command = cluster.command(&["status", "--json"]);
        command.env("PIXII_CONNECT", cluster.address("n2"));
        let reported = Run::start(command, b"").end();
        (reported.code == 0 && reported.json()["peers"][0]["up"] == true).then_some(())
    });
    assert!(is_served(&mut clients[0]), "the clients are still there");
}

#[test]
fn a_client_that_reads_nothing_does_not_stop_the_others() {
    let cluster = TestCluster::start(1);
    let value = vec![b'x'; 1 << 20];
    cluster.fed(&["put", "large", "-"], &value).done();
    let mut deaf = connect(&cluster, "127.0.0.1");
    assert!(matches!(greeted(&mut deaf), Some(Welcome::Accepted { .. })));
    let request = || Request::Get { key: Key::new(&b"large"[..]).unwrap(), r: None.into() };
    // Far more than what a socket takes, and than what the node keeps for one client.
    deaf.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    for id in 0..1_000 {
        let body = CallBody::Data { request: request(), timeout_ms: 60_000 };
        if deaf.write_all(&wire::frame(&Call { id, body })).is_err() {
            break;
        }
    }
    for number in 0..20 {
        let key = format!("k{number}");
        cluster.run(&["put", &key, "v"]).done();
        assert_eq!(cluster.run(&["get", &key]).done(), "v");
    }
    assert_eq!(cluster.run(&["get", "large"]).done().len(), 1 << 20);
    assert!(
        matches!(next::<Reply>(&mut deaf, 0), Some(Reply { .. })),
        "it is served when it reads"
    );
}
