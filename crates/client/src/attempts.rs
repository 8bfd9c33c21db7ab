//! One request, tried at several nodes until one has carried it out or the time is up.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pixii_core::message::{CallBody, Rejection, ReplyBody, Request, Response, WriteRule};
use pixii_core::types::{MAX_TIMEOUT_MS, NodeId, Partition};
use pixii_transport::socket::REPEATS_TIMEOUT;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::link::{Lost, Wait};
use super::{Client, ClientError, Node, ODD_ANSWER};

/// How much later than a request's own deadline the client gives up waiting for the answer: the
/// node answers at the deadline, and the answer needs time to arrive.
const GRACE: Duration = Duration::from_millis(1_000);
/// Share of the time left, as a divisor, after which a node that is not connected is passed over: a
/// node that hangs must not cost the whole request.
const CONNECT_SHARE: u32 = 4;
/// A read that is not answered after this time is sent to another node as well, and a write after
/// [`WRITE_TIMEOUT`]. A node's own hedges and its disk come first.
const READ_TIMEOUT: Duration = Duration::from_millis(100);
const WRITE_TIMEOUT: Duration = Duration::from_millis(500);
/// Share of the time left, as a divisor, after which a put that a silent node is to decide is given
/// up, and sent to another one.
const DECIDED_SHARE: u32 = 4;
/// Longest time until then: a put is repeated for [`REPEATS_TIMEOUT`] after its first attempt only.
const DECIDED_TIMEOUT: Duration = Duration::from_millis(REPEATS_TIMEOUT.as_millis() as u64 / 4);
/// Once an owner has refused, at most this many other nodes are tried: each would find the same
/// owners, or act as a fallback.
const OTHERS: u32 = 2;
/// A node that was silent for too long is tried last for this time.
const QUIET_MS: u64 = 1_000;
/// Wait before a write whose outcome is unknown is tried again.
const RETRY_BACKOFF: Duration = Duration::from_millis(50);

/// A request that was carried out.
pub(super) struct Done {
    pub(super) response: Response,
    /// True if another node may have carried it out, too, or may still do so.
    pub(super) repeated: bool,
}

/// The answer of one node to a request.
struct Answered {
    id: NodeId,
    /// True if the request said that another node may have the put, too.
    again: bool,
    /// The node, as messages name it.
    place: String,
    outcome: Result<ReplyBody, Lost>,
    /// True if the node was not tried, because it could not be reached a moment ago.
    is_left_alone: bool,
}

/// How long one attempt may take.
#[derive(Clone, Copy)]
struct Until {
    /// The deadline of the request.
    deadline: Instant,
    /// When the attempt must have been sent.
    by: Instant,
    /// True if a silent node is given up long before the deadline, because another one is tried.
    gives_up: bool,
}

/// Why the outcome of a write is unknown.
enum Doubt {
    /// So many replicas of those that were needed have confirmed it to one coordinator.
    Unconfirmed { acknowledged: u8, needed: u8 },
    /// Another reason, in words.
    Other(String),
}

impl Doubt {
    /// In words; `waited` is the time of all attempts together, which no node knows.
    fn reason(self, waited: Duration) -> String {
        match self {
            Doubt::Unconfirmed { acknowledged, needed } => {
                let ms = waited.as_millis();
                format!("{acknowledged} of {needed} replicas confirmed it in {ms} ms")
            }
            Doubt::Other(why) => why,
        }
    }
}

/// The state of a request while it is tried.
struct Attempts {
    writes: bool,
    decided: bool,
    puts: bool,
    /// True if it may be sent again once it may have been carried out.
    may_repeat: bool,
    /// The reason of the last node that refused it.
    refused: Option<Rejection>,
    /// Why the outcome is unknown; `None` while nothing may have happened without an answer.
    unknown: Option<Doubt>,
    /// The reason of a node that refused a further attempt, after the outcome had become unknown.
    reason: Option<Rejection>,
    since: Instant,
    /// True if a node has asked the client to try again.
    again: bool,
    /// True if no other node is to be tried meanwhile: the issuer of a write is busy, and a second
    /// one beside it would make siblings.
    is_held: bool,
    faults: Vec<String>,
    /// Nodes that were not tried, because they could not be reached a moment ago.
    left_alone: u32,
    /// Nodes that are no owners and may still be tried once an owner has refused.
    others_left: u32,
    in_flight: JoinSet<Answered>,
    /// Attempts that may have carried it out, or may still do so.
    open: u32,
    /// When the first of these was sent.
    first: Instant,
    /// True once a put was sent to a second node while the first one might have it.
    repeats: bool,
    /// The answer of a node that carried out a put and knows of no other attempt.
    alone: Option<Response>,
}

