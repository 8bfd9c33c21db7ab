//! From a request to what is to be done for it: everything that can be refused before anything is sent.

use super::operation::{Kind, Merged};
use super::{Coordinator, Origin};
use crate::causal::Context;
use crate::message::{Body, Change, Quorum, QuorumName, Refusal, Request, Roll};
use crate::types::{Blob, Key, MAX_VALUE_BYTES, Micros, NodeId, Partition, SizeError};
use crate::wire;

/// So many times N nodes beyond the homes are asked to stand in.
const STAND_INS_PER_REPLICA: usize = 2;

/// A request that has passed all checks.
pub(super) struct Plan {
    /// The home replicas, in order of preference.
    pub(super) homes: Vec<NodeId>,
    /// Who may stand in for them, in order of preference; nobody if only homes count.
    pub(super) stand_ins: Vec<NodeId>,
    pub(super) needed: u8,
    pub(super) strict: bool,
    pub(super) kind: Kind,
    /// What to ask of the own replica, for a write.
    pub(super) update: Option<(Key, Context, Change)>,
}

/// Where a request is carried out.
pub(super) enum Route {
    /// Here, at a home replica or a stand-in.
    Here,
    /// At one of these homes.
    Forward(Vec<NodeId>),
}

impl Coordinator {
    /// Checks a request and says what to do for it.
    pub(super) fn plan(&self, request: &Request) -> Result<Plan, Refusal> {
        let (r, w) = (self.config.r, self.config.w);
        let partition = |key: &Key| self.config.ring.partition(key);
        let plan = match request {
            Request::Get { key, r: asked } => {
                let kind = Kind::Get { key: key.clone(), merged: Merged::default() };
                self.outline(partition(key), QuorumName::Read, *asked, r, kind)?
            }
            Request::Put { key, value, context, write, w: asked }
            | Request::PutAgain { key, value, context, write, w: asked } => {
                if value.0.len() > MAX_VALUE_BYTES {
                    return Err(Refusal::Size(SizeError::Value(value.0.len() as u64)));
                }
                let seen = unseal(key, context)?.unwrap_or_default();
                let (write, value) = (*write, value.clone());
                let change = match request {
                    Request::PutAgain { .. } => Change::PutAgain { write, value },
                    _ => Change::Put { write, value },
                };
                self.outline_write(key, *asked, w, seen, change)?
            }
            Request::Delete { key, context, w: asked } => {
                let seen = unseal(key, context)?.ok_or(Refusal::NoContext)?;
                self.outline_write(key, *asked, w, seen, Change::Delete)?
            }
            Request::Keys { partition, after, limit_bytes, r: asked } => {
                if partition.0 >= self.config.ring.partitions() {
                    return Err(Refusal::Partition(partition.0, self.config.ring.partitions()));
                }
                let (after, limit_bytes) = (after.clone(), *limit_bytes);
                let kind =
                    Kind::Keys { partition: *partition, after, limit_bytes, pages: Vec::new() };
                // Nobody lists the keys of his hints.
                let quorum = Quorum { replicas: *asked, strict: Some(true) };
                self.outline(*partition, QuorumName::Read, quorum, r, kind)?
            }
        };
        Ok(plan)
    }

    fn outline_write(
        &self,
        key: &Key,
        asked: Quorum,
        default: u8,
        seen: Context,
        change: Change,
    ) -> Result<Plan, Refusal> {
        let kind = Kind::Write { key: key.clone(), seen: seen.clone(), minted: None };
        let partition = self.config.ring.partition(key);
        let plan = self.outline(partition, QuorumName::Write, asked, default, kind)?;
        Ok(Plan { update: Some((key.clone(), seen, change)), ..plan })
    }

    fn outline(
        &self,
        partition: Partition,
        name: QuorumName,
        asked: Quorum,
        default: u8,
        kind: Kind,
    ) -> Result<Plan, Refusal> {
        let n = self.config.ring.n();
        let needed = match asked.replicas.unwrap_or(default) {
            given if (1..=n).contains(&given) => given,
            given => return Err(Refusal::Quorum { name, given, n }),
        };
        let strict = asked.strict.unwrap_or(self.config.strict);
        let homes = self.config.ring.homes(partition).to_vec();
        // A strict write leaves hints too: they count for nothing, and heal.
        let hints = matches!(kind, Kind::Write { .. }) || !strict;
        let stand_ins = if hints { self.stand_ins(partition, homes.len()) } else { Vec::new() };
        Ok(Plan { homes, stand_ins, needed, strict, kind, update: None })
    }

