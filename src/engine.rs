//! The daemon: one thread that owns the node and carries out what it wants, between the sockets, the
//! store's threads and the real clock.

mod accounts;
mod binding;
mod drain;
mod emulated;
mod ending;
mod health;
mod journal;
mod levels;
mod life;
mod manager;
mod origin;
mod process;
mod quarantine;
mod reload;
mod replacing;
mod scrub;
mod space;
mod stall;
mod storage;
mod trees;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pixii_core::emulation;
use pixii_core::members::{Member, Members, check_address};
use pixii_core::merkle::KeptTree;
use pixii_core::message::{
    Call, CallBody, LossRefusal, Refusal, Replacement, Reply, ReplyBody, Resource, Response,
    SampleReport,
};
use pixii_core::node::{ClientId, Done, Input, Node, Notice, Output, Shortage};
use pixii_core::ring::Ring;
use pixii_core::rng::Rng;
use pixii_core::store::{LifeError, Meta, StoreError};
use pixii_core::types::{Micros, NodeId};
use pixii_core::wire::PROTOCOL;
use pixii_transport::frames::{Held, LARGE_REPLY_BYTES, Outbox};
use pixii_transport::limited;
use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{Receiver, UnboundedReceiver, channel};
use tokio::task::{AbortHandle, yield_now};
use tokio::time::sleep_until;
use tracing::{error, info, warn};

use crate::config::{Config, ConfigError};
use crate::disk::{DiskStore, OpenError};
use crate::metrics::{Kind, Meter, kind};
use crate::net::{Access, CLIENT_LIMITS, Event, Hub, Identity, listener, peers, reachable};
use emulated::{Alarm, Emulator, Parcel};
use ending::Ending;
use health::{Question, Watchers};
use journal::Comparisons;
pub use life::run;
use life::{Outcome, run_watched};
use manager::{Manager, Patience};
pub use origin::Conflict;
pub use process::Order;
use reload::Settings;
use scrub::Scrubber;
use stall::Watch;
use storage::{Report, Storage};

/// Most calls under way on one client's connection.
pub const MAX_CALLS: usize = 1_024;
/// Most calls under way for all clients, those that have gone included.
const MAX_ALL_CALLS: usize = 16_384;
/// Room that large replies leave for small ones.
const RESERVE_BYTES: usize = 8 << 20;
/// Inputs handled before their outputs are carried out and connections get their turn.
const MAX_INPUTS: usize = 1_024;
/// Threads of a store that has failed are waited for so long.
const LETTING_GO: Duration = Duration::from_secs(2);
/// The longest sleep without a reason to wake.
const LONG: Duration = Duration::from_secs(3_600);

/// Why a daemon could not start, or stopped by itself. What was acknowledged is on the disk.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The data directory could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The data is damaged, and it may be the only copy of this partition: it stays where it is.
    #[error("{0}; it was not set aside, because no other replica of partition {1} answers for it")]
    Shut(OpenError, u16),
    /// The store belongs to another node, or failed at the start.
    #[error("the data in {0} cannot be used: {1}")]
    Life(PathBuf, LifeError),
    /// The store failed: nothing has been acknowledged since.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The same, of the store in this directory.
    #[error("{error} (data in {})", dir.display())]
    StoreIn {
        /// The data directory.
        dir: PathBuf,
        /// What failed.
        error: StoreError,
    },
    /// The port is taken, or the address is not one of this machine.
    #[error("cannot listen on {0}: {1}")]
    Listen(String, io::Error),
    /// The operator has removed this node from its cluster; nothing was changed.
    #[error(
        "{0}; {1} is left as it is, and `pixii server --rejoin-empty` begins anew beside it, under another name"
    )]
    Removed(String, PathBuf),
    /// Another daemon is this node, or may be; nothing was changed.
    #[error(transparent)]
    Conflict(Box<Conflict>),
    /// The system has no randomness, threads or descriptors to give.
    #[error("the system gave no {0}: {1}")]
    System(&'static str, io::Error),
}

impl From<Conflict> for ServeError {
    fn from(conflict: Conflict) -> Self {
        ServeError::Conflict(Box::new(conflict))
    }
}

