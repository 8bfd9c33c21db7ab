//! The daemon: one thread owns the node and carries out its outputs, between the sockets, the
//! store's threads and the real clock.

mod binding;
mod calls;
mod drain;
mod emulated;
mod ending;
mod error;
mod event_log;
mod gauges;
mod health;
mod incarnation;
mod memory;
mod notifier;
mod opening;
mod origin;
mod planning;
mod process;
mod quarantine;
mod reload;
mod replacing;
mod scrub;
mod snapshots;
mod space;
mod stall;
mod storage;
mod trees;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pixii_core::members::{Member, Members, check_address};
use pixii_core::merkle::KeptTree;
use pixii_core::message::{self, CallBody, PeerMessage, Replacement, ReplyBody, Staged};
use pixii_core::node::{ClientId, Done, Input, Node, Notice, Output, Shortage, Work};
use pixii_core::ring::Ring;
use pixii_core::rng::Rng;
use pixii_core::store::{Meta, StoreError};
use pixii_core::types::{NodeId, Time};
use pixii_core::wire::{PROTOCOL, Speech};
use pixii_transport::limited;
use smallvec::SmallVec;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{Receiver, UnboundedReceiver};
use tokio::task::{AbortHandle, yield_now};
use tokio::time::sleep_until;
use tracing::{info, warn};

use crate::config::Config;
use crate::metrics::Meter;
use crate::net::members::Memberships;
use crate::net::{Access, Event, Hub, Identity, listener, reachable};
pub use calls::MAX_CALLS;
use calls::{Client, InFlight};
use emulated::{Alarm, DelayedMessage, Emulator};
use ending::Ending;
pub use error::ServeError;
use event_log::Comparisons;
use health::Question;
pub use incarnation::run;
use notifier::SystemdNotifier;
pub use opening::serve;
pub use origin::Conflict;
pub use process::Order;
use reload::RuntimeConfig;
use scrub::Scrubber;
use stall::{StallChange, Watch};
use storage::{Report, Storage};

/// Inputs handled before their outputs are carried out and connections get their turn.
const MAX_INPUTS: usize = 1_024;
/// The longest sleep without a reason to wake.
const MAX_SLEEP: Duration = Duration::from_secs(3_600);

/// What remains when an engine has ended.
struct Ended {
    ending: Ending,
    storage: Storage,
    /// Written to the store when it is closed.
    meta: Meta,
    /// The ring in force at the end.
    ring: Arc<Ring>,
    /// The Merkle trees, kept for the next start.
    trees: Vec<KeptTree>,
}

/// An order to change the ring, and the client, with its call id, that is answered when it has been
/// carried out.
enum Ordered {
    /// The replacement of a member, and the answer if it can be made.
    Replace { client: ClientId, id: u64, plan: Replacement },
    /// An order about a plan; `applies` is true if what is staged begins with it.
    Plan { client: ClientId, id: u64, applies: bool },
}

struct Engine<'a> {
    config: &'a Config,
    /// The settings that can change while the daemon runs, as they are in force.
    runtime_config: &'a mut RuntimeConfig,
    /// The ring in force.
    ring: Arc<Ring>,
    /// True if the last stop was not a clean one.
    recovered: bool,
    hub: Arc<Hub>,
    node: Node,
    start: Instant,
    out: Vec<Output>,
    /// Empty between two turns.
    works: Vec<Work>,
    events: Receiver<Event>,
    reports: UnboundedReceiver<Report>,
    storage: Storage,
    clients: HashMap<ClientId, Client>,
    requests: HashMap<(ClientId, u64), InFlight>,
    busy: u64,
    meter: Meter,
    /// Bytes sent to peers since the start, by kind of message.
    sent: BTreeMap<message::Kind, u64>,
    emulator: Emulator,
    alarm: Alarm,
    /// Spreads the attempts to dial in time.
    rng: Rng,
    /// Comparisons with other owners that are not logged yet.
    comparisons: Comparisons,
    /// Why the node refuses writes for lack of disk space; `None` while there is room.
    short: Option<Shortage>,
    /// Detects that the store makes no progress.
    watch: Watch,
    notifier: SystemdNotifier,
    /// Reads the store off the device in the background.
    scrubber: Scrubber,
    /// The task that accepts connections; `None` before the incarnation runs and once it ends.
    accepting: Option<AbortHandle>,
    /// Set when a stop has begun: the instant until which it waits for requests in progress.
    finish_by: Option<Instant>,
    /// When the store was found to be damaged on its device; `None` if it was not.
    damaged: Option<Instant>,
    /// Segments of the log that were read off the device in this incarnation.
    scrubbed: u64,
    /// Clients, with call ids, that are answered once the acceptance of a loss is durable.
    accepting_loss: Vec<(ClientId, u64)>,
    /// The order to change the ring that is being carried out.
    ordered: Option<Ordered>,
    /// Changes of the ring that an operator has staged here.
    staged: Vec<Staged>,
    ending: Ending,
}

