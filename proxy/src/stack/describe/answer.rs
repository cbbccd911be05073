use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, Version, header};

use crate::{body::Body, codec::grpc};

/// What a caller is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// A message of gRPC.
    Message(Bytes),
    /// A page of JSON.
    Page(StatusCode, Bytes),
}

impl Answer {
    /// Makes a page that says that all is well.
    pub(super) fn page(body: impl Into<Bytes>) -> Self {
        Self::Page(StatusCode::OK, body.into())
    }

    pub(super) fn into_response(self) -> Response<Body> {
        let (status, content_type, body) = match self {
            Self::Message(message) => {
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                let body = Body::full(grpc::frame(message), Some(trailers));
                (StatusCode::OK, "application/grpc", body)
            }
            Self::Page(status, body) => (status, "application/json", Body::full(body, None)),
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        if content_type == "application/grpc" {
            *response.version_mut() = Version::HTTP_2;
        }
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        response
    }
}
