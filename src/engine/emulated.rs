//! The emulated network at the daemon's transport. Messages to other members wait here before they
//! leave, and so do requests of clients and their answers. A slow disk is emulated by the store's
//! threads. Switched off, it costs one look at an `Option`.
//!
//! A message takes the time that its rule says, to a fraction of a millisecond on a machine that is
//! not busy. Only requests for data are emulated: control calls always get through.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use pixii_core::emulation::{self, Emulation, Place, Rule, Verdict};
use pixii_core::message::{
    Call, CallBody, Counter, EmulateOrder, EmulateRejection, Kind, PeerMessage, Request, WriteRule,
};
use pixii_core::node::{ClientId, Input};
use pixii_core::types::{Micros, NodeId, Time};
use pixii_core::wire;
use pixii_transport::frames::FrameMemory;
use pixii_transport::limited;
use rustix::fs::Timespec;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};
use tokio::net::unix::pipe;

use super::Engine;
use crate::net::Peer;

/// Most messages that wait; further ones are dropped and counted.
const MAX_WAITING: usize = 100_000;
const MAX_WAITING_BYTES: usize = 256 << 20;
/// Interval at which the log repeats that the emulated network is on.
const REMIND: Micros = Micros::from_millis(60_000);
/// Estimated size of a call without its key and value, in bytes.
const CALL_BYTES: usize = 256;

/// Wakes the engine when a message is due, as exactly as the kernel can: the runtime's own timer
/// counts in milliseconds.
pub(super) struct Alarm(pipe::Receiver);

impl Alarm {
    /// A timer that is not set. The error is the operating system's.
    pub(super) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = File::from(timerfd_create(TimerfdClockId::Monotonic, flags)?);
        // The runtime polls a timer descriptor as it does a pipe.
        Ok(Alarm(pipe::Receiver::from_file_unchecked(timer)?))
    }

    /// Sets it to ring after this time.
    pub(super) fn set(&self, after: Micros) {
        let timespec = |micros: Micros| Timespec {
            tv_sec: (micros.0 / 1_000_000) as i64,
            tv_nsec: (micros.0 % 1_000_000 * 1_000) as i64,
        };
        // The system call takes a time of 0 as the order to stop the timer.
        let it_value = timespec(after.max(Micros(1)));
        let it_interval = timespec(Micros::ZERO);
        let at = Itimerspec { it_interval, it_value };
        // Setting an open timer cannot fail, whatever the time.
        let _ = timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &at);
    }

    /// Returns when the timer expires.
    pub(super) async fn rings(&self) {
        // A timer that cannot be read counts as expired, so that no message is late.
        while self.0.readable().await.is_ok() {
            match self.0.try_read(&mut [0; 8]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                _ => return,
            }
        }
    }
}

/// A message that waits for its emulated delay.
#[derive(Debug)]
pub(super) enum DelayedMessage {
    /// A frame for a peer, and the number of the connection that it belongs to. It is dropped if
    /// that connection has ended.
    Message { peer: Arc<Peer>, connection: u64, frame: Bytes },
    /// A message of the node to itself, which only an experiment delays.
    Own(PeerMessage),
    /// A frame that answers a call of a client.
    Reply { client: ClientId, frame: Bytes },
    /// A call of a client, with the memory of its frame, that the node has not seen yet.
    Call { client: ClientId, call: Call, memory: FrameMemory },
}

impl DelayedMessage {
    fn bytes(&self) -> usize {
        match self {
            DelayedMessage::Message { frame, .. } | DelayedMessage::Reply { frame, .. } => {
                frame.len()
            }
            DelayedMessage::Own(message) => wire::frame_len(message),
            DelayedMessage::Call { call, .. } => CALL_BYTES + call_bytes(&call.body),
        }
    }

    fn ends(&self, me: NodeId) -> (Place, Place) {
        match self {
            DelayedMessage::Message { peer, .. } => (me.into(), peer.id.into()),
            DelayedMessage::Own(_) => (me.into(), me.into()),
            DelayedMessage::Reply { client, .. } => (me.into(), Place::Client(*client)),
            DelayedMessage::Call { client, .. } => (Place::Client(*client), me.into()),
        }
    }
}

