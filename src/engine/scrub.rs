//! The thread that reads the store off the device, as often as the configuration asks for.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use pixii_core::store::Store;
use tokio::sync::mpsc::UnboundedSender;

use super::storage::Report;

/// No part is read sooner than this after another one.
const SHORTEST: Duration = Duration::from_millis(50);

/// The thread; it ends with this value.
#[derive(Debug)]
pub(super) struct Scrubber {
    interval_ms: Arc<AtomicU64>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Scrubber {
    /// Starts it: all of the store is read in `interval_ms`. It reports damage, and ends then.
    pub(super) fn start(
        store: Arc<dyn Store>,
        interval_ms: u64,
        reports: UnboundedSender<Report>,
    ) -> io::Result<Self> {
        let interval_ms = Arc::new(AtomicU64::new(interval_ms));
        let (stop, stopped) = channel();
        let queried = interval_ms.clone();
        let thread = Builder::new().name("store-scrubber".to_owned()).spawn(move || {
            let (mut part, mut parts) = (0, 1);
            loop {
                // One part more than there are: a pass is over before the interval is.
                let interval = Duration::from_millis(queried.load(Ordering::Relaxed));
                let pause = interval.checked_div(parts + 1).unwrap_or(interval).max(SHORTEST);
                if stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
                match store.scrub(part) {
                    Ok(scrubbed) if scrubbed.parts == 0 => return,
                    Ok(scrubbed) => {
                        if let Some(damage) = scrubbed.damage {
                            let _ = reports.send(Report::Damaged(damage));
                            return;
                        }
                        parts = u32::try_from(scrubbed.parts).unwrap_or(u32::MAX - 1);
                        part = (part + 1) % scrubbed.parts;
                        let _ = reports.send(Report::Scrubbed);
                    }
                    Err(error) => {
                        let _ = reports.send(Report::Failed(error));
                        return;
                    }
                }
            }
        })?;
        Ok(Scrubber { interval_ms, stop: Some(stop), thread: Some(thread) })
    }

    /// From the next part on, all is read in this time.
    pub(super) fn set_interval(&self, interval_ms: u64) {
        self.interval_ms.store(interval_ms, Ordering::Relaxed);
    }
}

impl Drop for Scrubber {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
