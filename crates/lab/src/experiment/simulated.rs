//! A cluster in virtual time as a driver of experiments.

use std::collections::{BTreeMap, HashMap};

use pixii_core::message::{Request, Response};
use pixii_core::ring::Ring;
use pixii_core::rng::Rng;
use pixii_core::types::{Key, Micros, NodeId, Time, WriteId};
use pixii_sim::cluster::{Cluster, Setup};

use super::driver::{
    Driver, Followed, KEYS, Loops, Measured, Puts, Read, Reading, Sample, Scenario, Seen, Sent,
    TIMEOUT_MS, followed_key, fresh_key, put, quorum, read_key,
};

/// Everything asked is answered in this time, or never.
const TIMEOUT: Micros = Micros::from_millis(3_600_000);
/// All believe by then that who died is down.
const NOTICE: Micros = Micros::from_millis(10_000);
/// How exactly it is reported when replicas are the same, and when that is given up.
const POLL_INTERVAL: Micros = Micros::from_millis(20);
const GIVEN_UP: Micros = Micros::from_millis(600_000);

/// A cluster in virtual time.
pub(crate) struct Simulated {
    cluster: Cluster,
    writes: u64,
    series: u64,
    /// Keys that loops have put.
    keys: Vec<Key>,
}

/// Puts and reads of [`Simulated::follow`] in progress.
#[derive(Default)]
struct InFlight {
    /// Puts by their call.
    writing: HashMap<u64, (u64, Vec<Read>)>,
    /// Reads by their call.
    reading: HashMap<u64, Reading>,
    /// Reads that are to come.
    due: BTreeMap<(Time, u64, usize), Read>,
}

impl Simulated {
    /// Founds the cluster.
    pub(crate) fn found(setup: &Setup) -> Result<Self, String> {
        let cluster = Cluster::found(setup)?;
        Ok(Simulated { cluster, writes: 0, series: 0, keys: Vec::new() })
    }

    #[cfg(test)]
    pub(crate) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// A put with a name of its own.
    fn put(&mut self, key: Key, w: u8) -> Request {
        self.writes += 1;
        put(key, w, WriteId(u128::from(self.writes)))
    }

    /// Asks the first owner of the key that lives, as a client does that can reach it.
    fn query(&mut self, client: u64, key: &Key, request: Request) -> u64 {
        let ring = self.cluster.ring();
        let owners = ring.owners(ring.partition(key)).iter().map(|owner| self.place(*owner));
        let owner = owners.into_iter().find(|owner| self.cluster.is_alive(*owner)).unwrap_or(0);
        self.cluster.query(client, owner, request, TIMEOUT_MS)
    }

    /// The place of the owner of a key with this number, counted round.
    fn owner(&self, key: &Key, number: usize) -> usize {
        let ring = self.cluster.ring();
        let owners = ring.owners(ring.partition(key));
        self.place(owners[number % owners.len()])
    }

    /// The next answer: of which call, and how long it took.
    fn answer(&mut self) -> Result<(u64, Response, Micros), String> {
        let until = self.cluster.now() + TIMEOUT;
        let answer = self.cluster.next(until).ok_or("a request was never answered")?;
        Ok((answer.call, answer.response, answer.ended - answer.begun))
    }

    /// Asks what this client asks in this turn: the call, and the key's number if it reads.
    fn turn(&mut self, loops: &Loops, client: u64, turn: u64, rng: &mut Rng) -> (u64, Option<u64>) {
        let (number, key, request);
        if rng.below(10) < loops.reads_of_ten {
            number = Some(rng.below(KEYS));
            key = read_key(number.unwrap_or_default());
            request = Request::Get { key: key.clone(), r: quorum(loops.r, true) };
        } else {
            number = None;
            key = fresh_key(loops, client, turn);
            self.keys.push(key.clone());
            request = self.put(key.clone(), loops.w);
        }
        (self.query(client, &key, request), number)
    }

    /// Takes an answer to something that follows.
    fn take(&mut self, in_flight: &mut InFlight, followed: &mut Followed, until: Time) -> bool {
        let Some(answer) = self.cluster.next(until) else { return false };
        if let Some((nth, reads)) = in_flight.writing.remove(&answer.call) {
            if matches!(answer.response, Response::Written { .. }) {
                followed.acknowledged.push(nth);
                let reads = reads.into_iter().enumerate();
                let due =
                    reads.map(|(which, read)| ((answer.ended + read.after, nth, which), read));
                in_flight.due.extend(due);
            }
        } else if let Some(reading) = in_flight.reading.remove(&answer.call) {
            let seen = match answer.response {
                Response::Found { values, .. } if values.is_empty() => Seen::Missed,
                Response::Found { .. } => Seen::Shown,
                _ => Seen::Refused,
            };
            followed.reads.push(Reading { seen, ..reading });
        }
        true
    }
}

impl Driver for Simulated {
    fn tolerance(&self) -> (f64, f64) {
        (0.1, 0.0)
    }

    fn ring(&self) -> &Ring {
        self.cluster.ring()
    }

