//! What a daemon tells to those who only look: its HTTP port, and the lines of its account in the log.

use std::net::TcpListener;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex as Turn, mpsc, oneshot};
use tokio::time::timeout;
use tracing::info;

use super::drain::Drain;
use super::{Engine, ServeError, stall};
use crate::config::Config;
use crate::metrics::{Account, CONTENT_TYPE, Load};
use crate::net::http::{self, HttpPort};
use crate::node::Shortage;
use crate::wire::http::Answer;

/// An engine that does not answer within this time makes no progress: it turns at least ten times a second.
const PATIENCE: Duration = Duration::from_secs(5);
/// An account is told again until it is so old: however many look, the engine makes ten a second at most.
const FRESH: Duration = Duration::from_millis(100);

/// Asks an engine for its account.
pub(super) type Question = oneshot::Sender<Account>;

/// Who can be asked how the daemon is.
#[derive(Debug)]
enum Stage {
    /// Nobody: there is no node, and this is why.
    Without(&'static str),
    /// The engine of this life.
    Engine(mpsc::Sender<Question>),
}

/// Where the port finds whom to ask.
#[derive(Debug)]
struct Board {
    stage: Mutex<Stage>,
    patience: Duration,
    /// The newest account. Who waits for this has another one's question under way.
    last: Turn<Option<(Instant, Arc<Account>)>>,
}

/// Why there is no account.
enum Missing {
    /// There is no node, and this is why.
    Without(&'static str),
    /// The engine does not answer.
    Stuck,
}

/// The HTTP port of a daemon, if it is to have one. It outlives the lives of the node.
#[derive(Debug)]
pub(super) struct Watchers {
    board: Arc<Board>,
    _port: Option<HttpPort>,
}

impl Watchers {
    /// Opens the port, if the configuration names one.
    pub(super) fn start(config: &Config) -> Result<Self, ServeError> {
        let stage = Mutex::new(Stage::Without("opening the store"));
        let board = Board { stage, patience: PATIENCE, last: Turn::default() };
        let board = Arc::new(board);
        let Some(address) = &config.http_listen else { return Ok(Watchers { board, _port: None }) };
        let listen = |error| ServeError::Listen(address.clone(), error);
        let listener = TcpListener::bind(address).map_err(listen)?;
        let told = board.clone();
        let answer = move |path: String| {
            let board = told.clone();
            async move { board.answer(&path).await }
        };
        let port = http::serve(listener, answer);
        let port = port.map_err(|error| ServeError::System("thread", error))?;
        info!("metrics are on http://{address}/metrics");
        Ok(Watchers { board, _port: Some(port) })
    }

    /// A life begins: what is asked comes out of the end that this gives.
    pub(super) fn begin(&self) -> mpsc::Receiver<Question> {
        let (questions, asked) = mpsc::channel(1);
        self.board.set(Stage::Engine(questions));
        asked
    }

    /// The life has ended; another one may follow.
    pub(super) fn end(&self) {
        self.board
            .set(Stage::Without("a life of the node has ended, and another one has not begun"));
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

    /// The newest account, in the time that the engine is given: whoever waits for another one's turn has that time too.
    async fn account(&self) -> Result<Arc<Account>, Missing> {
        timeout(self.patience, self.newest()).await.unwrap_or(Err(Missing::Stuck))
    }

    async fn newest(&self) -> Result<Arc<Account>, Missing> {
        let mut last = self.last.lock().await;
        if let Some((_, account)) = last.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            return Ok(account.clone());
        }
        *last = None;
        let engine = self.engine()?;
        // The life may end meanwhile.
        let ended = Missing::Without("between two lives");
        let (question, answer) = oneshot::channel();
        let Ok(()) = engine.send(question).await else { return Err(ended) };
        let Ok(account) = answer.await else { return Err(ended) };
        let account = Arc::new(account);
        *last = Some((Instant::now(), account.clone()));
        Ok(account)
    }

