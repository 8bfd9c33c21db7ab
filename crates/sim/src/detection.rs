//! The failure detector by itself: many nodes that only gossip, on a lossy network in virtual time.
//! How long until a node that died, froze or was cut off is down in every view; how often a live
//! one is suspected; what it costs.

use std::collections::HashMap;
use std::sync::Arc;

use pixii_core::emulation::{Delay, Emulation, Verdict};
use pixii_core::members::{Incarnation, Liveness, Member, Members};
use pixii_core::message::{Body, PeerMessage};
use pixii_core::node::{Config, Done, Input, Node, Notice, Output, Work};
use pixii_core::ring::Ring;
use pixii_core::rng::Rng;
use pixii_core::store::{Meta, StoreIdentity};
use pixii_core::types::{MILLI, Micros, NodeId, Time};
use pixii_core::wire;

use super::timeline::Timeline;

/// Links come up within this time after the start, and break so soon after a death.
const LINKING: Micros = Micros::from_millis(200);
/// Nodes have learned each other's pace after this time; until then nothing is measured.
const WARM_UP: Micros = Micros::from_millis(60_000);
/// Every view has noticed a fault in this time, or never will.
const TIMEOUT: Micros = Micros::from_millis(120_000);
/// Partitions: more than nodes is of no use to gossip.
const PARTITIONS: u16 = 1_024;

/// What is tried.
#[derive(Clone, Copy, Debug)]
pub struct Trial {
    /// How many nodes.
    pub nodes: usize,
    /// For how long nothing happens, after a minute of warming up, in milliseconds of virtual time.
    pub quiet_ms: u64,
    /// The share of messages that is lost, 0 to 1.
    pub loss: f64,
    /// Time between two rounds of gossip, in milliseconds.
    pub interval_ms: u64,
    /// A silence of this length may be death, in milliseconds.
    pub timeout_ms: u64,
    /// Everything random follows from it.
    pub seed: u64,
}

/// What befalls one node at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its process ends: links to it break.
    Killed,
    /// It does nothing any more; links to it stay up.
    Frozen,
    /// Nothing passes between it and the others; links stay up.
    CutOff,
}

/// What a trial showed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Detected {
    /// Times that a live node was suspected by another one in the quiet time, and marked down.
    pub suspected: u64,
    /// See `suspected`.
    pub marked_down: u64,
    /// Bytes of gossip that a node sent per second of the quiet time, framed.
    pub bytes_per_second: f64,
    /// Each end, and how it was noticed.
    pub ends: Vec<(End, Noticed)>,
}

/// How the end of a node was noticed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Noticed {
    /// From the fault until the first and until the last of the others believed the node to be
    /// down, in milliseconds; `None` if some never did.
    pub first_ms: Option<u64>,
    /// See `first_ms`.
    pub last_ms: Option<u64>,
}

#[derive(Clone)]
enum Event {
    Wake(usize),
    Link { at: usize, peer: usize, up: bool },
    Message { from: usize, to: usize, message: Arc<PeerMessage> },
}

#[derive(Clone)]
struct Field {
    nodes: Vec<Node>,
    ids: Vec<NodeId>,
    places: HashMap<NodeId, usize>,
    /// The one that something has befallen, and what.
    victim: Option<(usize, End)>,
    wakes: Vec<Option<Time>>,
    time: Timeline<Event>,
    net: Emulation,
    rng: Rng,
    set_liveness: Vec<(Time, usize, NodeId, Liveness)>,
    bytes: u64,
}

/// Runs one trial: everybody gossips, and then each end befalls one node, each time as if it were
/// the only one.
pub fn detect(trial: &Trial) -> Detected {
    let mut field = Field::new(trial);
    field.run_to(Time::START + WARM_UP);
    field.set_liveness.clear();
    field.bytes = 0;
    let quiet = trial.quiet_ms * MILLI;
    field.run_to(Time::START + WARM_UP + quiet);
    let count = |wanted: Liveness| {
        field.set_liveness.iter().filter(|(_, _, _, liveness)| *liveness == wanted).count() as u64
    };
    let (suspected, marked_down) = (count(Liveness::Suspect), count(Liveness::Down));
    let seconds = quiet.as_f64() / 1e6;
    let bytes_per_second = field.bytes as f64 / seconds.max(1e-9) / trial.nodes as f64;
    field.set_liveness.clear();
    let ends = [End::Killed, End::Frozen, End::CutOff];
    let ends = ends.map(|end| (end, field.clone().notice(end))).to_vec();
    Detected { suspected, marked_down, bytes_per_second, ends }
}

