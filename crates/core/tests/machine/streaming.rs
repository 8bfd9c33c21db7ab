//! Bulk transfer, on both ends: an owner without records is sent them page by page.

use pixii_core::gc_epoch::GcEpoch;
use pixii_core::merkle::{Digest, leaf_of};
use pixii_core::message::{Body, Item, Rejection, Resource};
use pixii_core::node::{Config, Input, Limits};
use pixii_core::ring::RingId;
use pixii_core::store::{Found, Store};
use pixii_core::types::{Blob, Key, MILLI, Micros};

use super::bench::{Bench, object};
use super::repair::{Bout, Sent};

impl Bout {
    /// Other keys of its partition, in order.
    fn more(&self, count: usize) -> Vec<Key> {
        let key = |at: u32| Key::new(format!("more{at}").into_bytes()).unwrap();
        let fits = |key: &Key| self.bench.ring.partition(key) == self.partition;
        let mut keys: Vec<Key> = (0..).map(key).filter(fits).take(count).collect();
        keys.sort();
        keys
    }

    /// The node, which has nothing, compares, and hears that the peer has something; what it asks.
    fn differs(&mut self) -> Sent {
        let request_id = self.begin();
        self.hear(self.peer, request_id, Body::Summaries(Blob(vec![1; 32].into())))
    }

    fn has(&self, key: &Key) -> bool {
        self.disk.read(self.partition, key).unwrap() != Found::Nothing
    }
}

/// A page of these keys, and where the next one begins.
fn page(keys: &[Key], next: Option<&Key>) -> Body {
    let records = keys.iter().map(|key| (key.clone(), object(2))).collect();
    Body::Records { records, gc_epoch: GcEpoch::FIRST, next: next.cloned() }
}

/// The one question for a page: its id, and the key that it begins behind.
fn fetch(sent: &Sent) -> (u64, Option<Key>) {
    match &sent[..] {
        [(_, request_id, Body::Fetch { leaves: None, after, .. })] => (*request_id, after.clone()),
        sent => panic!("{sent:?}"),
    }
}

#[test]
fn an_owner_without_records_is_sent_them_page_by_page() {
    let mut bout = Bout::empty(|config| config);
    let (peer, keys) = (bout.peer, bout.more(5));
    let sent = bout.differs();
    let (request_id, after) = fetch(&sent);
    assert_eq!(after, None);
    let sent = bout.hear(peer, request_id, page(&keys[..2], Some(&keys[1])));
    let (request_id, after) = fetch(&sent);
    assert_eq!(after.as_ref(), Some(&keys[1]), "it goes on where the page ended");
    assert!(keys.iter().take(2).all(|key| bout.has(key)));
    // The rest of the span has no record.
    let last = page(&keys[2..], None);
    assert!(bout.hear(peer, request_id, last.clone()).is_empty());
    assert!(keys.iter().all(|key| bout.has(key)));
    let view = bout.view();
    assert_eq!((view.pulled, view.pushed, view.failing), (5, 0, None));
    assert!(bout.hear(peer, request_id, last).is_empty(), "a page that nobody waits for");
    let (peer, request_id) = (bout.peer, bout.queried_in(1_000));
    assert!(bout.hear(peer, request_id, Body::Equal).is_empty());
    assert_eq!(bout.view().equal_for, Some(Micros::ZERO));
}

