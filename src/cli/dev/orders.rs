//! Where orders to `pixii dev` come from: its standard input, and other terminals through a Unix
//! socket in the cluster's directory. An order is a line; the answer to another terminal is "done
//! WHAT" or "refused WHY".

use std::fs::{self, File};
use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use pixii_kit::outcome::complain;

/// Longest order. Of a longer line of standard input, the rest is the next one.
const MAX_ORDER_BYTES: usize = 1_024;
/// Longest answer: an order may come back escaped.
const MAX_ANSWER_BYTES: u64 = 64 << 10;
/// How long another terminal may take for its order, and to take the answer.
const ORDER_WAIT: Duration = Duration::from_secs(1);
/// How long it waits for the answer: longer than a start, and a stop before it, may take.
const ANSWER_WAIT: Duration = Duration::from_secs(120);
/// Pause after a connection that could not be taken.
const RETRY: Duration = Duration::from_millis(100);
const SOCKET: &str = "dev.sock";

/// An order and who waits for the answer.
pub(super) struct Order {
    /// The order as it was typed, not parsed yet.
    pub(super) line: String,
    from: Option<UnixStream>,
}

impl Order {
    /// True if it was typed where the cluster runs.
    pub(super) fn is_from_here(&self) -> bool {
        self.from.is_none()
    }

    /// Notifies another terminal what came of it.
    pub(super) fn answer(self, reported: &Result<&str, &str>) {
        if let Some(stream) = self.from {
            answer(stream, reported);
        }
    }
}

/// All orders, in the order of their arrival. Dropped, the socket is gone.
pub(super) struct Orders {
    received: Receiver<Order>,
    /// Waiting for an order is no error when nobody can give one any more.
    _open: SyncSender<Order>,
    _socket: Option<OrderSocket>,
}

impl Orders {
    /// Listens from now on, for the cluster in `dir`, whose lock this process holds.
    pub(super) fn listen(dir: &Path) -> Self {
        let (send, received) = mpsc::sync_channel(1);
        let typed = send.clone();
        thread::spawn(move || read_lines(&typed));
        let socket = OrderSocket::open(dir, send.clone()).map_err(|error| {
            let socket = dir.join(SOCKET);
            complain(&format!("no orders from other terminals: {}: {error}", socket.display()));
        });
        Orders { received, _open: send, _socket: socket.ok() }
    }

    /// The next order, if one comes within `wait`.
    pub(super) fn next(&self, wait: Duration) -> Option<Order> {
        self.received.recv_timeout(wait).ok()
    }
}

/// Reads orders from standard input, one line ahead of the order that is carried out.
fn read_lines(orders: &SyncSender<Order>) {
    let mut input = io::stdin().lock();
    loop {
        let mut line = Vec::new();
        let read = input.by_ref().take(MAX_ORDER_BYTES as u64).read_until(b'\n', &mut line);
        let Ok(1..) = read else { return };
        let line = String::from_utf8_lossy(&line).into();
        if orders.send(Order { line, from: None }).is_err() {
            return;
        }
    }
}

/// The socket's file.
struct OrderSocket {
    dir: File,
}

impl OrderSocket {
    fn open(dir: &Path, orders: SyncSender<Order>) -> io::Result<Self> {
        let dir = File::open(dir)?;
        let path = socket_path(&dir);
        // The lock of the directory is ours, so nobody listens at what is left there.
        if fs::symlink_metadata(&path).is_ok_and(|file| file.file_type().is_socket()) {
            fs::remove_file(&path)?;
        }
        let listener = UnixListener::bind(&path)?;
        thread::spawn(move || admit(&listener, &orders));
        Ok(OrderSocket { dir })
    }
}

impl Drop for OrderSocket {
    fn drop(&mut self) {
        // What is left would be in nobody's way.
        let _ = fs::remove_file(socket_path(&self.dir));
    }
}

/// The socket in an open directory, by a path that is short however long the directory's is: the
/// path of a socket has at most 107 bytes.
fn socket_path(dir: &File) -> PathBuf {
    format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd()).into()
}

/// Takes connections, one after the other: each has a moment to say its order, whatever it sends.
fn admit(listener: &UnixListener, orders: &SyncSender<Order>) {
    loop {
        let Ok((mut stream, _)) = listener.accept() else {
            thread::sleep(RETRY);
            continue;
        };
        match read_order(&mut stream) {
            Ok(line) => {
                if orders.send(Order { line, from: Some(stream) }).is_err() {
                    return;
                }
            }
            Err(why) => answer(stream, &Err(&why)),
        }
    }
}

/// A whole line. Part of one is no order: the name may have been cut short.
fn read_order(stream: &mut UnixStream) -> Result<String, String> {
    let deadline = Instant::now() + ORDER_WAIT;
    let mut line = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(format!("no whole order came in {} ms", ORDER_WAIT.as_millis()));
        }
        stream.set_read_timeout(Some(left)).map_err(|error| error.to_string())?;
        let mut bytes = [0; 256];
        match stream.read(&mut bytes) {
            Ok(0) => return Err("an order ends with a newline".into()),
            Ok(count) => line.extend(&bytes[..count]),
            Err(error) if is_late(&error) || error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.to_string()),
        }
        let end = line.iter().position(|byte| *byte == b'\n');
        if end.unwrap_or(line.len()) > MAX_ORDER_BYTES {
            return Err(format!("an order has at most {MAX_ORDER_BYTES} bytes"));
        }
        if let Some(end) = end {
            return Ok(String::from_utf8_lossy(&line[..end]).into());
        }
    }
}

fn answer(mut stream: UnixStream, reported: &Result<&str, &str>) {
    let line = match reported {
        Ok(what) => format!("done {what}\n"),
        Err(why) => format!("refused {why}\n"),
    };
    // Whoever has gone does not wait for it.
    let _ =
        stream.set_write_timeout(Some(ORDER_WAIT)).and_then(|()| stream.write_all(line.as_bytes()));
}

/// Gives an order to the `pixii dev` that runs in `dir`: what it did, or why it did not.
pub(super) fn give(dir: &Path, order: &str) -> Result<String, String> {
    let place = dir.display();
    let lost = |error: io::Error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
            format!("no `pixii dev` runs in {place}; name its directory with --dir")
        }
        _ => format!("{place}: {error}"),
    };
    let dir = File::open(dir).map_err(lost)?;
    let mut stream = UnixStream::connect(socket_path(&dir)).map_err(lost)?;
    stream.set_read_timeout(Some(ANSWER_WAIT)).map_err(lost)?;
    // If it goes meanwhile, there is no answer, which says the same.
    let _ = stream.write_all(format!("{order}\n").as_bytes());
    let mut answer = Vec::new();
    match stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer) {
        Err(error) if is_late(&error) => {
            let wait = ANSWER_WAIT.as_secs();
            return Err(format!(
                "the `pixii dev` in {place} has not answered in {wait} s; it may still do it"
            ));
        }
        // A connection that broke and one that ended say what they said.
        Ok(_) | Err(_) => {}
    }
    let answer = String::from_utf8_lossy(&answer);
    match answer.trim_end().split_once(' ') {
        Some(("done", what)) => Ok(what.into()),
        Some(("refused", why)) => Err(why.into()),
        _ if answer.is_empty() => {
            Err(format!("the `pixii dev` in {place} ended without an answer"))
        }
        _ => Err(format!("the answer of the `pixii dev` in {place} makes no sense")),
    }
}

/// True of a read that was given up for its timeout.
fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
