//! One exchange of Merkle anti-entropy: this node compares a partition with another owner of it,
//! from the root down to the leaves that differ, then the keys in these, and moves the objects that
//! differ in the direction they are needed.

use std::collections::{BTreeMap, VecDeque};

use super::InFlight;
use super::difference::{Direction, Pair, differences, direction};
use super::stream::{Stream, can_stream, is_missing};
use crate::gc_epoch::GcEpoch;
use crate::merkle::{FANOUT, GAUGES, LeafSet, SHAPE, leaf_of};
use crate::message::{Body, ComparisonFault, Counter, Item, Rejection, TreeAnswer, TreeQuestion};
use crate::node::gc_epochs::Stamped;
use crate::node::ids::{RequestId, ScanPurpose, ScanToken};
use crate::node::io::Io;
use crate::store::{ScanPage, Scanned, Span};
use crate::types::{Blob, Key, MILLI, Micros, NodeId, Partition, Time};

/// Bytes of a summary. One comparison overlooks a difference one time in 65,536; the next one has
/// another salt, and shows it.
const WIDTH: u8 = 2;
/// Bytes of a summary where the outcome is to count as a proof.
const WIDTH_OF_PROOF: u8 = 8;
/// An exchange without an answer of the peer for this long is given up.
pub(super) const TIMEOUT: Micros = Micros::from_millis(10_000);
/// Differences are checked again after this time where writes go on: objects in transit have
/// arrived then.
const RECHECK_INTERVAL: Micros = Micros::from_millis(500);
/// Objects in flight while no client waits for this node, and while some do.
const MAX_FLIGHTS: usize = 64;
const MAX_FLIGHTS_BESIDE_CLIENTS: usize = 16;
/// Bytes in flight, as far as the objects before allow a guess.
const MAX_FLIGHT_BYTES: usize = 8 << 20;
/// Bytes of own records read at a time.
const PAGE_BYTES: usize = 1 << 20;

/// What a comparison is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Two owners are to hold the same.
    Upkeep,
    /// The same, and its outcome is to prove that nothing is missing here.
    Proof,
    /// This node does not own the partition: its outcome is to prove that the owner holds all that
    /// is here. Nothing is fetched.
    Release,
}

/// A comparison in progress.
#[derive(Clone, Debug)]
pub(super) struct Exchange {
    pub(super) peer: NodeId,
    pub(super) partition: Partition,
    pub(super) moved: Moved,
    purpose: Purpose,
    /// True if it began when it could prove something.
    may_prove: bool,
    /// The store's id and the partition's GC epoch when it began: under others it proves nothing.
    store: u64,
    pub(super) gc_epoch: GcEpoch,
    /// When it began, and whether records were read for it.
    pub(super) begun: Time,
    pub(super) has_read: bool,
    width: u8,
    /// Changes that the partition had seen when it began.
    changes: u64,
    pub(super) stage: Stage,
    /// The answer that is expected next; `None` before the first question.
    pending: Option<Pending>,
    /// The salt of the summaries that were asked for last.
    salt: u64,
    pub(super) timeout: Time,
    /// The leaves that differ; `None` for all.
    pub(super) leaves: Option<Vec<u16>>,
    /// The key behind which the next page begins.
    pub(super) after: Option<Key>,
    /// What differed at the first look at this page.
    seen: Option<BTreeMap<Key, Pair>>,
    todo: VecDeque<(Key, Direction)>,
    pub(super) transfers: usize,
    /// About the largest object that was moved lately, in bytes.
    size: usize,
}

/// What an exchange waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pending {
    /// The peer's answer to a question.
    Answer(RequestId),
    /// A scan of the own disk.
    Scan(ScanToken),
}

/// How far an exchange is.
#[derive(Clone, Debug)]
pub(super) enum Stage {
    /// Children of these nodes of this level were asked for.
    Descending(u8, Vec<u16>),
    Theirs,
    Mine {
        theirs: Vec<Item>,
        next: Option<Key>,
        mine: Vec<Scanned>,
    },
    Resting(Time),
    Moving {
        next: Option<Key>,
    },
    Streaming(Stream),
}

