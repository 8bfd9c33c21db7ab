//! An operator's changes of the ring: they are staged at this node, looked at as a plan, and
//! applied as one change.

use pixii_core::members::{Member, Members, MembershipStatus, check_name, check_written};
use pixii_core::message::{
    MAX_STAGED, MAX_ZONE_BYTES, Outcome, PlanOrder, PlanRejection, PlanReport, ReplaceRejection,
    ReplyBody, Share, Staged,
};
use pixii_core::node::{ClientId, Hindrance, Input, RingOrder};
use pixii_core::ring::{Edit, MAX_WEIGHT, Ring, RingError, RingMember, Zone};
use pixii_core::types::{MAX_MEMBERS, NodeId, hash64};
use pixii_transport::limited;

use super::{Engine, Ordered};

/// What staged changes are for the machine, and the ring that begins them.
struct Change {
    edits: Vec<Edit>,
    newcomers: Vec<Member>,
    begun: Ring,
}

impl Engine<'_> {
    /// Carries an order about a plan out. What changes the ring is answered when that has begun.
    pub(super) fn plan(&mut self, client: ClientId, id: u64, order: PlanOrder) {
        let done = match order {
            PlanOrder::Stage(staged) => self.stage(staged),
            PlanOrder::Clear => {
                self.staged.clear();
                Ok(())
            }
            PlanOrder::Show => Ok(()),
            PlanOrder::Apply { digest } => match self.apply(digest) {
                Ok(order) => return self.order_ring(client, id, order),
                Err(why) => Err(why),
            },
            PlanOrder::Cancel => return self.order_ring(client, id, RingOrder::Cancel),
            PlanOrder::Dismiss { name } => {
                return self.order_ring(client, id, RingOrder::Dismiss(NodeId::of(&name)));
            }
        };
        let reported = done.map(|()| self.plan_report());
        self.reply(client, id, ReplyBody::Plan(Box::new(reported)));
    }

    fn order_ring(&mut self, client: ClientId, id: u64, order: RingOrder) {
        if let Err(why) = self.check_free() {
            return self.reply(client, id, ReplyBody::Plan(Box::new(Err(why.into()))));
        }
        let (permit, what) = (self.hub.log.several("plan", ""), describe(&order));
        limited!(permit, warn, [], "by an operator's command {what}");
        let applies = matches!(order, RingOrder::Begin { .. });
        self.ordered = Some(Ordered::Plan { client, id, applies });
        self.input(Input::Ring(order));
    }

    /// The order has been carried out, or cannot be.
    pub(super) fn plan_ordered(
        &mut self,
        client: ClientId,
        id: u64,
        applies: bool,
        why: Option<Hindrance>,
    ) {
        let reported = match why {
            Some(why) => Err(self.plan_hindrance(&why)),
            None => {
                if applies {
                    self.staged.clear();
                }
                Ok(self.plan_report())
            }
        };
        self.reply(client, id, ReplyBody::Plan(Box::new(reported)));
    }

    /// Why the ring is not changed, as the client is answered.
    pub(super) fn plan_hindrance(&self, why: &Hindrance) -> PlanRejection {
        let node = self.config.name.clone();
        match why {
            Hindrance::Ring(why) => impossible(why.clone()),
            Hindrance::NoPlace => PlanRejection::NoPlace { node },
            Hindrance::Protocol(member) => PlanRejection::Protocol { member: self.name(*member) },
            Hindrance::NoCancel(None) => PlanRejection::NoChange,
            Hindrance::NoCancel(Some(step)) => PlanRejection::Step { step: *step },
            Hindrance::NoGuest(guest) => PlanRejection::NoGuest { name: self.name(*guest) },
            Hindrance::Other(..) | Hindrance::Grants { .. } => self.hindrance(why).into(),
        }
    }

    /// What the plan of this digest orders.
    fn apply(&self, digest: u64) -> Result<RingOrder, PlanRejection> {
        if self.staged.is_empty() {
            return Err(PlanRejection::Nothing { node: self.config.name.clone() });
        }
        let change = self.change()?;
        let present = change.digest();
        if digest != present {
            return Err(PlanRejection::Digest { given: digest, present });
        }
        Ok(RingOrder::Begin { edits: change.edits, newcomers: change.newcomers })
    }

    /// What is staged, what it comes to, and the change that the ring is in.
    fn plan_report(&self) -> PlanReport {
        let outcome = (!self.staged.is_empty()).then(|| self.outcome());
        let unconfirmed = self.node.unconfirmed();
        PlanReport {
            staged: self.staged.clone(),
            version: self.ring.version(),
            step: self.ring.step(),
            unconfirmed: unconfirmed.into_iter().map(|member| self.name(member)).collect(),
            outcome,
        }
    }

    fn outcome(&self) -> Result<Outcome, PlanRejection> {
        let change = self.change()?;
        let after = end_of(change.begun.clone());
        let name = |id: NodeId| match change.newcomers.iter().find(|new| new.id() == id) {
            Some(new) => new.name.clone(),
            None => self.name(id),
        };
        let ids = change.begun.members().iter().chain(self.ring.members()).map(|member| member.id);
        let mut ids: Vec<NodeId> = ids.collect();
        ids.sort_unstable();
        ids.dedup();
        let mut members: Vec<Share> =
            ids.into_iter().map(|id| share(name(id), id, &self.ring, &after)).collect();
        members.sort_by(|one, other| one.name.cmp(&other.name));
        let moves = members.iter().map(|member| member.gains).sum::<u32>();
        let own = self.ring.share(self.config.me()).max(1) as u64;
        Ok(Outcome {
            digest: change.digest(),
            version: after.version(),
            partitions: after.partitions(),
            moves,
            bytes: self.storage.gauges().disk_bytes.get() / own * u64::from(moves),
            members,
        })
    }

    /// The ring that begins what is staged, or why there is none.
    fn change(&self) -> Result<Change, PlanRejection> {
        let (mut edits, mut newcomers) = (Vec::new(), Vec::new());
        for staged in &self.staged {
            self.check(staged)?;
            let (edit, newcomer) = self.edit(staged)?;
            edits.push(edit);
            newcomers.extend(newcomer);
        }
        let begun = self.ring.begin(&edits).map_err(impossible)?;
        Ok(Change { edits, newcomers, begun })
    }

    fn edit(&self, staged: &Staged) -> Result<(Edit, Option<Member>), PlanRejection> {
        let zone = |zone: &String| (!zone.is_empty()).then(|| Zone::of(zone));
        Ok(match staged {
            Staged::Join { name, address, weight, zone: given } => {
                let newcomer = Member::configured(name.clone(), address.clone());
                let zone = given.as_ref().and_then(zone);
                let edit = Edit::Join(RingMember { id: newcomer.id(), weight: *weight, zone });
                (edit, Some(newcomer))
            }
            Staged::Leave { name } => (Edit::Leave(NodeId::of(name)), None),
            Staged::Remove { name } => (Edit::Remove(NodeId::of(name)), None),
            Staged::Set { name, weight, zone: given } => {
                let known = self.placed(name)?;
                let weight = weight.unwrap_or(known.weight);
                let zone = given.as_ref().map_or(known.zone, zone);
                (Edit::Set(RingMember { weight, zone, ..known }), None)
            }
            Staged::Replace { old, new, address } => {
                let newcomer = Member::configured(new.clone(), address.clone());
                (Edit::Replace { old: NodeId::of(old), new: newcomer.id() }, Some(newcomer))
            }
        })
    }

    /// Stages a change, in place of what was staged for the same nodes.
    fn stage(&mut self, staged: Staged) -> Result<(), PlanRejection> {
        self.check(&staged)?;
        let mut kept = self.staged.clone();
        kept.retain(|other| !other.names().iter().any(|name| staged.names().contains(name)));
        if kept.len() >= MAX_STAGED {
            return Err(PlanRejection::Staged);
        }
        let address = |staged: &Staged| match staged {
            Staged::Join { name, address, .. } | Staged::Replace { new: name, address, .. } => {
                Some((name.clone(), address.clone()))
            }
            _ => None,
        };
        if let Some((_, own)) = address(&staged)
            && let Some((member, address)) =
                kept.iter().filter_map(address).find(|(_, other)| *other == own)
        {
            return Err(ReplaceRejection::AddressTaken { member, address }.into());
        }
        self.staged = kept;
        self.staged.push(staged);
        Ok(())
    }

    /// Checks a change by itself.
    fn check(&self, staged: &Staged) -> Result<(), PlanRejection> {
        match staged {
            Staged::Join { name, address, weight, zone } => {
                check_weight(Some(*weight))?;
                check_zone(zone.as_ref())?;
                Ok(check_newcomer(self.node.members(), &self.ring, (name, address), None)?)
            }
            Staged::Leave { name } => self.placed(name).map(drop),
            Staged::Remove { name } => self.check_gone(name),
            Staged::Set { name, weight, zone } => {
                check_weight(*weight)?;
                check_zone(zone.as_ref())?;
                self.placed(name).map(drop)
            }
            Staged::Replace { old, new, address } => {
                self.check_gone(old)?;
                let members = self.node.members();
                Ok(check_newcomer(members, &self.ring, (new, address), Some(old))?)
            }
        }
    }

    /// The place of a member in the ring.
    fn placed(&self, name: &str) -> Result<RingMember, PlanRejection> {
        let id = NodeId::of(name);
        if let Some(member) = self.ring.members().iter().find(|member| member.id == id) {
            return Ok(*member);
        }
        let name = name.to_owned();
        match self.node.members().get(id) {
            Some(member) if member.membership == MembershipStatus::Removed => {
                Err(ReplaceRejection::NoPlaces { old: name }.into())
            }
            Some(_) => Err(PlanRejection::Guest { name }),
            None => Err(self.no_member(&name).into()),
        }
    }

    /// Checks that a member is gone: it is down, and most of the others are in reach.
    fn check_gone(&self, name: &str) -> Result<(), PlanRejection> {
        let RingMember { id, .. } = self.placed(name)?;
        if id == self.config.me() {
            return Err(ReplaceRejection::Itself { old: name.to_owned() }.into());
        }
        match self.node.members().get(id) {
            Some(gone) => Ok(self.check_reach(gone)?),
            None => Err(self.no_member(name).into()),
        }
    }
}

