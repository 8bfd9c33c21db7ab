//! The simulated world: hosts with disks, and links between them. Time passes when no event is left
//! at the present instant.

mod disks;
mod faults;
mod health;
mod incarnations;
mod links;
mod pauses;
mod planning;
mod replacing;
mod requests;
mod steady;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use pixii_core::emulation::{Delay, Emulation};
use pixii_core::members::{Liveness, Members};
use pixii_core::message::{Counter, Reply, ReplyBody, Request};
use pixii_core::node::{Hindrance, Input, Node, Notice, Output, SyncSeq, Work};
use pixii_core::ring::{Ring, RingId};
use pixii_core::rng::Rng;
use pixii_core::store::memory::MemoryStore;
use pixii_core::store::{Change, StoreIdentity};
use pixii_core::types::{Key, MILLI, Micros, NodeId, Time};
use pixii_core::wire;

use self::planning::Planning;
use self::replacing::{Replacing, planned};
use self::steady::Doubts;
use super::Counts;
use super::clients::Client;
use super::judge::{Broken, Judge};
use super::scenario::{Fault, Scenario};
use super::timeline::Timeline;

/// A machine. Its disk outlives its node.
struct Host {
    id: NodeId,
    identity: StoreIdentity,
    /// The ring and the members that follow from its configuration.
    ring: Arc<Ring>,
    members: Members,
    store: MemoryStore,
    node: Option<Node>,
    /// Counts the incarnations of the node: events that were meant for an earlier one are dropped.
    incarnation: u64,
    writes: VecDeque<(SyncSeq, Vec<Change>)>,
    writing: bool,
    paused_until: Time,
    /// What waits for the end of its pause, in order.
    held: VecDeque<Event>,
    /// Until this time the disk is slow.
    slow_until: Time,
    /// Until this time the disk hangs.
    hung_until: Time,
    /// Since when the node has treated its store as stalled; `None` if it does not.
    stalled: Option<Time>,
    backup: Option<MemoryStore>,
    /// The content of its disk when all disks were copied.
    copy: Option<MemoryStore>,
    /// True from a rollback until a peer has noticed it.
    unnoticed: bool,
    /// Since when the node of this incarnation serves; `None` before that.
    settled: Option<Time>,
    /// True once it is to be replaced: it may start again, and is then rejected.
    is_removed: bool,
    /// True if it founds a cluster by itself when it belongs to none.
    bootstraps: bool,
    /// The incarnation in which it was ordered to found a cluster.
    bootstrapped: Option<u64>,
    wake: Option<Time>,
}

#[derive(Clone, Debug)]
enum Event {
    Peer { from: usize, to: usize, incarnation: u64, sent: u64, frame: Bytes },
    ToHost { client: usize, to: usize, incarnation: u64, frame: Bytes },
    ToClient { client: usize, frame: Bytes },
    Link { at: usize, peer: usize },
    Wake { at: usize, incarnation: u64 },
    Disk { at: usize, incarnation: u64, work: Work },
    Held { at: usize, incarnation: u64, input: Box<Input> },
    Continue { at: usize },
    Synced { at: usize, incarnation: u64, seq: SyncSeq },
    Fault(Fault),
    Mend { from: usize, to: usize },
    Room { at: usize },
    Stall { at: usize, incarnation: u64 },
    Resume { at: usize },
    Relink { at: usize, peer: usize },
    Stop { at: usize, incarnation: u64, down: Micros, by: Time },
    Start { at: usize },
    Replace { which: usize },
    Plan { which: usize },
    Cancel { which: usize },
    Return { at: usize },
    Refused { at: usize },
    Next { client: usize },
    GaveUp { client: usize, call: u64 },
    GiveUp { client: usize, to: usize, incarnation: u64, call: u64 },
}

impl Event {
    /// True for events that have to occur before the load phase may end.
    fn is_fault(&self) -> bool {
        matches!(
            self,
            Event::Fault(_)
                | Event::Mend { .. }
                | Event::Room { .. }
                | Event::Resume { .. }
                | Event::Relink { .. }
                | Event::Stop { .. }
                | Event::Start { .. }
                | Event::Replace { .. }
                | Event::Plan { .. }
                | Event::Cancel { .. }
                | Event::Return { .. }
                | Event::Refused { .. }
        )
    }
}

