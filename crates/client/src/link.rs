//! One connection of a client to one node: calls go out, replies come in, matched by id.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use pixii_core::message::{Call, CallBody, Reply, ReplyBody, Request};
use pixii_core::secret::{Nonce, Seal, SecretKey};
use pixii_core::wire::{self, Check, Hello, MAX_FRAME_BYTES, MAX_HELLO_BYTES, Speech, Welcome};
use pixii_transport::frames::FrameReader;
use pixii_transport::handshake::{ODD_ANSWER, introduce, shown};
use pixii_transport::socket::{SENDER_TIMEOUT, prepare};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

/// No further calls are taken while this many bytes wait for the socket.
const BACKLOG_BYTES: usize = 1 << 20;
/// A call that is given up is reported within this time, or not at all.
const GIVE_UP_WAIT: Duration = Duration::from_secs(5);
/// A node that does not answer within this time that it has given a call up is silent.
const HEARD_WAIT: Duration = Duration::from_millis(250);
/// Buffer space for each read from the socket.
const READ_BYTES: usize = 64 << 10;

/// Why a call has no reply.
#[derive(Debug)]
pub(super) enum Lost {
    /// It was never sent: the node cannot have seen it.
    Unsent(String),
    /// It was sent, at least in part: the node may have carried it out.
    Sent(String),
}

/// Why a connection could not be opened.
#[derive(Debug)]
pub(super) enum Unopened {
    /// Nobody listens at the address.
    NobodyListens(String),
    /// Any other reason, without the address.
    Other(String),
}

impl Unopened {
    /// The reason, without the address.
    pub(super) fn into_reason(self) -> String {
        match self {
            Unopened::NobodyListens(why) | Unopened::Other(why) => why,
        }
    }
}

impl From<String> for Unopened {
    fn from(why: String) -> Self {
        Unopened::Other(why)
    }
}

impl From<io::Error> for Unopened {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Unopened::NobodyListens(plain(&error)),
            _ => Unopened::Other(plain(&error)),
        }
    }
}

type Answer = Result<ReplyBody, Lost>;

/// How long the reply to a call is waited for.
#[derive(Clone, Copy)]
pub(super) struct Wait {
    /// In all.
    pub(super) whole: Duration,
    /// After this time the node is to give the call up, unless it has decided it; only a node that
    /// does not even answer that is not waited for any more.
    pub(super) give_up_after: Option<Duration>,
}

impl From<Duration> for Wait {
    fn from(whole: Duration) -> Self {
        Wait { whole, give_up_after: None }
    }
}

struct Outgoing {
    id: u64,
    body: CallBody,
    /// It is not sent later than this.
    by: Instant,
    /// `None` if nobody waits for the answer.
    answer: Option<oneshot::Sender<Answer>>,
}

/// Gives a call up when it is dropped before its reply has come: the caller waits no more.
struct GiveUp<'a> {
    link: &'a Link,
    call: u64,
    is_due: bool,
}

impl Drop for GiveUp<'_> {
    fn drop(&mut self) {
        if self.is_due {
            // Where there is no room for it, the connection is stuck, and will end.
            self.link.send_give_up(self.call, Instant::now() + GIVE_UP_WAIT, None);
        }
    }
}

/// An open connection. Dropping it closes the socket.
pub(super) struct Link {
    /// Name of the node, as it reported it.
    pub(super) name: String,
    /// Name of the cluster that the node belongs to.
    pub(super) cluster: String,
    calls: mpsc::Sender<Outgoing>,
    permits: Semaphore,
    in_flight: usize,
    silent: AtomicBool,
    last_id: AtomicU64,
}

impl Link {
    /// Connects to `address` (`host:port`) and shakes hands, both within `wait`, with a secret if
    /// there is one. At most `in_flight` calls are in progress at a time. The error is the reason,
    /// without the address.
    pub(super) async fn open(
        address: &str,
        wait: Duration,
        in_flight: usize,
        secret: Option<(SecretKey, Nonce)>,
    ) -> Result<Self, Unopened> {
        let (opened, speech, welcome) = timeout(wait, handshake(address, secret))
            .await
            .map_err(|_| format!("no answer in {} ms", wait.as_millis()))??;
        let (cluster, name) = match welcome {
            Welcome::Accepted { cluster, name } => (cluster, name),
            Welcome::Refused(why) | Welcome::Removed(why) => return Err(shown(&why).into()),
            Welcome::Challenge(_)
            | Welcome::Proven { .. }
            | Welcome::Probed { .. }
            | Welcome::Duplicate(_) => return Err(ODD_ANSWER.to_owned().into()),
        };
        let (calls, queue) = mpsc::channel(in_flight.max(1));
        tokio::spawn(drive(opened, speech, queue, in_flight));
        let permits = Semaphore::new(in_flight.max(1));
        let silent = AtomicBool::new(false);
        let last_id = AtomicU64::new(0);
        Ok(Link { name, cluster, calls, permits, in_flight, silent, last_id })
    }

    fn next_id(&self) -> u64 {
        1 + self.last_id.fetch_add(1, Ordering::Relaxed)
    }