impl ServeError {
    /// True when what was configured does not fit what is there, so that starting again cannot help before
    /// somebody has changed one of them.
    pub fn needs_operator(&self) -> bool {
        use OpenError::{Directory, Foreign, Format, NewerSchema};
        match self {
            ServeError::Open(error) => matches!(
                error,
                Directory { .. } | Foreign { .. } | Format { .. } | NewerSchema { .. }
            ),
            ServeError::Removed(..) | ServeError::Conflict(_) => true,
            ServeError::Life(_, error) => {
                matches!(
                    error,
                    LifeError::Owner(..)
                        | LifeError::Ring
                        | LifeError::Nothing(_)
                        | LifeError::Unplaced(_)
                )
            }
            _ => false,
        }
    }
}

/// Runs a daemon until a signal, a client, or with `follow_stdin` the end of standard input, stops it. At a SIGHUP
/// `read` reads the configuration again, and sees to what is logged. Returns when the store is closed.
pub fn serve(
    config: &Config,
    follow_stdin: bool,
    read: impl Fn() -> Result<Config, ConfigError> + Send + Sync + 'static,
) -> Result<(), ServeError> {
    let (sender, orders) = channel(process::MAX_ORDERS);
    let watch = process::watch_signals(sender.clone(), read);
    let _watch = watch.map_err(|error| ServeError::System("signal handlers", error))?;
    if follow_stdin {
        process::watch_stdin(sender.clone())
            .map_err(|error| ServeError::System("thread", error))?;
    }
    process::raise_descriptors();
    open_and_run(config, orders)
}

fn open_and_run(config: &Config, mut orders: Receiver<Order>) -> Result<(), ServeError> {
    let patience = || Patience::begin().map_err(|error| ServeError::System("thread", error));
    manager::notify(&NotifyState::Status("opening the store"));
    let Some(watchers) = Watchers::start(config, &mut orders)? else { return Ok(()) };
    let opening = patience()?;
    let Some(mut store) = quarantine::open(config, &mut orders)? else { return Ok(()) };
    drop(opening);
    let within = |error| ServeError::StoreIn { dir: config.data_dir.clone(), error };
    loop {
        let shared = Arc::new(store);
        let served = run_watched(config, shared.clone(), &mut orders, &watchers);
        manager::notify(&NotifyState::Status("closing the store"));
        let _closing = patience()?;
        let own = own_again(shared);
        let failed = matches!(served, Err(ServeError::Store(_)));
        store = match (served, own) {
            (Ok(Outcome::Rebuild), Some(own)) => rebuilt(config, own)?,
            (Err(error), Some(own)) if failed && own.is_damaged() => {
                error!(event = "store_damaged", "{error}");
                rebuilt(config, own)?
            }
            // Only a thread that is stuck in a failed store still has it otherwise.
            (served, own) => {
                let closed = own.map_or(Ok(()), DiskStore::close);
                return match served {
                    Err(ServeError::Store(error)) => Err(within(error)),
                    Err(error) => Err(error),
                    Ok(_) => closed.map_err(within),
                };
            }
        };
    }
}

