//! From a request to what is to be done for it: everything that can be refused before anything is
//! sent.

use super::Origin;
use super::env::Env;
use crate::causal::Context;
use crate::message::{Change, Quorum, QuorumName, Refusal, Request, Roll};
use crate::types::{Blob, Key, MAX_VALUE_BYTES, NodeId, Partition, SizeError, Time};
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
    /// Here, at a home replica or a stand-in.
    Here,
    /// At one of these homes.
    Forward(Vec<NodeId>),
}

impl Env {
    /// Checks a request and says what to do for it.
    pub(super) fn plan(&self, request: &Request) -> Result<Plan, Refusal> {
        let (r, w) = (self.config.r, self.config.w);
        let partition = |key: &Key| self.config.ring.partition(key);
        let plan = match request {
            Request::Get { key, r: asked } => self.outline(
                partition(key),
                QuorumName::Read,
                *asked,
                r,
                Work::Read { key: key.clone() },
            )?,
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
                let work = Work::Write { key: key.clone(), seen, change };
                self.outline(partition(key), QuorumName::Write, *asked, w, work)?
            }
            Request::Delete { key, context, w: asked } => {
                let seen = unseal(key, context)?.ok_or(Refusal::NoContext)?;
                let work = Work::Write { key: key.clone(), seen, change: Change::Delete };
                self.outline(partition(key), QuorumName::Write, *asked, w, work)?
            }
            Request::Keys { partition, after, limit_bytes, r: asked } => {
                if partition.0 >= self.config.ring.partitions() {
                    return Err(Refusal::Partition(partition.0, self.config.ring.partitions()));
                }
                let (after, limit_bytes) = (after.clone(), *limit_bytes);
                let work = Work::List { partition: *partition, after, limit_bytes };
                // Nobody lists the keys of his hints.
                let quorum = Quorum { replicas: *asked, strict: Some(true) };
                self.outline(*partition, QuorumName::Read, quorum, r, work)?
            }
        };
        Ok(plan)
    }

    fn outline(
        &self,
        partition: Partition,
        name: QuorumName,
        asked: Quorum,
        default: u8,
        work: Work,
    ) -> Result<Plan, Refusal> {
        let n = self.config.ring.n();
        let needed = match asked.replicas.unwrap_or(default) {
            given if (1..=n).contains(&given) => given,
            given => return Err(Refusal::Quorum { name, given, n }),
        };
        let strict = asked.strict.unwrap_or(self.config.strict);
        let homes = self.config.ring.homes(partition).to_vec();
        // A strict write leaves hints too: they count for nothing, and heal.
        let hints = work.is_write() || !strict;
        let stand_ins = if hints { self.stand_ins(partition, homes.len()) } else { Vec::new() };
        Ok(Plan { homes, stand_ins, needed, strict, work })
    }

    /// The next live distinct nodes of the preference list behind the homes; this node first, if it
    /// is no home.
    fn stand_ins(&self, partition: Partition, homes: usize) -> Vec<NodeId> {
        let list = self.config.ring.preference_list(partition);
        let mut others: Vec<NodeId> =
            list.into_iter().skip(homes).filter(|node| self.view.can_use(*node)).collect();
        others.sort_by_key(|node| (*node != self.config.me, self.view.doubts(*node)));
        others.truncate(STAND_INS_PER_REPLICA * homes);
        others
    }

    /// Says where a request is carried out, or refuses it before anything is sent, so that the
    /// refusal is the truth.
    pub(super) fn route(&self, now: Time, origin: Origin, plan: &Plan) -> Result<Route, Refusal> {
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
    fn check_room(&self, now: Time, plan: &Plan) -> Result<(), Refusal> {
        if !plan.work.is_write() || plan.strict {
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
    pub(super) fn unservable(&self, partitions: impl Iterator<Item = Partition>) -> usize {
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
        !(plan.work.is_write() && plan.strict) && self.reachable(plan) >= plan.needed
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
