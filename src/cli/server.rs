//! `pixii server`.

use std::path::PathBuf;

use clap::Args;

use super::{Outcome, Trouble};

/// Run a node: the daemon
#[derive(Args)]
#[command(after_help = "\
Examples:
  pixii server --config /etc/pixii/pixii.toml")]
pub(crate) struct Server {
    /// The node's configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Stop when standard input ends, so that a daemon never outlives its parent
    #[arg(long, hide = true)]
    follow_stdin: bool,
}

impl Server {
    /// Serves until told to stop.
    pub(crate) fn run(self) -> Outcome {
        Err(Trouble::error(format!(
            "{}: this build has no engine (follow stdin: {})",
            self.config.display(),
            self.follow_stdin
        )))
    }
}
