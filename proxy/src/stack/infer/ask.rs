use std::{
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;
use outrigger_filters::{
    batch::Alone,
    inference::{Code, Error, Form, Request, RequestParts, Response},
};
use tower::{Service, ServiceExt as _};

use super::{super::Arm, answer::NotUnderstood, explain, message::Understood, say_for, understand};
use crate::{codec::bridge, config::Protocol, upstream::verdict, wire};

/// An arm as a service: it takes requests that were read for another one, too.
#[derive(Clone, Debug)]
pub(in crate::stack) struct Asked {
    arm: Arc<Arm>,
    /// The arm that requests are read for.
    primary: Arc<Arm>,
    /// Whether its answers are put together with those of servers that speak something else.
    is_joined: bool,
}

impl Asked {
    /// Makes an arm one of those of a model.
    pub(in crate::stack) fn new(arm: Arc<Arm>, primary: Arc<Arm>, is_joined: bool) -> Self {
        Self {
            arm,
            primary,
            is_joined,
        }
    }
}

impl Service<Request> for Asked {
    type Response = Response;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Response, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        // The arm's filters are: each refuses at once what it has no place for.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let Self {
            arm,
            primary,
            is_joined,
        } = self.clone();
        Box::pin(async move {
            let origin = request.origin().cloned();
            let call = origin.as_ref().and_then(|origin| origin.downcast_ref());
            let call: &wire::Call = call.ok_or(Homeless(()))?;
            let by_version = !request.head.version.is_empty() || !request.head.label.is_empty();
            // Servers do not find shared memory either that a caller has not registered.
            let by_memory = request
                .inputs
                .iter()
                .any(|input| input.form == Form::Absent);
            let by_caller = by_version && !arm.pins_version() || by_memory;
            let is_like = arm.reads_like(&primary, call.inference.protocol);
            let mut answer = if is_like && call.said.is_none() {
                ask(&arm, request, call).await
            } else {
                let head = &request.head;
                let asked = arm.description(call.inference.protocol, &head.version, &head.label);
                if let Err(error) = asked.await {
                    return Err(match by_caller {
                        true => error,
                        false => NotServed(error).into(),
                    });
                }
                let (request, call) = read_again(&arm, &request, call).await?;
                ask(&arm, request, &call).await
            };
            if let (true, Ok(response)) = (is_joined, &mut answer) {
                bridge::in_bytes(response, arm.upstream().protocol());
            }
            // A version that a caller makes up is none of the arm's faults.
            answer.map_err(|error| match NotServed::is(&error) && !by_caller {
                true => NotServed(error).into(),
                false => error,
            })
        })
    }
}

/// Asks an arm, as though there were no other one.
pub(super) async fn ask(
    arm: &Arm,
    mut request: Request,
    call: &wire::Call,
) -> Result<Response, Error> {
    let back = arm.upstream().protocol();
    // A server that takes bytes answers in text who asks in text. Of such answers some rows would be
    // stored as text and others, which were asked for without their neighbours, as bytes: the two
    // do not go together in one answer.
    let is_said_anew = arm.has_cache()
        && back == Protocol::OipRest
        && arm.form(call.description.as_deref()) == Form::Raw;
    if is_said_anew {
        request = request.without_wire();
    }
    let mut is_kept_out = false;
    if arm.has_cache() {
        let is_watched = arm.watches(&request.head.label);
        is_kept_out = !is_watched && !request.head.cache.no_store;
        if is_kept_out {
            request = request.never_stored();
        }
    }
    let (stack, is_merged) = arm.stack(&request.head.version, &request.head.label);
    let unlike = arm.is_renamed() && !call.inference.protocol.is_grpc();
    let mut response = stack.oneshot(request).await?;
    // It answers a message that the proxy wrote, maybe in another form than the caller's.
    if unlike && response.is_opaque() {
        return Err(NotUnderstood::new(back).into());
    }
    if is_said_anew {
        response = response.without_wire();
    }
    // What its caller did not ask for is not said to be asked for.
    if is_kept_out
        && let Some(cache) = &mut response.report.cache
        && cache.reason == Some("no_store")
    {
        cache.reason = Some(explain::LABEL);
    }
    if !is_merged {
        response.report.batch_reason = Some(Alone::Unbatchable.name());
    }
    Ok(response)
}

/// Reads a call's message once more, for an arm whose server takes another form.
async fn read_again(
    arm: &Arm,
    request: &Request,
    call: &wire::Call,
) -> Result<(Request, Arc<wire::Call>), Error> {
    if let Some(said) = &call.said {
        let mut parts = (**said).clone();
        let description = arm.description(call.inference.protocol, "", "").await?;
        let wanted = arm.form(description.as_deref());
        let caller = call.inference.protocol;
        say_for(arm, &mut parts, caller, wanted, call.max_message)?;
        say_without_bytes(arm, &mut parts, call).await?;
        let call = Arc::new(wire::Call {
            description,
            ..call.clone()
        });
        let mut read = Request::from(parts).with_origin(call.clone());
        read.sort_inputs();
        return Ok((read, call));
    }
    let Understood {
        mut parts,
        json_len,
        description,
        ..
    } = understand(
        arm,
        &call.inference,
        &call.headers,
        &call.body,
        call.max_message,
    )
    .await?;
    let head = &request.head;
    parts.head.metadata = head.metadata.clone();
    parts.head.cache = head.cache;
    parts.head.context.clone_from(&head.context);
    parts.head.deadline = head.deadline;
    parts.head.may_be_late = head.may_be_late;
    let len = call.body.len() + parts.payload_len();
    let call = Arc::new(wire::Call {
        json_len,
        description,
        ..call.clone()
    });
    let request = match say_without_bytes(arm, &mut parts, &call).await? {
        true => Request::from(parts),
        false => Request::from_wire(parts, call.clone(), len),
    };
    let mut request = request.with_origin(call.clone());
    request.sort_inputs();
    Ok((request, call))
}

/// Makes text of bytes for a server of REST that takes none, where another arm's does; tells whether
/// there were any.
async fn say_without_bytes(
    arm: &Arm,
    parts: &mut RequestParts,
    call: &wire::Call,
) -> Result<bool, Error> {
    let server = arm.upstream().protocol();
    let is_raw = parts.inputs.iter().any(|input| input.form == Form::Raw);
    if server != Protocol::OipRest || call.inference.protocol != server || !is_raw {
        return Ok(false);
    }
    let known = arm.learned().wait().await.ok();
    let wanted = arm.form(known.as_deref());
    Ok(bridge::in_text(parts, server, wanted, call.max_message)?)
}

/// The server of an arm does not have its model.
#[derive(Debug)]
pub(in crate::stack) struct NotServed(Error);

impl NotServed {
    fn is(error: &Error) -> bool {
        let first: &(dyn std::error::Error + 'static) = &**error;
        std::iter::successors(Some(first), |&cause| cause.source())
            .find_map(verdict)
            .is_some_and(|status| status.code() == Code::NotFound)
    }
}

impl std::fmt::Display for NotServed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the arm's server does not serve its model")
    }
}

impl std::error::Error for NotServed {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.0)
    }
}

/// A request came by no call: there is nothing to read.
#[derive(Debug)]
struct Homeless(());

impl std::fmt::Display for Homeless {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the request came by no call")
    }
}

impl std::error::Error for Homeless {}
