//! Calls with JSON or binary bodies to an endpoint, whose answers are read whole.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::future::Either;
use http::{HeaderMap, Request, StatusCode, header};
use outrigger_filters::inference::{Code, Error};

use super::{Endpoint, Unreadable, Upstream, call_endpoint};
use crate::{
    body::Body,
    codec::grpc::{Encoding, Undecodable},
    config::Protocol,
};

/// An answer whose status says that it is one.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) headers: HeaderMap,
    /// The body, decompressed.
    pub(super) body: Bytes,
}

/// A server's refusal, as it came.
///
/// A caller that speaks the server's protocol gets it as it is, any other the code and the words.
#[derive(Clone, Debug)]
pub struct Refused {
    protocol: Protocol,
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

/// Makes one call on this endpoint alone, unless an upstream is given that may have others where it
/// cannot be reached.
///
/// # Errors
///
/// Fails with [`Refused`] where the server's status is no success, and with the transport's cause
/// where there is none.
pub(super) async fn exchange(
    upstream: Option<&Arc<Upstream>>,
    endpoint: &Arc<Endpoint>,
    request: Request<Body>,
    max_message: usize,
) -> Result<Answer, Error> {
    let answer = match upstream {
        Some(upstream) => Either::Left(upstream.call_first(endpoint, request)),
        None => Either::Right(call_endpoint(endpoint, request)),
    };
    let (head, mut body) = answer.await?.into_parts();
    let mut first = None;
    let mut whole = BytesMut::new();
    loop {
        let broken = |error: crate::body::Error| {
            super::Error::new(Some(endpoint.authority().clone()), error.into())
        };
        let Some(data) = body.data().await.map_err(broken)? else {
            break;
        };
        if whole.len().saturating_add(data.len()) > max_message {
            return Err(Unreadable::from(Undecodable::TooLarge { max_message }).into());
        }
        // An answer that came in one piece is not copied.
        if whole.is_empty() && first.is_none() && data.pieces().len() == 1 {
            first = data.pieces().next().cloned();
            continue;
        }
        if let Some(first) = first.take() {
            whole.extend_from_slice(&first);
        }
        data.pieces()
            .for_each(|piece| whole.extend_from_slice(piece));
    }
    let body = first.unwrap_or_else(|| whole.freeze());
    let body = match encoding(&head.headers) {
        Some(Encoding::Identity) => body,
        Some(encoding) => encoding
            .decompress(body, max_message)
            .map_err(Unreadable::from)?,
        None => return Err(Unreadable::from(Undecodable::NotNamed).into()),
    };
    let mut headers = head.headers;
    for name in [
        header::CONTENT_ENCODING,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
    ] {
        headers.remove(name);
    }
    if head.status.is_success() {
        return Ok(Answer { headers, body });
    }
    Err(Refused {
        protocol: endpoint.protocol(),
        status: head.status,
        headers,
        body,
    }
    .into())
}

/// Tells how a body is compressed; `None` where it is not known here.
pub(crate) fn encoding(headers: &HeaderMap) -> Option<Encoding> {
    let mut named = headers.get_all(header::CONTENT_ENCODING).iter();
    match (named.next(), named.next()) {
        (None, _) => Some(Encoding::Identity),
        (Some(name), None) => Encoding::from_name(name.as_bytes()),
        // Compressed twice.
        (Some(_), Some(_)) => None,
    }
}

impl Refused {
    /// Returns what the server speaks.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Returns the status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Returns the headers without those that speak of the body's transport.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Returns the body, decompressed.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Returns what a caller over gRPC is told: the reverse of how TensorFlow Serving maps codes.
    pub fn code(&self) -> Code {
        match self.status.as_u16() {
            400 | 411 | 412 | 414 | 415 | 422 => Code::InvalidArgument,
            401 => Code::Unauthenticated,
            403 => Code::PermissionDenied,
            404 => Code::NotFound,
            408 | 504 => Code::DeadlineExceeded,
            409 => Code::Aborted,
            413 | 429 => Code::ResourceExhausted,
            499 => Code::Cancelled,
            405 | 501 => Code::Unimplemented,
            502 | 503 => Code::Unavailable,
            500..=599 => Code::Internal,
            _ => Code::Unknown,
        }
    }

    /// Returns the server's words: what stands under `error` or `detail`, or the body's beginning.
    pub fn message(&self) -> String {
        let json: Option<serde_json::Value> = serde_json::from_slice(&self.body).ok();
        let said = json.as_ref().and_then(|json| {
            ["error", "detail", "message"]
                .iter()
                .find_map(|name| json.get(name))
        });
        match said {
            Some(serde_json::Value::String(words)) => words.clone(),
            Some(other) => other.to_string(),
            None => {
                let shown = self.body.get(..SHOWN).unwrap_or(&self.body);
                match String::from_utf8_lossy(shown).trim() {
                    "" => format!("the server answered with HTTP status {}", self.status),
                    words => words.to_owned(),
                }
            }
        }
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message())
    }
}

impl std::error::Error for Refused {}

/// As much of a body that is no JSON is told.
const SHOWN: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, body: &'static str) -> Refused {
        Refused {
            protocol: Protocol::OipRest,
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: Bytes::from_static(body.as_bytes()),
        }
    }

    #[test]
    fn a_refusal_is_told_in_the_servers_words() {
        for (body, words) in [
            (r#"{"error": "no such model"}"#, "no such model"),
            (r#"{"detail": [1]}"#, "[1]"),
            ("plain", "plain"),
            ("", "the server answered with HTTP status 404 Not Found"),
            (r#"{"x": 1}"#, r#"{"x": 1}"#),
        ] {
            assert_eq!(refused(404, body).message(), words);
        }
        assert_eq!(refused(404, "").code(), Code::NotFound);
        assert_eq!(refused(418, "").code(), Code::Unknown);
    }
}
