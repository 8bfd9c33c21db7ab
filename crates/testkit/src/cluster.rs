//! Clusters and commands that end with their test, whether it passes or fails.

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

/// The command `pixii` of this build with these arguments.
pub fn pixii(arguments: &[&str]) -> Command {
    let mut command = Command::new(crate::pixii_path());
    command.args(arguments).env_remove("PIXII_CONNECT").env_remove("PIXII_SECRET_FILE");
    command
}

/// Sends a signal, given by its name, to a process that this test has started.
pub fn signal(name: &str, pid: u32) {
    let sent = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap();
    assert!(sent.success(), "kill -{name} {pid}");
}

/// The result of a command that has ended.
#[derive(Debug)]
pub struct Finished {
    /// Its exit code; -1 if a signal ended it.
    pub code: i32,
    /// Standard output as bytes.
    pub bytes: Vec<u8>,
    /// Standard output as text.
    pub out: String,
    /// Standard error as text.
    pub err: String,
}

impl Finished {
    /// Exit code and standard error; panics if there is anything on standard output.
    pub fn stated(&self) -> (i32, &str) {
        assert_eq!(self.out, "", "nothing on standard output: {self:?}");
        (self.code, &self.err)
    }

    /// Standard output of a command that succeeded and wrote nothing to standard error.
    pub fn done(&self) -> &str {
        assert_eq!((self.code, self.err.as_str()), (0, ""), "{self:?}");
        &self.out
    }

    /// Standard output as one JSON value.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A command in progress. Dropping it kills the process.
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
    /// Starts the command with this standard input.
    pub fn start(mut command: Command, input: &[u8]) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_vec());
        // The command may end before it has read everything.
        thread::spawn(move || stdin.write_all(&input));
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        Run { child, out: collect(out), err: collect(err) }
    }

    /// The id of its process, for [`signal`].
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the command ends.
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

/// A cluster of daemons n1, n2 and so on, with its directory; dropping it removes both.
pub struct TestCluster {
    /// The daemons. Before the directory, so that they are gone first.
    pub cluster: Cluster,
    /// Holds n1.toml, n1.log, n1 and so on.
    pub dir: TempDir,
    runtime: Runtime,
}

impl Drop for TestCluster {
    /// If the test fails, prints the last log lines of the daemons: they are removed with the
    /// directory.
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
    /// Starts a cluster with N = 3 (or fewer, if there are fewer nodes) and R = W = majority.
    pub fn start(nodes: usize) -> Self {
        let mut cluster = TestCluster::create(nodes);
        cluster.start_all();
        cluster
    }

    /// Configures such a cluster without starting a daemon.
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

