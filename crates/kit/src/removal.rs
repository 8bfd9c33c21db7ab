//! Deleting all keys of a scan, each with the context of its read: what is written meanwhile stays.

use std::time::Duration;

use pixii_client::{Client, ClientError, ErrorKind, Quorum, Scan};
use tokio::task::{JoinError, JoinSet};

/// Deletions in flight at a time.
const IN_FLIGHT: usize = 64;

/// How each key is deleted.
#[derive(Clone, Copy, Debug)]
pub struct Removal {
    /// Replicas that must hold a deletion.
    pub w: Quorum,
    /// The time that one deletion may take.
    pub deadline: Duration,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Removed {
    /// Keys whose values were deleted.
    pub deleted: u64,
    /// Deletions that were refused, because too few replicas could be reached, and why the first
    /// one was.
    pub refused: Option<(u64, ClientError)>,
    /// Deletions that may or may not have happened, and why that is so of the first one.
    pub unknown: Option<(u64, ClientError)>,
}

impl Removed {
    /// Takes note of one deletion; gives back a failure that the others would have as well.
    fn note(&mut self, outcome: Result<(), ClientError>) -> Result<(), ClientError> {
        let failure = match outcome {
            Ok(()) => {
                self.deleted += 1;
                return Ok(());
            }
            Err(failure) => failure,
        };
        let place = match failure.kind() {
            ErrorKind::NoQuorum => &mut self.refused,
            ErrorKind::Unknown => &mut self.unknown,
            _ => return Err(failure),
        };
        place.get_or_insert((0, failure)).0 += 1;
        Ok(())
    }
}

impl Removal {
    /// Deletes what the scan finds. `removed` is up to date at all times, also when this is dropped
    /// half way; `progress` is called after each key. An error ends it, other than a lack of
    /// replicas.
    pub async fn run(
        self,
        client: &Client,
        scan: &mut Scan,
        removed: &mut Removed,
        mut progress: impl FnMut(&Removed),
    ) -> Result<(), ClientError> {
        let mut deleting: JoinSet<Result<(), ClientError>> = JoinSet::new();
        let mut more = true;
        loop {
            while more && deleting.len() < IN_FLIGHT {
                let Some((key, found)) = scan.next().await? else {
                    more = false;
                    break;
                };
                let client = client.clone();
                deleting.spawn(async move {
                    let delete = client.delete(&key).context(found.context);
                    delete.w(self.w).deadline(self.deadline).await.map(|_| ())
                });
            }
            let Some(done) = deleting.join_next().await else { return Ok(()) };
            let failed = |error: JoinError| ClientError::Error(format!("a task failed: {error}"));
            removed.note(done.map_err(failed)?)?;
            progress(removed);
        }
    }
}
