//! `pixii dump`: every value of the cluster in the order of the keys, in bounded memory.

use std::io::{self, BufWriter, StdoutLock, Write};

use clap::Args;
use pixii_client::Found;
use pixii_core::types::Key;
use pixii_kit::arguments::Shared;
use pixii_kit::outcome::{CommandError, CommandResult, Exit, block_on, complain};
use pixii_kit::signals::Interrupt;
use pixii_kit::text;

use super::get;
use super::scan::{PartArguments, ReadArguments, verdict};

/// Print every key and value, sorted by key
#[derive(Args)]
#[command(after_help = "\
A line is a key, a tab and a value; in both, a backslash is written \\\\, a tab \\t, a \
    newline \\n and a \
carriage return \\r, as `pixii load` reads them. A key with siblings has a line for each, with a \
    third \
column such as `sibling 1/2`. Deleted keys are left out.

A dump is no backup: it is not of one moment, it has no contexts, and `pixii load` refuses the \
lines of siblings. Where there are any, everything is printed, standard error says how many, and \
the exit code is 6; --keys and --json print none of these lines and end with 0.

Where too few replicas can answer, all other partitions are printed; those that are missing are \
    named at the end, and \
the exit code is 4. Any other failure ends the dump, and so does \
Ctrl-C: the number of lines that are printed and whole is said.

Examples:
  pixii dump > values.tsv
  pixii dump --prefix user/ > users.tsv
  pixii dump -r 3                    every replica must answer
  pixii dump --json                  an object per key, with siblings and context")]
pub(crate) struct Dump {
    #[command(flatten)]
    part: PartArguments,
    #[command(flatten)]
    reading: ReadArguments,
    /// Print keys only, as `pixii keys` does
    #[arg(long)]
    keys: bool,
    /// Print backslashes, tabs and newlines as they are
    #[arg(long)]
    raw: bool,
}

impl Dump {
    /// Reads and prints everything.
    pub(crate) fn run(self, shared: &Shared) -> CommandResult {
        let form = Form { keys: self.keys, raw: self.raw, json: shared.json() };
        print(&self.part, &self.reading, None, form, shared)
    }
}

/// How keys and values are printed.
#[derive(Clone, Copy)]
pub(crate) struct Form {
    /// True for keys only.
    pub(crate) keys: bool,
    /// True if nothing is escaped.
    pub(crate) raw: bool,
    /// True for an object for each key.
    pub(crate) json: bool,
}

/// Reads and prints these keys, `limit` at most.
pub(crate) fn print(
    part: &PartArguments,
    reading: &ReadArguments,
    limit: Option<u64>,
    form: Form,
    shared: &Shared,
) -> CommandResult {
    let out = BufWriter::new(io::stdout().lock());
    let mut printer = Printer { out, lines: 0, split: Split::default(), form };
    let interrupt = Interrupt::listen(true)?;
    let outcome = block_on(async {
        let work = async {
            let client = shared.client().await?;
            let mut scan = part.scan(&client, reading.r, reading.timeout)?.limit(limit);
            while let Some((key, found)) = scan.next().await? {
                printer.print(&key, &found)?;
            }
            verdict(scan.missing())
        };
        // It ends between two lines, never within one.
        tokio::select! {
            biased;
            outcome = work => outcome,
            () = interrupt.wait() => Err(CommandError::error("interrupted")),
        }
    });
    printer.out.flush()?;
    let lines = text::count(printer.lines, "line");
    let outcome = outcome.map_err(|error| match error.message.as_str() {
        "" => error,
        _ if error.exit == Exit::Usage => error,
        why => CommandError { message: format!("{why}; {lines} printed"), ..error },
    });
    match printer.split.sentence() {
        Some(sentence) => {
            complain(&sentence);
            outcome.map(|()| Exit::Siblings)
        }
        None => outcome.map(|()| Exit::Done),
    }
}

/// Printed keys that have siblings, and their lines.
#[derive(Default)]
struct Split {
    keys: u64,
    lines: u64,
}

impl Split {
    /// Why `pixii load` does not take the whole dump; `None` if it does.
    fn sentence(&self) -> Option<String> {
        let (keys, lines) = (text::count(self.keys, "key"), text::count(self.lines, "line"));
        let have = if self.keys == 1 { "has" } else { "have" };
        (self.keys > 0).then(|| {
            format!(
                "{keys} {have} siblings, in {lines} of this dump that `pixii load` refuses: put \
                 one value of each with the context of a read (`pixii get KEY --all`), and dump \
                 again"
            )
        })
    }
}

fn key_json(key: &Key) -> serde_json::Value {
    serde_json::json!({ "key": text::json_bytes(key.as_bytes()) })
}

/// Writes the lines of a dump to standard output.
struct Printer<'a> {
    out: BufWriter<StdoutLock<'a>>,
    lines: u64,
    split: Split,
    form: Form,
}

impl Printer<'_> {
    fn print(&mut self, key: &Key, found: &Found) -> Result<(), CommandError> {
        let count = found.values.len();
        if self.form.json && self.form.keys {
            return self.line(format!("{}", key_json(key)).as_bytes());
        }
        if self.form.json {
            return self.line(format!("{}", get::found_json(key, found)).as_bytes());
        }
        let mut name = Vec::new();
        self.column(key.as_bytes(), &mut name);
        if self.form.keys {
            return self.line(&name);
        }
        if count > 1 {
            self.split.keys += 1;
            self.split.lines += count as u64;
        }
        for (at, value) in found.values.iter().enumerate() {
            let mut line = name.clone();
            line.push(b'\t');
            self.column(value, &mut line);
            if count > 1 {
                line.extend(format!("\t{}{}/{count}", text::SIBLING, at + 1).bytes());
            }
            self.line(&line)?;
        }
        Ok(())
    }

    fn column(&self, bytes: &[u8], line: &mut Vec<u8>) {
        match self.form.raw {
            true => line.extend(bytes),
            false => text::escape(bytes, line),
        }
    }

    fn line(&mut self, line: &[u8]) -> Result<(), CommandError> {
        self.out.write_all(line)?;
        self.out.write_all(b"\n")?;
        self.lines += 1;
        Ok(())
    }
}
