//! How figures are written.

use std::time::Duration;

/// Writes calls a second.
pub(super) fn rate(rate: f64) -> String {
    match rate {
        rate if rate < 10. => format!("{rate:.1}/s"),
        rate => format!("{rate:.0}/s"),
    }
}

/// Writes a latency with three digits.
pub(super) fn latency(latency: Duration) -> String {
    let milliseconds = latency.as_secs_f64() * 1e3;
    match milliseconds {
        ms if ms < 9.995 => format!("{ms:.2} ms"),
        ms if ms < 99.95 => format!("{ms:.1} ms"),
        ms if ms < 999.5 => format!("{ms:.0} ms"),
        ms => format!("{:.2} s", ms / 1e3),
    }
}

/// Writes a share; it is not rounded up, so that 100 % means all.
pub(super) fn share(part: u64, whole: u64) -> String {
    match part.saturating_mul(1000).checked_div(whole) {
        Some(thousandths) => format!("{}.{} %", thousandths / 10, thousandths % 10),
        None => NOTHING.to_owned(),
    }
}

/// Writes how many rows a call has in the mean.
pub(super) fn mean(rows: u64, calls: u64) -> String {
    match calls {
        0 => NOTHING.to_owned(),
        calls => format!("{:.1}", rows as f64 / calls as f64),
    }
}

/// Writes processor time.
pub(super) fn seconds(time: Option<Duration>) -> String {
    time.map_or_else(
        || NOTHING.to_owned(),
        |time| format!("{:.2}", time.as_secs_f64()),
    )
}

/// Stands where there is no figure.
pub(super) const NOTHING: &str = "-";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_has_three_digits_and_its_unit() {
        let written = |micros| latency(Duration::from_micros(micros));
        assert_eq!(written(0), "0.00 ms");
        assert_eq!(written(7_149), "7.15 ms");
        assert_eq!(written(9_996), "10.0 ms");
        assert_eq!(written(20_000), "20.0 ms");
        assert_eq!(written(999_600), "1.00 s");
        assert_eq!(written(3_914_000), "3.91 s");
    }

    #[test]
    fn nearly_all_is_not_all() {
        assert_eq!(share(9_999, 10_000), "99.9 %");
        assert_eq!(share(10_000, 10_000), "100.0 %");
        assert_eq!(share(0, 7), "0.0 %");
        assert_eq!(share(0, 0), NOTHING);
    }

    #[test]
    fn where_nothing_was_measured_no_figure_stands() {
        assert_eq!(mean(0, 0), NOTHING);
        assert_eq!(mean(17, 2), "8.5");
        assert_eq!(seconds(None), NOTHING);
        assert_eq!(rate(0.), "0.0/s");
        assert_eq!(rate(2153.4), "2153/s");
    }
}
