//! Later rings, strangers, and what is kept for a member that was removed.

use std::collections::BTreeSet;

use bytes::Bytes;
use pixii_core::causal::{Actor, ActorEpoch, Context, Object, Version};
use pixii_core::members::{Incarnation, IncarnationId, Member, Members, MembershipStatus};
use pixii_core::message::{Body, Quorum, Rejection, Request};
use pixii_core::node::{Done, Input, Notice, Output, SyncSeq, Work};
use pixii_core::ring::{Edit, Ring, RingId, RingMember};
use pixii_core::store::memory::MemoryStore;
use pixii_core::store::{Change, Found, Kept, Record, Store};
use pixii_core::types::{Blob, Key, NodeId, WriteId};

use super::ballot::replaced;
use super::bench::Bench;

pub(crate) fn fresh() -> Member {
    Member::configured("n9".to_string(), "host:9")
}

/// The members as those that live with this ring know them: who has no place in it is removed.
pub(crate) fn members_of(ring: &Ring) -> Members {
    let names = (0..4).map(|at| Member::configured(format!("n{at}"), "host:1"));
    let member = |member: Member| match ring.has(member.id()) {
        true => member,
        false => {
            Member { membership: MembershipStatus::Removed, version: ring.version(), ..member }
        }
    };
    Members::new(names.map(member).chain([fresh()]).collect())
}

/// What a peer reports of a ring.
pub(crate) fn reported(ring: &Ring) -> Body {
    Body::Placement { ring: ring.clone(), members: members_of(ring) }
}

/// How a peer introduces itself.
pub(crate) fn introduce(ring: RingId, cluster: Option<u64>) -> Body {
    let incarnation = IncarnationId { incarnation: Incarnation(1), nonce: 6 };
    Body::Introduce { incarnation, cluster, ring }
}

/// The write of a ring, and its sequence number.
pub(crate) fn taken(out: &[Output]) -> (SyncSeq, &Ring, &pixii_core::store::Meta) {
    let write = |output| match output {
        &Output::Store(Work::Write { seq, ref changes }) => match &changes[..] {
            [Change::Ring(ring), Change::Members(_), Change::Meta(meta)] => Some((seq, ring, meta)),
            _ => None,
        },
        _ => None,
    };
    out.iter().find_map(write).unwrap_or_else(|| panic!("no ring is taken: {out:?}"))
}

#[test]
fn a_later_ring_is_in_force_once_it_is_durable_and_no_other_ring_is() {
    let mut bench = Bench::new();
    let [one, two, three] = bench.peers()[..] else { panic!() };
    let ring = (*bench.ring).clone();
    let without_me = ring.replace(bench.me, fresh().id()).unwrap();
    let later = replaced(&ring, three);
    for useless in [&ring, &without_me] {
        assert!(bench.peer(one, 1, reported(useless)).is_empty());
    }
    let small = Ring::new(&ring.members().iter().map(|m| m.id).collect::<Vec<_>>(), 3, 8).unwrap();
    let small = small.replace(three, fresh().id()).unwrap();
    let out = bench.peer(one, 1, reported(&small));
    assert!(matches!(out[..], [Output::Notice(Notice::Misplaced(from))] if from == one));
    assert!(bench.peer(fresh().id(), 1, reported(&later)).is_empty(), "of one without a place");

    let out = bench.peer(one, 1, reported(&later));
    let (seq, written, meta) = taken(&out);
    assert_eq!(*written, later);
    assert!(meta.read_ineligible.is_empty(), "no place came here");
    assert!(bench.peer(two, 1, reported(&later)).is_empty(), "it is on its way");
    let earlier = bench.give(Input::Store(Done::Synced { seq: SyncSeq(seq.0 - 1) }));
    assert!(earlier.is_empty(), "another write is durable: {earlier:?}");
    assert_eq!(bench.node.ring_id(), ring.id());
    let out = bench.give(Input::Store(Done::Synced { seq }));
    let in_force = |output: &Output| matches!(output, Output::Ring { ring, .. } if **ring == later);
    assert!(out.iter().any(in_force), "{out:?}");
    assert_eq!(bench.node.ring_id(), later.id());
    assert!(bench.peer(one, 1, reported(&ring)).is_empty(), "an earlier one");
}

#[test]
fn places_that_a_later_ring_brings_come_read_ineligible_and_stay_so_while_it_is_synced() {
    let mut bench = Bench::new();
    let [one, _, three] = bench.peers()[..] else { panic!() };
    let ring = (*bench.ring).clone();
    let fewer = ring.begin(&[Edit::Remove(three)]).unwrap();
    let out = bench.peer(one, 1, reported(&fewer));
    let (seq, _, meta) = taken(&out);
    let owned = |ring: &Ring| {
        let all = (0..ring.partitions()).map(pixii_core::types::Partition);
        all.filter(|partition| ring.is_owner(*partition, bench.me)).count()
    };
    let gained = owned(&fewer) - owned(&ring);
    assert!(gained > 0);
    assert_eq!(meta.read_ineligible.len(), gained);
    // The disk takes its time, and the node goes on.
    bench.tick(500);
    assert_eq!(bench.node.meta().read_ineligible.len(), gained);
    bench.give(Input::Store(Done::Synced { seq }));
    bench.tick(500);
    assert_eq!(bench.node.meta().read_ineligible.len(), gained);
}

