//! `pixii completions`: what a shell needs to complete the command line.

use clap::{Args, CommandFactory, ValueEnum};

use super::{Arguments, Exit, Outcome, emit};

/// Print completions for a shell
#[derive(Args)]
#[command(after_help = "\
Examples:
  pixii completions bash > /etc/bash_completion.d/pixii
  pixii completions zsh > ~/.zfunc/_pixii
  pixii completions fish > ~/.config/fish/completions/pixii.fish")]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

/// A shell that can complete the command line.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Shell {
    /// The script that it reads.
    pub(crate) fn completions(self) -> Vec<u8> {
        let shell = match self {
            Shell::Bash => clap_complete::Shell::Bash,
            Shell::Zsh => clap_complete::Shell::Zsh,
            Shell::Fish => clap_complete::Shell::Fish,
        };
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Arguments::command(), "pixii", &mut script);
        script
    }
}

impl Completions {
    /// Prints them.
    pub(crate) fn run(self) -> Outcome {
        emit(self.shell.completions())?;
        Ok(Exit::Done)
    }
}
