use std::{fmt::Write as _, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Response, Version, header};
use outrigger_filters::inference::{self, Error, Form, Payload, SelectionReport};
use tokio::time::Instant;

use super::message::Reply;
use crate::{
    body::Body,
    codec::{
        bridge::{self, Asked},
        grpc::{frame, metadata},
        oip_grpc, oip_rest, tfs_grpc, tfs_rest,
    },
    config::Protocol,
    upstream::Refused,
    wire::{Answer, JSON_LEN},
};

/// Says a response in its caller's protocol.
///
/// # Errors
///
/// Fails where the caller's protocol cannot say it.
pub(super) fn encode(
    mut response: inference::Response,
    reply: Reply,
    asked: &Asked,
    from: Protocol,
    to: Protocol,
    received: Instant,
) -> Result<Response<Body>, Error> {
    let report = std::mem::take(&mut response.report);
    if from != to {
        if response.is_opaque() {
            return Err(NotUnderstood(from).into());
        }
        bridge::response(&mut response, asked, from, to)?;
    }
    let wire = response
        .wire()
        .and_then(|wire| wire.downcast_ref::<Answer>())
        .cloned();
    let mut headers = match &wire {
        Some(answer) => {
            let mut headers = answer.headers.clone();
            // The body is written anew where the caller wants it in another form.
            headers.remove("grpc-encoding");
            headers.remove(header::CONTENT_LENGTH);
            headers
        }
        None => own_headers(&response, from, to),
    };
    report_to(&report, received, &mut headers);
    let mut trailers = None;
    let body = match (reply, wire) {
        (Reply::OipGrpc(wanted), wire) => {
            let message = match wire {
                Some(answer) if oip_grpc::fits(&response, wanted) => frame(answer.body),
                _ => oip_grpc::encode_response(&response, wanted)?,
            };
            trailers = Some(of_grpc(&response, from));
            message
        }
        (Reply::TfservingGrpc(method, signature), wire) => {
            trailers = Some(of_grpc(&response, from));
            match wire {
                Some(answer) => frame(answer.body),
                None => {
                    let form = match from {
                        Protocol::TfservingGrpc => tfs_grpc::form(&response),
                        _ => Form::Typed,
                    };
                    tfs_grpc::encode_response(method, &response, &signature, form)?
                }
            }
        }
        (Reply::OipRest(_) | Reply::TfservingRest(..), Some(answer)) => Payload::from(answer.body),
        (Reply::OipRest(reply), None) => {
            let body = oip_rest::encode_response(&response, &reply)?;
            if let Some(len) = body.json_len {
                headers.insert(JSON_LEN, HeaderValue::from(len));
                headers.insert(
                    header::CONTENT_TYPE,
                    HeaderValue::from_static("application/octet-stream"),
                );
            }
            body.payload
        }
        (Reply::TfservingRest(reply, description, signature), None) => {
            let signature = description
                .as_ref()
                .and_then(|description| description.signature(&signature));
            tfs_rest::encode_response(&response, &reply, signature)?
        }
    };
    if !to.is_grpc() {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    let mut answer = Response::new(Body::full(body, trailers));
    *answer.headers_mut() = headers;
    if to.is_grpc() {
        *answer.version_mut() = Version::HTTP_2;
    }
    Ok(answer)
}

/// Passes a server's refusal on to a caller that speaks REST.
pub(super) fn refused(refusal: &Refused) -> Response<Body> {
    let mut answer = Response::new(Body::full(refusal.body().clone(), None));
    *answer.status_mut() = refusal.status();
    answer.headers_mut().clone_from(refusal.headers());
    answer
}

fn own_headers(response: &inference::Response, from: Protocol, to: Protocol) -> HeaderMap {
    let mut headers = HeaderMap::new();
    metadata::append(&response.headers, &mut headers);
    headers.remove(JSON_LEN);
    if from.is_grpc() != to.is_grpc() {
        retain_own(&mut headers);
    }
    let content_type = if to.is_grpc() {
        "application/grpc"
    } else {
        "application/json"
    };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers
}

/// Removes what a server says of its own transport, where the caller's is another one.
fn retain_own(headers: &mut HeaderMap) {
    let transport: Vec<HeaderName> = headers
        .keys()
        .filter(|name| {
            name.as_str().starts_with("grpc-")
                || matches!(
                    name.as_str(),
                    "accept-encoding" | "allow" | "connection" | "date" | "server" | "vary"
                )
        })
        .cloned()
        .collect();
    for name in transport {
        headers.remove(name);
    }
}

fn of_grpc(response: &inference::Response, from: Protocol) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
    if from.is_grpc() {
        metadata::append(&response.trailers, &mut trailers);
    }
    trailers
}

