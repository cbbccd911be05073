//! The one table in which a cause becomes a gRPC code and an HTTP status.

use std::{error::Error, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version, header};
use outrigger_filters::{
    batch, cache,
    deadline::Expired,
    inference::{Code, Metadata, Status},
    overload::Overloaded,
    select,
};
use serde_json::json;

use crate::{
    body::{self, Body},
    codec::{self, grpc},
    server::Outcome,
    stack::{GatheredTooMuch, NoTimeout, NotConfigured, NotKnown, NotOneMessage, Query, TooLarge},
    upstream::{self, Cause},
    wire::NoLength,
};

/// How a failed request is told to its caller.
#[derive(Debug)]
pub struct Verdict {
    code: Code,
    message: String,
    headers: HeaderMap,
    trailers: HeaderMap,
    /// The HTTP status, where it is not the code's.
    status: Option<StatusCode>,
    reset: Option<h2::Reason>,
    /// After what time it is worth while to ask again, for who has been refused for too much load.
    retry_after: Option<Duration>,
}

/// Finds the cause in a chain of errors and says what the caller is told.
///
/// | cause | gRPC | HTTP |
/// | --- | --- | --- |
/// | the server's own status | as it said | mapped |
/// | the server's own HTTP status | mapped | as it said |
/// | what the server's protocol cannot say | INVALID_ARGUMENT | 400 |
/// | a message that is not understood, and no server could | INVALID_ARGUMENT | 400 |
/// | a server that does not say in time what a model takes | UNAVAILABLE | 503 |
/// | a header `outrigger-timeout` that is no duration | INVALID_ARGUMENT | 400 |
/// | no arm that could be chosen | UNAVAILABLE | 503 |
/// | a model that nobody behind the listener can be asked for | NOT_FOUND | 404 |
/// | a full queue, and when to ask again | RESOURCE_EXHAUSTED | 429 |
/// | more to do before it than there is time | RESOURCE_EXHAUSTED | 429 |
/// | a call given up by a runtime that ended | UNAVAILABLE | 503 |
/// | a deadline that has passed | DEADLINE_EXCEEDED | 504 |
/// | `cache-control: only-if-cached`, and it is not | UNAVAILABLE | 504 |
/// | a call that failed for several callers | by its own cause | by its own cause |
/// | a message over `limits.max_message` | RESOURCE_EXHAUSTED | 429 |
/// | messages over `limits.max_gathered` together | RESOURCE_EXHAUSTED | 429 |
/// | no connection to the server, or one that broke | UNAVAILABLE | 503 |
/// | a stream that the server reset | the same reset | 502 |
/// | an answer that is no gRPC message | INTERNAL | 500 |
/// | a caller who gave up | CANCELLED | 499 |
/// | anything else | INTERNAL | 500 |
pub fn verdict(error: &(dyn Error + 'static)) -> Verdict {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(verdict) = known(cause) {
            return verdict;
        }
        next = cause.source();
    }
    Verdict::new(Code::Internal, error.to_string())
}

