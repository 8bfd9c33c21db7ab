//! The verbs of the command, what they share, and how they end.

mod bench;
mod check;
pub(crate) mod cluster;
mod completions;
mod delete;
mod demo;
mod dev;
mod drill;
mod dump;
mod emulate;
mod get;
mod hints;
mod lab;
mod load;
mod migrate;
mod node;
mod package;
mod put;
mod repair;
mod ring;
mod scratch;
mod server;
pub(crate) mod signals;
mod sim;
mod status;
pub(crate) mod text;

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::builder::RangedI64ValueParser;
use clap::{Args, Parser, Subcommand};
use pixii::client::{Client, Failure, Options};
use pixii::config::client_secret;
use pixii::message::Quorum;
use pixii::secret::SecretKey;
use pixii::types::{Key, MAX_TIMEOUT_MS};
use tokio::time::timeout;

const DEFAULT_CONNECT: &str = "127.0.0.1:7432";

const EXAMPLES: &str = "\
Examples:
  pixii demo                          the whole story in under a minute
  pixii dev                           five daemons in the foreground, to play with
  pixii put greeting hello            write a value
  pixii get greeting                  read it
  pixii load data.tsv                 write a file of key<TAB>value lines
  pixii hints                         what is kept for members that were not there

Exit codes: 0 done, 1 error, 2 usage, 3 absent, 4 no quorum, 5 unknown outcome of a write, \
6 several siblings.

The node to talk to is given by --connect, or by PIXII_CONNECT, or is 127.0.0.1:7432. In a cluster with \
secrets, the one of its clients is in the file that --secret-file or PIXII_SECRET_FILE names.";

/// A Dynamo-style key-value store that never loses an acknowledged write.
#[derive(Parser)]
#[command(name = "pixii", version, after_help = EXAMPLES, max_term_width = 100)]
struct Arguments {
    #[command(flatten)]
    shared: Shared,
    #[command(subcommand)]
    verb: Verb,
}

/// What every verb understands.
#[derive(Args)]
pub(crate) struct Shared {
    /// A node of the cluster; several are tried in turn
    #[arg(long, global = true, value_delimiter = ',', value_name = "HOST:PORT")]
    #[arg(help_heading = "Global options")]
    connect: Vec<String>,
    /// What clients of the cluster prove themselves with, if it has secrets
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    secret_file: Option<PathBuf>,
    /// Answer in JSON
    #[arg(long, global = true, help_heading = "Global options")]
    json: bool,
}

#[derive(Subcommand)]
enum Verb {
    Server(server::Server),
    Get(get::Get),
    Put(put::Put),
    Delete(delete::Delete),
    Load(load::Load),
    Dump(dump::Dump),
    Status(status::Status),
    Hints(hints::Hints),
    Repair(repair::Repair),
    Ring(ring::Ring),
    Node(node::Node),
    Emulate(emulate::Emulate),
    Check(check::Check),
    Migrate(migrate::Migrate),
    Dev(dev::Dev),
    Demo(demo::Demo),
    Sim(sim::Sim),
    Bench(bench::Bench),
    Drill(drill::Drill),
    Lab(lab::Lab),
    Completions(completions::Completions),
    #[command(hide = true)]
    Package(package::Package),
    /// The other side of the echo that `bench` measures
    #[command(name = crate::lab::bench::echo::VERB, hide = true)]
    EchoServer,
}

/// How a command ends when nothing went wrong. The numbers are the exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Everything asked for was done.
    Done = 0,
    /// Something else went wrong.
    Error = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// The key has no value.
    Absent = 3,
    /// Too few replicas.
    NoQuorum = 4,
    /// A write that may or may not have happened.
    Unknown = 5,
    /// The key has several values.
    Siblings = 6,
}

/// Why a command ends early: its exit code, and one sentence for people (none: say nothing).
#[derive(Debug)]
pub(crate) struct Trouble {
    /// The exit code.
    pub(crate) exit: Exit,
    /// The sentence, without "pixii: ".
    pub(crate) message: String,
}

impl Trouble {
    /// An error (exit code 1).
    pub(crate) fn error(message: impl Into<String>) -> Self {
        Trouble { exit: Exit::Error, message: message.into() }
    }

    /// A command line that makes no sense (exit code 2).
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Trouble { exit: Exit::Usage, message: message.into() }
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        let exit = match &failure {
            Failure::Refused(refusal) if refusal.is_no_quorum() => Exit::NoQuorum,
            Failure::Unknown(_) => Exit::Unknown,
            Failure::Refused(_) | Failure::Error(_) => Exit::Error,
        };
        Trouble { exit, message: failure.to_string() }
    }
}

