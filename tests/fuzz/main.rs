//! Hostile bytes: mutations of good ones, and noise, for a bounded number of rounds, or for
//! PIXII_FUZZ_SECONDS seconds a test. PIXII_FUZZ_SEED=N repeats a run. The folder `fuzz` gives the
//! same targets to libFuzzer, which looks where it gets to.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod corpus;
mod live;
mod machine;
mod targets;

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use pixii_core::rng::Rng;

/// How long a test goes on, and with which chances.
pub struct Effort {
    rounds: u64,
    end: Option<Instant>,
    /// Its chances.
    pub rng: Rng,
    done: u64,
}

impl Effort {
    /// So many rounds, or as long as the environment says.
    pub fn new(what: &str, rounds: u64) -> Self {
        let number = |name| env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
        let seed = number("PIXII_FUZZ_SEED").unwrap_or(1);
        println!("{what}: seed {seed}");
        let end = number("PIXII_FUZZ_SECONDS").map(|s| Instant::now() + Duration::from_secs(s));
        Effort { rounds, end, rng: Rng::new(seed), done: 0 }
    }

    /// True if there is another round.
    pub fn goes_on(&mut self) -> bool {
        self.done += 1;
        match self.end {
            Some(end) => Instant::now() < end,
            None => self.done <= self.rounds,
        }
    }

    /// Rounds that were begun.
    pub fn rounds(&self) -> u64 {
        self.done - 1
    }
}

/// Gives `target` what `draw` makes, round after round; an input that it panics on is shown.
fn drive(
    what: &str,
    rounds: u64,
    mut draw: impl FnMut(&mut Rng) -> Vec<u8>,
    target: impl Fn(&[u8]),
) {
    let mut effort = Effort::new(what, rounds);
    while effort.goes_on() {
        let input = draw(&mut effort.rng);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(&input))) {
            let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
            println!("{what}: round {} panicked on {hex}", effort.rounds());
            resume_unwind(panic);
        }
    }
    println!("{what}: {} rounds", effort.rounds());
}

/// One of these, changed; now and then noise instead.
fn changed(rng: &mut Rng, good: &[Vec<u8>]) -> Vec<u8> {
    if rng.chance(0.05) {
        return corpus::noise(rng, 200);
    }
    let mut bytes = rng.pick(good).unwrap().clone();
    let other = rng.pick(good).unwrap().clone();
    corpus::mutate(rng, &mut bytes, &other);
    bytes
}

fn all_words() -> Vec<Vec<u8>> {
    let words: Vec<Vec<u8>> = corpus::words().into_iter().map(|(_, bytes)| bytes).collect();
    assert!(words.len() > 90);
    words
}

#[test]
fn decoders_take_or_refuse_every_bytes() {
    let good = all_words();
    // Unchanged, each is taken by its own decoder.
    good.iter().for_each(|bytes| targets::decoders(bytes));
    drive("decoders", 100_000, |rng| changed(rng, &good), targets::decoders);
}

#[test]
fn texts_are_taken_or_refused_in_a_sentence() {
    let good = corpus::TEXTS.map(|text| text.as_bytes().to_vec());
    drive("texts", 20_000, |rng| changed(rng, &good), targets::texts);
}

#[test]
fn http_requests_are_answered_whatever_they_are() {
    let good = corpus::REQUESTS.map(|text| text.as_bytes().to_vec());
    drive("requests", 200_000, |rng| changed(rng, &good), targets::requests);
}

#[test]
fn a_connection_of_hostile_bytes_is_read_to_its_end() {
    let words = all_words();
    let draw = |rng: &mut Rng| {
        let mut bytes = pixii_core::wire::preamble().to_vec();
        for _ in 0..=rng.below(4) {
            bytes.extend(live::framed(&changed(rng, &words)));
        }
        // The rare ones that are changed outside of a frame's content end early.
        if rng.chance(0.3) {
            corpus::mutate(rng, &mut bytes, &words[0]);
        }
        bytes
    };
    drive("connection", 50_000, draw, targets::connection);
}

#[test]
fn a_node_survives_whatever_it_is_reported() {
    let named = |prefix: &str| -> Vec<Vec<u8>> {
        let words = corpus::words().into_iter().filter(|(name, _)| name.starts_with(prefix));
        words.map(|(_, bytes)| bytes).collect()
    };
    let (peers, calls) = (named("peer-"), named("call-"));
    let draw = |rng: &mut Rng| {
        let mut steps = Vec::new();
        for _ in 0..=rng.below(60) {
            let (what, way) = (rng.below(4) as u8, rng.below(64) as u8);
            steps.push(way << 2 | what);
            if what == 3 {
                continue;
            }
            let good = if what == 2 { &calls } else { &peers };
            // Half of them as they should be, so that the node gets somewhere.
            let message =
                if rng.chance(0.5) { rng.pick(good).unwrap().clone() } else { changed(rng, good) };
            steps.extend((message.len() as u16).to_be_bytes());
            steps.extend(message);
        }
        steps
    };
    drive("machine", 3_000, draw, machine::machine);
}
