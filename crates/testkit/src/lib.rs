//! What the tests share: daemons in the test's own process, clusters of real daemons, and fake
//! nodes. Everything that a test starts ends with it, also when it fails.

#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod cluster;
pub mod daemon;
pub mod fake;

use std::path::PathBuf;
use std::process::Output;
use std::thread;
use std::time::{Duration, Instant};

use pixii_kit::cluster::free_addresses;

/// How long anything is waited for.
pub const DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);

/// Tries again until `attempt` gives something; panics with `what` after [`DEADLINE`].
pub fn until<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(got) = attempt() {
            return got;
        }
        assert!(Instant::now() < deadline, "{what}: not in {DEADLINE:?}");
        thread::sleep(POLL);
    }
}

/// An address on loopback, of the kernel's choice, that it gives to nobody else for a while.
pub fn free_address() -> String {
    free_addresses(1, None).unwrap().remove(0)
}

/// The port of a [`free_address`].
pub fn free_port() -> u16 {
    free_address().rsplit_once(':').unwrap().1.parse().unwrap()
}

/// The command `pixii` of this build.
pub fn pixii_path() -> PathBuf {
    program("pixii")
}

/// The command `pixii-lab` of this build.
pub fn pixii_lab_path() -> PathBuf {
    program("pixii-lab")
}

/// A test lies in a directory within that of the programs.
fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().unwrap().parent().unwrap().join(name);
    assert!(
        program.exists(),
        "there is no {}: `cargo build --workspace`, with the profile of this test, builds it",
        program.display()
    );
    program
}

/// Exit code (-1 if a signal ended it), standard output and standard error.
pub fn reported(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}
