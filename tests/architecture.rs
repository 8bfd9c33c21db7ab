//! Holds the source tree to what ARCHITECTURE.md says and the compiler cannot: imports point down
//! within each crate, roles of the machine leave each other alone, the core has no clock, and lines
//! of the log that others can cause are limited. Borders between crates are the compiler's.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

/// A crate's source folder and its floors of modules, from the ground up.
type Floors = (&'static str, &'static [&'static [&'static str]]);

const CRATES: [Floors; 6] = [
    (
        "crates/core/src",
        &[
            &["time"],
            &["types", "rng"],
            &["causal", "gc_epoch", "ring", "members", "merkle", "quorum", "secret"],
            &["wire"],
            &["message", "store"],
            &["emulation", "node"],
        ],
    ),
    (
        "crates/transport/src",
        &[&["pace", "secret_file", "socket", "throttle"], &["inflow"], &["frames"], &["handshake"]],
    ),
    ("crates/client/src", &[&["link"], &["attempts"], &["requests"], &["scan"]]),
    ("crates/kit/src", &[&["text"], &["outcome"], &["arguments", "cluster", "removal", "signals"]]),
    (
        "src",
        &[
            &["table"],
            &["http", "disk", "config"],
            &["net", "metrics"],
            &["engine", "reference"],
            &["cli"],
            &["main"],
        ],
    ),
    (
        "crates/lab/src",
        &[
            &["daemon", "mean", "plot"],
            &["ledger", "pbs"],
            &["workload"],
            &["bench", "drill", "experiment"],
            &["commands"],
            &["main", "tests"],
        ],
    ),
];

/// What the core may not name: it has no clock, no thread, no socket and no file.
const DRIVERS_ONLY: [&str; 4] = ["std::fs", "std::net", "std::time", "std::thread"];

/// Where a reader or a script is shown which Rust is needed.
const NAME_THE_RUST: [&str; 4] =
    ["README.md", "CONTRIBUTING.md", "docs/operating/install.md", ".ci/run"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.push(path);
        }
    }
}

/// A file's code without its comments.
fn code_of(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap();
    text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// Every module of this crate that `code`, which is in `module`, names behind `crate::`, or behind
/// as many `super::` as lead to the crate's root from a depth of `depth` modules.
fn named_modules(code: &str, depth: usize) -> Vec<String> {
    let up = "super::".repeat(depth);
    let mut names = Vec::new();
    for prefix in ["crate::", &up] {
        for (at, _) in code.match_indices(prefix) {
            // `$crate::`, `pixii_crate::` and longer chains are none.
            let before = code[..at].chars().next_back().unwrap_or(' ');
            if before.is_alphanumeric() || ['_', '$', ':'].contains(&before) {
                continue;
            }
            let rest = &code[at + prefix.len()..];
            let list = match rest.strip_prefix('{') {
                Some(list) => list.split('}').next().unwrap(),
                None => rest
                    .split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))
                    .next()
                    .unwrap(),
            };
            names.extend(
                list.split(',').map(|item| {
                    item.trim().split("::").next().unwrap().trim_matches('{').to_owned()
                }),
            );
        }
    }
    names
}