impl Client {
    /// Sends a request to the partition's owners in their order, then to other nodes, which forward
    /// it or act as fallbacks.
    pub(super) async fn data(
        &self,
        request: Request,
        partition: Partition,
        timeout_ms: u32,
    ) -> Result<Done, ClientError> {
        if timeout_ms == 0 || timeout_ms > MAX_TIMEOUT_MS {
            return Err(Rejection::Timeout(timeout_ms).into());
        }
        let (writes, decided) = (request.is_write(), is_decided(&request));
        let timeout = if writes { WRITE_TIMEOUT } else { READ_TIMEOUT };
        let deadline = Instant::now() + Duration::from_millis(timeout_ms.into());
        let mut attempts = Attempts::new(&request);
        let mut candidates = self.candidates(partition);
        let mut insists = false;
        let gives_up = decided && attempts.may_repeat && self.0.options.retry_unknown;
        loop {
            let in_time = Instant::now() < attempts.send_by(deadline);
            let queried = attempts.next(&mut candidates).filter(|_| in_time);
            if let Some(id) = queried {
                let request = attempts.send(&request);
                let by = attempts.send_by(deadline);
                let (client, until) = (self.clone(), Until { deadline, by, gives_up });
                attempts
                    .in_flight
                    .spawn(async move { client.attempt(id, request, until, insists).await });
            } else if attempts.in_flight.is_empty() {
                if in_time && !insists && attempts.left_alone > 0 {
                    // One of them may be back: try them before reporting that no node answers.
                    (insists, attempts.others_left) = (true, OTHERS);
                    candidates = self.candidates(partition);
                    attempts.faults.clear();
                    continue;
                }
                let unknown = attempts.unknown.is_some() && self.0.options.retry_unknown;
                if !in_time || !(unknown || attempts.again) {
                    return match attempts.alone.take() {
                        // It was carried out, even if the node cannot be informed any more.
                        Some(response) => Ok(Done { response, repeated: true }),
                        None => Err(attempts.failure(timeout_ms)),
                    };
                }
                sleep_until(Instant::now() + RETRY_BACKOFF).await;
                candidates = self.candidates(partition);
                (attempts.refused, attempts.again, attempts.is_held) = (None, false, false);
                attempts.others_left = OTHERS;
                continue;
            }
            let hedge = Instant::now() + timeout;
            let next = tokio::select! {
                Some(answered) = attempts.in_flight.join_next() => answered,
                // A write that is decided is at one node at a time.
                () = sleep_until(hedge), if queried.is_some() && !decided => {
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
                    // Another node may still carry it out under a dot of its own. This one does not
                    // know of that attempt, so it is informed.
                    attempts.alone = Some(response);
                    candidates.push_front((id, true));
                    continue;
                }
                let repeated = attempts.unknown.is_some() || !attempts.in_flight.is_empty();
                return Ok(Done { response, repeated });
            }
            let repeats = self.0.options.retry_unknown && attempts.may_repeat;
            if attempts.unknown.is_some() && !repeats {
                return Err(attempts.failure(timeout_ms));
            }
        }
    }

    /// Sends the request to one node, and waits for its answer; `insists` as in [`Client::link`].
    async fn attempt(&self, id: NodeId, request: Request, until: Until, insists: bool) -> Answered {
        let Until { deadline, by, gives_up } = until;
        let again =
            matches!(request, Request::PutAgain { .. } | Request::Decide { again: true, .. });
        let unsent = |place: String, why: String, is_left_alone: bool| Answered {
            id,
            again,
            place,
            outcome: Err(Lost::Unsent(why)),
            is_left_alone,
        };
        let left = by.saturating_duration_since(Instant::now());
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
        // It is given up before another node is tried.
        let give_up_after =
            gives_up.then(|| (left / DECIDED_SHARE).clamp(WRITE_TIMEOUT, DECIDED_TIMEOUT));
        let wait = Wait { whole: left + GRACE, give_up_after };
        let outcome = link.call(body, by, wait).await;
        if gives_up && matches!(outcome, Err(Lost::Sent(_))) {
            self.avoid(node);
        }
        if matches!(outcome, Ok(ReplyBody::Data(Response::Refused(Rejection::Stopping)))) {
            self.avoid(node);
        }
        Answered { id, again, place, outcome, is_left_alone: false }
    }