#[test]
fn a_page_is_asked_for_when_what_came_before_is_paid_for() {
    let mut bout = Bout::empty(|config| Config { transfer_bytes_per_second: 10, ..config });
    let (peer, keys) = (bout.peer, bout.more(4));
    let sent = bout.differs();
    let (request_id, _) = fetch(&sent);
    let bytes = (keys[0].as_bytes().len() + 1) as u64;
    assert!(bout.hear(peer, request_id, page(&keys[..1], Some(&keys[0]))).is_empty());
    assert!(bout.has(&keys[0]), "what has come is written at once");
    assert!(bout.tick(bytes * 100 - 100).is_empty());
    let sent = bout.tick(100);
    let (request_id, after) = fetch(&sent);
    assert_eq!(after.as_ref(), Some(&keys[0]));
    // The limit is lifted while the node runs.
    assert!(bout.hear(peer, request_id, page(&keys[1..2], Some(&keys[1]))).is_empty());
    bout.give(Input::Limits(Limits {
        hint_limit_bytes: 1 << 30,
        hint_age: 1_000 * MILLI,
        repair_interval: 60_000 * MILLI,
        scrub_interval: 60_000 * MILLI,
        transfer_bytes_per_second: 0,
    }));
    let sent = bout.tick(100);
    let (request_id, _) = fetch(&sent);
    let sent = bout.hear(peer, request_id, page(&keys[2..3], Some(&keys[2])));
    fetch(&sent);
}

#[test]
fn a_peer_that_cannot_send_a_page_now_is_asked_for_it_again() {
    let mut bout = Bout::empty(|config| config);
    let (peer, keys) = (bout.peer, bout.more(2));
    let sent = bout.differs();
    let (request_id, _) = fetch(&sent);
    let sent = bout.hear(peer, request_id, page(&keys[..1], Some(&keys[0])));
    let (request_id, _) = fetch(&sent);
    let busy = Rejection::Busy { what: Resource::PeerLists, limit: 8 };
    assert!(bout.hear(peer, request_id, Body::Failed(busy)).is_empty());
    let sent = bout.tick(100);
    let (request_id, after) = fetch(&sent);
    assert_eq!(after.as_ref(), Some(&keys[0]), "it does not begin anew");
    assert!(bout.hear(peer, request_id, page(&keys[1..], None)).is_empty());
    assert_eq!((bout.view().pulled, bout.view().failing), (2, None));
    // One that has the pages of another GC epoch, and one that is silent, end the comparison.
    let mut bout = Bout::empty(|config| config);
    let sent = bout.differs();
    let (request_id, _) = fetch(&sent);
    let unread = Body::Failed(Rejection::Unread(bout.partition.0));
    assert!(bout.hear(peer, request_id, unread).is_empty());
    assert_eq!(bout.view().failing, None);
    bout.queried_in(2_000);
    let mut bout = Bout::empty(|config| config);
    bout.differs();
    bout.tick(10_000);
    let failing = bout.view().failing.map(|fault| fault.to_string());
    assert_eq!(failing.as_deref(), Some("no answer in 10000 ms"));
}

#[test]
fn a_page_that_makes_no_sense_ends_a_comparison_and_writes_nothing() {
    let keys = Bout::empty(|config| config).more(3);
    let [one, two, three] = &keys[..] else { panic!() };
    let elsewhere = {
        let bout = Bout::empty(|config| config);
        let mut keys = (0..).map(|at: u32| Key::new(format!("else{at}").into_bytes()).unwrap());
        keys.find(|key| bout.bench.ring.partition(key) != bout.partition).unwrap()
    };
    let odd = [
        page(&[two.clone(), one.clone()], None),
        page(&[one.clone(), one.clone()], None),
        page(&[two.clone(), three.clone()], Some(two)),
        page(&[elsewhere], None),
    ];
    for odd in odd {
        let mut bout = Bout::empty(|config| config);
        let sent = bout.differs();
        let (request_id, _) = fetch(&sent);
        assert!(bout.hear(bout.peer, request_id, odd.clone()).is_empty());
        let failing = bout.view().failing.map(|fault| fault.to_string());
        assert_eq!(
            failing.as_deref(),
            Some("keys that were not asked for, or out of order"),
            "{odd:?}"
        );
        assert!(!keys.iter().any(|key| bout.has(key)), "{odd:?}");
        bout.queried_in(2_000);
    }
    // A page that begins before the last one ended, and one that does not go on.
    for odd in [page(&keys[..1], None), page(&[], Some(one))] {
        let mut bout = Bout::empty(|config| config);
        let sent = bout.differs();
        let (request_id, _) = fetch(&sent);
        let sent = bout.hear(bout.peer, request_id, page(&keys[..2], Some(two)));
        let (request_id, _) = fetch(&sent);
        assert!(bout.hear(bout.peer, request_id, odd.clone()).is_empty());
        assert!(bout.view().failing.is_some(), "{odd:?}");
    }
}

