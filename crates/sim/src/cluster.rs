//! A cluster in virtual time for measurements: real nodes, in-memory stores that answer at once, an
//! emulated network, and clients that send requests on order. The same seed gives the same run, to
//! the microsecond.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use pixii_core::emulation::{Emulation, Place, Rule, Verdict, parse};
use pixii_core::members::{Member, Members};
use pixii_core::message::{Kind, PeerMessage, Request, Response, SampleReport};
use pixii_core::node::{Config, Done, Experiment, Input, Node, Output, Work};
use pixii_core::ring::Ring;
use pixii_core::rng::Rng;
use pixii_core::store::memory::MemoryStore;
use pixii_core::store::{
    Found, IncarnationError, Process, Store, StoreIdentity, begin_incarnation,
};
use pixii_core::types::{Key, MILLI, Micros, NodeId, Time};
use pixii_core::wire;

use super::looked_up;
use super::timeline::Timeline;

/// All nodes have to serve within this time, or founding has failed.
const FOUNDING: Micros = Micros::from_millis(60_000);
/// Interval at which founding is checked.
const POLL_INTERVAL: Micros = Micros::from_millis(100);

/// The shape of a cluster.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Number of nodes, at least `n`.
    pub nodes: usize,
    /// Replicas of each key.
    pub n: u8,
    /// Partitions of the ring.
    pub partitions: u16,
    /// Limit of the hints that a node keeps, in bytes; 0 keeps none.
    pub hint_limit_bytes: u64,
    /// How often replicas compare a partition.
    pub repair_interval: Micros,
    /// Switches of the nodes for the measurement.
    pub experiment: Experiment,
    /// Seed of all random choices.
    pub seed: u64,
}

impl Setup {
    /// A cluster that heals as a daemon's default has it: 64 partitions, 1 GiB of hints, a
    /// comparison a minute.
    pub fn new(nodes: usize, n: u8, seed: u64) -> Self {
        Setup {
            nodes,
            n,
            partitions: 64,
            hint_limit_bytes: 1 << 30,
            repair_interval: 60_000 * MILLI,
            experiment: Experiment::default(),
            seed,
        }
    }

    /// The same cluster without anything that heals: no hints, no comparisons, no read repair.
    pub fn without_healing(self) -> Self {
        let experiment = Experiment { no_read_repair: true, ..self.experiment };
        Setup { hint_limit_bytes: 0, repair_interval: Micros::MAX / 4, experiment, ..self }
    }
}

/// The outcome of a request.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The id of the call, as [`Cluster::query`] returned it.
    pub call: u64,
    /// When the request was sent, in virtual time.
    pub begun: Time,
    /// When the answer reached the client, in virtual time; not before `begun`.
    pub ended: Time,
    /// What the node answered, a rejection included.
    pub response: Response,
}

enum Event {
    Wake(usize),
    Message { from: usize, to: usize, message: Arc<PeerMessage> },
    Call { client: u64, call: u64, to: usize, request: Request, timeout_ms: u32 },
    Reply { call: u64, response: Response },
}

/// Nodes that serve, with their stores and their network.
pub struct Cluster {
    setup: Setup,
    nodes: Vec<Node>,
    stores: Vec<MemoryStore>,
    /// False for nodes that were killed and not restarted.
    alive: Vec<bool>,
    ids: Vec<NodeId>,
    members: Members,
    places: HashMap<NodeId, usize>,
    ring: Arc<Ring>,
    wakes: Vec<Option<Time>>,
    time: Timeline<Event>,
    net: Emulation,
    rng: Rng,
    calls: HashMap<u64, Time>,
    next_call: u64,
    answers: VecDeque<Answer>,
    sent: BTreeMap<Kind, u64>,
}

impl Cluster {
    /// Founds a cluster and waits until all nodes serve, on a network without delays. The error
    /// says why they do not.
    pub fn found(setup: &Setup) -> Result<Self, String> {
        let name = |at: usize| format!("n{}", at + 1);
        let members = (0..setup.nodes).map(|at| Member::configured(name(at), "sim:1"));
        let members = Members::new(members.collect());
        let ids: Vec<NodeId> = (0..setup.nodes).map(|at| NodeId::of(&name(at))).collect();
        let ring = Ring::new(&ids, setup.n, setup.partitions).map_err(|error| error.to_string())?;
        let ring = Arc::new(ring);
        let mut rng = Rng::new(setup.seed);
        let count = setup.nodes;
        let mut cluster = Cluster {
            setup: *setup,
            nodes: Vec::new(),
            stores: (0..count).map(|_| MemoryStore::default()).collect(),
            alive: vec![true; count],
            places: ids.iter().copied().zip(0..).collect(),
            ids,
            members,
            ring,
            wakes: vec![None; count],
            time: Timeline::default(),
            net: Emulation::of_rules(Vec::new(), rng.next_u64()),
            rng,
            calls: HashMap::new(),
            next_call: 0,
            answers: VecDeque::new(),
            sent: BTreeMap::new(),
        };
        for at in 0..count {
            let node = cluster.incarnation(at)?;
            cluster.nodes.push(node);
        }
        for at in 0..count {
            for peer in (0..count).filter(|peer| *peer != at) {
                cluster.input(at, Input::Link { peer: cluster.ids[peer], up: true });
            }
        }
        while !cluster.nodes.iter().all(Node::is_settled) {
            if cluster.time.now() > Time::START + FOUNDING {
                return Err(format!("{count} nodes found no cluster"));
            }
            cluster.run_to(cluster.time.now() + POLL_INTERVAL);
        }
        Ok(cluster)
    }

