//! Clients in the world: their requests, the answers they get, and when these are judged.

use bytes::Bytes;
use pixii_core::causal::{Context, Object};
use pixii_core::emulation::Verdict;
use pixii_core::message::{Call, CallBody, Quorum, Rejection, Reply, ReplyBody, Request, Response};
use pixii_core::node::{Input, Node};
use pixii_core::ring::Ring;
use pixii_core::store::{Found, Store};
use pixii_core::types::{Blob, Key, MILLI, NodeId, WriteId};
use pixii_core::wire;

use super::super::clients::{Current, describe};
use super::super::judge::{Acknowledgement, Broken, Image};
use super::{Event, Host, World, client_id};

/// Maximum number of bytes that a write adds to an encoded object, value included.
const VERSION_BYTES: usize = 36;
/// Deadline of the requests after healing; only a broken promise misses it.
const AMPLE_MS: u32 = 10_000;

impl World {
    /// After healing, reads every key once more from all its owners that are read-eligible.
    pub(super) fn query_at_the_end(&mut self) {
        self.healed = true;
        self.plan.timeout_ms = AMPLE_MS;
        for at in 0..self.plan.keys {
            let Ok(key) = Key::new(format!("key{at}").into_bytes()) else { continue };
            let partition = self.ring.partition(&key);
            let r = self.sound_owners(&key).count() as u8;
            if r == 0 {
                self.count("keys without an read-eligible owner");
                continue;
            }
            let queried = Quorum { replicas: Some(r), strict: Some(true) };
            let get = Request::Get { key: key.clone(), r: queried };
            let list = Request::Keys { partition, after: None, limit_bytes: 1 << 20, r: Some(r) };
            self.last_requests.extend([(key.clone(), get), (key, list)]);
        }
        self.clients[0].is_done = false;
        self.schedule(self.now(), Event::Next { client: 0 });
    }

    /// The owners whose copy of the key is read-eligible and sound.
    fn sound_owners<'a>(&'a self, key: &'a Key) -> impl Iterator<Item = &'a Host> {
        let partition = self.ring.partition(key);
        self.hosts.iter().filter(move |host| {
            let meta = host.node.as_ref().map(Node::meta);
            let waits_for = || self.hosts.iter().any(|other| !self.kept(other, host).is_empty());
            let sound = match host.store.read(partition, key) {
                Ok(Found::Record(_)) => true,
                // An absent key does not count while other nodes keep hints for the owner.
                Ok(Found::Nothing) => !waits_for(),
                _ => false,
            };
            self.ring.owners(partition).contains(&host.id)
                && meta.is_some_and(|meta| !meta.read_ineligible.contains(&partition))
                && sound
        })
    }

    /// The operator accepts the loss of data that no other host has.
    pub(super) fn accept_losses(&mut self) {
        for at in 0..self.hosts.len() {
            let lost = self.hosts[at].node.as_ref().is_some_and(|node| !node.lost().is_empty());
            if lost {
                self.input(at, Input::AcceptLoss);
            }
        }
    }

    /// Has a client settle a key that has outgrown its limits, or for which hints are kept: no node
    /// can do it.
    pub(super) fn settle_a_key(&mut self) {
        let Some(limit) = self.plan.object_limit else { return };
        if self.settling.is_some() || !self.clients[0].is_done {
            return;
        }
        let large = |key: &&Key| {
            let copies = self.copies(key).into_iter().filter_map(|(_, copy)| copy);
            let mut copies = copies.filter(|copy| copy.values().next().is_some());
            let pairs = || self.hosts.iter().flat_map(|a| self.hosts.iter().map(move |b| (a, b)));
            let is_kept = || pairs().any(|(host, target)| self.kept(host, target).contains(key));
            copies.any(|copy| wire::encoded_len(&copy) > limit || is_kept())
        };
        let Some(key) = self.judge.keys().find(large).cloned() else { return };
        self.count("oversized keys settled");
        self.settling = Some((key, false));
        self.clients[0].is_done = false;
        self.schedule(self.now(), Event::Next { client: 0 });
    }

