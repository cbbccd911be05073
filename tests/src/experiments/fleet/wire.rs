//! How many bytes the script answers.

use outrigger_filters::select::{Batch, Kept, Reply};

/// Returns the bytes of the answers to a batch, in RESP2, as `keep.lua` gives them.
pub(super) fn answered(batch: &Batch, reply: &Reply) -> u64 {
    let parts = batch.parts.iter().zip(&reply.parts);
    parts.map(|(_, kept)| size(kept) as u64).sum()
}

fn size(kept: &Kept) -> usize {
    match kept {
        Kept::Unanswered => 0,
        Kept::Missing => array(1) + bulk("missing".len()),
        Kept::Same => array(1) + bulk("same".len()),
        Kept::Broken => array(1) + bulk("broken".len()),
        Kept::State {
            state,
            version,
            clock,
            clocks,
            repeated,
        } => {
            let number = |number: u64| bulk(digits(number));
            let clocks = match clocks {
                None => NIL,
                Some(clocks) => {
                    let each = clocks.iter().map(|(_, is)| bulk(REPLICA) + number(*is));
                    array(2 * clocks.len()) + each.sum::<usize>()
                }
            };
            let (refused, places) = match repeated {
                None => (0, array(0)),
                Some(repeated) => {
                    let places = repeated.ids.iter().map(|place| array(*place));
                    (
                        repeated.number,
                        array(repeated.ids.len()) + places.sum::<usize>(),
                    )
                }
            };
            let arms = state.arms.iter().map(|arm| {
                let numbers = arm.numbers();
                let text: usize = numbers.iter().map(|number| general(*number)).sum();
                bulk(text + numbers.len() - 1)
            });
            array(8)
                + bulk("state".len())
                + number(version.count)
                + bulk(REPLICA + 1 + digits(version.number))
                + number(*clock)
                + clocks
                + number(refused)
                + places
                + array(state.arms.len())
                + arms.sum::<usize>()
        }
    }
}

/// The head of an array, or a number by itself, which is as long.
fn array(elements: usize) -> usize {
    1 + digits(elements as u64) + END
}

fn bulk(length: usize) -> usize {
    array(length) + length + END
}

fn digits(number: u64) -> usize {
    number.checked_ilog10().map_or(1, |log| log as usize + 1)
}

/// How long a number is that C writes as `%.17g`.
fn general(number: f64) -> usize {
    let text = format!("{number:.16e}");
    let Some((mantissa, exponent)) = text.split_once('e') else {
        return text.len();
    };
    let sign = usize::from(number.is_sign_negative());
    let significant = mantissa.trim_start_matches('-').replace('.', "");
    let significant = significant.trim_end_matches('0').len().max(1);
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let size = exponent.unsigned_abs() as usize;
    let point = |digits: usize| if digits > 0 { digits + 1 } else { 0 };
    sign + match exponent {
        0..17 => 1 + size + point(significant.saturating_sub(1 + size)),
        -4..0 => point(size - 1 + significant) + 1,
        _ => significant + usize::from(significant > 1) + 2 + digits(size as u64).max(2),
    }
}

/// What stands for nothing.
const NIL: usize = "$-1\r\n".len();
const END: usize = "\r\n".len();
/// A replica's number, in hexadecimal digits.
const REPLICA: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_long_as_c_writes_them() {
        for (number, text) in [
            (0., "0"),
            (-9.5, "-9.5"),
            (12., "12"),
            (100., "100"),
            (1234.5, "1234.5"),
            (0.1, "0.10000000000000001"),
            (0.0625, "0.0625"),
            (0.0001, "0.0001"),
            (-0.000_015_258_789_062_5, "-1.52587890625e-05"),
            (1e20, "1e+20"),
            (-12.345, "-12.345000000000001"),
        ] {
            assert_eq!(general(number), text.len(), "{text}");
        }
    }

    #[test]
    fn an_answer_is_as_long_as_its_bytes() {
        assert_eq!(size(&Kept::Same), "*1\r\n$4\r\nsame\r\n".len());
        let state = Kept::State {
            state: outrigger_filters::select::State::new(1),
            version: outrigger_filters::select::Version {
                count: 12,
                replica: 3,
                number: 4,
            },
            clock: 4,
            clocks: None,
            repeated: None,
        };
        let bytes = "*8\r\n$5\r\nstate\r\n$2\r\n12\r\n$18\r\n0000000000000003:4\r\n$1\r\n4\r\n\
                     $-1\r\n$1\r\n0\r\n*0\r\n*1\r\n$11\r\n0 0 0 0 0 0\r\n";
        assert_eq!(size(&state), bytes.len());
    }
}
