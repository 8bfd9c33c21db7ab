//! A cluster of real daemons on this machine: their files, and their processes from start to end.
//! `dev` and `demo` use it, and so may integration tests: it needs nothing else of the command.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use pixii::client::{Client, Options};
use pixii::ring::Ring;
use pixii::types::NodeId;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

/// Most daemons that one machine is asked to run.
const MAX_DAEMONS: usize = 50;
/// How often a process or a node is looked at while something is waited for.
const POLL: Duration = Duration::from_millis(20);
/// How long a daemon may take to stop before it is killed.
const STOP_WAIT: Duration = Duration::from_secs(15);
/// How much of a log is searched for its last line.
const LOG_TAIL_BYTES: u64 = 4_096;

/// What a cluster is like.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    /// Its name.
    pub(crate) cluster: String,
    /// How many daemons.
    pub(crate) nodes: usize,
    /// Replicas of each key.
    pub(crate) n: u8,
    /// Default R.
    pub(crate) r: u8,
    /// Default W.
    pub(crate) w: u8,
    /// Number of partitions.
    pub(crate) partitions: u16,
}

/// A daemon's configuration file.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Config {
    name: String,
    cluster: String,
    data_dir: PathBuf,
    listen: String,
    n: u8,
    r: u8,
    w: u8,
    partitions: u16,
    cache_mib: u32,
    log: String,
    members: Vec<Member>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Member {
    name: String,
    address: String,
}

/// One daemon, running or not.
#[derive(Debug)]
pub(crate) struct Daemon {
    /// Its name.
    pub(crate) name: String,
    /// Where it listens.
    pub(crate) address: String,
    config: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    frozen: bool,
}

/// The daemons. Dropping the cluster kills those that run.
#[derive(Debug)]
pub(crate) struct Cluster {
    program: PathBuf,
    daemons: Vec<Daemon>,
    /// The directory, locked: another cluster would write its own addresses over ours.
    _lock: File,
}

impl Cluster {
    /// Writes the files of a cluster to `dir`, or finds there the data of one with the same shape. It
    /// listens on `first_port` and the ports behind it, or where the kernel likes. `program` is the path
    /// of `pixii`. Nothing is started.
    pub(crate) fn create(
        program: PathBuf,
        dir: &Path,
        shape: &Shape,
        first_port: Option<u16>,
    ) -> Result<Self, String> {
        check(shape)?;
        let addresses = free_addresses(shape.nodes, first_port)?;
        let fault = |error: io::Error| format!("{}: {error}", dir.display());
        fs::create_dir_all(dir).map_err(fault)?;
        let dir = fs::canonicalize(dir).map_err(fault)?;
        let lock = lock(&dir)?;
        check_old(&dir, shape)?;
        let names = (1..=shape.nodes).map(|number| format!("n{number}"));
        let members: Vec<Member> =
            names.zip(addresses).map(|(name, address)| Member { name, address }).collect();
        let mut daemons = Vec::new();
        for Member { name, address } in members.clone() {
            let path = dir.join(format!("{name}.toml"));
            let config = Config {
                data_dir: dir.join(&name),
                name: name.clone(),
                cluster: shape.cluster.clone(),
                listen: address.clone(),
                n: shape.n,
                r: shape.r,
                w: shape.w,
                partitions: shape.partitions,
                cache_mib: 32,
                log: "info".into(),
                members: members.clone(),
            };
            let text = toml::to_string(&config).map_err(|error| error.to_string())?;
            fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
            let log = dir.join(format!("{name}.log"));
            daemons.push(Daemon { name, address, config: path, log, child: None, frozen: false });
        }
        Ok(Cluster { program, daemons, _lock: lock })
    }

    /// Lets the network of all daemons be emulated, from their next start.
    pub(crate) fn allow_emulation(&self) -> Result<(), String> {
        self.configure("allow_emulation = true")
    }

