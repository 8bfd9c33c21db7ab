//! A load, its ledger and its verification against a real daemon on a store in memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pixii_client::{Client, Options};
use pixii_core::store::memory::MemoryStore;
use pixii_core::types::Key;
use pixii_testkit::daemon::Daemon;
use pixii_testkit::free_port;
use tokio::time::sleep;

use super::ledger::{Ledger, Violation, verify, verify_recent};
use super::workload::arrivals::Arrivals;
use super::workload::choice::{Choice, Sizes};
use super::workload::{Kind, Load, Mix, Report, Spec};

const DEADLINE: Duration = Duration::from_secs(30);

/// A daemon with an empty store. Dropping it stops the daemon.
fn start(port: u16) -> Daemon {
    Daemon::start(&[port], 0, Arc::new(MemoryStore::default()))
}

async fn connect(port: u16) -> Client {
    let (begun, addresses) = (Instant::now(), [format!("127.0.0.1:{port}")]);
    loop {
        match Client::connect(&addresses, Options::default()).await {
            Ok(client) => return client,
            Err(failure) => assert!(begun.elapsed() < DEADLINE, "{failure}"),
        }
        sleep(Duration::from_millis(5)).await;
    }
}

fn spec(choice: Choice) -> Spec {
    Spec {
        clients: 8,
        arrivals: None,
        mix: Mix { get: 0.2, put: 0.5, blind: 0.2, delete: 0.1, ..Mix::default() },
        prefix: "k".into(),
        keys: 40,
        choice,
        sizes: Sizes { usual: 100, large: 70_000, large_share: 0.05 },
        r: None,
        w: None,
        timeout_ms: 20_000,
        operations: Some(1_000),
        duration: None,
        warm_up: Duration::ZERO,
        samples: 0,
        seed: 11,
    }
}

fn done(report: &Report) -> u64 {
    report.kinds.values().map(|totals| totals.done() + totals.refused + totals.unknown).sum()
}

#[tokio::test]
async fn what_was_acknowledged_is_there_and_what_is_gone_or_strange_is_reported() {
    let (port, dir) = (free_port(), tempfile::tempdir().unwrap());
    let daemon = start(port);
    let client = connect(port).await;
    let ledger = Ledger::open(&dir.path().join("ledger")).unwrap();
    for choice in [Choice::Uniform, Choice::Zipf(0.99), Choice::Sweep] {
        let report = Load::start(&client, spec(choice), Some(&ledger)).finish().await.unwrap();
        assert!(done(&report) >= 900, "reads for a context come on top: {}", done(&report));
        let kinds: Vec<Kind> = report.kinds.keys().copied().collect();
        assert_eq!(kinds, [Kind::Get, Kind::Put, Kind::Blind, Kind::Delete]);
        let verdict = verify_recent(&client, &ledger, 1).await.unwrap();
        assert!(verdict.is_clean(), "seed 11, {choice:?}: {verdict:?}");
    }
    let verdict = verify(&client, &ledger, 1).await.unwrap();
    assert!(verdict.is_clean() && verdict.keys == 40 && verdict.counts.acknowledged > 1_000);
    let alive = verdict.values;
    assert!(alive > 0);

    let key = Key::new(&b"k00000001"[..]).unwrap();
    let context = Some(client.get(&key).deadline_ms(20_000).await.unwrap().context);
    let value = Bytes::from_static(b"a stranger's value");
    client.put(&key, value).seen(context).deadline_ms(20_000).await.unwrap();
    let verdict = verify(&client, &ledger, 1).await.unwrap();
    let strange = verdict.findings.iter().filter(|finding| finding.fault == Violation::Foreign);
    assert_eq!(strange.map(|finding| &finding.key).collect::<Vec<_>>(), [&key]);

    drop(daemon);
    let _empty = start(port);
    let verdict = verify(&connect(port).await, &ledger, 1).await.unwrap();
    assert!(verdict.lost >= alive && verdict.lost == verdict.faults, "{verdict:?}");
}

#[tokio::test]
async fn a_load_of_own_keys_needs_no_reads_and_makes_no_siblings() {
    let (port, dir) = (free_port(), tempfile::tempdir().unwrap());
    let _daemon = start(port);
    let client = connect(port).await;
    let ledger = Ledger::open(&dir.path().join("ledger")).unwrap();
    let mix = Mix { put: 1.0, ..Mix::default() };
    let load = Load::start(&client, Spec { mix, ..spec(Choice::Own) }, Some(&ledger));
    let report = load.finish().await.unwrap();
    assert_eq!(report.kind(Kind::Put).unwrap().done(), 1_000);
    assert!(report.kind(Kind::Get).is_none());
    let verdict = verify(&client, &ledger, 1).await.unwrap();
    assert!(verdict.is_clean() && verdict.values == verdict.keys, "{verdict:?}");
}

#[tokio::test]
async fn a_load_ends_when_it_is_ordered_to() {
    let port = free_port();
    let _daemon = start(port);
    let client = connect(port).await;
    let load = Load::start(&client, Spec { operations: None, ..spec(Choice::Uniform) }, None);
    let begun = Instant::now();
    while load.begun() < 100 {
        assert!(begun.elapsed() < DEADLINE);
        sleep(Duration::from_millis(1)).await;
    }
    let report = load.stop().await.unwrap();
    assert!(done(&report) >= 50);
}

#[tokio::test]
async fn at_a_rate_what_waits_in_the_client_counts_as_well() {
    let port = free_port();
    let _daemon = start(port);
    let client = connect(port).await;
    let arrivals = Some(Arrivals { rate: 200.0, is_random: false, burst: None });
    let (mix, duration) = (Mix { get: 1.0, ..Mix::default() }, Some(Duration::from_secs(1)));
    let spec =
        Spec { clients: 500, arrivals, mix, operations: None, duration, ..spec(Choice::Uniform) };
    let (load, begun) = (Load::start(&client, spec, None), Instant::now());
    while load.begun() < 20 {
        assert!(begun.elapsed() < DEADLINE);
        sleep(Duration::from_millis(1)).await;
    }
    // The only thread of this runtime does nothing else: 60 of 199 requests leave late.
    std::thread::sleep(Duration::from_millis(300));
    let report = load.finish().await.unwrap();
    let gets = report.kind(Kind::Get).unwrap();
    assert_eq!((gets.done(), report.overdue), (199, 0));
    assert!(gets.latency.value_at_quantile(0.9) > 100_000, "{:?}", gets.latency.max());
}