fn known(cause: &(dyn Error + 'static)) -> Option<Verdict> {
    if let Some(status) = cause.downcast_ref::<Status>() {
        return Some(Verdict {
            headers: headers(status.headers()),
            trailers: headers(status.trailers()),
            ..Verdict::new(status.code(), status.message())
        });
    }
    if let Some(refused) = cause.downcast_ref::<upstream::Refused>() {
        return Some(Verdict::new(refused.code(), refused.message()));
    }
    if let Some(grpc::Undecodable::TooLarge { .. }) = cause.downcast_ref() {
        let words = format!("{cause} (limits.max_message)");
        return Some(Verdict::new(Code::ResourceExhausted, words));
    }
    if cause.is::<NoTimeout>() {
        return Some(Verdict::new(Code::InvalidArgument, cause.to_string()));
    }
    if cause.is::<select::NoArm>() {
        return Some(Verdict::new(Code::Unavailable, cause.to_string()));
    }
    if is_malformed(cause) {
        return Some(Verdict::new(Code::InvalidArgument, cause.to_string()));
    }
    if cause.is::<tokio::time::error::Elapsed>() {
        let words = "the model's server did not answer in time what the model takes";
        return Some(Verdict::new(Code::Unavailable, words));
    }
    if cause.is::<NotConfigured>() {
        return Some(Verdict::new(Code::NotFound, cause.to_string()));
    }
    if let Some(overloaded) = cause.downcast_ref::<Overloaded>() {
        return Some(Verdict {
            retry_after: Some(overloaded.retry_after().unwrap_or(SOON)),
            ..Verdict::new(Code::ResourceExhausted, cause.to_string())
        });
    }
    if cause.is::<GatheredTooMuch>() {
        return Some(Verdict {
            retry_after: Some(SOON),
            ..Verdict::new(Code::ResourceExhausted, cause.to_string())
        });
    }
    if cause.is::<Expired>() {
        return Some(Verdict::new(Code::DeadlineExceeded, cause.to_string()));
    }
    if cause.is::<batch::Interrupted>() {
        return Some(Verdict::new(Code::Unavailable, cause.to_string()));
    }
    if cause.is::<cache::NotCached>() {
        return Some(Verdict {
            // As HTTP has it (RFC 9111, 5.2.1.7); gRPC's code for that would say that time ran out.
            status: Some(StatusCode::GATEWAY_TIMEOUT),
            ..Verdict::new(Code::Unavailable, cause.to_string())
        });
    }
    let unreadable = cause.downcast_ref::<upstream::Unreadable>();
    if cause.is::<TooLarge>() || unreadable.is_some_and(upstream::Unreadable::is_too_large) {
        return Some(Verdict::new(Code::ResourceExhausted, cause.to_string()));
    }
    if cause.is::<body::Error>() {
        return Some(Verdict::new(Code::Cancelled, "the request broke off"));
    }
    let error = cause.downcast_ref::<upstream::Error>()?;
    let (code, reset) = match error.cause() {
        Cause::Http2(error) if error.is_remote() && error.is_reset() => {
            (Code::Unavailable, error.reason())
        }
        Cause::Http2(error) if error.is_remote() && error.is_go_away() => {
            (Code::Unavailable, Some(h2::Reason::REFUSED_STREAM))
        }
        Cause::Body(error) => (Code::Cancelled, Some(error.reason())),
        Cause::Request(_) => (Code::InvalidArgument, None),
        Cause::Expired(_) => (Code::DeadlineExceeded, None),
        _ => (Code::Unavailable, None),
    };
    Some(Verdict {
        reset,
        ..Verdict::new(code, error.to_string())
    })
}

/// Tells whether the caller's message is at fault, or cannot be said in the server's protocol.
fn is_malformed(cause: &(dyn Error + 'static)) -> bool {
    cause.is::<codec::bridge::Unsayable>()
        || cause.is::<codec::feedback::Malformed>()
        || cause.is::<codec::oip_grpc::Malformed>()
        || cause.is::<codec::oip_rest::Malformed>()
        || cause.is::<codec::tfs_grpc::Malformed>()
        || cause.is::<codec::tfs_rest::Malformed>()
        || cause.is::<NoLength>()
        || cause.is::<NotKnown>()
        || cause.is::<NotOneMessage>()
        || cause.is::<Query>()
        || cause.is::<codec::grpc::Undecodable>()
}

fn headers(metadata: &Metadata) -> HeaderMap {
    let mut headers = HeaderMap::new();
    grpc::metadata::append(metadata, &mut headers);
    headers
}

impl Verdict {
    fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            headers: HeaderMap::new(),
            trailers: HeaderMap::new(),
            status: None,
            reset: None,
            retry_after: None,
        }
    }

    /// Makes the verdict for a server that could not be talked to.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Code::Unavailable, message)
    }

    /// Returns the code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// Returns the words.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns the headers with which a gRPC answer ends.
    pub fn into_trailers(self) -> HeaderMap {
        let words = grpc::message::encode(self.shown());
        let mut trailers = self.trailers;
        trailers.insert(
            "grpc-status",
            HeaderValue::from(u16::from(self.code.number())),
        );
        if !self.message.is_empty() {
            trailers.insert("grpc-message", words);
        }
        if let Some(after) = self.retry_after {
            // As gRPC's clients understand it (proposal A6), in milliseconds.
            let millis = after.as_millis().clamp(1, MOST_MILLIS);
            trailers.insert(PUSHBACK, HeaderValue::from(millis as u64));
        }
        trailers
    }

    fn shown(&self) -> &str {
        let mut end = self.message.len().min(SHOWN);
        while !self.message.is_char_boundary(end) {
            end -= 1;
        }
        &self.message[..end]
    }

    /// Ends a gRPC call: with the server's own reset, or with trailers alone.
    pub fn into_grpc(self) -> Outcome {
        if let Some(reason) = self.reset {
            return Outcome::Reset(reason);
        }
        let mut answer = Response::new(Body::empty());
        let mut headers = self.headers.clone();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/grpc"),
        );
        headers.extend(self.into_trailers());
        *answer.headers_mut() = headers;
        *answer.version_mut() = Version::HTTP_2;
        Outcome::Answer(answer)
    }

    /// Ends a call of any other kind with a status and a JSON body, or over HTTP/2 with the
    /// server's own reset.
    pub fn into_http(self, version: Version) -> Outcome {
        if let (Version::HTTP_2, Some(reason)) = (version, self.reset) {
            return Outcome::Reset(reason);
        }
        let mut answer = Response::new(json!({ "error": self.message }).to_string().into());
        *answer.status_mut() = self.status();
        answer.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        if let Some(after) = self.retry_after {
            // In whole seconds (RFC 9110, 10.2.3).
            let seconds = after.as_secs_f64().ceil().max(1.) as u64;
            let seconds = HeaderValue::from(seconds);
            answer.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        Outcome::Answer(answer)
    }

    /// Returns the HTTP status, as TensorFlow Serving maps the codes.
    pub fn status(&self) -> StatusCode {
        if self.reset.is_some() {
            return StatusCode::BAD_GATEWAY;
        }
        if let Some(status) = self.status {
            return status;
        }
        match self.code {
            Code::Ok => StatusCode::OK,
            Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => {
                StatusCode::BAD_REQUEST
            }
            Code::Unauthenticated => StatusCode::UNAUTHORIZED,
            Code::PermissionDenied => StatusCode::FORBIDDEN,
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
            Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            Code::Cancelled => {
                StatusCode::from_u16(499).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
            }
            Code::Internal | Code::Unknown | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
            Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
            Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        }
    }
}