/// The parts that an engine is made of.
struct EngineParts<'a> {
    config: &'a Config,
    runtime_config: &'a mut RuntimeConfig,
    recovered: bool,
    /// Drawn at random at each start of the process.
    boot_nonce: u64,
    seed: u64,
    access: Access,
    node: Node,
    storage: Storage,
    reports: UnboundedReceiver<Report>,
    notifier: SystemdNotifier,
    alarm: Alarm,
    scrubber: Scrubber,
}

impl<'a> Engine<'a> {
    fn new(parts: EngineParts<'a>) -> Self {
        let EngineParts { config, runtime_config, recovered, boot_nonce, seed, .. } = parts;
        let EngineParts { access, node, storage, reports, notifier, alarm, scrubber, .. } = parts;
        let ring = node.ring().clone();
        let identity = Identity {
            cluster: config.cluster.clone(),
            name: config.name.clone(),
            me: config.me(),
            shape: (ring.n(), ring.partitions()),
            incarnation: node.meta().incarnation,
            boot_nonce,
            birth: node.meta().birth,
            address: own_address(config),
        };
        let memberships = Memberships {
            configured: config.members.clone(),
            members: node.members().clone(),
            ring: ring.id(),
        };
        let (hub, events) = Hub::new(
            identity,
            memberships,
            access,
            process::places(config),
            process::budgets(config),
        );
        let emulator = Emulator::off(config.me(), config.emulation_seed.unwrap_or(seed));
        Engine {
            config,
            runtime_config,
            ring,
            recovered,
            hub,
            node,
            start: Instant::now(),
            out: Vec::new(),
            works: Vec::new(),
            events,
            reports,
            storage,
            clients: HashMap::new(),
            requests: HashMap::new(),
            busy: 0,
            meter: Meter::new(),
            sent: BTreeMap::new(),
            emulator,
            alarm,
            rng: Rng::new(seed),
            comparisons: Comparisons::default(),
            short: None,
            watch: Watch::default(),
            notifier,
            scrubber,
            accepting: None,
            finish_by: None,
            damaged: None,
            scrubbed: 0,
            accepting_loss: Vec::new(),
            ordered: None,
            staged: Vec::new(),
            ending: Ending::Stop,
        }
    }

    /// Logs the address that it listens on, and what its limits of descriptors and memory permit.
    fn log_limits(&self) {
        let (Config { name, listen, .. }, places) = (self.config, self.hub.places);
        let budgets = self.hub.budgets;
        info!("node {name} listens on {listen}, for {places}, {budgets}");
        if let Some((limit, needed)) = budgets.lack() {
            warn!(
                "node {name} has a memory limit of {limit} MiB and needs {needed} MiB with its \
                 cache, for the largest values: raise the limit (MemoryMax) or lower cache_mib"
            );
        }
        if !places.fit(process::peers(self.config)) {
            warn!(
                "node {name} has too few descriptors for its members: raise the limit (ulimit -n, \
                 LimitNOFILE)"
            );
        }
    }

    /// Serves until the incarnation ends. Returns the reason, the store's threads, and what is to
    /// be written to the store.
    async fn run(
        mut self,
        listener: TcpListener,
        orders: &mut Receiver<Order>,
        mut questions: Receiver<Question>,
    ) -> Result<Ended, StoreError> {
        let accepting = tokio::spawn(listener::accept(listener, self.hub.clone()));
        self.accepting = Some(accepting.abort_handle());
        self.hub.dial(&mut self.rng);
        tokio::spawn(reachable::watch(self.hub.clone()));
        self.log_limits();
        self.set_rules(self.config.emulation.clone());
        self.take_up_drain();
        while !self.is_finished() {
            let wake = self.wake_at();
            if let Some(due) = self.emulator.next_wake() {
                self.alarm.set(due.saturating_since(self.now()));
            }
            tokio::select! {
                biased;
                Some(order) = orders.recv() => self.order(order),
                // Polled before the work, so that an overloaded node still answers its probes: ten
                // a second at most. The receiver may have gone.
                Some(question) = questions.recv() => drop(question.send(self.snapshot())),
                Some(report) = self.reports.recv() => self.report(report)?,
                Some(event) = self.events.recv() => self.event(event),
                () = self.alarm.rings(), if self.emulator.is_on() => {}
                () = sleep_until(wake.into()) => {}
            }
            self.drain()?;
            self.hand_over();
            // A message that an experiment sends from the node to itself may cause further outputs.
            while !self.out.is_empty() {
                self.carry_out();
            }
            self.go_on_draining();
            self.consider_rebuilding();
            self.watch_store();
            self.report_notifier();
            self.comparisons.report(Instant::now(), self.node.members());
            yield_now().await;
        }
        self.comparisons.report_all(self.node.members());
        self.end_emulation();
        self.flush().await;
        let (meta, trees) = (self.node.meta().clone(), self.node.kept_trees());
        Ok(Ended { ending: self.ending, storage: self.storage, meta, ring: self.ring, trees })
    }

