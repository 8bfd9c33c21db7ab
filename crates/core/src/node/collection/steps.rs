//! The steps from one generation to the next: what has to be done to the own records first, and
//! when the generation begins.

use std::collections::BTreeSet;

use super::chores::{Ended, Purpose};
use super::{Beginning, Collection, others};
use crate::generation::Generation;
use crate::message::{Body, Counter};
use crate::node::effects::Effects;
use crate::node::ids::RequestId;
use crate::store::Change;
use crate::types::{NodeId, Partition};

impl Collection {
    /// A member knows the same generations. If it is certain of its own, or if all others do, then
    /// nothing here is old.
    pub(super) fn agree_on_all(&mut self, from: NodeId, certain: bool, fx: &mut Effects) {
        // It is certain already, as nearly always: with many members, counting them at each word is
        // dear.
        if fx.local.meta().fresh.is_empty() {
            return;
        }
        if self.agreeing.0 != fx.local.generations.digest() {
            self.agreeing = (fx.local.generations.digest(), BTreeSet::new());
        }
        self.agreeing.1.insert(from);
        let all = others(self.me, fx).iter().all(|member| self.agreeing.1.contains(member));
        let outlived = fx.local.hints.has_outlived(&fx.local.generations);
        if (certain || all) && fx.local.is_settled() && !outlived {
            fx.change_meta(|meta| meta.fresh.clear());
        }
    }

    /// Takes over a later generation that somebody knows, once what it condemns is dead here. More
    /// than one ahead, this disk is an old one: what others minted and it still has may be
    /// collected, and is renounced.
    pub(super) fn adopt(&mut self, partition: Partition, generation: Generation, fx: &mut Effects) {
        let own = fx.local.generations.number(partition);
        if partition.0 >= self.ring.partitions()
            || generation.number <= own
            || self.is_adopting(partition)
        {
            return;
        }
        if !generation.is_sound(own) {
            return fx.out.count(Counter::ForgedGenerationsRefused);
        }
        let is_home = self.ring.homes(partition).contains(&self.me);
        let is_outdated = generation.number > own.next();
        if is_home
            && is_outdated
            && fx.local.meta().without_authority.binary_search(&partition).is_err()
        {
            fx.out.count(Counter::OldDisksRenounced);
            fx.change_meta(|meta| {
                meta.without_authority.push(partition);
                meta.without_authority.sort_unstable();
            });
        }
        let condemned = generation.condemned.clone();
        let renounce = is_home && is_outdated;
        if renounce {
            fx.local.generations.begin_adopting(partition, generation.number);
        }
        let purpose = Purpose::Adopt { generation, renounce, tell: false };
        self.chores.begin(partition, purpose, condemned, fx.out.last_mark());
        self.work(partition, fx);
    }

    /// Takes what is collected out of the own records.
    pub(super) fn clear(&mut self, partition: Partition, fx: &mut Effects) {
        let collected = fx.local.generations.of(partition).collected.clone();
        if !collected.is_empty() && self.ring.homes(partition).contains(&self.me) {
            self.chores.begin(partition, Purpose::Clear, collected, fx.out.last_mark());
            self.work(partition, fx);
        }
    }

    /// The own replica has done a part of a chore, or could not.
    pub(in crate::node) fn done(&mut self, op: RequestId, body: &Body, fx: &mut Effects) {
        if let Some(partition) = self.chores.done(fx.local.now(), op, body) {
            self.work(partition, fx);
        }
    }

    /// Goes on with a partition's chore; takes the consequences when it is over.
    pub(super) fn work(&mut self, partition: Partition, fx: &mut Effects) {
        let is_home = self.ring.homes(partition).contains(&self.me);
        let Some(ended) = self.chores.go_on(partition, is_home, &mut self.ids, fx) else { return };
        match ended {
            Ended::Agreed { to, op } => {
                fx.local.generations.agree(partition);
                // All that it rests on is written by now; it is told when that is synced.
                let mark = fx.out.last_mark();
                fx.out.send_synced(Some(mark), to, op, Body::Agreed);
            }
            Ended::Refused { to, op, why } => fx.out.send(vec![to], op, Body::NotYet(why)),
            Ended::Adopted { generation, tell } => {
                let written = Change::Generation { partition, generation: generation.clone() };
                let mark = fx.out.write(vec![written]);
                self.rounds.remove(&partition);
                self.beginning.insert(partition, Beginning { mark, generation, tell });
            }
            Ended::Nothing => {}
        }
    }

    /// Begins the generations that are durable by now. Nobody must hear of one before, and no
    /// object be stamped with it: a crash could undo it, and another one of the same number follow.
    pub(super) fn begin_durable(&mut self, fx: &mut Effects) {
        let durable = |(_, beginning): &(&Partition, &Beginning)| fx.out.is_durable(beginning.mark);
        let durable: Vec<Partition> =
            self.beginning.iter().filter(durable).map(|(partition, _)| *partition).collect();
        for partition in durable {
            let Some(Beginning { generation, tell, .. }) = self.beginning.remove(&partition) else {
                debug_assert!(false, "what begins by now was listed, and nothing else ends it");
                continue;
            };
            fx.out.count(Counter::GenerationsAdopted);
            fx.local.generations.set(partition, generation.clone());
            let op = self.ids.next();
            for member in others(self.me, fx).into_iter().filter(|_| tell) {
                let generation = generation.clone();
                fx.out.send(vec![member], op, Body::Generation { partition, generation });
            }
            self.clear(partition, fx);
        }
    }

    /// True if something is being done to the records of a partition, or its next generation is
    /// about to begin.
    pub(super) fn is_at_work(&self, partition: Partition) -> bool {
        self.chores.has(partition) || self.beginning.contains_key(&partition)
    }

    pub(super) fn is_adopting(&self, partition: Partition) -> bool {
        self.chores.is_adopting(partition) || self.beginning.contains_key(&partition)
    }
}
