//! Clients' calls: from the frame that brings one to the frame that answers it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use pixii_core::message::{
    self, Call, CallBody, LossRejection, Rejection, Reply, ReplyBody, Resource, Response,
    SampleReport,
};
use pixii_core::node::{ClientId, Input};
use pixii_core::wire::Speech;
use pixii_transport::frames::{FrameMemory, LARGE_REPLY_BYTES, Outbox};
use pixii_transport::limited;

use super::Engine;
use super::emulated::DelayedMessage;
use crate::metrics::{Kind, kind};

/// Most calls in progress on one client's connection.
pub const MAX_CALLS: usize = 1_024;
/// Most calls in progress for all clients, those that have gone included.
const MAX_ALL_CALLS: usize = 16_384;
/// Bytes of the memory for replies that large replies leave to small ones.
const RESERVE_BYTES: usize = 8 << 20;

/// One connection of a client, from the handshake until it has ended.
pub(super) struct Client {
    /// The protocol version and the checksum that both sides use.
    pub(super) speech: Speech,
    pub(super) outbox: Arc<Outbox>,
    pub(super) in_flight: HashSet<u64>,
    /// Calls that were received and are not answered yet, including those that an emulated network
    /// delays.
    pub(super) pending: u64,
    /// True when the client makes no more calls: the connection ends with the last reply.
    pub(super) is_silent: bool,
}

impl Client {
    pub(super) fn finish_if_answered(&self) {
        if self.is_silent && self.pending == 0 {
            self.outbox.finish();
        }
    }
}

/// A request that the node works on.
pub(super) struct InFlight {
    /// Memory of its frame, charged to the budget for large frames until this is dropped.
    _memory: FrameMemory,
    kind: Kind,
    since: Instant,
}

impl Engine<'_> {
    pub(super) fn call(&mut self, client: ClientId, call: Call, memory: FrameMemory) {
        let Call { id, body } = call;
        let Some(caller) = self.clients.get_mut(&client) else { return };
        if !caller.in_flight.insert(id) {
            let permit = self.hub.log.several("call_repeated", "");
            limited!(
                permit,
                warn,
                [],
                "closed the connection of a client: call {id} is in progress and was made again"
            );
            return caller.outbox.shut();
        }
        let full = [
            (Resource::ConnectionCalls, caller.in_flight.len(), MAX_CALLS),
            (Resource::NodeCalls, self.requests.len() + 1, MAX_ALL_CALLS),
        ];
        if let CallBody::Data { request, .. } = &body {
            let in_flight =
                InFlight { _memory: memory, kind: kind(request), since: Instant::now() };
            self.requests.insert((client, id), in_flight);
        }
        if let Some((what, _, limit)) = full.into_iter().find(|(_, count, limit)| count > limit) {
            self.busy += 1;
            return self.reply(client, id, busy(what, limit));
        }
        match body {
            CallBody::Data { request, timeout_ms } => {
                self.input(Input::Client { client, id, request, timeout_ms });
            }
            CallBody::Ring => self.reply(client, id, ReplyBody::Ring(self.ring())),
            CallBody::Status => self.reply(client, id, ReplyBody::Status(self.status().into())),
            CallBody::Links => self.reply(client, id, ReplyBody::Links(self.hub.links())),
            CallBody::AcceptLoss => self.accept_loss(client, id),
            CallBody::GiveUp { call } => {
                self.input(Input::GiveUp { client, call: Some(call) });
                self.reply(client, id, ReplyBody::GivenUp);
            }
            CallBody::Emulate(order) => {
                let reported = self.emulate(order);
                self.reply(client, id, ReplyBody::Emulated(reported));
            }
            CallBody::Repair { begin, partition, peer } => {
                let reported = self.repair(begin, partition, peer);
                self.reply(client, id, ReplyBody::Repair(reported));
            }
            CallBody::Samples => {
                let (name, trips) = (self.config.name.clone(), self.node.recent_trips());
                self.reply(client, id, ReplyBody::Samples(SampleReport { name, trips }));
            }
            CallBody::Stop => {
                self.reply(client, id, ReplyBody::Stopping);
                self.stop("a client's request");
            }
            CallBody::Replace { old, new, address, apply } => {
                self.replace(client, id, &old, &new, address, apply);
            }
            CallBody::Plan(order) => self.plan(client, id, order),
            CallBody::Drain(order) => {
                let reported = self.order_drain(order);
                self.reply(client, id, ReplyBody::Drain(reported));
            }
        }
    }

    /// Answers a call; does nothing if the client has gone.
    pub(super) fn reply(&mut self, client: ClientId, id: u64, body: ReplyBody) {
        if let Some(InFlight { kind, since, .. }) = self.requests.remove(&(client, id))
            && let ReplyBody::Data(response) = &body
        {
            self.meter.answered(kind, response, since.elapsed());
        }
        let Some(caller) = self.clients.get_mut(&client) else { return };
        caller.in_flight.remove(&id);
        let emulated = self.emulator.is_on() && matches!(body, ReplyBody::Data(_));
        let wrote = matches!(body, ReplyBody::Data(Response::Written { .. }));
        let kind = match &body {
            ReplyBody::Data(response) => response.kind(),
            _ => message::Kind::Other,
        };
        let speech = caller.speech;
        let mut frame = Reply { id, body }.frame(speech);
        if frame.len() > LARGE_REPLY_BYTES && !caller.outbox.fits(frame.len(), RESERVE_BYTES) {
            self.busy += 1;
            if wrote {
                // It was carried out, so it cannot be refused. With the connection gone, its
                // outcome is unknown to the client.
                return caller.outbox.shut();
            }
            let body = busy(Resource::UnreadReplies, self.hub.budgets.replies.bytes);
            frame = Reply { id, body }.frame(speech);
        }
        if emulated {
            self.emulator.post(self.now(), kind, DelayedMessage::Reply { client, frame });
        } else {
            self.answer(client, frame);
        }
    }

    /// Sends a frame that answers a client's call of this id.
    pub(super) fn answer(&mut self, client: ClientId, frame: Bytes) {
        let Some(caller) = self.clients.get_mut(&client) else { return };
        caller.pending = caller.pending.saturating_sub(1);
        if !caller.outbox.push(frame) {
            caller.outbox.shut();
        }
        caller.finish_if_answered();
    }

    /// Carries out the operator's order to accept that acknowledged writes are lost where no other
    /// node has them.
    pub(super) fn accept_loss(&mut self, client: ClientId, id: u64) {
        if self.node.lost().is_empty() {
            let why = LossRejection::NothingLost { node: self.config.name.clone() };
            return self.reply(client, id, ReplyBody::LossAccepted(Err(why)));
        }
        self.accepting_loss.push((client, id));
        self.input(Input::AcceptLoss);
    }

    /// Answers the clients that wait: the acceptance is durable, for this many partitions.
    pub(super) fn loss_accepted(&mut self, partitions: u32) {
        for (client, id) in std::mem::take(&mut self.accepting_loss) {
            self.reply(client, id, ReplyBody::LossAccepted(Ok(partitions)));
        }
    }
}

fn busy(what: Resource, limit: usize) -> ReplyBody {
    let rejection = Rejection::Busy { what, limit: limit as u32 };
    ReplyBody::Data(Response::Refused(rejection))
}
