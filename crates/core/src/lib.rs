//! The core of Pixii: values, messages, what a store is, and the state machine of a node. Nothing here
//! has a clock, a socket, a disk or randomness of its own: inputs go in, outputs come out, and two
//! drivers use it unchanged, the daemon and the simulator. ARCHITECTURE.md is the map.

// Values.
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

// Messages, their bytes, and what a store is.
pub mod message;
pub mod store;
pub mod wire;

// The machine.
pub mod node;
