//! `pixii check` and `pixii migrate --check` change nothing on the disk of the node.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use pixii_core::store::{Process, Store, begin_incarnation};
use tempfile::TempDir;

use crate::{key, open, owner, put, record};

/// The commands that only read.
const READERS: [&[&str]; 2] = [&["check"], &["migrate", "--check"]];

/// A store as a kill leaves it, so that sled has something to recover.
fn killed() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for n in 0..20 {
        store.apply(&[put(0, &key(format!("{n}")), &record(n, &[500]))]).unwrap();
    }
    begin_incarnation(&store, &owner("n1"), Process(1)).unwrap();
    store.close().unwrap();
    let data = dir.path().join("sled");
    fs::write(data.join("snap.FFFFFFFFFFFFFFFF.generating"), "half").unwrap();
    // sled fills the rest of a segment when it opens one that was cut.
    let log = fs::OpenOptions::new().write(true).open(data.join("db")).unwrap();
    log.set_len(log.metadata().unwrap().len() - 1_000).unwrap();
    dir
}

/// Everything in a directory: owner, mode, times and content.
fn everything(dir: &Path) -> Vec<(PathBuf, [i64; 6], Vec<u8>)> {
    let (mut all, mut open) = (Vec::new(), vec![dir.to_path_buf()]);
    while let Some(path) = open.pop() {
        let about = fs::symlink_metadata(&path).unwrap();
        let numbers = [
            i64::from(about.uid()),
            i64::from(about.gid()),
            i64::from(about.mode()),
            about.mtime(),
            about.mtime_nsec(),
            about.ino() as i64,
        ];
        let content = match about.is_dir() {
            true => {
                open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
                Vec::new()
            }
            false => fs::read(&path).unwrap(),
        };
        all.push((path, numbers, content));
    }
    all.sort();
    all
}

fn pixii(arguments: &[&str], dir: &Path, scratch: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pixii"));
    command.args(arguments).arg(dir).env("TMPDIR", scratch).output().unwrap()
}

/// Runs a script as root of a mount name space of its own; `None` where that is not allowed.
fn with_mounts(script: &str) -> Option<Output> {
    let works = Command::new("unshare").args(["-rm", "true"]).output();
    if !works.is_ok_and(|output| output.status.success()) {
        println!("skipped: no mount name space can be made here");
        return None;
    }
    Some(Command::new("unshare").args(["-rm", "sh", "-ec", script]).output().unwrap())
}

#[test]
fn a_reader_leaves_owner_mode_times_and_content_of_every_file() {
    let (dir, scratch) = (killed(), tempfile::tempdir().unwrap());
    let before = everything(dir.path());
    for reader in READERS {
        let output = pixii(reader, dir.path(), scratch.path());
        println!("{output:?}");
        assert!(output.status.success(), "{output:?}");
        let after = everything(dir.path());
        let names = |all: &[(PathBuf, [i64; 6], Vec<u8>)]| -> Vec<PathBuf> {
            all.iter().map(|(path, _, _)| path.clone()).collect()
        };
        assert_eq!(names(&before), names(&after), "{reader:?}");
        for (old, new) in before.iter().zip(&after) {
            assert!(old == new, "{reader:?} has changed {}", old.0.display());
        }
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0, "the copy is removed");
    }
}

#[test]
fn a_reader_works_on_a_read_only_mount() {
    let (dir, scratch) = (killed(), tempfile::tempdir().unwrap());
    for reader in READERS {
        let script = format!(
            "mount --bind {0} {0}; mount -o remount,bind,ro {0}; ! touch {0}/x 2>/dev/null; \
             TMPDIR={1} {2} {3} {0}",
            dir.path().display(),
            scratch.path().display(),
            env!("CARGO_BIN_EXE_pixii"),
            reader.join(" ")
        );
        let Some(output) = with_mounts(&script) else { return };
        assert!(output.status.success(), "{output:?}");
    }
}

#[test]
fn a_place_without_room_for_the_copy_is_refused_and_named() {
    let (dir, scratch) = (killed(), tempfile::tempdir().unwrap());
    let script = format!(
        "mount -t tmpfs -o size=1m tmpfs {1}; {2} check --scratch {1} {0}",
        dir.path().display(),
        scratch.path().display(),
        env!("CARGO_BIN_EXE_pixii")
    );
    if let Some(output) = with_mounts(&script) {
        let stated = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stated}");
        assert!(stated.contains("bytes are needed there, and "), "{stated}");
        assert!(stated.contains("name another place with --scratch DIR"), "{stated}");
    }
    let none = scratch.path().join("none");
    let none = none.to_str().unwrap();
    let output = pixii(&["check", "--scratch", none], dir.path(), scratch.path());
    let stated = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && stated.contains(none), "{stated}");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let dir = killed();
    let torn = dir.path().join("sled/snap.0000000000000001");
    // A directory in its place fails for root, too.
    fs::create_dir(&torn).unwrap();
    let error = pixii::disk::DiskStore::open(dir.path(), crate::CACHE).unwrap_err();
    assert!(error.to_string().contains(torn.to_str().unwrap()), "{error}");
}

#[test]
fn an_interrupted_check_removes_its_copy() {
    let (dir, scratch) = (killed(), tempfile::tempdir().unwrap());
    // Long enough to be met while it is copied; on a quick disk it may be done before the signal.
    let long = fs::File::create(dir.path().join("sled/blobs/long")).unwrap();
    long.set_len(400 << 20).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pixii"));
    command.arg("check").arg(dir.path()).arg("--scratch").arg(scratch.path());
    let mut check = command.spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while fs::read_dir(scratch.path()).unwrap().count() == 0 {
        let ended = check.try_wait().unwrap();
        assert!(ended.is_some() || Instant::now() < deadline, "no copy is made");
        if ended.is_some() {
            break;
        }
        thread::sleep(Duration::from_millis(2));
    }
    let _ = Command::new("kill").args(["-TERM", &check.id().to_string()]).status();
    check.wait().unwrap();
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0, "the copy is removed");
}
