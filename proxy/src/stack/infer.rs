use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header, request};
use outrigger_filters::inference;
use tokio::time::Instant;
use tower::ServiceExt as _;
use tracing::debug;

use super::{Model, Route, passthrough, watch::Watch};
use crate::{
    body::Body,
    codec::{
        grpc::{self, Encoding, Frame, FrameReader, metadata},
        oip_grpc::{self, Answer, Call, Peek},
    },
    rescue,
    server::Outcome,
};

/// Answers a `ModelInfer` call: through the model's stack where the configuration names the
/// model, and by the listener's upstream, untouched, where it does not or where the message is
/// not understood.
pub(super) async fn infer(route: &Arc<Route>, request: Request<Body>) -> Outcome {
    let received = Instant::now();
    let (mut head, mut body) = request.into_parts();
    let mut watch = Watch::grpc(route.grpc.clone());
    let mut reader = FrameReader::new(usize::MAX);
    let claim = claim(route, &head.headers, &mut body, &mut reader).await;
    let (model, frame) = match claim {
        Claim::Model(model, frame) => (model, frame),
        Claim::Pass => {
            let first = reader.into_chunks().collect();
            let request = restored(head, first, body);
            return passthrough::pass_watched(route.clone(), request, watch).await;
        }
        Claim::TooLarge(model, len) => {
            watch.count_with(model.requests());
            let error = TooLarge {
                len,
                max_message: route.max_message,
            };
            return refused(&mut watch, &error);
        }
        Claim::Gone => return Outcome::Reset(h2::Reason::CANCEL),
    };
    if !reader.is_empty() {
        // More than one message: no unary call, whatever it is.
        let mut first = reframed(&frame);
        reader.into_chunks().for_each(|chunk| first.push(chunk));
        let request = restored(head, first, body);
        return passthrough::pass_watched(route.clone(), request, watch).await;
    }
    let encoding = Encoding::from_headers(&head.headers).unwrap_or_default();
    let Ok(message) = frame.clone().into_message(encoding, route.max_message) else {
        let request = restored(head, reframed(&frame), body);
        return passthrough::pass_watched(route.clone(), request, watch).await;
    };
    let call = Call {
        headers: std::mem::take(&mut head.headers),
        message,
        received,
    };
    let request = match oip_grpc::decode_request(call) {
        Ok(request) => model.without_ignored_headers(request),
        Err(rejected) => {
            debug!(cause = %rejected.cause(), "passed on unread");
            head.headers = rejected.into_message().headers;
            let request = restored(head, reframed(&frame), body);
            return passthrough::pass_watched(route.clone(), request, watch).await;
        }
    };
    watch.count_with(model.requests());
    let wanted = oip_grpc::form(&request);
    match model.stack().oneshot(request).await {
        Ok(response) => Outcome::Answer(watch.answered(encode(&response, wanted, received))),
        Err(error) => refused(&mut watch, error.as_ref()),
    }
}

/// What becomes of a call, as far as the beginning of its message tells.
enum Claim {
    Model(Arc<Model>, Frame),
    TooLarge(Arc<Model>, usize),
    Pass,
    Gone,
}

/// Reads until the model's name is known, and for a model of the configuration the whole message.
async fn claim(
    route: &Route,
    headers: &HeaderMap,
    body: &mut Body,
    reader: &mut FrameReader,
) -> Claim {
    let mut claimed: Option<Arc<Model>> = None;
    loop {
        if claimed.is_none() {
            match peek(route, headers, reader) {
                Peeked::Model(model, len) if len > route.max_message => {
                    return Claim::TooLarge(model, len);
                }
                Peeked::Model(model, _) => claimed = Some(model),
                Peeked::Other => return Claim::Pass,
                Peeked::Unknown => {}
            }
        }
        if let Some(model) = &claimed
            && let Ok(Some(frame)) = reader.next_frame()
        {
            // The end of the stream has mostly come with the message; reading it here keeps a
            // call whose client hangs up before it from being taken for complete.
            return match body.data().await {
                Ok(None) => Claim::Model(model.clone(), frame),
                Ok(Some(more)) => {
                    more.pieces().for_each(|piece| reader.push(piece.clone()));
                    Claim::Model(model.clone(), frame)
                }
                Err(_) => Claim::Gone,
            };
        }
        match body.data().await {
            Ok(Some(data)) => data.pieces().for_each(|piece| reader.push(piece.clone())),
            Ok(None) => return Claim::Pass,
            Err(_) => return Claim::Gone,
        }
    }
}

enum Peeked {
    Model(Arc<Model>, usize),
    Other,
    Unknown,
}

