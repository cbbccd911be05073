//! `grpc-timeout`: up to eight digits and a unit, relative to when the headers came.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

/// Reads the timeout of a call; `None` where it has none, or one that is not well formed.
pub fn of_call(headers: &HeaderMap) -> Option<Duration> {
    parse(headers.get(&NAME)?.as_bytes())
}

/// Reads a value; `None` where it is not one.
pub fn parse(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > MAX_DIGITS {
        return None;
    }
    let count = digits.iter().try_fold(0_u64, |count, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        Some(count * 10 + digit)
    })?;
    Some(match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

/// Writes a value in the finest unit that has room for it; what is finer still is cut off.
pub fn format(timeout: Duration) -> HeaderValue {
    let seconds = u128::from(timeout.as_secs());
    let (count, unit) = [
        (timeout.as_nanos(), 'n'),
        (timeout.as_micros(), 'u'),
        (timeout.as_millis(), 'm'),
        (seconds, 'S'),
        (seconds / 60, 'M'),
    ]
    .into_iter()
    .find(|(count, _)| *count <= MAX_COUNT)
    .unwrap_or(((seconds / 3600).min(MAX_COUNT), 'H'));
    HeaderValue::try_from(format!("{count}{unit}")).expect("digits and a letter are a header value")
}

/// The header's name.
pub const NAME: HeaderName = HeaderName::from_static("grpc-timeout");

const MAX_DIGITS: usize = 8;
const MAX_COUNT: u128 = 99_999_999;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_units_are_read() {
        for (value, nanos) in [
            ("1H", 3_600_000_000_000),
            ("2M", 120_000_000_000),
            ("3S", 3_000_000_000),
            ("4m", 4_000_000),
            ("5u", 5_000),
            ("6n", 6),
            ("00000000n", 0),
            ("99999999S", 99_999_999_000_000_000),
        ] {
            assert_eq!(
                parse(value.as_bytes()),
                Some(Duration::from_nanos(nanos)),
                "{value}"
            );
        }
    }

    #[test]
    fn what_is_no_timeout_is_refused() {
        for value in [
            "",
            "S",
            "1",
            "1s",
            "-1S",
            "+1S",
            " 1S",
            "1.5S",
            "123456789n",
            "1SS",
        ] {
            assert_eq!(parse(value.as_bytes()), None, "{value}");
        }
    }

    #[test]
    fn the_finest_unit_with_room_is_written() {
        for (timeout, value) in [
            (Duration::ZERO, "0n"),
            (Duration::from_nanos(99_999_999), "99999999n"),
            (Duration::from_nanos(100_000_999), "100000u"),
            (Duration::from_secs(100), "100000m"),
            (Duration::from_secs(100_000), "100000S"),
            (Duration::from_secs(100_000_000), "1666666M"),
            (Duration::from_secs(6_000_000_000), "1666666H"),
            (Duration::MAX, "99999999H"),
        ] {
            assert_eq!(format(timeout), value);
        }
    }

    proptest::proptest! {
        #[test]
        fn a_written_timeout_reads_as_nearly_the_same(nanos: u64) {
            let timeout = Duration::from_nanos(nanos);
            let read = parse(format(timeout).as_bytes()).expect("what is written is read");
            proptest::prop_assert!(read <= timeout);
            // Five digits at least are left of what a finer unit has no room for.
            proptest::prop_assert!(timeout - read <= timeout / 100_000);
        }

        #[test]
        fn any_bytes_are_read_without_panic(value: Vec<u8>) {
            parse(&value);
        }
    }
}
