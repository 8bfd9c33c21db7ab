//! A daemon hangs: it is there, holds its connections, and does nothing.

use super::expectations::Allowed;
use super::scenario::Scenario;
use super::{Ending, Plan, Print};

const NODES: usize = 5;

/// The error says why the drill could not go on.
pub(crate) async fn run(plan: &Plan, print: Print<'_>) -> Result<Ending, String> {
    let mut scenario = Scenario::prepare(plan, NODES, print)?;
    scenario.open().await?;
    let victim = scenario.victim();
    scenario.fault(&format!("{victim} is frozen (SIGSTOP)"))?;
    scenario.testbed.cluster.freeze(&victim)?;
    scenario.stay().await;
    let since = scenario.heal(&format!("{victim} goes on (SIGCONT)"))?;
    scenario.testbed.cluster.resume(&victim)?;
    scenario.recover(since, &victim).await?;
    scenario.calm().await;
    scenario.end(Allowed::Nothing).await
}
