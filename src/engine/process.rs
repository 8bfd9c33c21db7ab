//! What a daemon has of its process: signals, standard input, the service manager, randomness.

use std::io;
use std::thread::{Builder, JoinHandle};

use rustix::process::{
    Resource, Rlimit, Signal, getrlimit, set_parent_process_death_signal, setrlimit,
};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use signal_hook::low_level;
use tokio::sync::mpsc::Sender;

/// Added to a signal's number, this is the exit code of a process that it ended.
const EXIT_BY_SIGNAL: i32 = 128;

/// The thread that waits for signals; it ends with this value.
#[derive(Debug)]
pub(super) struct SignalWatch {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Drop for SignalWatch {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Sends the name of the first SIGTERM or SIGINT to `stop`. A second one ends the process at once,
/// without the mark of a clean stop, as a crash would.
pub(super) fn watch_signals(stop: Sender<String>) -> io::Result<SignalWatch> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let handle = signals.handle();
    let thread = Builder::new().name("signals".to_owned()).spawn(move || {
        for (count, signal) in signals.forever().enumerate() {
            if count > 0 {
                low_level::exit(EXIT_BY_SIGNAL + signal);
            }
            let name = low_level::signal_name(signal).unwrap_or("a signal");
            let _ = stop.try_send(name.to_owned());
        }
    })?;
    Ok(SignalWatch { handle, thread: Some(thread) })
}

/// Tells `stop` when standard input ends.
pub(super) fn watch_stdin(stop: Sender<String>) -> io::Result<()> {
    // Frozen, it would not notice the end of its parent: SIGCONT wakes it then. Without that it serves as well.
    let _ = set_parent_process_death_signal(Some(Signal::CONT));
    Builder::new().name("stdin".to_owned()).spawn(move || {
        // An input that cannot be read has ended, too.
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        let _ = stop.try_send("the end of standard input".to_owned());
    })?;
    Ok(())
}

/// Takes as many descriptors as it may have: a login allows 1,024, and as many clients may be connected.
pub(super) fn raise_descriptors() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // With fewer of them, connections wait.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// Tells the service manager, if one waits for that. A manager that cannot be told changes nothing here.
pub(super) fn notify(state: NotifyState<'_>) {
    let _ = sd_notify::notify(&[state]);
}
