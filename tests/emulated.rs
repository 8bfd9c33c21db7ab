//! The emulated network of a daemon in this process, and members that come back elsewhere.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pixii::config::Config;
use pixii::engine::MAX_CALLS;
use pixii_core::members::{Incarnation, Member, Members};
use pixii_core::message::{CallBody, Counter, EmulateOrder, ReplyBody};
use pixii_core::node::Experiment;
use pixii_core::store::memory::MemoryStore;
use pixii_core::store::{Change, Store};
use pixii_core::types::NodeId;
use pixii_core::wire::{self, Hello, Welcome};
use pixii_testkit::daemon::{Client, Daemon, Raw, config_text, get, put, values};
use pixii_testkit::{free_port, until};

const ALLOWED: &str = "allow_emulation = true\n";

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, Path::new("p.toml")).map_err(|error| error.to_string())
}

/// A daemon alone, with these lines in its configuration.
fn alone(lines: &str) -> Daemon {
    let port = free_port();
    let config = parse(&format!("{lines}{}", config_text("n0", &[port], 0))).unwrap();
    let daemon = Daemon::with(config, port, Arc::new(MemoryStore::default()));
    until("a node that serves", || daemon.status().serving.then_some(()));
    daemon
}

fn order(client: &mut Client, order: EmulateOrder) -> Result<Vec<String>, String> {
    match client.call(CallBody::Emulate(order)) {
        ReplyBody::Emulated(reported) => reported.map_err(|why| why.to_string()),
        other => panic!("{other:?}"),
    }
}

fn counter(client: &mut Client, counter: Counter) -> u64 {
    client.status().count(counter)
}

#[test]
fn rules_in_a_configuration_are_checked() {
    let good = config_text("n0", &[1, 2, 3], 0);
    let with = |lines: &str| parse(&format!("{lines}\n{good}"));
    let config =
        with("allow_emulation = true\nemulation = [\"n0 -> n1 cut\", \"* -> * drop 0.5\"]");
    assert_eq!(config.unwrap().emulation.len(), 2);
    let config =
        with("allow_emulation = true\nexperiment = [\"no-hedges\", \"own-link\"]").unwrap();
    let expected = Experiment { no_hedges: true, own_link: true, ..Experiment::default() };
    assert_eq!(config.experiment, expected);
    let config = with("emulation_seed = 7").unwrap();
    assert_eq!((config.emulation_seed, config.allow_emulation), (Some(7), false));
    for (lines, stated) in [
        ("emulation = [\"n0 -> n1 cut\"]", "emulated only with allow_emulation = true"),
        ("emulation_seed = -1", "emulation_seed = -1: emulation_seed is 0 to 9223372036854775807"),
        (
            "allow_emulation = true\nemulation = [\"n0 -> n1 drop 2\"]",
            "p.toml: emulation: the rule \"n0 -> n1 drop 2\": drop = 2: drop is a number from 0 \
             to 1",
        ),
        ("allow_emulation = true\nemulation = [\"n0 -> n9 cut\"]", "no member is called \"n9\""),
        ("experiment = [\"no-hedges\"]", "measured otherwise only with allow_emulation = true"),
        (
            "allow_emulation = true\nexperiment = [\"ask-all\", \"hurry\"]",
            "experiment: \"hurry\" is none of no-read-repair, no-hedges, ask-all, own-link",
        ),
    ] {
        let error = with(lines).unwrap_err();
        assert!(error.contains(stated) && error.lines().count() == 1, "{error}");
    }
}

#[test]
fn nothing_is_emulated_unless_the_configuration_allows_it() {
    let daemon = alone("");
    let mut client = daemon.client();
    let rules = || EmulateOrder::Set("* -> client cut".into());
    for what in [rules(), EmulateOrder::Show, EmulateOrder::Clear] {
        let why = order(&mut client, what).unwrap_err();
        assert!(why.contains("configuration of n0 does not say allow_emulation = true"), "{why}");
    }
    assert!(client.status().emulated.is_empty());
    assert!(values(client.query(get("k"))).is_empty(), "it serves");

    let daemon = alone(ALLOWED);
    let mut client = daemon.client();
    for (text, stated) in
        [("n0 -> n5 cut", "no member is called \"n5\""), (" ; ", "no rule was given")]
    {
        let why = order(&mut client, EmulateOrder::Set(text.into())).unwrap_err();
        assert!(why.contains(stated), "{why}");
    }
    assert_eq!(order(&mut client, EmulateOrder::Show), Ok(vec![]));
}