    /// False once the connection has ended or a call on it went unanswered.
    pub(super) fn is_good(&self) -> bool {
        !self.calls.is_closed() && !self.silent.load(Ordering::Relaxed)
    }

    /// Sends a call, at `by` at the latest, and waits for its reply.
    pub(super) async fn call(&self, body: CallBody, by: Instant, wait: impl Into<Wait>) -> Answer {
        let (begun, Wait { whole, give_up_after }) = (Instant::now(), wait.into());
        let Ok(Ok(_permit)) = timeout_at(by, self.permits.acquire()).await else {
            return Err(Lost::Unsent(format!("{} calls are in progress already", self.in_flight)));
        };
        let (answer, mut reply) = oneshot::channel();
        let (id, answer) = (self.next_id(), Some(answer));
        let is_due = matches!(body, CallBody::Data { request: Request::Decide { .. }, .. });
        let mut give_up = GiveUp { link: self, call: id, is_due: false };
        match timeout_at(by, self.calls.send(Outgoing { id, body, by, answer })).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(Lost::Unsent("the connection has ended".into())),
            Err(_) => return Err(Lost::Unsent("the connection is stuck".into())),
        }
        give_up.is_due = is_due;
        let first = give_up_after.map_or(whole, |give_up_after| give_up_after.min(whole));
        let mut answer = timeout_at(begun + first, &mut reply).await.ok();
        if answer.is_none() && first < whole {
            give_up.is_due = false;
            answer = self.give_up(id, &mut reply, begun + whole).await;
        }
        match answer {
            Some(Ok(answer)) => {
                give_up.is_due = false;
                answer
            }
            Some(Err(_)) => Err(Lost::Sent("the connection has ended".into())),
            None => {
                self.silent.store(true, Ordering::Relaxed);
                Err(Lost::Sent(format!("no answer in {} ms", begun.elapsed().as_millis())))
            }
        }
    }

    /// Sends, by `by` at the latest, that a call is given up. False if there is no room for it.
    fn send_give_up(
        &self,
        call: u64,
        by: Instant,
        answer: Option<oneshot::Sender<Answer>>,
    ) -> bool {
        let (id, body) = (self.next_id(), CallBody::GiveUp { call });
        self.calls.try_send(Outgoing { id, body, by, answer }).is_ok()
    }

    /// Notifies the node that a call is given up. A node that hears it goes on: it answers that the
    /// call is void, or has decided it and answers when it is done. The answer to the call, by
    /// `deadline`; none from a node that is silent.
    async fn give_up(
        &self,
        call: u64,
        reply: &mut oneshot::Receiver<Answer>,
        deadline: Instant,
    ) -> Option<Result<Answer, oneshot::error::RecvError>> {
        let by = Instant::now() + HEARD_WAIT;
        let (answer, heard) = oneshot::channel();
        if !self.send_give_up(call, by, Some(answer)) {
            return None;
        }
        let heard = tokio::select! {
            biased;
            answer = &mut *reply => return Some(answer),
            heard = timeout_at(by, heard) => heard,
        };
        match heard {
            Ok(Ok(Ok(_))) => timeout_at(deadline, reply).await.ok(),
            _ => None,
        }
    }
}

/// An I/O error in plain words, without its number.
pub(super) fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    chars
        .next()
        .map_or_else(String::new, |first| first.to_lowercase().collect::<String>() + chars.as_str())
}

/// A connection after its handshake: the bytes that were read already and, with a secret, the seals
/// of both directions.
struct Opened {
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
    input: BytesMut,
    expected: Option<Seal>,
    seal: Option<Seal>,
}

async fn handshake(
    address: &str,
    secret: Option<(SecretKey, Nonce)>,
) -> Result<(Opened, Speech, Welcome), Unopened> {
    let stream = TcpStream::connect(address).await?;
    prepare(&stream, SENDER_TIMEOUT)?;
    let (read, mut write) = stream.into_split();
    let mut reader = FrameReader::new(read, MAX_HELLO_BYTES);
    let secret = secret.as_ref().map(|(key, nonce)| (key, *nonce));
    let introduced = introduce(&mut reader, &mut write, &Hello::Client, secret).await;
    let (welcome, agreed) = introduced?;
    let (read, input, expected) = reader.into_pause();
    let opened = Opened { read, write, input, expected, seal: agreed.seal };
    Ok((opened, agreed.speech, welcome))
}

/// Carries calls and replies until either side is done, then reports the end to all callers that
/// still wait.
async fn drive(
    opened: Opened,
    speech: Speech,
    mut queue: mpsc::Receiver<Outgoing>,
    in_flight: usize,
) {
    let mut waiting = Waiting { speech, answers: HashMap::new(), in_flight };
    let Err(why) = pump(opened, &mut queue, &mut waiting).await else { return };
    queue.close();
    while let Ok(call) = queue.try_recv() {
        call.fail(&why);
    }
    for (_, answer) in waiting.answers {
        let _ = answer.send(Err(Lost::Sent(why.clone())));
    }
}

/// The calls that have been sent, or are about to be.
struct Waiting {
    /// The protocol version and the checksum that both sides use.
    speech: Speech,
    answers: HashMap<u64, oneshot::Sender<Answer>>,
    in_flight: usize,
}

