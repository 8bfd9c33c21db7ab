//! What carries an experiment out: a cluster in virtual time, exact and repeatable, or real daemons on an emulated network.

use std::collections::HashMap;

use bytes::Bytes;
use pixii::message::{Quorum, Request, Response};
use pixii::rng::Rng;
use pixii::sim::cluster::{Cluster, Setup};
use pixii::types::{Blob, Key, MILLI, Micros, WriteId};

/// Keys that reads are about.
pub(crate) const KEYS: u64 = 2_000;
/// Bytes of each value.
const VALUE_BYTES: usize = 100;
/// Deadline of a request, in milliseconds: slow is not failed.
pub(crate) const TIMEOUT_MS: u32 = 60_000;
/// Virtual time in which everything asked is answered.
pub(crate) const PATIENCE: Micros = 3_600_000 * MILLI;

/// A load in closed loops: every client asks when it has its answer, so many times.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Loops {
    /// R of reads.
    pub(crate) r: u8,
    /// W of puts.
    pub(crate) w: u8,
    /// Clients.
    pub(crate) clients: u64,
    /// Requests of each client that are measured.
    pub(crate) requests: u64,
    /// Requests of each client before that, which are not.
    pub(crate) warm_up: u64,
    /// So many reads of ten requests; the others are puts of new keys.
    pub(crate) reads_of_ten: u64,
    /// Keys follow from it.
    pub(crate) seed: u64,
}

/// One request that was answered as it should be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// True for a read.
    pub(crate) is_read: bool,
    /// How long it took, in microseconds.
    pub(crate) took: Micros,
}

/// What loops came to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Measured {
    /// In the order of the answers.
    pub(crate) samples: Vec<Sample>,
    /// From the first measured request to the last answer, in microseconds.
    pub(crate) spent: Micros,
    /// Requests that failed.
    pub(crate) failed: u64,
    /// Why the first of them did.
    pub(crate) why: Option<String>,
}

impl Measured {
    /// Latencies of reads, or of puts, in milliseconds.
    pub(crate) fn latencies(&self, reads: bool) -> Vec<f64> {
        let kind = self.samples.iter().filter(|sample| sample.is_read == reads);
        kind.map(|sample| sample.took as f64 / 1e3).collect()
    }
}

/// What carries an experiment out.
pub(crate) trait Driver {
    /// How far a mean may be over what theory gives, as a share of it: disks and processors take time too.
    fn tolerance(&self) -> f64;
    /// Lets every message take an exponentially distributed time with this mean.
    fn delay(&mut self, mean_ms: f64) -> Result<(), String>;
    /// Runs a load.
    fn run(&mut self, loops: &Loops) -> Result<Measured, String>;
}

/// The rules for [`Driver::delay`].
pub(crate) fn delays(mean_ms: f64) -> String {
    let delay = format!("delay exponential {}us", (mean_ms * 1e3) as u64);
    format!("* -> * {delay}; client -> * {delay}; * -> client {delay}")
}

/// The key that reads are about with this number.
pub(crate) fn read_key(number: u64) -> Key {
    key(format!("lab/{number:06}"))
}

/// A key that no other request is about.
pub(crate) fn fresh_key(loops: &Loops, client: u64, turn: u64) -> Key {
    key(format!("lab/{:016x}/{client}/{turn}", loops.seed))
}

fn key(name: String) -> Key {
    Key::new(name.into_bytes()).unwrap_or_else(|_| unreachable!("a short name is a key"))
}

/// Exactly this many replicas, homes alone if `strict`.
pub(crate) fn quorum(replicas: u8, strict: bool) -> Quorum {
    Quorum { replicas: Some(replicas), strict: Some(strict) }
}

/// A value like all others.
pub(crate) fn value() -> Bytes {
    Bytes::from_static(&[7; VALUE_BYTES])
}

/// A put of a key that is new.
pub(crate) fn put(key: Key, w: u8, write: u64) -> Request {
    let (value, write) = (Blob(value()), WriteId(u128::from(write)));
    Request::Put { key, value, context: None, write, w: quorum(w, false) }
}

