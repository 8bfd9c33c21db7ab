//! The client against fake nodes: where requests go, and what is known after a failure.

use std::time::{Duration, Instant};

use bytes::Bytes;
use pixii_client::{Client, ClientError, Options, Write};
use pixii_core::message::{Rejection, ReplicaOutcomes, Resource};
use pixii_core::types::{Key, MAX_VALUE_BYTES, NodeId, Partition};
use pixii_testkit::fake::{Behaviour, Fake};

const TIMEOUT_MS: u32 = 5_000;

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let limit = Duration::from_secs(60);
    runtime.block_on(async { tokio::time::timeout(limit, work).await.expect("a test hangs") })
}

fn key(text: &str) -> Key {
    Key::new(text.as_bytes().to_vec()).unwrap()
}

async fn client(fake: &Fake) -> Client {
    Client::connect(&[fake.address(0)], Options::default()).await.unwrap()
}

fn put<'a>(
    client: &'a Client,
    key: &Key,
    value: &'static str,
    context: Option<Bytes>,
) -> Write<'a> {
    client.put(key, value).seen(context).deadline_ms(TIMEOUT_MS)
}

#[test]
fn requests_go_straight_to_the_first_owner() {
    let fake = Fake::start(5, 3);
    run(async {
        let client = client(&fake).await;
        for number in 0..50 {
            let key = key(&format!("k{number}"));
            let owner = fake.owners(&key)[0];
            let before = fake.queried(owner);
            put(&client, &key, "v", None).await.unwrap();
            let found = client.get(&key).deadline_ms(TIMEOUT_MS).await.unwrap();
            assert_eq!(found.values, ["v"]);
            assert_eq!(fake.queried(owner), before + 2);
        }
        let total: u64 = (0..5).map(|at| fake.queried(at)).sum();
        assert_eq!(total, 100, "nothing is asked twice");
    });
}

#[test]
fn many_requests_share_a_connection() {
    let fake = Fake::start(1, 1);
    run(async {
        let options = Options { in_flight: 8, ..Options::default() };
        let client = Client::connect(&[fake.address(0)], options).await.unwrap();
        let tasks: Vec<_> = (0..500)
            .map(|number| {
                let client = client.clone();
                tokio::spawn(async move {
                    let key = key(&format!("k{number}"));
                    put(&client, &key, "v", None).await.unwrap();
                    client.get(&key).deadline_ms(TIMEOUT_MS).await.unwrap().values.len()
                })
            })
            .collect();
        for task in tasks {
            assert_eq!(task.await.unwrap(), 1);
        }
    });
}

#[test]
fn a_node_that_was_away_a_moment_ago_is_tried_before_it_is_said_that_nobody_is_there() {
    let fake = Fake::start(1, 1);
    run(async {
        let (client, key) = (client(&fake).await, key("k"));
        put(&client, &key, "v", None).await.unwrap();
        fake.kill(0);
        let why = client.get(&key).deadline_ms(TIMEOUT_MS).await.unwrap_err().to_string();
        assert!(why.contains("no node could answer"), "{why}");
        fake.revive(0);
        client.status(Some("n1")).await.expect("an order has no other node to go to");
        assert_eq!(client.get(&key).deadline_ms(TIMEOUT_MS).await.unwrap().values, ["v"]);
    });
}

#[test]
fn an_owner_that_is_gone_is_replaced_by_the_next_and_then_by_any_node() {
    let fake = Fake::start(5, 3);
    run(async {
        let client = client(&fake).await;
        // Owners that do not include the node that the client entered by.
        let key =
            (0..).map(|i| key(&format!("k{i}"))).find(|k| !fake.owners(k).contains(&0)).unwrap();
        let owners = fake.owners(&key);
        put(&client, &key, "v", None).await.unwrap();
        fake.kill(owners[0]);
        let queried = fake.queried(owners[1]);
        // The loss of the connection may be noticed only by the first read, which is then sent
        // again.
        assert_eq!(client.get(&key).deadline_ms(TIMEOUT_MS).await.unwrap().values, ["v"]);
        assert_eq!(fake.queried(owners[1]), queried + 1);
        fake.kill(owners[1]);
        fake.kill(owners[2]);
        let queried = fake.queried(0);
        assert_eq!(client.get(&key).deadline_ms(TIMEOUT_MS).await.unwrap().values, ["v"]);
        assert_eq!(fake.queried(0), queried + 1, "a stranger forwards");
        (0..5).for_each(|at| fake.kill(at));
        let error = client.get(&key).deadline_ms(TIMEOUT_MS).await.unwrap_err();
        assert!(
            matches!(&error, ClientError::Error(why) if why.contains("connection refused")),
            "{error}"
        );
    });
}

