//! `pixii node`.

use clap::{Args, Subcommand};
use serde_json::json;

use super::{Exit, Outcome, Shared, block_on, emit, emit_json};

/// Operate a single member
#[derive(Args)]
#[command(after_help = "\
Examples:
  pixii node stop n3            n3 finishes what runs, closes its store and exits")]
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
}

impl Node {
    /// Gives the order.
    pub(crate) fn run(self, shared: &Shared) -> Outcome {
        let Order::Stop { name } = self.order;
        block_on(async { Ok(shared.client().await?.stop(&name).await?) })?;
        if shared.json() {
            emit_json(&json!({ "stopping": name }))?;
        } else {
            emit(format!("{name} is stopping\n"))?;
        }
        Ok(Exit::Done)
    }
}
