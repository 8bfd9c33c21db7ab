//! Which daemon of a name is heard, where it is dialed, and what a copy of a data directory may do:
//! nothing.

use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use pixii::engine::{Conflict, ServeError};
use pixii_core::gc_epoch::GcEpoch;
use pixii_core::members::{Incarnation, Member, Members};
use pixii_core::message::before::Before;
use pixii_core::message::{
    Body, Call, CallBody, Counter, NotYet, PeerMessage, QuorumName, Rejection, Reply, ReplyBody,
    Request, RequestId, Resource, Response,
};
use pixii_core::ring::RingId;
use pixii_core::secret::{Keyring, Role, Secrets};
use pixii_core::store::memory::MemoryStore;
use pixii_core::store::{Change, Meta, Store, StoreIdentity};
use pixii_core::types::{Key, NodeId, Partition};
use pixii_core::wire::{self, Hello, Welcome};
use pixii_testkit::daemon::{Daemon, Raw, config, get, put, values};
use pixii_testkit::{free_port, until};

use super::{peer_hello, wait_for_link};

const BIRTH: u64 = 77;

/// A node that lets everybody in and answers probes, until it is dropped.
struct Played {
    port: u16,
    /// The run that it says it is; 0: it answers no probe.
    nonce: Arc<AtomicU64>,
    met: Arc<Mutex<Vec<Hello>>>,
    end: Arc<AtomicU64>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Played {
    fn at(port: u16, name: &'static str, run: u64) -> Self {
        let listener = until("the port", || TcpListener::bind(("127.0.0.1", port)).ok());
        let port = listener.local_addr().unwrap().port();
        let (nonce, end) = (Arc::new(AtomicU64::new(run)), Arc::new(AtomicU64::new(0)));
        let met: Arc<Mutex<Vec<Hello>>> = Arc::default();
        let (seen, run, over) = (met.clone(), nonce.clone(), end.clone());
        let thread = thread::spawn(move || {
            let mut held = Vec::new();
            while let Ok((stream, _)) = listener.accept() {
                if over.load(Ordering::SeqCst) > 0 {
                    return;
                }
                let mut raw = Raw::on(stream);
                // An attempt may be given up.
                let mut preamble = [0; wire::PREAMBLE_BYTES];
                if std::io::Read::read_exact(&mut raw.stream, &mut preamble).is_err() {
                    continue;
                }
                let Some(hello) = raw.receive::<Hello>() else { continue };
                let boot_nonce = run.load(Ordering::SeqCst);
                let welcome = match &hello {
                    Hello::Probe { .. } => {
                        Welcome::Probed { name: name.into(), birth: BIRTH, boot_nonce }
                    }
                    _ => Welcome::Accepted { cluster: "test".into(), name: name.into() },
                };
                let is_silent = matches!(hello, Hello::Probe { .. }) && boot_nonce == 0;
                if !is_silent {
                    raw.send(&[&wire::preamble()[..], &wire::frame(&welcome)].concat());
                }
                seen.lock().unwrap().push(hello);
                held.push(raw);
            }
        });
        Played { port, nonce, met, end, thread: Some(thread) }
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn is_dialed(&self) -> bool {
        self.met.lock().unwrap().iter().any(|hello| matches!(hello, Hello::Member { .. }))
    }
}

impl Drop for Played {
    fn drop(&mut self) {
        self.end.store(1, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        let _ = self.thread.take().unwrap().join();
    }
}

fn member(ports: &[u16], nonce: u64, address: &str) -> Hello {
    Hello::Member {
        cluster: "test".into(),
        ring: RingId { version: 1, digest: config(ports, 0).ring.digest() },
        node: NodeId::of("n1"),
        to: NodeId::of("n0"),
        incarnation: Incarnation(1),
        boot_nonce: nonce,
        birth: BIRTH,
        address: address.into(),
    }
}

/// What is answered, and the connection.
fn greet(port: u16, hello: &Hello) -> (Welcome, Raw) {
    let mut raw = Raw::connect(port);
    raw.greet(hello);
    (raw.welcome(), raw)
}

fn accepted(port: u16, hello: &Hello) -> Raw {
    let (welcome, raw) = greet(port, hello);
    assert!(matches!(welcome, Welcome::Accepted { .. }), "{welcome:?}");
    raw
}

fn is_open(raw: &mut Raw) -> bool {
    raw.stream.set_nonblocking(true).unwrap();
    let read = std::io::Read::read(&mut raw.stream, &mut [0]);
    raw.stream.set_nonblocking(false).unwrap();
    read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

#[test]
fn a_daemon_that_runs_is_not_displaced_and_one_that_is_gone_is() {
    let old = Played::at(0, "n1", 1);
    let ports = [free_port(), old.port];
    let daemon = Daemon::start(&ports, 0, Arc::new(MemoryStore::default()));
    let mut incumbent = accepted(ports[0], &member(&ports, 1, &old.address()));
    let new = Played::at(0, "n1", 2);
    let copy = member(&ports, 2, &new.address());
    let (welcome, _) = greet(ports[0], &copy);
    let Welcome::Duplicate(why) = welcome else { panic!("{welcome:?}") };
    let begin = format!("node n1 runs at {} and answers there", old.address());
    assert!(why.starts_with(&begin) && why.contains("--new-identity"), "{why}");
    assert!(is_open(&mut incumbent) && !new.is_dialed(), "nothing has changed");

    // A copy that says that it listens where the other one does is found out as well.
    let (welcome, _) = greet(ports[0], &member(&ports, 2, &old.address()));
    assert!(matches!(welcome, Welcome::Duplicate(_)), "{welcome:?}");
    assert!(is_open(&mut incumbent));

    // Its connection is half-open now: nobody is behind it any more.
    drop(old);
    let begun = Instant::now();
    let _newcomer = accepted(ports[0], &copy);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(incumbent.receive::<Welcome>().is_none(), "the older one is closed");
    until("it is dialed where it is now", || new.is_dialed().then_some(()));
    until("the link is up", || daemon.status().peers[0].up.then_some(()));
    assert_eq!(daemon.status().peers[0].address, new.address());
    // The probe has gone to where it was, and to nowhere else.
    let probes = |met: &Played| {
        let met = met.met.lock().unwrap();
        met.iter().filter(|hello| matches!(hello, Hello::Probe { .. })).count()
    };
    assert_eq!(probes(&new), 0);
}

#[test]
fn a_restart_at_the_same_address_is_let_in_at_once_and_its_last_run_no_more() {
    let peer = Played::at(0, "n1", 1);
    let ports = [free_port(), peer.port];
    let _daemon = Daemon::start(&ports, 0, Arc::new(MemoryStore::default()));
    let _half_open = accepted(ports[0], &member(&ports, 1, &peer.address()));
    peer.nonce.store(2, Ordering::SeqCst);
    let begun = Instant::now();
    let mut restarted = accepted(ports[0], &member(&ports, 2, &peer.address()));
    assert!(begun.elapsed() < Duration::from_millis(900), "{:?}", begun.elapsed());
    // What its last run had sent and nobody had read yet.
    let (welcome, _) = greet(ports[0], &member(&ports, 1, &peer.address()));
    assert!(matches!(welcome, Welcome::Duplicate(_)), "{welcome:?}");
    assert!(is_open(&mut restarted));
}

#[test]
fn a_probe_that_nobody_answers_holds_up_nobody_else() {
    let frozen = Played::at(0, "n1", 0);
    let ports = [free_port(), frozen.port, free_port()];
    let daemon = Daemon::start(&ports, 0, Arc::new(MemoryStore::default()));
    let _incumbent = accepted(ports[0], &member(&ports, 1, &frozen.address()));
    let port = ports[0];
    let hello = member(&ports, 2, "127.0.0.1:9");
    let begun = Instant::now();
    let newcomer = thread::spawn(move || accepted(port, &hello));
    let other = Hello::Client;
    let queried = Instant::now();
    accepted(port, &other);
    assert!(queried.elapsed() < Duration::from_millis(900), "{:?}", queried.elapsed());
    newcomer.join().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_eq!(daemon.status().name, "n0");
}

#[test]
fn the_first_that_comes_is_not_heard_while_the_peer_answers_where_it_was() {
    let old = Played::at(0, "n1", 1);
    let ports = [free_port(), old.port];
    let _daemon = Daemon::start(&ports, 0, Arc::new(MemoryStore::default()));
    let (welcome, _) = greet(ports[0], &member(&ports, 2, "127.0.0.1:9"));
    assert!(matches!(welcome, Welcome::Duplicate(_)), "{welcome:?}");
    // Somebody else at that address is not the peer: the two may have changed places.
    drop(old);
    let _other = Played::at(ports[1], "n7", 3);
    accepted(ports[0], &member(&ports, 2, "127.0.0.1:9"));
}

#[test]
fn the_introduction_of_protocol_5_is_refused_in_one_sentence() {
    let ports = [free_port(), free_port()];
    let _daemon = Daemon::start(&ports, 0, Arc::new(MemoryStore::default()));
    let hello = Hello::Peer {
        cluster: "test".into(),
        ring: RingId { version: 1, digest: config(&ports, 0).ring.digest() },
        node: NodeId::of("n1"),
        to: NodeId::of("n0"),
        incarnation: Incarnation(1),
        boot_nonce: 1,
    };
    let (welcome, _) = greet(ports[0], &hello);
    let why = "an introduction of protocol 5, which this node does not speak";
    assert_eq!(welcome, Welcome::Refused(why.into()));
}

/// The preamble of a program of protocol 6.
fn preamble_of_6() -> [u8; wire::PREAMBLE_BYTES] {
    let mut preamble = wire::preamble();
    preamble[8..].copy_from_slice(&[0, 5, 0, 6]);
    preamble
}

#[test]
fn a_peer_of_protocol_6_is_sent_words_and_understood() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ports = [free_port(), listener.local_addr().unwrap().port()];
    let daemon = Daemon::start(&ports, 0, Arc::new(MemoryStore::default()));
    let mut link = Raw::on(listener.accept().unwrap().0);
    link.preamble();
    assert!(matches!(link.receive(), Some(Hello::Member { .. })));
    let welcome = Welcome::Accepted { cluster: "test".into(), name: "n1".into() };
    link.send(&[&preamble_of_6()[..], &wire::frame(&welcome)].concat());
    wait_for_link(&daemon, "n1", true);

    let mut own = Raw::connect(ports[0]);
    own.send(&[&preamble_of_6()[..], &wire::frame(&peer_hello(&ports, "n1", "n0"))].concat());
    assert!(matches!(own.welcome(), Welcome::Accepted { .. }));
    let stated = |body| {
        let (ring, request_id) = (RingId::UNSAID, RequestId::of_wire(77));
        wire::frame(&Before(PeerMessage { ring, request_id, body }))
    };
    let propose = Body::Propose {
        partition: Partition(999),
        gc_epoch: GcEpoch::FIRST,
        members: 0,
        purgeable: Vec::new(),
    };
    // What only protocol 6 says is no fault: the connection goes on, and the next is answered.
    own.send(&stated(Body::NotYet(NotYet::Text("no".into()))));
    own.send(&stated(Body::Failed(Rejection::Busy {
        what: Resource::Text("it".into()),
        limit: 1,
    })));
    own.send(&stated(propose));
    let deadline = Instant::now() + Duration::from_secs(20);
    let answer = loop {
        let Before(message): Before<PeerMessage> = link.receive().expect("the link stays");
        assert!(Instant::now() < deadline, "gossip, and no answer");
        if message.request_id == RequestId::of_wire(77) {
            break message.body;
        }
    };
    let why = "it is not up to that node to propose for partition 999";
    assert_eq!(answer, Body::NotYet(NotYet::Text(why.into())));
}

#[test]
fn a_client_of_protocol_6_is_answered_in_words() {
    let daemon = Daemon::alone(Arc::new(MemoryStore::default()));
    let mut client = Raw::connect(daemon.port);
    client.send(&[&preamble_of_6()[..], &wire::frame(&Hello::Client)].concat());
    assert!(matches!(client.welcome(), Welcome::Accepted { .. }));
    let request = Request::Get { key: Key::new(&b"k"[..]).unwrap(), r: Some(9).into() };
    client.send(&wire::frame(&Call { id: 1, body: CallBody::Data { request, timeout_ms: 1_000 } }));
    let Some(Before(Reply { id: 1, body })) = client.receive() else { panic!("no reply") };
    let rejection = Rejection::Quorum { name: QuorumName::Text("r".into()), given: 9, n: 1 };
    assert_eq!(body, ReplyBody::Data(Response::Refused(rejection)));
    client.send(&wire::frame(&Call { id: 2, body: CallBody::Status }));
    let Some(Before(Reply { body: ReplyBody::Status(status), .. })) = client.receive() else {
        panic!("no status")
    };
    assert_eq!(status.count(Counter::RequestsRefused), 1);
}

#[test]
fn a_probe_reports_nothing_to_who_cannot_prove_himself() {
    let config = config(&[free_port()], 0);
    let keys = |role| Keyring::new(role, b"a secret of sixteen", None);
    config.secrets.set(Some(Secrets { peers: keys(Role::Peer), clients: keys(Role::Client) }));
    let port = config.listen.rsplit_once(':').unwrap().1.parse().unwrap();
    let _daemon = Daemon::with(config, port, Arc::new(MemoryStore::default()));
    let (welcome, _) = greet(port, &Hello::Probe { cluster: "test".into() });
    let Welcome::Refused(why) = welcome else { panic!("{welcome:?}") };
    assert!(why.starts_with("this node has a secret"), "{why}");
}

/// A store that n0 has run on, which remembers where the members were.
fn remembering(ports: &[u16], own: &str, other: &str) -> Arc<MemoryStore> {
    let store = Arc::new(MemoryStore::default());
    let ring = config(ports, 0).ring.digest();
    let owner = StoreIdentity { cluster: "test".into(), name: "n0".into(), ring };
    let remembered = |name: &str, address: &str| Member {
        incarnation: Incarnation(5),
        ..Member::configured(name, address)
    };
    let list = vec![remembered("n0", own), remembered("n1", other)];
    let meta = Meta { incarnation: Incarnation(5), ..Meta::new(owner, BIRTH) };
    store.apply(&[Change::Meta(meta), Change::Members(Members::new(list))]).unwrap();
    store.sync().unwrap();
    store
}

fn conflict(daemon: Daemon) -> Conflict {
    let (sender, ended) = std::sync::mpsc::channel();
    thread::spawn(move || sender.send(daemon.ended()));
    match ended.recv_timeout(Duration::from_secs(30)).expect("the daemon ends by itself") {
        Err(error @ ServeError::Conflict(_)) => {
            assert!(error.needs_operator());
            let ServeError::Conflict(conflict) = error else { unreachable!() };
            *conflict
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_copy_of_a_daemon_that_runs_does_not_start_and_writes_nothing() {
    let original = Played::at(0, "n0", 1);
    let ports = [free_port(), free_port()];
    let others = format!("127.0.0.1:{}", ports[1]);
    let store = remembering(&ports, &original.address(), &others);
    let before = store.meta().unwrap();
    let stated = conflict(Daemon::start(&ports, 0, store.clone()));
    let expected = Conflict::Copy { name: "n0".into(), address: original.address() };
    assert_eq!((stated, store.meta().unwrap()), (expected, before));
    assert!(!original.is_dialed());
    // The same address, and another port to listen on.
    let ports = [original.port, ports[1]];
    let store = remembering(&ports, &original.address(), &others);
    let mut listening = config(&ports, 0);
    let port = free_port();
    listening.listen = format!("127.0.0.1:{port}");
    let stated = conflict(Daemon::with(listening, port, store));
    assert_eq!(stated, Conflict::Copy { name: "n0".into(), address: original.address() });
}

#[test]
fn a_node_that_moved_believes_its_configuration_unless_a_member_is_where_it_was() {
    let other = Played::at(0, "n1", 1);
    let ports = [free_port(), free_port()];
    let store = remembering(&ports, "127.0.0.1:9", &other.address());
    let stated = conflict(Daemon::start(&ports, 0, store.clone()));
    let Conflict::Contradiction { member, configured, found, .. } = &stated else {
        panic!("{stated}")
    };
    let now = format!("127.0.0.1:{}", ports[1]);
    assert_eq!((&**member, configured, found), ("n1", &now, &other.address()));
    // It answers nothing now, so it is not there; it is not dialed where it was.
    other.nonce.store(0, Ordering::SeqCst);
    let moved = Played::at(ports[1], "n1", 2);
    let daemon = Daemon::start(&ports, 0, store);
    until("it is dialed", || moved.is_dialed().then_some(()));
    wait_for_link(&daemon, "n1", true);
    assert!(!other.is_dialed());
}

#[test]
fn a_daemon_that_is_notified_of_another_one_ends_before_it_serves_and_not_after() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ports = [free_port(), listener.local_addr().unwrap().port()];
    let report = |listener: &TcpListener| {
        let mut raw = Raw::on(listener.accept().unwrap().0);
        raw.preamble();
        raw.receive::<Hello>().unwrap();
        let welcome = Welcome::Duplicate("n0 runs elsewhere".into());
        raw.send(&[&wire::preamble()[..], &wire::frame(&welcome)].concat());
    };
    let daemon = Daemon::start(&ports, 0, Arc::new(MemoryStore::default()));
    report(&listener);
    assert_eq!(conflict(daemon), Conflict::Duplicate("n0 runs elsewhere".into()));
    drop(listener);

    // One that serves: a copy that somebody hears must not be able to end it.
    let stores: Vec<_> = (0..2).map(|_| Arc::new(MemoryStore::default())).collect();
    let start = |at: usize| Daemon::start(&ports, at, stores[at].clone());
    let (daemon, other) = (start(0), start(1));
    until("it serves", || daemon.status().serving.then_some(()));
    other.query_to_stop();
    other.ended().unwrap();
    let listener = until("the port", || TcpListener::bind(("127.0.0.1", ports[1])).ok());
    report(&listener);
    report(&listener);
    let reported = until("it says so", || {
        let status = daemon.status();
        let complaint = status.complaints.first().map(ToString::to_string);
        complaint.filter(|_| status.serving)
    });
    assert_eq!(reported, "peer n1 refuses this node: n0 runs elsewhere");
}

/// The addresses of a cluster whose every node is somewhere else, with the data of another one.
#[test]
fn a_clone_with_new_identities_is_a_cluster_of_its_own() {
    let ports = [free_port(), free_port(), free_port()];
    let stores: Vec<_> = (0..3).map(|_| Arc::new(MemoryStore::default())).collect();
    let serve = |daemons: &[Daemon]| {
        for daemon in daemons {
            until("it serves", || {
                let status = daemon.status();
                (status.serving && status.peers.iter().all(|peer| peer.up)).then_some(())
            });
        }
    };
    let all: Vec<Daemon> = (0..3).map(|at| Daemon::start(&ports, at, stores[at].clone())).collect();
    serve(&all);
    all[0].client().query(put("k", b"original"));
    for daemon in all {
        daemon.query_to_stop();
        daemon.ended().unwrap();
    }
    let copies: Vec<_> = stores.iter().map(|store| Arc::new(store.backup())).collect();
    let original: Vec<Daemon> =
        (0..3).map(|at| Daemon::start(&ports, at, stores[at].clone())).collect();
    serve(&original);
    let others = [free_port(), free_port(), free_port()];
    let renewed = |ports: &[u16], at: usize, store: &Arc<MemoryStore>| {
        let mut config = config(ports, at);
        config.new_identity = true;
        Daemon::with(config, ports[at], store.clone())
    };
    for (at, copy) in copies.iter().enumerate() {
        let copied =
            Conflict::Copy { name: format!("n{at}"), address: format!("127.0.0.1:{}", ports[at]) };
        assert_eq!(conflict(Daemon::start(&others, at, copy.clone())), copied);
    }
    let mixed = [others[0], ports[1], others[2]];
    let stated = conflict(renewed(&mixed, 0, &copies[0]));
    let address = format!("127.0.0.1:{}", ports[1]);
    assert_eq!(stated, Conflict::Original { member: "n1".into(), address });

    let clone: Vec<Daemon> = (0..3).map(|at| renewed(&others, at, &copies[at])).collect();
    serve(&clone);
    assert_eq!(values(clone[1].client().query(get("k")))[0].0, &b"original"[..]);
    assert!(clone.iter().all(|daemon| daemon.status().read_ineligible == 0));
    clone[0].client().query(put("only", b"in the clone"));
    assert_eq!(values(original[0].client().query(get("only"))).len(), 0);
    let id = |store: &MemoryStore| store.meta().unwrap().unwrap().cluster.unwrap().id;
    assert_ne!(id(&stores[0]), id(&copies[0]));
    assert_eq!(id(&copies[1]), id(&copies[0]));
    assert!(original.iter().all(|daemon| daemon.status().peers.iter().all(|peer| peer.up)));
    // From then on it is started as any other cluster.
    for daemon in clone {
        daemon.query_to_stop();
        daemon.ended().unwrap();
    }
    let again: Vec<Daemon> =
        (0..3).map(|at| Daemon::start(&others, at, copies[at].clone())).collect();
    serve(&again);
}
