//! Write a value, read it, replace it, delete it.
//!
//! `cargo run -p pixii-client --example put_get -- 127.0.0.1:7432`

use pixii_client::{Client, ClientError, Options};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), ClientError> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7432".into());
    let client = Client::connect(&[address], Options::default()).await?;

    client.put("greeting", "hello").await?;
    let found = client.get("greeting").await?;
    println!("read {}", String::from_utf8_lossy(&found.values[0]));

    // It replaces the value that is there, whoever has written it.
    client.put("greeting", "good morning").await?;
    let found = client.get("greeting").await?;
    println!("read {}", String::from_utf8_lossy(&found.values[0]));

    client.delete("greeting").await?;
    let found = client.get("greeting").await?;
    println!("{} values are left", found.values.len());
    Ok(())
}
