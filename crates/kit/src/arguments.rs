//! Arguments that several commands have.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use clap::builder::RangedI64ValueParser;
use pixii_client::{Client, ClientError, Options, client_secret};
use pixii_core::message::Quorum;
use pixii_core::secret::SecretKey;
use pixii_core::types::{Key, MAX_TIMEOUT_MS};
use tokio::time::timeout;

use crate::outcome::CommandError;
use crate::text;

/// The address of a node that listens where nothing else is configured.
pub const DEFAULT_CONNECT: &str = "127.0.0.1:7432";

/// Most bytes that are read of a context file; a context in hexadecimal has fewer.
const MAX_CONTEXT_FILE_BYTES: u64 = 1 << 20;
/// Advice where no daemon listens at any of the addresses.
const NOBODY_LISTENS: &str = ": check that the daemon runs there (`systemctl status 'pixii@*'`), \
    or name another node with --connect; `pixii dev` starts a cluster to try on this machine";

/// What every verb understands.
#[derive(Args)]
pub struct Shared {
    /// A node of the cluster, or several, which are tried in turn [env: PIXII_CONNECT]
    #[arg(long, global = true, value_delimiter = ',', value_name = "HOST:PORT[,HOST:PORT...]")]
    #[arg(help_heading = "Global options")]
    connect: Vec<String>,
    /// File with the client secret [env: PIXII_SECRET_FILE]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    secret_file: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true, help_heading = "Global options")]
    json: bool,
}

/// When a command that has a deadline is to end, from its first connection on.
pub struct Deadline {
    begun: Instant,
    timeout_ms: u32,
}

impl Deadline {
    /// In so many milliseconds.
    pub fn after(timeout_ms: u32) -> Self {
        Deadline { begun: Instant::now(), timeout_ms }
    }

    /// What is left, in milliseconds, at least one.
    pub fn left_ms(&self) -> u32 {
        let passed = u32::try_from(self.begun.elapsed().as_millis()).unwrap_or(u32::MAX);
        self.timeout_ms.saturating_sub(passed).max(1)
    }
}

impl Shared {
    /// True if none of them is given.
    pub fn is_empty(&self) -> bool {
        !self.json && self.connect.is_empty() && self.secret_file.is_none()
    }

    /// True when answers are wanted as JSON.
    pub fn json(&self) -> bool {
        self.json
    }

    /// A client of the cluster that the command line or the environment names.
    pub async fn client(&self) -> Result<Client, CommandError> {
        connect(&self.addresses()?, self.options()?).await
    }

    /// The same, before the deadline. Each of several addresses has its part of the time.
    pub async fn client_within(&self, deadline: &Deadline) -> Result<Client, CommandError> {
        let (addresses, options) = (self.addresses()?, self.options()?);
        let most = deadline.left_ms();
        let each = most / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
        let connect_timeout_ms = options.connect_timeout_ms.min(each).max(1);
        let options = Options { connect_timeout_ms, ..options };
        let connecting = connect(&addresses, options);
        let late = |_| {
            let all = addresses.join(", nor to ");
            CommandError::error(format!("cannot connect to {all}: no answer in {most} ms"))
        };
        timeout(Duration::from_millis(most.into()), connecting).await.map_err(late)?
    }

    /// How a client of that cluster behaves: with the secret, if there is one.
    pub fn options(&self) -> Result<Options, CommandError> {
        Ok(Options { secret: self.secret()?, ..Options::default() })
    }

    /// The secret in the file that the command line or the environment names, if one does.
    fn secret(&self) -> Result<Option<SecretKey>, CommandError> {
        let named = std::env::var_os("PIXII_SECRET_FILE").filter(|path| !path.is_empty());
        let path = self.secret_file.clone().or(named.map(PathBuf::from));
        let read = path.map(|path| client_secret(&path)).transpose();
        read.map_err(|error| CommandError::usage(format!("the secret: {error}")))
    }

