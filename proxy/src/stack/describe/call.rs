use bytestring::ByteString;
use http::{Method, Request};

use crate::{config::Protocol, detect::is_grpc};

/// A control call, as far as its head tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::stack) struct Call {
    /// What the caller speaks.
    pub(super) protocol: Protocol,
    pub(super) question: Question,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// Whether the server lives.
    Live,
    /// Whether it is ready.
    Ready,
    /// What it is.
    Server,
    /// Which models there are.
    Models,
    /// `grpc.health.v1.Health/Check`, which belongs to no protocol of models.
    Health,
    /// Something about one model; over gRPC the message names it.
    Model(Aspect, Option<Target>),
}

/// What is asked about a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aspect {
    /// Whether it is ready.
    Ready,
    /// What it takes and gives.
    Metadata,
    /// What TensorFlow Serving calls its status: how far each version is.
    Status,
    /// How its server is told to run it, or has run it: nothing that another protocol could say.
    Internals,
}

/// Which model is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) name: ByteString,
    /// Nothing where the server may choose.
    pub(super) version: ByteString,
    pub(super) label: ByteString,
}

impl Call {
    /// Knows a control call by its method and path.
    pub(in crate::stack) fn detect<B>(request: &Request<B>) -> Option<Self> {
        let path = request.uri().path();
        match *request.method() {
            Method::GET => rest(path),
            Method::POST if is_grpc(request.headers()) => grpc(path),
            _ => None,
        }
    }
}

fn grpc(path: &str) -> Option<Call> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    let (protocol, question) = match (service, method) {
        ("inference.GRPCInferenceService", method) => {
            let question = match method {
                "ServerLive" => Question::Live,
                "ServerReady" => Question::Ready,
                "ServerMetadata" => Question::Server,
                "ModelReady" => Question::Model(Aspect::Ready, None),
                "ModelMetadata" => Question::Model(Aspect::Metadata, None),
                "ModelConfig" | "ModelStatistics" => Question::Model(Aspect::Internals, None),
                _ => return None,
            };
            (Protocol::OipGrpc, question)
        }
        ("tensorflow.serving.PredictionService", "GetModelMetadata") => (
            Protocol::TfservingGrpc,
            Question::Model(Aspect::Metadata, None),
        ),
        ("tensorflow.serving.ModelService", "GetModelStatus") => (
            Protocol::TfservingGrpc,
            Question::Model(Aspect::Status, None),
        ),
        // Whatever stands here for the protocol: both are framed alike.
        ("grpc.health.v1.Health", "Check") => (Protocol::OipGrpc, Question::Health),
        _ => return None,
    };
    Some(Call { protocol, question })
}

fn rest(path: &str) -> Option<Call> {
    let mut segments = path.strip_prefix('/')?.split('/');
    let protocol = match segments.next()? {
        "v2" => Protocol::OipRest,
        "v1" => Protocol::TfservingRest,
        _ => return None,
    };
    // Six is one more than the longest has.
    let segments: Vec<&str> = segments.take(6).collect();
    let question = match (protocol, segments.as_slice()) {
        (Protocol::OipRest, []) => Question::Server,
        (Protocol::OipRest, ["health", "live"]) => Question::Live,
        (Protocol::OipRest, ["health", "ready"]) => Question::Ready,
        (Protocol::OipRest, ["models", name, rest @ ..]) => {
            let (version, rest) = match rest {
                ["versions", version, rest @ ..] => (*version, rest),
                rest => ("", rest),
            };
            let aspect = match rest {
                [] => Aspect::Metadata,
                ["ready"] => Aspect::Ready,
                ["config" | "stats"] => Aspect::Internals,
                _ => return None,
            };
            Question::Model(aspect, Some(Target::read(name, version, "")?))
        }
        (Protocol::TfservingRest, ["models"]) => Question::Models,
        // A colon stands before a verb, which is no question about the model.
        (Protocol::TfservingRest, ["models", name, rest @ ..]) if !path.contains(':') => {
            let (version, label, rest) = match rest {
                ["versions", version, rest @ ..] => (*version, "", rest),
                ["labels", label, rest @ ..] => ("", *label, rest),
                rest => ("", "", rest),
            };
            let aspect = match rest {
                [] => Aspect::Status,
                ["metadata"] => Aspect::Metadata,
                _ => return None,
            };
            Question::Model(aspect, Some(Target::read(name, version, label)?))
        }
        _ => return None,
    };
    Some(Call { protocol, question })
}

impl Target {
    fn read(name: &str, version: &str, label: &str) -> Option<Self> {
        Some(Self {
            name: decode(name)?,
            version: decode(version)?,
            label: decode(label)?,
        })
    }
}

