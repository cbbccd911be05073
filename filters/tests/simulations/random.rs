/// A generator that is the same everywhere (splitmix64).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// Makes one of a seed, and of a number that tells it from others of the same run.
    pub(crate) fn new(seed: u64, which: u64) -> Self {
        let mut random = Self(seed ^ which.wrapping_mul(0xD6E8_FEB8_6659_FD93));
        random.next();
        random
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number from 0 to 1.
    pub(crate) fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Returns a number of an exponential distribution of mean 1.
    pub(crate) fn exponential(&mut self) -> f64 {
        -(1. - self.uniform()).ln()
    }

    /// Tells whether something happens that does so with this chance.
    pub(crate) fn happens(&mut self, chance: f64) -> bool {
        self.uniform() < chance
    }
}
