//! The steps that the drills of planned operations have in common: daemons with keys, clients that
//! read and write all the time, a phase before the fault, the fault, the time to recover, a phase
//! after it, and the judgement.

use std::time::{Duration, Instant};

use pixii_client::Client;
use pixii_core::message::EmulateOrder;
use pixii_kit::cluster::STOPPED;
use serde_json::{Map, Value, json};
use tokio::time::sleep;

use super::expectations::{Allowed, Expectations};
use super::testbed::{Log, PARTITIONS, Testbed, await_equal, reported_of_differing};
use super::timeline::{EventKind, Phase};
use super::{Ending, Plan, Print};
use crate::workload::choice::{Choice, Sizes};
use crate::workload::{Load, Mix, Spec};

/// Number of clients, each with one request in flight.
const CLIENTS: usize = 8;
/// Share of the length before the fault, and again after the recovery; the fault lasts for the
/// rest.
const CALM_SHARE: f64 = 0.25;
/// An unmeasured load warms up what the filling left cold.
const WARM_UP: Duration = Duration::from_millis(500);
/// The cluster has recovered within this time, or never does.
const TIMEOUT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
const VALUE_BYTES: usize = 100;

/// A drill in progress. Dropping it kills the daemons.
pub(super) struct Scenario<'a> {
    /// The daemons, the ledger, the score.
    pub(super) testbed: Testbed,
    /// The broken promises, one sentence each.
    pub(super) complaints: Vec<String>,
    /// Measurements beyond those of every drill.
    pub(super) figures: Map<String, Value>,
    plan: &'a Plan,
    print: Print<'a>,
    /// A client of all daemons, and the load that uses it; `None` before the daemons are open.
    work: Option<(Client, Load)>,
}

impl<'a> Scenario<'a> {
    /// Creates the files of this many daemons. None is started, so that their configuration can be
    /// completed.
    pub(super) fn prepare(plan: &'a Plan, nodes: usize, print: Print<'a>) -> Result<Self, String> {
        let testbed = Testbed::prepare(plan, nodes)?;
        let (complaints, figures) = (Vec::new(), Map::new());
        Ok(Scenario { testbed, complaints, figures, plan, print, work: None })
    }

    /// Starts the daemons, gives every key a value, and lets clients work for the time before the
    /// fault.
    pub(super) async fn open(&mut self) -> Result<(), String> {
        let names = self.testbed.names();
        self.opened(&names).await?;
        let client = self.testbed.client().await?;
        let (keys, sizes) = (self.plan.keys, Sizes::fixed(VALUE_BYTES));
        self.testbed.fill(&client, keys, sizes).await?;
        let mix = Mix { get: 0.5, put: 0.5, ..Mix::default() };
        let spec = self.testbed.spec(keys, Choice::Uniform, sizes);
        let spec = Spec { clients: CLIENTS, mix, ..spec };
        let ledger = Some(&self.testbed.ledger);
        let warm = Spec { duration: Some(WARM_UP), ..spec.clone() };
        Load::start(&client, warm, ledger).finish().await?;
        let load = Load::traced(&client, spec, ledger, Some(self.testbed.timeline.trace()));
        self.work = Some((client, load));
        let (nodes, clients) = (names.len(), CLIENTS);
        self.testbed.timeline.enter(Some(Phase::Before));
        self.step(&format!(
            "{nodes} daemons hold {keys} keys, {clients} clients read and write; seed {}",
            self.plan.seed
        ))?;
        sleep(self.plan.length.mul_f64(CALM_SHARE)).await;
        Ok(())
    }

    /// One of the daemons, chosen at random.
    pub(super) fn victim(&mut self) -> String {
        let names = self.testbed.names();
        self.testbed.rng.pick(&names).cloned().unwrap_or_default()
    }

    /// Records and prints an event.
    pub(super) fn step(&mut self, what: &str) -> Result<(), String> {
        self.mark(EventKind::Step, what).map(drop)
    }

    /// Records and prints the fault, or a further one; returns its time.
    pub(super) fn fault(&mut self, what: &str) -> Result<Duration, String> {
        self.testbed.timeline.enter(Some(Phase::During));
        self.mark(EventKind::Fault, what)
    }

    /// Records and prints the end of the fault; returns its time.
    pub(super) fn heal(&mut self, what: &str) -> Result<Duration, String> {
        self.mark(EventKind::Heal, what)
    }

    fn mark(&mut self, mark: EventKind, what: &str) -> Result<Duration, String> {
        let at = self.testbed.timeline.note(mark, what);
        (self.print)(&format!("{:7.2} s  {what}", at.as_secs_f64()))?;
        Ok(at)
    }

    /// Waits for the length of the fault.
    pub(super) async fn stay(&self) {
        sleep(self.plan.length.mul_f64(1.0 - 2.0 * CALM_SHARE)).await;
    }

    /// Lets clients work for a while on the recovered cluster.
    pub(super) async fn calm(&self) {
        self.testbed.timeline.enter(Some(Phase::After));
        sleep(self.plan.length.mul_f64(CALM_SHARE)).await;
    }

    /// Sends a daemon an order for its emulated network or disk.
    pub(super) async fn emulate(&self, name: &str, order: EmulateOrder) -> Result<(), String> {
        let Some((client, _)) = &self.work else { return Ok(()) };
        client.emulate(name, order).await.map(drop).map_err(|failure| failure.to_string())
    }

