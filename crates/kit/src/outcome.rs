//! How a command ends, and what it writes.

use std::io::{self, Write};
use std::process::ExitCode;

use pixii_client::{ClientError, ErrorKind};

/// How a command ends when nothing went wrong. The numbers are the exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Everything asked for was done.
    Done = 0,
    /// Something else went wrong.
    Error = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// The key has no value.
    Absent = 3,
    /// Too few replicas answered, or could be reached.
    NoQuorum = 4,
    /// A write that may or may not have happened.
    Unknown = 5,
    /// The key has several values.
    Siblings = 6,
    /// The condition of a write does not hold.
    Condition = 7,
}

impl Exit {
    /// All of them, in the order of their numbers.
    pub const ALL: [Exit; 8] = [
        Exit::Done,
        Exit::Error,
        Exit::Usage,
        Exit::Absent,
        Exit::NoQuorum,
        Exit::Unknown,
        Exit::Siblings,
        Exit::Condition,
    ];

    /// What the code says to a script, for the reference.
    pub fn meaning(self) -> &'static str {
        match self {
            Exit::Done => "done",
            Exit::Error => {
                "an error, in a sentence on standard error; where several nodes were asked, one \
                 for each that failed"
            }
            Exit::Usage => "the command line cannot be read, or the configuration is wrong",
            Exit::Absent => "the key is absent",
            Exit::NoQuorum => "no quorum: too few replicas could answer; nothing was written",
            Exit::Unknown => "the outcome of a write is unknown: it may or may not have happened",
            Exit::Siblings => {
                "the key has several siblings; a write without a context wrote nothing"
            }
            Exit::Condition => "the condition of a write does not hold; nothing was written",
        }
    }
}

/// Why a command ends early: its exit code, and one sentence for people (none: say nothing).
#[derive(Debug)]
pub struct CommandError {
    /// The exit code of the process.
    pub exit: Exit,
    /// The sentence, without "pixii: ".
    pub message: String,
}

impl CommandError {
    /// An error (exit code 1).
    pub fn error(message: impl Into<String>) -> Self {
        CommandError { exit: Exit::Error, message: message.into() }
    }

    /// A command line that makes no sense (exit code 2).
    pub fn usage(message: impl Into<String>) -> Self {
        CommandError { exit: Exit::Usage, message: message.into() }
    }
}

impl From<ClientError> for CommandError {
    fn from(failure: ClientError) -> Self {
        let exit = match failure.kind() {
            ErrorKind::NoQuorum => Exit::NoQuorum,
            ErrorKind::Unknown => Exit::Unknown,
            ErrorKind::Conflict => Exit::Siblings,
            ErrorKind::Condition => Exit::Condition,
            ErrorKind::Absent => Exit::Absent,
            _ => Exit::Error,
        };
        CommandError { exit, message: failure.to_string() }
    }
}

/// CommandError with standard output. A reader that has gone away needs no sentence.
impl From<io::Error> for CommandError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return CommandError::error("");
        }
        CommandError::error(format!("standard output: {error}"))
    }
}

/// The result of a verb.
pub type CommandResult = Result<Exit, CommandError>;

/// Ends a command: its sentence to standard error, if there is one, and its exit code.
pub fn finish(outcome: CommandResult) -> ExitCode {
    let exit = outcome.unwrap_or_else(|error| {
        if !error.message.is_empty() {
            complain(&error.message);
        }
        error.exit
    });
    ExitCode::from(exit as u8)
}

/// One sentence to standard error.
pub fn complain(message: &str) {
    // Nobody is left to be reported when standard error is closed.
    let _ = writeln!(io::stderr(), "pixii: {message}");
}

/// Bytes to standard output.
pub fn emit(bytes: impl AsRef<[u8]>) -> Result<(), CommandError> {
    let mut out = io::stdout().lock();
    out.write_all(bytes.as_ref())?;
    Ok(out.flush()?)
}

/// A JSON value on a line of its own to standard output.
pub fn emit_json(value: &serde_json::Value) -> Result<(), CommandError> {
    emit(format!("{value}\n"))
}

/// Runs a verb's work on an asynchronous runtime of its own. When the work is done, nothing else is
/// waited for: a look-up of a host name may hang for as long as a name server likes.
pub fn block_on<T>(work: impl Future<Output = Result<T, CommandError>>) -> Result<T, CommandError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CommandError::error(format!("no runtime: {error}")))?;
    let outcome = runtime.block_on(work);
    runtime.shutdown_background();
    outcome
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;
    use std::time::{Duration, Instant};

    use tokio::time::timeout;

    use super::*;

    #[test]
    fn a_command_that_has_its_answer_waits_for_no_look_up() {
        let begun = Instant::now();
        let outcome = block_on(async {
            // As getaddrinfo blocks when the name server does not answer.
            let look_up = tokio::task::spawn_blocking(|| sleep(Duration::from_secs(4)));
            let late = timeout(Duration::from_millis(100), look_up).await.is_err();
            if late { Ok(()) } else { Err(CommandError::error("it came back")) }
        });
        assert!(outcome.is_ok());
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    }
}
