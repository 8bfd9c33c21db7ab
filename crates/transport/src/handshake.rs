//! The handshake that opens a connection: it settles the protocol, and with a secret each side
//! proves its identity.

use std::sync::Arc;

use bytes::BytesMut;
use pixii_core::secret::{Exchange, Nonce, Nonces, Seal, SecretKey, Secrets, fits};
use pixii_core::types::Blob;
use pixii_core::wire::{self, Hello, PREAMBLE_BYTES, PROTOCOL, Speech, Welcome};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::frames::{FrameReader, ReadError};

/// Reported for an answer that belongs to another question.
pub const ODD_ANSWER: &str = "it answers another question in the handshake";

/// Reported for an introduction of protocol 5, in whatever version it comes.
const PEER_OF_BEFORE: &str = "an introduction of protocol 5, which this node does not speak";

/// Reported for an HTTP server, such as a node's own status port.
const HTTP_ANSWERS: &str = "an HTTP server answers there, as at http_listen of a node: clients \
    and nodes connect to listen";

/// The result of a handshake on the dialing side.
#[derive(Debug)]
pub struct Agreed {
    /// The protocol version and the checksum that both sides use from now on.
    pub speech: Speech,
    /// With a secret: the seal of the frames that this side sends. The reader has that of the other
    /// side.
    pub seal: Option<Seal>,
}

/// The dialing side: introduces itself with `hello`, which it proves if it has a key, and returns
/// the answer. With a key, the answer comes from a holder of the same key. The error is why the
/// connection cannot be used.
pub async fn introduce<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    reader: &mut FrameReader<R>,
    write: &mut W,
    hello: &Hello,
    secret: Option<(&SecretKey, Nonce)>,
) -> Result<(Welcome, Agreed), String> {
    let ours = wire::offer();
    let opening = secret.map(|(_, nonce)| Hello::Challenge(nonce));
    send(write, &ours, opening.as_ref().unwrap_or(hello)).await?;
    let gone = || "it closed the connection in the handshake".to_owned();
    let theirs = reader.preamble().await.map_err(|error| error.to_string())?.ok_or_else(gone)?;
    if theirs.starts_with(b"HTTP/") {
        return Err(HTTP_ANSWERS.to_owned());
    }
    let protocol = wire::check_preamble(&theirs).map_err(|e| e.to_string())?;
    let speech = Speech { protocol, checksum: wire::checksum_for(&theirs) };
    let first = next(reader).await?;
    let Some((key, nonce)) = secret else {
        reader.check_by(speech.checksum);
        return Ok((first, Agreed { speech, seal: None }));
    };
    let theirs = match first {
        Welcome::Challenge(their_nonce) => Exchange::new([&ours, &theirs], [&nonce, &their_nonce]),
        other => return Err(unproven(other)),
    };
    let hello = Blob(wire::encode(hello).into());
    let proof = theirs.dialer_proof(key, &hello.0);
    send(write, &[], &Hello::Proven { hello: hello.clone(), proof }).await?;
    match next(reader).await? {
        Welcome::Proven { welcome, proof }
            if fits(proof, theirs.listener_proof(key, &hello.0, &welcome.0)) =>
        {
            let [seal, expected] = theirs.seals(key, &hello.0);
            reader.expect(expected);
            let welcome = wire::decode(&welcome.0).map_err(|error| error.to_string())?;
            Ok((welcome, Agreed { speech, seal: Some(seal) }))
        }
        other => Err(unproven(other)),
    }
}

/// Why an answer without a proof is not accepted. An unproven rejection is only shown.
fn unproven(welcome: Welcome) -> String {
    match welcome {
        Welcome::Refused(why) | Welcome::Removed(why) | Welcome::Duplicate(why) => {
            format!("it refuses: {}", shown(&why))
        }
        _ => "it does not prove that it knows the secret".to_owned(),
    }
}

/// Text of the other side, escaped and in one line.
pub fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

async fn next<R: AsyncRead + Unpin>(reader: &mut FrameReader<R>) -> Result<Welcome, String> {
    let answer = reader.next().await.map_err(|error| error.to_string())?;
    let (welcome, _) = answer.ok_or("it closed the connection in the handshake")?;
    Ok(welcome)
}

async fn send<W: AsyncWrite + Unpin>(
    write: &mut W,
    before: &[u8],
    hello: &Hello,
) -> Result<(), String> {
    let mut bytes = BytesMut::from(before);
    wire::put_frame(&mut bytes, hello, None);
    write.write_all(&bytes).await.map_err(|error| error.to_string())
}

/// Why the accepting side refuses the connection.
#[derive(Debug)]
pub enum Unheard {
    /// The connection ended before it sent anything, as a port scan does.
    Silent,
    /// The socket failed, or its bytes were no handshake.
    Broken(ReadError),
    /// The reason, which the other side is sent.
    Refused(String),
}

impl<E: Into<ReadError>> From<E> for Unheard {
    fn from(error: E) -> Self {
        Unheard::Broken(error.into())
    }
}

fn refused<T>(why: impl Into<String>) -> Result<T, Unheard> {
    Err(Unheard::Refused(why.into()))
}