    /// Adds a line to the configuration of all daemons; it holds from their next start.
    pub(crate) fn configure(&self, line: &str) -> Result<(), String> {
        self.daemons.iter().try_for_each(|Daemon { config, .. }| {
            let fault = |error: io::Error| format!("{}: {error}", config.display());
            let text = fs::read_to_string(config).map_err(fault)?;
            fs::write(config, format!("{line}\n{text}")).map_err(fault)
        })
    }

    /// The daemons in the order of their numbers.
    pub(crate) fn daemons(&self) -> &[Daemon] {
        &self.daemons
    }

    /// Starts a daemon that does not run.
    pub(crate) fn start(&mut self, name: &str) -> Result<(), String> {
        let program = self.program.clone();
        let daemon = self.daemon(name)?;
        if daemon.is_running() {
            return Err(format!("{name} is running already"));
        }
        let log = OpenOptions::new().create(true).append(true).open(&daemon.log);
        let log = log.map_err(|error| format!("{}: {error}", daemon.log.display()))?;
        let second =
            log.try_clone().map_err(|error| format!("{}: {error}", daemon.log.display()))?;
        let child = Command::new(&program)
            .arg("server")
            .arg("--config")
            .arg(&daemon.config)
            .arg("--follow-stdin")
            .stdin(Stdio::piped())
            .stdout(log)
            .stderr(second)
            // Ctrl-C goes to whole process groups; these are stopped by their parent, in order.
            .process_group(0)
            .spawn()
            .map_err(|error| format!("{}: {error}", program.display()))?;
        daemon.child = Some(child);
        daemon.frozen = false;
        Ok(())
    }

    /// Starts all daemons that do not run.
    pub(crate) fn start_all(&mut self) -> Result<(), String> {
        let idle = self.daemons.iter().filter(|daemon| !daemon.is_running());
        let names: Vec<String> = idle.map(|daemon| daemon.name.clone()).collect();
        names.iter().try_for_each(|name| self.start(name))
    }

    /// Ends a daemon with SIGKILL, as `kill -9` does: it has no chance to save anything.
    pub(crate) fn kill(&mut self, name: &str) -> Result<(), String> {
        let daemon = self.daemon(name)?;
        let mut child = daemon.child.take().ok_or_else(|| format!("{name} is not running"))?;
        child.kill().and_then(|()| child.wait()).map_err(|error| format!("{name}: {error}"))?;
        Ok(())
    }

    /// Ends all daemons that run with SIGKILL, all at once; gives how many there were.
    pub(crate) fn kill_all(&mut self) -> Result<u64, String> {
        let mut killed = 0;
        for daemon in &mut self.daemons {
            if let Some(child) = &mut daemon.child {
                child.kill().map_err(|error| format!("{}: {error}", daemon.name))?;
                killed += 1;
            }
        }
        for daemon in &mut self.daemons {
            if let Some(mut child) = daemon.child.take() {
                child.wait().map_err(|error| format!("{}: {error}", daemon.name))?;
            }
        }
        Ok(killed)
    }

    /// Freezes a daemon with SIGSTOP: it is there and does nothing until it is resumed.
    pub(crate) fn freeze(&mut self, name: &str) -> Result<(), String> {
        self.daemon(name)?.set_frozen(true)
    }

    /// Lets a frozen daemon go on, with SIGCONT.
    pub(crate) fn resume(&mut self, name: &str) -> Result<(), String> {
        self.daemon(name)?.set_frozen(false)
    }

    /// Stops a daemon cleanly, frozen or not; an error says that it did not end well.
    pub(crate) fn stop(&mut self, name: &str) -> Result<(), String> {
        let daemon = self.daemon(name)?;
        if !daemon.is_running() {
            return Err(format!("{name} is not running"));
        }
        daemon.hang_up();
        daemon.wait(Instant::now() + STOP_WAIT)
    }

    /// Stops all daemons that run, all at once; an error names one that did not end well.
    pub(crate) fn stop_all(&mut self) -> Result<(), String> {
        self.daemons.iter_mut().for_each(Daemon::hang_up);
        let deadline = Instant::now() + STOP_WAIT;
        let waits = self.daemons.iter_mut().map(|daemon| daemon.wait(deadline));
        waits.fold(Ok(()), Result::and)
    }