#[test]
fn a_write_that_was_sent_and_lost_is_sent_again_and_happens_once() {
    let fake = Fake::start(3, 3);
    run(async {
        let client = client(&fake).await;
        let key = key("k");
        let owner = fake.owners(&key)[0];
        fake.behave(owner, Behaviour::CutOnce(true));
        let written = put(&client, &key, "v", None).await.unwrap();
        assert!(written.repeated);
        assert_eq!(client.get(&key).deadline_ms(TIMEOUT_MS).await.unwrap().values, ["v"]);
        assert_eq!(fake.repeats(), [2]);

        let context = client.get(&key).deadline_ms(TIMEOUT_MS).await.unwrap().context;
        fake.behave(owner, Behaviour::CutOnce(true));
        client.delete(&key).context(context).deadline_ms(TIMEOUT_MS).await.unwrap();
        assert_eq!(client.get(&key).deadline_ms(TIMEOUT_MS).await.unwrap().values.len(), 0);
        let written = put(&client, &key, "w", None).await.unwrap();
        assert!(!written.repeated, "one node was enough");
    });
}

#[test]
fn a_put_that_a_slow_node_carried_out_is_not_called_refused_by_those_that_were_asked_beside_it() {
    let fake = Fake::start(3, 3);
    run(async {
        let client = client(&fake).await;
        let key = key("k");
        put(&client, &key, "before", None).await.unwrap();
        let context = client.get(&key).deadline_ms(TIMEOUT_MS).await.unwrap().context;
        let owners = fake.owners(&key);
        let (slow, others) = (owners[0], &owners[1..]);
        let busy = Behaviour::Refuse(Rejection::Busy { what: Resource::DiskTime, limit: 2_000 });
        others.iter().for_each(|at| fake.behave(*at, busy.clone()));
        let next = fake.queried(slow) + 1;
        fake.behave(slow, Behaviour::StallAt(next, Duration::from_millis(900)));
        let of_slow = async {
            // The others are asked after 500 ms; the slow node answers later, and then takes no
            // note of them.
            tokio::time::sleep(Duration::from_millis(300)).await;
            fake.behave(slow, busy.clone());
        };
        let write = put(&client, &key, "after", Some(context));
        let (written, ()) = tokio::join!(write.into_future(), of_slow);
        assert!(written.unwrap().repeated);
        assert!(others.iter().all(|at| fake.queried(*at) > 0), "they were asked");
        fake.all_behave(&Behaviour::Serve);
        assert_eq!(client.get(&key).deadline_ms(TIMEOUT_MS).await.unwrap().values, ["after"]);
    });
}

#[test]
fn a_client_that_does_not_retry_says_unknown_and_the_write_may_be_repeated_later() {
    let fake = Fake::start(3, 3);
    run(async {
        let options = Options { retry_unknown: false, ..Options::default() };
        let client = Client::connect(&[fake.address(0)], options).await.unwrap();
        let key = key("k");
        let owner = fake.owners(&key)[0];
        fake.behave(owner, Behaviour::CutOnce(true));
        let write = put(&client, &key, "v", None);
        let error = write.clone().await.unwrap_err();
        assert!(matches!(error, ClientError::Unknown(_)), "{error}");
        write.again().await.unwrap();
        assert_eq!(fake.repeats(), [2]);
    });
}