#[test]
fn imports_point_down() {
    let mut faults = Vec::new();
    for (dir, floors) in CRATES {
        let floor_of = |module: &str| floors.iter().position(|floor| floor.contains(&module));
        let root = root().join(dir);
        let mut files = Vec::new();
        sources(&root, &mut files);
        for file in files {
            let relative = file.strip_prefix(&root).unwrap();
            if relative == Path::new("lib.rs") {
                continue;
            }
            let name = relative.with_extension("");
            let parts: Vec<_> = name.iter().map(|part| part.to_string_lossy()).collect();
            let place = format!("{dir}/{}", relative.display());
            let Some(floor) = floor_of(&parts[0]) else {
                faults.push(format!("{place} is on no floor"));
                continue;
            };
            let code = code_of(&file);
            for name in named_modules(&code, parts.len()) {
                match floor_of(&name) {
                    Some(named) if named > floor => {
                        faults.push(format!("{place} (floor {floor}) names {name} ({named})"));
                    }
                    // An item of the crate's root, or a module on a floor that may be named.
                    Some(_) | None => {}
                }
            }
            for library in DRIVERS_ONLY.iter().filter(|_| dir == "crates/core/src") {
                if code.contains(&format!("{library}::")) {
                    faults.push(format!("{place} uses {library}"));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// `src` reads nothing from `tests`, and no file is a module of two crates.
#[test]
fn no_crate_reads_the_files_of_another() {
    let mut faults = Vec::new();
    for dir in ["src", "tests", "benches", "crates"] {
        let mut files = Vec::new();
        sources(&root().join(dir), &mut files);
        for file in files {
            let code = code_of(&file);
            let place = file.strip_prefix(root()).unwrap().display().to_string();
            for line in code.lines() {
                let reads = ["#[path", "include!(", "include_str!(", "include_bytes!("];
                let outside = line.contains("../") && reads.iter().any(|read| line.contains(read));
                // The frozen schemas lie beside `src`, and tests may read the data of other tests.
                let of_tests = place.starts_with("tests/") || place.contains("/tests/");
                let known =
                    line.contains("/migrations/") || (of_tests && line.contains("include_str!("));
                if outside && !known {
                    faults.push(format!("{place}: {}", line.trim()));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn no_role_sees_another() {
    let root = root().join("crates/core/src/node");
    let mut files = Vec::new();
    sources(&root, &mut files);
    // A role is a file of that folder, with what is in a folder of its name.
    let role_of = |file: &Path| {
        let first = file.strip_prefix(&root).unwrap().components().next().unwrap();
        Path::new(&first).file_stem().unwrap().to_string_lossy().into_owned()
    };
    let mut roles: Vec<String> = files.iter().map(|file| role_of(file)).collect();
    // What all roles share is none itself.
    roles.retain(|name| {
        let shared = [
            "io",
            "experiment",
            "merkle_trees",
            "gc_epochs",
            "hints",
            "ids",
            "local_state",
            "outbox",
            "reach",
            "interface",
            "rules",
        ];
        !shared.contains(&name.as_str())
    });
    roles.dedup();
    assert!(roles.len() >= 2);
    for file in &files {
        let text = fs::read_to_string(file).unwrap();
        for role in &roles {
            let own = role_of(file) == *role;
            assert!(own || !text.contains(&format!("{role}::")), "{} names {role}", file.display());
        }
    }
}

/// Files of the daemon whose lines of the log no peer and no client can cause, and why.
const UNLIMITED: [(&str, &str); 13] = [
    ("src/engine/binding.rs", "at the start"),
    ("src/engine/ending.rs", "once for each stop"),
    ("src/engine/health.rs", "once for each start"),
    ("src/engine/incarnation.rs", "at the start and the end"),
    ("src/engine/notifier.rs", "of the service manager"),
    ("src/engine/opening.rs", "at the start and the end"),
    ("src/engine/process.rs", "by signals"),
    ("src/engine/quarantine.rs", "at the start"),
    ("src/engine/reload.rs", "by SIGHUP"),
    ("src/engine/space.rs", "of the node's own disk"),
    ("src/engine/storage.rs", "of the node's own disk"),
    ("src/engine/trees.rs", "at the start and the end"),
    ("src/disk/files.rs", "at the start"),
];
/// Files with lines of both kinds: how many are not limited, which happen once in an incarnation,
/// are of the node's own disk, or are asked for by a signal.
const PARTLY_LIMITED: [(&str, usize); 2] = [("src/engine.rs", 3), ("src/engine/event_log.rs", 19)];

#[test]
fn lines_of_the_log_that_others_can_cause_are_limited() {
    let mut files = Vec::new();
    for dir in ["src", "crates/transport/src"] {
        sources(&root().join(dir), &mut files);
    }
    let mut limited = 0;
    for file in files {
        let name = file.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(&file).unwrap();
        limited += text.matches("limited!(").count();
        let above = ["src/cli", "src/main.rs"].iter().any(|above| name.starts_with(above));
        if above
            || name == "crates/transport/src/throttle.rs"
            || UNLIMITED.iter().any(|(file, _)| *file == name)
        {
            continue;
        }
        let direct: usize =
            ["info!(", "warn!(", "error!("].iter().map(|level| text.matches(level).count()).sum();
        let known = PARTLY_LIMITED.iter().find(|(file, _)| *file == name);
        let known = known.map_or(0, |(_, count)| *count);
        assert!(
            direct <= known,
            "{name} has {direct} lines of the log beside the throttle, {known} are known: use \
             limited!() for what a peer or a client can cause"
        );
    }
    assert!(limited > 30, "{limited} lines are limited");
}

#[test]
fn the_oldest_rust_is_the_same_wherever_it_is_named() {
    let read = |name: &str| fs::read_to_string(root().join(name)).unwrap();
    let workspace = read("Cargo.toml");
    let oldest = workspace.split("rust-version = \"").nth(1).unwrap().split('"').next().unwrap();
    for name in NAME_THE_RUST {
        let text = read(name);
        let mut named = text.match_indices("Rust 1.").map(|(at, _)| &text[at + "Rust ".len()..]);
        assert!(named.clone().next().is_some(), "{name} does not name it");
        assert!(named.all(|rest| rest.starts_with(oldest)), "{name} names another than {oldest}");
    }
    for entry in fs::read_dir(root().join("crates")).unwrap() {
        let manifest = fs::read_to_string(entry.unwrap().path().join("Cargo.toml")).unwrap();
        assert!(manifest.contains("rust-version.workspace = true"), "{manifest}");
    }
    let clippy = read("clippy.toml");
    assert!(!clippy.contains("msrv"), "clippy takes it from Cargo.toml");
}
