//! Real daemons on loopback as a cluster for experiments, with an emulated network.

mod load;
mod replicas;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pixii_client::{Client, ClientError, Options};
use pixii_core::members::Liveness;
use pixii_core::message::{Counter, EmulateOrder, Kind, StatusReport};
use pixii_core::node::Experiment;
use pixii_core::ring::Ring;
use pixii_core::types::{Micros, NodeId};
use pixii_kit::cluster::{Cluster, Shape};
use pixii_kit::signals::Interrupt;
use pixii_sim::cluster::Setup;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{sleep, timeout};

use self::load::Queried;
use super::driver::{Driver, Followed, Loops, Measured, Puts, Scenario, Sent};

/// Daemons serve, and agree on which are down, within this time, or never do.
const READY_WAIT: Duration = Duration::from_secs(60);
/// Interval at which that is checked, and whether a daemon has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The running daemons; dropping it kills them.
pub(crate) struct Real<'a> {
    cluster: Cluster,
    client: Client,
    interrupt: &'a Interrupt,
    runtime: Runtime,
    /// Names of the daemons that were killed and not restarted.
    dead: Vec<String>,
    /// Number of calls of [`Driver::follow`] so far.
    series: u64,
    /// Declared after the daemons, so that it is removed after they have ended.
    dir: TempDir,
}

impl<'a> Real<'a> {
    /// Starts the daemons of a cluster of this shape.
    pub(crate) fn start(
        program: PathBuf,
        setup: &Setup,
        interrupt: &'a Interrupt,
    ) -> Result<Self, String> {
        let runtime =
            Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
        let dir = tempfile::Builder::new().prefix("pixii-lab-").tempdir();
        let dir = dir.map_err(|error| format!("no temporary directory: {error}"))?;
        let (n, nodes, partitions) = (setup.n, setup.nodes, setup.partitions);
        let shape =
            Shape { cluster: "lab".into(), nodes, n, r: n / 2 + 1, w: n / 2 + 1, partitions };
        let mut cluster = Cluster::create(program, dir.path(), &shape, None)?;
        cluster.allow_emulation()?;
        configure(&cluster, setup)?;
        cluster.start_all()?;
        let client = unless_stopped(&runtime, interrupt, async {
            cluster.ready(READY_WAIT).await?;
            connect(&cluster).await
        })?;
        Ok(Real { cluster, client, interrupt, runtime, dead: Vec::new(), series: 0, dir })
    }

    /// Runs an operation on the cluster until it is done, the user interrupts it, or a daemon ends
    /// by itself.
    fn watched<T>(&mut self, doing: impl Future<Output = Result<T, String>>) -> Result<T, String> {
        let Real { cluster, interrupt, runtime, .. } = self;
        let incomplete = |(name, how)| Err(format!("{name} {how}: the run is incomplete"));
        unless_stopped(runtime, interrupt, async {
            let why = tokio::select! {
                done = doing => match done {
                    Ok(done) => return Ok(done),
                    Err(why) => why,
                },
                of = ended(cluster) => return incomplete(of),
            };
            // Its connections may have broken before the end of the daemon was noticed.
            timeout(3 * POLL_INTERVAL, ended(cluster)).await.map_or(Err(why), incomplete)
        })
    }

    fn name(&self, at: usize) -> String {
        self.cluster.daemons().get(at).map(|daemon| daemon.name.clone()).unwrap_or_default()
    }

    /// Connects again to the running daemons.
    fn reconnect(&mut self) -> Result<(), String> {
        self.client = self.runtime.block_on(connect(&self.cluster))?;
        Ok(())
    }
}

/// Writes the settings of the setup to the configuration of all daemons.
fn configure(cluster: &Cluster, setup: &Setup) -> Result<(), String> {
    let mut experiment: Experiment = setup.experiment;
    let mut words = Experiment::SWITCHES.to_vec();
    words.retain(|word| experiment.switch(word).is_some_and(|on| *on));
    cluster.configure(&format!("experiment = {words:?}"))?;
    cluster.configure(&format!("hint_limit_mib = {}", setup.hint_limit_bytes >> 20))?;
    // A day is the maximum of this setting, and longer than any experiment.
    let interval_ms = setup.repair_interval.as_millis().min(86_400_000);
    cluster.configure(&format!("repair_interval_ms = {interval_ms}"))
}

/// A client with the addresses of the running daemons.
async fn connect(cluster: &Cluster) -> Result<Client, String> {
    let running = cluster.daemons().iter().filter(|daemon| daemon.is_running());
    let addresses: Vec<String> = running.map(|daemon| daemon.address.clone()).collect();
    Client::connect(&addresses, Options::default()).await.map_err(|failure| failure.to_string())
}

fn unless_stopped<T>(
    runtime: &Runtime,
    interrupt: &Interrupt,
    doing: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    runtime.block_on(async {
        tokio::select! {
            done = doing => done,
            () = interrupt.wait() => Err("interrupted: the run is incomplete".to_owned()),
        }
    })
}

