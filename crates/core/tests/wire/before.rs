//! What protocol 6 says, and what becomes of it.

use std::fmt::Debug;

use bincode::{BorrowDecode, Encode};
use bytes::Bytes;
use pixii_core::message::before::Before;
use pixii_core::message::*;
use pixii_core::ring::RingId;
use pixii_core::wire;

use super::{RING, rejections, replies};

/// The bytes of a line of a golden file.
fn unhex(text: &str) -> Vec<u8> {
    let byte = |at: usize| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap();
    (0..text.len() / 2).map(byte).collect()
}

/// The message is what these bytes of protocol 6 mean, and its own bytes in that protocol.
fn frozen<T>(name: &str, bytes: &Bytes, message: T)
where
    Before<T>: Encode + for<'de> BorrowDecode<'de, Bytes> + Debug + PartialEq,
    T: Debug + PartialEq,
{
    let message = Before(message);
    assert_eq!(wire::decode::<Before<T>>(bytes).as_ref(), Ok(&message), "{name}");
    assert_eq!(wire::encode(&message), bytes.to_vec(), "{name}");
}

/// A status of which protocol 6 says `why` where there is a code.
fn status_as_text() -> StatusReport {
    let replies = replies();
    let Some((_, ReplyBody::Status(status))) = replies.into_iter().find(|(n, _)| *n == "status")
    else {
        panic!("there is a status")
    };
    let (mut repair, mut tombstone_gc) = (status.repair.clone(), status.tombstone_gc.clone());
    let why = ComparisonFault::Text("why".into());
    repair.example = repair.example.map(|(partition, peer, _)| (partition, peer, why));
    let why = Blocked::Text("why".into());
    tombstone_gc.example = tombstone_gc.example.map(|(partition, _)| (partition, why));
    let (other_rings, complaints) = (Vec::new(), Vec::new());
    let gauges = Gauges::default();
    StatusReport { repair, tombstone_gc, gauges, other_rings, complaints, ..*status }
}

/// What protocol 6 says in words, each under its name in the golden file.
fn said_as_text(name: &str, bytes: &Bytes) -> bool {
    let why = || String::from("why");
    let reply = |body| frozen(name, bytes, Reply { id: 1, body });
    match name {
        "reply-status" => reply(ReplyBody::Status(status_as_text().into())),
        "reply-not-emulated" => reply(ReplyBody::Emulated(Err(EmulateRejection::Text(why())))),
        "reply-no-replace" => reply(ReplyBody::Replace(Err(ReplaceRejection::Text(why())))),
        "reply-no-repair" => reply(ReplyBody::Repair(Err(RepairRejection::Text(why())))),
        "reply-no-drain" => reply(ReplyBody::Drain(Err(DrainRejection::Text(why())))),
        "reply-no-loss-accepted" => reply(ReplyBody::LossAccepted(Err(LossRejection::Text(why())))),
        "reply-repair" => {
            let replies = replies();
            let report = replies.into_iter().find_map(|(_, body)| match body {
                ReplyBody::Repair(Ok(report)) => Some(report),
                _ => None,
            });
            let mut report = report.unwrap();
            report.pairs[0].failing = Some(ComparisonFault::Text(why()));
            reply(ReplyBody::Repair(Ok(report)));
        }
        "peer-not-yet" => {
            let body = Body::NotYet(NotYet::Text(why()));
            let (ring, request_id) = (RingId::UNSAID, RequestId::of_wire(77));
            frozen(name, bytes, PeerMessage { ring, request_id, body });
        }
        "rejection-2" => {
            let name_as_text = QuorumName::Text("r".into());
            frozen(name, bytes, Rejection::Quorum { name: name_as_text, given: 4, n: 3 });
        }
        "rejection-9" => {
            let what = Resource::Text("the key's queue".into());
            frozen(name, bytes, Rejection::Busy { what, limit: 128 });
        }
        "rejection-23" => {
            let what = Measure::Text("level".into());
            frozen(name, bytes, Rejection::Limit { what, given: 3, limit: 2 });
        }
        _ => return false,
    }
    true
}