/// What an exchange has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moved {
    /// True if the roots were the same.
    pub(super) equal: bool,
    pub(super) pulled: u64,
    pub(super) pushed: u64,
    /// Bytes of values moved.
    pub(super) bytes: u64,
    /// Keys that a write was changing meanwhile; a later exchange compares them.
    pub(super) left: u64,
    pub(super) failed: u64,
}

impl Moved {
    /// True if all that differed was moved.
    pub(super) fn is_complete(&self) -> bool {
        self.left == 0 && self.failed == 0
    }
}

/// The result of a step of an exchange.
pub(super) type Step = Result<Option<()>, Stop>;

/// Why an exchange ends before it is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The peer cannot answer yet: it reads the partition, or has too much to do. Nothing has
    /// failed.
    NotYet,
    /// It failed, and why.
    Failed(ComparisonFault),
}

impl From<ComparisonFault> for Stop {
    fn from(why: ComparisonFault) -> Self {
        Stop::Failed(why)
    }
}
pub(super) const GO_ON: Step = Ok(None);
pub(super) const DONE: Step = Ok(Some(()));

impl Exchange {
    /// Sends the first question of a comparison; `None` before the own tree is there.
    pub(super) fn begin(
        now: Time,
        partition: Partition,
        peer: NodeId,
        purpose: Purpose,
        in_flight: &mut InFlight,
        io: &mut Io,
    ) -> Option<Self> {
        let root = io.local.trees.tree(partition)?.root();
        let width = if purpose == Purpose::Upkeep { WIDTH } else { WIDTH_OF_PROOF };
        let gc_epoch = io.local.gc_epochs.number(partition);
        let mut exchange = Exchange {
            peer,
            partition,
            store: io.local.meta().store,
            moved: Moved::default(),
            purpose,
            may_prove: purpose == Purpose::Release || io.local.may_prove(),
            gc_epoch,
            begun: now,
            has_read: false,
            width,
            changes: io.local.trees.changes(partition),
            stage: Stage::Descending(0, vec![0]),
            pending: None,
            salt: 0,
            timeout: Time::START,
            leaves: None,
            after: None,
            seen: None,
            todo: VecDeque::new(),
            transfers: 0,
            size: 0,
        };
        let compare = Body::Compare { partition, shape: SHAPE, width, root, gc_epoch };
        exchange.query(now, compare, in_flight, io);
        Some(exchange)
    }

    /// Asks the peer a question.
    pub(super) fn query(&mut self, now: Time, body: Body, in_flight: &mut InFlight, io: &mut Io) {
        let question = in_flight.question();
        (self.pending, self.salt) = (Some(Pending::Answer(question)), question.wire());
        self.timeout = now + TIMEOUT;
        io.out.send(vec![self.peer], question, body);
    }

    /// True if it is for a partition that this node does not own.
    pub(super) fn is_release(&self) -> bool {
        self.purpose == Purpose::Release
    }

    /// True if its outcome proves what it was begun for: all that differed was moved, and neither
    /// the own store nor the partition's GC epoch is another one by now.
    pub(super) fn proves(&self, io: &Io) -> bool {
        self.purpose != Purpose::Upkeep
            && self.may_prove
            && self.moved.is_complete()
            && self.store == io.local.meta().store
            && self.gc_epoch == io.local.gc_epochs.number(self.partition)
    }

    /// True if an answer with this `request_id` is waited for.
    pub(super) fn awaits(&self, request_id: RequestId) -> bool {
        self.pending == Some(Pending::Answer(request_id))
    }

    /// True if this scan is waited for.
    pub(super) fn awaits_scan(&self, token: ScanToken) -> bool {
        self.pending == Some(Pending::Scan(token))
    }