#[test]
fn the_time_in_an_unknown_outcome_is_the_time_that_the_caller_waited() {
    let fake = Fake::start(2, 2);
    run(async {
        let client = client(&fake).await;
        fake.all_behave(&Behaviour::Unknown);
        let begun = Instant::now();
        let key = key("k");
        let putting = put(&client, &key, "v", None).deadline_ms(1_000).into_future();
        // The last node that says how many replicas confirmed it is not the last that is tried.
        let refusing = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            fake.all_behave(&Behaviour::Refuse(Rejection::Stopping));
        };
        let (outcome, ()) = tokio::join!(putting, refusing);
        let (waited, error) = (begun.elapsed().as_millis(), outcome.unwrap_err().to_string());
        let stated = error.split(" in ").nth(1).and_then(|rest| rest.split(' ').next());
        let stated: u128 = stated.unwrap_or_default().parse().unwrap_or_default();
        assert!((waited - 100..=waited).contains(&stated), "{waited} ms, and \"{error}\"");
    });
}

#[test]
fn silence_ends_at_the_deadline() {
    let fake = Fake::start(1, 1);
    run(async {
        let client = client(&fake).await;
        fake.behave(0, Behaviour::Silent);
        let error = put(&client, &key("k"), "v", None).deadline_ms(500).await.unwrap_err();
        assert!(
            matches!(&error, ClientError::Unknown(why) if why.contains("no answer")),
            "{error}"
        );
        let error = client.get(key("k")).deadline_ms(500).await.unwrap_err();
        assert!(matches!(&error, ClientError::Error(why) if why.contains("no answer")), "{error}");
        fake.behave(0, Behaviour::Serve);
        assert_eq!(client.get(key("k")).deadline_ms(TIMEOUT_MS).await.unwrap().values.len(), 0);
    });
}

#[test]
fn rejections_of_the_node_move_on_and_rejections_of_the_request_do_not() {
    let fake = Fake::start(4, 2);
    run(async {
        let client = client(&fake).await;
        let key = key("k");
        let owners = fake.owners(&key);
        fake.behave(owners[0], Behaviour::Refuse(Rejection::Stopping));
        put(&client, &key, "v", None).await.unwrap();
        // A node that stops or is drained is not asked again at once. (A slow test may have let its
        // second pass.)
        let mut passed_by = false;
        for _ in 0..100 {
            let queried = fake.queried(owners[0]);
            put(&client, &key, "v", None).await.unwrap();
            passed_by |= fake.queried(owners[0]) == queried;
            if passed_by {
                break;
            }
        }
        assert!(passed_by);
        let client = self::client(&fake).await;
        let no_space = Rejection::NoSpace { free_bytes: 1, reserve_bytes: 2 };
        fake.behave(owners[0], Behaviour::Refuse(no_space));
        put(&client, &key, "v", None).await.unwrap();
        let unreachable = Rejection::Unreachable {
            reachable: 1,
            needed: 2,
            outcomes: ReplicaOutcomes::default(),
        };
        fake.all_behave(&Behaviour::Refuse(unreachable.clone()));
        let error = client.get(&key).deadline_ms(TIMEOUT_MS).await.unwrap_err();
        assert_eq!(error, ClientError::Refused(unreachable));
        let strangers: u64 =
            (0..4).filter(|at| !owners.contains(at)).map(|at| fake.queried(at)).sum();
        assert_eq!(
            strangers, 2,
            "others may reach what the owners cannot, but two are enough to know"
        );
        let limit = Rejection::Siblings(32);
        fake.all_behave(&Behaviour::Refuse(limit.clone()));
        let queried = fake.queried(owners[1]);
        let error = client.get(&key).deadline_ms(TIMEOUT_MS).await.unwrap_err();
        assert_eq!((error, fake.queried(owners[1])), (ClientError::Refused(limit), queried));
        // A node that did not run for a while is asked again by and by.
        fake.all_behave(&Behaviour::Refuse(Rejection::Paused(300)));
        let later = async {
            tokio::time::timeout(Duration::from_millis(200), std::future::pending::<()>())
                .await
                .ok();
            fake.all_behave(&Behaviour::Serve);
        };
        let write = put(&client, &key, "v", None);
        let (written, ()) = tokio::join!(write.into_future(), later);
        written.unwrap();
    });
}

