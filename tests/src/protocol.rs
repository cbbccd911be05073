//! The same inference in every protocol, written by hand, and its answer read again.

use std::collections::HashMap;

use bytes::Bytes;
use http::Request;
use outrigger_native::inference::ModelInferResponse;
use prost::Message;
use serde_json::{Value, json};

use crate::{
    model::{INFER, numbers, rows},
    wire::{Reply, Wire, framed, grpc},
};

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// The Open Inference Protocol over gRPC, raw contents.
    OipGrpc,
    /// The same over REST, all JSON.
    OipRest,
    /// The same over REST, tensors as bytes behind the JSON both ways.
    OipBinary,
    /// TensorFlow Serving's `Predict` over gRPC.
    TfservingGrpc,
    /// TensorFlow Serving's `:predict`, row by row.
    TfservingRest,
    /// The same, column by column.
    TfservingColumns,
}

impl Protocol {
    /// Every way to say it.
    pub const ALL: [Self; 6] = [
        Self::OipGrpc,
        Self::OipRest,
        Self::OipBinary,
        Self::TfservingGrpc,
        Self::TfservingRest,
        Self::TfservingColumns,
    ];

    /// Makes a request of one FP32 input `input0` of one column, with these rows.
    ///
    /// # Panics
    ///
    /// When the model's name is no path.
    pub fn ask(self, model: &str, values: &[f32]) -> (Request<()>, Bytes) {
        let column: Vec<_> = values.iter().map(|value| [*value]).collect();
        let shape = [values.len(), 1];
        let data: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        match self {
            Self::OipGrpc => {
                let message = rows(model, values).encode_to_vec();
                (grpc(INFER), framed(&message))
            }
            Self::OipRest => {
                let input =
                    json!({"name": "input0", "datatype": "FP32", "shape": shape, "data": column});
                let body = json!({ "inputs": [input] });
                (post(&format!("/v2/models/{model}/infer")), text(&body))
            }
            Self::OipBinary => {
                let input = json!({
                    "name": "input0", "datatype": "FP32", "shape": shape,
                    "parameters": {"binary_data_size": data.len()},
                });
                let head = json!({"inputs": [input], "parameters": {"binary_data_output": true}})
                    .to_string();
                let mut request = post(&format!("/v2/models/{model}/infer"));
                let headers = request.headers_mut();
                headers.insert("inference-header-content-length", head.len().into());
                headers.insert(
                    "content-type",
                    "application/octet-stream".parse().expect("a type"),
                );
                (request, [head.as_bytes(), &data].concat().into())
            }
            Self::TfservingGrpc => {
                let message = predict(model, "input0", &shape, data).encode_to_vec();
                (grpc(PREDICT), framed(&message))
            }
            Self::TfservingRest => {
                let body = json!({ "instances": column });
                (post(&format!("/v1/models/{model}:predict")), text(&body))
            }
            Self::TfservingColumns => {
                let body = json!({"inputs": {"input0": column}});
                (post(&format!("/v1/models/{model}:predict")), text(&body))
            }
        }
    }

    /// Sends such a request.
    ///
    /// # Errors
    ///
    /// Fails when the stream was reset, or the connection ended.
    pub async fn send(self, wire: &Wire, model: &str, values: &[f32]) -> Result<Reply, h2::Error> {
        let (request, body) = self.ask(model, values);
        wire.exchange(request, &[body], None).await
    }

    /// Reads the rows of an answer's only output.
    ///
    /// # Panics
    ///
    /// When it is no good answer.
    pub fn read(self, reply: &Reply) -> Vec<f32> {
        let message = || {
            assert_eq!(reply.grpc_status(), Some("0"), "{reply:?}");
            reply.body.get(5..).expect("a message")
        };
        let json = || -> Value {
            assert!(reply.status.is_success(), "{reply:?}");
            serde_json::from_slice(&reply.body).expect("JSON")
        };
        match self {
            Self::OipGrpc => numbers(&ModelInferResponse::decode(message()).expect("an answer")),
            Self::OipRest => flat(&json()["outputs"][0]["data"]),
            Self::OipBinary => {
                let len = &reply.headers["inference-header-content-length"];
                let len: usize = len.to_str().expect("a number").parse().expect("a number");
                assert!(reply.status.is_success(), "{reply:?}");
                let (head, data) = reply.body.split_at(len);
                let head: Value = serde_json::from_slice(head).expect("JSON");
                let size = &head["outputs"][0]["parameters"]["binary_data_size"];
                assert_eq!(size, data.len(), "{head}");
                of_bytes(data)
            }
            Self::TfservingGrpc => {
                let response = PredictResponse::decode(message()).expect("an answer");
                let output = response.outputs.values().next().expect("an output");
                if output.tensor_content.is_empty() {
                    output.float_val.clone()
                } else {
                    of_bytes(&output.tensor_content)
                }
            }
            Self::TfservingRest => flat(&json()["predictions"]),
            Self::TfservingColumns => flat(&json()["outputs"]),
        }
    }
}

