//! Counts the allocations, the allocated bytes and the context switches of a put and of a get.
//! Three whole daemons run in this process, with all their threads, over TCP. The load is encoded
//! before the count begins, and answers are only skipped, so that the driver allocates nothing.
//!
//!     cargo bench --bench allocations
//!
//! The store is in memory, so that the engine, the machine and the transport are counted; with
//! `-- --disk` it is the one on the disk, below the directory for temporary files.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::alloc::System;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use pixii::disk::DiskStore;
use pixii_core::message::{Call, CallBody, Reply, ReplyBody, Request, Response};
use pixii_core::store::Store;
use pixii_core::store::memory::MemoryStore;
use pixii_core::types::{Blob, Key, WriteId};
use pixii_core::wire::{self, Hello, MAX_FRAME_BYTES, Welcome};
use pixii_testkit::daemon::{Daemon, Raw};
use pixii_testkit::{free_port, until};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, Stats, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const NODES: usize = 3;
const KEYS: usize = 3_000;
const VALUE_BYTES: usize = 100;
const CACHE_BYTES: u64 = 32 << 20;
const TIMEOUT_MS: u32 = 20_000;
/// Requests in flight at a time.
const WINDOWS: [usize; 3] = [1, 8, 64];
const IDLE: Duration = Duration::from_secs(2);

fn main() {
    let on_disk = std::env::args().any(|argument| argument == "--disk");
    let scratch = tempfile::tempdir().unwrap();
    let daemons = cluster(|nth| -> Arc<dyn Store> {
        match on_disk {
            false => Arc::new(MemoryStore::default()),
            true => {
                let dir = scratch.path().join(format!("n{nth}"));
                Arc::new(DiskStore::open(&dir, CACHE_BYTES).unwrap())
            }
        }
    });
    let where_ = if on_disk { "on the disk" } else { "in memory" };
    println!(
        "three daemons, N = 3, W = R = 2, {VALUE_BYTES} bytes, the store {where_}; \
         for each operation:\n"
    );
    println!("{:30}{:>12}{:>12}{:>12}{:>10}", "", "allocations", "bytes", "grown", "switches");
    for window in WINDOWS {
        let mut raw = connection(daemons[0].port);
        let inserts = calls(window, |nth| put(window, nth, 0, None));
        counted(&format!("put of a new key, {window}"), &mut raw, &inserts, window);
        let gets = calls(window, |nth| Request::Get { key: key(window, nth), r: None.into() });
        counted(&format!("get, {window}"), &mut raw, &gets, window);
        let mut contexts = contexts(&mut raw, &gets).into_iter();
        let puts = calls(window, |nth| put(window, nth, 1, contexts.next()));
        counted(&format!("put that replaces, {window}"), &mut raw, &puts, window);
    }
    let (region, begun) = (Region::new(ALLOCATOR), Instant::now());
    thread::sleep(IDLE);
    let Stats { allocations, .. } = region.change();
    let rate = allocations as f64 / begun.elapsed().as_secs_f64();
    println!("\nidle: {rate:.0} allocations a second; they are in the figures above");
}

/// Daemons that serve and are linked.
fn cluster(store: impl Fn(usize) -> Arc<dyn Store>) -> Vec<Daemon> {
    let ports: Vec<u16> = (0..NODES).map(|_| free_port()).collect();
    let daemons: Vec<Daemon> =
        (0..NODES).map(|nth| Daemon::start(&ports, nth, store(nth))).collect();
    for daemon in &daemons {
        until("a node that serves", || {
            let status = daemon.status();
            (status.serving && status.peers.iter().all(|peer| peer.up)).then_some(())
        });
    }
    daemons
}

fn connection(port: u16) -> Raw {
    let mut raw = Raw::connect(port);
    raw.greet(&Hello::Client);
    assert!(matches!(raw.welcome(), Welcome::Accepted { .. }));
    raw
}

fn key(window: usize, nth: usize) -> Key {
    Key::new(format!("bench/{window:02}/{nth:08}").into_bytes()).unwrap()
}

fn put(window: usize, nth: usize, turn: u128, context: Option<Blob>) -> Request {
    let write = WriteId(turn << 96 | (window as u128) << 64 | nth as u128);
    let value = Blob(Bytes::from(vec![7; VALUE_BYTES]));
    Request::Put { key: key(window, nth), value, context, write, w: None.into() }
}

