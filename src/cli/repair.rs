//! `pixii repair`.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use pixii_client::Client;
use pixii_core::message::{PairStatus, RepairCounts, RepairReport};
use pixii_core::types::{NodeId, Partition};
use pixii_kit::arguments::Shared;
use pixii_kit::outcome::{CommandError, CommandResult, Exit, block_on, complain, emit, emit_json};
use pixii_kit::text::{bytes, count, row, table};
use serde_json::{Value, json};
use tokio::time::sleep;

/// How often the node is asked how far it is.
const POLL: Duration = Duration::from_millis(200);
/// A pair that fails for so long is given up.
const FAILING: Duration = Duration::from_secs(30);
/// So are the pairs of a peer that cannot be reached for so long.
const UNREACHABLE: Duration = Duration::from_secs(5);
/// Partitions that a sentence names; it counts the others.
const MAX_NAMED: usize = 5;

/// Compare a node's partitions with their other owners now, and move what differs
#[derive(Args)]
#[command(after_help = "\
Nodes do this by themselves, each partition about every repair_interval_ms (a minute), and at \
    once when a peer is back. \
The command has one node do it now, and ends when each of its partitions was found equal at each \
    other owner; \
on the way, progress is shown on a terminal. Objects and bytes are all that the node moved in \
    that time.

Exit codes: 0 all are equal; 1 some could not be compared for 30 seconds, or a peer could not be \
reached for 5: the column \"not compared\" counts them for each peer, and standard error says \
why.

Examples:
  pixii repair                       the node that --connect names, with all others
  pixii repair --node n3 --peer n1   what n3 has in common with n1
  pixii repair --partition 7         one partition (`pixii ring KEY` shows a key's)
  pixii repair --node n3 --accept-loss
                                     n3 has lost its disk, and no other node has what was on it \
    (n = 1): \
answer reads all the same")]
pub(crate) struct Repair {
    /// Only this partition
    #[arg(long, value_name = "NUMBER")]
    partition: Option<u16>,
    /// Only with this member
    #[arg(long, value_name = "NAME")]
    peer: Option<String>,
    /// Ask this member instead
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Accept that acknowledged writes are gone where the node has lost its disk and is the only
    /// owner; compares nothing
    #[arg(long, conflicts_with_all = ["partition", "peer"])]
    accept_loss: bool,
}

type Pair = (Partition, NodeId);

/// What is seen of a node that compares.
struct Watch {
    begun: Instant,
    /// Pairs whose comparison keeps failing, with the first time that it was seen.
    failing: BTreeMap<Pair, Instant>,
    unreachable: BTreeMap<NodeId, Instant>,
    before: RepairCounts,
    report: RepairReport,
}

impl Repair {
    /// Has the node begin, watches it, and reports what came of it.
    pub(crate) fn run(self, shared: &Shared) -> CommandResult {
        if self.accept_loss {
            return self.accept_loss(shared);
        }
        let (client, watch) = block_on(async {
            let client = shared.client().await?;
            let watch = self.watch(&client, !shared.json()).await?;
            Ok((client, watch))
        })?;
        let name = |id: NodeId| client.ring_report().members.name(id);
        let errors = watch.errors(&name);
        if shared.json() {
            emit_json(&watch.as_json(&name, &errors))?;
        } else {
            emit(watch.as_text(&name))?;
        }
        errors.iter().for_each(|sentence| complain(sentence));
        Ok(if errors.is_empty() { Exit::Done } else { Exit::Error })
    }

    fn accept_loss(&self, shared: &Shared) -> CommandResult {
        let node = self.node.as_deref();
        let (name, partitions) = block_on(async {
            let client = shared.client().await?;
            let partitions = client.accept_loss(node).await?;
            Ok((client.status(node).await?.name, partitions))
        })?;
        if shared.json() {
            emit_json(&json!({ "node": name, "accepted_partitions": partitions }))?;
        } else {
            let partitions = count(partitions.into(), "partition");
            emit(format!("{name} answers reads of {partitions} with what it has\n"))?;
        }
        Ok(Exit::Done)
    }

    async fn watch(&self, client: &Client, shown: bool) -> Result<Watch, CommandError> {
        let peer = self.peer.as_deref().map(|name| client.id_of(name)).transpose()?;
        let (node, partition) = (self.node.as_deref(), self.partition.map(Partition));
        let report = client.repair(node, true, partition, peer).await?;
        let bar = shown.then(|| bar(report.pairs.len())).flatten();
        let mut watch = Watch {
            begun: Instant::now(),
            failing: BTreeMap::new(),
            unreachable: BTreeMap::new(),
            before: report.counts,
            report,
        };
        while !watch.is_over() {
            sleep(POLL).await;
            let report = client.repair(node, false, partition, peer).await?;
            watch.see(report);
            if let Some(bar) = &bar {
                bar.set_position(
                    watch.report.pairs.iter().filter(|pair| is_equal(pair)).count() as u64
                );
                let moved = watch.moved();
                bar.set_message(count(moved.objects_pulled + moved.objects_pushed, "object"));
            }
        }
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        Ok(watch)
    }
}

/// The order forgot what was known before, so that what is known now was found since.
fn is_equal(pair: &PairStatus) -> bool {
    pair.equal_ms.is_some()
}

fn bar(pairs: usize) -> Option<ProgressBar> {
    if !io::stderr().is_terminal() {
        return None;
    }
    let bar = ProgressBar::new(pairs as u64);
    let style = "{bar:30} {pos} of {len} compared and equal  {msg} moved  {eta} left";
    Some(match ProgressStyle::with_template(style) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    })
}

