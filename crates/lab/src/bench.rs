//! Throughput and latency of a cluster beside the limits of the same machine, measured in the same
//! run, and beside another store under the same load.

pub(crate) mod compare;
pub(crate) mod echo;
pub(crate) mod limits;
pub(crate) mod usage;

use std::collections::BTreeMap;
use std::time::Duration;

use pixii_client::{Client, Options};

use super::workload::choice::{Choice, Sizes};
use super::workload::repeated::{FILL_CLIENTS, fill};
use super::workload::target::Target;
use super::workload::{Kind, Load, Mix, Report, Spec};
use usage::{Device, Machine, Usage};

/// Length of an unmeasured load before each measurement; its puts use other keys.
const WARM_UP: Duration = Duration::from_millis(500);
const TIMEOUT_MS: u32 = 10_000;

/// One row of the table: a measurement to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    /// The operation: [`Kind::Put`] or [`Kind::Get`], no other kind.
    pub(crate) kind: Kind,
    /// Bytes of each value.
    pub(crate) size: usize,
    /// Requests in flight at a time.
    pub(crate) clients: usize,
}

/// The parameters that all cases share.
#[derive(Clone, Debug)]
pub(crate) struct Field {
    /// Addresses of the cluster's nodes, `host:port`.
    pub(crate) addresses: Vec<String>,
    /// Options of the clients of the cluster.
    pub(crate) options: Options,
    /// Process ids of the daemons on this machine, by name.
    pub(crate) daemons: BTreeMap<String, u32>,
    /// Number of members of the cluster.
    pub(crate) members: usize,
    /// Number of keys of each case; gets choose among them.
    pub(crate) keys: u64,
    /// Length of each measurement.
    pub(crate) duration: Duration,
    /// Seed of all choices.
    pub(crate) seed: u64,
}

/// Sources of the counters.
#[derive(Clone, Debug)]
pub(crate) struct Meters {
    /// The kernel's counters of processes on this machine.
    pub(crate) machine: Machine,
    /// The disk of the servers' data; `None` if it is not known.
    pub(crate) device: Option<Device>,
}

/// The measurements of one case. CPU is in microseconds per operation, from the kernel's accounting
/// of whole processes.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// The case that was measured.
    pub(crate) case: Case,
    /// Number of members of the cluster, or of processes of another store.
    pub(crate) members: usize,
    /// Operations done per second.
    pub(crate) rate: f64,
    /// Median latency in microseconds.
    pub(crate) p50_us: u64,
    /// 99th percentile of the latency, in microseconds.
    pub(crate) p99_us: u64,
    /// Number of operations that were refused or have an unknown outcome.
    pub(crate) failed: u64,
    /// CPU time of each server on this machine, by name.
    pub(crate) servers_us: BTreeMap<String, f64>,
    /// CPU time of the load generator.
    pub(crate) client_us: f64,
    /// Resident set of the largest server, in bytes.
    pub(crate) rss_bytes: u64,
    /// Context switches of all servers, per operation.
    pub(crate) switches: f64,
    /// Bytes written to the disk per operation by all its users, the journal of the file system
    /// included; `None` if the disk is not known.
    pub(crate) device_bytes: Option<f64>,
    /// `write_bytes` of all servers per operation; `None` if the kernel does not report it.
    pub(crate) write_bytes: Option<f64>,
}

impl Line {
    /// CPU time of all servers and the client together, in microseconds per operation.
    pub(crate) fn total_us(&self) -> f64 {
        self.client_us + self.servers_us.values().sum::<f64>()
    }
}

/// Measures one case. The keys that gets read are written first.
pub(crate) async fn measure(field: &Field, case: Case, meters: &Meters) -> Result<Line, String> {
    let in_flight = case.clients.max(FILL_CLIENTS);
    let options = Options { in_flight, ..field.options.clone() };
    let client = Client::connect(&field.addresses, options).await.map_err(|f| f.to_string())?;
    let spec = spec(field, case);
    if case.kind == Kind::Get {
        fill(&client, &spec).await?;
    }
    let line = run(&Target::from(&client), spec, case, &field.daemons, meters).await?;
    Ok(Line { members: field.members, ..line })
}

