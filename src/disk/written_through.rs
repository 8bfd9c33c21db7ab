//! Has sled's files written through: a write that has returned is durable.
//!
//! sled takes a segment for reuse, and cuts the file, once all that replaces its contents is
//! *stable*. For sled that means written, followed by `sync_file_range`, which leaves it in the
//! cache of the device and the extents of the file in the journal. So a power cut could keep the
//! new use of a segment and lose what had replaced the old one. With the attribute `S` of the file
//! (`chattr +S`), *stable* means durable, and the order that sled keeps is the order on the disk.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use rustix::io::Errno;

use super::files::sync_path;

/// Sets the attribute of a file, or of a directory for the files that are made in it. False where
/// the file system has no such attribute, or does not let this process set it.
pub(super) fn write_through(file: &File) -> io::Result<bool> {
    match set(file) {
        Ok(()) => Ok(true),
        Err(
            Errno::NOTTY
            | Errno::OPNOTSUPP
            | Errno::NOSYS
            | Errno::INVAL
            | Errno::PERM
            | Errno::ACCESS,
        ) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn set(file: &File) -> Result<(), Errno> {
    let flags = ioctl_getflags(file)?;
    if flags.contains(IFlags::SYNC) {
        return Ok(());
    }
    ioctl_setflags(file, flags | IFlags::SYNC)
}

/// Makes the files of a sled directory durable as they are, and has them written through, before
/// sled opens it: after a kill some of the log may be in memory only, and an opening writes over
/// what that log does not need.
pub(super) fn settle(dir: &Path) -> io::Result<()> {
    let path = dir.join("db");
    match File::options().read(true).write(true).open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => {
            let file = file?;
            write_through(&file)?;
            file.sync_all()?;
        }
    }
    match fs::read_dir(dir.join("blobs")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => {
            for entry in entries? {
                sync_path(&entry?.path())?;
            }
        }
    }
    sync_path(&dir.join("blobs"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::guarded::{Batch, Sled};
    use crate::disk::log::SEGMENT_BYTES;

    #[test]
    fn the_log_of_sled_and_its_blobs_are_written_through_where_the_file_system_can() {
        let dir = tempfile::tempdir().unwrap();
        let probe = File::create(dir.path().join("probe")).unwrap();
        let can = write_through(&probe).unwrap();
        println!("the file system of {} can: {can}", dir.path().display());
        let has = |path: &Path| {
            let file = File::open(path).unwrap();
            ioctl_getflags(&file).is_ok_and(|flags| flags.contains(IFlags::SYNC))
        };
        let data = dir.path().join("sled");
        for _ in 0..2 {
            let sled = Sled::open(&data, 1 << 20).unwrap();
            assert_eq!(sled.writes_through(), can);
            let mut batch = Batch::default();
            batch.insert(b"key", vec![7; SEGMENT_BYTES / 4]);
            sled.apply(batch).unwrap();
            sled.sync().unwrap();
            assert_eq!(has(&data.join("db")), can);
            let blob = fs::read_dir(data.join("blobs")).unwrap().next().unwrap().unwrap();
            assert_eq!(has(&blob.path()), can, "{}", blob.path().display());
            sled.close().unwrap();
        }
    }
}
