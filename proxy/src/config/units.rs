//! Durations and sizes as people write them.

use std::time::Duration;

/// Reads `20ms`, `1.5s`, `2m` or `0`, exactly.
///
/// # Errors
/// Says what is wrong with the text.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let nanoseconds = match text {
        "0" => 0,
        _ => scaled(text, DURATIONS, "nanoseconds")?,
    };
    u64::try_from(nanoseconds)
        .map(Duration::from_nanos)
        .map_err(|_| too_large())
}

/// Writes a duration so that [`parse_duration`] gives it back.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let (figure, unit) = shortest(duration.as_nanos(), &["h", "m", "s", "ms", "us"], DURATIONS)
        .unwrap_or((duration.as_nanos(), "ns"));
    match figure {
        0 => "0ms".to_owned(),
        _ => format!("{figure}{unit}"),
    }
}

/// Reads `64MiB`, `64MB`, `1.5GiB` or `1024`, exactly.
///
/// # Errors
/// Says what is wrong with the text.
pub fn parse_size(text: &str) -> Result<usize, String> {
    let bytes = match text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
        true => text.parse().map_err(|_| too_large())?,
        false => scaled(text, SIZES, "bytes")?,
    };
    usize::try_from(bytes).map_err(|_| too_large())
}

/// Writes a size so that [`parse_size`] gives it back.
#[must_use]
pub fn format_size(bytes: usize) -> String {
    match shortest(bytes as u128, &["TiB", "GiB", "MiB", "KiB"], SIZES) {
        Some((figure, unit)) if figure > 0 => format!("{figure}{unit}"),
        _ => bytes.to_string(),
    }
}

/// A figure with a unit, as a whole number of the smallest unit.
fn scaled(text: &str, units: &[(&str, u128)], smallest: &str) -> Result<u128, String> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (figure, unit) = text.split_at(end);
    let known = || {
        units
            .iter()
            .map(|(unit, _)| *unit)
            .collect::<Vec<_>>()
            .join(", ")
    };
    let (whole, fraction) = figure.split_once('.').unwrap_or((figure, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.contains('.') {
        return Err(format!("needs a figure and a unit, one of {}", known()));
    }
    if unit.is_empty() {
        return Err(format!("needs a unit, one of {}", known()));
    }
    let Some((_, scale)) = units.iter().find(|(name, _)| *name == unit) else {
        return Err(format!(
            "has no unit that is known; the units are {}",
            known()
        ));
    };
    let fraction = fraction.trim_end_matches('0');
    if whole.len() > MAX_DIGITS {
        return Err(too_large());
    }
    if fraction.len() > MAX_DIGITS {
        return Err(format!("is no whole number of {smallest}"));
    }
    let number = |digits: &str| match digits {
        "" => Ok(0),
        _ => digits.parse::<u128>().map_err(|_| too_large()),
    };
    let parts = number(fraction)? * scale;
    let divisor = 10_u128.pow(u32::try_from(fraction.len()).map_err(|_| too_large())?);
    if !parts.is_multiple_of(divisor) {
        return Err(format!("is no whole number of {smallest}"));
    }
    Ok(number(whole)? * scale + parts / divisor)
}

/// The figure in the first of the units that needs no fraction.
fn shortest<'a>(
    figure: u128,
    names: &[&'a str],
    units: &[(&str, u128)],
) -> Option<(u128, &'a str)> {
    names.iter().find_map(|name| {
        let (_, scale) = units.iter().find(|(unit, _)| unit == name)?;
        figure
            .is_multiple_of(*scale)
            .then_some((figure / scale, *name))
    })
}

fn too_large() -> String {
    "is too large".to_owned()
}

/// What a duration looks like, for the schema.
pub(super) const DURATION_PATTERN: &str = "^(0|[0-9]+([.][0-9]+)?(ns|us|ms|s|m|h))$";

/// What a size looks like, for the schema.
pub(super) const SIZE_PATTERN: &str = "^[0-9]+(([.][0-9]+)?(B|kB|MB|GB|TB|KiB|MiB|GiB|TiB))?$";

const DURATIONS: &[(&str, u128)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60 * 1_000_000_000),
    ("h", 3600 * 1_000_000_000),
];

const SIZES: &[(&str, u128)] = &[
    ("B", 1),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// Digits before or after the point; with the largest unit (below 2^42) still within 128 bits.
const MAX_DIGITS: usize = 20;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::string::string_regex;

    use super::*;

    #[test]
    fn durations_are_read_exactly() {
        let cases = [
            ("20ms", 20_000_000),
            ("1.5s", 1_500_000_000),
            ("2m", 120_000_000_000),
            ("0", 0),
            ("0ms", 0),
            ("0.1us", 100),
            ("1.0ns", 1),
        ];
        for (text, nanoseconds) in cases {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_nanos(nanoseconds)),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in [
            "", "20", "ms", "20 ms", "-1s", "1.s", ".5s", "1.5ns", "1e3s", "9999999h", "1..5s",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_read_exactly() {
        let cases = [
            ("64MiB", 64 << 20),
            ("64MB", 64_000_000),
            ("1024", 1024),
            ("1.5KiB", 1536),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "",
            "64Mi",
            "1.5",
            "1.5B",
            "0.1KiB",
            "99999999999999999999999",
            "MiB",
            "-1",
        ] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_written_duration_reads_as_itself(nanoseconds: u64) {
            let duration = Duration::from_nanos(nanoseconds);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn a_written_size_reads_as_itself(bytes: usize) {
            prop_assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }

        #[test]
        fn what_the_schema_calls_a_duration_has_a_known_unit(
            text in string_regex(DURATION_PATTERN.trim_matches(['^', '$'])).expect("a pattern"),
        ) {
            prop_assert!(is_well_formed(parse_duration(&text)), "{text}");
        }

        #[test]
        fn what_the_schema_calls_a_size_has_a_known_unit(
            text in string_regex(SIZE_PATTERN.trim_matches(['^', '$'])).expect("a pattern"),
        ) {
            prop_assert!(is_well_formed(parse_size(&text)), "{text}");
        }

        #[test]
        fn any_text_is_a_unit_or_a_fault(text: String) {
            let _ = (parse_duration(&text), parse_size(&text));
        }
    }

    /// Only the figure may be at fault, which no pattern can tell.
    fn is_well_formed<T>(read: Result<T, String>) -> bool {
        read.err()
            .is_none_or(|why| why.contains("whole number") || why.contains("too large"))
    }
}