impl Watch {
    fn see(&mut self, report: RepairReport) {
        let now = Instant::now();
        let fails = |pair: &&PairStatus| pair.failing.is_some() && !is_equal(pair);
        let failing = report.pairs.iter().filter(fails).map(|pair| (pair.partition, pair.peer));
        let since = |pair: Pair| (pair, self.failing.get(&pair).copied().unwrap_or(now));
        self.failing = failing.map(since).collect();
        let since = |peer: NodeId| (peer, self.unreachable.get(&peer).copied().unwrap_or(now));
        self.unreachable = report.unreachable.iter().copied().map(since).collect();
        self.report = report;
    }

    /// True if there is no use in waiting for this pair.
    fn is_given_up(&self, pair: &PairStatus) -> bool {
        let failing = self.failing.get(&(pair.partition, pair.peer));
        self.is_lost(pair.peer) || failing.is_some_and(|since| since.elapsed() >= FAILING)
    }

    fn is_lost(&self, peer: NodeId) -> bool {
        self.unreachable.get(&peer).is_some_and(|since| since.elapsed() >= UNREACHABLE)
    }

    fn is_over(&self) -> bool {
        self.report.pairs.iter().all(|pair| is_equal(pair) || self.is_given_up(pair))
    }

    /// What was done since the beginning.
    fn moved(&self) -> RepairCounts {
        let (now, before) = (self.report.counts, self.before);
        RepairCounts {
            exchanges: now.exchanges.saturating_sub(before.exchanges),
            exchanges_failed: now.exchanges_failed.saturating_sub(before.exchanges_failed),
            objects_pulled: now.objects_pulled.saturating_sub(before.objects_pulled),
            objects_pushed: now.objects_pushed.saturating_sub(before.objects_pushed),
            bytes_pulled: now.bytes_pulled.saturating_sub(before.bytes_pulled),
            bytes_pushed: now.bytes_pushed.saturating_sub(before.bytes_pushed),
        }
    }

    /// Why some pairs were given up: a sentence for each peer and reason.
    fn errors(&self, name: &dyn Fn(NodeId) -> String) -> Vec<String> {
        let mut reasons: BTreeMap<(NodeId, Option<String>), Vec<Partition>> = BTreeMap::new();
        for pair in self.report.pairs.iter().filter(|pair| !is_equal(pair)) {
            let why = pair.failing.as_ref().filter(|_| !self.is_lost(pair.peer));
            let why = why.map(ToString::to_string);
            reasons.entry((pair.peer, why)).or_default().push(pair.partition);
        }
        let own = &self.report.name;
        let sentence = |((peer, why), partitions): ((NodeId, Option<String>), Vec<Partition>)| {
            let (peer, what) = (name(peer), named(&partitions));
            match why {
                Some(why) => format!("{own} could not compare {what} with {peer}: {why}"),
                None => format!("{own} cannot reach {peer}: {what} could not be compared with it"),
            }
        };
        reasons.into_iter().map(sentence).collect()
    }

