//! The dialing side: one connection to every other member, on which this node's messages leave.

use std::sync::Arc;
use std::time::Duration;

use pixii_core::rng::Rng;
use pixii_core::secret::Seal;
use pixii_core::wire::{Hello, MAX_HELLO_BYTES, Speech, Welcome};
use pixii_transport::frames::FrameReader;
use pixii_transport::handshake::{ODD_ANSWER, introduce, shown};
use pixii_transport::socket::{SENDER_TIMEOUT, prepare};
use pixii_transport::{limited, locked};
use tokio::io::AsyncReadExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{sleep, timeout};

use super::{Event, HANDSHAKE, Hub, Peer};

const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LAST_BACKOFF: Duration = Duration::from_secs(1);

/// Keeps the link to a peer open, for ever; `seed` spreads the attempts in time.
pub(crate) async fn retain_link(hub: Arc<Hub>, peer: Arc<Peer>, seed: u64) {
    let mut rng = Rng::new(seed);
    let mut backoff = FIRST_BACKOFF;
    let mut last_faults = [String::new(), String::new()];
    let name = &peer.name;
    let mut attempt = 0;
    loop {
        hub.together().await;
        let address = peer.dial_at(attempt);
        let dialing = timeout(HANDSHAKE, dial(&hub, &peer, &address));
        let Some(dialed) = unless_moved(&peer, &address, dialing).await else {
            (backoff, attempt) = (FIRST_BACKOFF, 0);
            continue;
        };
        let late = || {
            Err(LinkFault::Unreachable(format!(
                "no answer in {} \
            s",
                HANDSHAKE.as_secs()
            )))
        };
        match dialed.unwrap_or_else(|_| late()) {
            // The links were closed while this one was being dialed, so it is dropped.
            Ok(_) if hub.is_apart() => {}
            Ok(link) => {
                limited!(
                    hub.log.several("link_up", name),
                    info,
                    [event = "link_up", peer = name,],
                    "peer {name} is up at {address}"
                );
                *locked(&peer.rejection) = None;
                peer.outbox.open();
                let _ = hub.events.send(Event::Link { peer: peer.id, up: true }).await;
                let ended = carry(&peer, link).await;
                peer.outbox.shut();
                let _ = hub.events.send(Event::Link { peer: peer.id, up: false }).await;
                match ended {
                    Ok(()) => limited!(
                        hub.log.several("link_closed", name),
                        info,
                        [event = "link_closed", peer = name,],
                        "closed the link to peer {name}"
                    ),
                    Err(fault) => limited!(
                        hub.log.several("link_down", name),
                        warn,
                        [event = "link_down", peer = name,],
                        "peer {name} is down: {fault}"
                    ),
                }
                (backoff, last_faults) = (FIRST_BACKOFF, Default::default());
            }
            Err(fault) => {
                *locked(&peer.rejection) = fault.rejection();
                let fault = format!("cannot reach peer {name} at {address}, trying on: {fault}");
                // With two addresses, each has its own fault, logged when its turn comes.
                if !last_faults.contains(&fault) {
                    let permit = hub.log.several("unreachable", name);
                    limited!(permit, warn, [event = "unreachable", peer = name,], "{fault}");
                    last_faults[attempt as usize % 2] = fault;
                }
                attempt = attempt.wrapping_add(1);
            }
        }
        let rest = backoff / 2 + backoff.mul_f64(rng.unit() / 2.0);
        backoff = (backoff * 2).min(LAST_BACKOFF);
        tokio::select! {
            () = sleep(rest) => {}
            () = peer.hurry.notified() => (backoff, attempt) = (FIRST_BACKOFF, 0),
            () = peer.elsewhere.notified() => (backoff, attempt) = (FIRST_BACKOFF, 0),
        }
    }
}

