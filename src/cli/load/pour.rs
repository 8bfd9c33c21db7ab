//! Lines on their way into the cluster: a bounded number in flight, one per key, each accounted
//! for.

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use indicatif::ProgressBar;
use pixii_client::Client;
use pixii_core::types::Key;
use pixii_kit::outcome::complain;
use pixii_kit::signals::Interrupt;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::ledger::{Counts, Fate, Ledger};
use super::lines::{Line, Lines};
use super::write::{Plan, Settled, write};

/// How often signals are looked for and the bar is moved.
const TICK: Duration = Duration::from_millis(100);
/// How often the counts are saved.
const SAVE: Duration = Duration::from_secs(1);
/// Most lines settled ahead of an unsettled one.
const MAX_AHEAD: usize = 65_536;
/// Lines that are named one by one, for what is wrong with them.
const MAX_NAMED: u64 = 10;

/// Why a run ended before its input did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// A signal.
    Interrupted,
    /// The input: a sentence without the file's name.
    Input(String),
    /// The cluster cannot be reached, or a file cannot be written.
    Fault(String),
}

/// A line that has left.
struct Sent {
    number: u64,
    check: u64,
    end: u64,
    raw: Bytes,
    key: Key,
    fate: Result<Settled, String>,
}

/// A run of lines into the cluster.
pub(crate) struct Pour {
    /// Gets the lines that were not acknowledged, as they stood.
    pub(crate) failed: Option<(PathBuf, File)>,
    /// Where the counts are saved about once a second.
    pub(crate) kept: Option<PathBuf>,
    /// Shows how far the run is, in bytes.
    pub(crate) bar: Option<ProgressBar>,
    /// Why the run ended early, if it did.
    pub(crate) stop: Option<Stop>,
    client: Client,
    plan: Plan,
    in_flight: usize,
    ledger: Ledger,
    tasks: JoinSet<Sent>,
    busy: HashSet<Key>,
    named: u64,
    carriage_return: bool,
    /// Lines of this run whose key had other values beside theirs when they were acknowledged.
    pub(crate) siblings: u64,
    saved: Instant,
}

impl Pour {
    /// A run that goes on from `counts`, with at most `in_flight` lines in progress.
    pub(crate) fn new(client: Client, plan: Plan, in_flight: usize, counts: Counts) -> Self {
        Pour {
            failed: None,
            kept: None,
            bar: None,
            stop: None,
            client,
            plan,
            in_flight,
            ledger: Ledger::new(counts),
            tasks: JoinSet::new(),
            busy: HashSet::new(),
            named: 0,
            carriage_return: false,
            siblings: 0,
            saved: Instant::now(),
        }
    }

    /// What became of the lines so far.
    pub(crate) fn counts(&self) -> &Counts {
        self.ledger.counts()
    }

