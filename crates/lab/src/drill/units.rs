//! Restarts and kills of an existing cluster, whose daemons are systemd units on this machine. The
//! cluster must not be in use: it holds no keys except those of a drill, and has no other clients.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pixii_client::{Client, Options};
use pixii_core::message::Counter;
use pixii_core::rng::Rng;
use pixii_core::types::{Key, Partition};
use pixii_kit::cluster::missing;
use serde_json::json;
use tokio::time::sleep;

use super::expectations::{Allowed, Expectations};
use super::testbed::{await_equal, hints_for};
use super::timeline::{EventKind, Phase};
use super::{Ending, Plan, Print, Score};
use crate::ledger::{Ledger, verify};
use crate::workload::choice::{Choice, Sizes};
use crate::workload::{Load, Mix, Spec};

/// The prefix of the keys of these drills.
const PREFIX: &str = "pixii-drill/";
/// A cluster without requests in this time has no other clients.
const QUIET: Duration = Duration::from_secs(1);
/// The counters of requests of clients.
const REQUESTS: [Counter; 6] = [
    Counter::GetsAnswered,
    Counter::PutsAcknowledged,
    Counter::DeletesAcknowledged,
    Counter::ListingsAnswered,
    Counter::RequestsRefused,
    Counter::WritesUnknown,
];
/// Maximum number of keys that are read to find one with a value; with more, the cluster counts as
/// in use.
const MAX_READS: u32 = 1_000;
const PAGE_BYTES: u32 = 64 << 10;
const CLIENTS: usize = 8;
const VALUE_BYTES: usize = 100;
const TIMEOUT_MS: u32 = 5_000;
const TIMEOUT: Duration = Duration::from_secs(120);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
const CALM_SHARE: f64 = 0.25;

/// The action on the units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UnitAction {
    /// One unit is stopped, and started after a while.
    Restart,
    /// All units are restarted, one after the other.
    RollingRestart,
    /// One unit after the other is killed with SIGKILL, and systemd starts it again.
    Kill,
}

/// A cluster whose daemons are systemd units.
struct Units<'a> {
    client: Client,
    options: Options,
    /// Names and addresses of the members.
    nodes: Vec<(String, String)>,
    plan: &'a Plan,
    print: Print<'a>,
}

/// The error says why the drill was not begun or could not go on. With `allow_in_use` it runs
/// although others use the cluster; their keys are left alone.
pub(crate) async fn run(
    plan: &Plan,
    act: UnitAction,
    (addresses, options): (&[String], &Options),
    allow_in_use: bool,
    print: Print<'_>,
) -> Result<Ending, String> {
    let client = Client::connect(addresses, options.clone()).await.map_err(|e| e.to_string())?;
    let nodes = client.members().map(|one| (one.name.clone(), one.address.clone())).collect();
    let mut units = Units { client, options: options.clone(), nodes, plan, print };
    for (name, _) in &units.nodes {
        systemctl(&["is-active", "--quiet"], name).await.map_err(|_| {
            format!(
                "the unit pixii@{name} is not active on this machine: all members have to be \
                units here"
            )
        })?;
    }
    if !allow_in_use {
        units.refuse_use().await?;
    }
    let ledger = Ledger::open(&plan.dir.join("ledger"))?;
    let restarts = units.restarts().await?;
    let score = units.exercise(act, &ledger).await?;
    let mut complaints = if score.is_clean() { Vec::new() } else { score.complaints() };
    complaints.extend(units.unasked(act, &restarts).await?);
    let allowed = if act == UnitAction::Kill { Allowed::Failures } else { Allowed::Nothing };
    let expectations = Expectations::of(plan.timeline.trace());
    complaints.extend(expectations.complaints(allowed));
    units.clear().await?;
    let Expectations { refused, unknown, absent, .. } = expectations;
    let summary = format!(
        "{} of the units of cluster {}: {} writes acknowledged, {} lost; {refused} refused or not \
         answered, {unknown} unknown",
        match act {
            UnitAction::Restart => "a restart of one",
            UnitAction::RollingRestart => "a restart of all",
            UnitAction::Kill => "kills",
        },
        units.client.cluster(),
        score.counts.acknowledged,
        score.lost
    );
    let figures = json!({
        "lost": score.lost, "refused": refused, "unknown": unknown, "absent": absent,
        "systemd": true,
    });
    Ok(Ending { summary, complaints, figures })
}

