//! Bytes: golden ones for every type on the wire and on disk, and what becomes of bytes that are
//! wrong.
//!
//! A changed golden byte is either a bug or a new version. To write the file anew after a version
//! was raised: `PIXII_WRITE_GOLDEN=1 cargo test --release --test wire`.

#![allow(clippy::unwrap_used)]

use std::fmt::{Debug, Write as _};
use std::path::Path;

use bincode::error::EncodeError;
use bincode::{BorrowDecode, Encode};
use bytes::{BufMut, Bytes, BytesMut};
use pixii_core::causal::{Actor, ActorEpoch, Clock, Context, Dot, Object, Version};
use pixii_core::gc_epoch::{GcEpoch, GcState, PurgeableKey};
use pixii_core::members::{
    Cluster, Heartbeat, Incarnation, IncarnationId, Liveness, Member, Members, MembershipStatus,
};
use pixii_core::merkle::{Digest, SHAPE};
use pixii_core::message::before::Before;
use pixii_core::message::*;
use pixii_core::ring::{Edit, Ring, RingId, RingMember, Step};
use pixii_core::rng::Rng;
use pixii_core::secret::{Exchange, Role, SecretKey};
use pixii_core::store::{self, Found, Meta, Record, StoreIdentity};
use pixii_core::types::*;
use pixii_core::wire::{self, Hello, Welcome, WireError};
use proptest::prelude::*;

#[path = "wire/before.rs"]
mod before;
#[path = "wire/before_decisions.rs"]
mod before_decisions;
#[path = "wire/before_rings.rs"]
mod before_rings;
#[path = "wire/checksums.rs"]
mod checksums;
#[path = "wire/codes.rs"]
mod codes;

const DOT: Dot =
    Dot { actor: Actor { store: 0x1122_3344_5566_7788, actor_epoch: ActorEpoch(5) }, counter: 300 };

fn key() -> Key {
    Key::new(&b"key\x00\xff"[..]).unwrap()
}

fn blob(bytes: &'static [u8]) -> Blob {
    Blob(Bytes::from_static(bytes))
}

/// The ring of every message here.
const RING: RingId = RingId { version: 4, digest: 0x0102_0304_0506_0708 };
const INCARNATION: IncarnationId = IncarnationId { incarnation: Incarnation(3), nonce: u64::MAX };

fn cluster() -> Cluster {
    Cluster::found("c", vec![(NodeId(2), 5), (NodeId(1), 4)])
}

fn object() -> Object {
    let version = |write, value| Version { write: WriteId(write), value: blob(value) };
    let actor = |store| Actor { store, actor_epoch: ActorEpoch(1) };
    let (one, _) = Clock::default().update(&Context::default(), actor(9), version(7, b"one"));
    one.update(&Context::default(), actor(4), version(u128::MAX, b"")).0
}

/// Writes `name<TAB>hex` for a message and reads it back.
fn golden<T>(out: &mut String, name: &str, message: T)
where
    T: Encode + for<'de> BorrowDecode<'de, Bytes> + Debug + PartialEq,
{
    let bytes = Bytes::from(wire::encode(&message));
    assert_eq!(wire::decode::<T>(&bytes).unwrap(), message, "{name}");
    raw(out, name, &bytes);
}

fn raw(out: &mut String, name: &str, bytes: &[u8]) {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    writeln!(out, "{name}\t{hex}").unwrap();
}

fn member() -> Member {
    Member {
        name: "n1".into(),
        address: "127.0.0.1:7432".into(),
        incarnation: Incarnation(3),
        membership: MembershipStatus::Leaving,
        version: 2,
    }
}

fn purgeable_key() -> PurgeableKey {
    PurgeableKey { key: key(), dead: Context::new(vec![DOT]) }
}

fn outcomes() -> ReplicaOutcomes {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_string()).collect();
    ReplicaOutcomes {
        counted: names(&["n1"]),
        uncounted: names(&["n2"]),
        silent: names(&["n3", "n4"]),
    }
}

fn requests() -> Vec<(&'static str, Request)> {
    let context = Some(blob(b"sealed"));
    vec![
        ("get", Request::Get { key: key(), r: Some(2).into() }),
        (
            "put",
            Request::Put {
                key: key(),
                value: blob(b"value"),
                context: context.clone(),
                write: WriteId(1 << 100),
                w: Quorum { replicas: None, strict: Some(true) },
            },
        ),
        ("delete", Request::Delete { key: key(), context, w: Some(3).into() }),
        (
            "keys",
            Request::Keys {
                partition: Partition(300),
                after: Some(key()),
                limit_bytes: 1 << 20,
                r: None,
            },
        ),
        (
            "put-again",
            Request::PutAgain {
                key: key(),
                value: blob(b"value"),
                context: Some(blob(b"sealed")),
                write: WriteId(1 << 100),
                w: Quorum { replicas: Some(2), strict: None },
            },
        ),
        ("cover", decide(Some(blob(b"value")), WriteRule::Cover)),
        ("cover-delete", decide(None, WriteRule::Cover)),
        ("if-absent", decide(Some(blob(b"value")), WriteRule::IfAbsent)),
        ("if-context", decide(Some(blob(b"value")), WriteRule::IfContext(blob(b"sealed")))),
    ]
}

