use h2::Reason;

/// A body broke off: its sender gave up, or the connection did.
#[derive(Debug)]
pub struct Error(Cause);

#[derive(Debug)]
enum Cause {
    Http2(h2::Error),
    Http1(hyper::Error),
    Unwanted,
}

impl Error {
    /// Makes the end of a body for which the server never asked.
    pub(super) fn unwanted() -> Self {
        Self(Cause::Unwanted)
    }

    /// Returns the reason to give to the other side when its stream is reset for this.
    pub fn reason(&self) -> Reason {
        match &self.0 {
            Cause::Http2(error) => error.reason().unwrap_or(Reason::CANCEL),
            Cause::Http1(_) | Cause::Unwanted => Reason::CANCEL,
        }
    }

    /// Tells whether the connection was lost, rather than the stream reset by its sender.
    pub fn is_connection_lost(&self) -> bool {
        match &self.0 {
            Cause::Http2(error) => error.is_io() || error.is_go_away(),
            Cause::Http1(_) => true,
            Cause::Unwanted => false,
        }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            Cause::Unwanted => "the server never asked for the body",
            Cause::Http2(_) | Cause::Http1(_) => "a body broke off",
        })
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0 {
            Cause::Http2(error) => Some(error),
            Cause::Http1(error) => Some(error),
            Cause::Unwanted => None,
        }
    }
}

impl From<h2::Error> for Error {
    fn from(error: h2::Error) -> Self {
        Self(Cause::Http2(error))
    }
}

impl From<hyper::Error> for Error {
    fn from(error: hyper::Error) -> Self {
        Self(Cause::Http1(error))
    }
}
