//! Other stores that can get the same load: by the redis protocol, and etcd by the JSON gateway of
//! its server. They have only what a load needs: put, get, and the meaning of an acknowledgement.

mod etcd;
mod http;
mod resp;

use std::time::Duration;

use pixii_client::ClientError;
use tokio::time::timeout;

pub(crate) use resp::Information;

/// How long a server may take to accept a connection and answer on it.
const CONNECT_WAIT: Duration = Duration::from_secs(5);

/// The address of a server, and the protocol by which it is driven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    /// The protocol of the server.
    pub(crate) protocol: Protocol,
    /// Its address, `host:port`.
    pub(crate) address: String,
}

/// The protocols of other stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// `redis://`: SET, followed by WAIT if `wait` is not 0; GET.
    Redis {
        /// Replicas that must have a write before it counts as done.
        wait: u8,
    },
    /// `etcd://`: a put, and a linearizable read of one key.
    Etcd,
}

/// Why an operation was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Violation {
    /// The server refused it, or could not confirm it in time; the connection can still be used.
    Failed(ClientError),
    /// The connection cannot be used any more; the reason is one sentence.
    Broken(String),
}

impl Peer {
    /// Reads `redis://HOST:PORT` or `etcd://HOST:PORT`. The error is one sentence.
    pub(crate) fn parse(text: &str, wait: Option<u8>) -> Result<Self, String> {
        let shown = text.escape_debug();
        let (scheme, address) = text.split_once("://").unwrap_or_default();
        let protocol = match (scheme, wait) {
            ("redis", wait) => Protocol::Redis { wait: wait.unwrap_or(0) },
            ("etcd", None) => Protocol::Etcd,
            ("etcd", Some(_)) => {
                return Err(
                    "--against-wait is of the redis protocol; etcd has no such thing".into()
                );
            }
            _ => {
                return Err(format!(
                    "\"{shown}\" is neither redis://HOST:PORT nor etcd://HOST:PORT"
                ));
            }
        };
        let address = address.trim_end_matches('/');
        let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty());
        if port.is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
            return Err(format!("\"{shown}\" has no HOST:PORT, as in redis://127.0.0.1:6379"));
        }
        Ok(Peer { protocol, address: address.to_owned() })
    }

    /// The scheme of its URL.
    pub(crate) fn scheme(&self) -> &'static str {
        match self.protocol {
            Protocol::Redis { .. } => "redis",
            Protocol::Etcd => "etcd",
        }
    }

    /// The URL that it was read from.
    pub(crate) fn url(&self) -> String {
        format!("{}://{}", self.scheme(), self.address)
    }

    /// The commands of a put, for tables.
    pub(crate) fn put_name(&self) -> String {
        match self.protocol {
            Protocol::Redis { wait: 0 } => "SET".into(),
            Protocol::Redis { wait } => format!("SET + WAIT {wait}"),
            Protocol::Etcd => "put".into(),
        }
    }

    /// What its acknowledgement of a put means, in a sentence. `stated` is its own report.
    pub(crate) fn meaning(&self, stated: &Information) -> String {
        let sync = match stated.sync.as_deref() {
            Some("always") => "after an fdatasync there (appendfsync always)".to_owned(),
            Some(other) => format!("before it is on the disk there ({other})"),
            None => "and does not say whether it is on its disk".to_owned(),
        };
        match self.protocol {
            Protocol::Redis { wait: 0 } => format!("the server that was asked says OK, {sync}"),
            Protocol::Redis { wait } => format!(
                "the primary has it, {sync}, and {wait} of its replicas in memory: durable at the \
                 primary only"
            ),
            Protocol::Etcd => "a majority of the members has it in its log, synced".into(),
        }
    }

    /// What the answer to a get means, in a sentence.
    pub(crate) fn get_meaning(&self) -> &'static str {
        match self.protocol {
            Protocol::Redis { .. } => "answered by the server that was asked, which decides how",
            Protocol::Etcd => "linearizable: the leader answers once a majority has confirmed it",
        }
    }

    /// What the server reports about itself; empty if it does not answer such queries.
    pub(crate) async fn information(&self) -> Information {
        match self.protocol {
            Protocol::Redis { .. } => resp::information(&self.address).await,
            Protocol::Etcd => Information::default(),
        }
    }

    /// Opens a connection and checks that the server speaks the protocol.
    pub(crate) async fn connect(&self) -> Result<Connection, String> {
        let opening = async {
            match self.protocol {
                Protocol::Redis { wait } => {
                    resp::Connection::open(&self.address, wait).await.map(Connection::Redis)
                }
                Protocol::Etcd => etcd::Connection::open(&self.address).await.map(Connection::Etcd),
            }
        };
        let opened = timeout(CONNECT_WAIT, opening).await;
        let late = |_| Err(format!("no answer in {} s", CONNECT_WAIT.as_secs()));
        opened.unwrap_or_else(late).map_err(|why| format!("{}: {why}", self.url()))
    }

    /// Opens `count` connections, one after the other; fails if any cannot be opened.
    pub(crate) async fn connections(&self, count: usize) -> Result<Vec<Connection>, String> {
        let mut connections = Vec::with_capacity(count);
        for _ in 0..count {
            connections.push(self.connect().await?);
        }
        Ok(connections)
    }
}

/// An open connection, with at most one operation in flight.
#[derive(Debug)]
pub(crate) enum Connection {
    /// A connection with the redis protocol.
    Redis(resp::Connection),
    /// A connection to the JSON gateway of etcd.
    Etcd(etcd::Connection),
}

impl Connection {
    /// Writes a value; returns when the server has acknowledged it, at the latest after `wait`.
    pub(crate) async fn put(
        &mut self,
        key: &[u8],
        value: &[u8],
        wait: Duration,
    ) -> Result<(), Violation> {
        let put = async {
            match self {
                Connection::Redis(connection) => connection.set(key, value, wait).await,
                Connection::Etcd(connection) => connection.put(key, value).await,
            }
        };
        timeout(wait, put).await.unwrap_or_else(|_| Err(late(wait)))
    }

    /// Reads a value; true if there is one.
    pub(crate) async fn get(&mut self, key: &[u8], wait: Duration) -> Result<bool, Violation> {
        let get = async {
            match self {
                Connection::Redis(connection) => connection.get(key).await,
                Connection::Etcd(connection) => connection.get(key).await,
            }
        };
        timeout(wait, get).await.unwrap_or_else(|_| Err(late(wait)))
    }
}

/// The failure of an operation without an answer in time. The answer may still come, so that the
/// connection cannot be used any more.
fn late(wait: Duration) -> Violation {
    Violation::Broken(format!("no answer in {} ms", wait.as_millis()))
}

#[cfg(test)]
mod tests;
