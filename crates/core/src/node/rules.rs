//! What the safety of a change of the ring rests on, as functions of nothing but what each decision
//! depends on. The machine follows them, and so does the exhaustive model in `tests/model.rs`.

use std::collections::BTreeSet;

use crate::ring::{RingId, Step};
use crate::types::NodeId;

/// True if a replica whose ring in force is `own` takes what it is asked under the ring `theirs`.
/// `before` is the ring before its own, if the two meet. `is_accepted` says whether the sender has
/// introduced itself with `own`, or a later ring, on its present link: a node that returns with an
/// old ring gets the one in force first.
pub fn takes(own: RingId, before: Option<RingId>, theirs: RingId, is_accepted: bool) -> bool {
    theirs >= own || before == Some(theirs) && is_accepted
}

/// True if a comparison that begins now can prove that an owner has all that was acknowledged: in
/// the fill of a change, writes before may have gone to the old owners alone until every member has
/// confirmed the ring (`is_fenced`).
pub fn may_prove(step: Option<Step>, is_fenced: bool) -> bool {
    is_fenced || step != Some(Step::Fill)
}

/// True if the ring behind one in this step may be made: every member has confirmed the ring, and
/// in a fill that moves something (`fills`) every member has all that it owns.
pub fn goes_on(is_fenced: bool, fills: bool, are_filled: bool) -> bool {
    is_fenced && (!fills || are_filled)
}

/// The first of the owners that is not proven to hold what this node, which is none of them, has of
/// their partition; it erases that only when there is none.
pub fn unproven(owners: &[NodeId], proven: &BTreeSet<NodeId>) -> Option<NodeId> {
    owners.iter().find(|owner| !proven.contains(owner)).copied()
}
