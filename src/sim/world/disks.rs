//! The hosts' disks: writes one batch at a time, reads beside them, all of them late.

use super::{Event, World};
use crate::node::{Done, Input, Work};
use crate::store::{Found, Store};

impl World {
    pub(super) fn submit(&mut self, at: usize, work: Work) {
        let life = self.hosts[at].life;
        match work {
            Work::Write { mark, changes } => {
                self.hosts[at].writes.push_back((mark, changes));
                self.write(at);
            }
            Work::Read { .. } | Work::List { .. } => {
                let when = self.now + self.rng.below(self.plan.mean_disk);
                self.schedule(when, Event::Disk { at, life, work });
            }
        }
    }

    /// One batch at a time, of everything that is queued: group commit.
    fn write(&mut self, at: usize) {
        let host = &mut self.hosts[at];
        if host.writing || host.writes.is_empty() {
            return;
        }
        host.writing = true;
        let mut last = 0;
        for (mark, changes) in host.writes.drain(..) {
            let _ = host.store.apply(&changes);
            last = mark;
        }
        let life = host.life;
        let slow = if self.rng.chance(0.02) { 20 } else { 2 };
        let when = self.now + 50 + self.rng.below(slow * self.plan.mean_disk);
        self.schedule(when, Event::Synced { at, life, mark: last });
    }

    pub(super) fn synced(&mut self, at: usize, life: u64, mark: u64) {
        if self.hosts[at].life != life {
            return;
        }
        if self.hosts[at].writing {
            let _ = self.hosts[at].store.sync();
            self.hosts[at].writing = false;
        }
        let paused = self.hosts[at].paused_until;
        if paused > self.now {
            return self.schedule(paused, Event::Synced { at, life, mark });
        }
        self.input(at, Input::Store(Done::Synced { mark }));
        self.write(at);
    }

    pub(super) fn disk(&mut self, at: usize, life: u64, work: Work) {
        let host = &self.hosts[at];
        if host.life != life {
            return;
        }
        let done = match work {
            Work::Read { token, partition, key } => {
                let found = host.store.read(partition, &key).unwrap_or(Found::Damaged);
                Done::Read { token, found }
            }
            Work::List { token, partition, after, limit_bytes } => {
                let listing = host.store.list(partition, after.as_ref(), limit_bytes);
                Done::List { token, listing: listing.unwrap_or_default() }
            }
            Work::Write { .. } => return,
        };
        self.input(at, Input::Store(done));
    }
}