/// The accepting side of one connection: it reads the introduction, and answers in a form that the
/// other side understands.
#[derive(Debug)]
pub struct Reception {
    secrets: Option<Arc<Secrets>>,
    speech: Speech,
    greeted: bool,
    proven: Option<Proven>,
}

#[derive(Debug)]
struct Proven {
    exchange: Exchange,
    key: SecretKey,
    hello: Blob,
}

impl Reception {
    /// A reception with the secrets of this node; `None` if it has none.
    pub fn new(secrets: Option<Arc<Secrets>>) -> Self {
        Reception { secrets, speech: PROTOCOL.into(), greeted: false, proven: None }
    }

    /// How both sides speak after the handshake. Valid once [`Reception::hear`] has returned.
    pub fn speech(&self) -> Speech {
        self.speech
    }

    /// The introduction of the other side: a `Member`, a `Probe` or a `Client`, nothing else. With
    /// secrets, the other side has proved it.
    pub async fn hear<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        &mut self,
        reader: &mut FrameReader<R>,
        write: &mut W,
        nonces: &Nonces,
    ) -> Result<Hello, Unheard> {
        let secrets = self.secrets.clone();
        let theirs = reader.preamble().await?.ok_or(Unheard::Silent)?;
        let protocol =
            wire::check_preamble(&theirs).map_err(|error| Unheard::Refused(error.to_string()))?;
        self.speech = Speech { protocol, checksum: wire::checksum_for(&theirs) };
        match (heard(reader).await?, secrets) {
            (Hello::Peer { .. }, _) => refused(PEER_OF_BEFORE),
            (hello @ (Hello::Member { .. } | Hello::Probe { .. } | Hello::Client), None) => {
                Ok(hello)
            }
            (Hello::Member { .. } | Hello::Probe { .. } | Hello::Client, Some(_)) => refused(
                "this node has a secret, and takes nobody who does not prove to know it: nodes \
                 have \
                 secret_file, clients --secret-file or PIXII_SECRET_FILE",
            ),
            (Hello::Challenge(_), None) => {
                refused("this node has no secret, and cannot prove anything")
            }
            (Hello::Challenge(nonce), Some(secrets)) => {
                let challenge = nonces.fresh();
                let answer = self.answer(&Welcome::Challenge(challenge));
                write.write_all(&answer).await?;
                self.greeted = true;
                let ours = wire::offer();
                let exchange = Exchange::new([&theirs, &ours], [&nonce, &challenge]);
                self.check(heard(reader).await?, exchange, &secrets)
            }
            (Hello::Proven { .. }, _) => refused("a proof that was not asked for"),
        }
    }

    /// Checks the proof in the other side's answer to the challenge.
    fn check(
        &mut self,
        answer: Hello,
        exchange: Exchange,
        secrets: &Secrets,
    ) -> Result<Hello, Unheard> {
        let Hello::Proven { hello, proof } = answer else {
            return refused("a proof of the secret was asked for, and something else was said");
        };
        let stated = wire::decode(&hello.0).map_err(|error| Unheard::Refused(error.to_string()))?;
        let (keys, whose) = match stated {
            Hello::Member { .. } | Hello::Probe { .. } => (&secrets.peers, "nodes (secret_file)"),
            Hello::Client => (&secrets.clients, "clients (client_secret_file)"),
            _ => return refused("a proof of something that is nobody"),
        };
        match keys.find(|key| fits(proof, exchange.dialer_proof(key, &hello.0))) {
            Some(key) => {
                self.proven = Some(Proven { exchange, key: key.clone(), hello });
                Ok(stated)
            }
            None => refused(format!("the secret is not the one of this cluster's {whose}")),
        }
    }

    /// The bytes of the answer, with a proof if the other side has proved itself.
    pub fn answer(&self, welcome: &Welcome) -> BytesMut {
        let preamble: [u8; PREAMBLE_BYTES] = wire::offer();
        let mut bytes = BytesMut::from(if self.greeted { &[] } else { &preamble[..] });
        match &self.proven {
            None => wire::put_frame(&mut bytes, welcome, None),
            Some(Proven { exchange, key, hello }) => {
                let welcome = Blob(wire::encode(welcome).into());
                let proof = exchange.listener_proof(key, &hello.0, &welcome.0);
                wire::put_frame(&mut bytes, &Welcome::Proven { welcome, proof }, None);
            }
        }
        bytes
    }

    /// The seal of the frames that this side sends, if the other side has proved itself. From then
    /// on the reader expects the other side's seals, or the agreed checksum.
    pub fn seal<R: AsyncRead + Unpin>(self, reader: &mut FrameReader<R>) -> Option<Seal> {
        reader.check_by(self.speech.checksum);
        let Proven { exchange, key, hello } = self.proven?;
        let [expected, seal] = exchange.seals(&key, &hello.0);
        reader.expect(expected);
        Some(seal)
    }
}

async fn heard<R: AsyncRead + Unpin>(reader: &mut FrameReader<R>) -> Result<Hello, Unheard> {
    match reader.next().await {
        Ok(Some((hello, _))) => Ok(hello),
        Ok(None) => Err(Unheard::Silent),
        Err(ReadError::Wire(error)) => refused(error.to_string()),
        Err(error) => Err(Unheard::Broken(error)),
    }
}
