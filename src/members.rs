//! The members of a cluster: who they are and where they listen. For now the configured list.

use bincode::{BorrowDecode, Encode};
use bytes::Bytes;

use crate::types::{MAX_NAME_BYTES, NodeId, hash64};

/// One member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct Member {
    /// Its name, from which its id follows.
    pub name: String,
    /// Where it listens, `host:port`.
    pub address: String,
}

impl Member {
    /// The member's identity.
    pub fn id(&self) -> NodeId {
        NodeId::of(&self.name)
    }
}

/// One life of a node's store: what tells a restart from a disk that was rolled back or copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct Life {
    /// How often the store has been started; higher than any that a peer has seen.
    pub incarnation: u64,
    /// Drawn at random at each start.
    pub nonce: u64,
}

impl Life {
    /// True if `other` is a life of the same node that this one does not follow: a later one, or one
    /// that began from the same disk.
    pub fn is_outdated_by(self, other: Life) -> bool {
        other.incarnation > self.incarnation
            || (other.incarnation == self.incarnation && other.nonce != self.nonce)
    }
}

/// A cluster's identity: the stores that founded it. A member whose store is not among them has come
/// later, or has lost its disk.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct Cluster {
    /// A hash of the cluster's name and its founders.
    pub id: u64,
    /// Each founding member and the id of its store, sorted.
    pub founders: Vec<(NodeId, u64)>,
}

impl Cluster {
    /// The cluster called `name` that these members, each with its store's id, found.
    pub fn found(name: &str, mut founders: Vec<(NodeId, u64)>) -> Self {
        founders.sort_unstable();
        let numbers = founders.iter().flat_map(|(node, store)| [node.0, *store]);
        let bytes: Vec<u8> = numbers.flat_map(u64::to_be_bytes).collect();
        Cluster { id: hash64(&[b"cluster", name.as_bytes(), &bytes]), founders }
    }
}

/// All members, sorted by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct Members(Vec<Member>);

impl Members {
    /// The members, in any order; names are checked by [`check_name`] before they come here.
    pub fn new(mut members: Vec<Member>) -> Self {
        members.sort_by(|a, b| a.name.cmp(&b.name));
        Members(members)
    }

    /// Every member, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.0.iter()
    }

    /// Every member's id, in the order of the names.
    pub fn ids(&self) -> Vec<NodeId> {
        self.0.iter().map(Member::id).collect()
    }

    /// The member with this id.
    pub fn get(&self, id: NodeId) -> Option<&Member> {
        self.0.iter().find(|member| member.id() == id)
    }

    /// The member's name, or its id in hex for a stranger.
    pub fn name(&self, id: NodeId) -> String {
        self.get(id).map_or_else(|| format!("{id:?}"), |member| member.name.clone())
    }
}

/// Says what is wrong with the name of a node or a cluster: `what` names the thing.
pub fn check_name(what: &str, name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.chars().all(plain) {
        return Err(format!(
            "{what} \"{}\": a name has 1 to {MAX_NAME_BYTES} letters, digits, '-', '_' or '.'",
            name.escape_debug()
        ));
    }
    Ok(())
}
