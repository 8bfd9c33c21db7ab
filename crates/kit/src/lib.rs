//! What the commands `pixii` and `pixii-lab` share, and the tests with them: how a command ends,
//! the arguments that several have, tables, signals, and clusters of real daemons on this machine.

pub mod arguments;
pub mod cluster;
pub mod outcome;
pub mod removal;
pub mod signals;
pub mod text;
