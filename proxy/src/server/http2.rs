use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use h2::server::SendResponse;
use http::{Method, Response};
use outrigger_filters::inference::Payload;
use pin_project_lite::pin_project;
use tracing::debug;

use super::{Draining, Handler, Outcome};
use crate::{
    body::{Body, Pump, Stopped},
    io::{Stream, cork},
};

/// Serves an HTTP/2 connection; each stream is a task of the same runtime.
///
/// A drain sends GOAWAY in two steps: first with the highest stream, so that requests on their
/// way are still taken, and after a round trip with the last one taken.
pub(super) async fn serve<H: Handler>(socket: impl Stream, handler: H, draining: Draining) {
    let (corked, uncork) = cork(socket);
    let handshake = builder().handshake::<_, Payload>(corked);
    let mut connection = match uncork.drive(handshake).await {
        Ok(connection) => connection,
        Err(error) => {
            debug!(%error, "handshake failed");
            return;
        }
    };
    let mut begun = std::pin::pin!(draining.begun());
    let mut graceful = false;
    let accept = |cx: &mut Context<'_>| {
        if !graceful && begun.as_mut().poll(cx).is_ready() {
            graceful = true;
            connection.graceful_shutdown();
        }
        connection.poll_accept(cx)
    };
    let mut accept = accept;
    let result = uncork
        .drive(std::future::poll_fn(|cx| {
            loop {
                match accept(cx) {
                    Poll::Ready(Some(Ok((request, respond)))) => {
                        let head = request.method() == Method::HEAD;
                        let request = request.map(|stream| Body::http2(stream, None));
                        let handling = handler.handle(request);
                        let state = State::Handling { handling };
                        tokio::spawn(Exchange {
                            state,
                            respond,
                            head,
                        });
                    }
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                    Poll::Ready(None) => return Poll::Ready(Ok(())),
                    Poll::Pending => return Poll::Pending,
                }
            }
        }))
        .await;
    debug!(
        error = result.err().map(tracing::field::display),
        "connection ended"
    );
}

pin_project! {
    /// Answers one stream. A client that resets it, or whose connection ends, drops the call with
    /// all that it holds.
    ///
    /// Written by hand because it is what every request is spawned as: an `async fn` would hold
    /// the handler's future twice, once as its argument and once pinned.
    struct Exchange<F> {
        #[pin]
        state: State<F>,
        respond: SendResponse<Payload>,
        // The answer to HEAD has no body, whatever its headers say of one.
        head: bool,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F> {
        Handling { #[pin] handling: F },
        Answering { pump: Pump },
    }
}

impl<F: Future<Output = Outcome>> Future for Exchange<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        if let StateProjection::Handling { handling } = this.state.as_mut().project() {
            let answer = match handling.poll(cx) {
                Poll::Ready(Outcome::Answer(answer)) => answer,
                Poll::Ready(Outcome::Reset(reason)) => {
                    this.respond.send_reset(reason);
                    return Poll::Ready(());
                }
                Poll::Pending => return this.respond.poll_reset(cx).map(|_| ()),
            };
            let Some(pump) = begin(answer, this.respond, *this.head) else {
                return Poll::Ready(());
            };
            this.state.set(State::Answering { pump });
        }
        if let StateProjection::Answering { pump } = this.state.project() {
            match ready!(pump.poll(cx)) {
                Ok(()) => {}
                Err(Stopped::Source(error)) => debug!(%error, "answer broke off"),
                Err(Stopped::Sink(error)) => debug!(%error, "client gave up"),
            }
        }
        Poll::Ready(())
    }
}

/// Sends an answer's head; returns the pump of its body, if there is one.
fn begin(answer: Response<Body>, respond: &mut SendResponse<Payload>, head: bool) -> Option<Pump> {
    let (parts, body) = answer.into_parts();
    let ends = head || http_body::Body::is_end_stream(&body);
    match respond.send_response(Response::from_parts(parts, ()), ends) {
        Ok(stream) => (!ends).then(|| Pump::new(body, stream)),
        Err(error) => {
            debug!(%error, "answer not sent");
            respond.send_reset(h2::Reason::INTERNAL_ERROR);
            None
        }
    }
}

fn builder() -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .data_frame_budget(SMALL_FRAMES)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEADERS)
        .max_concurrent_reset_streams(RESETS)
        .max_pending_accept_reset_streams(RESETS);
    builder
}

/// A request's window: what a slow model may leave waiting in memory for one stream.
const STREAM_WINDOW: u32 = 1 << 20;
/// All requests' window on a connection: none of its own, so that uploads which nobody reads stop
/// only themselves.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
/// Overhead of small DATA frames that wait to be read: bounds what a connection's window does not.
const SMALL_FRAMES: usize = 16 << 20;
/// The largest DATA frame taken: a tensor within one frame is sliced out of it without a copy.
const FRAME: u32 = 256 << 10;
/// Streams at the same time on one connection: more callers than a batch has rows on one channel.
const STREAMS: u32 = 4096;
/// Header bytes of one request; gRPC's own servers take 8 to 16 KiB, and some metadata is large.
const HEADERS: u32 = 64 << 10;
/// Streams that were reset and may still receive frames: callers that give up are no attack.
const RESETS: usize = 4096;
