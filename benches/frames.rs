//! What a message costs on its way to bytes and back; its checksums alone, and what a seal for one
//! more peer costs.

#![allow(clippy::unwrap_used)]

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use criterion::{BenchmarkId, Criterion, Throughput};
use pixii_core::causal::{Actor, ActorEpoch, Context, Object, Version};
use pixii_core::gc_epoch::GcEpoch;
use pixii_core::message::{Body, PeerMessage, RequestId};
use pixii_core::ring::RingId;
use pixii_core::secret::{Exchange, Role, Seal, SecretKey};
use pixii_core::types::{Blob, Key, WriteId};
use pixii_core::wire::{self, Checksum, MAX_FRAME_BYTES};

/// The message that carries a value of `bytes` bytes to another replica.
fn merge(bytes: usize) -> PeerMessage {
    let version = Version { write: WriteId(1 << 100), value: Blob(Bytes::from(vec![7; bytes])) };
    let actor = Actor { store: 1 << 60, actor_epoch: ActorEpoch(1 << 20) };
    let (object, _) = Object::default().update(&Context::default(), actor, version);
    PeerMessage {
        ring: RingId { version: 1, digest: 1 << 60 },
        request_id: RequestId::of_wire(1 << 40),
        body: Body::Merge { key: Key::new(vec![1; 16]).unwrap(), object, gc_epoch: GcEpoch::FIRST },
    }
}

/// What the frames of one direction of a connection with a secret are sealed with.
fn seal() -> Seal {
    let key = SecretKey::new(b"0123456789abcdef", Role::Peer);
    let preamble = wire::preamble();
    let [seal, _] =
        Exchange::new([&preamble, &preamble], [&[1; 32], &[2; 32]]).seals(&key, b"hello");
    seal
}

fn frames(c: &mut Criterion) {
    let mut group = c.benchmark_group("frame");
    for bytes in [100, 1_024, 1 << 20] {
        let message = merge(bytes);
        let frame = wire::frame(&message);
        let id = |name| BenchmarkId::new(name, bytes);
        group.throughput(Throughput::Bytes(frame.len() as u64));
        group.bench_function(id("encode"), |b| b.iter(|| wire::frame(black_box(&message))));
        group.bench_function(id("decode"), |b| {
            b.iter(|| {
                let mut input = BytesMut::from(&frame[..]);
                let payload = wire::take_frame(&mut input, MAX_FRAME_BYTES).unwrap().unwrap();
                wire::decode::<PeerMessage>(&payload).unwrap()
            });
        });
        let mut seal = seal();
        group.bench_function(id("seal"), |b| b.iter(|| wire::sealed(black_box(&frame), &mut seal)));
        for (name, sum) in [("blake3", Checksum::Blake3), ("crc32", Checksum::Crc32)] {
            group.bench_function(id(name), |b| b.iter(|| sum.of(black_box(&frame))));
        }
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    frames(&mut criterion);
    criterion.final_summary();
}