    /// When a page of records is to be asked for, if it waits for that.
    pub(super) fn wants_page_at(&self) -> Option<Time> {
        match &self.stage {
            Stage::Streaming(stream) => stream.wanted_at(),
            _ => None,
        }
    }

    /// The peer has answered.
    pub(super) fn hear(
        &mut self,
        now: Time,
        body: Body,
        in_flight: &mut InFlight,
        io: &mut Io,
    ) -> Step {
        let is_busy = matches!(body, Body::Failed(Rejection::Busy { .. }));
        if is_busy && self.put_off_page(now) {
            return GO_ON;
        }
        match (&self.stage, body) {
            (Stage::Descending(0, _), Body::Equal) => {
                self.moved.equal = true;
                DONE
            }
            (Stage::Descending(level, nodes), Body::Summaries(Blob(bytes))) => {
                let (level, nodes) = (*level, nodes.clone());
                self.descend(now, level, &nodes, &bytes, in_flight, io)
            }
            (Stage::Theirs, Body::Items { items, next }) => self.compare(now, items, next, io),
            (Stage::Streaming(_), Body::Records { records, gc_epoch, next }) => {
                self.take_page(now, records, gc_epoch, next, in_flight, io)
            }
            (_, Body::Failed(Rejection::Unread(_) | Rejection::Busy { .. })) => Err(Stop::NotYet),
            (_, Body::Failed(rejection)) => Err(ComparisonFault::Refused { rejection }.into()),
            (stage, body) => {
                let (answer, question) = (kind(&body), wanted(stage));
                Err(ComparisonFault::OddAnswer { answer, question }.into())
            }
        }
    }

    fn descend(
        &mut self,
        now: Time,
        level: u8,
        nodes: &[u16],
        bytes: &[u8],
        in_flight: &mut InFlight,
        io: &mut Io,
    ) -> Step {
        let (width, salt) = (usize::from(self.width), self.salt);
        let expected = nodes.len() * FANOUT * width;
        if bytes.len() != expected {
            let (given, expected) = (bytes.len() as u64, expected as u64);
            return Err(ComparisonFault::Summaries { given, expected }.into());
        }
        let Some(tree) = io.local.trees.tree(self.partition) else {
            return Err(ComparisonFault::NoTree.into());
        };
        // A node that has nothing asks for everything, or has nothing to give.
        if tree.root() == Default::default() {
            if self.purpose == Purpose::Release {
                return DONE;
            }
            self.leaves = None;
            if can_stream(self.peer, io) {
                return self.stream(now, in_flight, io);
            }
            return self.list(now, in_flight, io);
        }
        let mut theirs = bytes.chunks(width);
        let mut differing = Vec::new();
        for node in nodes {
            for (at, child) in tree.children(level, *node).enumerate() {
                let own = child.summary(salt, width).to_be_bytes();
                if theirs.next() != Some(&own[8 - width..]) {
                    differing.push(node * FANOUT as u16 + at as u16);
                }
            }
        }
        if differing.is_empty() {
            // One side has changed since the roots were compared, or the summaries collided.
            self.moved.left += 1;
            return DONE;
        }
        let level = level + 1;
        if level == GAUGES {
            self.leaves = Some(differing);
            return self.list(now, in_flight, io);
        }
        let (partition, nodes) = (self.partition, differing.clone());
        self.stage = Stage::Descending(level, differing);
        self.query(
            now,
            Body::Descend { partition, width: self.width, level, nodes },
            in_flight,
            io,
        );
        GO_ON
    }

    /// Requests the next keys of the leaves that differ.
    fn list(&mut self, now: Time, in_flight: &mut InFlight, io: &mut Io) -> Step {
        self.stage = Stage::Theirs;
        self.has_read = true;
        // What was moved before is no sign that writes go on.
        self.changes = io.local.trees.changes(self.partition);
        let (partition, leaves, after) = (self.partition, self.leaves.clone(), self.after.clone());
        self.query(now, Body::Leaves { partition, leaves, after }, in_flight, io);
        GO_ON
    }