/// Checks that a node may become a member, in place of `old` if it is a replacement.
pub(super) fn check_newcomer(
    members: &Members,
    ring: &Ring,
    (new, address): (&str, &str),
    old: Option<&str>,
) -> Result<(), ReplaceRejection> {
    let (new, address) = (new.to_owned(), address.to_owned());
    if check_name("", &new).is_err() {
        return Err(ReplaceRejection::Name { name: new });
    }
    if check_written("", &address).is_err() {
        return Err(ReplaceRejection::Address { address });
    }
    let known = members.get(NodeId::of(&new));
    match known.map(|known| known.membership) {
        Some(MembershipStatus::Removed) => return Err(ReplaceRejection::Removed { new }),
        // A join that was cancelled may begin anew.
        Some(MembershipStatus::Joining) if !ring.has(NodeId::of(&new)) => {}
        Some(_) => return Err(ReplaceRejection::Member { new }),
        None => {}
    }
    let here = |member: &&Member| {
        member.address == address
            && member.membership != MembershipStatus::Removed
            && Some(&*member.name) != old
            && member.name != new
    };
    if let Some(other) = members.iter().find(here) {
        let member = other.name.clone();
        return Err(ReplaceRejection::AddressTaken { member, address });
    }
    if known.is_none() && members.iter().count() >= MAX_MEMBERS {
        return Err(ReplaceRejection::Full);
    }
    Ok(())
}

