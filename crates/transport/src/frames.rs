//! Frames in and out of a socket: a reader whose memory grows with what has arrived, and a bounded
//! queue of frames that wait to leave.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bincode::BorrowDecode;
use bytes::{Buf, Bytes, BytesMut};
use pixii_core::secret::Seal;
use pixii_core::wire::{self, Check, Checksum, PREAMBLE_BYTES, WireError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::inflow::{Holder, Inflow, Memory};
use super::locked;
use super::pace::{LEAST_RATE, Pace};

/// A frame beyond this many bytes claims memory as it arrives.
const SMALL_BYTES: usize = 16 << 10;
const READ_BYTES: usize = 16 << 10;
/// Bytes of the length that a frame begins with.
const LENGTH_BYTES: usize = 4;
const MIN_SPARE_BYTES: usize = 2 << 10;
/// Grace period of a reader: how long no further byte of a begun frame may arrive, and how much
/// later than at the least pace a frame may be complete.
const STALL: Duration = Duration::from_secs(10);
/// Grace period of a client that reads replies; it may be suspended for a moment.
const WRITE_GRACE: Duration = Duration::from_secs(30);
/// Grace period of such a client while less than half of the memory for replies is left.
const SHORT_WRITE_GRACE: Duration = Duration::from_secs(5);
/// Interval at which a waiting write checks how long it may still wait.
const WRITE_SLICE: Duration = Duration::from_secs(1);
/// A reply to a client with more bytes than this is a large one.
pub const LARGE_REPLY_BYTES: usize = 64 << 10;
/// One write takes at most this many frames, and no more once it has [`BATCH_BYTES`].
const BATCH_FRAMES: usize = 256;
/// Most buffers of one system call, which a connection has memory for.
const WRITE_BUFFERS: usize = 64;
const BATCH_BYTES: usize = 1 << 20;

/// The memory of a large frame, released when the frame has been handled; `None` for a small one.
pub type FrameMemory = Option<Memory>;

/// Why no more frames come from a connection.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Reading from the socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Bytes that are no frame or no message.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The connection ended inside a frame.
    #[error("it ended inside a frame, after {0} bytes of it")]
    Truncated(usize),
    /// No byte came for too long inside a frame.
    #[error("it stopped inside a frame, after {0} bytes of it, for {sec} s", sec = STALL.as_secs())]
    Stalled(usize),
    /// A frame comes so slowly that its memory is held for too long.
    #[error("it sent {0} bytes of a frame in {sec} s, and {LEAST_RATE} a second are the \
        least", sec = .1.as_secs())]
    Slow(usize, Duration),
}

/// Takes messages off one side of a connection.
#[derive(Debug)]
pub struct FrameReader<R> {
    half: R,
    buffer: BytesMut,
    limit: usize,
    /// The memory that large frames are charged to, and the party that holds it; `None` during a
    /// handshake.
    source: Option<(Arc<Inflow>, Holder)>,
    held: FrameMemory,
    pace: Pace,
    seal: Option<Seal>,
    checksum: Checksum,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads frames of at most `limit` bytes from `half`, without a seal or a budget, as a
    /// handshake needs.
    pub fn new(half: R, limit: usize) -> Self {
        let (buffer, pace) = (BytesMut::new(), Pace::new(STALL));
        let (source, held, seal, checksum) = (None, None, None, Checksum::default());
        FrameReader { half, buffer, limit, source, held, pace, seal, checksum }
    }

    /// From now on, frames without a seal have this checksum.
    pub fn check_by(&mut self, checksum: Checksum) {
        self.checksum = checksum;
    }

    /// From now on, each frame carries the next value of this seal.
    pub fn expect(&mut self, seal: Seal) {
        self.seal = Some(seal);
    }

    /// The half, the bytes that were read and not decoded, and the seal of the next frame.
    pub fn into_pause(self) -> (R, BytesMut, Option<Seal>) {
        (self.half, self.buffer, self.seal)
    }

    /// From now on, frames have at most `limit` bytes, and large ones take memory of `inflow`,
    /// charged to `holder`.
    pub fn allow(&mut self, limit: usize, inflow: Arc<Inflow>, holder: Holder) {
        (self.limit, self.source) = (limit, Some((inflow, holder)));
    }

    /// The half of the socket that this reads from.
    pub fn half(&self) -> &R {
        &self.half
    }