    /// For a moment, this node is tried last.
    fn avoid(&self, node: &Node) {
        let until = self.0.made.elapsed().as_millis() as u64 + QUIET_MS;
        node.quiet_until_ms.store(until, Ordering::Relaxed);
    }

    /// Sends a request to this member alone, within `timeout_ms`; no other node is tried, whatever
    /// the answer is.
    pub async fn query(
        &self,
        name: &str,
        request: Request,
        timeout_ms: u32,
    ) -> Result<Response, ClientError> {
        let (id, writes) = (self.id_of(name)?, request.is_write());
        let deadline = Instant::now() + Duration::from_millis(timeout_ms.into());
        let until = Until { deadline, by: deadline, gives_up: false };
        let Answered { place, outcome, .. } = self.attempt(id, request, until, true).await;
        match outcome {
            Ok(ReplyBody::Data(response)) => Ok(response),
            Ok(_) => Err(ClientError::Error(ODD_ANSWER.into())),
            Err(Lost::Sent(why)) if writes => Err(ClientError::Unknown(format!("{place}: {why}"))),
            Err(Lost::Sent(why) | Lost::Unsent(why)) => {
                Err(ClientError::Error(format!("{place}: {why}")))
            }
        }
    }

    /// The nodes to try for a partition, in order, and whether each is an owner: the owners, the
    /// node first connected to, all others. Those that were silent a moment ago come last.
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
    /// The state before the first attempt.
    fn new(request: &Request) -> Self {
        Attempts {
            writes: request.is_write(),
            decided: is_decided(request),
            puts: is_put(request),
            may_repeat: may_repeat(request),
            refused: None,
            unknown: None,
            reason: None,
            since: Instant::now(),
            again: false,
            is_held: false,
            faults: Vec::new(),
            left_alone: 0,
            others_left: OTHERS,
            in_flight: JoinSet::new(),
            open: 0,
            first: Instant::now(),
            repeats: matches!(
                request,
                Request::PutAgain { .. } | Request::Decide { again: true, .. }
            ),
            alone: None,
        }
    }

    /// Until when an attempt may be sent: a put that may have happened is repeated for a limited
    /// time, because nodes keep the event that joins its copies for a limited time.
    fn send_by(&self, deadline: Instant) -> Instant {
        match self.puts && self.open > 0 {
            true => deadline.min(self.first + REPEATS_TIMEOUT),
            false => deadline,
        }
    }

    /// The request as the next node gets it: a put that another node may have carried out, or may
    /// still carry out, carries a note of that.
    fn send(&mut self, request: &Request) -> Request {
        self.repeats |= self.writes && self.open > 0;
        if self.open == 0 {
            self.first = Instant::now();
        }
        self.open += 1;
        let request = request.clone();
        if self.repeats { request.again() } else { request }
    }

    /// The next node to try. Once an owner has refused, only [`OTHERS`] more are: they query the
    /// owners again, or act as fallbacks.
    fn next(&mut self, candidates: &mut VecDeque<(NodeId, bool)>) -> Option<NodeId> {
        if self.is_held {
            return None;
        }
        let others = self.refused.is_none() || self.others_left > 0;
        let at = candidates.iter().position(|(_, owner)| *owner || others)?;
        let (id, owner) = candidates.remove(at)?;
        if !owner && self.refused.is_some() {
            self.others_left -= 1;
        }
        Some(id)
    }

    /// Takes an answer. Returns the response or the error if the request is decided, else `None`.
    fn take(&mut self, answered: Answered) -> Result<Option<Response>, ClientError> {
        let Answered { place, outcome, is_left_alone, .. } = answered;
        // A request that was refused, or never sent, was not carried out there.
        if matches!(outcome, Ok(ReplyBody::Data(Response::Refused(_))) | Err(Lost::Unsent(_))) {
            self.open -= 1;
        }
        self.left_alone += u32::from(is_left_alone);
        let named = |why: String| if place.is_empty() { why } else { format!("{place}: {why}") };
        match outcome {
            Ok(ReplyBody::Data(Response::Refused(why))) => {
                self.is_held |= self.decided && why.is_overload();
                self.again |=
                    self.is_held || matches!(why, Rejection::Paused(_) | Rejection::GivenUp);
                if self.writes && self.unknown.is_some() {
                    self.reason = Some(why.clone());
                }
                let no_quorum = |refused: &Rejection| refused.is_no_quorum();
                if !self.writes && no_quorum(&why) && self.refused.as_ref().is_some_and(no_quorum) {
                    // Owners are tried first, and know best why their own answer does not count.
                } else if another_may_accept(&why) {
                    self.refused = Some(why);
                } else if !self.writes || !self.may_be_done() {
                    return Err(why.into());
                } else {
                    // Another attempt may have carried it out, or may still do so.
                    self.refused = Some(why);
                }
            }
            Ok(ReplyBody::Data(Response::Unknown { acknowledged, needed, .. })) => {
                // Of all attempts, the one that came the furthest.
                let further = !matches!(self.unknown,
                    Some(Doubt::Unconfirmed { acknowledged: most, .. }) if most > acknowledged);
                if further {
                    self.unknown = Some(Doubt::Unconfirmed { acknowledged, needed });
                }
            }
            Ok(ReplyBody::Data(response)) => return Ok(Some(response)),
            Ok(_) if self.writes => self.unknown = Some(Doubt::Other(ODD_ANSWER.into())),
            Ok(_) => self.faults.push(named(ODD_ANSWER.into())),
            Err(Lost::Sent(why)) if self.writes => self.unknown = Some(Doubt::Other(named(why))),
            Err(Lost::Sent(why) | Lost::Unsent(why)) => self.faults.push(named(why)),
        }
        Ok(None)
    }

