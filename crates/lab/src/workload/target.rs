//! Where the operations of a load go, and over how many connections.

use std::sync::Arc;

use pixii_client::Client;
use tokio::sync::Mutex;

use super::peer::Connection;

/// Where the operations of a load go.
#[derive(Clone)]
pub(crate) enum Target {
    /// To a cluster; all of the load share the client, which has one connection to each node.
    Shared(Client),
    /// To a cluster; each client of the load has its own connections.
    Each(Arc<[Client]>),
    /// To another store; each client of the load has its own connection.
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

    /// What the client of the load with this number uses. With fewer connections than clients,
    /// some share one.
    pub(super) fn of(&self, number: u64) -> Route<'_> {
        let nth = |count: usize| (number % count.max(1) as u64) as usize;
        match self {
            Target::Shared(client) => Route::Pixii(client),
            Target::Each(clients) => Route::Pixii(&clients[nth(clients.len())]),
            Target::Peer(connections) => Route::Peer(&connections[nth(connections.len())]),
        }
    }
}

/// What one client of a load uses.
pub(super) enum Route<'a> {
    /// A client of Pixii.
    Pixii(&'a Client),
    /// A connection to another store.
    Peer(&'a Mutex<Connection>),
}
