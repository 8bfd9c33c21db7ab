//! Simulated clients: one request at a time each, contexts from their own reads, retries with the
//! same write id.

use std::collections::BTreeMap;

use pixii_core::causal::Context;
use pixii_core::message::{CallBody, Quorum, Request};
use pixii_core::rng::Rng;
use pixii_core::types::{Blob, Key, Micros, Time, WriteId};
use pixii_core::wire;

use super::judge::{Write, value_of};
use super::scenario::Scenario;

/// Tries of one write, the first included.
const MAX_ATTEMPTS: u32 = 3;

/// One client.
#[derive(Debug)]
pub(super) struct Client {
    rng: Rng,
    contexts: BTreeMap<Key, Blob>,
    pub(super) current: Option<Current>,
    /// True when it has nothing more to ask.
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
    /// The write, if it is one.
    pub(super) write: Option<WriteId>,
    pub(super) quorum: u8,
    pub(super) strict: bool,
    pub(super) since: Time,
    pub(super) attempts: u32,
    /// True if an earlier attempt may have happened.
    pub(super) uncertain: bool,
    /// True if the context was altered on purpose.
    pub(super) altered: bool,
}

impl Client {
    pub(super) fn new(seed: u64) -> Self {
        let contexts = BTreeMap::new();
        Client { rng: Rng::new(seed), contexts, current: None, is_done: false, next_call: 0 }
    }

    /// Draws the next request; for a write also what the judge is to know of it.
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
        let described = describe(&request);
        self.begin(request, key, (quorum, strict), now);
        if let (Some(current), Some(write)) = (&mut self.current, write) {
            current.write = Some(write);
            current.altered = altered && sends_context(&current.request);
        }
        (self.attempt(plan), described)
    }

    /// Makes a request the current one.
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
        // Only the first attempt may have been carried out by a node that knows of no other.
        let request = current.request.clone();
        let request = if current.attempts == 1 { request } else { request.again() };
        CallBody::Data { request, timeout_ms: plan.timeout_ms }
    }

    /// True if the client tries an uncertain write again.
    pub(super) fn wants_retry(&mut self) -> bool {
        let Some(current) = &self.current else { return false };
        current.write.is_some() && current.attempts < MAX_ATTEMPTS && self.rng.chance(0.7)
    }

    /// Remembers the context that an answer gave, usually.
    pub(super) fn learn(&mut self, key: &Key, context: Blob) {
        if self.rng.chance(0.9) {
            self.contexts.insert(key.clone(), context);
        }
    }

    /// The context that was given with the last read or write of a key that it remembers.
    pub(super) fn context(&self, key: &Key) -> Option<Blob> {
        self.contexts.get(key).cloned()
    }

    /// How long the client thinks before its next request.
    pub(super) fn think(&mut self, plan: &Scenario) -> Micros {
        self.rng.within(plan.think.max(Micros(1)))
    }
}

/// What the judge is to know of a request, if it is a write. An altered context is refused, so what
/// it covers is nothing.
pub(super) fn describe(request: &Request) -> Option<Write> {
    let (key, sealed, is_delete) = match request {
        Request::Put { key, context, .. } | Request::PutAgain { key, context, .. } => {
            (key, context, false)
        }
        Request::Delete { key, context, .. } => (key, context, true),
        Request::Get { .. } | Request::Keys { .. } => return None,
    };
    let context = sealed.as_ref().and_then(|sealed| wire::unseal(key, sealed));
    Some(Write {
        key: key.clone(),
        context: context.unwrap_or_default(),
        is_delete,
        possible: true,
        acknowledged: None,
    })
}

fn sends_context(request: &Request) -> bool {
    match request {
        Request::Put { context, .. }
        | Request::PutAgain { context, .. }
        | Request::Delete { context, .. } => context.is_some(),
        Request::Get { .. } | Request::Keys { .. } => false,
    }
}

/// The same bytes with one bit changed.
fn alter(sealed: &Blob, rng: &mut Rng) -> Blob {
    let mut bytes = sealed.0.to_vec();
    let at = rng.below(bytes.len() as u64) as usize;
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1 << rng.below(8);
    }
    Blob(bytes.into())
}
