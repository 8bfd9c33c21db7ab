//! What a write replaces, row by row of the table in docs/concepts/writes-and-contexts.md, on real
//! daemons, with and without a partition.

use std::future::IntoFuture;

use pixii_client::{Client, ClientError, Options};
use pixii_core::message::{Quorum, Rejection, Request, Response, WriteRule};
use pixii_core::types::{Blob, Key};
use pixii_testkit::cluster::TestCluster;
use pixii_testkit::until;
use tokio::runtime::{Builder, Runtime};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

async fn client(cluster: &TestCluster, name: &str) -> Client {
    Client::connect(&[cluster.address(name).to_owned()], Options::default()).await.unwrap()
}

#[test]
fn every_rule_holds_while_all_nodes_are_there() {
    let cluster = TestCluster::start(5);
    let key = &*cluster.key_of(["n1", "n2", "n3"]);
    let run = |node: &str, arguments: &[&str]| {
        let connect = ["--connect", cluster.address(node)];
        cluster.run(&[&arguments[..1], &connect, &arguments[1..]].concat())
    };
    let value = |node: &str| run(node, &["get", key]).done().to_owned();
    let context = || run("n1", &["get", key, "--print-context"]).done().trim().to_owned();
    // Without a context: one after the other, through any node.
    for (node, text) in [("n1", "a"), ("n3", "b"), ("n4", "c"), ("n2", "d")] {
        assert_eq!(run(node, &["put", key, text]).done(), "");
        assert_eq!(value("n5"), text);
    }
    // With a context: what it covers, and nothing else.
    let old = context();
    run("n1", &["put", key, "e"]).done();
    assert_eq!(run("n1", &["put", key, "f", "--context", &old]).code, 0);
    assert_eq!(run("n1", &["get", key]).code, 6);
    // A conflict is refused, and nothing is written.
    for refused in [&["put", key, "g"][..], &["delete", key]] {
        let refused = run("n2", refused);
        let (code, err) = refused.stated();
        assert!(code == 6 && err.contains("the key has 2 siblings: read it"), "{err}");
    }
    let shown = run("n1", &["get", key, "--print-context"]);
    run("n1", &["put", key, "h", "--context", shown.out.trim()]).done();
    assert_eq!(value("n3"), "h");
    // A sibling replaces nothing.
    run("n1", &["put", key, "i", "--sibling"]);
    let both = run("n1", &["get", key, "--print-context"]);
    assert_eq!(both.code, 6);
    run("n1", &["delete", key, "--context", both.out.trim()]).done();
    assert_eq!(run("n1", &["delete", key]).code, 3);
    // Conditions.
    run("n2", &["put", key, "j", "--if-absent"]).done();
    assert_eq!(run("n3", &["put", key, "k", "--if-absent"]).code, 7);
    let seen = context();
    run("n4", &["put", key, "l", "--if-context", &seen]).done();
    assert_eq!(run("n1", &["put", key, "m", "--if-context", &seen]).code, 7);
    assert_eq!(run("n1", &["delete", key, "--if-context", &seen]).code, 7);
    assert_eq!(value("n1"), "l");
    run("n5", &["delete", key]).done();
    assert_eq!(run("n1", &["get", key]).code, 3);
}

#[test]
fn puts_at_once_on_one_key_are_all_taken_and_leave_one_value() {
    let cluster = TestCluster::start(3);
    runtime().block_on(async {
        let client = client(&cluster, "n1").await;
        let put = |number: u32| {
            let client = client.clone();
            async move {
                for round in 0..8 {
                    client.put("hot", format!("{number}/{round}")).deadline_ms(20_000).await?;
                }
                Ok::<(), ClientError>(())
            }
        };
        let puts: Vec<_> = (0..64).map(|number| tokio::spawn(put(number))).collect();
        for put in puts {
            put.await.unwrap().unwrap();
        }
        assert_eq!(client.get("hot").await.unwrap().values.len(), 1);
    });
}

/// A put that is sent to one node alone.
async fn at(
    client: &Client,
    node: &str,
    (key, value): (&str, &str),
    (rule, r, strict): (WriteRule, Option<u8>, bool),
    timeout_ms: u32,
) -> Result<Response, ClientError> {
    let key = Key::new(key.to_owned()).unwrap();
    let (value, write) = (Some(Blob(value.to_owned().into())), client.write_id());
    let w = Quorum { replicas: None, strict: Some(strict) };
    let request = Request::Decide { key, value, rule, write, again: false, r, w };
    client.query(node, request, timeout_ms).await
}

