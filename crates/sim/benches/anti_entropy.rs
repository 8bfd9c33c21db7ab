//! What anti-entropy costs: two machines in one process, on stores in memory, whose messages pass
//! as frames. `cargo bench --bench anti_entropy [-- KEYS]` (default 1,000,000, over 256
//! partitions).
//!
//! For so many differing keys, half of them missing at one side and half newer at the other: bytes
//! and messages of the comparison and of what it moves, questions of the longest comparison, and
//! the processor time of each side, beside the floor: the encoded differing objects, once each.
//! Before: how long the trees are read after a start, and in how much memory; at the end: what they
//! add to a put. The process ends with 1 if a bound of the last column is passed.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use pixii_core::causal::{Actor, ActorEpoch, Object, Version};
use pixii_core::gc_epoch::GcEpoch;
use pixii_core::members::{Member, Members};
use pixii_core::merkle::{Digest, Tree, leaf_of};
use pixii_core::message::{Body, PeerMessage, Request, RequestId};
use pixii_core::node::{Config, Done, Input, Node, Output, Work};
use pixii_core::ring::Ring;
use pixii_core::store::memory::MemoryStore;
use pixii_core::store::{Change, Meta, Process, Record, Store, StoreIdentity, begin_incarnation};
use pixii_core::types::{Blob, Key, MILLI, Micros, NodeId, Time, WriteId};
use pixii_core::wire;

const PARTITIONS: u16 = 256;
const TICK_INTERVAL: Micros = Micros::from_millis(100);
const DIFFERENCES: [u64; 5] = [0, 1, 10, 1_000, 100_000];
/// Bytes per partition of a comparison of equals; bytes for each byte of the floor, with values of
/// 100 bytes and of 1 KiB.
const MOST_WHEN_EQUAL: f64 = 100.0;
const MOST: [(usize, f64); 2] = [(100, 3.0), (1_024, 1.5)];
/// Puts whose processor time is compared with what the trees take of it, and most that these may
/// add with values of 100 bytes.
const PUTS: u64 = 50_000;
const MOST_OF_TREES: f64 = 1.15;

struct Side {
    id: NodeId,
    node: Node,
    store: MemoryStore,
    todo: VecDeque<Input>,
    busy: Duration,
}

struct Pair {
    now: Time,
    sides: [Side; 2],
    bytes: u64,
    messages: u64,
    questions: BTreeMap<u16, u64>,
}

fn key(number: u64) -> Key {
    Key::new(format!("key {number:012}").into_bytes()).unwrap()
}

fn object(number: u64, version: u64, bytes: usize) -> Object {
    let mut object = Object::default();
    for write in 0..=version {
        let mut value = vec![write as u8; bytes];
        value[..8].copy_from_slice(&number.to_be_bytes());
        let version = Version { write: WriteId(u128::from(write) + 1), value: Blob(value.into()) };
        let actor = Actor { store: u64::MAX - 7, actor_epoch: ActorEpoch(number) };
        object = object.update(&object.context(), actor, version).0;
    }
    object
}

impl Pair {
    /// Two members of a cluster that hold the same keys, before their first message.
    fn new(keys: u64, bytes: usize) -> Self {
        let ids = ["a", "b"].map(NodeId::of);
        let ring = Arc::new(Ring::new(&ids, 2, PARTITIONS).unwrap());
        let sides = ["a", "b"].map(|name| {
            let store = MemoryStore::default();
            let all: Vec<u64> = (0..keys).collect();
            for batch in all.chunks(1_000) {
                let change = |number: &u64| {
                    let key = key(*number);
                    let object = object(*number, 0, bytes);
                    let record = Record { own_epoch: None, object, gc_epoch: GcEpoch::FIRST };
                    Change::Record { partition: ring.partition(&key), key, record }
                };
                store.apply(&batch.iter().map(change).collect::<Vec<_>>()).unwrap();
                store.sync().unwrap();
            }
            let owner =
                StoreIdentity { cluster: "c".into(), name: name.into(), ring: ring.digest() };
            let meta: Meta =
                begin_incarnation(&store, &owner, Process(NodeId::of(name).0)).unwrap();
            let members =
                Members::new(["a", "b"].map(|name| Member::configured(name, "h:1")).to_vec());
            // What is measured is begun by the measurement alone.
            let config = Config {
                repair_interval: 3_600_000 * MILLI,
                gc_epoch_pause: 3_600_000 * MILLI,
                boot_nonce: NodeId::of(name).0,
                ..Config::new(NodeId::of(name), ring.clone(), members)
            };
            let node = Node::new(config, meta, 1);
            let (todo, busy) = (VecDeque::new(), Duration::ZERO);
            Side { id: NodeId::of(name), node, store, todo, busy }
        });
        let (now, bytes, messages, questions) = (Time::START, 0, 0, BTreeMap::new());
        let mut pair = Pair { now, sides, bytes, messages, questions };
        for at in 0..2 {
            let peer = pair.sides[1 - at].id;
            pair.sides[at].todo.push_back(Input::Link { peer, up: true });
        }
        pair
    }