    /// True if a node has carried it out, or may have, or may still do so.
    fn may_be_done(&self) -> bool {
        self.unknown.is_some() || self.alone.is_some() || !self.in_flight.is_empty()
    }

    /// The error when no node has carried it out: the worst that may have happened.
    fn failure(self, timeout_ms: u32) -> ClientError {
        let waited = self.since.elapsed();
        match (self.unknown.map(|doubt| doubt.reason(waited)), self.refused) {
            (Some(why), _) => ClientError::Unknown(match self.reason {
                Some(reason) => format!("{why}; a further attempt was refused: {reason}"),
                None => why,
            }),
            (None, Some(rejection)) => rejection.into(),
            (None, None) if self.faults.is_empty() => {
                ClientError::Timeout(format!("no node could be reached in {timeout_ms} ms"))
            }
            (None, None) => {
                ClientError::Error(format!("no node could answer: {}", self.faults.join("; ")))
            }
        }
    }
}

/// True for a write that is decided at its issuer.
fn is_decided(request: &Request) -> bool {
    matches!(request, Request::Decide { .. })
}

fn is_put(request: &Request) -> bool {
    matches!(
        request,
        Request::Put { .. } | Request::PutAgain { .. } | Request::Decide { value: Some(_), .. }
    )
}

/// True if the request is the same, however often it is carried out. A condition would be checked
/// against what its own first attempt has left, and a delete without a context has no write id.
fn may_repeat(request: &Request) -> bool {
    match request {
        Request::Decide { value, rule, .. } => value.is_some() && *rule == WriteRule::Cover,
        _ => true,
    }
}

/// True for rejections that are about the node rather than the request.
fn another_may_accept(rejection: &Rejection) -> bool {
    rejection.is_about_node()
        || matches!(rejection, Rejection::Unreachable { .. } | Rejection::NotOwner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use pixii_core::types::{Blob, Key, WriteId};

    use super::*;

    fn refused() -> Answered {
        let outcome = Ok(ReplyBody::Data(Response::Refused(Rejection::Stopping)));
        let place = String::new();
        Answered { id: NodeId(1), again: false, place, outcome, is_left_alone: false }
    }

    #[test]
    fn a_put_that_may_have_happened_is_repeated_for_a_limited_time_and_nothing_else_is() {
        let (key, w) = (Key::new("k").unwrap(), None.into());
        let put = Request::Put {
            key: key.clone(),
            value: Blob::default(),
            context: None,
            write: WriteId(1),
            w,
        };
        let deadline = Instant::now() + Duration::from_secs(600);
        let mut attempts = Attempts::new(&put);
        assert_eq!(attempts.send_by(deadline), deadline, "it was not sent yet");
        attempts.send(&put);
        let limit = attempts.first + REPEATS_TIMEOUT;
        attempts.send(&put);
        assert_eq!(attempts.send_by(deadline), limit, "from the first attempt on");
        assert_eq!(attempts.send_by(attempts.first), attempts.first, "a deadline before it holds");
        attempts.take(refused()).unwrap();
        assert_eq!(attempts.send_by(deadline), limit, "the other attempt is still out");
        attempts.take(refused()).unwrap();
        assert_eq!(attempts.send_by(deadline), deadline, "nothing has happened");
        let delete = Request::Delete { key, context: None, w };
        let mut attempts = Attempts::new(&delete);
        attempts.send(&delete);
        assert_eq!(attempts.send_by(deadline), deadline, "a delete names what it deletes");
    }
}
