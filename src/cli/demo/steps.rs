//! The steps of the demo.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use pixii_client::{Client, Options};
use pixii_core::message::Quorum;
use pixii_core::types::{Key, NodeId};
use pixii_kit::arguments::parse_key;
use pixii_kit::cluster::Cluster;
use pixii_kit::outcome::CommandError;
use pixii_kit::signals::Interrupt;
use pixii_kit::text::count;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::script::Script;
use crate::cli::load::ledger::{Counts, Fate};
use crate::cli::load::lines::{self, Start};
use crate::cli::load::write::{Plan, Settled, write};
use crate::cli::load::{Pour, Stop};

/// How long a daemon may take until it answers.
const READY_WAIT: Duration = Duration::from_secs(30);
/// Deadline of each request.
const TIMEOUT_MS: u32 = 10_000;
/// Writers at work while a daemon is killed, and for how long before and after.
const WRITERS: u64 = 8;
const BEFORE_KILL: Duration = Duration::from_millis(500);
const AFTER_KILL: Duration = Duration::from_millis(1_500);
/// Requests in progress at a time.
const IN_FLIGHT: usize = 64;
/// Keys that live on the victim and on the two daemons that are killed after it.
const WITNESSES: usize = 25;
/// The daemon that is killed first, and those that are killed to leave it alone.
const VICTIM: &str = "n3";
const OTHERS: [&str; 2] = ["n1", "n2"];

/// What the steps work with.
pub(super) struct Steps<'a> {
    /// Where they are notified.
    pub(super) script: &'a mut Script,
    /// The daemons.
    pub(super) cluster: &'a mut Cluster,
    /// Ctrl-C.
    pub(super) interrupt: &'a Interrupt,
}

/// What must be found later.
type Expected = BTreeMap<Key, Bytes>;

