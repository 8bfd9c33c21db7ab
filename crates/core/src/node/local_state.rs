//! The state of a node that all its roles see: its store's own state, the members, the GC epochs,
//! the trees, the hints for others, and whether it serves.

use std::collections::BTreeMap;

use super::gc_epochs::GcEpochs;
use super::hints::{HintLedger, HintPlace, HintSize};
use super::merkle_trees::{MerkleTrees, own_partitions};
use super::{Config, Stall};
use crate::causal::Actor;
use crate::members::{Member, Members};
use crate::message::{Rejection, Resource};
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
    members: Members,
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
        let own = own_partitions(&config.ring, config.me).into_iter();
        let mut trees = MerkleTrees::new(own, config.object_limits.accepted);
        trees.take_over(&config.trees);
        LocalState {
            me: config.me,
            now: Time::START,
            meta,
            members: config.members.clone(),
            trees,
            gc_epochs: GcEpochs::new(&config.gc_epochs),
            hints: HintLedger::new(&config.hints, config.hint_limit_bytes),
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
        let learnt = self.members.merge(news.iter().copied());
        learnt.then(|| Change::Members(self.members.clone()))
    }

    /// Replaces the member list by this one, with newer entries merged in; returns the change to
    /// write.
    #[must_use = "what has changed has to be written"]
    pub(super) fn replace_members(&mut self, members: &Members) -> Change {
        let known = std::mem::replace(&mut self.members, members.clone());
        self.members.merge(known.iter());
        Change::Members(self.members.clone())
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

/// The rejection of work for a disk that does not answer.
pub(super) fn stalled() -> Rejection {
    Rejection::Busy { what: Resource::DiskTime, limit: STALLED_AFTER_MS }
}
