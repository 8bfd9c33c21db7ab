//! Where the operations of a load go, and over how many connections.

use std::sync::Arc;

use pixii_client::Client;
use tokio::sync::Mutex;

use super::peer::Connection;

/// The destination of the operations of a load.
#[derive(Clone)]
pub(crate) enum Target {
    /// A cluster; all clients of the load share one [`Client`], with one connection to each node.
    Shared(Client),
    /// A cluster; each client of the load has its own connections.
    Each(Arc<[Client]>),
    /// Another store; each client of the load has its own connection.
    Peer(Arc<[Mutex<Connection>]>),
}

impl From<&Client> for Target {
    fn from(client: &Client) -> Self {
        Target::Shared(client.clone())
    }
}

impl Target {
    /// Another store, over these connections.
    pub(crate) fn peer(connections: Vec<Connection>) -> Self {
        Target::Peer(connections.into_iter().map(Mutex::new).collect())
    }

    /// The route of the load's client with this number. With fewer connections than clients, some
    /// share a connection.
    pub(super) fn of(&self, number: u64) -> Route<'_> {
        let nth = |count: usize| (number % count.max(1) as u64) as usize;
        match self {
            Target::Shared(client) => Route::Pixii(client),
            Target::Each(clients) => Route::Pixii(&clients[nth(clients.len())]),
            Target::Peer(connections) => Route::Peer(&connections[nth(connections.len())]),
        }
    }
}

/// What one client of a load sends its operations over.
pub(super) enum Route<'a> {
    /// A client of Pixii.
    Pixii(&'a Client),
    /// A connection to another store.
    Peer(&'a Mutex<Connection>),
}
