//! `pixii node`.

use clap::{Args, Subcommand};
use pixii::message::Replacement;
use serde_json::json;

use super::text::count;
use super::{Exit, Outcome, Shared, Trouble, block_on, emit, emit_json};

/// Operate a single member
#[derive(Args)]
#[command(after_help = "\
Examples:
  pixii node stop n3                           n3 finishes what runs, closes its store and exits
  pixii node replace n3 n6@10.0.0.6:7432       what the replacement of a dead member comes to
  pixii node replace n3 n6@10.0.0.6:7432 --yes")]
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
    /// Give a dead member's places to a new one, and remove it for good
    #[command(after_help = "\
Without --yes it only shows what would happen. OLD has to be down, and most members in reach. NEW is a name that the \
cluster never had. Its configuration names the same n and partitions, itself, and the members that live; it may \
be started before or after, and it fills itself from the other homes.

OLD is removed: its name does not return, and what its disk holds is never taken again. Started all the same, its \
daemon says so and ends with exit code 2; `pixii server --rejoin-empty`, under another name, begins anew beside \
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
}

impl Node {
    /// Gives the order.
    pub(crate) fn run(self, shared: &Shared) -> Outcome {
        match self.order {
            Order::Stop { name } => stop(&name, shared),
            Order::Replace { old, new, yes } => replace(&old, &new, yes, shared),
        }
    }
}

fn stop(name: &str, shared: &Shared) -> Outcome {
    block_on(async { Ok(shared.client().await?.stop(name).await?) })?;
    if shared.json() {
        emit_json(&json!({ "stopping": name }))?;
    } else {
        emit(format!("{name} is stopping\n"))?;
    }
    Ok(Exit::Done)
}

fn replace(old: &str, new: &str, yes: bool, shared: &Shared) -> Outcome {
    let Some((new, address)) = new.split_once('@') else {
        let new = new.escape_debug();
        return Err(Trouble::usage(format!(
            "\"{new}\": the new member is given as NAME@HOST:PORT"
        )));
    };
    let plan =
        block_on(async { Ok(shared.client().await?.replace(old, new, address, yes).await?) })?;
    let Replacement { old_address, version, places, partitions, hints } = &plan;
    if shared.json() {
        emit_json(&json!({
            "removed": old,
            "new": new,
            "address": address,
            "ring_version": version,
            "partitions_moved": places,
            "partitions": partitions,
            "hints": hints,
            "applied": yes,
        }))?;
        return Ok(Exit::Done);
    }
    let (is, takes) = if yes { ("is", "takes") } else { ("would be", "would take") };
    let hints = count(*hints, "hint");
    emit(format!(
        "{old} ({old_address}) {is} removed for good: its name does not return, and its data is never taken again\n\
         {new} ({address}) {takes} its places in {places} of {partitions} partitions: ring version {version}\n\
         {hints} that the asked node keeps for {old} go to the other homes\n{}",
        match yes {
            true => format!("{new} fills itself from the other homes: see `pixii status {new}`\n"),
            false => "nothing was changed: add --yes to do it\n".to_owned(),
        }
    ))?;
    Ok(Exit::Done)
}
