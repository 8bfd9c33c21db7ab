//! Clusters and commands that end with their test, however it ends.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};

use pixii_client::{Client, Options};
use pixii_core::message::{Counter, DrainOrder, DrainReport, StatusReport};
use pixii_core::ring::Ring;
use pixii_core::types::{Key, NodeId};
use pixii_kit::cluster::{Cluster, Shape};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use crate::{DEADLINE, until};

/// The command with these arguments.
pub fn pixii(arguments: &[&str]) -> Command {
    let mut command = Command::new(crate::pixii_path());
    command.args(arguments).env_remove("PIXII_CONNECT").env_remove("PIXII_SECRET_FILE");
    command
}

/// Sends a signal, by name, to a process that this test has started.
pub fn signal(name: &str, pid: u32) {
    let sent = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap();
    assert!(sent.success(), "kill -{name} {pid}");
}

/// How a command ended, and what it said.
#[derive(Debug)]
pub struct Finished {
    /// Its exit code; -1 if a signal ended it.
    pub code: i32,
    /// Standard output.
    pub bytes: Vec<u8>,
    /// Standard output as text.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Finished {
    /// Exit code and standard error: for those that say nothing else.
    pub fn stated(&self) -> (i32, &str) {
        assert_eq!(self.out, "", "nothing on standard output: {self:?}");
        (self.code, &self.err)
    }

    /// Standard output of a command that went well, silently.
    pub fn done(&self) -> &str {
        assert_eq!((self.code, self.err.as_str()), (0, ""), "{self:?}");
        &self.out
    }

    /// Standard output as one JSON value.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A command in progress. Dropped, it is killed.
pub struct Run {
    child: Child,
    out: Option<JoinHandle<Vec<u8>>>,
    err: Option<JoinHandle<Vec<u8>>>,
}

fn collect(mut from: impl Read + Send + 'static) -> Option<JoinHandle<Vec<u8>>> {
    Some(thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        bytes
    }))
}

