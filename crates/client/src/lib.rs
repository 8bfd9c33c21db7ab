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
//! that covers them ([`Found`]). What a write replaces is a rule of its own:
//!
//! | write | replaces |
//! |---|---|
//! | `client.put(k, v)` | the one value that is there; refused as a conflict if there are several |
//! | `.context(c)` | what the read that gave the context showed, and nothing else |
//! | `.sibling()` | nothing |
//! | `.if_absent()`, `.if_context(c)` | as the first, and refused if the condition does not hold |
//!
//! Writes that have not seen each other leave siblings; [`Client::update`] merges them
//! (`examples/siblings.rs`). [`Client::scan`] reads all keys, or those of a prefix
//! (`examples/listing.rs`).
//!
//! # The outcome of a write
//!
//! A write is *acknowledged* ([`Written`]: W replicas have it on their disks), *refused* (nothing
//! happened), or *unknown* ([`ErrorKind::Unknown`], which Jepsen calls indeterminate: it may
//! happen, or have happened). An unknown put is made again with the same write id and is then still
//! one write. The client does that by itself for as long as the deadline allows, unless
//! [`Options::retry_unknown`] is false (`examples/unknown_outcome.rs`); a write under a condition,
//! and a delete without a context, are not repeated.
//!
//! # Example
//!
//! ```no_run
//! # async fn example() -> Result<(), pixii_client::ClientError> {
//! use pixii_client::{Client, Options};
//!
//! let client = Client::connect(&["127.0.0.1:7432".into()], Options::default()).await?;
//! client.put("greeting", "hello").await?;
//! let found = client.get("greeting").await?;
//! client.put("greeting", "hello, world").context(found.context).await?;
//! # Ok(())
//! # }
//! ```

mod attempts;
mod link;
mod requests;
mod scan;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use pixii_core::causal::Dot;
use pixii_core::members::Member;
pub use pixii_core::message::Quorum;
use pixii_core::message::{
    CallBody, DrainOrder, DrainReport, EmulateOrder, LinksReport, PlanOrder, PlanReport, Rejection,
    RepairReport, Replacement, ReplyBody, Request, Response, RingReport, SampleReport,
    StatusReport,
};
use pixii_core::ring::Ring;
use pixii_core::secret::{Nonces, SecretKey};
pub use pixii_core::types::Key;
use pixii_core::types::{NodeId, Partition, WriteId};
use pixii_transport::random;
pub use pixii_transport::secret_file::client_secret;
pub use pixii_transport::socket::REPEATS_TIMEOUT;
use tokio::sync::Mutex;
use tokio::time::Instant;

use attempts::Done;
use link::{Link, Lost, Unopened};
pub use requests::{Get, IntoKey, Update, Write};
pub use scan::Scan;

/// A node that could not be reached is not tried again for this time, plus four times the duration
/// of the attempt.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// Deadline of calls that carry none: ring, status, emulate and stop.
const CONTROL_WAIT: Duration = Duration::from_secs(5);
const ODD_ANSWER: &str = "the node answered another question";

/// Options of a client; the same for all of its clones.
#[derive(Clone, Debug)]
pub struct Options {
    /// Time for connecting to one node and shaking hands, in milliseconds.
    pub connect_timeout_ms: u32,
    /// Most calls in progress to one node; further ones wait for their turn.
    pub in_flight: usize,
    /// True if a write whose outcome is unknown is sent to another node, with the same write id, as
    /// long as there is time. False: it is sent once, and [`ClientError::Unknown`] is returned at
    /// once.
    pub retry_unknown: bool,
    /// Time that a request for data may take, unless it says otherwise.
    pub deadline: Duration,
    /// The key that the client proves itself with; nodes have to prove the same. `None`: neither
    /// side proves anything.
    pub secret: Option<SecretKey>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            connect_timeout_ms: 2_000,
            in_flight: 128,
            retry_unknown: true,
            deadline: Duration::from_secs(5),
            secret: None,
        }
    }
}

/// Why a call returned no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// A node refused the request; nothing was done.
    #[error(transparent)]
    Refused(#[from] Rejection),
    /// The write may have happened, or may still happen.
    #[error("unknown outcome: {0}; the write may or may not have happened")]
    Unknown(String),
    /// No node answered in time, or every attempt of an update met another writer; nothing was
    /// written.
    #[error("{0}")]
    Timeout(String),
    /// No node could be reached, or its answer to a read was lost; nothing was written.
    #[error("{0}")]
    Error(String),
    /// Nobody listens at any of the given addresses.
    #[error("{0}")]
    NobodyListens(String),
}

