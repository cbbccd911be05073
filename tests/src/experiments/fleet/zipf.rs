use rand::{Rng, RngExt as _};

/// Numbers of which the n-th, from 1, is drawn 1/n as often as the first.
#[derive(Clone, Debug)]
pub(super) struct Zipf {
    /// The sums of the shares up to each.
    sums: Vec<f64>,
}

impl Zipf {
    /// Takes the numbers below `count`.
    pub(super) fn new(count: usize) -> Self {
        let mut sum = 0.;
        let sums = (1..=count.max(1)).map(|rank| {
            sum += 1. / rank as f64;
            sum
        });
        Self {
            sums: sums.collect(),
        }
    }

    /// Draws one.
    pub(super) fn draw(&self, dice: &mut impl Rng) -> usize {
        let all = self.sums.last().copied().unwrap_or(1.);
        let at = dice.random::<f64>() * all;
        let place = self.sums.partition_point(|sum| *sum <= at);
        place.min(self.sums.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng as _, rngs::SmallRng};

    use super::*;

    #[test]
    fn the_tenth_comes_a_tenth_as_often_as_the_first() {
        let zipf = Zipf::new(1000);
        let mut dice = SmallRng::seed_from_u64(1);
        let mut counts = vec![0; 1000];
        for _ in 0..100_000 {
            counts[zipf.draw(&mut dice)] += 1;
        }
        // The sum of 1/n up to 1000 is 7.485.
        assert!((12_900..13_900).contains(&counts[0]), "{}", counts[0]);
        assert!((1_200..1_480).contains(&counts[9]), "{}", counts[9]);
    }
}