impl Outgoing {
    /// Reports that the call was not sent.
    fn fail(self, why: &str) {
        if let Some(answer) = self.answer {
            let _ = answer.send(Err(Lost::Unsent(why.to_owned())));
        }
    }
}

impl Waiting {
    fn add(&mut self, call: Outgoing, out: &mut BytesMut, seal: Option<&mut Seal>) {
        // Callers that gave up hold no permit any more, so their entries are only swept now and
        // then.
        if self.answers.len() > 2 * self.in_flight {
            self.answers.retain(|_, answer| !answer.is_closed());
        }
        // Nobody wants it done any more, or it has waited for the socket for too long.
        let is_closed = call.answer.as_ref().is_some_and(oneshot::Sender::is_closed);
        if is_closed || call.by < Instant::now() {
            return call.fail("the connection is stuck");
        }
        let Outgoing { id, body, answer, .. } = call;
        let Some(sent) = (Call { id, body }).in_protocol(self.speech.protocol) else {
            if let Some(answer) = answer {
                let protocol = self.speech.protocol;
                let why = format!("it speaks protocol {protocol}, which has nothing like this");
                let _ = answer.send(Err(Lost::Unsent(why)));
            }
            return;
        };
        let check = Check::of(seal, self.speech.checksum);
        wire::put_checked(out, &sent, check);
        if let Some(answer) = answer {
            self.answers.insert(id, answer);
        }
    }

    fn take(&mut self, frame: &Bytes) -> Result<(), String> {
        let reply =
            Reply::decode(frame, self.speech.protocol).map_err(|error| error.to_string())?;
        if let Some(answer) = self.answers.remove(&reply.id) {
            let _ = answer.send(Ok(reply.body));
        }
        Ok(())
    }
}

/// Returns Ok when the client has dropped the link, and the reason when the connection fails.
async fn pump(
    opened: Opened,
    queue: &mut mpsc::Receiver<Outgoing>,
    waiting: &mut Waiting,
) -> Result<(), String> {
    let Opened { read: mut reader, write: mut writer, mut input, mut expected, mut seal } = opened;
    let mut out = BytesMut::new();
    loop {
        loop {
            let check = Check::of(expected.as_mut(), waiting.speech.checksum);
            let taken = wire::take_checked(&mut input, MAX_FRAME_BYTES, check);
            let Some(frame) = taken.map_err(|error| error.to_string())? else { break };
            waiting.take(&frame)?;
        }
        input.reserve(READ_BYTES);
        tokio::select! {
            call = queue.recv(), if out.len() < BACKLOG_BYTES => {
                let Some(call) = call else { return Ok(()) };
                waiting.add(call, &mut out, seal.as_mut());
                while out.len() < BACKLOG_BYTES && let Ok(call) = queue.try_recv() {
                    waiting.add(call, &mut out, seal.as_mut());
                }
            }
            read = reader.read_buf(&mut input) => match read {
                Ok(0) => return Err("the node closed the connection".into()),
                Ok(_) => {}
                Err(error) => return Err(plain(&error)),
            },
            written = writer.write(&out), if !out.is_empty() => match written {
                Ok(count) => out.advance(count),
                Err(error) => return Err(plain(&error)),
            },
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use pixii_core::message::Request;
    use pixii_core::types::Key;
    use pixii_core::wire::PROTOCOL;
    use pixii_testkit::fake::Fake;
    use tokio::runtime::Builder;

    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn a_connection_gives_up_what_its_node_does_not_acknowledge() {
        let fake = Fake::start(1, 1);
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let (opened, ..) =
            runtime.block_on(handshake(&fake.address(0), None)).map_err(|_| ()).unwrap();
        let socket = socket2::SockRef::from(opened.write.as_ref());
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(SENDER_TIMEOUT));
    }

    #[test]
    fn a_call_that_nobody_waits_for_or_that_waited_too_long_is_not_sent() {
        let (speech, now) = (Speech::from(PROTOCOL), Instant::now());
        let (answers, in_flight, mut id) = (HashMap::new(), 8, 0);
        let mut waiting = Waiting { speech, answers, in_flight };
        let mut sent = |by: Instant, is_awaited: bool| {
            let (answer, mut reply) = oneshot::channel();
            if !is_awaited {
                reply.close();
            }
            let request = Request::Get { key: Key::new("k").unwrap(), r: None.into() };
            let body = CallBody::Data { request, timeout_ms: 1_000 };
            let mut out = BytesMut::new();
            id += 1;
            waiting.add(Outgoing { id, body, by, answer: Some(answer) }, &mut out, None);
            let unsent = matches!(reply.try_recv(), Ok(Err(Lost::Unsent(_))));
            (!out.is_empty(), unsent)
        };
        let later = now + Duration::from_secs(60);
        assert_eq!(sent(later, true), (true, false));
        assert_eq!(sent(later, false), (false, false));
        assert_eq!(
            sent(now - Duration::from_millis(1), true),
            (false, true),
            "its caller is answered"
        );
    }
}
