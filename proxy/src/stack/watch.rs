use std::sync::Arc;

use http::{HeaderMap, Response, StatusCode};
use outrigger_filters::inference::Code;

use super::control::Seen;
use crate::{
    body::{self, Body, Observer},
    rescue,
    telemetry::{Requests, Timer},
};

/// Counts one request, however it ends: with trailers, with a status, broken off, or dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    requests: Arc<Requests>,
    timer: Timer,
    kind: Kind,
    counted: bool,
    /// Who wants to know how it ends, where it may change the server's models.
    control: Option<Seen>,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Grpc,
    Http(Option<StatusCode>),
}

impl Watch {
    /// Starts the clock of a gRPC request.
    pub(crate) fn grpc(requests: Arc<Requests>) -> Box<Self> {
        Box::new(Self {
            requests,
            timer: Timer::start(),
            kind: Kind::Grpc,
            counted: false,
            control: None,
        })
    }

    /// Starts the clock of a request of another kind.
    pub(crate) fn http(requests: Arc<Requests>) -> Box<Self> {
        Box::new(Self {
            requests,
            timer: Timer::start(),
            kind: Kind::Http(None),
            counted: false,
            control: None,
        })
    }

    /// Counts the request with others from here on, once it is known which they are.
    pub(crate) fn count_with(&mut self, requests: &Arc<Requests>) {
        self.requests.clone_from(requests);
    }

    /// Tells of the request's steps, too, one that may change the server's models.
    pub(super) fn telling(mut self: Box<Self>, control: Seen) -> Box<Self> {
        self.control = Some(control);
        self
    }

    /// Watches an answer to its end.
    pub(crate) fn answered(mut self: Box<Self>, answer: Response<Body>) -> Response<Body> {
        if let Some(control) = &self.control {
            control.answered();
        }
        match &mut self.kind {
            // Trailers alone: what ends the call stands in its head.
            Kind::Grpc => {
                if let Some(code) = status(answer.headers()) {
                    self.count_grpc(code);
                    self.end_control(code == Code::Ok);
                }
            }
            Kind::Http(status) => *status = Some(answer.status()),
        }
        answer.map(|body| body.observed(self))
    }

    /// Counts a gRPC request that ended with a code.
    pub(crate) fn count_grpc(&mut self, code: Code) {
        if !self.counted {
            self.counted = true;
            self.requests.ended_grpc(code, &self.timer);
        }
    }

    /// Counts a request of another kind that ended with a status.
    pub(crate) fn count_http(&mut self, status: StatusCode) {
        if !self.counted {
            self.counted = true;
            self.requests.ended_http(status, &self.timer);
        }
    }
}

impl Watch {
    fn end_control(&mut self, well: bool) {
        if let Some(mut control) = self.control.take() {
            control.ended(well);
        }
    }

    /// Counts a request whose caller left.
    fn count_left(&mut self) {
        match self.kind {
            Kind::Grpc => self.count_grpc(Code::Cancelled),
            Kind::Http(_) => {
                let closed = StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST);
                self.count_http(closed);
            }
        }
    }
}

impl Observer for Watch {
    fn end(&mut self, trailers: Option<&HeaderMap>) {
        let well = match self.kind {
            Kind::Grpc => {
                let code = trailers.and_then(status).unwrap_or(Code::Unknown);
                self.count_grpc(code);
                code == Code::Ok
            }
            Kind::Http(status) => {
                let status = status.unwrap_or(StatusCode::OK);
                self.count_http(status);
                status.is_success() && status != StatusCode::ACCEPTED
            }
        };
        self.end_control(well);
    }

    /// A gRPC call whose server is gone ends with UNAVAILABLE, as it would have without us; a
    /// stream that the server reset is reset with the same reason.
    fn fail(&mut self, error: &body::Error) -> Option<HeaderMap> {
        match self.kind {
            _ if error.is_of_request() => {
                self.count_left();
                None
            }
            Kind::Grpc if error.is_connection_lost() => {
                self.count_grpc(Code::Unavailable);
                Some(
                    rescue::Verdict::unavailable("the connection to the server broke")
                        .into_trailers(),
                )
            }
            Kind::Grpc => {
                self.count_grpc(Code::Unavailable);
                None
            }
            Kind::Http(_) => {
                self.count_http(StatusCode::BAD_GATEWAY);
                None
            }
        }
    }
}

impl Drop for Watch {
    /// The caller left before the end.
    fn drop(&mut self) {
        self.count_left();
    }
}

fn status(headers: &HeaderMap) -> Option<Code> {
    let status = headers.get("grpc-status")?.to_str().ok()?;
    Some(status.parse().map_or(Code::Unknown, Code::from_number))
}