#[test]
fn an_owner_that_lacks_most_of_a_list_is_sent_the_records_from_there_on() {
    for missing in [3, 9] {
        let mut bout = Bout::new();
        let peer = bout.peer;
        let request_id = bout.begin();
        let (request_id, leaves) = bout.down_to_leaves(request_id, true);
        let key = |at: u32| Key::new(format!("lost{at}").into_bytes()).unwrap();
        let fits = |key: &Key| {
            bout.bench.ring.partition(key) == bout.partition && leaves.contains(&leaf_of(key))
        };
        let mut keys: Vec<Key> = (0..).map(key).filter(fits).take(missing).collect();
        keys.push(bout.key.clone());
        keys.sort();
        let item = |key: &Key| {
            let object = if *key == bout.key { object(1) } else { object(2) };
            let check = Digest::of(key, &object).0 as u32;
            Item { key: key.clone(), context: object.context(), check }
        };
        let items = keys.iter().map(item).collect();
        let sent = bout.hear(peer, request_id, Body::Items { items, next: None });
        let streams = sent.iter().any(|(_, _, body)| {
            matches!(body, Body::Fetch { leaves: Some(of), after: None, .. } if *of == leaves)
        });
        let single = sent.iter().filter(|(_, _, body)| matches!(body, Body::Read { .. })).count();
        assert_eq!((streams, single), (missing > 3, if missing > 3 { 0 } else { missing }));
    }
}

#[test]
fn a_peer_of_an_older_protocol_is_asked_for_keys() {
    let mut bout = Bout::empty(|config| config);
    let link = |up| Input::Link { peer: bout.peer, up };
    let (down, up) = (link(false), link(true));
    bout.give(down);
    bout.under = Some(RingId::UNSAID);
    bout.give(up);
    bout.tick(1_000);
    let sent = bout.differs();
    assert!(matches!(&sent[..], [(_, _, Body::Leaves { leaves: None, .. })]), "{sent:?}");
}

#[test]
fn records_are_sent_as_they_are_on_the_disk_and_those_of_no_partition_of_the_node_are_not() {
    let mut bout = Bout::new();
    let (peer, partition, key) = (bout.peer, bout.partition, bout.key.clone());
    let fetch = |after| Body::Fetch { partition, leaves: None, after };
    let records = vec![(key.clone(), object(1))];
    let all = Body::Records { records, gc_epoch: GcEpoch::FIRST, next: None };
    assert_eq!(bout.answer(peer, 5, fetch(None)), all);
    let none = Body::Records { records: Vec::new(), gc_epoch: GcEpoch::FIRST, next: None };
    assert_eq!(bout.answer(peer, 6, fetch(Some(key.clone()))), none);
    let mut small = Bout::with(|config| Config { transfer_page_bytes: 1, ..config });
    let more = small.more(1)[0].clone();
    let (object, gc_epoch) = (object(2), GcEpoch::FIRST);
    let merge = Body::Merge { key: more.clone(), object: object.clone(), gc_epoch };
    small.hear(peer, 2, merge);
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let Body::Records { records, next, .. } = small.answer(peer, 7, fetch(after)) else {
            panic!()
        };
        assert!(records.len() <= 1, "a page ends where it is full");
        found.extend(records.into_iter().map(|(key, _)| key));
        after = next;
        if after.is_none() {
            break;
        }
    }
    let mut held = vec![key, more];
    held.sort();
    assert_eq!(found, held);
    let mut other = Bench::new();
    let strange = other.ring.partition(&other.key(false));
    let out = other.peer(peer, 8, Body::Fetch { partition: strange, leaves: None, after: None });
    assert!(format!("{out:?}").contains("NotOwner"), "{out:?}");
}
