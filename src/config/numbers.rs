//! The keys with numbers: their defaults and ranges.

use std::ops::RangeInclusive;

use pixii_core::types::{MAX_N, MAX_PARTITIONS};

/// A key whose value is a number.
pub(super) struct Number {
    /// The name of the key.
    pub(super) key: &'static str,
    /// Its value where the file has none.
    pub(super) default: i64,
    /// The values that it takes.
    pub(super) range: RangeInclusive<i64>,
}

const fn number(key: &'static str, default: i64, range: RangeInclusive<i64>) -> Number {
    Number { key, default, range }
}

pub(super) const N: Number = number("n", 3, 1..=MAX_N as i64);
pub(super) const PARTITIONS: Number = number("partitions", 256, 1..=MAX_PARTITIONS as i64);
pub(super) const CONNECTIONS: Number = number("max_connections_per_address", 256, 1..=65_536);
pub(super) const GOSSIP_INTERVAL_MS: Number = number("gossip_interval_ms", 500, 10..=60_000);
pub(super) const HINT_LIMIT_MIB: Number = number("hint_limit_mib", 1_024, 0..=1_048_576);
pub(super) const HINT_AGE_MS: Number = number("hint_age_ms", 10_800_000, 1_000..=2_592_000_000);
pub(super) const REPAIR_INTERVAL_MS: Number =
    number("repair_interval_ms", 60_000, 1_000..=86_400_000);
pub(super) const SCRUB_INTERVAL_MS: Number =
    number("scrub_interval_ms", 86_400_000, 10_000..=2_592_000_000);
pub(super) const TRANSFER_MIB_PER_SECOND: Number =
    number("transfer_mib_per_second", 32, 0..=65_536);
pub(super) const DISK_RESERVE_MIB: Number = number("disk_reserve_mib", 256, 0..=1_048_576);

/// The range of `cache_mib`, whose default follows from the memory limit.
pub(super) const CACHE_MIB: RangeInclusive<i64> = 1..=1_048_576;
/// The longest `gossip_timeout_ms`.
pub(super) const MAX_GOSSIP_TIMEOUT_MS: i64 = 3_600_000;
/// The default of `gossip_timeout_ms`, and its least value, in intervals of gossip.
pub(super) const TIMEOUT_INTERVALS: (i64, i64) = (10, 4);

impl Number {
    /// The number that is given, or the default. The error names the key and its range.
    pub(super) fn of(&self, given: Option<i64>) -> Result<i64, String> {
        check(self.key, given.unwrap_or(self.default), self.range.clone())
    }
}

/// `gossip_timeout_ms`, whose default and range follow from the interval of gossip.
pub(super) fn gossip_timeout(given: Option<i64>, interval: i64) -> Result<i64, String> {
    let (usual, least) = TIMEOUT_INTERVALS;
    let timeout = given.unwrap_or((usual * interval).min(MAX_GOSSIP_TIMEOUT_MS));
    check("gossip_timeout_ms", timeout, least * interval..=MAX_GOSSIP_TIMEOUT_MS)
}

/// The number, if it is in its range. The error names the key and the range.
pub(super) fn check(key: &str, given: i64, range: RangeInclusive<i64>) -> Result<i64, String> {
    if !range.contains(&given) {
        return Err(format!("{key} = {given}: {key} is {} to {}", range.start(), range.end()));
    }
    Ok(given)
}