/// What tells gRPC's clients after how many milliseconds to ask again.
const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
/// What is told where it is not known when there is room again.
const SOON: Duration = Duration::from_millis(100);
/// An hour: nothing waits for longer.
const MOST_MILLIS: u128 = 3_600_000;
/// As many bytes of an error are told over gRPC: clients take no more than some kilobytes of
/// trailers, three for each byte that is escaped, and the status would be lost with them.
const SHOWN: usize = 1024;

#[cfg(test)]
mod tests {
    use outrigger_filters::overload::Room;

    use super::*;

    fn refusal() -> Verdict {
        let error = Room::whole(1, 1).reserve(2, 0).expect_err("it is too much");
        verdict(&error)
    }

    #[test]
    fn who_is_refused_for_too_much_load_is_told_when_to_ask_again() {
        let trailers = refusal().into_trailers();
        assert_eq!(trailers["grpc-status"], "8");
        assert_eq!(trailers[PUSHBACK], "100");
        let Outcome::Answer(answer) = refusal().into_http(Version::HTTP_11) else {
            panic!("an answer");
        };
        assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(answer.headers()[header::RETRY_AFTER], "1");
        // Who has run out of time, or reaches nobody, is told nothing of the kind.
        for other in [verdict(&Expired::new()), Verdict::unavailable("gone")] {
            assert!(other.retry_after.is_none());
            assert!(!other.into_trailers().contains_key(PUSHBACK));
        }
    }
}
