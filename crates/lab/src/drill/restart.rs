//! Daemons are stopped and started on purpose: one that is away for a while, all one after the
//! other, and all for a newer program.

use std::path::Path;
use std::process::Command;

use super::expectations::Allowed;
use super::scenario::Scenario;
use super::{Ending, Plan, Print};

const NODES: usize = 5;

/// One daemon is stopped, and started after a while. The error says why the drill could not go on.
pub(crate) async fn one(plan: &Plan, print: Print<'_>) -> Result<Ending, String> {
    let mut scenario = Scenario::prepare(plan, NODES, print)?;
    scenario.open().await?;
    let victim = scenario.victim();
    scenario.fault(&format!("{victim} is ordered to stop"))?;
    scenario.stop(&victim).await?;
    scenario.step(&format!("{victim} has stopped"))?;
    scenario.stay().await;
    let since = scenario.heal(&format!("{victim} is started"))?;
    scenario.start(&victim).await?;
    scenario.recover(since, &victim).await?;
    scenario.calm().await;
    scenario.end(Allowed::Nothing).await
}

/// All are, one after the other. The error says why the drill could not go on.
pub(crate) async fn rolling(plan: &Plan, print: Print<'_>) -> Result<Ending, String> {
    let mut scenario = Scenario::prepare(plan, NODES, print)?;
    scenario.open().await?;
    outcomes(&mut scenario, "is restarted").await?;
    scenario.calm().await;
    scenario.end(Allowed::Nothing).await
}

/// All run the program `old` and are given the plan's, one after the other. The error says why the
/// drill could not go on.
pub(crate) async fn upgrade(plan: &Plan, old: &Path, print: Print<'_>) -> Result<Ending, String> {
    let (older, newer) = (version(old)?, version(&plan.program)?);
    let mut scenario = Scenario::prepare(plan, NODES, print)?;
    for name in scenario.testbed.names() {
        scenario.testbed.cluster.install(&name, old.to_path_buf())?;
    }
    scenario.open().await?;
    scenario.step(&format!("all run {older} ({})", old.display()))?;
    for name in scenario.testbed.names() {
        scenario.testbed.cluster.install(&name, plan.program.clone())?;
    }
    outcomes(&mut scenario, &format!("is replaced by {newer} ({})", plan.program.display()))
        .await?;
    scenario.figures.insert("old".into(), older.into());
    scenario.figures.insert("new".into(), newer.into());
    scenario.calm().await;
    scenario.end(Allowed::Nothing).await
}

async fn outcomes(scenario: &mut Scenario<'_>, what: &str) -> Result<(), String> {
    for name in scenario.testbed.names() {
        let since = scenario.fault(&format!("{name} {what}"))?;
        scenario.stop(&name).await?;
        scenario.start(&name).await?;
        scenario.recover(since, &name).await?;
    }
    Ok(())
}

/// What a program says of itself; one sentence if it is none of ours.
fn version(program: &Path) -> Result<String, String> {
    let fault = |why: String| format!("{} is no pixii that runs here: {why}", program.display());
    let reported = Command::new(program).arg("--version").output();
    let reported = reported.map_err(|error| fault(error.to_string()))?;
    let text = String::from_utf8_lossy(&reported.stdout);
    let text = text.trim();
    if !reported.status.success() || !text.starts_with("pixii ") {
        return Err(fault("it does not say its version".into()));
    }
    Ok(text.to_owned())
}
