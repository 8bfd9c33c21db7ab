//! What the roles want done, and the rule about the disk: what may leave now, and what may leave
//! only when the store has synced past a mark.

use std::collections::{BTreeMap, VecDeque};

use super::ids::{ReadToken, RequestId, ScanPurpose, ScanToken, SyncSeq};
use super::{ClientId, Config, Hindrance, Notice, Output, Work};
use crate::members::{Incarnation, Liveness};
use crate::message::{Body, Counter, Kind, PeerMessage, Response};
use crate::store::{Change, Span};
use crate::types::{Key, Micros, NodeId, Partition};

/// The outputs of one node under construction. Messages to itself stay inside, and so does what one
/// role has for the others; messages that tell of unsynced records are held back.
#[derive(Clone, Debug)]
pub(super) struct Outbox {
    me: NodeId,
    /// True if an experiment has the network carry what the node asks itself.
    own_link: bool,
    out: Vec<Output>,
    local: VecDeque<PeerMessage>,
    liveness: VecDeque<(NodeId, Liveness)>,
    /// Own records that were found to be damaged, and that nobody has been notified of.
    damaged: VecDeque<(Partition, Key)>,
    /// Who notified of which incarnation of this node that is later than this one.
    own_incarnations: VecDeque<(NodeId, Incarnation)>,
    /// What waits for a sync, by the mark that it waits for, then in the order in which it was
    /// said.
    held: BTreeMap<(SyncSeq, u64), (NodeId, RequestId, Body)>,
    stated: u64,
    last_mark: SyncSeq,
    synced: SyncSeq,
    last_token: u64,
    counters: BTreeMap<Counter, u64>,
}

impl Outbox {
    pub(super) fn new(config: &Config) -> Self {
        Outbox {
            me: config.me,
            own_link: false,
            out: Vec::new(),
            local: VecDeque::new(),
            liveness: VecDeque::new(),
            damaged: VecDeque::new(),
            own_incarnations: VecDeque::new(),
            held: BTreeMap::new(),
            stated: 0,
            last_mark: SyncSeq::NONE,
            synced: SyncSeq::NONE,
            last_token: 0,
            counters: BTreeMap::new(),
        }
    }

    /// From now on the network carries what the node asks itself, as an experiment wants it.
    pub(super) fn carry_own(&mut self, own_link: bool) {
        self.own_link = own_link;
    }

    /// Sends a message now, the same to all; the node itself may be among them.
    pub(super) fn send(&mut self, mut to: Vec<NodeId>, request_id: RequestId, body: Body) {
        let message = PeerMessage { request_id: request_id.wire(), body };
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
                self.stated += 1;
                self.held.insert((seq, self.stated), (to, request_id, body));
            }
            _ => self.send(vec![to], request_id, body),
        }
    }

    /// Notes that every write up to `seq` is durable, and lets go what waited for that.
    pub(super) fn release(&mut self, seq: SyncSeq) {
        self.synced = self.synced.max(seq);
        let later = self.held.split_off(&(self.synced.next(), 0));
        for (to, request_id, body) in std::mem::replace(&mut self.held, later).into_values() {
            self.send(vec![to], request_id, body);
        }
    }

    /// Writes a batch; the mark reports when it is durable.
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

    /// Answers a client.
    pub(super) fn reply(&mut self, client: ClientId, id: u64, response: Response) {
        self.out.push(Output::Reply { client, id, response });
    }

    /// From now on this member is to be reached there.
    pub(super) fn address(&mut self, peer: NodeId, address: String) {
        self.out.push(Output::Address { peer, address });
    }

    /// This incarnation is to end: the next one begins with what the store has.
    pub(super) fn end_incarnation(&mut self) {
        self.out.push(Output::BeginIncarnation);
    }

    /// The replacement that was ordered is not made.
    pub(super) fn not_replaced(&mut self, why: Hindrance) {
        self.count(Counter::ReplacementsRefused);
        self.out.push(Output::NotReplaced(why));
    }

    /// Notifies the operator.
    pub(super) fn notice(&mut self, notice: Notice) {
        self.out.push(Output::Notice(notice));
    }

    /// Counts an event.
    pub(super) fn count(&mut self, counter: Counter) {
        self.count_many(counter, 1);
    }

    /// Counts so many of an event.
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

    /// This node's view of the liveness of a member is another one now, after this `silence`; the
    /// other roles are reported.
    pub(super) fn set_liveness(&mut self, peer: NodeId, liveness: Liveness, silence: Micros) {
        self.liveness.push_back((peer, liveness));
        self.notice(Notice::LivenessChanged(peer, liveness, silence));
    }

    /// The next liveness that the other roles have not been notified of.
    pub(super) fn next_liveness(&mut self) -> Option<(NodeId, Liveness)> {
        self.liveness.pop_front()
    }

    /// The own record of a key is damaged.
    pub(super) fn find_damaged(&mut self, partition: Partition, key: Key) {
        self.damaged.push_back((partition, key));
    }

    /// The next such record that has not been dealt with.
    pub(super) fn next_damaged(&mut self) -> Option<(Partition, Key)> {
        self.damaged.pop_front()
    }

    /// A peer reports of a later incarnation of this node than it lives.
    pub(super) fn hear_of_own_incarnation(&mut self, from: NodeId, incarnation: Incarnation) {
        self.own_incarnations.push_back((from, incarnation));
    }

    /// The next such word that has not been judged.
    pub(super) fn next_own_incarnation(&mut self) -> Option<(NodeId, Incarnation)> {
        self.own_incarnations.pop_front()
    }

    /// Hands over what is to be done.
    pub(super) fn drain_into(&mut self, out: &mut Vec<Output>) {
        out.append(&mut self.out);
    }
}
