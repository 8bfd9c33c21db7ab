//! Every code that crosses the wire: its golden bytes, and what becomes of one that nobody knows.

use bytes::Bytes;
use pixii_core::gc_epoch::GcEpoch;
use pixii_core::message::*;
use pixii_core::ring::Step;
use pixii_core::types::NodeId;
use pixii_core::wire;

use super::{blob, complaints, golden, loss_rejections};

/// Writes a line for every code of an enum, which `all` has one after the other.
macro_rules! golden_codes {
    ($out:ident, $name:literal, $type:ident, $all:expr) => {
        let all: Vec<$type> = $all;
        let codes: Vec<u16> = all.iter().map($type::code).collect();
        assert_eq!(codes, $type::CODES, "every code of {} has its bytes", $name);
        for one in all.into_iter().chain([$type::Text("why".into())]) {
            let text = one.to_string();
            assert!(!text.contains('\n') && !text.contains("  ") && !text.is_empty(), "{text}");
            golden($out, &format!("{}-{}", $name, one.code()), one);
        }
    };
}

pub fn write(out: &mut String) {
    rejections(out);
    tombstone_gc_and_repair(out);
    orders(out);
    golden_codes!(out, "complaint", Complaint, complaints());
    for counter in Counter::ALL {
        assert_eq!(Counter::named(counter.name()), Some(*counter));
        golden(out, &format!("counter-{}", counter.name()), *counter);
    }
    let names: Vec<&str> = Counter::ALL.iter().map(|counter| counter.name()).collect();
    assert!(names.is_sorted(), "a status lists them by name");
}

fn node() -> String {
    "n1".into()
}

fn n2() -> String {
    "n2".into()
}

fn rejections(out: &mut String) {
    let resources = vec![
        Resource::ConnectionCalls,
        Resource::NodeCalls,
        Resource::UnreadReplies,
        Resource::Clients,
        Resource::AddressClients { address: "::1".into() },
        Resource::Requests,
        Resource::DiskTime,
        Resource::UnsyncedWrites,
        Resource::UnsyncedBytes,
        Resource::NodeQueue,
        Resource::KeyQueue,
        Resource::PeerLists,
        Resource::UnwitnessedPuts,
    ];
    golden_codes!(out, "resource", Resource, resources);
    let measures = vec![
        Measure::SiblingBytes,
        Measure::ClockEntries,
        Measure::Width,
        Measure::Level,
        Measure::Nodes,
        Measure::Node,
        Measure::Leaf,
    ];
    golden_codes!(out, "measure", Measure, measures);
    golden_codes!(out, "quorum-name", QuorumName, vec![QuorumName::Read, QuorumName::Write]);
}

fn tombstone_gc_and_repair(out: &mut String) {
    let not_yet = vec![
        NotYet::NotProposer { partition: 300 },
        NotYet::TooManyKeys { keys: 1_001 },
        NotYet::GcState { own: GcEpoch(3), proposed: GcEpoch(4) },
        NotYet::Members,
        NotYet::AtWork,
        NotYet::OldHints { hints: 2 },
        NotYet::RepeatedPut,
        NotYet::Refused { rejection: Rejection::Stopping },
    ];
    golden_codes!(out, "why-not-yet", NotYet, not_yet);
    let blocked = vec![
        Blocked::NoAnswer { members: vec![node(), n2()] },
        Blocked::ProposerAway { member: n2() },
        Blocked::Away { member: n2() },
        Blocked::NotRecovered,
        Blocked::Reading,
        Blocked::NotYet { member: n2(), why: NotYet::Members },
    ];
    golden_codes!(out, "held-back", Blocked, blocked);
    let answers = vec![
        TreeAnswer::Equal,
        TreeAnswer::Summaries,
        TreeAnswer::Items,
        TreeAnswer::Else,
        TreeAnswer::Records,
    ];
    golden_codes!(out, "tree-answer", TreeAnswer, answers);
    let questions = vec![
        TreeQuestion::Summaries,
        TreeQuestion::Items,
        TreeQuestion::Nothing,
        TreeQuestion::Records,
    ];
    golden_codes!(out, "tree-question", TreeQuestion, questions);
    let odd = (TreeAnswer::Else, TreeQuestion::Items);
    let faults = vec![
        ComparisonFault::Refused { rejection: Rejection::Stopping },
        ComparisonFault::OddAnswer { answer: odd.0, question: odd.1 },
        ComparisonFault::Summaries { given: 3, expected: 32 },
        ComparisonFault::NoTree,
        ComparisonFault::OddKeys,
        ComparisonFault::NoAnswer { ms: 10_000 },
        ComparisonFault::Objects { objects: 3 },
    ];
    golden_codes!(out, "comparison-fault", ComparisonFault, faults);
}

