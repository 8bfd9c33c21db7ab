//! Each resource of a daemon, exhausted from outside: descriptors, the memory for large frames, the
//! memory for replies, places for connections, lines of the log.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pixii_core::message::{Call, CallBody, Request};
use pixii_core::types::Key;
use pixii_core::wire::{self, Welcome};
use pixii_testkit::cluster::{Finished, Run, TestCluster, state};
use pixii_testkit::{DEADLINE, until};

use crate::secrets::{connect, greeted, raise_descriptors};

/// Three daemons, of which n1 may have `limit` descriptors; with the HTTP port of n1.
fn limited(limit: u32) -> (TestCluster, u16) {
    raise_descriptors();
    let mut cluster = TestCluster::create(3);
    let script = cluster.path("limited.sh");
    let program = env!("CARGO_BIN_EXE_pixii");
    let text = format!("#!/bin/sh\nulimit -n {limit}\nexec {program} \"$@\"\n");
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    cluster.cluster.install("n1", script).unwrap();
    let http = with_http(&cluster);
    cluster.cluster.configure("max_connections_per_address = 1000").unwrap();
    cluster.start_all();
    (cluster, http)
}

/// Gives n1 an HTTP port that the kernel chooses.
pub fn with_http(cluster: &TestCluster) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let http = listener.local_addr().unwrap().port();
    let path = cluster.path("n1.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("http_listen = \"127.0.0.1:{http}\"\n{text}")).unwrap();
    http
}

/// What the HTTP port answers, if it does.
fn look(http: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", http)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
}

/// A metric of n1.
fn sample(http: u16, name: &str) -> Option<f64> {
    let page = look(http, "/metrics")?;
    let line = page.lines().find(|line| line.starts_with(name))?;
    line.rsplit_once(' ')?.1.parse().ok()
}

/// Runs a command that knows the address of this daemon alone.
fn run_at(cluster: &TestCluster, name: &str, arguments: &[&str], input: &[u8]) -> Finished {
    let mut command = cluster.command(arguments);
    command.env("PIXII_CONNECT", cluster.address(name));
    Run::start(command, input).end()
}

/// Clients, half of them after a handshake, from six addresses; whoever is cut off is left out.
fn idle_clients(cluster: &TestCluster, count: usize) -> Vec<TcpStream> {
    let mut idle = Vec::new();
    for number in 0..count {
        let mut stream = connect(cluster, &format!("127.0.0.{}", 2 + number % 6));
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        if number % 2 == 0 || matches!(greeted(&mut stream), Some(Welcome::Accepted { .. })) {
            idle.push(stream);
        }
    }
    idle
}

/// With so many descriptors, silent clients and HTTP connections end nothing and starve nobody
/// that has reserved descriptors.
fn survives_idle_clients(limit: u32) {
    let (mut cluster, http) = limited(limit);
    let pid = cluster.pid("n1");
    let http_connections: Vec<TcpStream> =
        (0..150).filter_map(|_| TcpStream::connect(("127.0.0.1", http)).ok()).collect();
    let idle = idle_clients(&cluster, 1_000);
    let log = cluster.log("n1");
    assert!(!log.contains("cannot accept a connection"), "more was accepted than fits: {log}");

    // The store: every write needs its sync.
    let large = vec![b'x'; 100 << 10];
    for number in 0..10 {
        let key = format!("k{number}");
        run_at(&cluster, "n2", &["put", &key, "-", "-w", "3", "--strict"], &large).done();
    }
    // The HTTP port and the operator.
    until("the HTTP port answers", || look(http, "/livez").filter(|stated| stated == "alive\n"));
    until("the operator is let in", || {
        (run_at(&cluster, "n1", &["status"], b"").code == 0).then_some(())
    });
    // The links, each of which is made anew.
    cluster.cluster.kill("n2").unwrap();
    cluster.cluster.start("n2").unwrap();
    until("n1 and n2 are linked", || {
        let reported = run_at(&cluster, "n2", &["put", "k", "v", "-w", "3", "--strict"], b"");
        (reported.code == 0).then_some(())
    });
    assert_eq!(cluster.pid("n1"), pid);
    assert!(!['X', 'Z'].contains(&state(pid)), "n1 goes on: {}", cluster.log("n1"));
    let log = cluster.log("n1");
    assert!(!log.contains("store failed"), "{log}");
    let stated = format!("{limit} descriptors");
    assert!(log.contains(&stated), "the start says what follows from the limit: {log}");

    // What is given back is there for others.
    drop((idle, http_connections));
    until("clients are let in", || {
        (run_at(&cluster, "n1", &["get", "k"], b"").code == 0).then_some(())
    });
}

