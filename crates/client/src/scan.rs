//! Keys and what they hold, in byte order: sorted pages of all partitions, merged, and each key
//! read.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::future::{Future, IntoFuture};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pixii_core::message::Rejection;
use pixii_core::types::{Key, MAX_KEY_BYTES, Partition};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::requests::ms;
use super::{Client, ClientError, Found, KeyPage};

/// Memory for the pages of all partitions together, twice: one page in use and the next one.
const PAGES_BYTES: u32 = 8 << 20;
/// Bounds of one page.
const PAGE_BYTES: (u32, u32) = (2 << 10, 64 << 10);
/// The first page of a partition of which only a part is wanted, so that little is listed in vain;
/// each further page is [`GROWTH`] times as large.
const FIRST_PAGE_BYTES: u32 = 64;
const GROWTH: u32 = 4;
/// Pages asked for at a time.
const PAGES_IN_FLIGHT: usize = 32;
/// Reads in progress at a time, fewer when values are so large that they would pass [`READ_BYTES`].
const READS: usize = 64;
const READ_BYTES: usize = 64 << 20;
/// Pause before a node that was busy is asked again.
const PAUSE: Duration = Duration::from_millis(50);

/// All keys with a value, or those that begin with a prefix, in byte order: [`Client::scan`].
///
/// It is not of one moment. A key that has a value throughout is given exactly once; one that is
/// written or deleted meanwhile may be given or not. What it takes of memory is bounded, whatever
/// the cluster holds, and nothing is read ahead of [`Scan::next`] beyond that.
#[must_use = "a scan is read with `next`"]
pub struct Scan {
    part: Part,
    keys: Option<Merge>,
    reads: VecDeque<JoinHandle<(Key, Result<Found, ClientError>)>>,
    /// Bytes of the values of the largest key so far.
    largest: usize,
    /// How many more keys are wanted; `None`: all.
    left: Option<u64>,
    missing: BTreeMap<Partition, ClientError>,
}

/// What a scan reads, and how.
#[derive(Clone)]
struct Part {
    client: Client,
    prefix: Bytes,
    after: Option<Key>,
    r: Option<u8>,
    deadline: Duration,
    /// True if the scan is to end before the last key.
    is_limited: bool,
}

impl Client {
    /// Reads all keys, in byte order.
    pub fn scan(&self) -> Scan {
        let part = Part {
            client: self.clone(),
            prefix: Bytes::new(),
            after: None,
            r: None,
            deadline: self.options().deadline,
            is_limited: false,
        };
        let (keys, reads, missing) = (None, VecDeque::new(), BTreeMap::new());
        Scan { part, keys, reads, largest: 0, left: None, missing }
    }
}

impl Scan {
    /// Only keys that begin with these bytes; all keys if there are none.
    pub fn prefix(mut self, prefix: impl Into<Bytes>) -> Self {
        self.part.prefix = prefix.into();
        self
    }

    /// Only keys behind this one in byte order: the last one of an earlier scan, to go on there.
    pub fn after(mut self, after: impl Into<Option<Key>>) -> Self {
        self.part.after = after.into();
        self
    }

    /// This many keys at most.
    pub fn limit(mut self, limit: impl Into<Option<u64>>) -> Self {
        self.left = limit.into();
        self.part.is_limited = self.left.is_some();
        self
    }

    /// Replicas that must answer for each page and each key; without it, the cluster's default.
    pub fn r(mut self, r: impl Into<Option<u8>>) -> Self {
        self.part.r = r.into();
        self
    }

