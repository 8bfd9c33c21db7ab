//! What the commands share that go through many keys: which ones, and how those are reported that
//! could not be read.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use clap::Args;
use pixii_client::{Client, ClientError, Scan};
use pixii_core::types::{MAX_KEY_BYTES, Partition};
use pixii_kit::arguments::{deadline, parse_bytes, parse_key};
use pixii_kit::outcome::{CommandError, Exit};
use pixii_kit::text;

/// Which keys.
#[derive(Args)]
pub(crate) struct PartArguments {
    /// Only keys that begin with this, 1 to 1024 bytes
    #[arg(long, allow_hyphen_values = true)]
    prefix: Option<OsString>,
    /// Only keys behind this one in byte order: go on where an earlier run ended
    #[arg(long, value_name = "KEY", allow_hyphen_values = true)]
    after: Option<OsString>,
    /// Keys and prefixes are given in hexadecimal, so that they can have any bytes
    #[arg(long)]
    hex_key: bool,
}

/// How keys are read.
#[derive(Args)]
pub(crate) struct ReadArguments {
    /// Replicas that must answer [default: the cluster's]
    #[arg(short)]
    pub(crate) r: Option<u8>,
    /// Deadline for each request, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 5_000, value_parser = deadline())]
    pub(crate) timeout: u32,
}

impl PartArguments {
    /// The prefix, as it was given.
    pub(crate) fn prefix(&self) -> Option<&OsStr> {
        self.prefix.as_deref()
    }

    /// True if keys and prefixes are given in hexadecimal.
    pub(crate) fn hex(&self) -> bool {
        self.hex_key
    }

    /// A scan of these keys: `r` replicas must answer, each time within `timeout_ms`.
    pub(crate) fn scan(
        &self,
        client: &Client,
        r: Option<u8>,
        timeout_ms: u32,
    ) -> Result<Scan, CommandError> {
        let deadline = Duration::from_millis(timeout_ms.into());
        let mut scan = client.scan().r(r).deadline(deadline);
        if let Some(given) = &self.prefix {
            let prefix = parse_bytes("prefix", given.as_bytes(), self.hex_key)?;
            if prefix.is_empty() || prefix.len() > MAX_KEY_BYTES {
                return Err(CommandError::usage(format!(
                    "the prefix has {} bytes; a prefix has 1 to {MAX_KEY_BYTES}",
                    prefix.len()
                )));
            }
            scan = scan.prefix(prefix);
        }
        if let Some(after) = &self.after {
            scan = scan.after(parse_key(after, self.hex_key)?);
        }
        Ok(scan)
    }
}

/// Partitions that a sentence names; it counts the others.
const MAX_NAMED: usize = 8;

/// An error if anything is missing: what is not whole must not be taken for it.
pub(crate) fn verdict(missing: &BTreeMap<Partition, ClientError>) -> Result<(), CommandError> {
    let Some(why) = missing.values().next() else { return Ok(()) };
    let numbers: Vec<String> =
        missing.keys().take(MAX_NAMED).map(|partition| partition.0.to_string()).collect();
    let others = match missing.len() - numbers.len() {
        0 => String::new(),
        others => format!(" and {}", text::count(others as u64, "other")),
    };
    let (all, numbers) = (text::count(missing.len() as u64, "partition"), numbers.join(", "));
    Err(CommandError {
        message: format!("{all} could not be read or not wholly ({numbers}{others}): {why}"),
        exit: Exit::NoQuorum,
    })
}
