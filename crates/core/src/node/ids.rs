//! The names of requests and of scans: each carries the role that its answer is for.
//!
//! The top bits of a request id are the role that sent the query; an answer repeats them unchanged.

pub(super) use crate::message::RequestId;

/// The role that waits for the answers to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Coordinator,
    TombstoneGc,
    Repair,
    /// An owner holds what the requests of this role bring to another limit.
    Handoff,
}

impl Role {
    /// The highest bits of the ids of this role. At most one of them is set, and the number in an
    /// id begins below all of them.
    pub(super) const fn tag(self) -> u64 {
        match self {
            Role::Coordinator => 0,
            Role::TombstoneGc => 1 << 61,
            Role::Repair => 1 << 62,
            Role::Handoff => 1 << 63,
        }
    }
}

/// The role that waits for answers with this id, if this node has issued it.
pub(super) const fn role_of(id: RequestId) -> Role {
    match id.wire().leading_zeros() {
        0 => Role::Handoff,
        1 => Role::Repair,
        2 => Role::TombstoneGc,
        _ => Role::Coordinator,
    }
}

/// Issues the request ids of one role.
#[derive(Clone, Debug)]
pub(super) struct RequestIds {
    role: Role,
    last: u64,
}

impl RequestIds {
    /// Ids begin at a `random` place, so that answers to an earlier incarnation of this node are
    /// not taken for answers to this one.
    pub(super) fn new(role: Role, random: u64) -> Self {
        RequestIds { role, last: random >> 3 }
    }

    pub(super) fn next(&mut self) -> RequestId {
        self.last += 1;
        let id = RequestId::of_wire(self.role.tag() | self.last);
        debug_assert_eq!(role_of(id), self.role, "a random start leaves room for 2^61 ids");
        id
    }
}

/// Names a batch of writes by its place in the order of all batches of an incarnation: 1 for the
/// first, no gaps. A sync report with one says that it and every batch before it are durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SyncSeq(pub u64);

impl SyncSeq {
    /// Before the first batch: durable from the start.
    pub const NONE: SyncSeq = SyncSeq(0);

    /// The one that follows. At a million batches a second they last for 500,000 years.
    #[must_use]
    pub const fn next(self) -> Self {
        SyncSeq(self.0 + 1)
    }
}

/// Names a read of a record, a listing of keys or one of hints, in the order and in its answer:
/// unique within an incarnation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadToken(pub u64);

/// Names a scan of the store, in the order and in its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScanToken {
    number: u64,
    purpose: ScanPurpose,
}

/// What a scan is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum ScanPurpose {
    /// Trees are built, or compared with the disk.
    #[default]
    Trees,
    /// A comparison that this node has begun.
    Exchange,
    /// A list of keys for a peer's comparison.
    PeerList,
    /// The choice of tombstones that are to be purged.
    PurgeableKeys,
    /// Records that are to be discarded.
    Task,
    /// Records that are left of a partition that this node does not own.
    Surplus,
}

impl ScanToken {
    pub(super) fn new(number: u64, purpose: ScanPurpose) -> Self {
        ScanToken { number, purpose }
    }

    pub(super) fn purpose(self) -> ScanPurpose {
        self.purpose
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_finds_the_role_that_queried() {
        for role in [Role::Coordinator, Role::TombstoneGc, Role::Repair, Role::Handoff] {
            for random in [0, 1, u64::MAX / 2, u64::MAX - 64] {
                let mut ids = RequestIds::new(role, random);
                let (first, second) = (ids.next(), ids.next());
                assert_eq!([first, second].map(role_of), [role; 2]);
                assert_eq!(RequestId::of_wire(second.wire()), second);
                assert_ne!(first, second);
            }
        }
        assert_eq!(role_of(RequestId::NONE), Role::Coordinator);
    }
}
