//! A member leaves and a newcomer comes: three nodes, one partition with two owners, a few writes.
//!
//! The rings are those of [`Ring::begin`], [`Ring::forward`] and [`Ring::cancelled`], what counts
//! is decided by [`QuorumTracker`], and what a node takes, proves, erases, and when the ring goes
//! on, by [`pixii_core::node::rules`]. A write and its sync are one event, as are a comparison of
//! two owners with the transfer that it brings. Of two next rings at most one is made: grants are
//! not modelled.

use std::collections::BTreeSet;

use pixii_core::node::rules;
use pixii_core::quorum::QuorumTracker;
use pixii_core::ring::{Edit, Ring, RingId, RingMember, Step};
use pixii_core::types::{NodeId, Partition};

use super::search::Model;

const NODES: usize = 3;
const N: u8 = 2;
const PARTITION: Partition = Partition(0);

/// What may happen in a model, and how often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) writes: usize,
    /// Messages in flight at a time. Each may be lost, and they arrive in any order.
    pub(crate) messages: usize,
    pub(crate) crashes: u8,
    pub(crate) lost_disks: u8,
    pub(crate) cancels: bool,
}

/// The model of a cluster with these quorums.
pub(crate) struct Cluster {
    ids: [NodeId; NODES],
    w: u8,
    r: u8,
    limits: Limits,
    /// All rings that can be made, and the numbers of those behind each.
    rings: Vec<Ring>,
    forward: Vec<Option<u8>>,
    cancelled: Vec<Option<u8>>,
}

/// One bit for each node, or for each write.
type Bits = u8;

const fn bit(number: usize) -> Bits {
    1 << number
}

/// Most rings that a model has, writes, and messages in flight.
const MAX_RINGS: usize = 10;
const MAX_WRITES: usize = 2;
const MAX_MESSAGES: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Node {
    is_up: bool,
    /// True once another node has the ring that it has, since its start: it serves.
    is_settled: bool,
    /// Durable: the ring, the writes that its records have, and whether it is read-eligible.
    ring: u8,
    records: Bits,
    is_eligible: bool,
    /// The ring before the one in force, if the two meet.
    before: Option<u8>,
    /// Nodes that have introduced themselves with the ring in force here.
    confirmed: Bits,
    /// Nodes that were as far as this one when they did.
    accepted: Bits,
    /// Owners whose records are proven to be here, under the ring in force.
    heard: Bits,
    /// Owners that are proven to hold what this node, which is none, has.
    proven: Bits,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Write {
    /// Nobody has sent it.
    New,
    /// Its issuer has sent it under this ring; these nodes have acknowledged it.
    Sent {
        by: u8,
        ring: u8,
        acks: Bits,
    },
    Acknowledged,
    /// Its issuer is gone.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Message {
    Merge { from: u8, to: u8, ring: u8, write: u8 },
    Ack { from: u8, to: u8, ring: u8, write: u8 },
}

/// All that is the case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    nodes: [Node; NODES],
    writes: [Write; MAX_WRITES],
    /// Sorted.
    messages: [Option<Message>; MAX_MESSAGES],
    /// The ring that was made behind each.
    made: [Option<u8>; MAX_RINGS],
    crashes: u8,
    lost_disks: u8,
}

/// One thing that happens.
#[derive(Clone, Copy, Debug)]
#[expect(dead_code, reason = "what it has is shown")]
pub(crate) enum Event {
    /// An owner issues a write.
    Issue {
        node: usize,
        write: usize,
    },
    /// It asks another owner to merge that.
    Ask {
        write: usize,
        owner: usize,
    },
    /// A node shows its ring to another one.
    Introduce {
        from: usize,
        to: usize,
    },
    /// A message arrives, or is lost.
    Arrive(Message),
    Lose(Message),
    /// An owner is compared with another one, and has all that it has.
    Compare {
        owner: usize,
        with: usize,
    },
    /// A node that is no owner is compared with one, which gets what it lacks.
    Push {
        from: usize,
        owner: usize,
    },
    /// It erases what all owners hold.
    Erase {
        node: usize,
    },
    /// A node makes the next ring.
    Make {
        node: usize,
        ring: usize,
    },
    Crash {
        node: usize,
    },
    LoseDisk {
        node: usize,
    },
    Start {
        node: usize,
    },
}

