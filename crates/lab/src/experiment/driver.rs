//! The interface that carries out an experiment: a cluster in virtual time, exact and repeatable,
//! or real daemons on an emulated network.

use std::collections::BTreeMap;

use bytes::Bytes;
use pixii_core::message::{Kind, Quorum, Request};
use pixii_core::ring::Ring;
use pixii_core::types::{Blob, Key, Micros, NodeId, WriteId};

/// Number of keys that reads choose from.
pub(crate) const KEYS: u64 = 2_000;
/// Bytes of each value.
const VALUE_BYTES: usize = 100;
/// Deadline of a request, in milliseconds; long, so that a slow request does not fail.
pub(crate) const TIMEOUT_MS: u32 = 60_000;

/// A load in closed loops: each client sends its next request when it has its answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Loops {
    /// R of reads, strict.
    pub(crate) r: u8,
    /// W of puts, sloppy.
    pub(crate) w: u8,
    /// Number of clients, each with one request in flight.
    pub(crate) clients: u64,
    /// Number of requests of each client that are measured.
    pub(crate) requests: u64,
    /// Number of requests of each client before these, which are not measured.
    pub(crate) warm_up: u64,
    /// Number of reads in ten requests, on average; the others are puts of new keys.
    pub(crate) reads_of_ten: u64,
    /// Seed of the choice of operations and keys.
    pub(crate) seed: u64,
}

/// One measured request that succeeded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// True for a read.
    pub(crate) is_read: bool,
    /// The number of the key that was read; 0 for a put.
    pub(crate) key: u64,
    /// Time from the request to its answer.
    pub(crate) took: Micros,
}

/// The measurements of closed loops.
#[derive(Clone, Debug, Default)]
pub(crate) struct Measured {
    /// The requests that succeeded, in the order of their answers in virtual time.
    pub(crate) samples: Vec<Sample>,
    /// Time from the first measured request to the last answer.
    pub(crate) spent: Micros,
    /// Number of measured requests that failed, and of reads that found no value.
    pub(crate) failed: u64,
    /// The numbers of the keys whose reads are among these.
    pub(crate) refused: Vec<u64>,
    /// The reason of the first failure; `None` if none failed.
    pub(crate) why: Option<String>,
}

impl Measured {
    /// Notes a failed request; `read` is the number of the key if it was a read.
    pub(crate) fn fail(&mut self, read: Option<u64>, why: String) {
        self.failed += 1;
        self.refused.extend(read);
        self.why.get_or_insert(why);
    }

    /// Latencies of the reads, or of the puts, in milliseconds.
    pub(crate) fn latencies(&self, reads: bool) -> Vec<f64> {
        let kind = self.samples.iter().filter(|sample| sample.is_read == reads);
        kind.map(|sample| sample.took.as_f64() / 1e3).collect()
    }
}

/// Puts of new keys at a constant pace, with reads some time after the acknowledgement of each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Puts {
    /// Number of puts.
    pub(crate) count: u64,
    /// Time from one put to the next.
    pub(crate) pace: Micros,
    /// Deadline of each put and each read, in milliseconds.
    pub(crate) timeout_ms: u32,
}

/// The put of one key and the reads that follow it.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    /// The owner that receives the put, counted from the first owner of the key.
    pub(crate) owner: usize,
    /// W of the put, sloppy.
    pub(crate) w: u8,
    /// The reads that follow the acknowledgement of the put.
    pub(crate) reads: Vec<Read>,
}

/// A read that follows a put.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Read {
    /// Time from the acknowledgement to the read.
    pub(crate) after: Micros,
    /// The owner that receives the read, counted from the first owner of the key.
    pub(crate) owner: usize,
    /// R of the read, strict.
    pub(crate) r: u8,
}

/// The outcome of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It returned the value.
    Shown,
    /// It returned no value.
    Missed,
    /// It was not answered.
    Refused,
}

