//! The coordinator: carries a request through the home replicas of its key until enough of them have
//! answered, or the deadline has passed.

mod operation;
mod pace;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use self::operation::{Kind, Operation, Question};
use self::pace::Paces;
use super::effects::Effects;
use super::{ClientId, Config};
use crate::causal::{Context, Object};
use crate::message::{Body, Change, Refusal, Request, Response};
use crate::rng::Rng;
use crate::store::Listing;
use crate::tally::Tally;
use crate::types::{Blob, Key, MAX_TIMEOUT_MS, MAX_VALUE_BYTES, MILLI, Micros, NodeId, SizeError};
use crate::wire;

/// Most requests under way.
const MAX_OPERATIONS: usize = 4_096;
/// Requests remembered per forwarding peer, so that a message that arrives twice acts once.
const MAX_REMEMBERED: usize = 256;
/// Most answered reads that wait for late copies; they keep values in memory.
const MAX_LINGERING: usize = 256;
/// One read in so many asks in the order of the ring, so that nobody's pace is judged by old answers alone.
const EXPLORE: u64 = 64;

/// Requests under way at one node, and which peers it can send to.
#[derive(Debug)]
pub(super) struct Coordinator {
    config: Config,
    links: BTreeSet<NodeId>,
    operations: BTreeMap<u64, Operation>,
    timers: BTreeSet<(Micros, u64)>,
    forwarded_here: BTreeMap<NodeId, VecDeque<u64>>,
    next_op: u64,
    paces: Paces,
    /// Operations that are answered and wait for late copies, to repair those that are behind.
    lingering: usize,
}

/// Who waits for the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A client of this node.
    Client {
        /// Its connection.
        client: ClientId,
        /// The call.
        id: u64,
    },
    /// A node that forwarded its client's request.
    Peer {
        /// The node.
        node: NodeId,
        /// Its operation.
        op: u64,
    },
}

/// A request that has passed all checks.
struct Plan {
    homes: Vec<NodeId>,
    needed: u8,
    kind: Kind,
    /// What to ask of the own replica, for a write.
    update: Option<Body>,
}

impl Coordinator {
    /// A coordinator whose operation ids begin at a random place, so that answers to a former life of
    /// this node are not taken for answers to this one.
    pub(super) fn new(config: Config, seed: u64) -> Self {
        Coordinator {
            config,
            links: BTreeSet::new(),
            operations: BTreeMap::new(),
            timers: BTreeSet::new(),
            forwarded_here: BTreeMap::new(),
            next_op: Rng::new(seed).next_u64() >> 1,
            paces: Paces::default(),
            lingering: 0,
        }
    }

