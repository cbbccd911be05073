//! HTTP/2 on a socket: from a connection to the calls of the service.

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};

use h2::Reason;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tonic::body::Body;
use tonic::codegen::Service;

use crate::cork::Corked;

/// What connections are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Take calls.
    Serving,
    /// Say goodbye and finish what was begun.
    Draining,
    /// Leave.
    Stopped,
}

/// Travels with a request, so that its handler can cut it off instead of answering.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cut(Arc<OnceLock<Cutting>>);

/// Where a request is cut off.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cutting {
    Stream,
    Connection,
}

#[derive(Debug, Clone)]
struct Calls<S> {
    service: S,
    closed: Arc<Notify>,
}

impl Cut {
    pub(crate) fn off(&self, place: Cutting) {
        // The first one counts.
        let _ = self.0.set(place);
    }
}

/// Serves one connection until either side ends it.
pub(crate) async fn serve<S>(
    socket: TcpStream,
    service: S,
    mut phase: watch::Receiver<Phase>,
    mut hang_up: watch::Receiver<u64>,
) where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
{
    // Whoever hangs up right now gets the delay of small writes at worst.
    let _ = socket.set_nodelay(true);
    let closed = Arc::new(Notify::new());
    let calls = Calls {
        service,
        closed: closed.clone(),
    };
    let connection = Corked::new(socket).drive(|io| {
        http2::Builder::new(TokioExecutor::new())
            .auto_date_header(false)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(MAX_FRAME_SIZE)
            .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
            .max_header_list_size(MAX_HEADERS)
            .max_send_buf_size(MAX_SEND_BUFFER)
            // Clients that cancel a lot are what a proxy is tested with: no limit on either.
            .max_local_error_reset_streams(None)
            .max_pending_accept_reset_streams(MAX_CONCURRENT_STREAMS as usize)
            .serve_connection(TokioIo::new(io), calls)
    });
    let mut connection = pin!(connection);
    let mut told = Phase::Serving;
    // Only what is hung up from here on concerns this connection.
    hang_up.mark_unchanged();
    loop {
        tokio::select! {
            () = &mut connection => return,
            () = closed.notified() => return,
            _ = hang_up.changed() => return,
            now = next(&mut phase, told) => match now {
                Phase::Draining => {
                    connection.connection.as_mut().graceful_shutdown();
                    told = now;
                }
                Phase::Serving | Phase::Stopped => return,
            },
        }
    }
}

/// Waits for another phase than the one that is known; a server that is gone has stopped.
async fn next(phase: &mut watch::Receiver<Phase>, known: Phase) -> Phase {
    let next = phase.wait_for(|phase| *phase != known).await;
    next.map_or(Phase::Stopped, |phase| *phase)
}

impl<S> hyper::service::Service<Request<Incoming>> for Calls<S>
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = h2::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, h2::Error>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let cut = Cut::default();
        request.extensions_mut().insert(cut.clone());
        let closed = self.closed.clone();
        // The generated service is always ready.
        let answer = self.service.clone().call(request);
        Box::pin(async move {
            let Ok(response) = answer.await;
            match cut.0.get() {
                None => Ok(response),
                Some(Cutting::Stream) => Err(Reason::INTERNAL_ERROR.into()),
                Some(Cutting::Connection) => {
                    closed.notify_one();
                    Err(Reason::CANCEL.into())
                }
            }
        })
    }
}

/// Small enough for a stalled stream, large enough for a batch of images.
const STREAM_WINDOW: u32 = 8 << 20;

/// Room for many such streams.
const CONNECTION_WINDOW: u32 = 64 << 20;

/// A large tensor comes in few pieces.
const MAX_FRAME_SIZE: u32 = 1 << 20;

/// More than any test or proxy opens on one connection.
const MAX_CONCURRENT_STREAMS: u32 = 10_000;

/// As much metadata as any gRPC server takes.
const MAX_HEADERS: u32 = 64 << 10;

/// What one stream may have on its way out.
const MAX_SEND_BUFFER: usize = 4 << 20;
