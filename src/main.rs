//! The command `pixii`: the daemon and the tools of its operators, see `cli`.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
