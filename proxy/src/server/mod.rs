//! The side of the proxy that clients see: HTTP/1.1 and HTTP/2 on one port.

mod drain;
mod http1;
mod http2;

use std::{future::Future, time::Duration};

use bytes::BytesMut;
use http::{Request, Response};
use tokio::io::{self, AsyncReadExt as _, AsyncWriteExt as _};
use tracing::debug;

pub use self::drain::{Drain, Draining};
use crate::{
    body::Body,
    io::{Rewind, Stream},
};

/// What answers requests; every failure has become an answer by then, or the reason to reset.
pub trait Handler: Clone + Send + Sync + 'static {
    /// Answers a request. The future owns what it needs: it becomes a task, or part of one.
    fn handle(&self, request: Request<Body>) -> impl Future<Output = Outcome> + Send + 'static;
}

/// How a request ends.
#[derive(Debug)]
pub enum Outcome {
    /// With an answer, perhaps one of ours.
    Answer(Response<Body>),
    /// Without: the stream is reset, so that the client knows what the server said.
    Reset(h2::Reason),
}

/// Serves one connection until it ends, in the version of HTTP in which its client begins.
pub async fn serve<H: Handler>(mut socket: impl Stream, handler: H, draining: Draining) {
    match preface(&mut socket, draining.clone()).await {
        Ok(None) => {
            // Nothing was asked; where there is TLS, its end is said.
            let _ = tokio::time::timeout(FAREWELL, socket.shutdown()).await;
        }
        Ok(Some((first, true))) => {
            http2::serve(Rewind::new(first.freeze(), socket), handler, draining).await;
        }
        Ok(Some((first, false))) => {
            http1::serve(Rewind::new(first.freeze(), socket), handler, draining).await;
        }
        Err(error) => debug!(%error, "connection ended before its first request"),
    }
}

/// Reads until it is clear whether the client begins with HTTP/2's preface.
async fn preface(
    socket: &mut impl Stream,
    draining: Draining,
) -> io::Result<Option<(BytesMut, bool)>> {
    let mut first = BytesMut::with_capacity(PREFACE.len().max(FIRST_READ));
    loop {
        let count = tokio::select! {
            // What is here already is served.
            biased;
            count = socket.read_buf(&mut first) => count?,
            () = draining.begun(), if first.is_empty() => return Ok(None),
        };
        if count == 0 {
            return Ok(None);
        }
        let compared = first.len().min(PREFACE.len());
        if first[..compared] != PREFACE[..compared] {
            return Ok(Some((first, false)));
        }
        if compared == PREFACE.len() {
            return Ok(Some((first, true)));
        }
    }
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long the last bytes may take to a client that asked for nothing.
const FAREWELL: Duration = Duration::from_secs(1);

/// A client's preface, settings and first request mostly arrive together.
const FIRST_READ: usize = 4 << 10;
