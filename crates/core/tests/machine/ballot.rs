//! Changes of the ring at once: who may make one, and what two that were made all the same come to.

use pixii_core::members::{Incarnation, IncarnationId, Member, Members, MembershipStatus};
use pixii_core::message::Body;
use pixii_core::node::{Config, Hindrance, Input, Output, RingChange, Work, reconcile};
use pixii_core::ring::Ring;
use pixii_core::store::Change;
use pixii_core::types::NodeId;

use super::bench::Bench;
use super::placement::{fresh, members_of, reported};

/// The one message that is sent, and to whom.
fn sent(out: &[Output]) -> (&[NodeId], u64, &Body) {
    match out {
        [Output::Send { to, message }] => (to, message.request_id.wire(), &message.body),
        other => panic!("not one message: {other:?}"),
    }
}

fn query(ring: &Ring, old: NodeId) -> Body {
    Body::QueryRing { ring: ring.id(), old, new: fresh().id() }
}

fn is_granted(out: &[Output]) -> bool {
    matches!(sent(out).2, Body::RingGranted)
}

fn denied_by(out: &[Output]) -> NodeId {
    match sent(out).2 {
        Body::RingDenied { by } => *by,
        other => panic!("not denied: {other:?}"),
    }
}

#[test]
fn a_ring_changes_only_with_the_grants_of_more_than_half_of_the_members() {
    let mut bench = Bench::new();
    let [one, two, three] = bench.peers()[..] else { panic!() };
    let out = bench.give(Input::Replace { old: three, new: fresh() });
    let (to, request_id, body) = sent(&out);
    assert_eq!(
        (to, body),
        (&[one, two][..], &query(&bench.ring, three)),
        "all but the one that goes"
    );
    assert!(bench.peer(one, request_id + 1, Body::RingGranted).is_empty(), "for another question");
    assert!(bench.peer(one, request_id, Body::RingGranted).is_empty(), "2 of 4");
    assert!(bench.peer(one, request_id, Body::RingGranted).is_empty(), "one grant is one grant");
    assert!(bench.peer(fresh().id(), request_id, Body::RingGranted).is_empty(), "no member");
    let out = bench.peer(two, request_id, Body::RingGranted);
    let [Output::Store(Work::Write { changes, .. })] = &out[..] else { panic!("{out:?}") };
    assert!(matches!(&changes[0], Change::Ring(ring) if ring.has(fresh().id())));
    // From then on it grants nothing, and takes no order.
    assert_eq!(denied_by(&bench.peer(one, 9, query(&bench.ring, two))), bench.me);
    let out = bench.give(Input::Replace { old: two, new: Member::configured("n8", "host:8") });
    assert!(matches!(out[..], [Output::NotReplaced(Hindrance::Other(None, _))]), "{out:?}");
}

#[test]
fn a_change_without_enough_grants_is_given_up_and_what_was_granted_is_given_back() {
    let mut bench = Bench::new();
    let [one, two, three] = bench.peers()[..] else { panic!() };
    let out = bench.give(Input::Replace { old: three, new: fresh() });
    let (_, request_id, _) = sent(&out);
    bench.peer(one, request_id, Body::RingGranted);
    let out = bench.tick(1_000);
    let queried = |output: &Output| match output {
        Output::Send { to, message } => {
            matches!(message.body, Body::QueryRing { .. }) && to[..] == [two]
        }
        _ => false,
    };
    assert!(out.iter().any(queried), "who has not granted it is asked again: {out:?}");
    assert!(!out.iter().any(|output| matches!(output, Output::NotReplaced(_))), "{out:?}");
    let out = bench.tick(2_500);
    let refused = Hindrance::Grants { granted: 2, members: 4 };
    assert!(out.iter().any(|output| matches!(output, Output::NotReplaced(why) if *why == refused)));
    let given_back = |output: &Output| match output {
        Output::Send { to, message } => {
            matches!(message.body, Body::RingDenied { .. })
                && to[..] == [one]
                && message.request_id.wire() == request_id
        }
        _ => false,
    };
    assert!(out.iter().any(given_back), "{out:?}");
    // A grant that comes too late changes nothing, and is given back.
    let out = bench.peer(two, request_id, Body::RingGranted);
    assert_eq!((sent(&out).0, denied_by(&out)), (&[two][..], bench.me));
}

