//! Gossip: heartbeats and the member list, spread by anti-entropy between random pairs. Liveness of
//! other nodes is decided by each node for itself.

mod detector;

use std::collections::BTreeMap;

use self::detector::Detector;
use super::ids::RequestId;
use super::io::Io;
use super::{Config, Notice};
use crate::members::{Heartbeat, Incarnation, Liveness, Member, Members};
use crate::message::{Body, Counter, Gossip as GossipMessage};
use crate::rng::Rng;
use crate::types::{MAX_MEMBERS, Micros, NodeId, Time};

/// Most heartbeats in one answer: at about 14 bytes each, well under 16 KiB. The rest follows in
/// later rounds.
const MAX_NEWER_MEMBERS: usize = 1_000;
/// Members that all others gossip with a little more often, so that separated groups find each
/// other.
const SEEDS: usize = 3;
/// Digests that leave at once when this node has something new about members.
const EAGER: u8 = 3;
/// The steps of an exchange, distinguished by the message's `request_id`: a digest, its answer, and
/// what the answer asked for.
const DIGEST: RequestId = RequestId::of_wire(0);
const ANSWER: RequestId = RequestId::of_wire(1);
const LAST: RequestId = RequestId::of_wire(2);
/// An incarnation that is this far ahead of the known one is forged: no node restarts so often
/// unnoticed.
const MAX_LEAP: u64 = 1 << 32;
/// No number grows beyond this by itself.
const MAX_NUMBER: u64 = 1 << 62;

/// Heartbeats and liveness of the other members.
#[derive(Clone, Debug)]
pub(super) struct Gossip {
    me: NodeId,
    interval: Micros,
    timeout: Micros,
    rng: Rng,
    count: u64,
    /// Every other member that has a place in the ring or is on its way out, sorted.
    ids: Vec<NodeId>,
    /// What is known of the member at the same place in `ids`. Rounds walk through all of them:
    /// lists, not trees.
    peers: Vec<Peer>,
    seeds: Vec<NodeId>,
    /// The peers whose link is up, sorted.
    links: Vec<NodeId>,
    next_round: Time,
    /// Digests that leave beside the usual one in the next round.
    eager: u8,
    digest: u64,
    /// True once this node is in a cluster. Before, silent members are no news: they are waited
    /// for.
    reports: bool,
}

#[derive(Clone, Debug)]
struct Peer {
    heartbeat: Heartbeat,
    detector: Detector,
    liveness: Liveness,
}

impl Peer {
    /// It has given a sign of life.
    fn revive(&mut self, now: Time, id: NodeId, reports: bool, io: &mut Io) {
        if self.liveness == Liveness::Down {
            self.detector.returned();
        }
        if self.liveness != Liveness::Up {
            self.change(now, id, Liveness::Up, reports, io);
        }
    }

    /// Its liveness is another one now; `reports` as in [`Gossip`].
    fn change(&mut self, now: Time, id: NodeId, liveness: Liveness, reports: bool, io: &mut Io) {
        self.liveness = liveness;
        io.out.set_liveness(id, liveness);
        if reports {
            self.report(now, id, io);
        }
    }

    fn report(&self, now: Time, id: NodeId, io: &mut Io) {
        let silence = self.detector.silence(now);
        io.out.notice(Notice::LivenessChanged(id, self.liveness, silence));
    }
}

impl Gossip {
    /// Every member counts as up at first, until the timeout has passed without a sign of life.
    pub(super) fn new(config: &Config, seed: u64, io: &mut Io) -> Self {
        let mut gossip = Gossip {
            me: config.me,
            interval: config.gossip_interval,
            timeout: config.gossip_timeout,
            rng: Rng::new(seed ^ 0x0060_551b),
            count: 0,
            peers: Vec::new(),
            ids: Vec::new(),
            seeds: Vec::new(),
            links: Vec::new(),
            next_round: Time::START,
            eager: EAGER,
            digest: 0,
            reports: false,
        };
        gossip.set_members(io);
        gossip
    }

