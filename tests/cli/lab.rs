//! `pixii lab`: results that repeat, and mistakes in one sentence.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::command::told;

fn lab(dir: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pixii"));
    told(&command.arg("lab").args(arguments).current_dir(dir).output().unwrap())
}

#[test]
fn a_seed_gives_the_same_samples_and_a_whole_folder() {
    let dir = tempfile::tempdir().unwrap();
    let run = |out: &str, seed: &str| {
        let arguments = [
            "run",
            "all",
            "--on",
            "sim",
            "--samples",
            "40",
            "--seed",
            seed,
            "--force",
            "--out",
            out,
        ];
        let (code, said, _) = lab(dir.path(), &arguments);
        // So few samples may be far from theory: that is told, and the folder is whole.
        assert!(code == 0 || code == 1, "{said}");
        assert_eq!(said, format!("all of it is in {out}; {out}/index.html shows it\n"));
    };
    run("one", "7");
    // What is left of another run goes.
    fs::create_dir(dir.path().join("two")).unwrap();
    fs::write(dir.path().join("two/read-latency-samples.csv"), "old\n").unwrap();
    run("two", "7");
    run("other", "8");
    let read = |out: &str, name: &str| fs::read(dir.path().join(out).join(name)).unwrap();
    let samples = read("one", "read-latency-samples.csv");
    assert_eq!(samples, read("two", "read-latency-samples.csv"));
    assert!(samples.starts_with(b"delay_ms,R,ms\n5,1,"));
    let names = [
        "read-latency",
        "write-latency",
        "throughput",
        "staleness",
        "visibility",
        "validate",
        "scale",
        "recovery",
    ];
    for name in names {
        let csv = format!("{name}.csv");
        assert_eq!(read("one", &csv), read("two", &csv), "{name}");
        assert_ne!(read("one", &csv), read("other", &csv), "{name}");
        let svg = String::from_utf8(read("one", &format!("{name}.svg"))).unwrap();
        let texts: Vec<&str> = svg.lines().filter(|line| !line.starts_with('<')).collect();
        let texts = texts.join(" ");
        let samples = if name == "recovery" { "1 sample a point" } else { "40 samples a point" };
        let caption = ["seed 7", samples, "virtual time"];
        assert!(caption.iter().all(|words| texts.contains(words)), "{name}: {texts}");
        assert!(read("one", &format!("{name}.png")).starts_with(b"\x89PNG"));
        let page = String::from_utf8(read("one", "index.html")).unwrap();
        assert!(page.contains(&format!("{name}.svg")) && page.contains(&csv), "{name}");
    }
    assert!(!dir.path().join("one/INCOMPLETE").exists());
}

#[test]
fn mistakes_are_one_sentence_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("there")).unwrap();
    fs::write(dir.path().join("bad"), "1\n\ntwo\n").unwrap();
    fs::write(dir.path().join("none"), "\n").unwrap();
    for (arguments, sentence) in [
        (
            &["run", "figure-9"][..],
            "no experiment is called \"figure-9\"; there are read-latency, ",
        ),
        (&["run", "staleness", "--on", "real"], "staleness does not run on real"),
        (&["run", "validate", "--out", "there"], "there exists: name another, or say --force"),
        (
            &["predict", "--fit", "LNKD", "--out", "x"],
            "no fit is called \"LNKD\"; there are LNKD-SSD, ",
        ),
        (
            &["predict", "--way", "exponential"],
            "the distribution \"exponential\": exponential lacks ",
        ),
        (
            &["predict", "--way", "fixed 1ms fifo"],
            "the distribution \"fixed 1ms fifo\": a distribution ",
        ),
        (
            &["predict", "--way", "@bad"],
            "bad, line 3: \"two\": a time is 0 to 600000, in milliseconds",
        ),
        (&["predict", "--way", "@none"], "none has no samples"),
        (&["predict", "--way", "@nowhere"], "nowhere: "),
        (&["predict", "--way", "fixed 1ms", "--n", "9"], "invalid value '9' for '--n <N>'"),
        (&["run", "throughput", "--samples", "-4"], "'-4'"),
    ] {
        let (code, out, err) = lab(dir.path(), arguments);
        assert!(code == 1 || code == 2, "{arguments:?}: {code}");
        assert!(out.is_empty() && err.contains(sentence), "{arguments:?}: {err}");
    }
    let names = fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(names, 3, "nothing was made");
}

#[test]
fn a_wish_is_answered_with_the_quorums_that_meet_it() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("times"), "10\n10.0\n10\n").unwrap();
    let ask = |fresh: &str, within: &str, p99: &str| {
        let wish = ["--fresh", fresh, "--within", within, "--read-p99", p99];
        let base = ["predict", "--way", "@times", "--trials", "20000", "--json"];
        let (code, out, err) = lab(dir.path(), &[&base[..], &wish].concat());
        assert_eq!(err, "");
        let told: Value = serde_json::from_str(&out).unwrap();
        (code, told["meet"].to_string())
    };
    // Every way takes 10 ms: the other homes have a write 10 ms after it began, and its second confirmation takes 20; only
    // the own copy is read in less than 20.
    assert_eq!(ask("99.9", "0", "5"), (0, "[[1,2],[1,3]]".into()));
    assert_eq!(ask("99.9", "11", "5"), (0, "[[1,1],[1,2],[1,3]]".into()));
    assert_eq!(
        ask("99.9", "0", "25"),
        (0, "[[1,2],[1,3],[2,1],[2,2],[2,3],[3,1],[3,2],[3,3]]".into())
    );
    assert_eq!(ask("100", "0", "25").0, 0);
    let (code, out, _) = lab(dir.path(), &["predict", "--way", "@times", "--trials", "2000"]);
    assert!(
        code == 0 && out.contains("(1,1)  3") && out.contains("2000 trials with seed 1"),
        "{out}"
    );
}