/// Counters of the nodes whose sums are part of the counts of a batch.
const WATCHED: &[Counter] = &[
    Counter::AgedHintsOffered,
    Counter::ReadEligibilityRegained,
    Counter::DamagedRecordsFound,
    Counter::DamagedRecordsRestored,
    Counter::DifferencesUnexplained,
    Counter::Exchanges,
    Counter::ExchangesFailed,
    Counter::ObjectsPulled,
    Counter::PagesFetched,
    Counter::ObjectsPushed,
    Counter::TreesConfirmed,
    Counter::TreesTakenOver,
    Counter::ExchangesPutOff,
    Counter::TreesReadAnew,
    Counter::TreesWrong,
    Counter::ComparisonsRefused,
    Counter::RingChangesGranted,
    Counter::RingsOfStrangersTaken,
    Counter::RingsTaken,
    Counter::MessagesOfOtherRings,
    Counter::PartitionsReleased,
    Counter::RecordsErased,
    Counter::ForgedIncarnationsRefused,
    Counter::GcEpochsAdopted,
    Counter::GcEpochsBegun,
    Counter::KeysPurged,
    Counter::OldDisksDiscarded,
    Counter::OutlivedHintsDropped,
    Counter::HintsDeclined,
    Counter::MergesDeclined,
    Counter::ReadsCutShort,
    Counter::HintsChangedInFlight,
    Counter::HintsDeleted,
    Counter::HintsKept,
    Counter::HintsRefused,
    Counter::OwnIncarnationRaised,
    Counter::OwnPausesNoticed,
    Counter::ReadsHedged,
    Counter::ReadsOfFallbacks,
    Counter::ReadsRepaired,
    Counter::FallbacksQueried,
    Counter::WritesCoordinatedByAFallback,
    Counter::WritesHedged,
    Counter::WritesWithdrawn,
];

/// Interval at which convergence is checked after healing.
const POLL_INTERVAL: Micros = Micros::from_millis(250);
/// Load, faults and commands of operators have to end within this time.
const LOAD: Micros = Micros::from_millis(600_000);
/// After healing, hints have to be delivered, liveness to be up and members to be agreed on within
/// this time.
const HEALING: Micros = Micros::from_millis(60_000);
/// The same limit for runs in which a client has to settle keys that have outgrown their limits,
/// one after the other, and in which declined hints wait before they are offered again.
const SETTLING: Micros = Micros::from_millis(240_000);
/// Time that links get after healing, and repairs after the last answer.
const LINGER: Micros = Micros::from_millis(3_000);

/// One simulated run, from the drawn scenario to the verdict.
pub(super) struct World {
    plan: Scenario,
    /// The newest ring that any node uses.
    ring: Arc<Ring>,
    /// The replacements of this run: which host, and by which newcomer.
    replacing: Vec<Replacing>,
    /// The changes of the ring of this run, in the order in which they begin.
    plans: Vec<Planning>,
    time: Timeline<Event>,
    hosts: Vec<Host>,
    clients: Vec<Client>,
    issued: u32,
    /// Requests after healing, which all have to be answered.
    last_requests: VecDeque<(Key, Request)>,
    /// The key that a client settles after the faults, and whether it has read it already.
    settling: Option<(Key, bool)>,
    healed: bool,
    /// True once the faults have ended: clients send no requests of their own any more.
    healing: bool,
    /// Number of faults and ends of faults that are still scheduled.
    faults_ahead: usize,
    net: Emulation,
    rng: Rng,
    judge: Judge,
    counts: Counts,
    digest: u64,
    newest: BTreeMap<(usize, usize), u64>,
    doubts: Doubts,
    watched: Option<Key>,
    trace: Vec<String>,
    broken: Option<Broken>,
}