    /// Each peer, with how many partitions it shares and how many of them were found equal. Those
    /// that differ are made equal, so that only the ones that could not be compared are left.
    fn by_peer(&self, name: &dyn Fn(NodeId) -> String) -> BTreeMap<String, (u64, u64)> {
        let mut peers: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for pair in &self.report.pairs {
            let (all, equal) = peers.entry(name(pair.peer)).or_default();
            *all += 1;
            *equal += u64::from(is_equal(pair));
        }
        peers
    }

    fn as_text(&self, name: &dyn Fn(NodeId) -> String) -> String {
        let own = &self.report.name;
        let peers = self.by_peer(name);
        if peers.is_empty() {
            return format!("{own} has no partition with another owner: nothing to compare\n");
        }
        let mut rows = vec![row(["peer", "partitions", "found equal", "not compared"])];
        let peer = |(peer, (all, equal)): (String, (u64, u64))| {
            row([&peer, &all.to_string(), &equal.to_string(), &(all - equal).to_string()])
        };
        rows.extend(peers.into_iter().map(peer));
        let moved = self.moved();
        let amount = |objects, size| format!("{}, {}", count(objects, "object"), bytes(size));
        format!(
            "{}\n{}",
            table(&rows),
            table(&[
                row([
                    &format!("{own} received"),
                    &amount(moved.objects_pulled, moved.bytes_pulled)
                ]),
                row([&format!("{own} sent"), &amount(moved.objects_pushed, moved.bytes_pushed)]),
                row(["in", &format!("{:.1} s", self.begun.elapsed().as_secs_f64())]),
            ])
        )
    }

    fn as_json(&self, name: &dyn Fn(NodeId) -> String, errors: &[String]) -> Value {
        let (report, moved) = (&self.report, self.moved());
        let peer = |(peer, (all, equal)): (String, (u64, u64))| {
            json!({
                "name": peer, "partitions": all, "equal": equal, "not_compared": all - equal,
            })
        };
        json!({
            "node": report.name,
            "complete": errors.is_empty(),
            "troubles": errors,
            "took_ms": self.begun.elapsed().as_millis() as u64,
            "received": { "objects": moved.objects_pulled, "bytes": moved.bytes_pulled },
            "sent": { "objects": moved.objects_pushed, "bytes": moved.bytes_pushed },
            "exchanges": moved.exchanges,
            "exchanges_failed": moved.exchanges_failed,
            "unread_partitions": report.unread,
            "damaged_records": report.damaged,
            "unreachable": report.unreachable.iter().map(|id| name(*id)).collect::<Vec<_>>(),
            "peers": self.by_peer(name).into_iter().map(peer).collect::<Vec<_>>(),
            "pairs": report.pairs.iter().map(|pair| pair_json(pair, name)).collect::<Vec<_>>(),
        })
    }
}

/// "partition 7", "partitions 7, 8 and 3 others".
fn named(partitions: &[Partition]) -> String {
    let numbers: Vec<String> =
        partitions.iter().take(MAX_NAMED).map(|partition| partition.0.to_string()).collect();
    let numbers = numbers.join(", ");
    match partitions.len() {
        1 => format!("partition {numbers}"),
        all if all > MAX_NAMED => {
            format!("partitions {numbers} and {}", count((all - MAX_NAMED) as u64, "other"))
        }
        _ => format!("partitions {numbers}"),
    }
}

/// A pair for scripts.
pub(super) fn pair_json(pair: &PairStatus, name: &dyn Fn(NodeId) -> String) -> Value {
    json!({
        "partition": pair.partition.0,
        "peer": name(pair.peer),
        "equal_ms": pair.equal_ms,
        "pending": pair.pending,
        "failing": pair.failing.as_ref().map(ToString::to_string),
        "pulled": pair.pulled,
        "pushed": pair.pushed,
        "bytes": pair.bytes,
    })
}
