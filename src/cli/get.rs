//! `pixii get`.

use std::fs;
use std::io::{self, IsTerminal};
use std::path::PathBuf;

use clap::Args;
use pixii_client::Found;
use pixii_core::types::Key;
use pixii_kit::arguments::{Deadline, KeyArgument, Shared, Strictness, deadline};
use pixii_kit::outcome::{CommandError, CommandResult, Exit, block_on, emit, emit_json};
use pixii_kit::text;
use serde_json::json;

/// Print the value of a key
#[derive(Args)]
#[command(after_help = "\
The value is printed as it is. On a terminal a newline is added unless the value ends with one; \
a pipe or a file gets the exact bytes. A key with several siblings (concurrent writes) ends with \
exit code 6 and prints none of them, unless --all or --json. An absent key ends with 3.

Examples:
  pixii get greeting
  pixii get photo > photo.jpg
  pixii get cart --all --save-context seen   every sibling, a line each, and the context
  pixii put cart merged --context @seen      replaces what that read showed, and nothing else
  pixii get cart --json                      siblings and context for scripts
  pixii get --hex-key 00ff                   a key that is not text
  pixii get greeting -r 3 --timeout 500      all three replicas, or exit code 4")]
pub(crate) struct Get {
    #[command(flatten)]
    key: KeyArgument,
    /// Replicas that must answer [default: the cluster's]
    #[arg(short)]
    r: Option<u8>,
    #[command(flatten)]
    strictness: Strictness,
    /// Deadline in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 5_000, value_parser = deadline())]
    timeout: u32,
    /// Print every sibling, with a newline behind each
    #[arg(long)]
    all: bool,
    /// Print the context in hexadecimal instead of the values
    #[arg(long, conflicts_with = "all")]
    print_context: bool,
    /// Write the context to FILE, in hexadecimal, beside what is printed
    #[arg(long, value_name = "FILE")]
    save_context: Option<PathBuf>,
}

impl Get {
    /// Reads and prints.
    pub(crate) fn run(self, shared: &Shared) -> CommandResult {
        let key = self.key.key()?;
        let queried = self.strictness.quorum(self.r);
        let found = block_on(async {
            let deadline = Deadline::after(self.timeout);
            let client = shared.client_within(&deadline).await?;
            Ok(client.get(&key).r(queried).deadline_ms(deadline.left_ms()).await?)
        })?;
        if let Some(path) = &self.save_context {
            let fault = |error| CommandError::error(format!("{}: {error}", path.display()));
            fs::write(path, text::hex(&found.context) + "\n").map_err(fault)?;
        }
        if shared.json() {
            emit_json(&found_json(&key, &found))?;
        } else if self.print_context {
            emit(text::hex(&found.context) + "\n")?;
        }
        let quiet = shared.json() || self.print_context;
        match found.values.as_slice() {
            [] if quiet => Ok(Exit::Absent),
            [] => Err(CommandError {
                exit: Exit::Absent,
                message: format!(
                    "no value under \
                {key:?}"
                ),
            }),
            [value] if !quiet && !self.all => {
                emit(shown(value, io::stdout().is_terminal())).map(|()| Exit::Done)
            }
            values => {
                if self.all && !quiet {
                    let lines = values.iter().flat_map(|value| [value.as_ref(), b"\n"]);
                    emit(lines.collect::<Vec<_>>().concat())?;
                }
                siblings(&key, values.len(), quiet || self.all)
            }
        }
    }
}

/// A value as it is printed: on a terminal it ends with a newline, elsewhere it is as it is.
fn shown(value: &[u8], terminal: bool) -> Vec<u8> {
    let newline = terminal && !value.ends_with(b"\n");
    [value, if newline { b"\n" } else { b"" }].concat()
}

fn siblings(key: &Key, count: usize, shown: bool) -> CommandResult {
    match (count, shown) {
        (0 | 1, _) => Ok(Exit::Done),
        (_, true) => Ok(Exit::Siblings),
        (_, false) => Err(CommandError {
            exit: Exit::Siblings,
            message: format!(
                "{key:?} has {count} siblings: see them with --all --save-context FILE, then put \
                 one value with --context @FILE"
            ),
        }),
    }
}

/// A read as JSON.
pub(crate) fn found_json(key: &Key, found: &Found) -> serde_json::Value {
    let values: Vec<_> = found.values.iter().map(|value| text::json_bytes(value)).collect();
    json!({
        "key": text::json_bytes(key.as_bytes()),
        "values": values,
        "context": text::hex(&found.context),
        "answered": found.answered,
    })
}
