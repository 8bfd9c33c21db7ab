//! The list of drills: what each verifies and what it requires of the machine.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A drill as it is listed. The module of its name carries it out.
#[derive(Debug)]
pub(crate) struct Drill {
    /// Its name on the command line.
    pub(crate) name: &'static str,
    /// What is verified when the drill is passed.
    pub(crate) proves: &'static str,
    /// From when until when its time to recover is measured.
    pub(crate) recovery: &'static str,
    /// What it requires of the machine; empty if nothing.
    pub(crate) needs: &'static [Need],
}

/// A requirement that a machine may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// The right to make file systems on loop devices, and the tools for it.
    LoopDevices,
    /// The library libfaketime, which shows a process another time.
    Faketime,
    /// An older program `pixii`, given on the command line.
    OlderProgram,
}

const NONE: &[Need] = &[];

/// All drills, in the order of the list.
pub(crate) static DRILLS: [Drill; 21] = [
    Drill {
        name: "kill",
        proves: "kill -9 of one daemon or all, at any moment, often before it is ready, loses \
            nothing acknowledged",
        recovery: "from the start of the killed until all of them serve",
        needs: NONE,
    },
    Drill {
        name: "power-cut",
        proves: "the power of all disks cut at once under load loses nothing acknowledged",
        recovery: "from the start on disks that have power again until all serve",
        needs: &[Need::LoopDevices],
    },
    Drill {
        name: "restart",
        proves: "a daemon that is stopped and started later is missed by nobody",
        recovery: "from its start until it serves, is linked with all, and nobody keeps a hint \
            for it",
        needs: NONE,
    },
    Drill {
        name: "rolling-restart",
        proves: "all daemons restarted one after the other: no request is refused, no outcome is \
            unknown",
        recovery: "of each daemon, from its stop until it serves, is linked with all, and nobody \
            keeps a hint for it",
        needs: NONE,
    },
    Drill {
        name: "freeze",
        proves: "clients are served while a daemon hangs, and it has what it missed when it goes \
            on",
        recovery: "from the moment it goes on until it is linked with all and nobody keeps a hint \
            for it",
        needs: NONE,
    },
    Drill {
        name: "slow-disk",
        proves: "clients are served while the disk of a daemon takes 300 ms for everything",
        recovery: "from the moment the disk is quick again until nobody keeps a hint for its \
            daemon",
        needs: NONE,
    },
    Drill {
        name: "disk-loss",
        proves: "a daemon that loses its disk under load is filled again by itself; \"absent\" is \
            never said",
        recovery: "from its start with an empty disk until it has been found equal to every other \
            owner",
        needs: NONE,
    },
    Drill {
        name: "disk-full",
        proves: "on full disks writes are refused by name and reads are served; writes go on when \
            there is room",
        recovery: "from the moment there is room until every daemon takes writes",
        needs: &[Need::LoopDevices],
    },
    Drill {
        name: "partition",
        proves: "both sides of a cut take writes, and everything is at all owners after it is \
            healed",
        recovery: "from the end of the cut until all are linked and nobody keeps a hint",
        needs: NONE,
    },
    Drill {
        name: "clock-skew",
        proves: "wall clocks decide nothing: daemons a day ahead and a day behind change no \
            outcome",
        recovery: "of each daemon, from its restart under a wrong or right clock until it serves \
            and is linked with all",
        needs: &[Need::Faketime],
    },
    Drill {
        name: "upgrade",
        proves: "daemons of an older program are replaced one by one: no request is refused, no \
            read fails",
        recovery: "of each daemon, from the stop of the old until the new one serves, is linked \
            with all, and nobody \
                   keeps a hint for it",
        needs: &[Need::OlderProgram],
    },
    Drill {
        name: "join",
        proves: "a daemon that joins is brought what it owns and little else; a lost disk is \
            filled again as fast",
        recovery: "from the order until every member uses the new ring",
        needs: NONE,
    },
    Drill {
        name: "leave",
        proves: "a member that leaves under load gives its places away: nobody is refused",
        recovery: "from the order until it has ended, all are linked and nobody keeps a hint",
        needs: NONE,
    },
    Drill {
        name: "join-under-kill",
        proves: "members join and leave while daemons are killed, or are turned back: every \
            change ends, and nothing is lost",
        recovery: "none is measured: of each change, until every member uses the same settled ring",
        needs: NONE,
    },
    Drill {
        name: "scale",
        proves: "3, 5, 8, 4 and 3 members under an open loop: nobody is refused, nothing is lost",
        recovery: "none is measured: p99 while the members change beside that of a calm period",
        needs: NONE,
    },
    Drill {
        name: "failed-nodes",
        proves: "two of five dead: every value is read, \"absent\" is never said, sloppy puts \
            succeed",
        recovery: "from the start of the dead until all serve and no hint is left",
        needs: NONE,
    },
    Drill {
        name: "failover",
        proves: "one of five killed or frozen under load: nobody is refused, p99 at most doubles",
        recovery: "from its start, or the moment it goes on, until no hint is left",
        needs: NONE,
    },
    Drill {
        name: "handoff",
        proves: "100,000 puts while one is away: its hints begin in 1 s and are there in 30 s",
        recovery: "from its first link until all hints are there",
        needs: NONE,
    },
    Drill {
        name: "dropped-messages",
        proves: "100,000 puts while messages are lost and no hints are kept: all replicas become \
            the same",
        recovery: "from the last lost message until all replicas were found equal",
        needs: NONE,
    },
    Drill {
        name: "deletes",
        proves: "10,000 keys deleted while a daemon is away: none comes back, no tombstone stays",
        recovery: "from the return or the replacement of the daemon until no node reports a \
            deleted key",
        needs: NONE,
    },
    Drill {
        name: "detection",
        proves: "a dead, frozen or cut-off daemon is down in every view",
        recovery: "of each, from the end of the fault until everybody believes it to be up",
        needs: NONE,
    },
];

