//! `pixii lab`: results that repeat, and mistakes in one sentence.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use pixii_testkit::fake::{Behaviour, Fake};
use pixii_testkit::{pixii_path, reported};
use serde_json::Value;

fn lab(dir: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(pixii_path());
    reported(&command.arg("lab").args(arguments).current_dir(dir).output().unwrap())
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
        let (code, stated, _) = lab(dir.path(), &arguments);
        // So few samples may be far from theory: that is reported, and the folder is whole.
        assert!(code == 0 || code == 1, "{stated}");
        assert_eq!(stated, format!("all of it is in {out}; {out}/index.html shows it\n"));
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
        "failures",
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
        let texts: Vec<&str> = svg.split('<').filter_map(|part| part.split('>').nth(1)).collect();
        // Long captions go over several lines.
        let words: Vec<&str> = texts.iter().flat_map(|text| text.split_whitespace()).collect();
        let texts = words.join(" ");
        let samples = if name == "recovery" { "1 sample a point" } else { "40 samples a point" };
        let caption = ["seed 7", samples, "virtual time"];
        assert!(caption.iter().all(|words| texts.contains(words)), "{name}: {texts}");
        let foreign = ["@font-face", "base64", "href", "NaN", "inf\""];
        assert!(foreign.iter().all(|part| !svg.contains(part)), "{name} needs nothing else");
        let page = String::from_utf8(read("one", "index.html")).unwrap();
        assert!(page.contains(&format!("{name}.svg")) && page.contains(&csv), "{name}");
    }
    assert!(!dir.path().join("one/INCOMPLETE").exists());
}

/// The processes whose parent is this one.
fn children(pid: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let parent = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // Behind the name, which may have spaces: the state, and the parent.
        stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
    };
    pids.filter(|child| parent(child) == Some(pid)).collect()
}

/// Ends a process with SIGKILL when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_daemon_that_dies_ends_the_run_and_what_was_measured_stays() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let mut command = Command::new(pixii_path());
    command.args(["lab", "run", "validate", "--on", "real", "--samples", "40", "--out"]).arg(&out);
    let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lab = Running(piped);
    // The first distribution is reported, and the daemons are at the next one.
    let table = out.join("validate-real.csv");
    let deadline = Instant::now() + Duration::from_secs(120);
    while fs::read_to_string(&table).map_or(0, |text| text.lines().count()) < 28 {
        assert!(Instant::now() < deadline, "nothing is measured");
        assert!(lab.0.try_wait().unwrap().is_none(), "it has ended");
        thread::sleep(Duration::from_millis(20));
    }
    let daemons = children(lab.0.id());
    assert_eq!(daemons.len(), 3, "{daemons:?}");
    assert!(Command::new("kill").args(["-9", &daemons[1].to_string()]).status().unwrap().success());
    while lab.0.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "it goes on");
        thread::sleep(Duration::from_millis(20));
    }
    let (mut reported, mut why) = (String::new(), String::new());
    lab.0.stdout.take().unwrap().read_to_string(&mut reported).unwrap();
    lab.0.stderr.take().unwrap().read_to_string(&mut why).unwrap();
    let sentence = "ended: killed by signal 9: the run is incomplete";
    assert!(why.contains(sentence) && why.trim().lines().count() == 1, "{why}");
    assert!(reported.starts_with("INCOMPLETE: what was measured so far is in "), "{reported}");
    assert_eq!(lab.0.wait().unwrap().code(), Some(1));
    assert!(out.join("INCOMPLETE").exists() && !out.join("index.html").exists());
    let rows = fs::read_to_string(&table).unwrap();
    assert!(rows.starts_with("w_ms,others_ms,r,w,t_ms,") && rows.lines().count() >= 28);
    for daemon in daemons {
        assert!(!Path::new(&format!("/proc/{daemon}")).exists(), "{daemon} is left running");
    }
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
        (&["predict", "--way", "fixed 1ms", "--n", "17"], "invalid value '17' for '--n <N>'"),
        (&["run", "throughput", "--samples", "-4"], "'-4'"),
        (
            &["load", "--rate", "-5"],
            "'-5' for '--rate <RATE>': a rate is 0.01 to 1000000 requests ",
        ),
        (&["load", "--workload", "G"], "no workload is called \"G\"; there are A, B, C, D, E, F"),
        (&["load", "--clients", "0"], "invalid value '0' for '--clients <CLIENTS>'"),
        (&["load", "--burst", "2x"], "\"2x\": it has not three parts; a burst is FACTORx/LENGTH/"),
        (&["load", "--out", "there"], "there exists: name another, or say --force"),
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
    let query = |fresh: &str, within: &str, p99: &str| {
        let wish = ["--fresh", fresh, "--within", within, "--read-p99", p99];
        let base = ["predict", "--way", "@times", "--trials", "20000", "--json"];
        let (code, out, err) = lab(dir.path(), &[&base[..], &wish].concat());
        assert_eq!(err, "");
        let reported: Value = serde_json::from_str(&out).unwrap();
        (code, reported["meet"].to_string())
    };
    // Every way takes 10 ms: the other owners have a write 10 ms after it began, and its second
    // confirmation takes 20; only the own copy is read in less than 20.
    assert_eq!(query("99.9", "0", "5"), (0, "[[1,2],[1,3]]".into()));
    assert_eq!(query("99.9", "11", "5"), (0, "[[1,1],[1,2],[1,3]]".into()));
    assert_eq!(
        query("99.9", "0", "25"),
        (0, "[[1,2],[1,3],[2,1],[2,2],[2,3],[3,1],[3,2],[3,3]]".into())
    );
    assert_eq!(query("100", "0", "25").0, 0);
    let (code, out, _) = lab(dir.path(), &["predict", "--way", "@times", "--trials", "2000"]);
    assert!(
        code == 0 && out.contains("(1,1)  3") && out.contains("2000 trials with seed 1"),
        "{out}"
    );
}