    /// The bytes that open a connection; `None` when it is closed without a byte.
    pub async fn preamble(&mut self) -> Result<Option<[u8; PREAMBLE_BYTES]>, ReadError> {
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

    /// Reads and discards at most `bytes` bytes, until the other side closes the connection.
    pub async fn drain(&mut self, bytes: u64) {
        let mut rest = (&mut self.half).take(bytes);
        let _ = tokio::io::copy(&mut rest, &mut tokio::io::sink()).await;
    }

    /// The next message; `None` when the other side has closed the connection between two frames.
    pub async fn next<T>(&mut self) -> Result<Option<(T, FrameMemory)>, ReadError>
    where
        T: for<'de> BorrowDecode<'de, Bytes>,
    {
        let Some((payload, memory)) = self.payload().await? else { return Ok(None) };
        Ok(Some((wire::decode(&payload)?, memory)))
    }

    /// The payload of the next message, which is still to be decoded.
    pub async fn payload(&mut self) -> Result<Option<(Bytes, FrameMemory)>, ReadError> {
        loop {
            let check = Check::of(self.seal.as_mut(), self.checksum);
            if let Some(payload) = wire::take_checked(&mut self.buffer, self.limit, check)? {
                self.pace.reset();
                let held = self.held.take();
                held.iter().for_each(Memory::complete);
                return Ok(Some((payload, held)));
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

    /// Makes room for the bytes that are to arrive. A large frame gets at most as much again as has
    /// arrived, when there is memory for it: an announced length alone claims nothing.
    async fn claim(&mut self) {
        let arrived = self.buffer.len();
        if self.buffer.capacity() - arrived >= MIN_SPARE_BYTES {
            return;
        }
        let room = arrived.max(READ_BYTES);
        let length = self.buffer.first_chunk().map_or(0, |head| u32::from_be_bytes(*head) as usize);
        if length > SMALL_BYTES
            && arrived >= MIN_SPARE_BYTES
            && let Some((inflow, holder)) = &self.source
        {
            let wanted = (length + LENGTH_BYTES).min(arrived + room);
            let memory = self.held.get_or_insert_with(|| inflow.begin(*holder));
            memory.grow(wanted).await;
        }
        self.buffer.reserve(room);
    }

    async fn read(&mut self) -> Result<usize, ReadError> {
        let arrived = self.buffer.len();
        if self.buffer.capacity() - arrived < MIN_SPARE_BYTES {
            self.buffer.reserve(READ_BYTES);
        }
        let read = self.half.read_buf(&mut self.buffer);
        if arrived == 0 {
            self.pace.reset();
            return Ok(read.await?);
        }
        let (begun, allowance) = (Instant::now(), self.pace.allowance());
        let Ok(read) = timeout(allowance, read).await else {
            return Err(match allowance == STALL {
                true => ReadError::Stalled(arrived),
                false => ReadError::Slow(arrived, self.pace.waited() + allowance),
            });
        };
        let read = read?;
        self.pace.moved(read, begun.elapsed());
        Ok(read)
    }
}

/// The limits of an [`Outbox`].
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most frames in this outbox.
    pub messages: usize,
    /// Most bytes in this outbox; a larger frame is accepted when it is alone.
    pub bytes: usize,
    /// Most bytes in all the outboxes that share a total.
    pub total_bytes: usize,
    /// Where the other side is a client: most bytes of large frames for all clients of its address.
    /// It has to read at the least pace, and its large frames stay within the total. `None` for a
    /// peer.
    pub address_bytes: Option<usize>,
}

/// Frames that wait to leave on one connection.
#[derive(Debug)]
pub struct Outbox {
    queue: Mutex<Queue>,
    limits: Limits,
    /// Bytes in all outboxes that share the total.
    total: Arc<AtomicUsize>,
    of_address: Arc<AtomicUsize>,
    ready: Notify,
    sent: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Bytes>,
    /// Frames and bytes that have not left, including those that the writer holds.
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
    /// There is no connection, so every frame is dropped.
    #[default]
    Down,
    Up,
    /// Queued frames still leave, and then the connection ends.
    Finishing,
}

impl Outbox {
    /// An outbox without a connection, whose bytes also count in `total`.
    pub fn new(limits: Limits, total: Arc<AtomicUsize>) -> Self {
        Self::of_address(limits, total, Arc::default())
    }

    /// Like [`Outbox::new`], with bytes that also count in those of an address.
    pub fn of_address(
        limits: Limits,
        total: Arc<AtomicUsize>,
        of_address: Arc<AtomicUsize>,
    ) -> Self {
        let queue = Mutex::default();
        Outbox { queue, limits, total, of_address, ready: Notify::new(), sent: Notify::new() }
    }

    fn count(&self, bytes: usize) {
        self.total.fetch_add(bytes, Ordering::Relaxed);
        self.of_address.fetch_add(bytes, Ordering::Relaxed);
    }

    fn discount(&self, bytes: usize) {
        self.total.fetch_sub(bytes, Ordering::Relaxed);
        self.of_address.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes that large frames may still take: of all clients or peers, and of this address.
    fn left(&self) -> (usize, usize) {
        let left =
            |limit: usize, used: &AtomicUsize| limit.saturating_sub(used.load(Ordering::Relaxed));
        let of_all = left(self.limits.total_bytes, &self.total);
        let own = self.limits.address_bytes.map(|limit| left(limit, &self.of_address));
        (of_all, own.unwrap_or(of_all))
    }

    /// A connection begins: frames are accepted from now on.
    pub fn open(&self) {
        let mut queue = locked(&self.queue);
        queue.state = State::Up;
        queue.connections += 1;
    }

    /// The number of the current or last connection, counted from 1; 0 before the first.
    pub fn connection(&self) -> u64 {
        locked(&self.queue).connections
    }

    /// Counts a frame that was dropped before it reached this outbox.
    pub fn lose(&self) {
        locked(&self.queue).dropped += 1;
    }

    /// The connection has ended: queued frames are dropped and counted, and so are all later ones.
    pub fn shut(&self) {
        let mut queue = locked(&self.queue);
        queue.state = State::Down;
        queue.dropped += queue.messages as u64;
        self.discount(queue.bytes);
        queue.frames.clear();
        (queue.messages, queue.bytes) = (0, 0);
        drop(queue);
        self.ready.notify_one();
        self.sent.notify_one();
    }

    /// Accepts no further frames; the connection ends when all queued ones have left.
    pub fn finish(&self) {
        let mut queue = locked(&self.queue);
        if queue.state == State::Up {
            queue.state = State::Finishing;
        }
        drop(queue);
        self.ready.notify_one();
    }

    /// True from [`Outbox::open`] until [`Outbox::shut`].
    pub fn is_open(&self) -> bool {
        locked(&self.queue).state != State::Down
    }

    /// Bytes of all frames that were accepted since the start.
    pub fn bytes_taken(&self) -> u64 {
        locked(&self.queue).taken
    }

    /// Frames and bytes that have not left.
    pub fn waiting(&self) -> (usize, usize) {
        let queue = locked(&self.queue);
        (queue.messages, queue.bytes)
    }

    /// Frames dropped since the start.
    pub fn dropped(&self) -> u64 {
        locked(&self.queue).dropped
    }

    /// True when a large frame of this many bytes has room, and `reserve` is left for small ones.
    /// The less is left, the smaller the share of one outbox: outboxes that nobody reads leave room
    /// for others.
    pub fn fits(&self, bytes: usize, reserve: usize) -> bool {
        let queue = locked(&self.queue);
        let (of_all, own) = self.left();
        let sum = queue.bytes + bytes;
        // However little memory there is, the largest frame can leave when nothing else waits.
        let alone = self.total.load(Ordering::Relaxed) == 0 && bytes <= self.limits.total_bytes;
        queue.messages < self.limits.messages
            && (alone || (bytes <= of_all / 8 && bytes <= own / 2))
            && (queue.bytes == 0
                || (sum + reserve <= self.limits.bytes && sum <= of_all / 4 && sum <= own))
    }

    /// True while less than half of the memory for large frames is left.
    fn is_short(&self) -> bool {
        let (of_all, own) = self.left();
        let address_bytes = self.limits.address_bytes.unwrap_or(self.limits.total_bytes);
        of_all < self.limits.total_bytes / 2 || own < address_bytes / 2
    }

    fn has_room(&self, queue: &Queue, bytes: usize) -> bool {
        // A frame that is alone fits, as long as the memory of all outboxes is bounded. Peers are
        // as many as members; clients are many, so only their small frames may exceed the total.
        let alone = queue.bytes == 0;
        let for_peer = self.limits.address_bytes.is_none();
        let exempt = alone && (for_peer || bytes <= LARGE_REPLY_BYTES);
        queue.messages < self.limits.messages
            && (alone || queue.bytes + bytes <= self.limits.bytes)
            && (exempt || self.total.load(Ordering::Relaxed) + bytes <= self.limits.total_bytes)
    }

    /// Queues a frame. Returns false and counts it when it was dropped, because there is no room or
    /// no connection.
    pub fn push(&self, frame: Bytes) -> bool {
        let mut queue = locked(&self.queue);
        if queue.state != State::Up || !self.has_room(&queue, frame.len()) {
            queue.dropped += 1;
            return false;
        }
        queue.messages += 1;
        queue.bytes += frame.len();
        queue.taken += frame.len() as u64;
        self.count(frame.len());
        queue.frames.push_back(frame);
        drop(queue);
        self.ready.notify_one();
        true
    }

    /// Returns when at most a quarter of the permitted frames are waiting.
    pub async fn room(&self) {
        while locked(&self.queue).messages > self.limits.messages / 4 {
            self.sent.notified().await;
        }
    }

    /// Writes queued frames until the outbox is finished or shut. Each frame carries the next value
    /// of the seal, if the connection has one.
    pub async fn write_to(
        &self,
        half: &mut (impl AsyncWrite + Unpin),
        mut seal: Option<Seal>,
    ) -> io::Result<()> {
        let mut batch = VecDeque::new();
        let mut pace = self.limits.address_bytes.map(|_| Pace::new(WRITE_GRACE));
        while self.take(&mut batch, pace.as_mut()).await {
            let (messages, bytes) = (batch.len(), batch.iter().map(Bytes::len).sum());
            if let Some(seal) = &mut seal {
                batch = batch.iter().flat_map(|frame| wire::sealed(frame, seal)).collect();
            }
            self.write_all(half, &mut batch, pace.as_mut()).await?;
            let mut queue = locked(&self.queue);
            queue.messages = queue.messages.saturating_sub(messages);
            // Shutting the outbox has already taken the bytes off the total.
            let bytes = queue.bytes.min(bytes);
            queue.bytes -= bytes;
            self.discount(bytes);
            drop(queue);
            self.sent.notify_one();
        }
        half.shutdown().await
    }

    /// Moves the frames of one write to `batch`; false when no more will come.
    async fn take(&self, batch: &mut VecDeque<Bytes>, mut pace: Option<&mut Pace>) -> bool {
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
            // The other side has read everything before: the next frames have their own time.
            if let Some(pace) = pace.as_deref_mut() {
                pace.reset();
            }
        }
    }

    async fn write_all(
        &self,
        half: &mut (impl AsyncWrite + Unpin),
        batch: &mut VecDeque<Bytes>,
        mut pace: Option<&mut Pace>,
    ) -> io::Result<()> {
        while !batch.is_empty() {
            let mut slices = [IoSlice::new(&[]); WRITE_BUFFERS];
            let count = slices.len().min(batch.len());
            for (slice, frame) in slices.iter_mut().zip(batch.iter()) {
                *slice = IoSlice::new(frame);
            }
            let slices = &slices[..count];
            let mut written = self.write_in_time(half, slices, pace.as_deref_mut()).await?;
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

    /// A write that completes in time. Without a pace, the socket's own timeout is the limit.
    async fn write_in_time(
        &self,
        half: &mut (impl AsyncWrite + Unpin),
        slices: &[IoSlice<'_>],
        pace: Option<&mut Pace>,
    ) -> io::Result<usize> {
        let Some(pace) = pace else { return half.write_vectored(slices).await };
        loop {
            let grace = if self.is_short() { SHORT_WRITE_GRACE } else { WRITE_GRACE };
            let allowance = pace.allowance_within(grace);
            if allowance.is_zero() {
                let sec = pace.waited().as_secs();
                let why = format!(
                    "it read too little in {sec} s: {LEAST_RATE} bytes a second are the least"
                );
                return Err(io::Error::new(io::ErrorKind::TimedOut, why));
            }
            let begun = Instant::now();
            // A write that is given up has written nothing.
            let written = timeout(allowance.min(WRITE_SLICE), half.write_vectored(slices)).await;
            match written {
                Ok(written) => {
                    let written = written?;
                    pace.moved(written, begun.elapsed());
                    return Ok(written);
                }
                Err(_) => pace.moved(0, begun.elapsed()),
            }
        }
    }
}

#[cfg(test)]
mod tests;
