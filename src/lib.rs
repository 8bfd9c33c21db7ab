//! The daemon of Pixii, a Dynamo-style key-value store: the drivers of the machine in `pixii-core`.
//! They own sockets, disks, threads and the clock. ARCHITECTURE.md is the map.

pub mod config;
pub mod disk;
pub mod engine;
pub mod http;
mod metrics;
mod net;
pub mod reference;
pub mod table;

use std::sync::LazyLock;

/// The commit that this program was built from, where that is known.
pub const COMMIT: Option<&str> = option_env!("PIXII_COMMIT");

/// The version of this program: its number, the commit that it was built from where that is known,
/// and the versions of what it sends and of what it stores.
pub static VERSION: LazyLock<String> = LazyLock::new(|| {
    format!(
        "{} (commit {}, protocol {}, schema {})",
        env!("CARGO_PKG_VERSION"),
        COMMIT.unwrap_or("unknown"),
        pixii_core::wire::PROTOCOL,
        disk::NEWEST,
    )
});
