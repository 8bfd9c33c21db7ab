//! The placement of keys: which ring is in force here, and how a later one comes into force. A
//! later ring, from a peer that has it or made here, is made durable first; then all roles go on
//! with it. A peer with an older ring is sent the later one.
//!
//! Every message carries the ring of its sender ([`Placement::judge`]). What makes the next ring is
//! in `steps`, who may begin a change in `ballot`, and who has confirmed a ring in `fence`.

mod ballot;
mod fence;
mod steps;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::ids::{RequestId, SyncSeq};
use super::interface::{Hindrance, RingChange, RingOrder};
use super::io::Io;
use super::merkle_trees::own_partitions;
use super::reach::Reach;
use super::{Config, Notice, rules};
use crate::members::{IncarnationId, Liveness, Member, Members, MembershipStatus};
use crate::message::{Body, Counter, RingProgress};
use crate::ring::{Ring, RingId};
use crate::store::Change;
use crate::types::{MAX_MEMBERS, Micros, NodeId, Nodes, Time};
use ballot::{Ballot, Next, Purpose, Voters};
use fence::Fence;

/// Interval at which a member that has not answered this node's introductions, or that goes on with
/// an older ring, is sent the ring: it may take this node for a stranger.
const REPORT_INTERVAL: Micros = Micros::from_millis(1_000);

/// How the ring is changed, and the rings that the others have.
#[derive(Clone, Debug)]
pub(super) struct Placement {
    me: NodeId,
    /// A later ring has been written: it comes into force when this mark is durable.
    taking: Option<Taking>,
    /// The ring before the one in force, if the two meet: its messages are still taken.
    before: Option<RingId>,
    ballot: Ballot,
    /// The rings that the others have.
    fence: Fence,
    /// Nodes without a place that introduced themselves with a later ring, and their clusters.
    strangers: BTreeMap<NodeId, (RingId, Option<u64>)>,
    /// When members that do not answer are sent the ring again.
    next_report: Time,
    /// When each member with an older ring was sent the ring last.
    reported: BTreeMap<NodeId, Time>,
    reach: Reach,
    /// What members have reported of their progress, each with the ring that it is about.
    progress: BTreeMap<NodeId, (RingId, RingProgress)>,
    /// What this node has reported last, to whom and when.
    last_progress: Option<(Nodes, RingProgress, Time)>,
    /// True while the operator waits for the answer to an order.
    ordered: bool,
}

/// A ring on its way to the disk.
#[derive(Clone, Debug)]
struct Taking {
    seq: SyncSeq,
    ring: Arc<Ring>,
}

/// What becomes of a message, by the ring of its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is taken.
    Taken,
    /// Its sender has an older ring, and is sent the one in force.
    Older,
    /// It counts only between members with the same ring.
    Other,
}

impl Placement {
    pub(super) fn new(config: &Config) -> Self {
        Placement {
            me: config.me,
            taking: None,
            before: None,
            ballot: Ballot::default(),
            fence: Fence::default(),
            strangers: BTreeMap::new(),
            next_report: Time::START,
            reported: BTreeMap::new(),
            reach: Reach::default(),
            progress: BTreeMap::new(),
            last_progress: None,
            ordered: false,
        }
    }

    /// Whether a message of a peer is taken. What a peer asks under an older ring counts for that
    /// ring only, so it is taken while the two meet and its sender is known to have been at least
    /// as far as this node when their link came up: a node that returns with an old ring gets the
    /// one in force first. Comparisons and votes count under one and the same ring. Everything else
    /// is true whatever the ring of its sender is.
    pub(super) fn judge(&self, from: NodeId, given: RingId, body: &Body, io: &Io) -> Verdict {
        let own = io.local.ring_id();
        let theirs = match given {
            // A node of protocol 8 uses one ring from its introduction on.
            RingId::UNSAID => self.fence.ring_of(from).unwrap_or(own),
            given => given,
        };
        match body {
            Body::Compare { .. }
            | Body::Descend { .. }
            | Body::Leaves { .. }
            | Body::Equal
            | Body::Summaries(_)
            | Body::Items { .. }
            | Body::Fetch { .. }
            | Body::Records { .. }
            | Body::Propose { .. }
            | Body::Agreed
            | Body::NotYet(_)
            | Body::Progress(_) => match theirs.cmp(&own) {
                Ordering::Equal => Verdict::Taken,
                Ordering::Less => Verdict::Older,
                Ordering::Greater => Verdict::Other,
            },
            Body::Merge { .. } | Body::StoreHint { .. } | Body::Read { .. } | Body::List { .. } => {
                let is_accepted = self.fence.is_accepted(from);
                let takes = rules::takes(own, self.before, theirs, is_accepted);
                if takes { Verdict::Taken } else { Verdict::Older }
            }
            _ => Verdict::Taken,
        }
    }