    /// Reads a key that has to be settled from all its owners, or from one: an owner that has lost
    /// its disk and cannot take the key over counts in no read. Then deletes what was read.
    fn settle(&mut self, client: usize, (key, read): (Key, bool)) {
        let n = self.plan.n;
        let all = Quorum { replicas: Some(n), strict: Some(true) };
        let context = self.clients[client].context(&key);
        let mut quorum = n;
        let request = match context {
            Some(context) if read => {
                Request::Delete { key: key.clone(), context: Some(context), w: all }
            }
            _ => {
                self.settling = Some((key.clone(), true));
                quorum = if self.rng.chance(0.5) { n } else { 1 };
                let r = Quorum { replicas: Some(quorum), strict: Some(true) };
                Request::Get { key: key.clone(), r }
            }
        };
        let id = WriteId(self.rng.next_u128());
        if let Some(write) = describe(&request) {
            self.judge.issue(id, write);
        }
        let is_write = request.is_write();
        self.clients[client].begin(request, key, (quorum, true), self.time.now());
        if let (true, Some(current)) = (is_write, &mut self.clients[client].current) {
            current.write = Some(id);
        }
        let body = self.clients[client].attempt(&self.plan);
        self.send_call(client, body);
    }

    pub(super) fn next_request(&mut self, client: usize) {
        if client == 0
            && let Some(key) = self.settling.take()
        {
            return self.settle(client, key);
        }
        if let Some((key, request)) = self.last_requests.pop_front() {
            let quorum = match &request {
                Request::Get { r: quorum, .. }
                | Request::Put { w: quorum, .. }
                | Request::PutAgain { w: quorum, .. }
                | Request::Decide { w: quorum, .. }
                | Request::Delete { w: quorum, .. } => quorum.replicas,
                Request::Keys { r, .. } => *r,
            };
            let quorum = quorum.unwrap_or(self.plan.n);
            self.clients[client].begin(request, key, (quorum, true), self.time.now());
            let body = self.clients[client].attempt(&self.plan);
            return self.send_call(client, body);
        }
        if self.issued >= self.plan.operations || self.healing {
            self.clients[client].is_done = true;
            return;
        }
        self.issued += 1;
        let (body, write) = self.clients[client].next(&self.plan, self.time.now());
        if let (Some(write), Some(current)) = (write, &self.clients[client].current)
            && let Some(id) = current.write
        {
            self.judge.issue(id, write);
        }
        self.send_call(client, body);
    }

    fn send_call(&mut self, client: usize, body: CallBody) {
        let Some(current) = self.clients[client].current.clone() else { return };
        self.report(&current.key, || {
            format!("client {client} asks n{}: {:?}", current.host, current.request)
        });
        let frame = wire::frame(&Call { id: current.call, body });
        let (to, kind) = (self.queried(current.host), current.request.kind());
        // A connection delivers a call exactly once or breaks.
        match self.net.verdict(self.now(), client_id(client), self.hosts[to].id, kind) {
            Verdict::Deliver(delays) => {
                let delay = delays.first().copied().unwrap_or_default() + self.lateness(kind);
                if let Some(current) = &mut self.clients[client].current {
                    current.arrives = self.time.now() + delay;
                }
                let incarnation = self.hosts[to].incarnation;
                self.schedule(self.now() + delay, Event::ToHost { client, to, incarnation, frame });
            }
            Verdict::Drop | Verdict::Cut => self.count("messages dropped"),
        }
        let timeout = u64::from(self.plan.timeout_ms) * MILLI;
        // A client that hedges sends the put to a second node while the first may still carry it
        // out.
        let hedges = self.plan.hedges && current.write.is_some() && current.attempts == 1;
        let timeout = if hedges { timeout / 8 } else { timeout * 3 / 2 };
        let call = current.call;
        self.schedule(self.now() + timeout, Event::GaveUp { client, call });
    }

