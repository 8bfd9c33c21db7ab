//! Checks before an incarnation begins: whether the data is a copy of what another daemon runs on,
//! and whether the store or the configuration knows where the members are. They send only probes
//! and write nothing.

use std::sync::Arc;

use pixii_core::members::{Member, Members, MembershipStatus};
use pixii_core::secret::Nonces;
use pixii_core::store::Meta;
use pixii_core::types::NodeId;
use tokio::task::JoinSet;

use super::own_address;
use crate::config::Config;
use crate::net::probe::{Found, probe};

/// Why a daemon does not serve: another one runs as this node, or the configuration contradicts
/// what was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// Another daemon runs on the data that this is a copy of.
    #[error(
        "the data of node {name} is a copy: a daemon with the same data runs at {address}; stop \
         that one for good, or start \
         this one with `pixii server --new-identity`, as a node of a cluster of its own"
    )]
    Copy {
        /// Name of the node that the data belongs to.
        name: String,
        /// Address at which the other daemon answers.
        address: String,
    },
    /// This node is configured at a new address, and so is a member that has not moved.
    #[error(
        "node {name}, which was at {before}, is configured at {now}, and member {member} at \
         {configured}, but {member} runs \
         at {found}: if {name} has moved, configure {member} at {found}; if the data is a copy of \
         a cluster, start each of \
         its nodes with `pixii server --new-identity`"
    )]
    Contradiction {
        /// Name of this node.
        name: String,
        /// Its address in the store.
        before: String,
        /// Its configured address.
        now: String,
        /// Name of the member that has not moved.
        member: String,
        /// The member's configured address.
        configured: String,
        /// The address at which the member answers.
        found: String,
    },
    /// A copy that becomes a cluster of its own is configured with a node of the cluster that it
    /// was copied from.
    #[error(
        "member {member} is configured at {address}, where the {member} runs whose cluster this \
         is a copy of: configure the \
         members of the new cluster where they are to run"
    )]
    Original {
        /// Name of the member of the old cluster.
        member: String,
        /// Its configured address, at which it answers.
        address: String,
    },
    /// A peer has found another daemon of this name; the text is the peer's.
    #[error("{0}")]
    Duplicate(String),
}

/// What a store remembers of this node and of the members' addresses.
pub(super) struct Remembered<'a> {
    /// The record of the node's own identity.
    pub(super) meta: &'a Meta,
    /// The members at their last known addresses.
    pub(super) members: &'a Members,
}

impl Remembered<'_> {
    /// The address of this node in the store, if it is configured at another one now.
    fn moved_from(&self, config: &Config) -> Option<String> {
        let before = self.members.get(config.me())?;
        (before.address != own_address(config)).then(|| before.address.clone())
    }

    /// The birth of a founder's store; `None` for a node that is no founder.
    fn birth(&self, node: NodeId) -> Option<u64> {
        let founders = &self.meta.cluster.as_ref()?.founders;
        founders.iter().find(|(founder, _)| *founder == node).map(|(_, birth)| *birth)
    }

    /// True if `found` is this member, as far as name and birth show.
    fn is_member(&self, member: &Member, found: &Found) -> bool {
        let birth = self.birth(member.id());
        found.name == member.name && birth.is_none_or(|birth| birth == found.birth)
    }
}

/// True if this node is configured at another address than before: the configuration then counts
/// for the other members as well. The error says that the data is, or may be, a copy of what
/// another daemon runs on.
pub(super) async fn check(
    config: &Config,
    remembered: Remembered<'_>,
    nonces: &Arc<Nonces>,
) -> Result<bool, Conflict> {
    let now = own_address(config);
    let before = remembered.moved_from(config);
    let own = [Some(now.clone()), before.clone()].into_iter().flatten();
    let own = own.collect();
    // Other members are probed only where the configuration says that they have moved as well.
    let moved = |member: &&Member| {
        let place = config.members.get(member.id());
        member.id() != config.me()
            && member.membership != MembershipStatus::Removed
            && place.is_some_and(|place| place.address != member.address)
    };
    let others: Vec<&Member> = match before {
        None => Vec::new(),
        Some(_) => remembered.members.iter().filter(moved).collect(),
    };
    let places = others.iter().map(|member| member.address.clone()).collect();
    let search = Search { config, cluster: &remembered.meta.identity.cluster, nonces };
    let (own, others_found) = tokio::join!(search.at(own), search.at(places));
    let is_copied = |(_, found): &&(String, Found)| found.birth == remembered.meta.birth;
    if let Some((address, _)) = own.iter().find(is_copied) {
        return Err(Conflict::Copy { name: config.name.clone(), address: address.clone() });
    }
    let Some(before) = before else { return Ok(false) };
    for (address, found) in others_found {
        let there =
            |member: &&&Member| member.address == address && remembered.is_member(member, &found);
        if let Some(member) = others.iter().find(there) {
            let configured = config.members.get(member.id()).unwrap_or(member).address.clone();
            let (name, member) = (config.name.clone(), member.name.clone());
            let found = address;
            return Err(Conflict::Contradiction { name, before, now, member, configured, found });
        }
    }
    Ok(true)
}

/// The error says that a copy which becomes a cluster of its own would meet the cluster that it was
/// copied from.
pub(super) async fn check_anew(
    config: &Config,
    remembered: Remembered<'_>,
    nonces: &Arc<Nonces>,
) -> Result<(), Conflict> {
    let places = config.members.iter().map(|member| member.address.clone()).collect();
    let search = Search { config, cluster: &remembered.meta.identity.cluster, nonces };
    for (address, found) in search.at(places).await {
        let there = |member: &&Member| {
            let own = member.id() == config.me();
            let birth =
                if own { Some(remembered.meta.birth) } else { remembered.birth(member.id()) };
            member.address == address && birth == Some(found.birth)
        };
        if let Some(member) = config.members.iter().find(there) {
            return Err(Conflict::Original { member: member.name.clone(), address });
        }
    }
    Ok(())
}

/// How daemons are probed.
struct Search<'a> {
    config: &'a Config,
    /// Name of the cluster that they belong to.
    cluster: &'a str,
    nonces: &'a Arc<Nonces>,
}

impl Search<'_> {
    /// The daemons that answer at these addresses, with all addresses probed at once.
    async fn at(&self, addresses: Vec<String>) -> Vec<(String, Found)> {
        let mut queried = JoinSet::new();
        for address in addresses {
            let (cluster, secrets) = (self.cluster.to_owned(), self.config.secrets.clone());
            let nonces = self.nonces.clone();
            queried.spawn(async move {
                let found = probe(&address, &cluster, &secrets, &nonces).await?;
                Some((address, found))
            });
        }
        queried.join_all().await.into_iter().flatten().collect()
    }
}