#[test]
fn a_member_grants_one_change_at_a_time() {
    let mut bench = Bench::new();
    let [one, two, three] = bench.peers()[..] else { panic!() };
    let ring = bench.ring.clone();
    assert!(is_granted(&bench.peer(one, 7, query(&ring, three))));
    assert!(is_granted(&bench.peer(one, 7, query(&ring, three))), "asked again");
    assert_eq!(denied_by(&bench.peer(one, 8, query(&ring, two))), one, "another change");
    assert_eq!(denied_by(&bench.peer(two, 7, query(&ring, three))), one);
    let change = RingChange { old: three, new: fresh().id(), by: one };
    assert_eq!(bench.node.ring_change(), Some(change));
    let out = bench.give(Input::Replace { old: three, new: fresh() });
    assert!(
        matches!(
            out[..],
            [Output::NotReplaced(Hindrance::Other(Some(other), by))] if (other, by) == (change, one)
        ),
        "{out:?}"
    );
    // It is given back by the one that has it, and by nobody else.
    bench.peer(two, 7, Body::RingDenied { by: two });
    assert_eq!(denied_by(&bench.peer(two, 7, query(&ring, three))), one);
    bench.peer(one, 7, Body::RingDenied { by: one });
    assert!(is_granted(&bench.peer(two, 7, query(&ring, three))));
    // Or it ends by itself.
    bench.tick(9_500);
    assert_eq!(denied_by(&bench.peer(one, 9, query(&ring, three))), two);
    bench.tick(1_000);
    assert!(is_granted(&bench.peer(one, 9, query(&ring, three))));
    // A member with another ring is reported nothing but no.
    let other = ring.replace(three, fresh().id()).unwrap();
    assert_eq!(denied_by(&bench.peer(two, 9, query(&other, one))), bench.me);
}

#[test]
fn of_two_that_query_each_other_the_one_with_the_higher_id_yields() {
    let ids: Vec<NodeId> = (0..4).map(|at| NodeId::of(&format!("n{at}"))).collect();
    let (lowest, highest) = (*ids.iter().min().unwrap(), *ids.iter().max().unwrap());
    let other = |id: NodeId| ids.iter().copied().find(|known| *known != id).unwrap();
    let order = |me: NodeId| {
        let mut bench = Bench::configured(1, |config| Config { me, ..config });
        let old = *ids.iter().find(|id| **id != lowest && **id != highest).unwrap();
        let out = bench.give(Input::Replace { old, new: fresh() });
        assert!(matches!(out[..], [Output::Send { .. }]), "{out:?}");
        (bench, old)
    };
    let (mut bench, old) = order(lowest);
    let ring = bench.ring.clone();
    assert_eq!(denied_by(&bench.peer(other(lowest), 7, query(&ring, old))), lowest);
    let (mut bench, old) = order(highest);
    let out = bench.peer(other(highest), 7, query(&ring, old));
    let [Output::NotReplaced(Hindrance::Other(Some(change), by)), rest @ ..] = &out[..] else {
        panic!("{out:?}")
    };
    assert_eq!((change.old, *by), (old, other(highest)));
    assert!(is_granted(rest));
}

/// A ring, and the members as those know them that live with it.
type State = (Ring, Members);

fn base() -> State {
    let names: Vec<String> = (0..6).map(|at| format!("n{at}")).collect();
    let ids: Vec<NodeId> = names.iter().map(|name| NodeId::of(name)).collect();
    let member = |name: &String| Member::configured(name.clone(), "host:1");
    (Ring::new(&ids, 3, 16).unwrap(), Members::new(names.iter().map(member).collect()))
}

fn replaced((ring, members): &State, old: &str, new: &str) -> State {
    let ring = ring.replace(NodeId::of(old), NodeId::of(new)).unwrap();
    let version = ring.version();
    let gone = members.get(NodeId::of(old)).unwrap().clone();
    let gone = Member { membership: MembershipStatus::Removed, version, ..gone };
    let new = Member { version, ..Member::configured(new, "host:2") };
    let mut members = members.clone();
    members.adopt(&Members::new(vec![gone, new]));
    (ring, members)
}

fn meet(one: &State, other: &State) -> State {
    let met = reconcile((&one.0, &one.1), (&other.0, &other.1));
    let back = reconcile((&other.0, &other.1), (&one.0, &one.1));
    assert_eq!(met.0, back.0, "whoever is reported");
    let owner =
        |member: &&Member| member.membership == MembershipStatus::Removed && met.0.has(member.id());
    assert_eq!(met.1.iter().find(owner), None, "a removed member owns nothing");
    met
}

/// Rings made of one ring at once; what they come to: the version, and who has places and who has
/// none.
type Case = (Vec<State>, u64, &'static [&'static str], &'static [&'static str]);

/// All orders of these numbers.
fn orders(numbers: &[usize]) -> Vec<Vec<usize>> {
    let [] = numbers else {
        let rest = |at: usize| [&numbers[..at], &numbers[at + 1..]].concat();
        let begun = |at: usize| {
            orders(&rest(at)).into_iter().map(move |tail| [&[numbers[at]][..], &tail].concat())
        };
        return (0..numbers.len()).flat_map(begun).collect();
    };
    vec![Vec::new()]
}