impl Cluster {
    /// Every ring that the change can lead to is made here.
    pub(crate) fn new(w: u8, r: u8, limits: Limits) -> Self {
        assert!(w + r > N && limits.writes <= MAX_WRITES && limits.messages <= MAX_MESSAGES);
        let ids = ["a", "b", "c"].map(NodeId::of);
        let first = Ring::new(&ids[..2], N, 1).unwrap();
        let edits = [Edit::Leave(ids[1]), Edit::Join(RingMember::plain(ids[2]))];
        let mut rings = vec![first.begin(&edits).unwrap()];
        rings.insert(0, first);
        let (mut forward, mut cancelled) = (vec![Some(1)], vec![None]);
        let mut at = 1;
        while at < rings.len() {
            for (behind, next) in
                [(&mut forward, rings[at].forward()), (&mut cancelled, rings[at].cancelled())]
            {
                let known = |next: &Ring| rings.iter().position(|ring| ring.id() == next.id());
                behind.push(next.as_ref().map(|next| known(next).unwrap_or(rings.len()) as u8));
                rings.extend(next.filter(|next| rings.iter().all(|ring| ring.id() != next.id())));
            }
            at += 1;
        }
        assert!(rings.len() <= MAX_RINGS);
        Cluster { ids, w, r, limits, rings, forward, cancelled }
    }

    fn id(&self, ring: u8) -> RingId {
        self.rings[usize::from(ring)].id()
    }

    fn numbers(&self, ids: &[NodeId]) -> Vec<usize> {
        ids.iter().map(|id| self.ids.iter().position(|known| known == id).unwrap()).collect()
    }

    fn all_owners(&self, ring: u8) -> Vec<usize> {
        self.numbers(&self.rings[usize::from(ring)].all_owners(PARTITION))
    }

    fn owns(&self, node: usize, ring: u8) -> bool {
        self.rings[usize::from(ring)].is_owner(PARTITION, self.ids[node])
    }

    fn members(&self, ring: u8) -> Vec<usize> {
        let members = self.rings[usize::from(ring)].members().iter();
        self.numbers(&members.map(|member| member.id).collect::<Vec<_>>())
    }

    fn step(&self, ring: u8) -> Option<Step> {
        self.rings[usize::from(ring)].step()
    }

    /// True if a node takes what another one asks it for under this ring.
    fn takes(&self, state: &State, node: usize, from: usize, ring: u8) -> bool {
        let Node { ring: own, before, accepted, .. } = state.nodes[node];
        let before = before.map(|before| self.id(before));
        let is_accepted = accepted & bit(from) != 0;
        node == from || rules::takes(self.id(own), before, self.id(ring), is_accepted)
    }

    /// True if a node knows that every member uses its ring.
    fn is_fenced(&self, node: usize, Node { ring, confirmed, .. }: &Node) -> bool {
        self.members(*ring).iter().all(|of| *of == node || confirmed & bit(*of) != 0)
    }

    /// True once enough owners of each table have acknowledged a write.
    fn is_acknowledged(&self, ring: u8, acks: Bits) -> bool {
        let ring = &self.rings[usize::from(ring)];
        let mut tracker = QuorumTracker::new(ring.owners(PARTITION), self.w, true);
        if let Some(also) = ring.also(PARTITION) {
            tracker = tracker.with(also);
        }
        for (number, node) in self.ids.iter().enumerate() {
            if acks & bit(number) != 0 {
                tracker.count(*node);
            }
        }
        tracker.reached()
    }

    /// A ring is in force at a node from now on, durably, with the lost read eligibility of the
    /// place that it brings.
    fn take(&self, state: &mut State, node: usize, ring: u8) {
        let this = &mut state.nodes[node];
        let last = usize::from(this.ring);
        if self.owns(node, ring) && !self.owns(node, this.ring) {
            this.is_eligible = false;
        }
        let meets = self.rings[last].meets(&self.rings[usize::from(ring)]);
        this.before = meets.then_some(this.ring);
        (this.ring, this.confirmed, this.heard, this.proven) = (ring, 0, 0, 0);
        for write in &mut state.writes {
            // It goes on under the new ring: what counted counts.
            if let Write::Sent { by, ring: of, .. } = write
                && usize::from(*by) == node
            {
                *of = ring;
            }
        }
    }

