//! `pixii package`: what goes into a package beside the program.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory};
use pixii_kit::outcome::{CommandError, CommandResult, Exit};

use super::Arguments;
use super::completions::Shell;

/// Write the man pages and the completions of all shells into a directory
#[derive(Args)]
pub(crate) struct Package {
    /// The directory; it is made
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

impl Package {
    /// Writes them.
    pub(crate) fn run(self) -> CommandResult {
        write(&self.dir)
            .map_err(|error| CommandError::error(format!("{}: {error}", self.dir.display())))?;
        Ok(Exit::Done)
    }
}

fn write(dir: &Path) -> io::Result<()> {
    let pages = dir.join("man");
    fs::create_dir_all(&pages)?;
    // A page for each verb; their global options are on the first one.
    clap_mangen::generate_to(Arguments::command().disable_help_subcommand(true), &pages)?;
    for page in fs::read_dir(&pages)? {
        let page = page?.path();
        fs::write(&page, keep_examples(&fs::read_to_string(&page)?))?;
    }
    for (shell, name) in
        [(Shell::Bash, "pixii.bash"), (Shell::Zsh, "_pixii"), (Shell::Fish, "pixii.fish")]
    {
        fs::write(dir.join(name), shell.completions())?;
    }
    Ok(())
}

/// The page with its examples as they are written: `man` fills the lines of all else.
fn keep_examples(page: &str) -> String {
    let (mut kept, mut within) = (String::new(), false);
    for line in page.lines() {
        // Indented lines, which begin with a space or with what keeps one, belong to the examples.
        let example = line.starts_with("  ");
        if line == "Examples:" && !within {
            kept.push_str(".nf\n");
            within = true;
        } else if within && !example {
            kept.push_str(".fi\n");
            within = false;
        }
        kept.push_str(line);
        kept.push('\n');
    }
    if within {
        kept.push_str(".fi\n");
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_in_man_pages_are_not_filled() {
        let page = ".SH EXTRA\nText.\n\nExamples:\n  pixii a\n  pixii b\n\nMore.\n";
        let kept = ".SH EXTRA\nText.\n\n.nf\nExamples:\n  pixii a\n  pixii b\n.fi\n\nMore.\n";
        assert_eq!(keep_examples(page), kept);
        let last = "Examples:\n  pixii a\n";
        assert_eq!(keep_examples(last), ".nf\nExamples:\n  pixii a\n.fi\n");
        let dir = tempfile::tempdir().unwrap();
        write(dir.path()).unwrap();
        for page in fs::read_dir(dir.path().join("man")).unwrap() {
            let text = fs::read_to_string(page.unwrap().path()).unwrap();
            let examples = text.matches("\nExamples:\n").count();
            assert_eq!(text.matches("\n.nf\nExamples:\n").count(), examples, "{text}");
            assert_eq!(text.matches("\n.fi\n").count(), examples, "{text}");
        }
    }
}
