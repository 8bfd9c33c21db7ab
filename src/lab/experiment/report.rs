//! A folder of results: samples and tables as CSV, figures, and a page that shows all of them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::driver::Measured;
use crate::cli::text::{count, html};
use crate::lab::plot::Figure;

/// The file that marks a run that did not come to its end.
const INCOMPLETE: &str = "INCOMPLETE";

/// A table that is written as CSV.
pub(crate) struct Table {
    name: String,
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub(crate) fn new(name: &str, head: &[&str]) -> Self {
        let head = head.iter().map(|cell| (*cell).to_owned()).collect();
        Table { name: name.into(), head, rows: Vec::new() }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: &[String]) {
        self.rows.push(cells.to_vec());
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
    figures: Vec<(String, String)>,
    notes: Vec<(String, String)>,
    tables: Vec<Table>,
    /// Experiments whose samples are being written.
    sampled: BTreeSet<String>,
}

impl Report {
    /// Makes the folder, marked as incomplete until [`Report::finish`]. `on` says what carries the run out.
    pub(crate) fn begin(dir: &Path, on: &str, seed: u64, clients: u64) -> Result<Self, String> {
        let fault = |error: std::io::Error| format!("{}: {error}", dir.display());
        fs::create_dir_all(dir).map_err(fault)?;
        fs::write(dir.join(INCOMPLETE), "the run has not come to its end\n").map_err(fault)?;
        let (version, commit) = (env!("CARGO_PKG_VERSION"), option_env!("PIXII_COMMIT"));
        let commit = commit.unwrap_or("unknown");
        let run = format!("{on}, seed {seed}, pixii {version}, commit {commit}.");
        let (figures, notes, tables, faults) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (dir, sampled) = (dir.to_path_buf(), BTreeSet::new());
        Ok(Report { dir, seed, samples: 0, clients, faults, run, figures, notes, tables, sampled })
    }

    /// Notes what failed in a cell.
    pub(crate) fn failures(&mut self, place: &str, measured: &Measured) {
        if let Some(why) = &measured.why {
            let failed = measured.failed;
            self.faults.push(format!("{place}: {failed} requests failed, the first: {why}"));
        }
    }

    /// Writes the samples of a cell, in milliseconds, behind those of the cells before: `head` names what tells them apart, `cell`
    /// is that of these.
    pub(crate) fn samples(&mut self, name: &str, head: &str, cell: &str, times: &[f64]) {
        let path = self.dir.join(format!("{name}-samples.csv"));
        // What an earlier run left in the folder is not this one's.
        let is_first = self.sampled.insert(name.to_owned());
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
        let samples = count(self.samples, "sample");
        let caption = format!("{} {samples} a point, {}", figure.caption, self.run);
        self.figures.push((figure.name.clone(), figure.title.clone()));
        Figure { caption, ..figure }.write(&self.dir)
    }

    /// A sentence on how an experiment differs from the study.
    pub(crate) fn note(&mut self, name: &str, text: &str) {
        self.notes.push((name.into(), text.into()));
    }

    /// Writes a table.
    pub(crate) fn table(&mut self, table: Table) -> Result<(), String> {
        let path = self.dir.join(format!("{}.csv", table.name));
        let mut text = table.head.join(",") + "\n";
        table.rows.iter().for_each(|row| text += &(row.join(",") + "\n"));
        self.tables.push(table);
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
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
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Pixii's laboratory</title>\n\
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
