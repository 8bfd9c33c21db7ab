//! The base of all drills: some daemons, a client, the ledger, and restarts of daemons.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pixii::disk::{CheckReport, check, differences};
use pixii_client::{Client, Options};
use pixii_core::ring::Ring;
use pixii_core::rng::Rng;
use pixii_core::types::NodeId;
use pixii_kit::cluster::{Cluster, NoCluster, Shape};
use tokio::time::sleep;

use super::timeline::{EventKind, Phase, Timeline};
use super::{Plan, Score};
use crate::ledger::{Ledger, verify, verify_recent};
use crate::workload::choice::{Choice, Sizes};
use crate::workload::{Load, Mix, Spec};

/// Replicas of each key.
pub(super) const N: u8 = 3;
/// How long a daemon may take to open its store.
const OPEN_WAIT: Duration = Duration::from_secs(60);
/// How long the daemons may take to find each other.
const READY_WAIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);
/// Interval at which daemons are queried for their hints.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Page cache while a stopped store is read.
pub(super) const CACHE_BYTES: u64 = 64 << 20;
/// Partitions of the cluster.
pub(super) const PARTITIONS: u16 = 64;
/// Number of starts of a daemon before its store counts as shut.
const STARTS: u64 = 3;
/// Text of the log line with which a daemon reports that it serves, now and in the older programs
/// from which an upgrade may begin.
const READY: [&str; 2] = [" listens on ", " is ready on "];
/// Ports outside of the kernel's range for outgoing connections: one of those could take the port
/// of a daemon while it is down.
const PORTS: std::ops::Range<u64> = 10_000..30_000;
const PORT_TRIES: u32 = 50;
/// Number of clients of a load.
const CLIENTS: usize = 16;
/// Deadline of the requests of a load, in milliseconds.
const TIMEOUT_MS: u32 = 3_000;

/// The daemons and the ledger that judges them. Dropping it kills the daemons.
pub(super) struct Testbed {
    /// The daemons and their configuration files.
    pub(super) cluster: Cluster,
    /// The ring that all daemons begin with.
    pub(super) ring: Ring,
    /// The writes that are acknowledged, refused or unknown.
    pub(super) ledger: Ledger,
    /// Random numbers of the drill, from the seed of its plan.
    pub(super) rng: Rng,
    /// The counts of the drill so far.
    pub(super) score: Score,
    /// The directory of the daemons' files: n1.log, n1 and so on.
    pub(super) logs: PathBuf,
    /// The events of the drill; shared with its plan.
    pub(super) timeline: Timeline,
    /// Stores that were set aside and are counted already.
    aside: BTreeSet<PathBuf>,
}

impl Testbed {
    /// Creates the files of a cluster with this many daemons under the plan's directory, and its
    /// ledger. No daemon is started.
    pub(super) fn prepare(plan: &Plan, nodes: usize) -> Result<Self, String> {
        let fault = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
        fs::create_dir_all(&plan.dir).map_err(|error| fault(&plan.dir, error))?;
        let logs = plan.dir.join("cluster");
        let mut rng = Rng::new(plan.seed);
        let shape =
            Shape { cluster: "drill".into(), nodes, n: N, r: 2, w: 2, partitions: PARTITIONS };
        let mut tries = 0;
        let cluster = loop {
            let port = (PORTS.start + rng.below(PORTS.end - PORTS.start)) as u16;
            match Cluster::create(plan.program.clone(), &logs, &shape, Some(port)) {
                Err(NoCluster::PortInUse(_)) if tries < PORT_TRIES => tries += 1,
                made => break made?,
            }
        };
        let ledger = Ledger::open(&plan.dir.join("ledger"))?;
        let ids = cluster.daemons().iter().map(|daemon| NodeId::of(&daemon.name));
        let ring = Ring::new(&ids.collect::<Vec<_>>(), N, PARTITIONS);
        let ring = ring.map_err(|error| error.to_string())?;
        let (score, timeline) = (Score::default(), plan.timeline.clone());
        let aside = BTreeSet::new();
        Ok(Testbed { cluster, ring, ledger, rng, score, logs, timeline, aside })
    }

