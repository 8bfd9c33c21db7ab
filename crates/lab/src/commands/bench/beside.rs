//! What a comparison with another store came to: for people, as JSON, as Markdown and as figures.

use std::fs;
use std::path::Path;

use pixii_kit::text::{count, row, table};
use serde_json::{Value, json};

use super::tables::{Results, kib};
use crate::bench::Line;
use crate::bench::compare::{Comparison, Opponent, Ratio, Side};
use crate::plot::{Axis, Figure, Line as Curve, Style};
use crate::workload::Kind;

/// What an acknowledgement of the cluster means that the command starts.
const MEANING: &str = "W of N replicas have the write on their disks, synced (2 of 3 in a \
                       throw-away cluster)";

/// A comparison.
pub(super) struct Beside {
    /// Case by case.
    pub(super) comparisons: Vec<Comparison>,
    /// The other store.
    pub(super) opponent: Opponent,
    /// Nodes of the cluster.
    pub(super) members: usize,
    /// Length of each measurement.
    pub(super) seconds: u64,
    /// How often each was made.
    pub(super) rounds: u64,
    /// Number of keys.
    pub(super) keys: u64,
    /// The machine's load average before and after, where it is known.
    pub(super) load: [Option<f64>; 2],
}

impl Beside {
    fn name(&self, side: Side) -> String {
        match side {
            Side::Multiplexed => "Pixii, multiplexed".into(),
            Side::PerClient => "Pixii, per client".into(),
            Side::Peer => self.opponent.name.clone(),
        }
    }

    fn put_name(&self, side: Side, kind: Kind) -> String {
        match (side, kind) {
            (Side::Peer, Kind::Put) => {
                format!("{} ({})", self.name(side), self.opponent.peer.put_name())
            }
            _ => self.name(side),
        }
    }

    /// How it was measured, a sentence each.
    fn conditions(&self) -> Vec<String> {
        let servers: Vec<&str> = self.opponent.servers.keys().map(String::as_str).collect();
        let url = self.opponent.peer.url();
        let seen = match servers.as_slice() {
            [] => format!("No process of {url} is to be seen here: its CPU is the client's alone."),
            some => format!("Processes of {url}: {}.", some.join(", ")),
        };
        let load = |load: Option<f64>| load.map_or_else(|| "?".into(), |load| format!("{load:.2}"));
        vec![
            format!("A put of Pixii is acknowledged when {MEANING}."),
            format!(
                "A put of {url} is acknowledged when {}.",
                self.opponent.peer.meaning(&self.opponent.stated)
            ),
            format!(
                "A get of Pixii merges R of N replicas (2 of 3 there); a get of {url} is {}.",
                self.opponent.peer.get_meaning()
            ),
            format!(
                "{} of {} s, interleaved; {} keys; {} nodes of Pixii.",
                count(self.rounds, "round"),
                self.seconds,
                self.keys,
                self.members
            ),
            seen,
            format!(
                "Load average before and after, the measurement included: {} and {}.",
                load(self.load[0]),
                load(self.load[1])
            ),
        ]
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let mut rows = vec![row([
            "",
            "bytes",
            "clients",
            "store",
            "ops/s (least-most)",
            "p50 ms",
            "p99 ms",
            "CPU us",
            "servers",
            "client",
            "switches",
            "disk KiB",
            "io KiB",
            "failed",
        ])];
        for comparison in &self.comparisons {
            for side in Side::ALL {
                rows.extend(self.row(comparison, side));
            }
        }
        rows
    }

