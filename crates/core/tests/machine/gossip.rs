//! Liveness where most members are out of reach.

use std::sync::Arc;

use pixii_core::members::{Heartbeat, Incarnation, Liveness, Member, Members};
use pixii_core::message::{Body, Gossip, PeerMessage, RequestId};
use pixii_core::node::{Config, Input, Node, Output};
use pixii_core::ring::Ring;
use pixii_core::store::{Meta, StoreIdentity};
use pixii_core::types::{MILLI, NodeId, Time};

const MEMBERS: u64 = 9;

/// A node of nine that serves nobody yet, all of whose links are up.
fn linked(seed: u64) -> Node {
    let names: Vec<String> = (0..MEMBERS).map(|at| format!("n{at}")).collect();
    let ids: Vec<NodeId> = names.iter().map(|name| NodeId::of(name)).collect();
    let ring = Arc::new(Ring::new(&ids, 3, 16).unwrap());
    let owner = StoreIdentity { cluster: "c".into(), name: "n0".into(), ring: ring.digest() };
    let members = names.into_iter().map(|name| Member::configured(name, "host:1")).collect();
    let config = Config::new(ids[0], ring, Members::new(members));
    let mut node = Node::new(config, Meta::new(owner, 1), seed);
    for peer in ids.into_iter().skip(1) {
        node.handle(Time::START, Input::Link { peer, up: true }, &mut Vec::new());
    }
    node
}

#[test]
fn the_one_member_that_can_be_reached_is_never_marked_down() {
    let reached = NodeId::of("n8");
    for seed in 1..=20 {
        let mut node = linked(seed);
        let mut count = 0;
        for tick in 1..=600 {
            let now = Time::START + tick * 100 * MILLI;
            let mut out = Vec::new();
            node.handle(now, Input::Tick, &mut out);
            // It answers what it is asked, and sends nothing of its own accord.
            let asked = out.iter().any(|output| match output {
                Output::Send { to, message } => {
                    to.contains(&reached) && matches!(message.body, Body::Gossip(_))
                }
                _ => false,
            });
            if asked {
                count += 1;
                let heartbeat = Heartbeat { incarnation: Incarnation(1), count };
                let (heartbeats, members) = (vec![(reached, heartbeat)], Vec::new());
                let news = Gossip::News { heartbeats, members, digest: 0, wanted: Vec::new() };
                let message = PeerMessage {
                    ring: node.ring_id(),
                    request_id: RequestId::of_wire(2),
                    body: Body::Gossip(news),
                };
                node.handle(now, Input::Peer { from: reached, message }, &mut Vec::new());
            }
            let liveness = node.peer_view(now, reached).liveness;
            assert_ne!(liveness, Liveness::Down, "seed {seed}, after {} ms", tick * 100);
        }
        let now = Time::START + 60_000 * MILLI;
        let liveness = node.peer_view(now, NodeId::of("n7")).liveness;
        assert_eq!(liveness, Liveness::Down, "nobody has heard of it");
    }
}
