//! The accepting side: handshakes, peers' messages, clients' calls and their replies.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use pixii_core::members::{Member, Members, MembershipStatus, check_address};
use pixii_core::message::{
    Call, CallBody, PeerMessage, Rejection, Reply, ReplyBody, Resource, Response,
};
use pixii_core::ring::RingId;
use pixii_core::secret::Seal;
use pixii_core::types::NodeId;
use pixii_core::wire::{Hello, MAX_FRAME_BYTES, MAX_HELLO_BYTES, Speech, Welcome};
use pixii_transport::frames::{FrameMemory, FrameReader, Outbox, ReadError};
use pixii_transport::handshake::{Reception, Unheard};
use pixii_transport::inflow::Holder;
use pixii_transport::socket::{SENDER_TIMEOUT, prepare};
use pixii_transport::{limited, locked};
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::budgets::MAX_CALL_BYTES;
use super::limiter::{ClientPermit, ConnectionPermit};
use super::operators::OperatorPlace;
use super::runs::{self, Entry, Run};
use super::{CLIENT_TIMEOUT, Event, HANDSHAKE, Hub, Identity, Peer};

/// Wait after an accept that failed, mostly because descriptors are missing.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
/// Time in which a connection may still send before it is cut: closing a socket with unread bytes
/// would destroy the last bytes sent on it.
const LINGER: Duration = Duration::from_millis(500);
const LINGER_BYTES: u64 = 64 << 10;

/// The kind of the log lines about refused connections.
const REFUSED: &str = "refused";
/// Most bytes of a list of members' names in a rejection.
const MAX_LISTED_BYTES: usize = 400;

/// An accepted connection, with both halves of its socket.
struct Connection {
    from: SocketAddr,
    reader: FrameReader<OwnedReadHalf>,
    write: OwnedWriteHalf,
    /// Its place among all accepted sockets; free when it is closed.
    socket: OwnedSemaphorePermit,
}

/// The party that a connection was accepted as.
enum Admitted {
    Peer(Arc<Peer>),
    Client(Place),
    /// A probe: it has been answered, and the connection ends.
    Probe,
}

/// The place that a client's connection takes.
enum Place {
    /// One of the places of its address, and of all clients.
    Client { client_permit: ClientPermit, _slot: OwnedSemaphorePermit },
    /// A place for the operator: it serves no requests for data, because of these limits.
    Operator(OperatorPlace, Busy),
}

/// A limit that a client exceeded.
struct Busy {
    what: Resource,
    limit: usize,
}

/// Why a connection was not let in.
enum Rejected {
    /// It ended before it sent anything, as a port scan does.
    Silent,
    /// The socket failed, or its bytes were no handshake.
    Broken(ReadError),
    /// The name that it gave, and the reason, which it is sent.
    Refused(String, String),
    /// A node that was removed: its name and the reason.
    Removed(String, String),
    /// A copy of a node that runs: its name and the reason.
    Duplicate(String, String),
}

impl<E: Into<ReadError>> From<E> for Rejected {
    fn from(error: E) -> Self {
        Rejected::Broken(error.into())
    }
}

