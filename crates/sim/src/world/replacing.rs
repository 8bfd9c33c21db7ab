//! Replacement of a member for good, and the return of the old host with its data.

use std::collections::VecDeque;
use std::sync::Arc;

use pixii_core::members::{Member, Members, MembershipStatus};
use pixii_core::node::{Input, Node, RingOrder};
use pixii_core::ring::{Edit, Ring};
use pixii_core::rng::Rng;
use pixii_core::store::memory::MemoryStore;
use pixii_core::store::{Store, StoreIdentity};
use pixii_core::types::{Micros, NodeId, Time};

use super::{Event, Host, World};
use crate::judge::Broken;
use crate::scenario::Fault;

/// The operator repeats the command at this interval until it has been carried out.
const RETRY_INTERVAL: Micros = Micros::from_millis(1_000);
/// How long a removed host runs again before it is notified of its removal.
const TALKS: Micros = Micros::from_millis(500);

pub(super) fn name(at: usize) -> String {
    format!("n{at}")
}

impl Host {
    /// A host with an empty disk, whose configuration names these members.
    pub(super) fn new(at: usize, members: impl Iterator<Item = usize>, n: u8, q: u16) -> Self {
        let members =
            Members::new(members.map(|at| Member::configured(name(at), "sim:1")).collect());
        let Ok(ring) = Ring::new(&members.ids(), n, q) else {
            unreachable!("a scenario has at least as many hosts as replicas")
        };
        Host {
            id: NodeId::of(&name(at)),
            identity: StoreIdentity { cluster: "sim".into(), name: name(at), ring: ring.digest() },
            ring: Arc::new(ring),
            members,
            store: MemoryStore::default(),
            node: None,
            incarnation: 0,
            writes: Default::default(),
            writing: false,
            paused_until: Time::START,
            held: VecDeque::new(),
            slow_until: Time::START,
            hung_until: Time::START,
            stalled: None,
            backup: None,
            copy: None,
            unnoticed: false,
            settled: None,
            is_removed: false,
            bootstraps: false,
            bootstrapped: None,
            wake: None,
        }
    }

    /// The ring and the members with which the next incarnation begins: from the disk if it has
    /// them, else from the configuration.
    pub(super) fn placement(&self) -> (Arc<Ring>, Members) {
        match (self.store.ring(), self.store.members()) {
            (Ok(Some(ring)), Ok(Some(members))) => (Arc::new(ring), members),
            _ => (self.ring.clone(), self.members.clone()),
        }
    }
}

/// One replacement of a run: a host dies for good, and an operator gives its places in the ring to
/// a newcomer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Replacing {
    /// The index of the host whose places are given away.
    pub(super) old: usize,
    /// The index of the newcomer that gets them.
    pub(super) new: usize,
    /// When the operator gives the command for the first time; `None` before the host dies.
    begun: Option<Time>,
}

/// The planned replacements; newcomers have the indices after the `hosts` of the beginning.
pub(super) fn planned(faults: &[(Micros, Fault)], hosts: usize) -> Vec<Replacing> {
    let olds = faults.iter().filter_map(|(_, fault)| match fault {
        Fault::Replace { host, .. } => Some(*host),
        _ => None,
    });
    olds.zip(hosts..).map(|(old, new)| Replacing { old, new, begun: None }).collect()
}

impl World {
    /// True if the host belongs to a cluster, by its node or else by its disk.
    fn founded(&self, at: usize) -> bool {
        let host = &self.hosts[at];
        match &host.node {
            Some(node) => node.meta().cluster.is_some(),
            None => matches!(host.store.meta(), Ok(Some(meta)) if meta.cluster.is_some()),
        }
    }

