//! The wall clock of one daemon is a day ahead, and that of another one a day behind.

use std::fs;

use super::catalog::faketime;
use super::expectations::Allowed;
use super::scenario::Scenario;
use super::{Ending, Plan, Print};

const NODES: usize = 5;
/// How wrong the clocks are.
const SKEWS: [&str; 2] = ["+1d", "-1d"];
/// How long a day of a log line is: `2026-01-31`.
const DAY_CHARS: usize = 10;

/// The error says why the drill could not go on.
pub(crate) async fn run(plan: &Plan, print: Print<'_>) -> Result<Ending, String> {
    let library = faketime().ok_or("libfaketime is not installed")?.display().to_string();
    let mut scenario = Scenario::prepare(plan, NODES, print)?;
    scenario.open().await?;
    let names = scenario.testbed.names();
    for (name, skew) in names.iter().zip(SKEWS) {
        let with = [
            ("LD_PRELOAD", library.as_str()),
            ("FAKETIME", skew),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ];
        scenario.testbed.cluster.surround(name, &with)?;
        let since = scenario.fault(&format!("{name} is restarted, and its clock is {skew}"))?;
        restart(&mut scenario, name).await?;
        scenario.recovered(since, &format!("{name} serves"))?;
    }
    scenario.stay().await;
    let mut days: Vec<String> =
        names.iter().take(SKEWS.len() + 1).map(|n| day(&scenario, n)).collect();
    scenario.step(&format!("the logs are of {}", days.join(", ")))?;
    days.sort_unstable();
    days.dedup();
    if days.len() <= SKEWS.len() {
        scenario.complaints.push("a daemon did not have the clock that it was given".into());
    }
    for (name, _) in names.iter().zip(SKEWS) {
        scenario.testbed.cluster.surround(name, &[])?;
        let since = scenario.heal(&format!("{name} is restarted, and its clock is right"))?;
        restart(&mut scenario, name).await?;
        scenario.recovered(since, &format!("{name} serves"))?;
    }
    scenario.calm().await;
    scenario.end(Allowed::Nothing).await
}

async fn restart(scenario: &mut Scenario<'_>, name: &str) -> Result<(), String> {
    scenario.stop(name).await?;
    scenario.start(name).await
}

/// The day on which a daemon believes to have logged last.
fn day(scenario: &Scenario<'_>, name: &str) -> String {
    let log = fs::read_to_string(scenario.testbed.logs.join(format!("{name}.log")));
    let log = log.unwrap_or_default();
    log.lines().last().and_then(|line| line.get(..DAY_CHARS)).unwrap_or_default().to_owned()
}
