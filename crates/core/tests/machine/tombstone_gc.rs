//! The purge of dead events beside clients: it gives way to them, and goes on.

use std::collections::BTreeSet;

use bytes::Bytes;
use pixii_core::causal::{Actor, ActorEpoch, Context, Dot, Object, Version};
use pixii_core::gc_epoch::{GcEpoch, GcState, PurgeableKey};
use pixii_core::message::{Body, PeerMessage, Request, RequestId};
use pixii_core::node::{Done, Input, Output, Work};
use pixii_core::store::memory::MemoryStore;
use pixii_core::store::{Change, Found, Store};
use pixii_core::types::{Blob, Key, MILLI, Micros, Partition, Time, WriteId};

use crate::bench::Bench;

/// How long the other members take to agree to a proposal.
const AGREE: Micros = Micros::from_millis(40);
/// How long the disk takes for a batch of keys.
const DISK: Micros = Micros::from_millis(2);

/// A node with a disk whose trees are built, and what is on its way to it.
struct TestCluster {
    bench: Bench,
    disk: MemoryStore,
    late: Vec<(Time, Input)>,
    /// Every proposal of this node and every agreement to one of another member, and when.
    proposed: Vec<(Time, usize, Partition)>,
    agreed: Vec<Time>,
    /// How long the disk takes to sync a write.
    sync: Micros,
}

impl TestCluster {
    fn new() -> Self {
        let (bench, disk) = (Bench::new(), MemoryStore::default());
        let (late, proposed, agreed) = Default::default();
        let mut cluster = TestCluster { bench, disk, late, proposed, agreed, sync: DISK };
        cluster.run(1_000, false);
        assert_eq!(cluster.bench.node.unread(), 0);
        cluster
    }

    /// Lets time pass by milliseconds; if `clients`, one asks for something now and then.
    fn run(&mut self, ms: u64, clients: bool) {
        for step in 0..ms {
            if clients && step % 400 == 0 {
                let request = Request::Get { key: self.bench.key(true), r: None.into() };
                self.give(Input::Client { client: 7, id: step, request, timeout_ms: 300 });
            }
            self.bench.now += MILLI;
            let now = self.bench.now;
            let (due, late): (Vec<_>, Vec<_>) = self.late.drain(..).partition(|(at, _)| *at <= now);
            self.late = late;
            for (_, input) in due {
                self.give(input);
            }
            self.give(Input::Tick);
        }
    }

    fn give(&mut self, input: Input) {
        let mut out = Vec::new();
        self.bench.node.handle(self.bench.now, input, &mut out);
        for output in out {
            match output {
                Output::Store(work) => {
                    let done = self.work(work);
                    let takes = if let Done::Synced { .. } = done { self.sync } else { DISK };
                    self.late.push((self.bench.now + takes, Input::Store(done)));
                }
                Output::Send { to, message: PeerMessage { request_id, body, .. } } => match body {
                    Body::Propose { purgeable, partition, .. } => {
                        self.proposed.push((self.bench.now, purgeable.len(), partition));
                        for from in to {
                            let ring = self.bench.node.ring_id();
                            let message = PeerMessage { ring, request_id, body: Body::Agreed };
                            self.late.push((self.bench.now + AGREE, Input::Peer { from, message }));
                        }
                    }
                    Body::Agreed => self.agreed.push(self.bench.now),
                    _ => {}
                },
                _ => {}
            }
        }
    }

