//! `pixii sim`, `bench`, `drill` and `lab`: what puts Pixii to the test is a program of its own,
//! `pixii-lab`, so that the daemon carries none of it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use clap::Args;
use pixii_kit::outcome::{CommandError, CommandResult};

/// The program, in the directory of this one: drills run as root, so it is never one from PATH.
const PROGRAM: &str = "pixii-lab";

/// What `pixii-lab` reads.
#[derive(Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Arguments {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _arguments: Vec<OsString>,
}

/// Becomes `pixii-lab`, with the whole command line of this process: its exit code and its signals
/// are those of this command.
pub(crate) fn run() -> CommandResult {
    let own = std::env::current_exe().map_err(|error| CommandError::error(error.to_string()))?;
    let program = own.with_file_name(PROGRAM);
    check(&program)?;
    let error = Command::new(&program).args(std::env::args_os().skip(1)).exec();
    Err(CommandError::error(format!("{}: {error}", program.display())))
}

/// Refuses a program of another build: a drill judges the daemons of this one.
fn check(program: &Path) -> Result<(), CommandError> {
    if !program.exists() {
        return Err(CommandError::error(format!(
            "there is no {}, which runs sim, bench, drill and lab: `cargo build --release` builds \
             it, and the package pixii-lab installs it",
            program.display()
        )));
    }
    let queried = Command::new(program).arg("--version").output();
    let queried =
        queried.map_err(|error| CommandError::error(format!("{}: {error}", program.display())))?;
    let stated = String::from_utf8_lossy(&queried.stdout);
    let version = stated.trim().strip_prefix(PROGRAM).unwrap_or(&stated).trim();
    let wanted = pixii::VERSION.as_str();
    if version != wanted {
        return Err(CommandError::error(format!(
            "{} is {version}, and this is pixii {wanted}: `cargo build --release` builds both",
            program.display()
        )));
    }
    Ok(())
}
