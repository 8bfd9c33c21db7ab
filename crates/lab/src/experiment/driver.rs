//! What carries an experiment out: a cluster in virtual time, exact and repeatable, or real daemons
//! on an emulated network.

use std::collections::BTreeMap;

use bytes::Bytes;
use pixii_core::message::{Kind, Quorum, Request};
use pixii_core::ring::Ring;
use pixii_core::types::{Blob, Key, Micros, NodeId, WriteId};

/// Keys that reads are about.
pub(crate) const KEYS: u64 = 2_000;
/// Bytes of each value.
const VALUE_BYTES: usize = 100;
/// Deadline of a request, in milliseconds: slow is not failed.
pub(crate) const TIMEOUT_MS: u32 = 60_000;

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
    /// The number of the key, of a read.
    pub(crate) key: u64,
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
    /// The numbers of the keys whose reads were refused, among these.
    pub(crate) refused: Vec<u64>,
    /// Why the first of them did.
    pub(crate) why: Option<String>,
}

impl Measured {
    /// Notes that a request failed; `read` is the number of the key, of a read.
    pub(crate) fn fail(&mut self, read: Option<u64>, why: String) {
        self.failed += 1;
        self.refused.extend(read);
        self.why.get_or_insert(why);
    }

    /// Latencies of reads, or of puts, in milliseconds.
    pub(crate) fn latencies(&self, reads: bool) -> Vec<f64> {
        let kind = self.samples.iter().filter(|sample| sample.is_read == reads);
        kind.map(|sample| sample.took.as_f64() / 1e3).collect()
    }
}

/// Puts of new keys at a pace, and reads a while after the acknowledgement of each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Puts {
    /// How many.
    pub(crate) count: u64,
    /// The time between two of them.
    pub(crate) pace: Micros,
    /// Deadline of each, and of each read, in milliseconds.
    pub(crate) timeout_ms: u32,
}

/// What is done with one key.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    /// Where it is put, counted from its first owner.
    pub(crate) owner: usize,
    /// W of the put.
    pub(crate) w: u8,
    /// The reads that follow.
    pub(crate) reads: Vec<Read>,
}

/// A read that follows a put.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Read {
    /// How long after the acknowledgement.
    pub(crate) after: Micros,
    /// Where, counted from the first owner of the key.
    pub(crate) owner: usize,
    /// R; only owners count.
    pub(crate) r: u8,
}

/// What a read came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It showed the value.
    Shown,
    /// It said that there is none.
    Missed,
    /// It was not answered.
    Refused,
}

/// A read that has followed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    /// The number of the put.
    pub(crate) put: u64,
    /// Which of its reads.
    pub(crate) which: usize,
    /// How long after the acknowledgement it began, in truth.
    pub(crate) after: Micros,
    /// What it came to.
    pub(crate) seen: Seen,
}

/// What all came to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Followed {
    /// The puts that were acknowledged.
    pub(crate) acknowledged: Vec<u64>,
    /// The reads that followed them.
    pub(crate) reads: Vec<Reading>,
}

/// Bytes that nodes have sent each other, by what they were about.
pub(crate) type Sent = BTreeMap<Kind, u64>;

/// What carries an experiment out. Errors are sentences, and say that the run cannot go on.
pub(crate) trait Driver {
    /// How far a mean may be over what theory gives, as a share of it and in milliseconds: disks
    /// and processors take time too.
    fn tolerance(&self) -> (f64, f64);
    /// Where keys are.
    fn ring(&self) -> &Ring;
    /// The place of each node among all.
    fn place(&self, node: NodeId) -> usize;
    /// Puts the keys that loops read at all their owners; nodes know each other's pace then.
    fn load(&mut self) -> Result<(), String>;
    /// Lets the network behave by these rules, in the language of `pixii emulate`.
    fn emulate(&mut self, rules: &str) -> Result<(), String>;
    /// Runs a load.
    fn run(&mut self, loops: &Loops) -> Result<Measured, String>;
    /// Puts, and reads what is acknowledged; `scenario` says of each put, by its number, what is
    /// done with its key.
    fn follow(
        &mut self,
        puts: &Puts,
        scenario: &mut dyn FnMut(u64) -> Scenario,
    ) -> Result<Followed, String>;
    /// The node at this place dies; returns when all others know.
    fn kill(&mut self, at: usize) -> Result<(), String>;
    /// A dead node starts again, with an empty disk if it `lost` its own.
    fn restart(&mut self, at: usize, lost: bool) -> Result<(), String>;
    /// Lets time pass.
    fn wait(&mut self, time: Micros) -> Result<(), String>;
    /// What nodes that live have sent so far.
    fn sent(&mut self) -> Result<Sent, String>;
    /// Waits until all owners of all keys hold the same; how long that took.
    fn converge(&mut self) -> Result<Micros, String>;
    /// Ends it well.
    fn stop(self: Box<Self>) -> Result<(), String>;
}

/// Rules by which every message takes an exponentially distributed time with this mean.
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

/// The key of the put with this number, in a series of them.
pub(crate) fn followed_key(series: u64, nth: u64) -> Key {
    key(format!("after/{series}/{nth:08}"))
}

fn key(name: String) -> Key {
    Key::new(name.into_bytes()).unwrap_or_else(|_| unreachable!("a short name is a key"))
}

/// Exactly this many replicas, owners alone if `strict`.
pub(crate) fn quorum(replicas: u8, strict: bool) -> Quorum {
    Quorum { replicas: Some(replicas), strict: Some(strict) }
}

/// A put of a key that is new.
pub(crate) fn put(key: Key, w: u8, write: WriteId) -> Request {
    let value = Blob(Bytes::from_static(&[7; VALUE_BYTES]));
    Request::Put { key, value, context: None, write, w: quorum(w, false) }
}
