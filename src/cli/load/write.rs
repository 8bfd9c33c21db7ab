//! One line's way into the cluster: put, and try again while that is safe.

use std::time::Duration;

use bytes::Bytes;
use pixii_client::{Client, ClientError, ErrorKind, REPEATS_TIMEOUT};
use pixii_core::message::Quorum;
use pixii_core::message::Rejection;
use pixii_core::types::Key;
use tokio::time::{Instant, sleep};

use super::ledger::Fate;

/// Pause before the next attempt.
const PAUSE: Duration = Duration::from_millis(50);

/// How lines are written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Owners that answer before a line is decided, or the cluster's default.
    pub(crate) r: Option<u8>,
    /// Replicas that hold a write, or the cluster's default.
    pub(crate) w: Quorum,
    /// Time for writing one key, in milliseconds, with all attempts.
    pub(crate) timeout_ms: u32,
    /// Replace nothing.
    pub(crate) sibling: bool,
}

/// A line that is in the cluster.
pub(crate) struct Settled {
    pub(crate) fate: Fate,
    /// True if the key has other values beside it now.
    pub(crate) is_sibling: bool,
}

impl From<Fate> for Settled {
    fn from(fate: Fate) -> Self {
        Settled { fate, is_sibling: false }
    }
}

/// Puts a value in the place of what is there. The error says that no node can be reached; then
/// nothing was written, and no other line will fare better.
pub(crate) async fn write(
    client: &Client,
    plan: Plan,
    key: Key,
    value: Bytes,
) -> Result<Settled, String> {
    let begun = Instant::now();
    let mut deadline = begun + Duration::from_millis(plan.timeout_ms.into());
    let put = client.put(&key, value).r(plan.r).w(plan.w);
    let put = if plan.sibling { put.sibling() } else { put };
    let mut unknown = false;
    let mut left = plan.timeout_ms;
    loop {
        let attempt = put.clone().deadline_ms(left);
        let failure = match if unknown { attempt.again() } else { attempt }.await {
            Ok(written) => {
                return Ok(Settled { fate: Fate::Loaded, is_sibling: written.siblings > 1 });
            }
            Err(failure) => failure,
        };
        if matches!(failure, ClientError::Unknown(_)) {
            unknown = true;
            deadline = deadline.min(begun + REPEATS_TIMEOUT);
        }
        let again = match &failure {
            ClientError::Refused(rejection) => {
                matches!(rejection, Rejection::Busy { .. } | Rejection::Stopping)
            }
            // The write id makes it safe: the write happens once, however often it is sent.
            ClientError::Unknown(_)
            | ClientError::Timeout(_)
            | ClientError::Error(_)
            | ClientError::NobodyListens(_) => true,
        };
        left = left_ms(deadline.checked_duration_since(Instant::now() + PAUSE));
        if again && left > 0 {
            sleep(PAUSE).await;
            continue;
        }
        return match failure {
            _ if unknown && plan.sibling => Ok(Fate::Unknown.into()),
            _ if unknown => nobody_left(client, plan, &key).await.map(|()| Fate::Unknown.into()),
            ClientError::Refused(why) => {
                let no_quorum = why.is_no_quorum();
                Ok(Fate::Refused { reason: why.to_string(), no_quorum }.into())
            }
            ClientError::Error(why)
            | ClientError::Timeout(why)
            | ClientError::Unknown(why)
            | ClientError::NobodyListens(why) => Err(why),
        };
    }
}

/// The error if no node answers any more: then the outcome of no other line would be known either.
async fn nobody_left(client: &Client, plan: Plan, key: &Key) -> Result<(), String> {
    match client.get(key).deadline_ms(plan.timeout_ms).await {
        Err(failure) if matches!(failure.kind(), ErrorKind::Timeout | ErrorKind::Connection) => {
            Err(failure.to_string())
        }
        _ => Ok(()),
    }
}

fn left_ms(left: Option<Duration>) -> u32 {
    left.map_or(0, |left| left.as_millis() as u32)
}
