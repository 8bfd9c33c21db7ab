//! The wall clock of one daemon is a day ahead, and that of another one a day behind.

use std::fs;

use super::catalog::faketime;
use super::course::Course;
use super::met::Allowed;
use super::{Ending, Plan, Say};

const NODES: usize = 5;
/// How wrong the clocks are.
const SKEWS: [&str; 2] = ["+1d", "-1d"];
/// How long a day of a log line is: `2026-01-31`.
const DAY_CHARS: usize = 10;

/// The error says why the drill could not go on.
pub(crate) async fn run(plan: &Plan, say: Say<'_>) -> Result<Ending, String> {
    let library = faketime().ok_or("libfaketime is not installed")?.display().to_string();
    let mut course = Course::prepare(plan, NODES, say)?;
    course.open().await?;
    let names = course.ground.names();
    for (name, skew) in names.iter().zip(SKEWS) {
        let with = [
            ("LD_PRELOAD", library.as_str()),
            ("FAKETIME", skew),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ];
        course.ground.cluster.surround(name, &with)?;
        let since = course.fault(&format!("{name} is restarted, and its clock is {skew}"))?;
        restart(&mut course, name).await?;
        course.recovered(since, &format!("{name} serves"))?;
    }
    course.stay().await;
    let mut days: Vec<String> =
        names.iter().take(SKEWS.len() + 1).map(|n| day(&course, n)).collect();
    course.step(&format!("the logs are of {}", days.join(", ")))?;
    days.sort_unstable();
    days.dedup();
    if days.len() <= SKEWS.len() {
        course.complaints.push("a daemon did not have the clock that it was given".into());
    }
    for (name, _) in names.iter().zip(SKEWS) {
        course.ground.cluster.surround(name, &[])?;
        let since = course.heal(&format!("{name} is restarted, and its clock is right"))?;
        restart(&mut course, name).await?;
        course.recovered(since, &format!("{name} serves"))?;
    }
    course.calm().await;
    course.end(Allowed::Nothing).await
}

async fn restart(course: &mut Course<'_>, name: &str) -> Result<(), String> {
    course.stop(name).await?;
    course.start(name).await
}

/// The day on which a daemon believes to have logged last.
fn day(course: &Course<'_>, name: &str) -> String {
    let log = fs::read_to_string(course.ground.logs.join(format!("{name}.log")));
    let log = log.unwrap_or_default();
    log.lines().last().and_then(|line| line.get(..DAY_CHARS)).unwrap_or_default().to_owned()
}