/// The kinds of errors that call for different reactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Nothing was done, for another reason than those below; the [`Rejection`] has the numbers.
    Refused,
    /// Nothing was done: too few replicas could be reached, or answered in time.
    NoQuorum,
    /// Nothing was written: the key has several values, and the write had no context. Read them,
    /// make one value of them, and put that with the context of the read ([`Client::update`]).
    Conflict,
    /// Nothing was written: the condition of the write does not hold.
    Condition,
    /// Nothing was deleted: the key has no value.
    Absent,
    /// The write may have happened, or may still happen: read the key, or repeat the put
    /// ([`Write::again`]).
    Unknown,
    /// Nothing was written: no node answered in time, or every attempt of an update met another
    /// writer.
    Timeout,
    /// Nothing was written: no node could be reached, or the connection of a read ended. (A write
    /// whose connection ended after it was sent is [`ErrorKind::Unknown`].)
    Connection,
}

impl ClientError {
    /// What kind of error it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            ClientError::Refused(Rejection::Conflict(_)) => ErrorKind::Conflict,
            ClientError::Refused(Rejection::Absent) => ErrorKind::Absent,
            ClientError::Refused(why) if why.is_condition() => ErrorKind::Condition,
            ClientError::Refused(why) if why.is_no_quorum() => ErrorKind::NoQuorum,
            ClientError::Refused(_) => ErrorKind::Refused,
            ClientError::Unknown(_) => ErrorKind::Unknown,
            ClientError::Timeout(_) => ErrorKind::Timeout,
            ClientError::Error(_) | ClientError::NobodyListens(_) => ErrorKind::Connection,
        }
    }
}

/// The result of a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Each sibling once; empty when the key is absent.
    pub values: Vec<Bytes>,
    /// Sealed context that covers all of them, for the write that replaces them.
    pub context: Bytes,
    /// Number of replicas that the answer was merged from.
    pub answered: u8,
}

/// The result of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The dot of a put; `None` for a delete.
    pub dot: Option<Dot>,
    /// Sealed context that covers what the client had seen, and this write.
    pub context: Bytes,
    /// Number of values that the key has after the write, where it was coordinated.
    pub siblings: u32,
    /// True if the write was sent to more than one node. The copies of all nodes are one write: a
    /// writer that has seen the acknowledged value replaces all of them.
    pub repeated: bool,
}

/// A page of a partition's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPage {
    /// Keys in byte order, deleted ones included.
    pub keys: Vec<Key>,
    /// False when the partition ends here.
    pub more: bool,
}

/// A client of one cluster. Clones share its connections.
#[derive(Clone)]
pub struct Client(Arc<Shared>);

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Client of {}", self.0.cluster)
    }
}

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
    /// Until when it is tried last, because it was silent: milliseconds since the client was made.
    quiet_until_ms: AtomicU64,
}

/// Why there is no connection to a node.
struct Unlinked {
    why: String,
    /// True if the node was not tried, because it could not be reached a moment ago.
    is_left_alone: bool,
}

enum State {
    Idle,
    Up(Arc<Link>),
    Down { until: Instant, why: String },
}

impl Client {
    /// Connects to the first of `addresses` (`host:port`) that answers, and gets the ring from it.
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
        let report =
            match link.call(CallBody::Ring, Instant::now() + CONTROL_WAIT, CONTROL_WAIT).await {
                Ok(ReplyBody::Ring(report)) => report,
                Ok(_) => return Err(ODD_ANSWER.to_owned().into()),
                Err(Lost::Sent(why) | Lost::Unsent(why)) => return Err(why.into()),
            };
        let entry = NodeId::of(&link.name);
        let mut nodes: HashMap<NodeId, Node> = report.members.iter().map(node).collect();
        // The address that worked is kept for this node, whatever address the cluster has for it.
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

    /// The cluster's name, as the node first connected to reported it.
    pub fn cluster(&self) -> &str {
        &self.0.cluster
    }

    /// The ring that assigns keys to owners, as the node first connected to reported it.
    pub fn ring(&self) -> &Ring {
        &self.0.report.ring
    }

    /// The members and settings that the ring was made from.
    pub fn ring_report(&self) -> &RingReport {
        &self.0.report
    }