#[test]
fn idle_clients_do_not_end_a_daemon_with_64_descriptors() {
    survives_idle_clients(64);
}

#[test]
fn idle_clients_do_not_end_a_daemon_with_256_descriptors() {
    survives_idle_clients(256);
}

#[test]
fn idle_clients_do_not_end_a_daemon_with_1024_descriptors() {
    survives_idle_clients(1_024);
}

/// A control group with a limit of memory, removed with its daemon.
struct MemoryGroup {
    path: PathBuf,
}

impl MemoryGroup {
    /// `None` where this process may not make one: it takes root, and a memory controller.
    fn create(mib: u64) -> Option<Self> {
        let name = format!("pixii-test-{}", std::process::id());
        let hierarchies =
            [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
        hierarchies.iter().find_map(|(root, file)| {
            let path = Path::new(root).join(&name);
            fs::create_dir(&path).ok()?;
            let group = MemoryGroup { path };
            fs::write(group.path.join(file), (mib << 20).to_string()).ok()?;
            Some(group)
        })
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let removed = || fs::remove_dir(&self.path).is_ok().then_some(());
        until("the control group is removed", removed);
    }
}

/// Keys whose values have 1 MiB.
const LARGE_KEYS: u64 = 16;

/// So many clients from four addresses that each ask 64 times for a value of 1 MiB and read
/// nothing.
fn slow_readers(cluster: &TestCluster, count: usize) -> Vec<TcpStream> {
    for number in 0..LARGE_KEYS {
        cluster.fed(&["put", &format!("large{number}"), "-"], &vec![b'x'; 1 << 20]).done();
    }
    let request = |id| {
        let key = Key::new(format!("large{}", id % LARGE_KEYS)).unwrap();
        Request::Get { key, r: None.into() }
    };
    let mut slow = Vec::new();
    for number in 0..count {
        let mut stream = connect(cluster, &format!("127.0.0.{}", 2 + number % 4));
        assert!(matches!(greeted(&mut stream), Some(Welcome::Accepted { .. })));
        for id in 0..64 {
            let body = CallBody::Data { request: request(id), timeout_ms: 60_000 };
            stream.write_all(&wire::frame(&Call { id, body })).unwrap();
        }
        slow.push(stream);
    }
    slow
}

#[test]
fn slow_clients_do_not_end_a_daemon_with_256_mib() {
    let Some(group) = MemoryGroup::create(256) else {
        return println!("skipped: no control group with a limit of memory can be made here");
    };
    let mut cluster = TestCluster::create(1);
    let script = cluster.path("limited.sh");
    let program = env!("CARGO_BIN_EXE_pixii");
    let procs = group.path.join("cgroup.procs");
    let procs = procs.display();
    let text =
        format!("#!/bin/sh\necho $$ >{procs}\nexport MALLOC_ARENA_MAX=1\nexec {program} \"$@\"\n");
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    cluster.cluster.install("n1", script).unwrap();
    let http = with_http(&cluster);
    cluster.start_all();
    let pid = cluster.pid("n1");
    let log = cluster.log("n1");
    assert!(log.contains("with a memory limit of 256 MiB"), "{log}");
    assert!(!log.contains("needs"), "the defaults fit the limit: {log}");
    let peak = || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("VmHWM")).map(str::to_owned);
        line.unwrap_or_else(|| format!("ended: {}", cluster.log("n1")))
    };
    let held = |name: &str| sample(http, name).unwrap_or_default();
    for what in ["28 senders", "20 readers"] {
        let mut slow = match what {
            "28 senders" => slow_senders(&cluster, 28, 7 << 20),
            _ => slow_readers(&cluster, 20),
        };
        let begun = Instant::now();
        let mut most = (0.0f64, 0.0f64);
        while begun.elapsed() < Duration::from_secs(8) {
            let frames = held("pixii_frame_memory_bytes{from=\"clients\"}");
            most = (most.0.max(frames), most.1.max(held("pixii_reply_memory_bytes")));
            println!("{what}: median of 9 puts of 100 KB {:?}", large_puts(&cluster));
            for stream in &mut slow {
                match what {
                    "28 senders" => drop(stream.write(&[0])),
                    _ => drop(stream.read(&mut [0])),
                }
            }
        }
        println!("{what}: {}, at most {most:?} bytes of frames and replies", peak());
        assert!(!['X', 'Z'].contains(&state(pid)), "{what} ended it: {}", cluster.log("n1"));
        // How much of the replies the sockets take is the kernel's choice.
        assert!(most.0 + most.1 >= f64::from(1 << 20), "{what} took memory: {most:?}");
        drop(slow);
    }
    assert_eq!(cluster.pid("n1"), pid);
    drop(cluster);
    drop(group);
}

