//! Requests for data, each built step by step and sent by `.await`.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use pixii_core::message::{Quorum, Rejection, Request, Response, WriteRule};
use pixii_core::types::{Blob, Key, MAX_TIMEOUT_MS, MAX_VALUE_BYTES, SizeError, WriteId};
use tokio::time::{Instant, sleep};

use super::{Client, ClientError, ErrorKind, Found, Written, unfitting, written};

/// What may name a key: 1 to 1,024 bytes.
pub trait IntoKey {
    /// The key, or why it cannot be one.
    fn into_key(self) -> Result<Key, SizeError>;
}

impl IntoKey for Key {
    fn into_key(self) -> Result<Key, SizeError> {
        Ok(self)
    }
}

impl IntoKey for &Key {
    fn into_key(self) -> Result<Key, SizeError> {
        Ok(self.clone())
    }
}

macro_rules! keys {
    ($($of:ty),+) => {
        $(
            impl IntoKey for $of {
                fn into_key(self) -> Result<Key, SizeError> {
                    Key::new(Bytes::from(self))
                }
            }
        )+
    };
}
keys!(String, Vec<u8>, Bytes);

impl IntoKey for &str {
    fn into_key(self) -> Result<Key, SizeError> {
        Key::new(Bytes::copy_from_slice(self.as_bytes()))
    }
}

impl IntoKey for &[u8] {
    fn into_key(self) -> Result<Key, SizeError> {
        Key::new(Bytes::copy_from_slice(self))
    }
}

/// Pause before an update reads again what somebody else has written meanwhile.
const UPDATE_PAUSE: Duration = Duration::from_millis(5);

type Sent<'a, T> = Pin<Box<dyn Future<Output = Result<T, ClientError>> + Send + 'a>>;

macro_rules! deadline {
    () => {
        /// The time that the request may take with all its attempts, 1 ms to 10 minutes. Without
        /// it, [`Options::deadline`](crate::Options::deadline).
        pub fn deadline(mut self, deadline: Duration) -> Self {
            self.deadline = deadline;
            self
        }

        /// The same in milliseconds.
        pub fn deadline_ms(self, ms: u32) -> Self {
            self.deadline(Duration::from_millis(ms.into()))
        }
    };
}

/// In milliseconds; one over the limit is refused as such.
pub(super) fn ms(deadline: Duration) -> u32 {
    u32::try_from(deadline.as_millis()).unwrap_or(MAX_TIMEOUT_MS + 1)
}

/// A read: [`Client::get`].
#[derive(Clone, Debug)]
#[must_use = "a request is sent when it is awaited"]
pub struct Get<'a> {
    client: &'a Client,
    key: Result<Key, SizeError>,
    r: Quorum,
    deadline: Duration,
}

impl Get<'_> {
    deadline!();

    /// Replicas that must answer; without it, the cluster's default.
    pub fn r(mut self, r: impl Into<Quorum>) -> Self {
        self.r = r.into();
        self
    }
}

impl<'a> IntoFuture for Get<'a> {
    type Output = Result<Found, ClientError>;
    type IntoFuture = Sent<'a, Found>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let key = self.key.map_err(Rejection::Size)?;
            let partition = self.client.ring().partition(&key);
            let request = Request::Get { key, r: self.r };
            match self.client.data(request, partition, ms(self.deadline)).await?.response {
                Response::Found { values, context, answered } => {
                    let values = values.into_iter().map(|Blob(value)| value).collect();
                    Ok(Found { values, context: context.0, answered })
                }
                _ => Err(unfitting()),
            }
        })
    }
}

/// What a write replaces.
#[derive(Clone, Debug)]
enum Basis {
    Context(Option<Bytes>),
    Rule(WriteRule),
}

/// A put ([`Client::put`]) or a delete ([`Client::delete`]). Without anything else it replaces the
/// one value that the key has, and is refused if it has several ([`ErrorKind::Conflict`]).
#[derive(Clone, Debug)]
#[must_use = "a request is sent when it is awaited"]
pub struct Write<'a> {
    client: &'a Client,
    key: Result<Key, SizeError>,
    value: Option<Bytes>,
    basis: Basis,
    write: WriteId,
    again: bool,
    r: Option<u8>,
    w: Quorum,
    deadline: Duration,
}

