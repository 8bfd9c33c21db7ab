//! `pixii load`: a file of lines into the cluster, many at a time.

pub(crate) mod ledger;
pub(crate) mod lines;
mod pour;
pub(crate) mod write;

use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use pixii_kit::arguments::{Shared, Strictness, deadline};
use pixii_kit::outcome::{CommandError, CommandResult, Exit, block_on, complain, emit, emit_json};
use pixii_kit::signals::Interrupt;
use pixii_kit::text::count;
use serde_json::json;

use ledger::Counts;
pub(crate) use pour::{Pour, Stop};
use write::Plan;

/// Write a file of key<TAB>value lines
#[derive(Args)]
#[command(after_help = "\
A line is a key, one tab, and a value; in both, a backslash is written \\\\, a tab \\t, a newline \
\\n and a carriage return \\r. Each value takes the place of the one that is there, so that a file \
can be loaded twice; a line whose key has several values, siblings, is refused. --sibling replaces \
nothing, which is faster and leaves siblings beside what is there; the last line of the report \
counts them. A byte order mark at the beginning of the file is left out of the first key.

A put with an unknown outcome is sent again with the same write id until its deadline, for 10 s at \
    most. Exit code 0 means \
that every line was acknowledged; 4 that lines were refused because replicas were missing; 5 that \
    the outcome of \
some is unknown; 1 anything else.

Examples:
  pixii load data.tsv
  zcat data.tsv.gz | pixii load -
  pixii load data.tsv -w 3 --failed rest.tsv     keep what was refused; later: pixii load rest.tsv
  pixii load data.tsv --resume                   go on where an interrupted run stopped")]
pub(crate) struct Load {
    /// The file; `-` is standard input
    file: PathBuf,
    /// Owners that must answer before a line is written [default: the cluster's]
    #[arg(short, conflicts_with = "sibling")]
    r: Option<u8>,
    /// Replicas that must hold each value [default: the cluster's]
    #[arg(short)]
    w: Option<u8>,
    #[command(flatten)]
    strictness: Strictness,
    /// Deadline for each line, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 5_000, value_parser = deadline())]
    timeout: u32,
    /// Lines in progress at a time
    #[arg(long, value_name = "LINES", default_value_t = 64,
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    in_flight: u16,
    /// Replace nothing: values become siblings of what is there
    #[arg(long)]
    sibling: bool,
    /// Take backslashes literally
    #[arg(long)]
    raw: bool,
    /// Collect refused and unknown lines here; they can be loaded again
    #[arg(long, value_name = "FILE")]
    failed: Option<PathBuf>,
    /// Keep FILE.pixii-load up to date, and go on from it if it is there
    #[arg(long)]
    resume: bool,
}

impl Load {
    /// Loads.
    pub(crate) fn run(self, shared: &Shared) -> CommandResult {
        let from_stdin = self.file.as_os_str() == "-";
        if from_stdin && self.resume {
            return Err(CommandError::usage("--resume needs a file, not standard input"));
        }
        let input: Box<dyn Read + Send> = if from_stdin {
            Box::new(io::stdin())
        } else {
            let file = File::open(&self.file).map_err(|error| fault(&self.file, &error))?;
            Box::new(file)
        };
        let kept = (!from_stdin).then(|| Counts::path(&self.file));
        let before = match &kept {
            Some(path) if self.resume => Counts::read(path).map_err(CommandError::error)?,
            _ => None,
        };
        let goes_on = before.is_some();
        let begun = before.unwrap_or_default();
        let failed =
            self.failed.as_deref().map(|path| self.open_failed(path, goes_on)).transpose()?;
        let w = self.strictness.quorum(self.w);
        let plan = Plan { r: self.r, w, timeout_ms: self.timeout, sibling: self.sibling };
        let interrupt = Interrupt::listen(true)?;
        let started = Instant::now();
        let pour = block_on(async {
            let client = shared.client().await?;
            let lines = lines::read(input, begun.start(), self.raw);
            let mut pour = Pour::new(client, plan, self.in_flight.into(), begun.clone());
            pour.failed = self.failed.clone().zip(failed);
            pour.kept = kept.clone().filter(|_| self.resume);
            pour.bar = bar(&self.file, from_stdin, shared.json());
            pour.run(lines, &interrupt).await;
            Ok(pour)
        })?;
        self.report(&pour, &begun, started.elapsed(), kept.as_deref(), shared.json())
    }

    fn open_failed(&self, path: &Path, goes_on: bool) -> Result<File, CommandError> {
        let same = |a: &Path, b: &Path| {
            fs::canonicalize(a).is_ok_and(|a| fs::canonicalize(b).is_ok_and(|b| a == b))
        };
        if same(path, &self.file) {
            return Err(CommandError::usage("--failed names the file that is to be loaded"));
        }
        let mut options = OpenOptions::new();
        if goes_on {
            options.append(true);
        } else {
            options.write(true).truncate(true);
        }
        options.create(true).open(path).map_err(|error| fault(path, &error))
    }

