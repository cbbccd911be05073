//! The calls about servers and models: what they say is what the same calls say over gRPC.

use bytes::Bytes;
use bytestring::ByteString;
use outrigger_filters::inference::{Datatype, Shape, Signature, TensorSpec};
use serde_json::{Error, Map, Value, json};

use crate::codec::oip_grpc::control::{
    MAX_DIMENSIONS, MAX_ITEMS, ModelConfig, ModelMetadata, ServerMetadata, Statistics,
};

/// Reads what Triton answers to `GET /v2/models/{model}/config`.
///
/// # Errors
///
/// Fails where the body is no JSON object.
pub fn read_config(body: &[u8]) -> Result<ModelConfig, Error> {
    let config = object(body)?;
    let inputs = config.get("input").and_then(Value::as_array);
    let ragged = |input: &Value| {
        ["allow_ragged_batch", "is_shape_tensor"]
            .iter()
            .any(|flag| input[flag] == true)
    };
    let policy = config.get("model_transaction_policy");
    Ok(ModelConfig {
        max_batch_size: config.get("max_batch_size").map_or(0, number),
        sequence_batching: config
            .get("sequence_batching")
            .is_some_and(Value::is_object),
        decoupled: policy.is_some_and(|policy| policy["decoupled"] == true),
        ragged: inputs.is_some_and(|inputs| inputs.iter().any(ragged)),
    })
}

/// Reads the answer to `GET /v2/models/{model}`.
///
/// # Errors
///
/// Fails where the body is no JSON object.
pub fn read_metadata(body: &[u8]) -> Result<ModelMetadata, Error> {
    let metadata = object(body)?;
    let inputs = metadata.get("inputs").map_or(Some(Vec::new()), tensors);
    let outputs = metadata.get("outputs").map_or(Some(Vec::new()), tensors);
    let signature = match (inputs, outputs) {
        (Some(inputs), Some(outputs)) if !inputs.is_empty() => Some(Signature { inputs, outputs }),
        _ => None,
    };
    Ok(ModelMetadata {
        name: text(metadata.get("name")),
        versions: texts(metadata.get("versions")),
        platform: text(metadata.get("platform")),
        signature,
    })
}

/// Reads what Triton answers to `GET /v2/models/{model}/stats`; `None` where that does not speak of
/// statistics.
pub fn read_statistics(body: &[u8]) -> Option<Vec<Statistics>> {
    let answer = object(body).ok()?;
    let all = answer.get("model_stats")?.as_array()?;
    let read = |of: &Value| {
        let (success, fail) = (
            &of["inference_stats"]["success"],
            &of["inference_stats"]["fail"],
        );
        Statistics {
            version: text(of.get("version")),
            totals: [
                &of["inference_count"],
                &of["execution_count"],
                &success["count"],
                &success["ns"],
                &fail["count"],
                &fail["ns"],
            ]
            .map(number),
        }
    };
    Some(all.iter().take(MAX_ITEMS).map(read).collect())
}

/// Writes the answer to `GET /v2/models/{model}`. Where not even the number of a tensor's
/// dimensions is known, it says none.
pub fn write_metadata(metadata: &ModelMetadata) -> Bytes {
    let tensors = |tensors: fn(&Signature) -> &[TensorSpec]| -> Vec<Value> {
        let tensors = metadata.signature.as_ref().map_or(&[][..], tensors);
        tensors
            .iter()
            .map(|tensor| {
                let shape = tensor.shape.as_ref();
                json!({
                    "name": &*tensor.name,
                    "datatype": tensor.datatype.name(),
                    "shape": shape.map_or(&[][..], Shape::dimensions),
                })
            })
            .collect()
    };
    let versions: Vec<&str> = metadata.versions.iter().map(|version| &**version).collect();
    let body = json!({
        "name": &*metadata.name,
        "versions": versions,
        "platform": &*metadata.platform,
        "inputs": tensors(|signature| &signature.inputs),
        "outputs": tensors(|signature| &signature.outputs),
    });
    body.to_string().into()
}

/// Reads the answer to `GET /v2`.
///
/// # Errors
///
/// Fails where the body is no JSON object.
pub fn read_server(body: &[u8]) -> Result<ServerMetadata, Error> {
    let server = object(body)?;
    Ok(ServerMetadata {
        name: text(server.get("name")),
        version: text(server.get("version")),
        extensions: texts(server.get("extensions")),
    })
}

