use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, header};
use outrigger_filters::inference::{Error, Payload};

use super::super::{
    Model, Route,
    gather::{Gathering, Held, LOOKED_AT, Whole},
};
use crate::{
    body::Body,
    codec::{
        grpc::{self, Encoding, Frame},
        oip_grpc::{self, Peek},
        tfs_grpc,
    },
    config::Protocol,
    detect::Inference,
    upstream::encoding,
};

/// What becomes of a call, as far as its model tells.
pub(super) enum Claim {
    Model(Box<Claimed>),
    /// Untouched: to the model's upstream, if it is known.
    Pass(Option<Arc<Model>>, Body),
    Refused(Option<Arc<Model>>, Error),
    /// The caller left.
    Gone,
}

/// A call for a model of the configuration, read whole.
pub(super) struct Claimed {
    pub(super) model: Arc<Model>,
    /// The message, decompressed and without what frames it, or why there is none.
    pub(super) message: Result<Bytes, Error>,
    /// The body as it came.
    pub(super) original: Payload,
    pub(super) held: Held,
}

/// Reads until the model's name is known, and for a model of the configuration the whole message.
pub(super) async fn claim(
    route: &Route,
    call: &Inference,
    headers: &HeaderMap,
    body: Body,
) -> Claim {
    let Some(target) = &call.target else {
        return claim_grpc(route, call.protocol, headers, body).await;
    };
    match route.models.get(&target.model) {
        Some(model) if call.query && model.primary().upstream().protocol() != call.protocol => {
            Claim::Refused(Some(model.clone()), Query(()).into())
        }
        Some(model) if !call.query && !model.is_plain(call.protocol) => {
            claim_rest(route, model, headers, body).await
        }
        Some(model) => Claim::Pass(Some(model.clone()), body),
        None => match foreign(route, call, &target.model) {
            Some(error) => Claim::Refused(None, error.into()),
            None => Claim::Pass(None, body),
        },
    }
}

/// Refuses a model that is not configured where the listener's server speaks gRPC and the caller
/// does not: nothing good could come of passing that on.
fn foreign(route: &Route, call: &Inference, model: &str) -> Option<NotConfigured> {
    let server = route.upstream.protocol();
    (server.is_grpc() && !call.protocol.is_grpc()).then(|| NotConfigured {
        model: model.to_owned(),
        asked: call.protocol,
        server,
    })
}

async fn claim_rest(
    route: &Route,
    model: &Arc<Model>,
    headers: &HeaderMap,
    mut body: Body,
) -> Claim {
    let mut whole = Whole::new(Held::new(route.gathered.clone(), route.max_gathered));
    let said: Option<usize> = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|len| len.to_str().ok()?.parse().ok());
    let mut len = said.unwrap_or(0);
    loop {
        if len > route.max_message {
            return Claim::Refused(Some(model.clone()), TooLarge::new(len, route).into());
        }
        match body.data().await {
            Ok(Some(data)) => {
                if let Err(error) = whole.push(&data) {
                    return Claim::Refused(Some(model.clone()), error.into());
                }
                len = len.max(whole.len());
            }
            Ok(None) => break,
            Err(_) => return Claim::Gone,
        }
    }
    let (original, held) = whole.finish();
    let message = match encoding(headers) {
        Some(Encoding::Identity) => Ok(original.clone()),
        Some(encoding) => encoding
            .decompress(original.clone(), route.max_message)
            .map_err(Error::from),
        None => Err(NotKnown(()).into()),
    };
    Claim::Model(Box::new(Claimed {
        model: model.clone(),
        message,
        original: original.into(),
        held,
    }))
}

async fn claim_grpc(
    route: &Route,
    protocol: Protocol,
    headers: &HeaderMap,
    mut body: Body,
) -> Claim {
    let held = Held::new(route.gathered.clone(), route.max_gathered);
    let mut gathering = Gathering::new(held);
    let claim = gather(route, protocol, headers, &mut body, &mut gathering).await;
    let (rest, held) = gathering.finish();
    match claim {
        Gathered::Model(model, frame) if rest.is_empty() => {
            let encoding = Encoding::from_headers(headers).unwrap_or_default();
            let message = frame.clone().into_message(encoding, route.max_message);
            Claim::Model(Box::new(Claimed {
                model,
                message: message.map_err(Error::from),
                original: reframed(&frame),
                held,
            }))
        }
        // More than one message: no unary call, whatever it is.
        Gathered::Model(model, frame) => {
            let mut first = reframed(&frame);
            first.append(&rest);
            Claim::Pass(Some(model), Body::chained(held.until_sent(first), body))
        }
        Gathered::Pass(model) => Claim::Pass(model, Body::chained(held.until_sent(rest), body)),
        Gathered::Refused(model, error) => Claim::Refused(model, error),
        Gathered::Gone => Claim::Gone,
    }
}