    /// Begins the next incarnation of a node on its store.
    fn incarnation(&mut self, at: usize) -> Result<Node, String> {
        let (me, store, setup) = (self.ids[at], &self.stores[at], &self.setup);
        let name = self.members.name(me);
        let identity = StoreIdentity { cluster: "lab".into(), name, ring: self.ring.digest() };
        let begun = begin_incarnation(store, &identity, Process(self.rng.next_u64()));
        let meta = begun.map_err(|error: IncarnationError| error.to_string())?;
        let ring = &self.ring;
        let place = |key: &Key| ring.partition(key);
        let config = Config {
            hint_limit_bytes: setup.hint_limit_bytes,
            repair_interval: setup.repair_interval,
            // A store in memory is not damaged.
            scrub_interval: Micros::MAX / 4,
            hints: store.hint_totals(&place).unwrap_or_default(),
            gc_epochs: store.gc_epochs().unwrap_or_default(),
            boot_nonce: self.rng.next_u64(),
            ..Config::new(me, ring.clone(), self.members.clone())
        };
        let experiment = setup.experiment;
        Ok(Node::new(config, meta, self.rng.next_u64()).with_experiment(experiment))
    }

    /// The ring, which does not change after founding.
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// The durations of the latest round trips of each node.
    pub fn samples(&self) -> Vec<SampleReport> {
        let name = |id: NodeId| self.members.name(id);
        let nodes = self.ids.iter().zip(&self.nodes);
        nodes
            .map(|(id, node)| SampleReport { name: name(*id), trips: node.recent_trips() })
            .collect()
    }

    /// The index of a node, as [`Cluster::query`] takes it; `None` for an unknown id.
    pub fn place(&self, node: NodeId) -> Option<usize> {
        self.places.get(&node).copied()
    }

    /// The virtual time; only [`Cluster::next`] and [`Cluster::run_to`] advance it.
    pub fn now(&self) -> Time {
        self.time.now()
    }

    /// Framed bytes of the messages that nodes have sent each other so far, by kind.
    pub fn sent(&self) -> &BTreeMap<Kind, u64> {
        &self.sent
    }

    /// False for a node that was killed and not restarted.
    pub fn is_alive(&self, at: usize) -> bool {
        self.alive[at]
    }

    /// Applies these rules to the network from now on, in the language of `pixii emulate`. The
    /// error is a sentence about the first mistake.
    pub fn emulate(&mut self, rules: &str) -> Result<(), String> {
        let rules: Vec<Rule> = parse(rules, &self.members)?;
        self.net = Emulation::of_rules(rules, self.rng.next_u64());
        Ok(())
    }

    /// Kills a node and breaks the links to it.
    pub fn kill(&mut self, at: usize) {
        self.alive[at] = false;
        for other in (0..self.nodes.len()).filter(|other| *other != at) {
            self.input(other, Input::Link { peer: self.ids[at], up: false });
        }
    }

    /// Restarts a killed node, with an empty disk if `lost`; links to the live nodes come up. The
    /// error says why it does not start.
    pub fn restart(&mut self, at: usize, lost: bool) -> Result<(), String> {
        if lost {
            self.stores[at] = MemoryStore::default();
        }
        self.nodes[at] = self.incarnation(at)?;
        (self.alive[at], self.wakes[at]) = (true, None);
        for other in (0..self.nodes.len()).filter(|other| *other != at) {
            if self.alive[other] {
                self.input(at, Input::Link { peer: self.ids[other], up: true });
                self.input(other, Input::Link { peer: self.ids[at], up: true });
            }
        }
        Ok(())
    }

