use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

use bytes::BytesMut;

use super::resp::{Reply, put_command, take_reply};
use super::*;

const WAIT: Duration = Duration::from_secs(5);

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// A server that answers each read with the next of these byte strings, and then closes the
/// connection.
fn server(answers: &'static [&'static [u8]]) -> (String, thread::JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serve = move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut heard, mut bytes) = (Vec::new(), [0; 4_096]);
        for answer in answers {
            let count = stream.read(&mut bytes).unwrap();
            heard.extend_from_slice(&bytes[..count]);
            stream.write_all(answer).unwrap();
        }
        heard
    };
    (address, thread::spawn(serve))
}

fn redis(address: &str, wait: u8) -> Peer {
    Peer { protocol: Protocol::Redis { wait }, address: address.into() }
}

#[test]
fn a_reply_is_taken_whole_or_not_at_all() {
    let bytes = b"+OK\r\n-ERR no\r\n:-3\r\n$5\r\na\r\nbc\r\n$-1\r\n*2\r\n:1\r\n$0\r\n\r\n*-1\r\n";
    let wanted = [
        Reply::Simple("OK".into()),
        Reply::Error("ERR no".into()),
        Reply::Integer(-3),
        Reply::Bulk(Some("a\r\nbc".into())),
        Reply::Bulk(None),
        Reply::Array(vec![Reply::Integer(1), Reply::Bulk(Some("".into()))]),
        Reply::Array(Vec::new()),
    ];
    // Byte by byte: nothing is taken before it is complete, and nothing is lost.
    let (mut input, mut found) = (BytesMut::new(), Vec::new());
    for byte in bytes {
        input.extend_from_slice(&[*byte]);
        found.extend(take_reply(&mut input).unwrap());
    }
    assert_eq!((found.as_slice(), input.len()), (wanted.as_slice(), 0));
    let mut out = BytesMut::new();
    put_command(&mut out, &[b"SET", b"k", b"\r\n"]);
    assert_eq!(&out[..], b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\n\r\n\r\n");
}

#[test]
fn what_is_no_reply_is_refused_and_shown() {
    let long = [b'+'; 5_000];
    for bytes in [
        &b"HTTP/1.1 400 Bad Request\r\n"[..],
        b"PIXII\r\n\x1a",
        b":three\r\n",
        b"$-2\r\n",
        b"$99999999999\r\n",
        b"$1\r\nabc",
        b"*5000\r\n",
        b"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n",
        b"+OK\n",
        &long,
    ] {
        let why = take_reply(&mut BytesMut::from(bytes)).unwrap_err();
        assert!(why.starts_with("it does not speak the redis protocol: it answered \""), "{why}");
        assert!(why.len() < 320 && !why.contains('\r'), "{why}");
    }
}

#[test]
fn a_url_is_read_or_named() {
    let parse = |text, wait| Peer::parse(text, wait);
    let peer = parse("redis://127.0.0.1:6379/", Some(1)).unwrap();
    assert_eq!(
        (peer.url().as_str(), peer.put_name().as_str()),
        ("redis://127.0.0.1:6379", "SET + WAIT 1")
    );
    assert_eq!(parse("etcd://[::1]:2379", None).unwrap().protocol, Protocol::Etcd);
    for (text, wait, why) in [
        (
            "127.0.0.1:6379",
            None,
            "\"127.0.0.1:6379\" is neither redis://HOST:PORT nor etcd://HOST:PORT",
        ),
        ("http://x:1", None, "\"http://x:1\" is neither redis://HOST:PORT nor etcd://HOST:PORT"),
        ("redis://x", None, "\"redis://x\" has no HOST:PORT, as in redis://127.0.0.1:6379"),
        ("redis://:1", None, "\"redis://:1\" has no HOST:PORT, as in redis://127.0.0.1:6379"),
        (
            "redis://x:99999",
            None,
            "\"redis://x:99999\" has no HOST:PORT, as in redis://127.0.0.1:6379",
        ),
        ("etcd://x:1", Some(1), "--against-wait is of the redis protocol; etcd has no such thing"),
    ] {
        assert_eq!(parse(text, wait).unwrap_err(), why);
    }
}

#[test]
fn a_server_that_is_not_what_it_should_be_is_one_sentence() {
    let cases: [(&'static [&'static [u8]], &str); 5] = [
        (&[], "the server closed the connection"),
        (
            &[b"HTTP/1.1 400 Bad Request\r\n\r\n"],
            "it does not speak the redis protocol: it answered \"HTTP/1.1 400 Bad \
             Request\\r\\n\\r\\n\"",
        ),
        (&[b"-NOAUTH Authentication required.\r\n"], "it refuses: NOAUTH Authentication required."),
        (&[b":1\r\n"], "it answers PING with Integer(1)"),
        (&[b"+PO"], "the server closed the connection"),
    ];
    for (answers, wanted) in cases {
        let (address, thread) = server(answers);
        let why = runtime().block_on(redis(&address, 0).connect()).unwrap_err();
        // A server that closes with bytes unread resets the connection.
        let broke = format!("redis://{address}: the connection broke: ");
        let closed = wanted.contains("closed") && why.starts_with(&broke);
        assert!(closed || why == format!("redis://{address}: {wanted}"), "{why}");
        thread.join().unwrap();
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let why = runtime().block_on(redis(&address, 0).connect()).unwrap_err();
    assert!(why.starts_with(&format!("redis://{address}: Connection refused")), "{why}");
}

#[test]
fn a_write_counts_once_as_many_replicas_have_it_as_were_queried_for() {
    type Case = (&'static [&'static [u8]], Result<(), Violation>);
    let unknown = |why: &str| Err(Violation::Failed(ClientError::Unknown(why.into())));
    let broken = |why: &str| Err(Violation::Broken(why.into()));
    let cases: [Case; 5] = [
        (&[b"+PONG\r\n", b"+OK\r\n:1\r\n"], Ok(())),
        (&[b"+PONG\r\n", b"+OK\r\n:0\r\n"], unknown("WAIT counts 0 of 1 replicas")),
        (&[b"+PONG\r\n", b"+OK\r\n-ERR unknown command\r\n"], unknown("ERR unknown command")),
        (
            &[b"+PONG\r\n", b"-MISCONF no disk\r\n:1\r\n"],
            Err(Violation::Failed(ClientError::Error("MISCONF no disk".into()))),
        ),
        (&[b"+PONG\r\n", b"+OK\r\n"], broken("the server closed the connection")),
    ];
    for (answers, wanted) in cases {
        let (address, thread) = server(answers);
        let done = runtime().block_on(async {
            let mut connection = redis(&address, 1).connect().await.unwrap();
            connection.put(b"k", b"v", WAIT).await
        });
        assert_eq!(done, wanted);
        let heard = String::from_utf8(thread.join().unwrap()).unwrap();
        let sent = "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n\
                    *3\r\n$4\r\nWAIT\r\n$1\r\n1\r\n$4\r\n4500\r\n";
        assert!(heard.ends_with(sent), "{heard:?}");
    }
}

