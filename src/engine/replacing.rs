//! The operator's command that gives a dead member's places to a new one.

use pixii_core::members::{Liveness, Member, MembershipStatus, check_name, check_written};
use pixii_core::message::{ReplaceRejection, Replacement, ReplyBody};
use pixii_core::node::{ClientId, Hindrance, Input, RingChange};
use pixii_core::types::{MAX_MEMBERS, NodeId};
use pixii_transport::limited;

use super::Engine;
use super::ending::{Ending, FINISH_BEFORE_NEXT};

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
        let plan = self.plan(old, new, &address);
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
        self.replacing = Some((client, id, plan));
        self.input(Input::Replace { old, new: Member::configured(new, address) });
    }

    pub(super) fn name(&self, id: NodeId) -> String {
        self.node.members().name(id)
    }

    /// What would happen, or why it cannot.
    fn plan(
        &self,
        old: &str,
        new: &str,
        address: &str,
    ) -> Result<(NodeId, Replacement), ReplaceRejection> {
        let (old, new, address) = (old.to_owned(), new.to_owned(), address.to_owned());
        if check_name("", &new).is_err() {
            return Err(ReplaceRejection::Name { name: new });
        }
        if check_written("", &address).is_err() {
            return Err(ReplaceRejection::Address { address });
        }
        let node = self.config.name.clone();
        let changes = self.replacing.is_some() || self.node.is_changing_ring();
        if changes || self.finish_by.is_some() {
            return Err(ReplaceRejection::Changing { node });
        }
        if let Some(change) = self.node.ring_change() {
            return Err(self.hindrance(&Hindrance::Other(Some(change), change.by)));
        }
        if !self.node.is_settled() {
            return Err(ReplaceRejection::Starting { node });
        }
        let members = self.node.members();
        let Some(gone) = members.iter().find(|member| member.name == old) else {
            let present = members.iter().filter(|member| self.ring.has(member.id()));
            let members = present.map(|member| member.name.clone()).collect();
            return Err(ReplaceRejection::NoMember { old, members });
        };
        if !self.ring.has(gone.id()) {
            return Err(ReplaceRejection::NoPlaces { old });
        }
        if old == node {
            return Err(ReplaceRejection::Itself { old });
        }
        if let Some(known) = members.get(NodeId::of(&new)) {
            return Err(match known.membership {
                MembershipStatus::Removed => ReplaceRejection::Removed { new },
                _ => ReplaceRejection::Member { new },
            });
        }
        let here = |member: &&Member| {
            member.address == address
                && member.membership != MembershipStatus::Removed
                && member.name != old
        };
        if let Some(other) = members.iter().find(here) {
            let member = other.name.clone();
            return Err(ReplaceRejection::AddressTaken { member, address });
        }
        if members.iter().count() >= MAX_MEMBERS {
            return Err(ReplaceRejection::Full);
        }
        self.check_reach(gone)?;
        let ring = self.ring.replace(gone.id(), NodeId::of(&new))?;
        let plan = Replacement {
            old_address: gone.address.clone(),
            version: ring.version(),
            places: ring.moves_from(&self.ring) as u32,
            partitions: ring.partitions(),
            hints: self.node.peer_view(self.now(), gone.id()).hints.count,
        };
        Ok((gone.id(), plan))
    }

    /// Checks that the member to be removed is down and most members are in reach: of two halves of
    /// a cluster, at most one changes its ring.
    fn check_reach(&self, gone: &Member) -> Result<(), ReplaceRejection> {
        let now = self.now();
        let open = |id: &NodeId| self.hub.peers.get(id).is_some_and(|peer| peer.outbox.is_open());
        let old = gone.name.clone();
        if open(&gone.id()) {
            return Err(ReplaceRejection::Answers { old });
        }
        let known = self.hub.peers.contains_key(&gone.id());
        if known && self.node.peer_view(now, gone.id()).liveness != Liveness::Down {
            let timeout_ms = self.config.gossip_timeout_ms;
            return Err(ReplaceRejection::NotDown { old, timeout_ms });
        }
        let all = self.ring.members().len();
        let near = self.ring.members().iter().filter(|m| m.id == self.config.me() || open(&m.id));
        let near = near.count();
        if 2 * near <= all {
            return Err(ReplaceRejection::Reach { near: near as u64, all: all as u64 });
        }
        Ok(())
    }

    /// The ordered replacement cannot be made: the client that ordered it gets the reason.
    pub(super) fn not_replaced(&mut self, why: &Hindrance) {
        let why = self.hindrance(why);
        let (permit, name) =
            (self.hub.log.once("not_replaced", "", &why.to_string()), &self.config.name);
        limited!(permit, warn, [], "node {name} replaces nobody: {why}");
        if let Some((client, id, _)) = self.replacing.take() {
            self.reply(client, id, ReplyBody::Replace(Err(why)));
        }
    }

    /// Why a replacement cannot be made, as the client is answered.
    fn hindrance(&self, why: &Hindrance) -> ReplaceRejection {
        match why {
            Hindrance::Other(None, by) => ReplaceRejection::AnotherUnknown { at: self.name(*by) },
            Hindrance::Other(Some(RingChange { old, new, .. }), by) => {
                let new = self.node.members().get(*new).map(|new| new.name.clone());
                ReplaceRejection::Another { old: self.name(*old), new, at: self.name(*by) }
            }
            Hindrance::Grants { granted, members } => {
                ReplaceRejection::Grants { granted: *granted as u64, members: *members as u64 }
            }
            Hindrance::Ring(why) => why.clone().into(),
        }
    }

    /// A later ring is durable: this incarnation ends.
    pub(super) fn begin_incarnation(&mut self) {
        if self.finish_by.is_none() {
            self.ending = Ending::BeginIncarnation;
        }
        if let Some((client, id, plan)) = self.replacing.take() {
            self.reply(client, id, ReplyBody::Replace(Ok(plan)));
        }
        self.begin_end(FINISH_BEFORE_NEXT);
    }
}
