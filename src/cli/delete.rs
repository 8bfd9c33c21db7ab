//! `pixii delete`.

use clap::Args;
use pixii_kit::arguments::{Deadline, KeyArgument, Shared, Strictness, deadline, parse_context};
use pixii_kit::outcome::{CommandError, CommandResult, Exit, block_on};

use super::put;

/// Delete a key
#[derive(Args)]
#[command(after_help = "\
Without --context the key is read first, and what that read showed is deleted; a value that \
    someone else \
writes meanwhile stays. An absent key ends with exit code 3.

Examples:
  pixii delete greeting
  pixii delete cart --context $(pixii get cart --print-context)")]
pub(crate) struct Delete {
    #[command(flatten)]
    key: KeyArgument,
    /// The context of the read that showed what is to go, in hexadecimal
    #[arg(long, value_name = "HEX")]
    context: Option<String>,
    /// Replicas that must answer the read [default: the cluster's]
    #[arg(short, conflicts_with = "context")]
    r: Option<u8>,
    /// Replicas that must hold the deletion [default: the cluster's]
    #[arg(short)]
    w: Option<u8>,
    #[command(flatten)]
    strictness: Strictness,
    /// Deadline of the read and of the deletion, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 5_000, value_parser = deadline())]
    timeout: u32,
    /// Print the new context in hexadecimal
    #[arg(long)]
    print_context: bool,
}

impl Delete {
    /// Reads if it must, and deletes.
    pub(crate) fn run(self, shared: &Shared) -> CommandResult {
        let key = self.key.key()?;
        let given = self.context.as_deref().map(parse_context).transpose()?;
        let written = block_on(async {
            let deadline = Deadline::after(self.timeout);
            let client = shared.client_within(&deadline).await?;
            let context = match given {
                Some(context) => context,
                None => {
                    let found = client
                        .get(&key, self.strictness.quorum(self.r), deadline.left_ms())
                        .await?;
                    if found.values.is_empty() {
                        let message = format!("no value under {key:?}");
                        return Err(CommandError { exit: Exit::Absent, message });
                    }
                    found.context
                }
            };
            Ok(client
                .delete(&key, Some(context), self.strictness.quorum(self.w), deadline.left_ms())
                .await?)
        })?;
        put::report(&key, &written, shared, self.print_context)
    }
}
