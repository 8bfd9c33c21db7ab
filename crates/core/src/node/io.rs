//! What a role can act on beside its own state: the state that all roles share, and the outbox; and
//! the changes that concern both, because what changes here has to be written.

use super::ids::SyncSeq;
use super::local_state::LocalState;
use super::outbox::Outbox;
use super::{Config, Notice, Oversize};
use crate::causal::Actor;
use crate::members::Member;
use crate::message::{Counter, Measure, Rejection, Resource};
use crate::store::Meta;

/// Most ids whose dots are not old, whatever the disk is.
const MAX_FRESH: usize = 1_024;

/// The shared state and the outbox of one node.
#[derive(Clone, Debug)]
pub(super) struct Io {
    pub(super) local: LocalState,
    pub(super) out: Outbox,
}

impl Io {
    pub(super) fn new(config: &Config, meta: Meta) -> Self {
        Io { local: LocalState::new(config, meta), out: Outbox::new(config) }
    }

    /// Changes what the store knows of itself; the mark reports when that is durable.
    pub(super) fn change_meta(&mut self, change: impl FnOnce(&mut Meta)) -> SyncSeq {
        let changed = self.local.change_meta(change);
        self.out.write(vec![changed])
    }

    /// Takes over what is known better of the members, and remembers it; true if anything was new.
    pub(super) fn learn_members(&mut self, news: &[&Member]) -> bool {
        let learnt = self.local.learn_members(news);
        let is_new = learnt.is_some();
        if let Some(learnt) = learnt {
            self.out.write(vec![learnt]);
        }
        is_new
    }

    /// Notes that an actor which stands for a write is about to issue its dot here: should this
    /// disk turn out to be an old one, that dot is not old.
    pub(super) fn vouch_for(&mut self, actor: Actor) -> Result<(), Rejection> {
        let fresh = &self.local.meta().fresh;
        if fresh.is_empty() || fresh.contains(&actor.store) {
            return Ok(());
        }
        if fresh.len() >= MAX_FRESH {
            let what = Resource::UnwitnessedPuts;
            return Err(Rejection::Busy { what, limit: MAX_FRESH as u32 });
        }
        self.change_meta(|meta| meta.fresh.push(actor.store));
        Ok(())
    }

    /// Counts a merge or a hint that is declined, notifies the operator now and then, and gives the
    /// rejection.
    pub(super) fn decline(&mut self, oversize: Oversize) -> Rejection {
        self.out.count(if oversize.hint {
            Counter::HintsDeclined
        } else {
            Counter::MergesDeclined
        });
        let (bytes, limit) = (oversize.bytes as u64, oversize.limit as u64);
        if self.local.note_declined(&oversize.key) {
            self.out.notice(Notice::Declined(oversize));
        }
        Rejection::Limit { what: Measure::SiblingBytes, given: bytes, limit }
    }

    /// Notes that every write up to `seq` is durable, and lets go what waited for that.
    pub(super) fn release(&mut self, seq: SyncSeq) {
        self.local.trees.synced(seq);
        self.out.release(seq);
    }
}
