//! A member leaves while clients read and write: it gives its places to the others, and ends.

use std::time::Duration;

use pixii_core::message::Staged;

use super::expectations::Allowed;
use super::scenario::Scenario;
use super::{Ending, Plan, Print};

const NODES: usize = 5;
/// Maximum time for a change to come to its end.
const WAIT: Duration = Duration::from_secs(120);

/// One member leaves. The error says why the drill could not go on.
pub(crate) async fn run(plan: &Plan, print: Print<'_>) -> Result<Ending, String> {
    let mut scenario = Scenario::prepare(plan, NODES, print)?;
    scenario.open().await?;
    let victim = scenario.victim();
    let mut others = scenario.testbed.names();
    others.retain(|name| *name != victim);
    let version = scenario.testbed.ring.version();
    let since = scenario.fault(&format!("{victim} is to leave"))?;
    let staged = [Staged::Leave { name: victim.clone() }];
    scenario.testbed.begin_change(&others[0], &staged).await?;
    scenario.testbed.await_settled(&others, version, WAIT).await?;
    scenario.step("every place has its new owner")?;
    scenario.testbed.await_left(&victim).await?;
    scenario.recover(since, "").await?;
    scenario.calm().await;
    scenario.end(Allowed::Nothing).await
}