    /// A peer has introduced itself, with a ring that is earlier than the one in force here, equal,
    /// or later. The node with the earlier ring is sent the later one.
    pub(super) fn meet(
        &mut self,
        now: Time,
        from: NodeId,
        (incarnation, theirs): (IncarnationId, RingId),
        cluster: Option<u64>,
        io: &mut Io,
    ) -> Ordering {
        let id = io.local.ring_id();
        let own = io.local.meta().cluster.as_ref().map(|cluster| cluster.id);
        let same_cluster = own.is_some() && (cluster.is_none() || cluster == own);
        if theirs < id && id.version > 1 && same_cluster {
            self.reported.insert(from, now);
            self.report(vec![from], io);
        }
        self.fence.confirm(from, incarnation.nonce, theirs, id);
        theirs.cmp(&id)
    }

    /// A peer has answered an introduction of this node under the ring in force.
    pub(super) fn confirm(&mut self, from: NodeId, io: &Io) {
        self.fence.confirm_own(from, io.local.ring_id());
    }

    /// A link came up or went down: nothing is known of the ring of a peer without one.
    pub(super) fn link(&mut self, peer: NodeId, up: bool, io: &Io) {
        self.reach.link(peer, up);
        if !up {
            self.fence.lose(peer, io.local.ring_id());
        }
    }

    /// This node's view of the liveness of a peer has changed.
    pub(super) fn set_liveness(&mut self, peer: NodeId, liveness: Liveness) {
        self.reach.set_liveness(peer, liveness);
    }

    /// Notifies these of the ring, once it is known to be durable.
    fn report(&self, to: Vec<NodeId>, io: &mut Io) {
        let seq = io.out.last_mark();
        for peer in to {
            let (ring, members) = ((**io.local.ring()).clone(), io.local.members().clone());
            let body = Body::Placement { ring, members };
            io.out.send_synced(Some(seq), peer, RequestId::NONE, body);
        }
    }

    /// A peer goes on with an older ring: it is sent the one in force, though not for each message.
    pub(super) fn correct(&mut self, now: Time, from: NodeId, io: &mut Io) {
        let known = self.reported.get(&from).is_some_and(|at| now < *at + REPORT_INTERVAL);
        if !known && io.local.ring_id().version > 1 && io.local.meta().cluster.is_some() {
            self.reported.insert(from, now);
            self.report(vec![from], io);
        }
    }

    /// Sends a later ring than the configured one to members that have not answered. A node that
    /// lost its disk begins with the configured ring, and may take this node for a stranger, which
    /// it cannot answer.
    pub(super) fn report_silent(&mut self, now: Time, silent: Vec<NodeId>, io: &mut Io) {
        let is_later = io.local.ring_id().version > 1 && io.local.meta().cluster.is_some();
        if is_later && now >= self.next_report {
            self.next_report = now + REPORT_INTERVAL;
            self.report(silent, io);
        }
    }