/// Accepts connections for ever. Without a place for another socket it waits: the kernel queues new
/// connections, and each connection that gives way makes room.
pub(crate) async fn accept(listener: TcpListener, hub: Arc<Hub>) {
    loop {
        // The semaphore is never closed.
        let Ok(socket) = hub.sockets.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, from)) => {
                let permit = hub.limiter.enter(from.ip());
                let connection = Connection::new(stream, from, socket);
                tokio::spawn(admit(hub.clone(), connection, permit));
            }
            Err(error) => {
                let permit = hub.log.once("accept", "", &error.to_string());
                limited!(permit, warn, [], "cannot accept a connection: {error}");
                drop(socket);
                sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

impl Connection {
    fn new(stream: TcpStream, from: SocketAddr, socket: OwnedSemaphorePermit) -> Self {
        let (read, write) = stream.into_split();
        let reader = FrameReader::new(read, MAX_HELLO_BYTES);
        Connection { from, reader, write, socket }
    }
}

async fn admit(hub: Arc<Hub>, mut connection: Connection, permit: ConnectionPermit) {
    let from = connection.from;
    let mut reception = Reception::new(hub.secrets.get());
    let admitted = tokio::select! {
        admitted = timeout(HANDSHAKE, shake_hands(&hub, &mut connection, &mut reception,
            &permit)) => {
            admitted.unwrap_or_else(|_| {
                let late = format!("no handshake within {} s", HANDSHAKE.as_secs());
                Err(Rejected::Refused(from.ip().to_string(), late))
            })
        }
        () = permit.called() => {
            Err(Rejected::Refused(from.ip().to_string(), gives_way(&hub)))
        }
    };
    drop(permit);
    let (who, why, welcome) = match admitted {
        Ok(Admitted::Peer(peer)) => {
            let protocol = reception.speech().protocol;
            // Nothing leaves on this connection, so only its reader has a seal.
            reception.seal(&mut connection.reader);
            return receive_from(hub, connection, peer, protocol);
        }
        Ok(Admitted::Client(place)) => {
            let speech = reception.speech();
            let seal = reception.seal(&mut connection.reader);
            return serve_client(&hub, connection, speech, seal, place).await;
        }
        Ok(Admitted::Probe) => return,
        Err(Rejected::Silent) => return,
        Err(Rejected::Broken(error)) => {
            let permit = hub.log.once("handshake", &from.ip().to_string(), &error.to_string());
            limited!(permit, warn, [], "closed a connection from {from} in its handshake: {error}");
            return;
        }
        Err(Rejected::Refused(who, why)) => (who, why.clone(), Welcome::Refused(why)),
        Err(Rejected::Removed(who, why)) => (who, why.clone(), Welcome::Removed(why)),
        Err(Rejected::Duplicate(who, why)) => (who, why.clone(), Welcome::Duplicate(why)),
    };
    let name = if who == from.ip().to_string() { String::new() } else { format!(", {who}") };
    let permit = hub.log.once(REFUSED, &who, &why);
    limited!(permit, warn, [], "refused a connection from {from}{name}: {why}");
    let answer = reception.answer(&welcome);
    match hub.turned_away.try_acquire() {
        Ok(_place) => drop(timeout(LINGER, refuse(connection, answer)).await),
        // Of very many refused connections at once, some are cut before they have read the reason.
        Err(_) => drop(connection.write.try_write(&answer)),
    }
}

fn gives_way(hub: &Hub) -> String {
    let most = hub.places.handshakes;
    format!(
        "too many handshakes are in progress, {most} at most: this is the oldest of the address \
         that has most of them"
    )
}

async fn refuse(mut connection: Connection, answer: BytesMut) -> io::Result<()> {
    connection.write.write_all(&answer).await?;
    connection.write.shutdown().await?;
    connection.reader.drain(LINGER_BYTES).await;
    Ok(())
}

async fn shake_hands(
    hub: &Hub,
    connection: &mut Connection,
    reception: &mut Reception,
    permit: &ConnectionPermit,
) -> Result<Admitted, Rejected> {
    let Connection { from, reader, write, .. } = connection;
    let refused = |why: String| Rejected::Refused(from.ip().to_string(), why);
    let hello = reception.hear(reader, write, &hub.nonces).await.map_err(|fault| match fault {
        Unheard::Silent => Rejected::Silent,
        Unheard::Broken(error) => Rejected::Broken(error),
        Unheard::Refused(why) => refused(why),
    })?;
    let accepted = || {
        let (cluster, name) = (hub.identity.cluster.clone(), hub.identity.name.clone());
        Welcome::Accepted { cluster, name }
    };
    let (admitted, welcome) = match hello {
        Hello::Member { cluster, ring, node, to, boot_nonce, address, .. } => {
            prepare(reader.half().as_ref(), SENDER_TIMEOUT)?;
            reader.allow(MAX_FRAME_BYTES, hub.peer_inflow.clone(), Holder::Peer(node));
            let run = Run { nonce: boot_nonce, from: *from, address };
            let peer = let_in(hub, Newcomer { cluster, ring, node, to, run }).await?;
            (Admitted::Peer(peer), accepted())
        }
        Hello::Probe { cluster } => {
            check_cluster(hub, &cluster).map_err(refused)?;
            let Identity { name, birth, boot_nonce, .. } = &hub.identity;
            let (name, birth, boot_nonce) = (name.clone(), *birth, *boot_nonce);
            (Admitted::Probe, Welcome::Probed { name, birth, boot_nonce })
        }
        _ => {
            prepare(reader.half().as_ref(), CLIENT_TIMEOUT)?;
            let holder = Holder::Clients(permit.address());
            reader.allow(MAX_CALL_BYTES, hub.client_inflow.clone(), holder);
            (Admitted::Client(place(hub, permit).map_err(refused)?), accepted())
        }
    };
    write.write_all(&reception.answer(&welcome)).await?;
    Ok(admitted)
}

/// A place for a client: an ordinary one, else one of the operator's, or why there is none.
fn place(hub: &Hub, permit: &ConnectionPermit) -> Result<Place, String> {
    let (why, busy) = match permit.client_permit() {
        Ok(client_permit) => match hub.clients.clone().try_acquire_owned() {
            Ok(_slot) => return Ok(Place::Client { client_permit, _slot }),
            Err(_) => {
                let limit = hub.places.clients;
                let why = format!("{limit} clients are connected, the limit of this node");
                (why, Busy { what: Resource::Clients, limit })
            }
        },
        Err(full) => {
            let what = Resource::AddressClients { address: full.at.to_string() };
            (full.to_string(), Busy { what, limit: full.most })
        }
    };
    let operator = hub.operators.enter().map(|place| Place::Operator(place, busy));
    operator.ok_or(why)
}

/// A node that connects as a peer.
struct Newcomer {
    cluster: String,
    ring: RingId,
    node: NodeId,
    to: NodeId,
    run: Run,
}

/// Returns the peer that the newcomer is, unless something speaks against it. From then on it is
/// dialed at the address that it reports.
async fn let_in(hub: &Hub, newcomer: Newcomer) -> Result<Arc<Peer>, Rejected> {
    let Newcomer { cluster, ring, node, to, run } = newcomer;
    // A stranger can make up any number of names, so the log names a non-member by its address.
    let known = hub.known();
    let member = known.members.get(node);
    let who = member.map_or_else(|| run.from.ip().to_string(), |member| member.name.clone());
    let refused = |why: String| Rejected::Refused(who.clone(), why);
    check_membership(hub, &cluster, node)?;
    if hub.is_apart() {
        let name = &hub.identity.name;
        return Err(refused(format!("node {name} is drained or stopping, and has no links")));
    }
    let peer = check_peer(hub, &cluster, ring, node, &run.address, to);
    let peer = peer.map_err(refused)?;
    check_address("address", &run.address).map_err(refused)?;
    let entry = runs::admit(hub, &peer, &run).await;
    match entry.map_err(|why| Rejected::Duplicate(who.clone(), why))? {
        Entry::Known => peer.moved(&run.address),
        Entry::Displaced => peer.moved_for_good(&run.address),
    }
    hub.log.forget(REFUSED, &who);
    Ok(peer)
}

fn check_cluster(hub: &Hub, cluster: &str) -> Result<(), String> {
    let ours = &hub.identity;
    if cluster == ours.cluster {
        return Ok(());
    }
    let shown: String = cluster.escape_debug().take(64).collect();
    Err(format!("node {} is of cluster \"{}\", not \"{shown}\"", ours.name, ours.cluster))
}

/// Refuses a node that an operator has removed.
fn check_membership(hub: &Hub, cluster: &str, node: NodeId) -> Result<(), Rejected> {
    let known = hub.known();
    let member = known.members.get(node);
    let removed = member.filter(|member| member.membership == MembershipStatus::Removed);
    match removed.filter(|_| cluster == hub.identity.cluster) {
        None => Ok(()),
        Some(Member { name, .. }) => Err(Rejected::Removed(
            name.clone(),
            format!(
                "node {name} was removed from cluster {cluster} by its operator, and others have \
                 its places: what \
                 it holds is not taken, and its name does not return"
            ),
        )),
    }
}

fn check_peer(
    hub: &Hub,
    cluster: &str,
    ring: RingId,
    node: NodeId,
    address: &str,
    to: NodeId,
) -> Result<Arc<Peer>, String> {
    let ours = &hub.identity;
    let name = &ours.name;
    check_cluster(hub, cluster)?;
    if node == ours.me {
        return Err(format!(
            "node {name} was dialed by its own name: is a member's address wrong?"
        ));
    }
    let known = hub.known();
    let Some(peer) = known.peers.get(&node) else {
        if ring.version > known.ring.version && to == ours.me {
            return Ok(hub.stranger(node));
        }
        let address: String = address.escape_debug().take(64).collect();
        return Err(format!(
            "the node that says that it is at {address} (id {node:?}) is not among the members \
             that node {name} knows"
        ));
    };
    if to != ours.me {
        return Err(format!(
            "this is node {name}, not the one dialed: is a member's address wrong?"
        ));
    }
    // Of two versions the later one is in force, which the nodes settle between them.
    if ring.version == 1 && known.ring.version == 1 && ring.digest != known.ring.digest {
        let theirs = &peer.name;
        return Err(format!(
            "members, n or partitions differ between the configurations of {name} and {theirs}: \
             {name} has {}",
            shape(ours.shape, &known.members)
        ));
    }
    Ok(peer.clone())
}

/// Describes the sizes of this node's ring, in a text that fits in a frame of a handshake. Of the
/// other side's ring only the digest is known.
fn shape((n, partitions): (u8, u16), members: &Members) -> String {
    let names: Vec<&str> = members.iter().map(|member| &*member.name).collect();
    let (count, names) = (names.len(), names.join(", "));
    let named = if names.len() <= MAX_LISTED_BYTES { format!(": {names}") } else { String::new() };
    format!("n = {n}, {partitions} partitions and {count} members{named}")
}

/// Reads a peer's messages in a task of its own, which replaces the task of an older connection of
/// that peer.
fn receive_from(hub: Arc<Hub>, connection: Connection, peer: Arc<Peer>, protocol: u16) {
    if hub.is_apart() {
        return;
    }
    let reading = peer.clone();
    let task = tokio::spawn(async move {
        let peer = reading;
        // Nothing is written, but the half has to stay open: closing it would signal to the peer
        // that this node is gone.
        let Connection { mut reader, write: _write, socket: _socket, .. } = connection;
        loop {
            match next_message(&mut reader, protocol).await {
                Ok(Some((message, memory))) => {
                    let event = Event::Message { from: peer.id, message, memory };
                    if hub.events.send(event).await.is_err() {
                        return;
                    }
                }
                Ok(None) => return debug!("{} closed its connection", peer.name),
                Err(error @ ReadError::Io(_)) => {
                    return debug!("lost the connection from {}: {error}", peer.name);
                }
                Err(error) => {
                    let permit = hub.log.once("peer_closed", &peer.name, &error.to_string());
                    limited!(permit, warn, [], "closed the connection from {}: {error}", peer.name);
                    return;
                }
            }
        }
    });
    if let Some(older) = locked(&peer.inbound).replace(task.abort_handle()) {
        older.abort();
    }
    if !peer.outbox.is_open() {
        peer.hurry.notify_one();
    }
}

/// The next message of a peer that speaks `protocol`.
async fn next_message(
    reader: &mut FrameReader<OwnedReadHalf>,
    protocol: u16,
) -> Result<Option<(PeerMessage, FrameMemory)>, ReadError> {
    let Some((payload, memory)) = reader.payload().await? else { return Ok(None) };
    Ok(Some((PeerMessage::decode(&payload, protocol)?, memory)))
}

async fn serve_client(
    hub: &Hub,
    connection: Connection,
    speech: Speech,
    seal: Option<Seal>,
    place: Place,
) {
    let Connection { from, mut reader, mut write, socket: _socket } = connection;
    let client = hub.next_client.fetch_add(1, Ordering::Relaxed);
    let outbox = Arc::new(place.outbox(hub));
    outbox.open();
    let joined = Event::Joined { client, speech, outbox: outbox.clone() };
    if hub.events.send(joined).await.is_err() {
        return;
    }
    // True when the client has sent its last call and its connection is whole.
    let calls = async {
        loop {
            // A client that does not read its replies may not send more calls.
            outbox.room().await;
            match reader.next::<Call>().await {
                Ok(Some((call, memory))) => {
                    if let Some(rejection) = place.refuses(&call) {
                        outbox.push(rejection.frame(speech));
                        continue;
                    }
                    let event = Event::Call { client, call, memory };
                    if hub.events.send(event).await.is_ok() {
                        continue;
                    }
                }
                Ok(None) => return true,
                Err(error @ ReadError::Io(_)) => debug!("lost client {from}: {error}"),
                Err(error) => closed(hub, from, &error.to_string()),
            }
            return false;
        }
    };
    let replies = outbox.write_to(&mut write, seal);
    tokio::pin!(calls, replies);
    let reported = |written| {
        if let Err(error) = written {
            debug!("lost client {from}: {error}");
        }
    };
    tokio::select! {
        is_silent = &mut calls => {
            // It may have closed its sending half only: calls in progress are still answered.
            if is_silent && hub.events.send(Event::Silent { client }).await.is_ok() {
                reported(replies.await);
            }
        }
        written = &mut replies => match written {
            Ok(()) => drop(timeout(LINGER, calls).await),
            Err(error) if error.get_ref().is_some() => closed(hub, from, &error.to_string()),
            Err(error) => reported(Err(error)),
        },
        () = place.gives_way() => debug!("client {from} gives its place to another operator"),
    }
    outbox.shut();
    let _ = hub.events.send(Event::Left { client }).await;
}

/// Counts and logs that a client's connection was closed because of what it sent or how slowly it
/// reads.
fn closed(hub: &Hub, from: SocketAddr, why: &str) {
    hub.closed_clients.fetch_add(1, Ordering::Relaxed);
    let permit = hub.log.several("client_closed", &from.ip().to_string());
    limited!(permit, warn, [], "closed the connection of client {from}: {why}");
}

impl Place {
    fn outbox(&self, hub: &Hub) -> Outbox {
        let of_address = match self {
            Place::Client { client_permit, .. } => client_permit.unsent.clone(),
            Place::Operator(..) => Arc::default(),
        };
        Outbox::of_address(hub.budgets.replies, hub.client_unsent.clone(), of_address)
    }

    /// The answer to a call that this place does not serve; `None` for a call that it does.
    fn refuses(&self, call: &Call) -> Option<Reply> {
        let Place::Operator(place, Busy { what, limit }) = self else { return None };
        place.called();
        if !matches!(call.body, CallBody::Data { .. }) {
            return None;
        }
        let limit = u32::try_from(*limit).unwrap_or(u32::MAX);
        let rejection = Rejection::Busy { what: what.clone(), limit };
        Some(Reply { id: call.id, body: ReplyBody::Data(Response::Refused(rejection)) })
    }

    /// Returns when this connection has to give way to another one; for an ordinary client never.
    async fn gives_way(&self) {
        match self {
            Place::Client { .. } => std::future::pending().await,
            Place::Operator(place, _) => place.gives_way().await,
        }
    }
}
