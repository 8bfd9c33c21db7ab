//! One trial: the delays of the messages of a write and a read, and what the read returns.

use pixii_core::node::LATE_READ;
use pixii_core::rng::Rng;

use super::{Leg, Reads, Wars};

/// Number of draws from which the timeout of an answer is estimated.
const PACE_DRAWS: u64 = 20_000;

/// The delays that were drawn for one trial, by replica.
#[derive(Default)]
pub(super) struct Trial {
    /// When the write reaches each replica, in microseconds since its beginning.
    pub(super) there: Vec<u64>,
    /// When its acknowledgements arrive, in ascending order.
    pub(super) acks: Vec<u64>,
    /// The replicas in the order in which a read sends to them or, if it sends to all, in which
    /// they answer.
    pub(super) replicas: Vec<Replica>,
    queried: Vec<Queried>,
}

/// A replica that a read may send to. Times are in microseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Replica {
    /// Delay of the request and the response together.
    pub(super) answer: u64,
    /// Delay of the request alone.
    pub(super) question: u64,
    /// Time after which an answer is late and a further replica is queried; `u64::MAX` for never.
    pub(super) timeout: u64,
    /// Random number that decides the order of otherwise equal replicas.
    pub(super) chance: u64,
    /// Its index in `there`.
    pub(super) at: usize,
}

/// A replica that a read has sent to.
#[derive(Clone, Copy, Debug)]
struct Queried {
    answered: u64,
    /// When the request reached the replica.
    reached: u64,
    due: u64,
    is_hedged: bool,
    at: usize,
}

/// Timeout of an answer where all replicas are alike; `u64::MAX` without hedges.
pub(super) fn timeout_of(wars: &Wars, reads: Reads) -> u64 {
    if reads != Reads::Hedged {
        return u64::MAX;
    }
    let mut rng = Rng::new(0);
    // The replicas that are queried first are near only if all are.
    let far = |rng: &mut Rng| wars.wan.as_ref().map_or(0, |wan| wan.sample(rng));
    let trips = (0..PACE_DRAWS)
        .map(|_| wars.r.sample(&mut rng) + wars.s.sample(&mut rng) + far(&mut rng) + far(&mut rng));
    timeout(&trips.collect::<Vec<_>>())
}

/// Timeout of an answer of a replica with these past round trips: what the estimates of a
/// coordinator converge to.
pub(super) fn timeout(trips: &[u64]) -> u64 {
    let count = trips.len().max(1) as f64;
    let mean = trips.iter().sum::<u64>() as f64 / count;
    let deviation = trips.iter().map(|trip| (*trip as f64 - mean).abs()).sum::<f64>() / count;
    ((mean + 4.0 * deviation) as u64).clamp(LATE_READ.0.0, LATE_READ.1.0)
}

impl Trial {
    /// Forgets the last trial.
    pub(super) fn clear(&mut self) {
        self.there.clear();
        self.acks.clear();
        self.replicas.clear();
    }

    /// Draws a trial with `n` replicas that are all alike.
    pub(super) fn draw(
        &mut self,
        wars: &Wars,
        n: usize,
        reads: Reads,
        timeout: u64,
        rng: &mut Rng,
    ) {
        // Owners that coordinate. The acknowledgement of the own copy has a delay only where the
        // request to the own copy has one.
        let writer = (reads != Reads::All).then(|| rng.below(n as u64) as usize);
        let reads_own = matches!(reads, Reads::Owner | Reads::Hedged);
        let reader = reads_own.then(|| rng.below(n as u64) as usize);
        // Nothing is drawn if all replicas are near.
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
            // The own copy first, then the others in random order: they are queried before their
            // delays are known.
            Some(reader) => {
                self.replicas.sort_unstable_by_key(|one| (one.at != reader, one.chance));
            }
        }
    }

    /// A read of `r` replicas: its duration, and the time since the beginning of the write from
    /// which it has to begin to be fresh. A replica shows the write if the write was there when the
    /// request came: w_t + t + R_i >= W_i.
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
        // The own copy is there at once, and has the write.
        assert_eq!(trial.read(1), (0, 0));
        // The answer of the second is late at 50; the third is queried then and answers at 150. The
        // request reached it at 100.
        assert_eq!(trial.read(2), (150, 0));
        trial.there[0] = 10_000;
        assert_eq!(trial.read(2), (150, 400));
        // With all three queried, none is left to query.
        assert_eq!(trial.read(3), (1_000, 400));
        // Without hedges, the read waits for the second.
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
