//! Notifies the program which commit it was built from, where that is known.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=.git/HEAD");
    println!("cargo:rerun-if-changed=.git/refs/heads");
    let reported = Command::new("git").args(["rev-parse", "--short=10", "HEAD"]).output();
    if let Ok(reported) = reported
        && reported.status.success()
        && let Ok(commit) = String::from_utf8(reported.stdout)
    {
        println!("cargo:rustc-env=PIXII_COMMIT={}", commit.trim());
    }
}
