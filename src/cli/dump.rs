//! `pixii dump`: every value of the cluster in the order of the keys, in bounded memory.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::io::{self, BufWriter, StdoutLock, Write};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use pixii_client::{Client, ClientError, Found, KeyPage};
use pixii_core::message::Rejection;
use pixii_core::types::{Key, Partition};
use pixii_kit::arguments::{Shared, deadline};
use pixii_kit::outcome::{CommandError, CommandResult, Exit, block_on};
use pixii_kit::signals::Interrupt;
use pixii_kit::text;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::get;

/// Memory for the pages of all partitions together, twice: one page in use and the next one.
const PAGES_BYTES: u32 = 8 << 20;
/// Bounds of one page.
const PAGE_BYTES: (u32, u32) = (2 << 10, 64 << 10);
/// Pages asked for at a time.
const PAGES_IN_FLIGHT: usize = 32;
/// Reads in progress at a time, fewer when values are so large that they would pass [`READ_BYTES`].
const READS: usize = 64;
const READ_BYTES: usize = 64 << 20;
/// Pause before a node that was busy is asked again.
const PAUSE: Duration = Duration::from_millis(50);

/// Print every key and value, sorted by key
#[derive(Args)]
#[command(after_help = "\
A line is a key, a tab and a value; in both, a backslash is written \\\\, a tab \\t, a \
    newline \\n and a \
carriage return \\r, as `pixii load` reads them. A key with siblings has a line for each, with a \
    third \
column such as `sibling 1/2`. Deleted keys are left out.

Where too few replicas can answer, all other partitions are printed; those that are missing are \
    named at the end, and \
the exit code is 4. Any other failure ends the dump, and so does \
Ctrl-C: the number of lines that are printed and whole is said.

Examples:
  pixii dump > backup.tsv
  pixii dump --keys | wc -l
  pixii dump -r 3                    every replica must answer
  pixii dump --json                  an object per key, with siblings and context")]
pub(crate) struct Dump {
    /// Replicas that must answer [default: the cluster's]
    #[arg(short)]
    r: Option<u8>,
    /// Deadline for each read, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 5_000, value_parser = deadline())]
    timeout: u32,
    /// Print keys only
    #[arg(long)]
    keys: bool,
    /// Print backslashes, tabs and newlines as they are
    #[arg(long)]
    raw: bool,
}

impl Dump {
    /// Reads and prints everything.
    pub(crate) fn run(self, shared: &Shared) -> CommandResult {
        let mut printer = Printer {
            out: BufWriter::new(io::stdout().lock()),
            lines: 0,
            keys: self.keys,
            raw: self.raw,
            json: shared.json(),
        };
        let interrupt = Interrupt::listen(true)?;
        let outcome = block_on(async {
            let work = async {
                let client = shared.client().await?;
                let source = Source { client, r: self.r, timeout_ms: self.timeout };
                dump(&source, &mut printer).await
            };
            // It ends between two lines, never within one.
            tokio::select! {
                biased;
                outcome = work => outcome,
                () = interrupt.wait() => Err(CommandError::error("interrupted")),
            }
        });
        printer.out.flush()?;
        let lines = text::count(printer.lines, "line");
        outcome.and_then(Missing::verdict).map(|()| Exit::Done).map_err(|error| {
            match error.message.as_str() {
                "" => error,
                why => CommandError { message: format!("{why}; {lines} printed"), ..error },
            }
        })
    }
}

/// Where everything is read from.
#[derive(Clone)]
struct Source {
    client: Client,
    r: Option<u8>,
    timeout_ms: u32,
}

impl Source {
    async fn get(&self, key: &Key) -> Result<Found, ClientError> {
        self.patiently(|| self.client.get(key, self.r, self.timeout_ms)).await
    }

    async fn page(
        &self,
        partition: Partition,
        after: Option<Key>,
        limit_bytes: u32,
    ) -> Result<KeyPage, ClientError> {
        let query =
            || self.client.keys(partition, after.clone(), limit_bytes, self.r, self.timeout_ms);
        self.patiently(query).await
    }

    /// Asks again until the deadline while the node says that it is busy.
    async fn patiently<T, F: Future<Output = Result<T, ClientError>>>(
        &self,
        query: impl Fn() -> F,
    ) -> Result<T, ClientError> {
        let deadline = Instant::now() + Duration::from_millis(self.timeout_ms.into());
        loop {
            match query().await {
                Err(ClientError::Refused(Rejection::Busy { .. })) if Instant::now() < deadline => {
                    sleep(PAUSE).await;
                }
                answer => return answer,
            }
        }
    }
}

/// Partitions that could not be read because replicas is missing, each with the reason.
#[derive(Default)]
struct Missing(BTreeMap<Partition, String>);

/// Partitions that a sentence names; it counts the others.
const MAX_NAMED: usize = 8;

impl Missing {
    /// Takes note of a partition that too few replicas answer for; gives back any other failure.
    fn note(&mut self, partition: Partition, failure: ClientError) -> Result<(), CommandError> {
        match failure {
            ClientError::Refused(why) if why.is_no_quorum() => {
                self.0.entry(partition).or_insert_with(|| why.to_string());
                Ok(())
            }
            other => Err(other.into()),
        }
    }

    /// An error if anything is missing: a dump that is not whole must not be taken for one.
    fn verdict(self) -> Result<(), CommandError> {
        let Some(why) = self.0.values().next() else { return Ok(()) };
        let numbers: Vec<String> =
            self.0.keys().take(MAX_NAMED).map(|partition| partition.0.to_string()).collect();
        let others = match self.0.len() - numbers.len() {
            0 => String::new(),
            others => format!(" and {}", text::count(others as u64, "other")),
        };
        let (all, numbers) = (text::count(self.0.len() as u64, "partition"), numbers.join(", "));
        Err(CommandError {
            message: format!("{all} could not be read or not wholly ({numbers}{others}): {why}"),
            exit: Exit::NoQuorum,
        })
    }
}

