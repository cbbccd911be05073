use std::time::Duration;

use http::{HeaderMap, HeaderName};

use crate::{codec::grpc::timeout, config::parse_duration};

/// Takes how long a call may take out of its headers, as far as it is ours: `outrigger-timeout`,
/// with the units of the configuration, or `grpc-timeout`, the sooner of which counts.
///
/// # Errors
///
/// Fails where `outrigger-timeout` is no duration: a caller that is in a hurry would not know that
/// nobody else is.
pub(super) fn take(headers: &mut HeaderMap, is_grpc: bool) -> Result<Option<Duration>, NoTimeout> {
    let of_call = timeout::of_call(headers).filter(|_| is_grpc);
    let Some(own) = headers.remove(&TIMEOUT) else {
        return Ok(of_call);
    };
    let text = own.to_str().map_err(|_| NoTimeout(String::new()))?;
    let own = parse_duration(text.trim()).map_err(NoTimeout)?;
    Ok(of_call.into_iter().chain([own]).min())
}

/// The header `outrigger-timeout` is no duration.
#[derive(Debug)]
pub struct NoTimeout(String);

impl std::fmt::Display for NoTimeout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{TIMEOUT}: ")?;
        match &*self.0 {
            "" => f.write_str("not a text like 20ms"),
            why => f.write_str(why),
        }
    }
}

impl std::error::Error for NoTimeout {}

const TIMEOUT: HeaderName = HeaderName::from_static("outrigger-timeout");

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn the_sooner_of_two_timeouts_counts_and_ours_goes_no_further() {
        let of = |pairs: &[(&'static str, &str)], is_grpc| {
            let mut headers = headers(pairs);
            let timeout = take(&mut headers, is_grpc).unwrap();
            assert!(!headers.contains_key(&TIMEOUT));
            timeout
        };
        let milliseconds = |count| Some(Duration::from_millis(count));
        assert_eq!(of(&[], true), None);
        assert_eq!(
            of(&[("outrigger-timeout", "20ms")], false),
            milliseconds(20)
        );
        assert_eq!(of(&[("grpc-timeout", "30m")], true), milliseconds(30));
        assert_eq!(of(&[("grpc-timeout", "30m")], false), None);
        let both = |own| [("grpc-timeout", "30m"), ("outrigger-timeout", own)];
        assert_eq!(of(&both("1s"), true), milliseconds(30));
        assert_eq!(of(&both("1ms"), true), milliseconds(1));
    }

    #[test]
    fn what_is_no_duration_is_refused_by_the_headers_name() {
        for wrong in ["20", "ms", "-1ms", "soon", ""] {
            let mut headers = headers(&[("outrigger-timeout", wrong)]);
            let error = take(&mut headers, true).unwrap_err().to_string();
            assert!(error.starts_with("outrigger-timeout: "), "{error}");
        }
    }
}