    /// A copy of the directory, configured at other addresses; no daemon of it is started.
    pub fn copied(&self) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let all = format!("{}/.", self.dir.path().display());
        let copied = Command::new("cp").args(["-r", &all]).arg(dir.path()).status().unwrap();
        assert!(copied.success());
        TestCluster::found(dir, self.cluster.daemons().len())
    }

    /// Starts the daemons that do not run, and waits until all are linked.
    pub fn start_all(&mut self) {
        self.cluster.start_all().unwrap();
        self.runtime.block_on(self.cluster.ready(DEADLINE)).unwrap();
    }

    /// Starts the daemons that do not run, except for this one, and waits until all others are
    /// linked.
    pub fn start_all_but(&mut self, dead: &str) {
        let daemons = self.cluster.daemons().iter();
        let idle = daemons.filter(|daemon| !daemon.is_running() && daemon.name != dead);
        let names: Vec<String> = idle.map(|daemon| daemon.name.clone()).collect();
        names.iter().for_each(|name| self.cluster.start(name).unwrap());
        self.runtime.block_on(self.cluster.ready(DEADLINE)).unwrap();
    }

    /// Stops all daemons, cleanly or with `kill -9`, and starts them again.
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

    /// The whole log of a daemon so far.
    pub fn log(&self, name: &str) -> String {
        fs::read_to_string(self.path(&format!("{name}.log"))).unwrap()
    }

    /// The address (`host:port`) of a daemon; panics if there is no daemon of this name.
    pub fn address(&self, name: &str) -> &str {
        let mut daemons = self.cluster.daemons().iter();
        &daemons.find(|daemon| daemon.name == name).unwrap().address
    }

    /// The process id of a daemon; panics if it does not run.
    pub fn pid(&self, name: &str) -> u32 {
        let mut daemons = self.cluster.daemons().iter();
        daemons.find(|daemon| daemon.name == name).and_then(|daemon| daemon.pid()).unwrap()
    }

    /// The command with the addresses of all daemons in `PIXII_CONNECT`, in the cluster's
    /// directory.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let daemons = self.cluster.daemons().iter();
        let all: Vec<&str> = daemons.map(|daemon| daemon.address.as_str()).collect();
        let mut command = pixii(arguments);
        command.env("PIXII_CONNECT", all.join(",")).current_dir(self.dir.path());
        command
    }

    /// Runs the command with this standard input until it ends.
    pub fn fed(&self, arguments: &[&str], input: &[u8]) -> Finished {
        Run::start(self.command(arguments), input).end()
    }

    /// Runs the command until it ends.
    pub fn run(&self, arguments: &[&str]) -> Finished {
        self.fed(arguments, b"")
    }

    /// The status report of a daemon.
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

    /// The progress of a daemon's drain, and what is left to do.
    pub fn drain_report(&self, name: &str) -> DrainReport {
        let address = [self.address(name).to_string()];
        self.runtime.block_on(async {
            let client = Client::connect(&address, Options::default()).await.unwrap();
            client.drain(None, DrainOrder::Show).await.unwrap()
        })
    }

    /// Waits until a daemon has acknowledged this many puts since its start.
    pub fn wait_for_puts(&self, name: &str, count: u64) {
        let acknowledged =
            || (self.status(name).count(Counter::PutsAcknowledged) >= count).then_some(());
        until("puts are acknowledged", acknowledged);
    }

    /// Waits until no running daemon keeps hints.
    pub fn wait_for_no_hints(&self) {
        until("all hints are delivered", || {
            let mut daemons = self.cluster.daemons().iter().filter(|daemon| daemon.is_running());
            let none = |name: &str| self.status(name).peers.iter().all(|peer| peer.hints == 0);
            daemons.all(|daemon| none(&daemon.name)).then_some(())
        });
    }

    /// The owners of these keys, each in the order of its preference list, as `pixii ring --stdin`
    /// reports them. No key may need an escape.
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

    /// A key with exactly these owners in this order.
    pub fn key_of(&self, owners: [&str; 3]) -> String {
        self.keys_of(owners, 1).remove(0)
    }

    /// So many such keys.
    pub fn keys_of(&self, owners: [&str; 3], count: usize) -> Vec<String> {
        self.runtime.block_on(async {
            let address = [self.address(owners[0]).to_string()];
            let client = Client::connect(&address, Options::default()).await.unwrap();
            let ring = client.ring();
            let wanted = owners.map(NodeId::of);
            let fits = |name: &String| {
                let key = Key::new(name.clone().into_bytes()).unwrap();
                ring.owners(ring.partition(&key)) == wanted
            };
            (0..10_000).map(|number| format!("key-{number}")).filter(fits).take(count).collect()
        })
    }
}

/// The distinct lines of a text.
pub fn lines(text: &str) -> BTreeSet<&str> {
    text.lines().collect()
}

/// The state of a process as the kernel reports it: `T` if it is stopped, `X` if it is gone.
pub fn state(pid: u32) -> char {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).unwrap_or('X')
}

/// Waits until a process is gone, or is a zombie: it has ended, and its exit code was not read yet.
pub fn wait_for_end(pid: u32) {
    until("the process ends", || ['X', 'Z'].contains(&state(pid)).then_some(()));
}
