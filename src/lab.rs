//! What puts a cluster to the test: load, the ledger that judges it, and what is measured and drilled
//! with them. Everything talks to daemons as any client does; nothing here is part of one.

pub(crate) mod bench;
pub(crate) mod drill;
pub(crate) mod experiment;
pub(crate) mod ledger;
pub(crate) mod pbs;
pub(crate) mod plot;
pub(crate) mod workload;

#[cfg(test)]
mod tests;
