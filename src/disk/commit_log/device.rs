//! The file of the commit log, as far as the log needs one, and its twin for tests: a disk in
//! memory that fails, and that forgets sectors which were not synced.

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;

use rustix::fs::Advice;

/// A file of fixed places. Everything that a call does is durable after the next [`Device::sync`].
pub(in crate::disk) trait Device: Debug + Send + Sync {
    /// Reads as many bytes as the file has from `at` on, at most as many as fit.
    fn read(&self, at: u64, bytes: &mut [u8]) -> io::Result<usize>;
    /// Bytes that the file has.
    fn length(&self) -> io::Result<u64>;
    /// Writes all of the bytes.
    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()>;
    /// Returns when everything written survives a power cut. Never called again after an error.
    fn sync(&self) -> io::Result<()>;
    /// Has later reads come from the device, as far as that has everything already.
    fn forget(&self) -> io::Result<()>;
}

impl Device for File {
    fn read(&self, at: u64, bytes: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < bytes.len() {
            match self.read_at(&mut bytes[filled..], at + filled as u64)? {
                0 => break,
                read => filled += read,
            }
        }
        Ok(filled)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, at)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn forget(&self) -> io::Result<()> {
        Ok(rustix::fs::fadvise(self, 0, None::<NonZeroU64>, Advice::DontNeed)?)
    }
}

#[cfg(test)]
pub(in crate::disk) mod twin {
    use std::collections::BTreeMap;
    use std::sync::{Mutex, MutexGuard};

    use pixii_core::rng::Rng;

    use super::*;

    /// Whatever a disk writes whole or not at all, in bytes.
    const SECTOR: usize = 512;

    #[derive(Clone, Debug, Default)]
    struct State {
        /// What a power cut leaves for certain.
        durable: Vec<u8>,
        /// Sectors that were written since the last sync.
        written: BTreeMap<usize, Vec<u8>>,
        /// The number of the next writing or syncing call.
        calls: usize,
        /// The call from which on nothing happens any more, and the error that it gives.
        fails_at: Option<(usize, i32)>,
        syncs: usize,
    }

    /// A disk in memory.
    #[derive(Debug, Default)]
    pub(in crate::disk) struct Twin(Mutex<State>);

    impl State {
        fn live(&self, sector: usize) -> Vec<u8> {
            let durable = || {
                let mut bytes = vec![0; SECTOR];
                let from = (sector * SECTOR).min(self.durable.len());
                let rest = &self.durable[from..(from + SECTOR).min(self.durable.len())];
                bytes[..rest.len()].copy_from_slice(rest);
                bytes
            };
            self.written.get(&sector).cloned().unwrap_or_else(durable)
        }

        fn length(&self) -> usize {
            let written = self.written.keys().last().map_or(0, |last| (last + 1) * SECTOR);
            self.durable.len().max(written)
        }

        fn store(durable: &mut Vec<u8>, sector: usize, bytes: &[u8]) {
            let end = (sector + 1) * SECTOR;
            durable.resize(durable.len().max(end), 0);
            durable[end - SECTOR..end].copy_from_slice(bytes);
        }

        fn call(&mut self) -> io::Result<()> {
            let call = self.calls;
            self.calls += 1;
            match self.fails_at {
                Some((at, error)) if call >= at => Err(io::Error::from_raw_os_error(error)),
                _ => Ok(()),
            }
        }
    }

    impl Twin {
        fn state(&self) -> MutexGuard<'_, State> {
            self.0.lock().unwrap()
        }

        /// From the call `at` on (counted from 0) writes and syncs give this error.
        pub(in crate::disk) fn fail_at(&self, at: usize, error: i32) {
            self.state().fails_at = Some((at, error));
        }

        /// Writing and syncing calls so far.
        pub(in crate::disk) fn calls(&self) -> usize {
            self.state().calls
        }

        /// Syncs that succeeded.
        pub(in crate::disk) fn syncs(&self) -> usize {
            self.state().syncs
        }

        /// What a power cut leaves: of the sectors that were not synced, any.
        pub(in crate::disk) fn after_power_cut(&self, rng: &mut Rng) -> Twin {
            let state = self.state();
            let mut durable = state.durable.clone();
            for (sector, bytes) in &state.written {
                if rng.chance(0.5) {
                    State::store(&mut durable, *sector, bytes);
                }
            }
            Twin(Mutex::new(State { durable, ..State::default() }))
        }

        /// What a kill leaves: everything that was written.
        pub(in crate::disk) fn after_kill(&self) -> Twin {
            let state = self.state();
            let mut durable = state.durable.clone();
            for (sector, bytes) in &state.written {
                State::store(&mut durable, *sector, bytes);
            }
            Twin(Mutex::new(State { durable, ..State::default() }))
        }

        /// Flips a bit, whether it was synced or not.
        pub(in crate::disk) fn flip(&self, at: usize, bit: u8) {
            let mut bytes = self.state().live(at / SECTOR);
            bytes[at % SECTOR] ^= 1 << bit;
            State::store(&mut self.state().durable, at / SECTOR, &bytes);
            self.state().written.remove(&(at / SECTOR));
        }
    }

    impl Device for Twin {
        fn read(&self, at: u64, bytes: &mut [u8]) -> io::Result<usize> {
            let state = self.state();
            let end = state.length();
            let length = bytes.len().min(end.saturating_sub(at as usize));
            for (offset, byte) in bytes[..length].iter_mut().enumerate() {
                let at = at as usize + offset;
                *byte = match state.written.get(&(at / SECTOR)) {
                    Some(sector) => sector[at % SECTOR],
                    None => state.durable.get(at).copied().unwrap_or(0),
                };
            }
            Ok(length)
        }

        fn length(&self) -> io::Result<u64> {
            Ok(self.state().length() as u64)
        }

        fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
            let mut state = self.state();
            state.call()?;
            let (mut at, mut rest) = (at as usize, bytes);
            while !rest.is_empty() {
                let sector = at / SECTOR;
                let mut whole = state.live(sector);
                let length = rest.len().min(SECTOR - at % SECTOR);
                whole[at % SECTOR..at % SECTOR + length].copy_from_slice(&rest[..length]);
                state.written.insert(sector, whole);
                (at, rest) = (at + length, &rest[length..]);
            }
            Ok(())
        }

        fn sync(&self) -> io::Result<()> {
            let state = &mut *self.state();
            state.call()?;
            state.syncs += 1;
            for (sector, bytes) in std::mem::take(&mut state.written) {
                State::store(&mut state.durable, sector, &bytes);
            }
            Ok(())
        }

        fn forget(&self) -> io::Result<()> {
            Ok(())
        }
    }
}
