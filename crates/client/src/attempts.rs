//! One request, tried at several nodes until one has carried it out or the time is up.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pixii_core::message::{CallBody, Rejection, ReplyBody, Request, Response};
use pixii_core::types::{MAX_TIMEOUT_MS, NodeId, Partition};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::link::Lost;
use super::{Client, ClientError, Node, ODD_ANSWER};

/// How much later than a request's own deadline the client gives up waiting for the answer: the
/// node answers at the deadline, and the answer needs time to arrive.
const GRACE: Duration = Duration::from_millis(1_000);
/// A node that is not connected in this part of the time left is passed over, so that one that
/// hangs does not cost the whole request.
const CONNECT_SHARE: u32 = 4;
/// A read that is not answered after this time is put to another node as well, and so is a write: a
/// node's own hedges and its disk come first.
const READ_TIMEOUT: Duration = Duration::from_millis(100);
const WRITE_TIMEOUT: Duration = Duration::from_millis(500);
/// Once an owner has refused, so many others are asked at most: each would find the same owners, or
/// stand in.
const OTHERS: u32 = 2;
/// A node that was silent for so long is asked last for this time.
const QUIET_MS: u64 = 1_000;
/// Rest before a write whose outcome is unknown goes round once more.
const RETRY_BACKOFF: Duration = Duration::from_millis(50);

/// A request that was carried out.
pub(super) struct Done {
    pub(super) response: Response,
    /// True if another node may have taken it, too, or may yet.
    pub(super) repeated: bool,
}

/// What one node made of a request.
struct Answered {
    id: NodeId,
    /// True if it was notified that it is not the only one that has the put.
    again: bool,
    /// The node, for people.
    place: String,
    outcome: Result<ReplyBody, Lost>,
    /// True if it was not tried, because it could not be reached a moment ago.
    is_left_alone: bool,
}

/// What is known of a request while it is tried.
struct Attempts {
    writes: bool,
    /// Why the last node refused it.
    refused: Option<Rejection>,
    /// Why it may have happened without an answer that says so.
    unknown: Option<String>,
    /// What a node said that refused a further attempt at a write that may have happened.
    reason: Option<Rejection>,
    since: Instant,
    /// True if a node asks to be asked again.
    again: bool,
    faults: Vec<String>,
    /// Nodes that were not tried, because they could not be reached a moment ago.
    left_alone: u32,
    /// Nodes that are no owners and may still be asked once an owner has refused.
    others_left: u32,
    in_flight: JoinSet<Answered>,
    /// Attempts that may have carried it out, or may yet.
    open: u32,
    /// True once a put was sent to a second node while the first one might have it.
    repeats: bool,
    /// The answer of a node that carried out a put and knows of no other attempt.
    alone: Option<Response>,
}

impl Client {
    /// Puts a request to the partition's owners in their order, then to others, which forward it or
    /// stand in.
    pub(super) async fn data(
        &self,
        request: Request,
        partition: Partition,
        timeout_ms: u32,
    ) -> Result<Done, ClientError> {
        if timeout_ms == 0 || timeout_ms > MAX_TIMEOUT_MS {
            return Err(Rejection::Timeout(timeout_ms).into());
        }
        let writes = request.is_write();
        let timeout = if writes { WRITE_TIMEOUT } else { READ_TIMEOUT };
        let deadline = Instant::now() + Duration::from_millis(timeout_ms.into());
        let mut attempts = Attempts::new(&request);
        let mut candidates = self.candidates(partition);
        let mut insists = false;
        loop {
            let in_time = Instant::now() < deadline;
            let queried = attempts.next(&mut candidates).filter(|_| in_time);
            if let Some(id) = queried {
                let request = attempts.send(&request);
                let client = self.clone();
                attempts
                    .in_flight
                    .spawn(async move { client.attempt(id, request, deadline, insists).await });
            } else if attempts.in_flight.is_empty() {
                if in_time && !insists && attempts.left_alone > 0 {
                    // One of them may be back: better to look than to say that nobody is there.
                    (insists, attempts.others_left) = (true, OTHERS);
                    candidates = self.candidates(partition);
                    attempts.faults.clear();
                    continue;
                }
                if let (false, Some(response)) = (in_time, attempts.alone.take()) {
                    return Ok(Done { response, repeated: true });
                }
                let unknown = attempts.unknown.is_some() && self.0.options.retry_unknown;
                if !in_time || !(unknown || attempts.again) {
                    return Err(attempts.failure(timeout_ms));
                }
                sleep_until(Instant::now() + RETRY_BACKOFF).await;
                candidates = self.candidates(partition);
                (attempts.refused, attempts.again) = (None, false);
                attempts.others_left = OTHERS;
                continue;
            }
            let hedge = Instant::now() + timeout;
            let next = tokio::select! {
                Some(answered) = attempts.in_flight.join_next() => answered,
                () = sleep_until(hedge), if queried.is_some() => {
                    if let Some(node) = queried.and_then(|id| self.0.nodes.get(&id)) {
                        self.avoid(node);
                    }
                    continue;
                }
            };
            let Ok(answered) = next else { continue };
            let (id, again) = (answered.id, answered.again);
            if let Some(response) = attempts.take(answered)? {
                if attempts.repeats && !again && matches!(response, Response::Written { .. }) {
                    // Another node may yet carry it out under a dot of its own, and this one does
                    // not know: it is reported.
                    attempts.alone = Some(response);
                    candidates.push_front((id, true));
                    continue;
                }
                let repeated = attempts.unknown.is_some() || !attempts.in_flight.is_empty();
                return Ok(Done { response, repeated });
            }
            if attempts.unknown.is_some() && !self.0.options.retry_unknown {
                return Err(attempts.failure(timeout_ms));
            }
        }
    }

