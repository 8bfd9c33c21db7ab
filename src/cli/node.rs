//! `pixii node`.

mod plan;
mod replace;

use std::time::Duration;

use clap::{Args, Subcommand};
use pixii_core::message::{DrainOrder, DrainReport, DrainState, KeptHints, Staged};
use pixii_kit::arguments::{Shared, deadline};
use pixii_kit::outcome::{CommandError, CommandResult, Exit, block_on, emit, emit_json};
use pixii_kit::text::{bytes, count};
use serde_json::json;
use tokio::time::{Instant, sleep};

/// How often a node is asked how far its drain is,
const POLL: Duration = Duration::from_millis(100);
/// and how much longer than it was given.
const GRACE: Duration = Duration::from_secs(5);

/// Operate a single member
#[derive(Args)]
#[command(after_help = "\
Examples:
  pixii node stop n3                           n3 finishes what runs, closes its store and exits
  pixii node drain n3                          first let n3 hand over its work: no client notices
  pixii node replace n3 n6@10.0.0.6:7432       what the replacement of a dead member comes to
  pixii node replace n3 n6@10.0.0.6:7432 --yes
  pixii node join n4@10.0.0.4:7432             stage a change of the ring
  pixii node plan                              what the staged changes come to
  pixii node apply --plan 0123456789abcdef     begin them")]
pub(crate) struct Node {
    #[command(subcommand)]
    order: Order,
}

#[derive(Subcommand)]
enum Order {
    /// Stop a member's daemon cleanly
    #[command(after_help = "Examples:\n  pixii node stop n3")]
    Stop {
        /// The member's name
        name: String,
    },
    /// Take a node out before maintenance, so that no client notices
    #[command(after_help = "\
From then on the node refuses requests, so that clients go elsewhere at once, and keeps nothing \
        more for other members. It finishes \
the requests in progress, delivers the hints that can be delivered, and closes its links: its \
        peers use other nodes, without waiting \
for it. That ends after --timeout at the latest; what is left is printed, and stays on its disk. \
        It remains drained until it is \
started again, or until `pixii node undrain`.

Examples:
  pixii node drain                             the node that --connect names
  pixii node drain n3 && systemctl restart pixii@n3")]
    Drain {
        /// The member's name [default: the node that is asked]
        name: Option<String>,
        /// How long it may take, in milliseconds
        #[arg(long, value_name = "MS", default_value = "30000", value_parser = deadline())]
        timeout: u32,
    },
    /// Let a drained node take part again
    #[command(after_help = "Examples:\n  pixii node undrain n3 --connect 127.0.0.1:7434")]
    Undrain {
        /// The member's name [default: the node that is asked]
        name: Option<String>,
    },
    /// Give a dead member's places to a new one, and remove it for good
    #[command(after_help = "\
Without --yes it only shows what would happen. OLD has to be down, and most members in reach. NEW \
        is a name that the \
cluster never had. Its configuration names the same n and partitions, itself, and the members \
        that live; it may \
be started before or after, and it fills itself from the other owners.

A change needs the agreement of more than half of the members, so of two replacements at once one \
        is made first, and the \
other one is tried again for a while. The command ends with 0 when every member that is not down \
        uses the change, \
with 1 when it was refused or another replacement took its place, and with 5 (\"unfinished\") \
        when that could not be \
confirmed within 30 s.

OLD is removed: its name does not return, and what its disk holds is never taken again. Started \
        all the same, its \
daemon says so and ends with exit code 2; `pixii server --rejoin-empty`, under another name, \
        begins anew beside \
the old data.

Examples:
  pixii node replace n3 n6@10.0.0.6:7432
  pixii node replace n3 n6@10.0.0.6:7432 --yes")]
    Replace {
        /// The name of the member that goes
        old: String,
        /// The one that comes
        #[arg(value_name = "NEW@HOST:PORT")]
        new: String,
        /// Do it
        #[arg(long)]
        yes: bool,
    },
    /// Stage that a new node becomes a member
    #[command(after_help = "\
Nothing changes before `pixii node apply`. The node that is asked keeps what is staged until it \
        stops. The new node's \
configuration names the same n and partitions, the members, and itself.

Examples:
  pixii node join n4@10.0.0.4:7432
  pixii node join n4@10.0.0.4:7432 --weight 200 --zone rack-2")]
    Join {
        /// The one that comes: a name that the cluster never had, and its address
        #[arg(value_name = "NAME@HOST:PORT")]
        new: String,
        /// How much of the data it takes beside others [default: 100]
        #[arg(long)]
        weight: Option<u16>,
        /// The zone that it is in: nodes of a zone fail together [default: one of its own]
        #[arg(long)]
        zone: Option<String>,
    },
    /// Stage that a member gives its data to others and leaves
    #[command(after_help = "Examples:\n  pixii node leave n4")]
    Leave {
        /// The member's name
        name: String,
    },
    /// Stage that a member that is down for good is removed, and others get its places
    #[command(after_help = "Examples:\n  pixii node remove n4")]
    Remove {
        /// The member's name
        name: String,
    },
    /// Stage another weight or zone of a member
    #[command(after_help = "\
Examples:
  pixii node set n4 --weight 50                half as much data as a member of weight 100
  pixii node set n4 --zone \"\"                  in a zone of its own")]
    Set {
        /// The member's name
        name: String,
        /// How much of the data it takes beside others
        #[arg(long, required_unless_present = "zone")]
        weight: Option<u16>,
        /// The zone that it is in; the empty name is a zone of its own
        #[arg(long)]
        zone: Option<String>,
    },
    /// Show what is staged, and what it comes to
    #[command(after_help = "\