impl Steps<'_> {
    /// All steps, with the file's name and bytes.
    pub(super) async fn all(
        &mut self,
        name: &str,
        file: Cursor<Vec<u8>>,
    ) -> Result<(), CommandError> {
        self.start().await?;
        let client = self.client().await?;
        let loaded = self.load(&client, name, file).await?;
        self.read(&client, &loaded).await?;
        self.siblings(&client).await?;
        let (witnesses, written) = self.kill(&client).await?;
        self.restart(&client, &[&loaded, &written, &witnesses]).await?;
        self.alone(&client, &witnesses).await?;
        self.script.step("All five stop")?;
        let stopped = self.cluster.stop_all();
        let reported = stopped.err().unwrap_or_else(|| "five clean stops".into());
        let clean = reported == "five clean stops";
        self.script.check(clean, &reported)
    }

    async fn client(&self) -> Result<Client, CommandError> {
        let addresses: Vec<String> =
            self.cluster.daemons().iter().map(|daemon| daemon.address.clone()).collect();
        Ok(Client::connect(&addresses, Options::default()).await?)
    }

    async fn start(&mut self) -> Result<(), CommandError> {
        self.script.step("Five daemons start")?;
        self.cluster.start_all().map_err(CommandError::error)?;
        self.cluster.ready(READY_WAIT).await.map_err(CommandError::error)?;
        for daemon in self.cluster.daemons() {
            let pid = daemon.pid().unwrap_or_default();
            self.script.report(&format!("{} at {}, process {pid}", daemon.name, daemon.address))?;
        }
        self.script.check(true, "each answers and has a link to every other")
    }

    async fn load(
        &mut self,
        client: &Client,
        name: &str,
        file: Cursor<Vec<u8>>,
    ) -> Result<Expected, CommandError> {
        self.script.step("A file is loaded")?;
        let begun = Instant::now();
        let w = Quorum::default();
        let plan = Plan { r: None, w, timeout_ms: TIMEOUT_MS, sibling: false };
        let mut pour = Pour::new(client.clone(), plan, IN_FLIGHT, Counts::default());
        pour.run(lines::read(file.clone(), Start::default(), false), self.interrupt).await;
        if let Some(Stop::Input(why) | Stop::Fault(why)) = &pour.stop {
            return Err(CommandError::error(format!("{name}: {why}")));
        }
        let (counts, seconds) = (pour.counts(), begun.elapsed().as_secs_f64());
        let rate = counts.loaded as f64 / seconds;
        let lines = count(counts.lines, "line");
        self.script.report(&format!("{name}: {lines} read and put at {rate:.0} a second"))?;
        let all = counts.loaded == counts.lines;
        self.script.check(all, "every line is acknowledged by two daemons, synced")?;
        let mut expected = Expected::new();
        let mut lines = lines::read(file, Start::default(), false);
        while let Some(batch) = lines.recv().await {
            let batch = batch.map_err(CommandError::error)?;
            expected.extend(batch.into_iter().filter_map(|line| line.content.ok()));
        }
        let found = right(client, &expected, None).await?;
        let reported = format!("{found} of {} keys read back, each with its value", expected.len());
        self.script.check(found == expected.len(), &reported)?;
        Ok(expected)
    }

    async fn read(&mut self, client: &Client, loaded: &Expected) -> Result<(), CommandError> {
        self.script.step("A value is read")?;
        let middle = loaded.iter().nth(loaded.len() / 2);
        let Some((key, value)) = middle else {
            return Err(CommandError::error("the file has no line of key, tab and value"));
        };
        let ring = client.ring();
        let owners = ring.owners(ring.partition(key));
        let names: Vec<String> =
            owners.iter().map(|id| client.ring_report().members.name(*id)).collect();
        let begun = Instant::now();
        let found = client.get(key).deadline_ms(TIMEOUT_MS).await?;
        let spent = begun.elapsed().as_secs_f64() * 1_000.0;
        let shown: String = String::from_utf8_lossy(value).escape_debug().take(60).collect();
        let key: String = format!("{key:?}").chars().take(40).collect();
        self.script.report(&format!("{key} lives on {}: {shown}", names.join(", ")))?;
        let reported = format!("{} replicas answered in {spent:.1} ms", found.answered);
        self.script.check(found.values == [value.clone()], &reported)
    }

    async fn siblings(&mut self, client: &Client) -> Result<(), CommandError> {
        self.script.step("Two people write the same key at once")?;
        let key = parse_key(&"demo/cart".into(), false)?;
        let put = |value: &'static str, context: Bytes| {
            client.put(&key, value).context(context).deadline_ms(TIMEOUT_MS).into_future()
        };
        let seen = client.get(&key).deadline_ms(TIMEOUT_MS).await?.context;
        let (ann, bob) = (put("milk", seen.clone()), put("bread", seen));
        let (ann, bob) = tokio::join!(ann, bob);
        ann.and(bob)?;
        let reported =
            "Ann puts \"milk\", Bob puts \"bread\", each with the context of an empty read";
        self.script.report(reported)?;
        let both = client.get(&key).deadline_ms(TIMEOUT_MS).await?;
        let mut values: Vec<String> =
            both.values.iter().map(|value| String::from_utf8_lossy(value).into()).collect();
        values.sort();
        let reported = format!("a read shows both siblings: {}", values.join(" and "));
        self.script.check(values == ["bread", "milk"], &reported)?;
        put("milk, bread", both.context).await?;
        let merged = client.get(&key).deadline_ms(TIMEOUT_MS).await?;
        let one = merged.values == ["milk, bread"];
        self.script.check(one, "a put with the context of that read replaces both: milk, bread")
    }

    /// Returns the keys that all three of their daemons acknowledged, and those that two did.
    async fn kill(&mut self, client: &Client) -> Result<(Expected, Expected), CommandError> {
        self.script.step(&format!("{VICTIM} is killed with kill -9 while puts go on"))?;
        let witnesses = self.witnesses(client).await?;
        let stop = Arc::new(AtomicBool::new(false));
        let mut writers = JoinSet::new();
        for number in 0..WRITERS {
            writers.spawn(keep_writing(client.clone(), number, Arc::clone(&stop)));
        }
        sleep(BEFORE_KILL).await;
        self.cluster.kill(VICTIM).map_err(CommandError::error)?;
        let killed = Instant::now();
        sleep(AFTER_KILL).await;
        stop.store(true, Ordering::Relaxed);
        let mut all = Work::default();
        while let Some(work) = writers.join_next().await {
            all.add(work.map_err(|error| CommandError::error(error.to_string()))??);
        }
        let after = all.when.iter().filter(|at| **at > killed).count();
        let slowest = all.slowest.as_secs_f64() * 1_000.0;
        self.script.report(&format!(
            "{WRITERS} writers: {} puts, {after} of them acknowledged after the kill; the slowest \
             took \
             {slowest:.0} ms",
            all.when.len() + all.lost
        ))?;
        let reported = format!("{} puts refused or left unknown", all.lost);
        self.script.check(all.lost == 0 && after > 0, &reported)?;
        Ok((witnesses, all.written))
    }

    /// Puts keys whose owners are the victim and the two others, on all three.
    async fn witnesses(&mut self, client: &Client) -> Result<Expected, CommandError> {
        let trio = [VICTIM, OTHERS[0], OTHERS[1]].map(NodeId::of);
        let ring = client.ring();
        let mut expected = Expected::new();
        for number in 0.. {
            let key = parse_key(&format!("demo/witness/{number}").into(), false)?;
            if ring.owners(ring.partition(&key)).iter().all(|owner| trio.contains(owner)) {
                let value = Bytes::from(format!("held by all three, number {number}"));
                client.put(&key, value.clone()).w(3).deadline_ms(TIMEOUT_MS).await?;
                expected.insert(key, value);
            }
            if expected.len() == WITNESSES || number == 100_000 {
                break;
            }
        }
        Ok(expected)
    }

    async fn restart(&mut self, client: &Client, parts: &[&Expected]) -> Result<(), CommandError> {
        self.script.step(&format!("{VICTIM} starts again"))?;
        let begun = Instant::now();
        self.cluster.start(VICTIM).map_err(CommandError::error)?;
        self.cluster.ready(READY_WAIT).await.map_err(CommandError::error)?;
        let seconds = begun.elapsed().as_secs_f64();
        let report = client.status(Some(VICTIM)).await?;
        self.script
            .report(&format!("it answers after {seconds:.2} s, with links to all others"))?;
        let reported = format!(
            "it knows that its last stop was not a clean one (incarnation {})",
            report.incarnation
        );
        self.script.check(report.recovered && report.incarnation.0 == 2, &reported)?;
        let (mut found, mut total) = (0, 0);
        for part in parts {
            found += right(client, part, Some(3)).await?;
            total += part.len();
        }
        let reported =
            format!("{found} of {total} acknowledged writes read back from all three replicas");
        self.script.check(found == total, &reported)
    }

    async fn alone(&mut self, client: &Client, witnesses: &Expected) -> Result<(), CommandError> {
        self.script.step(&format!("{VICTIM} alone has what it acknowledged"))?;
        for name in OTHERS {
            self.cluster.kill(name).map_err(CommandError::error)?;
        }
        let others = OTHERS.join(" and ");
        let total = witnesses.len();
        self.script.report(&format!(
            "{others}, the other owners of {total} keys, are killed: only {VICTIM} can answer for \
             these"
        ))?;
        let found = right(client, witnesses, Some(1)).await?;
        let reported = format!(
            "{found} of {total} keys read back from {VICTIM}, each with its \
            value"
        );
        self.script.check(found == total && total > 0, &reported)?;
        self.cluster.start_all().map_err(CommandError::error)?;
        self.cluster.ready(READY_WAIT).await.map_err(CommandError::error)?;
        self.script.report(&format!("{others} are back"))
    }
}

