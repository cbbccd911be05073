use std::convert::Infallible;

use http::Request;
use hyper::{body::Incoming, server::conn::http1::Builder, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tracing::debug;

use super::{Draining, Handler, Outcome};
use crate::{body::Body, io::Stream};

/// Serves an HTTP/1.1 connection.
pub(super) async fn serve<H: Handler>(socket: impl Stream, handler: H, draining: Draining) {
    let service = service_fn(|request: Request<Incoming>| {
        let handler = handler.clone();
        async move {
            match handler.handle(request.map(Body::http1)).await {
                Outcome::Answer(answer) => Ok(answer),
                Outcome::Reset(reason) => Err(Reset(reason)),
            }
        }
    });
    let connection = Builder::new()
        // A client that closes has left: its call ends with it.
        .half_close(false)
        // An answer without a date came without one.
        .auto_date_header(false)
        .timer(TokioTimer::new())
        // A client may take its time: no hidden time-out.
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(socket), service);
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = draining.begun() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        debug!(%error, "connection ended");
    }
}

/// HTTP/1.1 has no reset: the connection closes instead.
#[derive(Debug)]
struct Reset(h2::Reason);

impl std::fmt::Display for Reset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "reset: {}", self.0)
    }
}

impl std::error::Error for Reset {}

impl From<Infallible> for Reset {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}
