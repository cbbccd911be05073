use std::{sync::Arc, time::Duration};

use http::{Request, uri::Authority};
use outrigger_filters::deadline::Expired;

use crate::body::Body;

/// A call that has no answer.
#[derive(Debug)]
pub struct Error {
    endpoint: Option<Authority>,
    cause: Cause,
}

/// What kept a call from its answer.
#[derive(Clone, Debug)]
pub(crate) enum Cause {
    /// No connection could be made.
    Connect(Arc<std::io::Error>),
    /// No connection could be made a moment ago, and none is tried for this long.
    Backoff(Duration, Arc<std::io::Error>),
    /// There are no endpoints.
    NoEndpoint,
    /// The HTTP/2 stream or its connection broke.
    Http2(Arc<h2::Error>),
    /// The HTTP/1.1 connection broke.
    Http1(Arc<hyper::Error>),
    /// The caller's own body broke off.
    Body(Arc<crate::body::Error>),
    /// The request cannot be said in the upstream's protocol.
    Request(Arc<http::Error>),
    /// Its time was up before it could be sent.
    Expired(Expired),
}

/// A failed call, and the request again where the server has surely not seen it.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) cause: Cause,
    pub(crate) unseen: Option<Box<Request<Body>>>,
}

impl Error {
    pub(crate) fn new(endpoint: Option<Authority>, cause: Cause) -> Self {
        Self { endpoint, cause }
    }

    /// Returns the endpoint of the last try, if there was one.
    pub(crate) fn endpoint(&self) -> Option<&Authority> {
        self.endpoint.as_ref()
    }

    pub(crate) fn cause(&self) -> &Cause {
        &self.cause
    }
}

impl Cause {
    /// Tells whether there is no connection to the endpoint.
    pub(crate) fn is_unreachable(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::Backoff(..))
    }

    /// Tells whether the server has surely not begun with the request: it said so, or it closed
    /// the connection for all streams after an earlier one.
    pub(crate) fn is_unseen(&self) -> bool {
        match self {
            Self::Connect(_) => true,
            Self::Http2(error) => {
                error.is_remote()
                    && (error.is_go_away()
                        || error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM))
            }
            _ => false,
        }
    }
}

impl From<Cause> for Failed {
    fn from(cause: Cause) -> Self {
        Self {
            cause,
            unseen: None,
        }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(endpoint) = &self.endpoint {
            write!(f, "endpoint {endpoint}: ")?;
        }
        match &self.cause {
            Cause::Connect(error) => write!(f, "no connection: {error}"),
            Cause::Backoff(left, error) => {
                write!(
                    f,
                    "no connection: {error}; next try in {} ms",
                    left.as_millis()
                )
            }
            Cause::NoEndpoint => f.write_str("the upstream has no endpoints"),
            Cause::Http2(error) => write!(f, "the stream broke: {error}"),
            Cause::Http1(error) => {
                write!(f, "the connection broke: {error}")?;
                // Which end broke it, and why, is a level below: the alert of a server that does
                // not trust us comes when the handshake is over for our side.
                match std::error::Error::source(error.as_ref()) {
                    Some(source) => write!(f, ": {source}"),
                    None => Ok(()),
                }
            }
            Cause::Body(_) => f.write_str("the request broke off"),
            Cause::Request(error) => write!(f, "the request cannot be passed on: {error}"),
            Cause::Expired(_) => f.write_str("the request came too late to be sent"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.cause {
            Cause::Connect(error) | Cause::Backoff(_, error) => Some(error.as_ref()),
            Cause::Http2(error) => Some(error.as_ref()),
            Cause::Http1(error) => Some(error.as_ref()),
            Cause::Body(error) => Some(error.as_ref()),
            Cause::Request(error) => Some(error.as_ref()),
            Cause::Expired(error) => Some(error),
            Cause::NoEndpoint => None,
        }
    }
}