#[test]
fn a_read_shows_a_value_or_none() {
    let answers: &'static [&'static [u8]] = &[b"+PONG\r\n", b"$1\r\nv\r\n", b"$-1\r\n", b"+?\r\n"];
    let (address, thread) = server(answers);
    runtime().block_on(async {
        let mut connection = redis(&address, 0).connect().await.unwrap();
        assert_eq!(connection.get(b"k", WAIT).await, Ok(true));
        assert_eq!(connection.get(b"k", WAIT).await, Ok(false));
        let odd = Violation::Broken("it answers GET with Simple(\\\"?\\\")".into());
        assert_eq!(connection.get(b"k", WAIT).await, Err(odd));
    });
    thread.join().unwrap();
}

#[test]
fn etcd_is_driven_by_its_gateway() {
    let (address, thread) = server(&[
        b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{\"header\":{}}",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{\"kvs\":[{}]}",
        b"HTTP/1.1 503 Unavailable\r\nContent-Length: 4\r\n\r\nlost",
        b"HTTP/1.1 200 OK\r\n\r\n",
    ]);
    let peer = Peer { protocol: Protocol::Etcd, address };
    runtime().block_on(async {
        let mut connection = peer.connect().await.unwrap();
        assert_eq!(connection.put(b"k", b"value", WAIT).await, Ok(()));
        assert_eq!(connection.get(b"k", WAIT).await, Ok(true));
        let failed = Violation::Failed(ClientError::Unknown("status 503, \"lost\"".into()));
        assert_eq!(connection.get(b"k", WAIT).await, Err(failed));
        let Err(Violation::Broken(why)) = connection.get(b"k", WAIT).await else { panic!() };
        assert!(why.starts_with("it answers without a content-length: \"HTTP/1.1 200"), "{why}");
    });
    let heard = String::from_utf8(thread.join().unwrap()).unwrap();
    assert!(heard.contains("{\"key\":\"aw==\",\"value\":\"dmFsdWU=\"}"), "{heard}");
    for (bytes, text) in
        [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
    {
        assert_eq!(super::etcd::base64(bytes.as_bytes()), text);
    }
    let (address, thread) = server(&[b"+PONG\r\n"]);
    let why = runtime().block_on(Peer { protocol: Protocol::Etcd, address }.connect()).unwrap_err();
    assert!(why.ends_with(": it does not speak HTTP/1.1: it answered \"+PONG\\r\\n\""), "{why}");
    thread.join().unwrap();
}

#[test]
fn what_a_server_says_of_itself_reports_what_an_acknowledgement_means() {
    let (address, thread) = server(&[
        b"+PONG\r\n",
        b"$98\r\n# Replication\r\nrole:master\r\nconnected_slaves:1\r\n\
          slave0:ip=127.0.0.1,port=7001,state=online,lag=0\r\n\r\n",
        b"*4\r\n$10\r\nappendonly\r\n$3\r\nyes\r\n$11\r\nappendfsync\r\n$6\r\nalways\r\n",
    ]);
    let peer = redis(&address, 1);
    let stated = runtime().block_on(peer.information());
    assert_eq!(stated.replicas, ["127.0.0.1:7001"]);
    assert_eq!(stated.sync.as_deref(), Some("always"));
    thread.join().unwrap();
    let meaning = peer.meaning(&stated);
    assert!(meaning.ends_with("in memory: durable at the primary only"), "{meaning}");
    assert!(peer.meaning(&Information::default()).contains("does not say whether"));
}