/// What a program of protocol 6 sends, and its own rule about what it is sent.
#[test]
fn the_messages_of_protocol_6_are_what_they_were() {
    let lines = include_str!("../golden/wire-6.tsv").lines();
    let kept: Vec<(&str, &str)> = lines.map(|line| line.split_once('\t').unwrap()).collect();
    assert_eq!(kept.len(), 133, "nothing is taken away from what is frozen");
    let later = include_str!("../golden/wire-8.tsv");
    let mut as_text = 0;
    for (name, hex) in &kept[1..] {
        let bytes = Bytes::from(unhex(hex));
        if said_as_text(name, &bytes) {
            as_text += 1;
            continue;
        }
        let same = later.lines().any(|line| line == format!("{name}\t{hex}"));
        assert!(same, "{name} has changed: programs of protocol 6 cannot read it");
        match name.split('-').next().unwrap() {
            "reply" => frozen(name, &bytes, wire::decode::<Reply>(&bytes).unwrap()),
            "response" => frozen(name, &bytes, wire::decode::<Response>(&bytes).unwrap()),
            "rejection" => frozen(name, &bytes, wire::decode::<Rejection>(&bytes).unwrap()),
            "peer" => frozen(name, &bytes, PeerMessage::decode(&bytes, 8).unwrap()),
            _ => {}
        }
    }
    assert_eq!(as_text, 11);
    let (_, preamble) = kept[0];
    let preamble: [u8; wire::PREAMBLE_BYTES] = unhex(preamble).try_into().unwrap();
    assert_eq!(wire::check_preamble(&preamble), Ok(6));
    let ours = wire::preamble();
    let (low, high) =
        (u16::from_be_bytes([ours[8], ours[9]]), u16::from_be_bytes([ours[10], ours[11]]));
    assert!(
        (low..=high).contains(&6) && ours[..8] == preamble[..8],
        "it takes us for one of its own"
    );
}

/// A program of protocol 6 is reported in words what a code stands for, and shows the same text.
#[test]
fn codes_are_the_sentences_of_protocol_6() {
    let known = |rejection: &Rejection| !matches!(rejection, Rejection::OtherRing { .. });
    for rejection in rejections().into_iter().filter(known) {
        let bytes = Bytes::from(wire::encode(&Before(rejection.clone())));
        let Before(reported) = wire::decode::<Before<Rejection>>(&bytes).unwrap();
        assert_eq!(reported.to_string(), rejection.to_string());
        let response = Response::Refused(rejection.clone());
        for body in [Body::Failed(rejection.clone()), Body::Coordinated(response.clone())] {
            let message = PeerMessage { ring: RING, request_id: RequestId::of_wire(1), body };
            let payload = message.frame(6).unwrap().slice(12..);
            let reported = PeerMessage::decode(&payload, 6).unwrap();
            assert_eq!(reported.ring, RingId::UNSAID);
            let reported = match reported.body {
                Body::Failed(reported) | Body::Coordinated(Response::Refused(reported)) => reported,
                other => panic!("{other:?}"),
            };
            assert_eq!(reported.to_string(), rejection.to_string());
        }
    }
    for (name, body) in replies() {
        let reply = Reply { id: 1, body };
        let reported = Reply::decode(&reply.clone().frame(6).slice(12..), 6).unwrap();
        match (reply.body, reported.body) {
            (ReplyBody::Status(stated), ReplyBody::Status(reported)) => {
                assert_eq!(
                    (stated.gauges, &stated.other_rings),
                    (reported.gauges, &reported.other_rings)
                );
                let text = |report: &StatusReport| {
                    let example = report.repair.example.as_ref().unwrap().2.to_string();
                    let held = report.tombstone_gc.example.as_ref().unwrap().1.to_string();
                    let complaints: Vec<String> =
                        report.complaints.iter().map(ToString::to_string).collect();
                    (example, held, complaints, report.counters.clone())
                };
                assert_eq!(text(&stated), text(&reported));
            }
            (ReplyBody::Repair(Ok(stated)), ReplyBody::Repair(Ok(reported))) => {
                let why = |report: &RepairReport| report.pairs[0].failing.clone().unwrap();
                assert_eq!(why(&stated).to_string(), why(&reported).to_string());
            }
            (ReplyBody::Emulated(Err(stated)), ReplyBody::Emulated(Err(reported))) => {
                assert_eq!(stated.to_string(), reported.to_string());
            }
            (ReplyBody::Replace(Err(stated)), ReplyBody::Replace(Err(reported))) => {
                assert_eq!(stated.to_string(), reported.to_string());
            }
            (ReplyBody::Repair(Err(stated)), ReplyBody::Repair(Err(reported))) => {
                assert_eq!(stated.to_string(), reported.to_string());
            }
            (ReplyBody::Drain(Err(stated)), ReplyBody::Drain(Err(reported))) => {
                assert_eq!(stated.to_string(), reported.to_string());
            }
            (ReplyBody::LossAccepted(Err(stated)), ReplyBody::LossAccepted(Err(reported))) => {
                assert_eq!(stated.to_string(), reported.to_string());
            }
            (stated, reported) => assert_eq!(stated, reported, "{name}"),
        }
    }
}