Examples:
  pixii node plan
  pixii node plan --status                     how far a change is at each member
  pixii node plan --clear                      forget what is staged")]
    Plan(plan::Show),
    /// Begin the change that is staged
    #[command(after_help = "\
Examples:
  pixii node apply --plan 0123456789abcdef
  pixii node apply --plan 0123456789abcdef --wait 600")]
    Apply(plan::Apply),
    /// Take the change of the ring back that is in progress
    #[command(after_help = "Examples:\n  pixii node cancel")]
    Cancel,
    /// Remove a node that has no place in the ring, with whatever it holds
    #[command(after_help = "\
One that was to join and is not wanted any more, or one on its way out that is gone.

Examples:
  pixii node dismiss n4 --yes")]
    Dismiss {
        /// The node's name
        name: String,
        /// Do it
        #[arg(long)]
        yes: bool,
    },
}

impl Node {
    /// Gives the order.
    pub(crate) fn run(self, shared: &Shared) -> CommandResult {
        match self.order {
            Order::Stop { name } => stop(&name, shared),
            Order::Drain { name, timeout } => drain(name.as_deref(), timeout, shared),
            Order::Undrain { name } => undrain(name.as_deref(), shared),
            Order::Replace { old, new, yes } => replace::replace(&old, &new, yes, shared),
            Order::Join { new, weight, zone } => {
                plan::stage(plan::join(&new, weight, zone)?, shared)
            }
            Order::Leave { name } => plan::stage(Staged::Leave { name }, shared),
            Order::Remove { name } => plan::stage(Staged::Remove { name }, shared),
            Order::Set { name, weight, zone } => {
                plan::stage(Staged::Set { name, weight, zone }, shared)
            }
            Order::Plan(show) => show.run(shared),
            Order::Apply(apply) => apply.run(shared),
            Order::Cancel => plan::cancel(shared),
            Order::Dismiss { name, yes } => plan::dismiss(&name, yes, shared),
        }
    }
}

fn stop(name: &str, shared: &Shared) -> CommandResult {
    block_on(async { Ok(shared.client().await?.stop(name).await?) })?;
    if shared.json() {
        emit_json(&json!({ "stopping": name }))?;
    } else {
        emit(format!("{name} is stopping\n"))?;
    }
    Ok(Exit::Done)
}

fn drain(name: Option<&str>, timeout_ms: u32, shared: &Shared) -> CommandResult {
    let report = block_on(async {
        let client = shared.client().await?;
        let last = Instant::now() + Duration::from_millis(timeout_ms.into()) + GRACE;
        let mut report = client.drain(name, DrainOrder::Begin { timeout_ms }).await?;
        while report.state == DrainState::Draining && Instant::now() < last {
            sleep(POLL).await;
            report = client.drain(name, DrainOrder::Show).await?;
        }
        Ok(report)
    })?;
    let DrainReport { name, state, requests, hints } = &report;
    if *state != DrainState::Drained {
        return Err(CommandError::error(format!(
            "{name} is not drained: somebody else has given it another order, or it is stuck"
        )));
    }
    if shared.json() {
        let kept = |of: &KeptHints| json!({ "for": of.name, "hints": of.count, "bytes": of.bytes });
        emit_json(&json!({
            "drained": name,
            "requests_cut_off": requests,
            "hints_left": hints.iter().map(kept).collect::<Vec<_>>(),
        }))?;
        return Ok(Exit::Done);
    }
    let mut reported = format!("{name} is drained: clients and peers use other nodes\n");
    if *requests > 0 {
        reported += &format!("{} did not end in time\n", count(*requests, "request"));
    }
    for KeptHints { name: target, count: kept, bytes: size, .. } in hints {
        let kept = count(*kept, "hint");
        reported += &format!("{kept} for {target} ({}) stay with it\n", bytes(*size));
    }
    if hints.is_empty() {
        reported += "it keeps nothing for other members\n";
    }
    emit(reported)?;
    Ok(Exit::Done)
}

fn undrain(name: Option<&str>, shared: &Shared) -> CommandResult {
    let report =
        block_on(async { Ok(shared.client().await?.drain(name, DrainOrder::End).await?) })?;
    let name = &report.name;
    if shared.json() {
        emit_json(&json!({ "undrained": name }))?;
    } else {
        emit(format!("{name} takes part again\n"))?;
    }
    Ok(Exit::Done)
}
