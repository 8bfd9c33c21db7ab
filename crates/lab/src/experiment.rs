//! Experiments: measurements on clusters in virtual time or of real daemons, with an emulated
//! network, and the values of theory beside them.

mod driver;
pub(crate) mod failures;
pub(crate) mod grid;
mod real;
pub(crate) mod recovery;
pub(crate) mod report;
pub(crate) mod scale;
mod simulated;
pub(crate) mod site;
pub(crate) mod staleness;
mod theory;
pub(crate) mod visibility;

/// Called after each point; an error ends the run.
pub(crate) type Step<'a> = &'a mut dyn FnMut() -> Result<(), String>;
