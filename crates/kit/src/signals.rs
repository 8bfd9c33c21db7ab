//! Ctrl-C and SIGTERM as a question: has anyone asked us to stop?

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::outcome::CommandError;

/// How often a waiting task asks.
const POLL: Duration = Duration::from_millis(50);

/// True from the first SIGINT or SIGTERM on.
#[derive(Clone)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens from now on. With `twice`, a second signal ends the process at once.
    pub fn listen(twice: bool) -> Result<Self, CommandError> {
        let queried = Arc::new(AtomicBool::new(false));
        let register = || -> io::Result<()> {
            for signal in [SIGINT, SIGTERM] {
                if twice {
                    // Registered first, so that the first signal finds the flag still down.
                    flag::register_conditional_shutdown(signal, 1, Arc::clone(&queried))?;
                }
                flag::register(signal, Arc::clone(&queried))?;
            }
            Ok(())
        };
        register().map_err(|error| CommandError::error(format!("no signal handler: {error}")))?;
        Ok(Interrupt(queried))
    }

    /// Whether to stop.
    pub fn queried(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Returns when asked to stop.
    pub async fn wait(&self) {
        while !self.queried() {
            tokio::time::sleep(POLL).await;
        }
    }
}
