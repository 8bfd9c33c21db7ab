//! The coordinator: carries a request through the home replicas of its key, and the nodes that stand in for them,
//! until enough of them have answered or the deadline has passed.

mod operation;
mod pace;
mod plan;
mod read;
mod recent;
mod view;
mod write;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use self::operation::{Kind, Minted, Operation, Question};
use self::pace::{Paces, READS, WRITES};
use self::plan::{Plan, Route, update};
use self::recent::Recent;
use self::view::View;
use super::effects::Effects;
use super::{ClientId, Config};
use crate::members::Opinion;
use crate::message::{Body, Counter, RecentTrips, Refusal, Request, Resource, Response, Roll};
use crate::rng::Rng;
use crate::store::Listing;
use crate::tally::Tally;
use crate::types::{Key, MAX_TIMEOUT_MS, MILLI, Micros, NodeId};

/// Most requests under way.
const MAX_OPERATIONS: usize = 4_096;
/// Requests remembered per forwarding peer, so that a message that arrives twice acts once.
const MAX_REMEMBERED: usize = 256;
/// Most answered requests that wait for late replicas,
const MAX_LINGERING: usize = 4_096;
/// and the bytes of values that they may keep in memory.
const MAX_LINGERING_BYTES: usize = 64 << 20;

/// Requests under way at one node, and which peers it can send to.
#[derive(Clone, Debug)]
pub(super) struct Coordinator {
    config: Config,
    view: View,
    operations: BTreeMap<u64, Operation>,
    timers: BTreeSet<(Micros, u64)>,
    forwarded_here: BTreeMap<NodeId, VecDeque<u64>>,
    next_op: u64,
    /// How long copies take, and how long confirmations take.
    reads: Paces,
    writes: Paces,
    recent: Recent,
    /// Operations that are answered and wait for late replicas, to repair those that are behind.
    lingering: usize,
    lingering_bytes: usize,
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

impl Coordinator {
    /// A coordinator whose operation ids begin at a random place below 2^62, so that answers to a former life of
    /// this node are not taken for answers to this one.
    pub(super) fn new(config: Config, seed: u64) -> Self {
        Coordinator {
            view: View::new(config.me),
            config,
            operations: BTreeMap::new(),
            timers: BTreeSet::new(),
            forwarded_here: BTreeMap::new(),
            next_op: Rng::new(seed).next_u64() >> 3,
            reads: Paces::new(READS),
            writes: Paces::new(WRITES),
            recent: Recent::default(),
            lingering: 0,
            lingering_bytes: 0,
        }
    }

    /// True when no request is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.load() == 0
    }

    /// Requests that somebody waits for.
    pub(super) fn load(&self) -> usize {
        self.operations.len() - self.lingering
    }

    /// When the next deadline or hedge is due.
    pub(super) fn next_wake(&self) -> Option<Micros> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// How long a member takes to answer a read; `None` before it ever did.
    pub(super) fn latency(&self, peer: NodeId) -> Option<Micros> {
        self.reads.latency(peer)
    }

    /// What the latest round trips took.
    pub(super) fn recent(&self) -> Vec<RecentTrips> {
        self.recent.told()
    }