fn decide(value: Option<Blob>, rule: WriteRule) -> Request {
    let (key, write, again, r) = (key(), WriteId(1 << 100), false, Some(2));
    Request::Decide { key, value, rule, write, again, r, w: None.into() }
}

fn responses() -> Vec<(&'static str, Response)> {
    vec![
        (
            "found",
            Response::Found {
                values: vec![blob(b"a"), blob(b"")],
                context: blob(b"c"),
                answered: 2,
            },
        ),
        ("written", Response::Written { dot: Some(DOT), context: blob(b"c"), siblings: 1 }),
        ("keys", Response::Keys { keys: vec![key()], more: true }),
        ("refused", Response::Refused(Rejection::NoContext)),
        ("unknown", Response::Unknown { acknowledged: 1, needed: 2, timeout_ms: 500 }),
    ]
}

fn rejections() -> Vec<Rejection> {
    vec![
        Rejection::Unreachable { reachable: 1, needed: 2, outcomes: outcomes() },
        Rejection::NoQuorum {
            answered: 1,
            outcomes: ReplicaOutcomes::default(),
            needed: 2,
            timeout_ms: 500,
        },
        Rejection::Quorum { name: QuorumName::Read, given: 4, n: 3 },
        Rejection::Size(SizeError::Key(1_025)),
        Rejection::Size(SizeError::Value(1_048_577)),
        Rejection::BadContext,
        Rejection::NoContext,
        Rejection::Siblings(32),
        Rejection::Object(8_388_609),
        Rejection::Busy { what: Resource::KeyQueue, limit: 128 },
        Rejection::Timeout(0),
        Rejection::Partition(256, 256),
        Rejection::NotOwner,
        Rejection::Damaged,
        Rejection::NoSpace { free_bytes: 1_000, reserve_bytes: 268_435_456 },
        Rejection::Hints(1 << 30),
        Rejection::Stranger(NodeId(7)),
        Rejection::Starting { heard: 1, peers: 4 },
        Rejection::Stopping,
        Rejection::Paused(300),
        Rejection::Unread(7),
        Rejection::GcState { given: GcEpoch(3), own: GcEpoch(5) },
        Rejection::Shape(0x0101_1002),
        Rejection::Limit { what: Measure::Level, given: 3, limit: 2 },
        Rejection::Conflict(2),
        Rejection::Exists,
        Rejection::Changed,
        Rejection::Absent,
        Rejection::GivenUp,
        Rejection::OldIssuer,
        Rejection::OtherRing { given: 3, own: 4 },
    ]
}

fn complaints() -> Vec<Complaint> {
    vec![
        Complaint::Refused { peer: "n2".into(), why: "why".into() },
        Complaint::Foreign { peer: "n2".into(), cluster: "c".into(), ours: 5, theirs: 6 },
        Complaint::Undialable {
            node: "n1".into(),
            address: "h:1".into(),
            found: Some("n2".into()),
        },
    ]
}

fn loss_rejections() -> Vec<LossRejection> {
    vec![LossRejection::NothingLost { node: "n1".into() }]
}

fn decision(premise: Premise) -> Body {
    let (key, answers, change) = (key(), object(), Change::Delete);
    let (gc_epoch, hint_for) = (GcEpoch(3), vec![NodeId(1)]);
    Body::Decide { key, premise, answers, gc_epoch, change, hint_for }
}

/// A ring in a change, as it is reported.
fn changing() -> Body {
    let newcomer = RingMember { weight: 50, ..RingMember::plain(NodeId(9)) };
    let ring = ring().begin(&[Edit::Join(newcomer)]).unwrap();
    Body::Placement { ring, members: Members::new(vec![member()]) }
}

