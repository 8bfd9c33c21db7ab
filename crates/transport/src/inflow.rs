//! The memory for large frames that arrive. It is claimed as the bytes of a frame arrive, not as
//! its length is announced, and no client address and no peer holds more than a share of it.

use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Display, Formatter};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pixii_core::types::NodeId;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::locked;
use super::throttle::LogThrottle;
use crate::limited;

/// A frame that waits longer than this for memory is counted and logged.
const LONG_WAIT: Duration = Duration::from_secs(1);
/// A frame that is not the first leaves this many times its own memory to others, or a half of it.
const LEFT_TO_OTHERS: usize = 16;

/// The party that memory is charged to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    /// All clients of an address.
    Clients(IpAddr),
    /// A peer.
    Peer(NodeId),
}

impl Display for Holder {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Holder::Clients(at) => write!(f, "clients from {at}"),
            Holder::Peer(node) => write!(f, "peer {node:?}"),
        }
    }
}

/// Sizes of the memory, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// All of it.
    pub total: usize,
    /// Most that one holder may have.
    pub share: usize,
    /// So much is kept for the frame that began first, so that it can always be completed, and
    /// frames that each hold a part never wait for each other for ever. What a larger frame has
    /// beyond it is not counted while it is the first: it goes over the total, one at a time.
    pub frame: usize,
}

/// How the memory is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Bytes that are held.
    pub held: usize,
    /// Bytes that there are.
    pub total: usize,
    /// Frames that waited longer than a second, since the start.
    pub waits: u64,
}

/// The memory for large frames, of all clients or of all peers.
#[derive(Debug)]
pub struct Inflow {
    /// What its frames come from, in words: "clients" or "peers".
    of: &'static str,
    sizes: Sizes,
    state: Mutex<State>,
    freed: Notify,
    log: Arc<LogThrottle>,
}

#[derive(Debug, Default)]
struct State {
    whole: Scope,
    holders: HashMap<Holder, Scope>,
    next: u64,
    waits: u64,
}

/// What is held of the whole, or by one holder.
#[derive(Debug, Default)]
struct Scope {
    held: usize,
    /// Frames that have begun and are not complete, in their order, and what they hold.
    incomplete: BTreeMap<u64, usize>,
}

impl Scope {
    /// True if frame `number`, which has `own` bytes, may have `wanted` bytes of `limit`.
    fn has(&self, number: u64, (own, wanted): (usize, usize), limit: usize, frame: usize) -> bool {
        let others = self.held - own;
        match self.incomplete.first_key_value() {
            Some((first, begun)) if *first < number => {
                let kept = frame.saturating_sub(*begun);
                let left = (wanted * LEFT_TO_OTHERS).min(limit.saturating_sub(frame) / 2);
                others + wanted + kept + left <= limit
            }
            _ => others + wanted.min(frame) <= limit,
        }
    }

    fn grow(&mut self, number: u64, more: usize) {
        self.held += more;
        if let Some(bytes) = self.incomplete.get_mut(&number) {
            *bytes += more;
        }
    }
}

/// The memory of one frame. Dropped, it is free.
#[derive(Debug)]
pub struct Memory {
    inflow: Arc<Inflow>,
    holder: Holder,
    number: u64,
    bytes: usize,
}

impl Inflow {
    /// The memory for frames of `of`, none of which is held.
    pub fn new(of: &'static str, sizes: Sizes, log: Arc<LogThrottle>) -> Arc<Self> {
        Arc::new(Inflow { of, sizes, state: Mutex::default(), freed: Notify::new(), log })
    }

    /// How it is used now.
    pub fn usage(&self) -> Usage {
        let state = locked(&self.state);
        Usage { held: state.whole.held, total: self.sizes.total, waits: state.waits }
    }

    /// A frame of `holder` begins, which holds nothing yet.
    pub fn begin(self: &Arc<Self>, holder: Holder) -> Memory {
        let mut state = locked(&self.state);
        let number = state.next;
        state.next += 1;
        state.whole.incomplete.insert(number, 0);
        state.holders.entry(holder).or_default().incomplete.insert(number, 0);
        drop(state);
        Memory { inflow: self.clone(), holder, number, bytes: 0 }
    }

    fn report(&self, holder: Holder) {
        let mut state = locked(&self.state);
        state.waits += 1;
        let of_holder = state.holders.get(&holder).map_or(0, |scope| scope.held);
        let (held, Sizes { total, share, .. }) = (state.whole.held, self.sizes);
        drop(state);
        limited!(
            self.log.several("frame_memory", &holder.to_string()),
            warn,
            [event = "frame_memory", held, total,],
            "large frames of {holder} wait for memory: {held} of {total} bytes are held for {}, \
             {of_holder} of them \
             by {holder}, who may hold {share}",
            self.of
        );
    }
}

impl Memory {
    /// Returns when the frame holds `bytes`.
    pub async fn grow(&mut self, bytes: usize) {
        if self.try_grow(bytes) {
            return;
        }
        let inflow = self.inflow.clone();
        let mut since = Some(Instant::now());
        loop {
            let freed = inflow.freed.notified();
            tokio::pin!(freed);
            // What is freed from here on is noticed.
            freed.as_mut().enable();
            if self.try_grow(bytes) {
                return;
            }
            match since.map(|since| LONG_WAIT.saturating_sub(since.elapsed())) {
                None => freed.await,
                Some(rest) => {
                    if timeout(rest, freed).await.is_err() {
                        since = None;
                        inflow.report(self.holder);
                    }
                }
            }
        }
    }

