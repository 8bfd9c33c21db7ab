//! The identity of this node: a founder of a new cluster, a member that comes back, or one whose
//! disk was lost or rolled back. Until its peers have answered, it issues no dot and answers no
//! client.

use std::collections::{BTreeMap, BTreeSet};

use super::ids::{RequestId, SyncSeq};
use super::io::Io;
use super::{Config, Notice};
use crate::members::{Cluster, Incarnation, IncarnationId};
use crate::message::{Body, Counter, Rejection};
use crate::types::{Micros, NodeId, Time};

/// A peer that has not answered is queried again after this time.
const ROUND: Micros = Micros::from_millis(200);
/// Time for the other peers, once one has answered.
const GRACE: Micros = Micros::from_millis(1_000);
/// Time for any peer to answer.
const ALONE: Micros = Micros::from_millis(3_000);

/// A member that has not answered for this long is reported: the founding of a cluster waits for
/// all.
const SILENCE_REPORTED_AFTER: Micros = Micros::from_millis(1_000);

/// What this node knows of its own identity.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    me: NodeId,
    bootstrap: bool,
    nonce: u64,
    started: Option<Time>,
    /// True once the members that the founding waits for were reported.
    complained: bool,
    next_round: Option<Time>,
    links: BTreeSet<NodeId>,
    /// Those of them that have not answered since their link came up.
    unanswered: BTreeSet<NodeId>,
    /// What each peer has answered in this incarnation.
    heard: BTreeMap<NodeId, Heard>,
    /// The cluster of a peer, while this node is in none.
    met: Option<Cluster>,
    /// Peers of another cluster, and its id.
    foreign: BTreeMap<NodeId, u64>,
    /// A later incarnation of this node that a peer reported before this one had settled.
    rumour: Option<(IncarnationId, NodeId)>,
    /// True once a peer has reported a later incarnation after this one had settled.
    doubted: bool,
    /// Set when all is decided: settled when this mark is durable.
    decided: Option<SyncSeq>,
}

#[derive(Clone, Debug)]
struct Heard {
    seen: Option<IncarnationId>,
    birth: u64,
    /// Whether it is in a cluster.
    member: bool,
}

impl Identity {
    pub(super) fn new(config: &Config) -> Self {
        Identity {
            me: config.me,
            bootstrap: config.bootstrap,
            nonce: config.boot_nonce,
            started: None,
            complained: false,
            next_round: Some(Time::START),
            links: BTreeSet::new(),
            unanswered: BTreeSet::new(),
            heard: BTreeMap::new(),
            met: None,
            foreign: BTreeMap::new(),
            rumour: None,
            doubted: false,
            decided: None,
        }
    }

    /// True if the peer is of another cluster: its messages are ignored.
    pub(super) fn is_foreign(&self, peer: NodeId) -> bool {
        self.foreign.contains_key(&peer)
    }

    /// The peers of another cluster, and its id.
    pub(super) fn foreign(&self) -> &BTreeMap<NodeId, u64> {
        &self.foreign
    }

    /// Why the node does not serve yet, if it does not.
    pub(super) fn rejection(&self, io: &Io) -> Option<Rejection> {
        (!io.local.is_settled()).then(|| self.starting(io))
    }

    /// The rejection of a node that does not serve yet.
    pub(super) fn starting(&self, io: &Io) -> Rejection {
        let (heard, peers) = self.heard(io);
        Rejection::Starting { heard, peers }
    }

    /// How many peers have answered, and how many there are.
    pub(super) fn heard(&self, io: &Io) -> (u32, u32) {
        let peers = || self.peers(io);
        let heard = peers().filter(|peer| self.heard.contains_key(peer)).count();
        (heard as u32, peers().count() as u32)
    }

    /// True while the link to the peer is up.
    pub(super) fn is_linked(&self, peer: NodeId) -> bool {
        self.links.contains(&peer)
    }

    /// When the next round of introductions is due.
    pub(super) fn next_wake(&self) -> Option<Time> {
        self.next_round
    }