fn bodies() -> Vec<(&'static str, Body)> {
    let put = Change::Put { write: WriteId(3), value: blob(b"v") };
    let context = Context::new(vec![DOT]);
    let hint_for = || vec![NodeId(1), NodeId(2)];
    let update = |change| {
        let (key, context) = (key(), context.clone());
        Body::Update { key, context, change, hint_for: hint_for() }
    };
    let partition = Partition(300);
    let leaves = |leaves, after| Body::Leaves { partition, leaves, after };
    let item = Item { key: key(), context: context.clone(), check: u32::MAX };
    let heartbeats = || vec![(NodeId(1), Heartbeat { incarnation: Incarnation(3), count: 300 })];
    vec![
        ("coordinate", Body::Coordinate { request: requests().remove(0).1, timeout_ms: 450 }),
        ("coordinated", Body::Coordinated(responses().remove(0).1)),
        ("update-put", update(put)),
        ("update-delete", update(Change::Delete)),
        ("update-put-again", update(Change::PutAgain { write: WriteId(3), value: blob(b"v") })),
        ("updated", Body::Updated { object: object(), dot: Some(DOT), gc_epoch: GcEpoch(3) }),
        ("merge", Body::Merge { key: key(), object: object(), gc_epoch: GcEpoch(3) }),
        (
            "keep",
            Body::StoreHint {
                key: key(),
                object: object(),
                hint_for: hint_for(),
                gc_epoch: GcEpoch(3),
            },
        ),
        ("held", Body::Ack),
        ("delete-hint", Body::DeleteHint { key: key(), target: NodeId(1), object: object() }),
        ("ask-hints", Body::QueryHints),
        ("hints", Body::Hints(300)),
        ("digest", Body::Gossip(Gossip::Digest { heartbeats: heartbeats(), members: 5 })),
        (
            "news",
            Body::Gossip(Gossip::News {
                heartbeats: heartbeats(),
                members: vec![member()],
                digest: 6,
                wanted: hint_for(),
            }),
        ),
        ("read", Body::Read { key: key() }),
        (
            "copy",
            Body::Copy {
                object: object(),
                authoritative: true,
                kept_for: hint_for(),
                gc_epoch: GcEpoch(3),
            },
        ),
        ("list", Body::List { partition: Partition(1), after: None, limit_bytes: 64 }),
        ("listed", Body::Listed { keys: vec![key()], more: false, authoritative: true }),
        (
            "introduce",
            Body::Introduce {
                incarnation: INCARNATION,
                cluster: Some(1),
                ring: RingId { version: 2, digest: 3 },
            },
        ),
        ("known", Body::Known { seen: Some(INCARNATION), birth: 2, cluster: Some(cluster()) }),
        ("failed", Body::Failed(Rejection::Damaged)),
        ("restore", Body::Restore { key: key(), object: object() }),
        (
            "compare",
            Body::Compare {
                partition,
                shape: SHAPE,
                width: 2,
                root: Digest(1 << 100),
                gc_epoch: GcEpoch(3),
            },
        ),
        ("equal", Body::Equal),
        ("descend", Body::Descend { partition, width: 8, level: 1, nodes: vec![0, 15] }),
        ("summaries", Body::Summaries(blob(b"16 children of 2"))),
        ("leaves", leaves(Some(vec![0, 4_095]), Some(key()))),
        ("all-leaves", leaves(None, None)),
        ("items", Body::Items { items: vec![item], next: Some(key()) }),
        ("marks dead", Body::MarkDead(purgeable_key())),
        ("collect", Body::Purge { key: key() }),
        ("discard", Body::Discard { key: key(), target: Some(NodeId(1)) }),
        (
            "propose",
            Body::Propose {
                partition,
                gc_epoch: GcEpoch(3),
                members: 5,
                purgeable: vec![purgeable_key()],
            },
        ),
        ("agreed", Body::Agreed),
        ("not-yet", Body::NotYet(NotYet::GcState { own: GcEpoch(3), proposed: GcEpoch(4) })),
        ("gc-epochs", Body::GcEpochs { digest: 5, certain: true, query: false }),
        ("gc-epoch-numbers", Body::GcEpochNumbers(vec![(partition, GcEpoch(3))])),
        ("ask-gc-epoch", Body::QueryGcEpoch(partition)),
        (
            "gc-epoch",
            Body::GcState {
                partition,
                gc_epoch: GcState {
                    number: GcEpoch(3),
                    purgeable: vec![purgeable_key()],
                    purged: vec![purgeable_key()],
                },
            },
        ),
        ("placement", Body::Placement { ring: ring(), members: Members::new(vec![member()]) }),
        ("withdraw", Body::Withdraw { key: key() }),
        (
            "ask-ring",
            Body::QueryRing {
                ring: RingId { version: 2, digest: 3 },
                old: NodeId(1),
                new: NodeId(2),
            },
        ),
        ("query-change", Body::QueryChange { ring: RING, next: 5, newcomers: vec![member()] }),
        ("progress", Body::Progress(RingProgress { ineligible: 300, empty: true })),
        ("erase", Body::Erase { key: key(), digest: Some(Digest::default()) }),
        ("erase-damaged", Body::Erase { key: key(), digest: None }),
        ("fetch", Body::Fetch { partition, leaves: Some(vec![0, 4_095]), after: Some(key()) }),
        ("fetch-all", Body::Fetch { partition, leaves: None, after: None }),
        (
            "records",
            Body::Records {
                records: vec![(key(), object())],
                gc_epoch: GcEpoch(3),
                next: Some(key()),
            },
        ),
        ("placement-in-a-change", changing()),
        ("ring-granted", Body::RingGranted),
        ("ring-denied", Body::RingDenied { by: NodeId(1) }),
        ("decide", decision(Premise::OneValue)),
        ("decide-absent", decision(Premise::Absent)),
        ("decide-within", decision(Premise::Within(Context::new(vec![DOT])))),
        ("abandon", Body::Abandon),
        ("query-wanted", Body::QueryWanted(RequestId::of_wire(77))),
        ("wanted", Body::Wanted),
    ]
}