/// Reads a segment of a path; `None` where it is not in the encoding, or not UTF-8.
fn decode(segment: &str) -> Option<ByteString> {
    if !segment.contains('%') {
        return Some(segment.into());
    }
    let mut text = Vec::with_capacity(segment.len());
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            text.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        text.push(u8::try_from(high << 4 | low).ok()?);
    }
    String::from_utf8(text).ok().map(ByteString::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(path: &str) -> Option<Call> {
        Call::detect(&Request::get(path).body(()).unwrap())
    }

    fn post(path: &str, content_type: &str) -> Option<Call> {
        let request = Request::post(path).header("content-type", content_type);
        Call::detect(&request.body(()).unwrap())
    }

    fn of_model(aspect: Aspect, name: &str, version: &str, label: &str) -> Question {
        let [name, version, label] = [name, version, label].map(ByteString::from);
        let target = Target {
            name,
            version,
            label,
        };
        Question::Model(aspect, Some(target))
    }

    #[test]
    fn questions_of_the_open_inference_protocol_are_known_by_their_path() {
        for (path, question) in [
            ("/v2", Question::Server),
            ("/v2?x=1", Question::Server),
            ("/v2/health/live", Question::Live),
            ("/v2/health/ready", Question::Ready),
            ("/v2/models/m", of_model(Aspect::Metadata, "m", "", "")),
            ("/v2/models/m/ready", of_model(Aspect::Ready, "m", "", "")),
            (
                "/v2/models/m/config",
                of_model(Aspect::Internals, "m", "", ""),
            ),
            (
                "/v2/models/a%2Fb%C3%BC/versions/v%201/ready",
                of_model(Aspect::Ready, "a/bü", "v 1", ""),
            ),
        ] {
            let protocol = Protocol::OipRest;
            assert_eq!(get(path), Some(Call { protocol, question }), "{path}");
        }
    }

    #[test]
    fn questions_of_tensorflow_serving_are_known_by_their_path() {
        for (path, question) in [
            ("/v1/models", Question::Models),
            ("/v1/models/m", of_model(Aspect::Status, "m", "", "")),
            (
                "/v1/models/m/versions/3",
                of_model(Aspect::Status, "m", "3", ""),
            ),
            (
                "/v1/models/m/labels/stable/metadata",
                of_model(Aspect::Metadata, "m", "", "stable"),
            ),
        ] {
            let protocol = Protocol::TfservingRest;
            assert_eq!(get(path), Some(Call { protocol, question }), "{path}");
        }
    }

    #[test]
    fn questions_over_grpc_are_known_by_their_method() {
        let of = |path| post(path, "application/grpc").map(|call| (call.protocol, call.question));
        let ready = Question::Model(Aspect::Ready, None);
        let metadata = Question::Model(Aspect::Metadata, None);
        assert_eq!(
            of("/inference.GRPCInferenceService/ModelReady"),
            Some((Protocol::OipGrpc, ready))
        );
        assert_eq!(
            of("/tensorflow.serving.PredictionService/GetModelMetadata"),
            Some((Protocol::TfservingGrpc, metadata))
        );
        assert_eq!(
            of("/grpc.health.v1.Health/Check").map(|(_, question)| question),
            Some(Question::Health)
        );
    }

    #[test]
    fn whatever_else_there_is_passes() {
        for path in [
            "/",
            "/v2/",
            "/v2/models",
            "/v2/models/m/",
            "/v2/models/m/infer",
            "/v2/models/m/versions",
            "/v2/models/m/ready/now",
            "/v2/models/%ff",
            "/v2/models/%f",
            "/v2/models/m/versions/1/ready/x/y/z",
            "/v2/repository/index",
            "/v1/models/m:predict",
            "/v1/models/m/metadata/x",
            "/v3/models/m",
            "/metrics",
        ] {
            assert_eq!(get(path), None, "{path}");
        }
        let ready = "/inference.GRPCInferenceService/ModelReady";
        assert_eq!(get(ready), None);
        assert_eq!(post(ready, "application/grpc-web"), None);
        assert_eq!(post("/v2/models/m", "application/json"), None);
        for path in [
            "/inference.GRPCInferenceService/ModelInfer",
            "/inference.GRPCInferenceService/RepositoryIndex",
            "/tensorflow.serving.ModelService/HandleReloadConfigRequest",
            "/grpc.health.v1.Health/Watch",
        ] {
            assert_eq!(post(path, "application/grpc"), None, "{path}");
        }
    }
}
