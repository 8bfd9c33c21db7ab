//! The asynchronous client of Pixii, a Dynamo-style key-value store.
//!
//! A [`Client`] knows the cluster's ring and sends each request straight to an owner of its key. It
//! opens one connection per node, when it is first needed, and keeps it; any number of tasks may
//! share a client, and clones share its connections. A request that a node does not answer soon, or
//! cannot carry out, goes to another node as well.
//!
//! # Values, contexts and siblings
//!
//! A read gives all values of a key that no write has replaced, its *siblings*, and a *context*
//! that covers them ([`Found`]). A write that brings this context replaces what the context covers
//! and nothing else. Two writes that have not seen each other leave two siblings; the application
//! merges them and writes the result with the context of its read (`examples/siblings.rs`).
//!
//! # The outcome of a write
//!
//! A write is *acknowledged* ([`Written`]: W replicas have it on their disks), *refused*
//! ([`ClientError::Refused`]: nothing happened), or *unknown* ([`ClientError::Unknown`], which
//! Jepsen calls indeterminate: it may happen, or have happened). An unknown write is made again
//! with the same write id and is then still one write. The client does that by itself for as long
//! as the deadline allows, unless [`Options::retry_unknown`] is false
//! (`examples/unknown_outcome.rs`).
//!
//! # Example
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use pixii_client::{Client, Key, Options, Put};
//!
//! let client = Client::connect(&["127.0.0.1:7432".into()], Options::default()).await?;
//! let key = Key::new("greeting")?;
//! let found = client.get(&key, None, 2_000).await?;
//! let put = Put {
//!     key,
//!     value: "hello".into(),
//!     context: Some(found.context),
//!     write: client.write_id(),
//!     w: None.into(),
//! };
//! client.put(put, 2_000).await?;
//! # Ok(())
//! # }
//! ```

mod attempts;
mod link;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use pixii_core::causal::Dot;
use pixii_core::members::Member;
use pixii_core::message::{
    CallBody, DrainOrder, DrainReport, EmulateOrder, LinksReport, Quorum, Rejection, RepairReport,
    Replacement, ReplyBody, Request, Response, RingReport, SampleReport, StatusReport,
};
use pixii_core::ring::Ring;
use pixii_core::secret::{Nonces, SecretKey};
pub use pixii_core::types::Key;
use pixii_core::types::{Blob, MAX_VALUE_BYTES, NodeId, Partition, SizeError, WriteId};
use pixii_transport::random;
pub use pixii_transport::secret_file::client_secret;
use tokio::sync::Mutex;
use tokio::time::Instant;

use attempts::Done;
use link::{Link, Lost, Unopened};

/// A node that could not be reached is left alone this long, and four times as long as the attempt
/// took.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// Deadline of calls that carry none: ring, status, emulate and stop.
const CONTROL_WAIT: Duration = Duration::from_secs(5);
const ODD_ANSWER: &str = "the node answered another question";

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Time for connecting to one node and shaking hands, in milliseconds.
    pub connect_timeout_ms: u32,
    /// Most calls in progress to one node; more wait for their turn.
    pub in_flight: usize,
    /// True if a write whose outcome is unknown is sent to another node, with the same write id, as
    /// long as there is time. False: it is sent once, and [`ClientError::Unknown`] at once.
    pub retry_unknown: bool,
    /// What it proves itself with, in the role of a client; nodes have to do the same. `None`:
    /// nobody proves anything.
    pub secret: Option<SecretKey>,
}

impl Default for Options {
    fn default() -> Self {
        Options { connect_timeout_ms: 2_000, in_flight: 128, retry_unknown: true, secret: None }
    }
}

/// Why a call brought no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// A node said no; nothing was done.
    #[error(transparent)]
    Refused(#[from] Rejection),
    /// A write may have happened, or may yet.
    #[error("unknown outcome: {0}; the write may or may not have happened")]
    Unknown(String),
    /// No node could be asked, or its answer to a read was lost; nothing was written.
    #[error("{0}")]
    Error(String),
    /// Nobody listens at any of the addresses that were given.
    #[error("{0}")]
    NobodyListens(String),
}

