//! The coordinator: carries a request through the owners of its key, and the nodes that
//! act as a fallback for them, until enough of them have answered or the deadline has passed.

mod change;
mod common;
mod env;
mod forward;
mod list;
mod operation;
mod pace;
mod plan;
mod read;
mod recent;
mod survey;
mod view;
mod waiting;
mod write;

use std::collections::{BTreeMap, VecDeque};

use smallvec::SmallVec;

use self::common::{Common, Heard};
use self::env::Env;
use self::forward::ForwardOp;
use self::list::ListOp;
use self::operation::Operation;
use self::plan::{Basis, Plan, Route, Work, Writing};
use self::read::{Merged, ReadOp};
use self::survey::{SurveyOp, Surveyed, Unconfirmed};
use self::write::WriteOp;
use super::ids::{RequestId, RequestIds, Role};
use super::io::Io;
use super::{ClientId, Config, Experiment};
use crate::members::Liveness;
use crate::message::{Body, Counter, RecentTrips, Rejection, Request, Resource, Response};
use crate::quorum::QuorumTracker;
use crate::rng::Rng;
use crate::types::{Key, MAX_TIMEOUT_MS, MILLI, Micros, NodeId, Partition, Time};

/// Most requests in progress.
const MAX_OPERATIONS: usize = 4_096;
/// Requests remembered per forwarding peer, so that a message that arrives twice acts once.
const MAX_REMEMBERED: usize = 256;
/// Most answered requests that wait for late replicas.
const MAX_LINGERING: usize = 4_096;
/// Most bytes of values that answered requests may keep in memory.
const MAX_LINGERING_BYTES: usize = 64 << 20;

/// Requests in progress at one node, and which peers it can send to.
#[derive(Clone, Debug)]
pub(super) struct Coordinator {
    env: Env,
    operations: BTreeMap<RequestId, Operation>,
    forwarded_here: BTreeMap<NodeId, VecDeque<RequestId>>,
    /// Forwarded writes whose answer is not waited for any more, and whose issuers cannot be
    /// notified of that before their links are up again; each with its deadline.
    abandoned: BTreeMap<NodeId, Vec<(Time, RequestId)>>,
    ids: RequestIds,
    /// Operations that are answered and wait for late replicas, to repair those that are behind.
    lingering: usize,
    lingering_bytes: usize,
}

/// The client or node that waits for the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A client of this node.
    Client {
        client: ClientId,
        /// The id of the call on this connection.
        id: u64,
    },
    /// A node that forwarded its client's request.
    Peer {
        node: NodeId,
        /// The id of its `Coordinate`, repeated in `Coordinated`.
        request_id: RequestId,
    },
}

impl Coordinator {
    /// A coordinator without requests.
    pub(super) fn new(config: Config, seed: u64) -> Self {
        Coordinator {
            env: Env::new(config),
            operations: BTreeMap::new(),
            forwarded_here: BTreeMap::new(),
            abandoned: BTreeMap::new(),
            ids: RequestIds::new(Role::Coordinator, Rng::new(seed).next_u64()),
            lingering: 0,
            lingering_bytes: 0,
        }
    }

    /// Changes how requests are carried out, for an experiment.
    pub(super) fn experiment(&mut self, experiment: Experiment) {
        self.env.experiment = experiment;
    }

    /// True when no request is in progress.
    pub(super) fn is_idle(&self) -> bool {
        self.load() == 0
    }

    /// Requests that a client or a node waits for.
    pub(super) fn load(&self) -> usize {
        self.operations.len() - self.lingering
    }

    /// When the next deadline or hedge is due.
    pub(super) fn next_wake(&self) -> Option<Time> {
        self.env.timers.first().map(|(due, _)| *due)
    }

    /// How long a member takes to answer a read; `None` before its first answer.
    pub(super) fn latency(&self, peer: NodeId) -> Option<Micros> {
        self.env.reads.latency(peer)
    }

    /// What the latest round trips took.
    pub(super) fn recent(&self) -> Vec<RecentTrips> {
        self.env.recent.reported()
    }

    /// True if requests should be sent to other members than this one.
    pub(super) fn avoids(&self, now: Time, peer: NodeId) -> bool {
        let Env { view, reads, writes, .. } = &self.env;
        let silent = || reads.is_silent(now, peer) || writes.is_silent(now, peer);
        !view.can_use(peer) || view.doubts(peer) || silent()
    }

