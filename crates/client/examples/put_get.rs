//! Write a value, read it, replace it, delete it.
//!
//! `cargo run -p pixii-client --example put_get -- 127.0.0.1:7432`

use bytes::Bytes;
use pixii_client::{Client, Key, Options, Put};

const TIMEOUT_MS: u32 = 2_000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7432".into());
    let client = Client::connect(&[address], Options::default()).await?;
    let key = Key::new("greeting")?;

    let put = |value: &'static str, context| Put {
        key: key.clone(),
        value: Bytes::from_static(value.as_bytes()),
        context,
        write: client.write_id(),
        w: None.into(),
    };
    client.put(put("hello", None), TIMEOUT_MS).await?;
    let found = client.get(&key, None, TIMEOUT_MS).await?;
    println!("read {}", String::from_utf8_lossy(&found.values[0]));

    // The context of the read says which values the write replaces.
    let written = client.put(put("good morning", Some(found.context)), TIMEOUT_MS).await?;
    let found = client.get(&key, None, TIMEOUT_MS).await?;
    println!("read {}", String::from_utf8_lossy(&found.values[0]));

    client.delete(&key, Some(written.context), None, TIMEOUT_MS).await?;
    let found = client.get(&key, None, TIMEOUT_MS).await?;
    println!("{} values are left", found.values.len());
    Ok(())
}