impl Change {
    /// Names the change: its ring, and where its newcomers are.
    fn digest(&self) -> u64 {
        let ring = self.begun.digest().to_be_bytes();
        let mut newcomers: Vec<String> =
            self.newcomers.iter().map(|new| format!("{}@{}", new.name, new.address)).collect();
        newcomers.sort_unstable();
        let newcomers = newcomers.join(" ");
        hash64(&[b"plan", &ring, newcomers.as_bytes()])
    }
}

/// The ring that a change ends with.
pub(super) fn end_of(mut ring: Ring) -> Ring {
    while let Some(next) = ring.forward() {
        ring = next;
    }
    ring
}

fn share(name: String, id: NodeId, before: &Ring, after: &Ring) -> Share {
    let partitions = || (0..after.partitions()).map(pixii_core::types::Partition);
    let owns = |ring: &Ring, partition| ring.owners(partition).contains(&id);
    let count = |has: &Ring, lacks: &Ring| {
        partitions().filter(|of| owns(has, *of) && !owns(lacks, *of)).count() as u32
    };
    Share {
        name,
        before: before.share(id) as u32,
        after: after.share(id) as u32,
        gains: count(after, before),
        loses: count(before, after),
    }
}

fn check_weight(weight: Option<u16>) -> Result<(), PlanRejection> {
    match weight {
        Some(weight) if !(1..=MAX_WEIGHT).contains(&weight) => {
            Err(PlanRejection::Weight { weight })
        }
        _ => Ok(()),
    }
}

fn check_zone(zone: Option<&String>) -> Result<(), PlanRejection> {
    match zone {
        Some(zone) if zone.len() > MAX_ZONE_BYTES => {
            Err(PlanRejection::Zone { bytes: zone.len() as u64 })
        }
        _ => Ok(()),
    }
}

/// Why there is no such ring, as the client is answered.
fn impossible(why: RingError) -> PlanRejection {
    match why {
        RingError::TooFewMembers { n, members } => {
            PlanRejection::TooFewMembers { members: members as u64, n }
        }
        RingError::Unchanged => PlanRejection::Unchanged,
        RingError::Changing(version) => PlanRejection::Changing { version },
        RingError::Weight(weight) => PlanRejection::Weight { weight },
        RingError::TooManyMembers(_) => ReplaceRejection::Full.into(),
        other => ReplaceRejection::from(other).into(),
    }
}

fn describe(order: &RingOrder) -> String {
    match order {
        RingOrder::Begin { edits, .. } => format!("the ring changes: {} staged", edits.len()),
        RingOrder::Cancel => "the change of the ring is cancelled".to_owned(),
        RingOrder::Dismiss(guest) => format!("{guest:?}, which has no place, is removed"),
    }
}
