//! One line's way into the cluster: read the context, put, and try again while that is safe.

use std::time::Duration;

use bytes::Bytes;
use pixii_client::{Client, ClientError, Put};
use pixii_core::message::Quorum;
use pixii_core::message::Rejection;
use pixii_core::types::{Key, WriteId};
use tokio::time::{Instant, sleep};

use super::ledger::Fate;

/// Pause before the next attempt.
const PAUSE: Duration = Duration::from_millis(50);

/// How lines are written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Replicas that answer a read, or the cluster's default.
    pub(crate) r: Quorum,
    /// Replicas that hold a write, or the cluster's default.
    pub(crate) w: Quorum,
    /// Time for reading and writing one key, in milliseconds, with all attempts.
    pub(crate) timeout_ms: u32,
    /// Put without reading the context first.
    pub(crate) blind: bool,
}

/// What one attempt needs to know of the ones before.
struct Attempts<'a> {
    client: &'a Client,
    plan: Plan,
    key: Key,
    value: Bytes,
    write: WriteId,
    /// The context that was read, so that it is read only once.
    context: Option<Bytes>,
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
    let deadline = Instant::now() + Duration::from_millis(plan.timeout_ms.into());
    let write = client.write_id();
    let mut attempts = Attempts { client, plan, key, value, write, context: None };
    let mut unknown = false;
    let mut left = plan.timeout_ms;
    loop {
        let failure = match attempts.once(left, unknown, deadline).await {
            Ok(siblings) => {
                return Ok(Settled { fate: Fate::Loaded, is_sibling: siblings > 1 });
            }
            Err(failure) => failure,
        };
        unknown |= matches!(failure, ClientError::Unknown(_));
        let again = match &failure {
            ClientError::Refused(rejection) => {
                matches!(rejection, Rejection::Busy { .. } | Rejection::Stopping)
            }
            // The write id makes it safe: the write happens once, however often it is sent.
            ClientError::Unknown(_) | ClientError::Error(_) | ClientError::NobodyListens(_) => true,
        };
        left = left_ms(deadline.checked_duration_since(Instant::now() + PAUSE));
        if again && left > 0 {
            sleep(PAUSE).await;
            continue;
        }
        return match failure {
            _ if unknown => Ok(Fate::Unknown.into()),
            ClientError::Refused(why) => {
                let no_quorum = why.is_no_quorum();
                Ok(Fate::Refused { reason: why.to_string(), no_quorum }.into())
            }
            ClientError::Error(why)
            | ClientError::Unknown(why)
            | ClientError::NobodyListens(why) => Err(why),
        };
    }
}

impl Attempts<'_> {
    /// One attempt, which repeats an earlier one if that may have happened; how many values the key
    /// has after it.
    async fn once(
        &mut self,
        left: u32,
        repeats: bool,
        deadline: Instant,
    ) -> Result<u32, ClientError> {
        let mut left = left;
        if !self.plan.blind && self.context.is_none() {
            self.context = Some(self.client.get(&self.key, self.plan.r, left).await?.context);
            left = left_ms(deadline.checked_duration_since(Instant::now())).max(1);
        }
        let put = Put {
            key: self.key.clone(),
            value: self.value.clone(),
            context: self.context.clone(),
            write: self.write,
            w: self.plan.w,
        };
        let written = match repeats {
            true => self.client.put_again(put, left).await,
            false => self.client.put(put, left).await,
        };
        written.map(|written| written.siblings)
    }
}

fn left_ms(left: Option<Duration>) -> u32 {
    left.map_or(0, |left| left.as_millis() as u32)
}
