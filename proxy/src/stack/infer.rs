use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header, request};
use outrigger_filters::inference;
use tokio::time::Instant;
use tower::ServiceExt as _;
use tracing::debug;

use super::{
    Model, Route,
    gather::{GatheredTooMuch, Gathering, Held, LOOKED_AT},
    passthrough,
    watch::Watch,
};
use crate::{
    body::Body,
    codec::{
        grpc::{self, Encoding, Frame, metadata, timeout},
        oip_grpc::{self, Peek},
    },
    rescue,
    server::Outcome,
    upstream::{Answer, Call},
};

/// Answers a `ModelInfer` call: through the model's stack where the configuration names the
/// model, and untouched where it does not or where the message is not understood: by the model's
/// upstream where that is known, by the listener's otherwise.
pub(super) async fn infer(route: &Arc<Route>, request: Request<Body>) -> Outcome {
    let received = Instant::now();
    let (mut head, mut body) = request.into_parts();
    let mut watch = Watch::grpc(route.grpc.clone());
    let held = Held::new(route.gathered.clone(), route.max_gathered);
    let mut gathering = Gathering::new(held);
    let claim = claim(route, &head.headers, &mut body, &mut gathering).await;
    let (rest, mut held) = gathering.finish();
    let (model, frame) = match claim {
        Claim::Model(model, frame) => (model, frame),
        Claim::Pass(model) => {
            let upstream = model
                .as_ref()
                .map_or(&route.upstream, |model| model.upstream());
            let request = restored(head, held.until_sent(rest), body);
            return passthrough::pass_watched(upstream.clone(), request, watch).await;
        }
        Claim::Refused(model, error) => {
            if let Some(model) = model {
                watch.count_with(model.requests());
            }
            return refused(&mut watch, error.as_ref());
        }
        Claim::Gone => return Outcome::Reset(h2::Reason::CANCEL),
    };
    if !rest.is_empty() {
        // More than one message: no unary call, whatever it is.
        let mut first = reframed(&frame);
        first.append(&rest);
        let request = restored(head, held.until_sent(first), body);
        return passthrough::pass_watched(model.upstream().clone(), request, watch).await;
    }
    let encoding = Encoding::from_headers(&head.headers).unwrap_or_default();
    let Ok(message) = frame.clone().into_message(encoding, route.max_message) else {
        let request = restored(head, held.until_sent(reframed(&frame)), body);
        return passthrough::pass_watched(model.upstream().clone(), request, watch).await;
    };
    let request = match oip_grpc::decode_request(&message) {
        Ok(mut parts) => {
            let headers = std::mem::take(&mut head.headers);
            parts.head.deadline =
                timeout::of_call(&headers).and_then(|timeout| received.checked_add(timeout));
            parts.head.metadata = metadata::of_call(&headers);
            let len = message.len();
            let call = Call { headers, message };
            let request = inference::Request::from_wire(parts, Arc::new(call), len);
            model.without_ignored_headers(request)
        }
        Err(cause) => {
            debug!(%cause, "passed on unread");
            let request = restored(head, held.until_sent(reframed(&frame)), body);
            return passthrough::pass_watched(model.upstream().clone(), request, watch).await;
        }
    };
    watch.count_with(model.requests());
    // Of a compressed message, what it was compressed to is of no more use.
    drop(frame);
    if let Err(error) = held.grow(request.held_len()) {
        return refused(&mut watch, &error);
    }
    let wanted = oip_grpc::form(&request);
    match model.stack().oneshot(request).await {
        Ok(response) => match encode(&response, wanted, received) {
            Ok(answer) => Outcome::Answer(watch.answered(answer)),
            Err(error) => refused(&mut watch, &error),
        },
        Err(error) => refused(&mut watch, error.as_ref()),
    }
}

/// What becomes of a call, as far as the beginning of its message tells.
enum Claim {
    Model(Arc<Model>, Frame),
    /// Of the model's upstream, if it is known.
    Pass(Option<Arc<Model>>),
    Refused(Option<Arc<Model>>, inference::Error),
    Gone,
}

/// Reads until the model's name is known, and for a model of the configuration the whole message.
async fn claim(
    route: &Route,
    headers: &HeaderMap,
    body: &mut Body,
    gathering: &mut Gathering,
) -> Claim {
    let mut claimed: Option<Arc<Model>> = None;
    let mut pushed: Result<(), GatheredTooMuch> = Ok(());
    loop {
        if claimed.is_none() {
            match peek(route, headers, gathering) {
                Peeked::Model(model, len) if len > route.max_message => {
                    let error = TooLarge {
                        len,
                        max_message: route.max_message,
                    };
                    return Claim::Refused(Some(model), error.into());
                }
                Peeked::Model(model, _) => claimed = Some(model),
                Peeked::Other => return Claim::Pass(None),
                Peeked::Unknown => {}
            }
        }
        if let Err(error) = pushed {
            return Claim::Refused(claimed, error.into());
        }
        if let Some(model) = &claimed
            && let Some(frame) = gathering.next_frame()
        {
            // The end of the stream has mostly come with the message; reading it here keeps a
            // call whose client hangs up before it from being taken for complete.
            return match body.data().await {
                Ok(None) => Claim::Model(model.clone(), frame),
                Ok(Some(more)) => match gathering.push(&more) {
                    Ok(()) => Claim::Model(model.clone(), frame),
                    Err(error) => Claim::Refused(claimed, error.into()),
                },
                Err(_) => Claim::Gone,
            };
        }
        match body.data().await {
            Ok(Some(data)) => pushed = gathering.push(&data),
            Ok(None) => return Claim::Pass(claimed),
            Err(_) => return Claim::Gone,
        }
    }
}

enum Peeked {
    Model(Arc<Model>, usize),
    Other,
    Unknown,
}

fn peek(route: &Route, headers: &HeaderMap, gathering: &Gathering) -> Peeked {
    let front = match gathering.front() {
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
    let Some(frame) = gathering.peek_frame() else {
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
) -> Result<Response<Body>, oip_grpc::Malformed> {
    let wire = response
        .wire()
        .and_then(|wire| wire.downcast_ref::<Answer>());
    let message = match wire {
        Some(answer) if oip_grpc::fits(response, wanted) => grpc::frame(answer.message.clone()),
        _ => oip_grpc::encode_response(response, wanted)?,
    };
    let mut headers = match wire {
        Some(answer) => {
            let mut headers = answer.headers.clone();
            // The body is written anew where the caller wants it in another form.
            headers.remove("grpc-encoding");
            headers.remove(header::CONTENT_LENGTH);
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
    let mut answer = Response::new(Body::full(message, Some(trailers)));
    *answer.headers_mut() = headers;
    *answer.version_mut() = http::Version::HTTP_2;
    Ok(answer)
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
