//! A daemon hangs: it is there, holds its connections, and does nothing.

use super::course::Course;
use super::met::Allowed;
use super::{Ending, Plan, Say};

const NODES: usize = 5;

/// The error says why the drill could not go on.
pub(crate) async fn run(plan: &Plan, say: Say<'_>) -> Result<Ending, String> {
    let mut course = Course::prepare(plan, NODES, say)?;
    course.open().await?;
    let victim = course.victim();
    course.fault(&format!("{victim} is frozen (SIGSTOP)"))?;
    course.ground.cluster.freeze(&victim)?;
    course.stay().await;
    let since = course.heal(&format!("{victim} goes on (SIGCONT)"))?;
    course.ground.cluster.resume(&victim)?;
    course.recover(since, &victim).await?;
    course.calm().await;
    course.end(Allowed::Nothing).await
}
