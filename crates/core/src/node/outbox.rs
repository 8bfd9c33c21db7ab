//! The outputs of the roles, and the rule about the disk: which messages may leave now, and which
//! only when the store has synced past a mark.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::ids::{ReadToken, RequestId, ScanPurpose, ScanToken, SyncSeq};
use super::{ClientId, Config, Hindrance, Notice, Output, Work};
use crate::members::{Incarnation, Liveness, Members};
use crate::message::{Body, Counter, Kind, PeerMessage, Response};
use crate::ring::{Ring, RingId};
use crate::store::{Change, Span};
use crate::types::{Key, NodeId, Nodes, Partition};

/// The outputs of one node while it handles an input. Messages to itself and notices between roles
/// stay inside; messages that report unsynced records are held back.
#[derive(Clone, Debug)]
pub(super) struct Outbox {
    me: NodeId,
    /// The ring that messages are of.
    ring: RingId,
    /// True if an experiment sends the node's messages to itself through the network.
    own_link: bool,
    out: Vec<Output>,
    local: VecDeque<PeerMessage>,
    liveness: VecDeque<(NodeId, Liveness)>,
    /// Own records found damaged that no role has been notified of.
    damaged: VecDeque<(Partition, Key)>,
    /// Later incarnations of this node that peers have reported, with the peer.
    own_incarnations: VecDeque<(NodeId, Incarnation)>,
    /// Messages that wait for a sync, by mark, then in the order in which they were sent.
    held: VecDeque<Unsynced>,
    last_mark: SyncSeq,
    synced: SyncSeq,
    last_token: u64,
    counters: BTreeMap<Counter, u64>,
}

/// A message that may leave when the store has synced past a mark.
#[derive(Clone, Debug)]
struct Unsynced {
    seq: SyncSeq,
    to: NodeId,
    request_id: RequestId,
    body: Body,
}

impl Outbox {
    pub(super) fn new(config: &Config) -> Self {
        Outbox {
            me: config.me,
            ring: config.ring.id(),
            own_link: false,
            out: Vec::new(),
            local: VecDeque::new(),
            liveness: VecDeque::new(),
            damaged: VecDeque::new(),
            own_incarnations: VecDeque::new(),
            held: VecDeque::new(),
            last_mark: SyncSeq::NONE,
            synced: SyncSeq::NONE,
            last_token: 0,
            counters: BTreeMap::new(),
        }
    }

    /// Sends the node's messages to itself through the network from now on, for an experiment.
    pub(super) fn carry_own(&mut self, own_link: bool) {
        self.own_link = own_link;
    }

    /// Sends a message now, the same to all; the node itself may be among them.
    pub(super) fn send(&mut self, to: impl Into<Nodes>, request_id: RequestId, body: Body) {
        let mut to = to.into();
        let message = PeerMessage { ring: self.ring, request_id, body };
        let carried = || matches!(message.body.kind(), Kind::Ack | Kind::Read | Kind::Answer);
        if !(self.own_link && carried()) {
            let all = to.len();
            to.retain(|node| *node != self.me);
            if to.len() < all {
                self.local.push_back(message.clone());
            }
        }
        if !to.is_empty() {
            self.out.push(Output::Send { to, message });
        }
    }

    /// Sends a message now to one node.
    pub(super) fn send_to(&mut self, to: NodeId, request_id: RequestId, body: Body) {
        self.send(Nodes::from_slice(&[to]), request_id, body);
    }

    /// Sends a message when the store has synced past `seq`; at once if there is none to wait for.
    pub(super) fn send_synced(
        &mut self,
        seq: Option<SyncSeq>,
        to: NodeId,
        request_id: RequestId,
        body: Body,
    ) {
        match seq {
            Some(seq) if seq > self.synced => {
                // Mostly the newest one.
                let at = self.held.partition_point(|held| held.seq <= seq);
                self.held.insert(at, Unsynced { seq, to, request_id, body });
            }
            _ => self.send_to(to, request_id, body),
        }
    }

    /// Notes that every write up to `seq` is durable, and sends the messages that waited for it.
    pub(super) fn release(&mut self, seq: SyncSeq) {
        self.synced = self.synced.max(seq);
        while self.held.front().is_some_and(|held| held.seq <= self.synced)
            && let Some(Unsynced { to, request_id, body, .. }) = self.held.pop_front()
        {
            self.send_to(to, request_id, body);
        }
    }

    /// Writes a batch; its mark is synced when the batch is durable.
    pub(super) fn write(&mut self, changes: Vec<Change>) -> SyncSeq {
        self.last_mark = self.last_mark.next();
        self.out.push(Output::Store(Work::Write { seq: self.last_mark, changes }));
        self.last_mark
    }

    /// The mark of the newest write.
    pub(super) fn last_mark(&self) -> SyncSeq {
        self.last_mark
    }

