//! A ledger read back: for each key, the writes and what became of them.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use bytes::BytesMut;
use pixii_core::types::{Key, WriteId};
use pixii_core::wire;

use super::{Action, Entry, Outcome};

/// Bytes read at a time.
const READ_BYTES: u64 = 1 << 20;
/// Longest entry: a key of 1,024 bytes, a reason, and the siblings that a write covers.
const MAX_ENTRY_BYTES: usize = 64 << 10;

/// What became of a write, as far as it was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The cluster owes it.
    Acknowledged,
    /// It must not have happened.
    Refused,
    /// It may have happened: unknown, or never answered.
    Unknown,
}

/// A write in the ledger.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    /// Its id.
    pub(crate) write: WriteId,
    /// What it does.
    pub(crate) act: Action,
    /// Writes that its context covers.
    pub(crate) covers: Box<[WriteId]>,
    /// What became of it.
    pub(crate) fate: Fate,
    /// True if it was sent to more than one node.
    pub(crate) repeated: bool,
    /// When it was issued, in milliseconds since 1970.
    pub(crate) issued_ms: u64,
    /// When it was answered; zero if it was not.
    pub(crate) settled_ms: u64,
}

/// How many writes a ledger has, by fate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// All of them.
    pub(crate) issued: u64,
    /// Acknowledged.
    pub(crate) acknowledged: u64,
    /// Refused.
    pub(crate) refused: u64,
    /// Unknown or not answered.
    pub(crate) unknown: u64,
    /// Keys written.
    pub(crate) keys: u64,
}

/// All writes of a ledger, by key.
pub(crate) struct History {
    path: PathBuf,
    offset: u64,
    numbers: HashMap<Key, usize>,
    keys: Vec<(Key, Vec<Write>)>,
    /// Writes without an outcome: where they are.
    open: HashMap<WriteId, (usize, usize)>,
    /// Keys with news since [`History::take_touched`].
    touched: HashSet<usize>,
}

impl History {
    /// Of the ledger at `path`; nothing is read yet.
    pub(super) fn new(path: &Path) -> Self {
        History {
            path: path.to_path_buf(),
            offset: 0,
            numbers: HashMap::new(),
            keys: Vec::new(),
            open: HashMap::new(),
            touched: HashSet::new(),
        }
    }

    /// Reads what the file has gained; gives the length of its sound part. A frame that is not
    /// complete is left for the next time.
    pub(super) fn catch_up(&mut self) -> Result<u64, String> {
        let path = self.path.clone();
        let fault = |what: String| format!("the ledger {}: {what}", path.display());
        let io = |error: std::io::Error| fault(error.to_string());
        let mut file = File::open(&self.path).map_err(io)?;
        file.seek(SeekFrom::Start(self.offset)).map_err(io)?;
        let mut bytes = BytesMut::new();
        loop {
            let mut piece = Vec::new();
            let read = file.by_ref().take(READ_BYTES).read_to_end(&mut piece).map_err(io)?;
            bytes.extend_from_slice(&piece);
            let mut before = bytes.len();
            let damage = |at: u64, why: String| fault(format!("it is damaged at byte {at}: {why}"));
            while let Some(frame) = wire::take_frame(&mut bytes, MAX_ENTRY_BYTES)
                .map_err(|error| damage(self.offset, error.to_string()))?
            {
                let entry = wire::decode(&frame);
                self.take(entry.map_err(|error| damage(self.offset, error.to_string()))?);
                self.offset += (before - bytes.len()) as u64;
                before = bytes.len();
            }
            if read == 0 {
                return Ok(self.offset);
            }
        }
    }

    fn take(&mut self, entry: Entry) {
        match entry {
            Entry::Issued { issued, at_ms } => {
                // The key borrows the whole frame: what is kept is a copy of its own.
                let number = self.numbers.get(&issued.key).copied().unwrap_or_else(|| {
                    let number = self.keys.len();
                    if let Ok(key) = Key::new(issued.key.as_bytes().to_vec()) {
                        self.numbers.insert(key.clone(), number);
                        self.keys.push((key, Vec::new()));
                    }
                    number
                });
                let Some((_, writes)) = self.keys.get_mut(number) else { return };
                self.open.insert(issued.write, (number, writes.len()));
                self.touched.insert(number);
                writes.push(Write {
                    write: issued.write,
                    act: issued.act,
                    covers: issued.covers.into(),
                    fate: Fate::Unknown,
                    repeated: false,
                    issued_ms: at_ms,
                    settled_ms: 0,
                });
            }
            Entry::Settled { write, outcome, at_ms } => {
                let Some((number, at)) = self.open.remove(&write) else { return };
                self.touched.insert(number);
                let place = self.keys.get_mut(number).and_then(|(_, writes)| writes.get_mut(at));
                let Some(place) = place else { return };
                place.settled_ms = at_ms;
                place.repeated = matches!(outcome, Outcome::Repeated(_));
                place.fate = match outcome {
                    Outcome::Acknowledged(_) | Outcome::Repeated(_) => Fate::Acknowledged,
                    Outcome::Refused(_) => Fate::Refused,
                    Outcome::Unknown(_) => Fate::Unknown,
                };
            }
        }
    }

    /// How many writes there are.
    pub(crate) fn counts(&self) -> Counts {
        let mut counts = Counts { keys: self.keys.len() as u64, ..Counts::default() };
        for write in self.keys.iter().flat_map(|(_, writes)| writes) {
            counts.issued += 1;
            match write.fate {
                Fate::Acknowledged => counts.acknowledged += 1,
                Fate::Refused => counts.refused += 1,
                Fate::Unknown => counts.unknown += 1,
            }
        }
        counts
    }

    /// Every key by number, or with `recent` those with news since the last call.
    pub(super) fn take_touched(&mut self, recent: bool) -> Vec<(usize, Key)> {
        let touched = std::mem::take(&mut self.touched);
        let numbered = self.keys.iter().enumerate();
        numbered
            .filter(|(number, _)| !recent || touched.contains(number))
            .map(|(number, (key, _))| (number, key.clone()))
            .collect()
    }

    /// The writes of a key, in the order of their issue.
    pub(super) fn writes(&self, number: usize) -> &[Write] {
        self.keys.get(number).map_or(&[], |(_, writes)| writes)
    }
}