    fn place(&self, node: NodeId) -> usize {
        self.cluster.place(node).unwrap_or(0)
    }

    fn load(&mut self) -> Result<(), String> {
        let n = self.cluster.ring().n();
        for number in 0..KEYS {
            let key = read_key(number);
            let request = self.put(key.clone(), n);
            self.query(number, &key, request);
        }
        for _ in 0..KEYS {
            match self.answer()?.1 {
                Response::Written { .. } => {}
                other => return Err(format!("a key is not put: {other:?}")),
            }
        }
        Ok(())
    }

    fn emulate(&mut self, rules: &str) -> Result<(), String> {
        self.cluster.emulate(rules)
    }

    fn run(&mut self, loops: &Loops) -> Result<Measured, String> {
        let (mut measured, mut rng) = (Measured::default(), Rng::new(loops.seed));
        let mut flying = HashMap::new();
        let turns = loops.warm_up + loops.requests;
        for client in 0..loops.clients {
            let (call, read) = self.turn(loops, client, 0, &mut rng);
            flying.insert(call, (client, 0, read));
        }
        let mut first = None;
        while !flying.is_empty() {
            let (call, response, took) = self.answer()?;
            let Some((client, turn, read)) = flying.remove(&call) else { continue };
            if turn >= loops.warm_up {
                first.get_or_insert(self.cluster.now() - took);
                let absent =
                    matches!(&response, Response::Found { values, .. } if values.is_empty());
                match response {
                    Response::Found { .. } | Response::Written { .. } if !absent => {
                        let (is_read, key) = (read.is_some(), read.unwrap_or_default());
                        measured.samples.push(Sample { is_read, key, took });
                    }
                    other => measured.fail(read, format!("{other:?}")),
                }
            }
            if turn + 1 < turns {
                let (call, read) = self.turn(loops, client, turn + 1, &mut rng);
                flying.insert(call, (client, turn + 1, read));
            }
        }
        measured.spent = self.cluster.now() - first.unwrap_or(self.cluster.now());
        Ok(measured)
    }

    fn follow(
        &mut self,
        puts: &Puts,
        scenario: &mut dyn FnMut(u64) -> Scenario,
    ) -> Result<Followed, String> {
        let (mut followed, mut in_flight) = (Followed::default(), InFlight::default());
        let (begun, mut issued) = (self.cluster.now(), 0);
        self.series += 1;
        loop {
            let next_put = (issued < puts.count).then_some(begun + issued * puts.pace);
            let next_read = in_flight.due.first_key_value().map(|((at, ..), _)| *at);
            let next = [next_put, next_read].into_iter().flatten().min();
            let open = in_flight.writing.len() + in_flight.reading.len();
            if next.is_none() && open == 0 {
                return Ok(followed);
            }
            let until = next.unwrap_or(self.cluster.now() + TIMEOUT);
            if self.take(&mut in_flight, &mut followed, until) {
                continue;
            }
            if next_put == Some(until) {
                let Scenario { owner, w, reads } = scenario(issued);
                let key = followed_key(self.series, issued);
                let (owner, request) = (self.owner(&key, owner), self.put(key, w));
                let call = self.cluster.query(0, owner, request, puts.timeout_ms);
                in_flight.writing.insert(call, (issued, reads));
                issued += 1;
            } else if let Some(((_, put, which), Read { after, owner, r })) =
                in_flight.due.pop_first()
            {
                let key = followed_key(self.series, put);
                let owner = self.owner(&key, owner);
                let request = Request::Get { key, r: quorum(r, true) };
                let call = self.cluster.query(1, owner, request, puts.timeout_ms);
                let reading = Reading { put, which, after, seen: Seen::Refused };
                in_flight.reading.insert(call, reading);
            } else {
                return Err("a request was never answered".into());
            }
        }
    }

    fn kill(&mut self, at: usize) -> Result<(), String> {
        self.cluster.kill(at);
        self.wait(NOTICE)
    }

    fn restart(&mut self, at: usize, lost: bool) -> Result<(), String> {
        self.cluster.restart(at, lost)
    }

    fn wait(&mut self, time: Micros) -> Result<(), String> {
        self.cluster.run_to(self.cluster.now() + time);
        Ok(())
    }

    fn sent(&mut self) -> Result<Sent, String> {
        Ok(self.cluster.sent().clone())
    }

    fn converge(&mut self) -> Result<Micros, String> {
        let begun = self.cluster.now();
        let keys = std::mem::take(&mut self.keys);
        // Those that were found to be the same stay so: nothing is put any more.
        let mut left = keys.iter().peekable();
        while left.peek().is_some() {
            while left.next_if(|key| self.cluster.is_same(key)).is_some() {}
            if self.cluster.now() > begun + GIVEN_UP {
                return Err(format!(
                    "replicas still differ after {} s",
                    GIVEN_UP / Micros::from_secs(1)
                ));
            }
            if left.peek().is_some() {
                self.wait(POLL_INTERVAL)?;
            }
        }
        Ok(self.cluster.now() - begun)
    }

    fn stop(self: Box<Self>) -> Result<(), String> {
        Ok(())
    }
}