impl Write<'_> {
    deadline!();

    /// Replaces what this context of a read or a write of the key covers, and nothing else. Other
    /// values stay beside it, as siblings.
    pub fn context(mut self, context: impl Into<Bytes>) -> Self {
        self.basis = Basis::Context(Some(context.into()));
        self
    }

    /// Puts a sibling: replaces nothing, whatever is there.
    pub fn sibling(mut self) -> Self {
        self.basis = Basis::Context(None);
        self
    }

    /// [`Write::context`] if there is one, or else [`Write::sibling`].
    pub fn seen(mut self, context: Option<Bytes>) -> Self {
        self.basis = Basis::Context(context);
        self
    }

    /// Writes only if the key has no value; otherwise it is refused ([`ErrorKind::Condition`]).
    pub fn if_absent(mut self) -> Self {
        self.basis = Basis::Rule(WriteRule::IfAbsent);
        self
    }

    /// Writes only if nothing was written to the key since the read or the write that gave this
    /// context; otherwise it is refused ([`ErrorKind::Condition`]).
    pub fn if_context(mut self, context: impl Into<Bytes>) -> Self {
        self.basis = Basis::Rule(WriteRule::IfContext(Blob(context.into())));
        self
    }

    /// Owners that must answer before a write without a context, or under a condition, is decided;
    /// without it, the cluster's default.
    pub fn r(mut self, r: impl Into<Option<u8>>) -> Self {
        self.r = r.into();
        self
    }

    /// Replicas that must hold it, synced, before it is acknowledged; without it, the cluster's
    /// default.
    pub fn w(mut self, w: impl Into<Quorum>) -> Self {
        self.w = w.into();
        self
    }

    /// The id of the write, from [`Client::write_id`], so that a later process can repeat it.
    pub fn write_id(mut self, write: WriteId) -> Self {
        self.write = write;
        self
    }

    /// Repeats a put whose outcome is unknown: a clone of it, or one with its write id, is still
    /// one write. Once it has succeeded and the value was replaced, no copy of an earlier attempt
    /// brings the value back. This holds for repetitions that end within
    /// [`REPEATS_TIMEOUT`](crate::REPEATS_TIMEOUT) of the first attempt.
    pub fn again(mut self) -> Self {
        self.again = true;
        self
    }

    fn request(self) -> Result<(Key, Request), Rejection> {
        let Write { key, value, basis, write, again, r, w, .. } = self;
        let key = key.map_err(Rejection::Size)?;
        let of = key.clone();
        if let Some(value) = value.as_ref().filter(|value| value.len() > MAX_VALUE_BYTES) {
            return Err(Rejection::Size(SizeError::Value(value.len() as u64)));
        }
        let value = value.map(Blob);
        let request = match (basis, value) {
            (Basis::Rule(rule), value) => {
                Request::Decide { key, value, rule, write, again: false, r, w }
            }
            (Basis::Context(context), Some(value)) => {
                Request::Put { key, value, context: context.map(Blob), write, w }
            }
            (Basis::Context(context), None) => {
                Request::Delete { key, context: context.map(Blob), w }
            }
        };
        Ok((of, if again { request.again() } else { request }))
    }
}

impl<'a> IntoFuture for Write<'a> {
    type Output = Result<Written, ClientError>;
    type IntoFuture = Sent<'a, Written>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let (client, deadline) = (self.client, ms(self.deadline));
            let (key, request) = self.request()?;
            written(client.data(request, client.ring().partition(&key), deadline).await?)
        })
    }
}

/// A read, a merge and a put, repeated while others write as well: [`Client::update`].
#[must_use = "a request is sent when it is awaited"]
pub struct Update<'a, F> {
    client: &'a Client,
    key: Result<Key, SizeError>,
    merge: F,
    r: Quorum,
    w: Quorum,
    deadline: Duration,
}

impl<F> Update<'_, F> {
    deadline!();

    /// Replicas that must answer the read; without it, the cluster's default.
    pub fn r(mut self, r: impl Into<Quorum>) -> Self {
        self.r = r.into();
        self
    }

    /// Replicas that must hold the result; without it, the cluster's default.
    pub fn w(mut self, w: impl Into<Quorum>) -> Self {
        self.w = w.into();
        self
    }
}

impl<'a, F> IntoFuture for Update<'a, F>
where
    F: FnMut(Vec<Bytes>) -> Bytes + Send + 'a,
{
    type Output = Result<Written, ClientError>;
    type IntoFuture = Sent<'a, Written>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Update { client, key, mut merge, r, w, deadline } = self;
            let key = key.map_err(Rejection::Size)?;
            let until = Instant::now() + deadline;
            let left = || match until.saturating_duration_since(Instant::now()) {
                left if left >= Duration::from_millis(1) => Ok(left),
                _ => {
                    let ms = deadline.as_millis();
                    let why = format!("the key could not be read and written in {ms} ms");
                    Err(ClientError::Timeout(why))
                }
            };
            loop {
                let found = client.get(&key).r(r).deadline(left()?).await?;
                let put = client.put(&key, merge(found.values)).if_context(found.context);
                match put.r(r.replicas).w(w).deadline(left()?).await {
                    Err(error) if error.kind() == ErrorKind::Condition => {}
                    outcome => return outcome,
                }
                sleep(UPDATE_PAUSE.min(left()?)).await;
            }
        })
    }
}

impl Client {
    /// Reads all siblings of a key.
    pub fn get(&self, key: impl IntoKey) -> Get<'_> {
        let (key, deadline) = (key.into_key(), self.options().deadline);
        Get { client: self, key, r: Quorum::default(), deadline }
    }

    /// Writes a value in the place of the one that is there.
    pub fn put(&self, key: impl IntoKey, value: impl Into<Bytes>) -> Write<'_> {
        self.write(key.into_key(), Some(value.into()))
    }

    /// Deletes the value that is there.
    pub fn delete(&self, key: impl IntoKey) -> Write<'_> {
        self.write(key.into_key(), None)
    }

    fn write(&self, key: Result<Key, SizeError>, value: Option<Bytes>) -> Write<'_> {
        Write {
            client: self,
            key,
            value,
            basis: Basis::Rule(WriteRule::Cover),
            write: self.write_id(),
            again: false,
            r: None,
            w: Quorum::default(),
            deadline: self.options().deadline,
        }
    }

    /// Reads a key, has `merge` make one value of all its siblings (none if it is absent), and
    /// writes that, provided that nobody else has written meanwhile; otherwise once more.
    pub fn update<F>(&self, key: impl IntoKey, merge: F) -> Update<'_, F>
    where
        F: FnMut(Vec<Bytes>) -> Bytes,
    {
        let (r, w) = (Quorum::default(), Quorum::default());
        let deadline = self.options().deadline;
        Update { client: self, key: key.into_key(), merge, r, w, deadline }
    }
}
