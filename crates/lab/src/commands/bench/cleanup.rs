//! Deleting the keys that a measurement has left in a cluster that goes on.

use pixii_client::{Client, ClientError};
use pixii_core::types::{Key, Partition};
use tokio::task::JoinSet;

/// Deletions in flight at a time.
const IN_FLIGHT: usize = 64;
/// Size of a page of keys, in bytes.
const PAGE_BYTES: u32 = 64 << 10;
/// Deadline of each request, in milliseconds.
const TIMEOUT_MS: u32 = 10_000;

/// Deletes every key that begins with `prefix` (1 to 1,000 bytes), and returns how many had a
/// value. The error says how far it came, and why it did not go on.
pub(super) async fn delete_all(client: &Client, prefix: &str) -> Result<u64, String> {
    let mut deleted = 0;
    let done = all_partitions(client, prefix, &mut deleted).await;
    done.map(|()| deleted).map_err(|error| {
        format!("{deleted} keys that begin with {prefix} were deleted, the others stay: {error}")
    })
}

async fn all_partitions(
    client: &Client,
    prefix: &str,
    deleted: &mut u64,
) -> Result<(), ClientError> {
    let first = Key::new(prefix.to_owned().into_bytes());
    let first = first.map_err(|error| ClientError::Error(error.to_string()))?;
    for partition in (0..client.ring().partitions()).map(Partition) {
        // The prefix is no key itself, and what follows it in byte order begins with it.
        let mut after = Some(first.clone());
        while let Some(from) = after.take() {
            let page = client.keys(partition, Some(from), PAGE_BYTES, None, TIMEOUT_MS).await?;
            let listed = page.keys.len();
            let own = |key: &Key| key.as_bytes().starts_with(prefix.as_bytes());
            let keys: Vec<Key> = page.keys.into_iter().take_while(own).collect();
            // A page that ends with another key is the last one.
            after = keys.last().filter(|_| page.more && keys.len() == listed).cloned();
            *deleted += delete(client, keys).await?;
        }
    }
    Ok(())
}

/// Deletes these keys, and returns how many had a value.
async fn delete(client: &Client, keys: Vec<Key>) -> Result<u64, ClientError> {
    let (mut deleting, mut deleted) = (JoinSet::new(), 0);
    let mut keys = keys.into_iter();
    loop {
        while deleting.len() < IN_FLIGHT
            && let Some(key) = keys.next()
        {
            let client = client.clone();
            deleting.spawn(async move {
                let found = client.get(&key, None, TIMEOUT_MS).await?;
                if found.values.is_empty() {
                    return Ok(0);
                }
                client.delete(&key, Some(found.context), None, TIMEOUT_MS).await.map(|_| 1)
            });
        }
        match deleting.join_next().await {
            Some(Ok(done)) => deleted += done?,
            Some(Err(error)) => return Err(ClientError::Error(format!("a task failed: {error}"))),
            None => return Ok(deleted),
        }
    }
}
