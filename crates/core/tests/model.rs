//! Exhaustive models: every state that a small cluster can reach, breadth first, over the functions
//! that the daemon runs. `docs/internals/model.md` says what they cover and what they do not.
//!
//!     cargo test --release -p pixii-core --test model -- --nocapture
//!     cargo test --release -p pixii-core --test model -- --nocapture --ignored    larger ones

#![allow(clippy::unwrap_used)]

#[path = "model/change.rs"]
mod change;
#[path = "model/search.rs"]
mod search;

use change::{Cluster, Limits};
use search::{Found, search};

/// Searches all of it and prints how many states there are; the way to a state that breaks a
/// promise ends the test.
fn explore(name: &str, cluster: &Cluster) {
    let Found { states, depth, broken } = search(cluster);
    println!("{name}: {states} states, at most {depth} steps deep");
    if let Some((why, way)) = broken {
        panic!("{why}, after\n  {}", way.join("\n  "));
    }
    assert!(states > 1_000, "the model does something");
}

const NONE: Limits = Limits { writes: 1, messages: 1, crashes: 0, lost_disks: 0, cancels: false };

#[test]
fn the_change_of_a_ring_holds_every_write_in_every_state() {
    for (w, r) in [(2, 1), (1, 2)] {
        for limits in [
            Limits { crashes: 1, ..NONE },
            Limits { cancels: true, ..NONE },
            Limits { messages: 2, ..NONE },
        ] {
            explore(&format!("W={w}, R={r}, {limits:?}"), &Cluster::new(w, r, limits));
        }
    }
    // What is erased matters when another disk is lost behind it.
    let limits = Limits { lost_disks: 1, ..NONE };
    explore(&format!("W=1, R=2, {limits:?}"), &Cluster::new(1, 2, limits));
}

#[test]
#[ignore = "takes some minutes and gigabytes: run by hand"]
fn the_change_of_a_ring_in_a_larger_model() {
    for (w, r) in [(2, 1), (1, 2)] {
        for limits in [
            Limits { crashes: 1, cancels: true, ..NONE },
            Limits { messages: 2, cancels: true, ..NONE },
            Limits { writes: 2, ..NONE },
        ] {
            explore(&format!("W={w}, R={r}, {limits:?}"), &Cluster::new(w, r, limits));
        }
    }
}
