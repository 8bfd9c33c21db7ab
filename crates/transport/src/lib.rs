//! Connections: frames in and out of a socket, the handshake that begins each, the memory that they
//! may take, and the limits of what they may log. The daemon and its clients use it.

pub mod frames;
pub mod handshake;
pub mod inflow;
mod pace;
pub mod secret_file;
pub mod socket;
pub mod throttle;

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Random bytes of the operating system.
pub fn random<const BYTES: usize>() -> io::Result<[u8; BYTES]> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

/// The content of a mutex, whether or not a thread panicked with it.
pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