fn staged() -> Vec<Staged> {
    let (name, address) = (|| String::from("n4"), || String::from("h:4"));
    vec![
        Staged::Join { name: name(), address: address(), weight: 300, zone: Some("a".into()) },
        Staged::Leave { name: name() },
        Staged::Remove { name: name() },
        Staged::Set { name: name(), weight: Some(300), zone: None },
        Staged::Replace { old: "n3".into(), new: name(), address: address() },
    ]
}

fn outcome() -> Outcome {
    let share = Share { name: "n4".into(), before: 0, after: 300, gains: 300, loses: 0 };
    let (digest, version, partitions) = (300, 5, 256);
    Outcome { digest, version, partitions, moves: 300, bytes: 1 << 40, members: vec![share] }
}

fn plan(outcome: Result<Outcome, PlanRejection>) -> PlanReport {
    PlanReport {
        staged: staged(),
        version: 2,
        step: Some(Step::Turn),
        unconfirmed: vec!["n2".into()],
        outcome: Some(outcome),
    }
}

fn replies() -> Vec<(&'static str, ReplyBody)> {
    let member = member();
    let peer = PeerStatus {
        id: member.id(),
        name: "n1".into(),
        address: member.address.clone(),
        up: true,
        liveness: Liveness::Suspect,
        phi_hundredths: 250,
        latency_us: Some(1_500),
        hints: 7,
        hint_bytes: 700,
        hint_age_ms: 9_000,
        dropped: 4,
        repair: PeerRepair { shared: 9, equal: 8, oldest_ms: Some(60_000), pending: 1, failing: 2 },
    };
    let ring = RingReport {
        members: Members::new(vec![member]),
        ring: ring(),
        r: 1,
        w: 1,
        strict: true,
        avoided: vec![NodeId(8)],
    };
    let status = StatusReport {
        cluster: "c".into(),
        name: "n1".into(),
        version: "0.1.0".into(),
        store: 1,
        incarnation: Incarnation(2),
        recovered: true,
        serving: true,
        read_ineligible: 6,
        uptime_ms: 3,
        partitions: 256,
        disk_bytes: 5,
        peers: vec![peer],
        hint_limit_bytes: 1 << 30,
        emulated: vec!["drop 0.5".into()],
        counters: vec![(Counter::GetsAnswered, 6)],
        repair: RepairStatus {
            unread: 1,
            damaged: 2,
            pending: 3,
            failing: 1,
            example: Some((Partition(300), NodeId(8), ComparisonFault::OddKeys)),
        },
        tombstone_gc: TombstoneGcStatus {
            keys: 5,
            blocked: 1,
            example: Some((Partition(300), Blocked::Away { member: "n2".into() })),
        },
        gauges: Gauges {
            drained: true,
            changing_ring: true,
            oversized_keys: 300,
            partitions_lost: 4,
            store_stalled_seconds: 5,
            unservable_partitions: 6,
        },
        other_rings: vec![("n2".into(), 7)],
        complaints: complaints(),
    };
    let pair = PairStatus {
        partition: Partition(300),
        peer: NodeId(8),
        equal_ms: Some(60_000),
        pending: true,
        failing: Some(ComparisonFault::NoAnswer { ms: 10_000 }),
        pulled: 1,
        pushed: 2,
        bytes: 300,
    };
    let counts = RepairCounts {
        exchanges: 1,
        exchanges_failed: 2,
        objects_pulled: 3,
        objects_pushed: 4,
        bytes_pulled: 500,
        bytes_pushed: 600,
    };
    let repair = RepairReport {
        name: "n1".into(),
        pairs: vec![pair],
        unreachable: vec![NodeId(8)],
        unread: 1,
        damaged: 2,
        counts,
    };
    let replacement = Replacement {
        old_address: "127.0.0.1:1".into(),
        version: 2,
        places: 154,
        partitions: 256,
        hints: 300,
    };
    let drain = DrainReport {
        name: "n1".into(),
        state: DrainState::Drained,
        requests: 300,
        hints: vec![KeptHints { name: "n2".into(), count: 3, bytes: 400, reachable: true }],
    };
    let trips =
        RecentTrips { node: NodeId(8), reads_us: vec![250, 70_000], writes_us: vec![2_000] };
    let peers = vec![(NodeId(8), Some(4)), (NodeId(9), None)];
    let links = LinksReport { secret: true, protocol: 5, peers };
    vec![
        ("samples", ReplyBody::Samples(SampleReport { name: "n1".into(), trips: vec![trips] })),
        ("replace", ReplyBody::Replace(Ok(replacement))),
        ("no-replace", ReplyBody::Replace(Err(ReplaceRejection::Full))),
        ("data", ReplyBody::Data(responses().remove(1).1)),
        ("ring", ReplyBody::Ring(ring)),
        ("status", ReplyBody::Status(status.into())),
        ("emulated", ReplyBody::Emulated(Ok(vec!["drop 0.5".into()]))),
        ("not-emulated", ReplyBody::Emulated(Err(EmulateRejection::NoRule))),
        ("stopping", ReplyBody::Stopping),
        ("repair", ReplyBody::Repair(Ok(repair))),
        ("no-repair", ReplyBody::Repair(Err(RepairRejection::Itself { node: "n1".into() }))),
        ("drain", ReplyBody::Drain(Ok(drain))),
        ("no-drain", ReplyBody::Drain(Err(DrainRejection::Timeout { timeout_ms: 500 }))),
        ("links", ReplyBody::Links(links)),
        ("loss-accepted", ReplyBody::LossAccepted(Ok(64))),
        ("no-loss-accepted", ReplyBody::LossAccepted(Err(loss_rejections().remove(0)))),
        ("given-up", ReplyBody::GivenUp),
        ("plan", ReplyBody::Plan(Box::new(Ok(plan(Ok(outcome())))))),
        ("plan-impossible", ReplyBody::Plan(Box::new(Ok(plan(Err(PlanRejection::Unchanged)))))),
        ("no-plan", ReplyBody::Plan(Box::new(Err(PlanRejection::NoChange)))),
    ]
}

