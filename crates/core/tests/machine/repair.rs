//! Anti-entropy under bad input, on both ends of a comparison: what is refused, what ends one, and
//! that it is tried again.

use pixii_core::gc_epoch::GcEpoch;
use pixii_core::merkle::{Digest, LEAVES, SHAPE, leaf_of};
use pixii_core::message::{
    Body, Counter, Item, Measure, PeerMessage, Rejection, RequestId, Resource,
};
use pixii_core::node::{Config, Done, Input, Output, PairView, Work};
use pixii_core::ring::RingId;
use pixii_core::store::memory::MemoryStore;
use pixii_core::store::{Found, Store};
use pixii_core::types::{Blob, Key, MILLI, Micros, NodeId, Partition};

use super::bench::{Bench, object};

/// What is sent to peers.
pub(super) type Sent = Vec<(NodeId, u64, Body)>;

/// A node with a disk, and the one partition and peer that a test is about: it holds one key. With
/// everybody else it has nothing to move.
pub(super) struct Bout {
    pub(super) bench: Bench,
    pub(super) disk: MemoryStore,
    pub(super) key: Key,
    pub(super) partition: Partition,
    pub(super) peer: NodeId,
    /// The ring that the messages of peers are of; `None` for the one in force at the node.
    pub(super) under: Option<RingId>,
}

impl Bout {
    /// It has nothing, and is configured like this.
    fn blank(configure: impl FnOnce(Config) -> Config) -> Self {
        let bench = Bench::serving(Bench::configured(1, configure));
        let key = bench.key(true);
        let (partition, peer) = (bench.ring.partition(&key), bench.others(&key)[0]);
        Bout { bench, disk: MemoryStore::default(), key, partition, peer, under: None }
    }

    /// The same, once its trees are built.
    pub(super) fn empty(configure: impl FnOnce(Config) -> Config) -> Self {
        Bout::blank(configure).read()
    }

    /// Nothing has been read from its disk yet.
    fn unread() -> Self {
        Bout::holding(|config| config)
    }

    fn holding(configure: impl FnOnce(Config) -> Config) -> Self {
        let mut bout = Bout::blank(configure);
        let peer = bout.peer;
        let body =
            Body::Merge { key: bout.key.clone(), object: object(1), gc_epoch: GcEpoch::FIRST };
        let reported = bout.hear(peer, 1, body);
        assert_eq!(reported, [(peer, 1, Body::Ack)]);
        bout
    }

    /// Its trees are built.
    pub(super) fn new() -> Self {
        Bout::unread().read()
    }

    /// The same, configured like this.
    pub(super) fn with(configure: impl FnOnce(Config) -> Config) -> Self {
        Bout::holding(configure).read()
    }

    fn read(mut self) -> Self {
        self.tick(1_000);
        assert_eq!(self.bench.node.unread(), 0);
        self
    }

    /// Gives an input and carries out the work for the disk. Returns what is sent to peers, without
    /// gossip; every comparison but the one of the bout is answered with `Equal`.
    pub(super) fn give(&mut self, input: Input) -> Sent {
        let (mut sent, mut todo) = (Vec::new(), vec![input]);
        while let Some(input) = todo.pop() {
            let mut out = Vec::new();
            self.bench.node.handle(self.bench.now, input, &mut out);
            for output in out {
                match output {
                    Output::Store(work) => todo.push(Input::Store(self.work(work))),
                    Output::Send { to, message: PeerMessage { request_id, body, .. } } => {
                        for peer in to {
                            self.send(peer, request_id.wire(), body.clone(), &mut todo, &mut sent);
                        }
                    }
                    _ => {}
                }
            }
        }
        sent
    }

    fn send(
        &self,
        to: NodeId,
        request_id: u64,
        body: Body,
        todo: &mut Vec<Input>,
        sent: &mut Sent,
    ) {
        match body {
            Body::Gossip(_) | Body::QueryHints | Body::Hints(_) | Body::GcEpochs { .. } => {}
            Body::Compare { partition, .. } if (partition, to) != (self.partition, self.peer) => {
                todo.push(Input::Peer {
                    from: to,
                    message: PeerMessage {
                        ring: self.under.unwrap_or_else(|| self.bench.node.ring_id()),
                        request_id: RequestId::of_wire(request_id),
                        body: Body::Equal,
                    },
                });
            }
            body => sent.push((to, request_id, body)),
        }
    }

