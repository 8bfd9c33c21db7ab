//! `pixii lab load`.

mod tables;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use pixii_client::{Client, Options};
use pixii_core::types::MAX_VALUE_BYTES;
use pixii_kit::arguments::{Shared, deadline, drawn_seed};
use pixii_kit::cluster::{Cluster, Shape};
use pixii_kit::outcome::{CommandError, CommandResult, Exit, block_on, complain, emit, emit_json};
use pixii_kit::signals::Interrupt;

use super::check_out;
use crate::daemon;
use crate::workload::arrivals::{Arrivals, Burst, RATES};
use crate::workload::choice::{Choice, Sizes};
use crate::workload::repeated::{FILL_CLIENTS, fill, repeat};
use crate::workload::ycsb::{Workload, workload};
use crate::workload::{Report, Spec};

/// How long a daemon may take until it answers.
const READY_WAIT: Duration = Duration::from_secs(60);
/// Operations of a run that are reported one by one at most.
const MAX_SAMPLES: usize = 5_000_000;
/// Operations in progress at a time at most.
const MAX_CLIENTS: i64 = 1_024;
/// The exponent of keys that are chosen by Zipf's law.
const EXPONENT: f64 = 0.99;

/// Put a cluster under load, and say how quickly it answers
#[derive(Args)]
#[command(after_help = "\
The workloads are YCSB's:
  A  half gets, half puts        B  95 % gets, 5 % puts        C  gets only
  D  95 % gets, of the newest keys most, 5 % inserts
  E  95 % listings, 5 % inserts: Pixii has no range queries, so a listing gives 1 to 100 keys \
    behind the chosen one in \
the byte order of its partition, without their values
  F  half gets, half gets with a put of what they showed, as one operation (modify)
A put replaces what its client last saw of the key; a key that it has not seen is read first, and \
    that counts as a get.

Closed loop (--clients): each client makes its next request when the last one is answered, so a \
    cluster that stalls is asked \
less, and the stall is one slow answer. Open loop (--rate): a request begins when it is due, \
    whatever has become of those \
before, and its latency counts from then; requests that are due while --outstanding are in \
    progress are not sent, and counted.

Each repetition makes its own choices and has its own warm-up. \u{b1} is half of the 95 % \
    confidence interval of a mean over \
the repetitions (Student's t). Without --nodes the cluster is that of --connect; its keys begin \
    with load/ and stay.

Examples:
  pixii lab load --nodes 3                                    a throw-away cluster
  pixii lab load --workload B --clients 64 --connect 127.0.0.1:7432
  pixii lab load --nodes 3 --rate 500 --burst 10x/1s/10s      500/s, and 5000/s for 1 s of every \
    10 s
  pixii lab load --nodes 3 --rate 500 --out load              samples.csv and load.csv")]
pub(super) struct LoadArgs {
    /// A throw-away cluster of this many daemons
    #[arg(long, value_name = "DAEMONS", conflicts_with = "connect",
          value_parser = clap::value_parser!(u8).range(1..=50))]
    nodes: Option<u8>,
    /// Which of YCSB's workloads: A, B, C, D, E or F
    #[arg(long, default_value = "A", value_parser = workload)]
    workload: Workload,
    /// How keys are chosen [default: as the workload does]
    #[arg(long, value_enum)]
    choice: Option<KeyChoice>,
    /// Closed loop: clients at a time
    #[arg(long, default_value_t = 16, conflicts_with = "rate",
          value_parser = clap::value_parser!(u16).range(1..=MAX_CLIENTS))]
    clients: u16,
    /// Open loop: requests a second
    #[arg(long, allow_negative_numbers = true, value_parser = rate)]
    rate: Option<f64>,
    /// A higher rate from time to time: FACTORx/LENGTH/PERIOD, as in 10x/1s/10s
    #[arg(long, requires = "rate", allow_hyphen_values = true, value_parser = Burst::parse)]
    burst: Option<Burst>,
    /// Requests are due evenly; without this, as those of many independent clients are
    #[arg(long, requires = "rate")]
    even: bool,
    /// Open loop: requests in progress at most
    #[arg(long, requires = "rate", default_value_t = 1_000,
          value_parser = clap::value_parser!(u16).range(1..=MAX_CLIENTS))]
    outstanding: u16,
    /// Keys that are written first
    #[arg(long, default_value_t = 10_000,
        value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    keys: u64,
    /// Bytes of each value
    #[arg(long, default_value_t = 1_000,
          value_parser = clap::value_parser!(u32).range(16..=MAX_VALUE_BYTES as i64))]
    bytes: u32,
    /// Replicas that a get asks [default: the cluster's]
    #[arg(short, value_parser = clap::value_parser!(u8).range(1..))]
    r: Option<u8>,
    /// Replicas that must hold a put [default: the cluster's]
    #[arg(short, value_parser = clap::value_parser!(u8).range(1..))]
    w: Option<u8>,
    /// Deadline of a request, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 10_000, value_parser = deadline())]
    timeout: u32,
    /// How long each repetition is measured
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Seconds before that, which are not
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(0..=3_600))]
    warm_up: u64,
    /// Repetitions
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    repetitions: u64,
    /// Keys, operations and times follow from it [default: drawn]
    #[arg(long)]
    seed: Option<u64>,
    /// Write samples and table in this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Write into a folder that exists
    #[arg(long)]
    force: bool,
}

/// How keys are chosen.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum KeyChoice {
    /// All alike
    Uniform,
    /// By Zipf's law: few get most
    Zipfian,
    /// By Zipf's law over age: the newest get most
    Latest,
}

