//! Pixii: a Dynamo-style key-value store. ARCHITECTURE.md is the map of this crate.

// Floor 0: values. No IO, no clock, no randomness of their own.
pub mod causal;
pub mod emulation;
pub mod generation;
pub mod members;
pub mod merkle;
pub mod ring;
pub mod rng;
pub mod secret;
pub mod tally;
pub mod types;

// Floor 1: words. Messages, their bytes, and what a store is.
pub mod message;
pub mod store;
pub mod wire;

// Floor 2: the machine. Inputs in, outputs out.
pub mod node;

// Floor 3: drivers. They own sockets, disks, threads and the clock, real or simulated.
pub mod client;
pub mod config;
pub mod engine;
mod metrics;
mod net;
pub mod sim;
