//! Drills: real daemons, real faults, and the ledger to say what was lost.

pub(crate) mod catalog;
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
pub(crate) mod kill;
pub(crate) mod page;
pub(crate) mod partition;
pub(crate) mod power_cut;
pub(crate) mod report;
pub(crate) mod restart;
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

/// Most findings that are reported one by one.
const MAX_REPORTED: usize = 20;

/// What every drill is reported.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The path of `pixii`.
    pub(crate) program: PathBuf,
    /// An empty directory, or one that an earlier drill left; the drill makes everything in it.
    pub(crate) dir: PathBuf,
    /// How many rounds.
    pub(crate) rounds: u64,
    /// How many keys.
    pub(crate) keys: u64,
    /// Victims, moments and load follow from it (as far as the machine's own timing lets them).
    pub(crate) seed: u64,
    /// How long clients work, in the drills that go by time.
    pub(crate) length: Duration,
    /// Where it is noted what happens.
    pub(crate) timeline: Timeline,
}

/// Where a drill reports what it does, a line at a time.
pub(crate) type Print<'a> = &'a mut dyn FnMut(&str) -> Result<(), String>;

/// How a drill went.
#[derive(Clone, Debug, Default)]
pub(crate) struct Score {
    /// Rounds that were finished.
    pub(crate) rounds: u64,
    /// Daemons ended with SIGKILL.
    pub(crate) kills: u64,
    /// Those that were killed between exec and ready.
    pub(crate) before_ready: u64,
    /// Starts that failed and went well when tried again.
    pub(crate) failed_starts: u64,
    /// Stores that would not open.
    pub(crate) shut: u64,
    /// The whole ledger.
    pub(crate) counts: Counts,
    /// Keys read by the verifications, all together.
    pub(crate) verified: u64,
    /// Keys that could not be read.
    pub(crate) unread: u64,
    /// Acknowledged writes that were lost.
    pub(crate) lost: u64,
    /// All faults, lost writes included.
    pub(crate) faults: u64,
    /// The first of them.
    pub(crate) findings: Vec<Finding>,
    /// Values that the last verification of all keys found beside what replaced them: their writes
    /// had been sent to two nodes.
    pub(crate) repeated: u64,
    /// What else went wrong, a sentence each.
    pub(crate) notes: Vec<String>,
}

/// How any drill went, as it is reported.
#[derive(Clone, Debug)]
pub(crate) struct Ending {
    /// The last lines: how it went.
    pub(crate) summary: String,
    /// What was not as it should be, a sentence each; none: the drill was passed.
    pub(crate) complaints: Vec<String>,
    /// All that was measured and counted.
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
    /// True when nothing acknowledged was lost, nothing wrong was shown and every store opens.
    pub(crate) fn is_clean(&self) -> bool {
        self.faults == 0 && self.shut == 0 && self.unread == 0 && self.notes.is_empty()
    }

    /// The line that says it all.
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

    /// Every fault that is to be reported, a line each.
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
