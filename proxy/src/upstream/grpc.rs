//! Unary gRPC calls to an endpoint.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::Either;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version, header};
use outrigger_filters::inference::{self, Code, Error, Status};
use tokio::time::Instant;

use super::{Endpoint, Upstream, call_endpoint, due::Due};
use crate::{
    body::{self, Body, Piece},
    codec::grpc::{self, Encoding, FrameReader},
};

/// The answer to a unary call whose status is OK.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) headers: HeaderMap,
    /// The message, decompressed and without the five bytes before it.
    pub(super) message: Bytes,
    pub(super) trailers: HeaderMap,
}

/// Makes one unary gRPC call with a framed message, on this endpoint alone unless an upstream is
/// given that may have others; not after its deadline.
///
/// # Errors
///
/// Fails with the server's [`Status`] where it is not OK, and with the transport's cause where
/// there is none.
pub(super) async fn unary(
    upstream: Option<&Arc<Upstream>>,
    endpoint: &Arc<Endpoint>,
    uri: Uri,
    headers: HeaderMap,
    message: inference::Payload,
    max_message: usize,
    deadline: Option<Instant>,
) -> Result<Answer, Error> {
    let mut request = Request::new(Body::full(message, None));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = headers;
    Due::put(deadline, &mut request);
    let answer = match upstream {
        Some(upstream) => Either::Left(upstream.call_first(endpoint, request)),
        None => Either::Right(call_endpoint(endpoint, request)),
    };
    let (head, mut body) = answer.await?.into_parts();
    if head.status != StatusCode::OK {
        let words = format!("the server answered with HTTP status {}", head.status);
        return Err(Status::new(code_of(head.status), words).into());
    }
    let mut reader = FrameReader::new(max_message);
    let mut trailers = HeaderMap::new();
    while let Some(piece) = std::future::poll_fn(|cx| body.poll_piece(cx)).await {
        let broken = |error: body::Error| {
            super::Error::new(Some(endpoint.authority().clone()), error.into())
        };
        match piece.map_err(broken)? {
            Piece::Data(data) => {
                data.pieces().for_each(|piece| reader.push(piece.clone()));
                // A length over the bound shows before the bytes are here.
                reader.front().map_err(Unreadable::from)?;
                if reader.beyond() > 0 {
                    return Err(Several(()).into());
                }
            }
            Piece::Trailers(last) => trailers = last,
        }
    }
    grpc::verdict(&head.headers, &trailers)?;
    let frame = reader
        .next_frame()
        .map_err(Unreadable::from)?
        .ok_or(Missing(()))?;
    let encoding = Encoding::from_headers(&head.headers).unwrap_or_default();
    let message = frame
        .into_message(encoding, max_message)
        .map_err(Unreadable::from)?;
    Ok(Answer {
        headers: head.headers,
        message,
        trailers,
    })
}

/// Returns the address of a method on an endpoint.
pub(super) fn uri(endpoint: &Endpoint, path: &'static str) -> Uri {
    address(endpoint, http::uri::PathAndQuery::from_static(path))
}

/// Returns the address of a path on an endpoint.
pub(super) fn address(endpoint: &Endpoint, path: http::uri::PathAndQuery) -> Uri {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(endpoint.scheme());
    parts.authority = Some(endpoint.authority().clone());
    parts.path_and_query = Some(path);
    // Scheme, authority and path are what an absolute address is made of.
    Uri::from_parts(parts).unwrap_or_default()
}

/// Returns the headers of a call that the proxy makes itself.
pub(super) fn own_headers() -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    headers
}

pub(super) const USER_AGENT: &str = concat!("outrigger/", env!("CARGO_PKG_VERSION"));

/// gRPC's own mapping for answers that are not gRPC's ("HTTP to gRPC Status Code Mapping").
fn code_of(status: StatusCode) -> Code {
    match status.as_u16() {
        400 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        429 | 502..=504 => Code::Unavailable,
        _ => Code::Unknown,
    }
}

/// The server's answer is no message, or one over the bound.
#[derive(Debug)]
pub(crate) enum Unreadable {
    /// It is not framed as a message.
    Frame(grpc::FrameError),
    /// It is not compressed as it says.
    Compression(grpc::Undecodable),
}

impl Unreadable {
    /// Tells whether the answer is longer than is allowed.
    pub(crate) fn is_too_large(&self) -> bool {
        matches!(
            self,
            Self::Frame(grpc::FrameError::TooLarge { .. })
                | Self::Compression(grpc::Undecodable::TooLarge { .. })
        )
    }
}

impl From<grpc::FrameError> for Unreadable {
    fn from(error: grpc::FrameError) -> Self {
        Self::Frame(error)
    }
}

impl From<grpc::Undecodable> for Unreadable {
    fn from(error: grpc::Undecodable) -> Self {
        Self::Compression(error)
    }
}

/// The server sent more than the one message of a unary call.
#[derive(Debug)]
struct Several(());

/// The server said OK and sent no message.
#[derive(Debug)]
struct Missing(());

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let cause: &dyn std::fmt::Display = match self {
            Self::Frame(error) => error,
            Self::Compression(error) => error,
        };
        write!(f, "the server's answer cannot be read: {cause}")?;
        if self.is_too_large() {
            f.write_str(" (limits.max_message)")?;
        }
        Ok(())
    }
}

impl std::error::Error for Unreadable {}

impl std::fmt::Display for Several {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the server answered a unary call with more than one message")
    }
}

impl std::error::Error for Several {}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the server answered OK without a message")
    }
}

impl std::error::Error for Missing {}