/// The frames of calls for all keys, of which fewer suffice where each has to wait for its answer.
fn calls(window: usize, mut request: impl FnMut(usize) -> Request) -> Vec<Bytes> {
    let count = if window == 1 { KEYS / 3 } else { KEYS };
    let frame = |nth| {
        let body = CallBody::Data { request: request(nth), timeout_ms: TIMEOUT_MS };
        wire::frame(&Call { id: nth as u64 + 1, body })
    };
    (0..count).map(frame).collect()
}

/// Makes the calls, `window` at a time, and prints what each took.
fn counted(name: &str, raw: &mut Raw, calls: &[Bytes], window: usize) {
    let (region, switches) = (Region::new(ALLOCATOR), switches());
    drive(raw, calls, window);
    let Stats { allocations, reallocations, bytes_allocated, .. } = region.change();
    let after = self::switches();
    let each = |count: usize| count as f64 / calls.len() as f64;
    let more = |(thread, count): (&String, &usize)| {
        (thread.clone(), count.saturating_sub(switches.get(thread).copied().unwrap_or(0)))
    };
    let switches: BTreeMap<String, usize> = after.iter().map(more).collect();
    let shown = |(thread, count): (&String, &usize)| format!("{thread} {:.1}", each(*count));
    println!(
        "{name:30}{:12.1}{:12.0}{:12.1}{:10.1}  {}",
        each(allocations),
        each(bytes_allocated),
        each(reallocations),
        each(switches.values().sum()),
        switches.iter().filter(|(_, count)| **count > 0).map(shown).collect::<Vec<_>>().join(", "),
    );
}

/// A closed loop: the next call leaves when an answer has come.
fn drive(raw: &mut Raw, calls: &[Bytes], window: usize) {
    let mut bytes = [0; 1 << 16];
    // Bytes that have come and are not skipped yet, moved to the front when a frame is incomplete.
    let (mut filled, mut sent, mut answered) = (0, 0, 0);
    while answered < calls.len() {
        while sent < calls.len() && sent < answered + window {
            raw.stream.write_all(&calls[sent]).unwrap();
            sent += 1;
        }
        let read = raw.stream.read(&mut bytes[filled..]).unwrap();
        assert!(read > 0, "the daemon closed the connection");
        filled += read;
        let mut at = 0;
        while let Some(head) = bytes[at..filled].first_chunk::<4>() {
            let length = 4 + u32::from_be_bytes(*head) as usize;
            if filled - at < length {
                break;
            }
            at += length;
            answered += 1;
        }
        bytes.copy_within(at..filled, 0);
        filled -= at;
    }
}

/// The contexts that these gets bring, in the order of the calls.
fn contexts(raw: &mut Raw, gets: &[Bytes]) -> Vec<Blob> {
    let (mut input, mut chunk) = (BytesMut::new(), [0; 1 << 16]);
    let mut contexts = Vec::new();
    for get in gets {
        raw.stream.write_all(get).unwrap();
        let frame = loop {
            if let Some(frame) = wire::take_frame(&mut input, MAX_FRAME_BYTES).unwrap() {
                break frame;
            }
            let read = raw.stream.read(&mut chunk).unwrap();
            assert!(read > 0, "the daemon closed the connection");
            input.extend_from_slice(&chunk[..read]);
        };
        let reply = Reply::decode(&frame, wire::PROTOCOL).unwrap();
        match reply.body {
            ReplyBody::Data(Response::Found { context, values, .. }) => {
                assert_eq!(values.len(), 1);
                contexts.push(context);
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(!input.has_remaining());
    contexts
}

/// Context switches of all threads of this process but this one, by name.
fn switches() -> BTreeMap<String, usize> {
    let own = fs::read_link("/proc/thread-self").unwrap();
    let threads = fs::read_dir("/proc/self/task").unwrap().flatten();
    let others = threads.filter(|thread| Some(&*thread.file_name()) != own.file_name());
    let count = |status: String| {
        let numbers = status.lines().filter_map(|line| line.split_once("_ctxt_switches:"));
        numbers.filter_map(|(_, number)| number.trim().parse::<usize>().ok()).sum::<usize>()
    };
    let mut all = BTreeMap::new();
    for thread in others {
        let read = |file| fs::read_to_string(thread.path().join(file));
        let (Ok(name), Ok(status)) = (read("comm"), read("status")) else { continue };
        // A daemon's own thread has the name of the one that started it.
        let of_store = ["store-", "sled"].iter().any(|own| name.starts_with(own));
        let name = if of_store { name.trim() } else { "engine" };
        *all.entry(name.to_owned()).or_default() += count(status);
    }
    all
}