#[test]
fn what_is_asked_under_an_earlier_ring_is_taken_from_those_that_were_as_far_and_if_the_two_meet() {
    let mut bench = Bench::new();
    let [one, two, three] = bench.peers()[..] else { panic!() };
    let cluster = bench.node.meta().cluster.as_ref().map(|cluster| cluster.id);
    let (first, key) = (bench.ring.id(), bench.key(true));
    bench.peer(one, 8, introduce(first, cluster));
    let moved =
        bench.ring.begin(&[Edit::Set(RingMember { weight: 50, ..RingMember::plain(three) })]);
    let fill = moved.unwrap();
    let out = bench.peer(one, 1, reported(&fill));
    let (seq, ..) = taken(&out);
    bench.give(Input::Store(Done::Synced { seq }));
    assert_eq!(bench.node.ring_id(), fill.id());
    let read = || Body::Read { key: key.clone() };
    let is_read = |out: &[Output]| matches!(out[..], [Output::Store(Work::Read { .. })]);
    assert!(is_read(&bench.peer_under(first, one, 3, read())));
    // One that has come back with an old ring gets the one in force before it is heard.
    for up in [false, true] {
        bench.give(Input::Link { peer: two, up });
    }
    let out = bench.peer_under(first, two, 3, read());
    let refused = |output: &Output| match output {
        Output::Send { to, message } => {
            to[..] == [two]
                && matches!(message.body, Body::Failed(Rejection::OtherRing { given: 1, own: 2 }))
        }
        _ => false,
    };
    let shown = |output: &Output| match output {
        Output::Send { to, message } => {
            to[..] == [two]
                && matches!(&message.body, Body::Placement { ring, .. } if *ring == fill)
        }
        _ => false,
    };
    assert!(out.iter().any(refused) && out.iter().any(shown), "{out:?}");
    // A ring that does not meet the one in force is none to ask under.
    let turn = fill.forward().unwrap();
    let out = bench.peer(one, 1, reported(&turn));
    let (seq, ..) = taken(&out);
    bench.give(Input::Store(Done::Synced { seq }));
    assert!(!is_read(&bench.peer_under(first, one, 3, read())));
    let other = bench.keys_of(bench.ring.partition(&key), &key);
    assert!(is_read(&bench.peer_under(fill.id(), one, 3, Body::Read { key: other })));
}

#[test]
fn who_has_an_earlier_ring_is_reported_and_who_has_none_of_it_is_not_heard() {
    let mut bench = Bench::new();
    let [one, ..] = bench.peers()[..] else { panic!() };
    let cluster = bench.node.meta().cluster.as_ref().map(|cluster| cluster.id);
    let introduce = |ring: RingId| introduce(ring, cluster);
    // One with a later ring is shown the own one, so that it reports.
    let out = bench.peer(one, 8, introduce(RingId { version: 2, digest: 0 }));
    let [Output::Send { to, message }] = &out[..] else { panic!("{out:?}") };
    let own = bench.ring.id();
    assert_eq!(to[..], [one]);
    assert!(matches!(message.body, Body::Introduce { ring, .. } if ring == own));
    // What is configured is not reported: another configuration is a mistake.
    assert!(bench.peer(one, 8, introduce(RingId { version: 0, digest: 0 })).is_empty());
    let key = bench.key(true);
    for body in [introduce(own), Body::Read { key: key.clone() }, Body::QueryHints] {
        assert!(bench.peer(NodeId(1), 8, body).is_empty(), "a stranger");
    }
    assert!(bench.give(Input::Link { peer: NodeId(1), up: true }).is_empty());
}

