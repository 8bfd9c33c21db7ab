//! What the roles want done, and the rule about the disk: what may leave now, and what may leave only
//! when the store has synced past a mark.

use std::collections::{BTreeMap, VecDeque};

use super::forest::{Forest, own_partitions};
use super::generations::Generations;
use super::{ClientId, Config, Hindrance, Notice, Output, Oversize, Stall, Work};
use crate::causal::Actor;
use crate::emulation::Kind;
use crate::generation::Generation;
use crate::members::{Member, Members, Opinion};
use crate::merkle::KeptTree;
use crate::message::{Body, Counter, Measure, PeerMessage, Refusal, Resource, Response};
use crate::ring::Ring;
use crate::store::{Change, HintTotal, Kept, Meta, Record, Span, hint_bytes};
use crate::types::{Key, MILLI, Micros, NodeId, Partition};

/// Most ids whose dots are not old, whatever the disk is.
const MAX_FRESH: usize = 1_024;
/// Clients that were there so lately are likely to come again.
const BUSY: Micros = 1_000 * MILLI;
/// A store that has made no progress for so long is stalled, as the driver measures it.
const STALLED_AFTER_MS: u32 = 2_000;

/// A key that a merge or hint was declined of is told of once in this time, and so many keys are
/// remembered; of others nothing is told meanwhile.
const DECLINE_NOTICE: Micros = 60_000 * MILLI;
const MAX_DECLINED_KEYS: usize = 256;

/// The outputs of one node under construction. Messages to itself stay inside; messages that tell of
/// unsynced records are held back.
#[derive(Clone, Debug)]
pub(super) struct Effects {
    me: NodeId,
    /// True if an experiment has the network carry what the node asks itself.
    own_link: bool,
    meta: Meta,
    members: Members,
    now: Micros,
    hints: HintLedger,
    forest: Forest,
    generations: Generations,
    /// Own records that were found to be damaged, and that nobody has been told of.
    damaged: VecDeque<(Partition, Key)>,
    opinions: VecDeque<(NodeId, Opinion)>,
    /// Who told of which life of this node that is later than this one.
    own_lives: VecDeque<(NodeId, u64)>,
    /// Until when clients count as being there, since they were.
    busy_until: Micros,
    /// What the store holds up, if it makes no progress.
    stall: Option<Stall>,
    awaiting: bool,
    settled: bool,
    witnessed: bool,
    out: Vec<Output>,
    local: VecDeque<PeerMessage>,
    /// What waits for a sync, by the mark that it waits for, then in the order in which it was said.
    held: BTreeMap<(u64, u64), (NodeId, PeerMessage)>,
    said: u64,
    last_mark: u64,
    synced: u64,
    last_token: u64,
    counters: BTreeMap<Counter, u64>,
    /// Keys that were told of lately to be over a limit, and when.
    declined: BTreeMap<Key, Micros>,
}

impl Effects {
    pub(super) fn new(config: &Config, meta: Meta) -> Self {
        let own = own_partitions(&config.ring, config.me).into_iter();
        let mut forest = Forest::new(own, config.object_limits.accepted);
        forest.take_over(&config.trees);
        Effects {
            me: config.me,
            own_link: config.experiment.own_link,
            meta,
            members: config.members.clone(),
            now: 0,
            hints: HintLedger::new(&config.hints, config.hint_limit_bytes),
            forest,
            generations: Generations::new(&config.generations),
            damaged: VecDeque::new(),
            opinions: VecDeque::new(),
            own_lives: VecDeque::new(),
            busy_until: 0,
            stall: None,
            awaiting: false,
            settled: false,
            witnessed: false,
            out: Vec::new(),
            local: VecDeque::new(),
            held: BTreeMap::new(),
            said: 0,
            last_mark: 0,
            synced: 0,
            last_token: 0,
            counters: BTreeMap::new(),
            declined: BTreeMap::new(),
        }
    }

