//! Frames in and out of a socket: a reader whose memory grows with what has arrived, and a bounded
//! queue of what is to leave.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bincode::BorrowDecode;
use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::locked;
use crate::secret::Seal;
use crate::wire::{self, PREAMBLE_BYTES, WireError};

/// A frame beyond this many bytes takes its size from the shared budget.
const SMALL_BYTES: usize = 16 << 10;
const READ_BYTES: usize = 16 << 10;
const MIN_SPARE_BYTES: usize = 2 << 10;
/// The rest of a frame may be this late after its last byte.
const STALL: Duration = Duration::from_secs(10);
/// One write takes at most this many frames, and no more once it has this many bytes.
const BATCH_FRAMES: usize = 256;
const BATCH_BYTES: usize = 1 << 20;

/// A large frame's part of the budget, given back when the frame has been dealt with.
pub(crate) type Held = Option<OwnedSemaphorePermit>;

/// Why no more frames come from a connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Bytes that are no frame or no message.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The connection ended inside a frame.
    #[error("it ended inside a frame, after {0} bytes of it")]
    Truncated(usize),
    /// Nothing came for too long inside a frame.
    #[error("it stopped inside a frame, after {0} bytes of it, for {sec} s", sec = STALL.as_secs())]
    Stalled(usize),
}

/// Takes messages off one side of a connection.
#[derive(Debug)]
pub(crate) struct FrameReader<R> {
    half: R,
    buffer: BytesMut,
    limit: usize,
    budget: Arc<Semaphore>,
    held: Held,
    seal: Option<Seal>,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads frames of at most `limit` bytes from `half`, large ones as `budget` (bytes) has room.
    pub(crate) fn new(half: R, limit: usize, budget: Arc<Semaphore>) -> Self {
        FrameReader { half, buffer: BytesMut::new(), limit, budget, held: None, seal: None }
    }

    /// From now on, every frame has the next one of these seals.
    pub(crate) fn expect(&mut self, seal: Seal) {
        self.seal = Some(seal);
    }

    /// What has been read and not taken, and the seal that the next frame has.
    pub(crate) fn into_rest(self) -> (R, BytesMut, Option<Seal>) {
        (self.half, self.buffer, self.seal)
    }

    /// From now on, frames of at most `limit` bytes, large ones as `budget` (bytes) has room.
    pub(crate) fn allow(&mut self, limit: usize, budget: Arc<Semaphore>) {
        (self.limit, self.budget) = (limit, budget);
    }

    /// The socket's half.
    pub(crate) fn half(&self) -> &R {
        &self.half
    }

    /// The bytes that open a connection, or `None` when it is closed without a byte.
    pub(crate) async fn preamble(&mut self) -> Result<Option<[u8; PREAMBLE_BYTES]>, ReadError> {
        loop {
            if let Some(preamble) = self.buffer.first_chunk().copied() {
                self.buffer.advance(PREAMBLE_BYTES);
                return Ok(Some(preamble));
            }
            if self.read().await? == 0 {
                return match self.buffer.len() {
                    0 => Ok(None),
                    some => Err(ReadError::Truncated(some)),
                };
            }
        }
    }

    /// Reads and forgets at most `bytes` bytes, until the other side closes the connection.
    pub(crate) async fn drain(&mut self, bytes: u64) {
        let mut rest = (&mut self.half).take(bytes);
        let _ = tokio::io::copy(&mut rest, &mut tokio::io::sink()).await;
    }

    /// The next message, or `None` when the other side has closed the connection between two frames.
    pub(crate) async fn next<T>(&mut self) -> Result<Option<(T, Held)>, ReadError>
    where
        T: for<'de> BorrowDecode<'de, Bytes>,
    {
        loop {
            let seal = self.seal.as_mut();
            if let Some(payload) = wire::take_sealed(&mut self.buffer, self.limit, seal)? {
                return Ok(Some((wire::decode(&payload)?, self.held.take())));
            }
            self.claim().await;
            if self.read().await? == 0 {
                return match self.buffer.len() {
                    0 => Ok(None),
                    some => Err(ReadError::Truncated(some)),
                };
            }
        }
    }

