//! The least that a round trip between two processes costs: bytes over TCP, sent back as they are.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::account::Machine;

/// The verb of the command that runs the other side; not for people.
pub(crate) const VERB: &str = "echo-server";
/// Bytes of each message.
pub(crate) const BYTES: usize = 100;

/// Serves echoes until standard input ends; the first line of standard output is the port.
pub(crate) fn serve() -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("{}", listener.local_addr()?.port());
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || echo(stream));
        }
    });
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut bytes = [0; BYTES];
    loop {
        stream.read_exact(&mut bytes)?;
        stream.write_all(&bytes)?;
    }
}

/// What echoes cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Echo {
    /// Connections, each with one message in progress.
    pub(crate) connections: usize,
    /// Round trips per second.
    pub(crate) rate: f64,
    /// CPU of both processes for one, in microseconds.
    pub(crate) cpu_us: f64,
}

/// The other process. Dropping it ends it.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Measures echoes over `connections` connections for `duration`.
pub(crate) fn measure(
    machine: &Machine,
    connections: usize,
    duration: Duration,
) -> Result<Echo, String> {
    let fault = |error: io::Error| format!("the echo: {error}");
    let own = std::env::current_exe().map_err(fault)?;
    let mut command = Command::new(own);
    command.arg(VERB).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut server = Server(command.spawn().map_err(fault)?);
    let mut port = String::new();
    let out = server.0.stdout.take().ok_or("the echo: no output")?;
    BufReader::new(out).read_line(&mut port).map_err(fault)?;
    let port: u16 = port.trim().parse().map_err(|_| "the echo: it names no port")?;
    let (stop, trips) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut threads = Vec::new();
    for _ in 0..connections {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).map_err(fault)?;
        let (stop, trips) = (Arc::clone(&stop), Arc::clone(&trips));
        threads.push(thread::spawn(move || ping(stream, &stop, &trips)));
    }
    let all = || -> Result<Duration, String> {
        let (ours, theirs) = (machine.usage(std::process::id())?, machine.usage(server.0.id())?);
        Ok(ours.cpu + theirs.cpu)
    };
    let (before, first, begun) = (all(), trips.load(Ordering::Relaxed), Instant::now());
    thread::sleep(duration);
    let (after, last, spent) = (all(), trips.load(Ordering::Relaxed), begun.elapsed());
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().map_err(|_| "the echo: a thread ended")?.map_err(fault)?;
    }
    let done = (last - first).max(1) as f64;
    let cpu = after?.saturating_sub(before?).as_secs_f64();
    Ok(Echo { connections, rate: done / spent.as_secs_f64(), cpu_us: cpu * 1e6 / done })
}

fn ping(mut stream: TcpStream, stop: &AtomicBool, trips: &AtomicU64) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut bytes = [7; BYTES];
    while !stop.load(Ordering::Relaxed) {
        stream.write_all(&bytes)?;
        stream.read_exact(&mut bytes)?;
        trips.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}