fn call_bytes(body: &CallBody) -> usize {
    let context =
        |blob: &Option<pixii_core::types::Blob>| blob.as_ref().map_or(0, |blob| blob.0.len());
    match body {
        CallBody::Data { request, .. } => match request {
            Request::Put { key, value, context: seen, .. }
            | Request::PutAgain { key, value, context: seen, .. } => {
                key.as_bytes().len() + value.0.len() + context(seen)
            }
            Request::Decide { key, value, rule, .. } => {
                let seen = match rule {
                    WriteRule::IfContext(seen) => seen.0.len(),
                    WriteRule::Cover | WriteRule::IfAbsent => 0,
                };
                key.as_bytes().len() + seen + context(value)
            }
            Request::Delete { key, context: seen, .. } => key.as_bytes().len() + context(seen),
            Request::Get { key, .. } => key.as_bytes().len(),
            Request::Keys { after, .. } => after.as_ref().map_or(0, |key| key.as_bytes().len()),
        },
        _ => 0,
    }
}

/// The emulated network, on or off, with counters of its messages since the start.
#[derive(Debug)]
pub(super) struct Emulator {
    me: NodeId,
    seed: u64,
    on: Option<Box<On>>,
    delayed: u64,
    dropped: u64,
    cut: u64,
    overflowed: u64,
}

#[derive(Debug)]
struct On {
    net: Emulation,
    /// By time of arrival, then in the order of sending.
    waiting: BTreeMap<(Time, u64), DelayedMessage>,
    bytes: usize,
    sequence: u64,
    remind_at: Time,
}

impl Emulator {
    /// The network of node `me`, switched off. The random choices of each set of rules follow from
    /// `seed`.
    pub(super) fn off(me: NodeId, seed: u64) -> Self {
        Emulator { me, seed, on: None, delayed: 0, dropped: 0, cut: 0, overflowed: 0 }
    }

    /// True while there are rules.
    pub(super) fn is_on(&self) -> bool {
        self.on.is_some()
    }

    /// The delay that the rules add to each piece of work of this node's disk.
    pub(super) fn disk_delay(&self) -> Micros {
        self.on.as_ref().map_or(Micros::ZERO, |on| on.net.disk_delay(self.me))
    }

    /// The rules in force, one line each.
    pub(super) fn lines(&self) -> Vec<String> {
        let rules = self.on.iter().flat_map(|on| on.net.rules());
        rules.map(Rule::to_string).collect()
    }

    /// Replaces the rules; an empty list switches the emulation off. Returns the messages in
    /// flight.
    pub(super) fn set(&mut self, now: Time, rules: Vec<Rule>) -> Vec<DelayedMessage> {
        let old = self.on.take();
        if !rules.is_empty() {
            // Nodes with the same seed must not drop and delay messages in step.
            let net = Emulation::of_rules(rules, self.seed ^ self.me.0);
            let (waiting, remind_at) = (BTreeMap::new(), now + REMIND);
            self.on = Some(Box::new(On { net, waiting, bytes: 0, sequence: 0, remind_at }));
        }
        old.map_or_else(Vec::new, |on| on.waiting.into_values().collect())
    }

    /// Takes a message of this kind that is sent now, or drops it, as the rules say.
    pub(super) fn post(&mut self, now: Time, kind: Kind, delayed: DelayedMessage) {
        let Some(on) = &mut self.on else { return };
        let (from, to) = delayed.ends(self.me);
        let delay = match on.net.verdict(now, from, to, kind) {
            Verdict::Deliver(delays) => delays.first().copied().unwrap_or_default(),
            Verdict::Drop => return self.dropped += 1,
            Verdict::Cut => return self.cut += 1,
        };
        let bytes = on.bytes + delayed.bytes();
        if on.waiting.len() >= MAX_WAITING || bytes > MAX_WAITING_BYTES {
            return self.overflowed += 1;
        }
        self.delayed += u64::from(delay > Micros::ZERO);
        on.bytes = bytes;
        on.sequence += 1;
        on.waiting.insert((now + delay, on.sequence), delayed);
    }

    /// The next message that has arrived by `now`.
    pub(super) fn arrived(&mut self, now: Time) -> Option<DelayedMessage> {
        let on = self.on.as_mut()?;
        let first = on.waiting.first_entry().filter(|first| first.key().0 <= now)?;
        let delayed = first.remove();
        on.bytes -= delayed.bytes();
        Some(delayed)
    }