    fn order(&mut self, order: Order) {
        match order {
            Order::Stop(why) => self.stop(&why),
            Order::Reload(read) => self.reload(read),
            Order::MetricsSnapshot => event_log::report_snapshot(&self.snapshot()),
        }
    }

    fn report_notifier(&mut self) {
        let now = Instant::now();
        self.hub.log.sweep();
        self.notifier.feed(now);
        if self.notifier.is_due(now) {
            let (serves, condition) = (self.node.is_settled(), self.condition());
            self.notifier.report(now, serves, condition);
        }
    }

    fn now(&self) -> Time {
        Time::START + self.start.elapsed().into()
    }

    fn wake_at(&self) -> Instant {
        let far = Instant::now() + MAX_SLEEP;
        let wake = self.node.next_wake().map(|wake| Duration::from(wake - Time::START));
        let wake = wake.and_then(|wake| self.start.checked_add(wake));
        wake.unwrap_or(far).min(self.finish_by.unwrap_or(far)).min(far)
    }

    fn input(&mut self, input: Input) {
        self.node.handle(self.now(), input, &mut self.out);
    }

    /// Handles the inputs that were queued behind the one that woke the engine.
    fn drain(&mut self) -> Result<(), StoreError> {
        for _ in 0..MAX_INPUTS {
            let Ok(report) = self.reports.try_recv() else { break };
            self.report(report)?;
        }
        for _ in 0..MAX_INPUTS {
            let Ok(event) = self.events.try_recv() else { break };
            self.event(event);
        }
        if self.node.next_wake().is_some_and(|wake| wake <= self.now()) {
            self.input(Input::Tick);
        }
        Ok(())
    }

    fn report(&mut self, report: Report) -> Result<(), StoreError> {
        match report {
            Report::Done(done) => self.input(Input::Store(done)),
            Report::Reads(found) => {
                for done in found {
                    self.input(Input::Store(done));
                }
            }
            Report::Synced { seq, changes, took } => {
                self.meter.synced(changes, took);
                event_log::report_sync(changes, took);
                self.input(Input::Store(Done::Synced { seq }));
            }
            Report::Space(shortage) => self.space(shortage),
            Report::Scrubbed => self.scrubbed += 1,
            Report::Damaged(what) => self.damaged(&what),
            Report::Failed(error) => return Err(error),
        }
        Ok(())
    }

    fn space(&mut self, shortage: Option<Shortage>) {
        let changed = self.short.is_some() != shortage.is_some();
        if changed {
            event_log::report_space(&self.config.name, shortage);
        }
        self.short = shortage;
        self.notifier.look_again();
        self.input(Input::Space(shortage));
    }

    /// Detects that the store makes no progress. A node wakes at least ten times a second.
    fn watch_store(&mut self) {
        let change = self.watch.look(Instant::now(), self.storage.progress());
        if let Some(StallChange { stall, lasts }) = change {
            event_log::report_stall(&self.config.name, stall, lasts);
            self.notifier.look_again();
            self.input(Input::Stalled(stall));
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            // A link may have come up just before its end was no member any more.
            Event::Link { peer, up } if up && !self.hub.peers().contains_key(&peer) => {}
            Event::Link { peer, up } => self.input(Input::Link { peer, up }),
            Event::Message { from, message, memory } => {
                self.input(Input::Peer { from, message });
                drop(memory);
            }
            Event::Joined { client, speech, outbox } => {
                let (in_flight, pending, is_silent) = (HashSet::new(), 0, false);
                let caller = Client { speech, outbox, in_flight, pending, is_silent };
                self.clients.insert(client, caller);
            }
            Event::Silent { client } => {
                if let Some(caller) = self.clients.get_mut(&client) {
                    caller.is_silent = true;
                    caller.finish_if_answered();
                }
                // It may have gone altogether: a write that is not decided yet is void.
                self.input(Input::GiveUp { client, call: None });
            }
            Event::Left { client } => {
                self.clients.remove(&client);
                self.input(Input::GiveUp { client, call: None });
            }
            Event::Removed { why } => {
                self.ending = Ending::Removed(why);
                self.begin_end(Duration::ZERO);
            }
            // A node that has served is no newcomer: a copy must not be able to end it.
            Event::Duplicate { why } if !self.node.is_settled() => {
                self.ending = Ending::Duplicate(why);
                self.begin_end(Duration::ZERO);
            }
            Event::Duplicate { why } => {
                let (permit, name) = (self.hub.log.once("copy_heard", "", &why), &self.config.name);
                limited!(permit, error, [event = "copy_heard",], "node {name} is refused: {why}");
            }
            Event::Call { client, call, memory } => {
                if let Some(caller) = self.clients.get_mut(&client) {
                    caller.pending += 1;
                }
                match &call.body {
                    CallBody::Data { request, .. } if self.emulator.is_on() => {
                        let kind = request.kind();
                        self.emulator.post(
                            self.now(),
                            kind,
                            DelayedMessage::Call { client, call, memory },
                        );
                    }
                    _ => self.call(client, call, memory),
                }
            }
        }
    }

