//! What order statistics give for quorums over delays that are exponentially distributed.

/// Steps of the integral, and how many means it goes to.
const STEPS: u32 = 100_000;
const REACH: f64 = 60.0;

/// The mean of the `nth` smallest of `count` independent round trips, each the sum of two
/// exponential delays with the mean `delay`: the integral of the chance that fewer than `nth` of
/// them are within t, with F(t) = 1 - (1 + t/delay) exp(-t/delay), by Simpson's rule. In the unit
/// of `delay`; 0 for none.
pub(crate) fn nth_round_trip(nth: u32, count: u32, delay: f64) -> f64 {
    let choose =
        |of: u32| (0..of).map(|at| f64::from(count - at) / f64::from(at + 1)).product::<f64>();
    let ways: Vec<f64> = (0..nth).map(choose).collect();
    let longer = |t: f64| {
        let within = 1.0 - (1.0 + t) * (-t).exp();
        let chance = |(of, ways): (usize, &f64)| {
            ways * within.powi(of as i32) * (1.0 - within).powi(count as i32 - of as i32)
        };
        ways.iter().enumerate().map(chance).sum::<f64>()
    };
    if nth == 0 {
        return 0.0;
    }
    let step = REACH / f64::from(STEPS);
    let inner = (1..STEPS).map(|at| {
        let weight = if at % 2 == 1 { 4.0 } else { 2.0 };
        weight * longer(f64::from(at) * step)
    });
    let sum = longer(0.0) + longer(REACH) + inner.sum::<f64>();
    sum * step / 3.0 * delay
}

/// The mean of the largest of `count` such round trips: of a read that asks only as many as it
/// needs.
pub(crate) fn largest_round_trip(count: u32, delay: f64) -> f64 {
    nth_round_trip(count, count, delay)
}

#[cfg(test)]
mod tests {
    use pixii_core::rng::Rng;

    use super::*;

    #[test]
    fn known_means_are_met() {
        assert_eq!(largest_round_trip(0, 5.0), 0.0);
        assert!((largest_round_trip(1, 5.0) - 10.0).abs() < 1e-6);
        // The largest of two Erlang(2) variables has the mean 2.75.
        assert!((largest_round_trip(2, 1.0) - 2.75).abs() < 1e-6);
        let mut rng = Rng::new(4);
        let mut leg = || -(1.0 - rng.unit()).ln();
        let rounds = 200_000;
        let largest = |count: u32, leg: &mut dyn FnMut() -> f64| {
            (0..count).map(|_| leg() + leg()).fold(0.0, f64::max)
        };
        let second = (0..rounds).map(|_| {
            let mut four = [(); 4].map(|()| leg() + leg());
            four.sort_by(f64::total_cmp);
            four[1]
        });
        let (mean, theory) = (second.sum::<f64>() / f64::from(rounds), nth_round_trip(2, 4, 1.0));
        assert!((mean / theory - 1.0).abs() < 0.01, "the second of four: {mean} and {theory}");
        for count in [3, 4] {
            let mean =
                (0..rounds).map(|_| largest(count, &mut leg)).sum::<f64>() / f64::from(rounds);
            let theory = largest_round_trip(count, 1.0);
            assert!((mean / theory - 1.0).abs() < 0.01, "{count}: {mean} and {theory}");
        }
    }
}