    /// Other nodes are members from now on. What is known of those that stay is kept; those that do
    /// not are not watched any more, and so not down.
    pub(super) fn set_members(&mut self, io: &mut Io) {
        let mut seeds: Vec<NodeId> = io.local.members().ids();
        seeds.retain(|id| io.local.is_counted(*id));
        let mut ids: Vec<NodeId> = seeds.iter().copied().filter(|id| *id != self.me).collect();
        seeds.truncate(SEEDS);
        ids.sort_unstable();
        ids.dedup();
        let known: BTreeMap<NodeId, Peer> = std::mem::take(&mut self.ids)
            .into_iter()
            .zip(std::mem::take(&mut self.peers))
            .collect();
        let gone = known.iter().filter(|(id, _)| ids.binary_search(id).is_err());
        for (id, _) in gone.filter(|(_, peer)| peer.liveness != Liveness::Up) {
            io.out.set_liveness(*id, Liveness::Up);
        }
        let detector = Detector::new(self.interval);
        let new = Peer { heartbeat: Heartbeat::default(), detector, liveness: Liveness::Up };
        let peer = |id: &NodeId| known.get(id).cloned().unwrap_or_else(|| new.clone());
        (self.peers, self.ids, self.seeds) = (ids.iter().map(peer).collect(), ids, seeds);
        self.digest = io.local.members().digest();
        self.eager = EAGER;
    }

    /// When the next round is due.
    pub(super) fn next_wake(&self) -> Option<Time> {
        (!self.peers.is_empty()).then_some(self.next_round)
    }

    /// What this node believes of a member, and how surprising its silence is.
    pub(super) fn liveness(&self, now: Time, peer: NodeId) -> (Liveness, f64) {
        let view = |peer: &Peer| (peer.liveness, peer.detector.phi(now));
        self.peer(peer).map_or((Liveness::Up, 0.0), view)
    }

    fn peer(&self, id: NodeId) -> Option<&Peer> {
        self.ids.binary_search(&id).ok().and_then(|place| self.peers.get(place))
    }

    fn peer_mut(&mut self, id: NodeId) -> Option<&mut Peer> {
        self.ids.binary_search(&id).ok().and_then(|place| self.peers.get_mut(place))
    }

    /// This process did not run for `gap`: the others' silence in that time says nothing.
    pub(super) fn forgive(&mut self, gap: Micros) {
        for peer in &mut self.peers {
            peer.detector.forgive(gap);
        }
    }

    /// A link came up or went down.
    pub(super) fn link(&mut self, peer: NodeId, up: bool) {
        match (self.links.binary_search(&peer), up) {
            (Err(place), true) => self.links.insert(place, peer),
            (Ok(place), false) => drop(self.links.remove(place)),
            _ => {}
        }
    }

    /// A message of a peer has come, whatever it says.
    pub(super) fn heard(&mut self, now: Time, from: NodeId, io: &mut Io) {
        let reports = self.reports;
        if let Some(peer) = self.peer_mut(from) {
            peer.revive(now, from, reports, io);
            peer.detector.sign(now);
        }
    }

    /// A round, when it is due: judge the silent ones, and send digests.
    pub(super) fn tick(&mut self, now: Time, io: &mut Io) {
        if now < self.next_round || self.peers.is_empty() {
            return;
        }
        self.next_round = now + self.interval;
        self.count += 1;
        let known =
            io.local.members().get(self.me).map_or(Incarnation::NONE, |own| own.incarnation);
        if known < io.local.meta().incarnation {
            self.announce(io);
        }
        let joined = io.local.meta().cluster.is_some() && !self.reports;
        self.reports |= joined;
        for (id, peer) in self.ids.iter().zip(&mut self.peers) {
            let liveness = peer.detector.liveness(now, self.timeout);
            if liveness != peer.liveness {
                peer.change(now, *id, liveness, self.reports, io);
            } else if joined && liveness != Liveness::Up {
                peer.report(now, *id, io);
            }
        }
        self.ask_quiet(now, io);
        let to = self.partners();
        if to.is_empty() {
            return;
        }
        let heartbeats = self.heartbeats(io);
        io.out.count(Counter::GossipRounds);
        io.out.send(
            to,
            DIGEST,
            Body::Gossip(GossipMessage::Digest { heartbeats, members: self.digest }),
        );
    }

    /// Asks each linked peer for its heartbeat that has been silent for a while. Where most members
    /// are out of reach, chance alone may choose none of the others for longer than the timeout,
    /// and a node that can be reached would be marked down.
    fn ask_quiet(&self, now: Time, io: &mut Io) {
        for id in &self.links {
            if !self.peer(*id).is_some_and(|peer| peer.detector.is_quiet(now)) {
                continue;
            }
            let heartbeats = vec![(self.me, self.own_heartbeat(io))];
            let (members, digest, wanted) = (Vec::new(), self.digest, vec![*id]);
            let news = GossipMessage::News { heartbeats, members, digest, wanted };
            io.out.send(vec![*id], ANSWER, Body::Gossip(news));
        }
    }

