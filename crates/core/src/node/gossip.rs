//! Gossip: who is alive and who is a member. Heartbeats and the list of members spread by anti-entropy between
//! random pairs; whether another node is up is this node's own opinion.

mod detector;

use self::detector::Detector;
use super::effects::Effects;
use super::ids::RequestId;
use super::{Config, Notice};
use crate::members::{Beat, Incarnation, Member, Members, Opinion};
use crate::message::{Body, Counter, Gossip as Word};
use crate::rng::Rng;
use crate::types::{MAX_MEMBERS, Micros, NodeId, Time};

/// Most heartbeats in one answer: at about 14 bytes each, well under 16 KiB. The rest follows in later rounds.
const MAX_NEWS: usize = 1_000;
/// Members that everybody gossips with a little more often, so that separated groups find each other.
const SEEDS: usize = 3;
/// Digests that leave at once when this node has something new about members.
const EAGER: u8 = 3;
/// The steps of an exchange, told apart by the message's `op`: a digest, its answer, and what the answer asked for.
const DIGEST: RequestId = RequestId::of_wire(0);
const ANSWER: RequestId = RequestId::of_wire(1);
const LAST: RequestId = RequestId::of_wire(2);
/// A life that far ahead of the known one was not lived: nobody restarts a node so often unnoticed.
const MAX_LEAP: u64 = 1 << 32;
/// No number grows beyond this by itself.
const MAX_NUMBER: u64 = 1 << 62;

/// What is heard of the other members.
#[derive(Clone, Debug)]
pub(super) struct Gossip {
    me: NodeId,
    interval: Micros,
    timeout: Micros,
    rng: Rng,
    count: u64,
    /// Every other member, sorted.
    ids: Vec<NodeId>,
    /// What is known of the member at the same place in `ids`. Rounds walk through all of them: lists, not trees.
    peers: Vec<Peer>,
    seeds: Vec<NodeId>,
    /// Sorted.
    links: Vec<NodeId>,
    next_round: Time,
    /// Digests that leave beside the usual one in the next round.
    eager: u8,
    digest: u64,
}

#[derive(Clone, Debug)]
struct Peer {
    beat: Beat,
    detector: Detector,
    opinion: Opinion,
}

impl Peer {
    /// It has given a sign of life.
    fn revive(&mut self, now: Time, id: NodeId, fx: &mut Effects) {
        if self.opinion == Opinion::Down {
            self.detector.returned();
        }
        if self.opinion != Opinion::Up {
            self.opinion = Opinion::Up;
            fx.out.opine(id, Opinion::Up, self.detector.silence(now));
        }
    }
}

impl Gossip {
    /// Everybody is taken to be up at first, and has the timeout to prove it.
    pub(super) fn new(config: &Config, seed: u64) -> Self {
        let mut members = config.members.ids();
        members.retain(|id| config.ring.has(*id));
        let seeds = members.iter().copied().take(SEEDS).collect();
        let mut ids: Vec<NodeId> = members.into_iter().filter(|id| *id != config.me).collect();
        ids.sort_unstable();
        ids.dedup();
        let detector = Detector::new(config.gossip_interval);
        let peer = Peer { beat: Beat::default(), detector, opinion: Opinion::Up };
        Gossip {
            me: config.me,
            interval: config.gossip_interval,
            timeout: config.gossip_timeout,
            rng: Rng::new(seed ^ 0x0060_551b),
            count: 0,
            peers: vec![peer; ids.len()],
            ids,
            seeds,
            links: Vec::new(),
            next_round: Time::START,
            eager: EAGER,
            digest: config.members.digest(),
        }
    }

    /// When the next round is due.
    pub(super) fn next_wake(&self) -> Option<Time> {
        (!self.peers.is_empty()).then_some(self.next_round)
    }