impl Field {
    fn new(trial: &Trial) -> Self {
        let name = |at: usize| format!("n{at}");
        let members: Vec<Member> =
            (0..trial.nodes).map(|at| Member::configured(name(at), "sim:1")).collect();
        let members = Members::new(members);
        let ids: Vec<NodeId> = (0..trial.nodes).map(|at| NodeId::of(&name(at))).collect();
        let n = trial.nodes.min(3) as u8;
        let Ok(ring) = Ring::new(&ids, n, PARTITIONS) else {
            unreachable!("as many members as replicas")
        };
        let ring = Arc::new(ring);
        let mut rng = Rng::new(trial.seed);
        let node = |at: usize| {
            let identity =
                StoreIdentity { cluster: "sim".into(), name: name(at), ring: ring.digest() };
            let meta = Meta {
                incarnation: Incarnation(1),
                clean: false,
                ..Meta::new(identity, at as u64 + 1)
            };
            let config = Config {
                gossip_interval: trial.interval_ms * MILLI,
                gossip_timeout: trial.timeout_ms * MILLI,
                hint_limit_bytes: 0,
                hint_age: Micros::MAX / 2,
                repair_interval: Micros::MAX / 4,
                scrub_interval: Micros::MAX / 4,
                gc_epoch_pause: Micros::MAX / 4,
                boot_nonce: at as u64 + 1,
                ..Config::new(ids[at], ring.clone(), members.clone())
            };
            Node::new(config, meta, trial.seed ^ (at as u64) << 20)
        };
        let nodes = (0..trial.nodes).map(node).collect();
        let net = Emulation::new(Delay::Exponential(MILLI), trial.loss, 0.0, rng.next_u64());
        let mut field = Field {
            nodes,
            wakes: vec![None; trial.nodes],
            places: ids.iter().copied().zip(0..).collect(),
            ids,
            victim: None,
            time: Timeline::default(),
            net,
            rng,
            set_liveness: Vec::new(),
            bytes: 0,
        };
        for at in 0..trial.nodes {
            for peer in (0..trial.nodes).filter(|peer| *peer != at) {
                let when = Time::START + field.rng.within(LINKING);
                field.time.schedule(when, Event::Link { at, peer, up: true });
            }
        }
        field
    }

    /// Something befalls the last node, and the others are to notice.
    fn notice(mut self, end: End) -> Noticed {
        let begun = self.time.now();
        let victim = self.nodes.len() - 1;
        for other in (0..victim).filter(|_| end == End::Killed) {
            let when = begun + self.rng.within(LINKING);
            self.time.schedule(when, Event::Link { at: other, peer: victim, up: false });
        }
        self.victim = Some((victim, end));
        self.run_to(begun + TIMEOUT);
        let mut noticed: Vec<Option<Micros>> = vec![None; victim];
        for (at, who, whom, liveness) in &self.set_liveness {
            if *whom == self.ids[victim] {
                noticed[*who] = (*liveness == Liveness::Down).then_some(*at - begun);
            }
        }
        let times: Option<Vec<Micros>> = noticed.into_iter().collect();
        let bound = |pick: fn(&[Micros]) -> Option<Micros>| {
            times.as_deref().and_then(pick).map(Micros::as_millis)
        };
        Noticed {
            first_ms: bound(|times| times.iter().min().copied()),
            last_ms: bound(|times| times.iter().max().copied()),
        }
    }

    fn run_to(&mut self, end: Time) {
        while let Some(event) = self.time.next(end) {
            match event {
                // An earlier one may have taken its place.
                Event::Wake(node) if self.wakes[node] == Some(self.time.now()) => {
                    self.wakes[node] = None;
                    self.input(node, Input::Tick);
                }
                Event::Wake(_) => {}
                Event::Link { at, peer, up } => {
                    self.input(at, Input::Link { peer: self.ids[peer], up });
                }
                Event::Message { from, to, message } => {
                    let message = Arc::unwrap_or_clone(message);
                    self.input(to, Input::Peer { from: self.ids[from], message });
                }
            }
        }
    }

    fn input(&mut self, at: usize, input: Input) {
        // Cut off, it goes on by itself.
        if self.victim.is_some_and(|(victim, end)| victim == at && end != End::CutOff) {
            return;
        }
        let mut todo = vec![input];
        while let Some(input) = todo.pop() {
            let mut out = Vec::new();
            self.nodes[at].handle(self.time.now(), input, &mut out);
            for output in out {
                match output {
                    Output::Send { to, message } => self.send(at, &to, message),
                    Output::Store(Work::Write { seq, .. }) => {
                        todo.push(Input::Store(Done::Synced { seq }));
                    }
                    Output::Notice(Notice::LivenessChanged(whom, liveness, _)) => {
                        self.set_liveness.push((self.time.now(), at, whom, liveness));
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

    fn send(&mut self, from: usize, to: &[NodeId], message: PeerMessage) {
        if matches!(message.body, Body::Gossip(_)) {
            self.bytes += (wire::frame_len(&message) * to.len()) as u64;
        }
        let message = Arc::new(message);
        for id in to {
            let Some(to) = self.places.get(id).copied() else { continue };
            // Nothing passes to or from the victim, whatever has befallen it.
            if self.victim.is_some_and(|(victim, _)| victim == from || victim == to) {
                continue;
            }
            let (now, kind) = (self.time.now(), message.body.kind());
            if let Verdict::Deliver(delays) = self.net.verdict(now, self.ids[from], *id, kind) {
                for delay in delays {
                    let message = message.clone();
                    self.time
                        .schedule(self.time.now() + delay, Event::Message { from, to, message });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_view_notices_each_end_and_none_is_seen_where_there_is_none() {
        let (interval_ms, timeout_ms) = (500, 5_000);
        let trial =
            Trial { nodes: 5, quiet_ms: 120_000, loss: 0.01, interval_ms, timeout_ms, seed: 1 };
        let seen = detect(&trial);
        assert_eq!((seen.suspected, seen.marked_down), (0, 0), "{seen:?}");
        assert_eq!(seen.ends.len(), 3);
        for (end, noticed) in &seen.ends {
            assert!(noticed.first_ms.is_some_and(|first| first >= 4_000), "{end:?}: {noticed:?}");
            assert!(noticed.last_ms.is_some_and(|last| last <= 20_000), "{end:?}: {noticed:?}");
        }
        assert_eq!(seen, detect(&trial), "the same seed gives the same");
    }
}
