//! Messages between hosts and clients, and their way through the network.

use bytes::{Bytes, BytesMut};
use pixii_core::emulation::Verdict;
use pixii_core::message::{Body, Call, CallBody, Kind, PeerMessage, Request};
use pixii_core::node::Input;
use pixii_core::types::{Micros, NodeId, Partition, hash64};
use pixii_core::wire;

use super::{Event, World};
use crate::scenario::LONGEST_STALL;

impl World {
    pub(super) fn send(&mut self, from: usize, to: &[NodeId], message: &PeerMessage) {
        let frame = wire::frame(message);
        for id in to {
            let Some(to) = self.hosts.iter().position(|host| host.id == *id) else { continue };
            let incarnation = self.hosts[to].incarnation;
            let make = move |sent, frame| Event::Peer { from, to, incarnation, sent, frame };
            self.carry((self.hosts[from].id, *id), message.body.kind(), frame.clone(), make);
        }
    }

    pub(super) fn carry(
        &mut self,
        (from, to): (NodeId, NodeId),
        kind: Kind,
        frame: Bytes,
        make: impl Fn(u64, Bytes) -> Event,
    ) {
        match self.net.verdict(self.now(), from, to, kind) {
            Verdict::Drop => self.count("messages dropped"),
            Verdict::Cut => self.count("messages cut"),
            Verdict::Deliver(delays) => {
                if delays.len() > 1 {
                    self.count("messages duplicated");
                }
                let sent = self.time.scheduled();
                for delay in delays {
                    let delay = delay + self.lateness(kind);
                    self.schedule(self.now() + delay, make(sent, frame.clone()));
                }
            }
        }
    }

    /// By how much a message is delayed beyond the delay of the network, because its connection
    /// stalls: some writes are.
    pub(super) fn lateness(&mut self, kind: Kind) -> Micros {
        if !self.plan.stalls || kind != Kind::Write || !self.rng.chance(0.05) {
            return Micros::ZERO;
        }
        self.count("writes that arrive late");
        self.rng.within(LONGEST_STALL)
    }

    pub(super) fn open<T>(&mut self, frame: &Bytes) -> Option<T>
    where
        T: for<'de> bincode::BorrowDecode<'de, Bytes>,
    {
        self.digest =
            hash64(&[&self.digest.to_be_bytes(), &self.now().0.to_be_bytes(), &frame[..12]]);
        let mut bytes = BytesMut::from(&frame[..]);
        let payload = wire::take_frame(&mut bytes, wire::MAX_FRAME_BYTES).ok()??;
        wire::decode(&payload).ok()
    }

    pub(super) fn deliver(&mut self, from: usize, to: usize, sent: u64, frame: &Bytes) {
        let newest = self.newest.entry((from, to)).or_default();
        if sent < *newest {
            self.count("messages overtaken");
        } else {
            *newest = sent;
        }
        let Some(message) = self.open::<PeerMessage>(frame) else {
            unreachable!("a node's own words are read back")
        };
        if let Some(key) = self.watched.clone()
            && format!("{message:?}").contains(&format!("{key:?}"))
        {
            self.report(&key, || format!("n{from} -> n{to}: {message:?}"));
        }
        if let Body::Merge { object, .. }
        | Body::StoreHint { object, .. }
        | Body::Copy { object, .. } = &message.body
        {
            self.judge.report_object(to, object);
        }
        if let Body::Records { records, .. } = &message.body {
            records.iter().for_each(|(_, object)| self.judge.report_object(to, object));
        }
        let purgeable = match &message.body {
            Body::Propose { purgeable, .. } => purgeable,
            Body::GcState { gc_epoch, .. } => &gc_epoch.purgeable,
            _ => &Vec::new(),
        };
        purgeable.iter().for_each(|key| self.judge.report_dead(to, &key.dead));
        let from = self.hosts[from].id;
        self.input(to, Input::Peer { from, message });
    }

    pub(super) fn take_call(&mut self, client: usize, to: usize, frame: &Bytes) {
        let Some(Call { id, body: CallBody::Data { request, timeout_ms } }) = self.open(frame)
        else {
            unreachable!("a client's own words are read back")
        };
        if self.hosts[to].node.is_some()
            && !self.ring.owners(self.partition(&request)).contains(&self.hosts[to].id)
        {
            self.count("requests forwarded");
        }
        self.input(to, Input::Client { client: client as u64, id, request, timeout_ms });
    }

    pub(super) fn partition(&self, request: &Request) -> Partition {
        match request {
            Request::Get { key, .. }
            | Request::Put { key, .. }
            | Request::PutAgain { key, .. }
            | Request::Decide { key, .. }
            | Request::Delete { key, .. } => self.ring.partition(key),
            Request::Keys { partition, .. } => *partition,
        }
    }
}
