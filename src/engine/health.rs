//! The status server: a daemon's HTTP port, and the lines of its metrics snapshot in the log.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pixii_core::node::Shortage;
use tokio::runtime::Builder;
use tokio::sync::{Mutex as AsyncMutex, mpsc, oneshot};
use tokio::time::timeout;
use tracing::info;

use super::drain::Drain;
use super::ending::Ending;
use super::{Engine, Order, ServeError, binding, process, stall};
use crate::config::Config;
use crate::http::{Answer, Request};
use crate::metrics::{Load, MetricsSnapshot};
use crate::net::http::{self, HttpPort};

/// An engine that does not answer within this time makes no progress. Its event loop turns at least
/// ten times a second.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A snapshot is served again until it has this age: the engine makes ten a second at most, however
/// many clients ask.
const SNAPSHOT_MAX_AGE: Duration = Duration::from_millis(100);

/// A request for the engine's metrics snapshot.
pub(super) type Question = oneshot::Sender<MetricsSnapshot>;

/// Who answers requests for the snapshot.
#[derive(Debug)]
enum Stage {
    /// Nobody, because there is no node, for this reason.
    Without(&'static str),
    /// The engine of this incarnation.
    Engine(mpsc::Sender<Question>),
}

/// Where the HTTP port finds the engine to ask.
#[derive(Debug)]
struct Board {
    stage: Mutex<Stage>,
    timeout: Duration,
    /// The newest snapshot and when it was made. Whoever waits for the lock waits for another
    /// request's answer.
    last: AsyncMutex<Option<(Instant, Arc<MetricsSnapshot>)>>,
}

/// Why there is no snapshot.
enum Missing {
    /// There is no node, for this reason.
    Without(&'static str),
    /// The engine did not answer in time.
    Stuck,
}

/// The HTTP port of a daemon, if it is configured. It outlives the incarnations of the node.
#[derive(Debug)]
pub(super) struct StatusServer {
    board: Arc<Board>,
    _port: Option<HttpPort>,
}

impl StatusServer {
    /// Opens the port if the configuration names one, and waits for its address if that does not
    /// exist yet. Returns `None` when an order to stop comes first.
    pub(super) fn start(
        config: &Config,
        orders: &mut mpsc::Receiver<Order>,
    ) -> Result<Option<Self>, ServeError> {
        let stage = Mutex::new(Stage::Without("opening the store"));
        let board = Board { stage, timeout: TIMEOUT, last: AsyncMutex::default() };
        let board = Arc::new(board);
        let Some(address) = &config.http_listen else {
            return Ok(Some(StatusServer { board, _port: None }));
        };
        let listen = |error| ServeError::Listen(address.clone(), error);
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| ServeError::System("event loop", error))?;
        let bound = runtime.block_on(async {
            Ok(match binding::bind(address, orders).await? {
                Some(listener) => Some(listener.into_std()?),
                None => None,
            })
        });
        // A look-up may still hang.
        runtime.shutdown_background();
        let Some(listener) = bound.map_err(listen)? else { return Ok(None) };
        let reported = board.clone();
        let answer = move |request: Request| {
            let board = reported.clone();
            async move { board.answer(&request.path, request.openmetrics).await }
        };
        let port = http::serve(listener, process::places(config).http, answer);
        let port = port.map_err(|error| ServeError::System("thread", error))?;
        info!("metrics are on http://{address}/metrics");
        Ok(Some(StatusServer { board, _port: Some(port) }))
    }

    /// An incarnation begins: requests come out of the receiver that this returns.
    pub(super) fn begin(&self) -> mpsc::Receiver<Question> {
        let (questions, queried) = mpsc::channel(1);
        self.board.set(Stage::Engine(questions));
        queried
    }