/// The result of `dialing`, or `None` once the peer is reported to be elsewhere than at `address`.
async fn unless_moved<T>(
    peer: &Peer,
    address: &str,
    dialing: impl Future<Output = T>,
) -> Option<T> {
    tokio::pin!(dialing);
    loop {
        tokio::select! {
            dialed = &mut dialing => return Some(dialed),
            // A notification from before this attempt may be about this very address.
            () = peer.elsewhere.notified() => if locked(&peer.addresses).heard != address {
                return None;
            },
        }
    }
}

/// An open link: only messages to the peer leave on it, sealed if there is a secret.
struct Link {
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
    seal: Option<Seal>,
}

/// Why a peer cannot be used.
#[derive(Debug, thiserror::Error)]
enum LinkFault {
    /// Nobody answers, or not as a peer does.
    #[error("{0}")]
    Unreachable(String),
    /// It answers, and refuses this node.
    #[error("it refuses: {0}")]
    Refused(String),
}

impl LinkFault {
    fn rejection(&self) -> Option<String> {
        match self {
            LinkFault::Unreachable(_) => None,
            LinkFault::Refused(why) => Some(why.clone()),
        }
    }
}

/// Connects and shakes hands; the error is a sentence for the operator.
async fn dial(hub: &Hub, peer: &Peer, address: &str) -> Result<Link, LinkFault> {
    let ours = &hub.identity;
    let (cluster, ring, node, to) = (ours.cluster.clone(), hub.known().ring, ours.me, peer.id);
    let (incarnation, boot_nonce) = (ours.incarnation, ours.boot_nonce);
    let (birth, own) = (ours.birth, ours.address.clone());
    let hello =
        Hello::Member { cluster, ring, node, to, incarnation, boot_nonce, birth, address: own };
    let welcomed = greet(hub, peer, address, &hello).await;
    let (welcome, speech, link) = welcomed.map_err(LinkFault::Unreachable)?;
    match welcome {
        Welcome::Accepted { cluster, name } if (&cluster, &name) == (&ours.cluster, &peer.name) => {
            *locked(&peer.speech) = Some(speech);
            Ok(link)
        }
        Welcome::Accepted { cluster, name } => {
            let (cluster, name) = (cluster.escape_debug(), name.escape_debug());
            let who = format!("node \"{name}\" of cluster \"{cluster}\" answers there");
            Err(LinkFault::Unreachable(who))
        }
        Welcome::Refused(why) => Err(LinkFault::Refused(shown(&why))),
        Welcome::Removed(why) => {
            let why = shown(&why);
            let _ = hub.events.send(Event::Removed { why: why.clone() }).await;
            Err(LinkFault::Refused(why))
        }
        Welcome::Duplicate(why) => {
            let why = shown(&why);
            let _ = hub.events.send(Event::Duplicate { why: why.clone() }).await;
            Err(LinkFault::Refused(why))
        }
        Welcome::Challenge(_) | Welcome::Proven { .. } | Welcome::Probed { .. } => {
            Err(LinkFault::Unreachable(ODD_ANSWER.to_owned()))
        }
    }
}

/// Connects and introduces this node. Returns the answer, how both sides speak, and the connection.
async fn greet(
    hub: &Hub,
    peer: &Peer,
    address: &str,
    hello: &Hello,
) -> Result<(Welcome, Speech, Link), String> {
    let stated = |error: std::io::Error| error.to_string();
    let stream = peer.lookups.connect(address).await.map_err(stated)?;
    prepare(&stream, SENDER_TIMEOUT).map_err(stated)?;
    let (mut read, mut write) = stream.into_split();
    let mut reader = FrameReader::new(&mut read, MAX_HELLO_BYTES);
    let secrets = hub.secrets.get();
    let secret = secrets.as_ref().map(|secrets| (secrets.peers.first(), hub.nonces.fresh()));
    let (welcome, agreed) = introduce(&mut reader, &mut write, hello, secret).await?;
    Ok((welcome, agreed.speech, Link { read, write, seal: agreed.seal }))
}

