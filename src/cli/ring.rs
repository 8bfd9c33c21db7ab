//! `pixii ring`.

use std::ffi::OsString;
use std::io::{self, BufRead, BufWriter, Read, Write};

use clap::Args;
use pixii_client::Client;
use pixii_core::members::{Member, MembershipStatus};
use pixii_core::types::{Key, MAX_KEY_BYTES, NodeId};
use pixii_kit::arguments::{Shared, parse_key};
use pixii_kit::outcome::{CommandError, CommandResult, Exit, block_on, emit, emit_json};
use pixii_kit::text::{self, row, table};
use serde_json::json;

/// Show the members, or where keys live
#[derive(Args)]
#[command(after_help = "\
Examples:
  pixii ring                                 members, addresses and shares
  pixii ring greeting                        a key's partition, owners in order, and fallbacks
  cut -f1 data.tsv | pixii ring --stdin      key<TAB>partition<TAB>owner,owner,owner for each")]
pub(crate) struct Ring {
    /// A key to place
    key: Option<OsString>,
    /// KEY is given in hexadecimal, so that it can have any bytes
    #[arg(long, requires = "key")]
    hex_key: bool,
    /// Place the keys of standard input, one a line, with the escapes \\ \t \n \r
    #[arg(long, conflicts_with = "key")]
    stdin: bool,
}

impl Ring {
    /// Asks and prints.
    pub(crate) fn run(self, shared: &Shared) -> CommandResult {
        let key = self.key.as_ref().map(|key| parse_key(key, self.hex_key)).transpose()?;
        let reports = key.is_none() && !self.stdin;
        let (client, unfinished) = block_on(async {
            let client = shared.client().await?;
            let status = if reports { client.status(None).await.ok() } else { None };
            Ok((client, status.map(|report| report.unfinished_ring()).unwrap_or_default()))
        })?;
        match key {
            Some(key) => place(&client, &key, shared.json())?,
            None if self.stdin => place_all(&client, shared.json())?,
            None => members(&client, &unfinished, shared.json())?,
        }
        Ok(Exit::Done)
    }
}

fn names(client: &Client, ids: &[NodeId]) -> Vec<String> {
    ids.iter().map(|id| client.ring_report().members.name(*id)).collect()
}

fn members(client: &Client, unfinished: &[String], as_json: bool) -> Result<(), CommandError> {
    let (report, ring) = (client.ring_report(), client.ring());
    let total = f64::from(ring.partitions()) * f64::from(ring.n());
    let members = report.members.iter().map(|member| (member, ring.share(member.id())));
    let removed = |member: &Member| member.membership == MembershipStatus::Removed;
    if as_json {
        let member = |(member, share): (&Member, usize)| {
            json!({ "name": member.name,
            "address": member.address, "partitions": share, "removed": removed(member) })
        };
        return emit_json(&json!({
            "cluster": client.cluster(),
            "version": ring.version(),
            "step": ring.step().map(|step| step.to_string()),
            "n": ring.n(),
            "r": report.r,
            "w": report.w,
            "partitions": ring.partitions(),
            "members": members.map(member).collect::<Vec<_>>(),
            "unfinished": unfinished,
        }));
    }
    let mut rows = vec![row(["member", "address", "partitions", "share"])];
    for (member, share) in members {
        let percent = format!("{:.1} %", 100.0 * share as f64 / total);
        let share = share.to_string();
        let (share, percent) = match (removed(member), ring.has(member.id())) {
            (true, false) => ("-", "removed"),
            (true, true) => (&*share, "removed, and still has places: replace it again"),
            (false, _) => (&*share, &*percent),
        };
        rows.push(row([&member.name, &member.address, share, percent]));
    }
    let step = ring.step().map_or(String::new(), |step| format!(" ({step})"));
    let unfinished: String =
        unfinished.iter().map(|what| format!("unfinished: {what}\n")).collect();
    let unfinished = if unfinished.is_empty() { unfinished } else { format!("\n{unfinished}") };
    emit(format!(
        "cluster {}: {} partitions, n = {}, r = {}, w = {}{}\n\n{}{unfinished}",
        client.cluster(),
        ring.partitions(),
        ring.n(),
        report.r,
        report.w,
        match ring.version() {
            1 => String::new(),
            version => format!(", ring version {version}{step}"),
        },
        table(&rows)
    ))
}

fn place(client: &Client, key: &Key, as_json: bool) -> Result<(), CommandError> {
    if as_json {
        return emit_json(&place_json(client, key));
    }
    let ring = client.ring();
    let partition = ring.partition(key);
    let list = names(client, &ring.preference_list(partition));
    let (owners, others) = list.split_at(list.len().min(usize::from(ring.n())));
    emit(table(&[
        row(["partition", &format!("{} of {}", partition.0, ring.partitions())]),
        row(["owners", &owners.join(" ")]),
        row(["fallbacks", &others.join(" ")]),
    ]))
}

fn place_json(client: &Client, key: &Key) -> serde_json::Value {
    let ring = client.ring();
    let partition = ring.partition(key);
    let list = names(client, &ring.preference_list(partition));
    let (owners, others) = list.split_at(list.len().min(usize::from(ring.n())));
    json!({
        "key": text::json_bytes(key.as_bytes()),
        "partition": partition.0,
        "owners": owners,
        "fallbacks": others,
    })
}

fn place_all(client: &Client, as_json: bool) -> Result<(), CommandError> {
    // Every byte of a key may be an escape of two.
    let limit = 2 * MAX_KEY_BYTES as u64 + 2;
    let mut input = io::stdin().lock();
    let mut out = BufWriter::new(io::stdout().lock());
    for number in 1u64.. {
        let mut line = Vec::new();
        let read = input.by_ref().take(limit).read_until(b'\n', &mut line);
        let fault = |what: String| {
            CommandError::error(format!(
                "standard input, line {number}: \
            {what}"
            ))
        };
        if read.map_err(|error| fault(error.to_string()))? == 0 {
            break;
        }
        line.pop_if(|byte| *byte == b'\n');
        let key = text::unescape(&line).map_err(&fault)?;
        let key = Key::new(key).map_err(|error| fault(error.to_string()))?;
        if as_json {
            writeln!(out, "{}", place_json(client, &key))?;
            continue;
        }
        let partition = client.ring().partition(&key);
        out.write_all(&line)?;
        let owners = names(client, client.ring().owners(partition));
        writeln!(out, "\t{}\t{}", partition.0, owners.join(","))?;
    }
    Ok(out.flush()?)
}