    /// Puts the request to one node; `insists` as [`Client::link`] does.
    async fn attempt(
        &self,
        id: NodeId,
        request: Request,
        deadline: Instant,
        insists: bool,
    ) -> Answered {
        let again = matches!(request, Request::PutAgain { .. });
        let unsent = |place: String, why: String, is_left_alone: bool| Answered {
            id,
            again,
            place,
            outcome: Err(Lost::Unsent(why)),
            is_left_alone,
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let Some(node) = self.0.nodes.get(&id) else {
            return unsent(format!("{id:?}"), "it is no member".into(), false);
        };
        let place = format!("{} ({})", node.name, node.address);
        let link = match timeout(left, self.link(node, left / CONNECT_SHARE, insists)).await {
            Ok(Ok(link)) => link,
            Ok(Err(unlinked)) => {
                return unsent(String::new(), unlinked.why, unlinked.is_left_alone);
            }
            Err(_) => return unsent(place, "no connection in time".into(), false),
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout_ms = (left.as_millis() as u32).max(1);
        let body = CallBody::Data { request, timeout_ms };
        let outcome = link.call(body, left + GRACE).await;
        if matches!(outcome, Ok(ReplyBody::Data(Response::Refused(Rejection::Stopping)))) {
            self.avoid(node);
        }
        Answered { id, again, place, outcome, is_left_alone: false }
    }

    /// For a moment, this node is asked last.
    fn avoid(&self, node: &Node) {
        let until = self.0.made.elapsed().as_millis() as u64 + QUIET_MS;
        node.quiet_until_ms.store(until, Ordering::Relaxed);
    }

    /// Puts a request to this member alone, within `timeout_ms`; nobody else is asked, whatever it
    /// answers.
    pub async fn query(
        &self,
        name: &str,
        request: Request,
        timeout_ms: u32,
    ) -> Result<Response, ClientError> {
        let (id, writes) = (self.id_of(name)?, request.is_write());
        let deadline = Instant::now() + Duration::from_millis(timeout_ms.into());
        let Answered { place, outcome, .. } = self.attempt(id, request, deadline, true).await;
        match outcome {
            Ok(ReplyBody::Data(response)) => Ok(response),
            Ok(_) => Err(ClientError::Error(ODD_ANSWER.into())),
            Err(Lost::Sent(why)) if writes => Err(ClientError::Unknown(format!("{place}: {why}"))),
            Err(Lost::Sent(why) | Lost::Unsent(why)) => {
                Err(ClientError::Error(format!("{place}: {why}")))
            }
        }
    }

    /// The nodes to ask about a partition in their order, and whether each is an owner: the owners,
    /// the node first connected to, all others; those that were silent a moment ago last.
    fn candidates(&self, partition: Partition) -> VecDeque<(NodeId, bool)> {
        let list = self.ring().preference_list(partition);
        let owners = self.ring().owners(partition);
        let now = self.0.made.elapsed().as_millis() as u64;
        let quiet = |id: &NodeId| {
            let node = self.0.nodes.get(id);
            node.is_some_and(|node| node.quiet_until_ms.load(Ordering::Relaxed) > now)
        };
        let mut nodes: Vec<(NodeId, bool)> =
            list.into_iter().map(|id| (id, owners.contains(&id))).collect();
        nodes.sort_by_key(|(id, owner)| (quiet(id), !owner, *id != self.0.entry && !owner));
        nodes.into()
    }
}

impl Attempts {
    /// None has been made yet.
    fn new(request: &Request) -> Self {
        Attempts {
            writes: request.is_write(),
            refused: None,
            unknown: None,
            reason: None,
            since: Instant::now(),
            again: false,
            faults: Vec::new(),
            left_alone: 0,
            others_left: OTHERS,
            in_flight: JoinSet::new(),
            open: 0,
            repeats: matches!(request, Request::PutAgain { .. }),
            alone: None,
        }
    }

    /// The request as the next node gets it: a put that another one may have carried out, or may
    /// yet, says so.
    fn send(&mut self, request: &Request) -> Request {
        self.repeats |= self.writes && self.open > 0;
        self.open += 1;
        let request = request.clone();
        if self.repeats { request.again() } else { request }
    }

    /// The next node to ask. Once an owner has refused, only so many others are: they ask the
    /// owners again, or stand in.
    fn next(&mut self, candidates: &mut VecDeque<(NodeId, bool)>) -> Option<NodeId> {
        let others = self.refused.is_none() || self.others_left > 0;
        let at = candidates.iter().position(|(_, owner)| *owner || others)?;
        let (id, owner) = candidates.remove(at)?;
        if !owner && self.refused.is_some() {
            self.others_left -= 1;
        }
        Some(id)
    }

    /// Takes an answer: the end if it says what has become of the request.
    fn take(&mut self, answered: Answered) -> Result<Option<Response>, ClientError> {
        let Answered { place, outcome, is_left_alone, .. } = answered;
        // What was refused, or never sent, was carried out by nobody.
        if matches!(outcome, Ok(ReplyBody::Data(Response::Refused(_))) | Err(Lost::Unsent(_))) {
            self.open -= 1;
        }
        self.left_alone += u32::from(is_left_alone);
        let named = |why: String| if place.is_empty() { why } else { format!("{place}: {why}") };
        match outcome {
            Ok(ReplyBody::Data(Response::Refused(why))) => {
                self.again |= matches!(why, Rejection::Paused(_));
                if self.writes && self.unknown.is_some() {
                    self.reason = Some(why.clone());
                }
                let no_quorum = |refused: &Rejection| refused.is_no_quorum();
                if !self.writes && no_quorum(&why) && self.refused.as_ref().is_some_and(no_quorum) {
                    // Owners are asked first, and know best why their own answer does not count.
                } else if another_may_accept(&why) {
                    self.refused = Some(why);
                } else if !self.writes || (self.unknown.is_none() && self.in_flight.is_empty()) {
                    return Err(why.into());
                } else {
                    // Another attempt may have carried it out, or may yet.
                    self.refused = Some(why);
                }
            }
            Ok(ReplyBody::Data(Response::Unknown { acknowledged, needed, .. })) => {
                // The time of all attempts together, which the node does not know.
                let ms = self.since.elapsed().as_millis();
                let reported = format!(
                    "{acknowledged} of {needed} replicas confirmed it in {ms} \
                    ms"
                );
                self.unknown = Some(reported);
            }
            Ok(ReplyBody::Data(response)) => return Ok(Some(response)),
            Ok(_) if self.writes => self.unknown = Some(ODD_ANSWER.into()),
            Ok(_) => self.faults.push(named(ODD_ANSWER.into())),
            Err(Lost::Sent(why)) if self.writes => self.unknown = Some(named(why)),
            Err(Lost::Sent(why) | Lost::Unsent(why)) => self.faults.push(named(why)),
        }
        Ok(None)
    }

    /// What to tell when no node has carried it out: the worst that may have happened.
    fn failure(self, timeout_ms: u32) -> ClientError {
        match (self.unknown, self.refused) {
            (Some(why), _) => ClientError::Unknown(match self.reason {
                Some(reason) => format!("{why}; a further attempt was refused: {reason}"),
                None => why,
            }),
            (None, Some(rejection)) => rejection.into(),
            (None, None) if self.faults.is_empty() => {
                ClientError::Error(format!("no node could be reached in {timeout_ms} ms"))
            }
            (None, None) => {
                ClientError::Error(format!("no node could answer: {}", self.faults.join("; ")))
            }
        }
    }
}

/// True for rejections that say something about the node rather than the request.
fn another_may_accept(rejection: &Rejection) -> bool {
    rejection.is_about_node()
        || matches!(rejection, Rejection::Unreachable { .. } | Rejection::NotOwner)
}