impl Units<'_> {
    fn mark(&mut self, mark: EventKind, what: &str) -> Result<Duration, String> {
        let at = self.plan.timeline.note(mark, what);
        (self.print)(&format!("{:7.2} s  {what}", at.as_secs_f64()))?;
        Ok(at)
    }

    /// Runs clients, carries out the action beside them, and judges the result.
    async fn exercise(&mut self, act: UnitAction, ledger: &Ledger) -> Result<Score, String> {
        let (plan, timeline) = (self.plan, self.plan.timeline.clone());
        let spec = Spec {
            clients: CLIENTS,
            arrivals: None,
            mix: Mix { blind: 1.0, ..Mix::default() },
            prefix: format!("{PREFIX}{:08x}/", plan.seed),
            keys: plan.keys,
            choice: Choice::Sweep,
            sizes: Sizes::fixed(VALUE_BYTES),
            r: None,
            w: None,
            timeout_ms: TIMEOUT_MS,
            operations: Some(plan.keys),
            duration: None,
            warm_up: Duration::ZERO,
            samples: 0,
            seed: plan.seed,
        };
        Load::start(&self.client, spec.clone(), Some(ledger)).finish().await?;
        let mix = Mix { get: 0.5, put: 0.5, ..Mix::default() };
        let spec = Spec { mix, choice: Choice::Uniform, operations: None, ..spec };
        let load = Load::traced(&self.client, spec, Some(ledger), Some(timeline.trace()));
        timeline.enter(Some(Phase::Before));
        let nodes = self.nodes.len();
        self.mark(
            EventKind::Step,
            &format!(
                "{nodes} units, {} keys; seed \
            {}",
                plan.keys, plan.seed
            ),
        )?;
        sleep(plan.length.mul_f64(CALM_SHARE)).await;
        self.strike(act).await?;
        timeline.enter(Some(Phase::After));
        sleep(plan.length.mul_f64(CALM_SHARE)).await;
        load.stop().await?;
        timeline.enter(None);
        let names: Vec<String> = self.nodes.iter().map(|(name, _)| name.clone()).collect();
        self.await_hints("").await?;
        await_equal(&self.client, &names, TIMEOUT).await?;
        let verdict = verify(&self.client, ledger, self.client.ring().n()).await?;
        self.mark(EventKind::Step, &format!("{} keys read at all owners", verdict.keys))?;
        let mut score = Score::default();
        score.add(verdict);
        timeline.judged(score.counts, score.lost);
        Ok(score)
    }

    async fn strike(&mut self, act: UnitAction) -> Result<(), String> {
        let names: Vec<String> = self.nodes.iter().map(|(name, _)| name.clone()).collect();
        self.plan.timeline.enter(Some(Phase::During));
        if act == UnitAction::Restart {
            let victim = Rng::new(self.plan.seed).pick(&names).cloned().unwrap_or_default();
            self.mark(EventKind::Fault, &format!("pixii@{victim} is stopped"))?;
            systemctl(&["stop"], &victim).await?;
            sleep(self.plan.length.mul_f64(1.0 - 2.0 * CALM_SHARE)).await;
            let since = self.mark(EventKind::Heal, &format!("pixii@{victim} is started"))?;
            systemctl(&["start"], &victim).await?;
            return self.recover(since, &victim).await;
        }
        for name in names {
            let (what, words): (&str, &[&str]) = match act {
                UnitAction::Kill => ("is killed", &["kill", "--signal=KILL"]),
                _ => ("is restarted", &["restart"]),
            };
            let since = self.mark(EventKind::Fault, &format!("pixii@{name} {what}"))?;
            systemctl(words, &name).await?;
            self.recover(since, &name).await?;
        }
        Ok(())
    }

    /// Waits until all daemons serve and are linked, and none keeps a hint for `target`.
    async fn recover(&mut self, since: Duration, target: &str) -> Result<(), String> {
        let begun = Instant::now();
        // The others may not have noticed yet that a unit was killed.
        while let Some(why) = self.unwell(target).await {
            if begun.elapsed() > TIMEOUT {
                return Err(format!("{why} after {} s", TIMEOUT.as_secs()));
            }
            sleep(POLL_INTERVAL).await;
        }
        self.await_hints(target).await?;
        let well = format!("all are linked, and nobody keeps a hint for {target}");
        let at = self.mark(EventKind::Recovered, &well)?;
        self.plan.timeline.recovered(at.saturating_sub(since));
        Ok(())
    }

    /// How often systemd has restarted each unit by itself since it was last started by hand.
    async fn restarts(&self) -> Result<Vec<u64>, String> {
        let mut all = Vec::new();
        for (name, _) in &self.nodes {
            let reported = systemctl(&["show", "--property=NRestarts", "--value"], name).await?;
            let number = reported.trim().parse();
            all.push(number.map_err(|_| {
                format!(
                    "pixii@{name} was restarted \"{}\" \
                        times",
                    reported.trim()
                )
            })?);
        }
        Ok(all)
    }

    /// The units that have ended by themselves since `before`, the numbers of their restarts, was
    /// read; one sentence each.
    async fn unasked(&self, act: UnitAction, before: &[u64]) -> Result<Vec<String>, String> {
        // A kill is followed by one restart; a start by hand resets the number.
        let queried = u64::from(act == UnitAction::Kill);
        let now = self.restarts().await?;
        let all = self.nodes.iter().zip(before.iter().zip(now));
        let odd = all.filter(|(_, (before, now))| *now > **before + queried);
        Ok(odd.map(|((name, _), _)| format!("pixii@{name} has ended by itself")).collect())
    }

    async fn unwell(&self, target: &str) -> Option<String> {
        if systemctl(&["is-active", "--quiet"], target).await.is_err() {
            return Some(format!("pixii@{target} is not active"));
        }
        missing(&self.nodes, &self.options).await
    }

    async fn await_hints(&self, target: &str) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            // A daemon that was just started may not answer yet.
            let left = hints_for(&self.nodes, target, &self.options).await;
            match left {
                Ok(0) => return Ok(()),
                _ if begun.elapsed() > TIMEOUT => {
                    let wait = TIMEOUT.as_secs();
                    return Err(match left {
                        Ok(left) => format!("{left} hints were there {wait} s later"),
                        Err(why) => why,
                    });
                }
                _ => sleep(POLL_INTERVAL).await,
            }
        }
    }

    /// Checks that the cluster is not in use; the error is one sentence.
    async fn refuse_use(&self) -> Result<(), String> {
        let cluster = self.client.cluster();
        let go_on = "--allow-in-use goes on all the same, and leaves alone what is not the drill's";
        if let Some(key) = self.foreign_key().await? {
            return Err(format!("the cluster {cluster} is in use: it holds {key}; {go_on}"));
        }
        let before = self.requests().await?;
        sleep(QUIET).await;
        let queried = self.requests().await?.saturating_sub(before);
        if queried > 0 {
            return Err(format!(
                "the cluster {cluster} is in use: others made {queried} requests within a second; \
                 {go_on}"
            ));
        }
        Ok(())
    }

    /// A key with a value that no drill has written, as text; `None` if there is none.
    async fn foreign_key(&self) -> Result<Option<String>, String> {
        let mut looks = 0;
        for partition in (0..self.client.ring().partitions()).map(Partition) {
            let mut after = None;
            loop {
                let page = self.client.keys(partition, after, PAGE_BYTES, None, TIMEOUT_MS).await;
                let page = page.map_err(|failure| failure.to_string())?;
                for key in page.keys.iter().filter(|key| !is_ours(key)) {
                    looks += 1;
                    let found = self.client.get(key).deadline_ms(TIMEOUT_MS).await;
                    let found = found.map_err(|failure| failure.to_string())?;
                    if !found.values.is_empty() || looks > MAX_READS {
                        return Ok(Some(format!("the key {key:?}")));
                    }
                }
                match page.keys.last() {
                    Some(last) if page.more => after = Some(last.clone()),
                    _ => break,
                }
            }
        }
        Ok(None)
    }

    /// Number of requests of clients that all daemons have counted.
    async fn requests(&self) -> Result<u64, String> {
        let mut sum = 0;
        for (name, _) in &self.nodes {
            let report = self.client.status(Some(name)).await.map_err(|e| e.to_string())?;
            sum += REQUESTS.iter().map(|counter| report.count(*counter)).sum::<u64>();
        }
        Ok(sum)
    }

    /// Deletes the keys that the drill has written.
    async fn clear(&mut self) -> Result<(), String> {
        for number in 0..self.plan.keys {
            let key = format!("{PREFIX}{:08x}/{number:08}", self.plan.seed);
            let key = Key::new(key.into_bytes()).map_err(|error| error.to_string())?;
            let found = self.client.get(&key).deadline_ms(TIMEOUT_MS).await;
            let found = found.map_err(|failure| failure.to_string())?;
            let deleted =
                self.client.delete(&key).context(found.context).deadline_ms(TIMEOUT_MS).await;
            deleted.map_err(|failure| failure.to_string())?;
        }
        let keys = self.plan.keys;
        self.mark(EventKind::Step, &format!("the {keys} keys of the drill are deleted")).map(drop)
    }
}

fn is_ours(key: &Key) -> bool {
    key.as_bytes().starts_with(PREFIX.as_bytes())
}

/// Runs `systemctl` for the unit of a member while the clients continue; returns its output.
async fn systemctl(words: &[&str], name: &str) -> Result<String, String> {
    let fault = |why: &str| format!("systemctl {} pixii@{name}: {why}", words.join(" "));
    let mut child = Command::new("systemctl")
        .args(words)
        .arg(format!("pixii@{name}"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| fault(&error.to_string()))?;
    while child.try_wait().map_err(|error| fault(&error.to_string()))?.is_none() {
        sleep(POLL_INTERVAL).await;
    }
    let ended = child.wait_with_output().map_err(|error| fault(&error.to_string()))?;
    if ended.status.success() {
        return Ok(String::from_utf8_lossy(&ended.stdout).into_owned());
    }
    let stated = String::from_utf8_lossy(&ended.stderr);
    Err(fault(stated.lines().next().unwrap_or("it failed without a word")))
}
