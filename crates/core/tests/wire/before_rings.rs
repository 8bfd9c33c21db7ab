//! What protocol 8 says, and what it is sent: it has no rings in a change, and its messages do not
//! say which ring they are of.

use std::collections::BTreeMap;

use bytes::Bytes;
use pixii_core::gc_epoch::GcEpoch;
use pixii_core::message::*;
use pixii_core::ring::RingId;
use pixii_core::types::{NodeId, Partition};
use pixii_core::wire;

use super::{RING, bodies, changing, key, object, ring};

fn unhex(text: &str) -> Vec<u8> {
    let byte = |at: usize| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap();
    (0..text.len() / 2).map(byte).collect()
}

/// Protocol 9 changes the messages between nodes, and nothing else.
#[test]
fn the_messages_of_protocol_8_are_what_they_were() {
    let lines = include_str!("../golden/wire-8.tsv").lines();
    let kept: BTreeMap<&str, &str> = lines.map(|line| line.split_once('\t').unwrap()).collect();
    assert_eq!(kept.len(), 331, "nothing is taken away from what is frozen");
    let now = include_str!("../golden/wire.tsv").lines();
    let now: BTreeMap<&str, &str> = now.map(|line| line.split_once('\t').unwrap()).collect();
    let ours: BTreeMap<String, Body> =
        bodies().into_iter().map(|(name, body)| (format!("peer-{name}"), body)).collect();
    for (name, hex) in &kept {
        if let Some(body) = ours.get(*name) {
            let bytes = Bytes::from(unhex(hex));
            let request_id = RequestId::of_wire(77);
            let said = PeerMessage { ring: RingId::UNSAID, request_id, body: body.clone() };
            assert_eq!(PeerMessage::decode(&bytes, 8).as_ref(), Ok(&said), "{name}");
            let sent = PeerMessage { ring: RING, ..said }.frame(8).unwrap();
            assert_eq!(sent[12..], bytes[..], "{name}");
        } else if name.starts_with("counter-") && !now.contains_key(name) {
            // It is counted no more; its number stays free.
            let counter = wire::decode::<Counter>(&unhex(hex).into()).unwrap();
            assert!(matches!(counter, Counter::Other(63 | 71)), "{name}");
        } else if !["preamble", "frame-held"].contains(name) {
            assert_eq!(now.get(name), Some(hex), "programs of protocol 8 cannot read {name}");
        }
    }
    let preamble: [u8; wire::PREAMBLE_BYTES] = unhex(kept["preamble"]).try_into().unwrap();
    assert_eq!(wire::check_preamble(&preamble), Ok(8));
}

#[test]
fn a_program_of_protocol_8_is_sent_nothing_of_a_ring_in_a_change() {
    let unknown = [
        changing(),
        Body::QueryChange { ring: RING, next: 5, newcomers: Vec::new() },
        Body::Progress(RingProgress::default()),
        Body::Erase { key: key(), digest: None },
        Body::Fetch { partition: Partition(1), leaves: None, after: None },
        Body::Records { records: vec![(key(), object())], gc_epoch: GcEpoch::FIRST, next: None },
        Body::Failed(Rejection::OtherRing { given: 1, own: 2 }),
    ];
    for body in unknown {
        let message = PeerMessage { ring: RING, request_id: RequestId::of_wire(77), body };
        for protocol in [6, 7, 8] {
            assert_eq!(message.frame(protocol), None, "{message:?}");
        }
        assert!(message.frame(9).is_some());
    }
    let call =
        |protocol| Call { id: 1, body: CallBody::Plan(PlanOrder::Show) }.in_protocol(protocol);
    assert!(call(8).is_none() && call(9).is_some());
    // A client is shown the table that reads ask.
    let Body::Placement { ring: moving, members } = changing() else { panic!() };
    let report = RingReport { members, ring: moving, r: 2, w: 2, strict: false, avoided: vec![] };
    let reply = Reply { id: 1, body: ReplyBody::Ring(report) };
    let shown = |protocol: u16| {
        let frame = reply.clone().frame(protocol);
        match Reply::decode(&frame.slice(12..), protocol).unwrap().body {
            ReplyBody::Ring(report) => report.ring,
            other => panic!("{other:?}"),
        }
    };
    assert!(shown(9).step().is_some() && shown(9).has(NodeId(9)));
    for protocol in [6, 7, 8] {
        let shown = shown(protocol);
        assert!(shown.step().is_none() && !shown.has(NodeId(9)), "{shown:?}");
        assert!(shown.places_like(&ring()), "{shown:?}");
    }
}
