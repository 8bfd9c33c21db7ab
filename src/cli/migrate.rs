//! `pixii migrate`: the data of stopped nodes, brought to the schema of this program.

use std::path::{Path, PathBuf};

use clap::Args;
use pixii::disk::{OpenError, SchemaReport, migrate, schema_of};
use pixii_kit::arguments::Shared;
use pixii_kit::outcome::{CommandResult, Exit, complain, emit, emit_json};
use serde_json::json;

use super::scratch::ScratchArgs;

const CACHE_BYTES: u64 = 64 << 20;

/// Bring the data of stopped nodes to this program's schema, or say what that would be
#[derive(Args)]
#[command(after_help = "\
A daemon does the same at its start, before anything is served; nobody has to run this. With \
    --check it says before an \
upgrade what the new program would do, and after one whether a program that is older could still \
    read the data: it could \
not, once a step has been done. A migration only goes forward, and may be killed at any instant: \
    the next one completes it. \
To go back, restore a copy that was made before.

It is refused while a daemon has the data. With --check nothing in a DIR is changed: a private \
copy is read, and removed afterwards. It takes as much space as the data, unless the file system \
    can share blocks.

Exit codes: 0 every DIR is at this schema, or with --check can be brought to it, 1 one is not.

Examples:
  pixii migrate --check /var/lib/pixii/n1
  pixii migrate /var/lib/pixii/n1 /var/lib/pixii/n2
  pixii migrate --check /var/lib/pixii/n1 --json | jq .found")]
pub(crate) struct Migrate {
    /// The nodes' data directories
    #[arg(required = true, value_name = "DIR")]
    dirs: Vec<PathBuf>,
    /// Only say what would be done
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    scratch: ScratchArgs,
}

impl Migrate {
    /// Sees to every directory, and reports of each.
    pub(crate) fn run(self, shared: &Shared) -> CommandResult {
        let mut exit = Exit::Done;
        let scratch = self.check.then(|| self.scratch.folder()).transpose()?;
        for dir in &self.dirs {
            let done = match &scratch {
                Some(scratch) => schema_of(dir, scratch.path(), CACHE_BYTES),
                None => migrate(dir, CACHE_BYTES),
            };
            match &done {
                _ if shared.json() => emit_json(&self.json(dir, &done))?,
                Ok(report) => {
                    emit(format!("{}: {}\n", dir.display(), reported(report, self.check)))?;
                }
                Err(error) => complain(&error.to_string()),
            }
            if done.is_err() {
                exit = Exit::Error;
            }
        }
        Ok(exit)
    }

    fn json(&self, dir: &Path, done: &Result<SchemaReport, OpenError>) -> serde_json::Value {
        let dir = dir.display().to_string();
        match done {
            Ok(SchemaReport { found, newest, steps }) => {
                let step = |(to, about): &(u32, &str)| json!({ "to": to, "about": about });
                let steps: Vec<_> = steps.iter().map(step).collect();
                json!({
                    "dir": dir, "found": found, "newest": newest, "steps": steps,
                    "migrated": !self.check,
                })
            }
            Err(error) => json!({ "dir": dir, "error": error.to_string() }),
        }
    }
}

fn reported(report: &SchemaReport, only_checked: bool) -> String {
    let SchemaReport { found, newest, steps } = report;
    if steps.is_empty() {
        return format!("schema {found}, the newest that this program knows: nothing to do");
    }
    let steps: Vec<String> = steps.iter().map(|(to, about)| format!("{to} ({about})")).collect();
    let steps = steps.join(", then ");
    match only_checked {
        true => format!("schema {found}; the start of a daemon brings it to schema {steps}"),
        false => format!("had schema {found}, and has schema {newest} now: {steps}"),
    }
}
