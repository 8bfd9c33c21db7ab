//! A write whose outcome is unknown is made again with the same write id: it happens once.
//!
//! `cargo run -p pixii-client --example unknown_outcome -- 127.0.0.1:7432`

use bytes::Bytes;
use pixii_client::{Client, ClientError, Key, Options, Put, Written};

const TIMEOUT_MS: u32 = 2_000;
const TRIES: u32 = 5;

/// Writes until the outcome is known. A rejection is one: nothing was done.
async fn put(client: &Client, put: Put) -> Result<Written, ClientError> {
    let mut outcome = client.put(put.clone(), TIMEOUT_MS).await;
    for _ in 1..TRIES {
        match outcome {
            Err(ClientError::Unknown(_)) => {
                outcome = client.put_again(put.clone(), TIMEOUT_MS).await;
            }
            known => return known,
        }
    }
    outcome
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7432".into());
    // The client would repeat such a write by itself; here it is left to us.
    let options = Options { retry_unknown: false, ..Options::default() };
    let client = Client::connect(&[address], options).await?;
    let (key, write) = (Key::new("order")?, client.write_id());
    let value = Bytes::from_static(b"paid");
    let order = Put { key: key.clone(), value, context: None, write, w: None.into() };
    put(&client, order.clone()).await?;
    // As after an unknown outcome: the same write once more.
    client.put_again(order, TIMEOUT_MS).await?;
    let found = client.get(&key, None, TIMEOUT_MS).await?;
    println!("{} value", found.values.len());
    Ok(())
}
