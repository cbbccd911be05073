//! Which requests are inference calls: known by their path, in every supported protocol.

use std::borrow::Cow;

use bytestring::ByteString;
use http::{HeaderMap, Method as HttpMethod, Request, header};
use outrigger_filters::inference::Method;

use crate::config::Protocol;

/// What a request asks for, as far as its head tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// An inference.
    Infer(Inference),
    /// Anything else: it is passed on as it is.
    Other,
}

/// An inference call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inference {
    /// What the caller speaks.
    pub protocol: Protocol,
    /// What is asked of the model.
    pub method: Method,
    /// The model, where the path names it: always in REST, never in gRPC.
    pub target: Option<Target>,
    /// Whether there is a query, which none of the protocols has: it may mean anything to the
    /// server.
    pub query: bool,
}

/// A model as a path names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// Its name.
    pub model: ByteString,
    /// The version, or nothing.
    pub version: ByteString,
    /// The label of a version, or nothing.
    pub label: ByteString,
}

impl Call {
    /// Looks at a request's head.
    pub fn detect<B>(request: &Request<B>) -> Self {
        if request.method() != HttpMethod::POST {
            return Self::Other;
        }
        let path = request.uri().path();
        let found = if is_grpc(request.headers()) {
            GRPC.iter()
                .find(|(name, ..)| *name == path)
                .map(|(_, protocol, method)| Inference {
                    protocol: *protocol,
                    method: *method,
                    target: None,
                    query: false,
                })
        } else if let Some(rest) = path.strip_prefix("/v2/models/") {
            oip_rest(rest)
        } else if let Some(rest) = path.strip_prefix("/v1/models/") {
            tfserving_rest(rest)
        } else {
            None
        };
        found.map_or(Self::Other, |call| {
            let query = request.uri().query().is_some();
            Self::Infer(Inference { query, ..call })
        })
    }
}

/// `{model}[/versions/{version}]/infer`
fn oip_rest(path: &str) -> Option<Inference> {
    let path = path.strip_suffix("/infer")?;
    let (model, version) = match path.split_once('/') {
        None => (path, ""),
        Some((model, rest)) => (model, rest.strip_prefix("versions/")?),
    };
    if path.ends_with('/') {
        return None;
    }
    Some(Inference {
        protocol: Protocol::OipRest,
        method: Method::Infer,
        target: Some(Target {
            model: segment(model)?,
            version: segment(version)?,
            label: ByteString::new(),
        }),
        query: false,
    })
}

/// `{model}[/versions/{version}|/labels/{label}]:{verb}`
fn tfserving_rest(path: &str) -> Option<Inference> {
    let (path, verb) = path.rsplit_once(':')?;
    let method = match verb {
        "predict" => Method::Infer,
        "classify" => Method::Classify,
        "regress" => Method::Regress,
        _ => return None,
    };
    let (model, version, label) = match path.split_once('/') {
        None => (path, "", ""),
        Some((model, rest)) => match (rest.strip_prefix("versions/"), rest.strip_prefix("labels/"))
        {
            (Some(version), _) if !version.is_empty() => (model, version, ""),
            (_, Some(label)) if !label.is_empty() => (model, "", label),
            _ => return None,
        },
    };
    Some(Inference {
        protocol: Protocol::TfservingRest,
        method,
        target: Some(Target {
            model: segment(model).filter(|model| !model.is_empty())?,
            version: segment(version)?,
            label: segment(label)?,
        }),
        query: false,
    })
}

/// Reads one segment of a path; `None` where it is several, or no text.
fn segment(text: &str) -> Option<ByteString> {
    if text.contains('/') {
        return None;
    }
    unescaped(text)
}

/// Reads text with bytes that are written as `%` and two digits; `None` where it is no text.
pub(crate) fn unescaped(text: &str) -> Option<ByteString> {
    if !text.contains('%') {
        return Some(text.into());
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(if byte == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            let (high, low) = (digit()?, digit()?);
            u8::try_from(high * 16 + low).ok()?
        } else {
            byte
        });
    }
    String::from_utf8(decoded).ok().map(Into::into)
}

/// Writes one segment of a path.
pub(crate) fn escaped(text: &str) -> Cow<'_, str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=@".contains(&byte);
    if text.bytes().all(plain) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len() * 3);
    for byte in text.bytes() {
        if plain(byte) {
            escaped.push(byte.into());
        } else {
            // Writing into a string cannot fail.
            let _ = std::fmt::Write::write_fmt(&mut escaped, format_args!("%{byte:02X}"));
        }
    }
    escaped.into()
}

/// Tells whether a message is gRPC's (and not gRPC-Web's, whose frames differ).
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| {
        value
            .as_bytes()
            .strip_prefix(b"application/grpc")
            .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
    })
}