    /// The daemons that have ended by themselves since this was last asked: a name, and how it ended.
    pub(crate) fn ended(&mut self) -> Vec<(String, String)> {
        self.daemons
            .iter_mut()
            .filter_map(|daemon| Some((daemon.name.clone(), daemon.end()?)))
            .collect()
    }

    /// How this daemon ended by itself, the first time that is seen.
    pub(crate) fn end_of(&mut self, name: &str) -> Option<String> {
        self.daemons.iter_mut().find(|daemon| daemon.name == name)?.end()
    }

    /// Returns when every running daemon answers and has links to all the others that run, frozen ones
    /// apart; an error names one that has ended, or is not there after `wait`.
    pub(crate) async fn ready(&mut self, wait: Duration) -> Result<(), String> {
        let deadline = Instant::now() + wait;
        loop {
            if let Some((name, how)) = self.ended().pop() {
                return Err(format!("{name} {how}"));
            }
            let Some(missing) = self.missing().await else { return Ok(()) };
            if Instant::now() > deadline {
                return Err(format!("{missing} after {} s", wait.as_secs()));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// What the cluster still lacks, if anything.
    async fn missing(&self) -> Option<String> {
        let awake = |daemon: &&Daemon| daemon.is_running() && !daemon.frozen;
        let running: Vec<&Daemon> = self.daemons.iter().filter(awake).collect();
        for daemon in &running {
            let addresses = [daemon.address.clone()];
            let status =
                async { Client::connect(&addresses, Options::default()).await?.status(None).await };
            let report = match status.await {
                Ok(report) => report,
                Err(failure) => return Some(format!("{} is not ready: {failure}", daemon.name)),
            };
            if !report.serving {
                return Some(format!("{} waits for its peers", daemon.name));
            }
            let down = report
                .peers
                .iter()
                .find(|peer| !peer.up && running.iter().any(|other| other.name == peer.name));
            if let Some(peer) = down {
                return Some(format!("{} has no link to {}", daemon.name, peer.name));
            }
        }
        None
    }

    fn daemon(&mut self, name: &str) -> Result<&mut Daemon, String> {
        let names: Vec<String> = self.daemons.iter().map(|daemon| daemon.name.clone()).collect();
        self.daemons.iter_mut().find(|daemon| daemon.name == name).ok_or_else(|| {
            format!("there is no \"{}\"; there are {}", name.escape_debug(), names.join(", "))
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.daemons.iter_mut().filter_map(|daemon| daemon.child.as_mut()) {
            // It may have ended by itself; either way nothing is left to do about it.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Daemon {
    /// The process, while it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Whether it was started and has not been seen to end.
    pub(crate) fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Freezes the process or lets it go on. It may have had these signals from others, so each is sent
    /// whatever was sent before.
    fn set_frozen(&mut self, frozen: bool) -> Result<(), String> {
        let child = self.child.as_ref().ok_or_else(|| format!("{} is not running", self.name))?;
        let signal = if frozen { Signal::STOP } else { Signal::CONT };
        kill_process(Pid::from_child(child), signal)
            .map_err(|error| format!("{}: {error}", self.name))?;
        self.frozen = frozen;
        Ok(())
    }

    /// Ends its standard input, which it follows.
    fn hang_up(&mut self) {
        // A frozen one would not notice; one that has ended is found by whoever waits for it.
        let _ = self.set_frozen(false);
        if let Some(child) = &mut self.child {
            drop(child.stdin.take());
        }
    }

    fn wait(&mut self, deadline: Instant) -> Result<(), String> {
        while let Some(child) = &mut self.child {
            match child.try_wait() {
                Ok(Some(status)) => {
                    self.child = None;
                    if !status.success() {
                        return Err(format!("{} {}", self.name, self.told(status)));
                    }
                }
                Ok(None) if Instant::now() < deadline => thread::sleep(POLL),
                _ => {
                    let _ = child.kill();
                    let _ = child.wait();
                    self.child = None;
                    return Err(format!("{} did not stop in time and was killed", self.name));
                }
            }
        }
        Ok(())
    }

    /// How the daemon ended, the first time that is seen.
    fn end(&mut self) -> Option<String> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        self.child = None;
        Some(self.told(status))
    }

    fn told(&self, status: ExitStatus) -> String {
        match (status.signal(), status.code(), last_line(&self.log)) {
            (Some(signal), _, _) => format!("ended: killed by signal {signal}"),
            (_, Some(0), _) => "ended: it stopped cleanly".into(),
            (_, code, Some(line)) => {
                format!("ended with exit code {}: {line}", code.unwrap_or_default())
            }
            (_, code, None) => format!("ended with exit code {}", code.unwrap_or_default()),
        }
    }
}

/// The last line of a log, where a daemon says why it ended.
fn last_line(log: &Path) -> Option<String> {
    let mut file = File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES))).ok()?;
    let mut tail = Vec::new();
    file.take(LOG_TAIL_BYTES).read_to_end(&mut tail).ok()?;
    let tail = String::from_utf8_lossy(&tail);
    let line = tail.lines().rev().find(|line| !line.trim().is_empty())?;
    Some(line.trim().trim_start_matches("pixii: ").to_string())
}

fn check(shape: &Shape) -> Result<(), String> {
    if shape.nodes == 0 || shape.nodes > MAX_DAEMONS {
        return Err(format!(
            "nodes = {}: one machine runs 1 to {MAX_DAEMONS} daemons",
            shape.nodes
        ));
    }
    let ids: Vec<NodeId> =
        (1..=shape.nodes).map(|number| NodeId::of(&format!("n{number}"))).collect();
    Ring::new(&ids, shape.n, shape.partitions).map_err(|error| error.to_string())?;
    for (name, value) in [("r", shape.r), ("w", shape.w)] {
        if value == 0 || value > shape.n {
            return Err(format!("{name} = {value}: with n = {0}, {name} is 1 to {0}", shape.n));
        }
    }
    Ok(())
}

/// Takes a directory; it is free again when the file is closed, however the process ends.
fn lock(dir: &Path) -> Result<File, String> {
    let file = File::open(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(format!("the directory {} is in use by another `pixii dev`", dir.display()))
        }
        Err(TryLockError::Error(error)) => Err(format!("{}: {error}", dir.display())),
    }
}

/// Data of another cluster is left alone: what places the keys is fixed when a cluster is created.
fn check_old(dir: &Path, shape: &Shape) -> Result<(), String> {
    let path = dir.join("n1.toml");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut entries =
                fs::read_dir(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
            return match entries.next() {
                None => Ok(()),
                Some(_) => Err(format!("{} is not empty and holds no cluster", dir.display())),
            };
        }
        Err(error) => return Err(format!("{}: {error}", path.display())),
    };
    let old: Config = toml::from_str(&text)
        .map_err(|error| format!("{}: {}", path.display(), error.message()))?;
    let (nodes, n, partitions) = (old.members.len(), old.n, old.partitions);
    if (nodes, n, partitions) != (shape.nodes, shape.n, shape.partitions)
        || old.cluster != shape.cluster
    {
        return Err(format!(
            "{} holds cluster {} of {nodes} nodes with n = {n} and {partitions} partitions, not {} \
             of {} nodes with n = {} and {} partitions; name another directory",
            dir.display(),
            old.cluster,
            shape.cluster,
            shape.nodes,
            shape.n,
            shape.partitions
        ));
    }
    Ok(())
}

/// Addresses on which nobody listens. All are held until the last one is found, so that they differ.
fn free_addresses(count: usize, first_port: Option<u16>) -> Result<Vec<String>, String> {
    let mut held = Vec::new();
    for number in 0..count {
        let port = match first_port {
            None => 0,
            Some(first) => u16::try_from(usize::from(first) + number).map_err(|_| {
                format!("port {first} and {count} in all pass the last port, 65535")
            })?,
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(|error| {
            if error.kind() == io::ErrorKind::AddrInUse {
                format!("port {port} is in use; choose others with --port")
            } else {
                format!("port {port}: {error}")
            }
        })?;
        if first_port.is_none() {
            reserve(&listener).map_err(|error| format!("no port: {error}"))?;
        }
        held.push(listener);
    }
    let address = |listener: &TcpListener| listener.local_addr().map(|address| address.to_string());
    held.iter().map(address).collect::<io::Result<_>>().map_err(|error| error.to_string())
}

/// Keeps the kernel from giving the port to somebody else for a while: a connection that this side has
/// closed first stays in TIME_WAIT, which does not stop a listener.
fn reserve(listener: &TcpListener) -> io::Result<()> {
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    drop(far);
    drop(near);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(nodes: usize, n: u8) -> Shape {
        Shape { cluster: "test".into(), nodes, n, r: 1, w: n, partitions: 8 }
    }

    fn create(dir: &Path, shape: &Shape, port: Option<u16>) -> Result<Cluster, String> {
        Cluster::create("false".into(), dir, shape, port)
    }

    #[test]
    fn files_are_written_and_only_the_same_shape_is_taken_up_again() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home");
        let cluster = create(&home, &shape(3, 2), None).unwrap();
        let config: Config =
            toml::from_str(&fs::read_to_string(home.join("n2.toml")).unwrap()).unwrap();
        assert_eq!((config.name.as_str(), config.members.len()), ("n2", 3));
        assert_eq!(config.listen, cluster.daemons()[1].address);
        assert_eq!(config.members[1].address, config.listen);
        let why = create(&home, &shape(3, 2), None).unwrap_err();
        assert!(why.ends_with("/home is in use by another `pixii dev`"), "{why}");
        drop(cluster);
        create(&home, &shape(3, 2), None).unwrap();
        let why = create(&home, &shape(4, 2), None).unwrap_err();
        assert!(why.contains("holds cluster test of 3 nodes with n = 2"), "{why}");
        fs::write(home.join("n1.toml"), "x").unwrap();
        assert!(create(&home, &shape(3, 2), None).unwrap_err().contains("n1.toml: "));
        let other = dir.path().join("other");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("letter.txt"), "dear").unwrap();
        let why = create(&other, &shape(3, 2), None).unwrap_err();
        assert!(why.ends_with("is not empty and holds no cluster"), "{why}");
    }