    /// The engine has ended for this reason; its writes are synced.
    pub(super) fn end(&self, ending: &Ending) {
        self.board.set(Stage::Without(match ending {
            Ending::Rebuild => "its store is damaged, and is made anew of what can be read",
            Ending::Stop => "stopping: what was written is synced, and the store is closed",
            Ending::Removed(_) => "stopping: the node was removed from its cluster",
            Ending::Duplicate(_) => "stopping: another daemon is this node",
        }));
    }

    /// The node has failed; the log has the reason.
    pub(super) fn fail(&self) {
        self.board.set(Stage::Without("stopping: the node has failed, see its log"));
    }
}

impl Board {
    fn set(&self, stage: Stage) {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage;
    }

    fn engine(&self) -> Result<mpsc::Sender<Question>, Missing> {
        match &*self.stage.lock().unwrap_or_else(PoisonError::into_inner) {
            Stage::Without(why) => Err(Missing::Without(why)),
            Stage::Engine(questions) => Ok(questions.clone()),
        }
    }

    /// The newest snapshot, or an error after the engine's time. Waiting for another request's
    /// answer counts towards that time.
    async fn snapshot(&self) -> Result<Arc<MetricsSnapshot>, Missing> {
        timeout(self.timeout, self.newest()).await.unwrap_or(Err(Missing::Stuck))
    }

    async fn newest(&self) -> Result<Arc<MetricsSnapshot>, Missing> {
        let mut last = self.last.lock().await;
        if let Some((_, snapshot)) = last.as_ref().filter(|(at, _)| at.elapsed() < SNAPSHOT_MAX_AGE)
        {
            return Ok(snapshot.clone());
        }
        *last = None;
        let engine = self.engine()?;
        // The incarnation may end meanwhile.
        let ended = Missing::Without("the engine has just ended");
        let (question, answer) = oneshot::channel();
        let Ok(()) = engine.send(question).await else { return Err(ended) };
        let Ok(snapshot) = answer.await else { return Err(ended) };
        let snapshot = Arc::new(snapshot);
        *last = Some((Instant::now(), snapshot.clone()));
        Ok(snapshot)
    }

    async fn answer(&self, path: &str, openmetrics: bool) -> Answer {
        let shown = ["/", "/metrics", "/livez", "/readyz"];
        if !shown.contains(&path) {
            return Answer::line(404, "there are /, /metrics, /livez and /readyz");
        }
        let snapshot = match (self.snapshot().await, path) {
            (Ok(snapshot), _) => snapshot,
            // A node that is not there yet may take long to start; that is no reason to end it.
            (Err(Missing::Without(why)), "/livez") => {
                return Answer::line(200, &format!("alive: {why}"));
            }
            (Err(Missing::Without(why)), _) => {
                return Answer::line(503, &format!("not ready: {why}"));
            }
            (Err(Missing::Stuck), _) => {
                let why =
                    format!("the engine has not answered for {} ms", self.timeout.as_millis());
                return Answer::line(503, &why);
            }
        };
        // Whether the node takes requests, and whether enough other members are up, are separate
        // answers.
        let cluster = snapshot.status.unservable();
        let cluster = cluster.map_or(String::new(), |what| format!("\ncluster: {what}"));
        match (path, &snapshot.unready) {
            ("/metrics", _) => {
                let (content_type, body) = snapshot.metrics(openmetrics);
                Answer { status: 200, content_type, body }
            }
            ("/livez", _) => Answer::line(200, "alive"),
            ("/readyz", None) => Answer::line(200, &format!("ready{cluster}")),
            ("/readyz", Some(why)) => Answer::line(503, &format!("not ready: {why}{cluster}")),
            _ => Answer::line(200, &snapshot.lines().join("\n")),
        }
    }
}

impl Engine<'_> {
    /// The metrics snapshot: everything that the node reports to those who watch it.
    pub(super) fn snapshot(&self) -> MetricsSnapshot {
        let gauges = self.storage.gauges();
        let unsent = self.hub.peers().values().map(|peer| peer.outbox.waiting()).collect();
        MetricsSnapshot {
            status: self.status(),
            unready: self.unready(),
            meter: self.meter.clone(),
            load: Load {
                clients: self.clients.len(),
                requests: self.requests.len(),
                events: self.events.len(),
                reports: self.reports.len(),
                reads: gauges.reads.get(),
                scans: gauges.scans.get(),
                unsynced_bytes: gauges.unsynced_bytes.get(),
                free_bytes: gauges.free_bytes(),
                reserve_bytes: self.config.disk_reserve_mib << 20,
                stalled: self.watch.lasts(Instant::now()).unwrap_or_default(),
                segments_scrubbed: self.scrubbed,
                is_damaged: self.damaged.is_some(),
                unsent,
                client_places: self.hub.places.clients,
                frame_memory: [
                    ("clients", self.hub.client_inflow.usage()),
                    ("peers", self.hub.peer_inflow.usage()),
                ],
                reply_memory: self.hub.unread_replies(),
            },
        }
    }

