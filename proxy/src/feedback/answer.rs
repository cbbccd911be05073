use bytes::Bytes;
use bytestring::ByteString;
use futures_util::future::join_all;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use outrigger_filters::inference::{Code, Error, Status};
use tracing::debug;

use super::{Applies, Cause};
use crate::{
    body::Body,
    codec::{
        feedback::{
            Rejection, Reply, Report, decode_json, decode_message, encode_json, encode_message,
        },
        grpc::{Encoding, FrameReader, PREFIX, frame},
    },
    detect::is_grpc,
    rescue,
    server::Outcome,
    stack::{Held, NotKnown, NotOneMessage, Route, Whole},
    upstream::encoding,
};

/// Answers a request that [is feedback](super::is_feedback).
pub async fn answer<A: Applies>(applies: &A, route: &Route, request: Request<Body>) -> Outcome {
    let (head, body) = request.into_parts();
    let is_grpc = is_grpc(&head.headers);
    if !is_grpc && head.method != Method::POST {
        return not_allowed();
    }
    let body = match read(route, is_grpc, &head.headers, body).await {
        Read::Whole(body, held) => Ok((body, held)),
        Read::Refused(error) => Err(error),
        Read::Gone => return Outcome::Reset(h2::Reason::CANCEL),
    };
    let told = match body {
        Ok((body, _held)) => {
            let report = message(&head.headers, is_grpc, body, route.max_message)
                .and_then(|message| decode(applies, is_grpc, &message));
            match report {
                Ok(report) => Ok(apply(applies, report).await),
                Err(error) => Err(error),
            }
        }
        Err(error) => Err(error),
    };
    match told {
        Ok(told) if is_grpc => told.into_grpc(),
        Ok(told) => told.into_http(),
        Err(error) => {
            debug!(%error, "no feedback");
            let verdict = rescue::verdict(error.as_ref());
            match is_grpc {
                true => verdict.into_grpc(),
                false => verdict.into_http(head.version),
            }
        }
    }
}

/// What a caller is told, and whether too little became of its report.
#[derive(Debug)]
struct Answer {
    reply: Reply,
    failure: Option<Failure>,
}

/// Why nothing of a report counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Failure {
    /// It never will.
    Refused,
    /// It may later.
    Unavailable,
    /// It may later, when less is told.
    Full,
}

enum Read {
    Whole(Bytes, Held),
    Refused(Error),
    /// The caller left.
    Gone,
}

async fn read(route: &Route, is_grpc: bool, headers: &HeaderMap, mut body: Body) -> Read {
    let most = route.max_message + if is_grpc { PREFIX } else { 0 };
    let mut whole = Whole::new(Held::new(route.gathered.clone(), route.max_gathered));
    let said: Option<usize> = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|len| len.to_str().ok()?.parse().ok());
    let mut len = said.unwrap_or(0);
    loop {
        if len > most {
            let words = format!("a report of {len} bytes is longer than limits.max_message");
            return Read::Refused(Status::new(Code::ResourceExhausted, words).into());
        }
        match body.data().await {
            Ok(Some(data)) => match whole.push(&data) {
                Ok(()) => len = len.max(whole.len()),
                Err(error) => return Read::Refused(error.into()),
            },
            Ok(None) => {
                let (body, held) = whole.finish();
                return Read::Whole(body, held);
            }
            Err(_) => return Read::Gone,
        }
    }
}

/// Takes the message out of its frame, and decompresses it.
fn message(
    headers: &HeaderMap,
    is_grpc: bool,
    body: Bytes,
    max_message: usize,
) -> Result<Bytes, Error> {
    if is_grpc {
        let mut frames = FrameReader::new(max_message);
        frames.push(body);
        let frame = frames.next_frame().ok().flatten();
        let frame = frame.filter(|_| frames.is_empty());
        let frame = frame.ok_or_else(NotOneMessage::new)?;
        let encoding = Encoding::from_headers(headers).unwrap_or_default();
        return Ok(frame.into_message(encoding, max_message)?);
    }
    match encoding(headers) {
        Some(Encoding::Identity) => Ok(body),
        Some(encoding) => Ok(encoding.decompress(body, max_message)?),
        None => Err(NotKnown::new().into()),
    }
}

fn decode<A: Applies>(applies: &A, is_grpc: bool, message: &Bytes) -> Result<Report, Error> {
    Ok(match is_grpc {
        true => decode_message(message)?,
        false => decode_json(message, |model| applies.form(model))?,
    })
}

