//! What the roles want done, and the rule about the disk: what may leave now, and what may leave only
//! when the store has synced past a mark.

use std::collections::{BTreeMap, VecDeque};

use super::{ClientId, Notice, Output, Work};
use crate::message::{Body, PeerMessage, Response};
use crate::store::{Change, Meta};
use crate::types::{Key, NodeId, Partition};

/// The outputs of one node under construction. Messages to itself stay inside; messages that tell of
/// unsynced records are held back.
#[derive(Debug)]
pub(super) struct Effects {
    me: NodeId,
    meta: Meta,
    settled: bool,
    witnessed: bool,
    out: Vec<Output>,
    local: VecDeque<PeerMessage>,
    held: VecDeque<(u64, NodeId, PeerMessage)>,
    last_mark: u64,
    synced: u64,
    last_token: u64,
    counters: BTreeMap<&'static str, u64>,
}

impl Effects {
    pub(super) fn new(me: NodeId, meta: Meta) -> Self {
        Effects {
            me,
            meta,
            settled: false,
            witnessed: false,
            out: Vec::new(),
            local: VecDeque::new(),
            held: VecDeque::new(),
            last_mark: 0,
            synced: 0,
            last_token: 0,
            counters: BTreeMap::new(),
        }
    }

    /// The node itself.
    pub(super) fn me(&self) -> NodeId {
        self.me
    }

    /// What the store knows of itself.
    pub(super) fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Changes what the store knows of itself; the mark tells when that is durable.
    pub(super) fn change_meta(&mut self, change: impl FnOnce(&mut Meta)) -> u64 {
        change(&mut self.meta);
        self.write(vec![Change::Meta(self.meta.clone())])
    }

    /// From now on the node may mint.
    pub(super) fn settle(&mut self) {
        self.settled = true;
        self.notice(Notice::Settled);
    }

    /// A peer has said what it knows of this store: what is not found here counts from now on.
    pub(super) fn witness(&mut self) {
        self.witnessed = true;
    }

    /// True once the node may mint.
    pub(super) fn is_settled(&self) -> bool {
        self.settled
    }

    /// True if what this node does not know of a partition was never here.
    pub(super) fn is_authoritative(&self, partition: Partition) -> bool {
        self.witnessed && self.meta.without_authority.binary_search(&partition).is_err()
    }

    /// The mark of the newest write.
    pub(super) fn last_mark(&self) -> u64 {
        self.last_mark
    }

    /// True when the write with this mark is durable.
    pub(super) fn is_durable(&self, mark: u64) -> bool {
        mark <= self.synced
    }

    /// Tells the operator.
    pub(super) fn notice(&mut self, notice: Notice) {
        self.out.push(Output::Notice(notice));
    }

    /// Sends a message now, the same to all; the node itself may be among them.
    pub(super) fn send(&mut self, mut to: Vec<NodeId>, op: u64, body: Body) {
        let message = PeerMessage { op, body };
        let all = to.len();
        to.retain(|node| *node != self.me);
        if to.len() < all {
            self.local.push_back(message.clone());
        }
        if !to.is_empty() {
            self.out.push(Output::Send { to, message });
        }
    }

    /// Sends a message when the store has synced past `mark`; at once if there is none to wait for.
    pub(super) fn send_synced(&mut self, mark: Option<u64>, to: NodeId, op: u64, body: Body) {
        match mark {
            Some(mark) if mark > self.synced => {
                self.held.push_back((mark, to, PeerMessage { op, body }));
            }
            _ => self.send(vec![to], op, body),
        }
    }

    /// Notes that every write up to `mark` is durable, and lets go what waited for that.
    pub(super) fn release(&mut self, mark: u64) {
        self.synced = self.synced.max(mark);
        // Not sorted: a message may wait for an older write than the one before it.
        let (due, held) = self.held.drain(..).partition(|(mark, ..)| *mark <= self.synced);
        self.held = held;
        let due: VecDeque<(u64, NodeId, PeerMessage)> = due;
        for (_, to, message) in due {
            self.send(vec![to], message.op, message.body);
        }
    }

    /// True when every write is durable.
    pub(super) fn is_synced(&self) -> bool {
        self.synced == self.last_mark
    }

    /// Writes a batch; the mark tells when it is durable.
    pub(super) fn write(&mut self, changes: Vec<Change>) -> u64 {
        self.last_mark += 1;
        self.out.push(Output::Store(Work::Write { mark: self.last_mark, changes }));
        self.last_mark
    }

    /// Reads a record; the token names the answer.
    pub(super) fn read(&mut self, partition: Partition, key: Key) -> u64 {
        self.last_token += 1;
        let token = self.last_token;
        self.out.push(Output::Store(Work::Read { token, partition, key }));
        token
    }

    /// Lists keys; the token names the answer.
    pub(super) fn list(
        &mut self,
        partition: Partition,
        after: Option<Key>,
        limit_bytes: usize,
    ) -> u64 {
        self.last_token += 1;
        let token = self.last_token;
        self.out.push(Output::Store(Work::List { token, partition, after, limit_bytes }));
        token
    }

    /// Answers a client.
    pub(super) fn reply(&mut self, client: ClientId, id: u64, response: Response) {
        self.out.push(Output::Reply { client, id, response });
    }

    /// Counts an event.
    pub(super) fn count(&mut self, name: &'static str) {
        *self.counters.entry(name).or_default() += 1;
    }

    /// All counts, by name, sorted.
    pub(super) fn counters(&self) -> Vec<(String, u64)> {
        self.counters.iter().map(|(name, count)| ((*name).to_string(), *count)).collect()
    }

    /// The next message of the node to itself.
    pub(super) fn next_local(&mut self) -> Option<PeerMessage> {
        self.local.pop_front()
    }

    /// Hands over what is to be done.
    pub(super) fn drain_into(&mut self, out: &mut Vec<Output>) {
        out.append(&mut self.out);
    }
}
