//! What has to be restored some time after healing, without a read or a command.

use std::collections::BTreeMap;

use pixii_core::causal::Object;
use pixii_core::members::{Liveness, Member, MembershipStatus};
use pixii_core::message::Blocked;
use pixii_core::node::Node;
use pixii_core::store::{Found, Store};
use pixii_core::types::{Key, Partition};

use super::super::judge::Broken;
use super::{Host, World};

impl World {
    /// True when every node serves, holds every other to be up, agrees on the members, and keeps no
    /// hints any more.
    pub(super) fn has_converged(&self) -> bool {
        self.unwell().is_none()
    }

    pub(super) fn unconverged(&self) -> Broken {
        let what = self.unwell().unwrap_or_else(|| "nothing is wrong".into());
        Broken { key: self.some_key(), what: format!("a minute after healing {what}") }
    }

    /// A key under which events that concern no key or all keys are traced.
    pub(super) fn some_key(&self) -> Key {
        Key::new("key0").unwrap_or_else(|_| unreachable!("a short name is a key"))
    }

    /// The first condition of convergence that does not hold yet; `None` if all hold.
    fn unwell(&self) -> Option<String> {
        let all = || self.hosts.iter().enumerate().filter(|(_, host)| !host.is_removed);
        let first = all().next();
        let members = first.and_then(|(_, host)| host.node.as_ref()).map(Node::members);
        for (at, host) in all() {
            let Some(node) = &host.node else { return Some(format!("n{at} is down")) };
            if !node.is_settled() {
                return Some(format!("n{at} does not serve"));
            }
            if node.is_catching_up() {
                return Some(format!("n{at} waits for hints"));
            }
            let (ring, _) = host.placement();
            if ring.step().is_some() {
                return Some(format!("n{at} is in a change of the ring"));
            }
            if node.surplus() > 0 {
                return Some(format!("n{at} holds {} partitions of others", node.surplus()));
            }
            if ring.id() != self.ring.id() {
                return Some(format!(
                    "n{at} uses ring {}, not {}",
                    ring.version(),
                    self.ring.version()
                ));
            }
            let removed = |member: &&Member| member.membership == MembershipStatus::Removed;
            let mut owners = node.members().iter().filter(removed);
            if let Some(owner) = owners.find(|member| ring.has(member.id())) {
                return Some(format!("{}, which is removed, has places at n{at}", owner.name));
            }
            if let Some(members) = members.filter(|members| *members != node.members()) {
                let differs = |member: &&Member| node.members().get(member.id()) != Some(*member);
                let other = members.iter().find(differs);
                let here = other.and_then(|other| node.members().get(other.id()));
                return Some(format!(
                    "n{at} knows other members than another host: {here:?}, not {other:?}"
                ));
            }
            for peer in self.hosts.iter().filter(|peer| peer.id != host.id) {
                let view = node.peer_view(self.clock(at), peer.id);
                if view.liveness != Liveness::Up && !peer.is_removed {
                    return Some(format!("n{at} sees {}: {view:?}", peer.identity.name));
                }
                let kept = self.kept(host, peer);
                // A key whose every copy is damaged cannot be repaired, and its owners accept no
                // hints for it.
                let beyond_help = |key: &Key| self.copies(key).iter().all(|copy| copy.1.is_none());
                if let Some(key) = kept.iter().find(|key| !beyond_help(key)) {
                    return Some(format!("n{at} keeps {key:?} for {}", peer.identity.name));
                }
            }
            let lacking = &node.meta().read_ineligible;
            if let Some(partition) = lacking.first() {
                return Some(format!(
                    "n{at} has no read eligibility for partition {}",
                    partition.0
                ));
            }
        }
        if self.plan.hints_alone {
            return self.judge.keys().find_map(|key| self.lacks(key));
        }
        self.judge.keys().find_map(|key| self.unequal(key))
    }

    /// An acknowledged write that some owner lacks; `None` if there is none.
    fn lacks(&self, key: &Key) -> Option<String> {
        self.copies(key).into_iter().find_map(|(host, copy)| {
            let lacking = self.judge.lacking(key, &copy?)?;
            Some(format!("{} has not got {lacking:?} of {key:?}", host.identity.name))
        })
    }

    /// Each owner of a key with its copy; `None` if that is damaged.
    pub(super) fn copies(&self, key: &Key) -> Vec<(&Host, Option<Object>)> {
        let partition = self.ring.partition(key);
        let owner = |host: &&Host| self.ring.owners(partition).contains(&host.id);
        let found = |host: &Host| match host.store.read(partition, key) {
            Ok(Found::Record(record)) => Some(record.object),
            Ok(Found::Nothing) => Some(Object::default()),
            _ => None,
        };
        self.hosts.iter().filter(owner).map(|host| (host, found(host))).collect()
    }

    /// A key whose copies differ between two owners, or are damaged: anti-entropy has yet to repair
    /// it.
    fn unequal(&self, key: &Key) -> Option<String> {
        let copies = self.copies(key);
        if copies.iter().all(|(_, copy)| copy.is_none()) {
            return None;
        }
        let reports = |(_, copy): &&(&Host, Option<Object>)| {
            copy.as_ref().is_some_and(|copy| !copy.dead().is_empty())
        };
        // Hints for a key that cannot be repaired stay, and hold back the other hints of the
        // partition.
        let mut beyond_help = self.judge.keys().filter(|other| {
            self.ring.partition(other) == self.ring.partition(key)
                && self.copies(other).iter().all(|(_, copy)| copy.is_none())
        });
        if let Some((host, _)) = copies.iter().find(reports)
            && beyond_help.next().is_none()
        {
            let blocked: Vec<&BTreeMap<Partition, Blocked>> = self
                .hosts
                .iter()
                .filter_map(|host| host.node.as_ref())
                .map(Node::tombstone_gc_blocked)
                .filter(|blocked| !blocked.is_empty())
                .collect();
            let name = &host.identity.name;
            return Some(format!("{name} still reports what is gone of {key:?}: {blocked:?}"));
        }
        let (first, one) = copies.first()?;
        let (other, _) = copies.iter().find(|(_, copy)| copy.is_none() || copy != one)?;
        let (first, other) = (&first.identity.name, &other.identity.name);
        Some(format!("{first} and {other} do not hold the same of {key:?}"))
    }

    /// The keys that a host keeps hints of for another one.
    pub(super) fn kept(&self, host: &Host, target: &Host) -> Vec<Key> {
        let page = host.store.list_hints(target.id, None, usize::MAX).unwrap_or_default();
        page.hints.into_iter().map(|(key, _)| key).collect()
    }
}
