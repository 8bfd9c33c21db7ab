//! The checksum of frames: the cheaper one for who offers it, the one of before for everybody else.

use std::io::Read;
use std::net::TcpListener;
use std::sync::Arc;

use bytes::BytesMut;
use pixii_core::message::{Call, CallBody, PeerMessage};
use pixii_core::store::memory::MemoryStore;
use pixii_core::wire::{self, Check, Checksum, Hello, MAX_FRAME_BYTES, Welcome};
use pixii_testkit::daemon::{Daemon, Raw};
use pixii_testkit::free_port;

/// A client that greets with this preamble, and the checksum of the first reply to it.
fn replied(port: u16, preamble: [u8; 12], call: &[u8]) -> Option<(u64, Vec<u8>)> {
    let mut raw = Raw::connect(port);
    raw.send(&[&preamble[..], &wire::frame(&Hello::Client)].concat());
    assert!(matches!(raw.welcome(), Welcome::Accepted { .. }));
    raw.send(call);
    let mut head = [0; 12];
    raw.stream.read_exact(&mut head).ok()?;
    let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
    let mut payload = vec![0; length - 8];
    raw.stream.read_exact(&mut payload).unwrap();
    Some((u64::from_be_bytes(head[4..].try_into().unwrap()), payload))
}

#[test]
fn a_client_is_answered_with_the_checksum_that_it_offers() {
    let ports = [free_port(), free_port(), free_port()];
    let daemon = Daemon::start(&ports, 0, Arc::new(MemoryStore::default()));
    let call = Call { id: 1, body: CallBody::Ring };
    let framed = |checksum| wire::checked_frame(&call, checksum);
    let (before, offer) = (wire::preamble(), wire::offer());
    let (hash, crc) = (framed(Checksum::Blake3), framed(Checksum::Crc32));
    let (found, payload) = replied(ports[0], before, &hash).unwrap();
    assert_eq!(found, Checksum::Blake3.of(&payload));
    let (found, payload) = replied(ports[0], offer, &crc).unwrap();
    assert_eq!(found, Checksum::Crc32.of(&payload));
    // Who offers one speaks it, and who does not, does not; damage is noticed.
    let mut damaged = crc.to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    for (preamble, call) in [(before, &crc[..]), (offer, &hash), (offer, &damaged)] {
        assert_eq!(replied(ports[0], preamble, call), None, "the connection is closed");
    }
    assert_eq!(daemon.status().name, "n0");
}

#[test]
fn a_peer_is_sent_the_checksum_that_it_offers() {
    for (preamble, checksum) in
        [(wire::preamble(), Checksum::Blake3), (wire::offer(), Checksum::Crc32)]
    {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ports = [free_port(), listener.local_addr().unwrap().port()];
        let _daemon = Daemon::start(&ports, 0, Arc::new(MemoryStore::default()));
        let mut link = Raw::on(listener.accept().unwrap().0);
        assert_eq!(link.first_bytes(), wire::offer(), "a node offers what it reads");
        assert!(matches!(link.receive(), Some(Hello::Member { .. })));
        let welcome = Welcome::Accepted { cluster: "test".into(), name: "n1".into() };
        link.send(&[&preamble[..], &wire::frame(&welcome)].concat());
        // The node introduces itself, or gossips.
        let mut input = BytesMut::new();
        let payload = loop {
            let taken = wire::take_checked(&mut input, MAX_FRAME_BYTES, Check::Sum(checksum));
            if let Some(payload) = taken.unwrap() {
                break payload;
            }
            let mut chunk = [0; 4_096];
            let read = link.stream.read(&mut chunk).unwrap();
            assert!(read > 0, "it closed the link");
            input.extend_from_slice(&chunk[..read]);
        };
        wire::decode::<PeerMessage>(&payload).unwrap();
    }
}
