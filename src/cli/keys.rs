//! `pixii keys`.

use clap::Args;
use pixii_kit::arguments::Shared;
use pixii_kit::outcome::CommandResult;

use super::dump::{Form, print};
use super::scan::{PartArguments, ReadArguments};

/// List keys, sorted
#[derive(Args)]
#[command(after_help = "\
A line is a key, in which a backslash is written \\\\, a tab \\t, a newline \\n and a carriage \
return \\r. Deleted keys are left out. A key that has a value from the beginning of the listing to \
its end is listed, also while nodes fail; one that is written or deleted meanwhile may be listed \
or not.

Where too few replicas can answer, the keys of all other partitions are listed; the partitions \
that are missing are named at the end, and the exit code is 4.

Examples:
  pixii keys
  pixii keys --prefix user/ --limit 100
  pixii keys --prefix user/ --after user/0099 --limit 100      the next hundred
  pixii keys --json                      keys of any bytes, an object for each")]
pub(crate) struct Keys {
    #[command(flatten)]
    part: PartArguments,
    #[command(flatten)]
    reading: ReadArguments,
    /// List this many keys at most
    #[arg(long, value_name = "NUMBER")]
    limit: Option<u64>,
    /// Print backslashes, tabs and newlines as they are
    #[arg(long)]
    raw: bool,
}

impl Keys {
    /// Lists.
    pub(crate) fn run(self, shared: &Shared) -> CommandResult {
        let form = Form { keys: true, raw: self.raw, json: shared.json() };
        print(&self.part, &self.reading, self.limit, form, shared)
    }
}
