//! The daemon: one thread that owns the node and carries out what it wants, between the sockets, the
//! store's threads and the real clock.

mod accounts;
mod emulated;
mod journal;
mod life;
mod process;
mod quarantine;
mod replacing;
mod space;
mod storage;

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{Receiver, UnboundedReceiver, channel};
use tokio::task::{AbortHandle, yield_now};
use tokio::time::{sleep_until, timeout_at};
use tracing::{info, warn};

use crate::config::{Config, check_address};
use crate::members::{Member, Members};
use crate::message::{Call, CallBody, Refusal, Replacement, Reply, ReplyBody, Response};
use crate::net::frames::{Held, Outbox};
use crate::net::{Access, CLIENT_LIMITS, Event, Hub, Identity, listener, peers};
use crate::node::{ClientId, Input, Node, Output, Shortage};
use crate::ring::Ring;
use crate::rng::Rng;
use crate::store::disk::{DiskStore, OpenError};
use crate::store::{LifeError, Meta, StoreError};
use crate::types::{Micros, NodeId};
use crate::wire;
use emulated::{Emulator, Parcel};
pub use life::run;
use storage::{Report, Storage};

/// Most calls under way on one client's connection.
pub const MAX_CALLS: usize = 1_024;
/// Most calls under way for all clients, those that have gone included.
const MAX_ALL_CALLS: usize = 16_384;
/// A reply over this many bytes is refused when too much is unsent already; smaller ones always leave.
const LARGE_REPLY_BYTES: usize = 64 << 10;
/// Room that large replies leave for small ones.
const RESERVE_BYTES: usize = 8 << 20;
/// Inputs handled before their outputs are carried out and connections get their turn.
const MAX_INPUTS: usize = 1_024;
/// At a stop, requests under way have this long to finish.
const FINISH: Duration = Duration::from_secs(5);
/// Where another life follows they have this long: their clients try again elsewhere.
const FINISH_BEFORE_NEXT: Duration = Duration::from_millis(300);
/// Then their replies have this long to leave.
const FLUSH: Duration = Duration::from_secs(1);
/// Reasons to stop that may wait; the first one counts.
const MAX_STOPS: usize = 4;
/// What the service manager shows while all is well.
const SERVING: &str = "serving";
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
    /// The port is taken, or the address is not one of this machine.
    #[error("cannot listen on {0}: {1}")]
    Listen(String, io::Error),
    /// The operator has removed this node from its cluster; nothing was changed.
    #[error(
        "{0}; {1} is left as it is, and `pixii server --rejoin-empty` begins anew beside it, under another name"
    )]
    Removed(String, PathBuf),
    /// The system has no randomness, threads or descriptors to give.
    #[error("the system gave no {0}: {1}")]
    System(&'static str, io::Error),
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
            ServeError::Removed(..) => true,
            ServeError::Life(_, error) => matches!(error, LifeError::Owner(..) | LifeError::Ring),
            _ => false,
        }
    }
}

/// Runs a daemon until a signal, a client, or with `follow_stdin` the end of standard input, stops it.
/// Returns when its store is closed.
pub fn serve(config: &Config, follow_stdin: bool) -> Result<(), ServeError> {
    let (stops, stop) = channel(MAX_STOPS);
    let watch = process::watch_signals(stops.clone());
    let _watch = watch.map_err(|error| ServeError::System("signal handlers", error))?;
    if follow_stdin {
        process::watch_stdin(stops.clone()).map_err(|error| ServeError::System("thread", error))?;
    }
    process::raise_descriptors();
    let served = open_and_run(config, stop);
    if let Err(error) = &served {
        process::notify(NotifyState::Status(&error.to_string()));
    }
    served
}

fn open_and_run(config: &Config, stop: Receiver<String>) -> Result<(), ServeError> {
    process::notify(NotifyState::Status("opening the store"));
    let store = Arc::new(quarantine::open(config)?);
    let served = run(config, store.clone(), stop);
    // Only a thread that is stuck in a failed store still has it then, and the process ends anyway.
    let closed = Arc::into_inner(store).map_or(Ok(()), DiskStore::close);
    served?;
    Ok(closed?)
}

