//! The state of a node that all its roles see: its store's own state, the ring, the members, the GC
//! epochs, the trees, the hints for others, and whether it serves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::gc_epochs::GcEpochs;
use super::hints::{HintLedger, HintPlace, HintSize};
use super::merkle_trees::{MerkleTrees, own_partitions};
use super::{Config, Stall, rules};
use crate::causal::Actor;
use crate::members::{Member, Members, MembershipStatus};
use crate::message::{Rejection, Resource};
use crate::ring::{Ring, RingId};
use crate::store::{Change, Meta};
use crate::types::{Key, Micros, NodeId, Partition, Time};

/// Clients that were there so lately are likely to come again.
const BUSY: Micros = Micros::from_millis(1_000);
/// A store that has made no progress for this long is stalled, as the driver measures it.
const STALLED_AFTER_MS: u32 = 2_000;
/// The operator is notified once in this time of a key whose merge or hint was declined. A limited
/// number of keys is remembered; others are not reported meanwhile.
const DECLINE_NOTICE: Micros = Micros::from_millis(60_000);
const MAX_DECLINED_KEYS: usize = 256;

/// The state that the roles of one node share. Methods that change durable parts return the change
/// to write.
#[derive(Clone, Debug)]
pub(super) struct LocalState {
    me: NodeId,
    now: Time,
    meta: Meta,
    /// The ring in force here, which is durable; its name; and the partitions that this node owns
    /// in it, sorted.
    ring: Arc<Ring>,
    ring_id: RingId,
    own: Vec<Partition>,
    /// Those that it will own under the ring that is on its way to the disk.
    coming: Vec<Partition>,
    /// True once every member is known to have confirmed the ring.
    fenced: bool,
    /// Partitions that this node does not own and may hold records of: what is left of an earlier
    /// ring, or has come by one that this node did not have yet.
    surplus: BTreeSet<Partition>,
    members: Members,
    /// Nodes whose messages say which ring they are of: they speak protocol 9, or a later one.
    heard_of_ring: BTreeSet<NodeId>,
    /// The latest ring that a message was of.
    latest_ring: RingId,
    membership_changed: bool,
    has_leavers: bool,
    /// The trees of the own records.
    pub(super) trees: MerkleTrees,
    /// The GC epochs of all partitions.
    pub(super) gc_epochs: GcEpochs,
    /// The totals of hints for other members.
    pub(super) hints: HintLedger,
    /// Until when clients count as being there, since they were.
    busy_until: Time,
    /// What the store holds up, if it makes no progress.
    stall: Option<Stall>,
    catching_up: bool,
    settled: bool,
    witnessed: bool,
    /// Keys recently reported to be over a limit, and when.
    declined: BTreeMap<Key, Time>,
}

impl LocalState {
    pub(super) fn new(config: &Config, meta: Meta) -> Self {
        let own = own_partitions(&config.ring, config.me);
        let mut surplus: BTreeSet<Partition> = config.held.iter().copied().collect();
        surplus.retain(|partition| own.binary_search(partition).is_err());
        let held = own.iter().chain(&surplus).copied();
        let mut trees = MerkleTrees::new(held, config.object_limits.accepted);
        trees.take_over(&config.trees);
        let is_own = |partition: Partition| own.binary_search(&partition).is_ok();
        let hints = HintLedger::new(&config.hints, config.hint_limit_bytes, is_own);
        LocalState {
            me: config.me,
            now: Time::START,
            meta,
            ring: config.ring.clone(),
            ring_id: config.ring.id(),
            own,
            coming: Vec::new(),
            fenced: false,
            surplus,
            members: config.members.clone(),
            heard_of_ring: BTreeSet::new(),
            latest_ring: config.ring.id(),
            membership_changed: false,
            has_leavers: has_leavers(&config.members),
            trees,
            gc_epochs: GcEpochs::new(&config.gc_epochs),
            hints,
            busy_until: Time::START,
            stall: None,
            catching_up: false,
            settled: false,
            witnessed: false,
            declined: BTreeMap::new(),
        }
    }

    /// Sets the time of the input at hand.
    pub(super) fn begin(&mut self, now: Time) {
        self.now = now;
    }

    /// The time of the input at hand.
    pub(super) fn now(&self) -> Time {
        self.now
    }

    pub(super) fn me(&self) -> NodeId {
        self.me
    }

    /// The ring in force here.
    pub(super) fn ring(&self) -> &Arc<Ring> {
        &self.ring
    }

    /// The version and digest of that ring.
    pub(super) fn ring_id(&self) -> RingId {
        self.ring_id
    }

