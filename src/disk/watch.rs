//! Wakes a writer that sled has forgotten. When a write of sled's log fails on one of its own
//! threads, it may note the error and not know who waits for that write; a flush by anyone else
//! reports them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

/// How often it looks. A call that was in progress at the last look too has taken long.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// The thread that looks; it ends with this value.
#[derive(Debug)]
pub(super) struct Watch {
    /// Goes up when a call begins and again when it ends: odd while one is in progress.
    turns: Arc<AtomicU64>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Starts the thread; it calls `wake` once for each call that takes long.
    pub(super) fn start(wake: impl Fn() + Send + 'static) -> io::Result<Self> {
        let turns = Arc::new(AtomicU64::new(0));
        let (stop, stopped) = channel();
        let looked_at = turns.clone();
        let thread = Builder::new().name("store-watch".to_owned()).spawn(move || {
            let (mut before, mut woken) = (0, 0);
            while stopped.recv_timeout(CHECK_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                let now = looked_at.load(Ordering::SeqCst);
                if now % 2 == 1 && now == before && now != woken {
                    woken = now;
                    wake();
                }
                before = now;
            }
        })?;
        Ok(Watch { turns, stop: Some(stop), thread: Some(thread) })
    }

    /// Watches over `call`, the only one in progress.
    pub(super) fn over<T>(&self, call: impl FnOnce() -> T) -> T {
        self.turns.fetch_add(1, Ordering::SeqCst);
        let outcome = call();
        self.turns.fetch_add(1, Ordering::SeqCst);
        outcome
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_takes_long_is_woken_once() {
        let (wake, woken) = channel();
        let watch = Watch::start(move || wake.send(()).unwrap()).unwrap();
        for _ in 0..3 {
            watch.over(|| {});
        }
        watch.over(|| woken.recv().unwrap());
        watch.over(|| woken.recv().unwrap());
        drop(watch);
        assert!(woken.recv().is_err(), "once for each, and not for the others");
    }
}