/// A client's connection.
struct Client {
    outbox: Arc<Outbox>,
    under_way: HashSet<u64>,
}

struct Engine<'a> {
    config: &'a Config,
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
    /// Every request the node works on, with what its frame takes of the budget for large ones.
    requests: HashMap<(ClientId, u64), Held>,
    /// Who waits for a status, which waits for the store.
    status_calls: Vec<(ClientId, u64)>,
    busy: u64,
    emulator: Emulator,
    /// Whether the node refuses writes for want of space.
    short: bool,
    /// The task that accepts connections.
    accepting: Option<AbortHandle>,
    /// When a stop that has begun no longer waits for the requests under way.
    finish_by: Option<Instant>,
    /// Who waits for the replacement of a member to be durable, and what it comes to.
    replacing: Option<(ClientId, u64, Replacement)>,
    ending: Ending,
}

/// Why a life ends.
#[derive(Debug)]
enum Ending {
    /// The daemon stops.
    Stop,
    /// Another life follows, with a later ring.
    Relive,
    /// An operator has removed the node, as a peer says.
    Removed(String),
}

impl<'a> Engine<'a> {
    fn new(
        config: &'a Config,
        ring: Arc<Ring>,
        recovered: bool,
        ((boot_nonce, seed), access): ((u64, u64), Access),
        node: Node,
        storage: Storage,
        reports: UnboundedReceiver<Report>,
    ) -> Self {
        let identity = Identity {
            cluster: config.cluster.clone(),
            name: config.name.clone(),
            me: config.me(),
            members: configured(node.members(), &config.members),
            ring: ring.id(),
            incarnation: node.meta().incarnation,
            boot_nonce,
        };
        let (hub, events) = Hub::new(identity, node.members(), access);
        let emulator = Emulator::off(config.me(), config.emulation_seed.unwrap_or(seed));
        Engine {
            config,
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
            status_calls: Vec::new(),
            busy: 0,
            emulator,
            short: false,
            accepting: None,
            finish_by: None,
            replacing: None,
            ending: Ending::Stop,
        }
    }

    /// Serves until it is to end; gives back why, the store's threads, and what the store is to know.
    async fn run(
        mut self,
        listener: TcpListener,
        seed: u64,
        stop: &mut Receiver<String>,
    ) -> Result<(Ending, Storage, Meta), StoreError> {
        let accepting = tokio::spawn(listener::accept(listener, self.hub.clone()));
        self.accepting = Some(accepting.abort_handle());
        let mut rng = Rng::new(seed);
        for peer in self.hub.peers.values() {
            let link = peers::keep_link(self.hub.clone(), peer.clone(), rng.next_u64());
            tokio::spawn(link);
        }
        info!("node {} is ready on {}", self.config.name, self.config.listen);
        process::notify(NotifyState::Ready);
        process::notify(NotifyState::Status(SERVING));
        self.set_rules(self.config.emulation.clone());
        while !self.is_finished() {
            let wake = self.wake_at();
            tokio::select! {
                biased;
                Some(why) = stop.recv(), if self.may_stop() => self.stop(&why),
                Some(report) = self.reports.recv() => self.report(report)?,
                Some(event) = self.events.recv() => self.event(event),
                () = sleep_until(wake.into()) => {}
            }
            self.drain()?;
            self.hand_over();
            self.carry_out();
            yield_now().await;
        }
        self.end_emulation();
        self.flush().await;
        Ok((self.ending, self.storage, self.node.meta().clone()))
    }

    fn now(&self) -> Micros {
        self.start.elapsed().as_micros() as Micros
    }