    /// Takes the peer's keys, and reads this node's keys of the same part.
    fn compare(&mut self, now: Time, theirs: Vec<Item>, next: Option<Key>, io: &mut Io) -> Step {
        let leaves = self.leaves.as_ref().map(|leaves| LeafSet::new(leaves.iter().copied()));
        let keys = self.after.iter().chain(theirs.iter().map(|item| &item.key));
        let keys: Vec<&Key> = keys.collect();
        let ascending = keys.windows(2).all(|pair| pair[0] < pair[1]);
        let within = next.as_ref().is_none_or(|next| {
            self.after.as_ref().is_none_or(|after| after < next)
                && theirs.iter().all(|item| item.key <= *next)
        });
        let queried = |item: &Item| leaves.as_ref().is_none_or(|set| set.has(leaf_of(&item.key)));
        if !ascending || !within || !theirs.iter().all(queried) {
            return Err(ComparisonFault::OddKeys.into());
        }
        let span = Span {
            after: self.after.clone(),
            until: next.clone(),
            leaves,
            limit_bytes: PAGE_BYTES,
            ..Span::default()
        };
        self.stage = Stage::Mine { theirs, next, mine: Vec::new() };
        self.timeout = now + TIMEOUT;
        let token = io.out.scan(ScanPurpose::Exchange, self.partition, span);
        self.pending = Some(Pending::Scan(token));
        GO_ON
    }

    /// A part of this node's keys has been read.
    pub(super) fn scanned(
        &mut self,
        now: Time,
        page: ScanPage,
        in_flight: &mut InFlight,
        io: &mut Io,
    ) -> Step {
        let Stage::Mine { theirs, next, mine } = &mut self.stage else { return GO_ON };
        mine.extend(page.items);
        if page.next.is_some() {
            let leaves = self.leaves.as_ref().map(|leaves| LeafSet::new(leaves.iter().copied()));
            let (after, until) = (page.next, next.clone());
            self.timeout = now + TIMEOUT;
            let limit_bytes = PAGE_BYTES;
            let span = Span { after, until, leaves, limit_bytes, ..Span::default() };
            let token = io.out.scan(ScanPurpose::Exchange, self.partition, span);
            self.pending = Some(Pending::Scan(token));
            return GO_ON;
        }
        let (theirs, mine, next) =
            (std::mem::take(theirs), std::mem::take(mine), std::mem::take(next));
        let listed = theirs.len();
        let mut differ = differences(mine, theirs);
        if self.purpose != Purpose::Release
            && is_missing(differ.values(), listed)
            && can_stream(self.peer, io)
        {
            return self.stream(now, in_flight, io);
        }
        let in_flux = self.changes != io.local.trees.changes(self.partition);
        if in_flux && self.purpose == Purpose::Upkeep && !differ.is_empty() {
            let Some(before) = self.seen.take() else {
                self.seen = Some(differ);
                self.stage = Stage::Resting(now + RECHECK_INTERVAL);
                return GO_ON;
            };
            let all = differ.len();
            differ.retain(|key, pair| before.get(key) == Some(pair));
            self.moved.left += (all - differ.len()) as u64;
        }
        self.seen = None;
        let directed = differ.into_iter().map(|(key, pair)| (key, direction(pair)));
        self.todo = match self.purpose {
            Purpose::Release => directed
                .filter(|(_, direction)| *direction != Direction::Pull)
                .map(|(key, _)| (key, Direction::Push))
                .collect(),
            _ => directed.collect(),
        };
        self.stage = Stage::Moving { next };
        self.go_on(now, in_flight, io)
    }

