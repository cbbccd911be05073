use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use bytestring::ByteString;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use http::{HeaderMap, Request};
use outrigger_filters::inference::{Code, Error, Payload, Status};
use tracing::debug;

use super::{
    answer::Answer,
    call::{Aspect, Call, Question, Target},
    oip, tfserving,
};
use crate::{
    body::{self, Body},
    codec::{
        grpc::{Encoding, FrameReader},
        oip_grpc::control::ModelRequest,
        tfs_grpc::control,
    },
    config::Protocol,
    rescue,
    server::Outcome,
    stack::{Arm, Model, Route, passthrough, watch::Watch},
    upstream::{Description, Served, Upstream, describe, is_ready},
};

/// Answers a control call, or passes it on as it is to whoever can.
pub(in crate::stack) async fn answer(
    route: Arc<Route>,
    call: Call,
    request: Request<Body>,
) -> Outcome {
    let version = request.version();
    let is_grpc = call.protocol.is_grpc();
    let mut watch = match is_grpc {
        true => Watch::grpc(route.grpc.clone()),
        false => Watch::http(route.http.clone()),
    };
    let (head, mut body) = request.into_parts();
    let mut read = Payload::new();
    let message = match is_grpc {
        true => match message(&head.headers, &mut body, &mut read).await {
            Ok(message) => message,
            Err(_) => return Outcome::Reset(h2::Reason::CANCEL),
        },
        false => None,
    };
    let answered = match responder(&route, &call, message) {
        Responder::Upstream(upstream) => {
            let request = Request::from_parts(head, Body::chained(read, body));
            return passthrough::pass_watched(upstream, request, watch).await;
        }
        Responder::Server(question) => Ok(of_server(&route, call.protocol, question).await),
        // A server of KServe's speaks several protocols on one port, and describes nothing in the
        // one that it is configured with.
        Responder::Model(about) if !is_grpc && about.is_untold().await => {
            let request = Request::from_parts(head, Body::chained(read, body));
            let upstream = about.model.primary().upstream().clone();
            return passthrough::pass_watched(upstream, request, watch).await;
        }
        Responder::Model(about) => of_model(call.protocol, &about).await,
        Responder::Nobody(status) => Err(status.into()),
    };
    match answered {
        Ok(answer) => Outcome::Answer(watch.answered(answer.into_response())),
        Err(error) => {
            debug!(%error, "no answer to a control call");
            let verdict = rescue::verdict(error.as_ref());
            if is_grpc {
                watch.count_grpc(verdict.code());
                verdict.into_grpc()
            } else {
                watch.count_http(verdict.status());
                verdict.into_http(version)
            }
        }
    }
}

/// Who answers a call.
#[derive(Debug)]
pub(super) enum Responder {
    /// A server, which gets the call as it came.
    Upstream(Arc<Upstream>),
    /// The proxy, in a server's stead.
    Server(Question),
    /// The proxy, as far as the model's server tells it.
    Model(About),
    /// The proxy, by refusing.
    Nobody(Status),
}

/// A question about a model of the configuration.
#[derive(Debug)]
pub(super) struct About {
    model: Arc<Model>,
    aspect: Aspect,
    target: Target,
}

impl About {
    /// Tells whether the caller asks what the model takes, and the server, which also speaks REST,
    /// does not say it in its protocol. Under another name than the server's nobody else could.
    async fn is_untold(&self) -> bool {
        let [arm] = self.model.arms() else {
            return false;
        };
        self.aspect == Aspect::Metadata
            && !arm.is_renamed()
            && !arm.upstream().protocol().is_grpc()
            && (arm.learned().wait().await).is_ok_and(|known| known.signatures.is_empty())
    }
}

