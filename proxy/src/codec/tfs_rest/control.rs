//! The resources that say what a model takes, and how far its versions are, both ways.

use bytestring::ByteString;
use outrigger_filters::inference::{Code, Shape, Signature, TensorSpec};
use serde_json::{Map, Value, json};

use super::Malformed;
use crate::codec::tfs_grpc::{
    control::{ModelMetadata, NamedSignature, State, VersionStatus},
    datatype,
};

/// Reads the answer to `GET /v1/models/{model}/metadata`.
///
/// A signature with a tensor whose datatype is not understood is left out, as is every detail that
/// is not acted upon.
///
/// # Errors
///
/// Fails where the body is not JSON, or has no signatures where they should be.
pub fn read_metadata(body: &[u8]) -> Result<ModelMetadata, Malformed> {
    let document = parse(body)?;
    let spec = document.get("model_spec");
    let signatures = document
        .pointer("/metadata/signature_def/signature_def")
        .and_then(Value::as_object)
        .ok_or_else(|| Malformed::new("metadata", "metadata.signature_def is not there"))?;
    let mut metadata = ModelMetadata {
        model: text(spec.and_then(|spec| spec.get("name"))),
        version: spec.and_then(|spec| integer(spec.get("version")?)),
        signatures: signatures
            .iter()
            .filter_map(|(name, signature)| {
                Some(NamedSignature {
                    name: name.as_str().into(),
                    method: text(signature.get("method_name")),
                    signature: Signature {
                        inputs: read_tensors(signature.get("inputs"))?,
                        outputs: read_tensors(signature.get("outputs"))?,
                    },
                })
            })
            .collect(),
    };
    metadata.signatures.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(metadata)
}

/// Writes the answer to `GET /v1/models/{model}/metadata`.
pub fn write_metadata(metadata: &ModelMetadata) -> Vec<u8> {
    let signatures: Map<_, _> = metadata
        .signatures
        .iter()
        .map(|named| {
            let signature = json!({
                "inputs": write_tensors(&named.signature.inputs),
                "outputs": write_tensors(&named.signature.outputs),
                "method_name": &*named.method,
                "defaults": {},
            });
            (named.name.to_string(), signature)
        })
        .collect();
    let mut spec = json!({"name": &*metadata.model, "signature_name": ""});
    if let (Some(version), Some(spec)) = (metadata.version, spec.as_object_mut()) {
        spec.insert("version".into(), version.to_string().into());
    }
    let document = json!({
        "model_spec": spec,
        "metadata": {"signature_def": {"signature_def": signatures}},
    });
    document.to_string().into()
}

/// Reads the answer to `GET /v1/models/{model}`.
///
/// # Errors
///
/// Fails where the body is not JSON, or has no list of versions.
pub fn read_status(body: &[u8]) -> Result<Vec<VersionStatus>, Malformed> {
    let document = parse(body)?;
    let all = document
        .get("model_version_status")
        .and_then(Value::as_array)
        .ok_or_else(|| {
            Malformed::new("model_version_status", "model_version_status is not there")
        })?;
    Ok(all
        .iter()
        .map(|status| {
            let state = status.get("state").and_then(Value::as_str);
            let error = status.pointer("/status/error_code").and_then(Value::as_str);
            VersionStatus {
                version: status.get("version").and_then(integer).unwrap_or(0),
                state: State::ALL
                    .into_iter()
                    .find(|known| Some(known.name()) == state)
                    .unwrap_or_default(),
                error_code: Code::ALL
                    .into_iter()
                    .find(|known| Some(known.name()) == error)
                    .unwrap_or(match error {
                        Some(_) => Code::Unknown,
                        None => Code::Ok,
                    }),
                error_message: text(status.pointer("/status/error_message")),
            }
        })
        .collect())
}

/// Writes the answer to `GET /v1/models/{model}`.
pub fn write_status(all: &[VersionStatus]) -> Vec<u8> {
    let all: Vec<_> = all
        .iter()
        .map(|status| {
            json!({
                "version": status.version.to_string(),
                "state": status.state.name(),
                "status": {
                    "error_code": status.error_code.name(),
                    "error_message": &*status.error_message,
                },
            })
        })
        .collect();
    json!({"model_version_status": all}).to_string().into()
}

/// Tells whether a model answers, from the answer to `GET /v1/models/{model}`: a version of it is
/// available, or a server of KServe says that it is ready.
pub fn ready(body: &[u8]) -> bool {
    if let Ok(all) = read_status(body) {
        return all.iter().any(|status| status.state == State::Available);
    }
    let Ok(document) = parse(body) else {
        return false;
    };
    match document.get("ready") {
        Some(Value::Bool(ready)) => *ready,
        // As old servers say it.
        Some(Value::String(ready)) => ready == "True",
        _ => false,
    }
}

fn parse(body: &[u8]) -> Result<Value, Malformed> {
    serde_json::from_slice(body)
        .map_err(|error| Malformed::new("", format!("JSON Parse error: {error}")))
}

/// `None` where a datatype is not understood.
fn read_tensors(tensors: Option<&Value>) -> Option<Vec<TensorSpec>> {
    let Some(tensors) = tensors.and_then(Value::as_object) else {
        return Some(Vec::new());
    };
    let mut specs = tensors
        .iter()
        .map(|(name, info)| {
            let datatype = datatype::from_name(info.get("dtype")?.as_str()?)?;
            Some(TensorSpec {
                name: name.as_str().into(),
                datatype,
                shape: read_shape(info.get("tensor_shape")),
            })
        })
        .collect::<Option<Vec<_>>>()?;
    specs.sort_by(|a, b| a.name.cmp(&b.name));
    Some(specs)
}

/// `None` where the rank is unknown.
fn read_shape(shape: Option<&Value>) -> Option<Shape> {
    let Some(shape) = shape else {
        return Some(Shape::default());
    };
    if shape.get("unknown_rank") == Some(&Value::Bool(true)) {
        return None;
    }
    let dimensions = shape.get("dim").and_then(Value::as_array);
    let sizes = dimensions
        .into_iter()
        .flatten()
        .map(|dimension| dimension.get("size").and_then(integer).unwrap_or(0));
    Some(Shape::new(sizes))
}

fn write_tensors(specs: &[TensorSpec]) -> Map<String, Value> {
    specs
        .iter()
        .map(|spec| {
            let shape = spec.shape.as_ref();
            let dimensions: Vec<_> = shape
                .map(Shape::dimensions)
                .unwrap_or_default()
                .iter()
                .map(|size| json!({"size": size.to_string(), "name": ""}))
                .collect();
            let info = json!({
                "dtype": datatype::name(spec.datatype),
                "tensor_shape": {"dim": dimensions, "unknown_rank": shape.is_none()},
                "name": &*spec.name,
            });
            (spec.name.to_string(), info)
        })
        .collect()
}

/// Reads an integer, which JSON made of protobuf writes as a string.
fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::String(text) => text.parse().ok(),
        value => value.as_i64(),
    }
}

fn text(value: Option<&Value>) -> ByteString {
    value.and_then(Value::as_str).unwrap_or_default().into()
}
