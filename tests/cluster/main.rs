//! End to end: the real command against real daemons, each a process with a directory of its own.

#[cfg(test)]
mod causes;
// The daemons' files and processes, as `dev` and `demo` have them; not all of it is needed here.
#[cfg(test)]
#[allow(dead_code, unused_imports)]
#[path = "../../src/cli/cluster.rs"]
mod cluster;
#[cfg(test)]
mod copies;
#[cfg(test)]
mod damage;
#[cfg(test)]
mod data;
#[cfg(test)]
mod deaths;
#[cfg(test)]
mod draining;
#[cfg(test)]
mod exhaustion;
#[cfg(test)]
mod foreground;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod intruders;
#[cfg(test)]
mod laboratory;
#[cfg(test)]
mod mistakes;
#[cfg(test)]
mod network;
#[cfg(test)]
mod replacing;
#[cfg(test)]
mod secrets;
#[cfg(test)]
mod starts;
#[cfg(test)]
mod transfer;
#[cfg(test)]
mod trees;
