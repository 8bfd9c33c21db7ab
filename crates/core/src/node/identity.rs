//! Who this node is: a founder of a new cluster, a member that comes back, or one that has lost its disk
//! or had it rolled back. Until its peers have told, it mints nothing and answers no client.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::effects::Effects;
use super::forest::own_partitions;
use super::ids::{RequestId, SyncSeq};
use super::{Config, Notice};
use crate::members::{Cluster, Incarnation, Life};
use crate::message::{Body, Counter, Refusal};
use crate::ring::Ring;
use crate::types::{Micros, NodeId, Time};

/// A peer that has not answered is asked again after this time.
const ROUND: Micros = Micros::from_millis(200);
/// Time for the other peers, once one has answered.
const GRACE: Micros = Micros::from_millis(1_000);
/// Time for any peer to answer.
const ALONE: Micros = Micros::from_millis(3_000);

/// Who has not answered for so long is told of: the founding of a cluster waits for all.
const LONG: Micros = Micros::from_millis(10_000);

/// What is known of this node's place.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    me: NodeId,
    ring: Arc<Ring>,
    /// Version and digest of the ring.
    placement: (u64, u64),
    continues: bool,
    bootstrap: bool,
    nonce: u64,
    started: Option<Time>,
    /// True once it was told whom the founding waits for.
    complained: bool,
    next_round: Option<Time>,
    links: BTreeSet<NodeId>,
    /// Those of them that have not answered since their link came up.
    unanswered: BTreeSet<NodeId>,
    /// What each peer has answered in this life.
    heard: BTreeMap<NodeId, Heard>,
    /// The cluster that somebody was met in, while this node is in none.
    met: Option<Cluster>,
    /// Peers of another cluster, and its id.
    foreign: BTreeMap<NodeId, u64>,
    /// A later life of this node that somebody was told of, before this one has settled.
    rumour: Option<(Life, NodeId)>,
    /// True once a peer told of a later life after this one had settled.
    doubted: bool,
    /// Set when all is decided: settled when this mark is durable.
    decided: Option<SyncSeq>,
}

#[derive(Clone, Debug)]
struct Heard {
    seen: Option<Life>,
    birth: u64,
    /// Whether it is in a cluster.
    member: bool,
}

