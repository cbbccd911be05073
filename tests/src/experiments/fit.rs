//! A straight line through measured points.

/// `beta + alpha * x`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fit {
    /// The height at zero.
    pub beta: f64,
    /// The slope.
    pub alpha: f64,
}

impl Fit {
    /// Finds the line with the least squares of *relative* distances: a call of one row counts as
    /// much as one of a thousand. Two different places are needed.
    pub fn through(points: &[(f64, f64)]) -> Option<Self> {
        let (mut weights, mut x_sum, mut y_sum, mut xx, mut xy) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for (x, y) in points.iter().copied().filter(|(_, y)| *y > 0.0) {
            let weight = 1.0 / (y * y);
            weights += weight;
            x_sum += weight * x;
            y_sum += weight * y;
            xx += weight * x * x;
            xy += weight * x * y;
        }
        let spread = weights * xx - x_sum * x_sum;
        if spread.is_nan() || spread <= weights * xx * f64::EPSILON * 8.0 {
            return None;
        }
        let alpha = (weights * xy - x_sum * y_sum) / spread;
        let beta = (y_sum - alpha * x_sum) / weights;
        Some(Self { beta, alpha })
    }

    /// The height at a place.
    pub fn at(self, x: f64) -> f64 {
        self.beta + self.alpha * x
    }

    /// How far to the right the line stays below a height; whole steps, none if it never does.
    pub fn within(self, height: f64) -> f64 {
        ((height - self.beta) / self.alpha.max(f64::MIN_POSITIVE))
            .floor()
            .max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_again() {
        let line = Fit {
            beta: 3.671,
            alpha: 0.0125,
        };
        let points = [1.0, 10.0, 400.0, 1300.0].map(|rows| (rows, line.at(rows)));
        let found = Fit::through(&points).expect("the places differ");
        assert!((found.beta - line.beta).abs() < 1e-9 && (found.alpha - line.alpha).abs() < 1e-9);
        assert_eq!(found.within(20.0), 1306.0);
        assert_eq!(found.within(1.0), 0.0);
    }

    #[test]
    fn one_place_gives_no_line() {
        assert_eq!(Fit::through(&[]), None);
        assert_eq!(Fit::through(&[(4.0, 2.0), (4.0, 3.0)]), None);
    }
}
