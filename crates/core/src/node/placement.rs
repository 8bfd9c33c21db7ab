//! The placement of keys: a node uses one ring. A later one, by an operator's command or from a
//! peer that has it, is made durable and ends this incarnation; the next one begins with it. A peer
//! with an older ring is sent the later one.

mod ballot;
mod fence;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::ids::{RequestId, SyncSeq};
use super::interface::{Hindrance, RingChange};
use super::io::Io;
use super::merkle_trees::own_partitions;
use super::{Config, Notice};
use crate::members::{Member, Members, MembershipStatus};
use crate::message::{Body, Counter};
use crate::ring::{Ring, RingId};
use crate::store::Change;
use crate::types::{MAX_MEMBERS, Micros, NodeId, Partition, Time};
use ballot::{Ballot, Voters};
use fence::Fence;

/// Interval at which a member that has not answered this node's introductions is sent the ring: it
/// may take this node for a stranger.
const REPORT_INTERVAL: Micros = Micros::from_millis(1_000);

/// The ring of this incarnation, and the one that is to follow.
#[derive(Clone, Debug)]
pub(super) struct Placement {
    me: NodeId,
    ring: Arc<Ring>,
    /// Version and digest of the ring: of two, the higher one is in force.
    id: RingId,
    members: Vec<NodeId>,
    /// A later ring has been written: it takes effect when this mark is durable.
    taking: Option<SyncSeq>,
    /// Members that have no place in that one: nothing that they report counts any more.
    leaving: BTreeSet<NodeId>,
    ballot: Ballot,
    /// The rings that the others live with.
    fence: Fence,
    /// Nodes without a place that introduced themselves with a later ring, and their clusters.
    strangers: BTreeMap<NodeId, (RingId, Option<u64>)>,
    /// When members that do not answer are sent the ring again.
    next_report: Time,
}

impl Placement {
    pub(super) fn new(config: &Config) -> Self {
        Placement {
            me: config.me,
            ring: config.ring.clone(),
            id: config.ring.id(),
            members: config.ring.members().iter().map(|member| member.id).collect(),
            taking: None,
            leaving: BTreeSet::new(),
            ballot: Ballot::default(),
            fence: Fence::default(),
            strangers: BTreeMap::new(),
            next_report: Time::START,
        }
    }

    /// The version and digest of the ring of this incarnation.
    pub(super) fn id(&self) -> RingId {
        self.id
    }

    /// False for a node that has no place in the ring, or has lost it in one that is on its way to
    /// the disk: it is removed, or is to come. It is no peer.
    pub(super) fn has(&self, node: NodeId) -> bool {
        self.ring.has(node) && !self.leaving.contains(&node)
    }

    /// A peer has introduced itself, with a ring that is earlier than this incarnation's, equal, or
    /// later. The node with the earlier ring is sent the later one, and is about to begin another
    /// incarnation.
    pub(super) fn meet(
        &mut self,
        from: NodeId,
        request_id: RequestId,
        theirs: RingId,
        cluster: Option<u64>,
        io: &mut Io,
    ) -> Ordering {
        let own = io.local.meta().cluster.as_ref().map(|cluster| cluster.id);
        let same_cluster = own.is_some() && (cluster.is_none() || cluster == own);
        if theirs < self.id && self.id.version > 1 && same_cluster {
            self.report(vec![from], request_id, io);
        }
        self.fence.confirm(from, theirs);
        theirs.cmp(&self.id)
    }

    /// A link came up or went down: nothing is known of the ring of a peer without one.
    pub(super) fn link(&mut self, peer: NodeId, up: bool) {
        if !up {
            self.fence.lose(peer, self.id);
        }
    }

    /// Notifies these of the ring, once it is known to be durable.
    fn report(&self, to: Vec<NodeId>, request_id: RequestId, io: &mut Io) {
        let seq = io.out.last_mark();
        for peer in to {
            let (ring, members) = ((*self.ring).clone(), io.local.members().clone());
            io.out.send_synced(Some(seq), peer, request_id, Body::Placement { ring, members });
        }
    }

    /// Sends a later ring than the configured one to members that have not answered. A node that
    /// lost its disk begins with the configured ring, and may take this node for a stranger, which
    /// it cannot answer.
    pub(super) fn report_silent(&mut self, now: Time, silent: Vec<NodeId>, io: &mut Io) {
        if self.id.version == 1 || io.local.meta().cluster.is_none() || now < self.next_report {
            return;
        }
        self.next_report = now + REPORT_INTERVAL;
        self.report(silent, RequestId::NONE, io);
    }