/// What a read found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Every sibling once; none when the key is absent.
    pub values: Vec<Bytes>,
    /// Sealed: covers all of them. To be given to the write that replaces them.
    pub context: Bytes,
    /// Replicas that the answer was merged from.
    pub answered: u8,
}

/// What a write did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The dot of a put.
    pub dot: Option<Dot>,
    /// Sealed: covers what the client had seen and this write.
    pub context: Bytes,
    /// Values that the key has now where the write was made.
    pub siblings: u32,
    /// True if it was sent to more than one node. A copy that one of them issues late is the same
    /// write: it goes with the value once that is replaced by somebody who has seen it
    /// acknowledged.
    pub repeated: bool,
}

/// A part of a partition's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPage {
    /// Keys in byte order, deleted ones included.
    pub keys: Vec<Key>,
    /// False when the partition ends here.
    pub more: bool,
}

/// A write to be made. Sent again with the same `write` id ([`Client::put_again`]), it still
/// happens once.
#[derive(Clone, Debug)]
pub struct Put {
    /// The key.
    pub key: Key,
    /// Its new value.
    pub value: Bytes,
    /// The sealed context of the read that it replaces.
    pub context: Option<Bytes>,
    /// From [`Client::write_id`].
    pub write: WriteId,
    /// Replicas that must hold it.
    pub w: Quorum,
}

/// A client of one cluster. Clones share its connections.
#[derive(Clone)]
pub struct Client(Arc<Shared>);

struct Shared {
    options: Options,
    cluster: String,
    report: RingReport,
    entry: NodeId,
    nodes: HashMap<NodeId, Node>,
    nonces: Nonces,
    made: Instant,
}

struct Node {
    name: String,
    address: String,
    state: Mutex<State>,
    /// Until when it is asked last, because it was silent: milliseconds since the client was made.
    quiet_until_ms: AtomicU64,
}

/// Why there is no connection to a node.
struct Unlinked {
    why: String,
    /// True if it was not tried, because it could not be reached a moment ago.
    is_left_alone: bool,
}

enum State {
    Idle,
    Up(Arc<Link>),
    Down { until: Instant, why: String },
}

impl Client {
    /// Connects to the first of `addresses` (`host:port`) that answers, and learns the ring from
    /// it.
    pub async fn connect(addresses: &[String], options: Options) -> Result<Self, ClientError> {
        let (mut faults, mut listening) = (Vec::new(), false);
        for address in addresses {
            match Self::connect_to(address, &options).await {
                Ok(client) => return Ok(client),
                Err(why) => {
                    listening |= !matches!(why, Unopened::NobodyListens(_));
                    faults.push(format!("{address}: {}", why.into_reason()));
                }
            }
        }
        let why = format!("cannot connect to {}", faults.join(", nor to "));
        Err(if listening { ClientError::Error(why) } else { ClientError::NobodyListens(why) })
    }

    async fn connect_to(address: &str, options: &Options) -> Result<Self, Unopened> {
        let wait = Duration::from_millis(options.connect_timeout_ms.into());
        let seed = random().map_err(|error| format!("no random bytes from the system: {error}"))?;
        let (nonces, options) = (Nonces::new(seed), options.clone());
        let secret = options.secret.clone().map(|key| (key, nonces.fresh()));
        let link = Link::open(address, wait, options.in_flight, secret).await?;
        let report = match link.call(CallBody::Ring, CONTROL_WAIT).await {
            Ok(ReplyBody::Ring(report)) => report,
            Ok(_) => return Err(ODD_ANSWER.to_owned().into()),
            Err(Lost::Sent(why) | Lost::Unsent(why)) => return Err(why.into()),
        };
        let entry = NodeId::of(&link.name);
        let mut nodes: HashMap<NodeId, Node> = report.members.iter().map(node).collect();
        // The way that worked is kept for this node, whatever address the cluster knows it by.
        let given = Node {
            name: link.name.clone(),
            address: address.into(),
            state: Mutex::new(State::Idle),
            quiet_until_ms: AtomicU64::new(0),
        };
        let cluster = link.cluster.clone();
        nodes.insert(entry, Node { state: Mutex::new(State::Up(Arc::new(link))), ..given });
        let made = Instant::now();
        let shared = Shared { options, cluster, report, entry, nodes, nonces, made };
        Ok(Client(Arc::new(shared)))
    }

