//! Values that tell which write they are of.

use bytes::{BufMut, Bytes, BytesMut};
use pixii_core::rng::Rng;
use pixii_core::types::WriteId;

/// Bytes of a write id at the start of a value: shorter values cannot be distinguished.
pub(crate) const MIN_VALUE_BYTES: usize = 16;

/// The value of a write: its id, and bytes that follow from the id, so that a reader can know whose
/// it is and that it is whole.
pub(crate) fn value_of(write: WriteId, bytes: usize) -> Bytes {
    let mut value = BytesMut::with_capacity(bytes + 8);
    value.put_u128(write.0);
    let mut rng = Rng::new((write.0 >> 64) as u64 ^ write.0 as u64);
    while value.len() < bytes {
        value.put_u64(rng.next_u64());
    }
    value.truncate(bytes.max(MIN_VALUE_BYTES));
    value.freeze()
}

/// The write that a value says it is of; `None` if it is too short to say.
pub(crate) fn write_of(value: &[u8]) -> Option<WriteId> {
    value.first_chunk::<MIN_VALUE_BYTES>().map(|id| WriteId(u128::from_be_bytes(*id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_report_whose_they_are() {
        for bytes in [0, 16, 17, 100, 4_096] {
            let value = value_of(WriteId(77 << 70), bytes);
            assert_eq!(value.len(), bytes.max(MIN_VALUE_BYTES));
            assert_eq!(write_of(&value), Some(WriteId(77 << 70)));
            assert_eq!(value, value_of(WriteId(77 << 70), bytes));
        }
        assert_eq!(write_of(b"short"), None);
    }
}
