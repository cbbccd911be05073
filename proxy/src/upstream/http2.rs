use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
};

use h2::client::SendRequest;
use http::{Request, Response};
use outrigger_filters::inference::Payload;
use tokio::io;
use tracing::debug;

use super::{
    error::{Cause, Failed},
    load::Load,
};
use crate::{
    body::{Body, Pump, Stopped},
    io::{BoxStream, Once, cork},
};

/// An HTTP/2 connection to an endpoint, and the task that drives it.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    sender: SendRequest<Payload>,
    closed: Arc<AtomicBool>,
    load: Arc<Load>,
}

impl Connection {
    /// Greets the endpoint, waits for its greeting, which says how many streams it takes, and
    /// spawns the connection's task on the current runtime.
    ///
    /// Without that wait a burst on a new connection would be refused but for the first few.
    pub(crate) async fn open(socket: BoxStream, endpoint: &Arc<Load>) -> io::Result<Self> {
        let (corked, uncork) = cork(Once::new(socket));
        let handshake = builder().handshake::<_, Payload>(corked);
        let (sender, mut connection) = uncork.drive(handshake).await.map_err(io::Error::other)?;
        let greeted = std::future::poll_fn(|cx| match Pin::new(&mut connection).poll(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(io::Error::other(error))),
            Poll::Pending if sender.current_max_send_streams() > 0 => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        });
        uncork.drive(greeted).await?;
        let closed = Arc::new(AtomicBool::new(false));
        tokio::spawn({
            let closed = closed.clone();
            async move {
                let result = uncork.drive(connection).await;
                closed.store(true, Ordering::Relaxed);
                debug!(
                    error = result.err().map(tracing::field::display),
                    "connection ended"
                );
            }
        });
        Ok(Self {
            sender,
            closed,
            load: Load::connection(endpoint),
        })
    }

    /// Tells whether the connection takes no more calls.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Tells whether the endpoint allows one more stream at the same time.
    pub(crate) fn has_room(&self) -> bool {
        self.load.calls() < self.sender.current_max_send_streams()
    }

    /// Returns the calls under way.
    pub(crate) fn calls(&self) -> usize {
        self.load.calls()
    }

    /// Sends a request and waits for the head of its answer; the bodies go on beside each other.
    pub(crate) async fn call(
        mut self,
        mut request: Box<Request<Body>>,
    ) -> Result<Response<Body>, Failed> {
        let underway = self.load.begin();
        if let Err(error) = std::future::poll_fn(|cx| self.sender.poll_ready(cx)).await {
            return Err(self.unsent(error, request));
        }
        let body = std::mem::take(request.body_mut());
        let ends = http_body::Body::is_end_stream(&body);
        let (mut answer, stream) = match self.sender.send_request(head(&request), ends) {
            Ok(sent) => sent,
            Err(error) => {
                *request.body_mut() = body;
                return Err(self.unsent(error, request));
            }
        };
        let mut pump = if ends {
            None
        } else {
            Some(Pump::repeatable(body, stream))
        };
        let mut pumping = !ends;
        let answered = std::future::poll_fn(|cx| {
            if pumping && let Some(pump) = &mut pump {
                match pump.poll(cx) {
                    Poll::Ready(Err(Stopped::Source(error))) => {
                        return Poll::Ready(Err(Cause::Body(Arc::new(error))));
                    }
                    // Where the server takes no more of the request, its answer says why.
                    Poll::Ready(Ok(()) | Err(Stopped::Sink(_))) => pumping = false,
                    Poll::Pending => {}
                }
            }
            Pin::new(&mut answer)
                .poll(cx)
                .map_err(|error| Cause::Http2(Arc::new(error)))
        })
        .await;
        let cause = match answered {
            Ok(answer) => {
                let request = pump.filter(|_| pumping);
                return Ok(answer.map(|stream| Body::http2(stream, request).underway(underway)));
            }
            Err(cause) => cause,
        };
        if matches!(&cause, Cause::Http2(error) if !error.is_reset()) {
            self.closed.store(true, Ordering::Relaxed);
        }
        let body = match pump {
            _ if !cause.is_unseen() => None,
            None => Some(Body::empty()),
            Some(pump) => pump.into_body(),
        };
        let unseen = body.map(|body| {
            *request.body_mut() = body;
            request
        });
        Err(Failed { cause, unseen })
    }

    /// A connection that ended takes no more calls, and another may; a request that HTTP/2 cannot
    /// carry is refused by any.
    fn unsent(&self, error: h2::Error, request: Box<Request<Body>>) -> Failed {
        let ended = error.is_io() || error.is_go_away();
        if ended {
            self.closed.store(true, Ordering::Relaxed);
        }
        Failed {
            cause: Cause::Http2(Arc::new(error)),
            unseen: ended.then_some(request),
        }
    }
}

/// Copies a request's head for the transport, which consumes it; the original is kept for the case
/// that the server refuses the stream unseen.
fn head(request: &Request<Body>) -> Request<()> {
    let mut head = Request::new(());
    *head.method_mut() = request.method().clone();
    *head.uri_mut() = request.uri().clone();
    *head.version_mut() = request.version();
    *head.headers_mut() = request.headers().clone();
    head
}

fn builder() -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder
        .enable_push(false)
        // None until the endpoint has said how many.
        .initial_max_send_streams(0)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .data_frame_budget(SMALL_FRAMES)
        .max_frame_size(FRAME)
        .max_concurrent_reset_streams(RESETS)
        // Callers that hang up are no fault of the endpoint's: the library's own limit (1024 in
        // the life of a connection) would close the connection under everyone else.
        .max_local_error_reset_streams(None);
    builder
}

/// An answer's window: what a slow reader may leave waiting in memory for one stream, and four of
/// a kernel's socket buffers, so that a large answer does not wait for round trips.
const STREAM_WINDOW: u32 = 256 << 10;
/// All answers' window on a connection: none of its own. One connection carries the answers of all
/// clients of a worker, and with a common window sixteen readers that stop would stop everyone.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
/// Overhead of small DATA frames that wait to be read: bounds what a connection's window does not.
const SMALL_FRAMES: usize = 64 << 20;
/// The largest DATA frame taken: one frame for an image of 224x224x3 bytes, and the tensor is
/// sliced out of it without a copy.
const FRAME: u32 = 256 << 10;
/// Streams that were reset here and may still receive frames.
const RESETS: usize = 4096;
