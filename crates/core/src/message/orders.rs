//! Why an operator's order was not carried out, as codes.

use super::codes::codes;
use crate::members::{check_name, check_written};
use crate::ring::RingError;
use crate::types::{MAX_MEMBERS, MAX_TIMEOUT_MS, NodeId};

codes! {
    /// Why a node emulates nothing new.
    pub enum EmulateRejection {
        /// Its configuration does not allow it.
        #[error(
            "the configuration of {node} does not say allow_emulation = true, so nothing is \
             emulated there"
        )]
        NotAllowed {
            /// The node.
            node: String,
        } = 1,
        /// The text has no rule.
        #[error("no rule was given; clear ends the emulation")]
        NoRule = 2,
        /// The text is not understood. As with a compiler, the fault quotes what was written and
        /// names what the grammar expects there.
        #[error("{fault}")]
        Rules {
            /// The first mistake.
            fault: String,
        } = 3,
    }
}

codes! {
    /// Why nothing is compared.
    pub enum RepairRejection {
        /// No member has this id.
        #[error("peer = {peer:?}: no member of the cluster has this id")]
        NoMember {
            /// The id that was given.
            peer: NodeId,
        } = 1,
        /// The node itself was given.
        #[error("peer = {node}: this node compares with others only")]
        Itself {
            /// The node.
            node: String,
        } = 2,
        /// The two share no partition.
        #[error("peer = {peer}: no partition is kept by both {node} and {peer}")]
        NothingShared {
            /// The node that was asked.
            node: String,
            /// The other one.
            peer: String,
        } = 3,
        /// There is no such partition.
        #[error(
            "partition = {given}: this cluster has {partitions}, so a partition is 0 to {}",
            .partitions.saturating_sub(1)
        )]
        Partition {
            /// The number that was given.
            given: u16,
            /// Partitions of the cluster.
            partitions: u16,
        } = 4,
        /// One of the two is no owner of the partition.
        #[error(
            "partition = {partition}: {node} is no owner of it; its owners are {}",
            .owners.join(", ")
        )]
        NotOwner {
            /// The partition.
            partition: u16,
            /// The one that is none.
            node: String,
            /// The owners.
            owners: Vec<String>,
        } = 5,
    }
}