    /// The addresses that the command line or the environment names, or the default.
    pub fn addresses(&self) -> Result<Vec<String>, CommandError> {
        let mut addresses = self.connect.clone();
        if addresses.is_empty() {
            // Whatever it says: another cluster than the one that is meant must not be asked.
            let given = std::env::var_os("PIXII_CONNECT").filter(|given| !given.is_empty());
            let given =
                given.map_or(DEFAULT_CONNECT.into(), |given| given.to_string_lossy().into_owned());
            addresses = given.split(',').map(String::from).collect();
        }
        for address in &addresses {
            let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty());
            if port.is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
                return Err(CommandError::usage(format!(
                    "the address \"{}\" is not HOST:PORT, as in {DEFAULT_CONNECT}",
                    address.escape_debug()
                )));
            }
        }
        Ok(addresses)
    }
}

async fn connect(addresses: &[String], options: Options) -> Result<Client, CommandError> {
    Client::connect(addresses, options).await.map_err(|failure| {
        let nobody = matches!(failure, ClientError::NobodyListens(_));
        let hint = if nobody { NOBODY_LISTENS } else { "" };
        CommandError::error(format!("{failure}{hint}"))
    })
}

/// Which replicas count.
#[derive(Args)]
pub struct Strictness {
    /// Only owners count [default: the cluster's]
    #[arg(long, conflicts_with = "sloppy")]
    strict: bool,
    /// A fallback counts for the owner that it acts as a fallback for [default: the cluster's]
    #[arg(long)]
    sloppy: bool,
}

impl Strictness {
    /// So many replicas, of those that count.
    pub fn quorum(&self, replicas: Option<u8>) -> Quorum {
        let strict = (self.strict || self.sloppy).then_some(self.strict);
        Quorum { replicas, strict }
    }
}

/// Reads a deadline in milliseconds, within what a request may carry.
pub fn deadline() -> RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=i64::from(MAX_TIMEOUT_MS))
}

/// A key as an argument.
#[derive(Args)]
pub struct KeyArgument {
    /// The key, 1 to 1024 bytes
    #[arg(allow_negative_numbers = true)]
    key: OsString,
    /// KEY is given in hexadecimal, so that it can have any bytes
    #[arg(long)]
    hex_key: bool,
}

impl KeyArgument {
    /// The key meant.
    pub fn key(&self) -> Result<Key, CommandError> {
        parse_key(&self.key, self.hex_key)
    }
}

/// The key that an argument gives, in hexadecimal if `hex`.
pub fn parse_key(argument: &OsString, hex: bool) -> Result<Key, CommandError> {
    let bytes = parse_bytes("key", argument.as_bytes(), hex)?;
    Key::new(bytes).map_err(|error| CommandError::error(error.to_string()))
}

/// The bytes that an argument gives, in hexadecimal if `hex`; `what` names it in the error.
pub fn parse_bytes(what: &str, given: &[u8], hex: bool) -> Result<Vec<u8>, CommandError> {
    if !hex {
        return Ok(given.to_vec());
    }
    text::unhex(given).ok_or_else(|| CommandError::usage(hex_fault(what, given)))
}

/// Why what was given for hexadecimal digits is none.
fn hex_fault(what: &str, given: &[u8]) -> String {
    match given.iter().position(|byte| !byte.is_ascii_hexdigit()) {
        Some(at) => format!(
            "the {what} has \"{}\" where a hexadecimal digit is due",
            given[at..=at].escape_ascii()
        ),
        None => format!(
            "the {what} has {} hexadecimal digits; there are two for each byte",
            given.len()
        ),
    }
}

/// A context as an argument, in hexadecimal, or in the file that is named behind `@`.
pub fn parse_context(given: &str) -> Result<bytes::Bytes, CommandError> {
    let Some(path) = given.strip_prefix('@') else {
        return parse_bytes("context", given.as_bytes(), true).map(bytes::Bytes::from);
    };
    let fault = |error| CommandError::error(format!("context file {path}: {error}"));
    let mut hex = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_CONTEXT_FILE_BYTES).read_to_string(&mut hex))
        .map_err(fault)?;
    parse_bytes(&format!("context file {path}"), hex.trim().as_bytes(), true)
        .map(bytes::Bytes::from)
}

/// A seed drawn from the clock: seeds that nobody has run. It is printed, so that the run can be
/// repeated.
pub fn drawn_seed() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(1, |since| since.as_micros() as u64)
}
