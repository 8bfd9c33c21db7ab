//! `pixii bench`: what a cluster does, beside what the machine can do at most, and beside another
//! store.

mod beside;
mod tables;

use std::collections::BTreeMap;
use std::net::ToSocketAddrs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use pixii_client::Options;
use pixii_kit::arguments::{Shared, drawn_seed};
use pixii_kit::cluster::{Cluster, Shape};
use pixii_kit::outcome::{CommandError, CommandResult, Exit, block_on, complain, emit, emit_json};
use pixii_kit::signals::Interrupt;

use crate::bench::compare::{Match, Opponent};
use crate::bench::usage::{Device, Machine, listener, load_average};
use crate::bench::{Case, Field, Meters, echo, limits, measure};
use crate::daemon;
use crate::workload::Kind;
use crate::workload::peer::Peer;
use beside::Beside;
use tables::Results;

/// How long a daemon may take until it answers.
const READY_WAIT: Duration = Duration::from_secs(60);
/// Records that share a sync where the machine's limits are measured.
const BATCHES: [usize; 3] = [1, 8, 64];
/// Connections of the echo.
const CONNECTIONS: [usize; 3] = [1, 8, 64];
/// The limits are measured for this long each, unless the cases take less.
const LIMIT_SECONDS: u64 = 2;

/// Measure a cluster, and beside it what this machine can do at most, or another store
#[derive(Args)]
#[command(after_help = "\
Closed loop: each client makes its next request when the last one is answered; all share one \
connection to each node. A load of half a second goes before each measurement.

CPU is what the kernel counts for whole processes, divided by the operations done: it needs the \
servers to run on this machine (others are left out), and it survives a noisy machine better than \
a rate. Counters and where they are read:
  CPU       /proc/PID/stat, user and system time of all threads, in ticks of 10 ms
  switches  /proc/PID/task/*/status, voluntary and nonvoluntary, all servers together
  disk      /sys/dev/block/*/stat, sectors written to the disk below --dir: the file system's \
event log and everything else that writes to it included
  io        /proc/PID/io, write_bytes of all servers: it overstates, because the kernel counts \
whole large folios

The limits are measured in the same run: 100 bytes sent back over TCP, appends with fdatasync, and \
the store without a cluster. The ratios say how many times the least possible CPU an operation \
takes.

With --against the same load goes to another store in turn: the same generator, keys and sizes. \
Pixii is measured twice, with a connection to each node for all clients and with one for each \
client; the other store has one for each client. In each round another side is the first. Ratios \
are geometric means over the rounds with 95 % confidence intervals. CPU of the other store is that \
of the process that listens there, and of the replicas that it names, or of --against-pids. etcd \
is driven by its JSON gateway, which is dearer for it than gRPC. benches/peers starts such stores.

Examples:
  pixii bench --cluster 3                a throw-away cluster
  pixii bench --cluster 3,5,10           three of them, one after the other
  pixii bench --connect 127.0.0.1:7432   one that runs; its keys begin with bench/ and stay
  pixii bench --cluster 3 --clients 64 --sizes 100 --kind get --json
  pixii bench --cluster 3 --against redis://127.0.0.1:6379 --against-wait 1")]
pub(crate) struct Bench {
    /// Start a throw-away cluster of this many daemons; several are started one after the other
    #[arg(long, value_name = "DAEMONS", conflicts_with = "connect", value_delimiter = ',',
          value_parser = clap::value_parser!(u8).range(3..=50))]
    cluster: Vec<u8>,
    /// Clients at a time
    #[arg(long, value_delimiter = ',', default_value = "1,8,64",
          value_parser = clap::value_parser!(u16).range(1..=512))]
    clients: Vec<u16>,
    /// Bytes of each value
    #[arg(long, value_delimiter = ',', default_value = "100,1024",
          value_parser = clap::value_parser!(u32)
              .range(16..=i64::from(pixii_core::types::MAX_VALUE_BYTES as u32)))]
    sizes: Vec<u32>,
    /// How long each measurement takes
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
    /// Operations to measure
    #[arg(long, value_delimiter = ',', default_value = "put,get")]
    kind: Vec<Operation>,
    /// Number of keys
    #[arg(long, default_value_t = 10_000,
        value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    keys: u64,
    /// A directory on the daemons' file system, for the throw-away cluster and the limits [default:
    /// the one for temporary files]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Send the same load to another store: redis://HOST:PORT or etcd://HOST:PORT
    #[arg(long, value_name = "URL")]
    against: Option<String>,
    /// Replicas that WAIT waits for behind each SET; 0 for no WAIT [default: 0]
    #[arg(long, value_name = "REPLICAS", requires = "against")]
    against_wait: Option<u8>,
    /// What the other store is called in tables [default: redis or etcd]
    #[arg(long, value_name = "NAME", requires = "against")]
    against_name: Option<String>,
    /// Processes of the other store whose CPU counts [default: those that are found]
    #[arg(long, value_name = "PID", value_delimiter = ',', requires = "against")]
    against_pids: Vec<u32>,
    /// How often each case is measured on each side
    #[arg(long, default_value_t = 3, requires = "against",
          value_parser = clap::value_parser!(u64).range(1..=100))]
    rounds: u64,
    /// Write a Markdown table and figures of the comparison to this directory as well
    #[arg(long, value_name = "DIR", requires = "against")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Operation {
    Put,
    Get,
}

