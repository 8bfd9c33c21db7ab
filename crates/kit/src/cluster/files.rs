//! The files of a cluster of daemons, and the addresses that they name.

use std::fmt::{self, Display, Formatter};
use std::fs::{self, File, TryLockError};
use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use pixii_core::ring::Ring;
use pixii_core::types::NodeId;
use serde::{Deserialize, Serialize};

use super::POLL;

/// Most daemons that one machine is asked to run.
const MAX_DAEMONS: usize = 50;

/// What a cluster is like.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Its name.
    pub cluster: String,
    /// How many daemons.
    pub nodes: usize,
    /// Replicas of each key.
    pub n: u8,
    /// Default R.
    pub r: u8,
    /// Default W.
    pub w: u8,
    /// Number of partitions.
    pub partitions: u16,
}

/// A fork of a process that has let go of a directory, and has not executed yet, holds it so long
/// at most.
const FORKED: Duration = Duration::from_millis(500);

/// Why no cluster was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoCluster {
    /// Somebody listens on this port; others may be free.
    PortInUse(u16),
    /// Another reason, in a sentence.
    Other(String),
}

impl Display for NoCluster {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            NoCluster::PortInUse(port) => {
                write!(f, "port {port} is in use; choose others with --port")
            }
            NoCluster::Other(why) => f.write_str(why),
        }
    }
}

impl From<String> for NoCluster {
    fn from(why: String) -> Self {
        NoCluster::Other(why)
    }
}

impl From<NoCluster> for String {
    fn from(why: NoCluster) -> Self {
        why.to_string()
    }
}

/// A daemon's configuration file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Config {
    pub(super) name: String,
    pub(super) cluster: String,
    pub(super) data_dir: PathBuf,
    pub(super) listen: String,
    pub(super) n: u8,
    pub(super) r: u8,
    pub(super) w: u8,
    pub(super) partitions: u16,
    pub(super) cache_mib: u32,
    pub(super) log: String,
    pub(super) members: Vec<Member>,
}

/// A member as a configuration names it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) address: String,
}

impl Config {
    /// Reads a daemon's configuration.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let text =
            fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        toml::from_str(&text).map_err(|error| format!("{}: {}", path.display(), error.message()))
    }

    /// Writes it.
    pub(super) fn write(&self, path: &Path) -> Result<(), String> {
        let text = toml::to_string(self).map_err(|error| error.to_string())?;
        fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
    }
}

/// What such a cluster cannot be, in one sentence.
pub(super) fn check(shape: &Shape) -> Result<(), String> {
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
pub(super) fn lock(dir: &Path) -> Result<File, String> {
    let file = File::open(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let deadline = Instant::now() + FORKED;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(POLL),
            Err(TryLockError::WouldBlock) => {
                return Err(format!(
                    "the directory {} is in use by another `pixii dev`",
                    dir.display()
                ));
            }
            Err(TryLockError::Error(error)) => return Err(format!("{}: {error}", dir.display())),
        }
    }
}

/// Data of another cluster is left alone: what places the keys is fixed when a cluster is created.
pub(super) fn check_old(dir: &Path, shape: &Shape) -> Result<(), String> {
    let path = dir.join("n1.toml");
    if !path.exists() {
        let mut entries =
            fs::read_dir(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        return match entries.next() {
            None => Ok(()),
            Some(_) => Err(format!("{} is not empty and holds no cluster", dir.display())),
        };
    }
    let old = Config::read(&path)?;
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

/// Addresses on which nobody listens. All are held until the last one is found, so that they
/// differ.
pub fn free_addresses(count: usize, first_port: Option<u16>) -> Result<Vec<String>, NoCluster> {
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
                NoCluster::PortInUse(port)
            } else {
                NoCluster::Other(format!("port {port}: {error}"))
            }
        })?;
        if first_port.is_none() {
            reserve(&listener).map_err(|error| format!("no port: {error}"))?;
        }
        held.push(listener);
    }
    let address = |listener: &TcpListener| listener.local_addr().map(|address| address.to_string());
    let addresses = held.iter().map(address).collect::<io::Result<_>>();
    addresses.map_err(|error| NoCluster::Other(error.to_string()))
}

/// Keeps the kernel from giving the port to somebody else for a while: a connection that this side
/// has closed first stays in TIME_WAIT, which does not stop a listener.
fn reserve(listener: &TcpListener) -> io::Result<()> {
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    drop(far);
    drop(near);
    Ok(())
}
