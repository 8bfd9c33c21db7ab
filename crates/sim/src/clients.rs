//! Simulated clients: one request at a time each, contexts from their own reads, retries with the
//! same write id.

use std::collections::BTreeMap;

use pixii_core::causal::Context;
use pixii_core::message::{CallBody, Quorum, Request, WriteRule};
use pixii_core::rng::Rng;
use pixii_core::types::{Blob, Key, Micros, Time, WriteId};
use pixii_core::wire;

use super::judge::{Write, value_of};
use super::scenario::Scenario;

/// Maximum number of attempts of one write, the first included.
const MAX_ATTEMPTS: u32 = 3;

/// A client that has at most one request in flight, `current`.
#[derive(Debug)]
pub(super) struct Client {
    rng: Rng,
    contexts: BTreeMap<Key, Blob>,
    pub(super) current: Option<Current>,
    /// True once it has no more requests to send.
    pub(super) is_done: bool,
    next_call: u64,
}

/// The request that a client waits for.
#[derive(Clone, Debug)]
pub(super) struct Current {
    /// The id of the last attempt's call.
    pub(super) call: u64,
    pub(super) host: usize,
    pub(super) request: Request,
    pub(super) key: Key,
    /// The id of the write; `None` for a read.
    pub(super) write: Option<WriteId>,
    pub(super) quorum: u8,
    pub(super) strict: bool,
    pub(super) since: Time,
    pub(super) attempts: u32,
    /// When the call of the last attempt comes to its host, if it does.
    pub(super) arrives: Time,
    /// True if an earlier attempt may have been carried out.
    pub(super) uncertain: bool,
    /// True if the context was altered on purpose.
    pub(super) altered: bool,
}

impl Current {
    /// True for a write that its issuer decides.
    pub(super) fn is_decided(&self) -> bool {
        matches!(self.request, Request::Decide { .. })
    }
}

impl Client {
    pub(super) fn new(seed: u64) -> Self {
        let contexts = BTreeMap::new();
        Client { rng: Rng::new(seed), contexts, current: None, is_done: false, next_call: 0 }
    }

    /// Draws the next request. For a write, also returns its description for the judge.
    pub(super) fn next(&mut self, plan: &Scenario, now: Time) -> (CallBody, Option<Write>) {
        let rng = &mut self.rng;
        let name = format!("key{}", rng.below(plan.keys));
        let Ok(key) = Key::new(name.into_bytes()) else { unreachable!("a short name is a key") };
        let quorum = 1 + rng.below(u64::from(plan.n)) as u8;
        let strict = rng.chance(0.5);
        let queried = Quorum { replicas: Some(quorum), strict: Some(strict) };
        let id = WriteId(rng.next_u128());
        let mut sealed = self.contexts.get(&key).cloned();
        let altered = sealed.is_some() && rng.chance(0.01);
        if let (true, Some(sealed)) = (altered, &mut sealed) {
            *sealed = alter(sealed, rng);
        }
        let [gets, puts, blind] = plan.mix;
        let outcomes = rng.unit();
        let (request, write) = if outcomes < gets {
            (Request::Get { key: key.clone(), r: queried }, None)
        } else if outcomes < gets + puts + blind {
            let context = if outcomes < gets + puts { sealed } else { None };
            let value = Blob(value_of(id).into());
            let w = queried;
            (Request::Put { key: key.clone(), value, context, write: id, w }, Some(id))
        } else {
            let context =
                sealed.or_else(|| rng.chance(0.5).then(|| wire::seal(&key, &Context::default())));
            (Request::Delete { key: key.clone(), context, w: queried }, Some(id))
        };
        // Drawn only where it is wanted, so that schedules of before are what they were.
        let request = match plan.decided > 0.0 && rng.chance(plan.decided) {
            true => decided(request, id, rng, plan.n),
            false => request,
        };
        let described = describe(&request);
        self.begin(request, key, (quorum, strict), now);
        if let (Some(current), Some(write)) = (&mut self.current, write) {
            current.write = Some(write);
            current.altered = altered && sends_context(&current.request);
        }
        (self.attempt(plan), described)
    }

    /// Makes a request the current one; its first attempt is not sent yet.
    pub(super) fn begin(
        &mut self,
        request: Request,
        key: Key,
        (quorum, strict): (u8, bool),
        now: Time,
    ) {
        self.current = Some(Current {
            call: 0,
            host: 0,
            request,
            key,
            write: None,
            quorum,
            strict,
            since: now,
            attempts: 0,
            arrives: now,
            uncertain: false,
            altered: false,
        });
    }