    /// Waits for a share of the budget if the frame that has begun is a large one.
    async fn claim(&mut self) {
        let Some(head) = self.buffer.first_chunk::<4>() else { return };
        let length = u32::from_be_bytes(*head);
        if length as usize > SMALL_BYTES && self.held.is_none() {
            // The budget is never closed, and it is larger than any frame.
            self.held = self.budget.clone().acquire_many_owned(length).await.ok();
        }
    }

    async fn read(&mut self) -> Result<usize, ReadError> {
        let arrived = self.buffer.len();
        if self.buffer.capacity() - arrived < MIN_SPARE_BYTES {
            // At most doubled: a length field alone never makes it large.
            self.buffer.reserve(arrived.max(READ_BYTES));
        }
        let read = self.half.read_buf(&mut self.buffer);
        if arrived == 0 {
            return Ok(read.await?);
        }
        let read = tokio::time::timeout(STALL, read).await;
        Ok(read.map_err(|_| ReadError::Stalled(arrived))??)
    }
}

/// How much an [`Outbox`] holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Frames.
    pub(crate) messages: usize,
    /// Bytes.
    pub(crate) bytes: usize,
    /// Bytes of all the outboxes that share a total.
    pub(crate) total_bytes: usize,
}

/// Frames that wait to leave on one connection.
#[derive(Debug)]
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    limits: Limits,
    total: Arc<AtomicUsize>,
    ready: Notify,
    sent: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Bytes>,
    /// Frames and bytes that have not left, those in the writer's hands included.
    messages: usize,
    bytes: usize,
    state: State,
    connections: u64,
    dropped: u64,
    /// Bytes that were queued since the start.
    taken: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// There is no connection: everything is dropped.
    #[default]
    Down,
    Up,
    /// What is queued still leaves, and then the connection ends.
    Finishing,
}

impl Outbox {
    /// An outbox without a connection, whose bytes also count in `total`.
    pub(crate) fn new(limits: Limits, total: Arc<AtomicUsize>) -> Self {
        let queue = Mutex::default();
        Outbox { queue, limits, total, ready: Notify::new(), sent: Notify::new() }
    }

    /// A connection is there.
    pub(crate) fn open(&self) {
        let mut queue = locked(&self.queue);
        queue.state = State::Up;
        queue.connections += 1;
    }

    /// Which connection is there, or was last: counted from the start.
    pub(crate) fn connection(&self) -> u64 {
        locked(&self.queue).connections
    }

    /// Counts a frame that was dropped on its way here.
    pub(crate) fn lose(&self) {
        locked(&self.queue).dropped += 1;
    }

    /// The connection is gone: what has not left is dropped and counted, and so is all that comes.
    pub(crate) fn shut(&self) {
        let mut queue = locked(&self.queue);
        queue.state = State::Down;
        queue.dropped += queue.messages as u64;
        self.total.fetch_sub(queue.bytes, Ordering::Relaxed);
        queue.frames.clear();
        (queue.messages, queue.bytes) = (0, 0);
        drop(queue);
        self.ready.notify_one();
        self.sent.notify_one();
    }

    /// Takes nothing more; the connection ends when all has left.
    pub(crate) fn finish(&self) {
        let mut queue = locked(&self.queue);
        if queue.state == State::Up {
            queue.state = State::Finishing;
        }
        drop(queue);
        self.ready.notify_one();
    }

    /// True while there is a connection.
    pub(crate) fn is_open(&self) -> bool {
        locked(&self.queue).state != State::Down
    }

    /// Bytes taken to be sent since the start.
    pub(crate) fn bytes_taken(&self) -> u64 {
        locked(&self.queue).taken
    }

