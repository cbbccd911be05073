use std::{fmt::Write as _, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Request, StatusCode, Uri, header};
use outrigger_filters::inference::{Code, Error, Status};
use serde_json::Value;

use crate::{
    body::Body,
    codec::grpc,
    upstream::{
        Endpoint, call_endpoint,
        oip_grpc::{own_headers, unary, uri},
    },
};

/// A model by the name that it has on its server.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Served<'a> {
    pub(crate) model: &'a str,
    /// Nothing where the server may choose.
    pub(crate) version: &'a str,
    /// The name of a version, which only TensorFlow Serving knows.
    pub(crate) label: &'a str,
}

/// Makes a unary gRPC call of our own.
pub(super) async fn grpc(
    endpoint: &Arc<Endpoint>,
    path: &'static str,
    message: Bytes,
) -> Result<Bytes, Error> {
    let framed = grpc::frame(message);
    let answer = unary(
        None,
        endpoint,
        uri(endpoint, path),
        own_headers(),
        framed,
        MAX_ANSWER,
    );
    Ok(tokio::time::timeout(ANSWER, answer).await??.message)
}

/// Gets a page, and returns its body if it is there.
pub(super) async fn get(endpoint: &Arc<Endpoint>, path: &str) -> Result<Bytes, Error> {
    let (status, body) = tokio::time::timeout(ANSWER, page(endpoint, path)).await??;
    if status.is_success() {
        return Ok(body);
    }
    Err(Status::new(code(status), words(status, &body)).into())
}

async fn page(endpoint: &Arc<Endpoint>, path: &str) -> Result<(StatusCode, Bytes), Error> {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = Uri::try_from(path)?;
    let headers = request.headers_mut();
    let host = HeaderValue::from_str(endpoint.authority().as_str())?;
    headers.insert(header::HOST, host);
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    if let Some(agent) = own_headers().remove(header::USER_AGENT) {
        headers.insert(header::USER_AGENT, agent);
    }
    let (head, mut body) = call_endpoint(endpoint, request).await?.into_parts();
    let mut whole = BytesMut::new();
    while let Some(data) = body.data().await? {
        if data.len() > MAX_ANSWER - whole.len() {
            return Err(TooLong(()).into());
        }
        data.pieces()
            .for_each(|piece| whole.extend_from_slice(piece));
    }
    Ok((head.status, whole.freeze()))
}

/// Tells whether a server knows of no such call.
pub(super) fn is_unimplemented(error: &Error) -> bool {
    has_code(error, &[Code::Unimplemented])
}

/// Tells whether a server said one of these codes.
pub(super) fn has_code(error: &Error, codes: &[Code]) -> bool {
    error
        .downcast_ref::<Status>()
        .is_some_and(|status| codes.contains(&status.code()))
}

/// Writes a text as one segment of a path.
pub(super) fn segment(text: &str) -> String {
    let mut segment = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            segment.push(char::from(byte));
        } else {
            // Writing into a string cannot fail.
            let _ = write!(segment, "%{byte:02X}");
        }
    }
    segment
}

/// What TensorFlow Serving's map from codes says, read backwards.
fn code(status: StatusCode) -> Code {
    match status.as_u16() {
        400 => Code::InvalidArgument,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::NotFound,
        409 => Code::Aborted,
        429 => Code::ResourceExhausted,
        405 | 501 => Code::Unimplemented,
        502 | 503 => Code::Unavailable,
        504 => Code::DeadlineExceeded,
        500..=599 => Code::Internal,
        _ => Code::Unknown,
    }
}

/// Returns the server's own words where it says them as all of these protocols do.
fn words(status: StatusCode, body: &[u8]) -> String {
    let error = serde_json::from_slice::<Value>(body).ok();
    let words = error.as_ref().and_then(|error| error["error"].as_str());
    match words {
        Some(words) => words.to_owned(),
        None => format!("the server answered with HTTP status {status}"),
    }
}

/// A page over the bound.
#[derive(Debug, thiserror::Error)]
#[error("the server's answer is longer than {MAX_ANSWER} bytes")]
struct TooLong(());

/// How long a server may take to speak of a model: it looks it up, and another endpoint may know.
const ANSWER: Duration = Duration::from_secs(2);
/// A model's configuration is text; the largest seen has some hundred kilobytes.
const MAX_ANSWER: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_is_one_segment_of_a_path() {
        assert_eq!(segment("digits-svm_1.0~"), "digits-svm_1.0~");
        assert_eq!(segment("a/b?c#d e%ü"), "a%2Fb%3Fc%23d%20e%25%C3%BC");
        for name in ["../x", "a b", "ü", "\0"] {
            let path = format!("/v2/models/{}", segment(name));
            assert!(Uri::try_from(path).is_ok());
        }
    }

    #[test]
    fn an_error_is_told_in_the_servers_words() {
        let words = |body: &str| words(StatusCode::NOT_FOUND, body.as_bytes());
        assert_eq!(words(r#"{"error": "no such model"}"#), "no such model");
        let own = "the server answered with HTTP status 404 Not Found";
        assert_eq!(words("<html>"), own);
        assert_eq!(words(r#"{"error": 1}"#), own);
    }
}