fn peek(route: &Route, headers: &HeaderMap, reader: &FrameReader) -> Peeked {
    let front = match reader.front() {
        Ok(Some(front)) => front,
        Ok(None) => return Peeked::Unknown,
        Err(_) => return Peeked::Other,
    };
    let find = |message: &[u8], len: usize| match oip_grpc::model_name(message, len) {
        Peek::Found(name) => {
            let name = message
                .get(name)
                .and_then(|name| std::str::from_utf8(name).ok());
            match name.and_then(|name| route.models.get(name)) {
                Some(model) => Peeked::Model(model.clone(), len),
                None => Peeked::Other,
            }
        }
        // Clients write the name first; one that has not come by here is not waited for.
        Peek::Incomplete if front.prefix.len() >= LOOKED_AT => Peeked::Other,
        Peek::Incomplete => Peeked::Unknown,
        Peek::Absent | Peek::Malformed => Peeked::Other,
    };
    if !front.compressed {
        return find(&front.prefix, front.len);
    }
    // The name of a compressed message shows when all of it is here; what cannot be read, or is
    // too long to be read, is not ours.
    if front.len > route.max_message {
        return Peeked::Other;
    }
    let Some(frame) = reader.peek_frame() else {
        return Peeked::Unknown;
    };
    let Some(encoding) = Encoding::from_headers(headers) else {
        return Peeked::Other;
    };
    match frame.into_message(encoding, route.max_message) {
        Ok(message) => find(message.as_ref(), message.len()),
        Err(_) => Peeked::Other,
    }
}

/// Puts a message's frame together again as it came.
fn reframed(frame: &Frame) -> inference::Payload {
    let mut prefix = grpc::prefix(frame.message.len());
    prefix[0] = u8::from(frame.compressed);
    [Bytes::copy_from_slice(&prefix), frame.message.clone()]
        .into_iter()
        .collect()
}

fn restored(head: request::Parts, first: inference::Payload, rest: Body) -> Request<Body> {
    Request::from_parts(head, Body::chained(first, rest))
}

fn refused(watch: &mut Watch, error: &(dyn std::error::Error + 'static)) -> Outcome {
    debug!(%error, "no answer");
    let verdict = rescue::verdict(error);
    watch.count_grpc(verdict.code());
    verdict.into_grpc()
}

fn encode(
    response: &inference::Response,
    wanted: inference::Form,
    received: Instant,
) -> Response<Body> {
    let wire = response
        .wire()
        .and_then(|wire| wire.downcast_ref::<Answer>());
    let mut headers = match wire {
        Some(answer) => {
            let mut headers = answer.headers.clone();
            headers.remove("grpc-encoding");
            headers
        }
        None => {
            let mut headers = HeaderMap::new();
            headers.insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/grpc"),
            );
            metadata::append(&response.headers, &mut headers);
            headers
        }
    };
    report(&response.report, received, &mut headers);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    metadata::append(&response.trailers, &mut trailers);
    let mut answer = Response::new(Body::full(
        oip_grpc::encode_response(response, wanted),
        Some(trailers),
    ));
    *answer.headers_mut() = headers;
    *answer.version_mut() = http::Version::HTTP_2;
    answer
}

/// Says in headers what the filters did; nothing where none acted.
fn report(report: &inference::Report, received: Instant, headers: &mut HeaderMap) {
    let Some(rows) = report.batch_rows else {
        return;
    };
    headers.insert("outrigger-batch-size", HeaderValue::from(rows));
    let milliseconds = |time: std::time::Duration| time.as_secs_f64() * 1e3;
    let mut timing = String::new();
    for (name, time) in [
        ("queue", report.queue),
        ("upstream", report.upstream),
        ("total", Some(received.elapsed())),
    ] {
        if let Some(time) = time {
            let comma = if timing.is_empty() { "" } else { ", " };
            // Writing into a string cannot fail.
            let _ = std::fmt::Write::write_fmt(
                &mut timing,
                format_args!("{comma}{name};dur={:.3}", milliseconds(time)),
            );
        }
    }
    if let Ok(timing) = HeaderValue::from_str(&timing) {
        headers.append("server-timing", timing);
    }
}

/// Bytes of a message among which the model's name is looked for: as many as a look at the front
/// of a message that comes in small pieces shows.
const LOOKED_AT: usize = 1024;

/// A message over the bound.
#[derive(Debug)]
pub struct TooLarge {
    len: usize,
    max_message: usize,
}

impl std::fmt::Display for TooLarge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "a message of {} bytes is longer than limits.max_message, which is {} bytes",
            self.len, self.max_message
        )
    }
}

impl std::error::Error for TooLarge {}
