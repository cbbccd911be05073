/// Which predictions are written down: a share of all, told by their nonces.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Mixed nonces up to this one are in.
    most: Option<u64>,
}

impl Sample {
    /// Takes a share of all, from 0 to 1.
    pub fn new(share: f64) -> Self {
        let of_all = share * 2_f64.powi(64);
        Self {
            // What is not a number is none.
            most: (of_all >= 1.).then_some(of_all as u64),
        }
    }

    /// Tells whether a prediction is among them.
    pub fn has(self, nonce: u64) -> bool {
        self.most.is_some_and(|most| mixed(nonce) <= most)
    }
}

/// Spreads nonces evenly, whatever they are made of (the last step of splitmix64).
fn mixed(nonce: u64) -> u64 {
    let mut mixed = nonce.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_as_large_as_its_share_and_part_of_larger_ones() {
        let shares = [0., 1e-3, 0.1, 0.5, 0.9, 1.];
        let samples = shares.map(Sample::new);
        for (share, sample) in shares.into_iter().zip(samples) {
            let count = (0..100_000).filter(|nonce| sample.has(*nonce)).count();
            let error = (count as f64 / 1e5 - share).abs();
            assert!(error <= 0.005, "{share}: {count}");
        }
        for nonce in 0..10_000_u64 {
            let has = samples.map(|sample| sample.has(nonce.wrapping_mul(u64::MAX / 7)));
            assert!(has.is_sorted());
        }
        assert!(Sample::new(1.).has(u64::MAX) && !Sample::new(f64::NAN).has(0));
    }
}
