//! Handshakes with a secret: who is let in, who is not, and what an eavesdropper can do with what
//! was said.

use std::net::TcpListener;
use std::sync::Arc;

use bytes::BytesMut;
use pixii_client::{Client, ClientError, Options};
use pixii_core::message::{Call, CallBody, PeerMessage, Reply};
use pixii_core::secret::{Exchange, Keyring, Nonce, Role, Seal, SecretKey, Secrets, Vault};
use pixii_core::store::memory::MemoryStore;
use pixii_core::types::{Blob, Key};
use pixii_core::wire::{self, Hello, Welcome};
use pixii_testkit::daemon::{Daemon, Raw, config};
use pixii_testkit::{free_port, until};

use super::peer_hello;

const PEERS: &[u8] = b"what the nodes of this cluster know";
const CLIENTS: &[u8] = b"what its clients know, another thing";
const NEW: &[u8] = b"what they will know tomorrow";
const MINE: Nonce = [42; 32];

fn keys(peers: (&[u8], Option<&[u8]>), clients: (&[u8], Option<&[u8]>)) -> Option<Secrets> {
    Some(Secrets {
        peers: Keyring::new(Role::Peer, peers.0, peers.1),
        clients: Keyring::new(Role::Client, clients.0, clients.1),
    })
}

/// A daemon of a cluster that has secrets, and what they are changed by.
fn start(ports: &[u16], own: usize) -> (Daemon, Vault) {
    let config = config(ports, own);
    config.secrets.set(keys((PEERS, None), (CLIENTS, None)));
    let vault = config.secrets.clone();
    (Daemon::with(config, ports[own], Arc::new(MemoryStore::default())), vault)
}

/// What a client is notified that proves itself with this key.
fn query(port: u16, secret: Option<SecretKey>) -> Result<String, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let addresses = [format!("127.0.0.1:{port}")];
    runtime.block_on(async {
        let client = Client::connect(&addresses, Options { secret, ..Options::default() }).await;
        let status = async { client?.status(None).await };
        status.await.map(|status| status.name).map_err(|failure: ClientError| failure.to_string())
    })
}

/// The same, as soon as the daemon listens.
fn served(port: u16, secret: &[u8]) {
    let key = || Some(SecretKey::new(secret, Role::Client));
    until("a client is served", || query(port, key()).ok());
}

/// The one word that a node says when it refuses somebody who has proved nothing.
fn refused(raw: &mut Raw) -> String {
    match raw.receive() {
        Some(Welcome::Refused(why)) => why,
        other => panic!("{other:?}"),
    }
}

/// A connection to a daemon on which both sides have reported their nonces, and what they have said
/// so far: as if `claimed` had been the first word.
fn challenged_as(port: u16, offered: [u8; 12], claimed: [u8; 12]) -> (Raw, Exchange) {
    let mut raw = Raw::connect(port);
    raw.send(&[&offered[..], &wire::frame(&Hello::Challenge(MINE))].concat());
    let theirs = raw.first_bytes();
    let Some(Welcome::Challenge(nonce)) = raw.receive() else { panic!("a challenge") };
    (raw, Exchange::new([&claimed, &theirs], [&MINE, &nonce]))
}

fn challenged(port: u16) -> (Raw, Exchange) {
    challenged_as(port, wire::preamble(), wire::preamble())
}

fn proven(hello: &Hello, exchange: &Exchange, key: &SecretKey) -> (Blob, Hello) {
    let hello = Blob(wire::encode(hello).into());
    let proof = exchange.dialer_proof(key, &hello.0);
    (hello.clone(), Hello::Proven { hello, proof })
}

/// What a daemon answers to somebody who proves itself with this key: an answer that it proves, or
/// a rejection.
fn introduce(port: u16, hello: &Hello, key: &SecretKey) -> Result<(Raw, [Seal; 2]), String> {
    let (mut raw, exchange) = challenged(port);
    let (stated, hello) = proven(hello, &exchange, key);
    raw.send(&wire::frame(&hello));
    match raw.receive::<Welcome>().unwrap() {
        Welcome::Proven { welcome, proof } => {
            assert_eq!(proof, exchange.listener_proof(key, &stated.0, &welcome.0));
            match wire::decode(&welcome.0).unwrap() {
                Welcome::Accepted { .. } => Ok((raw, exchange.seals(key, &stated.0))),
                Welcome::Refused(why) => Err(why),
                other => panic!("{other:?}"),
            }
        }
        Welcome::Refused(why) => Err(why),
        other => panic!("{other:?}"),
    }
}