    /// A later ring is in force from now on. What was owned and is not any more becomes surplus.
    pub(super) fn set_ring(&mut self, ring: Arc<Ring>) {
        let id = ring.id();
        debug_assert!(id > self.ring_id, "a ring is followed by a later one");
        let own = own_partitions(&ring, self.me);
        self.surplus.extend(std::mem::take(&mut self.own));
        self.surplus.retain(|partition| own.binary_search(partition).is_err());
        self.trees.hold(own.iter().copied());
        (self.ring, self.ring_id, self.own, self.fenced) = (ring, id, own, false);
        self.coming.clear();
        let own = &self.own;
        self.hints.judge_pending(|partition| own.binary_search(&partition).is_ok());
    }

    /// Notes whether every member has confirmed the ring.
    pub(super) fn set_fenced(&mut self, fenced: bool) {
        self.fenced = fenced;
    }

    /// True if a comparison that begins now can prove that an owner has all that was acknowledged.
    pub(super) fn may_prove(&self) -> bool {
        rules::may_prove(self.ring.step(), self.fenced)
    }

    /// The partitions that this node owns, in either table of a ring in a change; sorted.
    pub(super) fn own(&self) -> &[Partition] {
        &self.own
    }

    /// A ring is on its way to the disk, which gives these partitions to this node.
    pub(super) fn expect(&mut self, own: Vec<Partition>) {
        self.coming = own;
    }

    /// True if this node owns the partition, or will under the ring that is on its way to the disk.
    pub(super) fn may_own(&self, partition: Partition) -> bool {
        self.owns(partition) || self.coming.binary_search(&partition).is_ok()
    }

    /// True if this node owns the partition.
    pub(super) fn owns(&self, partition: Partition) -> bool {
        self.own.binary_search(&partition).is_ok()
    }

    /// True if this node owns the partition or may hold records that are left of it: what members
    /// agree on about its records is done here, too.
    pub(super) fn holds(&self, partition: Partition) -> bool {
        self.owns(partition) || self.surplus.contains(&partition)
    }

    /// The partitions whose records are here: its own, and what is left of others.
    pub(super) fn held(&self) -> Vec<Partition> {
        self.own.iter().chain(&self.surplus).copied().collect()
    }

    /// Partitions that this node does not own and may hold records of.
    pub(super) fn surplus(&self) -> &BTreeSet<Partition> {
        &self.surplus
    }

    /// A record is about to be written: if its partition has no place here, it is surplus.
    pub(super) fn note_record(&mut self, partition: Partition) {
        if !self.holds(partition) {
            self.surplus.insert(partition);
            self.trees.hold([partition].into_iter());
        }
    }

    /// Nothing is left of a partition that this node does not own.
    pub(super) fn release(&mut self, partition: Partition) {
        debug_assert!(!self.owns(partition), "what a node owns stays");
        if self.surplus.remove(&partition) {
            self.trees.drop(partition);
        }
    }

    /// True for a node that belongs to the cluster: it has a place in the ring, or is to come, or
    /// is on its way out. Nobody else is heard.
    pub(super) fn is_peer(&self, node: NodeId) -> bool {
        match self.members.get(node).map(|member| member.membership) {
            Some(MembershipStatus::Removed) => false,
            Some(MembershipStatus::Joining | MembershipStatus::Leaving) => true,
            Some(MembershipStatus::Member) | None => self.ring.has(node),
        }
    }

    /// True if this node is on its way out, or has been turned back before it came in: it has no
    /// place in the ring.
    pub(super) fn is_leaving(&self) -> bool {
        !self.ring.has(self.me) && self.meta.cluster.is_some()
    }

    /// A message of a node is of this ring.
    pub(super) fn hear_of_ring(&mut self, from: NodeId, ring: RingId) {
        self.heard_of_ring.insert(from);
        self.latest_ring = self.latest_ring.max(ring);
    }

    /// True if some node uses a later ring: what is here may have come under that one, and have its
    /// place here.
    pub(super) fn is_behind(&self) -> bool {
        self.latest_ring > self.ring_id || !self.coming.is_empty()
    }

    /// The link to a node is lost: it may come back with another program.
    pub(super) fn lose(&mut self, node: NodeId) {
        self.heard_of_ring.remove(&node);
    }

    /// True for a node whose messages say which ring they are of.
    pub(super) fn has_heard_of_ring(&self, node: NodeId) -> bool {
        self.heard_of_ring.contains(&node)
    }

    /// True for a node that has to agree to what members agree on: it has a place in the ring, or
    /// is on its way out and may still hold records.
    pub(super) fn is_counted(&self, node: NodeId) -> bool {
        let membership = self.members.get(node).map(|member| member.membership);
        match membership {
            Some(MembershipStatus::Removed) => false,
            Some(MembershipStatus::Leaving) => true,
            _ => self.ring.has(node),
        }
    }

    /// All such nodes but this one.
    pub(super) fn counted_others(&self) -> Vec<NodeId> {
        let ids = self.members.iter().map(Member::id);
        ids.filter(|id| *id != self.me && self.is_counted(*id)).collect()
    }

    /// The store's own state, as last written.
    pub(super) fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The members as they are known now.
    pub(super) fn members(&self) -> &Members {
        &self.members
    }

