//! A folder of results: samples and tables as CSV, figures, and a page that shows all of them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use pixii_kit::text::{count, html};

use super::driver::Measured;
use crate::plot::Figure;

/// The file that marks a run that did not come to its end.
const INCOMPLETE: &str = "INCOMPLETE";

/// A table that is written as CSV, row by row, so that it is there up to where a run ended.
pub(crate) struct Table {
    name: String,
    file: File,
    head: Vec<String>,
    rows: Vec<Vec<String>>,
    /// What has gone wrong with the file.
    fault: Option<String>,
}

impl Table {
    /// Adds a row.
    pub(crate) fn row(&mut self, cells: &[String]) {
        self.rows.push(cells.to_vec());
        self.line(&cells.join(","));
    }

    fn line(&mut self, line: &str) {
        if let Err(error) = writeln!(self.file, "{line}") {
            self.fault.get_or_insert(format!("{}.csv: {error}", self.name));
        }
    }
}

/// Results on their way to a folder.
pub(crate) struct Report {
    dir: PathBuf,
    /// Everything random follows from it.
    pub(crate) seed: u64,
    /// Requests of each cell.
    pub(crate) samples: u64,
    /// Clients at a time.
    pub(crate) clients: u64,
    /// What was not as it should be, a sentence each.
    pub(crate) faults: Vec<String>,
    /// What a caption says of the run as a whole.
    run: String,
    /// True while what is reported is of real daemons.
    is_real: bool,
    figures: Vec<(String, String)>,
    notes: Vec<(String, String)>,
    tables: Vec<Table>,
    /// Experiments whose samples are being written.
    sampled: BTreeSet<String>,
}

impl Report {
    /// Makes the folder, marked as incomplete until [`Report::finish`].
    pub(crate) fn begin(dir: &Path, seed: u64, clients: u64) -> Result<Self, String> {
        let fault = |error: std::io::Error| format!("{}: {error}", dir.display());
        fs::create_dir_all(dir).map_err(fault)?;
        fs::write(dir.join(INCOMPLETE), "the run has not come to its end\n").map_err(fault)?;
        let (version, commit) = (env!("CARGO_PKG_VERSION"), pixii::COMMIT);
        let commit = commit.unwrap_or("unknown");
        let run = format!("seed {seed}, pixii {version}, commit {commit}.");
        let (figures, notes, tables, faults) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (dir, sampled) = (dir.to_path_buf(), BTreeSet::new());
        let (samples, is_real) = (0, false);
        Ok(Report {
            dir,
            seed,
            samples,
            clients,
            faults,
            run,
            is_real,
            figures,
            notes,
            tables,
            sampled,
        })
    }

    /// From now on it is notified of so many samples of each point, of real daemons or in virtual
    /// time.
    pub(crate) fn turn(&mut self, samples: u64, is_real: bool) {
        (self.samples, self.is_real) = (samples, is_real);
    }

    /// What files of this experiment are called.
    fn file(&self, name: &str) -> String {
        format!("{name}{}", if self.is_real { "-real" } else { "" })
    }