async fn dump(source: &Source, printer: &mut Printer<'_>) -> Result<Missing, CommandError> {
    let mut keys = Merge::begin(source).await?;
    let mut window: VecDeque<JoinHandle<(Key, Result<Found, ClientError>)>> = VecDeque::new();
    let (mut more, mut largest) = (true, 0);
    loop {
        let room = (READ_BYTES / (largest + 1)).clamp(1, READS);
        while more && window.len() < room {
            let Some(key) = keys.next().await? else {
                more = false;
                break;
            };
            let source = source.clone();
            window.push_back(tokio::spawn(async move {
                let found = source.get(&key).await;
                (key, found)
            }));
        }
        let Some(read) = window.pop_front() else { return Ok(keys.missing) };
        let (key, found) = joined(read).await?;
        let found = match found {
            Ok(found) => found,
            Err(failure) => {
                let partition = source.client.ring().partition(&key);
                keys.missing.note(partition, failure)?;
                continue;
            }
        };
        largest = largest.max(found.values.iter().map(|value| value.len()).sum());
        printer.print(&key, &found)?;
    }
}

async fn joined<T>(task: JoinHandle<T>) -> Result<T, CommandError> {
    task.await.map_err(|error| CommandError::error(format!("a task failed: {error}")))
}

/// All keys of all partitions in byte order: a merge of sorted pages.
struct Merge<'a> {
    source: &'a Source,
    turns: Arc<Semaphore>,
    limit_bytes: u32,
    partitions: Vec<Pages>,
    heads: BinaryHeap<Reverse<(Key, usize)>>,
    missing: Missing,
}

/// One partition: the page in use, and the next one, which is being fetched.
struct Pages {
    page: VecDeque<Key>,
    next: Option<JoinHandle<Result<KeyPage, ClientError>>>,
}

impl<'a> Merge<'a> {
    async fn begin(source: &'a Source) -> Result<Self, CommandError> {
        let count = source.client.ring().partitions();
        let (low, high) = PAGE_BYTES;
        let mut merge = Merge {
            source,
            turns: Arc::new(Semaphore::new(PAGES_IN_FLIGHT)),
            limit_bytes: (PAGES_BYTES / u32::from(count).max(1)).clamp(low, high),
            partitions: Vec::new(),
            heads: BinaryHeap::new(),
            missing: Missing::default(),
        };
        for number in 0..count {
            let next = Some(merge.fetch(Partition(number), None));
            merge.partitions.push(Pages { page: VecDeque::new(), next });
        }
        for at in 0..merge.partitions.len() {
            merge.advance(at).await?;
        }
        Ok(merge)
    }

    async fn next(&mut self) -> Result<Option<Key>, CommandError> {
        let Some(Reverse((key, at))) = self.heads.pop() else { return Ok(None) };
        self.advance(at).await?;
        Ok(Some(key))
    }

    /// Puts the partition's next key, if it has one, among the heads.
    async fn advance(&mut self, at: usize) -> Result<(), CommandError> {
        let Some(pages) = self.partitions.get_mut(at) else { return Ok(()) };
        if pages.page.is_empty()
            && let Some(next) = pages.next.take()
        {
            let page = match joined(next).await? {
                Ok(page) => page,
                Err(failure) => return self.missing.note(Partition(at as u16), failure),
            };
            let last = page.keys.last().cloned();
            pages.page = page.keys.into();
            if page.more {
                let Some(last) = last else {
                    return Err(CommandError::error(format!(
                        "partition {at}: a page without keys"
                    )));
                };
                let next = self.fetch(Partition(at as u16), Some(last));
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
    ) -> JoinHandle<Result<KeyPage, ClientError>> {
        let (source, turns) = (self.source.clone(), Arc::clone(&self.turns));
        let limit_bytes = self.limit_bytes;
        tokio::spawn(async move {
            let _turn = turns.acquire().await;
            source.page(partition, after, limit_bytes).await
        })
    }
}

fn key_json(key: &Key) -> serde_json::Value {
    serde_json::json!({ "key": text::json_bytes(key.as_bytes()) })
}

/// Lines to standard output.
struct Printer<'a> {
    out: BufWriter<StdoutLock<'a>>,
    lines: u64,
    keys: bool,
    raw: bool,
    json: bool,
}

impl Printer<'_> {
    fn print(&mut self, key: &Key, found: &Found) -> Result<(), CommandError> {
        let count = found.values.len();
        if count == 0 {
            return Ok(());
        }
        if self.json && self.keys {
            return self.line(format!("{}", key_json(key)).as_bytes());
        }
        if self.json {
            return self.line(format!("{}", get::found_json(key, found)).as_bytes());
        }
        let mut name = Vec::new();
        self.column(key.as_bytes(), &mut name);
        if self.keys {
            return self.line(&name);
        }
        for (at, value) in found.values.iter().enumerate() {
            let mut line = name.clone();
            line.push(b'\t');
            self.column(value, &mut line);
            if count > 1 {
                line.extend(format!("\t{}{}/{count}", text::SIBLING, at + 1).bytes());
            }
            self.line(&line)?;
        }
        Ok(())
    }

    fn column(&self, bytes: &[u8], line: &mut Vec<u8>) {
        match self.raw {
            true => line.extend(bytes),
            false => text::escape(bytes, line),
        }
    }

    fn line(&mut self, line: &[u8]) -> Result<(), CommandError> {
        self.out.write_all(line)?;
        self.out.write_all(b"\n")?;
        self.lines += 1;
        Ok(())
    }
}
