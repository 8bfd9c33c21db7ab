//! A client of etcd by the JSON gateway of its server. The gateway costs the server more than gRPC:
//! it translates each request to gRPC and sends it to the server itself.

use pixii_client::ClientError;
use serde_json::{Value, json};

use super::Violation;
use super::http::Http;
use super::resp::shown;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const OK: u16 = 200;

/// Encodes bytes in base64, as the gateway expects them.
pub(super) fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let at = |nth: usize| u32::from(chunk.get(nth).copied().unwrap_or_default());
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for digit in 0..4 {
            let index = (bits >> (18 - 6 * digit) & 63) as usize;
            text.push(if digit <= chunk.len() { char::from(ALPHABET[index]) } else { '=' });
        }
    }
    text
}

/// An open connection to the gateway, with at most one request in flight.
#[derive(Debug)]
pub(crate) struct Connection(Http);

impl Connection {
    /// Connects and fetches the state of the server, as a check of the protocol.
    pub(super) async fn open(address: &str) -> Result<Self, String> {
        let mut http = Http::open(address).await?;
        let answer = http.post("/v3/maintenance/status", "{}").await?;
        let status: Option<Value> = serde_json::from_slice(&answer.body).ok();
        match status.as_ref().and_then(|status| status.get("header")) {
            Some(_) if answer.status == OK => Ok(Connection(http)),
            _ => {
                Err(format!("it is no etcd: it answered {}", reported(answer.status, &answer.body)))
            }
        }
    }

    pub(super) async fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Violation> {
        let put = json!({ "key": base64(key), "value": base64(value) });
        self.query("/v3/kv/put", &put).await.map(drop)
    }

    /// A linearizable read; true if there is a value.
    pub(super) async fn get(&mut self, key: &[u8]) -> Result<bool, Violation> {
        let found = self.query("/v3/kv/range", &json!({ "key": base64(key) })).await?;
        Ok(found.get("kvs").and_then(Value::as_array).is_some_and(|kvs| !kvs.is_empty()))
    }

    async fn query(&mut self, path: &str, body: &Value) -> Result<Value, Violation> {
        let answer = self.0.post(path, &body.to_string()).await.map_err(Violation::Broken)?;
        if answer.status != OK {
            let why = reported(answer.status, &answer.body);
            return Err(Violation::Failed(ClientError::Unknown(why)));
        }
        serde_json::from_slice(&answer.body)
            .map_err(|error| Violation::Broken(format!("its answer is no JSON: {error}")))
    }
}

fn reported(status: u16, body: &[u8]) -> String {
    format!("status {status}, \"{}\"", shown(body))
}