impl World {
    /// Creates the world of a scenario. If `watched` is a key, the events of that key are recorded.
    pub(super) fn new(plan: Scenario, watched: Option<Key>) -> Self {
        let mut rng = Rng::new(plan.seed ^ 0x5eed);
        let (n, q) = (plan.n, plan.partitions);
        let mut hosts: Vec<Host> =
            (0..plan.hosts).map(|at| Host::new(at, 0..plan.hosts, n, q)).collect();
        let replacing = planned(&plan.faults, plan.hosts);
        for Replacing { old, new, .. } in replacing.iter().copied() {
            let others = (0..plan.hosts).filter(|other| *other != old);
            hosts.push(Host::new(new, others.chain([new]), n, q));
        }
        let plans = Planning::all(&plan.faults, hosts.len());
        for at in plans.iter().flat_map(|planning| planning.joining.clone()) {
            hosts.push(Host::new(at, (0..plan.hosts).chain([at]), n, q));
        }
        let clients = (0..plan.clients).map(|_| Client::new(rng.next_u64())).collect();
        let delay = Delay::Exponential(plan.mean_delay);
        let net = Emulation::new(delay, plan.drop, plan.duplicate, rng.next_u64());
        let mut world = World {
            ring: hosts[0].ring.clone(),
            replacing,
            plans,
            time: Timeline::default(),
            hosts,
            clients,
            issued: 0,
            last_requests: VecDeque::new(),
            settling: None,
            healed: false,
            healing: false,
            faults_ahead: 0,
            net,
            rng,
            judge: Judge::default(),
            counts: Counts::new(),
            digest: 0,
            newest: BTreeMap::new(),
            doubts: Doubts::default(),
            watched,
            trace: Vec::new(),
            broken: None,
            plan,
        };
        world.judge.limit_lateness(world.plan.lateness());
        for at in 0..world.plan.hosts {
            world.start(at);
        }
        for (at, fault) in world.plan.faults.clone() {
            world.schedule(Time::START + at, Event::Fault(fault));
        }
        for client in 0..world.clients.len() {
            world.schedule(Time::START + 100 * MILLI, Event::Next { client });
        }
        world
    }

    /// How often each event occurred.
    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Digest of all deliveries and their times.
    pub(super) fn digest(&self) -> u64 {
        self.digest
    }

    /// Takes the recorded events of the watched key.
    pub(super) fn take_trace(&mut self) -> Vec<String> {
        std::mem::take(&mut self.trace)
    }

    /// Runs load and faults, then heals, then judges. Returns the first broken promise.
    pub(super) fn run(&mut self) -> Option<Broken> {
        if self.plan.hints_alone {
            self.count("runs with hints alone");
        }
        let over = |world: &World| world.faults_ahead == 0 && world.clients_are_done();
        self.run_until(|world| over(world) || world.now() > Time::START + LOAD);
        if !over(self) && self.broken.is_none() {
            let (key, seconds) = (self.some_key(), LOAD / (1_000 * MILLI));
            let what = format!("load, faults and commands are not over after {seconds} s");
            self.broken = Some(Broken { key, what });
        }
        // Messages to a paused host are delivered when it continues.
        let awake = self.hosts.iter().map(|host| host.paused_until).max().unwrap_or(Time::START);
        self.run_until(|world| world.now() > awake);
        self.heal();
        let healed = self.now();
        // By then, links that are about to come up or break have done so.
        let mut look = self.now() + LINGER;
        self.run_until(|world| world.now() >= look);
        while self.broken.is_none() && !self.has_converged() {
            look += POLL_INTERVAL;
            self.accept_losses();
            self.settle_a_key();
            self.run_until(|world| world.now() >= look);
            let timeout = if self.plan.object_limit.is_some() { SETTLING } else { HEALING };
            if self.now() > healed + timeout && self.broken.is_none() {
                self.broken = Some(self.unconverged());
            }
        }
        // By then, nodes for which others kept hints have learned that none are left.
        look += LINGER;
        self.run_until(|world| world.now() >= look);
        if self.broken.is_none() {
            self.query_at_the_end();
            self.run_until(World::clients_are_done);
            let end = self.now() + LINGER;
            self.run_until(|world| world.now() >= end);
        }
        if self.broken.is_none() {
            self.judge_end();
        }
        for at in 0..self.hosts.len() {
            self.gather(at);
        }
        if self.broken.is_none() && self.counts.contains_key("trees_wrong") {
            let key = self.some_key();
            self.broken = Some(Broken { key, what: "a tree was not what is on disk".into() });
        }
        self.broken.take()
    }

    fn clients_are_done(&self) -> bool {
        self.clients.iter().all(|client| client.is_done)
    }

    fn run_until(&mut self, end: impl Fn(&World) -> bool) {
        while self.broken.is_none()
            && !end(self)
            && let Some(event) = self.time.pop()
        {
            if event.is_fault() {
                self.faults_ahead -= 1;
            }
            self.step(event);
        }
    }

    fn now(&self) -> Time {
        self.time.now()
    }

    fn schedule(&mut self, at: Time, event: Event) {
        self.faults_ahead += usize::from(event.is_fault());
        self.time.schedule(at, event);
    }

    fn count(&mut self, name: &'static str) {
        *self.counts.entry(name).or_default() += 1;
    }

    fn report(&mut self, key: &Key, line: impl FnOnce() -> String) {
        if self.watched.as_ref() == Some(key) {
            let line = format!("{:>9} us  {}", self.now().0, line());
            self.trace.push(line);
        }
    }

