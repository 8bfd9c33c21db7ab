//! The keys that begin with a prefix, a page at a time.
//!
//! `cargo run -p pixii-client --example listing -- 127.0.0.1:7432`

use pixii_client::{Client, ClientError, Key, Options};

/// Keys of a page.
const PAGE: u64 = 2;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), ClientError> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7432".into());
    let client = Client::connect(&[address], Options::default()).await?;
    for name in ["user/ann", "user/bob", "user/cleo", "visitor"] {
        client.put(name, name.len().to_string()).await?;
    }
    let mut last: Option<Key> = None;
    loop {
        let mut page = client.scan().prefix("user/").after(last.clone()).limit(PAGE);
        let mut listed = 0;
        while let Some((key, found)) = page.next().await? {
            println!("{key:?}: {} values", found.values.len());
            (last, listed) = (Some(key), listed + 1);
        }
        // What too few replicas answered for is missing, and is not taken for absent.
        assert!(page.missing().is_empty());
        if listed < PAGE {
            return Ok(());
        }
        println!("next page");
    }
}
