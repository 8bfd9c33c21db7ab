//! A member that is replaced for good, and comes back all the same with what it had.

use std::sync::Arc;

use super::{Event, Host, World};
use crate::members::{Member, Members};
use crate::node::{Input, Node};
use crate::ring::Ring;
use crate::rng::Rng;
use crate::sim::scenario::Fault;
use crate::store::memory::MemoryStore;
use crate::store::{Owner, Store, end_life};
use crate::types::{MILLI, Micros, NodeId};

/// The command is given again after this time, until it has been carried out.
const AGAIN: Micros = 1_000 * MILLI;
/// A removed node talks for so long before it hears that it is removed.
const TALKS: Micros = 500 * MILLI;

pub(super) fn name(at: usize) -> String {
    format!("n{at}")
}

impl Host {
    /// A machine whose configuration names these hosts; an empty disk.
    pub(super) fn new(at: usize, members: impl Iterator<Item = usize>, n: u8, q: u16) -> Self {
        let members =
            Members::new(members.map(|at| Member::configured(name(at), "sim:1")).collect());
        let Ok(ring) = Ring::new(&members.ids(), n, q) else {
            unreachable!("a scenario has at least as many hosts as replicas")
        };
        Host {
            id: NodeId::of(&name(at)),
            owner: Owner { cluster: "sim".into(), name: name(at), ring: ring.digest() },
            ring: Arc::new(ring),
            members,
            store: MemoryStore::default(),
            node: None,
            life: 0,
            writes: Default::default(),
            writing: false,
            paused_until: 0,
            slow_until: 0,
            backup: None,
            unnoticed: false,
            settled: None,
            is_removed: false,
            bootstraps: false,
            wake: None,
        }
    }

    /// The ring that its next life begins with, and the members.
    pub(super) fn placement(&self) -> (Arc<Ring>, Members) {
        match (self.store.ring(), self.store.members()) {
            (Ok(Some(ring)), Ok(Some(members))) => (Arc::new(ring), members),
            _ => (self.ring.clone(), self.members.clone()),
        }
    }
}

fn founded(host: &Host) -> bool {
    host.node.as_ref().is_some_and(|node| node.meta().cluster.is_some())
}

impl World {
    /// The host dies for good, and an operator is about to give its places to the last one.
    pub(super) fn begin_replacing(&mut self, old: usize, back: Micros) {
        // A cluster is founded by all its members: before, there is nobody to give the command to.
        let members = self.hosts[..self.hosts.len() - 1].iter().enumerate();
        if !members.filter(|(at, _)| *at != old).all(|(_, host)| founded(host)) {
            let again = Fault::Replace { host: old, back };
            return self.schedule(self.now() + AGAIN, Event::Fault(again));
        }
        self.count("members replaced");
        self.judge.lose(self.now(), old, None);
        if self.hosts[old].node.is_some() {
            let lost = self.hosts[old].store.power_cut(&mut self.rng);
            *self.counts.entry("unsynced batches lost").or_default() += lost as u64;
            self.stop(old);
        }
        self.hosts[old].is_removed = true;
        self.replaced = Some((self.hosts[old].id, self.newcomer()));
        let starts = self.now() + self.rng.below(2 * AGAIN);
        self.schedule(starts, Event::Start { at: self.hosts.len() - 1 });
        let command = self.now() + self.rng.below(AGAIN);
        self.schedule(command, Event::Replace { old });
        self.schedule(self.now() + back, Event::Return { at: old });
    }

    fn newcomer(&self) -> NodeId {
        self.hosts.last().map_or(NodeId(0), |host| host.id)
    }

    /// True once some host lives with the later ring.
    fn is_replaced(&self) -> bool {
        self.ring.version() > 1
    }

    /// True once nobody is left who lives with the earlier ring, the host itself apart.
    fn is_known(&self, old: usize) -> bool {
        let others = self.hosts.iter().enumerate().filter(|(at, _)| *at != old);
        others.map(|(_, host)| host).all(|host| host.placement().0.version() > 1)
    }

    /// The operator gives the command to some node that serves; again, until everybody knows: who took it may have lost its
    /// disk before it told anybody, and the newcomer is nobody to those who have forgotten it.
    pub(super) fn replace(&mut self, old: usize) {
        if self.is_known(old) {
            return;
        }
        self.schedule(self.now() + AGAIN, Event::Replace { old });
        let members = &self.hosts[..self.hosts.len() - 1];
        if members.iter().any(|host| host.placement().0.version() > 1) {
            return;
        }
        let serves = |at: &usize| self.hosts[*at].node.as_ref().is_some_and(Node::is_settled);
        let members = 0..self.hosts.len() - 1;
        let ready: Vec<usize> = members.filter(|at| *at != old).filter(serves).collect();
        if ready.is_empty() && !self.hosts.iter().enumerate().any(|(at, h)| at != old && founded(h))
        {
            return self.bootstrap(old);
        }
        if let Some(at) = self.rng.pick(&ready).copied() {
            let new = Member::configured(name(self.hosts.len() - 1), "sim:1");
            self.note(|| format!("n{at} is told to give n{old}'s places to {}", new.name));
            self.input(at, Input::Replace { old: self.hosts[old].id, new });
        }
    }

    /// All others were set back to before the cluster was founded, and one is dead: the operator has one of them found it anew.
    fn bootstrap(&mut self, old: usize) {
        let runs = |at: &usize| *at != old && self.hosts[*at].node.is_some();
        let Some(at) = (0..self.hosts.len() - 1).find(runs) else { return };
        self.note(|| format!("n{at} is to found the cluster anew"));
        self.stop(at);
        self.hosts[at].bootstraps = true;
        self.start(at, false);
        self.hosts[at].bootstraps = false;
    }

    /// A node has a later ring: it ends its life, and begins another one at once.
    pub(super) fn relive(&mut self, at: usize) {
        let Some(meta) = self.hosts[at].node.as_ref().map(|node| node.meta().clone()) else {
            return;
        };
        for (_, changes) in std::mem::take(&mut self.hosts[at].writes) {
            let _ = self.hosts[at].store.apply(&changes);
        }
        let _ = end_life(&self.hosts[at].store, &meta);
        self.count("lives ended by a later ring");
        let (ring, _) = self.hosts[at].placement();
        if ring.supersedes(&self.ring) {
            self.ring = ring;
        }
        self.stop(at);
        self.start(at, true);
    }

    /// The removed host starts again, with what it had, once nobody is left who does not know.
    pub(super) fn come_back(&mut self, at: usize) {
        if !self.is_known(at) {
            return self.schedule(self.now() + AGAIN, Event::Return { at });
        }
        self.count("removed members started again");
        self.note(|| format!("n{at}, which is removed, starts with what it had"));
        self.start(at, false);
        let when = self.now() + Rng::new(self.plan.seed).below(TALKS);
        self.schedule(when, Event::Refused { at });
    }

    /// It hears that it is removed, and ends; its disk stays as it is.
    pub(super) fn refuse(&mut self, at: usize) {
        if self.hosts[at].node.is_some() {
            self.stop(at);
        }
    }

    /// Whose place the node has now, or would have had.
    pub(super) fn successor(&self, id: NodeId) -> NodeId {
        match self.replaced {
            Some((old, new)) if old == id && self.is_replaced() => new,
            _ => id,
        }
    }

    /// Who is asked in the place of this host.
    pub(super) fn asked(&self, at: usize) -> usize {
        if self.hosts[at].is_removed && self.is_replaced() { self.hosts.len() - 1 } else { at }
    }
}