    /// When the next message arrives or the next reminder is due in the log.
    pub(super) fn next_wake(&self) -> Option<Time> {
        let on = self.on.as_ref()?;
        let first = on.waiting.first_key_value().map(|((due, _), _)| *due);
        Some(first.unwrap_or(on.remind_at).min(on.remind_at))
    }

    /// True if the log is due to repeat that it is on; then schedules the next reminder.
    fn is_to_remind(&mut self, now: Time) -> bool {
        let due = self.on.as_mut().filter(|on| on.remind_at <= now);
        due.map(|on| on.remind_at = now + REMIND).is_some()
    }

    /// Messages by their fate, since the start.
    pub(super) fn counters(&self) -> [(Counter, u64); 4] {
        [
            (Counter::EmulatedCut, self.cut),
            (Counter::EmulatedDelayed, self.delayed),
            (Counter::EmulatedDropped, self.dropped),
            (Counter::EmulatedOverflowed, self.overflowed),
        ]
    }
}

impl Engine<'_> {
    /// Carries out an order. Returns the rules in force afterwards, or why nothing was done.
    pub(super) fn emulate(&mut self, order: EmulateOrder) -> Result<Vec<String>, EmulateRejection> {
        if !self.config.allow_emulation {
            return Err(EmulateRejection::NotAllowed { node: self.config.name.clone() });
        }
        match order {
            EmulateOrder::Show => {}
            EmulateOrder::Set(text) => {
                let rules = emulation::parse(&text, &self.config.members)
                    .map_err(|fault| EmulateRejection::Rules { fault })?;
                if rules.is_empty() {
                    return Err(EmulateRejection::NoRule);
                }
                self.set_rules(rules);
            }
            EmulateOrder::Clear => self.set_rules(Vec::new()),
        }
        Ok(self.emulator.lines())
    }

    /// Replaces the rules in force. Messages in flight arrive at once.
    pub(super) fn set_rules(&mut self, rules: Vec<Rule>) {
        let was_on = self.emulator.is_on();
        let in_flight = self.emulator.set(self.now(), rules);
        self.storage.slow_down(self.emulator.disk_delay());
        in_flight.into_iter().for_each(|delayed| self.arrive(delayed));
        if self.emulator.is_on() {
            self.warn_of_emulation("from now on");
        } else if was_on {
            let (permit, name) = (self.hub.log.several("emulation", ""), &self.config.name);
            limited!(permit, warn, [], "node {name}: the network is no longer emulated");
        }
    }

    fn warn_of_emulation(&self, since: &str) {
        limited!(
            self.hub.log.several("emulation", since),
            warn,
            [],
            "node {}: the network is EMULATED {since}: {}",
            self.config.name,
            self.emulator.lines().join("; ")
        );
    }

    /// Hands over the messages that have arrived.
    pub(super) fn hand_over(&mut self) {
        if !self.emulator.is_on() {
            return;
        }
        let now = self.now();
        while let Some(delayed) = self.emulator.arrived(now) {
            self.arrive(delayed);
        }
        if self.emulator.is_to_remind(now) {
            self.warn_of_emulation("still");
        }
    }

    /// At a stop, messages in flight leave at once.
    pub(super) fn end_emulation(&mut self) {
        self.storage.slow_down(Micros::ZERO);
        for delayed in self.emulator.set(self.now(), Vec::new()) {
            if !matches!(delayed, DelayedMessage::Call { .. }) {
                self.arrive(delayed);
            }
        }
    }

    /// Takes a message that an experiment has the network carry from the node to itself.
    pub(super) fn report_self(&mut self, message: PeerMessage) {
        if self.emulator.is_on() {
            let kind = message.body.kind();
            self.emulator.post(self.now(), kind, DelayedMessage::Own(message));
        } else {
            self.arrive(DelayedMessage::Own(message));
        }
    }

    fn arrive(&mut self, delayed: DelayedMessage) {
        match delayed {
            DelayedMessage::Message { peer, connection, frame } => {
                // A connection ends with its process: a frame for an earlier incarnation is not for
                // this one.
                if peer.outbox.connection() == connection {
                    peer.outbox.push(frame);
                } else {
                    peer.outbox.lose();
                }
            }
            DelayedMessage::Own(message) => {
                self.input(Input::Peer { from: self.config.me(), message });
            }
            DelayedMessage::Reply { client, frame } => self.answer(client, frame),
            DelayedMessage::Call { client, call, memory } => self.call(client, call, memory),
        }
    }
}

