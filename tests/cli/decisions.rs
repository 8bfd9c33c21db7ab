//! Writes without a context and under conditions, from the client library to fake nodes.

use std::future::IntoFuture;
use std::time::{Duration, Instant};

use pixii_client::{Client, ErrorKind, Options};
use pixii_core::message::{Rejection, Resource};
use pixii_core::types::Key;
use pixii_testkit::fake::{Behaviour, Fake};

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

async fn client(fake: &Fake) -> Client {
    Client::connect(&[fake.address(0)], Options::default()).await.unwrap()
}

#[test]
fn the_kind_of_an_error_says_what_to_do() {
    let fake = Fake::start(3, 3);
    run(async {
        let client = client(&fake).await;
        client.put("k", "one").await.unwrap();
        let context = client.get("k").await.unwrap().context;
        client.put("k", "two").await.unwrap();
        assert_eq!(client.get("k").await.unwrap().values, ["two"], "puts make no siblings");
        let kind = |outcome: Result<_, pixii_client::ClientError>| outcome.unwrap_err().kind();
        assert_eq!(kind(client.put("k", "v").if_absent().await), ErrorKind::Condition);
        let changed = client.put("k", "v").if_context(context.clone()).await;
        assert_eq!(kind(changed), ErrorKind::Condition);
        client.put("k", "three").context(context).await.unwrap();
        assert_eq!(kind(client.put("k", "v").await), ErrorKind::Conflict);
        assert_eq!(kind(client.delete("k").await), ErrorKind::Conflict);
        client.update("k", |values| values.concat().into()).await.unwrap();
        assert_eq!(client.get("k").await.unwrap().values.len(), 1);
        client.delete("k").await.unwrap();
        assert_eq!(kind(client.delete("k").await), ErrorKind::Absent);
        client.put("k", "four").if_absent().await.unwrap();
        assert_eq!(kind(client.put("", "v").await), ErrorKind::Refused);
        for (why, expected) in [
            (Rejection::BadContext, ErrorKind::Refused),
            (
                Rejection::Unreachable { reachable: 1, needed: 2, outcomes: Default::default() },
                ErrorKind::NoQuorum,
            ),
        ] {
            fake.all_behave(&Behaviour::Refuse(why));
            assert_eq!(kind(client.put("k", "v").await), expected);
        }
        fake.all_behave(&Behaviour::Unknown);
        assert_eq!(kind(client.put("k", "v").deadline_ms(300).await), ErrorKind::Unknown);
        (0..3).for_each(|at| fake.kill(at));
        // A connection that ends may have carried it out; none that is opened has.
        let _ = client.put("k", "v").deadline_ms(300).await;
        assert_eq!(kind(client.put("k", "v").deadline_ms(300).await), ErrorKind::Connection);
    });
}

#[test]
fn a_put_is_at_one_node_at_a_time_and_given_up_before_the_next_one_gets_it() {
    let fake = Fake::start(3, 3);
    let key = Key::new("k").unwrap();
    let owners = fake.owners(&key);
    fake.behave(owners[0], Behaviour::Silent);
    run(async {
        let client = client(&fake).await;
        let begun = Instant::now();
        client.put(&key, "v").deadline_ms(3_000).await.unwrap();
        let took = begun.elapsed().as_millis();
        assert!((500..2_500).contains(&took), "{took} ms");
        assert_eq!((fake.queried(owners[0]), fake.queried(owners[1])), (1, 1));
        assert_eq!(fake.repeats(), [1], "and was not hedged meanwhile");
    });
    // It reads what it is sent, though it does not answer.
    let since = Instant::now();
    while fake.given_up(owners[0]) == 0 {
        assert!(since.elapsed().as_secs() < 10, "the silent node hears that it was given up");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_busy_issuer_is_asked_again_and_no_other_node_beside_it() {
    let fake = Fake::start(3, 3);
    let key = Key::new("k").unwrap();
    let owners = fake.owners(&key);
    let busy = |what| Behaviour::Refuse(Rejection::Busy { what, limit: 128 });
    fake.behave(owners[0], busy(Resource::KeyQueue));
    run(async {
        let client = client(&fake).await;
        let put = client.put(&key, "v").into_future();
        let (put, ()) = tokio::join!(put, async {
            let since = Instant::now();
            while fake.queried(owners[0]) < 3 {
                assert!(since.elapsed().as_secs() < 10, "the busy issuer is not asked again");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            fake.behave(owners[0], Behaviour::Serve);
        });
        put.unwrap();
        assert_eq!((fake.queried(owners[1]), fake.queried(owners[2])), (0, 0));
        // A disk that hangs is not waited for.
        fake.behave(owners[0], busy(Resource::DiskTime));
        client.put(&key, "w").await.unwrap();
        assert_eq!(fake.queried(owners[1]), 1);
    });
}

#[test]
fn a_write_under_a_condition_and_a_delete_are_not_repeated_when_the_outcome_is_unknown() {
    let fake = Fake::start(3, 3);
    run(async {
        let client = client(&fake).await;
        fake.all_behave(&Behaviour::Unknown);
        let queried = || (0..3).map(|at| fake.queried(at)).sum::<u64>();
        let outcome = client.put("k", "v").if_absent().await;
        assert_eq!((outcome.unwrap_err().kind(), queried()), (ErrorKind::Unknown, 1));
        let outcome = client.delete("k").await;
        assert_eq!((outcome.unwrap_err().kind(), queried()), (ErrorKind::Unknown, 2));
    });
}
