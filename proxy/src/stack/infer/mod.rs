//! Inference calls: claimed for the models of the configuration, and answered by their stacks.

mod answer;
mod ask;
mod claim;
mod directives;
mod explain;
mod message;
#[cfg(test)]
mod tests;
mod timeout;

use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use http::{HeaderMap, Request, Uri, Version, uri::PathAndQuery};
use outrigger_filters::{
    deadline::{Expired, Stage, by},
    inference::{self, DefaultReason, Error, Form, Head, RequestParts},
};
use tokio::time::Instant;
use tower::Service as _;
use tracing::debug;

pub(super) use self::{
    answer::NotUnderstood,
    ask::{Asked as AskedArm, NotServed},
};
use self::{
    claim::{Claim, Claimed},
    message::{Understood, read},
};
pub use self::{
    claim::{NotConfigured, NotKnown, Query, TooLarge},
    timeout::NoTimeout,
};
use super::{Arm, Model, Route, passthrough, selection::expired_at, watch::Watch};
use crate::{
    body::Body,
    codec::{
        bridge::{self, Asked},
        grpc::metadata,
    },
    config::Protocol,
    detect::Inference,
    rescue,
    server::Outcome,
    upstream::{Refused, rest_path},
    wire,
};

/// Answers an inference call: through the model's stack where the configuration names the model,
/// and untouched where it does not or where the message is not understood: by the model's upstream
/// where that is known, by the listener's otherwise.
///
/// Between protocols nothing can go untouched: what is not understood is refused.
pub(super) async fn infer(route: &Arc<Route>, call: Inference, request: Request<Body>) -> Outcome {
    let received = Instant::now();
    let (mut head, body) = request.into_parts();
    let mut watch = if call.protocol.is_grpc() {
        Watch::grpc(route.grpc.clone())
    } else {
        Watch::http(route.http.clone())
    };
    let claimed = match claim::claim(route, &call, &head.headers, body).await {
        Claim::Model(claimed) => *claimed,
        Claim::Pass(None, body) => {
            let request = Request::from_parts(head, body);
            return passthrough::pass_watched(route.upstream.clone(), request, watch).await;
        }
        Claim::Pass(Some(model), body) => {
            return unread(&model, &call, Request::from_parts(head, body), watch, None).await;
        }
        Claim::Refused(model, error) => {
            if let Some(model) = model {
                watch.count_with(model.requests(call.protocol));
            }
            return refused(&mut watch, call.protocol, head.version, error.as_ref());
        }
        Claim::Gone => return Outcome::Reset(h2::Reason::CANCEL),
    };
    let Claimed {
        model,
        message,
        original,
        mut held,
    } = claimed;
    watch.count_with(model.requests(call.protocol));
    let timeout = match timeout::take(&mut head.headers, call.protocol.is_grpc()) {
        Ok(timeout) => timeout,
        Err(error) => return refused(&mut watch, call.protocol, head.version, &error),
    };
    let deadline = model.deadline(received, timeout);
    let arm = model.primary();
    let understood = match message {
        Ok(message) => match held.grow(message.len()) {
            Ok(()) => {
                let understood = {
                    let understanding =
                        understand(arm, &call, &head.headers, &message, route.max_message);
                    // The server may have to be asked what its model takes.
                    by(deadline, std::pin::pin!(understanding)).await.ok()
                };
                let Some(understood) = understood else {
                    let expired = Expired::new();
                    model.expired(expired.stage(), deadline);
                    return refused(&mut watch, call.protocol, head.version, &expired);
                };
                understood.map(|understood| (understood, message))
            }
            Err(error) => return refused(&mut watch, call.protocol, head.version, &error),
        },
        Err(cause) => Err(cause),
    };
    let (understood, message) = match understood {
        Ok(understood) => understood,
        Err(cause) => {
            let body = Body::full(held.until_sent(original), None);
            let request = Request::from_parts(head, body);
            return unread(&model, &call, request, watch, Some(cause)).await;
        }
    };
    // Of a compressed message, what it was compressed to is of no more use.
    drop(original);
    let Understood {
        mut parts,
        reply,
        json_len,
        description,
    } = understood;
    let len = match (&call.target, json_len) {
        // What was read out of JSON stands beside it.
        (Some(_), None) => message.len() + parts.payload_len(),
        _ => message.len(),
    };
    let explains = explain::take_question(&mut head.headers);
    if arm.has_cache() {
        // They are for the cache alone: two requests that differ in nothing else are the same.
        parts.head.cache = directives::take(&mut head.headers);
    }
    if let Some(selection) = model.selection() {
        parts.head.context = selection.context(&head.headers);
    }
    parts.head.deadline = deadline;
    parts.head.metadata = metadata::of_call(&head.headers);
    let wire = Arc::new(wire::Call {
        inference: call.clone(),
        headers: std::mem::take(&mut head.headers),
        body: message,
        json_len,
        description,
        max_message: route.max_message,
        said: None,
    });
    let mut request =
        inference::Request::from_wire(parts, wire.clone(), len).with_origin(wire.clone());
    request.sort_inputs();
    let request = arm.without_ignored_headers(request);
    if let Err(error) = held.grow(request.held_len()) {
        return refused(&mut watch, call.protocol, head.version, &error);
    }
    let asked = Asked::of(&request);
    let answered = match model.selection() {
        Some(selection) => selection.ask(request).await,
        // What comes too late for its caller may be in time for the next one.
        None if deadline.is_some() && arm.has_cache() => {
            let mut asked = AskedArm::new(arm.clone(), arm.clone(), false);
            let held = request.held_len();
            let answer = by(deadline, asked.call(request.that_may_be_late())).await;
            answer.unwrap_or_else(|call| {
                model.late().go_on(held, async move { drop(call.await) });
                Err(Expired::new().into())
            })
        }
        None => {
            let answer = std::pin::pin!(ask::ask(arm, request, &wire));
            let in_time = by(deadline, answer).await;
            in_time.unwrap_or_else(|_| Err(Expired::new().into()))
        }
    };
    let expired = match &answered {
        // Who was refused before its time was up has not used it up.
        Ok(response) => (is_default(response) && deadline.is_some_and(|at| at <= Instant::now()))
            .then_some(Stage::Upstream),
        Err(error) => expired_at(error.as_ref()),
    };
    // The answer is out in a moment; what is still to be written is short.
    if let Some(stage) = expired {
        model.expired(stage, deadline);
    }
    let answered = match answered {
        Ok(response) => {
            let back = model.answered_by(&response).upstream().protocol();
            let explanation = explains.then(|| explain::explain(&response.report));
            answer::encode(response, reply, &asked, back, call.protocol, received)
                .map(|mut answer| {
                    if let Some(explanation) = explanation {
                        answer.headers_mut().insert(explain::EXPLAIN, explanation);
                    }
                    answer
                })
                .map_err(|cause| answer::Untold::new(cause).into())
        }
        Err(error) => Err(error),
    };
    match answered {
        Ok(answer) => Outcome::Answer(watch.answered(answer)),
        Err(error) => {
            let outcome = refused(&mut watch, call.protocol, head.version, error.as_ref());
            match outcome {
                Outcome::Answer(mut answer) if explains => {
                    let explanation = explain::refusal(error.as_ref());
                    answer.headers_mut().insert(explain::EXPLAIN, explanation);
                    Outcome::Answer(answer)
                }
                outcome => outcome,
            }
        }
    }
}

