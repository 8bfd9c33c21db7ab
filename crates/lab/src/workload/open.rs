//! An open loop: an operation begins when it is due, whatever has become of those before, and its
//! latency counts from then, so that a cluster that stalls cannot slow down those who would have
//! noticed.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Instant;

use tokio::sync::mpsc::{Receiver, channel as queue};
use tokio::task::JoinSet;

use super::Shared;
use super::arrivals::{Arrivals, Schedule};
use super::worker::Worker;

/// Operations that are due and not yet looked at; a clock that waits for room forgets none.
const DUE: usize = 1_024;

/// Begins operations until the load ends, and waits for those in progress. The error is the
/// ledger's.
pub(super) async fn run(shared: Arc<Shared>, arrivals: Arrivals) -> Result<(), String> {
    let (mut due, _clock) = clock(&shared, arrivals)?;
    let (mut idle, mut made) = (Vec::new(), 0);
    let mut busy = JoinSet::new();
    loop {
        let at = tokio::select! {
            biased;
            Some(ended) = busy.join_next() => {
                idle.push(returned(ended)?);
                continue;
            }
            at = due.recv() => at,
        };
        let Some(at) = at.filter(|at| shared.begin(*at)) else { break };
        let worker = idle.pop().or_else(|| {
            let number = made;
            made += u64::from(number < shared.spec.clients as u64);
            (number < made).then(|| Worker::new(Arc::clone(&shared), number))
        });
        match worker {
            Some(mut worker) => {
                busy.spawn(async move { worker.operate(at).await.map(|_| worker) });
            }
            None if at >= shared.counted_from => shared.report().overdue += 1,
            None => {}
        }
    }
    while let Some(ended) = busy.join_next().await {
        returned(ended)?;
    }
    Ok(())
}

fn returned(
    ended: Result<Result<Worker, String>, tokio::task::JoinError>,
) -> Result<Worker, String> {
    ended.map_err(|error| format!("an operation ended: {error}"))?
}

/// A thread that reports when operations are due: the runtime's timers are a millisecond wide. It
/// ends when either end is dropped.
fn clock(shared: &Shared, arrivals: Arrivals) -> Result<(Receiver<Instant>, Sender<()>), String> {
    let (report, due) = queue(DUE);
    let (hold, held) = channel::<()>();
    let (start, until) = (Instant::now(), shared.until);
    let schedule = Schedule::new(arrivals, shared.spec.seed);
    let tick = move || {
        for at in schedule.map(|at| start + at) {
            let wait = at.saturating_duration_since(Instant::now());
            let ended =
                !wait.is_zero() && held.recv_timeout(wait) != Err(RecvTimeoutError::Timeout);
            if ended || until.is_some_and(|end| at >= end) || report.blocking_send(at).is_err() {
                return;
            }
        }
    };
    let thread = thread::Builder::new().name("arrivals".into()).spawn(tick);
    thread.map_err(|error| format!("no thread for the clock: {error}"))?;
    Ok((due, hold))
}
