//! Numbers: their grammar, and their digits as one integer.

/// A decimal number as it is written: `mantissa * 10^exponent`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Number {
    pub(super) negative: bool,
    /// Right where `exact`.
    pub(super) mantissa: u64,
    pub(super) exponent: i32,
    /// Whether there is neither a point nor an exponent.
    pub(super) whole: bool,
    /// Whether the digits fit the mantissa.
    pub(super) exact: bool,
}

/// What stands where a number may.
#[derive(Clone, Copy, Debug)]
pub(super) enum Numeral {
    Number(Number),
    /// `NaN`, or `-NaN`.
    Nan {
        negative: bool,
    },
    /// `Infinity` or `Inf`, with or without a minus.
    Infinity {
        negative: bool,
    },
}

/// Reads the number that begins at `from`; returns it and the place behind it.
#[inline]
pub(super) fn read(text: &[u8], from: usize) -> Option<(Numeral, usize)> {
    let mut at = from;
    let negative = text.get(at) == Some(&b'-');
    at += usize::from(negative);
    let mut mantissa = 0;
    let begin = at;
    at = digits(text, at, &mut mantissa);
    let mut count = at - begin;
    if count == 0 {
        return special(text, at, negative);
    }
    if count > 1 && text.get(begin) == Some(&b'0') {
        return None;
    }
    let mut exponent = 0;
    let mut whole = true;
    let mut next = text.get(at).copied();
    if next == Some(b'.') {
        let point = at + 1;
        at = digits(text, point, &mut mantissa);
        let fraction = at - point;
        if fraction == 0 {
            return None;
        }
        count += fraction;
        // As many digits as a text has places: they fit where the count does, else it is not exact.
        exponent = -i32::try_from(fraction).unwrap_or(0);
        whole = false;
        next = text.get(at).copied();
    }
    if let Some(b'e' | b'E') = next {
        let (power, end) = power(text, at + 1)?;
        exponent = exponent.saturating_add(power);
        whole = false;
        at = end;
    }
    let number = Number {
        negative,
        mantissa,
        exponent,
        whole,
        exact: count <= MAX_DIGITS,
    };
    Some((Numeral::Number(number), at))
}

/// A number of digits and at most one point, which is what most numbers are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plain {
    pub(super) mantissa: u64,
    /// How many of the digits stand behind the point.
    pub(super) fraction: u32,
    /// Whether there is no point.
    pub(super) whole: bool,
}

/// Reads the plain number that stands from `begin` to `end`, with its point at `point` if that is
/// not before it. Returns `None` for [`read`] to have a look: the number is long, has an exponent,
/// is none, or stands at the beginning of the text.
///
/// Where both ends are known, digits are put together from the last one on, eight at a time.
#[inline(always)]
pub(super) fn plain(text: &[u8], begin: usize, point: usize, end: usize) -> Option<Plain> {
    if point < begin {
        return Some(Plain {
            mantissa: integer(text, begin, end)?,
            fraction: 0,
            whole: true,
        });
    }
    let integer = integer(text, begin, point)?;
    let fraction = end.checked_sub(point + 1)?;
    let mantissa = match fraction {
        // Eight digits before the point at most, as everywhere here: sixteen digits fit.
        1..=8 => last(text, end, fraction)? + integer * POWERS[fraction],
        9..=16 => {
            let low = last(text, end, 8)? + POWERS[8] * last(text, end - 8, fraction - 8)?;
            // Twenty digits may fit or not, and the sum may not where the product does.
            integer.checked_mul(POWERS[fraction])?.checked_add(low)?
        }
        // One digit before the point: nineteen digits fit, whichever they are.
        17 | 18 if integer < 10 => {
            let low = last(text, end, 8)? + POWERS[8] * last(text, end - 8, 8)?;
            low + POWERS[16] * last(text, end - 16, fraction - 16)? + integer * POWERS[fraction]
        }
        _ => return None,
    };
    Some(Plain {
        mantissa,
        fraction: fraction as u32,
        whole: false,
    })
}

/// Reads up to eight digits that stand from `begin` to `end`.
#[inline(always)]
fn integer(text: &[u8], begin: usize, end: usize) -> Option<u64> {
    let first = text.get(begin)?.wrapping_sub(b'0');
    let count = end.wrapping_sub(begin);
    if count == 1 {
        return (first < 10).then_some(first.into());
    }
    if !(2..=8).contains(&count) || first == 0 {
        return None;
    }
    last(text, end, count)
}

