//! Daemons on threads of the test's process, and connections whose bytes the test writes itself.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};

use bytes::BytesMut;
use pixii::config::Config;
use pixii::engine::{self, Order, ServeError};
use pixii_core::gc_epoch::GcState;
use pixii_core::members::Members;
use pixii_core::message::{Call, CallBody, Reply, ReplyBody, Request, Response, StatusReport};
use pixii_core::ring::Ring;
use pixii_core::secret::Seal;
use pixii_core::store::memory::MemoryStore;
use pixii_core::store::{
    Change, Found, HintPage, Kept, Listing, Meta, ScanPage, Span, Store, StoreError,
};
use pixii_core::types::{Blob, Key, NodeId, Partition, WriteId};
use pixii_core::wire::{self, Hello, MAX_FRAME_BYTES, Welcome};
use tokio::sync::mpsc;

use crate::{DEADLINE, free_port, until};

const TIMEOUT_MS: u32 = 20_000;

/// The configuration of node `own` (counted from 0) of a cluster `test` whose nodes n0, n1, ...
/// have these ports on loopback; N is 3, or their number if that is less.
pub fn config_text(name: &str, ports: &[u16], own: usize) -> String {
    let n = ports.len().min(3);
    let mut text = format!(
        "name = \"{name}\"\ncluster = \"test\"\ndata_dir = \"unused\"\nn = {n}\npartitions = 16\n\
         listen = \"127.0.0.1:{}\"\n",
        ports[own]
    );
    for (at, port) in ports.iter().enumerate() {
        let member = format!("[[members]]\nname = \"n{at}\"\naddress = \"127.0.0.1:{port}\"\n");
        text.push_str(&member);
    }
    text
}

/// The parsed configuration of node n`own` of such a cluster.
pub fn config(ports: &[u16], own: usize) -> Config {
    Config::parse(&config_text(&format!("n{own}"), ports, own), Path::new("test.toml")).unwrap()
}

/// A daemon on a thread of this process. Dropping it stops it and waits for its end.
pub struct Daemon {
    /// The port on loopback at which it listens.
    pub port: u16,
    orders: mpsc::Sender<Order>,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
}

impl Daemon {
    /// Starts node `own` of the cluster with these ports, on `store`.
    pub fn start(ports: &[u16], own: usize, store: Arc<dyn Store>) -> Self {
        Daemon::with(config(ports, own), ports[own], store)
    }

    /// Starts a daemon with this configuration, which listens on `port`.
    pub fn with(config: Config, port: u16, store: Arc<dyn Store>) -> Self {
        let (orders, ordered) = mpsc::channel(1);
        let thread = thread::spawn(move || engine::run(&config, store, ordered));
        Daemon { port, orders, thread: Some(thread) }
    }

    /// Starts a cluster of one node and waits until it serves.
    pub fn alone(store: Arc<dyn Store>) -> Self {
        let daemon = Daemon::start(&[free_port()], 0, store);
        until("a node that serves", || daemon.status().serving.then_some(()));
        daemon
    }

    /// Orders the daemon to stop, without waiting for it.
    pub fn query_to_stop(&self) {
        let _ = self.orders.try_send("the test".into());
    }

    /// Waits until the daemon has ended, and returns its result.
    pub fn ended(mut self) -> Result<(), ServeError> {
        self.thread.take().unwrap().join().unwrap()
    }

    /// Opens a new connection to the daemon.
    pub fn client(&self) -> Client {
        Client::connect(self.port)
    }

    /// Its status report, fetched over a new connection.
    pub fn status(&self) -> StatusReport {
        self.client().status()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.query_to_stop();
        // If the test fails, it may hold its store for ever: do not wait, so that its message is
        // seen.
        if let Some(thread) = self.thread.take().filter(|_| !thread::panicking()) {
            let _ = thread.join();
        }
    }
}

// --- the wire protocol, written by hand ---

/// A connection whose bytes this test writes itself.
#[derive(Debug)]
pub struct Raw {
    /// The socket: blocking, with the read timeout [`DEADLINE`].
    pub stream: TcpStream,
    buffer: BytesMut,
}