codes! {
    /// Why a member is not replaced. Nothing was changed.
    pub enum ReplaceRejection {
        /// The newcomer's name is none.
        #[error("{}", name_fault(.name))]
        Name {
            /// The name.
            name: String,
        } = 1,
        /// Its address is none.
        #[error("{}", address_fault(.address))]
        Address {
            /// The address.
            address: String,
        } = 2,
        /// The node that was asked changes its ring for another reason.
        #[error("node {node} changes its ring just now: try again")]
        Changing {
            /// The node.
            node: String,
        } = 3,
        /// It has not learned from its peers whether its disk is the newest.
        #[error("node {node} does not serve yet, and changes no ring")]
        Starting {
            /// The node.
            node: String,
        } = 4,
        /// The one that is to go is no member.
        #[error(
            "no member is called \"{}\"; the members are {}",
            .old.escape_debug(),
            .members.join(", ")
        )]
        NoMember {
            /// The name that was given.
            old: String,
            /// The members that have places.
            members: Vec<String>,
        } = 5,
        /// The one that is to go has gone.
        #[error("{old} was removed, and has no places to give")]
        NoPlaces {
            /// The member.
            old: String,
        } = 6,
        /// A node does not replace itself.
        #[error("{old} is the node that was asked: ask another one")]
        Itself {
            /// The node.
            old: String,
        } = 7,
        /// The newcomer's name was that of a member.
        #[error("{new} was removed: such a name does not return")]
        Removed {
            /// The name.
            new: String,
        } = 8,
        /// The newcomer is a member.
        #[error("{new} is a member already")]
        Member {
            /// The name.
            new: String,
        } = 9,
        /// A member has the newcomer's address.
        #[error("{member} is at {address} already")]
        AddressTaken {
            /// The member.
            member: String,
            /// The address.
            address: String,
        } = 10,
        /// No further name fits in the list of members.
        #[error("the list of members, removed ones included, is full: {MAX_MEMBERS}")]
        Full = 11,
        /// The one that is to go is linked with the node.
        #[error("{old} answers: stop it first with `pixii node stop {old}`")]
        Answers {
            /// The member.
            old: String,
        } = 12,
        /// It is not down for the node.
        #[error("{old} is not marked down yet: it takes {timeout_ms} ms of silence")]
        NotDown {
            /// The member.
            old: String,
            /// The gossip timeout, in milliseconds.
            timeout_ms: u64,
        } = 13,
        /// The node is on the smaller side of a partition of the network.
        #[error(
            "{near} of {all} members can be reached: a ring changes only with more than half of \
             them"
        )]
        Reach {
            /// Members that it can reach, itself among them.
            near: u64,
            /// Members that have places.
            all: u64,
        } = 14,
        /// Another replacement is in flight, and it is not known which.
        #[error("another replacement is in progress, ordered at {at}: try again")]
        AnotherUnknown {
            /// The node that was ordered to make it.
            at: String,
        } = 15,
        /// Another replacement is in flight.
        #[error(
            "another replacement is in progress: {old} by {}, ordered at {at}; try again",
            .new.as_deref().unwrap_or("a new member")
        )]
        Another {
            /// The member that goes.
            old: String,
            /// The one that comes, if the node knows its name.
            new: Option<String>,
            /// The node that was ordered to make it.
            at: String,
        } = 16,
        /// Too few members have granted it.
        #[error(
            "{granted} of {members} members agreed to it in time, and it takes more than half of \
             them: nothing was changed"
        )]
        Grants {
            /// Members that did, the node among them.
            granted: u64,
            /// Members that have places.
            members: u64,
        } = 17,
        /// The member has no place in the ring any more.
        #[error("{}", RingError::Stranger(*.member))]
        Stranger {
            /// The member.
            member: NodeId,
        } = 18,
        /// The newcomer has a place in the ring.
        #[error("{}", RingError::Duplicate)]
        Duplicate = 19,
        /// No version of the ring is left.
        #[error("{}", RingError::Version(*.version))]
        Version {
            /// The last one.
            version: u64,
        } = 20,
    }
}

impl From<RingError> for ReplaceRejection {
    fn from(error: RingError) -> Self {
        match error {
            RingError::Stranger(member) => ReplaceRejection::Stranger { member },
            RingError::Duplicate => ReplaceRejection::Duplicate,
            RingError::Version(version) => ReplaceRejection::Version { version },
            // A replacement changes nothing that these are about.
            other => ReplaceRejection::Text(other.to_string()),
        }
    }
}

/// What is wrong with a newcomer's name, by the rule of the program that shows it.
fn name_fault(name: &str) -> String {
    let fault = check_name("the new member", name).err();
    fault.unwrap_or_else(|| format!("the new member \"{}\" is refused", name.escape_debug()))
}

/// The same of its address.
fn address_fault(address: &str) -> String {
    let fault = check_written("the new member's address", address).err();
    fault.unwrap_or_else(|| format!("the address \"{}\" is refused", address.escape_debug()))
}

codes! {
    /// Why a drain is not begun.
    pub enum DrainRejection {
        /// It would take too long.
        #[error("timeout = {timeout_ms} ms: a drain takes at most {MAX_TIMEOUT_MS} ms")]
        Timeout {
            /// What was given, in milliseconds.
            timeout_ms: u32,
        } = 1,
        /// The node stops.
        #[error("node {node} is stopping")]
        Stopping {
            /// The node.
            node: String,
        } = 2,
    }
}

codes! {
    /// Why no loss is accepted.
    pub enum LossRejection {
        /// There is none.
        #[error("no acknowledged write of {node} is known to be lost")]
        NothingLost {
            /// The node.
            node: String,
        } = 1,
    }
}
