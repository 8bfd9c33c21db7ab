//! Bulk transfer: an owner that has nothing of a partition, or little, is sent the records page by
//! page, in the order of the keys, instead of being asked for each key. Nothing else depends on it:
//! what a page brings is merged like anything that was moved, and the comparisons behind it find
//! what has changed meanwhile. An owner that stops half way is compared with what it has, and
//! streamed the rest.

use std::collections::VecDeque;

use super::InFlight;
use super::difference::{Direction, Pair};
use super::exchange::{DONE, Exchange, GO_ON, Stage, Step, TIMEOUT};
use crate::causal::Object;
use crate::gc_epoch::GcEpoch;
use crate::message::{Body, ComparisonFault, Counter};
use crate::node::gc_epochs::Stamped;
use crate::node::io::Io;
use crate::types::{Key, Micros, NodeId, Time};

/// Records that are being written here at a time while no client waits for this node, and while
/// some do: no more than of objects that are moved one by one. What is on its way to the disk is
/// written even when that runs full meanwhile, and its reserve has to have room for that.
const MAX_WRITES: usize = 64;
const MAX_WRITES_BESIDE_CLIENTS: usize = 16;
/// A peer that has too much to do is asked again after this time.
const RETRY_INTERVAL: Micros = Micros::from_millis(50);
/// Fewer keys that are missing in a page are asked for one by one.
const MIN_MISSING: usize = 4;

/// How fast a node takes records over: bytes of values a second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// 0 for no limit.
    bytes_per_second: u64,
    /// When what has been taken so far is paid for.
    free_at: Time,
}

impl Pace {
    pub(super) fn new(bytes_per_second: u64) -> Self {
        Pace { bytes_per_second, free_at: Time::START }
    }

    /// Another limit from now on.
    pub(super) fn limit(&mut self, now: Time, bytes_per_second: u64) {
        *self = Pace { bytes_per_second, free_at: now };
    }

    /// When the next page may be asked for.
    pub(super) fn free_at(&self) -> Time {
        self.free_at
    }

    /// A page has come.
    fn charge(&mut self, now: Time, bytes: usize) {
        let took = (bytes as u64 * 1_000_000).checked_div(self.bytes_per_second).unwrap_or(0);
        self.free_at = self.free_at.max(now) + Micros(took);
    }
}

/// Records on their way here.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    next: Next,
    /// Records that have come and are not on their way to the disk, with the GC epoch that they
    /// were read in.
    records: VecDeque<(Key, Object)>,
    gc_epoch: GcEpoch,
}

/// The next page.
#[derive(Clone, Debug)]
enum Next {
    /// It is to be asked for, behind this key, at this time at the earliest.
    Wanted(Option<Key>, Time),
    /// It was asked for, behind this key.
    Asked(Option<Key>),
    /// There is none.
    End,
}

/// True if most of what the peer has of a page is missing here, so that it is asked for the rest of
/// the partition as it is.
pub(super) fn is_missing<'a>(differ: impl Iterator<Item = &'a Pair>, theirs: usize) -> bool {
    let missing = differ.filter(|(mine, _)| mine.is_none()).count();
    missing >= MIN_MISSING && 2 * missing > theirs
}

impl Stream {
    /// When the next page is to be asked for, if that is to come.
    pub(super) fn wanted_at(&self) -> Option<Time> {
        match self.next {
            Next::Wanted(_, at) if self.records.is_empty() => Some(at),
            _ => None,
        }
    }
}

impl Exchange {
    /// Asks for the records of the leaves that differ, from the key on that was reached.
    pub(super) fn stream(&mut self, now: Time, in_flight: &mut InFlight, io: &mut Io) -> Step {
        self.has_read = true;
        let (next, gc_epoch) = (Next::Wanted(self.after.take(), now), self.gc_epoch);
        self.stage = Stage::Streaming(Stream { next, records: VecDeque::new(), gc_epoch });
        self.stream_on(now, in_flight, io)
    }

    /// Brings as many records to the disk as may be on the way there, and asks for the next page
    /// once it can be needed.
    pub(super) fn stream_on(&mut self, now: Time, in_flight: &mut InFlight, io: &mut Io) -> Step {
        let window = match io.local.is_busy() {
            true => MAX_WRITES_BESIDE_CLIENTS,
            false => MAX_WRITES,
        };
        while self.transfers < window
            && let Stage::Streaming(stream) = &mut self.stage
            && let Some((key, object)) = stream.records.pop_front()
        {
            let copy = Stamped { object, gc_epoch: stream.gc_epoch };
            let direction = Direction::Pull;
            let request_id = in_flight.fly(self.peer, self.partition, key.clone(), direction);
            self.transfers += 1;
            if self.carry(request_id, &key, direction, copy, io) {
                in_flight.land(request_id);
                self.transfers -= 1;
            }
        }
        let (partition, leaves) = (self.partition, self.leaves.clone());
        let Stage::Streaming(stream) = &mut self.stage else { return GO_ON };
        match &mut stream.next {
            Next::Wanted(after, at) if stream.records.is_empty() => {
                if now >= *at && now >= in_flight.pace.free_at() {
                    let after = after.take();
                    stream.next = Next::Asked(after.clone());
                    self.query(now, Body::Fetch { partition, leaves, after }, in_flight, io);
                }
                GO_ON
            }
            Next::End if stream.records.is_empty() && self.transfers == 0 => DONE,
            _ => GO_ON,
        }
    }

    /// The peer has sent a page.
    pub(super) fn take_page(
        &mut self,
        now: Time,
        records: Vec<(Key, Object)>,
        gc_epoch: GcEpoch,
        next: Option<Key>,
        in_flight: &mut InFlight,
        io: &mut Io,
    ) -> Step {
        let Stage::Streaming(stream) = &mut self.stage else { return GO_ON };
        let Next::Asked(after) = &stream.next else { return GO_ON };
        let keys: Vec<&Key> = after.iter().chain(records.iter().map(|(key, _)| key)).collect();
        let ascending = keys.windows(2).all(|pair| pair[0] < pair[1]);
        let within = next.as_ref().is_none_or(|next| {
            keys.last().is_none_or(|last| *last <= next)
                && after.as_ref().is_none_or(|after| after < next)
        });
        let ring = io.local.ring();
        let belong = records.iter().all(|(key, _)| ring.partition(key) == self.partition);
        if !(ascending && within && belong) {
            return Err(ComparisonFault::OddKeys.into());
        }
        let values = |object: &Object| -> usize {
            object.values().map(|(_, version)| version.value.0.len()).sum()
        };
        let bytes = records.iter().map(|(key, object)| key.as_bytes().len() + values(object)).sum();
        in_flight.pace.charge(now, bytes);
        io.out.count(Counter::PagesFetched);
        let next = next.map_or(Next::End, |next| Next::Wanted(Some(next), now));
        *stream = Stream { next, records: records.into(), gc_epoch };
        self.stream_on(now, in_flight, io)
    }

    /// The peer cannot send the page now: it is asked again.
    pub(super) fn put_off_page(&mut self, now: Time) -> bool {
        let Stage::Streaming(stream) = &mut self.stage else { return false };
        let Next::Asked(after) = &mut stream.next else { return false };
        stream.next = Next::Wanted(after.take(), now + RETRY_INTERVAL);
        self.timeout = now + TIMEOUT;
        true
    }
}

/// Peers that answer `Fetch`: those whose messages say which ring they are of.
pub(super) fn can_stream(peer: NodeId, io: &Io) -> bool {
    io.local.has_heard_of_ring(peer)
}