    /// A node without a place in the ring speaks. It is heard only when it has a later ring of the
    /// same cluster, or of a cluster that this node, which is in none, belongs to by its
    /// configuration.
    pub(super) fn hear_stranger(&mut self, from: NodeId, body: Body, io: &mut Io) {
        let membership = io.local.members().get(from).map(|member| member.membership);
        let is_removed = membership == Some(MembershipStatus::Removed);
        match body {
            Body::Introduce { ring, cluster, .. }
                if ring.version > self.id.version && !is_removed =>
            {
                if self.strangers.len() >= MAX_MEMBERS {
                    self.strangers.clear();
                }
                self.strangers.insert(from, (ring, cluster));
            }
            Body::Placement { ring, members } if !is_removed && ring.has(from) => {
                let known = self.strangers.get(&from).filter(|(id, _)| *id == ring.id());
                let own = io.local.meta().cluster.as_ref().map(|cluster| cluster.id);
                let fits = |(_, cluster): &&(RingId, Option<u64>)| {
                    cluster.is_some() && (own.is_none() || *cluster == own)
                };
                if known.filter(fits).is_some() {
                    io.out.count(Counter::RingsOfStrangersTaken);
                    self.hear(from, ring, &members, io);
                }
            }
            _ => io.out.count(Counter::MessagesOfStrangersIgnored),
        }
    }

    /// A peer has sent another ring. The later one is adopted; two rings made of one ring at once
    /// are reconciled.
    pub(super) fn hear(&mut self, from: NodeId, ring: Ring, members: &Members, io: &mut Io) {
        if self.taking.is_some() || ring.id() == self.id {
            return;
        }
        if (ring.n(), ring.partitions()) != (self.ring.n(), self.ring.partitions()) {
            if ring.id() > self.id && ring.has(self.me) {
                io.out.notice(Notice::Misplaced(from));
            }
            return;
        }
        let (ring, members) = reconcile((&self.ring, io.local.members()), (&ring, members));
        if ring.id() <= self.id || !ring.has(self.me) {
            return;
        }
        // Another change came first, unless this is what was ordered here.
        if self.ballot.own().is_some_and(|(old, new)| ring.has(old) || !ring.has(new)) {
            self.ballot.fail(Hindrance::Other(None, from), io);
        }
        self.take(ring, &members, io);
    }

    /// True while a later ring is on its way to the disk.
    pub(super) fn is_changing(&self) -> bool {
        self.taking.is_some()
    }

    /// The change of the ring that this node was ordered to make, or has granted to another one.
    pub(super) fn in_flight(&self) -> Option<RingChange> {
        self.ballot.in_flight(self.me)
    }

    /// The members that introduced themselves with another ring, each with its version.
    pub(super) fn with_other_rings(&self) -> impl Iterator<Item = (NodeId, u64)> {
        self.fence.with_other_rings(self.id)
    }

    /// The members that have not confirmed the ring in force.
    pub(super) fn unconfirmed(&self) -> impl Iterator<Item = NodeId> {
        let others = self.members.iter().copied().filter(|id| *id != self.me);
        others.filter(|id| !self.fence.has_confirmed(*id, self.id))
    }

    /// The operator gives the places of `old` to `new`; `old` is removed for good. That is done
    /// when more than half of the members have granted it.
    pub(super) fn replace(&mut self, now: Time, old: NodeId, new: Member, io: &mut Io) {
        self.ballot.expire(now);
        if self.taking.is_some() {
            return io.out.not_replaced(Hindrance::Other(None, self.me));
        }
        if let Some(other) = self.in_flight() {
            return io.out.not_replaced(Hindrance::Other(Some(other), other.by));
        }
        if let Err(why) = self.ring.replace(old, new.id()) {
            return io.out.not_replaced(Hindrance::Ring(why));
        }
        let voters = Voters { ring: self.id, members: &self.members };
        self.ballot.propose(now, old, new, voters, io);
    }

    /// Another member queries a grant to change the ring, answers such a query, or returns a grant.
    pub(super) fn vote(
        &mut self,
        now: Time,
        from: NodeId,
        request_id: RequestId,
        body: Body,
        io: &mut Io,
    ) {
        match body {
            Body::QueryRing { ring, old, new } => {
                let changes = ring != self.id || self.taking.is_some();
                self.ballot.queried(
                    now,
                    request_id,
                    RingChange { old, new, by: from },
                    changes,
                    io,
                );
            }
            Body::RingGranted if self.taking.is_none() => {
                if let Some((old, new)) = self.ballot.granted(from, request_id, &self.members, io) {
                    self.carry_out(old, new, io);
                }
            }
            Body::RingDenied { by } => self.ballot.denied(from, request_id, by),
            _ => {}
        }
    }

    /// Sends queries again, and gives up a change that was not granted in time.
    pub(super) fn tick(&mut self, now: Time, io: &mut Io) {
        self.ballot.tick(now, &self.members, io);
        self.ballot.query(now, Voters { ring: self.id, members: &self.members }, io);
    }

    /// When the next tick is due.
    pub(super) fn next_wake(&self) -> Option<Time> {
        self.ballot.next_wake()
    }