#[test]
fn rings_that_were_made_at_once_come_to_the_same_in_whatever_order_they_meet() {
    let base = base();
    let of = |old, new| replaced(&base, old, new);
    let cases: [Case; 4] = [
        (vec![of("n0", "a"), of("n1", "b")], 3, &["a", "b"], &["n0", "n1"]),
        (
            vec![of("n0", "a"), of("n1", "b"), of("n2", "c"), of("n3", "d")],
            5,
            &["a", "b", "c", "d"],
            &["n0"],
        ),
        // The same member twice: one newcomer has all places, the other one is removed.
        (vec![of("n0", "a"), of("n0", "b")], 3, &[], &["n0"]),
        (
            vec![of("n0", "a"), of("n0", "b"), of("n1", "c"), of("n0", "d")],
            5,
            &["c"],
            &["n0", "n1"],
        ),
    ];
    for (states, version, have, have_not) in cases {
        let mut results = Vec::new();
        for order in orders(&(0..states.len()).collect::<Vec<_>>()) {
            let states: Vec<&State> = order.iter().map(|at| &states[*at]).collect();
            let line = states[1..].iter().fold(states[0].clone(), |all, next| meet(&all, next));
            // In two halves, which then meet, and with what was known before once more.
            let (left, right) = states.split_at(states.len() / 2);
            let half = |part: &[&State]| {
                part[1..].iter().fold(part[0].clone(), |all, next| meet(&all, next))
            };
            let halves = meet(&half(left), &half(right));
            let again = states.iter().fold(halves.clone(), |all, next| meet(&all, next));
            results.extend([line.0, halves.0, again.0]);
        }
        let ring = &results[0];
        let other = results.iter().find(|other| *other != ring);
        assert_eq!(other, None, "another one than {ring:?}");
        assert_eq!(ring.version(), version);
        assert_eq!(ring.members().len(), 6);
        assert!(have.iter().all(|name| ring.has(NodeId::of(name))), "{ring:?}");
        assert!(!have_not.iter().any(|name| ring.has(NodeId::of(name))), "{ring:?}");
        // Nothing else has moved.
        let gone = base.0.members().iter().filter(|member| !ring.has(member.id));
        let places: usize = gone.map(|member| base.0.share(member.id)).sum();
        assert_eq!(ring.moves_from(&base.0), places);
    }
}

#[test]
fn a_later_ring_is_taken_as_it_is_and_a_newcomer_for_two_members_leaves_the_later_one() {
    let base = base();
    let first = replaced(&base, "n0", "a");
    let second = replaced(&first, "n1", "b");
    assert_eq!(meet(&base, &second).0, second.0);
    assert_eq!(meet(&first, &second).0, second.0);
    // No table has both: the operator has to replace one of the two again.
    let (one, other) = (replaced(&base, "n0", "a"), replaced(&base, "n1", "a"));
    let (ring, members) = reconcile((&one.0, &one.1), (&other.0, &other.1));
    let later = if one.0.supersedes(&other.0) { &one } else { &other };
    let left =
        members.iter().filter(|m| m.membership == MembershipStatus::Removed && ring.has(m.id()));
    assert_eq!((&ring, left.count()), (&later.0, 1));
}

#[test]
fn a_node_that_hears_of_a_ring_made_at_once_takes_what_both_come_to() {
    let base = Bench::new().ring.clone();
    let [two, three] = [NodeId::of("n2"), NodeId::of("n3")];
    let own = base.replace(two, NodeId::of("n8")).unwrap();
    let theirs = base.replace(three, fresh().id()).unwrap();
    let (ring, mut members) = (std::sync::Arc::new(own.clone()), members_of(&base));
    let gone = Member {
        membership: MembershipStatus::Removed,
        version: 2,
        ..Member::configured("n2", "host:1")
    };
    members.adopt(&Members::new(vec![gone, Member::configured("n8", "host:8")]));
    let mut bench = Bench::configured(1, |config| Config { ring, members, ..config });
    let out = bench.peer(NodeId::of("n1"), 1, reported(&theirs));
    let [Output::Store(Work::Write { changes, .. })] = &out[..] else { panic!("{out:?}") };
    let [Change::Ring(ring), ..] = &changes[..] else { panic!("{changes:?}") };
    assert_eq!(ring.version(), 3);
    for (name, placed) in
        [("n0", true), ("n1", true), ("n8", true), ("n9", true), ("n2", false), ("n3", false)]
    {
        assert_eq!(ring.has(NodeId::of(name)), placed, "{name}");
    }
}

#[test]
fn a_node_in_no_cluster_takes_a_later_ring_from_one_that_its_configuration_does_not_name() {
    let base = Bench::new().ring.clone();
    let later = base.replace(NodeId::of("n3"), fresh().id()).unwrap();
    let introduce = |cluster: Option<u64>| Body::Introduce {
        incarnation: IncarnationId { incarnation: Incarnation(1), nonce: 6 },
        cluster,
        ring: later.id(),
    };
    let takes = |mut bench: Bench, cluster: Option<u64>| {
        assert!(
            bench.peer(fresh().id(), 1, reported(&later)).is_empty(),
            "before it says who it \
            is"
        );
        assert!(bench.peer(fresh().id(), 1, introduce(cluster)).is_empty());
        let out = bench.peer(fresh().id(), 1, reported(&later));
        let took = matches!(&out[..], [Output::Store(Work::Write { .. })]);
        assert!(took || out.is_empty(), "{out:?}");
        took
    };
    assert!(takes(Bench::at_start(1), Some(7)));
    assert!(!takes(Bench::at_start(1), None), "it is in no cluster itself");
    assert!(!takes(Bench::new(), Some(7)), "of another cluster");
    let own = Bench::new().node.meta().cluster.as_ref().map(|cluster| cluster.id);
    assert!(takes(Bench::new(), own));
}