    /// The time that one page or one read may take, not that of the scan. Without it,
    /// [`Options::deadline`](crate::Options::deadline).
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.part.deadline = deadline;
        self
    }

    /// The next key that has a value, with its values; `None` at the end. A partition that too few
    /// replicas answer for is passed over, and is in [`Scan::missing`] then; any other failure
    /// ends the scan.
    pub async fn next(&mut self) -> Result<Option<(Key, Found)>, ClientError> {
        if self.left == Some(0) {
            return Ok(None);
        }
        loop {
            self.read_ahead().await?;
            let Some(read) = self.reads.pop_front() else { return Ok(None) };
            let (key, found) = joined(read).await?;
            match found {
                Ok(found) if found.values.is_empty() => {}
                Ok(found) => {
                    let bytes = found.values.iter().map(Bytes::len).sum();
                    self.largest = self.largest.max(bytes);
                    self.left = self.left.map(|left| left - 1);
                    return Ok(Some((key, found)));
                }
                Err(failure) => {
                    let partition = self.part.client.ring().partition(&key);
                    note(&mut self.missing, partition, failure)?;
                }
            }
        }
    }

    /// The partitions that could not be read, or not wholly, because replicas were missing.
    pub fn missing(&self) -> &BTreeMap<Partition, ClientError> {
        &self.missing
    }

    /// Begins as many reads as are in progress at a time.
    async fn read_ahead(&mut self) -> Result<(), ClientError> {
        let keys = match &mut self.keys {
            Some(keys) => keys,
            None => self.keys.insert(Merge::begin(&self.part, &mut self.missing).await?),
        };
        let room = (READ_BYTES / (self.largest + 1)).clamp(1, READS);
        while self.reads.len() < room {
            let Some(key) = keys.next(&mut self.missing).await? else { break };
            let part = self.part.clone();
            self.reads.push_back(tokio::spawn(async move {
                let found = part.get(&key).await;
                (key, found)
            }));
        }
        Ok(())
    }
}

impl Drop for Scan {
    fn drop(&mut self) {
        self.reads.iter().for_each(JoinHandle::abort);
    }
}

impl Part {
    async fn get(&self, key: &Key) -> Result<Found, ClientError> {
        let get = || self.client.get(key).r(self.r).deadline(self.deadline).into_future();
        self.patiently(get).await
    }

    async fn page(
        &self,
        partition: Partition,
        after: Option<Key>,
        limit_bytes: u32,
    ) -> Result<KeyPage, ClientError> {
        let ms = ms(self.deadline);
        let query = || self.client.keys(partition, after.clone(), limit_bytes, self.r, ms);
        let mut page = self.patiently(query).await?;
        let wanted = page.keys.partition_point(|key| key.as_bytes().starts_with(&self.prefix));
        page.more &= wanted == page.keys.len();
        page.keys.truncate(wanted);
        Ok(page)
    }

    /// Asks again until the deadline while the node says that it is busy.
    async fn patiently<T, F: Future<Output = Result<T, ClientError>>>(
        &self,
        query: impl Fn() -> F,
    ) -> Result<T, ClientError> {
        let until = Instant::now() + self.deadline;
        loop {
            match query().await {
                Err(ClientError::Refused(Rejection::Busy { .. })) if Instant::now() < until => {
                    sleep(PAUSE).await;
                }
                answer => return answer,
            }
        }
    }

    /// The key behind which the wanted keys of a partition begin; `None`: its first one.
    fn start(&self, partition: Partition) -> Result<Option<Key>, ClientError> {
        if self.prefix.is_empty() {
            return Ok(self.after.clone());
        }
        // A longer one begins no key, and is refused as a key is.
        let prefix = Key::new(self.prefix.clone()).map_err(Rejection::Size)?;
        if self.after.as_ref().is_some_and(|after| *after >= prefix) {
            return Ok(self.after.clone());
        }
        // The prefix may be a key itself, in one partition.
        let holds_prefix = self.client.ring().partition(&prefix) == partition;
        Ok(if holds_prefix { before(&prefix) } else { Some(prefix) })
    }
}

/// The last key before this one in byte order; `None` if it is the first.
fn before(key: &Key) -> Option<Key> {
    let (last, rest) = key.as_bytes().split_last()?;
    let mut bytes = rest.to_vec();
    if let Some(last) = last.checked_sub(1) {
        bytes.push(last);
        bytes.resize(MAX_KEY_BYTES, u8::MAX);
    }
    Key::new(bytes).ok()
}

/// Takes note of a partition that too few replicas answer for; gives back any other failure.
fn note(
    missing: &mut BTreeMap<Partition, ClientError>,
    partition: Partition,
    failure: ClientError,
) -> Result<(), ClientError> {
    match &failure {
        ClientError::Refused(why) if why.is_no_quorum() => {
            missing.entry(partition).or_insert(failure);
            Ok(())
        }
        _ => Err(failure),
    }
}

async fn joined<T>(task: JoinHandle<T>) -> Result<T, ClientError> {
    task.await.map_err(|error| ClientError::Error(format!("a task failed: {error}")))
}

