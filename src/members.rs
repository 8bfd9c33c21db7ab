//! The members of a cluster: who they are and where they listen. For now the configured list.

use bincode::{BorrowDecode, Encode};
use bytes::Bytes;

use crate::types::{MAX_NAME_BYTES, NodeId};

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