#[test]
fn what_is_kept_for_a_removed_member_goes_when_all_owners_have_it() {
    let key = Bench::new().key(true);
    let removed = NodeId::of("gone");
    let version = Version { write: WriteId(1), value: Blob(Bytes::from_static(b"v")) };
    let (object, _) = Object::default().update(
        &Context::default(),
        Actor { store: 3, actor_epoch: ActorEpoch(1) },
        version,
    );
    let record = Record { object: object.clone(), ..Record::default() };
    let (disk, mut hints) = (MemoryStore::default(), Kept::default());
    disk.apply(&[Change::Hint { target: removed, key: key.clone(), record: Some(record.clone()) }])
        .unwrap();
    let partition = Bench::new().ring.partition(&key);
    hints.add(removed, &key, &Found::Record(record), partition);
    let mut bench = Bench::keeping(1, hints);
    let merges = |out: &[Output]| {
        let merge = |output: &Output| match output {
            Output::Send { to, message } if matches!(message.body, Body::Merge { .. }) => {
                Some((to.clone(), message.request_id.wire()))
            }
            _ => None,
        };
        out.iter().find_map(merge)
    };
    let others = bench.others(&key);
    let mut linked = Vec::new();
    for (peer, birth) in bench.peers().into_iter().zip(2..) {
        let mut out = bench.give(Input::Link { peer, up: true });
        let known = Body::Known { seen: None, birth, cluster: None };
        out.extend(bench.peer(peer, bench.introduction(), known));
        out.extend(bench.peer(peer, 5, Body::Hints(0)));
        let out = bench.carry(out, &disk);
        linked.push(peer);
        let all = others.iter().all(|owner| linked.contains(owner));
        assert!(all || merges(&out).is_none(), "not all owners are in reach: {out:?}");
    }
    assert!(bench.node.is_settled());

    // One owner is away: what the others take is not enough.
    bench.give(Input::Link { peer: others[0], up: false });
    let out = bench.tick(2_000);
    assert_eq!(merges(&bench.carry(out, &disk)), None);
    let out = bench.give(Input::Link { peer: others[0], up: true });
    let mut out = bench.carry(out, &disk);
    let later = bench.tick(2_000);
    out.extend(bench.carry(later, &disk));
    let (to, request_id) = merges(&out).expect("it is offered to the owners");
    assert_eq!(to[..], others);
    let out = bench.peer(others[1], request_id, Body::Ack);
    bench.carry(out, &disk);
    assert_eq!(bench.node.peer_view(bench.now, removed).hints.count, 1);
    let out = bench.peer(others[0], request_id, Body::Ack);
    bench.carry(out, &disk);
    assert_eq!(bench.node.peer_view(bench.now, removed).hints.count, 0);
    let held = disk.read(partition, &key).unwrap();
    assert!(matches!(held, Found::Record(record) if record.object == object));
}

#[test]
fn a_removed_member_is_heard_no_more_once_the_ring_without_it_is_on_its_way_to_the_disk() {
    let mut bench = Bench::new();
    let [one, _, three] = bench.peers()[..] else { panic!() };
    let keys = || (0..100).map(|at| Key::new(format!("k{at}")).unwrap());
    let shared = |bench: &Bench, key: &Key| {
        let owners = bench.owners(key);
        owners.contains(&bench.me) && owners.contains(&three)
    };
    let key = keys().find(|key| shared(&bench, key)).unwrap();
    let w = Quorum { replicas: Some(2), strict: Some(true) };
    let value = Blob(Bytes::from_static(b"v"));
    let request = Request::Put { key, value, context: None, write: WriteId(7), w };
    let out = bench.query(request);
    let out = bench.disk(out, &Record::default());
    let merge = |output: &Output| match output {
        Output::Send { message, .. } if matches!(message.body, Body::Merge { .. }) => {
            Some(message.request_id.wire())
        }
        _ => None,
    };
    let request_id = out.iter().find_map(merge).unwrap();
    let later = replaced(&bench.ring, three);
    let out = bench.peer(one, 1, reported(&later));
    taken(&out);
    assert!(bench.peer(three, request_id, Body::Ack).is_empty(), "its disk is as good as lost");
    assert!(matches!(&bench.peer(one, request_id, Body::Ack)[..], [] | [Output::Reply { .. }]));
}

#[test]
fn the_fence_behind_a_ring_passes_when_every_member_has_confirmed_it() {
    let mut bench = Bench::new();
    let [one, two, three] = bench.peers()[..] else { panic!() };
    let cluster = bench.node.meta().cluster.as_ref().map(|cluster| cluster.id);
    let own = bench.ring.id();
    let introduce = |ring: RingId| introduce(ring, cluster);
    let waits_for = |bench: &Bench| BTreeSet::from_iter(bench.node.unconfirmed());
    // They have answered this node's introduction under the ring.
    assert_eq!(waits_for(&bench), [].into());
    bench.peer(one, 8, introduce(own));
    bench.peer(two, 8, introduce(RingId { version: 2, digest: 0 }));
    bench.peer(three, 8, introduce(RingId { digest: own.digest ^ 1, ..own }));
    assert_eq!(waits_for(&bench), [two, three].into(), "another digest is another ring");
    bench.peer(three, 8, introduce(own));
    // One that goes away has confirmed it; one that uses another ring has not.
    for peer in [two, three] {
        bench.give(Input::Link { peer, up: false });
    }
    assert_eq!(waits_for(&bench), [two].into());
    bench.give(Input::Link { peer: two, up: true });
    bench.peer(two, 8, introduce(own));
    assert_eq!(waits_for(&bench), [].into());
    // A disk that was put back uses an earlier ring again.
    bench.peer(one, 8, introduce(RingId { version: 0, digest: 0 }));
    assert_eq!(waits_for(&bench), [].into(), "of the same process: it was overtaken");
    let incarnation = IncarnationId { incarnation: Incarnation(2), nonce: 7 };
    let ring = RingId { version: 0, digest: 0 };
    bench.peer(one, 8, Body::Introduce { incarnation, cluster, ring });
    assert_eq!(waits_for(&bench), [one].into());
}
