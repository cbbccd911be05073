use std::task::{Context, Poll, ready};

use h2::{Reason, SendStream};
use outrigger_filters::inference::Payload;

use super::{Body, Error, Piece};

/// Sends a body on an HTTP/2 stream, as fast as the stream's reader takes it.
///
/// It holds one piece at a time. Dropping it before its end resets the stream.
#[derive(Debug)]
pub struct Pump {
    body: Body,
    stream: SendStream<Payload>,
    /// A piece, or the rest of one, for which the stream has had no room.
    waiting: Payload,
    /// The waiting piece is the last one.
    last: bool,
    /// What was sent so far, while that is little enough to be sent again on another connection.
    sent: Option<Payload>,
}

/// Why a pump stopped before the end.
#[derive(Debug)]
pub enum Stopped {
    /// The body broke off.
    Source(Error),
    /// The stream takes no more.
    Sink(h2::Error),
}

impl Pump {
    /// Makes a pump for an answer, which is never sent twice.
    pub fn new(body: Body, stream: SendStream<Payload>) -> Self {
        Self {
            body,
            stream,
            waiting: Payload::new(),
            last: false,
            sent: None,
        }
    }

    /// Makes a pump for a request, which may have to be sent again on another connection.
    pub fn repeatable(body: Body, stream: SendStream<Payload>) -> Self {
        Self {
            sent: Some(Payload::new()),
            ..Self::new(body, stream)
        }
    }

    /// Returns the whole body again, or `None` where too much of it has been let go of.
    pub fn into_body(self) -> Option<Body> {
        let mut first = self.sent?;
        first.append(&self.waiting);
        Some(Body::chained(first, self.body))
    }

    /// Resets the stream.
    pub fn reset(&mut self, reason: Reason) {
        self.stream.send_reset(reason);
    }

    /// Sends what can be sent now. `Ready` at the end of the body, or when one side stopped.
    ///
    /// # Errors
    ///
    /// Fails when the body breaks off, in which case the stream is reset for the same reason, and
    /// when the stream's reader resets it.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stopped>> {
        loop {
            while !self.waiting.is_empty() {
                self.stream.reserve_capacity(self.waiting.len());
                let mut room = self.stream.capacity();
                if room == 0 {
                    room = match ready!(self.stream.poll_capacity(cx)) {
                        Some(room) => room.map_err(Stopped::Sink)?,
                        None => return Poll::Ready(Err(self.reset_reason(cx))),
                    };
                }
                let count = room.min(self.waiting.len());
                let Some(part) = self.waiting.split_to(count) else {
                    break;
                };
                self.keep(&part);
                let last = self.last && self.waiting.is_empty();
                self.stream.send_data(part, last).map_err(Stopped::Sink)?;
                if last {
                    return Poll::Ready(Ok(()));
                }
            }
            let piece = match self.body.poll_piece(cx) {
                Poll::Ready(piece) => piece,
                Poll::Pending => {
                    return match self.stream.poll_reset(cx) {
                        Poll::Ready(Ok(reason)) => Poll::Ready(Err(Stopped::Sink(reason.into()))),
                        Poll::Ready(Err(error)) => Poll::Ready(Err(Stopped::Sink(error))),
                        Poll::Pending => Poll::Pending,
                    };
                }
            };
            match piece {
                Some(Ok(Piece::Data(data))) => {
                    self.waiting = data;
                    self.last = http_body::Body::is_end_stream(&self.body);
                    if self.waiting.is_empty() && self.last {
                        return Poll::Ready(self.end());
                    }
                }
                Some(Ok(Piece::Trailers(trailers))) => {
                    return Poll::Ready(self.stream.send_trailers(trailers).map_err(Stopped::Sink));
                }
                None => return Poll::Ready(self.end()),
                Some(Err(error)) => {
                    self.stream.send_reset(error.reason());
                    return Poll::Ready(Err(Stopped::Source(error)));
                }
            }
        }
    }

    fn end(&mut self) -> Result<(), Stopped> {
        self.stream
            .send_data(Payload::new(), true)
            .map_err(Stopped::Sink)
    }

    fn keep(&mut self, part: &Payload) {
        if let Some(sent) = &mut self.sent {
            if sent.len() + part.len() <= REPEATABLE {
                sent.append(part);
            } else {
                self.sent = None;
            }
        }
    }

    fn reset_reason(&mut self, cx: &mut Context<'_>) -> Stopped {
        Stopped::Sink(match self.stream.poll_reset(cx) {
            Poll::Ready(Ok(reason)) => reason.into(),
            Poll::Ready(Err(error)) => error,
            Poll::Pending => Reason::STREAM_CLOSED.into(),
        })
    }
}

/// Bytes of a request that are kept so that it can be sent again when a server refuses it
/// unseen: enough for the ordinary inference, and 32 MiB for 512 large ones.
const REPEATABLE: usize = 64 << 10;