impl Raw {
    /// Connects to a daemon, waiting until it listens.
    pub fn connect(port: u16) -> Self {
        let stream = until("a connection", || TcpStream::connect(("127.0.0.1", port)).ok());
        Raw::on(stream)
    }

    /// Takes over a connected socket.
    pub fn on(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Raw { stream, buffer: BytesMut::new() }
    }

    /// Writes these bytes as they are; panics if the connection is broken.
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Sends the preamble and a hello.
    pub fn greet(&mut self, hello: &Hello) {
        self.send(&[&wire::preamble()[..], &wire::frame(hello)].concat());
    }

    /// Reads the preamble of the other side without checking it.
    pub fn first_bytes(&mut self) -> [u8; wire::PREAMBLE_BYTES] {
        let mut bytes = [0; wire::PREAMBLE_BYTES];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Reads the preamble; panics if no protocol version is supported by both sides.
    pub fn preamble(&mut self) {
        wire::check_preamble(&self.first_bytes()).unwrap();
    }

    /// The next message; `None` once the connection is closed or cut.
    pub fn receive<T>(&mut self) -> Option<T>
    where
        T: for<'de> bincode::BorrowDecode<'de, bytes::Bytes>,
    {
        self.receive_sealed(None)
    }

    /// The next message, opened with the next of these seals.
    pub fn receive_sealed<T>(&mut self, mut seal: Option<&mut Seal>) -> Option<T>
    where
        T: for<'de> bincode::BorrowDecode<'de, bytes::Bytes>,
    {
        loop {
            let seal = seal.as_deref_mut();
            if let Some(frame) = wire::take_sealed(&mut self.buffer, MAX_FRAME_BYTES, seal).unwrap()
            {
                return Some(wire::decode(&frame).unwrap());
            }
            let mut chunk = [0; 65_536];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(read) => self.buffer.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("nothing came: {error}"),
            }
        }
    }

    /// Reads the answer to a hello; panics if the connection ends instead.
    pub fn welcome(&mut self) -> Welcome {
        self.preamble();
        self.receive().expect("a welcome")
    }
}

/// A client that sends its calls by hand over one connection, one after the other.
pub struct Client {
    raw: Raw,
    /// The id of the latest call; 0 before the first.
    pub last: u64,
}

impl Client {
    /// Connects and completes the handshake without a secret.
    pub fn connect(port: u16) -> Self {
        let mut raw = Raw::connect(port);
        raw.greet(&Hello::Client);
        let welcome = raw.welcome();
        assert!(matches!(welcome, Welcome::Accepted { .. }), "{welcome:?}");
        Client { raw, last: 0 }
    }

    /// Sends a call and returns its id.
    pub fn send(&mut self, body: CallBody) -> u64 {
        self.last += 1;
        self.raw.send(&wire::frame(&Call { id: self.last, body }));
        self.last
    }

    /// Sends a request for data and returns the id of its call.
    pub fn data(&mut self, request: Request) -> u64 {
        self.send(CallBody::Data { request, timeout_ms: TIMEOUT_MS })
    }

    /// Signals that no more calls follow, as `shutdown(SHUT_WR)` does.
    pub fn close_sending(&self) {
        self.raw.stream.shutdown(std::net::Shutdown::Write).unwrap();
    }

    /// The next reply; `None` once the connection has ended.
    pub fn reply(&mut self) -> Option<Reply> {
        self.raw.receive()
    }

    /// Sends a call and waits for its reply.
    pub fn call(&mut self, body: CallBody) -> ReplyBody {
        let id = self.send(body);
        let reply = self.reply().expect("a reply");
        assert_eq!(reply.id, id);
        reply.body
    }

    /// Sends a request for data and waits for its answer.
    pub fn query(&mut self, request: Request) -> Response {
        match self.call(CallBody::Data { request, timeout_ms: TIMEOUT_MS }) {
            ReplyBody::Data(response) => response,
            other => panic!("{other:?}"),
        }
    }

    /// Fetches the status report.
    pub fn status(&mut self) -> StatusReport {
        match self.call(CallBody::Status) {
            ReplyBody::Status(status) => *status,
            other => panic!("{other:?}"),
        }
    }
}

