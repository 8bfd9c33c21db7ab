//! Connections: who may speak, and how frames get in and out. What they say is the engine's
//! business.
//!
//! Everything here runs on one thread; the locks only satisfy the types and are never waited for.

pub(crate) mod budgets;
pub(crate) mod http;
mod limiter;
pub(crate) mod listener;
mod lookup;
mod operators;
pub(crate) mod peers;
pub(crate) mod places;
pub(crate) mod probe;
pub(crate) mod reachable;
mod runs;

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU16, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pixii_core::members::{Incarnation, Members, MembershipStatus};
use pixii_core::message::{Call, Complaint, LinksReport, PeerMessage};
use pixii_core::node::ClientId;
use pixii_core::secret::{Nonces, Vault};
use pixii_core::types::NodeId;
use pixii_core::wire::PROTOCOL;
use pixii_transport::frames::{FrameMemory, Outbox};
use pixii_transport::inflow::Inflow;
use pixii_transport::locked;
use pixii_transport::throttle::LogThrottle;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::AbortHandle;

use budgets::Budgets;
use limiter::ConnectionLimiter;
use lookup::Lookups;
use operators::Operators;
use places::Places;
use runs::Runs;

/// A handshake, the connection's making included, is done in this time.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Events that wait for the engine; the connections stop reading beyond it.
const MAX_EVENTS: usize = 1_024;
/// A silent connection is probed after this time.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// A peer that takes nothing for so long is gone.
const PEER_TIMEOUT: Duration = Duration::from_secs(10);
/// A client that takes nothing for so long is gone.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(60);

/// What connections tell the engine.
#[derive(Debug)]
pub(crate) enum Event {
    /// The link on which messages leave for a peer came up or went down.
    Link { peer: NodeId, up: bool },
    /// A peer sent a message.
    Message { from: NodeId, message: PeerMessage, memory: FrameMemory },
    /// A client is there, with which this version of the protocol is spoken; its replies go in the
    /// outbox.
    Joined { client: ClientId, protocol: u16, outbox: Arc<Outbox> },
    /// A client made a call.
    Call { client: ClientId, call: Call, memory: FrameMemory },
    /// A client makes no more calls, and may still read replies.
    Silent { client: ClientId },
    /// A client is gone.
    Left { client: ClientId },
    /// A peer says that an operator has removed this node, in these words.
    Removed { why: String },
    /// A peer says that another daemon of this node's name runs, in these words.
    Duplicate { why: String },
}

/// Who this node is, as its handshakes say it.
#[derive(Debug)]
pub(crate) struct Identity {
    /// The cluster's name.
    pub(crate) cluster: String,
    /// This node's name.
    pub(crate) name: String,
    /// This node's id.
    pub(crate) me: NodeId,
    /// Every member, where it is configured to be; those that are removed too.
    pub(crate) members: Members,
    /// The version and the digest of the ring.
    pub(crate) ring: (u64, u64),
    /// The number of replicas and of partitions.
    pub(crate) shape: (u8, u16),
    /// How often the store has been started.
    pub(crate) incarnation: Incarnation,
    /// Drawn at random at this start.
    pub(crate) boot_nonce: u64,
    /// The birth of the store.
    pub(crate) birth: u64,
    /// Where this node is configured to be dialed, `host:port`.
    pub(crate) address: String,
}

/// Who is let in, and how often.
#[derive(Debug)]
pub(crate) struct Access {
    /// What peers and clients have to prove.
    pub(crate) secrets: Vault,
    /// Most clients of one address.
    pub(crate) per_address: usize,
    /// The nonces of this incarnation.
    pub(crate) nonces: Nonces,
}

/// Another member, as the connections to and from it share it.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Its id.
    pub(crate) id: NodeId,
    /// Its name.
    pub(crate) name: String,
    addresses: Mutex<Addresses>,
    /// What waits to be sent to it.
    pub(crate) outbox: Outbox,
    /// Rung when it connects to us: it is back, so dial it now.
    hurry: Notify,
    /// Rung when it has another address: an attempt that is in progress leads nowhere.
    elsewhere: Notify,
    /// The task that reads its connection to us.
    inbound: Mutex<Option<AbortHandle>>,
    runs: Mutex<Runs>,
    /// Look-ups of the names in its addresses.
    lookups: Lookups,
    /// Held while a newcomer of its name is weighed: one probe at a time.
    probing: tokio::sync::Mutex<()>,
    /// The version of the protocol on the link to it, or on the last one; 0 before there was one.
    protocol: AtomicU16,
    /// Why it refuses this node, as long as it does.
    rejection: Mutex<Option<String>>,
}

