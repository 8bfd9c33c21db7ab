//! `pixii bench`: what a cluster does, beside what the machine can do at most.

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

use crate::bench::account::{Machine, listener};
use crate::bench::{Case, Field, echo, limits, measure};
use crate::daemon;
use crate::workload::Kind;
use tables::Results;

/// How long a daemon may take until it answers.
const READY_WAIT: Duration = Duration::from_secs(60);
/// Records that share a sync where the machine's limits are measured.
const BATCHES: [usize; 3] = [1, 8, 64];
/// Connections of the echo.
const CONNECTIONS: [usize; 3] = [1, 8, 64];
/// The limits are measured for this long each, unless the cases take less.
const LIMIT_SECONDS: u64 = 2;

/// Measure a cluster, and beside it what this machine can do at most
#[derive(Args)]
#[command(after_help = "\
Closed loop: each client makes its next request when the last one is answered; all share one \
    connection to \
each node. CPU is the kernel's account of whole processes, divided by the operations done: it \
    needs the \
daemons to run on this machine (others are left out), and it survives a noisy machine better than \
    a rate.

The limits are measured in the same run: 100 bytes sent back over TCP, appends with fdatasync, \
    and the store \
without a cluster. The ratios say how many times the least possible CPU an operation takes.

Examples:
  pixii bench --cluster 3                a throw-away cluster
  pixii bench --connect 127.0.0.1:7432   one that runs; its keys begin with bench/ and stay
  pixii bench --cluster 3 --clients 64 --sizes 100 --kind get --json")]
pub(crate) struct Bench {
    /// Start a throw-away cluster of this many daemons
    #[arg(long, value_name = "DAEMONS", conflicts_with = "connect",
          value_parser = clap::value_parser!(u8).range(3..=50))]
    cluster: Option<u8>,
    /// Clients at a time
    #[arg(long, value_delimiter = ',', default_value = "1,8,64",
          value_parser = clap::value_parser!(u16).range(1..=512))]
    clients: Vec<u16>,
    /// Bytes of each value
    #[arg(long, value_delimiter = ',', default_value = "100,1024",
          value_parser = clap::value_parser!(u32).range(16..=i64::from(pixii_core::types::MAX_VALUE_BYTES as u32)))]
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
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Operation {
    Put,
    Get,
}

impl Bench {
    /// Measures.
    pub(crate) fn run(self, shared: &Shared) -> CommandResult {
        let program = daemon::program()?;
        let machine = Machine::new().map_err(CommandError::error)?;
        let interrupt = Interrupt::listen(false)?;
        let mut builder = tempfile::Builder::new();
        builder.prefix("pixii-bench-");
        let scratch = match &self.dir {
            Some(dir) => builder.tempdir_in(dir),
            None => builder.tempdir(),
        };
        let scratch = scratch.map_err(|error| {
            CommandError::error(format!(
                "no temporary directory: \
                {error}"
            ))
        })?;
        let mut results = Results::default();
        let as_json = shared.json();
        self.measure_limits(&machine, scratch.path(), &interrupt, &mut results)?;
        let mut cluster = self.start(&program, scratch.path())?;
        block_on(async {
            if let Some(cluster) = &mut cluster {
                cluster.start_all().map_err(CommandError::error)?;
            }
            tokio::select! {
                done = self.measure_all(shared, &machine, cluster.as_mut(), &mut results) => done,
                () = interrupt.wait() => Err(CommandError::error("interrupted")),
            }
        })?;
        if as_json {
            emit_json(&results.as_json())?;
        } else {
            emit(results.as_text())?;
        }
        Ok(Exit::Done)
    }

    fn start(&self, program: &Path, scratch: &Path) -> Result<Option<Cluster>, CommandError> {
        let Some(nodes) = self.cluster else { return Ok(None) };
        let (cluster, nodes) = ("bench".into(), nodes.into());
        let shape = Shape { cluster, nodes, n: 3, r: 2, w: 2, partitions: 256 };
        let dir = scratch.join("cluster");
        let made = Cluster::create(program.to_path_buf(), &dir, &shape, None);
        made.map(Some).map_err(CommandError::error)
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
        shared: &Shared,
        machine: &Machine,
        cluster: Option<&mut Cluster>,
        results: &mut Results,
    ) -> Result<(), CommandError> {
        let field = self.field(shared, cluster).await?;
        if field.daemons.len() < field.members {
            let (seen, all) = (field.daemons.len(), field.members);
            complain(&format!(
                "CPU is that of {seen} of {all} daemons: the others are not to be seen here"
            ));
        }
        results.all_seen = field.daemons.len() == field.members;
        for kind in &self.kind {
            let kind = match kind {
                Operation::Put => Kind::Put,
                Operation::Get => Kind::Get,
            };
            for size in &self.sizes {
                for clients in &self.clients {
                    let case = Case { kind, size: *size as usize, clients: (*clients).into() };
                    let line = measure(&field, case, machine).await;
                    results.lines.push(line.map_err(CommandError::error)?);
                }
            }
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
