//! The addresses that a daemon listens on. One that is not there yet, as of a VPN that comes up
//! later or a name that cannot be looked up yet, is waited for; a port that somebody else has is
//! not.

use std::io;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::net::{TcpListener, lookup_host};
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::{Order, notifier};

/// How long an address is waited for.
const ADDRESS_WAIT: Duration = Duration::from_secs(60);
/// How often it is tried.
const ADDRESS_POLL: Duration = Duration::from_millis(250);
/// What the service manager grants beside that, each time that it is notified that the daemon
/// waits.
const MORE_TIME: Duration = Duration::from_secs(60);

/// Why an address cannot be listened on.
enum BindFault {
    /// It is no address of this machine, or its name has none: that may change.
    NotThere(io::Error),
    /// Anything else.
    Other(io::Error),
}

/// Listens on `address`, and waits for it if it is not there yet; `None` when an order to stop
/// comes first.
pub(super) async fn bind(
    address: &str,
    orders: &mut Receiver<Order>,
) -> io::Result<Option<TcpListener>> {
    bind_within(address, orders, ADDRESS_WAIT).await
}

async fn bind_within(
    address: &str,
    orders: &mut Receiver<Order>,
    limit: Duration,
) -> io::Result<Option<TcpListener>> {
    let deadline = Instant::now() + limit;
    let mut waits = false;
    loop {
        // A look-up may hang for longer than there is time.
        let late = || BindFault::NotThere(io::Error::from(io::ErrorKind::TimedOut));
        let attempt = async {
            timeout(deadline - Instant::now(), listen(address))
                .await
                .unwrap_or_else(|_| Err(late()))
        };
        let outcome = tokio::select! {
            biased;
            () = stop(orders) => return Ok(None),
            outcome = attempt => outcome,
        };
        let error = match outcome {
            Ok(listener) => {
                if waits {
                    info!("the address {address} is there");
                }
                return Ok(Some(listener));
            }
            Err(BindFault::Other(error)) => return Err(error),
            Err(BindFault::NotThere(error)) if Instant::now() >= deadline => return Err(error),
            Err(BindFault::NotThere(error)) => error,
        };
        if !waits {
            let seconds = limit.as_secs();
            warn!(
                "the address {address} is not there yet ({error}): it is waited for, {seconds} s"
            );
            let status = format!("waiting for the address {address}: {error}");
            notifier::notify(&NotifyState::Status(&status));
            notifier::notify(&NotifyState::ExtendTimeoutUsec(
                (limit + MORE_TIME).as_micros() as u32
            ));
            waits = true;
        }
        tokio::select! {
            () = stop(orders) => return Ok(None),
            () = sleep(ADDRESS_POLL) => {}
        }
    }
}

async fn listen(address: &str) -> Result<TcpListener, BindFault> {
    let mut last = BindFault::NotThere(io::Error::from(io::ErrorKind::AddrNotAvailable));
    for address in lookup_host(address).await.map_err(BindFault::NotThere)? {
        match TcpListener::bind(address).await {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                last = BindFault::NotThere(error);
            }
            Err(error) => last = BindFault::Other(error),
        }
    }
    Err(last)
}

/// Returns when an order to stop comes. There is no node yet that could follow another one.
async fn stop(orders: &mut Receiver<Order>) {
    loop {
        match orders.recv().await {
            Some(Order::Stop(why)) => return info!("the start is given up: {why}"),
            Some(_) => warn!("an order is ignored: the node does not listen yet"),
            // Nobody gives orders any more.
            None => return std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Builder;
    use tokio::sync::mpsc::channel;

    use super::*;

    /// An address of documentation, which no machine has.
    const NOWHERE: &str = "192.0.2.1:7432";

    fn run<T>(future: impl Future<Output = T>) -> T {
        Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn an_address_that_is_not_there_is_waited_for_and_a_taken_port_is_not() {
        let (orders, mut ordered) = channel(8);
        let limit = Duration::from_millis(600);
        let begun = Instant::now();
        let error = run(bind_within(NOWHERE, &mut ordered, limit)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
        assert!(begun.elapsed() >= limit);

        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let error = run(bind_within(&address, &mut ordered, ADDRESS_WAIT)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);

        // An order to stop is heard meanwhile.
        orders.try_send(Order::MetricsSnapshot).unwrap();
        orders.try_send("the test".into()).unwrap();
        assert!(run(bind_within(NOWHERE, &mut ordered, ADDRESS_WAIT)).unwrap().is_none());
    }
}