/// Waits until a daemon has ended by itself; returns its name and how it ended.
async fn ended(cluster: &mut Cluster) -> (String, String) {
    loop {
        if let Some(ended) = cluster.ended().pop() {
            return ended;
        }
        sleep(POLL_INTERVAL).await;
    }
}

async fn status(address: &str) -> Result<StatusReport, ClientError> {
    let client = Client::connect(&[address.to_owned()], Options::default()).await?;
    client.status(None).await
}

/// Waits until every daemon at these addresses has marked exactly the dead ones down.
async fn await_down(addresses: &[String], dead: &[String]) -> Result<(), String> {
    let begun = Instant::now();
    loop {
        let mut well = true;
        for address in addresses {
            let report = status(address).await.map_err(|failure| failure.to_string())?;
            well &= report.peers.iter().all(|peer| {
                let down = dead.contains(&peer.name);
                (peer.liveness == Liveness::Down) == down && (down || peer.up)
            });
        }
        if well {
            return Ok(());
        }
        if begun.elapsed() > READY_WAIT {
            return Err("the daemons do not agree on who is down".into());
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// The addresses of the running daemons.
fn running(cluster: &Cluster) -> Vec<String> {
    let running = cluster.daemons().iter().filter(|daemon| daemon.is_running());
    running.map(|daemon| daemon.address.clone()).collect()
}

impl Driver for Real<'_> {
    fn tolerance(&self) -> (f64, f64) {
        (0.3, 5.0)
    }

    fn ring(&self) -> &Ring {
        self.client.ring()
    }

    fn place(&self, node: NodeId) -> usize {
        let mut daemons = self.cluster.daemons().iter();
        daemons.position(|daemon| NodeId::of(&daemon.name) == node).unwrap_or(0)
    }

    fn load(&mut self) -> Result<(), String> {
        let (queried, r) = (Queried::new(self.client.clone(), &self.dead), self.ring().n());
        self.watched(load::fill(queried.clone()))?;
        // A node without latency estimates is queried first, so each gets some requests now.
        let loops =
            Loops { r, w: r, clients: 8, requests: 50, warm_up: 0, reads_of_ten: 10, seed: 0 };
        self.watched(load::run(queried, loops)).map(drop)
    }

    fn emulate(&mut self, rules: &str) -> Result<(), String> {
        let (client, rules) = (self.client.clone(), rules.to_owned());
        let running = self.cluster.daemons().iter().filter(|daemon| daemon.is_running());
        let names: Vec<String> = running.map(|daemon| daemon.name.clone()).collect();
        self.watched(async move {
            for name in names {
                let order = EmulateOrder::Set(rules.clone());
                client.emulate(&name, order).await.map_err(|failure| failure.to_string())?;
            }
            Ok(())
        })
    }

    fn run(&mut self, loops: &Loops) -> Result<Measured, String> {
        let queried = Queried::new(self.client.clone(), &self.dead);
        self.watched(load::run(queried, *loops))
    }

    fn follow(
        &mut self,
        puts: &Puts,
        scenario: &mut dyn FnMut(u64) -> Scenario,
    ) -> Result<Followed, String> {
        self.series += 1;
        let courses = (0..puts.count).map(scenario).collect();
        let (client, series) = (self.client.clone(), self.series);
        self.watched(load::follow(client, *puts, series, courses))
    }

    fn kill(&mut self, at: usize) -> Result<(), String> {
        let name = self.name(at);
        self.cluster.kill(&name)?;
        self.dead.push(name);
        self.reconnect()?;
        let (addresses, dead) = (running(&self.cluster), self.dead.clone());
        self.watched(async move { await_down(&addresses, &dead).await })
    }

    fn restart(&mut self, at: usize, lost: bool) -> Result<(), String> {
        let name = self.name(at);
        if lost {
            let data: PathBuf = Path::join(self.dir.path(), &name);
            fs::remove_dir_all(&data).map_err(|error| format!("{}: {error}", data.display()))?;
        }
        self.dead.retain(|dead| *dead != name);
        self.cluster.start(&name)
    }

    fn wait(&mut self, time: Micros) -> Result<(), String> {
        self.watched(async move {
            sleep(time.into()).await;
            Ok(())
        })
    }

    fn sent(&mut self) -> Result<Sent, String> {
        let addresses = running(&self.cluster);
        self.watched(async move {
            let mut sent = Sent::new();
            for address in &addresses {
                let report = status(address).await.map_err(|failure| failure.to_string())?;
                for kind in Kind::ALL {
                    let bytes = report.count(Counter::peer_bytes_of(kind));
                    *sent.entry(kind).or_default() += bytes;
                }
            }
            Ok(sent)
        })
    }

    fn converge(&mut self) -> Result<Micros, String> {
        let addresses = running(&self.cluster);
        let took = self.watched(async move { replicas::converge(&addresses).await })?;
        self.reconnect()?;
        Ok(took.into())
    }

    fn stop(mut self: Box<Self>) -> Result<(), String> {
        self.cluster.stop_all()
    }
}
