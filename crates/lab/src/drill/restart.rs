//! Daemons are stopped and started on purpose: one that is away for a while, all one after the other, and all for a newer
//! program.

use std::path::Path;
use std::process::Command;

use super::course::Course;
use super::met::Allowed;
use super::{Ending, Plan, Say};

const NODES: usize = 5;

/// One daemon is stopped, and started after a while. The error says why the drill could not go on.
pub(crate) async fn one(plan: &Plan, say: Say<'_>) -> Result<Ending, String> {
    let mut course = Course::prepare(plan, NODES, say)?;
    course.open().await?;
    let victim = course.victim();
    course.fault(&format!("{victim} is told to stop"))?;
    course.stop(&victim).await?;
    course.step(&format!("{victim} has stopped"))?;
    course.stay().await;
    let since = course.heal(&format!("{victim} is started"))?;
    course.start(&victim).await?;
    course.recover(since, &victim).await?;
    course.calm().await;
    course.end(Allowed::Nothing).await
}

/// All are, one after the other. The error says why the drill could not go on.
pub(crate) async fn rolling(plan: &Plan, say: Say<'_>) -> Result<Ending, String> {
    let mut course = Course::prepare(plan, NODES, say)?;
    course.open().await?;
    outcomes(&mut course, "is restarted").await?;
    course.calm().await;
    course.end(Allowed::Nothing).await
}

/// All run the program `old` and are given the plan's, one after the other. The error says why the drill could not go on.
pub(crate) async fn upgrade(plan: &Plan, old: &Path, say: Say<'_>) -> Result<Ending, String> {
    let (older, newer) = (version(old)?, version(&plan.program)?);
    let mut course = Course::prepare(plan, NODES, say)?;
    for name in course.ground.names() {
        course.ground.cluster.install(&name, old.to_path_buf())?;
    }
    course.open().await?;
    course.step(&format!("all run {older} ({})", old.display()))?;
    for name in course.ground.names() {
        course.ground.cluster.install(&name, plan.program.clone())?;
    }
    outcomes(&mut course, &format!("is replaced by {newer} ({})", plan.program.display())).await?;
    course.figures.insert("old".into(), older.into());
    course.figures.insert("new".into(), newer.into());
    course.calm().await;
    course.end(Allowed::Nothing).await
}

async fn outcomes(course: &mut Course<'_>, what: &str) -> Result<(), String> {
    for name in course.ground.names() {
        let since = course.fault(&format!("{name} {what}"))?;
        course.stop(&name).await?;
        course.start(&name).await?;
        course.recover(since, &name).await?;
    }
    Ok(())
}

/// What a program says of itself; one sentence if it is none of ours.
fn version(program: &Path) -> Result<String, String> {
    let fault = |why: String| format!("{} is no pixii that runs here: {why}", program.display());
    let told = Command::new(program).arg("--version").output();
    let told = told.map_err(|error| fault(error.to_string()))?;
    let text = String::from_utf8_lossy(&told.stdout);
    let text = text.trim();
    if !told.status.success() || !text.starts_with("pixii ") {
        return Err(fault("it does not say its version".into()));
    }
    Ok(text.to_owned())
}