    /// A node has a write that it did not have.
    fn store(state: &mut State, node: usize, write: usize) {
        let this = &mut state.nodes[node];
        if this.records & bit(write) == 0 {
            this.records |= bit(write);
            // What came since was not compared.
            this.proven = 0;
        }
    }

    /// A node shows its ring to another one. That is true for good: rings only go on, and an
    /// introduction that another one has overtaken is not heard.
    fn introduce(&self, state: &mut State, from: usize, to: usize) {
        let (ring, own) = (state.nodes[from].ring, state.nodes[to].ring);
        if self.id(ring) < self.id(own) {
            // It could only make the other one take less.
            return;
        }
        if ring != own {
            self.take(state, to, ring);
        }
        let this = &mut state.nodes[to];
        this.confirmed |= bit(from);
        this.accepted |= bit(from);
        this.is_settled = true;
    }

    fn arrive(&self, state: &mut State, message: Message) {
        match message {
            Message::Merge { from, to, ring, write } => {
                if self.takes(state, to.into(), from.into(), ring) {
                    Cluster::store(state, to.into(), write.into());
                    self.send(state, Message::Ack { from: to, to: from, ring, write });
                }
            }
            Message::Ack { from, to, ring, write } => {
                let write = &mut state.writes[usize::from(write)];
                if let Write::Sent { by, ring: of, acks } = write
                    && (*by, *of) == (to, ring)
                {
                    *acks |= bit(from.into());
                }
                self.settle(write);
            }
        }
    }

    /// Acknowledges a write that enough have.
    fn settle(&self, write: &mut Write) {
        if let Write::Sent { ring, acks, .. } = *write
            && self.is_acknowledged(ring, acks)
        {
            *write = Write::Acknowledged;
        }
    }

    fn has_room(&self, state: &State) -> bool {
        state.messages.iter().flatten().count() < self.limits.messages
    }

    fn send(&self, state: &mut State, message: Message) {
        debug_assert!(self.has_room(state), "a message takes the place of another one, or has one");
        state.messages[0] = Some(message);
        state.messages.sort_unstable();
    }

    /// A node has ended: what it knew of others is gone, and they have no link to it.
    fn end(state: &mut State, node: usize) {
        for (number, other) in state.nodes.iter_mut().enumerate() {
            if number == node {
                let Node { ring, records, is_eligible, .. } = *other;
                *other = Node { ring, records, is_eligible, ..Node::fresh(false) };
                continue;
            }
            other.accepted &= !bit(node);
            other.proven &= !bit(node);
        }
        for write in &mut state.writes {
            if matches!(write, Write::Sent { by, .. } if usize::from(*by) == node) {
                *write = Write::Unknown;
            }
        }
    }

    fn of_messages(&self, state: &State, add: &mut dyn FnMut(Event, State)) {
        for at in 0..MAX_MESSAGES {
            let Some(message) = state.messages[at] else { continue };
            let mut lost = *state;
            lost.messages[at] = None;
            lost.messages.sort_unstable();
            add(Event::Lose(message), lost);
            let (Message::Merge { to, .. } | Message::Ack { to, .. }) = message;
            if state.nodes[usize::from(to)].is_up {
                self.arrive(&mut lost, message);
                add(Event::Arrive(message), lost);
            }
        }
    }

    fn of_writes(&self, state: &State, add: &mut dyn FnMut(Event, State)) {
        for write in 0..self.limits.writes {
            match state.writes[write] {
                // One after the other: they are all the same.
                Write::New if write == 0 || state.writes[write - 1] != Write::New => {
                    for (node, this) in state.nodes.iter().enumerate() {
                        let ring = &self.rings[usize::from(this.ring)];
                        if this.is_settled && ring.owners(PARTITION).contains(&self.ids[node]) {
                            let mut next = *state;
                            Cluster::store(&mut next, node, write);
                            let (by, acks) = (node as u8, bit(node));
                            next.writes[write] = Write::Sent { by, ring: this.ring, acks };
                            self.settle(&mut next.writes[write]);
                            add(Event::Issue { node, write }, next);
                        }
                    }
                }
                Write::Sent { by, ring, acks } if self.has_room(state) => {
                    for owner in self.all_owners(ring) {
                        if acks & bit(owner) == 0 {
                            let mut next = *state;
                            let (to, number) = (owner as u8, write as u8);
                            let merge = Message::Merge { from: by, to, ring, write: number };
                            self.send(&mut next, merge);
                            add(Event::Ask { write, owner }, next);
                        }
                    }
                }
                _ => {}
            }
        }
    }

