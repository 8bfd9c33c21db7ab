//! The operator's command that gives a dead member's places to a new one.

use pixii_core::members::{Liveness, Member};
use pixii_core::message::{ReplaceRejection, Replacement, ReplyBody};
use pixii_core::node::{ClientId, Hindrance, Input, RingOrder};
use pixii_core::ring::{Edit, RingId};
use pixii_core::types::NodeId;
use pixii_transport::limited;

use super::planning::{check_newcomer, end_of};
use super::{Engine, Ordered};

impl Engine<'_> {
    /// Answers what the replacement of a member would change; with `apply`, answers when it is
    /// durable here.
    pub(super) fn replace(
        &mut self,
        client: ClientId,
        id: u64,
        old: &str,
        new: &str,
        address: String,
        apply: bool,
    ) {
        let plan = self.replacement(old, new, &address);
        let (old, plan) = match plan {
            Ok((old, plan)) if apply => (old, plan),
            reported => {
                let reported = reported.map(|(_, plan)| plan);
                return self.reply(client, id, ReplyBody::Replace(reported));
            }
        };
        let (permit, old_name) = (self.hub.log.several("replace", ""), self.name(old));
        limited!(
            permit,
            warn,
            [],
            "by an operator's command {new} at {address} takes the places of {old_name}"
        );
        self.ordered = Some(Ordered::Replace { client, id, plan });
        let newcomer = Member::configured(new, address);
        let edits = vec![Edit::Replace { old, new: newcomer.id() }];
        self.input(Input::Ring(RingOrder::Begin { edits, newcomers: vec![newcomer] }));
    }

    pub(super) fn name(&self, id: NodeId) -> String {
        self.node.members().name(id)
    }

    /// What would happen, or why it cannot.
    fn replacement(
        &self,
        old: &str,
        new: &str,
        address: &str,
    ) -> Result<(NodeId, Replacement), ReplaceRejection> {
        let (old, new) = (old.to_owned(), new.to_owned());
        check_newcomer(self.node.members(), &self.ring, (&new, address), Some(&old))?;
        self.check_free()?;
        let Some(gone) = self.node.members().get(NodeId::of(&old)) else {
            return Err(self.no_member(&old));
        };
        if !self.ring.has(gone.id()) {
            return Err(ReplaceRejection::NoPlaces { old });
        }
        if old == self.config.name {
            return Err(ReplaceRejection::Itself { old });
        }
        self.check_reach(gone)?;
        let edits = [Edit::Replace { old: gone.id(), new: NodeId::of(&new) }];
        let ring = end_of(self.ring.begin(&edits)?);
        let plan = Replacement {
            old_address: gone.address.clone(),
            version: ring.version(),
            places: ring.moves_from(&self.ring) as u32,
            partitions: ring.partitions(),
            hints: self.node.peer_view(self.now(), gone.id()).hints.count,
        };
        Ok((gone.id(), plan))
    }

    /// Checks that nothing keeps this node from changing the ring just now.
    pub(super) fn check_free(&self) -> Result<(), ReplaceRejection> {
        let node = self.config.name.clone();
        let changes = self.ordered.is_some() || self.node.is_changing_ring();
        if changes || self.finish_by.is_some() {
            return Err(ReplaceRejection::Changing { node });
        }
        if let Some(change) = self.node.ring_change() {
            return Err(self.hindrance(&Hindrance::Other(Some(change), change.by)));
        }
        if !self.node.is_settled() {
            return Err(ReplaceRejection::Starting { node });
        }
        Ok(())
    }

    /// No member is called this.
    pub(super) fn no_member(&self, old: &str) -> ReplaceRejection {
        let members = self.node.members().iter();
        let present = members.filter(|member| self.ring.has(member.id()));
        let members = present.map(|member| member.name.clone()).collect();
        ReplaceRejection::NoMember { old: old.to_owned(), members }
    }

    /// Checks that the member to be removed is down and most members are in reach: of two halves of
    /// a cluster, at most one changes its ring.
    pub(super) fn check_reach(&self, gone: &Member) -> Result<(), ReplaceRejection> {
        let now = self.now();
        let peers = self.hub.peers();
        let open = |id: &NodeId| peers.get(id).is_some_and(|peer| peer.outbox.is_open());
        let old = gone.name.clone();
        if open(&gone.id()) {
            return Err(ReplaceRejection::Answers { old });
        }
        let known = peers.contains_key(&gone.id());
        if known && self.node.peer_view(now, gone.id()).liveness != Liveness::Down {
            let timeout_ms = self.config.gossip_timeout_ms;
            return Err(ReplaceRejection::NotDown { old, timeout_ms });
        }
        let all = self.ring.members().len();
        let near = self.ring.members().iter().filter(|m| m.id == self.config.me() || open(&m.id));
        let near = near.count();
        if 2 * near < all {
            return Err(ReplaceRejection::Reach { near: near as u64, all: all as u64 });
        }
        Ok(())
    }

    /// The order to change the ring has been carried out, or cannot be: the client that gave it is
    /// answered.
    pub(super) fn ring_ordered(&mut self, done: Result<RingId, Hindrance>) {
        match self.ordered.take() {
            Some(Ordered::Replace { client, id, plan }) => {
                let done = done.map(|_| plan).map_err(|why| {
                    let why = self.hindrance(&why);
                    let permit = self.hub.log.once("not_replaced", "", &why.to_string());
                    let name = &self.config.name;
                    limited!(permit, warn, [], "node {name} replaces nobody: {why}");
                    why
                });
                self.reply(client, id, ReplyBody::Replace(done));
            }
            Some(Ordered::Plan { client, id, applies }) => {
                self.plan_ordered(client, id, applies, done.err());
            }
            None => {}
        }
    }

    /// Why a replacement cannot be made, as the client is answered.
    pub(super) fn hindrance(&self, why: &Hindrance) -> ReplaceRejection {
        match why {
            Hindrance::Other(_, by) => ReplaceRejection::AnotherUnknown { at: self.name(*by) },
            Hindrance::Grants { granted, members, .. } => {
                ReplaceRejection::Grants { granted: *granted as u64, members: *members as u64 }
            }
            Hindrance::Ring(why) => why.clone().into(),
            // What only other orders meet.
            other => ReplaceRejection::Text(self.plan_hindrance(other).to_string()),
        }
    }
}
