//! When all replicas of real daemons hold the same, by what the daemons tell of their comparisons.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use pixii_client::{Client, ClientError, Options};
use pixii_core::message::{Counter, RepairReport, StatusReport};
use pixii_core::types::{NodeId, Partition};
use tokio::time::sleep;

use super::POLL_INTERVAL;

/// It is given up after this time.
const TIMEOUT: Duration = Duration::from_secs(600);
/// What daemons count when they bring something to others, or others to them.
const MOVES: [Counter; 3] = [Counter::HintsDeleted, Counter::ObjectsPulled, Counter::ObjectsPushed];

/// Two owners of a partition.
type Pair = (Partition, NodeId, NodeId);

/// Waits until no hint is left, and every two owners of a partition have found each other equal
/// since anything was moved; how long that last move took to come.
pub(super) async fn converge(addresses: &[String]) -> Result<Duration, String> {
    let begun = Instant::now();
    let (mut moves, mut changed) = (Vec::new(), begun);
    while begun.elapsed() < TIMEOUT {
        sleep(POLL_INTERVAL).await;
        let now = Instant::now();
        // One that has just been started does not answer yet.
        let Ok(reported) = query(addresses).await else { continue };
        let counted: Vec<u64> = reported.iter().flat_map(|(status, _)| counts(status)).collect();
        if counted != moves {
            (moves, changed) = (counted, now);
        }
        let hints =
            reported.iter().flat_map(|(status, _)| &status.peers).any(|peer| peer.hints > 0);
        let unread = reported.iter().any(|(status, repair)| !status.serving || repair.unread > 0);
        // Nobody has counted what was moved before this look.
        let since = now.saturating_duration_since(changed);
        if !hints && !unread && equal_for(&reported).is_some_and(|oldest| oldest < since) {
            return Ok(changed - begun);
        }
    }
    Err(format!("replicas still differ after {} s", TIMEOUT.as_secs()))
}

async fn query(addresses: &[String]) -> Result<Vec<(StatusReport, RepairReport)>, ClientError> {
    let mut reported = Vec::new();
    for address in addresses {
        let client = Client::connect(std::slice::from_ref(address), Options::default()).await?;
        reported.push((client.status(None).await?, client.repair(None, false, None, None).await?));
    }
    Ok(reported)
}

fn counts(status: &StatusReport) -> impl Iterator<Item = u64> {
    MOVES.iter().map(|counter| status.count(*counter))
}

/// The longest time since two owners were last found equal; `None` if two never were.
fn equal_for(reported: &[(StatusReport, RepairReport)]) -> Option<Duration> {
    let mut pairs: BTreeMap<Pair, Option<u64>> = BTreeMap::new();
    for (status, repair) in reported {
        let me = NodeId::of(&status.name);
        for pair in &repair.pairs {
            let ends = (me.min(pair.peer), me.max(pair.peer));
            let known = pairs.entry((pair.partition, ends.0, ends.1)).or_default();
            *known = [*known, pair.equal_ms].into_iter().flatten().min();
        }
    }
    let oldest = pairs.into_values().try_fold(0, |oldest, equal_ms| Some(equal_ms?.max(oldest)));
    oldest.map(Duration::from_millis)
}