    fn wake_at(&self) -> Instant {
        let far = Instant::now() + LONG;
        let wakes = [self.node.next_wake(), self.emulator.next_wake()];
        let wake = wakes.into_iter().flatten().min().map(Duration::from_micros);
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
            Report::DiskBytes(bytes) => {
                let status = self.status(bytes);
                for (client, id) in std::mem::take(&mut self.status_calls) {
                    self.reply(client, id, ReplyBody::Status(status.clone()));
                }
            }
            Report::Space(shortage) => self.space(shortage),
            Report::Failed(error) => return Err(error),
        }
        Ok(())
    }

    fn space(&mut self, shortage: Option<Shortage>) {
        let name = &self.config.name;
        match shortage {
            Some(Shortage { free_bytes, reserve_bytes }) if !self.short => {
                warn!(
                    "node {name} refuses writes: its disk has {free_bytes} bytes left and keeps \
                     {reserve_bytes} in reserve"
                );
                process::notify(NotifyState::Status("serving reads only: its disk is nearly full"));
            }
            None if self.short => {
                info!("node {name} takes writes again: its disk has room");
                process::notify(NotifyState::Status(SERVING));
            }
            _ => {}
        }
        self.short = shortage.is_some();
        self.input(Input::Space(shortage));
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Link { peer, up } => self.input(Input::Link { peer, up }),
            Event::Message { from, message, held } => {
                self.input(Input::Peer { from, message });
                drop(held);
            }
            Event::Joined { client, outbox } => {
                self.clients.insert(client, Client { outbox, under_way: HashSet::new() });
            }
            Event::Left { client } => {
                self.clients.remove(&client);
            }
            Event::Removed { why } => {
                self.ending = Ending::Removed(why);
                self.begin_end(Duration::ZERO);
            }
            Event::Call { client, call, held }
                if self.emulator.is_on() && matches!(call.body, CallBody::Data { .. }) =>
            {
                self.emulator.post(self.now(), Parcel::Call { client, call, held });
            }
            Event::Call { client, call, held } => self.call(client, call, held),
        }
    }

    fn call(&mut self, client: ClientId, call: Call, held: Held) {
        let Call { id, body } = call;
        let Some(caller) = self.clients.get_mut(&client) else { return };
        if !caller.under_way.insert(id) {
            warn!("closed the connection of a client: call {id} is under way and was made again");
            return caller.outbox.shut();
        }
        let full = [
            ("calls under way on this connection", caller.under_way.len(), MAX_CALLS),
            ("calls under way on this node", self.requests.len() + 1, MAX_ALL_CALLS),
        ];
        if let Some((what, _, limit)) = full.into_iter().find(|(_, count, limit)| count > limit) {
            self.busy += 1;
            return self.reply(client, id, busy(what, limit));
        }
        match body {
            CallBody::Data { .. } if self.finish_by.is_some() => {
                self.reply(client, id, ReplyBody::Data(Response::Refused(Refusal::Stopping)));
            }
            CallBody::Data { request, timeout_ms } => {
                self.requests.insert((client, id), held);
                self.input(Input::Client { client, id, request, timeout_ms });
            }
            CallBody::Ring => self.reply(client, id, ReplyBody::Ring(self.ring())),
            CallBody::Links => self.reply(client, id, ReplyBody::Links(self.hub.links())),
            CallBody::Status => {
                if self.status_calls.is_empty() {
                    self.storage.ask_disk_bytes();
                }
                self.status_calls.push((client, id));
            }
            CallBody::Emulate(order) => {
                let told = self.emulate(order);
                self.reply(client, id, ReplyBody::Emulated(told));
            }
            CallBody::Repair { begin, partition, peer } => {
                let told = self.repair(begin, partition, peer);
                self.reply(client, id, ReplyBody::Repair(told));
            }
            CallBody::Stop => {
                self.reply(client, id, ReplyBody::Stopping);
                self.stop("a client's request");
            }
            CallBody::Replace { old, new, address, apply } => {
                self.replace(client, id, (&old, &new, address), apply);
            }
        }
    }

    /// Answers a call; nothing happens when the client has gone.
    fn reply(&mut self, client: ClientId, id: u64, body: ReplyBody) {
        self.requests.remove(&(client, id));
        let Some(caller) = self.clients.get_mut(&client) else { return };
        caller.under_way.remove(&id);
        let emulated = self.emulator.is_on() && matches!(body, ReplyBody::Data(_));
        let wrote = matches!(body, ReplyBody::Data(Response::Written { .. }));
        let mut frame = wire::frame(&Reply { id, body });
        if frame.len() > LARGE_REPLY_BYTES && !caller.outbox.fits(frame.len() + RESERVE_BYTES) {
            self.busy += 1;
            if wrote {
                // It was done, so it cannot be refused: with the connection gone, its outcome is unknown.
                return caller.outbox.shut();
            }
            let body = busy("bytes of replies that have not been read", CLIENT_LIMITS.bytes);
            frame = wire::frame(&Reply { id, body });
        }
        if emulated {
            self.emulator.post(self.now(), Parcel::Reply { client, frame });
        } else {
            self.answer(client, frame);
        }
    }

    /// Lets a frame leave that answers a client's call of this id.
    fn answer(&mut self, client: ClientId, frame: Bytes) {
        let Some(caller) = self.clients.get_mut(&client) else { return };
        if !caller.outbox.push(frame) {
            caller.outbox.shut();
        }
    }

    fn carry_out(&mut self) {
        let mut works = Vec::new();
        for output in std::mem::take(&mut self.out) {
            match output {
                Output::Send { to, message } => {
                    let frame = wire::frame(&message);
                    for peer in to.iter().filter_map(|id| self.hub.peers.get(id)) {
                        let frame = frame.clone();
                        if self.emulator.is_on() && peer.outbox.is_open() {
                            let (peer, connection) = (peer.clone(), peer.outbox.connection());
                            let parcel = Parcel::Message { peer, connection, frame };
                            self.emulator.post(self.now(), parcel);
                        } else {
                            peer.outbox.push(frame);
                        }
                    }
                }
                Output::Reply { client, id, response } => {
                    self.reply(client, id, ReplyBody::Data(response));
                }
                Output::Store(work) => works.push(work),
                Output::Address { peer, address } => self.moved(peer, &address),
                Output::Relive => self.relive(),
                Output::Notice(notice) => journal::tell(notice, self.config, self.node.members()),
            }
        }
        self.storage.submit(works.into_iter());
    }

    /// A peer is to be reached elsewhere, as others say.
    fn moved(&self, peer: NodeId, address: &str) {
        let Some(peer) = self.hub.peers.get(&peer) else { return };
        match check_address("address", address) {
            Ok(_) => peer.moved(address),
            Err(why) => warn!("peer {} cannot be reached where it says it is: {why}", peer.name),
        }
    }

    fn may_stop(&self) -> bool {
        self.finish_by.is_none() || matches!(self.ending, Ending::Relive)
    }

    /// The daemon is to stop.
    fn stop(&mut self, why: &str) {
        if self.may_stop() {
            info!("node {} stops: {why}", self.config.name);
            process::notify(NotifyState::Stopping);
            self.ending = Ending::Stop;
            self.begin_end(FINISH);
        }
    }

    /// From now on nobody new is let in, and no request is taken; those under way have so long.
    fn begin_end(&mut self, patience: Duration) {
        self.finish_by.get_or_insert(Instant::now() + patience);
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
        }
    }

    fn is_finished(&self) -> bool {
        let idle = || self.node.is_idle() && self.status_calls.is_empty();
        self.finish_by.is_some_and(|deadline| idle() || Instant::now() >= deadline)
    }

    /// Tells every connection to end when its outbox is empty; false when all have ended.
    fn finish_connections(&self) -> bool {
        let clients = self.clients.values().map(|client| &*client.outbox);
        let peers = self.hub.peers.values().map(|peer| &peer.outbox);
        clients.chain(peers).for_each(Outbox::finish);
        !self.clients.is_empty() || self.hub.peers.values().any(|peer| peer.outbox.is_open())
    }

    /// Lets replies and messages leave, as far as they do in time.
    async fn flush(&mut self) {
        let deadline = Instant::now() + FLUSH;
        while self.finish_connections() {
            // Each connection that ends is an event.
            match timeout_at(deadline.into(), self.events.recv()).await {
                Ok(Some(Event::Left { client })) => drop(self.clients.remove(&client)),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }
}

/// All members, where they are configured to be if they are configured.
fn configured(members: &Members, configured: &Members) -> Members {
    let place = |member: &Member| match configured.get(member.id()) {
        Some(Member { address, .. }) => Member { address: address.clone(), ..member.clone() },
        None => member.clone(),
    };
    Members::new(members.iter().map(place).collect())
}

fn busy(what: &str, limit: usize) -> ReplyBody {
    let refusal = Refusal::Busy { what: what.to_owned(), limit: limit as u32 };
    ReplyBody::Data(Response::Refused(refusal))
}
