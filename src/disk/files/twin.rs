//! The second copies of the small state files. All of them are in `MARK`:
//!
//! | byte | content |
//! |---|---|
//! | 0 | the mark: the number of the last synced write, and its checksum |
//! | 64 | the mark again |
//! | 128 | the text of `FORMAT`, and its checksum |
//!
//! Not in files of their own: the version before refuses a directory with files that it does not
//! know where the store was set aside, and it leaves alone what follows the first 16 bytes of
//! `MARK`. All is in one block of the file system, so a full disk is no obstacle to writing it
//! again.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use pixii_core::types::hash64;

const MARK_TWIN_AT: usize = 64;
const FORMAT_TWIN_AT: u64 = 128;
/// Bytes of a mark: number and checksum.
const MARK_BYTES: usize = 16;
/// Bytes of `FORMAT`, the end of its line included.
const FORMAT_BYTES: usize = 24;
/// Most bits of `FORMAT` that may be wrong in a file that still counts as ours and damaged.
const MAX_FLIPPED_BITS: u32 = 8;

fn mark_sum(number: &[u8]) -> [u8; 8] {
    hash64(&[b"mark", number]).to_be_bytes()
}

fn format_sum(text: &[u8]) -> [u8; 8] {
    hash64(&[b"format", text]).to_be_bytes()
}

/// Writes both marks in one call. Not fsynced.
pub(super) fn set_mark(file: &File, number: u64) -> io::Result<()> {
    let number = number.to_be_bytes();
    let mark = [number, mark_sum(&number)].concat();
    let mut bytes = [0; MARK_TWIN_AT + MARK_BYTES];
    bytes[..MARK_BYTES].copy_from_slice(&mark);
    bytes[MARK_TWIN_AT..].copy_from_slice(&mark);
    file.write_all_at(&bytes, 0)
}

/// What the marks say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Marks {
    /// The highest number that a sound mark has; 0 without one. Each mark was true when it was
    /// written.
    pub(super) number: u64,
    /// How many of those that hold something have a wrong checksum.
    pub(super) damaged: usize,
}

/// Reads both marks. One that is not there, or all zeros as after a power cut, is not damaged.
pub(super) fn marks(file: &File) -> Marks {
    let mut marks = Marks { number: 0, damaged: 0 };
    for at in [0, MARK_TWIN_AT] {
        let mut bytes = [0; MARK_BYTES];
        let (read, sound) = match file.read_exact_at(&mut bytes, at as u64) {
            Ok(()) => (true, mark_sum(&bytes[..8]) == bytes[8..]),
            Err(error) => (error.kind() != io::ErrorKind::UnexpectedEof, false),
        };
        match bytes.first_chunk() {
            Some(number) if sound => marks.number = marks.number.max(u64::from_be_bytes(*number)),
            _ => marks.damaged += usize::from(read && bytes != [0; MARK_BYTES]),
        }
    }
    marks
}

/// True if the copy of `FORMAT` is sound and has this text.
pub(super) fn has_format(file: &File, text: &str) -> bool {
    let (mut found, mut sum) = ([0; FORMAT_BYTES], [0; 8]);
    let read = file.read_exact_at(&mut found, FORMAT_TWIN_AT);
    let read =
        read.and_then(|()| file.read_exact_at(&mut sum, FORMAT_TWIN_AT + FORMAT_BYTES as u64));
    read.is_ok() && found == text.as_bytes() && format_sum(&found) == sum
}

/// Writes the copy of `FORMAT`, durably. A program that changes `FORMAT` changes the copy first.
pub(super) fn set_format(file: &File, text: &str) -> io::Result<()> {
    let sum = format_sum(text.as_bytes());
    file.write_all_at(&[text.as_bytes(), &sum].concat(), FORMAT_TWIN_AT)?;
    file.sync_all()
}

/// True if `found` can be what damage made of `ours`: bits have changed, or the file is torn. A
/// file that names another version of the format is not damaged, unless one bit is all that
/// differs.
pub(super) fn is_damaged(found: &[u8], ours: &[u8]) -> bool {
    if found.len() != ours.len() {
        return ours.starts_with(found) || found.iter().all(|byte| *byte == 0);
    }
    let flipped: u32 = found.iter().zip(ours).map(|(a, b)| (a ^ b).count_ones()).sum();
    let other = found.starts_with(b"pixii data ") && found.ends_with(b"\n") && {
        found[b"pixii data ".len()..].iter().all(|byte| byte.is_ascii_graphic() || *byte <= b' ')
    };
    let zeros = found.iter().all(|byte| *byte == 0);
    flipped <= 1 || zeros || (flipped <= MAX_FLIPPED_BITS && !other)
}

#[cfg(test)]
mod tests {
    use super::super::FORMAT;
    use super::*;

    #[test]
    fn damage_of_format_is_distinguished_from_another_version_and_from_another_program() {
        assert_eq!(FORMAT.len() + 1, FORMAT_BYTES, "with the end of the line");
        let ours = format!("{FORMAT}\n");
        for at in 0..ours.len() * 8 {
            let mut bytes = ours.clone().into_bytes();
            bytes[at / 8] ^= 1 << (at % 8);
            assert!(is_damaged(&bytes, ours.as_bytes()), "bit {at}");
        }
        for length in 0..ours.len() {
            assert!(is_damaged(&ours.as_bytes()[..length], ours.as_bytes()), "cut at {length}");
        }
        assert!(is_damaged(&[0; 24], ours.as_bytes()) && is_damaged(&[0; 40], ours.as_bytes()));
        let others = ["pixii data 2, sled 0.34\n", "pixii data 2, sled 1\n", "rocks 9\n"];
        for other in others.iter().chain(&["pixii data 10, sled 0.34\n"]) {
            assert!(!is_damaged(other.as_bytes(), ours.as_bytes()), "{other}");
        }
        assert!(!is_damaged(&[0xff; 40], ours.as_bytes()));
    }

    #[test]
    fn each_mark_acts_as_a_fallback_for_the_other() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(marks(&file), Marks { number: 0, damaged: 0 });
        set_mark(&file, 7).unwrap();
        assert_eq!(marks(&file), Marks { number: 7, damaged: 0 });
        for at in (0..MARK_BYTES as u64).chain((0..MARK_BYTES as u64).map(|at| at + 64)) {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 4], at).unwrap();
            assert_eq!(marks(&file), Marks { number: 7, damaged: 1 }, "byte {at}");
            file.write_all_at(&byte, at).unwrap();
        }
        // The version before writes the first one only.
        let nine = 9u64.to_be_bytes();
        file.write_all_at(&[nine, mark_sum(&nine)].concat(), 0).unwrap();
        assert_eq!(marks(&file), Marks { number: 9, damaged: 0 });
        file.write_all_at(&[0x5a; 80], 0).unwrap();
        assert_eq!(marks(&file), Marks { number: 0, damaged: 2 });
    }
}
