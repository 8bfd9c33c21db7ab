//! The part of HTTP/1.1 that a JSON gateway needs: POST over a persistent connection.

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::resp::shown;

/// Maximum size of a head and of a body, in bytes. Values of the load generator are smaller.
const MAX_HEAD_BYTES: usize = 16 << 10;
const MAX_BODY_BYTES: usize = 16 << 20;
const READ_BYTES: usize = 16 << 10;

/// A status code and a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Bytes,
}

/// Takes the next answer off `input`; `None` while it is incomplete. The error says which part is
/// not valid HTTP.
pub(super) fn take_answer(input: &mut BytesMut) -> Result<Option<Answer>, String> {
    let odd =
        |input: &[u8]| format!("it does not speak HTTP/1.1: it answered \"{}\"", shown(input));
    if !b"HTTP/1.1 ".starts_with(&input[..input.len().min(9)]) {
        return Err(odd(input));
    }
    let Some(end) = input.windows(4).take(MAX_HEAD_BYTES).position(|four| four == b"\r\n\r\n")
    else {
        return if input.len() < MAX_HEAD_BYTES { Ok(None) } else { Err(odd(input)) };
    };
    let head = String::from_utf8_lossy(&input[..end]).into_owned();
    let status = head.get(9..12).and_then(|code| code.parse().ok()).ok_or_else(|| odd(input))?;
    let field = |name: &str| {
        let fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
            .next()
    };
    let length: Option<usize> = field("content-length").and_then(|length| length.parse().ok());
    let Some(length) = length.filter(|length| *length <= MAX_BODY_BYTES) else {
        return Err(format!("it answers without a content-length: \"{}\"", shown(input)));
    };
    if input.len() < end + 4 + length {
        return Ok(None);
    }
    input.advance(end + 4);
    Ok(Some(Answer { status, body: input.split_to(length).freeze() }))
}

/// A persistent connection.
#[derive(Debug)]
pub(super) struct Http {
    stream: TcpStream,
    address: String,
    input: BytesMut,
}

impl Http {
    pub(super) async fn open(address: &str) -> Result<Self, String> {
        let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        Ok(Http { stream, address: address.to_owned(), input: BytesMut::new() })
    }

    /// Sends JSON and returns the answer.
    pub(super) async fn post(&mut self, path: &str, body: &str) -> Result<Answer, String> {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        );
        let broke = |error: std::io::Error| format!("the connection broke: {error}");
        self.stream.write_all(request.as_bytes()).await.map_err(broke)?;
        loop {
            if let Some(answer) = take_answer(&mut self.input)? {
                return Ok(answer);
            }
            self.input.reserve(READ_BYTES);
            if self.stream.read_buf(&mut self.input).await.map_err(broke)? == 0 {
                return Err("the server closed the connection".into());
            }
        }
    }
}
