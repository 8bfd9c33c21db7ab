//! Means and their confidence intervals.

/// A sample's mean and the half width of its 95 % confidence interval, by Student's t.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mean {
    /// How many.
    pub(crate) count: usize,
    /// Their mean.
    pub(crate) mean: f64,
    /// Half the width of the interval; 0 of fewer than two.
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
        Mean { count, mean, half: student(count.saturating_sub(1)) * (variance / n).sqrt() }
    }
}

/// How many standard errors a mean is off at most, in 95 of 100 cases: the 97.5 % quantile of
/// Student's t with so many degrees of freedom, by the expansion of Cornish and Fisher where there
/// are more than two (within 1 % then, 0.01 % above ten).
fn student(freedom: usize) -> f64 {
    let z: f64 = 1.959_963_985;
    let v = match freedom {
        0 => return 0.0,
        1 => return 12.706_205,
        2 => return 4.302_653,
        v => v as f64,
    };
    let terms = [
        (z.powi(3) + z) / 4.0,
        (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / 96.0,
        (3.0 * z.powi(7) + 19.0 * z.powi(5) + 17.0 * z.powi(3) - 15.0 * z) / 384.0,
        (79.0 * z.powi(9) + 776.0 * z.powi(7) + 1_482.0 * z.powi(5)
            - 1_920.0 * z.powi(3)
            - 945.0 * z)
            / 92_160.0,
    ];
    terms.iter().rev().fold(0.0, |sum, term| (sum + term) / v) + z
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_students() {
        let tables = [
            (1, 12.706),
            (2, 4.303),
            (3, 3.182),
            (4, 2.776),
            (5, 2.571),
            (9, 2.262),
            (10, 2.228),
            (29, 2.045),
            (120, 1.980),
        ];
        for (freedom, wanted) in tables {
            let found = student(freedom);
            let off = if freedom < 5 { 0.01 } else { 0.000_7 };
            assert!((found / wanted - 1.0).abs() < off, "{freedom}: {found}, not {wanted}");
        }
        // Five numbers of mean 3 and standard deviation sqrt(2.5): 2.776 * sqrt(0.5).
        let mean = Mean::of(&[1.0, 2.0, 3.0, 4.0, 5.0]);
        assert!((mean.mean - 3.0).abs() < 1e-12 && (mean.half - 1.963).abs() < 0.01, "{mean:?}");
        let one = Mean::of(&[7.0]);
        assert_eq!((one.count, one.mean, one.half), (1, 7.0, 0.0));
    }
}
