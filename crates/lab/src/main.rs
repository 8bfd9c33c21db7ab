//! What puts a cluster to the test: the simulator, load, the ledger that judges it, drills,
//! experiments and benchmarks. Everything talks to daemons as any client does; nothing here is part
//! of one.

mod bench;
mod commands;
mod daemon;
mod drill;
mod experiment;
mod ledger;
mod mean;
mod pbs;
mod plot;
mod workload;

#[cfg(test)]
mod tests;

use std::process::ExitCode;

fn main() -> ExitCode {
    commands::run()
}
