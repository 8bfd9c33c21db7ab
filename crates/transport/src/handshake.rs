//! The words before a connection is one: who speaks which protocol, and with a secret, who proves
//! to be what it says.

use std::sync::Arc;

use bytes::BytesMut;
use pixii_core::secret::{Exchange, Nonce, Nonces, Seal, SecretKey, Secrets, fits};
use pixii_core::types::Blob;
use pixii_core::wire::{self, Hello, PREAMBLE_BYTES, PROTOCOL, Welcome};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::frames::{FrameReader, ReadError};

/// What is said of an answer that belongs to another question.
pub const ODD_ANSWER: &str = "it answers another question in the handshake";

/// What is said of the introduction of protocol 5, in whatever version it comes.
const PEER_OF_BEFORE: &str = "an introduction of protocol 5, which this node does not speak";

/// What is said of an HTTP server, which a node's own status port is.
const HTTP_ANSWERS: &str = "an HTTP server answers there, as at http_listen of a node: clients \
    and nodes connect to listen";

/// What a handshake has come to on the dialing side.
#[derive(Debug)]
pub struct Agreed {
    /// The version of the protocol that both sides speak.
    pub protocol: u16,
    /// With a secret: what this side seals its frames with. What the other side does, the reader
    /// knows.
    pub seal: Option<Seal>,
}

/// The dialing side: introduces itself with `hello`, which it proves if it has a key, and gives the
/// answer. With a key, the answer is of somebody who has it too. The error is why the connection
/// cannot be used.
pub async fn introduce<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    reader: &mut FrameReader<R>,
    write: &mut W,
    hello: &Hello,
    secret: Option<(&SecretKey, Nonce)>,
) -> Result<(Welcome, Agreed), String> {
    let ours = wire::preamble();
    let opening = secret.map(|(_, nonce)| Hello::Challenge(nonce));
    send(write, &ours, opening.as_ref().unwrap_or(hello)).await?;
    let gone = || "it closed the connection in the handshake".to_owned();
    let theirs = reader.preamble().await.map_err(|error| error.to_string())?.ok_or_else(gone)?;
    if theirs.starts_with(b"HTTP/") {
        return Err(HTTP_ANSWERS.to_owned());
    }
    let protocol = wire::check_preamble(&theirs).map_err(|e| e.to_string())?;
    let first = next(reader).await?;
    let Some((key, nonce)) = secret else { return Ok((first, Agreed { protocol, seal: None })) };
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
            Ok((welcome, Agreed { protocol, seal: Some(seal) }))
        }
        other => Err(unproven(other)),
    }
}

/// Why an answer that nobody has proved is none. Not even a rejection is taken at its word: it is
/// only shown.
fn unproven(welcome: Welcome) -> String {
    match welcome {
        Welcome::Refused(why) | Welcome::Removed(why) | Welcome::Duplicate(why) => {
            format!("it refuses: {}", shown(&why))
        }
        _ => "it does not prove that it knows the secret".to_owned(),
    }
}

/// Text of somebody else, in one line.
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

/// Why the accepting side cannot go on.
#[derive(Debug)]
pub enum Unheard {
    /// It ended before it said anything, as a port's probe does.
    Silent,
    /// It broke.
    Broken(ReadError),
    /// Why it is refused.
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

/// The accepting side of one connection: it hears who is there, and answers in the way that fits
/// what was said.
#[derive(Debug)]
pub struct Reception {
    secrets: Option<Arc<Secrets>>,
    protocol: u16,
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
    /// Of a node that has these secrets, or none.
    pub fn new(secrets: Option<Arc<Secrets>>) -> Self {
        Reception { secrets, protocol: PROTOCOL, greeted: false, proven: None }
    }

    /// The version of the protocol that both sides speak, once it was heard who is there.
    pub fn protocol(&self) -> u16 {
        self.protocol
    }

    /// Who is there: a `Member`, a `Probe` or a `Client`, nothing else. With secrets, one
    /// that has proved it.
    pub async fn hear<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        &mut self,
        reader: &mut FrameReader<R>,
        write: &mut W,
        nonces: &Nonces,
    ) -> Result<Hello, Unheard> {
        let secrets = self.secrets.clone();
        let theirs = reader.preamble().await?.ok_or(Unheard::Silent)?;
        self.protocol =
            wire::check_preamble(&theirs).map_err(|error| Unheard::Refused(error.to_string()))?;
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
                let ours = wire::preamble();
                let exchange = Exchange::new([&theirs, &ours], [&nonce, &challenge]);
                self.check(heard(reader).await?, exchange, &secrets)
            }
            (Hello::Proven { .. }, _) => refused("a proof that was not asked for"),
        }
    }

    /// Who has proved itself, by an answer to our challenge.
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

    /// The bytes of the answer, proved if who is there has proved itself.
    pub fn answer(&self, welcome: &Welcome) -> BytesMut {
        let preamble: [u8; PREAMBLE_BYTES] = wire::preamble();
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

    /// With who has proved itself: what this side seals its frames with. The reader expects the
    /// other side's seals from then on.
    pub fn seal<R: AsyncRead + Unpin>(self, reader: &mut FrameReader<R>) -> Option<Seal> {
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
