//! Counts the outcomes of the lines, and keeps them so that an interrupted load can continue.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::lines::Start;

/// Reasons that are counted apart; the rest goes under [`OTHER`].
const MAX_REASONS: usize = 50;
const OTHER: &str = "other reasons";

/// The outcome of one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Acknowledged.
    Loaded,
    /// Not written.
    Refused {
        /// Why.
        reason: String,
        /// Too few replicas, rather than a fault of the line.
        no_quorum: bool,
    },
    /// The outcome of its put is unknown.
    Unknown,
}

/// Counts over the first `lines` lines, all of which are settled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Counts {
    /// Lines settled.
    pub(crate) lines: u64,
    /// A digest of these lines.
    pub(crate) check: u64,
    /// Acknowledged lines.
    pub(crate) loaded: u64,
    /// Lines with an unknown outcome.
    pub(crate) unknown: u64,
    /// Refused lines because replicas were missing; they are among `refused` too.
    pub(crate) no_quorum: u64,
    /// Refused lines by reason.
    pub(crate) refused: BTreeMap<String, u64>,
}

impl Counts {
    /// Where a run that goes on from here begins.
    pub(crate) fn start(&self) -> Start {
        Start { lines: self.lines, check: self.check }
    }

    /// Refused lines in all.
    pub(crate) fn all_refused(&self) -> u64 {
        self.refused.values().sum()
    }

    /// Where the counts of a load of `input` are kept between runs.
    pub(crate) fn path(input: &Path) -> PathBuf {
        let mut name = input.as_os_str().to_owned();
        name.push(".pixii-load");
        name.into()
    }

    /// The counts that an earlier run left, if one did.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>, String> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("{}: {error}", path.display())),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            format!(
                "{} is not what an interrupted load leaves ({error}); remove it to load from the \
                 start",
                path.display()
            )
        })
    }

    /// Keeps the counts at `path`: there is a whole file there at any time, the old one or the new
    /// one.
    pub(crate) fn save(&self, path: &Path) -> Result<(), String> {
        let save = || -> io::Result<()> {
            let mut name = path.as_os_str().to_owned();
            name.push(".tmp");
            let mut file = File::create(&name)?;
            file.write_all(&serde_json::to_vec(self)?)?;
            file.sync_all()?;
            fs::rename(&name, path)?;
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
        };
        save().map_err(|error| format!("{}: {error}", path.display()))
    }
}

/// The counts, and the lines that were settled ahead of an unsettled one.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    counts: Counts,
    ahead: BTreeMap<u64, (u64, Fate)>,
}

impl Ledger {
    /// A ledger that goes on from these counts.
    pub(crate) fn new(counts: Counts) -> Self {
        Ledger { counts, ahead: BTreeMap::new() }
    }

    /// The counts over the settled beginning of the file.
    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// How many lines wait for an earlier one to be settled.
    pub(crate) fn ahead(&self) -> usize {
        self.ahead.len()
    }

    /// Enters the fate of a line, given its number and check.
    pub(crate) fn settle(&mut self, number: u64, check: u64, fate: Fate) {
        self.ahead.insert(number, (check, fate));
        while let Some((check, fate)) = self.ahead.remove(&(self.counts.lines + 1)) {
            let counts = &mut self.counts;
            counts.lines += 1;
            counts.check = check;
            match fate {
                Fate::Loaded => counts.loaded += 1,
                Fate::Unknown => counts.unknown += 1,
                Fate::Refused { reason, no_quorum } => {
                    counts.no_quorum += u64::from(no_quorum);
                    let full = counts.refused.len() >= MAX_REASONS;
                    let known = counts.refused.contains_key(&reason);
                    let reason = if full && !known { OTHER.into() } else { reason };
                    *counts.refused.entry(reason).or_default() += 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_settled_beginning_counts_and_survives() {
        let mut ledger = Ledger::default();
        let refused = Fate::Refused { reason: "busy".into(), no_quorum: false };
        ledger.settle(2, 22, refused);
        ledger.settle(4, 44, Fate::Unknown);
        assert_eq!((ledger.counts().lines, ledger.ahead()), (0, 2));
        ledger.settle(1, 11, Fate::Loaded);
        assert_eq!((ledger.counts().lines, ledger.counts().check, ledger.ahead()), (2, 22, 1));
        assert_eq!((ledger.counts().loaded, ledger.counts().all_refused()), (1, 1));
        assert_eq!(ledger.counts().unknown, 0);

        let dir = tempfile::tempdir().unwrap();
        let path = Counts::path(&dir.path().join("data.tsv"));
        assert_eq!(Counts::read(&path).unwrap(), None);
        ledger.counts().save(&path).unwrap();
        assert_eq!(Counts::read(&path).unwrap().unwrap(), *ledger.counts());
        fs::write(&path, "{").unwrap();
        assert!(
            Counts::read(&path).unwrap_err().contains("is not what an interrupted load leaves")
        );
    }

    #[test]
    fn reasons_are_bounded() {
        let mut ledger = Ledger::default();
        for number in 1..=200 {
            let reason = format!("reason {number}");
            ledger.settle(number, 0, Fate::Refused { reason, no_quorum: true });
        }
        assert_eq!(ledger.counts().refused.len(), MAX_REASONS + 1);
        assert_eq!((ledger.counts().all_refused(), ledger.counts().no_quorum), (200, 200));
    }
}
