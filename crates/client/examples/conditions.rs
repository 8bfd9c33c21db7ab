//! A put that is made only if nobody was first, and one that is made only if nothing has changed.
//!
//! `cargo run -p pixii-client --example conditions -- 127.0.0.1:7432`

use pixii_client::{Client, ClientError, ErrorKind, Options};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), ClientError> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7432".into());
    let client = Client::connect(&[address], Options::default()).await?;

    client.put("user/ann", "v1").if_absent().await?;
    let second = client.put("user/ann", "other").if_absent().await;
    println!("a second one: {:?}", second.map_err(|error| error.kind()).err());

    let seen = client.get("user/ann").await?.context;
    client.put("user/ann", "v2").if_context(seen.clone()).await?;
    match client.put("user/ann", "v3").if_context(seen).await {
        Err(error) if error.kind() == ErrorKind::Condition => println!("changed since"),
        outcome => println!("unexpected: {outcome:?}"),
    }
    Ok(())
}