    /// A node without a place in the ring speaks. It is heard only when it has a later ring of the
    /// same cluster, or of a cluster that this node, which is in none, belongs to by its
    /// configuration.
    pub(super) fn hear_stranger(&mut self, from: NodeId, body: Body, io: &mut Io) {
        let is_removed = status(io.local.members(), from) == Some(MembershipStatus::Removed);
        match body {
            Body::Introduce { ring, cluster, .. }
                if ring.version > io.local.ring_id().version && !is_removed =>
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

    /// A peer has sent its ring: a later one comes into force here, unless this node has no part in
    /// it. Of two that were made at once, the one with the higher id is the later one.
    pub(super) fn hear(&mut self, from: NodeId, ring: Ring, members: &Members, io: &mut Io) {
        if self.taking.is_some() || ring.id() <= io.local.ring_id() {
            return;
        }
        let own = io.local.ring();
        let belongs = ring.has(self.me)
            || matches!(
                status(members, self.me),
                Some(MembershipStatus::Joining | MembershipStatus::Leaving)
            );
        if (ring.n(), ring.partitions()) != (own.n(), own.partitions()) {
            if ring.has(self.me) {
                io.out.notice(Notice::Misplaced(from));
            }
        } else if belongs {
            // Another change came first.
            self.ballot.fail(Hindrance::Other(None, from), &mut self.ordered, io);
            self.take(ring, members, io);
        }
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
    pub(super) fn with_other_rings(&self, io: &Io) -> Vec<(NodeId, u64)> {
        self.fence.with_other_rings(io.local.ring_id()).collect()
    }

    /// The members that have not confirmed the ring in force.
    pub(super) fn unconfirmed(&self, io: &Io) -> Vec<NodeId> {
        let (own, me) = (io.local.ring_id(), self.me);
        let members = io.local.ring().members().iter().map(|member| member.id);
        members.filter(|id| *id != me && !self.fence.has_confirmed(*id, own)).collect()
    }

    /// True once every member has confirmed the ring in force: nobody acts under an earlier one any
    /// more, but with a disk that was put back.
    pub(super) fn is_fenced(&self, io: &Io) -> bool {
        let (own, me) = (io.local.ring_id(), self.me);
        let mut members = io.local.ring().members().iter().map(|member| member.id);
        members.all(|id| id == me || self.fence.has_confirmed(id, own))
    }

    /// The operator wants the ring changed, or the change that it is in cancelled.
    pub(super) fn order(&mut self, now: Time, order: RingOrder, io: &mut Io) {
        self.ballot.expire(now);
        self.ballot.give_way(&mut self.ordered, io);
        match self.consider(now, order, io) {
            Ok(waits) => self.ordered |= waits,
            Err(why) => io.out.ring_ordered(Err(why)),
        }
    }

    /// Carries an order out, or begins to; true if its answer is still to come.
    fn consider(&mut self, now: Time, order: RingOrder, io: &mut Io) -> Result<bool, Hindrance> {
        if self.taking.is_some() {
            return Err(Hindrance::Other(None, self.me));
        }
        let ring = io.local.ring().clone();
        match order {
            RingOrder::Begin { edits, newcomers } => {
                if let Some(other) = self.in_flight() {
                    return Err(Hindrance::Other(Some(other), other.by));
                }
                let next = ring.begin(&edits).map_err(Hindrance::Ring)?;
                let gone = |id: &NodeId| !next.has(*id);
                let members: Vec<NodeId> = ring.members().iter().map(|member| member.id).collect();
                if !next.has(self.me) || !ring.has(self.me) {
                    return Err(Hindrance::NoPlace);
                }
                let voters: Vec<NodeId> = members.iter().copied().filter(|id| !gone(id)).collect();
                // One that has introduced itself and does not say which ring its messages are of
                // speaks an older protocol.
                let is_old = |id: &&NodeId| {
                    self.fence.is_introduced(**id) && !io.local.has_heard_of_ring(**id)
                };
                if let Some(old) = voters.iter().find(is_old) {
                    return Err(Hindrance::Protocol(*old));
                }
                let next = Next { ring: next, purpose: Purpose::Begin(newcomers) };
                self.propose(now, next, &voters, io);
            }
            RingOrder::Cancel => {
                let next = ring.cancelled().ok_or(Hindrance::NoCancel(ring.step()))?;
                if let Some(other) = self.in_flight() {
                    return Err(Hindrance::Other(Some(other), other.by));
                }
                let voters: Vec<NodeId> = ring.members().iter().map(|member| member.id).collect();
                self.propose(now, Next { ring: next, purpose: Purpose::Cancel }, &voters, io);
            }
            RingOrder::Dismiss(guest) => {
                if !self.remove_guest(guest, io) {
                    return Err(Hindrance::NoGuest(guest));
                }
                io.out.ring_ordered(Ok(ring.id()));
                return Ok(false);
            }
        }
        Ok(true)
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
            // A node of protocol 8 makes no ring beside nodes that know how to change one.
            Body::QueryRing { .. } => {
                io.out.send(vec![from], request_id, Body::RingDenied { by: self.me });
            }
            Body::QueryChange { ring, next, newcomers } => {
                let changes = ring != io.local.ring_id() || self.taking.is_some();
                let change = RingChange { next, by: from };
                let (ballot, ordered) = (&mut self.ballot, &mut self.ordered);
                if ballot.queried(now, request_id, change, changes, ordered, io) {
                    dial(&newcomers, ring.version + 1, io);
                }
            }
            Body::RingGranted if self.taking.is_none() => {
                self.ballot.granted(now, from, request_id, io);
            }
            Body::RingDenied { by } => self.ballot.denied(from, request_id, by),
            _ => {}
        }
    }

    /// Sends queries again, and gives up a change that was not granted in time.
    pub(super) fn tick(&mut self, now: Time, io: &mut Io) {
        self.ballot.tick(now, &mut self.ordered, io);
        self.ballot.query(now, io.local.ring_id(), io);
    }

    /// When the next tick is due.
    pub(super) fn next_wake(&self) -> Option<Time> {
        self.ballot.next_wake()
    }

    /// Queries the grants for the next ring. Newcomers are dialed meanwhile.
    fn propose(&mut self, now: Time, next: Next, voters: &[NodeId], io: &mut Io) {
        let (ring, all) = (io.local.ring_id(), io.local.ring().members().len());
        if let Purpose::Begin(newcomers) = &next.purpose {
            dial(newcomers, next.ring.version(), io);
        }
        self.ballot.propose(now, next, Voters { ring, voters, all }, io);
    }

    /// Makes the next ring, if it may be made now; true if it did.
    pub(super) fn make_next(&mut self, now: Time, links: &BTreeSet<NodeId>, io: &mut Io) -> bool {
        let next = self.ballot.take_ready(now, &|node| links.contains(&node));
        let is_made = next.is_some();
        if let Some(next) = next {
            self.begin(next, io);
        }
        is_made
    }

    /// The next ring was granted: it is made. Newcomers become members with the one behind it, when
    /// it is certain that no other change came first.
    fn begin(&mut self, Next { ring, purpose }: Next, io: &mut Io) {
        let mut members = io.local.members().clone();
        match purpose {
            Purpose::Begin(newcomers) => members.adopt(&joining(&newcomers, ring.version())),
            Purpose::Cancel => {}
            Purpose::Forward => members = steps::members_behind(io.local.ring(), &ring, &members),
        }
        self.take(ring, &members, io);
    }

    /// Makes a later ring durable, with its members, and the loss of read eligibility for the
    /// partitions that it brings here.
    fn take(&mut self, ring: Ring, members: &Members, io: &mut Io) {
        debug_assert!(self.taking.is_none(), "one ring at a time is on its way to the disk");
        debug_assert!(ring.id() > io.local.ring_id(), "a ring is followed by a later one");
        let own = own_partitions(&ring, self.me);
        let members = io.local.replace_members(members);
        let before = io.local.own().to_vec();
        let meta = io.local.change_meta(|meta| {
            let gained = own.iter().copied().filter(|own| before.binary_search(own).is_err());
            meta.lose(&gained.collect::<Vec<_>>());
            meta.read_ineligible.retain(|lost| own.binary_search(lost).is_ok());
        });
        let seq = io.out.write(vec![Change::Ring(ring.clone()), members, meta]);
        io.local.expect(own);
        self.taking = Some(Taking { seq, ring: Arc::new(ring) });
    }

    /// Something is durable: returns the ring that comes into force now, if there is one.
    pub(super) fn synced(&mut self, io: &Io) -> Option<Arc<Ring>> {
        let taking = self.taking.take_if(|taking| io.out.is_durable(taking.seq))?;
        Some(taking.ring)
    }

    /// Another ring is in force from now on.
    pub(super) fn set_ring(&mut self, before: &Ring, io: &mut Io) {
        let ring = io.local.ring().clone();
        self.before = before.meets(&ring).then(|| before.id());
        self.fence.keep(|node| io.local.is_peer(node));
        self.progress.clear();
        self.last_progress = None;
        self.ballot.end_grant();
        debug_assert!(!self.ballot.has_proposal(), "a proposal ends with the ring that it was of");
        if std::mem::take(&mut self.ordered) {
            io.out.ring_ordered(Ok(ring.id()));
        }
        // It is made known at once; introductions repeat that until it is confirmed.
        let peers: Vec<NodeId> = self.reach.all().into_iter().filter(|id| ring.has(*id)).collect();
        let behind = |id: &NodeId| !self.fence.has_confirmed(*id, ring.id());
        self.report(peers.into_iter().filter(behind).collect(), io);
    }
}

/// Has newcomers dialed before they are members: a write of the ring that they come with counts
/// only when they have it, too.
fn dial(newcomers: &[Member], version: u64, io: &mut Io) {
    if newcomers.is_empty() || newcomers.len() > MAX_MEMBERS {
        return;
    }
    let mut members = io.local.members().clone();
    members.adopt(&joining(newcomers, version));
    io.out.set_members(members);
}

/// Newcomers as members of a ring with this version.
fn joining(newcomers: &[Member], version: u64) -> Members {
    let membership = MembershipStatus::Joining;
    let member = |new: &Member| Member { membership, version, ..new.clone() };
    Members::new(newcomers.iter().map(member).collect())
}

fn status(members: &Members, id: NodeId) -> Option<MembershipStatus> {
    members.get(id).map(|member| member.membership)
}