/// Runs the load for two seconds against a node that answers nobody for half a second, some time
/// after the 100 keys are written; gives the JSON.
fn load_with_a_stall(at: u64, pace: &[&str], dir: &Path) -> Value {
    let fake = Fake::start(1, 1);
    fake.behave(0, Behaviour::StallAt(100 + at, Duration::from_millis(500)));
    let address = fake.address(0);
    let base = ["load", "--json", "--connect", &address, "--workload", "C", "--keys", "100"];
    let times = ["--seconds", "2", "--warm-up", "0", "--repetitions", "1", "--seed", "5"];
    let (code, out, err) = lab(dir, &[&base[..], &times, pace].concat());
    assert_eq!((code, err.as_str()), (0, ""));
    serde_json::from_str(&out).unwrap()
}

#[test]
fn an_open_loop_shows_the_stall_that_a_closed_one_hides() {
    let dir = tempfile::tempdir().unwrap();
    let closed = load_with_a_stall(100, &["--clients", "1"], dir.path());
    let figure = |reported: &Value, name: &str| reported["figures"][0][name].as_f64().unwrap();
    assert!(closed["figures"][0]["max_ms"].as_f64().unwrap() >= 500.0, "{closed}");
    let hidden = closed["figures"][0]["p99_ms"]["mean"].as_f64().unwrap();
    assert!(hidden < 250.0, "one slow answer of many: {closed}");
    // One is due every 5 ms before the end. Every fourth is while nobody is answered; one in a
    // hundred waits for nearly all of it.
    let pace = ["--rate", "200", "--even", "--out", "out"];
    let open = load_with_a_stall(100, &pace, dir.path());
    assert!(open["figures"][0]["p99_ms"]["mean"].as_f64().unwrap() > 400.0, "{open}");
    assert_eq!((open["not_sent"].as_u64(), figure(&open, "done")), (Some(0), 399.0));
    let samples = fs::read_to_string(dir.path().join("out/samples.csv")).unwrap();
    let late = samples.lines().skip(1).filter(|line| {
        let took: f64 = line.split(',').nth(3).unwrap().parse().unwrap();
        line.ends_with(",done") && took > 100.0
    });
    // 400 ms at 200 a second.
    assert!((70..=400).contains(&late.count()), "{open}");
    assert_eq!(samples.lines().count(), 400);
    let pace = ["--rate", "200", "--even", "--outstanding", "10"];
    let bounded = load_with_a_stall(100, &pace, dir.path());
    let not_sent = bounded["not_sent"].as_u64().unwrap();
    assert!(not_sent >= 70, "{bounded}");
    assert_eq!(figure(&bounded, "done") as u64 + not_sent, 399, "each is done or named");
}

#[test]
fn a_load_counts_failures_by_kind_and_mixes_what_it_is_ordered_to() {
    let (dir, fake) = (tempfile::tempdir().unwrap(), Fake::start(1, 1));
    let address = fake.address(0);
    let run = |workload: &str| {
        let base = ["load", "--json", "--connect", &address, "--keys", "50", "--clients", "4"];
        let times = ["--seconds", "1", "--warm-up", "0", "--repetitions", "2"];
        let mix = ["--workload", workload, "--bytes", "16"];
        let (code, out, err) = lab(dir.path(), &[&base[..], &times, &mix].concat());
        (code, serde_json::from_str::<Value>(&out).unwrap_or_default(), err)
    };
    for (workload, kinds, least) in [
        ("D", &["get", "insert", "all"][..], 0.9),
        ("E", &["insert", "list", "all"], 0.005),
        ("f", &["get", "modify", "all"], 0.4),
    ] {
        let (code, reported, err) = run(workload);
        assert_eq!((code, err.as_str()), (0, ""), "{workload}");
        let figures = reported["figures"].as_array().unwrap();
        let found: Vec<&str> = figures.iter().map(|one| one["kind"].as_str().unwrap()).collect();
        assert_eq!(found, kinds, "{workload}");
        let done = |at: usize| figures[at]["done"].as_f64().unwrap();
        assert_eq!(done(0) + done(1), done(2), "{workload}");
        assert!((least..least + 0.2).contains(&(done(0) / done(2))), "{workload}: {reported}");
    }
    fake.behave(0, Behaviour::Unknown);
    let (code, _, err) = run("A");
    let stated = "pixii: only 0 of the 50 keys could be written first: unknown outcome: ";
    assert!(code == 1 && err.starts_with(stated), "{err}");
    assert_eq!(err.lines().count(), 1);
}

#[test]
fn a_node_that_knows_no_samples_is_named() {
    let (dir, fake) = (tempfile::tempdir().unwrap(), Fake::start(3, 2));
    let address = fake.address(1);
    let query = ["predict", "--live", "--connect", &address];
    let (code, _, err) = lab(dir.path(), &query);
    let stated = "pixii: too little is known of the way from n1 to n1: 0 reads and 0 writes were \
        sampled there, ";
    assert!(code == 1 && err.starts_with(stated), "{err}");
    let (code, _, err) = lab(dir.path(), &["predict", "--live", "--fit", "YMMR"]);
    assert!(code == 2 && err.contains("cannot be used with"), "{err}");
}
