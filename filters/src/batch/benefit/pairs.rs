/// How many times as large one figure is as another, from pairs that were observed side by side;
/// older ones fade.
///
/// It is the ratio of the sums: the mean of the pairs' ratios would count a request of one row for
/// as much as one of a thousand, and a mean of logarithms forget what the slowest calls cost.
#[derive(Clone, Debug)]
pub(super) struct Pairs {
    /// What a pair weighs against the next.
    memory: f64,
    weight: f64,
    large: f64,
    small: f64,
    /// Sums of squares, with the weights squared.
    weights: f64,
    larges: f64,
    products: f64,
    smalls: f64,
}

impl Pairs {
    pub(super) fn new(memory: f64) -> Self {
        Self {
            memory,
            weight: 0.,
            large: 0.,
            small: 0.,
            weights: 0.,
            larges: 0.,
            products: 0.,
            smalls: 0.,
        }
    }

    pub(super) fn observe(&mut self, large: f64, small: f64) {
        self.fade(self.memory);
        self.weight += 1.;
        self.large += large;
        self.small += small;
        self.weights += 1.;
        self.larges += large * large;
        self.products += large * small;
        self.smalls += small * small;
    }

    /// Lets everything weigh so much of what it did.
    pub(super) fn fade(&mut self, factor: f64) {
        for sum in [&mut self.weight, &mut self.large, &mut self.small] {
            *sum *= factor;
        }
        for sum in [
            &mut self.weights,
            &mut self.larges,
            &mut self.products,
            &mut self.smalls,
        ] {
            *sum *= factor * factor;
        }
    }

    /// Forgets all pairs but those that another remembers.
    pub(super) fn replace(&mut self, other: &Self) {
        *self = Self {
            memory: self.memory,
            ..*other
        };
    }

    /// To how many pairs of the same weight it comes.
    pub(super) fn count(&self) -> f64 {
        match self.weights > 0. {
            true => self.weight * self.weight / self.weights,
            false => 0.,
        }
    }

    pub(super) fn ratio(&self) -> Option<f64> {
        (self.small > 0.).then(|| self.large / self.small)
    }

    /// The standard error of the ratio, from two pairs on.
    pub(super) fn error(&self) -> Option<f64> {
        let (ratio, count) = (self.ratio()?, self.count());
        if count < 2. {
            return None;
        }
        let rest = self.larges - 2. * ratio * self.products + ratio * ratio * self.smalls;
        Some((rest.max(0.) * count / (count - 1.)).sqrt() / self.small)
    }

    /// Tells whether two ratios are further apart than so many errors, and than matters.
    pub(super) fn differs(&self, other: &Self, errors: f64) -> bool {
        let apart = || {
            let (one, other_one) = (self.ratio()?, other.ratio()?);
            let error = self.error()?.hypot(other.error()?);
            Some((one - other_one).abs() > (errors * error).max(LEAST * other_one))
        };
        apart().unwrap_or(false)
    }
}

/// The part of a ratio by which another must differ at least.
const LEAST: f64 = 0.05;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_that_of_the_sums() {
        let mut pairs = Pairs::new(1.);
        assert_eq!(pairs.ratio(), None);
        pairs.observe(10., 1.);
        assert_eq!(pairs.error(), None);
        pairs.observe(110., 9.);
        assert_eq!(pairs.ratio(), Some(12.));
        // Rests of 2 and -2, of 10 in all: sqrt(8 * 2) / 10.
        assert!((pairs.error().unwrap() - 0.4).abs() < 1e-9);
    }

    #[test]
    fn old_pairs_fade_and_count_for_less() {
        let mut pairs = Pairs::new(0.9);
        (0..1000).for_each(|_| pairs.observe(1., 1.));
        assert!((18.9..19.1).contains(&pairs.count()));
        (0..50).for_each(|_| pairs.observe(3., 1.));
        assert!((2.95..3.0).contains(&pairs.ratio().unwrap()));
    }

    #[test]
    fn what_differs_is_further_apart_than_chance_explains() {
        let (mut long, mut short) = (Pairs::new(0.99), Pairs::new(0.9));
        for step in 0..100 {
            let large = 1. + 0.1 * f64::from(step % 3);
            long.observe(large, 1.);
            short.observe(large, 1.);
        }
        assert!(!short.differs(&long, 4.));
        (0..20).for_each(|step| short.observe(2. + 0.1 * f64::from(step % 3), 1.));
        assert!(short.differs(&long, 4.));
    }
}