/// Decides who answers; the message is `None` where it cannot be read.
pub(super) fn responder(route: &Route, call: &Call, message: Option<Bytes>) -> Responder {
    let pass = || Responder::Upstream(route.upstream.clone());
    let spoken = route.upstream.protocol();
    let foreign = !route.models.is_empty() && call.protocol != spoken;
    let (aspect, named) = match &call.question {
        Question::Model(aspect, named) => (*aspect, named),
        Question::Health if spoken.is_grpc() => return pass(),
        Question::Health if message.as_ref().is_some_and(is_strange) => {
            return Responder::Nobody(Status::new(Code::NotFound, "no such service"));
        }
        question if foreign => return Responder::Server(question.clone()),
        _ => return pass(),
    };
    let (target, fields) = match (named, message) {
        (Some(target), _) => (target.clone(), None),
        (None, Some(message)) => match Target::of(call.protocol, &message) {
            Some(asked) => asked,
            None => return pass(),
        },
        (None, None) => return pass(),
    };
    let Some(model) = route.models.get(&target.name) else {
        return pass();
    };
    let arm = model.primary();
    let same = call.protocol == arm.upstream().protocol();
    let (served, _) = arm.served_as();
    // No server knows what several arms are together.
    let renamed = *target.name != *served || model.arms().len() > 1;
    match (aspect, fields) {
        // What its server says goes for the model under this name too.
        _ if same && !renamed => Responder::Upstream(arm.upstream().clone()),
        (Aspect::Internals, _) if same => pass(),
        (Aspect::Internals, _) => Responder::Nobody(Status::new(
            Code::Unimplemented,
            format!(
                "model {} is served by {}, which does not say this",
                target.name,
                arm.upstream().protocol()
            ),
        )),
        (Aspect::Metadata, Some(fields)) if let Some(refusal) = tfserving::refusal(&fields) => {
            Responder::Nobody(refusal)
        }
        _ if !target.label.is_empty() && knows_no_labels(arm) => Responder::Nobody(Status::new(
            Code::InvalidArgument,
            format!(
                "model_spec.version_label: model {} is served by {}, which knows no labels",
                target.name,
                arm.upstream().protocol()
            ),
        )),
        _ => Responder::Model(About {
            model: model.clone(),
            aspect,
            target,
        }),
    }
}

/// Tells whether a label cannot be said to the model's server. Where the configuration names the
/// version, what the caller says of it does not count.
fn knows_no_labels(arm: &Arm) -> bool {
    let (_, version) = arm.served_as();
    let protocol = arm.upstream().protocol();
    version.is_empty() && matches!(protocol, Protocol::OipGrpc | Protocol::OipRest)
}

/// Tells whether a `HealthCheckRequest` is about a service that nobody has here. It is the same
/// message as a question about a model without a version.
fn is_strange(message: &Bytes) -> bool {
    let service = ModelRequest::read(message).map(|request| request.name);
    !service.is_ok_and(|service| SERVICES.contains(&&*service))
}

/// The services that the proxy speaks, and the empty name that stands for all.
const SERVICES: &[&str] = &[
    "",
    "inference.GRPCInferenceService",
    "tensorflow.serving.PredictionService",
    "tensorflow.serving.ModelService",
];

impl Target {
    /// Reads which model a message names, and which kinds of metadata it asks for where it does;
    /// `None` where it is not understood, or names none.
    fn of(protocol: Protocol, message: &Bytes) -> Option<(Self, Option<Vec<ByteString>>)> {
        let (target, fields) = if protocol == Protocol::OipGrpc {
            let asked = ModelRequest::read(message).ok()?;
            let target = Self {
                name: asked.name,
                version: asked.version,
                label: ByteString::new(),
            };
            (target, None)
        } else {
            let asked = control::Question::read(message).ok()?;
            let version = asked.version.map(|version| version.to_string().into());
            let target = Self {
                name: asked.model,
                version: version.unwrap_or_default(),
                label: asked.label,
            };
            (target, Some(asked.fields))
        };
        (!target.name.is_empty()).then_some((target, fields))
    }
}

/// Answers a question about the server: it stands for the servers of the models, which are all
/// that a caller of this protocol reaches here.
async fn of_server(route: &Route, protocol: Protocol, question: Question) -> Answer {
    match question {
        Question::Live => oip::live(protocol),
        Question::Ready => oip::ready(protocol, None, are_ready(route).await),
        Question::Server => oip::server(protocol),
        Question::Models => tfserving::models(route.models.keys().map(|name| &**name).collect()),
        Question::Health => oip::health(are_ready(route).await),
        // Those are about a model.
        Question::Model(..) => oip::live(protocol),
    }
}

