//! From a request to what is to be done for it: everything that can be refused before anything is
//! sent.

use super::Origin;
use super::env::Env;
use crate::causal::Context;
use crate::message::{Change, Quorum, QuorumName, Rejection, ReplicaOutcomes, Request};
use crate::types::{Blob, Key, MAX_VALUE_BYTES, NodeId, Partition, SizeError, Time};
use crate::wire;

/// So many times N nodes beyond the owners are asked to stand in.
const FALLBACKS_PER_REPLICA: usize = 2;

/// A request that has passed all checks.
pub(super) struct Plan {
    /// The owners, in order of preference.
    pub(super) owners: Vec<NodeId>,
    /// Who may act as a fallback for them, in order of preference; nobody if only owners count.
    pub(super) fallbacks: Vec<NodeId>,
    pub(super) needed: u8,
    pub(super) strict: bool,
    pub(super) work: Work,
}

/// What is to be done for a request.
pub(super) enum Work {
    Read { key: Key },
    List { partition: Partition, after: Option<Key>, limit_bytes: u32 },
    Write { key: Key, seen: Context, change: Change },
}

impl Work {
    /// True if it changes something.
    pub(super) fn is_write(&self) -> bool {
        matches!(self, Work::Write { .. })
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
                if value.0.len() > MAX_VALUE_BYTES {
                    return Err(Rejection::Size(SizeError::Value(value.0.len() as u64)));
                }
                let seen = unseal(key, context)?.unwrap_or_default();
                let (write, value) = (*write, value.clone());
                let change = match request {
                    Request::PutAgain { .. } => Change::PutAgain { write, value },
                    _ => Change::Put { write, value },
                };
                let work = Work::Write { key: key.clone(), seen, change };
                self.outline(partition(key), QuorumName::Write, *queried, w, work)?
            }
            Request::Delete { key, context, w: queried } => {
                let seen = unseal(key, context)?.ok_or(Rejection::NoContext)?;
                let work = Work::Write { key: key.clone(), seen, change: Change::Delete };
                self.outline(partition(key), QuorumName::Write, *queried, w, work)?
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
        let n = self.config.ring.n();
        let needed = match queried.replicas.unwrap_or(default) {
            given if (1..=n).contains(&given) => given,
            given => return Err(Rejection::Quorum { name, given, n }),
        };
        let strict = queried.strict.unwrap_or(self.config.strict);
        let owners = self.config.ring.owners(partition).to_vec();
        // A strict write leaves hints too: they count for nothing, and heal.
        let hints = work.is_write() || !strict;
        let fallbacks = if hints { self.fallbacks(partition, owners.len()) } else { Vec::new() };
        Ok(Plan { owners, fallbacks, needed, strict, work })
    }

    /// The next live distinct nodes of the preference list behind the owners; this node first, if
    /// it is no owner.
    fn fallbacks(&self, partition: Partition, owners: usize) -> Vec<NodeId> {
        let list = self.config.ring.preference_list(partition);
        let mut others: Vec<NodeId> =
            list.into_iter().skip(owners).filter(|node| self.view.can_use(*node)).collect();
        others.sort_by_key(|node| (*node != self.config.me, self.view.doubts(*node)));
        others.truncate(FALLBACKS_PER_REPLICA * owners);
        others
    }

    /// Says where a request is carried out, or refuses it before anything is sent, so that the
    /// rejection is the truth.
    pub(super) fn route(&self, now: Time, origin: Origin, plan: &Plan) -> Result<Route, Rejection> {
        let owners = || plan.owners.iter().copied().filter(|owner| self.view.can_use(*owner));
        let here = plan.owners.contains(&self.config.me);
        let reachable = self.reachable(plan);
        if reachable < plan.needed {
            let outcomes = self.outcomes_of(plan);
            return Err(Rejection::Unreachable { reachable, needed: plan.needed, outcomes });
        }
        if here {
            self.check_room(now, plan)?;
            return Ok(Route::Here);
        }
        let mut to: Vec<NodeId> = owners().collect();
        to.sort_by_key(|owner| self.view.doubts(*owner));
        match origin {
            Origin::Client { .. } if to.is_empty() => Ok(Route::Here),
            Origin::Client { .. } => Ok(Route::Forward(to)),
            Origin::Peer { .. } => Err(Rejection::NotOwner),
        }
    }

    /// Refuses a write that counts on fallbacks which have just refused hints because there is no
    /// room: it would be done in part, and nobody could say what became of it.
    fn check_room(&self, now: Time, plan: &Plan) -> Result<(), Rejection> {
        if !plan.work.is_write() || plan.strict {
            return Ok(());
        }
        let owners = plan.owners.iter().filter(|owner| self.view.can_use(**owner)).count();
        let full = |node: &NodeId| self.view.full(now, *node);
        let room = plan.fallbacks.iter().filter(|node| full(node).is_none()).count();
        match plan.fallbacks.iter().find_map(full) {
            Some(limit) if owners + room < usize::from(plan.needed) => Err(Rejection::Hints(limit)),
            _ => Ok(()),
        }
    }

    /// How many slots can be filled, as far as this node can see.
    fn reachable(&self, plan: &Plan) -> u8 {
        let owners = plan.owners.iter().filter(|owner| self.view.can_use(**owner)).count();
        let fallbacks = if plan.strict { 0 } else { plan.fallbacks.len() };
        (owners + fallbacks).min(plan.owners.len()) as u8
    }

    /// How many of these partitions no request with the configured R and W can be carried out for,
    /// because too few of the nodes that would take part can be reached.
    pub(super) fn unservable(&self, partitions: impl Iterator<Item = Partition>) -> usize {
        let needed = usize::from(self.config.r.max(self.config.w));
        let served = |partition: Partition| {
            let owners = self.config.ring.owners(partition);
            let up = owners.iter().filter(|owner| self.view.can_use(**owner)).count();
            // The longer list is made only where it matters.
            up >= needed
                || !self.config.strict
                    && up + self.fallbacks(partition, owners.len()).len() >= needed
        };
        partitions.filter(|partition| !served(*partition)).count()
    }

    /// True if this node, which is no owner, can carry out what the owners have refused to.
    pub(super) fn can_fallback(&self, plan: &Plan) -> bool {
        !(plan.work.is_write() && plan.strict) && self.reachable(plan) >= plan.needed
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

/// The context in a sealed one, if one is given.
fn unseal(key: &Key, sealed: &Option<Blob>) -> Result<Option<Context>, Rejection> {
    let open = |sealed: &Blob| wire::unseal(key, sealed).ok_or(Rejection::BadContext);
    sealed.as_ref().map(open).transpose()
}
