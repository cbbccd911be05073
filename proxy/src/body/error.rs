use std::sync::Arc;

use h2::Reason;

use crate::upstream;

/// A body broke off: its sender gave up, or the connection did.
#[derive(Debug)]
pub struct Error {
    cause: Cause,
    of_request: bool,
}

#[derive(Debug)]
enum Cause {
    Http2(h2::Error),
    Http1(hyper::Error),
    Unwanted,
}

impl Error {
    /// Makes the end of a body for which the server never asked.
    pub(super) fn unwanted() -> Self {
        Self {
            cause: Cause::Unwanted,
            of_request: false,
        }
    }

    /// Says that it was the request which broke off, found while its answer was being read.
    pub(crate) fn of_request(self) -> Self {
        Self {
            of_request: true,
            ..self
        }
    }

    /// Tells whether it was the request which broke off: the client is gone, not the server.
    pub fn is_of_request(&self) -> bool {
        self.of_request
    }

    /// Returns the reason to give to the other side when its stream is reset for this.
    pub fn reason(&self) -> Reason {
        match &self.cause {
            Cause::Http2(error) => error.reason().unwrap_or(Reason::CANCEL),
            Cause::Http1(_) | Cause::Unwanted => Reason::CANCEL,
        }
    }

    /// Tells whether the connection was lost, rather than the stream reset by its sender.
    pub fn is_connection_lost(&self) -> bool {
        match &self.cause {
            Cause::Http2(error) => error.is_io() || error.is_go_away(),
            Cause::Http1(_) => true,
            Cause::Unwanted => false,
        }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.cause {
            Cause::Unwanted => "the server never asked for the body",
            Cause::Http2(_) | Cause::Http1(_) => "a body broke off",
        })
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.cause {
            Cause::Http2(error) => Some(error),
            Cause::Http1(error) => Some(error),
            Cause::Unwanted => None,
        }
    }
}

/// What broke an answer is what broke the call.
impl From<Error> for upstream::Cause {
    fn from(error: Error) -> Self {
        match error.cause {
            Cause::Http2(error) => Self::Http2(Arc::new(error)),
            Cause::Http1(error) => Self::Http1(Arc::new(error)),
            Cause::Unwanted => Self::Body(Arc::new(error)),
        }
    }
}

impl From<h2::Error> for Error {
    fn from(error: h2::Error) -> Self {
        Self {
            cause: Cause::Http2(error),
            of_request: false,
        }
    }
}

impl From<hyper::Error> for Error {
    fn from(error: hyper::Error) -> Self {
        Self {
            cause: Cause::Http1(error),
            of_request: false,
        }
    }
}
