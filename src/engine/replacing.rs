//! The operator's command that gives a dead member's places to a new one.

use pixii_core::members::{Member, Opinion, Standing, check_name};
use pixii_core::message::{Replacement, ReplyBody};
use pixii_core::node::{ClientId, Hindrance, Input, RingChange};
use pixii_core::ring::RingMember;
use pixii_core::types::{MAX_MEMBERS, NodeId};
use pixii_transport::limited;

use super::Engine;
use super::ending::{Ending, FINISH_BEFORE_NEXT};
use crate::config::check_written;

/// The first version of the protocol in which members agree to a change of the ring.
const GRANTS_SINCE: u16 = 6;

impl Engine<'_> {
    /// Answers what the replacement of a member comes to; with `apply`, when it is durable here.
    pub(super) fn replace(
        &mut self,
        client: ClientId,
        id: u64,
        (old, new, address): (&str, &str, String),
        apply: bool,
    ) {
        let plan = self.plan(old, new, &address);
        let (old, plan) = match plan {
            Ok((old, plan)) if apply => (old, plan),
            told => {
                let told = told.map(|(_, plan)| plan);
                return self.reply(client, id, ReplyBody::Replace(told));
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

    /// What would happen, or in one sentence why it does not.
    fn plan(&self, old: &str, new: &str, address: &str) -> Result<(NodeId, Replacement), String> {
        check_name("the new member", new)?;
        check_written("the new member's address", address)?;
        let me = &self.config.name;
        let changes = self.replacing.is_some() || self.node.is_changing_ring();
        if changes || self.finish_by.is_some() {
            return Err(format!("node {me} changes its ring just now: try again"));
        }
        if let Some(change) = self.node.ring_change() {
            return Err(self.hindrance(&Hindrance::Other(Some(change), change.by)));
        }
        if !self.node.is_settled() {
            return Err(format!("node {me} does not serve yet, and changes no ring"));
        }
        let members = self.node.members();
        let Some(gone) = members.iter().find(|member| member.name == old) else {
            let present = members.iter().filter(|member| self.ring.has(member.id()));
            let names: Vec<&str> = present.map(|member| &*member.name).collect();
            let old = old.escape_debug();
            return Err(format!(
                "no member is called \"{old}\"; the members are {}",
                names.join(", ")
            ));
        };
        if !self.ring.has(gone.id()) {
            return Err(format!("{old} was removed, and has no places to give"));
        }
        if old == me {
            return Err(format!("{old} is the node that was asked: ask another one"));
        }
        if let Some(known) = members.get(NodeId::of(new)) {
            return Err(match known.standing {
                Standing::Removed => format!("{new} was removed: such a name does not return"),
                _ => format!("{new} is a member already"),
            });
        }
        let here = |member: &&Member| {
            member.address == address && member.standing != Standing::Removed && member.name != old
        };
        if let Some(other) = members.iter().find(here) {
            return Err(format!("{} is at {address} already", other.name));
        }
        if members.iter().count() >= MAX_MEMBERS {
            return Err(format!(
                "the list of members, removed ones included, is full: {MAX_MEMBERS}"
            ));
        }
        self.check_reach(gone)?;
        let ring = self.ring.replace(gone.id(), NodeId::of(new)).map_err(|why| why.to_string())?;
        let plan = Replacement {
            old_address: gone.address.clone(),
            version: ring.version(),
            places: ring.moves_from(&self.ring) as u32,
            partitions: ring.partitions(),
            hints: self.node.peer_view(self.now(), gone.id()).hints.count,
        };
        Ok((gone.id(), plan))
    }

    /// The one that goes must be down, and most members in reach: of two halves of a cluster at most one changes its ring.
    fn check_reach(&self, gone: &Member) -> Result<(), String> {
        let now = self.now();
        let open = |id: &NodeId| self.hub.peers.get(id).is_some_and(|peer| peer.outbox.is_open());
        let old = &gone.name;
        if open(&gone.id()) {
            return Err(format!("{old} answers: stop it first with `pixii node stop {old}`"));
        }
        let known = self.hub.peers.contains_key(&gone.id());
        if known && self.node.peer_view(now, gone.id()).opinion != Opinion::Down {
            let timeout = self.config.gossip_timeout_ms;
            return Err(format!(
                "{old} is not believed to be down yet: it takes {timeout} ms of silence"
            ));
        }
        let all = self.ring.members().len();
        let near = self.ring.members().iter().filter(|m| m.id == self.config.me() || open(&m.id));
        let near = near.count();
        if 2 * near <= all {
            return Err(format!(
                "{near} of {all} members can be reached: a ring changes only with more than half of them"
            ));
        }
        let votes = |m: &&RingMember| {
            let peer = self.hub.peers.get(&m.id).and_then(|peer| peer.protocol());
            m.id == self.config.me() || peer.is_some_and(|spoken| spoken >= GRANTS_SINCE)
        };
        let able = self.ring.members().iter().filter(votes).count();
        if 2 * able <= all {
            return Err(format!(
                "{able} of {all} members run a program that can agree to a change of the ring, and \
                 it takes more than half of them: finish the upgrade first"
            ));
        }
        Ok(())
    }

    /// The replacement that was ordered is not made: who gave the order is told why.
    pub(super) fn not_replaced(&mut self, why: &Hindrance) {
        let why = self.hindrance(why);
        let (permit, name) = (self.hub.log.once("not_replaced", "", &why), &self.config.name);
        limited!(permit, warn, [], "node {name} replaces nobody: {why}");
        if let Some((client, id, _)) = self.replacing.take() {
            self.reply(client, id, ReplyBody::Replace(Err(why)));
        }
    }

    /// What stands in the way of a replacement, in one sentence.
    fn hindrance(&self, why: &Hindrance) -> String {
        match why {
            Hindrance::Other(None, by) => {
                format!(
                    "another replacement is under way, ordered at {}: try again",
                    self.name(*by)
                )
            }
            Hindrance::Other(Some(RingChange { old, new, .. }), by) => {
                let new = self.node.members().get(*new).map_or("a new member", |new| &new.name);
                format!(
                    "another replacement is under way: {} by {new}, ordered at {}; try again",
                    self.name(*old),
                    self.name(*by)
                )
            }
            Hindrance::Grants { granted, members } => format!(
                "{granted} of {members} members agreed to it in time, and it takes more than half of \
                 them: nothing was changed"
            ),
            Hindrance::Ring(why) => why.to_string(),
        }
    }

    /// A later ring is durable: this life ends.
    pub(super) fn relive(&mut self) {
        if self.finish_by.is_none() {
            self.ending = Ending::Relive;
        }
        if let Some((client, id, plan)) = self.replacing.take() {
            self.reply(client, id, ReplyBody::Replace(Ok(plan)));
        }
        self.begin_end(FINISH_BEFORE_NEXT);
    }
}
