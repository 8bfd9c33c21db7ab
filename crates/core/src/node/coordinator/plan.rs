//! Plans a request: all rejections that are possible before anything is sent.

use super::Origin;
use super::env::Env;
use crate::causal::Context;
use crate::message::{
    Change, Premise, Quorum, QuorumName, Rejection, ReplicaOutcomes, Request, WriteRule,
};
use crate::types::{Blob, Key, MAX_VALUE_BYTES, NodeId, Partition, SizeError, Time, WriteId};
use crate::wire;

/// At most this many times N nodes beyond the owners are used as fallbacks.
const FALLBACKS_PER_REPLICA: usize = 2;

/// A request that has passed all checks.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// The owners that reads ask, in order of preference.
    pub(super) owners: Vec<NodeId>,
    /// While the ring is in a change: the owners of the other table, which a write goes to, too.
    pub(super) also: Option<Vec<NodeId>>,
    /// The nodes that may act as a fallback for them, in order of preference; none if only owners
    /// count.
    pub(super) fallbacks: Vec<NodeId>,
    pub(super) needed: u8,
    pub(super) strict: bool,
    pub(super) work: Work,
}

/// The work that a request requires.
#[derive(Clone, Debug)]
pub(super) enum Work {
    Read { key: Key },
    List { partition: Partition, after: Option<Key>, limit_bytes: u32 },
    Write(Writing),
}

/// A put or a delete.
#[derive(Clone, Debug)]
pub(super) struct Writing {
    pub(super) key: Key,
    pub(super) basis: Basis,
    pub(super) change: Change,
}

/// What a write covers.
#[derive(Clone, Debug)]
pub(super) enum Basis {
    /// What its author was shown.
    Seen(Context),
    /// What its issuer decides.
    Decision(Decision),
}

/// A write that is decided at its issuer.
#[derive(Clone, Debug)]
pub(super) struct Decision {
    pub(super) premise: Premise,
    /// How many owners have to answer before it is decided: R.
    pub(super) asked: u8,
}

impl Decision {
    /// True if the write does without some of the R owners, and covers what it can read. What has
    /// a condition does not.
    fn is_content(&self, strict: bool) -> bool {
        !strict && self.premise == Premise::OneValue
    }
}

impl Work {
    /// True if it changes something.
    pub(super) fn is_write(&self) -> bool {
        matches!(self, Work::Write(_))
    }
}

impl Plan {
    /// The decision to be made, if this is a write that is decided.
    pub(super) fn decision(&self) -> Option<&Decision> {
        match &self.work {
            Work::Write(Writing { basis: Basis::Decision(decision), .. }) => Some(decision),
            _ => None,
        }
    }

    /// True for a write that is carried out on fewer answers than R, if there are no more.
    pub(super) fn is_content(&self) -> bool {
        self.decision().is_some_and(|decision| decision.is_content(self.strict))
    }
}

/// Where a request is carried out.
pub(super) enum Route {
    /// Here, at an owner or a fallback.
    Here,
    /// At one of these owners.
    Forward(Vec<NodeId>),
}

impl Env {
    /// Checks a request and says what to do for it.
    pub(super) fn plan(&self, request: &Request) -> Result<Plan, Rejection> {
        let (r, w) = (self.config.r, self.config.w);
        let partition = |key: &Key| self.config.ring.partition(key);
        let plan = match request {
            Request::Get { key, r: queried } => self.outline(
                partition(key),
                QuorumName::Read,
                *queried,
                r,
                Work::Read { key: key.clone() },
            )?,
            Request::Put { key, value, context, write, w: queried }
            | Request::PutAgain { key, value, context, write, w: queried } => {
                let again = matches!(request, Request::PutAgain { .. });
                let change = changed(Some(value.clone()), *write, again)?;
                let seen = unseal(key, context)?.unwrap_or_default();
                let basis = Basis::Seen(seen);
                let work = Work::Write(Writing { key: key.clone(), basis, change });
                self.outline(partition(key), QuorumName::Write, *queried, w, work)?
            }
            Request::Delete { key, context, w: queried } => {
                let seen = unseal(key, context)?.ok_or(Rejection::NoContext)?;
                let (basis, change) = (Basis::Seen(seen), Change::Delete);
                let work = Work::Write(Writing { key: key.clone(), basis, change });
                self.outline(partition(key), QuorumName::Write, *queried, w, work)?
            }
            Request::Decide {
                key: request_key,
                value,
                rule,
                write,
                again,
                r: asked,
                w: queried,
            } => {
                let premise = match rule {
                    WriteRule::Cover => Premise::OneValue,
                    WriteRule::IfAbsent => Premise::Absent,
                    WriteRule::IfContext(sealed) => {
                        let seen = wire::unseal(request_key, sealed);
                        let seen = seen.ok_or(Rejection::BadContext)?;
                        Premise::Within(seen)
                    }
                };
                let change = changed(value.clone(), *write, *again)?;
                let asked = self.in_range(QuorumName::Read, asked.unwrap_or(r))?;
                let decision = Decision { premise, asked };
                let (key, basis) = (request_key.clone(), Basis::Decision(decision));
                let work = Work::Write(Writing { key, basis, change });
                self.outline(partition(request_key), QuorumName::Write, *queried, w, work)?
            }
            Request::Keys { partition, after, limit_bytes, r: queried } => {
                if partition.0 >= self.config.ring.partitions() {
                    return Err(Rejection::Partition(partition.0, self.config.ring.partitions()));
                }
                let (after, limit_bytes) = (after.clone(), *limit_bytes);
                let work = Work::List { partition: *partition, after, limit_bytes };
                // Nobody lists the keys of his hints.
                let quorum = Quorum { replicas: *queried, strict: Some(true) };
                self.outline(*partition, QuorumName::Read, quorum, r, work)?
            }
        };
        Ok(plan)
    }

