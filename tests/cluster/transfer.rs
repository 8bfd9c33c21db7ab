//! Whole files in and out.

use std::fs;

use pixii_testkit::cluster::{Run, TestCluster, lines, signal};

/// Lines of the Unicode Character Database.
const REAL: &str = include_str!("../../src/cli/demo.tsv");

/// Generated lines with values that need escapes, in no order.
fn generated(count: u32) -> String {
    (0..count)
        .map(|number| {
            let scrambled = number.wrapping_mul(2_654_435_761);
            format!("key {scrambled:08x} é\tline {number}:\\ttab, \\\\backslash, \\nnewline\n")
        })
        .collect()
}

/// The file sorted by key bytes.
fn sorted(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_by_key(|line| line.split('\t').next());
    lines.iter().map(|line| format!("{line}\n")).collect()
}

#[test]
fn a_file_is_loaded_twice_and_dumped_in_order_without_siblings() {
    let cluster = TestCluster::start(5);
    let text = format!("{REAL}{}", generated(3_000));
    let count = text.lines().count();
    for _ in 0..2 {
        let reported = cluster.fed(&["load", "-"], text.as_bytes());
        assert!(reported.done().starts_with(&format!("loaded {count} of {count} lines in ")));
        assert!(cluster.run(&["dump"]).done() == sorted(&text), "the dump is the sorted file");
    }
    let keys: String = sorted(&text)
        .lines()
        .map(|line| line.split('\t').next().unwrap().to_string() + "\n")
        .collect();
    assert!(cluster.run(&["dump", "--keys", "-r", "3"]).done() == keys);
    // A reader that goes away is no error worth a word.
    let mut half = cluster.command(&["dump"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    drop(half.stdout.take());
    assert_eq!(half.wait().unwrap().code(), Some(1));
}

#[test]
fn an_interrupted_load_goes_on_and_failed_lines_are_kept() {
    let mut cluster = TestCluster::start(3);
    let text = generated(20_000);
    fs::write(cluster.path("in.tsv"), &text).unwrap();
    let arguments = ["load", "in.tsv", "--sibling", "--resume", "--in-flight", "4"];
    let load = Run::start(cluster.command(&arguments), b"");
    cluster.wait_for_puts("n1", 300);
    signal("INT", load.pid());
    let reported = load.end();
    assert_eq!(reported.code, 1, "{reported:?}");
    assert!(reported.err.starts_with("pixii: interrupted; the first "), "{reported:?}");
    assert!(reported.err.ends_with("go on with `pixii load in.tsv --resume`\n"), "{reported:?}");
    assert!(cluster.path("in.tsv.pixii-load").exists());
    let reported = cluster.run(&["load", "in.tsv", "--sibling", "--resume"]);
    assert!(reported.done().starts_with("loaded 20000 of 20000 lines in "), "{reported:?}");
    assert!(!cluster.path("in.tsv.pixii-load").exists());
    assert!(cluster.run(&["dump"]).done() == sorted(&text), "no line twice, none missing");

    cluster.cluster.kill("n2").unwrap();
    let few: String = text.lines().take(100).map(|line| format!("{line}, again\n")).collect();
    fs::write(cluster.path("few.tsv"), &few).unwrap();
    let arguments = ["load", "few.tsv", "-w", "3", "--failed", "rest.tsv", "--timeout", "1000"];
    let reported = cluster.run(&arguments);
    assert_eq!((reported.code, reported.err.as_str()), (4, "pixii: those lines are in rest.tsv\n"));
    assert!(reported.out.contains(
        "refused 100: no quorum: 2 of 3 replicas can answer (counted: n1, n3; silent or \
         unreachable: n2)\n"
    ));
    assert_eq!(lines(&fs::read_to_string(cluster.path("rest.tsv")).unwrap()), lines(&few));
    cluster.start_all();
    cluster.run(&["load", "rest.tsv", "-w", "3"]).done();
    let dump = cluster.run(&["dump"]);
    assert!(lines(&few).is_subset(&lines(dump.done())));
    assert_eq!(dump.out.lines().count(), 20_000);
}