    /// How many of these partitions no request with the configured R and W can be carried out for.
    pub(super) fn unservable(&self, partitions: &[Partition]) -> usize {
        self.env.unservable(partitions)
    }

    /// Answers a request with a rejection of the node itself.
    pub(super) fn refuse(&self, origin: Origin, rejection: Rejection, io: &mut Io) {
        answer(origin, Response::Refused(rejection), io);
    }

    /// Takes a request; a client's may be forwarded, a forwarded one is coordinated here or
    /// refused.
    pub(super) fn request(
        &mut self,
        now: Time,
        origin: Origin,
        request: Request,
        timeout_ms: u32,
        io: &mut Io,
    ) {
        let planned = self.admit(timeout_ms).and_then(|()| self.env.plan(&request));
        let routed = planned.and_then(|plan| Ok((self.env.route(now, origin, &plan)?, plan)));
        match routed {
            Ok((Route::Here, plan)) => self.coordinate(now, origin, plan, timeout_ms, io),
            Ok((Route::Forward(to), plan)) => {
                io.out.count(Counter::RequestsForwarded);
                let (writes, needed) = (plan.work.is_write(), plan.needed);
                let (to, others) = if writes { to.split_at(1) } else { (&to[..], &[][..]) };
                let others = others.to_vec().into();
                let common = self.begin(now, origin, QuorumTracker::new(to, 1, true), timeout_ms);
                let is_confirmed = false;
                let mut forward =
                    ForwardOp { common, request, writes, needed, others, is_confirmed };
                forward.send_on(now, &mut self.env, io);
                self.operations.insert(forward.common.request_id, Operation::Forward(forward));
            }
            Err(rejection) => answer(origin, Response::Refused(rejection), io),
        }
    }

    /// False if the forwarded request has been here before. A late copy of it could carry out a
    /// request after the client was informed of its rejection.
    pub(super) fn is_first(&mut self, origin: Origin) -> bool {
        let Origin::Peer { node, request_id } = origin else { return true };
        let remembered = self.forwarded_here.entry(node).or_default();
        if remembered.contains(&request_id) {
            return false;
        }
        if remembered.len() == MAX_REMEMBERED {
            remembered.pop_front();
        }
        remembered.push_back(request_id);
        true
    }

    fn admit(&self, timeout_ms: u32) -> Result<(), Rejection> {
        if timeout_ms == 0 || timeout_ms > MAX_TIMEOUT_MS {
            return Err(Rejection::Timeout(timeout_ms));
        }
        if self.load() >= MAX_OPERATIONS {
            let what = Resource::Requests;
            return Err(Rejection::Busy { what, limit: MAX_OPERATIONS as u32 });
        }
        Ok(())
    }

    /// Starts a request here: at an owner of its key, or at a fallback when no owner can be
    /// reached.
    fn coordinate(&mut self, now: Time, origin: Origin, plan: Plan, timeout_ms: u32, io: &mut Io) {
        if plan.decision().is_some() {
            return self.survey(now, origin, plan, timeout_ms, io);
        }
        let quorum_tracker = self.env.write_tracker(&plan);
        let Plan { fallbacks, needed, work, .. } = plan;
        let fallbacks: VecDeque<NodeId> = fallbacks.into();
        let query_all = self.env.experiment.query_all;
        let first = if query_all { quorum_tracker.unasked().count() as u8 } else { needed };
        let operation = match work {
            Work::Read { key } => {
                let common = self.begin(now, origin, quorum_tracker, timeout_ms);
                let mut read = ReadOp { common, key, merged: Merged::default(), fallbacks };
                read.query_more(now, first, &mut self.env, io);
                Operation::Read(read)
            }
            Work::List { partition, after, limit_bytes } => {
                let (common, pages) =
                    (self.begin(now, origin, quorum_tracker, timeout_ms), Vec::new());
                let mut list = ListOp { common, partition, after, limit_bytes, pages };
                list.query_more(now, first, &mut self.env, io);
                Operation::List(list)
            }
            Work::Write(writing) => {
                let common = self.begin(now, origin, quorum_tracker, timeout_ms);
                let (answers, env) = (Merged::default(), &self.env);
                Operation::Write(WriteOp::begin(common, fallbacks, writing, &answers, env, io))
            }
        };
        self.operations.insert(operation.common().request_id, operation);
    }

