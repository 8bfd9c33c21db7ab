//! What was measured, for people and as JSON. Every number comes from the same run.

use pixii_kit::text::{row, table};
use serde_json::{Value, json};

use crate::bench::echo::Echo;
use crate::bench::limits::Cost;
use crate::bench::{Case, Line};
use crate::workload::Kind;

/// Round trips, and operations of the store, that a put and a get cannot do without when three
/// replicas are written and two are read, one of them asked over the network.
const PUT_PARTS: (f64, f64) = (3.0, 3.0);
const GET_PARTS: (f64, f64) = (2.0, 2.0);

/// Everything that one run has measured.
#[derive(Default)]
pub(super) struct Results {
    /// The cluster.
    pub(super) lines: Vec<Line>,
    /// TCP.
    pub(super) echoes: Vec<Echo>,
    /// A file and fdatasync.
    pub(super) appends: Vec<Cost>,
    /// The store: batches.
    pub(super) writes: Vec<Cost>,
    /// The store: reads.
    pub(super) reads: Vec<Cost>,
    /// Whether the CPU of every daemon was seen.
    pub(super) all_seen: bool,
}

impl Results {
    /// How many times the least possible CPU an operation took, and that least, in microseconds.
    fn ratio(&self, line: &Line) -> Option<(f64, f64)> {
        if !self.all_seen {
            return None;
        }
        let echo = self.echoes.iter().map(|echo| echo.cpu_us).reduce(f64::min)?;
        let same_size = |cost: &&Cost| cost.size == line.case.size;
        let ((trips, parts), store) = match line.case.kind {
            Kind::Get => (GET_PARTS, self.reads.iter().find(same_size)?),
            _ => {
                let fitting = self.writes.iter().filter(same_size);
                let fitting = fitting.filter(|cost| cost.batch <= line.case.clients);
                (PUT_PARTS, fitting.max_by_key(|cost| cost.batch)?)
            }
        };
        let least = trips * echo + parts * store.cpu_us;
        (least > 0.0).then(|| (line.total_us() / least, least))
    }

    /// What the machine can do at most, as a table.
    pub(super) fn limits_as_text(&self) -> String {
        let out = String::from("What this machine can do at most, in this run\n\n");
        let mut rows = vec![row(["", "per second", "us CPU each", ""])];
        for echo in &self.echoes {
            rows.push(vec![
                "TCP echo, 100 bytes".into(),
                format!("{:.0}", echo.rate),
                format!("{:.1}", echo.cpu_us),
                format!("{} connections; a round trip, both processes", echo.connections),
            ]);
        }
        let costs = [
            ("append + fdatasync", &self.appends, "a record of a raw file"),
            ("store, apply + sync", &self.writes, "a record, without a cluster"),
            ("store, cached read", &self.reads, "a record, without a cluster"),
        ];
        for (name, costs, what) in costs {
            for Cost { size, batch, rate, cpu_us } in costs.iter() {
                rows.push(vec![
                    format!("{name}, {size} bytes"),
                    format!("{rate:.0}"),
                    format!("{cpu_us:.1}"),
                    format!("batch of {batch}; {what}"),
                ]);
            }
        }
        out + &table(&rows)
    }

    /// Tables, with a few words on each.
    pub(super) fn as_text(&self) -> String {
        let mut out = self.limits_as_text();
        out += "\nThe cluster: closed loop; us CPU for each operation, by process\n\n";
        let mut rows = vec![row([
            "", "nodes", "bytes", "clients", "ops/s", "p50 us", "p99 us", "CPU", "daemons",
            "client", "switches", "disk KiB", "io KiB", "RSS MiB", "failed", "ratio",
        ])];
        rows.extend(self.lines.iter().map(|line| self.row(line)));
        out += &table(&rows);
        out += "\nSwitches, disk and io are for each operation, of all daemons together.\n";
        out += &self.growth();
        out += "RSS is the largest daemon's. The ratio is CPU / the least possible:\n";
        for line in &self.lines {
            let Some((ratio, least)) = self.ratio(line) else { continue };
            let parts = match line.case.kind {
                Kind::Get => "2 echoes + 2 cached reads of the store",
                _ => "3 echoes + 3 operations of the store at that batch size",
            };
            out += &format!(
                "  {}, {} nodes, {} bytes, {} clients: {:.1} us / {least:.1} us ({parts}) = \
                 {ratio:.2}\n",
                line.case.kind.name(),
                line.members,
                line.case.size,
                line.case.clients,
                line.total_us(),
            );
        }
        out
    }