    fn outline(
        &self,
        partition: Partition,
        name: QuorumName,
        queried: Quorum,
        default: u8,
        work: Work,
    ) -> Result<Plan, Rejection> {
        let needed = self.in_range(name, queried.replicas.unwrap_or(default))?;
        let strict = queried.strict.unwrap_or(self.config.strict);
        let owners = self.config.ring.owners(partition).to_vec();
        let also =
            self.config.ring.also(partition).filter(|_| work.is_write()).map(<[NodeId]>::to_vec);
        // A strict write leaves hints too: they count for nothing, and heal.
        let hints = work.is_write() || !strict;
        let fallbacks = if hints { self.fallbacks(partition) } else { Vec::new() };
        Ok(Plan { owners, also, fallbacks, needed, strict, work })
    }

    /// The same plan under the ring in force.
    pub(super) fn renew(&self, plan: &mut Plan) {
        let key = match &plan.work {
            Work::Write(writing) => &writing.key,
            Work::Read { key } => key,
            Work::List { .. } => return,
        };
        let partition = self.config.ring.partition(key);
        plan.owners = self.config.ring.owners(partition).to_vec();
        plan.also =
            self.config.ring.also(partition).filter(|_| plan.work.is_write()).map(<[_]>::to_vec);
        if !plan.fallbacks.is_empty() {
            plan.fallbacks = self.fallbacks(partition);
        }
    }

    fn in_range(&self, name: QuorumName, given: u8) -> Result<u8, Rejection> {
        let n = self.config.ring.n();
        if (1..=n).contains(&given) { Ok(given) } else { Err(Rejection::Quorum { name, given, n }) }
    }

    /// The next live distinct nodes of the preference list behind the owners; this node first, if
    /// it is no owner. One that is on its way out is none.
    pub(super) fn fallbacks(&self, partition: Partition) -> Vec<NodeId> {
        let owners = self.config.ring.all_owners(partition).len();
        let list = self.config.ring.preference_list(partition).into_iter().skip(owners);
        let can_keep = |node: &NodeId| self.view.can_use(*node) && self.config.ring.is_kept(*node);
        let mut others: Vec<NodeId> = list.filter(can_keep).collect();
        others.sort_by_key(|node| (*node != self.config.me, self.view.doubts(*node)));
        others.truncate(FALLBACKS_PER_REPLICA * owners);
        others
    }

    /// Says where a request is carried out, or refuses it before anything is sent, so that the
    /// rejection is the truth.
    pub(super) fn route(&self, now: Time, origin: Origin, plan: &Plan) -> Result<Route, Rejection> {
        let owners = || plan.owners.iter().copied().filter(|owner| self.view.can_use(*owner));
        let here = plan.owners.contains(&self.config.me);
        self.check_reach(plan)?;
        if let Some(decision) = plan.decision().filter(|_| !plan.is_content())
            && owners().count() < usize::from(decision.asked)
        {
            let (reachable, needed) = (owners().count() as u8, decision.asked);
            let outcomes = self.outcomes_of(plan);
            return Err(Rejection::Unreachable { reachable, needed, outcomes });
        }
        let before =
            if matches!(origin, Origin::Client { .. }) { self.before(now, plan) } else { vec![] };
        if here && before.is_empty() {
            self.check_room(now, plan)?;
            return Ok(Route::Here);
        }
        if here {
            return Ok(Route::Forward(before));
        }
        let mut to: Vec<NodeId> = owners().collect();
        to.sort_by_key(|owner| self.view.doubts(*owner) || self.view.is_quiet(now, *owner));
        match origin {
            // A node on its way out coordinates nothing in the place of owners.
            Origin::Client { .. } if to.is_empty() && self.config.ring.has(self.config.me) => {
                Ok(Route::Here)
            }
            Origin::Client { .. } if to.is_empty() => Err(Rejection::Stopping),
            Origin::Client { .. } => Ok(Route::Forward(to)),
            Origin::Peer { .. } => Err(Rejection::NotOwner),
        }
    }

