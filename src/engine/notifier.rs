//! The systemd notifier. It notifies the service manager, if there is one, when the daemon is
//! ready, what it does, and that it makes progress.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// The environment variable that names the service manager's socket.
const SOCKET: &str = "NOTIFY_SOCKET";
/// Interval at which the condition of the daemon is checked.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// A daemon that waits for silent members is reported ready after this time, because those members
/// may wait for it to become ready.
const READY_AT_LATEST: Duration = Duration::from_secs(10);
/// How often the watchdog is fed within its interval.
const FEEDS: u32 = 4;
/// Interval at which a start or a stop is checked for progress.
const BYTES_CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// Bytes that it must have read or written since the last check to count as progress.
const MOVED_BYTES: u64 = 64 << 10;
/// Time that the service manager is then asked for.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Notifies the service manager, if there is one; false if that failed. A manager that cannot be
/// reached, or does not read for a while, has no effect on the daemon.
pub(super) fn notify(state: &NotifyState<'_>) -> bool {
    env::var_os(SOCKET).is_none_or(|socket| report(&socket, &state.to_string()).is_ok())
}

/// Does not block: the library's own function would wait for a manager that hangs, and the engine
/// with it.
fn report(socket: &OsStr, text: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
    };
    let from = UnixDatagram::unbound()?;
    from.set_nonblocking(true)?;
    from.send_to_addr(text.as_bytes(), &address).map(drop)
}

/// The state of the notifications in this incarnation.
#[derive(Debug)]
pub(super) struct SystemdNotifier {
    listens: bool,
    watchdog: Option<Duration>,
    begun: Instant,
    fed: Option<Instant>,
    looked: Option<Instant>,
    stated: String,
    timeout: Option<TimeoutExtension>,
}

impl SystemdNotifier {
    /// A notifier that has reported nothing. Until the daemon is ready, `timeout` extends the time
    /// of a start that makes progress.
    pub(super) fn new(timeout: TimeoutExtension) -> Self {
        SystemdNotifier {
            listens: listens(),
            watchdog: sd_notify::watchdog_enabled(),
            begun: Instant::now(),
            fed: None,
            looked: None,
            stated: String::new(),
            timeout: Some(timeout),
        }
    }

    /// Feeds the watchdog when that is due. A store that hangs does not end the daemon: it reports
    /// that, and other nodes serve. Once ended, it could not even be started again.
    pub(super) fn feed(&mut self, now: Instant) {
        let Some(interval) = self.watchdog else { return };
        if is_fed(interval, self.fed.map(|fed| now.saturating_duration_since(fed))) {
            self.fed = Some(now);
            // A lost notification is followed by others in time.
            notify(&NotifyState::Watchdog);
        }
    }

    /// True when the condition of the daemon is to be reported with [`SystemdNotifier::report`].
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let rested = |looked| now.saturating_duration_since(looked) >= CHECK_INTERVAL;
        self.listens && self.looked.is_none_or(rested)
    }

    /// The condition may have changed, so the next check is due at once.
    pub(super) fn look_again(&mut self) {
        self.looked = None;
    }

    /// Notifies a changed condition, and once that the daemon is ready: when it `serves`, or has
    /// waited for [`READY_AT_LATEST`].
    pub(super) fn report(&mut self, now: Instant, serves: bool, condition: String) {
        self.looked = Some(now);
        let waited = now.saturating_duration_since(self.begun) >= READY_AT_LATEST;
        if (serves || waited) && self.timeout.is_some() && notify(&NotifyState::Ready) {
            self.timeout = None;
        }
        if condition != self.stated && notify(&NotifyState::Status(&condition)) {
            self.stated = condition;
        }
    }
}

fn listens() -> bool {
    env::var_os(SOCKET).is_some()
}

/// Whether a watchdog of this interval is fed now, `since` after the last time.
fn is_fed(interval: Duration, since: Option<Duration>) -> bool {
    since.is_none_or(|since| since >= interval / FEEDS)
}

/// Until it is dropped, asks the manager for more time whenever this process has read or written.
#[derive(Debug)]
pub(super) struct TimeoutExtension {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl TimeoutExtension {
    /// Begins to watch; does nothing without a service manager.
    pub(super) fn begin() -> io::Result<Self> {
        if !listens() {
            return Ok(TimeoutExtension { end: None, thread: None });
        }
        let (end, ended) = channel();
        let mut before = moved_bytes();
        let thread = Builder::new().name("timeout".to_owned()).spawn(move || {
            while ended.recv_timeout(BYTES_CHECK_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                let now = moved_bytes();
                if now.saturating_sub(before) >= MOVED_BYTES {
                    notify(&NotifyState::ExtendTimeoutUsec(TIMEOUT.as_micros() as u32));
                }
                before = now;
            }
        })?;
        Ok(TimeoutExtension { end: Some(end), thread: Some(thread) })
    }
}

impl Drop for TimeoutExtension {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Bytes that this process has read and written; 0 where the system does not report it.
fn moved_bytes() -> u64 {
    sum_moved(&fs::read_to_string("/proc/self/io").unwrap_or_default())
}

fn sum_moved(snapshot: &str) -> u64 {
    let counts = snapshot.lines().filter_map(|line| line.split_once(": "));
    let moved = counts.filter(|(name, _)| ["rchar", "wchar"].contains(name));
    moved.filter_map(|(_, count)| count.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_watchdog_is_fed_in_time() {
        let fed = |since: Option<u32>| is_fed(60 * SECOND, since.map(|since| since * SECOND));
        assert!(fed(None), "at once");
        assert!(!fed(Some(14)), "not more often than that");
        assert!(fed(Some(15)) && fed(Some(600)));
    }

    #[test]
    fn a_notifier_that_takes_nothing_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        assert!(report(path.as_os_str(), "READY=1").is_err(), "nobody is there");
        let notifier = UnixDatagram::bind(&path).unwrap();
        let reported = (0..100_000).take_while(|_| report(path.as_os_str(), "WATCHDOG=1").is_ok());
        assert!((1..100_000).contains(&reported.count()));
        notifier.recv(&mut [0; 64]).unwrap();
        assert!(report(path.as_os_str(), "READY=1").is_ok(), "there is room again");
    }

    #[test]
    fn what_a_process_moves_is_read_from_its_snapshot() {
        let snapshot =
            "rchar: 100\nwchar: 23\nsyscr: 7\nread_bytes: 4096\ncancelled_write_bytes: 0\n";
        assert_eq!(sum_moved(snapshot), 123);
        assert_eq!(sum_moved(""), 0);
    }
}
