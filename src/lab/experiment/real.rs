//! Real daemons on loopback, on an emulated network.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use pixii::client::{Client, Failure, Options, Put};
use pixii::message::EmulateOrder;
use pixii::rng::Rng;
use pixii::types::Micros;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

use super::driver::{
    Driver, KEYS, Loops, Measured, Sample, TIMEOUT_MS, delays, fresh_key, quorum, read_key, value,
};
use crate::cli::cluster::{Cluster, Shape};
use crate::cli::signals::Interrupt;

const READY_WAIT: Duration = Duration::from_secs(60);

/// A client that knows the daemons that run.
pub(crate) async fn connect(cluster: &Cluster) -> Result<Client, String> {
    let running = cluster.daemons().iter().filter(|daemon| daemon.is_running());
    let addresses: Vec<String> = running.map(|daemon| daemon.address.clone()).collect();
    Client::connect(&addresses, Options::default()).await.map_err(|failure| failure.to_string())
}

/// Puts every key at all `n` homes.
pub(crate) async fn load(client: &Client, n: u8) -> Result<(), String> {
    for number in 0..KEYS {
        let put = Put {
            key: read_key(number),
            value: value(),
            context: None,
            write: client.write_id(),
            w: quorum(n, false),
        };
        client.put(put, TIMEOUT_MS).await.map_err(|failure| failure.to_string())?;
    }
    Ok(())
}

/// Lets every message take an exponentially distributed time with this mean.
pub(crate) async fn emulate(client: &Client, delay_ms: f64) -> Result<(), String> {
    for member in client.ring_report().members.iter() {
        let order = EmulateOrder::Set(delays(delay_ms));
        client.emulate(&member.name, order).await.map_err(|failure| failure.to_string())?;
    }
    Ok(())
}

/// Daemons, started; dropped, they are killed.
pub(crate) struct Real<'a> {
    cluster: Cluster,
    client: Client,
    interrupt: &'a Interrupt,
    runtime: Runtime,
}

impl<'a> Real<'a> {
    /// Starts so many daemons in an empty directory, and loads the keys.
    pub(crate) fn start(
        program: PathBuf,
        dir: PathBuf,
        (nodes, n): (usize, u8),
        interrupt: &'a Interrupt,
    ) -> Result<Self, String> {
        let runtime =
            Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
        let (r, w) = (n / 2 + 1, n / 2 + 1);
        let shape = Shape { cluster: "lab".into(), nodes, n, r, w, partitions: 64 };
        let mut cluster = Cluster::create(program, &dir, &shape, None)?;
        cluster.allow_emulation()?;
        cluster.start_all()?;
        let client = unless_interrupted(&runtime, interrupt, async {
            cluster.ready(READY_WAIT).await?;
            let client = connect(&cluster).await?;
            load(&client, n).await?;
            Ok(client)
        })?;
        Ok(Real { cluster, client, interrupt, runtime })
    }

    /// Stops the daemons cleanly.
    pub(crate) fn stop(mut self) -> Result<(), String> {
        self.cluster.stop_all()
    }
}

fn unless_interrupted<T>(
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

impl Driver for Real<'_> {
    fn tolerance(&self) -> f64 {
        0.3
    }

    fn delay(&mut self, mean_ms: f64) -> Result<(), String> {
        let client = self.client.clone();
        unless_interrupted(&self.runtime, self.interrupt, emulate(&client, mean_ms))
    }

    fn run(&mut self, loops: &Loops) -> Result<Measured, String> {
        let (client, loops) = (self.client.clone(), *loops);
        let measured = unless_interrupted(&self.runtime, self.interrupt, async move {
            let mut workers = JoinSet::new();
            for number in 0..loops.clients {
                workers.spawn(work(client.clone(), loops, number));
            }
            let (mut all, mut first, mut last) = (Measured::default(), None, None);
            while let Some(done) = workers.join_next().await {
                let (part, begun) = done.map_err(|error| format!("a client ended: {error}"))?;
                all.samples.extend(part.samples);
                all.failed += part.failed;
                all.why = all.why.or(part.why);
                first = Some(first.map_or(begun, |first: Instant| first.min(begun)));
                last = Some(Instant::now());
            }
            let spent = first.zip(last).map_or(Duration::ZERO, |(first, last)| last - first);
            all.spent = spent.as_micros() as Micros;
            Ok(all)
        })?;
        match self.cluster.ended().pop() {
            Some((name, how)) => Err(format!("{name} {how}: the run is incomplete")),
            None => Ok(measured),
        }
    }
}

/// One client's loop: what it measured, and when it began to.
async fn work(client: Client, loops: Loops, number: u64) -> (Measured, Instant) {
    let mut rng = Rng::new(loops.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let (mut measured, mut first) = (Measured::default(), Instant::now());
    for turn in 0..loops.warm_up + loops.requests {
        let is_read = rng.below(10) < loops.reads_of_ten;
        let begun = Instant::now();
        if turn == loops.warm_up {
            first = begun;
        }
        let done: Result<(), Failure> = if is_read {
            let key = read_key(rng.below(KEYS));
            client.get(&key, quorum(loops.r, true), TIMEOUT_MS).await.map(drop)
        } else {
            let (key, write) = (fresh_key(&loops, number, turn), client.write_id());
            let w = quorum(loops.w, false);
            client
                .put(Put { key, value: value(), context: None, write, w }, TIMEOUT_MS)
                .await
                .map(drop)
        };
        let took = begun.elapsed().as_micros() as Micros;
        match done {
            _ if turn < loops.warm_up => {}
            Ok(()) => measured.samples.push(Sample { is_read, took }),
            Err(failure) => {
                measured.failed += 1;
                measured.why.get_or_insert(failure.to_string());
            }
        }
    }
    (measured, first)
}
