//! The core of Pixii: values, messages, what a store is, and the state machine of a node.
//!
//! Nothing here has a clock, a thread, a socket, a file or randomness of its own. A node is one
//! function, [`node::Node::handle`]: the time and an input go in, outputs come out. Two drivers use
//! it unchanged, the daemon (`pixii`) and the simulator (`pixii-sim`), so that what the simulator
//! checks is what runs.
//!
//! From the ground up:
//!
//! - [`types`], [`causal`], [`ring`], [`members`], [`merkle`], [`quorum`], [`gc_epoch`]:
//!   values that merge, places of keys, quorums, epochs of tombstone GC;
//! - [`wire`], [`message`], [`store`]: what nodes and clients send, how it becomes bytes, and the
//!   trait that a disk fulfils, with its in-memory twin;
//! - [`node`]: the machine, and [`emulation`], the rules of an emulated network.
//!
//! # Where a key is, and what two writers leave
//!
//! ```
//! use pixii_core::causal::{Actor, ActorEpoch, Context, Object, Version};
//! use pixii_core::ring::Ring;
//! use pixii_core::types::{Blob, Key, NodeId, WriteId};
//!
//! // Three of four nodes own each key.
//! let nodes: Vec<NodeId> = ["n1", "n2", "n3", "n4"].map(NodeId::of).to_vec();
//! let ring = Ring::new(&nodes, 3, 64)?;
//! let key = Key::new("basket")?;
//! assert_eq!(ring.owners(ring.partition(&key)).len(), 3);
//!
//! // Two writers who have seen nothing, at two owners: both values are kept as siblings.
//! let actor = |store| Actor { store, actor_epoch: ActorEpoch(1) };
//! let version = |write, value: &'static str| Version {
//!     write: WriteId(write),
//!     value: Blob(value.into()),
//! };
//! let nothing = Context::default();
//! let (milk, _) = Object::default().update(&nothing, actor(1), version(1, "milk"));
//! let (tea, _) = Object::default().update(&nothing, actor(2), version(2, "tea"));
//! let both = milk.sync(&tea);
//! assert_eq!(both.len(), 2);
//!
//! // A writer who has seen both replaces both.
//! let (merged, _) = both.update(&both.context(), actor(1), version(3, "milk,tea"));
//! assert_eq!(both.sync(&merged).len(), 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

// Values.
pub mod causal;
pub mod emulation;
pub mod gc_epoch;
pub mod members;
pub mod merkle;
pub mod quorum;
pub mod ring;
pub mod rng;
pub mod secret;
mod time;
pub mod types;

// Messages, their bytes, and what a store is.
pub mod message;
pub mod store;
pub mod wire;

// The machine.
pub mod node;