    /// Records an event that concerns every key.
    fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(key) = self.watched.clone() {
            self.report(&key, line);
        }
    }

    fn step(&mut self, event: Event) {
        // A paused host handles no event; its disk continues.
        if let Some(at) = event.handled_by().filter(|at| self.hosts[*at].paused_until > self.now())
        {
            return self.hold(at, event);
        }
        match event {
            // A connection ends with the process, so messages to an earlier incarnation are lost.
            Event::Peer { from, to, incarnation, sent, frame } => {
                if self.hosts[to].incarnation == incarnation {
                    self.deliver(from, to, sent, &frame);
                }
            }
            Event::ToHost { client, to, incarnation, frame } => {
                if self.hosts[to].incarnation == incarnation {
                    self.take_call(client, to, &frame);
                }
            }
            Event::ToClient { client, frame } => self.take_reply(client, &frame),
            Event::Link { at, peer } => {
                let up = self.hosts[peer].node.is_some();
                self.note(|| format!("n{at} has its link to n{peer} up: {up}"));
                self.input(at, Input::Link { peer: self.hosts[peer].id, up });
            }
            Event::Wake { at, incarnation } => {
                // An earlier wake-up may have replaced this one.
                let due = self.hosts[at].wake.is_some_and(|wake| wake <= self.now());
                if self.hosts[at].incarnation == incarnation && due {
                    self.hosts[at].wake = None;
                    self.input(at, Input::Tick);
                }
            }
            Event::Disk { at, incarnation, work } => self.disk(at, incarnation, work),
            Event::Continue { at } => self.go_on(at),
            Event::Held { at, incarnation, input } => {
                if self.hosts[at].incarnation == incarnation {
                    self.input(at, *input);
                }
            }
            Event::Synced { at, incarnation, seq } => self.synced(at, incarnation, seq),
            Event::Fault(fault) => self.fault(fault),
            Event::Mend { from, to } => self.net.mend(self.hosts[from].id, self.hosts[to].id),
            Event::Relink { at, peer } => self.relink(at, peer),
            Event::Stall { at, incarnation } => self.stall(at, incarnation),
            Event::Resume { at } => self.resume(at),
            Event::Room { at } => self.input(at, Input::Space(None)),
            Event::Stop { at, incarnation, down, by } => {
                self.stop_cleanly(at, incarnation, down, by);
            }
            Event::Start { at } => {
                if self.hosts[at].node.is_none() && !self.hosts[at].is_removed {
                    self.note(|| format!("n{at} starts"));
                    self.count("restarts");
                    self.start(at);
                }
            }
            Event::Replace { which } => self.replace(which),
            Event::Plan { which } => self.go_on_with_plan(which),
            Event::Cancel { which } => self.cancel_plan(which),
            Event::Return { at } => self.come_back(at),
            Event::Refused { at } => self.refuse(at),
            Event::Next { client } => self.next_request(client),
            Event::GaveUp { client, call } => {
                if self.clients[client].current.as_ref().is_some_and(|c| c.call == call) {
                    self.give_up(client);
                    self.uncertain(client);
                }
            }
            Event::GiveUp { client, to, incarnation, call } => {
                if self.hosts[to].incarnation == incarnation {
                    self.given_up(client, to, call);
                }
            }
        }
    }

    /// Adds the counters of a node to the counts of the run.
    fn gather(&mut self, at: usize) {
        let Some(node) = &self.hosts[at].node else { return };
        for (counter, count) in node.counters() {
            if WATCHED.contains(&counter) {
                *self.counts.entry(counter.name()).or_default() += count;
            }
        }
    }

    /// Follows what nodes report. A rollback that no node can notice is excused when the node
    /// serves: the backup is of the same incarnation, or the witness is away.
    fn notice(&mut self, at: usize, notice: &Notice) {
        if matches!(notice, Notice::Settled) {
            self.hosts[at].settled = Some(self.now());
        }
        match notice {
            // A backup of the cluster before is another cluster's disk: its node would be refused.
            Notice::Founded => self.hosts.iter_mut().for_each(|host| host.backup = None),
            Notice::Outdated(_) => self.hosts[at].unnoticed = false,
            Notice::Settled if self.hosts[at].unnoticed => {
                self.count("rolled-back disks unnoticed");
                self.judge.excuse(at);
            }
            _ => {}
        }
    }

    /// Passes an input to a node and carries out its outputs. A paused node gets it when it
    /// continues: one that handled it before would not notice how long its pause was.
    fn input(&mut self, at: usize, input: Input) {
        let Host { incarnation, paused_until, .. } = self.hosts[at];
        if paused_until > self.now() {
            let input = Box::new(input);
            return self.hold(at, Event::Held { at, incarnation, input });
        }
        let now = self.clock(at);
        let (offset, rate) = self.pace(at);
        let Some(node) = &mut self.hosts[at].node else { return };
        let mut out = Vec::new();
        node.handle(now, input, &mut out);
        // Rounded up, so that the host's clock has reached the time of the wake-up.
        let wake = node.next_wake();
        let passed = |wake: Time| wake.saturating_sub(offset) - Time::START;
        let wake = wake.map(|wake| Time((passed(wake) * 1_000).0.div_ceil(rate)));
        for output in out {
            match output {
                Output::Send { to, message } => self.send(at, &to, &message),
                Output::Reply { client, id, response } => {
                    let client = client as usize;
                    self.judge_reply(client, id, &response);
                    let (ends, kind) = ((self.hosts[at].id, client_id(client)), response.kind());
                    let frame = wire::frame(&Reply { id, body: ReplyBody::Data(response) });
                    self.carry(ends, kind, frame, |_, frame| Event::ToClient { client, frame });
                }
                Output::Store(work) => self.submit(at, work),
                Output::Address { .. } => self.count("addresses learnt"),
                Output::Ring { ring, .. } => {
                    self.note(|| format!("n{at} takes ring {} {:?}", ring.version(), ring.step()));
                    self.take_ring(at, &ring);
                }
                Output::Members(_) => {}
                Output::RingOrdered(done) => {
                    self.count(order_name(&done));
                    self.note(|| format!("n{at} answers the order about the ring: {done:?}"));
                }
                Output::Notice(notice) => {
                    self.count(notice_name(&notice));
                    self.notice(at, &notice);
                    self.note(|| format!("n{at} says {notice:?}"));
                }
            }
        }
        let host = &mut self.hosts[at];
        if let Some(wake) = wake
            && host.wake.is_none_or(|known| wake < known)
        {
            host.wake = Some(wake);
            let incarnation = host.incarnation;
            self.schedule(wake, Event::Wake { at, incarnation });
        }
    }
}