    /// The hosts of the beginning that are not dead for good.
    fn living(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.plan.hosts).filter(|at| !self.hosts[*at].is_removed)
    }

    /// The host dies for good, and an operator is about to give its places to a newcomer. A second
    /// operator may do the same.
    pub(super) fn begin_replacing(&mut self, old: usize, back: Micros) {
        // All members found a cluster together, so before that no node can take the command.
        let runs_founded = |at: usize| self.hosts[at].node.is_some() && self.founded(at);
        if !self.living().filter(|at| *at != old).all(runs_founded) {
            let again = Fault::Replace { host: old, back };
            return self.schedule(self.now() + RETRY_INTERVAL, Event::Fault(again));
        }
        let this = |one: &Replacing| one.old == old && one.begun.is_none();
        let Some(which) = self.replacing.iter().position(this) else { return };
        let twice = self.hosts[old].is_removed;
        if !twice {
            self.count("members replaced");
            self.judge.lose(self.now(), old, None);
            if self.hosts[old].node.is_some() {
                let lost = self.hosts[old].store.power_cut(&mut self.rng);
                *self.counts.entry("unsynced batches lost").or_default() += lost as u64;
                self.stop(old);
            }
            self.hosts[old].is_removed = true;
        }
        let starts = self.now() + self.rng.within(2 * RETRY_INTERVAL);
        self.schedule(starts, Event::Start { at: self.replacing[which].new });
        // The second operator gives the command at about the same time as the first.
        let others = self.replacing.iter().filter_map(|one| one.begun);
        let command = match others.filter(|begun| *begun > self.now()).max() {
            Some(begun) => begun + self.rng.within(2 * self.plan.mean_delay),
            None => self.now() + self.rng.within(RETRY_INTERVAL),
        };
        self.replacing[which].begun = Some(command);
        if which > 0 {
            self.count(if twice {
                "members replaced twice at once"
            } else {
                "pairs replaced at once"
            });
        }
        self.schedule(command, Event::Replace { which });
        if !twice {
            self.schedule(self.now() + back, Event::Return { at: old });
        }
    }

    /// True once some host uses a ring in which other hosts have the places of this one.
    fn is_replaced(&self, old: usize) -> bool {
        self.ring.version() > 1 && !self.ring.has(self.hosts[old].id)
    }

    /// The newcomers that were meant to get the places of this host.
    fn newcomers(&self, old: usize) -> impl Iterator<Item = usize> + '_ {
        self.replacing.iter().filter(move |one| one.old == old).map(|one| one.new)
    }

    /// True once the fence behind the ring without the host has passed: every host uses such a
    /// ring, or would after a start, newcomers without places excepted. A ring that is still on its
    /// way to a disk is not in force there: until it is, that member counts acknowledgements of the
    /// removed host.
    fn is_known(&self, old: usize) -> bool {
        let has_place = |at: &usize| self.ring.has(self.hosts[*at].id);
        let newcomers = self.newcomers(old).filter(has_place);
        self.is_replaced(old)
            && self.living().chain(newcomers).all(|at| {
                let host = &self.hosts[at];
                let (ring, _) = host.placement();
                let lives_with_it = host.node.as_ref().is_none_or(|n| n.ring_id() == ring.id());
                lives_with_it && ring.version() > 1 && !ring.has(self.hosts[old].id)
            })
    }

    /// The operator gives the command to some node that serves, and repeats it until every host
    /// knows the new ring. The node that took it may have lost its disk before it sent the ring to
    /// any other, and hosts that have lost the ring do not know the newcomer.
    pub(super) fn replace(&mut self, which: usize) {
        let Replacing { old, new, .. } = self.replacing[which];
        if self.is_known(old) {
            return self.dismiss(old);
        }
        self.schedule(self.now() + RETRY_INTERVAL, Event::Replace { which });
        let taken = |at: usize| {
            let (ring, _) = self.hosts[at].placement();
            ring.version() > 1 && !ring.has(self.hosts[old].id)
        };
        if self.living().any(taken) {
            return;
        }
        let serves = |at: &usize| self.hosts[*at].node.as_ref().is_some_and(Node::is_settled);
        let ready: Vec<usize> = self.living().filter(serves).collect();
        if ready.is_empty() && !(0..self.hosts.len()).any(|at| at != old && self.founded(at)) {
            return self.bootstrap();
        }
        if let Some(at) = self.rng.pick(&ready).copied() {
            let new = Member::configured(name(new), "sim:1");
            self.note(|| format!("n{at} is ordered to give n{old}'s places to {}", new.name));
            let edits = vec![Edit::Replace { old: self.hosts[old].id, new: new.id() }];
            let order = RingOrder::Begin { edits, newcomers: vec![new] };
            self.input(at, Input::Ring(order));
        }
    }

    /// All hosts know the new owners of the places: a newcomer that did not get them is removed
    /// together with its data.
    fn dismiss(&mut self, old: usize) {
        let has_place = |at: &usize| self.ring.has(self.hosts[*at].id);
        let in_vain = |at: &usize| !has_place(at) && !self.hosts[*at].is_removed;
        let in_vain: Vec<usize> = self.newcomers(old).filter(in_vain).collect();
        for at in in_vain {
            self.judge.lose(self.now(), at, None);
            self.hosts[at].is_removed = true;
            self.refuse(at);
            self.count("newcomers in vain");
        }
    }

    /// All others were set back to before the founding of the cluster, and some are dead: the
    /// operator has one of them found it anew, and waits.
    fn bootstrap(&mut self) {
        let runs = |at: &usize| self.hosts[*at].node.is_some();
        let Some(at) = self.living().find(runs) else { return };
        // A second one that cannot reach the first would found a cluster of its own.
        let is_ordered = |at: usize| {
            let host = &self.hosts[at];
            host.node.is_some() && host.bootstrapped == Some(host.incarnation)
        };
        if self.living().any(is_ordered) {
            return;
        }
        self.note(|| format!("n{at} is to found the cluster anew"));
        self.stop(at);
        self.hosts[at].bootstraps = true;
        self.start(at);
        self.hosts[at].bootstraps = false;
        self.hosts[at].bootstrapped = Some(self.hosts[at].incarnation);
    }

    /// Another ring is in force at a node.
    pub(super) fn take_ring(&mut self, at: usize, ring: &Ring) {
        if ring.version() == self.ring.version() && ring.id() != self.ring.id() {
            self.count("rings made at once");
        }
        if ring.step().is_some() {
            self.count("rings in a change");
        }
        if ring.supersedes(&self.ring) {
            self.ring = Arc::new(ring.clone());
        }
        self.judge_ring(at);
    }

    /// Checks that a removed member owns nothing: no node uses a ring with places for a member that
    /// this ring or an earlier one removed. (A node may learn of a later removal before it has the
    /// ring of that removal.)
    pub(super) fn judge_ring(&mut self, at: usize) {
        let (ring, members) = self.hosts[at].placement();
        let owns = |member: &&Member| {
            member.membership == MembershipStatus::Removed
                && member.version <= ring.version()
                && ring.has(member.id())
        };
        let identity = members.iter().find(owns);
        if let Some(identity) = identity.filter(|_| !self.hosts[at].is_removed) {
            let what = format!(
                "n{at} uses ring version {}, in which {} has places, which is removed",
                ring.version(),
                identity.name
            );
            let key = self.some_key();
            self.broken = self.broken.take().or(Some(Broken { key, what }));
        }
    }

    /// The removed host starts again with its old data, once every host knows of its removal.
    pub(super) fn come_back(&mut self, at: usize) {
        if !self.is_known(at) {
            return self.schedule(self.now() + RETRY_INTERVAL, Event::Return { at });
        }
        self.count("removed members started again");
        self.note(|| format!("n{at}, which is removed, starts with what it had"));
        self.start(at);
        let when = self.now() + Rng::new(self.plan.seed).within(TALKS);
        self.schedule(when, Event::Refused { at });
    }

    /// The removed host is notified of its removal and ends; its disk stays as it is.
    pub(super) fn refuse(&mut self, at: usize) {
        if self.hosts[at].node.is_some() {
            self.stop(at);
        }
    }

    /// The node that has the places of this one now: its heir once it is replaced, else itself.
    pub(super) fn successor(&self, id: NodeId) -> NodeId {
        let gone = self.replacing.iter().find(|one| self.hosts[one.old].id == id);
        let heir = gone.filter(|one| self.is_replaced(one.old)).and_then(|one| self.heir(one.old));
        heir.map_or(id, |heir| self.hosts[heir].id)
    }

    /// The newcomer that has the places of this host; `None` if none has them yet.
    fn heir(&self, old: usize) -> Option<usize> {
        self.newcomers(old).find(|at| self.ring.has(self.hosts[*at].id))
    }

    /// The host that receives the requests for this one: its heir once it is replaced, else itself.
    pub(super) fn queried(&self, at: usize) -> usize {
        if !self.hosts[at].is_removed {
            return at;
        }
        let heir = self.is_replaced(at).then(|| self.heir(at)).flatten();
        // One that has left has no heir: its clients go to another one.
        let other = || (0..self.hosts.len()).find(|at| !self.hosts[*at].is_removed);
        heir.or_else(|| self.has_left(at).then(other).flatten()).unwrap_or(at)
    }
}
