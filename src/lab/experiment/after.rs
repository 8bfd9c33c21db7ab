//! Puts of new keys at a pace, and reads a while after the acknowledgement of each, in virtual time.

use std::collections::{BTreeMap, HashMap};

use pixii::message::{Request, Response};
use pixii::types::{Key, Micros};

use super::driver::{PATIENCE, Simulated, TIMEOUT_MS, quorum};

/// The puts.
pub(crate) struct Puts {
    /// How many.
    pub(crate) count: u64,
    /// The time between two of them.
    pub(crate) pace: Micros,
    /// Deadline of each, in milliseconds.
    pub(crate) timeout_ms: u32,
}

/// What is done with one key.
pub(crate) struct Course {
    /// Where it is put, counted from its first home.
    pub(crate) home: usize,
    /// W of the put.
    pub(crate) w: u8,
    /// The reads that follow.
    pub(crate) reads: Vec<Read>,
}

/// A read that follows a put.
#[derive(Clone, Copy)]
pub(crate) struct Read {
    /// How long after the acknowledgement.
    pub(crate) after: Micros,
    /// Where, counted from the first home of the key.
    pub(crate) home: usize,
    /// R; only homes count.
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

/// What all came to.
#[derive(Default)]
pub(crate) struct Followed {
    /// Puts that were acknowledged.
    pub(crate) acknowledged: u64,
    /// The reads of each: the number of the put, that of the read, and what it came to.
    pub(crate) reads: Vec<(u64, usize, Seen)>,
}

/// Puts, and reads what is acknowledged; `course` says of each put, by its number, what is done with its key.
pub(crate) fn follow(
    simulated: &mut Simulated,
    puts: &Puts,
    course: &mut dyn FnMut(u64) -> Course,
) -> Result<Followed, String> {
    let mut followed = Followed::default();
    let mut writing: HashMap<u64, (u64, Vec<Read>)> = HashMap::new();
    let mut reading: HashMap<u64, (u64, usize)> = HashMap::new();
    let mut due: BTreeMap<(Micros, u64, usize), Read> = BTreeMap::new();
    let (begun, mut issued) = (simulated.cluster.now(), 0);
    loop {
        let next_put = (issued < puts.count).then_some(begun + issued * puts.pace);
        let next_read = due.first_key_value().map(|((at, ..), _)| *at);
        let next = [next_put, next_read].into_iter().flatten().min();
        if next.is_none() && writing.is_empty() && reading.is_empty() {
            return Ok(followed);
        }
        let until = next.unwrap_or(simulated.cluster.now() + PATIENCE);
        if let Some(answer) = simulated.cluster.next(until) {
            if let Some((nth, reads)) = writing.remove(&answer.call) {
                if matches!(answer.response, Response::Written { .. }) {
                    followed.acknowledged += 1;
                    let reads = reads.into_iter().enumerate();
                    due.extend(
                        reads.map(|(which, read)| ((answer.ended + read.after, nth, which), read)),
                    );
                }
            } else if let Some((nth, which)) = reading.remove(&answer.call) {
                let seen = match answer.response {
                    Response::Found { values, .. } if values.is_empty() => Seen::Missed,
                    Response::Found { .. } => Seen::Shown,
                    _ => Seen::Refused,
                };
                followed.reads.push((nth, which, seen));
            }
        } else if next_put == Some(until) {
            let Course { home, w, reads } = course(issued);
            let key = key(issued)?;
            let (home, request) = (simulated.home(&key, home), simulated.put(key, w));
            let call = simulated.cluster.ask(0, home, request, puts.timeout_ms);
            writing.insert(call, (issued, reads));
            issued += 1;
        } else if let Some(((_, nth, which), Read { home, r, .. })) = due.pop_first() {
            let key = key(nth)?;
            let home = simulated.home(&key, home);
            let request = Request::Get { key, r: quorum(r, true) };
            reading.insert(simulated.cluster.ask(1, home, request, TIMEOUT_MS), (nth, which));
        } else {
            return Err("a request was never answered".into());
        }
    }
}

fn key(nth: u64) -> Result<Key, String> {
    Key::new(format!("after/{nth:08}").into_bytes()).map_err(|error| error.to_string())
}