    async fn answer(&self, path: &str) -> Answer {
        let shown = ["/", "/metrics", "/livez", "/readyz"];
        if !shown.contains(&path) {
            return Answer::line(404, "there are /, /metrics, /livez and /readyz");
        }
        let account = match (self.account().await, path) {
            (Ok(account), _) => account,
            // A node that is not there yet may take long; that is no reason to end it.
            (Err(Missing::Without(why)), "/livez") => {
                return Answer::line(200, &format!("alive: {why}"));
            }
            (Err(Missing::Without(why)), _) => {
                return Answer::line(503, &format!("not ready: {why}"));
            }
            (Err(Missing::Stuck), _) => {
                let why =
                    format!("the engine has not answered for {} ms", self.patience.as_millis());
                return Answer::line(503, &why);
            }
        };
        // Whether the node takes requests is one answer, whether enough others are up another one.
        let cluster = account.status.unservable();
        let cluster = cluster.map_or(String::new(), |what| format!("\ncluster: {what}"));
        match (path, &account.unready) {
            ("/metrics", _) => {
                Answer { status: 200, content_type: CONTENT_TYPE, body: account.metrics() }
            }
            ("/livez", _) => Answer::line(200, "alive"),
            ("/readyz", None) => Answer::line(200, &format!("ready{cluster}")),
            ("/readyz", Some(why)) => Answer::line(503, &format!("not ready: {why}{cluster}")),
            _ => Answer::line(200, &account.lines().join("\n")),
        }
    }
}

impl Engine<'_> {
    /// All that the node tells to those who watch it.
    pub(super) fn account(&self) -> Account {
        let levels = self.storage.levels();
        let unsent = self.hub.peers.values().map(|peer| peer.outbox.waiting()).collect();
        Account {
            status: self.status(),
            unready: self.unready(),
            meter: self.meter.clone(),
            load: Load {
                clients: self.clients.len(),
                requests: self.requests.len(),
                events: self.events.len(),
                reports: self.reports.len(),
                reads: levels.reads.get(),
                scans: levels.scans.get(),
                unsynced_bytes: levels.unsynced_bytes.get(),
                free_bytes: levels.free_bytes(),
                reserve_bytes: self.config.disk_reserve_mib << 20,
                stalled: self.watch.lasts(Instant::now()).unwrap_or_default(),
                unsent,
            },
        }
    }

    /// Why the node does not take every request now, in words; `None` if it does.
    fn unready(&self) -> Option<String> {
        if self.finish_by.is_some() {
            return Some("stopping".to_owned());
        }
        if self.settings.drain != Drain::No {
            return Some("drained by its operator".to_owned());
        }
        if let Some(refusal) = self.node.refusal(self.now(), true) {
            return Some(refusal.to_string());
        }
        if let Some(lasts) = self.watch.lasts(Instant::now()) {
            let lasts = stall::about(lasts);
            return Some(format!("its disk has made no progress for {lasts}: others serve"));
        }
        if let Some(Shortage { free_bytes, reserve_bytes }) = self.short {
            return Some(format!(
                "serving reads only: its disk has {free_bytes} bytes left and keeps {reserve_bytes} in reserve"
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
        let lacking = self.node.meta().without_authority.len();
        if lacking > 0 {
            return Some(format!(
                "recovering: what it does not find does not count in {lacking} partitions"
            ));
        }
        let awaiting = "recovering: others may still keep writes for it";
        self.node.is_awaiting().then(|| awaiting.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Builder;

    use super::*;

    #[test]
    fn a_daemon_without_an_engine_is_alive_and_one_whose_engine_is_stuck_is_not() {
        let stage = Mutex::new(Stage::Without("opening the store"));
        let board = Board { stage, patience: Duration::from_millis(20), last: Turn::default() };
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let told = |path: &str| {
            let answer = runtime.block_on(board.answer(path));
            (answer.status, answer.body)
        };
        assert_eq!(told("/livez"), (200, "alive: opening the store\n".into()));
        let not = (503, "not ready: opening the store\n".into());
        assert_eq!([told("/readyz"), told("/metrics"), told("/")], [not.clone(), not.clone(), not]);

        let (questions, asked) = mpsc::channel(1);
        board.set(Stage::Engine(questions));
        let stuck = (503, "the engine has not answered for 20 ms\n".into());
        assert_eq!([told("/livez"), told("/readyz")], [stuck.clone(), stuck]);
        drop(asked);
        assert_eq!(told("/readyz"), (503, "not ready: between two lives\n".into()));
    }
}