enum Gathered {
    Model(Arc<Model>, Frame),
    Pass(Option<Arc<Model>>),
    Refused(Option<Arc<Model>>, Error),
    Gone,
}

async fn gather(
    route: &Route,
    protocol: Protocol,
    headers: &HeaderMap,
    body: &mut Body,
    gathering: &mut Gathering,
) -> Gathered {
    let mut claimed: Option<Arc<Model>> = None;
    let mut pushed = Ok(());
    loop {
        if claimed.is_none() {
            match peek(route, protocol, headers, gathering) {
                Peeked::Model(model, _) if model.is_plain(protocol) => {
                    return Gathered::Pass(Some(model));
                }
                Peeked::Model(model, len) if len > route.max_message => {
                    return Gathered::Refused(Some(model), TooLarge::new(len, route).into());
                }
                Peeked::Model(model, _) => claimed = Some(model),
                Peeked::Other => return Gathered::Pass(None),
                Peeked::Unknown => {}
            }
        }
        if let Err(error) = pushed {
            return Gathered::Refused(claimed, Error::from(error));
        }
        if let Some(model) = &claimed
            && let Some(frame) = gathering.next_frame()
        {
            // The end of the stream has mostly come with the message; reading it here keeps a
            // call whose client hangs up before it from being taken for complete.
            return match body.data().await {
                Ok(None) => Gathered::Model(model.clone(), frame),
                Ok(Some(more)) => match gathering.push(&more) {
                    Ok(()) => Gathered::Model(model.clone(), frame),
                    Err(error) => Gathered::Refused(claimed, error.into()),
                },
                Err(_) => Gathered::Gone,
            };
        }
        match body.data().await {
            Ok(Some(data)) => pushed = gathering.push(&data),
            Ok(None) => return Gathered::Pass(claimed),
            Err(_) => return Gathered::Gone,
        }
    }
}

enum Peeked {
    Model(Arc<Model>, usize),
    Other,
    Unknown,
}

fn peek(route: &Route, protocol: Protocol, headers: &HeaderMap, gathering: &Gathering) -> Peeked {
    let front = match gathering.front() {
        Ok(Some(front)) => front,
        Ok(None) => return Peeked::Unknown,
        Err(_) => return Peeked::Other,
    };
    let find = |message: &[u8], len: usize| {
        let found = match protocol {
            Protocol::TfservingGrpc => tfs_grpc::model_name(message, len),
            _ => oip_grpc::model_name(message, len),
        };
        match found {
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
        }
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
fn reframed(frame: &Frame) -> Payload {
    let mut prefix = grpc::prefix(frame.message.len());
    prefix[0] = u8::from(frame.compressed);
    [Bytes::copy_from_slice(&prefix), frame.message.clone()]
        .into_iter()
        .collect()
}

/// A message over the bound.
#[derive(Debug)]
pub struct TooLarge {
    len: usize,
    max_message: usize,
}

impl TooLarge {
    fn new(len: usize, route: &Route) -> Self {
        Self {
            len,
            max_message: route.max_message,
        }
    }
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

/// Nobody behind this listener can be asked for a model in the caller's protocol.
#[derive(Debug)]
pub struct NotConfigured {
    model: String,
    asked: Protocol,
    server: Protocol,
}

impl std::fmt::Display for NotConfigured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            model,
            asked,
            server,
        } = self;
        // As servers of the caller's protocol say it.
        match asked {
            Protocol::TfservingGrpc | Protocol::TfservingRest => {
                write!(f, "Servable not found for request: Latest({model})")
            }
            Protocol::OipGrpc | Protocol::OipRest => {
                write!(f, "Request for unknown model: '{model}' is not found")
            }
        }?;
        write!(
            f,
            "; it is not configured, and the server behind this listener speaks {server}"
        )
    }
}

impl std::error::Error for NotConfigured {}

/// A query stands behind the path of an inference for a server of another protocol.
#[derive(Debug)]
pub struct Query(());

impl std::fmt::Display for Query {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the query behind the path cannot be said to the model's server")
    }
}

impl std::error::Error for Query {}

/// A body is compressed in a way that is not known.
#[derive(Debug)]
pub struct NotKnown(());

impl NotKnown {
    pub(crate) fn new() -> Self {
        Self(())
    }
}

impl std::fmt::Display for NotKnown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("content-encoding: the body is compressed in a way that is not known")
    }
}

impl std::error::Error for NotKnown {}
