//! Message bodies on their way through the proxy, whatever transport brought them.

mod error;
mod gate;
mod pump;

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::RecvStream;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use outrigger_filters::inference::Payload;

pub(crate) use self::gate::{Gate, GateKeeper};
pub use self::{
    error::Error,
    pump::{Pump, Stopped},
};
use crate::upstream::{Borrowed, Underway};

/// A body that is read piece by piece and never gathered.
///
/// It is a few words large, because every future between the two sides of the proxy holds one.
///
/// The answer of an HTTP/2 server may begin, and even end, before the request has been sent in
/// full. So the [`Pump`] that still sends the request rides along in the answer's body: whoever
/// polls the answer drives the request, and dropping the answer cancels both.
#[derive(Debug, Default)]
pub struct Body {
    kind: Kind,
    observer: Option<Box<dyn Observer>>,
    /// What an answer's body holds on to until it has been read: its place among the calls under
    /// way, and its connection.
    _underway: Option<Underway>,
    _borrowed: Option<Box<Borrowed>>,
}

/// A body that is here as a whole.
#[derive(Debug)]
struct Full {
    data: Payload,
    trailers: Option<HeaderMap>,
}

/// Is told how a body ends: with trailers or without, or not at all when it is dropped.
pub trait Observer: std::fmt::Debug + Send {
    /// Is called once, at the end of the body.
    fn end(&mut self, trailers: Option<&HeaderMap>);
    /// Is called when reading the body failed; may give trailers to end the body with instead.
    fn fail(&mut self, error: &Error) -> Option<HeaderMap>;
}

#[derive(Debug, Default)]
enum Kind {
    #[default]
    Empty,
    Full(Box<Full>),
    Http2 {
        stream: RecvStream,
        request: Option<Box<Pump>>,
    },
    Http1(Incoming),
    Chained(Box<(Payload, Body)>),
    Gated(Box<(Gate, Body)>),
}

impl Body {
    /// Makes a body without bytes.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Makes a body of bytes that are here already, and trailers.
    pub fn full(data: impl Into<Payload>, trailers: Option<HeaderMap>) -> Self {
        let data = data.into();
        if data.is_empty() && trailers.is_none() {
            return Self::empty();
        }
        Kind::Full(Box::new(Full { data, trailers })).into()
    }

    /// Makes the body of a stream; `request` is what is still to be sent on the same stream.
    pub fn http2(stream: RecvStream, request: Option<Pump>) -> Self {
        // An answer that has ended needs no more of the request.
        if stream.is_end_stream() {
            return Self::empty();
        }
        Kind::Http2 {
            stream,
            request: request.map(Box::new),
        }
        .into()
    }

    /// Makes the body of an HTTP/1.1 message.
    pub fn http1(incoming: Incoming) -> Self {
        if incoming.is_end_stream() {
            return Self::empty();
        }
        Kind::Http1(incoming).into()
    }

    /// Puts bytes that were read already back in front of the rest.
    pub fn chained(first: Payload, rest: Self) -> Self {
        if first.is_empty() {
            return rest;
        }
        Kind::Chained(Box::new((first, rest))).into()
    }

    /// Holds the body back behind a gate, in place of the one behind which it may be.
    pub(crate) fn gated(mut self, gate: Gate) -> Self {
        if let Kind::Gated(gated) = self.kind {
            self = gated.1;
        }
        if self.is_end_stream() {
            return self;
        }
        Kind::Gated(Box::new((gate, self))).into()
    }

    /// Lets an observer know of the end of this body; one that is empty ends at once.
    pub fn observed(mut self, mut observer: Box<dyn Observer>) -> Self {
        if self.is_end_stream() {
            observer.end(None);
        } else {
            self.observer = Some(observer);
        }
        self
    }

    /// Counts as a call under way until it is dropped.
    pub(crate) fn underway(self, underway: Underway) -> Self {
        Self {
            _underway: Some(underway),
            ..self
        }
    }

    /// Gives the connection back when it is dropped.
    pub(crate) fn borrowed(self, borrowed: Borrowed) -> Self {
        Self {
            _borrowed: Some(Box::new(borrowed)),
            ..self
        }
    }

    /// Reads the next piece of data, or `None` at the end of the data.
    ///
    /// # Errors
    ///
    /// Fails when the sender gave up.
    pub async fn data(&mut self) -> Result<Option<Payload>, Error> {
        loop {
            match std::future::poll_fn(|cx| self.poll_piece(cx)).await {
                None | Some(Ok(Piece::Trailers(_))) => return Ok(None),
                Some(Ok(Piece::Data(data))) if data.is_empty() => {}
                Some(Ok(Piece::Data(data))) => return Ok(Some(data)),
                Some(Err(error)) => return Err(error),
            }
        }
    }

