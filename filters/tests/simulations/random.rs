#[path = "../../src/random.rs"]
mod generator;

pub(crate) use self::generator::Random;

/// Begins the numbers of a seed and of a number that tells them from others of the same run.
pub(crate) fn seeded(seed: u64, which: u64) -> Random {
    let mut random = Random::new(seed ^ which.wrapping_mul(0xD6E8_FEB8_6659_FD93));
    random.uniform();
    random
}

/// Tells whether something happens that does so with this chance.
pub(crate) fn happens(random: &mut Random, chance: f64) -> bool {
    random.uniform() < chance
}