    fn report(
        &self,
        pour: &Pour,
        begun: &Counts,
        spent: Duration,
        kept: Option<&Path>,
        as_json: bool,
    ) -> CommandResult {
        let counts = pour.counts();
        let seconds = spent.as_secs_f64();
        let rate = (counts.lines - begun.lines) as f64 / seconds.max(0.001);
        if as_json {
            emit_json(&json!({
                "lines": counts.lines,
                "loaded": counts.loaded,
                "refused": counts.all_refused(),
                "refused_by_reason": counts.refused,
                "unknown": counts.unknown,
                "siblings": pour.siblings,
                "seconds": (seconds * 1_000.0).round() / 1_000.0,
                "rate": rate.round(),
                "complete": pour.stop.is_none(),
            }))?;
        } else if counts.lines > 0 || !matches!(pour.stop, Some(Stop::Input(_))) {
            let mut text = as_text(counts, seconds, rate);
            if pour.siblings > 0 {
                let lines = count(pour.siblings, "line");
                text += &format!(
                    "{lines} became siblings, beside other values of the same key: `pixii get \
                     KEY` shows \
                     them, and a put or delete with its context settles them\n"
                );
            }
            emit(text)?;
        }
        let lost = counts.all_refused() + counts.unknown;
        if let (Some(path), true) = (&self.failed, lost > 0) {
            let these = if lost == 1 { "that line is" } else { "those lines are" };
            complain(&format!("{these} in {}", path.display()));
        }
        match (&pour.stop, kept) {
            (None, kept) => {
                if let Some(path) = kept.filter(|path| self.resume && path.exists()) {
                    fs::remove_file(path).map_err(|error| fault(path, &error))?;
                }
                Ok(exit(counts))
            }
            (Some(stop), kept) => Err(self.stopped(stop, begun, counts, kept)),
        }
    }

    /// The sentence for a run that did not come to its end. What was done is kept, so that another
    /// can go on.
    fn stopped(
        &self,
        stop: &Stop,
        begun: &Counts,
        counts: &Counts,
        kept: Option<&Path>,
    ) -> CommandError {
        let why = match stop {
            Stop::Interrupted => "interrupted".to_string(),
            Stop::Input(why) => format!("{}: {why}", self.file.display()),
            Stop::Fault(why) => why.clone(),
        };
        if counts.lines == 0 {
            return CommandError::error(why);
        }
        let nothing_new = counts.lines == begun.lines;
        let advice = match (stop, kept) {
            (Stop::Input(_), Some(path)) if nothing_new && begun.lines > 0 => {
                return CommandError::error(format!(
                    "{why}; remove {} to start \
                    over",
                    path.display()
                ));
            }
            (_, Some(path)) if !nothing_new => match counts.save(path) {
                Ok(()) => format!("; go on with `pixii load {} --resume`", self.file.display()),
                Err(error) => format!("; that could not be kept: {error}"),
            },
            _ => String::new(),
        };
        let settled = count(counts.lines, "line");
        CommandError::error(format!("{why}; the first {settled} of the file are settled{advice}"))
    }
}

fn fault(path: &Path, error: &io::Error) -> CommandError {
    CommandError::error(format!("{}: {error}", path.display()))
}

fn exit(counts: &Counts) -> Exit {
    match (counts.unknown, counts.no_quorum, counts.all_refused()) {
        (0, 0, 0) => Exit::Done,
        (0, 0, _) => Exit::Error,
        (0, _, _) => Exit::NoQuorum,
        _ => Exit::Unknown,
    }
}

fn as_text(counts: &Counts, seconds: f64, rate: f64) -> String {
    let mut out = format!(
        "loaded {} of {} in {seconds:.1} s, {rate:.0} lines/s\n",
        counts.loaded,
        count(counts.lines, "line")
    );
    for (reason, number) in &counts.refused {
        out += &format!("refused {number}: {reason}\n");
    }
    if counts.unknown > 0 {
        out += &format!("unknown {}: they may or may not be written\n", counts.unknown);
    }
    out
}

fn bar(file: &Path, from_stdin: bool, as_json: bool) -> Option<ProgressBar> {
    if as_json || !io::stderr().is_terminal() {
        return None;
    }
    let length = fs::metadata(file).ok().filter(|_| !from_stdin).map(|data| data.len());
    let (bar, style) = match length {
        Some(length) => (ProgressBar::new(length), "{bar:30} {percent:>3} %  {msg}  {eta} left"),
        None => (ProgressBar::new_spinner(), "{spinner} {msg}"),
    };
    Some(match ProgressStyle::with_template(style) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    })
}
