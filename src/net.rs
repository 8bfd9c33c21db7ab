//! Connections: who may connect, and how frames get in and out. The engine handles what they carry.
//!
//! Everything here runs on one thread; the locks only satisfy the types and are never waited for.

pub(crate) mod budgets;
pub(crate) mod http;
mod limiter;
pub(crate) mod listener;
mod lookup;
pub(crate) mod members;
mod operators;
pub(crate) mod peers;
pub(crate) mod places;
pub(crate) mod probe;
pub(crate) mod reachable;
mod runs;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pixii_core::members::{Incarnation, Members};
use pixii_core::message::{Call, Complaint, LinksReport, PeerMessage};
use pixii_core::node::ClientId;
use pixii_core::secret::{Nonces, Vault};
use pixii_core::types::NodeId;
use pixii_core::wire::{PROTOCOL, Speech};
use pixii_transport::frames::{FrameMemory, Outbox};
use pixii_transport::inflow::Inflow;
use pixii_transport::locked;
use pixii_transport::throttle::LogThrottle;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::AbortHandle;

use budgets::Budgets;
use limiter::ConnectionLimiter;
use lookup::Lookups;
use members::{Known, Memberships};
use operators::Operators;
use places::Places;
use runs::Runs;

/// A handshake, the connection's making included, is done in this time.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Events that wait for the engine; connections stop reading beyond it.
const MAX_EVENTS: usize = 1_024;
/// A client that accepts no bytes for this time is gone.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(60);

/// A report of a connection to the engine.
#[derive(Debug)]
pub(crate) enum Event {
    /// The link on which messages leave for a peer came up or went down.
    Link { peer: NodeId, up: bool },
    /// A peer sent a message.
    Message { from: NodeId, message: PeerMessage, memory: FrameMemory },
    /// A client has connected and speaks like this; its replies go in the outbox.
    Joined { client: ClientId, speech: Speech, outbox: Arc<Outbox> },
    /// A client made a call, whose frame takes this memory.
    Call { client: ClientId, call: Call, memory: FrameMemory },
    /// A client makes no more calls, and may still read replies.
    Silent { client: ClientId },
    /// A client is gone.
    Left { client: ClientId },
    /// A peer reports that an operator has removed this node; the text is the peer's.
    Removed { why: String },
    /// A peer reports that another daemon runs under this node's name; the text is the peer's.
    Duplicate { why: String },
}

/// The identity of this node, as it goes into its handshakes.
#[derive(Debug)]
pub(crate) struct Identity {
    /// Name of the cluster; a connection that names another one is refused.
    pub(crate) cluster: String,
    /// Name of this node, which is a member.
    pub(crate) name: String,
    /// The id that follows from `name`.
    pub(crate) me: NodeId,
    /// The number of replicas of a key, and of partitions.
    pub(crate) shape: (u8, u16),
    /// How often the store has been started.
    pub(crate) incarnation: Incarnation,
    /// Drawn at random at each start of the process.
    pub(crate) boot_nonce: u64,
    /// The birth of the store, drawn when it was created.
    pub(crate) birth: u64,
    /// Where this node is configured to be dialed, `host:port`.
    pub(crate) address: String,
}

/// What a connection has to prove, and how many there may be.
#[derive(Debug)]
pub(crate) struct Access {
    /// The secrets that peers and clients have to prove; they can change while the daemon runs.
    pub(crate) secrets: Vault,
    /// Most clients of one address.
    pub(crate) per_address: usize,
    /// The nonces of the handshakes of this incarnation.
    pub(crate) nonces: Nonces,
}

/// Another member, shared by the connections to and from it.
#[derive(Debug)]
pub(crate) struct Peer {
    /// The id that follows from `name`; it stays when the peer moves.
    pub(crate) id: NodeId,
    /// Name of the member, for the log and for reports.
    pub(crate) name: String,
    addresses: Mutex<Addresses>,
    /// Messages that wait to leave on the link to the peer.
    pub(crate) outbox: Outbox,
    /// Notified when the peer connects to this node: it is back, so it is dialed at once.
    hurry: Notify,
    /// Notified when the peer's address changes: an attempt in progress at the old one is given up.
    elsewhere: Notify,
    /// The task that reads the peer's connection to this node, if there is one.
    inbound: Mutex<Option<AbortHandle>>,
    /// The task that keeps the link to the peer open; `None` for a stranger, who is never dialed.
    link: Mutex<Option<AbortHandle>>,
    runs: Mutex<Runs>,
    /// Look-ups of the host names in its addresses.
    lookups: Lookups,
    /// Held while a newcomer of its name is checked: one probe at a time.
    probing: tokio::sync::Mutex<()>,
    /// How it is spoken with on the link to it, or on the last one; `None` before the first link.
    speech: Mutex<Option<Speech>>,
    /// Why it refuses this node; `None` if it does not.
    rejection: Mutex<Option<String>>,
}