    /// Asks R owners, before a write is decided here.
    fn survey(&mut self, now: Time, origin: Origin, plan: Plan, timeout_ms: u32, io: &mut Io) {
        let Work::Write(Writing { key, basis: Basis::Decision(decision), .. }) = &plan.work else {
            debug_assert!(false, "only a decision needs a survey");
            return;
        };
        let (key, asked) = (key.clone(), decision.asked);
        let content_at = plan.is_content().then(|| SurveyOp::timeout(now, timeout_ms));
        // Only owners are asked, strict or not.
        let quorum_tracker = self.env.tracker(&plan.owners, asked, true);
        let common = self.begin(now, origin, quorum_tracker, timeout_ms);
        let (request_id, merged) = (common.request_id, Merged::default());
        let unconfirmed = match origin {
            Origin::Client { .. } => None,
            Origin::Peer { node, request_id: forwarded } => {
                Some(Unconfirmed { node, forwarded, ask_at: now })
            }
        };
        let mut survey = SurveyOp { common, key, merged, plan, content_at, unconfirmed };
        survey.query_more(now, asked, &mut self.env, io);
        self.operations.insert(request_id, Operation::Survey(Box::new(survey)));
        self.advance(now, request_id, io);
    }

    /// The owners have answered: the write is decided in the transaction of its key.
    fn decide(&mut self, request_id: RequestId, io: &mut Io) {
        let Some(Operation::Survey(survey)) = self.forget(request_id) else { return };
        let SurveyOp { common, merged, plan, .. } = *survey;
        if let Err(rejection) = self.env.check_reach(&plan) {
            return answer(common.origin, Response::Refused(rejection), io);
        }
        let reached = common.quorum_tracker.reached();
        let unread = (!reached).then(|| common.unreachable(&self.env.config.members));
        let quorum_tracker = self.env.write_tracker(&plan);
        // Another id: a late answer to the survey is none to the write.
        let request_id = self.ids.next();
        self.env.timers.insert((common.deadline, request_id));
        let common = Common { request_id, quorum_tracker, open: SmallVec::new(), ..common };
        let Plan { fallbacks, work: Work::Write(writing), .. } = plan else { return };
        let mut write = WriteOp::begin(common, fallbacks.into(), writing, &merged, &self.env, io);
        write.unread = unread;
        self.operations.insert(request_id, Operation::Write(write));
    }

    /// Names a request, and sets its deadline.
    fn begin(
        &mut self,
        now: Time,
        origin: Origin,
        quorum_tracker: QuorumTracker,
        timeout_ms: u32,
    ) -> Common {
        let request_id = self.ids.next();
        let deadline = now + u64::from(timeout_ms) * MILLI;
        self.env.timers.insert((deadline, request_id));
        let (open, answered, lingering_bytes) = (SmallVec::new(), false, 0);
        Common {
            request_id,
            origin,
            deadline,
            timeout_ms,
            quorum_tracker,
            open,
            answered,
            lingering_bytes,
        }
    }

    /// An owner has refused a forwarded request for reasons of its own, and so did nothing: the
    /// next one gets it, and when there is none left, this node carries it out in their place.
    fn go_elsewhere(
        &mut self,
        now: Time,
        request_id: RequestId,
        from: NodeId,
        why: Rejection,
        io: &mut Io,
    ) {
        let Some(Operation::Forward(forward)) = self.operations.get_mut(&request_id) else {
            return;
        };
        if forward.go_on(now, from, &mut self.env, io) {
            return;
        }
        let (origin, left_ms) = (forward.common.origin, forward.common.left_ms(now).max(1));
        match self.env.plan(&forward.request) {
            Ok(plan) if self.env.can_take_over(&plan) => {
                io.out.count(Counter::RequestsTakenOver);
                self.forget(request_id);
                self.coordinate(now, origin, plan, left_ms, io);
            }
            _ => self.finish(request_id, Response::Refused(why), io),
        }
    }

    /// Removes an operation and all its timers.
    fn forget(&mut self, request_id: RequestId) -> Option<Operation> {
        let operation = self.operations.remove(&request_id)?;
        let common = operation.common();
        self.env.timers.remove(&(common.deadline, request_id));
        for question in &common.open {
            self.env.timers.remove(&(question.due, request_id));
        }
        if let Operation::Survey(survey) = &operation {
            let asks = survey.unconfirmed.map(|unconfirmed| unconfirmed.ask_at);
            for at in survey.content_at.into_iter().chain(asks) {
                self.env.timers.remove(&(at, request_id));
            }
        }
        Some(operation)
    }

