//! Numbers that each seed brings in the same order everywhere.

/// Steele, Lea and Flood's splitmix64.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Begins the numbers of a seed.
    pub fn new(seed: u64) -> Self {
        // What is counted up from one seed shall not be what is counted up from the next one.
        Self(mixed(seed.wrapping_mul(ODD)))
    }

    /// A whole number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(ODD);
        // The remainder favours nothing that could be seen: bounds are small.
        (mixed(self.0) % bound.max(1) as u64) as usize
    }

    /// Puts some things into another order.
    pub fn shuffle<T>(&mut self, all: &mut [T]) {
        for last in (1..all.len()).rev() {
            all.swap(last, self.below(last + 1));
        }
    }
}

fn mixed(number: u64) -> u64 {
    let mut mixed = number;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

const ODD: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_brings_the_same_numbers_and_another_brings_others() {
        let draw = |seed| {
            let mut random = Random::new(seed);
            (0..100).map(|_| random.below(797)).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        for (one, other) in [(0, 1), (1, 2)] {
            // Nor are they the same a few places further on.
            let (one, other) = (draw(one), draw(other));
            assert!(
                (0..9).all(|at| one[at..at + 50] != other[..50] && other[at..at + 50] != one[..50])
            );
        }
        let mut order: Vec<usize> = (0..50).collect();
        Random::new(3).shuffle(&mut order);
        assert_ne!(order, (0..50).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..50).collect::<Vec<_>>());
    }
}
