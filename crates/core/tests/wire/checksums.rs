//! What guards frames, and how two sides come to the same.

use bytes::BytesMut;
use pixii_core::message::{Body, PeerMessage, RequestId};
use pixii_core::wire::{self, Check, Checksum, PROTOCOL, Speech, WireError};

use super::key;

const SUMS: [Checksum; 2] = [Checksum::Blake3, Checksum::Crc32];

#[test]
fn any_damage_to_a_frame_is_noticed_under_each_checksum() {
    let message = PeerMessage {
        ring: super::RING,
        request_id: RequestId::of_wire(1),
        body: Body::Read { key: key() },
    };
    for sum in SUMS {
        let frame = message.frame(Speech { protocol: PROTOCOL, checksum: sum }).unwrap();
        let mut appended = BytesMut::new();
        wire::put_checked(&mut appended, &message, Check::Sum(sum));
        assert_eq!(appended, frame);
        let payload = wire::take_checked(&mut appended, 4_096, Check::Sum(sum)).unwrap().unwrap();
        assert_eq!(wire::decode::<PeerMessage>(&payload).unwrap(), message);
        for at in 4..frame.len() {
            for bit in 0..8 {
                let mut broken = BytesMut::from(&frame[..]);
                broken[at] ^= 1 << bit;
                let error = wire::take_checked(&mut broken, 4_096, Check::Sum(sum)).unwrap_err();
                assert_eq!(error, WireError::Checksum(frame.len() - 4), "{sum:?} {at} {bit}");
            }
        }
        for other in SUMS.into_iter().filter(|other| *other != sum) {
            let mut input = BytesMut::from(&frame[..]);
            let taken = wire::take_checked(&mut input, 4_096, Check::Sum(other));
            assert_eq!(taken, Err(WireError::Checksum(frame.len() - 4)));
        }
    }
}

#[test]
fn the_cheaper_checksum_is_spoken_where_both_sides_offer_it() {
    // A CRC-32 of "123456789", as its catalogues have it, and the bytes of the offer, never change.
    let frame = wire::checked_frame(&(0x31_u8, 0x32_u8), Checksum::Crc32);
    assert_eq!(frame[..], [0, 0, 0, 10, 0, 0, 0, 0, 0x4f, 0x53, 0x44, 0xcd, 0x31, 0x32]);
    let (plain, offer) = (wire::preamble(), wire::offer());
    assert_eq!(offer[8..], [0, 6, 0x80, 9]);
    assert_eq!((wire::check_preamble(&plain), wire::check_preamble(&offer)), (Ok(9), Ok(9)));
    assert_eq!(wire::checksum_for(&plain), Checksum::Blake3);
    assert_eq!(wire::checksum_for(&offer), Checksum::Crc32);
    // A program of before reads a very late version, and goes on with its own latest one.
    for (oldest, latest) in [(5, 6), (6, 7), (6, 8)] {
        let [low, high] = [[0, 6], [0x80, 9]].map(u16::from_be_bytes);
        assert!(low <= high && high.min(latest) >= low.max(oldest) && high.min(latest) == latest);
    }
    // Where no version is in common, the offer is not shown as one.
    let mut late = offer;
    late[8..].copy_from_slice(&[0, 10, 0x80, 11]);
    let error = wire::check_preamble(&late).unwrap_err().to_string();
    assert_eq!(error, "protocol versions 10 to 11 are offered; this node speaks 6 to 9");
}