/// Trouble with standard output. A reader that has gone away needs no sentence.
impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Trouble::error("");
        }
        Trouble::error(format!("standard output: {error}"))
    }
}

/// The result of a verb.
pub(crate) type Outcome = Result<Exit, Trouble>;

/// Runs the command line that the process was given.
pub(crate) fn run() -> ExitCode {
    let Arguments { shared, verb } = Arguments::parse();
    let outcome = match verb {
        Verb::Server(_) | Verb::Dev(_) | Verb::Demo(_)
            if shared.json || !shared.connect.is_empty() || shared.secret_file.is_some() =>
        {
            let why = "server, dev and demo ask no cluster that runs: they take none of --connect, --secret-file and --json";
            Err(Trouble::usage(why))
        }
        Verb::Server(verb) => verb.run(),
        Verb::Get(verb) => verb.run(&shared),
        Verb::Put(verb) => verb.run(&shared),
        Verb::Delete(verb) => verb.run(&shared),
        Verb::Load(verb) => verb.run(&shared),
        Verb::Dump(verb) => verb.run(&shared),
        Verb::Status(verb) => verb.run(&shared),
        Verb::Hints(verb) => verb.run(&shared),
        Verb::Repair(verb) => verb.run(&shared),
        Verb::Ring(verb) => verb.run(&shared),
        Verb::Node(verb) => verb.run(&shared),
        Verb::Emulate(verb) => verb.run(&shared),
        Verb::Check(verb) => verb.run(&shared),
        Verb::Migrate(verb) => verb.run(&shared),
        Verb::Dev(verb) => verb.run(),
        Verb::Demo(verb) => verb.run(),
        Verb::Sim(verb) => verb.run(&shared),
        Verb::Bench(verb) => verb.run(&shared),
        Verb::Drill(verb) => verb.run(&shared),
        Verb::Lab(verb) => verb.run(&shared),
        Verb::Completions(verb) => verb.run(),
        Verb::Package(verb) => verb.run(),
        Verb::EchoServer => {
            crate::lab::bench::echo::serve().map(|()| Exit::Done).map_err(Trouble::from)
        }
    };
    let exit = outcome.unwrap_or_else(|trouble| {
        if !trouble.message.is_empty() {
            complain(&trouble.message);
        }
        trouble.exit
    });
    ExitCode::from(exit as u8)
}

/// One sentence to standard error.
pub(crate) fn complain(message: &str) {
    // Nobody is left to be told when standard error is closed.
    let _ = writeln!(io::stderr(), "pixii: {message}");
}

/// Bytes to standard output.
pub(crate) fn emit(bytes: impl AsRef<[u8]>) -> Result<(), Trouble> {
    let mut out = io::stdout().lock();
    out.write_all(bytes.as_ref())?;
    Ok(out.flush()?)
}

/// A JSON value on a line of its own to standard output.
pub(crate) fn emit_json(value: &serde_json::Value) -> Result<(), Trouble> {
    emit(format!("{value}\n"))
}

/// Runs a verb's work on an asynchronous runtime of its own. When the work is done, nothing else is
/// waited for: a look-up of a host name may hang for as long as a name server likes.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Trouble::error(format!("no runtime: {error}")))?;
    let outcome = runtime.block_on(work);
    runtime.shutdown_background();
    outcome
}

/// When a command that has a deadline is to end, from its first connection on.
pub(crate) struct Deadline {
    begun: Instant,
    timeout_ms: u32,
}

impl Deadline {
    /// In so many milliseconds.
    pub(crate) fn after(timeout_ms: u32) -> Self {
        Deadline { begun: Instant::now(), timeout_ms }
    }

    /// What is left, in milliseconds, at least one.
    pub(crate) fn left_ms(&self) -> u32 {
        let passed = u32::try_from(self.begun.elapsed().as_millis()).unwrap_or(u32::MAX);
        self.timeout_ms.saturating_sub(passed).max(1)
    }
}

impl Shared {
    /// True when answers are wanted as JSON.
    pub(crate) fn json(&self) -> bool {
        self.json
    }

    /// A client of the cluster that the command line or the environment names.
    pub(crate) async fn client(&self) -> Result<Client, Trouble> {
        connect(&self.addresses()?, self.options()?).await
    }