    /// Takes a replica's (or, for a forwarded request, a coordinator's) answer.
    pub(super) fn answer(
        &mut self,
        now: Time,
        request_id: RequestId,
        from: NodeId,
        body: Body,
        io: &mut Io,
    ) {
        self.env.view.note_heard(from);
        if matches!(body, Body::Failed(Rejection::OtherRing { .. })) {
            // The later ring comes here too, and all that is open is asked again under it.
            return;
        }
        let Some(operation) = self.operations.get_mut(&request_id) else { return };
        let env = &mut self.env;
        let question = operation.common_mut().close(from, env);
        let since = question.map(|question| question.since);
        let (read, write) = match operation {
            Operation::Read(_) | Operation::List(_) | Operation::Survey(_) => (since, None),
            Operation::Write(_) => (None, since),
            Operation::Forward(_) => (None, None),
        };
        env.reads.answered(now, from, read);
        env.writes.answered(now, from, write);
        let took = since.map(|since| now.saturating_since(since));
        let heard = match operation {
            Operation::Read(read) => read.answer(from, took, body, env),
            Operation::List(list) => list.answer(from, body),
            Operation::Write(write) => write.answer(now, from, took, body, env, io),
            Operation::Survey(survey) => survey.answer(from, took, body, env),
            Operation::Forward(forward) => forward.answer(from, body),
        };
        match heard {
            Heard::Nothing => {}
            Heard::Progress => self.advance(now, request_id, io),
            Heard::Done(response) => self.finish(request_id, response, io),
            Heard::Lost(rejection) => {
                if let Rejection::Hints(limit) = rejection {
                    self.env.view.note_full(now, from, limit);
                }
                self.lose(now, request_id, from, io);
            }
            Heard::Elsewhere(why) => self.go_elsewhere(now, request_id, from, why, io),
        }
    }

    /// A node will not answer this request any more.
    fn lose(&mut self, now: Time, request_id: RequestId, node: NodeId, io: &mut Io) {
        let Some(operation) = self.operations.get_mut(&request_id) else { return };
        operation.lose(now, node, &mut self.env, io);
        self.advance(now, request_id, io);
    }

    /// Ends an operation that has its quorum or can no longer get it; sends further queries for one
    /// that can.
    fn advance(&mut self, now: Time, request_id: RequestId, io: &mut Io) {
        let Some(operation) = self.operations.get_mut(&request_id) else { return };
        if operation.common().answered {
            if operation.is_over() {
                self.end(request_id, io);
            }
        } else if let Operation::Survey(survey) = operation {
            match survey.step(now, &mut self.env, io) {
                Surveyed::Waits => {}
                Surveyed::Complete => self.decide(request_id, io),
                Surveyed::Refused(response) => self.finish(request_id, response, io),
            }
        } else if let Some(response) = operation.advance(now, &mut self.env, io) {
            self.finish(request_id, response, io);
        }
    }

    /// A link came up or went down: what waits for that peer stops waiting.
    pub(super) fn link(&mut self, now: Time, peer: NodeId, up: bool, io: &mut Io) {
        self.env.view.link(peer, up);
        if up {
            let abandoned = self.abandoned.remove(&peer).unwrap_or_default();
            for (_, request_id) in abandoned.into_iter().filter(|(until, _)| *until > now) {
                io.out.send_to(peer, request_id, Body::Abandon);
            }
        } else {
            self.lose_peer(now, peer, io);
        }
    }

    /// This node's view of the liveness of a peer has changed: nobody waits for one that is down.
    pub(super) fn set_liveness(
        &mut self,
        now: Time,
        peer: NodeId,
        liveness: Liveness,
        io: &mut Io,
    ) {
        self.env.view.set_liveness(peer, liveness);
        if liveness == Liveness::Down {
            self.lose_peer(now, peer, io);
        }
    }