/// The head of a frame of 8 MiB, and nothing of it.
const HEAD: [u8; 4] = (8u32 << 20).to_be_bytes();

/// The median of how long puts of 100 KB take, each of which has to succeed.
fn large_puts(cluster: &TestCluster) -> Duration {
    let large = vec![b'x'; 100 << 10];
    let mut took: Vec<Duration> = (0..9)
        .map(|_| {
            static NEXT: AtomicU64 = AtomicU64::new(0);
            let begun = Instant::now();
            let key = format!("large-{}", NEXT.fetch_add(1, Ordering::Relaxed));
            cluster.fed(&["put", &key, "-", "--timeout", "5000"], &large).done();
            begun.elapsed()
        })
        .collect();
    took.sort_unstable();
    took[took.len() / 2]
}

/// So many clients that each announce 8 MiB, send `bytes` of them and then a byte now and then.
fn slow_senders(cluster: &TestCluster, count: usize, bytes: usize) -> Vec<TcpStream> {
    let mut slow = Vec::new();
    for number in 0..count {
        let mut stream = connect(cluster, &format!("127.0.0.{}", 1 + number % 3));
        assert!(matches!(greeted(&mut stream), Some(Welcome::Accepted { .. })));
        stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
        stream.write_all(&HEAD).unwrap();
        // It may be full before all of it has left.
        let _ = stream.write_all(&vec![0; bytes]);
        slow.push(stream);
    }
    slow
}

#[test]
fn clients_that_send_a_byte_at_a_time_stop_no_large_put() {
    // One node: with several, the client would send the put to another one.
    let cluster = TestCluster::start(1);
    for count in [32, 64, 256] {
        let mut slow = slow_senders(&cluster, count, 1);
        let begun = Instant::now();
        let median = large_puts(&cluster);
        println!("{count} slow senders: median of 9 puts of 100 KB {median:?}");
        slow.iter_mut().for_each(|stream| drop(stream.write_all(&[0])));
        assert!(begun.elapsed() < Duration::from_secs(50));
    }
}

#[test]
fn a_frame_that_does_not_come_is_given_up_and_its_memory_is_counted_and_shared() {
    let mut cluster = TestCluster::create(1);
    let http = with_http(&cluster);
    cluster.start_all();
    // Three addresses take all that each of them may.
    let slow = slow_senders(&cluster, 36, 7 << 20);
    let held = || sample(http, "pixii_frame_memory_bytes{from=\"clients\"}").unwrap_or_default();
    assert!(held() > f64::from(64 << 20), "{} bytes", held());
    assert!(held() <= f64::from((3 * 64) << 20), "each address has its share: {} bytes", held());
    // Another address has its own, and what waits is reported.
    let mut other = connect(&cluster, "127.0.0.9");
    assert!(matches!(greeted(&mut other), Some(Welcome::Accepted { .. })));
    let value = pixii_core::types::Blob(vec![b'x'; 100 << 10].into());
    let (key, write) = (Key::new(&b"k"[..]).unwrap(), pixii_core::types::WriteId(1));
    let request = Request::Put { key, value, context: None, write, w: None.into() };
    let body = CallBody::Data { request, timeout_ms: 5_000 };
    other.write_all(&wire::frame(&Call { id: 1, body })).unwrap();
    let reply = crate::secrets::next::<pixii_core::message::Reply>(&mut other, 0);
    assert!(format!("{reply:?}").contains("Written"), "{reply:?}");
    let waits = "pixii_frame_memory_waits_total{from=\"clients\"}";
    until("frames that wait are counted", || sample(http, waits).filter(|waits| *waits > 0.0));
    assert!(cluster.log("n1").contains("wait for memory"), "{}", cluster.log("n1"));
    // Nothing more comes, so the connections are closed and the memory is free.
    until("the memory is free", || (held() == 0.0).then_some(()));
    cluster.fed(&["put", "large", "-"], &vec![b'x'; 100 << 10]).done();
    let log = cluster.log("n1");
    assert!((1..=30).contains(&log.matches("closed the connection of client").count()), "{log}");
    drop(slow);
}