fn ring() -> Ring {
    Ring::new(&[NodeId::of("n1"), NodeId::of("n2")], 1, 4).unwrap()
}

/// A proof of each side, and a frame with a seal.
fn secured(out: &mut String) {
    let key = SecretKey::new(b"0123456789abcdef", Role::Client);
    // What a proof covers is the preambles that were sent; these are of protocol 5.
    let mut preamble = wire::preamble();
    preamble[8..].copy_from_slice(&[0, 5, 0, 5]);
    let exchange = Exchange::new([&preamble, &preamble], [&[7; 32], &[8; 32]]);
    raw(out, "dialer-proof", &exchange.dialer_proof(&key, &[1]));
    raw(out, "listener-proof", &exchange.listener_proof(&key, &[1], b"welcome"));
    let mut frame = BytesMut::new();
    let [mut seal, _] = exchange.seals(&key, &[1]);
    wire::put_frame(&mut frame, &Call { id: 1, body: CallBody::Ring }, Some(&mut seal));
    raw(out, "sealed-frame", &frame);
}

#[test]
fn golden_bytes() {
    let mut out = String::new();
    raw(&mut out, "preamble", &wire::preamble());
    let peer = Hello::Peer {
        cluster: "c".into(),
        ring: RingId { version: 1, digest: u64::MAX },
        node: NodeId::of("n1"),
        to: NodeId::of("n2"),
        incarnation: Incarnation(7),
        boot_nonce: 8,
    };
    golden(&mut out, "hello-peer", peer);
    golden(&mut out, "hello-client", Hello::Client);
    golden(&mut out, "welcome", Welcome::Accepted { cluster: "c".into(), name: "n1".into() });
    golden(&mut out, "unwelcome", Welcome::Refused("why".into()));
    golden(&mut out, "removed", Welcome::Removed("why".into()));
    golden(&mut out, "hello-challenge", Hello::Challenge([7; 32]));
    golden(&mut out, "hello-proven", Hello::Proven { hello: blob(&[1]), proof: [8; 32] });
    golden(&mut out, "challenge", Welcome::Challenge([7; 32]));
    golden(&mut out, "proven", Welcome::Proven { welcome: blob(b"\x01\x03why"), proof: [8; 32] });
    let as_member = Hello::Member {
        cluster: "c".into(),
        ring: RingId { version: 1, digest: u64::MAX },
        node: NodeId::of("n1"),
        to: NodeId::of("n2"),
        incarnation: Incarnation(7),
        boot_nonce: 8,
        birth: 9,
        address: "127.0.0.1:7432".into(),
    };
    golden(&mut out, "hello-member", as_member);
    golden(&mut out, "hello-probe", Hello::Probe { cluster: "c".into() });
    let probed = Welcome::Probed { name: "n1".into(), birth: 9, boot_nonce: 8 };
    golden(&mut out, "probed", probed);
    golden(&mut out, "duplicate", Welcome::Duplicate("why".into()));
    secured(&mut out);
    for (name, request) in requests() {
        let body = CallBody::Data { request, timeout_ms: 500 };
        golden(&mut out, &format!("call-{name}"), Call { id: 1, body });
    }
    for (name, body) in [
        ("ring", CallBody::Ring),
        ("status", CallBody::Status),
        ("links", CallBody::Links),
        ("accept-loss", CallBody::AcceptLoss),
        ("give-up", CallBody::GiveUp { call: 300 }),
        ("plan-join", CallBody::Plan(PlanOrder::Stage(staged().remove(0)))),
        ("plan-show", CallBody::Plan(PlanOrder::Show)),
        ("plan-clear", CallBody::Plan(PlanOrder::Clear)),
        ("plan-apply", CallBody::Plan(PlanOrder::Apply { digest: 300 })),
        ("plan-cancel", CallBody::Plan(PlanOrder::Cancel)),
        ("plan-dismiss", CallBody::Plan(PlanOrder::Dismiss { name: "n4".into() })),
        ("show", CallBody::Emulate(EmulateOrder::Show)),
        ("set", CallBody::Emulate(EmulateOrder::Set("drop 0.5".into()))),
        ("clear", CallBody::Emulate(EmulateOrder::Clear)),
        ("stop", CallBody::Stop),
        ("samples", CallBody::Samples),
        (
            "replace",
            CallBody::Replace {
                old: "n1".into(),
                new: "n2".into(),
                address: "127.0.0.1:1".into(),
                apply: true,
            },
        ),
        ("drain", CallBody::Drain(DrainOrder::Begin { timeout_ms: 500 })),
        ("drain-show", CallBody::Drain(DrainOrder::Show)),
        ("undrain", CallBody::Drain(DrainOrder::End)),
        ("compared", CallBody::Repair { begin: false, partition: None, peer: None }),
        (
            "repair",
            CallBody::Repair {
                begin: true,
                partition: Some(Partition(300)),
                peer: Some(NodeId(8)),
            },
        ),
    ] {
        golden(&mut out, &format!("call-{name}"), Call { id: 2, body });
    }
    for (name, body) in replies() {
        golden(&mut out, &format!("reply-{name}"), Reply { id: 1, body });
    }
    for (name, response) in responses() {
        golden(&mut out, &format!("response-{name}"), response);
    }
    for (at, rejection) in rejections().into_iter().enumerate() {
        golden(&mut out, &format!("rejection-{at}"), rejection);
    }
    for (name, body) in bodies() {
        golden(
            &mut out,
            &format!("peer-{name}"),
            PeerMessage { ring: RING, request_id: RequestId::of_wire(77), body },
        );
    }
    codes::write(&mut out);
    raw(
        &mut out,
        "frame-held",
        &wire::frame(&PeerMessage {
            ring: RING,
            request_id: RequestId::of_wire(77),
            body: Body::Ack,
        }),
    );
    raw(&mut out, "context", &wire::seal(&key(), &Context::new(vec![DOT])).0);
    let record =
        Record { own_epoch: Some(ActorEpoch(5)), object: object(), gc_epoch: GcEpoch::FIRST };
    raw(&mut out, "record", &store::encode_record(Partition(2), &key(), &record));
    raw(&mut out, "hint", &store::encode_hint(NodeId(2), &key(), &record));
    golden(&mut out, "members", Members::new(vec![member()]));
    let identity = StoreIdentity { cluster: "c".into(), name: "n1".into(), ring: 9 };
    let meta = Meta {
        identity,
        birth: 10,
        store: 1,
        incarnation: Incarnation(2),
        actor_epoch_floor: ActorEpoch(3),
        actor_epoch_end: ActorEpoch(4_099),
        clean: true,
        cluster: Some(cluster()),
        read_ineligible: vec![Partition(7)],
        peer_incarnations: vec![(NodeId(9), INCARNATION)],
        fresh: vec![9],
    };
    golden(&mut out, "meta", meta);
    golden(&mut out, "ring-table", ring());

    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/wire.tsv");
    if std::env::var_os("PIXII_WRITE_GOLDEN").is_some() {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, &out).unwrap();
    }
    let kept = std::fs::read_to_string(&file).unwrap();
    for (kept, now) in kept.lines().zip(out.lines()) {
        assert_eq!(kept, now);
    }
    assert_eq!(kept.lines().count(), out.lines().count());
}

