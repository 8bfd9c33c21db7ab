//! Who still waits for a write that is to be decided: it is void once nobody does.

use super::operation::Operation;
use super::{Coordinator, Origin};
use crate::message::{Body, Rejection, Response};
use crate::node::ClientId;
use crate::node::ids::RequestId;
use crate::node::io::Io;
use crate::types::{NodeId, Time};

impl Coordinator {
    /// Voids the writes of these requests that are to be decided and have not been: nobody waits
    /// for them any more.
    pub(super) fn void(&mut self, which: impl Fn(&Origin) -> bool, io: &mut Io) {
        let voided = self
            .operations
            .iter()
            .filter(|(_, operation)| operation.is_to_decide() && which(&operation.common().origin));
        let voided: Vec<RequestId> = voided.map(|(request_id, _)| *request_id).collect();
        for request_id in voided {
            let Some(operation) = self.operations.get(&request_id) else { continue };
            let response = match operation {
                Operation::Forward(forward) => {
                    forward.abandon(io);
                    forward.unknown()
                }
                Operation::Write(write) => {
                    write.withdraw(&self.env, io);
                    Response::Refused(Rejection::GivenUp)
                }
                _ => Response::Refused(Rejection::GivenUp),
            };
            self.finish(request_id, response, io);
        }
    }

    /// A client waits no more for a call (`None`: its connection has ended).
    pub(in crate::node) fn give_up(&mut self, client: ClientId, call: Option<u64>, io: &mut Io) {
        let its = |origin: &Origin| match origin {
            Origin::Client { client: of, id } => {
                *of == client && call.is_none_or(|call| call == *id)
            }
            Origin::Peer { .. } => false,
        };
        self.void(its, io);
    }

    /// This process did not run for a while, and whoever waits for a write may wait no more.
    pub(in crate::node) fn give_up_all(&mut self, io: &mut Io) {
        self.void(|_| true, io);
    }

    /// The node that forwarded a request here waits no more for it. Should the request come only
    /// now, it is not carried out either.
    pub(in crate::node) fn abandon(&mut self, from: NodeId, request_id: RequestId, io: &mut Io) {
        let origin = Origin::Peer { node: from, request_id };
        self.is_first(origin);
        self.void(|of| *of == origin, io);
    }

    /// An issuer asks whether a client of this node waits for a write that was forwarded to it.
    pub(in crate::node) fn confirm(
        &mut self,
        from: NodeId,
        request_id: RequestId,
        wanted: RequestId,
        io: &mut Io,
    ) {
        self.env.view.note_heard(from);
        if let Some(Operation::Forward(forward)) = self.operations.get_mut(&wanted)
            && forward.decides()
            && !forward.common.answered
            && forward.common.is_open(from)
        {
            forward.is_confirmed = true;
            io.out.send_to(from, request_id, Body::Wanted);
        }
    }

    /// The node that forwarded a write confirms that its client waits for it.
    pub(in crate::node) fn confirmed(
        &mut self,
        now: Time,
        request_id: RequestId,
        from: NodeId,
        io: &mut Io,
    ) {
        if let Some(Operation::Survey(survey)) = self.operations.get_mut(&request_id)
            && let Some(unconfirmed) = survey.unconfirmed.filter(|it| it.node == from)
        {
            survey.unconfirmed = None;
            self.env.timers.remove(&(unconfirmed.ask_at, request_id));
            self.advance(now, request_id, io);
        }
    }
}