/// Where a peer may be. A node is its id: it may come back elsewhere.
#[derive(Debug)]
struct Addresses {
    configured: String,
    /// What was heard last.
    heard: String,
    /// What was dialed last.
    dialed: String,
}

impl Peer {
    fn new(id: NodeId, name: String, (configured, heard): (&str, &str), outbox: Outbox) -> Self {
        let (configured, heard) = (configured.to_owned(), heard.to_owned());
        let dialed = heard.clone();
        Peer {
            id,
            name,
            addresses: Mutex::new(Addresses { configured, heard, dialed }),
            outbox,
            hurry: Notify::new(),
            elsewhere: Notify::new(),
            inbound: Mutex::new(None),
            runs: Mutex::default(),
            lookups: Lookups::default(),
            probing: tokio::sync::Mutex::default(),
            protocol: AtomicU16::new(0),
            rejection: Mutex::default(),
        }
    }

    /// Where it listens, `host:port`: where the link leads while there is one, else where it was
    /// last heard to be.
    pub(crate) fn address(&self) -> String {
        let addresses = locked(&self.addresses);
        let known = if self.outbox.is_open() { &addresses.dialed } else { &addresses.heard };
        known.clone()
    }

    /// The version of the protocol that is spoken on the link to it, while there is one: nothing
    /// that only later versions know may be sent.
    pub(crate) fn protocol(&self) -> Option<u16> {
        self.outbox.is_open().then(|| self.protocol.load(Ordering::Relaxed))
    }

    /// From now on it is dialed at `address`, and at the configured one while neither answers. A
    /// link that is up stays as it is.
    pub(crate) fn moved(&self, address: &str) {
        let mut addresses = locked(&self.addresses);
        if addresses.heard != address {
            address.clone_into(&mut addresses.heard);
            drop(addresses);
            self.elsewhere.notify_one();
        }
    }

    /// The run that is heard is at `address`. A link to where another run was leads nowhere; one of
    /// an ordinary restart ends by itself.
    fn moved_for_good(&self, address: &str) {
        let astray = locked(&self.addresses).dialed != address && self.outbox.is_open();
        self.moved(address);
        if astray {
            self.outbox.shut();
        }
    }

    /// Why it refuses this node, if it does.
    pub(crate) fn rejection(&self) -> Option<String> {
        locked(&self.rejection).clone()
    }

    /// Where to dial it at the `attempt`th attempt, counted from 0.
    fn dial_at(&self, attempt: u32) -> String {
        let mut addresses = locked(&self.addresses);
        let Addresses { configured, heard, .. } = &*addresses;
        let at = if attempt.is_multiple_of(2) { heard } else { configured }.clone();
        addresses.dialed.clone_from(&at);
        at
    }
}

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Hub {
    /// Who this node is.
    pub(crate) identity: Identity,
    /// Every other member.
    pub(crate) peers: BTreeMap<NodeId, Arc<Peer>>,
    /// Nodes without a place here that have a later ring: they are listened to, and never dialed.
    strangers: Mutex<BTreeMap<NodeId, Arc<Peer>>>,
    events: mpsc::Sender<Event>,
    clients: Arc<Semaphore>,
    next_client: AtomicU64,
    secrets: Vault,
    nonces: Nonces,
    limiter: Arc<ConnectionLimiter>,
    /// Places of connections that read why they are refused; further ones may be cut before.
    turned_away: Semaphore,
    /// All sockets that were accepted.
    sockets: Arc<Semaphore>,
    operators: Arc<Operators>,
    /// How many connections of each kind there may be.
    pub(crate) places: Places,
    /// How much memory connections may take.
    pub(crate) budgets: Budgets,
    /// Memory for large frames of peers.
    pub(crate) peer_inflow: Arc<Inflow>,
    /// Memory for large frames of clients.
    pub(crate) client_inflow: Arc<Inflow>,
    /// Bytes of replies that clients have not read.
    client_unsent: Arc<AtomicUsize>,
    /// Clients whose connection was closed because of what they sent, or how slowly.
    pub(crate) closed_clients: AtomicU64,
    /// Limits the lines of the log that others can cause.
    pub(crate) log: Arc<LogThrottle>,
    /// Why this node cannot be dialed where it is configured to be, if it cannot.
    undialable: Mutex<Option<Complaint>>,
    /// True while this node has no links, because it is drained or ends.
    apart: watch::Sender<bool>,
}

