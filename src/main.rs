//! The command `pixii`.

mod cli;
mod lab;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
