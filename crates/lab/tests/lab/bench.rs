//! `pixii bench --against`: another store is measured beside a cluster; where that is impossible,
//! the command says why in one sentence.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;

use pixii_testkit::{pixii_path, reported};
use serde_json::Value;

fn bench(arguments: &[&str]) -> (i32, String, String) {
    reported(&Command::new(pixii_path()).arg("bench").args(arguments).output().unwrap())
}

/// A server of the redis protocol that knows as many words as the generator uses, and closes each
/// connection after so many commands. It serves until the process ends.
fn redis(commands: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || serve(stream, commands));
        }
    });
    format!("redis://{address}")
}

fn serve(mut stream: TcpStream, commands: usize) {
    let (mut bytes, mut served) = ([0; 4_096], 0);
    while let Ok(count @ 1..) = stream.read(&mut bytes) {
        let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
        // Requests are smaller than a packet, and the next one waits for the answer.
        for word in text.split("\r\n") {
            let answer = match word {
                "PING" => "+PONG\r\n",
                "SET" => "+OK\r\n",
                "WAIT" => ":1\r\n",
                "GET" => "$5\r\nvalue\r\n",
                "INFO" | "CONFIG" => "-ERR unknown command\r\n",
                _ => continue,
            };
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
        served += 1;
        if served >= commands {
            return;
        }
    }
}

#[test]
fn another_store_is_measured_beside_a_cluster_round_by_round() {
    let (dir, url) = (tempfile::tempdir().unwrap(), redis(usize::MAX));
    let out = dir.path().to_str().unwrap();
    let (code, stated, why) = bench(&[
        "--cluster",
        "3",
        "--against",
        &url,
        "--against-wait",
        "1",
        "--rounds",
        "2",
        "--clients",
        "2",
        "--sizes",
        "100",
        "--seconds",
        "1",
        "--keys",
        "50",
        "--out",
        out,
        "--json",
    ]);
    assert_eq!(code, 0, "{why}");
    let result: Value = serde_json::from_str(&stated).unwrap();
    assert_eq!(result["put"], "SET + WAIT 1");
    let meaning = result["acknowledged_when"].as_str().unwrap();
    assert!(meaning.ends_with("durable at the primary only"), "{meaning}");
    let comparisons = result["comparisons"].as_array().unwrap();
    assert_eq!(comparisons.len(), 2);
    for one in comparisons {
        for side in ["multiplexed", "per_client", "against"] {
            let rounds = one[side].as_array().unwrap();
            assert_eq!(rounds.len(), 2);
            for round in rounds {
                assert!(round["per_second"].as_f64().unwrap() > 0.0, "{side}: {round}");
                assert_eq!(round["failed"], 0, "{side}: {round}");
                // The other store is this test's own process: the threads that serve a round end
                // with it, and the switches of ended threads are not counted.
                let switches = round["context_switches"].as_f64().unwrap();
                assert!(switches > 0.0 || side == "against", "{side}: {round}");
            }
            let servers = rounds[0]["cpu_us_of_servers"].as_object().unwrap();
            assert_eq!(servers.len(), if side == "against" { 1 } else { 3 });
        }
        let ratio = &one["ratio_multiplexed"]["per_second"];
        let [mean, low, high] = ["mean", "low", "high"].map(|name| ratio[name].as_f64().unwrap());
        assert!(low <= mean && mean <= high, "{ratio}");
    }
    let page = std::fs::read_to_string(dir.path().join("performance.md")).unwrap();
    assert!(page.contains("| put | 100 | 2 | redis (SET + WAIT 1) |"), "{page}");
}

#[test]
fn a_store_that_closes_its_connections_ends_the_run_with_a_sentence() {
    let url = redis(5);
    let (code, stated, why) = bench(&[
        "--cluster",
        "3",
        "--against",
        &url,
        "--clients",
        "1",
        "--sizes",
        "100",
        "--seconds",
        "1",
        "--kind",
        "put",
        "--keys",
        "50",
    ]);
    assert_eq!((code, stated.as_str()), (1, ""));
    // Which of the two is the kernel's choice: was anything unread when the connection was closed?
    let ways = ["the server closed the connection", "the connection broke: "];
    assert!(ways.iter().any(|way| why.starts_with(&format!("pixii: {url}: {way}"))), "{why}");
    assert_eq!(why.lines().count(), 1, "{why}");
}

#[test]
fn what_cannot_be_compared_is_a_sentence() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = format!("redis://{}", listener.local_addr().unwrap());
    drop(listener);
    let cases = [
        (vec!["--against", &nobody], 1, format!("{nobody}: Connection refused")),
        (vec!["--against", "memcached://x:1"], 2, "\"memcached://x:1\" is neither".into()),
        (vec!["--against", &nobody, "--cluster", "3,5"], 2, "--against compares with one".into()),
    ];
    for (arguments, exit, sentence) in cases {
        let (code, stated, why) = bench(&arguments);
        assert_eq!((code, stated.as_str()), (exit, ""), "{why}");
        assert!(why.starts_with(&format!("pixii: {sentence}")), "{why}");
        assert_eq!(why.lines().count(), 1, "{why}");
    }
}

#[test]
fn a_store_whose_binary_is_missing_is_named_with_its_package() {
    let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../benches/peers/run");
    let empty = tempfile::tempdir().unwrap();
    for (name, binary, package) in [
        ("redis", "redis-server", "Debian's package redis-server"),
        ("etcd", "etcd", "Debian's package etcd-server"),
        ("dynomite", "dynomite", "a build of Dynomite"),
    ] {
        let mut command = Command::new("/usr/bin/python3");
        command.arg(&run).arg("--dir").arg(empty.path()).arg(name).env("PATH", empty.path());
        let (code, stated, why) = reported(&command.output().unwrap());
        assert_eq!((code, stated.as_str()), (1, ""), "{why}");
        let sentence =
            format!("benches/peers/run: there is no {binary} in the PATH: it comes with");
        assert!(why.starts_with(&format!("{sentence} {package}")), "{why}");
        assert_eq!(empty.path().read_dir().unwrap().count(), 0, "its folder stays");
    }
}
