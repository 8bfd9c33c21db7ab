//! One daemon's process, from its start to its end.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use super::POLL;

/// How much of a log is searched for its last line.
const LOG_TAIL_BYTES: u64 = 4_096;

/// How a daemon ended that was ordered to stop and did.
pub const STOPPED: &str = "ended: it stopped cleanly";

/// One daemon, running or not.
#[derive(Debug)]
pub struct Daemon {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub address: String,
    pub(super) config: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    pub(super) frozen: bool,
    /// What it runs, if that is not what the others run.
    pub(super) program: Option<PathBuf>,
    /// What it has in its environment beside what this process has.
    pub(super) environment: Vec<(String, String)>,
}

impl Daemon {
    /// A daemon that has not been started yet.
    pub(super) fn new(name: String, address: String, dir: &Path) -> Self {
        let config = dir.join(format!("{name}.toml"));
        let log = dir.join(format!("{name}.log"));
        let (child, frozen, program, environment) = (None, false, None, Vec::new());
        Daemon { name, address, config, log, child, frozen, program, environment }
    }

    /// Starts the process, of `program` unless it has one of its own; it runs until its standard
    /// input ends.
    pub(super) fn start(&mut self, program: &Path) -> Result<(), String> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.map_err(|error| format!("{}: {error}", self.log.display()))?;
        let second = log.try_clone().map_err(|error| format!("{}: {error}", self.log.display()))?;
        let program = self.program.as_deref().unwrap_or(program);
        let child = Command::new(program)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .arg("server")
            .arg("--config")
            .arg(&self.config)
            .arg("--follow-stdin")
            .stdin(Stdio::piped())
            .stdout(log)
            .stderr(second)
            // Ctrl-C goes to whole process groups; these are stopped by their parent, in order.
            .process_group(0)
            .spawn()
            .map_err(|error| format!("{}: {error}", program.display()))?;
        self.child = Some(child);
        self.frozen = false;
        Ok(())
    }

    /// Ends the process with SIGKILL, as `kill -9` does: it has no chance to save anything.
    pub(super) fn kill(&mut self) -> Result<(), String> {
        self.send_kill()?;
        self.reap()
    }

    /// Sends SIGKILL, and does not wait.
    pub(super) fn send_kill(&mut self) -> Result<(), String> {
        let child = self.child.as_mut().ok_or_else(|| format!("{} is not running", self.name))?;
        child.kill().map_err(|error| format!("{}: {error}", self.name))
    }

    /// Waits for the end of a process that was killed.
    pub(super) fn reap(&mut self) -> Result<(), String> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        child.wait().map(drop).map_err(|error| format!("{}: {error}", self.name))
    }

    /// The process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Whether it was started and has not been seen to end.
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Freezes the process or lets it go on. It may have had these signals from others, so each is
    /// sent whatever was sent before.
    pub(super) fn set_frozen(&mut self, frozen: bool) -> Result<(), String> {
        let child = self.child.as_ref().ok_or_else(|| format!("{} is not running", self.name))?;
        let signal = if frozen { Signal::STOP } else { Signal::CONT };
        kill_process(Pid::from_child(child), signal)
            .map_err(|error| format!("{}: {error}", self.name))?;
        self.frozen = frozen;
        Ok(())
    }

    /// Ends its standard input, which it follows.
    pub(super) fn hang_up(&mut self) {
        // A frozen one would not notice; one that has ended is found by whoever waits for it.
        let _ = self.set_frozen(false);
        if let Some(child) = &mut self.child {
            drop(child.stdin.take());
        }
    }

    /// Waits for a process that was ordered to end, until `deadline`; then it is killed.
    pub(super) fn wait(&mut self, deadline: Instant) -> Result<(), String> {
        while let Some(child) = &mut self.child {
            match child.try_wait() {
                Ok(Some(status)) => {
                    self.child = None;
                    if !status.success() {
                        return Err(format!("{} {}", self.name, self.reported(status)));
                    }
                }
                Ok(None) if Instant::now() < deadline => thread::sleep(POLL),
                _ => {
                    let _ = child.kill();
                    let _ = child.wait();
                    self.child = None;
                    return Err(format!("{} did not stop in time and was killed", self.name));
                }
            }
        }
        Ok(())
    }

    /// How the daemon ended, the first time that is seen: its exit code, if it has one, and in
    /// words.
    pub(super) fn end(&mut self) -> Option<(Option<i32>, String)> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        self.child = None;
        Some((status.code(), self.reported(status)))
    }

    fn reported(&self, status: ExitStatus) -> String {
        match (status.signal(), status.code(), last_line(&self.log)) {
            (Some(signal), _, _) => format!("ended: killed by signal {signal}"),
            (_, Some(0), _) => STOPPED.into(),
            (_, code, Some(line)) => {
                format!("ended with exit code {}: {line}", code.unwrap_or_default())
            }
            (_, code, None) => format!("ended with exit code {}", code.unwrap_or_default()),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself; either way nothing is left to do about it.
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The last line of a log, where a daemon says why it ended.
fn last_line(log: &Path) -> Option<String> {
    let mut file = File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES))).ok()?;
    let mut tail = Vec::new();
    file.take(LOG_TAIL_BYTES).read_to_end(&mut tail).ok()?;
    let tail = String::from_utf8_lossy(&tail);
    let line = tail.lines().rev().find(|line| !line.trim().is_empty())?;
    Some(line.trim().trim_start_matches("pixii: ").to_string())
}