    /// Carries out all inputs that are due now, and those that follow from them.
    fn settle(&mut self) {
        while let Some(at) = (0..2).find(|at| !self.sides[*at].todo.is_empty()) {
            let side = &mut self.sides[at];
            let Some(input) = side.todo.pop_front() else { continue };
            let begun = Instant::now();
            let mut out = Vec::new();
            side.node.handle(self.now, input, &mut out);
            let mut sent = Vec::new();
            for output in out {
                match output {
                    Output::Store(work) => {
                        let done = work_on(&side.store, work);
                        side.todo.push_back(Input::Store(done));
                    }
                    Output::Send { message, .. } => sent.push(wire::frame(&message)),
                    _ => {}
                }
            }
            side.busy += begun.elapsed();
            for frame in sent {
                self.deliver(at, &frame);
            }
        }
    }

    fn deliver(&mut self, from: usize, frame: &Bytes) {
        let mut bytes = BytesMut::from(&frame[..]);
        let payload = wire::take_frame(&mut bytes, wire::MAX_FRAME_BYTES).unwrap().unwrap();
        let message: PeerMessage = wire::decode(&payload).unwrap();
        let beside = matches!(
            message.body,
            Body::Gossip(_)
                | Body::QueryHints
                | Body::Hints(_)
                | Body::GcEpochs { .. }
                | Body::Introduce { .. }
                | Body::Known { .. }
        );
        if !beside {
            self.bytes += frame.len() as u64;
            self.messages += 1;
        }
        if let Body::Compare { partition, .. }
        | Body::Descend { partition, .. }
        | Body::Leaves { partition, .. } = &message.body
        {
            *self.questions.entry(partition.0).or_default() += 1;
        }
        let from = self.sides[from].id;
        let to = self.sides.iter_mut().find(|side| side.id != from).unwrap();
        to.todo.push_back(Input::Peer { from, message });
    }

    fn tick(&mut self) {
        self.now += TICK_INTERVAL;
        for side in &mut self.sides {
            side.todo.push_back(Input::Tick);
        }
        self.settle();
    }

    /// Until both know that they hold the same everywhere.
    fn run(&mut self) {
        let begun = self.now;
        while self.now < begun + TICK_INTERVAL || !self.is_equal() {
            self.tick();
            assert!(self.now < begun + 36_000 * TICK_INTERVAL, "not the same after an hour");
        }
    }

    fn is_equal(&self) -> bool {
        let known = |side: &Side| {
            let pairs = side.node.pairs(self.now);
            pairs.iter().all(|pair| pair.equal_for.is_some() && !pair.is_pending)
        };
        self.sides.iter().all(|side| side.node.unread() == 0 && known(side))
    }

    /// An object reaches one side only.
    fn write(&mut self, at: usize, key: Key, object: Object) {
        let message = PeerMessage {
            ring: self.sides[at].node.ring_id(),
            request_id: RequestId::of_wire(1),
            body: Body::Merge { key, object, gc_epoch: GcEpoch::FIRST },
        };
        let from = self.sides[1 - at].id;
        self.sides[at].todo.push_back(Input::Peer { from, message });
    }
}

fn work_on(store: &MemoryStore, work: Work) -> Done {
    match work {
        Work::Read { token, partition, key, .. } => {
            Done::Read { token, found: store.read(partition, &key).unwrap(), hints: Vec::new() }
        }
        Work::Scan { token, partition, span } => {
            Done::Scan { token, page: store.scan(partition, &span).unwrap() }
        }
        Work::Write { seq, changes } => {
            store.apply(&changes).unwrap();
            store.sync().unwrap();
            Done::Synced { seq }
        }
        Work::List { token, partition, after, limit_bytes } => {
            let listing = store.list(partition, after.as_ref(), limit_bytes).unwrap();
            Done::List { token, listing }
        }
        Work::Hints { token, target, after, limit_bytes } => {
            let page = store.list_hints(target, after.as_ref(), limit_bytes).unwrap();
            Done::Hints { token, page }
        }
    }
}

/// Makes `count` keys differ; gives the floor. What differed before is the same by now.
fn differ(pair: &mut Pair, (keys, count, round): (u64, u64, u64), bytes: usize) -> u64 {
    let mut floor = 0;
    for number in 0..count {
        let (at, fresh) = ((number / 2 % 2) as usize, number % 2 == 0);
        let (number, version) = if fresh {
            (keys * (round + 2) + number, 0)
        } else {
            (number * (keys / count.max(1)), round + 1)
        };
        let (key, object) = (key(number), object(number, version, bytes));
        floor += wire::encode(&key).len() as u64 + wire::encode(&object).len() as u64;
        pair.write(at, key, object);
        if pair.sides[at].todo.len() > 1_000 {
            pair.settle();
        }
    }
    pair.settle();
    floor
}

