//! What drills say of themselves, and of what happened.

use std::process::Command;

use pixii_testkit::{pixii_path, reported};
use serde_json::Value;

fn run(arguments: &[&str]) -> (i32, String, String) {
    reported(&Command::new(pixii_path()).args(arguments).output().unwrap())
}

#[test]
fn each_verb_has_help_with_examples() {
    for verb in ["sim", "bench", "drill", "lab"] {
        let (code, help, _) = run(&[verb, "--help"]);
        assert!(code == 0 && help.contains(&format!("Usage: pixii {verb} ")), "{help}");
        assert!(help.contains("\nExamples:\n"), "{help}");
    }
}

#[test]
fn people_see_what_drills_there_are_and_what_they_need() {
    let (code, list, _) = run(&["drill", "list", "--json"]);
    let list: Value = serde_json::from_str(&list).unwrap();
    assert_eq!(
        (code, &list[0]["name"], &list[1]["name"]),
        (0, &"kill".into(), &"power-cut".into())
    );
    assert_eq!(list.as_array().unwrap().len(), 21);
    assert!(list.as_array().unwrap().iter().all(|one| one["proves"].is_string()));
    let (code, out, why) = run(&["drill", "flood", "--hard"]);
    let stated = "pixii: there is no drill \"flood\"; there are kill, power-cut, restart, ";
    assert!((code, out.as_str()) == (2, "") && why.starts_with(stated), "{why}");
    let (code, _, why) = run(&["drill", "upgrade", "--old", "/bin/true"]);
    assert!(code == 1 && why.starts_with("pixii: /bin/true is no pixii that runs here: "), "{why}");
    let full = tempfile::tempdir().unwrap();
    std::fs::write(full.path().join("letter.txt"), "dear").unwrap();
    let dir = full.path().to_str().unwrap();
    let (code, _, why) = run(&["drill", "kill", "--rounds", "1", "--dir", dir]);
    assert_eq!((code, why), (1, format!("pixii: {dir} is not empty\n")));
}

#[test]
fn a_drill_reports_what_happened_and_what_clients_noticed_and_draws_it() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("report");
    let words = ["drill", "freeze", "--seconds", "2", "--keys", "100", "--seed", "3", "--json"];
    let mut command = Command::new(pixii_path());
    let (code, json, why) = reported(&command.args(words).arg("--out").arg(&out).output().unwrap());
    let json: Value = serde_json::from_str(&json).unwrap_or_else(|_| panic!("{json} {why}"));
    assert_eq!(
        (code, &json["passed"], &json["writes_lost"]),
        (0, &true.into(), &0.into()),
        "{why}"
    );
    let events = json["events"].as_array().unwrap();
    let marks: Vec<&str> = events.iter().map(|event| event["mark"].as_str().unwrap()).collect();
    let at = |mark: &str| marks.iter().position(|one| *one == mark).unwrap();
    assert!(at("fault") < at("heal") && at("heal") < at("recovered"), "{marks:?}");
    let times: Vec<f64> = events.iter().map(|event| event["at_s"].as_f64().unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
    let took = json["recovered_s"][0].as_f64().unwrap();
    let between = times[at("recovered")] - times[at("heal")];
    assert!((took - between).abs() < 0.01, "{took} and {between}");
    let mut done = 0;
    for phase in ["before", "during", "after"] {
        let reported = &json["phases"][phase];
        let count = |what: &str| reported[what].as_u64().unwrap();
        assert!(count("p50_us") > 0 && count("p99_us") >= count("p50_us"), "{phase}: {reported}");
        assert_eq!(count("refused") + count("unknown"), 0, "{phase}: {reported}");
        done += count("done");
    }
    let intervals = json["intervals"].as_array().unwrap();
    let in_intervals = intervals.iter().map(|one| one["done"].as_u64().unwrap()).sum::<u64>();
    assert_eq!(Some(in_intervals), json["done"].as_u64());
    // What was in progress when the load was ordered to stop is behind its last phase.
    assert!(done <= in_intervals && done + 8 >= in_intervals, "{done} of {in_intervals}");
    assert!(json["writes_acknowledged"].as_u64() > Some(100), "{json}");
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    for part in ["<svg ", "<b>Passed</b>", "is frozen (SIGSTOP)", "No request failed.", "</html>"] {
        assert!(page.contains(part), "{part} in {page}");
    }
    let kept = std::fs::read_to_string(out.join("report.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&kept).unwrap(), json);
}