/// Says in headers what the filters did; nothing where none acted.
fn report_to(report: &inference::Report, received: Instant, headers: &mut HeaderMap) {
    let selection = report.selection.as_deref();
    if report.batch_rows.is_none() && report.cache.is_none() && selection.is_none() {
        return;
    }
    if let Some(selection) = selection {
        selected(selection, headers);
    }
    if let Some(rows) = report.batch_rows {
        headers.insert(BATCH_SIZE, HeaderValue::from(rows));
    }
    if let Some(cache) = &report.cache {
        let result = HeaderValue::from_static(cache.result.name());
        headers.insert(CACHE, result);
        if let Some(age) = cache.age {
            headers.insert(header::AGE, HeaderValue::from(age.as_secs()));
        }
    }
    if let Ok(mut timing) = HeaderValue::try_from(timing(report, received)) {
        // No two answers have the same: in the table of a connection's headers each would push
        // another out, and be compared with all that stand there.
        timing.set_sensitive(true);
        headers.append(SERVER_TIMING, timing);
    }
}

/// Says in milliseconds, to three places, where the time went.
fn timing(report: &inference::Report, received: Instant) -> String {
    let mut timing = String::with_capacity(TIMING);
    for (name, time) in [
        ("queue", report.queue),
        ("upstream", report.upstream),
        ("total", Some(received.elapsed())),
    ] {
        let Some(time) = time else {
            continue;
        };
        let comma = if timing.is_empty() { "" } else { ", " };
        // In whole numbers: a float is printed exactly with far more work.
        let micros = time.saturating_add(Duration::from_nanos(500)).as_micros();
        let micros = u64::try_from(micros).unwrap_or(u64::MAX);
        let (whole, rest) = (micros / 1000, micros % 1000);
        // Writing into a string cannot fail.
        let _ = write!(timing, "{comma}{name};dur={whole}.{rest:03}");
    }
    timing
}

/// Says which arm answered, and what feedback names the answer by.
fn selected(report: &SelectionReport, headers: &mut HeaderMap) {
    let mut say = |name: &'static str, value: Result<HeaderValue, _>| {
        // A name of the configuration may be none that a header can say.
        if let Ok(mut value) = value {
            // No two ids are the same: each would push another header out of HPACK's table.
            value.set_sensitive(name == PREDICTION_ID);
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    if let Some(arm) = &report.arm {
        say("outrigger-arm", HeaderValue::from_str(arm));
    }
    if let Some(id) = &report.prediction_id {
        say(PREDICTION_ID, HeaderValue::from_str(id));
    }
    if let Some(confidence) = report.confidence {
        let said = HeaderValue::try_from(format!("{confidence:.3}"));
        say("outrigger-confidence", said);
    }
    if let Some(default) = report.default {
        say(
            "outrigger-default",
            Ok(HeaderValue::from_static(default.name())),
        );
    }
}

/// What feedback names an answer by.
const PREDICTION_ID: &str = "outrigger-prediction-id";

/// The server's answer is none that its protocol has, so no other protocol can say it.
#[derive(Debug)]
pub(in crate::stack) struct NotUnderstood(Protocol);

impl NotUnderstood {
    pub(super) fn new(protocol: Protocol) -> Self {
        Self(protocol)
    }
}

impl std::fmt::Display for NotUnderstood {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the server's answer is not understood as {}", self.0)
    }
}

impl std::error::Error for NotUnderstood {}

/// The server's answer cannot be told to this caller: neither is at fault alone.
#[derive(Debug)]
pub(super) struct Untold {
    /// Not the source: what is wrong with an answer is no fault of the request.
    cause: Error,
}

impl Untold {
    pub(super) fn new(cause: Error) -> Self {
        Self { cause }
    }
}

impl std::fmt::Display for Untold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the server's answer cannot be told: {}", self.cause)
    }
}

impl std::error::Error for Untold {}

/// Names that are not read and copied anew for each answer.
const BATCH_SIZE: HeaderName = HeaderName::from_static("outrigger-batch-size");
const CACHE: HeaderName = HeaderName::from_static("outrigger-cache");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
/// Room for three times of less than a thousand seconds.
const TIMING: usize = 72;

#[cfg(test)]
mod tests {
    use outrigger_filters::inference::Report;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn times_are_told_in_milliseconds_and_stay_out_of_the_table_of_headers() {
        let received = Instant::now();
        tokio::time::advance(Duration::from_micros(12_345)).await;
        let report = Report {
            batch_rows: Some(3),
            queue: Some(Duration::from_nanos(7_499)),
            upstream: Some(Duration::from_nanos(1_999_999_500)),
            ..Report::default()
        };
        let mut headers = HeaderMap::new();
        report_to(&report, received, &mut headers);
        let timing = &headers["server-timing"];
        assert_eq!(
            timing,
            "queue;dur=0.007, upstream;dur=2000.000, total;dur=12.345"
        );
        assert!(timing.is_sensitive());
        assert_eq!(headers["outrigger-batch-size"], "3");
        assert!(!headers["outrigger-batch-size"].is_sensitive());
    }
}
