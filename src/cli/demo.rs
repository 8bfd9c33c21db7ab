//! `pixii demo`: what Pixii is for, reported with real daemons in under a minute.

mod script;
mod steps;

use std::fs::{self, File};
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use pixii_kit::cluster::{Cluster, Shape};
use pixii_kit::outcome::{CommandError, CommandResult, Exit, block_on, emit};
use pixii_kit::signals::Interrupt;

use script::Script;
use steps::Steps;

/// Some characters of the Unicode Character Database: code point, tab, the other fields.
const BUILT_IN: &str = include_str!("demo.tsv");
/// Largest file that is loaded and compared in memory.
const MAX_FILE_BYTES: u64 = 64 << 20;

const OPENING: &str = "\
Pixii keeps every key on three of five daemons. A write is acknowledged when two of them hold it \
    on disk,
a read asks two. This is a real cluster: five processes with a directory each, removed at the end.
";

/// Show what Pixii does, with real daemons, in under a minute
#[derive(Args)]
#[command(after_help = "\
Five daemons start in a temporary directory, a file is loaded, concurrent writes become siblings \
    and are \
merged, a daemon is killed with kill -9 and comes back with everything that it acknowledged. Exit \
    code 0 \
means that every check held. Nothing is left behind.

Examples:
  pixii demo
  pixii demo data.tsv            with a file of key<TAB>value lines of your own")]
pub(crate) struct Demo {
    /// A file of key<TAB>value lines to load instead of the one built in
    file: Option<PathBuf>,
}

impl Demo {
    /// Notifies the script.
    pub(crate) fn run(self) -> CommandResult {
        let file = self.file.as_deref().map(read_file).transpose()?;
        let name = match &self.file {
            Some(path) => path.display().to_string(),
            None => "a small file of Unicode characters".into(),
        };
        let bytes = file.unwrap_or_else(|| BUILT_IN.as_bytes().to_vec());
        let program =
            std::env::current_exe().map_err(|error| CommandError::error(error.to_string()))?;
        let interrupt = Interrupt::listen(false)?;
        // Declared before the cluster, so that it outlives the daemons on every way out.
        let dir = tempfile::Builder::new()
            .prefix("pixii-demo-")
            .tempdir()
            .map_err(|error| CommandError::error(format!("no temporary directory: {error}")))?;
        emit(format!("{OPENING}\n"))?;
        let mut script = Script::begin();
        let mut cluster =
            Cluster::create(program, dir.path(), &shape(), None).map_err(CommandError::error)?;
        let reported = block_on(async {
            let mut steps =
                Steps { script: &mut script, cluster: &mut cluster, interrupt: &interrupt };
            tokio::select! {
                reported = steps.all(&name, Cursor::new(bytes)) => reported,
                () = interrupt.wait() => Err(CommandError::error("interrupted")),
            }
        });
        drop(cluster);
        let removed = dir.close();
        reported.map_err(|error| CommandError {
            message: match error.message.as_str() {
                "" => String::new(),
                why => format!("{why}; the daemons are stopped and their directory is removed"),
            },
            ..error
        })?;
        removed.map_err(|error| CommandError::error(format!("the directory stays: {error}")))?;
        match script.finish()? {
            0 => Ok(Exit::Done),
            1 => Err(CommandError::error("a check of the demo did not hold")),
            failed => Err(CommandError::error(format!("{failed} checks of the demo did not hold"))),
        }
    }
}

fn shape() -> Shape {
    Shape { cluster: "demo".into(), nodes: 5, n: 3, r: 2, w: 2, partitions: 64 }
}

fn read_file(path: &Path) -> Result<Vec<u8>, CommandError> {
    let fault = |error: std::io::Error| CommandError::error(format!("{}: {error}", path.display()));
    let size = fs::metadata(path).map_err(fault)?.len();
    let mut bytes = Vec::new();
    File::open(path)
        .map_err(fault)?
        .take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(fault)?;
    if bytes.is_empty() {
        return Err(CommandError::error(format!("{} is empty", path.display())));
    }
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(CommandError::error(format!(
            "{} has {size} bytes and the demo takes {MAX_FILE_BYTES}; use `pixii dev` and `pixii \
             load`",
            path.display()
        )));
    }
    Ok(bytes)
}
