//! Disks whose power can be cut: file systems on loop devices, one for each daemon.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The script that makes, cuts, restores and removes them; it is carried along, so that an
/// installed program needs no source tree.
const SCRIPT: &str = include_str!("powercut");
/// Size of a disk in MiB; the file under it is sparse.
const DISK_MIB: &str = "1024";

/// Some disks. Dropping it unmounts and removes them.
#[derive(Debug)]
pub(super) struct Disks {
    script: PathBuf,
    dirs: Vec<PathBuf>,
}

impl Disks {
    /// Makes `count` disks under `dir`, on a machine that has what [`Need::LoopDevices`] asks for.
    ///
    /// [`Need::LoopDevices`]: super::catalog::Need
    pub(super) fn make(dir: &Path, count: usize) -> Result<Self, String> {
        let fault = |error: std::io::Error| format!("{}: {error}", dir.display());
        fs::create_dir_all(dir).map_err(fault)?;
        let script = dir.join("powercut");
        fs::write(&script, SCRIPT).map_err(fault)?;
        let mut disks = Disks { script, dirs: Vec::new() };
        for number in 1..=count {
            let dir = dir.join(format!("disk{number}"));
            // Noted first, so that half a disk is removed, too.
            disks.dirs.push(dir.clone());
            disks.wait("make", &dir, disks.begin("make", &dir, Some(DISK_MIB)))?;
        }
        Ok(disks)
    }

    /// The mount points.
    pub(super) fn mounts(&self) -> Vec<PathBuf> {
        self.dirs.iter().map(|dir| dir.join("disk")).collect()
    }

    /// Cuts the power of all at once: what was not synced is gone, and every further call fails.
    pub(super) fn cut(&self) -> Result<(), String> {
        self.all("cut")
    }

    /// Gives all of them power again. Nothing may have a file open there.
    pub(super) fn restore(&self) -> Result<(), String> {
        self.all("restore")
    }

    fn all(&self, verb: &str) -> Result<(), String> {
        let begun: Vec<_> = self.dirs.iter().map(|dir| self.begin(verb, dir, None)).collect();
        let ended = self.dirs.iter().zip(begun).map(|(dir, child)| self.wait(verb, dir, child));
        ended.fold(Ok(()), Result::and)
    }

    fn begin(&self, verb: &str, dir: &Path, size: Option<&str>) -> std::io::Result<Child> {
        Command::new("bash")
            .arg(&self.script)
            .arg(verb)
            .arg(dir)
            .args(size)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
    }

    fn wait(&self, verb: &str, dir: &Path, child: std::io::Result<Child>) -> Result<(), String> {
        let fault = |why: &str| format!("powercut {verb} {}: {why}", dir.display());
        let ended = child.and_then(Child::wait_with_output);
        let ended = ended.map_err(|error| fault(&error.to_string()))?;
        if ended.status.success() {
            return Ok(());
        }
        let stated = String::from_utf8_lossy(&ended.stderr);
        Err(fault(stated.lines().last().unwrap_or("it failed without a word")))
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        // Whatever is left of one disk must not keep the others.
        for dir in &self.dirs {
            let _ = self.wait("remove", dir, self.begin("remove", dir, None));
        }
    }
}
