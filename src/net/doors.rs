//! Who may have how many connections, counted by address, so that one address cannot keep the others out.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use super::locked;

/// Most connections whose handshake is under way.
pub(super) const MAX_HANDSHAKES: usize = 256;
/// The part of an IPv6 address that one household has.
const PREFIX_MASK: u128 = !(u64::MAX as u128);

/// The connections that are counted: handshakes under way, and clients. A peer is let in once, and not counted.
#[derive(Debug)]
pub(super) struct Doors {
    per_address: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    open: HashMap<IpAddr, usize>,
    /// Handshakes under way, the oldest first.
    waiting: BTreeMap<u64, (IpAddr, Arc<Notify>)>,
    next: u64,
}

/// A connection's place. Dropped, it is free.
#[derive(Debug)]
pub(super) struct Pass {
    doors: Arc<Doors>,
    at: IpAddr,
    number: u64,
    give_way: Arc<Notify>,
}

/// Addresses that are one party: an IPv6 network of 64 bits, or an IPv4 address however it is written.
fn party(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if !v6.is_loopback() => {
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & PREFIX_MASK))
        }
        other => other,
    }
}

impl Doors {
    /// Lets so many connections of one address in.
    pub(super) fn new(per_address: usize) -> Arc<Self> {
        Arc::new(Doors { per_address, state: Mutex::default() })
    }

    /// A place for a connection from `address`, or why there is none. When too many handshakes are under way, the oldest
    /// one of the address that has most of them is told to give way, unless that is this address.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr) -> Result<Pass, String> {
        let at = party(address);
        let mut state = locked(&self.state);
        let open = state.open.get(&at).copied().unwrap_or(0);
        if open >= self.per_address {
            return Err(format!(
                "{open} connections from {at} are open: max_connections_per_address is {}",
                self.per_address
            ));
        }
        if state.waiting.len() >= MAX_HANDSHAKES && !state.make_room(at) {
            return Err(format!(
                "{MAX_HANDSHAKES} handshakes are under way, the limit of this node, most of them from {at}"
            ));
        }
        let (number, give_way) = (state.next, Arc::new(Notify::new()));
        state.next += 1;
        state.waiting.insert(number, (at, give_way.clone()));
        *state.open.entry(at).or_default() += 1;
        drop(state);
        Ok(Pass { doors: self.clone(), at, number, give_way })
    }
}

impl State {
    /// Ends the oldest handshake of the address that has most, if it has more than `newcomer`.
    fn make_room(&mut self, newcomer: IpAddr) -> bool {
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for (at, _) in self.waiting.values() {
            *counts.entry(*at).or_default() += 1;
        }
        let own = counts.get(&newcomer).copied().unwrap_or(0);
        let most = counts.values().copied().max().unwrap_or(0);
        if own >= most {
            return false;
        }
        // The oldest one of all that have as many: which address that is must not depend on a hash.
        let oldest = self.waiting.iter().find(|(_, (at, _))| counts.get(at) == Some(&most));
        let Some(number) = oldest.map(|(number, _)| *number) else { return false };
        if let Some((_, give_way)) = self.waiting.remove(&number) {
            give_way.notify_one();
        }
        true
    }
}

impl Pass {
    /// Returns when this handshake has to give way to another one.
    pub(super) async fn called(&self) {
        self.give_way.notified().await;
    }

    /// The handshake is over.
    pub(super) fn settle(&self) {
        locked(&self.doors.state).waiting.remove(&self.number);
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut state = locked(&self.doors.state);
        state.waiting.remove(&self.number);
        if let Some(open) = state.open.get_mut(&self.at) {
            *open -= 1;
            if *open == 0 {
                state.open.remove(&self.at);
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
    fn one_address_has_so_many_connections_and_no_more() {
        let doors = Doors::new(2);
        let one = doors.enter(at("10.0.0.1")).unwrap();
        one.settle();
        let _two = doors.enter(at("::ffff:10.0.0.1")).unwrap();
        let why = doors.enter(at("10.0.0.1")).unwrap_err();
        assert_eq!(why, "2 connections from 10.0.0.1 are open: max_connections_per_address is 2");
        let others = ["10.0.0.2", "::1", "fd00::1", "fd00:0:0:1::1"];
        let others = others.map(|other| doors.enter(at(other)).unwrap());
        let _second = doors.enter(at("fd00::2")).unwrap();
        assert!(doors.enter(at("fd00::3")).unwrap_err().contains("from fd00:: are open"));
        drop(one);
        drop(doors.enter(at("10.0.0.1")).unwrap());
        drop(others);
        assert_eq!(locked(&doors.state).open.len(), 2, "what is free is forgotten");
    }

    #[test]
    fn whoever_has_most_handshakes_gives_way() {
        let doors = Doors::new(1_000);
        let few: Vec<Pass> = (0..10).map(|_| doors.enter(at("10.0.0.1")).unwrap()).collect();
        let many: Vec<Pass> =
            (10..MAX_HANDSHAKES).map(|_| doors.enter(at("10.0.0.2")).unwrap()).collect();
        let why = doors.enter(at("10.0.0.2")).unwrap_err();
        assert!(why.starts_with("256 handshakes are under way, the limit of this node"), "{why}");
        let newcomers = ["10.0.0.1", "10.0.0.3"].map(|new| doors.enter(at(new)).unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            many[0].called().await;
            many[1].called().await;
        });
        let state = locked(&doors.state);
        assert!(!state.waiting.contains_key(&many[0].number));
        assert!(newcomers.iter().chain(&few).all(|pass| state.waiting.contains_key(&pass.number)));
        drop(state);
    }
}
