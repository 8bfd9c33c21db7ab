//! Where an experiment runs: it founds its clusters in virtual time or of real daemons.

use pixii_kit::signals::Interrupt;
use pixii_sim::cluster::Setup;

use super::driver::Driver;
use super::real::Real;
use super::simulated::Simulated;
use crate::daemon;

/// What clusters are made of.
#[derive(Clone, Copy)]
pub(crate) enum Site<'a> {
    /// Nodes in virtual time: exact, and the same again by their seed.
    Virtual,
    /// Daemons on loopback, until the interrupt is asked.
    Real(&'a Interrupt),
}

impl<'a> Site<'a> {
    /// True if time is real.
    pub(crate) fn is_real(self) -> bool {
        matches!(self, Site::Real(_))
    }

    /// A cluster that serves. The error says why there is none.
    pub(crate) fn found(self, setup: &Setup) -> Result<Box<dyn Driver + 'a>, String> {
        match self {
            Site::Virtual => Ok(Box::new(Simulated::found(setup)?)),
            Site::Real(interrupt) => {
                let program = daemon::program().map_err(|error| error.message)?;
                Ok(Box::new(Real::start(program, setup, interrupt)?))
            }
        }
    }
}