    /// Frames and bytes that have not left.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        let queue = locked(&self.queue);
        (queue.messages, queue.bytes)
    }

    /// Frames dropped since the start.
    pub(crate) fn dropped(&self) -> u64 {
        locked(&self.queue).dropped
    }

    /// True when a frame of so many bytes would be within the limits.
    pub(crate) fn fits(&self, bytes: usize) -> bool {
        self.has_room(&locked(&self.queue), bytes)
    }

    fn has_room(&self, queue: &Queue, bytes: usize) -> bool {
        // A frame that is alone always fits: the largest one has to leave somehow.
        let alone = queue.bytes == 0;
        queue.messages < self.limits.messages
            && (alone || queue.bytes + bytes <= self.limits.bytes)
            && (alone || self.total.load(Ordering::Relaxed) + bytes <= self.limits.total_bytes)
    }

    /// Queues a frame; false, and a count, when it was dropped because there is no room or connection.
    pub(crate) fn push(&self, frame: Bytes) -> bool {
        let mut queue = locked(&self.queue);
        if queue.state != State::Up || !self.has_room(&queue, frame.len()) {
            queue.dropped += 1;
            return false;
        }
        queue.messages += 1;
        queue.bytes += frame.len();
        queue.taken += frame.len() as u64;
        self.total.fetch_add(frame.len(), Ordering::Relaxed);
        queue.frames.push_back(frame);
        drop(queue);
        self.ready.notify_one();
        true
    }

    /// Returns when at most a quarter of the frames it may hold are waiting.
    pub(crate) async fn room(&self) {
        while locked(&self.queue).messages > self.limits.messages / 4 {
            self.sent.notified().await;
        }
    }

    /// Writes what is queued, and what will be, until the outbox is finished or shut; each frame with the next seal, if
    /// the connection has one.
    pub(crate) async fn write_to(
        &self,
        half: &mut (impl AsyncWrite + Unpin),
        mut seal: Option<Seal>,
    ) -> io::Result<()> {
        let mut batch = VecDeque::new();
        while self.take(&mut batch).await {
            let (messages, bytes) = (batch.len(), batch.iter().map(Bytes::len).sum());
            if let Some(seal) = &mut seal {
                batch = batch.iter().flat_map(|frame| wire::sealed(frame, seal)).collect();
            }
            write_all(half, &mut batch).await?;
            let mut queue = locked(&self.queue);
            queue.messages = queue.messages.saturating_sub(messages);
            // Shutting it has taken the bytes off the total already.
            let bytes = queue.bytes.min(bytes);
            queue.bytes -= bytes;
            self.total.fetch_sub(bytes, Ordering::Relaxed);
            drop(queue);
            self.sent.notify_one();
        }
        half.shutdown().await
    }

    /// Moves the frames of one write to `batch`; false when no more will come.
    async fn take(&self, batch: &mut VecDeque<Bytes>) -> bool {
        loop {
            {
                let mut queue = locked(&self.queue);
                let mut bytes = 0;
                while batch.len() < BATCH_FRAMES && bytes < BATCH_BYTES {
                    let Some(frame) = queue.frames.pop_front() else { break };
                    bytes += frame.len();
                    batch.push_back(frame);
                }
                if !batch.is_empty() {
                    return true;
                }
                if queue.state != State::Up {
                    return false;
                }
            }
            self.ready.notified().await;
        }
    }
}

async fn write_all(
    half: &mut (impl AsyncWrite + Unpin),
    batch: &mut VecDeque<Bytes>,
) -> io::Result<()> {
    while !batch.is_empty() {
        let slices: Vec<IoSlice> = batch.iter().map(|frame| IoSlice::new(frame)).collect();
        let mut written = half.write_vectored(&slices).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        while let Some(front) = batch.front_mut() {
            if written < front.len() {
                front.advance(written);
                break;
            }
            written -= front.len();
            batch.pop_front();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { messages: 8, bytes: 1_000, total_bytes: 1_500 };

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
        assert!(b.fits(100));
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
    fn memory_grows_with_what_has_arrived() {
        run(async {
            let (mut near, far) = tokio::io::duplex(1 << 20);
            near.write_all(&(32u32 << 20).to_be_bytes()).await.unwrap();
            near.write_all(&[0; 100]).await.unwrap();
            drop(near);
            let budget = Arc::new(Semaphore::new(64 << 20));
            let mut reader = FrameReader::new(far, 64 << 20, budget.clone());
            let read = reader.next::<crate::message::Call>().await;
            assert!(matches!(read, Err(ReadError::Truncated(104))), "{read:?}");
            assert!(reader.buffer.capacity() <= 2 * READ_BYTES, "{}", reader.buffer.capacity());
            assert_eq!(budget.available_permits(), 32 << 20, "the claim is accounted for");
            drop(reader);
            assert_eq!(budget.available_permits(), 64 << 20);
        });
    }
}