    /// Counts a merge or a hint that is declined, tells the operator now and then, and gives the
    /// refusal.
    pub(super) fn decline(&mut self, oversize: Oversize) -> Refusal {
        self.count(if oversize.hint { Counter::HintsDeclined } else { Counter::MergesDeclined });
        let (bytes, limit) = (oversize.bytes as u64, oversize.limit as u64);
        let now = self.now;
        self.declined.retain(|_, at| now.saturating_sub(*at) < DECLINE_NOTICE);
        if self.declined.len() < MAX_DECLINED_KEYS && !self.declined.contains_key(&oversize.key) {
            self.declined.insert(oversize.key.clone(), now);
            self.notice(Notice::Declined(oversize));
        }
        Refusal::Limit { what: Measure::SiblingBytes, given: bytes, limit }
    }

    /// The node itself.
    pub(super) fn me(&self) -> NodeId {
        self.me
    }

    /// What the store knows of itself.
    pub(super) fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The members as they are known now.
    pub(super) fn members(&self) -> &Members {
        &self.members
    }

    /// Takes over what is known better of the members, and remembers it; true if anything was new.
    pub(super) fn learn_members(&mut self, news: &[&Member]) -> bool {
        let learnt = self.members.merge(news.iter().copied());
        if learnt {
            self.write(vec![Change::Members(self.members.clone())]);
        }
        learnt
    }

    /// Makes a later ring durable, with its members, and the loss of authority for partitions that it brings here; the mark
    /// tells when it is.
    pub(super) fn place(&mut self, ring: Ring, members: &Members, gained: Vec<Partition>) -> u64 {
        let known = std::mem::replace(&mut self.members, members.clone());
        self.members.merge(known.iter());
        let lost = &mut self.meta.without_authority;
        // A node that is in no cluster yet loses it when it meets one.
        if self.meta.cluster.is_some() {
            lost.extend(gained);
            lost.sort_unstable();
            lost.dedup();
        }
        self.write(vec![
            Change::Ring(ring),
            Change::Members(self.members.clone()),
            Change::Meta(self.meta.clone()),
        ])
    }

    /// This life is to end: the next one begins with what the store has.
    pub(super) fn end_life(&mut self) {
        self.out.push(Output::Relive);
    }

    /// The replacement that was ordered is not made.
    pub(super) fn not_replaced(&mut self, why: Hindrance) {
        self.count(Counter::ReplacementsRefused);
        self.out.push(Output::NotReplaced(why));
    }

    /// From now on this member is to be reached there.
    pub(super) fn address(&mut self, peer: NodeId, address: String) {
        self.out.push(Output::Address { peer, address });
    }

    /// This node's opinion of a member is another one now, after this `silence`; the other roles are told.
    pub(super) fn opine(&mut self, peer: NodeId, opinion: Opinion, silence: Micros) {
        self.opinions.push_back((peer, opinion));
        self.notice(Notice::Opined(peer, opinion, silence));
    }

    /// The next opinion that the other roles have not been told of.
    pub(super) fn next_opinion(&mut self) -> Option<(NodeId, Opinion)> {
        self.opinions.pop_front()
    }

    /// A peer tells of a later life of this node than it lives.
    pub(super) fn hear_of_own_life(&mut self, from: NodeId, incarnation: u64) {
        self.own_lives.push_back((from, incarnation));
    }

    /// The next such word that has not been judged.
    pub(super) fn next_own_life(&mut self) -> Option<(NodeId, u64)> {
        self.own_lives.pop_front()
    }

    /// Clients' requests are under way here: background work yields to them.
    pub(super) fn set_busy(&mut self) {
        self.busy_until = self.now + BUSY;
    }

    /// True while clients use this node: between two requests of a few clients there is often none under way.
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

    /// Whether some peer may still have hints for this node: what is not found here does not count then.
    pub(super) fn set_awaiting(&mut self, awaiting: bool) {
        self.awaiting = awaiting;
    }