    /// What is reported of now.
    pub(crate) fn on(&self) -> &'static str {
        if self.is_real { "real daemons" } else { "virtual time" }
    }

    /// Notes that something was not as it should be.
    pub(crate) fn fault(&mut self, what: &str) {
        self.faults.push(format!("{what} ({})", self.on()));
    }

    /// Notes what failed in a cell.
    pub(crate) fn failures(&mut self, place: &str, measured: &Measured) {
        if let Some(why) = &measured.why {
            let failed = measured.failed;
            self.fault(&format!("{place}: {failed} requests failed, the first: {why}"));
        }
    }

    /// Writes the samples of a cell, in milliseconds, behind those of the cells before: `head`
    /// names what notifies them apart, `cell` is that of these.
    pub(crate) fn samples(&mut self, name: &str, head: &str, cell: &str, times: &[f64]) {
        let name = self.file(name);
        let path = self.dir.join(format!("{name}-samples.csv"));
        // What an earlier run left in the folder is not this one's.
        let is_first = self.sampled.insert(name);
        let mut text = if is_first { format!("{head},ms\n") } else { String::new() };
        for ms in times {
            let _ = writeln!(text, "{cell},{ms:.3}");
        }
        let file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(is_first)
            .append(!is_first)
            .open(&path);
        if let Err(error) = file.and_then(|mut file| file.write_all(text.as_bytes())) {
            self.faults.push(format!("{}: {error}", path.display()));
        }
    }

    /// Writes a figure, with what the run as a whole is in its caption.
    pub(crate) fn figure(&mut self, figure: Figure) -> Result<(), String> {
        let (samples, on) = (count(self.samples, "sample"), self.on());
        let caption = format!("{} {samples} a point, {on}, {}", figure.caption, self.run);
        let (name, title) = (self.file(&figure.name), format!("{}, {on}", figure.title));
        self.figures.push((name.clone(), title.clone()));
        Figure { name, title, caption, ..figure }.write(&self.dir)
    }

    /// A sentence on how an experiment differs from the study.
    pub(crate) fn note(&mut self, name: &str, text: &str) {
        self.notes.push((self.file(name), text.into()));
    }

    /// Begins a table with these columns.
    pub(crate) fn table(&self, name: &str, head: &[&str]) -> Result<Table, String> {
        let name = self.file(name);
        let path = self.dir.join(format!("{name}.csv"));
        let file = File::create(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
        let line = head.join(",");
        let mut table = Table { name, file, head, rows: Vec::new(), fault: None };
        table.line(&line);
        Ok(table)
    }

    /// Shows a table that has come to its end.
    pub(crate) fn show(&mut self, table: Table) -> Result<(), String> {
        let fault = table.fault.clone();
        self.tables.push(table);
        fault.map_or(Ok(()), Err)
    }

    /// Writes the page, and takes the mark away.
    pub(crate) fn finish(&self) -> Result<(), String> {
        let path = self.dir.join("index.html");
        let fault = |error: std::io::Error| format!("{}: {error}", path.display());
        fs::write(&path, self.page()).map_err(fault)?;
        fs::remove_file(self.dir.join(INCOMPLETE)).map_err(fault)
    }

    fn page(&self) -> String {
        let mut page = String::from(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Pixii's \
             laboratory</title>\n\
             <style>body{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}img{max-width:100%}\
             table{border-collapse:collapse;font-size:13px}td,th{border:1px solid #ccc;padding:2px 8px;text-align:right}\
             details{margin:1em 0 3em}</style>\n<h1>Pixii's laboratory</h1>\n",
        );
        let _ = writeln!(page, "<p>{}</p>", html(&self.run));
        for fault in &self.faults {
            let _ = writeln!(page, "<p><b>Not as it should be:</b> {}</p>", html(fault));
        }
        for (name, title) in &self.figures {
            let _ = writeln!(page, "<h2>{}</h2>", html(title));
            let _ = writeln!(page, "<img src=\"{name}.svg\" alt=\"{}\">", html(title));
            for (_, note) in self.notes.iter().filter(|(of, _)| of == name) {
                let _ = writeln!(page, "<p>{}</p>", html(note));
            }
            for table in self.tables.iter().filter(|table| table.name == *name) {
                page += &table.page();
            }
        }
        page + "</html>\n"
    }
}

impl Table {
    fn page(&self) -> String {
        let cells = |tag: &str, row: &[String]| {
            let cells: String =
                row.iter().map(|cell| format!("<{tag}>{}</{tag}>", html(cell))).collect();
            format!("<tr>{cells}</tr>\n")
        };
        let rows: String = self.rows.iter().map(|row| cells("td", row)).collect();
        let head = cells("th", &self.head);
        format!(
            "<details><summary>{}.csv</summary><table>{head}{rows}</table></details>\n",
            self.name
        )
    }
}
