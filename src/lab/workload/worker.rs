//! One client of a load: a closed loop, and what it remembers of the keys that it has seen.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pixii::client::{Failure, Put, Written};
use pixii::rng::Rng;
use pixii::types::{Blob, Key, WriteId};
use pixii::wire;
use tokio::time::sleep;

use super::choice::{Choice, value_of, write_of};
use super::{Kind, Report, Shared};
use crate::lab::ledger::{Act, Issued, Outcome};

/// Most keys whose context a client remembers; the oldest is forgotten.
const MAX_REMEMBERED: usize = 4_096;
/// Rest after a request that was not carried out, so that a cluster that is down is not hammered.
const REST: Duration = Duration::from_millis(5);

/// What a client was shown of a key.
#[derive(Clone, Debug)]
struct Seen {
    context: Bytes,
    /// The writes that the context covers: with what those cover in turn, all of them.
    covers: Vec<WriteId>,
}

/// A client.
pub(super) struct Worker {
    shared: Arc<Shared>,
    number: u64,
    rng: Rng,
    /// By key number; `None` where a read is needed to know.
    seen: HashMap<u64, Option<Seen>>,
    order: VecDeque<u64>,
    report: Report,
}

impl Worker {
    /// The client with this number.
    pub(super) fn new(shared: Arc<Shared>, number: u64) -> Self {
        let rng = Rng::new(shared.spec.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (seen, order, report) = (HashMap::new(), VecDeque::new(), Report::default());
        Worker { shared, number, rng, seen, order, report }
    }

    /// Works until the load ends. The error is the ledger's.
    pub(super) async fn run(mut self) -> Result<Report, String> {
        while self.shared.begin() {
            let index = self.choose();
            let key = Key::new(format!("{}{index:08}", self.shared.spec.prefix).into_bytes())
                .map_err(|error| error.to_string())?;
            let done = match self.kind() {
                Kind::Get => self.get(index, &key).await,
                Kind::Blind => self.put(Kind::Blind, &key, None, index).await?,
                Kind::Put => match self.context(index, &key).await {
                    Some(seen) => self.put(Kind::Put, &key, seen, index).await?,
                    None => false,
                },
                Kind::Delete => match self.context(index, &key).await {
                    Some(Some(seen)) if !seen.covers.is_empty() => {
                        self.delete(&key, seen, index).await?
                    }
                    // Nothing is known to be there to be deleted.
                    Some(_) => true,
                    None => false,
                },
            };
            if !done {
                sleep(REST).await;
            }
        }
        Ok(self.report)
    }

    fn choose(&mut self) -> u64 {
        let (spec, count) = (&self.shared.spec, self.shared.spec.keys.max(1));
        match spec.choice {
            Choice::Uniform => self.rng.below(count),
            Choice::Zipf(_) => {
                self.shared.zipf.as_ref().map_or(0, |zipf| zipf.draw(&mut self.rng) - 1)
            }
            Choice::Sweep => self.shared.swept.fetch_add(1, Ordering::Relaxed) % count,
            Choice::Own => {
                let clients = spec.clients.max(1) as u64;
                let own = (count / clients).clamp(1, MAX_REMEMBERED as u64);
                self.rng.below(own) * clients + self.number
            }
        }
    }

    fn kind(&mut self) -> Kind {
        let mix = self.shared.spec.mix;
        let shares = [
            (Kind::Get, mix.get),
            (Kind::Put, mix.put),
            (Kind::Blind, mix.blind),
            (Kind::Delete, mix.delete),
        ];
        let mut at = self.rng.unit() * shares.iter().map(|(_, share)| share).sum::<f64>();
        for (kind, share) in shares {
            if at < share {
                return kind;
            }
            at -= share;
        }
        Kind::Get
    }

    async fn get(&mut self, index: u64, key: &Key) -> bool {
        let (spec, begun) = (&self.shared.spec, Instant::now());
        match self.shared.client.get(key, spec.r, spec.timeout_ms).await {
            Ok(found) => {
                self.done(Kind::Get, begun, found.values.is_empty());
                let covers = found.values.iter().filter_map(|value| write_of(value)).collect();
                self.remember(index, Seen { context: found.context, covers });
                true
            }
            Err(failure) => self.failed(Kind::Get, begun, &failure),
        }
    }

    /// What a write of the key is to replace: what is remembered, or else what a read shows. `None` if
    /// the read failed; nothing inside where nobody else writes and nothing was written.
    async fn context(&mut self, index: u64, key: &Key) -> Option<Option<Seen>> {
        match self.seen.get(&index) {
            Some(Some(seen)) => return Some(Some(seen.clone())),
            None if self.shared.spec.choice == Choice::Own => return Some(None),
            _ => {}
        }
        if !self.get(index, key).await {
            return None;
        }
        Some(self.seen.get(&index).cloned().flatten())
    }

    async fn put(
        &mut self,
        kind: Kind,
        key: &Key,
        seen: Option<Seen>,
        index: u64,
    ) -> Result<bool, String> {
        let write = self.shared.client.write_id();
        let bytes = self.shared.spec.sizes.draw(&mut self.rng);
        let value = value_of(write, bytes);
        let covers = seen.as_ref().map_or_else(Vec::new, |seen| seen.covers.clone());
        let act = Act::Put { bytes: value.len() as u32 };
        self.issue(Issued { write, key: key.clone(), act, covers: covers.clone() }).await?;
        let context = seen.map(|seen| seen.context);
        let put = Put { key: key.clone(), value, context, write, w: self.shared.spec.w.into() };
        let begun = Instant::now();
        let answer = self.shared.client.put(put, self.shared.spec.timeout_ms).await;
        self.settle(write, &answer).await?;
        Ok(match answer {
            Ok(written) => {
                self.done(kind, begun, false);
                // Where a sibling is in the way, the new context covers the old one and not the write.
                let sealed = Blob(written.context.clone());
                let own = wire::unseal(key, &sealed)
                    .zip(written.dot)
                    .is_some_and(|(context, dot)| context.covers(dot));
                let covers = if own { vec![write] } else { covers };
                self.remember(index, Seen { context: written.context, covers });
                true
            }
            Err(failure) => {
                self.forget(index);
                self.failed(kind, begun, &failure)
            }
        })
    }

    async fn delete(&mut self, key: &Key, seen: Seen, index: u64) -> Result<bool, String> {
        let write = self.shared.client.write_id();
        let (spec, covers) = (&self.shared.spec, seen.covers);
        self.issue(Issued { write, key: key.clone(), act: Act::Delete, covers }).await?;
        let begun = Instant::now();
        let client = &self.shared.client;
        let answer = client.delete(key, Some(seen.context), spec.w, spec.timeout_ms).await;
        self.settle(write, &answer).await?;
        Ok(match answer {
            Ok(written) => {
                self.done(Kind::Delete, begun, false);
                self.remember(index, Seen { context: written.context, covers: vec![write] });
                true
            }
            Err(failure) => {
                self.forget(index);
                self.failed(Kind::Delete, begun, &failure)
            }
        })
    }

    async fn issue(&self, issued: Issued) -> Result<(), String> {
        match &self.shared.ledger {
            Some(ledger) => ledger.issue(issued).await,
            None => Ok(()),
        }
    }

    async fn settle(
        &self,
        write: WriteId,
        answer: &Result<Written, Failure>,
    ) -> Result<(), String> {
        let Some(ledger) = &self.shared.ledger else { return Ok(()) };
        let outcome = match answer {
            Ok(written) if written.repeated => Outcome::Repeated(written.dot),
            Ok(written) => Outcome::Acknowledged(written.dot),
            Err(Failure::Unknown(why)) => Outcome::Unknown(why.clone()),
            Err(failure) => Outcome::Refused(failure.to_string()),
        };
        ledger.settle(write, outcome).await
    }

    fn remember(&mut self, index: u64, seen: Seen) {
        self.note(index, Some(seen));
    }

    /// What a write may or may not have done has to be read.
    fn forget(&mut self, index: u64) {
        self.note(index, None);
    }

    fn note(&mut self, index: u64, seen: Option<Seen>) {
        if self.seen.insert(index, seen).is_none() {
            self.order.push_back(index);
        }
        while self.order.len() > MAX_REMEMBERED {
            if let Some(oldest) = self.order.pop_front() {
                self.seen.remove(&oldest);
            }
        }
    }

    fn done(&mut self, kind: Kind, begun: Instant, is_absent: bool) {
        let spent = begun.elapsed();
        let tally = self.report.tally(kind);
        tally.latency.saturating_record(spent.as_micros() as u64);
        tally.absent += u64::from(is_absent);
        if let Some(trace) = &self.shared.trace {
            trace.done(spent, is_absent);
        }
    }

    fn failed(&mut self, kind: Kind, begun: Instant, failure: &Failure) -> bool {
        if let Some(trace) = &self.shared.trace {
            trace.failed(kind, begun.elapsed(), failure);
        }
        let tally = self.report.tally(kind);
        match failure {
            Failure::Unknown(_) => tally.unknown += 1,
            Failure::Refused(_) | Failure::Error(_) => tally.refused += 1,
        }
        tally.reason(failure.to_string(), 1);
        false
    }
}
