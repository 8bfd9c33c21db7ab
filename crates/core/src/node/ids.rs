//! The names of requests and of scans: each carries whom its answer is for.

/// Names a request, in the message that asks and in every answer to it. On the wire it is the
/// `request_id` of the message. The bits at the top say which role asked; whoever answers only
/// gives it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct RequestId(u64);

/// Who awaits the answers to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Coordinator,
    TombstoneGc,
    Repair,
    /// An owner holds what the requests of this role bring to another limit.
    Handoff,
}

impl Role {
    /// The bits at the top of its ids: at most one is set, and what follows begins below all of
    /// them.
    pub(super) const fn tag(self) -> u64 {
        match self {
            Role::Coordinator => 0,
            Role::TombstoneGc => 1 << 61,
            Role::Repair => 1 << 62,
            Role::Handoff => 1 << 63,
        }
    }
}

impl RequestId {
    /// Of a request whose answer nobody awaits.
    pub(super) const NONE: RequestId = RequestId(0);

    pub(super) const fn of_wire(request_id: u64) -> Self {
        RequestId(request_id)
    }

    pub(super) const fn wire(self) -> u64 {
        self.0
    }

    /// The role that awaits answers with this id, if it is one that this node has given out.
    pub(super) fn role(self) -> Role {
        match self.0.leading_zeros() {
            0 => Role::Handoff,
            1 => Role::Repair,
            2 => Role::TombstoneGc,
            _ => Role::Coordinator,
        }
    }
}

/// Gives out the ids of one role.
#[derive(Clone, Debug)]
pub(super) struct RequestIds {
    role: Role,
    last: u64,
}

impl RequestIds {
    /// They begin at a `random` place, so that answers to a former life of this node are not taken
    /// for answers to this one.
    pub(super) fn new(role: Role, random: u64) -> Self {
        RequestIds { role, last: random >> 3 }
    }

    pub(super) fn next(&mut self) -> RequestId {
        self.last += 1;
        let id = RequestId(self.role.tag() | self.last);
        debug_assert_eq!(id.role(), self.role, "a random start leaves room for 2^61 ids");
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
                assert_eq!([first, second].map(RequestId::role), [role; 2]);
                assert_eq!(RequestId::of_wire(second.wire()), second);
                assert_ne!(first, second);
            }
        }
        assert_eq!(RequestId::NONE.role(), Role::Coordinator);
    }
}