    /// Nobody waits for this peer, and what it has forwarded here and is not decided is void: it
    /// could not be answered. That comes first: an operation that stops waiting may decide.
    fn lose_peer(&mut self, now: Time, peer: NodeId, io: &mut Io) {
        self.void(|origin| matches!(origin, Origin::Peer { node, .. } if *node == peer), io);
        let waiting: Vec<RequestId> = self.operations.keys().copied().collect();
        for request_id in waiting {
            let Some(operation) = self.operations.get_mut(&request_id) else { continue };
            let open = operation.common_mut().close(peer, &mut self.env).is_some();
            if open && operation.is_forwarded_decision() {
                // The link may be up: only this node's view of the peer has changed.
                let deadline = operation.common().deadline;
                if self.env.view.is_linked(peer) {
                    io.out.send_to(peer, request_id, Body::Abandon);
                } else {
                    self.abandoned.entry(peer).or_default().push((deadline, request_id));
                }
            }
            let common = operation.common();
            if open || common.quorum_tracker.unasked().any(|owner| owner == peer) {
                self.lose(now, request_id, peer, io);
            }
        }
    }

    /// Hedges and deadlines that are due.
    pub(super) fn tick(&mut self, now: Time, io: &mut Io) {
        while let Some((due, request_id)) = self.env.timers.first().copied() {
            if due > now {
                return;
            }
            self.env.timers.pop_first();
            let Some(operation) = self.operations.get_mut(&request_id) else { continue };
            if operation.common().deadline <= now {
                match operation {
                    Operation::Write(write) => write.withdraw(&self.env, io),
                    Operation::Forward(forward) if !forward.common.answered => forward.abandon(io),
                    _ => {}
                }
                if !operation.common().answered {
                    let response = operation.expire(&self.env, io);
                    self.finish(request_id, response, io);
                }
                self.end(request_id, io);
            } else {
                if let Operation::Forward(forward) = operation
                    && let Some(issuer) = forward.leave_quiet_issuer(now, &mut self.env, io)
                {
                    self.go_elsewhere(now, request_id, issuer, Rejection::GivenUp, io);
                    continue;
                }
                let hedges = !self.env.experiment.no_hedges;
                if hedges {
                    operation.hedge(now, &mut self.env, io);
                }
                let surveys = matches!(operation, Operation::Survey(_));
                if surveys || hedges && matches!(operation, Operation::Write(_)) {
                    self.advance(now, request_id, io);
                }
            }
        }
    }

    /// True if a write of the key is in flight here that may not have been carried out yet.
    pub(super) fn has_writes(&self, key: &Key) -> bool {
        self.operations.values().any(|operation| operation.may_write(key))
    }

    /// Answers. What still waits for replicas stays, to bring them up to date.
    fn finish(&mut self, request_id: RequestId, response: Response, io: &mut Io) {
        let Some(operation) = self.operations.get_mut(&request_id) else { return };
        let bytes = operation.bytes();
        let common = operation.common_mut();
        debug_assert!(!common.answered, "a request is answered once");
        answer(common.origin, response, io);
        common.answered = true;
        common.lingering_bytes = bytes;
        self.lingering += 1;
        self.lingering_bytes += bytes;
        let full = self.lingering > MAX_LINGERING || self.lingering_bytes > MAX_LINGERING_BYTES;
        if full || operation.is_over() {
            self.end(request_id, io);
        }
    }

    /// Ends an answered operation: replicas seen to be behind get what the others had, and those
    /// that have not confirmed a write get a hint.
    fn end(&mut self, request_id: RequestId, io: &mut Io) {
        let Some(operation) = self.forget(request_id) else { return };
        debug_assert!(operation.common().answered, "a request ends with its answer");
        self.lingering -= 1;
        self.lingering_bytes -= operation.common().lingering_bytes;
        match operation {
            Operation::Read(read) => read.repair(&self.env, io),
            Operation::Write(write) => write.leave_hints(&self.env, io),
            Operation::List(_) | Operation::Survey(_) | Operation::Forward(_) => {}
        }
    }
}

fn answer(origin: Origin, response: Response, io: &mut Io) {
    match origin {
        Origin::Client { client, id } => {
            io.out.count(match &response {
                Response::Found { .. } => Counter::GetsAnswered,
                Response::Written { dot: Some(_), .. } => Counter::PutsAcknowledged,
                Response::Written { dot: None, .. } => Counter::DeletesAcknowledged,
                Response::Keys { .. } => Counter::ListingsAnswered,
                Response::Refused(_) => Counter::RequestsRefused,
                Response::Unknown { .. } => Counter::WritesUnknown,
            });
            io.out.reply(client, id, response);
        }
        Origin::Peer { node, request_id } => {
            io.out.count(Counter::RequestsCoordinatedForPeers);
            io.out.send_to(node, request_id, Body::Coordinated(response));
        }
    }
}
