//! The coordinator: carries a request through the home replicas of its key, and the nodes that
//! stand in for them, until enough of them have answered or the deadline has passed.

mod common;
mod env;
mod forward;
mod list;
mod operation;
mod pace;
mod plan;
mod read;
mod recent;
mod view;
mod write;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use self::common::{Common, Heard};
use self::env::Env;
use self::forward::ForwardOp;
use self::list::ListOp;
use self::operation::Operation;
use self::plan::{Plan, Route, Work};
use self::read::{Merged, ReadOp};
use self::write::WriteOp;
use super::effects::Effects;
use super::ids::{RequestId, RequestIds, Role};
use super::{ClientId, Config, Experiment};
use crate::members::Opinion;
use crate::message::{Body, Counter, RecentTrips, Refusal, Request, Resource, Response};
use crate::rng::Rng;
use crate::tally::Tally;
use crate::types::{Key, MAX_TIMEOUT_MS, MILLI, Micros, NodeId, Partition, Time};

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
    env: Env,
    operations: BTreeMap<RequestId, Operation>,
    forwarded_here: BTreeMap<NodeId, VecDeque<RequestId>>,
    ids: RequestIds,
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
        op: RequestId,
    },
}

impl Coordinator {
    /// A coordinator without requests.
    pub(super) fn new(config: Config, seed: u64) -> Self {
        Coordinator {
            env: Env::new(config),
            operations: BTreeMap::new(),
            forwarded_here: BTreeMap::new(),
            ids: RequestIds::new(Role::Coordinator, Rng::new(seed).next_u64()),
            lingering: 0,
            lingering_bytes: 0,
        }
    }