    /// True if requests for this member had better be sent to others.
    pub(super) fn avoids(&self, now: Micros, peer: NodeId) -> bool {
        let silent = || self.reads.is_silent(now, peer) || self.writes.is_silent(now, peer);
        !self.view.can_use(peer) || self.view.doubts(peer) || silent()
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
        let routed = planned.and_then(|plan| Ok((self.route(now, origin, &plan)?, plan)));
        match routed {
            Ok((Route::Here, plan)) => self.coordinate(now, origin, plan, timeout_ms, fx),
            Ok((Route::Forward(to), plan)) => {
                self.forward(now, origin, &to, &plan, request, timeout_ms, fx);
            }
            Err(refusal) => answer(origin, Response::Refused(refusal), fx),
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
        if self.load() >= MAX_OPERATIONS {
            let what = Resource::Requests;
            return Err(Refusal::Busy { what, limit: MAX_OPERATIONS as u32 });
        }
        Ok(())
    }

    /// Starts a request here: at a home replica of its key, or at a stand-in when no home can be reached.
    fn coordinate(
        &mut self,
        now: Micros,
        origin: Origin,
        plan: Plan,
        timeout_ms: u32,
        fx: &mut Effects,
    ) {
        let me = self.config.me;
        let Plan { mut homes, stand_ins, needed, strict, kind, update: wanted } = plan;
        let is_home = homes.contains(&me);
        // The own replica is asked first: it costs no message.
        homes.sort_by_key(|home| *home != me);
        let mut tally = Tally::new(&homes, needed, strict);
        for home in &homes {
            if !self.view.can_use(*home) {
                tally.fail(*home);
            }
        }
        let mut stand_ins: VecDeque<NodeId> = stand_ins.into();
        let Some(wanted) = wanted else {
            let first =
                if self.config.experiment.ask_all { tally.unasked().count() as u8 } else { needed };
            let op = self.start(now, origin, tally, kind, stand_ins, timeout_ms);
            return self.ask_more(now, op, first, fx);
        };
        let keep_for = if is_home {
            tally.ask(me);
            Vec::new()
        } else {
            fx.count(Counter::WritesCoordinatedByAStandIn);
            stand_ins.retain(|node| *node != me);
            tally.ask_stand_in(me, &homes[..1]);
            homes
        };
        let op = self.start(now, origin, tally, kind, stand_ins, timeout_ms);
        fx.send(vec![me], op, update(wanted, keep_for));
    }

    /// Passes a client's request to a home replica; what was forwarded already goes no further.
    #[expect(clippy::too_many_arguments)]
    fn forward(
        &mut self,
        now: Micros,
        origin: Origin,
        to: &[NodeId],
        plan: &Plan,
        request: Request,
        timeout_ms: u32,
        fx: &mut Effects,
    ) {
        fx.count(Counter::RequestsForwarded);
        let writes = plan.update.is_some();
        let (to, others) = if writes { to.split_at(1) } else { (to, &[][..]) };
        let tally = Tally::new(to, 1, true);
        let kind = Kind::Forwarded { request, writes, others: others.to_vec().into() };
        let op = self.start(now, origin, tally, kind, VecDeque::new(), timeout_ms);
        self.forward_on(now, op, fx);
    }

    /// Sends a forwarded request to the next home that may coordinate it.
    fn forward_on(&mut self, now: Micros, op: u64, fx: &mut Effects) {
        let Some(operation) = self.operations.get_mut(&op) else { return };
        let Kind::Forwarded { request, .. } = &operation.kind else { return };
        let Some(to) = operation.tally.unasked().next() else { return };
        let request = request.clone();
        operation.tally.ask(to);
        // Two messages and all that a home does lie between.
        let due = now + 2 * self.reads.patience(to);
        operation.open.push(Question { to, since: now, due, late: false });
        self.timers.insert((due, op));
        // The coordinator's deadline comes first, so that its answer can still be passed on.
        let left_ms = (operation.deadline.saturating_sub(now) / MILLI) as u32;
        let timeout_ms = (left_ms - left_ms / 10).max(1);
        fx.send(vec![to], op, Body::Coordinate { request, timeout_ms });
    }

    /// A home has refused a forwarded request for reasons of its own, and so did nothing: the next one gets it, and
    /// when there is none left, this node carries it out in their place.
    fn go_elsewhere(&mut self, now: Micros, op: u64, from: NodeId, why: Refusal, fx: &mut Effects) {
        let Some(operation) = self.operations.get_mut(&op) else { return };
        let Kind::Forwarded { request, others, .. } = &mut operation.kind else { return };
        if let Some(next) = others.pop_front() {
            operation.tally = Tally::new(&[next], 1, true);
        } else {
            operation.tally.fail(from);
        }
        if operation.tally.unasked().next().is_some() {
            return self.forward_on(now, op, fx);
        }
        if !operation.open.is_empty() {
            return;
        }
        let (origin, request) = (operation.origin, request.clone());
        let left_ms = (operation.deadline.saturating_sub(now) / MILLI).max(1) as u32;
        match self.plan(&request) {
            Ok(plan) if self.can_stand_in(&plan) => {
                fx.count(Counter::RequestsTakenOver);
                self.forget(op);
                self.coordinate(now, origin, plan, left_ms, fx);
            }
            _ => self.finish(op, Response::Refused(why), fx),
        }
    }

    /// Removes an operation and all its timers.
    fn forget(&mut self, op: u64) -> Option<Operation> {
        let operation = self.operations.remove(&op)?;
        self.timers.remove(&(operation.deadline, op));
        for Question { due, .. } in &operation.open {
            self.timers.remove(&(*due, op));
        }
        Some(operation)
    }

    fn start(
        &mut self,
        now: Micros,
        origin: Origin,
        tally: Tally,
        kind: Kind,
        stand_ins: VecDeque<NodeId>,
        timeout_ms: u32,
    ) -> u64 {
        self.next_op += 1;
        let deadline = now + Micros::from(timeout_ms) * MILLI;
        let operation = Operation {
            origin,
            deadline,
            timeout_ms,
            tally,
            kind,
            stand_ins,
            kept_here: BTreeSet::new(),
            open: Vec::new(),
            answered: false,
            lingering_bytes: 0,
        };
        self.operations.insert(self.next_op, operation);
        self.timers.insert((deadline, self.next_op));
        self.next_op
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
        let question = close(operation, &mut self.timers, op, from);
        let since = question.map(|question| question.since);
        let (read, write) = match &operation.kind {
            Kind::Get { .. } | Kind::Keys { .. } => (since, None),
            Kind::Write { .. } => (None, since),
            Kind::Forwarded { .. } => (None, None),
        };
        self.reads.answered(now, from, read);
        self.writes.answered(now, from, write);
        let took = since.map(|since| now.saturating_sub(since));
        let Operation { tally, kind, .. } = operation;
        match (kind, body) {
            (Kind::Forwarded { .. }, Body::Coordinated(Response::Refused(why)))
                if tally.is_home(from) && another_may_do(&why) =>
            {
                return self.go_elsewhere(now, op, from, why, fx);
            }
            (Kind::Forwarded { .. }, Body::Coordinated(response)) if tally.is_home(from) => {
                return self.finish(op, response, fx);
            }
            (Kind::Write { minted: None, .. }, Body::Updated { object, dot, generation })
                if from == self.config.me =>
            {
                self.spread(now, op, Minted { object, dot, generation, at: now }, fx);
            }
            (Kind::Write { minted: Some(minted), .. }, Body::Held) => {
                let is_first = tally.count(from);
                let own = from == self.config.me && is_first;
                if let Some(took) = took.or(own.then(|| now.saturating_sub(minted.at))) {
                    self.recent.wrote(from, took);
                }
            }
            (Kind::Write { minted: None, .. }, Body::Failed(refusal)) if from == self.config.me => {
                return self.finish(op, Response::Refused(refusal), fx);
            }
            // What was minted here is held here; only a hint beside it can have been refused.
            (Kind::Write { minted: Some(_), .. }, Body::Failed(_)) if from == self.config.me => {
                return;
            }
            (Kind::Get { .. }, Body::Copy { object, authoritative, kept_for, generation }) => {
                if let Some(took) = took {
                    self.recent.read(from, took);
                }
                let copy = (object, generation);
                Self::take_copy(operation, from, copy, authoritative, &kept_for);
            }
            (Kind::Keys { pages, .. }, Body::Listed { keys, more, authoritative }) => {
                if tally.answer(from, authoritative) {
                    pages.push(Listing { keys, more });
                }
            }
            (_, Body::Failed(refusal)) => {
                if let Refusal::Hints(limit) = refusal {
                    self.view.note_full(now, from, limit);
                }
                return self.lose(now, op, from, fx);
            }
            _ => return,
        }
        self.advance(now, op, fx);
    }

    /// A node will not answer this request any more.
    fn lose(&mut self, now: Micros, op: u64, node: NodeId, fx: &mut Effects) {
        let Some(operation) = self.operations.get_mut(&op) else { return };
        // The home it was, or the homes that it stood in for.
        let its = operation.tally.pass_over(node);
        operation.tally.fail(node);
        let open: Vec<NodeId> = operation.tally.uncovered().collect();
        let lost = |home: &NodeId| its.contains(home) || !self.view.can_use(*home);
        let open: Vec<NodeId> = open.into_iter().filter(lost).collect();
        for home in open {
            self.replace(now, op, home, fx);
        }
        self.advance(now, op, fx);
    }

    /// Ends an operation that has its quorum or can no longer get it; asks on for one that can.
    fn advance(&mut self, now: Micros, op: u64, fx: &mut Effects) {
        let Some(operation) = self.operations.get(&op) else { return };
        if operation.answered {
            if operation.is_over() {
                self.end(op, fx);
            }
            return;
        }
        if operation.tally.reached() && !matches!(operation.kind, Kind::Forwarded { .. }) {
            let limit = self.config.object_limits.merged;
            if operation.is_cut_short(limit) {
                fx.count(Counter::ReadsCutShort);
            }
            let response = operation.success(limit);
            return self.finish(op, response, fx);
        }
        match operation.kind {
            Kind::Write { minted: None, .. } => return,
            Kind::Write { .. } => self.fill_up(now, op, fx),
            _ => {
                let missing = operation.tally.missing();
                if missing > 0 {
                    self.ask_more(now, op, missing, fx);
                }
            }
        }
        let Some(operation) = self.operations.get(&op) else { return };
        let (hopeful, needed) = (operation.tally.hopeful(), operation.tally.needed());
        if hopeful < needed && operation.stand_ins.is_empty() {
            let response = operation.hopeless(&self.config.members);
            let response = self.explain_loss(operation, response, fx);
            self.finish(op, response, fx);
        }
    }

    /// Says in a refusal why this node's own answer does not count, if it has lost its disk and
    /// nobody else has what was on it.
    fn explain_loss(&self, operation: &Operation, response: Response, fx: &Effects) -> Response {
        let partition = match &operation.kind {
            Kind::Get { key, .. } => self.config.ring.partition(key),
            Kind::Keys { partition, .. } => *partition,
            Kind::Write { .. } | Kind::Forwarded { .. } => return response,
        };
        let me = self.config.me;
        let alone = *self.config.ring.homes(partition) == [me];
        if !alone || fx.meta().without_authority.binary_search(&partition).is_err() {
            return response;
        }
        let name = self.config.members.name(me);
        let explained = |mut roll: Roll| {
            for uncounted in roll.uncounted.iter_mut().filter(|uncounted| **uncounted == name) {
                uncounted.push_str(&format!(
                    ", whose disk was lost: acknowledged writes may be missing, and no other node has them; \
                     `pixii repair --node {name} --accept-loss` has it answer with what it has"
                ));
            }
            roll
        };
        match response {
            Response::Refused(Refusal::Unreachable { reachable, needed, roll }) => {
                let roll = explained(roll);
                Response::Refused(Refusal::Unreachable { reachable, needed, roll })
            }
            Response::Refused(Refusal::NoQuorum { answered, roll, needed, timeout_ms }) => {
                let roll = explained(roll);
                Response::Refused(Refusal::NoQuorum { answered, roll, needed, timeout_ms })
            }
            other => other,
        }
    }

    /// A link came up or went down: what waits for that peer stops waiting.
    pub(super) fn link(&mut self, now: Micros, peer: NodeId, up: bool, fx: &mut Effects) {
        self.view.link(peer, up);
        if !up {
            self.stop_waiting(now, peer, fx);
        }
    }

    /// This node's opinion of a peer has changed: nobody waits for one that is down.
    pub(super) fn opine(&mut self, now: Micros, peer: NodeId, opinion: Opinion, fx: &mut Effects) {
        self.view.opine(peer, opinion);
        if opinion == Opinion::Down {
            self.stop_waiting(now, peer, fx);
        }
    }

    fn stop_waiting(&mut self, now: Micros, peer: NodeId, fx: &mut Effects) {
        let waiting: Vec<u64> = self.operations.keys().copied().collect();
        for op in waiting {
            let Some(operation) = self.operations.get_mut(&op) else { continue };
            let open = close(operation, &mut self.timers, op, peer).is_some();
            if open || operation.tally.unasked().any(|home| home == peer) {
                self.lose(now, op, peer, fx);
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
            if operation.deadline <= now {
                self.withdraw(op, fx);
                let Some(operation) = self.operations.get(&op) else { continue };
                if !operation.answered {
                    let response = operation.failure(&self.config.members);
                    let response = self.explain_loss(operation, response, fx);
                    self.finish(op, response, fx);
                }
                self.end(op, fx);
            } else if !self.config.experiment.no_hedges {
                self.make_up(now, op, fx);
            }
        }
    }

    /// Voids the update of a write that has not been carried out by its deadline: nobody waits for
    /// it any more.
    fn withdraw(&self, op: u64, fx: &mut Effects) {
        if let Some(Kind::Write { key, minted: None, .. }) =
            self.operations.get(&op).map(|operation| &operation.kind)
        {
            fx.count(Counter::WritesWithdrawn);
            fx.send(vec![self.config.me], op, Body::Withdraw { key: key.clone() });
        }
    }

    /// True if a write of the key is in flight here that may not have been carried out yet.
    pub(super) fn has_writes(&self, key: &Key) -> bool {
        self.operations.values().any(|operation| match &operation.kind {
            Kind::Write { key: of, minted, .. } => of == key && minted.is_none(),
            Kind::Forwarded { request, writes: true, .. } => request.key() == Some(key),
            _ => false,
        })
    }

    /// Others are asked beside those that are late.
    fn make_up(&mut self, now: Micros, op: u64, fx: &mut Effects) {
        match self.operations.get(&op).map(|operation| &operation.kind) {
            Some(Kind::Write { .. }) => {
                self.chase(now, op, fx);
                self.advance(now, op, fx);
            }
            None | Some(Kind::Forwarded { writes: true, .. }) => {}
            Some(_) => self.hedge(now, op, fx),
        }
    }

    /// Answers. What still waits for replicas stays, to bring them up to date.
    fn finish(&mut self, op: u64, response: Response, fx: &mut Effects) {
        let Some(operation) = self.operations.get_mut(&op) else { return };
        answer(operation.origin, response, fx);
        operation.answered = true;
        self.lingering += 1;
        operation.lingering_bytes = operation.bytes();
        self.lingering_bytes += operation.lingering_bytes;
        let full = self.lingering > MAX_LINGERING || self.lingering_bytes > MAX_LINGERING_BYTES;
        if full || operation.is_over() {
            self.end(op, fx);
        }
    }

    /// Ends an answered operation: replicas seen to be behind get what the others had, and those that have not
    /// confirmed a write get a hint.
    fn end(&mut self, op: u64, fx: &mut Effects) {
        self.leave_hints(op, fx);
        let Some(operation) = self.forget(op) else { return };
        self.lingering -= 1;
        self.lingering_bytes -= operation.lingering_bytes;
        self.repair(op, operation, fx);
    }
}

/// Closes the question that is open to a node, and forgets its timer.
fn close(
    operation: &mut Operation,
    timers: &mut BTreeSet<(Micros, u64)>,
    op: u64,
    node: NodeId,
) -> Option<Question> {
    let question = operation.close(node)?;
    // Questions that left together share a timer, and one may fall on the deadline.
    let shared = operation.open.iter().any(|other| other.due == question.due);
    if !shared && question.due != operation.deadline {
        timers.remove(&(question.due, op));
    }
    Some(question)
}

/// True if a request that a home has refused like this may be carried out elsewhere.
fn another_may_do(why: &Refusal) -> bool {
    why.is_about_node() || matches!(why, Refusal::Unreachable { .. })
}

fn answer(origin: Origin, response: Response, fx: &mut Effects) {
    match origin {
        Origin::Client { client, id } => {
            fx.count(match &response {
                Response::Found { .. } => Counter::GetsAnswered,
                Response::Written { dot: Some(_), .. } => Counter::PutsAcknowledged,
                Response::Written { dot: None, .. } => Counter::DeletesAcknowledged,
                Response::Keys { .. } => Counter::ListingsAnswered,
                Response::Refused(_) => Counter::RequestsRefused,
                Response::Unknown { .. } => Counter::WritesUnknown,
            });
            fx.reply(client, id, response);
        }
        Origin::Peer { node, op } => {
            fx.count(Counter::RequestsCoordinatedForPeers);
            fx.send(vec![node], op, Body::Coordinated(response));
        }
    }
}