    fn own_heartbeat(&self, io: &Io) -> Heartbeat {
        Heartbeat { incarnation: io.local.meta().incarnation, count: self.count }
    }

    /// Every member's newest heartbeat, sorted by id.
    fn heartbeats(&self, io: &Io) -> Vec<(NodeId, Heartbeat)> {
        let mut heartbeats = Vec::with_capacity(self.ids.len() + 1);
        heartbeats
            .extend(self.ids.iter().copied().zip(self.peers.iter().map(|peer| peer.heartbeat)));
        let place = self.ids.partition_point(|id| *id < self.me);
        heartbeats.insert(place, (self.me, self.own_heartbeat(io)));
        heartbeats
    }

    /// A random linked peer; a seed with a probability that gives each seed a few digests a round;
    /// more when there is news about members.
    fn partners(&mut self) -> Vec<NodeId> {
        let mut partners = Vec::new();
        for _ in 0..=self.eager {
            partners.extend(self.rng.pick(&self.links).copied());
        }
        self.eager = 0;
        let often = SEEDS as f64 / self.peers.len().max(1) as f64;
        if self.rng.chance(often)
            && let Some(seed) = self.rng.pick(&self.seeds).copied()
            && self.links.binary_search(&seed).is_ok()
        {
            partners.push(seed);
        }
        partners.sort_unstable();
        partners.dedup();
        partners
    }

    /// Takes a digest or its answer.
    pub(super) fn hear(
        &mut self,
        now: Time,
        from: NodeId,
        request_id: RequestId,
        message: GossipMessage,
        io: &mut Io,
    ) {
        match message {
            GossipMessage::Digest { heartbeats, members } => {
                if heartbeats.len() > MAX_MEMBERS {
                    return io.out.count(Counter::GossipOverTheLimit);
                }
                self.answer(from, heartbeats, members, io);
            }
            GossipMessage::News { heartbeats, members, digest, wanted } => {
                if heartbeats.len().max(members.len()).max(wanted.len()) > MAX_MEMBERS {
                    return io.out.count(Counter::GossipOverTheLimit);
                }
                self.hear_of_own_entry(from, &members, io);
                self.learn_members(&members, io);
                self.learn_heartbeats(now, from, heartbeats, io);
                if request_id == ANSWER && (!wanted.is_empty() || digest != self.digest) {
                    let heartbeats = self.heartbeats_of(&wanted, io);
                    let members = self.members_unless(digest, io);
                    let (digest, wanted) = (self.digest, Vec::new());
                    if !heartbeats.is_empty() || !members.is_empty() {
                        let news = GossipMessage::News { heartbeats, members, digest, wanted };
                        io.out.send(vec![from], LAST, Body::Gossip(news));
                    }
                }
            }
        }
    }

    /// Sends what the other node does not know, and requests what it knows better.
    fn answer(
        &mut self,
        from: NodeId,
        mut theirs: Vec<(NodeId, Heartbeat)>,
        digest: u64,
        io: &mut Io,
    ) {
        // Both sorted: one walk through them finds what belongs together. Of twins the last one
        // counts.
        theirs.sort_by_key(|(id, _)| *id);
        let mut theirs = theirs.into_iter().peekable();
        let (mut newer, mut wanted) = (Vec::new(), Vec::new());
        for (id, heartbeat) in self.heartbeats(io) {
            let mut known = Heartbeat::default();
            while let Some((other, heartbeat)) = theirs.next_if(|(other, _)| *other <= id) {
                if other == id {
                    known = heartbeat;
                }
            }
            if heartbeat > known {
                let lag = if heartbeat.incarnation > known.incarnation {
                    u64::MAX
                } else {
                    heartbeat.count - known.count
                };
                newer.push((lag, id, heartbeat));
            } else if known > heartbeat {
                wanted.push(id);
            }
        }
        // The oldest of theirs first: what is left out comes in a later round.
        newer.sort_unstable_by_key(|(lag, id, _)| (u64::MAX - lag, *id));
        newer.truncate(MAX_NEWER_MEMBERS);
        wanted.truncate(MAX_NEWER_MEMBERS);
        let heartbeats = newer.into_iter().map(|(_, id, heartbeat)| (id, heartbeat)).collect();
        let members = self.members_unless(digest, io);
        let news = GossipMessage::News { heartbeats, members, digest: self.digest, wanted };
        io.out.send(vec![from], ANSWER, Body::Gossip(news));
    }