#[test]
fn every_rejection_is_one_sentence() {
    for rejection in rejections() {
        let text = rejection.to_string();
        assert!(!text.contains('\n') && !text.contains("  ") && text.len() > 15, "{text}");
    }
    let (outcomes, answered) = (outcomes(), 1);
    let text = Rejection::NoQuorum { answered, outcomes, needed: 2, timeout_ms: 500 }.to_string();
    let who = "counted: n1; answered, not counted: n2; silent or unreachable: n3, n4";
    assert_eq!(text, format!("no quorum: 1 of 2 replicas answered in 500 ms ({who})"));
    let text =
        Rejection::Unreachable { reachable: 0, needed: 1, outcomes: ReplicaOutcomes::default() }
            .to_string();
    assert_eq!(text, "no quorum: 0 of 1 replicas can answer");
}

#[test]
fn frames_are_bounded_checked_and_waited_for() {
    let message = PeerMessage {
        ring: RING,
        request_id: RequestId::of_wire(1),
        body: Body::Read { key: key() },
    };
    let frame = wire::frame(&message);
    assert_eq!(wire::frame_len(&message), frame.len());
    let mut input = BytesMut::new();
    for byte in &frame[..frame.len() - 1] {
        input.put_u8(*byte);
        assert_eq!(wire::take_frame(&mut input, 4_096), Ok(None));
    }
    input.put_slice(&frame[frame.len() - 1..]);
    input.put_slice(&frame);
    for _ in 0..2 {
        let payload = wire::take_frame(&mut input, 4_096).unwrap().unwrap();
        assert_eq!(wire::decode::<PeerMessage>(&payload).unwrap(), message);
    }
    assert!(input.is_empty());

    let mut huge = BytesMut::from(&u32::MAX.to_be_bytes()[..]);
    let error = wire::take_frame(&mut huge, 4_096).unwrap_err();
    assert_eq!(error.to_string(), "a frame of 4294967295 bytes; the limit here is 4096");
    let mut tiny = BytesMut::from(&[0, 0, 0, 3, 1, 2, 3][..]);
    assert_eq!(wire::take_frame(&mut tiny, 4_096), Err(WireError::FrameLength(3, 4_096)));
    for at in 4..frame.len() {
        let mut broken = BytesMut::from(&frame[..]);
        broken[at] ^= 1;
        let error = wire::take_frame(&mut broken, 4_096).unwrap_err();
        assert_eq!(error, WireError::Checksum(frame.len() - 4));
    }
}