    fn carry_out(&mut self, old: NodeId, new: Member, io: &mut Io) {
        let ring = match self.ring.replace(old, new.id()) {
            Ok(ring) => ring,
            Err(why) => return io.out.not_replaced(Hindrance::Ring(why)),
        };
        let version = ring.version();
        let removed = io.local.members().get(old).cloned();
        let removed =
            removed.map(|old| Member { membership: MembershipStatus::Removed, version, ..old });
        let new = Member { membership: MembershipStatus::Member, version, ..new };
        let mut members = io.local.members().clone();
        members.adopt(&Members::new(removed.into_iter().chain([new]).collect()));
        self.take(ring, &members, io);
    }

    fn take(&mut self, ring: Ring, members: &Members, io: &mut Io) {
        debug_assert!(self.taking.is_none(), "one ring at a time is on its way to the disk");
        debug_assert!(ring.id() > self.id, "an incarnation is followed by one with a later ring");
        let own = own_partitions(&self.ring, self.me);
        let mut gained = own_partitions(&ring, self.me);
        gained.retain(|partition| !own.contains(partition));
        if removed_owners(&ring, members) > 0 {
            // Two commands gave the places of two members to the same newcomer: one of them has to
            // be replaced again.
            io.out.count(Counter::RingsWithPlacesOfRemovedMembers);
        }
        let gone = self.members.iter().filter(|id| !ring.has(**id));
        self.leaving = gone.copied().collect();
        self.taking = Some(write(ring, members, gained, io));
    }

    /// Something is durable: the next incarnation may begin when the next ring is.
    pub(super) fn synced(&mut self, io: &mut Io) {
        if self.taking.is_some_and(|seq| io.out.is_durable(seq)) {
            self.taking = None;
            io.out.end_incarnation();
        }
    }
}

/// Makes a later ring durable, with its members, and the loss of read eligibility for the
/// partitions that it brings here; the mark reports when it is.
fn write(ring: Ring, members: &Members, gained: Vec<Partition>, io: &mut Io) -> SyncSeq {
    let members = io.local.replace_members(members);
    let meta = io.local.change_meta(|meta| {
        // A node that is in no cluster yet loses it when it meets one.
        if meta.cluster.is_some() {
            meta.read_ineligible.extend(gained);
            meta.read_ineligible.sort_unstable();
            meta.read_ineligible.dedup();
        }
    });
    io.out.write(vec![Change::Ring(ring), members, meta])
}

fn is_removed(members: &Members, id: NodeId) -> bool {
    members.get(id).is_some_and(|member| member.membership == MembershipStatus::Removed)
}

/// How many of those that have a place in the ring are removed.
fn removed_owners(ring: &Ring, members: &Members) -> usize {
    ring.members().iter().filter(|member| is_removed(members, member.id)).count()
}

/// What two rings and their lists of members come to, whichever node asks and in whatever order
/// rings meet.
///
/// The later one, mostly. Two that were made at once, or a later one that has places of a member
/// which the earlier one's command removed, are joined ([`Ring::joined`]). A newcomer that has no
/// place in the result is removed: it may have lived with its ring. The version reports how many
/// members were removed, so that what holds more changes is later.
pub fn reconcile(one: (&Ring, &Members), other: (&Ring, &Members)) -> (Ring, Members) {
    let (latest, earlier) = if other.0.supersedes(one.0) { (other, one) } else { (one, other) };
    let mut members = latest.1.clone();
    match earlier.0.version() {
        // What is configured may name nodes that no command made members.
        1 => drop(members.merge(earlier.1.iter())),
        _ => members.adopt(earlier.1),
    }
    let (latest, earlier) = (latest.0, earlier.0);
    // Of a ring that led to the latest, nobody has lost its place but by being removed.
    let lost_place = |id: NodeId| !latest.has(id) && !is_removed(&members, id);
    let at_once =
        earlier.version() > 1 && earlier.members().iter().any(|member| lost_place(member.id));
    let joined = match at_once || removed_owners(latest, &members) > 0 {
        true => earlier.joined(latest, latest.version(), |id| is_removed(&members, id)),
        false => Some(latest.clone()),
    };
    let Some(joined) = joined else { return (latest.clone(), members) };
    debug_assert_eq!(removed_owners(&joined, &members), 0, "a removed member owns nothing");
    let had_place = |id: NodeId| latest.has(id) || (earlier.version() > 1 && earlier.has(id));
    let lost = |member: &&Member| {
        let id = member.id();
        member.membership != MembershipStatus::Removed && had_place(id) && !joined.has(id)
    };
    let lost: Vec<Member> = members.iter().filter(lost).cloned().collect();
    if lost.is_empty() && joined.places_like(latest) {
        return (latest.clone(), members);
    }
    let removed =
        members.iter().filter(|member| member.membership == MembershipStatus::Removed).count();
    let version = (1 + removed + lost.len()).max(latest.version() as usize + 1) as u64;
    let remove =
        |member: Member| Member { membership: MembershipStatus::Removed, version, ..member };
    let gone = lost.into_iter().map(remove).collect();
    members.adopt(&Members::new(gone));
    (joined.of_version(version), members)
}