impl Identity {
    pub(super) fn new(config: &Config) -> Self {
        Identity {
            me: config.me,
            ring: config.ring.clone(),
            placement: config.ring.id(),
            continues: config.continues,
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

    /// True if the peer is of another cluster: what it says is not listened to.
    pub(super) fn is_foreign(&self, peer: NodeId) -> bool {
        self.foreign.contains_key(&peer)
    }

    /// The peers of another cluster, and its id.
    pub(super) fn foreign(&self) -> &BTreeMap<NodeId, u64> {
        &self.foreign
    }

    /// Why the node does not serve yet, if it does not.
    pub(super) fn refusal(&self, fx: &Effects) -> Option<Refusal> {
        (!fx.local.is_settled()).then(|| self.starting())
    }

    /// The refusal of a node that does not serve yet.
    pub(super) fn starting(&self) -> Refusal {
        let (heard, peers) = self.heard();
        Refusal::Starting { heard, peers }
    }

    /// How many peers have answered, and how many there are.
    pub(super) fn heard(&self) -> (u32, u32) {
        (self.heard.len() as u32, self.peers().count() as u32)
    }

    /// True while the link to the peer is up.
    pub(super) fn is_linked(&self, peer: NodeId) -> bool {
        self.links.contains(&peer)
    }

    /// When the next round of introductions is due.
    pub(super) fn next_wake(&self) -> Option<Time> {
        self.next_round
    }

    fn peers(&self) -> impl Iterator<Item = NodeId> {
        self.ring.members().iter().map(|member| member.id).filter(|member| *member != self.me)
    }

    /// A link came up or went down: a peer is told of every life, also one that has settled.
    pub(super) fn link(&mut self, now: Time, peer: NodeId, up: bool, fx: &mut Effects) {
        if up {
            self.links.insert(peer);
            self.unanswered.insert(peer);
            self.introduce(vec![peer], fx);
            self.next_round.get_or_insert(now + ROUND);
        } else {
            self.links.remove(&peer);
            self.unanswered.remove(&peer);
        }
        self.decide(now, fx);
    }

    /// Asks again where no answer came, and decides with those that are there when time is up.
    /// Gives those that can be reached and have not answered yet, when they are asked again.
    pub(super) fn tick(&mut self, now: Time, fx: &mut Effects) -> Option<Vec<NodeId>> {
        if self.next_round.is_none_or(|due| due > now) {
            return None;
        }
        let lost = fx.local.meta().cluster.is_none();
        let satisfied = |heard: &Heard| !lost || heard.member;
        let wanting = |peer: &NodeId| {
            let satisfied = self.heard.get(peer).is_some_and(satisfied);
            !self.is_foreign(*peer) && (!satisfied || self.unanswered.contains(peer))
        };
        let wanting: Vec<NodeId> = self.links.iter().copied().filter(wanting).collect();
        // A link that comes up begins the rounds anew.
        let done = wanting.is_empty() && fx.local.is_settled();
        self.next_round = (!done).then_some(now + ROUND);
        let silent = self.unanswered.iter().copied().filter(|peer| !self.is_foreign(*peer));
        let silent: Vec<NodeId> = silent.collect();
        self.introduce(wanting, fx);
        self.decide(now, fx);
        (!silent.is_empty()).then_some(silent)
    }

    /// This life; its number is higher than it began with once a later one was heard of.
    fn life(&self, fx: &Effects) -> Life {
        Life { incarnation: fx.local.meta().incarnation, nonce: self.nonce }
    }

    /// Names the introductions of this life.
    fn id(&self) -> RequestId {
        RequestId::of_wire(self.nonce)
    }

    /// Tells peers of this life and its ring.
    pub(super) fn introduce(&self, to: Vec<NodeId>, fx: &mut Effects) {
        let cluster = fx.local.meta().cluster.as_ref().map(|cluster| cluster.id);
        let (life, ring) = (self.life(fx), self.placement);
        fx.out.send(to, self.id(), Body::Introduce { life, cluster, ring });
    }

    /// Takes an introduction, or the answer to the own one.
    pub(super) fn hear(
        &mut self,
        now: Time,
        from: NodeId,
        op: RequestId,
        body: Body,
        fx: &mut Effects,
    ) {
        if !self.peers().any(|peer| peer == from) {
            return;
        }
        match body {
            Body::Introduce { life, cluster, .. } => {
                self.judge_cluster(from, cluster, fx);
                self.answer(from, op, life, fx);
                if cluster.is_some() && fx.local.meta().cluster.is_none() {
                    self.introduce(vec![from], fx);
                }
            }
            // The answer to an introduction of an earlier life says nothing about this one.
            Body::Known { seen, birth, cluster } if op == self.id() => {
                self.unanswered.remove(&from);
                self.judge_cluster(from, cluster.as_ref().map(|cluster| cluster.id), fx);
                if self.is_foreign(from) {
                    return;
                }
                if fx.local.is_settled() {
                    fx.local.witness();
                    self.doubt(from, seen, fx);
                }
                self.heard.insert(from, Heard { seen, birth, member: cluster.is_some() });
                if fx.local.meta().cluster.is_none() {
                    self.met = self.met.take().or(cluster);
                }
                self.decide(now, fx);
            }
            _ => {}
        }
    }

    /// Gossip tells of a later life of this node: as good as a peer that has seen it.
    pub(super) fn hear_of_own_life(
        &mut self,
        from: NodeId,
        incarnation: Incarnation,
        fx: &mut Effects,
    ) {
        // Of which boot it was is not told, but it was not this one.
        let seen = Life { incarnation, nonce: !self.nonce };
        if !self.life(fx).is_outdated_by(seen) {
            return;
        }
        fx.out.count(Counter::OwnLifeRaised);
        if !fx.local.is_settled() {
            let later = |(known, _): &(Life, NodeId)| known.incarnation >= incarnation;
            if !self.rumour.as_ref().is_some_and(later) {
                self.rumour = Some((seen, from));
            }
        } else if self.doubted {
            // Another life of the same disk goes on: the numbers only tell who spoke last.
            fx.change_meta(|meta| meta.incarnation = incarnation.next());
            self.introduce(self.links.iter().copied().collect(), fx);
        } else {
            self.doubt(from, Some(seen), fx);
        }
    }

    /// A peer that was not heard before this life settled may know of a later one: the disk is an old one
    /// after all, or a copy of it runs elsewhere. Once per life, or two copies would chase each other.
    fn doubt(&mut self, from: NodeId, seen: Option<Life>, fx: &mut Effects) {
        if let Some(seen) = seen
            && self.life(fx).is_outdated_by(seen)
            && !self.doubted
        {
            self.doubted = true;
            fx.out.notice(Notice::Copied(from));
            self.suspect(true, seen.incarnation.next(), fx);
            self.introduce(self.links.iter().copied().collect(), fx);
        }
    }

    /// Says what was known of the peer, when what it says now is safely known too.
    fn answer(&mut self, from: NodeId, op: RequestId, life: Life, fx: &mut Effects) {
        // A node that is to found a cluster by itself must not be counted by those that wait for all.
        if self.bootstrap && fx.local.meta().cluster.is_none() {
            return;
        }
        let seen =
            fx.local.meta().lives.iter().find(|(node, _)| *node == from).map(|(_, life)| *life);
        // A cluster is not told of before it is synced: there must never be a second one.
        let mut mark = fx.local.meta().cluster.is_some().then(|| fx.out.last_mark());
        if seen.is_none_or(|seen| life.incarnation > seen.incarnation) {
            mark = Some(fx.change_meta(|meta| {
                meta.lives.retain(|(node, _)| *node != from);
                meta.lives.push((from, life));
            }));
        }
        let (birth, cluster) = (fx.local.meta().birth, fx.local.meta().cluster.clone());
        fx.out.send_synced(mark, from, op, Body::Known { seen, birth, cluster });
    }

    fn judge_cluster(&mut self, peer: NodeId, theirs: Option<u64>, fx: &mut Effects) {
        let ours = fx.local.meta().cluster.as_ref().map(|cluster| cluster.id);
        match (ours, theirs) {
            (Some(ours), Some(theirs)) if ours != theirs => {
                if self.foreign.insert(peer, theirs).is_none() {
                    fx.out.notice(Notice::Foreign(peer, [ours, theirs]));
                }
            }
            // It has begun anew, with an empty disk.
            _ => drop(self.foreign.remove(&peer)),
        }
    }

    /// Decides what can be decided with what has been heard.
    fn decide(&mut self, now: Time, fx: &mut Effects) {
        let started = *self.started.get_or_insert(now);
        if self.decided.is_some() {
            return;
        }
        let passed = now.saturating_since(started);
        // Nobody else is heard.
        let all = self.heard.len() == self.peers().count();
        if fx.local.meta().cluster.is_none() {
            self.find_cluster(all, passed, fx);
        }
        if self.continues && fx.local.meta().cluster.is_some() {
            // Nobody can know of a later life.
            self.decided = Some(fx.out.last_mark());
            return self.synced(fx);
        }
        let ready = all || (passed >= GRACE && !self.heard.is_empty()) || passed >= ALONE;
        if fx.local.meta().cluster.is_none() || !ready {
            return;
        }
        let later = self.heard.iter().filter_map(|(peer, heard)| Some((heard.seen?, *peer)));
        let life = self.life(fx);
        let outdated = later.chain(self.rumour).filter(|(seen, _)| life.is_outdated_by(*seen));
        let latest = outdated.max_by_key(|(seen, _)| seen.incarnation);
        let mark = match latest {
            Some((seen, witness)) => {
                fx.out.notice(Notice::Outdated(witness));
                self.suspect(true, seen.incarnation.next(), fx)
            }
            // Every life that issued dots was first seen by a peer; one that is silent may be the
            // only one that
            // saw it. A first life cannot follow another, and a single node has no witness at all.
            None if life.incarnation > Incarnation(1) && (!all || self.heard.is_empty()) => {
                if self.heard.is_empty() && !all {
                    fx.out.notice(Notice::Alone);
                }
                self.suspect(false, life.incarnation, fx)
            }
            None => fx.out.last_mark(),
        };
        self.decided = Some(mark);
        self.synced(fx);
    }

    /// Joins the cluster that a peer is in, or founds one when nobody is.
    fn find_cluster(&mut self, all: bool, passed: Micros, fx: &mut Effects) {
        let met = self.met.take();
        let birth = fx.local.meta().birth;
        if let Some(cluster) = met {
            let founder = cluster.founders.contains(&(self.me, birth));
            if !founder {
                fx.out.notice(Notice::Reborn);
            }
            let lost = if founder { Vec::new() } else { own_partitions(&self.ring, self.me) };
            fx.change_meta(|meta| {
                meta.cluster = Some(cluster);
                meta.without_authority = lost;
                // It does not know what the others have collected; what it mints meanwhile is not old.
                if !founder {
                    meta.suspect();
                }
            });
        } else if (all && self.is_first()) || (self.bootstrap && passed >= GRACE) {
            let peers = self.heard.iter().map(|(node, heard)| (*node, heard.birth));
            let founders = peers.chain([(self.me, birth)]).collect();
            let cluster = Cluster::found(&fx.local.meta().owner.cluster, founders);
            fx.change_meta(|meta| meta.cluster = Some(cluster));
            fx.out.notice(Notice::Founded);
        } else if passed >= LONG && !std::mem::replace(&mut self.complained, true) {
            let silent = self.peers().filter(|peer| !self.heard.contains_key(peer));
            silent.for_each(|peer| fx.out.notice(Notice::Awaited(peer)));
        }
    }

    /// True for the one member that may found a cluster unasked.
    fn is_first(&self) -> bool {
        self.ring.members().first().is_some_and(|member| member.id == self.me)
    }

    /// Notes that the disk may not be the newest. One that was rolled back has also lost its
    /// authority.
    fn suspect(
        &mut self,
        rolled_back: bool,
        incarnation: Incarnation,
        fx: &mut Effects,
    ) -> SyncSeq {
        let lost = if rolled_back { own_partitions(&self.ring, self.me) } else { Vec::new() };
        fx.change_meta(|meta| {
            meta.suspect();
            meta.incarnation = incarnation;
            if rolled_back {
                meta.without_authority = lost;
            }
        })
    }

    /// Something is durable: settles when the decision is.
    pub(super) fn synced(&mut self, fx: &mut Effects) {
        if let Some(mark) = self.decided
            && fx.out.is_durable(mark)
            && !fx.local.is_settled()
        {
            fx.local.settle();
            fx.out.notice(Notice::Settled);
            if !self.heard.is_empty() || self.peers().next().is_none() {
                fx.local.witness();
            }
            // Peers that heard of an outdated life hear of the one that goes on.
            self.introduce(self.links.iter().copied().collect(), fx);
        }
    }
}
