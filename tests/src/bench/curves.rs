//! The cost curves of the paper's containers, and what theory expects of them.

use std::time::Duration;

/// A model whose call of `n` rows takes `beta + alpha * n`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Curve {
    /// Name, as the native container knows it.
    pub name: &'static str,
    /// Seconds that each call takes.
    pub beta: f64,
    /// Seconds that each row takes.
    pub alpha: f64,
    /// What the paper measured at 20 ms, in rows a second.
    pub paper: Paper,
}

/// Throughput that the paper's authors measured at an objective of 20 ms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Paper {
    /// With AIMD.
    pub aimd: u32,
    /// With quantile regression.
    pub quantile: u32,
    /// Without batching.
    pub single: u32,
}

impl Curve {
    /// All six, in the paper's order.
    pub const ALL: [Self; 6] = [
        Self::new("noop", 813.0, 19.0, [48_386, 46_085, 8964]),
        Self::new("logistic_regression", 783.0, 24.0, [47_220, 43_954, 1921]),
        Self::new("linear_svm", 3671.0, 12.5, [48_934, 47_879, 1921]),
        Self::new("pyspark_svm", 1088.0, 34.0, [29_351, 27_743, 7207]),
        Self::new("random_forest", 7663.0, 32.0, [22_859, 19_904, 317]),
        Self::new("kernel_svm", 5889.0, 5062.0, [198, 189, 204]),
    ];

    const fn new(name: &'static str, beta: f64, alpha: f64, paper: [u32; 3]) -> Self {
        let [aimd, quantile, single] = paper;
        let (beta, alpha) = (beta * 1e-6, alpha * 1e-6);
        Self {
            name,
            beta,
            alpha,
            paper: Paper {
                aimd,
                quantile,
                single,
            },
        }
    }

    /// Finds a curve by its name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|curve| curve.name == name)
    }

    /// The same curve, `scale` times slower.
    #[must_use]
    pub fn scaled(self, scale: f64) -> Self {
        Self {
            beta: self.beta * scale,
            alpha: self.alpha * scale,
            ..self
        }
    }

    /// Seconds that a call of `rows` rows takes.
    pub fn cost(self, rows: f64) -> f64 {
        self.beta + self.alpha * rows
    }

    /// The batch that is full at the highest rate: a request that just missed one waits for it, and
    /// then for its own, so one batch may take half of the objective. At least one row.
    pub fn fullest_batch(self, objective: Duration) -> f64 {
        ((objective.as_secs_f64() / 2.0 - self.beta) / self.alpha)
            .floor()
            .max(1.0)
    }

    /// A rate near the highest that batches of at most `rows` rows sustain.
    pub fn batched_rate(self, rows: f64, objective: Duration) -> f64 {
        let rows = rows.min(self.fullest_batch(objective)).max(1.0);
        if rows < 2.0 {
            return self.single_rate(objective);
        }
        rows / self.cost(rows)
    }

    /// The highest rate of a queue with one row at a time whose p99 stays within the objective.
    ///
    /// For Poisson arrivals and even service times `s`, the wait exceeds `t` with a probability of
    /// about `u * exp(-2 (1 - u) t / (u s))` at utilisation `u`: near enough to begin a search.
    pub fn single_rate(self, objective: Duration) -> f64 {
        let service = self.cost(1.0);
        let slack = (objective.as_secs_f64() - service).max(0.0);
        let late = |u: f64| u * (-2.0 * (1.0 - u) * slack / (u * service)).exp();
        let (mut low, mut high) = (0.01, 1.0);
        for _ in 0..40 {
            let middle = f64::midpoint(low, high);
            if late(middle) > 0.01 {
                high = middle
            } else {
                low = middle
            }
        }
        low / service
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_expected_rates_are_between_a_row_at_a_time_and_no_fixed_cost() {
        let objective = Duration::from_millis(20);
        for curve in Curve::ALL {
            let batched = curve.batched_rate(f64::INFINITY, objective);
            let single = curve.single_rate(objective);
            assert!(single < 1.0 / curve.cost(1.0), "{curve:?}");
            assert!(
                batched >= single && batched < 1.0 / curve.alpha,
                "{curve:?}"
            );
        }
        let svm = Curve::named("linear_svm").expect("it is one of the six");
        assert!((40_000.0..60_000.0).contains(&svm.batched_rate(f64::INFINITY, objective)));
    }

    #[test]
    fn scaling_curve_and_objective_together_scales_the_rates() {
        let svm = Curve::named("linear_svm").expect("it is one of the six");
        let rate = |curve: Curve, objective| curve.single_rate(Duration::from_millis(objective));
        let ratio = rate(svm, 20) / rate(svm.scaled(10.0), 200);
        assert!((ratio - 10.0).abs() < 1e-6);
    }
}