    fn of_pairs(&self, state: &State, add: &mut dyn FnMut(Event, State)) {
        for (from, one) in state.nodes.iter().enumerate().filter(|(_, one)| one.is_up) {
            for (to, other) in state.nodes.iter().enumerate() {
                if from == to || !other.is_up {
                    continue;
                }
                let mut next = *state;
                self.introduce(&mut next, from, to);
                if next != *state {
                    add(Event::Introduce { from, to }, next);
                }
                if one.ring == other.ring && self.owns(to, one.ring) {
                    self.of_records(state, from, to, add);
                }
            }
        }
    }

    /// `one` is compared with an owner of its ring.
    fn of_records(
        &self,
        state: &State,
        one: usize,
        with: usize,
        add: &mut dyn FnMut(Event, State),
    ) {
        let (this, other) = (&state.nodes[one], &state.nodes[with]);
        let mut next = *state;
        if !self.owns(one, this.ring) {
            if this.records != 0 && this.proven & bit(with) == 0 {
                for write in (0..MAX_WRITES).filter(|write| this.records & bit(*write) != 0) {
                    Cluster::store(&mut next, with, write);
                }
                next.nodes[one].proven |= bit(with);
                add(Event::Push { from: one, owner: with }, next);
            }
        } else if !this.is_eligible
            && rules::may_prove(self.step(this.ring), self.is_fenced(one, this))
        {
            for write in (0..MAX_WRITES).filter(|write| other.records & bit(*write) != 0) {
                Cluster::store(&mut next, one, write);
            }
            let this = &mut next.nodes[one];
            this.heard |= bit(with);
            let others = self.all_owners(this.ring).into_iter().filter(|owner| *owner != one);
            this.is_eligible = others.into_iter().all(|owner| this.heard & bit(owner) != 0);
            add(Event::Compare { owner: one, with }, next);
        }
    }

    fn of_rings(&self, state: &State, add: &mut dyn FnMut(Event, State)) {
        for (node, this) in state.nodes.iter().enumerate().filter(|(_, this)| this.is_up) {
            let now = usize::from(this.ring);
            if !self.rings[now].has(self.ids[node]) {
                continue;
            }
            let is_filled = |member: &usize| {
                let of = &state.nodes[*member];
                of.ring == this.ring && (of.is_eligible || !self.owns(*member, this.ring))
            };
            let filled = || self.members(this.ring).iter().all(is_filled);
            let fills = self.step(this.ring) == Some(Step::Fill);
            let goes_on = now == 0 || rules::goes_on(self.is_fenced(node, this), fills, filled());
            let forward = self.forward[now].filter(|_| goes_on);
            let back = self.cancelled[now].filter(|_| self.limits.cancels);
            for ring in forward.into_iter().chain(back) {
                if state.made[now].is_none_or(|made| made == ring) {
                    let mut next = *state;
                    next.made[now] = Some(ring);
                    self.take(&mut next, node, ring);
                    add(Event::Make { node, ring: ring.into() }, next);
                }
            }
        }
    }

    fn of_surplus(&self, state: &State, add: &mut dyn FnMut(Event, State)) {
        for (node, this) in state.nodes.iter().enumerate() {
            if !this.is_up || this.records == 0 || self.owns(node, this.ring) {
                continue;
            }
            let owners = self.rings[usize::from(this.ring)].all_owners(PARTITION);
            let proven = (0..NODES).filter(|owner| this.proven & bit(*owner) != 0);
            let proven: BTreeSet<NodeId> = proven.map(|owner| self.ids[owner]).collect();
            if rules::unproven(&owners, &proven).is_none() {
                let mut next = *state;
                next.nodes[node].records = 0;
                add(Event::Erase { node }, next);
            }
        }
    }