/// Sends the frames of the outbox. Returns Ok when the outbox was finished, else why the link
/// broke.
async fn carry(peer: &Peer, link: Link) -> Result<(), String> {
    let Link { mut read, mut write, seal } = link;
    let mut byte = [0];
    tokio::select! {
        read = read.read(&mut byte) => Err(match read {
            Ok(0) => "it closed the connection".to_owned(),
            Ok(_) => "it spoke on a connection that is only to listen on".to_owned(),
            Err(error) => error.to_string(),
        }),
        sent = peer.outbox.write_to(&mut write, seal) => sent.map_err(|error| error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use pixii_core::members::{Incarnation, Member, Members};
    use pixii_core::ring::RingId;
    use pixii_core::secret::{Nonces, Vault};
    use pixii_core::types::NodeId;
    use pixii_core::wire;
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::net::budgets::Budgets;
    use crate::net::members::Memberships;
    use crate::net::places::Places;
    use crate::net::{Access, Identity};

    const TIMEOUT: Duration = Duration::from_secs(30);

    async fn listener() -> (TcpListener, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        (listener, address)
    }

    /// Accepts the handshake of the dialing node, as n2.
    async fn welcome(listener: &TcpListener) -> TcpStream {
        let accepted = timeout(TIMEOUT, listener.accept()).await.unwrap();
        let (mut stream, _) = accepted.unwrap();
        let welcome = Welcome::Accepted { cluster: "test".into(), name: "n2".into() };
        let mut bytes = BytesMut::from(&wire::preamble()[..]);
        wire::put_frame(&mut bytes, &welcome, None);
        stream.write_all(&bytes).await.unwrap();
        stream
    }

    #[tokio::test]
    async fn a_peer_is_dialed_where_it_was_last_heard_to_be_and_where_it_is_configured() {
        let ((first, configured), (second, heard)) = (listener().await, listener().await);
        let members = [("n1", "127.0.0.1:1"), ("n2", configured.as_str())];
        let members = Members::new(members.map(|(n, at)| Member::configured(n, at)).into());
        let identity = Identity {
            cluster: "test".into(),
            name: "n1".into(),
            me: NodeId::of("n1"),
            shape: (1, 1),
            incarnation: Incarnation(1),
            boot_nonce: 1,
            birth: 1,
            address: "127.0.0.1:1".into(),
        };
        let access =
            Access { secrets: Vault::default(), per_address: 8, nonces: Nonces::new([7; 32]) };
        let places = Places::of(1_024, 1);
        let ring = RingId { version: 1, digest: 1 };
        let known = Memberships { configured: members.clone(), members, ring };
        let (hub, mut events) = Hub::new(identity, known, access, places, Budgets::of(None, 0));
        let peer = hub.peers()[&NodeId::of("n2")].clone();
        let mut up = async |expected: bool| {
            let event = timeout(TIMEOUT, events.recv()).await.unwrap();
            assert!(matches!(event, Some(Event::Link { up, .. }) if up == expected), "{event:?}");
        };
        let link = tokio::spawn(retain_link(hub.clone(), peer.clone(), 1));
        let stream = welcome(&first).await;
        up(true).await;
        assert_eq!(peer.address(), configured);
        // The peer has moved: the link stays, and the next one leads to the new address.
        peer.moved(&heard);
        assert_eq!(peer.address(), configured);
        drop((stream, first));
        up(false).await;
        assert_eq!(peer.address(), heard);
        let stream = welcome(&second).await;
        up(true).await;
        assert_eq!(peer.address(), heard);
        // The peer moves back: nobody answers at the new address, so the configured one has its
        // turn.
        drop((stream, second));
        up(false).await;
        let first = TcpListener::bind(&configured).await.unwrap();
        let _stream = welcome(&first).await;
        up(true).await;
        assert_eq!(peer.address(), configured);
        link.abort();
    }
}
