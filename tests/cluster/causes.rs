//! Exit codes and JSON, for scripts.

use pixii_testkit::cluster::{Run, TestCluster, pixii, signal};
use serde_json::Value;

#[test]
fn every_way_to_end_has_its_code() {
    let mut cluster = TestCluster::start(3);
    let key = &*cluster.key_of(["n1", "n2", "n3"]);
    let other = &*cluster.key_of(["n3", "n1", "n2"]);
    cluster.run(&["put", key, "one"]).done();
    assert_eq!(cluster.run(&["get", key]).done(), "one");
    assert_eq!(Run::start(pixii(&["get", key, "--connect", "127.0.0.1:1"]), b"").end().code, 1);
    assert_eq!(cluster.run(&["get"]).code, 2);
    assert_eq!(cluster.run(&["get", "nobody"]).code, 3);
    assert_eq!(cluster.run(&["put", key, "two", "--sibling"]).code, 0);
    let siblings = cluster.run(&["get", key, "--print-context"]);
    assert_eq!(siblings.code, 6);
    assert_eq!(cluster.run(&["put", key, "three"]).code, 6);
    assert_eq!(cluster.run(&["put", key, "three", "--if-absent"]).code, 7);
    cluster.run(&["put", key, "both", "--context", siblings.out.trim()]).done();

    // A frozen replica is there, as far as anyone can know, and answers nothing.
    signal("STOP", cluster.pid("n3"));
    for arguments in [&["put", key, "x"][..], &["delete", key]] {
        let more = ["-w", "3", "--timeout", "1000"];
        let reported = cluster.run(&[arguments, &more].concat());
        let (code, err) = reported.stated();
        assert_eq!(code, 5, "{err}");
        let sentence = "pixii: unknown outcome: 2 of 3 replicas confirmed it in ";
        assert!(err.starts_with(sentence) && err.lines().count() == 1, "{err}");
    }
    let reported = cluster.run(&["get", key, "-r", "3", "--timeout", "1000"]);
    let (code, err) = reported.stated();
    assert!(
        code == 4 && err.starts_with("pixii: no quorum: 2 of 3 replicas answered in "),
        "{err}"
    );
    // As the first owner it costs time, and no more.
    cluster.run(&["put", other, "fine", "--timeout", "2000"]).done();
    assert_eq!(cluster.run(&["get", other, "--timeout", "2000"]).done(), "fine");
    cluster.cluster.kill("n3").unwrap();
    cluster.cluster.kill("n2").unwrap();
    let sentence = "pixii: no quorum: 1 of 2 replicas can answer (counted: n1; silent or \
        unreachable: n2, n3)\n";
    for arguments in [&["put", key, "x"][..], &["get", key], &["delete", key]] {
        assert_eq!(cluster.run(arguments).stated(), (4, sentence), "{arguments:?}");
    }
}

#[test]
fn json_is_json_everywhere() {
    let cluster = TestCluster::start(3);
    let verbs: [(&[&str], &[u8], &[&str]); 12] = [
        (&["put", "k", "v"], b"", &["key", "context", "siblings"]),
        (&["get", "k"], b"", &["key", "values", "context", "answered"]),
        (&["get", "k", "--all"], b"", &["values"]),
        (&["load", "-"], b"a\t1\nb\t\xff\n", &["lines", "loaded", "refused", "unknown", "rate"]),
        (&["dump"], b"", &["key", "values", "context"]),
        (&["dump", "--keys"], b"", &["key"]),
        (&["ring"], b"", &["cluster", "n", "r", "w", "partitions", "members"]),
        (&["ring", "k"], b"", &["key", "partition", "owners", "fallbacks"]),
        (&["ring", "--stdin"], b"k\nl\n", &["key", "partition", "owners", "fallbacks"]),
        (&["status"], b"", &["cluster", "name", "recovered", "peers", "counters"]),
        (&["delete", "k"], b"", &["key", "context", "siblings"]),
        (&["node", "stop", "n2"], b"", &["stopping"]),
    ];
    for (arguments, input, fields) in verbs {
        let reported = cluster.fed(&[arguments, &["--json"]].concat(), input);
        assert_eq!((reported.code, &*reported.err), (0, ""), "{arguments:?}");
        assert!(!reported.out.is_empty(), "{arguments:?}");
        for line in reported.out.lines() {
            let value: Value = serde_json::from_str(line)
                .unwrap_or_else(|error| panic!("{arguments:?}: {error}: {line}"));
            assert!(fields.iter().all(|field| value.get(field).is_some()), "{arguments:?}: {line}");
        }
    }
}
