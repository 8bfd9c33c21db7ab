//! The runs of a peer's daemon, distinguished by the nonces of their boots, and which of them is
//! heard: a copy of a data directory takes the place of no daemon that runs.

use std::net::SocketAddr;

use pixii_transport::locked;

use super::probe::probe;
use super::{Hub, Peer};

/// How often a newcomer is weighed while others come in between.
const ROUNDS: u32 = 3;

/// One run of a peer's daemon, as it introduced itself.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// Drawn at random at its start.
    pub(crate) nonce: u64,
    /// Where it connected from.
    pub(crate) from: SocketAddr,
    /// Where it says that it can be dialed.
    pub(crate) address: String,
}

/// The runs that connected.
#[derive(Debug, Default)]
pub(super) struct Runs {
    /// The one that is heard.
    heard: Option<Run>,
}

impl Runs {
    fn take(&mut self, run: &Run) {
        self.heard = Some(run.clone());
    }
}

/// What stands in a newcomer's way: where another run has to be sought before it.
#[derive(Debug)]
struct Incumbent {
    /// Its nonce, if it connected here.
    nonce: Option<u64>,
    address: String,
}

/// How a newcomer was let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// As the run that was heard already, as the first one, or as one that listens where the peer
    /// was last known to be.
    Known,
    /// In the place of a run that is gone from where it was.
    Displaced,
}

impl Peer {
    /// Takes the newcomer if nobody stands in its way; else says who does.
    fn take_or_name(&self, newcomer: &Run) -> Result<(), Incumbent> {
        let mut runs = locked(&self.runs);
        let last_known = locked(&self.addresses).heard.clone();
        let incumbent = match &runs.heard {
            Some(heard) if heard.nonce == newcomer.nonce => None,
            Some(heard) => {
                Some(Incumbent { nonce: Some(heard.nonce), address: heard.address.clone() })
            }
            // The first run that connects: one that is elsewhere may not have come yet.
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

    /// Takes the newcomer in the place of a run that is gone; false if another one has come in
    /// between.
    fn displace(&self, newcomer: &Run, gone: Option<u64>) -> bool {
        let mut runs = locked(&self.runs);
        let same = runs.heard.as_ref().map(|heard| heard.nonce) == gone;
        if same {
            runs.take(newcomer);
        }
        same
    }
}

/// Lets a newcomer be the run of `peer` that is heard, unless another one answers where the peer
/// was last known to be. The error says so: the newcomer is a copy.
pub(super) async fn admit(hub: &Hub, peer: &Peer, newcomer: &Run) -> Result<Entry, String> {
    // A probe takes a descriptor: each name has one at a time.
    let _probing = peer.probing.lock().await;
    for _ in 0..ROUNDS {
        let Err(incumbent) = peer.take_or_name(newcomer) else { return Ok(Entry::Known) };
        let cluster = &hub.identity.cluster;
        let found = probe(&incumbent.address, cluster, &hub.secrets, &hub.nonces).await;
        let entry = match found.filter(|found| found.name == peer.name) {
            // It listens there itself.
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
