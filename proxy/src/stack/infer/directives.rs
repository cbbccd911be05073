use std::time::Duration;

use http::{HeaderMap, header};
use outrigger_filters::inference::CacheControl;

/// Takes what a caller says of stored answers out of its headers: `cache-control`, and `pragma`,
/// which counts where there is no `cache-control` (RFC 9111, 5.4).
pub(super) fn take(headers: &mut HeaderMap) -> CacheControl {
    let mut control = CacheControl::default();
    let has_control = headers.contains_key(header::CACHE_CONTROL);
    for value in headers.get_all(header::CACHE_CONTROL) {
        directives(value.as_bytes()).for_each(|directive| follow(&mut control, directive));
    }
    for value in headers.get_all(header::PRAGMA) {
        let no_cache = |directive: &[u8]| directive.eq_ignore_ascii_case(b"no-cache");
        control.no_cache |= !has_control && directives(value.as_bytes()).any(no_cache);
    }
    headers.remove(header::CACHE_CONTROL);
    headers.remove(header::PRAGMA);
    control
}

/// Cuts a header's value at its commas, but for those in quotes.
fn directives(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    value
        .split(move |&byte| {
            let is_literal = std::mem::take(&mut escaped);
            match byte {
                _ if is_literal => {}
                b'\\' => escaped = quoted,
                b'"' => quoted = !quoted,
                _ => {}
            }
            byte == b',' && !quoted
        })
        .map(<[u8]>::trim_ascii)
}

fn follow(control: &mut CacheControl, directive: &[u8]) {
    let mut parts = directive.splitn(2, |&byte| byte == b'=');
    let name = parts.next().unwrap_or_default().trim_ascii_end();
    let argument = parts.next().map(<[u8]>::trim_ascii_start);
    match &*name.to_ascii_lowercase() {
        b"no-cache" => control.no_cache = true,
        b"no-store" => control.no_store = true,
        b"only-if-cached" => control.only_if_cached = true,
        b"max-age" => match argument.and_then(seconds) {
            // The strictest counts.
            Some(age) => control.max_age = Some(control.max_age.map_or(age, |most| most.min(age))),
            // Whoever says something of an answer's age wants no old one.
            None => control.no_cache = true,
        },
        // Others speak to other caches, or to none.
        _ => {}
    }
}

/// Reads a number of seconds, with or without quotes; one that is too large is as good as none.
fn seconds(argument: &[u8]) -> Option<Duration> {
    let unquoted = argument
        .strip_prefix(b"\"")
        .and_then(|rest| rest.strip_suffix(b"\""));
    let digits = unquoted.unwrap_or(argument);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let seconds = digits.iter().fold(0_u64, |seconds, digit| {
        seconds
            .saturating_mul(10)
            .saturating_add(u64::from(digit - b'0'))
    });
    Some(Duration::from_secs(seconds.min(LONGEST)))
}

/// What greater numbers of seconds are taken for (RFC 9111, 1.2.2).
const LONGEST: u64 = 1 << 31;

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    /// Takes the directives out of headers, of which only `x` may be left.
    fn taken(headers: &[(&str, &[u8])]) -> CacheControl {
        let mut map = HeaderMap::new();
        map.insert("x", HeaderValue::from_static("kept"));
        for (name, value) in headers {
            let name: HeaderName = name.parse().unwrap();
            map.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        let control = take(&mut map);
        assert_eq!(map.len(), 1, "{map:?}");
        control
    }

    fn said(value: &[u8]) -> CacheControl {
        taken(&[("cache-control", value)])
    }

    #[test]
    fn directives_are_taken_in_any_case_and_from_several_headers() {
        let none = CacheControl::default();
        assert_eq!(taken(&[]), none);
        let no_cache = CacheControl {
            no_cache: true,
            ..none
        };
        for value in [
            &b"no-cache"[..],
            b"No-Cache",
            b" , no-cache ,",
            b"no-cache=\"x\"",
        ] {
            assert_eq!(said(value), no_cache, "{value:?}");
        }
        let all = CacheControl {
            no_cache: true,
            no_store: true,
            max_age: Some(Duration::from_secs(5)),
            only_if_cached: true,
        };
        assert_eq!(
            said(b"no-store,max-age = 5, only-if-cached\t,NO-CACHE"),
            all
        );
        let several: [(&str, &[u8]); 3] = [
            ("cache-control", b"no-store, max-age=60"),
            ("Cache-Control", b"max-age=5, only-if-cached"),
            ("cache-control", b"no-cache, max-age=7"),
        ];
        assert_eq!(taken(&several), all);
    }

    #[test]
    fn what_is_not_known_is_not_obeyed() {
        for value in [
            &b""[..],
            b"max-stale=5, min-fresh=1, no-transform, public",
            b"nocache, no-cached, no store",
            b"x=\"a, no-store, b\"",
            b"x=\"a\\\", no-store\"",
            b"\xff, \"no-cache",
        ] {
            assert_eq!(said(value), CacheControl::default(), "{value:?}");
        }
    }

    #[test]
    fn an_age_that_is_none_asks_for_a_new_answer() {
        for value in [
            &b"max-age"[..],
            b"max-age=",
            b"max-age=-1",
            b"max-age=5s",
            b"max-age=1.5",
            b"max-age=\"5",
            b"max-age=\"\"",
        ] {
            let control = said(value);
            assert!(control.no_cache && control.max_age.is_none(), "{value:?}");
        }
        for (value, seconds) in [
            (&b"max-age=0"[..], 0),
            (b"max-age=007", 7),
            (b"max-age=\"7\"", 7),
            (b"max-age=99999999999999999999999999", LONGEST),
        ] {
            let control = said(value);
            let age = Some(Duration::from_secs(seconds));
            assert_eq!((control.max_age, control.no_cache), (age, false));
        }
    }

    #[test]
    fn pragma_counts_only_without_cache_control() {
        assert!(taken(&[("pragma", b"x, No-Cache")]).no_cache);
        assert!(!taken(&[("pragma", b"other")]).no_cache);
        let both: [(&str, &[u8]); 2] = [("pragma", b"no-cache"), ("cache-control", b"max-age=5")];
        assert!(!taken(&both).no_cache);
    }
}