    /// How requests are to be carried out otherwise.
    pub(super) fn experiment(&mut self, experiment: Experiment) {
        self.env.experiment = experiment;
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
    pub(super) fn next_wake(&self) -> Option<Time> {
        self.env.timers.first().map(|(due, _)| *due)
    }

    /// How long a member takes to answer a read; `None` before it ever did.
    pub(super) fn latency(&self, peer: NodeId) -> Option<Micros> {
        self.env.reads.latency(peer)
    }

    /// What the latest round trips took.
    pub(super) fn recent(&self) -> Vec<RecentTrips> {
        self.env.recent.told()
    }

    /// True if requests for this member had better be sent to others.
    pub(super) fn avoids(&self, now: Time, peer: NodeId) -> bool {
        let Env { view, reads, writes, .. } = &self.env;
        let silent = || reads.is_silent(now, peer) || writes.is_silent(now, peer);
        !view.can_use(peer) || view.doubts(peer) || silent()
    }

    /// How many of these partitions no request with the configured R and W can be carried out for.
    pub(super) fn unservable(&self, partitions: impl Iterator<Item = Partition>) -> usize {
        self.env.unservable(partitions)
    }

    /// Answers a request with a refusal of the node itself.
    pub(super) fn refuse(&self, origin: Origin, refusal: Refusal, fx: &mut Effects) {
        answer(origin, Response::Refused(refusal), fx);
    }

    /// Takes a request; a client's may be forwarded, a forwarded one is coordinated here or
    /// refused.
    pub(super) fn request(
        &mut self,
        now: Time,
        origin: Origin,
        request: Request,
        timeout_ms: u32,
        fx: &mut Effects,
    ) {
        let planned = self.admit(timeout_ms).and_then(|()| self.env.plan(&request));
        let routed = planned.and_then(|plan| Ok((self.env.route(now, origin, &plan)?, plan)));
        match routed {
            Ok((Route::Here, plan)) => self.coordinate(now, origin, plan, timeout_ms, fx),
            Ok((Route::Forward(to), plan)) => {
                fx.out.count(Counter::RequestsForwarded);
                let writes = plan.work.is_write();
                let (to, others) = if writes { to.split_at(1) } else { (&to[..], &[][..]) };
                let others = others.to_vec().into();
                let common = self.begin(now, origin, Tally::new(to, 1, true), timeout_ms);
                let mut forward = ForwardOp { common, request, writes, others };
                forward.send_on(now, &mut self.env, fx);
                self.operations.insert(forward.common.op, Operation::Forward(forward));
            }
            Err(refusal) => answer(origin, Response::Refused(refusal), fx),
        }
    }

    /// False if the forwarded request has been here: a copy of it that came late could carry out
    /// what the client was told is refused.
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

    /// Starts a request here: at a home replica of its key, or at a stand-in when no home can be
    /// reached.
    fn coordinate(
        &mut self,
        now: Time,
        origin: Origin,
        plan: Plan,
        timeout_ms: u32,
        fx: &mut Effects,
    ) {
        let me = self.env.config.me;
        let Plan { mut homes, stand_ins, needed, strict, work } = plan;
        let is_home = homes.contains(&me);
        // The own replica is asked first: it costs no message.
        homes.sort_by_key(|home| *home != me);
        let mut tally = Tally::new(&homes, needed, strict);
        for home in &homes {
            if !self.env.view.can_use(*home) {
                tally.fail(*home);
            }
        }
        let mut stand_ins: VecDeque<NodeId> = stand_ins.into();
        let ask_all = self.env.experiment.ask_all;
        let first = if ask_all { tally.unasked().count() as u8 } else { needed };
        let operation = match work {
            Work::Read { key } => {
                let common = self.begin(now, origin, tally, timeout_ms);
                let mut read = ReadOp { common, key, merged: Merged::default(), stand_ins };
                read.ask_more(now, first, &mut self.env, fx);
                Operation::Read(read)
            }
            Work::List { partition, after, limit_bytes } => {
                let (common, pages) = (self.begin(now, origin, tally, timeout_ms), Vec::new());
                let mut list = ListOp { common, partition, after, limit_bytes, pages };
                list.ask_more(now, first, &mut self.env, fx);
                Operation::List(list)
            }
            Work::Write { key, seen, change } => {
                let keep_for = if is_home {
                    tally.ask(me);
                    Vec::new()
                } else {
                    fx.out.count(Counter::WritesCoordinatedByAStandIn);
                    stand_ins.retain(|node| *node != me);
                    tally.ask_stand_in(me, &homes[..1]);
                    homes
                };
                let common = self.begin(now, origin, tally, timeout_ms);
                let context = seen.clone();
                let update = Body::Update { key: key.clone(), context, change, keep_for };
                fx.out.send(vec![me], common.op, update);
                let kept_here = BTreeSet::new();
                Operation::Write(WriteOp { common, key, seen, minted: None, stand_ins, kept_here })
            }
        };
        self.operations.insert(operation.common().op, operation);
    }

    /// Names a request, and sets its deadline.
    fn begin(&mut self, now: Time, origin: Origin, tally: Tally, timeout_ms: u32) -> Common {
        let op = self.ids.next();
        let deadline = now + u64::from(timeout_ms) * MILLI;
        self.env.timers.insert((deadline, op));
        let (open, answered, lingering_bytes) = (Vec::new(), false, 0);
        Common { op, origin, deadline, timeout_ms, tally, open, answered, lingering_bytes }
    }

    /// A home has refused a forwarded request for reasons of its own, and so did nothing: the next
    /// one gets it, and when there is none left, this node carries it out in their place.
    fn go_elsewhere(
        &mut self,
        now: Time,
        op: RequestId,
        from: NodeId,
        why: Refusal,
        fx: &mut Effects,
    ) {
        let Some(Operation::Forward(forward)) = self.operations.get_mut(&op) else { return };
        if forward.go_on(now, from, &mut self.env, fx) {
            return;
        }
        let (origin, left_ms) = (forward.common.origin, forward.common.left_ms(now).max(1));
        match self.env.plan(&forward.request) {
            Ok(plan) if self.env.can_stand_in(&plan) => {
                fx.out.count(Counter::RequestsTakenOver);
                self.forget(op);
                self.coordinate(now, origin, plan, left_ms, fx);
            }
            _ => self.finish(op, Response::Refused(why), fx),
        }
    }

    /// Removes an operation and all its timers.
    fn forget(&mut self, op: RequestId) -> Option<Operation> {
        let operation = self.operations.remove(&op)?;
        let common = operation.common();
        self.env.timers.remove(&(common.deadline, op));
        for question in &common.open {
            self.env.timers.remove(&(question.due, op));
        }
        Some(operation)
    }

    /// Takes a replica's (or, for a forwarded request, a coordinator's) answer.
    pub(super) fn answer(
        &mut self,
        now: Time,
        op: RequestId,
        from: NodeId,
        body: Body,
        fx: &mut Effects,
    ) {
        let Some(operation) = self.operations.get_mut(&op) else { return };
        let env = &mut self.env;
        let question = operation.common_mut().close(from, env);
        let since = question.map(|question| question.since);
        let (read, write) = match operation {
            Operation::Read(_) | Operation::List(_) => (since, None),
            Operation::Write(_) => (None, since),
            Operation::Forward(_) => (None, None),
        };
        env.reads.answered(now, from, read);
        env.writes.answered(now, from, write);
        let took = since.map(|since| now.saturating_since(since));
        let heard = match operation {
            Operation::Read(read) => read.answer(from, took, body, env),
            Operation::List(list) => list.answer(from, body),
            Operation::Write(write) => write.answer(now, from, took, body, env, fx),
            Operation::Forward(forward) => forward.answer(from, body),
        };
        match heard {
            Heard::Nothing => {}
            Heard::Progress => self.advance(now, op, fx),
            Heard::Done(response) => self.finish(op, response, fx),
            Heard::Lost(refusal) => {
                if let Refusal::Hints(limit) = refusal {
                    self.env.view.note_full(now, from, limit);
                }
                self.lose(now, op, from, fx);
            }
            Heard::Elsewhere(why) => self.go_elsewhere(now, op, from, why, fx),
        }
    }

    /// A node will not answer this request any more.
    fn lose(&mut self, now: Time, op: RequestId, node: NodeId, fx: &mut Effects) {
        let Some(operation) = self.operations.get_mut(&op) else { return };
        operation.lose(now, node, &mut self.env, fx);
        self.advance(now, op, fx);
    }

    /// Ends an operation that has its quorum or can no longer get it; asks on for one that can.
    fn advance(&mut self, now: Time, op: RequestId, fx: &mut Effects) {
        let Some(operation) = self.operations.get_mut(&op) else { return };
        if operation.common().answered {
            if operation.is_over() {
                self.end(op, fx);
            }
        } else if let Some(response) = operation.advance(now, &mut self.env, fx) {
            self.finish(op, response, fx);
        }
    }

    /// A link came up or went down: what waits for that peer stops waiting.
    pub(super) fn link(&mut self, now: Time, peer: NodeId, up: bool, fx: &mut Effects) {
        self.env.view.link(peer, up);
        if !up {
            self.stop_waiting(now, peer, fx);
        }
    }

    /// This node's opinion of a peer has changed: nobody waits for one that is down.
    pub(super) fn opine(&mut self, now: Time, peer: NodeId, opinion: Opinion, fx: &mut Effects) {
        self.env.view.opine(peer, opinion);
        if opinion == Opinion::Down {
            self.stop_waiting(now, peer, fx);
        }
    }

    fn stop_waiting(&mut self, now: Time, peer: NodeId, fx: &mut Effects) {
        let waiting: Vec<RequestId> = self.operations.keys().copied().collect();
        for op in waiting {
            let Some(operation) = self.operations.get_mut(&op) else { continue };
            let common = operation.common_mut();
            let open = common.close(peer, &mut self.env).is_some();
            if open || common.tally.unasked().any(|home| home == peer) {
                self.lose(now, op, peer, fx);
            }
        }
    }

    /// Hedges and deadlines that are due.
    pub(super) fn tick(&mut self, now: Time, fx: &mut Effects) {
        while let Some((due, op)) = self.env.timers.first().copied() {
            if due > now {
                return;
            }
            self.env.timers.pop_first();
            let Some(operation) = self.operations.get_mut(&op) else { continue };
            if operation.common().deadline <= now {
                if let Operation::Write(write) = operation {
                    write.withdraw(&self.env, fx);
                }
                if !operation.common().answered {
                    let response = operation.expire(&self.env, fx);
                    self.finish(op, response, fx);
                }
                self.end(op, fx);
            } else if !self.env.experiment.no_hedges {
                operation.hedge(now, &mut self.env, fx);
                if matches!(operation, Operation::Write(_)) {
                    self.advance(now, op, fx);
                }
            }
        }
    }

    /// True if a write of the key is in flight here that may not have been carried out yet.
    pub(super) fn has_writes(&self, key: &Key) -> bool {
        self.operations.values().any(|operation| operation.may_write(key))
    }

    /// Answers. What still waits for replicas stays, to bring them up to date.
    fn finish(&mut self, op: RequestId, response: Response, fx: &mut Effects) {
        let Some(operation) = self.operations.get_mut(&op) else { return };
        let bytes = operation.bytes();
        let common = operation.common_mut();
        debug_assert!(!common.answered, "a request is answered once");
        answer(common.origin, response, fx);
        common.answered = true;
        common.lingering_bytes = bytes;
        self.lingering += 1;
        self.lingering_bytes += bytes;
        let full = self.lingering > MAX_LINGERING || self.lingering_bytes > MAX_LINGERING_BYTES;
        if full || operation.is_over() {
            self.end(op, fx);
        }
    }

    /// Ends an answered operation: replicas seen to be behind get what the others had, and those
    /// that have not confirmed a write get a hint.
    fn end(&mut self, op: RequestId, fx: &mut Effects) {
        let Some(operation) = self.forget(op) else { return };
        debug_assert!(operation.common().answered, "a request ends with its answer");
        self.lingering -= 1;
        self.lingering_bytes -= operation.common().lingering_bytes;
        match operation {
            Operation::Read(read) => read.repair(&self.env, fx),
            Operation::Write(write) => write.leave_hints(&self.env, fx),
            Operation::List(_) | Operation::Forward(_) => {}
        }
    }
}

fn answer(origin: Origin, response: Response, fx: &mut Effects) {
    match origin {
        Origin::Client { client, id } => {
            fx.out.count(match &response {
                Response::Found { .. } => Counter::GetsAnswered,
                Response::Written { dot: Some(_), .. } => Counter::PutsAcknowledged,
                Response::Written { dot: None, .. } => Counter::DeletesAcknowledged,
                Response::Keys { .. } => Counter::ListingsAnswered,
                Response::Refused(_) => Counter::RequestsRefused,
                Response::Unknown { .. } => Counter::WritesUnknown,
            });
            fx.out.reply(client, id, response);
        }
        Origin::Peer { node, op } => {
            fx.out.count(Counter::RequestsCoordinatedForPeers);
            fx.out.send(vec![node], op, Body::Coordinated(response));
        }
    }
}