#[test]
fn nodes_and_clients_that_know_the_secrets_are_let_in_and_nobody_else() {
    let ports = [free_port(), free_port(), free_port()];
    let [a, b, c] = [0, 1, 2].map(|at| start(&ports, at).0);
    served(ports[0], CLIENTS);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let addresses = ports.map(|port| format!("127.0.0.1:{port}"));
        let secret = Some(SecretKey::new(CLIENTS, Role::Client));
        let options = Options { secret, ..Options::default() };
        let client = Client::connect(&addresses, options).await.unwrap();
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
        // Three owners that answer: the links between the nodes work.
        for number in 0..50 {
            let key = Key::new(format!("k{number}").into_bytes()).unwrap();
            let value = bytes::Bytes::from(vec![7; 100_000]);
            loop {
                match client.put(&key, value.clone()).sibling().w(3).await {
                    Ok(_) => break,
                    Err(why) => assert!(tokio::time::Instant::now() < deadline, "{why}"),
                }
            }
            // An owner that was late to be linked counts once it has heard that nothing is kept for
            // it.
            loop {
                match client.get(&key).r(Some(3)).deadline_ms(5_000).await {
                    Ok(found) => break assert_eq!(found.values[0], value),
                    Err(why) => assert!(tokio::time::Instant::now() < deadline, "{why}"),
                }
                tokio::task::yield_now().await;
            }
        }
        let links = client.links(Some("n1")).await.unwrap();
        assert_eq!((links.secret, links.protocol), (true, 9));
        assert!(links.peers.iter().all(|(_, protocol)| *protocol == Some(9)), "{links:?}");
    });
    let reported = |secret: Option<SecretKey>| query(ports[0], secret).unwrap_err();
    let none = reported(None);
    assert!(none.contains("this node has a secret, and takes nobody who does not prove"), "{none}");
    let sentence = "the secret is not the one of this cluster's clients (client_secret_file)";
    for secret in [PEERS, NEW] {
        let wrong = reported(Some(SecretKey::new(secret, Role::Client)));
        assert!(wrong.contains(sentence), "{wrong}");
    }
    let role = reported(Some(SecretKey::new(CLIENTS, Role::Peer)));
    assert!(role.contains(sentence), "{role}");
    drop((a, b, c));
    // Where there is no secret, nobody is notified that the own one is good.
    let daemon = Daemon::alone(Arc::new(MemoryStore::default()));
    let why = query(daemon.port, Some(SecretKey::new(CLIENTS, Role::Client))).unwrap_err();
    assert!(why.contains("this node has no secret, and cannot prove anything"), "{why}");
}

#[test]
fn a_client_s_secret_does_not_make_a_node() {
    let ports = [free_port(), free_port()];
    let (_daemon, _) = start(&ports, 0);
    served(ports[0], CLIENTS);
    let hello = peer_hello(&ports, "n1", "n0");
    let sentence = "the secret is not the one of this cluster's nodes (secret_file)";
    for role in [Role::Client, Role::Peer] {
        let key = SecretKey::new(CLIENTS, role);
        assert_eq!(introduce(ports[0], &hello, &key).unwrap_err(), sentence);
    }
    introduce(ports[0], &hello, &SecretKey::new(PEERS, Role::Peer)).unwrap();
    // What is wrong beside that is ordered to those alone who have proved themselves.
    let stranger = peer_hello(&ports, "n9", "n0");
    let why = introduce(ports[0], &stranger, &SecretKey::new(PEERS, Role::Peer)).unwrap_err();
    assert!(why.contains("is not among the members"), "{why}");
    let why = introduce(ports[0], &stranger, &SecretKey::new(NEW, Role::Peer)).unwrap_err();
    assert_eq!(why, sentence);
}

#[test]
fn a_handshake_that_was_overheard_is_worth_nothing() {
    let ports = [free_port(), free_port()];
    let (_daemon, _) = start(&ports, 0);
    served(ports[0], CLIENTS);
    let key = SecretKey::new(PEERS, Role::Peer);
    let (mut raw, exchange) = challenged(ports[0]);
    let (_, proof) = proven(&peer_hello(&ports, "n1", "n0"), &exchange, &key);
    raw.send(&wire::frame(&proof));
    assert!(matches!(raw.receive(), Some(Welcome::Proven { .. })));
    // The same bytes again, on a connection of its own.
    let (mut again, _) = challenged(ports[0]);
    again.send(&wire::frame(&proof));
    let why = refused(&mut again);
    assert_eq!(why, "the secret is not the one of this cluster's nodes (secret_file)");
    // A proof that nobody asked for.
    let mut early = Raw::connect(ports[0]);
    early.send(&[&wire::preamble()[..], &wire::frame(&proof)].concat());
    early.first_bytes();
    assert_eq!(refused(&mut early), "a proof that was not asked for");
}

