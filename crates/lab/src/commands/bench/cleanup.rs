//! Deleting the keys that a measurement has left in a cluster that goes on.

use std::time::Duration;

use pixii_client::{Client, Quorum};
use pixii_kit::removal::{Removal, Removed};

/// Deadline of each request.
const DEADLINE: Duration = Duration::from_secs(10);

/// Deletes every key that begins with `prefix` (1 to 1,000 bytes), and returns how many had a
/// value. The error says how far it came, and why it did not go on.
pub(super) async fn delete_all(client: &Client, prefix: &str) -> Result<u64, String> {
    let mut scan = client.scan().prefix(prefix.to_owned()).deadline(DEADLINE);
    let mut removed = Removed::default();
    let removal = Removal { w: Quorum::default(), deadline: DEADLINE };
    let done = removal.run(client, &mut scan, &mut removed, |_| ()).await;
    let missing = scan.missing().values().next().cloned();
    let left = removed.refused.or(removed.unknown).map(|(_, why)| why);
    match done.err().or(missing).or(left) {
        None => Ok(removed.deleted),
        Some(why) => Err(format!(
            "{} keys that begin with {prefix} were deleted, the others stay: {why}",
            removed.deleted
        )),
    }
}