/// A read that was carried out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    /// The number of the put that it followed.
    pub(crate) put: u64,
    /// Its index among the reads of that put.
    pub(crate) which: usize,
    /// The actual time from the acknowledgement to its beginning.
    pub(crate) after: Micros,
    /// Whether it returned the value of the put.
    pub(crate) seen: Seen,
}

/// The results of [`Driver::follow`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Followed {
    /// The numbers of the puts that were acknowledged.
    pub(crate) acknowledged: Vec<u64>,
    /// The reads that followed them.
    pub(crate) reads: Vec<Reading>,
}

/// Bytes that nodes have sent each other, by kind of message.
pub(crate) type Sent = BTreeMap<Kind, u64>;

/// A cluster under test. Errors are sentences, and mean that the run cannot continue.
pub(crate) trait Driver {
    /// How far a mean may exceed its theoretical value, as a share of it and in milliseconds: disks
    /// and processors need time, too.
    fn tolerance(&self) -> (f64, f64);
    /// The ring, which does not change during an experiment.
    fn ring(&self) -> &Ring;
    /// The index of a node; it is what `kill` and `restart` take.
    fn place(&self, node: NodeId) -> usize;
    /// Puts all keys that loops read at all their owners; afterwards nodes have estimates of each
    /// other's latency.
    fn load(&mut self) -> Result<(), String>;
    /// Applies these rules to the network, in the language of `pixii emulate`.
    fn emulate(&mut self, rules: &str) -> Result<(), String>;
    /// Runs closed loops until all of their requests are answered or have failed.
    fn run(&mut self, loops: &Loops) -> Result<Measured, String>;
    /// Carries out the puts, and the reads after each acknowledgement; `scenario` gives the put and
    /// the reads of each number.
    fn follow(
        &mut self,
        puts: &Puts,
        scenario: &mut dyn FnMut(u64) -> Scenario,
    ) -> Result<Followed, String>;
    /// Kills the node with this index; returns once all others have marked it down.
    fn kill(&mut self, at: usize) -> Result<(), String>;
    /// Restarts a dead node, with an empty disk if it `lost` its own.
    fn restart(&mut self, at: usize, lost: bool) -> Result<(), String>;
    /// Lets this time pass without requests, in virtual or real time.
    fn wait(&mut self, time: Micros) -> Result<(), String>;
    /// Bytes that the live nodes have sent so far.
    fn sent(&mut self) -> Result<Sent, String>;
    /// Waits until all owners of all keys hold the same; returns how long that took.
    fn converge(&mut self) -> Result<Micros, String>;
    /// Ends the cluster cleanly; the error says why that failed.
    fn stop(self: Box<Self>) -> Result<(), String>;
}

/// Rules that delay every message by an exponentially distributed time with this mean.
pub(crate) fn delays(mean_ms: f64) -> String {
    let delay = format!("delay exponential {}us", (mean_ms * 1e3) as u64);
    format!("* -> * {delay}; client -> * {delay}; * -> client {delay}")
}

/// The key with this number among those that reads choose from.
pub(crate) fn read_key(number: u64) -> Key {
    key(format!("lab/{number:06}"))
}

/// A key that no other request uses.
pub(crate) fn fresh_key(loops: &Loops, client: u64, turn: u64) -> Key {
    key(format!("lab/{:016x}/{client}/{turn}", loops.seed))
}

/// The key of the put with this number in this series.
pub(crate) fn followed_key(series: u64, nth: u64) -> Key {
    key(format!("after/{series}/{nth:08}"))
}

fn key(name: String) -> Key {
    Key::new(name.into_bytes()).unwrap_or_else(|_| unreachable!("a short name is a key"))
}

/// Exactly this many replicas; only owners count if `strict`.
pub(crate) fn quorum(replicas: u8, strict: bool) -> Quorum {
    Quorum { replicas: Some(replicas), strict: Some(strict) }
}

/// A put without a context, for a key that is new.
pub(crate) fn put(key: Key, w: u8, write: WriteId) -> Request {
    let value = Blob(Bytes::from_static(&[7; VALUE_BYTES]));
    Request::Put { key, value, context: None, write, w: quorum(w, false) }
}
