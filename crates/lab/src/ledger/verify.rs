//! Reading the cluster and holding it to the ledger.

use std::time::{Duration, Instant};

use bytes::Bytes;
use pixii_client::{Client, ClientError};
use pixii_core::types::Key;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::judge::{Finding, Violation, judge};
use super::{Counts, Ledger};

/// Reads in progress at a time.
const READS: usize = 64;
/// Deadline of one read, in milliseconds.
const TIMEOUT_MS: u32 = 5_000;
/// How long one key is tried again.
const TIMEOUT: Duration = Duration::from_secs(30);
const RETRY_BACKOFF: Duration = Duration::from_millis(50);
/// Findings that are kept one by one; beyond that they are only counted.
const MAX_FINDINGS: usize = 1_000;

/// What a verification found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdict {
    /// The writes of the whole ledger.
    pub(crate) counts: Counts,
    /// Keys read.
    pub(crate) keys: u64,
    /// Values that they showed.
    pub(crate) values: u64,
    /// Keys that could not be read, and why the first one could not.
    pub(crate) unread: u64,
    /// The first reason.
    pub(crate) why_unread: Option<String>,
    /// Acknowledged writes that are gone.
    pub(crate) lost: u64,
    /// All faults, lost writes included.
    pub(crate) faults: u64,
    /// The first of them.
    pub(crate) findings: Vec<Finding>,
    /// Values shown beside what replaced them, because their writes had been sent to two nodes: no
    /// faults.
    pub(crate) repeated: u64,
}

impl Verdict {
    /// True when everything could be read and nothing is wrong.
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

/// Reads every key of the ledger from `r` replicas (all N, to see what must be there wherever it
/// is) and judges what is shown. No load may be in progress. The error is the ledger's.
pub(crate) async fn verify(client: &Client, ledger: &Ledger, r: u8) -> Result<Verdict, String> {
    read_all(client, ledger, r, false).await
}

/// The same for keys with entries since the last verification only.
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
        match client.get(key, Some(r), TIMEOUT_MS).await {
            Ok(found) => return Ok(found.values),
            Err(failure) if begun.elapsed() > TIMEOUT => return Err(failure),
            Err(_) => sleep(RETRY_BACKOFF).await,
        }
    }
}