    /// True if all owners of a key hold the same object.
    pub fn is_same(&self, key: &Key) -> bool {
        let partition = self.ring.partition(key);
        let owners = self.ring.owners(partition).iter().filter_map(|owner| self.place(*owner));
        let mut held = owners.map(|at| match self.stores[at].read(partition, key) {
            Ok(Found::Record(record)) => Some(record.object),
            _ => None,
        });
        let first = held.next().flatten();
        held.all(|other| other == first)
    }

    /// Sends a request of a client to a node; returns the id of the call.
    pub fn query(&mut self, client: u64, to: usize, request: Request, timeout_ms: u32) -> u64 {
        self.next_call += 1;
        let call = self.next_call;
        self.calls.insert(call, self.time.now());
        let (now, kind) = (self.time.now(), request.kind());
        let verdict = self.net.verdict(now, Place::Client(client), self.ids[to], kind);
        if let Verdict::Deliver(delays) = verdict {
            // A connection delivers a call exactly once or breaks.
            let after = delays.first().copied().unwrap_or(Micros::ZERO);
            let event = Event::Call { client, call, to, request, timeout_ms };
            self.time.schedule(now + after, event);
        }
        call
    }

    /// The next answer that reaches a client; `None` if there is none before `until`.
    pub fn next(&mut self, until: Time) -> Option<Answer> {
        while self.answers.is_empty() {
            let event = self.time.next(until)?;
            self.step(event);
        }
        self.answers.pop_front()
    }

    /// Advances the virtual time to `end`; answers are kept for [`Cluster::next`].
    pub fn run_to(&mut self, end: Time) {
        while let Some(event) = self.time.next(end) {
            self.step(event);
        }
    }

    fn step(&mut self, event: Event) {
        match event {
            // An earlier wake-up may have replaced this one.
            Event::Wake(node) if self.wakes[node] == Some(self.time.now()) => {
                self.wakes[node] = None;
                self.input(node, Input::Tick);
            }
            Event::Wake(_) => {}
            Event::Message { from, to, message } => {
                let message = Arc::unwrap_or_clone(message);
                self.input(to, Input::Peer { from: self.ids[from], message });
            }
            Event::Call { client, call, to, request, timeout_ms } => {
                self.input(to, Input::Client { client, id: call, request, timeout_ms });
            }
            Event::Reply { call, response } => {
                if let Some(begun) = self.calls.remove(&call) {
                    let ended = self.time.now();
                    self.answers.push_back(Answer { call, begun, ended, response });
                }
            }
        }
    }

    fn input(&mut self, at: usize, input: Input) {
        if !self.alive[at] {
            return;
        }
        let mut todo = VecDeque::from([input]);
        while let Some(input) = todo.pop_front() {
            let mut out = Vec::new();
            self.nodes[at].handle(self.time.now(), input, &mut out);
            for output in out {
                match output {
                    Output::Send { to, message } => self.send(at, &to, message),
                    Output::Store(work) => todo.push_back(Input::Store(self.carry(at, work))),
                    Output::Reply { client, id, response } => {
                        let (now, kind) = (self.time.now(), response.kind());
                        let to = Place::Client(client);
                        let verdict = self.net.verdict(now, self.ids[at], to, kind);
                        if let Verdict::Deliver(delays) = verdict {
                            let after = delays.first().copied().unwrap_or(Micros::ZERO);
                            self.time.schedule(now + after, Event::Reply { call: id, response });
                        }
                    }
                    _ => {}
                }
            }
        }
        if let Some(wake) = self.nodes[at].next_wake()
            && self.wakes[at].is_none_or(|known| wake < known)
        {
            let wake = wake.max(self.time.now());
            self.wakes[at] = Some(wake);
            self.time.schedule(wake, Event::Wake(at));
        }
    }

    fn carry(&mut self, at: usize, work: Work) -> Done {
        let store = &self.stores[at];
        if let Work::Write { seq, changes } = work {
            // Writes to a store in memory do not fail.
            let _ = store.apply(&changes);
            let _ = store.sync();
            return Done::Synced { seq };
        }
        looked_up(store, work).unwrap_or_else(|| unreachable!("a write was carried out"))
    }

    fn send(&mut self, from: usize, to: &[NodeId], message: PeerMessage) {
        let kind = message.body.kind();
        let others = to.iter().filter(|id| **id != self.ids[from]).count();
        *self.sent.entry(kind).or_default() += (wire::frame_len(&message) * others) as u64;
        let message = Arc::new(message);
        for id in to {
            let Some(to) = self.places.get(id).copied() else { continue };
            let now = self.time.now();
            if let Verdict::Deliver(delays) = self.net.verdict(now, self.ids[from], *id, kind) {
                for delay in delays {
                    let message = message.clone();
                    self.time.schedule(now + delay, Event::Message { from, to, message });
                }
            }
        }
    }
}