impl Bench {
    /// Measures.
    pub(crate) fn run(self, shared: &Shared) -> CommandResult {
        let peer = self.against.as_deref().map(|url| Peer::parse(url, self.against_wait));
        let peer = peer.transpose().map_err(CommandError::usage)?;
        if peer.is_some() && self.cluster.len() > 1 {
            return Err(CommandError::usage("--against compares with one cluster: give one size"));
        }
        let program = daemon::program()?;
        let machine = Machine::new().map_err(CommandError::error)?;
        let interrupt = Interrupt::listen(false)?;
        let mut builder = tempfile::Builder::new();
        builder.prefix("pixii-bench-");
        let scratch = match &self.dir {
            Some(dir) => builder.tempdir_in(dir),
            None => builder.tempdir(),
        };
        let scratch = scratch
            .map_err(|error| CommandError::error(format!("no temporary directory: {error}")))?;
        let meters = Meters { machine, device: Device::below(scratch.path()) };
        let mut results = Results::default();
        let mut beside = None;
        let opponent = match peer {
            Some(peer) => Some(block_on(async {
                let name = self.against_name.clone();
                Opponent::find(peer, name, &self.against_pids).await.map_err(CommandError::error)
            })?),
            None => None,
        };
        self.measure_limits(&meters.machine, scratch.path(), &interrupt, &mut results)?;
        let sizes: Vec<Option<u8>> = match self.cluster.as_slice() {
            [] => vec![None],
            sizes => sizes.iter().copied().map(Some).collect(),
        };
        for nodes in sizes {
            let mut cluster =
                nodes.map(|nodes| start(nodes, &program, scratch.path())).transpose()?;
            block_on(async {
                if let Some(cluster) = &mut cluster {
                    cluster.start_all().map_err(CommandError::error)?;
                }
                let measuring = async {
                    let field = self.field(shared, cluster.as_mut()).await?;
                    self.notice_unseen(&field, &mut results);
                    match &opponent {
                        Some(opponent) => {
                            beside = Some(self.compare(&field, opponent, &meters).await?);
                            Ok(())
                        }
                        None => self.measure_all(&field, &meters, &mut results).await,
                    }
                };
                tokio::select! {
                    done = measuring => done,
                    () = interrupt.wait() => Err(CommandError::error("interrupted")),
                }
            })?;
        }
        match beside {
            Some(beside) => self.report(&beside, &results, shared.json())?,
            None if shared.json() => emit_json(&results.as_json())?,
            None => emit(results.as_text())?,
        }
        Ok(Exit::Done)
    }

    /// Writes what a comparison came to, to standard output and the directory that was asked for.
    fn report(&self, beside: &Beside, floors: &Results, as_json: bool) -> Result<(), CommandError> {
        if let Some(dir) = &self.out {
            beside.write(dir, floors).map_err(CommandError::error)?;
        }
        match as_json {
            true => emit_json(&beside.as_json(floors)),
            false => emit(beside.as_text(floors)),
        }
    }

    fn notice_unseen(&self, field: &Field, results: &mut Results) {
        results.all_seen = field.daemons.len() == field.members;
        if !results.all_seen {
            let (seen, all) = (field.daemons.len(), field.members);
            complain(&format!(
                "CPU is that of {seen} of {all} daemons: the others are not to be seen here"
            ));
        }
    }

