//! The ledger: what was asked of a cluster and what it answered, kept outside of it.
//!
//! A write is noted and synced before it is sent, and its outcome is noted after the answer, so
//! that the ledger never knows less than the cluster owes. One append-only file of checksummed
//! frames; what a crash leaves half written at its end is cut off when the file is opened again.

mod history;
mod judge;
pub(crate) mod value;
mod verify;

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use bincode::{BorrowDecode, Encode};
use bytes::{Bytes, BytesMut};
use pixii_core::causal::Dot;
use pixii_core::types::{Key, WriteId};
use pixii_core::wire;
use tokio::sync::{mpsc, oneshot};

pub(crate) use history::{Counts, History};
pub(crate) use judge::{Finding, Violation};
pub(crate) use verify::{Verdict, verify, verify_recent};

/// Most entries waiting for the disk; clients wait beyond that.
const MAX_QUEUED: usize = 4_096;

/// What a write does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub(crate) enum Action {
    /// Writes a value of this many bytes, made by `value_of`.
    Put {
        /// Its size.
        bytes: u32,
    },
    /// Deletes what its context covers.
    Delete,
}

/// A write that is about to be sent.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub(crate) struct Issued {
    /// Its id; a delete has one in the ledger only.
    pub(crate) write: WriteId,
    /// The key.
    pub(crate) key: Key,
    /// What it does.
    pub(crate) act: Action,
    /// Writes that its context covers; what those cover themselves need not be listed.
    pub(crate) covers: Vec<WriteId>,
}

/// What the cluster answered.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub(crate) enum Outcome {
    /// Done; a put has a dot.
    Acknowledged(Option<Dot>),
    /// Not done, and why.
    Refused(String),
    /// Perhaps done, and why that is not known.
    Unknown(String),
    /// Done, and sent to another node, too, which may take it for a write of its own later.
    Repeated(Option<Dot>),
}

/// An entry of the file.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
enum Entry {
    Issued { issued: Issued, at_ms: u64 },
    Settled { write: WriteId, outcome: Outcome, at_ms: u64 },
}

/// What the thread that owns the file is asked to do; whoever waits is reported when it is synced.
enum Order {
    Append(Bytes),
    AppendAndSync(Bytes, oneshot::Sender<Result<(), String>>),
}

/// An open ledger; clones are the same one. The file is synced when the last clone goes.
#[derive(Clone)]
pub(crate) struct Ledger(Arc<Inner>);

struct Inner {
    orders: mpsc::Sender<Order>,
    history: Mutex<History>,
}

