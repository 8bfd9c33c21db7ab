//! Experiments: measurements on clusters in virtual time or of real daemons, with an emulated network, beside what theory gives.

mod driver;
pub(crate) mod failures;
pub(crate) mod grid;
mod real;
pub(crate) mod recovery;
pub(crate) mod report;
pub(crate) mod scale;
mod simulated;
pub(crate) mod site;
pub(crate) mod staleness;
mod theory;
pub(crate) mod visibility;

/// Called after each point; the error says that the run is to end.
pub(crate) type Step<'a> = &'a mut dyn FnMut() -> Result<(), String>;

/// A sample's mean and the half width of its 95 % confidence interval, by the normal approximation.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mean {
    /// How many.
    pub(crate) count: usize,
    /// Their mean.
    pub(crate) mean: f64,
    /// Half the width of the interval.
    pub(crate) half: f64,
}

impl Mean {
    /// Of these numbers.
    pub(crate) fn of(samples: &[f64]) -> Self {
        let count = samples.len();
        let n = count.max(1) as f64;
        let mean = samples.iter().sum::<f64>() / n;
        let variance =
            samples.iter().map(|one| (one - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
        Mean { count, mean, half: 1.96 * (variance / n).sqrt() }
    }
}