/// The drill with this name.
pub(crate) fn drill(name: &str) -> Option<&'static Drill> {
    DRILLS.iter().find(|drill| drill.name == name)
}

impl Drill {
    /// Its requirements as text.
    pub(crate) fn needed(&self) -> String {
        let needs: Vec<&str> = self.needs.iter().map(|need| need.reported()).collect();
        if needs.is_empty() { "nothing".into() } else { needs.join(", ") }
    }

    /// Checks that this machine meets the requirements; the error is one sentence.
    pub(crate) fn check(&self) -> Result<(), String> {
        let missing = self.needs.iter().find_map(|need| need.missing());
        missing.map_or(Ok(()), |why| Err(format!("the drill {} needs {why}", self.name)))
    }
}

impl Need {
    fn reported(self) -> &'static str {
        match self {
            Need::LoopDevices => "root, e2fsprogs, xfsprogs",
            Need::Faketime => "faketime",
            Need::OlderProgram => "--old PATH",
        }
    }

    /// What is missing on this machine, and how to get it; `None` if nothing is missing.
    fn missing(self) -> Option<String> {
        match self {
            Need::LoopDevices => missing_for_disks(),
            Need::Faketime => faketime()
                .is_none()
                .then(|| "libfaketime, which is not installed: install faketime".to_string()),
            // The command line requires it.
            Need::OlderProgram => None,
        }
    }
}

fn missing_for_disks() -> Option<String> {
    if !fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0) {
        return Some("file systems on loop devices: run it as root".into());
    }
    let lacks = |tool: &&(&str, &str)| {
        let mut command = Command::new(tool.0);
        let quiet = command.arg("-V").stdout(Stdio::null()).stderr(Stdio::null());
        !quiet.status().is_ok_and(|status| status.success())
    };
    let tools = [("mkfs.ext4", "e2fsprogs"), ("xfs_io", "xfsprogs")];
    let (tool, package) = tools.iter().find(lacks)?;
    Some(format!("{tool}, which is not installed: install {package}"))
}

/// The path of libfaketime; `None` if it is not installed.
pub(super) fn faketime() -> Option<PathBuf> {
    let mut roots = vec![PathBuf::from("/usr/lib"), PathBuf::from("/usr/local/lib")];
    let multiarch = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    roots.extend(multiarch.map(|entry| entry.path()));
    let below = |root: PathBuf| root.join("faketime/libfaketimeMT.so.1");
    roots.into_iter().map(below).find(|path| path.exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_drill_has_a_name_of_its_own_and_says_what_it_proves() {
        for (at, one) in DRILLS.iter().enumerate() {
            assert!(DRILLS[..at].iter().all(|other| other.name != one.name), "{}", one.name);
            assert!(drill(one.name).is_some_and(|found| std::ptr::eq(found, &DRILLS[at])));
            for text in [one.proves, one.recovery] {
                assert!(text.len() > 20 && !text.ends_with('.') && !text.contains("  "), "{text}");
            }
        }
    }
}