/// Writes the answer to `GET /v2`.
pub fn write_server(server: &ServerMetadata) -> Bytes {
    let extensions: Vec<&str> = server.extensions.iter().map(|name| &**name).collect();
    let body = json!({
        "name": &*server.name,
        "version": &*server.version,
        "extensions": extensions,
    });
    body.to_string().into()
}

fn object(body: &[u8]) -> Result<Map<String, Value>, Error> {
    serde_json::from_slice(body)
}

/// A number below zero is as good as none; protobuf's JSON may put a large one in quotes.
fn number(value: &Value) -> u64 {
    let quoted = || value.as_str().and_then(|number| number.parse().ok());
    value.as_u64().or_else(quoted).unwrap_or_default()
}

fn text(value: Option<&Value>) -> ByteString {
    value.and_then(Value::as_str).unwrap_or_default().into()
}

fn texts(value: Option<&Value>) -> Vec<ByteString> {
    let Some(Value::Array(texts)) = value else {
        return Vec::new();
    };
    let texts = texts.iter().take(MAX_ITEMS);
    texts.map(|value| text(Some(value))).collect()
}

/// Reads a list of tensors; `None` where one of them cannot be described.
fn tensors(value: &Value) -> Option<Vec<TensorSpec>> {
    match value {
        // Some servers write the fields that they leave out as null.
        Value::Null => Some(Vec::new()),
        Value::Array(tensors) if tensors.len() <= MAX_ITEMS => tensors.iter().map(tensor).collect(),
        _ => None,
    }
}

fn tensor(value: &Value) -> Option<TensorSpec> {
    let shape = match &value["shape"] {
        Value::Null => None,
        Value::Array(dimensions) if dimensions.len() <= MAX_DIMENSIONS => {
            let dimensions: Option<Vec<i64>> = dimensions.iter().map(Value::as_i64).collect();
            // A server that declares no shape writes the same as one whose tensor has no dimensions.
            Some(dimensions?).filter(|dimensions| !dimensions.is_empty())
        }
        _ => return None,
    };
    Some(TensorSpec {
        name: value["name"].as_str()?.into(),
        datatype: Datatype::from_name(value["datatype"].as_str()?)?,
        shape: shape.map(Shape::new),
    })
}

#[cfg(test)]
mod tests {
    use outrigger_filters::batch::{Batchable, Unbatchable};
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::codec::oip_grpc::control::metadata::tests::{any, digits};

    #[test]
    fn real_models_are_what_their_configuration_says() {
        let of = |body: &[u8]| read_config(body).expect("it is JSON").batchable();
        assert_eq!(
            of(include_bytes!("recorded/triton.digits_svm.config.json")),
            Batchable::Yes {
                max_batch_size: Some(128)
            }
        );
        assert_eq!(
            of(include_bytes!("recorded/triton.sequence.config.json")),
            Batchable::No(Unbatchable::Stateful)
        );
        assert_eq!(
            of(include_bytes!("recorded/triton.stream.config.json")),
            Batchable::No(Unbatchable::Decoupled)
        );
        assert_eq!(
            of(include_bytes!("recorded/triton.unbatched.config.json")),
            Batchable::No(Unbatchable::NoBatchDimension)
        );
    }

    #[test]
    fn ragged_inputs_and_shapes_as_values_take_no_batches() {
        for flag in ["allow_ragged_batch", "is_shape_tensor"] {
            let body = json!({ "max_batch_size": 8, "input": [{ flag: true }] }).to_string();
            let config = read_config(body.as_bytes()).expect("it is JSON");
            assert_eq!(config.batchable(), Batchable::No(Unbatchable::Ragged));
        }
    }