/// What the writers did.
#[derive(Default)]
struct Work {
    written: Expected,
    when: Vec<Instant>,
    lost: usize,
    slowest: Duration,
}

impl Work {
    fn add(&mut self, other: Work) {
        self.written.extend(other.written);
        self.when.extend(other.when);
        self.lost += other.lost;
        self.slowest = self.slowest.max(other.slowest);
    }
}

async fn keep_writing(
    client: Client,
    writer: u64,
    stop: Arc<AtomicBool>,
) -> Result<Work, CommandError> {
    let plan = Plan { r: None, w: Quorum::default(), timeout_ms: TIMEOUT_MS, sibling: false };
    let mut work = Work::default();
    for number in 0u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = parse_key(&format!("demo/order/{writer}/{number}").into(), false)?;
        let value = Bytes::from(format!("order {number} of writer {writer}"));
        let begun = Instant::now();
        let fate = write(&client, plan, key.clone(), value.clone()).await;
        work.slowest = work.slowest.max(begun.elapsed());
        match fate {
            Ok(Settled { fate: Fate::Loaded, .. }) => {
                work.written.insert(key, value);
                work.when.push(Instant::now());
            }
            Ok(_) => work.lost += 1,
            Err(why) => return Err(CommandError::error(why)),
        }
    }
    Ok(work)
}

/// How many keys have the expected value and no other.
async fn right(client: &Client, expected: &Expected, r: Option<u8>) -> Result<usize, CommandError> {
    let mut reads = JoinSet::new();
    let mut entries = expected.iter();
    let mut count = 0;
    loop {
        while reads.len() < IN_FLIGHT
            && let Some((key, value)) = entries.next()
        {
            let (client, key, value) = (client.clone(), key.clone(), value.clone());
            reads.spawn(async move {
                let found = client.get(&key).r(r).deadline_ms(TIMEOUT_MS).await;
                found.is_ok_and(|found| {
                    !found.values.is_empty() && found.values.iter().all(|one| *one == value)
                })
            });
        }
        match reads.join_next().await {
            None => return Ok(count),
            Some(read) => {
                let right = read.map_err(|error| CommandError::error(error.to_string()))?;
                count += usize::from(right);
            }
        }
    }
}
