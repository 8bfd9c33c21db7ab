//! An operator's changes of the ring: they are staged at a node, looked at as a plan, and applied.

use bincode::{BorrowDecode, Encode};
use bytes::Bytes;

use super::codes::codes;
use super::orders::ReplaceRejection;
use crate::ring::{MAX_WEIGHT, Step};

/// Most bytes of the name of a zone.
pub const MAX_ZONE_BYTES: usize = 64;
/// Most changes that are staged at a time.
pub const MAX_STAGED: usize = 1_000;

/// What an operator wants of the node that is asked.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub enum PlanOrder {
    /// Stages a change, in place of one of the same node. A node forgets what is staged when it
    /// stops.
    Stage(Staged),
    /// Forgets all that is staged.
    Clear,
    /// Reports what is staged and what it comes to.
    Show,
    /// Begins the change, if this digest still names it.
    Apply {
        /// [`Outcome::digest`].
        digest: u64,
    },
    /// Goes back to the table before the change that the ring is in.
    Cancel,
    /// Removes a node that has no place in the ring, with whatever it still holds.
    Dismiss {
        /// The name of the node.
        name: String,
    },
}

/// A change that is staged.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub enum Staged {
    /// A node becomes a member.
    Join {
        /// A name that the cluster never had.
        name: String,
        /// Where it is dialed, `host:port`.
        address: String,
        /// How much of the data it takes beside others, 1 to [`MAX_WEIGHT`].
        weight: u16,
        /// The zone that it is in; `None`: a zone of its own.
        zone: Option<String>,
    },
    /// A member gives all its places to others, and then leaves.
    Leave {
        /// The name of the member.
        name: String,
    },
    /// A member that is gone for good is removed, and others get its places.
    Remove {
        /// The name of the member.
        name: String,
    },
    /// A member gets another weight or zone.
    Set {
        /// The name of the member.
        name: String,
        /// Its weight from then on; `None`: as it is.
        weight: Option<u16>,
        /// Its zone from then on, the empty name for a zone of its own; `None`: as it is.
        zone: Option<String>,
    },
    /// A newcomer gets the places of a member that is gone for good.
    Replace {
        /// The name of the member that is removed.
        old: String,
        /// The name of the newcomer.
        new: String,
        /// Where the newcomer is dialed, `host:port`.
        address: String,
    },
}

impl Staged {
    /// The names of the nodes that it is about.
    pub fn names(&self) -> Vec<&str> {
        match self {
            Staged::Join { name, .. }
            | Staged::Leave { name }
            | Staged::Remove { name }
            | Staged::Set { name, .. } => vec![name],
            Staged::Replace { old, new, .. } => vec![old, new],
        }
    }
}

/// What is staged at a node, what it comes to, and the change that the ring is in.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct PlanReport {
    /// What is staged at the node.
    pub staged: Vec<Staged>,
    /// The version of the ring in force there.
    pub version: u64,
    /// The step of the change that this ring is in; `None`: it is settled.
    pub step: Option<Step>,
    /// Members that have not confirmed this ring.
    pub unconfirmed: Vec<String>,
    /// What the staged changes come to; `None`: nothing is staged.
    pub outcome: Option<Result<Outcome, PlanRejection>>,
}

/// What staged changes come to.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct Outcome {
    /// Names the plan: other changes, or another ring in force, make another digest.
    pub digest: u64,
    /// The version of the ring when the change has come to its end.
    pub version: u64,
    /// Partitions of the cluster.
    pub partitions: u16,
    /// How many replicas of partitions go to another node.
    pub moves: u32,
    /// Bytes that this comes to, by what the node that is asked keeps of its own partitions.
    pub bytes: u64,
    /// Every member before or after the change.
    pub members: Vec<Share>,
}

/// A member's share before and after a change.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct Share {
    /// The name of the member.
    pub name: String,
    /// Partitions that it owns before; 0 for a newcomer.
    pub before: u32,
    /// Partitions that it owns after; 0 for one that leaves.
    pub after: u32,
    /// Partitions that come to it.
    pub gains: u32,
    /// Partitions that go from it.
    pub loses: u32,
}

codes! {
    /// Why an order about a plan was not carried out. Nothing was changed.
    pub enum PlanRejection {
        /// What is wrong with a member, as in a replacement.
        #[error("{why}")]
        Member {
            /// The reason.
            why: ReplaceRejection,
        } = 1,
        /// A weight outside its bounds.
        #[error("weight = {weight}: a member's weight is 1 to {MAX_WEIGHT}")]
        Weight {
            /// The weight that was given.
            weight: u16,
        } = 2,
        /// The name of a zone is too long.
        #[error("the name of the zone has {bytes} bytes: it has at most {MAX_ZONE_BYTES}")]
        Zone {
            /// Its length in bytes.
            bytes: u64,
        } = 3,
        /// The plan has changed since it was looked at.
        #[error(
            "{given:016x} does not name the plan, which is {present:016x}: look at it again with \
             `pixii node plan`"
        )]
        Digest {
            /// The digest that was given.
            given: u64,
            /// The one that names the plan now.
            present: u64,
        } = 4,
        /// Nothing is staged at the node.
        #[error("nothing is staged at {node}: see `pixii node join`, `leave` and `set`")]
        Nothing {
            /// The name of the node that was asked.
            node: String,
        } = 5,
        /// Too many changes are staged.
        #[error("{MAX_STAGED} changes are staged: apply or clear them first")]
        Staged = 6,
        /// Fewer members would be left than there are replicas.
        #[error("{members} members would be left, and n = {n} replicas need as many")]
        TooFewMembers {
            /// Members after the change.
            members: u64,
            /// Replicas of a key.
            n: u8,
        } = 7,
        /// The change would change nothing.
        #[error("the staged changes change nothing")]
        Unchanged = 8,
        /// The ring is in a change.
        #[error(
            "ring version {version} is in a change, which has to end or be cancelled first: see \
             `pixii node plan`"
        )]
        Changing {
            /// The version of the ring in force.
            version: u64,
        } = 9,
        /// The node that was asked has no place in the ring, or goes with the change.
        #[error("node {node} has no place in the ring, or is named as gone: ask another one")]
        NoPlace {
            /// The name of the node that was asked.
            node: String,
        } = 10,
        /// A member runs an older program.
        #[error(
            "{member} runs an older program, which knows no ring in a change: upgrade it first"
        )]
        Protocol {
            /// The name of the member.
            member: String,
        } = 11,
        /// There is nothing to cancel.
        #[error("the ring is in no change")]
        NoChange = 12,
        /// The change has gone too far, or is being cancelled.
        #[error("the change of the ring is in its step \"{step}\", which only goes on")]
        Step {
            /// The step that it is in.
            step: Step,
        } = 13,
        /// The node to be dismissed has places, or is no member.
        #[error("{name} has a place in the ring, or is no member")]
        NoGuest {
            /// The name that was given.
            name: String,
        } = 14,
        /// A member is to leave that has no place in the ring.
        #[error("{name} has no place in the ring: see `pixii node dismiss {name}`")]
        Guest {
            /// The name of the member.
            name: String,
        } = 15,
    }
}

impl From<ReplaceRejection> for PlanRejection {
    fn from(why: ReplaceRejection) -> Self {
        PlanRejection::Member { why }
    }
}