    fn work(&mut self, work: Work) -> Done {
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

    /// The partitions that this node proposes for, or only keeps.
    fn partitions(&self, proposes: bool) -> Vec<Partition> {
        let (ring, me) = (&self.bench.ring, self.bench.me);
        let is_wanted = |partition: &Partition| {
            let owners = ring.owners(*partition);
            owners.contains(&me) && (owners[0] == me) == proposes
        };
        (0..16).map(Partition).filter(is_wanted).collect()
    }

    fn keys(&self, partition: Partition, count: usize) -> Vec<Key> {
        let keys = (0..100_000).map(|at| Key::new(format!("d{at}").into_bytes()).unwrap());
        keys.filter(|key| self.bench.ring.partition(key) == partition).take(count).collect()
    }

    /// So many keys of the partition have something dead; that is synced later.
    fn begin_kill(&mut self, partition: Partition, count: usize) {
        let from = self.bench.ring.owners(partition)[1];
        for key in self.keys(partition, count) {
            let object = Object::default().discard(&dead());
            let body = Body::Merge { key, object, gc_epoch: GcEpoch::FIRST };
            self.give(Input::Peer {
                from,
                message: PeerMessage {
                    ring: self.bench.node.ring_id(),
                    request_id: RequestId::of_wire(1),
                    body,
                },
            });
        }
        // Each is read, and then written.
        for (_, input) in std::mem::take(&mut self.late) {
            self.give(input);
        }
    }

    /// So many keys of the partition have something dead.
    fn kill(&mut self, partition: Partition, count: usize) {
        self.begin_kill(partition, count);
        for (_, input) in std::mem::take(&mut self.late) {
            self.give(input);
        }
    }
}

fn dead() -> Context {
    Context::new(vec![Dot { actor: Actor { store: 9, actor_epoch: ActorEpoch(1) }, counter: 1 }])
}

/// When the rounds were begun, in milliseconds after the first one, of how many keys, and where.
fn rounds(clients: bool) -> Vec<(u64, usize, Partition)> {
    let mut cluster = TestCluster::new();
    let own = cluster.partitions(true);
    assert!(own.len() >= 3, "{own:?}");
    for partition in &own[..3] {
        cluster.kill(*partition, 300);
    }
    cluster.run(4_900, clients);
    let first = cluster.proposed[0].0;
    cluster.proposed.iter().map(|(at, keys, of)| ((*at - first) / MILLI, *keys, *of)).collect()
}

#[test]
fn a_purge_beside_clients_rests_after_each_round_and_is_bounded_and_goes_on() {
    let idle = rounds(false);
    assert!(idle[1].0 < 100 && idle[2].0 < 100, "{idle:?}");
    assert!(idle[..3].iter().all(|(_, keys, _)| *keys == 300), "{idle:?}");
    let busy = rounds(true);
    // A round takes 0.4 s, and is followed by a second of rest.
    assert!((1_200..1_600).contains(&busy[1].0), "{busy:?}");
    assert!(busy.iter().all(|(_, keys, _)| *keys <= 128), "{busy:?}");
    let places: BTreeSet<Partition> = busy[..3].iter().map(|(.., of)| *of).collect();
    assert_eq!(places.len(), 3, "each partition has its turn: {busy:?}");
}

/// Another member proposes that 64 keys of the partition be purged.
fn propose(cluster: &mut TestCluster, partition: Partition) {
    let members = cluster.bench.node.members().digest();
    let purgeable_key = |key: Key| PurgeableKey { key, dead: dead() };
    let mut purgeable: Vec<PurgeableKey> =
        cluster.keys(partition, 64).into_iter().map(purgeable_key).collect();
    purgeable.sort_by(|one, other| one.key.cmp(&other.key));
    let body = Body::Propose { partition, gc_epoch: GcEpoch::FIRST, members, purgeable };
    let from = cluster.bench.ring.owners(partition)[0];
    let ring = cluster.bench.node.ring_id();
    let message = PeerMessage { ring, request_id: RequestId::of_wire(5), body };
    cluster.give(Input::Peer { from, message });
}

/// How many milliseconds it takes to agree to each of three rounds of other members at once, in the
/// order in which they are agreed to within 1.5 s.
fn agreements(clients: bool) -> Vec<u64> {
    let mut cluster = TestCluster::new();
    cluster.run(1, clients);
    let begun = cluster.bench.now;
    for partition in cluster.partitions(false).into_iter().take(3) {
        propose(&mut cluster, partition);
    }
    cluster.run(1_500, clients);
    cluster.agreed.iter().map(|at| (*at - begun) / MILLI).collect()
}

#[test]
fn keys_to_be_purged_are_read_and_written_slowly_beside_clients_and_at_once_without() {
    let idle = agreements(false);
    assert!(idle.len() == 3 && idle[2] < 30, "{idle:?}");
    let busy = agreements(true);
    assert_eq!(busy.len(), 2, "the third one is put off: {busy:?}");
    // Eight batches, with a rest of 25 ms between two of them.
    assert!(busy.iter().all(|took| (175..400).contains(took)), "{busy:?}");
}

#[test]
fn a_member_agrees_only_after_all_that_its_agreement_rests_on_is_synced() {
    let mut cluster = TestCluster::new();
    let partition = cluster.partitions(false)[0];
    cluster.sync = Micros::from_millis(200);
    let begun = cluster.bench.now;
    cluster.begin_kill(partition, 64);
    // Nothing is left to write: all of it is dead already, on a disk that is not synced.
    propose(&mut cluster, partition);
    cluster.run(500, false);
    assert_eq!(cluster.agreed.len(), 1);
    assert!(cluster.agreed[0] >= begun + cluster.sync, "{:?}", cluster.agreed[0] - begun);
}

/// The values of a key that an owner has after a GC epoch began in which the key's event is
/// purgeable or purged, the record was lost, and an older copy came that shows the event alive.
fn values_after_an_old_copy(purged: bool) -> usize {
    let mut cluster = TestCluster::new();
    let partition = cluster.partitions(false)[0];
    let from = cluster.bench.ring.owners(partition)[0];
    let key = cluster.keys(partition, 1).remove(0);
    let named = vec![PurgeableKey { key: key.clone(), dead: dead() }];
    let (purgeable, purged) = if purged { (Vec::new(), named) } else { (named, Vec::new()) };
    let gc_epoch = GcState { number: GcEpoch(1), purgeable, purged };
    let Dot { actor, .. } = dead().dots()[0];
    let version = Version { write: WriteId(1), value: Blob(Bytes::from_static(b"old")) };
    let (object, _) = Object::default().update(&Context::default(), actor, version);
    let send = |cluster: &mut TestCluster, body: Body| {
        let ring = cluster.bench.node.ring_id();
        let message = PeerMessage { ring, request_id: RequestId::of_wire(5), body };
        cluster.give(Input::Peer { from, message });
        cluster.run(100, false);
    };
    send(&mut cluster, Body::GcState { partition, gc_epoch });
    cluster.disk.apply(&[Change::Forget { partition, key: key.clone() }]).unwrap();
    send(&mut cluster, Body::Merge { key: key.clone(), object, gc_epoch: GcEpoch::FIRST });
    assert_eq!(cluster.bench.node.gc_epoch(partition), GcEpoch(1));
    match cluster.disk.read(partition, &key).unwrap() {
        Found::Record(record) => record.object.len(),
        Found::Nothing => 0,
        Found::Damaged => panic!("the disk is sound"),
    }
}

#[test]
fn an_owner_that_lost_a_record_takes_nothing_alive_that_is_purgeable_or_purged() {
    for purged in [false, true] {
        assert_eq!(values_after_an_old_copy(purged), 0, "purged: {purged}");
    }
}
