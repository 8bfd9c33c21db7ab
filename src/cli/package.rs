//! `pixii package`: what goes into a package beside the program.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory};

use super::completions::Shell;
use super::{Arguments, Exit, Outcome, Trouble};

/// Write the man pages and the completions of all shells into a directory
#[derive(Args)]
pub(crate) struct Package {
    /// The directory; it is made
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

impl Package {
    /// Writes them.
    pub(crate) fn run(self) -> Outcome {
        write(&self.dir)
            .map_err(|error| Trouble::error(format!("{}: {error}", self.dir.display())))?;
        Ok(Exit::Done)
    }
}

fn write(dir: &Path) -> io::Result<()> {
    let pages = dir.join("man");
    fs::create_dir_all(&pages)?;
    // A page for each verb; their global options are on the first one.
    clap_mangen::generate_to(Arguments::command().disable_help_subcommand(true), &pages)?;
    for (shell, name) in
        [(Shell::Bash, "pixii.bash"), (Shell::Zsh, "_pixii"), (Shell::Fish, "pixii.fish")]
    {
        fs::write(dir.join(name), shell.completions())?;
    }
    Ok(())
}