/// Applies the items, a few at the same time: those by inputs wait for arms.
async fn apply<A: Applies>(applies: &A, report: Report) -> Answer {
    let mut reply = Reply::default();
    let mut failure = Failure::Refused;
    let mut told: Vec<(ByteString, Whose)> = Vec::new();
    let mut index = 0;
    let mut items = report.items.into_iter().peekable();
    while items.peek().is_some() {
        let some = items.by_ref().take(AT_ONCE);
        for result in join_all(some.map(|item| applies.apply(item))).await {
            match result {
                Ok(applied) => {
                    match applied.duplicate {
                        true => reply.duplicates += 1,
                        false => reply.applied += 1,
                    }
                    match told.iter_mut().find(|(model, _)| *model == applied.model) {
                        Some((_, whose)) => whose.also(applied.context),
                        None => told.push((applied.model, Whose::One(applied.context))),
                    }
                }
                Err(rejected) => {
                    let cause = rejected.cause();
                    failure = failure.max(cause.into());
                    reply.rejected.push(Rejection {
                        index,
                        code: cause.as_str(),
                        reason: rejected.into_reason(),
                    });
                }
            }
            index += 1;
        }
    }
    let standings = told.into_iter().map(|(model, whose)| {
        let standings = applies.standings(&model, whose.context());
        (model, standings)
    });
    reply.models = standings.collect();
    let in_vain = reply.applied == 0 && reply.duplicates == 0;
    Answer {
        reply,
        failure: in_vain.then_some(failure),
    }
}

/// Whose states have learned.
enum Whose {
    One(Option<ByteString>),
    Several,
}

impl Whose {
    fn also(&mut self, context: Option<ByteString>) {
        if !matches!(self, Self::One(one) if *one == context) {
            *self = Self::Several;
        }
    }

    fn context(&self) -> Option<&str> {
        match self {
            Self::One(context) => context.as_deref(),
            Self::Several => None,
        }
    }
}

impl Answer {
    fn into_http(self) -> Outcome {
        let mut answer = Response::new(Body::from(encode_json(&self.reply)));
        *answer.status_mut() = match self.failure {
            None => StatusCode::OK,
            Some(Failure::Refused) => StatusCode::UNPROCESSABLE_ENTITY,
            Some(Failure::Unavailable) => StatusCode::SERVICE_UNAVAILABLE,
            Some(Failure::Full) => StatusCode::TOO_MANY_REQUESTS,
        };
        let json = HeaderValue::from_static("application/json");
        answer.headers_mut().insert(header::CONTENT_TYPE, json);
        Outcome::Answer(answer)
    }

    fn into_grpc(self) -> Outcome {
        if let Some(failure) = self.failure {
            let code = match failure {
                Failure::Refused => Code::FailedPrecondition,
                Failure::Unavailable => Code::Unavailable,
                Failure::Full => Code::ResourceExhausted,
            };
            let status = Status::new(code, words(&self.reply.rejected));
            return rescue::verdict(&status).into_grpc();
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let body = Body::full(frame(encode_message(&self.reply)), Some(trailers));
        let mut answer = Response::new(body);
        *answer.version_mut() = Version::HTTP_2;
        let grpc = HeaderValue::from_static("application/grpc");
        answer.headers_mut().insert(header::CONTENT_TYPE, grpc);
        Outcome::Answer(answer)
    }
}

/// Says why none of the items was applied, as far as a status has room for it.
fn words(rejected: &[Rejection]) -> String {
    if let [rejection] = rejected {
        return rejection.reason.clone();
    }
    let count = rejected.len();
    let mut words = format!("none of the {count} items was applied");
    for rejection in rejected.iter().take(TOLD) {
        let Rejection { index, reason, .. } = rejection;
        words.push_str(&format!("; feedback[{index}]: {reason}"));
    }
    words
}

fn not_allowed() -> Outcome {
    let mut answer = Response::new(Body::from(String::from(
        r#"{"error": "feedback is posted"}"#,
    )));
    *answer.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    let headers = answer.headers_mut();
    headers.insert(header::ALLOW, HeaderValue::from_static("POST"));
    let json = HeaderValue::from_static("application/json");
    headers.insert(header::CONTENT_TYPE, json);
    Outcome::Answer(answer)
}

impl From<Cause> for Failure {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Full => Self::Full,
            Cause::Unavailable => Self::Unavailable,
            _ => Self::Refused,
        }
    }
}

/// Items that are applied at the same time: as many calls of arms as a small batch has rows.
const AT_ONCE: usize = 16;

/// Reasons that stand in a status; a client has room for some hundred bytes.
const TOLD: usize = 5;
