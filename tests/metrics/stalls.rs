//! A disk that hangs, and owners that are down: the node says so wherever an operator looks, and
//! nobody waits for it.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use pixii_core::message::{Rejection, Request, Response};
use pixii_core::types::{Blob, WriteId};
use pixii_testkit::daemon::{Daemon, Faulty, get, key, put};
use pixii_testkit::{free_port, until};

use super::Watched;

/// Long enough for a node to notice, and short beside a client's deadline (20 s).
const SOON: Duration = Duration::from_secs(5);

#[test]
fn a_node_whose_disk_hangs_says_so_and_refuses_at_once_until_it_is_over() {
    let store = Arc::new(Faulty::default());
    let watched = Watched::alone(store.clone());
    assert_eq!(watched.samples().of("pixii_store_stalled_seconds"), 0.0);
    let mut client = watched.daemon.client();
    client.query(put("before", b"v"));
    store.hang(true);
    client.data(put("k", b"v"));
    until("readiness", || {
        let (status, body) = watched.look("/readyz");
        (status == 503 && body.contains("its disk has made no progress for")).then_some(())
    });
    assert_eq!(watched.look("/livez").0, 200, "the daemon is alive");
    let seconds = watched.samples().of("pixii_store_stalled_seconds");
    assert!(seconds >= 2.0, "{seconds}");
    let status = watched.daemon.status();
    assert!(!status.serving && status.gauges.store_stalled_seconds >= 2);

    // What needs the disk is refused at once; what does not is answered.
    let begun = Instant::now();
    let mut other = watched.daemon.client();
    for request in [put("l", b"v"), get("k")] {
        let refused = other.query(request);
        let Response::Refused(why) = refused else { panic!("{refused:?}") };
        let busy = matches!(why, Rejection::Busy { .. } | Rejection::Unreachable { .. });
        assert!(busy, "{why:?}");
    }
    assert!(matches!(other.query(get("before")), Response::Found { .. }));
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());

    store.hang(false);
    until("the end of it", || (watched.look("/readyz").0 == 200).then_some(()));
    assert_eq!(watched.samples().of("pixii_store_stalled_seconds"), 0.0);
    let written = client.reply().expect("a reply");
    assert!(format!("{written:?}").contains("Written"), "what waited is done: {written:?}");
    assert!(watched.daemon.status().serving);
}

#[test]
fn nobody_waits_for_an_owner_whose_disk_hangs() {
    let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
    let hung = Arc::new(Faulty::default());
    let stores: [Arc<Faulty>; 3] = [hung.clone(), Arc::default(), Arc::default()];
    let daemons: Vec<Daemon> = stores
        .iter()
        .enumerate()
        .map(|(at, store)| Daemon::start(&ports, at, store.clone()))
        .collect();
    for daemon in &daemons {
        until("a node that serves", || daemon.status().serving.then_some(()));
    }
    hung.hang(true);
    let put = |name: String, w: u8| Request::Put {
        key: key(&name),
        value: Blob(b"v".as_slice().into()),
        context: None,
        write: WriteId(u128::from(w) + 1),
        w: Some(w).into(),
    };
    daemons[1].client().query(put("first".into(), 2));
    until("the stall", || (!daemons[0].status().serving).then_some(()));
    // W of 3 cannot be had without it: that is known at once, not when the deadline has passed.
    let begun = Instant::now();
    let mut client = daemons[1].client();
    for at in 0..8 {
        let unsure = client.query(put(format!("w3-{at}"), 3));
        assert!(!matches!(unsure, Response::Written { .. }), "{unsure:?}");
        let done = client.query(put(format!("w2-{at}"), 2));
        assert!(matches!(done, Response::Written { .. }), "{done:?}");
        let refused = daemons[0].client().query(put(format!("own-{at}"), 2));
        assert!(matches!(refused, Response::Refused(_)), "{refused:?}");
    }
    assert!(begun.elapsed() < 2 * SOON, "{:?}", begun.elapsed());
    hung.hang(false);
    until("the end of it", || daemons[0].status().serving.then_some(()));
}

#[test]
fn an_idle_node_notices_that_its_disk_hangs() {
    let store = Arc::new(Faulty::default());
    let watched = Watched::alone(store.clone());
    thread::sleep(Duration::from_millis(300));
    store.hang(true);
    until("readiness", || (watched.look("/readyz").0 == 503).then_some(()));
    store.hang(false);
    until("the end of it", || (watched.look("/readyz").0 == 200).then_some(()));
}

#[test]
fn readiness_of_a_node_and_health_of_the_cluster_are_two_answers() {
    let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
    let start = |at: usize| Daemon::start(&ports, at, Arc::new(Faulty::default()));
    let watched = Watched::on(&ports);
    let others = [start(1), start(2)];
    let line = "cluster: 16 of 16 partitions of this node cannot be read and written";
    until("a cluster that serves", || {
        (watched.look("/readyz") == (200, "ready\n".into())).then_some(())
    });
    assert_eq!(watched.samples().of("pixii_cluster_unservable_partitions"), 0.0);
    let [one, other] = others;
    drop(one);
    until("one link that is down", || {
        (watched.samples().of("pixii_peer_link_up{peer=\"n1\"}") == 0.0).then_some(())
    });
    assert_eq!(watched.look("/readyz"), (200, "ready\n".into()), "two of three are enough");
    drop(other);
    until("health", || {
        let (status, body) = watched.look("/readyz");
        (status == 200 && body.starts_with("ready\n") && body.contains(line)).then_some(())
    });
    let unservable = watched.samples().of("pixii_cluster_unservable_partitions");
    assert_eq!((unservable, watched.samples().of("pixii_ready")), (16.0, 1.0));
    assert!(watched.look("/").1.contains(line));
    let refused = watched.daemon.client().query(put("k", b"v"));
    assert!(matches!(refused, Response::Refused(Rejection::Unreachable { .. })), "{refused:?}");
}
