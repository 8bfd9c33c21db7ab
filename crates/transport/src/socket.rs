//! Options of sockets: for how long a connection keeps what its other side does not acknowledge.
//!
//! A write that arrives late may have been repeated elsewhere and replaced since. So whoever sends
//! writes, a client or a node, gives them up with their connection after [`SENDER_TIMEOUT`], also
//! when its process has closed the connection, or ended, meanwhile.

use std::io;
use std::time::Duration;

use pixii_core::types::REPEAT_WINDOW;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// A connection on which writes leave ends when its other side acknowledges nothing for this time.
pub const SENDER_TIMEOUT: Duration = Duration::from_secs(10);
/// A client sends no repetition of a put later than this after the first attempt.
pub const REPEATS_TIMEOUT: Duration = Duration::from_secs(10);
/// A silent connection is probed after this time.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// A repetition of a put is sent at last after [`REPEATS_TIMEOUT`], arrives at a node after
/// [`SENDER_TIMEOUT`], and at the owner that this node forwards it to after another one. The event
/// that keeps the put dead stays for longer.
const _: () = {
    let late_ms = REPEATS_TIMEOUT.as_millis() + 2 * SENDER_TIMEOUT.as_millis();
    assert!(late_ms < REPEAT_WINDOW.as_millis() as u128);
};

/// Sends small frames at once, and detects within about `timeout` that the other side lost its
/// power, whether bytes are in flight to it or not.
pub fn prepare(stream: &TcpStream, timeout: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 2);
    socket.set_tcp_keepalive(&keepalive.with_retries(2))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(timeout))?;
    #[cfg(not(target_os = "linux"))]
    let _ = timeout;
    Ok(())
}