#[test]
fn a_downgrade_is_refused_by_name() {
    let ports = [free_port(), free_port()];
    let (_daemon, _) = start(&ports, 0);
    served(ports[0], CLIENTS);
    let hello = peer_hello(&ports, "n1", "n0");
    let plain = |versions: [u8; 4], hello: &Hello| {
        let mut raw = Raw::connect(ports[0]);
        raw.send(&[&wire::MAGIC[..], &versions, &wire::frame(hello)].concat());
        raw.first_bytes();
        refused(&mut raw)
    };
    let older = "protocol versions 5 to 5 are offered; this node speaks 6 to 9";
    let unproved = "this node has a secret, and takes nobody who does not prove to know it: nodes \
        have secret_file, \
                    clients --secret-file or PIXII_SECRET_FILE";
    for hello in [&hello, &Hello::Client] {
        assert_eq!(plain([0, 5, 0, 5], hello), older);
        assert_eq!(plain([0, 5, 0, 6], hello), unproved);
    }
    // Somebody between the two who makes both believe that the other speaks less than it does.
    let mut offered = wire::preamble();
    offered[11] = 10;
    let (mut raw, exchange) = challenged_as(ports[0], wire::preamble(), offered);
    let key = SecretKey::new(PEERS, Role::Peer);
    raw.send(&wire::frame(&proven(&hello, &exchange, &key).1));
    assert!(refused(&mut raw).starts_with("the secret is not the one of"));
}

/// The daemon that dials this listener, when it has said its nonce: as the one that it takes us
/// for.
fn dialed(listener: &TcpListener) -> (Raw, [u8; 12], Nonce) {
    listener.set_nonblocking(true).unwrap();
    let (stream, _) = until("the daemon dials", || listener.accept().ok());
    stream.set_nonblocking(false).unwrap();
    let mut raw = Raw::on(stream);
    let offered = raw.first_bytes();
    let Some(Hello::Challenge(nonce)) = raw.receive() else { panic!("a challenge") };
    (raw, offered, nonce)
}

#[test]
fn a_listener_without_the_secret_is_no_peer_and_its_word_is_not_taken() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ports = [free_port(), listener.local_addr().unwrap().port()];
    let (daemon, _) = start(&ports, 0);
    // What a removed node is notified would end the daemon, if it were proved.
    let (mut raw, offered, _) = dialed(&listener);
    assert_eq!(offered[8..], [0, 6, 0x80, 9], "nothing older is offered");
    let removed = Welcome::Removed("you are not needed any more".into());
    raw.send(&[&wire::preamble()[..], &wire::frame(&removed)].concat());
    // One that is let in without being asked for anything is not among friends.
    let (mut raw, ..) = dialed(&listener);
    let accepted = Welcome::Accepted { cluster: "test".into(), name: "n1".into() };
    raw.send(&[&wire::preamble()[..], &wire::frame(&accepted)].concat());
    assert!(raw.receive::<PeerMessage>().is_none());
    // One that speaks an older protocol, neither.
    let (mut raw, ..) = dialed(&listener);
    raw.send(&[&wire::MAGIC[..], &[0, 5, 0, 5], &wire::frame(&accepted)].concat());
    assert!(raw.receive::<PeerMessage>().is_none());
    // The dialer's own proof is not one of the listener, nor is that of another welcome.
    for reflected in [true, false] {
        let (mut raw, offered, nonce) = dialed(&listener);
        let ours = wire::preamble();
        raw.send(&[&ours[..], &wire::frame(&Welcome::Challenge(MINE))].concat());
        let exchange = Exchange::new([&offered, &ours], [&nonce, &MINE]);
        let Some(Hello::Proven { proof, .. }) = raw.receive() else { panic!("a proof") };
        let welcome = Blob(wire::encode(&accepted).into());
        let other = exchange.listener_proof(&SecretKey::new(PEERS, Role::Peer), b"", b"");
        let answer = Welcome::Proven { welcome, proof: if reflected { proof } else { other } };
        raw.send(&wire::frame(&answer));
        assert!(raw.receive::<PeerMessage>().is_none());
    }
    served(daemon.port, CLIENTS);
    drop(daemon);
}