/// All keys of all partitions in byte order: a merge of sorted pages.
struct Merge {
    part: Part,
    turns: Arc<Semaphore>,
    partitions: Vec<Pages>,
    heads: BinaryHeap<Reverse<(Key, usize)>>,
}

/// One partition: the page in use, and the next one, which is being fetched.
struct Pages {
    page: VecDeque<Key>,
    next: Option<JoinHandle<Result<KeyPage, ClientError>>>,
    limit_bytes: u32,
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.next.iter().for_each(JoinHandle::abort);
    }
}

impl Merge {
    async fn begin(
        part: &Part,
        missing: &mut BTreeMap<Partition, ClientError>,
    ) -> Result<Self, ClientError> {
        let mut merge = Merge {
            part: part.clone(),
            turns: Arc::new(Semaphore::new(PAGES_IN_FLIGHT)),
            partitions: Vec::new(),
            heads: BinaryHeap::new(),
        };
        let is_partial = part.is_limited || !part.prefix.is_empty();
        let limit_bytes = if is_partial { FIRST_PAGE_BYTES } else { merge.page_bytes() };
        for number in 0..part.client.ring().partitions() {
            let partition = Partition(number);
            let next = Some(merge.fetch(partition, part.start(partition)?, limit_bytes));
            merge.partitions.push(Pages { page: VecDeque::new(), next, limit_bytes });
        }
        for at in 0..merge.partitions.len() {
            merge.advance(at, missing).await?;
        }
        Ok(merge)
    }

    /// Most bytes of a page.
    fn page_bytes(&self) -> u32 {
        let (low, high) = PAGE_BYTES;
        let partitions = u32::from(self.part.client.ring().partitions());
        (PAGES_BYTES / partitions.max(1)).clamp(low, high)
    }

    async fn next(
        &mut self,
        missing: &mut BTreeMap<Partition, ClientError>,
    ) -> Result<Option<Key>, ClientError> {
        let Some(Reverse((key, at))) = self.heads.pop() else { return Ok(None) };
        self.advance(at, missing).await?;
        Ok(Some(key))
    }

    /// Puts the partition's next key, if it has one, among the heads.
    async fn advance(
        &mut self,
        at: usize,
        missing: &mut BTreeMap<Partition, ClientError>,
    ) -> Result<(), ClientError> {
        let most = self.page_bytes();
        let Some(pages) = self.partitions.get_mut(at) else { return Ok(()) };
        if pages.page.is_empty()
            && let Some(next) = pages.next.take()
        {
            let page = match joined(next).await? {
                Ok(page) => page,
                Err(failure) => return note(missing, Partition(at as u16), failure),
            };
            let last = page.keys.last().cloned();
            pages.page = page.keys.into();
            if page.more {
                let Some(last) = last else {
                    let why = format!("partition {at}: a page without keys");
                    return Err(ClientError::Error(why));
                };
                let limit_bytes = pages.limit_bytes.saturating_mul(GROWTH).min(most);
                pages.limit_bytes = limit_bytes;
                let next = self.fetch(Partition(at as u16), Some(last), limit_bytes);
                if let Some(pages) = self.partitions.get_mut(at) {
                    pages.next = Some(next);
                }
            }
        }
        let head = self.partitions.get_mut(at).and_then(|pages| pages.page.pop_front());
        self.heads.extend(head.map(|key| Reverse((key, at))));
        Ok(())
    }

    fn fetch(
        &self,
        partition: Partition,
        after: Option<Key>,
        limit_bytes: u32,
    ) -> JoinHandle<Result<KeyPage, ClientError>> {
        let (part, turns) = (self.part.clone(), Arc::clone(&self.turns));
        tokio::spawn(async move {
            let _turn = turns.acquire().await;
            part.page(partition, after, limit_bytes).await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_fits_between_a_key_and_the_one_before_it() {
        let key = |bytes: &[u8]| Key::new(bytes.to_vec()).unwrap();
        assert_eq!(before(&key(b"\0")), None);
        assert_eq!(before(&key(b"a\0")), Some(key(b"a")));
        let last = before(&key(b"ab")).unwrap();
        assert!(last < key(b"ab") && last.as_bytes().len() == MAX_KEY_BYTES);
        assert!(last.as_bytes().starts_with(b"aa\xff\xff"));
        // A longer one would not be a key.
        assert!(Key::new([last.as_bytes(), b"\0"].concat()).is_err());
    }
}