    /// Sends the current request (again) to some node.
    pub(super) fn attempt(&mut self, plan: &Scenario) -> CallBody {
        let Some(current) = &mut self.current else { unreachable!("there is a request") };
        self.next_call += 1;
        current.call = self.next_call;
        current.attempts += 1;
        current.host = self.rng.below(plan.hosts as u64) as usize;
        // Later attempts are marked as repetitions: another node may have carried out an earlier
        // one.
        let request = current.request.clone();
        let request = if current.attempts == 1 { request } else { request.again() };
        CallBody::Data { request, timeout_ms: plan.timeout_ms }
    }

    /// True if the client tries an uncertain write again.
    pub(super) fn wants_retry(&mut self) -> bool {
        let Some(current) = &self.current else { return false };
        // A condition may fail because of the first attempt, and a delete has no write id.
        let once = match &current.request {
            Request::Decide { value, rule, .. } => value.is_none() || *rule != WriteRule::Cover,
            _ => false,
        };
        current.write.is_some() && !once && current.attempts < MAX_ATTEMPTS && self.rng.chance(0.7)
    }

    /// Usually remembers the context that an answer gave.
    pub(super) fn learn(&mut self, key: &Key, context: Blob) {
        if self.rng.chance(0.9) {
            self.contexts.insert(key.clone(), context);
        }
    }

    /// The context of the last read or write of a key, if the client remembers it.
    pub(super) fn context(&self, key: &Key) -> Option<Blob> {
        self.contexts.get(key).cloned()
    }

    /// How long the client thinks before its next request.
    pub(super) fn think(&mut self, plan: &Scenario) -> Micros {
        self.rng.within(plan.think.max(Micros(1)))
    }
}

/// A write that its issuer decides in the place of another one: under a condition, or covering what
/// is there. Some writes stay as they are.
fn decided(request: Request, write: WriteId, rng: &mut Rng, n: u8) -> Request {
    let r = Some(1 + rng.below(u64::from(n)) as u8);
    let draw = rng.unit();
    let again = false;
    match request {
        Request::Put { key, value, context: Some(context), w, .. } if draw < 0.3 => {
            let (value, rule) = (Some(value), WriteRule::IfContext(context));
            Request::Decide { key, value, rule, write, again, r, w }
        }
        Request::Put { key, value, context: None, w, .. } if draw < 0.75 => {
            let rule = if draw < 0.6 { WriteRule::Cover } else { WriteRule::IfAbsent };
            Request::Decide { key, value: Some(value), rule, write, again, r, w }
        }
        Request::Delete { key, context: Some(context), w } if draw < 0.25 => {
            let rule = WriteRule::IfContext(context);
            Request::Decide { key, value: None, rule, write, again, r, w }
        }
        Request::Delete { key, w, .. } if draw < 0.75 => {
            Request::Decide { key, value: None, rule: WriteRule::Cover, write, again, r, w }
        }
        other => other,
    }
}

/// Describes a write for the judge; `None` for a read. A request with an altered context is
/// refused, so its context counts as empty.
pub(super) fn describe(request: &Request) -> Option<Write> {
    let (key, sealed, is_delete) = match request {
        Request::Decide { key, value, rule, .. } => {
            let sealed = match rule {
                WriteRule::IfContext(sealed) => Some(sealed),
                WriteRule::Cover | WriteRule::IfAbsent => None,
            };
            (key, sealed, value.is_none())
        }
        Request::Put { key, context, .. } | Request::PutAgain { key, context, .. } => {
            (key, context.as_ref(), false)
        }
        Request::Delete { key, context, .. } => (key, context.as_ref(), true),
        Request::Get { .. } | Request::Keys { .. } => return None,
    };
    let is_decided = matches!(request, Request::Decide { .. });
    let shown = sealed.and_then(|sealed| wire::unseal(key, sealed)).unwrap_or_default();
    let context = if is_decided { Context::default() } else { shown.clone() };
    Some(Write {
        key: key.clone(),
        context,
        shown,
        is_delete,
        is_decided,
        ended: None,
        possible: true,
        acknowledged: None,
    })
}

fn sends_context(request: &Request) -> bool {
    match request {
        Request::Put { context, .. }
        | Request::PutAgain { context, .. }
        | Request::Delete { context, .. } => context.is_some(),
        Request::Decide { rule, .. } => matches!(rule, WriteRule::IfContext(_)),
        Request::Get { .. } | Request::Keys { .. } => false,
    }
}

/// A copy of a sealed context with one bit flipped.
fn alter(sealed: &Blob, rng: &mut Rng) -> Blob {
    let mut bytes = sealed.0.to_vec();
    let at = rng.below(bytes.len() as u64) as usize;
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1 << rng.below(8);
    }
    Blob(bytes.into())
}
