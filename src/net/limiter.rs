//! Limits of connections, counted by address, so that one address cannot keep the others out.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

use pixii_transport::locked;
use tokio::sync::Notify;

/// The part of an IPv6 address that belongs to one household.
const PREFIX_MASK: u128 = !(u64::MAX as u128);

/// The connections that are counted: those whose handshake is in progress, and clients. A peer is
/// not counted once it is let in, so that no number of clients keeps one out.
#[derive(Debug)]
pub(super) struct ConnectionLimiter {
    waiting: usize,
    per_address: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    clients: HashMap<IpAddr, Clients>,
    /// Connections whose handshake is in progress, the oldest first.
    waiting: BTreeMap<u64, (IpAddr, Arc<Notify>)>,
    next: u64,
}

/// The clients of one address.
#[derive(Debug, Default)]
struct Clients {
    connected: usize,
    /// Bytes of replies that these clients have not read.
    unsent: Arc<AtomicUsize>,
}

/// The place of a connection whose handshake is in progress; free when this is dropped.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    limiter: Arc<ConnectionLimiter>,
    at: IpAddr,
    number: u64,
    give_way: Arc<Notify>,
}

/// The place of a client; free when this is dropped.
#[derive(Debug)]
pub(super) struct ClientPermit {
    limiter: Arc<ConnectionLimiter>,
    at: IpAddr,
    /// Bytes of replies that the clients of its address have not read.
    pub(super) unsent: Arc<AtomicUsize>,
}

/// An address has as many clients as are permitted.
#[derive(Debug, thiserror::Error)]
#[error("{most} clients from {at} are connected: max_connections_per_address is {most}")]
pub(super) struct Full {
    /// The IPv4 address, or the IPv6 network of 64 bits.
    pub(super) at: IpAddr,
    /// The limit, `max_connections_per_address`.
    pub(super) most: usize,
}

/// The address by which connections are counted: an IPv6 network of 64 bits, or an IPv4 address in
/// either notation.
fn party(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if !v6.is_loopback() => {
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & PREFIX_MASK))
        }
        other => other,
    }
}

impl ConnectionLimiter {
    /// At most `waiting` connections may be in their handshake at a time, and `per_address` clients
    /// of one address be connected.
    pub(super) fn new(waiting: usize, per_address: usize) -> Arc<Self> {
        Arc::new(ConnectionLimiter { waiting, per_address, state: Mutex::default() })
    }

    /// A place for a connection from `address`. When too many wait, the oldest of the address that
    /// has most of them is ordered to give way. So a quick handshake succeeds, however many idle
    /// connections wait.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr) -> ConnectionPermit {
        let at = party(address);
        let mut state = locked(&self.state);
        if state.waiting.len() >= self.waiting {
            state.make_room();
        }
        let (number, give_way) = (state.next, Arc::new(Notify::new()));
        state.next += 1;
        state.waiting.insert(number, (at, give_way.clone()));
        drop(state);
        ConnectionPermit { limiter: self.clone(), at, number, give_way }
    }
}

impl State {
    /// Orders the oldest connection of the address that has most to give way.
    fn make_room(&mut self) {
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for (at, _) in self.waiting.values() {
            *counts.entry(*at).or_default() += 1;
        }
        let most = counts.values().max();
        // The oldest of all addresses with as many: the choice must not depend on a hash.
        let oldest = self.waiting.iter().find(|(_, (at, _))| counts.get(at) == most);
        let Some(number) = oldest.map(|(number, _)| *number) else { return };
        if let Some((_, give_way)) = self.waiting.remove(&number) {
            give_way.notify_one();
        }
    }
}

impl ConnectionPermit {
    /// Returns when this connection has to give way to another one.
    pub(super) async fn called(&self) {
        self.give_way.notified().await;
    }

    /// The address, or the network, that the connection is from.
    pub(super) fn address(&self) -> IpAddr {
        self.at
    }

    /// A place for the client that this connection has proved to be, or why there is none.
    pub(super) fn client_permit(&self) -> Result<ClientPermit, Full> {
        let (at, most) = (self.at, self.limiter.per_address);
        let mut state = locked(&self.limiter.state);
        let open = state.clients.entry(at).or_default();
        if open.connected >= most {
            return Err(Full { at, most });
        }
        open.connected += 1;
        Ok(ClientPermit { limiter: self.limiter.clone(), at, unsent: open.unsent.clone() })
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        locked(&self.limiter.state).waiting.remove(&self.number);
    }
}

impl Drop for ClientPermit {
    fn drop(&mut self) {
        let mut state = locked(&self.limiter.state);
        if let Some(open) = state.clients.get_mut(&self.at) {
            open.connected -= 1;
            if open.connected == 0 {
                state.clients.remove(&self.at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_address_has_so_many_clients_and_no_more() {
        let limiter = ConnectionLimiter::new(256, 2);
        let client_permit = |address: &str| limiter.enter(at(address)).client_permit();
        let one = client_permit("10.0.0.1").unwrap();
        let _two = client_permit("::ffff:10.0.0.1").unwrap();
        let why = client_permit("10.0.0.1").unwrap_err().to_string();
        assert_eq!(why, "2 clients from 10.0.0.1 are connected: max_connections_per_address is 2");
        let others = ["10.0.0.2", "::1", "fd00::1", "fd00:0:0:1::1"]
            .map(|other| client_permit(other).unwrap());
        let _second = client_permit("fd00::2").unwrap();
        let why = client_permit("fd00::3").unwrap_err().to_string();
        assert!(why.contains("from fd00:: are connected"));
        // A peer is no client; its handshake takes a place only until it is done.
        drop(limiter.enter(at("10.0.0.1")));
        drop(one);
        drop(client_permit("10.0.0.1").unwrap());
        drop(others);
        let state = locked(&limiter.state);
        assert_eq!((state.clients.len(), state.waiting.len()), (2, 0), "what is free is forgotten");
    }

    #[test]
    fn whoever_has_most_waiting_gives_way_the_oldest_first() {
        let limiter = ConnectionLimiter::new(256, 1_000);
        let few: Vec<ConnectionPermit> = (0..10).map(|_| limiter.enter(at("10.0.0.1"))).collect();
        let many: Vec<ConnectionPermit> =
            (10..256).map(|_| limiter.enter(at("10.0.0.2"))).collect();
        let newcomers = ["10.0.0.2", "10.0.0.1", "10.0.0.3"].map(|new| limiter.enter(at(new)));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            for gone in &many[..3] {
                gone.called().await;
            }
        });
        let state = locked(&limiter.state);
        assert!(many[..3].iter().all(|permit| !state.waiting.contains_key(&permit.number)));
        let rest = newcomers.iter().chain(&few).chain(&many[3..]);
        assert!(rest.into_iter().all(|permit| state.waiting.contains_key(&permit.number)));
        drop(state);
    }
}
