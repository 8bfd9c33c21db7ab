//! The disks of all daemons become full under load, and then have room again.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

use super::disks::Disks;
use super::expectations::Allowed;
use super::scenario::Scenario;
use super::testbed::{Log, N};
use super::{Ending, Plan, Print};

/// Space that a daemon keeps free on its disk, in MiB.
const RESERVE_MIB: u64 = 8;
/// Space that the file that fills a disk leaves free, in MiB.
const LEFT_MIB: u64 = 4;

/// The error says why the drill could not go on.
pub(crate) async fn run(plan: &Plan, print: Print<'_>) -> Result<Ending, String> {
    // Declared before the daemons, so that it is dropped after them on every path.
    let disks = Disks::make(&plan.dir.join("disks"), N.into())?;
    let mut scenario = Scenario::prepare(plan, N.into(), print)?;
    scenario.testbed.cluster.configure(&format!("disk_reserve_mib = {RESERVE_MIB}"))?;
    let names = scenario.testbed.names();
    for (name, mount) in names.iter().zip(disks.mounts()) {
        let (data, link) = (mount.join("data"), scenario.testbed.logs.join(name));
        let made = fs::create_dir(&data).and_then(|()| symlink(&data, &link));
        made.map_err(|error| format!("{}: {error}", data.display()))?;
    }
    scenario.open().await?;
    scenario.fault(&format!("all disks are filled but for {LEFT_MIB} MiB"))?;
    let logs: Vec<Log> = names.iter().map(|name| scenario.testbed.log(name)).collect();
    let fillers: Vec<PathBuf> = disks.mounts().iter().map(|mount| mount.join("filler")).collect();
    for filler in &fillers {
        fill(filler).map_err(|error| format!("{}: {error}", filler.display()))?;
    }
    scenario.await_said(&logs, " refuses writes: its disk has").await?;
    scenario.step(&format!("all have less than {RESERVE_MIB} MiB free and refuse writes"))?;
    scenario.stay().await;
    scenario.await_failure().await?;
    let logs: Vec<Log> = names.iter().map(|name| scenario.testbed.log(name)).collect();
    let since = scenario.heal("there is room again, and nobody notifies the daemons")?;
    for filler in &fillers {
        fs::remove_file(filler).map_err(|error| format!("{}: {error}", filler.display()))?;
    }
    scenario.await_said(&logs, " takes writes again").await?;
    scenario.recovered(since, "all take writes")?;
    scenario.calm().await;
    scenario.end(Allowed::FailedPuts).await
}

/// Creates a file that takes nearly all of the free space.
fn fill(path: &Path) -> std::io::Result<()> {
    let file = File::create(path)?;
    let space = statvfs(path)?;
    let free = space.f_bavail * space.f_frsize;
    Ok(fallocate(&file, FallocateFlags::empty(), 0, free.saturating_sub(LEFT_MIB << 20))?)
}