    /// Changes the store's own state; returns the change to write.
    #[must_use = "what has changed has to be written"]
    pub(super) fn change_meta(&mut self, change: impl FnOnce(&mut Meta)) -> Change {
        change(&mut self.meta);
        Change::Meta(self.meta.clone())
    }

    /// Merges newer entries into the member list; returns the change to write, if there is any.
    #[must_use = "what has changed has to be written"]
    pub(super) fn learn_members(&mut self, news: &[&Member]) -> Option<Change> {
        let known = self.members.clone();
        let learnt = self.members.merge(news.iter().copied());
        let mut pairs = known.iter().zip(self.members.iter());
        let changed = pairs.any(|(known, member)| known.membership != member.membership);
        self.membership_changed |= changed;
        self.has_leavers = has_leavers(&self.members);
        learnt.then(|| Change::Members(self.members.clone()))
    }

    /// True once after the list of members has come to say something new of who belongs to the
    /// cluster.
    pub(super) fn take_membership_changed(&mut self) -> bool {
        std::mem::take(&mut self.membership_changed)
    }

    /// Replaces the member list by this one, with newer entries merged in; returns the change to
    /// write.
    #[must_use = "what has changed has to be written"]
    pub(super) fn replace_members(&mut self, members: &Members) -> Change {
        let known = std::mem::replace(&mut self.members, members.clone());
        self.members.merge(known.iter());
        self.membership_changed = true;
        self.has_leavers = has_leavers(&self.members);
        Change::Members(self.members.clone())
    }

    /// True if some member is on its way out.
    pub(super) fn has_leavers(&self) -> bool {
        self.has_leavers
    }

    /// Notes that a store's actor has issued a dot: its actor epoch is not given out again in this
    /// process.
    pub(super) fn use_actor_epoch(&mut self, actor: Actor) {
        if actor.store == self.meta.store {
            self.meta.actor_epoch_end = self.meta.actor_epoch_end.max(actor.actor_epoch.next());
        }
    }

    /// Notes the size of the hint of a key for `target`, before and after a change; `None` is no
    /// hint.
    pub(super) fn count_hint(
        &mut self,
        target: NodeId,
        place: HintPlace,
        before: Option<HintSize>,
        after: Option<HintSize>,
    ) {
        self.hints.change(self.now, target, place, before, after);
    }

    /// True if the operator is to be notified now that an object of this key was declined.
    pub(super) fn note_declined(&mut self, key: &Key) -> bool {
        let now = self.now;
        self.declined.retain(|_, at| now.saturating_since(*at) < DECLINE_NOTICE);
        let is_new = self.declined.len() < MAX_DECLINED_KEYS && !self.declined.contains_key(key);
        if is_new {
            self.declined.insert(key.clone(), now);
        }
        is_new
    }

    /// Clients' requests are in progress here: background work yields to them.
    pub(super) fn set_busy(&mut self) {
        self.busy_until = self.now + BUSY;
    }

    /// True while clients use this node: between two requests of a few clients there is often none
    /// in progress.
    pub(super) fn is_busy(&self) -> bool {
        self.now < self.busy_until
    }

    /// The store makes no progress, or does again.
    pub(super) fn set_stall(&mut self, stall: Option<Stall>) {
        self.stall = stall;
    }

    /// What the store holds up, if it makes no progress.
    pub(super) fn stall(&self) -> Option<Stall> {
        self.stall
    }

    /// Sets whether some peer may still have hints for this node; absent keys do not count then.
    pub(super) fn set_catching_up(&mut self, catching_up: bool) {
        self.catching_up = catching_up;
    }

    /// From now on the node may issue.
    pub(super) fn settle(&mut self) {
        self.settled = true;
    }

    /// A peer has reported what it knows of this store: absent keys count from now on.
    pub(super) fn witness(&mut self) {
        self.witnessed = true;
    }

    /// True once that has happened.
    pub(super) fn is_witnessed(&self) -> bool {
        self.witnessed
    }

    /// True once the node may issue dots.
    pub(super) fn is_settled(&self) -> bool {
        self.settled
    }

    /// True if this node is read-eligible for a partition: it has all that it has ever
    /// acknowledged. Hints that others may still keep for it are another question:
    /// [`LocalState::is_catching_up`].
    pub(super) fn is_authoritative(&self, partition: Partition) -> bool {
        self.witnessed && self.meta.read_ineligible.binary_search(&partition).is_err()
    }

    /// True while some peer may still have hints for this node.
    pub(super) fn is_catching_up(&self) -> bool {
        self.catching_up
    }
}

fn has_leavers(members: &Members) -> bool {
    members.iter().any(|member| member.membership == MembershipStatus::Leaving)
}

/// The rejection of work for a disk that does not answer.
pub(super) fn stalled() -> Rejection {
    Rejection::Busy { what: Resource::DiskTime, limit: STALLED_AFTER_MS }
}