/// Reads the last digits before `end`, one to eight of them.
#[inline(always)]
fn last(text: &[u8], end: usize, count: usize) -> Option<u64> {
    let chunk: &[u8; 8] = text.get(end.wrapping_sub(8)..end)?.try_into().ok()?;
    let word = u64::from_le_bytes(*chunk) ^ ZEROS;
    // What stands before becomes zeros.
    let word = word & (u64::MAX << (64 - 8 * count));
    (others(word) == 0).then(|| eight(word))
}

/// Returns the highest bit of each byte that is no digit. A carry may set it in a byte behind one,
/// which does not matter: the first one counts, and bytes that carry are not ASCII.
#[inline(always)]
fn others(word: u64) -> u64 {
    (word.wrapping_add(0x7676_7676_7676_7676) | word) & 0x8080_8080_8080_8080
}

/// Steps over the number that begins at `from`; tells whether it is a whole one, and where it ends.
#[inline]
pub(super) fn skip(text: &[u8], from: usize) -> Option<(bool, usize)> {
    let (numeral, end) = read(text, from)?;
    Some((
        matches!(numeral, Numeral::Number(number) if number.whole),
        end,
    ))
}

/// Reads digits, eight at a time, behind those that are in `mantissa`; returns where they end.
#[inline(always)]
fn digits(text: &[u8], mut at: usize, mantissa: &mut u64) -> usize {
    while let Some(chunk) = text.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        // Digits become 0 to 9.
        let word = u64::from_le_bytes(*chunk) ^ ZEROS;
        let others = others(word);
        if others == 0 {
            *mantissa = mantissa.wrapping_mul(100_000_000).wrapping_add(eight(word));
            at += 8;
            continue;
        }
        let count = (others.trailing_zeros() / 8) as usize;
        if count > 0 {
            // Zeros come in before the digits.
            let word = word << (64 - 8 * count);
            *mantissa = mantissa
                .wrapping_mul(POWERS[count])
                .wrapping_add(eight(word));
        }
        return at + count;
    }
    while let Some(byte @ b'0'..=b'9') = text.get(at) {
        *mantissa = mantissa
            .wrapping_mul(10)
            .wrapping_add(u64::from(byte - b'0'));
        at += 1;
    }
    at
}

/// Puts eight digits together, the first one in the lowest byte: pairs, then fours, then all.
#[inline(always)]
fn eight(word: u64) -> u64 {
    const MASK: u64 = 0x0000_00ff_0000_00ff;
    let pairs = word.wrapping_mul(10).wrapping_add(word >> 8);
    let high = (pairs & MASK).wrapping_mul(100 + (1_000_000 << 32));
    let low = ((pairs >> 16) & MASK).wrapping_mul(1 + (10_000 << 32));
    high.wrapping_add(low) >> 32
}

/// Reads what stands behind the `e`.
#[inline]
fn power(text: &[u8], mut at: usize) -> Option<(i32, usize)> {
    let sign = text.get(at).copied();
    at += usize::from(matches!(sign, Some(b'-' | b'+')));
    let begin = at;
    let mut power = 0_i32;
    while let Some(byte @ b'0'..=b'9') = text.get(at) {
        power = power
            .saturating_mul(10)
            .saturating_add(i32::from(byte - b'0'));
        at += 1;
    }
    if at == begin {
        return None;
    }
    let power = if sign == Some(b'-') { -power } else { power };
    Some((power, at))
}

#[cold]
fn special(text: &[u8], at: usize, negative: bool) -> Option<(Numeral, usize)> {
    let rest = text.get(at..).unwrap_or_default();
    if rest.starts_with(b"NaN") {
        return Some((Numeral::Nan { negative }, at + 3));
    }
    let word = [&b"Infinity"[..], b"Inf"]
        .into_iter()
        .find(|word| rest.starts_with(word))?;
    Some((Numeral::Infinity { negative }, at + word.len()))
}

/// Digits that a mantissa holds, whichever they are.
const MAX_DIGITS: usize = 19;
/// Eight times the digit zero.
const ZEROS: u64 = 0x3030_3030_3030_3030;
/// Powers of ten.
const POWERS: [u64; 19] = {
    let mut powers = [1; 19];
    let mut index = 1;
    while index < powers.len() {
        powers[index] = 10 * powers[index - 1];
        index += 1;
    }
    powers
};
