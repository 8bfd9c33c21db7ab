//! Two writers who have not seen each other leave two siblings; a third one merges them.
//!
//! `cargo run -p pixii-client --example siblings -- 127.0.0.1:7432`

use std::collections::BTreeSet;

use bytes::Bytes;
use pixii_client::{Client, Key, Options, Put};

const TIMEOUT_MS: u32 = 2_000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7432".into());
    let client = Client::connect(&[address], Options::default()).await?;
    let key = Key::new("basket")?;

    let put = |value: String, context| Put {
        key: key.clone(),
        value: Bytes::from(value),
        context,
        write: client.write_id(),
        w: None.into(),
    };
    // Both have read the same: the key is absent.
    let seen = client.get(&key, None, TIMEOUT_MS).await?.context;
    client.put(put("bread,milk".into(), Some(seen.clone())), TIMEOUT_MS).await?;
    client.put(put("bread,tea".into(), Some(seen)), TIMEOUT_MS).await?;

    let found = client.get(&key, None, TIMEOUT_MS).await?;
    println!("{} siblings", found.values.len());
    let mut merged = BTreeSet::new();
    for value in &found.values {
        merged.extend(std::str::from_utf8(value)?.split(',').map(str::to_owned));
    }
    let merged = merged.into_iter().collect::<Vec<_>>().join(",");
    // This context covers both siblings, so the merged value replaces both, and nothing else.
    client.put(put(merged, Some(found.context)), TIMEOUT_MS).await?;

    let found = client.get(&key, None, TIMEOUT_MS).await?;
    println!("{} value: {}", found.values.len(), String::from_utf8_lossy(&found.values[0]));
    Ok(())
}
