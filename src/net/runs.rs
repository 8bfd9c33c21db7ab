//! The runs of a peer's daemon, distinguished by their boot nonces, and which of them is accepted:
//! a copy of a data directory does not displace a daemon that runs.

use std::net::SocketAddr;

use pixii_transport::locked;

use super::probe::probe;
use super::{Hub, Peer};

/// How often the check of a newcomer is repeated because another one came in between.
const ROUNDS: u32 = 3;

/// One run of a peer's daemon, as it introduced itself.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// The boot nonce, drawn at random at its start.
    pub(crate) nonce: u64,
    /// The address that it connected from.
    pub(crate) from: SocketAddr,
    /// The address at which it says that it can be dialed.
    pub(crate) address: String,
}

/// The runs of one peer that have connected.
#[derive(Debug, Default)]
pub(super) struct Runs {
    /// The run whose messages are accepted.
    heard: Option<Run>,
}

impl Runs {
    fn take(&mut self, run: &Run) {
        self.heard = Some(run.clone());
    }
}

/// The run that a newcomer would displace: it is probed at this address before.
#[derive(Debug)]
struct Incumbent {
    /// Its boot nonce, if it has connected here.
    nonce: Option<u64>,
    address: String,
}

/// How a newcomer was let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// As the run that was accepted already, as the first one, or as one that listens where the
    /// peer was last known to be.
    Known,
    /// It displaces a run that no longer answers where it was.
    Displaced,
}

impl Peer {
    /// Accepts the newcomer unless it would displace another run, which is then returned.
    fn take_or_name(&self, newcomer: &Run) -> Result<(), Incumbent> {
        let mut runs = locked(&self.runs);
        let last_known = locked(&self.addresses).heard.clone();
        let incumbent = match &runs.heard {
            Some(heard) if heard.nonce == newcomer.nonce => None,
            Some(heard) => {
                Some(Incumbent { nonce: Some(heard.nonce), address: heard.address.clone() })
            }
            // The first run that connects. If it is elsewhere, the run at the known address may not
            // have connected yet.
            None if newcomer.address == last_known => None,
            None => Some(Incumbent { nonce: None, address: last_known }),
        };
        match incumbent {
            Some(incumbent) => Err(incumbent),
            None => {
                runs.take(newcomer);
                Ok(())
            }
        }
    }

    /// Accepts the newcomer in place of a run that is gone; false if another one came in between.
    fn displace(&self, newcomer: &Run, gone: Option<u64>) -> bool {
        let mut runs = locked(&self.runs);
        let same = runs.heard.as_ref().map(|heard| heard.nonce) == gone;
        if same {
            runs.take(newcomer);
        }
        same
    }
}

/// Accepts a newcomer as the current run of `peer`, unless another one answers where the peer was
/// last known to be. The error then says that the newcomer is a copy.
pub(super) async fn admit(hub: &Hub, peer: &Peer, newcomer: &Run) -> Result<Entry, String> {
    // A probe takes a descriptor, so each name has one at a time.
    let _probing = peer.probing.lock().await;
    for _ in 0..ROUNDS {
        let Err(incumbent) = peer.take_or_name(newcomer) else { return Ok(Entry::Known) };
        let cluster = &hub.identity.cluster;
        let found = probe(&incumbent.address, cluster, &hub.secrets, &hub.nonces).await;
        let entry = match found.filter(|found| found.name == peer.name) {
            // The newcomer itself listens there.
            Some(found) if found.boot_nonce == newcomer.nonce => Entry::Known,
            Some(_) => return Err(duplicate(&peer.name, &incumbent.address, newcomer)),
            None => Entry::Displaced,
        };
        if peer.displace(newcomer, incumbent.nonce) {
            return Ok(entry);
        }
    }
    Err(duplicate(&peer.name, "an address that changes", newcomer))
}

/// One sentence that fits in a frame of a handshake, whatever the addresses are.
fn duplicate(name: &str, address: &str, newcomer: &Run) -> String {
    let shown = |address: &str| address.escape_debug().take(100).collect::<String>();
    let own = shown(&newcomer.address);
    format!(
        "node {name} runs at {} and answers there: the daemon at {own} is a copy of it, or has \
         its name; stop one of the two \
         for good, or start the copy with `pixii server --new-identity`, as a node of a cluster \
         of its own",
        shown(address)
    )
}
