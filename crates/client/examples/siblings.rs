//! Two writers who have not seen each other leave two siblings; a third one merges them.
//!
//! `cargo run -p pixii-client --example siblings -- 127.0.0.1:7432`

use std::collections::BTreeSet;

use bytes::Bytes;
use pixii_client::{Client, ClientError, ErrorKind, Options};

/// The union of baskets, each a list with commas.
fn merge(baskets: Vec<Bytes>) -> Bytes {
    let mut all = BTreeSet::new();
    for basket in &baskets {
        all.extend(String::from_utf8_lossy(basket).split(',').map(str::to_owned));
    }
    all.into_iter().collect::<Vec<_>>().join(",").into()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), ClientError> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7432".into());
    let client = Client::connect(&[address], Options::default()).await?;

    // Both have read the same: the key is absent.
    let seen = client.get("basket").await?.context;
    client.put("basket", "bread,milk").context(seen.clone()).await?;
    client.put("basket", "bread,tea").context(seen).await?;
    let found = client.get("basket").await?;
    println!("{} siblings", found.values.len());

    // A put that has not seen them is refused: it would erase one that nobody was shown.
    let refused = client.put("basket", "eggs").await.map_err(|error| error.kind());
    println!("refused: {}", refused == Err(ErrorKind::Conflict));

    client.update("basket", merge).await?;
    let found = client.get("basket").await?;
    println!("{} value: {}", found.values.len(), String::from_utf8_lossy(&found.values[0]));
    Ok(())
}