    /// The other members that have a place in the ring.
    fn peers<'a>(&self, io: &'a Io) -> impl Iterator<Item = NodeId> + use<'a> {
        let me = self.me;
        io.local.ring().members().iter().map(|member| member.id).filter(move |id| *id != me)
    }

    /// Another ring is in force: it is made known, and confirmed by those that answer.
    pub(super) fn set_ring(&mut self, now: Time, io: &mut Io) {
        self.unanswered = self.links.clone();
        self.introduce(self.links.iter().copied().collect(), io);
        self.next_round = Some(now + ROUND);
        self.decide(now, io);
    }

    /// A link came up or went down. This incarnation is introduced to every peer, even after it has
    /// settled.
    pub(super) fn link(&mut self, now: Time, peer: NodeId, up: bool, io: &mut Io) {
        if up {
            self.links.insert(peer);
            self.unanswered.insert(peer);
            self.introduce(vec![peer], io);
            self.next_round.get_or_insert(now + ROUND);
        } else {
            self.links.remove(&peer);
            self.unanswered.remove(&peer);
        }
        self.decide(now, io);
    }

    /// Sends introductions again where no answer came, and decides with the answers that are there
    /// when time is up. Returns the peers that can be reached and have not answered, when they are
    /// queried again.
    pub(super) fn tick(&mut self, now: Time, io: &mut Io) -> Option<Vec<NodeId>> {
        if self.next_round.is_none_or(|due| due > now) {
            return None;
        }
        let lost = io.local.meta().cluster.is_none();
        let satisfied = |heard: &Heard| !lost || heard.member;
        let wanting = |peer: &NodeId| {
            let satisfied = self.heard.get(peer).is_some_and(satisfied);
            !self.is_foreign(*peer) && (!satisfied || self.unanswered.contains(peer))
        };
        let wanting: Vec<NodeId> = self.links.iter().copied().filter(wanting).collect();
        // A link that comes up begins the rounds anew.
        let done = wanting.is_empty() && io.local.is_settled();
        self.next_round = (!done).then_some(now + ROUND);
        let silent = self.unanswered.iter().copied().filter(|peer| !self.is_foreign(*peer));
        let silent: Vec<NodeId> = silent.collect();
        self.introduce(wanting, io);
        self.decide(now, io);
        (!silent.is_empty()).then_some(silent)
    }

    /// This incarnation; its number is higher than it began with once a later one was heard of.
    fn incarnation(&self, io: &Io) -> IncarnationId {
        IncarnationId { incarnation: io.local.meta().incarnation, nonce: self.nonce }
    }

    /// Names the introductions of this incarnation under the ring in force: the answer to an
    /// earlier one does not confirm it.
    fn id(&self, io: &Io) -> RequestId {
        RequestId::of_wire(self.nonce ^ io.local.ring_id().digest)
    }

    /// True if this names the introductions under the ring in force.
    pub(super) fn is_own(&self, request_id: RequestId, io: &Io) -> bool {
        request_id == self.id(io)
    }

    /// Notifies peers of this incarnation and its ring.
    pub(super) fn introduce(&self, to: Vec<NodeId>, io: &mut Io) {
        let cluster = io.local.meta().cluster.as_ref().map(|cluster| cluster.id);
        let (incarnation, ring) = (self.incarnation(io), io.local.ring_id());
        io.out.send(to, self.id(io), Body::Introduce { incarnation, cluster, ring });
    }

    /// Takes an introduction, or the answer to the own one.
    pub(super) fn hear(
        &mut self,
        now: Time,
        from: NodeId,
        request_id: RequestId,
        body: Body,
        io: &mut Io,
    ) {
        match body {
            Body::Introduce { incarnation, cluster, .. } => {
                self.judge_cluster(from, cluster, io);
                self.answer(from, request_id, incarnation, io);
                if cluster.is_some() && io.local.meta().cluster.is_none() {
                    self.introduce(vec![from], io);
                }
            }
            // The answer to an introduction of an earlier incarnation says nothing about this one.
            Body::Known { seen, birth, cluster } if request_id == self.id(io) => {
                self.unanswered.remove(&from);
                self.judge_cluster(from, cluster.as_ref().map(|cluster| cluster.id), io);
                if self.is_foreign(from) {
                    return;
                }
                if io.local.is_settled() {
                    io.local.witness();
                    self.doubt(from, seen, io);
                }
                self.heard.insert(from, Heard { seen, birth, member: cluster.is_some() });
                if io.local.meta().cluster.is_none() {
                    self.met = self.met.take().or(cluster);
                }
                self.decide(now, io);
            }
            _ => {}
        }
    }

    /// Gossip reports a later incarnation of this node: it counts like a peer that has seen it.
    pub(super) fn hear_of_own_incarnation(
        &mut self,
        from: NodeId,
        incarnation: Incarnation,
        io: &mut Io,
    ) {
        // Of which boot it was is not reported, but it was not this one.
        let seen = IncarnationId { incarnation, nonce: !self.nonce };
        if !self.incarnation(io).is_outdated_by(seen) {
            return;
        }
        io.out.count(Counter::OwnIncarnationRaised);
        if !io.local.is_settled() {
            let later = |(known, _): &(IncarnationId, NodeId)| known.incarnation >= incarnation;
            if !self.rumour.as_ref().is_some_and(later) {
                self.rumour = Some((seen, from));
            }
        } else if self.doubted {
            // Another incarnation of the same disk goes on: the numbers only tell who spoke last.
            io.change_meta(|meta| meta.incarnation = incarnation.next());
            self.introduce(self.links.iter().copied().collect(), io);
        } else {
            self.doubt(from, Some(seen), io);
        }
    }

    /// A peer that was not heard before this incarnation settled may know of a later one: the disk
    /// is an old one after all, or a copy of it runs elsewhere. Once per incarnation, or two copies
    /// would chase each other.
    fn doubt(&mut self, from: NodeId, seen: Option<IncarnationId>, io: &mut Io) {
        if let Some(seen) = seen
            && self.incarnation(io).is_outdated_by(seen)
            && !self.doubted
        {
            self.doubted = true;
            io.out.notice(Notice::Copied(from));
            self.suspect(true, seen.incarnation.next(), io);
            self.introduce(self.links.iter().copied().collect(), io);
        }
    }

    /// Answers with what was known of the peer, once its present incarnation is known durably too.
    fn answer(
        &mut self,
        from: NodeId,
        request_id: RequestId,
        incarnation: IncarnationId,
        io: &mut Io,
    ) {
        // A node that is to found a cluster by itself must not be counted by those that wait for
        // all.
        if self.bootstrap && io.local.meta().cluster.is_none() {
            return;
        }
        let seen = io
            .local
            .meta()
            .peer_incarnations
            .iter()
            .find(|(node, _)| *node == from)
            .map(|(_, incarnation)| *incarnation);
        // A cluster is not notified of before it is synced: there must never be a second one.
        let mut seq = io.local.meta().cluster.is_some().then(|| io.out.last_mark());
        if seen.is_none_or(|seen| incarnation.incarnation > seen.incarnation) {
            seq = Some(io.change_meta(|meta| {
                meta.peer_incarnations.retain(|(node, _)| *node != from);
                meta.peer_incarnations.push((from, incarnation));
            }));
        }
        let (birth, cluster) = (io.local.meta().birth, io.local.meta().cluster.clone());
        io.out.send_synced(seq, from, request_id, Body::Known { seen, birth, cluster });
    }

    fn judge_cluster(&mut self, peer: NodeId, theirs: Option<u64>, io: &mut Io) {
        let ours = io.local.meta().cluster.as_ref().map(|cluster| cluster.id);
        match (ours, theirs) {
            (Some(ours), Some(theirs)) if ours != theirs => {
                if self.foreign.insert(peer, theirs).is_none() {
                    io.out.notice(Notice::Foreign(peer, [ours, theirs]));
                }
            }
            // It has begun anew, with an empty disk.
            _ => drop(self.foreign.remove(&peer)),
        }
    }

    /// Decides as much as the answers so far permit.
    fn decide(&mut self, now: Time, io: &mut Io) {
        let started = *self.started.get_or_insert(now);
        if self.decided.is_some() {
            return;
        }
        let passed = now.saturating_since(started);
        // Nobody else is heard.
        let all = self.peers(io).all(|peer| self.heard.contains_key(&peer));
        if io.local.meta().cluster.is_none() {
            self.find_cluster(all, passed, io);
        }
        let ready = all || (passed >= GRACE && !self.heard.is_empty()) || passed >= ALONE;
        if io.local.meta().cluster.is_none() || !ready {
            return;
        }
        let later = self.heard.iter().filter_map(|(peer, heard)| Some((heard.seen?, *peer)));
        let incarnation = self.incarnation(io);
        let outdated =
            later.chain(self.rumour).filter(|(seen, _)| incarnation.is_outdated_by(*seen));
        let latest = outdated.max_by_key(|(seen, _)| seen.incarnation);
        let seq = match latest {
            Some((seen, witness)) => {
                io.out.notice(Notice::Outdated(witness));
                self.suspect(true, seen.incarnation.next(), io)
            }
            // Every incarnation that issued dots was first seen by a peer; one that is silent may
            // be the only one that saw it. A first incarnation cannot follow another, and a single
            // node has no witness at all.
            None if incarnation.incarnation > Incarnation(1) && (!all || self.heard.is_empty()) => {
                if self.heard.is_empty() && !all {
                    io.out.notice(Notice::Alone);
                }
                self.suspect(false, incarnation.incarnation, io)
            }
            None => io.out.last_mark(),
        };
        self.decided = Some(seq);
        self.synced(io);
    }

    /// Joins the cluster that a peer is in, or founds one if no peer is in any.
    fn find_cluster(&mut self, all: bool, passed: Micros, io: &mut Io) {
        let met = self.met.take();
        let birth = io.local.meta().birth;
        if let Some(cluster) = met {
            let founder = cluster.founders.contains(&(self.me, birth));
            if !founder {
                io.out.notice(Notice::Reborn);
            }
            let lost = if founder { Vec::new() } else { io.local.own().to_vec() };
            io.change_meta(|meta| {
                meta.cluster = Some(cluster);
                meta.lose(&lost);
                // It does not know what the others have purged; what it issues meanwhile is not
                // old.
                if !founder {
                    meta.suspect();
                }
            });
        } else if (all && self.is_first(io)) || (self.bootstrap && passed >= GRACE) {
            let peers = self.heard.iter().map(|(node, heard)| (*node, heard.birth));
            let founders = peers.chain([(self.me, birth)]).collect();
            let cluster = Cluster::found(&io.local.meta().identity.cluster, founders);
            io.change_meta(|meta| meta.cluster = Some(cluster));
            io.out.notice(Notice::Founded);
        } else if passed >= SILENCE_REPORTED_AFTER && !std::mem::replace(&mut self.complained, true)
        {
            let silent = self.peers(io).filter(|peer| !self.heard.contains_key(peer));
            let silent: Vec<NodeId> = silent.collect();
            silent.into_iter().for_each(|peer| io.out.notice(Notice::WaitsFor(peer)));
        }
    }

    /// True for the one member that may found a cluster unasked.
    fn is_first(&self, io: &Io) -> bool {
        io.local.ring().members().first().is_some_and(|member| member.id == self.me)
    }

    /// Notes that the disk may not be the newest. One that was rolled back has also lost its
    /// read eligibility.
    fn suspect(&mut self, rolled_back: bool, incarnation: Incarnation, io: &mut Io) -> SyncSeq {
        let lost = if rolled_back { io.local.own().to_vec() } else { Vec::new() };
        io.change_meta(|meta| {
            meta.suspect();
            meta.incarnation = incarnation;
            if rolled_back {
                meta.lose(&lost);
            }
        })
    }

    /// Something is durable: settles when the decision is.
    pub(super) fn synced(&mut self, io: &mut Io) {
        if let Some(seq) = self.decided
            && io.out.is_durable(seq)
            && !io.local.is_settled()
        {
            io.local.settle();
            io.out.notice(Notice::Settled);
            if !self.heard.is_empty() || self.peers(io).next().is_none() {
                io.local.witness();
            }
            // Peers that heard of an outdated life hear of the one that goes on.
            self.introduce(self.links.iter().copied().collect(), io);
        }
    }
}