impl Hub {
    /// The shared state of a node's connections, and the end where their events come out. `known`
    /// says where the members were last heard to be.
    pub(crate) fn new(
        identity: Identity,
        known: &Members,
        access: Access,
        places: Places,
        budgets: Budgets,
    ) -> (Arc<Self>, mpsc::Receiver<Event>) {
        let (events, receiver) = mpsc::channel(MAX_EVENTS);
        let log = Arc::<LogThrottle>::default();
        let unsent = Arc::new(AtomicUsize::new(0));
        let others = identity.members.iter().filter(|member| {
            member.id() != identity.me && member.membership != MembershipStatus::Removed
        });
        let peers = others.map(|member| {
            let heard = &known.get(member.id()).unwrap_or(member).address;
            let (id, name) = (member.id(), member.name.clone());
            let outbox = Outbox::new(budgets.peer_queues, unsent.clone());
            let peer = Peer::new(id, name, (&member.address, heard), outbox);
            (id, Arc::new(peer))
        });
        let hub = Hub {
            peers: peers.collect(),
            strangers: Mutex::default(),
            identity,
            events,
            clients: Arc::new(Semaphore::new(places.clients)),
            next_client: AtomicU64::new(1),
            secrets: access.secrets,
            nonces: access.nonces,
            limiter: ConnectionLimiter::new(places.handshakes, access.per_address),
            turned_away: Semaphore::new(places.rejections),
            sockets: Arc::new(Semaphore::new(places.sockets)),
            operators: Operators::new(places.operators),
            places,
            budgets,
            peer_inflow: Inflow::new("peers", budgets.peer_frames, log.clone()),
            client_inflow: Inflow::new("clients", budgets.client_frames, log.clone()),
            client_unsent: Arc::new(AtomicUsize::new(0)),
            closed_clients: AtomicU64::new(0),
            log,
            undialable: Mutex::default(),
            apart: watch::Sender::new(false),
        };
        (Arc::new(hub), receiver)
    }

    /// Closes the links to and from all peers and lets in none, or does so no more. What is queued
    /// for them still leaves.
    pub(crate) fn set_apart(&self, apart: bool) {
        self.apart.send_replace(apart);
        let strangers = locked(&self.strangers);
        for peer in self.peers.values().chain(strangers.values()).filter(|_| apart) {
            peer.outbox.finish();
            if let Some(inbound) = locked(&peer.inbound).take() {
                inbound.abort();
            }
        }
    }

    /// A node of this cluster that has no place here and a later ring, of which it may tell: this
    /// node may have lost its disk and begun with its configuration. With very many of them, those
    /// from before have to connect again.
    fn stranger(&self, node: NodeId) -> Arc<Peer> {
        let mut strangers = locked(&self.strangers);
        if strangers.len() >= self.places.strangers && !strangers.contains_key(&node) {
            for peer in std::mem::take(&mut *strangers).into_values() {
                if let Some(inbound) = locked(&peer.inbound).take() {
                    inbound.abort();
                }
            }
        }
        let name = format!("{node:?}");
        let outbox = Outbox::new(self.budgets.peer_queues, Arc::default());
        let make = || Arc::new(Peer::new(node, name, ("", ""), outbox));
        strangers.entry(node).or_insert_with(make).clone()
    }

    fn is_apart(&self) -> bool {
        *self.apart.borrow()
    }

    /// How this node is linked with the others.
    pub(crate) fn links(&self) -> LinksReport {
        let peers = self.peers.values().map(|peer| (peer.id, peer.protocol())).collect();
        LinksReport { secret: self.secrets.get().is_some(), protocol: PROTOCOL, peers }
    }

    /// Returns when there may be links.
    async fn together(&self) {
        // The sender lives as long as this.
        let _ = self.apart.subscribe().wait_for(|apart| !apart).await;
    }

    /// Bytes of replies that clients have not read, and most of them.
    pub(crate) fn unread_replies(&self) -> (usize, usize) {
        (self.client_unsent.load(Ordering::Relaxed), self.budgets.replies.total_bytes)
    }

    /// Why nobody can dial this node where it is configured to be, if that is so.
    pub(crate) fn undialable(&self) -> Option<Complaint> {
        locked(&self.undialable).clone()
    }
}

/// Sends small frames at once, and notices within about `timeout` that the other side lost its
/// power, whether bytes are on their way to it or not.
fn prepare(stream: &TcpStream, timeout: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 2);
    socket.set_tcp_keepalive(&keepalive.with_retries(2))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(timeout))?;
    #[cfg(not(target_os = "linux"))]
    let _ = timeout;
    Ok(())
}