/// Measures a load, after a short unmeasured one. `servers` are the processes of the store.
async fn run(
    target: &Target,
    spec: Spec,
    case: Case,
    servers: &BTreeMap<String, u32>,
    meters: &Meters,
) -> Result<Line, String> {
    let prefix = match case.kind {
        Kind::Get => spec.prefix.clone(),
        _ => format!("{}warm/", spec.prefix),
    };
    let warm_up = Spec { prefix, duration: Some(WARM_UP), ..spec.clone() };
    Load::start(target.clone(), warm_up, None).finish().await?;
    let before = Counters::now(servers, meters)?;
    let report = Load::start(target.clone(), spec, None).finish().await?;
    line(case, &report, &before, &Counters::now(servers, meters)?)
}

/// The first bytes of all keys of a measurement with this seed.
pub(crate) fn prefix(seed: u64) -> String {
    format!("bench/{:08x}/", seed as u32)
}

fn spec(field: &Field, case: Case) -> Spec {
    let (mix, choice) = match case.kind {
        Kind::Get => (Mix { get: 1.0, ..Mix::default() }, Choice::Uniform),
        _ => (Mix { put: 1.0, ..Mix::default() }, Choice::Own),
    };
    let Case { kind, size, clients } = case;
    Spec {
        clients,
        arrivals: None,
        mix,
        prefix: format!("{}{kind:?}/{size}/{clients}/", prefix(field.seed)),
        keys: field.keys,
        choice,
        sizes: Sizes::fixed(size),
        r: None,
        w: None,
        timeout_ms: TIMEOUT_MS,
        operations: None,
        duration: Some(field.duration),
        warm_up: Duration::ZERO,
        samples: 0,
        seed: field.seed,
    }
}

fn line(case: Case, report: &Report, from: &Counters, to: &Counters) -> Result<Line, String> {
    let nothing = |why: &str| format!("nothing was done in {} s: {why}", report.spent.as_secs());
    let totals = report.kind(case.kind).ok_or_else(|| nothing("no answer came"))?;
    if totals.done() == 0 {
        return Err(nothing(totals.reasons.keys().next().map_or("no answer came", String::as_str)));
    }
    let done = totals.done() as f64;
    let per_operation =
        |from: &Usage, to: &Usage| to.cpu.saturating_sub(from.cpu).as_secs_f64() * 1e6 / done;
    let servers: Vec<(&String, &Usage, &Usage)> = to
        .servers
        .iter()
        .filter_map(|(name, to)| Some((name, from.servers.get(name)?, to)))
        .collect();
    let switches = |(_, from, to): &(_, &Usage, &Usage)| to.switches.saturating_sub(from.switches);
    let written = servers.iter().map(|(_, from, to)| difference(from.write_bytes, to.write_bytes));
    Ok(Line {
        case,
        members: servers.len(),
        rate: done / report.spent.as_secs_f64(),
        p50_us: totals.latency.value_at_quantile(0.5),
        p99_us: totals.latency.value_at_quantile(0.99),
        failed: totals.refused + totals.unknown,
        servers_us: servers
            .iter()
            .map(|(name, from, to)| ((*name).clone(), per_operation(from, to)))
            .collect(),
        client_us: per_operation(&from.client, &to.client),
        rss_bytes: to.servers.values().map(|usage| usage.rss_bytes).max().unwrap_or_default(),
        switches: servers.iter().map(switches).sum::<u64>() as f64 / done,
        device_bytes: difference(from.device, to.device).map(|bytes| bytes as f64 / done),
        write_bytes: written.sum::<Option<u64>>().map(|bytes| bytes as f64 / done),
    })
}

fn difference(from: Option<u64>, to: Option<u64>) -> Option<u64> {
    Some(to?.saturating_sub(from?))
}

/// The kernel's counters of all processes, and of the disk, at one moment.
struct Counters {
    servers: BTreeMap<String, Usage>,
    client: Usage,
    device: Option<u64>,
}

impl Counters {
    fn now(servers: &BTreeMap<String, u32>, meters: &Meters) -> Result<Self, String> {
        let usage = |(name, pid): (&String, &u32)| {
            let usage = meters.machine.usage(*pid).map_err(|why| format!("{name}: {why}"));
            usage.map(|usage| (name.clone(), usage))
        };
        let servers = servers.iter().map(usage).collect::<Result<_, _>>()?;
        let device = meters.device.as_ref().and_then(Device::written);
        Ok(Counters { servers, client: meters.machine.usage(std::process::id())?, device })
    }
}
