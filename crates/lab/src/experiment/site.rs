//! The kind of clusters on which an experiment runs: in virtual time or of real daemons.

use pixii_kit::signals::Interrupt;
use pixii_sim::cluster::Setup;

use super::driver::Driver;
use super::real::Real;
use super::simulated::Simulated;
use crate::daemon;

/// The kind of nodes of the clusters.
#[derive(Clone, Copy)]
pub(crate) enum Site<'a> {
    /// Nodes in virtual time: exact, and repeatable by their seed.
    Virtual,
    /// Daemons on loopback, until the user interrupts the run.
    Real(&'a Interrupt),
}

impl<'a> Site<'a> {
    /// True for real daemons, whose time is real.
    pub(crate) fn is_real(self) -> bool {
        matches!(self, Site::Real(_))
    }

    /// Founds a cluster and waits until it serves. The error says why it does not.
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
