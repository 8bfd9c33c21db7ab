//! What hostile bytes are given to. Each takes any bytes, and panics where the code under test
//! does, or is inconsistent.

use std::fmt::Debug;

use bincode::{BorrowDecode, Encode};
use bytes::{Buf, Bytes, BytesMut};
use pixii::config::Config;
use pixii::http;
use pixii_core::causal::Context;
use pixii_core::emulation;
use pixii_core::gc_epoch::GcState;
use pixii_core::members::{Member, Members};
use pixii_core::message::before::Before;
use pixii_core::message::{Call, PeerMessage, Rejection, Reply, Response};
use pixii_core::ring::Ring;
use pixii_core::store::{self, Meta, Record};
use pixii_core::types::{Blob, Key, NodeId, Partition};
use pixii_core::wire::{self, Hello, MAX_FRAME_BYTES, MAX_HELLO_BYTES, Welcome};

/// The decoders of every type that is sent or stored: what they take has bytes of its own that mean
/// the same.
pub fn decoders(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    again::<Hello>(&bytes);
    again::<Welcome>(&bytes);
    again::<Call>(&bytes);
    again::<Reply>(&bytes);
    again::<Response>(&bytes);
    again::<Rejection>(&bytes);
    again::<PeerMessage>(&bytes);
    again::<Before<Reply>>(&bytes);
    again::<Before<PeerMessage>>(&bytes);
    again::<Members>(&bytes);
    again::<Meta>(&bytes);
    again::<Ring>(&bytes);
    again::<Record>(&bytes);
    again::<GcState>(&bytes);
    again::<Context>(&bytes);
    let key = Key::new(&b"key\x00\xff"[..]).unwrap();
    let _ = wire::unseal(&key, &Blob(bytes.clone()));
    let _ = store::decode_record(Partition(2), &key, bytes.clone());
    let _ = store::decode_hint(NodeId(2), &key, bytes);
}

fn again<T>(bytes: &Bytes)
where
    T: Encode + for<'de> BorrowDecode<'de, Bytes> + Debug + PartialEq,
{
    if let Ok(taken) = wire::decode::<T>(bytes) {
        let own = Bytes::from(wire::encode(&taken));
        assert_eq!(wire::decode::<T>(&own).as_ref(), Ok(&taken));
    }
}

/// Texts that people and clients give: a configuration, rules of an emulated network.
pub fn texts(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let members = Members::new(vec![Member::configured("n1", "host:1")]);
    let stated = [
        emulation::parse(&text, &members).err(),
        Config::parse(&text, "p.toml".as_ref()).err().map(|error| error.to_string()),
    ];
    for sentence in stated.into_iter().flatten() {
        assert!(!sentence.is_empty());
    }
}

/// The reader of HTTP requests: what it refuses, it answers.
pub fn requests(bytes: &[u8]) {
    match http::request(bytes) {
        Ok(None) => {
            assert!(bytes.len() < http::MAX_HEAD_BYTES, "it waits for no more than the limit");
        }
        Ok(Some(queried)) => assert!(queried.path.starts_with('/') && !queried.path.contains(' ')),
        Err(answer) => {
            assert!((400..600).contains(&answer.status));
            assert!(answer.bytes(false).starts_with(b"HTTP/1.1 "));
        }
    }
}

/// A connection's bytes: the preamble, a greeting, and frames after it.
pub fn connection(bytes: &[u8]) {
    let mut input = BytesMut::from(bytes);
    let Some(preamble) = input.first_chunk().copied() else { return };
    input.advance(preamble.len());
    if wire::check_preamble(&preamble).is_err() {
        return;
    }
    let Ok(Some(hello)) = wire::take_frame(&mut input, MAX_HELLO_BYTES) else { return };
    if wire::decode::<Hello>(&hello).is_err() {
        return;
    }
    while let Ok(Some(frame)) = wire::take_frame(&mut input, MAX_FRAME_BYTES) {
        let _ = (wire::decode::<Call>(&frame), wire::decode::<PeerMessage>(&frame));
    }
}
