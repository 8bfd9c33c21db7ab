//! Where the private copies of `check` and `migrate --check` are made, and how they are removed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::thread;
use std::time::Duration;

use clap::Args;
use pixii_kit::outcome::{CommandError, Exit};
use pixii_kit::signals::Interrupt;
use tempfile::TempDir;

/// How often a signal is looked for.
const POLL: Duration = Duration::from_millis(50);
/// How often the removal is tried while files are still being written.
const REMOVALS: u32 = 20;

/// Where stopped stores are copied to before they are read
#[derive(Args)]
pub(crate) struct ScratchArgs {
    /// Directory for the private copy that is read; by default $TMPDIR, or else /var/tmp
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
}

impl ScratchArgs {
    /// Makes a folder for copies. It is removed when the result is dropped, and on SIGINT and
    /// SIGTERM, which end the process.
    pub(crate) fn folder(&self) -> Result<Scratch, CommandError> {
        // Before there is a folder that a signal would leave behind.
        let interrupt = Interrupt::listen(false)?;
        let within = self.scratch.clone().unwrap_or_else(default_place);
        let folder = tempfile::Builder::new().prefix("pixii-check-").tempdir_in(&within);
        let folder = folder.map_err(|error| {
            let within = within.display();
            CommandError::error(format!(
                "cannot make a folder for a private copy in {within}: {error}; name another \
                 place with --scratch DIR"
            ))
        })?;
        let path = folder.path().to_path_buf();
        thread::spawn(move || {
            while !interrupt.queried() {
                thread::sleep(POLL);
            }
            for _ in 0..REMOVALS {
                let _ = fs::remove_dir_all(&path);
                if !path.exists() {
                    break;
                }
            }
            process::exit(Exit::Error as i32);
        });
        Ok(Scratch(folder))
    }
}

/// A folder for private copies.
pub(crate) struct Scratch(TempDir);

impl Scratch {
    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

/// `$TMPDIR`, or else `/var/tmp`, which is a disk where `/tmp` is memory, or else `/tmp`.
fn default_place() -> PathBuf {
    let var_tmp = PathBuf::from("/var/tmp");
    match std::env::var_os("TMPDIR") {
        None if var_tmp.is_dir() => var_tmp,
        _ => std::env::temp_dir(),
    }
}