    /// The names of all daemons, running or not, in the order n1, n2, ...
    pub(super) fn names(&self) -> Vec<String> {
        self.cluster.daemons().iter().map(|daemon| daemon.name.clone()).collect()
    }

    /// Starts daemons and waits until they serve; one that ends instead is started again, three
    /// times in all. Returns the longest time from exec to ready, or `None` if a store stays shut.
    pub(super) async fn open(&mut self, names: &[String]) -> Result<Option<Duration>, String> {
        let begun = Instant::now();
        let mut logs = Vec::new();
        for name in names {
            logs.push((name, self.log(name)));
            self.cluster.start(name)?;
        }
        let mut slowest = Duration::ZERO;
        for (name, log) in logs {
            let mut failed = 0;
            while let Err(why) = self.await_ready(name, &log).await? {
                failed += 1;
                if failed == STARTS {
                    self.score.shut += 1;
                    self.score.notes.push(format!("{name} stays shut: {why}"));
                    break;
                }
                self.cluster.start(name)?;
            }
            if failed < STARTS {
                self.score.failed_starts += failed;
            }
            slowest = slowest.max(begun.elapsed());
        }
        self.cluster.ready(READY_WAIT).await?;
        self.count_set_aside()?;
        self.timeline.note(EventKind::Step, &format!("{} serve", names.join(", ")));
        Ok((self.score.shut == 0).then_some(slowest))
    }

    /// Counts the stores that daemons have found damaged and set aside. They are filled again from
    /// other replicas, so no other check would show that a disk has lost synced data.
    fn count_set_aside(&mut self) -> Result<(), String> {
        for name in self.names() {
            let dir = self.logs.join(&name);
            // A daemon that was never started has no directory.
            if !dir.exists() {
                continue;
            }
            let fault = |error: std::io::Error| format!("{}: {error}", dir.display());
            for entry in fs::read_dir(&dir).map_err(fault)? {
                let entry = entry.map_err(fault)?;
                let folder = entry.file_name();
                if folder.to_string_lossy().starts_with("damaged-")
                    && self.aside.insert(entry.path())
                {
                    self.score.shut += 1;
                    let folder = folder.display();
                    let note =
                        format!("{name} found its store damaged, and set it aside: {folder}");
                    self.score.notes.push(note);
                }
            }
        }
        Ok(())
    }

    /// Ends a drill in which a store stays shut: the data that the others still have is judged all
    /// the same.
    pub(super) async fn give_up(mut self, client: Option<&Client>) -> Result<Score, String> {
        let running = self.cluster.daemons().iter().filter(|d| d.is_running()).count();
        if let (Some(client), 1..) = (client, running) {
            self.judge_at(client, false, running as u8).await?;
        }
        self.score.counts = self.ledger.read(|history| history.counts()).await?;
        Ok(self.score)
    }

    /// Waits until a daemon serves; the inner error says how it ended instead.
    pub(super) async fn await_ready(
        &mut self,
        name: &str,
        log: &Log,
    ) -> Result<Result<(), String>, String> {
        let begun = Instant::now();
        while begun.elapsed() < OPEN_WAIT {
            if log.says_ready() {
                return Ok(Ok(()));
            }
            if let Some(how) = self.cluster.end_of(name) {
                return Ok(Err(how));
            }
            sleep(POLL).await;
        }
        self.cluster.kill(name)?;
        Ok(Err(format!("it was not ready after {} s", OPEN_WAIT.as_secs())))
    }

    /// The part of a daemon's log that is yet to be written.
    pub(super) fn log(&self, name: &str) -> Log {
        let path = self.logs.join(format!("{name}.log"));
        let from = fs::metadata(&path).map_or(0, |file| file.len());
        Log { path, from }
    }

    /// Notes the daemons that have ended by themselves. Only a drill that takes their disks away
    /// expects that.
    pub(super) fn note_ended(&mut self) {
        let ended = self.cluster.ended();
        self.score.notes.extend(ended.into_iter().map(|(name, how)| format!("{name} {how}")));
    }

    /// Ends a daemon with SIGKILL and counts the kill.
    pub(super) fn kill(&mut self, name: &str) -> Result<(), String> {
        match self.cluster.end_of(name) {
            Some(how) => self.score.notes.push(format!("{name} {how}")),
            None => self.cluster.kill(name)?,
        }
        self.score.kills += 1;
        self.timeline.note(EventKind::Fault, &format!("{name} is killed"));
        Ok(())
    }