    /// Reads the next piece: data, trailers, or nothing at the end.
    pub(crate) fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Piece, Error>>> {
        let mut piece = ready!(self.kind.poll_piece(cx));
        if let Some(observer) = &mut self.observer {
            match &piece {
                None => observer.end(None),
                Some(Ok(Piece::Trailers(trailers))) => observer.end(Some(trailers)),
                Some(Err(error)) => {
                    if let Some(trailers) = observer.fail(error) {
                        self.kind = Kind::Empty;
                        piece = Some(Ok(Piece::Trailers(trailers)));
                    }
                }
                Some(Ok(Piece::Data(_))) if self.kind.is_end_stream() => observer.end(None),
                Some(Ok(Piece::Data(_))) => return Poll::Ready(piece),
            }
            self.observer = None;
        }
        Poll::Ready(piece)
    }
}

/// What a body is made of.
#[derive(Debug)]
pub(crate) enum Piece {
    Data(Payload),
    Trailers(HeaderMap),
}

impl Kind {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Piece, Error>>> {
        match self {
            Self::Empty => Poll::Ready(None),
            Self::Full(full) => Poll::Ready(if full.data.is_empty() {
                let trailers = full.trailers.take();
                *self = Self::Empty;
                trailers.map(|trailers| Ok(Piece::Trailers(trailers)))
            } else {
                Some(Ok(Piece::Data(std::mem::take(&mut full.data))))
            }),
            Self::Http2 { stream, request } => {
                if let Some(pump) = request
                    && let Poll::Ready(outcome) = pump.poll(cx)
                {
                    *request = None;
                    // The server may well answer in full without the rest of the request, so a
                    // stream that takes no more is no fault. A client that gave up is one.
                    if let Err(Stopped::Source(error)) = outcome {
                        return Poll::Ready(Some(Err(error.of_request())));
                    }
                }
                poll_http2(stream, cx)
            }
            Self::Http1(incoming) => {
                Poll::Ready(ready!(Pin::new(incoming).poll_frame(cx)).map(|frame| {
                    match frame?.into_data() {
                        Ok(data) => Ok(Piece::Data(data.into())),
                        Err(frame) => {
                            Ok(Piece::Trailers(frame.into_trailers().unwrap_or_default()))
                        }
                    }
                }))
            }
            Self::Gated(gated) => {
                let (gate, rest) = &mut **gated;
                if !ready!(gate.poll(cx)) {
                    return Poll::Ready(Some(Err(Error::unwanted())));
                }
                *self = std::mem::take(rest).kind;
                self.poll_piece(cx)
            }
            Self::Chained(chained) => {
                let (first, rest) = std::mem::take(&mut **chained);
                *self = rest.kind;
                Poll::Ready(Some(Ok(Piece::Data(first))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(full) => full.data.is_empty() && full.trailers.is_none(),
            Self::Http2 { stream, .. } => stream.is_end_stream(),
            Self::Http1(incoming) => incoming.is_end_stream(),
            Self::Chained(_) | Self::Gated(_) => false,
        }
    }
}

fn poll_http2(stream: &mut RecvStream, cx: &mut Context<'_>) -> Poll<Option<Result<Piece, Error>>> {
    if let Some(data) = ready!(stream.poll_data(cx)) {
        return Poll::Ready(Some(data.map_err(Error::from).and_then(|data| {
            // The window opens again when a piece is taken, and the next piece is taken when this
            // one has been passed on: so a slow reader stops a fast writer at the other end.
            stream.flow_control().release_capacity(data.len())?;
            Ok(Piece::Data(data.into()))
        })));
    }
    let trailers = ready!(stream.poll_trailers(cx))
        .map_err(Error::from)
        .transpose();
    Poll::Ready(trailers.map(|trailers| trailers.map(Piece::Trailers)))
}

impl From<Kind> for Body {
    fn from(kind: Kind) -> Self {
        Self {
            kind,
            observer: None,
            _underway: None,
            _borrowed: None,
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::full(bytes, None)
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Self::full(Bytes::from(text), None)
    }
}

impl http_body::Body for Body {
    type Data = Payload;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Payload>, Error>>> {
        self.poll_piece(cx).map_ok(|piece| match piece {
            Piece::Data(data) => Frame::data(data),
            Piece::Trailers(trailers) => Frame::trailers(trailers),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.kind.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Full(full) => SizeHint::with_exact(full.data.len() as u64),
            Kind::Http1(incoming) => incoming.size_hint(),
            Kind::Gated(gated) => gated.1.size_hint(),
            Kind::Http2 { .. } | Kind::Chained(_) => SizeHint::default(),
        }
    }
}