    #[test]
    fn bad_shapes_and_ports_in_use_are_one_sentence() {
        let dir = tempfile::tempdir().unwrap();
        let why = |shape: Shape, port| create(dir.path(), &shape, port).unwrap_err();
        assert_eq!(why(shape(0, 1), None), "nodes = 0: one machine runs 1 to 50 daemons");
        assert_eq!(why(shape(2, 3), None), "n = 3 replicas need as many members, and there are 2");
        let r = Shape { r: 3, ..shape(2, 2) };
        assert_eq!(why(r, None), "r = 3: with n = 2, r is 1 to 2");
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = held.local_addr().unwrap().port();
        let said = why(shape(1, 1), Some(port));
        assert_eq!(said, format!("port {port} is in use; choose others with --port"));
        assert!(why(shape(2, 1), Some(65_535)).contains("pass the last port"));
    }

    #[test]
    fn a_daemon_that_ends_is_noticed_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = create(dir.path(), &shape(1, 1), None).unwrap();
        assert_eq!(cluster.stop("n1").unwrap_err(), "n1 is not running");
        assert_eq!(cluster.kill("n7").unwrap_err(), "there is no \"n7\"; there are n1");
        cluster.start("n1").unwrap();
        fs::write(dir.path().join("n1.log"), "one\npixii: the disk is full\n\n").unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut ended = cluster.ended();
        while ended.is_empty() && Instant::now() < deadline {
            ended = cluster.ended();
        }
        let how = "ended with exit code 1: the disk is full".to_string();
        assert_eq!(ended, [("n1".to_string(), how)]);
        assert!(cluster.ended().is_empty() && !cluster.daemons()[0].is_running());
    }
}
