//! `pixii put`.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use bytes::Bytes;
use clap::{ArgGroup, Args};
use pixii_client::{Write, Written};
use pixii_core::types::{Key, MAX_VALUE_BYTES};
use pixii_kit::arguments::{Deadline, KeyArgument, Shared, Strictness, deadline, parse_context};
use pixii_kit::outcome::{CommandError, CommandResult, Exit, block_on, complain, emit, emit_json};
use pixii_kit::text;
use serde_json::json;

/// Write a value
#[derive(Args)]
#[command(group = ArgGroup::new("source").required(true).args(["value", "file"]))]
#[command(override_usage = "\
pixii put [OPTIONS] <KEY> <VALUE>
       pixii put [OPTIONS] <KEY> --file <FILE>")]
#[command(after_help = "\
The value takes the place of the one that is there. If the key has several values, siblings, \
nothing is written and the exit code is 6: read them, and put one with the context of that read. \
With --context it replaces what that read showed, and nothing else; with --sibling it replaces \
nothing. With --if-absent or --if-context nothing is written if the condition does not hold (exit \
code 7). Exit code 0 means that W replicas hold the value on disk, synced; 4 that nothing was \
written; 5 that it may or may not have been.

Examples:
  pixii put greeting hello
  pixii put photo --file photo.jpg
  date | pixii put now -                     the value from standard input
  pixii put flag -- -x                       a value that begins with -; -5 needs no --
  pixii get cart --all --save-context seen; pixii put cart 'milk, bread' --context @seen
  pixii put user/7 ann --if-absent           only if the key has no value, or exit code 7
  pixii put greeting hello -w 3              all three replicas, or exit code 4 or 5")]
pub(crate) struct Put {
    #[command(flatten)]
    key: KeyArgument,
    /// The value, up to 1 MiB; `-` takes it from standard input. One that begins with - and is no
    /// number comes after --
    #[arg(allow_negative_numbers = true)]
    value: Option<OsString>,
    /// Take the value from a file; `-` is standard input
    #[arg(long)]
    file: Option<PathBuf>,
    /// Replicas that must hold it [default: the cluster's]
    #[arg(short)]
    w: Option<u8>,
    #[command(flatten)]
    strictness: Strictness,
    #[command(flatten)]
    basis: BasisArguments,
    /// Replace nothing: the value becomes a sibling of what is there
    #[arg(long, conflicts_with_all = ["context", "if_context", "r"])]
    sibling: bool,
    /// Write only if the key has no value
    #[arg(long, conflicts_with_all = ["context", "if_context", "sibling"])]
    if_absent: bool,
    /// Deadline in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 5_000, value_parser = deadline())]
    timeout: u32,
    /// Print the new context in hexadecimal: of what --context had and, unless a sibling stands
    /// beside it, of this value
    #[arg(long)]
    print_context: bool,
}

impl Put {
    /// Writes.
    pub(crate) fn run(self, shared: &Shared) -> CommandResult {
        let key = self.key.key()?;
        let basis = self.basis.parsed()?;
        let value = match (self.value, self.file) {
            (Some(value), _) if value != "-" => Bytes::from(value.into_vec()),
            (_, Some(path)) if path.as_os_str() != "-" => {
                let fault = |e: io::Error| CommandError::error(format!("{}: {e}", path.display()));
                read_value(File::open(&path).map_err(fault)?, &path.display().to_string())?
            }
            _ => read_value(io::stdin().lock(), "standard input")?,
        };
        let written = block_on(async {
            let deadline = Deadline::after(self.timeout);
            let client = shared.client_within(&deadline).await?;
            let put = client.put(&key, value).w(self.strictness.quorum(self.w));
            let put = match (self.sibling, self.if_absent) {
                (true, _) => put.sibling(),
                (_, true) => put.if_absent(),
                _ => put,
            };
            Ok(basis.of(put).deadline_ms(deadline.left_ms()).await?)
        })?;
        if written.siblings > 1 && !shared.json() {
            complain(&format!(
                "{key:?} has {} siblings now: a put replaces only what the read of its --context \
                 showed",
                written.siblings
            ));
        }
        report(&key, &written, shared, self.print_context)
    }
}

/// What a put or a delete replaces.
#[derive(Args)]
pub(crate) struct BasisArguments {
    /// The context of the read whose values it replaces: in hexadecimal, or @FILE, the file that
    /// `get --save-context` wrote
    #[arg(long, value_name = "CONTEXT", conflicts_with = "r")]
    context: Option<String>,
    /// Write only if no value was written since the read that gave this context; a delete since
    /// does not count
    #[arg(long, value_name = "CONTEXT", conflicts_with = "context")]
    if_context: Option<String>,
    /// Owners that must answer before a write without --context is decided [default: the cluster's]
    #[arg(short)]
    r: Option<u8>,
}

/// The same, read.
pub(crate) struct Basis {
    context: Option<Bytes>,
    if_context: Option<Bytes>,
    r: Option<u8>,
}

impl BasisArguments {
    /// Owners that must answer.
    pub(crate) fn r(&self) -> Option<u8> {
        self.r
    }

    /// The contexts as bytes.
    pub(crate) fn parsed(&self) -> Result<Basis, CommandError> {
        let parsed = |text: &Option<String>| text.as_deref().map(parse_context).transpose();
        let (context, if_context) = (parsed(&self.context)?, parsed(&self.if_context)?);
        Ok(Basis { context, if_context, r: self.r })
    }
}

impl Basis {
    /// A write with this basis.
    pub(crate) fn of(self, write: Write<'_>) -> Write<'_> {
        let Basis { context, if_context, r } = self;
        let write = write.r(r);
        match (context, if_context) {
            (Some(context), _) => write.context(context),
            (None, Some(context)) => write.if_context(context),
            (None, None) => write,
        }
    }
}

/// Says what a write did, where that was asked for.
pub(crate) fn report(
    key: &Key,
    written: &Written,
    shared: &Shared,
    context: bool,
) -> CommandResult {
    if shared.json() {
        emit_json(&json!({
            "key": text::json_bytes(key.as_bytes()),
            "context": text::hex(&written.context),
            "siblings": written.siblings,
        }))?;
    } else if context {
        emit(text::hex(&written.context) + "\n")?;
    }
    Ok(Exit::Done)
}

/// All of a source, which must not be longer than a value may be.
fn read_value(source: impl Read, name: &str) -> Result<Bytes, CommandError> {
    let mut value = Vec::new();
    source
        .take(MAX_VALUE_BYTES as u64 + 1)
        .read_to_end(&mut value)
        .map_err(|error| CommandError::error(format!("{name}: {error}")))?;
    if value.len() > MAX_VALUE_BYTES {
        return Err(CommandError::error(format!(
            "{name} has more than {MAX_VALUE_BYTES} bytes; a value has at most {MAX_VALUE_BYTES}"
        )));
    }
    Ok(value.into())
}