fn rate(text: &str) -> Result<f64, String> {
    let (least, most) = RATES;
    let parsed = text.parse().ok().filter(|rate| (least..=most).contains(rate));
    parsed.ok_or_else(|| format!("a rate is {least} to {most} requests a second"))
}

impl LoadArgs {
    /// Loads and reports.
    pub(super) fn run(self, shared: &Shared) -> CommandResult {
        check_out(&self.out, self.force)?;
        let interrupt = Interrupt::listen(false)?;
        let scratch = tempfile::Builder::new().prefix("pixii-load-").tempdir();
        let scratch = scratch.map_err(|error| {
            CommandError::error(format!(
                "no temporary directory: \
                {error}"
            ))
        })?;
        let spec = self.spec();
        let mut reports = Vec::new();
        let ended = block_on(async {
            let mut cluster = self.start(scratch.path()).await?;
            let ended = tokio::select! {
                ended = self.load(shared, cluster.as_mut(), &spec, &mut reports) => ended,
                () = interrupt.wait() => Err(CommandError::error("interrupted: the run is \
                    incomplete")),
            };
            if let (Ok(()), Some(cluster)) = (&ended, &mut cluster) {
                cluster.stop_all().map_err(CommandError::error)?;
            }
            ended
        });
        if reports.is_empty() {
            return ended.map(|()| Exit::Done);
        }
        let reported = tables::LoadReport { args: &self, spec: &spec, reports: &reports };
        if let Some(out) = &self.out {
            reported.write(out, ended.is_err()).map_err(CommandError::error)?;
        }
        match shared.json() {
            true => emit_json(&reported.as_json())?,
            false => emit(reported.as_text())?,
        }
        ended.map(|()| Exit::Done)
    }

    fn spec(&self) -> Spec {
        let drawn = drawn_seed();
        let arrivals = self.rate.map(|rate| {
            let (is_random, burst) = (!self.even, self.burst);
            Arrivals { rate, is_random, burst }
        });
        let choice = self.choice.map(|way| match way {
            KeyChoice::Uniform => Choice::Uniform,
            KeyChoice::Zipfian => Choice::Zipf(EXPONENT),
            KeyChoice::Latest => Choice::Latest(EXPONENT),
        });
        let samples = MAX_SAMPLES / self.repetitions as usize;
        Spec {
            clients: arrivals.map_or(self.clients, |_| self.outstanding).into(),
            arrivals,
            mix: self.workload.mix,
            // Keys of its own, whatever was loaded before with this seed.
            prefix: format!("load/{:08x}/", drawn as u32),
            keys: self.keys,
            choice: choice.unwrap_or(self.workload.choice),
            sizes: Sizes::fixed(self.bytes as usize),
            r: self.r,
            w: self.w,
            timeout_ms: self.timeout,
            operations: None,
            duration: Some(Duration::from_secs(self.seconds)),
            warm_up: Duration::from_secs(self.warm_up),
            samples: if self.out.is_some() { samples } else { 0 },
            seed: self.seed.unwrap_or(drawn),
        }
    }

    async fn start(&self, scratch: &std::path::Path) -> Result<Option<Cluster>, CommandError> {
        let Some(nodes) = self.nodes else { return Ok(None) };
        let program = daemon::program()?;
        let n = nodes.min(3);
        let (r, w, nodes) = (n / 2 + 1, n / 2 + 1, nodes.into());
        let shape = Shape { cluster: "load".into(), nodes, n, r, w, partitions: 256 };
        let mut cluster =
            Cluster::create(program, scratch, &shape, None).map_err(CommandError::error)?;
        cluster.start_all().map_err(CommandError::error)?;
        cluster.ready(READY_WAIT).await.map_err(CommandError::error)?;
        Ok(Some(cluster))
    }

    /// Writes the keys, and repeats the load; what was measured before it failed is kept.
    async fn load(
        &self,
        shared: &Shared,
        mut cluster: Option<&mut Cluster>,
        spec: &Spec,
        reports: &mut Vec<Report>,
    ) -> Result<(), CommandError> {
        let (addresses, options) = match &cluster {
            Some(cluster) => {
                let daemons = cluster.daemons().iter();
                (daemons.map(|d| d.address.clone()).collect(), Options::default())
            }
            None => (shared.addresses()?, shared.options()?),
        };
        let in_flight = spec.clients.max(FILL_CLIENTS);
        let client = Client::connect(&addresses, Options { in_flight, ..options }).await;
        let client = client.map_err(|failure| CommandError::error(failure.to_string()))?;
        let n = client.ring().n();
        for (name, given) in [("r", self.r), ("w", self.w)] {
            if let Some(given) = given.filter(|given| *given > n) {
                let why =
                    format!("{name} = {given}: this cluster has n = {n}, so {name} is 1 to {n}");
                return Err(CommandError::usage(why));
            }
        }
        fill(&client, spec).await.map_err(CommandError::error)?;
        let mut keys = spec.keys;
        for number in 0..self.repetitions {
            let report = repeat(&client, spec, number, keys).await.map_err(CommandError::error)?;
            keys = report.keys;
            if !shared.json() {
                let line = tables::progress(number + 1, self.repetitions, &report);
                emit(format!("{line}\n"))?;
            }
            reports.push(report);
            if let Some((name, how)) = cluster.as_mut().and_then(|cluster| cluster.ended().pop()) {
                return Err(CommandError::error(format!("{name} {how}: the run is incomplete")));
            }
        }
        let full = |report: &Report| spec.samples > 0 && report.samples.len() == spec.samples;
        if reports.iter().any(full) {
            let most = spec.samples;
            complain(&format!("samples.csv has the first {most} operations of a repetition only"));
        }
        Ok(())
    }
}