#[cfg(test)]
mod tests {
    use pixii_core::members::{Member, Members};
    use pixii_core::types::MILLI;

    use super::*;

    const ME: &str = "n1";

    fn emulator(text: &str) -> Emulator {
        let members = ["n1", "n2"].map(|name| Member::configured(name, "h:1"));
        let rules = emulation::parse(text, &Members::new(members.into())).unwrap();
        let mut emulator = Emulator::off(NodeId::of(ME), 3);
        assert!(emulator.set(Time::START, rules).is_empty());
        emulator
    }

    fn reply(id: u64, bytes: usize) -> DelayedMessage {
        let frame = [&id.to_be_bytes()[..], &vec![0; bytes]].concat();
        DelayedMessage::Reply { client: 1, frame: frame.into() }
    }

    fn arrived(emulator: &mut Emulator, now: Time) -> Vec<u64> {
        let id = |delayed| match delayed {
            DelayedMessage::Reply { frame, .. } => {
                u64::from_be_bytes(frame[..8].try_into().unwrap())
            }
            other => panic!("{other:?}"),
        };
        std::iter::from_fn(|| emulator.arrived(now)).map(id).collect()
    }

    fn count(emulator: &Emulator, counter: Counter) -> u64 {
        emulator.counters().iter().find(|(of, _)| *of == counter).unwrap().1
    }

    #[test]
    fn messages_arrive_in_the_order_of_their_times() {
        let mut emulator = emulator("n1 -> client delay fixed 5ms");
        (0..3).for_each(|id| emulator.post(Time(id), Kind::Other, reply(id, 10)));
        assert_eq!(emulator.next_wake(), Some(Time(5_000)));
        assert_eq!(arrived(&mut emulator, Time(4_999)), [0; 0]);
        assert_eq!(arrived(&mut emulator, Time(5_001)), [0, 1]);
        assert_eq!(arrived(&mut emulator, Time(9_000)), [2]);
        let due = Time::START + REMIND;
        assert_eq!(emulator.next_wake(), Some(due));
        assert!(!emulator.is_to_remind(due - Micros(1)) && emulator.is_to_remind(due));
        assert_eq!(emulator.next_wake(), Some(due + REMIND));
        emulator.post(due, Kind::Other, reply(7, 10));
        assert_eq!(emulator.set(due, Vec::new()).len(), 1, "what was in progress is not lost");
        assert_eq!((emulator.next_wake(), emulator.is_on()), (None, false));
        assert_eq!(count(&emulator, Counter::EmulatedDelayed), 4);
    }

    #[test]
    fn what_waits_is_bounded_in_number_and_bytes() {
        let mut emulator = emulator("n1 -> client delay fixed 600s");
        (0..MAX_WAITING as u64 + 7)
            .for_each(|id| emulator.post(Time::START, Kind::Other, reply(id, 1)));
        assert_eq!(count(&emulator, Counter::EmulatedOverflowed), 7);
        assert_eq!(arrived(&mut emulator, Time::START + 600_000 * MILLI).len(), MAX_WAITING);
        (0..300).for_each(|id| emulator.post(Time::START, Kind::Other, reply(id, (1 << 20) - 8)));
        assert_eq!(count(&emulator, Counter::EmulatedOverflowed), 7 + 44, "256 MiB are the limit");
        assert_eq!(arrived(&mut emulator, Time::START + 600_000 * MILLI).len(), 256);
    }

    #[test]
    fn what_is_cut_or_dropped_is_counted() {
        let mut emulator = emulator("n1 -> client drop 1; client -> n1 cut");
        emulator.post(Time::START, Kind::Other, reply(0, 1));
        let call = Call { id: 1, body: CallBody::Ring };
        emulator.post(
            Time::START,
            Kind::Other,
            DelayedMessage::Call { client: 1, call, memory: None },
        );
        assert!(emulator.arrived(Time::START + REMIND).is_none());
        assert_eq!(
            (count(&emulator, Counter::EmulatedDropped), count(&emulator, Counter::EmulatedCut)),
            (1, 1)
        );
    }
}