    /// What this node believes of a member, and how surprising its silence is.
    pub(super) fn opinion(&self, now: Time, peer: NodeId) -> (Opinion, f64) {
        let view = |peer: &Peer| (peer.opinion, peer.detector.phi(now));
        self.peer(peer).map_or((Opinion::Up, 0.0), view)
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
    pub(super) fn heard(&mut self, now: Time, from: NodeId, fx: &mut Effects) {
        if let Some(peer) = self.peer_mut(from) {
            peer.revive(now, from, fx);
            peer.detector.sign(now);
        }
    }

    /// A round, when it is due: judge the silent ones, and send digests.
    pub(super) fn tick(&mut self, now: Time, fx: &mut Effects) {
        if now < self.next_round || self.peers.is_empty() {
            return;
        }
        self.next_round = now + self.interval;
        self.count += 1;
        let known =
            fx.local.members().get(self.me).map_or(Incarnation::NONE, |own| own.incarnation);
        if known < fx.local.meta().incarnation {
            self.announce(fx);
        }
        for (id, peer) in self.ids.iter().zip(&mut self.peers) {
            let opinion = peer.detector.opinion(now, self.timeout);
            if opinion != peer.opinion {
                peer.opinion = opinion;
                fx.out.opine(*id, opinion, peer.detector.silence(now));
            }
        }
        let to = self.partners();
        if to.is_empty() {
            return;
        }
        let beats = self.beats(fx);
        fx.out.count(Counter::GossipRounds);
        fx.out.send(to, DIGEST, Body::Gossip(Word::Digest { beats, members: self.digest }));
    }

    fn own_beat(&self, fx: &Effects) -> Beat {
        Beat { incarnation: fx.local.meta().incarnation, count: self.count }
    }

    /// Every member's newest heartbeat, sorted by id.
    fn beats(&self, fx: &Effects) -> Vec<(NodeId, Beat)> {
        let mut beats = Vec::with_capacity(self.ids.len() + 1);
        beats.extend(self.ids.iter().copied().zip(self.peers.iter().map(|peer| peer.beat)));
        let place = self.ids.partition_point(|id| *id < self.me);
        beats.insert(place, (self.me, self.own_beat(fx)));
        beats
    }

    /// A random linked peer; a seed with a probability that gives each seed a few digests a round; more when
    /// there is news about members.
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
        op: RequestId,
        word: Word,
        fx: &mut Effects,
    ) {
        match word {
            Word::Digest { beats, members } => {
                if beats.len() > MAX_MEMBERS {
                    return fx.out.count(Counter::GossipOverTheLimit);
                }
                self.answer(from, beats, members, fx);
            }
            Word::News { beats, members, digest, wanted } => {
                if beats.len().max(members.len()).max(wanted.len()) > MAX_MEMBERS {
                    return fx.out.count(Counter::GossipOverTheLimit);
                }
                self.learn_members(&members, fx);
                self.learn_beats(now, from, beats, fx);
                if op == ANSWER && (!wanted.is_empty() || digest != self.digest) {
                    let beats = self.beats_of(&wanted, fx);
                    let members = self.members_unless(digest, fx);
                    let (digest, wanted) = (self.digest, Vec::new());
                    if !beats.is_empty() || !members.is_empty() {
                        let news = Word::News { beats, members, digest, wanted };
                        fx.out.send(vec![from], LAST, Body::Gossip(news));
                    }
                }
            }
        }
    }

    /// Tells what the other does not know, and asks for what it knows better.
    fn answer(
        &mut self,
        from: NodeId,
        mut theirs: Vec<(NodeId, Beat)>,
        digest: u64,
        fx: &mut Effects,
    ) {
        // Both sorted: one walk through them finds what belongs together. Of twins the last one counts.
        theirs.sort_by_key(|(id, _)| *id);
        let mut theirs = theirs.into_iter().peekable();
        let (mut newer, mut wanted) = (Vec::new(), Vec::new());
        for (id, beat) in self.beats(fx) {
            let mut known = Beat::default();
            while let Some((other, beat)) = theirs.next_if(|(other, _)| *other <= id) {
                if other == id {
                    known = beat;
                }
            }
            if beat > known {
                let lag = if beat.incarnation > known.incarnation {
                    u64::MAX
                } else {
                    beat.count - known.count
                };
                newer.push((lag, id, beat));
            } else if known > beat {
                wanted.push(id);
            }
        }
        // The oldest of theirs first: what is left out comes in a later round.
        newer.sort_unstable_by_key(|(lag, id, _)| (u64::MAX - lag, *id));
        newer.truncate(MAX_NEWS);
        wanted.truncate(MAX_NEWS);
        let beats = newer.into_iter().map(|(_, id, beat)| (id, beat)).collect();
        let members = self.members_unless(digest, fx);
        let news = Word::News { beats, members, digest: self.digest, wanted };
        fx.out.send(vec![from], ANSWER, Body::Gossip(news));
    }

