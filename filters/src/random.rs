/// A generator of which each seed brings the same numbers everywhere (splitmix64), for simulations.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// Begins the numbers of a seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns the next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number from 0 to 1.
    pub(crate) fn uniform(&mut self) -> f64 {
        // The 53 bits that a float has room for.
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Returns a number of an exponential distribution of mean 1.
    pub(crate) fn exponential(&mut self) -> f64 {
        -(1. - self.uniform()).ln()
    }
}
