//! What protocol 7 says, and what it is sent in the place of what it does not know.

use pixii_core::message::*;
use pixii_core::types::WriteId;
use pixii_core::wire;

use super::{RING, blob, decide, key, requests};

/// Protocol 8 adds messages; it changes none.
#[test]
fn the_messages_of_protocol_7_are_what_they_were() {
    let later = include_str!("../golden/wire-8.tsv");
    let kept: Vec<&str> = include_str!("../golden/wire-7.tsv").lines().collect();
    assert_eq!(kept.len(), 313, "nothing is taken away from what is frozen");
    let changed: Vec<&str> =
        kept.iter().copied().filter(|line| !later.lines().any(|other| other == *line)).collect();
    let [preamble] = changed[..] else { panic!("programs of protocol 7 cannot read {changed:?}") };
    let (_, hex) = preamble.split_once('\t').unwrap();
    let byte = |at: usize| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap();
    let preamble: [u8; wire::PREAMBLE_BYTES] = std::array::from_fn(byte);
    assert_eq!(wire::check_preamble(&preamble), Ok(7));
}

/// The request that a node of this protocol gets when this one is forwarded to it.
fn forwarded(request: Request, protocol: u16) -> Request {
    let body = Body::Coordinate { request, timeout_ms: 450 };
    let message = PeerMessage { ring: RING, request_id: RequestId::of_wire(77), body };
    let payload = message.frame(protocol).unwrap().slice(12..);
    match PeerMessage::decode(&payload, protocol).unwrap().body {
        Body::Coordinate { request, timeout_ms: 450 } => request,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_covering_put_is_a_put_that_replaces_nothing_to_a_program_of_protocol_7() {
    let cover = decide(Some(blob(b"value")), WriteRule::Cover);
    let (key, write) = (key(), WriteId(1 << 100));
    let put = Request::Put { key, value: blob(b"value"), context: None, write, w: None.into() };
    for protocol in [6, 7] {
        assert_eq!(forwarded(cover.clone(), protocol), put);
        assert_eq!(forwarded(cover.clone().again(), protocol), put.clone().again());
        let body = CallBody::Data { request: cover.clone(), timeout_ms: 500 };
        let Call { body, .. } = Call { id: 1, body }.in_protocol(protocol).unwrap();
        assert_eq!(body, CallBody::Data { request: put.clone(), timeout_ms: 500 });
    }
    assert_eq!(forwarded(cover.clone(), 8), cover);
}

#[test]
fn a_program_of_protocol_7_is_sent_no_condition_without_its_condition() {
    let conditions = [
        decide(None, WriteRule::Cover),
        decide(Some(blob(b"v")), WriteRule::IfAbsent),
        decide(Some(blob(b"v")), WriteRule::IfContext(blob(b"sealed"))),
    ];
    for request in conditions {
        // It refuses this, and does nothing.
        let refused = Request::Delete { key: key(), context: None, w: None.into() };
        assert_eq!(forwarded(request.clone(), 7), refused);
        let body = CallBody::Data { request, timeout_ms: 500 };
        assert_eq!(Call { id: 1, body }.in_protocol(7), None, "a client does not send it");
    }
    let abandon =
        PeerMessage { ring: RING, request_id: RequestId::of_wire(77), body: Body::Abandon };
    assert_eq!(abandon.frame(7), None, "it would end the link to a node of protocol 7");
    assert!(abandon.frame(8).is_some());
    let body = CallBody::GiveUp { call: 1 };
    assert_eq!(Call { id: 1, body }.in_protocol(7), None);
    for (name, request) in requests() {
        if !matches!(request, Request::Decide { .. }) {
            assert_eq!(forwarded(request.clone(), 7), request, "{name}");
        }
    }
}