#[test]
fn a_partition_makes_siblings_of_plain_puts_and_of_conditions_that_asked_too_few_owners() {
    let mut cluster = TestCluster::create(5);
    cluster.cluster.allow_emulation().unwrap();
    cluster.start_all();
    let keys: Vec<String> = cluster.keys_of(["n1", "n2", "n3"], 3);
    let runtime = runtime();
    let client = runtime.block_on(client(&cluster, "n1"));
    let put = |node, pair, rule: (WriteRule, Option<u8>, bool)| {
        runtime.block_on(at(&client, node, pair, rule, 20_000))
    };
    let written =
        |outcome: &Result<Response, ClientError>| matches!(outcome, Ok(Response::Written { .. }));
    for key in &keys[1..] {
        runtime.block_on(client.put(key.as_str(), "before").into_future()).unwrap();
    }
    // n1 and n4 on one side, the others on the other one.
    let rules = "n1 <-> n2 cut; n1 <-> n3 cut; n1 <-> n5 cut; n4 <-> n2 cut; n4 <-> n3 cut; \
                 n4 <-> n5 cut";
    cluster.run(&["emulate", "set", rules]).done();
    let [probe, plain, once] = [0, 1, 2].map(|at| keys[at].as_str());
    let cover = || (WriteRule::Cover, None, false);
    for node in ["n1", "n2"] {
        until("each side works without the other", || {
            let put = at(&client, node, (probe, "x"), cover(), 2_000);
            written(&runtime.block_on(put)).then_some(())
        });
    }
    for (node, value) in [("n1", "one"), ("n2", "two"), ("n2", "three")] {
        let outcome = put(node, (plain, value), cover());
        assert!(written(&outcome), "{value}: {outcome:?}");
    }
    // Fewer than R owners: neither a strict put nor a condition.
    for rule in [(WriteRule::Cover, None, true), (WriteRule::IfAbsent, None, false)] {
        let outcome = put("n1", (once, "one"), rule);
        let refused = matches!(
            outcome,
            Ok(Response::Refused(Rejection::Unreachable { reachable: 1, needed: 2, .. }))
        );
        assert!(refused, "{outcome:?}");
    }
    // Who asks for less has both conditions hold, and both values to be seen.
    let context = |node| {
        let get = Request::Get { key: Key::new(once.to_owned()).unwrap(), r: Some(1).into() };
        match runtime.block_on(client.query(node, get, 3_000)) {
            Ok(Response::Found { context, .. }) => context,
            other => panic!("{other:?}"),
        }
    };
    for node in ["n1", "n2"] {
        let rule = (WriteRule::IfContext(context(node)), Some(1), false);
        let outcome = put(node, (once, node), rule);
        assert!(written(&outcome), "{outcome:?}");
    }
    cluster.run(&["emulate", "clear"]).done();
    // A put asks R owners, any of which may be the last one that gets what the others have.
    until("every hint is at its owner", || {
        let names = ["n1", "n2", "n3", "n4", "n5"];
        let hints = |name| cluster.status(name).peers.iter().map(|peer| peer.hints).sum::<u64>();
        names.into_iter().all(|name| hints(name) == 0).then_some(())
    });
    let healed = |key: &str| {
        until("both values are there", || {
            let found = runtime.block_on(client.get(key).r(3).into_future()).ok()?;
            (found.values.len() == 2).then_some(found)
        })
    };
    let mut values = healed(plain).values;
    values.sort();
    assert_eq!(values, ["one", "three"]);
    let mut values = healed(once).values;
    values.sort();
    assert_eq!(values, ["n1", "n2"]);
    // Nobody's value is erased by somebody who was not shown it.
    assert_eq!(cluster.run(&["put", plain, "four"]).code, 6);
    let update = client.update(plain, |mut values| {
        values.sort();
        values.concat().into()
    });
    // A fallback may count while links come up again: a read need not ask it.
    let strict = Quorum { replicas: None, strict: Some(true) };
    runtime.block_on(update.w(strict).into_future()).unwrap();
    let found = runtime.block_on(client.get(plain).r(3).into_future()).unwrap();
    assert_eq!(found.values, ["onethree"]);
}
