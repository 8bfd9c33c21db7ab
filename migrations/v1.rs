//! Schema 1, the first: an empty store. Frozen: this file and its copies of the types never change
//! again.
//!
//! One tree. `1 name` holds a small record, `2 partition:u16 key` a record or its head, `3 id:u64
//! index:u32` a chunk; numbers in keys are big-endian. A small record is `1 content checksum`.
//!
//! `write` changes with every batch. A leaf of sled has at most 16 values and is rewritten every
//! ten changes, so a row of empty values keeps the first records, which may be long, out of its
//! leaf.

use super::{Batch, Sled, StoreFault};

const EMPTY_VALUES: u8 = 32;

/// "Nothing written yet" under `write`: version 1, a zero of 64 bits, the checksum.
const NO_WRITES: [u8; 17] = *b"\x01\0\0\0\0\0\0\0\0\xdd\xe7\x05\xfa\xfc\x2c\xa9\xa9";

/// Makes an empty store one of schema 1.
pub(super) fn migrate(_: &Sled) -> Result<Batch, StoreFault> {
    let mut batch = Batch::default();
    batch.insert(&b"\x01write"[..], &NO_WRITES[..]);
    for number in 0..EMPTY_VALUES {
        batch.insert(&[1, 0xff, number], &[]);
    }
    Ok(batch)
}

#[cfg(test)]
mod tests {
    use super::NO_WRITES;

    #[test]
    fn an_empty_store_has_written_nothing() {
        let mut hasher = blake3::Hasher::new();
        for part in [&b"meta"[..], b"write", &[1, 0, 0, 0, 0, 0, 0, 0, 0]] {
            hasher.update(&(part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        assert_eq!(NO_WRITES[9..], hasher.finalize().as_bytes()[..8]);
    }
}