    /// Both protocols of one real server, read into the same words.
    #[test]
    fn rest_says_what_grpc_says() -> Result<(), Box<dyn std::error::Error>> {
        macro_rules! both {
            ($name:literal) => {
                (
                    read_metadata(include_bytes!(concat!(
                        "recorded/",
                        $name,
                        ".metadata.json"
                    )))?,
                    ModelMetadata::read(&Bytes::from_static(include_bytes!(concat!(
                        "../oip_grpc/recorded/",
                        $name,
                        ".metadata.bin"
                    ))))?,
                )
            };
        }
        for (rest, grpc) in [
            both!("triton.digits_svm"),
            both!("triton.types"),
            both!("triton.sequence"),
            both!("triton.stream"),
            both!("triton.unbatched"),
            both!("mlserver.digits"),
            both!("mlserver.digits_undeclared"),
            both!("kserve.digits"),
        ] {
            assert_eq!(rest, grpc);
        }
        let triton = include_bytes!("recorded/triton.server.json");
        assert!(read_server(triton)?.is_binary());
        let grpc = include_bytes!("../oip_grpc/recorded/triton.server.bin");
        let grpc = ServerMetadata::read(&Bytes::from_static(grpc))?;
        assert_eq!(read_server(triton)?, grpc);
        assert!(!read_server(include_bytes!("recorded/mlserver.server.json"))?.is_binary());
        assert!(!read_server(include_bytes!("recorded/kserve.server.json"))?.is_binary());
        Ok(())
    }

    #[test]
    fn a_server_counts_the_same_over_both() -> Result<(), crate::codec::Wire> {
        let rest = read_statistics(include_bytes!("recorded/triton.statistics.json"));
        let grpc = include_bytes!("../oip_grpc/recorded/triton.statistics.bin");
        let grpc = Statistics::read_all(&Bytes::from_static(grpc))?;
        assert_eq!(rest, Some(grpc));
        for strange in ["{}", "[]", r#"{"model_stats": 1}"#, "<html>"] {
            assert_eq!(read_statistics(strange.as_bytes()), None);
        }
        let empty = read_statistics(br#"{"model_stats": [{}, 1]}"#);
        assert_eq!(empty, Some(vec![Statistics::default(); 2]));
        Ok(())
    }

    /// What a real server wrote is written in the same words, so that its clients read it.
    #[test]
    fn metadata_is_written_as_a_real_server_writes_it() {
        let triton = include_bytes!("recorded/triton.digits_svm.metadata.json");
        let written: Value = serde_json::from_slice(&write_metadata(&digits())).expect("JSON");
        let real: Value = serde_json::from_slice(triton).expect("JSON");
        assert_eq!(written, real);
    }

    #[test]
    fn explicit_nulls_say_nothing() {
        let body = br#"{"name": "m", "versions": null, "inputs": null, "outputs": null}"#;
        let metadata = read_metadata(body).expect("it is JSON");
        assert_eq!(metadata.signature, None);
        assert!(metadata.versions.is_empty());
    }

    #[test]
    fn a_tensor_that_cannot_be_described_takes_the_signature_with_it() {
        for tensor in [
            json!({ "name": "x", "datatype": "FP8", "shape": [1] }),
            json!({ "name": "x", "datatype": "FP32", "shape": [1.5] }),
            json!({ "name": "x", "datatype": "FP32", "shape": vec![1; 65] }),
            json!({ "datatype": "FP32", "shape": [1] }),
            json!(1),
        ] {
            let fine = json!({ "name": "y", "datatype": "FP32" });
            let body = json!({ "inputs": [fine], "outputs": [tensor] }).to_string();
            let metadata = read_metadata(body.as_bytes()).expect("it is JSON");
            assert_eq!(metadata.signature, None, "{body}");
        }
    }

    #[test]
    fn what_is_no_object_is_an_error() {
        for body in ["", "[]", "null", "{", "<html>"] {
            assert!(read_metadata(body.as_bytes()).is_err());
            assert!(read_config(body.as_bytes()).is_err());
            assert!(read_server(body.as_bytes()).is_err());
        }
    }

    proptest! {
        #[test]
        fn metadata_that_is_written_is_read(metadata in any()) {
            prop_assert_eq!(read_metadata(&write_metadata(&metadata)).ok(), Some(metadata));
        }

        #[test]
        fn a_server_that_is_written_is_read(
            name: String,
            version: String,
            extensions in vec(".*", 0..4),
        ) {
            let server = ServerMetadata {
                name: name.into(),
                version: version.into(),
                extensions: extensions.into_iter().map(ByteString::from).collect(),
            };
            prop_assert_eq!(read_server(&write_server(&server)).ok(), Some(server));
        }
    }
}
