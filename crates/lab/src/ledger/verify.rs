//! Reads the keys of a cluster and judges them by the ledger.

use std::time::{Duration, Instant};

use bytes::Bytes;
use pixii_client::{Client, ClientError};
use pixii_core::types::Key;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::judge::{Finding, Violation, judge};
use super::{Counts, Ledger};

/// Number of reads in flight.
const READS: usize = 64;
/// Deadline of one read, in milliseconds.
const TIMEOUT_MS: u32 = 5_000;
/// How long reads of one key are repeated before it counts as unread.
const TIMEOUT: Duration = Duration::from_secs(30);
const RETRY_BACKOFF: Duration = Duration::from_millis(50);
/// Maximum number of findings that are kept one by one; further ones are only counted.
const MAX_FINDINGS: usize = 1_000;

/// The result of a verification.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdict {
    /// The counts of the whole ledger, also if only recent keys were read.
    pub(crate) counts: Counts,
    /// Number of keys that were to be read, unread ones included.
    pub(crate) keys: u64,
    /// Number of values that the reads returned.
    pub(crate) values: u64,
    /// Number of keys that could not be read within the time limit.
    pub(crate) unread: u64,
    /// The reason of the first of them; `None` if all keys were read.
    pub(crate) why_unread: Option<String>,
    /// Number of acknowledged writes that are gone.
    pub(crate) lost: u64,
    /// Number of all faults, lost writes included.
    pub(crate) faults: u64,
    /// The first faults, one by one.
    pub(crate) findings: Vec<Finding>,
    /// Values shown beside the ones that replaced them, because their writes had been sent to two
    /// nodes: no faults.
    pub(crate) repeated: u64,
}

impl Verdict {
    /// True if every key could be read and there is no fault.
    pub(crate) fn is_clean(&self) -> bool {
        self.unread == 0 && self.faults == 0
    }

    fn add(&mut self, findings: Vec<Finding>) {
        for finding in findings {
            if finding.fault == Violation::Repeated {
                self.repeated += 1;
                continue;
            }
            self.faults += 1;
            self.lost += u64::from(finding.fault == Violation::Lost);
            if self.findings.len() < MAX_FINDINGS {
                self.findings.push(finding);
            }
        }
    }
}

/// Reads every key of the ledger from `r` replicas (all N, to see the merge of all copies) and
/// judges the values. No load may be in progress. The error is the one of the ledger.
pub(crate) async fn verify(client: &Client, ledger: &Ledger, r: u8) -> Result<Verdict, String> {
    read_all(client, ledger, r, false).await
}

/// The same, only for keys with entries since the last verification.
pub(crate) async fn verify_recent(
    client: &Client,
    ledger: &Ledger,
    r: u8,
) -> Result<Verdict, String> {
    read_all(client, ledger, r, true).await
}

async fn read_all(
    client: &Client,
    ledger: &Ledger,
    r: u8,
    recent: bool,
) -> Result<Verdict, String> {
    let (counts, keys) =
        ledger.read(|history| (history.counts(), history.take_touched(recent))).await?;
    let mut verdict = Verdict { counts, ..Verdict::default() };
    let mut keys = keys.into_iter();
    let mut reads = JoinSet::new();
    loop {
        while reads.len() < READS
            && let Some((number, key)) = keys.next()
        {
            let client = client.clone();
            reads.spawn(async move { (number, read(&client, &key, r).await, key) });
        }
        let Some(done) = reads.join_next().await else { return Ok(verdict) };
        let (number, shown, key) = done.map_err(|error| format!("a read ended: {error}"))?;
        verdict.keys += 1;
        match shown {
            Ok(shown) => {
                verdict.values += shown.len() as u64;
                verdict.add(ledger.look(|history| judge(&key, history.writes(number), &shown)));
            }
            Err(failure) => {
                verdict.unread += 1;
                verdict.why_unread.get_or_insert_with(|| format!("{key:?}: {failure}"));
            }
        }
    }
}

async fn read(client: &Client, key: &Key, r: u8) -> Result<Vec<Bytes>, ClientError> {
    let begun = Instant::now();
    loop {
        match client.get(key).r(Some(r)).deadline_ms(TIMEOUT_MS).await {
            Ok(found) => return Ok(found.values),
            Err(failure) if begun.elapsed() > TIMEOUT => return Err(failure),
            Err(_) => sleep(RETRY_BACKOFF).await,
        }
    }
}
