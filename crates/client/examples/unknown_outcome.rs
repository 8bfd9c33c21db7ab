//! A put whose outcome is unknown is made again with the same write id: it happens once.
//!
//! `cargo run -p pixii-client --example unknown_outcome -- 127.0.0.1:7432`

use pixii_client::{Client, ClientError, ErrorKind, Options, Write, Written};

const TRIES: u32 = 5;

/// Writes until the outcome is known. A rejection is one: nothing was done.
async fn put(put: Write<'_>) -> Result<Written, ClientError> {
    let mut outcome = put.clone().await;
    for _ in 1..TRIES {
        match outcome {
            Err(error) if error.kind() == ErrorKind::Unknown => {
                outcome = put.clone().again().await;
            }
            known => return known,
        }
    }
    outcome
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), ClientError> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7432".into());
    // The client would repeat such a write by itself; here it is left to us.
    let options = Options { retry_unknown: false, ..Options::default() };
    let client = Client::connect(&[address], options).await?;
    let order = client.put("order", "paid");
    put(order.clone()).await?;
    // As after an unknown outcome: the same write once more.
    order.again().await?;
    let found = client.get("order").await?;
    println!("{} value", found.values.len());
    Ok(())
}
