//! A daemon, a process of its own, that hostile bytes come to on both of its ports: it goes on, and
//! does not grow.

use std::cell::Cell;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use pixii::config::Config;
use pixii_core::members::Incarnation;
use pixii_core::message::{Body, Call, CallBody, Counter, Gossip, PeerMessage, Response};
use pixii_core::rng::Rng;
use pixii_core::types::NodeId;
use pixii_core::wire::{self, Hello};
use pixii_testkit::daemon::{Client, config_text, get, put, values};
use pixii_testkit::{free_port, until};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use crate::corpus::{self, mutate, noise};
use crate::{Effort, changed};

/// What a daemon may grow by, in KiB, once it has seen some of everything. Its cache of 8 MiB takes
/// up to 2.4 times as much, and what it was given to keep has its trees.
const MAX_GROWTH_KIB: u64 = 64 << 10;
/// Rounds before its memory counts.
const WARM: u64 = 200;
/// Messages on one connection.
const MESSAGES: u64 = 40;

/// The daemon n0 of a cluster, the other members of which are not there. It ends with this value.
struct Target {
    child: Child,
    node: u16,
    http: u16,
    hello: Hello,
    alone: bool,
    connections: Cell<u64>,
    dir: TempDir,
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Target {
    fn start(members: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ports: Vec<u16> = (0..members).map(|_| free_port()).collect();
        let http = free_port();
        let text = config_text("n0", &ports, 0)
            .replace("unused", &dir.path().join("data").to_string_lossy());
        let text =
            format!("http_listen = \"127.0.0.1:{http}\"\ncache_mib = 8\nr = 1\nw = 1\n{text}");
        let config = Config::parse(&text, Path::new("n0.toml")).unwrap();
        let file = dir.path().join("n0.toml");
        fs::write(&file, &text).unwrap();
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_pixii"))
            .args(["server", "--bootstrap", "--follow-stdin", "--config"])
            .arg(&file)
            .stdin(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let hello = Hello::Member {
            cluster: config.cluster.clone(),
            ring: config.ring.id(),
            node: NodeId::of("n1"),
            to: config.me(),
            incarnation: Incarnation(1),
            boot_nonce: 1,
            birth: 1,
            address: "127.0.0.1:9".into(),
        };
        let target = Target {
            child,
            node: ports[0],
            http,
            hello,
            alone: members == 1,
            connections: Cell::new(0),
            dir,
        };
        until("it serves", || Client::connect(target.node).status().serving.then_some(()));
        target
    }

    /// It takes a put, and shows it unless others might know better; its HTTP port answers a
    /// scrape.
    fn serves(&self, round: u64) {
        let log = || fs::read_to_string(self.dir.path().join("log")).unwrap();
        let name = format!("own-{round}");
        let mut client = Client::connect(self.node);
        let written = client.query(put(&name, b"value"));
        assert!(matches!(written, Response::Written { .. }), "{written:?} in\n{}", log());
        let shown = client.query(get(&name));
        if self.alone {
            assert_eq!(values(shown).len(), 1);
        }
        let mut stream = TcpStream::connect(("127.0.0.1", self.http)).unwrap();
        let mut answer = String::new();
        stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with('\n'), "{answer}");
        assert!(!log().contains("panicked"), "{}", log());
    }

    /// The memory that it takes, in KiB.
    fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// A connection from one of many addresses: one has too few ports for all that are made within
    /// a minute.
    fn connect(&self, port: u16) -> io::Result<TcpStream> {
        let count = self.connections.get();
        self.connections.set(count + 1);
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        let from = SocketAddr::from(([127, 0, 1, 1 + (count % 250) as u8], 0));
        socket.bind(&from.into())?;
        socket.connect(&SocketAddr::from(([127, 0, 0, 1], port)).into())?;
        Ok(socket.into())
    }

    /// Says all of it, and hears what comes back until the daemon has had enough, or all that was
    /// said.
    fn say(&self, port: u16, bytes: &[u8]) {
        let mut stream = until("a connection", || self.connect(port).ok());
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        // It may have had enough before.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
}

/// A message's bytes as a frame, with the right length and checksum.
pub fn framed(payload: &[u8]) -> Vec<u8> {
    let hash = blake3::hash(payload);
    let checksum = &hash.as_bytes()[..8];
    let length = (checksum.len() + payload.len()) as u32;
    [&length.to_be_bytes()[..], checksum, payload].concat()
}

/// False for orders that a daemon is to carry out whoever gives them.
fn is_harmless_call(payload: &[u8]) -> bool {
    let call = wire::decode::<Call>(&Bytes::copy_from_slice(payload));
    !matches!(
        call,
        Ok(Call { body: CallBody::Stop | CallBody::Replace { .. } | CallBody::Drain(_), .. })
    )
}

/// False for messages of a peer that make a node discard its data or end its incarnation: a node
/// trusts its peers.
fn is_harmless_message(payload: &[u8]) -> bool {
    let message = wire::decode::<PeerMessage>(&Bytes::copy_from_slice(payload));
    !matches!(
        message.map(|message| message.body),
        Ok(Body::Introduce { .. }
            | Body::Known { .. }
            | Body::Placement { .. }
            | Body::Propose { .. }
            | Body::GcState { .. }
            | Body::GcEpochNumbers(_)
            | Body::Hints(_)
            | Body::Gossip(Gossip::News { .. }))
    )
}

/// Messages behind a good handshake, each of them changed and in a good frame; the last frame may
/// be none.
fn conversation(
    rng: &mut Rng,
    hello: &Hello,
    good: &[Vec<u8>],
    is_harmless: fn(&[u8]) -> bool,
) -> Vec<u8> {
    let mut bytes = [&wire::preamble()[..], &wire::frame(hello)].concat();
    for _ in 0..MESSAGES {
        let message = changed(rng, good);
        // What cannot be decoded ends the connection; most of it is left to others.
        let whole = wire::decode::<Call>(&Bytes::copy_from_slice(&message)).is_ok()
            || wire::decode::<PeerMessage>(&Bytes::copy_from_slice(&message)).is_ok();
        if is_harmless(&message) && (whole || rng.chance(0.02)) {
            bytes.extend(framed(&message));
        }
    }
    if rng.chance(0.3) {
        bytes.extend(noise(rng, 100));
    }
    bytes
}

/// A round: one connection. `calls` and `peers` are good messages of clients and of other members.
fn round(target: &Target, rng: &mut Rng, calls: &[Vec<u8>], peers: &[Vec<u8>]) {
    let greeting = |hello: &Hello| [&wire::preamble()[..], &wire::frame(hello)].concat();
    match rng.below(6) {
        0 => {
            let requests = corpus::REQUESTS.map(|text| text.as_bytes().to_vec());
            target.say(target.http, &changed(rng, &requests));
        }
        1 => target.say(target.http, &noise(rng, 10_000)),
        2 => {
            let openings = [greeting(&Hello::Client), greeting(&target.hello)];
            target.say(target.node, &changed(rng, &openings));
        }
        // A frame whose bytes were changed on their way.
        3 => {
            let call = framed(rng.pick(calls).unwrap());
            let mut bytes = [greeting(&Hello::Client), call].concat();
            mutate(rng, &mut bytes, &peers[0]);
            target.say(target.node, &bytes);
        }
        4 => {
            let stated = conversation(rng, &Hello::Client, calls, is_harmless_call);
            target.say(target.node, &stated);
        }
        // Alone, it refuses a peer, whatever that says.
        _ => {
            let stated = conversation(rng, &target.hello, peers, is_harmless_message);
            target.say(target.node, &stated);
        }
    }
}

/// Rounds against a daemon of a cluster of so many members.
fn attack(what: &str, members: usize) {
    let target = Target::start(members);
    let mut effort = Effort::new(what, 2 * WARM);
    let words = corpus::words();
    let named = |prefix: &str, is_harmless: fn(&[u8]) -> bool| -> Vec<Vec<u8>> {
        let named =
            words.iter().filter(|(name, bytes)| name.starts_with(prefix) && is_harmless(bytes));
        named.map(|(_, bytes)| bytes.clone()).collect()
    };
    let (calls, peers) = (named("call-", is_harmless_call), named("peer-", is_harmless_message));
    let mut warm = 0;
    while effort.goes_on() {
        round(&target, &mut effort.rng, &calls, &peers);
        if effort.rounds() == WARM {
            warm = target.resident_kib();
        }
        if effort.rounds().is_multiple_of(WARM) {
            target.serves(effort.rounds());
        }
    }
    target.serves(0);
    let counters = Client::connect(target.node).status().counters;
    let kept = counters.iter().any(|(counter, _)| *counter == Counter::HintsKept);
    assert!(kept || target.alone, "the peer was heard: {counters:?}");
    let (rounds, now) = (effort.rounds(), target.resident_kib());
    println!(
        "{what}: {rounds} rounds, {warm} KiB resident after {WARM} of them, {now} KiB in the end"
    );
    assert!(now < warm + MAX_GROWTH_KIB, "it grew from {warm} KiB to {now} KiB");
}

#[test]
fn a_daemon_goes_on_and_does_not_grow_whatever_comes_to_its_ports() {
    attack("live, alone", 1);
}

#[test]
fn a_daemon_goes_on_and_does_not_grow_whatever_its_peers_say() {
    attack("live, one of three", 3);
}