    /// The cluster's name.
    pub fn cluster(&self) -> &str {
        &self.0.cluster
    }

    /// Where keys live.
    pub fn ring(&self) -> &Ring {
        &self.0.report.ring
    }

    /// The members and settings that the ring was made from.
    pub fn ring_report(&self) -> &RingReport {
        &self.0.report
    }

    /// The members that have places, in the order of the list; not those that were removed.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.0.report.members.iter().filter(|member| self.0.report.ring.has(member.id()))
    }

    /// A fresh id for a put: 128 bits that nobody else draws, from the system's randomness.
    pub fn write_id(&self) -> WriteId {
        let mut id = [0; 16];
        id.copy_from_slice(&self.0.nonces.fresh()[..16]);
        WriteId(u128::from_be_bytes(id))
    }

    /// All siblings of a key, merged from `r` replicas, within `timeout_ms`.
    pub async fn get(
        &self,
        key: &Key,
        r: impl Into<Quorum>,
        timeout_ms: u32,
    ) -> Result<Found, ClientError> {
        let request = Request::Get { key: key.clone(), r: r.into() };
        match self.data(request, self.ring().partition(key), timeout_ms).await?.response {
            Response::Found { values, context, answered } => {
                let values = values.into_iter().map(|Blob(value)| value).collect();
                Ok(Found { values, context: context.0, answered })
            }
            _ => Err(unfitting()),
        }
    }

    /// Carries out a write within `timeout_ms`. One whose outcome was unknown is repeated by
    /// [`Client::put_again`].
    pub async fn put(&self, put: Put, timeout_ms: u32) -> Result<Written, ClientError> {
        self.send_put(put, false, timeout_ms).await
    }

    /// Repeats a write whose outcome is unknown, with its write id, within `timeout_ms`: it is
    /// still one write, and once this has succeeded and its value was replaced, no copy of an
    /// earlier attempt brings that back.
    pub async fn put_again(&self, put: Put, timeout_ms: u32) -> Result<Written, ClientError> {
        self.send_put(put, true, timeout_ms).await
    }

    async fn send_put(
        &self,
        put: Put,
        again: bool,
        timeout_ms: u32,
    ) -> Result<Written, ClientError> {
        let Put { key, value, context, write, w } = put;
        if value.len() > MAX_VALUE_BYTES {
            return Err(Rejection::Size(SizeError::Value(value.len() as u64)).into());
        }
        let partition = self.ring().partition(&key);
        let context = context.map(Blob);
        let request = Request::Put { key, value: Blob(value), context, write, w };
        let request = if again { request.again() } else { request };
        written(self.data(request, partition, timeout_ms).await?)
    }

    /// Forgets what the sealed `context` covers, on `w` replicas, within `timeout_ms`.
    pub async fn delete(
        &self,
        key: &Key,
        context: Option<Bytes>,
        w: impl Into<Quorum>,
        timeout_ms: u32,
    ) -> Result<Written, ClientError> {
        let request = Request::Delete { key: key.clone(), context: context.map(Blob), w: w.into() };
        written(self.data(request, self.ring().partition(key), timeout_ms).await?)
    }

    /// The next keys of a partition behind `after`, about `limit_bytes` bytes of them, merged from
    /// `r` replicas, within `timeout_ms`.
    pub async fn keys(
        &self,
        partition: Partition,
        after: Option<Key>,
        limit_bytes: u32,
        r: Option<u8>,
        timeout_ms: u32,
    ) -> Result<KeyPage, ClientError> {
        let request = Request::Keys { partition, after, limit_bytes, r };
        match self.data(request, partition, timeout_ms).await?.response {
            Response::Keys { keys, more } => Ok(KeyPage { keys, more }),
            _ => Err(unfitting()),
        }
    }

    /// The account that a member gives of itself; without a name, the node first connected to.
    pub async fn status(&self, name: Option<&str>) -> Result<StatusReport, ClientError> {
        match self.control(name, CallBody::Status).await? {
            ReplyBody::Status(report) => Ok(*report),
            _ => Err(unfitting()),
        }
    }

    /// How a member, or the node first connected to, is linked with the others.
    pub async fn links(&self, name: Option<&str>) -> Result<LinksReport, ClientError> {
        match self.control(name, CallBody::Links).await? {
            ReplyBody::Links(report) => Ok(report),
            _ => Err(unfitting()),
        }
    }

    /// Notifies a member to stop; it answers before it does.
    pub async fn stop(&self, name: &str) -> Result<(), ClientError> {
        match self.control(Some(name), CallBody::Stop).await? {
            ReplyBody::Stopping => Ok(()),
            _ => Err(unfitting()),
        }
    }

    /// Gives a member, or the node first connected to, an order about its drain; gives how far it
    /// is.
    pub async fn drain(
        &self,
        name: Option<&str>,
        order: DrainOrder,
    ) -> Result<DrainReport, ClientError> {
        match self.control(name, CallBody::Drain(order)).await? {
            ReplyBody::Drain(reported) => {
                reported.map_err(|why| ClientError::Error(why.to_string()))
            }
            _ => Err(unfitting()),
        }
    }

    /// Gives the places of the member `old` to `new`, which listens at `address`, and removes `old`
    /// for good; without `apply` only says what would happen. Asks the node first connected to.
    pub async fn replace(
        &self,
        old: &str,
        new: &str,
        address: &str,
        apply: bool,
    ) -> Result<Replacement, ClientError> {
        let (old, new, address) = (old.to_owned(), new.to_owned(), address.to_owned());
        match self.control(None, CallBody::Replace { old, new, address, apply }).await? {
            ReplyBody::Replace(reported) => {
                reported.map_err(|why| ClientError::Error(why.to_string()))
            }
            _ => Err(unfitting()),
        }
    }

    /// Gives a member an order about its emulated network; gives the rules that hold there then. A
    /// member whose configuration does not allow it, or with a mistake in the rules, did nothing.
    pub async fn emulate(
        &self,
        name: &str,
        order: EmulateOrder,
    ) -> Result<Vec<String>, ClientError> {
        match self.control(Some(name), CallBody::Emulate(order)).await? {
            ReplyBody::Emulated(reported) => reported.map_err(|why| {
                ClientError::Error(format!(
                    "{name} emulates nothing new: \
                    {why}"
                ))
            }),
            _ => Err(unfitting()),
        }
    }

    /// What a member, or the node first connected to, knows of this partition of its own, or of
    /// all, and of this other owner, or of all; with `begin`, it is to compare them at once. The
    /// report is made before that begins.
    pub async fn repair(
        &self,
        name: Option<&str>,
        begin: bool,
        partition: Option<Partition>,
        peer: Option<NodeId>,
    ) -> Result<RepairReport, ClientError> {
        match self.control(name, CallBody::Repair { begin, partition, peer }).await? {
            ReplyBody::Repair(reported) => {
                reported.map_err(|why| ClientError::Error(why.to_string()))
            }
            _ => Err(unfitting()),
        }
    }

    /// Has a member that has lost its disk answer reads with what it has, where it is the only
    /// owner: acknowledged writes may be missing then. Says for how many partitions, once that is
    /// durable.
    pub async fn accept_loss(&self, name: Option<&str>) -> Result<u32, ClientError> {
        match self.control(name, CallBody::AcceptLoss).await? {
            ReplyBody::LossAccepted(reported) => {
                reported.map_err(|why| ClientError::Error(why.to_string()))
            }
            _ => Err(unfitting()),
        }
    }

    /// What the latest reads and writes of a member took at each replica.
    pub async fn samples(&self, name: &str) -> Result<SampleReport, ClientError> {
        match self.control(Some(name), CallBody::Samples).await? {
            ReplyBody::Samples(report) => Ok(report),
            _ => Err(unfitting()),
        }
    }

    /// The id of the member of this name.
    pub fn id_of(&self, name: &str) -> Result<NodeId, ClientError> {
        self.member(Some(name)).map(|node| NodeId::of(&node.name))
    }

    async fn control(&self, name: Option<&str>, body: CallBody) -> Result<ReplyBody, ClientError> {
        let node = self.member(name)?;
        let link = self.link(node, CONTROL_WAIT, false).await;
        let link = link.map_err(|unlinked| ClientError::Error(unlinked.why))?;
        link.call(body, CONTROL_WAIT).await.map_err(|(Lost::Sent(why) | Lost::Unsent(why))| {
            ClientError::Error(format!("{} ({}): {why}", node.name, node.address))
        })
    }

    fn member(&self, name: Option<&str>) -> Result<&Node, ClientError> {
        let id = name.map_or(self.0.entry, NodeId::of);
        self.0.nodes.get(&id).ok_or_else(|| {
            let names: Vec<&str> = self.members().map(|member| member.name.as_str()).collect();
            ClientError::Error(format!(
                "no member is called \"{}\"; the members are {}",
                name.unwrap_or_default().escape_debug(),
                names.join(", ")
            ))
        })
    }

    /// The connection to a node, opened within `timeout` if there is none. The error names the
    /// node. One that could not be reached a moment ago is tried only if `insists`.
    async fn link(
        &self,
        node: &Node,
        timeout: Duration,
        insists: bool,
    ) -> Result<Arc<Link>, Unlinked> {
        let mut state = node.state.lock().await;
        match &*state {
            State::Up(link) if link.is_good() => return Ok(Arc::clone(link)),
            State::Down { until, why } if !insists && *until > Instant::now() => {
                return Err(Unlinked { why: why.clone(), is_left_alone: true });
            }
            _ => {}
        }
        let wait = Duration::from_millis(self.0.options.connect_timeout_ms.into()).min(timeout);
        let begun = Instant::now();
        let Options { in_flight, secret, .. } = &self.0.options;
        let secret = secret.clone().map(|key| (key, self.0.nonces.fresh()));
        let opened = match Link::open(&node.address, wait, *in_flight, secret).await {
            Ok(link) if link.name != node.name => Err(format!("this is {} now", link.name)),
            Ok(link) if link.cluster != self.0.cluster => {
                Err(format!("it belongs to cluster {}", link.cluster))
            }
            other => other.map_err(Unopened::into_reason),
        };
        match opened {
            Ok(link) => {
                let link = Arc::new(link);
                *state = State::Up(Arc::clone(&link));
                Ok(link)
            }
            Err(why) => {
                let why = format!("{} ({}): {why}", node.name, node.address);
                let until = Instant::now() + RETRY_AFTER + 4 * begun.elapsed();
                *state = State::Down { until, why: why.clone() };
                Err(Unlinked { why, is_left_alone: false })
            }
        }
    }
}

fn node(member: &Member) -> (NodeId, Node) {
    let (name, address) = (member.name.clone(), member.address.clone());
    (
        member.id(),
        Node { name, address, state: Mutex::new(State::Idle), quiet_until_ms: AtomicU64::new(0) },
    )
}

fn written(Done { response, repeated }: Done) -> Result<Written, ClientError> {
    match response {
        Response::Written { dot, context, siblings } => {
            Ok(Written { dot, context: context.0, siblings, repeated })
        }
        Response::Unknown { acknowledged, needed, timeout_ms } => Err(ClientError::Unknown(
            format!("{acknowledged} of {needed} replicas confirmed it in {timeout_ms} ms"),
        )),
        _ => Err(ClientError::Unknown(ODD_ANSWER.into())),
    }
}

fn unfitting() -> ClientError {
    ClientError::Error(ODD_ANSWER.into())
}