/// The addresses at which a peer may be. A node is its id, so it may come back elsewhere.
#[derive(Debug)]
struct Addresses {
    configured: String,
    /// The address that the peer or other members reported last.
    heard: String,
    /// The address that was dialed last.
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
            link: Mutex::new(None),
            runs: Mutex::default(),
            lookups: Lookups::default(),
            probing: tokio::sync::Mutex::default(),
            speech: Mutex::default(),
            rejection: Mutex::default(),
        }
    }

    /// Its `host:port`: that of the link while there is one, else the one reported last.
    pub(crate) fn address(&self) -> String {
        let addresses = locked(&self.addresses);
        let known = if self.outbox.is_open() { &addresses.dialed } else { &addresses.heard };
        known.clone()
    }

    /// The version of the protocol that is spoken on the link to it, while there is one. Nothing
    /// that only later versions know may be sent.
    pub(crate) fn protocol(&self) -> Option<u16> {
        self.speech().map(|speech| speech.protocol)
    }

    /// How it is spoken with on the link to it, while there is one.
    pub(crate) fn speech(&self) -> Option<Speech> {
        locked(&self.speech).filter(|_| self.outbox.is_open())
    }

    /// From now on it is dialed at `address`, and at the configured address while neither answers.
    /// An open link stays.
    pub(crate) fn moved(&self, address: &str) {
        let mut addresses = locked(&self.addresses);
        if addresses.heard != address {
            address.clone_into(&mut addresses.heard);
            drop(addresses);
            self.elsewhere.notify_one();
        }
    }

    /// The accepted run is at `address`. A link to where another run was leads nowhere; that of an
    /// ordinary restart ends by itself.
    fn moved_for_good(&self, address: &str) {
        let astray = locked(&self.addresses).dialed != address && self.outbox.is_open();
        self.moved(address);
        if astray {
            self.outbox.shut();
        }
    }

    /// Why it refuses this node; `None` if it does not.
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

/// The state that all connections share.
#[derive(Debug)]
pub(crate) struct Hub {
    /// The identity that this node's handshakes carry.
    pub(crate) identity: Identity,
    known: Mutex<Arc<Known>>,
    /// The members with the addresses that the configuration has for them.
    configured: Members,
    /// Nodes without a place in this ring that have a later one: their messages are accepted, and
    /// they are never dialed.
    strangers: Mutex<BTreeMap<NodeId, Arc<Peer>>>,
    events: mpsc::Sender<Event>,
    clients: Arc<Semaphore>,
    next_client: AtomicU64,
    secrets: Vault,
    nonces: Nonces,
    limiter: Arc<ConnectionLimiter>,
    /// Limits refused connections that still read the reason; further ones may be cut before they
    /// have.
    turned_away: Semaphore,
    /// Limits all accepted sockets.
    sockets: Arc<Semaphore>,
    operators: Arc<Operators>,
    /// How many connections of each kind there may be.
    pub(crate) places: Places,
    /// How much memory connections may take.
    pub(crate) budgets: Budgets,
    /// Memory for large frames of peers, charged per peer.
    pub(crate) peer_inflow: Arc<Inflow>,
    /// Memory for large frames of clients, charged per address.
    pub(crate) client_inflow: Arc<Inflow>,
    /// Bytes that wait to leave for all peers.
    peers_unsent: Arc<AtomicUsize>,
    /// Bytes of replies that clients have not read.
    client_unsent: Arc<AtomicUsize>,
    /// Clients whose connection was closed because of what they sent or how slowly they read, since
    /// the start.
    pub(crate) closed_clients: AtomicU64,
    /// Limits the lines of the log that others can cause.
    pub(crate) log: Arc<LogThrottle>,
    /// Why this node cannot be dialed at its configured address; `None` if it can.
    undialable: Mutex<Option<Complaint>>,
    /// True while this node keeps no links, because it is drained or ends.
    apart: watch::Sender<bool>,
}

impl Hub {
    /// The shared state of a node's connections, and the receiver of their events.
    pub(crate) fn new(
        identity: Identity,
        memberships: Memberships,
        access: Access,
        places: Places,
        budgets: Budgets,
    ) -> (Arc<Self>, mpsc::Receiver<Event>) {
        let (events, receiver) = mpsc::channel(MAX_EVENTS);
        let log = Arc::<LogThrottle>::default();
        let Memberships { configured, members, ring } = memberships;
        let hub = Hub {
            known: Mutex::new(Arc::new(Known { ring, ..Known::default() })),
            configured,
            peers_unsent: Arc::default(),
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
        hub.learn(&members, ring);
        (Arc::new(hub), receiver)
    }

    /// With `true`, closes the links to and from all peers and accepts none; with `false`, permits
    /// them again. Queued messages still leave.
    pub(crate) fn set_apart(&self, apart: bool) {
        self.apart.send_replace(apart);
        let strangers = locked(&self.strangers);
        for peer in self.peers().values().chain(strangers.values()).filter(|_| apart) {
            peer.outbox.finish();
            if let Some(inbound) = locked(&peer.inbound).take() {
                inbound.abort();
            }
        }
    }

    /// A node of this cluster that has no place here and a later ring, which it may send: this node
    /// may have lost its disk and begun with its configuration. Beyond the limit, earlier ones have
    /// to connect again.
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

    /// The links of this node with the other members.
    pub(crate) fn links(&self) -> LinksReport {
        let peers = self.peers();
        let peers = peers.values().map(|peer| (peer.id, peer.protocol())).collect();
        LinksReport { secret: self.secrets.get().is_some(), protocol: PROTOCOL, peers }
    }

    /// Returns once links are permitted.
    async fn together(&self) {
        // The sender exists as long as this hub.
        let _ = self.apart.subscribe().wait_for(|apart| !apart).await;
    }

    /// Bytes of replies that clients have not read, and the most that are permitted.
    pub(crate) fn unread_replies(&self) -> (usize, usize) {
        (self.client_unsent.load(Ordering::Relaxed), self.budgets.replies.total_bytes)
    }

    /// Why nobody can dial this node at its configured address; `None` if it can be dialed.
    pub(crate) fn undialable(&self) -> Option<Complaint> {
        locked(&self.undialable).clone()
    }
}
