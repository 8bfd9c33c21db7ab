//! Look-ups of host names, which may take as long as a name server likes: each in a thread of its
//! own, so that no link waits for the look-up of another one, and few of each peer at a time.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Mutex;
use std::thread;

use tokio::net::TcpStream;
use tokio::sync::oneshot::{self, Receiver};

use super::locked;

/// Most look-ups of a peer's names that have not come back.
const MAX_PENDING: usize = 2;

type Found = io::Result<Vec<SocketAddr>>;

/// The look-ups of one peer that have not come back, by the name.
#[derive(Debug, Default)]
pub(super) struct Lookups(Mutex<HashMap<String, Receiver<Found>>>);

impl Lookups {
    /// Connects to `address`, `host:port`. An earlier attempt may have begun to look up the host
    /// and given up: then this one waits for the same answer.
    pub(super) async fn connect(&self, address: &str) -> io::Result<TcpStream> {
        if let Ok(address) = address.parse::<SocketAddr>() {
            return TcpStream::connect(address).await;
        }
        let mut pending = Pending { of: self, name: address, answer: Some(self.take(address)?) };
        let Some(answer) = &mut pending.answer else { return Err(io::ErrorKind::Other.into()) };
        let found = answer.await;
        pending.answer = None;
        // A thread that ends without an answer has panicked.
        let found = found.unwrap_or_else(|_| Err(io::Error::other("the look-up failed")))?;
        TcpStream::connect(&*found).await
    }

    fn take(&self, address: &str) -> io::Result<Receiver<Found>> {
        let mut pending = locked(&self.0);
        if let Some(answer) = pending.remove(address) {
            return Ok(answer);
        }
        pending.retain(|_, answer| answer.is_empty() && !answer.is_terminated());
        if pending.len() >= MAX_PENDING {
            return Err(io::Error::other("look-ups of other names have not come back"));
        }
        look_up(address)
    }
}

/// An answer that is waited for; given up, it is kept for the next attempt.
struct Pending<'a> {
    of: &'a Lookups,
    name: &'a str,
    answer: Option<Receiver<Found>>,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if let Some(answer) = self.answer.take() {
            locked(&self.of.0).insert(self.name.to_owned(), answer);
        }
    }
}

fn look_up(address: &str) -> io::Result<Receiver<Found>> {
    let (sender, answer) = oneshot::channel();
    let address = address.to_owned();
    thread::Builder::new().name("look-up".to_owned()).spawn(move || {
        let _ = sender.send(address.to_socket_addrs().map(Iterator::collect));
    })?;
    Ok(answer)
}