    fn cases(&self) -> Vec<Case> {
        let mut cases = Vec::new();
        for kind in &self.kind {
            let kind = match kind {
                Operation::Put => Kind::Put,
                Operation::Get => Kind::Get,
            };
            for size in &self.sizes {
                let clients = self.clients.iter().map(|clients| usize::from(*clients));
                cases.extend(clients.map(|clients| Case { kind, size: *size as usize, clients }));
            }
        }
        cases
    }

    async fn compare(
        &self,
        field: &Field,
        opponent: &Opponent,
        meters: &Meters,
    ) -> Result<Beside, CommandError> {
        let before = load_average();
        let mut rounds = Match::new(field, opponent, meters, self.rounds);
        let mut comparisons = Vec::new();
        for case in self.cases() {
            comparisons.push(rounds.compare(case).await.map_err(CommandError::error)?);
        }
        Ok(Beside {
            comparisons,
            opponent: opponent.clone(),
            members: field.members,
            seconds: self.seconds,
            rounds: self.rounds,
            keys: self.keys,
            load: [before, load_average()],
        })
    }

    /// What the machine can do at most, while the daemons (if they run yet) have nothing to do.
    fn measure_limits(
        &self,
        machine: &Machine,
        scratch: &Path,
        interrupt: &Interrupt,
        results: &mut Results,
    ) -> Result<(), CommandError> {
        let duration = Duration::from_secs(self.seconds.min(LIMIT_SECONDS));
        let go_on = || match interrupt.queried() {
            true => Err(CommandError::error("interrupted")),
            false => Ok(()),
        };
        for connections in CONNECTIONS {
            go_on()?;
            let echo = echo::measure(machine, connections, duration);
            results.echoes.push(echo.map_err(CommandError::error)?);
        }
        for size in self.sizes.iter().map(|size| *size as usize) {
            for batch in BATCHES {
                go_on()?;
                let cost = limits::appends(machine, scratch, size, batch, duration);
                results.appends.push(cost.map_err(CommandError::error)?);
            }
            go_on()?;
            let dir = scratch.join(format!("store{size}"));
            let costs = limits::store(machine, &dir, (size, self.keys), &BATCHES, duration);
            let (writes, read) = costs.map_err(CommandError::error)?;
            results.writes.extend(writes);
            results.reads.push(read);
        }
        Ok(())
    }

    async fn measure_all(
        &self,
        field: &Field,
        meters: &Meters,
        results: &mut Results,
    ) -> Result<(), CommandError> {
        for case in self.cases() {
            let line = measure(field, case, meters).await;
            results.lines.push(line.map_err(CommandError::error)?);
        }
        Ok(())
    }

    /// The cluster and its processes.
    async fn field(
        &self,
        shared: &Shared,
        cluster: Option<&mut Cluster>,
    ) -> Result<Field, CommandError> {
        let seed = drawn_seed();
        let (keys, duration) = (self.keys, Duration::from_secs(self.seconds));
        if let Some(cluster) = cluster {
            cluster.ready(READY_WAIT).await.map_err(CommandError::error)?;
            let daemons = cluster.daemons();
            let addresses = daemons.iter().map(|daemon| daemon.address.clone()).collect();
            let members = daemons.len();
            let pids = daemons.iter().filter_map(|d| Some((d.name.clone(), d.pid()?))).collect();
            let options = Options::default();
            return Ok(Field { addresses, options, daemons: pids, members, keys, duration, seed });
        }
        let client = shared.client().await?;
        let members = &client.ring_report().members;
        let mut daemons = BTreeMap::new();
        for member in members.iter() {
            let found = member.address.to_socket_addrs().ok().into_iter().flatten();
            if let Some(pid) = found.into_iter().find_map(listener) {
                daemons.insert(member.name.clone(), pid);
            }
        }
        let members = members.iter().count();
        let (addresses, options) = (shared.addresses()?, shared.options()?);
        Ok(Field { addresses, options, daemons, members, keys, duration, seed })
    }
}

fn start(nodes: u8, program: &Path, scratch: &Path) -> Result<Cluster, CommandError> {
    let dir = scratch.join(format!("cluster{nodes}"));
    let (cluster, nodes) = ("bench".into(), nodes.into());
    let shape = Shape { cluster, nodes, n: 3, r: 2, w: 2, partitions: 256 };
    let made = Cluster::create(program.to_path_buf(), &dir, &shape, None);
    let cluster = made.map_err(CommandError::error)?;
    cluster.use_default_cache().map_err(CommandError::error)?;
    Ok(cluster)
}