    fn try_grow(&mut self, bytes: usize) -> bool {
        let Some(more) = bytes.checked_sub(self.bytes) else { return true };
        let Sizes { total, share, frame } = self.inflow.sizes;
        let mut state = locked(&self.inflow.state);
        let State { whole, holders, .. } = &mut *state;
        let own = holders.entry(self.holder).or_default();
        let sizes = (self.bytes, bytes);
        let permitted = whole.has(self.number, sizes, total, frame)
            && own.has(self.number, sizes, share, frame);
        if permitted {
            whole.grow(self.number, more);
            own.grow(self.number, more);
            self.bytes += more;
        }
        permitted
    }

    /// The frame has arrived: its memory stays, and it waits for no more.
    pub fn complete(&self) {
        locked(&self.inflow.state).complete(self.holder, self.number);
        self.inflow.freed.notify_waiters();
    }
}

impl State {
    fn complete(&mut self, holder: Holder, number: u64) {
        self.whole.incomplete.remove(&number);
        if let Some(own) = self.holders.get_mut(&holder) {
            own.incomplete.remove(&number);
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let mut state = locked(&self.inflow.state);
        state.complete(self.holder, self.number);
        state.whole.held -= self.bytes;
        if let Some(own) = state.holders.get_mut(&self.holder) {
            own.held -= self.bytes;
            if own.held == 0 && own.incomplete.is_empty() {
                state.holders.remove(&self.holder);
            }
        }
        drop(state);
        self.inflow.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: Sizes = Sizes { total: 1_000, share: 400, frame: 100 };

    fn inflow() -> Arc<Inflow> {
        Inflow::new("clients", SIZES, Arc::default())
    }

    fn at(last: u8) -> Holder {
        Holder::Clients([10, 0, 0, last].into())
    }

    #[test]
    fn no_address_holds_more_than_its_share_and_all_is_given_back() {
        let inflow = inflow();
        let mut greedy: Vec<Memory> = (0..5).map(|_| inflow.begin(at(1))).collect();
        let got = greedy.iter_mut().filter_map(|memory| memory.try_grow(100).then_some(())).count();
        assert_eq!(got, 2, "beside the oldest of them, they leave a half to others");
        assert!(inflow.begin(at(2)).try_grow(100), "another address has its own share");
        greedy.iter().take(2).for_each(Memory::complete);
        assert!(greedy[2].try_grow(100), "it is the oldest one that is not complete");
        assert!(!greedy[3].try_grow(60), "and of the share no more than a half is left");
        drop(greedy);
        assert_eq!(inflow.usage(), Usage { held: 0, total: 1_000, waits: 0 });
        assert!(locked(&inflow.state).holders.is_empty(), "what is free is forgotten");
    }

    #[test]
    fn large_frames_that_do_not_come_leave_memory_to_small_ones() {
        let inflow = inflow();
        let mut slow: Vec<Memory> = (0..20).map(|n| inflow.begin(at(n % 4))).collect();
        for memory in &mut slow {
            // As much again with each step, as a frame takes it.
            (0..7).map(|step| 1 << step).take_while(|bytes| memory.try_grow(*bytes)).for_each(drop);
        }
        let held = inflow.usage().held;
        assert!(held > 400, "they have much of it: {held}");
        assert!(inflow.begin(at(9)).try_grow(8), "a small one of another address goes on");
        assert!(inflow.begin(at(1)).try_grow(4), "and of the same one");
    }

    #[test]
    fn a_frame_over_the_size_that_is_kept_is_completed_when_it_is_the_first() {
        let inflow = inflow();
        let (mut before, mut huge) = (inflow.begin(at(1)), inflow.begin(at(2)));
        assert!(before.try_grow(100) && huge.try_grow(10));
        assert!(!huge.try_grow(2_000), "it waits for its turn");
        drop(before);
        let mut beside = inflow.begin(at(3));
        assert!(beside.try_grow(50) && huge.try_grow(2_000), "others do not hold it up");
        huge.complete();
        let mut next = inflow.begin(at(4));
        drop(beside);
        assert!(!next.try_grow(100), "one at a time goes over the total");
        drop(huge);
        assert!(next.try_grow(2_000));
    }

    #[test]
    fn frames_that_hold_a_part_each_are_completed_one_after_the_other() {
        let inflow = inflow();
        let holder = |n: u16| at((n % 6) as u8);
        let mut frames: Vec<Memory> = (0..600).map(|n| inflow.begin(holder(n))).collect();
        // All have some, and the memory is short, before the first one is complete.
        for bytes in 1..=10 {
            frames.iter_mut().for_each(|frame| {
                frame.try_grow(bytes);
            });
        }
        let mut rounds = 0;
        while !frames.is_empty() {
            frames.retain_mut(|frame| !frame.try_grow(100));
            rounds += 1;
            assert!(rounds <= 600, "{} frames wait for each other", frames.len());
        }
        assert_eq!(inflow.usage().held, 0);
    }
}
