//! One client of a load: its operations, and the contexts that it remembers.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pixii_client::{Client, ClientError, Written};
use pixii_core::rng::Rng;
use pixii_core::types::{Blob, Key, WriteId};
use pixii_core::wire;
use tokio::time::sleep;

use super::Kind;
use super::Shared;
use super::choice::{Choice, Drawer};
use super::peer::Violation;
use super::target::Route;
use crate::ledger::value::{value_of, write_of};
use crate::ledger::{Action, Issued, Outcome};

/// Maximum number of keys whose context a client remembers; the oldest is forgotten.
const MAX_REMEMBERED: usize = 4_096;
/// Maximum number of keys that a listing asks for.
const MAX_LISTED: u64 = 100;
/// Pause after a request that was not carried out, so that a cluster that is down is not flooded.
const RETRY_BACKOFF: Duration = Duration::from_millis(5);
/// The error for operations that only Pixii has.
const ONLY_PIXII: &str = "other stores are sent puts and gets only";

/// What a client knows of a key from its last read or write.
#[derive(Clone, Debug)]
struct Seen {
    context: Bytes,
    /// Writes that the context covers; what these cover in turn is not listed.
    covers: Vec<WriteId>,
}

/// One client of a load, with its own random numbers and contexts.
pub(super) struct Worker {
    shared: Arc<Shared>,
    number: u64,
    rng: Rng,
    /// By key number; `None` if the context is unknown and a read is needed.
    seen: HashMap<u64, Option<Seen>>,
    order: VecDeque<u64>,
    drawer: Drawer,
    /// When the operation in progress was due, and how long it waited.
    due: Instant,
    lag: Duration,
}

