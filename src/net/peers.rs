//! The dialing side: to every other member one connection on which our messages leave, for ever.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::frames::FrameReader;
use super::{Event, HANDSHAKE, Hub, PEER_TIMEOUT, Peer, prepare};
use crate::rng::Rng;
use crate::wire::{self, Hello, MAX_HELLO_BYTES, Welcome};

const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LAST_BACKOFF: Duration = Duration::from_secs(1);

/// Keeps up the link to a peer until its outbox is finished; `seed` spreads the attempts in time.
pub(crate) async fn keep_link(hub: Arc<Hub>, peer: Arc<Peer>, seed: u64) {
    let mut rng = Rng::new(seed);
    let mut backoff = FIRST_BACKOFF;
    let mut last_fault = String::new();
    let name = &peer.member.name;
    loop {
        let dialed = timeout(HANDSHAKE, dial(&hub, &peer)).await;
        let late = || Err(format!("no answer in {} s", HANDSHAKE.as_secs()));
        match dialed.unwrap_or_else(|_| late()) {
            Ok((read, write)) => {
                info!("peer {name} is up at {}", peer.member.address);
                peer.outbox.open();
                let _ = hub.events.send(Event::Link { peer: peer.id, up: true }).await;
                let ended = carry(&peer, read, write).await;
                peer.outbox.shut();
                let _ = hub.events.send(Event::Link { peer: peer.id, up: false }).await;
                let Err(fault) = ended else { return };
                warn!("peer {name} is down: {fault}");
                (backoff, last_fault) = (FIRST_BACKOFF, String::new());
            }
            Err(fault) => {
                if fault != last_fault {
                    warn!(
                        "cannot reach peer {name} at {}, trying on: {fault}",
                        peer.member.address
                    );
                    last_fault = fault;
                }
            }
        }
        let rest = backoff / 2 + backoff.mul_f64(rng.unit() / 2.0);
        backoff = (backoff * 2).min(LAST_BACKOFF);
        tokio::select! {
            () = sleep(rest) => {}
            () = peer.hurry.notified() => backoff = FIRST_BACKOFF,
        }
    }
}

/// Connects and shakes hands; the error is what to tell the operator.
async fn dial(hub: &Hub, peer: &Peer) -> Result<(OwnedReadHalf, OwnedWriteHalf), String> {
    let said = |error: std::io::Error| error.to_string();
    let stream = TcpStream::connect(&peer.member.address).await.map_err(said)?;
    prepare(&stream, PEER_TIMEOUT).map_err(said)?;
    let (mut read, mut write) = stream.into_split();
    let ours = &hub.identity;
    let mut bytes = BytesMut::from(&wire::preamble()[..]);
    let hello = Hello::Peer {
        cluster: ours.cluster.clone(),
        ring: ours.ring,
        node: ours.me,
        to: peer.id,
        incarnation: ours.incarnation,
        boot_nonce: ours.boot_nonce,
    };
    wire::put_frame(&mut bytes, &hello);
    write.write_all(&bytes).await.map_err(said)?;
    let mut reader = FrameReader::new(&mut read, MAX_HELLO_BYTES, hub.peer_inflow.clone());
    let gone = || "it closed the connection in the handshake".to_owned();
    let preamble = reader.preamble().await.map_err(|e| e.to_string())?.ok_or_else(gone)?;
    wire::check_preamble(&preamble).map_err(|error| error.to_string())?;
    let (welcome, _) = reader.next().await.map_err(|e| e.to_string())?.ok_or_else(gone)?;
    match welcome {
        Welcome::Refused(why) => {
            let shown: String = why.chars().filter(|c| !c.is_control()).collect();
            Err(format!("it refuses: {shown}"))
        }
        Welcome::Accepted { cluster, name }
            if (&cluster, &name) != (&ours.cluster, &peer.member.name) =>
        {
            let (cluster, name) = (cluster.escape_debug(), name.escape_debug());
            Err(format!("node \"{name}\" of cluster \"{cluster}\" answers there"))
        }
        Welcome::Accepted { .. } => Ok((read, write)),
    }
}

/// Sends what the outbox has. Ok when the outbox was finished, and else why the link broke.
async fn carry(
    peer: &Peer,
    mut read: OwnedReadHalf,
    mut write: OwnedWriteHalf,
) -> Result<(), String> {
    let mut byte = [0];
    tokio::select! {
        read = read.read(&mut byte) => Err(match read {
            Ok(0) => "it closed the connection".to_owned(),
            Ok(_) => "it spoke on a connection that is only to listen on".to_owned(),
            Err(error) => error.to_string(),
        }),
        sent = peer.outbox.write_to(&mut write) => sent.map_err(|error| error.to_string()),
    }
}