fn orders(out: &mut String) {
    let old = node;
    let emulate = vec![
        EmulateRejection::NotAllowed { node: node() },
        EmulateRejection::NoRule,
        EmulateRejection::Rules { fault: "no".into() },
    ];
    golden_codes!(out, "emulate-rejection", EmulateRejection, emulate);
    let repair = vec![
        RepairRejection::NoMember { peer: NodeId(7) },
        RepairRejection::Itself { node: node() },
        RepairRejection::NothingShared { node: node(), peer: n2() },
        RepairRejection::Partition { given: 256, partitions: 256 },
        RepairRejection::NotOwner { partition: 3, node: node(), owners: vec![n2()] },
    ];
    golden_codes!(out, "repair-rejection", RepairRejection, repair);
    let replace = vec![
        ReplaceRejection::Name { name: "n/5".into() },
        ReplaceRejection::Address { address: "::1:7432".into() },
        ReplaceRejection::Changing { node: node() },
        ReplaceRejection::Starting { node: node() },
        ReplaceRejection::NoMember { old: old(), members: vec![n2()] },
        ReplaceRejection::NoPlaces { old: old() },
        ReplaceRejection::Itself { old: old() },
        ReplaceRejection::Removed { new: n2() },
        ReplaceRejection::Member { new: n2() },
        ReplaceRejection::AddressTaken { member: n2(), address: "h:1".into() },
        ReplaceRejection::Full,
        ReplaceRejection::Answers { old: old() },
        ReplaceRejection::NotDown { old: old(), timeout_ms: 5_000 },
        ReplaceRejection::Reach { near: 2, all: 5 },
        ReplaceRejection::AnotherUnknown { at: n2() },
        ReplaceRejection::Another { old: old(), new: None, at: n2() },
        ReplaceRejection::Grants { granted: 2, members: 5 },
        ReplaceRejection::Stranger { member: NodeId(7) },
        ReplaceRejection::Duplicate,
        ReplaceRejection::Version { version: u64::MAX },
    ];
    golden_codes!(out, "replace-rejection", ReplaceRejection, replace);
    let plan = vec![
        PlanRejection::Member { why: ReplaceRejection::Full },
        PlanRejection::Weight { weight: 0 },
        PlanRejection::Zone { bytes: 65 },
        PlanRejection::Digest { given: 1, present: 2 },
        PlanRejection::Nothing { node: node() },
        PlanRejection::Staged,
        PlanRejection::TooFewMembers { members: 2, n: 3 },
        PlanRejection::Unchanged,
        PlanRejection::Changing { version: 2 },
        PlanRejection::NoPlace { node: node() },
        PlanRejection::Protocol { member: n2() },
        PlanRejection::NoChange,
        PlanRejection::Step { step: Step::End },
        PlanRejection::NoGuest { name: n2() },
        PlanRejection::Guest { name: n2() },
    ];
    golden_codes!(out, "plan-rejection", PlanRejection, plan);
    let drain = vec![
        DrainRejection::Timeout { timeout_ms: 500 },
        DrainRejection::Stopping { node: node() },
    ];
    golden_codes!(out, "drain-rejection", DrainRejection, drain);
    golden_codes!(out, "loss-rejection", LossRejection, loss_rejections());
}

/// A code of a later program ends no connection: it is kept, shown as what it is, and passed on.
#[test]
fn codes_of_later_programs_are_kept_and_passed_on() {
    let fields = blob(b"fields that nobody here knows");
    let code = Bytes::from(wire::encode(&(60_000u16, fields.clone())));
    let what = wire::decode::<Resource>(&code).unwrap();
    assert_eq!(what, Resource::Other(60_000, fields));
    let rejection = Rejection::Busy { what, limit: 7 };
    let text = "busy: something that this program has no words for (code 60000) is at its limit \
                of 7; try again";
    assert_eq!(rejection.to_string(), text);
    let message = PeerMessage {
        ring: super::RING,
        request_id: RequestId::of_wire(1),
        body: Body::Failed(rejection),
    };
    let bytes = Bytes::from(wire::encode(&message));
    assert_eq!(wire::decode::<PeerMessage>(&bytes).as_ref(), Ok(&message));
    assert!(bytes.windows(code.len()).any(|part| part == code), "it goes on as it came");
    let counter = wire::decode::<Counter>(&wire::encode(&60_000u16).into()).unwrap();
    assert_eq!(counter, Counter::Other(60_000));
    assert_eq!(wire::encode(&counter), wire::encode(&60_000u16));
    // What is known has its own fields, and none beside them.
    let odd = wire::encode(&(1u16, blob(b"x")));
    assert!(wire::decode::<Resource>(&odd.into()).is_err());
}
