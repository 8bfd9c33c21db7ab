//! What a cluster does, and what the same machine can do at most, measured in the same run; and
//! what another store does with the same load.

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

/// A load runs this long unmeasured first; puts on keys of their own.
const WARM_UP: Duration = Duration::from_millis(500);
const TIMEOUT_MS: u32 = 10_000;

/// One line of the table: what to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    /// [`Kind::Put`] or [`Kind::Get`].
    pub(crate) kind: Kind,
    /// Bytes of each value.
    pub(crate) size: usize,
    /// Requests in flight at a time.
    pub(crate) clients: usize,
}

/// What all cases share.
#[derive(Clone, Debug)]
pub(crate) struct Field {
    /// Where the cluster is.
    pub(crate) addresses: Vec<String>,
    /// How its clients behave.
    pub(crate) options: Options,
    /// Processes of the daemons on this machine, by name.
    pub(crate) daemons: BTreeMap<String, u32>,
    /// How many members the cluster has.
    pub(crate) members: usize,
    /// Number of keys.
    pub(crate) keys: u64,
    /// Length of each measurement.
    pub(crate) duration: Duration,
    /// Every choice follows from it.
    pub(crate) seed: u64,
}

/// Where the counters are read.
#[derive(Clone, Debug)]
pub(crate) struct Meters {
    /// The kernel.
    pub(crate) machine: Machine,
    /// The disk of the servers' data, if it is known.
    pub(crate) device: Option<Device>,
}

/// What was measured. CPU is in microseconds per operation, from the kernel's account of whole
/// processes.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// What was asked for.
    pub(crate) case: Case,
    /// How many members the cluster has, or how many processes another store.
    pub(crate) members: usize,
    /// Operations done per second.
    pub(crate) rate: f64,
    /// Median latency in microseconds.
    pub(crate) p50_us: u64,
    /// 99 of 100 were at least as fast, in microseconds.
    pub(crate) p99_us: u64,
    /// Operations that were refused or unknown.
    pub(crate) failed: u64,
    /// CPU of each server on this machine.
    pub(crate) servers_us: BTreeMap<String, f64>,
    /// CPU of the load generator.
    pub(crate) client_us: f64,
    /// The resident set of the largest server, in bytes.
    pub(crate) rss_bytes: u64,
    /// Context switches of all servers, per operation.
    pub(crate) switches: f64,
    /// Bytes to the disk per operation: of all that uses it, the file system's journal included.
    pub(crate) device_bytes: Option<f64>,
    /// `write_bytes` of all servers, per operation.
    pub(crate) write_bytes: Option<f64>,
}

impl Line {
    /// CPU of all servers and the client together.
    pub(crate) fn total_us(&self) -> f64 {
        self.client_us + self.servers_us.values().sum::<f64>()
    }
}

/// Measures one case. Keys to be read are written first.
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

/// Measures a load, after a short one that is not measured. `servers` are the processes of the
/// store.
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
        prefix: format!("bench/{:08x}/{kind:?}/{size}/{clients}/", field.seed as u32),
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

/// The kernel's account of all processes, and of the disk, at one moment.
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