    fn row(&self, comparison: &Comparison, side: Side) -> Option<Vec<String>> {
        let case = comparison.case;
        let median =
            |of: &dyn Fn(&Line) -> f64| comparison.span(side, of).map(|[median, ..]| median);
        let known = |of: fn(&Line) -> Option<f64>| {
            let all = comparison.rounds.get(&side)?;
            all.iter()
                .all(|line| of(line).is_some())
                .then(|| median(&|line: &Line| of(line).unwrap_or_default()))?
        };
        let [rate, least, most] = comparison.span(side, |line| line.rate)?;
        Some(vec![
            case.kind.name().into(),
            case.size.to_string(),
            case.clients.to_string(),
            self.put_name(side, case.kind),
            format!("{rate:.0} ({least:.0}-{most:.0})"),
            format!("{:.2}", median(&|line| line.p50_us as f64 / 1e3)?),
            format!("{:.2}", median(&|line| line.p99_us as f64 / 1e3)?),
            format!("{:.1}", median(&Line::total_us)?),
            format!("{:.1}", median(&|line| line.total_us() - line.client_us)?),
            format!("{:.1}", median(&|line| line.client_us)?),
            format!("{:.1}", median(&|line| line.switches)?),
            kib(known(|line| line.device_bytes)),
            kib(known(|line| line.write_bytes)),
            comparison.rounds.get(&side)?.iter().map(|line| line.failed).sum::<u64>().to_string(),
        ])
    }

    fn ratio_rows(&self) -> Vec<Vec<String>> {
        let title = ["", "bytes", "clients", "store", "ops/s", "CPU", "CPU of servers", "p50"];
        let mut rows = vec![row(title)];
        let shown = |ratio: Option<Ratio>| match ratio {
            None => "-".to_owned(),
            // One round has no interval.
            Some(Ratio { mean, .. }) if self.rounds < 2 => format!("{mean:.2}"),
            Some(Ratio { mean, low, high }) => format!("{mean:.2} ({low:.2}-{high:.2})"),
        };
        for comparison in &self.comparisons {
            for side in [Side::Multiplexed, Side::PerClient] {
                let case = comparison.case;
                let ratio = |of: fn(&Line) -> f64| shown(comparison.ratio(side, of));
                rows.push(vec![
                    case.kind.name().into(),
                    case.size.to_string(),
                    case.clients.to_string(),
                    self.name(side),
                    ratio(|line| line.rate),
                    ratio(Line::total_us),
                    ratio(|line| line.total_us() - line.client_us),
                    ratio(|line| line.p50_us as f64),
                ]);
            }
        }
        rows
    }

    /// Tables, with how they were measured.
    pub(super) fn as_text(&self, floors: &Results) -> String {
        let conditions: String = self.conditions().iter().map(|line| format!("{line}\n")).collect();
        format!(
            "{}\n{conditions}\nMedians of the rounds; CPU, switches, disk and io for each \
             operation\n\n\
             {}\nPixii in parts of {}: geometric means and 95 % intervals\n\n{}",
            floors.limits_as_text(),
            table(&self.rows()),
            self.name(Side::Peer),
            table(&self.ratio_rows()),
        )
    }

    /// Writes `NAME.md` and `NAME-put.svg`, `NAME-get.svg` to a directory.
    pub(super) fn write(&self, dir: &Path, floors: &Results) -> Result<(), String> {
        let fault = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
        fs::create_dir_all(dir).map_err(|error| fault(dir, error))?;
        let path = dir.join("performance.md");
        fs::write(&path, self.as_markdown(floors)).map_err(|error| fault(&path, error))?;
        [Kind::Put, Kind::Get]
            .into_iter()
            .filter_map(|kind| self.figure(kind))
            .try_for_each(|figure| figure.write(dir))
    }

    fn as_markdown(&self, floors: &Results) -> String {
        let items: String = self.conditions().iter().map(|line| format!("- {line}\n")).collect();
        let commit = pixii::VERSION.as_str();
        format!(
            "Measured with Pixii {commit}.\n\n{items}\nMedians of the rounds; CPU, switches, disk \
             and io for each operation:\n\n{}\nPixii in parts of {}, geometric means and 95 % \
             intervals:\n\n\
             {}\nThe floors, in the same run:\n\n```text\n{}```\n",
            markdown(&self.rows()),
            self.name(Side::Peer),
            markdown(&self.ratio_rows()),
            floors.limits_as_text(),
        )
    }

