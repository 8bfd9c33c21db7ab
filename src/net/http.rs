//! The HTTP port: a thread and an event loop of its own, so that whoever looks, however slowly,
//! takes no turn from those who work.

use std::io;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{sleep, timeout};

use super::limiter::ConnectionLimiter;
use crate::http::{Answer, MAX_HEAD_BYTES, Request, request};

/// A request is there in this time, and its answer is taken in this time.
const TIMEOUT: Duration = Duration::from_secs(5);
/// What a connection may still send before it is cut, so that this does not destroy the answer on
/// its way.
const LINGER: Duration = Duration::from_millis(500);
const LINGER_BYTES: u64 = 64 << 10;
/// Rest after an accept that failed, mostly because descriptors are missing.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// The thread that answers; it ends with this value.
#[derive(Debug)]
pub(crate) struct HttpPort {
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for HttpPort {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Answers requests on `listener` with what `answer` makes of them, one request a connection.
/// At most `places` connections are open at a time: a further one takes the place of the oldest of
/// the address that has most of them. A client that asks and reads the answer is done by then.
pub(crate) fn serve<F, A>(listener: StdListener, places: usize, answer: F) -> io::Result<HttpPort>
where
    F: Fn(Request) -> A + Send + Sync + 'static,
    A: Future<Output = Answer> + Send + 'static,
{
    listener.set_nonblocking(true)?;
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let (end, ended) = oneshot::channel();
    let thread = Builder::new().name("http".to_owned()).spawn(move || {
        runtime.block_on(async {
            let Ok(listener) = TcpListener::from_std(listener) else { return };
            tokio::select! {
                () = accept(listener, places, Arc::new(answer)) => {}
                _ = ended => {}
            }
        });
        runtime.shutdown_background();
    })?;
    Ok(HttpPort { end: Some(end), thread: Some(thread) })
}

async fn accept<F, A>(listener: TcpListener, places: usize, answer: Arc<F>)
where
    F: Fn(Request) -> A + Send + Sync + 'static,
    A: Future<Output = Answer> + Send + 'static,
{
    // The newcomer is open before the oldest one has gone.
    let limiter = ConnectionLimiter::new(places.saturating_sub(1).max(1), 0);
    let sockets = Arc::new(Semaphore::new(places));
    loop {
        // The semaphore is never closed.
        let Ok(socket) = sockets.clone().acquire_owned().await else { return };
        let Ok((stream, from)) = listener.accept().await else {
            sleep(ACCEPT_BACKOFF).await;
            continue;
        };
        let (answer, permit) = (answer.clone(), limiter.enter(from.ip()));
        tokio::spawn(async move {
            tokio::select! {
                // A connection that breaks has nobody to be notified.
                _ = converse(stream, &*answer) => {}
                () = permit.called() => {}
            }
            drop(socket);
        });
    }
}

async fn converse<F, A>(mut stream: TcpStream, answer: &F) -> io::Result<()>
where
    F: Fn(Request) -> A,
    A: Future<Output = Answer>,
{
    let mut input = Vec::new();
    let queried = timeout(TIMEOUT, async {
        loop {
            match request(&input) {
                Ok(None) => {}
                queried => return Ok(queried),
            }
            let mut rest = (&mut stream).take((MAX_HEAD_BYTES + 1 - input.len()) as u64);
            if rest.read_buf(&mut input).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
        }
    });
    let late = || Ok(Err(Answer::line(408, &format!("no request in {} s", TIMEOUT.as_secs()))));
    let bytes = match queried.await.unwrap_or_else(|_| late())? {
        Ok(Some(queried)) => {
            let head_only = queried.head_only;
            answer(queried).await.bytes(head_only)
        }
        Ok(None) => return Ok(()),
        Err(rejection) => rejection.bytes(false),
    };
    timeout(TIMEOUT, async {
        stream.write_all(&bytes).await?;
        stream.shutdown().await
    })
    .await??;
    let mut rest = stream.take(LINGER_BYTES);
    let _ = timeout(LINGER, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
    Ok(())
}