    /// Writes all lines, or stops taking them and settles those in progress.
    pub(crate) async fn run(&mut self, mut lines: Lines, interrupt: &Interrupt) {
        let mut queue = VecDeque::new();
        let mut ended = false;
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            self.launch(&mut queue);
            let nothing_more = self.stop.is_some() || (ended && queue.is_empty());
            if self.tasks.is_empty() && nothing_more {
                break;
            }
            tokio::select! {
                batch = lines.recv(), if queue.is_empty() && !nothing_more => match batch {
                    Some(Ok(batch)) => queue.extend(batch),
                    Some(Err(why)) => self.stop_for(Stop::Input(why)),
                    None => ended = true,
                },
                Some(sent) = self.tasks.join_next() => match sent {
                    Ok(sent) => self.landed(sent),
                    Err(error) => self.stop_for(Stop::Fault(format!("a task failed: {error}"))),
                },
                _ = tick.tick() => self.look_around(interrupt),
            }
        }
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if let Some(Err(why)) = self.failed.as_ref().map(synced) {
            self.stop_for(Stop::Fault(why));
        }
    }

    /// Sends lines while there is room. A key that is in progress holds its next line back, and
    /// with it those behind: of several lines with one key the last shall win, and none become
    /// siblings.
    fn launch(&mut self, queue: &mut VecDeque<Line>) {
        while self.stop.is_none()
            && self.tasks.len() < self.in_flight
            && self.ledger.ahead() < MAX_AHEAD
        {
            let busy =
                |line: &Line| line.content.as_ref().is_ok_and(|(key, _)| self.busy.contains(key));
            if queue.front().is_none_or(busy) {
                return;
            }
            let Some(line) = queue.pop_front() else { return };
            let Line { number, check, end, raw, is_marked, content } = line;
            if is_marked {
                self.say(
                    "the file begins with a byte order mark (UTF-8), which is left out of \
                    the first key",
                );
            }
            match content {
                Ok((key, value)) => {
                    if raw.ends_with(b"\r") && !self.carriage_return {
                        self.carriage_return = true;
                        self.say(&format!(
                            "line {number} ends with a carriage return, which is taken as part of \
                             the \
                             value, here and in later lines"
                        ));
                    }
                    self.busy.insert(key.clone());
                    let (client, plan) = (self.client.clone(), self.plan);
                    self.tasks.spawn(async move {
                        let fate = write(&client, plan, key.clone(), value).await;
                        Sent { number, check, end, raw, key, fate }
                    });
                }
                Err(why) => {
                    self.name(number, &why);
                    let reason = "not a line of key, tab and value".to_string();
                    self.settle(number, check, &raw, Fate::Refused { reason, no_quorum: false });
                }
            }
        }
    }

    fn landed(&mut self, sent: Sent) {
        self.busy.remove(&sent.key);
        match sent.fate {
            Ok(Settled { fate, is_sibling }) => {
                self.siblings += u64::from(is_sibling);
                if let Fate::Refused { reason, no_quorum: false } = &fate {
                    self.name(sent.number, reason);
                }
                self.settle(sent.number, sent.check, &sent.raw, fate);
            }
            Err(why) => self.stop_for(Stop::Fault(why)),
        }
        if let Some(bar) = &self.bar {
            bar.set_position(bar.position().max(sent.end));
        }
    }

    fn settle(&mut self, number: u64, check: u64, raw: &Bytes, fate: Fate) {
        if let (Some((path, file)), true) = (&mut self.failed, fate != Fate::Loaded)
            && let Err(error) = file.write_all(&[raw, &b"\n"[..]].concat())
        {
            // Unsettled: the next run takes the line again.
            let why = format!("{}: {error}", path.display());
            return self.stop_for(Stop::Fault(why));
        }
        self.ledger.settle(number, check, fate);
    }

    fn look_around(&mut self, interrupt: &Interrupt) {
        if interrupt.queried() {
            self.stop_for(Stop::Interrupted);
        }
        let counts = self.ledger.counts();
        if let Some(bar) = &self.bar {
            let refused = counts.all_refused() + counts.unknown;
            bar.set_message(format!("{} lines, {refused} refused", counts.loaded));
            bar.tick();
        }
        if let Some(path) = self.kept.as_ref().filter(|_| self.saved.elapsed() >= SAVE) {
            // The lines that the counts call failed must be on disk before the counts are.
            let synced = self.failed.as_ref().map_or(Ok(()), synced);
            let saved = synced.and_then(|()| counts.save(path));
            self.saved = Instant::now();
            if let Err(why) = saved {
                self.stop_for(Stop::Fault(why));
            }
        }
    }

    /// The first reason stays.
    fn stop_for(&mut self, stop: Stop) {
        if self.stop.is_none() {
            self.stop = Some(stop);
        }
    }

    /// Says what is wrong with a line, of the first ones.
    fn name(&mut self, number: u64, why: &str) {
        self.named += 1;
        if self.named <= MAX_NAMED {
            self.say(&format!("line {number}: {why}"));
        }
    }

    fn say(&self, message: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| complain(message)),
            None => complain(message),
        }
    }
}

/// Brings the file of failed lines to the disk; the error names it.
fn synced((path, file): &(PathBuf, File)) -> Result<(), String> {
    file.sync_all().map_err(|error| format!("{}: {error}", path.display()))
}