    fn heartbeats_of(&self, wanted: &[NodeId], io: &Io) -> Vec<(NodeId, Heartbeat)> {
        let heartbeat = |id: &NodeId| match self.peer(*id) {
            Some(peer) => Some((*id, peer.heartbeat)),
            None => (*id == self.me).then(|| (self.me, self.own_heartbeat(io))),
        };
        wanted.iter().filter_map(heartbeat).collect()
    }

    /// The list of members, for one whose list is not the same.
    fn members_unless(&self, digest: u64, io: &Io) -> Vec<Member> {
        if digest == self.digest {
            return Vec::new();
        }
        io.local.members().iter().cloned().collect()
    }

    fn learn_heartbeats(
        &mut self,
        now: Time,
        from: NodeId,
        heartbeats: Vec<(NodeId, Heartbeat)>,
        io: &mut Io,
    ) {
        for (id, heartbeat) in heartbeats {
            if id == self.me {
                self.hear_of_myself(from, heartbeat, io);
                continue;
            }
            let reports = self.reports;
            let Some(peer) = self.peer_mut(id) else {
                io.out.count(Counter::GossipOfStrangers);
                continue;
            };
            let known = peer.heartbeat;
            if !is_credible(heartbeat, known.incarnation) {
                io.out.count(Counter::ForgedIncarnationsRefused);
                continue;
            }
            if heartbeat > known {
                peer.heartbeat = heartbeat;
                peer.revive(now, id, reports, io);
                peer.detector.heartbeat(now);
            }
        }
    }

    /// Others may know of a later incarnation of this node than the present one, if its disk is an
    /// old one. The role `identity` decides what that means.
    fn hear_of_myself(&mut self, from: NodeId, heartbeat: Heartbeat, io: &mut Io) {
        let own = self.own_heartbeat(io);
        if heartbeat <= own {
            return;
        }
        if !is_credible(heartbeat, own.incarnation) {
            io.out.count(Counter::ForgedIncarnationsRefused);
            return io.out.notice(Notice::Forged(from));
        }
        if heartbeat.incarnation > own.incarnation {
            io.out.hear_of_own_incarnation(from, heartbeat.incarnation);
        } else {
            self.count = heartbeat.count + 1;
        }
    }

    /// A list of members may have an entry of a later incarnation of this node: one that nobody
    /// heard a heartbeat of since.
    fn hear_of_own_entry(&mut self, from: NodeId, members: &[Member], io: &mut Io) {
        let own = io.local.meta().incarnation;
        let entry = members.iter().find(|member| member.id() == self.me);
        let entry = entry.filter(|entry| entry.incarnation > own);
        if let Some(Member { incarnation, .. }) = entry
            && is_credible(Heartbeat { incarnation: *incarnation, count: 0 }, own)
        {
            io.out.hear_of_own_incarnation(from, *incarnation);
        }
    }

    /// Makes this node's present incarnation known as a member's.
    fn announce(&mut self, io: &mut Io) {
        let Some(own) = io.local.members().get(self.me) else { return };
        let own = Member { incarnation: io.local.meta().incarnation, ..own.clone() };
        self.learn_members(&[own], io);
    }

    fn learn_members(&mut self, news: &[Member], io: &mut Io) {
        let before: Members = io.local.members().clone();
        let own = io.local.meta().incarnation;
        let mut sound = Vec::new();
        for member in news {
            let id = member.id();
            let known = before.get(id);
            if known.is_none() {
                io.out.count(Counter::GossipOfStrangers);
            }
            let heartbeat = Heartbeat { incarnation: member.incarnation, count: 0 };
            let credible =
                is_credible(heartbeat, known.map_or(Incarnation::NONE, |known| known.incarnation));
            // What others say of this node's own address counts only as far as it said so itself.
            if credible && (id != self.me || member.incarnation <= own) {
                sound.push(member);
            }
        }
        if !io.learn_members(&sound) {
            return;
        }
        self.digest = io.local.members().digest();
        self.eager = EAGER;
        // Lists of the same members, so in the same order.
        let pairs = before.iter().zip(io.local.members().iter());
        let moved: Vec<(NodeId, String)> = pairs
            .filter(|(known, member)| known.address != member.address)
            .map(|(_, member)| (member.id(), member.address.clone()))
            .filter(|(id, _)| *id != self.me)
            .collect();
        for (peer, address) in moved {
            io.out.address(peer, address);
        }
    }
}

/// False for numbers that no node came to by living.
fn is_credible(heartbeat: Heartbeat, known: Incarnation) -> bool {
    let latest = known.0.saturating_add(MAX_LEAP).min(MAX_NUMBER);
    heartbeat.incarnation.0 <= latest && heartbeat.count <= MAX_NUMBER
}
