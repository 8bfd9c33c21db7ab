//! Two of five daemons are cut off from the other three, by the emulated network; clients reach
//! both sides.

use pixii_core::message::EmulateOrder;

use super::expectations::Allowed;
use super::scenario::Scenario;
use super::{Ending, Plan, Print};

const NODES: usize = 5;
const MINORITY: usize = 2;

/// The error says why the drill could not go on.
pub(crate) async fn run(plan: &Plan, print: Print<'_>) -> Result<Ending, String> {
    let mut scenario = Scenario::prepare(plan, NODES, print)?;
    scenario.testbed.cluster.allow_emulation()?;
    scenario.open().await?;
    let names = scenario.testbed.names();
    let first = scenario.testbed.rng.below(NODES as u64) as usize;
    let (mut few, mut many) = (Vec::new(), Vec::new());
    for (at, name) in names.iter().enumerate() {
        let side = if (at + NODES - first) % NODES < MINORITY { &mut few } else { &mut many };
        side.push(name.clone());
    }
    let pairs = few.iter().flat_map(|one| many.iter().map(move |other| (one, other)));
    let rules: Vec<String> = pairs.map(|(one, other)| format!("{one} <-> {other} cut")).collect();
    let rules = rules.join("; ");
    scenario.fault(&format!("{} are cut off from {}", few.join(", "), many.join(", ")))?;
    for name in &names {
        scenario.emulate(name, EmulateOrder::Set(rules.clone())).await?;
    }
    scenario.stay().await;
    let since = scenario.heal("the cut is healed")?;
    for name in &names {
        scenario.emulate(name, EmulateOrder::Clear).await?;
    }
    scenario.recover(since, "").await?;
    scenario.calm().await;
    scenario.end(Allowed::Failures).await
}
