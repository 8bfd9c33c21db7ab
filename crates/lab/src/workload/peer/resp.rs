//! A client of the redis protocol (RESP2): arrays of bulk strings out; simple strings, errors,
//! integers, bulk strings and arrays in.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use pixii_client::ClientError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{CONNECT_WAIT, Violation};

/// Maximum size of a bulk string, in bytes. Values of the load generator are smaller.
const MAX_BULK_BYTES: usize = 16 << 20;
/// Maximum length of a line (a number, a simple string or an error), in bytes.
const MAX_LINE_BYTES: usize = 4 << 10;
/// Maximum number of elements of an array, and maximum depth of nested arrays.
const MAX_ELEMENTS: usize = 1 << 10;
const MAX_DEPTH: usize = 4;
const READ_BYTES: usize = 16 << 10;
/// How much of an unexpected answer is shown, in bytes.
const SHOWN_BYTES: usize = 60;
/// `WAIT` times out this much before the load generator does.
const WAIT_MARGIN: Duration = Duration::from_millis(500);

/// A reply of the server, with an example of its encoding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// `+OK`: a status.
    Simple(String),
    /// `-ERR ...`: the server refused the command.
    Error(String),
    /// `:3`: a number, such as the replicas that `WAIT` counted.
    Integer(i64),
    /// `$3` and three bytes; `None` for `$-1`, the null reply.
    Bulk(Option<Bytes>),
    /// `*2` and two replies; empty for `*-1`.
    Array(Vec<Reply>),
}

/// Appends a command, encoded as an array of bulk strings.
pub(super) fn put_command(out: &mut BytesMut, words: &[&[u8]]) {
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

/// Takes the next reply off `input`; `None` while it is incomplete. The error says which part is
/// not valid RESP2.
pub(super) fn take_reply(input: &mut BytesMut) -> Result<Option<Reply>, String> {
    let mut at = 0;
    let reply = parse(input, &mut at, MAX_DEPTH)?;
    if reply.is_some() {
        input.advance(at);
    }
    Ok(reply)
}

fn parse(input: &[u8], at: &mut usize, depth: usize) -> Result<Option<Reply>, String> {
    let rest = &input[*at..];
    let Some(kind) = rest.first() else { return Ok(None) };
    let odd = || format!("it does not speak the redis protocol: it answered \"{}\"", shown(rest));
    if !b"+-:$*".contains(kind) {
        return Err(odd());
    }
    let Some(end) = rest.iter().take(MAX_LINE_BYTES).position(|byte| *byte == b'\n') else {
        return if rest.len() < MAX_LINE_BYTES { Ok(None) } else { Err(odd()) };
    };
    let line = rest[1..end].strip_suffix(b"\r").ok_or_else(odd)?;
    *at += end + 1;
    let text = || String::from_utf8_lossy(line).into_owned();
    let number = || std::str::from_utf8(line).ok().and_then(|line| line.parse::<i64>().ok());
    Ok(Some(match kind {
        b'+' => Reply::Simple(text()),
        b'-' => Reply::Error(text()),
        b':' => Reply::Integer(number().ok_or_else(odd)?),
        b'$' => match number().ok_or_else(odd)? {
            -1 => Reply::Bulk(None),
            length => {
                let length = usize::try_from(length).ok().filter(|size| *size <= MAX_BULK_BYTES);
                let length = length.ok_or_else(odd)?;
                let Some(bulk) = input[*at..].get(..length + 2) else { return Ok(None) };
                let bulk = bulk.strip_suffix(b"\r\n").ok_or_else(odd)?;
                *at += length + 2;
                Reply::Bulk(Some(Bytes::copy_from_slice(bulk)))
            }
        },
        _ => {
            let count = number().ok_or_else(odd)?.max(0);
            let count = usize::try_from(count).ok().filter(|count| *count <= MAX_ELEMENTS);
            let count = count.filter(|_| depth > 0).ok_or_else(odd)?;
            let mut replies = Vec::new();
            for _ in 0..count {
                let Some(reply) = parse(input, at, depth - 1)? else { return Ok(None) };
                replies.push(reply);
            }
            Reply::Array(replies)
        }
    }))
}

/// The beginning of these bytes, escaped, on one line.
pub(super) fn shown(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(SHOWN_BYTES)].escape_ascii().to_string()
}

/// An open connection, with at most one operation in flight.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    input: BytesMut,
    out: BytesMut,
    /// Replicas that must have a write before it is done; 0 sends no `WAIT`.
    wait: u8,
}

impl Connection {
    /// Connects and checks that `PING` is answered by `PONG`.
    pub(super) async fn open(address: &str, wait: u8) -> Result<Self, String> {
        let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let (input, out) = (BytesMut::new(), BytesMut::new());
        let mut connection = Connection { stream, input, out, wait };
        match connection.query(&[b"PING"]).await? {
            Reply::Simple(pong) if pong == "PONG" => Ok(connection),
            Reply::Error(why) => Err(format!("it refuses: {why}")),
            other => Err(odd("PING", &other)),
        }
    }

