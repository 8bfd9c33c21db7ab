//! The disk of a daemon becomes slow: every write and every read takes long, as on a disk that is
//! about to fail.

use pixii_core::message::EmulateOrder;

use super::expectations::Allowed;
use super::scenario::Scenario;
use super::{Ending, Plan, Print};

const NODES: usize = 5;
/// What each call takes more.
const DELAY: &str = "300ms";

/// The error says why the drill could not go on.
pub(crate) async fn run(plan: &Plan, print: Print<'_>) -> Result<Ending, String> {
    let mut scenario = Scenario::prepare(plan, NODES, print)?;
    scenario.testbed.cluster.allow_emulation()?;
    scenario.open().await?;
    let victim = scenario.victim();
    scenario.fault(&format!("the disk of {victim} takes {DELAY} for every write and read"))?;
    let rule = format!("{victim} disk delay {DELAY}");
    scenario.emulate(&victim, EmulateOrder::Set(rule)).await?;
    scenario.stay().await;
    let since = scenario.heal(&format!("the disk of {victim} is quick again"))?;
    scenario.emulate(&victim, EmulateOrder::Clear).await?;
    scenario.recover(since, &victim).await?;
    scenario.calm().await;
    scenario.end(Allowed::Nothing).await
}
