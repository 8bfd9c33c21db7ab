//! The question which daemon listens at an address. It changes nothing at either side.

use std::time::Duration;

use pixii_core::secret::{Nonces, Vault};
use pixii_core::wire::{Hello, MAX_HELLO_BYTES, Welcome};
use pixii_transport::frames::FrameReader;
use pixii_transport::handshake::introduce;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A daemon that is there answers in this time. A connection that is refused takes none of it.
pub(crate) const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// The daemon that listens at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The name of the node.
    pub(crate) name: String,
    /// The birth of its store.
    pub(crate) birth: u64,
    /// Drawn at random at its start.
    pub(crate) boot_nonce: u64,
}

/// The daemon of `cluster` that listens at `address`, if one answers in time and, with secrets,
/// proves to be of the cluster.
pub(crate) async fn probe(
    address: &str,
    cluster: &str,
    secrets: &Vault,
    nonces: &Nonces,
) -> Option<Found> {
    let query = async {
        let (read, mut write) = TcpStream::connect(address).await.ok()?.into_split();
        let mut reader = FrameReader::new(read, MAX_HELLO_BYTES);
        let secrets = secrets.get();
        let secret = secrets.as_ref().map(|secrets| (secrets.peers.first(), nonces.fresh()));
        let hello = Hello::Probe { cluster: cluster.to_owned() };
        match introduce(&mut reader, &mut write, &hello, secret).await.ok()? {
            (Welcome::Probed { name, birth, boot_nonce }, _) => {
                Some(Found { name, birth, boot_nonce })
            }
            _ => None,
        }
    };
    timeout(PROBE_TIMEOUT, query).await.ok().flatten()
}
