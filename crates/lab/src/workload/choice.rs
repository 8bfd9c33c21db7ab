//! What the next operation is about: which key, and how large a value. Everything follows from a
//! seed.

use pixii_core::rng::Rng;

use crate::ledger::value::MIN_VALUE_BYTES;

/// How keys are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Choice {
    /// All keys alike.
    Uniform,
    /// Zipf's law with this exponent (above 0; 0.99 is customary): few keys get most of the load.
    Zipf(f64),
    /// Zipf's law over age: the newest key gets most of the load.
    Latest(f64),
    /// One after the other, all clients together, and again from the first.
    Sweep,
    /// All alike, but each client has keys of its own: nobody else writes them, and the first write
    /// of each is made without a read.
    Own,
}

/// Draws keys where chance alone decides: [`Choice::Uniform`], [`Choice::Zipf`],
/// [`Choice::Latest`].
#[derive(Debug, Default)]
pub(super) struct Drawer {
    /// For so many keys.
    zipf: Option<(u64, Zipf)>,
}

impl Drawer {
    /// A number in `0..count`; `count` is 1 at least.
    pub(super) fn draw(&mut self, choice: Choice, count: u64, rng: &mut Rng) -> u64 {
        match choice {
            Choice::Zipf(exponent) => self.rank(count, exponent, rng) - 1,
            Choice::Latest(exponent) => count - self.rank(count, exponent, rng),
            _ => rng.below(count),
        }
    }

    fn rank(&mut self, count: u64, exponent: f64, rng: &mut Rng) -> u64 {
        let fitting = self.zipf.take().filter(|(of, _)| *of == count);
        let fitting = fitting.unwrap_or_else(|| (count, Zipf::new(count, exponent)));
        self.zipf.insert(fitting).1.draw(rng)
    }
}

/// Sizes of values in bytes, [`MIN_VALUE_BYTES`] at least.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sizes {
    /// Most values.
    pub(crate) usual: usize,
    /// The others.
    pub(crate) large: usize,
    /// The share of large ones, 0 to 1.
    pub(crate) large_share: f64,
}

impl Sizes {
    /// All values alike.
    pub(crate) fn fixed(bytes: usize) -> Self {
        Sizes { usual: bytes, large: bytes, large_share: 0.0 }
    }

    /// The size of the next value, in bytes.
    pub(crate) fn draw(&self, rng: &mut Rng) -> usize {
        let size = if rng.chance(self.large_share) { self.large } else { self.usual };
        size.max(MIN_VALUE_BYTES)
    }
}

/// Ranks by Zipf's law: rank k of `1..=count` with a probability in proportion to k to the power of
/// `-exponent`. Rejection-inversion (Hörmann and Derflinger, 1996): constant memory, about one
/// draw, and nothing to compute when a key is added. YCSB draws by Gray et al. (1994), which is
/// exact for the first two ranks and near for the others.
#[derive(Clone, Debug)]
pub(crate) struct Zipf {
    count: f64,
    exponent: f64,
    low: f64,
    high: f64,
    squeeze: f64,
}

impl Zipf {
    /// For ranks `1..=count`; an exponent above 0.
    pub(crate) fn new(count: u64, exponent: f64) -> Self {
        let mut zipf =
            Zipf { count: count.max(1) as f64, exponent, low: 0.0, high: 0.0, squeeze: 0.0 };
        zipf.low = zipf.area(1.5) - 1.0;
        zipf.high = zipf.area(zipf.count + 0.5);
        zipf.squeeze = 2.0 - zipf.area_inverse(zipf.area(2.5) - zipf.weight(2.0));
        zipf
    }

    /// The next rank.
    pub(crate) fn draw(&self, rng: &mut Rng) -> u64 {
        loop {
            let u = self.high + rng.unit() * (self.low - self.high);
            let x = self.area_inverse(u);
            let rank = x.round().clamp(1.0, self.count);
            if rank - x <= self.squeeze || u >= self.area(rank + 0.5) - self.weight(rank) {
                return rank as u64;
            }
        }
    }

    fn weight(&self, x: f64) -> f64 {
        (-self.exponent * x.ln()).exp()
    }

    /// The integral of the weight; written so that it stays exact where the exponent is near 1.
    fn area(&self, x: f64) -> f64 {
        let log = x.ln();
        let scaled = (1.0 - self.exponent) * log;
        if scaled.abs() < 1e-9 { log } else { scaled.exp_m1() / scaled * log }
    }

    fn area_inverse(&self, area: f64) -> f64 {
        let scaled = (area * (1.0 - self.exponent)).max(-1.0);
        let log = if scaled.abs() < 1e-9 { area } else { scaled.ln_1p() / scaled * area };
        log.exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zipf_ranks_have_their_probabilities() {
        for exponent in [0.5, 0.99, 1.0, 2.0] {
            let (zipf, mut rng) = (Zipf::new(50, exponent), Rng::new(3));
            let mut counts = [0_u32; 51];
            for _ in 0..200_000 {
                counts[zipf.draw(&mut rng) as usize] += 1;
            }
            let sum: f64 = (1..=50).map(|k| f64::from(k).powf(-exponent)).sum();
            for rank in [1_u32, 2, 3, 10, 50] {
                let expected = 200_000.0 * f64::from(rank).powf(-exponent) / sum;
                let got = f64::from(counts[rank as usize]);
                let allowed = 5.0 * expected.sqrt() + 1.0;
                assert!((got - expected).abs() < allowed, "{exponent} {rank}: {got} {expected}");
            }
        }
        let (one, mut rng) = (Zipf::new(1, 0.99), Rng::new(3));
        assert!((0..100).all(|_| one.draw(&mut rng) == 1));
    }

    #[test]
    fn keys_are_drawn_as_their_choice_says() {
        const KEYS: usize = 10;
        let law = |key: usize| 1.0 / (key as f64 + 1.0).powf(0.99);
        let sum: f64 = (0..KEYS).map(law).sum();
        let zipf: Vec<f64> = (0..KEYS).map(|key| law(key) / sum).collect();
        let latest: Vec<f64> = zipf.iter().rev().copied().collect();
        for (choice, shares) in [
            (Choice::Uniform, vec![1.0 / KEYS as f64; KEYS]),
            (Choice::Zipf(0.99), zipf),
            (Choice::Latest(0.99), latest),
        ] {
            let (mut drawer, mut rng, mut counts) = (Drawer::default(), Rng::new(4), [0; KEYS]);
            // A population that grows is drawn from anew.
            assert!(drawer.draw(choice, 1_000, &mut rng) < 1_000);
            let draws = 100_000;
            (0..draws).for_each(|_| {
                counts[drawer.draw(choice, KEYS as u64, &mut rng) as usize] += 1;
            });
            let parts = counts.iter().zip(shares).map(|(count, share)| {
                let expected = share * f64::from(draws);
                (f64::from(*count) - expected).powi(2) / expected
            });
            // With 9 degrees of freedom, 1 of 10,000 seeds is above.
            let square: f64 = parts.sum();
            assert!(square < 33.7, "seed 4, {choice:?}: {square}, {counts:?}");
        }
    }

    #[test]
    fn sizes_are_mixed_by_share() {
        let (sizes, mut rng) = (Sizes { usual: 100, large: 1_000, large_share: 0.1 }, Rng::new(5));
        let large = (0..10_000).filter(|_| sizes.draw(&mut rng) == 1_000).count();
        assert!((800..1_200).contains(&large), "{large}");
        assert_eq!(Sizes::fixed(3).draw(&mut rng), MIN_VALUE_BYTES);
    }
}
