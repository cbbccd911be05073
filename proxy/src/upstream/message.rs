use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, Version, header,
    uri::{Authority, PathAndQuery, Scheme},
};

use crate::{body::Body, config::HttpVersion};

/// Says a request in the upstream's version of HTTP; within one version it stays as it is, but for
/// the scheme, which is that of the upstream's endpoints.
///
/// # Errors
///
/// Fails where the target cannot be said as the version wants it.
pub(crate) fn for_upstream(
    mut request: Request<Body>,
    http: HttpVersion,
    scheme: &Scheme,
) -> Result<Request<Body>, http::Error> {
    let from = request.version();
    match http {
        HttpVersion::Http2 => {
            if from == Version::HTTP_2 && is_absolute(request.uri(), scheme) {
                return Ok(request);
            }
            if from != Version::HTTP_2 {
                strip_connection_headers(request.headers_mut());
            }
            let authority = match request.uri().authority() {
                Some(authority) => Some(authority.clone()),
                None => host(request.headers()),
            };
            let mut uri = std::mem::take(request.uri_mut()).into_parts();
            uri.scheme = Some(scheme.clone());
            uri.authority = Some(authority.unwrap_or_else(|| Authority::from_static("localhost")));
            uri.path_and_query
                .get_or_insert_with(|| PathAndQuery::from_static("/"));
            *request.uri_mut() = Uri::from_parts(uri)?;
            request.headers_mut().remove(header::HOST);
            *request.version_mut() = Version::HTTP_2;
        }
        HttpVersion::Http1 => {
            if from == Version::HTTP_2 {
                merge_cookies(request.headers_mut());
                if let Some(authority) = request.uri().authority().cloned() {
                    let host = HeaderValue::from_str(authority.as_str())?;
                    request.headers_mut().insert(header::HOST, host);
                }
            } else {
                strip_connection_headers(request.headers_mut());
            }
            if request.method() != Method::CONNECT && request.uri().scheme().is_some() {
                let mut uri = std::mem::take(request.uri_mut()).into_parts();
                uri.scheme = None;
                uri.authority = None;
                uri.path_and_query
                    .get_or_insert_with(|| PathAndQuery::from_static("/"));
                *request.uri_mut() = Uri::from_parts(uri)?;
            }
            *request.version_mut() = Version::HTTP_11;
        }
    }
    Ok(request)
}

/// Takes from an answer what belonged to the upstream's connection alone.
pub(crate) fn from_upstream(mut answer: Response<Body>, http: HttpVersion) -> Response<Body> {
    if http == HttpVersion::Http1 {
        strip_connection_headers(answer.headers_mut());
    }
    answer
}

fn is_absolute(uri: &Uri, scheme: &Scheme) -> bool {
    uri.scheme() == Some(scheme) && uri.authority().is_some()
}

fn host(headers: &HeaderMap) -> Option<Authority> {
    headers
        .get(header::HOST)
        .and_then(|host| Authority::try_from(host.as_bytes()).ok())
}

/// HTTP/2 may carry each cookie in a field of its own, HTTP/1.1 may not (RFC 9113, 8.2.3).
fn merge_cookies(headers: &mut HeaderMap) {
    let cookies = headers.get_all(header::COOKIE);
    if cookies.iter().nth(1).is_none() {
        return;
    }
    let merged = cookies
        .iter()
        .map(HeaderValue::as_bytes)
        .collect::<Vec<_>>()
        .join(&b"; "[..]);
    if let Ok(merged) = HeaderValue::from_bytes(&merged) {
        headers.insert(header::COOKIE, merged);
    }
}

/// Removes the fields that speak of one connection (RFC 9110, 7.6.1) and those that
/// `Connection` names; `te: trailers` stays, because trailers are passed on.
pub(crate) fn strip_connection_headers(headers: &mut HeaderMap) {
    let wants_trailers = headers.get_all(header::TE).iter().any(|value| {
        value
            .as_bytes()
            .split(|byte| *byte == b',')
            .any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    });
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in [
        header::CONNECTION,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
        header::TE,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ] {
        headers.remove(name);
    }
    if wants_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_one_connection_end_with_it() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "x-mine, close"),
            ("x-mine", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("te", "gzip, trailers"),
            ("x-kept", "1"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        strip_connection_headers(&mut headers);
        let mut left: Vec<_> = headers.iter().map(|(name, _)| name.as_str()).collect();
        left.sort_unstable();
        assert_eq!(left, ["te", "x-kept"]);
        assert_eq!(headers["te"], "trailers");
    }

    #[test]
    fn a_request_of_http_1_names_its_host_as_authority() {
        let request = Request::get("/v2/health/ready?x=1")
            .header("host", "models:8000")
            .header("connection", "keep-alive")
            .body(Body::empty())
            .unwrap();
        let request = for_upstream(request, HttpVersion::Http2, &Scheme::HTTP).unwrap();
        assert_eq!(request.uri(), "http://models:8000/v2/health/ready?x=1");
        assert_eq!(request.version(), Version::HTTP_2);
        assert!(request.headers().is_empty());
    }

    #[test]
    fn a_request_of_http_2_names_its_authority_as_host() {
        let request = Request::get("http://models:8000/v2?x=1")
            .version(Version::HTTP_2)
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .body(Body::empty())
            .unwrap();
        let request = for_upstream(request, HttpVersion::Http1, &Scheme::HTTP).unwrap();
        assert_eq!(request.uri(), "/v2?x=1");
        assert_eq!(request.headers()["host"], "models:8000");
        assert_eq!(request.headers()["cookie"], "a=1; b=2");
    }
    #[test]
    fn the_scheme_is_that_of_the_endpoints() {
        for (from, scheme, to) in [
            (
                "http://models:8000/v2",
                Scheme::HTTPS,
                "https://models:8000/v2",
            ),
            (
                "https://models:8000/v2",
                Scheme::HTTP,
                "http://models:8000/v2",
            ),
            (
                "https://models:8000/v2",
                Scheme::HTTPS,
                "https://models:8000/v2",
            ),
        ] {
            let request = Request::get(from)
                .version(Version::HTTP_2)
                .body(Body::empty())
                .unwrap();
            let request = for_upstream(request, HttpVersion::Http2, &scheme).unwrap();
            assert_eq!(request.uri(), to);
        }
    }
}