#[test]
fn a_node_s_own_words_are_not_taken_when_they_are_sent_back_to_it() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ports = [free_port(), listener.local_addr().unwrap().port()];
    let (_daemon, _) = start(&ports, 0);
    served(ports[0], CLIENTS);
    // Its challenge goes back to it, and its answer to that, and its proof.
    let (mut out, offered, nonce) = dialed(&listener);
    let mut back = Raw::connect(ports[0]);
    back.send(&[&offered[..], &wire::frame(&Hello::Challenge(nonce))].concat());
    let theirs = back.first_bytes();
    let Some(Welcome::Challenge(nonce)) = back.receive() else { panic!("a challenge") };
    out.send(&[&theirs[..], &wire::frame(&Welcome::Challenge(nonce))].concat());
    let proof: Hello = out.receive().unwrap();
    back.send(&wire::frame(&proof));
    let Some(Welcome::Proven { welcome, .. }) = back.receive() else { panic!("an answer") };
    let Welcome::Refused(why) = wire::decode(&welcome.0).unwrap() else { panic!("{welcome:?}") };
    assert_eq!(why, "node n0 was dialed by its own name: is a member's address wrong?");
    // With another name on it, the proof is none.
    let Hello::Proven { proof, .. } = proof else { panic!("a proof") };
    let (mut back, _) = challenged(ports[0]);
    let hello = Blob(wire::encode(&peer_hello(&ports, "n1", "n0")).into());
    back.send(&wire::frame(&Hello::Proven { hello, proof }));
    assert!(refused(&mut back).starts_with("the secret is not the one of"));
}

#[test]
fn frames_that_do_not_come_from_who_proved_itself_end_the_connection() {
    let port = free_port();
    let (_daemon, _) = start(&[port], 0);
    served(port, CLIENTS);
    let key = SecretKey::new(CLIENTS, Role::Client);
    let call = |id| Call { id, body: CallBody::Ring };
    let opened = || {
        let (mut raw, [mut ours, mut theirs]) = introduce(port, &Hello::Client, &key).unwrap();
        let mut frame = BytesMut::new();
        wire::put_frame(&mut frame, &call(1), Some(&mut ours));
        raw.send(&frame);
        let reply: Reply = raw.receive_sealed(Some(&mut theirs)).unwrap();
        assert_eq!(reply.id, 1);
        (raw, frame, ours)
    };
    // The same frame again, one without a seal, one that was altered, and one that comes before its
    // time.
    let (mut raw, frame, _) = opened();
    raw.send(&frame);
    assert!(raw.receive::<Reply>().is_none());
    let (mut raw, ..) = opened();
    raw.send(&wire::frame(&call(2)));
    assert!(raw.receive::<Reply>().is_none());
    for skipped in [false, true] {
        let (mut raw, _, mut ours) = opened();
        let mut frame = BytesMut::new();
        if skipped {
            ours.next(b"a frame that is lost");
        }
        wire::put_frame(&mut frame, &call(2), Some(&mut ours));
        if !skipped {
            *frame.last_mut().unwrap() ^= 1;
        }
        raw.send(&frame);
        assert!(raw.receive::<Reply>().is_none());
    }
}

#[test]
fn a_secret_is_changed_while_the_nodes_run() {
    let ports = [free_port(), free_port()];
    let (_a, first) = start(&ports, 0);
    let second = config(&ports, 1);
    let store = Arc::new(MemoryStore::default());
    let start_second = || Daemon::with(second.clone(), ports[1], store.clone());
    second.secrets.set(first.get().as_deref().cloned());
    let mut b = start_second();
    served(ports[0], CLIENTS);
    let linked = |secret: &[u8]| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let secret = Some(SecretKey::new(secret, Role::Client));
        runtime.block_on(async {
            let address = [format!("127.0.0.1:{}", ports[0])];
            let options = Options { secret, ..Options::default() };
            let client = Client::connect(&address, options).await.ok()?;
            let links = client.links(None).await.ok()?;
            links.peers.iter().all(|(_, protocol)| protocol.is_some()).then_some(())
        })
    };
    until("a link", || linked(CLIENTS));
    // Both take both; then one shows the new one already; then the old one is forgotten.
    let steps = [
        keys((PEERS, Some(NEW)), (CLIENTS, Some(NEW))),
        keys((NEW, Some(PEERS)), (NEW, Some(CLIENTS))),
        keys((NEW, None), (NEW, None)),
    ];
    for (at, secrets) in steps.into_iter().enumerate() {
        for vault in [&first, &second.secrets] {
            vault.set(secrets.clone());
            // A node that comes back between two of them links with the others.
            drop(b);
            until("no link", || {
                linked(if at == 2 { NEW } else { CLIENTS }).is_none().then_some(())
            });
            b = start_second();
            until("the link again", || linked(if at == 0 { CLIENTS } else { NEW }));
        }
    }
    let why = query(ports[0], Some(SecretKey::new(CLIENTS, Role::Client))).unwrap_err();
    assert!(why.contains("the secret is not the one of this cluster's clients"), "{why}");
    served(ports[0], NEW);
}