/// The id of a client in the emulated network.
fn client_id(client: usize) -> NodeId {
    NodeId(client as u64)
}

fn order_name(done: &Result<RingId, Hindrance>) -> &'static str {
    match done {
        Ok(_) => "orders about the ring carried out",
        Err(Hindrance::Other(..)) => "orders refused for another change",
        Err(Hindrance::Grants { .. }) => "orders without enough grants",
        Err(Hindrance::Ring(_)) => "orders that make no ring",
        Err(Hindrance::NoPlace) => "orders to a node without a place",
        Err(Hindrance::Protocol(_)) => "orders beside an old protocol",
        Err(Hindrance::NoCancel(_)) => "cancellations of nothing",
        Err(Hindrance::NoGuest(_)) => "dismissals of nobody",
    }
}

fn notice_name(notice: &Notice) -> &'static str {
    match notice {
        Notice::Founded => "clusters founded",
        Notice::WaitsFor(_) => "members that a founder waits for",
        Notice::Reborn => "nodes reborn",
        Notice::Outdated(_) => "outdated incarnations noticed",
        Notice::Copied(_) => "copies noticed",
        Notice::Alone => "starts without a witness",
        Notice::Foreign(..) => "foreign peers met",
        Notice::Settled => "nodes settled",
        Notice::LivenessChanged(_, Liveness::Up, _) => "members back up",
        Notice::LivenessChanged(_, Liveness::Suspect, _) => "members suspected",
        Notice::LivenessChanged(_, Liveness::Down, _) => "members marked down",
        Notice::Repaired(..) => "comparisons that moved something",
        Notice::RepairFailed(..) => "comparisons that began to fail",
        Notice::Recovered => "nodes whole again",
        Notice::Damaged(_) => "records seen to be damaged",
        Notice::HandoffBegun(..) => "handoffs to a member that is back",
        Notice::HandoffDone(_) => "handoffs done",
        Notice::Misplaced(_) => "rings of other sizes refused",
        Notice::Forged(_) => "forged incarnations refused",
        Notice::Declined(_) => "oversized keys notified of",
        Notice::Lost(_) => "losses notified of",
        Notice::LossAccepted(_) => "losses accepted",
    }
}