/// Passes a call that was not read on to the model's server, where that can go untouched or, over
/// REST, under the name that the model has there; otherwise refuses it for the cause.
async fn unread(
    model: &Model,
    call: &Inference,
    mut request: Request<Body>,
    mut watch: Box<Watch>,
    cause: Option<Error>,
) -> Outcome {
    let arm = model.primary();
    let server = arm.upstream().protocol();
    watch.count_with(model.requests(call.protocol));
    let target = call.target.as_ref().filter(|_| arm.is_renamed());
    if server != call.protocol || arm.is_renamed() && target.is_none() {
        let cause = cause.unwrap_or_else(|| NotOneMessage(()).into());
        return refused(&mut watch, call.protocol, request.version(), cause.as_ref());
    }
    if let Some(cause) = cause {
        debug!(%cause, "passed on unread");
    }
    if let Some(target) = target {
        let (name, version) = arm.served_as();
        let pinned = !version.is_empty();
        let head = Head {
            model: name.into(),
            version: if pinned {
                version.into()
            } else {
                target.version.clone()
            },
            label: if pinned {
                ByteString::new()
            } else {
                target.label.clone()
            },
            method: call.method,
            ..Head::default()
        };
        let mut uri = std::mem::take(request.uri_mut()).into_parts();
        let query = uri.path_and_query.as_ref().and_then(PathAndQuery::query);
        let mut path = rest_path(server, &head);
        if let Some(query) = query {
            path = format!("{path}?{query}");
        }
        // A path that was escaped is one.
        uri.path_and_query = PathAndQuery::try_from(path).ok();
        *request.uri_mut() = Uri::from_parts(uri).unwrap_or_default();
    }
    passthrough::pass_watched(arm.upstream().clone(), request, watch).await
}