    fn of_faults(&self, state: &State, add: &mut dyn FnMut(Event, State)) {
        for (node, this) in state.nodes.iter().enumerate() {
            let mut next = *state;
            if !this.is_up {
                next.nodes[node].is_up = true;
                add(Event::Start { node }, next);
                continue;
            }
            Cluster::end(&mut next, node);
            if state.crashes < self.limits.crashes {
                next.crashes += 1;
                add(Event::Crash { node }, next);
                next.crashes -= 1;
            }
            if state.lost_disks < self.limits.lost_disks && self.may_lose(state, node) {
                next.lost_disks += 1;
                next.nodes[node] = Node::fresh(false);
                add(Event::LoseDisk { node }, next);
            }
        }
    }

    /// True if every acknowledged write is at another node, too, that the reads of each ring in
    /// force ask, and none is to be acknowledged because of this node. A write with W = 1 whose
    /// only replica is lost is nobody's fault.
    fn may_lose(&self, state: &State, node: usize) -> bool {
        let is_safe = |(number, write): (usize, &Write)| match write {
            Write::Acknowledged => state.nodes.iter().all(|of| {
                let owners = self.numbers(self.rings[usize::from(of.ring)].owners(PARTITION));
                let holds = |owner: &usize| state.nodes[*owner].records & bit(number) != 0;
                owners.iter().any(|owner| *owner != node && holds(owner))
            }),
            Write::Sent { acks, .. } => acks & bit(node) == 0,
            Write::New | Write::Unknown => true,
        };
        let acks = |message: &Message| match message {
            Message::Ack { from, .. } => usize::from(*from) == node,
            Message::Merge { .. } => false,
        };
        state.writes.iter().enumerate().all(is_safe) && !state.messages.iter().flatten().any(acks)
    }
}

impl Node {
    /// A node with an empty disk.
    fn fresh(is_up: bool) -> Self {
        Node {
            is_up,
            is_settled: is_up,
            ring: 0,
            records: 0,
            is_eligible: false,
            before: None,
            confirmed: 0,
            accepted: 0,
            heard: 0,
            proven: 0,
        }
    }
}

impl Model for Cluster {
    type State = State;
    type Event = Event;

    fn first(&self) -> State {
        let all = bit(NODES) - 1;
        let node = |number: usize| Node {
            is_eligible: self.owns(number, 0),
            confirmed: all & !bit(number),
            accepted: all & !bit(number),
            ..Node::fresh(true)
        };
        State {
            nodes: [0, 1, 2].map(node),
            writes: [Write::New; MAX_WRITES],
            messages: [None; MAX_MESSAGES],
            made: [None; MAX_RINGS],
            crashes: 0,
            lost_disks: 0,
        }
    }

    fn events(&self, state: &State) -> Vec<(Event, State)> {
        let mut events = Vec::new();
        let add = &mut |event, next| events.push((event, next));
        self.of_messages(state, add);
        self.of_writes(state, add);
        self.of_pairs(state, add);
        self.of_rings(state, add);
        self.of_surplus(state, add);
        self.of_faults(state, add);
        events
    }

    /// Every acknowledged write is held, and seen by every strict read.
    fn broken(&self, state: &State) -> Option<String> {
        let nodes = &state.nodes;
        for write in (0..MAX_WRITES).filter(|write| state.writes[*write] == Write::Acknowledged) {
            if nodes.iter().all(|node| node.records & bit(write) == 0) {
                return Some(format!("write {write} is acknowledged, and nobody holds it"));
            }
            for (by, reader) in nodes.iter().enumerate().filter(|(_, reader)| reader.is_settled) {
                let ring = &self.rings[usize::from(reader.ring)];
                let misses = |owner: &usize| {
                    let replica = &nodes[*owner];
                    replica.is_settled
                        && self.takes(state, *owner, by, reader.ring)
                        && self.owns(*owner, replica.ring)
                        && replica.is_eligible
                        && replica.records & bit(write) == 0
                };
                let owners = self.numbers(ring.owners(PARTITION));
                if owners.iter().filter(|owner| misses(owner)).count() >= usize::from(self.r) {
                    let step = ring.step();
                    return Some(format!("a read of node {by} in {step:?} misses write {write}"));
                }
            }
        }
        None
    }
}