/// The store, once the threads that had it have ended.
fn own_again(mut shared: Arc<DiskStore>) -> Option<DiskStore> {
    let deadline = Instant::now() + LETTING_GO;
    loop {
        match Arc::try_unwrap(shared) {
            Ok(own) => return Some(own),
            Err(_) if Instant::now() >= deadline => return None,
            Err(still) => shared = still,
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// A store that takes the place of a damaged one; the damaged one if none can be made now.
fn rebuilt(config: &Config, damaged: DiskStore) -> Result<DiskStore, ServeError> {
    let failed = damaged.is_damaged();
    match quarantine::rebuild(config, damaged)? {
        (_, Some(why)) if failed => Err(why.into()),
        (store, Some(why)) => {
            warn!(event = "store_kept", "no new store was made, and the old one goes on: {why}");
            Ok(store)
        }
        (store, None) => Ok(store),
    }
}

/// What is left of an engine.
struct Ended {
    ending: Ending,
    storage: Storage,
    /// What the store is to know.
    meta: Meta,
    /// What is kept for the next start.
    trees: Vec<KeptTree>,
}

/// A client's connection.
struct Client {
    /// The version of the protocol that is spoken with it.
    protocol: u16,
    outbox: Arc<Outbox>,
    under_way: HashSet<u64>,
    /// Calls that have come and are not answered yet, those that an emulated network delays
    /// included.
    owed: u64,
    /// True when it makes no more calls: its connection ends with the last reply.
    is_silent: bool,
}

impl Client {
    fn finish_if_answered(&self) {
        if self.is_silent && self.owed == 0 {
            self.outbox.finish();
        }
    }
}

/// A request that the node works on.
struct UnderWay {
    /// What its frame takes of the budget for large ones.
    _held: Held,
    kind: Kind,
    since: Instant,
}

struct Engine<'a> {
    config: &'a Config,
    /// What of it has changed since.
    settings: &'a mut Settings,
    ring: Arc<Ring>,
    /// True if the last stop was not a clean one.
    recovered: bool,
    hub: Arc<Hub>,
    node: Node,
    start: Instant,
    out: Vec<Output>,
    events: Receiver<Event>,
    reports: UnboundedReceiver<Report>,
    storage: Storage,
    clients: HashMap<ClientId, Client>,
    requests: HashMap<(ClientId, u64), UnderWay>,
    busy: u64,
    meter: Meter,
    /// Bytes that were to be sent to peers, by what they were about.
    sent: BTreeMap<emulation::Kind, u64>,
    emulator: Emulator,
    alarm: Alarm,
    /// Comparisons with other owners that are to be logged together.
    comparisons: Comparisons,
    /// Why the node refuses writes for want of space, if it does.
    short: Option<Shortage>,
    /// Whether the store gets on.
    watch: Watch,
    manager: Manager,
    /// Reads the store off the disk.
    scrubber: Scrubber,
    /// The task that accepts connections.
    accepting: Option<AbortHandle>,
    /// When a stop that has begun no longer waits for the requests under way.
    finish_by: Option<Instant>,
    /// Since when the store is known to be damaged on its disk.
    damaged: Option<Instant>,
    /// Parts of the store that were read off the disk in this life.
    scrubbed: u64,
    /// Who waits for the acceptance of a loss to be durable.
    accepting_loss: Vec<(ClientId, u64)>,
    /// Who waits for the replacement of a member to be durable, and what it comes to.
    replacing: Option<(ClientId, u64, Replacement)>,
    ending: Ending,
}

impl<'a> Engine<'a> {
    fn new(
        (config, settings): (&'a Config, &'a mut Settings),
        ring: Arc<Ring>,
        recovered: bool,
        ((boot_nonce, seed), access): ((u64, u64), Access),
        node: Node,
        (storage, reports): (Storage, UnboundedReceiver<Report>),
        (manager, alarm, scrubber): (Manager, Alarm, Scrubber),
    ) -> Self {
        let identity = Identity {
            cluster: config.cluster.clone(),
            name: config.name.clone(),
            me: config.me(),
            members: configured(node.members(), &config.members),
            ring: ring.id(),
            shape: (ring.n(), ring.partitions()),
            incarnation: node.meta().incarnation,
            boot_nonce,
            birth: node.meta().birth,
            address: own_address(config),
        };
        let (hub, events) = Hub::new(identity, node.members(), access, process::places(config));
        let emulator = Emulator::off(config.me(), config.emulation_seed.unwrap_or(seed));
        Engine {
            config,
            settings,
            ring,
            recovered,
            hub,
            node,
            start: Instant::now(),
            out: Vec::new(),
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
            comparisons: Comparisons::default(),
            short: None,
            watch: Watch::default(),
            manager,
            scrubber,
            accepting: None,
            finish_by: None,
            damaged: None,
            scrubbed: 0,
            accepting_loss: Vec::new(),
            replacing: None,
            ending: Ending::Stop,
        }
    }

    /// Serves until it is to end; gives back why, the store's threads, and what the store is to know.
    async fn run(
        mut self,
        listener: TcpListener,
        seed: u64,
        orders: &mut Receiver<Order>,
        mut questions: Receiver<Question>,
    ) -> Result<Ended, StoreError> {
        let accepting = tokio::spawn(listener::accept(listener, self.hub.clone()));
        self.accepting = Some(accepting.abort_handle());
        let mut rng = Rng::new(seed);
        for peer in self.hub.peers.values() {
            let link = peers::keep_link(self.hub.clone(), peer.clone(), rng.next_u64());
            tokio::spawn(link);
        }
        tokio::spawn(reachable::watch(self.hub.clone()));
        let (Config { name, listen, .. }, places) = (self.config, self.hub.places);
        info!("node {name} listens on {listen}, for {places}");
        if !places.fit(process::peers(self.config)) {
            warn!(
                "node {name} has too few descriptors for its members: raise the limit (ulimit -n, LimitNOFILE)"
            );
        }
        self.set_rules(self.config.emulation.clone());
        self.take_up_drain();
        while !self.is_finished() {
            let wake = self.wake_at();
            if let Some(due) = self.emulator.next_wake() {
                self.alarm.set(due.saturating_sub(self.now()));
            }
            tokio::select! {
                biased;
                Some(order) = orders.recv() => self.order(order),
                // Before the work, which may never leave a moment: a node that has very much to do is alive. Ten a second at
                // most; who has asked may have gone.
                Some(question) = questions.recv() => drop(question.send(self.account())),
                Some(report) = self.reports.recv() => self.report(report)?,
                Some(event) = self.events.recv() => self.event(event),
                () = self.alarm.rings(), if self.emulator.is_on() => {}
                () = sleep_until(wake.into()) => {}
            }
            self.drain()?;
            self.hand_over();
            // What an experiment has a node tell itself by this way may lead to more.
            while !self.out.is_empty() {
                self.carry_out();
            }
            self.go_on_draining();
            self.consider_rebuilding();
            self.watch_store();
            self.tell_manager();
            self.comparisons.tell(Instant::now(), self.node.members());
            yield_now().await;
        }
        self.comparisons.tell_all(self.node.members());
        self.end_emulation();
        self.flush().await;
        let (meta, trees) = (self.node.meta().clone(), self.node.kept_trees());
        Ok(Ended { ending: self.ending, storage: self.storage, meta, trees })
    }

    fn order(&mut self, order: Order) {
        match order {
            Order::Stop(why) => self.stop(&why),
            Order::Reload(read) => self.reload(read),
            Order::Account => journal::tell_account(&self.account()),
        }
    }

    fn tell_manager(&mut self) {
        let now = Instant::now();
        self.hub.log.sweep();
        self.manager.feed(now);
        if self.manager.is_due(now) {
            let (serves, condition) = (self.node.is_settled(), self.condition());
            self.manager.tell(now, serves, condition);
        }
    }

    fn now(&self) -> Micros {
        self.start.elapsed().as_micros() as Micros
    }

    fn wake_at(&self) -> Instant {
        let far = Instant::now() + LONG;
        let wake = self.node.next_wake().map(Duration::from_micros);
        let wake = wake.and_then(|wake| self.start.checked_add(wake));
        wake.unwrap_or(far).min(self.finish_by.unwrap_or(far)).min(far)
    }

    fn input(&mut self, input: Input) {
        self.node.handle(self.now(), input, &mut self.out);
    }

    /// Handles what has queued up behind the input that woke the engine.
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
            Report::Synced { mark, changes, took } => {
                self.meter.synced(changes, took);
                journal::tell_sync(changes, took);
                self.input(Input::Store(Done::Synced { mark }));
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
            journal::tell_space(&self.config.name, shortage);
        }
        self.short = shortage;
        self.manager.look_again();
        self.input(Input::Space(shortage));
    }

    /// Notices whether the store gets on. A node wakes at least ten times a second.
    fn watch_store(&mut self) {
        let news = self.watch.look(Instant::now(), self.storage.progress());
        if let Some((stall, lasts)) = news {
            journal::tell_stall(&self.config.name, stall, lasts);
            self.manager.look_again();
            self.input(Input::Stalled(stall));
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Link { peer, up } => self.input(Input::Link { peer, up }),
            Event::Message { from, message, held } => {
                self.input(Input::Peer { from, message });
                drop(held);
            }
            Event::Joined { client, protocol, outbox } => {
                let (under_way, owed, is_silent) = (HashSet::new(), 0, false);
                let caller = Client { protocol, outbox, under_way, owed, is_silent };
                self.clients.insert(client, caller);
            }
            Event::Silent { client } => {
                if let Some(caller) = self.clients.get_mut(&client) {
                    caller.is_silent = true;
                    caller.finish_if_answered();
                }
            }
            Event::Left { client } => {
                self.clients.remove(&client);
            }
            Event::Removed { why } => {
                self.ending = Ending::Removed(why);
                self.begin_end(Duration::ZERO);
            }
            // One that has served is no newcomer: a copy must not be able to end it.
            Event::Duplicate { why } if !self.node.is_settled() => {
                self.ending = Ending::Duplicate(why);
                self.begin_end(Duration::ZERO);
            }
            Event::Duplicate { why } => {
                let (permit, name) = (self.hub.log.once("copy_heard", "", &why), &self.config.name);
                limited!(permit, error, [event = "copy_heard",], "node {name} is refused: {why}");
            }
            Event::Call { client, call, held } => {
                if let Some(caller) = self.clients.get_mut(&client) {
                    caller.owed += 1;
                }
                match &call.body {
                    CallBody::Data { request, .. } if self.emulator.is_on() => {
                        let kind = request.kind();
                        self.emulator.post(self.now(), kind, Parcel::Call { client, call, held });
                    }
                    _ => self.call(client, call, held),
                }
            }
        }
    }

    fn call(&mut self, client: ClientId, call: Call, held: Held) {
        let Call { id, body } = call;
        let Some(caller) = self.clients.get_mut(&client) else { return };
        if !caller.under_way.insert(id) {
            let permit = self.hub.log.several("call_repeated", "");
            limited!(
                permit,
                warn,
                [],
                "closed the connection of a client: call {id} is under way and was made again"
            );
            return caller.outbox.shut();
        }
        let full = [
            (Resource::ConnectionCalls, caller.under_way.len(), MAX_CALLS),
            (Resource::NodeCalls, self.requests.len() + 1, MAX_ALL_CALLS),
        ];
        if let CallBody::Data { request, .. } = &body {
            let under_way = UnderWay { _held: held, kind: kind(request), since: Instant::now() };
            self.requests.insert((client, id), under_way);
        }
        if let Some((what, _, limit)) = full.into_iter().find(|(_, count, limit)| count > limit) {
            self.busy += 1;
            return self.reply(client, id, busy(what, limit));
        }
        match body {
            CallBody::Data { request, timeout_ms } => {
                self.input(Input::Client { client, id, request, timeout_ms });
            }
            CallBody::Ring => self.reply(client, id, ReplyBody::Ring(self.ring())),
            CallBody::Status => self.reply(client, id, ReplyBody::Status(self.status().into())),
            CallBody::Links => self.reply(client, id, ReplyBody::Links(self.hub.links())),
            CallBody::AcceptLoss => self.accept_loss(client, id),
            CallBody::Emulate(order) => {
                let told = self.emulate(order);
                self.reply(client, id, ReplyBody::Emulated(told));
            }
            CallBody::Repair { begin, partition, peer } => {
                let told = self.repair(begin, partition, peer);
                self.reply(client, id, ReplyBody::Repair(told));
            }
            CallBody::Samples => {
                let (name, trips) = (self.config.name.clone(), self.node.recent_trips());
                self.reply(client, id, ReplyBody::Samples(SampleReport { name, trips }));
            }
            CallBody::Stop => {
                self.reply(client, id, ReplyBody::Stopping);
                self.stop("a client's request");
            }
            CallBody::Replace { old, new, address, apply } => {
                self.replace(client, id, (&old, &new, address), apply);
            }
            CallBody::Drain(order) => {
                let told = self.order_drain(order);
                self.reply(client, id, ReplyBody::Drain(told));
            }
        }
    }

    /// Answers a call; nothing happens when the client has gone.
    fn reply(&mut self, client: ClientId, id: u64, body: ReplyBody) {
        if let Some(UnderWay { kind, since, .. }) = self.requests.remove(&(client, id))
            && let ReplyBody::Data(response) = &body
        {
            self.meter.answered(kind, response, since.elapsed());
        }
        let Some(caller) = self.clients.get_mut(&client) else { return };
        caller.under_way.remove(&id);
        let emulated = self.emulator.is_on() && matches!(body, ReplyBody::Data(_));
        let wrote = matches!(body, ReplyBody::Data(Response::Written { .. }));
        let kind = match &body {
            ReplyBody::Data(response) => response.kind(),
            _ => emulation::Kind::Other,
        };
        let protocol = caller.protocol;
        let mut frame = Reply { id, body }.frame(protocol);
        if frame.len() > LARGE_REPLY_BYTES && !caller.outbox.fits(frame.len(), RESERVE_BYTES) {
            self.busy += 1;
            if wrote {
                // It was done, so it cannot be refused: with the connection gone, its outcome is unknown.
                return caller.outbox.shut();
            }
            let body = busy(Resource::UnreadReplies, CLIENT_LIMITS.bytes);
            frame = Reply { id, body }.frame(protocol);
        }
        if emulated {
            self.emulator.post(self.now(), kind, Parcel::Reply { client, frame });
        } else {
            self.answer(client, frame);
        }
    }

    /// Lets a frame leave that answers a client's call of this id.
    fn answer(&mut self, client: ClientId, frame: Bytes) {
        let Some(caller) = self.clients.get_mut(&client) else { return };
        caller.owed = caller.owed.saturating_sub(1);
        if !caller.outbox.push(frame) {
            caller.outbox.shut();
        }
        caller.finish_if_answered();
    }

    fn carry_out(&mut self) {
        let (mut works, mut own) = (Vec::new(), Vec::new());
        for output in std::mem::take(&mut self.out) {
            match output {
                Output::Send { to, message } => {
                    let kind = message.body.kind();
                    // Encoded once for all that speak the same version.
                    let mut frames: BTreeMap<u16, Bytes> = BTreeMap::new();
                    for peer in to.iter().filter_map(|id| self.hub.peers.get(id)) {
                        let protocol = peer.protocol().unwrap_or(PROTOCOL);
                        let frame =
                            frames.entry(protocol).or_insert_with(|| message.frame(protocol));
                        let frame = frame.clone();
                        *self.sent.entry(kind).or_default() += frame.len() as u64;
                        if self.emulator.is_on() && peer.outbox.is_open() {
                            let (peer, connection) = (peer.clone(), peer.outbox.connection());
                            let parcel = Parcel::Message { peer, connection, frame };
                            self.emulator.post(self.now(), kind, parcel);
                        } else {
                            peer.outbox.push(frame);
                        }
                    }
                    if to.contains(&self.config.me()) {
                        own.push(message);
                    }
                }
                Output::Reply { client, id, response } => {
                    self.reply(client, id, ReplyBody::Data(response));
                }
                Output::Store(work) => works.push(work),
                Output::Address { peer, address } => self.moved(peer, &address),
                Output::Relive => self.relive(),
                Output::NotReplaced(why) => self.not_replaced(&why),
                Output::Notice(notice) => {
                    self.manager.look_again();
                    if let Notice::LossAccepted(partitions) = notice {
                        self.loss_accepted(partitions);
                    }
                    self.comparisons.note(&notice, Instant::now());
                    journal::tell(notice, self.config, self.node.members(), &self.hub.log);
                }
            }
        }
        self.storage.submit(works.into_iter());
        own.into_iter().for_each(|message| self.tell_self(message));
    }

    /// The operator accepts that acknowledged writes are gone where no other node has them.
    fn accept_loss(&mut self, client: ClientId, id: u64) {
        if self.node.lost().is_empty() {
            let why = LossRefusal::NothingLost { node: self.config.name.clone() };
            return self.reply(client, id, ReplyBody::LossAccepted(Err(why)));
        }
        self.accepting_loss.push((client, id));
        self.input(Input::AcceptLoss);
    }

    /// That is durable, for so many partitions.
    fn loss_accepted(&mut self, partitions: u32) {
        for (client, id) in std::mem::take(&mut self.accepting_loss) {
            self.reply(client, id, ReplyBody::LossAccepted(Ok(partitions)));
        }
    }

    /// A peer is to be reached elsewhere, as others say.
    fn moved(&self, peer: NodeId, address: &str) {
        let Some(peer) = self.hub.peers.get(&peer) else { return };
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

/// Where this node is configured to be dialed.
fn own_address(config: &Config) -> String {
    let own = config.members.get(config.me());
    own.map_or_else(|| config.listen.clone(), |own| own.address.clone())
}

/// All members, where they are configured to be if they are configured.
fn configured(members: &Members, configured: &Members) -> Members {
    let place = |member: &Member| match configured.get(member.id()) {
        Some(Member { address, .. }) => Member { address: address.clone(), ..member.clone() },
        None => member.clone(),
    };
    Members::new(members.iter().map(place).collect())
}

fn busy(what: Resource, limit: usize) -> ReplyBody {
    let refusal = Refusal::Busy { what, limit: limit as u32 };
    ReplyBody::Data(Response::Refused(refusal))
}