impl Run {
    /// Starts it with this standard input.
    pub fn start(mut command: Command, input: &[u8]) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_vec());
        // The command may end before it has read everything.
        thread::spawn(move || stdin.write_all(&input));
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        Run { child, out: collect(out), err: collect(err) }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end.
    pub fn end(mut self) -> Finished {
        let status = until("the command ends", || self.child.try_wait().unwrap());
        let bytes = self.out.take().unwrap().join().unwrap();
        let err = self.err.take().unwrap().join().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let code = status.code().unwrap_or(-1);
        Finished { code, out: text(&bytes), err: text(&err), bytes }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A cluster of daemons n1, n2 and so on, and its directory; both go when this is dropped.
pub struct TestCluster {
    /// The daemons. Before the directory, so that they are gone first.
    pub cluster: Cluster,
    /// Holds n1.toml, n1.log, n1 and so on.
    pub dir: TempDir,
    runtime: Runtime,
}

impl Drop for TestCluster {
    /// What failed may be recognised by the daemons' last words, which go with the directory.
    fn drop(&mut self) {
        if thread::panicking() {
            for daemon in self.cluster.daemons() {
                let log = fs::read_to_string(self.path(&format!("{}.log", daemon.name)));
                let log = log.unwrap_or_default();
                let reported = log.lines().filter(|line| !line.contains(" TRACE ")).rev();
                let last: Vec<&str> = reported.take(20).collect();
                let last = last.into_iter().rev().collect::<Vec<_>>().join("\n");
                eprintln!("--- {}:\n{last}", daemon.name);
            }
        }
    }
}

impl TestCluster {
    /// A running cluster with N = 3 (or as many as there are nodes), R = W = majority.
    pub fn start(nodes: usize) -> Self {
        let mut cluster = TestCluster::create(nodes);
        cluster.start_all();
        cluster
    }

    /// The same, before any daemon is started.
    pub fn create(nodes: usize) -> Self {
        TestCluster::found(tempfile::tempdir().unwrap(), nodes)
    }

    fn found(dir: TempDir, nodes: usize) -> Self {
        let n = nodes.min(3) as u8;
        let (r, w) = (n / 2 + 1, n / 2 + 1);
        let shape = Shape { cluster: "test".into(), nodes, n, r, w, partitions: 64 };
        let program = crate::pixii_path();
        let cluster = Cluster::create(program, dir.path(), &shape, None).unwrap();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        TestCluster { cluster, dir, runtime }
    }

    /// A copy of its directory, configured at other addresses; nothing of it is started.
    pub fn copied(&self) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let all = format!("{}/.", self.dir.path().display());
        let copied = Command::new("cp").args(["-r", &all]).arg(dir.path()).status().unwrap();
        assert!(copied.success());
        TestCluster::found(dir, self.cluster.daemons().len())
    }

    /// Starts what does not run, and waits until all are linked.
    pub fn start_all(&mut self) {
        self.cluster.start_all().unwrap();
        self.runtime.block_on(self.cluster.ready(DEADLINE)).unwrap();
    }

    /// Starts what does not run, this one apart, and waits until all are linked.
    pub fn start_all_but(&mut self, dead: &str) {
        let daemons = self.cluster.daemons().iter();
        let idle = daemons.filter(|daemon| !daemon.is_running() && daemon.name != dead);
        let names: Vec<String> = idle.map(|daemon| daemon.name.clone()).collect();
        names.iter().for_each(|name| self.cluster.start(name).unwrap());
        self.runtime.block_on(self.cluster.ready(DEADLINE)).unwrap();
    }

    /// Stops all cleanly, or with kill -9, and starts them again.
    pub fn restart(&mut self, cleanly: bool) {
        if cleanly {
            self.cluster.stop_all().unwrap();
        } else {
            let running = self.cluster.daemons().iter().filter(|daemon| daemon.is_running());
            let names: Vec<String> = running.map(|daemon| daemon.name.clone()).collect();
            names.iter().for_each(|name| self.cluster.kill(name).unwrap());
        }
        self.start_all();
    }

    /// A file of the cluster's directory, such as n1.log.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What a daemon has logged.
    pub fn log(&self, name: &str) -> String {
        fs::read_to_string(self.path(&format!("{name}.log"))).unwrap()
    }

    /// A daemon's address.
    pub fn address(&self, name: &str) -> &str {
        let mut daemons = self.cluster.daemons().iter();
        &daemons.find(|daemon| daemon.name == name).unwrap().address
    }

    /// A daemon's process.
    pub fn pid(&self, name: &str) -> u32 {
        let mut daemons = self.cluster.daemons().iter();
        daemons.find(|daemon| daemon.name == name).and_then(|daemon| daemon.pid()).unwrap()
    }

    /// The command, reported where all daemons are.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let daemons = self.cluster.daemons().iter();
        let all: Vec<&str> = daemons.map(|daemon| daemon.address.as_str()).collect();
        let mut command = pixii(arguments);
        command.env("PIXII_CONNECT", all.join(",")).current_dir(self.dir.path());
        command
    }

    /// Runs the command to its end with this standard input.
    pub fn fed(&self, arguments: &[&str], input: &[u8]) -> Finished {
        Run::start(self.command(arguments), input).end()
    }

    /// Runs the command to its end.
    pub fn run(&self, arguments: &[&str]) -> Finished {
        self.fed(arguments, b"")
    }

    /// A daemon's account of itself.
    pub fn status(&self, name: &str) -> StatusReport {
        let address = [self.address(name).to_string()];
        self.runtime.block_on(async {
            Client::connect(&address, Options::default()).await.unwrap().status(None).await.unwrap()
        })
    }

    /// The ring that a daemon uses.
    pub fn ring(&self, name: &str) -> Ring {
        let address = [self.address(name).to_string()];
        self.runtime.block_on(async {
            Client::connect(&address, Options::default()).await.unwrap().ring().clone()
        })
    }

    /// How far a daemon's drain is, and what is left to do.
    pub fn drain_report(&self, name: &str) -> DrainReport {
        let address = [self.address(name).to_string()];
        self.runtime.block_on(async {
            let client = Client::connect(&address, Options::default()).await.unwrap();
            client.drain(None, DrainOrder::Show).await.unwrap()
        })
    }

    /// Waits until a daemon has acknowledged so many puts since its start.
    pub fn wait_for_puts(&self, name: &str, count: u64) {
        let acknowledged =
            || (self.status(name).count(Counter::PutsAcknowledged) >= count).then_some(());
        until("puts are acknowledged", acknowledged);
    }

    /// Waits until nobody keeps anything for anybody.
    pub fn wait_for_no_hints(&self) {
        until("all hints are delivered", || {
            let mut daemons = self.cluster.daemons().iter().filter(|daemon| daemon.is_running());
            let none = |name: &str| self.status(name).peers.iter().all(|peer| peer.hints == 0);
            daemons.all(|daemon| none(&daemon.name)).then_some(())
        });
    }

    /// The owners of keys in their order, as `pixii ring --stdin` reports them. No key needs an
    /// escape.
    pub fn owners(&self, keys: &[&str]) -> Vec<Vec<String>> {
        let input: String = keys.iter().map(|key| format!("{key}\n")).collect();
        let reported = self.fed(&["ring", "--stdin"], input.as_bytes());
        let owners = |(key, line): (&&str, &str)| {
            let columns: Vec<&str> = line.split('\t').collect();
            assert_eq!((columns.len(), columns[0]), (3, *key));
            columns[2].split(',').map(String::from).collect()
        };
        keys.iter().zip(reported.done().lines()).map(owners).collect()
    }

    /// A key whose owners are these, in this order; for clusters of three.
    pub fn key_of(&self, owners: [&str; 3]) -> String {
        self.runtime.block_on(async {
            let address = [self.address(owners[0]).to_string()];
            let client = Client::connect(&address, Options::default()).await.unwrap();
            let ring = client.ring();
            let wanted = owners.map(NodeId::of);
            let fits = |name: &String| {
                let key = Key::new(name.clone().into_bytes()).unwrap();
                ring.owners(ring.partition(&key)) == wanted
            };
            (0..10_000).map(|number| format!("key-{number}")).find(fits).unwrap()
        })
    }
}

/// The lines of a text.
pub fn lines(text: &str) -> BTreeSet<&str> {
    text.lines().collect()
}

/// The state of a process as the kernel reports it: T if it is frozen, X if it is gone.
pub fn state(pid: u32) -> char {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).unwrap_or('X')
}

/// Waits until a process is gone. A zombie has ended; nobody has asked for its exit code yet.
pub fn wait_for_end(pid: u32) {
    until("the process ends", || ['X', 'Z'].contains(&state(pid)).then_some(()));
}