#[test]
fn clients_that_read_a_byte_at_a_time_stop_nobody_and_are_closed() {
    let mut cluster = TestCluster::create(1);
    let http = with_http(&cluster);
    cluster.start_all();
    let mut slow = slow_readers(&cluster, 32);
    let closed = "pixii_events_total{event=\"client_connections_closed\"}";
    let begun = Instant::now();
    // Of some, what they do not read is all in the kernel: they hold nothing of the daemon.
    while sample(http, closed).is_none_or(|closed| closed < 16.0) {
        let median = large_puts(&cluster);
        if begun.elapsed() < Duration::from_secs(2) {
            println!("32 slow readers: median of 9 puts of 100 KB {median:?}");
        }
        assert_eq!(cluster.run(&["get", "large0"]).done().len(), 1 << 20);
        slow.iter_mut().for_each(|stream| drop(stream.read(&mut [0])));
        assert!(begun.elapsed() < DEADLINE, "{:?}: {}", sample(http, closed), cluster.log("n1"));
    }
    let lines = cluster.log("n1").matches("it read too little in").count();
    assert!((1..=28).contains(&lines), "{}", cluster.log("n1"));
}

#[test]
fn idle_clients_of_an_address_do_not_shut_out_commands_of_its_operator() {
    let mut cluster = TestCluster::create(1);
    cluster.cluster.configure("max_connections_per_address = 20").unwrap();
    cluster.start_all();
    let idle: Vec<TcpStream> = (0..40)
        .filter_map(|_| {
            let mut stream = connect(&cluster, "127.0.0.1");
            matches!(greeted(&mut stream), Some(Welcome::Accepted { .. })).then_some(stream)
        })
        .collect();
    assert!((20..=24).contains(&idle.len()), "{} are in", idle.len());
    until("the operator is let in", || (cluster.run(&["status"]).code == 0).then_some(()));
    // A place of the operator is no place more for clients.
    let reported = until("it is let in", || {
        let reported = cluster.run(&["put", "k", "v"]);
        (!reported.err.contains("cannot connect")).then_some(reported)
    });
    let stated = "busy: clients from 127.0.0.1 (this is a place for commands of the operator) is \
        at its limit of 20";
    assert!(reported.code == 1 && reported.err.contains(stated), "{reported:?}");
    drop(idle);
    until("clients are let in", || (cluster.run(&["put", "k", "v"]).code == 0).then_some(()));
}

#[test]
fn http_clients_that_say_nothing_or_read_nothing_keep_nobody_out() {
    let mut cluster = TestCluster::create(1);
    let http = with_http(&cluster);
    cluster.start_all();
    let mut slow = Vec::new();
    for number in 0..200 {
        let mut stream = TcpStream::connect(("127.0.0.1", http)).unwrap();
        let stated: &[u8] =
            if number % 2 == 0 { b"GET /met" } else { b"GET /metrics HTTP/1.1\r\n\r\n" };
        // The oldest ones are closed meanwhile.
        let _ = stream.write_all(stated);
        slow.push(stream);
    }
    for _ in 0..10 {
        assert_eq!(look(http, "/readyz").as_deref(), Some("ready\n"));
    }
    cluster.run(&["put", "k", "v"]).done();
}

#[test]
fn what_a_client_sends_or_orders_fills_no_log() {
    let cluster = TestCluster::start(1);
    let lines = |cluster: &TestCluster, what: &str| cluster.log("n1").matches(what).count();
    for _ in 0..300 {
        let mut stream = connect(&cluster, "127.0.0.1");
        assert!(matches!(greeted(&mut stream), Some(Welcome::Accepted { .. })));
        stream.write_all(&[b"garbage, ".as_slice(); 10].concat()).unwrap();
    }
    until("it is closed", || {
        (lines(
            &cluster,
            "closed the connection of \
        client",
        ) > 0)
            .then_some(())
    });
    for _ in 0..20 {
        cluster.run(&["node", "drain", "n1", "--timeout", "1"]);
        cluster.run(&["node", "undrain", "n1"]);
    }
    let of_garbage = lines(&cluster, "closed the connection of client");
    assert!((1..=8).contains(&of_garbage), "{of_garbage} lines for 300 connections");
    let of_orders = lines(&cluster, "takes requests again") + lines(&cluster, "is drained");
    assert!((1..=15).contains(&of_orders), "{of_orders} lines for 40 orders");
}