    /// The owners that come before this one in the order of preference, can be reached beyond
    /// doubt, were not quiet a moment ago, and so decide writes in its place: puts that come one
    /// after the other, or at once, by whichever node, meet at one issuer.
    fn before(&self, now: Time, plan: &Plan) -> Vec<NodeId> {
        if plan.decision().is_none() {
            return Vec::new();
        }
        let before = plan.owners.iter().take_while(|owner| **owner != self.config.me);
        let sure = |owner: &&NodeId| {
            let view = &self.view;
            view.can_use(**owner) && !view.doubts(**owner) && !view.is_quiet(now, **owner)
        };
        before.filter(sure).copied().collect()
    }

    /// Refuses what too few nodes can be reached for.
    pub(super) fn check_reach(&self, plan: &Plan) -> Result<(), Rejection> {
        let (reachable, needed) = (self.reachable(plan), plan.needed);
        if reachable < needed {
            let outcomes = self.outcomes_of(plan);
            return Err(Rejection::Unreachable { reachable, needed, outcomes });
        }
        Ok(())
    }

    /// Refuses a write that depends on fallbacks which have just refused hints because they have no
    /// room. It would be done in part, and its outcome would be unknown.
    fn check_room(&self, now: Time, plan: &Plan) -> Result<(), Rejection> {
        if !plan.work.is_write() || plan.strict {
            return Ok(());
        }
        let owners = self.usable_owners(plan);
        let full = |node: &NodeId| self.view.full(now, *node);
        let room = plan.fallbacks.iter().filter(|node| full(node).is_none()).count();
        match plan.fallbacks.iter().find_map(full) {
            Some(limit) if owners + room < usize::from(plan.needed) => Err(Rejection::Hints(limit)),
            _ => Ok(()),
        }
    }

    /// How many slots can be filled, as far as this node can see.
    fn reachable(&self, plan: &Plan) -> u8 {
        let fallbacks = if plan.strict { 0 } else { plan.fallbacks.len() };
        (self.usable_owners(plan) + fallbacks).min(plan.owners.len()) as u8
    }

    /// How many owners can be used, of the table where fewer can.
    fn usable_owners(&self, plan: &Plan) -> usize {
        let usable =
            |owners: &Vec<NodeId>| owners.iter().filter(|owner| self.view.can_use(**owner)).count();
        let also = plan.also.as_ref().map_or(usize::MAX, usable);
        usable(&plan.owners).min(also)
    }

    /// How many of these partitions no request with the configured R and W can be carried out for,
    /// because too few of the nodes that would take part can be reached.
    pub(super) fn unservable(&self, partitions: &[Partition]) -> usize {
        let needed = usize::from(self.config.r.max(self.config.w));
        let up =
            |owners: &[NodeId]| owners.iter().filter(|owner| self.view.can_use(**owner)).count();
        let served = |partition: Partition| {
            let also = self.config.ring.also(partition).map_or(usize::MAX, up);
            let up = up(self.config.ring.owners(partition)).min(also);
            // The longer list is made only where it matters.
            up >= needed || !self.config.strict && up + self.fallbacks(partition).len() >= needed
        };
        partitions.iter().filter(|partition| !served(**partition)).count()
    }

    /// True if this node can carry out what owners have refused to: as an owner itself, or in their
    /// place. What has a condition is decided by owners alone.
    pub(super) fn can_take_over(&self, plan: &Plan) -> bool {
        let strict = plan.strict || plan.decision().is_some() && !plan.is_content();
        let is_owner = plan.owners.contains(&self.config.me);
        // A node on its way out keeps nothing for others.
        let has_place = self.config.ring.has(self.config.me);
        has_place
            && (is_owner || !(plan.work.is_write() && strict))
            && self.reachable(plan) >= plan.needed
    }

    fn outcomes_of(&self, plan: &Plan) -> ReplicaOutcomes {
        let name = |node: NodeId| self.config.members.name(node);
        let (counted, silent): (Vec<NodeId>, Vec<NodeId>) =
            plan.owners.iter().partition(|owner| self.view.can_use(**owner));
        let counted = counted.into_iter().map(name).collect();
        let silent = silent.into_iter().map(name).collect();
        let mut outcomes = ReplicaOutcomes { counted, uncounted: Vec::new(), silent };
        outcomes.sort();
        outcomes
    }
}

/// The change that a put or delete makes.
fn changed(value: Option<Blob>, write: WriteId, again: bool) -> Result<Change, Rejection> {
    match value {
        Some(value) if value.0.len() > MAX_VALUE_BYTES => {
            Err(Rejection::Size(SizeError::Value(value.0.len() as u64)))
        }
        Some(value) if again => Ok(Change::PutAgain { write, value }),
        Some(value) => Ok(Change::Put { write, value }),
        None => Ok(Change::Delete),
    }
}

/// The context in a sealed one, if one is given.
fn unseal(key: &Key, sealed: &Option<Blob>) -> Result<Option<Context>, Rejection> {
    let open = |sealed: &Blob| wire::unseal(key, sealed).ok_or(Rejection::BadContext);
    sealed.as_ref().map(open).transpose()
}