#[test]
fn preambles_name_what_is_wrong() {
    let good = wire::preamble();
    assert_eq!(wire::check_preamble(&good), Ok(9));
    let error = wire::check_preamble(b"GET / HTTP/1").unwrap_err();
    assert_eq!(error.to_string(), "not a Pixii connection: it begins with \"GET / HT\"");
    let check = |low: u8, high: u8| {
        let mut offered = good;
        offered[8..].copy_from_slice(&[0, low, 0, high]);
        wire::check_preamble(&offered).map_err(|error| error.to_string())
    };
    let refused = |low, high, stated: &str| {
        Err(format!("protocol versions {low} to {high} are offered; this node speaks {stated}"))
    };
    assert_eq!(check(10, 10), refused(10, 10, "6 to 9"));
    assert_eq!(check(1, 5), refused(1, 5, "6 to 9"));
    assert_eq!(check(7, 6), refused(7, 6, "6 to 9"));
    assert_eq!(check(5, 5), refused(5, 5, "6 to 9"));
    assert_eq!([check(1, 6), check(6, 10), check(7, 7)], [Ok(6), Ok(9), Ok(7)]);
}

/// A type with a value that has no encoding.
struct Odd;

impl Encode for Odd {
    fn encode<E: bincode::enc::Encoder>(&self, _: &mut E) -> Result<(), EncodeError> {
        Err(EncodeError::Other("there is none"))
    }
}

#[test]
#[should_panic(expected = "a message or a record cannot be encoded")]
fn what_cannot_be_encoded_makes_no_empty_record() {
    wire::encode_behind(&[1], &Odd, 8);
}

#[test]
#[should_panic(expected = "a message or a record cannot be encoded")]
fn what_cannot_be_encoded_has_no_length() {
    wire::encoded_len(&Odd);
}

#[test]
fn contexts_are_sealed_to_their_key() {
    let context = Context::new(vec![DOT]);
    let sealed = wire::seal(&key(), &context);
    assert_eq!(wire::unseal(&key(), &sealed), Some(context));
    assert_eq!(wire::unseal(&Key::new(&b"other"[..]).unwrap(), &sealed), None);
    for at in 0..sealed.0.len() {
        let mut bytes = sealed.0.to_vec();
        bytes[at] ^= 4;
        assert_eq!(wire::unseal(&key(), &Blob(bytes.into())), None, "byte {at}");
        assert_eq!(wire::unseal(&key(), &Blob(sealed.0.slice(..at))), None, "cut at {at}");
    }
}

