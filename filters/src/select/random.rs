use std::sync::atomic::{AtomicU64, Ordering};

/// Random numbers for many threads at once: each takes the next of one sequence (splitmix64), with
/// one atomic addition and no lock.
#[derive(Debug)]
pub(super) struct Sequence(AtomicU64);

impl Sequence {
    /// Begins the sequence of a seed.
    pub(super) fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// Begins somewhere else each time, with what the system gives to hash maps against attackers.
    pub(super) fn anywhere() -> Self {
        use std::hash::{BuildHasher as _, RandomState};
        Self::new(RandomState::new().hash_one(0))
    }

    /// Returns the next number.
    pub(super) fn next(&self) -> u64 {
        let state = self.0.fetch_add(STEP, Ordering::Relaxed);
        let mut mixed = state.wrapping_add(STEP);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number from 0 to 1, and never 1.
    pub(super) fn uniform(&self) -> f64 {
        // The 53 bits that a float has room for.
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// 2^64 by the golden ratio.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn the_sequence_is_that_of_its_seed() {
        let (sequence, mut random) = (Sequence::new(7), Random::new(7));
        for _ in 0..100 {
            assert_eq!(sequence.next(), random.next());
        }
    }
}