    /// The members that have places in the ring, in the order of the list, without removed ones.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.0.report.members.iter().filter(|member| self.0.report.ring.has(member.id()))
    }

    /// A new write id: 128 bits of the operating system's randomness, so that no two are equal.
    pub fn write_id(&self) -> WriteId {
        let mut id = [0; 16];
        id.copy_from_slice(&self.0.nonces.fresh()[..16]);
        WriteId(u128::from_be_bytes(id))
    }

    fn options(&self) -> &Options {
        &self.0.options
    }

    /// Lists the keys of a partition behind `after`, about `limit_bytes` bytes of them, merged from
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

    /// The status report of a member; without a name, of the node first connected to.
    pub async fn status(&self, name: Option<&str>) -> Result<StatusReport, ClientError> {
        match self.control(name, CallBody::Status).await? {
            ReplyBody::Status(report) => Ok(*report),
            _ => Err(unfitting()),
        }
    }

    /// The links of a member, or of the node first connected to, with the others.
    pub async fn links(&self, name: Option<&str>) -> Result<LinksReport, ClientError> {
        match self.control(name, CallBody::Links).await? {
            ReplyBody::Links(report) => Ok(report),
            _ => Err(unfitting()),
        }
    }

    /// Orders a member to stop; it answers before it does.
    pub async fn stop(&self, name: &str) -> Result<(), ClientError> {
        match self.control(Some(name), CallBody::Stop).await? {
            ReplyBody::Stopping => Ok(()),
            _ => Err(unfitting()),
        }
    }

    /// Gives a drain order to a member, or to the node first connected to. Returns the state of its
    /// drain.
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
    /// for good. Without `apply`, only reports what would happen. Sent to the node first connected
    /// to.
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

    /// Stages, shows, applies or cancels a change of the ring at the node first connected to.
    /// Returns what is staged there afterwards, and the change that its ring is in.
    pub async fn plan(&self, order: PlanOrder) -> Result<PlanReport, ClientError> {
        match self.control(None, CallBody::Plan(order)).await? {
            ReplyBody::Plan(reported) => {
                reported.map_err(|why| ClientError::Error(why.to_string()))
            }
            _ => Err(unfitting()),
        }
    }

    /// Gives a member an order about its emulated network. Returns the rules in force there
    /// afterwards. A member whose configuration does not allow it, or that finds a mistake in the
    /// rules, did nothing.
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

    /// The comparisons of a member, or of the node first connected to: of this partition or all of
    /// its own, with this other owner or all. With `begin`, it compares them at once; the report is
    /// made before that begins.
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

    /// Orders a member that has lost its disk to answer reads with what it has, where it is the
    /// only owner: acknowledged writes may then be missing. Returns the number of partitions, once
    /// that is durable.
    pub async fn accept_loss(&self, name: Option<&str>) -> Result<u32, ClientError> {
        match self.control(name, CallBody::AcceptLoss).await? {
            ReplyBody::LossAccepted(reported) => {
                reported.map_err(|why| ClientError::Error(why.to_string()))
            }
            _ => Err(unfitting()),
        }
    }

    /// How long the latest reads and writes of a member took at each replica.
    pub async fn samples(&self, name: &str) -> Result<SampleReport, ClientError> {
        match self.control(Some(name), CallBody::Samples).await? {
            ReplyBody::Samples(report) => Ok(report),
            _ => Err(unfitting()),
        }
    }

    /// The id of the member with this name.
    pub fn id_of(&self, name: &str) -> Result<NodeId, ClientError> {
        self.member(Some(name)).map(|node| NodeId::of(&node.name))
    }

    async fn control(&self, name: Option<&str>, body: CallBody) -> Result<ReplyBody, ClientError> {
        let node = self.member(name)?;
        // No other node can answer: it is tried, even if it was away a moment ago.
        let link = self.link(node, CONTROL_WAIT, true).await;
        let link = link.map_err(|unlinked| ClientError::Error(unlinked.why))?;
        link.call(body, Instant::now() + CONTROL_WAIT, CONTROL_WAIT).await.map_err(
            |(Lost::Sent(why) | Lost::Unsent(why))| {
                ClientError::Error(format!("{} ({}): {why}", node.name, node.address))
            },
        )
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
    /// node. A node that could not be reached a moment ago is tried only if `insists`.
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
