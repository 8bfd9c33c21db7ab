//! What was measured, for people and as JSON. Every number comes from the same run.

use pixii_kit::text::{row, table};
use serde_json::{Value, json};

use crate::bench::Line;
use crate::bench::echo::Echo;
use crate::bench::limits::Cost;
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

    /// Tables, with a few words on each.
    pub(super) fn as_text(&self) -> String {
        let mut out = String::from("What this machine can do at most, in this run\n\n");
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
        out += &table(&rows);
        out += "\nThe cluster: closed loop; us CPU for each operation, by process\n\n";
        let mut rows = vec![row([
            "", "bytes", "clients", "ops/s", "p50 us", "p99 us", "CPU", "daemons", "client",
            "RSS MiB", "failed", "ratio",
        ])];
        rows.extend(self.lines.iter().map(|line| self.row(line)));
        out += &table(&rows);
        out += "\nRSS is the largest daemon's. The ratio is CPU / the least possible:\n";
        for line in &self.lines {
            let Some((ratio, least)) = self.ratio(line) else { continue };
            let parts = match line.case.kind {
                Kind::Get => "2 echoes + 2 cached reads of the store",
                _ => "3 echoes + 3 operations of the store at that batch size",
            };
            out += &format!(
                "  {} of {} bytes, {} clients: {:.1} us / {least:.1} us ({parts}) = {ratio:.2}\n",
                line.case.kind.name(),
                line.case.size,
                line.case.clients,
                line.total_us(),
            );
        }
        out
    }

    fn row(&self, line: &Line) -> Vec<String> {
        let daemons: Vec<String> =
            line.daemons_us.values().map(|cpu| format!("{cpu:.1}")).collect();
        vec![
            line.case.kind.name().into(),
            line.case.size.to_string(),
            line.case.clients.to_string(),
            format!("{:.0}", line.rate),
            line.p50_us.to_string(),
            line.p99_us.to_string(),
            format!("{:.1}", line.total_us()),
            daemons.join(" "),
            format!("{:.1}", line.client_us),
            format!("{:.1}", line.rss_bytes as f64 / f64::from(1 << 20)),
            line.failed.to_string(),
            self.ratio(line).map_or_else(|| "-".into(), |(ratio, _)| format!("{ratio:.2}")),
        ]
    }

    /// The same, all numbers unrounded.
    pub(super) fn as_json(&self) -> Value {
        let costs = |costs: &[Cost]| -> Vec<Value> {
            let cost = |c: &Cost| {
                json!({ "bytes": c.size, "batch": c.batch, "per_second": c.rate,
                "cpu_us": c.cpu_us })
            };
            costs.iter().map(cost).collect()
        };
        let echo = |echo: &Echo| {
            json!({
                "connections": echo.connections, "per_second": echo.rate, "cpu_us": echo.cpu_us,
            })
        };
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
                "cpu_us_of_daemons": line.daemons_us,
                "cpu_us_of_client": line.client_us,
                "rss_bytes": line.rss_bytes,
                "least_cpu_us": ratio.map(|(_, least)| least),
                "ratio": ratio.map(|(ratio, _)| ratio),
            })
        };
        json!({
            "cluster": self.lines.iter().map(line).collect::<Vec<_>>(),
            "echo": self.echoes.iter().map(echo).collect::<Vec<_>>(),
            "append_and_fdatasync": costs(&self.appends),
            "store_apply_and_sync": costs(&self.writes),
            "store_cached_read": costs(&self.reads),
        })
    }
}
