//! A cluster of real daemons on this machine: their files, and their processes from start to end.
//! `dev`, `demo`, `pixii-lab` and the tests use it.

mod daemon;
mod files;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pixii_client::{Client, Options};

use daemon::Daemon;
pub use daemon::STOPPED;
use files::{Config, Member, check, check_old, lock};
pub use files::{NoCluster, Shape, free_addresses};

/// How often a process or a node is looked at while something is waited for.
const POLL: Duration = Duration::from_millis(20);
/// How long a daemon may take to stop before it is killed.
const STOP_WAIT: Duration = Duration::from_secs(15);

/// The daemons. Dropping the cluster ends those that run with SIGKILL.
#[derive(Debug)]
pub struct Cluster {
    program: PathBuf,
    daemons: Vec<Daemon>,
    last_exit: Option<i32>,
    /// The directory, locked: another cluster would write its own addresses over ours.
    _lock: File,
}

impl Cluster {
    /// Writes the files of a cluster to `dir`, or finds there the data of one with the same shape.
    /// It listens on `first_port` and the ports behind it, or where the kernel likes. `program` is
    /// the path of `pixii`. Nothing is started.
    pub fn create(
        program: PathBuf,
        dir: &Path,
        shape: &Shape,
        first_port: Option<u16>,
    ) -> Result<Self, NoCluster> {
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
            let daemon = Daemon::new(name, address, &dir);
            config.write(&daemon.config)?;
            daemons.push(daemon);
        }
        Ok(Cluster { program, daemons, last_exit: None, _lock: lock })
    }

    /// Lets the network of all daemons be emulated, from their next start.
    pub fn allow_emulation(&self) -> Result<(), String> {
        self.configure("allow_emulation = true")
    }

    /// Adds a line to the configuration of all daemons; it holds from their next start.
    pub fn configure(&self, line: &str) -> Result<(), String> {
        self.daemons.iter().try_for_each(|Daemon { config, .. }| {
            let fault = |error: io::Error| format!("{}: {error}", config.display());
            let text = fs::read_to_string(config).map_err(fault)?;
            fs::write(config, format!("{line}\n{text}")).map_err(fault)
        })
    }

    /// The daemons in the order of their numbers.
    pub fn daemons(&self) -> &[Daemon] {
        &self.daemons
    }

    /// Adds a daemon that is configured as the others are, but for the member that it is to
    /// replace. Gives its address.
    pub fn add(&mut self, name: &str, replaced: &str) -> Result<String, String> {
        let model = self.daemons.iter().find(|daemon| daemon.name != replaced);
        let model = model.ok_or_else(|| format!("there is nobody but {replaced}"))?;
        let mut config = Config::read(&model.config)?;
        let dir = config.data_dir.parent().unwrap_or(Path::new(".")).to_path_buf();
        let address = free_addresses(1, None)?.remove(0);
        config.members.retain(|member| member.name != replaced);
        config.members.push(Member { name: name.into(), address: address.clone() });
        (config.name, config.data_dir) = (name.into(), dir.join(name));
        config.listen.clone_from(&address);
        let daemon = Daemon::new(name.into(), address.clone(), &dir);
        config.write(&daemon.config)?;
        self.daemons.push(daemon);
        Ok(address)
    }

    /// Knows nothing more of a daemon that has ended. Its files stay.
    pub fn retire(&mut self, name: &str) -> Result<(), String> {
        if self.daemon(name)?.is_running() {
            return Err(format!("{name} is running"));
        }
        self.daemons.retain(|daemon| daemon.name != name);
        Ok(())
    }

    /// Starts a daemon that does not run.
    pub fn start(&mut self, name: &str) -> Result<(), String> {
        let program = self.program.clone();
        let daemon = self.daemon(name)?;
        if daemon.is_running() {
            return Err(format!("{name} is running already"));
        }
        daemon.start(&program)
    }

    /// Starts all daemons that do not run.
    pub fn start_all(&mut self) -> Result<(), String> {
        let idle = self.daemons.iter().filter(|daemon| !daemon.is_running());
        let names: Vec<String> = idle.map(|daemon| daemon.name.clone()).collect();
        names.iter().try_for_each(|name| self.start(name))
    }

    /// Ends a daemon with SIGKILL, as `kill -9` does: it has no chance to save anything.
    pub fn kill(&mut self, name: &str) -> Result<(), String> {
        self.daemon(name)?.kill()
    }

    /// Ends all daemons that run with SIGKILL, all at once; gives how many there were.
    pub fn kill_all(&mut self) -> Result<u64, String> {
        let running = self.daemons.iter_mut().filter(|daemon| daemon.is_running());
        let killed =
            running.map(Daemon::send_kill).try_fold(0, |sum, sent| sent.map(|()| sum + 1))?;
        self.daemons.iter_mut().try_for_each(Daemon::reap)?;
        Ok(killed)
    }

    /// Freezes a daemon with SIGSTOP: it is there and does nothing until it is resumed.
    pub fn freeze(&mut self, name: &str) -> Result<(), String> {
        self.daemon(name)?.set_frozen(true)
    }

    /// Lets a frozen daemon go on, with SIGCONT.
    pub fn resume(&mut self, name: &str) -> Result<(), String> {
        self.daemon(name)?.set_frozen(false)
    }

    /// Stops a daemon cleanly, frozen or not; an error says that it did not end well.
    pub fn stop(&mut self, name: &str) -> Result<(), String> {
        let daemon = self.daemon(name)?;
        if !daemon.is_running() {
            return Err(format!("{name} is not running"));
        }
        daemon.hang_up();
        daemon.wait(Instant::now() + STOP_WAIT)
    }

    /// Notifies a daemon to stop cleanly, frozen or not, and does not wait: [`Cluster::end_of`]
    /// says when it has ended, and how: [`STOPPED`], if it ended well.
    pub fn begin_stop(&mut self, name: &str) -> Result<(), String> {
        self.daemon(name).map(Daemon::hang_up)
    }

    /// From its next start a daemon runs this program.
    pub fn install(&mut self, name: &str, program: PathBuf) -> Result<(), String> {
        self.daemon(name)?.program = Some(program);
        Ok(())
    }

    /// From its next start a daemon has these variables in its environment, and none that were
    /// given before.
    pub fn surround(&mut self, name: &str, with: &[(&str, &str)]) -> Result<(), String> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        self.daemon(name)?.environment = with.iter().map(owned).collect();
        Ok(())
    }

    /// Stops all daemons that run, all at once; an error names one that did not end well.
    pub fn stop_all(&mut self) -> Result<(), String> {
        self.daemons.iter_mut().for_each(Daemon::hang_up);
        let deadline = Instant::now() + STOP_WAIT;
        let waits = self.daemons.iter_mut().map(|daemon| daemon.wait(deadline));
        waits.fold(Ok(()), Result::and)
    }

    /// The daemons that have ended by themselves since this was last asked: a name, and how it
    /// ended.
    pub fn ended(&mut self) -> Vec<(String, String)> {
        let mut ended = Vec::new();
        for daemon in &mut self.daemons {
            let Some((code, how)) = daemon.end() else { continue };
            self.last_exit = code;
            ended.push((daemon.name.clone(), how));
        }
        ended
    }

    /// The exit code of the daemon that was last seen to have ended by itself; `None` if a signal
    /// ended it.
    pub fn last_exit(&self) -> Option<i32> {
        self.last_exit
    }

    /// How this daemon ended by itself, the first time that is seen.
    pub fn end_of(&mut self, name: &str) -> Option<String> {
        self.daemons.iter_mut().find(|daemon| daemon.name == name)?.end().map(|(_, how)| how)
    }

    /// Returns when every running daemon answers and has links to all the others that run, frozen
    /// ones apart; an error names one that has ended, or is not there after `wait`.
    pub async fn ready(&mut self, wait: Duration) -> Result<(), String> {
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
        let running = self.daemons.iter().filter(awake);
        let running = running.map(|daemon| (daemon.name.clone(), daemon.address.clone()));
        missing(&running.collect::<Vec<_>>(), &Options::default()).await
    }

    fn daemon(&mut self, name: &str) -> Result<&mut Daemon, String> {
        let names: Vec<String> = self.daemons.iter().map(|daemon| daemon.name.clone()).collect();
        self.daemons.iter_mut().find(|daemon| daemon.name == name).ok_or_else(|| {
            format!("there is no \"{}\"; there are {}", name.escape_debug(), names.join(", "))
        })
    }
}

/// What these nodes, by name and address, lack of all serving and being linked with each other, if
/// anything.
pub async fn missing(nodes: &[(String, String)], options: &Options) -> Option<String> {
    for (name, address) in nodes {
        let addresses = [address.clone()];
        let status =
            async { Client::connect(&addresses, options.clone()).await?.status(None).await };
        let report = match status.await {
            Ok(report) => report,
            Err(failure) => return Some(format!("{name} is not ready: {failure}")),
        };
        if !report.serving {
            return Some(format!("{name} waits for its peers"));
        }
        let among = |peer: &String| nodes.iter().any(|(other, _)| other == peer);
        if let Some(peer) = report.peers.iter().find(|peer| !peer.up && among(&peer.name)) {
            return Some(format!("{name} has no link to {}", peer.name));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn shape(nodes: usize, n: u8) -> Shape {
        Shape { cluster: "test".into(), nodes, n, r: 1, w: n, partitions: 8 }
    }

    fn create(dir: &Path, shape: &Shape, port: Option<u16>) -> Result<Cluster, String> {
        Cluster::create("false".into(), dir, shape, port).map_err(String::from)
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
        let stated = why(shape(1, 1), Some(port));
        assert_eq!(stated, format!("port {port} is in use; choose others with --port"));
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
