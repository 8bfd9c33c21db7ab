//! Before a store's incarnation begins: whether its data is a copy of what another daemon runs on,
//! and whom to believe about where the members are. Only probes leave, and nothing is written.

use std::sync::Arc;

use pixii_core::members::{Member, Members, MembershipStatus};
use pixii_core::secret::Nonces;
use pixii_core::store::Meta;
use pixii_core::types::NodeId;
use tokio::task::JoinSet;

use super::own_address;
use crate::config::Config;
use crate::net::probe::{Found, probe};

/// Why a daemon does not serve: another one is this node, or the configuration cannot be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// A daemon runs on the data that this is a copy of.
    #[error(
        "the data of node {name} is a copy: a daemon with the same data runs at {address}; stop \
         that one for good, or start \
         this one with `pixii server --new-identity`, as a node of a cluster of its own"
    )]
    Copy {
        /// The node.
        name: String,
        /// Where the other daemon answers.
        address: String,
    },
    /// This node is configured elsewhere than it was, and so is a member that has not moved.
    #[error(
        "node {name}, which was at {before}, is configured at {now}, and member {member} at \
         {configured}, but {member} runs \
         at {found}: if {name} has moved, configure {member} at {found}; if the data is a copy of \
         a cluster, start each of \
         its nodes with `pixii server --new-identity`"
    )]
    Contradiction {
        /// This node.
        name: String,
        /// Where it was.
        before: String,
        /// Where it is configured.
        now: String,
        /// The member that has not moved.
        member: String,
        /// Where it is configured.
        configured: String,
        /// Where it answers.
        found: String,
    },
    /// A copy that is to be a cluster of its own is configured with a node of the cluster that it
    /// was copied from.
    #[error(
        "member {member} is configured at {address}, where the {member} runs whose cluster this \
         is a copy of: configure the \
         members of the new cluster where they are to run"
    )]
    Original {
        /// The member.
        member: String,
        /// Where it is configured.
        address: String,
    },
    /// A peer has found another daemon of this name, in these words.
    #[error("{0}")]
    Duplicate(String),
}

/// What a store remembers of itself and of where the members are.
pub(super) struct Remembered<'a> {
    /// Of itself.
    pub(super) meta: &'a Meta,
    /// Where the members were.
    pub(super) members: &'a Members,
}

impl Remembered<'_> {
    /// Where this node was, if it is configured elsewhere now.
    fn moved_from(&self, config: &Config) -> Option<String> {
        let before = self.members.get(config.me())?;
        (before.address != own_address(config)).then(|| before.address.clone())
    }

    /// The birth of a founder's store.
    fn birth(&self, node: NodeId) -> Option<u64> {
        let founders = &self.meta.cluster.as_ref()?.founders;
        founders.iter().find(|(founder, _)| *founder == node).map(|(_, birth)| *birth)
    }

    /// True if what was found is this member, as far as that is known.
    fn is_member(&self, member: &Member, found: &Found) -> bool {
        let birth = self.birth(member.id());
        found.name == member.name && birth.is_none_or(|birth| birth == found.birth)
    }
}

/// True if the node is configured elsewhere than it was, so that the configuration is to be
/// believed about the others as well. The error says that the data is a copy of what another daemon
/// runs on, or may be one.
pub(super) async fn check(
    config: &Config,
    remembered: Remembered<'_>,
    nonces: &Arc<Nonces>,
) -> Result<bool, Conflict> {
    let now = own_address(config);
    let before = remembered.moved_from(config);
    let own = [Some(now.clone()), before.clone()].into_iter().flatten();
    let own = own.collect();
    // The others only where the configuration says that they have moved as well.
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

/// The error says that a copy which is to be a cluster of its own would meet the cluster that it
/// was copied from.
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

/// How daemons are sought.
struct Search<'a> {
    config: &'a Config,
    /// The cluster that they are of.
    cluster: &'a str,
    nonces: &'a Arc<Nonces>,
}

impl Search<'_> {
    /// The daemons that answer at these addresses, all of which are asked at once.
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