/// A cluster in virtual time.
pub(crate) struct Simulated {
    /// It.
    pub(crate) cluster: Cluster,
    writes: u64,
}

impl Simulated {
    /// Founds the cluster and puts all keys at all their homes.
    pub(crate) fn found(setup: &Setup) -> Result<Self, String> {
        let mut driver = Simulated { cluster: Cluster::found(setup)?, writes: 0 };
        for number in 0..KEYS {
            let request = driver.put(read_key(number), setup.n);
            driver.ask(number, request);
        }
        for _ in 0..KEYS {
            match driver.answer()?.1 {
                Response::Written { .. } => {}
                other => return Err(format!("a key is not put: {other:?}")),
            }
        }
        Ok(driver)
    }

    /// A put with a name of its own.
    pub(crate) fn put(&mut self, key: Key, w: u8) -> Request {
        self.writes += 1;
        put(key, w, self.writes)
    }

    /// Asks the first home of the key, as a client does that can reach it.
    pub(crate) fn ask(&mut self, client: u64, request: Request) -> u64 {
        let (Request::Get { key, .. } | Request::Put { key, .. } | Request::Delete { key, .. }) =
            &request
        else {
            unreachable!("experiments do not list keys")
        };
        let home = self.home(key, 0);
        self.cluster.ask(client, home, request, TIMEOUT_MS)
    }

    /// The place of the home of a key with this number, counted round.
    pub(crate) fn home(&self, key: &Key, number: usize) -> usize {
        let ring = self.cluster.ring();
        let homes = ring.homes(ring.partition(key));
        self.cluster.place(homes[number % homes.len()]).unwrap_or(0)
    }

    /// The next answer: of which call, and how long it took.
    pub(crate) fn answer(&mut self) -> Result<(u64, Response, Micros), String> {
        let until = self.cluster.now() + PATIENCE;
        let answer = self.cluster.next(until).ok_or("a request was never answered")?;
        Ok((answer.call, answer.response, answer.ended - answer.begun))
    }

    fn turn(&mut self, loops: &Loops, client: u64, turn: u64, rng: &mut Rng) -> (u64, bool) {
        let is_read = rng.below(10) < loops.reads_of_ten;
        let request = if is_read {
            Request::Get { key: read_key(rng.below(KEYS)), r: quorum(loops.r, true) }
        } else {
            let key = fresh_key(loops, client, turn);
            self.put(key, loops.w)
        };
        (self.ask(client, request), is_read)
    }
}

impl Driver for Simulated {
    fn tolerance(&self) -> f64 {
        0.1
    }

    fn delay(&mut self, mean_ms: f64) -> Result<(), String> {
        self.cluster.emulate(&delays(mean_ms))
    }

    fn run(&mut self, loops: &Loops) -> Result<Measured, String> {
        let (mut measured, mut rng) = (Measured::default(), Rng::new(loops.seed));
        let mut flying = HashMap::new();
        let turns = loops.warm_up + loops.requests;
        for client in 0..loops.clients {
            let (call, is_read) = self.turn(loops, client, 0, &mut rng);
            flying.insert(call, (client, 0, is_read));
        }
        let mut first = None;
        while !flying.is_empty() {
            let (call, response, took) = self.answer()?;
            let Some((client, turn, is_read)) = flying.remove(&call) else { continue };
            if turn >= loops.warm_up {
                first.get_or_insert(self.cluster.now() - took);
                match response {
                    Response::Found { .. } | Response::Written { .. } => {
                        measured.samples.push(Sample { is_read, took });
                    }
                    other => {
                        measured.failed += 1;
                        measured.why.get_or_insert(format!("{other:?}"));
                    }
                }
            }
            if turn + 1 < turns {
                let (call, is_read) = self.turn(loops, client, turn + 1, &mut rng);
                flying.insert(call, (client, turn + 1, is_read));
            }
        }
        measured.spent = self.cluster.now() - first.unwrap_or(self.cluster.now());
        Ok(measured)
    }
}
