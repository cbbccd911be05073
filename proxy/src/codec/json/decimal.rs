//! From decimal digits to the nearest binary fraction.
//!
//! The way of Eisel and Lemire (Number Parsing at a Gigabyte per Second, 2021): one or two
//! multiplications with a power of five that is known to 128 bits decide all but a few numbers,
//! and tell those apart. They, and powers out of the table, are left to the standard library.

/// A binary format.
pub(super) trait Float: Copy {
    /// Bits behind the leading one.
    const FRACTION: u32;
    /// What is added to a power of two.
    const BIAS: i32;
    /// The power that stands for infinity.
    const INFINITY: i32;

    fn from_parts(negative: bool, power: u64, fraction: u64) -> Self;

    /// Rounds what was rounded once, or returns `None` where that may be one time too much.
    fn from_quotient(quotient: f64) -> Option<Self>;
}

/// Returns the number nearest to `mantissa / 10^fraction`, as [`nearest`] does.
///
/// Where both fit an FP64 exactly, a division rounds correctly by itself.
#[inline]
pub(super) fn plain<F: Float>(negative: bool, mantissa: u64, fraction: u32) -> Option<F> {
    if mantissa >> 53 == 0
        && let Some(power) = TENS.get(fraction as usize)
    {
        let quotient = mantissa as f64 / power;
        let sign = u64::from(negative) << 63;
        if let Some(number) = F::from_quotient(f64::from_bits(quotient.to_bits() | sign)) {
            return Some(number);
        }
    }
    nearest(negative, mantissa, -(fraction as i32))
}

/// Returns the number nearest to `mantissa * 10^exponent`, or `None` where this way cannot say.
#[inline]
pub(super) fn nearest<F: Float>(negative: bool, mantissa: u64, exponent: i32) -> Option<F> {
    if mantissa == 0 {
        return Some(F::from_parts(negative, 0, 0));
    }
    let index = usize::try_from(exponent.checked_sub(SMALLEST)?).ok()?;
    let (five_high, five_low) = *FIVES.get(index)?;
    let zeros = mantissa.leading_zeros();
    let mantissa = mantissa << zeros;
    let (mut high, mut low) = product(mantissa, five_high);
    // The bits below those that count are all ones: what is missing below may carry into them.
    let below = u64::MAX >> (F::FRACTION + 3);
    if high & below == below {
        let (more, _) = product(mantissa, five_low);
        let (sum, carry) = low.overflowing_add(more);
        low = sum;
        high += u64::from(carry);
    }
    if low == u64::MAX && !(-27..=55).contains(&exponent) {
        return None;
    }
    let upper = (high >> 63) as u32;
    let shift = upper + 64 - F::FRACTION - 3;
    let mut fraction = high >> shift;
    // The power of two below `10^exponent`: the factor is log2(10) with 16 bits behind the point.
    let power = ((exponent * 217_706) >> 16) + 63 + upper as i32 - zeros as i32 + F::BIAS;
    if power <= 0 || power >= F::INFINITY {
        return None;
    }
    // Maybe just between two numbers.
    if low <= 1 && fraction & 1 == 1 && fraction << shift == high {
        return None;
    }
    fraction = (fraction + (fraction & 1)) >> 1;
    let mut power = power as u64;
    if fraction >= 2 << F::FRACTION {
        fraction = 1 << F::FRACTION;
        power += 1;
        if power >= F::INFINITY as u64 {
            return None;
        }
    }
    Some(F::from_parts(
        negative,
        power,
        fraction & !(1 << F::FRACTION),
    ))
}

impl Float for f32 {
    const FRACTION: u32 = 23;
    const BIAS: i32 = 127;
    const INFINITY: i32 = 0xff;

    #[inline]
    fn from_parts(negative: bool, power: u64, fraction: u64) -> Self {
        Self::from_bits(u32::from(negative) << 31 | (power as u32) << 23 | fraction as u32)
    }

    #[inline]
    fn from_quotient(quotient: f64) -> Option<Self> {
        // Just between two numbers: it may have come there from either side. What is divided by
        // no more than 10^22 is far from where these bits would be others.
        (quotient.to_bits() & 0x1fff_ffff != 0x1000_0000).then_some(quotient as f32)
    }
}

impl Float for f64 {
    const FRACTION: u32 = 52;
    const BIAS: i32 = 1023;
    const INFINITY: i32 = 0x7ff;

    #[inline]
    fn from_parts(negative: bool, power: u64, fraction: u64) -> Self {
        Self::from_bits(u64::from(negative) << 63 | power << 52 | fraction)
    }

    #[inline]
    fn from_quotient(quotient: f64) -> Option<Self> {
        Some(quotient)
    }
}

#[inline]
fn product(a: u64, b: u64) -> (u64, u64) {
    let product = u128::from(a) * u128::from(b);
    ((product >> 64) as u64, product as u64)
}

/// The powers of five from `SMALLEST` on, each with its first 128 bits: cut off above one, where
/// all are exact, and rounded up below.
const fn fives() -> [(u64, u64); POWERS] {
    let mut fives = [(0, 0); POWERS];
    let mut index = 0;
    while index < POWERS {
        let exponent = index as i32 + SMALLEST;
        let mut power = 1_u128;
        let mut left = exponent.unsigned_abs();
        while left > 0 {
            power *= 5;
            left -= 1;
        }
        let bits = if exponent >= 0 {
            power << power.leading_zeros()
        } else {
            // A long division of a power of two, until 128 bits are there.
            let mut rest = 1_u128;
            let mut quotient = 0_u128;
            while quotient >> 127 == 0 {
                rest <<= 1;
                quotient <<= 1;
                if rest >= power {
                    rest -= power;
                    quotient |= 1;
                }
            }
            quotient + 1
        };
        fives[index] = ((bits >> 64) as u64, bits as u64);
        index += 1;
    }
    fives
}

/// Powers whose division fits 128 bits. Their reach is that of data; physics may go beyond.
const SMALLEST: i32 = -54;
const LARGEST: i32 = 55;
const POWERS: usize = (LARGEST - SMALLEST + 1) as usize;
static FIVES: [(u64, u64); POWERS] = fives();

/// The powers of ten that an FP64 holds exactly, as far as plain numbers need them.
static TENS: [f64; 20] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18, 1e19,
];