impl Ledger {
    /// Opens the ledger at `path`, or makes it. The error is one sentence.
    pub(crate) fn open(path: &Path) -> Result<Self, String> {
        let fault = |error: std::io::Error| format!("the ledger {}: {error}", path.display());
        let file =
            OpenOptions::new().read(true).append(true).create(true).open(path).map_err(fault)?;
        let mut history = History::new(path);
        let sound = history.catch_up()?;
        file.set_len(sound).and_then(|()| file.sync_all()).map_err(fault)?;
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            File::open(parent).and_then(|dir| dir.sync_all()).map_err(fault)?;
        }
        let (orders, queue) = mpsc::channel(MAX_QUEUED);
        let path = path.to_path_buf();
        thread::Builder::new()
            .name("ledger".into())
            .spawn(move || write(file, &path, queue))
            .map_err(|error| format!("no thread for the ledger: {error}"))?;
        Ok(Ledger(Arc::new(Inner { orders, history: Mutex::new(history) })))
    }

    /// Notes a write; returns when the note is synced, and only then may the write be sent.
    pub(crate) async fn issue(&self, issued: Issued) -> Result<(), String> {
        let entry = wire::frame(&Entry::Issued { issued, at_ms: now_ms() });
        self.synced(entry).await
    }

    /// Notes what became of a write. It counts once it is synced, with the next note that is waited
    /// for or with [`Ledger::sync`]; lost before that, the outcome is unknown.
    pub(crate) async fn settle(&self, write: WriteId, outcome: Outcome) -> Result<(), String> {
        let entry = wire::frame(&Entry::Settled { write, outcome, at_ms: now_ms() });
        self.0.orders.send(Order::Append(entry)).await.map_err(|_| ended())
    }

    /// Returns when all that was noted is synced.
    pub(crate) async fn sync(&self) -> Result<(), String> {
        self.synced(Bytes::new()).await
    }

    async fn synced(&self, entry: Bytes) -> Result<(), String> {
        let (done, reported) = oneshot::channel();
        let order = Order::AppendAndSync(entry, done);
        self.0.orders.send(order).await.map_err(|_| ended())?;
        reported.await.map_err(|_| ended())?
    }

    /// Syncs the ledger, reads what is new in the file, and shows `look` all of it.
    pub(crate) async fn read<T>(&self, look: impl FnOnce(&mut History) -> T) -> Result<T, String> {
        self.sync().await?;
        let mut history = self.0.history.lock().unwrap_or_else(PoisonError::into_inner);
        history.catch_up()?;
        Ok(look(&mut history))
    }

    /// Shows `look` what was read last.
    fn look<T>(&self, look: impl FnOnce(&History) -> T) -> T {
        look(&self.0.history.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn ended() -> String {
    "the ledger has failed before".into()
}

fn now_ms() -> u64 {
    // A clock before 1970 is reported as 1970.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Owns the file: everything queued is one write, and one sync if anyone waits for it. The first
/// error is the last thing that happens.
fn write(mut file: File, path: &Path, mut queue: mpsc::Receiver<Order>) {
    while let Some(first) = queue.blocking_recv() {
        let mut bytes = BytesMut::new();
        let mut waiting = Vec::new();
        let mut next = Some(first);
        while let Some(order) = next {
            match order {
                Order::Append(entry) => bytes.extend_from_slice(&entry),
                Order::AppendAndSync(entry, done) => {
                    bytes.extend_from_slice(&entry);
                    waiting.push(done);
                }
            }
            next = if waiting.len() < MAX_QUEUED { queue.try_recv().ok() } else { None };
        }
        let mut written = file.write_all(&bytes);
        if !waiting.is_empty() {
            written = written.and_then(|()| file.sync_data());
        }
        let reported = written.map_err(|error| format!("the ledger {}: {error}", path.display()));
        for done in waiting {
            // Whoever gave up waiting does not send its write.
            let _ = done.send(reported.clone());
        }
        if reported.is_err() {
            return;
        }
    }
    // Nobody is left to be reported; what was waited for is synced.
    let _ = file.sync_data();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issued(write: u128, key: &str, covers: &[u128]) -> Issued {
        let key = Key::new(key.as_bytes().to_vec()).unwrap();
        let covers = covers.iter().map(|id| WriteId(*id)).collect();
        Issued { write: WriteId(write), key, act: Action::Put { bytes: 16 }, covers }
    }

    fn counts(history: &mut History) -> Counts {
        history.counts()
    }

    #[tokio::test]
    async fn what_is_noted_is_read_back_and_a_torn_tail_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        let ledger = Ledger::open(&path).unwrap();
        for (write, outcome) in [
            (1, Some(Outcome::Acknowledged(None))),
            (2, Some(Outcome::Refused("no".into()))),
            (3, Some(Outcome::Unknown("late".into()))),
            (4, None),
        ] {
            ledger.issue(issued(write, "k", &[])).await.unwrap();
            if let Some(outcome) = outcome {
                ledger.settle(WriteId(write), outcome).await.unwrap();
            }
        }
        let expected = Counts { issued: 4, acknowledged: 1, refused: 1, unknown: 2, keys: 1 };
        assert_eq!(ledger.read(counts).await.unwrap(), expected);
        drop(ledger);
        let whole = std::fs::read(&path).unwrap();
        for cut in 1..40 {
            let torn = dir.path().join(format!("torn{cut}"));
            std::fs::write(&torn, &whole[..whole.len() - cut]).unwrap();
            let again = Ledger::open(&torn).unwrap();
            assert_eq!(again.read(counts).await.unwrap().issued, 3, "{cut}");
            again.issue(issued(5, "other", &[])).await.unwrap();
            let expected = Counts { issued: 4, acknowledged: 1, refused: 1, unknown: 2, keys: 2 };
            assert_eq!(again.read(counts).await.unwrap(), expected, "{cut}");
        }
        let mut damaged = whole.clone();
        damaged[20] ^= 1;
        std::fs::write(&path, damaged).unwrap();
        let why = Ledger::open(&path).err().unwrap();
        assert!(why.contains("is damaged at byte 0"), "{why}");
    }

    #[tokio::test]
    async fn many_clients_share_a_sync() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&dir.path().join("ledger")).unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        for write in 0..500 {
            let ledger = ledger.clone();
            tasks.spawn(async move { ledger.issue(issued(write, "k", &[])).await });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap().unwrap();
        }
        assert_eq!(ledger.read(counts).await.unwrap().unknown, 500);
    }
}
