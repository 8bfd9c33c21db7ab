//! Look-ups of host names, which may take as long as a name server likes. Each has a thread of its
//! own, so that no link waits for the look-up of another one; their number per peer is limited.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Mutex;
use std::thread;

use pixii_transport::locked;
use tokio::net::TcpStream;
use tokio::sync::oneshot::{self, Receiver};

/// Most look-ups of a peer's host names in progress.
const MAX_PENDING: usize = 2;

type Found = io::Result<Vec<SocketAddr>>;

/// The look-ups of one peer.
#[derive(Debug)]
pub(super) struct Lookups {
    /// Look-ups in progress, by address.
    pending: Mutex<HashMap<String, Receiver<Found>>>,
    look_up: fn(&str) -> Found,
}

impl Default for Lookups {
    fn default() -> Self {
        let look_up = |address: &str| address.to_socket_addrs().map(Iterator::collect);
        Lookups { pending: Mutex::default(), look_up }
    }
}

impl Lookups {
    /// Connects to `address`, `host:port`. If an earlier attempt began the look-up and gave up
    /// waiting, this one waits for the same answer.
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
        let mut pending = locked(&self.pending);
        if let Some(answer) = pending.remove(address) {
            return Ok(answer);
        }
        pending.retain(|_, answer| answer.is_empty() && !answer.is_terminated());
        if pending.len() >= MAX_PENDING {
            return Err(io::Error::other("look-ups of other names have not come back"));
        }
        self.begin(address)
    }

    fn begin(&self, address: &str) -> io::Result<Receiver<Found>> {
        let (sender, answer) = oneshot::channel();
        let (look_up, address) = (self.look_up, address.to_owned());
        thread::Builder::new().name("look-up".to_owned()).spawn(move || {
            let _ = sender.send(look_up(&address));
        })?;
        Ok(answer)
    }
}

/// An answer that is waited for. If the wait is given up, the answer is kept for the next attempt.
struct Pending<'a> {
    of: &'a Lookups,
    name: &'a str,
    answer: Option<Receiver<Found>>,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if let Some(answer) = self.answer.take() {
            locked(&self.of.pending).insert(self.name.to_owned(), answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;

    static LOOK_UPS: AtomicUsize = AtomicUsize::new(0);

    /// A name server that does not answer for "slow", and answers at once for other names.
    fn look_up(address: &str) -> Found {
        LOOK_UPS.fetch_add(1, Ordering::SeqCst);
        let (name, port) = address.rsplit_once(':').unwrap();
        if name.starts_with("slow") {
            thread::sleep(Duration::from_millis(600));
        }
        format!("127.0.0.1:{port}").to_socket_addrs().map(Iterator::collect)
    }

    #[tokio::test]
    async fn a_look_up_that_hangs_is_not_begun_again_and_no_other_link_waits_for_it() {
        let of = || Lookups { look_up, ..Lookups::default() };
        let (one, other) = (of(), of());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (slow, fast) = (format!("slow:{port}"), format!("fast:{port}"));
        for _ in 0..3 {
            let attempt = timeout(Duration::from_millis(50), one.connect(&slow)).await;
            assert!(attempt.is_err(), "its name server does not answer");
        }
        assert_eq!(LOOK_UPS.load(Ordering::SeqCst), 1);
        let in_time = timeout(Duration::from_millis(400), other.connect(&fast)).await;
        in_time.unwrap().unwrap();
        timeout(Duration::from_secs(30), one.connect(&slow)).await.unwrap().unwrap();
        assert_eq!(LOOK_UPS.load(Ordering::SeqCst), 2, "the answer was still wanted");
        for name in ["slow1", "slow2"] {
            let _ = timeout(Duration::from_millis(20), one.connect(&format!("{name}:1"))).await;
        }
        let third = one.connect("slow3:1").await;
        assert!(third.unwrap_err().to_string().contains("have not come back"));
    }
}
