//! What a running cluster's daemons have sampled, fetched and reported.

use std::fmt::Write as _;

use pixii_client::Client;
use pixii_core::members::Member;
use pixii_kit::arguments::Shared;
use pixii_kit::outcome::{CommandError, block_on};
use pixii_kit::text::{row, table};
use serde_json::{Value, json};

use crate::pbs::live::{Links, mean, quantile};

/// Clusters with more links than this are reported in short.
const MAX_ROWS: usize = 60;

/// A cluster, as it is now.
pub(super) struct Live {
    /// Its name.
    pub(super) cluster: String,
    /// Its links.
    pub(super) links: Links,
    /// R and W of requests that name none.
    pub(super) defaults: (u8, u8),
    rows: Vec<Row>,
}

/// A link, as it is reported. Times are in milliseconds.
struct Row {
    from: String,
    to: String,
    reads: usize,
    read: [f64; 2],
    writes: usize,
    write: [f64; 2],
    one_way: f64,
    is_of_writes: bool,
    /// What a write takes by the model, in the mean.
    modelled: f64,
}

/// Asks every member. The error names the one that does not know.
pub(super) fn fetch(shared: &Shared) -> Result<Live, CommandError> {
    block_on(async {
        let client = shared.client().await?;
        let mut reports = Vec::new();
        for Member { name, .. } in client.members() {
            reports.push(client.samples(name).await?);
        }
        let name = |id| client.ring_report().members.name(id);
        let links = Links::new(client.ring(), &reports, name).map_err(CommandError::error)?;
        Ok(live(&client, links))
    })
}

fn live(client: &Client, links: Links) -> Live {
    let report = client.ring_report();
    let ms = |micros: f64| micros / 1e3;
    let reported = |samples: &[u64]| [ms(mean(samples)), ms(quantile(samples, 0.99) as f64)];
    let rows = links.each().map(|(from, to, link, disk)| {
        let way = if from == to { 0.0 } else { ms(mean(&link.trips)) / 2.0 };
        Row {
            from: report.members.name(from),
            to: report.members.name(to),
            reads: if link.is_of_writes { 0 } else { link.trips.len() },
            read: reported(&link.trips),
            writes: link.writes.len(),
            write: reported(&link.writes),
            one_way: way,
            is_of_writes: link.is_of_writes,
            modelled: 2.0 * way + ms(mean(disk)),
        }
    });
    let rows = rows.collect();
    let (cluster, defaults) = (client.cluster().to_owned(), (report.r, report.w));
    Live { cluster, links, defaults, rows }
}

impl Live {
    /// What was measured, in a table and a few words.
    pub(super) fn as_text(&self) -> String {
        let mut rows = vec![row([
            "from", "to", "reads", "mean ms", "p99", "writes", "mean ms", "p99", "by model",
            "one way",
        ])];
        for one in self.rows.iter().take(MAX_ROWS) {
            let figures = [one.read[0], one.read[1], one.write[0], one.write[1], one.modelled];
            let [read, read99, write, write99, modelled] = figures.map(|ms| format!("{ms:.2}"));
            let reads = if one.is_of_writes { "(writes)".into() } else { one.reads.to_string() };
            let (writes, way) = (one.writes.to_string(), format!("{:.2}", one.one_way));
            let (from, to) = (&one.from, &one.to);
            rows.push(row([
                from, to, &reads, &read, &read99, &writes, &write, &write99, &modelled, &way,
            ]));
        }
        let mut text =
            format!("cluster {}: the latest round trips\n\n{}", self.cluster, table(&rows));
        if self.rows.len() > MAX_ROWS {
            let _ = writeln!(text, "and {} links more", self.rows.len() - MAX_ROWS);
        }
        if self.rows.iter().any(|one| one.is_of_writes) {
            text += "(writes): too few reads were sampled there, so the writes tell, each without \
                the median of that disk\n";
        }
        let (r, w) = self.defaults;
        text + &format!("requests that name none have (R,W) = ({r},{w})\n\n")
    }

    /// The same, unrounded.
    pub(super) fn as_json(&self) -> Value {
        let one = |one: &Row| {
            json!({
                "from": one.from, "to": one.to, "reads": one.reads, "read_mean_ms": one.read[0],
                "read_p99_ms": one.read[1], "writes": one.writes, "write_mean_ms": one.write[0],
                "write_p99_ms": one.write[1], "write_mean_by_model_ms": one.modelled,
                "one_way_mean_ms": one.one_way, "one_way_of_writes": one.is_of_writes,
            })
        };
        let links: Vec<Value> = self.rows.iter().map(one).collect();
        let (r, w) = self.defaults;
        json!({ "cluster": self.cluster, "r": r, "w": w, "links": links })
    }
}
