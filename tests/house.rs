//! Holds the source tree to the floors of ARCHITECTURE.md: imports point down only, and each floor
//! leaves alone the libraries that belong to the floors above it.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

/// Each floor's modules, from the ground up.
const FLOORS: [&[&str]; 5] = [
    &[
        "types",
        "causal",
        "generation",
        "ring",
        "members",
        "merkle",
        "tally",
        "emulation",
        "rng",
        "secret",
    ],
    &["message", "wire", "store"],
    &["node"],
    &["engine", "net", "client", "sim", "config", "metrics", "disk"],
    &["main", "cli", "lab"],
];

/// Libraries that only floor 3 and above may name.
const DRIVERS_ONLY: [&str; 9] = [
    "tokio",
    "sled",
    "tracing",
    "signal_hook",
    "rustix",
    "sd_notify",
    "std::net",
    "std::time",
    "std::thread",
];

fn floor_of(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
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

/// The module that decides a file's floor: the first folder or file below `src`; the disk store and its
/// schema live under `store` and belong to the drivers.
fn module_of(relative: &Path) -> String {
    let name = relative.with_extension("").to_string_lossy().replace('\\', "/");
    match name.as_str() {
        "store/disk" | "store/schema" => "disk".into(),
        name if name.starts_with("store/disk/") => "disk".into(),
        name => name.split('/').next().unwrap().to_string(),
    }
}

/// Every module that `text` names behind `crate::` or `pixii::`.
fn named_modules(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    for prefix in ["crate::", "pixii::"] {
        for (at, _) in text.match_indices(prefix) {
            let rest = &text[at + prefix.len()..];
            let list = match rest.strip_prefix('{') {
                Some(list) => list.split('}').next().unwrap(),
                None => rest
                    .split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))
                    .next()
                    .unwrap(),
            };
            for item in list.split(',') {
                let mut parts = item.trim().split("::");
                let first = parts.next().unwrap().to_string();
                let second = parts.next().unwrap_or_default();
                let disk = first == "store" && ["disk", "schema"].contains(&second);
                names.push(if disk { "disk".into() } else { first });
            }
        }
    }
    names
}

#[test]
fn imports_point_down() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 15, "the sources were found: {}", files.len());
    let mut faults = Vec::new();
    for file in files {
        let relative = file.strip_prefix(&root).unwrap();
        if relative == Path::new("lib.rs") {
            continue;
        }
        let module = module_of(relative);
        let Some(floor) = floor_of(&module) else {
            faults.push(format!("{} is on no floor", relative.display()));
            continue;
        };
        let text = fs::read_to_string(&file).unwrap();
        let code: String =
            text.lines().map(|l| l.split("//").next().unwrap()).collect::<Vec<_>>().join("\n");
        for name in named_modules(&code) {
            match floor_of(&name) {
                Some(named) if named <= floor => {}
                Some(named) => faults.push(format!(
                    "{} (floor {floor}) names {name} (floor {named})",
                    relative.display()
                )),
                None => faults.push(format!("{} names crate::{name}", relative.display())),
            }
        }
        for library in DRIVERS_ONLY.iter().filter(|_| floor < 3) {
            if code.contains(&format!("{library}::")) {
                faults.push(format!("{} (floor {floor}) uses {library}", relative.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn no_role_sees_another() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/node");
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
        !["effects", "forest", "generations", "reach", "words"].contains(&name.as_str())
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
const UNLIMITED: [(&str, &str); 12] = [
    ("engine/binding.rs", "at the start"),
    ("engine/ending.rs", "once for each stop"),
    ("engine/health.rs", "once for each start"),
    ("engine/life.rs", "at the start and the end"),
    ("engine/manager.rs", "of the service manager"),
    ("engine/process.rs", "by signals"),
    ("engine/quarantine.rs", "at the start"),
    ("engine/reload.rs", "by SIGHUP"),
    ("engine/space.rs", "of the node's own disk"),
    ("engine/storage.rs", "of the node's own disk"),
    ("engine/trees.rs", "at the start and the end"),
    ("store/disk/files.rs", "at the start"),
];
/// Files with lines of both kinds: how many are not limited, which happen once in a life, are of
/// the node's own disk, or are asked for by a signal.
const PARTLY_LIMITED: [(&str, usize); 2] = [("engine.rs", 4), ("engine/journal.rs", 19)];

#[test]
fn lines_of_the_log_that_others_can_cause_are_limited() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut limited = 0;
    for file in files {
        let name = file.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(&file).unwrap();
        limited += text.matches("limited!(").count();
        let above = ["cli", "lab", "main.rs"].iter().any(|above| name.starts_with(above));
        if above || name == "net/throttle.rs" || UNLIMITED.iter().any(|(file, _)| *file == name) {
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