#[test]
fn a_lost_answer_takes_no_slot_and_orders_always_get_through() {
    let daemon = alone(&format!("{ALLOWED}emulation = [\"n0 -> client drop 1\"]\n"));
    let mut client = daemon.client();
    let calls = 2 * MAX_CALLS as u64;
    // Lost one by one: each slot is free again when the node has answered.
    for nth in 0..calls {
        client.data(get(&format!("k{nth}")));
        if nth % 512 == 511 {
            until("answers are lost", || {
                (counter(&mut client, Counter::EmulatedDropped) == nth + 1).then_some(())
            });
        }
    }
    assert_eq!(client.status().emulated, ["n0 -> client drop 1"]);
    let rules = EmulateOrder::Set("client -> n0 cut".into());
    assert_eq!(order(&mut client, rules), Ok(vec!["client -> n0 cut".into()]));
    for _ in 0..10 {
        client.data(put("cut", b"v"));
    }
    until("calls are cut", || (counter(&mut client, Counter::EmulatedCut) == 10).then_some(()));
    assert_eq!(order(&mut client, EmulateOrder::Clear), Ok(vec![]));
    assert!(values(client.query(get("cut"))).is_empty(), "no call that was cut has arrived");
    assert_eq!(counter(&mut client, Counter::CallsRefusedBusy), 0);
}

#[test]
fn calls_and_answers_are_late_and_arrive_at_a_stop() {
    let daemon = alone(ALLOWED);
    let mut client = daemon.client();
    let text = "client -> n0 delay fixed 20ms; n0 -> client delay fixed 30ms fifo";
    order(&mut client, EmulateOrder::Set(text.into())).unwrap();
    let begun = Instant::now();
    client.query(put("k", b"v"));
    let taken = begun.elapsed();
    assert!(taken >= Duration::from_millis(49), "{taken:?}");
    assert_eq!(counter(&mut client, Counter::EmulatedDelayed), 2);
    // What waits when the rules go arrives; so does what waits when the node stops.
    order(&mut client, EmulateOrder::Set("n0 -> client delay fixed 600s".into())).unwrap();
    let waiting = client.data(get("k"));
    until("it waits", || (counter(&mut client, Counter::EmulatedDelayed) == 3).then_some(()));
    client.send(CallBody::Emulate(EmulateOrder::Clear));
    assert_eq!(client.reply().unwrap().id, waiting);
    assert_eq!(client.reply().unwrap().body, ReplyBody::Emulated(Ok(vec![])));
    order(&mut client, EmulateOrder::Set("n0 -> client delay fixed 600s".into())).unwrap();
    let waiting = client.data(get("k"));
    until("it waits", || (counter(&mut client, Counter::EmulatedDelayed) == 4).then_some(()));
    daemon.query_to_stop();
    assert_eq!(client.reply().unwrap().id, waiting);
    daemon.ended().unwrap();
}

#[test]
fn a_rule_about_a_kind_leaves_others_and_the_own_link_is_emulated_if_ordered_to() {
    let lines =
        format!("{ALLOWED}experiment = [\"own-link\"]\nemulation = [\"* -> * acks cut\"]\n");
    let daemon = alone(&lines);
    let mut client = daemon.client();
    // The own confirmation is lost: that it is held never comes to the coordinator.
    let mut writer = daemon.client();
    writer.data(put("k", b"v"));
    until("the confirmation is cut", || {
        (counter(&mut client, Counter::EmulatedCut) > 0).then_some(())
    });
    let rules = EmulateOrder::Set("* -> * acks cut; * -> * answers delay fixed 20ms".into());
    order(&mut client, rules).unwrap();
    let begun = Instant::now();
    let held = values(client.query(get("k")));
    assert_eq!(held.len(), 1, "it is held all the same");
    assert!(begun.elapsed() >= Duration::from_millis(20), "{:?}", begun.elapsed());
}

#[test]
fn a_member_is_dialed_where_the_store_remembers_it() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let moved_to = listener.local_addr().unwrap().to_string();
    let store = Arc::new(MemoryStore::default());
    let ports = [free_port(), free_port()];
    let remembered = |name: &str, address: &str| Member {
        incarnation: Incarnation(5),
        ..Member::configured(name, address)
    };
    let list = vec![remembered("n0", "127.0.0.1:9"), remembered("n1", &moved_to)];
    store.apply(&[Change::Members(Members::new(list))]).unwrap();
    let daemon = Daemon::start(&ports, 0, store);
    let mut raw = Raw::on(listener.accept().unwrap().0);
    raw.preamble();
    let hello: Hello = raw.receive().unwrap();
    assert!(matches!(hello, Hello::Member { to, .. } if to == NodeId::of("n1")));
    let welcome = Welcome::Accepted { cluster: "test".into(), name: "n1".into() };
    raw.send(&[&wire::preamble()[..], &wire::frame(&welcome)].concat());
    let mut client = daemon.client();
    let peer = until("the link", || client.status().peers.into_iter().find(|peer| peer.up));
    assert_eq!(peer.address, moved_to);
    let ReplyBody::Ring(ring) = client.call(CallBody::Ring) else { panic!("the ring") };
    let own = ring.members.get(NodeId::of("n0")).unwrap();
    assert_eq!(own.address, format!("127.0.0.1:{}", ports[0]), "its own, as it is configured");
}