    /// Ends all running daemons with SIGKILL and counts the kills.
    pub(super) fn kill_all(&mut self) -> Result<(), String> {
        self.score.kills += self.cluster.kill_all()?;
        self.timeline.note(EventKind::Fault, "all are killed");
        Ok(())
    }

    /// Number of hints that all running daemons together keep for this one.
    pub(super) async fn hints_for(&self, target: &str) -> Result<u64, String> {
        let running = self.cluster.daemons().iter().filter(|daemon| daemon.is_running());
        let nodes = running.map(|daemon| (daemon.name.clone(), daemon.address.clone()));
        hints_for(&nodes.collect::<Vec<_>>(), target, &Options::default()).await
    }

    /// Waits until no running daemon keeps hints.
    pub(super) async fn await_no_hints(&self, wait: Duration) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            let left = self.hints_for("").await?;
            if left == 0 {
                return Ok(());
            }
            if begun.elapsed() > wait {
                return Err(format!("{left} hints are not delivered after {} s", wait.as_secs()));
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Reads the stores of the stopped daemons, as `pixii check` does.
    pub(super) fn check_all(&self) -> Result<Vec<(NodeId, CheckReport)>, String> {
        let mut stores = Vec::new();
        for name in self.names() {
            let report = check(&self.logs.join(&name), &self.logs, CACHE_BYTES, &mut |_| {});
            stores.push((NodeId::of(&name), report.map_err(|error| error.to_string())?));
        }
        Ok(stores)
    }

    /// Number of partitions that differ between their owners.
    pub(super) fn differing(&self, stores: &[(NodeId, CheckReport)]) -> usize {
        differences(&self.ring, stores).len()
    }

    /// Reads the stores of the stopped daemons. Returns the number of records that all hold, and
    /// the number of partitions that differ between their owners.
    pub(super) fn compare(&self) -> Result<(u64, usize), String> {
        let stores = self.check_all()?;
        let records = |(_, report): &(NodeId, CheckReport)| report.live_keys + report.tombstones;
        Ok((stores.iter().map(records).sum(), self.differing(&stores)))
    }

    /// A client that knows the addresses of all daemons.
    pub(super) async fn client(&self) -> Result<Client, String> {
        let addresses: Vec<String> =
            self.cluster.daemons().iter().map(|daemon| daemon.address.clone()).collect();
        let options = Options::default();
        Client::connect(&addresses, options).await.map_err(|failure| failure.to_string())
    }

    /// Starts a load whose operations are noted in the ledger and in the timeline.
    pub(super) fn load(&self, client: &Client, spec: Spec) -> Load {
        Load::traced(client, spec, Some(&self.ledger), Some(self.timeline.trace()))
    }

    /// Sets the phase of the clients from now on; `None` between two loads.
    pub(super) fn enter(&self, phase: impl Into<Option<Phase>>) {
        self.timeline.enter(phase.into());
    }

    /// Notes that the cluster has recovered, this long after the end of the fault.
    pub(super) fn recovered(&self, took: Duration, what: &str) {
        self.timeline.note(EventKind::Recovered, what);
        self.timeline.recovered(took);
    }

    /// The parameters of a load with reads, writes with and without contexts, and deletes.
    pub(super) fn spec(&mut self, keys: u64, choice: Choice, sizes: Sizes) -> Spec {
        Spec {
            clients: CLIENTS,
            arrivals: None,
            mix: Mix { get: 0.25, put: 0.6, blind: 0.1, delete: 0.05, ..Mix::default() },
            prefix: "drill/".into(),
            keys,
            choice,
            sizes,
            r: None,
            w: None,
            timeout_ms: TIMEOUT_MS,
            operations: None,
            duration: None,
            warm_up: Duration::ZERO,
            samples: 0,
            seed: self.rng.next_u64(),
        }
    }

    /// Writes every key that the ledger does not have yet, so that the stores hold `keys` keys.
    pub(super) async fn fill(
        &mut self,
        client: &Client,
        keys: u64,
        sizes: Sizes,
    ) -> Result<(), String> {
        if self.ledger.read(|history| history.counts().keys).await? >= keys {
            return Ok(());
        }
        let mix = Mix { blind: 1.0, ..Mix::default() };
        let spec = self.spec(keys, Choice::Sweep, sizes);
        let spec = Spec { clients: 64, mix, operations: Some(keys), ..spec };
        Load::start(client, spec, Some(&self.ledger)).finish().await?;
        let counts = self.ledger.read(|history| history.counts()).await?;
        if counts.acknowledged < keys {
            let got = counts.acknowledged;
            return Err(format!("only {got} of the first {keys} writes were acknowledged"));
        }
        Ok(())
    }

    /// Reads from all replicas and judges the values: of every key, or with `recent` of those
    /// written since the last time. Findings are counted, and reported in a few words.
    pub(super) async fn judge(&mut self, client: &Client, recent: bool) -> Result<String, String> {
        self.judge_at(client, recent, N).await
    }

    async fn judge_at(&mut self, client: &Client, recent: bool, r: u8) -> Result<String, String> {
        self.count_set_aside()?;
        let verdict = if recent {
            verify_recent(client, &self.ledger, r).await?
        } else {
            verify(client, &self.ledger, r).await?
        };
        let mut reported = format!(
            "{} writes acknowledged so far, {} keys read",
            verdict.counts.acknowledged, verdict.keys
        );
        if !verdict.is_clean() {
            reported += &format!(
                ", {} WRITES LOST, {} faults, {} keys not readable",
                verdict.lost, verdict.faults, verdict.unread
            );
        }
        self.score.add(verdict);
        self.timeline.judged(self.score.counts, self.score.lost);
        Ok(reported)
    }
}

/// A complaint about partitions that differ between their owners; `None` if there are none.
pub(super) fn reported_of_differing(differ: usize) -> Option<String> {
    (differ > 0).then(|| format!("{differ} of {PARTITIONS} partitions differ between their owners"))
}

/// Number of hints that these nodes, by name and address, keep for `target`; for any node if it is
/// empty.
pub(super) async fn hints_for(
    nodes: &[(String, String)],
    target: &str,
    options: &Options,
) -> Result<u64, String> {
    let mut hints = 0;
    for (_, address) in nodes {
        let client = Client::connect(std::slice::from_ref(address), options.clone()).await;
        let report = async { client?.status(None).await }.await.map_err(|e| e.to_string())?;
        let peers = report.peers.iter().filter(|peer| target.is_empty() || peer.name == target);
        hints += peers.map(|peer| peer.hints).sum::<u64>();
    }
    Ok(hints)
}

/// Makes these nodes compare their partitions, and waits until each pair was found equal since.
pub(super) async fn await_equal(
    client: &Client,
    names: &[String],
    wait: Duration,
) -> Result<(), String> {
    let begun = Instant::now();
    let mut begin = true;
    loop {
        let (mut left, since) = (0, begun.elapsed().as_millis() as u64);
        for name in names {
            let report = client.repair(Some(name), begin, None, None).await;
            let pairs = report.map_err(|failure| failure.to_string())?.pairs;
            let equal = |ms: u64| ms < since;
            left += pairs.iter().filter(|pair| !pair.equal_ms.is_some_and(equal)).count();
        }
        if left == 0 {
            return Ok(());
        }
        if begun.elapsed() > wait {
            let wait = wait.as_secs();
            return Err(format!("{left} pairs of replicas were not found equal in {wait} s"));
        }
        begin = false;
        sleep(POLL_INTERVAL).await;
    }
}

/// The part of a daemon's log from some moment on.
pub(super) struct Log {
    path: PathBuf,
    from: u64,
}

impl Log {
    /// Whether the daemon has said that it serves.
    pub(super) fn says_ready(&self) -> bool {
        READY.iter().any(|stated| self.reports(stated))
    }

    /// Whether the daemon has said this.
    pub(super) fn reports(&self, what: &str) -> bool {
        let mut text = String::new();
        let read = File::open(&self.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.from))?;
            file.read_to_string(&mut text)
        });
        read.is_ok() && text.contains(what)
    }
}
