//! When requests are meant to be sent.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// Says how a load decides when to send the next request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// Independent arrivals at this many a second, whatever the server does.
    Poisson {
        /// Mean arrivals a second.
        rate: f64,
        /// Equal seeds give equal arrivals.
        seed: u64,
    },
    /// Arrivals at even distances, this many a second, whatever the server does.
    Constant {
        /// Arrivals a second.
        rate: f64,
    },
    /// Callers who each wait for their answer before they ask again.
    Closed {
        /// How many callers.
        callers: usize,
    },
}

/// The times of an open loop's arrivals, counted from its begin; it never ends.
#[derive(Clone, Debug)]
pub struct Arrivals {
    gap: f64,
    at: f64,
    dice: Option<SmallRng>,
}

impl Pace {
    /// Returns the arrivals of an open loop, or nothing for a closed one.
    pub fn arrivals(&self) -> Option<Arrivals> {
        match *self {
            Self::Poisson { rate, seed } => {
                Some(Arrivals::new(rate, Some(SmallRng::seed_from_u64(seed))))
            }
            Self::Constant { rate } => Some(Arrivals::new(rate, None)),
            Self::Closed { .. } => None,
        }
    }
}

impl Arrivals {
    fn new(rate: f64, dice: Option<SmallRng>) -> Self {
        assert!(
            rate.is_finite() && rate > 0.0,
            "a rate is a positive number"
        );
        Self {
            gap: rate.recip(),
            at: 0.0,
            dice,
        }
    }
}

impl Iterator for Arrivals {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.at += match &mut self.dice {
            // 1 - u lies in (0, 1], so the logarithm is finite.
            Some(dice) => -(1.0 - dice.random::<f64>()).ln() * self.gap,
            None => self.gap,
        };
        Some(Duration::from_secs_f64(self.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn within(pace: Pace, seconds: u64) -> Vec<Duration> {
        let end = Duration::from_secs(seconds);
        pace.arrivals()
            .expect("an open loop")
            .take_while(|at| *at <= end)
            .collect()
    }

    #[test]
    fn constant_arrivals_keep_their_distance() {
        let times = within(Pace::Constant { rate: 100.0 }, 1);
        assert!((99..=100).contains(&times.len()), "{}", times.len());
        assert!(
            times
                .windows(2)
                .all(|pair| pair[1] - pair[0] < Duration::from_millis(11))
        );
    }

    #[test]
    fn poisson_arrivals_have_the_mean_and_the_spread_of_their_rate() {
        let times = within(
            Pace::Poisson {
                rate: 1000.0,
                seed: 7,
            },
            100,
        );
        // The count of 100000 expected arrivals has a standard deviation of 316.
        assert!(times.len().abs_diff(100_000) < 1600, "{}", times.len());
        let gaps: Vec<f64> = times
            .windows(2)
            .map(|pair| (pair[1] - pair[0]).as_secs_f64())
            .collect();
        let longer_than_mean = gaps.iter().filter(|gap| **gap > 0.001).count() as f64;
        // For exponential gaps that share is 1/e.
        assert!((longer_than_mean / gaps.len() as f64 - 0.368).abs() < 0.01);
    }

    #[test]
    fn equal_seeds_give_equal_arrivals() {
        let pace = |seed| within(Pace::Poisson { rate: 50.0, seed }, 10);
        assert_eq!(pace(1), pace(1));
        assert_ne!(pace(1), pace(2));
    }

    #[test]
    fn a_closed_loop_has_no_arrivals_of_its_own() {
        assert!(Pace::Closed { callers: 3 }.arrivals().is_none());
    }
}
