//! Real daemons whose system calls fail: strace makes the kernel's answers. Where strace cannot
//! trace, these tests say so and are skipped; under CI they fail instead.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use pixii_core::message::{CallBody, Response};
use pixii_core::types::Blob;
use pixii_testkit::daemon::{Client, config_text, get, put, values};
use pixii_testkit::{free_port, until};
use tempfile::TempDir;

/// True when this machine lets strace trace.
fn strace_works(test: &str) -> bool {
    let outcome = Command::new("strace").args(["-f", "-qq", "-o", "/dev/null", "true"]).output();
    let why = match outcome {
        Ok(output) if output.status.success() => return true,
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => error.to_string(),
    };
    assert!(std::env::var_os("CI").is_none(), "strace must work under CI: {why}");
    println!("{test}: SKIPPED, because strace cannot trace here: {why}");
    false
}

/// A process that never outlives its test.
struct Process(Child);

impl Process {
    fn ended(&mut self) -> ExitStatus {
        until("the end of a process", || self.0.try_wait().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A daemon follows its standard input, also when strace, its parent, is killed before it.
        drop(self.0.stdin.take());
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A cluster of one node, and its files.
struct Owner {
    dir: TempDir,
    port: u16,
}

impl Owner {
    fn new() -> Self {
        let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
        let text = config_text("n0", &[port], 0);
        let data = format!("data_dir = \"{}\"", dir.path().join("data").display());
        let text = text.replace("data_dir = \"unused\"", &data) + "";
        fs::write(dir.path().join("n0.toml"), format!("disk_reserve_mib = 0\n{text}")).unwrap();
        Owner { dir, port }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Starts the daemon, below `tracer` if one is given.
    fn start(&self, tracer: &[&str]) -> Process {
        let server = [env!("CARGO_BIN_EXE_pixii"), "server", "--follow-stdin", "--config"];
        let config = self.dir.path().join("n0.toml");
        let words: Vec<&str> = tracer.iter().copied().chain(server).collect();
        let log = fs::File::create(self.dir.path().join("log")).unwrap();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg(config).stdin(Stdio::piped()).stdout(Stdio::null());
        Process(command.stderr(log).spawn().unwrap())
    }

    /// A client of the daemon, once it serves.
    fn client(&self) -> Client {
        let mut client = Client::connect(self.port);
        until("the daemon serves", || client.status().serving.then_some(()));
        client
    }

    /// The last line that the daemon wrote. What it says is one sentence, and no panic came
    /// through.
    fn last_line(&self) -> String {
        let log = fs::read_to_string(self.dir.path().join("log")).unwrap();
        assert!(!log.contains("panicked"), "{log}");
        let last = log.lines().last().unwrap_or_default();
        assert!(last.starts_with("pixii: ") && last.len() < 500, "{log}");
        last.to_string()
    }

    /// Starts without faults: all of `acked` is there.
    fn holds(&self, acked: usize) {
        let mut process = self.start(&[]);
        let mut client = self.client();
        for n in 0..acked {
            let found = values(client.query(get(&format!("k{n}"))));
            assert_eq!(found, [Blob(format!("v{n}").into_bytes().into())], "k{n} of {acked}");
        }
        drop(process.0.stdin.take());
        assert!(process.ended().success());
    }
}

/// Writes `k0`, `k1`, ... up to `count` one by one; how many were acknowledged before the
/// connection ended.
fn write(client: &mut Client, from: usize, count: usize) -> usize {
    for n in from..count {
        client.data(put(&format!("k{n}"), format!("v{n}").as_bytes()));
        match client.reply() {
            None => return n,
            Some(reply) => {
                let text = format!("{reply:?}");
                let pixii_core::message::ReplyBody::Data(response) = reply.body else {
                    panic!("{text}")
                };
                assert!(matches!(response, Response::Written { .. }), "{text}");
            }
        }
    }
    count
}

/// From now on the process's `call`s fail as `fault` says, in the syntax of strace.
fn inject(process: &Process, call: &str, fault: &str) -> Process {
    let pid = process.0.id();
    let (trace, fault) = (format!("trace={call}"), format!("inject={call}:{fault}"));
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &fault]);
    let tracer = Process(command.args(["-p", &pid.to_string()]).spawn().unwrap());
    until("strace has every thread", || {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
        let traced = |task: PathBuf| {
            let status = fs::read_to_string(task.join("status")).unwrap_or_default();
            !status.contains("TracerPid:\t0\n")
        };
        tasks.filter_map(Result::ok).all(|task| traced(task.path())).then_some(())
    });
    tracer
}

#[test]
fn a_writer_that_is_stuck_is_notified_of_and_ends_no_daemon() {
    if !strace_works("a_writer_that_is_stuck") {
        return;
    }
    let owner = Owner::new();
    let socket = owner.dir.path().join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    let managed = format!("NOTIFY_SOCKET={}", socket.display());
    let process = owner.start(&["env", &managed, "WATCHDOG_USEC=400000"]);
    let mut client = owner.client();
    assert_eq!(write(&mut client, 0, 10), 10);
    let mut bytes = [0; 4_096];
    let mut hears = |timeout: Duration| {
        manager.set_read_timeout(Some(timeout)).unwrap();
        manager.recv(&mut bytes).ok().map(|count| bytes[..count].to_vec())
    };
    until("the watchdog is fed", || {
        hears(Duration::from_secs(30)).filter(|stated| stated.starts_with(b"WATCHDOG=1"))
    });
    let tracer = inject(&process, "fdatasync,fsync,sync_file_range", "delay_enter=60000000");
    client.data(put("k10", b"v10"));
    until("the manager is notified", || {
        let stated = hears(Duration::from_secs(30))?;
        let stated = String::from_utf8_lossy(&stated).into_owned();
        stated.contains("its disk has made no progress").then_some(())
    });
    until("the watchdog is fed all the same", || {
        hears(Duration::from_secs(30)).filter(|stated| stated.starts_with(b"WATCHDOG=1"))
    });
    assert_eq!(client.status().name, "n0", "the node itself answers");
    drop(tracer);
    drop(process);
}

#[test]
fn an_io_error_while_running_ends_the_daemon_and_nothing_is_acknowledged_after_it() {
    if !strace_works("an_io_error_while_running") {
        return;
    }
    // Only the first call fails: who tried again would succeed, and promise what may be lost.
    for (call, error, stated) in [
        ("fdatasync", "EIO", "Input/output error"),
        ("pwrite64", "EIO", "Input/output error"),
        ("pwrite64", "ENOSPC", "No space left on device"),
    ] {
        let owner = Owner::new();
        let mut process = owner.start(&[]);
        let mut client = owner.client();
        assert_eq!(write(&mut client, 0, 25), 25);
        let _tracer = inject(&process, call, &format!("error={error}:when=1"));
        let acked = write(&mut client, 25, 1_000);
        assert_eq!(acked, 25, "{call}: a write was acknowledged after the error");
        let status = process.ended();
        let last = owner.last_line();
        assert_eq!(status.code(), Some(1), "{call}: {last}");
        assert!(last.starts_with("pixii: the store failed: ") && last.contains(stated), "{last}");
        println!("{call} {error}: {last}");
        owner.holds(acked);
    }
}

#[test]
fn an_io_error_at_a_clean_stop_is_reported_and_loses_nothing() {
    if !strace_works("an_io_error_at_a_clean_stop") {
        return;
    }
    // At the end the log is synced, then brought to the tree, which is synced, too.
    for (call, nth) in [("fdatasync", 1), ("fdatasync", 3), ("sync_file_range", 1)] {
        let owner = Owner::new();
        let mut process = owner.start(&[]);
        let mut client = owner.client();
        let acked = write(&mut client, 0, 25);
        let _tracer = inject(&process, call, &format!("error=EIO:when={nth}"));
        client.call(CallBody::Stop);
        assert_eq!(process.ended().code(), Some(1), "{call} {nth}");
        let last = owner.last_line();
        assert!(last.starts_with("pixii: the store"), "{last}");
        assert!(last.contains("failed: Input/output error"), "{last}");
        owner.holds(acked);
    }
}

/// Starts under strace with a fault; the exit code and the last line, or `None` if the daemon came
/// up.
fn start_with(owner: &Owner, fault: &[&str]) -> Option<(i32, String)> {
    let tracer = [&["strace", "-f", "-qq", "-o", "/dev/null"], fault].concat();
    let mut process = owner.start(&tracer);
    let code = until("a start or an end", || {
        if let Some(status) = process.0.try_wait().unwrap() {
            return Some(Some(status.code().expect("no signal ends it")));
        }
        std::net::TcpStream::connect(("127.0.0.1", owner.port)).is_ok().then_some(None)
    });
    if code.is_none() {
        println!("came up: {fault:?}");
        drop(process.0.stdin.take());
        process.ended();
    }
    code.map(|code| (code, owner.last_line()))
}

#[test]
fn an_io_error_at_open_is_one_sentence_and_loses_nothing() {
    if !strace_works("an_io_error_at_open") {
        return;
    }
    let owner = Owner::new();
    let mut process = owner.start(&[]);
    let acked = write(&mut owner.client(), 0, 25);
    process.0.kill().unwrap();
    process.ended();
    let data = owner.data().display().to_string();
    let log = owner.data().join("sled/db").display().to_string();
    let commits = owner.data().join("sled/COMMITS").display().to_string();
    let mut ends = 0;
    for (call, error, path) in [
        ("fsync", "EIO", &data),
        ("fdatasync", "EIO", &data),
        // A bad sector stays bad, whoever reads it.
        ("read,pread64", "EIO", &log),
        ("pwrite64", "EIO", &log),
        ("pwrite64", "ENOSPC", &log),
        ("read,pread64", "EIO", &commits),
        ("fdatasync", "EIO", &commits),
        ("pwrite64", "EIO", &commits),
        ("pwrite64", "ENOSPC", &commits),
    ] {
        for nth in 1..=3 {
            let until_the_end = if call.contains("read") { "+" } else { "" };
            let inject = format!("inject={call}:error={error}:when={nth}{until_the_end}");
            let trace = format!("trace={call}");
            let mut fault = vec!["-e", trace.as_str(), "-e", inject.as_str()];
            if path != &data {
                fault.extend(["-P", path]);
            }
            let Some((code, last)) = start_with(&owner, &fault) else { continue };
            println!("{call} {error} at call {nth}: {last}");
            assert_eq!(code, 1, "{last}");
            assert!(!last.contains("damaged"), "an error of the disk is no damage: {last}");
            assert!(!last.contains("set aside"), "and sets nothing aside: {last}");
            ends += 1;
        }
    }
    assert!(ends >= 5, "only {ends} of the faults ended a start");
    owner.holds(acked);
}

#[test]
fn a_directory_without_permission_is_one_sentence_that_asks_for_an_operator() {
    if !strace_works("a_directory_without_permission") {
        return;
    }
    let owner = Owner::new();
    let mut process = owner.start(&[]);
    let acked = write(&mut owner.client(), 0, 5);
    drop(process.0.stdin.take());
    assert!(process.ended().success());
    let denied = |path: &Path| {
        let path = path.display().to_string();
        let inject = "inject=openat:error=EACCES";
        let (code, last) =
            start_with(&owner, &["-P", &path, "-e", "trace=openat", "-e", inject]).unwrap();
        println!("{last}");
        assert!(last.contains("Permission denied"), "{last}");
        code
    };
    for file in ["FORMAT", "LOCK", "MARK", "sled"] {
        assert_eq!(denied(&owner.data().join(file)), 2, "{file}");
    }
    assert_eq!(denied(&owner.dir.path().join("n0.toml")), 2);
    owner.holds(acked);
}

/// Runs the command on a directory, below `tracer` if one is given.
fn pixii(tracer: &[&str], words: &[&str], data: &Path) -> std::process::Output {
    let all: Vec<&str> =
        tracer.iter().chain([&env!("CARGO_BIN_EXE_pixii")]).chain(words).copied().collect();
    Command::new(all[0]).args(&all[1..]).arg(data).output().unwrap()
}

/// Copies a directory to a place where nothing is.
fn copied(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

#[test]
fn a_migration_that_is_killed_at_any_call_is_completed_by_the_next_one() {
    if !strace_works("a_migration_that_is_killed") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut kills = 0;
    // All steps from the first schema, and the newest one for a store that was not stopped. What
    // the program that wrote the data said of it.
    for (name, digest) in [("v1", "b78b15f64d80ba17"), ("v3-killed", "e2929f735bc374f3")] {
        let archive = format!("{}/tests/fixtures/{name}.tar.gz", env!("CARGO_MANIFEST_DIR"));
        let mut tar = Command::new("tar");
        assert!(tar.args(["xzf", &archive, "-C"]).arg(dir.path()).status().unwrap().success());
        let (given, data) = (dir.path().join(name), dir.path().join("data"));
        // Whatever changes a file, or makes a change last.
        for call in [
            "pwrite64",
            "write",
            "fdatasync",
            "fsync",
            "sync_file_range",
            "ftruncate",
            "unlink",
            "rename",
        ] {
            let trace = format!("trace={call}");
            for nth in 1.. {
                copied(&given, &data);
                let inject = format!("inject={call}:signal=SIGKILL:when={nth}");
                let tracer =
                    ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
                let first = pixii(&tracer, &["migrate"], &data);
                let next = pixii(&[], &["migrate"], &data);
                let stated = String::from_utf8_lossy(&next.stderr);
                assert!(next.status.success(), "{name}, {call} {nth}: {stated}");
                let checked = pixii(&[], &["check", "--json"], &data);
                let checked = String::from_utf8_lossy(&checked.stdout);
                let wanted = format!("\"digest\":\"{digest}\"");
                let whole = checked.contains(&wanted) && checked.contains("\"clean\":true");
                assert!(whole, "{name}, {call} {nth}: {checked}");
                if first.status.success() {
                    break;
                }
                kills += 1;
            }
        }
    }
    println!("killed {kills} times");
    assert!(kills >= 20, "only {kills} calls were there to be killed at");
}