    /// A node answers a client now: the answer must be true at this moment.
    pub(super) fn judge_reply(&mut self, client: usize, id: u64, response: &Response) {
        let Some(current) = self.clients[client].current.clone() else { return };
        self.report(&current.key, || format!("client {client} is answered: {response:?}"));
        if current.call != id {
            return;
        }
        let (key, n) = (&current.key, self.plan.n);
        let verdict = match (response, current.write) {
            (Response::Written { dot, context, .. }, Some(write)) => {
                let (w, context) = (current.quorum, unseal(key, context));
                let (since, now, strict) = (current.since, self.now(), current.strict);
                let reported = Acknowledgement { since, now, w, strict, dot: *dot, context };
                let durable = self.durable(key);
                self.judge.acknowledge(write, reported, &durable)
            }
            (Response::Found { values, context, .. }, None) => {
                let (seen, durable) = (unseal(key, context), self.durable(key));
                let values: Vec<Vec<u8>> = values.iter().map(|value| value.0.to_vec()).collect();
                let quorums = (current.quorum, n, current.strict);
                let limit = self.plan.object_limits().merged;
                self.judge.cut_reads_from(limit / VERSION_BYTES);
                self.judge.check_read(key, current.since, quorums, &values, &seen, &durable)
            }
            _ => Ok(()),
        };
        self.broken = self.broken.take().or(verdict.err());
        self.judge_rejection(client, response);
        self.judge_unknown(client, response);
    }

    /// The image of the key on each host after a power cut at this moment.
    fn durable(&self, key: &Key) -> Vec<Image> {
        let owners = self.ring.owners(self.ring.partition(key));
        let image = |host: &Host| {
            if host.is_removed {
                return Image { owner: None, own: Object::default(), hints: Vec::new() };
            }
            let place = |id: NodeId| owners.iter().position(|owner| *owner == self.successor(id));
            let hint = |(target, found)| match found {
                Found::Record(record) => Some((place(target), record.object)),
                Found::Nothing | Found::Damaged => None,
            };
            let hints = host.store.hints_durable(key).into_iter().filter_map(hint).collect();
            Image { owner: place(host.id), own: image(host, &self.ring, key), hints }
        };
        self.hosts.iter().map(image).collect()
    }

    pub(super) fn take_reply(&mut self, client: usize, frame: &Bytes) {
        let Some(Reply { id, body: ReplyBody::Data(response) }) = self.open(frame) else {
            unreachable!("a node's own words are read back")
        };
        let Some(current) = self.clients[client].current.clone() else { return };
        if current.call != id {
            return;
        }
        match response {
            Response::Unknown { .. } => return self.uncertain(client),
            Response::Refused(rejection) if self.healed => {
                let what = format!("after healing a read is refused: {rejection}");
                self.broken = Some(Broken { key: current.key.clone(), what });
            }
            Response::Refused(rejection) => {
                self.count(rejection_name(&rejection));
                if let (Some(write), false) = (current.write, current.uncertain) {
                    self.judge.refuse(write);
                }
            }
            Response::Found { values, context, .. } => {
                self.count("gets answered");
                match values.len() {
                    0 => self.count("gets finding nothing"),
                    1 => {}
                    _ => self.count("gets finding siblings"),
                }
                self.clients[client].learn(&current.key, context);
            }
            Response::Written { .. } if current.altered => {
                let what = "an altered context was taken".into();
                self.broken = Some(Broken { key: current.key.clone(), what });
            }
            Response::Written { dot, context, .. } => {
                if current.is_decided() {
                    self.count("decided writes acknowledged");
                }
                let put = dot.is_some();
                self.count(if put { "puts acknowledged" } else { "deletes acknowledged" });
                if current.uncertain {
                    self.count("retries acknowledged");
                }
                self.clients[client].learn(&current.key, context);
            }
            Response::Keys { keys, .. } => {
                self.count("listings answered");
                let verdict =
                    self.judge.check_listing(&current.key, (current.quorum, self.plan.n), &keys);
                self.broken = self.broken.take().or(verdict.err());
            }
        }
        self.think(client);
    }

