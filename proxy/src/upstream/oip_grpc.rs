use std::{
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::future::{BoxFuture, Either};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version, header};
use outrigger_filters::inference::{self, Code, Error, Response, Status};
use prometheus_client::metrics::histogram::Histogram;
use tokio::time::Instant;
use tower::Service;
use tracing::{Instrument as _, debug};

use super::{Endpoint, Upstream, call_endpoint};
use crate::{
    body::{self, Body, Piece},
    codec::{
        grpc::{self, Encoding, FrameReader, metadata, timeout},
        oip_grpc::{decode_response, encode_request},
    },
    detect::OIP_GRPC_INFER,
};

/// Calls `ModelInfer` on one endpoint, or on another one of its upstream's while that one cannot
/// be reached.
#[derive(Clone, Debug)]
pub struct OipGrpc {
    upstream: Arc<Upstream>,
    endpoint: Arc<Endpoint>,
    uri: Uri,
    max_message: usize,
    duration: Histogram,
}

/// A `ModelInfer` call as it came.
#[derive(Clone, Debug)]
pub struct Call {
    /// The headers.
    pub headers: HeaderMap,
    /// The message, decompressed and without the five bytes before it.
    pub message: Bytes,
}

/// The answer to a `ModelInfer` call as it came, where its status is OK.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The headers.
    pub headers: HeaderMap,
    /// The message, decompressed and without the five bytes before it.
    pub message: Bytes,
    /// The trailers.
    pub trailers: HeaderMap,
}

impl OipGrpc {
    /// Makes the innermost service of a model's stack; answers of more than `max_message` bytes
    /// are not read.
    pub fn new(
        upstream: Arc<Upstream>,
        endpoint: Arc<Endpoint>,
        max_message: usize,
        duration: Histogram,
    ) -> Self {
        let uri = uri(&endpoint, OIP_GRPC_INFER);
        Self {
            upstream,
            endpoint,
            uri,
            max_message,
            duration,
        }
    }

    /// Returns the endpoint.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }
}

impl Service<inference::Request> for OipGrpc {
    type Response = Response;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Response, Error>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: inference::Request) -> Self::Future {
        let Self {
            upstream,
            endpoint,
            uri,
            max_message,
            duration,
        } = self.clone();
        let span = tracing::debug_span!("upstream", endpoint = %endpoint.authority());
        let call = async move {
            let started = Instant::now();
            let headers = headers(&request, started);
            let call = request.wire().and_then(|wire| wire.downcast_ref::<Call>());
            let message = match call {
                Some(call) => grpc::frame(call.message.clone()),
                None => encode_request(&request)?,
            };
            drop(request);
            let answer = unary(
                Some(&upstream),
                &endpoint,
                uri,
                headers,
                message,
                max_message,
            )
            .await;
            duration.observe(started.elapsed().as_secs_f64());
            let answer = answer?;
            Ok(match decode_response(&answer.message) {
                Ok(parts) => {
                    let headers = metadata::of_answer(&answer.headers);
                    let trailers = metadata::of_answer(&answer.trailers);
                    let mut response = Response::from_wire(parts, Arc::new(answer));
                    response.headers = headers;
                    response.trailers = trailers;
                    response
                }
                Err(cause) => {
                    // The client may well understand it, as it would have without us.
                    debug!(%cause, "answer not understood");
                    Response::opaque(Arc::new(answer))
                }
            })
        };
        Box::pin(call.instrument(span))
    }
}

/// Makes one unary gRPC call with a framed message, on this endpoint alone unless an upstream is
/// given that may have others.
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
) -> Result<Answer, Error> {
    let mut request = Request::new(Body::full(message, None));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = headers;
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
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(http::uri::Scheme::HTTP);
    parts.authority = Some(endpoint.authority().clone());
    parts.path_and_query = Some(http::uri::PathAndQuery::from_static(path));
    // Scheme, authority and path are what an absolute address is made of.
    Uri::from_parts(parts).unwrap_or_default()
}

/// Returns the headers of a call: an unchanged request's own, or those that the callers of a
/// merged one have in common; either way with the time that is left.
fn headers(request: &inference::Request, now: Instant) -> HeaderMap {
    let wire = request.wire().and_then(|wire| wire.downcast_ref::<Call>());
    let mut headers = match wire {
        Some(call) => {
            let mut headers = call.headers.clone();
            // The message goes out decompressed, and the answer is wanted so.
            for name in [
                "grpc-encoding",
                "grpc-accept-encoding",
                "content-length",
                "grpc-timeout",
            ] {
                headers.remove(name);
            }
            headers
        }
        None => {
            let mut headers = own_headers();
            metadata::append(&request.head.metadata, &mut headers);
            headers
        }
    };
    if let Some(deadline) = request.head.deadline {
        headers.insert(
            "grpc-timeout",
            timeout::format(deadline.saturating_duration_since(now)),
        );
    }
    headers
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

const USER_AGENT: &str = concat!("outrigger/", env!("CARGO_PKG_VERSION"));

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