/// Makes a `Predict` request of one raw FP32 input.
pub fn predict(model: &str, input: &str, shape: &[usize], data: Vec<u8>) -> PredictRequest {
    let dim = shape.iter().map(|size| Dim {
        size: i64::try_from(*size).expect("few rows"),
    });
    let tensor = TensorProto {
        dtype: 1,
        tensor_shape: Some(TensorShapeProto { dim: dim.collect() }),
        tensor_content: data,
        ..TensorProto::default()
    };
    PredictRequest {
        model_spec: Some(ModelSpec {
            name: model.to_owned(),
            ..ModelSpec::default()
        }),
        inputs: HashMap::from([(input.to_owned(), tensor)]),
    }
}

fn post(path: &str) -> Request<()> {
    Request::post(format!("http://model.test{path}"))
        .version(http::Version::HTTP_2)
        .header("content-type", "application/json")
        .body(())
        .expect("a path")
}

fn text(json: &Value) -> Bytes {
    json.to_string().into()
}

fn flat(json: &Value) -> Vec<f32> {
    match json {
        Value::Array(items) => items.iter().flat_map(flat).collect(),
        Value::Object(fields) => fields.values().flat_map(flat).collect(),
        // Shortest texts, read as doubles, become the same FP32 again.
        other => vec![other.as_f64().expect("a number") as f32],
    }
}

fn of_bytes(data: &[u8]) -> Vec<f32> {
    data.as_chunks()
        .0
        .iter()
        .copied()
        .map(f32::from_le_bytes)
        .collect()
}

/// The path of TensorFlow Serving's inference.
pub const PREDICT: &str = "/tensorflow.serving.PredictionService/Predict";

/// `tensorflow.serving.PredictRequest`, as far as it is used here.
#[derive(Clone, PartialEq, Message)]
#[expect(missing_docs, reason = "the names are the protocol's own")]
pub struct PredictRequest {
    #[prost(message, optional, tag = "1")]
    pub model_spec: Option<ModelSpec>,
    #[prost(map = "string, message", tag = "2")]
    pub inputs: HashMap<String, TensorProto>,
}

/// `tensorflow.serving.PredictResponse`.
#[derive(Clone, PartialEq, Message)]
#[expect(missing_docs, reason = "the names are the protocol's own")]
pub struct PredictResponse {
    #[prost(map = "string, message", tag = "1")]
    pub outputs: HashMap<String, TensorProto>,
    #[prost(message, optional, tag = "2")]
    pub model_spec: Option<ModelSpec>,
}

/// `tensorflow.serving.ModelSpec`.
#[derive(Clone, PartialEq, Message)]
#[expect(missing_docs, reason = "the names are the protocol's own")]
pub struct ModelSpec {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, optional, tag = "2")]
    pub version: Option<i64>,
    #[prost(string, tag = "3")]
    pub signature_name: String,
    #[prost(string, tag = "4")]
    pub version_label: String,
}

/// `tensorflow.TensorProto`, as far as it is used here.
#[derive(Clone, PartialEq, Message)]
#[expect(missing_docs, reason = "the names are the protocol's own")]
pub struct TensorProto {
    #[prost(int32, tag = "1")]
    pub dtype: i32,
    #[prost(message, optional, tag = "2")]
    pub tensor_shape: Option<TensorShapeProto>,
    #[prost(bytes = "vec", tag = "4")]
    pub tensor_content: Vec<u8>,
    #[prost(float, repeated, tag = "5")]
    pub float_val: Vec<f32>,
    #[prost(bytes = "vec", repeated, tag = "8")]
    pub string_val: Vec<Vec<u8>>,
    #[prost(int64, repeated, tag = "10")]
    pub int64_val: Vec<i64>,
}

/// `tensorflow.TensorShapeProto`.
#[derive(Clone, PartialEq, Message)]
#[expect(missing_docs, reason = "the names are the protocol's own")]
pub struct TensorShapeProto {
    #[prost(message, repeated, tag = "2")]
    pub dim: Vec<Dim>,
}

/// `tensorflow.TensorShapeProto.Dim`.
#[derive(Clone, PartialEq, Message)]
#[expect(missing_docs, reason = "the names are the protocol's own")]
pub struct Dim {
    #[prost(int64, tag = "1")]
    pub size: i64,
}