    /// Continues after a pause that has ended; fails if the peer has not answered by the timeout.
    pub(super) fn tick(&mut self, now: Time, in_flight: &mut InFlight, io: &mut Io) -> Step {
        match self.stage {
            Stage::Resting(until) if until <= now => self.list(now, in_flight, io),
            Stage::Resting(_) => GO_ON,
            // The own disk answers when it can, and others read from it, too.
            Stage::Mine { .. } => GO_ON,
            Stage::Streaming(ref stream) if stream.wanted_at().is_some() => {
                self.stream_on(now, in_flight, io)
            }
            _ if self.timeout <= now => {
                Err(ComparisonFault::NoAnswer { ms: TIMEOUT / MILLI }.into())
            }
            _ => GO_ON,
        }
    }

    /// Moves as many objects as may be in flight; goes on to the next part when all have arrived.
    fn go_on(&mut self, now: Time, in_flight: &mut InFlight, io: &mut Io) -> Step {
        let most = if io.local.is_busy() { MAX_FLIGHTS_BESIDE_CLIENTS } else { MAX_FLIGHTS };
        let window = most.min(MAX_FLIGHT_BYTES / self.size.max(1)).max(1);
        while self.transfers < window
            && let Some((key, direction)) = self.todo.pop_front()
        {
            let from = if direction == Direction::Push { io.local.me() } else { self.peer };
            let request_id = in_flight.fly(self.peer, self.partition, key.clone(), direction);
            io.out.send(vec![from], request_id, Body::Read { key });
            self.transfers += 1;
            self.timeout = now + TIMEOUT;
        }
        if self.transfers > 0 {
            return GO_ON;
        }
        let Stage::Moving { next } = &mut self.stage else { return GO_ON };
        match next.take() {
            None => DONE,
            next => {
                self.after = next;
                self.list(now, in_flight, io)
            }
        }
    }

    /// Sends an object that was read at one end to the other end. Returns whether its transfer is
    /// over.
    pub(super) fn carry(
        &mut self,
        request_id: RequestId,
        key: &Key,
        direction: Direction,
        Stamped { object, gc_epoch }: Stamped,
        io: &mut Io,
    ) -> bool {
        // Gone since: a later exchange sees what that means.
        if object.is_empty() {
            self.moved.left += 1;
            return true;
        }
        let bytes: usize = object.values().map(|(_, version)| version.value.0.len()).sum();
        self.size = bytes.max(self.size / 2);
        self.moved.bytes += bytes as u64;
        let to = if direction == Direction::Push {
            self.moved.pushed += 1;
            io.out.count_many(Counter::BytesPushed, bytes as u64);
            self.peer
        } else {
            self.moved.pulled += 1;
            io.out.count_many(Counter::BytesPulled, bytes as u64);
            io.local.me()
        };
        io.out.send(vec![to], request_id, Body::Merge { key: key.clone(), object, gc_epoch });
        false
    }

    /// A transfer is over.
    pub(super) fn landed(
        &mut self,
        now: Time,
        failed: bool,
        in_flight: &mut InFlight,
        io: &mut Io,
    ) -> Step {
        self.transfers -= 1;
        self.moved.failed += u64::from(failed);
        self.timeout = now + TIMEOUT;
        match self.stage {
            Stage::Streaming(_) => self.stream_on(now, in_flight, io),
            _ => self.go_on(now, in_flight, io),
        }
    }
}

fn kind(body: &Body) -> TreeAnswer {
    match body {
        Body::Equal => TreeAnswer::Equal,
        Body::Summaries(_) => TreeAnswer::Summaries,
        Body::Items { .. } => TreeAnswer::Items,
        Body::Records { .. } => TreeAnswer::Records,
        _ => TreeAnswer::Else,
    }
}

fn wanted(stage: &Stage) -> TreeQuestion {
    match stage {
        Stage::Descending(..) => TreeQuestion::Summaries,
        Stage::Theirs => TreeQuestion::Items,
        Stage::Streaming(_) => TreeQuestion::Records,
        Stage::Mine { .. } | Stage::Resting(_) | Stage::Moving { .. } => TreeQuestion::Nothing,
    }
}