    /// Sends SET, and behind it in the same write WAIT, if replicas must have the write.
    pub(super) async fn set(
        &mut self,
        key: &[u8],
        value: &[u8],
        within: Duration,
    ) -> Result<(), Violation> {
        let Connection { out, wait, .. } = self;
        put_command(out, &[b"SET", key, value]);
        let wanted = *wait;
        if wanted > 0 {
            let ms = within.saturating_sub(WAIT_MARGIN).as_millis().max(1).to_string();
            put_command(out, &[b"WAIT", wanted.to_string().as_bytes(), ms.as_bytes()]);
        }
        self.flush().await.map_err(Violation::Broken)?;
        let set = self.reply().await.map_err(Violation::Broken)?;
        let held = match wanted {
            0 => None,
            _ => Some(self.reply().await.map_err(Violation::Broken)?),
        };
        match set {
            Reply::Simple(ok) if ok == "OK" => {}
            Reply::Error(why) => return Err(Violation::Failed(ClientError::Error(why))),
            other => return Err(Violation::Broken(odd("SET", &other))),
        }
        match held {
            None => Ok(()),
            Some(Reply::Integer(count)) if count >= i64::from(wanted) => Ok(()),
            Some(Reply::Integer(count)) => {
                let why = format!("WAIT counts {count} of {wanted} replicas");
                Err(Violation::Failed(ClientError::Unknown(why)))
            }
            Some(Reply::Error(why)) => Err(Violation::Failed(ClientError::Unknown(why))),
            Some(other) => Err(Violation::Broken(odd("WAIT", &other))),
        }
    }

    /// Sends GET; true if there is a value.
    pub(super) async fn get(&mut self, key: &[u8]) -> Result<bool, Violation> {
        match self.query(&[b"GET", key]).await.map_err(Violation::Broken)? {
            Reply::Bulk(value) => Ok(value.is_some()),
            Reply::Error(why) => Err(Violation::Failed(ClientError::Error(why))),
            other => Err(Violation::Broken(odd("GET", &other))),
        }
    }

    async fn query(&mut self, words: &[&[u8]]) -> Result<Reply, String> {
        put_command(&mut self.out, words);
        self.flush().await?;
        self.reply().await
    }

    async fn flush(&mut self) -> Result<(), String> {
        let written = self.stream.write_all(&self.out).await;
        self.out.clear();
        written.map_err(|error| format!("the connection broke: {error}"))
    }

    async fn reply(&mut self) -> Result<Reply, String> {
        loop {
            if let Some(reply) = take_reply(&mut self.input)? {
                return Ok(reply);
            }
            self.input.reserve(READ_BYTES);
            match self.stream.read_buf(&mut self.input).await {
                Ok(0) => return Err("the server closed the connection".into()),
                Ok(_) => {}
                Err(error) => return Err(format!("the connection broke: {error}")),
            }
        }
    }
}

fn odd(command: &str, reply: &Reply) -> String {
    format!("it answers {command} with {}", shown(format!("{reply:?}").as_bytes()))
}

/// What a server reports about itself, as far as it does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Information {
    /// `always`, or the setting for which a write may not be on its disk; `None` if unknown.
    pub(crate) sync: Option<String>,
    /// Addresses of its replicas, `host:port`.
    pub(crate) replicas: Vec<String>,
}

/// Fetches the report over a separate connection: a proxy may close it instead of answering.
pub(super) async fn information(address: &str) -> Information {
    let mut information = Information::default();
    let queried = async {
        let mut connection = Connection::open(address, 0).await.ok()?;
        if let Reply::Bulk(Some(text)) = connection.query(&[b"INFO", b"replication"]).await.ok()? {
            information.replicas = replicas(&String::from_utf8_lossy(&text));
        }
        let config = connection.query(&[b"CONFIG", b"GET", b"append*"]).await.ok()?;
        information.sync = sync(&config);
        Some(())
    };
    let _ = timeout(CONNECT_WAIT, queried).await;
    information
}

/// The replicas in a reply to `INFO replication`: `slave0:ip=127.0.0.1,port=6380,state=online,...`.
fn replicas(text: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("slave")?.split_once(':'));
    let field = |fields: &str, name: &str| {
        let found = fields.split(',').find_map(|field| field.strip_prefix(name));
        found.map(str::to_owned)
    };
    let address =
        |fields: &str| Some(format!("{}:{}", field(fields, "ip=")?, field(fields, "port=")?));
    lines.filter_map(|(_, fields)| address(fields)).collect()
}

/// The setting of syncs in a reply to `CONFIG GET append*`; `None` if the reply lacks it.
fn sync(config: &Reply) -> Option<String> {
    let Reply::Array(words) = config else { return None };
    let texts: Vec<String> = words
        .iter()
        .map(|word| match word {
            Reply::Bulk(Some(text)) => String::from_utf8_lossy(text).into_owned(),
            _ => String::new(),
        })
        .collect();
    let (pairs, _) = texts.as_chunks::<2>();
    let value = |name: &str| pairs.iter().find(|[key, _]| key == name).map(|[_, value]| value);
    if value("appendonly")? != "yes" {
        return Some("appendonly no".into());
    }
    let sync = value("appendfsync")?;
    Some(if sync == "always" { sync.clone() } else { format!("appendfsync {sync}") })
}
