//! One trial: what each message of a write and a read takes, and what the read makes of it.

use pixii_core::node::LATE_READ;
use pixii_core::rng::Rng;

use super::{Leg, Reads, Wars};

/// Draws from which it is reported how long answers take.
const PACE_DRAWS: u64 = 20_000;

/// One trial's draws, by replica.
#[derive(Default)]
pub(super) struct Trial {
    /// When the write is there.
    pub(super) there: Vec<u64>,
    /// When its acknowledgements are back, in order.
    pub(super) acks: Vec<u64>,
    /// In the order in which they are asked, or (where all are) in which they answer.
    pub(super) replicas: Vec<Replica>,
    queried: Vec<Queried>,
}

/// A replica that a read may ask.
#[derive(Clone, Copy, Debug)]
pub(super) struct Replica {
    /// How long question and answer take,
    pub(super) answer: u64,
    /// and the question alone.
    pub(super) question: u64,
    /// When an answer is late: another one is asked. The highest number: never.
    pub(super) timeout: u64,
    /// Chance, against ties.
    pub(super) chance: u64,
    /// Its place in `there`.
    pub(super) at: usize,
}

/// One that was asked.
#[derive(Clone, Copy, Debug)]
struct Queried {
    answered: u64,
    /// When the question was there.
    reached: u64,
    due: u64,
    is_hedged: bool,
    at: usize,
}

/// How long the answer of a replica that is like all others may take until it is late.
pub(super) fn timeout_of(wars: &Wars, reads: Reads) -> u64 {
    if reads != Reads::Hedged {
        return u64::MAX;
    }
    let mut rng = Rng::new(0);
    // Those asked first are near only where all are.
    let far = |rng: &mut Rng| wars.wan.as_ref().map_or(0, |wan| wan.sample(rng));
    let trips = (0..PACE_DRAWS)
        .map(|_| wars.r.sample(&mut rng) + wars.s.sample(&mut rng) + far(&mut rng) + far(&mut rng));
    timeout(&trips.collect::<Vec<_>>())
}

/// How long the answer of a replica may take that took so long before: what a coordinator's
/// estimates come to in the long run.
pub(super) fn timeout(trips: &[u64]) -> u64 {
    let count = trips.len().max(1) as f64;
    let mean = trips.iter().sum::<u64>() as f64 / count;
    let deviation = trips.iter().map(|trip| (*trip as f64 - mean).abs()).sum::<f64>() / count;
    ((mean + 4.0 * deviation) as u64).clamp(LATE_READ.0.0, LATE_READ.1.0)
}

impl Trial {
    /// Forgets the last one.
    pub(super) fn clear(&mut self) {
        self.there.clear();
        self.acks.clear();
        self.replicas.clear();
    }

    /// Draws for `n` replicas that are all alike.
    pub(super) fn draw(
        &mut self,
        wars: &Wars,
        n: usize,
        reads: Reads,
        timeout: u64,
        rng: &mut Rng,
    ) {
        // Owners that coordinate. The own confirmation takes a way only where the question to the
        // own copy does.
        let writer = (reads != Reads::All).then(|| rng.below(n as u64) as usize);
        let reads_own = matches!(reads, Reads::Owner | Reads::Hedged);
        let reader = reads_own.then(|| rng.below(n as u64) as usize);
        // Nothing is drawn for replicas that are all near.
        let mut near = |own: Option<usize>| {
            wars.wan.as_ref().map(|_| own.unwrap_or_else(|| rng.below(n as u64) as usize))
        };
        let (near_writer, near_reader) = (near(writer), near(reader));
        self.clear();
        for at in 0..n {
            let (writes, queries) = (Some(at) == writer, Some(at) == reader);
            let mut leg = |leg: &Leg, own: bool, near: Option<usize>| match &wars.wan {
                _ if own => 0,
                Some(wan) if near != Some(at) => leg.sample(rng) + wan.sample(rng),
                _ => leg.sample(rng),
            };
            let w = leg(&wars.w, writes, near_writer);
            let a = leg(&wars.a, writes && reads_own, near_writer);
            let (r, s) = (leg(&wars.r, queries, near_reader), leg(&wars.s, queries, near_reader));
            self.there.push(w);
            self.acks.push(w + a);
            let (answer, chance) = (r + s, rng.next_u64());
            self.replicas.push(Replica { answer, question: r, timeout, chance, at });
        }
        self.acks.sort_unstable();
        match reader {
            None => self.replicas.sort_unstable_by_key(|one| (one.answer, one.chance)),
            // The own copy, then others as chance has it: they are asked before anybody knows how
            // long they take.
            Some(reader) => {
                self.replicas.sort_unstable_by_key(|one| (one.at != reader, one.chance));
            }
        }
    }

    /// A read of `r` replicas: how long it takes, and after which moment it has to begin to be
    /// fresh, counted from the begin of the write. One of the replicas shows the write if it was
    /// there when the question came: w_t + t + R_i >= W_i.
    pub(super) fn read(&mut self, r: usize) -> (u64, i64) {
        let (first, mut others) = self.replicas.split_at(r);
        self.queried.clear();
        self.queried.extend(first.iter().map(|one| query(one, 0)));
        loop {
            self.queried.sort_unstable_by_key(|one| one.answered);
            let end = self.queried[r - 1].answered;
            let late =
                |one: &&mut Queried| !one.is_hedged && one.due < one.answered && one.due < end;
            let late = self.queried.iter_mut().filter(late).min_by_key(|one| one.due);
            let (Some(late), Some((next, rest))) = (late, others.split_first()) else { break };
            late.is_hedged = true;
            let due = late.due;
            self.queried.push(query(next, due));
            others = rest;
        }
        let counted = &self.queried[..r];
        let latest = |one: &Queried| self.there[one.at] as i64 - one.reached as i64;
        (self.queried[r - 1].answered, counted.iter().map(latest).min().unwrap_or(0))
    }
}

fn query(replica: &Replica, now: u64) -> Queried {
    let Replica { answer, question, timeout, at, .. } = *replica;
    let due = now.saturating_add(timeout);
    Queried { answered: now + answer, reached: now + question, due, is_hedged: false, at }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_answer_has_another_one_queried_and_the_first_ones_count() {
        let replica = |at: usize, answer, timeout| Replica {
            answer,
            question: answer / 2,
            timeout,
            chance: 0,
            at,
        };
        let mut trial = Trial {
            there: vec![0, 900, 500],
            replicas: vec![replica(0, 0, 50), replica(1, 1_000, 50), replica(2, 100, 50)],
            ..Trial::default()
        };
        // Its own copy is there at once, and has the write.
        assert_eq!(trial.read(1), (0, 0));
        // The second is late at 50; the third is asked then and has answered at 150. Its question
        // reached it at 100.
        assert_eq!(trial.read(2), (150, 0));
        trial.there[0] = 10_000;
        assert_eq!(trial.read(2), (150, 400));
        // With all three asked there is nobody left to ask.
        assert_eq!(trial.read(3), (1_000, 400));
        // Without hedges the second is waited for.
        trial.replicas.iter_mut().for_each(|one| one.timeout = u64::MAX);
        assert_eq!(trial.read(2), (1_000, 400));
    }

    #[test]
    fn timeout_is_a_mean_and_four_deviations_within_bounds() {
        assert_eq!(timeout(&[10_000, 20_000]), 15_000 + 4 * 5_000);
        assert_eq!(timeout(&[100, 100]), LATE_READ.0.0);
        assert_eq!(timeout(&[900_000]), LATE_READ.1.0);
    }
}