/// Returns the path of an inference over gRPC; the Open Inference Protocol knows but one.
pub(crate) fn grpc_path(protocol: Protocol, method: Method) -> &'static str {
    GRPC.iter()
        .find(|(_, of, does)| *of == protocol && *does == method)
        .map_or(OIP_GRPC_INFER, |(path, ..)| path)
}

/// The path of the inference call of the Open Inference Protocol.
pub const OIP_GRPC_INFER: &str = "/inference.GRPCInferenceService/ModelInfer";

const GRPC: [(&str, Protocol, Method); 4] = [
    (OIP_GRPC_INFER, Protocol::OipGrpc, Method::Infer),
    (
        "/tensorflow.serving.PredictionService/Predict",
        Protocol::TfservingGrpc,
        Method::Infer,
    ),
    (
        "/tensorflow.serving.PredictionService/Classify",
        Protocol::TfservingGrpc,
        Method::Classify,
    ),
    (
        "/tensorflow.serving.PredictionService/Regress",
        Protocol::TfservingGrpc,
        Method::Regress,
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn detect(path: &str, content_type: &str) -> Call {
        let request = Request::post(path)
            .header("content-type", content_type)
            .body(());
        Call::detect(&request.unwrap())
    }

    fn rest(path: &str) -> Option<(Protocol, Method, [String; 3])> {
        match detect(path, "application/json") {
            Call::Infer(call) => {
                let Target {
                    model,
                    version,
                    label,
                } = call.target.unwrap();
                let target = [model, version, label].map(|text| text.to_string());
                Some((call.protocol, call.method, target))
            }
            Call::Other => None,
        }
    }

    #[test]
    fn only_unary_inference_over_grpc_is_claimed() {
        let infer = |protocol, method| {
            Call::Infer(Inference {
                protocol,
                method,
                target: None,
                query: false,
            })
        };
        for (path, protocol, method) in GRPC {
            for content_type in ["application/grpc", "application/grpc+proto"] {
                assert_eq!(detect(path, content_type), infer(protocol, method));
            }
            for content_type in ["application/grpc-web", "application/json"] {
                assert_eq!(detect(path, content_type), Call::Other);
            }
            assert_eq!(grpc_path(protocol, method), path);
        }
        for path in [
            "/inference.GRPCInferenceService/ModelStreamInfer",
            "/tensorflow.serving.PredictionService/MultiInference",
            "/tensorflow.serving.PredictionService/GetModelMetadata",
        ] {
            assert_eq!(detect(path, "application/grpc"), Call::Other);
        }
    }

    #[test]
    fn a_path_of_rest_names_model_version_and_label() {
        let of = |protocol, method, target: [&str; 3]| {
            Some((protocol, method, target.map(str::to_owned)))
        };
        let oip = |target| of(Protocol::OipRest, Method::Infer, target);
        assert_eq!(rest("/v2/models/m/infer"), oip(["m", "", ""]));
        assert_eq!(rest("/v2/models/m/versions/7/infer"), oip(["m", "7", ""]));
        assert_eq!(rest("/v2/models/a%2Fb%20c/infer"), oip(["a/b c", "", ""]));
        let tfs = |method, target| of(Protocol::TfservingRest, method, target);
        assert_eq!(
            rest("/v1/models/m:predict"),
            tfs(Method::Infer, ["m", "", ""])
        );
        assert_eq!(
            rest("/v1/models/m:n/versions/7:classify"),
            tfs(Method::Classify, ["m:n", "7", ""])
        );
        assert_eq!(
            rest("/v1/models/m/labels/stable:regress"),
            tfs(Method::Regress, ["m", "", "stable"])
        );
    }

    #[test]
    fn other_paths_of_rest_are_not_claimed() {
        for path in [
            "/v2/models/m",
            "/v2/models/m/ready",
            "/v2/models/m/generate",
            "/v2/models//infer/infer",
            "/v2/models/m/versions/1/2/infer",
            "/v2/models/%zz/infer",
            "/v2/models/%ff/infer",
            "/v1/models/m:explain",
            "/v1/models/:predict",
            "/v1/models/m/versions/:predict",
            "/v1/models/m/other/1:predict",
            "/v1/models/m",
        ] {
            assert_eq!(rest(path), None, "{path}");
        }
        let asks = |path: &str| match detect(path, "application/json") {
            Call::Infer(call) => call.query,
            Call::Other => panic!("{path} is an inference"),
        };
        assert!(asks("/v2/models/m/infer?x=1") && !asks("/v2/models/m/infer"));
        let get = Request::get("/v2/models/m/infer").body(()).unwrap();
        assert_eq!(Call::detect(&get), Call::Other);
    }

    #[test]
    fn a_segment_is_read_as_it_was_written() {
        for name in ["m", "a/b c%", "größe", "x:y?z#"] {
            assert_eq!(segment(&escaped(name)).unwrap(), name);
        }
    }
}