    /// The next live distinct nodes of the preference list behind the homes; this node first, if it is no home.
    fn stand_ins(&self, partition: Partition, homes: usize) -> Vec<NodeId> {
        let list = self.config.ring.preference_list(partition);
        let mut others: Vec<NodeId> =
            list.into_iter().skip(homes).filter(|node| self.view.can_use(*node)).collect();
        others.sort_by_key(|node| (*node != self.config.me, self.view.doubts(*node)));
        others.truncate(STAND_INS_PER_REPLICA * homes);
        others
    }

    /// Says where a request is carried out, or refuses it before anything is sent, so that the refusal is the
    /// truth.
    pub(super) fn route(&self, now: Micros, origin: Origin, plan: &Plan) -> Result<Route, Refusal> {
        let homes = || plan.homes.iter().copied().filter(|home| self.view.can_use(*home));
        let here = plan.homes.contains(&self.config.me);
        let reachable = self.reachable(plan);
        if reachable < plan.needed {
            let roll = self.roll_of(plan);
            return Err(Refusal::Unreachable { reachable, needed: plan.needed, roll });
        }
        if here {
            self.check_room(now, plan)?;
            return Ok(Route::Here);
        }
        let mut to: Vec<NodeId> = homes().collect();
        to.sort_by_key(|home| self.view.doubts(*home));
        match origin {
            Origin::Client { .. } if to.is_empty() => Ok(Route::Here),
            Origin::Client { .. } => Ok(Route::Forward(to)),
            Origin::Peer { .. } => Err(Refusal::NotHome),
        }
    }

    /// Refuses a write that counts on fallbacks which have just refused hints for want of room: it
    /// would be done in part, and nobody could say what became of it.
    fn check_room(&self, now: Micros, plan: &Plan) -> Result<(), Refusal> {
        if plan.update.is_none() || plan.strict {
            return Ok(());
        }
        let homes = plan.homes.iter().filter(|home| self.view.can_use(**home)).count();
        let full = |node: &NodeId| self.view.full(now, *node);
        let room = plan.stand_ins.iter().filter(|node| full(node).is_none()).count();
        match plan.stand_ins.iter().find_map(full) {
            Some(limit) if homes + room < usize::from(plan.needed) => Err(Refusal::Hints(limit)),
            _ => Ok(()),
        }
    }

    /// How many slots can be filled, as far as this node can see.
    fn reachable(&self, plan: &Plan) -> u8 {
        let homes = plan.homes.iter().filter(|home| self.view.can_use(**home)).count();
        let stand_ins = if plan.strict { 0 } else { plan.stand_ins.len() };
        (homes + stand_ins).min(plan.homes.len()) as u8
    }

    /// How many of these partitions no request with the configured R and W can be carried out for,
    /// because too few of the nodes that would take part can be reached.
    pub(in crate::node) fn unservable(&self, partitions: impl Iterator<Item = Partition>) -> usize {
        let needed = usize::from(self.config.r.max(self.config.w));
        let served = |partition: Partition| {
            let homes = self.config.ring.homes(partition);
            let up = homes.iter().filter(|home| self.view.can_use(**home)).count();
            // The longer list is made only where it matters.
            up >= needed
                || !self.config.strict
                    && up + self.stand_ins(partition, homes.len()).len() >= needed
        };
        partitions.filter(|partition| !served(*partition)).count()
    }

    /// True if this node, which is no home, can carry out what the homes have refused to.
    pub(super) fn can_stand_in(&self, plan: &Plan) -> bool {
        let mints = plan.update.is_some();
        !(mints && plan.strict) && self.reachable(plan) >= plan.needed
    }

    fn roll_of(&self, plan: &Plan) -> Roll {
        let name = |node: NodeId| self.config.members.name(node);
        let (counted, silent): (Vec<NodeId>, Vec<NodeId>) =
            plan.homes.iter().partition(|home| self.view.can_use(**home));
        let counted = counted.into_iter().map(name).collect();
        let silent = silent.into_iter().map(name).collect();
        let mut roll = Roll { counted, uncounted: Vec::new(), silent };
        roll.sort();
        roll
    }
}

/// The context in a sealed one, if one is given.
fn unseal(key: &Key, sealed: &Option<Blob>) -> Result<Option<Context>, Refusal> {
    let open = |sealed: &Blob| wire::unseal(key, sealed).ok_or(Refusal::BadContext);
    sealed.as_ref().map(open).transpose()
}

/// What a write asks of the replica that coordinates it.
pub(super) fn update(
    (key, context, change): (Key, Context, Change),
    keep_for: Vec<NodeId>,
) -> Body {
    Body::Update { key, context, change, keep_for }
}