    /// True when the write with this mark is durable.
    pub(super) fn is_durable(&self, seq: SyncSeq) -> bool {
        seq <= self.synced
    }

    /// True when every write is durable.
    pub(super) fn is_synced(&self) -> bool {
        self.synced == self.last_mark
    }

    fn token(&mut self) -> u64 {
        self.last_token += 1;
        self.last_token
    }

    /// Reads a record; the token names the answer.
    pub(super) fn read(
        &mut self,
        partition: Partition,
        key: Key,
        hints_for: Vec<NodeId>,
    ) -> ReadToken {
        let token = ReadToken(self.token());
        self.out.push(Output::Store(Work::Read { token, partition, key, hints_for }));
        token
    }

    /// Lists the hints for a member; the token names the answer.
    pub(super) fn list_hints(
        &mut self,
        target: NodeId,
        after: Option<Key>,
        limit_bytes: usize,
    ) -> ReadToken {
        let token = ReadToken(self.token());
        self.out.push(Output::Store(Work::Hints { token, target, after, limit_bytes }));
        token
    }

    /// Reads a span of a partition in the background; the token names the answer.
    pub(super) fn scan(
        &mut self,
        purpose: ScanPurpose,
        partition: Partition,
        span: Span,
    ) -> ScanToken {
        let token = ScanToken::new(self.token(), purpose);
        self.out.push(Output::Store(Work::Scan { token, partition, span }));
        token
    }

    /// Lists keys; the token names the answer.
    pub(super) fn list(
        &mut self,
        partition: Partition,
        after: Option<Key>,
        limit_bytes: usize,
    ) -> ReadToken {
        let token = ReadToken(self.token());
        self.out.push(Output::Store(Work::List { token, partition, after, limit_bytes }));
        token
    }

    pub(super) fn reply(&mut self, client: ClientId, id: u64, response: Response) {
        self.out.push(Output::Reply { client, id, response });
    }

    /// Sets the address of a member from now on.
    pub(super) fn address(&mut self, peer: NodeId, address: String) {
        self.out.push(Output::Address { peer, address });
    }

    /// Every message is of this ring from now on. The driver goes on with it and its members.
    pub(super) fn set_ring(&mut self, ring: Arc<Ring>, members: Members) {
        self.ring = ring.id();
        self.out.push(Output::Ring { ring, members });
    }

    /// The driver goes on with these members.
    pub(super) fn set_members(&mut self, members: Members) {
        self.out.push(Output::Members(members));
    }

    /// The order about the ring is carried out, or not.
    pub(super) fn ring_ordered(&mut self, done: Result<RingId, Hindrance>) {
        if done.is_err() {
            self.count(Counter::RingOrdersRefused);
        }
        self.out.push(Output::RingOrdered(done));
    }

    pub(super) fn notice(&mut self, notice: Notice) {
        self.out.push(Output::Notice(notice));
    }

    /// Adds 1 to a counter.
    pub(super) fn count(&mut self, counter: Counter) {
        self.count_many(counter, 1);
    }

    /// Adds `more` to a counter.
    pub(super) fn count_many(&mut self, counter: Counter, more: u64) {
        *self.counters.entry(counter).or_default() += more;
    }

    /// All counts, by name, sorted.
    pub(super) fn counters(&self) -> Vec<(Counter, u64)> {
        self.counters.iter().map(|(counter, count)| (*counter, *count)).collect()
    }

    /// The next message of the node to itself.
    pub(super) fn next_local(&mut self) -> Option<PeerMessage> {
        self.local.pop_front()
    }

    /// Notes that this node's view of the liveness of a member has changed. The other roles are
    /// notified.
    pub(super) fn set_liveness(&mut self, peer: NodeId, liveness: Liveness) {
        self.liveness.push_back((peer, liveness));
    }

    /// The next liveness that the other roles have not been notified of.
    pub(super) fn next_liveness(&mut self) -> Option<(NodeId, Liveness)> {
        self.liveness.pop_front()
    }

    /// Notes that the own record of a key is damaged.
    pub(super) fn find_damaged(&mut self, partition: Partition, key: Key) {
        self.damaged.push_back((partition, key));
    }

    /// The next damaged record that has not been handled.
    pub(super) fn next_damaged(&mut self) -> Option<(Partition, Key)> {
        self.damaged.pop_front()
    }

    /// Notes that a peer has reported a later incarnation of this node than the present one.
    pub(super) fn hear_of_own_incarnation(&mut self, from: NodeId, incarnation: Incarnation) {
        self.own_incarnations.push_back((from, incarnation));
    }

    /// The next such report that has not been handled.
    pub(super) fn next_own_incarnation(&mut self) -> Option<(NodeId, Incarnation)> {
        self.own_incarnations.pop_front()
    }

    /// Moves the collected outputs to `out`.
    pub(super) fn drain_into(&mut self, out: &mut Vec<Output>) {
        out.append(&mut self.out);
    }
}