    /// Stops a daemon cleanly while the clients continue.
    pub(super) async fn stop(&mut self, name: &str) -> Result<(), String> {
        self.testbed.cluster.begin_stop(name)?;
        let begun = Instant::now();
        loop {
            match self.testbed.cluster.end_of(name) {
                Some(how) if how == STOPPED => return Ok(()),
                Some(how) => return Err(format!("{name} was ordered to stop and {how}")),
                None if begun.elapsed() > TIMEOUT => {
                    return Err(format!("{name} did not stop in {} s", TIMEOUT.as_secs()));
                }
                None => sleep(POLL_INTERVAL).await,
            }
        }
    }

    /// Starts a daemon and waits until it serves and is linked with all.
    pub(super) async fn start(&mut self, name: &str) -> Result<(), String> {
        self.opened(&[name.to_owned()]).await
    }

    async fn opened(&mut self, names: &[String]) -> Result<(), String> {
        match self.testbed.open(names).await? {
            Some(_) => Ok(()),
            None => Err(self.testbed.score.notes.join("; ")),
        }
    }

    /// Waits until all daemons serve and are linked, and no daemon keeps a hint for `target` (if
    /// empty, for any node). That is the recovery, which began at the time `since` of the timeline.
    pub(super) async fn recover(&mut self, since: Duration, target: &str) -> Result<(), String> {
        self.testbed.cluster.ready(TIMEOUT).await?;
        let begun = Instant::now();
        loop {
            let hints = self.testbed.hints_for(target).await?;
            if hints == 0 {
                break;
            }
            if begun.elapsed() > TIMEOUT {
                return Err(format!("{hints} hints were there {} s later", TIMEOUT.as_secs()));
            }
            sleep(POLL_INTERVAL).await;
        }
        let of = if target.is_empty() { "anybody" } else { target };
        self.recovered(since, &format!("all are linked, and nobody keeps a hint for {of}"))
    }

    /// Records the recovery, which began at the time `since` of the timeline.
    pub(super) fn recovered(&mut self, since: Duration, what: &str) -> Result<(), String> {
        let at = self.mark(EventKind::Recovered, what)?;
        self.testbed.timeline.recovered(at.saturating_sub(since));
        Ok(())
    }

    /// Waits until each of these logs contains this text.
    pub(super) async fn await_said(&self, logs: &[Log], text: &str) -> Result<(), String> {
        let begun = Instant::now();
        while !logs.iter().all(|log| log.reports(text)) {
            if begun.elapsed() > TIMEOUT {
                let wait = TIMEOUT.as_secs();
                return Err(format!("not all daemons have said \"{}\" in {wait} s", text.trim()));
            }
            sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }

    /// Waits until some request has failed. One that began before the fault may wait for its
    /// deadline first, and all clients may have such a request in progress.
    pub(super) async fn await_failure(&self) -> Result<(), String> {
        let begun = Instant::now();
        while self.expectations().refused + self.expectations().unknown == 0 {
            if begun.elapsed() > TIMEOUT {
                return Err(format!("no request has failed in {} s", TIMEOUT.as_secs()));
            }
            sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }

    fn expectations(&self) -> Expectations {
        Expectations::of(self.testbed.timeline.trace())
    }

    /// Ends the load and waits until all replicas are equal. Compares the stopped stores, reads
    /// every key from all its owners, and judges the values by the ledger.
    pub(super) async fn end(mut self, allowed: Allowed) -> Result<Ending, String> {
        let Some((client, load)) = self.work.take() else { return Err("no load".into()) };
        load.stop().await?;
        self.testbed.timeline.enter(None);
        self.step("the clients stop")?;
        self.testbed.note_ended();
        self.testbed.await_no_hints(TIMEOUT).await?;
        await_equal(&client, &self.testbed.names(), TIMEOUT).await?;
        self.testbed.cluster.stop_all()?;
        let (held, differ) = self.testbed.compare()?;
        self.step(&format!("all are stopped and compared: {held} records on their disks"))?;
        // Reads repair differences, so the stores are compared before all keys are read.
        let names = self.testbed.names();
        self.opened(&names).await?;
        let judged = self.testbed.judge(&self.testbed.client().await?, false).await?;
        self.step(&judged)?;
        self.testbed.cluster.stop_all()?;
        Ok(self.ending(allowed, differ))
    }

    fn ending(mut self, allowed: Allowed, differ: usize) -> Ending {
        let expectations = self.expectations();
        let Expectations { done, refused, unknown, absent, .. } = expectations;
        let score = &self.testbed.score;
        if !score.is_clean() {
            self.complaints.extend(score.complaints());
        }
        self.complaints.extend(expectations.complaints(allowed));
        self.complaints.extend(reported_of_differing(differ));
        let summary = format!(
            "{done} requests done, {refused} refused or not answered, {unknown} unknown; {} \
             writes acknowledged, {} lost, \
             {differ} of {PARTITIONS} partitions differ between their owners",
            score.counts.acknowledged, score.lost
        );
        let summary = match score.repeated {
            0 => summary,
            repeated => {
                let them = "values are shown beside what replaced them, whose writes had been \
                    sent to two nodes";
                format!("{summary}; {repeated} {them}")
            }
        };
        let counted = json!({
            "done": done, "refused": refused, "unknown": unknown, "absent": absent,
            "lost": score.lost,
            "repeated": score.repeated,
            "partitions_differ": differ,
        });
        let mut figures = self.figures;
        figures.extend(counted.as_object().cloned().unwrap_or_default());
        Ending { summary, complaints: self.complaints, figures: figures.into() }
    }
}