#[test]
fn records_are_sealed_to_their_place() {
    let record = Record { own_epoch: None, object: object(), gc_epoch: GcEpoch::FIRST };
    let bytes = Bytes::from(store::encode_record(Partition(2), &key(), &record));
    let found = |p, key: &Key, bytes: Bytes| store::decode_record(Partition(p), key, bytes);
    assert_eq!(found(2, &key(), bytes.clone()), Found::Record(record));
    assert_eq!(found(3, &key(), bytes.clone()), Found::Damaged);
    assert_eq!(found(2, &Key::new(&b"k"[..]).unwrap(), bytes.clone()), Found::Damaged);
    for at in 0..bytes.len() {
        let mut broken = bytes.to_vec();
        broken[at] ^= 1;
        assert_eq!(found(2, &key(), broken.into()), Found::Damaged, "byte {at}");
        assert_eq!(found(2, &key(), bytes.slice(..at)), Found::Damaged, "cut at {at}");
    }
}

#[test]
fn hints_are_sealed_to_their_target_and_lists_of_members_merge_in_any_order() {
    let record = Record { own_epoch: None, object: object(), gc_epoch: GcEpoch::FIRST };
    let bytes = Bytes::from(store::encode_hint(NodeId(2), &key(), &record));
    let found = |target, bytes: Bytes| store::decode_hint(NodeId(target), &key(), bytes);
    assert_eq!(found(2, bytes.clone()), Found::Record(record));
    assert_eq!(found(3, bytes.clone()), Found::Damaged);
    assert_eq!(store::decode_record(Partition(0), &key(), bytes), Found::Damaged);

    let mut variants = Vec::new();
    for incarnation in 0..3 {
        for membership in
            [MembershipStatus::Joining, MembershipStatus::Member, MembershipStatus::Removed]
        {
            for (address, version) in [("a:1", 1), ("b:1", 2), ("a:1", 2)] {
                let (name, address) = ("n1".to_string(), address.to_string());
                variants.push(Member {
                    name,
                    address,
                    incarnation: Incarnation(incarnation),
                    membership,
                    version,
                });
            }
        }
    }
    let merged = |one: &Member, other: &Member| {
        let mut one = one.clone();
        one.merge(other);
        one
    };
    for a in &variants {
        assert_eq!(merged(a, a), *a);
        for b in &variants {
            assert_eq!(merged(a, b), merged(b, a));
            for c in &variants {
                assert_eq!(merged(&merged(a, b), c), merged(a, &merged(b, c)));
            }
            let removed = [a, b].iter().any(|one| one.membership == MembershipStatus::Removed);
            assert_eq!(
                merged(a, b).membership == MembershipStatus::Removed,
                removed,
                "removed \
                absorbs"
            );
        }
    }
}

#[test]
fn keys_and_lengths_are_limited_when_decoded() {
    for (length, fits) in [(0, false), (1, true), (1_024, true), (1_025, false)] {
        let bytes = Bytes::from(wire::encode(&Blob(vec![7; length].into())));
        assert_eq!(wire::decode::<Key>(&bytes).is_ok(), fits, "{length}");
    }
    let error = Key::new(vec![0; 1_025]).unwrap_err();
    assert_eq!(error.to_string(), "the key has 1025 bytes; a key has 1 to 1024");
    // A list that claims 2^60 elements is refused before memory is taken for it.
    let mut claims = vec![4, 253];
    claims.extend((1u64 << 60).to_le_bytes());
    assert!(wire::decode::<Response>(&Bytes::from(claims)).is_err());
    let trailing = [wire::encode(&Body::Ack), vec![0]].concat();
    assert!(wire::decode::<Body>(&Bytes::from(trailing)).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]
    #[test]
    fn noise_is_refused_and_never_panics(noise in prop::collection::vec(any::<u8>(), 0..200)) {
        let bytes = Bytes::from(noise.clone());
        let _ = wire::decode::<PeerMessage>(&bytes);
        let _ = wire::decode::<Call>(&bytes);
        let _ = wire::decode::<Reply>(&bytes);
        let _ = wire::decode::<Before<PeerMessage>>(&bytes);
        let _ = wire::decode::<Before<Reply>>(&bytes);
        let _ = wire::decode::<Hello>(&bytes);
        let _ = wire::decode::<Welcome>(&bytes);
        let _ = wire::unseal(&key(), &Blob(bytes.clone()));
        let mut input = BytesMut::from(&noise[..]);
        let _ = wire::take_frame(&mut input, 4_096);
    }

    #[test]
    fn a_flipped_bit_in_a_message_never_panics(seed in any::<u64>()) {
        let mut rng = Rng::new(seed);
        for (_, body) in bodies() {
            let request_id = RequestId::of_wire(1);
            let mut bytes = wire::encode(&PeerMessage { ring: RING, request_id, body });
            let at = rng.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << rng.below(8);
            let _ = wire::decode::<PeerMessage>(&Bytes::from(bytes));
        }
    }
}
