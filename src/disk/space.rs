//! The space of sled's log on its file system: taken before it is needed.

use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::guarded::{Sled, StoreFault};
use super::log::SEGMENT_BYTES;

/// Log space, in bytes, that is allocated ahead of the known need. Requests in progress when the
/// space runs out are written there.
const AHEAD_BYTES: u64 = SEGMENT_BYTES as u64 / 2;
/// Log space that anything written wants, in bytes.
const LEAST_ROOM_BYTES: u64 = 128 << 10;
/// Log bytes for each byte of a record, pages that are rewritten included; 5.5 was measured for
/// records of 500 bytes.
pub(super) const LOG_PER_BYTE: u64 = 6;

impl Sled {
    /// Bytes of the file system that this process may still use, after the space is allocated for
    /// the rest of the log's segment and for `coming_bytes` more bytes of records; 0 when there is
    /// too little for that.
    ///
    /// At every open sled fills the rest of the segment with zeros, up to 8 MiB. A disk may be
    /// full, but a segment that was begun must have its space, or the store could not be opened
    /// again.
    pub(super) fn free_beside(&self, coming_bytes: u64) -> Result<u64, StoreFault> {
        self.run(|_| {
            let length = self.log().metadata()?.len();
            let ahead = AHEAD_BYTES.saturating_add(coming_bytes.saturating_mul(LOG_PER_BYTE));
            let enough = self.take_space(length.saturating_add(ahead))?
                // Those zeros may be the space that is needed.
                || (self.take_space(length)? && self.ends_with_zeros(length, ahead)?);
            Ok(if enough { self.free()? } else { 0 })
        })
    }

    /// True if the log has space for so many more bytes of records. What [`Sled::free_beside`]
    /// keeps for requests in progress may be used for them.
    pub(super) fn has_room(&self, bytes: u64) -> Result<bool, StoreFault> {
        self.run(|_| {
            let length = self.log().metadata()?.len();
            let wanted = LEAST_ROOM_BYTES.saturating_add(bytes.saturating_mul(LOG_PER_BYTE));
            Ok(self.take_space(length.saturating_add(wanted))?
                || (self.take_space(length)? && self.ends_with_zeros(length, wanted)?))
        })
    }

    /// Allocates the space for all segments up to the one with this byte; false when there is not
    /// enough.
    fn take_space(&self, up_to: u64) -> io::Result<bool> {
        let segment = SEGMENT_BYTES as u64;
        let end = up_to.div_ceil(segment).saturating_mul(segment).min(i64::MAX as u64);
        // Checked each time: where sled truncates the file, the space behind is freed.
        let missing = end.saturating_sub(self.log().metadata()?.blocks() * 512);
        if missing == 0 {
            return Ok(true);
        }
        // Checked first: ext4 keeps what it has allocated before it fails.
        if missing > self.free()? {
            return Ok(false);
        }
        match rustix::fs::fallocate(self.log(), FallocateFlags::KEEP_SIZE, 0, end) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(true),
            Err(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn free(&self) -> io::Result<u64> {
        let disk = rustix::fs::fstatvfs(self.log())?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// True if the last `wanted` bytes of the log's last segment are zeros, so that nothing was
    /// written there yet.
    fn ends_with_zeros(&self, length: u64, wanted: u64) -> io::Result<bool> {
        const PIECE: u64 = 64 << 10;
        let begin = match length.checked_sub(wanted) {
            Some(begin) if wanted <= SEGMENT_BYTES as u64 => begin,
            _ => return Ok(false),
        };
        let mut piece = vec![0; PIECE as usize];
        let mut end = length;
        while end > begin {
            let from = end.saturating_sub(PIECE).max(begin);
            let bytes = &mut piece[..(end - from) as usize];
            self.log().read_exact_at(bytes, from)?;
            if bytes.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            end = from;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_log_has_its_space_before_it_needs_it() {
        let dir = tempfile::tempdir().unwrap();
        let sled = Sled::open(dir.path(), 1 << 20).unwrap();
        let (segment, db) = (SEGMENT_BYTES as u64, dir.path().join("db"));
        let taken = || fs::metadata(&db).unwrap().blocks() * 512 / segment;
        let length = fs::metadata(&db).unwrap().len();
        assert!(sled.free_beside(0).unwrap() > 0);
        assert_eq!(taken(), 1);
        assert!(sled.free_beside(segment).unwrap() > 0);
        assert_eq!(taken(), 7, "six for what comes");
        assert_eq!(sled.free_beside(u64::MAX), Ok(0), "no disk has that much");
        assert_eq!(fs::metadata(&db).unwrap().len(), length, "sled sees nothing of it");

        // Opened again, it has a segment of zeros behind the few bytes that were written.
        sled.close().unwrap();
        let sled = Sled::open(dir.path(), 1 << 20).unwrap();
        let length = fs::metadata(&db).unwrap().len();
        assert_eq!(length.next_multiple_of(segment), segment);
        assert!(sled.ends_with_zeros(length, AHEAD_BYTES).unwrap());
        assert!(!sled.ends_with_zeros(length, segment).unwrap());
        assert!(!sled.ends_with_zeros(length, segment + 1).unwrap());
    }
}