/// The key with this text; panics if it is not a valid key.
pub fn key(name: &str) -> Key {
    Key::new(name.as_bytes().to_vec()).unwrap()
}

/// A get with the default R.
pub fn get(name: &str) -> Request {
    Request::Get { key: key(name), r: None.into() }
}

/// A put without a context, with the default W and a write id that is always the same.
pub fn put(name: &str, value: &[u8]) -> Request {
    let value = Blob(value.to_vec().into());
    Request::Put { key: key(name), value, context: None, write: WriteId(7), w: None.into() }
}

/// The values that a get found; panics at any other response.
pub fn values(response: Response) -> Vec<Blob> {
    match response {
        Response::Found { values, .. } => values,
        other => panic!("{other:?}"),
    }
}

// --- a store with faults ---

/// A store in memory that can be ordered to fail its syncs, hold its reads, hang its writes, and
/// report how much room it has.
#[derive(Default)]
pub struct Faulty {
    inner: MemoryStore,
    /// If true, syncs fail.
    pub fail: AtomicBool,
    held: Mutex<bool>,
    released: Condvar,
    hung: Mutex<bool>,
    thawed: Condvar,
    free_bytes: Mutex<Option<u64>>,
}

impl Faulty {
    /// Holds all reads from now on if `held`, else lets them go.
    pub fn hold(&self, held: bool) {
        *self.held.lock().unwrap() = held;
        self.released.notify_all();
    }

    /// Hangs all writes from now on if `hung`, as a frozen file system does, else lets them go.
    pub fn hang(&self, hung: bool) {
        *self.hung.lock().unwrap() = hung;
        self.thawed.notify_all();
    }

    fn wait_for_thaw(&self) {
        let hung = self.hung.lock().unwrap();
        drop(self.thawed.wait_while(hung, |hung| *hung).unwrap());
    }

    /// Sets the number of bytes that the disk reports as free.
    pub fn has_free(&self, bytes: u64) {
        *self.free_bytes.lock().unwrap() = Some(bytes);
    }
}

impl Store for Faulty {
    fn ring(&self) -> Result<Option<Ring>, StoreError> {
        self.inner.ring()
    }
    fn meta(&self) -> Result<Option<Meta>, StoreError> {
        self.inner.meta()
    }
    fn read(&self, partition: Partition, key: &Key) -> Result<Found, StoreError> {
        let held = self.held.lock().unwrap();
        drop(self.released.wait_while(held, |held| *held).unwrap());
        self.inner.read(partition, key)
    }
    fn list(&self, p: Partition, after: Option<&Key>, l: usize) -> Result<Listing, StoreError> {
        self.inner.list(p, after, l)
    }
    fn members(&self) -> Result<Option<Members>, StoreError> {
        self.inner.members()
    }
    fn read_hint(&self, target: NodeId, key: &Key) -> Result<Found, StoreError> {
        self.inner.read_hint(target, key)
    }
    fn list_hints(&self, t: NodeId, a: Option<&Key>, l: usize) -> Result<HintPage, StoreError> {
        self.inner.list_hints(t, a, l)
    }
    fn scan(&self, partition: Partition, span: &Span) -> Result<ScanPage, StoreError> {
        self.inner.scan(partition, span)
    }
    fn gc_epochs(&self) -> Result<Vec<(Partition, GcState)>, StoreError> {
        self.inner.gc_epochs()
    }
    fn hint_totals(&self, partition: &dyn Fn(&Key) -> Partition) -> Result<Kept, StoreError> {
        self.inner.hint_totals(partition)
    }
    fn apply(&self, changes: &[Change]) -> Result<(), StoreError> {
        self.wait_for_thaw();
        self.inner.apply(changes)
    }
    fn sync(&self) -> Result<(), StoreError> {
        self.wait_for_thaw();
        if self.fail.load(Ordering::SeqCst) {
            return Err(StoreError("fdatasync: Input/output error".into()));
        }
        self.inner.sync()
    }
    fn disk_bytes(&self) -> Result<u64, StoreError> {
        Ok(4_711)
    }
    fn free_bytes(&self, _: u64) -> Result<Option<u64>, StoreError> {
        Ok(*self.free_bytes.lock().unwrap())
    }
}
