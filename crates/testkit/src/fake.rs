//! A cluster of fake nodes in this process: the real wire protocol, real clocks, one map for all
//! nodes.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::BytesMut;
use pixii_core::causal::{Actor, ActorEpoch, Context, Object, Version};
use pixii_core::members::{Incarnation, Liveness, Member, Members};
use pixii_core::message::{
    Blocked, Call, CallBody, ComparisonFault, Counter, DrainRejection, EmulateRejection, Gauges,
    LinksReport, LossRejection, PairStatus, PeerRepair, PeerStatus, PlanRejection, Rejection,
    RepairCounts, RepairRejection, RepairReport, RepairStatus, ReplaceRejection, Reply, ReplyBody,
    Request, Response, RingReport, SampleReport, StatusReport, TombstoneGcStatus, WriteRule,
};
use pixii_core::ring::Ring;
use pixii_core::types::{Blob, Key, NodeId, Partition, WriteId};
use pixii_core::wire::{self, Hello, MAX_FRAME_BYTES, PREAMBLE_BYTES, Welcome};

/// How a node treats requests for data.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// Carries out every request.
    Serve,
    /// The same as `Serve`, by a program that speaks only the oldest supported protocol.
    Old,
    /// Rejects every request with this reason.
    Refuse(Rejection),
    /// Closes the connection at the next request, which it carries out first if true; then it
    /// serves.
    CutOnce(bool),
    /// Sends no answer, and leaves the connection open.
    Silent,
    /// Answers that the outcome is unknown.
    Unknown,
    /// Answers the request with this number, counted from 1, and those behind it on its connection
    /// only after this time; serves all others at once.
    StallAt(u64, Duration),
}

struct Node {
    name: String,
    behaviour: Mutex<Behaviour>,
    queried: AtomicU64,
    given_up: AtomicU64,
    stopped: AtomicBool,
    kept: Mutex<BTreeMap<String, [u64; 3]>>,
    compared: AtomicU64,
    open: Mutex<Vec<TcpStream>>,
}

struct World {
    ring: Ring,
    report: RingReport,
    nodes: Vec<Node>,
    data: Mutex<BTreeMap<Key, Object>>,
    writes: Mutex<HashMap<WriteId, u64>>,
    actor_epoch: AtomicU64,
}

/// The cluster of fake nodes; dropping it ends all of them.
pub struct Fake {
    world: Arc<World>,
    limiter: Mutex<Vec<Option<JoinHandle<()>>>>,
}