    /// True when no request is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.operations.len() == self.lingering
    }

    /// When the next deadline or hedge is due.
    pub(super) fn next_wake(&self) -> Option<Micros> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// Answers a request with a refusal of the node itself.
    pub(super) fn refuse(&self, origin: Origin, refusal: Refusal, fx: &mut Effects) {
        answer(origin, Response::Refused(refusal), fx);
    }

    /// Takes a request; a client's may be forwarded, a forwarded one is coordinated here or refused.
    pub(super) fn request(
        &mut self,
        now: Micros,
        origin: Origin,
        request: Request,
        timeout_ms: u32,
        fx: &mut Effects,
    ) {
        let planned = self.admit(timeout_ms).and_then(|()| self.plan(&request));
        let started = planned.and_then(|plan| {
            if plan.homes.contains(&self.config.me) {
                self.check_reachable(&plan)?;
                self.coordinate(now, origin, plan, timeout_ms, fx);
                Ok(())
            } else {
                self.forward(now, origin, plan, request, timeout_ms, fx)
            }
        });
        if let Err(refusal) = started {
            answer(origin, Response::Refused(refusal), fx);
        }
    }

    /// False if the forwarded request has been here: a copy of it that came late could carry out what
    /// the client was told is refused.
    pub(super) fn is_first(&mut self, origin: Origin) -> bool {
        let Origin::Peer { node, op } = origin else { return true };
        let remembered = self.forwarded_here.entry(node).or_default();
        if remembered.contains(&op) {
            return false;
        }
        if remembered.len() == MAX_REMEMBERED {
            remembered.pop_front();
        }
        remembered.push_back(op);
        true
    }

    fn admit(&self, timeout_ms: u32) -> Result<(), Refusal> {
        if timeout_ms == 0 || timeout_ms > MAX_TIMEOUT_MS {
            return Err(Refusal::Timeout(timeout_ms));
        }
        if self.operations.len() - self.lingering >= MAX_OPERATIONS {
            let what = "requests under way at this node".into();
            return Err(Refusal::Busy { what, limit: MAX_OPERATIONS as u32 });
        }
        Ok(())
    }

    /// Checks a request and says what to do for it.
    fn plan(&self, request: &Request) -> Result<Plan, Refusal> {
        let (r, w) = (self.config.r, self.config.w);
        let homes = |key: &Key| self.config.ring.homes(self.config.ring.partition(key)).to_vec();
        Ok(match request {
            Request::Get { key, r: asked } => Plan {
                homes: homes(key),
                needed: self.quorum("r", *asked, r)?,
                kind: Kind::Get { key: key.clone(), merged: Object::default(), copies: Vec::new() },
                update: None,
            },
            Request::Put { key, value, context, write, w: asked } => {
                if value.0.len() > MAX_VALUE_BYTES {
                    return Err(Refusal::Size(SizeError::Value(value.0.len() as u64)));
                }
                let seen = unseal(key, context)?.unwrap_or_default();
                let change = Change::Put { write: *write, value: value.clone() };
                write_plan(homes(key), self.quorum("w", *asked, w)?, key, seen, change)
            }
            Request::Delete { key, context, w: asked } => {
                let seen = unseal(key, context)?.ok_or(Refusal::NoContext)?;
                write_plan(homes(key), self.quorum("w", *asked, w)?, key, seen, Change::Delete)
            }
            Request::Keys { partition, after, limit_bytes, r: asked } => {
                if partition.0 >= self.config.ring.partitions() {
                    return Err(Refusal::Partition(partition.0, self.config.ring.partitions()));
                }
                Plan {
                    homes: self.config.ring.homes(*partition).to_vec(),
                    needed: self.quorum("r", *asked, r)?,
                    kind: Kind::Keys {
                        partition: *partition,
                        after: after.clone(),
                        limit_bytes: *limit_bytes,
                        pages: Vec::new(),
                    },
                    update: None,
                }
            }
        })
    }

    fn quorum(&self, name: &str, asked: Option<u8>, default: u8) -> Result<u8, Refusal> {
        let n = self.config.ring.n();
        match asked.unwrap_or(default) {
            given if (1..=n).contains(&given) => Ok(given),
            given => Err(Refusal::Quorum { name: name.into(), given, n }),
        }
    }

    fn can_reach(&self, node: NodeId) -> bool {
        node == self.config.me || self.links.contains(&node)
    }

    /// Refuses what cannot reach its quorum before anything is sent, so that the refusal is the truth.
    fn check_reachable(&self, plan: &Plan) -> Result<(), Refusal> {
        let reachable = plan.homes.iter().filter(|home| self.can_reach(**home)).count() as u8;
        if reachable < plan.needed {
            return Err(Refusal::Unreachable { reachable, needed: plan.needed });
        }
        Ok(())
    }

    /// Starts a request at a home replica of its key: this node.
    fn coordinate(
        &mut self,
        now: Micros,
        origin: Origin,
        plan: Plan,
        timeout_ms: u32,
        fx: &mut Effects,
    ) {
        let mut homes = plan.homes;
        // The own replica is asked first: it costs no message.
        homes.sort_by_key(|home| *home != self.config.me);
        let mut tally = Tally::new(&homes, plan.needed);
        for home in homes {
            if !self.can_reach(home) {
                tally.fail(home);
            }
        }
        if plan.update.is_some() {
            tally.ask(self.config.me);
        }
        let op = self.start(now, origin, tally, plan.kind, timeout_ms);
        match plan.update {
            Some(update) => fx.send(vec![self.config.me], op, update),
            None => self.ask_more(now, op, plan.needed, fx),
        }
    }

    /// Passes a client's request to a home replica; what was forwarded already goes no further.
    fn forward(
        &mut self,
        now: Micros,
        origin: Origin,
        plan: Plan,
        request: Request,
        timeout_ms: u32,
        fx: &mut Effects,
    ) -> Result<(), Refusal> {
        let Origin::Client { .. } = origin else { return Err(Refusal::NotHome) };
        let reachable = plan.homes.iter().filter(|home| self.can_reach(**home)).count() as u8;
        let Some(to) = plan.homes.iter().copied().find(|home| self.can_reach(*home)) else {
            return Err(Refusal::Unreachable { reachable, needed: plan.needed });
        };
        fx.count("requests_forwarded");
        let kind = Kind::Forwarded { to, writes: plan.update.is_some() };
        let tally = Tally::new(&[to], plan.needed);
        let op = self.start(now, origin, tally, kind, timeout_ms);
        // The coordinator's deadline comes first, so that its answer can still be passed on.
        let timeout_ms = (timeout_ms - timeout_ms / 10).max(1);
        fx.send(vec![to], op, Body::Coordinate { request, timeout_ms });
        Ok(())
    }

    fn start(
        &mut self,
        now: Micros,
        origin: Origin,
        tally: Tally,
        kind: Kind,
        timeout_ms: u32,
    ) -> u64 {
        self.next_op += 1;
        let deadline = now + Micros::from(timeout_ms) * MILLI;
        let (open, answered) = (Vec::new(), false);
        let operation = Operation { origin, deadline, timeout_ms, tally, kind, open, answered };
        self.operations.insert(self.next_op, operation);
        self.timers.insert((deadline, self.next_op));
        self.next_op
    }

    /// Puts a read's question to up to `count` further replicas, the fastest first.
    fn ask_more(&mut self, now: Micros, op: u64, count: u8, fx: &mut Effects) {
        let Some(operation) = self.operations.get_mut(&op) else { return };
        let body = match &operation.kind {
            Kind::Get { key, .. } => Body::Read { key: key.clone() },
            Kind::Keys { partition, after, limit_bytes, .. } => Body::List {
                partition: *partition,
                after: after.clone(),
                limit_bytes: *limit_bytes,
            },
            Kind::Write { .. } | Kind::Forwarded { .. } => return,
        };
        let mut to: Vec<NodeId> = operation.tally.unasked().collect();
        if !op.is_multiple_of(EXPLORE) {
            self.paces.sort(now, &mut to);
        }
        to.truncate(usize::from(count));
        for node in &to {
            operation.tally.ask(*node);
            self.paces.asked(now, *node);
            let due = now + self.paces.patience(*node);
            operation.open.push(Question { to: *node, since: now, due, late: false });
            self.timers.insert((due, op));
        }
        fx.send(to, op, body);
    }

    /// Takes a replica's (or, for a forwarded request, a coordinator's) answer.
    pub(super) fn answer(
        &mut self,
        now: Micros,
        op: u64,
        from: NodeId,
        body: Body,
        fx: &mut Effects,
    ) {
        let Some(operation) = self.operations.get_mut(&op) else { return };
        let question = operation.close(from);
        // Questions that left together share a timer.
        if let Some(Question { due, .. }) = question
            && operation.open.iter().all(|other| other.due != due)
        {
            self.timers.remove(&(due, op));
        }
        self.paces.answered(now, from, question.map(|question| question.since));
        let Operation { tally, kind, .. } = operation;
        match (kind, body) {
            (Kind::Forwarded { to, .. }, Body::Coordinated(response)) if from == *to => {
                return self.finish(op, response, fx);
            }
            (Kind::Write { key, minted, .. }, Body::Updated { object, dot })
                if from == self.config.me && minted.is_none() =>
            {
                let to: Vec<NodeId> = tally.unasked().collect();
                for node in &to {
                    tally.ask(*node);
                }
                let merge = Body::Merge { key: key.clone(), object: object.clone() };
                *minted = Some((object, dot));
                fx.send(to, op, merge);
            }
            (Kind::Write { minted: Some(_), .. }, Body::Held) => {
                tally.count(from);
            }
            (Kind::Write { minted: None, .. }, Body::Failed(refusal)) if from == self.config.me => {
                return self.finish(op, Response::Refused(refusal), fx);
            }
            (Kind::Get { merged, copies, .. }, Body::Copy { object, authoritative }) => {
                // What a replica without authority still has is shown; that it lacks something is no word.
                *merged = merged.sync(&object);
                if !tally.answer(from, authoritative) {
                    return;
                }
                copies.push((from, object));
            }
            (Kind::Keys { pages, .. }, Body::Listed { keys, more, authoritative }) => {
                if !tally.answer(from, authoritative) {
                    return;
                }
                pages.push(Listing { keys, more });
            }
            (_, Body::Failed(_)) if tally.fail(from) => {}
            _ => return,
        }
        self.advance(now, op, fx);
    }

    /// Ends an operation that has its quorum or can no longer get it; asks on for a read that can.
    fn advance(&mut self, now: Micros, op: u64, fx: &mut Effects) {
        let Some(operation) = self.operations.get(&op) else { return };
        if operation.answered {
            if operation.open.is_empty() {
                self.repair(op, fx);
            }
            return;
        }
        if operation.tally.reached() {
            let response = operation.success();
            return self.finish(op, response, fx);
        }
        if operation.tally.hopeless() {
            let response = operation.hopeless();
            return self.finish(op, response, fx);
        }
        let missing = operation.tally.missing();
        self.ask_more(now, op, missing, fx);
    }

    /// A link came up or went down: what waits for that peer stops waiting.
    pub(super) fn link(&mut self, now: Micros, peer: NodeId, up: bool, fx: &mut Effects) {
        if up {
            self.links.insert(peer);
            return;
        }
        self.links.remove(&peer);
        let waiting: Vec<u64> = self.operations.keys().copied().collect();
        for op in waiting {
            let Some(operation) = self.operations.get_mut(&op) else { continue };
            let waited = operation.close(peer).is_some();
            if operation.tally.fail(peer) || waited {
                self.advance(now, op, fx);
            }
        }
    }

    /// Hedges and deadlines that are due.
    pub(super) fn tick(&mut self, now: Micros, fx: &mut Effects) {
        while let Some((due, op)) = self.timers.first().copied() {
            if due > now {
                return;
            }
            self.timers.pop_first();
            let Some(operation) = self.operations.get(&op) else { continue };
            if operation.deadline > now {
                self.hedge(now, op, fx);
            } else if operation.answered {
                self.repair(op, fx);
            } else {
                let response = operation.failure();
                self.finish(op, response, fx);
            }
        }
    }

    /// Asks one replica more for each answer that is late.
    fn hedge(&mut self, now: Micros, op: u64, fx: &mut Effects) {
        let Some(operation) = self.operations.get_mut(&op) else { return };
        let overdue = |question: &&mut Question| question.due <= now && !question.late;
        let late = operation.open.iter_mut().filter(overdue).map(|question| question.late = true);
        let late = late.count();
        if late > 0 && !operation.answered && operation.tally.unasked().next().is_some() {
            fx.count("reads_hedged");
            self.ask_more(now, op, late as u8, fx);
        }
    }

    /// Answers. A read that still waits for copies stays, to repair those that are behind.
    fn finish(&mut self, op: u64, response: Response, fx: &mut Effects) {
        let Some(operation) = self.operations.get_mut(&op) else { return };
        answer(operation.origin, response, fx);
        operation.answered = true;
        self.lingering += 1;
        let waits = matches!(operation.kind, Kind::Get { .. }) && !operation.open.is_empty();
        if !waits || self.lingering > MAX_LINGERING {
            self.repair(op, fx);
        }
    }

    /// Ends an answered operation: replicas seen to be behind get what the others had.
    fn repair(&mut self, op: u64, fx: &mut Effects) {
        let Some(operation) = self.operations.remove(&op) else { return };
        self.lingering -= 1;
        self.timers.remove(&(operation.deadline, op));
        for Question { due, .. } in &operation.open {
            self.timers.remove(&(*due, op));
        }
        let Kind::Get { key, merged, copies } = operation.kind else { return };
        let behind = copies.into_iter().filter(|(_, copy)| *copy != merged).map(|(node, _)| node);
        let behind: Vec<NodeId> = behind.collect();
        if !behind.is_empty() {
            fx.count("reads_repaired");
            fx.send(behind, op, Body::Merge { key, object: merged });
        }
    }
}

