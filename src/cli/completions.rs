//! `pixii completions`: what a shell needs to complete the command line.

use clap::{Args, Command, CommandFactory, ValueEnum};
use pixii_kit::outcome::{CommandResult, Exit, emit};

use super::Arguments;

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
        let mut command = visible(&Arguments::command());
        clap_complete::generate(shell, &mut command, "pixii", &mut script);
        script
    }
}

/// The command without its hidden verbs and options, which the generators would offer. Only names,
/// help and arguments are taken over: completions need no more.
fn visible(command: &Command) -> Command {
    // Names of a command have to live as long as the program, which prints completions once.
    let name: &'static str = command.get_name().to_owned().leak();
    let arguments = command.get_arguments().filter(|argument| !argument.is_hide_set());
    let verbs = command.get_subcommands().filter(|verb| !verb.is_hide_set());
    let shown = Command::new(name).args(arguments.cloned()).subcommands(verbs.map(visible));
    let shown = match command.get_version() {
        Some(version) => shown.version(&*version.to_owned().leak()),
        None => shown,
    };
    match command.get_about() {
        Some(about) => shown.about(about.clone()),
        None => shown,
    }
}

impl Completions {
    /// Prints them.
    pub(crate) fn run(self) -> CommandResult {
        emit(self.shell.completions())?;
        Ok(Exit::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_shell_offers_what_is_hidden() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = String::from_utf8(shell.completions()).unwrap();
            for hidden in ["package", "follow-stdin"] {
                let offers = |line: &&str| {
                    line.split(|c: char| !(c.is_alphanumeric() || c == '-'))
                        .any(|word| word.trim_start_matches('-') == hidden)
                };
                assert_eq!(script.lines().find(offers), None, "{hidden}");
            }
            assert!(script.contains("migrate") && script.contains("scratch"));
        }
    }
}