impl Fake {
    /// Starts `count` nodes n1, n2, ... with `n` replicas and 16 partitions.
    pub fn start(count: usize, n: u8) -> Self {
        let listeners: Vec<TcpListener> =
            (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let address = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
        let members: Vec<Member> = (1..)
            .zip(&listeners)
            .map(|(number, l)| Member::configured(format!("n{number}"), address(l)))
            .collect();
        let node = |member: &Member| Node {
            name: member.name.clone(),
            behaviour: Mutex::new(Behaviour::Serve),
            queried: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            kept: Mutex::default(),
            compared: AtomicU64::new(0),
            open: Mutex::new(Vec::new()),
        };
        let nodes = members.iter().map(node).collect();
        let members = Members::new(members);
        let ring = Ring::new(&members.ids(), n, 16).unwrap();
        let world = Arc::new(World {
            ring: ring.clone(),
            report: RingReport { members, ring, r: 1, w: 1, strict: false, avoided: Vec::new() },
            nodes,
            data: Mutex::default(),
            writes: Mutex::default(),
            actor_epoch: AtomicU64::new(1),
        });
        let limiter = listeners
            .into_iter()
            .enumerate()
            .map(|(at, listener)| {
                let world = Arc::clone(&world);
                Some(thread::spawn(move || accept(&world, at, &listener)))
            })
            .collect();
        Fake { world, limiter: Mutex::new(limiter) }
    }

    /// The address of node `at`, counted from 0.
    pub fn address(&self, at: usize) -> String {
        self.world.report.members.iter().nth(at).unwrap().address.clone()
    }

    /// Sets how node `at` behaves from now on.
    pub fn behave(&self, at: usize, behaviour: Behaviour) {
        *self.world.nodes[at].behaviour.lock().unwrap() = behaviour;
    }

    /// Sets how all nodes behave from now on.
    pub fn all_behave(&self, behaviour: &Behaviour) {
        (0..self.world.nodes.len()).for_each(|at| self.behave(at, behaviour.clone()));
    }

    /// Makes node `at` report hints for a member: their number, their bytes, and their age in
    /// milliseconds.
    pub fn keeps(&self, at: usize, target: &str, amounts: [u64; 3]) {
        self.world.nodes[at].kept.lock().unwrap().insert(target.into(), amounts);
    }

    /// Closes the port and the connections of node `at`.
    pub fn kill(&self, at: usize) {
        let node = &self.world.nodes[at];
        node.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address(at));
        // Once its thread has ended, the port is closed.
        if let Some(socket) = self.limiter.lock().unwrap()[at].take() {
            socket.join().unwrap();
        }
        for stream in node.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Makes a killed node `at` listen again at the same address.
    pub fn revive(&self, at: usize) {
        self.world.nodes[at].stopped.store(false, Ordering::SeqCst);
        let listener = TcpListener::bind(self.address(at)).unwrap();
        let world = Arc::clone(&self.world);
        let socket = thread::spawn(move || accept(&world, at, &listener));
        self.limiter.lock().unwrap()[at] = Some(socket);
    }

    /// Whether node `at` has been ordered to stop.
    pub fn is_stopped(&self, at: usize) -> bool {
        self.world.nodes[at].stopped.load(Ordering::SeqCst)
    }

    /// Number of requests for data that node `at` has received.
    pub fn queried(&self, at: usize) -> u64 {
        self.world.nodes[at].queried.load(Ordering::SeqCst)
    }

    /// Number of calls that clients of node `at` have given up.
    pub fn given_up(&self, at: usize) -> u64 {
        self.world.nodes[at].given_up.load(Ordering::SeqCst)
    }

    /// The indices of the owners of a key, in their order.
    pub fn owners(&self, key: &Key) -> Vec<usize> {
        let ids = self.world.report.members.ids();
        let place = |owner: &NodeId| ids.iter().position(|id| id == owner).unwrap();
        self.world.ring.owners(self.world.ring.partition(key)).iter().map(place).collect()
    }

    /// How often each put was carried out, one number per write id.
    pub fn repeats(&self) -> Vec<u64> {
        self.world.writes.lock().unwrap().values().copied().collect()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        (0..self.world.nodes.len()).for_each(|at| self.kill(at));
    }
}

fn accept(world: &Arc<World>, at: usize, listener: &TcpListener) {
    for stream in listener.incoming() {
        let node = &world.nodes[at];
        let mut open = node.open.lock().unwrap();
        if node.stopped.load(Ordering::SeqCst) {
            return;
        }
        let stream = stream.unwrap();
        open.push(stream.try_clone().unwrap());
        let world = Arc::clone(world);
        thread::spawn(move || converse(&world, at, stream));
    }
}

/// Serves one connection until either side closes it.
fn converse(world: &World, at: usize, mut stream: TcpStream) -> Option<()> {
    let mut preamble = [0; PREAMBLE_BYTES];
    stream.read_exact(&mut preamble).ok()?;
    let mut protocol = wire::check_preamble(&preamble).ok()?;
    let mut offered = wire::preamble();
    if matches!(*world.nodes[at].behaviour.lock().unwrap(), Behaviour::Old) {
        protocol = wire::OLDEST_PROTOCOL;
        offered[PREAMBLE_BYTES - 2..].copy_from_slice(&protocol.to_be_bytes());
    }
    stream.write_all(&offered).ok()?;
    let mut input = BytesMut::new();
    assert_eq!(wire::decode::<Hello>(&next(&mut stream, &mut input)?).unwrap(), Hello::Client);
    let name = world.nodes[at].name.clone();
    stream.write_all(&wire::frame(&Welcome::Accepted { cluster: "fake".into(), name })).ok()?;
    loop {
        let call: Call = wire::decode(&next(&mut stream, &mut input)?).unwrap();
        let body = match call.body {
            CallBody::Ring => ReplyBody::Ring(world.report.clone()),
            CallBody::Status => ReplyBody::Status(status(world, at).into()),
            CallBody::Links => ReplyBody::Links(links(world, at)),
            CallBody::Emulate(_) => {
                ReplyBody::Emulated(Err(EmulateRejection::Text("this node is a fake".into())))
            }
            CallBody::Replace { .. } => {
                ReplyBody::Replace(Err(ReplaceRejection::Text("this node is a fake".into())))
            }
            CallBody::Plan(_) => {
                let why = PlanRejection::Text("this node is a fake".into());
                ReplyBody::Plan(Box::new(Err(why)))
            }
            CallBody::GiveUp { .. } => {
                world.nodes[at].given_up.fetch_add(1, Ordering::SeqCst);
                if matches!(*world.nodes[at].behaviour.lock().unwrap(), Behaviour::Silent) {
                    continue;
                }
                ReplyBody::GivenUp
            }
            CallBody::AcceptLoss => {
                ReplyBody::LossAccepted(Err(LossRejection::Text("this node is a fake".into())))
            }
            CallBody::Drain(_) => {
                ReplyBody::Drain(Err(DrainRejection::Text("this node is a fake".into())))
            }
            CallBody::Repair { begin, partition, peer } => {
                ReplyBody::Repair(repair(world, at, begin, partition, peer))
            }
            CallBody::Samples => {
                let name = world.nodes[at].name.clone();
                ReplyBody::Samples(SampleReport { name, trips: Vec::new() })
            }
            CallBody::Stop => {
                world.nodes[at].stopped.store(true, Ordering::SeqCst);
                ReplyBody::Stopping
            }
            CallBody::Data { request, .. } => {
                let queried = 1 + world.nodes[at].queried.fetch_add(1, Ordering::SeqCst);
                let behaviour = world.nodes[at].behaviour.lock().unwrap().clone();
                ReplyBody::Data(match behaviour {
                    Behaviour::StallAt(nth, time) => {
                        if queried == nth {
                            thread::sleep(time);
                        }
                        serve(world, request)
                    }
                    Behaviour::Serve | Behaviour::Old => serve(world, request),
                    Behaviour::Refuse(rejection) => Response::Refused(rejection),
                    Behaviour::Silent => continue,
                    Behaviour::Unknown => {
                        Response::Unknown { acknowledged: 0, needed: 1, timeout_ms: 1 }
                    }
                    Behaviour::CutOnce(done) => {
                        *world.nodes[at].behaviour.lock().unwrap() = Behaviour::Serve;
                        if done {
                            serve(world, request);
                        }
                        let _ = stream.shutdown(Shutdown::Both);
                        return None;
                    }
                })
            }
        };
        stream.write_all(&Reply { id: call.id, body }.frame(protocol)).ok()?;
    }
}

fn next(stream: &mut TcpStream, input: &mut BytesMut) -> Option<bytes::Bytes> {
    loop {
        if let Some(frame) = wire::take_frame(input, MAX_FRAME_BYTES).unwrap() {
            return Some(frame);
        }
        let mut bytes = [0; 65_536];
        match stream.read(&mut bytes) {
            Ok(count) if count > 0 => input.extend_from_slice(&bytes[..count]),
            _ => return None,
        }
    }
}

/// Makes a put, once for each write id.
fn put(
    world: &World,
    object: &mut Object,
    key: Key,
    (seen, value, write): (Context, Blob, WriteId),
) -> Response {
    *world.writes.lock().unwrap().entry(write).or_default() += 1;
    let same = object.values().find(|(_, v)| v.write == write).map(|(dot, _)| dot);
    let dot = same.unwrap_or_else(|| {
        let actor_epoch = ActorEpoch(world.actor_epoch.fetch_add(1, Ordering::SeqCst));
        let (next, dot) =
            object.update(&seen, Actor { store: 1, actor_epoch }, Version { write, value });
        *object = next;
        dot
    });
    let context = wire::seal(&key, &object.context_of_writer(&seen, dot));
    Response::Written { dot: Some(dot), context, siblings: object.len() as u32 }
}

fn serve(world: &World, request: Request) -> Response {
    let mut data = world.data.lock().unwrap();
    let seen = |key: &Key, context: &Option<_>| {
        context.as_ref().map_or(Some(Context::default()), |sealed| wire::unseal(key, sealed))
    };
    match request {
        Request::Get { key, .. } => {
            let object = data.get(&key).cloned().unwrap_or_default();
            let values = object.values().map(|(_, version)| version.value.clone()).collect();
            let context = wire::seal(&key, &object.context());
            Response::Found { values, context, answered: 1 }
        }
        Request::Put { key, value, context, write, .. }
        | Request::PutAgain { key, value, context, write, .. } => {
            let Some(seen) = seen(&key, &context) else {
                return Response::Refused(Rejection::BadContext);
            };
            put(world, data.entry(key.clone()).or_default(), key, (seen, value, write))
        }
        Request::Decide { key, value, rule, write, .. } => {
            let object = data.entry(key.clone()).or_default();
            let (values, seen) = (object.len() as u32, object.context());
            let holds = match &rule {
                WriteRule::Cover => values < 2,
                WriteRule::IfAbsent => values == 0,
                WriteRule::IfContext(sealed) => wire::unseal(&key, sealed)
                    .is_some_and(|given| seen.dots().iter().all(|dot| given.covers(*dot))),
            };
            match (holds, value) {
                (true, Some(value)) => put(world, object, key, (seen, value, write)),
                (true, None) if values == 0 => Response::Refused(Rejection::Absent),
                (true, None) => {
                    *object = object.discard(&seen);
                    let context = wire::seal(&key, &seen);
                    Response::Written { dot: None, context, siblings: 0 }
                }
                (false, _) => Response::Refused(match rule {
                    WriteRule::Cover => Rejection::Conflict(values),
                    WriteRule::IfAbsent => Rejection::Exists,
                    WriteRule::IfContext(_) => Rejection::Changed,
                }),
            }
        }
        Request::Delete { key, context, .. } => {
            let Some(seen) = seen(&key, &context) else {
                return Response::Refused(Rejection::BadContext);
            };
            let object = data.entry(key.clone()).or_default();
            *object = object.discard(&seen);
            let (context, siblings) = (wire::seal(&key, &seen), object.len() as u32);
            Response::Written { dot: None, context, siblings }
        }
        Request::Keys { partition, after, .. } => {
            // Two keys per page, so that every listing needs many pages.
            let wanted = |key: &&Key| {
                world.ring.partition(key) == partition && after.as_ref().is_none_or(|a| *key > a)
            };
            let mut keys: Vec<Key> = data.keys().filter(wanted).take(3).cloned().collect();
            let more = keys.len() == 3;
            keys.truncate(2);
            Response::Keys { keys, more }
        }
    }
}

/// Reports two more pairs as equal at each call, with one object pulled for each; a stopped member
/// is unreachable.
fn repair(
    world: &World,
    at: usize,
    begin: bool,
    partition: Option<Partition>,
    peer: Option<NodeId>,
) -> Result<RepairReport, RepairRejection> {
    let (me, members) = (&world.nodes[at], &world.report.members);
    if let Some(Partition(given @ 16..)) = partition {
        return Err(RepairRejection::Partition { given, partitions: 16 });
    }
    let stopped = |id: NodeId| {
        let node = world.nodes.iter().find(|node| NodeId::of(&node.name) == id).unwrap();
        node.stopped.load(Ordering::SeqCst)
    };
    let before = if begin { 0 } else { me.compared.load(Ordering::SeqCst) };
    let mut pairs = Vec::new();
    for partition in (0..16).map(Partition).filter(|one| partition.is_none_or(|p| p == *one)) {
        let owners = world.ring.owners(partition);
        let own = NodeId::of(&me.name);
        let others = owners.iter().filter(|owner| owners.contains(&own) && **owner != own);
        for peer in others.filter(|owner| peer.is_none_or(|peer| peer == **owner)) {
            let equal = !stopped(*peer) && (pairs.len() as u64) < before;
            pairs.push(PairStatus {
                partition,
                peer: *peer,
                equal_ms: equal.then_some(1_200),
                pending: !equal,
                failing: None,
                pulled: 1,
                pushed: 0,
                bytes: 100,
            });
        }
    }
    me.compared.store(before + 2, Ordering::SeqCst);
    let done = before.min(pairs.len() as u64);
    let counts =
        RepairCounts { objects_pulled: done, bytes_pulled: 100 * done, ..RepairCounts::default() };
    let unreachable = members.ids().into_iter().filter(|id| stopped(*id)).collect();
    Ok(RepairReport { name: me.name.clone(), pairs, unreachable, unread: 0, damaged: 0, counts })
}

fn links(world: &World, at: usize) -> LinksReport {
    let others = world.report.members.iter().filter(|other| other.name != world.nodes[at].name);
    let peers = others.map(|other| (other.id(), Some(wire::OLDEST_PROTOCOL))).collect();
    LinksReport { secret: false, protocol: wire::PROTOCOL, peers }
}

fn status(world: &World, at: usize) -> StatusReport {
    let me = &world.nodes[at].name;
    let peers = world.report.members.iter().filter(|member| member.name != *me);
    let kept = world.nodes[at].kept.lock().unwrap();
    let peer = |member: &Member| {
        let [hints, hint_bytes, hint_age_ms] = kept.get(&member.name).copied().unwrap_or_default();
        PeerStatus {
            id: member.id(),
            name: member.name.clone(),
            address: member.address.clone(),
            up: true,
            liveness: Liveness::Up,
            phi_hundredths: 12,
            latency_us: Some(1_500),
            hints,
            hint_bytes,
            hint_age_ms,
            dropped: 0,
            repair: PeerRepair {
                shared: 8,
                equal: 8,
                oldest_ms: Some(42_000),
                ..PeerRepair::default()
            },
        }
    };
    StatusReport {
        cluster: "fake".into(),
        name: me.clone(),
        version: "0.0.0".into(),
        store: 7,
        incarnation: Incarnation(1),
        recovered: false,
        serving: true,
        read_ineligible: 0,
        uptime_ms: 1_234,
        partitions: 16,
        disk_bytes: 4_096,
        peers: peers.map(peer).collect(),
        hint_limit_bytes: 1 << 30,
        emulated: Vec::new(),
        counters: vec![(Counter::PutsAcknowledged, 3)],
        repair: RepairStatus {
            unread: 1,
            damaged: 2,
            pending: 3,
            failing: 4,
            example: Some((
                Partition(7),
                NodeId::of("n2"),
                ComparisonFault::NoAnswer { ms: 10_000 },
            )),
        },
        tombstone_gc: TombstoneGcStatus {
            keys: 5,
            blocked: 1,
            example: Some((Partition(7), Blocked::Away { member: "n2".into() })),
        },
        gauges: Gauges::default(),
        other_rings: Vec::new(),
        complaints: Vec::new(),
    }
}