async fn are_ready(route: &Route) -> bool {
    let arms = || route.models.values().flat_map(|model| model.answering());
    let upstreams: HashMap<&str, &Arc<Upstream>> = arms()
        .map(|arm| (arm.upstream().name(), arm.upstream()))
        .collect();
    let asked: FuturesUnordered<_> = upstreams
        .into_iter()
        .map(|(name, upstream)| async move { (name, is_ready(upstream, None).await) })
        .collect();
    let ready: HashMap<&str, bool> = asked.collect().await;
    let is_ready = |arm: &Arc<Arm>| ready.get(arm.upstream().name()).is_some_and(|ready| *ready);
    // A model is left without those of its arms that are away.
    (route.models.values()).all(|model| model.answering().any(is_ready))
}

/// Answers a question about a model, as its server knows it.
async fn of_model(protocol: Protocol, about: &About) -> Result<Answer, Error> {
    let About {
        model,
        aspect,
        target,
    } = about;
    Ok(match aspect {
        Aspect::Ready => {
            let ready = is_any_ready(model, target).await;
            oip::ready(protocol, Some(&target.name), ready)
        }
        Aspect::Status => {
            let ready = is_any_ready(model, target).await;
            let described = described(model, target).await?;
            tfserving::status(protocol, target, &described, ready)
        }
        Aspect::Metadata => {
            let described = described(model, target).await?;
            match protocol {
                Protocol::OipGrpc | Protocol::OipRest => {
                    oip::metadata(protocol, &target.name, &described)?
                }
                Protocol::TfservingGrpc | Protocol::TfservingRest => {
                    tfserving::metadata(protocol, target, &described)
                }
            }
        }
        Aspect::Internals => {
            return Err(Status::new(Code::Unimplemented, "the proxy does not know this").into());
        }
    })
}

/// Tells whether a model can be asked, which is so while one of its arms can be.
async fn is_any_ready(model: &Model, target: &Target) -> bool {
    let asked: FuturesUnordered<_> = (model.answering())
        .map(|arm| is_ready(arm.upstream(), Some(served(arm, target))))
        .collect();
    asked.any(std::future::ready).await
}

/// Returns what a caller's words mean to an arm's server.
fn served<'a>(arm: &'a Arm, target: &'a Target) -> Served<'a> {
    match arm.served_as() {
        (model, "") => Served {
            model,
            version: &target.version,
            label: &target.label,
        },
        // Whatever the caller asks for, it is served this one.
        (model, version) => Served {
            model,
            version,
            label: "",
        },
    }
}

/// Returns what is known of a model, by the first of its arms whose server says it.
async fn described(model: &Model, target: &Target) -> Result<Arc<Description>, Error> {
    let mut described = described_as(model.primary(), target).await;
    for arm in model.answering() {
        if described.is_ok() {
            break;
        }
        described = described_as(arm, target).await;
    }
    described
}

/// Returns what is known of an arm, and asks its server where nothing is, or where another version
/// is meant than the one that is known.
async fn described_as(arm: &Arm, target: &Target) -> Result<Arc<Description>, Error> {
    let served = served(arm, target);
    let (_, usual) = arm.served_as();
    if served.version == usual
        && served.label.is_empty()
        && let Some(known) = arm.learned().description()
    {
        return Ok(known);
    }
    Ok(Arc::new(describe(arm.upstream(), served).await?))
}

/// Reads the one message of a unary call to its end, and keeps in `read` what it was made of;
/// `None` where there is not exactly one, or one that is longer than questions are.
async fn message(
    headers: &HeaderMap,
    body: &mut Body,
    read: &mut Payload,
) -> Result<Option<Bytes>, body::Error> {
    let mut reader = FrameReader::new(MAX_QUESTION);
    while let Some(data) = body.data().await? {
        data.pieces().for_each(|piece| reader.push(piece.clone()));
        read.append(&data);
        if reader.front().is_err() || reader.beyond() > 0 {
            return Ok(None);
        }
    }
    let Ok(Some(frame)) = reader.next_frame() else {
        return Ok(None);
    };
    let Some(encoding) = Encoding::from_headers(headers) else {
        return Ok(None);
    };
    Ok(frame.into_message(encoding, MAX_QUESTION).ok())
}

/// A question is a name and a version; what is longer is not read.
const MAX_QUESTION: usize = 64 << 10;
