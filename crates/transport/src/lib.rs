//! Connections: frames in and out of a socket, the handshake that begins each, the memory that they
//! may take, and the limits of what they may log. Both sides use it: the daemon and its clients.

pub mod frames;
pub mod handshake;
pub mod inflow;
mod pace;
pub mod secret_file;
pub mod throttle;

use std::fs::File;
use std::io::{self, Read};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Random bytes of the system.
pub fn random<const BYTES: usize>() -> io::Result<[u8; BYTES]> {
    let mut bytes = [0; BYTES];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The content of a mutex, whether or not a thread panicked with it.
pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