#[test]
fn limits_are_refused_before_anything_is_sent() {
    let fake = Fake::start(1, 1);
    run(async {
        let client = client(&fake).await;
        let value = Bytes::from(vec![0; MAX_VALUE_BYTES + 1]);
        let large = client.put(key("k"), value).sibling();
        let error = large.await.unwrap_err();
        assert_eq!(error.to_string(), "the value has 1048577 bytes; a value has at most 1048576");
        for timeout_ms in [0, 600_001] {
            let error = client.get(key("k")).deadline_ms(timeout_ms).await.unwrap_err();
            assert_eq!(error, ClientError::Refused(Rejection::Timeout(timeout_ms)));
        }
        assert_eq!(fake.queried(0), 0);
        let value = Bytes::from(vec![7; MAX_VALUE_BYTES]);
        let large = client.put(key("k"), value.clone()).sibling();
        large.await.unwrap();
        assert_eq!(client.get(key("k")).deadline_ms(TIMEOUT_MS).await.unwrap().values, [value]);
    });
}

#[test]
fn addresses_are_tried_in_turn_and_strangers_are_distinguished() {
    let fake = Fake::start(2, 1);
    let noise = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let noisy = noise.local_addr().unwrap().to_string();
    let speaker = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut stream, _) = noise.accept().unwrap();
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = closed.local_addr().unwrap().to_string();
    drop(closed);
    run(async {
        let connect = async |addresses: &[String]| {
            Client::connect(addresses, Options::default())
                .await
                .map(|client| client.cluster().to_string())
        };
        let addresses = [nobody.clone(), fake.address(1)];
        assert_eq!(connect(&addresses).await.unwrap(), "fake");
        let error = connect(&[nobody.clone(), noisy.clone()]).await.unwrap_err().to_string();
        let begin = format!("cannot connect to {nobody}: connection refused, nor to {noisy}: ");
        assert!(error.starts_with(&begin), "{error}");
        assert!(error.contains("an HTTP server answers there"), "{error}");
    });
    speaker.join().unwrap();
}

#[test]
fn members_are_queried_by_name_and_listings_are_paged() {
    let fake = Fake::start(3, 1);
    run(async {
        let client = client(&fake).await;
        assert_eq!(client.status(None).await.unwrap().name, "n1");
        assert_eq!(client.status(Some("n3")).await.unwrap().name, "n3");
        let error = client.status(Some("n9")).await.unwrap_err().to_string();
        assert_eq!(error, "no member is called \"n9\"; the members are n1, n2, n3");
        client.stop("n2").await.unwrap();
        assert!(fake.is_stopped(1));

        // Keys of one partition whose owner is n1.
        let ring = client.ring().clone();
        let owner = |partition| ring.owners(partition) == [NodeId::of("n1")];
        let partition = (0..16).map(Partition).find(|partition| owner(*partition)).unwrap();
        let keys = (0..).map(|number| key(&format!("k{number}")));
        let keys: Vec<Key> = keys.filter(|key| ring.partition(key) == partition).take(5).collect();
        for key in &keys {
            put(&client, key, "v", None).await.unwrap();
        }
        let (mut listed, mut after) = (Vec::new(), None);
        loop {
            let page = client.keys(partition, after, 1_024, None, TIMEOUT_MS).await.unwrap();
            listed.extend(page.keys);
            after = listed.last().cloned();
            if !page.more {
                break;
            }
        }
        assert!(listed.is_sorted());
        assert!(listed.len() == 5 && keys.iter().all(|key| listed.contains(key)));
    });
}

#[test]
fn write_ids_differ_between_clients_and_calls() {
    let fake = Fake::start(1, 1);
    run(async {
        let (a, b) = (client(&fake).await, client(&fake).await);
        let mut ids: Vec<_> = (0..100).flat_map(|_| [a.write_id(), b.write_id()]).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 200);
    });
}
