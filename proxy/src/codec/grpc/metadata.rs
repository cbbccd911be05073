//! Which headers are the caller's or the server's own, and which belong to the transport.

use bytes::BytesMut;
use bytestring::ByteString;
use http::{HeaderMap, HeaderName, HeaderValue};
use outrigger_filters::inference::Metadata;

/// What a header of a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It belongs to gRPC or HTTP, which each hop speaks for itself.
    Transport,
    /// It traces, times or routes this one call, and cannot change the answer.
    Trace,
    /// It says who asks or may change the answer: it is part of what may share a batch.
    Caller,
}

/// Tells what a header of a call is for, by its name in lower case.
///
/// A name that is not known is the caller's: then two calls are at worst not merged.
pub fn role(name: &str) -> Role {
    if name.starts_with("grpc-") {
        return Role::Transport;
    }
    match name {
        "accept"
        | "accept-encoding"
        | "connection"
        | "content-encoding"
        | "content-length"
        | "content-type"
        | "expect"
        | "host"
        | "http2-settings"
        | "inference-header-content-length"
        | "keep-alive"
        | "proxy-connection"
        | "te"
        | "trailer"
        | "transfer-encoding"
        | "upgrade"
        | "user-agent" => Role::Transport,
        "b3"
        | "baggage"
        | "date"
        | "elastic-apm-traceparent"
        | "forwarded"
        | "newrelic"
        | "outrigger-explain"
        | "outrigger-timeout"
        | "request-id"
        | "sentry-trace"
        | "traceparent"
        | "tracestate"
        | "uber-trace-id"
        | "via"
        | "x-amzn-trace-id"
        | "x-client-trace-id"
        | "x-cloud-trace-context"
        | "x-correlation-id"
        | "x-forwarded-for"
        | "x-forwarded-host"
        | "x-forwarded-path"
        | "x-forwarded-port"
        | "x-forwarded-prefix"
        | "x-forwarded-proto"
        | "x-forwarded-scheme"
        | "x-forwarded-server"
        | "x-ot-span-context"
        | "x-real-ip"
        | "x-request-id"
        | "x-request-start" => Role::Trace,
        _ if TRACE_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) => Role::Trace,
        _ => Role::Caller,
    }
}

/// Collects the headers of a call that are the caller's own.
pub fn of_call(headers: &HeaderMap) -> Metadata {
    collect(headers, |name| role(name) == Role::Caller)
}

/// Collects the headers or trailers of an answer that are the server's own: all but those in
/// which each hop speaks for itself.
pub fn of_answer(headers: &HeaderMap) -> Metadata {
    collect(headers, |name| {
        !matches!(
            name,
            "connection"
                | "content-encoding"
                | "content-length"
                | "content-type"
                | "grpc-accept-encoding"
                | "grpc-encoding"
                | "grpc-message"
                | "grpc-status"
                | "keep-alive"
                | "proxy-connection"
                | "te"
                | "trailer"
                | "transfer-encoding"
                | "upgrade"
        )
    })
}

/// Adds metadata to headers, several values of one name included.
pub fn append(metadata: &Metadata, headers: &mut HeaderMap) {
    for (name, value) in metadata.iter() {
        let name = HeaderName::from_bytes(name.as_bytes());
        let value = HeaderValue::from_maybe_shared(value.clone());
        // Metadata was read from headers, so both are well formed.
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
}

/// Copies what is wanted into one buffer, of which names and values are slices: header maps do
/// not give the bytes out that they hold.
fn collect(headers: &HeaderMap, wanted: impl Fn(&str) -> bool) -> Metadata {
    let wanted = || headers.iter().filter(|(name, _)| wanted(name.as_str()));
    let (count, len) = wanted().fold((0, 0), |(count, len), (name, value)| {
        (count + 1, len + name.as_str().len() + value.len())
    });
    if count == 0 {
        return Metadata::default();
    }
    let mut buffer = BytesMut::with_capacity(len);
    for (name, value) in wanted() {
        buffer.extend_from_slice(name.as_str().as_bytes());
        buffer.extend_from_slice(value.as_bytes());
    }
    let mut rest = buffer.freeze();
    let mut pairs = Vec::with_capacity(count);
    for (name, value) in wanted() {
        let text = rest.split_to(name.as_str().len());
        let text = ByteString::try_from(text).expect("a header's name is ASCII");
        pairs.push((text, rest.split_to(value.len())));
    }
    Metadata::new(pairs)
}

/// Families of headers that trace or route. `x-forwarded-` is not among them: some of that family
/// (`-client-cert`, `-user`, `-access-token`) say who asks.
const TRACE_PREFIXES: [&str; 4] = ["x-b3-", "x-datadog-", "x-envoy-", "uberctx-"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_change_the_answer_is_kept() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-tenant", "b"),
            ("authorization", "Bearer x"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("grpc-timeout", "1S"),
            ("user-agent", "grpc-python"),
            ("traceparent", "00-1-2-01"),
            ("x-b3-traceid", "1"),
            ("x-envoy-attempt-count", "1"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-client-cert", "By=spiffe://a"),
            ("blob-bin", "AAE"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers.append("x-tenant", HeaderValue::from_static("a"));
        let kept = of_call(&headers);
        let kept: Vec<_> = kept
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .collect();
        let wanted: [(&str, &[u8]); 5] = [
            ("authorization", b"Bearer x"),
            ("blob-bin", b"AAE"),
            ("x-forwarded-client-cert", b"By=spiffe://a"),
            ("x-tenant", b"b"),
            ("x-tenant", b"a"),
        ];
        assert_eq!(kept, wanted);
    }

    #[test]
    fn metadata_becomes_the_headers_it_was() {
        let mut headers = HeaderMap::new();
        headers.append("x-tenant", HeaderValue::from_static("b"));
        headers.append("x-tenant", HeaderValue::from_static("a"));
        headers.append("authorization", HeaderValue::from_static("c"));
        let mut again = HeaderMap::new();
        append(&of_call(&headers), &mut again);
        assert_eq!(again, headers);
    }
}