    fn beats_of(&self, wanted: &[NodeId], fx: &Effects) -> Vec<(NodeId, Beat)> {
        let beat = |id: &NodeId| match self.peer(*id) {
            Some(peer) => Some((*id, peer.beat)),
            None => (*id == self.me).then(|| (self.me, self.own_beat(fx))),
        };
        wanted.iter().filter_map(beat).collect()
    }

    /// The list of members, for one whose list is not the same.
    fn members_unless(&self, digest: u64, fx: &Effects) -> Vec<Member> {
        if digest == self.digest {
            return Vec::new();
        }
        fx.local.members().iter().cloned().collect()
    }

    fn learn_beats(
        &mut self,
        now: Time,
        from: NodeId,
        beats: Vec<(NodeId, Beat)>,
        fx: &mut Effects,
    ) {
        for (id, beat) in beats {
            if id == self.me {
                self.hear_of_myself(from, beat, fx);
                continue;
            }
            let Some(peer) = self.peer_mut(id) else {
                fx.out.count(Counter::GossipOfStrangers);
                continue;
            };
            let known = peer.beat;
            if !is_credible(beat, known.incarnation) {
                fx.out.count(Counter::ForgedLivesRefused);
                continue;
            }
            if beat > known {
                peer.beat = beat;
                peer.revive(now, id, fx);
                peer.detector.beat(now);
            }
        }
    }

    /// Others may know of a later life of this node than it lives: its disk forgot some. What that means is not
    /// this role's to say.
    fn hear_of_myself(&mut self, from: NodeId, beat: Beat, fx: &mut Effects) {
        let own = self.own_beat(fx);
        if beat <= own {
            return;
        }
        if !is_credible(beat, own.incarnation) {
            fx.out.count(Counter::ForgedLivesRefused);
            return fx.out.notice(Notice::Forged(from));
        }
        if beat.incarnation > own.incarnation {
            fx.out.hear_of_own_life(from, beat.incarnation);
        } else {
            self.count = beat.count + 1;
        }
    }

    /// Makes this node's present life known as a member's.
    fn announce(&mut self, fx: &mut Effects) {
        let Some(own) = fx.local.members().get(self.me) else { return };
        let own = Member { incarnation: fx.local.meta().incarnation, ..own.clone() };
        self.learn_members(&[own], fx);
    }

    fn learn_members(&mut self, news: &[Member], fx: &mut Effects) {
        let before: Members = fx.local.members().clone();
        let own = fx.local.meta().incarnation;
        let mut sound = Vec::new();
        for member in news {
            let id = member.id();
            let known = before.get(id);
            if known.is_none() {
                fx.out.count(Counter::GossipOfStrangers);
            }
            let beat = Beat { incarnation: member.incarnation, count: 0 };
            let credible =
                is_credible(beat, known.map_or(Incarnation::NONE, |known| known.incarnation));
            // What others say of this node's own address counts only as far as it said so itself.
            if credible && (id != self.me || member.incarnation <= own) {
                sound.push(member);
            }
        }
        if !fx.learn_members(&sound) {
            return;
        }
        self.digest = fx.local.members().digest();
        self.eager = EAGER;
        // Lists of the same members, so in the same order.
        let pairs = before.iter().zip(fx.local.members().iter());
        let moved: Vec<(NodeId, String)> = pairs
            .filter(|(known, member)| known.address != member.address)
            .map(|(_, member)| (member.id(), member.address.clone()))
            .filter(|(id, _)| *id != self.me)
            .collect();
        for (peer, address) in moved {
            fx.out.address(peer, address);
        }
    }
}

/// False for numbers that no node came to by living.
fn is_credible(beat: Beat, known: Incarnation) -> bool {
    let latest = known.0.saturating_add(MAX_LEAP).min(MAX_NUMBER);
    beat.incarnation.0 <= latest && beat.count <= MAX_NUMBER
}