/// Bytes of memory that the process has.
fn memory_bytes() -> u64 {
    let reported = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = reported.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * 4_096
}

/// How many times a put's processor time is what it would be without trees: puts of new keys at
/// their coordinator, stores in memory (real ones cost more, so that the share of the trees is
/// smaller), beside the digests and sums of as many alone.
fn put_ratio(pair: &mut Pair, keys: u64, bytes: usize) -> f64 {
    let put = |number: u64| Request::Put {
        key: key(keys * 1_000 + number),
        value: Blob(vec![7; bytes].into()),
        context: None,
        write: WriteId(u128::from(number) + 1),
        w: Some(1).into(),
    };
    pair.sides.iter_mut().for_each(|side| side.busy = Duration::ZERO);
    for number in 0..PUTS {
        let request = put(number);
        let (client, id, timeout_ms) = (1, number, 1_000);
        pair.sides[0].todo.push_back(Input::Client { client, id, request, timeout_ms });
        pair.settle();
    }
    let whole = pair.sides[0].busy.as_secs_f64();
    let all: Vec<(Key, Object)> =
        (0..PUTS).map(|number| (key(keys * 1_000 + number), object(number, 0, bytes))).collect();
    let (mut tree, begun) = (Tree::default(), Instant::now());
    for (key, object) in &all {
        let old = std::hint::black_box(Digest::of(key, &Object::default()));
        tree.replace(leaf_of(key), old, Digest::of(key, object));
    }
    std::hint::black_box(tree.root());
    let trees = begun.elapsed().as_secs_f64();
    let micros = |seconds: f64| seconds * 1e6 / PUTS as f64;
    let ratio = whole / (whole - trees);
    println!(
        "a put takes {:.2} us of its coordinator, {:.2} us of them for the trees: {ratio:.3} \
         times as much as without",
        micros(whole),
        micros(trees)
    );
    ratio
}

fn main() {
    let mut numbers = std::env::args().filter_map(|argument| argument.parse().ok());
    let keys: u64 = numbers.next().unwrap_or(1_000_000);
    let mut faults = Vec::new();
    for (bytes, most) in MOST {
        let mut pair = Pair::new(keys, bytes);
        let before = memory_bytes();
        pair.settle();
        while pair.sides.iter().any(|side| side.node.unread() > 0) {
            pair.tick();
        }
        let built = pair.sides[0].busy.as_secs_f64();
        let million = built * 1e6 / keys as f64;
        let grown = memory_bytes().saturating_sub(before) as f64 / 2.0 / 1e6;
        println!(
            "{keys} keys of {bytes} bytes: read in {built:.2} s, {million:.2} s a million; \
             {grown:.1} MB more at each side"
        );
        pair.run();
        println!(
            "{:>9} {:>12} {:>12} {:>7} {:>9} {:>9} {:>9} {:>9}",
            "differ", "floor", "bytes", "ratio", "messages", "questions", "a ms", "b ms"
        );
        for (round, count) in DIFFERENCES.into_iter().filter(|count| *count <= keys / 2).enumerate()
        {
            let floor = differ(&mut pair, (keys, count, round as u64), bytes);
            (pair.bytes, pair.messages) = (0, 0);
            pair.questions.clear();
            pair.sides.iter_mut().for_each(|side| side.busy = Duration::ZERO);
            pair.sides[0].todo.push_back(Input::Repair { partition: None, peer: None });
            pair.run();
            let per_partition = pair.bytes as f64 / f64::from(PARTITIONS);
            let ratio = pair.bytes as f64 / floor.max(1) as f64;
            let reported = if count == 0 { per_partition } else { ratio };
            let [a, b] = [0, 1].map(|at: usize| pair.sides[at].busy.as_secs_f64() * 1e3);
            println!(
                "{count:>9} {floor:>12} {:>12} {reported:>7.2} {:>9} {:>9} {a:>9.1} {b:>9.1}",
                pair.bytes,
                pair.messages,
                pair.questions.values().max().copied().unwrap_or(0),
            );
            if count == 0 && per_partition > MOST_WHEN_EQUAL {
                faults.push(format!("{per_partition:.0} bytes per partition between equals"));
            }
            if count == 1_000 && ratio > most {
                faults.push(format!("{ratio:.2} times the floor at {bytes} bytes, not {most}"));
            }
        }
        let ratio = put_ratio(&mut pair, keys, bytes);
        if bytes == MOST[0].0 && ratio > MOST_OF_TREES {
            faults.push(format!(
                "puts take {ratio:.2} times as long with trees, not {MOST_OF_TREES}"
            ));
        }
    }
    println!("the ratio of no differences is bytes per partition");
    if !faults.is_empty() {
        eprintln!("{}", faults.join("; "));
        std::process::exit(1);
    }
}
