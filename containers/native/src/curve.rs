//! What a call costs, as a function of its rows.

use std::time::Duration;

use crate::random::Random;

/// The latency of a call of `n` rows: `beta + alpha * n`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Curve {
    /// What each call costs, however many rows it has.
    pub beta: Duration,
    /// What each row costs.
    pub alpha: Duration,
}

/// How single calls stray from the curve. Every kind but [`Jitter::Exponential`] keeps the mean.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Jitter {
    /// Not at all.
    #[default]
    None,
    /// Evenly, by at most this fraction to either side.
    Uniform(f64),
    /// By an exponential share on top, whose mean is this fraction of the curve.
    Exponential(f64),
    /// By a log-normal factor of mean 1; the number is the deviation of its logarithm.
    LogNormal(f64),
}

impl Curve {
    /// No cost at all.
    pub const ZERO: Self = Self::from_nanoseconds(0, 0);
    /// The paper's container that does nothing.
    pub const NOOP: Self = Self::from_nanoseconds(813_000, 19_000);
    /// The paper's logistic regression (scikit-learn).
    pub const LOGISTIC_REGRESSION: Self = Self::from_nanoseconds(783_000, 24_000);
    /// The paper's linear SVM (scikit-learn).
    pub const LINEAR_SVM: Self = Self::from_nanoseconds(3_671_000, 12_500);
    /// The paper's linear SVM on Spark.
    pub const PYSPARK_SVM: Self = Self::from_nanoseconds(1_088_000, 34_000);
    /// The paper's random forest (scikit-learn).
    pub const RANDOM_FOREST: Self = Self::from_nanoseconds(7_663_000, 32_000);
    /// The paper's kernel SVM (scikit-learn), which has nothing to gain from batches.
    pub const KERNEL_SVM: Self = Self::from_nanoseconds(5_889_000, 5_062_000);

    /// The paper's curves by name.
    pub const NAMED: [(&'static str, Self); 6] = [
        ("noop", Self::NOOP),
        ("logistic_regression", Self::LOGISTIC_REGRESSION),
        ("linear_svm", Self::LINEAR_SVM),
        ("pyspark_svm", Self::PYSPARK_SVM),
        ("random_forest", Self::RANDOM_FOREST),
        ("kernel_svm", Self::KERNEL_SVM),
    ];

    /// A curve of its two numbers.
    pub const fn new(beta: Duration, alpha: Duration) -> Self {
        Self { beta, alpha }
    }

    /// The paper's curve of that name, if there is one.
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMED
            .into_iter()
            .find(|(known, _)| *known == name)
            .map(|(_, curve)| curve)
    }

    /// The same curve, slower by `factor`.
    pub fn scaled(self, factor: f64) -> Self {
        Self {
            beta: self.beta.mul_f64(factor),
            alpha: self.alpha.mul_f64(factor),
        }
    }

    /// What a call of `rows` rows costs.
    pub fn cost(self, rows: usize) -> Duration {
        let rows = u32::try_from(rows).unwrap_or(u32::MAX);
        self.beta.saturating_add(self.alpha.saturating_mul(rows))
    }

    const fn from_nanoseconds(beta: u64, alpha: u64) -> Self {
        Self {
            beta: Duration::from_nanos(beta),
            alpha: Duration::from_nanos(alpha),
        }
    }
}

impl Jitter {
    pub(crate) fn apply(self, cost: Duration, random: &mut Random) -> Duration {
        let factor = match self {
            Self::None => return cost,
            Self::Uniform(fraction) => 1.0 + fraction * (2.0 * random.unit() - 1.0),
            Self::Exponential(fraction) => 1.0 + fraction * random.exponential(),
            Self::LogNormal(sigma) => (sigma * random.normal() - sigma * sigma / 2.0).exp(),
        };
        Duration::try_from_secs_f64(cost.as_secs_f64() * factor).unwrap_or(cost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_is_a_line() {
        let curve = Curve::named("linear_svm").expect("the paper has it");
        assert_eq!(curve.cost(1), Duration::from_nanos(3_683_500));
        assert_eq!(curve.cost(1000), Duration::from_micros(16_171));
        assert_eq!(
            curve.scaled(0.5).cost(1000),
            Duration::from_nanos(8_085_500)
        );
        assert_eq!(Curve::ZERO.cost(usize::MAX), Duration::ZERO);
        assert_eq!(Curve::named("quantum_svm"), None);
    }

    #[test]
    fn jitter_keeps_its_mean_and_never_goes_below_zero() {
        let cost = Duration::from_millis(1);
        let mut random = Random::new(3);
        for (jitter, expected) in [
            (Jitter::None, 1.0),
            (Jitter::Uniform(0.5), 1.0),
            (Jitter::Exponential(0.3), 1.3),
            (Jitter::LogNormal(0.5), 1.0),
        ] {
            let draws = 20_000;
            let sum: Duration = (0..draws).map(|_| jitter.apply(cost, &mut random)).sum();
            let mean = sum.as_secs_f64() / f64::from(draws) / cost.as_secs_f64();
            assert!((mean - expected).abs() < 0.02, "{jitter:?}: {mean}");
        }
        assert!((0..1000).all(|_| Jitter::Uniform(9.0).apply(cost, &mut random) <= cost * 10));
    }
}
