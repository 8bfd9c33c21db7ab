//! `pixii delete`.

mod prefix;

use std::ffi::OsString;

use clap::Args;
use pixii_client::ErrorKind;
use pixii_kit::arguments::{Deadline, Shared, Strictness, deadline, parse_key};
use pixii_kit::outcome::{CommandError, CommandResult, Exit, block_on};

use super::put;
use super::scan::PartArguments;
use prefix::Prefix;

/// Delete a key, or all keys that begin with a prefix
#[derive(Args)]
#[command(override_usage = "\
pixii delete [OPTIONS] <KEY>
       pixii delete [OPTIONS] --prefix <PREFIX> --yes")]
#[command(after_help = "\
The one value that is there is deleted. If the key has several, siblings, nothing is and the exit \
code is 6: read them, and delete with the context of that read. With --context what that read \
showed is deleted, and nothing else; a value that someone else writes meanwhile stays. Without it \
an absent key ends with exit code 3; with it that is no error (exit code 0).

With --prefix and --yes every key that begins so is read, and what that read showed is deleted, \
siblings as well. What is written meanwhile stays. A run that was interrupted, or found too few \
replicas, is run again: keys that are deleted already are passed over.

Examples:
  pixii delete greeting
  pixii delete --prefix session/                 how many there are
  pixii delete --prefix session/ --yes
  pixii get cart --all --save-context seen; pixii delete cart --context @seen")]
pub(crate) struct Delete {
    /// The key, 1 to 1024 bytes
    #[arg(allow_negative_numbers = true, required_unless_present = "prefix")]
    #[arg(conflicts_with_all = ["prefix", "after"])]
    key: Option<OsString>,
    #[command(flatten)]
    part: PartArguments,
    /// Delete all keys that begin with PREFIX; without it, they are only counted
    #[arg(long, requires = "prefix")]
    #[arg(conflicts_with_all = ["key", "context", "if_context", "print_context"])]
    yes: bool,
    #[command(flatten)]
    basis: put::BasisArguments,
    /// Replicas that must hold the deletion [default: the cluster's]
    #[arg(short)]
    w: Option<u8>,
    #[command(flatten)]
    strictness: Strictness,
    /// Deadline in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 5_000, value_parser = deadline())]
    timeout: u32,
    /// Print the new context in hexadecimal
    #[arg(long)]
    print_context: bool,
}

impl Delete {
    /// Deletes.
    pub(crate) fn run(self, shared: &Shared) -> CommandResult {
        let Some(key) = &self.key else {
            let Delete { part, yes, basis, w, strictness, timeout, .. } = self;
            let (r, w) = (basis.r(), strictness.quorum(w));
            return Prefix { part, r, w, timeout_ms: timeout }.run(yes, shared);
        };
        let key = parse_key(key, self.part.hex())?;
        let basis = self.basis.parsed()?;
        let written = block_on(async {
            let deadline = Deadline::after(self.timeout);
            let client = shared.client_within(&deadline).await?;
            let delete = client.delete(&key).w(self.strictness.quorum(self.w));
            match basis.of(delete).deadline_ms(deadline.left_ms()).await {
                Err(error) if error.kind() == ErrorKind::Absent => {
                    let message = format!("no value under {key:?}");
                    Err(CommandError { exit: Exit::Absent, message })
                }
                written => Ok(written?),
            }
        })?;
        put::report(&key, &written, shared, self.print_context)
    }
}
