//! Names that crossed the wire up to protocol 6, where they differ from those of today.

use crate::message::Counter;

/// The level that is above 0 while the ring changes.
pub(super) const CHANGING_RING: &str = "ring_changes_under_way";

/// Counters that had another name when names crossed the wire.
const OLD_NAMES: [(Counter, &str); 12] = [
    (Counter::ReadEligibilityRegained, "authority_regained"),
    (Counter::ForgedGcEpochsRefused, "forged_generations_refused"),
    (Counter::ForgedIncarnationsRefused, "forged_lives_refused"),
    (Counter::GcEpochsAdopted, "generations_adopted"),
    (Counter::GcEpochsBegun, "generations_begun"),
    (Counter::HintsDeleted, "hints_discharged"),
    (Counter::KeysPurged, "keys_collected"),
    (Counter::OldDisksDiscarded, "old_disks_renounced"),
    (Counter::OwnIncarnationRaised, "own_life_raised"),
    (Counter::ReadsOfFallbacks, "reads_of_stand_ins"),
    (Counter::FallbacksQueried, "stand_ins_asked"),
    (Counter::WritesCoordinatedByAFallback, "writes_coordinated_by_a_stand_in"),
];

/// The name that protocol 6 has for a counter.
pub(super) fn old_name(counter: Counter) -> &'static str {
    let old = OLD_NAMES.iter().find(|(renamed, _)| *renamed == counter);
    old.map_or(counter.name(), |(_, name)| *name)
}

/// The counter that protocol 6 calls `name`; `None` if this program has none.
pub(super) fn of_old_name(name: &str) -> Option<Counter> {
    Counter::ALL.iter().copied().find(|counter| old_name(*counter) == name)
}