    fn carry_out(&mut self) {
        let mut own = Vec::new();
        let mut out = std::mem::take(&mut self.out);
        let mut works = std::mem::take(&mut self.works);
        for output in out.drain(..) {
            match output {
                Output::Send { to, message } => {
                    self.send(&to, &message);
                    if to.contains(&self.config.me()) {
                        own.push(message);
                    }
                }
                Output::Reply { client, id, response } => {
                    self.reply(client, id, ReplyBody::Data(response));
                }
                Output::Store(work) => works.push(work),
                Output::Address { peer, address } => self.moved(peer, &address),
                Output::Ring { ring, members } => self.take_ring(ring, &members),
                Output::Members(members) => self.learn(&members),
                Output::RingOrdered(done) => self.ring_ordered(done),
                Output::Notice(notice) => {
                    self.notifier.look_again();
                    if let Notice::LossAccepted(partitions) = notice {
                        self.loss_accepted(partitions);
                    }
                    self.comparisons.note(&notice, Instant::now());
                    event_log::report(notice, self.config, self.node.members(), &self.hub.log);
                }
            }
        }
        // Both keep their allocation, except that of a burst. Outputs that came meanwhile are
        // carried out in the next turn.
        out.append(&mut self.out);
        out.shrink_to(MAX_INPUTS);
        self.out = out;
        self.storage.submit(works.drain(..));
        works.shrink_to(MAX_INPUTS);
        self.works = works;
        own.into_iter().for_each(|message| self.report_self(message));
    }

    /// Sends a message to these peers. It is encoded once per speech (protocol version and
    /// checksum) among them.
    fn send(&mut self, to: &[NodeId], message: &PeerMessage) {
        let kind = message.body.kind();
        let mut frames: SmallVec<[(Speech, Bytes); 1]> = SmallVec::new();
        let known = self.hub.peers();
        let mut peers = to.iter().filter_map(|id| known.get(id)).peekable();
        while let Some(peer) = peers.next() {
            let speech = peer.speech().unwrap_or(PROTOCOL.into());
            let made = frames.iter().find(|(of, _)| *of == speech).map(|(_, frame)| frame.clone());
            let Some(frame) = made.or_else(|| message.frame(speech)) else { continue };
            // A frame for one peer only is not cloned, so it needs no reference count.
            if peers.peek().is_some() && frames.iter().all(|(of, _)| *of != speech) {
                frames.push((speech, frame.clone()));
            }
            *self.sent.entry(kind).or_default() += frame.len() as u64;
            if self.emulator.is_on() && peer.outbox.is_open() {
                let (peer, connection) = (peer.clone(), peer.outbox.connection());
                let delayed = DelayedMessage::Message { peer, connection, frame };
                self.emulator.post(self.now(), kind, delayed);
            } else {
                peer.outbox.push(frame);
            }
        }
    }

    /// Takes over a peer's new address, as other members report it.
    fn moved(&self, peer: NodeId, address: &str) {
        let peers = self.hub.peers();
        let Some(peer) = peers.get(&peer) else { return };
        match check_address("address", address) {
            Ok(_) => peer.moved(address),
            Err(why) => {
                let (name, log) = (&peer.name, &self.hub.log);
                let permit = log.once("odd_address", name, &why);
                limited!(
                    permit,
                    warn,
                    [],
                    "peer {name} cannot be reached where it says it is: {why}"
                );
            }
        }
    }
}

/// The address at which other nodes are configured to dial this one.
fn own_address(config: &Config) -> String {
    let own = config.members.get(config.me());
    own.map_or_else(|| config.listen.clone(), |own| own.address.clone())
}

/// All members, each at its configured address if it has one.
fn configured(members: &Members, configured: &Members) -> Members {
    let place = |member: &Member| match configured.get(member.id()) {
        Some(Member { address, .. }) => Member { address: address.clone(), ..member.clone() },
        None => member.clone(),
    };
    Members::new(members.iter().map(place).collect())
}