/// Reads a message as an inference that the model's server can be asked.
async fn understand(
    arm: &Arm,
    call: &Inference,
    headers: &HeaderMap,
    message: &Bytes,
    max_message: usize,
) -> Result<Understood, Error> {
    let server = arm.upstream().protocol();
    let describe = async |version: &str, label: &str| {
        let described = arm.description(call.protocol, version, label);
        described.await
    };
    // Over REST the path names the version, and over gRPC the message, which needs no description.
    let (mut understood, description) = match &call.target {
        Some(target) => {
            let description = describe(&target.version, &target.label).await?;
            let wanted = arm.form(description.as_deref());
            let mut understood = read(
                call,
                headers,
                message,
                description.clone(),
                server,
                wanted,
                max_message,
            )?;
            let head = &mut understood.parts.head;
            head.model.clone_from(&target.model);
            head.version.clone_from(&target.version);
            head.label.clone_from(&target.label);
            (understood, description)
        }
        None => {
            let form = arm.form(None);
            let understood = read(call, headers, message, None, server, form, max_message)?;
            let head = &understood.parts.head;
            let description = describe(&head.version, &head.label).await?;
            (understood, description)
        }
    };
    let wanted = arm.form(description.as_deref());
    understood.description = description;
    let parts = &mut understood.parts;
    say_for(arm, parts, call.protocol, wanted, max_message)?;
    Ok(understood)
}

/// Says a request in the words of an arm's server.
fn say_for(
    arm: &Arm,
    parts: &mut RequestParts,
    caller: Protocol,
    wanted: Form,
    max_message: usize,
) -> Result<(), Error> {
    if arm.pins_version() {
        parts.head.label = ByteString::new();
        parts.head.version = ByteString::new();
    }
    let server = arm.upstream().protocol();
    Ok(bridge::request(parts, caller, server, wanted, max_message)?)
}

/// Tells whether an answer is the default output because the time was up.
fn is_default(response: &inference::Response) -> bool {
    let selection = response.report.selection.as_ref();
    selection.is_some_and(|selection| selection.default == Some(DefaultReason::Deadline))
}

/// Tells a caller in its own protocol why there is no answer; one that speaks the server's gets the
/// server's own refusal as it came.
fn refused(
    watch: &mut Watch,
    protocol: Protocol,
    version: Version,
    error: &(dyn std::error::Error + 'static),
) -> Outcome {
    debug!(%error, "no answer");
    let verdict = rescue::verdict(error);
    if protocol.is_grpc() {
        watch.count_grpc(verdict.code());
        return verdict.into_grpc();
    }
    let refusal = std::iter::successors(Some(error), |error| error.source())
        .find_map(|error| error.downcast_ref::<Refused>())
        .filter(|refusal| refusal.protocol() == protocol);
    if let Some(refusal) = refusal {
        watch.count_http(refusal.status());
        return Outcome::Answer(answer::refused(refusal));
    }
    watch.count_http(verdict.status());
    verdict.into_http(version)
}

/// A call that should have one message has none, a broken one or several.
#[derive(Debug)]
pub struct NotOneMessage(());

impl NotOneMessage {
    pub(crate) fn new() -> Self {
        Self(())
    }
}

impl std::fmt::Display for NotOneMessage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the call has not exactly one whole message")
    }
}

impl std::error::Error for NotOneMessage {}