    /// The same, before the deadline. Each of several addresses has its part of the time.
    pub(crate) async fn client_within(&self, deadline: &Deadline) -> Result<Client, Trouble> {
        let (addresses, options) = (self.addresses()?, self.options()?);
        let most = deadline.left_ms();
        let each = most / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
        let connect_timeout_ms = options.connect_timeout_ms.min(each).max(1);
        let options = Options { connect_timeout_ms, ..options };
        let connecting = connect(&addresses, options);
        let late = |_| {
            let all = addresses.join(", nor to ");
            Trouble::error(format!("cannot connect to {all}: no answer in {most} ms"))
        };
        timeout(Duration::from_millis(most.into()), connecting).await.map_err(late)?
    }

    /// How a client of that cluster behaves: with the secret, if there is one.
    pub(crate) fn options(&self) -> Result<Options, Trouble> {
        Ok(Options { secret: self.secret()?, ..Options::default() })
    }

    /// The secret in the file that the command line or the environment names, if one does.
    fn secret(&self) -> Result<Option<SecretKey>, Trouble> {
        let named = std::env::var_os("PIXII_SECRET_FILE").filter(|path| !path.is_empty());
        let path = self.secret_file.clone().or(named.map(PathBuf::from));
        let read = path.map(|path| client_secret(&path)).transpose();
        read.map_err(|error| Trouble::usage(format!("the secret: {error}")))
    }

    /// The addresses that the command line or the environment names, or the default.
    pub(crate) fn addresses(&self) -> Result<Vec<String>, Trouble> {
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
                return Err(Trouble::usage(format!(
                    "the address \"{}\" is not HOST:PORT, as in {DEFAULT_CONNECT}",
                    address.escape_debug()
                )));
            }
        }
        Ok(addresses)
    }
}

async fn connect(addresses: &[String], options: Options) -> Result<Client, Trouble> {
    Client::connect(addresses, options).await.map_err(|failure| {
        let said = failure.to_string();
        let nobody = said.ends_with("connection refused");
        let hint = if nobody { "; start a cluster with `pixii dev`" } else { "" };
        Trouble::error(said + hint)
    })
}

/// Which replicas count.
#[derive(Args)]
pub(crate) struct Strictness {
    /// Only home replicas count [default: the cluster's]
    #[arg(long, conflicts_with = "sloppy")]
    strict: bool,
    /// A stand-in counts for the home replica that it stands in for [default: the cluster's]
    #[arg(long)]
    sloppy: bool,
}

impl Strictness {
    /// So many replicas, of those that count.
    pub(crate) fn quorum(&self, replicas: Option<u8>) -> Quorum {
        let strict = (self.strict || self.sloppy).then_some(self.strict);
        Quorum { replicas, strict }
    }
}

/// Reads a deadline in milliseconds, within what a request may carry.
pub(crate) fn deadline() -> RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=i64::from(MAX_TIMEOUT_MS))
}

/// A key as an argument.
#[derive(Args)]
pub(crate) struct KeyArgument {
    /// The key, 1 to 1024 bytes
    key: OsString,
    /// KEY is given in hexadecimal, so that it can have any bytes
    #[arg(long)]
    hex_key: bool,
}

impl KeyArgument {
    /// The key meant.
    pub(crate) fn key(&self) -> Result<Key, Trouble> {
        parse_key(&self.key, self.hex_key)
    }
}

/// The key that an argument gives, in hexadecimal if `hex`.
pub(crate) fn parse_key(argument: &OsString, hex: bool) -> Result<Key, Trouble> {
    let bytes = if hex {
        text::unhex(argument.as_bytes())
            .ok_or_else(|| Trouble::usage(hex_fault("key", argument.as_bytes())))?
    } else {
        argument.as_bytes().to_vec()
    };
    Key::new(bytes).map_err(|error| Trouble::error(error.to_string()))
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

/// A context as an argument, in hexadecimal.
pub(crate) fn parse_context(hex: &str) -> Result<bytes::Bytes, Trouble> {
    text::unhex(hex.as_bytes())
        .map(bytes::Bytes::from)
        .ok_or_else(|| Trouble::usage(hex_fault("context", hex.as_bytes())))
}

/// A seed drawn from the clock: seeds that nobody has run. It is printed, so that the run can be
/// repeated.
pub(crate) fn drawn_seed() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(1, |since| since.as_micros() as u64)
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;

    use super::*;

    #[test]
    fn a_command_that_has_its_answer_waits_for_no_look_up() {
        let begun = Instant::now();
        let outcome = block_on(async {
            // As getaddrinfo does, where the name server says nothing.
            let look_up = tokio::task::spawn_blocking(|| sleep(Duration::from_secs(4)));
            let late = timeout(Duration::from_millis(100), look_up).await.is_err();
            if late { Ok(()) } else { Err(Trouble::error("it came back")) }
        });
        assert!(outcome.is_ok());
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    }
}