    /// Tells each member that nothing is kept for any more, when that is synced.
    pub(super) fn tell_drained(&mut self) {
        for target in std::mem::take(&mut self.hints.drained) {
            let life = self.meta.lives.iter().find(|(node, _)| *node == target);
            if let (Some((_, life)), 0) = (life, self.hints.owed(target)) {
                let op = life.nonce;
                self.send_synced(Some(self.last_mark), target, op, Body::Hints(0));
            }
        }
    }

    /// Most bytes of hints from now on; what is kept beyond it stays.
    pub(super) fn limit_hints(&mut self, limit_bytes: u64) {
        self.hints.limit_bytes = limit_bytes;
    }

    /// What is kept for other members.
    pub(super) fn hints(&self) -> &HintLedger {
        &self.hints
    }

    /// The trees of the own records.
    pub(super) fn forest(&mut self) -> &mut Forest {
        &mut self.forest
    }

    /// The trees that are known to be right, for the next start.
    pub(super) fn kept_trees(&self) -> Vec<KeptTree> {
        self.forest.kept()
    }

    /// The partitions that this node is an owner of.
    pub(super) fn own_partitions(&self) -> impl Iterator<Item = Partition> {
        self.forest.partitions()
    }

    /// Own partitions that have not been read to their end.
    pub(super) fn unread(&self) -> usize {
        self.forest.unbuilt()
    }

    /// Own keys whose clock tells of events without a value.
    pub(super) fn dead_keys(&self) -> u64 {
        self.forest.all_dead()
    }

    /// Own keys whose object is over the limit of what a write may make of one.
    pub(super) fn oversized_keys(&self) -> u64 {
        self.forest.all_oversized()
    }

    /// The generations of all partitions.
    pub(super) fn generations(&self) -> &Generations {
        &self.generations
    }

    /// This node has agreed that the partition's generation ends.
    pub(super) fn agree(&mut self, partition: Partition) {
        self.generations.agree(partition);
    }

    /// A much later generation is about to be taken over: see [`Generations::begin_adopting`].
    pub(super) fn begin_adopting(&mut self, partition: Partition, number: u64) {
        self.generations.begin_adopting(partition, number);
    }

    /// Writes the partition's next generation; the mark tells when it is durable, and may begin.
    pub(super) fn write_generation(&mut self, partition: Partition, generation: Generation) -> u64 {
        self.write(vec![Change::Generation { partition, generation }])
    }

    /// The partition's next generation, which is durable, begins here.
    pub(super) fn begin_generation(&mut self, partition: Partition, generation: Generation) {
        self.generations.set(partition, generation);
    }

    /// The own record of a key is damaged.
    pub(super) fn find_damaged(&mut self, partition: Partition, key: Key) {
        self.damaged.push_back((partition, key));
    }

    /// The next such record that has not been dealt with.
    pub(super) fn next_damaged(&mut self) -> Option<(Partition, Key)> {
        self.damaged.pop_front()
    }

    /// Notes that what is kept for `target` of a key of this partition was so much and is so much now; `None` for no hint.
    /// `owed` if this node is no home of the key.
    pub(super) fn account_hint(
        &mut self,
        target: NodeId,
        (partition, owed): (Partition, bool),
        before: Option<HintSize>,
        after: Option<HintSize>,
    ) {
        self.hints.change(self.now, target, (partition, owed), before, after);
    }

    /// Sets the time of the input at hand.
    pub(super) fn begin(&mut self, now: Micros) {
        self.now = now;
    }

    /// Changes what the store knows of itself; the mark tells when that is durable.
    pub(super) fn change_meta(&mut self, change: impl FnOnce(&mut Meta)) -> u64 {
        change(&mut self.meta);
        self.write(vec![Change::Meta(self.meta.clone())])
    }

    /// Notes that a store's actor has issued a dot: its serial is not given out again in this
    /// process.
    pub(super) fn use_serial(&mut self, actor: Actor) {
        if actor.store == self.meta.store {
            self.meta.serial_end = self.meta.serial_end.max(actor.serial + 1);
        }
    }