    /// CPU of an operation by the number of nodes, where there are several clusters.
    fn growth(&self) -> String {
        let mut nodes: Vec<usize> = self.lines.iter().map(|line| line.members).collect();
        nodes.sort_unstable();
        nodes.dedup();
        if nodes.len() < 2 {
            return String::new();
        }
        let title = ["".to_owned(), "bytes".into(), "clients".into()];
        let heads = nodes.iter().map(|count| format!("{count} nodes"));
        let mut rows = vec![title.into_iter().chain(heads).collect()];
        for line in self.lines.iter().filter(|line| line.members == self.lines[0].members) {
            let Case { kind, size, clients } = line.case;
            let mut cells = vec![kind.name().to_owned(), size.to_string(), clients.to_string()];
            cells.extend(nodes.iter().map(|count| {
                let same = |other: &&Line| other.members == *count && other.case == line.case;
                let found = self.lines.iter().find(same);
                found.map_or_else(|| "-".into(), |line| format!("{:.1}", line.total_us()))
            }));
            rows.push(cells);
        }
        format!("\nCPU for each operation, in us, by the number of nodes\n\n{}\n", table(&rows))
    }

    fn row(&self, line: &Line) -> Vec<String> {
        let daemons: Vec<String> =
            line.servers_us.values().map(|cpu| format!("{cpu:.1}")).collect();
        vec![
            line.case.kind.name().into(),
            line.members.to_string(),
            line.case.size.to_string(),
            line.case.clients.to_string(),
            format!("{:.0}", line.rate),
            line.p50_us.to_string(),
            line.p99_us.to_string(),
            format!("{:.1}", line.total_us()),
            // More of them would be wider than a screen.
            if daemons.len() > 3 { daemons.len().to_string() } else { daemons.join(" ") },
            format!("{:.1}", line.client_us),
            format!("{:.1}", line.switches),
            kib(line.device_bytes),
            kib(line.write_bytes),
            format!("{:.1}", line.rss_bytes as f64 / f64::from(1 << 20)),
            line.failed.to_string(),
            self.ratio(line).map_or_else(|| "-".into(), |(ratio, _)| format!("{ratio:.2}")),
        ]
    }

    /// The same, all numbers unrounded.
    pub(super) fn as_json(&self) -> Value {
        let line = |line: &Line| {
            let ratio = self.ratio(line);
            json!({
                "kind": line.case.kind.name(),
                "bytes": line.case.size,
                "clients": line.case.clients,
                "per_second": line.rate,
                "p50_us": line.p50_us,
                "p99_us": line.p99_us,
                "failed": line.failed,
                "cpu_us": line.total_us(),
                "nodes": line.members,
                "cpu_us_of_daemons": line.servers_us,
                "cpu_us_of_client": line.client_us,
                "context_switches": line.switches,
                "device_bytes": line.device_bytes,
                "write_bytes": line.write_bytes,
                "rss_bytes": line.rss_bytes,
                "least_cpu_us": ratio.map(|(_, least)| least),
                "ratio": ratio.map(|(ratio, _)| ratio),
            })
        };
        let mut all = self.limits_as_json();
        all["cluster"] = self.lines.iter().map(line).collect();
        all
    }

    /// What the machine can do at most.
    pub(super) fn limits_as_json(&self) -> Value {
        let costs = |costs: &[Cost]| -> Vec<Value> {
            let cost = |c: &Cost| {
                json!({
                    "bytes": c.size, "batch": c.batch, "per_second": c.rate, "cpu_us": c.cpu_us,
                })
            };
            costs.iter().map(cost).collect()
        };
        let echo = |echo: &Echo| {
            json!({
                "connections": echo.connections, "per_second": echo.rate, "cpu_us": echo.cpu_us,
            })
        };
        json!({
            "echo": self.echoes.iter().map(echo).collect::<Vec<_>>(),
            "append_and_fdatasync": costs(&self.appends),
            "store_apply_and_sync": costs(&self.writes),
            "store_cached_read": costs(&self.reads),
        })
    }
}

/// Bytes as KiB, or a dash where they are not known.
pub(super) fn kib(bytes: Option<f64>) -> String {
    bytes.map_or_else(|| "-".into(), |bytes| format!("{:.1}", bytes / 1_024.0))
}
