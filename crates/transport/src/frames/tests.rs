use super::*;
use crate::inflow::Sizes;

const LIMITS: Limits =
    Limits { messages: 8, bytes: 1_000, total_bytes: 1_500, address_bytes: None };

fn outbox(total: &Arc<AtomicUsize>) -> Outbox {
    Outbox::new(LIMITS, total.clone())
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(future)
}

#[test]
fn a_full_or_closed_outbox_drops_and_counts() {
    let total = Arc::new(AtomicUsize::new(0));
    let (a, b) = (outbox(&total), outbox(&total));
    assert!(!a.push(Bytes::from_static(b"nobody is there")));
    a.open();
    b.open();
    assert!((0..8).all(|_| a.push(Bytes::from_static(b"x"))));
    assert!(!a.push(Bytes::from_static(b"x")), "8 messages are the limit");
    assert_eq!(a.dropped(), 2);
    a.shut();
    assert_eq!((a.dropped(), total.load(Ordering::Relaxed)), (10, 0));
    a.open();
    assert!(a.push(vec![0; 1_200].into()), "alone, a frame may pass the limit");
    assert!(!a.push(vec![0; 1].into()));
    assert!(b.push(vec![0; 200].into()));
    assert!(!b.push(vec![0; 200].into()), "the total of both is 1,500");
    assert!(b.push(vec![0; 100].into()));
}

#[test]
fn frames_leave_in_order_and_make_room() {
    run(async {
        let total = Arc::new(AtomicUsize::new(0));
        let outbox = outbox(&total);
        outbox.open();
        for i in 0..8u8 {
            assert!(outbox.push(vec![i; 100].into()));
        }
        outbox.finish();
        assert!(!outbox.push(Bytes::from_static(b"late")));
        // The pipe is smaller than a frame, so every write is a partial one.
        let (mut near, mut far) = tokio::io::duplex(64);
        let mut all = Vec::new();
        let (wrote, read) =
            tokio::join!(outbox.write_to(&mut near, None), far.read_to_end(&mut all));
        assert_eq!((wrote.unwrap(), read.unwrap()), ((), 800));
        assert!(all.chunks(100).enumerate().all(|(i, c)| c.iter().all(|b| *b == i as u8)));
        outbox.room().await;
        assert_eq!(total.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn more_frames_than_one_write_takes_leave_in_order() {
    run(async {
        let limits = Limits { messages: 1_000, bytes: 1 << 20, total_bytes: 1 << 20, ..LIMITS };
        let outbox = Outbox::new(limits, Arc::default());
        outbox.open();
        let frame = |i: u32| Bytes::copy_from_slice(&i.to_be_bytes());
        assert!((0..3 * WRITE_BUFFERS as u32 + 7).all(|i| outbox.push(frame(i))));
        outbox.finish();
        let (mut near, mut far) = tokio::io::duplex(1 << 16);
        let mut all = Vec::new();
        let (wrote, _) = tokio::join!(outbox.write_to(&mut near, None), far.read_to_end(&mut all));
        wrote.unwrap();
        let numbers: Vec<u32> =
            all.chunks(4).map(|four| u32::from_be_bytes(four.try_into().unwrap())).collect();
        assert!(numbers.into_iter().eq(0..3 * WRITE_BUFFERS as u32 + 7));
    });
}

#[test]
fn clients_that_read_nothing_leave_room_for_the_large_replies_of_others() {
    let total = Arc::new(AtomicUsize::new(0));
    let limits = Limits {
        messages: 99,
        bytes: 64 << 20,
        total_bytes: 512 << 20,
        address_bytes: Some(112 << 20),
    };
    let reply = || Bytes::from(vec![0; 1 << 20]);
    let of = |address: &Arc<AtomicUsize>| {
        let outbox = Outbox::of_address(limits, total.clone(), address.clone());
        outbox.open();
        outbox
    };
    let (one, other) = (Arc::default(), Arc::default());
    let deaf: Vec<Outbox> = (0..200).map(|_| of(&one)).collect();
    for (number, outbox) in deaf.iter().enumerate() {
        while outbox.fits(1 << 20, 8 << 20) && outbox.push(reply()) {}
        assert!(number > 4 || of(&one).fits(1 << 20, 8 << 20), "{number} of the same address");
    }
    assert!(one.load(Ordering::Relaxed) <= 112 << 20, "an address has its share");
    assert!(of(&other).fits(17 << 20, 8 << 20), "and another one has its own");
    assert!(deaf[0].is_short() && !of(&other).is_short());
    deaf.iter().for_each(Outbox::shut);
    assert_eq!([&one, &total].map(|sum| sum.load(Ordering::Relaxed)), [0, 0]);
}

#[test]
fn the_largest_reply_leaves_alone_however_little_memory_there_is() {
    let total = Arc::new(AtomicUsize::new(0));
    let limits = Limits {
        messages: 99,
        bytes: 17 << 20,
        total_bytes: 17 << 20,
        address_bytes: Some(12 << 20),
    };
    let (one, other) = (Outbox::new(limits, total.clone()), Outbox::new(limits, total));
    one.open();
    other.open();
    assert!(other.push(vec![0; 1].into()) && !one.fits(16 << 20, 8 << 20));
    assert!(one.fits(1 << 20, 8 << 20), "what is not as large leaves beside others");
    other.shut();
    assert!(one.fits(16 << 20, 8 << 20) && one.push(vec![0; 16 << 20].into()));
    other.open();
    assert!(!other.fits(1 << 20, 8 << 20));
    assert!(other.push(vec![0; 100].into()), "small replies go on");
}

#[test]
fn memory_grows_with_what_has_arrived() {
    run(async {
        let sizes = Sizes { total: 256 << 20, share: 128 << 20, frame: 64 << 20 };
        let inflow = Inflow::new("clients", sizes, Arc::default());
        let holder = Holder::Clients([127, 0, 0, 1].into());
        let (mut near, far) = tokio::io::duplex(1 << 20);
        let mut reader = FrameReader::new(far, 64 << 20);
        reader.allow(64 << 20, inflow.clone(), holder);
        near.write_all(&(32u32 << 20).to_be_bytes()).await.unwrap();
        near.write_all(&[0; 100]).await.unwrap();
        let read = tokio::time::timeout(
            Duration::from_millis(50),
            reader.next::<pixii_core::message::Call>(),
        );
        assert!(read.await.is_err());
        assert_eq!(inflow.usage().held, 0, "a length that is announced claims nothing");
        near.write_all(&[0; 100_000]).await.unwrap();
        drop(near);
        let read = reader.next::<pixii_core::message::Call>().await;
        assert!(matches!(read, Err(ReadError::Truncated(100_104))), "{read:?}");
        let (held, capacity) = (inflow.usage().held, reader.buffer.capacity());
        assert!((100_104..=250_000).contains(&held), "{held}");
        assert!(capacity <= held, "{capacity} bytes, {held} of them claimed");
        drop(reader);
        assert_eq!(inflow.usage().held, 0);
    });
}