fn answer(origin: Origin, response: Response, fx: &mut Effects) {
    match origin {
        Origin::Client { client, id } => {
            fx.count(match &response {
                Response::Found { .. } => "gets_answered",
                Response::Written { dot: Some(_), .. } => "puts_acknowledged",
                Response::Written { dot: None, .. } => "deletes_acknowledged",
                Response::Keys { .. } => "listings_answered",
                Response::Refused(_) => "requests_refused",
                Response::Unknown { .. } => "writes_unknown",
            });
            fx.reply(client, id, response);
        }
        Origin::Peer { node, op } => {
            fx.count("requests_coordinated_for_peers");
            fx.send(vec![node], op, Body::Coordinated(response));
        }
    }
}

/// The context in a sealed one, if one is given.
fn unseal(key: &Key, sealed: &Option<Blob>) -> Result<Option<Context>, Refusal> {
    let open = |sealed: &Blob| wire::unseal(key, sealed).ok_or(Refusal::BadContext);
    sealed.as_ref().map(open).transpose()
}

fn write_plan(homes: Vec<NodeId>, needed: u8, key: &Key, seen: Context, change: Change) -> Plan {
    let update = Body::Update { key: key.clone(), context: seen.clone(), change };
    let kind = Kind::Write { key: key.clone(), seen, minted: None };
    Plan { homes, needed, kind, update: Some(update) }
}
