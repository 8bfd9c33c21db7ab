//! The files with the secrets. Errors describe a problem without a byte of a secret.

use std::env;
use std::path::PathBuf;

use pixii_core::secret::{Role, Secrets};
use pixii_transport::secret_file::{keyring, read};

/// Where systemd puts what `LoadCredential=` names.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// The files of a node's secrets, as its configuration names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SecretFiles {
    /// The file with the peer secret, shared by the nodes.
    pub(super) peers: PathBuf,
    /// The file with the client secret.
    pub(super) clients: PathBuf,
}

impl SecretFiles {
    /// True if systemd keeps them: it copies them when it starts the unit.
    pub(crate) fn are_credentials(&self) -> bool {
        let kept = |path: &PathBuf| credentials().is_some_and(|kept| place(path).starts_with(kept));
        kept(&self.peers) || kept(&self.clients)
    }

    /// Takes the two file names, which have to be configured together. `None` if neither is.
    pub(super) fn new(
        peers: Option<PathBuf>,
        clients: Option<PathBuf>,
    ) -> Result<Option<Self>, String> {
        let alone = |given: &str, missing: &str| {
            Err(format!("{given} without {missing}: nodes and clients have secrets of their own"))
        };
        match (peers, clients) {
            (None, None) => Ok(None),
            (Some(peers), Some(clients)) => Ok(Some(SecretFiles { peers, clients })),
            (Some(_), None) => alone("secret_file", "client_secret_file"),
            (None, Some(_)) => alone("client_secret_file", "secret_file"),
        }
    }

    /// Reads both files. An error if one cannot be used, or if both hold the same secret.
    pub(super) fn read(&self) -> Result<Secrets, String> {
        let peers = read(&place(&self.peers)).map_err(|what| format!("secret_file: {what}"))?;
        let clients =
            read(&place(&self.clients)).map_err(|what| format!("client_secret_file: {what}"))?;
        if peers.iter().any(|secret| clients.contains(secret)) {
            return Err(
                "secret_file and client_secret_file hold the same secret, so that a client \
                could be a node: \
                        draw another one"
                    .to_owned(),
            );
        }
        Ok(Secrets { peers: keyring(Role::Peer, &peers), clients: keyring(Role::Client, &clients) })
    }
}

/// Where systemd puts credentials, if this process has any.
fn credentials() -> Option<PathBuf> {
    env::var_os(CREDENTIALS).map(PathBuf::from)
}

/// A relative path is the name of a credential, where there are any.
fn place(path: &std::path::Path) -> PathBuf {
    match credentials() {
        Some(directory) if path.is_relative() => directory.join(path),
        _ => path.to_owned(),
    }
}