    /// The client does not know the outcome of its request.
    pub(super) fn uncertain(&mut self, client: usize) {
        if let Some(current) = &mut self.clients[client].current
            && current.write.is_some()
        {
            current.uncertain = true;
            if let Some(write) = current.write {
                self.judge.unheard(write);
            }
            self.count("writes unknown");
        }
        if self.healed
            && let Some(current) = &self.clients[client].current
        {
            let what = "after healing a read is not answered".into();
            self.broken = Some(Broken { key: current.key.clone(), what });
        }
        if self.clients[client].wants_retry() {
            let body = self.clients[client].attempt(&self.plan);
            return self.send_call(client, body);
        }
        self.think(client);
    }

    /// A client waits no more for an attempt at a write that is decided: it says so behind the call
    /// on the same connection.
    pub(super) fn give_up(&mut self, client: usize) {
        let Some(current) = &self.clients[client].current else { return };
        if !matches!(current.request, Request::Decide { .. }) {
            return;
        }
        let (call, to, arrives) = (current.call, self.queried(current.host), current.arrives);
        let when = arrives.max(self.now() + self.plan.mean_delay);
        let incarnation = self.hosts[to].incarnation;
        self.schedule(when, Event::GiveUp { client, to, incarnation, call });
    }

    /// A host hears that a client has given a call up.
    pub(super) fn given_up(&mut self, client: usize, to: usize, call: u64) {
        self.count("calls given up");
        self.input(to, Input::GiveUp { client: client as u64, call: Some(call) });
    }

    fn think(&mut self, client: usize) {
        let now = self.now();
        if let Some(Current { write: Some(write), .. }) = self.clients[client].current {
            self.judge.end(write, now);
        }
        self.clients[client].current = None;
        let when = self.now() + self.clients[client].think(&self.plan);
        self.schedule(when, Event::Next { client });
    }

    pub(super) fn judge_end(&mut self) {
        for at in 0..self.plan.keys {
            let Ok(key) = Key::new(format!("key{at}").into_bytes()) else { continue };
            let images = self.durable(&key);
            let merged = images.iter().fold(Object::default(), |all, one| all.sync(&one.joined()));
            self.report(&key, || format!("at the end, all disks merged: {merged:?}"));
            // The last read queried all of them, so it has repaired those that were behind.
            let copies =
                self.sound_owners(&key).map(|host| (host.id, image(host, &self.ring, &key)));
            let copies: Vec<(NodeId, Object)> = copies.collect();
            let verdict = self.judge.check_end(&key, &merged);
            let verdict = verdict.and_then(|()| self.judge.check_equal(&key, &copies));
            if let Err(broken) = verdict {
                self.broken = Some(broken);
                return;
            }
        }
    }
}

/// The replica of the key that a host would have after a power cut at this moment.
fn image(host: &Host, ring: &Ring, key: &Key) -> Object {
    match host.store.read_durable(ring.partition(key), key) {
        Found::Record(record) => record.object,
        Found::Nothing | Found::Damaged => Object::default(),
    }
}

fn unseal(key: &Key, sealed: &Blob) -> Context {
    let Some(context) = wire::unseal(key, sealed) else {
        unreachable!("a node seals contexts for their key")
    };
    context
}

fn rejection_name(rejection: &Rejection) -> &'static str {
    match rejection {
        Rejection::Unreachable { .. } => "refused: no quorum reachable",
        Rejection::NoQuorum { .. } => "refused: no quorum answered",
        Rejection::Siblings(_) => "refused: sibling limit",
        Rejection::BadContext => "refused: altered context",
        Rejection::NoContext => "refused: delete without context",
        Rejection::NoSpace { .. } => "refused: full disk",
        Rejection::Starting { .. } => "refused: starting",
        Rejection::Damaged => "refused: damaged copy",
        Rejection::Busy { .. } => "refused: busy",
        Rejection::Conflict(_) => "refused: conflict",
        Rejection::Exists => "refused: key exists",
        Rejection::Changed => "refused: key changed",
        Rejection::Absent => "refused: delete of nothing",
        Rejection::GivenUp => "refused: given up",
        _ => "refused: other",
    }
}