    /// Operations per second by the number of clients, of the first size; none if there is one
    /// number of clients only.
    fn figure(&self, kind: Kind) -> Option<Figure> {
        let of_kind = || self.comparisons.iter().filter(move |one| one.case.kind == kind);
        let size = of_kind().next()?.case.size;
        let of_size: Vec<&Comparison> = of_kind().filter(|one| one.case.size == size).collect();
        if of_size.len() < 2 {
            return None;
        }
        let curve = |(colour, side): (usize, Side)| {
            let points = of_size.iter().enumerate().filter_map(|(nth, one)| {
                let [median, least, most] = one.span(side, |line| line.rate)?;
                Some((nth as f64, median, (most - least) / 2.0))
            });
            let (name, points) = (self.put_name(side, kind), points.collect());
            Curve { name, points, style: Style::Measured, colour }
        };
        let names = of_size.iter().map(|one| one.case.clients.to_string()).collect();
        Some(Figure {
            name: format!("performance-{}", kind.name()),
            title: format!("{} of {size} bytes: Pixii beside {}", kind.name(), self.opponent.name),
            caption: format!(
                "Medians of {} of {} s, interleaved; bars: half of least to most. Pixii {}.",
                count(self.rounds, "round"),
                self.seconds,
                pixii::VERSION.as_str()
            ),
            x: "clients".into(),
            y: "operations per second".into(),
            axis: Axis::Sizes(names),
            is_log: true,
            lines: Side::ALL.into_iter().enumerate().map(curve).collect(),
        })
    }

    /// The same, all numbers unrounded, round by round.
    pub(super) fn as_json(&self, floors: &Results) -> Value {
        let line = |line: &Line| {
            json!({
                "per_second": line.rate,
                "p50_us": line.p50_us,
                "p99_us": line.p99_us,
                "failed": line.failed,
                "cpu_us": line.total_us(),
                "cpu_us_of_servers": line.servers_us,
                "cpu_us_of_client": line.client_us,
                "context_switches": line.switches,
                "device_bytes": line.device_bytes,
                "write_bytes": line.write_bytes,
            })
        };
        let ratio = |ratio: Option<Ratio>| {
            ratio.map(|Ratio { mean, low, high }| json!({ "mean": mean, "low": low, "high": high }))
        };
        let comparison = |one: &Comparison| {
            let rounds =
                |side| one.rounds.get(&side).map(|all| all.iter().map(line).collect::<Vec<_>>());
            let ratios = |side| {
                json!({
                    "per_second": ratio(one.ratio(side, |line| line.rate)),
                    "cpu": ratio(one.ratio(side, Line::total_us)),
                })
            };
            json!({
                "kind": one.case.kind.name(),
                "bytes": one.case.size,
                "clients": one.case.clients,
                "multiplexed": rounds(Side::Multiplexed),
                "per_client": rounds(Side::PerClient),
                "against": rounds(Side::Peer),
                "ratio_multiplexed": ratios(Side::Multiplexed),
                "ratio_per_client": ratios(Side::PerClient),
            })
        };
        let mut all = floors.limits_as_json();
        all["against"] = self.opponent.peer.url().into();
        all["put"] = self.opponent.peer.put_name().into();
        all["acknowledged_when"] = self.opponent.peer.meaning(&self.opponent.stated).into();
        all["nodes"] = self.members.into();
        all["load_average"] = json!(self.load);
        all["comparisons"] = self.comparisons.iter().map(comparison).collect();
        all
    }
}

/// Rows as a table of Markdown; the first one is the head.
fn markdown(rows: &[Vec<String>]) -> String {
    let line = |cells: &Vec<String>| format!("| {} |\n", cells.join(" | "));
    let Some((head, body)) = rows.split_first() else { return String::new() };
    let rule = format!("|{}\n", "---|".repeat(head.len()));
    line(head) + &rule + &body.iter().map(line).collect::<String>()
}