    fn work(&self, work: Work) -> Done {
        match work {
            Work::Read { token, partition, key, .. } => {
                let found = self.disk.read(partition, &key).unwrap();
                Done::Read { token, found, hints: Vec::new() }
            }
            Work::Write { seq, changes } => {
                self.disk.apply(&changes).unwrap();
                self.disk.sync().unwrap();
                Done::Synced { seq }
            }
            Work::Scan { token, partition, span } => {
                Done::Scan { token, page: self.disk.scan(partition, &span).unwrap() }
            }
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn hear(&mut self, from: NodeId, request_id: u64, body: Body) -> Sent {
        self.give(Input::Peer {
            from,
            message: PeerMessage {
                ring: self.under.unwrap_or_else(|| self.bench.node.ring_id()),
                request_id: RequestId::of_wire(request_id),
                body,
            },
        })
    }

    /// The one answer to a question of the peer.
    pub(super) fn answer(&mut self, from: NodeId, request_id: u64, body: Body) -> Body {
        match &self.hear(from, request_id, body)[..] {
            [(to, of, answer)] if (*to, *of) == (from, request_id) => answer.clone(),
            sent => panic!("{sent:?}"),
        }
    }

    /// Lets time pass, in which all peers give signs of life.
    pub(super) fn tick(&mut self, ms: u64) -> Sent {
        let end = self.bench.now + ms * MILLI;
        let mut sent = Vec::new();
        while self.bench.now < end {
            self.bench.now = (self.bench.now + 100 * MILLI).min(end);
            for peer in self.bench.peers() {
                self.hear(peer, 1, Body::QueryHints);
            }
            sent.extend(self.give(Input::Tick));
        }
        sent
    }

    pub(super) fn view(&self) -> PairView {
        let mut pairs = self.bench.node.pairs(self.bench.now).into_iter();
        pairs.find(|pair| (pair.partition, pair.peer) == (self.partition, self.peer)).unwrap()
    }

    /// The node is ordered to compare, and does; the `request_id` of its question.
    pub(super) fn begin(&mut self) -> u64 {
        self.give(Input::Repair { partition: Some(self.partition), peer: Some(self.peer) });
        self.queried_in(100)
    }

    /// It compares within this time, and not before.
    pub(super) fn queried_in(&mut self, ms: u64) -> u64 {
        let early = self.tick(ms - 100);
        assert!(early.is_empty(), "{early:?}");
        match &self.tick(100)[..] {
            [(to, request_id, Body::Compare { partition, shape: SHAPE, .. })]
                if (*to, *partition) == (self.peer, self.partition) =>
            {
                *request_id
            }
            sent => panic!("{sent:?}"),
        }
    }

    /// The summaries of the node's own tree, with one of them changed: only the leaf of its key, or
    /// only another one, differs at the end. Gives the question for keys.
    pub(super) fn down_to_leaves(
        &mut self,
        mut request_id: u64,
        own_leaf: bool,
    ) -> (u64, Vec<u16>) {
        let (partition, peer, mut nodes) = (self.partition, self.peer, vec![0]);
        let aim = if own_leaf { leaf_of(&self.key) } else { leaf_of(&self.key) ^ 1 };
        for level in 0..3 {
            let question = Body::Descend { partition, width: 2, level, nodes: nodes.clone() };
            let Body::Summaries(Blob(bytes)) = self.answer(peer, request_id, question) else {
                panic!()
            };
            let mut bytes = bytes.to_vec();
            bytes[usize::from(aim >> (8 - 4 * level) & 15) * 2] ^= 1;
            let sent = self.hear(peer, request_id, Body::Summaries(Blob(bytes.into())));
            let [(to, next, body)] = &sent[..] else { panic!("{sent:?}") };
            assert_eq!(*to, peer);
            request_id = *next;
            match body {
                Body::Descend { level: of, nodes: of_these, .. } => {
                    assert_eq!((*of, &of_these[..]), (level + 1, &[aim >> (8 - 4 * level)][..]));
                    nodes.clone_from(of_these);
                }
                Body::Leaves { leaves: Some(leaves), after: None, .. } => {
                    return (request_id, leaves.clone());
                }
                body => panic!("{body:?}"),
            }
        }
        panic!("deeper than the leaves");
    }

    /// The comparison has failed for this reason, nothing was lost, and the next one ends well.
    fn fails_and_recovers(mut self, why: &str) {
        let view = self.view();
        let failing = view.failing.map(|fault| fault.to_string());
        assert_eq!((failing.as_deref(), view.equal_for), (Some(why), None));
        let held =
            Found::Record(pixii_core::store::Record { object: object(1), ..Default::default() });
        assert_eq!(self.disk.read(self.partition, &self.key).unwrap(), held);
        let request_id = self.queried_in(2_000);
        assert!(self.hear(self.peer, request_id, Body::Equal).is_empty());
        let view = self.view();
        assert_eq!(
            (view.failing, view.equal_for, view.is_pending),
            (None, Some(Micros::ZERO), false)
        );
    }
}

#[test]
fn questions_about_trees_that_make_no_sense_are_refused_by_name_and_limit() {
    let mut bout = Bout::unread();
    let (partition, peer) = (bout.partition, bout.peer);
    let root = Digest(1);
    let compare = |partition, shape, width| Body::Compare {
        partition,
        shape,
        width,
        root,
        gc_epoch: GcEpoch::FIRST,
    };
    let descend = |width, level, nodes| Body::Descend { partition, width, level, nodes };
    let leaves = |leaves| Body::Leaves { partition, leaves, after: None };
    let good = compare(partition, SHAPE, 2);
    let unread = Body::Failed(Rejection::Unread(partition.0));
    for question in [good.clone(), descend(2, 1, vec![0]), leaves(None)] {
        assert_eq!(bout.answer(peer, 2, question), unread);
    }
    bout.tick(1_000);
    let owners = |of: Partition| bout.bench.ring.owners(of).to_vec();
    let all: Vec<Partition> = (0..16).map(Partition).collect();
    let foreign = *all.iter().find(|of| !owners(**of).contains(&bout.bench.me)).unwrap();
    let unshared = *all.iter().find(|of| !owners(**of).contains(&peer)).unwrap();
    let tree = |what, given, limit| Rejection::Limit { what, given, limit };
    let refused = [
        (compare(partition, SHAPE + 1, 2), Rejection::Shape(SHAPE + 1)),
        (compare(Partition(16), SHAPE, 2), Rejection::Partition(16, 16)),
        (compare(foreign, SHAPE, 2), Rejection::NotOwner),
        (compare(partition, SHAPE, 0), tree(Measure::Width, 0, 8)),
        (compare(partition, SHAPE, 9), tree(Measure::Width, 9, 8)),
        (descend(0, 1, vec![0]), tree(Measure::Width, 0, 8)),
        (descend(9, 1, vec![0]), tree(Measure::Width, 9, 8)),
        (descend(2, 3, vec![0]), tree(Measure::Level, 3, 2)),
        (descend(2, u8::MAX, vec![0]), tree(Measure::Level, 255, 2)),
        (descend(2, 1, vec![]), tree(Measure::Nodes, 0, 16)),
        (descend(2, 1, vec![0; 17]), tree(Measure::Nodes, 17, 16)),
        (descend(2, 1, vec![0, 16]), tree(Measure::Node, 16, 15)),
        (descend(2, 2, vec![u16::MAX]), tree(Measure::Node, 65_535, 255)),
        (leaves(Some(vec![0, LEAVES as u16])), tree(Measure::Leaf, 4_096, 4_095)),
    ];
    let count = refused.len() as u64 + 3;
    // One that is no owner any more may have records left, and asks what is lacking.
    assert!(matches!(
        bout.answer(peer, 3, compare(unshared, SHAPE, 2)),
        Body::Equal | Body::Summaries(_)
    ));
    for (question, rejection) in refused {
        assert_eq!(bout.answer(peer, 3, question.clone()), Body::Failed(rejection), "{question:?}");
    }
    let counters = bout.bench.node.counters();
    assert!(counters.contains(&(Counter::ComparisonsRefused, count)), "{counters:?}");
    // What makes sense is answered as before.
    let Body::Summaries(Blob(bytes)) = bout.answer(peer, 4, good) else { panic!() };
    assert_eq!(bytes.len(), 32);
    let Body::Items { items, next } = bout.answer(peer, 5, leaves(None)) else { panic!() };
    let item = Item {
        key: bout.key.clone(),
        context: object(1).context(),
        check: Digest::of(&bout.key, &object(1)).0 as u32,
    };
    assert_eq!((items, next), (vec![item], None));
    assert_eq!(bout.view().failing, None);
}

#[test]
fn answers_that_make_no_sense_end_a_comparison_and_the_next_one_begins_two_seconds_later() {
    let summaries = |bytes: usize| Body::Summaries(Blob(vec![0; bytes].into()));
    let none = Body::Items { items: Vec::new(), next: None };
    let copy = Body::Copy {
        object: object(2),
        authoritative: true,
        kept_for: Vec::new(),
        gc_epoch: GcEpoch::FIRST,
    };
    let failed = Body::Failed(Rejection::NotOwner);
    for (answer, why) in [
        (summaries(0), "0 bytes of summaries where 32 are due"),
        (summaries(31), "31 bytes of summaries where 32 are due"),
        (summaries(1 << 20), "1048576 bytes of summaries where 32 are due"),
        (none, "a list of keys in answer to a question for summaries"),
        (Body::Ack, "a word of another kind in answer to a question for summaries"),
        (copy, "a word of another kind in answer to a question for summaries"),
        (failed, "this node does not hold the key, and a request is forwarded only once"),
    ] {
        let mut bout = Bout::new();
        let request_id = bout.begin();
        assert!(bout.hear(bout.peer, request_id, answer).is_empty());
        bout.fails_and_recovers(why);
    }
}

#[test]
fn a_yes_below_the_root_and_keys_nobody_queried_for_end_a_comparison() {
    let mut bout = Bout::new();
    let request_id = bout.begin();
    let sent = bout.hear(bout.peer, request_id, Body::Summaries(Blob(vec![0; 32].into())));
    let [(_, request_id, Body::Descend { level: 1, .. })] = &sent[..] else { panic!("{sent:?}") };
    assert!(bout.hear(bout.peer, *request_id, Body::Equal).is_empty());
    bout.fails_and_recovers("a yes in answer to a question for summaries");

    let key = |at: u32| Key::new(format!("other{at}").into_bytes()).unwrap();
    let item = |key: &Key| Item { key: key.clone(), context: object(2).context(), check: 7 };
    let probe = Bout::new();
    let fits = |key: &Key, leaf: u16| {
        let partition = probe.bench.ring.partition(key);
        partition == probe.partition && leaf_of(key) == leaf
    };
    let leaf = leaf_of(&probe.key);
    let mut within = (0..).map(key).filter(|key| fits(key, leaf));
    let (one, two) = (within.next().unwrap(), within.next().unwrap());
    let (low, high) = if one < two { (one, two) } else { (two, one) };
    let elsewhere = (0..).map(key).find(|key| fits(key, leaf ^ 2)).unwrap();
    let bad = [
        (vec![item(&high), item(&low)], None),
        (vec![item(&low), item(&low)], None),
        (vec![item(&elsewhere)], None),
        (vec![item(&low), item(&high)], Some(low.clone())),
    ];
    for (items, next) in bad {
        let mut bout = Bout::new();
        let request_id = bout.begin();
        let (request_id, leaves) = bout.down_to_leaves(request_id, true);
        assert_eq!(leaves, [leaf]);
        assert!(bout.hear(bout.peer, request_id, Body::Items { items, next }).is_empty());
        bout.fails_and_recovers("keys that were not asked for, or out of order");
    }
    let mut bout = Bout::new();
    let request_id = bout.begin();
    let (request_id, _) = bout.down_to_leaves(request_id, true);
    assert!(bout.hear(bout.peer, request_id, Body::Summaries(Blob(vec![0; 32].into()))).is_empty());
    bout.fails_and_recovers("a list of summaries in answer to a question for keys");
}

#[test]
fn silence_ends_a_comparison_and_answers_of_strangers_or_to_other_questions_do_nothing() {
    let mut bout = Bout::new();
    let (peer, other) = (bout.peer, bout.bench.others(&bout.key)[1]);
    let request_id = bout.begin();
    assert!(bout.hear(other, request_id, Body::Equal).is_empty());
    assert!(bout.hear(peer, request_id + 1, Body::Equal).is_empty());
    assert!(
        bout.hear(peer, request_id + 1, Body::Items { items: Vec::new(), next: None }).is_empty()
    );
    assert!(bout.tick(9_900).is_empty());
    let view = bout.view();
    assert_eq!((view.failing, view.equal_for, view.is_pending), (None, None, true));
    assert!(bout.tick(100).is_empty());
    // An answer that comes too late says nothing of what is there now.
    assert!(bout.hear(peer, request_id, Body::Equal).is_empty());
    bout.fails_and_recovers("no answer in 10000 ms");
}

#[test]
fn who_fails_again_is_queried_less_often_and_who_comes_back_at_once() {
    let mut bout = Bout::new();
    let mut request_id = bout.begin();
    for wait in [2_000, 4_000, 8_000] {
        assert!(bout.hear(bout.peer, request_id, Body::Summaries(Blob::default())).is_empty());
        request_id = bout.queried_in(wait);
    }
    let link = |up| Input::Link { peer: bout.peer, up };
    let (down, up) = (link(false), link(true));
    bout.give(down);
    assert!(bout.tick(1_000).is_empty(), "nothing is asked of a peer that is gone");
    assert!(bout.view().is_pending);
    bout.give(up);
    let sent = bout.tick(500);
    assert!(sent.iter().any(|(_, _, body)| matches!(body, Body::Compare { .. })), "{sent:?}");
}

#[test]
fn an_object_that_cannot_be_had_fails_its_comparison_and_the_others_arrive() {
    let mut bout = Bout::new();
    let peer = bout.peer;
    let request_id = bout.begin();
    let (request_id, leaves) = bout.down_to_leaves(request_id, true);
    let key = |at: u32| Key::new(format!("lost{at}").into_bytes()).unwrap();
    let fits = |key: &Key| {
        bout.bench.ring.partition(key) == bout.partition && leaves.contains(&leaf_of(key))
    };
    let mut keys: Vec<Key> = (0..).map(key).filter(fits).take(2).collect();
    keys.push(bout.key.clone());
    keys.sort();
    let item = |key: &Key| {
        let object = if *key == bout.key { object(1) } else { object(2) };
        let check = Digest::of(key, &object).0 as u32;
        Item { key: key.clone(), context: object.context(), check }
    };
    let items = keys.iter().map(item).collect();
    let sent = bout.hear(peer, request_id, Body::Items { items, next: None });
    keys.retain(|key| *key != bout.key);
    let [(_, bad, Body::Read { key: lost }), (_, good, Body::Read { key: had })] = &sent[..] else {
        panic!("{sent:?}")
    };
    assert_eq!([lost, had], [&keys[0], &keys[1]]);
    bout.hear(peer, *bad, Body::Failed(Rejection::Damaged));
    let copy = Body::Copy {
        object: object(2),
        authoritative: true,
        kept_for: Vec::new(),
        gc_epoch: GcEpoch::FIRST,
    };
    bout.hear(peer, *good, copy);
    let held = bout.disk.read(bout.partition, &keys[1]).unwrap();
    assert!(matches!(held, Found::Record(record) if record.object == object(2)));
    assert_eq!(bout.disk.read(bout.partition, &keys[0]).unwrap(), Found::Nothing);
    let view = bout.view();
    assert_eq!((view.pulled, view.pushed, view.bytes), (1, 0, 1));
    bout.fails_and_recovers("1 objects");
}

#[test]
fn a_peer_that_reads_the_partition_or_is_busy_is_queried_again_and_nothing_has_failed() {
    let busy = Rejection::Busy { what: Resource::PeerLists, limit: 8 };
    for rejection in [Rejection::Unread(3), busy] {
        let mut bout = Bout::new();
        let request_id = bout.begin();
        for again in 0..3 {
            let peer = bout.peer;
            let request_id = if again == 0 { request_id } else { bout.queried_in(2_000) };
            assert!(bout.hear(peer, request_id, Body::Failed(rejection.clone())).is_empty());
            assert_eq!(bout.view().failing, None, "{rejection:?}");
        }
        let (peer, request_id) = (bout.peer, bout.queried_in(2_000));
        assert!(bout.hear(peer, request_id, Body::Equal).is_empty());
        assert_eq!(bout.view().equal_for, Some(Micros::ZERO));
        let counters = bout.bench.node.counters();
        let count = |counter| counters.iter().find(|(of, _)| *of == counter).map(|(_, n)| *n);
        assert_eq!(
            (count(Counter::ExchangesFailed), count(Counter::ExchangesPutOff)),
            (None, Some(3))
        );
    }
}

/// When the node asks for the next page after one that took 20 ms.
fn pause_after_a_page(clients: bool) -> u64 {
    let mut bench = Bench::new();
    let scan = |out: &[Output]| {
        out.iter().find_map(|output| match output {
            Output::Store(Work::Scan { token, span, .. }) => Some((*token, span.limit_bytes)),
            _ => None,
        })
    };
    let give = |bench: &mut Bench, input: Input| {
        let mut out = Vec::new();
        bench.node.handle(bench.now, input, &mut out);
        out
    };
    let key = bench.key(true);
    let get = pixii_core::message::Request::Get { key: key.clone(), r: None.into() };
    let query = |bench: &mut Bench, id: u64| {
        let request = get.clone();
        give(bench, Input::Client { client: 7, id, request, timeout_ms: 500 })
    };
    if clients {
        query(&mut bench, 1);
    }
    bench.now += 100 * MILLI;
    let (token, _) = scan(&give(&mut bench, Input::Tick)).unwrap();
    bench.now += 20 * MILLI;
    let page = pixii_core::store::ScanPage { next: Some(key), ..Default::default() };
    let mut out = give(&mut bench, Input::Store(Done::Scan { token, page }));
    for rested in 0..1_000 {
        if let Some((_, limit_bytes)) = scan(&out) {
            assert_eq!(limit_bytes, if clients { 64 << 10 } else { 256 << 10 });
            return rested;
        }
        bench.now += MILLI;
        out = give(&mut bench, Input::Tick);
        if clients && rested % 100 == 0 {
            query(&mut bench, 2 + rested);
        }
    }
    panic!("it is read on");
}

#[test]
fn reading_after_a_start_rests_beside_clients_in_proportion_to_what_a_page_takes() {
    assert_eq!(pause_after_a_page(false), 0);
    assert!((170..=190).contains(&pause_after_a_page(true)), "nine times as long");
}

#[test]
fn trees_of_a_clean_stop_are_not_read_again_and_are_those_that_would_be_read() {
    let mut bout = Bout::new();
    let kept = bout.bench.node.kept_trees();
    let owners = |bench: &Bench| {
        (0..16).map(Partition).filter(|of| bench.ring.owners(*of).contains(&bench.me)).count()
    };
    assert_eq!(kept.len(), owners(&bout.bench));
    let tree = kept.iter().find(|tree| tree.partition == bout.partition).unwrap();
    assert_eq!(tree.tree.root(), Digest::of(&bout.key, &object(1)));
    // A write changes what is kept.
    let other = bout.bench.keys_of(bout.partition, &bout.key);
    let merge = Body::Merge { key: other.clone(), object: object(2), gc_epoch: GcEpoch::FIRST };
    let peer = bout.peer;
    assert_eq!(bout.hear(peer, 1, merge), [(peer, 1, Body::Ack)]);
    let kept = bout.bench.node.kept_trees();
    let tree = kept.iter().find(|tree| tree.partition == bout.partition).unwrap();
    let both = Digest::of(&bout.key, &object(1)).0.wrapping_add(Digest::of(&other, &object(2)).0);
    assert_eq!(tree.tree.root(), Digest(both));

    let trees = kept.clone();
    let mut next = Bench::serving(Bench::configured(1, |config| Config { trees, ..config }));
    assert_eq!(next.node.unread(), 0);
    next.tick(1_000);
    let counters = next.node.counters();
    let count = |counter| counters.iter().find(|(of, _)| *of == counter).map(|(_, n)| *n);
    let taken = Some(kept.len() as u64);
    assert_eq!(
        (count(Counter::PartitionsReadAtStart), count(Counter::TreesTakenOver)),
        (Some(0), taken)
    );
    assert_eq!(next.node.kept_trees(), kept);
}
