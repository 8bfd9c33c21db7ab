//! What a cluster does, and what the same machine can do at most, measured in the same run.

pub(crate) mod account;
pub(crate) mod echo;
pub(crate) mod limits;

use std::collections::BTreeMap;
use std::time::Duration;

use pixii_client::{Client, Options};

use super::workload::choice::{Choice, Sizes};
use super::workload::repeated::{FILL_CLIENTS, fill};
use super::workload::{Kind, Load, Mix, Report, Spec};
use account::{Machine, Usage};

/// Puts run this long unmeasured first, on keys of their own.
const WARM_UP: Duration = Duration::from_millis(500);
const TIMEOUT_MS: u32 = 10_000;

/// One line of the table: what to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    /// [`Kind::Put`] or [`Kind::Get`].
    pub(crate) kind: Kind,
    /// Bytes of each value.
    pub(crate) size: usize,
    /// Requests in progress at a time.
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

/// What was measured. CPU is in microseconds per operation, from the kernel's account of whole
/// processes.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// What was asked for.
    pub(crate) case: Case,
    /// Operations done per second.
    pub(crate) rate: f64,
    /// Median latency in microseconds.
    pub(crate) p50_us: u64,
    /// 99 of 100 were at least as fast, in microseconds.
    pub(crate) p99_us: u64,
    /// Operations that were refused or unknown.
    pub(crate) failed: u64,
    /// CPU of each daemon on this machine.
    pub(crate) daemons_us: BTreeMap<String, f64>,
    /// CPU of the load generator.
    pub(crate) client_us: f64,
    /// The resident set of the largest daemon, in bytes.
    pub(crate) rss_bytes: u64,
}

impl Line {
    /// CPU of all daemons and the client together.
    pub(crate) fn total_us(&self) -> f64 {
        self.client_us + self.daemons_us.values().sum::<f64>()
    }
}

/// Measures one case. Keys to be read are written first.
pub(crate) async fn measure(field: &Field, case: Case, machine: &Machine) -> Result<Line, String> {
    let in_flight = case.clients.max(FILL_CLIENTS);
    let options = Options { in_flight, ..field.options.clone() };
    let client = Client::connect(&field.addresses, options).await.map_err(|f| f.to_string())?;
    let spec = spec(field, case);
    if case.kind == Kind::Get {
        fill(&client, &spec).await?;
    } else {
        let prefix = format!("{}warm/", spec.prefix);
        let warm_up = Spec { prefix, duration: Some(WARM_UP), ..spec.clone() };
        Load::start(&client, warm_up, None).finish().await?;
    }
    let before = Usages::now(field, machine)?;
    let report = Load::start(&client, spec, None).finish().await?;
    line(case, &report, &before, &Usages::now(field, machine)?)
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

fn line(case: Case, report: &Report, from: &Usages, to: &Usages) -> Result<Line, String> {
    let nothing = |why: &str| format!("nothing was done in {} s: {why}", report.spent.as_secs());
    let totals = report.kind(case.kind).ok_or_else(|| nothing("no answer came"))?;
    if totals.done() == 0 {
        return Err(nothing(totals.reasons.keys().next().map_or("no answer came", String::as_str)));
    }
    let done = totals.done() as f64;
    let per_operation =
        |from: &Usage, to: &Usage| to.cpu.saturating_sub(from.cpu).as_secs_f64() * 1e6 / done;
    let daemons = to
        .daemons
        .iter()
        .filter_map(|(name, to)| Some((name.clone(), per_operation(from.daemons.get(name)?, to))));
    Ok(Line {
        case,
        rate: done / report.spent.as_secs_f64(),
        p50_us: totals.latency.value_at_quantile(0.5),
        p99_us: totals.latency.value_at_quantile(0.99),
        failed: totals.refused + totals.unknown,
        daemons_us: daemons.collect(),
        client_us: per_operation(&from.client, &to.client),
        rss_bytes: to.daemons.values().map(|usage| usage.rss_bytes).max().unwrap_or_default(),
    })
}

/// The kernel's account of all processes at one moment.
struct Usages {
    daemons: BTreeMap<String, Usage>,
    client: Usage,
}

impl Usages {
    fn now(field: &Field, machine: &Machine) -> Result<Self, String> {
        let usage = |(name, pid): (&String, &u32)| {
            let usage = machine.usage(*pid).map_err(|why| format!("{name}: {why}"));
            usage.map(|usage| (name.clone(), usage))
        };
        let daemons = field.daemons.iter().map(usage).collect::<Result<_, _>>()?;
        Ok(Usages { daemons, client: machine.usage(std::process::id())? })
    }
}