    /// Why the node does not take every request now, in words; `None` if it does.
    fn unready(&self) -> Option<String> {
        if self.finish_by.is_some() {
            return Some("stopping".to_owned());
        }
        if self.runtime_config.drain != Drain::No {
            return Some("drained by its operator".to_owned());
        }
        if let Some(rejection) = self.node.rejection(self.now(), true) {
            return Some(rejection.to_string());
        }
        if let Some(lasts) = self.watch.lasts(Instant::now()) {
            let lasts = stall::about(lasts);
            return Some(format!("its disk has made no progress for {lasts}: others serve"));
        }
        if let Some(Shortage { free_bytes, reserve_bytes }) = self.short {
            return Some(format!(
                "serving reads only: its disk has {free_bytes} bytes left and keeps \
                 {reserve_bytes} in reserve"
            ));
        }
        if !self.node.is_witnessed() {
            let alone = "no other member has answered since the start: it counts in no read before";
            return Some(alone.to_owned());
        }
        let lost = self.node.lost().len();
        if lost > 0 {
            let name = &self.config.name;
            return Some(format!(
                "its disk was lost, and acknowledged writes of {lost} partitions may be missing: \
                 `pixii repair --node {name} --accept-loss`"
            ));
        }
        let lacking = self.node.meta().read_ineligible.len();
        if lacking > 0 {
            return Some(format!(
                "recovering: what it does not find does not count in {lacking} partitions"
            ));
        }
        let catching_up = "recovering: others may still keep writes for it";
        self.node.is_catching_up().then(|| catching_up.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_without_an_engine_is_alive_and_one_whose_engine_is_stuck_is_not() {
        let stage = Mutex::new(Stage::Without("opening the store"));
        let board =
            Board { stage, timeout: Duration::from_millis(20), last: AsyncMutex::default() };
        let status_server = StatusServer { board: Arc::new(board), _port: None };
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let reported = |path: &str| {
            let answer = runtime.block_on(status_server.board.answer(path, false));
            (answer.status, answer.body)
        };
        assert_eq!(reported("/livez"), (200, "alive: opening the store\n".into()));
        let not = (503, "not ready: opening the store\n".into());
        assert_eq!(
            [reported("/readyz"), reported("/metrics"), reported("/")],
            [not.clone(), not.clone(), not]
        );

        let (questions, queried) = mpsc::channel(1);
        status_server.board.set(Stage::Engine(questions));
        let stuck = (503, "the engine has not answered for 20 ms\n".into());
        assert_eq!([reported("/livez"), reported("/readyz")], [stuck.clone(), stuck]);
        drop(queried);
        assert_eq!(reported("/readyz"), (503, "not ready: the engine has just ended\n".into()));
        // A disk that hangs keeps a stopping node here.
        status_server.end(&Ending::Stop);
        let stopping = "stopping: what was written is synced, and the store is closed\n";
        assert_eq!(reported("/readyz"), (503, format!("not ready: {stopping}")));
        assert_eq!(reported("/livez"), (200, format!("alive: {stopping}")));
    }
}
