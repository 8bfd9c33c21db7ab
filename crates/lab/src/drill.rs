//! Drills: real daemons, real faults, and the ledger that shows whether anything was lost.

pub(crate) mod catalog;
mod changes;
pub(crate) mod clock_skew;
pub(crate) mod deletes;
pub(crate) mod detection;
pub(crate) mod disk_full;
pub(crate) mod disk_loss;
mod disks;
pub(crate) mod dropped_messages;
mod expectations;
pub(crate) mod failed_nodes;
pub(crate) mod failover;
pub(crate) mod freeze;
pub(crate) mod handoff;
pub(crate) mod join;
pub(crate) mod join_under_kill;
pub(crate) mod kill;
pub(crate) mod leave;
pub(crate) mod page;
pub(crate) mod partition;
pub(crate) mod power_cut;
pub(crate) mod report;
pub(crate) mod restart;
pub(crate) mod scale;
mod scenario;
pub(crate) mod slow_disk;
pub(crate) mod testbed;
pub(crate) mod timeline;
pub(crate) mod units;
mod unsynced;

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use self::timeline::Timeline;
use super::ledger::{Counts, Finding, Verdict, Violation};

/// Maximum number of findings that are reported one by one.
const MAX_REPORTED: usize = 20;

/// The parameters that every drill is given.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The path of the program `pixii` that the daemons run.
    pub(crate) program: PathBuf,
    /// An empty directory, or the one of an earlier drill; the drill creates everything in it.
    pub(crate) dir: PathBuf,
    /// Number of rounds, in the drills that repeat their fault; the others ignore it.
    pub(crate) rounds: u64,
    /// Number of keys that the drill reads and writes.
    pub(crate) keys: u64,
    /// Seed of the choice of victims, of moments and of the load, as far as the timing of the
    /// machine allows.
    pub(crate) seed: u64,
    /// How long clients work, in the drills that have a fixed length.
    pub(crate) length: Duration,
    /// Records the events of the drill.
    pub(crate) timeline: Timeline,
}

/// Prints the progress of a drill, a line at a time.
pub(crate) type Print<'a> = &'a mut dyn FnMut(&str) -> Result<(), String>;

/// The result of a drill that counts rounds and kills.
#[derive(Clone, Debug, Default)]
pub(crate) struct Score {
    /// Number of rounds that were finished.
    pub(crate) rounds: u64,
    /// Number of daemons ended with SIGKILL.
    pub(crate) kills: u64,
    /// Number of these that were killed between exec and ready.
    pub(crate) before_ready: u64,
    /// Number of starts that failed and succeeded when repeated.
    pub(crate) failed_starts: u64,
    /// Number of stores that would not open.
    pub(crate) shut: u64,
    /// The writes of the whole ledger by outcome, as of the last verification.
    pub(crate) counts: Counts,
    /// Number of keys that all verifications together have read.
    pub(crate) verified: u64,
    /// Number of keys that could not be read.
    pub(crate) unread: u64,
    /// Number of acknowledged writes that were lost.
    pub(crate) lost: u64,
    /// Number of all faults, lost writes included.
    pub(crate) faults: u64,
    /// The first faults, one by one; at most [`MAX_REPORTED`].
    pub(crate) findings: Vec<Finding>,
    /// Values that the last verification found beside the ones that replaced them: their writes had
    /// been sent to two nodes.
    pub(crate) repeated: u64,
    /// Other problems, one sentence each.
    pub(crate) notes: Vec<String>,
}

/// The result of any drill, as it is reported.
#[derive(Clone, Debug)]
pub(crate) struct Ending {
    /// The last lines of the report: the result in short.
    pub(crate) summary: String,
    /// The broken promises, one sentence each; empty if the drill was passed.
    pub(crate) complaints: Vec<String>,
    /// All measurements and counts, as JSON.
    pub(crate) figures: Value,
}

impl From<Score> for Ending {
    fn from(score: Score) -> Self {
        let Score { counts, .. } = score;
        let figures = json!({
            "rounds": score.rounds,
            "kills": score.kills,
            "before_ready": score.before_ready,
            "failed_starts": score.failed_starts,
            "issued": counts.issued,
            "acknowledged": counts.acknowledged,
            "refused": counts.refused,
            "unknown": counts.unknown,
            "keys_verified": score.verified,
            "lost": score.lost,
            "faults": score.faults,
            "stores_shut": score.shut,
        });
        let summary = format!(
            "{} writes issued, {} refused, {} unknown; {} reads of keys judged; {} starts failed \
             and went \
             well when tried again\n{}",
            counts.issued,
            counts.refused,
            counts.unknown,
            score.verified,
            score.failed_starts,
            score.summary()
        );
        let complaints = if score.is_clean() { Vec::new() } else { score.complaints() };
        Ending { summary, complaints, figures }
    }
}

impl Score {
    /// True if no promise was broken: no fault was found, every key could be read and every store
    /// opens.
    pub(crate) fn is_clean(&self) -> bool {
        self.faults == 0 && self.shut == 0 && self.unread == 0 && self.notes.is_empty()
    }

    /// The result in one line.
    pub(crate) fn summary(&self) -> String {
        format!(
            "{} rounds, {} kills ({} before ready), {} writes acknowledged, {} lost, {} stores \
             shut",
            self.rounds,
            self.kills,
            self.before_ready,
            self.counts.acknowledged,
            self.lost,
            self.shut
        )
    }

    /// The faults to report, one line each.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let mut lines: Vec<String> =
            self.findings.iter().take(MAX_REPORTED).map(sentence).collect();
        if self.faults as usize > lines.len() {
            lines.push(format!("and {} faults more", self.faults as usize - lines.len()));
        }
        if self.unread > 0 {
            lines.push(format!("{} keys could not be read", self.unread));
        }
        lines.extend(self.notes.iter().cloned());
        lines
    }

    fn add(&mut self, verdict: Verdict) {
        self.counts = verdict.counts;
        self.verified += verdict.keys;
        self.unread += verdict.unread;
        self.lost += verdict.lost;
        self.faults += verdict.faults;
        self.repeated = verdict.repeated;
        self.findings.extend(verdict.findings);
        self.findings.truncate(MAX_REPORTED);
        if let Some(why) = verdict.why_unread {
            self.notes.push(format!("a key could not be read: {why}"));
        }
    }
}

fn sentence(finding: &Finding) -> String {
    let what = match finding.fault {
        Violation::Lost => "lost",
        Violation::Resurrected => "shown again though it was replaced",
        Violation::Repeated => "shown again, and it had been sent to two nodes",
        Violation::Refused => "shown though it was refused",
        Violation::Foreign => "shown, and not what was written there",
    };
    let write =
        finding.write.map_or_else(|| "a value without an id".into(), |id| format!("{id:?}"));
    let (issued, settled) = finding.at_ms;
    format!("{what}: {:?} {write}, issued at {issued} ms, answered at {settled} ms", finding.key)
}
