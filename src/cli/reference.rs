//! `pixii reference`: tables of the reference pages, for `docs/generate`.

use clap::Args;
use pixii::reference::{self, NamedTable};
use pixii::table::Table;
use pixii_kit::outcome::{CommandError, CommandResult, Exit, emit};

/// Print a table of the reference pages, or the names of all
#[derive(Args)]
pub(crate) struct Reference {
    /// The table's name
    name: Option<String>,
}

/// The tables of exit codes, which only the command knows.
const EXIT_CODES: [NamedTable; 3] =
    [("exit-codes", codes), ("exit-codes-commands", by_command), ("exit-codes-daemon", of_daemon)];

impl Reference {
    /// Prints.
    pub(crate) fn run(self) -> CommandResult {
        let text = match &self.name {
            Some(name) => table(name).ok_or_else(|| {
                CommandError::usage(format!("there is no table \"{}\"", name.escape_debug()))
            })?,
            None => names().map(|name| format!("{name}\n")).collect(),
        };
        emit(text)?;
        Ok(Exit::Done)
    }
}

fn names() -> impl Iterator<Item = &'static str> {
    reference::names().chain(EXIT_CODES.iter().map(|(name, _)| *name))
}

fn table(name: &str) -> Option<String> {
    let own = EXIT_CODES.iter().find(|(known, _)| *known == name);
    own.map(|(_, table)| table().markdown()).or_else(|| reference::table(name))
}

/// The number of an exit code.
fn code(exit: Exit) -> String {
    (exit as u8).to_string()
}

/// The codes of all commands.
fn codes() -> Table {
    let row = |table: Table, exit: &Exit| table.row([&code(*exit), exit.meaning()]);
    Exit::ALL.iter().fold(Table::new(["code", "meaning"]), row)
}

/// What a code means beyond that for some commands.
const BY_COMMAND: [(&str, &[Exit], &str); 9] = [
    (
        "`load`",
        &[Exit::NoQuorum, Exit::Unknown],
        "lines were refused because replicas were missing; the outcome of some is unknown",
    ),
    (
        "`dump`",
        &[Exit::NoQuorum],
        "all partitions that could be read are printed; the missing ones are named",
    ),
    (
        "`dump`",
        &[Exit::Siblings],
        "everything is printed; some keys have siblings, whose lines `load` refuses",
    ),
    (
        "`repair`",
        &[Exit::Error],
        "some pairs could not be compared for 30 s, or a peer could not be reached for 5 s",
    ),
    ("`check`", &[Exit::Error], "damaged, different, or not readable"),
    (
        "`migrate`",
        &[Exit::Error],
        "a directory is not at this schema, or with `--check` cannot be brought to it",
    ),
    ("`server --check`", &[Exit::Usage], "a line for each problem is on standard error"),
    ("`node replace`", &[Exit::Unknown], "unfinished: not confirmed within 30 s"),
    ("`demo`, `drill`, `sim`, `lab`", &[Exit::Error], "a check failed; it is printed"),
];

fn by_command() -> Table {
    let row = |table: Table, (command, exits, meaning): &(&str, &[Exit], &str)| {
        let codes = exits.iter().map(|exit| code(*exit)).collect::<Vec<_>>().join(", ");
        table.row([command, &codes, meaning])
    };
    BY_COMMAND.iter().fold(Table::new(["command", "code", "meaning"]), row)
}

/// How a daemon ends. A code above 128 is 128 and the number of the signal.
fn of_daemon() -> Table {
    let signals = [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM];
    let signals = signals.map(|signal| (128 + signal).to_string()).join(", ");
    Table::new(["code", "meaning", "systemd"])
        .row([&code(Exit::Done), "it was stopped", "stays stopped"])
        .row([
            &code(Exit::Error),
            "something failed: the store, the port, the system; a restart may help",
            "restarts it, up to five starts in an hour",
        ])
        .row([
            &code(Exit::Usage),
            "a restart cannot help: a mistake in the command line or configuration; data of \
             another node, cluster or newer schema; missing permission; a removed member; a copy \
             of a node that runs elsewhere",
            "does not restart it",
        ])
        .row([&signals, "ended at once by a second SIGINT or SIGTERM", "does not restart it"])
}