    /// Notes that an actor which stands for a write is about to issue its dot here: should this
    /// disk turn out to be an old one, that dot is not old.
    pub(super) fn vouch_for(&mut self, actor: Actor) -> Result<(), Refusal> {
        if self.meta.fresh.is_empty() || self.meta.fresh.contains(&actor.store) {
            return Ok(());
        }
        if self.meta.fresh.len() >= MAX_FRESH {
            let what = Resource::UnwitnessedPuts;
            return Err(Refusal::Busy { what, limit: MAX_FRESH as u32 });
        }
        self.change_meta(|meta| meta.fresh.push(actor.store));
        Ok(())
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

    /// True once that has happened.
    pub(super) fn is_witnessed(&self) -> bool {
        self.witnessed
    }

    /// True once the node may mint.
    pub(super) fn is_settled(&self) -> bool {
        self.settled
    }

    /// True if this node has all that it was ever given for a partition. What it has not, although others may
    /// still keep it for this node, is another question: [`Effects::is_awaiting`].
    pub(super) fn is_authoritative(&self, partition: Partition) -> bool {
        self.witnessed && self.meta.without_authority.binary_search(&partition).is_err()
    }

    /// True while some peer may still have hints for this node.
    pub(super) fn is_awaiting(&self) -> bool {
        self.awaiting
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

    /// Sends a message when the store has synced past `mark`; at once if there is none to wait for.
    pub(super) fn send_synced(&mut self, mark: Option<u64>, to: NodeId, op: u64, body: Body) {
        match mark {
            Some(mark) if mark > self.synced => {
                self.said += 1;
                self.held.insert((mark, self.said), (to, PeerMessage { op, body }));
            }
            _ => self.send(vec![to], op, body),
        }
    }

    /// Notes that every write up to `mark` is durable, and lets go what waited for that.
    pub(super) fn release(&mut self, mark: u64) {
        self.synced = self.synced.max(mark);
        self.forest.synced(mark);
        let later = self.held.split_off(&(self.synced + 1, 0));
        for (to, message) in std::mem::replace(&mut self.held, later).into_values() {
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
    pub(super) fn read(&mut self, partition: Partition, key: Key, hints_for: Vec<NodeId>) -> u64 {
        self.last_token += 1;
        let token = self.last_token;
        self.out.push(Output::Store(Work::Read { token, partition, key, hints_for }));
        token
    }

    /// Lists the hints for a member; the token names the answer.
    pub(super) fn list_hints(
        &mut self,
        target: NodeId,
        after: Option<Key>,
        limit_bytes: usize,
    ) -> u64 {
        self.last_token += 1;
        let token = self.last_token;
        self.out.push(Output::Store(Work::Hints { token, target, after, limit_bytes }));
        token
    }

    /// Reads a span of a partition in the background; the token names the answer.
    pub(super) fn scan(&mut self, partition: Partition, span: Span) -> u64 {
        self.last_token += 1;
        let token = self.last_token;
        self.out.push(Output::Store(Work::Scan { token, partition, span }));
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
    pub(super) fn count(&mut self, counter: Counter) {
        self.count_many(counter, 1);
    }

    /// Counts so many of an event.
    pub(super) fn count_many(&mut self, counter: Counter, more: u64) {
        *self.counters.entry(counter).or_default() += more;
    }

    /// All counts, in the order of their names.
    pub(super) fn counters(&self) -> Vec<(Counter, u64)> {
        self.counters.iter().map(|(counter, count)| (*counter, *count)).collect()
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

/// Why nothing is asked of a disk that does not answer.
pub(super) fn stalled() -> Refusal {
    Refusal::Busy { what: Resource::DiskTime, limit: STALLED_AFTER_MS }
}

/// What a hint counts as.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HintSize {
    pub(super) bytes: u64,
    pub(super) generation: u64,
}

impl HintSize {
    /// Of what is kept of a key; of a damaged hint nothing is known, and it may be of the first generation.
    pub(super) fn of(key: &Key, record: Option<&Record>) -> Self {
        record.map_or(HintSize::default(), |record| HintSize {
            bytes: hint_bytes(key, record),
            generation: record.generation,
        })
    }
}

/// What is kept for each other member, derived from the store's hints and kept right with every change.
#[derive(Clone, Debug)]
pub(super) struct HintLedger {
    totals: BTreeMap<NodeId, (HintTotal, Micros)>,
    /// How many hints there are of each generation of a partition.
    stamps: BTreeMap<(Partition, u64), u64>,
    /// Members that are owed nothing any more, and that have not been told.
    drained: Vec<NodeId>,
    bytes: u64,
    limit_bytes: u64,
}

impl HintLedger {
    fn new(kept: &Kept, limit_bytes: u64) -> Self {
        let bytes = kept.totals.values().map(|total| total.bytes).sum();
        let totals = kept.totals.iter().filter(|(_, total)| total.count > 0);
        let totals = totals.map(|(id, total)| (*id, (*total, 0))).collect();
        let stamps = kept.stamps.clone();
        HintLedger { totals, stamps, drained: Vec::new(), bytes, limit_bytes }
    }

    fn change(
        &mut self,
        now: Micros,
        target: NodeId,
        (partition, owed): (Partition, bool),
        before: Option<HintSize>,
        after: Option<HintSize>,
    ) {
        let (total, _) = self.totals.entry(target).or_insert((HintTotal::default(), now));
        total.count = total.count + u64::from(after.is_some()) - u64::from(before.is_some());
        let bytes = |size: Option<HintSize>| size.map_or(0, |size| size.bytes);
        // What a damaged hint takes is not known, so no sum may go below zero.
        total.bytes = (total.bytes + bytes(after)).saturating_sub(bytes(before));
        self.bytes = (self.bytes + bytes(after)).saturating_sub(bytes(before));
        if owed {
            total.owed = total.owed + u64::from(after.is_some()) - u64::from(before.is_some());
            if total.owed == 0 {
                self.drained.push(target);
            }
        }
        if total.count == 0 {
            self.totals.remove(&target);
        }
        if let Some(after) = after {
            *self.stamps.entry((partition, after.generation)).or_default() += 1;
        }
        if let Some(before) = before {
            let place = (partition, before.generation);
            let left = self.stamps.get(&place).map_or(0, |count| count.saturating_sub(1));
            if left == 0 {
                self.stamps.remove(&place);
            } else {
                self.stamps.insert(place, left);
            }
        }
    }

    /// True if some hint is older than the generation before the present one of its partition: it can only be of an old disk.
    pub(super) fn has_outlived(&self, generations: &Generations) -> bool {
        let mut stamps = self.stamps.keys();
        stamps.any(|(partition, stamp)| stamp + 1 < generations.number(*partition))
    }

    /// How many hints of a partition are of an older generation than this one.
    pub(super) fn older(&self, partition: Partition, generation: u64) -> u64 {
        self.stamps.range((partition, 0)..(partition, generation)).map(|(_, count)| count).sum()
    }

    /// What is kept for a member, and since when in this life.
    pub(super) fn of(&self, target: NodeId) -> Option<(HintTotal, Micros)> {
        self.totals.get(&target).copied()
    }

    /// How many hints for a member may have filled its slot.
    pub(super) fn owed(&self, target: NodeId) -> u64 {
        self.totals.get(&target).map_or(0, |(total, _)| total.owed)
    }

    /// Everybody that something is kept for.
    pub(super) fn targets(&self) -> impl Iterator<Item = NodeId> {
        self.totals.keys().copied()
    }

    /// The limit, if so many bytes more would pass it.
    pub(super) fn refuses(&self, more_bytes: u64) -> Option<u64> {
        (self.bytes + more_bytes > self.limit_bytes).then_some(self.limit_bytes)
    }
}