impl Worker {
    /// The client with this number.
    pub(super) fn new(shared: Arc<Shared>, number: u64) -> Self {
        let rng = Rng::new(shared.spec.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (seen, order) = (HashMap::new(), VecDeque::new());
        let (due, lag) = (Instant::now(), Duration::ZERO);
        Worker { shared, number, rng, seen, order, drawer: Drawer::default(), due, lag }
    }

    /// Works in a closed loop until the load ends. The error is the one of the ledger, or says why
    /// a connection broke.
    pub(super) async fn run(mut self) -> Result<(), String> {
        loop {
            let now = Instant::now();
            if !self.shared.begin(now) {
                return Ok(());
            }
            if !self.operate(now).await? {
                sleep(RETRY_BACKOFF).await;
            }
        }
    }

    /// Carries out one operation, due at `due`; false if it failed. The error is the one of the
    /// ledger, or says why a connection broke.
    pub(super) async fn operate(&mut self, due: Instant) -> Result<bool, String> {
        (self.due, self.lag) = (due, due.elapsed());
        let kind = self.kind();
        let index = match kind {
            Kind::Insert => self.shared.population.begin(),
            _ => self.choose(),
        };
        let key = Key::new(format!("{}{index:08}", self.shared.spec.prefix).into_bytes())
            .map_err(|error| error.to_string())?;
        match kind {
            Kind::Get => self.get(index, &key).await,
            Kind::List => self.list(&key).await,
            Kind::Modify => self.modify(index, &key).await,
            Kind::Blind => self.put(Kind::Blind, &key, None, index).await,
            Kind::Insert => {
                let done = self.put(Kind::Insert, &key, None, index).await;
                self.shared.population.end(index);
                done
            }
            Kind::Put => match self.context(index, &key).await? {
                Some(seen) => self.put(Kind::Put, &key, seen, index).await,
                None => Ok(false),
            },
            Kind::Delete => match self.context(index, &key).await? {
                Some(Some(seen)) if !seen.covers.is_empty() => self.delete(&key, seen, index).await,
                // No value is known that could be deleted.
                Some(_) => Ok(true),
                None => Ok(false),
            },
        }
    }

    fn choose(&mut self) -> u64 {
        let (choice, clients) = (self.shared.spec.choice, self.shared.spec.clients.max(1) as u64);
        let count = self.shared.population.count().max(1);
        match choice {
            Choice::Sweep => self.shared.swept.fetch_add(1, Ordering::Relaxed) % count,
            Choice::Own => {
                let own = (count / clients).clamp(1, MAX_REMEMBERED as u64);
                self.rng.below(own) * clients + self.number
            }
            drawn => self.drawer.draw(drawn, count, &mut self.rng),
        }
    }

    fn kind(&mut self) -> Kind {
        let mix = self.shared.spec.mix;
        let shares = [
            (Kind::Get, mix.get),
            (Kind::Put, mix.put),
            (Kind::Blind, mix.blind),
            (Kind::Delete, mix.delete),
            (Kind::Insert, mix.insert),
            (Kind::Modify, mix.modify),
            (Kind::List, mix.list),
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

    /// The client of Pixii; an error if this load is on another store.
    fn client(&self) -> Result<&Client, String> {
        match self.shared.target.of(self.number) {
            Route::Pixii(client) => Ok(client),
            Route::Peer(_) => Err(ONLY_PIXII.into()),
        }
    }

    fn wait(&self) -> Duration {
        Duration::from_millis(self.shared.spec.timeout_ms.into())
    }

    async fn get(&mut self, index: u64, key: &Key) -> Result<bool, String> {
        let begun = Instant::now();
        let read = self.read(index, key).await?;
        let took = begun.elapsed();
        if read == Ok(false) && self.due >= self.shared.counted_from {
            self.shared.report().totals(Kind::Get).absent += 1;
        }
        Ok(self.note_read(Kind::Get, took, read))
    }

    /// Reads the key and remembers its context; true if there was a value.
    async fn read(&mut self, index: u64, key: &Key) -> Result<Result<bool, ClientError>, String> {
        let spec = &self.shared.spec;
        let client = match self.shared.target.of(self.number) {
            Route::Pixii(client) => client,
            Route::Peer(connection) => {
                return usable(connection.lock().await.get(key.as_bytes(), self.wait()).await);
            }
        };
        let found = match client.get(key).r(spec.r).deadline_ms(spec.timeout_ms).await {
            Ok(found) => found,
            Err(failure) => return Ok(Err(failure)),
        };
        let covers = found.values.iter().filter_map(|value| write_of(value)).collect();
        self.remember(index, Seen { context: found.context, covers });
        Ok(Ok(!found.values.is_empty()))
    }

    /// Reads the key and replaces the values read, as one operation.
    async fn modify(&mut self, index: u64, key: &Key) -> Result<bool, String> {
        let begun = Instant::now();
        let read = self.read(index, key).await?;
        let reading = begun.elapsed();
        let (took, done) = match read {
            Ok(_) => {
                let seen = self.seen.get(&index).cloned().flatten();
                self.write(key, seen, index).await?
            }
            Err(failure) => (Duration::ZERO, Err(failure)),
        };
        Ok(self.note(Kind::Modify, reading + took, done))
    }

    /// Lists some keys behind this one in its partition.
    async fn list(&mut self, key: &Key) -> Result<bool, String> {
        let bytes = (1 + self.rng.below(MAX_LISTED)) as usize * key.as_bytes().len();
        let (spec, client) = (&self.shared.spec, self.client()?);
        let (begun, partition) = (Instant::now(), client.ring().partition(key));
        let after = Some(key.clone());
        let listed = client.keys(partition, after, bytes as u32, spec.r, spec.timeout_ms).await;
        Ok(self.note(Kind::List, begun.elapsed(), listed.map(drop)))
    }

    /// What a write of the key is to replace: the remembered context, or the one of a read. The
    /// outer `None` means that the read failed; the inner one, that there is nothing to replace.
    async fn context(&mut self, index: u64, key: &Key) -> Result<Option<Option<Seen>>, String> {
        if self.client().is_err() {
            // Other stores have no contexts.
            return Ok(Some(None));
        }
        match self.seen.get(&index) {
            Some(Some(seen)) => return Ok(Some(Some(seen.clone()))),
            None if self.shared.spec.choice == Choice::Own => return Ok(Some(None)),
            _ => {}
        }
        if !self.get(index, key).await? {
            return Ok(None);
        }
        Ok(Some(self.seen.get(&index).cloned().flatten()))
    }

    async fn put(
        &mut self,
        kind: Kind,
        key: &Key,
        seen: Option<Seen>,
        index: u64,
    ) -> Result<bool, String> {
        let (took, done) = self.write(key, seen, index).await?;
        Ok(self.note(kind, took, done))
    }

    /// Puts a value and remembers the new context. Returns the time until the answer, without the
    /// ledger's; the outer error is the one of the ledger.
    async fn write(
        &mut self,
        key: &Key,
        seen: Option<Seen>,
        index: u64,
    ) -> Result<(Duration, Result<(), ClientError>), String> {
        let bytes = self.shared.spec.sizes.draw(&mut self.rng);
        if let Route::Peer(connection) = self.shared.target.of(self.number) {
            let id = (u128::from(self.rng.next_u64()) << 64) | u128::from(self.rng.next_u64());
            let value = value_of(WriteId(id), bytes);
            let (begun, wait) = (Instant::now(), self.wait());
            let done = usable(connection.lock().await.put(key.as_bytes(), &value, wait).await)?;
            return Ok((begun.elapsed(), done));
        }
        let write = self.client()?.write_id();
        let value = value_of(write, bytes);
        let covers = seen.as_ref().map_or_else(Vec::new, |seen| seen.covers.clone());
        let act = Action::Put { bytes: value.len() as u32 };
        self.issue(Issued { write, key: key.clone(), act, covers: covers.clone() }).await?;
        let context = seen.map(|seen| seen.context);
        let (w, timeout_ms) = (self.shared.spec.w, self.shared.spec.timeout_ms);
        let put = self.client()?.put(key, value).seen(context).write_id(write);
        let begun = Instant::now();
        let answer = put.w(w).deadline_ms(timeout_ms).await;
        let took = begun.elapsed();
        self.settle(write, &answer).await?;
        let done = match answer {
            Ok(written) => {
                // Where a concurrent sibling is in the way, the new context covers the old one and
                // not this write.
                let sealed = Blob(written.context.clone());
                let own = wire::unseal(key, &sealed)
                    .zip(written.dot)
                    .is_some_and(|(context, dot)| context.covers(dot));
                let covers = if own { vec![write] } else { covers };
                self.remember(index, Seen { context: written.context, covers });
                Ok(())
            }
            Err(failure) => {
                self.forget(index);
                Err(failure)
            }
        };
        Ok((took, done))
    }

    async fn delete(&mut self, key: &Key, seen: Seen, index: u64) -> Result<bool, String> {
        let client = self.client()?;
        let write = client.write_id();
        let (spec, covers) = (&self.shared.spec, seen.covers);
        self.issue(Issued { write, key: key.clone(), act: Action::Delete, covers }).await?;
        let begun = Instant::now();
        let answer =
            client.delete(key).context(seen.context).w(spec.w).deadline_ms(spec.timeout_ms).await;
        let took = begun.elapsed();
        self.settle(write, &answer).await?;
        let done = match answer {
            Ok(written) => {
                self.remember(index, Seen { context: written.context, covers: vec![write] });
                Ok(())
            }
            Err(failure) => {
                self.forget(index);
                Err(failure)
            }
        };
        Ok(self.note(Kind::Delete, took, done))
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
        answer: &Result<Written, ClientError>,
    ) -> Result<(), String> {
        let Some(ledger) = &self.shared.ledger else { return Ok(()) };
        let outcome = match answer {
            Ok(written) if written.repeated => Outcome::Repeated(written.dot),
            Ok(written) => Outcome::Acknowledged(written.dot),
            Err(ClientError::Unknown(why)) => Outcome::Unknown(why.clone()),
            Err(failure) => Outcome::Refused(failure.to_string()),
        };
        ledger.settle(write, outcome).await
    }

    fn remember(&mut self, index: u64, seen: Seen) {
        self.keep(index, Some(seen));
    }

    /// Forgets the context after a write with an unclear outcome, so that the next write reads
    /// first.
    fn forget(&mut self, index: u64) {
        self.keep(index, None);
    }

    fn keep(&mut self, index: u64, seen: Option<Seen>) {
        if self.seen.insert(index, seen).is_none() {
            self.order.push_back(index);
        }
        while self.order.len() > MAX_REMEMBERED {
            if let Some(oldest) = self.order.pop_front() {
                self.seen.remove(&oldest);
            }
        }
    }

    /// Notes the outcome of a request that took this long; true if it was done. The time that its
    /// operation waited is added.
    fn note(&self, kind: Kind, took: Duration, done: Result<(), ClientError>) -> bool {
        self.note_read(kind, took, done.map(|()| true))
    }

    /// Notes the outcome of a request that, if it was done, returned a value (true) or none.
    fn note_read(&self, kind: Kind, took: Duration, shown: Result<bool, ClientError>) -> bool {
        let took = took + self.lag;
        match (&self.shared.trace, &shown) {
            (Some(trace), Ok(shown)) => trace.done(took, !shown),
            (Some(trace), Err(failure)) => trace.failed(kind, took, failure),
            (None, _) => {}
        }
        self.shared.note(kind, self.due, took, shown.as_ref().map(|_| ()));
        shown.is_ok()
    }
}

/// Separates failures of an operation from broken connections: the outer error says why the
/// connection of another store broke.
fn usable<T>(done: Result<T, Violation>) -> Result<Result<T, ClientError>, String> {
    match done {
        Ok(done) => Ok(Ok(done)),
        Err(Violation::Failed(failure)) => Ok(Err(failure)),
        Err(Violation::Broken(why)) => Err(why),
    }
}
