//! The disk of a daemon becomes slow: every write and every read takes long, as on a disk that is about to fail.

use pixii_core::message::EmulateOrder;

use super::course::Course;
use super::met::Allowed;
use super::{Ending, Plan, Say};

const NODES: usize = 5;
/// What each call takes more.
const DELAY: &str = "300ms";

/// The error says why the drill could not go on.
pub(crate) async fn run(plan: &Plan, say: Say<'_>) -> Result<Ending, String> {
    let mut course = Course::prepare(plan, NODES, say)?;
    course.ground.cluster.allow_emulation()?;
    course.open().await?;
    let victim = course.victim();
    course.fault(&format!("the disk of {victim} takes {DELAY} for every write and read"))?;
    let rule = format!("{victim} disk delay {DELAY}");
    course.emulate(&victim, EmulateOrder::Set(rule)).await?;
    course.stay().await;
    let since = course.heal(&format!("the disk of {victim} is quick again"))?;
    course.emulate(&victim, EmulateOrder::Clear).await?;
    course.recover(since, &victim).await?;
    course.calm().await;
    course.end(Allowed::Nothing).await
}
